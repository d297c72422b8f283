"""Every pattern of serving in one run: one caller, one model, which changes once.

Each function below serves the model `old`, asks it, publishes `new` while it is asked,
and then ends the model's side by force. It returns one row of the table.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import batch_job
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import queue_worker
import requests

from deploylab import ROOT, artifacts, broker, servers

ASKED = 100
LISTINGS = Path(__file__).parent
Ask = Callable[[], str]  # asks about one row, and returns the version that answered


def median_ms(ask: Ask) -> float:
    """The median time of an answer, after one that is not counted."""
    ask()
    times = []
    for _ in range(ASKED):
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def until(ask: Ask, version: str, began: float) -> float:
    """Seconds from `began` to the first answer by `version`."""
    while ask() != version:
        if time.perf_counter() > began + 60:
            raise TimeoutError(f"no answer by {version}")
    return time.perf_counter() - began


def launch(program: str, *words: object) -> subprocess.Popen:
    """Start a listing as a process; wait for its first line."""
    process = subprocess.Popen(
        [sys.executable, str(LISTINGS / program), *map(str, words)],
        stdout=subprocess.PIPE,
        env=servers.environment() | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    process.stdout.readline()
    return process


def end(process: subprocess.Popen) -> int:
    """Kill a process, and wait for it; its exit code."""
    process.kill()
    code = process.wait()
    process.stdout.close()
    return code


def module(old: Path, new: Path, row: list, work: Path) -> dict:
    """The model is a part of the application, which is this process."""
    scorer = artifacts.load(old)
    version = scorer.artifact.version
    took = median_ms(lambda: version if scorer.score([row]).size else "")
    began = time.perf_counter()
    application = launch("patterns.py", new, json.dumps(row))  # the next release of it
    stale_s = time.perf_counter() - began
    application.communicate()  # its model meets a fault in a C library
    dies = application.returncode < 0
    return {
        "median_ms": took,
        "stale_s": stale_s,
        "restart": "the application",
        "model's side dies": "the application dies with it" if dies else "it goes on",
        "who can call": "the application itself",
    }


def service(old: Path, new: Path, row: list, work: Path) -> dict:
    """The model is a server, and the application calls it."""
    names = artifacts.read(old).contract.names
    body = dict(zip(names, row, strict=True))
    session = requests.Session()
    current = servers.start(old)

    def ask() -> str:
        answer = session.post(current.url + "/predict", json=body, timeout=5)
        return answer.json()["version"]

    try:
        took = median_ms(ask)
        began, before = time.perf_counter(), current
        current = servers.start(new)
        stale_s = until(ask, artifacts.read(new).version, began)
        before.stop()
    finally:
        current.stop(grace_s=0)
    try:
        said = ask()
    except requests.RequestException:
        said = "no answers; the application goes on"
    return {
        "median_ms": took,
        "stale_s": stale_s,
        "restart": "the service",
        "model's side dies": said,
        "who can call": "anybody with HTTP",
    }


def data(old: Path, new: Path, row: list, work: Path, every_s: float = 0.1) -> dict:
    """The model is a file that the application reads again when its alias moves."""
    alias, stop = work / "champion", threading.Event()
    live = [artifacts.load(old)]

    def move(folder: Path) -> None:
        draft = work / "champion.draft"
        draft.write_text(str(folder))
        os.replace(draft, alias)

    def follow() -> None:
        while not stop.wait(every_s):
            if alias.exists() and Path(alias.read_text()) != live[0].artifact.folder:
                live[0] = artifacts.load(alias.read_text())

    def ask() -> str:
        scorer = live[0]  # one model for one answer, whatever happens meanwhile
        scorer.score([row])
        return scorer.artifact.version

    move(old)
    follower = threading.Thread(target=follow)
    follower.start()
    try:
        took = median_ms(ask)
        began = time.perf_counter()
        move(new)
        stale_s = until(ask, artifacts.read(new).version, began)
        alias.unlink()  # the registry is gone
        time.sleep(2 * every_s)
        goes_on = ask() == artifacts.read(new).version
    finally:
        stop.set()
        follower.join()
    return {
        "median_ms": took,
        "stale_s": stale_s,
        "restart": "nothing",
        "model's side dies": "answers go on, by the last model" if goes_on else "fails",
        "who can call": "the application itself",
    }


def read_scores(target: Path) -> dict:
    """The table by id, and its `version`; nothing if its manifest is of another one.

    Between the two, a table is there whose manifest is still the last one's.
    """
    manifest = json.loads(Path(f"{target}.json").read_text())
    written = target.read_bytes()  # once, so that what is compared is what is read
    if hashlib.sha256(written).hexdigest() != manifest["sha256"]:
        return {}
    table = pq.read_table(pa.BufferReader(written), columns=["id", "probability"])
    pairs = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return {**dict(pairs), "version": manifest["job"]["model"]}


def batch(old: Path, new: Path, row: list, work: Path, n_rows: int = 20_000) -> dict:
    """The answers are a table, made by a job; the application looks one up."""
    source, target = work / "rows.parquet", work / "scores.parquet"
    names = artifacts.read(old).contract.names
    columns = {"id": np.arange(n_rows)}
    columns |= {name: np.full(n_rows, row[i]) for i, name in enumerate(names)}
    pq.write_table(pa.table(columns), source)
    looked_up: dict = {}

    def read() -> None:
        looked_up.update(read_scores(target))

    def ask() -> str:
        return looked_up["version"] if looked_up[7] is not None else ""

    batch_job.run(artifacts.load(old), source, target)
    read()
    took = median_ms(ask)
    began = time.perf_counter()
    job = launch("batch_job.py", new, source, target)
    job.communicate()
    read()
    stale_s = until(ask, artifacts.read(new).version, began)
    end(launch("batch_job.py", old, source, target))  # the next run does not get far
    read()
    goes_on = ask() != ""
    return {
        "median_ms": took,
        "stale_s": stale_s,
        "restart": "nothing: the next run has it",
        "model's side dies": "answers go on, from the table" if goes_on else "fails",
        "who can call": "anybody who can read the table, about rows in it",
    }


def queue(old: Path, new: Path, row: list, work: Path) -> dict:
    """Workers take the questions from a queue, at their own pace."""
    names = artifacts.read(old).contract.names
    body = json.dumps(dict(zip(names, row, strict=True)))
    asked = iter(range(10**9))
    with broker.start() as running, broker.connect(running.url) as redis:
        work_queue = queue_worker.Queue(redis, "work")

        def send() -> str:
            id = f"question-{next(asked)}"
            work_queue.offer({"sender": "page", "id": id, "body": body})
            return id

        def ask() -> str:
            lies_at = queue_worker.key("result", "page", send())
            while not (found := redis.get(lies_at)):
                time.sleep(0.0005)
            return json.loads(found)["version"]

        workers = [launch("queue_worker.py", running.url, "work", "--phishing", old)]
        try:
            took = median_ms(ask)
            began = time.perf_counter()
            workers.append(
                launch("queue_worker.py", running.url, "work", "--phishing", new)
            )
            workers[0].terminate()
            stale_s = until(ask, artifacts.read(new).version, began)
            workers[0].wait()
        finally:
            for worker in workers:
                end(worker)
        send()
        waits = len(work_queue) == 1
    return {
        "median_ms": took,
        "stale_s": stale_s,
        "restart": "the workers",
        "model's side dies": "questions wait" if waits else "questions are lost",
        "who can call": "anybody who can reach the queue, and can wait",
    }


def measure(old: Path, new: Path, row: list, work: Path) -> list[dict]:
    """The table, a row a pattern; what each adds to the time of the model alone."""
    rows = []
    for pattern in (module, service, data, batch, queue):
        folder = Path(work, pattern.__name__)
        folder.mkdir()
        measured = pattern(Path(old), Path(new), row, folder)
        rows.append({"pattern": pattern.__name__, **measured})
    alone_ms = rows[0]["median_ms"]
    for one in rows:
        one["added_ms"] = one.pop("median_ms") - alone_ms
    return rows


def application(folder: str, row: str) -> None:
    """The application with its model inside: answers once, then the model crashes."""
    scorer = artifacts.load(folder)
    scorer.score([json.loads(row)])
    print(scorer.artifact.version, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    application(*sys.argv[1:])
