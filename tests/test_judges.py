"""Judges: engines' own rules, exact tests, sequences, ranks, pairs and predictions.

Each figure is had by a second route: a published value, a rule written anew from the
engine's source, a sum over all cases, or a simulation with a fixed seed.
"""

from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from scipy import optimize, stats

from deploylab.rollout import Canary, Gate, Shadow, carry_out, drift, peeking
from deploylab.rollout.judges import (
    SPRT,
    ExactBinomial,
    MannWhitney,
    McNemar,
    PredictionDrift,
    Threshold,
)
from deploylab.rollout.model import MIRROR, USERS, Counts, Measurement, Verdict
from deploylab.rollout.pairs import pairs_needed
from deploylab.rollout.samples import first_sample, series
from deploylab.rollout.simulate import Simulated

F, S, I, E = (  # noqa: E741
    Verdict.FAILED,
    Verdict.SUCCESSFUL,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)


def measured(
    candidate: list[tuple[int, int]],
    stable: list[tuple[int, int]] | None = None,
    metric: str = "errors",
    of: str = USERS,
    share: float = 0.5,
) -> list[Measurement]:
    """One measurement a second, from (requests, events) of each role."""
    stable = stable or [(n, 0) for n, _ in candidate]
    return [
        Measurement(
            at,
            at + 1,
            share,
            Counts(*_counted(theirs, metric)),
            Counts(*_counted(mine, metric)),
            of=of,
        )
        for at, (mine, theirs) in enumerate(zip(candidate, stable, strict=True))
    ]


def _counted(counts: tuple[int, int], metric: str) -> tuple[int, dict[str, int]]:
    return counts[0], {metric: counts[1]}


# Thresholds, with the rules of the engines. Each rule is written anew from the source.

GOOD, BAD, NOTHING = (100, 0), (100, 2), (0, 0)


def argo_phase(windows, failure_limit: int, error_limit: int) -> Verdict | None:
    """assessMetricStatus of analysis.go, one by one; then the run is terminated."""
    failed = errors_in_a_row = 0
    for window in windows:
        if window == NOTHING:
            errors_in_a_row += 1
        else:
            errors_in_a_row = 0
            failed += window == BAD
        if failed > failure_limit:
            return F
        if errors_in_a_row > error_limit:
            return E
    return S


def flagger_phase(windows, threshold: int) -> bool:
    """advanceCanary of scheduler.go: whether the failed checks reach the threshold."""
    threshold = threshold if threshold > 0 else 1
    failed_checks = 0
    for window in windows:
        failed_checks += window in (BAD, NOTHING)
        if failed_checks >= threshold:
            return True
    return False


def alarm(windows, m: int, n: int) -> bool:
    """CloudWatch, M of the last N datapoints, once at least."""
    breaching = [window == BAD for window in windows]
    return any(
        sum(breaching[max(0, end - n) : end]) >= m for end in range(1, len(windows) + 1)
    )


ALL_WINDOWS = [
    windows
    for length in range(1, 7)
    for windows in itertools.product((GOOD, BAD, NOTHING), repeat=length)
]


@pytest.mark.parametrize(
    ("failure_limit", "error_limit"), list(itertools.product(range(4), range(3)))
)
def test_a_threshold_judges_as_argo_does(failure_limit, error_limit):
    judge = Threshold.argo(
        0.01,
        window_s=1,
        failure_limit=failure_limit,
        consecutive_error_limit=error_limit,
    )
    for windows in ALL_WINDOWS:
        verdict = judge.judge("errors", measured(list(windows))).verdict
        assert verdict is argo_phase(windows, failure_limit, error_limit), windows


@pytest.mark.parametrize("threshold", range(4))
def test_a_threshold_judges_as_flagger_does(threshold):
    judge = Threshold.flagger(0.01, window_s=1, threshold=threshold)
    for windows in ALL_WINDOWS:
        verdict = judge.judge("errors", measured(list(windows))).verdict
        assert (verdict is F) == flagger_phase(windows, threshold), windows


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 3), (2, 2), (2, 3), (3, 5)])
def test_a_threshold_judges_as_an_alarm_does(m, n):
    judge = Threshold.sagemaker(
        0.01, window_s=1, datapoints_to_alarm=m, evaluation_periods=n
    )
    for windows in ALL_WINDOWS:
        verdict = judge.judge("errors", measured(list(windows))).verdict
        assert verdict is (F if alarm(windows, m, n) else S), windows


