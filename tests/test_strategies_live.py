"""Every strategy against real servers, through each router, and whatever is killed.

`v2` gives no errors, so no gate takes it for bad. `v2-flaky` is found by a threshold of
2 % in a window of half a second or more with ample chances below, and each test says
what else would be right. Numbers of lost requests are held to Poisson bounds with a
chance of 1e-8 on each side.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import requests
from scipy import stats

from deploylab import phishing
from deploylab.rollout import (
    AB,
    Bandit,
    Basic,
    BlueGreen,
    Canary,
    FixedSample,
    Gate,
    MultiService,
    Rolling,
    Shadow,
    SplitEProcess,
    live,
    replay,
)
from deploylab.rollout.invariants import broken, moved
from deploylab.rollout.model import CANDIDATE, STABLE

pytestmark = pytest.mark.slow
ROWS = phishing.split().test
FEATURES = ROWS[list(phishing.CONTRACT.names)]
LABELS = ROWS["is_phishing"]
# Few, so that a slow machine that does something else besides answers all of them.
RATE_PER_S = 50.0

#: After so many requests a version with 5 % errors has failed it, with a chance of
#: 1 - 1e-7 or more: the chance of at most two errors in 500 requests is 3e-9.
PROCESS = SplitEProcess(alpha=1e-3, at_least=20)
ERRORS = Gate("errors", PROCESS)


class AnyThree:
    """Fails at the candidate's third event, so that little is left to chance."""

    def judge(self, metric, measurements):
        from deploylab.rollout.model import Judgement, Verdict

        events = sum(one.candidate.events.get(metric, 0) for one in measurements)
        verdict = Verdict.FAILED if events > 2 else Verdict.SUCCESSFUL
        return Judgement(verdict, f"{events} events")

    def __hash__(self) -> int:
        return 3

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AnyThree)


