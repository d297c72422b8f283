"""Checks for *Swap the model under a running service*."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from deploylab import ROOT
from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Before, Guess, order, prediction

INFINITY = float("inf")

# --- publish_order ---

publish_order = order(
    "publish_order",
    {
        "A": "Compare the model file with the digest in its manifest.",
        "B": "Copy model and manifest into a hidden folder of the store.",
        "C": "Rename the hidden folder to the name under which it is looked for, "
        "and write that name through too.",
        "D": "Enter the version and its digests in the registry.",
        "E": "Move the alias.",
        "F": "Send the event.",
        "G": "Make the system write the new files, and their folder, through to the "
        "disk.",
        "H": "Score some examples, and put rows and scores beside the model.",
    },
    [
        Before(
            "A",
            "C",
            "named-unseen",
            "The name says that all of it is whole, and nobody has looked.",
            "Ask what the final name promises to whoever finds it.",
        ),
        Before(
            "B",
            "H",
            "no-place-yet",
            "There is no folder yet into which the examples could be put.",
            "Ask which step makes the place for what comes after it.",
        ),
        Before(
            "H",
            "G",
            "not-on-disk",
            "What is written after that is still in memory when the power fails, and "
            "the folder has its final name.",
            "Ask which files have to be there before the disk is waited for.",
        ),
        Before(
            "G",
            "C",
            "named-too-soon",
            "The name says that all of it is there. After a power failure the folder "
            "may have its name, and an empty file in it.",
            "Ask what the final name promises to whoever finds it.",
        ),
        Before(
            "C",
            "D",
            "row-without-files",
            "Between the two steps the registry has a version that nobody can fetch, "
            "and if the second one fails it stays so.",
            "Ask which of the two may exist alone without doing harm.",
        ),
        Before(
            "D",
            "E",
            "alias-to-nothing",
            "An alias needs a version that it can mean.",
            "Ask what the alias points to at this moment.",
        ),
        Before(
            "E",
            "F",
            "event-too-soon",
            "The service looks at once, finds what it has already, and waits for the "
            "next hint.",
            "Ask what the service finds when it looks.",
        ),
    ],
    distractors={
        "I": "An event is a hint when to look. With a path in it, an old event that "
        "comes late, or one that somebody made up, decides which model is served.",
        "J": "The version before is the way back. Without its files, moving the alias "
        "back leads to nothing.",
        "K": "A service that reads the file meanwhile gets half of each version. A "
        "published version is never changed.",
    },
    example="ABHGCDEF",
    others=["BAHGCDEF", "BHAGCDEF", "BHGACDEF"],
    hints={
        "*": [
            "After which step can somebody else see something, and what must be "
            "finished by then?",
            "Three things become visible, one after the other: a folder, a row, the "
            "alias. Each promises that the one before is whole.",
            "1 write all of it out of sight and see that it is whole, 2 make the files "
            "visible, 3 the row, 4 the alias, 5 tell.",
        ],
    },
    not_checked="Whether each step tells you that it failed. A step whose error is "
    "ignored makes any order unsafe.",
    notice="If it stops after any step, what is visible is whole, and running all of "
    "it again does no harm.",
)

# --- wait_for_all ---


def last_worker_s() -> float:
    """Mean seconds until the last of four workers serves what was just published."""
    rng = np.random.default_rng(4)
    waits_s = rng.uniform(0, 30, size=(200_000, 4))
    return float(waits_s.max(axis=1).mean()) + 2


wait_for_all = prediction(
    "wait_for_all",
    last_worker_s,
    (0.95, 1.05),
    [
        Guess(
            -INFINITY, 2, "no-time",
            "Loading alone takes 2 seconds, and nobody begins before he has looked.",
            "Say how long a worker waits before it looks, and add the loading.",
            plausible=False,
        ),
        Guess(
            2, 14, "too-few",
            "Even a single worker waits half of the 30 seconds on average.",
            "Draw four moments between 0 and 30 s, and look at the last of them.",
        ),
        Guess(
            14, 19, "one-worker",
            "That is the mean of one worker: half a period, and the loading. The last "
            "of four waits longer than one of them does on average.",
            "Draw four moments between 0 and 30 s, and look at the last of them.",
        ),
        Guess(
            19, 24.7, "nearly",
            "The last of four moments in 30 s comes after four fifths of it on "
            "average; and then its model has to be loaded.",
            "Add what happens after the worker has looked.",
        ),
        Guess(
            27, 32, "longest",
            "That is close to the longest wait there can be, 30 s and the loading, and "
            "the last worker seldom waits as long as that.",
            "Draw four moments between 0 and 30 s, and look at the last of them.",
        ),
        Guess(
            32, INFINITY, "longer-than-longest",
            "Every worker has looked after 30 s and loaded after 32 s, whatever "
            "happens; they do it side by side.",
            "Give a number that can occur: they do not wait for one another.",
            plausible=False,
        ),
    ],
    what="The mean time until the last of the four workers serves the new version",
    unit="seconds",
    hints={
        "*": [
            "Does it matter how long one worker waits, or how long the last one does?",
            "Cut 30 s into five equal parts at four moments. Where is the last one?",
        ]
    },
    not_checked="Whether you guessed before you simulated it.",
    notice="With ten workers it would be 29 s: the more workers, the nearer to the "
    "longest wait. An event takes this wait away, and leaves the loading.",
)  # fmt: skip

# --- follow ---


Events = list[tuple[int, int]]


def _right(events: Events) -> list[int]:
    newest, swaps = 0, []
    for sequence, number in events:
        if sequence > newest:
            newest = sequence
            swaps.append(number)
    return swaps


@exercise(
    hints={
        "*": [
            "What does the service have to remember from one event to the next?",
            "The newest sequence so far. Which events change it?",
            "1 begin with sequence 0, 2 go through the events as they come, 3 is this "
            "one newer than the newest, 4 then remember it, and note its number.",
        ],
        "roll-back-ignored": [
            "After a roll back, is the number higher or lower than before? And the "
            "sequence?"
        ],
        "goes-back": [
            "With which sequence do you compare: that of the event before, or the "
            "newest of all so far?"
        ],
        "knows-the-future": [
            "May the service know, at its first event, which ones will come later?"
        ],
    },
    not_checked="Whether the event tells the truth. The service of this page does not "
    "have to know: it reads the alias in the registry, and takes the event as a hint.",
    notice="The sequence orders the moves, the number names the versions. Mixing them "
    "up is found on the day of the first roll back.",
    wrong=[
        Wrong(
            "compares numbers",
            "roll-back-ignored",
            source="""
            def follow(events):
                live, swaps = 0, []
                for _, number in events:
                    if number > live:
                        live = number
                        swaps.append(live)
                return swaps
            """,
        ),
        Wrong(
            "swaps at every event",
            "swaps-twice",
            source="""
            def follow(events):
                return [number for _, number in events]
            """,
        ),
        Wrong(
            "takes equal ones as newer",
            "swaps-twice",
            patch=(("> newest", ">= newest"),),
        ),
        Wrong(
            "remembers the last event",
            "goes-back",
            source="""
            def follow(events):
                last, swaps = 0, []
                for sequence, number in events:
                    if sequence > last:
                        swaps.append(number)
                    last = sequence
                return swaps
            """,
        ),
        Wrong(
            "skips only what it has seen",
            "goes-back",
            source="""
            def follow(events):
                seen, swaps = set(), []
                for sequence, number in events:
                    if sequence not in seen:
                        seen.add(sequence)
                        swaps.append(number)
                return swaps
            """,
        ),
        Wrong(
            "sorts first",
            "knows-the-future",
            source="""
            def follow(events):
                known = dict(events)
                return [known[sequence] for sequence in sorted(known)]
            """,
        ),
        Wrong(
            "leaves out a version that is live",
            "same-version",
            source="""
            def follow(events):
                newest, swaps = 0, []
                for sequence, number in events:
                    if sequence > newest and number not in swaps[-1:]:
                        newest = sequence
                        swaps.append(number)
                return swaps
            """,
        ),
        Wrong(
            "follows the first three events only",
            "off",
            patch=(("in events:", "in events[:3]:"),),
        ),
        Wrong(
            "gives sequences",
            "sequences",
            patch=(("swaps.append(number)", "swaps.append(newest)"),),
        ),
    ],
    also_right=[
        Right(
            "keeps the newest event",
            source="""
            def follow(events):
                taken = [(0, 0)]
                for event in events:
                    if taken[-1][0] < event[0]:
                        taken.append(event)
                return [number for _, number in taken[1:]]
            """,
        ),
        Right(
            "with the largest of all before",
            source="""
            def follow(events):
                sequences = [0] + [sequence for sequence, _ in events]
                return [
                    number
                    for i, (sequence, number) in enumerate(events)
                    if sequence > max(sequences[: i + 1])
                ]
            """,
        ),
    ],
)
def follow(t: Trial) -> None:
    """The versions swapped to, for events that come late or twice."""
    events = [(3, 7), (5, 9)]
    value = t.call(events, gives="list")
    t.need(
        value != [3, 5],
        "sequences",
        f"{t.said}: these are sequences.",
        "What is loaded is a version, and its number says which.",
        "Collect the number of each event that you follow.",
    )
    _need(t, value, events, "Both events are newer than what was known before.")
    t.good("events that come in order, with gaps")
    events = [(1, 1), (2, 2), (3, 1)]
    value = t.call(events, gives="list")
    t.need(
        value != [1, 2],
        "roll-back-ignored",
        f"{t.said}. The third event moves the alias back to version 1.",
        "A service that only goes to higher numbers cannot be rolled back.",
        "Compare sequences: they say which move is newer.",
    )
    _need(t, value, events, "All three moves are newer than the ones before.")
    t.good("a roll back, to a lower number")
    events = [(1, 1), (2, 2), (2, 2), (2, 2)]
    value = t.call(events, gives="list")
    t.need(
        len(value) <= 2,
        "swaps-twice",
        f"{t.said}. One event came three times.",
        "A broker may deliver an event again; each time the model would be fetched "
        "and loaded for nothing.",
        "Follow an event only if its sequence is newer than the newest so far.",
    )
    _need(t, value, events, "Version 2 was meant once.")
    t.good("an event that comes again")
    events = [(1, 1), (4, 4), (2, 2), (3, 3), (5, 5)]
    value = t.call(events, gives="list")
    t.need(
        value != [1, 2, 3, 4, 5],
        "knows-the-future",
        f"{t.said}, as if all events were there at once.",
        "The service has swapped to version 4 before the late events come, and has to "
        "stay there.",
        "Decide at each event, in the order in which they come.",
    )
    t.need(
        not {2, 3} & set(value),
        "goes-back",
        f"{t.said}. When the events of 2 and 3 came, 4 was live.",
        "Late events would put back a version that has been replaced, with nobody "
        "having asked for it.",
        "Compare with the newest sequence of all events so far.",
    )
    _need(t, value, events, "What is older than the newest so far changes nothing.")
    t.good("events that come late")
    events = [(1, 7), (2, 7)]
    value = t.call(events, gives="list")
    t.need(
        value != [7],
        "same-version",
        f"{t.said}. Sequence 2 means version 7 again: it is a move, although the "
        "version is the same.",
        "An answer says by which sequence it was given. Without this move the service "
        "would stay at sequence 1, and no release of sequence 2 would ever be "
        "confirmed.",
        "Note the number at every newer sequence, also when it is live already.",
    )
    _need(t, value, events, "Both moves are newer than the ones before.")
    t.good("a move to the version that is live")
    _need(t, t.call([], gives="list"), [], "Without events nothing moves.")
    for _ in range(40):
        meant = t.rng.integers(1, 9, size=9)  # one version for each sequence
        arrive = map(int, t.rng.integers(1, 9, size=5))
        events = [(sequence, int(meant[sequence])) for sequence in arrive]
        _need(t, t.call(events, gives="list"), events, "See the rule in the statement.")
    t.good("random events")


def _need(t: Trial, value: list, events: Events, why: str) -> None:
    right = _right(events)
    t.need(
        value == right,
        "off",
        f"{t.said}, and `{right}` was expected.",
        why,
        "Go through the events of this call on paper, and note the newest sequence.",
    )


# --- one_read ---


class _Live:
    """A model with its number and its order of features; other ones differ in all."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.names = ["https", "long_url", "ip_in_url"]
        self.names = self.names[number % 3 :] + self.names[: number % 3]
        # Such that no sum of one version is one of another, in whatever order.
        self._weights = [root * (10 + number) / 100 for root in (1.4142, 1.732, 2.236)]

    def score(self, row: list[float]) -> float:
        """The sum of the values, each with its weight."""
        return sum(w * value for w, value in zip(self._weights, row, strict=True))

    def __repr__(self) -> str:
        return f"<version {self.number}>"