def test_the_defaults_are_the_engines():
    assert Threshold.argo(0.01, window_s=60).errors == 4
    assert Threshold.argo(0.01, window_s=60).failures == 0
    assert Threshold.flagger(0.01, window_s=60).failures == 0
    assert Threshold.sagemaker(0.01, window_s=60).within == 1


def test_three_engines_make_three_things_of_no_data():
    """No data is not good data; only two of the three agree."""
    silence = measured([NOTHING] * 4)
    argo = Threshold.argo(0.01, window_s=1)
    assert argo.judge("errors", silence).verdict is S  # ended before it measured
    assert argo.judge("errors", measured([NOTHING] * 5)).verdict is E
    flagger = Threshold.flagger(0.01, window_s=1)
    assert flagger.judge("errors", silence).verdict is F
    sagemaker = Threshold.sagemaker(0.01, window_s=1)
    assert sagemaker.judge("errors", silence).verdict is S
    assert Threshold(0.01, window_s=1).judge("errors", silence).verdict is E


@pytest.mark.parametrize(
    "judge",
    [
        Threshold(0.01, window_s=1),
        Threshold(0.01, failures=2, window_s=1, at_least=50),
        Threshold(0.01, failures=1, window_s=1, within=3),
        Threshold.argo(0.01, window_s=1, failure_limit=1, consecutive_error_limit=99),
        Threshold.flagger(0.01, window_s=1, threshold=3),
        Threshold.sagemaker(
            0.01, window_s=1, datapoints_to_alarm=2, evaluation_periods=3
        ),
    ],
)
def test_many_rollouts_at_once_are_judged_as_one(judge):
    rng = np.random.default_rng(20)
    requests = rng.choice([0, 20, 100], (300, 8))
    events = rng.binomial(requests, 0.01)
    found = judge.fails_at(requests, events)
    for row in range(len(requests)):
        windows = list(zip(requests[row].tolist(), events[row].tolist(), strict=True))
        expected = -1
        for end in range(1, 9):
            if judge.judge("errors", measured(windows[:end])).verdict is F:
                expected = end - 1
                break
        assert found[row] == expected
    assert {-1} < set(found.tolist())  # some fail, and some do not


@pytest.mark.parametrize(
    ("judge", "requests", "rate", "expected"),
    [
        (Threshold.flagger(0.01, window_s=60), 200, 0.005, 0.564853),
        (Threshold.argo(0.01, window_s=60), 200, 0.005, 0.564853),
        (Threshold.argo(0.01, window_s=60, failure_limit=3), 200, 0.005, 0.00576),
        (Threshold.flagger(0.01, window_s=60, threshold=5), 200, 0.005, 0.00058),
        (Threshold.argo(0.01, window_s=60, failure_limit=3), 20, 0.02, 0.438165),
        (Threshold.flagger(0.01, window_s=60, threshold=5), 20, 0.02, 0.211204),
        (Threshold.flagger(0.01, window_s=60), 99, 0.002, 0.862204),
        (Threshold.flagger(0.01, window_s=60), 100, 0.002, 0.160919),
    ],
)
def test_how_often_ten_checks_fail(judge, requests, rate, expected):
    """The sum over the number of failed windows, and 100,000 rollouts (|z| < 5)."""
    q = judge.window_fails(requests, rate)
    exact = sum(
        comb(10, k) * q**k * (1 - q) ** (10 - k) for k in range(judge.failures + 1, 11)
    )
    assert exact == pytest.approx(expected, abs=6e-6)
    rng = np.random.default_rng(7)
    events = rng.binomial(requests, rate, (100_000, 10))
    share = (judge.fails_at(requests, events) >= 0).mean()
    assert abs(share - exact) < 5 * np.sqrt(exact * (1 - exact) / 100_000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"no_data": "ignore"}, "no_data is one of skip, fail, pass, error"),
        ({"failures": 2, "within": 2}, "count failures within more windows"),
    ],
)
def test_thresholds_that_make_no_sense(settings, said):
    with pytest.raises(ValueError, match=said):
        Threshold(0.01, **settings)


