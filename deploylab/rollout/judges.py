"""Judges: a verdict is a function of the measurements, and of nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import floor, inf

import numpy as np
from scipy import stats
from scipy.special import logsumexp

from deploylab.rollout.drift import PredictionDrift
from deploylab.rollout.kayenta import MannWhitney
from deploylab.rollout.known_rates import SPRT, ExactBinomial
from deploylab.rollout.model import Judgement, Measurement, Verdict
from deploylab.rollout.pairs import McNemar

__all__ = [
    "SPRT",
    "ExactBinomial",
    "FixedSample",
    "MannWhitney",
    "McNemar",
    "PredictionDrift",
    "SplitEProcess",
    "Threshold",
    "sample_ratio_p",
]

Share = float | np.ndarray
#: Chance at which a sample-ratio check gives a false alarm, per look.
RATIO_ALARM = 1e-6


#: What a window without enough requests means: it is not judged; it is a failed one; a
#: good one; or an error, of which only so many in a row are borne.
NO_DATA = ("skip", "fail", "pass", "error")


@dataclass(frozen=True)
class Threshold:
    """Compare the candidate's events with a limit, window by window.

    limit: the largest share of requests that may count as events, from 0 to 1.
    failures: how many windows may exceed it; one more fails. at_least: requests that a
    window needs to be judged. window_s: length of a window in seconds. within: of how
    many windows, the last ones, failures are counted; None for all.
    no_data: what a window with fewer requests means, see NO_DATA; "skip" asks that one
    window under the present share is judged, or the verdict is ERROR. errors: with
    "error", how many such windows in a row are borne; one more is an ERROR.

    Windows follow each other without a gap while the share stays as it is; an answer
    that comes late, of a share that is over, counts in the present window. A window
    fails if its events exceed ``floor(limit * requests)``: what "a success rate of at
    least 1 - limit" means when requests are counted.

    ``argo``, ``flagger`` and ``sagemaker`` have the rules of these engines. A Gate asks
    no judge as long as the candidate has had no request at all: to see what an engine
    makes of that, ask the judge itself.
    """

    limit: float
    failures: int = 0
    at_least: int = 1
    window_s: float = 0.0
    no_data: str = "skip"
    errors: int = 4
    within: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.limit < 1:
            raise ValueError(
                f"a limit is a share of requests, from 0 to 1, not {self.limit}; for "
                "1 % write 0.01"
            )
        if self.no_data not in NO_DATA:
            raise ValueError(
                f"no_data is one of {', '.join(NO_DATA)}, not {self.no_data!r}"
            )
        if self.within is not None and self.within <= self.failures:
            raise ValueError(
                f"of the last {self.within} windows {self.failures + 1} never fail, so "
                "nothing would; count failures within more windows"
            )

    @classmethod
    def argo(
        cls,
        limit: float,
        *,
        window_s: float,
        failure_limit: int = 0,
        consecutive_error_limit: int = 4,
    ) -> Threshold:
        """A metric of an AnalysisTemplate of Argo Rollouts, with Argo's defaults.

        It fails once ``failed > failureLimit``: with 3 it takes four failures, although
        the documentation says three. A measurement without data is an Error, and one
        more in a row than ``consecutiveErrorLimit`` ends the analysis; a measurement
        with data starts their count again. An analysis that ends before it has measured
        anything is Successful. argoproj/argo-rollouts, commit 9f8d111,
        ``analysis/analysis.go``, ``assessMetricStatus``.
        """
        return cls(
            limit,
            failure_limit,
            window_s=window_s,
            no_data="error",
            errors=consecutive_error_limit,
        )

    @classmethod
    def flagger(cls, limit: float, *, window_s: float, threshold: int = 1) -> Threshold:
        """A metric of a Canary of Flagger, with Flagger's defaults.

        It fails once ``failed checks >= threshold``, and 0 is taken for 1. A check
        without a value is a failed one, and a check that passes does not start the
        count again. Flagger acts on it one interval later, which is not the judge's.
        fluxcd/flagger, commit 15bd6ad5, ``pkg/controller/scheduler.go``.
        """
        return cls(limit, max(threshold, 1) - 1, window_s=window_s, no_data="fail")

    @classmethod
    def sagemaker(
        cls,
        limit: float,
        *,
        window_s: float,
        datapoints_to_alarm: int = 1,
        evaluation_periods: int = 1,
    ) -> Threshold:
        """An alarm of CloudWatch in the baking period of a SageMaker endpoint.

        It fails, and all traffic goes back, once ``datapoints_to_alarm`` of the last
        ``evaluation_periods`` windows exceed the limit. An alarm without data is in the
        state INSUFFICIENT_DATA and not in ALARM: so a version without any traffic
        passes. A single window without data is taken for a good one here, as with
        TreatMissingData notBreaching; by default CloudWatch looks further back. After
        the Amazon SageMaker Developer Guide, Auto-Rollback Configuration and
        Monitoring.
        """
        return cls(
            limit,
            datapoints_to_alarm - 1,
            window_s=window_s,
            no_data="pass",
            within=evaluation_periods,
        )

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """FAILED once too many windows failed; SUCCESSFUL once one was judged."""
        bad: list[bool] = []
        failed = judged = gaps = 0
        why = f"no window of this share has had {self.at_least} requests"
        for requests, events in self._windows(metric, measurements):
            if requests is None:  # another share
                judged = 0
                continue
            if requests < max(1, self.at_least):
                gaps += 1
                if self.no_data == "error" and gaps > self.errors:
                    return Judgement(Verdict.ERROR, f"{gaps} windows without data")
                bad.append(self.no_data == "fail")
                said = "a window without data"
            else:
                gaps = 0
                judged += 1
                allowed = self.allowed(requests)
                bad.append(events > allowed)
                said = f"{events} of {requests} in a window, {allowed} allowed"
            failed += bad[-1]
            if self.within and len(bad) > self.within:
                failed -= bad[-1 - self.within]
            why = said if bad[-1] else why
            if failed > self.failures:
                return Judgement(Verdict.FAILED, why)
        if not judged:
            if self.no_data in ("skip", "fail"):
                return Judgement(Verdict.ERROR, why)
            return Judgement(Verdict.SUCCESSFUL, "nothing measured, nothing failed")
        return Judgement(Verdict.SUCCESSFUL, f"{sum(bad)} of {judged} windows failed")

    def fails_at(self, requests: np.ndarray, events: np.ndarray) -> np.ndarray:
        """At which window it fails, from counts per window along the last axis.

        Shapes (..., windows), and (...) of the result: the place of the window, from 0;
        -1 if none is one too many. Whole windows only, as if under one share.
        """
        requests, events = np.broadcast_arrays(requests, events)
        full = requests >= max(1, self.at_least)
        bad = full & (events > np.floor(self.limit * requests + 1e-9))
        if self.no_data == "fail":
            bad |= ~full
        count = np.cumsum(bad, -1)
        if self.within:
            count[..., self.within :] -= np.cumsum(bad, -1)[..., : -self.within]
        too_many = count > self.failures
        return np.where(too_many.any(-1), too_many.argmax(-1), -1)

    def allowed(self, requests: int) -> int:
        """The most events that a window of so many requests may have."""
        # A limit of 0.29 and 100 requests allow 29, although 0.29 * 100 is less.
        return floor(self.limit * requests + 1e-9)

    def window_fails(self, requests: int, rate: float) -> float:
        """Chance that a window fails if each request is an event with chance `rate`.

        The upper tail of the binomial distribution.
        """
        return float(stats.binom.sf(self.allowed(requests), requests, rate))

    def _windows(
        self, metric: str, measurements: Sequence[Measurement]
    ) -> Iterator[tuple[int | None, int]]:
        """Requests and events of each that is full; None where the share changes."""
        share = start = None
        requests = events = 0
        seen_s = -inf
        for one in measurements:
            if one.share == 0:
                continue
            late = one.share != share and one.to_s <= seen_s
            seen_s = max(seen_s, one.to_s)
            if one.share != share and not late:
                share, start, requests, events = one.share, None, 0, 0
                yield None, 0
            start = one.from_s if start is None else start
            requests += one.candidate.requests
            events += one.candidate.events.get(metric, 0)
            if not late and one.to_s - start >= self.window_s - 1e-9:
                yield requests, events
                start, requests, events = None, 0, 0


@dataclass(frozen=True)
class SplitEProcess:
    """Whose events are they? A test that may be looked at after every request.

    If both versions are equally good at each moment, an event (an error, say) is the
    candidate's with chance w, its share of the traffic at that moment, whatever the
    level of traffic or of errors. For an alternative in which the candidate's rate is
    r times as high, the chance is s = r w / (r w + 1 - w). The e-value is the mean
    over ``ratios`` of the product of s / w for the candidate's events and
    (1 - s) / (1 - w) for the others; under equality it reaches 1 / alpha at any time
    with a chance of at most alpha (Ville's inequality). After Lindon and Malek,
    Anytime-Valid Inference for Multinomial Count Data (NeurIPS 2022). Each event counts
    as a draw of its own: of events with one cause, three may do for a verdict, so count
    users or connections where one of them makes several.

    alpha: chance of aborting a candidate that is no worse, by its events. ratios:
    alternatives that it looks for, each above 1. at_least: requests of the candidate's,
    under the present share, before it may be SUCCESSFUL, which means that nothing has
    been proved against it, and that enough was looked at.

    First the sample ratio is checked: if the requests did not divide as the router was
    told (chance of a false alarm 1e-6 a look), the verdict is FAILED. The events mean
    nothing then, so the candidate is not blamed; but a trial that measures nothing is
    not worth another user.
    """

    alpha: float = 0.01
    ratios: tuple[float, ...] = tuple(float(r) for r in np.geomspace(1.25, 20, 32))
    at_least: int = 100
    check_ratio: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is a chance between 0 and 1, not {self.alpha}")
        if not self.ratios or min(self.ratios) <= 1:
            raise ValueError("each ratio says how many times worse, so it is above 1")

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """FAILED if the e-value ever reached 1 / alpha, or the split is broken."""
        mixed = [m for m in measurements if 0 < m.share < 1]
        seen = sum(m.candidate.requests for m in mixed)
        if not seen:
            return Judgement(Verdict.ERROR, "no request while both had traffic")
        if self.check_ratio and (p := sample_ratio_p(mixed)) < RATIO_ALARM:
            return Judgement(
                Verdict.FAILED, f"the requests did not divide as told (p = {p:.0e})"
            )
        now = sum(m.candidate.requests for m in mixed if m.share == mixed[-1].share)
        values = self.e_values(metric, mixed)
        theirs = sum(m.stable.events.get(metric, 0) for m in mixed)
        mine = sum(m.candidate.events.get(metric, 0) for m in mixed)
        why = (
            f"e-value {values.max():.3g}, {mine} of {seen} against "
            f"{theirs} of {sum(m.stable.requests for m in mixed)}"
        )
        if values.max() >= 1 / self.alpha:
            return Judgement(Verdict.FAILED, why)
        if not now:
            return Judgement(Verdict.ERROR, "no request under the present share")
        if now >= self.at_least:
            return Judgement(Verdict.SUCCESSFUL, why)
        return Judgement(Verdict.INCONCLUSIVE, why)

    def e_values(self, metric: str, measurements: Sequence[Measurement]) -> np.ndarray:
        """The e-value after each measurement; all must have a share inside (0, 1)."""
        share = np.array([m.share for m in measurements])
        candidate = np.array([m.candidate.events.get(metric, 0) for m in measurements])
        stable = np.array([m.stable.events.get(metric, 0) for m in measurements])
        return self.e_paths(share, candidate, stable)

    def e_paths(
        self, share: np.ndarray, candidate: np.ndarray, stable: np.ndarray
    ) -> np.ndarray:
        """E-values along the last axis: events per tick of the two roles.

        share broadcasts against the counts; shapes (..., ticks). Returns the same
        shape. Computed in logarithms, so that many events overflow nothing.
        """
        share, candidate, stable = np.broadcast_arrays(share, candidate, stable)
        gain, loss = self.weights(share[..., None])
        steps = candidate[..., None] * gain - stable[..., None] * loss
        return self.mean_of(np.cumsum(steps, axis=-2))

    def weights(self, share: Share) -> tuple[np.ndarray, np.ndarray]:
        """What each ratio's logarithm gains by an event, and loses by one.

        It gains log(s / w) by one of the candidate's, and loses
        -log((1 - s) / (1 - w)) by one of stable's. share: w, with a last
        axis of length one if it is an array.
        """
        ratios = np.array(self.ratios)
        loss = np.log(ratios * share + 1 - share)
        return np.log(ratios) - loss, loss

    def mean_of(self, logs: np.ndarray) -> np.ndarray:
        """The e-value, from each ratio's logarithm along the last axis."""
        with np.errstate(over="ignore"):
            return np.exp(logsumexp(logs, axis=-1) - np.log(len(self.ratios)))


@dataclass(frozen=True)
class FixedSample:
    """Looks once, when both sides have so many requests, and compares the two rates.

    at_least: of each side, settled before. alpha: the chance to say so of a candidate
    that is no better (successful), or no worse (failed). Until then, and where neither
    is shown, it is inconclusive. It may not be asked again with more data: that is for
    a judge that allows it.

    The exact test of Fisher (1935), one-sided each way, from SciPy.
    """

    at_least: int
    alpha: float = 0.05

    def __post_init__(self) -> None:
        if self.at_least < 1:
            raise ValueError(
                f"at_least is the size of the sample, 1 or more, not {self.at_least}"
            )
        if not 0 < self.alpha < 0.5:
            raise ValueError(
                f"alpha is a chance above 0 and below a half, not {self.alpha}"
            )

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """Compare all requests so far, once there are enough."""
        table = []
        for these in (
            [one.candidate for one in measurements],
            [one.stable for one in measurements],
        ):
            requests = sum(one.requests for one in these)
            events = sum(one.events.get(metric, 0) for one in these)
            table.append([events, requests - events])
        (mine, rest), (others, others_rest) = table
        said = f"{mine} of {mine + rest} against {others} of {others + others_rest}"
        if min(mine + rest, others + others_rest) < self.at_least:
            return Judgement(Verdict.INCONCLUSIVE, f"{said}, too few yet")
        better, worse = (
            float(stats.fisher_exact(table, alternative=side).pvalue)
            for side in ("less", "greater")
        )
        said += f", p {min(better, worse):.3g}"
        if better <= self.alpha:
            return Judgement(Verdict.SUCCESSFUL, said)
        return Judgement(
            Verdict.FAILED if worse <= self.alpha else Verdict.INCONCLUSIVE, said
        )


def sample_ratio_p(measurements: Sequence[Measurement]) -> float:
    """Chance of a division as uneven as this one, if the router did as it was told.

    The exact binomial test, both tails, for the requests under each share; of several
    shares the smallest chance counts, times their number (Bonferroni).
    """
    requests: dict[float, int] = defaultdict(int)
    mine: dict[float, int] = defaultdict(int)
    for one in measurements:
        requests[one.share] += one.stable.requests + one.candidate.requests
        mine[one.share] += one.candidate.requests
    chances = [1.0]
    for share, n in requests.items():
        law = stats.binom(n, share)
        tail = min(law.cdf(mine[share]), law.sf(mine[share] - 1))
        chances.append(float(2 * tail * len(requests)))
    return min(chances)
