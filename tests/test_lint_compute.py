"""Chances of gates: published values, second routes, and simulation against exact."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product
from math import sqrt

import numpy as np
import pytest
from scipy import stats

from deploylab.lint import compute
from deploylab.lint.compute import (
    Chances,
    Look,
    Loop,
    Metric,
    Stage,
    Timeline,
    World,
    at_random,
    binomial,
    chances,
    disjoint,
    errors_of,
    loop_chances,
    poisson,
)
from deploylab.lint.query import BOTH, CANDIDATE, Bound

EXACT = 1e-9


def at_most(limit: str, or_equal: bool = True) -> Bound:
    return Bound(True, Fraction(limit), or_equal)


def gate(requests: int, failures: int, looks: int = 10) -> tuple[Timeline, World]:
    """So many looks at so many requests, all the candidate's; 99 % must be good."""
    timeline = Timeline(
        [(0.0, 1.0)],
        float(looks),
        [Metric("errors", CANDIDATE, at_most("0.01"), None, failures)],
        [Look(float(k + 1), float(k), 0) for k in range(looks)],
    )
    return timeline, World(requests_per_s=requests)


# The binomial law


@pytest.mark.parametrize(
    ("n", "p"),
    [
        (1, 0.5),
        (20, 0.02),
        (200, 0.005),
        (99, 0.002),
        (10_000, 0.3),
        (3_000_000, 0.002),
    ],
)
def test_the_binomial_law_is_scipys(n, p):
    law = binomial(n, p)
    k = np.arange(law.first, law.first + len(law.chances))
    expected = stats.binom.pmf(k, n, p)
    assert abs(law.chances - expected).max() < EXACT
    assert law.chances.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("n", "p", "all_at"), [(0, 0.5, 0), (7, 0.0, 0), (7, 1.0, 7)])
def test_the_binomial_law_at_its_ends(n, p, all_at):
    assert binomial(n, p).of([(all_at, all_at)]) == 1


def test_errors_of_two_versions_are_the_double_sum():
    mine, theirs, bad, good = 60, 240, 0.05, 0.004
    law = errors_of(mine, theirs, bad, good)
    for allowed in (0, 1, 5, 12):
        expected = sum(
            stats.binom.pmf(k, mine, bad) * stats.binom.cdf(allowed - k, theirs, good)
            for k in range(allowed + 1)
        )
        assert law.of([(0, allowed)]) == pytest.approx(expected, abs=EXACT)


# Published: thresholds of Argo and Flagger, ten checks, 99 % must be good


@pytest.mark.parametrize(
    ("requests", "rate", "failing", "one", "five", "four"),
    [
        (200, 0.005, 0.079839, 0.564853, 0.00058, 0.00576),
        (20, 0.005, 0.09539, 0.633042, 0.001318, 0.010846),
        (2000, 0.005, 0.001542, 0.015313, 0, 0),
        (20, 0.02, 0.332392, 0.982412, 0.211204, 0.438165),
        (200, 0.02, 0.764852, 1, 0.985452, 0.997602),
        (99, 0.002, 0.179793, 0.862204, None, None),
        (100, 0.002, 0.017392, 0.160919, None, None),
    ],
)
def test_the_table_of_threshold_gates(requests, rate, failing, one, five, four):
    """Columns: a look fails; the 1st, the 5th, the 4th failing look ends it."""
    single, world = gate(requests, 0, looks=1)
    assert chances(single, world, rate).aborted == pytest.approx(failing, abs=6e-7)
    for failures, expected in ((0, one), (4, five), (3, four)):
        if expected is not None:
            timeline, world = gate(requests, failures)
            found = chances(timeline, world, rate)
            assert found.aborted == pytest.approx(expected, abs=6e-6)
            assert found.samples == 0