# Peeking.


@pytest.mark.parametrize(
    ("looks", "two_sided"),
    # Armitage, McPherson and Rowe (1969), table for the normal case, level 0.05.
    [
        (1, 0.05),
        (2, 0.083),
        (3, 0.107),
        (4, 0.126),
        (5, 0.142),
        (10, 0.193),
        (20, 0.248),
        (50, 0.320),
    ],
)
def test_looking_again_and_again_alarms(looks, two_sided):
    assert peeking.peeking(looks) == pytest.approx(two_sided, abs=5e-4)


@pytest.mark.parametrize(
    ("sides", "looks"), list(itertools.product((1, 2), (2, 5, 20)))
)
def test_peeking_as_simulated(sides, looks):
    """200,000 sums of normal increments; |z| < 5."""
    rng = np.random.default_rng(11)
    z = np.cumsum(rng.standard_normal((200_000, looks)), 1)
    z /= np.sqrt(np.arange(1, looks + 1))
    seen = (np.abs(z) if sides == 2 else z) >= stats.norm.isf(0.05 / sides)
    chance = peeking.peeking(looks, sides=sides)
    error = np.sqrt(chance * (1 - chance) / 200_000)
    assert abs(seen.any(1).mean() - chance) < 5 * error


def test_two_looks_are_a_double_integral():
    c = stats.norm.isf(0.025)
    both = stats.multivariate_normal(cov=[[1, np.sqrt(0.5)], [np.sqrt(0.5), 1]])
    inside = both.cdf([c, c], lower_limit=[-c, -c])
    assert peeking.peeking(2) == pytest.approx(1 - inside, abs=1e-6)


@pytest.mark.slow
def test_bounds_that_keep_the_level():
    """Pocock's and O'Brien and Fleming's published constants, for 5 and 10 looks."""
    assert peeking.pocock(5) == pytest.approx([2.413] * 5, abs=5e-4)
    assert peeking.pocock(10)[0] == pytest.approx(2.555, abs=5e-4)
    falling = peeking.obrien_fleming(5)
    assert falling[-1] == pytest.approx(2.040, abs=5e-4)
    assert falling[0] == pytest.approx(2.040 * np.sqrt(5), abs=2e-3)
    for bounds in (peeking.pocock(7, 0.01, 1), peeking.obrien_fleming(7, 0.01, 1)):
        assert peeking.chance_of_alarm(bounds, 1) == pytest.approx(0.01, abs=1e-9)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: peeking.peeking(0),
        lambda: peeking.pocock(0),
        lambda: peeking.pocock(3, alpha=0.5),
        lambda: peeking.chance_of_alarm([]),
        lambda: peeking.chance_of_alarm([2.0, -1.0]),
        lambda: peeking.chance_of_alarm([2.0], sides=3),
    ],
)
def test_looks_that_make_no_sense(wrong):
    with pytest.raises(ValueError):
        wrong()


def test_four_tests_of_one_table():
    """10 of 500 against 95 of 9500, as R and the textbooks have it."""
    assert float(peeking.pooled_z(10, 500, 95, 9500)) == pytest.approx(
        2.13818, abs=1e-5
    )
    assert float(peeking.split_p(10, 95, 0.05)) == pytest.approx(0.037677, abs=1e-6)
    exact = sum(comb(105, k) * 0.05**k * 0.95 ** (105 - k) for k in range(10, 106))
    assert float(peeking.split_p(10, 95, 0.05)) == pytest.approx(exact, abs=1e-12)
    assert peeking.pooled_z(np.array([0, 5]), 10, np.array([0, 5]), 10).tolist() == [
        0,
        0,
    ]


