"""Strategies: pure functions from (state, verdict) to the next step.

A strategy does no I/O and keeps no memory, so the same object can be predicted,
simulated, run against real servers, and exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import ClassVar, Protocol

import numpy as np
from scipy import special

from deploylab.rollout import fenceposts
from deploylab.rollout.judges import FixedSample, SplitEProcess
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
    End,
    Gate,
    Mirror,
    Preview,
    Promote,
    Retire,
    Shift,
    State,
    Step,
    TrafficSplit,
    Verdict,
)


class Strategy(Protocol):
    """What ``carry_out`` needs of a strategy."""

    #: Whether the stable group is whole until the candidate is promoted, so that an
    #: abort is a change of the split and nothing else.
    keeps_stable: ClassVar[bool]

    def watched(self, state: State) -> tuple[Gate, ...]:
        """The gates that count now. Pure."""
        ...

    def next(self, state: State, verdict: Verdict) -> Step:
        """The next step; verdict is that of the watched gates together. Pure."""
        ...

    def terms(self) -> dict[str, object]:
        """What a reader of the log must know of it to check the log."""
        ...


class _Plan:
    """What most strategies have in common."""

    keeps_stable: ClassVar[bool] = True
    gates: tuple[Gate, ...]

    def watched(self, state: State) -> tuple[Gate, ...]:
        """All gates, at any time."""
        return self.gates

    def terms(self) -> dict[str, object]:
        """Its name."""
        return {"strategy": type(self).__name__}


def way_back(state: State) -> Step:
    """The steps after an abort: traffic is gone already, then drain, stop, end."""
    if CANDIDATE not in state.drained:
        return Drain(CANDIDATE)
    if CANDIDATE not in state.retired:
        return Retire(CANDIDATE)
    return End("aborted", state.aborting)


def way_out(state: State) -> Step:
    """The steps of a promotion: the old version has no traffic; drain, stop, rename."""
    if STABLE not in state.drained:
        return Drain(STABLE)
    if STABLE not in state.retired:
        return Retire(STABLE)
    return End("promoted") if state.promoted else Promote()


@dataclass(frozen=True)
class Canary(_Plan):
    """Traffic moves in stages, each watched for a while before the next.

    shares: the candidate's share in each stage, rising, below 1; after the last one
    it gets everything. bake_s: how long each stage is watched at least, one number
    or one for each stage. gates: what is watched; any that fails ends the rollout at
    once, and without data at the end of a stage it ends as well. on_doubt: what an
    inconclusive verdict at the end of a stage means, "abort" or "go on". sticky, salt:
    see TrafficSplit; with a sticky split a split e-process must count users.
    """

    shares: tuple[float, ...]
    bake_s: float | tuple[float, ...]
    gates: tuple[Gate, ...]
    on_doubt: str = "abort"
    sticky: bool = False
    salt: str = ""

    def __post_init__(self) -> None:
        path = (0.0, *self.shares, 1.0)
        if len(path) < 3 or any(a >= b for a, b in pairwise(path)):
            raise ValueError(
                "the shares of a canary rise and lie between 0 and 1, as in "
                f"(0.05, 0.2, 0.5); not {self.shares}"
            )
        if len(self.bakes_s) != len(self.shares):
            raise ValueError(
                f"there are {len(self.shares)} stages, and bake_s has "
                f"{len(self.bakes_s)} times; give one for each, or one number for all"
            )
        if not all(bake_s > 0 for bake_s in self.bakes_s):
            raise ValueError(
                f"bake_s is the time to watch each stage, above 0 s, not {self.bake_s}"
            )
        if self.sticky:
            _refuse_requests(self.gates)
        _refuse_looking_again(self.gates)
        _known_doubt(self.on_doubt)

    @property
    def bakes_s(self) -> tuple[float, ...]:
        """The time to watch each stage."""
        if isinstance(self.bake_s, tuple):
            return self.bake_s
        return (self.bake_s,) * len(self.shares)

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: the first line that applies."""
        if state.aborting:
            return way_back(state)
        if CANDIDATE not in state.ready:
            return Deploy(CANDIDATE)
        if verdict is Verdict.FAILED and STABLE in state.ready:
            return Abort("a gate failed")
        if state.share == 1:
            return way_out(state)
        if state.share == 0:
            return self._shift(self.shares[0])
        until_s = state.since_s + self.bakes_s[self._stage(state.share)]
        if state.now_s < until_s:
            return Bake(until_s)
        if abort := _unproved(verdict, self.on_doubt):
            return abort
        larger = self.shares[self._stage(state.share) + 1 :]
        return self._shift(larger[0] if larger else 1.0)

    def _stage(self, share: float) -> int:
        """The place of a share; one that a router rounded is that of the nearest."""
        return min(
            range(len(self.shares)), key=lambda place: abs(self.shares[place] - share)
        )

    def _shift(self, share: float) -> Shift:
        return Shift(TrafficSplit(share, self.sticky, self.salt))


