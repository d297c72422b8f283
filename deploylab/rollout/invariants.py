"""What must hold of every rollout, read from its log and measurements afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import inf, nan

from deploylab.rollout.engine import Report, counts
from deploylab.rollout.model import CANDIDATE, STABLE, Event, Measurement

#: The log keeps microseconds; nothing is said of what lies nearer together.
GRAIN_S = 1e-6


def broken(report: Report) -> list[str]:
    """One sentence for each invariant that a rollout broke; empty if none.

    It knows nothing of strategies or environments, so that a simulated rollout and a
    live one are held to the same:

    - I1: each share of traffic is from 0 to 1.
    - I2: no role has traffic before it is deployed or after it is retired.
    - I4: after an abort the candidate has no traffic, and only tidying follows.
    - I5: instances are ready before traffic comes, and traffic leaves before they go:
      deploy, then shift; shift or abort, then drain, then retire.

    I3, I6 and I7 are of instances, users and shadows, which this log does not know;
    that the same seed gives the same log (I8), that a replay does (I9), and that judges
    are pure (I10) takes more than one report to see. And of every log: its times do not
    go back; shares only rise, until an abort; a gate that fails is followed by the
    abort; it has one end, the last line, and what led there stands before it; and no
    role has more events than requests.
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


def _shares(report: Report) -> Iterator[str]:
    said = [_share(event) for event in report.log if event.what == "shift"]
    for share in [*said, *(one.share for one in report.measurements)]:
        if not 0 <= share <= 1:
            yield f"I1: a share of {share:g} is not from 0 to 1"


def _traffic(report: Report) -> Iterator[str]:
    since = _first_s(report, "deploy", CANDIDATE)
    for one in report.measurements:
        if one.share > 0 and one.from_s < since - GRAIN_S:
            yield f"I2: candidate had traffic at {one.from_s:g} s, before its deploy"
        for role, share in ((CANDIDATE, one.share), (STABLE, 1 - one.share)):
            if share > 0 and _after(one, _first_s(report, "retire", role)):
                yield f"I2: {role} had traffic at {one.from_s:g} s, after its retire"


def _abort(report: Report) -> Iterator[str]:
    place = _place(report, "abort")
    for event in report.log[place + 1 :]:
        if event.what not in ("failed", "drain", "retire", "end"):
            yield f"I4: a {event.what} at {event.at_s:g} s, after the abort"
    at_s = report.log[place].at_s if place < len(report.log) else inf
    for one in report.measurements:
        if one.share > 0 and _after(one, at_s):
            yield f"I4: candidate had traffic at {one.from_s:g} s, after the abort"


def _order(report: Report) -> Iterator[str]:
    share, ready, drained = 0.0, {STABLE}, set()
    for event in report.log:
        role, when = event.details.get("role", ""), f"at {event.at_s:g} s"
        if event.what in ("shift", "abort"):
            share = _share(event) if event.what == "shift" else 0.0
            for to, part in ((CANDIDATE, share), (STABLE, 1 - share)):
                if part > 0 and to not in ready:
                    yield f"I5: {event.what} {when}, while {to} was not ready"
        elif event.what in ("drain", "retire"):
            if (share if role == CANDIDATE else 1 - share) > 0:
                yield f"I5: {event.what} of {role} {when}, while it had traffic"
            if event.what == "retire" and role not in drained:
                yield f"I5: retire of {role} {when}, before it was drained"
            (drained.add if event.what == "drain" else ready.discard)(role)
        elif event.what == "deploy":
            ready.add(role)


def _times(report: Report) -> Iterator[str]:
    for a, b in pairwise(report.log):
        if b.at_s < a.at_s:
            yield f"The log goes back, from {a.at_s:g} s to {b.at_s:g} s"


def _rise(report: Report) -> Iterator[str]:
    for a, b in pairwise(_share(e) for e in report.log if e.what == "shift"):
        if b < a:
            yield f"The share fell from {100 * a:g} % to {100 * b:g} % by a shift"


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
    if end.get("outcome") not in ("promoted", "aborted"):
        yield f"The outcome is {end.get('outcome')}, not promoted or aborted"
    elif (end["outcome"], end.get("reason")) != (report.outcome, report.reason):
        yield "The report has another outcome or reason than its log"
    elif end["outcome"] == "promoted":
        everything = any(_share(e) == 1 for e in report.log if e.what == "shift")
        if not everything:
            yield "It was promoted without a shift to 100 %"
        if not _place(report, "retire", STABLE) < _place(report, "promote") < ends[0]:
            yield "It was promoted without a promote after the retire of stable"
    elif _place(report, "abort") > ends[0] or not report.reason:
        yield "It was aborted without an abort, or without a reason"


def _counted(report: Report) -> Iterator[str]:
    for one in report.measurements:
        for role in (STABLE, CANDIDATE):
            these = counts(one, role)
            for metric, events in these.events.items():
                if not 0 <= events <= these.requests:
                    yield f"{role} had {events} {metric} in {these.requests} requests"


_CHECKS = (_shares, _traffic, _abort, _order, _times, _rise, _failed, _end, _counted)


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


def _first_s(report: Report, what: str, role: str) -> float:
    place = _place(report, what, role)
    return report.log[place].at_s if place < len(report.log) else inf


def _after(one: Measurement, at_s: float) -> bool:
    """Whether all of a measurement lies after a moment, and some time passed in it."""
    return one.from_s >= at_s - GRAIN_S and one.to_s > at_s + GRAIN_S
