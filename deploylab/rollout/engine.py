"""Carry a strategy out in an environment, and keep the log."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    USERS,
    Abort,
    Bake,
    Counts,
    Deploy,
    Drain,
    End,
    Event,
    Gate,
    Measurement,
    Promote,
    Retire,
    Shift,
    State,
    Step,
    TrafficSplit,
    Verdict,
    worst,
)
from deploylab.rollout.strategies import MultiService, Strategy, gone

#: So many steps may fail on the way back before somebody must look.
MENDS = 3


class StepFailed(Exception):
    """An environment could not do a step; the message says what happened."""


class Environment(Protocol):
    """Where a rollout happens: a simulator, or real processes."""

    @property
    def now_s(self) -> float:
        """Seconds since the rollout began, on this environment's clock."""
        ...

    @property
    def share(self) -> float:
        """The candidate's share of the traffic."""
        ...

    @property
    def instances(self) -> Mapping[str, int]:
        """How many instances each role has."""
        ...

    def do(self, step: Step) -> list[Measurement]:
        """Carry out a step; return what was measured since the last one.

        Of a Bake it does as much as lies before the next look, a tick at most, so
        that a gate which fails need not wait for its end.

        Raises StepFailed. An Abort does not fail: whatever happens, the traffic goes
        to the stable role, or, if it is not to go at once, to instances that live.
        """
        ...


@dataclass(frozen=True)
class Done:
    """A step that was done, or failed, and what the environment said of it.

    measurements, now_s, share, instances: see Environment. failed: why it failed, None
    if it did not.
    """

    step: Step
    measurements: tuple[Measurement, ...]
    now_s: float
    share: float
    instances: Mapping[str, int]
    failed: str | None = None


@dataclass
class Report:
    """What became of a rollout, drawn from its log and its measurements alone.

    outcome: "promoted", "aborted", or "passed"; reason: why it was aborted. done: every
    step with what the environment said, from which `replay` makes the rollout again.
    """

    outcome: str
    reason: str
    log: list[Event]
    measurements: list[Measurement] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)

    @property
    def exposed_requests(self) -> int:
        """Users' requests that an instance of the candidate's got in the rollout."""
        routed = sum(m.candidate.requests for m in self.measurements if m.of == USERS)
        return routed - self.events("lost")

    @property
    def lost_requests(self) -> int:
        """Users' requests that found nobody to answer them."""
        return sum(self.events("lost", role) for role in (STABLE, CANDIDATE))

    def events(self, metric: str, role: str = CANDIDATE, of: str = USERS) -> int:
        """How many requests of a role counted as events of a metric.

        of: whose requests, see Measurement.
        """
        return sum(
            counts(m, role).events.get(metric, 0)
            for m in self.measurements
            if m.of == of
        )

    def at(self, what: str) -> float:
        """Second at which the first event of this kind stands in the log; else NaN."""
        return next((e.at_s for e in self.log if e.what == what), float("nan"))

    @property
    def seen_after_s(self) -> float:
        """From the candidate's first request to the abort; NaN without both."""
        return self.at("abort") - self._trial_s[0]

    @property
    def over_after_s(self) -> float:
        """From the candidate's first request until it gets no more of them.

        For one that is promoted, until that; 0 if it had none.
        """
        began_s, ended_s = self._trial_s
        return ended_s - began_s if ended_s > began_s else 0.0

    @property
    def _trial_s(self) -> tuple[float, float]:
        """When the candidate's first and last users' requests were counted."""
        on_trial = [m for m in self.measurements if m.of == USERS and m.share > 0]
        if not on_trial:
            return float("nan"), float("nan")
        return on_trial[0].from_s, on_trial[-1].to_s

    @property
    def extra_instance_s(self) -> float:
        """Instance-seconds beyond those of the service as it was at the beginning.

        An instance counts from when it is started until it is stopped.
        """
        total = 0.0
        for before, after in pairwise(self.done):
            there = max(sum(one.instances.values()) for one in (before, after))
            more = max(0, there - sum(self.done[0].instances.values()))
            total += more * (after.now_s - before.now_s)
        return total

    @property
    def summary(self) -> pd.Series:
        """The rollout in numbers, in the order: whom it hurt, when, and the cost."""
        users = [m for m in self.measurements if m.of == USERS]
        floor = [sum(one.instances.values()) for one in self.done]
        return pd.Series(
            {
                "outcome": self.outcome,
                "requests": sum(
                    m.stable.requests + m.candidate.requests for m in users
                ),
                "exposed": self.exposed_requests,
                "errors": self.events("errors") - self.events("lost"),
                "lost": self.lost_requests,
                "seen after s": round(self.seen_after_s, 2),
                "over after s": round(self.over_after_s, 2),
                "seconds": round(self.log[-1].at_s - self.log[0].at_s, 2),
                "fewest instances": min(floor, default=0),
                "extra instance-s": round(self.extra_instance_s, 1),
            }
        )

    @property
    def table(self) -> pd.DataFrame:
        """The log as a table: what and details, by the second."""
        rows = [(f"{e.at_s:.2f}", e.what, in_words(e)) for e in self.log]
        table = pd.DataFrame(rows, columns=["second", "what", "details"])
        return table.set_index("second")


