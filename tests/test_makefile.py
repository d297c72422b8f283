"""The house: two commands on a fresh machine, and what CI may not skip.

`tools/environment.sh` meets machines here that would take an hour each to set up:
their interpreters, apt-get, sudo and browsers are small fakes on the path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import chromium
import conftest
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()

# All that a machine needs besides Python; the real programs.
SHELL = "sh cat chmod cmp cp dirname env flock mkdir rm sed tr wc".split()

# Answers the questions that environment.sh asks, and logs what it installs.
PYTHON = """#!/bin/sh
case "$*" in
    *version_info*) echo {version} ;;
    *_base_executable*) echo "$0" ;;
    *ensurepip*) [ {ensurepip} = yes ] || [ -e {ensurepip} ] ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*) echo "pip ${{*#-m pip install --disable-pip-version-check }}" \
        >>"{log}"; {pip} ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


class Machine:
    """A machine made of fakes, with a copy of the project."""

    def __init__(self, folder: Path):
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.log = folder / "log"
        self.ensurepip = folder / "ensurepip"
        for name in ("tools", "tests"):
            (self.project / name).mkdir(parents=True)
        shutil.copy(ROOT / "tools/environment.sh", self.project / "tools")
        self.write("requirements.txt", "# a comment\nbook-package==1\n")
        self.write("requirements-dev.txt", "book-package==1\ntest-package==1\n")
        self.write("pyproject.toml", "[project]\n")
        self.write("tests/apt.txt", "# why\nchromium\nfonts\n")
        self.bin.mkdir()
        for name in SHELL:
            (self.bin / name).symlink_to(shutil.which(name) or pytest.fail(name))
        self.user(root=False)

    def write(self, name: str, text: str) -> None:
        (self.project / name).write_text(text)

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(script)
        path.chmod(0o755)

    def python(
        self,
        name: str = "python3",
        version: str = "3.11",
        ensurepip: bool = True,
        pip: str = ":",
    ) -> None:
        """Put an interpreter on the path; `pip` is what its pip does after logging."""
        self.program(
            name,
            PYTHON.format(
                version=version,
                ensurepip="yes" if ensurepip else self.ensurepip,
                log=self.log,
                pip=pip,
            ),
        )

    def user(self, root: bool) -> None:
        self.program("id", f"#!/bin/sh\necho {0 if root else 1000}\n")

    def debian(self, works: bool = True) -> None:
        """Put apt-get on the path: it logs, and brings ensurepip along."""
        self.program(
            "apt-get",
            f'#!/bin/sh\necho "apt-get $*" >>"{self.log}"\n'
            + (f'echo >"{self.ensurepip}"\n' if works else "exit 100\n"),
        )

    def sudo(self) -> None:
        self.program("sudo", '#!/bin/sh\n[ "$1" != -n ] || shift\n"$@"\n')
        self.program("true", "#!/bin/sh\n")

    def run(self, want: str = "book", **environment: str) -> Outcome:
        """Run environment.sh; the log starts empty."""
        self.log.write_text("")
        done = subprocess.run(
            ["sh", "tools/environment.sh", want],
            cwd=self.project,
            env={"PATH": str(self.bin), **environment},
            capture_output=True,
            text=True,
        )
        return Outcome(done, self.log.read_text().splitlines())


class Outcome:
    """What environment.sh said and what it had installed."""

    def __init__(self, done: subprocess.CompletedProcess, log: list[str]):
        self.code = done.returncode
        self.said = done.stdout + done.stderr
        self.log = log


