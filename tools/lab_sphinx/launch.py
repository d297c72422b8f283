"""Two buttons above a page with code: download its notebook, launch it in Binder.

Both give the student edition (tools/student.py). The theme's own buttons would give
the page itself: its launch button opens the Markdown file, and publishes an executed
notebook with every solution beside the page. So its setting is taken away from it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import nbformat
from make_notebooks import NOTEBOOKS, all_notebooks
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from student import Book, StudentError, notebook_path

INTERFACES = {"jupyterlab": "lab/tree", "classic": "tree"}


def prepare(app: Sphinx) -> None:
    """Read the book, and take the launch settings out of the theme's hands."""
    app.lab_book = Book(Path(app.srcdir))
    app.lab_launch = app.config.html_theme_options.pop("launch_buttons", None) or {}


def add_buttons(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put the buttons in front of the theme's own."""
    page = app.lab_book.pages.get(pagename)
    if page is None or pagename == app.lab_book.landing or not page.has_code:
        return
    path = (NOTEBOOKS / notebook_path(app.lab_book, pagename)).as_posix()
    buttons = [
        {
            "type": "link",
            "url": context["pathto"](path, 1),
            "tooltip": "Download the notebook of this page, without solutions",
            "icon": "fas fa-download",
            "label": "download-notebook-button",  # mending.py makes it a download
        }
    ]
    options = app.config.html_theme_options
    repository = options.get("repository_url") or ""
    binder = app.lab_launch.get("binderhub_url") or ""
    if repository and binder:
        branch = options.get("repository_branch") or "main"
        interface = app.lab_launch.get("notebook_interface", "jupyterlab")
        address = binder_url(binder, repository, branch, interface, path)
        buttons.insert(
            0,
            {
                "type": "link",
                "url": address,
                "tooltip": "Launch the notebook of this page in Binder",
                "icon": "fas fa-rocket",
                "label": "launch-notebook-button",
            },
        )
    context["header_buttons"] = [*buttons, *context.get("header_buttons", [])]


def binder_url(
    binder: str, repository: str, branch: str, interface: str, path: str
) -> str:
    """The address at which Binder opens a file of the repository.

    Raises ExtensionError for an interface that is not known.
    """
    if interface not in INTERFACES:
        raise ExtensionError(
            f"launch_buttons: notebook_interface: {interface!r} is not known. "
            f"Write one of {', '.join(INTERFACES)} into _config.yml."
        )
    parts = urlsplit(repository.rstrip("/").removesuffix(".git"))
    name = parts.path.strip("/")
    if parts.hostname == "github.com":
        source = f"gh/{name}"
    elif parts.hostname == "gitlab.com":
        source = f"gl/{quote(name, safe='')}"
    else:
        source = f"git/{quote(repository, safe='')}"
    # A slash in a branch's name would be taken for a slash of the address.
    where = f"{binder.rstrip('/')}/v2/{source}/{quote(branch, safe='')}"
    return f"{where}?urlpath={INTERFACES[interface]}/{path}"


def write_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Write the notebooks that the download buttons give, and no other."""
    if exception or app.builder.format != "html":
        return
    folder = Path(app.outdir) / NOTEBOOKS
    shutil.rmtree(folder, ignore_errors=True)
    try:
        made = all_notebooks(app.lab_book, "download")
    except StudentError as error:
        raise ExtensionError(f"no student notebook:\n{error}") from error
    for page in app.lab_book.pages.values():
        path = notebook_path(app.lab_book, page.docname)
        if page.has_code and page.docname != app.lab_book.landing:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(made[path], target)
    # Earlier builds, or another extension, may have left pages with solutions there.
    for left in (Path(app.outdir) / "_sources").rglob("*.ipynb"):
        left.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks."""
    app.connect("builder-inited", prepare)
    app.connect("html-page-context", add_buttons, priority=600)
    app.connect("build-finished", write_notebooks, priority=910)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
