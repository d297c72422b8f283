"""The same questions to every format: does it agree, how large, how fast?

Needs numpy alone, so that every environment here can import it.
"""

import json
import time
from pathlib import Path

import numpy as np

#: Requests scored one at a time for the latency, and times that a file is loaded.
ALONE, LOADS = 200, 3


def measure(files, rows, expected, load, score, loads=LOADS):
    """One model in one format, loaded and asked for every row.

    files: what has to be shipped (paths). expected: the scores of the model that was
    exported, from the process that fitted it. load() gives what score(loaded, rows)
    takes; loads: how often it is called, once for what the system keeps in memory.
    Libraries are imported, and a Java machine is started, before this is called. Times
    are the fastest of several, since other work on a machine only ever adds.
    """
    load_s = []
    for _ in range(loads):
        begin = time.perf_counter()
        loaded = load()
        load_s.append(time.perf_counter() - begin)
    scores = np.asarray(score(loaded, rows), float)
    seconds = []
    for row in rows[:ALONE]:
        begin = time.perf_counter()
        score(loaded, row[None])
        seconds.append(time.perf_counter() - begin)
    return {
        **agreement(scores, expected),
        "size KiB": round(sum(Path(file).stat().st_size for file in files) / 1024, 1),
        "load ms": round(min(load_s) * 1e3, 1),
        "latency µs a row": round(min(seconds) * 1e6, 1),
    }


def agreement(scores, expected):
    """Parity: the largest difference of a score, and how many answers are the same."""
    scores, expected = np.asarray(scores, float), np.asarray(expected, float)
    if scores.shape != expected.shape:
        raise ValueError(f"{scores.shape} scores for {expected.shape} rows")
    return {
        "rows": len(expected),
        "max |difference|": float(np.abs(scores - expected).max()),
        "labels agree": int(((scores > 0.5) == (expected > 0.5)).sum()),
    }


def tell(**row):
    """One row of the table, for run.py to read."""
    print("ROW " + json.dumps(row), flush=True)
