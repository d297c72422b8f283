"""Strategies: pure functions from (state, verdict) to the next step.

A strategy does no I/O and keeps no memory, so the same object can be predicted,
simulated, run against real servers, and exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from deploylab.rollout.judges import SplitEProcess
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    Abort,
    Bake,
    Deploy,
    Drain,
    End,
    Gate,
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

    gates: tuple[Gate, ...]

    def next(self, state: State, verdict: Verdict) -> Step:
        """The next step. Pure."""
        ...


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
class Canary:
    """Traffic moves in stages, each watched for a while before the next.

    shares: the candidate's share in each stage, rising, below 1; after the last one
    it gets everything. bake_s: how long each stage is watched at least. gates: what
    is watched; any that fails ends the rollout at once, and without data at the end of
    a stage it ends as well. on_doubt: what an inconclusive verdict at the end of a
    stage means, "abort" or "go on". sticky, salt: see TrafficSplit; with a sticky
    split no gate may be a split e-process.
    """

    shares: tuple[float, ...]
    bake_s: float
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
        if self.bake_s <= 0:
            raise ValueError(
                f"bake_s is the time to watch each stage, above 0 s, not {self.bake_s}"
            )
        if self.sticky and any(isinstance(g.judge, SplitEProcess) for g in self.gates):
            raise ValueError(
                "a sticky split draws users, and a split e-process counts requests as "
                "if each had been drawn for itself: it would blame healthy versions. "
                "Take Threshold gates, or a split that is not sticky."
            )
        if self.on_doubt not in ("go on", "abort"):
            raise ValueError(f'on_doubt is "go on" or "abort", not {self.on_doubt!r}')

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
        if state.now_s < state.since_s + self.bake_s:
            return Bake(state.since_s + self.bake_s)
        if verdict is Verdict.ERROR:
            return Abort("there is no data to judge by")
        if verdict is Verdict.INCONCLUSIVE and self.on_doubt == "abort":
            return Abort("the gates came to no conclusion in this stage")
        larger = [share for share in self.shares if share > state.share]
        return self._shift(larger[0] if larger else 1.0)

    def _shift(self, share: float) -> Shift:
        return Shift(TrafficSplit(share, self.sticky, self.salt))


@dataclass(frozen=True)
class BlueGreen:
    """All traffic moves at once, between two equal sides, active and idle.

    keep_s: how long the side that lost the traffic is kept, ready to take it back;
    the gates are watched for as long.
    """

    keep_s: float
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        if self.keep_s < 0:
            raise ValueError(
                "keep_s is how long the old side is kept, 0 s or more, not "
                f"{self.keep_s}"
            )

    def next(self, state: State, verdict: Verdict) -> Step:
        """The decision rule: the first line that applies."""
        if state.aborting:
            return way_back(state)
        if CANDIDATE not in state.ready:
            return Deploy(CANDIDATE)
        if state.share == 0:
            return Shift(TrafficSplit(1.0))
        if verdict is Verdict.FAILED and STABLE in state.ready:
            return Abort("a gate failed")
        if STABLE in state.drained:
            return way_out(state)
        if state.now_s < state.since_s + self.keep_s:
            return Bake(state.since_s + self.keep_s)
        if self.gates and verdict is Verdict.ERROR:
            return Abort("there is no data to judge by")
        if self.gates and verdict is Verdict.INCONCLUSIVE:
            return Abort("the gates came to no conclusion")
        return way_out(state)
