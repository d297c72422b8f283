"""A rollout decides as it says, ends as predicted, and keeps its invariants.

Statistical tests compare at a chance of 1e-8 each, one-sided or two-sided, or at six
standard errors (2e-9); there are fewer than fifty comparisons, so that right code fails
one of them with a chance below 1e-6, and the seeds are fixed. Where Hypothesis draws,
it draws cases, and nothing in them is left to chance.
"""

import json
import math
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import betaln

from deploylab.rollout import (
    BlueGreen,
    Canary,
    Counts,
    Event,
    Gate,
    Measurement,
    Report,
    SplitEProcess,
    Threshold,
    TrafficSplit,
    Verdict,
    carry_out,
    predict,
    replay,
)
from deploylab.rollout.engine import StepFailed
from deploylab.rollout.invariants import broken
from deploylab.rollout.judges import RATIO_ALARM, sample_ratio_p
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Abort,
    Bake,
    Deploy,
    Drain,
    End,
    Promote,
    Retire,
    Shift,
    State,
    Step,
    worst,
)
from deploylab.rollout.simulate import Simulated, canaries, single_requests

BOTH = frozenset({STABLE, CANDIDATE})
PLAIN = SplitEProcess(check_ratio=False)


def rng(seed: int = 20261122) -> np.random.Generator:
    return np.random.default_rng(seed)


def rates(stable: float, candidate: float) -> dict[str, dict[str, float]]:
    return {STABLE: {"errors": stable}, CANDIDATE: {"errors": candidate}}


def tick(
    share: float, stable: tuple[int, int], candidate: tuple[int, int], at_s: float = 0
) -> Measurement:
    """One second; for each role (requests, errors)."""
    both = (Counts(n, {"errors": events}) for n, events in (stable, candidate))
    return Measurement(at_s, at_s + 1, share, *both)


def windows(*counts: tuple[int, int]) -> list[Measurement]:
    """Seconds in which the candidate has half of the traffic: (requests, errors)."""
    return [tick(0.5, (9, 0), these, at_s=i) for i, these in enumerate(counts)]


def may_be(hits: int, n: int, chance: float) -> bool:
    """Whether so many of n are not too far from what a chance lets expect."""
    return stats.binomtest(int(hits), n, chance).pvalue > 1e-8


def same_mean(a: np.ndarray, b: np.ndarray | float) -> bool:
    """Whether two means, or a mean and a figure, differ by six standard errors."""
    b = np.atleast_1d(b)
    variance = a.var(ddof=1) / a.size + (b.var(ddof=1) / b.size if b.size > 1 else 0)
    return bool(abs(a.mean() - b.mean()) <= 6 * math.sqrt(variance))


# -- the split e-process -----------------------------------------------------------


def errors(share: float, mine: str) -> list[Measurement]:
    """One measurement for each error: "c" is the candidate's, "s" is stable's."""
    return [
        tick(share, *(((1, 1), (0, 0)) if who == "s" else ((0, 0), (1, 1))))
        for who in mine
    ]


def test_the_e_value_of_a_ramp():
    ramp = errors(0.05, "sssssssccc") + errors(0.2, "ccccccssss")
    judge = SplitEProcess(alpha=0.05, check_ratio=False, at_least=1)
    values = judge.e_values("errors", ramp)
    assert values[9] == pytest.approx(14.588506, abs=5e-7)
    assert values[19] == pytest.approx(465.592594, abs=5e-7)
    assert 1 + int(np.argmax(values >= 20)) == 11
    said = [judge.judge("errors", ramp[:n]).verdict for n in range(4, 21)]
    assert [said.index(Verdict.FAILED) + 4, said.count(Verdict.FAILED)] == [11, 10]


def test_the_order_of_events_at_one_share_does_not_matter_to_the_last_e_value():
    one = PLAIN.e_values("errors", errors(0.05, "sssssssccc"))[-1]
    other = PLAIN.e_values("errors", errors(0.05, "cscscsssss"))[-1]
    together = PLAIN.e_values("errors", [tick(0.05, (70, 7), (30, 3))])[-1]
    assert one == pytest.approx(other) == pytest.approx(together)


def test_many_events_overflow_nothing():
    assert PLAIN.e_values("errors", [tick(0.05, (9, 0), (10**6, 10**6))])[0] == math.inf
    assert PLAIN.e_values("errors", [tick(0.05, (10**7, 10**7), (9, 0))])[0] == 0


def grid(share: float, mine: np.ndarray, seen: int) -> np.ndarray:
    """Our e-value, when so many of the errors seen are the candidate's."""
    judge = SplitEProcess()
    gain, loss = judge.weights(share)
    return judge.mean_of(mine[:, None] * gain - (seen - mine[:, None]) * loss)


def flat(share: float, mine: np.ndarray, seen: int) -> np.ndarray:
    """The e-value of the anchors, whose s is uniform between the share and 1."""
    a, b = mine + 1, seen - mine + 1
    logs = betaln(a, b) + stats.beta.logsf(share, a, b) - np.log1p(-share)
    logs -= mine * np.log(share) + (seen - mine) * np.log1p(-share)
    return np.exp(np.minimum(logs, 100))


def crossing(value: Callable, share: float, ratio: float, n: int) -> np.ndarray:
    """Chance that the e-value has reached 20 after each of n errors, exactly.

    At one share, whose errors they were is all that counts, so that a walk over the
    candidate's number of errors will do; those that crossed are taken out.
    """
    chance = ratio * share / (ratio * share + 1 - share)
    alive, crossed = np.array([1.0]), []
    for seen in range(1, n + 1):
        alive = np.append(alive * (1 - chance), 0) + np.insert(alive * chance, 0, 0)
        alive[value(share, np.arange(seen + 1), seen) >= 20] = 0
        crossed.append(1 - alive.sum())
    return np.array(crossed)


@pytest.mark.parametrize(
    ("value", "of_100", "of_500"), [(flat, 0.0168, 0.0185), (grid, 0.0200, 0.0255)]
)
def test_false_alarms_exactly(value, of_100, of_500):
    crossed = crossing(value, share=0.05, ratio=1, n=500)
    assert crossed[99] == pytest.approx(of_100, abs=5e-5)
    assert crossed[499] == pytest.approx(of_500, abs=5e-5)


@pytest.mark.parametrize(
    ("value", "share", "ratio", "mean"),
    [
        (flat, 0.05, 5, 29.54),
        (flat, 0.1, 5, 16.88),
        (flat, 0.5, 5, 15.33),
        (flat, 0.05, 10, 10.29),
        (grid, 0.05, 5, 26.34),
        (grid, 0.1, 5, 16.27),
        (grid, 0.5, 5, 14.20),
        (grid, 0.05, 10, 10.30),
    ],
)
def test_mean_number_of_errors_until_it_fails(value, share, ratio, mean):
    alive_before = 1 - np.insert(crossing(value, share, ratio, 500)[:-1], 0, 0)
    assert alive_before.sum() == pytest.approx(mean, abs=5e-3)


def test_false_alarms_exactly_and_by_drawing():
    mine = (rng().random((2000, 100)) < 0.05).astype(int)
    paths = SplitEProcess().e_paths(np.array(0.05), mine, 1 - mine)
    hits = (paths.max(axis=1) >= 20).sum()
    assert may_be(hits, 2000, crossing(grid, 0.05, 1, 100)[-1])


def test_equally_good_versions_are_seldom_aborted_whatever_the_traffic_does():
    judge, chance, alarms, runs = SplitEProcess(alpha=0.05), rng(), 0, 0
    for _ in range(5):
        # Errors come in waves while the share rises, as on a real morning.
        share = np.sort(chance.choice([0.01, 0.05, 0.2, 0.5], size=(800, 60)), axis=1)
        all_errors = chance.poisson(np.geomspace(0.2, 8, 60), size=(800, 60))
        mine = chance.binomial(all_errors, share)
        paths = judge.e_paths(share, mine, all_errors - mine)
        alarms += int((paths.max(axis=1) >= 20).sum())
        runs += 800
    assert stats.binom.sf(alarms - 1, runs, judge.alpha) > 1e-8
    assert alarms > 0  # or nothing was looked at


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5])
def test_alpha_is_a_chance(alpha):
    with pytest.raises(ValueError, match="alpha"):
        SplitEProcess(alpha=alpha)


@pytest.mark.parametrize("ratios", [(), (1.0,), (0.5, 2.0)])
def test_ratios_are_above_one(ratios):
    with pytest.raises(ValueError, match="ratio"):
        SplitEProcess(ratios=ratios)


