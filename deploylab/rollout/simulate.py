"""Simulated environments: exact in law, from sufficient statistics or single requests.

A version is described by what its requests do: how often each metric's event happens.
Per tick, the requests of a role are a binomial share of the tick's Poisson number, and
its events a binomial share of them; that is the same in law as drawing each request,
and does not take longer for more of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from deploylab.rollout.engine import StepFailed
from deploylab.rollout.judges import SplitEProcess
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Abort,
    Bake,
    Counts,
    Deploy,
    Measurement,
    Shift,
    Step,
)
from deploylab.rollout.strategies import Canary

#: Single requests are drawn in pieces that stay in the processor's cache.
PIECE = 1 << 15


@dataclass
class Simulated:
    """An environment in which nothing runs.

    rates: for each role, the chance of each metric's event in one request.
    requests_per_s: mean of the Poisson arrivals. tick_s: seconds between looks.
    deploy_s: what starting a role takes; None for one that never becomes ready.
    """

    rates: Mapping[str, Mapping[str, float]]
    requests_per_s: float
    rng: np.random.Generator
    tick_s: float = 1.0
    deploy_s: float | None = 0.0
    now_s: float = 0.0
    share: float = 0.0

    def do(self, step: Step) -> list[Measurement]:
        """Change the split, or let time pass; the traffic goes on meanwhile."""
        if isinstance(step, Bake):
            return self._pass(step.until_s, ticks=1)
        if isinstance(step, Deploy):
            if self.deploy_s is None:
                raise StepFailed(f"the {step.role} never became ready")
            return self._pass(self.now_s + self.deploy_s)
        if isinstance(step, Shift):
            self.share = step.split.candidate
        elif isinstance(step, Abort):
            self.share = 0.0
        return []

    def _pass(self, until_s: float, ticks: float = inf) -> list[Measurement]:
        """Let time pass until then, or for so many ticks if they end before."""
        seen = []
        while self.now_s < until_s - 1e-9 and len(seen) < ticks:
            start, self.now_s = self.now_s, min(self.now_s + self.tick_s, until_s)
            arrived = self.rng.poisson(self.requests_per_s * (self.now_s - start))
            mine = int(self.rng.binomial(arrived, self.share))
            others = self._counts(STABLE, int(arrived) - mine)
            seen.append(
                Measurement(
                    start, self.now_s, self.share, others, self._counts(CANDIDATE, mine)
                )
            )
        return seen

    def _counts(self, role: str, requests: int) -> Counts:
        events = {
            metric: int(self.rng.binomial(requests, chance))
            for metric, chance in self.rates[role].items()
        }
        return Counts(int(requests), events)


@dataclass(frozen=True)
class Many:
    """Many simulated canaries: arrays with one entry for each.

    aborted: whether a gate ended it. ended_s: when its traffic was moved for the last
    time. exposed: requests that the candidate answered while it was on trial.
    """

    aborted: np.ndarray
    ended_s: np.ndarray
    exposed: np.ndarray


def canaries(
    strategy: Canary,
    rates: Mapping[str, Mapping[str, float]],
    requests_per_s: float,
    rng: np.random.Generator,
    n: int,
    tick_s: float = 1.0,
) -> Many:
    """``n`` simulated canaries at once, judged after each tick.

    For a canary whose gates are all split e-processes: its shares follow the clock
    until a gate ends it, so all ticks of a stage can be drawn together, for all
    rollouts. The sample-ratio check is left out, since the split is right here.
    ValueError for another canary.
    """
    judges = [gate.judge for gate in strategy.gates]
    if not judges or not all(isinstance(judge, SplitEProcess) for judge in judges):
        raise ValueError(
            "only canaries whose gates are all split e-processes are drawn together; "
            "carry_out(strategy, Simulated(...)) takes any, one by one"
        )
    enough = max(judge.at_least for judge in judges)
    enough = enough if strategy.on_doubt == "abort" else 1
    ends_s = np.append(
        np.arange(tick_s, strategy.bake_s - 1e-9, tick_s), strategy.bake_s
    )
    ticks, lengths_s = ends_s.size, np.diff(ends_s, prepend=0.0)
    aborted = np.zeros(n, bool)
    ended_s = np.zeros(n)
    exposed = np.zeros(n, int)
    evidence = [np.zeros((n, len(judge.ratios))) for judge in judges]
    for share in strategy.shares:
        alive = np.flatnonzero(~aborted)
        arrived = rng.poisson(requests_per_s * lengths_s, size=(alive.size, ticks))
        candidate = rng.binomial(arrived, share)
        first = np.full(alive.size, ticks)
        for gate, logs in zip(strategy.gates, evidence, strict=True):
            mine = rng.binomial(candidate, rates[CANDIDATE][gate.metric])
            others = rng.binomial(arrived - candidate, rates[STABLE][gate.metric])
            crossed, logs[alive] = _crossings(
                gate.judge, share, mine, others, logs[alive]
            )
            first = np.minimum(first, crossed)
        aborted[alive] = first < ticks
        seen = np.minimum(first + 1, ticks)
        ended_s[alive] += ends_s[seen - 1]
        so_far = candidate.cumsum(axis=1)
        in_stage = so_far[np.arange(alive.size), seen - 1]
        exposed[alive] += in_stage
        aborted[alive] |= in_stage < enough
    return Many(aborted, ended_s, exposed)


def _crossings(
    judge: SplitEProcess,
    share: float,
    mine: np.ndarray,
    others: np.ndarray,
    before: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """The tick at which each e-value reaches the limit, or their number; and after.

    mine, others: events per tick, shape (rollouts, ticks); before: the logarithm of
    each ratio's product so far, shape (rollouts, ratios). An e-value grows only with
    the candidate's events, so no other tick is looked at.
    """
    gain, loss = judge.weights(share)
    mine_so_far, others_so_far = mine.cumsum(axis=1), others.cumsum(axis=1)
    row, tick = np.nonzero(mine)
    logs = before[row] + np.outer(mine_so_far[row, tick], gain)
    logs -= np.outer(others_so_far[row, tick], loss)
    high = judge.mean_of(logs) >= 1 / judge.alpha
    first = np.full(len(mine), mine.shape[1])
    np.minimum.at(first, row[high], tick[high])
    after = before + np.outer(mine_so_far[:, -1], gain)
    return first, after - np.outer(others_so_far[:, -1], loss)


def single_requests(
    rng: np.random.Generator, n: int, share: float, stable: float, candidate: float
) -> tuple[int, int, int, int]:
    """``n`` single requests; one uniform number decides role and event of each.

    share: of the candidate. stable, candidate: chance of an event in a request of the
    role. Returns (requests, events) of the stable role, then of the candidate.
    """
    bounds = (share * candidate, share, share + (1 - share) * stable)
    below = [0, 0, 0]
    piece = np.empty(PIECE)
    for start in range(0, n, PIECE):
        drawn = piece[: min(PIECE, n - start)]
        rng.random(out=drawn)
        for place, bound in enumerate(bounds):
            below[place] += np.count_nonzero(drawn < bound)
    candidate_events, candidate_requests, up_to = below
    return (
        n - candidate_requests,
        up_to - candidate_requests,
        candidate_requests,
        candidate_events,
    )
