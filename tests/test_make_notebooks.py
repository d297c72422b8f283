"""The folder of student notebooks: complete, and never over what a student wrote."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from make_notebooks import NOTEBOOKS, make_notebooks, read
from nbformat import NotebookNode
from student import StudentError

ROOT = Path(__file__).resolve().parent.parent

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

(serve)=
# Serve a model

A sentence.

```{code-cell} ipython3
:tags: [live]

print(1 + 1)
```
"""


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of two chapters in two parts."""
    (tmp_path / "_config.yml").write_text("title: The Lab\n")
    (tmp_path / "book/serving").mkdir(parents=True)
    (tmp_path / "book/index.md").write_text("(index)=\n# The Lab\n")
    write_page(tmp_path, "serve", PAGE)
    write_page(tmp_path, "after", "(after)=\n# What comes after\n\nSee {ref}`serve`.\n")
    list_pages(tmp_path, "serve", "after")
    return tmp_path


def write_page(root: Path, slug: str, text: str) -> None:
    (root / f"book/serving/{slug}.md").write_text(text)


def list_pages(root: Path, *slugs: str) -> None:
    """Write the chapter list."""
    lines = ["format: jb-book", "root: book/index", "parts:", "  - caption: Serving"]
    lines += ["    chapters:", *(f"      - file: book/serving/{s}" for s in slugs)]
    (root / "_toc.yml").write_text("\n".join(lines) + "\n")


def folder(root: Path) -> Path:
    return root / NOTEBOOKS / "serving"


def names(root: Path) -> set[str]:
    """The files in the folder of the part."""
    return {path.name for path in folder(root).iterdir()}


def edit(path: Path, source: str = "mine = 1") -> str:
    """Do what a student does: add a cell, run it. Return the file's text."""
    notebook = nbformat.read(path, as_version=4)
    output = nbformat.v4.new_output("stream", text="ran")
    notebook.cells.append(nbformat.v4.new_code_cell(source, outputs=[output]))
    nbformat.write(notebook, path)
    return path.read_text()


def load(path: Path) -> NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_every_page_becomes_a_valid_notebook_and_the_index_lists_them(book):
    written = make_notebooks(book)
    top = book / NOTEBOOKS
    assert written == [
        top / "index.ipynb",
        top / "serving/serve.ipynb",
        top / "serving/after.ipynb",
    ]
    first, text, code, last = load(written[1]).cells
    assert first.source.startswith("# Serve a model\n")
    assert text.source == "A sentence."
    assert (code.source, code.metadata["tags"]) == ("print(1 + 1)", ["live"])
    assert (code.outputs, code.execution_count) == ([], None)
    assert "](../../_build/html/book/serving/serve.html)" in last.source
    assert load(written[0]).cells[1].source.splitlines()[2:] == [
        "| Serving | [Serve a model](serving/serve.ipynb) |",
        "| Serving | [What comes after](serving/after.ipynb) |",
    ]


def test_a_second_run_writes_the_same_bytes(book):
    before = {path: path.read_bytes() for path in make_notebooks(book)}
    said: list[str] = []
    assert {path: path.read_bytes() for path in make_notebooks(book, said)} == before
    assert said == []


def test_an_edited_notebook_stays_when_its_page_did_not_change(book):
    make_notebooks(book)
    mine = edit(folder(book) / "serve.ipynb")
    said: list[str] = []
    make_notebooks(book, said)
    assert (folder(book) / "serve.ipynb").read_text() == mine
    assert names(book) == {"serve.ipynb", "after.ipynb"}
    assert said == []