@dataclass(frozen=True)
class BlueGreen(_Plan):
    """All traffic moves at once, between two equal sides, active and idle.

    keep_s: how long the side that lost the traffic is kept, ready to take it back;
    gates are watched for as long. before: gates that are judged before the switch, on
    `preview` requests of our own, sent to both sides; without them there is no preview.
    """

    keep_s: float
    gates: tuple[Gate, ...] = ()
    before: tuple[Gate, ...] = ()
    preview: int = 200

    def __post_init__(self) -> None:
        if self.keep_s < 0:
            raise ValueError(
                "keep_s is how long the old side is kept, 0 s or more, not "
                f"{self.keep_s}"
            )
        if any(isinstance(gate.judge, SplitEProcess) for gate in self.gates):
            raise ValueError(
                "after the switch all traffic is the candidate's, and a split "
                "e-process has nothing to compare it with. Take Threshold gates; on a "
                "preview, before the switch, it can judge."
            )
        if self.before and self.preview < 1:
            raise ValueError(
                "gates before the switch need requests to judge by; preview is their "
                f"number, 1 or more, not {self.preview}"
            )
        _refuse_looking_again(self.gates)
        _look_at(self, "before", PREVIEW)

    def watched(self, state: State) -> tuple[Gate, ...]:
        """Those before the switch, then the others."""
        return self.gates if state.share else self.before

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: the first line that applies."""
        if state.aborting:
            return way_back(state)
        if CANDIDATE not in state.ready:
            return Deploy(CANDIDATE)
        if self.before and not state.previewed:
            return Preview(self.preview)
        if verdict is Verdict.FAILED and STABLE in state.ready:
            return Abort("a gate failed")
        if state.share == 0:
            if self.before and verdict is not Verdict.SUCCESSFUL:
                return Abort("the preview came to no conclusion")
            return Shift(TrafficSplit(1.0))
        if STABLE in state.drained:
            return way_out(state)
        if state.now_s < state.since_s + self.keep_s:
            return Bake(state.since_s + self.keep_s)
        return (self.gates and _unproved(verdict)) or way_out(state)


@dataclass(frozen=True)
class Basic(_Plan):
    """Stop the old version, then start the new one in its place (recreate).

    Between the two nobody answers. bake_s: how long the gates watch the new version;
    one that fails, or has no data then, brings the old one back, in the same way.
    """

    gates: tuple[Gate, ...] = ()
    bake_s: float = 0.0
    keeps_stable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.bake_s < 0:
            raise ValueError(
                f"bake_s is the time to watch, 0 s or more, not {self.bake_s}"
            )
        if self.gates and not self.bake_s:
            raise ValueError("gates need time to see something: give bake_s")
        _refuse_looking_again(self.gates)

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: the first line that applies."""
        if state.aborting:
            return self._back(state)
        if CANDIDATE not in state.ready:
            if STABLE in state.ready:
                return Retire(STABLE, cut=True)
            return Deploy(CANDIDATE)
        if state.share == 0:
            return Shift(TrafficSplit(1.0))
        if state.promoted:
            return End("promoted")
        if verdict is Verdict.FAILED:
            return Abort("a gate failed", at_once=False)
        if state.now_s < state.since_s + self.bake_s:
            return Bake(state.since_s + self.bake_s)
        return (self.gates and _unproved(verdict, at_once=False)) or Promote()

    def _back(self, state: State) -> Step:
        if state.share == 0 and CANDIDATE not in state.retired:
            return way_back(state)
        if CANDIDATE not in state.retired:
            return Retire(CANDIDATE, cut=True)
        if STABLE not in state.ready:
            return Deploy(STABLE)
        if state.share > 0:
            return Shift(TrafficSplit(0.0))
        return End("aborted", state.aborting)


