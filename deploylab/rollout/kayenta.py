"""The judge of Kayenta: two series of a metric, compared by their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from deploylab.rollout.model import Judgement, Measurement, Verdict
from deploylab.rollout.samples import series


@dataclass(frozen=True)
class MannWhitney:
    """Is the candidate's metric higher, window by window, than the stable role's?

    window_s: length of a window in seconds, one point each. at_least: points of each
    role that it looks at, the first so many; until then it is INCONCLUSIVE. tolerance:
    how much of the estimated shift the interval must lie above. confidence: of the
    interval. increase: least ratio of the two means that matters.

    After NetflixACAJudge-v1.0 of spinnaker/kayenta, commit a69573b: points without data
    are left out; equal series pass; the metric is High, and the verdict FAILED, if the
    lower end of the interval for the shift lies above ``tolerance`` times the size of
    the Hodges-Lehmann estimate, and the ratio of the means reaches ``increase``. With
    no point at all on a side it is ERROR (Nodata). Kayenta's tolerance is 0.25 and its
    confidence 0.98: for a normal shift that is a z of 2.3263 / 0.75 = 3.10, so a level
    of 0.00096 to this one side, and not 0.01. Outliers are kept, as by default there.

    Kayenta judges whatever points it has. Its documentation advises fifty a run, and a
    baseline of the canary's own size: shares of more requests are spread less, so that
    equal rates are then no equal series. Given an interval, Spinnaker judges at each
    and ends at the first bad score, which is peeking. Here a number of points is the
    end, so it may be asked again and again. But points count as independent, and those
    of one server are not: with a correlation of 0.8 from one to the next it blames
    every seventh healthy version. It is here for comparison.
    """

    window_s: float
    at_least: int = 50
    tolerance: float = 0.25
    confidence: float = 0.98
    increase: float = 1.0

    def __post_init__(self) -> None:
        if self.window_s <= 0 or self.at_least < 2:
            raise ValueError(
                "window_s is above 0 s and at_least is 2 points or more; they are "
                f"{self.window_s} and {self.at_least}"
            )
        if not 0 < self.confidence < 1 or self.tolerance < 0:
            raise ValueError(
                "confidence is between 0 and 1, and tolerance 0 or more; they are "
                f"{self.confidence} and {self.tolerance}"
            )

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """FAILED if the candidate's points are High, SUCCESSFUL if they are not."""
        both = series(metric, measurements, self.window_s)
        seen = np.cumsum(~np.isnan(both), axis=1).min(axis=0)
        end = 1 + int(np.searchsorted(seen, self.at_least))
        mine, others = (side[:end][~np.isnan(side[:end])] for side in both)
        said = f"{len(mine)} points against {len(others)}"
        if not min(len(mine), len(others)):
            return Judgement(Verdict.ERROR, said)
        if min(len(mine), len(others)) < self.at_least:
            return Judgement(Verdict.INCONCLUSIVE, f"{said}, too few yet")
        high = bool(self.high(mine, others))
        low, shift, top = (float(end) for end in self.interval(mine, others))
        said += f", shift {shift:.3g}, from {low:.3g} to {top:.3g}"
        return Judgement(Verdict.FAILED if high else Verdict.SUCCESSFUL, said)

    def high(self, mine: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Whether the first series is High; points along the last axis, no NaN."""
        low, shift, _ = self.interval(mine, others)
        enough = mine.mean(-1) >= self.increase * others.mean(-1)
        return (low > self.tolerance * np.abs(shift)) & enough

    def interval(
        self, mine: np.ndarray, others: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The interval for the shift: its lower end, the estimate, its upper end.

        mine, others: shapes (..., m) and (..., n); the results have the shape (...).

        The one of R's ``wilcox.test(exact=FALSE, correct=TRUE)``, which Kayenta ports:
        R and Kayenta look for the roots of a function that has steps at the differences
        of a point and a point; here the step is picked from the sorted differences. The
        estimate is their median (Hodges and Lehmann 1963).
        """
        m, n = mine.shape[-1], others.shape[-1]
        differences = mine[..., :, None] - others[..., None, :]
        differences = np.sort(differences.reshape(*differences.shape[:-2], m * n), -1)
        ties = (_ties(mine) + _ties(others)) / ((m + n) * (m + n - 1))
        sigma = np.sqrt(m * n / 12 * (m + n + 1 - ties))
        z = stats.norm.isf((1 - self.confidence) / 2)
        # So many differences above a shift, or more, are too many for that shift.
        above = np.floor(m * n / 2 + z * sigma + 0.5).astype(int)
        above = np.minimum(above, m * n - 1)
        low = np.take_along_axis(differences, (m * n - 1 - above)[..., None], -1)
        top = np.take_along_axis(differences, above[..., None], -1)
        return low[..., 0], np.median(differences, -1), top[..., 0]


def _ties(points: np.ndarray) -> np.ndarray:
    """Sum of t^3 - t over the groups of t equal points, along the last axis."""
    equal = (points[..., :, None] == points[..., None, :]).sum(-1)
    return (equal**2 - 1.0).sum(-1)
