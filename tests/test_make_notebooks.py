"""The notebooks that Binder opens: every page, plain, without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from make_notebooks import make_notebooks

PAGE = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Serve a model

A sentence.

```{code-cell} ipython3
:tags: [live]

print(1 + 1)
```
"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of two pages, one of them in a folder."""
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n  - file: book/serving/serve\n"
    )
    for name in ("index", "serving/serve"):
        page = tmp_path / "book" / f"{name}.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(PAGE)
    return tmp_path


def test_every_page_becomes_a_valid_notebook_without_outputs(book):
    written = make_notebooks(book)
    folder = book / "_build/notebooks"
    assert written == [folder / "index.ipynb", folder / "serving/serve.ipynb"]
    for path in written:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        text, code = notebook.cells
        assert text.source == "# Serve a model\n\nA sentence."
        assert (code.source, code.metadata["tags"]) == ("print(1 + 1)", ["live"])
        assert (code.outputs, code.execution_count) == ([], None)
        assert notebook.metadata["kernelspec"]["name"] == "python3"


def test_a_page_that_is_gone_leaves_no_notebook(book):
    make_notebooks(book)
    (book / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    make_notebooks(book)
    assert not (book / "_build/notebooks/serving").exists()


def test_a_missing_page_is_an_error(book):
    (book / "book/serving/serve.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"serve\.md"):
        make_notebooks(book)