def test_doubt_until_there_are_enough_requests():
    judge = SplitEProcess(at_least=100, check_ratio=False)
    few, more = tick(0.5, (99, 1), (99, 1)), tick(0.5, (1, 0), (1, 0))
    assert judge.judge("errors", [few]).verdict is Verdict.INCONCLUSIVE
    assert judge.judge("errors", [few, more]).verdict is Verdict.SUCCESSFUL


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_only_what_both_versions_did_at_one_time_is_compared(share):
    alone = tick(share, (500, 0), (500, 500))
    assert PLAIN.judge("errors", [alone]).verdict is Verdict.ERROR
    both = tick(0.5, (500, 5), (500, 5))
    said = PLAIN.judge("errors", [both])
    assert said.verdict is Verdict.SUCCESSFUL
    assert PLAIN.judge("errors", [both, alone]) == said


# -- the sample ratio --------------------------------------------------------------


def test_sample_ratio():
    uneven = [tick(0.05, (94_700, 0), (5_300, 0))]
    p = sample_ratio_p(uneven)
    # The exact test of what chi-squared (18.947, 1.34e-5) comes near to.
    assert p == pytest.approx(2 * stats.binom.sf(5_299, 100_000, 0.05))
    assert p == pytest.approx(1.65e-5, abs=5e-8)
    parts = [tick(0.05, (47_350, 0), (2_650, 0))] * 2
    assert sample_ratio_p(parts) == pytest.approx(p)
    assert sample_ratio_p([tick(0.05, (0, 0), (0, 0))]) == 1


def test_the_sample_ratio_gives_no_false_alarm_at_small_numbers():
    # The exact chance of an alarm for every number of requests up to some hundreds.
    for share in (0.01, 0.05, 0.5):
        for n in (1, 20, 100, 500):
            alarm = sum(
                stats.binom.pmf(mine, n, share)
                for mine in range(n + 1)
                if sample_ratio_p([tick(share, (n - mine, 0), (mine, 0))]) < RATIO_ALARM
            )
            assert alarm <= RATIO_ALARM


@pytest.mark.parametrize("errors", [0, 600])
def test_a_gross_mismatch_ends_the_trial_whatever_the_events(errors):
    wrong = [tick(0.05, (94_000, 0), (6_000, errors))]
    said = SplitEProcess().judge("errors", wrong)
    assert said.verdict is Verdict.FAILED
    assert "did not divide as told" in said.why
    blamed = PLAIN.judge("errors", wrong).verdict
    assert blamed is (Verdict.FAILED if errors else Verdict.SUCCESSFUL)
    right = [tick(0.05, (95_000, 0), (5_000, 500))]
    assert SplitEProcess().judge("errors", right).verdict is Verdict.FAILED


# -- the threshold -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "rate", "chance"),
    [
        (200, 0.005, 0.079839),
        (20, 0.005, 0.09539),
        (2000, 0.005, 0.001542),
        (20, 0.02, 0.332392),
        (200, 0.02, 0.764852),
        (99, 0.002, 0.179793),
        (100, 0.002, 0.017392),
    ],
)
def test_chance_that_a_window_fails(requests, rate, chance):
    assert Threshold(0.01).window_fails(requests, rate) == pytest.approx(
        chance, abs=5e-7
    )


@pytest.mark.parametrize(("failures", "chance"), [(0, 0.564853), (3, 0.00576)])
def test_chance_that_a_healthy_version_fails_one_of_ten_windows(failures, chance):
    judge = Threshold(0.01, failures=failures)
    q = judge.window_fails(200, 0.005)
    assert stats.binom.sf(failures, 10, q) == pytest.approx(chance, abs=5e-6)
    drawn = rng().binomial(200, 0.005, size=(2000, 10))
    failed = sum(
        judge.judge("errors", windows(*((200, int(n)) for n in one))).verdict
        is Verdict.FAILED
        for one in drawn
    )
    assert may_be(failed, 2000, chance)


def test_one_more_failed_window_than_allowed_fails():
    bad, good = (100, 2), (100, 1)
    for failures in range(3):
        judge = Threshold(0.01, failures=failures)
        seen = windows(good, *[bad] * failures, good)
        assert judge.judge("errors", seen).verdict is Verdict.SUCCESSFUL
        seen = windows(good, *[bad] * (failures + 1), good)
        assert judge.judge("errors", seen).verdict is Verdict.FAILED
        assert judge.judge("slow", seen).verdict is Verdict.SUCCESSFUL


def test_a_window_is_judged_once_it_is_over():
    judge = Threshold(0.1, window_s=3)
    seen = windows((4, 2), (4, 0), (12, 0), (10, 0), (10, 9), (9, 0))
    said = [judge.judge("errors", seen[:n]).verdict for n in range(1, 7)]
    # 2 of 20 in the first three seconds are allowed, 9 of 29 in the next are not.
    assert said == [Verdict.ERROR] * 2 + [Verdict.SUCCESSFUL] * 3 + [Verdict.FAILED]


def test_windows_leave_out_the_time_without_traffic():
    judge = Threshold(0.1, window_s=2)
    before = [tick(0, (50, 0), (0, 0), at_s=s) for s in (-2, -1)]
    assert judge.judge("errors", before).verdict is Verdict.ERROR
    said = judge.judge("errors", before + windows((10, 1), (10, 1)))
    assert said.verdict is Verdict.SUCCESSFUL
    assert judge.judge("errors", before + windows((10, 1))).verdict is Verdict.ERROR


def test_a_window_with_too_few_requests_is_not_judged():
    judge = Threshold(0.01, at_least=50)
    few = windows((49, 49), (49, 49))
    said = judge.judge("errors", few)
    assert (said.verdict, said.why) == (
        Verdict.ERROR,
        "no window of this share has had 50 requests",
    )
    judged = judge.judge("errors", [*few, *windows((50, 0))])
    assert judged.verdict is Verdict.SUCCESSFUL
    assert judge.judge("errors", [*few, *windows((50, 1))]).verdict is Verdict.FAILED


def test_a_limit_allows_what_it_says():
    assert 0.29 * 100 < 29
    assert Threshold(0.29).allowed(100) == 29
    assert [Threshold(0.01).allowed(n) for n in (99, 100, 199, 200)] == [0, 1, 1, 2]
    for hundredths in range(100):
        assert Threshold(hundredths / 100).allowed(100) == hundredths


@pytest.mark.parametrize("limit", [1, 5, -0.01, math.nan])
def test_a_limit_is_a_share(limit):
    with pytest.raises(ValueError, match=r"for 1 % write 0\.01"):
        Threshold(limit)


# -- verdicts ----------------------------------------------------------------------


def test_the_worst_verdict_counts():
    good, bad, doubt, nothing = (
        Verdict.SUCCESSFUL,
        Verdict.FAILED,
        Verdict.INCONCLUSIVE,
        Verdict.ERROR,
    )
    assert worst([]) is doubt
    assert worst([good]) is worst([good, good]) is good
    assert worst([good, doubt]) is doubt
    assert worst([doubt, nothing, good]) is nothing
    assert worst(iter([nothing, bad, doubt, good])) is bad


@st.composite
def counted(draw: st.DrawFn) -> list[Measurement]:
    """Any counts, at any shares, of a second each."""
    seen = []
    for second in range(draw(st.integers(1, 12))):
        roles = []
        for _ in range(2):
            n = draw(st.integers(0, 60))
            roles.append((n, draw(st.integers(0, n))))
        share = draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
        seen.append(tick(share, *roles, at_s=second))
    return seen


@given(
    counted(),
    st.sampled_from(
        [
            Threshold(0.1),
            Threshold(0.3, failures=2),
            Threshold(0.1, at_least=20, window_s=2.5),
            SplitEProcess(alpha=0.05, at_least=20, check_ratio=False),
        ]
    ),
)
@settings(max_examples=300, deadline=None)
def test_failed_is_for_ever(seen, judge):
    said = [judge.judge("errors", seen[:n]).verdict for n in range(len(seen) + 1)]
    assert said[0] is Verdict.ERROR
    assert list(accumulate(v is Verdict.FAILED for v in said)) == sorted(
        accumulate(v is Verdict.FAILED for v in said)
    )
    if Verdict.FAILED in said:
        first = said.index(Verdict.FAILED)
        assert set(said[first:]) == {Verdict.FAILED}


# -- strategies --------------------------------------------------------------------

CANARY = Canary((0.05, 0.2), bake_s=60, gates=(Gate("errors", PLAIN),))
BLUE_GREEN = BlueGreen(keep_s=60, gates=(Gate("errors", Threshold(0.01)),))
ON_TRIAL = State(now_s=70, share=0.05, since_s=10, ready=BOTH)
SWITCHED = replace(ON_TRIAL, share=1.0)
DRAINED = replace(SWITCHED, drained=frozenset({STABLE}))
GOOD, BAD, DOUBT, NOTHING = (
    Verdict.SUCCESSFUL,
    Verdict.FAILED,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)
