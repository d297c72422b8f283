"""Each rule of the house, broken in a copy of the fixture book, is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import house
import pytest
from pages import Page, pages_on_disk

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TESTS / "fixture_book", tmp_path / "book"))


def edit(path: Path, old: str, new: str) -> None:
    """Replace one passage that must be there: a fault that is not planted is none."""
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def found(root: Path) -> list[str]:
    """Findings as "file:line: what happened", without the advice."""
    pages = [Page(root, name) for name in pages_on_disk(root)]
    return [str(finding).splitlines()[0] for finding in house.check_house(root, pages)]


def test_clean_book_has_no_finding(book):
    assert found(book) == []


@pytest.mark.slow
def test_command_line_is_red_and_names_the_place(book):
    (book / "book" / "lost.md").write_text("# Lost\n")
    command = [sys.executable, str(TESTS.parent / "tools" / "house.py"), str(book)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "book/lost.md:1: this chapter is on disk but not in _toc.yml" in done.stdout
    (book / "book" / "lost.md").unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_chapter_on_disk_but_not_in_toc(book):
    edit(book / "_toc.yml", "  - file: book/serve\n", "")
    [finding] = found(book)
    assert finding.startswith("book/serve.md:1: this chapter is on disk but not in")


def test_chapter_in_toc_but_not_on_disk(book):
    edit(book / "_toc.yml", "book/serve", "book/serving")
    missing, lost = sorted(found(book))
    assert missing.startswith("_toc.yml:5: book/serving is listed, but")
    assert lost.startswith("book/serve.md:1: this chapter is on disk but not in")


def test_empty_chapter_list(book):
    (book / "_toc.yml").write_text("format: jb-book\nroot: book/index\n")
    assert "_toc.yml:1: the chapter list is empty" in found(book)


@pytest.mark.parametrize("text", ["", "format: jb-book\n", "a: [", "root: 3\n"])
def test_malformed_toc(book, text):
    (book / "_toc.yml").write_text(text)
    assert any(line.startswith("_toc.yml:1: cannot be read") for line in found(book))


def test_no_book_at_all(tmp_path):
    assert any("_toc.yml:1: cannot be read" in line for line in found(tmp_path))


@pytest.mark.parametrize(
    "cut",
    [
        "  text_representation:\n    extension: .md\n    format_name: myst\n",
        "    format_name: myst\n",
        "kernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\n",
    ],
)
def test_code_cells_without_header(book, cut):
    edit(book / "book" / "score.md", cut, "")
    assert found(book) == [
        "book/score.md:1: the page has 4 code cells but no notebook header, "
        "so none of them would run"
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  name: python3\n", ""),
        ("kernelspec:", "kernelspec: ["),
        (":tags: [raises-exception]", ":tags: [raises-exception"),
    ],
)
def test_page_that_cannot_be_read(book, old, new):
    edit(book / "book" / "score.md", old, new)
    [finding] = [line for line in found(book) if "score.md" in line]
    assert finding.startswith("book/score.md:1: cannot be read: ")


def test_page_without_cells_needs_no_header(book):
    assert not Page(book, "book/index").has_header
    assert found(book) == []


@pytest.mark.parametrize(
    "block",
    [
        "````{note}\n```{code-cell} ipython3\n1\n```\n````\n",
        ":::{note}\n```{code-cell} ipython3\n1\n```\n:::\n",
        "`````{note}\n````{tip}\n```{code-cell}\n1\n```\n````\n`````\n",
        "- item\n\n  ```{code-cell} ipython3\n  1\n  ```\n",
        "> ```{code-cell} ipython3\n> 1\n> ```\n",
    ],
)
def test_nested_cell(book, block):
    edit(book / "book" / "index.md", "It scores", f"{block}\nIt scores")
    [finding] = found(book)
    assert finding.startswith("book/index.md:")
    assert "a code-cell inside another block does not run" in finding


def test_cell_shown_as_text_is_no_cell(book):
    shown = "````md\n```{code-cell} ipython3\n1\n```\n````\n"
    edit(book / "book" / "index.md", "It scores", f"{shown}\nIt scores")
    assert found(book) == []


def test_cell_of_26_lines(book):
    page = book / "book" / "score.md"
    edit(page, "right = score(10)\n", "right = score(10)\n" + "#\n" * 21)
    assert found(book) == []
    edit(page, "right = score(10)\n", "right = score(10)\n#\n")
    assert found(book) == ["book/score.md:18: the cell has 26 lines"]


def test_line_of_80_characters(book):
    page = book / "book" / "score.md"
    edit(page, "assert right == 9", "assert right == 9" + " " * 62)
    assert found(book) == []
    edit(page, "assert right == 9", " " + "assert right == 9")
    assert "book/score.md:27: the line has 80 characters" in found(book)


@pytest.mark.parametrize(
    ("claim", "what"),
    [
        ("assert right\nassert right\nassert right\nassert right", "has 4 lines"),
        ("nine = 9\nassert right == nine", "defines nine"),
        ("import math\nassert right", "defines math"),
        ("for i in range(2):\n    assert right", "defines i"),
        ("assert (n := right)", "defines n"),
        ("def f(): ...\nassert right", "defines f"),
        ("right == 9", "the claim checks nothing"),
        ("%time assert right", "is not plain Python"),
    ],
)
def test_claim_cell(book, claim, what):
    edit(book / "book" / "score.md", "assert right == 9", claim)
    [finding] = found(book)
    assert finding.startswith("book/score.md:27: ")
    assert what in finding


@pytest.mark.parametrize(
    "claim",
    [
        "np.testing.assert_allclose(right, 9)",
        "assert all(n for n in range(1, 9))\nassert right == 9",
    ],
)
def test_claim_that_holds_to_the_rules(book, claim):
    edit(book / "book" / "score.md", "assert right == 9", claim)
    assert found(book) == []


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ("[claim]", "a claim cell is shown"),
        ("[remove-cell]", "a hidden cell is neither a claim nor glue"),
        ("[remove-cell, clam]", "the tag 'clam' is not known"),
        ("[remove-cell, claim, skip-execution]", "'skip-execution' is not known"),
    ],
)
def test_tags(book, tags, what):
    edit(book / "book" / "score.md", "[remove-cell, claim]", tags)
    assert any("book/score.md:27: " in line and what in line for line in found(book))


@pytest.mark.parametrize(
    "citation",
    [
        "{cite}`nobody-2020`",
        "{cite:p}`breiman-2001-forests,nobody-2020`",
        "```{note} Title {cite}`nobody-2020`\n```",
        "````{note}\n```{tip}\n{cite:t}`nobody-2020`\n```\n````",
        "| a |\n|---|\n| {cite}`nobody-2020` |",
    ],
)
def test_broken_citation(book, citation):
    edit(book / "book" / "index.md", "It scores", f"{citation}\n\nIt scores")
    [finding] = found(book)
    assert finding.startswith("book/index.md:")
    assert "'nobody-2020' is cited, but references.bib has no such entry" in finding


def test_entry_that_nobody_cites(book):
    bibliography = book / "references.bib"
    entry = "\n@misc{silent-1999,\n  title = {Silence},\n}\n"
    bibliography.write_text(bibliography.read_text() + entry)
    assert found(book) == ["references.bib:10: no page cites 'silent-1999'"]


@pytest.mark.parametrize("text", [None, "@misc{a, title = {A}}\n@misc{a,}", "@misc{"])
def test_bibliography_that_cannot_be_read(book, text):
    bibliography = book / "references.bib"
    bibliography.unlink() if text is None else bibliography.write_text(text)
    assert any("references.bib:1: cannot be read" in line for line in found(book))


def test_notebook_among_the_sources(book):
    (book / "book" / "score.ipynb").write_text("{}")
    assert found(book) == ["book/score.ipynb:1: a notebook is among the sources"]


def test_tracked_notebook(book):
    git = ["git", "-C", str(book)]
    (book / "demo.ipynb").write_text("{}")
    subprocess.run([*git, "init", "-q"], check=True)
    assert found(book) == []
    subprocess.run([*git, "add", "-f", "demo.ipynb"], check=True)
    assert found(book) == ["demo.ipynb:1: a notebook is among the sources"]


def test_real_book_keeps_the_rules():
    assert found(TESTS.parent) == []
