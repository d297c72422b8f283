"""The recorded table of formats: complete, dated, and what the page says of it.

Where the environments of `make extras-formats` are there, their formats run again.
"""

import csv
import datetime
import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploylab import ROOT, artifacts, phishing

EXTRAS = ROOT / "extras" / "formats"
N_REQUESTS = 4374
#: Formats that the page says ran on every request, and those that did not.
RAN = {
    *("pickle", "joblib", "skops", "onnx", "PMML", "PFA"),
    *("Python code", "C code", "JavaScript code"),
}
NOT = {"MLeap", "MOJO", "POJO"}
#: What a format may differ by: single precision where ONNX is, else the last bits.
TOLERANCE = {"onnx": 1e-6}
ALWAYS = [
    *("experiment", "format", "tool", "version", "model", "stores", "reader"),
    *("runs code on load", "loads after upgrade", "ran", "date", "machine"),
]
MEASURED = [
    *("rows", "max |difference|", "labels agree", "size KiB", "load ms"),
    "latency µs a row",
]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


TABLE = read(EXTRAS / "results.csv")
FORMATS = [row for row in TABLE if row["experiment"] == "format"]
MOVES = [row for row in TABLE if row["experiment"] == "upgrade"]


def test_every_format_of_the_page_has_a_row():
    assert {row["format"] for row in FORMATS} == RAN | NOT
    assert {row["format"] for row in FORMATS if row["ran"] == "yes"} == RAN
    assert {"onnxruntime-node", "nyoka", "treelite + tl2cgen"} <= {
        row["tool"] for row in FORMATS
    }


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row['format']}-{row['tool']}")
def test_a_row_is_complete_and_dated(row):
    assert [column for column in ALWAYS if not row[column]] == []
    day = datetime.date.fromisoformat(row["date"])
    assert datetime.date(2026, 11, 1) <= day
    assert "cores" in row["machine"]
    assert row["ran"] in ("yes", "partly", "no")
    if row["ran"] != "yes":
        assert len(row["note"]) > 20, "what did not run says why"
    elif row["experiment"] == "format":
        assert [column for column in MEASURED if not row[column]] == []


def test_the_whole_table_is_of_one_day_and_one_machine():
    """Times of two runs are not compared; the load may change while one goes on."""
    stamps = {
        (row["date"], re.sub(r"load \d+", "load", row["machine"])) for row in TABLE
    }
    assert len(stamps) == 1


@pytest.mark.parametrize(
    "row",
    [row for row in TABLE if row["ran"] == "yes"],
    ids=lambda row: f"{row['format']}-{row['tool']}-{row['model']}",
)
def test_what_ran_agrees_on_every_request(row):
    assert int(float(row["rows"])) == N_REQUESTS
    assert int(float(row["labels agree"])) == N_REQUESTS
    allowed = TOLERANCE.get(row["format"], 1e-12)
    assert float(row["max |difference|"]) <= allowed


def test_the_requests_are_all_that_the_contract_allows():
    count = 1
    for feature in phishing.CONTRACT.features:
        count *= len(feature.values)
    assert count == N_REQUESTS


def test_every_move_between_versions_was_tried():
    versions = {row["version"] for row in MOVES}
    assert len(versions) == 3
    tried = {
        (row["format"], row["model"], row["version"], row["reader"]) for row in MOVES
    }
    assert tried == {
        (form, model, writer, f"scikit-learn {reader}")
        for form in artifacts.FORMATS
        for model in ("v1", "v2")
        for writer in versions
        for reader in versions
        if reader != writer
    }


def test_an_upgrade_goes_well_and_onnx_also_goes_back():
    def release(text):
        return tuple(int(part) for part in text.split()[-1].split("."))

    for row in MOVES:
        forward = release(row["version"]) < release(row["reader"])
        if forward or row["format"] == "onnx":
            assert row["ran"] == "yes", row
    assert any(row["ran"] == "no" for row in MOVES), "the page tells of a way back"


def test_every_environment_pins_all_that_it_installs():
    files = sorted(EXTRAS.glob("*/requirements.txt"))
    assert len(files) == 7
    for path in files:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("#"), "says what the environment is for"
        loose = [ln for ln in lines if ln and ln[0] != "#" and "==" not in ln]
        assert loose == [], path
    assert (EXTRAS / "node" / "package-lock.json").exists()


def ready(name):
    return (EXTRAS / name / ("node_modules" if name == "node" else ".venv")).exists()


@pytest.mark.soak
@pytest.mark.parametrize(
    "name", ["pfa", "node", "mleap", "h2o", "compiled", "pmml", "upgrade"]
)
def test_a_format_runs_again_with_the_same_result(name, tmp_path):
    """All but the times: those belong to the machine."""
    needed = ["sklearn-1.7", "sklearn-1.8"] if name == "upgrade" else [name]
    if not all(ready(one) for one in needed):
        pytest.skip(f"extras/formats/{name}: `make extras-formats` has not been run")
    out = tmp_path / "again.csv"
    command = [sys.executable, EXTRAS / "run.py", "--only", name, "--out", out]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    same = ("experiment", "format", "tool", "version", "model", "reader", "ran")
    again = read(out)
    assert again
    known = {tuple(row[column] for column in same) for row in TABLE}
    for row in again:
        assert tuple(row[column] for column in same) in known
        if row["ran"] == "yes":
            assert int(row["labels agree"]) == int(row["rows"]) == N_REQUESTS


@pytest.mark.slow
def test_an_environment_that_is_missing_leaves_the_table_alone(tmp_path):
    """Nothing is half-written, and the message names what failed."""
    copy = tmp_path / "extras" / "formats"
    (copy / "pfa").mkdir(parents=True)
    for name in ("run.py", "measure.py", "pfa/score.py"):
        (copy / name).write_bytes((EXTRAS / name).read_bytes())
    out = tmp_path / "table.csv"
    out.write_text("before")
    done = subprocess.run(
        [sys.executable, copy / "run.py", "--only", "pfa", "--out", out],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode != 0
    assert "make extras-formats" in done.stderr
    assert out.read_text() == "before"
    assert not Path(tmp_path / "table.new").exists()
