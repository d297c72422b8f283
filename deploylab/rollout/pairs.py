"""The judge of pairs: both versions were asked the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from scipy import stats

from deploylab.rollout.model import MIRROR, PREVIEW, Judgement, Measurement, Verdict
from deploylab.rollout.samples import first_sample


@dataclass(frozen=True)
class McNemar:
    """Among the pairs in which the versions differ, whose are the events?

    pairs: how many it looks at, settled before. alpha: chance to say of a candidate
    that is no worse that it is (failed), or of one that is no better that it is
    (successful). Until there are enough, and where neither is shown, it is
    inconclusive.

    It needs measurements of a mirror or a preview, and the counts ``"m alone"`` of the
    metric m: how often one role had the event and the other had not. If the versions
    are equally good, each of these is the candidate's with a chance of a half. Exact
    and one-sided each way (McNemar 1947, Psychometrika 12, with binomial tails). It
    looks at the first pairs only, so it may be asked again and again.
    """

    pairs: int
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise ValueError(
                f"pairs is the size of the sample, 1 or more, not {self.pairs}"
            )
        if not 0 < self.alpha < 0.5:
            raise ValueError(
                f"alpha is a chance above 0 and below a half, not {self.alpha}"
            )

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """Compare the pairs, once there are enough."""
        paired = [one for one in measurements if one.of in (MIRROR, PREVIEW)]
        if not any(one.candidate.requests for one in paired):
            return Judgement(
                Verdict.ERROR, "no pairs: both versions must be asked the same"
            )
        alone = metric if metric.endswith(" alone") else f"{metric} alone"
        sample = first_sample(paired, self.pairs)
        if sample is None:
            seen = sum(one.candidate.requests for one in paired)
            return Judgement(Verdict.INCONCLUSIVE, f"{seen} of {self.pairs} pairs yet")
        if not any(alone in counts.events for counts in sample):
            return Judgement(Verdict.ERROR, f"nobody counted {alone}")
        mine, others = (counts.events.get(alone, 0) for counts in sample)
        worse = float(self.p_worse(mine, others))
        better = float(self.p_worse(others, mine))
        said = (
            f"{mine} alone against {others} alone, p {min(worse, better):.3g} of "
            f"{sample[0].requests} pairs"
        )
        if worse <= self.alpha:
            return Judgement(Verdict.FAILED, said)
        successful = better <= self.alpha
        return Judgement(
            Verdict.SUCCESSFUL if successful else Verdict.INCONCLUSIVE, said
        )

    @staticmethod
    def p_worse(mine: int | np.ndarray, others: int | np.ndarray) -> np.ndarray:
        """Chance of so many of the candidate's or more, if both are equally good."""
        mine, others = np.asarray(mine), np.asarray(others)
        return stats.binom.sf(mine - 1, mine + others, 0.5)


def pairs_needed(
    difference: float, discordant: float, alpha: float = 0.05, power: float = 0.8
) -> int:
    """How many pairs show a difference of two rates, two-sided.

    difference: of the rates. discordant: share of the pairs in which the versions
    differ, at least the difference. The normal approximation of Miettinen (Biometrics
    24, 1968), as in Connor (Biometrics 43, 1987).
    """
    if not 0 < difference <= discordant <= 1:
        raise ValueError(
            "the difference is above 0 and at most the share of pairs that differ; "
            f"they are {difference} and {discordant}"
        )
    z_alpha, z_power = stats.norm.isf(alpha / 2), stats.norm.ppf(power)
    spread = z_alpha * sqrt(discordant) + z_power * sqrt(discordant - difference**2)
    return ceil((spread / difference) ** 2)
