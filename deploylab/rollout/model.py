"""The words of a rollout: groups, splits, steps, measurements, verdicts, events.

To deploy is to put a version on machines; to release is to send it traffic. A
``Group`` is deployed, a ``TrafficSplit`` releases, and no step does both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol

#: The two roles of a rollout: what serves now, and what may come to serve.
STABLE = "stable"
CANDIDATE = "candidate"


class Verdict(Enum):
    """What a judge says. No data is not good data: it is ERROR."""

    SUCCESSFUL = "successful"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True)
class Group:
    """The instances of one version in one role."""

    role: str
    version: str
    instances: int = 1


@dataclass(frozen=True)
class TrafficSplit:
    """The share of traffic that each role gets.

    candidate: from 0 to 1; the stable role gets the rest. sticky: whether a user
    stays on one side while the share does not shrink (the share is then one of
    users, not of requests). salt: decides who goes first; another rollout should
    take another one, or the same users are hurt each time.
    """

    candidate: float
    sticky: bool = False
    salt: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.candidate <= 1:
            raise ValueError(
                f"a share of traffic is between 0 and 1, not {self.candidate}; for "
                "5 % write 0.05"
            )

    @property
    def stable(self) -> float:
        """The rest."""
        return 1 - self.candidate


# Steps. Each is done by an environment; the words before the colon go into the log.


@dataclass(frozen=True)
class Deploy:
    """Start the instances of a role and wait until they are ready. No traffic."""

    role: str


@dataclass(frozen=True)
class Shift:
    """Change the split. Says nothing of instances."""

    split: TrafficSplit


@dataclass(frozen=True)
class Abort:
    """Send all traffic back to the stable role, at once, and give up."""

    reason: str


@dataclass(frozen=True)
class Bake:
    """Leave the split as it is and watch, until a time on the rollout's clock."""

    until_s: float


@dataclass(frozen=True)
class Drain:
    """Wait until a role that gets no new traffic has answered what it accepted."""

    role: str


@dataclass(frozen=True)
class Retire:
    """Stop the instances of a role."""

    role: str


@dataclass(frozen=True)
class Promote:
    """The candidate becomes the stable version: a change of names; nothing moves."""


@dataclass(frozen=True)
class End:
    """The rollout is over: "promoted", or "aborted" with the reason."""

    outcome: str
    reason: str = ""


Step = Deploy | Shift | Abort | Bake | Drain | Retire | Promote | End


@dataclass(frozen=True)
class Counts:
    """What one role did in one tick: requests, and how many of them count as events.

    ``events`` maps the name of a metric ("errors", "slow", "phishing") to a count.
    """

    requests: int = 0
    events: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What both roles did between two moments, and the split that was in force.

    ``share`` is the candidate's share that the router was told to send when these
    requests came; what it achieved is in the counts.
    """

    from_s: float
    to_s: float
    share: float
    stable: Counts
    candidate: Counts


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the figures that it rests on, in words for the log."""

    verdict: Verdict
    why: str = ""


class Judge(Protocol):
    """Turns measurements into a verdict. Pure: no clock, no memory, no I/O."""

    def judge(self, metric: str, measurements: Sequence[Measurement]) -> Judgement:
        """Judge all measurements of a rollout so far, oldest first."""
        ...


@dataclass(frozen=True)
class Gate:
    """A metric and the judge that watches it."""

    metric: str
    judge: Judge

    def judgement(self, measurements: Sequence[Measurement]) -> Judgement:
        """What the judge says of the measurements so far."""
        return self.judge.judge(self.metric, measurements)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of several gates together; without gates it is INCONCLUSIVE.

    One that failed outranks all; then no data; then doubt.
    """
    verdicts = set(verdicts)
    for verdict in (Verdict.FAILED, Verdict.ERROR, Verdict.INCONCLUSIVE):
        if verdict in verdicts:
            return verdict
    return Verdict.SUCCESSFUL if verdicts else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class Event:
    """One line of the log: when, what, and the details."""

    at_s: float
    what: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """Where a rollout is, as far as a strategy needs to know.

    now_s: the rollout's clock. share: the candidate's share of the traffic, and
    since_s when it got it. ready, drained, retired: the roles of which that is true.
    promoted: whether the candidate has become the stable version. aborting: why the
    rollout is given up; "" while it is not.
    """

    now_s: float = 0.0
    share: float = 0.0
    since_s: float = 0.0
    ready: frozenset[str] = frozenset({STABLE})
    drained: frozenset[str] = frozenset()
    retired: frozenset[str] = frozenset()
    promoted: bool = False
    aborting: str = ""

    def after(self, step: Step, now_s: float) -> State:
        """The state once a step is done."""
        state = replace(self, now_s=now_s)
        if isinstance(step, Deploy):
            return replace(state, ready=self.ready | {step.role})
        if isinstance(step, Shift):
            return replace(state, share=step.split.candidate, since_s=now_s)
        if isinstance(step, Abort):
            why = step.reason or "no reason was given"
            return replace(state, share=0.0, since_s=now_s, aborting=why)
        if isinstance(step, Drain):
            return replace(state, drained=self.drained | {step.role})
        if isinstance(step, Retire):
            ready = self.ready - {step.role}
            return replace(state, retired=self.retired | {step.role}, ready=ready)
        if isinstance(step, Promote):
            return replace(state, promoted=True)
        return state
