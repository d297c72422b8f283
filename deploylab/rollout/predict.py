"""Predictions in closed form: who will be hurt, before anything runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from deploylab.rollout.judges import SplitEProcess, Threshold
from deploylab.rollout.model import CANDIDATE, STABLE
from deploylab.rollout.strategies import BlueGreen, Canary


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