@pytest.mark.parametrize("failures", [0, 1, 3, 9])
@pytest.mark.parametrize("rate", [0.002, 0.005, 0.02, 0.3])
def test_a_timeline_is_a_binomial_tail(failures, rate):
    timeline, world = gate(130, failures)
    q = stats.binom.sf(1, 130, rate)
    found = chances(timeline, world, rate)
    assert found.aborted == pytest.approx(stats.binom.sf(failures, 10, q), abs=EXACT)
    # Exposure: it ends with look number failures + 1 + (successes before).
    ends = [stats.nbinom.pmf(k - failures - 1, failures + 1, q) for k in range(1, 11)]
    expected = sum(p * 130 * k for k, p in enumerate(ends, 1)) + found.promoted * 1300
    assert found.exposed == pytest.approx(expected, abs=1e-6)


def test_three_outcomes_by_enumeration():
    """Success, failure and doubt over six looks: all 3^6 paths."""
    bounds = at_most("0.01"), Bound(False, Fraction("0.03"), False)
    metric = Metric("errors", CANDIDATE, *bounds, failures=1, doubts=1)
    looks = [Look(float(k + 1), float(k), 0) for k in range(6)]
    timeline = Timeline([(0.0, 1.0)], 6.0, [metric], looks)
    found = chances(timeline, World(requests_per_s=150), 0.015)
    good = stats.binom.cdf(1, 150, 0.015)
    poor = stats.binom.sf(4, 150, 0.015)
    chance = {"good": good, "poor": poor, "doubt": 1 - good - poor}
    sums = {"aborted": 0.0, "waits": 0.0, "promoted": 0.0}
    for path in product(chance, repeat=6):
        fate, counts = "promoted", {"good": 0, "poor": 0, "doubt": 0}
        for outcome in path:
            counts[outcome] += 1
            if counts["poor"] > 1 or counts["doubt"] > 1:
                fate = "aborted" if counts["poor"] > 1 else "waits"
                break
        sums[fate] += np.prod([chance[outcome] for outcome in path])
    for name, expected in sums.items():
        assert getattr(found, name) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("threshold", [1, 2, 5])
@pytest.mark.parametrize("rate", [0.002, 0.02])
def test_flaggers_loop_is_a_negative_binomial(threshold, rate):
    """Ten passes before so many failures; each tick costs an interval of exposure."""
    loop = Loop(
        (Stage(0.1),) * 10,
        60.0,
        threshold,
        60.0,
        (Metric("rate", CANDIDATE, at_most("0.01")),),
    )
    world = World(requests_per_s=20)
    q = stats.binom.sf(1, 120, rate)
    found = loop_chances(loop, world, rate)
    promoted = [stats.nbinom.pmf(f, 10, 1 - q) for f in range(threshold)]
    assert found.promoted == pytest.approx(sum(promoted), abs=EXACT)
    assert found.aborted == pytest.approx(1 - sum(promoted), abs=EXACT)
    ticks = sum(p * (10 + f) for f, p in enumerate(promoted))
    assert found.seconds == pytest.approx(60 * ticks / sum(promoted), abs=1e-6)
    # An abort comes one tick after the last failure: (passes + threshold + 1) ticks.
    aborted = sum(
        stats.nbinom.pmf(s, threshold, q) * (s + threshold + 1) for s in range(10)
    )
    assert found.exposed == pytest.approx(120 * (ticks + aborted), rel=1e-9)


def test_a_version_that_always_fails_is_exposed_one_interval_more_than_documented():
    """Flagger's documentation says interval * threshold; its loop, one more."""
    metric = Metric("rate", CANDIDATE, at_most("0.01"))
    loop = Loop((Stage(0.5), Stage(1.0)), 60.0, 3, 60.0, (metric,))
    found = loop_chances(loop, World(requests_per_s=10), 1.0)
    assert found.aborted == pytest.approx(1)
    assert found.exposed == pytest.approx(10 * 0.5 * 60 * (3 + 1))


def test_no_request_fails_a_check_and_none_is_drawn():
    metric = Metric("rate", CANDIDATE, at_most("0.01"))
    loop = Loop((Stage(0.0), Stage(1.0)), 60.0, 2, 60.0, (metric,))
    assert loop_chances(loop, World(), 0.0).aborted == 1


# Simulated against exact: fixed seeds; were the simulation right and the seed drawn
# anew, |z| > 5 would come with a chance of 6e-7 each