ANY = (GOOD, BAD, DOUBT, NOTHING)


def shift(share: float) -> Shift:
    return Shift(TrafficSplit(share))


@pytest.mark.parametrize(
    ("state", "verdicts", "step"),
    [
        (State(), ANY, Deploy(CANDIDATE)),
        (State(ready=BOTH), (GOOD, DOUBT, NOTHING), shift(0.05)),
        (ON_TRIAL, (BAD,), Abort("a gate failed")),
        (replace(ON_TRIAL, now_s=69.9), (BAD,), Abort("a gate failed")),
        (replace(ON_TRIAL, now_s=69.9), (GOOD, DOUBT, NOTHING), Bake(70)),
        (ON_TRIAL, (NOTHING,), Abort("there is no data to judge by")),
        (ON_TRIAL, (DOUBT,), Abort("the gates came to no conclusion")),
        (ON_TRIAL, (GOOD,), shift(0.2)),
        (replace(ON_TRIAL, share=0.2), (GOOD,), shift(1.0)),
        (SWITCHED, (GOOD, DOUBT, NOTHING), Drain(STABLE)),
        (SWITCHED, (BAD,), Abort("a gate failed")),
        (replace(DRAINED, ready=frozenset({CANDIDATE})), (BAD,), Retire(STABLE)),
        (replace(ON_TRIAL, share=0, aborting="x"), ANY, Drain(CANDIDATE)),
    ],
)
def test_the_next_step_of_a_canary(state, verdicts, step):
    for verdict in verdicts:
        assert CANARY.next(state, verdict) == CANARY.next(state, verdict) == step


def test_a_canary_in_doubt_may_go_on():
    bold = replace(CANARY, on_doubt="go on")
    assert bold.next(ON_TRIAL, DOUBT) == shift(0.2)
    assert bold.next(ON_TRIAL, NOTHING) == Abort("there is no data to judge by")
    assert bold.next(ON_TRIAL, BAD) == Abort("a gate failed")


def test_a_canary_hands_its_users_on():
    plain = (Gate("errors", Threshold(0.01)),)
    sticky = replace(CANARY, sticky=True, salt="7", gates=plain)
    with pytest.raises(ValueError, match="draws users"):
        replace(CANARY, sticky=True)
    assert sticky.next(ON_TRIAL, GOOD) == Shift(TrafficSplit(0.2, True, "7"))


@pytest.mark.parametrize(
    ("state", "verdicts", "step"),
    [
        (State(), ANY, Deploy(CANDIDATE)),
        (State(ready=BOTH), (GOOD, DOUBT, NOTHING), shift(1.0)),
        (replace(SWITCHED, now_s=69.9), (BAD,), Abort("a gate failed")),
        (SWITCHED, (BAD,), Abort("a gate failed")),
        (replace(SWITCHED, now_s=69.9), (GOOD, DOUBT, NOTHING), Bake(70)),
        (SWITCHED, (NOTHING,), Abort("there is no data to judge by")),
        (SWITCHED, (DOUBT,), Abort("the gates came to no conclusion")),
        (SWITCHED, (GOOD,), Drain(STABLE)),
        (DRAINED, (GOOD, DOUBT, NOTHING), Retire(STABLE)),
        (DRAINED, (BAD,), Abort("a gate failed")),
        (replace(SWITCHED, share=0, aborting="x"), ANY, Drain(CANDIDATE)),
    ],
)
def test_the_next_step_of_a_blue_green_switch(state, verdicts, step):
    for verdict in verdicts:
        assert BLUE_GREEN.next(state, verdict) == step


def test_a_blue_green_switch_without_gates_asks_for_no_data():
    assert BlueGreen(keep_s=60).next(SWITCHED, NOTHING) == Drain(STABLE)


@pytest.mark.parametrize("strategy", [CANARY, BLUE_GREEN])
@pytest.mark.parametrize(
    ("state", "way"),
    [
        (
            replace(ON_TRIAL, share=0.0, aborting="why"),
            [Drain(CANDIDATE), Retire(CANDIDATE), End("aborted", "why")],
        ),
        (SWITCHED, [Drain(STABLE), Retire(STABLE), Promote(), End("promoted")]),
    ],
)
def test_the_ways_back_and_out(strategy, state, way):
    steps = []
    while not steps or not isinstance(steps[-1], End):
        steps.append(strategy.next(state, GOOD))
        state = state.after(steps[-1], state.now_s)
    assert steps == way


@pytest.mark.parametrize(
    "shares", [(), (0.0,), (1.0,), (0.2, 0.1), (0.1, 0.1), (-0.1, 0.5), (5, 20)]
)
def test_shares_rise(shares):
    with pytest.raises(ValueError, match="rise and lie between 0 and 1"):
        replace(CANARY, shares=shares)


@pytest.mark.parametrize("bake_s", [0, -1])
def test_a_stage_takes_time(bake_s):
    with pytest.raises(ValueError, match="bake_s"):
        replace(CANARY, bake_s=bake_s)


def test_on_doubt_is_one_of_two():
    with pytest.raises(ValueError, match='"go on" or "abort", not \'wait\''):
        replace(CANARY, on_doubt="wait")


@pytest.mark.parametrize("share", [-0.1, 1.1, 5])
def test_a_split_is_a_share(share):
    with pytest.raises(ValueError, match=r"for 5 % write 0\.05"):
        TrafficSplit(share)


# -- carrying it out ---------------------------------------------------------------


def key(step: Step) -> str:
    """As in "shift 0.05", "drain stable", "bake"."""
    name = type(step).__name__.lower()
    if isinstance(step, Shift):
        return f"{name} {step.split.candidate:g}"
    return f"{name} {getattr(step, 'role', '')}".rstrip()


class Scripted:
    """An environment of which a test says what each step does."""

    def __init__(
        self,
        trouble: dict[str, BaseException] | None = None,
        bad_from_s: float = math.inf,
        requests: int = 100,
        once: bool = True,
    ) -> None:
        self.trouble, self.once = dict(trouble or {}), once
        self.bad_from_s, self.requests = bad_from_s, requests
        self.now_s, self.share = 0.0, 0.0
        self.running = {STABLE}
        self.steps: list[str] = []

    @property
    def instances(self) -> dict[str, int]:
        if self.steps[-1:] == ["promote"]:
            return {STABLE: int(CANDIDATE in self.running), CANDIDATE: 0}
        return {role: int(role in self.running) for role in (STABLE, CANDIDATE)}

    def do(self, step: Step) -> list[Measurement]:
        self.steps.append(key(step))
        error = self.trouble.get(key(step))
        if error is not None:
            if self.once:
                del self.trouble[key(step)]
            raise error
        if isinstance(step, Deploy):
            self.running.add(step.role)
        elif isinstance(step, Retire):
            self.running.discard(step.role)
        elif isinstance(step, Shift):
            self.share = step.split.candidate
        elif isinstance(step, Abort):
            self.share = 0.0
        elif isinstance(step, Bake):
            start, self.now_s = self.now_s, min(self.now_s + 1, step.until_s)
            n = self.requests if self.share and self.now_s > start else 0
            bad = n if start >= self.bad_from_s else 0
            stable = self.requests if self.share < 1 and self.now_s > start else 0
            return [tick(self.share, (stable, 0), (n, bad), at_s=start)]
        return []


TWO_STAGES = Canary((0.05, 0.5), 3, (Gate("errors", Threshold(0.01)),))
ALL_WELL = [
    "deploy candidate",
    *("shift 0.05", "bake", "bake", "bake"),
    *("shift 0.5", "bake", "bake", "bake"),
    *("shift 1", "drain stable", "bake", "retire stable", "promote"),
]
BACK = ["abort", "drain candidate", "retire candidate"]


def test_no_step_back_where_there_is_no_way_back():
    env = Scripted({"promote": StepFailed("x")})
    with pytest.raises(StepFailed):
        carry_out(TWO_STAGES, env)
    assert (env.running, env.share) == ({CANDIDATE}, 1.0)


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_while_the_old_version_is_stopped_leaves_the_new_one(before):
    class Interrupted(Scripted):
        def do(self, step: Step) -> list[Measurement]:
            if step == Retire(STABLE):
                if not before:
                    super().do(step)
                raise KeyboardInterrupt
            return super().do(step)

    env = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        carry_out(TWO_STAGES, env)
    assert CANDIDATE in env.running
    assert env.share == 1


def test_a_step_that_fails_without_a_word_aborts_all_the_same():
    env = Scripted({"bake": StepFailed()})
    report = carry_out(TWO_STAGES, env)
    assert (report.outcome, broken(report)) == ("aborted", [])
    assert report.reason
    assert env.running == {STABLE}


