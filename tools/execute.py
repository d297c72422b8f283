"""Execute pages, each in a fresh kernel, and keep what they produced.

An executed page is a notebook under ``_build/executed/``, which carries the key it
was made for (see ``pages.execution_key``). It is used again only under the same
key, so a changed helper is never hidden by what an older one produced.
"""

from __future__ import annotations

import asyncio
import difflib
import json
import os
import re
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import nbformat
import psutil
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import (
    CellExecutionError,
    CellTimeoutError,
)
from nbformat import NotebookNode
from pages import Finding, Page, execution_key

EXECUTED = Path("_build", "executed")

# Every process that a page starts inherits these two, and is found by them.
BUILD_MARK = "LAB_BUILD"
PAGE_MARK = "LAB_PAGE"

# What every kernel sees, whatever the machine.
ENVIRONMENT = {
    # Telemetry of the tools that the pages use is off.
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
    "ANONYMIZED_TELEMETRY": "False",
    # A page that checks its own solution is not a student who has done the exercise.
    "DEPLOYLAB_PROGRESS": "off",
    # The same outputs on every rebuild: order of sets, sums across threads, dates.
    "PYTHONHASHSEED": "0",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TZ": "UTC",
    # The debugger's remark about frozen modules would land in a cell's output.
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
# Time for what a page started to end by itself once the kernel is gone.
GRACE_S = 5.0
MAX_DIFF_LINES = 12
MAX_DIFF_WIDTH = 120


@dataclass
class Execution:
    """One page's run: the notebook with outputs, seconds taken, what went wrong."""

    page: Page
    notebook: NotebookNode
    key: str = ""
    seconds: float = 0.0
    cached: bool = False
    findings: list[Finding] = field(default_factory=list)


def execute_pages(
    pages: list[Page],
    *,
    build: str,
    jobs: int,
    timeout_s: int,
    cache: bool,
    report: Callable[[Execution], None],
) -> list[Execution]:
    """Execute pages, ``jobs`` at a time; the others pause while a cell runs alone.

    ``build`` marks every process started. Without ``cache`` nothing is read from
    ``_build/executed/`` or written there. Each result is reported as it comes; all
    pages are tried. If this is interrupted, it ends the kernels first.
    """
    results = [known for page in pages if cache and (known := load(page))]
    for known in results:
        report(known)
    known_pages = {known.page for known in results}
    waiting = [page for page in pages if page not in known_pages and page.cells]
    if waiting:
        warm_fonts()
    # The longest first, or the last one would run with nobody beside it.
    waiting.sort(key=lambda page: -page.weight)
    stop = threading.Event()
    turns = Turns()

    def run(page: Page) -> Execution:
        if stop.is_set():
            return Execution(page, page.notebook)
        return execute_page(page, build=build, timeout_s=timeout_s, turns=turns)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for future in as_completed([pool.submit(run, page) for page in waiting]):
                result = future.result()
                if cache and not result.findings:
                    save(result)
                report(result)
                results.append(result)
        except BaseException:
            # Kernels sit in sessions of their own: Ctrl-C did not reach them.
            stop.set()
            end(marked(BUILD_MARK, build), grace_s=0)
            raise
    return results


class Turns:
    """Lets pages run side by side, and a cell that is tagged ``alone`` by itself.

    A page has a turn from its kernel's start to its end, and gives it back between
    two cells: there it waits if another page has, or waits for, the turn alone.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._is_taken = False  # by one alone
        self._waiting = 0  # for a turn alone

    def take(self, alone: bool) -> None:
        """Wait for a turn; alone, until every other page stands between two cells."""
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: not (self._sharing or self._is_taken))
                self._waiting -= 1
                self._is_taken = True
            else:
                self._changed.wait_for(lambda: not (self._waiting or self._is_taken))
                self._sharing += 1

    def give(self, alone: bool) -> None:
        """Hand a turn back, as it was taken."""
        with self._changed:
            if alone:
                self._is_taken = False
            else:
                self._sharing -= 1
            self._changed.notify_all()


@contextmanager
def turn_of(page: Page, turns: Turns | None) -> Iterator[Callable[[int], None]]:
    """Have a turn while a page runs; what it yields is called before each cell."""
    if turns is None:  # a page by itself
        yield lambda cell_index: None
        return
    alone = {cell.index: "alone" in cell.tags for cell in page.cells}
    held = False

    def change(cell_index: int) -> None:
        nonlocal held
        turns.give(held)
        held = alone[cell_index]
        turns.take(held)

    turns.take(held)
    try:
        yield change
    finally:
        turns.give(held)


def execute_page(
    page: Page, *, build: str, timeout_s: int, turns: Turns | None = None
) -> Execution:
    """Execute one page in a fresh kernel, with the root as working directory."""
    with turn_of(page, turns) as change:
        return _execute_page(page, change, build=build, timeout_s=timeout_s)


def _execute_page(
    page: Page, change: Callable[[int], None], *, build: str, timeout_s: int
) -> Execution:
    started = time.monotonic()
    notebook = nbformat.from_dict(page.notebook)
    # Taken now: a helper saved while the page runs makes this run stale.
    result = Execution(page, notebook, execution_key(page.root, notebook))
    mark = uuid.uuid4().hex
    running = 0  # index of the cell at work
    started_here: set[psutil.Process] = set()

    async def before_cell(cell: NotebookNode, cell_index: int) -> None:
        nonlocal running
        running = cell_index
        await asyncio.to_thread(change, cell_index)

    def after_cell(**reply: object) -> None:
        # Finds children that were given another environment, and so carry no mark.
        with suppress(psutil.Error):  # the kernel may just have died
            kernel = psutil.Process(client.km.provisioner.pid)
            started_here.update(kernel.children(recursive=True))

    with (
        tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as tmp,
        Path(tmp, "kernel.log").open("w+") as log,
    ):
        client = NotebookClient(
            notebook,
            km=kernel_manager(tmp),
            timeout=timeout_s,
            coalesce_streams=True,  # where a stream is cut depends on the machine
            skip_cells_with_tag="",
            on_cell_execute=before_cell,
            on_cell_executed=after_cell,
        )
        environment = kernel_environment(page.root, build, mark, tmp)
        try:
            # Not client.execute: it leaves its event loop open.
            asyncio.run(
                client.async_execute(
                    cwd=str(page.root), env=environment, stderr=log, cleanup_kc=True
                )
            )
        except CellExecutionError as error:
            result.findings.append(_cell_failed(page, running, error, notebook))
        except CellTimeoutError:
            result.findings.append(
                _at(
                    page,
                    running,
                    f"the cell ran for more than {timeout_s} s and was stopped",
                    "Make it shorter, or allow more with --timeout.",
                )
            )
        except RuntimeError as error:  # it died, or never came up
            result.findings.append(
                _at(
                    page,
                    running,
                    f"no answer from the kernel at this cell ({error}):\n{_tail(log)}",
                    "Run the cell in a plain Python process to see why.",
                )
            )
        result.findings += _left_running(page, mark, started_here)
    if not result.findings:
        result.findings += check_outputs(page, notebook)
    result.seconds = time.monotonic() - started
    return result


def kernel_manager(tmp: str) -> AsyncKernelManager:
    """A kernel of the running interpreter, spoken to through sockets in ``tmp``.

    Without ``kernel_dirs=[]`` a kernel called python3 in somebody's home folder,
    perhaps another Python, would win. Sockets that are files need no free port.
    """
    return AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        transport="ipc",
        connection_file=os.path.join(tmp, "kernel.json"),
    )


def kernel_environment(root: Path, build: str, mark: str, tmp: str) -> dict[str, str]:
    """Environment of a page's kernel; ``tmp`` is a folder that goes with the page."""
    return {
        **os.environ,
        **ENVIRONMENT,
        BUILD_MARK: build,
        PAGE_MARK: mark,
        "PYTHONPATH": python_path(root),
        "TMPDIR": tmp,
        "IPYTHONDIR": os.path.join(tmp, "ipython"),  # nobody's start-up files
    }


def python_path(*first: Path) -> str:
    """``PYTHONPATH`` with these folders first: the book's own package wins."""
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([*map(str, first), *([inherited] if inherited else [])])


#: What a cell shows if its last call gives something back by the way.
BARE = re.compile(r"True|False|\d+")


def shown_value(output: NotebookNode) -> str:
    """The text of the value of a cell's last line; empty for other outputs."""
    is_value = output.output_type == "execute_result"
    return output.data.get("text/plain", "") if is_value else ""


def check_outputs(page: Page, notebook: NotebookNode) -> Iterator[Finding]:
    """What an executed page may not contain."""
    for cell in page.cells:
        node = notebook.cells[cell.index]
        if cell.source.strip() and node.get("execution_count") is None:
            yield Finding(
                page.path,
                cell.line,
                "the cell did not run",
                "Look at the cells before it: does one end the kernel?",
            )
        if "raises-exception" in cell.tags and not any(
            output.output_type == "error" for output in node.outputs
        ):
            yield Finding(
                page.path,
                cell.line,
                "the cell is tagged raises-exception, but raised nothing",
                "Drop the tag, or make the cell fail as the text says.",
            )
        if not {"remove-cell", "remove-output"} & set(cell.tags):
            for value in filter(BARE.fullmatch, map(shown_value, node.outputs)):
                yield Finding(
                    page.path,
                    cell.line,
                    f"the cell shows {value}, and no word says of what",
                    "End its last line with a semicolon, or print what it is.",
                )
        if "stderr-ok" in cell.tags:
            continue
        for output in node.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                yield Finding(
                    page.path,
                    cell.line,
                    "the cell wrote to stderr:\n" + indent(output.text),
                    "Remove the cause of the warning; if the warning is the lesson, "
                    "tag the cell stderr-ok.",
                )


def compare(first: Execution, second: Execution) -> Iterator[Finding]:
    """Cells not tagged live whose outputs differ between two runs."""
    page = first.page
    for cell in page.cells:
        if "live" in cell.tags:
            continue
        before = output_lines(first.notebook.cells[cell.index])
        after = output_lines(second.notebook.cells[cell.index])
        if before != after:
            diff = difflib.unified_diff(
                before, after, "first", "second", n=0, lineterm=""
            )
            shown = [line[:MAX_DIFF_WIDTH] for line in diff][:MAX_DIFF_LINES]
            yield Finding(
                page.path,
                cell.line,
                "two executions gave different outputs:\n" + indent("\n".join(shown)),
                "Seed it, sort it, or drop the part that varies; tag the cell live "
                "only if it measures a running system.",
            )


def output_lines(cell: NotebookNode) -> list[str]:
    """A cell's outputs as lines; execution counts are all that is left out."""
    outputs = [
        {key: value for key, value in output.items() if key != "execution_count"}
        for output in cell.outputs
    ]
    lines = []
    for output in outputs:
        lines.append(output.pop("output_type"))
        for key, value in sorted(output.items()):
            parts = value if isinstance(value, dict) else {"": value}
            for name, part in sorted(parts.items()):
                lines += [f"{key} {name}".strip(), *_text(part).splitlines()]
    return lines


def _text(part: object) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, list):  # a traceback
        return "\n".join(map(str, part))
    return json.dumps(part, sort_keys=True)