def test_an_edited_notebook_stays_and_the_new_edition_lies_beside_it(book):
    make_notebooks(book)
    mine = edit(folder(book) / "serve.ipynb")
    write_page(book, "serve", PAGE.replace("A sentence.", "A better sentence."))
    said: list[str] = []
    make_notebooks(book, said)
    assert (folder(book) / "serve.ipynb").read_text() == mine
    beside = folder(book) / "serve.new.ipynb"
    assert load(beside).cells[1].source == "A better sentence."
    assert len(said) == 1
    assert said[0].startswith("notebooks/serving/serve.ipynb was edited")
    assert "serve.new.ipynb" in said[0]
    # The next edition replaces the last, unless the student has gone on there.
    write_page(book, "serve", PAGE.replace("A sentence.", "The best sentence."))
    make_notebooks(book)
    assert load(beside).cells[1].source == "The best sentence."
    mine_too = edit(beside)
    write_page(book, "serve", PAGE.replace("A sentence.", "A last sentence."))
    make_notebooks(book)
    assert (folder(book) / "serve.ipynb").read_text() == mine
    assert beside.read_text() == mine_too
    last = folder(book) / "serve.new.new.ipynb"
    assert load(last).cells[1].source == "A last sentence."
    # A student who gives the edited ones up gets one notebook again.
    (folder(book) / "serve.ipynb").unlink()
    beside.unlink()
    make_notebooks(book)
    assert names(book) == {"serve.ipynb", "after.ipynb"}


@pytest.mark.parametrize("change", ["answer", "delete", "move", "text"])
def test_each_kind_of_edit_counts(book, change):
    make_notebooks(book)
    path = folder(book) / "serve.ipynb"
    notebook = load(path)
    match change:
        case "answer":
            notebook.cells[2].source = "print(2 + 2)"
        case "delete":
            del notebook.cells[2]
        case "move":
            notebook.cells.insert(0, notebook.cells.pop())
        case "text":
            notebook.cells[1].source += " A remark."
    nbformat.write(notebook, path)
    mine = path.read_text()
    write_page(book, "serve", PAGE.replace("A sentence.", "A better sentence."))
    make_notebooks(book)
    assert path.read_text() == mine
    assert (folder(book) / "serve.new.ipynb").exists()


def test_running_it_is_no_edit(book):
    """Outputs, numbers of runs, and the empty cell that a last Shift-Enter makes."""
    make_notebooks(book)
    path = folder(book) / "serve.ipynb"
    notebook = load(path)
    notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="2")]
    notebook.cells[2].execution_count = 7
    notebook.cells.append(nbformat.v4.new_code_cell(""))
    notebook.metadata["language_info"]["version"] = "3.11.9"
    nbformat.write(notebook, path)
    write_page(book, "serve", PAGE.replace("A sentence.", "A better sentence."))
    make_notebooks(book)
    assert load(path).cells[1].source == "A better sentence."
    assert names(book) == {"serve.ipynb", "after.ipynb"}


def test_a_notebook_from_an_older_program_without_ids_is_read(book):
    make_notebooks(book)
    path = folder(book) / "serve.ipynb"
    raw = json.loads(path.read_text())
    for cell in raw["cells"]:
        del cell["id"]
    raw["nbformat_minor"] = 4
    raw["cells"][2]["source"] = ["mine = 1"]
    path.write_text(json.dumps(raw))
    write_page(book, "serve", PAGE.replace("A sentence.", "A better sentence."))
    make_notebooks(book)
    assert json.loads(path.read_text()) == raw


