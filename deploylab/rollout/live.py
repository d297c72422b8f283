"""Rollouts for real: model servers, a router and users' traffic on this machine.

    with live.System(v1, rows) as system:
        report = system.roll_out(strategy, v2)

Everything is a process of its own and ends with this one. What goes wrong with one of
them ends the rollout, with the traffic on a version that works.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from deploylab import router, servers, traffic
from deploylab.load import Answer, Load
from deploylab.rollout.engine import (
    Report,
    StepFailed,
    carry_out,
    carry_out_services,
)
from deploylab.rollout.model import (
    CANDIDATE,
    MIRROR,
    PREVIEW,
    STABLE,
    Abort,
    Bake,
    Counts,
    Deploy,
    Drain,
    Event,
    Measurement,
    Mirror,
    Preview,
    Promote,
    Retire,
    Shift,
    Step,
    TrafficSplit,
)
from deploylab.rollout.strategies import MultiService, Strategy
from deploylab.router import RouterError

#: Load is at most this share of what was measured at the start.
LOAD = 0.3
#: Requests that a new instance answers before it gets users'.
WARM_REQUESTS = 20
# An instance that hangs is told from one that works long before the client gives up,
# or nobody would know whose the request was.
_ANSWER_TIMEOUT_S = 2
_READY_S = 30.0
_POLL_S = 0.02
_TRIES = 3  # of an order that a router refuses, before another takes its place
_DRAIN_S = 10.0


#: Status, probability (NaN for none) and latency_s of an answer.
Said = tuple[int, float, float]


class RolloutRunning(RuntimeError):
    """One rollout at a time: with two, nobody knows which version an error is of."""


class System:
    """A version that serves, a router before it, and users who send requests.

    stable: folder of the artifact that serves; rows: what users send, a table of
    features; labels: whether each row is phishing, for the metric "wrong".
    rate_per_s: requests a second, by default three tenths of the capacity measured at
    the start, and at most `most_per_s`. instances: of each version, at most four.
    router_kind: see `router.start`. slow_s: an answer that takes longer counts as
    "slow". tick_s: how often a rollout looks. app, env: of the servers of both roles,
    see `servers.start`.

    Metrics are counted for each role, a request at most once in each: "errors" (5xx:
    also the router's own, for an instance that broke off, or gave no answer within two
    seconds), "lost" (those of them for which no instance was there), "refused" (4xx),
    "slow", "passed" (answered as harmless), and with labels "wrong". A request without
    any answer is nobody's, and counted nowhere. Of mirrored requests, see `Shadow`; a
    copy that could not be sent, as too many were under way, is an error and slow.

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
        app: str = servers.PHISHING_SERVICE,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.stable = Path(stable)
        self.instances, self.tick_s, self.slow_s = instances, tick_s, slow_s
        self._rows, self._seed = rows, seed
        self._start = partial(servers.start, app=app, env=env)
        self._labels = None if labels is None else np.asarray(labels)
        if self._labels is not None and len(self._labels) != len(rows):
            raise ValueError(f"{len(rows)} rows need as many labels")
        # A copy has no more than its body; equal rows can have different labels.
        self._label_of = _most_frequent_labels(rows, self._labels)
        self._groups: dict[str, list[servers.Server]] = {STABLE: [], CANDIDATE: []}
        self._rolling_out, self._collecting = threading.Lock(), threading.Lock()
        self._on_trial = self.stable  # what the candidate group was started from
        self._stack = ExitStack()
        self.answers: list[Answer] = []
        try:
            self._stack.callback(self._stop_servers)
            for _ in range(instances):
                self._groups[STABLE].append(self._start(self.stable))
                _warm(self._groups[STABLE][-1], rows)
            self.router = router.start(router_kind, answer_timeout_s=_ANSWER_TIMEOUT_S)
            self._stack.callback(lambda: self.router.stop())
            urls = [server.url for server in self._groups[STABLE]]
            self.router.set_group(STABLE, urls)
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
        return ("errors", "lost", "refused", "slow", "passed", *labelled)

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
        with self._one_at_a_time():
            environment = Live(self, Path(candidate), ready_s)
            environment.put_in_order()
            try:
                return carry_out(strategy, environment, tell, log_file)
            finally:
                environment.settle()

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

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._rolling_out.acquire(blocking=False):
            raise RolloutRunning(
                "a rollout is under way, and this one has not begun. Wait for its "
                "end, or interrupt it; then start this one."
            )
        try:
            yield
        finally:
            self._rolling_out.release()

    def _measure(self) -> float:
        """What the stable group answers through the router, closed loop."""
        rng = np.random.default_rng(self._seed)
        bodies = traffic.bodies(rng, self._rows, 500)
        self.capacity_per_s = traffic.capacity(
            self.url, bodies, n_requests=500
        ).requests_per_s
        return self.capacity_per_s

    def _stop_servers(self) -> None:
        _stop([server for group in self._groups.values() for server in group])

    def _events(self, answer: Answer) -> set[str]:
        """The metrics of which a request is an event."""
        label = None if self._labels is None else bool(self._labels[answer.row])
        lost = answer.from_router and answer.status == 503
        return events(
            answer.status, answer.latency_s > self.slow_s, answer.probability, label
        ) | ({"lost"} if lost else set())


