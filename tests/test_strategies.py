"""Every strategy decides as it says, and keeps its invariants, whatever goes wrong.

Statistical tests compare at six standard errors, or with bounds whose chance is stated;
the seeds are fixed. Where Hypothesis draws, it draws cases.
"""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploylab.rollout import (
    AB,
    Bandit,
    Basic,
    BlueGreen,
    Canary,
    FixedSample,
    Gate,
    MultiService,
    Report,
    Rolling,
    Shadow,
    SplitEProcess,
    Threshold,
    Verdict,
    carry_out,
    carry_out_services,
    compare,
    predict,
    replay,
)
from deploylab.rollout.engine import StepFailed, in_words
from deploylab.rollout.invariants import broken, moved
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Abort,
    Bake,
    Counts,
    Deploy,
    Drain,
    Event,
    Judgement,
    Measurement,
    Mirror,
    Preview,
    Promote,
    Retire,
    State,
    Step,
    TrafficSplit,
)
from deploylab.rollout.simulate import Simulated
from deploylab.rollout.strategies import chance_of_less

LIMIT = Gate("errors", Threshold(0.02, window_s=2.0))
PROCESS = Gate("errors", SplitEProcess(alpha=0.01, at_least=20))
USERS = Gate("errors", SplitEProcess(alpha=0.01, at_least=20), unit="user")
GOOD, BAD = 0.001, 0.2
ONCE = Gate("errors", FixedSample(5))
DIFFERS = Gate("differs", SplitEProcess())
ROLLING = Rolling(10, "25%", "25%", (LIMIT,), min_ready_s=5)
EACH = {
    "Basic": Basic((LIMIT,), 10),
    "Rolling": ROLLING,
    "BlueGreen": BlueGreen(10, (LIMIT,), (PROCESS,), 300),
    "Canary": Canary((0.1, 0.5), (5, 10), (PROCESS,)),
    "sticky": Canary((0.1, 0.5), 10, (USERS,), sticky=True),
    "Shadow": Shadow(0.5, 10, (Gate("errors alone", PROCESS.judge),)),
    "AB": AB(400, Gate("errors", FixedSample(400)), 60, guards=(USERS,)),
    "Bandit": Bandit("errors", 2, 20, gates=(LIMIT,)),
}


def world(candidate: float = GOOD, *, stable: float = GOOD, seed: int = 1, **options):
    rates = {STABLE: {"errors": stable}, CANDIDATE: {"errors": candidate}}
    options = {"deploy_s": 3.0, "stop_s": 1.0, "size": 10} | options
    rng = np.random.default_rng(seed)
    return Simulated(rates, 100, rng, **options)


def run(strategy, *, population: int | None = 5000, **options) -> Report:
    report = carry_out(strategy, world(population=population, **options))
    assert broken(report) == []
    assert replay(strategy, report) == report
    return report


def steps(report: Report) -> list[str]:
    """What was done, with its details, but for what was said."""
    return [
        f"{event.what} {in_words(event)}".strip()
        for event in report.log
        if event.what not in ("begin", "verdict", "end")
    ]


# -- each of them, good and bad ----------------------------------------------------


@pytest.mark.parametrize("name", EACH)
def test_a_good_version_comes_through(name):
    # An A/B test and a bandit promote what is better, not what is as good.
    stable = 0.1 if name in ("AB", "Bandit") else GOOD
    gates = {"AB": {}, "Bandit": {"gates": ()}}.get(name, {})
    report = run(replace(EACH[name], **gates), stable=stable)
    assert report.outcome == ("passed" if name == "Shadow" else "promoted")
    assert (report.lost_requests > 0) == (name == "Basic")


@pytest.mark.parametrize("name", EACH)
def test_a_bad_version_is_given_up(name):
    report = run(EACH[name], candidate=BAD)
    assert (report.outcome, "gate failed" in report.reason) == ("aborted", True)
    assert (report.exposed_requests == 0) == (name in ("BlueGreen", "Shadow"))


@pytest.mark.parametrize("name", EACH)
def test_a_version_that_never_becomes_ready_hurts_no_one(name):
    report = run(EACH[name], ready_s=6.0)
    assert report.outcome == "aborted"
    assert report.reason == "it was not ready within 6 s"
    assert report.exposed_requests == 0
    assert (report.lost_requests > 0) == (name == "Basic")


@pytest.mark.parametrize("name", EACH)
def test_a_candidate_that_dies_is_given_up(name):
    report = run(replace_before(EACH[name]), dies_after=100)
    assert report.outcome == "aborted"
    assert "died" in report.reason


def replace_before(strategy):
    """Without a preview, so that users' requests are those after which it dies."""
    return replace(strategy, before=()) if hasattr(strategy, "before") else strategy


@pytest.mark.parametrize("name", EACH)
def test_without_traffic_nothing_is_concluded(name):
    environment = world(population=100)
    environment.requests_per_s = 1e-9
    report = carry_out(replace_before(EACH[name]), environment)
    assert broken(report) == []
    assert report.outcome == "aborted"
    assert ("no data" in report.reason) == (name not in ("AB", "Bandit"))