THREE = Gate("errors", AnyThree())
USER_THREE = replace(THREE, unit="user")
LONG_S = 10.0
EACH = {
    "Basic": Basic((THREE,), LONG_S),
    "Rolling": Rolling(2, 1, 0, (THREE,), min_ready_s=LONG_S),
    "BlueGreen": BlueGreen(LONG_S, (THREE,)),
    "preview": BlueGreen(0.5, before=(THREE,), preview=500),
    "Canary": Canary((0.5,), 2 * LONG_S, (THREE,)),
    "Shadow": Shadow(1.0, LONG_S, (THREE,)),
    "AB": AB(300, Gate("wrong", FixedSample(300, 0.49)), 40, guards=(THREE,)),
    "Bandit": Bandit("wrong", 1.0, 2 * LONG_S, floor=0.4, enough=0.51, gates=(THREE,)),
}
QUICK = {
    "Basic": Basic(),
    "Rolling": Rolling(2, 1, 0),
    "Rolling down": Rolling(2, 0, 1),
    "BlueGreen": BlueGreen(0.3, before=(ERRORS,), preview=30),
    # Without one request in a stage there is no data: a chance of 2e-9 at 0.4.
    "Canary": Canary((0.4, 0.6), 1.0, (ERRORS,), on_doubt="go on"),
    "Shadow": Shadow(0.5, 1.0, (ERRORS,), on_doubt="go on"),
    "AB": AB(30, ERRORS, 10),
    "Bandit": Bandit("errors", 0.5, 1.0, enough=0.501),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("versions")
    names = ("v1", "v2", "v2-flaky", "v2-dies-loading", "v2-dies-serving")
    return phishing.save(names, folder)


@contextlib.contextmanager
def system(saved, kind, **options) -> Iterator[live.System]:
    options = {"rate_per_s": RATE_PER_S, "instances": 2} | options
    with live.System(
        saved["v1"], FEATURES, LABELS, router_kind=kind, **options
    ) as running:
        yield running
        left = [psutil.Process(pid) for pids in running.processes().values()
                for pid in pids if psutil.pid_exists(pid)]  # fmt: skip
    assert not [process for process in left if process.is_running()]


@pytest.fixture(scope="module")
def running(saved, kind) -> Iterator[live.System]:
    """One for all quick tests; each puts it in order before its rollout."""
    with system(saved, kind) as running:
        yield running


def served(system: live.System) -> str:
    """The version that answers a user now."""
    row = FEATURES.iloc[0].to_dict()
    answer = requests.post(system.url + "/predict", json=row, timeout=5)
    assert (answer.status_code, answer.headers["X-Role"]) == (200, STABLE)
    assert system.router.split.candidate == 0
    assert system.processes()[CANDIDATE] == []
    return answer.json()["version"]


def eventually(condition: Callable[[], object], bound_s: float = 30) -> None:
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {bound_s} s"
        time.sleep(0.01)


def failed(system: live.System, since: int = 0):
    """Answers other than 200, after the first `since`."""
    frame = system.frame().iloc[since:]
    return frame[frame["status"] != 200]


def roll_out(system: live.System, strategy, artifact: Path, **options):
    report = system.roll_out(strategy, artifact, **options)
    assert broken(report) == []
    assert replay(strategy, report).log[-1].details == report.log[-1].details
    return report


def no_mirror(name: str, system: live.System) -> None:
    if name == "Shadow" and not system.router.can_mirror:
        pytest.skip("this kind of router does not mirror")


@pytest.mark.parametrize("name", [name for name in QUICK if name != "Bandit"])
def test_a_good_version_comes_through_without_a_lost_request(running, saved, name):
    no_mirror(name, running)
    running.roll_out(BlueGreen(0.0), saved["v1"])
    since = len(running.frame())
    report = roll_out(running, QUICK[name], saved["v2"])
    shadow = name == "Shadow"
    assert report.outcome == ("passed" if shadow else "promoted")
    assert served(running) == ("v1" if shadow else "v2")
    if name != "Basic":
        assert failed(running, since).empty


@pytest.mark.parametrize("name", EACH)
def test_a_version_that_fails_is_taken_back(running, saved, name):
    """At 50 requests a second, 5 % of which fail, three errors come within seconds.

    Each gets 250 requests or more, and at most two errors among them have a chance of
    2.7e-4; so these rollouts wait for the first of three, and begin again, at most
    five times, if it has not come: 1e-18.
    """
    no_mirror(name, running)
    for _ in range(5):
        running.roll_out(BlueGreen(0.0), saved["v1"])
        report = roll_out(running, EACH[name], saved["v2-flaky"])
        if report.outcome == "aborted":
            break
    assert "gate failed" in report.reason
    assert served(running) == "v1"
    assert report.events("errors", STABLE) == report.events("lost", STABLE)


@pytest.mark.parametrize("name", ["Basic", "Rolling", "BlueGreen", "Canary"])
def test_a_version_that_does_not_come_up_is_given_up(running, saved, name):
    running.roll_out(BlueGreen(0.0), saved["v1"])
    since = len(running.frame())
    report = roll_out(running, EACH[name], saved["v2-dies-loading"])
    assert report.outcome == "aborted"
    assert report.log[-1].details["reason"].startswith(("candidate", "it was not"))
    assert report.exposed_requests == 0
    assert served(running) == "v1"
    if name != "Basic":
        assert failed(running, since).empty


def test_an_abort_without_anybody_alive_ends_the_outage(saved, kind, monkeypatch):
    """Requests come between the new instance's first and the end of the abort.

    None in those 0.4 s has a chance of 2e-9.
    """
    route = live.Live._route

    def slow_route(environment, group):
        route(environment, group)
        time.sleep(0.4)

    with system(saved, kind, instances=1) as one:
        with monkeypatch.context() as patch:
            patch.setattr(live.Live, "_route", slow_route)
            report = roll_out(one, EACH["Basic"], saved["v2-dies-loading"])
        assert report.outcome == "aborted"
        assert served(one) == "v1"
    abort = next(e for e in report.log if e.what == "abort")
    assert abort.details["there"] == {STABLE: 1, CANDIDATE: 0}
    meanwhile = [m.stable for m in report.measurements if m.to_s <= abort.at_s][-1]
    assert meanwhile.events["lost"] < meanwhile.requests


def test_recreate_loses_as_predicted(running, saved):
    running.roll_out(BlueGreen(0.0), saved["v1"])
    report = roll_out(running, Basic(), saved["v2"])
    gone_s, back_s = report.at("retire"), report.at("shift")
    # Surely away from the retirement to the deployment, and never before the beginning.
    least = stats.poisson.ppf(1e-8, RATE_PER_S * (report.at("deploy") - gone_s - 0.5))
    most = stats.poisson.isf(1e-8, RATE_PER_S * back_s)
    assert least <= report.lost_requests <= most
    assert report.lost_requests > 0


def test_recreate_goes_back_with_a_second_outage(running, saved):
    running.roll_out(BlueGreen(0.0), saved["v1"])
    for _ in range(5):
        report = roll_out(running, EACH["Basic"], saved["v2-flaky"])
        if report.outcome == "aborted":
            break
        running.roll_out(BlueGreen(0.0), saved["v1"])
    assert report.events("lost", STABLE) > 0
    assert report.events("lost", CANDIDATE) > 0
    assert served(running) == "v1"


def test_users_stay_on_their_side(running, saved):
    running.roll_out(BlueGreen(0.0), saved["v1"])
    began = len(running.frame())
    strategy = Canary((0.2, 0.5), 3.0, (USER_THREE,), sticky=True, salt="stay")
    report = roll_out(running, strategy, saved["v2"])
    assert report.outcome == "promoted"
    frame = running.frame().iloc[began:]
    frame = frame[frame["share"].between(0.01, 0.99)]
    assert moved(frame) == []
    assert frame["user"].duplicated().any()
    assert sum(m.candidate.users for m in report.measurements) > 0


def test_haproxy_says_that_it_does_not_mirror(running, saved):
    if running.router.can_mirror:
        pytest.skip("this router mirrors")
    report = roll_out(running, EACH["Shadow"], saved["v2"])
    assert report.outcome == "aborted"
    assert "does not mirror" in report.reason


@pytest.mark.parametrize("role", [STABLE, CANDIDATE])
def test_an_instance_killed_in_a_wave_leaves_users_served(running, saved, role):
    running.roll_out(BlueGreen(0.0), saved["v1"])
    killed = []

    def tell(event):
        if event.what == "shift" and not killed:
            killed.append(running._groups[role][0].pid)
            os.kill(killed[0], signal.SIGKILL)

    report = roll_out(running, EACH["Rolling"], saved["v2"], tell=tell)
    assert killed
    assert report.outcome == "aborted"
    assert report.reason.startswith(role)
    assert served(running) == "v1"
    assert len(running.processes()[STABLE]) == 4


@pytest.mark.parametrize("when", ["retire", "shift", "deploy"])
def test_an_interrupt_in_a_recreate_leaves_users_served(running, saved, when):
    running.roll_out(BlueGreen(0.0), saved["v1"])

    def tell(event):
        if event.what == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.roll_out(EACH["Basic"], saved["v2"], tell=tell)
    assert served(running) == "v1"
    assert len(running.processes()[STABLE]) == 4


def test_services_go_back_together(saved, kind):
    """The caller goes back first, though it is the callee that is bad."""
    strategy = MultiService(dict.fromkeys(("features", "model"), EACH["BlueGreen"]))
    heard = []
    with (
        system(saved, kind, instances=1) as features,
        system(saved, kind, instances=1) as model,
    ):
        for _ in range(5):
            candidates = {
                "features": (features, saved["v2-flaky"]),
                "model": (model, saved["v2"]),
            }
            reports = live.roll_out_services(strategy, candidates, heard.append)
            assert [broken(report) for report in reports.values()] == [[], []]
            if reports["model"].outcome == "aborted":
                break
            for one in (features, model):
                one.roll_out(BlueGreen(0.0), saved["v1"])
        assert [served(features), served(model)] == ["v1", "v1"]
    assert reports["model"].reason == "features was given up"
    assert [e.details["service"] for e in heard if e.what == "retire"][-1] == "features"


# -- in full -----------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", QUICK)
def test_rollouts_to_and_fro_lose_no_request_in_full(saved, kind, name):
    """100,000 requests across switches; a recreate loses what its outages cost."""
    with system(saved, kind, rate_per_s=None, tick_s=0.1, instances=2) as running:
        no_mirror(name, running)
        turns, outage_s, sure_s, lost = 0, 0.0, 0.0, 0
        while len(running.frame()) < 100_000 and turns < 3000:
            report = running.roll_out(QUICK[name], saved[("v2", "v1")[turns % 2]])
            assert broken(report) == []
            turns += 1
            lost += report.lost_requests
            outage_s += report.at("shift") if name == "Basic" else 0.0
            sure_s += report.at("deploy") - report.at("retire") - 0.5
            assert running.load.alive
        assert len(running.frame()) >= 100_000
        rows = failed(running)
        print(f"{name} {kind}: {len(rows)} of {len(running.frame())} in {turns} turns")
        if name == "Basic":
            assert set(rows["status"]) == {503}
            rate = running.rate_per_s
            assert stats.poisson.ppf(1e-8, rate * max(0.0, sure_s)) <= lost
            assert lost <= stats.poisson.isf(1e-8, rate * outage_s)
        else:
            assert rows.empty, rows.to_string()


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_services_to_and_fro_lose_no_request_in_full(saved, kind):
    """100,000 requests to two services that change versions together."""
    names = ("features", "model")
    strategy, turns, sent = MultiService(dict.fromkeys(names, QUICK["BlueGreen"])), 0, 0
    with (
        system(saved, kind, instances=1, rate_per_s=60) as features,
        system(saved, kind, instances=1, rate_per_s=60) as model,
    ):
        while sent < 100_000 and turns < 3000:
            version = saved[("v2", "v1")[turns % 2]]
            candidates = {"features": (features, version), "model": (model, version)}
            reports = live.roll_out_services(strategy, candidates, lambda _: None)
            assert [broken(report) for report in reports.values()] == [[], []]
            assert [report.outcome for report in reports.values()] == ["promoted"] * 2
            turns += 1
            sent = sum(len(one.frame()) for one in (features, model))
        rows = [failed(one) for one in (features, model)]
    print(f"two services {kind}: {sum(map(len, rows))} of {sent} in {turns} turns")
    assert sent >= 100_000
    assert all(one.empty for one in rows), "\n".join(map(pd.DataFrame.to_string, rows))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(50))
