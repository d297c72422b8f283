"""Check the rules of the house on the sources alone: no execution, no Sphinx.

    python tools/house.py [ROOT]

Prints each finding as file:line, what happened, and what to do. Exits 1 if there
is one.
"""

from __future__ import annotations

import ast
import subprocess
import symtable
import sys
from collections.abc import Iterator
from pathlib import Path

from pages import Cell, Finding, Page, pages_in_toc, pages_on_disk

# Pages that the build writes (tools/trust.py): a fresh checkout does not have them.
GENERATED = {"book/reference/trust"}

MAX_LINES = 25
MAX_WIDTH = 79
MAX_CLAIM_LINES = 3

# Any other tag is taken for a slip of the pen: `remove-cel` would show the cell.
TAGS = {
    "live": "outputs may differ between runs",
    "alone": "compares times, or would hold a pause against a version: no cell of "
    "another page is executed beside it",
    "claim": "a hidden check of what the prose says",
    "glue": "hands numbers to the prose",
    "remove-cell": "not shown; only for claims and glue",
    "raises-exception": "must raise; the traceback is shown",
    "stderr-ok": "may write to stderr, for instance a warning that is the lesson",
    "stub": "where a student writes; the page runs it as it is",
    "check": "the call that checks the answer",
    "solution": "folded on the page, and left out of the student notebook",
    "hide-input": "folded code",
    "hide-output": "folded output",
    "hide-cell": "folded cell",
    "remove-input": "output only",
    "remove-output": "code only",
}


HEADER = (
    "Begin the page with the jupytext and kernelspec (python3) header that the other "
    "pages have."
)


def check_house(root: Path, pages: list[Page]) -> list[Finding]:
    """All findings on the sources of the book at ``root``."""
    findings = list(check_chapter_list(root))
    for page in pages:
        findings += check_page(page)
    findings += check_citations(root, pages)
    findings += check_no_notebooks(root)
    return findings


def check_chapter_list(root: Path) -> Iterator[Finding]:
    """Chapters on disk are those in ``_toc.yml``, and there is at least one."""
    try:
        landing, *chapters = pages_in_toc(root)
    except ValueError as error:
        yield Finding("_toc.yml", 1, f"cannot be read: {error}", "Mend the file.")
        return
    if not chapters:
        yield Finding(
            "_toc.yml",
            1,
            "the chapter list is empty",
            "List at least one chapter: a book without chapters passes every check.",
        )
    on_disk = pages_on_disk(root)
    for name in on_disk:
        if name not in (landing, *chapters):
            yield Finding(
                f"{name}.md",
                1,
                "this chapter is on disk but not in _toc.yml, so no reader finds it",
                f"Add `file: {name}` to _toc.yml, or delete the file.",
            )
    for name in (landing, *chapters):
        if name not in on_disk and name not in GENERATED:
            yield Finding(
                "_toc.yml",
                line_of(root / "_toc.yml", name),
                f"{name} is listed, but {name}.md is not on disk",
                "Write the chapter, or take it off the list.",
            )


def check_page(page: Page) -> Iterator[Finding]:
    """Rules for one page: header, nested cells, and each cell."""
    try:
        cells = page.cells
    except ValueError as error:
        yield Finding(page.path, 1, f"cannot be read: {error}", HEADER)
        return
    if cells and not page.has_header:
        yield Finding(
            page.path,
            1,
            f"the page has {len(cells)} code cells but no notebook header, "
            "so none of them would run",
            HEADER,
        )
    for part in page.parts:
        if getattr(part, "nested", False) and part.name in ("code-cell", "raw-cell"):
            yield Finding(
                page.path,
                part.line,
                f"a {part.name} inside another block does not run",
                "Move it to the top level; exercises and solutions have gated forms "
                "(solution-start, solution-end).",
            )
    for cell in cells:
        for line, what, do in check_cell(cell):
            yield Finding(page.path, line, what, do)


def check_cell(cell: Cell) -> Iterator[tuple[int, str, str]]:
    """Rules for one cell, as (line, what happened, what to do)."""
    lines = cell.source.splitlines()
    if len(lines) > MAX_LINES:
        yield (
            cell.line,
            f"the cell has {len(lines)} lines",
            f"Split it, one job a cell: aim for 10 lines, at most {MAX_LINES}.",
        )
    for offset, line in enumerate(lines):
        if len(line) > MAX_WIDTH:
            yield (
                cell.line + offset,
                f"the line has {len(line)} characters",
                f"Break it: the page is {MAX_WIDTH} characters wide.",
            )
    for tag in sorted(cell.tags - TAGS.keys()):
        yield (
            cell.line,
            f"the tag {tag!r} is not known",
            f"Use one of {', '.join(TAGS)}, or add it to TAGS in tools/house.py.",
        )
    yield from check_hidden(cell)


