"""The book itself: it builds with the network cut, and twice the same.

The build under test happens in a copy of what git knows of, elsewhere, from an empty
cache. So it also proves that nothing depends on a file that only this machine has,
or on where the repository lies.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import execute
import offline
import pytest
from pages import Page, pages_in_toc, pages_on_disk

ROOT = Path(__file__).resolve().parent.parent
PYTHON = [sys.executable]
OFFLINE = [*PYTHON, str(ROOT / "tools" / "offline.py")]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    # One worker: the copy is built once.
    pytest.mark.xdist_group("real book"),
]


@dataclass
class Built:
    """A build of the whole book in a copy of the repository."""

    root: Path
    code: int
    said: str


def copy_of_repository(target: Path) -> Path:
    """Copy the files that git tracks or would track."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(command, cwd=ROOT, text=True).split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def build(root: Path, *options: str, prefix: list[str] | None = None) -> Built:
    """Build the book at ``root`` with its own build tool."""
    command = [*(prefix or []), *PYTHON, str(root / "tools" / "build.py"), *options]
    done = subprocess.run(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return Built(root, done.returncode, done.stdout)


@pytest.fixture(scope="module")
def built_offline(tmp_path_factory) -> Built:
    root = copy_of_repository(tmp_path_factory.mktemp("offline") / "book")
    return build(root, prefix=OFFLINE)


def test_builds_with_the_network_cut(built_offline, record_property):
    guard = built_offline.said.splitlines()[0]
    print(guard)
    record_property("network", guard)
    assert guard in (f"[offline] {offline.NAMESPACE}", f"[offline] {offline.GUARD}")
    assert built_offline.code == 0, built_offline.said
    html = built_offline.root / "_build" / "html"
    pages = pages_in_toc(ROOT)
    assert len(pages) > 1
    for name in pages:
        assert (html / f"{name}.html").is_file()
    assert "cached" not in built_offline.said


def test_second_execution_gives_the_same_outputs(built_offline):
    """First the working copy's own pages, kept or executed now; then the copy's."""
    assert built_offline.code == 0, built_offline.said
    first = build(ROOT, "--execute-only")
    assert first.code == 0, first.said
    findings, compared = [], 0
    for name in pages_on_disk(ROOT):
        one = execute.load(Page(ROOT, name))
        other = execute.load(Page(built_offline.root, name))
        assert (one is None) == (other is None) == (not Page(ROOT, name).cells)
        if one:
            assert one.key == other.key, f"{name} changed while the tests ran"
            findings += execute.compare(one, other)
            compared += sum("live" not in cell.tags for cell in one.page.cells)
    assert not findings, "\n".join(map(str, findings))
    assert compared > 0


CONNECT = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
    print("loopback answers")
for host in ("192.0.2.1", "example.org"):  # addresses for documentation
    try:
        socket.create_connection((host, 80), timeout=5)
    except OSError as error:
        print(host, "refused:", error)
"""


@pytest.mark.parametrize("kind", ["namespace", "guard"])
def test_the_network_is_really_cut(kind):
    environment = os.environ | {"LAB_OFFLINE": kind}
    command = [*OFFLINE, *PYTHON, "-W", "error", "-c", CONNECT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    first, loopback, *refused = done.stdout.splitlines()
    if kind == "namespace" and offline.NAMESPACE not in first:
        pytest.skip("this kernel refuses a network namespace; the guard stands in")
    assert loopback == "loopback answers"
    assert len(refused) == 2
    reason = "the network is cut" if kind == "guard" else ""
    assert all("refused:" in line and reason in line for line in refused)


@pytest.mark.bench
def test_bench_rebuilds(tmp_path, capsys):
    """A no-change and a one-page rebuild, against the full build, in one run."""
    import time

    root = copy_of_repository(tmp_path / "book")

    def seconds() -> float:
        started = time.monotonic()
        built = build(root)
        assert built.code == 0, built.said
        return time.monotonic() - started

    full = seconds()
    unchanged = seconds()
    page = next(
        page for name in pages_on_disk(root) if (page := Page(root, name)).cells
    )
    text = page.text
    cell = page.cells[0].source
    (root / page.path).write_text(text.replace(cell, cell + "\n# touched", 1), "utf-8")
    one_page = seconds()
    own = execute.load(Page(root, page.docname)).seconds
    with capsys.disabled():
        print(f"\nfull build                {full:6.1f} s")
        print(f"nothing changed           {unchanged:6.1f} s = {unchanged / full:.2f}")
        print(
            f"one page ({page.docname}) {one_page:6.1f} s = {one_page / full:.2f}, "
            f"of which the page itself {own:.1f} s"
        )