def test_a_random_kill_at_a_random_moment_in_full(saved, kind, seed):
    """Server, router or load generator: never traffic on a dead or a bad version."""
    chance = random.Random(seed)
    name = chance.choice(sorted(set(EACH) - {"Shadow", "preview"}))
    victim = chance.choice([STABLE, CANDIDATE, "router", "load"])
    at, killed, heard = chance.randint(1, 6), [], []
    version = chance.choice(["v2", "v2-flaky"])

    def tell(event):
        heard.append(event)
        if len(heard) >= at and not killed:
            pids = running.processes()[victim]
            if pids:
                killed.append(pids[-1])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pids[-1], signal.SIGKILL)
                # The last event may be the next; what nobody can know nobody mends.
                gone = {
                    "router": lambda: running.router.state == "stopped",
                    "load": lambda: not running.load.alive,
                }.get(victim, lambda: pids[-1] not in running.processes()[victim])
                eventually(gone)

    with system(saved, kind) as running:
        report = running.roll_out(EACH[name], saved[version], tell=tell)
        assert broken(report) == []
        assert report.outcome in ("promoted", "aborted")
        # A server whose worker was killed starts another by itself.
        eventually(lambda: all(s.state == "ready" for s in running._groups[STABLE]))
        here = served(running)
        assert here in ("v1", version)
        assert here == "v1" or report.outcome == "promoted"
