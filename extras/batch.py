"""Measure the batch job beside an engine, and record it: one line a run.

    .venv/bin/python extras/batch.py spark
    .venv/bin/python extras/batch.py ray

In turns, round by round, each size is scored by the book's own job on one core
(`job`), by two of them on half of the rows each (`two jobs`), and by the engine. Every
run is a process of its own, and its output is compared with the job's, row by row: an
engine that is fast and wrong is not recorded. Writes extras/<engine>/batch.csv.
"""

import argparse
import csv
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from deploylab import artifacts, phishing, servers  # noqa: E402

JOB = ROOT / "book" / "listings" / "batch_job.py"
PYFUNC = ROOT / "book" / "listings" / "phishing_pyfunc.py"
GROUP = 50_000
SIZES = [50_000, 500_000, 5_000_000]


def write_input(path: Path, first: int, n_rows: int) -> None:
    """Rows of the data set, drawn with replacement; ids count from `first`."""
    rng = np.random.default_rng([7, first])
    data = phishing.load()
    picked = rng.integers(0, len(data), n_rows)
    columns = {"id": np.arange(first, first + n_rows)}
    for name in phishing.CONTRACT.names:
        columns[name] = data[name].to_numpy()[picked]
    pq.write_table(pa.table(columns), path, row_group_size=GROUP)


def save_pyfunc(saved: artifacts.Artifact, folder: Path) -> None:
    """The same ONNX file as an MLflow model, for Spark."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    inputs = Schema([ColSpec("double", name) for name in saved.contract.names])
    mlflow.pyfunc.save_model(
        str(folder),
        python_model=str(PYFUNC),
        artifacts={"onnx": str(saved.file)},
        model_config={"features": saved.contract.names},
        signature=ModelSignature(inputs, Schema([ColSpec("double")])),
        pip_requirements=["onnxruntime", "pandas", "numpy", "mlflow"],
    )


def finish(processes: list[subprocess.Popen]) -> list[dict]:
    """The last line that each printed, which is JSON."""
    said = [process.communicate()[0] for process in processes]
    for process, text in zip(processes, said, strict=True):
        if process.returncode:
            raise SystemExit(f"{process.args} ended with {process.returncode}\n{text}")
    return [json.loads(text.strip().splitlines()[-1]) for text in said]


def launch(*command: object) -> subprocess.Popen:
    """Start a program; what it prints is kept."""
    env = servers.environment() | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=env,
    )


def run_jobs(model: Path, sources: list[Path], targets: list[Path]) -> dict:
    """Our own job, one process a source."""
    began = time.perf_counter()
    jobs = [
        launch(sys.executable, JOB, model, source, target)
        for source, target in zip(sources, targets, strict=True)
    ]
    said = finish(jobs)
    total_s = time.perf_counter() - began
    start_s = total_s - max(one["seconds"] for one in said)
    return {"start_s": start_s, "total_s": total_s, "version": "this book's job"}


def run_engine(engine: str, model: Path, source: Path, target: Path) -> dict:
    """The engine, in the environment of its own."""
    folder = ROOT / "extras" / engine
    python = folder / ".venv" / "bin" / "python"
    began = time.perf_counter()
    [said] = finish([launch(python, folder / "score.py", model, source, target)])
    return said | {"total_s": time.perf_counter() - began}


def scores(target: Path) -> pa.Table:
    """What a run wrote, by id."""
    return pq.read_table(target, columns=["id", "probability"]).sort_by("id")


def compare(found: pa.Table, wanted: pa.Table) -> float:
    """Largest difference; ends the measurement if a row is missing or there twice."""
    if not found.column("id").equals(wanted.column("id")):
        raise SystemExit(f"{found.num_rows} rows came out of {wanted.num_rows}")
    pair = (table.column("probability").to_numpy() for table in (found, wanted))
    return float(np.abs(np.subtract(*pair)).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engine", choices=["spark", "ray"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES)
    options = parser.parse_args()
    stamp = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, "
        f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
    }
    records = []
    with tempfile.TemporaryDirectory(prefix="deploylab-") as kept:
        work = Path(kept)
        saved = artifacts.save(phishing.version("v2"), work / "v2")
        model = saved.file
        if options.engine == "spark":
            model = work / "pyfunc"
            save_pyfunc(saved, model)
        for n_rows in options.rows:
            write_input(work / f"{n_rows}-0.parquet", 0, n_rows // 2)
            write_input(work / f"{n_rows}-1.parquet", n_rows // 2, n_rows - n_rows // 2)
            halves = [pq.read_table(work / f"{n_rows}-{i}.parquet") for i in (0, 1)]
            whole = work / f"{n_rows}.parquet"
            pq.write_table(pa.concat_tables(halves), whole, row_group_size=GROUP)
        for number in range(1, options.rounds + 1):
            for n_rows in options.rows:
                load = f"{os.getloadavg()[0]:.1f}"
                for run in one_round(options.engine, saved.folder, model, work, n_rows):
                    about = {"rows": n_rows, "round": number, "load_before": load}
                    records.append(stamp | about | run)
                    print(records[-1], flush=True)
                # After each, so that a measurement that is cut short leaves a record.
                write(records, ROOT / "extras" / options.engine / "batch.csv")


def one_round(
    engine: str, ours: Path, theirs: Path, work: Path, n_rows: int
) -> list[dict]:
    """One size, scored by one job, by two, and by the engine; what each took."""
    whole = work / f"{n_rows}.parquet"
    halves = [work / f"{n_rows}-{i}.parquet" for i in (0, 1)]
    with tempfile.TemporaryDirectory(dir=work) as folder:
        out = Path(folder)
        two = [out / "0.parquet", out / "1.parquet"]
        runs = {
            "job": run_jobs(ours, [whole], [out / "job.parquet"]),
            "two jobs": run_jobs(ours, halves, two),
            engine: run_engine(engine, theirs, whole, out / "engine"),
        }
        wanted = scores(out / "job.parquet")
        both = pa.concat_tables(map(scores, two))
        differs = [0.0, compare(both, wanted), compare(scores(out / "engine"), wanted)]
    return [
        {
            "engine": name,
            "version": run["version"],
            "start_s": f"{run['start_s']:.3f}",
            "total_s": f"{run['total_s']:.3f}",
            "largest_difference": f"{differs:.1e}",
        }
        for (name, run), differs in zip(runs.items(), differs, strict=True)
    ]


def write(records: list[dict], path: Path) -> None:
    """The record, whole or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("w", newline="") as file:
        table = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(records)
    os.replace(draft, path)


if __name__ == "__main__":
    main()
