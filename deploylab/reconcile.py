"""A reconcile loop: make this machine run what was asked for, and keep it so.

    with reconcile.Fleet({"v1": folder, "v2": other}) as fleet:
        with reconcile.Controller(fleet, Desired("v1", replicas=2)) as controller:
            controller.wait()           # until two of v1 serve at fleet.url
            controller.desire("v2", 3)  # the newest wish wins
            controller.wait()

`reconcile` decides and does nothing: a pure function from what is wanted and what is
there to the next actions. The `Fleet` is the machine: servers, and a router before
them. The `Controller` looks, decides and acts, over and over.

What it does in cases of doubt:

- more replicas than fit: it runs as many as fit, one slot left for the next roll, and
  says ``cannot`` once;
- a version that dies, is not ready in `Rules.ready_s`, or is not in the fleet's
  versions: the version that served before keeps the traffic and its number; the new one
  is tried again after a pause that doubles up to a ceiling (`Rules.pause_s`), for ever;
  after `Rules.progress_s` without progress it says ``stuck`` once;
- a new wish while it works: from the next look on only the new one counts; what was
  starting for the old one goes, what was ready stays until it is replaced;
- an order or a look that fails, whatever the reason (no file descriptor is left, say):
  it says ``error``, and the next look decides anew;
- an instance that dies: it is out of the router at the next look, and replaced;
- the controller itself ends: the fleet serves on. The next controller adopts all that
  it finds, for it looks at the fleet and remembers nothing itself;
- the process ends that owns the fleet: all of its servers end with it, see
  `deploylab.servers`. The next one finds nothing and starts anew.

An instance that dies takes with it the requests in its hands, and those that wait at
its door until the next look: the kernel takes connections there until the last thread
of the process has ended. Nothing else is lost. A server that hangs and does not die is
not noticed: nobody asks whether it answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from deploylab import router, servers
from deploylab.rollout.model import STABLE, Event


def _first_line(error: Exception) -> str:
    """What an error says, in one line; other people's errors with their class."""
    text = (str(error).splitlines() or [""])[0]
    ours = isinstance(error, servers.ServerError | router.RouterError)
    return text if ours else f"{type(error).__name__}: {text}"


class NotReached(RuntimeError):
    """The desired state was not reached in time."""


class ControllerRunning(RuntimeError):
    """A fleet has one controller: two with different wishes would never rest."""


@dataclass(frozen=True)
class Desired:
    """What is wanted: so many replicas of one version. Raises ValueError."""

    version: str
    replicas: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.version, str) or not self.version.strip():
            raise ValueError(
                f"a version is a name such as 'v1', not {self.version!r}. Write the "
                "one that is to serve."
            )
        whole = isinstance(self.replicas, int) and not isinstance(self.replicas, bool)
        if not whole or self.replicas < 1:
            raise ValueError(
                f"replicas is a whole number, 1 or more, not {self.replicas!r}. To "
                "serve nobody, stop the controller and its fleet."
            )


class Instance(NamedTuple):
    """An instance that is there.

    state: ``starting``, ``ready`` or ``stopping``; since_s: when that began; routed:
    whether the router sends it requests.
    """

    name: str
    version: str
    state: str
    since_s: float
    routed: bool = False


class Failures(NamedTuple):
    """How often a version has failed in a row, and when it last did."""

    number: int
    last_s: float


@dataclass(frozen=True)
class Observed:
    """What is there.

    serving: the version that last reached its goal; None before the first has.
    failures: of the versions that have failed lately.
    """

    instances: tuple[Instance, ...] = ()
    serving: str | None = None
    failures: Mapping[str, Failures] = field(default_factory=dict)


class Action(NamedTuple):
    """An order: ``start`` a version, ``route`` to these names, ``stop`` or ``give up``
    a name."""

    what: str
    which: str | tuple[str, ...]


