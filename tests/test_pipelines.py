"""The pipeline in every engine: its steps, and the recorded table of what was observed.

Where the environments of `make extras-pipelines` are there, their engines run again.
"""

import csv
import datetime
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from deploylab import ROOT, artifacts
from deploylab.registry import Reader, Registry

EXTRAS = ROOT / "extras" / "pipelines"
sys.path.insert(0, str(EXTRAS))

import observe  # noqa: E402
import steps  # noqa: E402

#: Engine -> its package; `plain` is Python, and has no engine.
PACKAGES = {
    "plain": "python",
    "luigi": "luigi",
    "metaflow": "metaflow",
    "kfp": "kfp",
    "airflow": "apache-airflow",
}
ENGINES = [name for name in PACKAGES if name != "plain"]
EXPERIMENTS = ["good", "bad", "killed", "fails once"]
#: What a kill between training and release costs: these train again.
TRAIN_AGAIN = {"plain", "kfp"}
#: `kfp.local` takes no notice of `set_retry`.
NO_RETRY = {"kfp"}


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


TABLE = read(EXTRAS / "results.csv")


def recorded(experiment):
    return {row["engine"]: row for row in TABLE if row["experiment"] == experiment}


# -- the recorded table


def test_every_engine_has_a_row_for_every_experiment():
    assert [(row["engine"], row["experiment"]) for row in TABLE] == [
        (engine, experiment) for engine in PACKAGES for experiment in EXPERIMENTS
    ]


@pytest.mark.parametrize(
    "row", TABLE, ids=lambda row: f"{row['engine']}-{row['experiment']}"
)
def test_a_row_is_complete_and_dated(row):
    may_be_empty = {"why not"}
    if row["experiment"] != "bad":
        may_be_empty.add("reason shown in")
    if row["experiment"] != "killed":
        may_be_empty.add("resumed by")
    if row["engine"] in ("plain", "luigi"):
        may_be_empty.add("kept what")
    if row["engine"] == "plain":
        may_be_empty |= {"packages", "environment MiB"}
    assert {column for column in row if not row[column]} <= may_be_empty
    assert row["ran"] == "yes"
    assert row["package"] == PACKAGES[row["engine"]]
    assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 23)
    assert "cores" in row["machine"]
    whole, parts = float(row["seconds"]), ("steps s", "engine s")
    assert whole == pytest.approx(sum(float(row[part]) for part in parts), abs=0.11)
    assert all(float(row[part]) > 0 for part in (*parts, "cpu s", "engine cpu s"))


def test_the_whole_table_is_of_one_day_and_one_machine():
    """Times of two runs are not compared; the load may change while one goes on."""
    stamps = {
        (row["date"], re.sub(r"load \d+", "load", row["machine"])) for row in TABLE
    }
    assert len(stamps) == 1


def test_a_good_version_is_released_once_by_every_engine():
    for row in recorded("good").values():
        assert (row["alias before"], row["alias after"]) == ("1", "2")
        assert row["alias moves"] == "1"
        assert [row[f"{step} ran"] for step in ("train", "gate", "release")] == [
            "1"
        ] * 3
        assert row["ended"] == "exit 0" or row["ended"].startswith("run success")


def test_a_bad_version_is_stopped_by_the_gate_and_the_engine_says_so():
    for row in recorded("bad").values():
        assert (row["alias before"], row["alias after"]) == ("1", "1")
        assert (row["alias moves"], row["versions"]) == ("0", "1")
        assert (row["gate ran"], row["release ran"]) == ("1", "0")
        assert re.match(r"exit [1-9]|run failed", row["ended"])


def test_after_a_kill_nothing_is_released_twice():
    for engine, row in recorded("killed").items():
        assert row["alias after"] == "2"
        assert (row["alias moves"], row["versions"]) == ("1", "2")
        assert (row["gate ran"], row["release ran"]) == ("2", "1")
        assert row["train again"] == str(int(engine in TRAIN_AGAIN)), engine
        assert row["train ran"] == str(1 + int(row["train again"]))


def test_a_step_that_fails_once_is_tried_again_but_by_one_engine():
    for engine, row in recorded("fails once").items():
        retried = engine not in NO_RETRY
        assert row["release ran"] == str(1 + retried)
        assert row["alias after"] == str(1 + retried)
        # Published before it failed: trying again gave it no second number.
        assert row["versions"] == "2"
        assert (row["train ran"], row["gate ran"]) == ("1", "1")


def test_every_environment_pins_all_that_it_installs():
    for engine in ENGINES:
        source = (EXTRAS / engine / "requirements.in").read_text().splitlines()
        assert source[0].startswith("#"), "says what the environment is for"
        assert "-r ../model.in" in source
        lock = (EXTRAS / engine / "requirements.txt").read_text().splitlines()
        named = [line for line in lock if line and line.lstrip()[0] != "#"]
        assert [line for line in named if "==" not in line] == []
        [found] = [ln for ln in named if ln.startswith(f"{PACKAGES[engine]}==")]
        row = recorded("good")[engine]
        assert found.split("==")[1].split()[0] == row["version"], "recorded before"