@dataclass(frozen=True)
class Rolling(_Plan):
    """Instances are replaced in waves; each gets as much traffic as any other.

    instances: of the service. max_surge, max_unavailable: how many more there may be
    than that, and how many fewer ready ones, as a number or a percentage, rounded as
    Kubernetes does. min_ready_s: how long new instances must have been ready before old
    ones go. Readiness is all that it asks for, unless there are gates; one that fails
    rolls the old version back in, in waves again, and so do gates that have seen too
    little to judge by after min_ready_s; without that time they are not waited for.

    The instances of a wave are taken to become ready together.
    """

    instances: int
    max_surge: int | str = "25%"
    max_unavailable: int | str = "25%"
    gates: tuple[Gate, ...] = ()
    min_ready_s: float = 0.0
    keeps_stable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        fenceposts.resolve(self.instances, self.max_surge, self.max_unavailable)
        if self.min_ready_s < 0:
            raise ValueError(
                "min_ready_s is a time before old instances go, 0 s or more, not "
                f"{self.min_ready_s}"
            )
        _refuse_looking_again(self.gates)

    @property
    def limits(self) -> tuple[int, int]:
        """Surge and unavailable, as numbers of instances."""
        return fenceposts.resolve(self.instances, self.max_surge, self.max_unavailable)

    def terms(self) -> dict[str, object]:
        """Its name and its limits."""
        surge, unavailable = self.limits
        return super().terms() | {
            "instances": self.instances,
            "max_surge": surge,
            "max_unavailable": unavailable,
        }

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: a wave on, or, once a gate has failed, a wave back."""
        if state.promoted:
            return End("promoted")
        if verdict is Verdict.FAILED and not state.aborting:
            return Abort("a gate failed", at_once=False)
        if not state.aborting:
            step = self._wave(state, CANDIDATE, STABLE, verdict)
            until_s = state.deployed_s + self.min_ready_s
            if step is None and self.min_ready_s and state.since_s < until_s:
                # There was nobody left to wait beside.
                if state.now_s < until_s:
                    return Bake(until_s)
                step = _unproved(verdict, at_once=False) if self.gates else None
            return step or Promote()
        if state.share == 0 and CANDIDATE not in state.retired:
            return way_back(state)
        step = self._wave(state, STABLE, CANDIDATE, verdict)
        return step or End("aborted", state.aborting)

    def _wave(self, state: State, to: str, away: str, verdict: Verdict) -> Step | None:
        """The next step of a wave, Kubernetes' way; None if all is done."""
        surge, unavailable = self.limits
        coming, going = state.instances.get(to, 0), state.instances.get(away, 0)
        left = min(going, max(0, self.instances - unavailable - coming))
        share = self._share(to, coming, left)
        if coming and state.share != share:
            even = self._share(to, coming, going)
            # On the way back nobody waits for what has proved itself before.
            if self.min_ready_s and going > left and to == CANDIDATE:
                if state.share != even:
                    return Shift(TrafficSplit(even))
                if state.now_s < state.since_s + self.min_ready_s:
                    return Bake(state.since_s + self.min_ready_s)
                if self.gates and (abort := _unproved(verdict, at_once=False)):
                    return abort
            return Shift(TrafficSplit(share))
        if going > left:
            if not coming and not left:
                return Retire(away, cut=True)  # so many may be unavailable
            if not left and away not in state.drained:
                return Drain(away)
            return Retire(away, left)
        if coming < self.instances:
            return Deploy(to, min(self.instances, self.instances + surge - going))
        return None

    def _share(self, to: str, coming: int, left: int) -> float:
        """The candidate's share when all instances get the same."""
        share = coming / max(1, coming + left)
        return round(share if to == CANDIDATE else 1 - share, 6)


