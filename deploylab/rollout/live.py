"""Rollouts for real: model servers, a router and users' traffic on this machine.

    with live.System(v1, rows) as system:
        report = system.roll_out(strategy, v2)

Everything is a process of its own and ends with this one. What goes wrong with one of
them ends the rollout, with the traffic on a version that works.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import pandas as pd

from deploylab import router, servers, traffic
from deploylab.load import Answer, Load
from deploylab.rollout.engine import Report, StepFailed, carry_out
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Abort,
    Bake,
    Counts,
    Deploy,
    Drain,
    Event,
    Measurement,
    Promote,
    Retire,
    Shift,
    Step,
    TrafficSplit,
)
from deploylab.rollout.strategies import Strategy

#: Load is at most this share of what was measured at the start.
LOAD = 0.3
#: Requests that a new instance answers before it gets users'.
WARM_REQUESTS = 20
# An instance that hangs is told from one that works long before the client gives up,
# or nobody would know whose the request was.
_ANSWER_TIMEOUT_S = 2
_READY_S = 30.0
_POLL_S = 0.02
_DRAIN_S = 10.0


class RolloutRunning(RuntimeError):
    """One rollout at a time: with two, nobody knows which version an error is of."""


class System:
    """A version that serves, a router before it, and users who send requests.

    stable: folder of the artifact that serves; rows: what users send, a table of
    features; labels: whether each row is phishing, for the metric "wrong".
    rate_per_s: requests a second, by default three tenths of the capacity measured at
    the start, and at most `most_per_s`. instances: of each version, at most four.
    router_kind: see `router.start`. slow_s: an answer that takes longer counts as
    "slow". tick_s: how often a rollout looks.

    Metrics are counted for each role, a request at most once in each: "errors" (5xx:
    also the router's own, for an instance that broke off, or gave no answer within two
    seconds), "refused" (4xx), "slow", "passed" (answered as harmless), and with labels
    "wrong". A request without any answer is nobody's, and counted nowhere.

    A new instance answers some requests of ours before it gets users' ones.
    """

    def __init__(
        self,
        stable: str | Path,
        rows: pd.DataFrame,
        labels: Sequence[int] | None = None,
        *,
        rate_per_s: float | None = None,
        most_per_s: float = 300.0,
        instances: int = 1,
        router_kind: str = "auto",
        slow_s: float = 0.1,
        tick_s: float = 0.25,
        seed: int = 0,
    ) -> None:
        self.stable = Path(stable)
        self.instances, self.tick_s, self.slow_s = instances, tick_s, slow_s
        self._rows, self._seed = rows, seed
        self._labels = None if labels is None else np.asarray(labels)
        if self._labels is not None and len(self._labels) != len(rows):
            raise ValueError(f"{len(rows)} rows need as many labels")
        self._groups: dict[str, list[servers.Server]] = {STABLE: [], CANDIDATE: []}
        self._rolling_out, self._collecting = threading.Lock(), threading.Lock()
        self._stack = ExitStack()
        self.answers: list[Answer] = []
        try:
            self._stack.callback(self._stop_servers)
            for _ in range(instances):
                self._groups[STABLE].append(servers.start(self.stable))
                _warm(self._groups[STABLE][-1], rows)
            self.router = router.start(router_kind, answer_timeout_s=_ANSWER_TIMEOUT_S)
            self._stack.callback(lambda: self.router.stop())
            self.router.set_group(STABLE, self._urls(STABLE))
            self.capacity_per_s = math.nan
            if rate_per_s is None:
                rate_per_s = min(LOAD * self._measure(), most_per_s)
            self.rate_per_s = rate_per_s
            self.load = self._stack.enter_context(
                Load(self.url, rows, rate_per_s=rate_per_s, seed=seed)
            )
        except BaseException:
            self._stack.close()
            raise

    @property
    def url(self) -> str:
        """Where users send their requests."""
        return self.router.url

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that are counted."""
        labelled = ("wrong",) if self._labels is not None else ()
        return ("errors", "refused", "slow", "passed", *labelled)

    def roll_out(
        self,
        strategy: Strategy,
        candidate: str | Path,
        tell: Callable[[Event], None] = lambda event: None,
        log_file: str | Path | None = None,
        ready_s: float = _READY_S,
    ) -> Report:
        """Roll the candidate's artifact out; return when it is over, see `carry_out`.

        ready_s: a candidate that is not ready after so long is given up. After a
        promotion the candidate is the version that serves. What a rollout that was
        interrupted has left is put in order first.

        Raises RolloutRunning if one is under way.
        """
        if not self._rolling_out.acquire(blocking=False):
            raise RolloutRunning(
                "a rollout is under way, and this one has not begun. Wait for its "
                "end, or interrupt it; then start this one."
            )
        try:
            environment = Live(self, Path(candidate), ready_s)
            environment.put_in_order()
            return carry_out(strategy, environment, tell, log_file)
        finally:
            self._rolling_out.release()

    def processes(self) -> dict[str, list[int]]:
        """Process ids: of the servers of each role, of the router and of the load."""
        found = {
            role: [pid for server in group for pid in server.processes()]
            for role, group in self._groups.items()
        }
        return found | {"router": self.router.processes(), "load": [self.load.pid]}

    def frame(self) -> pd.DataFrame:
        """Every answer so far as a table, see `deploylab.load.Answer`."""
        return pd.DataFrame(self.collect(), columns=Answer._fields)

    def collect(self) -> list[Answer]:
        """Every answer so far."""
        with self._collecting:
            self.answers += self.load.take()
        return self.answers

    def stop(self) -> None:
        """End the traffic, the router and the servers; they would end with us too."""
        self._stack.close()

    def __enter__(self) -> System:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<system at {self.url}, {self.rate_per_s:.0f} requests/s>"

    # -- plumbing

    def _urls(self, role: str) -> list[str]:
        return [server.url for server in self._groups[role]]

    def _measure(self) -> float:
        """What the stable group answers through the router, closed loop."""
        rng = np.random.default_rng(self._seed)
        bodies = traffic.bodies(rng, self._rows, 500)
        self.capacity_per_s = traffic.capacity(
            self.url, bodies, n_requests=500
        ).requests_per_s
        return self.capacity_per_s

    def _stop_servers(self) -> None:
        for group in self._groups.values():
            for server in group:
                server.stop()

    def _events(self, answer: Answer) -> list[str]:
        """The metrics of which a request is an event."""
        found = []
        if answer.status >= 500:
            found.append("errors")
        if 400 <= answer.status < 500:
            found.append("refused")
        if answer.latency_s > self.slow_s:
            found.append("slow")
        if 200 <= answer.status < 300:
            if answer.probability < 0.5:
                found.append("passed")
            if self._labels is not None:
                said = answer.probability >= 0.5
                if said != bool(self._labels[answer.row]):
                    found.append("wrong")
        return found