BOOK = "pip -r requirements.txt"
TEST = "pip -r requirements-dev.txt"
PACKAGE = "pip --quiet --no-deps -e ."


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with Python 3.11, no Debian, a user without rights, no browser."""
    machine = Machine(tmp_path)
    machine.python()
    return machine


def test_makes_the_environment_once(machine):
    first = machine.run()
    assert (first.code, first.log) == (0, [BOOK, PACKAGE])
    assert "Making .venv" in first.said
    assert "there is none yet" in first.said
    assert "1 packages from requirements.txt" in first.said
    again = machine.run()
    assert (again.code, again.log, again.said) == (0, [], "")


def test_tests_add_to_the_book_environment_and_include_it(machine):
    machine.run()
    (machine.project / ".venv/kept").touch()
    assert machine.run("test", SYSTEM="0").log == [TEST, PACKAGE]
    assert (machine.project / ".venv/kept").exists()
    assert machine.run("test", SYSTEM="0").log == []
    assert machine.run("book").log == []


def test_a_changed_lock_starts_afresh(machine):
    machine.run()
    (machine.project / ".venv/old").touch()
    machine.write("requirements.txt", "book-package==2\n")
    changed = machine.run()
    assert changed.log == [BOOK, PACKAGE]
    assert "requirements.txt has changed" in changed.said
    assert not (machine.project / ".venv/old").exists()


def test_a_changed_test_lock_concerns_only_tests(machine):
    machine.run("test", SYSTEM="0")
    machine.write("requirements-dev.txt", "book-package==1\ntest-package==2\n")
    assert machine.run("book").log == []
    changed = machine.run("test", SYSTEM="0")
    assert changed.log == [TEST, PACKAGE]
    assert "requirements-dev.txt has changed" in changed.said


def test_a_new_comment_or_a_touched_file_installs_nothing(machine):
    machine.run()
    machine.write("requirements.txt", "# another comment\n\nbook-package==1\n")
    assert machine.run().log == []


def test_a_changed_pyproject_reinstalls_only_the_package(machine):
    machine.run()
    machine.write("pyproject.toml", "[project]\nversion = '2'\n")
    assert machine.run().log == [PACKAGE]


@pytest.mark.parametrize("accident", ["exit 1", "kill -9 $PPID"])
@pytest.mark.parametrize("want", ["book", "test"])
def test_an_interrupted_install_is_not_taken_as_good(machine, accident, want):
    machine.run("book")
    machine.python(pip=accident)
    machine.write("requirements.txt", "book-package==2\n")
    machine.write("requirements-dev.txt", "book-package==2\ntest-package==2\n")
    assert machine.run(want, SYSTEM="0").code != 0
    machine.python()
    repaired = machine.run("book")
    assert repaired.log == [BOOK, PACKAGE]
    assert "did not finish" in repaired.said


def test_a_moved_folder_starts_afresh(machine):
    machine.run()
    machine.project = machine.project.rename(machine.project.with_name("elsewhere"))
    assert "the folder has moved" in machine.run().said


def test_an_interpreter_that_is_gone_starts_afresh(machine):
    machine.run()
    (machine.project / ".venv/bin/python").write_text("#!/nowhere\n")
    assert "does not run any more" in machine.run().said


def test_chooses_an_interpreter_that_the_lock_was_made_for(machine):
    machine.python("python3", "3.10")
    machine.python("python3.12", "3.12")
    machine.program("python3.11", "#!/bin/sh\necho 'not installed' >&2\nexit 127\n")
    assert f"{machine.bin}/python3.12 (3.12)" in machine.run().said


def test_prefers_an_interpreter_that_can_make_environments(machine):
    machine.python("python3.11", "3.11", ensurepip=False)
    machine.python("python3.13", "3.13")
    chosen = machine.run()
    assert f"{machine.bin}/python3.13" in chosen.said
    assert chosen.code == 0


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_says_when_no_interpreter_will_do(machine, version):
    machine.python("python3", version)
    refused = machine.run()
    assert refused.code != 0
    assert refused.log == []
    assert "No Python 3.11, 3.12 or 3.13 was found" in refused.said
    assert "make book PYTHON=" in refused.said


def test_python_overrides_the_choice_and_the_environment(machine):
    machine.python("python3.12", "3.12")
    assert "(3.12)" in machine.run().said
    assert machine.run(PYTHON="python3.12").log == []
    other = machine.run(PYTHON="python3")
    assert "PYTHON asks for another version" in other.said
    assert "(3.11)" in other.said
    assert machine.run().log == []


@pytest.mark.parametrize("value", ["python9", "python3.9"])
def test_refuses_an_unsuitable_python(machine, value):
    machine.python("python3.9", "3.9")
    refused = machine.run(PYTHON=value)
    assert refused.code != 0
    assert f"PYTHON={value} is" in refused.said
    assert "3.11, 3.12 or 3.13" in refused.said


def test_refuses_an_unsuitable_python_for_an_existing_environment(machine):
    machine.run()
    refused = machine.run(PYTHON="python9")
    assert refused.code != 0
    assert "PYTHON=python9 is no Python that runs" in refused.said


VENV_COMMAND = "apt-get install -y --no-install-recommends python3.11-venv"
VENV_LOG = [
    "apt-get update -qq",
    "apt-get install -y --no-install-recommends python3.11-venv",
]


def test_root_on_debian_installs_the_missing_venv_module(machine):
    machine.python(ensurepip=False)
    machine.debian()
    machine.user(root=True)
    made = machine.run()
    assert made.code == 0
    assert made.log == [*VENV_LOG, BOOK, PACKAGE]
    said, made_at = made.said.index("python3.11-venv"), made.said.index("Making .venv")
    assert said < made_at, "it must say what it will do before doing it"


def test_password_less_sudo_installs_it_too(machine):
    machine.python(ensurepip=False)
    machine.debian()
    machine.sudo()
    assert machine.run().log == [*VENV_LOG, BOOK, PACKAGE]


@pytest.mark.parametrize("forbidden", ["SYSTEM=0", "no right", "no apt-get"])
def test_says_the_one_command_where_it_may_not_install(machine, forbidden):
    machine.python(ensurepip=False)
    machine.user(root=forbidden != "no right")
    if forbidden != "no apt-get":
        machine.debian()
    told = machine.run(**({"SYSTEM": "0"} if forbidden == "SYSTEM=0" else {}))
    assert told.code != 0
    assert told.log == []
    command = ("sudo " if forbidden == "no right" else "") + VENV_COMMAND
    assert f"this installs it:  {command}" in told.said
    assert not (machine.project / ".venv").exists()


def test_says_so_when_the_package_did_not_bring_the_module(machine):
    machine.python(ensurepip=False)
    machine.program("apt-get", "#!/bin/sh\n")
    machine.user(root=True)
    refused = machine.run()
    assert refused.code != 0
    assert "still cannot make environments" in refused.said


CHROMIUM_INSTALL = "apt-get install -y --no-install-recommends chromium fonts"


def test_tests_install_the_browser_on_debian(machine):
    machine.debian()
    machine.user(root=True)
    done = machine.run("test")
    assert done.log == [TEST, PACKAGE, "apt-get update -qq", CHROMIUM_INSTALL]
    assert "chromium fonts. Installing" in done.said


def test_the_book_installs_no_browser(machine):
    machine.debian()
    machine.user(root=True)
    assert machine.run("book").log == [BOOK, PACKAGE]


@pytest.mark.parametrize("browser", ["chromium", "google-chrome"])
def test_an_installed_browser_is_accepted(machine, browser):
    machine.debian()
    machine.user(root=True)
    machine.program(browser, "#!/bin/sh\n")
    done = machine.run("test")
    assert (done.code, done.log) == (0, [TEST, PACKAGE])


def test_installing_and_testing_look_for_the_same_browsers():
    script = (ROOT / "tools/environment.sh").read_text()
    start = script.index("chromium_found() {")
    looked_for = script[start : script.index("}", start)]
    for name in chromium.NAMES:
        assert re.search(rf'[ "]{re.escape(name)}[ ";]', looked_for), name


def test_the_browser_that_is_named_goes_first(monkeypatch, tmp_path):
    for name in ("mine", "google-chrome"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LAB_CHROMIUM", raising=False)
    assert chromium.find_chromium() == str(tmp_path / "google-chrome")
    monkeypatch.setenv("LAB_CHROMIUM", str(tmp_path / "mine"))
    assert chromium.find_chromium() == str(tmp_path / "mine")


@pytest.mark.parametrize("system", ["0", "1"])
def test_tests_go_on_without_a_browser_and_say_so(machine, system):
    machine.debian(works=False)
    machine.user(root=True)
    done = machine.run("test", SYSTEM=system)
    assert done.code == 0
    assert "Going on without" in done.said
    assert any("apt-get" in line for line in done.log) == (system == "1")


@pytest.mark.timeout(60)
def test_two_at_once_install_once(machine):
    """The second waits for the lock, and then finds the work done."""
    gate, reached = machine.bin.parent / "gate", machine.bin.parent / "reached"
    os.mkfifo(gate)
    os.mkfifo(reached)
    machine.python(pip=f'[ "${{*#*-r}}" = "$*" ] || {{ echo >{reached}; cat {gate}; }}')
    machine.log.write_text("")
    command = ["sh", "tools/environment.sh", "book"]
    options = {
        "cwd": machine.project,
        "env": {"PATH": str(machine.bin)},
        "stdout": subprocess.PIPE,
        "text": True,
    }
    with subprocess.Popen(command, **options) as first:
        reached.read_text()  # the first is in pip now
        with subprocess.Popen(command, **options) as second:
            assert "waiting for it" in second.stdout.readline()
            gate.write_text("go on\n")
            assert first.wait(30) == second.wait(30) == 0
    assert machine.log.read_text().splitlines() == [BOOK, PACKAGE]


def test_ci_runs_the_two_commands_and_nothing_else():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    commands = [line for line in lines if not re.match(r"#|set |cd |$", line)]
    assert commands == ["make test", "make book"]


def test_ci_run_fails_when_a_command_fails(tmp_path):
    """A green run means that both passed: the first failure ends it."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    (tmp_path / "make").write_text("#!/bin/sh\necho make $1\n[ $1 != test ]\n")
    (tmp_path / "make").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [tmp_path / ".ci/run"], env={"PATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "make test\n")


def test_workflows_run_what_a_reader_runs():
    """No logic of its own in CI: what it runs, everybody can run."""
    commands = []
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        for job in jobs.values():
            commands += [step["run"] for step in job["steps"] if "run" in step]
    assert commands.count(".ci/run") == 1
    targets = set(re.findall(r"^\.PHONY: ([\w-]+)$", MAKEFILE, re.M))
    for command in commands:
        program, *arguments = command.split()
        assert program in (".ci/run", "make", "git"), command
        assert program != "make" or arguments[0] in targets, command


def test_make_alone_lists_every_target():
    listed = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    targets = re.findall(r"^\.PHONY: ([\w-]+)$", MAKEFILE, re.M)
    assert set(targets) >= set(
        "help book test check soak bench notebooks preview lock clean".split()
    )
    for target in targets:
        assert re.search(rf"^make {target} +\S", listed, re.M), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_is_written_about_the_house_is_so(name):
    """Each `make` target and each file that a text names is there."""
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^\.PHONY: ([\w-]+)$", MAKEFILE, re.M))
    named = set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.M))
    assert named
    assert named <= targets
    links = re.findall(r"\]\(([^):]+)\)", text)
    for path in links:
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-dev.txt", "binder/requirements.txt"]
)
def test_a_lock_fits_every_machine(name):
    """Exact versions; no path and no address of the machine that made it."""
    text = (ROOT / name).read_text()
    assert "#    make lock\n" in text
    assert "://" not in text
    assert "--" not in re.sub(r"^ *#.*", "", text, flags=re.M)
    assert not re.search(r"(?:^|\s)/\w", text)
    for line in text.splitlines():
        assert line.lstrip().startswith("#") or re.match(r"[\w.\[\]-]+==\S+", line)


