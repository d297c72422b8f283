"""Rollouts with real servers, routers and traffic: whatever happens, users are served.

Versions without a fault give no errors here, so a gate on errors cannot take them for
bad ones by chance. `v2-flaky` is missed by the gate used here with a chance of 4e-8 a
run (`predict.canary`), and the bounds of its exposure have a false-alarm chance of
1e-8 a run, so that all runs of `make soak` together stay below one in a million.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests

from deploylab import load, phishing, router
from deploylab.rollout import (
    BlueGreen,
    Canary,
    Gate,
    SplitEProcess,
    Threshold,
    live,
    predict,
)
from deploylab.rollout.invariants import broken
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Bake,
    Event,
    Shift,
    TrafficSplit,
)

pytestmark = pytest.mark.slow
NAMES = ("v1", "v2", "v2-flaky", "v2-slow", "v2-dies-loading", "v2-dies-serving")
ROWS = phishing.split().test
FEATURES = ROWS[list(phishing.CONTRACT.names)]
LABELS = ROWS["is_phishing"]
RATE_PER_S = 100.0
FALSE_ALARM = 1e-8


def gate(metric: str = "errors", at_least: int = 5) -> Gate:
    return Gate(metric, SplitEProcess(alpha=1e-3, at_least=at_least))


#: Short, and so that something can happen in each of its two stages.
QUICK = Canary((0.2, 0.5), 1.0, (gate(),))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("versions")
    return phishing.save(NAMES, folder)


@contextlib.contextmanager
def system(saved, kind, **options) -> Iterator[live.System]:
    options = {"rate_per_s": RATE_PER_S} | options
    with live.System(
        saved["v1"], FEATURES, LABELS, router_kind=kind, **options
    ) as running:
        yield running
        left = [psutil.Process(pid) for pids in running.processes().values()
                for pid in pids if psutil.pid_exists(pid)]  # fmt: skip
    assert not [process for process in left if process.is_running()]


@pytest.fixture
def running(saved, kind) -> Iterator[live.System]:
    with system(saved, kind) as running:
        yield running


def served(system: live.System) -> str:
    """The version that answers a user now."""
    row = FEATURES.iloc[0].to_dict()
    answer = requests.post(system.url + "/predict", json=row, timeout=5)
    assert answer.status_code == 200
    assert answer.headers["X-Role"] == STABLE
    return answer.json()["version"]


def assert_back_on_v1(system: live.System, report=None) -> None:
    assert served(system) == "v1"
    assert system.processes()[CANDIDATE] == []
    assert system.router.split.candidate == 0
    if report is not None:
        assert report.outcome == "aborted"
        assert report.reason
        assert broken(report) == []


def when(what: str, act: Callable[[], None], **details) -> Callable[[Event], None]:
    """Act once, at the first event of this kind with these details."""
    done = []

    def tell(event: Event) -> None:
        if event.what == what and details.items() <= event.details.items() and not done:
            done.append(event)
            act()

    return tell


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def eventually(condition: Callable[[], object], bound_s: float = 30) -> None:
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {bound_s} s"
        time.sleep(0.01)


# -- good and bad versions ---------------------------------------------------------


def test_a_share_has_no_traffic_before_it_was_in_force():
    """A request may be drawn long after it was sent: the sender has only queued it."""
    answers: list[load.Answer] = []
    splits = SimpleNamespace(split=TrafficSplit(0.0), can_mirror=False)
    splits.check = lambda: None
    splits.set_split = lambda split: setattr(splits, "split", split)
    system = SimpleNamespace(
        collect=lambda: answers,
        router=splits,
        load=SimpleNamespace(alive=True),
        tick_s=0.0,
        _groups={STABLE: [], CANDIDATE: []},
        _events=lambda answer: set(),
    )
    environment = live.Live(system, Path(), 1.0)
    sent_s = time.monotonic()
    environment.do(Bake(0.0))
    deployed_s = environment.now_s
    environment.do(Shift(TrafficSplit(0.5)))
    environment.do(Shift(TrafficSplit(1.0)))
    late = (0, 0, sent_s, time.monotonic(), 0.1, 200, CANDIDATE, 0.5, 0.9, False)
    answers.append(load.Answer(*late))
    seen = environment.do(Bake(0.0))
    (half,) = [one for one in seen if one.share == 0.5]
    assert half.candidate.requests == 1
    assert deployed_s <= half.from_s <= half.to_s


def test_a_good_version_is_promoted_and_the_next_one_begins_from_it(running, saved):
    report = running.roll_out(QUICK, saved["v2"])
    assert (report.outcome, broken(report)) == ("promoted", []), report.reason
    assert served(running) == "v2"
    assert running.processes()[CANDIDATE] == []
    report = running.roll_out(QUICK, saved["v1"])
    assert (report.outcome, served(running)) == ("promoted", "v1"), report.reason
    assert (running.frame()["status"] == 200).all()


def exposure_is_as_predicted(report, judge: SplitEProcess) -> None:
    """The gate failed neither too late nor too soon, given what each stage had.

    What came after the verdict was under way when the traffic was taken back.
    """
    failed_s = next(e.at_s for e in report.log if e.details.get("verdict") == "failed")
    judged = [m for m in report.measurements if m.to_s <= failed_s]
    looked_s = judged[-1].to_s

    def stages(until_s: float) -> list[tuple[float, int]]:
        had = Counter()
        for one in judged:
            if one.to_s <= until_s:
                had[one.share] += one.candidate.requests
        return [(share, had[share]) for share in sorted(had) if 0 < share < 1]

    before = max((m.to_s for m in judged if m.to_s < looked_s), default=0.0)
    # Had it been bad by chance less often, it would have been seen before; had it
    # been bad more often, not yet. Both have at most this chance if it is as bad as
    # its version says.
    assert predict.missed(judge, stages(before), 0.05) >= FALSE_ALARM
    assert 1 - predict.missed(judge, stages(looked_s), 0.05) >= FALSE_ALARM


def flaky_is_aborted(system: live.System, saved) -> None:
    strategy = Canary((0.05, 0.2, 0.5), 1000 / system.rate_per_s, (gate(),))
    report = system.roll_out(strategy, saved["v2-flaky"])
    assert_back_on_v1(system, report)
    assert report.events("errors", STABLE) == 0
    exposure_is_as_predicted(report, strategy.gates[0].judge)


@pytest.mark.timeout(300)
def test_a_flaky_version_is_aborted(saved, kind):
    with system(saved, kind, rate_per_s=None, most_per_s=200) as running:
        flaky_is_aborted(running, saved)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_flaky_version_is_aborted_every_time_soak(saved, kind):
    with system(saved, kind, rate_per_s=None) as running:
        for _ in range(20):
            flaky_is_aborted(running, saved)


def test_a_slow_version_is_aborted(running, saved):
    strategy = Canary((0.2, 0.5), 5.0, (gate("slow"),))
    report = running.roll_out(strategy, saved["v2-slow"])
    assert_back_on_v1(running, report)
    assert report.events("errors") == 0


def test_a_version_that_dies_serving_is_aborted(running, saved):
    # It ends after a hundred requests, and its router says 502 for it again and again.
    strategy = Canary((0.5,), 20.0, (Gate("errors", Threshold(0.0)),))
    report = running.roll_out(strategy, saved["v2-dies-serving"])
    assert_back_on_v1(running, report)


def test_blue_green_switches_all_and_switches_back(running, saved):
    calm = BlueGreen(2.0, (Gate("errors", Threshold(0.01, at_least=10)),))
    report = running.roll_out(calm, saved["v2"])
    assert (report.outcome, served(running)) == ("promoted", "v2")
    report = running.roll_out(BlueGreen(60.0, calm.gates), saved["v2-flaky"])
    assert (report.outcome, served(running)) == ("aborted", "v2")
    assert broken(report) == []


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_rollouts_to_and_fro_lose_no_request_soak(saved, kind):
    quick = Canary((0.01, 0.5), 0.3, (gate(at_least=1),), on_doubt="go on")
    with system(saved, kind, rate_per_s=None, tick_s=0.1) as running:
        turns = 0
        while len(running.frame()) < 100_000 and turns < 2000:
            version = ("v2", "v1")[turns % 2]
            report = running.roll_out(quick, saved[version])
            # Without an answer of the candidate's in a stage there is no data.
            assert broken(report) == []
            turns += report.outcome == "promoted"
            assert running.load.alive
        frame = running.frame()
        assert len(frame) >= 100_000
        failed = frame[frame["status"] != 200]
        assert failed.empty, failed.to_string()


# -- faults ------------------------------------------------------------------------


def test_the_candidate_is_killed(running, saved):
    tell = when("shift", lambda: kill(running._groups[CANDIDATE][0].pid))
    report = running.roll_out(QUICK, saved["v2"], tell)
    assert_back_on_v1(running, report)
    assert "SIGKILL" in report.reason
    assert report.events("errors", STABLE) == 0


def test_the_stable_server_is_killed(running, saved):
    tell = when("shift", lambda: kill(running._groups[STABLE][0].pid))
    report = running.roll_out(QUICK, saved["v2"], tell)
    assert_back_on_v1(running, report)
    assert report.reason.startswith("stable")
    assert running.roll_out(QUICK, saved["v2"]).outcome == "promoted"


def test_the_router_is_killed(running, saved):
    url = running.url
    tell = when("shift", lambda: kill(running.router.processes()[1]))
    report = running.roll_out(QUICK, saved["v2"], tell)
    assert_back_on_v1(running, report)
    assert running.url == url
    assert "router" in report.reason
    assert running.roll_out(QUICK, saved["v2"]).outcome == "promoted"


@pytest.mark.parametrize("victim", ["router", STABLE])
@pytest.mark.parametrize("what", ["retire", "end"])
def test_what_dies_in_the_last_moments_is_replaced(running, saved, victim, what):
    url = running.url

    def strike() -> None:
        if victim == "router":
            process, pid = running.router, running.router.processes()[1]
        else:
            process = running._groups[victim][0]
            pid = process.pid
        kill(pid)
        eventually(lambda: process.state == "stopped")

    tell = when(what, strike)
    report = running.roll_out(QUICK, saved["v2-dies-loading"], tell)
    assert_back_on_v1(running, report)
    assert running.url == url


@pytest.mark.parametrize("order", ["set_group", "set_split"])
@pytest.mark.parametrize("for_ever", [False, True])
def test_a_router_that_refuses_an_order_ends_it(
    running, saved, monkeypatch, order, for_ever
):
    """Once, and the way back goes by it; for ever, and another takes its place."""
    refusing, url, refused = running.router, running.url, []
    obey = getattr(refusing, order)

    def refuse(*arguments) -> None:
        if refused and not for_ever:
            return obey(*arguments)
        refused.append(arguments)
        raise router.RouterError("refused, says the test")

    def strike() -> None:
        monkeypatch.setattr(refusing, order, refuse)

    tell = when("begin" if order == "set_group" else "deploy", strike)
    report = running.roll_out(QUICK, saved["v2"], tell)
    assert_back_on_v1(running, report)
    assert report.reason == "refused, says the test"
    assert (running.router is refusing) == (not for_ever)
    assert running.url == url


def test_the_load_generator_is_killed(running, saved):
    tell = when("shift", lambda: kill(running.load.pid))
    report = running.roll_out(QUICK, saved["v2"], tell)
    assert_back_on_v1(running, report)
    assert "generator" in report.reason


def test_a_version_that_never_becomes_ready_gets_no_traffic(running, saved):
    report = running.roll_out(QUICK, saved["v2-dies-loading"])
    assert_back_on_v1(running, report)
    assert report.exposed_requests == 0
    assert "died" in report.reason


def test_without_traffic_nothing_is_promoted(saved, kind):
    with system(saved, kind, rate_per_s=0) as running:
        report = running.roll_out(QUICK, saved["v2"])
        assert_back_on_v1(running, report)
        assert "no data" in report.reason


def test_a_second_rollout_is_refused_and_the_first_goes_on(running, saved):
    refused = []

    def second() -> None:
        with pytest.raises(live.RolloutRunning, match="has not begun"):
            running.roll_out(QUICK, saved["v2-flaky"])
        refused.append(True)

    report = running.roll_out(QUICK, saved["v2"], when("shift", second))
    assert refused
    assert (report.outcome, served(running)) == ("promoted", "v2")


@pytest.mark.parametrize("what", ["deploy", "shift"])
def test_an_interrupt_takes_the_candidate_back(running, saved, what):
    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        running.roll_out(QUICK, saved["v2"], when(what, interrupt))
    assert_back_on_v1(running)


@pytest.mark.parametrize("what", ["shift", "drain", "retire", "promote"])
@pytest.mark.parametrize("blow", ["interrupt", "router"])
def test_a_promotion_that_is_hit_late_still_ends_well(running, saved, what, blow):
    def strike() -> None:
        if blow == "router":
            kill(running.router.processes()[1])
            eventually(lambda: running.router.state == "stopped")
        else:
            signal.raise_signal(signal.SIGINT)

    last = {"candidate": "100 %"} if what == "shift" else {}
    with contextlib.suppress(KeyboardInterrupt, Exception):
        running.roll_out(QUICK, saved["v2"], when(what, strike, **last))
    if blow == "interrupt":
        assert served(running) in ("v1", "v2")
    # Nothing of it is left in the way of the next one, and a router that died once
    # the rollout was over is replaced by then.
    report = running.roll_out(QUICK, saved["v2-dies-loading"])
    assert report.outcome == "aborted"
    assert served(running) in ("v1", "v2")
    report = running.roll_out(QUICK, saved["v2"])
    assert report.outcome == "promoted", report.table.to_string()


def test_a_candidate_that_hangs_is_seen(running, saved):
    def freeze() -> None:
        for pid in running.processes()[CANDIDATE]:
            os.kill(pid, signal.SIGSTOP)

    slow = Canary((0.5,), 60.0, (gate(),))
    report = running.roll_out(slow, saved["v2"], when("shift", freeze))
    assert_back_on_v1(running, report)
    assert report.events("errors") > 0


def test_traffic_that_falls_silent_is_not_taken_for_success(running, saved):
    tell = when(
        "shift", lambda: os.kill(running.load.pid, signal.SIGSTOP), candidate="50 %"
    )
    report = running.roll_out(QUICK, saved["v2"], tell)
    os.kill(running.load.pid, signal.SIGCONT)
    assert_back_on_v1(running, report)
    # None under the new share, or the few that came before the stop: too few.
    assert "no data" in report.reason or "no conclusion" in report.reason


def test_a_reader_takes_nothing_from_the_gate(running, saved):
    strategy = Canary((0.5,), 3.0, (gate(),))
    report = running.roll_out(strategy, saved["v2"], lambda event: running.frame())
    assert report.outcome == "promoted"
    frame = running.frame()
    mine = frame[(frame["role"] == CANDIDATE) & (frame["share"] == 0.5)]
    counted = sum(m.candidate.requests for m in report.measurements if m.share == 0.5)
    assert counted == len(mine)


def test_if_no_stable_instance_can_be_had_nothing_is_stopped(saved, kind, tmp_path):
    mine = tmp_path / "v1"
    shutil.copytree(saved["v1"], mine)
    with live.System(mine, FEATURES, router_kind=kind, rate_per_s=RATE_PER_S) as system:

        def lose_v1() -> None:
            shutil.rmtree(mine)
            kill(system._groups[STABLE][0].pid)

        log = []
        tell = when("shift", lose_v1)
        with pytest.raises(Exception, match=r"v1|artifact|died"):
            system.roll_out(QUICK, saved["v2"], lambda e: (log.append(e), tell(e)))
        assert system.processes()[CANDIDATE]
        assert log[-1].details["outcome"] == "stuck"


OWNER = """
import sys
from deploylab.rollout import Canary, live
from tests.test_rollout_live import FEATURES, QUICK
v1, v2, kind, log = sys.argv[1:]
with live.System(v1, FEATURES, rate_per_s=100, router_kind=kind) as system:
    def tell(event):
        if event.what == "shift":
            pids = sum(system.processes().values(), [])
            sys.stdout.write(" ".join(map(str, pids)) + "\\n")
            sys.stdout.flush()
    system.roll_out(Canary((0.2,), 600, QUICK.gates), v2, tell, log)
