"""What must hold of every rollout, read from its log and measurements afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import inf, nan

import pandas as pd

from deploylab.rollout.engine import Report, counts
from deploylab.rollout.model import (
    CANDIDATE,
    STABLE,
    USERS,
    Event,
    Measurement,
    Promote,
)

#: The log keeps microseconds; nothing is said of what lies nearer together.
GRAIN_S = 1e-6


def broken(report: Report) -> list[str]:
    """One sentence for each invariant that a rollout broke; empty if none.

    It knows nothing of strategies or environments, so that a simulated rollout and a
    live one are held to the same:

    - I1: each share of traffic is from 0 to 1.
    - I2: no role has traffic before it is deployed or after it is retired; a retirement
      that is an outage, and says so, leaves requests that are lost, every one, until
      the role is deployed again, or an abort that found nobody alive has started one.
    - I3: with limits in its first line, as a rolling update has, there are never fewer
      ready instances than ``instances - max_unavailable`` nor more than ``instances +
      max_surge``, but for those that have died.
    - I4: after an abort the candidate has no traffic, and only tidying follows; after
      one that is not at once, its share never rises.
    - I5: instances are ready before traffic comes, and traffic leaves before they go:
      deploy, then shift; shift or abort, then drain, then retire. Where some stay,
      their part of the traffic is no larger than their part of the instances.
    - I7: what the candidate answers to copies and previews, no user gets: it has no
      request of theirs while its share is 0.

    I6 is of single users, see `moved`; that the same seed gives the same log (I8), that
    a replay does (I9), and that judges are pure (I10), is for `engine.replay` to find
    out. And of every log: its times do not go back; shares only rise, until an abort or
    for a reason that is given; a gate that fails is followed by the abort; it has one
    end, the last line, and what led there stands before it; and no role has more events
    than requests.
    """
    report = replace(report, log=[_attempt(event) for event in report.log])
    found = (next(check(report), "") for check in _CHECKS)
    return [sentence for sentence in found if sentence]


def _attempt(event: Event) -> Event:
    """A drain or a retirement that failed was tried, and the order is kept."""
    step = event.details.get("step")
    if event.what == "failed" and step in ("drain", "retire"):
        return replace(event, what=step)
    return event


def moved(answers: pd.DataFrame) -> list[int]:
    """Users who were taken from the candidate though its share did not shrink (I6).

    answers: of one rollout with a sticky split, in the columns of `load.Answer`. Such a
    user was on the candidate at one share, and with stable at the same or a larger one.
    """
    known = answers[answers["share"].notna()]
    least = known[known["role"] == CANDIDATE].groupby("user")["share"].min()
    most = known[known["role"] == STABLE].groupby("user")["share"].max()
    both = least.index.intersection(most.index)
    return sorted(both[(most[both] >= least[both]).to_numpy()].tolist())


def _shares(report: Report) -> Iterator[str]:
    said = [_share(event) for event in report.log if event.what == "shift"]
    said += [e.details.get("share", nan) for e in report.log if e.what == "mirror"]
    for share in [*said, *(one.share for one in report.measurements)]:
        if not 0 <= share <= 1:
            yield f"I1: a share of {share:g} is not from 0 to 1"


def _traffic(report: Report) -> Iterator[str]:
    for role in (STABLE, CANDIDATE):
        for from_s, to_s, cut in _absences(report, role):
            before = [m.to_s for m in report.measurements if m.to_s <= to_s + GRAIN_S]
            last_s = max(before, default=inf)
            for one in report.measurements:
                share = one.share if role == CANDIDATE else 1 - one.share
                inside = from_s - GRAIN_S <= one.from_s < to_s - GRAIN_S
                if one.of != USERS or share <= 0 or one.to_s <= one.from_s:
                    continue
                if not inside:
                    continue
                these = counts(one, role)
                if cut and these.events.get("lost", 0) == these.requests:
                    continue
                if cut and one.to_s >= last_s:
                    continue  # somebody was there before its end
                yield (
                    f"I2: {role} had traffic at {one.from_s:g} s, "
                    + ("after its retire" if from_s > -inf else "before its deploy")
                )


def _absences(report: Report, role: str) -> list[tuple[float, float, bool]]:
    """When a role has no instance: from, to, and whether it is an outage."""
    gone: tuple[float, bool] | None = (-inf, False) if role == CANDIDATE else None
    found = []
    for event in report.log:
        if event.what == "abort" and gone is not None and gone[1]:
            # Where nobody lives, an abort starts an instance.
            if event.details.get("there", {}).get(role):
                found.append((gone[0], _looked(report, event), gone[1]))
                gone = None
            continue
        if event.details.get("role") != role or event.details.get("step"):
            continue
        if event.what == "deploy" and gone is not None:
            found.append((gone[0], _looked(report, event), gone[1]))
            gone = None
        elif event.what == "retire" and not event.details.get("instances"):
            gone = (_looked(report, event), bool(event.details.get("cut")))
    if gone is not None:
        # A deploy may be under way when the log ends, but then nobody is there.
        found.append((gone[0], inf, gone[1]))
    return found


def _limits(report: Report) -> Iterator[str]:
    terms = next((e.details for e in report.log if e.what == "begin"), {})
    if "max_surge" not in terms:
        return
    whole = terms["instances"]
    least, most = whole - terms["max_unavailable"], whole + terms["max_surge"]
    there = {STABLE: whole, CANDIDATE: 0}
    for event in report.log:
        if event.what == "promote":
            return
        if "there" in event.details:  # some may have died, and are not missed twice
            there |= event.details["there"]
            least = min(least, sum(there.values()))
        if event.what not in ("deploy", "retire") or event.details.get("step"):
            continue
        default = whole if event.what == "deploy" else 0
        there[event.details["role"]] = event.details.get("instances", default)
        total = sum(there.values())
        if not least <= total <= most:
            yield (
                f"I3: {total} instances after the {event.what} at {event.at_s:g} s, "
                f"and {least} to {most} are allowed"
            )


def _abort(report: Report) -> Iterator[str]:
    place = _place(report, "abort")
    if place == len(report.log):
        return
    abort = report.log[place]
    at_once = abort.details.get("at_once", True)
    allowed = {"failed", "drain", "retire", "end"}
    allowed |= set() if at_once else {"deploy", "shift", "abort"}
    share = 0.0 if at_once else _share(abort)
    for event in report.log[place + 1 :]:
        if event.what not in allowed:
            yield f"I4: a {event.what} at {event.at_s:g} s, after the abort"
        if event.what == "shift" and not at_once:
            if _share(event) > share:
                yield f"I4: the share rose at {event.at_s:g} s, after the abort"
            share = _share(event)
    abort_s = _looked(report, abort)
    for one in report.measurements:
        if at_once and one.share > 0 and one.of == USERS and _after(one, abort_s):
            yield f"I4: candidate had traffic at {one.from_s:g} s, after the abort"


def _order(report: Report) -> Iterator[str]:
    share, there, drained = 0.0, {STABLE: inf, CANDIDATE: 0.0}, set()
    for event in report.log:
        role, when = event.details.get("role", ""), f"at {event.at_s:g} s"
        if event.what == "begin" and "instances" in event.details:
            there[STABLE] = event.details["instances"]
        if event.what in ("shift", "abort"):
            if event.what == "shift":
                share = _share(event)
            elif event.details.get("at_once", True):
                share = 0.0
            else:
                share = _share(event)  # wherever it was, or whoever was left
                continue
            for to, part in ((CANDIDATE, share), (STABLE, 1 - share)):
                if part > 0 and not there[to]:
                    yield f"I5: {event.what} {when}, while {to} was not ready"
        elif event.what in ("drain", "retire"):
            part = share if role == CANDIDATE else 1 - share
            left = event.details.get("instances", 0)
            if event.what == "retire" and left:
                other = there[CANDIDATE if role == STABLE else STABLE]
                there[role] = left
                if part > left / (left + other) + 1e-6:
                    yield (
                        f"I5: retire of {role} {when}, to {left} of {left + other:g} "
                        f"instances with {part:.1%} of the traffic"
                    )
                continue
            if event.details.get("cut"):
                there[role] = 0
                continue
            if part > 0:
                yield f"I5: {event.what} of {role} {when}, while it had traffic"
            if event.what == "retire" and role not in drained:
                yield f"I5: retire of {role} {when}, before it was drained"
            if event.what == "drain":
                drained.add(role)
            else:
                there[role] = 0
        elif event.what == "deploy":
            there[role] = event.details.get("instances", inf)


def _shadow(report: Report) -> Iterator[str]:
    for one in report.measurements:
        for role, share in ((CANDIDATE, one.share), (STABLE, 1 - one.share)):
            if one.of == USERS and share == 0 and counts(one, role).requests:
                yield f"I7: {role} had users' requests at {one.from_s:g} s, at share 0"


def _times(report: Report) -> Iterator[str]:
    for a, b in pairwise(report.log):
        if b.at_s < a.at_s:
            yield f"The log goes back, from {a.at_s:g} s to {b.at_s:g} s"


def _rise(report: Report) -> Iterator[str]:
    plan = report.log[: _place(report, "abort")]
    for a, b in pairwise(e for e in plan if e.what == "shift"):
        if _share(b) < _share(a) and not b.details.get("why"):
            said = f"from {100 * _share(a):g} % to {100 * _share(b):g} %"
            yield f"The share fell {said} by a shift"


def _failed(report: Report) -> Iterator[str]:
    for place, event in enumerate(report.log):
        if event.what == "verdict" and event.details.get("verdict") == "failed":
            rest = (e.what for e in report.log[place:] if e.what != "verdict")
            if (what := next(rest, "nothing")) != "abort":
                yield f"A gate failed at {event.at_s:g} s, and {what} followed"


def _end(report: Report) -> Iterator[str]:
    ends = [place for place, e in enumerate(report.log) if e.what == "end"]
    if ends != [len(report.log) - 1]:
        yield "The log does not have one end, as its last line"
        return
    end = report.log[-1].details
    if end.get("outcome") not in ("promoted", "aborted", "passed"):
        yield f"The outcome is {end.get('outcome')}, not promoted, aborted or passed"
    elif (end["outcome"], end.get("reason")) != (report.outcome, report.reason):
        yield "The report has another outcome or reason than its log"
    elif end["outcome"] == "promoted":
        everything = any(_share(e) == 1 for e in report.log if e.what == "shift")
        if not everything:
            yield "It was promoted without a shift to 100 %"
        if not _place(report, "retire", STABLE) < _place(report, "promote") < ends[0]:
            yield "It was promoted without a promote after the retire of stable"
        left = [one.instances for one in report.done if isinstance(one.step, Promote)]
        if left and not left[-1].get(STABLE, 1):
            yield "It was promoted, and none of its instances was left"
    elif end["outcome"] == "passed":
        mirrors = [e.details["share"] for e in report.log if e.what == "mirror"]
        if (
            any(e.what == "shift" for e in report.log)
            or not any(mirrors)
            or mirrors[-1]
        ):
            yield "It passed with a shift, or without a mirror that was ended"
    elif _place(report, "abort") > ends[0] or not report.reason:
        yield "It was aborted without an abort, or without a reason"


def _counted(report: Report) -> Iterator[str]:
    for one in report.measurements:
        for role in (STABLE, CANDIDATE):
            these = counts(one, role)
            for metric, events in these.events.items():
                if not 0 <= events <= these.requests:
                    yield f"{role} had {events} {metric} in {these.requests} requests"


_CHECKS = (
    _shares,
    _traffic,
    _limits,
    _abort,
    _order,
    _shadow,
    _times,
    _rise,
    _failed,
    _end,
    _counted,
)


def _share(shift: Event) -> float:
    """The candidate's share, from "5 %"; NaN, which is no share, if none is said."""
    try:
        return float(str(shift.details["candidate"]).removesuffix("%")) / 100
    except (KeyError, ValueError):
        return nan


def _place(report: Report, what: str, role: str | None = None) -> int:
    """Where the first such event stands in the log; its length if none does."""
    fits = (
        e.what == what and role in (None, e.details.get("role")) for e in report.log
    )
    return next((place for place, fit in enumerate(fits) if fit), len(report.log))


def _looked(report: Report, event: Event) -> float:
    """When the step of a line was over: at its last look, a moment before the line.

    There one measurement ends and the next begins.
    """
    last_s = event.at_s + GRAIN_S
    ends = [m.to_s for m in report.measurements if m.of == USERS and m.to_s <= last_s]
    return max(ends, default=event.at_s)


def _after(one: Measurement, at_s: float) -> bool:
    """Whether all of a measurement lies after a moment, and some time passed in it."""
    return one.from_s >= at_s - GRAIN_S and one.to_s > at_s + GRAIN_S