def close(found: Chances, exact: Chances) -> None:
    for name in ("aborted", "waits", "promoted", "exposed"):
        a, b = getattr(found, name), getattr(exact, name)
        error = found.errors[name]
        assert abs(a - b) <= 5 * error + 1e-12, (name, a, b, error)


@pytest.mark.parametrize("failures", [0, 2])
@pytest.mark.parametrize("rate", [0.004, 0.01, 0.02])
def test_a_simulated_timeline_agrees_with_the_exact_one(failures, rate):
    timeline, world = gate(150, failures)
    exact = chances(timeline, world, rate)
    found = compute._simulated(timeline, world, rate, seed=7)
    assert found.samples >= 10_000
    close(found, exact)


def test_a_simulated_diluted_timeline_agrees_with_the_exact_one():
    looks = [Look(60.0 * k, 60.0 * (k - 1), 0) for k in range(1, 9)]
    metric = Metric("rate", BOTH, at_most("0.01"), None, 1)
    timeline = Timeline([(0.0, 0.1), (240.0, 0.5)], 480.0, [metric], looks)
    world = World(requests_per_s=5, healthy=0.004)
    exact = chances(timeline, world, 0.02)
    assert exact.samples == 0
    close(compute._simulated(timeline, world, 0.02, seed=11), exact)


@pytest.mark.parametrize("threshold", [1, 3])
@pytest.mark.parametrize("reads", [CANDIDATE, BOTH])
def test_a_simulated_loop_agrees_with_the_exact_one(threshold, reads):
    loop = Loop(
        tuple(Stage(w) for w in (0.1, 0.2, 0.4)),
        60.0,
        threshold,
        60.0,
        (Metric("rate", reads, at_most("0.01")),),
    )
    world = World(requests_per_s=10, healthy=0.006)
    exact = compute._loop_exact(loop, world, 0.012)
    found = compute._loop_simulated(loop, world, 0.012, seed=3)
    close(found, exact)
    assert abs(found.seconds - exact.seconds) <= 5 * found.errors["seconds"] + 1e-9


def test_overlapping_windows_agree_with_every_path():
    """Four looks over two of five pieces of six requests each, by all outcomes."""
    looks = [Look(float(k + 2), float(k), 0) for k in range(4)]
    metric = Metric("rate", CANDIDATE, at_most("0.1"), None, 1)
    timeline = Timeline([(0.0, 1.0)], 5.0, [metric], looks)
    assert not disjoint(timeline)
    world = World(requests_per_s=6)
    found = chances(timeline, world, 0.08)
    pieces = stats.binom.pmf(range(7), 6, 0.08)
    aborted = 0.0
    for errors in product(range(7), repeat=5):
        failed = sum(errors[k] + errors[k + 1] > 1 for k in range(4))
        aborted += (failed > 1) * np.prod(pieces[list(errors)])
    assert found.samples
    assert abs(found.aborted - aborted) <= 5 * found.errors["aborted"]
    # Independent looks would say something else by far: this is what overlap does.
    q = stats.binom.sf(1, 12, 0.08)
    alone = stats.binom.sf(1, 4, q)
    assert abs(alone - aborted) > 10 * found.errors["aborted"]


def test_a_loop_whose_window_is_one_and_a_half_intervals_agrees_with_every_path():
    """Two stages, one failure ends it; pieces of 3 requests, a window of three."""
    metric = Metric("rate", CANDIDATE, at_most("0.2"))
    loop = Loop((Stage(1.0), Stage(1.0)), 2.0, 1, 3.0, (metric,))
    world = World(requests_per_s=3)
    found = loop_chances(loop, world, 0.1)
    pieces = stats.binom.pmf(range(4), 3, 0.1)
    promoted = 0.0
    for a, b, c, d in product(range(4), repeat=4):  # two ticks of two pieces
        first = a + b <= 6 * 0.2  # the half tick before holds no request
        second = b + c + d <= 9 * 0.2
        promoted += first * second * np.prod(pieces[[a, b, c, d]])
    assert found.samples
    assert abs(found.promoted - promoted) <= 5 * found.errors["promoted"]


