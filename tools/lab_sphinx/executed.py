"""Put executed pages into the book, and never execute one here.

``tools/build.py`` executes the pages. This half of the extension hands their
outputs to myst-nb, refuses a page whose executed notebook is missing or stale,
reads a page again when only its outputs changed, and proves at the end that every
page with code shows outputs from that one place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import myst_nb.sphinx_
import nbformat
from execute import executed_path
from myst_nb.core.execute.base import NotebookClientBase
from nbformat import NotebookNode
from pages import execution_key, shared_digest
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError

# What Sphinx knows of link targets, by kind.
LINKED = ("labels", "anonlabels", "terms", "objects")

# The glue directive's option that names the page which made the value.
GLUE_OF_ANOTHER_PAGE = re.compile(r"^:doc:", re.MULTILINE)

METHOD = "executed by tools/build.py"


class ExecutedPage(NotebookClientBase):
    """Gives myst-nb a page with the outputs that ``tools/build.py`` kept."""

    root: Path  # set when the extension is set up

    def start_client(self) -> None:
        """Copy the kept outputs into the notebook that is being rendered."""
        cells = [cell for cell in self.notebook.cells if cell.cell_type == "code"]
        if not cells:
            return
        docname = self.path.relative_to(self.root).with_suffix("").as_posix()
        key = execution_key(self.root, self.notebook)
        executed = read_executed(self.root, docname)
        if executed is None or executed.metadata.lab.key != key:
            raise ExtensionError(
                f"{docname} has not been executed as it stands, or something it uses "
                "changed meanwhile. Run `make book`, which executes pages first."
            )
        done = [cell for cell in executed.cells if cell.cell_type == "code"]
        for cell, source in zip(cells, done, strict=True):
            cell.outputs = source.outputs
            cell.execution_count = source.execution_count
        self.notebook.metadata["language_info"] = executed.metadata.language_info
        self.exec_metadata = {
            "mtime": executed_path(self.root, docname).stat().st_mtime,
            "runtime": executed.metadata.lab.seconds,
            "method": METHOD,
            "succeeded": True,
            "error": None,
            "traceback": None,
            "key": key,
        }


def create_client(
    notebook: NotebookNode,
    source: str,
    nb_config: Any,
    logger: Any,
    read_fmt: dict | None = None,
) -> NotebookClientBase:
    """Stand-in for myst-nb's own function of this name, which would execute."""
    return ExecutedPage(notebook, Path(source), nb_config, logger)


def read_executed(root: Path, docname: str) -> NotebookNode | None:
    """The executed notebook of a page, or None."""
    path = executed_path(root, docname)
    return nbformat.read(path, as_version=4) if path.exists() else None


def shown_run(env: BuildEnvironment, docname: str) -> dict[str, Any]:
    """The run whose outputs the page shows, as of when it was last read."""
    data = myst_nb.sphinx_.NbMetadataCollector.get_exec_data(env, docname) or {}
    return data if data.get("method") == METHOD else {}


def find_outdated(
    app: Sphinx,
    env: BuildEnvironment,
    added: set[str],
    changed: set[str],
    removed: set[str],
) -> list[str]:
    """Pages to read again: the text is the same, the outputs are not.

    Also keeps what pages show of each other, for ``find_dependents``.
    """
    env.lab_before = face(env), shown_runs(env)
    root = Path(app.srcdir)
    shared = shared_digest(root)
    outdated = []
    for docname in env.found_docs:
        executed = executed_path(root, docname)
        kept = executed.stat().st_mtime if executed.exists() else None
        shown = shown_run(env, docname)
        # A stale page is read again as well, and refused then.
        if kept != shown.get("mtime") or not shown.get("key", shared).endswith(shared):
            outdated.append(docname)
    return outdated


def find_dependents(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Pages to write again because of what another page now says.

    Sphinx would write the changed page alone, and leave its old title in every
    other page's sidebar and links, and its old numbers where they are glued.
    """
    old_face, old_runs = env.__dict__.pop("lab_before")
    if old_face != face(env):
        return sorted(env.found_docs)
    if old_runs == shown_runs(env):
        return []
    return [
        docname
        for docname in sorted(env.found_docs)
        if GLUE_OF_ANOTHER_PAGE.search(Path(env.doc2path(docname)).read_text("utf-8"))
    ]


def shown_runs(env: BuildEnvironment) -> dict[str, dict[str, Any]]:
    """The run that each page shows."""
    return {docname: shown_run(env, docname) for docname in env.all_docs}


def face(env: BuildEnvironment) -> str:
    """What all pages show of each other: titles, numbers, labels."""
    standard = env.domaindata["std"]
    return repr(
        [
            sorted((name, title.astext()) for name, title in env.titles.items()),
            sorted((name, toc.astext()) for name, toc in env.tocs.items()),
            sorted(env.toc_secnumbers.items()),
            sorted(env.toc_fignumbers.items()),
            [sorted(standard.get(kind, {}).items()) for kind in LINKED],
        ]
    )


def check_all_shown(app: Sphinx, env: BuildEnvironment) -> None:
    """Every page with code shows outputs that were executed for it."""
    missing = [
        docname
        for docname in sorted(env.found_docs)
        if executed_path(Path(app.srcdir), docname).exists()
        and not shown_run(env, docname)
    ]
    if missing:
        raise ExtensionError(
            f"Pages without their executed outputs: {', '.join(missing)}. "
            "myst-nb may have changed how it asks for outputs: see create_client."
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx and myst-nb."""
    if not hasattr(myst_nb.sphinx_, "create_client"):
        raise ExtensionError(
            "This myst-nb has no sphinx_.create_client; see tools/lab_sphinx/executed."
        )
    ExecutedPage.root = Path(app.srcdir)
    myst_nb.sphinx_.create_client = create_client
    app.connect("env-get-outdated", find_outdated)
    app.connect("env-get-updated", find_dependents)
    app.connect("env-check-consistency", check_all_shown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
