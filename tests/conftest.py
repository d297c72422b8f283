"""What all tests share: in CI, a required component may not be missing."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

# No test writes into anybody's record of exercises; those about it name their own.
os.environ["DEPLOYLAB_PROGRESS"] = "off"
# Whoever starts the tests in the background has them ignore Ctrl-C, and some tests
# press it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


def components() -> list[str]:
    """The names in ``.ci/required``."""
    lines = (ROOT / ".ci" / "required").read_text("utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and line[0] != "#"]


def in_ci() -> bool:
    """Whether this runs in continuous integration, as its environment says."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip whose reason names a required component into a failure.

    Without this, CI on a machine that lost its browser would stay green for ever.
    """
    if not in_ci() or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = str(report.longrepr[2])
    for name in components():
        if re.search(rf"\b{re.escape(name)}\b", reason, re.IGNORECASE):
            report.outcome = "failed"
            report.longrepr = (
                f"{report.nodeid} was skipped, but CI requires {name} (.ci/required): "
                f"{reason}\nInstall {name} on this machine, or take it off the list."
            )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """The same for a whole file that skips itself."""
    report = yield
    refuse_skip(report)
    return report


def pytest_terminal_summary(terminalreporter) -> None:
    """Say where the book is, above pytest's closing line."""
    index = ROOT / "_build" / "html" / "index.html"
    if index.exists():
        terminalreporter.write_line(f"The built book: {index}")
