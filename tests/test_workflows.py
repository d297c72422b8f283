"""The workflows: the published schema, zizmor, our rules, and what the page shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PAGE = ROOT / "book/automation/delivery-pipelines.md"


def program(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).with_name(name))


def schema(*paths: Path) -> subprocess.CompletedProcess:
    """check-jsonschema, with the schema that it carries."""
    command = [program("check-jsonschema"), "--builtin-schema"]
    return subprocess.run(
        [*command, "vendor.github-workflows", *map(str, paths)],
        capture_output=True,
        text=True,
    )


def zizmor(root: Path) -> subprocess.CompletedProcess:
    """zizmor on the workflows of a repository, without asking GitHub anything."""
    return subprocess.run(
        [program("zizmor"), "--offline", "--no-progress", "--format=plain", ".github"],
        cwd=root,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with our workflows and nothing else."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    return tmp_path


def edit(root: Path, name: str, old: str, new: str) -> Path:
    """Change one place of a workflow."""
    path = root / ".github/workflows" / f"{name}.yml"
    text = path.read_text()
    assert text.count(old) >= 1, old
    path.write_text(text.replace(old, new, 1))
    return path


def test_the_workflows_keep_the_published_schema():
    done = schema(*WORKFLOWS)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("runs-on", "run-on"),
        ("timeout-minutes: 90", "timeout-minutes: ninety"),
        ("pull_request:", "pull_requests:"),
        ("contents: read", "contents: reed"),
    ],
)
def test_the_schema_refuses_a_typo(copy, old, new):
    assert schema(edit(copy, "ci", old, new)).returncode == 1


def test_zizmor_finds_nothing():
    done = zizmor(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("name", "old", "new", "audit"),
    [
        ("ci", "          persist-credentials: false", "          fetch-depth: 1",
         "artipacked"),
        ("ci", "actions/setup-python@v7", "somebody/setup-python@v7", "unpinned-uses"),
        ("ci", "  pull_request:", "  pull_request_target:", "dangerous-triggers"),
        ("ci", "run: .ci/run", "run: echo ${{ github.head_ref }}; .ci/run",
         "template-injection"),
    ],
)  # fmt: skip
def test_zizmor_finds_what_is_planted(copy, name, old, new, audit):
    edit(copy, name, old, new)
    done = zizmor(copy)
    assert done.returncode != 0
    assert audit in done.stdout


def test_every_job_ends_by_itself_and_may_do_little():
    for path in WORKFLOWS:
        flow = yaml.safe_load(path.read_text())
        assert flow["permissions"] == {"contents": "read"}, path.name
        for name, job in flow["jobs"].items():
            limit = job.get("timeout-minutes")
            assert isinstance(limit, int), f"{path.name}: {name}"
            assert limit <= 180, f"{path.name}: {name}"


def test_publishing_waits_for_ci_and_for_a_push():
    flow = yaml.safe_load((ROOT / ".github/workflows/publish.yml").read_text())
    trigger = flow[True]  # YAML 1.1 reads the key `on` as a truth value
    assert trigger["workflow_run"]["workflows"] == ["ci"]
    guard = flow["jobs"]["build"]["if"]
    assert "workflow_run.conclusion == 'success'" in guard
    assert "workflow_run.event == 'push'" in guard
    assert flow["jobs"]["deploy"]["needs"] == "build"
    # In a group one run waits, and GitHub cancels the others: who is skipped stays out.
    assert guard.replace("\n", " ") in flow["concurrency"]["group"].replace("(", "", 1)
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert "'refs/heads/main' && github.sha" in ci["concurrency"]["group"]


def excerpts(name: str) -> list[list[str]]:
    """The lines of a workflow that each listing of the page shows."""
    lines = (ROOT / f".github/workflows/{name}.yml").read_text().splitlines()
    included = re.findall(
        r"\{literalinclude\} \.\./\.\./\.github/workflows/(.*)\.yml\n((?::.*\n)*)",
        PAGE.read_text(),
    )
    ranges = [re.search(r":lines: (\d+)-(\d+)", o) for n, o in included if n == name]
    return [lines[int(found[1]) - 1 : int(found[2])] for found in ranges]


def test_the_page_shows_every_line_of_ci_in_order():
    lines = (ROOT / ".github/workflows/ci.yml").read_text().splitlines()
    for shown in excerpts("ci"):
        assert shown[0].strip(), "the first line is empty"
    shown = [line for part in excerpts("ci") for line in part if line]
    assert shown == [line for line in lines if line]


def test_the_page_shows_whole_parts_of_publish():
    ends = [(shown[0], shown[-1].strip()) for shown in excerpts("publish")]
    assert ends == [
        ("on:", "workflow_dispatch:"),
        ("jobs:", "persist-credentials: false"),
    ]