# -- Basic -------------------------------------------------------------------------


def test_recreate_loses_what_comes_while_nobody_is_there():
    report = run(EACH["Basic"], deploy_s=30.0, stop_s=5.0, population=None)
    assert steps(report) == [
        "retire stable, an outage",
        "deploy candidate",
        "shift candidate gets 100 %",
        "promote",
    ]
    expected = 100 * 35
    assert abs(report.lost_requests - expected) < 6 * math.sqrt(expected)


def test_recreate_goes_back_as_it_came():
    report = run(EACH["Basic"], candidate=BAD, deploy_s=30.0, stop_s=5.0)
    assert steps(report)[3:] == [
        "abort a gate failed, not at once, candidate has 100 %, "
        "0 stable and 10 candidate",
        "retire candidate, an outage",
        "deploy stable",
        "shift candidate gets 0 %",
    ]
    expected = 2 * 100 * 35
    assert abs(report.lost_requests - expected) < 6 * math.sqrt(expected)


# -- Rolling -----------------------------------------------------------------------


def test_ten_instances_roll_in_two_waves_by_default():
    report = run(Rolling(10))
    assert steps(report) == [
        "retire stable, 8 instances",
        "deploy candidate, 5 instances",
        "shift candidate gets 62.5 %",
        "retire stable, 3 instances",
        "deploy candidate, 10 instances",
        "shift candidate gets 100 %",
        "drain stable",
        "retire stable",
        "promote",
    ]


def test_a_gate_that_fails_rolls_the_old_version_back_in():
    report = run(ROLLING, candidate=BAD)
    done = steps(report)
    [at] = [i for i, s in enumerate(done) if s.startswith("abort a gate failed, not")]
    back = done[at + 1 :]
    assert "retire candidate" in back
    assert [one for one in back if one.startswith("deploy")][-1] == (
        "deploy stable, 10 instances"
    )
    shares = [one.share for one in report.measurements if one.of == "users"]
    top = int(np.argmax(shares))
    assert all(np.diff(shares[top:]) <= 0)


@pytest.mark.parametrize(
    ("limits", "first"),
    [
        ((1, 0), "deploy candidate, 1 instances"),
        ((0, 1), "retire stable, 9 instances"),
        (("100%", 0), "deploy candidate, 10 instances"),
        ((0, "100%"), "retire stable, an outage"),
    ],
)
def test_the_limits_say_what_comes_first(limits, first):
    report = carry_out(Rolling(10, *limits), world())
    assert next(s for s in steps(report) if not s.startswith("drain")) == first


def test_one_instance_without_room_for_another_is_an_outage():
    report = run(Rolling(1, 0, 1), size=1)
    assert steps(report) == [
        "retire stable, an outage",
        "deploy candidate, 1 instances",
        "shift candidate gets 100 %",
        "promote",
    ]
    assert report.lost_requests > 0
    with pytest.raises(ValueError, match="longer min_ready_s"):
        predict.damage(Rolling(1, 0, 1), replace(REFERENCE, instances=1))


def test_a_router_that_refuses_for_ever_ends_a_roll():
    """A step that is asked for again and again fails so many times and no more."""

    class Refuses(Simulated):
        def do(self, step):
            if step.__class__.__name__ == "Retire" and self.share:
                raise StepFailed("the router refuses")
            return super().do(step)

    rates = {role: {"errors": 0.0} for role in (STABLE, CANDIDATE)}
    env = Refuses(rates, 100, np.random.default_rng(1), size=10)
    heard = []
    with pytest.raises(StepFailed, match="refuses"):
        carry_out(ROLLING, env, heard.append)
    assert len(heard) < 40
    assert heard[-1].what == "end"
    assert env.share == 0


def test_a_guard_is_heard_at_the_deciding_look():
    rates = {
        STABLE: {"wrong": 0.1, "errors": 0.0},
        CANDIDATE: {"wrong": 0.0, "errors": 1.0},
    }
    env = Simulated(rates, 400, np.random.default_rng(1), tick_s=5, population=5000)
    guard = Gate("errors", SplitEProcess(alpha=0.01, at_least=20))
    strategy = AB(400, Gate("wrong", FixedSample(400)), 60, guards=(guard,))
    assert carry_out(strategy, env).outcome == "aborted"


def test_a_bandit_does_not_hear_of_the_time_before_its_trial():
    """Errors rise for all at the release: two equal versions stay equal."""

    class Day(Simulated):
        def do(self, step):
            level = 0.002 if not self.share else 0.02
            self.rates = {role: {"errors": level} for role in (STABLE, CANDIDATE)}
            return super().do(step)

    blamed = 0
    for seed in range(20):
        env = Day({}, 200, np.random.default_rng(seed), deploy_s=60)
        report = carry_out(Bandit("errors", 2, 20, enough=0.99), env)
        blamed += "chance of 0.0" in report.reason
    # With the time before, all 20 are below 0.1. Without it each is with a chance of a
    # quarter at most, and more than 15 of them with one of 4e-7.
    assert blamed <= 15