def compare(reports: Mapping[str, Report]) -> pd.DataFrame:
    """The summaries of several rollouts, a row for each."""
    return pd.DataFrame({name: report.summary for name, report in reports.items()}).T


def counts(measurement: Measurement, role: str) -> Counts:
    """The counts of one role."""
    return measurement.stable if role == STABLE else measurement.candidate


def in_words(event: Event) -> str:
    """The details of an event, as a person would note them."""
    said = event.details
    match event.what:
        case "shift":
            why = f", {said['why']}" if said.get("why") else ""
            return f"candidate gets {said['candidate']}{why}"
        case "deploy" | "retire" | "abort":
            more = {"cut": "an outage", "at_once": "not at once"}
            more["instances"] = f"{said.get('instances')} instances"
            more["candidate"] = f"candidate has {said.get('candidate')}"
            more["there"] = " and ".join(
                f"{n} {role}" for role, n in said.get("there", {}).items()
            )
            first, *rest = said
            return ", ".join([str(said[first]), *(more[name] for name in rest)])
        case "mirror":
            return f"{100 * said['share']:g} % is copied"
        case "preview":
            return f"{said['requests']} requests of our own"
        case "begin":
            return ", ".join(
                str(value) if name == "strategy" else f"{name} {value}"
                for name, value in said.items()
            )
        case "verdict":
            return f"{said['of']}: {said['verdict']}, {said['why']}"
        case "failed":
            return f"{said['step']}: {said['why']}"
        case _:
            return ": ".join(str(value) for value in said.values() if value != "")


def carry_out(
    strategy: Strategy,
    environment: Environment,
    tell: Callable[[Event], None] = lambda event: None,
    log_file: str | Path | None = None,
) -> Report:
    """Ask the strategy, do the step, until the end; return the report.

    tell: hears each event of the log as it happens. log_file: gets each as a line of
    JSON at once, so that somebody can read where a rollout stood that was killed.

    A step that fails aborts the rollout, as a gate does. Whatever else goes wrong, an
    interrupt too, the candidate loses its traffic and is stopped, and the exception
    follows once that is done; where the old version is gone already, the candidate
    takes its place. "stuck" in the log says that even that could not be done.
    """
    one = MultiService({"": strategy})
    return carry_out_services(one, {"": environment}, tell, log_file)[""]


def carry_out_services(
    strategy: MultiService,
    environments: Mapping[str, Environment],
    tell: Callable[[Event], None] = lambda event: None,
    log_file: str | Path | None = None,
) -> dict[str, Report]:
    """The same for several services: an environment, and a report, for each.

    Every event names its service. What goes wrong with one ends them all.
    """
    if set(environments) != set(strategy.services):
        raise ValueError(
            f"the services are {', '.join(strategy.services)}, and the environments "
            f"are for {', '.join(environments)}; give each service one"
        )
    rollouts = {
        name: _Rollout(one, environments[name], tell, log_file, name)
        for name, one in strategy.services.items()
    }
    try:
        for rollout in rollouts.values():
            rollout.begin()
        while True:
            name, step = strategy.next(
                {name: one.state for name, one in rollouts.items()},
                {name: one.verdict() for name, one in rollouts.items()},
            )
            if isinstance(step, End):
                break
            rollouts[name].do(step)
        return {name: one.end() for name, one in rollouts.items()}
    except BaseException as error:
        with _undisturbed():
            # If one cannot go back any more, the others must not either.
            on = any(gone(one.strategy, one.state) for one in rollouts.values())
            for rollout in reversed(rollouts.values()):
                why = f"{type(error).__name__}: {error}".rstrip(": ")
                rollout.give_up(why, on=on)
        raise


def replay(strategy: Strategy, report: Report) -> Report:
    """Make a rollout's decisions again, from what its environment said.

    ValueError, naming the first other step, if the strategy decides otherwise.
    """
    return carry_out(strategy, _Replayed(report))