def events(
    status: int, slow: bool, probability: float, phishing: bool | None
) -> set[str]:
    """The metrics of which an answer is an event; phishing: the truth, if known."""
    found = {"slow"} if slow else set()
    if status >= 500:
        found.add("errors")
    if 400 <= status < 500:
        found.add("refused")
    if 200 <= status < 300:
        said = probability >= 0.5
        if not said:
            found.add("passed")
        if phishing is not None and said != phishing:
            found.add("wrong")
    return found


def _most_frequent_labels(
    rows: pd.DataFrame, labels: np.ndarray | None
) -> dict[bytes, bool]:
    """For each request body, the label that most of the rows have that give it."""
    if labels is None:
        return {}
    votes: dict[bytes, list[bool]] = defaultdict(list)
    for record, label in zip(rows.to_dict("records"), labels, strict=True):
        votes[json.dumps(record).encode()].append(bool(label))
    return {body: sum(said) * 2 > len(said) for body, said in votes.items()}


def roll_out_services(
    strategy: MultiService,
    services: Mapping[str, tuple[System, str | Path]],
    tell: Callable[[Event], None] = lambda event: None,
    log_file: str | Path | None = None,
) -> dict[str, Report]:
    """Roll several services out together; see `engine.carry_out_services`.

    services: for each, the system that runs it and the candidate's artifact. Raises
    RolloutRunning if one of them has a rollout under way.
    """
    with ExitStack() as stack:
        environments = {}
        for name, (system, candidate) in services.items():
            stack.enter_context(system._one_at_a_time())
            environments[name] = Live(system, Path(candidate), _READY_S)
            environments[name].put_in_order()
            stack.callback(environments[name].settle)
        return carry_out_services(strategy, environments, tell, log_file)