def test_the_last_instance_is_watched_too():
    one = Rolling(1, 0, 1, (Gate("errors", Threshold(0.02, window_s=2)),), 10)
    assert run(one, size=1, candidate=BAD).reason == "a gate failed"


@pytest.mark.parametrize("one", [Canary((0.1,), 5, ()), Shadow(0.5, 5, ())])
def test_a_strategy_that_compares_does_not_pass_what_nobody_judged(one):
    assert run(one).reason == "the gates came to no conclusion"
    assert run(replace(one, on_doubt="go on")).outcome != "aborted"


@pytest.mark.parametrize("way", [Rolling(7), Rolling(11), Rolling(10, 0, 1)])
def test_gates_are_not_waited_for_without_time_to_watch(way):
    slow = Gate("errors", Threshold(0.02, window_s=60))
    report = run(replace(way, gates=(slow,)), size=way.instances)
    assert report.outcome == "promoted"


def test_gates_without_time_to_see_are_no_proof():
    slow = Gate("errors", Threshold(0.02, window_s=60))
    for strategy, size in (
        (replace(ROLLING, gates=(slow,)), 10),
        (Basic((slow,), 10), 10),
        (Rolling(1, 0, 1, (slow,), 30), 1),
        (Rolling(10, 0, 10, (slow,), 30), 10),
    ):
        report = run(strategy, candidate=BAD, size=size)
        assert (report.outcome, report.reason) == (
            "aborted",
            "there is no data to judge by",
        )


# -- BlueGreen ---------------------------------------------------------------------


def test_a_preview_stops_a_bad_version_before_any_user_meets_it():
    report = run(EACH["BlueGreen"], candidate=BAD)
    assert steps(report)[:3] == [
        "deploy candidate",
        "preview 300 requests of our own",
        "abort a gate failed",
    ]
    assert report.events("errors", of="preview") > 0
    assert report.events("errors") == 0


def test_a_preview_without_a_conclusion_is_no_switch():
    judge = SplitEProcess(at_least=1000)
    strategy = BlueGreen(5, before=(Gate("errors", judge),), preview=100)
    assert run(strategy).reason == "the preview came to no conclusion"


# -- Shadow, A/B, Bandit -----------------------------------------------------------


def test_no_user_meets_a_shadow():
    report = run(EACH["Shadow"], candidate=BAD)
    mirrored = [one for one in report.measurements if one.of == "mirror"]
    assert sum(one.candidate.requests for one in mirrored) > 50
    assert report.exposed_requests == 0
    assert all(one.candidate.requests == one.stable.requests for one in mirrored)


def test_pairs_are_counted_together_and_alone():
    rates = {STABLE: {"wrong": 0.1}, CANDIDATE: {"wrong": 0.2, "differs": 0.3}}
    env = Simulated(
        rates, 10_000, np.random.default_rng(3), both={"wrong": 0.05}, deploy_s=0.0
    )
    strategy = Shadow(1.0, 20, (Gate("errors", Threshold(0.5)),), on_doubt="go on")
    report = carry_out(strategy, env)
    n = sum(m.candidate.requests for m in report.measurements if m.of == "mirror")
    for metric, role, chance in [
        ("wrong", STABLE, 0.1),
        ("wrong", CANDIDATE, 0.2),
        ("wrong alone", STABLE, 0.05),
        ("wrong alone", CANDIDATE, 0.15),
        ("differs", CANDIDATE, 0.3),
    ]:
        got = report.events(metric, role, of="mirror")
        assert abs(got - n * chance) < 6 * math.sqrt(n * chance * (1 - chance))


def test_an_a_b_test_decides_at_its_size_and_not_before():
    report = run(EACH["AB"], stable=0.1)
    said = [e for e in report.log if e.what == "verdict" and ", p " in in_words(e)]
    assert [e.details["verdict"] for e in said] == ["successful"]
    before = [m for m in report.measurements if m.to_s <= said[0].at_s]
    users = [
        sum(getattr(m, role).users for m in part)
        for part in (before, before[:-1])
        for role in (STABLE, CANDIDATE)
    ]
    assert min(users[:2]) >= 400 > min(users[2:])


def test_an_a_b_test_with_too_few_users_ends():
    report = run(EACH["AB"], population=300)
    assert report.reason == "there were too few users within 60 s"


def test_a_bandit_leaves_the_worse_arm():
    strategy = replace(EACH["Bandit"], gates=())
    report = run(strategy, candidate=0.3, stable=0.1)
    shares = [one.share for one in report.measurements if one.of == "users"]
    assert shares[0] == 0.0
    assert max(shares) == 0.5
    assert min(s for s in shares if s) == strategy.floor
    assert report.outcome == "aborted"


