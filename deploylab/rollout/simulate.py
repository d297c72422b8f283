"""Simulated environments: exact in law, from sufficient statistics or single requests.

A version is described by what its requests do: how often each metric's event happens.
Per tick, the requests of a role are a binomial share of the tick's Poisson number, and
its events a binomial share of them; that is the same in law as drawing each request,
and does not take longer for more of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np

from deploylab.rollout.engine import StepFailed
from deploylab.rollout.judges import SplitEProcess
from deploylab.rollout.model import (
    CANDIDATE,
    MIRROR,
    PREVIEW,
    STABLE,
    Abort,
    Bake,
    Counts,
    Deploy,
    Drain,
    Measurement,
    Mirror,
    Preview,
    Promote,
    Retire,
    Shift,
    Step,
)
from deploylab.rollout.strategies import Canary

#: Single requests are drawn in pieces that stay in the processor's cache.
PIECE = 1 << 15


@dataclass
class Simulated:
    """An environment in which nothing runs.

    rates: for each role, the chance of each metric's event in one request; "differs",
    of the candidate, is a chance in one that both roles answer. requests_per_s: mean of
    the Poisson arrivals. tick_s: seconds between looks. size: of a whole group.

    deploy_s: what starting instances of a role takes; stop_s: what stopping them takes.
    ready_s: None, or for a candidate that never becomes ready, how long one waits.
    dies_after: requests after which the candidate is dead, None for never.

    both: for a metric, the chance that a request which both roles answer, in a mirror
    or a preview, is an event of both; left out, the two are independent. population:
    number of users, each as busy as any other; then every request is drawn for itself,
    with its user, and users are counted. Without it they are not.
    """

    rates: Mapping[str, Mapping[str, float]]
    requests_per_s: float
    rng: np.random.Generator
    tick_s: float = 1.0
    deploy_s: float = 0.0
    stop_s: float = 0.0
    ready_s: float | None = None
    dies_after: float = inf
    size: int = 1
    both: Mapping[str, float] = field(default_factory=dict)
    population: int | None = None
    now_s: float = 0.0
    share: float = 0.0

    def __post_init__(self) -> None:
        self.instances = {STABLE: self.size, CANDIDATE: 0}
        self._mirror, self._sticky, self._answered = 0.0, False, 0
        self._died = False
        self._untold: list[Measurement] = []
        for metric, chance in self.both.items():
            p, q = (self.rates[role].get(metric, 0.0) for role in (CANDIDATE, STABLE))
            least, most = max(0.0, p + q - 1), min(p, q)
            if not least - 1e-9 <= chance <= most + 1e-9:
                raise ValueError(
                    f"both roles cannot have {metric} in {chance:g} of the requests: "
                    f"with rates of {p:g} and {q:g} it is between {least:g} and "
                    f"{most:g}"
                )
        if self.population is not None:
            self._places = self.rng.random(self.population)
            self._known = np.zeros(self.population, bool)

    def do(self, step: Step) -> list[Measurement]:
        """Change the split, or let time pass; the traffic goes on meanwhile."""
        match step:
            case Bake(until_s):
                self._pass(until_s, ticks=1)
            case Deploy(role, to):
                if role == CANDIDATE and self.ready_s is not None:
                    self._pass(self.now_s + self.ready_s)
                    raise StepFailed(f"it was not ready within {self.ready_s:g} s")
                self._pass(self.now_s + self.deploy_s)
                self._look()
                self.instances[role] = self.size if to is None else to
            case Retire(role, to):
                self.instances[role] = to
                self._pass(self.now_s + self.stop_s)
            case Shift(split):
                self.share, self._sticky = split.candidate, split.sticky
            case Mirror(share):
                self._mirror = share
            case Preview(requests):
                self._preview(requests)
            case Abort(at_once=at_once):
                if at_once or not self.instances[CANDIDATE]:
                    self.share, self._mirror = 0.0, 0.0
            case Promote():
                if not self.instances[CANDIDATE]:
                    raise StepFailed("there is no candidate that lives")
                self.rates = {**self.rates, STABLE: self.rates[CANDIDATE]}
                self.instances = {STABLE: self.instances[CANDIDATE], CANDIDATE: 0}
                self.share = 0.0
        if not isinstance(step, Abort | Drain | Retire | Promote):
            self._look()
        told, self._untold = self._untold, []
        return told

    def _look(self) -> None:
        """Raise StepFailed if the candidate has died and somebody needs it."""
        if self._died and (self.share or self._mirror):
            self._died = False
            raise StepFailed("candidate: it has died")

    def _pass(self, until_s: float, ticks: float = inf) -> None:
        """Let time pass until then, or for so many ticks if they end before."""
        while self.now_s < until_s - 1e-9 and ticks > 0:
            start, self.now_s = self.now_s, min(self.now_s + self.tick_s, until_s)
            ticks -= 1
            arrived = self.rng.poisson(self.requests_per_s * (self.now_s - start))
            if self.population is None:
                mine = int(self.rng.binomial(arrived, self.share))
                counts = {
                    STABLE: self._counts(STABLE, int(arrived) - mine),
                    CANDIDATE: self._counts(CANDIDATE, mine),
                }
            else:
                counts = self._single(int(arrived))
            span = (start, self.now_s)
            self._untold.append(
                Measurement(*span, self.share, counts[STABLE], counts[CANDIDATE])
            )
            if self._mirror:
                self._copies(span, counts[STABLE].requests)
            alive = self.instances[CANDIDATE] > 0
            self._answered += counts[CANDIDATE].requests
            if alive and self._answered >= self.dies_after:
                self.instances[CANDIDATE] = 0
                self._died = True

    def _chances(self, role: str) -> dict[str, float]:
        """The chance of each event; nobody there to answer makes each one lost."""
        if not self.instances[role]:
            return dict.fromkeys(self.rates[role], 0.0) | {"errors": 1.0, "lost": 1.0}
        return {m: p for m, p in self.rates[role].items() if m != "differs"}

    def _counts(self, role: str, requests: int) -> Counts:
        chances = self._chances(role)
        events = {m: int(self.rng.binomial(requests, p)) for m, p in chances.items()}
        return Counts(requests, events)

    def _preview(self, requests: int) -> None:
        """As many requests a second as users send."""
        start = self.now_s
        self._pass(start + requests / self.requests_per_s)
        self._pairs((start, self.now_s), requests, PREVIEW)

    def _copies(self, span: tuple[float, float], requests: int) -> None:
        pairs = int(self.rng.binomial(requests, self._mirror))
        self._answered += pairs
        self._pairs(span, pairs, MIRROR)

    def _pairs(self, span: tuple[float, float], pairs: int, of: str) -> None:
        """Requests that are each answered by both roles."""
        mine, others = self._chances(CANDIDATE), self._chances(STABLE)
        events: dict[str, dict[str, int]] = {STABLE: {}, CANDIDATE: {}}
        for metric in mine.keys() | others.keys():
            p, q = mine.get(metric, 0.0), others.get(metric, 0.0)
            both = self.both.get(metric, p * q)
            if not all(self.instances.values()):
                both = p * q  # nobody is there, whatever the request
            law = np.clip((both, p - both, q - both, 1 - p - q + both), 0, 1)
            two, only, other, _ = (int(n) for n in self.rng.multinomial(pairs, law))
            events[CANDIDATE] |= {metric: two + only, f"{metric} alone": only}
            events[STABLE] |= {metric: two + other, f"{metric} alone": other}
        differs = self.rates[CANDIDATE].get("differs", 0.0)
        events[CANDIDATE]["differs"] = int(self.rng.binomial(pairs, differs))
        counts = [Counts(pairs, events[role]) for role in (STABLE, CANDIDATE)]
        self._untold.append(Measurement(*span, 0.5, *counts, of=of))

    def _single(self, requests: int) -> dict[str, Counts]:
        """Single requests of users, each of whom is on one side if that is sticky."""
        users = self.rng.integers(self.population, size=requests)
        drawn = self._places[users] if self._sticky else self.rng.random(requests)
        mine = drawn < self.share
        first = np.zeros(requests, bool)
        first[np.unique(users, return_index=True)[1]] = True
        first &= ~self._known[users] & (self.share > 0)
        self._known[users[first]] = True
        counts = {}
        for role, here in ((STABLE, ~mine), (CANDIDATE, mine)):
            events, user_events = {}, {}
            for metric, chance in self._chances(role).items():
                hit = here & (self.rng.random(requests) < chance)
                events[metric] = int(hit.sum())
                user_events[metric] = int((hit & first).sum())
            n, n_first = int(here.sum()), int((here & first).sum())
            counts[role] = Counts(n, events, n_first, user_events)
        return counts


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
    aborted = np.zeros(n, bool)
    ended_s = np.zeros(n)
    exposed = np.zeros(n, int)
    evidence = [np.zeros((n, len(judge.ratios))) for judge in judges]
    for share, bake_s in zip(strategy.shares, strategy.bakes_s, strict=True):
        ends_s = np.append(np.arange(tick_s, bake_s - 1e-9, tick_s), bake_s)
        ticks, lengths_s = ends_s.size, np.diff(ends_s, prepend=0.0)
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