@dataclass(frozen=True)
class Rules:
    """What a reconcile loop may do, and how long it waits. Raises ValueError.

    slots: instances that the machine has room for; surge: of these, how many are kept
    for a roll. ready_s: an instance that starts longer is given up; min_ready_s: it
    counts once it has been ready for so long. After its first failure a version is
    started again at once, then after first_s, and after twice the last pause up to
    ceiling_s; a run of reset_s makes the next failure a first one. progress_s: when to
    report that nothing moves on.
    """

    slots: int = router.MAX_INSTANCES
    surge: int = 1
    ready_s: float = 20.0
    min_ready_s: float = 0.5
    first_s: float = 0.5
    ceiling_s: float = 8.0
    reset_s: float = 16.0
    progress_s: float = 30.0

    def __post_init__(self) -> None:
        if not 1 <= self.surge < self.slots <= router.MAX_INSTANCES:
            raise ValueError(
                f"{self.slots} slots with {self.surge} for a roll: a roll needs one "
                "slot at least, and leaves one; a router takes at most "
                f"{router.MAX_INSTANCES} instances"
            )
        for name in ("ready_s", "first_s", "ceiling_s", "reset_s", "progress_s"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} is a number of seconds above 0, not {getattr(self, name)}"
                )
        if not self.min_ready_s >= 0:
            raise ValueError(f"min_ready_s is 0 or more, not {self.min_ready_s}")

    def goal(self, desired: Desired) -> int:
        """How many replicas there is room for."""
        return min(desired.replicas, self.slots - self.surge)

    def pause_s(self, failures: int) -> float:
        """How long a version waits after so many failures in a row."""
        if failures <= 1:
            return 0.0
        return min(self.ceiling_s, self.first_s * 2.0 ** min(failures - 2, 60))

    def up(self, instance: Instance, now_s: float) -> bool:
        """Whether an instance has been ready, and in the router, for long enough."""
        waited_s = now_s - instance.since_s
        ready = instance.state == "ready" and instance.routed
        return ready and waited_s >= self.min_ready_s


def reconcile(
    desired: Desired, observed: Observed, now_s: float, rules: Rules
) -> list[Action]:
    """The next actions towards the desired state; none where there is nothing to do.

    It remembers nothing: what it decides follows from what is there now.
    """
    goal, serving = rules.goal(desired), observed.serving
    here = [i for i in observed.instances if i.state != "stopping"]
    late = [
        i for i in here if i.state == "starting" and now_s - i.since_s > rules.ready_s
    ]
    here = sorted(
        (i for i in here if i not in late),
        key=lambda i: (i.state != "ready", not i.routed, i.version != serving),
    )

    # Who stays: the new version, and others in the places that it does not fill yet.
    new = [i for i in here if i.version == desired.version][:goal]
    places = goal - sum(rules.up(i, now_s) for i in new)
    old = [i for i in here if i.version != desired.version]
    old = [i for i in old if i.state == "ready" or i.version == serving][:places]

    # Ready before traffic.
    route = tuple(sorted(i.name for i in new + old if i.state == "ready"))
    routed = tuple(sorted(i.name for i in observed.instances if i.routed))
    actions = [Action("route", route)] if route and route != routed else []

    # Out of the router before it is stopped.
    gone = [i for i in here if i not in new + old and not i.routed]
    actions += [Action("give up", i.name) for i in late]
    actions += [Action("stop", i.name) for i in gone]

    # Who is missing: first the version that serves, then the new one.
    missing = [(desired.version, goal - len(new))]
    if serving not in (None, desired.version):
        missing.insert(0, (serving, places - len(old)))
    room = min(
        goal + rules.surge - len(new + old), rules.slots - len(observed.instances)
    )
    for version, number in missing:
        failed = observed.failures.get(version, Failures(0, now_s))
        if now_s >= failed.last_s + rules.pause_s(failed.number):
            starts = max(0, min(number, room))
            actions += [Action("start", version)] * starts
            room -= starts
    return actions


