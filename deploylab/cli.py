"""The command `deploylab`: what one does with the lab outside a notebook."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

#: Seconds that one cell may take when notebooks are run again.
CELL_S = 300


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if all went well, 1 if something was found, 2 if misused."""
    parser = argparse.ArgumentParser(prog="deploylab", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    again = commands.add_parser(
        "check",
        help="run your notebooks again, and write the progress file anew",
        description="Run notebooks from top to bottom, each in a fresh kernel, and "
        "write the progress file from what their checks say. The notebooks themselves "
        "are not changed.",
    )
    again.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="notebooks, or folders of them (default: notebooks/, or this folder)",
    )
    again.set_defaults(run=lambda options: check_notebooks(options.paths))
    _add_lint(commands)
    options = parser.parse_args(arguments)
    return options.run(options)


def _add_lint(commands: argparse._SubParsersAction) -> None:
    linter = commands.add_parser(
        "lint",
        help="say what a rollout configuration does, and the traps it falls into",
        description="Read Argo Rollouts (Rollout, AnalysisTemplate), Flagger (Canary, "
        "MetricTemplate) and our own Strategy as YAML. Print the chance that a gate "
        "aborts a healthy release, that it lets a bad one through, how many requests a "
        "bad one answers, how long a good one takes, and known traps, each with its "
        "line and a way out. Exit status: 0, 1 with findings, 2 if something cannot "
        "be read.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    share, positive = _number(0, 1), _number(0, 1e7, above=True)
    linter.add_argument(
        "paths", nargs="*", metavar="PATH", help="files, folders, or - for stdin"
    )
    for flag, default, kind, says in (
        ("--rps", 20.0, positive, "requests a second, of all users"),
        ("--healthy", 0.002, share, "share of errors of a healthy version"),
        ("--bad", 0.02, share, "share of errors of a bad version"),
        ("--scrape", 15.0, positive, "seconds between two samples of a metric"),
        ("--person", 600.0, positive, "seconds until a person lets a rollout go on"),
    ):
        linter.add_argument(flag, type=kind, default=default, help=says, metavar="N")
    linter.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="for people or programs",
    )
    linter.add_argument(
        "--fail-on",
        choices=("info", "warning", "error"),
        default="error",
        help="the mildest finding that makes the exit status 1",
    )
    linter.add_argument(
        "--skip-others",
        action="store_true",
        help="for whole repositories: files without a rollout may be anything, and "
        "nothing to lint is no failure",
    )
    linter.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="pass files or folders over, as in templates or */dev/*; may be repeated",
    )
    linter.add_argument(
        "--fail-on-unknown",
        action="store_true",
        help="exit status 1 also where nothing of a gate could be computed",
    )
    linter.add_argument(
        "--rules",
        action="store_true",
        help="print all rules, each with what it means and a way out, and stop",
    )
    linter.set_defaults(run=lint_files)


def _number(least: float, most: float, above: bool = False) -> Callable[[str], float]:
    """A number of an option within bounds; ArgumentTypeError otherwise."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no number {'above' if above else 'from'} {least:g} "
                f"and at most {most:g}"
            )
        return value

    return read


def lint_files(options: argparse.Namespace) -> int:
    """Lint what the options name; the exit status."""
    from deploylab.lint import World, as_json, as_text, lint
    from deploylab.lint.read import MAX_STDIN
    from deploylab.lint.report import catalogue

    if options.rules:
        return _print(catalogue(), 0)
    if not options.paths:
        print(
            "Nothing to lint: name files or folders, or - for stdin.", file=sys.stderr
        )
        return 2
    if options.bad <= options.healthy:
        print(
            f"--bad {options.bad:g} is not worse than --healthy {options.healthy:g}: "
            "give a larger share of errors.",
            file=sys.stderr,
        )
        return 2
    world = World(
        options.rps, options.healthy, options.bad, options.scrape, options.person
    )
    stdin = b""
    if "-" in options.paths and sys.stdin:
        stdin = sys.stdin.buffer.read(MAX_STDIN + 1)
    report = lint(options.paths, world, stdin, options.skip_others, options.exclude)
    return _print(
        (as_json if options.format == "json" else as_text)(report),
        report.status(options.fail_on, options.skip_others, options.fail_on_unknown),
    )


def _print(text: str, status: int) -> int:
    """Print a report; its status, or 2 if it could not be written."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return status  # whoever read it has seen enough, as in `| head`
        print(f"The report cannot be written: {error.strerror}.", file=sys.stderr)
        return 2
    return status