class Live:
    """The environment of one rollout in a `System`."""

    def __init__(self, system: System, candidate: Path, ready_s: float) -> None:
        self.system, self.candidate, self.ready_s = system, candidate, ready_s
        self._told = len(system.collect())  # what came before is not this rollout's
        self._began = self._looked = time.monotonic()
        self._early: list[Answer] = []

    @property
    def now_s(self) -> float:
        """Seconds since the rollout began."""
        return time.monotonic() - self._began

    @property
    def _share_in_force(self) -> float:
        """The candidate's share, in the millionths that a router counts in."""
        return round(self.system.router.split.candidate, 6)

    def do(self, step: Step) -> list[Measurement]:
        """Carry out a step; see `engine.Environment`."""
        share = self._share_in_force
        if isinstance(step, Promote):
            # From then on the names mean others; what follows is no part of this.
            seen = self._take(share)
            self._try(step)
            return seen
        self._try(step)
        return self._take(share)

    def _try(self, step: Step) -> None:
        try:
            self._do(step)
        except (servers.ServerError, router.RouterError) as error:
            raise StepFailed(str(error).split("\n")[0]) from error

    def _do(self, step: Step) -> None:
        system, groups = self.system, self.system._groups
        match step:
            case Deploy(role):
                self._deploy(role)
            case Shift(split):
                self._look()
                system.router.set_split(split)
            case Abort():
                self._secure()
            case Bake(until_s):
                wait_s = min(system.tick_s, until_s - self.now_s)
                time.sleep(max(0.0, wait_s))
                self._look()
            case Drain(role):
                if not system.router.drain(role, _DRAIN_S):
                    raise StepFailed(f"requests are unanswered after {_DRAIN_S:g} s")
            case Retire(role):
                # Refused while the role gets traffic; a dead router sends none.
                with suppress(servers.ServerDied):
                    system.router.set_group(role, [])
                while groups[role]:
                    groups[role].pop().stop()
            case Promote():
                if not groups[CANDIDATE]:
                    raise StepFailed("there is no candidate to promote")
                # The same instances, under the other name; then nobody is moved.
                self._route(groups[CANDIDATE])
                groups[STABLE], groups[CANDIDATE] = groups[CANDIDATE], []
                system.router.set_group(CANDIDATE, [])
                system.stable = self.candidate

    def put_in_order(self) -> None:
        """All traffic to stable instances that live, and no candidate."""
        system = self.system
        if system._groups[STABLE]:
            self._secure()
            self._do(Retire(CANDIDATE))
        else:  # a promotion did not come to its end
            self._do(Promote())

    def _deploy(self, role: str) -> None:
        """Start the instances, wait until all are ready, and tell the router."""
        group = self.system._groups[role]
        if group:
            raise StepFailed(f"the {role} group is not empty")
        until_s = self.now_s + self.ready_s
        for _ in range(self.system.instances):
            group.append(servers.start(self.candidate, wait=False))
        while any(server.state != "ready" for server in group):
            self._look()
            if self.now_s > until_s:
                raise StepFailed(f"it was not ready within {self.ready_s:g} s")
            time.sleep(_POLL_S)
        for server in group:
            _warm(server, self.system._rows)
        self.system.router.set_group(role, self.system._urls(role))

    def _look(self) -> None:
        """Raise StepFailed if a process that the rollout needs has ended."""
        system = self.system
        system.router.check()
        for role, group in system._groups.items():
            for server in group:
                try:
                    server.check()
                except servers.ServerDied as error:
                    said = str(error).split("\n")[0]
                    raise StepFailed(f"{role}: {said}") from error
        if not system.load.alive:
            raise StepFailed("the traffic has ended: its generator is gone")

    def _secure(self) -> None:
        """All traffic to the stable instances that live; then replace the dead ones.

        If none lives, one is started first. If that fails, nothing is moved.
        """
        system = self.system
        group = system._groups[STABLE]
        dead = [server for server in group if server.state == "stopped"]
        alive = [server for server in group if server not in dead]
        if not alive:
            alive = [servers.start(system.stable)]
            _warm(alive[0], system._rows)
        self._route(alive)
        # Instances that came in place of dead ones are not waited for by users.
        with suppress(servers.ServerError):
            while len(alive) < len(group):
                alive.append(servers.start(system.stable))
        system._groups[STABLE] = alive
        system.router.set_group(STABLE, system._urls(STABLE))
        for server in dead:
            server.stop()

    def _route(self, group: Sequence[servers.Server]) -> None:
        """Send everything to these instances, as the stable group, whatever it takes.

        If the router is dead, the next one takes its place at the same address,
        because that is the one that users know.
        """
        system = self.system
        urls = [server.url for server in group]
        try:
            system.router.set_group(STABLE, urls)
            system.router.set_split(TrafficSplit(0.0))
        except (router.RouterError, servers.ServerError):
            broken = system.router
            broken.stop(grace_s=0)
            system.router = router.start(
                broken.kind, port=broken.port, answer_timeout_s=_ANSWER_TIMEOUT_S
            )
            system.router.set_group(STABLE, urls)

    def _take(self, share: float) -> list[Measurement]:
        """What was over since the last look, under each split that it was drawn with.

        share: in force since then; it gets a measurement even if nothing came.
        """
        system = self.system
        answers = system.collect()
        new, self._early = self._early + answers[self._told :], []
        self._told = len(answers)
        now_in_force = self._share_in_force
        from_s, self._looked = self._looked - self._began, time.monotonic()
        to_s = self._looked - self._began
        requests: dict[float, Counter] = defaultdict(Counter)
        events: dict[tuple[float, str], Counter] = defaultdict(Counter)
        began: dict[float, float] = {share: from_s}
        for answer in new:
            if answer.role not in (STABLE, CANDIDATE):
                continue  # nobody knows whose it was, if anybody's
            if answer.sent_s < self._began:
                continue  # it was drawn before this rollout
            drawn = answer.share
            if drawn == now_in_force != share:
                self._early.append(answer)  # it belongs to the time that begins now
                continue
            requests[drawn][answer.role] += 1
            events[drawn, answer.role].update(system._events(answer))
            if drawn != share:
                sent_s = min(answer.sent_s - self._began, from_s)
                began[drawn] = min(began.get(drawn, sent_s), sent_s)
        return [
            Measurement(
                began[drawn],
                # Of an earlier split: it was drawn before the last look.
                to_s if drawn == share else from_s,
                drawn,
                *(
                    Counts(requests[drawn][role], dict(events[drawn, role]))
                    for role in (STABLE, CANDIDATE)
                ),
            )
            for drawn in sorted(began, key=lambda drawn: drawn == share)
        ]


def _warm(server: servers.Server, rows: pd.DataFrame) -> None:
    """Let a new instance answer some requests before users' ones.

    The first are slow with any version, and would count against the new one.
    """
    bodies = traffic.bodies(np.random.default_rng(0), rows, WARM_REQUESTS)
    times_s = np.arange(WARM_REQUESTS) * 0.01
    plan = traffic.Plan(times_s, np.zeros(WARM_REQUESTS, int), bodies)
    traffic.send(plan, server.url, expect="any")