@pytest.mark.parametrize("python", ["3.11.0", "3.11.7", "3.12.4", "3.13.1"])
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_test_lock_holds_the_book_lock(python, platform):
    """Installing one after the other must not move a version, on any machine."""
    machine = {"python_full_version": python, "sys_platform": platform}
    machine["python_version"] = python.rpartition(".")[0]

    def pins(name: str) -> set[str]:
        lines = (ROOT / name).read_text().splitlines()
        kept = [Requirement(x) for x in lines if not x.lstrip().startswith("#")]
        return {
            f"{one.name}{one.specifier}"
            for one in kept
            if one.marker is None or one.marker.evaluate(machine)
        }

    assert len(pins("requirements.txt")) > 100
    assert pins("requirements.txt") <= pins("requirements-dev.txt")


def test_every_required_component_is_named_by_a_skip():
    """Else the list would hold a word that no test ever says."""
    files = [*(ROOT / "tests").glob("test_*.py"), ROOT / "tests/conftest.py"]
    tests = "".join(path.read_text() for path in files)
    assert conftest.components()
    for name in conftest.components():
        assert re.search(rf'\bskip\(\s*f?"[^"\n]*\b{re.escape(name)}\b', tests), name


SKIPPING = """
import pytest

def test_without_browser():
    pytest.skip("needs Chromium: none is installed")

@pytest.mark.skipif(True, reason="chromium is not installed")
def test_without_browser_by_mark():
    pass

def test_of_something_else():
    pytest.skip("needs chromiumless things, on macOS only")

@pytest.mark.xfail(reason="chromium is wrong here", strict=True)
def test_expected_to_fail():
    assert False

def test_passes():
    pass
"""
SKIPPING_FILE = 'import pytest\npytest.skip("no chromium", allow_module_level=True)\n'


