"""What all tests share: in CI, a required component may not be missing."""

from __future__ import annotations

import os
import re
import shutil
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


# -- what several files of tests need -------------------------------------------------


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory) -> Path:
    """The database of a registry without versions; making one takes seconds."""
    from deploylab.registry import Registry

    folder = tmp_path_factory.mktemp("empty-registry")
    Registry(folder).close()
    return folder / "registry.db"


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> dict[str, Path]:
    """Artifacts of v1, v2 and v3-contract, by name; not to be changed."""
    from deploylab import phishing

    names = ("v1", "v2", "v3-contract")
    return phishing.save(names, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module", params=["python", "haproxy"])
def kind(request) -> str:
    """The kind of router; a test that takes it runs with each."""
    from deploylab import router

    if request.param == "haproxy":
        try:
            router.find_haproxy()
        except router.RouterError as error:
            pytest.skip(f"haproxy is missing: {error}")
    return request.param


@pytest.fixture
def new_registry(empty_registry, tmp_path):
    """Opens the registry in `tmp_path/registry`, again and again; closes them all."""
    from deploylab.registry import Registry

    folder = tmp_path / "registry"
    folder.mkdir()
    shutil.copy(empty_registry, folder)
    opened = []

    def new(**options):
        opened.append(Registry(folder, **options))
        return opened[-1]

    yield new
    for one in opened:
        one.close()


@pytest.fixture
def truth(new_registry):
    """A registry without versions."""
    return new_registry()


@pytest.fixture
def hub():
    """A running Redis."""
    from deploylab import broker

    try:
        broker.find_redis()
    except broker.BrokerError as error:
        pytest.skip(f"redis is missing: {error}")
    with broker.start() as hub:
        yield hub


@pytest.fixture
def bus(hub):
    """A client of `hub`."""
    from deploylab import broker

    bus = broker.connect(hub.url)
    yield bus
    bus.close()