def check_notebooks(paths: list[Path]) -> int:
    """Run the notebooks under ``paths`` again and rebuild the progress file."""
    from deploylab.exercises import Progress, check, progress

    default = Path("notebooks") if Path("notebooks").is_dir() else Path()
    try:
        notebooks = list(find_notebooks(paths or [default]))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    if not notebooks:
        print(
            f"No notebook in {', '.join(map(str, paths or [default]))}. "
            "`make notebooks` writes them into notebooks/.",
            file=sys.stderr,
        )
        return 2
    os.chdir(notebooks[0].parent)
    file = progress.path()
    before, remark = progress.read(file)
    faults = []
    with tempfile.TemporaryDirectory(prefix="check-") as folder:
        fresh = Path(folder) / progress.FILE
        for notebook in notebooks:
            print(f"{notebook.parent.name}/{notebook.name} ...", flush=True)
            faults += run_again(notebook, fresh)
        record, _ = progress.read(fresh)
    chapters = {notebook.stem.replace("-", "_") for notebook in notebooks}
    rebuild(file, before, record, chapters)
    print(Progress(check.progress().rows, [remark] if remark else []))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def find_notebooks(paths: list[Path]) -> Iterator[Path]:
    """The notebooks among the paths and in them; FileNotFoundError if one is not."""
    for path in paths:
        if path.is_dir():
            for found in sorted(path.resolve().rglob("*.ipynb")):
                if ".ipynb_checkpoints" not in found.parts:
                    yield found
        elif path.is_file():
            yield path.resolve()
        else:
            raise FileNotFoundError(f"There is no notebook or folder {path}.")


def run_again(notebook: Path, record: Path) -> list[str]:
    """Run one notebook in its folder; what stopped it, if anything did."""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    from deploylab.exercises import progress

    try:
        content = nbformat.read(notebook, as_version=4)
    except (ValueError, OSError) as error:
        return [f"{notebook.name} cannot be read: {error}"]
    client = NotebookClient(
        content,
        timeout=CELL_S,
        allow_errors=True,
        resources={"metadata": {"path": str(notebook.parent)}},
    )
    try:
        client.execute(env=os.environ | {progress.VARIABLE: str(record)})
    except (CellTimeoutError, DeadKernelError) as error:
        return [f"{notebook.name}: {str(error).splitlines()[0]}"]
    return [
        f"{notebook.name}, cell {number}: {output.ename}: {output.evalue}"
        for number, cell in enumerate(content.cells, 1)
        if cell.cell_type == "code"
        and "raises-exception" not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.output_type == "error"
    ]


def rebuild(file: Path | None, before: dict, record: dict, chapters: set[str]) -> None:
    """Write the record anew: chapters that were run from what they said now.

    First guesses are kept, and so is what other chapters said before.
    """
    from deploylab.exercises import exercises, progress

    if file is None:
        return
    ran = {
        exercise.name
        for chapter, group in exercises().items()
        if chapter in chapters
        for exercise in group
    }
    kept = {name: entry for name, entry in before.items() if name not in ran}
    for name, entry in record.items():
        first = before.get(name, {}).get("first", entry.get("first"))
        kept[name] = entry | ({"first": first} if first is not None else {})
    file.write_text(
        json.dumps({"format": progress.FORMAT, "exercises": kept}, indent=1), "utf-8"
    )


if __name__ == "__main__":
    sys.exit(main())