def test_every_engine_has_the_same_libraries_for_the_model():
    for line in (EXTRAS / "model.in").read_text().splitlines():
        if "==" in line:
            for engine in ENGINES:
                lock = (EXTRAS / engine / "requirements.txt").read_text()
                assert line in lock.splitlines(), engine


@pytest.mark.parametrize("engine", PACKAGES)
def test_an_engines_file_is_short_enough_to_be_shown(engine):
    text = (EXTRAS / engine / "pipeline.py").read_text()
    assert len(text.splitlines()) <= 55
    for step in ("train", "gate", "release"):
        assert f"steps.{step}(" in text


# -- the steps


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A registry in which v1 is served; copy it."""
    folder = tmp_path_factory.mktemp("served")
    steps.train("v1", folder / "v1")
    with Registry(folder / "registry") as registry:
        number = registry.publish(folder / "v1")
        registry.set_alias(steps.ALIAS, number, who="test")
    return folder / "registry"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A candidate that is good; copy it."""
    folder = tmp_path_factory.mktemp("trained") / "v2"
    steps.train("v2", folder)
    return folder


@pytest.fixture
def registry(served, tmp_path):
    return shutil.copytree(served, tmp_path / "registry")


@pytest.fixture
def candidate(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "candidate")


def champion(registry):
    return Reader(registry).pointers().aliases[steps.ALIAS]


@pytest.mark.slow
def test_a_candidate_that_passes_is_released_and_only_once(candidate, registry):
    found = steps.gate(candidate, registry)
    assert found["rows"] == 4374
    assert champion(registry) == 1, "the gate moves nothing"
    assert [steps.release(candidate, registry) for _ in range(2)] == [2, 2]
    reader = Reader(registry)
    assert champion(registry) == 2
    assert [move.value for move in reader.trail()] == ["1", "2"]
    assert reader.numbers() == [1, 2]


@pytest.mark.slow
def test_a_model_that_its_export_does_not_match_is_refused(candidate, registry):
    scores = np.load(candidate / "scores.npy")
    for wrong in (scores[7] + 1e-4, np.nan):
        changed = scores.copy()
        changed[7] = wrong
        np.save(candidate / "scores.npy", changed)
        with pytest.raises(steps.Refused, match=r"^parity: 1 of 4374 rows differ$"):
            steps.gate(candidate, registry)
    assert not (candidate / "passed.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("v2-skewed", "^quality: 70.8% right, and the served version 1 has 90.4%$"),
        ("v3-contract", "^contract: phishing-9, and callers send phishing-8$"),
    ],
)
def test_a_bad_version_is_refused_with_the_reason(version, reason, registry, tmp_path):
    steps.train(version, tmp_path / "bad")
    with pytest.raises(steps.Refused, match=reason):
        steps.gate(tmp_path / "bad", registry)
    with pytest.raises(steps.Refused, match="did not pass the gate"):
        steps.release(tmp_path / "bad", registry)
    assert champion(registry) == 1


@pytest.mark.slow
def test_where_nothing_is_served_there_is_nothing_to_compare_with(candidate, tmp_path):
    Registry(tmp_path / "empty").close()
    with pytest.raises(steps.Refused, match="no champion to compare with"):
        steps.gate(candidate, tmp_path / "empty")


@pytest.mark.slow
def test_what_was_trained_after_the_gate_is_not_released(candidate, registry):
    """Other files, the same folder: what passed is not what is there now."""
    steps.gate(candidate, registry)
    steps.train("v2-skewed", candidate)
    with pytest.raises(steps.Refused, match="did not pass the gate"):
        steps.release(candidate, registry)
    assert champion(registry) == 1


@pytest.mark.slow
def test_a_candidate_that_passed_once_and_fails_now_has_not_passed(candidate, registry):
    steps.gate(candidate, registry)
    np.save(candidate / "scores.npy", np.zeros(4374))
    with pytest.raises(steps.Refused, match="parity"):
        steps.gate(candidate, registry)
    with pytest.raises(steps.Refused, match="did not pass the gate"):
        steps.release(candidate, registry)


@pytest.mark.slow
def test_a_release_that_broke_off_is_finished_by_the_next(
    candidate, registry, tmp_path, monkeypatch
):
    monkeypatch.setenv("PIPELINE_OBSERVE", str(tmp_path))
    (tmp_path / "fail-published").touch()
    steps.gate(candidate, registry)
    with pytest.raises(ConnectionError, match="planted"):
        steps.release(candidate, registry)
    assert (champion(registry), Reader(registry).numbers()) == (1, [1, 2])
    steps.release(candidate, registry)
    assert (champion(registry), Reader(registry).numbers()) == (2, [1, 2])
    lines = observe.read(tmp_path)
    assert [(line["step"], line["what"]) for line in lines] == [
        *[("gate", "began"), ("gate", "done")],
        *[("release", "began"), ("release", "failed")],
        *[("release", "began"), ("release", "done")],
    ]


