"""The report: for people as text, for programs as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING

from deploylab.lint.compute import Chances, World
from deploylab.lint.findings import RULES, SEVERITIES, Gate

if TYPE_CHECKING:
    from deploylab.lint.run import Report

#: Of the JSON; grows when a field changes its meaning or goes.
FORMAT = 1


def as_text(report: Report) -> str:
    """For people: each rollout with its figures, then the findings, by line."""
    lines: list[str] = []
    for gate in report.gates:
        lines += [*_gate(gate), ""]
    for finding in report.findings:
        lines += [
            f"{finding.path}:{finding.line}: {finding.severity} {finding.rule} "
            f"{finding.name}",
            f"    {_sentence(finding.what)}",
            f"    Why: {_sentence(finding.why)}",
            f"    Do: {_sentence(finding.do)} (page: {finding.page})",
        ]
    for fault in report.unreadable:
        lines.append(
            f"{fault.path}:{fault.line}: cannot be read: {fault.why}. {fault.do}"
        )
    lines += [f"note: {note}" for note in report.notes]
    if not report.documents and not report.unreadable:
        lines.append(
            "nothing to lint: no Rollout, AnalysisTemplate, Canary, MetricTemplate or "
            "Strategy in what was given"
        )
    lines += [_assumed(report.world), _total(report)]
    return "\n".join(map(_clean, lines))


def _clean(line: str) -> str:
    """Without what a file could use to write over the terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in line)


def _gate(gate: Gate) -> list[str]:
    name = f" {gate.name}" if gate.name else ""
    lines = [f"{gate.path}:{gate.line}: {gate.kind}{name} ({gate.engine})"]
    if gate.healthy and gate.bad:
        healthy, bad = gate.healthy, gate.bad
        good, ill = gate.healthy_at_random, gate.bad_at_random
        lines.append(_row("a healthy release is aborted", healthy, "aborted", good))
        if healthy.waits or bad.waits:
            row = _row("a healthy one waits for a person", healthy, "waits", good)
            lines.append(row)
            lines.append(_row("a bad one waits for a person", bad, "waits", ill))
        lines.append(_row("a bad release gets through", bad, "promoted", ill))
        lines.append(_row("requests that a bad one answers", bad, "exposed"))
        lines.append(_row("a good one takes", healthy, "seconds"))
        how = (
            f"simulated, {healthy.samples:,} rollouts each, ± one standard error"
            if healthy.samples
            else "exact"
        )
        looks = f"{gate.looks} look{'s' * (gate.looks != 1)}"
        lines.append(f"  {how}; {looks} if all is well; requests until it is taken "
                     "back or promoted")  # fmt: skip
    lines += [f"  not computed: {why}" for why in gate.not_computed]
    lines += [f"  note: {remark}" for remark in gate.remarks]
    return lines


def differs(steady: float, varied: float) -> bool:
    """Whether it matters to a chance that requests come at random."""
    return abs(varied - steady) > max(0.005, 0.1 * steady)


def _row(what: str, of: Chances, key: str, varied: Chances | None = None) -> str:
    value, error = getattr(of, key), of.errors.get(key)
    if key == "seconds":
        shown = f"{value:,.0f} s" if isfinite(value) else "never promoted"
        spread = f" ± {error:,.1f} s" if error and isfinite(error) else ""
    elif key == "exposed":
        shown, spread = f"{value:,.0f}", f" ± {error:,.2g}" if error else ""
    else:
        shown, spread = _chance(value), f" ± {error:.2g}" if error else ""
        at_random = getattr(varied, key) if varied else value
        if differs(value, at_random):
            spread += f" ({_chance(at_random)} if requests come at random)"
    return f"  {what:<34}{shown}{spread}"


def _chance(value: float) -> str:
    """A chance with four digits; the ends are not told from what rounds to them."""
    return "below 1e-9" if 0 < value < 1e-9 else f"{value:.4g}"


def _assumed(world: World) -> str:
    return (
        f"assumed: {world.requests_per_s:g} requests/s at a steady rate (--rps), "
        f"{world.healthy:g} errors a request in a healthy version (--healthy), "
        f"{world.bad:g} in a bad one (--bad), scraped every {world.scrape_s:g} s "
        f"(--scrape), a person answers after {world.person_s:g} s (--person)"
    )


def _total(report: Report) -> str:
    counts = [
        (sum(f.severity == severity for f in report.findings), severity)
        for severity in reversed(SEVERITIES)
    ]
    said = ", ".join(f"{n} {severity}{'s' * (n != 1)}" for n, severity in counts if n)
    blind = sum(gate.healthy is None for gate in report.gates)
    if blind:
        blind_of = f"; of {blind} of {len(report.gates)} gates nothing is computed"
        return (said or "no findings") + blind_of
    return said or "no findings"


def catalogue(rules: Iterable[str] = ()) -> str:
    """The rules, or those that are named, each with what it means and a way out."""
    return "\n".join(
        f"{name} {RULES[name].name} ({RULES[name].severity})\n"
        f"    {RULES[name].what}\n    Do: {RULES[name].do}"
        for name in rules or RULES
    )


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else text + "."


def as_json(report: Report) -> str:
    """For programs; its fields are on the page lint-your-gates; null is none."""
    return json.dumps(
        {
            "format": FORMAT,
            "assumed": asdict(report.world),
            "gates": [_gate_fields(gate) for gate in report.gates],
            "findings": [
                {
                    "rule": finding.rule,
                    "name": finding.name,
                    "severity": finding.severity,
                    "path": finding.path,
                    "line": finding.line,
                    "what": finding.what,
                    "why": finding.why,
                    "do": finding.do,
                    "page": finding.page,
                }
                for finding in report.findings
            ],
            "unreadable": [
                {"path": f.path, "line": f.line, "why": f.why, "do": f.do}
                for f in report.unreadable
            ],
            "notes": report.notes,
        },
        indent=1,
    )


def _gate_fields(gate: Gate) -> dict[str, object]:
    return {
        "path": gate.path,
        "line": gate.line,
        "kind": gate.kind,
        "name": gate.name,
        "engine": gate.engine,
        "healthy": _chances_fields(gate.healthy),
        "bad": _chances_fields(gate.bad),
        "healthy_at_random": _chances_fields(gate.healthy_at_random),
        "bad_at_random": _chances_fields(gate.bad_at_random),
        "not_computed": gate.not_computed,
        "remarks": gate.remarks,
    }


def _chances_fields(of: Chances | None) -> dict[str, object] | None:
    if of is None:
        return None
    return {
        "aborted": of.aborted,
        "waits": of.waits,
        "promoted": of.promoted,
        "exposed": of.exposed,
        "seconds": of.seconds if isfinite(of.seconds) else None,
        "samples": of.samples,
        "standard_errors": {k: e for k, e in of.errors.items() if isfinite(e)},
    }
