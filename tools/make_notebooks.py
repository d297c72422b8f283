"""Write the student edition of every page into ``notebooks/``.

    python tools/make_notebooks.py

``book/serving/model-as-module.md`` becomes ``notebooks/serving/model-as-module.ipynb``
and ``notebooks/index.ipynb`` lists them all. Nothing that a student wrote is lost:

- a notebook whose cells are as they were generated is replaced (outputs go);
- one that was edited is kept, and a newer edition is written beside it, as
  ``<name>.new.ipynb``;
- a file that is no notebook any more is set aside, as ``<name>.broken.ipynb``;
- of a page that is gone, the notebook is removed unless it was edited.

Other files, ``progress.json`` for one, are not touched.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from student import (
    Book,
    Cell,
    StudentError,
    make_notebook,
    notebook_path,
    source_digest,
    student_notebook,
)

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = Path("notebooks")


def make_notebooks(root: Path, said: list[str] | None = None) -> list[Path]:
    """Write a notebook for each page of the book at ``root``; return their paths.

    Appends to ``said`` a sentence for each file that needed a decision. Raises
    StudentError with the faults of all pages, and then writes nothing; ValueError if
    the chapter list cannot be read.
    """
    said = [] if said is None else said
    folder = root / NOTEBOOKS
    written = [
        place(folder, folder / path, notebook, said)
        for path, notebook in all_notebooks(Book(root)).items()
    ]
    remove_leftovers(folder, set(written), said)
    return written


def all_notebooks(book: Book, edition: str = "local") -> dict[Path, NotebookNode]:
    """Every page's notebook by its path below the folder, the index first."""
    made, faults = {Path("index.ipynb"): index_notebook(book)}, []
    for docname in book.pages:
        if docname == book.landing:
            continue
        try:
            path = notebook_path(book, docname)
            made[path] = student_notebook(book, docname, edition)
        except StudentError as error:
            faults += error.faults
    if faults:
        raise StudentError(faults)
    return made


def index_notebook(book: Book) -> NotebookNode:
    """The table of the chapters, in the order of ``_toc.yml``."""
    rows = ["| part | notebook |", "|---|---|"]
    for chapter in book.chapters:
        page = book.pages.get(chapter.docname)
        if page is None or chapter.docname == book.landing:
            continue
        path = notebook_path(book, chapter.docname).as_posix()
        rows.append(f"| {chapter.part} | [{page.title}]({path}) |")
    text = (
        f"# {book.title}: the notebooks\n\n"
        "Each is the notebook of one page: its text and its cells, without outputs and "
        "without solutions. Open one and run it from the top; none needs another."
    )
    cells = [Cell("markdown", text), Cell("markdown", "\n".join(rows))]
    return make_notebook(cells, {"page": book.landing})


def place(folder: Path, path: Path, new: NotebookNode, said: list[str]) -> Path:
    """Write the notebook to ``path``, or beside it if a student has been there."""
    name = path.relative_to(folder.parent).as_posix()
    if path.exists():
        old = read(path)
        if old is None:
            aside = free_name(path.with_suffix(".broken.ipynb"))
            path.rename(aside)
            said.append(f"{name} is no notebook: it was set aside as {aside.name}.")
        elif is_edited(old):
            if origin(old) == origin(new):
                return path
            beside = path.with_suffix(".new.ipynb")
            said.append(
                f"{name} was edited, so it was kept. The page has changed since: "
                f"the new edition is {beside.name}."
            )
            return place(folder, beside, new, said)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = path.with_suffix(".part")
    nbformat.write(new, whole)
    os.replace(whole, path)
    return path


def remove_leftovers(folder: Path, current: set[Path], said: list[str]) -> None:
    """Remove generated notebooks that no page needs, unless they were edited."""
    for path in sorted(folder.rglob("*.ipynb")):
        if path in current or ".ipynb_checkpoints" in path.parts:
            continue
        notebook = read(path)
        # A copy that a student made has another name than the one it was given.
        ours = notebook is not None and generated_name(notebook) == base_name(path)
        if not ours or is_edited(notebook):
            continue
        path.unlink()
        name = path.relative_to(folder.parent).as_posix()
        said.append(f"{name} was removed: no page makes it now, and it was unedited.")
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


def read(path: Path) -> NotebookNode | None:
    """The notebook, or None if the file is not one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of cells without ids, from older programs
            notebook = nbformat.reads(path.read_text("utf-8"), as_version=4)
            nbformat.validate(notebook)
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError):
        return None
    return notebook


def origin(notebook: NotebookNode) -> str:
    """Digest of the cells as they were generated, or nothing."""
    return notebook.metadata.get("deploylab", {}).get("digest", "")


def is_edited(notebook: NotebookNode) -> bool:
    """Whether the cells are other than they were generated."""
    return origin(notebook) != source_digest(notebook.cells)


def generated_name(notebook: NotebookNode) -> str:
    """The name, without ending, that the notebook was generated under."""
    page = notebook.metadata.get("deploylab", {}).get("page", "")
    return page.rpartition("/")[2]


def base_name(path: Path) -> str:
    """The name of a notebook without its endings."""
    name = path.name.removesuffix(".ipynb")
    while name.endswith(".new"):
        name = name.removesuffix(".new")
    return name


def free_name(path: Path) -> Path:
    """The path, or with a number the first like it that is not taken."""
    number = 2
    free = path
    while free.exists():
        free = path.with_name(path.name.replace(".broken.", f".broken-{number}."))
        number += 1
    return free


def main() -> int:
    """Write them and say where; 1 if a page has no student edition."""
    said: list[str] = []
    try:
        written = make_notebooks(ROOT, said)
    except (StudentError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for line in said:
        print(line)
    print(f"{len(written)} notebooks are in {ROOT / NOTEBOOKS}; begin with index.ipynb")
    return 0


if __name__ == "__main__":
    sys.exit(main())