@pytest.mark.parametrize(
    ("ci", "failed", "skipped"), [("true", 3, 1), ("false", 0, 4), (None, 0, 4)]
)
def test_ci_refuses_to_skip_a_required_component(tmp_path, ci, failed, skipped):
    """The planted fault: a machine without the browser, with CI set and without."""
    for name in ("tests/conftest.py", ".ci/required"):
        target = tmp_path / name
        target.parent.mkdir()
        shutil.copy(ROOT / name, target)
    (tmp_path / "tests/test_planted.py").write_text(SKIPPING)
    (tmp_path / "tests/test_planted_file.py").write_text(SKIPPING_FILE)
    environment = {k: v for k, v in os.environ.items() if k != "CI"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # start in half a second
    options = "-p no:cacheprovider --continue-on-collection-errors"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options.split(), "tests"],
        cwd=tmp_path,
        env=environment | ({"CI": ci} if ci else {}),
        capture_output=True,
        text=True,
    )
    *_, last = done.stdout.splitlines()
    counts = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", last)}
    assert counts["passed"] == counts["xfailed"] == 1
    assert counts.get("failed", 0) + counts.get("errors", 0) == failed
    assert counts["skipped"] == skipped
    assert (done.returncode == 0) == (failed == 0)
    assert ("CI requires chromium" in done.stdout) == (failed > 0)
