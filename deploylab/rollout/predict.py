"""Predictions in closed form: who will be hurt, before anything runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from math import ceil, inf

import numpy as np
from scipy import stats

from deploylab.rollout.judges import SplitEProcess, Threshold
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Bake,
    Deploy,
    End,
    Retire,
    State,
    Verdict,
)
from deploylab.rollout.strategies import (
    AB,
    Bandit,
    Basic,
    BlueGreen,
    Canary,
    Rolling,
    Shadow,
    Strategy,
)


@dataclass(frozen=True)
class Prediction:
    """What will come of a rollout of a bad version.

    aborted: chance that a gate ends it. exposed: mean number of requests that the
    candidate answers while it is on trial. seconds: mean time from its first request to
    the end of its traffic. at_most: for each number n, from 0, the chance that at most
    n requests are exposed; one without an abort counts as the last.
    """

    aborted: float
    exposed: float
    seconds: float
    at_most: np.ndarray

    def between(self, chance: float) -> tuple[int, int]:
        """Bounds of exposed requests that are left with at most this chance."""
        low = int(np.searchsorted(self.at_most, chance / 2, side="right"))
        high = int(np.searchsorted(self.at_most, 1 - chance / 2, side="left"))
        return low, high


@dataclass(frozen=True)
class World:
    """Where a bad version is released, for the closed forms of `damage`.

    requests_per_s: of all users. instances: of the service. start_s, stop_s: what it
    takes to start an instance until it is ready, and to stop one. look_s: time between
    two looks. needed: the candidate's requests that make a gate fail, at the next look.
    switch_s: from the verdict until the traffic has moved.
    """

    requests_per_s: float
    instances: int
    start_s: float
    stop_s: float
    look_s: float
    needed: int
    switch_s: float = 0.0

    def detected_s(self, stages: Sequence[tuple[float, float]]) -> float:
        """Seconds from the first request to the look at which a gate fails.

        stages: (share, seconds), one after the other. Infinite if all are over before.
        """
        seen = began_s = 0.0
        for share, lasts_s in stages:
            rate = self.requests_per_s * share
            missing_s = (self.needed - seen) / rate if rate else inf
            look = ceil((began_s + max(0.0, missing_s)) / self.look_s - 1e-9)
            at_s = max(1, look) * self.look_s if look != inf else inf
            if at_s <= began_s + lasts_s + 1e-9:
                return at_s
            seen += rate * lasts_s
            began_s += lasts_s
        return inf


@dataclass(frozen=True)
class Damage:
    """What a bad release costs, on average, in requests, seconds and instances.

    exposed: requests that the bad version answers. lost: requests that find nobody.
    floor: ready instances, at the fewest. extra_instance_s: instance-seconds beyond
    those of the service as it was, for a release that goes well. clean_s: from its
    first request until it gets no more. assumes: what the figures rest on.
    """

    exposed: float
    lost: float
    floor: int
    extra_instance_s: float
    clean_s: float
    assumes: tuple[str, ...]


_STEADY = "requests come at a steady rate, and as many as are needed by the look"


@singledispatch
def damage(strategy: object, world: World) -> Damage:
    """What a bad version costs with this strategy, in closed form.

    TypeError for a strategy that has no closed form here.
    """
    raise TypeError(
        f"there is no closed form for {type(strategy).__name__}; simulate it"
    )


@damage.register
def _(strategy: Basic, world: World) -> Damage:
    found_s = world.look_s * ceil(
        world.needed / (world.requests_per_s * world.look_s) - 1e-9
    )
    outage_s = world.stop_s + world.start_s
    return Damage(
        exposed=world.requests_per_s * found_s,
        lost=2 * world.requests_per_s * outage_s,
        floor=0,
        extra_instance_s=0.0,
        clean_s=found_s + outage_s,
        assumes=(_STEADY, "clients do not try again", "the way back is another outage"),
    )


@damage.register
def _(strategy: Rolling, world: World) -> Damage:
    bad, good = _stepped(strategy, world, world.needed), _stepped(strategy, world, inf)
    if bad.outcome != "aborted":
        raise ValueError(
            "no gate has failed before the last wave was over: it needs "
            f"{world.needed} requests. Give each wave a longer min_ready_s."
        )
    return Damage(
        exposed=bad.exposed,
        lost=bad.lost,
        floor=strategy.instances - strategy.limits[1],
        extra_instance_s=good.extra_instance_s,
        clean_s=bad.exposed_s,
        assumes=(
            _STEADY,
            "the instances of a wave become ready together",
            "a gate is asked when a wave is ready, and the way back is a roll too",
        ),
    )


@dataclass
class _Stepped:
    """Means of a rollout, added up step by step; see `_stepped`."""

    exposed: float = 0.0
    exposed_s: float = 0.0
    lost: float = 0.0
    extra_instance_s: float = 0.0
    outcome: str = ""


def _stepped(strategy: Strategy, world: World, needed: float) -> _Stepped:
    """Make the strategy's steps with mean numbers; its gates fail after `needed`."""
    state = State(instances={STABLE: world.instances, CANDIDATE: 0})
    sums = _Stepped()
    while not isinstance(
        step := strategy.next(
            state, Verdict.FAILED if sums.exposed >= needed else Verdict.SUCCESSFUL
        ),
        End,
    ):
        there, lasts_s = dict(state.instances), 0.0
        match step:
            case Deploy(role, to):
                there[role] = world.instances if to is None else to
                lasts_s = world.start_s
            case Retire(role, to, cut):
                there[role] = to
                lasts_s = world.stop_s if cut else 0.0
            case Bake(until_s):
                lasts_s = min(until_s - state.now_s, world.look_s)
        came = world.requests_per_s * lasts_s
        for role, share in ((CANDIDATE, state.share), (STABLE, 1 - state.share)):
            # Those that start only answer when they are ready.
            if not min(there[role], state.instances[role]):
                sums.lost += came * share
            elif role == CANDIDATE:
                sums.exposed += came * share
        sums.exposed_s += lasts_s if state.share else 0.0
        sums.extra_instance_s += lasts_s * max(0, sum(there.values()) - world.instances)
        state = replace(state.after(step, state.now_s + lasts_s), instances=there)
    sums.outcome = step.outcome
    return sums