def load(page: Page) -> Execution | None:
    """The page as executed before, if nothing that it depends on has changed."""
    path = executed_path(page.root, page.docname)
    if not path.exists():
        return None
    notebook = nbformat.read(path, as_version=4)
    kept = notebook.metadata.get("lab", {})
    key = execution_key(page.root, page.notebook)
    if kept.get("key") != key:
        return None
    return Execution(page, notebook, key, kept["seconds"], cached=True)


def save(result: Execution) -> None:
    """Keep an executed page; a half-written file is never left behind."""
    page = result.page
    path = executed_path(page.root, page.docname)
    path.parent.mkdir(parents=True, exist_ok=True)
    result.notebook.metadata["lab"] = {
        "key": result.key,
        "seconds": round(result.seconds, 1),
    }
    part = path.with_suffix(".part")
    nbformat.write(result.notebook, part)
    part.replace(path)


def forget(root: Path, keep: list[Page]) -> None:
    """Delete executed pages that are no page's any more."""
    kept = {executed_path(root, page.docname) for page in keep}
    for path in (root / EXECUTED).rglob("*.*"):
        if path.is_file() and path not in kept:
            path.unlink()


def executed_path(root: Path, docname: str) -> Path:
    """Where a page's executed notebook is kept."""
    return root / EXECUTED / f"{docname}.ipynb"