class _Service:
    """Swapped whenever somebody looks at it, a dozen times; then it stays as it is.

    So whoever waits until nothing changes is answered in the end.
    """

    def __init__(self, first: int) -> None:
        self._live, self._last = _Live(first - 1), first + 12

    @property
    def live(self) -> _Live:
        """What is live now; another one at the next look."""
        if self._live.number < self._last:
            self._live = _Live(self._live.number + 1)
        return self._live

    def __deepcopy__(self, memo: dict) -> _Service:
        return self

    def __repr__(self) -> str:
        return "service"


def _expected(number: int, body: dict[str, float]) -> float:
    live = _Live(number)
    return live.score([body[name] for name in live.names])


@exercise(
    "fix",
    starting="40cd089ca87e0cbc",
    hints={
        "*": [
            "How often does your function read `service.live`?",
            "Give what you read a name, and use the name from then on.",
            "1 read once, 2 the row in the order of that one, 3 its score, 4 its "
            "number.",
        ],
    },
    not_checked="Whether what you read is itself changed while you use it. The "
    "service of this page puts a new object in its place and changes none.",
    notice="One reference, read once: that is all the locking that this needs.",
    wrong=[
        Wrong(
            "the number is read again",
            "torn-number",
            patch=(('"number": live.number', '"number": service.live.number'),),
        ),
        Wrong(
            "the order is read apart",
            "torn-row",
            patch=(("for name in live.names", "for name in service.live.names"),),
        ),
        Wrong(
            "score and number of a second look",
            "torn-row",
            source="""
            def predict(service, body):
                names = service.live.names
                live = service.live
                row = [body[name] for name in names]
                return {"score": live.score(row), "number": live.number}
            """,
        ),
        Wrong(
            "a fixed order",
            "order-of-the-body",
            patch=(("for name in live.names", "for name in body"),),
        ),
        Wrong(
            "remembers the first model for ever",
            "never-swaps",
            source="""
            def predict(service, body, kept=[]):
                if not kept:
                    kept.append(service.live)
                live = kept[0]
                row = [body[name] for name in live.names]
                return {"score": live.score(row), "number": live.number}
            """,
        ),
        Wrong(
            "forgets the number",
            "no-number",
            patch=((', "number": live.number', ""),),
        ),
    ],
    also_right=[
        Right(
            "looks again until nothing has changed",
            source="""
            def predict(service, body):
                while True:
                    live = service.live
                    row = [body[name] for name in live.names]
                    answer = {"score": live.score(row), "number": live.number}
                    if service.live is live:
                        return answer
            """,
        ),
        Right(
            "in a function of the model",
            source="""
            def predict(service, body):
                return answer(service.live, body)


            def answer(live, body):
                score = live.score([body[name] for name in live.names])
                return dict(score=score, number=live.number)
            """,
        ),
    ],
)
def one_read(t: Trial) -> None:
    """An answer of one version, while the service is swapped all the time."""
    body = {"https": 1.0, "long_url": 0.5, "ip_in_url": 0.0}
    numbers = []
    for first in (1, 2, 7):
        said = t.call(_Service(first), body, gives="dict")
        t.need(
            {"score", "number"} <= said.keys(),
            "no-number",
            f"{t.said}, and `score` and `number` are asked for.",
            "An answer that does not say what computed it can be held against nobody.",
            "Return a dict with both.",
        )
        number, score = said["number"], said["score"]
        numbers.append(number)
        t.need(
            number in range(1, 30),
            "no-number",
            f"{t.said}, and there is no such version.",
            "",
            "Take the number of what is live.",
        )
        by_score = [n for n in range(1, 30) if abs(_expected(n, body) - score) < 1e-9]
        if number in by_score:
            continue
        as_sent = _Live(number).score(list(body.values()))
        t.need(
            abs(as_sent - score) > 1e-9,
            "order-of-the-body",
            f"{t.said}. The values went in as the caller had ordered them.",
            "Each version has an order of its own, and a caller knows none of them.",
            "Make the row in the order of `names`.",
        )
        t.need(
            not by_score,
            "torn-number",
            f"{t.said}. This is the score of version {by_score[0] if by_score else 0}.",
            "In the log this answer counts for a version that did not give it.",
            "Read what is live once, and take everything from it.",
        )
        t.stop(
            "torn-row",
            f"{t.said}. No version gives this score for this body.",
            "The row was made in the order of one version and scored by another.",
            "Read what is live once, and take everything from it.",
        )
    t.good("score, order and number of one version, at every swap")
    t.need(
        len(set(numbers)) == 3,
        "never-swaps",
        f"Three services, and the answers are of the versions {numbers}.",
        "What is remembered from one request to the next is not swapped.",
        "Read what is live in each call.",
    )
    t.good("the version that is live at each call")