def test_a_page_that_is_gone_takes_its_unedited_notebook_along(book):
    make_notebooks(book)
    list_pages(book, "serve")
    said: list[str] = []
    make_notebooks(book, said)
    assert names(book) == {"serve.ipynb"}
    assert said == [
        "notebooks/serving/after.ipynb was removed: no page makes it now, and it was "
        "unedited."
    ]
    (book / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    make_notebooks(book)
    assert not folder(book).exists()


def test_what_is_a_students_stays_when_the_page_is_gone(book):
    make_notebooks(book)
    mine = {
        "serve.ipynb": edit(folder(book) / "serve.ipynb"),
        "notes.txt": "mine",
        "progress.json": "{}",
        "own.ipynb": nbformat.writes(nbformat.v4.new_notebook()),
        "broken.ipynb": "{",
        # A copy of a generated notebook is the student's, edited or not.
        "after-Copy1.ipynb": (folder(book) / "after.ipynb").read_text(),
    }
    for name, text in mine.items():
        (folder(book) / name).write_text(text)
    progress = book / NOTEBOOKS / "progress.json"
    progress.write_text("{}")
    (book / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    make_notebooks(book)
    assert {p.name: p.read_text() for p in folder(book).iterdir()} == mine
    assert progress.read_text() == "{}"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5}']
)
def test_what_is_no_notebook_is_set_aside(book, text):
    make_notebooks(book)
    path = folder(book) / "serve.ipynb"
    for number, aside in enumerate(["serve.broken.ipynb", "serve.broken-2.ipynb"]):
        path.write_text(f"{text}{' ' * number}")
        said: list[str] = []
        make_notebooks(book, said)
        assert load(path).cells[1].source == "A sentence."
        assert (folder(book) / aside).read_text() == f"{text}{' ' * number}"
        assert said == [
            "notebooks/serving/serve.ipynb is no notebook: it was set aside as "
            f"{aside}."
        ]


def test_bytes_that_are_no_text_are_set_aside_too(book):
    make_notebooks(book)
    (folder(book) / "serve.ipynb").write_bytes(b"\xff\xfe\x00")
    make_notebooks(book)
    assert (folder(book) / "serve.broken.ipynb").read_bytes() == b"\xff\xfe\x00"


def test_a_notebook_of_the_same_name_from_elsewhere_is_kept(book):
    folder(book).mkdir(parents=True)
    path = folder(book) / "serve.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), path)
    mine = path.read_text()
    make_notebooks(book)
    assert path.read_text() == mine
    assert load(folder(book) / "serve.new.ipynb").cells[1].source == "A sentence."


def test_faults_of_all_pages_are_told_and_nothing_is_written(book):
    make_notebooks(book)
    before = {p: p.read_bytes() for p in folder(book).iterdir()}
    write_page(book, "serve", PAGE + "\n{fancy}`x`\n")
    write_page(book, "after", "# After\n\n{ref}`nowhere`\n")
    with pytest.raises(StudentError) as caught:
        make_notebooks(book)
    assert len(caught.value.faults) == 2
    assert {p: p.read_bytes() for p in folder(book).iterdir()} == before


def test_a_missing_page_is_an_error(book):
    (book / "book/serving/serve.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"serve\.md"):
        make_notebooks(book)


def test_the_trust_page_may_not_have_been_made_yet(book):
    """Binder makes the notebooks without the page that the book's build makes."""
    text = (book / "_toc.yml").read_text() + "      - file: book/reference/trust\n"
    (book / "_toc.yml").write_text(text)
    assert len(make_notebooks(book)) == 3
    (book / "book/reference").mkdir()
    (book / "book/reference/trust.md").write_text("(trust)=\n# Trust\n")
    assert len(make_notebooks(book)) == 4


def test_cleaning_does_not_touch_a_students_work():
    """Not the folder of notebooks, and git does not see it."""
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^clean:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    assert "notebooks" not in recipe
    assert "ipynb" not in recipe
    assert "/notebooks/" in (ROOT / ".gitignore").read_text().splitlines()
    assert Path("notebooks") == NOTEBOOKS


@pytest.mark.slow
def test_make_clean_keeps_the_notebooks(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("notebooks/serving/serve.ipynb", "_build/html/index.html"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("mine")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert not (tmp_path / "_build").exists()
    assert (tmp_path / "notebooks/serving/serve.ipynb").read_text() == "mine"


def test_reading_never_raises(tmp_path):
    (tmp_path / "x.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 9}')
    assert read(tmp_path / "x.ipynb") is None
