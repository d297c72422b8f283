"""Checks for *Serve a model over HTTP*."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import math
import re
import textwrap
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploylab.exercises.engine import Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import Before, Guess, order, prediction

if TYPE_CHECKING:
    from deploylab.exercises import live

#: A small contract, in which the two fields differ, and another with its own names.
ALLOWED = {"https": [0.0, 0.5, 1.0], "ip_in_url": [0.0, 1.0]}
OTHER = {"port": [80, 443], "depth": [0, 1.5, 2]}

#: What callers have been seen to send for a number, and close misses of the codes.
SENT = (
    *(0, 1, 0.0, 0.5, 1.0, -1, 2, 0.25, 0.499, 1.0001, 1e308, 10**30),
    10**400,  # `json.loads` reads it as an int, and no float can hold it
    *(None, True, False, "", "0", "0.5", "yes", "nan"),
    *(float("nan"), float("inf"), float("-inf"), [], [0.5], [None], {}, {"a": 1}),
)


def _broken_fields(payload: dict[str, Any], allowed: dict[str, list]) -> set[str]:
    """The fields that break the contract, decided from the value's JSON kind."""
    broken = payload.keys() ^ allowed.keys()
    for name in payload.keys() & allowed.keys():
        value = payload[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or all(value != code for code in allowed[name]):
            broken.add(name)
    return broken


def _named(
    t: Trial, payload: dict[str, Any], allowed: dict[str, list] = ALLOWED
) -> set[str]:
    """The fields that the student's function names for a payload."""
    names = t.call(payload, allowed, gives="list")
    t.need(
        all(isinstance(name, str) for name in names),
        "not-names",
        f"{t.said}.",
        "A caller looks for the field by its name.",
        "Put the names of the fields into the list, and nothing else.",
    )
    t.need(
        len(set(names)) == len(names),
        "named-twice",
        f"{t.said}: a name stands there twice.",
        "A caller with one mistake should read of one.",
        "Follow one field through your function: where is it added again?",
    )
    return set(names)


@exercise(
    hints={
        "*": [
            "Two lists have to be compared: the names that came, and the names that "
            "the contract has. What can differ?",
            "Walk over the contract for what is missing or not allowed, and over the "
            "payload for what the contract does not know.",
            "1 names that nobody asked for, 2 for each name of the contract: is it "
            "there, 3 is it a number, 4 is it one of the codes.",
        ],
        "zero-refused": [
            "`if not value` is true for `None`, for an empty text, and for 0. Which of "
            "them did you mean?"
        ],
        "bool-accepted": [
            "In Python `True == 1`, and `isinstance(True, int)`. What does "
            "`type(True)` say?"
        ],
        "nan-accepted": [
            "Every comparison with NaN is false. Ask what makes a value right, not "
            "what makes it bad."
        ],
        "first-only": ["A `return` inside a loop ends the loop at the first field."],
        "contract-written-in": [
            "Where in your function do a field's name or a code stand as text?"
        ],
    },
    not_checked="Whether the body was JSON at all, how large it was, and whether a "
    "name occurred twice in it: `json.loads` keeps the last one and says nothing.",
    notice="A list of what is allowed needs no list of what is not.",
    wrong=[
        Wrong(
            "takes 0 for missing",
            "zero-refused",
            patch=(("value = payload.get(name)", "value = payload.get(name) or None"),),
        ),
        Wrong(
            "wants whole numbers",
            "good-refused",
            patch=(("(int, float)", "(int,)"),),
        ),
        Wrong(
            "wants a float",
            "int-refused",
            patch=(("(int, float)", "(float,)"),),
        ),
        Wrong(
            "looks at what came only",
            "missing-ignored",
            patch=(
                (
                    "value = payload.get(name)",
                    "value = payload.get(name, values[0])",
                ),
            ),
        ),
        Wrong(
            "takes every name for granted",
            "crash",
            patch=(("payload.get(name)", "payload[name]"),),
        ),
        Wrong(
            "looks at types only",
            "not-allowed-accepted",
            patch=((" or value not in values", ""),),
        ),
        Wrong(
            "a range for a list",
            "range-not-list",
            patch=(("value not in values", "not values[0] <= value <= values[-1]"),),
        ),
        Wrong(
            "one list for all fields",
            "one-list-for-all",
            patch=(("value not in values", "value not in (0, 0.5, 1)"),),
        ),
        Wrong(
            "isinstance lets true in",
            "bool-accepted",
            patch=(("type(value) in (int, float)", "isinstance(value, (int, float))"),),
        ),
        Wrong(
            "converts before it looks",
            "text-accepted",
            source="""
            def problems(payload, allowed):
                bad = [name for name in payload if name not in allowed]
                for name, values in allowed.items():
                    value = payload.get(name)
                    try:
                        if isinstance(value, bool) or float(value) not in values:
                            bad.append(name)
                    except (TypeError, ValueError):
                        bad.append(name)
                return bad
            """,
        ),
        Wrong(
            "null passes as a number not given",
            "null-accepted",
            patch=(
                (
                    "if not is_number",
                    "if name in payload and value is None:\n            continue\n"
                    "        if not is_number",
                ),
            ),
        ),
        Wrong(
            "refuses what lies outside",
            "nan-accepted",
            patch=(
                (
                    "value not in values",
                    "any(value < v for v in values[:1])"
                    " or any(value > v for v in values[-1:])"
                    " or value == value and value not in values",
                ),
            ),
        ),
        Wrong(
            "looks at its own names only",
            "unknown-ignored",
            patch=(("[name for name in payload if name not in allowed]", "[]"),),
        ),
        Wrong(
            "stops at the first",
            "first-only",
            patch=(("return bad", "return bad[:1]"),),
        ),
        Wrong(
            "knows the example's contract only",
            "contract-written-in",
            patch=(
                (
                    "payload, allowed):",
                    "payload, allowed):\n"
                    '    allowed = {"https": [0, 0.5, 1], "ip_in_url": [0, 1]}',
                ),
            ),
        ),
        Wrong(
            "knows the example's names only",
            "contract-written-in",
            patch=(
                ("if name not in allowed", 'if name not in ("https", "ip_in_url")'),
                ("allowed.items()", "list(allowed.items())"),
            ),
        ),
        Wrong(
            "looks a list up in a set",
            "crash",
            patch=(
                (
                    "if not is_number or value not in values",
                    "if isinstance(value, (bool, str)) or value not in set(values)",
                ),
            ),
        ),
        Wrong(
            "asks for a finite float",
            "crash",
            patch=(
                ("def problems", "import math\n\n\ndef problems"),
                (
                    "if not is_number or",
                    "if not is_number or not math.isfinite(value) or",
                ),
            ),
        ),
        Wrong(
            "names a field twice",
            "named-twice",
            patch=(
                (
                    "return bad",
                    "return bad + [name for name in allowed if name not in payload]",
                ),
            ),
        ),
        Wrong(
            "gives names with reasons",
            "not-names",
            patch=(("return bad", 'return [(name, "bad") for name in bad]'),),
        ),
        Wrong(
            "rounds before it looks",
            "off",
            patch=(
                (
                    "value not in values",
                    "abs(value) < 999 and round(value, 2) not in values"
                    " or not abs(value) < 999",
                ),
            ),
        ),
    ],
    also_right=[
        Right(
            "with sets, and names in another order",
            source="""
            def problems(payload, allowed):
                def good(name):
                    value = payload[name]
                    if isinstance(value, bool):
                        return False
                    if not isinstance(value, (int, float)):
                        return False
                    return any(value == code for code in allowed[name])

                known = set(payload) & set(allowed)
                bad = set(payload) ^ set(allowed)
                return sorted(bad | {name for name in known if not good(name)})
            """,
        ),
        Right(
            "by the text that JSON writes",
            source="""
            import json

            def problems(payload, allowed):
                names = list(dict.fromkeys([*allowed, *payload]))
                def fine(name):
                    if name not in payload or name not in allowed:
                        return False
                    codes = {json.dumps(v) for v in allowed[name]}
                    codes |= {json.dumps(int(v)) for v in allowed[name] if v == int(v)}
                    return json.dumps(payload[name]) in codes
                return tuple(name for name in names if not fine(name))
            """,
        ),
    ],
)
def validate_request(t: Trial) -> None:
    """The names of the fields that break a contract."""
    found = _named(t, {"https": 0.5, "ip_in_url": 1.0})
    t.need(
        not found,
        "good-refused",
        f"{t.said}, and the payload keeps the contract.",
        "A caller who did everything right is turned away.",
        "Both values are in their lists: find the condition that refuses one.",
    )
    found = _named(t, {"https": 0.0, "ip_in_url": 0.0})
    t.need(
        not found,
        "zero-refused",
        f"{t.said}, and 0 is an allowed value of both fields.",
        "Every caller with a 0 is refused, and a 0 is the usual value of many fields.",
        "Tell a value that is 0 from a value that is not there.",
    )
    found = _named(t, {"https": 1, "ip_in_url": 0})
    t.need(
        not found,
        "int-refused",
        f"{t.said}. JSON has one kind of number: 1 and 1.0 are the same.",
        "Many languages write 1.0 as 1.",
        "Accept whole numbers too.",
    )
    t.good("good payloads pass, with 0 and with whole numbers")
    found = _named(t, {"https": 0.5})
    t.need(
        found == {"ip_in_url"},
        "missing-ignored",
        f"{t.said}; `ip_in_url` is missing.",
        "A model that gets no value invents one, or the row moves by one place.",
        "Walk over the names of the contract as well.",
    )
    t.good("a missing field is named")
    found = _named(t, {"https": 7, "ip_in_url": 1})
    t.need(
        found == {"https"},
        "not-allowed-accepted",
        f"{t.said}; `https` may be 0, 0.5 or 1.",
        "A model answers for any number, also for one that it has never seen.",
        "Compare the value with the list of its field.",
    )
    found = _named(t, {"https": 0.25, "ip_in_url": 1})
    t.need(
        found == {"https"},
        "range-not-list",
        f"{t.said}; `https` may be 0, 0.5 or 1, and 0.25 is none of them.",
        "Codes are names that look like numbers: between two of them lies nothing.",
        "Ask whether the value is one of the list, not whether it lies between.",
    )
    found = _named(t, {"https": 0.5, "ip_in_url": 0.5})
    t.need(
        found == {"ip_in_url"},
        "one-list-for-all",
        f"{t.said}; 0.5 is allowed for `https`, and not for `ip_in_url`.",
        "What is a code for one field is nonsense for another.",
        "Use the list of the field that you look at.",
    )
    t.good("a number that is not one of the field's codes is named")
    found = _named(t, {"https": 0.5, "ip_in_url": True})
    t.need(
        found == {"ip_in_url"},
        "bool-accepted",
        f"{t.said}; `true` is not a number in JSON.",
        "In Python `True == 1`, so it slips in here, and another language refuses it.",
        "Look at the kind of the value before you compare it.",
    )
    found = _named(t, {"https": "0.5", "ip_in_url": 1})
    t.need(
        found == {"https"},
        "text-accepted",
        f'{t.said}; `"0.5"` is a text.',
        "Today it can be converted; tomorrow somebody sends a comma.",
        "Look at the kind of the value, and convert nothing.",
    )
    found = _named(t, {"https": None, "ip_in_url": 1})
    t.need(
        found == {"https"},
        "null-accepted",
        f"{t.said}; `null` is not a number.",
        "This is the request that began this chapter: it became NaN and an answer 200.",
        "Treat a name with `null` as you treat any other value that is no number.",
    )
    found = _named(t, {"https": math.nan, "ip_in_url": 1})
    t.need(
        found == {"https"},
        "nan-accepted",
        f"{t.said}; `json.loads` reads `NaN` as a float, and no list contains it.",
        "NaN is neither below nor above anything, so it passes every test of a range.",
        "Ask which values are allowed, not which are outside.",
    )
    t.good("`true`, text, `null` and NaN are named")
    found = _named(t, {"https": 0.5, "ip_in_url": 1, "https_": 1})
    t.need(
        found == {"https_"},
        "unknown-ignored",
        f"{t.said}; the contract has no field `https_`.",
        "A misspelt name is thrown away without a word, and with it what it meant.",
        "Look for names in the payload that the contract does not have.",
    )
    found = _named(t, {"https": 7, "https_": 1})
    t.need(
        found == {"https", "https_", "ip_in_url"},
        "first-only",
        f"{t.said}; `https`, `https_` and `ip_in_url` all break the contract.",
        "A caller who is told one mistake at a time comes back once for each.",
        "Go on after the first field.",
    )
    found = _named(t, {"port": 443, "depth": 1.5, "https": 1}, OTHER)
    t.need(
        found == {"https"},
        "contract-written-in",
        f"{t.said}. In this contract `port` may be 80 or 443, `depth` 0, 1.5 or 2, "
        "and there is no `https`.",
        "The next model has other fields, and the service must not care.",
        "Take every name and every code from `allowed`.",
    )
    t.good("whatever the contract's names and codes are")
    for value in SENT:
        found = _named(t, {"https": value, "ip_in_url": 1})
        right = _broken_fields({"https": value, "ip_in_url": 1}, ALLOWED)
        t.need(
            found == right,
            "off",
            f"{t.said}; what breaks the contract is {_list(right) or 'nothing'}.",
            "",
            "Run this call in a cell of its own, and follow the value of `https`.",
        )
    for place in t.rng.permutation(len(SENT)):
        other = SENT[t.rng.integers(len(SENT))]
        fields = [("https", SENT[place]), ("ip_in_url", other), ("https_", 1)]
        kept = t.rng.random(3) < (1, 0.9, 0.2)
        payload = dict(field for field, keep in zip(fields, kept, strict=True) if keep)
        found = _named(t, payload)
        right = _broken_fields(payload, ALLOWED)
        t.need(
            found == right,
            "off",
            f"{t.said}; what breaks the contract is {_list(right) or 'nothing'}.",
            "",
            "Run this call in a cell of its own, and follow each field.",
        )
    t.good("all of them at once, and any other mixture")


def _list(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


SERVICE_MS = 10.0


@functools.cache
def _p99_ms(load: float) -> float:
    """p99 of latency in ms at a share of the capacity, as the page simulates it.

    The recursion without a loop: a waiting time is how far the sum of (service - gap)
    has risen above its lowest point so far.
    """
    rng = np.random.default_rng(7)
    gaps_ms = rng.exponential(SERVICE_MS / load, size=400_000)
    gaps_ms[0] = SERVICE_MS  # the first request waits for nobody
    level = np.cumsum(SERVICE_MS - gaps_ms)
    waits_ms = level - np.minimum.accumulate(level)
    return float(np.quantile(waits_ms + SERVICE_MS, 0.99))


predict_p99 = prediction(
    "predict_p99",
    truth=lambda: _p99_ms(0.9),
    tolerance=(0.65, 1.6),
    guesses=[
        Guess(
            10,
            48,
            "no-queue",
            "That is a server at which the load adds nothing to the wait. Requests do "
            "not come one after the other in step: some come together.",
            "Ask how much room is left for the server to catch up after a crowd.",
        ),
        Guess(
            float("-inf"),
            10,
            "below-service",
            "The work alone takes 10 ms, and nobody can wait less than nothing.",
            "Begin with the 10 ms, and add the wait in front of it.",
            plausible=False,
        ),
        Guess(
            48,
            100,
            "straight-line",
            "This is the straight-line guess: 9/5 of the load, 9/5 of the latency. The "
            "server's spare time does not shrink by 9/5, it shrinks to a fifth.",
            "Look at what is left over: half of the time at 50 %, a tenth at 90 %.",
        ),
        Guess(
            100,
            144,
            "bends-too-little",
            "You expect a bend, and it is sharper than that: waiting grows with one "
            "over the share of time that is left.",
            "How many times smaller is the share left at 90 % than at 50 %?",
        ),
        Guess(
            300,
            10_000,
            "too-steep",
            "At 90 % the server still catches up, and the queue still empties: it is "
            "long, and it has an end.",
            "How many times smaller is the share left at 90 % than at 50 %?",
        ),
        Guess(
            10_000,
            float("inf"),
            "another-unit",
            "That is a thousand times the work, or more, at a server that still "
            "catches up.",
            "Give your number in milliseconds.",
            plausible=False,
        ),
    ],
    what="At 90 % load p99",
    unit="ms",
    hints={
        "*": [
            "After a crowd the server works off the queue in the time that is left "
            "over. How much is left over at 50 %, and how much at 90 %?",
            "If a queue drains five times more slowly, how long does one wait in it?",
        ]
    },
    not_checked="How you came to your number; and your own service, whose work does "
    "not always take 10 ms.",
    notice="Latency follows the room that is left, not the load: the five percent "
    "from 90 to 95 cost more than the eighty from 10 to 90.",
)


#: The fields of a probe in Kubernetes, with the default and the least value of each.
NUMBERS = {
    "initialDelaySeconds": (0, 0),
    "periodSeconds": (10, 1),
    "timeoutSeconds": (1, 1),
    "successThreshold": (1, 1),
    "failureThreshold": (3, 1),
    "terminationGracePeriodSeconds": (30, 1),
}
HTTP_GET = ("path", "port", "scheme", "host", "httpHeaders")
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PATHS = ("/health", "/ready")
PORT = 8000

LOADS_S = (90, 180)
IN_TRAFFIC_S = 40
HANG_S = 60
LOADING_HANG_S = 300
#: From then on the service runs as it always does; incidents come later, or earlier.
STEADY_S = 240
#: So long a quiet life is replayed, to learn when each probe asks.
QUIET_S = 1000


@dataclass(frozen=True)
class Service:
    """A service with one fault at most; times in seconds after its start.

    It listens after 2 s. ``/health`` is 200 from then on, ``/ready`` once the model
    is loaded. In ``frozen`` nothing is answered before its end, in ``away`` the
    feature store is gone and ``/ready`` is 503, in ``full`` an answer takes 3.1 s.
    """

    load_s: float = 90
    frozen: tuple[float, float] = (math.inf, math.inf)
    away: tuple[float, float] = (math.inf, math.inf)
    full: tuple[float, float] = (math.inf, math.inf)

    def answers(self, path: str, at_s: float) -> tuple[bool, float]:
        """Whether a probe sent then gets 200, and after how many seconds."""
        if at_s < 2:
            return False, 0.0
        wait_s = 3.1 if self.full[0] <= at_s < self.full[1] else 0.01
        if self.frozen[0] <= at_s < self.frozen[1]:
            wait_s += self.frozen[1] - at_s
        away = self.away[0] <= at_s < self.away[1]
        ready = at_s >= self.load_s and not away
        return path == "/health" or ready, wait_s


@dataclass(frozen=True)
class Life:
    """One life of a container: when and by which probe it ended, when it had traffic.

    It is told to end at ``ended_s``, and is given ``grace_s`` for it. ``traffic``
    holds (second, whether traffic comes from then on), ``asked`` the seconds at
    which each probe asked, whether or not the container had ended by then.
    """

    ended_s: float
    ended_by: str
    traffic: list[tuple[float, bool]]
    asked: dict[str, list[float]]
    grace_s: float = 0.0

    def killed_s(self) -> float:
        """When a process that hears no SIGTERM is killed."""
        return self.ended_s + self.grace_s

    def first_traffic_s(self) -> float:
        """When requests were first sent to it; infinity for never."""
        return next((at_s for at_s, on in self.traffic if on), math.inf)

    def has_traffic(self, at_s: float) -> bool:
        """Whether requests are sent to it at that moment."""
        states = [on for since_s, on in self.traffic if since_s <= at_s < self.ended_s]
        return bool(states) and states[-1]


def _changes(
    probe: Mapping[str, Any],
    service: Service,
    between_s: tuple[float, float],
    ok: bool,
    asked: list[float],
) -> list[tuple[float, bool]]:
    """When a probe's verdict changed, and to what, as the kubelet counts.

    The verdict begins as ``ok``; so many failures or successes in a row change it.
    The next probe leaves a period after the last one, or once that one has ended;
    when each left is added to ``asked``.
    """
    begin_s, until_s = between_s
    at_s = begin_s + probe["initialDelaySeconds"]
    changes, run = [], 0
    while at_s < until_s:
        asked.append(at_s)
        good, took_s = service.answers(probe["path"], at_s)
        good = good and took_s <= probe["timeoutSeconds"]
        end_s = at_s + min(took_s, probe["timeoutSeconds"])
        run = run + 1 if good != ok else 0
        wanted = probe["successThreshold" if good else "failureThreshold"]
        if good != ok and run >= wanted:
            ok, run = good, 0
            changes.append((end_s, ok))
        at_s = max(at_s + probe["periodSeconds"], end_s)
    return changes


def _life(probes: Mapping[str, Any], service: Service, until_s: float) -> Life:
    """Replay what the kubelet would do with a container, to its end or ``until_s``.

    Until the startup probe succeeds there is no other probe and no traffic. Failures
    in a row of the startup or liveness probe end the container, those of the
    readiness probe take it out of traffic. Without a probe its answer counts as good.
    """
    asked: dict[str, list[float]] = {name: [] for name in probes}
    started_s = 0.0
    if startup := probes.get("startupProbe"):
        patience = startup["failureThreshold"]
        at_s = float(startup["initialDelaySeconds"])
        while True:
            asked["startupProbe"].append(at_s)
            good, took_s = service.answers(startup["path"], at_s)
            started_s = at_s + min(took_s, startup["timeoutSeconds"])
            if good and took_s <= startup["timeoutSeconds"]:
                break
            patience -= 1
            if patience == 0:
                grace_s = startup["terminationGracePeriodSeconds"]
                return Life(started_s, "startupProbe", [], asked, grace_s)
            at_s = max(at_s + startup["periodSeconds"], started_s)
            if at_s >= until_s:
                return Life(math.inf, "", [], asked)
    ended_s, ended_by, grace_s = math.inf, "", 0.0
    if liveness := probes.get("livenessProbe"):
        between_s = started_s, until_s
        failed = _changes(liveness, service, between_s, True, asked["livenessProbe"])
        if failed:
            ended_s, ended_by = failed[0][0], "livenessProbe"
            grace_s = liveness["terminationGracePeriodSeconds"]
    traffic = [(started_s, True)]
    if readiness := probes.get("readinessProbe"):
        between_s = started_s, min(until_s, ended_s)
        traffic = _changes(
            readiness, service, between_s, False, asked["readinessProbe"]
        )
    return Life(ended_s, ended_by, traffic, asked, grace_s)


def _moments(life: Life, from_s: float) -> list[float]:
    """When an incident may begin: then, and just before and behind a probe.

    Two probes of each kind, so that a whole period lies between them: of all the
    moments of a period these are the best and the worst.
    """
    near = {float(from_s)}
    for asked in life.asked.values():
        for at_s in [at_s for at_s in asked if at_s >= from_s][:2]:
            near |= {at_s - 0.001, at_s + 0.001}
    return sorted(near)


def _read_probes(t: Trial) -> dict[str, dict[str, Any]]:
    """The probes of the student's file, each with its path and all its numbers."""
    import yaml

    try:
        text = Path(t.thing).read_text("utf-8", errors="replace")
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or type(error).__name__
        t.stop(
            "not-yaml",
            f"The file cannot be read as YAML{where}: `{show(said, 60)}`.",
            "",
            "Compare the indentation and the colons with the file that was given.",
        )
    t.need(
        isinstance(content, dict),
        "not-yaml",
        f"The file holds `{show(content, 40)}`, not names with values.",
        "",
        "Begin lines with the names of the probes, and indent their fields below.",
    )
    _known(t, content, PROBES, "the file")
    t.good("valid YAML")
    return {
        name: _read_probe(t, name, probe)
        for name, probe in content.items()
        if probe is not None
    }


def _read_probe(t: Trial, name: str, probe: Any) -> dict[str, Any]:
    """One probe with its path, and defaults for the numbers that it leaves out."""
    t.need(
        isinstance(probe, dict) and isinstance(probe.get("httpGet"), dict),
        "no-http-get",
        f"`{name}` has no `httpGet` with a path and a port.",
        "A probe that asks nothing is refused, and so is the whole manifest.",
        "Say what the probe asks: `httpGet: {path: ..., port: ...}`.",
    )
    allowed = [field for field in NUMBERS if not field.startswith("termination")]
    if name != "readinessProbe":
        allowed.append("terminationGracePeriodSeconds")
    _known(t, probe, ("httpGet", *allowed), f"`{name}`")
    _known(t, probe["httpGet"], HTTP_GET, f"`httpGet` of `{name}`")
    read = {}
    for field, (default, least) in NUMBERS.items():
        value = probe.get(field, default)
        whole = isinstance(value, int) and not isinstance(value, bool)
        t.need(
            whole and least <= value < 2**31,
            "bad-value",
            f"`{field}` of `{name}` is `{show(value, 40)}`.",
            "Kubernetes refuses the manifest.",
            f"Write a whole number of at least {least}, without a unit.",
        )
        read[field] = value
    t.need(
        read["successThreshold"] == 1 or name == "readinessProbe",
        "bad-value",
        f"`successThreshold` of `{name}` is `{read['successThreshold']}`.",
        "Kubernetes refuses any other number than 1 there.",
        "Leave `successThreshold` out of this probe.",
    )
    path, port = (probe["httpGet"].get(key) for key in ("path", "port"))
    t.need(
        path in PATHS and port == PORT and not isinstance(port, bool),
        "nothing-there",
        f"`{name}` asks `{show(path, 40)}` at port `{show(port, 40)}`.",
        "Where nobody answers 200, every probe fails, for ever.",
        "Take one of the two addresses of the service, and its port.",
    )
    return {**read, "path": path}


def _known(t: Trial, fields: dict, known: tuple | list, where: str) -> None:
    """End the trial at a field that is not known there."""
    for field in fields:
        if field in known:
            continue
        near = difflib.get_close_matches(str(field), known, n=1)
        shown = show(field, 40).strip("'")
        t.stop(
            "unknown-field",
            f"`{shown}` in {where} is not a field that is known there.",
            "A cluster refuses it at best; at worst it drops it without a word.",
            f"Did you mean `{near[0]}`?" if near else f"Known are {_list(set(known))}.",
        )


def _file(text: str) -> str:
    """The source of a cell that writes such a file."""
    return f"%%writefile {{work}}/probes.yaml\n{textwrap.dedent(text).strip()}\n"


def _startup(path: str, failures: int, delay_s: int = 0) -> tuple[str, str]:
    """The patch that puts a startup probe before the page's solution."""
    probe = f"""\
        startupProbe:
          httpGet: {{path: {path}, port: 8000}}
          initialDelaySeconds: {delay_s}
          failureThreshold: {failures}
        readinessProbe:
        """
    return "readinessProbe:\n", textwrap.dedent(probe)


def _liveness(
    period_s: int, timeout_s: int, failures: int, delay_s: int, startup: bool = False
) -> str:
    """A file in which all is well but the numbers of liveness, perhaps."""
    begin = "startupProbe: {httpGet: {path: /health, port: 8000}}" if startup else ""
    return _file(
        f"""
        readinessProbe: {{httpGet: {{path: /ready, port: 8000}}}}
        livenessProbe:
          httpGet: {{path: /health, port: 8000}}
          initialDelaySeconds: {delay_s}
          periodSeconds: {period_s}
          timeoutSeconds: {timeout_s}
          failureThreshold: {failures}
          terminationGracePeriodSeconds: 1
        {begin}
        """
    )


@exercise(
    "configuration",
    starting="64243a7a9ce5365a",
    hints={
        "*": [
            "For each probe: what does Kubernetes do when it fails, and would that "
            "help in each of the incidents?",
            "Readiness may follow a 503 of `/ready` closely: it costs nothing to come "
            "back. A restart costs the whole loading time.",
            "1 who asks which address, 2 how long a restart must be held back "
            "(pause, full load), 3 how soon it must come (hang): between the two lie "
            "period times threshold, 4 the time for loading.",
        ],
        "restart-loop": [
            "How many failures in a row does the probe allow, and how many seconds are "
            "they apart? Is that longer than the slowest loading?",
            "A startup probe keeps the others away until the model is there. Or let "
            "liveness ask an address that answers while the model loads.",
        ],
        "restart-storm": [
            "How many probes in a row can fall into 8 seconds? Count their timeouts."
        ],
        "timeout-too-short": [
            "How long does a probe wait for its answer, also if you leave "
            "`timeoutSeconds` out? The answer takes a little over 3 seconds."
        ],
        "hang-unnoticed": [
            "In the worst case the hang begins right after a probe: count period times "
            "threshold, and one timeout."
        ],
        "killed-late": [
            "A probe that gives up leads to SIGTERM, and a process that hangs does not "
            "hear it. What comes next, and after how many seconds?",
            "`terminationGracePeriodSeconds` may stand in a liveness probe: it holds "
            "for what that probe ends, and leaves an ordinary stop alone.",
        ],
        "outage-at-start": [
            "A startup probe has to be short enough for a hang while loading, and may "
            "not fail for as long as the store is gone. Which address allows both?",
        ],
    },
    not_checked="Other times than those of the incidents, and two incidents at once; "
    "whether a full instance should leave the traffic, which gives the others more; "
    "and what Kubernetes does beside it: longer and longer waits between restarts.",
    notice="Readiness may be hasty with a 503, and has to be patient with a slow "
    "answer: if all are full, all leave. Liveness has to be slower than any pause, and "
    "quicker than your patience.",
    wrong=[
        Wrong(
            "no YAML",
            "not-yaml",
            source=_file("livenessProbe: {httpGet: {path: /health"),
        ),
        Wrong("a list", "not-yaml", source=_file("- livenessProbe\n- readinessProbe")),
        Wrong(
            "a whole manifest's field",
            "unknown-field",
            source=_file("apiVersion: v1\nkind: Pod"),
        ),
        Wrong(
            "a misspelt field",
            "unknown-field",
            patch=(("periodSeconds", "periodsSeconds"),),
        ),
        Wrong(
            "a path outside httpGet",
            "no-http-get",
            patch=(("httpGet: {path: /health, port: 8000}", "path: /health"),),
        ),
        Wrong("seconds with a unit", "bad-value", patch=((": 10\n", ": 10s\n"),)),
        Wrong(
            "two successes for liveness",
            "bad-value",
            patch=(("  failureThreshold: 4", "  successThreshold: 2"),),
        ),
        Wrong(
            "an address that is none",
            "nothing-there",
            patch=(("/health", "/healthz"),),
        ),
        Wrong(
            "the colleague's file, one threshold higher",
            "restart-loop",
            source=_file(
                """
            readinessProbe:
              httpGet: {path: /ready, port: 8000}
            livenessProbe:
              httpGet: {path: /ready, port: 8000}
              failureThreshold: 4
            """
            ),
        ),
        Wrong(
            "time for a fast machine only",
            "restart-loop",
            patch=(_startup("/ready", 12),),
        ),
        Wrong(
            "no readiness, and no startup probe",
            "early-traffic",
            source=_file(
                """
            livenessProbe:
              httpGet: {path: /health, port: 8000}
              timeoutSeconds: 5
              failureThreshold: 4
            """
            ),
        ),
        Wrong(
            "/health for everything",
            "early-traffic",
            patch=(("/ready", "/health"),),
        ),
        Wrong(
            "a readiness probe once in five minutes",
            "late-traffic",
            patch=(
                ("readinessProbe:\n", "readinessProbe:\n  initialDelaySeconds: 300\n"),
            ),
        ),
        Wrong(
            "hasty liveness",
            "restart-storm",
            patch=(
                (
                    "  periodSeconds: 10\n  timeoutSeconds: 5\n  failureThreshold: 4",
                    "  periodSeconds: 2\n  timeoutSeconds: 3\n  failureThreshold: 2",
                ),
            ),
        ),
        Wrong(
            "one long period, and a freeze right before its probe",
            "restart-storm",
            source=_liveness(period_s=60, timeout_s=4, failures=1, delay_s=15),
        ),
        Wrong(
            "two probes in one freeze",
            "restart-storm",
            source=_liveness(period_s=4, timeout_s=3, failures=2, delay_s=0),
        ),
        Wrong(
            "a long period after a startup probe",
            "restart-storm",
            source=_liveness(
                period_s=55, timeout_s=5, failures=1, delay_s=30, startup=True
            ),
        ),
        Wrong(
            "a startup probe that one freeze defeats",
            "restart-storm",
            patch=(_startup("/health", 1, delay_s=5),),
        ),
        Wrong(
            "the default timeout",
            "timeout-too-short",
            patch=(("  timeoutSeconds: 5\n  failure", "  failure"),),
        ),
        Wrong(
            "a timeout of exactly three seconds",
            "timeout-too-short",
            patch=(("timeoutSeconds: 5\n  failure", "timeoutSeconds: 3\n  failure"),),
        ),
        Wrong(
            "liveness asks /ready, after a startup probe",
            "dependency-restart",
            patch=(_startup("/ready", 25), ("path: /health", "path: /ready")),
        ),
        Wrong(
            "a startup probe that asks for the feature store",
            "outage-at-start",
            patch=(_startup("/ready", 25),),
        ),
        Wrong(
            "a startup probe for readiness",
            "not-taken-out",
            source=_file(
                """
            startupProbe:
              httpGet: {path: /ready, port: 8000}
              failureThreshold: 25
            livenessProbe:
              httpGet: {path: /health, port: 8000}
              timeoutSeconds: 5
              failureThreshold: 4
            """
            ),
        ),
        Wrong(
            "no liveness",
            "hang-unnoticed",
            source=_file(
                """
            readinessProbe:
              httpGet: {path: /ready, port: 8000}
            """
            ),
        ),
        Wrong(
            "very patient liveness",
            "hang-unnoticed",
            patch=(("failureThreshold: 4", "failureThreshold: 12"),),
        ),
        Wrong(
            "a probe every five minutes",
            "hang-unnoticed",
            source=_liveness(period_s=300, timeout_s=9, failures=1, delay_s=255),
        ),
        Wrong(
            "period times threshold, and the timeout forgotten",
            "hang-unnoticed",
            source=_liveness(period_s=30, timeout_s=10, failures=2, delay_s=15),
        ),
        Wrong(
            "a second too late",
            "hang-unnoticed",
            source=_liveness(period_s=19, timeout_s=4, failures=3, delay_s=0),
        ),
        Wrong(
            "a delay as long as the slowest loading",
            "hang-unnoticed",
            source=_liveness(period_s=10, timeout_s=5, failures=4, delay_s=190),
        ),
        Wrong(
            "SIGTERM for the end",
            "killed-late",
            patch=(("\n  terminationGracePeriodSeconds: 10", ""),),
        ),
        Wrong(
            "a startup probe without end",
            "start-hang",
            patch=(_startup("/ready", 100),),
        ),
    ],
    also_right=[
        Right(
            "no startup probe, since /health answers while the model loads",
            source=_file(
                """
            readinessProbe: {httpGet: {path: /ready, port: 8000}, periodSeconds: 2}
            livenessProbe:
              httpGet:
                port: 8000
                path: /health
              periodSeconds: 5
              timeoutSeconds: 4
              failureThreshold: 4
            """
            ),
        ),
        Right(
            "a startup probe that asks for the process",
            patch=(_startup("/health", 3),),
        ),
        Right(
            "a delay for liveness, and as little patience as a freeze allows",
            source=_file(
                """
            livenessProbe:
              httpGet: {path: /health, port: 8000, scheme: HTTP}
              initialDelaySeconds: 30
              periodSeconds: 5
              failureThreshold: 6
              timeoutSeconds: 4
              terminationGracePeriodSeconds: 10
            readinessProbe:
              httpGet: {path: /ready, port: 8000}
              periodSeconds: 3
              successThreshold: 2
            """
            ),
        ),
    ],
)
def probes(t: Trial) -> None:
    """Probes that survive loading, a pause, full load, an outage and a hang."""
    config = _read_probes(t)
    quiet = _life(config, Service(), QUIET_S)
    between_s = [at_s for at_s in _moments(quiet, LOADS_S[0]) if at_s < LOADS_S[1]]
    for load_s in (*LOADS_S, *between_s):
        life = _life(config, Service(load_s=load_s), 2 * LOADING_HANG_S)
        t.need(
            not life.ended_by,
            "restart-loop",
            f"The model needs {load_s:.0f} s to load, and `{life.ended_by}` restarted "
            f"it after {life.ended_s:.0f} s. The next life ends the same way.",
            "The service never gets ready, and each restart is the probe's fault.",
            "Compare the time that this probe gives with the time for loading.",
        )
        t.need(
            life.first_traffic_s() >= load_s,
            "early-traffic",
            f"Requests came after {life.first_traffic_s():.0f} s; the model was loaded "
            f"after {load_s:.0f} s.",
            "Users were answered with 503 until then, at each release.",
            "Ask which probe keeps the traffic away, and which address it asks.",
        )
        t.need(
            life.first_traffic_s() <= load_s + IN_TRAFFIC_S,
            "late-traffic",
            f"The model was loaded after {load_s:.0f} s, and {IN_TRAFFIC_S} s later "
            "still no request came.",
            "A release waits for this, and so does a rollback.",
            "Look for the delay or the period that is longer than it has to be.",
        )
    t.good(
        f"models that load for {LOADS_S[0]} to {LOADS_S[1]} s get ready, "
        "without a restart"
    )
    steady_s = _moments(quiet, STEADY_S)
    for begin_s in (*steady_s, *_moments(quiet, 2)):
        life = _life(config, Service(frozen=(begin_s, begin_s + 8)), begin_s + 60)
        t.need(
            not life.ended_by,
            "restart-storm",
            f"A pause of 8 s, and `{life.ended_by}` restarted the container "
            f"{life.ended_s - begin_s:.0f} s after it began.",
            "Under load all instances pause now and then. Each restart gives the "
            "others more load, for as long as a model loads.",
            "Let more time pass before this probe gives up.",
        )
    t.good("a pause of 8 s restarts nothing")
    for begin_s in steady_s:
        life = _life(config, Service(full=(begin_s, begin_s + 90)), begin_s + 90)
        t.need(
            not life.ended_by,
            "timeout-too-short",
            f"Answers took 3.1 s under full load, and `{life.ended_by}` restarted the "
            f"container after {life.ended_s - begin_s:.0f} s.",
            "The busiest instance is taken away at the busiest time.",
            "Find the field that says how long a probe waits for its answer.",
        )
    t.good("answers that take a little over 3 s under full load restart nothing")
    for begin_s in steady_s:
        life = _life(config, Service(away=(begin_s, begin_s + 300)), begin_s + 300)
        t.need(
            not life.ended_by,
            "dependency-restart",
            f"The feature store was gone, `/ready` said 503, and `{life.ended_by}` "
            f"restarted the container after {life.ended_s - begin_s:.0f} s.",
            "All instances restart at once, and none of it brings the store back.",
            "Ask which address says whether a restart would help.",
        )
        t.need(
            not life.has_traffic(begin_s + IN_TRAFFIC_S),
            "not-taken-out",
            f"`/ready` had said 503 for {IN_TRAFFIC_S} s, and requests still came.",
            "What a service says of itself helps if somebody asks, all the time.",
            "Which probe goes on asking `/ready` after the start, and how often?",
        )
    for load_s, begin_s in itertools.product(LOADS_S, (0, 60)):
        away = begin_s, begin_s + 300
        life = _life(config, Service(load_s=load_s, away=away), away[1] + 60)
        t.need(
            not life.ended_by,
            "outage-at-start",
            f"The feature store was gone from second {begin_s} to {away[1]} after the "
            f"start, and `{life.ended_by}` restarted the container after "
            f"{life.ended_s:.0f} s.",
            "While the store is gone, no release and no new instance can start.",
            "Ask which address says whether a restart would help, also at the start.",
        )
    t.good("without the feature store it leaves the traffic, and is not restarted")
    for begin_s in steady_s:
        _killed_in_time(t, config, Service(frozen=(begin_s, math.inf)))
    for begin_s in (0.5, 20, LOADS_S[1] - 1):
        stuck = Service(load_s=LOADS_S[1], frozen=(begin_s, math.inf))
        life = _life(config, stuck, 3 * LOADING_HANG_S)
        told = f"killed after {life.killed_s():.0f} s"
        if life.ended_s == math.inf:
            told = f"not restarted for {3 * LOADING_HANG_S} s"
        t.need(
            life.killed_s() <= LOADING_HANG_S,
            "start-hang",
            f"The process hung {begin_s:g} s after its start, while it loaded, and was "
            f"{told}; {LOADING_HANG_S} s were promised.",
            "A release would wait there, with one instance less.",
            "Give loading as much time as it needs, and not much more.",
        )
    for load_s in LOADS_S:
        loaded = Service(load_s=load_s)
        for begin_s in _moments(_life(config, loaded, QUIET_S), load_s):
            if begin_s >= load_s:
                frozen = begin_s, math.inf
                _killed_in_time(t, config, replace(loaded, frozen=frozen))
    t.good("a process that hangs is killed in time, serving or loading")


def _killed_in_time(t: Trial, config: Mapping[str, Any], service: Service) -> None:
    """A loaded process that hangs is given up, and killed, within the promise."""
    begin_s = service.frozen[0]
    life = _life(config, service, begin_s + 5 * HANG_S)
    seconds = life.ended_s - begin_s
    told = f"given up after {seconds:.1f} s"
    if seconds == math.inf:
        told = f"not given up for {5 * HANG_S} s"
    t.need(
        seconds <= HANG_S,
        "hang-unnoticed",
        f"The process hung {begin_s:.0f} s after its start, and was {told}; {HANG_S} s "
        "were promised to its end.",
        "A process that hangs does not end, so nobody else starts it again.",
        "Look at the probe whose failure restarts, and at how long that takes.",
    )
    t.need(
        life.killed_s() - begin_s <= HANG_S,
        "killed-late",
        f"The process hung. `{life.ended_by}` gave it up after {seconds:.1f} s, "
        f"SIGKILL came {life.grace_s} s later, and {HANG_S} s were promised in all.",
        "A process that hangs does not hear SIGTERM: it ends with the grace period.",
        "Find the field that says how long Kubernetes waits between the two signals.",
    )


order_stop = order(
    "order_stop",
    {
        "A": "Send SIGTERM to the server.",
        "B": "Compare the router's count of failed requests with the one from before.",
        "C": "Take the instance off the router's list.",
        "D": "Make sure that the other instances can carry the load without this one.",
        "F": "Wait until its process has ended, at most for the grace period.",
        "G": "Write down the router's count of failed requests.",
        "H": "Delete the machine.",
        "J": "Wait until no new request has reached the instance for some seconds.",
    },
    [
        Before(
            "G", "C", "no-baseline",
            "A count read after the change holds what the change has done already.",
            "A before and after needs a before: what is the first step that can hurt?",
        ),
        Before(
            "D", "C", "no-capacity",
            "The others get this one's share at once. If they are full, all of them "
            "become slow.",
            "Ask who answers the requests that no longer come here.",
        ),
        Before(
            "C", "J", "waits-for-nothing",
            "While the instance is on the list, new requests do not end, and the wait "
            "does not either.",
            "Ask what has to happen before the requests can stop coming.",
        ),
        Before(
            "J", "A", "port-closed-early",
            "SIGTERM closes the door. Routers and clients that have not heard of the "
            "change yet find it closed, and their users see an error.",
            "Ask how long it takes until every router has noticed.",
        ),
        Before(
            "A", "F", "never-told",
            "A server does not end unless it is told to: the wait runs to the end of "
            "the grace period for nothing.",
            "Ask what makes the process end.",
        ),
        Before(
            "F", "H", "in-flight-lost",
            "The machine goes with the requests that the server still had in hand.",
            "Ask what the server does between SIGTERM and its end.",
        ),
        Before(
            "F", "B", "counted-too-soon",
            "The requests in hand can still fail after this count, and the last ones "
            "are those that a stop loses.",
            "Ask when the last request of this instance has its answer.",
        ),
    ],
    distractors={
        "E": "`kill -9` gives a server no chance to finish: what it has in hand is "
        "lost, as the worker that was killed on this page has shown.",
        "I": "A closed port is an error for everybody who still comes. The router has "
        "to stop sending first, and then the server closes its port by itself.",
        "K": "Health asks whether to restart. The platform would restart this server "
        "with requests in its hands, and send it traffic again afterwards.",
    },
    example="GDCJAFBH",
    others=["DGCJAFHB", "GDCJAFHB"],
    hints={
        "*": [
            "Who has to know first that this instance goes away: the server, or those "
            "who send to it?",
            "Three parties: the router stops sending, the server finishes, and only "
            "then things are removed. Between any two of them there is a wait.",
            "1 measure and make sure, 2 no new requests, 3 finish the old ones, "
            "4 look back and clean up.",
        ],
    },
    not_checked="How long each wait has to be: that depends on your routers, and on "
    "how long your slowest request takes.",
    notice="First the traffic, then the process: to deploy is not to release, and to "
    "stop is not to withdraw.",
)  # fmt: skip


# --- live ---

#: How long a server may take to get ready, and to end, in seconds; or, on a slow
#: machine, twice as long as it took to come up.
READY_S = END_S = 3.0
#: How often each of four callers asks, to see whether their answers get mixed.
ROUNDS = 10


def _row(t: Trial) -> dict[str, float]:
    """A random row that keeps the contract."""
    from deploylab import phishing

    features = phishing.CONTRACT.features
    return {one.name: float(t.rng.choice(one.values)) for one in features}


def _need_up(t: Trial, program: live.Program) -> None:
    """It comes up and answers while its model cannot be read yet."""
    from deploylab.exercises import live

    quiet_from = None
    while not program.ask("/health", timeout_s=0.5).status:
        said = program.last_words()
        t.need(
            not program.died(),
            "died",
            f"`python {program.file.name}` ended with {program.died()}. "
            + (f"Its log says `{said}`." if said else "Its log is empty."),
            "A server that ends while it starts is started again, and ends again.",
            "Run the program in a terminal with PORT and ARTIFACT set, and read its "
            "output."
            if "PORT" not in said and "ARTIFACT" not in said
            else "Read the variable by the name that the exercise gives.",
        )
        if program.loads and quiet_from is None:
            quiet_from = program.seconds
        # The port may be opened a little later than the model, if at once.
        patience_s = min(3.0, max(1.0, quiet_from or 0))
        quiet = quiet_from is not None and program.seconds > quiet_from + patience_s
        listens = ", ".join(map(str, program.ports())) or "none"
        t.need(
            # One that waits for its model waits for us, and does not hang.
            (program.loads or not program.hangs()) and (not quiet or listens == "none"),
            "no-answer",
            f"After {program.seconds:.0f} s nobody answers on port {program.port}, "
            f"which stood in `PORT`. Ports on which your program listens: {listens}.",
            "The platform chooses the port, and looks for the server there only.",
            live.LISTENS_NOWHERE
            if listens == "none"
            else "Listen on 127.0.0.1 and on the port in the environment variable "
            "`PORT`.",
        )
        t.need(
            not quiet,
            "silent-while-loading",
            "While the model was loading, `GET /health` got no answer.",
            "Whoever watches the process cannot tell slow from dead, and restarts it.",
            "Open the port first, and load the model beside it, in a thread.",
        )
        time.sleep(0.02)
    program.up_s = program.seconds
    t.good("it comes up, on the port that it was given")


def _need_probes(t: Trial, program: live.Program) -> None:
    """While the model loads: alive, not ready; afterwards ready."""
    health, ready = program.ask("/health"), program.ask("/ready")
    if ready.status == 200:
        _need_load_seen(t, program)
    t.need(
        ready.status != 200,
        "ready-too-early",
        "`GET /ready` gave 200 before the model was loaded.",
        "Readiness is what a router reads: from this answer on users are sent here.",
        "Let `/ready` ask whether there is a model that has scored a row.",
    )
    t.need(
        ready.status == 503,
        "no-readiness",
        f"While the model was loading, `GET /ready` {ready.said}, and 503 is asked "
        "for." + _log_says(program),
        "A router takes 503 as *wait*; other refusals mean something else.",
        "Answer 503 until the model is there.",
    )
    t.need(
        health.status == 200,
        "no-health",
        f"While the model was loading, `GET /health` {health.said}."
        + _log_says(program),
        "A process that is alive and loading would be restarted, and load for ever.",
        "Answer 200 at `/health` as soon as the process can answer at all.",
    )
    reply = program.ask("/predict", json.dumps(_row(t)).encode(), timeout_s=1)
    if reply.status == 200:
        _need_load_seen(t, program)
    t.need(
        reply.status == 503,
        "predict-unready",
        f"While the model was loading, a good `POST /predict` {reply.said}, and 503 "
        "is asked for." + _log_says(program),
        "503 says *come back*; an error of the server wakes somebody up.",
        "Look in the route for what is missing before the model is there.",
    )
    program.let_load()
    from_s = program.seconds
    limit_s = max(READY_S, 2 * program.up_s)
    while (ready := program.ask("/ready")).status != 200:
        t.need(
            program.seconds < from_s + limit_s and not program.died(),
            "never-ready",
            f"The model could be read, and {program.seconds - from_s:.0f} s later "
            f"`GET /ready` {ready.said}." + _log_says(program),
            "A server that never says so is never sent anything.",
            "Look whether the loading has ended, and who tells `/ready`.",
        )
        time.sleep(0.02)
    # Only now is it known that it was loading while we asked.
    _need_load_seen(t, program)
    t.good("alive, and not ready, while the model loads")
    t.good("ready once it is loaded")


def _need_load_seen(t: Trial, program: live.Program) -> None:
    """A server that says it is ready has opened its model file with Python.

    What a library opens by itself can be neither held back nor counted, so nothing
    can be said about it.
    """
    # Loading at the first request begins with this one.
    program.ask("/predict", json.dumps(_row(t)).encode(), timeout_s=1)
    deadline = time.monotonic() + READY_S
    while not program.loads and time.monotonic() < deadline:
        time.sleep(0.02)
    t.need(
        program.loads,
        "loaded-otherwise",
        "`GET /ready` or `POST /predict` gave 200, and the check has seen nobody open "
        "the model file.",
        "Either nothing is loaded, or a library opened the file by itself: then no "
        "digest was compared, and the check cannot hold the file back.",
        "Load the model with `artifacts.load`, before `/ready` gives 200.",
    )


def _scored(t: Trial, each: int) -> list[tuple[dict[str, float], float]]:
    """Rows with their probability, as many below 0.5 as above it, in turn.

    A mistake on one side alone is seen then.
    """
    from deploylab import artifacts, phishing

    rows = [_row(t) for _ in range(100)]
    scorer = artifacts.load("artifact")
    scores = scorer.score([phishing.CONTRACT.row(row) for row in rows]).tolist()
    low = [(row, p) for row, p in zip(rows, scores, strict=True) if p < 0.45]
    high = [(row, p) for row, p in zip(rows, scores, strict=True) if p > 0.55]
    pairs = zip(low[:each], high[:each], strict=True)
    return [case for pair in pairs for case in pair]


def _need_predictions(
    t: Trial,
    service: live.Service,
    version: str,
    advice: str = "Load the folder in `ARTIFACT`, and return what `score` gives.",
) -> int:
    """The answers are those of the model; how many were asked for.

    advice: what to try if they are another model's.
    """
    cases = _scored(t, 4)
    for row, expected in cases:
        body = json.dumps(row)
        said = _need_prediction(t, service, body)
        t.need(
            abs(said["probability"] - expected) <= 0.001,
            "differs",
            f"For `{body}` the probability is {said['probability']:.3f}; the "
            f"artifact's model says {expected:.3f}.",
            "The model that was tested is not the one that users get.",
            advice,
        )
        names = t.rng.permutation(list(row)).tolist()
        body = json.dumps({name: row[name] for name in names})
        other = _need_prediction(t, service, body)
        t.need(
            abs(other["probability"] - expected) <= 0.001,
            "order-trusted",
            f"With the names in the order `{names[0]}`, `{names[1]}`, ... the "
            f"probability is {other['probability']:.3f}; in the contract's order it is "
            f"{expected:.3f}.",
            "A JSON object has no order, so another client sends another one.",
            "Take the values by name, in the contract's order.",
        )
        t.need(
            said["phishing"] == (expected > 0.5),
            "flag-differs",
            f"With the probability {expected:.3f}, `phishing` is `{said['phishing']}`.",
            "The caller acts on the flag, and never looks at the number.",
            "It is phishing above 0.5.",
        )
        t.need(
            said["version"] == version,
            "other-version",
            f"`version` is `{show(said['version'])}`, and the artifact is `{version}`.",
            "When two versions answer side by side, this is how they are told apart.",
            "Take the version from what `artifacts.read` or `load` gives.",
        )
    t.good("predictions equal the artifact's, in any order of the names")
    return 2 * len(cases)


def _need_prediction(
    t: Trial, service: live.Service, body: str, reply: live.Reply | None = None
) -> dict[str, Any]:
    """The answer to a good request, in the form that is asked for."""
    reply = reply or service.ask("/predict", body.encode(), timeout_s=3)
    t.need(
        reply.status == 200,
        "good-refused",
        f"`POST /predict` with `{body}` {reply.said}." + _log_says(service),
        "The request keeps the contract; its caller can do nothing about this.",
        "Send this body to your server, and read its log.",
    )
    try:
        said = json.loads(reply.body)
        good = (
            isinstance(said["phishing"], bool)
            and isinstance(said["probability"], float | int)
            and isinstance(said["version"], str)
        )
    except (ValueError, KeyError, TypeError):
        good = False
    t.need(
        good,
        "answer-form",
        f"A good request was answered with `{show(reply.text.strip())}`.",
        "Clients are written against the promised form.",
        "Answer a JSON object: `phishing` true or false, `probability` a number, "
        "`version` a text.",
    )
    return said


def _need_refusals(t: Trial, service: live.Service) -> None:
    """Bad requests get 4xx and the name of the field; then a good one still works."""
    good = _row(t)
    short = {name: value for name, value in good.items() if name != "https"}
    bad = {
        "no `https`": ("https", short),
        "`https` null": ("https", good | {"https": None}),
        "`https` a text": ("https", good | {"https": "yes"}),
        '`"0.5"`, a text, for `https`': ("https", good | {"https": "0.5"}),
        "`long_url` 7, which is no code of it": ("long_url", good | {"long_url": 7}),
        "`https` a list": ("https", good | {"https": [0.5]}),
        "`is_popular` true": ("is_popular", good | {"is_popular": True}),
        "`NaN` for `https`": ("https", good | {"https": float("nan")}),
        "`NaN` for `ip_in_url`": ("ip_in_url", good | {"ip_in_url": float("nan")}),
        "a field `htpps` that nobody knows": ("htpps", good | {"htpps": 1}),
        "a list for an object": ("", list(good.values())),
        "the body `null`": ("", b"null"),
        "the body `5`": ("", b"5"),
        'the body `"x"`': ("", b'"x"'),
        "an empty body": ("", b""),
        "a text that is no JSON": ("", b"https=1"),
        "a byte that is no UTF-8": ("", b"\xff"),
    }
    for name, (field, payload) in bad.items():
        is_body = isinstance(payload, bytes)
        body = payload if is_body else json.dumps(payload).encode()
        reply = service.ask("/predict", body)
        t.need(
            reply.status and reply.status < 500,
            "bad-input-500",
            f"`POST /predict` with {name} {reply.said}." + _log_says(service),
            "A caller's mistake counts as the server's fault, and wakes somebody up.",
            "Refuse with 422 before the values reach the model.",
        )
        t.need(
            reply.status >= 400 or "NaN" not in name,
            "nan-accepted",
            f"`POST /predict` with {name} gave {reply.status} and "
            f"`{show(reply.text.strip(), 80)}`.",
            "`NaN` passes every comparison with a limit, and the model answers "
            "something.",
            "Compare with the values that are allowed, not with a range.",
        )
        t.need(
            reply.status >= 400,
            "bad-input-accepted",
            f"`POST /predict` with {name} gave {reply.status} and "
            f"`{show(reply.text.strip(), 80)}`.",
            "The model answers whatever it is sent; nobody learns that it was a guess.",
            "Check the body against the contract before it reaches the model.",
        )
        t.need(
            field in reply.text,
            "field-not-named",
            f"`POST /predict` with {name} gave {reply.status} and "
            f"`{show(reply.text.strip(), 80)}`, without the field's name.",
            "The caller has eight fields to search, at an hour of its choosing.",
            "Put what the contract's error says into the answer.",
        )
    # The values are as long as good ones: an answer may repeat what it was sent, and
    # may list all the names, but has to say more than that.
    said = [
        service.ask("/predict", json.dumps(good | {name: 7.5}).encode()).text
        for name in ("https", "long_url")
    ]
    t.need(
        len({re.sub(r"-?\w*\d[\w.]*", "#", text) for text in said}) == 2,
        "names-all",
        f"With 7.5 for `https` the answer is `{show(said[0].strip(), 80)}`, and with "
        "7.5 for `long_url` it says the same.",
        "An answer that names every field leaves the caller to find the one.",
        "Name the fields that break the contract, apart from the others.",
    )
    _need_prediction(t, service, json.dumps(good))
    t.good("bad requests get 4xx and the name of the field")


def _need_parallel(t: Trial, service: live.Service) -> None:
    """Three callers who send slowly do not hold up a fourth; nobody gets another's."""
    cases = _scored(t, 2)
    bodies = [json.dumps(row).encode() for row, _ in cases]
    alone = service.ask("/predict", bodies[3])
    # A second worker may still be coming up, on a slow machine.
    patience_s = min(6.0, max(2.0, 20 * alone.seconds, 2 * service.up_s))
    callers = [service.slow_caller("/predict", body) for body in bodies[:3]]
    time.sleep(0.1)
    fourth = service.ask("/predict", bodies[3], timeout_s=patience_s)
    replies = [caller.finish() for caller in callers]
    t.need(
        fourth.status == 200,
        "serial",
        f"Alone, a request took {1000 * alone.seconds:.0f} ms. While three others "
        f"were sending their bodies, it had no answer after {patience_s:.0f} s.",
        "One caller on a bad line stops all the others.",
        "Give every request a thread, or give the server several.",
    )
    t.need(
        all(reply.status == 200 for reply in replies),
        "slow-caller-lost",
        f"Three callers sent their bodies slowly; "
        f"{sum(reply.status != 200 for reply in replies)} of them got no prediction "
        f"({[reply.status for reply in replies]})." + _log_says(service),
        "People on slow lines are users too.",
        "Look for what your server does with a request that takes a while.",
    )
    replies.append(fourth)
    service.let_meet()
    with ThreadPoolExecutor(4) as pool:
        ask = functools.partial(service.ask, "/predict", timeout_s=5)
        replies += pool.map(ask, bodies * ROUNDS)
    for (row, expected), reply in zip(cases * (ROUNDS + 1), replies, strict=True):
        body = json.dumps(row)
        said = _need_prediction(t, service, body, reply)
        t.need(
            abs(said["probability"] - expected) <= 0.001
            and said["phishing"] == (expected > 0.5),
            "mixes-requests",
            f"With others at the same time, `{body}` got `phishing` "
            f"`{said['phishing']}` and {said['probability']:.3f}. Alone it gets "
            f"`{expected > 0.5}` and {expected:.3f}.",
            "Somebody got the answer to somebody else's question, with status 200.",
            "Look for what one thread writes and another reads: a global name, or a "
            "list outside the function.",
        )
    t.good("four requests at once, and everybody gets their own answer")


def _need_drain(t: Trial, program: live.Program) -> None:
    """SIGTERM, twice: what was accepted is answered, then the process ends."""
    body = json.dumps(_row(t)).encode()
    limit_s = max(END_S, 2 * program.up_s)
    # The first to come is the last to end: it is the one that a server waits for.
    third, first, second = (program.slow_caller("/predict", body) for _ in range(3))
    program.ask("/health")  # it came later, so the others have been accepted
    time.sleep(0.2)
    program.terminate()
    stopped = time.monotonic()
    for caller, late_s in ((first, 0.5), (second, 2.0)):
        time.sleep(max(0.0, stopped + late_s - time.monotonic()))
        reply = caller.finish(timeout_s=2)
        t.need(
            reply.status == 200 or "SIGTERM" not in program.died(),
            "killed-by-signal",
            f"`SIGTERM` came when a request had sent its headers and half of its "
            f"body. The rest came {late_s:g} s later, and it {reply.said}: your "
            "program was killed by the signal.",
            "A signal that no handler takes ends a Python program where it stands.",
            "Before your server begins to serve, say with `signal.signal` what is "
            "called when SIGTERM comes.",
        )
        t.need(
            reply.status == 200,
            "drops-on-stop",
            f"`SIGTERM` came when a request had sent its headers and half of its "
            f"body. The rest came {late_s:g} s later, and it {reply.said}.",
            "Every release stops servers, so every release would lose requests.",
            "On SIGTERM stop accepting, and wait for the threads that are at work, "
            "however long they take.",
        )
    program.terminate()
    time.sleep(0.2)
    reply = third.finish(timeout_s=2)
    t.need(
        reply.status == 200,
        "second-signal",
        f"`SIGTERM` came a second time while a request was being sent: it "
        f"{reply.said}." + _log_says(program),
        "Supervisors and impatient people send it again, and lose what was left.",
        "Let the handler do no harm when it runs twice.",
    )
    t.need(
        program.ended_within(limit_s),
        "never-exits",
        f"The last answer was given, and {limit_s:.0f} s later the process still runs.",
        "The platform kills it in the end; until then the release waits.",
        "Look for what keeps it: `shutdown` called inside the loop that it waits for, "
        "or a thread that never ends.",
    )
    t.good("on SIGTERM, also twice, it finishes what it has accepted, then ends")


def _log_says(service: live.Service) -> str:
    said = service.last_words()
    return f" Its log says `{said}`." if said else ""


@exercise(
    "program",
    live=True,
    starting="114a480b85e880af",
    limit_s=60,
    memory_bytes=None,
    hints={
        "*": [
            "Which of the promises does the finding name, and which lines of your "
            "program keep it?",
            "The page's service keeps all of them: `create_app`, `BackgroundModel`, "
            "`add_probes` and `add_prediction` show one way each.",
            "1 read the description, 2 routes, 3 a thread that loads, warms and then "
            "sets the model, 4 a handler for the contract's error, 5 port and threads, "
            "6 SIGTERM.",
        ],
        "silent-while-loading": [
            "Which line is the program waiting in, while the port is still closed?",
            "`threading.Thread(target=...)` with `start()` lets the rest go on.",
        ],
        "drops-on-stop": [
            "Who waits for the threads that are answering, when the main one ends?",
            "A daemon thread is cut off when the program ends; werkzeug's server makes "
            "its threads so unless `server.daemon_threads` is set to `False`.",
            "Who gets the signal, if your program has started another one? It can "
            "become the other one instead, with `os.execv`.",
            "Servers differ in what they finish: aiohttp's gives up a request whose "
            "body is still coming. This promise asks for more, and a server with "
            "threads that reads the body in one of them keeps it.",
        ],
        "killed-by-signal": [
            "Which line of your program says what SIGTERM does, and is it run before "
            "the server begins to serve?",
            "The function that `signal.signal` is given is called with two arguments, "
            "and should end the loop of the server.",
        ],
        "second-signal": [
            "What does your handler do when it runs for the second time?",
            "A `Thread` object can be started once; an `Event` can be set again and "
            "again.",
        ],
        "mixes-requests": [
            "Which names does your route write that are not its own?",
        ],
        "never-exits": [
            "`server.shutdown()` waits for `serve_forever` to return. In which thread "
            "does your signal handler run?",
        ],
    },
    not_checked="Whether a row had been scored before `/ready` said 200. Connections "
    "that wait in the listen queue at SIGTERM: they are reset, and only a router that "
    "was told before can spare them (`preStop`). More than four "
    "requests at once, connections that are kept open, bodies of many megabytes, "
    "memory over hours.",
    notice="A router reads `/ready`, not whether the process is up.",
    wrong=[
        Wrong(
            "asks for a variable of another name",
            "died",
            patch=(('os.environ["PORT"]', 'os.environ["SERVER_PORT"]'),),
        ),
        Wrong(
            "listens on a port of its own",
            "no-answer",
            patch=(('int(os.environ["PORT"])', "0"),),
        ),
        Wrong(
            "waits for something before it opens the port",
            "no-answer",
            patch=(("app = Flask", "threading.Event().wait()\napp = Flask"),),
        ),
        Wrong(
            "loads before it opens the port",
            "silent-while-loading",
            patch=(("threading.Thread(target=load, daemon=True).start()", "load()"),),
        ),
        Wrong(
            "is ready as soon as it runs",
            "ready-too-early",
            patch=(("200 if models else 503", "200"),),
        ),
        Wrong(
            "has no address for readiness",
            "no-readiness",
            patch=(('@app.get("/ready")\n', ""),),
        ),
        Wrong(
            "has one probe for both",
            "no-health",
            patch=(('return {"status": "alive"}', "return ready()"),),
        ),
        Wrong(
            "predicts without a model",
            "predict-unready",
            patch=(("    if not models:\n", "    if False:\n"),),
        ),
        Wrong(
            "fails in the loading thread",
            "never-ready",
            patch=(("artifacts.load(folder)", 'artifacts.load(folder + "/model")'),),
        ),
        Wrong(
            "wants a row under a name",
            "good-refused",
            patch=(
                (
                    "parse(request.get_data())",
                    'parse(json.dumps(request.json["row"]))',
                ),
                ("import os\n", "import json\nimport os\n"),
            ),
        ),
        Wrong(
            "answers the probability as a text",
            "answer-form",
            patch=(('"probability": p', '"probability": str(p)'),),
        ),
        Wrong(
            "takes the values as they come",
            "order-trusted",
            patch=(
                (
                    "row = described.contract.parse(request.get_data())",
                    "row = list(request.json.values())",
                ),
            ),
        ),
        Wrong(
            "answers how sure it is",
            "differs",
            patch=(('"probability": p', '"probability": max(p, 1 - p)'),),
        ),
        Wrong("turns the flag round", "flag-differs", patch=(("p > 0.5", "p < 0.5"),)),
        Wrong(
            "writes the version down",
            "other-version",
            patch=(("version = described.version", 'version = "v2"'),),
        ),
        Wrong(
            "indexes the body",
            "bad-input-500",
            patch=(
                (
                    "described.contract.parse(request.get_data())",
                    "[request.json[name] for name in described.contract.names]",
                ),
            ),
        ),
        Wrong(
            "takes it that JSON is an object",
            "bad-input-500",
            patch=(
                (
                    "row = described.contract.parse(request.get_data())",
                    "body = request.get_json()\n"
                    "    body = {} if isinstance(body, list) else body\n"
                    "    row = described.contract.row(dict(body))",
                ),
            ),
        ),
        Wrong(
            "decodes the body first",
            "bad-input-500",
            patch=(("request.get_data()", "request.get_data().decode()"),),
        ),
        Wrong(
            "makes numbers of texts",
            "bad-input-accepted",
            patch=(
                (
                    "row = described.contract.parse(request.get_data())",
                    "body = request.get_json()\n"
                    "    for name, value in dict(body).items():\n"
                    "        if isinstance(value, str):\n"
                    "            try:\n"
                    "                body[name] = float(value)\n"
                    "            except ValueError:\n"
                    '                return {"error": name + ": no number"}, 422\n'
                    "    row = described.contract.row(body)",
                ),
            ),
        ),
        Wrong(
            "takes what is a number",
            "bad-input-accepted",
            patch=(
                (
                    "row = described.contract.parse(request.get_data())",
                    "body, names = request.get_json(), described.contract.names\n"
                    "    for name in names:\n"
                    "        if not isinstance(body.get(name), int | float):\n"
                    '            return {"error": name + " must be a number"}, 422\n'
                    "    row = [body[name] for name in names]",
                ),
            ),
        ),
        Wrong(
            "compares with a range",
            "nan-accepted",
            patch=(
                (
                    "row = described.contract.parse(request.get_data())",
                    "body, names = request.get_json(), described.contract.names\n"
                    "    for name in names:\n"
                    "        value = body.get(name)\n"
                    "        if type(value) not in (int, float) or value < 0 or "
                    "value > 1:\n"
                    '            return {"error": name + " is not in 0 to 1"}, 422\n'
                    "    row = [body[name] for name in names]",
                ),
            ),
        ),
        Wrong(
            "says that something is bad",
            "field-not-named",
            patch=(("error.as_json()", '{"error": "bad request"}'),),
        ),
        Wrong(
            "repeats the body and lists all the names",
            "names-all",
            patch=(
                (
                    "return error.as_json(), error.status",
                    "names = described.contract.names\n"
                    '    sent = request.get_data().decode("utf-8", "replace")\n'
                    '    return {"error": "bad request", "you_sent": sent, '
                    '"expected": names}, 422',
                ),
            ),
        ),
        Wrong(
            "loads the model anew for every third request",
            "load-per-request",
            patch=(
                ("models = []", "asked, models = [], []"),
                (
                    "    p = float(",
                    "    asked.append(row)\n"
                    "    if len(asked) % 3 == 0:\n"
                    "        models[0] = artifacts.load(folder)\n"
                    "    p = float(",
                ),
            ),
        ),
        Wrong(
            "lets the runtime open the file",
            "loaded-otherwise",
            patch=(
                (
                    "def load():\n",
                    """class Direct:
    def __init__(self, file):
        import onnxruntime
        self.session = onnxruntime.InferenceSession(file)

    def score(self, rows):
        import numpy as np
        rows = {"features": np.array(rows, np.float32)}
        return self.session.run(["probabilities"], rows)[0][:, 1]

def load():
""",
                ),
                ("artifacts.load(folder)", "Direct(str(described.file))"),
            ),
        ),
        Wrong(
            "keeps the row where all threads write it",
            "mixes-requests",
            patch=(
                ("models = []", "models, rows = [], [None]"),
                (
                    "    row = described.contract.parse(request.get_data())\n",
                    "    rows[0] = described.contract.parse(request.get_data())\n",
                ),
                ("score([row])", "score(rows)"),
            ),
        ),
        Wrong(
            "answers one at a time", "serial", patch=(("threaded=True", "threaded=0"),)
        ),
        Wrong(
            "gives up on slow callers",
            "slow-caller-lost",
            patch=(
                (
                    "port = int(",
                    "from werkzeug.serving import WSGIRequestHandler as Handler\n"
                    "Handler.timeout = 0.05\nport = int(",
                ),
            ),
        ),
        Wrong(
            "knows nothing of SIGTERM",
            "killed-by-signal",
            patch=(("signal.signal(signal.SIGTERM, stop)\n", ""),),
        ),
        Wrong(
            "ends without waiting for its threads",
            "drops-on-stop",
            patch=(("server.daemon_threads = False\n", ""),),
        ),
        Wrong(
            "waits for itself",
            "never-exits",
            patch=(
                (
                    "threading.Thread(target=server.shutdown).start()",
                    "server.shutdown()",
                ),
            ),
        ),
        Wrong(
            "gives everybody one second",
            "drops-on-stop",
            patch=(
                ("import signal\n", "import signal\nimport time\n"),
                (
                    "    threading.Thread(target=server.shutdown).start()",
                    "    time.sleep(1)\n    os._exit(0)",
                ),
            ),
        ),
        Wrong(
            "starts one thread twice",
            "second-signal",
            patch=(
                (
                    "def stop(*_):",
                    "ending = threading.Thread(target=server.shutdown)\ndef stop(*_):",
                ),
                (
                    "    threading.Thread(target=server.shutdown).start()",
                    "    ending.start()",
                ),
            ),
        ),
        *(
            Wrong(
                f"is {name}",
                "not-here",
                source=f"""
                class Work(str):
                    def __truediv__(self, name):
                        return str(self)

                work = Work("{url}")
                """,
            )
            for name, url in (
                ("another machine", "http://192.0.2.1:8000"),
                ("a port that cannot be", "http://127.0.0.1:99999"),
            )
        ),
    ],
    also_right=[
        Right(
            "the page's service under gunicorn",
            source="""
            %%writefile {work}/server.py
            import os
            import sys

            from deploylab import ROOT

            options = ["--threads", "4", "--no-control-socket"]
            options += ["--bind", f"127.0.0.1:{os.environ['PORT']}"]
            options += ["--pythonpath", str(ROOT / "book" / "listings")]
            app = f"phishing_service:create_app({os.environ['ARTIFACT']!r})"
            command = [sys.executable, "-m", "gunicorn", *options, app]
            os.execv(sys.executable, command)
            """,
        ),
        Right(
            "repeats the body, and has a word on every field",
            patch=(
                (
                    "return error.as_json(), error.status",
                    "names = described.contract.names\n"
                    "    bad = {one.field for one in error.problems}\n"
                    '    said = {name: "fine" for name in names}\n'
                    '    said |= {name: "no code of it" for name in bad}\n'
                    '    sent = request.get_data().decode("utf-8", "replace")\n'
                    '    return {"you_sent": sent, "fields": said}, 400',
                ),
            ),
        ),
        Right(
            "the standard library alone",
            source="""
            %%writefile {work}/server.py
            import json
            import os
            import signal
            import threading
            from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

            from deploylab import artifacts

            folder = os.environ["ARTIFACT"]
            scorer = None

            class Handler(BaseHTTPRequestHandler):
                def answer(self, status, what):
                    body = json.dumps(what).encode()
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

                def do_GET(self):
                    fine = self.path == "/health" or scorer is not None
                    self.answer(200 if fine else 503, {})

                def do_POST(self):
                    body = self.rfile.read(int(self.headers["Content-Length"]))
                    if scorer is None:
                        return self.answer(503, {})
                    contract = scorer.artifact.contract
                    try:
                        row = contract.parse(body)
                    except ValueError as error:
                        return self.answer(400, {"error": str(error)})
                    p = round(float(scorer.score([row])[0]), 4)
                    self.answer(200, {
                        "version": scorer.artifact.version,
                        "probability": p, "phishing": p >= 0.5,
                    })

            def load():
                global scorer
                new = artifacts.load(folder)
                new.score([[0] * 8])
                scorer = new

            class Server(ThreadingHTTPServer):
                daemon_threads = False

            stopped = threading.Event()
            signal.signal(signal.SIGTERM, lambda *_: stopped.set())
            server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
            threading.Thread(target=load).start()
            threading.Thread(target=server.serve_forever).start()
            stopped.wait()
            server.shutdown()
            server.server_close()
            """,
        ),
    ],
)
def serve_model(t: Trial) -> None:
    """A server that the student writes."""
    from deploylab import artifacts, phishing
    from deploylab.exercises import live

    t.say("The check of your server")
    version = phishing.version("v2")
    if isinstance(t.thing, str):
        t.need(
            live.is_here(t.thing),
            "not-here",
            f"`{t.thing}` is not the address of plain HTTP on this machine.",
            "The check sends bad requests, and other people's servers are not for it.",
            "Give a URL such as `http://127.0.0.1:8000`, or the program's path.",
        )
        artifacts.save(version, "artifact")
        service = live.Service(t.thing)
        health = service.ask("/health")
        t.need(
            health.status,
            "no-answer",
            f"`GET {t.thing}/health` {health.said}.",
            "",
            "Look whether the server runs, and on which port.",
        )
        ready = service.ask("/ready")
        t.need(
            ready.status == 200,
            "never-ready",
            f"`GET {t.thing}/ready` {ready.said}.",
            "A server that does not say that it is ready is never sent anything.",
            "Wait until it is ready, then run the check again.",
        )
        advice = "By its URL a server is expected to serve the page's model `v2`."
        _need_predictions(t, service, version.name, advice)
        _need_refusals(t, service)
        _need_parallel(t, service)
        t.notice = (
            "By its URL the check could not see promises 1, 2, 5 and 7: the probes "
            "while the model loads, that it loads once, and what SIGTERM does. Give "
            "the program's path for these."
        )
        return
    # A name that nobody can have written into a program.
    version = replace(version, name=f"v2-{t.rng.integers(10**6):06}")
    with live.Program(t.thing, artifacts.save(version, "artifact")) as program:
        _need_up(t, program)
        _need_probes(t, program)
        asked = _need_predictions(t, program, version.name)
        _need_refusals(t, program)
        t.need(
            program.needless_loads <= 2,
            "load-per-request",
            f"{asked + 1} predictions, and the model file was opened "
            f"{program.loads} times.",
            "Each user waits for the disk, and memory grows with the traffic.",
            "Load once, when the server starts, and keep what `load` gives.",
        )
        t.good("the model is loaded once")
        _need_parallel(t, program)
        _need_drain(t, program)


#: Who is routed later than this after their start has been waited for, in seconds.
AT_ONCE_S = 0.5


@exercise(
    "operate",
    live=True,
    limit_s=40,
    memory_bytes=None,
    hints={
        "*": [
            "At each line of your runbook: who is on the list, and can all of them "
            "answer?",
            "Capacity before traffic, and traffic before the end: nobody is routed "
            "before they are ready, and nobody is stopped before they are off the "
            "list.",
            "1 start the new one, 2 wait, 3 move the traffic, 4 stop the old one.",
        ],
        "killed": ["Which of the controls lets a server answer what it has accepted?"],
        "slept-instead": [
            "How would your runbook notice that the machine is slow today?",
            "One of the controls waits for the answer instead of for the clock.",
        ],
    },
    not_checked="Whether v2 predicts as well as v1, and what you would do if it did "
    "not: there is no way back in this runbook.",
    notice="The order is the whole trick: capacity is ready before traffic moves, and "
    "traffic moves before capacity goes.",
    wrong=[
        Wrong(
            "does not wait",
            "routed-too-early",
            patch=(("    system.wait_ready(new)\n", ""),),
        ),
        Wrong(
            "sleeps, and hopes",
            "slept-instead",
            patch=(("    system.wait_ready(new)\n", "    system.watch(2.5)\n"),),
        ),
        Wrong(
            "stops before it routes",
            "stopped-under-traffic",
            patch=(
                (
                    "    system.route([new])\n    system.stop(system.v1)",
                    "    system.stop(system.v1)\n    system.route([new])",
                ),
            ),
        ),
        Wrong(
            "keeps the old one on the list while it stops",
            "stopped-under-traffic",
            patch=(("system.route([new])", "system.route([system.v1, new])"),),
        ),
        Wrong("kills the old one", "killed", patch=(("system.stop", "system.kill"),)),
        Wrong(
            "takes everybody off the list meanwhile",
            "no-capacity",
            source="""
            def replace(system):
                system.route([])
                system.stop(system.v1)
                new = system.start("v2")
                system.wait_ready(new)
                system.route([new])
            """,
        ),
        Wrong(
            "never moves the traffic",
            "never-routed",
            source="""
            def replace(system):
                system.wait_ready(system.start("v2"))
            """,
        ),
        Wrong(
            "leaves a share with the old one",
            "old-still-routed",
            source="""
            def replace(system):
                new = system.start("v2")
                system.wait_ready(new)
                system.route([system.v1, new])
            """,
        ),
        Wrong(
            "forgets the old one",
            "old-still-running",
            patch=(("    system.stop(system.v1)", "    system.watch(0)"),),
        ),
        Wrong(
            "leaves one running that nobody asks",
            "left-running",
            patch=(
                (
                    "    system.wait_ready",
                    '    system.start("v2")\n    system.wait_ready',
                ),
            ),
        ),
    ],
    also_right=[
        Right(
            "half of the traffic first, and a look",
            source="""
            def replace(system):
                new = system.start("v2")
                while not new.ready():
                    system.watch(0.1)
                system.route([system.v1, new])
                counts = system.watch(0.5)
                system.route([new])
                if len(system.hurt) == 0:
                    system.stop(system.v1)
            """,
        ),
        Right(
            "waits until the old one has nothing left in its hands",
            source="""
            def replace(system):
                new = system.start("v2")
                system.wait_ready(new)
                system.route([new])
                system.watch(1)
                system.kill(system.v1)
            """,
        ),
    ],
)
def replace_server(t: Trial) -> None:
    """A runbook that replaces v1 by v2 under traffic."""
    from deploylab.exercises import live

    with live.System(Path.cwd()) as system:  # a folder of the check's own
        t.call(system)
        system.watch(live.AFTER_S)
        system.end_traffic()
        _need_asked(t, system)
        _need_nobody_hurt(t, system)
        t.good("no request failed, from before the first step to after the last")
        _need_replaced(t, system)
        t.good("v2 takes all the traffic, and nothing else runs")


def _need_asked(t: Trial, system: live.System) -> None:
    """Nobody was routed after a wait by the clock alone."""
    for one, waited_s in system.routed_blindly:
        t.need(
            waited_s < AT_ONCE_S,
            "slept-instead",
            f"`{one}` was routed {waited_s:.1f} s after its start, and nobody had "
            "asked it whether it was ready.",
            "A time that is long enough today is too short on a busy day, and then "
            "users are sent to a server without a model.",
            "Wait for its answer, not for the clock.",
        )


def _need_nobody_hurt(t: Trial, system: live.System) -> None:
    """No request failed; else the cause of the first that did."""
    hurt = system.hurt
    if not hurt:
        return
    first = hurt[0]
    one = first.instance
    users = f"{len(hurt)} of {len(system.requests)} requests failed"
    if one is None:
        t.stop(
            "no-capacity",
            f"{users}, the first at {first.sent_s:.1f} s: nobody was on the list.",
            "A pause for users, however short, and at every release.",
            "Look for the steps between which the list is empty.",
        )
    if one.killed_s is not None:
        t.stop(
            "killed",
            f"{users}: you killed `{one}` at {one.killed_s:.1f} s, with requests in "
            "its hands.",
            "`kill -9` gives a process no chance to answer what it has accepted.",
            "Use the control that lets it finish.",
        )
    early = one.ready_s is None or first.sent_s < one.ready_s
    if early and one.stopped_s is None:
        at = f"ready at {one.ready_s:.1f} s" if one.ready_s else "not ready yet"
        t.stop(
            "routed-too-early",
            f"{users}. The first was sent to `{one}` at {first.sent_s:.1f} s, and it "
            f"was {at}.",
            "A process that runs is not yet a server that can answer.",
            "Look between `start` and `route`.",
        )
    if one.stopped_s is not None:
        t.stop(
            "stopped-under-traffic",
            f"{users}: you stopped `{one}` at {one.stopped_s:.1f} s, and it was still "
            "on the list.",
            "Whoever holds its address goes on asking there, and is refused.",
            "Ask who still sends to it at the moment it is stopped.",
        )
    raise RuntimeError(f"a healthy server failed: {first}")


def _need_replaced(t: Trial, system: live.System) -> None:
    """In the end v2 alone is routed, and alone runs."""
    routed = ", ".join(map(str, system.routed))
    t.need(
        any(one.version == "v2" for one in system.routed),
        "never-routed",
        f"At the end the traffic goes to `{routed}`.",
        "v2 is deployed and not released: it runs, and no user sees it.",
        "Put the new instance on the list.",
    )
    t.need(
        system.v1 not in system.routed,
        "old-still-routed",
        f"At the end the traffic goes to `{routed}`.",
        "Two versions answer the same users, who get now this and now that.",
        "Leave v1 off the list.",
    )
    t.need(
        not system.v1.running,
        "old-still-running",
        "At the end `v1` still runs, and nobody asks it anything.",
        "It is paid for, watched and patched until somebody remembers it.",
        "Stop it, once nobody sends to it.",
    )
    left = [one for one in system.instances if one.running and one not in system.routed]
    t.need(
        not left,
        "left-running",
        f"At the end `{', '.join(map(str, left))}` runs and gets no traffic.",
        "A server that nobody knows of is found when it does harm.",
        "Count the servers that you have started.",
    )