# --- keep_events ---

N_EVENTS = 24
EVENTS = [f"visit-{i}" for i in range(N_EVENTS)]
LATE = f"visit-{N_EVENTS}"  # left by another consumer while the student's one runs
KEPT = 4  # delivered to a consumer that has ended
WRITTEN = 2  # of which it had written the result
SENTINEL = "written by a consumer that ended"


def _visits(t: Trial) -> list[dict[str, float]]:
    from deploylab import phishing

    features = phishing.CONTRACT.features
    draw = t.rng.choice
    return [
        {one.name: float(draw(one.values)) for one in features} for _ in range(N_EVENTS)
    ]


class _Consumer:
    """The student's program, running; ends with the block."""

    def __init__(self, file: Path, url: str, artifact: str) -> None:
        self.file = file
        # It runs in a folder of its own, and finds deploylab where this one does.
        places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        self.env = {
            "BROKER": url,
            "ARTIFACT": artifact,
            "PYTHONPATH": os.pathsep.join(filter(None, places)),
        }

    def __enter__(self) -> _Consumer:
        from deploylab import servers

        self.server = servers.run(
            [sys.executable, str(self.file)],
            env=self.env,
            cwd=self.file.parent,
            wait=False,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.stop(grace_s=0)

    def died(self) -> bool:
        return self.server.state == "stopped"

    def said(self) -> str:
        from deploylab.exercises import live

        said = live.last_words(self.server.log(200))
        return f" Its log says `{said}`." if said else ""


def _until(condition: Any, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _settle(consumer: _Consumer, redis: Any, idle_s: float = 2) -> None:
    """Wait until all is done, or nothing more is: after it has begun, or ended."""

    def now() -> tuple[int, int]:
        return redis.hlen("scores"), redis.xpending("visits", "scorers")["pending"]

    first = last = now()
    _until(lambda: now() != first or consumer.died(), 20)
    since = time.monotonic()
    while last != (N_EVENTS, 0) and time.monotonic() < since + idle_s:
        time.sleep(0.02)
        if now() != last:
            last, since = now(), time.monotonic()


@exercise(
    "program",
    live=True,
    starting="0877b19452c81396",
    limit_s=60,
    memory_bytes=None,
    hints={
        "*": [
            "Where does an event stand while your program works on it: with the "
            "broker, or nowhere?",
            "First take what others have left (`xautoclaim`), then what is new "
            "(`xreadgroup` with `>`).",
            "1 claim, 2 read new ones, 3 score, 4 `hsetnx`, 5 `xack`, 6 again.",
        ],
        "acks-first": ["What happens if your program ends between the two calls?"],
        "claims-once": ["At which moments does your program call `xautoclaim`?"],
        "wrong-field": [
            "An entry has a place in the stream, and an event with a name. Which of "
            "the two does a reader of `scores` know?"
        ],
        "never-claims": [
            "`>` gives what was never delivered to anybody. Who gets the rest?",
            "`redis.xautoclaim(stream, group, name, min_idle_ms)` returns three "
            "things; the second is a list of (place, event).",
        ],
        "overwrites": ["`hset` and `hsetnx` differ in what they do the second time."],
    },
    not_checked="What happens to an event that can never be scored: it would be "
    "claimed again and again, and the next chapter sets such events aside. Two "
    "consumers at once: `hexists` and then `hset`, or a claim after 0 ms, pass here.",
    notice="At least once, and idempotent by name: together one result an event.",
    wrong=[
        Wrong(
            "acknowledges first",
            "acks-first",
            patch=(
                (
                    """    redis.hsetnx("scores", event["event"], json.dumps(score))
    redis.xack("visits", "scorers", place)""",
                    """    redis.xack("visits", "scorers", place)
    redis.hsetnx("scores", event["event"], json.dumps(score))""",
                ),
            ),
        ),
        Wrong(
            "takes only new ones",
            "never-claims",
            patch=(
                (
                    'left = redis.xautoclaim("visits", "scorers", NAME, 100)[1]',
                    "left = []",
                ),
            ),
        ),
        Wrong(
            "claims once, at its start",
            "claims-once",
            patch=(
                (
                    "while True:\n"
                    '    left = redis.xautoclaim("visits", "scorers", NAME, 100)[1]\n',
                    'old = redis.xautoclaim("visits", "scorers", NAME, 100)[1]\n'
                    "while True:\n    left, old = old, []\n",
                ),
            ),
        ),
        Wrong(
            "writes under the place in the stream",
            "wrong-field",
            patch=(('"scores", event["event"]', '"scores", place'),),
        ),
        Wrong("writes again", "overwrites", patch=(("hsetnx", "hset"),)),
        Wrong(
            "never acknowledges",
            "never-acks",
            patch=(('    redis.xack("visits", "scorers", place)\n', ""),),
        ),
        Wrong(
            "rounds the score",
            "wrong-score",
            patch=(("json.dumps(score)", "json.dumps(round(score))"),),
        ),
        Wrong(
            "ends at once",
            "never-works",
            patch=(("while True:", "while False:"),),
        ),
        Wrong(
            "is an address",
            "no-program",
            source="""
            class Work(str):
                def __truediv__(self, name):
                    return str(self)

            work = Work("http://127.0.0.1:8000")
            """,
        ),
    ],
    also_right=[
        Right(
            "ends when there is nothing to do",
            patch=(
                ("while True:\n", "empty = 0\nwhile empty < 5:\n"),
                (
                    "    for entry in left + (new[0][1] if new else []):\n",
                    "    empty = 0 if left or new else empty + 1\n"
                    "    for entry in left + (new[0][1] if new else []):\n",
                ),
            ),
        ),
        Right(
            "both in one transaction",
            patch=(
                (
                    """    redis.hsetnx("scores", event["event"], json.dumps(score))
    redis.xack("visits", "scorers", place)""",
                    """    both = redis.pipeline(transaction=True)
    if not redis.hexists("scores", event["event"]):
        both.hsetnx("scores", event["event"], json.dumps(score))
    both.xack("visits", "scorers", place)
    both.execute()""",
                ),
            ),
        ),
    ],
)
def keep_events(t: Trial) -> None:
    """A consumer that is killed, and finds the results' store broken, loses nothing."""
    from deploylab import artifacts, broker, phishing

    t.need(
        isinstance(t.thing, Path),
        "no-program",
        f"`check.keep_events` got `{t.thing}`.",
        "It starts the consumer itself, to be able to end it.",
        "Give the path of your program.",
    )
    t.say("Your consumer")
    saved = artifacts.save(phishing.version("v1"), "artifact")
    rows = _visits(t)
    expected = artifacts.load(saved.folder).score(
        [phishing.CONTRACT.row(row) for row in rows]
    )
    with broker.start() as server:
        redis = broker.connect(server.url)
        try:
            _keep_events(t, redis, server.url, str(saved.folder.resolve()), rows)
            _need_results(t, redis, expected)
        finally:
            redis.close()


def _keep_events(
    t: Trial, redis: Any, url: str, artifact: str, rows: list[dict[str, float]]
) -> None:
    """Let it work while no result can be written; kill it; then let it work."""
    redis.xgroup_create("visits", "scorers", id="0", mkstream=True)
    for i, row in enumerate(rows):
        redis.xadd("visits", {"event": f"visit-{i}", "row": json.dumps(row)})
    redis.xreadgroup("scorers", "gone", {"visits": ">"}, count=KEPT)
    redis.set("scores", "the place for results is broken")

    def taken() -> int:
        return sum(
            consumer["pending"]
            for consumer in redis.xinfo_consumers("visits", "scorers")
            if consumer["name"] != "gone"
        )

    def waiting() -> int:
        """Events that somebody will still get: pending, or never delivered."""
        group = redis.xinfo_groups("visits")[0]
        last = group["last-delivered-id"]
        fresh = redis.xrange("visits", min=f"({last}")
        return group["pending"] + len(fresh)

    with _Consumer(t.thing, url, artifact) as consumer:
        begun = _until(lambda: consumer.died() or taken() or waiting() < N_EVENTS, 20)
        _until(lambda: consumer.died() or waiting() < N_EVENTS, 0.5)
        lost = N_EVENTS - waiting()
        touched = taken() > 0 or lost > 0
        t.need(
            begun and touched,
            "never-works",
            f"Your consumer took none of the {N_EVENTS} events." + consumer.said(),
            "Events that nobody takes wait for ever, and nobody is told.",
            "Run it in a terminal with BROKER and ARTIFACT set, and read its output.",
        )
    t.need(
        not lost,
        "acks-first",
        f"Results could not be written for a while, then the consumer was killed: "
        f"{lost} events are acknowledged, and have no result.",
        "An acknowledged event is gone from the list: nobody will try it again.",
        "Acknowledge an event after its result is written.",
    )
    t.good("no event is acknowledged before its result is written")
    redis.delete("scores")
    for event in EVENTS[:WRITTEN]:
        redis.hset("scores", event, SENTINEL)
    claimed, ended = True, False

    def late() -> bool:
        done = redis.xpending("visits", "scorers")["pending"] == 0
        return done and redis.hexists("scores", LATE)

    with _Consumer(t.thing, url, artifact) as consumer:
        _settle(consumer, redis)
        said = consumer.said() if consumer.died() else ""
        results = redis.hkeys("scores")
        if set(EVENTS) <= set(results) and not consumer.died():
            _leave(redis, rows[0])
            _until(lambda: consumer.died() or late(), 10)
            ended = consumer.died() and not late()
            claimed = redis.hexists("scores", LATE) or ended
    if ended:
        with _Consumer(t.thing, url, artifact):  # as whoever watches over it would
            _until(late, 20)
    strange = sorted(set(results) - set(EVENTS))
    left = [event for event in EVENTS if event not in results]
    t.need(
        not (strange and left),
        "wrong-field",
        f"`scores` has `{strange[0] if strange else ''}`, which is the name of no "
        f"event, and `{left[0] if left else ''}` is not in it.",
        "Whoever looks for a result knows the event's name and nothing else.",
        'Use `event["event"]` as the field.',
    )
    t.need(
        not left,
        "never-claims",
        f"Started again, your consumer left {len(left)} of {N_EVENTS} events "
        f"without a result.{said}",
        "What was delivered to a consumer that has ended stays with its name until "
        "somebody else claims it.",
        "Claim what has been pending for a while, before you read what is new.",
    )
    t.need(
        claimed,
        "claims-once",
        f"While your consumer ran, another one took `{LATE}` and ended. Yours ran for "
        "10 s more, and never claimed it.",
        "It stays pending until a consumer happens to be started again.",
        "Claim in the loop, and not only at the start.",
    )
    t.good("every event has a result, also those that others had left")


def _leave(redis: Any, row: dict[str, float]) -> None:
    """Add one more event, and hand it at once to a consumer that is none."""
    with redis.pipeline(transaction=True) as both:
        both.xadd("visits", {"event": LATE, "row": json.dumps(row)})
        both.xreadgroup("scorers", "gone too", {"visits": ">"}, count=1)
        both.execute()


def _need_results(t: Trial, redis: Any, expected: np.ndarray) -> None:
    results = redis.hgetall("scores")
    kept = [results[f"visit-{i}"] == SENTINEL for i in range(WRITTEN)]
    t.need(
        all(kept),
        "overwrites",
        f"The result of `visit-{kept.index(False) if False in kept else 0}` was there "
        "already, and has been replaced.",
        "Someone may have acted on the first result; with a new model in between, the "
        "second is another one.",
        "Write a result only where there is none.",
    )
    t.good("a result that is there stays")
    for i in range(WRITTEN, N_EVENTS):
        text = results.get(f"visit-{i}", "")
        try:
            score = float(json.loads(text))
        except (ValueError, TypeError):
            score = float("nan")
        t.need(
            abs(score - expected[i]) < 1e-6,
            "wrong-score",
            f"The result of `visit-{i}` is `{text[:60]}`, and {expected[i]:.6f} was "
            "expected.",
            "",
            "Write the score as JSON, under the event's name.",
        )
    t.good("the scores are those of the model")
    pending = redis.xpending("visits", "scorers")["pending"]
    t.need(
        not pending,
        "never-acks",
        f"All results are written, and {pending} events are still pending.",
        "They will be claimed and scored again for ever, and the list only grows.",
        "Acknowledge an event once its result is written.",
    )
    t.good("nothing is left pending")
