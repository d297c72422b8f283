"""Write each page of the book as a plain notebook, without outputs.

    python tools/make_notebooks.py

``book/serving/model-as-module.md`` becomes
``_build/notebooks/serving/model-as-module.ipynb``. The text is still the page's
Markdown, directives and solutions included: the student edition, which has
neither, is made by a later tool in this place.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import jupytext
from pages import pages_in_toc

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = Path("_build/notebooks")


def make_notebooks(root: Path) -> list[Path]:
    """Write a notebook for each page of the book at ``root``; return their paths.

    Earlier notebooks are removed: a renamed page leaves none behind. Raises
    ValueError if the chapter list cannot be read.
    """
    shutil.rmtree(root / NOTEBOOKS, ignore_errors=True)
    written = []
    for name in pages_in_toc(root):
        page = root / f"{name}.md"
        target = root / NOTEBOOKS / Path(name).relative_to("book")
        target = target.with_suffix(".ipynb")
        target.parent.mkdir(parents=True, exist_ok=True)
        jupytext.write(jupytext.read(page, fmt="md:myst"), target)
        written.append(target)
    return written


if __name__ == "__main__":
    written = make_notebooks(ROOT)
    print(f"{len(written)} notebooks are in {ROOT / NOTEBOOKS}")