@dataclass(frozen=True)
class Shadow(_Plan):
    """The candidate answers copies of users' requests, and no user sees it.

    mirrored: share of the requests that are copied. bake_s: for how long. gates: what
    is watched; both versions get the same requests, so a metric has two more forms,
    "differs" for decisions that are not the stable version's, and, for each metric m,
    "m alone" for requests that are an event of this role's and not of the other's. Of
    what both do alike nothing is learnt, so "m alone" finds with fewer requests what m
    finds.
    Nothing is released: at the end the candidate has passed, or not.
    """

    mirrored: float
    bake_s: float
    gates: tuple[Gate, ...]
    on_doubt: str = "abort"

    def __post_init__(self) -> None:
        if not 0 < self.mirrored <= 1:
            raise ValueError(
                "mirrored is the share of requests that are copied, above 0 and at "
                f"most 1, not {self.mirrored}"
            )
        if self.bake_s <= 0:
            raise ValueError(f"bake_s is a time to watch, above 0 s, not {self.bake_s}")
        _refuse_looking_again(self.gates)
        _known_doubt(self.on_doubt)
        _look_at(self, "gates", MIRROR)

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: the first line that applies."""
        if state.aborting:
            return way_back(state)
        if CANDIDATE in state.retired:
            return End("passed")
        if CANDIDATE in state.drained:
            return Retire(CANDIDATE)
        if CANDIDATE not in state.ready:
            return Deploy(CANDIDATE)
        if not state.mirrored:
            return Mirror(self.mirrored)
        if not state.mirror:
            return Drain(CANDIDATE)
        if verdict is Verdict.FAILED:
            return Abort("a gate failed")
        if state.now_s < state.since_s + self.bake_s:
            return Bake(state.since_s + self.bake_s)
        return _unproved(verdict, self.on_doubt) or Mirror(0.0)


@dataclass(frozen=True)
class AB(_Plan):
    """Users are divided until there are enough of them; then one gate decides.

    users: how many each side needs; their number is settled before, and nothing but
    a guard gate ends it earlier. decides: the gate that is asked once, at the end; a
    verdict other than successful keeps the stable version. longest_s: when it is given
    up. share: the candidate's. guards: gates that end it when they fail. All of them
    count users, each by the first request.
    """

    users: int
    decides: Gate
    longest_s: float
    share: float = 0.5
    guards: tuple[Gate, ...] = ()
    salt: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(
                f"both sides need users, so the share is between 0 and 1, not "
                f"{self.share}"
            )
        if self.users < 1 or self.longest_s <= 0:
            raise ValueError("users is 1 or more, and longest_s is above 0 s")
        if getattr(self.decides.judge, "at_least", 0) > self.users:
            raise ValueError(
                f"the gate that decides needs {self.decides.judge.at_least} users on "
                f"each side, and it is asked at {self.users}"
            )
        _refuse_looking_again(self.guards)
        # What was divided is users, so users are what is counted.
        guards = tuple(replace(gate, unit="user") for gate in self.guards)
        object.__setattr__(self, "guards", guards)
        object.__setattr__(self, "decides", replace(self.decides, unit="user"))

    def watched(self, state: State) -> tuple[Gate, ...]:
        """The guards; once there are enough users, the gate that decides as well."""
        return (*self.guards, self.decides) if self._enough(state) else self.guards

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: the first line that applies."""
        if state.aborting:
            return way_back(state)
        if CANDIDATE not in state.ready:
            return Deploy(CANDIDATE)
        if state.share == 1:
            return way_out(state)
        if state.share == 0:
            return self._shift(self.share)
        if self._enough(state):
            if verdict is Verdict.SUCCESSFUL:
                return self._shift(1.0)
            return Abort("the candidate was not shown to be better")
        if verdict is Verdict.FAILED:
            return Abort("a guard gate failed")
        if state.now_s < state.since_s + self.longest_s:
            return Bake(state.since_s + self.longest_s)
        return Abort(f"there were too few users within {self.longest_s:g} s")

    def _enough(self, state: State) -> bool:
        return state.share > 0 and all(
            state.seen.get(role, Counts()).users >= self.users
            for role in (STABLE, CANDIDATE)
        )

    def _shift(self, share: float) -> Shift:
        return Shift(TrafficSplit(share, sticky=True, salt=self.salt))


