"""Runs every format that does not fit into the book's environment; see README.md.

    make extras-formats                 installs all, and writes results.csv
    run.py --only pfa --out other.csv   one of them again, into another file

Each environment runs its own script, which prints rows; what they say is the table.
"""

import argparse
import contextlib
import csv
import datetime
import itertools
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import joblib
import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT), str(HERE)]

from measure import agreement, measure  # noqa: E402

from deploylab import artifacts, phishing  # noqa: E402

COLUMNS = [
    *("experiment", "format", "tool", "version", "model", "stores", "reader"),
    *("runs code on load", "loads after upgrade", "ran", "rows", "max |difference|"),
    *("labels agree", "size KiB", "load ms", "latency µs a row", "note", "date"),
    "machine",
]
NONE = "has no scikit-learn in it"
#: Format -> what it stores, who reads it, whether loading runs code of the file's
#: choice, and what an upgrade of scikit-learn does to it (measured where left empty).
ABOUT = {
    "pickle": ("names and numbers", "Python", "yes", ""),
    "joblib": ("names and numbers", "Python", "yes", ""),
    "skops": ("names and numbers", "Python", "only reviewed types", ""),
    "onnx": ("the computation", "C++, Python, Java, JavaScript, ...", "no", ""),
    "PMML": (
        *("the model, as XML", "Java; Python through Java"),
        *("may name Java classes of the reader", NONE),
    ),
    "PFA": (
        *("the computation, as JSON", "Python (titus2, mended), Java"),
        *("compiled and executed by titus2", NONE),
    ),
    "MLeap": ("the pipeline, as JSON", "Java, Scala, Spark", "no", NONE),
    "MOJO": ("H2O's own model", "Java", "no", NONE),
    "POJO": ("H2O's own model, as Java", "Java", "is code", NONE),
    "Python code": ("the computation, as source", "Python", "is code", NONE),
    "C code": ("the computation, as machine code", "what calls C", "is code", NONE),
    "JavaScript code": ("the computation, as source", "JavaScript", "is code", NONE),
}
#: Environment -> the format of its rows (unless they say), and its scripts.
ENVIRONMENTS = {
    "pmml": ("PMML", ["convert", "jpmml", "pypmml"]),
    "pfa": ("PFA", [""]),
    "mleap": ("MLeap", [""]),
    "h2o": ("", [""]),
    "compiled": ("", [""]),
}
#: Environments with another scikit-learn each; the last is the book's own.
SKLEARN = ["sklearn-1.7", "sklearn-1.8", "book"]


def python(environment):
    """The interpreter of an environment; the book's is the one that runs this."""
    if environment == "book":
        return Path(sys.executable)
    found = HERE / environment / ".venv" / "bin" / "python"
    if not found.exists():
        sys.exit(f"{found} is missing: `make extras-formats` installs what is needed")
    return found