@damage.register
def _(strategy: BlueGreen, world: World) -> Damage:
    extra = world.instances * (world.start_s + strategy.keep_s)
    if strategy.before and strategy.preview >= world.needed:
        assumes = ("the preview shows what users would meet",)
        return Damage(0.0, 0.0, world.instances, extra, 0.0, assumes)
    found_s = world.detected_s([(1.0, strategy.keep_s)])
    clean_s = min(found_s, strategy.keep_s) + world.switch_s
    return Damage(
        exposed=world.requests_per_s * clean_s,
        lost=0.0,
        floor=world.instances,
        extra_instance_s=extra,
        clean_s=clean_s,
        assumes=(_STEADY, "the old side is kept until the gate has failed"),
    )


@damage.register
def _(strategy: Canary, world: World) -> Damage:
    stages = list(zip(strategy.shares, strategy.bakes_s, strict=True))
    return _divided(stages, world)


@damage.register
def _(strategy: AB, world: World) -> Damage:
    return _divided([(strategy.share, strategy.longest_s)], world)


@damage.register
def _(strategy: Bandit, world: World) -> Damage:
    # Up to the first update nothing is known; a guard that needs longer is not for
    # this formula, since the share then follows what was seen.
    return _divided([(0.5, strategy.update_s)], world)


@damage.register
def _(strategy: Shadow, world: World) -> Damage:
    return Damage(
        exposed=0.0,
        lost=0.0,
        floor=world.instances,
        extra_instance_s=world.instances * (world.start_s + strategy.bake_s),
        clean_s=0.0,
        assumes=("what the candidate does to others is left out",),
    )


def _divided(stages: list[tuple[float, float]], world: World) -> Damage:
    """A router divides the traffic, and can take it back at any time."""
    whole_s = sum(lasts_s for _, lasts_s in stages)
    found_s = world.detected_s(stages)
    if found_s == inf:
        raise ValueError(
            f"no gate has failed after {whole_s:g} s of this traffic: it needs "
            f"{world.needed} requests. Give it more time, or a larger share."
        )
    share = next(
        share
        for (share, _), end_s in zip(
            stages, np.cumsum([lasts_s for _, lasts_s in stages]), strict=True
        )
        if found_s <= end_s + 1e-9
    )
    exposed = _integral(stages, found_s) + share * world.switch_s
    return Damage(
        exposed=world.requests_per_s * exposed,
        lost=0.0,
        floor=world.instances,
        extra_instance_s=world.instances * (world.start_s + whole_s),
        clean_s=found_s + world.switch_s,
        assumes=(_STEADY, "the candidate's group is as large as the stable one"),
    )