@dataclass(frozen=True)
class Bandit(_Plan):
    """Thompson sampling: the share follows the chance that the candidate is better.

    metric: its events are what there shall be fewer of. update_s: how often the share
    is set anew. longest_s: when it ends; then the candidate is promoted if its chance
    of being better is at least `enough`. floor: the least share of either side, so
    that both go on being measured. gates: guards; one that fails ends it.

    To draw a rate from each side's posterior, Beta(1 + events, 1 + others), for each
    request and to send it where the rate is lower is the same in law as to send the
    candidate the share ``better(state)``, as long as the posterior stays as it is
    (Thompson 1933, "On the likelihood that one unknown probability exceeds another").

    All requests so far count alike, under whatever share they came: it takes both rates
    to stay what they are while it runs. And a request is judged when it is answered: an
    event that is known only later, as of a label that comes tomorrow, counts as none.
    """

    metric: str
    update_s: float
    longest_s: float
    floor: float = 0.05
    enough: float = 0.95
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.update_s <= self.longest_s:
            raise ValueError(
                "update_s is above 0 s, and longest_s is not shorter than it; they are "
                f"{self.update_s} and {self.longest_s}"
            )
        if not 0 < self.floor < 0.5:
            raise ValueError(
                f"floor is a share above 0 and below a half, not {self.floor}"
            )
        if not 0.5 < self.enough < 1:
            raise ValueError(
                f"enough is a chance above a half and below 1, not {self.enough}"
            )
        _refuse_looking_again(self.gates)

    def better(self, state: State) -> float:
        """Chance that the candidate's rate of events is the lower one."""
        beta = []
        for role in (CANDIDATE, STABLE):
            seen = state.seen.get(role, Counts())
            events = seen.events.get(self.metric, 0)
            beta.append((1 + events, 1 + seen.requests - events))
        return chance_of_less(*beta)

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: the first line that applies."""
        if state.aborting:
            return way_back(state)
        if CANDIDATE not in state.ready:
            return Deploy(CANDIDATE)
        if verdict is Verdict.FAILED and STABLE in state.ready:
            return Abort("a gate failed")
        if state.share == 1:
            return way_out(state)
        if state.share == 0:
            return Shift(TrafficSplit(0.5), "nothing is known yet")
        ends_s = state.released_s + self.longest_s
        until_s = min(state.since_s + self.update_s, ends_s)
        if state.now_s < until_s:
            return Bake(until_s)
        better = self.better(state)
        said = f"better with a chance of {better:.3f}"
        if state.now_s < ends_s:
            share = round(min(max(better, self.floor), 1 - self.floor), 6)
            return Shift(TrafficSplit(share), said)
        if better >= self.enough:
            return Shift(TrafficSplit(1.0), said)
        return Abort(f"at the end it was {said}")


def chance_of_less(x: tuple[int, int], y: tuple[int, int]) -> float:
    """Chance that X < Y, for independent Beta distributed X and Y.

    x, y: their two parameters, whole numbers. Exact; the sum is over the first one of
    y (Miller 2015, "Formulas for Bayesian A/B testing", equation for P(B > A)).
    """
    i = np.arange(y[0])
    terms = special.betaln(x[0] + i, x[1] + y[1]) - special.betaln(1 + i, y[1])
    terms -= np.log(y[1] + i) + special.betaln(*x)
    return float(np.exp(terms).sum())


@dataclass(frozen=True)
class MultiService:
    """Several services change at once, and only together: all are promoted, or none.

    services: a strategy for each, by the service's name; those that are called stand
    before those that call them. None is released before all are deployed, as far as
    the strategies keep these apart; then each is as soon as it can be. If one is given
    up, so are the others: a caller goes back first, and a callee once no user reaches
    the caller's new version, which may need the callee's. Once one has let its old
    version go, none goes back.
    """

    services: Mapping[str, Strategy]

    def __post_init__(self) -> None:
        if not self.services:
            raise ValueError("name at least one service, and its strategy")

    def next(
        self, states: Mapping[str, State], verdicts: Mapping[str, Verdict]
    ) -> tuple[str, Step]:
        """Which service makes a step, and which; an End only once all can end."""
        # Once one has let its old version go, all go on.
        too_late = any(
            gone(strategy, states[name])
            or (
                strategy.keeps_stable
                and states[name].share == 1
                and STABLE in states[name].drained
            )
            for name, strategy in self.services.items()
        )
        steps = {
            name: strategy.next(
                states[name], Verdict.SUCCESSFUL if too_late else verdicts[name]
            )
            for name, strategy in self.services.items()
        }
        given_up = [
            name
            for name in self.services
            if states[name].aborting or isinstance(steps[name], Abort)
        ]
        if given_up:
            order = list(reversed(self.services))
            for name in order:
                if gone(self.services[name], states[name]):
                    continue  # it has nothing to go back to
                if not states[name].aborting:
                    if isinstance(steps[name], Abort):
                        return name, steps[name]
                    whole = self.services[name].keeps_stable
                    return name, Abort(f"{given_up[0]} was given up", at_once=whole)
                if states[name].share > 0 and not isinstance(steps[name], End):
                    return name, steps[name]  # its callees wait until it is back
        else:
            # What can still be taken back comes before what cannot, and of that what
            # no user notices comes first. Then callees come before callers; then all
            # wait, and the one whose clock is behind goes on.
            def turn(name: str) -> tuple[bool, bool, float]:
                step, state = steps[name], states[name]
                final = _is_final(self.services[name], step, state)
                unseen = isinstance(step, Deploy | Preview)
                waits = isinstance(step, Bake)
                return final, not unseen, state.now_s if waits else -inf

            order = sorted(self.services, key=turn)
        for name in order:
            if not isinstance(steps[name], End):
                return name, steps[name]
        return order[0], steps[order[0]]


def gone(strategy: Strategy, state: State) -> bool:
    """Whether there is no old version any more to go back to."""
    return state.promoted or (strategy.keeps_stable and STABLE not in state.ready)


def _is_final(strategy: Strategy, step: Step, state: State) -> bool:
    """Whether the strategy cannot take the candidate back after this step."""
    if isinstance(step, Drain | Retire) and strategy.keeps_stable:
        return step.role == STABLE and state.share == 1
    return isinstance(step, Promote | End)


def _unproved(
    verdict: Verdict, on_doubt: str = "abort", at_once: bool = True
) -> Abort | None:
    """The abort of a version that came through without having been judged."""
    if verdict is Verdict.ERROR:
        return Abort("there is no data to judge by", at_once)
    if verdict is Verdict.INCONCLUSIVE and on_doubt == "abort":
        return Abort("the gates came to no conclusion", at_once)
    return None


def _refuse_looking_again(gates: Sequence[Gate]) -> None:
    """A test of one sample is asked once; these gates are asked at every look."""
    if any(isinstance(gate.judge, FixedSample) for gate in gates):
        raise ValueError(
            "FixedSample may be asked once, and these gates are asked again and again: "
            "it would blame healthy versions. Take a SplitEProcess, which allows that, "
            "or let AB ask once, when there are enough users."
        )


def _refuse_requests(gates: Sequence[Gate]) -> None:
    """A sticky split draws users, so a judge of single draws must count users."""
    for gate in gates:
        if isinstance(gate.judge, SplitEProcess) and gate.unit == "request":
            raise ValueError(
                "a sticky split draws users, and a split e-process counts requests as "
                "if each had been drawn for itself: it would blame healthy versions. "
                'Give the gate unit="user", take Threshold gates, or a split that is '
                "not sticky."
            )


def _known_doubt(on_doubt: str) -> None:
    if on_doubt not in ("go on", "abort"):
        raise ValueError(f'on_doubt is "go on" or "abort", not {on_doubt!r}')


def _look_at(strategy: object, name: str, on: str) -> None:
    """Let the gates in a field look at these measurements."""
    for gate in getattr(strategy, name):
        if gate.metric == "differs" and isinstance(gate.judge, SplitEProcess):
            raise ValueError(
                "a split e-process asks whose the events are, and each that differs is "
                "counted as the candidate's: it would blame any version. Give differs "
                "a Threshold."
            )
    gates = tuple(replace(gate, on=on) for gate in getattr(strategy, name))
    object.__setattr__(strategy, name, gates)