@pytest.mark.parametrize("what", ["drain candidate", "retire candidate"])
def test_giving_up_goes_on_whatever_fails_on_the_way(what):
    trouble = {what: RuntimeError("x")}
    env = Scripted(trouble, bad_from_s=0, once=False)
    log = []
    with pytest.raises(RuntimeError):
        carry_out(TWO_STAGES, env, log.append)
    assert env.share == 0
    assert env.steps[-1] == "retire candidate"
    assert happened(log)[-1] == "end"


@pytest.mark.parametrize("what", ["deploy", "shift", "abort", "end"])
def test_a_listener_that_always_fails_changes_nothing_on_the_way_back(what, tmp_path):
    heard = []

    def tell(event: Event) -> None:
        heard.append(event.what)
        if what in heard:
            raise BrokenPipeError

    env = Scripted(bad_from_s=0)
    with pytest.raises(BrokenPipeError):
        carry_out(TWO_STAGES, env, tell, tmp_path / "log")
    assert (env.running, env.share) == ({STABLE}, 0.0)
    assert heard.count("end") == 1
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["what"] for line in lines] == heard


def test_late_bad_news_outranks_the_last_shift():
    class Late(Scripted):
        def do(self, step: Step) -> list[Measurement]:
            told = super().do(step)
            if step == shift(1.0):
                late = tick(0.5, (100, 0), (100, 100), at_s=self.now_s - 1)
                told.append(late)
            return told

    env = Late()
    report = carry_out(TWO_STAGES, env)
    assert (report.outcome, broken(report)) == ("aborted", [])
    assert (env.running, env.share) == ({STABLE}, 0.0)


def happened(log: list[Event]) -> list[str]:
    """What happened, after the first line, which says what was begun."""
    return [event.what for event in log if event.what != "begin"]


def test_a_good_version_is_promoted():
    env = Scripted()
    report = carry_out(TWO_STAGES, env)
    assert env.steps == ALL_WELL
    assert (report.outcome, report.reason) == ("promoted", "")
    assert (env.running, env.share) == ({CANDIDATE}, 1.0)
    assert happened(report.log) == [
        *("deploy", "shift", "verdict", "shift", "shift"),
        *("drain", "retire", "promote", "end"),
    ]
    assert report.exposed_requests == 600
    assert report.events("errors") == report.events("errors", STABLE) == 0
    assert (report.at("promote"), report.at("shift")) == (6.0, 0.0)
    assert math.isnan(report.at("abort"))
    assert list(report.table.details[:3]) == [
        "Canary",
        "candidate",
        "candidate gets 5 %",
    ]
    assert broken(report) == []


def test_a_gate_that_fails_does_not_wait_for_the_end_of_the_stage():
    env = Scripted(bad_from_s=4)
    report = carry_out(replace(TWO_STAGES, bake_s=50), env)
    assert env.steps == ["deploy candidate", "shift 0.05", *["bake"] * 5, *BACK]
    assert (report.outcome, report.reason) == ("aborted", "a gate failed")
    assert (report.at("abort"), report.events("errors")) == (5.0, 100)
    assert (env.running, env.share) == ({STABLE}, 0.0)
    assert broken(report) == []


def test_without_data_it_ends_with_the_stage():
    env = Scripted(requests=0)
    report = carry_out(TWO_STAGES, env)
    assert env.steps == ["deploy candidate", "shift 0.05", *["bake"] * 3, *BACK]
    assert report.reason == "there is no data to judge by"
    assert report.at("abort") == 3.0
    # That there was no data yet is no news.
    assert "verdict" not in happened(report.log)


def test_doubt_ends_it_with_the_stage():
    gate = Gate("errors", SplitEProcess(at_least=10**6, check_ratio=False))
    doubtful = replace(TWO_STAGES, gates=(gate,))
    report = carry_out(doubtful, Scripted())
    assert (report.outcome, report.at("abort")) == ("aborted", 3.0)
    assert "no conclusion" in report.reason
    assert carry_out(replace(doubtful, on_doubt="go on"), Scripted()).outcome == (
        "promoted"
    )


def test_a_gate_is_heard_once_for_each_change_of_mind():
    gates = (
        Gate("errors", SplitEProcess(at_least=200, check_ratio=False)),
        Gate("errors", Threshold(0.01, window_s=2)),
    )
    report = carry_out(replace(TWO_STAGES, gates=gates), Scripted(bad_from_s=4))
    said = [
        (e.at_s, e.details["verdict"], "e-value" in e.details["why"])
        for e in report.log
        if e.what == "verdict"
    ]
    assert said == [
        (1.0, "inconclusive", True),
        (2.0, "successful", True),
        (2.0, "successful", False),
        # In the second stage there is too little at first, again.
        (4.0, "inconclusive", True),
        (4.0, "error", False),
        (5.0, "failed", True),
        (5.0, "failed", False),
    ]
    assert broken(report) == []


@pytest.mark.parametrize(
    "what", ["deploy candidate", "shift 0.05", "shift 0.5", "shift 1", "bake"]
)
def test_a_step_that_fails_ends_the_rollout(what):
    env = Scripted({what: StepFailed("no such luck")})
    report = carry_out(TWO_STAGES, env)
    assert env.steps == [*ALL_WELL[: ALL_WELL.index(what) + 1], *BACK]
    assert (report.outcome, report.reason) == ("aborted", "no such luck")
    failed = next(e for e in report.log if e.what == "failed")
    assert failed.details == {"step": what.split()[0], "why": "no such luck"}
    assert (env.running, env.share) == ({STABLE}, 0.0)
    assert broken(report) == []


@pytest.mark.parametrize("what", ["drain", "retire"])
@pytest.mark.parametrize(("bad_from_s", "role"), [(0, CANDIDATE), (math.inf, STABLE)])
def test_tidying_that_fails_stops_nothing(what, bad_from_s, role):
    trouble = {f"{what} {role}": StepFailed("still busy")}
    report = carry_out(TWO_STAGES, Scripted(trouble, bad_from_s, once=False))
    whole = carry_out(TWO_STAGES, Scripted(bad_from_s=bad_from_s))
    assert report.outcome == whole.outcome == ("promoted" if bad_from_s else "aborted")
    at = [event.what for event in report.log].index("failed")
    failed = {"step": what, "role": role, "why": "still busy"}
    assert report.log[at].details == failed
    assert (whole.log[at].what, whole.log[at].details) == (what, {"role": role})
    assert broken(report) == []
    assert (
        report.log[:at] + report.log[at + 1 :] == whole.log[:at] + whole.log[at + 1 :]
    )
    assert broken(report) == []


def interrupted(
    env: Scripted, error: BaseException, strategy: Canary = TWO_STAGES
) -> list[Event]:
    """Carry it out, and return the log of what the exception did not stop."""
    log: list[Event] = []
    with pytest.raises(type(error)) as raised:
        carry_out(strategy, env, tell=log.append)
    assert raised.value is error
    return log


ERRORS = [RuntimeError("boom"), KeyboardInterrupt()]


@pytest.mark.parametrize("error", ERRORS, ids=["error", "interrupt"])
@pytest.mark.parametrize(
    "what",
    ["deploy candidate", "shift 0.05", "bake", "shift 0.5", "shift 1", "drain stable"],
)
def test_whatever_else_goes_wrong_the_candidate_is_taken_away(what, error):
    env = Scripted({what: error})
    log = interrupted(env, error)
    assert env.steps == [*ALL_WELL[: ALL_WELL.index(what) + 1], *BACK]
    assert (env.running, env.share) == ({STABLE}, 0.0)
    reason = "RuntimeError: boom" if error is ERRORS[0] else "KeyboardInterrupt"
    assert log[-1].details == {"outcome": "aborted", "reason": reason}
    assert broken(Report("aborted", reason, log)) == []


@pytest.mark.parametrize("error", ERRORS, ids=["error", "interrupt"])
@pytest.mark.parametrize("what", BACK)
def test_what_goes_wrong_on_the_way_back_is_tried_once_more(what, error):
    env = Scripted({what: error}, bad_from_s=0)
    log = interrupted(env, error)
    place = BACK.index(what)
    assert env.steps[-4:] == [*BACK[: place + 1], *BACK[place:]]
    assert (env.running, env.share) == ({STABLE}, 0.0)
    assert log[-1].details["outcome"] == "aborted"
    assert broken(Report("aborted", log[-1].details["reason"], log)) == []