def reached(desired: Desired, observed: Observed, now_s: float, rules: Rules) -> bool:
    """Whether what is there is what is wanted, as far as there is room for it."""
    up = [i for i in observed.instances if rules.up(i, now_s)]
    wanted = [i for i in up if i.version == desired.version]
    return len(observed.instances) == len(wanted) == rules.goal(desired)


# -- the machine -------------------------------------------------------------------


class _Running:
    """An instance, its server, and since when it is in its state."""

    def __init__(self, name: str, version: str, server: servers.ModelServer) -> None:
        self.name, self.version, self.server = name, version, server
        self.state, self.since_s = "starting", time.monotonic()
        self.workers: list[int] = []  # those that were ready first
        self.ready_s: float | None = None


class Fleet:
    """Model servers on this machine, and one address for their users.

    versions: the artifact's folder of each version; looked up at each start, so that
    what is missing may come later. start: takes such a folder and starts a server
    without waiting for it; by default `servers.start`. kind: see `router.start`.

    Everything is a process that ends with the fleet, and with this process. url: where
    users send requests. log: what happened, a list of events; see `Controller`.
    """

    def __init__(
        self,
        versions: Mapping[str, str | Path],
        *,
        start: Callable[[str | Path], servers.ModelServer] | None = None,
        kind: str = "auto",
    ) -> None:
        self.versions = versions
        self.serving: str | None = None
        self.failures: dict[str, Failures] = {}
        self.log: list[Event] = []
        self.controlled = threading.Lock()
        self.stopped = False
        self._lock = threading.RLock()
        self._start = start or (lambda folder: servers.start(folder, wait=False))
        self._running: dict[str, _Running] = {}
        self._routed: tuple[str, ...] = ()
        self._number = 0
        self._began_s = time.monotonic()
        self._stack = ExitStack()
        self._stopping = self._stack.enter_context(ThreadPoolExecutor(8))
        self._stack.callback(self._stop_all)
        try:
            self.router = router.start(kind)
        except BaseException:
            self._stack.close()
            raise
        self._stack.callback(lambda: self.router.stop())

    @property
    def url(self) -> str:
        """Where users send their requests."""
        return self.router.url

    def server(self, name: str) -> servers.ModelServer:
        """The server of an instance."""
        return self._running[name].server

    def tell(self, what: str, **details: object) -> None:
        """Write an event to the log."""
        self.log.append(Event(time.monotonic() - self._began_s, what, details))

    def observe(self, rules: Rules) -> Observed:
        """Look at every instance; take those that have ended off the list."""
        with self._lock:
            self._must_run()
            return self._observe(rules)

    def _observe(self, rules: Rules) -> Observed:
        self._look_at_router()
        for one in list(self._running.values()):
            self._look_at(one, rules)
        return Observed(
            tuple(
                Instance(
                    one.name, one.version, one.state, one.since_s,
                    one.name in self._routed,
                )
                for one in self._running.values()
            ),
            self.serving,
            dict(self.failures),
        )  # fmt: skip

    def do(self, action: Action, rules: Rules) -> None:
        """Carry out an order. Raises ServerError and RouterError."""
        with self._lock:
            self._must_run()
            self._do(action, rules)

    def _do(self, action: Action, rules: Rules) -> None:
        match action:
            case Action("start", version):
                self._start_one(version, rules)
            case Action("route", names):
                urls = [self._running[name].server.url for name in names]
                self.router.set_group(STABLE, urls)
                self._routed = names
                self.tell("route", names=names)
            case Action("stop", name):
                self._end(self._running[name], "stop")
            case Action("give up", name):
                one = self._running[name]
                self._fail(one, rules, f"not ready in {rules.ready_s:g} s")
                self._end(one, "give up", grace_s=0)

    def stop(self) -> None:
        """End the router and all servers; they would end with this process too."""
        with self._lock:
            self.stopped = True
        self._stack.close()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # -- plumbing

    def _must_run(self) -> None:
        if self.stopped:
            raise servers.ServerError("this fleet was stopped; make another one")

    def _look_at_router(self) -> None:
        if self.router.state != "stopped":
            return
        # At the same address, because that is the one that users know.
        dead, self._routed = self.router, ()
        dead.stop(grace_s=0)
        self.router = router.start(dead.kind, port=dead.port)
        self.tell("router replaced")

    def _look_at(self, one: _Running, rules: Rules) -> None:
        server = one.server
        if one.state == "stopping":
            if server.state == "stopped":
                del self._running[one.name]
                self.tell("stopped", name=one.name, version=one.version)
            return
        state = server.state
        if state == "ready" and one.state == "starting":
            one.state, one.since_s = "ready", time.monotonic()
            one.ready_s, one.workers = one.since_s, server.ready_workers()
            self.tell("ready", name=one.name, version=one.version)
        elif state == "stopped" or (
            # A server replaces its own workers; to its users that is a death too.
            one.state == "ready" and server.ready_workers() != one.workers
        ):
            self._fail(one, rules, "ended")
            self._end(one, "died")

    def _start_one(self, version: str, rules: Rules) -> None:
        self._number += 1
        name = f"{version}-{self._number}"
        folder = self.versions.get(version)
        try:
            if folder is None:
                raise servers.ServerError(
                    f"there is no version {version!r}; there are "
                    f"{', '.join(self.versions) or 'none'}"
                )
            server = self._start(folder)
        except Exception as error:  # whatever it was: the next try is after a pause
            why = _first_line(error)
            self._count_failure(version, 0.0, rules)
            self.tell("cannot start", name=name, version=version, why=why)
            return
        self._running[name] = _Running(name, version, server)
        self.tell("start", name=name, version=version)

    def _end(self, one: _Running, what: str, grace_s: float = 10) -> None:
        self._routed = tuple(name for name in self._routed if name != one.name)
        one.state, one.since_s = "stopping", time.monotonic()
        self.tell(what, name=one.name, version=one.version)
        self._stopping.submit(one.server.stop, grace_s)

    def _fail(self, one: _Running, rules: Rules, why: str) -> None:
        ran_s = 0.0 if one.ready_s is None else time.monotonic() - one.ready_s
        self._count_failure(one.version, ran_s, rules)
        number = self.failures[one.version].number
        pause_s = rules.pause_s(number)
        self.tell(
            "failure", name=one.name, version=one.version, number=number,
            pause_s=pause_s, why=why,
        )  # fmt: skip

    def _count_failure(self, version: str, ran_s: float, rules: Rules) -> None:
        before = self.failures.get(version, Failures(0, 0.0)).number
        number = 1 if ran_s >= rules.reset_s else before + 1
        self.failures[version] = Failures(number, time.monotonic())

    def _stop_all(self) -> None:
        for one in self._running.values():
            self._stopping.submit(one.server.stop)