def test_the_chance_to_be_better_is_exact():
    assert chance_of_less((51, 951), (66, 936)) == pytest.approx(0.924480, abs=5e-7)
    assert chance_of_less((1, 1), (1, 1)) == pytest.approx(0.5)
    x, y = (3, 7), (5, 4)
    assert chance_of_less(x, y) + chance_of_less(y, x) == pytest.approx(1)
    rng = np.random.default_rng(4)
    drawn = np.mean(rng.beta(*x, 10**6) < rng.beta(*y, 10**6))
    assert abs(chance_of_less(x, y) - drawn) < 6 * 0.5 / 1000


# -- predicted ---------------------------------------------------------------------

REFERENCE = predict.World(
    requests_per_s=200, instances=10, start_s=30, stop_s=5, look_s=30, needed=200,
    switch_s=1,
)  # fmt: skip
ONE = Gate("errors", Threshold(0.1))
DAMAGE = [
    # strategy, exposed, lost, floor, extra instance-seconds, seconds until clean
    (Basic(), 6000, 14000, 0, 0, 65),
    (Rolling(10), 7500, 0, 8, 180, 60),
    (Rolling(10, 1, 0), 1200, 0, 10, 300, 60),
    (BlueGreen(30), 6200, 0, 10, 600, 31),
    (BlueGreen(30, before=(ONE,), preview=200), 0, 0, 10, 600, 0),
    (AB(1, ONE, 300), 3100, 0, 10, 3300, 31),
    (Bandit("errors", 300, 300), 3100, 0, 10, 3300, 31),
    (Canary((0.1,), 300, ()), 620, 0, 10, 3300, 31),
    (Canary((0.05,), 300, ()), 310, 0, 10, 3300, 31),
    (Canary((0.02,), 300, ()), 244, 0, 10, 3300, 61),
    (Canary((0.01,), 300, ()), 242, 0, 10, 3300, 121),
    (Canary((0.005, 0.1), 60, ()), 60 + 20 * 31, 0, 10, 1500, 91),
    (Shadow(1, 300, ()), 0, 0, 10, 3300, 0),
]


@pytest.mark.parametrize(("strategy", "exposed", "lost", "floor", "extra", "s"), DAMAGE)
def test_damage_in_closed_form(strategy, exposed, lost, floor, extra, s):
    said = predict.damage(strategy, REFERENCE)
    assert said.exposed == pytest.approx(exposed)
    assert (said.lost, said.floor) == (lost, floor)
    assert said.extra_instance_s == pytest.approx(extra)
    assert said.clean_s == pytest.approx(s)
    assert said.assumes


class EnoughSeen:
    """Fails once the candidate has answered so many requests."""

    def judge(self, metric, measurements):
        seen = sum(one.candidate.requests for one in measurements)
        verdict = Verdict.FAILED if seen >= REFERENCE.needed else Verdict.SUCCESSFUL
        return Judgement(verdict, f"{seen} requests")


SEEN = Gate("errors", EnoughSeen())