def _integral(stages: Sequence[tuple[float, float]], until_s: float) -> float:
    """Seconds times share, up to a moment."""
    total = began_s = 0.0
    for share, lasts_s in stages:
        total += share * max(0.0, min(lasts_s, until_s - began_s))
        began_s += lasts_s
    return total


def any_bad(chances: Sequence[float]) -> float:
    """Chance that at least one of several changes is bad, if they are independent."""
    return float(1 - np.prod([1 - chance for chance in chances]))


def users_needed(
    stable: float,
    candidate: float,
    alpha: float = 0.05,
    power: float = 0.8,
    sides: int = 2,
    ratio: float = 1.0,
) -> int:
    """Users that the candidate needs for a test to tell two rates apart.

    stable, candidate: the rates. alpha: chance of a false alarm, sides: of the test.
    ratio: stable's users for each of the candidate's, ``(1 - share) / share``. The
    normal approximation with pooled variance (Fleiss, Levin and Paik 2003, section
    4.2, without continuity correction).
    """
    if stable == candidate:
        raise ValueError("no sample is large enough to tell equal rates apart")
    mean = (candidate + ratio * stable) / (1 + ratio)
    spread = np.sqrt((1 + 1 / ratio) * mean * (1 - mean))
    apart = np.sqrt(candidate * (1 - candidate) + stable * (1 - stable) / ratio)
    z = stats.norm.isf([alpha / sides, 1 - power])
    return ceil(float(((z[0] * spread + z[1] * apart) / (candidate - stable)) ** 2))


def users_touched(share: float, requests_each: int, sticky: bool) -> float:
    """Share of the users who meet the candidate at least once.

    share: of the traffic; requests_each: how many each user sends. If each request is
    drawn for itself, that is ``1 - (1 - share) ** requests_each``; if a user stays on
    one side, the share, as soon as they send anything.
    """
    if sticky:
        return share if requests_each else 0.0
    return 1 - (1 - share) ** requests_each


def errors_needed(judge: SplitEProcess, share: float) -> int:
    """How many errors, all the candidate's, make the e-value reach its limit.

    At one share of the traffic, from 0 to 1 (both excluded), when stable has none.
    """
    gain, _ = judge.weights(share)
    errors = 0
    while judge.mean_of(errors * gain) < 1 / judge.alpha:
        errors += 1
    return errors


def missed(
    judge: SplitEProcess, stages: Sequence[tuple[float, int]], rate: float
) -> float:
    """Chance that a gate has not failed after these requests of a bad version's.

    stages: share of the traffic and number of the candidate's requests, one after the
    other; rate: chance that a request is an event. Stable has none. Exact: the numbers
    of events in the stages are binomial, and those that do not suffice are added up.
    """
    shares = tuple(share for share, _ in stages)
    paths: dict[tuple[int, ...], float] = {(): 1.0}
    for share, requests in stages:
        paths = {
            (*path, events): weight * float(stats.binom.pmf(events, requests, rate))
            for path, weight in paths.items()
            for events in range(_missing(judge, shares, path, share))
        }
    return sum(paths.values())