@pytest.mark.slow
def test_training_again_gives_the_same_files(trained, tmp_path):
    steps.train("v2", tmp_path / "again")
    digests = [
        artifacts.read(folder).digest for folder in (trained, tmp_path / "again")
    ]
    assert digests[0] == digests[1]


def test_who_is_not_observed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("PIPELINE_OBSERVE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert observe.step(lambda number: number + 1)(1) == 2
    assert list(tmp_path.iterdir()) == []
    assert observe.read(tmp_path) == []


def test_a_run_that_is_held_goes_on_when_it_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setenv("PIPELINE_OBSERVE", str(tmp_path))
    (tmp_path / "hold-gate").touch()
    monkeypatch.setattr(
        observe.time, "sleep", lambda _: (tmp_path / "hold-gate").unlink()
    )
    observe.point("gate")
    [line] = observe.read(tmp_path)
    assert (line["step"], line["what"]) == ("gate", "held")


# -- the engines


@pytest.mark.slow
def test_an_environment_that_is_missing_leaves_the_table_alone(tmp_path):
    """Nothing is half-written, and the message names what failed."""
    copy = tmp_path / "extras" / "pipelines"
    copy.mkdir(parents=True)
    for name in ("run.py", "engines.py", "observe.py", "steps.py"):
        (copy / name).write_bytes((EXTRAS / name).read_bytes())
    out = tmp_path / "table.csv"
    out.write_text("before")
    done = subprocess.run(
        [sys.executable, copy / "run.py", "--only", "luigi", "--out", out],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode != 0
    assert "make extras-pipelines" in done.stderr
    assert out.read_text() == "before"


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v2", "v2-skewed"])
def test_plain_python_ends_as_recorded(version, registry, tmp_path):
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(EXTRAS)])}
    folder = tmp_path / "work"
    done = subprocess.run(
        [sys.executable, EXTRAS / "plain" / "pipeline.py", version, folder, registry],
        capture_output=True,
        text=True,
        env=env,
    )
    good = version == "v2"
    assert done.returncode == (0 if good else 1)
    assert good or "Refused: quality" in done.stderr
    assert champion(registry) == 1 + good
    assert (folder / "released.json").exists() == good
    if good:
        assert json.loads((folder / "released.json").read_text()) == {"number": 2}


@pytest.mark.soak
@pytest.mark.parametrize("engine", PACKAGES)
def test_an_engine_runs_again_with_the_same_result(engine, tmp_path):
    """All but the times, and what they are measured on."""
    if engine != "plain" and not (EXTRAS / engine / ".venv").exists():
        pytest.skip(f"extras/pipelines/{engine}: `make extras-pipelines` has not run")
    out = tmp_path / "again.csv"
    command = [sys.executable, EXTRAS / "run.py", "--only", engine, "--out", out]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    same = ["experiment", "ran", "ended", "alias after", "alias moves", "versions"]
    same += ["train ran", "gate ran", "release ran", "train again", "release again"]
    known = [[row[name] for name in same] for row in TABLE if row["engine"] == engine]
    assert [[row[name] for name in same] for row in read(out)] == known


@pytest.mark.soak
@pytest.mark.parametrize("version", ["v2", "v2-skewed"])
def test_luigi_without_its_configuration_neither_tells_nor_tries_again(
    version, registry, tmp_path
):
    """As the README says: what `luigi.cfg` is there for."""
    luigi = EXTRAS / "luigi" / ".venv" / "bin" / "luigi"
    if not luigi.exists():
        pytest.skip("extras/pipelines/luigi: `make extras-pipelines` has not run")
    paths = [ROOT, EXTRAS, EXTRAS / "luigi"]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PIPELINE_OBSERVE": str(tmp_path),
        "LUIGI_CONFIG_PATH": str(tmp_path / "none.cfg"),
    }
    (tmp_path / "fail-published").touch()
    about = ["--version", version, "--folder", tmp_path / "work"]
    about += ["--registry", registry, "--local-scheduler"]
    done = subprocess.run(
        [luigi, "--module", "pipeline", "Release", *about],
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
    )
    assert done.returncode == 0
    assert "there were failed tasks" in done.stderr
    assert champion(registry) == 1
    ran = [line["step"] for line in observe.read(tmp_path) if line["what"] == "began"]
    assert ran == (
        ["train", "gate", "release"] if version == "v2" else ["train", "gate"]
    )