# Known rates.


def test_the_exact_test_of_one_sample():
    judge = ExactBinomial(0.01, 905)
    assert int(judge.fails_at(905)) == 15
    assert float(judge.power(0.01)) == pytest.approx(0.042283, abs=1e-6)
    assert float(judge.power(0.02)) == pytest.approx(0.801048, abs=1e-6)


def test_its_bound_is_the_least_that_keeps_the_level():
    for limit, alpha in itertools.product((0.001, 0.01, 0.3), (0.05, 0.01, 0.5)):
        judge = ExactBinomial(limit, 1, alpha)
        for n in (1, 2, 10, 99, 100, 1000):
            least = int(judge.fails_at(n))
            tails = stats.binom.sf(np.arange(-1, n + 1), n, limit)  # P(X >= 0 .. n + 1)
            assert least == int(np.flatnonzero(tails <= alpha)[0])


def test_it_fails_from_its_bound_on():
    judge = ExactBinomial(0.1, 40)
    least = int(judge.fails_at(40))
    for events in range(41):
        verdict = judge.judge("errors", measured([(40, events)])).verdict
        assert verdict is (F if events >= least else S)


def test_it_looks_once():
    judge = ExactBinomial(0.01, 100)
    early = measured([(60, 0), (60, 6)])
    assert judge.judge("errors", early[:1]).verdict is I
    assert judge.judge("errors", early).verdict is F
    later = measured([(60, 0), (60, 6), (10_000, 0)])
    assert judge.judge("errors", later).verdict is F
    assert judge.judge("errors", measured([(60, 0), (60, 1), (60, 60)])).verdict is S
    assert judge.judge("errors", measured([(0, 0)])).verdict is E


def test_the_sequential_test_against_the_dynamic_programme():
    judge = SPRT(0.01, 0.02)
    assert judge.bounds == pytest.approx((-1.55814, 2.77259), abs=1e-5)
    assert (judge.gain, judge.loss) == pytest.approx((0.69315, 0.01015), abs=5e-6)
    assert judge.exact(0.01) == pytest.approx((0.03961, 443.39), rel=1e-4)
    assert judge.exact(0.02) == pytest.approx((0.79889, 535.71), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_the_dynamic_programme_against_all_paths(rate):
    """The same test, 20,000 times, request by request; |z| < 5."""
    judge = SPRT(0.05, 0.2, 0.05, 0.1)
    rng = np.random.default_rng(3)
    events = (rng.random((20_000, 600)) < rate).astype(int)
    sums = judge.sums(np.ones_like(events), events)
    low, high = judge.bounds
    ended = (sums <= low) | (sums >= high)
    assert ended.any(1).all()
    at = ended.argmax(1)
    failed = sums[np.arange(len(sums)), at] >= high
    chance, mean = judge.exact(rate)
    assert abs(failed.mean() - chance) < 5 * np.sqrt(chance * (1 - chance) / 20_000)
    assert abs((at + 1).mean() - mean) < 5 * at.std() / np.sqrt(20_000)


def test_the_first_bound_decides_for_good():
    judge = SPRT(0.01, 0.02)
    passed = [(100, 0)] * 2
    assert judge.judge("errors", measured([(100, 0)])).verdict is I
    assert judge.judge("errors", measured(passed)).verdict is S
    assert judge.judge("errors", measured([*passed, (100, 90)])).verdict is S
    assert judge.judge("errors", measured([(10, 9), (9999, 0)])).verdict is F
    assert judge.judge("errors", measured([(0, 0)])).verdict is E


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ExactBinomial(0, 10),
        lambda: ExactBinomial(0.1, 0),
        lambda: ExactBinomial(0.1, 10, 1),
        lambda: SPRT(0.02, 0.01),
        lambda: SPRT(0, 0.01),
        lambda: SPRT(0.01, 0.02, alpha=0),
        lambda: SPRT(0.01, 0.02, alpha=0.5, beta=0.5),
        lambda: SPRT(0.01, 0.0101).exact(0.01, longest=100),
    ],
)
def test_rates_that_make_no_sense(wrong):
    with pytest.raises(ValueError):
        wrong()