def call(command, **more):
    """What a command prints; what it started ends with it, a Java machine too."""
    paths = os.pathsep.join([str(ROOT), str(HERE)])
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
        **more,
    )
    try:
        said, errors = process.communicate(timeout=1200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        last = (errors.strip().splitlines() or ["it said nothing"])[-1]
        sys.exit(f"{' '.join(map(str, command))} failed: {last}")
    return said


def told(environment, *command):
    """The rows that a script of an environment prints."""
    said = call([python(environment), *command])
    lines = [line for line in said.splitlines() if line.startswith("ROW ")]
    return [json.loads(line.removeprefix("ROW ")) for line in lines]


def prepare(work):
    """What the scripts read: every row, both models' scores, and both models."""
    values = [feature.values for feature in phishing.CONTRACT.features]
    grid = np.array(list(itertools.product(*values)))
    np.save(work / "rows.npy", grid)
    (work / "rows.json").write_text(json.dumps(grid.tolist()))
    train = phishing.split().train
    train[[*phishing.CONTRACT.names, phishing.LABEL]].to_csv(
        work / "train.csv", index=False
    )
    models = {name: phishing.train(name) for name in ("v1", "v2")}
    for name, model in models.items():
        np.save(work / f"{name}.npy", model.predict_proba(grid)[:, 1])
    scaler, regression = models["v1"]
    folded = regression.coef_[0] / scaler.scale_
    shift = regression.intercept_[0] - folded @ scaler.mean_
    document = {"coefficients": folded.tolist(), "intercept": float(shift)}
    (work / "v1.json").write_text(json.dumps(document))
    return grid, models


def page_formats(work, grid, models):
    """The four formats of the page, measured beside the others on this machine."""
    for form in artifacts.FORMATS:
        version, model = phishing.version("v2"), models["v2"]
        saved = artifacts.save(version, work / form, form, model=model)
        answers = measure(
            [saved.file],
            grid,
            np.load(work / "v2.npy"),
            lambda saved=saved: artifacts.load(saved.folder, trust=saved.sha256),
            lambda scorer, rows: scorer.score(rows),
        )
        tool = {"onnx": "skl2onnx", "pickle": "python"}.get(form, form)
        made = saved.made_with | {"joblib": joblib.__version__}
        yield {
            "format": form, "tool": tool, "version": made[tool], "model": "v2",
            "ran": "yes", **answers,
        }  # fmt: skip


def from_node(work):
    """The ONNX file of the page, scored from JavaScript."""
    script, file = HERE / "node" / "score.mjs", work / "v2.onnx"
    file.write_bytes(artifacts.load(work / "onnx").artifact.file.read_bytes())
    said = json.loads(call(["node", script, file, work / "rows.json"]))
    lock = json.loads((HERE / "node" / "package-lock.json").read_text())
    version = lock["packages"]["node_modules/onnxruntime-node"]["version"]
    yield {
        "format": "onnx", "tool": "onnxruntime-node", "version": version,
        "model": "v2", "reader": "JavaScript", "ran": "yes",
        "size KiB": round(file.stat().st_size / 1024, 1),
        "note": f"node {call(['node', '--version']).strip()}",
        **agreement(said.pop("scores"), np.load(work / "v2.npy")), **said,
    }  # fmt: skip


def upgrades(work):
    """Every format of the page, saved by each scikit-learn and read by each other."""
    script = HERE / "upgrade.py"
    for writer in SKLEARN:
        call([python(writer), script, "save", work / writer])
    for writer in SKLEARN:
        for reader in SKLEARN:
            if reader != writer:
                yield from told(reader, script, "load", work / writer)


def survived(rows, form):
    """What the upgrades said about a format, in words."""
    tried = [row for row in rows if row["format"] == form]
    same = [
        row
        for row in tried
        if row["ran"] == "yes" and row["labels agree"] == row["rows"]
    ]
    return f"{len(same)} of {len(tried)} moves" if tried else ""


def table(only=None):
    """The rows of the table, in the order of COLUMNS."""
    with tempfile.TemporaryDirectory(prefix="formats-") as name:
        work = Path(name)
        grid, models = prepare(work)
        rows = []
        if only in (None, "node"):
            rows += page_formats(work, grid, models)
            rows += from_node(work)
        for environment, (form, steps) in ENVIRONMENTS.items():
            if only in (None, environment):
                script = HERE / environment / "score.py"
                for step in steps:
                    found = told(environment, script, work, *filter(None, [step]))
                    rows += [{"format": form} | row for row in found]
                print(f"{environment}: done", flush=True)
        moved = list(upgrades(work)) if only in (None, "upgrade") else []
    rows.sort(key=lambda row: list(ABOUT).index(row["format"]))
    stamp = {"date": datetime.date.today().isoformat(), "machine": machine()}
    for row in rows + moved:
        about = dict(zip(COLUMNS[5:9], ABOUT[row["format"]], strict=True))
        about["loads after upgrade"] = about["loads after upgrade"] or survived(
            moved, row["format"]
        )
        yield {"experiment": "format", **about, **row, **stamp}


def machine():
    """Enough to read the timings by: system, processor, cores, Python, Java."""
    cores = os.cpu_count()
    busy = f"load {os.getloadavg()[0]:.0f}"
    system = f"{platform.system()} {platform.machine()}"
    return f"{system}, {cores} cores, {busy}, Python {platform.python_version()}"


def main():
    """Write the table, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*ENVIRONMENTS, "node", "upgrade"])
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    asked = parser.parse_args()
    rows = list(table(asked.only))
    fresh = asked.out.with_suffix(".new")
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    fresh.replace(asked.out)
    print(f"{len(rows)} rows in {asked.out}")


if __name__ == "__main__":
    main()
