"""The log of answers: what a service said, by which model, and what must hold of it.

    with answers.Asking(server.url, bodies, connections=4) as asking:
        ...                                   # move an alias, meanwhile
    answers.violations(asking.log, moves)     # [] if one version was live at a time

The load is closed-loop: it is after every answer, not after how long people wait.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Answer", "Asking", "Released", "violations"]


class Answer(NamedTuple):
    """One request and its answer; times on this machine's monotonic clock.

    status: 0 if there was no answer. sequence, number, digest: what the answer says
    that it was computed by. worker: the process that answered. row: which body it was.
    """

    sent_s: float
    finished_s: float
    status: int
    sequence: int = 0
    number: int = 0
    digest: str = ""
    worker: int = 0
    row: int = 0
    probability: float = float("nan")


@dataclass(frozen=True)
class Released:
    """One move of the registry: what is meant from then on.

    moved_s: before the move was begun; confirmed_s: when all workers had said that
    they serve it (infinity: they never did).
    """

    sequence: int
    number: int
    digest: str
    moved_s: float
    confirmed_s: float


class Asking:
    """Callers that ask one question after the other until the block ends.

    bodies: sent in turn, to ``/predict``. log: the answers, in the order in which they
    came; complete once the block has ended.
    """

    def __init__(self, url: str, bodies: Sequence[bytes], connections: int = 4) -> None:
        self._address = urlsplit(url).netloc
        self._bodies = bodies
        self._ended = threading.Event()
        self.log: list[Answer] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(first, connections), daemon=True)
            for first in range(connections)
        ]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, n: int, timeout_s: float = 60) -> None:
        """Wait until `n` more answers have come; TimeoutError if they do not."""
        goal, deadline = len(self.log) + n, time.monotonic() + timeout_s
        while len(self.log) < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{goal - len(self.log)} of {n} answers are missing")
            time.sleep(0.002)

    def _ask(self, first: int, step: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        for turn in itertools.count(first, step):
            if self._ended.is_set():
                break
            row = turn % len(self._bodies)
            self.log.append(_one(connection, self._bodies[row], row))
        connection.close()


def _one(connection: http.client.HTTPConnection, body: bytes, row: int) -> Answer:
    sent_s = time.monotonic()
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/predict", body, headers)
        response = connection.getresponse()
        said: dict[str, Any] = json.loads(response.read())
        status = response.status
    except (OSError, http.client.HTTPException, ValueError):
        connection.close()
        return Answer(sent_s, time.monotonic(), 0, row=row)
    finished_s = time.monotonic()
    if status != 200:
        return Answer(sent_s, finished_s, status, row=row)
    fields = ("sequence", "number", "digest", "worker")
    values = [said[name] for name in fields]
    return Answer(sent_s, finished_s, status, *values, row, said["probability"])


def violations(log: Sequence[Answer], releases: Sequence[Released]) -> list[str]:
    """What breaks the rule of one live version; one sentence a kind, [] if nothing.

    1. Every request was answered with 200.
    2. An answer's number and digest are those that its sequence means: never half of
       one version and half of another, never one that nobody released.
    3. No answer is of a version before it was meant, and none that was asked for after
       a version was confirmed is of an older one.
    4. No worker goes back: of two answers of one worker, one asked for after the other
       had come, the later is of the same sequence or a newer one.
    """
    meant = {release.sequence: release for release in releases}
    by_sequence = sorted(releases, key=lambda release: release.sequence)
    found: dict[str, list[Answer]] = {}

    def breaks(rule: str, answer: Answer) -> None:
        found.setdefault(rule, []).append(answer)

    newest: dict[int, list[tuple[float, int]]] = {}
    for answer in sorted(log, key=lambda answer: answer.finished_s):
        if answer.status != 200:
            breaks("not answered with 200", answer)
            continue
        release = meant.get(answer.sequence)
        if release is None:
            breaks("of a sequence that nobody released", answer)
            continue
        if (answer.number, answer.digest) != (release.number, release.digest):
            breaks("of a number or digest that its sequence does not mean", answer)
        if answer.finished_s < release.moved_s:
            breaks("of a version that was not meant yet", answer)
        if any(
            later.confirmed_s <= answer.sent_s
            for later in by_sequence
            if later.sequence > answer.sequence
        ):
            breaks("older than what was confirmed when they were asked for", answer)
        seen = newest.setdefault(answer.worker, [])
        if seen and answer.sequence >= seen[-1][1]:
            if answer.sequence > seen[-1][1]:
                seen.append((answer.finished_s, answer.sequence))
        elif not seen:
            seen.append((answer.finished_s, answer.sequence))
        elif any(
            came_s < answer.sent_s and sequence > answer.sequence
            for came_s, sequence in seen
        ):
            breaks("older than what their worker had answered before", answer)
    return [
        f"{len(those)} of {len(log)} answers are {rule}; the first: {those[0]}"
        for rule, those in found.items()
    ]