# Ranks.


def kayenta_root(x: np.ndarray, y: np.ndarray, z: float) -> float:
    """What MannWhitney.scala looks for: where its statistic, less z, changes sign."""

    def statistic(shift: float) -> float:
        ranks = stats.rankdata(np.concatenate([x - shift, y]))
        _, ties = np.unique(ranks, return_counts=True)
        m, n = len(x), len(y)
        above = ranks[:m].sum() - m * (m + 1) / 2 - m * n / 2
        lost = (ties**3.0 - ties).sum() / ((m + n) * (m + n - 1))
        sigma = np.sqrt(m * n / 12 * (m + n + 1 - lost))
        return (above - np.sign(above) * 0.5) / sigma - z

    low, high = x.min() - y.max(), x.max() - y.min()
    if statistic(low) <= 0:
        return low
    if statistic(high) >= 0:
        return high
    return optimize.brentq(statistic, low, high, xtol=1e-12)


@pytest.mark.parametrize("decimals", [9, 1, 0])
def test_the_interval_is_kayentas(decimals):
    rng = np.random.default_rng(5)
    judge = MannWhitney(60)
    z = stats.norm.isf(0.01)
    for m, n in [(8, 8), (30, 30), (50, 35), (4, 60)]:
        x = np.round(rng.normal(10, 2, m), decimals)
        y = np.round(rng.normal(9, 2, n), decimals)
        low, shift, high = judge.interval(x, y)
        assert low == pytest.approx(kayenta_root(x, y, z), abs=1e-8)
        assert high == pytest.approx(kayenta_root(x, y, -z), abs=1e-8)
        assert low <= shift <= high
        assert shift == np.median(x[:, None] - y)
    # Equal points narrow it: those of one side stay equal at any shift.
    x, y = np.repeat([9.0, 10.0], [5, 25]), rng.normal(9, 2, 30)
    low, _, high = judge.interval(x, y)
    assert low == pytest.approx(kayenta_root(x, y, z), abs=1e-8)
    assert high == pytest.approx(kayenta_root(x, y, -z), abs=1e-8)
    # Too few points for any interval: it is as wide as it can be.
    x, y = np.array([1.0, 2.0]), np.array([0.0, 5.0])
    assert judge.interval(x, y)[::2] == (-4.0, 2.0)


def test_many_series_at_once_are_judged_as_one():
    rng = np.random.default_rng(6)
    x, y = rng.normal(11, 2, (40, 50)), rng.normal(10, 2, (40, 50))
    judge = MannWhitney(60)
    together = judge.high(x, y)
    assert together.tolist() == [
        bool(judge.high(a, b)) for a, b in zip(x, y, strict=True)
    ]
    assert 0 < together.sum() < 40


def test_what_is_high_and_what_passes():
    rng = np.random.default_rng(8)
    judge = MannWhitney(60)
    base = rng.normal(10, 2, 50)
    assert judge.high(rng.normal(20, 2, 50), base)
    assert not judge.high(rng.normal(10, 2, 50), base)
    assert not judge.high(base, rng.normal(20, 2, 50))  # lower is no harm
    assert not judge.high(base, base)
    assert not judge.high(np.full(50, 3.0), np.full(50, 3.0))
    higher = base + 3
    assert judge.high(higher, base)
    assert not MannWhitney(60, increase=2.0).high(higher, base)


@pytest.mark.slow
def test_its_level_is_not_its_confidence():
    """z must pass 2.3263 / 0.75: 0.00096 a side, and not 0.01 (20,000 times)."""
    rng = np.random.default_rng(9)
    level = stats.norm.sf(stats.norm.isf(0.01) / 0.75)
    assert level == pytest.approx(0.00096, abs=1e-5)
    judge = MannWhitney(60)
    alarms = sum(judge.high(*rng.normal(10, 1, (2, 1000, 50))).sum() for _ in range(20))
    assert abs(alarms - 20_000 * level) < 5 * np.sqrt(20_000 * level)
    assert alarms < 20_000 * 0.01 / 3