def check_hidden(cell: Cell) -> Iterator[tuple[int, str, str]]:
    """A hidden cell is a claim or glue; it defines nothing that a reader lacks."""
    claim = "claim" in cell.tags
    if "remove-cell" not in cell.tags and not claim:
        return
    if "remove-cell" not in cell.tags:
        yield (cell.line, "a claim cell is shown", "Tag it remove-cell as well.")
    if not cell.tags & {"claim", "glue"}:
        yield (
            cell.line,
            "a hidden cell is neither a claim nor glue",
            "Show it, or tag it claim or glue: a reader who types the visible cells "
            "must get the page.",
        )
    if claim and len(cell.source.splitlines()) > MAX_CLAIM_LINES:
        yield (
            cell.line,
            f"the claim has {len(cell.source.splitlines())} lines",
            f"At most {MAX_CLAIM_LINES}: compute in a visible cell, assert here.",
        )
    try:
        tree = ast.parse(cell.source)
        table = symtable.symtable(cell.source, "cell", "exec")
    except SyntaxError as error:
        yield (cell.line, f"a hidden cell is not plain Python: {error.msg}", "Mend it.")
        return
    names = [
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_assigned() or symbol.is_imported()
    ]
    if names:
        yield (
            cell.line,
            f"a hidden cell defines {', '.join(sorted(names))}",
            "Define it in a visible cell, or write it into the assert.",
        )
    if claim and not any(map(is_check, ast.walk(tree))):
        yield (
            cell.line,
            "the claim checks nothing",
            "Assert the relation that the sentence states.",
        )


def is_check(node: ast.AST) -> bool:
    """An assert statement, or a call such as ``np.testing.assert_allclose``."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        return name.startswith("assert")
    return isinstance(node, ast.Assert)


def check_citations(root: Path, pages: list[Page]) -> Iterator[Finding]:
    """Every cited key is in ``references.bib``, and every entry is cited."""
    from pybtex.database import parse_file
    from pybtex.exceptions import PybtexError

    bibliography = root / "references.bib"
    try:
        entries = set(parse_file(str(bibliography)).entries.keys())
    except (OSError, PybtexError) as error:
        yield Finding(bibliography.name, 1, f"cannot be read: {error}", "Mend it.")
        return
    cited = set()
    for page in pages:
        for part in page.parts:
            if part.name.split(":")[0] in ("cite", "footcite"):
                keys = {key.split("}")[-1].strip() for key in part.text.split(",")}
                cited |= keys
                for key in sorted(keys - entries):
                    yield Finding(
                        page.path,
                        part.line,
                        f"{key!r} is cited, but references.bib has no such entry",
                        "Add the entry, or mend the key.",
                    )
    for key in sorted(entries - cited):
        yield Finding(
            bibliography.name,
            line_of(bibliography, f"{{{key},"),
            f"no page cites {key!r}",
            "Cite it, or delete the entry.",
        )


def check_no_notebooks(root: Path) -> Iterator[Finding]:
    """No ``.ipynb`` is tracked: outputs come from the build alone."""
    listed = subprocess.run(
        ["git", "-C", str(root), "ls-files", "*.ipynb"],
        capture_output=True,
        text=True,
    )
    # Outside a repository (a downloaded archive) look at the sources instead.
    names = listed.stdout.splitlines() or [
        path.relative_to(root).as_posix() for path in (root / "book").rglob("*.ipynb")
    ]
    for name in names:
        yield Finding(
            name,
            1,
            "a notebook is among the sources",
            "Remove it (git rm): pages are Markdown, notebooks are generated.",
        )


def line_of(path: Path, text: str) -> int:
    """Line (from 1) of the first occurrence of ``text``; 1 if there is none."""
    lines = path.read_text("utf-8").splitlines()
    return next((i for i, line in enumerate(lines, 1) if text in line), 1)


def main() -> int:
    """Print the findings; 0 if there are none."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    pages = [Page(root, name) for name in pages_on_disk(root)]
    findings = check_house(root, pages)
    for finding in findings:
        print(finding)
    print(f"house: {len(pages)} pages, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
