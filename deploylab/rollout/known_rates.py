"""Judges of the candidate alone, against rates that were settled before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log

import numpy as np
from scipy import stats

from deploylab.rollout.model import Judgement, Measurement, Verdict


@dataclass(frozen=True)
class ExactBinomial:
    """Is the candidate's rate above a limit? Looks once, at its first requests.

    limit: the rate that a good candidate has at most, from 0 to 1. at_least: size of
    the sample, in requests. alpha: largest chance to fail a candidate at the limit.

    The exact one-sided test of Clopper and Pearson (1934): it fails if so many events
    or more have a chance of at most alpha at the limit. Else it is SUCCESSFUL, which
    says that nothing was proved, and ``power`` says what would have been. Later
    requests are not looked at, so it may be asked again and again.
    """

    limit: float
    at_least: int
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ValueError(
                f"a limit is a share of requests, between 0 and 1, not {self.limit}; "
                "for 1 % write 0.01"
            )
        _check_size(self.at_least)
        _check_chance(alpha=self.alpha)

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """INCONCLUSIVE until there are enough requests; then for good what it is."""
        requests = events = 0
        for one in measurements:
            requests += one.candidate.requests
            events += one.candidate.events.get(metric, 0)
            if requests >= self.at_least:
                break
        if not requests:
            return Judgement(Verdict.ERROR, "no request of the candidate's")
        if requests < self.at_least:
            return Judgement(
                Verdict.INCONCLUSIVE, f"{requests} of {self.at_least} requests as yet"
            )
        p = float(stats.binom.sf(events - 1, requests, self.limit))
        failed = p <= self.alpha
        return Judgement(
            Verdict.FAILED if failed else Verdict.SUCCESSFUL,
            f"{events} of {requests}, p {p:.3g}",
        )

    def fails_at(self, requests: int | np.ndarray) -> np.ndarray:
        """The least number of events that fails so many requests; shapes alike."""
        requests = np.asarray(requests)
        # ppf(1 - alpha) has a tail of at most alpha above it, but it is a float's 1.
        events = stats.binom.isf(self.alpha, requests, self.limit).astype(int) + 1
        fits = stats.binom.sf(events - 2, requests, self.limit) <= self.alpha
        return np.where(fits, events - 1, events)

    def power(self, rate: float | np.ndarray) -> np.ndarray:
        """Chance that a candidate with this rate fails, at a sample of ``at_least``."""
        return stats.binom.sf(self.fails_at(self.at_least) - 1, self.at_least, rate)


@dataclass(frozen=True)
class SPRT:
    """Wald's sequential probability ratio test: is the rate the good or the bad one?

    good, bad: the two rates, from 0 to 1. alpha: about the chance to fail a candidate
    at the good rate; beta: about the chance to pass one at the bad rate. It adds up
    ``log(bad / good)`` for each event and ``log((1 - bad) / (1 - good))`` for each
    other request; FAILED once the sum reaches ``log((1 - beta) / alpha)``, SUCCESSFUL
    once it falls to ``log(beta / (1 - alpha))``. Between the two it is INCONCLUSIVE.

    Wald, Sequential tests of statistical hypotheses, Ann. Math. Stat. 16 (1945),
    117-186. ``alpha`` and ``beta`` hold approximately, because the sum jumps over its
    bounds; ``exact`` has the chances. The sum is looked at at the end of each
    measurement, and the first bound that it reaches decides for good.
    """

    good: float
    bad: float
    alpha: float = 0.05
    beta: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.good < self.bad < 1:
            raise ValueError(
                "good and bad are rates between 0 and 1, and the bad one is higher; "
                f"they are {self.good} and {self.bad}"
            )
        _check_chance(alpha=self.alpha, beta=self.beta)
        if self.alpha + self.beta >= 1:
            raise ValueError(
                f"alpha and beta together are below 1, not {self.alpha + self.beta:g}"
            )

    @cached_property
    def gain(self) -> float:
        """What the sum gains by an event."""
        return log(self.bad / self.good)

    @cached_property
    def loss(self) -> float:
        """What it loses by another request, above 0."""
        return -log((1 - self.bad) / (1 - self.good))

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The lower bound, of success, and the upper one, of failure."""
        return log(self.beta / (1 - self.alpha)), log((1 - self.beta) / self.alpha)

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """The verdict of the first bound that was reached."""
        requests = np.array([one.candidate.requests for one in measurements])
        events = np.array([one.candidate.events.get(metric, 0) for one in measurements])
        if not requests.sum():
            return Judgement(Verdict.ERROR, "no request of the candidate's")
        sums = self.sums(requests, events)
        low, high = self.bounds
        outside = np.flatnonzero((sums <= low) | (sums >= high))
        at = int(outside[0]) if outside.size else len(sums) - 1
        said = (
            f"{sums[at]:.3g} after {events[: at + 1].sum()} of "
            f"{requests[: at + 1].sum()}, bounds {low:.3g} and {high:.3g}"
        )
        if not outside.size:
            return Judgement(Verdict.INCONCLUSIVE, said)
        failed = sums[at] >= high
        return Judgement(Verdict.FAILED if failed else Verdict.SUCCESSFUL, said)

    def sums(self, requests: np.ndarray, events: np.ndarray) -> np.ndarray:
        """The sum after each tick, from counts per tick along the last axis."""
        return np.cumsum(events * (self.gain + self.loss) - requests * self.loss, -1)

    def exact(
        self, rate: float, longest: int = 100_000, left: float = 1e-12
    ) -> tuple[float, float]:
        """Chance to fail, and mean number of requests, looked at after every request.

        rate: of the candidate. By a dynamic programme over the number of events: exact,
        but for what is undecided when its chance is below ``left``. Raises ValueError
        if that is not so after ``longest`` requests.
        """
        low, high = self.bounds
        most = ceil((high + longest * self.loss) / (self.gain + self.loss)) + 1
        alive = np.zeros(min(most, longest + 1) + 2)
        alive[0] = 1.0
        first, last = 0, 0  # the numbers of events that are still possible
        failed = mean = 0.0
        for n in range(1, longest + 1):
            inside = alive[first : last + 1]
            mean += float(inside.sum())
            moved = np.zeros(last - first + 2)
            moved[:-1] = inside * (1 - rate)
            moved[1:] += inside * rate
            events = np.arange(first, last + 2)
            total = events * self.gain - (n - events) * self.loss
            failed += float(moved[total >= high].sum())
            moved[(total >= high) | (total <= low)] = 0.0
            keep = np.flatnonzero(moved)
            if not keep.size or moved.sum() < left:
                return failed, mean
            alive[first : last + 2] = moved
            first, last = first + int(keep[0]), first + int(keep[-1])
        raise ValueError(
            f"after {longest} requests {alive[first : last + 1].sum():.2g} of all "
            "cases are undecided; allow more with longest, or take rates further apart"
        )


def _check_size(at_least: int) -> None:
    if at_least < 1:
        raise ValueError(
            f"at_least is the size of the sample, 1 or more, not {at_least}"
        )


def _check_chance(**chances: float) -> None:
    for name, chance in chances.items():
        if not 0 < chance < 1:
            raise ValueError(f"{name} is a chance between 0 and 1, not {chance}")