def test_points_that_hang_together_are_blamed():
    """A healthy version, 60 points with a correlation of 0.8: every seventh time.

    2,000 times, of which 0.14 is 287 give or take 16; |z| < 5.
    """
    rng = np.random.default_rng(10)
    noise = rng.standard_normal((2, 2000, 60))
    points = np.empty_like(noise)
    points[..., 0] = noise[..., 0]
    for at in range(1, 60):
        points[..., at] = 0.8 * points[..., at - 1] + 0.6 * noise[..., at]
    alarms = int(MannWhitney(60).high(*(points + 100)).sum())
    assert abs(alarms - 2000 / 7) < 5 * 16


def test_a_judgement_by_ranks():
    judge = MannWhitney(2, at_least=3)
    bad = measured([(50, 5), (50, 6)] * 10, [(50, 0), (50, 1)] * 10)
    assert judge.judge("errors", bad).verdict is F
    assert judge.judge("errors", bad[:4]).verdict is I
    first = judge.judge("errors", bad[:6])
    assert first.verdict is judge.judge("errors", bad + bad).verdict
    assert first == judge.judge("errors", bad)  # what comes later changes nothing
    assert judge.judge("errors", measured([(50, 1)] * 20, [(50, 1)] * 20)).verdict is S
    assert judge.judge("errors", measured([(0, 0)] * 20, [(50, 1)] * 20)).verdict is E
    assert judge.judge("errors", []).verdict is E
    for wrong in ({"window_s": 0}, {"window_s": 1, "at_least": 1}):
        with pytest.raises(ValueError, match="window_s is above 0 s"):
            MannWhitney(**wrong)
    with pytest.raises(ValueError, match="confidence is between 0 and 1"):
        MannWhitney(1, confidence=1)


def test_a_series_has_whole_windows():
    found = series("errors", measured([(10, 1), (10, 3), (0, 0), (0, 0), (5, 5)]), 2)
    assert found[0].tolist()[0] == 0.2
    assert np.isnan(found[0][1])
    assert len(found[0]) == len(found[1]) == 2


# Pairs.


def pairs(mine: int, others: int, n: int = 1000, name: str = "wrong alone"):
    return measured([(n, mine)], [(n, others)], metric=name, of=MIRROR)


def test_pairs_are_a_fair_coin():
    judge = McNemar(1000)
    for mine, others in itertools.product(range(30), repeat=2):
        p = stats.binomtest(mine, max(1, mine + others), 0.5, "greater").pvalue
        expected = p if mine + others else 1.0
        assert float(judge.p_worse(mine, others)) == pytest.approx(expected, abs=1e-12)


def test_a_judgement_of_pairs():
    judge = McNemar(1000)
    assert judge.judge("wrong", pairs(20, 5)).verdict is F
    assert judge.judge("wrong alone", pairs(20, 5)).verdict is F
    assert judge.judge("wrong", pairs(5, 20)).verdict is S
    assert judge.judge("wrong", pairs(12, 11)).verdict is I
    assert judge.judge("wrong", pairs(0, 0)).verdict is I
    assert judge.judge("wrong", pairs(20, 5, n=999)).verdict is I
    assert judge.judge("slow", pairs(20, 5)).verdict is E
    assert "nobody counted slow alone" in judge.judge("slow", pairs(20, 5)).why
    users = measured([(1000, 20)], [(1000, 5)], metric="wrong alone")
    assert judge.judge("wrong", users).verdict is E
    # What comes after the sample changes nothing.
    later = pairs(20, 5) + pairs(0, 900)
    assert judge.judge("wrong", later).verdict is F


