"""The words of a rollout: splits, steps, measurements, verdicts, events.

To deploy is to put a version on machines; to release is to send it traffic. ``Deploy``
and ``Retire`` do the one, ``Shift`` does the other, and no step does both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
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


# Steps. Each is done by an environment; their names, in small letters, go into the log.


@dataclass(frozen=True)
class Deploy:
    """Start instances of a role and wait until they are ready. No traffic.

    to: how many there are then; None for the whole group.
    """

    role: str
    to: int | None = None


@dataclass(frozen=True)
class Shift:
    """Change the split. Says nothing of instances.

    why: the reason, where it is not in the strategy's own plan.
    """

    split: TrafficSplit
    why: str = ""


@dataclass(frozen=True)
class Preview:
    """Send requests of our own to both roles' instances, past the router.

    requests: how many to each. No user gets the answers.
    """

    requests: int


@dataclass(frozen=True)
class Mirror:
    """Send the candidate a copy of so many of the stable role's requests, 0 to 1.

    The user gets the stable role's answer, and does not wait for the other.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(
                f"the share that is mirrored is between 0 and 1, not {self.share}; "
                "for 5 % write 0.05"
            )


@dataclass(frozen=True)
class Abort:
    """Give up. All traffic goes back to the stable role at once, and copies end.

    at_once: False if the stable role cannot take the traffic yet; then it stays where
    it is, as far as somebody is there to answer, and the steps that follow move it.
    """

    reason: str
    at_once: bool = True


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
    """Stop instances of a role.

    to: how many are left; those that stay take over the traffic of those that go,
    which answer what they have accepted. cut: whether the role gets traffic, and
    nobody is left to answer it: an outage, and meant.
    """

    role: str
    to: int = 0
    cut: bool = False


@dataclass(frozen=True)
class Promote:
    """The candidate becomes the stable version: a change of names; nothing moves."""


@dataclass(frozen=True)
class End:
    """The rollout is over: "promoted", "aborted" with the reason, or "passed".

    Passed: nothing was released, and the candidate has stood its test.
    """

    outcome: str
    reason: str = ""


Step = Deploy | Shift | Preview | Mirror | Abort | Bake | Drain | Retire | Promote | End


@dataclass(frozen=True)
class Counts:
    """What one role did in one tick: requests, and how many of them count as events.

    ``events`` maps the name of a metric ("errors", "slow", "wrong") to a count.
    users: those who sent the first of their requests, and user_events: how many of
    these first requests count as events. A user is in one measurement at most.
    """

    requests: int = 0
    events: Mapping[str, int] = field(default_factory=dict)
    users: int = 0
    user_events: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.requests + other.requests,
            _sum(self.events, other.events),
            self.users + other.users,
            _sum(self.user_events, other.user_events),
        )


def _sum(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in (*a, *b)}


#: Whose requests a measurement is of.
USERS, PREVIEW, MIRROR = "users", "preview", "mirror"


@dataclass(frozen=True)
class Measurement:
    """What both roles did between two moments, and the split that was in force.

    ``share`` is the candidate's share that the router was told to send when these
    requests came; what it achieved is in the counts. ``of``: "users"; "preview" for
    requests of our own; "mirror" for copies of users' requests, where both roles were
    asked the same, and so the share is a half.
    """

    from_s: float
    to_s: float
    share: float
    stable: Counts
    candidate: Counts
    of: str = USERS

    @cached_property
    def first_of_users(self) -> Measurement:
        """The same, with each user's first request in place of all requests."""
        stable = Counts(self.stable.users, self.stable.user_events)
        candidate = Counts(self.candidate.users, self.candidate.user_events)
        return replace(self, stable=stable, candidate=candidate)


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
    """A metric and the judge that watches it.

    unit: what is counted, "request", or "user" for the first request of each user. on:
    of which measurements, see there; a strategy sets it where it is not "users".
    """

    metric: str
    judge: Judge
    unit: str = "request"
    on: str = USERS

    def __post_init__(self) -> None:
        if self.unit not in ("request", "user"):
            raise ValueError(f'unit is "request" or "user", not {self.unit!r}')
        if self.on not in (USERS, PREVIEW, MIRROR):
            raise ValueError(
                f"a gate looks at users, preview or mirror, not at {self.on!r}"
            )

    def judgement(self, measurements: Sequence[Measurement]) -> Judgement:
        """What the judge says of the measurements so far.

        Without any request of the candidate's there is no data, whatever the judge.
        """
        mine = [one for one in measurements if one.of == self.on]
        if self.unit == "user":
            mine = [one.first_of_users for one in mine]
        if not any(one.candidate.requests for one in mine):
            return Judgement(Verdict.ERROR, f"no {self.unit} of the candidate's")
        return self.judge.judge(self.metric, mine)


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
    since_s when it, or the mirror, was last set; released_s: when the candidate first
    got users' traffic, None before; deployed_s: the last deployment. ready, drained,
    retired: the roles of which that is true. instances: how many of each role are
    there, as the environment sees it. mirror: the share of requests that is mirrored;
    mirrored, previewed: whether there has been a mirror, a preview. seen: what users'
    requests came to, by role, while both had some of the traffic: with what came
    before, times would be compared and not versions.
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
    released_s: float | None = None
    deployed_s: float = 0.0
    instances: Mapping[str, int] = field(default_factory=dict)
    mirror: float = 0.0
    mirrored: bool = False
    previewed: bool = False
    seen: Mapping[str, Counts] = field(default_factory=dict)

    def after(self, step: Step, now_s: float) -> State:
        """The state once a step is done, if nothing else has happened."""
        state = replace(self, now_s=now_s)
        match step:
            case Deploy(role):
                return replace(
                    state,
                    deployed_s=now_s,
                    ready=self.ready | {role},
                    drained=self.drained - {role},
                    retired=self.retired - {role},
                )
            case Shift(split):
                if split.candidate and self.released_s is None:
                    state = replace(state, released_s=now_s)
                return replace(state, share=split.candidate, since_s=now_s)
            case Mirror(share):
                return replace(state, mirror=share, mirrored=True, since_s=now_s)
            case Preview():
                return replace(state, previewed=True)
            case Abort(reason, at_once):
                why = reason or "no reason was given"
                if at_once:
                    state = replace(state, share=0.0, mirror=0.0, since_s=now_s)
                return replace(state, aborting=why)
            case Drain(role):
                return replace(state, drained=self.drained | {role})
            case Retire(role, to):
                if to:
                    return state
                return replace(
                    state, retired=self.retired | {role}, ready=self.ready - {role}
                )
            case Promote():
                return replace(state, promoted=True)
        return state
