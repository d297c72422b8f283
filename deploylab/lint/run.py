"""Linting: read everything, then each rollout with the templates of all files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploylab.lint import argo, flagger, strategy
from deploylab.lint.compute import (
    Chances,
    Loop,
    Metric,
    NotComputed,
    Timeline,
    World,
    at_random,
    chances,
    loop_chances,
)
from deploylab.lint.findings import (
    ERROR,
    SEVERITIES,
    WARNING,
    Finding,
    Gate,
    Notebook,
)
from deploylab.lint.query import BOTH
from deploylab.lint.read import Document, Unreadable, read
from deploylab.lint.report import differs

#: From which chance on an aborted healthy release, a bad one let through, is a finding.
FALSE_ABORT = {ERROR: 0.20, WARNING: 0.05}
MISSED = {ERROR: 0.50, WARNING: 0.20}


@dataclass
class Report:
    """What was found. world: what the numbers rest on."""

    world: World
    gates: list[Gate] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    documents: int = 0

    def status(
        self, fail_on: str = ERROR, lenient: bool = False, unknown: bool = False
    ) -> int:
        """0; 1 with a finding at or above a severity; 2 if something was not read.

        unknown: also 1 with a gate of which nothing was computed.
        """
        if self.unreadable or (not self.documents and not lenient):
            return 2
        if unknown and any(gate.healthy is None for gate in self.gates):
            return 1
        worst = SEVERITIES.index(fail_on)
        return int(any(SEVERITIES.index(f.severity) >= worst for f in self.findings))


def lint(
    paths: Iterable[str],
    world: World | None = None,
    stdin: bytes = b"",
    lenient: bool = False,
    exclude: Sequence[str] = (),
) -> Report:
    """Read files, folders or "-", and say what is in them. Raises nothing for a file.

    lenient, exclude: see ``read``.
    """
    world = world or World()
    reading = read(paths, stdin, lenient, exclude)
    report = Report(world, notes=reading.notes, unreadable=reading.faults)
    findings = report.findings
    documents = reading.documents
    report.documents = len(documents)
    for document in documents:
        book = Notebook(document, findings)
        book.check_fields()
        if not document.name:
            book.refuse(
                document.root.line_of("metadata"),
                "metadata.name is missing",
                "Give it.",
            )
    try:
        analyses = argo.Templates(documents, findings)
    except Unreadable as cycle:
        report.unreadable.append(cycle)
        return report
    metrics = flagger.Templates(documents, findings)
    for document in documents:
        subject: argo.Rollout | flagger.Canary | strategy.Strategy
        if document.kind == "Rollout":
            subject = argo.Rollout(document, analyses, world, findings)
        elif document.kind == "Canary":
            subject = flagger.Canary(document, metrics, world, findings)
        elif document.kind == "Strategy":
            subject = strategy.Strategy(document, None, world, findings)
        else:
            continue
        made: tuple[Gate, Timeline | Loop | None] = subject.read()
        gate, plan = made
        for book in subject.books:
            where = "" if book.document.path == gate.path else f"{book.document.path}: "
            gate.not_computed += [where + reason for reason in book.refused]
            plan = None if book.refused else plan
        gate.not_computed = list(dict.fromkeys(gate.not_computed))
        gate.remarks = list(dict.fromkeys(gate.remarks))
        report.gates.append(gate)
        if plan:
            _compute(gate, plan, world, Notebook(document, findings))
    if documents and not report.gates:
        report.notes.append(
            "nothing was judged: there is no Rollout, Canary or Strategy in what was "
            "given; give the file that names these templates as well"
        )
    _one_target_each(documents, findings)
    findings.sort(key=lambda f: (f.path, f.line, f.rule))
    return report


def _compute(gate: Gate, plan: Timeline | Loop, world: World, book: Notebook) -> None:
    """Fill in the chances, and take down those that are too large."""
    try:
        gate.healthy = _chances(plan, world, world.healthy)
        gate.bad = _chances(plan, world, world.bad)
    except NotComputed as why:
        gate.healthy = gate.bad = None
        gate.not_computed.append(str(why))
        return
    if not gate.healthy.samples:
        gate.healthy_at_random = at_random(plan, world, world.healthy)
        gate.bad_at_random = at_random(plan, world, world.bad)
    line = gate.focus or gate.line
    stopped = gate.healthy.aborted + gate.healthy.waits
    varied = gate.healthy_at_random
    chance, when = _worse(stopped, varied and varied.aborted + varied.waits)
    for severity, least in FALSE_ABORT.items():
        if chance > least:
            book.find(
                "DL102",
                line,
                f"a healthy release is stopped with a chance of {chance:.3g}{when}",
                f"With {world.healthy:g} errors a request it did nothing wrong; a gate "
                "that cries wolf is soon turned off.",
                "Let a look more fail, or look over a longer time, or widen the limit.",
                severity,
            )
            break
    missed = gate.bad_at_random and gate.bad_at_random.promoted
    chance, when = _worse(gate.bad.promoted, missed)
    for severity, least in MISSED.items():
        if chance > least:
            book.find(
                "DL103",
                line,
                f"a bad release gets through with a chance of {chance:.3g}{when}",
                f"With {world.bad:g} errors a request it is promoted to all users.",
                "Tighten the limit, or give it more requests to judge by.",
                severity,
            )
            break
    _dilution(plan, world, book, line)


def _worse(steady: float, varied: float | None) -> tuple[float, str]:
    """The larger chance, and when it holds, if the arrivals decide."""
    if varied is None or not differs(steady, varied) or varied < steady:
        return steady, ""
    return varied, f" if requests come at random ({steady:.3g} at a steady rate)"


def _chances(plan: Timeline | Loop, world: World, rate: float) -> Chances:
    if isinstance(plan, Loop):
        return loop_chances(plan, world, rate)
    return chances(plan, world, rate)


def _dilution(plan: Timeline | Loop, world: World, book: Notebook, line: int) -> None:
    """A finding for each metric that reads both versions: what it takes to trip it."""
    shares: dict[str, tuple[Metric, float]] = {}
    if isinstance(plan, Loop):
        for metric in plan.metrics:
            largest = max(stage.share for stage in plan.stages)
            shares[metric.name] = metric, largest
    else:
        for look in plan.looks:
            metric = plan.metrics[look.metric]
            mine, theirs = plan.read(world.requests_per_s, look)
            share = mine / (mine + theirs) if mine + theirs else 0.0
            _, most = shares.get(metric.name, (metric, 0.0))
            shares[metric.name] = metric, max(most, share)
    for name, (metric, share) in shares.items():
        if metric.reads != BOTH or share > 0.99:
            continue
        failing = metric.failing(10**6)
        if not failing or not share:
            continue
        allowed = failing[0][0] / 10**6
        needs = (allowed - world.healthy * (1 - share)) / share
        says = (
            f"the new version trips it only if it fails {needs:.1%} of its own"
            if needs <= 1
            else "the new version cannot trip it, even if every request fails"
        )
        book.find(
            "DL201",
            line,
            f"{name} reads both versions: with at most {share:.0%} of requests, {says}",
            "The old version's good answers hide the new one's errors (argo-rollouts "
            "issue 3802).",
            "Read the new version alone: by its Service, or by its pod hash (Latest).",
            ERROR if needs > world.bad else WARNING,
        )


def _one_target_each(documents: list[Document], findings: list[Finding]) -> None:
    """Findings on two rollouts that move the same workload.

    One that is written twice is one; and where no namespace is given, another folder
    may be another environment.
    """
    seen: dict[tuple[str, ...], Document] = {}
    for document in documents:
        key = {"Rollout": "workloadRef", "Canary": "targetRef"}.get(document.kind)
        target = document.spec.get(key) if key else None
        name = document.spec.at(key, "name") if key else None
        if key is None or not target or not isinstance(name, str):
            continue
        kind = str(document.spec.at(key, "kind"))
        folder = "" if document.namespace else str(Path(document.path).parent)
        place = document.namespace, folder, kind, name
        other = seen.get(place)
        if other and (other.kind, other.name) != (document.kind, document.name):
            Notebook(document, findings).find(
                "DL006",
                document.spec.lines[key],
                f"{kind} {name} is already the target of {other.name} "
                f"({other.path}:{other.line})",
                "Two controllers set its weights and pods in turn.",
                "Keep one.",
            )
        seen[place] = document