def test_the_same_seed_gives_the_same_chances():
    timeline, world = gate(150, 1)
    first = compute._simulated(timeline, world, 0.01, seed=5)
    assert first == compute._simulated(timeline, world, 0.01, seed=5)


def test_a_standard_error_is_never_nothing():
    timeline, world = gate(150, 9)
    found = compute._simulated(timeline, world, 0.0, seed=5)
    assert found.aborted == 0
    assert found.errors["aborted"] > 0.5 / found.samples / sqrt(found.samples)


# Windows and requests


def test_requests_of_a_window_across_a_change_of_the_share():
    timeline = Timeline([(0.0, 0.1), (60.0, 0.5)], 120.0)
    assert timeline.requests(10, 30, 90) == (30 + 150, 600 - 180)
    assert timeline.requests(10, -60, 0) == (0, 600)  # before, all are the old one's
    assert timeline.requests(10, 0, 120)[0] == 60 + 300


def test_what_is_too_large_has_no_number():
    timeline, world = gate(200, 0)
    many = Timeline(timeline.shares, 1e5, timeline.metrics, timeline.looks * 1000)
    with pytest.raises(compute.NotComputed, match="looks more than"):
        chances(many, world, 0.01)
    with pytest.raises(compute.NotComputed, match="more than 100,000,000 requests"):
        errors_of(2 * 10**8, 0, 0.01, 0.01)


@pytest.mark.parametrize(
    ("bound", "requests", "errors"),
    [
        (Bound(True, Fraction("0.01"), True), 100, (0, 1)),
        (Bound(True, Fraction("0.01"), True), 99, (0, 0)),
        (Bound(True, Fraction("0.01"), False), 100, (0, 0)),
        (Bound(True, Fraction("0.29"), True), 100, (0, 29)),  # 28.999... as a float
        (Bound(False, Fraction("0.05"), True), 100, (5, 100)),
        (Bound(False, Fraction("0.05"), False), 100, (6, 100)),
        (Bound(True, Fraction(2), True), 10, (0, 10)),
        (Bound(True, Fraction(-1), True), 10, (0, -10)),
    ],
)
def test_bounds_on_whole_numbers_of_errors(bound, requests, errors):
    assert bound.errors(requests) == errors


# Requests that come at random


@pytest.mark.parametrize("mean", [0.3, 1, 17.5, 102, 4_000])
def test_the_poisson_law_is_scipys(mean):
    law = poisson(mean)
    k = np.arange(law.first, law.first + len(law.chances))
    assert abs(law.chances - stats.poisson.pmf(k, mean)).max() < 1e-11


def one_error_in_many(mean: int, **metric) -> tuple[Timeline, World]:
    """Ten looks at a Poisson number of requests, all the candidate's; 99 % are good."""
    timeline, world = gate(mean, metric.pop("failures", 0))
    look = {"empty": metric.pop("empty", "error")}
    timeline.looks = [one._replace(**look) for one in timeline.looks]
    timeline.metrics = [replace(timeline.metrics[0], **metric)]
    return timeline, world