def marked(name: str, value: str) -> list[psutil.Process]:
    """Living processes, this one aside, whose environment has ``name=value``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(name) == value:
                found.append(process)
        except psutil.Error:
            continue  # it has just ended, or is another user's
    return found


def end(processes: list[psutil.Process], *, grace_s: float) -> list[str]:
    """End processes; returns "pid: command" of those that outlived ``grace_s``."""
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    names = [_describe(process) for process in alive]
    for process in alive:
        try:
            process.terminate()
        except psutil.Error:
            continue
    _, alive = psutil.wait_procs(alive, timeout=3)
    for process in alive:
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(alive, timeout=3)
    return names


def _describe(process: psutil.Process) -> str:
    try:
        return f"{process.pid}: {' '.join(process.cmdline())}"
    except psutil.Error:
        return f"{process.pid}: (ended meanwhile)"


def _left_running(
    page: Page, mark: str, started: set[psutil.Process]
) -> Iterator[Finding]:
    for name in end(list({*marked(PAGE_MARK, mark), *started}), grace_s=GRACE_S):
        yield Finding(
            page.path,
            1,
            f"the page left a process running ({name})",
            "Start it in a `with` block that stops it. It has been ended now.",
        )


def _cell_failed(
    page: Page, index: int, error: CellExecutionError, notebook: NotebookNode
) -> Finding:
    if error.ename == "AssertionError":
        do = "Either the code or the sentence that it guards is wrong: mend that one."
    else:
        do = "Mend the cell, or what it calls."
    output = notebook.cells[index].outputs[-1]
    trace = strip_colour("\n".join(output.get("traceback", [str(error)])))
    return _at(page, index, f"the cell failed:\n{indent(trace)}", do)


def _tail(log: TextIO, lines: int = 5) -> str:
    log.seek(0)
    return indent("\n".join(log.read().splitlines()[-lines:]) or "(it said nothing)")


def _at(page: Page, index: int, what: str, do: str) -> Finding:
    line = next((cell.line for cell in page.cells if cell.index == index), 1)
    return Finding(page.path, line, what, do)


def strip_colour(text: str) -> str:
    """Text without terminal colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def indent(text: str) -> str:
    """Text moved right, under the finding that it belongs to."""
    return "\n".join(f"    | {line}" for line in text.rstrip().splitlines())


def warm_fonts() -> None:
    """Let matplotlib index the fonts once, here.

    On a fresh machine the first page that draws would do it, and its remark about
    the time it takes would end up on the page.
    """
    try:
        import matplotlib
    except ImportError:
        return
    if not list(Path(matplotlib.get_cachedir()).glob("fontlist-*.json")):
        import matplotlib.font_manager


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """End by SIGTERM as by Ctrl-C: what was started is ended first."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