@pytest.mark.parametrize("error", ERRORS, ids=["error", "interrupt"])
def test_once_the_old_version_is_gone_the_new_one_takes_its_place(error):
    env = Scripted({"promote": error})
    log = interrupted(env, error)
    assert env.steps == [*ALL_WELL, "promote"]
    assert (env.running, env.share) == ({CANDIDATE}, 1.0)
    assert log[-1].what == "end"
    assert log[-1].details["outcome"] == "promoted"


def test_what_cannot_be_taken_back_is_not_stopped():
    env = Scripted({"abort": RuntimeError("x")}, bad_from_s=0, once=False)
    log = interrupted(env, env.trouble["abort"])
    assert env.running == {STABLE, CANDIDATE}
    assert log[-1].details["outcome"] == "stuck"


def test_a_second_interrupt_does_not_get_in_between():
    class Again(Scripted):
        def do(self, step: Step) -> list[Measurement]:
            if isinstance(step, Drain):
                signal.raise_signal(signal.SIGINT)
            return super().do(step)

    env = Again({"bake": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        carry_out(TWO_STAGES, env)
    assert (env.running, env.share) == ({STABLE}, 0.0)
    assert env.steps[-3:] == BACK
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # and afterwards it does


def test_silence_in_a_later_stage_is_not_taken_for_success():
    class Silent(Scripted):
        def do(self, step: Step) -> list[Measurement]:
            self.requests = 0 if self.share == 0.5 else 100
            return super().do(step)

    for judge in (Threshold(0.01), SplitEProcess(check_ratio=False)):
        strategy = replace(TWO_STAGES, gates=(Gate("errors", judge),))
        report = carry_out(strategy, Silent())
        assert report.outcome == "aborted"
        assert report.reason == "there is no data to judge by"


def test_a_listener_that_fails_ends_the_rollout_too():
    heard: list[str] = []

    def tell(event: Event) -> None:
        heard.append(event.what)
        if heard.count("shift") == 2 and event.what == "shift":
            raise BrokenPipeError

    env = Scripted()
    with pytest.raises(BrokenPipeError):
        carry_out(TWO_STAGES, env, tell=tell)
    assert env.steps[-3:] == BACK
    assert (env.running, env.share) == ({STABLE}, 0.0)
    assert heard[-4:] == ["abort", "drain", "retire", "end"]


def test_the_log_is_in_the_file_at_once(tmp_path):
    file, heard = tmp_path / "log.jsonl", []

    def tell(event: Event) -> None:
        heard.append(event)
        lines = file.read_text("utf-8").splitlines()
        assert [json.loads(line) for line in lines] == [asdict(e) for e in heard]

    report = carry_out(TWO_STAGES, Scripted(bad_from_s=4), tell, file)
    assert heard == report.log
    assert len(file.read_text("utf-8").splitlines()) == len(report.log)


# -- simulation --------------------------------------------------------------------

SMALL = Canary(
    (0.1, 0.3),
    6,
    (Gate("errors", SplitEProcess(0.05, at_least=20, check_ratio=False)),),
)


def one_by_one(
    strategy: Canary | BlueGreen,
    chances: dict[str, dict[str, float]],
    requests_per_s: float,
    n: int,
    draws: Callable[[int], np.random.Generator] = rng,
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of n simulated rollouts was aborted, and what it exposed."""
    reports = [
        carry_out(strategy, Simulated(chances, requests_per_s, draws(seed)))
        for seed in range(n)
    ]
    return (
        np.array([r.outcome == "aborted" for r in reports]),
        np.array([r.exposed_requests for r in reports]),
    )


@pytest.mark.parametrize("strategy", [SMALL, BLUE_GREEN])
def test_the_same_seed_gives_the_same_rollout(strategy):
    one, two, other = (
        carry_out(strategy, Simulated(rates(0.01, 0.03), 50, rng(seed)))
        for seed in (1, 1, 2)
    )
    assert one == two
    assert one.measurements != other.measurements


def test_time_and_traffic_of_a_simulation():
    env = Simulated(rates(0, 1), 1000, rng(), tick_s=2, deploy_s=3)
    report = carry_out(replace(SMALL, gates=(), on_doubt="go on"), env)
    assert report.at("shift") == report.at("deploy") == 3.0
    spans = [(m.from_s, m.to_s, m.share) for m in report.measurements]
    ends = [(0, 2), (2, 3), *((s, s + 2) for s in range(3, 15, 2))]
    shares = [0, 0, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3]
    assert spans == [(*e, s) for e, s in zip(ends, shares, strict=True)]
    assert report.events("errors") == report.exposed_requests
    assert report.events("errors", STABLE) == 0
    seen = sum(m.stable.requests + m.candidate.requests for m in report.measurements)
    assert abs(seen - 15_000) < 6 * math.sqrt(15_000)
    assert may_be(report.exposed_requests, 12_000, 0.2)  # six seconds at each share


def test_a_candidate_that_never_becomes_ready_gets_no_traffic():
    report = carry_out(SMALL, Simulated(rates(0, 0), 50, rng(), ready_s=0.0))
    assert happened(report.log) == ["failed", "abort", "drain", "retire", "end"]
    assert report.reason == "it was not ready within 0 s"
    assert broken(report) == []


def compare_both_paths(n: int, chances: dict[str, dict[str, float]]) -> None:
    aborted, exposed = one_by_one(SMALL, chances, 40, n)
    many = canaries(SMALL, chances, 40, rng(), 10 * n)
    table = [[m.sum(), m.size - m.sum()] for m in (aborted, many.aborted)]
    assert stats.fisher_exact(table).pvalue > 1e-8
    assert same_mean(exposed, many.exposed)


@pytest.mark.slow
@pytest.mark.parametrize("candidate", [0.01, 0.05, 0.2])
def test_many_canaries_are_like_single_ones(candidate):
    compare_both_paths(300, rates(0.01, candidate))


@pytest.mark.soak
@pytest.mark.parametrize("candidate", [0.01, 0.05, 0.2])
def test_many_canaries_are_like_single_ones_in_full(candidate):
    compare_both_paths(4000, rates(0.01, candidate))


def test_several_gates_are_watched_together():
    gates = (*SMALL.gates, Gate("slow", SplitEProcess(0.05, at_least=20)))
    chances = {STABLE: {"errors": 0, "slow": 0}, CANDIDATE: {"errors": 0, "slow": 1}}
    many = canaries(replace(SMALL, gates=gates), chances, 40, rng(), 200)
    assert many.aborted.all()
    assert many.ended_s.max() <= 6


def test_a_tick_that_decides_is_counted():
    many = canaries(SMALL, rates(0, 1), 1000, rng(), 200)
    assert many.aborted.all()
    assert set(many.ended_s) == {1.0}
    assert may_be(many.exposed.sum(), 200 * 1000, 0.1)


@pytest.mark.parametrize(("on_doubt", "outcome"), [("abort", True), ("go on", False)])
@pytest.mark.parametrize("requests_per_s", [1, 0])
def test_doubt_and_no_data_in_many_as_in_one(on_doubt, outcome, requests_per_s):
    gate = Gate("errors", SplitEProcess(0.05, at_least=20, check_ratio=False))
    strategy = Canary((0.5, 0.6), 6, (gate,), on_doubt)
    many = canaries(strategy, rates(0, 0), requests_per_s, rng(), 2000)
    aborted, _ = one_by_one(strategy, rates(0, 0), requests_per_s, 100)
    if requests_per_s == 0:
        assert many.aborted.all()
        assert aborted.all()
        assert many.ended_s.max() == 6
        assert many.exposed.max() == 0
    elif outcome:
        # A stage has 3 requests in the mean, and 20 with a chance of 7e-11.
        assert many.aborted.all()
        assert aborted.all()
    else:
        nothing = math.exp(-3)  # no request in the first stage
        assert may_be(many.aborted.sum(), 2000, nothing)
        assert may_be(aborted.sum(), 100, nothing)


@pytest.mark.parametrize(
    "gates",
    [(), (Gate("errors", Threshold(0.01)),), (*SMALL.gates, *BLUE_GREEN.gates)],
)
def test_other_canaries_are_not_drawn_together(gates):
    with pytest.raises(ValueError, match="one by one"):
        canaries(replace(SMALL, gates=gates), rates(0, 0), 50, rng(), 1)


def test_single_requests_add_up_and_are_as_frequent_as_told():
    share, stable, candidate, n = 0.05, 0.01, 0.2, 300_000
    others, theirs, mine, events = single_requests(rng(), n, share, stable, candidate)
    assert others + mine == n
    cells = [others - theirs, theirs, mine - events, events]
    chances = [
        (1 - share) * (1 - stable),
        (1 - share) * stable,
        share * (1 - candidate),
        share * candidate,
    ]
    expected = n * np.array(chances)
    assert stats.chisquare(cells, expected).pvalue > 1e-8
    assert single_requests(rng(), 0, share, stable, candidate) == (0, 0, 0, 0)
    assert single_requests(rng(), 50, 1, 0, 1) == (0, 0, 50, 50)
    assert single_requests(rng(), 50, 0, 1, 0) == (50, 50, 0, 0)


def compare_single(ticks: int) -> None:
    """Candidate's requests and events in a tick, drawn singly and by their sums."""
    chance = rng()
    env = Simulated(rates(0.1, 0.3), 100, chance, share=0.2)
    env.do(Deploy(CANDIDATE))
    env._pass(ticks)
    seen = env._untold
    sums = [(m.candidate.requests, m.candidate.events["errors"]) for m in seen]
    sums_stable = [(m.stable.requests, m.stable.events["errors"]) for m in seen]
    singles = [
        single_requests(chance, int(n), 0.2, 0.1, 0.3)
        for n in chance.poisson(100, size=ticks)
    ]
    pairs = [
        (np.array(sums), np.array(singles)[:, 2:]),
        (np.array(sums_stable), np.array(singles)[:, :2]),
    ]
    for ours, single in pairs:
        for values in zip(ours.T, single.T, strict=True):
            # Ten bins with as many in each as ties allow; counts in all are ample.
            edges = np.unique(np.quantile(values[0], np.linspace(0, 1, 11)[1:-1]))
            table = [
                np.bincount(np.digitize(v, edges), minlength=edges.size + 1)
                for v in values
            ]
            assert stats.chi2_contingency(table).pvalue > 1e-8
        rest = [np.corrcoef(v.T)[0, 1] for v in (ours, single)]
        # Fisher's z has a standard error of 1 / sqrt(n) in each.
        assert abs(np.diff(np.arctanh(rest))[0]) < 6 * math.sqrt(2 / ticks)


def test_single_requests_are_like_their_sums():
    compare_single(3000)


@pytest.mark.soak
def test_single_requests_are_like_their_sums_in_full():
    compare_single(200_000)


# -- predictions -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "each", "sticky", "touched"),
    [
        (0.05, 20, False, 0.641514),
        (0.01, 20, False, 0.182093),
        (0.1, 10, False, 0.651322),
        (0.05, 20, True, 0.05),
    ],
)
def test_users_touched(share, each, sticky, touched):
    found = predict.users_touched(share, each, sticky)
    assert found == pytest.approx(touched, abs=5e-7)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.001])