@pytest.mark.parametrize(
    "strategy",
    [
        Basic((SEEN,), 1000),
        Rolling(10, gates=(SEEN,)),
        Rolling(10, 1, 0, gates=(SEEN,)),
        BlueGreen(30, (SEEN,)),
        Canary((0.1,), 300, (SEEN,)),
        Canary((0.01,), 300, (SEEN,)),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_simulated_damage_is_as_predicted(strategy):
    """Six standard errors of the mean of 20 runs; 2e-9 a side."""
    said = predict.damage(strategy, replace(REFERENCE, switch_s=0.0, needed=195))
    exposed, lost = [], []
    for seed in range(20):
        rates = {role: {"errors": 0.0} for role in (STABLE, CANDIDATE)}
        world = Simulated(
            rates, 200, np.random.default_rng(seed),
            tick_s=30, deploy_s=30, stop_s=5 if isinstance(strategy, Basic) else 0,
            size=10,
        )  # fmt: skip
        report = carry_out(strategy, world)
        assert report.outcome == "aborted"
        exposed.append(report.exposed_requests)
        lost.append(report.lost_requests)
    for got, mean in ((exposed, said.exposed), (lost, said.lost)):
        assert abs(np.mean(got) - mean) <= 6 * math.sqrt(max(mean, 1) / 20)


def test_what_has_no_closed_form_says_so():
    with pytest.raises(TypeError, match="no closed form for MultiService"):
        predict.damage(MultiService({"a": Basic()}), REFERENCE)
    with pytest.raises(ValueError, match="a larger share"):
        predict.damage(Canary((0.001,), 300, ()), REFERENCE)


def test_users_needed_is_fleiss_formula():
    """Against values of the literature's formula, worked out apart from this code."""
    assert predict.users_needed(0.01, 0.02, sides=1) == 1826
    assert predict.users_needed(0.01, 0.02) == 2319
    assert predict.users_needed(0.01, 0.02, sides=1, ratio=19) == 850
    assert predict.users_needed(0.001, 0.002, sides=1) == 18519
    assert predict.users_needed(0.01, 0.011, sides=1) == 128470
    with pytest.raises(ValueError, match="equal rates"):
        predict.users_needed(0.1, 0.1)


def test_any_bad_compounds():
    assert predict.any_bad([0.03] * 5) == pytest.approx(0.1412659743)
    assert predict.any_bad([]) == 0
    assert predict.any_bad([0.1, 0.5]) == pytest.approx(0.55)


# -- several services --------------------------------------------------------------

SERVICES = MultiService({"features": EACH["Basic"], "model": EACH["Basic"]})


def test_services_are_promoted_together():
    reports = carry_out_services(
        SERVICES, {"features": world(seed=1), "model": world(seed=2)}
    )
    assert [r.outcome for r in reports.values()] == ["promoted", "promoted"]
    assert [broken(r) for r in reports.values()] == [[], []]


@pytest.mark.parametrize("bad", ["features", "model"])
@pytest.mark.parametrize("inner", ["Basic", "BlueGreen", "Canary", "Rolling"])
def test_one_bad_service_takes_all_back_callers_first(bad, inner):
    heard: list[Event] = []
    services = MultiService(
        {n: replace_before(EACH[inner]) for n in ("features", "model")}
    )
    environments = {
        name: world(BAD if name == bad else GOOD, seed=5)
        for name in ("features", "model")
    }
    reports = carry_out_services(services, environments, heard.append)
    assert [r.outcome for r in reports.values()] == ["aborted", "aborted"]
    assert [broken(r) for r in reports.values()] == [[], []]
    other = "model" if bad == "features" else "features"
    assert reports[other].reason == f"{bad} was given up"
    ends = [e.details["service"] for e in heard if e.what in ("retire", "shift")]
    assert ends[-1] == "features"
    # Callees are released first, and callers go back first.
    for what, first in (("shift", "features"), ("abort", "model")):
        assert next(e for e in heard if e.what == what).details["service"] == first


@pytest.mark.parametrize("slow", ["features", "model"])
def test_no_service_is_released_before_all_are_deployed(slow):
    heard: list[Event] = []
    services = MultiService(dict.fromkeys(("features", "model"), EACH["Canary"]))
    environments = {
        name: world(seed=5, deploy_s=30.0 if name == slow else 1.0)
        for name in ("features", "model")
    }
    carry_out_services(services, environments, heard.append)
    first = [e.what for e in heard if e.what in ("deploy", "shift")]
    assert first[:2] == ["deploy", "deploy"]


def test_a_callee_waits_until_its_caller_is_back():
    """The callee could go back at once, and its caller takes its time."""
    services = MultiService({"features": EACH["Canary"], "model": ROLLING})
    environments = {"features": world(seed=5), "model": world(BAD, seed=5)}
    heard: list[Event] = []
    reports = carry_out_services(services, environments, heard.append)
    assert [r.outcome for r in reports.values()] == ["aborted", "aborted"]
    assert [broken(r) for r in reports.values()] == [[], []]
    shifts = [e for e in heard if e.what == "shift" and e.details["service"] == "model"]
    back = heard.index(shifts[-1])
    assert shifts[-1].details["candidate"] == "0 %"
    gone = [
        place
        for place, e in enumerate(heard)
        if e.what == "abort" and e.details["service"] == "features"
    ]
    assert gone > [back]


@pytest.mark.parametrize("inner", ["Canary", "BlueGreen", "Rolling", "Basic"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, StepFailed("x")])
def test_services_end_alike_if_one_is_promoted_and_the_other_interrupted(inner, error):
    class Interrupted(Simulated):
        def do(self, step: Step) -> list[Measurement]:
            if isinstance(step, Promote) and not self.told:
                self.told = True
                raise error
            return super().do(step)

    environments = {"features": world(seed=1), "model": world(seed=2)}
    last = environments["model"]
    last.__class__, last.told = Interrupted, False
    services = MultiService(
        {name: replace_before(EACH[inner]) for name in environments}
    )
    heard: list[Event] = []
    with pytest.raises(type(error) if isinstance(error, StepFailed) else error):
        carry_out_services(services, environments, heard.append)
    ends = [e.details["outcome"] for e in heard if e.what == "end"]
    assert ends == ["promoted", "promoted"]
    assert [env.instances[STABLE] for env in environments.values()] == [10, 10]


@pytest.mark.parametrize("name", ["Canary", "BlueGreen", "AB", "Bandit"])
def test_a_candidate_that_dies_before_the_old_version_goes_is_not_promoted(name):
    class Dies(Simulated):
        def do(self, step: Step) -> list[Measurement]:
            told = super().do(step)
            if step == Drain(STABLE):
                self.instances[CANDIDATE], self._died = 0, True
            return told

    environment = world(population=5000, candidate=0.0, stable=BAD)
    environment.__class__ = Dies
    report = carry_out(EACH[name], environment)
    assert (report.outcome, report.reason) == ("aborted", "candidate: it has died")
    assert broken(report) == []
    assert replay(EACH[name], report) == report
    assert environment.instances[STABLE] == 10


@pytest.mark.parametrize("name", sorted({*EACH} - {"Shadow"}))
def test_if_it_dies_later_the_old_version_is_started_again(name):
    class Dies(Simulated):
        def do(self, step: Step) -> list[Measurement]:
            told = super().do(step)
            if step == Retire(STABLE) or (self.share == 1 and isinstance(step, Bake)):
                self.instances[CANDIDATE], self._died = 0, True
            return told

    environment = world(population=5000, candidate=0.0, stable=BAD)
    environment.__class__ = Dies
    heard: list[Event] = []
    strategy = replace(EACH[name], gates=()) if name == "Rolling" else EACH[name]
    with contextlib.suppress(StepFailed):
        carry_out(strategy, environment, heard.append)
    end = heard[-1].details
    assert end["outcome"] == "aborted"
    assert broken(Report(end["outcome"], end["reason"], heard)) == []
    assert (environment.instances[STABLE], environment.share) == (10, 0.0)


def test_pairs_know_what_one_role_did_alone():
    """A preview's requests are answered by both; the same failures are no evidence."""
    alike, independent = (
        world(BAD, stable=BAD, both=both) for both in ({"errors": BAD}, {})
    )
    for environment in (alike, independent):
        environment.do(Deploy(CANDIDATE))
    preview = alike.do(Preview(1000))[-1]
    assert preview.candidate.events["errors"] == preview.stable.events["errors"] > 0
    assert preview.candidate.events["errors alone"] == 0
    alike.do(Retire(CANDIDATE))  # and then all of them fail
    assert alike.do(Preview(1000))[-1].candidate.events["errors"] == 1000
    apart = independent.do(Preview(1000))[-1].candidate.events
    assert 0 < apart["errors alone"] < apart["errors"]


def test_reports_are_summed_up_and_compared():
    """Ten instances, 100 requests a second, 3 s to start one, a look each second."""
    table = compare(
        {name: planted(name, candidate=BAD) for name in ("Basic", "Canary")}
    )
    assert list(table["outcome"]) == ["aborted", "aborted"]
    assert list(table["fewest instances"]) == [0, 10]
    assert table.loc["Basic", "extra instance-s"] == 0
    # Ten more from the start of their deployment to the end of the abort's retirement.
    report = planted("Canary", candidate=BAD)
    gone_s = report.at("retire")
    assert report.extra_instance_s == pytest.approx(10 * gone_s)
    assert report.seen_after_s == report.at("abort") - report.at("shift")
    assert report.over_after_s == report.seen_after_s
    good = planted("Rolling")
    assert np.isnan(good.seen_after_s)
    assert compare({"a": good}).loc["a", "requests"] == sum(
        m.stable.requests + m.candidate.requests for m in good.measurements
    )
    # Two waves: each 3 s to start with 13, 5 s until the old ones go, 1 s to stop them.
    assert good.extra_instance_s == pytest.approx(2 * 3 * (3 + 5 + 1))


def test_services_and_environments_must_be_the_same():
    with pytest.raises(ValueError, match="give each service one"):
        carry_out_services(SERVICES, {"features": world()})
    with pytest.raises(ValueError, match="at least one service"):
        MultiService({})


# -- bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Basic(bake_s=-1), "0 s or more"),
        (lambda: Rolling(10, 0, 0), "max_surge|both"),
        (lambda: Rolling(10, min_ready_s=-1), "0 s or more"),
        (lambda: BlueGreen(5, (PROCESS,)), "nothing to compare it with"),
        (lambda: BlueGreen(5, before=(LIMIT,), preview=0), "1 or more, not 0"),
        (lambda: Canary((0.1, 0.5), (5,), ()), "2 stages, and bake_s has 1 times"),
        (lambda: Canary((0.1,), 5, (PROCESS,), sticky=True), 'unit="user"'),
        (lambda: Shadow(0, 5, ()), "at most 1, not 0"),
        (lambda: Shadow(0.5, 0, ()), "above 0 s, not 0"),
        (lambda: Shadow(0.5, 5, (), on_doubt="wait"), "on_doubt"),
        (lambda: AB(0, LIMIT, 5), "1 or more"),
        (lambda: AB(5, LIMIT, 5, share=1), "both sides need users"),
        (lambda: AB(5, Gate("errors", FixedSample(9)), 5), "needs 9 users"),
        (lambda: Basic((LIMIT,)), "give bake_s"),
        (lambda: Bandit("errors", 5, 2), "not shorter"),
        (lambda: Bandit("errors", 1, 2, floor=0.5), "below a half"),
        (lambda: Bandit("errors", 1, 2, enough=1), "below 1"),
        (lambda: Gate("errors", LIMIT.judge, unit="session"), "unit is"),
        (lambda: Gate("errors", LIMIT.judge, on="dreams"), "users, preview or mirror"),
        (lambda: Mirror(5), "between 0 and 1, not 5"),
        (lambda: Basic((ONCE,), 5), "asked once"),
        (lambda: world(0.1, both={"errors": 0.2}), "between 0 and 0.001"),
        (lambda: Rolling(10, gates=(ONCE,)), "asked once"),
        (lambda: BlueGreen(5, (ONCE,)), "asked once"),
        (lambda: Canary((0.1,), 5, (ONCE,)), "asked once"),
        (lambda: Shadow(0.5, 5, (ONCE,)), "asked once"),
        (lambda: Bandit("errors", 1, 2, gates=(ONCE,)), "asked once"),
        (lambda: AB(5, LIMIT, 5, guards=(ONCE,)), "asked once"),
        (lambda: Shadow(0.5, 5, (DIFFERS,)), "would blame any version"),
        (lambda: BlueGreen(5, before=(DIFFERS,)), "would blame any version"),
        (lambda: FixedSample(0), "1 or more, not 0"),
        (lambda: FixedSample(5, 0.6), "below a half"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_fixed_sample_is_fishers_test():
    judge = FixedSample(500)

    def verdict(mine: int, others: int, n: int = 500) -> Verdict:
        one = Measurement(
            0, 1, 0.5, Counts(9500, {"e": others}), Counts(n, {"e": mine})
        )
        return judge.judge("e", [one]).verdict

    # 10 of 500 against 95 of 9500: p .036856, from the exact hypergeometric law.
    assert verdict(10, 95) is Verdict.FAILED
    assert verdict(9, 95) is Verdict.INCONCLUSIVE
    assert verdict(0, 95) is Verdict.SUCCESSFUL
    assert verdict(10, 95, 499) is Verdict.INCONCLUSIVE


# -- whatever goes wrong -----------------------------------------------------------


class Troubled:
    """A simulated world in which one step fails, or is interrupted."""

    def __init__(self, inner: Simulated, at: int, error: BaseException) -> None:
        self.inner, self.left, self.error = inner, at, error

    def __getattr__(self, name: str):
        return getattr(self.inner, name)

    def do(self, step: Step) -> list[Measurement]:
        self.left -= 1
        if self.left == 0 and not (
            isinstance(step, Abort) and isinstance(self.error, StepFailed)
        ):  # an Abort does not fail, says `Environment`
            raise self.error
        return self.inner.do(step)


TROUBLE = {
    "name": st.sampled_from(sorted(EACH)),
    "at": st.integers(1, 40),
    "error": st.sampled_from([StepFailed("no luck"), KeyboardInterrupt()]),
    "candidate": st.sampled_from([GOOD, BAD]),
    "dies_after": st.sampled_from([1, 200, math.inf]),
    "population": st.sampled_from([None, 700]),
    "seed": st.integers(0, 2**32 - 1),
}


def survives(name, at, error, candidate, dies_after, population, seed) -> None:
    inner = world(candidate, seed=seed, dies_after=dies_after, population=population)
    env = Troubled(inner, at, error)
    heard: list[Event] = []
    try:
        report = carry_out(EACH[name], env, heard.append)
    except (KeyboardInterrupt, StepFailed):
        end = heard[-1].details
        report = Report(end["outcome"], end["reason"], heard)
    assert report.outcome in ("promoted", "aborted", "passed")
    found = broken(report)
    if report.outcome == "promoted" and report.reason:
        # Interrupted while the old version was stopped: there is no line of that.
        found = [one for one in found if "after the retire of stable" not in one]
    assert found == []
    serving = CANDIDATE if inner.share == 1 else STABLE
    assert inner.share in (0, 1)
    assert inner.instances[serving] > 0
    other = STABLE if serving == CANDIDATE else CANDIDATE
    not_stopped = any(e.details.get("step") == "retire" for e in report.log)
    assert inner.instances[other] == 0 or not_stopped


@given(**TROUBLE)
@settings(max_examples=150, deadline=None)
def test_whatever_goes_wrong_somebody_serves_and_nothing_is_left(**trouble):
    survives(**trouble)


@pytest.mark.soak
@given(**TROUBLE)
@settings(max_examples=5000, deadline=None)
def test_whatever_goes_wrong_somebody_serves_and_nothing_is_left_in_full(**trouble):
    survives(**trouble)


# -- the alarms --------------------------------------------------------------------


def planted(name: str, **options) -> Report:
    return carry_out(EACH[name], world(**options))


def without(report: Report, what: str, nth: int = 0) -> Report:
    place = [i for i, e in enumerate(report.log) if e.what == what][nth]
    return replace(report, log=report.log[:place] + report.log[place + 1 :])


def changed(report: Report, what: str, nth: int = 0, **details) -> Report:
    places = [i for i, e in enumerate(report.log) if e.what == what]
    log = list(report.log)
    old = log[places[nth]]
    log[places[nth]] = replace(old, details=old.details | details)
    return replace(report, log=log)


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (changed(planted("Rolling"), "retire", instances=7), "I3: 7 instances"),
        (changed(planted("Rolling"), "deploy", instances=6), "I3: 14 instances"),
        (changed(planted("Rolling"), "retire", 1, instances=2), "I3: 7 instances"),
        (changed(planted("Rolling"), "shift", 1, candidate="40 %"), "I5: retire of st"),
        (changed(planted("Basic"), "retire", cut=False), "I5: retire of stable"),
        (without(planted("Shadow"), "mirror"), "It passed"),
        (changed(planted("Shadow"), "mirror", 1, share=0.1), "It passed"),
        (
            changed(planted("Basic", candidate=BAD), "shift", 1, candidate="101 %"),
            "I1: a share of 1.01",
        ),
    ],
)
def test_each_planted_fault_is_found(report, says):
    found = broken(report)
    assert any(one.startswith(says) for one in found), found


def test_a_user_who_gets_a_shadows_answer_is_found():
    report = planted("Shadow")
    one = replace(report.measurements[0], candidate=Counts(1))
    assert any(
        said.startswith("I7") for said in broken(replace(report, measurements=[one]))
    )


def test_requests_that_somebody_answered_in_an_outage_are_found():
    report = planted("Basic", candidate=BAD)
    gone = next(e.at_s for e in report.log if e.what == "retire")
    one = Measurement(gone + 0.1, gone + 1, 0.0, Counts(9, {"lost": 8}), Counts())
    lost = Measurement(gone + 1, gone + 2, 0.0, Counts(9, {"lost": 9}), Counts())
    assert broken(replace(report, measurements=[lost, lost])) == []
    found = broken(replace(report, measurements=[one, lost]))
    assert any(said.startswith("I2: stable") for said in found), found


def test_an_abort_that_brings_an_instance_back_ends_the_outage():
    """No candidate came up, and an instance of the old version was started."""
    report = planted("Basic", ready_s=2.0)
    gone, at_s = report.at("retire"), report.at("abort")
    back = changed(report, "abort", there={STABLE: 1, CANDIDATE: 0})
    nobody = changed(report, "abort", there={STABLE: 0, CANDIDATE: 0})

    def seen(from_s: float, to_s: float) -> Measurement:
        return Measurement(from_s, to_s, 0.0, Counts(9, {"lost": 8}), Counts())

    until, after = seen(gone, at_s), seen(at_s, at_s + 0.1)
    # The last look of an abort is over a moment before its line is written.
    look_s = at_s - 0.01
    looked, then = seen(gone, look_s), seen(look_s, at_s + 0.1)
    early = seen(gone, (gone + at_s) / 2)
    for measurements in ([until, after], [looked, then]):
        assert broken(replace(back, measurements=measurements)) == []
    for one, measurements in ((back, [early, until]), (nobody, [until, after])):
        found = broken(replace(one, measurements=measurements))
        assert any(said.startswith("I2: stable") for said in found), found


@pytest.mark.parametrize(("name", "what"), [("Basic", "retire"), ("Canary", "abort")])
def test_what_began_a_moment_before_its_line_is_looked_at(name, what):
    """A step's last look is over before its line is written."""
    report = planted(name, candidate=BAD)
    look_s = report.at(what) - 0.01
    share = 0.0 if name == "Basic" else 0.1
    before = Measurement(report.at("begin"), look_s, 0.0, Counts(9), Counts())
    since = Measurement(look_s, look_s + 0.1, share, Counts(9), Counts(9))
    after = Measurement(look_s + 0.1, look_s + 0.2, 0.0, Counts(), Counts())
    found = broken(replace(report, measurements=[before, since, after]))
    says = {"retire": "I2: stable had traffic", "abort": "I4: candidate had traffic"}
    assert any(said.startswith(says[what]) for said in found), found


def test_a_replay_that_decides_otherwise_is_found():
    report = planted("Canary")
    with pytest.raises(ValueError, match="the strategy now says"):
        replay(replace(EACH["Canary"], shares=(0.1, 0.6)), report)


def test_a_user_who_is_moved_back_is_found():
    def frame(*rows):
        return pd.DataFrame(rows, columns=["user", "role", "share"])

    stays = frame((1, STABLE, 0.1), (1, CANDIDATE, 0.5), (2, STABLE, 0.5))
    assert moved(stays) == []
    assert moved(pd.concat([stays, frame((1, STABLE, 0.5))])) == [1]


def test_new_steps_are_told_in_words():
    said = [
        in_words(Event(0, "mirror", {"share": 0.25})),
        in_words(Event(0, "preview", {"requests": 3})),
        in_words(Event(0, "shift", {"candidate": "5 %", "why": "so"})),
    ]
    assert said == [
        "25 % is copied",
        "3 requests of our own",
        "candidate gets 5 %, so",
    ]
    assert State().after(Preview(3), 1).previewed
    assert TrafficSplit(0.25).stable == 0.75