def canary(
    strategy: Canary,
    rates: Mapping[str, Mapping[str, float]],
    requests_per_s: float,
    late_s: float = 0.0,
) -> Prediction:
    """Predict a canary with one split e-process, when the stable version has no events.

    Then the e-value depends on nothing but the candidate's events in each stage, and
    each of its requests is one with a fixed chance: a walk over the few numbers of
    events that do not yet suffice gives the law of the request that ends the rollout.
    A stage is taken to have its mean number of requests, to the nearest whole one.

    rates: for each role, the chance of each metric's event in one request. late_s: how
    long the traffic goes on after the deciding request: the mean wait for the next
    look, and the switch itself. The requests of that time are added to each number.

    ValueError if there are several gates, another judge, or events of stable's; then
    `simulate.canaries` gives the same figures from many draws.
    """
    gate, judge = _only_e_process(strategy)
    chance = rates[CANDIDATE][gate.metric]
    if rates[STABLE][gate.metric] > 0:
        raise ValueError(
            f"the stable version has {gate.metric} too, and then there is no closed "
            "form; use simulate.canaries"
        )
    enough = judge.at_least if strategy.on_doubt == "abort" else 1
    ends: dict[int, float] = defaultdict(float)  # exposed requests -> chance
    seconds = 0.0
    seen, before_s = 0, 0.0
    # Evidence of the events so far -> chance; a key is the events of each stage.
    paths: dict[tuple[int, ...], float] = {(): 1.0}
    for share, bake_s in zip(strategy.shares, strategy.bakes_s, strict=True):
        requests = round(requests_per_s * share * bake_s)
        late = round(requests_per_s * share * late_s)
        after: dict[tuple[int, ...], float] = defaultdict(float)
        for path, weight in paths.items():
            missing = _missing(judge, strategy.shares, path, share)
            # The deciding event is the missing-th: a negative binomial's law.
            n = np.arange(1, requests + 1)
            # A version without events (chance 0) never comes to it.
            law = weight * stats.nbinom.pmf(n - missing, missing, chance or 1e-300)
            for extra, p in zip(n, law, strict=True):
                ends[seen + int(extra) + late] += p
            in_stage_s = n / (requests_per_s * share)
            seconds += float((law * (before_s + in_stage_s + late_s)).sum())
            for events in range(missing):
                after[(*path, events)] += weight * stats.binom.pmf(
                    events, requests, chance
                )
        paths = after
        seen += requests
        before_s += bake_s
        if requests < enough:
            ends[seen] += sum(paths.values())
            seconds += before_s * sum(paths.values())
            break
    aborted = sum(ends.values())
    seconds += (1 - aborted) * before_s
    last = max([seen, *ends])
    law = np.zeros(last + 1)
    for n, p in ends.items():
        law[n] += p
    law[last if not ends else seen] += 1 - aborted
    exposed = float((law * np.arange(last + 1)).sum())
    return Prediction(float(aborted), exposed, seconds, law.cumsum())


def blue_green(
    strategy: BlueGreen,
    rates: Mapping[str, Mapping[str, float]],
    requests_per_s: float,
    late_s: float = 0.0,
) -> Prediction:
    """Predict a blue/green switch with one threshold that allows no failed window.

    Each window has ``requests_per_s * window_s`` requests and fails with the chance of
    `Threshold.window_fails`, independently of the others; the first that fails ends it.
    Looks are taken to fall on the windows' ends. late_s: as in `canary`. ValueError
    for other gates.
    """
    judges = [gate.judge for gate in strategy.gates]
    if len(judges) != 1 or not isinstance(judges[0], Threshold) or judges[0].failures:
        raise ValueError("give a blue/green strategy with one Threshold, failures=0")
    judge, metric = judges[0], strategy.gates[0].metric
    if judge.window_s <= 0:
        raise ValueError(
            "the window of the threshold is 0 s long, so it ends with each look, and "
            "the number of looks is not known here; give it a window_s"
        )
    requests = round(requests_per_s * judge.window_s)
    fails = judge.window_fails(requests, rates[CANDIDATE][metric])
    windows = int(strategy.keep_s / judge.window_s + 1e-9)
    everything = round(requests_per_s * strategy.keep_s)
    if not windows or requests < judge.at_least:
        # No window is ever judged, and without data it goes back in the end.
        certain = np.append(np.zeros(everything), 1.0)
        return Prediction(1.0, float(everything), strategy.keep_s, certain)
    number = np.arange(1, windows + 1)
    law = fails * (1 - fails) ** (number - 1)
    aborted = float(law.sum())
    ends = number * requests + round(requests_per_s * late_s)
    exact = np.zeros(max([everything, *ends]) + 1)
    exact[ends] += law
    exact[everything] += 1 - aborted
    exposed = float((exact * np.arange(exact.size)).sum())
    lasted_s = number * judge.window_s + late_s
    seconds = float((law * lasted_s).sum()) + (1 - aborted) * strategy.keep_s
    return Prediction(aborted, exposed, seconds, exact.cumsum())


def _only_e_process(strategy: Canary):
    judges = [gate.judge for gate in strategy.gates]
    if len(judges) != 1 or not isinstance(judges[0], SplitEProcess):
        raise ValueError(
            "a closed form exists for a canary with one gate, a split e-process; for "
            "others use simulate.canaries or carry_out"
        )
    return strategy.gates[0], judges[0]


def _missing(
    judge: SplitEProcess,
    shares: tuple[float, ...],
    path: tuple[int, ...],
    share: float,
) -> int:
    """Events still missing at this share, after those of the stages before."""
    logs = np.zeros(len(judge.ratios))
    for earlier, events in zip(shares, path, strict=False):
        logs = logs + events * judge.weights(earlier)[0]
    gain, _ = judge.weights(share)
    missing = 0
    while judge.mean_of(logs + missing * gain) < 1 / judge.alpha:
        missing += 1
    return missing
