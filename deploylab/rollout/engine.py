"""Carry a strategy out in an environment, and keep the log."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Abort,
    Bake,
    Counts,
    Drain,
    End,
    Event,
    Judgement,
    Measurement,
    Promote,
    Retire,
    State,
    Step,
    Verdict,
    worst,
)
from deploylab.rollout.strategies import Strategy


class StepFailed(Exception):
    """An environment could not do a step; the message says what happened."""


class Environment(Protocol):
    """Where a rollout happens: a simulator, or real processes."""

    @property
    def now_s(self) -> float:
        """Seconds since the rollout began, on this environment's clock."""
        ...

    def do(self, step: Step) -> list[Measurement]:
        """Carry out a step; return what was measured since the last one.

        Of a Bake it does as much as lies before the next look, a tick at most, so
        that a gate which fails need not wait for its end.

        Raises StepFailed. An Abort does not fail: whatever happens, the traffic goes
        to the stable role.
        """
        ...


@dataclass
class Report:
    """What became of a rollout, drawn from its log and its measurements alone.

    outcome: "promoted" or "aborted"; reason: why it was aborted.
    """

    outcome: str
    reason: str
    log: list[Event]
    measurements: list[Measurement] = field(default_factory=list)

    @property
    def exposed_requests(self) -> int:
        """Requests that the candidate answered, or failed to, before the outcome."""
        return sum(m.candidate.requests for m in self.measurements)

    def events(self, metric: str, role: str = CANDIDATE) -> int:
        """How many requests of a role counted as events of a metric."""
        return sum(counts(m, role).events.get(metric, 0) for m in self.measurements)

    def at(self, what: str) -> float:
        """Second at which the first event of this kind stands in the log; else NaN."""
        return next((e.at_s for e in self.log if e.what == what), float("nan"))

    @property
    def table(self) -> pd.DataFrame:
        """The log as a table: what and details, by the second."""
        rows = [(f"{e.at_s:.2f}", e.what, in_words(e)) for e in self.log]
        table = pd.DataFrame(rows, columns=["second", "what", "details"])
        return table.set_index("second")


def counts(measurement: Measurement, role: str) -> Counts:
    """The counts of one role."""
    return measurement.stable if role == STABLE else measurement.candidate


def in_words(event: Event) -> str:
    """The details of an event, as a person would note them."""
    said = event.details
    match event.what:
        case "shift":
            return f"candidate gets {said['candidate']}"
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
    rollout = _Rollout(strategy, environment, tell, log_file)
    try:
        return rollout.run()
    except BaseException as error:
        with _undisturbed():
            rollout.give_up(f"{type(error).__name__}: {error}".rstrip(": "))
        raise


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
    ) -> None:
        self.strategy, self.environment, self.tell = strategy, environment, tell
        self.log_file = log_file
        self.state = State(now_s=environment.now_s)
        self.log: list[Event] = []
        self.measurements: list[Measurement] = []
        self.said: dict[int, Verdict] = {}
        self.giving_up = False

    def run(self) -> Report:
        while True:
            step = self.strategy.next(self.state, self.verdict())
            if isinstance(step, End):
                self.note("end", outcome=step.outcome, reason=step.reason)
                return Report(step.outcome, step.reason, self.log, self.measurements)
            self.do(step)

    def verdict(self) -> Verdict:
        """What all gates say together; a gate that changes its mind is noted."""
        verdicts = []
        for place, gate in enumerate(self.strategy.gates):
            now = judgement_of(gate, self.measurements)
            verdicts.append(now.verdict)
            watched = (
                self.state.share > 0
                and not self.state.aborting
                and STABLE in self.state.ready
            )
            before = self.said.get(place, Verdict.ERROR)  # there was no data yet
            if watched and before is not now.verdict:
                self.said[place] = now.verdict
                self.note(
                    "verdict", of=gate.metric, verdict=now.verdict.value, why=now.why
                )
        return worst(verdicts)

    def do(self, step: Step) -> None:
        """Do a step, or abort if it fails; what only tidies up may fail."""
        if isinstance(step, Retire):
            # From here on it may be gone, whatever happens in the middle of it.
            ready = self.state.ready - {step.role}
            self.state = replace(self.state, ready=ready)
        try:
            self.measurements += self.environment.do(step)
        except StepFailed as error:
            why = str(error) or "it does not say why"
            if isinstance(step, Drain | Retire):
                self.note("failed", step=_name(step), role=step.role, why=why)
                self.state = self.state.after(step, self.environment.now_s)
                return
            self.note("failed", step=_name(step), why=why)
            if STABLE not in self.state.ready or isinstance(step, Abort):
                raise
            step = Abort(why)
            self.measurements += self.environment.do(step)
        # First what is true now, then who hears of it: a listener may fail.
        self.state = self.state.after(step, self.environment.now_s)
        if not isinstance(step, Bake):
            self.note(_name(step), **_said(step))

    def give_up(self, reason: str) -> None:
        """Bring it to an end that serves users, whatever fails on the way.

        While the old version is there, that is the way back: the traffic first, then
        the candidate's instances. Without it, it is the way on: the candidate becomes
        the stable version. If the traffic cannot be moved, nothing is stopped.
        """
        self.giving_up = True
        if self.log and self.log[-1].what == "end":
            return
        if STABLE not in self.state.ready:
            steps: list[Step] = [] if self.state.promoted else [Promote()]
            outcome = "promoted"
        else:
            steps = [Drain(CANDIDATE), Retire(CANDIDATE)]
            if CANDIDATE in self.state.drained:
                del steps[0]
            if not self.state.aborting:
                steps.insert(0, Abort(reason))
            outcome = "aborted"
        for step in steps:
            try:
                self.do(step)
            except Exception as error:
                self.note("failed", step=_name(step), why=repr(error))
                if isinstance(step, Abort | Promote):
                    outcome = "stuck"
                    break
        self.note("end", outcome=outcome, reason=reason)

    def note(self, what: str, **details: Any) -> None:
        event = Event(round(self.environment.now_s, 6), what, details)
        self.log.append(event)
        for tell in (self._write, self.tell):
            try:
                tell(event)
            except Exception:
                if not self.giving_up:
                    raise

    def _write(self, event: Event) -> None:
        if self.log_file is not None:
            with open(self.log_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(event)) + "\n")


def judgement_of(gate: Any, measurements: Sequence[Measurement]) -> Judgement:
    """What a gate says; without any request of the candidate's there is no data."""
    if not any(m.candidate.requests for m in measurements):
        return Judgement(Verdict.ERROR, "no request of the candidate's")
    return gate.judgement(measurements)


def _name(step: Step) -> str:
    return type(step).__name__.lower()


def _said(step: Step) -> dict[str, Any]:
    """A step's details, as the log has them."""
    if hasattr(step, "split"):
        return {"candidate": f"{100 * step.split.candidate:g} %"}
    return asdict(step)