# -- the loop ----------------------------------------------------------------------


class Controller:
    """A thread that looks at a fleet, decides by `reconcile`, and acts.

    desired: what is wanted; `desire` changes it. tick_s: how long it rests between two
    looks. Its log is the fleet's: ``desired`` (a wish), ``start``, ``ready``,
    ``route``, ``stop``, ``stopped``, ``died``, ``give up``, ``failure`` (with the
    number in a row and the pause), ``cannot start``, ``cannot`` (the wish is too
    large), ``stuck``, ``reached``, ``router replaced``, and ``error`` (an order that
    was refused, or a look that failed, once in a row: the next look decides anew).

    Raises ControllerRunning if the fleet has one.
    """

    def __init__(
        self,
        fleet: Fleet,
        desired: Desired,
        rules: Rules | None = None,
        tick_s: float = 0.05,
    ) -> None:
        if not fleet.controlled.acquire(blocking=False):
            raise ControllerRunning(
                "this fleet has a controller. Change its wish with desire(), or stop "
                "it first."
            )
        self.fleet, self.rules, self.tick_s = fleet, rules or Rules(), tick_s
        self._changed = threading.Condition()
        self._ending = threading.Event()
        self._begun = self._ended = 0  # looks
        self._wish(desired)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def log(self) -> list[Event]:
        """What happened so far."""
        return list(self.fleet.log)

    @property
    def reached(self) -> bool:
        """Whether the newest wish was fulfilled at the last look, and it looks on."""
        return self._reached and self._thread.is_alive()

    def desire(self, version: str, replicas: int) -> None:
        """Wish for something else from now on. Raises ValueError, and keeps the old."""
        self._wish(Desired(version, replicas))

    def wait(self, timeout_s: float = 60) -> None:
        """Wait until a look from now on finds the newest wish fulfilled.

        Raises NotReached; at once if the loop has ended.
        """
        if not self._thread.is_alive():
            raise NotReached("this controller has ended. Make another one.")
        with self._changed:
            first = self._begun + 1  # one that is under way may have looked before
            if self._changed.wait_for(
                lambda: self._reached and self._ended >= first, timeout_s
            ):
                return
        last = "; ".join(
            f"{event.at_s:.1f} s {event.what} {dict(event.details)}"
            for event in self.log[-5:]
        )
        raise NotReached(
            f"{self.desired} was not reached in {timeout_s:g} s. What happened last: "
            f"{last}. What next: read controller.log, and desire what can be."
        )

    def stop(self) -> None:
        """End the loop; the fleet stays as it is. A later call does nothing."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._thread.join()
        self.fleet.controlled.release()

    def __enter__(self) -> Controller:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # -- plumbing

    def _wish(self, desired: Desired) -> None:
        with self._changed:
            self.desired, self._reached = desired, False
            self._best, self._moved_s, self._said_stuck = 0, time.monotonic(), False
            self.fleet.tell(
                "desired", version=desired.version, replicas=desired.replicas
            )
            if self.rules.goal(desired) < desired.replicas:
                self.fleet.tell(
                    "cannot",
                    why=f"{desired.replicas} replicas are wanted, and there is room "
                    f"for {self.rules.goal(desired)} and a roll",
                )

    def _run(self) -> None:
        told = ""
        while not (self._ending.is_set() or self.fleet.stopped):
            try:
                self._step()
                told = ""
            except Exception as error:  # whatever it was: the next look begins anew
                with self._changed:
                    self._reached = False
                why = _first_line(error)
                if why != told:  # twenty looks a second would fill the log
                    self.fleet.tell("error", why=why)
                told = why
            self._ending.wait(self.tick_s)

    def _step(self) -> None:
        self._begun += 1
        desired, fleet, rules = self.desired, self.fleet, self.rules
        observed, now_s = fleet.observe(rules), time.monotonic()
        for action in reconcile(desired, observed, now_s, rules):
            fleet.do(action, rules)
        is_reached = reached(desired, observed, now_s, rules)
        if is_reached:
            fleet.serving = desired.version
        up = sum(
            rules.up(i, now_s)
            for i in observed.instances
            if i.version == desired.version
        )
        with self._changed:
            if desired is not self.desired:
                return  # a newer wish came meanwhile
            if is_reached and not self._reached:
                fleet.tell("reached", version=desired.version)
            self._reached, self._ended = is_reached, self._begun
            if is_reached or up > self._best:
                self._best, self._moved_s = up, time.monotonic()
                self._said_stuck = False
            waited_s = time.monotonic() - self._moved_s
            if waited_s > rules.progress_s and not self._said_stuck:
                self._said_stuck = True
                fleet.tell("stuck", version=desired.version, up=up)
            self._changed.notify_all()