def test_errors_needed(share, alpha):
    judge = SplitEProcess(alpha)
    needed = predict.errors_needed(judge, share)
    values = judge.e_values("errors", errors(share, "c" * needed))
    assert values[-1] >= 1 / alpha > values[-2]


def test_fewer_errors_are_needed_of_a_smaller_share():
    needed = [predict.errors_needed(SplitEProcess(), w) for w in (0.05, 0.2, 0.5)]
    assert needed == sorted(needed)


def canary_of(alpha: float, bake_s: float, on_doubt: str = "abort") -> Canary:
    judge = SplitEProcess(alpha, at_least=20, check_ratio=False)
    return Canary((0.1, 0.3), bake_s, (Gate("errors", judge),), on_doubt)


CASES = [(0.05, 0.02, 20), (0.01, 0.05, 20), (0.01, 0.01, 60), (0.001, 0.1, 8)]


@pytest.mark.parametrize(("alpha", "rate", "bake_s"), CASES)
def test_the_prediction_of_a_canary_is_exact(alpha, rate, bake_s):
    """Against single requests, of which each stage has the number it assumes."""
    strategy, n = canary_of(alpha, bake_s), 4000
    found = predict.canary(strategy, rates(0, rate), 50)
    judge = strategy.gates[0].judge
    counts = [round(50 * w * bake_s) for w in strategy.shares]
    share = np.repeat(strategy.shares, counts)
    bad = rng().random((n, share.size)) < rate
    one, two = (np.cumsum(bad * (share == w), axis=1) for w in strategy.shares)
    # Whether the e-value is high after so many events in each stage.
    a, b = (np.arange(events.max() + 1)[:, None] for events in (one, two))
    gain, later = (judge.weights(w)[0] for w in strategy.shares)
    high = judge.mean_of((a * gain)[:, None] + b * later) >= 1 / alpha
    crossed = np.append(high[one, two], np.full((n, 1), True), axis=1)
    first = crossed.argmax(axis=1)
    aborted, exposed = first < share.size, np.minimum(first + 1, share.size)
    assert may_be(aborted.sum(), n, found.aborted)
    assert same_mean(exposed, found.exposed)
    lasted_s = ((1 / (50 * share)).cumsum())[exposed - 1]
    assert same_mean(lasted_s, found.seconds)
    for some in (counts[0] // 2, counts[0], share.size // 2):
        assert may_be((exposed <= some).sum(), n, min(found.at_most[some], 1))
    assert found.at_most[-1] == pytest.approx(1)
    low, high = found.between(0.1)
    assert ((exposed >= low) & (exposed <= high)).mean() >= 0.9 - 6 * 0.3 / n**0.5


@pytest.mark.parametrize(("alpha", "rate", "bake_s"), CASES)
def test_the_prediction_of_a_canary_agrees_with_many_simulated_ones(
    alpha, rate, bake_s
):
    strategy, n, tick_s = canary_of(alpha, bake_s), 5000, 0.1
    found = predict.canary(strategy, rates(0, rate), 50, late_s=tick_s / 2)
    many = canaries(strategy, rates(0, rate), 50, rng(), n, tick_s)
    # The events of a stage are binomial in the one and Poisson in the other: their
    # laws differ by at most `rate` in each of two stages (Barbour and Hall 1984).
    error = 6 * math.sqrt(found.aborted * (1 - found.aborted) / n) + 2 * rate
    assert abs(many.aborted.mean() - found.aborted) <= error
    # So do those of the numbers of exposed requests; and it is looked at every tick,
    # half of which is predicted, to a whole request.
    error = 6 * many.exposed.std() / math.sqrt(n) + 2 + 2 * rate * many.exposed.mean()
    assert abs(many.exposed.mean() - found.exposed) <= error
    error = 6 * many.ended_s.std() / math.sqrt(n) + tick_s + 2 * rate * bake_s
    assert abs(many.ended_s.mean() - found.seconds) <= error


def test_a_canary_in_doubt_is_predicted_to_end_with_its_stage():
    # 20 requests are needed for a verdict, and the first stage has 15.
    timid = predict.canary(canary_of(0.01, 3), rates(0, 1e-9), 50)
    assert timid.aborted == pytest.approx(1)
    assert (timid.exposed, timid.seconds) == pytest.approx((15, 3))
    bold = predict.canary(canary_of(0.01, 3, "go on"), rates(0, 1e-9), 50)
    assert bold.aborted == pytest.approx(0, abs=1e-12)
    assert (bold.exposed, bold.seconds) == pytest.approx((60, 6))
    none = predict.canary(canary_of(0.01, 3, "go on"), rates(0, 1e-9), 0)
    assert (none.aborted, none.exposed, none.seconds) == pytest.approx((1, 0, 3))


def test_late_requests_are_exposed_too():
    on_time = predict.canary(canary_of(0.01, 20), rates(0, 1), 50)
    late = predict.canary(canary_of(0.01, 20), rates(0, 1), 50, late_s=2)
    assert on_time.aborted == late.aborted == pytest.approx(1)
    needed = predict.errors_needed(canary_of(0.01, 20).gates[0].judge, 0.1)
    assert on_time.exposed == pytest.approx(needed)
    assert late.exposed == pytest.approx(needed + 10)  # two seconds, a tenth of 50
    assert late.seconds == pytest.approx(on_time.seconds + 2)


@pytest.mark.parametrize(
    ("strategy", "stable"),
    [
        (SMALL, 0.01),
        (replace(SMALL, gates=()), 0),
        (replace(SMALL, gates=SMALL.gates * 2), 0),
        (replace(SMALL, gates=BLUE_GREEN.gates), 0),
    ],
)
def test_other_canaries_have_no_closed_form(strategy, stable):
    with pytest.raises(ValueError, match="closed form"):
        predict.canary(strategy, rates(stable, 0.1), 50)


class Even:
    """Draws in which as many requests arrive as are meant to, each second."""

    def __init__(self, seed: int) -> None:
        self.binomial = rng(seed).binomial

    def poisson(self, mean: float) -> int:
        return round(mean)


def switch(limit: float, window_s: float, keep_s: float = 20) -> BlueGreen:
    gate = Gate("errors", Threshold(limit, window_s=window_s))
    return BlueGreen(keep_s, (gate,))


@pytest.mark.parametrize(
    ("window_s", "rate"), [(2, 0.005), (10, 0.005), (5, 0.02), (7, 0.01)]
)
def test_the_prediction_of_a_blue_green_switch(window_s, rate):
    strategy, n = switch(0.01, window_s), 400
    found = predict.blue_green(strategy, rates(0, rate), 100)
    aborted, exposed = one_by_one(strategy, rates(0, rate), 100, n, Even)
    assert may_be(aborted.sum(), n, found.aborted)
    assert same_mean(exposed, found.exposed)
    for seconds in range(window_s, 20, window_s):
        some = 100 * seconds
        assert may_be((exposed <= some).sum(), n, min(found.at_most[some], 1))
    assert found.seconds == pytest.approx(found.exposed / 100)
    assert found.at_most[-1] == pytest.approx(1)


def test_the_figures_of_a_blue_green_switch():
    # Ten windows of 200 requests; anchors: 0.564853 of healthy versions are aborted.
    found = predict.blue_green(switch(0.01, 2), rates(0, 0.005), 100)
    assert found.aborted == pytest.approx(0.564853, abs=5e-7)
    sure = predict.blue_green(switch(0.01, 2), rates(0, 1), 100, late_s=1)
    assert (sure.aborted, sure.exposed, sure.seconds) == pytest.approx((1, 300, 3))
    assert sure.between(0.05) == (300, 300)


@pytest.mark.parametrize(
    "gates",
    [
        (),
        BLUE_GREEN.gates * 2,
        (Gate("errors", Threshold(0.01, failures=1, window_s=1)),),
    ],
)
def test_other_switches_are_not_predicted(gates):
    with pytest.raises(ValueError, match="one Threshold"):
        predict.blue_green(replace(BLUE_GREEN, gates=gates), rates(0, 0), 50)


# -- invariants --------------------------------------------------------------------

JUDGES = st.one_of(
    st.builds(
        Threshold,
        limit=st.sampled_from([0.0, 0.05, 0.3]),
        failures=st.integers(0, 2),
        at_least=st.sampled_from([1, 20]),
        window_s=st.sampled_from([0.0, 1.5, 4.0]),
    ),
    st.builds(
        SplitEProcess,
        alpha=st.sampled_from([0.001, 0.05, 0.5]),
        at_least=st.sampled_from([1, 30]),
        check_ratio=st.booleans(),
    ),
)
GATES = st.lists(
    st.builds(Gate, st.sampled_from(["errors", "slow"]), JUDGES), max_size=3
)
SHARES = st.sets(st.integers(1, 999), min_size=1, max_size=4)
CHANCES = st.fixed_dictionaries(
    {
        role: st.fixed_dictionaries(
            {m: st.sampled_from([0.0, 0.01, 0.1, 1.0]) for m in ("errors", "slow")}
        )
        for role in (STABLE, CANDIDATE)
    }
)
STRATEGIES = st.one_of(
    st.builds(
        Canary,
        shares=SHARES.map(lambda s: tuple(n / 1000 for n in sorted(s))),
        bake_s=st.sampled_from([0.4, 1.0, 3.5]),
        gates=GATES.map(tuple),
        on_doubt=st.sampled_from(["abort", "go on"]),
    ),
    st.builds(
        BlueGreen,
        keep_s=st.sampled_from([0.0, 0.4, 5.0]),
        gates=GATES.map(
            lambda gates: tuple(g for g in gates if isinstance(g.judge, Threshold))
        ),
    ),
)


def holds(strategy, chances, requests_per_s, deploy_s, tick_s, seed) -> None:
    def run() -> Report:
        return carry_out(
            strategy,
            Simulated(
                chances,
                requests_per_s,
                rng(seed),
                tick_s,
                deploy_s or 0.0,
                ready_s=0.0 if deploy_s is None else None,
            ),
        )

    report = run()
    assert broken(report) == []
    assert run() == report  # I8
    assert replay(strategy, report) == report  # I9, and I10
    assert deploy_s is not None or report.exposed_requests == 0


ANYTHING = {
    "strategy": STRATEGIES,
    "chances": CHANCES,
    "requests_per_s": st.sampled_from([0, 2, 60]),
    "deploy_s": st.sampled_from([0.0, 2.5, None]),
    "tick_s": st.sampled_from([0.3, 1.0]),
    "seed": st.integers(0, 2**32 - 1),
}


@given(**ANYTHING)
@settings(max_examples=100, deadline=None)
def test_a_simulated_rollout_keeps_its_invariants(**anything):
    holds(**anything)


@pytest.mark.soak
@given(**ANYTHING)
@settings(max_examples=5000, deadline=None)
def test_a_simulated_rollout_keeps_its_invariants_in_full(**anything):
    holds(**anything)


# A promotion and an abort, written by hand; each fault is planted in one of them.


def log(*events: tuple) -> list[Event]:
    return [Event(at_s, what, details) for at_s, what, details in events]


PROMOTED = log(
    (1.0, "deploy", {"role": CANDIDATE}),
    (1.0, "shift", {"candidate": "5 %"}),
    (3.0, "shift", {"candidate": "50 %"}),
    (5.0, "shift", {"candidate": "100 %"}),
    (6.0, "drain", {"role": STABLE}),
    (7.0, "retire", {"role": STABLE}),
    (7.0, "promote", {}),
    (7.0, "end", {"outcome": "promoted", "reason": ""}),
)
ABORTED = log(
    (1.0, "deploy", {"role": CANDIDATE}),
    (1.0, "shift", {"candidate": "5 %"}),
    (3.0, "verdict", {"of": "errors", "verdict": "failed", "why": "bad"}),
    (3.0, "abort", {"reason": "bad"}),
    (4.0, "drain", {"role": CANDIDATE}),
    (5.0, "retire", {"role": CANDIDATE}),
    (5.0, "end", {"outcome": "aborted", "reason": "bad"}),
)
SEEN = [
    tick(0.0, (9, 1), (0, 0), at_s=0),
    tick(0.05, (9, 1), (2, 2), at_s=1),
    tick(0.05, (9, 9), (2, 0), at_s=2),
]


def promotion() -> Report:
    return Report("promoted", "", list(PROMOTED), list(SEEN))


def abortion() -> Report:
    return Report("aborted", "bad", list(ABORTED), list(SEEN))


def without(report: Report, what: str) -> Report:
    return replace(report, log=[e for e in report.log if e.what != what])


def swapped(report: Report, one: str, other: str) -> Report:
    """Two lines change places; the times stay."""
    changed = list(report.log)
    a, b = (happened(changed).index(what) for what in (one, other))
    changed[a], changed[b] = (
        replace(changed[b], at_s=changed[a].at_s),
        replace(changed[a], at_s=changed[b].at_s),
    )
    return replace(report, log=changed)


def told(report: Report, place: int, **details: str) -> Report:
    """One line says something else."""
    changed = list(report.log)
    changed[place] = replace(changed[place], details=details)
    return replace(report, log=changed)


def also(report: Report, place: int, *event) -> Report:
    """One line more, before another."""
    changed = list(report.log)
    changed.insert(place, Event(*event))
    return replace(report, log=changed)


def measured(report: Report, one: Measurement) -> Report:
    return replace(report, measurements=[*report.measurements, one])


def test_a_right_log_breaks_nothing():
    assert broken(promotion()) == broken(abortion()) == []
    # Without a deploy that was done there is nothing else to see.
    failed = abortion()
    failed.log[:3] = log((2.0, "failed", {"step": "deploy", "why": "bad"}))
    failed.measurements[1:] = []
    assert broken(failed) == []
    # The request that came before the abort may be counted while it is carried out.
    assert broken(measured(abortion(), tick(0.05, (9, 0), (2, 0), at_s=2.9))) == []
    late = replace(SEEN[2], from_s=3.0, to_s=3.0)
    assert broken(measured(abortion(), late)) == []


NO_END = "The log does not have one end, as its last line"


@pytest.mark.parametrize(
    ("report", "sentence"),
    [
        (
            told(promotion(), 1, candidate="-5 %"),
            "I1: a share of -0.05 is not from 0 to 1",
        ),
        (
            measured(promotion(), tick(1.2, (9, 0), (9, 0), at_s=5)),
            "I1: a share of 1.2 is not from 0 to 1",
        ),
        (
            told(abortion(), 1, candidate="some"),
            "I1: a share of nan is not from 0 to 1",
        ),
        (told(abortion(), 1), "I1: a share of nan is not from 0 to 1"),
        (
            measured(promotion(), tick(0.05, (9, 0), (0, 0), at_s=0.5)),
            "I2: candidate had traffic at 0.5 s, before its deploy",
        ),
        (
            measured(promotion(), tick(0.5, (9, 0), (0, 0), at_s=7)),
            "I2: stable had traffic at 7 s, after its retire",
        ),
        (
            also(abortion(), 6, 5.0, "promote", {}),
            "I4: a promote at 5 s, after the abort",
        ),
        (
            measured(abortion(), tick(0.05, (9, 0), (0, 0), at_s=3)),
            "I4: candidate had traffic at 3 s, after the abort",
        ),
        (
            replace(swapped(promotion(), "deploy", "shift"), measurements=[]),
            "I5: shift at 1 s, while candidate was not ready",
        ),
        (
            swapped(promotion(), "drain", "retire"),
            "I5: retire of stable at 6 s, before it was drained",
        ),
        (
            swapped(abortion(), "drain", "retire"),
            "I5: retire of candidate at 4 s, before it was drained",
        ),
        (
            without(abortion(), "drain"),
            "I5: retire of candidate at 5 s, before it was drained",
        ),
        (
            also(promotion(), 3, 4.0, "drain", {"role": STABLE}),
            "I5: drain of stable at 4 s, while it had traffic",
        ),
        (
            also(abortion(), 2, 2.0, "drain", {"role": CANDIDATE}),
            "I5: drain of candidate at 2 s, while it had traffic",
        ),
        (
            also(promotion(), 2, 0.5, "verdict", {"verdict": "successful"}),
            "The log goes back, from 1 s to 0.5 s",
        ),
        (
            told(promotion(), 2, candidate="1 %"),
            "The share fell from 5 % to 1 % by a shift",
        ),
        (
            also(promotion(), 3, 4.0, "verdict", {"verdict": "failed"}),
            "A gate failed at 4 s, and shift followed",
        ),
        (
            also(promotion(), 8, 7.0, "end", {"outcome": "promoted", "reason": ""}),
            NO_END,
        ),
        (also(promotion(), 8, 8.0, "promote", {}), NO_END),
        (without(abortion(), "end"), NO_END),
        (
            replace(promotion(), outcome="aborted"),
            "The report has another outcome or reason than its log",
        ),
        (
            replace(abortion(), reason="good"),
            "The report has another outcome or reason than its log",
        ),
        (
            told(promotion(), 7, outcome="interrupted", reason="x"),
            "The outcome is interrupted, not promoted, aborted or passed",
        ),
        (
            without(promotion(), "promote"),
            "It was promoted without a promote after the retire of stable",
        ),
        (
            swapped(promotion(), "retire", "promote"),
            "It was promoted without a promote after the retire of stable",
        ),
        (
            without(promotion(), "retire"),
            "It was promoted without a promote after the retire of stable",
        ),
        (
            Report(
                "aborted", "", told(abortion(), 6, outcome="aborted", reason="").log
            ),
            "It was aborted without an abort, or without a reason",
        ),
        (
            Report("aborted", "bad", [ABORTED[0], ABORTED[-1]]),
            "It was aborted without an abort, or without a reason",
        ),
        (
            measured(promotion(), tick(0.05, (9, 0), (2, 3), at_s=3)),
            "candidate had 3 errors in 2 requests",
        ),
        (
            measured(promotion(), tick(0.05, (2, 3), (9, 0), at_s=3)),
            "stable had 3 errors in 2 requests",
        ),
    ],
)
def test_each_broken_invariant_is_found(report, sentence):
    assert broken(report) == [sentence]


def test_one_fault_may_break_several():
    back = told(promotion(), 3, candidate="60 %")
    assert broken(back) == [
        "I5: drain of stable at 6 s, while it had traffic",
        "It was promoted without a shift to 100 %",
    ]
    # Traffic is sent back to what is gone.
    gone = also(promotion(), 7, 7.0, "abort", {"reason": "bad"})
    assert "I5: abort at 7 s, while stable was not ready" in broken(gone)
    again = also(abortion(), 4, 3.5, "shift", {"candidate": "5 %"})
    assert broken(again) == [
        "I4: a shift at 3.5 s, after the abort",
        "I5: drain of candidate at 4 s, while it had traffic",
    ]
    unheeded = without(abortion(), "abort")
    assert broken(unheeded) == [
        "I5: drain of candidate at 4 s, while it had traffic",
        "A gate failed at 3 s, and drain followed",
        "It was aborted without an abort, or without a reason",
    ]


@given(st.permutations(range(len(PROMOTED))))
@settings(max_examples=200, deadline=None)
def test_no_other_order_of_a_promotion_is_right(order):
    changed = [
        replace(PROMOTED[place], at_s=PROMOTED[i].at_s) for i, place in enumerate(order)
    ]
    wrong = changed != PROMOTED
    assert bool(broken(Report("promoted", "", changed))) == wrong


# -- corners -----------------------------------------------------------------------


def test_a_bake_that_is_no_multiple_of_the_tick_ends_when_it_should():
    rates = {role: {"errors": 0.0} for role in (STABLE, CANDIDATE)}
    for bake_s in (0.4, 2.5):
        strategy = Canary((0.5,), bake_s, (Gate("errors", PLAIN),), on_doubt="go on")
        many = canaries(strategy, rates, 1000, np.random.default_rng(1), 50)
        assert not many.aborted.any()
        assert many.ended_s == pytest.approx(bake_s)
        mean = 500 * bake_s
        assert abs(many.exposed.mean() - mean) < 6 * math.sqrt(mean / 50)


def test_a_version_without_errors_is_predicted_to_stay():
    rates = {role: {"errors": 0.0} for role in (STABLE, CANDIDATE)}
    said = predict.canary(CANARY, rates, 200)
    assert (said.aborted, said.exposed) == (0.0, pytest.approx(60 * 200 * 0.25))


@pytest.mark.parametrize(
    "judge", [Threshold(0.01, window_s=90), Threshold(0.01, window_s=1, at_least=300)]
)
def test_windows_that_are_never_judged_send_it_back(judge):
    rates = {STABLE: {"errors": 0.0}, CANDIDATE: {"errors": 0.05}}
    strategy = BlueGreen(60, (Gate("errors", judge),))
    said = predict.blue_green(strategy, rates, 200)
    world = Simulated(rates, 200, np.random.default_rng(1))
    report = carry_out(strategy, world)
    assert (said.aborted, report.outcome) == (1.0, "aborted")
    assert report.reason == "there is no data to judge by"
    assert said.exposed == 12_000 == said.between(0.1)[1]


def test_wrong_values_are_refused():
    rates = {STABLE: {"errors": 0.0}, CANDIDATE: {"errors": 0.05}}
    with pytest.raises(ValueError, match="window_s"):
        predict.blue_green(BLUE_GREEN, rates, 200)
    with pytest.raises(ValueError, match="keep_s"):
        BlueGreen(keep_s=-1)


# -- measured ----------------------------------------------------------------------


@pytest.mark.bench
def test_bench_simulator():
    """Single requests beside drawing one uniform for each, in turns; and rollouts.

    The target is a ratio of 0.5 at least; it is printed, not asserted.
    """
    rng = np.random.default_rng(1)
    n, drawn = 1 << 24, np.empty(1 << 15)
    ratios = []
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(n // drawn.size):
            rng.random(out=drawn)
        limit_s = time.perf_counter() - start
        start = time.perf_counter()
        counted = single_requests(rng, n, 0.05, 0.002, 0.05)
        ratios.append(limit_s / (time.perf_counter() - start))
        assert counted[0] + counted[2] == n
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    rates = {STABLE: {"errors": 0.002}, CANDIDATE: {"errors": 0.002}}
    start = time.perf_counter()
    many = canaries(CANARY, rates, 200, rng, 10_000)
    took_s = time.perf_counter() - start
    print(
        f"\nsingle requests over the uniform limit: {middle:.2f} (quartiles {low:.2f} "
        f"to {high:.2f}); 10,000 canaries of {many.ended_s.max():.0f} ticks in "
        f"{took_s:.2f} s"
    )


def test_missed_is_what_the_prediction_leaves():
    rates = {STABLE: {"errors": 0.0}, CANDIDATE: {"errors": 0.05}}
    strategy = replace(CANARY, on_doubt="go on", bake_s=4)
    stages = [(share, round(200 * share * 4)) for share in CANARY.shares]
    left = predict.missed(PLAIN, stages, 0.05)
    said = predict.canary(strategy, rates, 200)
    assert 1e-6 < left == pytest.approx(1 - said.aborted)
    assert predict.missed(PLAIN, [], 0.05) == 1 == predict.missed(PLAIN, stages, 0.0)
    # One stage is a binomial tail.
    needed = predict.errors_needed(PLAIN, 0.05)
    tail = stats.binom.cdf(needed - 1, 90, 0.05)
    assert predict.missed(PLAIN, [(0.05, 90)], 0.05) == pytest.approx(tail)
