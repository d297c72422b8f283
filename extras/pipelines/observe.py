"""What a run did: each step writes down that it ran; `run.py` may plant a fault.

The folder is in `PIPELINE_OBSERVE`, where no workflow engine looks; without it, nothing
here does anything. `journal.jsonl` gets one line when a step begins and one when it
ends. A file `hold-POINT` stops the run at that point, to be killed there; `fail-POINT`
fails it there. Either is used once.
"""

import functools
import json
import os
import time
from pathlib import Path

#: A run that is held, and that nobody kills, goes on after this.
HELD_S = 300


def step(function):
    """Note that the step began and how it ended, and how long it took."""

    @functools.wraps(function)
    def noted(*arguments, **named):
        name = function.__name__
        began, cpu = time.perf_counter(), time.process_time()
        note(step=name, what="began")
        ended = "failed"
        try:
            point(name)
            result = function(*arguments, **named)
            ended = "done"
            return result
        finally:
            took = {
                "seconds": time.perf_counter() - began,
                "cpu_s": time.process_time() - cpu,
            }
            note(step=name, what=ended, **took)

    return noted


def point(name):
    """A place at which a fault may be planted."""
    folder = _folder()
    if folder and (folder / f"fail-{name}").exists():
        (folder / f"fail-{name}").unlink()
        raise ConnectionError(f"planted at {name!r}: the registry does not answer")
    if folder and (folder / f"hold-{name}").exists():
        note(step=name, what="held")
        until = time.monotonic() + HELD_S
        while (folder / f"hold-{name}").exists() and time.monotonic() < until:
            time.sleep(0.05)


def note(**what):
    """Append one line to the journal, whole even if several processes write."""
    if folder := _folder():
        note_in(folder, **what)


def note_in(folder, **what):
    """The same, into the journal of a folder."""
    line = json.dumps(what | {"at": time.time(), "pid": os.getpid()}) + "\n"
    with (Path(folder) / "journal.jsonl").open("a") as file:
        file.write(line)


def read(folder):
    """The lines of the journal, oldest first."""
    path = Path(folder) / "journal.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def _folder():
    folder = os.environ.get("PIPELINE_OBSERVE")
    return Path(folder) if folder else None
