"""Green must mean something: each fault, planted in a small book, turns it red.

The rules that need no execution have their faults in test_house.py; here one of
them proves that the build stops at it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import build
import execute
import nbformat
import psutil
import pytest
from pages import Page

TESTS = Path(__file__).resolve().parent
BUILD = TESTS.parent / "tools" / "build.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def green_book(tmp_path_factory) -> Path:
    """The fixture book, its pages executed; copies of it start with a warm cache."""
    root = tmp_path_factory.mktemp("green") / "book"
    shutil.copytree(TESTS / "fixture_book", root)
    assert build.main(["--root", str(root), "--execute-only"]) == 0
    return root


@pytest.fixture
def book(green_book: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(green_book, tmp_path / "book"))


@pytest.fixture
def run(capfd):
    """Run the build in this process: exit code and what it printed."""

    def run_build(root: Path, *options: str) -> tuple[int, str]:
        code = build.main(["--root", str(root), *options])
        return code, capfd.readouterr().out

    return run_build


def edit(path: Path, old: str, new: str) -> None:
    """Replace one passage that must be there: a fault that is not planted is none."""
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def plant(root: Path, code: str, tags: str = "live") -> None:
    """Make ``code`` the only cell of the last chapter; it begins at line 20."""
    page = root / "book" / "serve.md"
    edit(page, "import time\n\nprint(time.time_ns())\n", code)
    edit(page, "[live]", f"[{tags}]")


def test_clean_book_is_green_again_and_again(book, run):
    code, said = run(book)
    assert code == 0
    assert said.endswith(f": {book}/_build/html/index.html\n")
    html = (book / "_build" / "html" / "book" / "score.html").read_text("utf-8")
    assert "9 of 10 rows are right" in html
    assert "assert right == 9" not in html

    # Nothing changed: nothing is executed and no page is written again.
    written = html_times(book)
    code, said = run(book)
    assert (code, said.count("cached")) == (0, 2)
    assert html_times(book) == written

    # A sentence changed: its page is written again (and the landing page, which holds
    # the bibliography), and nothing is executed.
    edit(book / "book" / "score.md", "Nine rows in ten", "Nine of ten rows")
    code, said = run(book)
    assert (code, said.count("cached")) == (0, 2)
    assert changed_pages(book, written) == {"book/score.html", "book/index.html"}

    # All is executed again: the page with the live cell shows the new outputs.
    # A title changed: every sidebar and link that shows it is written again.
    edit(book / "book" / "score.md", "# Score the model", "# Grade the model")
    before = live_output(book)
    code, said = run(book, "--no-cache")
    assert (code, said.count("cached")) == (0, 0)
    assert live_output(book) > before
    for name in ("index", "score", "serve"):
        html = (book / "_build" / "html" / "book" / f"{name}.html").read_text("utf-8")
        assert "Grade the model" in html
        assert "Score the model" not in html


MEETING = """\
import os, time
open("{mine}", "w").close()
until = time.monotonic() + {patience_s}
while time.monotonic() < until and not os.path.exists("{other}"):
    time.sleep(0.01)
met = os.path.exists("{other}")
if not {meet}:
    os.remove("{mine}")