class Live:
    """The environment of one rollout in a `System`."""

    def __init__(self, system: System, candidate: Path, ready_s: float) -> None:
        self.system, self.candidate, self.ready_s = system, candidate, ready_s
        self._told = len(system.collect())  # what came before is not this rollout's
        self._began = self._looked = time.monotonic()
        self._early: list[Answer] = []
        self._previewed: list[Measurement] = []
        self._known: set[int] = set()  # users who met the rollout
        self._cut = -math.inf  # when the last outage began
        self._first_s: dict[float, float] = {}  # since when a share was in force
        self._aborting = False

    @property
    def share(self) -> float:
        """The candidate's share of the traffic, as the router was told."""
        return self.system.router.split.candidate

    @property
    def instances(self) -> dict[str, int]:
        """How many instances each role has."""
        return {role: len(group) for role, group in self.system._groups.items()}

    @property
    def now_s(self) -> float:
        """Seconds since the rollout began."""
        return time.monotonic() - self._began

    @property
    def _share_in_force(self) -> float:
        """The candidate's share, in the millionths that a router counts in."""
        return round(self.share, 6)

    def do(self, step: Step) -> list[Measurement]:
        """Carry out a step; see `engine.Environment`."""
        share = self._share_in_force
        if isinstance(step, Promote):
            # From then on the names mean others; what follows is no part of this.
            seen = self._take(share)
            self._try(step)
            return seen
        from_s = self.now_s
        self._try(step)
        self._first_s.setdefault(self._share_in_force, from_s)
        return self._take(share)

    def _try(self, step: Step) -> None:
        try:
            self._do(step)
        except (servers.ServerError, router.RouterError) as error:
            raise StepFailed(str(error).split("\n")[0]) from error

    def _do(self, step: Step) -> None:
        system, groups = self.system, self.system._groups
        self._aborting |= isinstance(step, Abort)
        match step:
            case Deploy(role, to):
                self._deploy(role, system.instances if to is None else to)
            case Shift(split):
                self._look()
                system.router.set_split(split)
            case Preview(requests):
                self._look()
                self._preview(requests)
            case Mirror(share):
                self._look()
                system.router.set_mirror(share)
            case Abort(at_once=True):
                self._secure()
            case Abort():
                self._mend()
            case Bake(until_s):
                wait_s = min(system.tick_s, until_s - self.now_s)
                time.sleep(max(0.0, wait_s))
                self._look()
            case Drain(role):
                if not system.router.drain(role, _DRAIN_S):
                    raise StepFailed(f"requests are unanswered after {_DRAIN_S:g} s")
            case Retire(role, to, cut):
                # In an outage the router goes on sending; it finds nobody there.
                if not cut:
                    # Refused while the role gets traffic; a dead router sends none.
                    with suppress(servers.ServerDied):
                        system.router.set_group(role, self._urls(groups[role][:to]))
                _stop(groups[role][to:])
                del groups[role][to:]
                self._cut = time.monotonic() if cut else self._cut
            case Promote():
                alive, dead = _living(groups[CANDIDATE])
                if not alive:
                    raise StepFailed("there is no candidate that lives")
                # The same instances, under the other name; then nobody is moved.
                self._route(alive)
                left = [*groups[STABLE], *dead]
                groups[STABLE], groups[CANDIDATE] = alive, []
                system.router.set_group(CANDIDATE, [])
                _stop(left)  # an interrupt came before they were stopped
                system.stable = system._on_trial

    def put_in_order(self) -> None:
        """All traffic to stable instances that live, and no candidate."""
        system = self.system
        ready = any(one.state == "ready" for one in system._groups[CANDIDATE])
        if ready and not system._groups[STABLE]:
            self._do(Promote())  # a promotion did not come to its end
        else:
            self._secure()
            self._do(Retire(CANDIDATE))

    def settle(self) -> None:
        """Replace what died in the last moments, when no more step would notice."""
        system = self.system
        if system._groups[CANDIDATE] or not system._groups[STABLE]:
            return  # it is stuck, and somebody must look
        dead = _living(system._groups[STABLE])[1]
        if dead or system.router.state == "stopped":
            with suppress(servers.ServerError, router.RouterError):
                self._secure()

    def _deploy(self, role: str, to: int) -> None:
        """Start what is missing, wait until all are ready, and tell the router."""
        system, group = self.system, self.system._groups[role]
        artifact = self.candidate if role == CANDIDATE else system.stable
        # What has served before is waited for, however little patience there is.
        ready_s = self.ready_s if role == CANDIDATE else max(self.ready_s, _READY_S)
        until_s = self.now_s + ready_s
        fresh = len(group)
        if role == CANDIDATE:
            system._on_trial = artifact
        while len(group) < to:
            group.append(system._start(artifact, wait=False))
        while any(server.state != "ready" for server in group):
            self._look()
            if self.now_s > until_s:
                raise StepFailed(f"it was not ready within {ready_s:g} s")
            time.sleep(_POLL_S)
        for server in group[fresh:]:
            _warm(server, system._rows)
        system.router.set_group(role, self._urls(group))

    def _preview(self, requests: int) -> None:
        """Send the same rows to both roles' instances in turn, past the router."""
        system = self.system
        rng = np.random.default_rng(system._seed)
        rows = rng.integers(len(system._rows), size=requests)
        from_s = self.now_s
        said = {
            role: self._ask(system._groups[role], rows) for role in (STABLE, CANDIDATE)
        }
        labels = [None] * requests if system._labels is None else system._labels[rows]
        pairs = []
        for label, stable, candidate in zip(
            labels, said[STABLE], said[CANDIDATE], strict=True
        ):
            truth = None if label is None else bool(label)
            pairs.append((stable, candidate, truth))
        counts = self._counts_of_pairs(pairs)
        self._previewed.append(
            Measurement(from_s, self.now_s, 0.5, *counts, of=PREVIEW)
        )

    def _ask(self, group: Sequence[servers.Server], rows: np.ndarray) -> list[Said]:
        """Deal the rows out to the instances in turn, as fast as users send theirs."""
        system = self.system
        records = system._rows.to_dict("records")
        times_s = np.arange(len(rows)) / system.rate_per_s
        answers: list[Said] = [(0, math.nan, math.inf)] * len(rows)

        def ask(first: int) -> None:
            mine = range(first, len(rows), len(group))
            bodies = [json.dumps(records[rows[place]]).encode() for place in mine]
            plan = traffic.Plan(times_s[mine], np.zeros(len(mine), int), bodies)
            sent = traffic.send(plan, group[first].url, expect="any")
            for place, one in zip(mine, sent.itertuples(), strict=True):
                answers[place] = (one.status or 599, one.prediction, one.latency_s)

        with ThreadPoolExecutor(len(group)) as pool:
            list(pool.map(ask, range(min(len(group), len(rows)))))
        return answers

    def _counts_of_pairs(
        self, pairs: Sequence[tuple[Said, Said, bool | None]], unsent: int = 0
    ) -> list[Counts]:
        """Counts of both roles, from what each said to the same requests, and labels.

        unsent: copies that did not reach the candidate.
        """
        found: dict[str, Counter] = {STABLE: Counter(), CANDIDATE: Counter()}
        for stable, candidate, label in pairs:
            decided, these = {}, {}
            for role, said in ((STABLE, stable), (CANDIDATE, candidate)):
                status, probability, latency_s = said
                slow = latency_s > self.system.slow_s
                decided[role] = (status, probability >= 0.5)
                these[role] = events(status, slow, probability, label)
            for role, other in ((STABLE, CANDIDATE), (CANDIDATE, STABLE)):
                found[role].update(these[role])
                alone = these[role] - these[other]
                found[role].update(f"{metric} alone" for metric in alone)
            found[CANDIDATE]["differs"] += decided[STABLE] != decided[CANDIDATE]
        for metric in ("errors", "errors alone", "slow", "slow alone", "differs"):
            found[CANDIDATE][metric] += unsent
        n = len(pairs) + unsent
        return [Counts(n, dict(found[role])) for role in (STABLE, CANDIDATE)]

    def _look(self) -> None:
        """Raise StepFailed if a process that the rollout needs has ended.

        It needs the traffic to see something; the way back does not.
        """
        system = self.system
        system.router.check()
        for role, group in system._groups.items():
            for server in group:
                try:
                    server.check()
                except servers.ServerDied as error:
                    said = str(error).split("\n")[0]
                    raise StepFailed(f"{role}: {said}") from error
        if not self._aborting and not system.load.alive:
            raise StepFailed("the traffic has ended: its generator is gone")

    def _secure(self) -> None:
        """All traffic to the stable instances that live; then replace the dead ones.

        If none lives, one is started first; if that fails, nothing is moved. Those
        that a strategy has retired come back before the traffic does, or it would
        come to too few.
        """
        system = self.system
        alive, dead = _living(system._groups[STABLE])
        with suppress(servers.ServerError):
            if alive:
                alive += self._start_stable(system.instances - len(alive) - len(dead))
        if not alive:
            alive = self._start_stable(1)
        self._route(alive)
        # Instances that come in place of dead ones are not waited for by users.
        with suppress(servers.ServerError):
            alive += self._start_stable(system.instances - len(alive))
        system._groups[STABLE] = alive
        system.router.set_group(STABLE, self._urls(alive))
        _stop(dead)

    def _start_stable(self, number: int) -> list[servers.Server]:
        """Start so many together, or none: if one fails, its error follows."""
        system = self.system
        fresh: list[servers.Server] = []
        try:
            for _ in range(number):
                fresh.append(system._start(system.stable, wait=False))
            for server in fresh:
                server.wait_ready(_READY_S)
                _warm(server, system._rows)
        except BaseException:
            _stop(fresh)
            raise
        return fresh

    def _mend(self) -> None:
        """Take out instances that are dead, and leave the traffic to those that live.

        If some of both roles live, each instance gets as much as any other; if none
        does, and somebody should, a stable one is started.
        """
        system = self.system
        dead: list[servers.Server] = []
        share = self.share
        for role, group in system._groups.items():
            system._groups[role], gone = _living(group)
            dead += gone
        living = self.instances
        if system.router.state == "stopped" or dead:
            if not any(living.values()):
                system._groups[STABLE] = self._start_stable(1)
                living = self.instances
            if living[STABLE]:
                self._route(system._groups[STABLE])
                if living[CANDIDATE] and share:
                    system.router.set_group(
                        CANDIDATE, self._urls(system._groups[CANDIDATE])
                    )
                    share = living[CANDIDATE] / sum(living.values())
                    system.router.set_split(TrafficSplit(round(share, 6)))
            elif share:
                urls = self._urls(system._groups[CANDIDATE])
                system.router.set_group(CANDIDATE, urls)
                system.router.set_split(TrafficSplit(1.0))
        _stop(dead)

    @staticmethod
    def _urls(group: Sequence[servers.Server]) -> list[str]:
        return [server.url for server in group]

    def _route(self, group: Sequence[servers.Server]) -> None:
        """Send everything to these instances, as the stable group, whatever it takes.

        If the router is dead, or goes on refusing, the next one takes its place at the
        same address, because that is the one that users know.
        """
        system, urls = self.system, self._urls(group)
        for _ in range(_TRIES):
            try:
                system.router.set_group(STABLE, urls)
                system.router.set_mirror(0.0)
                system.router.set_split(TrafficSplit(0.0))
                return
            except servers.ServerError:
                break
            except router.RouterError:
                time.sleep(_POLL_S)
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
        apart, self._previewed = [*self._previewed, *self._pairs()], []
        from_s, self._looked = self._looked - self._began, time.monotonic()
        to_s = self._looked - self._began
        # By the share, and whether it was sent before an outage and came late.
        Window = tuple[float, bool]
        now = (share, False)
        requests: dict[Window, Counter] = defaultdict(Counter)
        users: dict[Window, Counter] = defaultdict(Counter)
        found: dict[tuple[Window, str], Counter] = defaultdict(Counter)
        found_first: dict[tuple[Window, str], Counter] = defaultdict(Counter)
        began: dict[Window, float] = {now: from_s}
        for answer in new:
            if answer.role not in (STABLE, CANDIDATE):
                continue  # nobody knows whose it was, if anybody's
            if answer.sent_s < self._began:
                continue  # it was drawn before this rollout
            drawn = answer.share
            if drawn == now_in_force != share:
                self._early.append(answer)  # it belongs to the time that begins now
                continue
            these = system._events(answer)
            late = answer.sent_s < self._cut <= self._began + from_s
            window = (drawn, late)
            requests[window][answer.role] += 1
            found[window, answer.role].update(these)
            # Of a user, the first answer while the candidate had some of the traffic.
            if drawn and answer.user not in self._known:
                self._known.add(answer.user)
                users[window][answer.role] += 1
                found_first[window, answer.role].update(these)
            if window != now:
                sent_s = min(answer.sent_s - self._began, from_s)
                # On a busy machine it is drawn later than it is sent.
                sent_s = max(sent_s, self._first_s.get(drawn, 0.0))
                began[window] = min(began.get(window, sent_s), sent_s)
        return apart + [
            Measurement(
                began[window],
                # Of an earlier split: it was drawn before the last look.
                to_s if window == now else from_s,
                window[0],
                *(
                    Counts(
                        requests[window][role],
                        dict(found[window, role]),
                        users[window][role],
                        dict(found_first[window, role]),
                    )
                    for role in (STABLE, CANDIDATE)
                ),
            )
            for window in sorted(began, key=lambda window: window == now)
        ]

    def _pairs(self) -> list[Measurement]:
        """What came of mirrored requests since the last look, if there were any."""
        router = self.system.router
        if not router.can_mirror or router.state != "ready":
            return []
        try:
            told = router.take_pairs()
        except (RouterError, servers.ServerError):
            return []  # it has died, and somebody will look
        lost = told.not_sent + told.not_kept
        if not told.pairs and not lost:
            return []
        label_of = self.system._label_of
        pairs = [
            (
                *(
                    (one.status, _probability(one.body), one.latency_s)
                    for one in (pair.stable, pair.candidate)
                ),
                label_of.get(pair.request),
            )
            for pair in told.pairs
        ]
        counts = self._counts_of_pairs(pairs, told.not_sent)
        from_s = self._looked - self._began
        return [Measurement(from_s, self.now_s, 0.5, *counts, of=MIRROR)]


def _living(
    group: Sequence[servers.Server],
) -> tuple[list[servers.Server], list[servers.Server]]:
    """Those that live, and those that do not."""
    dead = [server for server in group if server.state == "stopped"]
    return [server for server in group if server not in dead], dead


def _stop(group: Sequence[servers.Server]) -> None:
    """Stop servers side by side: each waits for its own last answers."""
    if group:
        with ThreadPoolExecutor(len(group)) as pool:
            list(pool.map(lambda server: server.stop(), group))


def _probability(body: bytes) -> float:
    """As the answer of a model server says it; NaN if it does not."""
    with suppress(ValueError, KeyError, TypeError):
        return float(json.loads(body)["probability"])
    return math.nan


def _warm(server: servers.Server, rows: pd.DataFrame) -> None:
    """Let a new instance answer some requests before users' ones.

    The first are slow with any version, and would count against the new one.
    """
    bodies = traffic.bodies(np.random.default_rng(0), rows, WARM_REQUESTS)
    times_s = np.arange(WARM_REQUESTS) * 0.01
    plan = traffic.Plan(times_s, np.zeros(WARM_REQUESTS, int), bodies)
    traffic.send(plan, server.url, expect="any")
