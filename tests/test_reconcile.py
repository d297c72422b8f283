"""A reconcile loop: it converges, it keeps users served, and it says what it did."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploylab import load, phishing, reconcile, servers
from deploylab.reconcile import (
    Action,
    Controller,
    Desired,
    Failures,
    Fleet,
    Instance,
    Observed,
    Rules,
)

TINY = str(Path(__file__).with_name("tiny_service.py"))
ROWS = phishing.split().test[list(phishing.CONTRACT.names)]
BODY = json.dumps(ROWS.iloc[0].to_dict())
RULES = Rules(ready_s=20, min_ready_s=0.1, first_s=0.1, ceiling_s=0.4, progress_s=1)
VERSIONS = ("v1", "v2", "v3")


# -- the decision ------------------------------------------------------------------


def at_goal(version: str, number: int, now_s: float = 100.0) -> Observed:
    return Observed(
        tuple(
            Instance(f"{version}-{i}", version, "ready", now_s - 50, True)
            for i in range(number)
        ),
        version,
    )


def decide(desired: Desired, observed: Observed, now_s: float = 100.0, **rules):
    return reconcile.reconcile(desired, observed, now_s, Rules(**rules))


def test_nothing_to_do_at_the_goal():
    for number in (1, 2, 3):
        assert decide(Desired("v1", number), at_goal("v1", number)) == []


def test_the_first_start_uses_all_the_places_at_once():
    assert decide(Desired("v1", 3), Observed()) == [Action("start", "v1")] * 3


def test_a_roll_begins_with_one_more_and_touches_nobody():
    assert decide(Desired("v2", 3), at_goal("v1", 3)) == [Action("start", "v2")]


def test_ready_before_traffic_and_out_of_the_router_before_it_is_stopped():
    observed = at_goal("v1", 2)
    coming = Instance("v2-9", "v2", "starting", 99.0)
    seen = replace(observed, instances=(*observed.instances, coming))
    assert decide(Desired("v2", 2), seen) == []
    ready = coming._replace(state="ready")
    seen = replace(observed, instances=(*observed.instances, ready))
    assert decide(Desired("v2", 2), seen) == [Action("route", ("v1-0", "v1-1", "v2-9"))]
    routed = ready._replace(routed=True, since_s=90.0)
    seen = replace(observed, instances=(*observed.instances, routed))
    assert decide(Desired("v2", 2), seen) == [
        Action("route", ("v1-0", "v2-9")),
        Action("start", "v2"),
    ]
    left = observed.instances[1]._replace(routed=False)
    seen = replace(observed, instances=(observed.instances[0], left, routed))
    assert Action("stop", "v1-1") in decide(Desired("v2", 2), seen)


def test_the_version_that_serves_is_healed_before_the_new_one_is_tried_again():
    observed = replace(at_goal("v1", 3), failures={"v2": Failures(1, 0.0)})
    seen = replace(observed, instances=observed.instances[:2])
    assert decide(Desired("v2", 3), seen) == [
        Action("start", "v1"),
        Action("start", "v2"),
    ]


def test_a_pause_that_doubles_up_to_a_ceiling():
    rules = Rules(first_s=10, ceiling_s=300)  # those of the kubelet
    pauses = [rules.pause_s(n) for n in range(9)]
    assert pauses == [0, 0, 10, 20, 40, 80, 160, 300, 300]
    assert rules.pause_s(10**6) == 300
    failed = Observed(failures={"v1": Failures(3, 100.0)})
    assert reconcile.reconcile(Desired("v1"), failed, 119.9, rules) == []
    assert reconcile.reconcile(Desired("v1"), failed, 120.0, rules) == [
        Action("start", "v1")
    ]


def test_what_starts_for_too_long_is_given_up():
    seen = Observed((Instance("v2-0", "v2", "starting", 79.0),))
    assert decide(Desired("v2", 1), seen, ready_s=20) == [
        Action("give up", "v2-0"),
        Action("start", "v2"),
    ]
    assert decide(Desired("v2", 1), seen, ready_s=22) == []


@pytest.mark.parametrize(
    ("version", "replicas", "said"),
    [
        ("", 1, "a version is a name such as 'v1', not ''"),
        ("  ", 1, "a version is a name"),
        (None, 1, "a version is a name such as 'v1', not None"),
        (2, 1, "a version is a name"),
        ("v1", 0, "replicas is a whole number, 1 or more, not 0"),
        ("v1", -1, "not -1"),
        ("v1", 1.0, "not 1.0"),
        ("v1", True, "not True"),
        ("v1", "3", "not '3'"),
        ("v1", None, "stop the controller"),
    ],
)
def test_a_wish_that_is_none(version, replicas, said):
    with pytest.raises(ValueError, match=said):
        Desired(version, replicas)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"slots": 1}, "a roll needs one slot"),
        ({"surge": 0}, "a roll needs one slot"),
        ({"slots": 5}, "at most 4 instances"),
        ({"ready_s": 0}, "ready_s is a number of seconds above 0, not 0"),
        ({"first_s": -1}, "first_s is a number"),
        ({"ceiling_s": float("nan")}, "ceiling_s is a number"),
        ({"min_ready_s": -1}, "min_ready_s is 0 or more"),
    ],
)
def test_rules_that_are_none(rules, said):
    with pytest.raises(ValueError, match=said):
        Rules(**rules)


instances = st.builds(
    lambda version, state, since_s, routed: Instance(
        "", version, state, since_s, routed and state == "ready"
    ),
    st.sampled_from(VERSIONS),
    st.sampled_from(("starting", "ready", "stopping")),
    st.floats(0, 100),
    st.booleans(),
)
observations = st.builds(
    lambda found, serving, failures: Observed(
        tuple(one._replace(name=f"i{n}") for n, one in enumerate(found)),
        serving,
        failures,
    ),
    st.lists(instances, max_size=6),
    st.sampled_from((None, *VERSIONS)),
    st.dictionaries(
        st.sampled_from(VERSIONS),
        st.builds(Failures, st.integers(1, 9), st.floats(0, 100)),
    ),
)
wishes = st.builds(Desired, st.sampled_from(VERSIONS), st.integers(1, 5))
all_rules = st.builds(
    lambda slots, surge, **more: Rules(slots, min(surge, slots - 1), **more),
    st.integers(2, 4),
    st.integers(1, 3),
    min_ready_s=st.sampled_from((0.0, 2.0)),
    ready_s=st.just(20.0),
)


class World:
    """Instances as they behave; dying says how a version does not."""

    def __init__(self, observed: Observed, now_s: float = 100.0) -> None:
        self.instances = {one.name: one for one in observed.instances}
        self.serving, self.failures = observed.serving, dict(observed.failures)
        self.now_s, self.number = now_s, 0

    def observed(self) -> Observed:
        return Observed(
            tuple(self.instances.values()), self.serving, dict(self.failures)
        )

    def routed(self) -> list[Instance]:
        return [one for one in self.instances.values() if one.routed]

    def do(self, action: Action) -> None:
        what, which = action
        if what == "start":
            self.number += 1
            name = f"new{self.number}"
            self.instances[name] = Instance(name, which, "starting", self.now_s)
        elif what == "route":
            for name, one in self.instances.items():
                self.instances[name] = one._replace(routed=name in which)
        else:
            assert not self.instances[which].routed, "stopped while it got requests"
            one = self.instances[which]
            self.instances[which] = one._replace(state="stopping", since_s=self.now_s)

    def step(self, desired: Desired, rules: Rules) -> list[Action]:
        """One look, and its actions; what users have is never less for it."""
        observed = self.observed()
        actions = reconcile.reconcile(desired, observed, self.now_s, rules)
        assert actions == reconcile.reconcile(desired, observed, self.now_s, rules)
        before = len(self.routed())
        up = [i for i in self.routed() if rules.up(i, self.now_s)]
        serving_up = [i for i in up if i.version == self.serving]
        for action in actions:
            self.do(action)
        goal = rules.goal(desired)
        after = self.routed()
        assert len(after) >= min(before, goal)
        assert all(one.state == "ready" for one in after)
        starts = [a for a in actions if a.what == "start"]
        if starts:
            assert len(self.instances) <= max(rules.slots, len(observed.instances))
        new_up = sum(i.version == desired.version for i in up)
        if serving_up and self.serving != desired.version and new_up < goal:
            assert [i for i in after if i.version == self.serving]
        if reconcile.reached(desired, observed, self.now_s, rules):
            assert actions == []
            self.serving = desired.version
        return actions

    def pass_time(self, works: tuple[str, ...] = VERSIONS) -> None:
        """A second; what starts gets ready if its version works, what stops is gone."""
        self.now_s += 1
        for name, one in list(self.instances.items()):
            if one.state == "stopping":
                del self.instances[name]
            elif one.state == "starting" and one.version in works:
                self.instances[name] = one._replace(state="ready", since_s=self.now_s)

    def is_reached(self, desired: Desired, rules: Rules) -> bool:
        return reconcile.reached(desired, self.observed(), self.now_s, rules)


@settings(max_examples=200, deadline=None)
@given(observations, wishes, all_rules)
def test_it_converges_from_anything_when_instances_behave(observed, desired, rules):
    world = World(observed)
    for _ in range(60):
        if world.is_reached(desired, rules):
            break
        world.step(desired, rules)
        world.pass_time()
    assert world.is_reached(desired, rules), world.instances
    assert world.step(desired, rules) == []


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data(), wishes, all_rules, st.integers(1, 3))
def test_whatever_dies_the_version_that_works_serves_on(data, desired, rules, number):
    """v1 serves; v2 and v3 never get ready; instances die, and wishes change."""
    wish = Desired("v1", number)
    world = World(at_goal("v1", rules.goal(wish)))
    for _ in range(40):
        if data.draw(st.integers(0, 3)) == 0:
            wish = data.draw(wishes)
        names = sorted(world.instances)
        # Never all of them at once: then nobody could serve, whatever is decided.
        alive = [i for i in world.routed() if i.version == "v1"]
        if names and data.draw(st.integers(0, 4)) == 0:
            victim = data.draw(st.sampled_from(names))
            if world.instances[victim] not in alive or len(alive) > 1:
                del world.instances[victim]
        world.step(wish, rules)
        assert [i for i in world.routed() if i.version == "v1"]
        world.pass_time(works=("v1",))
    world.now_s += 100  # beyond every pause
    for _ in range(60):
        world.step(Desired("v1", number), rules)
        world.pass_time(works=("v1",))
    assert world.is_reached(Desired("v1", number), rules)


# -- the machine -------------------------------------------------------------------


class Users:
    """Users who ask one after the other, and a moment in which none of them does."""

    def __init__(self, url: str) -> None:
        self.port = int(url.rpartition(":")[2])
        self.said: list[tuple[float, int, str | None]] = []
        self.between = threading.Lock()
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.ask)

    def ask(self) -> None:
        headers = {"Content-Type": "application/json"}
        while not self.end.wait(0.002):
            with self.between:
                connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
                try:
                    connection.request("POST", "/predict", BODY, headers)
                    answer = connection.getresponse()
                    status = answer.status
                    body = answer.read()
                    version = json.loads(body)["version"] if status == 200 else None
                except OSError:
                    status, version = 0, None
                finally:
                    connection.close()
                self.said.append((time.monotonic(), status, version))

    def ask_more(self, number: int = 20) -> None:
        """Return when so many more have been answered."""
        until = len(self.said) + number
        while len(self.said) < until:
            time.sleep(0.01)

    def versions(self) -> Counter:
        return Counter(version for _, _, version in self.said)

    def __enter__(self) -> Users:
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.end.set()
        self.thread.join()

    def assert_served(self) -> None:
        """Nobody has failed, and somebody has asked."""
        failed = [said for said in self.said if said[1] != 200]
        assert len(self.said) >= 20
        assert not failed, f"{failed} of {len(self.said)} failed"


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    names = ("v1", "v2", "v2-dies-loading", "v2-dies-serving")
    return phishing.save(names, tmp_path_factory.mktemp("versions"))


@contextlib.contextmanager
def controlled(versions, kind, replicas=2, rules=RULES, **options) -> Iterator:
    """A fleet on v1 with its controller and users, all served until the end."""
    with Fleet(versions, kind=kind, **options) as fleet:
        with Controller(fleet, Desired("v1", replicas), rules) as controller:
            controller.wait()
            with Users(fleet.url) as users:
                yield fleet, controller, users
                users.ask_more()
        pids = processes(fleet)
    assert not [pid for pid in pids if is_alive(pid)]


def processes(fleet: Fleet) -> list[int]:
    found = fleet.router.processes()
    for name in list(fleet._running):
        found += fleet.server(name).processes()
    return found


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(server: servers.Server) -> None:
    """As the kernel does when memory is gone: all of it, at once.

    Its port is the last to go: a process whose first thread has ended is called a
    zombie, while another thread still holds the listening socket, and the kernel
    takes connections on it, which nobody will answer (in 12 kills of 60 here).
    """
    pids = server.processes()
    os.killpg(server.pid, signal.SIGKILL)
    while any(map(is_alive, pids)) or takes_connections(server):
        time.sleep(0.005)


def takes_connections(server: servers.Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except OSError:
        return False
    return True


def wait_for(controller: Controller, what: str, number: int = 1, **details) -> None:
    """Until the log has so many events of a kind."""
    deadline = time.monotonic() + 60
    while len(events(controller, what, **details)) < number:
        assert time.monotonic() < deadline, controller.log[-8:]
        time.sleep(0.01)


def events(controller: Controller, what: str, **details) -> list:
    return [
        event
        for event in controller.log
        if event.what == what and details.items() <= event.details.items()
    ]


def instances_of(fleet: Fleet, version: str) -> list[str]:
    return [
        name
        for name, one in list(fleet._running.items())
        if one.version == version and one.state != "stopping"
    ]


@pytest.mark.slow
def test_heal_scale_and_roll_under_traffic(saved, kind):
    with controlled(saved, kind) as (fleet, controller, users):
        with users.between:
            kill(fleet.server(instances_of(fleet, "v1")[0]))
        wait_for(controller, "died")
        controller.wait()
        assert len(instances_of(fleet, "v1")) == 2
        controller.desire("v1", 3)
        controller.wait()
        assert len(instances_of(fleet, "v1")) == 3
        controller.desire("v2", 2)
        controller.wait()
        assert len(instances_of(fleet, "v2")) == 2
        assert not instances_of(fleet, "v1")
        assert controller.reached
    users.assert_served()
    assert set(users.versions()) == {"v1", "v2"}
    assert users.said[-1][2] == "v2"
    assert not events(controller, "error")


@pytest.mark.slow
def test_it_rests_at_the_goal(saved):
    with controlled(saved, "auto") as (_, controller, users):
        before = len(controller.log)
        users.ask_more(60)
        assert controller.log[before:] == []


@pytest.mark.slow
def test_more_than_the_machine_has_room_for(saved):
    with controlled(saved, "auto") as (fleet, controller, users):
        controller.desire("v1", 9)
        controller.wait()
        assert len(instances_of(fleet, "v1")) == 3
        (said,) = events(controller, "cannot")
        assert "9 replicas are wanted, and there is room for 3" in said.details["why"]
        controller.desire("v2", 9)  # and it rolls nevertheless
        controller.wait()
        assert len(instances_of(fleet, "v2")) == 3
    users.assert_served()


@pytest.mark.slow
def test_a_version_that_is_never_ready(saved, tmp_path):
    (tmp_path / "never").mkdir()
    versions = saved | {"never": tmp_path / "never"}

    def start(folder):
        app = f"{TINY}:never" if Path(folder).name == "never" else None
        more = {"app": app} if app else {}
        return servers.start(folder, wait=False, **more)

    rules = replace(RULES, ready_s=1.5)
    with Fleet(versions, kind="auto", start=start) as fleet:
        with Controller(fleet, Desired("v1", 2), replace(rules, ready_s=20)) as first:
            first.wait()
        wish = Desired("never", 2)
        with Controller(fleet, wish, rules) as controller, Users(fleet.url) as users:
            wait_for(controller, "give up", 3)
            wait_for(controller, "stuck", version="never")
            assert len(instances_of(fleet, "v1")) == 2
            assert not controller.reached
            controller.desire("v1", 2)
            controller.wait()
            wait_for(controller, "stopped", 3, version="never")
    users.assert_served()
    assert set(users.versions()) == {"v1"}
    assert len(events(controller, "stuck", version="never")) == 1


@pytest.mark.slow
def test_a_crash_loop_is_tried_ever_later(saved):
    with controlled(saved, "auto") as (fleet, controller, users):
        controller.desire("v2-dies-loading", 2)
        dying = {"version": "v2-dies-loading"}
        wait_for(controller, "failure", 3, **dying)
        wait_for(controller, "stuck", **dying)
        found = events(controller, "failure", **dying)[:3]
        assert [e.details["number"] for e in found] == [1, 2, 3]
        assert [e.details["pause_s"] for e in found] == [0, 0.1, 0.2]
        starts = events(controller, "start", version="v2-dies-loading")
        for failure, start in zip(found, starts[1:], strict=False):
            assert start.at_s - failure.at_s >= failure.details["pause_s"] - 1e-3
        assert len(instances_of(fleet, "v1")) == 2
        controller.desire("v2", 1)  # and one that works
        controller.wait()
    users.assert_served()
    assert set(users.versions()) == {"v1", "v2"}


@pytest.mark.slow
def test_a_long_run_makes_the_next_failure_a_first_one(saved):
    rules = replace(RULES, reset_s=0.3)
    with controlled(saved, "auto", 1, rules) as (fleet, controller, users):
        for _ in range(3):
            name = instances_of(fleet, "v1")[0]
            ran_s = fleet._running[name].since_s + 0.3
            while time.monotonic() < ran_s:
                time.sleep(0.01)
            with users.between:
                kill(fleet.server(name))
                wait_for(controller, "died", name=name)
                controller.wait()  # the only one: nobody could answer
    numbers = [e.details["number"] for e in events(controller, "failure")]
    assert numbers == [1, 1, 1]
    users.assert_served()


@pytest.mark.slow
def test_it_counts_a_version_only_after_it_has_served_for_a_while(saved):
    """A version that dies of its hundredth request never gets all the places."""
    rules = replace(RULES, min_ready_s=30)
    with Fleet(saved) as fleet:
        with Controller(fleet, Desired("v1", 2), RULES) as first:
            first.wait()
        wish = Desired("v2-dies-serving", 2)
        with Controller(fleet, wish, rules) as controller, Users(fleet.url) as users:
            wait_for(controller, "failure", 2, version="v2-dies-serving")
            assert len(instances_of(fleet, "v1")) == 2
            assert fleet.serving == "v1"
    # A death costs the answer that it was of, and one that waits at its door.
    failed = [said for said in users.said if said[1] != 200]
    assert len(failed) <= 2 * len(events(controller, "failure")) + 2
    assert users.versions()["v1"] > 100


@pytest.mark.slow
def test_an_edit_while_it_works_and_the_newest_wins(saved):
    with controlled(saved, "auto") as (fleet, controller, users):
        controller.desire("v2", 2)
        wait_for(controller, "start", version="v2")
        half_started = instances_of(fleet, "v2")
        controller.desire("v2-dies-loading", 1)
        controller.desire("v1", 3)
        controller.wait()
        assert len(instances_of(fleet, "v1")) == 3
        for name in half_started:
            wait_for(controller, "stopped", name=name)
        assert not events(controller, "start", version="v2-dies-loading")
    users.assert_served()


@pytest.mark.slow
def test_a_version_that_is_not_there_and_then_is(saved, tmp_path):
    versions = {"v1": saved["v1"], "v2": tmp_path / "not-yet"}
    with controlled(versions, "auto") as (fleet, controller, users):
        controller.desire("v9", 2)
        wait_for(controller, "cannot start", 2, version="v9")
        said = events(controller, "cannot start")[0].details["why"]
        assert said == "there is no version 'v9'; there are v1, v2"
        controller.desire("v2", 2)
        wait_for(controller, "cannot start", 2, version="v2")
        said = events(controller, "cannot start", version="v2")[0].details["why"]
        assert "there is no artifact at" in said
        assert len(instances_of(fleet, "v1")) == 2
        os.symlink(saved["v2"], tmp_path / "not-yet")  # somebody has copied it
        controller.wait()
        assert len(instances_of(fleet, "v2")) == 2
    users.assert_served()


@pytest.mark.slow
def test_a_start_that_fails_for_any_reason_is_tried_again(saved):
    """As when the disk is full for a while."""
    refused = ["No space left on device"] * 2

    def start(folder):
        if refused and Path(folder) == Path(saved["v2"]):
            raise OSError(28, refused.pop())
        return servers.start(folder, wait=False)

    with controlled(saved, "auto", start=start) as (fleet, controller, users):
        controller.desire("v2", 2)
        controller.wait()
        assert len(instances_of(fleet, "v2")) == 2
        found = events(controller, "cannot start", version="v2")
        assert [e.details["why"] for e in found] == [
            "OSError: [Errno 28] No space left on device"
        ] * 2
    users.assert_served()


@pytest.mark.slow
def test_a_look_that_fails_for_any_reason_is_not_the_last_one(saved, monkeypatch):
    """As when no file descriptor is left for a while: psutil raises OSError then."""
    with controlled(saved, "auto") as (fleet, controller, users):
        broken = threading.Event()
        look = fleet._look_at

        def look_at(one, rules):
            if broken.is_set():
                raise OSError(24, "Too many open files")
            look(one, rules)

        monkeypatch.setattr(fleet, "_look_at", look_at)
        broken.set()
        wait_for(controller, "error")
        with users.between:
            kill(fleet.server(instances_of(fleet, "v1")[0]))
            until = controller._begun + 3  # and more looks that fail
            while controller._begun < until:
                time.sleep(0.01)
            assert not controller.reached
            broken.clear()
            wait_for(controller, "died")
            controller.wait()
        assert controller.reached
        assert len(instances_of(fleet, "v1")) == 2
        (said,) = events(controller, "error")
        assert said.details["why"] == "OSError: [Errno 24] Too many open files"
    users.assert_served()
    assert not controller.reached
    with pytest.raises(reconcile.NotReached, match="has ended"):
        controller.wait()


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["v1", "v2"])
def test_an_instance_killed_during_a_roll(saved, kind, victim):
    with controlled(saved, kind, 3) as (fleet, controller, users):
        controller.desire("v2", 3)
        wait_for(controller, "ready", version="v2")
        with users.between:
            name = instances_of(fleet, victim)[0]
            kill(fleet.server(name))
        wait_for(controller, "died", name=name)
        controller.wait()
        assert len(instances_of(fleet, "v2")) == 3
        assert not instances_of(fleet, "v1")
    users.assert_served()


@pytest.mark.slow
def test_a_worker_that_its_server_replaces_is_a_death_too(saved):
    with controlled(saved, "auto") as (fleet, controller, users):
        name = instances_of(fleet, "v1")[0]
        server = fleet.server(name)
        routes = len(events(controller, "route"))
        with users.between:
            os.kill(server.ready_workers()[0], signal.SIGKILL)
            wait_for(controller, "died", name=name)
            wait_for(controller, "route", routes + 1)
        controller.wait()
        assert name not in instances_of(fleet, "v1")
    users.assert_served()


@pytest.mark.slow
def test_the_next_controller_adopts_what_it_finds(saved):
    with controlled(saved, "auto") as (fleet, controller, users):
        controller.desire("v2", 2)
        wait_for(controller, "ready", version="v2")
        controller.stop()  # in the middle of a roll
        controller.stop()
        found = set(fleet._running)
        users.ask_more(50)
        assert set(fleet._running) == found  # nobody is at work, and users are served
        with Controller(fleet, Desired("v2", 2), RULES) as second:
            second.wait()
            assert set(instances_of(fleet, "v2")) & found
            pids = {fleet.server(name).pid for name in instances_of(fleet, "v2")}
        with Controller(fleet, Desired("v2", 2), RULES) as third:
            third.wait()
            after = {fleet.server(name).pid for name in instances_of(fleet, "v2")}
            assert after == pids
    users.assert_served()


@pytest.mark.slow
def test_a_fleet_has_one_controller(saved):
    with controlled(saved, "auto", 1) as (fleet, controller, _):
        with pytest.raises(reconcile.ControllerRunning, match="has a controller"):
            Controller(fleet, Desired("v2"))
        with pytest.raises(ValueError, match="replicas is a whole number"):
            controller.desire("v2", 0)
        assert controller.desired == Desired("v1", 1)


@pytest.mark.slow
def test_a_wish_that_is_not_reached_says_what_happened(saved):
    with controlled(saved, "auto", 1) as (_, controller, _users):
        controller.desire("v9", 1)
        wait_for(controller, "cannot start")
        with pytest.raises(reconcile.NotReached, match="no version 'v9'"):
            controller.wait(timeout_s=0.01)


@pytest.mark.slow
def test_a_router_that_died_is_replaced_at_its_address(saved, kind):
    with controlled(saved, kind, 1) as (fleet, controller, users):
        url, routes = fleet.url, len(events(controller, "route"))
        with users.between:
            os.kill(fleet.router.pid, signal.SIGKILL)
            wait_for(controller, "router replaced")
            wait_for(controller, "route", routes + 1)
        controller.wait()
        assert fleet.url == url
    users.assert_served()


@pytest.mark.slow
def test_a_stopped_fleet_stays_stopped(saved):
    fleet = Fleet(saved, kind="python")
    with Controller(fleet, Desired("v1", 1), RULES) as controller:
        wait_for(controller, "start")
        pids = processes(fleet)
        fleet.stop()
        controller._thread.join(10)
        assert not controller._thread.is_alive()
    assert not [pid for pid in pids if is_alive(pid)]
    with pytest.raises(servers.ServerError, match="was stopped"):
        fleet.observe(RULES)


@pytest.mark.slow
def test_nothing_outlives_the_process_that_owns_it(saved):
    program = (
        "import json, sys\n"
        "from deploylab.reconcile import *\n"
        "fleet = Fleet(json.loads(sys.argv[1]))\n"
        "controller = Controller(fleet, Desired('v1', 2))\n"
        "controller.wait()\n"
        "pids = fleet.router.processes()\n"
        "for name in fleet._running:\n"
        "    pids += fleet.server(name).processes()\n"
        "print(json.dumps(pids), flush=True)\n"
        "sys.stdin.read()\n"
    )
    folders = json.dumps({name: str(folder) for name, folder in saved.items()})
    owner = subprocess.Popen(
        [sys.executable, "-c", program, folders],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        pids = json.loads(owner.stdout.readline())
        assert len(pids) >= 5
        assert all(map(is_alive, pids))
    finally:
        owner.kill()
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()
    deadline = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_kill_under_load_costs_what_it_had_in_its_hands(saved, kind):
    """Nothing else: each failed request was under way when the instance died."""
    wish = Desired("v1", 3)
    with Fleet(saved, kind=kind) as fleet, Controller(fleet, wish, RULES) as controller:
        controller.wait()
        with load.Load(fleet.url, ROWS, rate_per_s=100) as traffic:
            answers: list = []
            while len(answers) < 50:
                answers += traffic.take()
                time.sleep(0.01)
            name = instances_of(fleet, "v1")[0]
            before_s = time.monotonic()
            kill(fleet.server(name))
            after_s = time.monotonic()
            wait_for(controller, "died", name=name)
            controller.wait()
            answers += traffic.stop()
    failed = [one for one in answers if one.status != 200]
    assert all(one.sent_s <= after_s and one.finished_s >= before_s for one in failed)
    assert len(answers) > 50
