"""The judge of predictions: does the candidate answer as the stable version does?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from deploylab.rollout.model import Judgement, Measurement, Verdict
from deploylab.rollout.samples import first_sample


@dataclass(frozen=True)
class PredictionDrift:
    """Do the predictions of the two versions fall into the same bins, as often?

    at_least: requests of each role that it looks at, settled before. alpha: chance to
    fail a candidate that predicts alike. bins: the metrics that count a bin each, as in
    ``("score 0", "score 1", ...)``; requests in none of them are one bin more. Without
    bins there are two, the requests that count as the gate's metric, and the others.
    allowed: a population stability index that does no harm, and is not failed.

    The index, ``sum((p - q) * log(p / q))`` over the bins, is never 0, also of one
    version against itself: with n and m requests in B bins it is about ``(1 / n + 1 /
    m)`` times a chi-square of B - 1 degrees of freedom. So a limit of 0.1 for all sizes
    fails every third healthy version at 200 requests and 10 bins, and sees nothing at a
    million. Here the limit is a quantile of that law (Yurdakul and Naranjo, Statistical
    properties of the population stability index, J. Risk Model Valid. 14, 2020), of the
    non-central one if some drift is allowed. It takes five requests that are expected
    in each bin; with fewer it is INCONCLUSIVE.

    SUCCESSFUL says that no drift was shown, and not that the answers are right: two
    versions that predict alike may be wrong in different places. It looks at the first
    requests only, so it may be asked again and again.
    """

    at_least: int
    alpha: float = 0.01
    bins: tuple[str, ...] = ()
    allowed: float = 0.0

    def __post_init__(self) -> None:
        if self.at_least < 1:
            raise ValueError(
                f"at_least is the size of the sample, 1 or more, not {self.at_least}"
            )
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is a chance between 0 and 1, not {self.alpha}")
        if self.allowed < 0:
            raise ValueError(f"allowed is an index, 0 or more, not {self.allowed}")

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """Compare the bins, once both roles have had enough requests."""
        sample = first_sample(measurements, self.at_least)
        if sample is None:
            seen = sum(one.candidate.requests for one in measurements)
            if not seen:
                return Judgement(Verdict.ERROR, "no request of the candidate's")
            return Judgement(
                Verdict.INCONCLUSIVE, f"{seen} of {self.at_least} requests as yet"
            )
        names = self.bins or (metric,)
        rows = []
        for counts in sample:
            inside = [counts.events.get(name, 0) for name in names]
            rows.append([*inside, counts.requests - sum(inside)])
        table = np.array(rows)
        if table.min() < 0:
            return Judgement(
                Verdict.ERROR, "a request counts in two bins, so they are no bins"
            )
        table = table[:, table.sum(0) > 0]
        if table.shape[1] < 2:
            return Judgement(Verdict.SUCCESSFUL, "all predictions are in one bin")
        sizes = table.sum(1)
        expected = sizes.min() * table.sum(0).min() / sizes.sum()
        if expected < 5:
            return Judgement(
                Verdict.INCONCLUSIVE,
                f"a bin expects {expected:.2g} requests, and it takes 5; join bins",
            )
        found = float(index(table[0], table[1]))
        limit = float(self.limit(int(sizes[0]), int(sizes[1]), table.shape[1]))
        said = f"index {found:.3g} in {table.shape[1]} bins, limit {limit:.3g}"
        return Judgement(Verdict.FAILED if found > limit else Verdict.SUCCESSFUL, said)

    def limit(self, n: int, m: int, bins: int) -> np.ndarray:
        """The index that fails n requests against m in so many bins."""
        return null_quantile(n, m, bins, 1 - self.alpha, self.allowed)


def index(mine: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The population stability index of counts per bin, along the last axis.

    Where a bin is empty on a side, half a request is added to each bin of that row, on
    both sides: the index would be infinite.
    """
    mine, others = np.broadcast_arrays(np.asarray(mine, float), others)
    gap = ((mine == 0) | (others == 0)).any(-1, keepdims=True)
    mine, others = mine + 0.5 * gap, others + 0.5 * gap
    p = mine / mine.sum(-1, keepdims=True)
    q = others / others.sum(-1, keepdims=True)
    return ((p - q) * np.log(p / q)).sum(-1)


def null_quantile(
    n: int, m: int, bins: int, level: float, allowed: float = 0.0
) -> np.ndarray:
    """The index that one version against itself stays below with this chance.

    n, m: requests of the two sides. allowed: the index of what is compared, if it is
    not the same. By the chi-square law.
    """
    scale = 1 / n + 1 / m
    if allowed:
        return scale * stats.ncx2.ppf(level, bins - 1, allowed / scale)
    return scale * stats.chi2.ppf(level, bins - 1)


def chance_above(limit: float, n: int, m: int, bins: int) -> float:
    """Chance that one version against itself has an index above a limit."""
    return float(stats.chi2.sf(limit / (1 / n + 1 / m), bins - 1))


def simulated_indices(
    n: int, m: int, shares: Sequence[float], draws: int, rng: np.random.Generator
) -> np.ndarray:
    """Indices of one version against itself, for bins of these shares; shape (draws,).

    The second route to the law above, and the better one where bins are small.
    """
    mine, others = (rng.multinomial(size, shares, draws) for size in (n, m))
    return index(mine, others)
