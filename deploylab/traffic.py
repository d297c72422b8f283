"""Traffic for servers on this machine: who asks what and when, and what came back.

    plan = traffic.plan(rng, rows, rate_per_s=50, duration_s=10)
    answers = traffic.send(plan, server.url)

The load is **open-loop**: each request has its time in the plan and is sent then,
whether or not earlier ones have been answered, because users do not wait for one
another. Latency counts from that time, so a server that stalls is charged for
everybody who had to wait, and not just for the one request it was working on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import reprlib
import threading
from collections import Counter
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np

if TYPE_CHECKING:  # a process that only sends is there sooner without it
    import pandas as pd

# Carries the user's id; a router that keeps a user on one version reads it.
USER_HEADER = "X-User"
VERSION_HEADER = "X-Model-Version"
# Set by a router: whose turn it was, see `deploylab.router`.
ROLE_HEADER = "X-Role"

_CONTENT = {"Content-Type": "application/json"}
# Given to each request: below what our servers grant an idle connection, so that the
# client closes it first and never sends into a connection that is being closed.
_IDLE_S = 15.0


class TargetError(ValueError):
    """The target is not a server on this machine."""


class TrafficFailed(RuntimeError):
    """Some answers were not what was expected; a load test of errors looks fast.

    `frame` holds every request of the run, as `send` would have returned it.
    """

    def __init__(self, message: str, frame: pd.DataFrame) -> None:
        super().__init__(message)
        self.frame = frame


# -- who asks what and when --------------------------------------------------------


def arrivals(
    rng: np.random.Generator, rate_per_s: float, duration_s: float
) -> np.ndarray:
    """Times of a Poisson process: sorted seconds in [0, `duration_s`), shape (n,).

    n is itself random, with mean ``rate_per_s * duration_s``.
    """
    n = rng.poisson(rate_per_s * duration_s)
    return np.sort(rng.uniform(0, duration_s, n))


def users(
    rng: np.random.Generator, n: int, population: int = 1000, skew: float = 0.0
) -> np.ndarray:
    """Ids of the users behind `n` requests: integers from 0, shape (n,).

    skew: 0 for users that are all equally active; otherwise the activity of the
        k-th user is proportional to ``k ** -skew``, so that few send much (1 gives
        Zipf's law).
    """
    activity = np.arange(1, population + 1, dtype=float) ** -skew
    return rng.choice(population, size=n, p=activity / activity.sum())


def bodies(
    rng: np.random.Generator, rows: pd.DataFrame | Sequence[Mapping], n: int
) -> list[bytes]:
    """`n` request bodies: rows drawn with replacement, as JSON objects.

    They are encoded here, before the run, and equal rows share their bytes.
    """
    if hasattr(rows, "to_dict"):  # a DataFrame
        rows = rows.to_dict("records")
    encoded = [json.dumps(row, allow_nan=False).encode() for row in rows]
    return [encoded[i] for i in rng.integers(len(encoded), size=n)]


@dataclass(frozen=True)
class Plan:
    """Requests to come: when, from whom, with what; three sequences of one length.

    scheduled_s: seconds from the start of the run, sorted.
    """

    scheduled_s: np.ndarray
    users: np.ndarray
    bodies: Sequence[bytes]

    def __post_init__(self) -> None:
        if not len(self.scheduled_s) == len(self.users) == len(self.bodies):
            raise ValueError(
                f"a plan needs as many times ({len(self.scheduled_s)}) as users "
                f"({len(self.users)}) and bodies ({len(self.bodies)})"
            )
        if np.any(np.diff(self.scheduled_s) < 0):
            raise ValueError("the times of a plan must be sorted")

    def __len__(self) -> int:
        return len(self.bodies)


def plan(
    rng: np.random.Generator,
    rows: pd.DataFrame | Sequence[Mapping],
    rate_per_s: float,
    duration_s: float,
    population: int = 1000,
    skew: float = 0.0,
) -> Plan:
    """A plan of Poisson arrivals from `population` users who send rows of `rows`."""
    times_s = arrivals(rng, rate_per_s, duration_s)
    n = len(times_s)
    return Plan(times_s, users(rng, n, population, skew), bodies(rng, rows, n))


# -- open loop ---------------------------------------------------------------------


def send(
    plan: Plan,
    url: str,
    *,
    path: str = "/predict",
    expect: str | Collection[int] = "2xx",
    max_connections: int = 100,
    timeout_s: float = 10.0,
) -> pd.DataFrame:
    """Send each request of `plan` at its time; return one row for each.

    expect: ``"2xx"``, a collection of statuses, or ``"any"``, which also accepts
        requests without an answer.
    timeout_s: a request without an answer this long after its scheduled time is
        given up, so the run ends at the latest that long after its last request.

    Columns, times in seconds from the start of the run:

    scheduled_s, sent_s, finished_s; user; status (0: no answer); version, from the
    header X-Model-Version or the field ``version``; role, from a router's header
    X-Role (None: there was none); prediction, the answer's probability (NaN: none);
    latency_s, from the scheduled time to the whole answer, and for a request without
    one until it was given up, but at least `timeout_s` (a refused connection is no
    fast answer); lag_s, how long after its scheduled
    time the request was sent (NaN: never, no connection came free); error, why there
    is no answer, or what is odd about it (no valid JSON, a version that is no string,
    a probability that is no finite number). An odd answer keeps its status, and is
    not what was expected unless that is ``"any"``.

    Raises TargetError for a target that is not on this machine, TrafficFailed when
    an answer is not what was expected.
    """
    url = _loopback(url) + path
    expected = _expectation(expect)
    records = _Records(len(plan))
    _run(_send_all(plan, url, records, max_connections, timeout_s))
    frame = records.frame(plan, timeout_s)
    _refuse_unexpected(frame, expected, records.first_body)
    return frame


def summary(frame: pd.DataFrame) -> pd.Series:
    """What a run comes to: counts, rates and latencies.

    latency_*: over all requests, with the timeout or longer for those that got no
    answer, so that a server cannot look fast by giving up. A fast error is still
    fast: read `answered_2xx` with it.
    ok_latency_*: over the requests that were answered with 2xx (NaN: none was).
    lag_*: how far the load generator fell behind its plan. When that is not small
    against the latencies, the run says more about this machine than about the
    server, or all connections were busy with a server that had stalled.
    """
    import pandas as pd

    answered = frame["status"] > 0
    ok = frame["status"].between(200, 299)
    quantiles = [0.5, 0.95, 0.99]
    latency = frame["latency_s"].quantile(quantiles)
    ok_latency = frame.loc[ok, "latency_s"].quantile(quantiles)
    return pd.Series(
        {
            "requests": len(frame),
            "answered": answered.sum(),
            "answered_2xx": ok.sum(),
            "offered_per_s": _rate(len(frame), frame["scheduled_s"].max()),
            "answered_per_s": _rate(answered.sum(), frame["finished_s"].max()),
            "latency_p50_s": latency[0.5],
            "latency_p95_s": latency[0.95],
            "latency_p99_s": latency[0.99],
            "ok_latency_p50_s": ok_latency[0.5],
            "ok_latency_p95_s": ok_latency[0.95],
            "ok_latency_p99_s": ok_latency[0.99],
            "lag_p50_s": frame["lag_s"].quantile(0.5),
            "lag_p99_s": frame["lag_s"].quantile(0.99),
            "lag_max_s": frame["lag_s"].max(),
        },
        dtype=float,
    )


@dataclass
class _Records:
    """What happened to each of n requests, filled while they run."""

    n: int
    first_body: dict[int, bytes] = field(default_factory=dict)
    ended: bool = False  # then no further request is sent

    def __post_init__(self) -> None:
        self.start_s = math.nan  # of the run, on the loop's clock
        self.sent_s = np.full(self.n, np.nan)
        self.finished_s = np.full(self.n, np.nan)
        self.status = np.zeros(self.n, dtype=int)
        self.prediction = np.full(self.n, np.nan)
        self.version: list[str | None] = [None] * self.n
        self.role: list[str | None] = [None] * self.n
        self.error: list[str] = [""] * self.n

    def answer(self, i: int, status: int, headers: Mapping, body: bytes) -> None:
        self.status[i] = status
        self.version[i] = headers.get(VERSION_HEADER)
        self.role[i] = headers.get(ROLE_HEADER)
        self.first_body.setdefault(status, body)
        if not 200 <= status <= 299 or "json" not in headers.get("Content-Type", ""):
            return
        try:
            said = json.loads(body, parse_constant=_not_json)
        except (ValueError, RecursionError) as error:
            self.error[i] = f"the answer is not valid JSON: {error}"
            return
        if not isinstance(said, dict):
            return
        odd = []
        if not self.version[i] and "version" in said:
            if isinstance(said["version"], str):
                self.version[i] = said["version"]
            else:
                odd.append(f"version {reprlib.repr(said['version'])} is no string")
        if "probability" in said:
            probability = _finite(said["probability"])
            self.prediction[i] = probability
            if math.isnan(probability):
                shown = reprlib.repr(said["probability"])
                odd.append(f"probability {shown} is no finite number")
        self.error[i] = "; ".join(odd)

    def done(self, i: int) -> None:
        """Nothing more will happen to this request."""

    def frame(self, plan: Plan, timeout_s: float) -> pd.DataFrame:
        import pandas as pd

        scheduled_s = np.asarray(plan.scheduled_s, dtype=float)
        waited_s = self.finished_s - scheduled_s
        unanswered_s = np.maximum(waited_s, timeout_s)
        return pd.DataFrame(
            {
                "scheduled_s": scheduled_s,
                "sent_s": self.sent_s,
                "finished_s": self.finished_s,
                "user": np.asarray(plan.users),
                "version": self.version,
                "role": self.role,
                "status": self.status,
                "prediction": self.prediction,
                "latency_s": np.where(self.status > 0, waited_s, unanswered_s),
                "lag_s": self.sent_s - scheduled_s,
                "error": self.error,
            }
        )


async def _send_all(
    plan: Plan, url: str, records: _Records, max_connections: int, timeout_s: float
) -> None:
    free = asyncio.Semaphore(max_connections)
    loop = asyncio.get_running_loop()

    async with _session(max_connections) as session:
        start = records.start_s = loop.time()

        async def one(i: int) -> None:
            headers = _CONTENT | {USER_HEADER: str(plan.users[i])}
            deadline = start + plan.scheduled_s[i] + timeout_s
            try:
                async with asyncio.timeout_at(deadline), free:
                    records.sent_s[i] = loop.time() - start
                    status, answer_headers, body = await _post(
                        session, url, plan.bodies[i], headers
                    )
                records.finished_s[i] = loop.time() - start
                records.answer(i, status, answer_headers, body)
            except TimeoutError:
                records.finished_s[i] = loop.time() - start
                records.error[i] = f"no answer within {timeout_s:g} s"
            except (aiohttp.ClientError, OSError) as error:
                records.finished_s[i] = loop.time() - start
                records.error[i] = f"{type(error).__name__}: {error}"
            records.done(i)

        async with asyncio.TaskGroup() as tasks:
            for i, due_s in enumerate(plan.scheduled_s):
                wait_s = start + due_s - loop.time()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                if records.ended:
                    break
                tasks.create_task(one(i))


# -- closed loop -------------------------------------------------------------------


@dataclass(frozen=True)
class Capacity:
    """What a server answered when each connection asked again at once.

    latencies_s: from sending to the whole answer, shape (n,), in order of arrival.
    slices_per_s: requests a second in each of ten equal slices of the run; their
        spread says how far to trust `requests_per_s`.
    """

    connections: int
    duration_s: float
    latencies_s: np.ndarray = field(repr=False)
    slices_per_s: np.ndarray = field(repr=False)

    @property
    def requests_per_s(self) -> float:
        """Mean rate over the run."""
        return len(self.latencies_s) / self.duration_s

    @property
    def spread_per_s(self) -> tuple[float, float]:
        """Quartiles of the rates of the slices."""
        low, high = np.quantile(self.slices_per_s, [0.25, 0.75])
        return float(low), float(high)

    def latency_s(self, share: float) -> float:
        """The latency that a `share` of the requests does not exceed."""
        return float(np.quantile(self.latencies_s, share))


def capacity(
    url: str,
    bodies: Sequence[bytes],
    *,
    connections: int = 8,
    n_requests: int | None = None,
    duration_s: float | None = None,
    path: str = "/predict",
    timeout_s: float = 10.0,
) -> Capacity:
    """Closed loop: each of `connections` clients asks again as soon as it is answered.

    Give `n_requests` or `duration_s`. The first request of each connection is not
    counted. Whoever compares servers interleaves their measurements, in one run.

    Raises TargetError; TrafficFailed for any answer that is not 2xx; ValueError when
    there is nothing to measure, as in a `duration_s` too short for two answers.
    """
    if (n_requests is None) == (duration_s is None):
        raise ValueError("give either n_requests or duration_s")
    if n_requests is not None and n_requests < 1:
        raise ValueError(f"n_requests must be 1 or more, not {n_requests}")
    if duration_s is not None and not 0 < duration_s < math.inf:
        raise ValueError(f"duration_s must be more than 0 and finite, not {duration_s}")
    if connections < 1:
        raise ValueError(f"connections must be 1 or more, not {connections}")
    if not len(bodies):
        raise ValueError("there are no bodies to send")
    url = _loopback(url) + path
    spans: list[tuple[float, float]] = []
    failures: list[tuple[int, str, bytes]] = []
    _run(
        _ask_all(
            url, bodies, connections, n_requests, duration_s, timeout_s, spans, failures
        )
    )
    if failures:
        import pandas as pd

        frame = pd.DataFrame(failures, columns=["status", "error", "body"])
        status, error, body = failures[0]
        raise TrafficFailed(
            f"the capacity of {url} cannot be measured: after {len(spans)} good "
            f"answers came {_name(status)}. {error or _shown(body)}",
            frame,
        )
    if not spans:
        raise ValueError(
            f"duration_s={duration_s:g} is too short: it was over before any "
            "connection could ask a second time, and the first request of each is "
            "not counted. Give a larger duration_s or n_requests."
        )
    ends = np.sort([end for _, end in spans])
    start = min(begin for begin, _ in spans)
    took_s = float(ends[-1] - start)
    counts, _ = np.histogram(ends, bins=10, range=(start, ends[-1]))
    spans.sort()
    return Capacity(
        connections,
        took_s,
        np.array([end - begin for begin, end in spans]),
        counts / (took_s / 10),
    )


async def _ask_all(
    url: str,
    bodies: Sequence[bytes],
    connections: int,
    n_requests: int | None,
    duration_s: float | None,
    timeout_s: float,
    spans: list,
    failures: list,
) -> None:
    loop = asyncio.get_running_loop()
    stop_at = math.inf if duration_s is None else loop.time() + duration_s
    left = math.inf if n_requests is None else n_requests

    async def client(number: int) -> None:
        nonlocal left
        turn = number  # each connection walks through the bodies from its own place
        first = True
        while not failures and (first or (left > 0 and loop.time() < stop_at)):
            left -= not first
            begin = loop.time()
            try:
                async with asyncio.timeout(timeout_s):
                    status, _, body = await _post(
                        session, url, bodies[turn % len(bodies)], _CONTENT
                    )
            except TimeoutError:
                failures.append((0, f"no answer within {timeout_s:g} s", b""))
                return
            except (aiohttp.ClientError, OSError) as error:
                failures.append((0, f"{type(error).__name__}: {error}", b""))
                return
            if not 200 <= status <= 299:
                failures.append((status, "", body))
                return
            if not first:
                spans.append((begin, loop.time()))
            first = False
            turn += connections

    async with _session(connections) as session:
        await asyncio.gather(*(client(number) for number in range(connections)))


# -- plumbing ----------------------------------------------------------------------


def _session(max_connections: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=max_connections, keepalive_timeout=_IDLE_S
        ),
        timeout=aiohttp.ClientTimeout(total=None),  # each request has its own
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # no proxy
    )


async def _post(
    session: aiohttp.ClientSession, url: str, body: bytes, headers: dict
) -> tuple[int, Mapping, bytes]:
    # A redirect would lead away from the target; it is an answer like any other.
    async with session.post(
        url, data=body, headers=headers, allow_redirects=False
    ) as answer:
        return answer.status, answer.headers, await answer.read()


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in a thread with a loop of its own; a notebook has one already.

    An interrupt of the calling thread ends it.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(work)
    failed: list[BaseException] = []

    def in_thread() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(task)
        except BaseException as error:
            failed.append(error)
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=in_thread, name="traffic", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
        raise
    if failed:
        raise failed[0]


def _loopback(url: str) -> str:
    """`url` without a trailing slash, if it is plain HTTP on this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        on_this_machine = ipaddress.ip_address(host).is_loopback
    except ValueError:
        on_this_machine = host == "localhost"
    if parts.scheme != "http" or not on_this_machine:
        raise TargetError(
            f"{url!r} is not a server on this machine. Load goes to http://127.0.0.1 "
            "only: give the url of a server that you have started."
        )
    return url.rstrip("/")


def _expectation(expect: str | Collection[int]) -> Collection[int] | None:
    if expect == "any":
        return None
    if expect == "2xx":
        return range(200, 300)
    if isinstance(expect, str):
        raise ValueError(
            f"expect must be '2xx', 'any' or a collection of statuses, not {expect!r}"
        )
    return frozenset(expect)


def _refuse_unexpected(
    frame: pd.DataFrame, expected: Collection[int] | None, first_body: dict[int, bytes]
) -> None:
    if expected is None:
        return
    bad = frame[~frame["status"].isin(list(expected)) | (frame["error"] != "")]
    if bad.empty:
        return
    counts = ", ".join(
        f"{count} x {_name(status)}"
        for status, count in sorted(Counter(frame["status"]).items())
    )
    first = bad.iloc[0]
    said = first["error"] or _shown(first_body[first["status"]])
    raise TrafficFailed(
        f"{len(bad)} of {len(frame)} requests did not get the answer that was "
        f"expected ({counts}).\nThe first, at {first['scheduled_s']:.3f} s: {said}\n"
        "What next: put the server right, or, if such answers are meant, name them "
        "with expect=. The error's frame holds every request.",
        frame,
    )


def _rate(n: int, duration_s: float) -> float:
    return n / duration_s if duration_s > 0 else math.nan


def _name(status: int) -> str:
    return str(status) if status else "no answer"


def _shown(body: bytes) -> str:
    text = body[:500].decode(errors="replace").strip()
    return text or "(an empty body)"


def _finite(value: object) -> float:
    """`value` as a float if it is a finite real number, else NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
    except OverflowError:  # JSON has integers that no float holds
        return math.nan
    return number if math.isfinite(number) else math.nan


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