"""


def test_a_killed_owner_leaves_the_log_and_no_process(saved, kind, tmp_path):
    log = tmp_path / "rollout.jsonl"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, saved["v1"], saved["v2"], kind, log],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    try:
        pids = [int(word) for word in owner.stdout.readline().split()]
        processes = [psutil.Process(pid) for pid in pids]
        assert len(processes) >= 5
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
    said = [json.loads(line)["what"] for line in log.read_text().splitlines()]
    assert said[:3] == ["begin", "deploy", "shift"]


# -- its parts ---------------------------------------------------------------------


def test_the_split_of_each_answer_is_the_one_it_was_drawn_with(running, saved):
    report = running.roll_out(QUICK, saved["v2"])
    frame = running.frame()
    shifts = [e.at_s for e in report.log if e.what == "shift"]
    assert len(shifts) == 3
    assert set(frame["share"]) == {0.0, 0.2, 0.5, 1.0}
    assert (frame.loc[frame["share"] == 0, "role"] == STABLE).all()
    assert (frame.loc[frame["share"] == 1, "role"] == CANDIDATE).all()
    counted = sum(m.stable.requests + m.candidate.requests for m in report.measurements)
    assert 0 < counted <= len(frame)


def test_a_share_that_is_no_round_number_is_counted_as_one(running, saved):
    report = running.roll_out(Canary((1 / 3,), 1.0, (gate(),)), saved["v2"])
    assert report.outcome == "promoted"
    shares = {m.share for m in report.measurements if m.candidate.requests}
    assert shares <= {0.333333, 1.0}


def test_labels_must_fit(saved):
    with pytest.raises(ValueError, match="as many labels"):
        live.System(saved["v1"], FEATURES, LABELS[:3], rate_per_s=1)


def test_a_load_ends_with_what_it_has_not_told_yet(saved, kind):
    with system(saved, kind, rate_per_s=0) as running:
        with load.Load(running.url, FEATURES, rate_per_s=200, seed=1) as more:
            time.sleep(0.5)
            answers = more.take() + more.stop()
            assert not more.alive
        assert answers
        assert all(a.status == 200 and a.share == 0 for a in answers)
        finished = [a.finished_s for a in answers]
        assert finished == sorted(finished)
        assert threading.active_count() < 50


def test_a_load_refuses_a_wrong_rate():
    with pytest.raises(ValueError, match="requests a second"):
        load.Load("http://127.0.0.1:1", FEATURES, rate_per_s=-1)
