"""Check the sources, execute the pages, build the book.

    python tools/build.py [--root DIR] [--check-only | --execute-only] [--twice]

Every step that finds a fault makes the exit code 1; each fault is printed as
file:line, what happened, what to do. Steps:

0. the gates of the exercise checks that changed, and the page that tells of them
   (tools/trust.py);
1. the rules of the house, on the sources alone (tools/house.py);
2. each page in a fresh kernel, unless what it depends on is unchanged
   (tools/execute.py); with --twice, once more, and the outputs compared;
3. Jupyter Book, on the executed pages, where any warning is a fault;
4. no process that the build started is still alive.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from execute import (
    BUILD_MARK,
    ENVIRONMENT,
    Execution,
    compare,
    end,
    execute_pages,
    forget,
    indent,
    interrupt_on_sigterm,
    marked,
    python_path,
    strip_colour,
)
from house import check_house
from pages import TOOLS, Finding, Page, files_digest, pages_on_disk

# Sphinx does not notice when one of these changes; then it reads every page anew.
SPHINX_INPUTS = ("_config.yml", "_toc.yml", "images", "requirements.txt")


def main(arguments: list[str] | None = None) -> int:
    """Run the steps asked for; 0 if nothing was found."""
    options = parse_options(arguments)
    root = options.root.resolve()
    build = uuid.uuid4().hex
    with interrupt_on_sigterm(), one_build_at_a_time(root):
        try:
            findings = run_steps(root, build, options)
        except KeyboardInterrupt:
            end(marked(BUILD_MARK, build), grace_s=0)
            print("\nInterrupted; the kernels have been ended.")
            return 130
    if findings:
        print(f"\nRED, findings: {len(findings)}\n")
        print("\n\n".join(map(str, findings)))
        return 1
    return 0


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Command line; by default that of the program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("."), help="the repository")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--check-only", action="store_true", help="stop after step 1")
    stage.add_argument("--execute-only", action="store_true", help="stop after step 2")
    parser.add_argument("--twice", action="store_true", help="execute again, compare")
    parser.add_argument("--no-cache", action="store_true", help="execute every page")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--timeout", type=int, default=180, help="seconds a cell")
    return parser.parse_args(arguments)


def run_steps(root: Path, build: str, options: argparse.Namespace) -> list[Finding]:
    """The findings of the first step that has any, or none."""
    started = time.monotonic()
    findings = write_trust_page(root, build)
    if findings:
        return findings
    pages = [Page(root, name) for name in pages_on_disk(root)]
    findings = check_house(root, pages)
    print(f"Checked the sources of {len(pages)} pages.", flush=True)
    if findings or options.check_only:
        return findings
    findings = execute(root, build, pages, options)
    if not findings and not options.execute_only:
        findings = run_sphinx(root, build)
    findings += left_alive(build)
    if not findings and not options.execute_only:
        seconds = time.monotonic() - started
        print(f"The book, built in {seconds:.0f} s: {root}/_build/html/index.html")
    return findings


def write_trust_page(root: Path, build: str) -> list[Finding]:
    """Prove the exercise checks that changed, and write the page that says so."""
    if not (root / "deploylab" / "exercises").is_dir():
        return []
    settings = {BUILD_MARK: build, "PYTHONPATH": python_path(root, TOOLS)}
    said = []
    with subprocess.Popen(
        [sys.executable, str(TOOLS / "trust.py"), "--root", str(root)],
        env=os.environ | ENVIRONMENT | settings,
        text=True,
        stdout=subprocess.PIPE,
    ) as program:
        for line in program.stdout:
            print(line, end="", flush=True)
            said.append(line)
    if program.returncode == 0:
        return []
    return [
        Finding(
            "deploylab/exercises",
            1,
            f"the gates of the exercise checks do not hold:\n{indent(''.join(said))}",
            "Mend the check, the page, or the list of answers; "
            "`python tools/proof.py NAME` runs one exercise.",
        )
    ]


def execute(
    root: Path, build: str, pages: list[Page], options: argparse.Namespace
) -> list[Finding]:
    """Execute the pages that need it, or all of them twice."""
    if options.no_cache:
        shutil.rmtree(root / "_build" / "executed", ignore_errors=True)
    forget(root, keep=pages)
    settings = {
        "build": build,
        "jobs": options.jobs,
        "timeout_s": options.timeout,
        "report": report,
    }
    first = execute_pages(pages, cache=True, **settings)
    findings = [finding for result in first for finding in result.findings]
    if options.twice and not findings:
        print("Once more, to compare:", flush=True)
        second = {
            result.page: result
            for result in execute_pages(pages, cache=False, **settings)
        }
        for result in first:
            again = second[result.page]
            findings += again.findings or compare(result, again)
    return findings


def report(result: Execution) -> None:
    """One line for a page that has been executed."""
    took = "cached" if result.cached else f"{result.seconds:.1f} s"
    fault = "  RED" if result.findings else ""
    cells = len(result.page.cells)
    print(f"{took:>9}  {cells:3} cells  {result.page.path}{fault}", flush=True)


def run_sphinx(root: Path, build: str) -> list[Finding]:
    """Build the pages with Jupyter Book; any warning is a finding.

    The stamp says what the last good build was made from. It is taken away before
    the build and comes back only after success: warnings are told once, so a build
    on top of a bad one would be green.
    """
    output = root / "_build"
    stamp = output / "sphinx-inputs"
    digest = files_digest(
        [root / name for name in SPHINX_INPUTS] + [TOOLS / "lab_sphinx"], sys.version
    )
    if not stamp.exists() or stamp.read_text() != digest:
        for name in (".doctrees", "html", "jupyter_execute"):
            shutil.rmtree(output / name, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    print("Building the pages with Jupyter Book ...", flush=True)
    command = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    arguments = ["build", "-q", "-W", "-n", "--keep-going", str(root)]
    settings = {
        BUILD_MARK: build,
        "PYTHONPATH": python_path(root, TOOLS),
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments, "--path-output", str(root)],
        env=os.environ | ENVIRONMENT | settings,
        cwd=root,
        text=True,
        capture_output=True,
    )
    said = strip_colour(done.stderr).split("The above exception was the direct")[0]
    said = said.replace(f"{root}/", "")
    # Jupyter Book prints what it finds wrong in _config.yml, and goes on.
    if "Warning:" in done.stdout:
        said += strip_colour(done.stdout)
    if done.returncode or "WARNING:" in said or "Warning:" in done.stdout:
        return [
            Finding(
                "_config.yml",
                1,
                f"Jupyter Book ended with {done.returncode}:\n{indent(said.strip())}",
                "Mend what it names; nothing may be left to warn about.",
            )
        ]
    if not (output / "html" / "index.html").exists():
        return [Finding("_config.yml", 1, "no index.html was built", "Check root:.")]
    stamp.write_text(digest)
    return []


def left_alive(build: str) -> list[Finding]:
    """Processes of this build that are still alive; they are ended."""
    return [
        Finding(
            "book",
            1,
            f"a process that the build started is alive ({name})",
            "Start it in a `with` block that stops it. It has been ended now.",
        )
        for name in end(marked(BUILD_MARK, build), grace_s=1)
    ]


@contextmanager
def one_build_at_a_time(root: Path) -> Iterator[None]:
    """Wait while another build works in the same folder."""
    folder = root / "_build"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another build is at work here; waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