@pytest.mark.parametrize("mean", [20, 99, 102, 140])
@pytest.mark.parametrize("failures", [0, 2])
def test_at_random_a_look_is_a_mixture_of_binomial_tails(mean, failures):
    """The sum over all numbers of requests, by another library and the limit itself."""
    timeline, world = one_error_in_many(mean, failures=failures)
    fails = sum(
        stats.poisson.pmf(n, mean) * stats.binom.sf(n // 100, n, 0.002)
        for n in range(1, 400)
    )
    expected = stats.binom.sf(failures, 10, fails)
    found = at_random(timeline, world, 0.002)
    assert found.aborted == pytest.approx(expected, abs=1e-8)


def test_at_random_the_edge_of_a_limit_is_worn_away():
    """At 34 requests a second, 5 % and a minute: measured on lint-your-gates."""
    timeline, world = one_error_in_many(102)
    assert chances(timeline, world, 0.002).aborted == pytest.approx(0.167, abs=0.001)
    assert at_random(timeline, world, 0.002).aborted == pytest.approx(0.57, abs=0.005)


def test_at_random_in_a_wide_window_few_numbers_stand_for_all():
    mean = 20_000
    timeline, world = one_error_in_many(mean)
    law = poisson(mean)
    fails = sum(
        p * stats.binom.sf(n // 100, n, 0.0095)
        for n, p in enumerate(law.chances, law.first)
    )
    found = at_random(timeline, world, 0.0095).aborted
    assert found == pytest.approx(1 - (1 - fails) ** 10, abs=1e-3)


def test_at_random_agrees_with_a_simulation_of_both_versions_and_doubts():
    """20,000 rollouts drawn here, version by version; |z| < 5: 1 in 1.7 million."""
    bounds = at_most("0.01"), Bound(False, Fraction("0.02"), False)
    metric = Metric("errors", BOTH, *bounds, failures=1, doubts=2)
    looks = [Look(float(k + 1), float(k), 0) for k in range(6)]
    timeline = Timeline([(0.0, 0.25)], 6.0, [metric], looks)
    found = at_random(timeline, World(requests_per_s=400, healthy=0.004), 0.03)
    rng = np.random.default_rng(5)
    mine, theirs = rng.poisson(100, (20_000, 6)), rng.poisson(300, (20_000, 6))
    errors = rng.binomial(mine, 0.03) + rng.binomial(theirs, 0.004)
    share = errors / (mine + theirs)
    poor = np.cumsum(share > 0.02, axis=1)
    doubt = np.cumsum((share > 0.01) & (share <= 0.02), axis=1)
    aborts = np.where(poor > 1, np.arange(6), 9).min(axis=1)
    waits = np.where(doubt > 2, np.arange(6), 9).min(axis=1)
    for seen, chance in (
        ((aborts < waits).mean(), found.aborted),
        ((waits < aborts).mean(), found.waits),
    ):
        assert 0.02 < chance < 0.98
        assert abs(seen - chance) < 5 * sqrt(chance * (1 - chance) / 20_000)


def test_at_random_flaggers_loop_agrees_with_a_simulation():
    """As above: |z| < 5, with no data as a failed check."""
    stages = (Stage(0.05), Stage(0.1))
    metric = Metric("errors", CANDIDATE, at_most("0.01"), least=100)
    loop = Loop(stages, 60.0, 2, 60.0, (metric,))
    found = at_random(loop, World(requests_per_s=34), 0.002)
    rng = np.random.default_rng(6)
    aborted = 0
    for _ in range(20_000):
        stage = failures = 0
        while stage < 2 and failures < 2:
            n = rng.poisson(34 * 60 * stages[stage].share)
            poor = n < 100 or rng.binomial(n, 0.002) > 0.01 * n
            failures, stage = failures + poor, stage + (not poor)
        aborted += failures == 2
    chance = found.aborted
    assert 0.02 < chance < 0.98
    assert abs(aborted / 20_000 - chance) < 5 * sqrt(chance * (1 - chance) / 20_000)


def test_at_random_a_window_without_a_value_counts_as_the_file_says():
    """Three requests on average: none at all in one window of twenty."""
    nothing = stats.poisson.pmf(0, 3)
    for empty, expected in (("poor", 1 - (1 - nothing) ** 10), ("good", 0.0)):
        timeline, world = one_error_in_many(3, empty=empty)
        found = at_random(timeline, world, 0.0)
        assert found.aborted == pytest.approx(expected, abs=1e-9)
    timeline, world = one_error_in_many(3, empty="error")
    assert at_random(timeline, world, 0.0) is None


def test_at_random_is_not_said_of_what_it_cannot_follow():
    timeline, world = gate(100, 0)
    assert at_random(timeline, world, 0.01) is not None
    settled = replace(timeline, looks=[timeline.looks[0]._replace(settled="good")])
    overlap = replace(timeline, looks=[Look(2.0, 0.0, 0), Look(3.0, 1.0, 0)])
    for plan in (settled, overlap):
        assert at_random(plan, world, 0.01) is None
    loop = Loop((Stage(0.1),), 10.0, 1, 60.0, tuple(timeline.metrics))
    assert at_random(loop, world, 0.01) is None