assert met == {meet}
"""


@pytest.mark.parametrize("alone", [(), ("score",), ("score", "serve")], ids=len)
def test_a_cell_that_runs_alone_meets_no_other(book, run, alone):
    """Each cell waits for the other page's: side by side they meet, alone they cannot.

    The first two meet, whatever comes after them: the page is not alone, a cell is.
    """
    names = ("score", "serve")
    for mine, other in (names, names[::-1]):
        page = book / "book" / f"{mine}.md"
        text = page.read_text("utf-8")
        for step, meet in (("first", True), ("second", not alone)):
            tags = (
                "[live, alone]"
                if (step, mine in alone) == ("second", True)
                else "[live]"
            )
            code = MEETING.format(
                mine=f"{mine}.{step}",
                other=f"{other}.{step}",
                meet=meet,
                patience_s=60 if meet else 2,
            )
            text += f"\n```{{code-cell}} ipython3\n:tags: {tags}\n\n{code}```\n"
        page.write_text(text, "utf-8")
    code, said = run(book, "--execute-only", "--jobs", "2")
    assert code == 0, said


def live_output(root: Path) -> int:
    """The time in nanoseconds that the last chapter shows."""
    html = (root / "_build" / "html" / "book" / "serve.html").read_text("utf-8")
    return int(re.search(r">(\d{19})\n", html)[1])


def html_times(root: Path) -> dict[str, int]:
    html = root / "_build" / "html"
    return {
        path.relative_to(html).as_posix(): path.stat().st_mtime_ns
        for path in html.glob("book/*.html")
    }


def changed_pages(root: Path, before: dict[str, int]) -> set[str]:
    after = html_times(root)
    return {name for name in after if after[name] != before[name]}


def test_changed_helper_changes_the_page(book, run):
    assert run(book)[0] == 0
    package = book / "deploylab" / "__init__.py"
    edit(package, "return rows - 1", "return rows - 1.0")

    # Jupyter Book by itself, without the build tool, refuses what is stale.
    [finding] = build.run_sphinx(book, "alone")
    assert "book/score has not been executed as it stands" in finding.what

    code, said = run(book)
    assert (code, said.count("cached")) == (0, 0)
    html = (book / "_build" / "html" / "book" / "score.html").read_text("utf-8")
    assert "9.0 of 10 rows are right" in html

    # The other chapter shows the number through glue, and is not itself executed.
    edit(book / "book" / "score.md", "str(right)", "f'{right:.3f}'")
    code, said = run(book)
    assert (code, said.count("cached")) == (0, 1)
    html = (book / "_build" / "html" / "book" / "serve.html").read_text("utf-8")
    assert "9.000" in html


def test_broken_support_package_with_a_warm_cache(book, run):
    assert run(book, "--execute-only")[0] == 0
    edit(book / "deploylab" / "__init__.py", "return rows - 1", "return 1 / 0")
    code, said = run(book, "--execute-only")
    assert code == 1
    assert "book/score.md:18: the cell failed:" in said
    assert "ZeroDivisionError: division by zero" in said


@pytest.mark.parametrize(
    "path", ["book/listings/app.py", "deploylab/new.py", "requirements.txt"]
)
def test_every_shared_input_is_in_the_key(book, path):
    page = Page(book, "book/score")
    assert execute.load(page) is not None
    (book / path).parent.mkdir(exist_ok=True)
    (book / path).write_text("# changed\n")
    assert execute.load(page) is None


def test_prose_is_not_in_the_key_and_code_is(book):
    path = book / "book" / "score.md"
    edit(path, "Nine rows", "Some rows")
    assert execute.load(Page(book, "book/score")) is not None
    edit(path, "right = score(10)", "right = score(11)")
    assert execute.load(Page(book, "book/score")) is None


def test_failing_cell_names_page_line_and_trace(book, run):
    plant(book, "served = []\nserved[7]\n")
    code, said = run(book, "--execute-only")
    assert code == 1
    assert "book/serve.md:20: the cell failed:" in said
    assert "IndexError: list index out of range" in said
    assert "----> 2 served[7]" in said


def test_failing_hidden_claim_and_a_second_failing_page(book, run):
    edit(book / "book" / "score.md", "assert right == 9", "assert right == 10")
    plant(book, "1 / 0\n")
    code, said = run(book, "--execute-only")
    assert code == 1
    assert "book/score.md:27: the cell failed:" in said
    assert "AssertionError" in said
    assert "the sentence that it guards is wrong" in said
    # All pages are tried, and all failures told.
    assert "book/serve.md:20: the cell failed:" in said
    # What failed is not kept: the next run is red as well.
    assert run(book, "--execute-only")[0] == 1


def test_raises_exception_that_raises_nothing(book, run):
    edit(book / "book" / "score.md", 'int("ten")', 'int("10")')
    code, said = run(book, "--execute-only")
    assert code == 1
    assert "book/score.md:46: the cell is tagged raises-exception, but raised" in said


def test_unexpected_warning(book, run):
    warn = "import warnings\n\nwarnings.warn('old way', stacklevel=1)\n"
    plant(book, warn)
    code, said = run(book, "--execute-only")
    assert code == 1
    assert "book/serve.md:20: the cell wrote to stderr:" in said
    assert "UserWarning: old way" in said
    edit(book / "book" / "serve.md", "[live]", "[live, stderr-ok]")
    assert run(book, "--execute-only")[0] == 0


def test_a_bare_value_at_the_end_of_a_cell(book, run):
    plant(book, "from pathlib import Path\n\nPath('left').write_text('three')\n")
    code, said = run(book, "--execute-only")
    assert code == 1
    assert "book/serve.md:20: the cell shows 5, and no word says of what" in said
    edit(book / "book" / "serve.md", "write_text('three')", "write_text('three');")
    assert run(book, "--execute-only")[0] == 0


def test_output_that_differs_between_two_executions(book, run):
    """Found in a plain cell, an address too; accepted in a live one."""
    plant(book, "import time\n\nprint(time.time_ns())\n")
    with (book / "book" / "serve.md").open("a") as page:
        page.write("\n```{code-cell} ipython3\nprint('a')\nobject()\n```\n")
    code, said = run(book, "--execute-only", "--twice")
    assert code == 1
    assert said.count("book/serve.md:") == 1
    assert "book/serve.md:32: two executions gave different outputs:" in said
    # The lines that differ, and only those.
    diff = [line[6:] for line in said.splitlines() if line.startswith("    | ")]
    assert diff[:2] == ["--- first", "+++ second"]
    assert [line[:1] for line in diff[2:]] == ["@", "-", "+"]
    assert diff[3].startswith("-<object at 0x")


def test_order_of_keys_is_no_difference():
    """A kept page has them sorted, a fresh one as the kernel sent them."""
    fresh = {"output_type": "display_data", "data": {"text/plain": "9"}}
    kept = dict(fresh)
    fresh["metadata"] = {"scrapbook": {"name": "right", "mime_prefix": ""}}
    kept["metadata"] = {"scrapbook": {"mime_prefix": "", "name": "right"}}
    cells = [nbformat.v4.new_code_cell() for _ in range(2)]
    cells[0].outputs, cells[1].outputs = [fresh], [kept]
    assert execute.output_lines(cells[0]) == execute.output_lines(cells[1])
    kept["metadata"]["scrapbook"]["name"] = "wrong"
    assert execute.output_lines(cells[0]) != execute.output_lines(cells[1])


def test_process_alive_after_the_page(book, run):
    # One has lost its parent, the other carries no mark of the build.
    plant(
        book,
        "import subprocess, sys\n"
        "serve = [sys.executable, '-m', 'http.server', '0', '--bind', '127.0.0.1']\n"
        "hide = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        "hide['start_new_session'] = True\n"
        "subprocess.run(['sh', '-c', '\"$@\" &', 'sh', *serve], **hide)\n"
        "subprocess.Popen(serve, env={}, **hide)\n"
        "print('served')\n",
    )
    code, said = run(book, "--execute-only")
    assert code == 1
    assert said.count("book/serve.md:1: the page left a process running (") == 2
    assert said.count("-m http.server 0") == 2
    pids = [
        int(line.split("running (")[1].split(":")[0])
        for line in said.splitlines()
        if "left a process" in line
    ]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    # It is not kept as executed: the next run would not start the server.
    assert execute.load(Page(book, "book/serve")) is None


def test_process_alive_after_the_build(book, run, monkeypatch):
    """One that no page can be blamed for: started while Sphinx runs."""
    started = []

    def start_one(root: Path, build_mark: str) -> list:
        environment = os.environ | {execute.BUILD_MARK: build_mark}
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append(
            subprocess.Popen(command, env=environment, start_new_session=True)
        )
        return []

    monkeypatch.setattr(build, "run_sphinx", start_one)
    code, said = run(book)
    assert code == 1
    assert f"a process that the build started is alive ({started[0].pid}:" in said
    assert started[0].poll() is not None


def test_kernel_that_dies(book, run):
    plant(book, "import os\n\nos.write(2, b'out of luck')\nos._exit(3)\n")
    code, said = run(book, "--execute-only")
    assert code == 1
    assert (
        "book/serve.md:20: no answer from the kernel at this cell (Kernel died)" in said
    )


def test_cell_that_never_ends(book, run):
    plant(book, "import time\n\ntime.sleep(600)\n")
    code, said = run(book, "--execute-only", "--timeout", "1")
    assert code == 1
    assert "book/serve.md:20: the cell ran for more than 1 s" in said


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_interrupted_build_leaves_no_process(book, name):
    """The page tells when it is under way; then the build is interrupted."""
    fifo = book / "under-way"
    os.mkfifo(fifo)
    plant(
        book,
        "import os, subprocess, sys, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(sleep, start_new_session=True)\n"
        "with open('under-way', 'w') as tell:\n"
        "    tell.write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(600)\n",
    )
    command = [sys.executable, str(BUILD), "--root", str(book), "--execute-only"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        pids = [int(pid) for pid in fifo.read_text().split()]
        kernel, child = map(psutil.Process, pids)
        running.send_signal(getattr(signal, name))
        if name == "SIGKILL":
            # Nothing of the build is left to clean up: the kernel ends by itself.
            # Its children are for the package to end, see test_servers.py.
            kernel.wait(60)
            child.kill()
        said, _ = running.communicate(timeout=60)
    if name != "SIGKILL":
        assert running.returncode == 130
        assert "Interrupted; the kernels have been ended." in said
    _, alive = psutil.wait_procs([kernel, child], timeout=10)
    assert not alive


def test_broken_cross_reference_stays_red(book, run):
    """Also over a green build: Sphinx tells a warning only when it reads the page."""
    assert run(book)[0] == 0
    edit(book / "book" / "serve.md", "{ref}`score`", "{ref}`no-such-label`")
    for _ in range(2):
        code, said = run(book)
        assert code == 1
        assert "| book/serve.md:15: WARNING: undefined label: 'no-such-label'" in said
        assert "index.html" not in said


def test_house_rules_stop_the_build(book, run):
    edit(book / "_toc.yml", "  - file: book/serve\n", "")
    code, said = run(book)
    assert code == 1
    assert "book/serve.md:1: this chapter is on disk but not in _toc.yml" in said
    assert "cached" not in said


def test_check_only_executes_nothing(tmp_path, run):
    root = shutil.copytree(TESTS / "fixture_book", tmp_path / "book")
    assert run(root, "--check-only") == (0, "Checked the sources of 3 pages.\n")
    assert not (root / "_build" / "executed").exists()


def test_page_that_is_gone_leaves_nothing_behind(book, run):
    gone = execute.executed_path(book, "book/serve")
    assert gone.exists()
    (book / "book" / "serve.md").unlink()
    edit(book / "_toc.yml", "  - file: book/serve\n", "")
    assert run(book, "--execute-only")[0] == 0
    assert not gone.exists()