@pytest.mark.slow
def test_asking_again_and_again_keeps_the_level_of_pairs():
    """1,000 healthy shadows, asked after each of 20 looks: at most alpha (|z| < 5)."""
    rng = np.random.default_rng(12)
    judge = McNemar(500, alpha=0.05)
    failed = 0
    for _ in range(1000):
        ticks = [
            measured([(50, m)], [(50, o)], metric="wrong alone", of=MIRROR)[0]
            for m, o in rng.binomial(50, 0.05, (20, 2)).tolist()
        ]
        verdicts = [
            judge.judge("wrong", ticks[:end]).verdict for end in (5, 10, 15, 20)
        ]
        failed += F in verdicts
    assert failed < 50 + 5 * np.sqrt(1000 * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("discordant", "expected"), [(0.04, 783), (0.06, 1175), (0.10, 1960)]
)
def test_how_many_pairs_it_takes(discordant, expected):
    n = pairs_needed(0.02, discordant)
    assert n == expected
    # By simulation, the two-sided normal test has that power (|z| < 5, and 2 % of its
    # own for the approximation).
    rng = np.random.default_rng(13)
    chances = [(discordant + 0.02) / 2, (discordant - 0.02) / 2, 1 - discordant]
    mine, others, _ = rng.multinomial(n, chances, 20_000).T
    z = (mine - others) / np.sqrt(mine + others)
    power = (np.abs(z) > stats.norm.isf(0.025)).mean()
    assert abs(power - 0.8) < 5 * np.sqrt(0.16 / 20_000) + 0.02


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: McNemar(0),
        lambda: McNemar(10, alpha=0.5),
        lambda: pairs_needed(0.1, 0.05),
        lambda: pairs_needed(0, 0.05),
    ],
)
def test_pairs_that_make_no_sense(wrong):
    with pytest.raises(ValueError):
        wrong()


# In a rollout. Healthy and bad are so far apart that a miss has a chance below 1e-6,
# but for the tests of level alpha, whose seed is fixed.

ROLLOUTS = {
    "exact": (ExactBinomial(0.02, 400, 1e-7), Canary),
    "sequential": (SPRT(0.01, 0.05, 1e-7, 1e-7), Canary),
    "ranks": (MannWhitney(1, at_least=30), Canary),
    "predictions": (PredictionDrift(600, 1e-7), Canary),
    "pairs": (McNemar(600, 1e-7), Shadow),
    "argo": (Threshold.argo(0.03, window_s=10), Canary),
    "flagger": (Threshold.flagger(0.03, window_s=10), Canary),
    "sagemaker": (Threshold.sagemaker(0.03, window_s=10), Canary),
}


@pytest.mark.parametrize("name", ROLLOUTS)
@pytest.mark.parametrize(("rate", "ends"), [(0.01, "good"), (0.2, "bad")])
def test_a_rollout_ends_as_its_judge_says(name, rate, ends):
    judge, kind = ROLLOUTS[name]
    gates = (Gate("wrong", judge),)
    if kind is Shadow:
        strategy = Shadow(1.0, 60, gates, on_doubt="go on")
    else:
        strategy = Canary((0.5,), 60, gates, on_doubt="go on")
    rates = {"stable": {"wrong": 0.01}, "candidate": {"wrong": rate}}
    report = carry_out(strategy, Simulated(rates, 200, np.random.default_rng(18)))
    good = "passed" if kind is Shadow else "promoted"
    assert report.outcome == (good if ends == "good" else "aborted")


# Predictions.


def test_the_index_of_a_known_pair():
    mine, others = np.array([10, 20, 30, 25, 15]), np.array([15, 25, 30, 20, 10])
    assert float(drift.index(mine, others)) == pytest.approx(0.0628609, abs=1e-7)
    assert float(drift.index(mine, mine)) == 0
    assert np.isfinite(drift.index(np.array([0, 10]), np.array([5, 5])))


def test_the_folklore_alarms_at_two_hundred_requests():
    chance = drift.chance_above(0.1, 200, 200, 10)
    assert chance == pytest.approx(0.3505, abs=5e-5)
    assert drift.null_quantile(200, 200, 10, 0.95) == pytest.approx(0.1692, abs=5e-5)
    assert drift.null_quantile(1000, 19_000, 10, 0.95) == pytest.approx(
        0.0178, abs=5e-5
    )
    found = drift.simulated_indices(
        200, 200, [0.1] * 10, 50_000, np.random.default_rng(14)
    )
    assert (found > 0.1).mean() == pytest.approx(chance, abs=0.03)