class _Replayed:
    """An environment that says again what another one said."""

    def __init__(self, report: Report) -> None:
        self.done = iter(report.done)
        self.now_s, self.share = 0.0, 0.0
        self.instances: Mapping[str, int] = {}
        self.do(None)  # how it began

    def do(self, step: Step | None) -> list[Measurement]:
        done = next(self.done, None)
        if done is None or done.step != step:
            raise ValueError(
                f"the rollout that is replayed had {done.step if done else 'ended'} "
                f"at {self.now_s:g} s, where the strategy now says {step}"
            )
        self.now_s, self.share, self.instances = done.now_s, done.share, done.instances
        if done.failed is not None:
            raise StepFailed(done.failed)
        return list(done.measurements)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No further Ctrl-C gets in between: the first one is being obeyed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Rollout:
    """One rollout: its state, its log, its measurements."""

    def __init__(
        self,
        strategy: Strategy,
        environment: Environment,
        tell: Callable[[Event], None],
        log_file: str | Path | None,
        service: str = "",
    ) -> None:
        self.strategy, self.environment, self.tell = strategy, environment, tell
        self.log_file, self.service = log_file, service
        self.state = State(
            now_s=environment.now_s, instances=dict(environment.instances)
        )
        self.log: list[Event] = []
        self.measurements: list[Measurement] = []
        self.done: list[Done] = []
        self.said: dict[Gate, Verdict] = {}
        self.mended = 0
        self.giving_up = False

    def begin(self) -> None:
        self._keep(None, [])
        self.note("begin", **self.strategy.terms())

    def end(self) -> Report:
        step = self.strategy.next(self.state, self.verdict())
        assert isinstance(step, End)
        self.note("end", outcome=step.outcome, reason=step.reason)
        return Report(step.outcome, step.reason, self.log, self.measurements, self.done)

    def verdict(self) -> Verdict:
        """What all gates say together; a gate that changes its mind is noted."""
        state, verdicts = self.state, []
        heard = (
            (state.share > 0 or state.mirror > 0 or state.previewed)
            and not state.aborting
            and not state.promoted
            and (STABLE in state.ready or not self.strategy.keeps_stable)
        )
        for gate in self.strategy.watched(state):
            now = gate.judgement(self.measurements)
            verdicts.append(now.verdict)
            before = self.said.get(gate, Verdict.ERROR)  # there was no data yet
            if heard and before is not now.verdict:
                self.said[gate] = now.verdict
                self.note(
                    "verdict", of=gate.metric, verdict=now.verdict.value, why=now.why
                )
        return worst(verdicts)

    def do(self, step: Step) -> None:
        """Do a step, or abort if it fails; what only tidies up may fail."""
        if step == Retire(STABLE) and self.strategy.keeps_stable:
            # The last moment to go back: is the one that takes its place alive?
            self.do(Bake(self.state.now_s))
            if self.state.aborting:
                return
        if isinstance(step, Retire) and not step.to:
            # From here on it may be gone, whatever happens in the middle of it.
            ready = self.state.ready - {step.role}
            self.state = replace(self.state, ready=ready)
        try:
            self._measure(step)
        except StepFailed as error:
            why = str(error) or "it does not say why"
            if isinstance(step, Drain | Retire):
                some = {"there": dict(self.done[-1].instances)} if _some(step) else {}
                self.note("failed", step=_name(step), **_said(step), why=why, **some)
                self._settle(step)
                if (
                    self.state.instances.get(step.role)
                    and not self.strategy.keeps_stable
                ):
                    # It is there still, and a strategy that counts will ask again.
                    self.mended += 1
                    if self.mended > MENDS:
                        raise
                return
            self.note("failed", step=_name(step), why=why)
            whole = self.strategy.keeps_stable
            if isinstance(step, Abort | Promote):
                raise
            if whole and STABLE not in self.state.ready:
                raise
            if self.state.aborting:
                # On a long way back something may die; it is taken out, and on it goes.
                self.mended += 1
                if whole or self.mended > MENDS:
                    raise
            step = Abort(why, at_once=whole)
            self._measure(step)
        # First what is true now, then who hears of it: a listener may fail.
        self._settle(step)
        if isinstance(step, Abort) and not step.at_once:
            # Where the traffic is now depends on who was found alive.
            share, there = _percent(self.state.share), dict(self.state.instances)
            self.note("abort", **_said(step), candidate=share, there=there)
        elif not isinstance(step, Bake):
            self.note(_name(step), **_said(step))

    def _measure(self, step: Step) -> None:
        """Let the environment do it, and keep what it says."""
        try:
            seen = self.environment.do(step)
        except StepFailed as error:
            self._keep(step, [], str(error))
            raise
        self._keep(step, seen)
        self.measurements += seen
        totals = dict(self.state.seen)
        for one in seen:
            if one.of == USERS and 0 < one.share < 1:
                for role in (STABLE, CANDIDATE):
                    totals[role] = totals.get(role, Counts()) + counts(one, role)
        self.state = replace(self.state, seen=totals)

    def _keep(
        self, step: Step | None, seen: list[Measurement], failed: str | None = None
    ) -> None:
        there = self.environment
        self.done.append(
            Done(
                step,
                tuple(seen),
                there.now_s,
                there.share,
                dict(there.instances),
                failed,
            )
        )

    def _settle(self, step: Step) -> None:
        """The state after a step, as the environment left it."""
        last = self.done[-1]
        state = self.state.after(step, last.now_s)
        if isinstance(step, Abort):
            state = replace(state, share=last.share)
        self.state = replace(state, instances=last.instances)

    def give_up(self, reason: str, on: bool = False) -> None:
        """Bring it to an end that serves users, whatever fails on the way.

        A strategy that takes the stable group apart brings it back its own way. Where
        that fails, and for the others: while the old version is there, the traffic
        goes back to it at once, then the candidate's instances go; without it, the
        candidate becomes the stable version, or if it is dead, the old one is started
        again. If the traffic cannot be moved, nothing is stopped.

        on: whether it goes on instead, if it has all the traffic, because another
        service cannot go back any more.
        """
        self.giving_up = True
        if self.log and self.log[-1].what == "end":
            return
        forward = on and self.state.share == 1 and not self.state.aborting
        whole = self.strategy.keeps_stable
        if not whole and not self.state.promoted and not forward:
            with suppress(BaseException):  # a second interrupt too
                if not self.state.aborting:
                    self.do(Abort(reason, at_once=False))
                while not isinstance(step := self._next_back(), End):
                    self.do(step)
                self.note("end", outcome="aborted", reason=reason)
                return
        outcome = "promoted"
        if forward and whole and STABLE in self.state.ready:
            self._try([Drain(STABLE), Retire(STABLE)])
            forward = not self.state.aborting
        if not self.state.promoted:
            back = STABLE in self.state.ready and not forward
            if back or not self._try([Promote()]):
                outcome = self._go_back(reason)
        self.note("end", outcome=outcome, reason=reason)

    def _go_back(self, reason: str) -> str:
        """All traffic to the stable version at once; the outcome."""
        if STABLE not in self.state.ready:
            first_out = Abort(reason, at_once=False)  # what is dead
            self._try([first_out, Deploy(STABLE), Shift(TrafficSplit(0.0))])
        state = self.state
        there = not state.aborting or state.share > 0 or state.mirror > 0
        if there and not self._try([Abort(reason)]):
            return "stuck"
        if CANDIDATE not in self.state.drained:
            self._try([Drain(CANDIDATE)])
        self._try([Retire(CANDIDATE)])
        return "aborted"

    def _try(self, steps: list[Step]) -> bool:
        """Do them, whatever becomes of it; whether all were done."""
        for step in steps:
            try:
                self.do(step)
            except BaseException as error:
                self.note("failed", step=_name(step), why=repr(error))
                return False
        return True

    def _next_back(self) -> Step:
        return self.strategy.next(self.state, Verdict.INCONCLUSIVE)

    def note(self, what: str, **details: Any) -> None:
        if self.service:
            details = {"service": self.service} | details
        event = Event(round(self.environment.now_s, 6), what, details)
        self.log.append(event)
        for tell in (self._write, self.tell):
            try:
                tell(event)
            except BaseException:  # an interrupt is obeyed already
                if not self.giving_up:
                    raise

    def _write(self, event: Event) -> None:
        if self.log_file is not None:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(event)) + "\n")


def _some(step: Step) -> bool:
    """Whether it leaves some instances, so that one must count them."""
    return isinstance(step, Retire) and step.to > 0


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _name(step: Step) -> str:
    return type(step).__name__.lower()


def _said(step: Step) -> dict[str, Any]:
    """A step's details, as the log has them."""
    match step:
        case Shift(split, why):
            details = {"candidate": _percent(split.candidate)}
            return details | ({"why": why} if why else {})
        case Deploy(role, to):
            return {"role": role} | ({} if to is None else {"instances": to})
        case Retire(role, to, cut):
            details = {"role": role} | ({"instances": to} if to else {})
            return details | ({"cut": True} if cut else {})
        case Abort(reason, at_once):
            return {"reason": reason} | ({} if at_once else {"at_once": False})
    return asdict(step)
