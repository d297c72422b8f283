"""Chances of a rollout: exact where windows do not overlap, simulated where they do.

Requests come at a steady rate, so a window holds a known number of them; each is an
error by itself, with the rate of its version. Exact means: the binomial law of each
window, carried through the engine's own counting by a small dynamic programme.

`at_random` takes requests that come independently of each other instead: the number
in a window is then a Poisson number, and the law of its errors a mixture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import comb, floor, inf, sqrt
from typing import NamedTuple

import numpy as np

from deploylab.lint.query import BOTH, CANDIDATE, STABLE, Bound

#: More than this in one window is not computed.
MAX_REQUESTS = 10**8
#: Looks of one rollout, and draws of one simulation, at most.
MAX_LOOKS = 5_000
MAX_DRAWS = 1_500_000
MAX_STATES = 20_000
#: In windows of more requests than this, their number is taken for steady: it varies by
#: less than 1 in 200.
MAX_VARIED = 40_000
#: A look may be without a value that often, and count as a good one nevertheless.
NO_VALUE = 1e-3
SEED = 20_240


class NotComputed(Exception):
    """Why there is no number."""


@dataclass(frozen=True)
class World:
    """What a file does not say, and the numbers rest on.

    requests_per_s: of all users. healthy, bad: share of a good and of a bad version's
    requests that are errors; the old version is as good as a good one. scrape_s: time
    between two samples of a metric. person_s: how long a step waits that waits for
    somebody.
    """

    requests_per_s: float = 20.0
    healthy: float = 0.002
    bad: float = 0.02
    scrape_s: float = 15.0
    person_s: float = 600.0


@dataclass(frozen=True)
class Metric:
    """How looks at one number are counted.

    reads: whose requests. good, poor: the conditions for a success and for a failure;
    one may be None. failures, doubts: how many looks may fail, or be neither; one more
    ends the rollout, by an abort or by waiting for a person. least: requests without
    which there is nothing to look at. within: of how many looks, the last ones,
    failures are counted; None for all.
    """

    name: str
    reads: str = CANDIDATE
    good: Bound | None = None
    poor: Bound | None = None
    failures: int = 0
    doubts: int = 0
    least: int = 1
    within: int | None = None

    def count(self, failed: int, poor: bool) -> tuple[int, int]:
        """What is kept of failed looks after one more, and how many of them count.

        The number itself, or the last ``within`` looks as the bits of a number.
        """
        if self.within is None:
            return failed + poor, failed + poor
        kept = (failed << 1 | poor) & ((1 << self.within) - 1)
        return kept, kept.bit_count()

    def states(self, looks: int) -> int:
        """How many different pasts of so many looks have to be told apart, at most."""
        if self.within is None:
            return min(self.failures + 1, looks)
        seen, total = min(self.within, looks), 0
        for failed in range(min(self.failures, seen) + 1):
            total += comb(seen, failed)
            if total > MAX_STATES:
                break
        return total

    def failing(self, requests: int) -> list[tuple[int, int]]:
        """Intervals of errors, both ends in, at which a look fails."""
        if self.poor:
            low, high = self.poor.errors(requests)
            return [(low, high)] if low <= high else []
        if not self.good:
            return []
        low, high = self.good.errors(requests)
        if low > high:
            return [(0, requests)]
        return [(a, b) for a, b in ((0, low - 1), (high + 1, requests)) if a <= b]

    def doubtful(self, requests: int) -> list[tuple[int, int]]:
        """Intervals of errors at which a look is neither a failure nor a success."""
        if not (self.poor and self.good):
            return []
        edges = sorted(
            {0, requests + 1}
            | {edge for b in (self.poor, self.good) for edge in _edges(b, requests)}
        )
        return [
            (a, b - 1)
            for a, b in itertools.pairwise(edges)
            if not _inside(self.poor, a, requests)
            and not _inside(self.good, a, requests)
        ]


def _edges(bound: Bound, requests: int) -> tuple[int, int]:
    low, high = bound.errors(requests)
    return max(0, min(low, requests + 1)), max(0, min(high + 1, requests + 1))


def _inside(bound: Bound, errors: int, requests: int) -> bool:
    low, high = bound.errors(requests)
    return low <= errors <= high


class Look(NamedTuple):
    """One look at a metric: over requests of [from_s, at_s), decided at at_s.

    settled: the outcome where it does not depend on chance, "good", "poor", "doubt" or
    "stop"; "" where it does. preview: requests of our own in place of users'. empty:
    the outcome of a window with too few requests, "good", "poor", "doubt" or "error".
    """

    at_s: float
    from_s: float
    metric: int
    settled: str = ""
    preview: int = 0
    empty: str = "error"


@dataclass
class Timeline:
    """A rollout whose steps do not depend on what the looks say, until one ends it.

    shares: (from when, the candidate's share); the first at 0 s. ends_s: when it is
    promoted.
    """

    shares: list[tuple[float, float]]
    ends_s: float
    metrics: list[Metric] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)

    def requests(self, rate: float, from_s: float, to_s: float) -> tuple[int, int]:
        """(candidate's, stable's) requests in [from_s, to_s) at a steady rate."""
        mine = self._mine(rate, to_s) - self._mine(rate, from_s)
        everybody = _whole(rate * to_s) - _whole(rate * from_s)
        return mine, max(0, everybody - mine)

    def _mine(self, rate: float, to_s: float) -> int:
        area = 0.0
        ends = [at for at, _ in self.shares[1:]] + [inf]
        for (at, share), end in zip(self.shares, ends, strict=True):
            if to_s > at:
                area += share * (min(to_s, end) - at)
        return _whole(rate * area)

    def read(self, rate: float, look: Look) -> tuple[int, int]:
        """(candidate's, stable's) requests that a look reads."""
        if look.preview:
            return look.preview, 0
        mine, theirs = self.requests(rate, look.from_s, look.at_s)
        reads = self.metrics[look.metric].reads
        return (mine if reads != STABLE else 0), (theirs if reads != CANDIDATE else 0)


def _whole(requests: float) -> int:
    return floor(requests + 1e-6)


@dataclass(frozen=True)
class Chances:
    """What becomes of one version. aborted + waits + promoted = 1.

    waits: chance of stopping for a person to decide. exposed: mean number of users'
    requests that it answers until it is promoted, or taken back. seconds: mean time to
    promotion, of those promoted. looks: how many samples, 0 if exact. errors: standard
    errors by name, where simulated; of a chance from (k + 1/2) / (n + 1), so that none
    is 0.
    """

    aborted: float
    waits: float
    promoted: float
    exposed: float
    seconds: float
    samples: int = 0
    errors: Mapping[str, float] = field(default_factory=dict)


# The binomial law


class Law(NamedTuple):
    """Chances of `first`, `first` + 1, ... events."""

    first: int
    chances: np.ndarray

    def of(self, intervals: Sequence[tuple[int, int]]) -> float:
        """Chance that the number lies in one of the intervals, both ends in."""
        total = 0.0
        for low, high in intervals:
            a, b = max(0, low - self.first), high - self.first + 1
            total += float(self.chances[a : max(a, b)].sum())
        return min(1.0, total)


def binomial(n: int, p: float) -> Law:
    """The binomial law, but for tails of less than 1e-25.

    Ratios of neighbours outwards from the mode, made to sum to 1: exact to about 1e-13
    for any n, which a logarithm of the factorial is not.
    """
    if n <= 0 or p <= 0:
        return Law(0, np.ones(1))
    if p >= 1:
        return Law(n, np.ones(1))
    mode = min(n, floor((n + 1) * p))
    reach = int(14 * sqrt(n * p * (1 - p))) + 60
    low, high = max(0, mode - reach), min(n, mode + reach)
    odds = p / (1 - p)
    up = np.arange(mode, high)
    down = np.arange(mode, low, -1)
    rises = np.cumprod((n - up) / (up + 1) * odds)
    falls = np.cumprod(down / (n - down + 1) / odds)
    chances = np.concatenate([falls[::-1], [1.0], rises])
    return Law(low, chances / chances.sum())


def poisson(mean: float) -> Law:
    """The Poisson law, but for tails of less than 1e-15; as `binomial`."""
    if mean <= 0:
        return Law(0, np.ones(1))
    mode, reach = floor(mean), int(8 * sqrt(mean)) + 40
    low, high = max(0, mode - reach), mode + reach
    rises = np.cumprod(mean / np.arange(mode + 1, high + 1))
    falls = np.cumprod(np.arange(mode, low, -1) / mean)
    chances = np.concatenate([falls[::-1], [1.0], rises])
    return Law(low, chances / chances.sum())


def errors_of(mine: int, theirs: int, rate: float, healthy: float) -> Law:
    """Errors among the candidate's and the stable version's requests together."""
    if max(mine, theirs) > MAX_REQUESTS:
        raise NotComputed(f"a window holds more than {MAX_REQUESTS:,} requests")
    a, b = binomial(mine, rate), binomial(theirs, healthy)
    return Law(a.first + b.first, np.convolve(a.chances, b.chances))


#: (failing, doubtful) of a look, from its metric, the look and the (candidate's,
#: stable's) requests that it reads.
Outcomes = Callable[[Metric, Look, int, int], tuple[float, float]]


def _steady(rate: float, healthy: float) -> Outcomes:
    """Each window holds the number of requests that a steady rate gives it."""

    def outcomes(
        metric: Metric, look: Look, mine: int, theirs: int
    ) -> tuple[float, float]:
        law = errors_of(mine, theirs, rate, healthy)
        requests = mine + theirs
        return law.of(metric.failing(requests)), law.of(metric.doubtful(requests))

    return outcomes


def _varied(mine: int, theirs: int) -> list[tuple[int, float]]:
    """(requests, chance) of a window whose number is a Poisson number around a mean.

    Of a wide law every few numbers, about a twelfth of its standard deviation apart.
    """
    mean = mine + theirs
    if mean > MAX_VARIED:
        return [(mean, 1.0)]
    law = poisson(mean)
    step = max(1, int(sqrt(mean) / 12))
    chances = law.chances[::step] / law.chances[::step].sum()
    numbers = range(law.first, law.first + len(law.chances), step)
    return [(n, p) for n, p in zip(numbers, chances.tolist(), strict=True) if p > 1e-12]


def _share(mine: int, theirs: int, rate: float, healthy: float) -> float:
    """The chance that a request of either version is an error."""
    return (mine * rate + theirs * healthy) / max(1, mine + theirs)


def _random(rate: float, healthy: float) -> Outcomes:
    """Each window holds a Poisson number of requests."""

    def outcomes(
        metric: Metric, look: Look, mine: int, theirs: int
    ) -> tuple[float, float]:
        if look.preview:
            return _steady(rate, healthy)(metric, look, mine, theirs)
        failing = doubtful = without = 0.0
        share = _share(mine, theirs, rate, healthy)
        for requests, chance in _varied(mine, theirs):
            if requests < metric.least:
                failing += chance * (look.empty == "poor")
                doubtful += chance * (look.empty == "doubt")
                without += chance * (look.empty == "error")
                continue
            law = binomial(requests, share)
            failing += chance * law.of(metric.failing(requests))
            doubtful += chance * law.of(metric.doubtful(requests))
        if without > NO_VALUE:
            raise NotComputed("a window may be without a value")
        return min(1.0, failing), min(1.0, doubtful)

    return outcomes


# Timelines


def at_random(plan: Timeline | Loop, world: World, rate: float) -> Chances | None:
    """What becomes of a version if requests come independently of each other.

    None where that is not computed: windows that overlap, looks that have no value at
    a steady rate already or would often have none, more than a small programme follows.
    """
    try:
        if isinstance(plan, Loop):
            if not _loop_disjoint(plan):
                return None
            return _loop_exact(plan, world, rate, varied=True)
        settled = any(look.settled for look in plan.looks)
        if settled or len(plan.looks) > MAX_LOOKS or not disjoint(plan):
            return None
        return _exact(plan, world, _random(rate, world.healthy))
    except NotComputed:
        return None


def chances(timeline: Timeline, world: World, rate: float, seed: int = SEED) -> Chances:
    """What becomes of a version with an error rate. Raises NotComputed."""
    if len(timeline.looks) > MAX_LOOKS:
        raise NotComputed(f"it looks more than {MAX_LOOKS:,} times")
    if disjoint(timeline):
        exact = _exact(timeline, world, _steady(rate, world.healthy))
        if exact:
            return exact
    return _simulated(timeline, world, rate, seed)


def disjoint(timeline: Timeline) -> bool:
    """Whether no request is seen by two looks."""
    last = -inf
    drawn = [one for one in timeline.looks if not one.settled and not one.preview]
    for look in sorted(drawn, key=lambda one: one.at_s):
        if look.from_s < last - 1e-9:
            return False
        last = look.at_s
    return True


def _last_looks(timeline: Timeline) -> dict[int, int]:
    return {look.metric: place for place, look in enumerate(timeline.looks)}


def _exact(timeline: Timeline, world: World, outcomes: Outcomes) -> Chances | None:
    """By dynamic programming over (failures, doubts) of each; None if too big."""
    work = len(timeline.looks)
    for metric in timeline.metrics:
        work *= metric.states(len(timeline.looks))
        work *= min(metric.doubts + 1, len(timeline.looks))
    if work > MAX_STATES * 10:
        return None
    laws: dict[tuple[int, bool, int, int], tuple[float, float]] = {}
    empty = ((0, 0),) * len(timeline.metrics)
    states: dict[tuple[tuple[int, int], ...], float] = {empty: 1.0}
    last = _last_looks(timeline)
    aborted = waits = exposed = 0.0
    for place, look in enumerate(timeline.looks):
        metric = timeline.metrics[look.metric]
        seen = timeline.requests(world.requests_per_s, 0, look.at_s)[0]
        if look.settled == "stop":
            left = sum(states.values())
            aborted, exposed, states = aborted + left, exposed + left * seen, {}
            break
        if look.settled:
            failing, doubtful = (
                float(look.settled == "poor"),
                float(look.settled == "doubt"),
            )
        else:
            mine, theirs = timeline.read(world.requests_per_s, look)
            key = look.metric, look.preview > 0, mine, theirs
            if key not in laws:
                laws[key] = outcomes(metric, look, mine, theirs)
            failing, doubtful = laws[key]
        after: dict[tuple[tuple[int, int], ...], float] = {}
        for state, chance in states.items():
            failed, doubts = state[look.metric]
            nexts = (
                (True, doubts, failing),
                (False, doubts + 1, doubtful),
                (False, doubts, max(0.0, 1 - failing - doubtful)),
            )
            for poor, d, p in nexts:
                if p == 0:
                    continue
                f, failures = metric.count(failed, poor)
                if failures > metric.failures:
                    aborted += chance * p
                    exposed += chance * p * seen
                elif d > metric.doubts:
                    waits += chance * p
                    exposed += chance * p * seen
                else:
                    mine_now = (0, 0) if last[look.metric] == place else (f, d)
                    new = (
                        *state[: look.metric],
                        mine_now,
                        *state[look.metric + 1 :],
                    )
                    after[new] = after.get(new, 0.0) + chance * p
        if len(after) > MAX_STATES:
            return None
        states = after
    promoted = sum(states.values())
    exposed += promoted * timeline.requests(world.requests_per_s, 0, timeline.ends_s)[0]
    return Chances(aborted, waits, promoted, exposed, timeline.ends_s)


def _simulated(timeline: Timeline, world: World, rate: float, seed: int) -> Chances:
    """By drawing the errors between every two edges of windows, for many rollouts."""
    edges = sorted(
        {
            moment
            for look in timeline.looks
            if not look.settled and not look.preview
            for moment in (look.from_s, look.at_s)
        }
    )
    pieces = [
        timeline.requests(world.requests_per_s, a, b)
        for a, b in itertools.pairwise(edges)
    ]
    samples = max(500, min(20_000, MAX_DRAWS // max(1, 2 * len(pieces))))
    rng = np.random.default_rng(seed)
    mine = _running(rng, samples, [m for m, _ in pieces], rate)
    theirs = _running(rng, samples, [s for _, s in pieces], world.healthy)
    place = {moment: number for number, moment in enumerate(edges)}
    failed = np.zeros((len(timeline.metrics), samples), int)
    doubts = np.zeros_like(failed)
    past: list[list[np.ndarray]] = [[] for _ in timeline.metrics]
    running = np.ones(samples, bool)
    fate = np.zeros(samples, int)  # 0 promoted, 1 aborted, 2 waits
    total = timeline.requests(world.requests_per_s, 0, timeline.ends_s)[0]
    exposed = np.full(samples, float(total))
    for look in timeline.looks:
        metric = timeline.metrics[look.metric]
        if look.settled:
            poor = np.full(samples, look.settled in ("poor", "stop"))
            doubt = np.full(samples, look.settled == "doubt")
        else:
            a, b = timeline.read(world.requests_per_s, look)
            if look.preview:
                seen = rng.binomial(look.preview, rate, samples)
            else:
                start, end = place[look.from_s], place[look.at_s]
                seen = np.zeros(samples, int)
                if metric.reads != STABLE:
                    seen = seen + mine[:, end] - mine[:, start]
                if metric.reads != CANDIDATE:
                    seen = seen + theirs[:, end] - theirs[:, start]
            poor = _within(seen, metric.failing(a + b))
            doubt = _within(seen, metric.doubtful(a + b))
        failed[look.metric] += poor
        if metric.within is not None:
            past[look.metric].append(poor)
            if len(past[look.metric]) > metric.within:
                failed[look.metric] -= past[look.metric].pop(0)
        doubts[look.metric] += doubt
        stop = failed[look.metric] > metric.failures
        if look.settled == "stop":
            stop = np.ones(samples, bool)
        wait = ~stop & (doubts[look.metric] > metric.doubts)
        for ends, code in ((running & stop, 1), (running & wait, 2)):
            fate[ends] = code
            exposed[ends] = timeline.requests(world.requests_per_s, 0, look.at_s)[0]
        running &= ~(stop | wait)
    return _summary(fate, exposed, np.full(samples, timeline.ends_s))


def _running(
    rng: np.random.Generator, samples: int, pieces: Sequence[int], rate: float
) -> np.ndarray:
    """Errors up to each edge, shape (samples, pieces + 1), beginning with 0."""
    if pieces and max(pieces) > MAX_REQUESTS:
        raise NotComputed(f"a window holds more than {MAX_REQUESTS:,} requests")
    drawn = np.zeros((samples, len(pieces) + 1), np.int64)
    if pieces:
        drawn[:, 1:] = rng.binomial(np.array(pieces), rate, (samples, len(pieces)))
    return np.cumsum(drawn, axis=1)


def _within(seen: np.ndarray, intervals: Sequence[tuple[int, int]]) -> np.ndarray:
    inside = np.zeros(seen.shape, bool)
    for low, high in intervals:
        inside |= (seen >= low) & (seen <= high)
    return inside


def _summary(fate: np.ndarray, exposed: np.ndarray, seconds: np.ndarray) -> Chances:
    samples = len(fate)
    counts = [int((fate == code).sum()) for code in (0, 1, 2)]
    promoted, aborted, waits = (count / samples for count in counts)
    names = ("promoted", "aborted", "waits")
    errors = {
        name: sqrt((c + 0.5) * (samples - c + 0.5) / (samples + 1) ** 2 / samples)
        for name, c in zip(names, counts, strict=True)
    }
    errors["exposed"] = float(exposed.std()) / sqrt(samples)
    good = seconds[fate == 0]
    errors["seconds"] = float(good.std()) / sqrt(len(good)) if len(good) else inf
    return Chances(
        aborted,
        waits,
        promoted,
        float(exposed.mean()),
        float(good.mean()) if len(good) else inf,
        samples,
        errors,
    )


# Flagger's loop


class Stage(NamedTuple):
    """What holds until a check passes. share: of users' traffic; mirror: of copies."""

    share: float
    mirror: float = 0.0


@dataclass(frozen=True)
class Loop:
    """Flagger's loop: a check every interval; a pass goes on, a failure stays.

    After ``threshold`` failures, counted over the whole rollout, it rolls back at the
    next tick (pkg/controller/scheduler.go, advanceCanary). window_s: of the checks.
    metrics: a check fails if one of them does; all look at the same requests.
    """

    stages: tuple[Stage, ...]
    interval_s: float
    threshold: int
    window_s: float
    metrics: tuple[Metric, ...]

    def requests(self, rate: float, stage: Stage, lasts_s: float) -> tuple[int, int]:
        """(candidate's, stable's) requests of a time that reads ones, in one stage."""
        mine = _whole(rate * (stage.share + stage.mirror) * lasts_s)
        theirs = _whole(rate * (1 - stage.share) * lasts_s)
        reads = {metric.reads for metric in self.metrics}
        return (mine if reads != {STABLE} else 0), (theirs if BOTH in reads else 0)

    def failing(self, requests: int) -> list[tuple[int, int]]:
        """Intervals of errors at which a check fails; no data is a failure."""
        if requests < max(metric.least for metric in self.metrics):
            return [(0, requests)]
        cuts = sorted(
            interval for metric in self.metrics for interval in metric.failing(requests)
        )
        merged: list[tuple[int, int]] = []
        for low, high in cuts:
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = merged[-1][0], max(high, merged[-1][1])
            else:
                merged.append((low, high))
        return merged


def loop_chances(loop: Loop, world: World, rate: float, seed: int = SEED) -> Chances:
    """What becomes of a version in Flagger's loop. Raises NotComputed."""
    if len(loop.stages) * loop.threshold > MAX_STATES:
        raise NotComputed("it has too many stages and failures to follow")
    if _loop_disjoint(loop):
        return _loop_exact(loop, world, rate)
    return _loop_simulated(loop, world, rate, seed)


def _loop_disjoint(loop: Loop) -> bool:
    """Whether no request is seen by two checks."""
    return loop.window_s <= loop.interval_s + 1e-9


def _loop_exact(loop: Loop, world: World, rate: float, varied: bool = False) -> Chances:
    """By dynamic programming over (stage, failures); each check has its own window."""
    # For each number of failures: chance of being there, and of that the mean time and
    # the mean exposure so far (as sums weighted by the chance).
    states = {0: (1.0, 0.0, 0.0)}
    aborted = exposed = 0.0
    for stage in loop.stages:
        per_tick = world.requests_per_s * stage.share * loop.interval_s
        mine, theirs = loop.requests(world.requests_per_s, stage, loop.window_s)
        if varied:
            share = _share(mine, theirs, rate, world.healthy)
            fails = sum(
                chance * binomial(requests, share).of(loop.failing(requests))
                for requests, chance in _varied(mine, theirs)
            )
        else:
            law = errors_of(mine, theirs, rate, world.healthy)
            fails = law.of(loop.failing(mine + theirs))
        after: dict[int, tuple[float, float, float]] = {}
        for failures in range(loop.threshold):
            chance, ticks, seen = states.get(failures, (0.0, 0.0, 0.0))
            if not chance:
                continue
            ticks, seen = ticks + chance, seen + chance * per_tick
            _put(after, failures, (1 - fails) * np.array((chance, ticks, seen)))
            if failures + 1 < loop.threshold:
                _put(states, failures + 1, fails * np.array((chance, ticks, seen)))
            else:
                aborted += fails * chance
                exposed += fails * (seen + chance * per_tick)
        states = after
    promoted, ticks, seen = (sum(s[part] for s in states.values()) for part in range(3))
    mean_s = ticks / promoted * loop.interval_s if promoted else inf
    return Chances(aborted, 0.0, promoted, exposed + seen, mean_s)


def _put(
    states: dict[int, tuple[float, float, float]], at: int, more: np.ndarray
) -> None:
    old = states.get(at, (0.0, 0.0, 0.0))
    states[at] = tuple(float(a + b) for a, b in zip(old, more, strict=True))  # type: ignore[assignment]


def _loop_simulated(loop: Loop, world: World, rate: float, seed: int) -> Chances:
    """By drawing each tick in two pieces, so that windows begin between them."""
    whole, rest_s = divmod(loop.window_s, loop.interval_s)
    if rest_s < 1e-9 or loop.interval_s - rest_s < 1e-9:
        whole, rest_s = round(loop.window_s / loop.interval_s), 0.0
    whole = int(whole)
    ticks = len(loop.stages) + loop.threshold
    if whole > 100 or whole * ticks > MAX_STATES:
        raise NotComputed("its metrics look back over too many intervals")
    samples = max(500, min(20_000, MAX_DRAWS // (4 * ticks)))
    rng = np.random.default_rng(seed)
    table = np.array(
        [
            [
                *loop.requests(world.requests_per_s, stage, loop.interval_s - rest_s),
                *loop.requests(world.requests_per_s, stage, rest_s),
            ]
            for stage in loop.stages
        ]
    )
    if table.max() > MAX_REQUESTS:
        raise NotComputed(f"a window holds more than {MAX_REQUESTS:,} requests")
    shares = np.array([stage.share for stage in loop.stages])
    before = _before(loop, world, whole, rest_s, rng, samples)
    stage = np.zeros(samples, int)
    failures = np.zeros(samples, int)
    fate = np.full(samples, -1)
    seconds = np.zeros(samples)
    exposed = np.zeros(samples)
    history = before  # entries (requests, errors) of (early, late) pieces, newest last
    for tick in range(1, ticks + 2):
        running = fate < 0
        if not running.any():
            break
        at = np.minimum(stage, len(loop.stages) - 1)
        exposed += running * shares[at] * world.requests_per_s * loop.interval_s
        over = running & (failures >= loop.threshold)
        fate[over] = 1
        running &= ~over
        counts = table[at]
        rates = np.array([rate, world.healthy, rate, world.healthy])
        errors = rng.binomial(counts, rates)
        history.append(
            (
                counts[:, :2].sum(1),
                errors[:, :2].sum(1),
                counts[:, 2:].sum(1),
                errors[:, 2:].sum(1),
            )
        )
        n = sum(h[0] + h[2] for h in history[-whole:])
        e = sum(h[1] + h[3] for h in history[-whole:])
        if rest_s and len(history) > whole:
            n, e = n + history[-whole - 1][2], e + history[-whole - 1][3]
        history = history[-whole - 1 :]
        poor = _loop_fails(loop, n, e)
        failures += running & poor
        stage += running & ~poor
        done = running & (stage >= len(loop.stages))
        fate[done] = 0
        seconds[done] = tick * loop.interval_s
    return _summary(fate, exposed, seconds)


def _before(
    loop: Loop,
    world: World,
    whole: int,
    rest_s: float,
    rng: np.random.Generator,
    samples: int,
) -> list[tuple[np.ndarray, ...]]:
    """What windows see of the time before the first stage: stable's requests alone."""
    idle = Stage(0.0)
    counts = (
        loop.requests(world.requests_per_s, idle, loop.interval_s - rest_s)[1],
        loop.requests(world.requests_per_s, idle, rest_s)[1],
    )
    return [
        tuple(
            part
            for count in counts
            for part in (
                np.full(samples, count),
                rng.binomial(count, world.healthy, samples),
            )
        )
        for _ in range(whole + 1)
    ]


def _loop_fails(loop: Loop, requests: np.ndarray, errors: np.ndarray) -> np.ndarray:
    fails = np.zeros(len(requests), bool)
    for n in np.unique(requests):
        here = requests == n
        fails[here] = _within(errors[here], loop.failing(int(n)))
    return fails