@pytest.mark.parametrize(
    ("n", "m", "bins"), [(1000, 1000, 10), (500, 9500, 5), (2000, 2000, 2)]
)
def test_the_law_as_simulated(n, m, bins):
    """The 95 % quantile leaves 5 % above, within a half percent and |z| < 5."""
    shares = np.arange(1, bins + 1) / np.arange(1, bins + 1).sum()
    found = drift.simulated_indices(n, m, shares, 40_000, np.random.default_rng(15))
    above = (found > drift.null_quantile(n, m, bins, 0.95)).mean()
    assert abs(above - 0.05) < 0.005 + 5 * np.sqrt(0.05 * 0.95 / 40_000)


def test_drift_that_is_allowed_is_not_failed():
    rng = np.random.default_rng(16)
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.45, 0.33, 0.22])
    allowed = float(((p - q) * np.log(p / q)).sum())
    found = drift.index(
        rng.multinomial(5000, p, 20_000), rng.multinomial(5000, q, 20_000)
    )
    above = (found > drift.null_quantile(5000, 5000, 3, 0.95, allowed)).mean()
    assert abs(above - 0.05) < 0.01
    assert (found > drift.null_quantile(5000, 5000, 3, 0.95)).mean() > 0.9


def test_a_judgement_of_predictions():
    judge = PredictionDrift(1000)

    def said(mine: tuple[int, int], others: tuple[int, int]) -> Verdict:
        return judge.judge("phishing", measured([mine], [others], "phishing")).verdict

    assert said((1000, 500), (1000, 505)) is S
    assert said((1000, 500), (1000, 700)) is F
    assert said((999, 0), (1000, 700)) is I
    assert said((1000, 1), (1000, 2)) is I  # bins too small
    assert said((1000, 0), (1000, 0)) is S
    assert said((0, 0), (1000, 700)) is E
    later = measured([(1000, 500), (9000, 0)], [(1000, 500), (9000, 9000)], "phishing")
    assert judge.judge("phishing", later).verdict is S


def test_bins_of_their_own():
    names = ("low", "middle")

    def measurement(mine: tuple[int, int], others: tuple[int, int]) -> Measurement:
        sides = [
            Counts(1000, dict(zip(names, side, strict=True))) for side in (others, mine)
        ]
        return Measurement(0, 1, 0.5, *sides)

    judge = PredictionDrift(1000, bins=names)
    assert judge.judge("score", [measurement((300, 300), (310, 305))]).verdict is S
    assert judge.judge("score", [measurement((300, 300), (100, 300))]).verdict is F
    twice = judge.judge("score", [measurement((800, 300), (310, 305))])
    assert twice.verdict is E
    assert "two bins" in twice.why


def test_a_healthy_version_is_failed_as_seldom_as_promised():
    """2,000 healthy versions at alpha 0.05; |z| < 5."""
    rng = np.random.default_rng(17)
    judge = PredictionDrift(400, alpha=0.05)
    events = rng.binomial(400, 0.3, (2000, 2)).tolist()
    failed = sum(
        judge.judge("p", measured([(400, a)], [(400, b)], "p")).verdict is F
        for a, b in events
    )
    assert abs(failed - 100) < 5 * np.sqrt(2000 * 0.05 * 0.95)


@pytest.mark.parametrize(
    "settings",
    [{"at_least": 0}, {"at_least": 9, "alpha": 0}, {"at_least": 9, "allowed": -1}],
)
def test_drift_that_makes_no_sense(settings):
    with pytest.raises(ValueError):
        PredictionDrift(**settings)


def test_a_first_sample_ends_where_both_have_enough():
    ticks = measured([(10, 1), (10, 2), (90, 3)], [(90, 0), (90, 0), (90, 0)])
    mine, others = first_sample(ticks, 20)
    assert (mine.requests, mine.events["errors"], others.requests) == (20, 3, 180)
    assert first_sample(ticks, 200) is None
