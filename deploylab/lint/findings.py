"""What the linter says: rules, findings, and what it computed of each rollout."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deploylab.lint.compute import Chances
from deploylab.lint.fields import FIELDS
from deploylab.lint.query import seconds
from deploylab.lint.read import Document, List, Map

#: Unknown fields of one document that are named.
MAX_UNKNOWN = 30

ERROR, WARNING, INFO = "error", "warning", "info"
#: From the mildest.
SEVERITIES = (INFO, WARNING, ERROR)


class Rule(NamedTuple):
    """A rule. name: for people; severity: unless a finding has its own; page: of the
    book, by its label."""

    name: str
    severity: str
    page: str


#: Identifiers are never used again for something else.
RULES = {
    # The file
    "DL001": Rule("unknown-field", ERROR, "judging-a-canary"),
    "DL002": Rule("key-written-twice", ERROR, "judging-a-canary"),
    "DL003": Rule("value-refused", ERROR, "judging-a-canary"),
    "DL004": Rule("template-not-here", WARNING, "judging-a-canary"),
    "DL005": Rule("argument-without-value", ERROR, "judging-a-canary"),
    "DL006": Rule("two-rollouts-of-one-target", ERROR, "which-strategy"),
    # The gate
    "DL101": Rule("no-gate", WARNING, "canary"),
    "DL102": Rule("aborts-healthy-releases", WARNING, "judging-a-canary"),
    "DL103": Rule("lets-bad-releases-through", WARNING, "judging-a-canary"),
    "DL104": Rule("limit-out-of-reach", ERROR, "judging-a-canary"),
    "DL105": Rule("ends-before-it-looks", ERROR, "judging-a-canary"),
    "DL106": Rule("analysis-never-ends", ERROR, "judging-a-canary"),
    "DL107": Rule("last-steps-unwatched", WARNING, "canary"),
    "DL108": Rule("first-steps-unwatched", INFO, "canary"),
    "DL109": Rule("cannot-fail", ERROR, "judging-a-canary"),
    "DL110": Rule("fails-always", ERROR, "judging-a-canary"),
    "DL111": Rule("dry-run", WARNING, "judging-a-canary"),
    "DL112": Rule("waits-for-a-person", WARNING, "judging-a-canary"),
    "DL114": Rule("late-metric", INFO, "judging-a-canary"),
    "DL115": Rule("too-many-metrics", WARNING, "judging-a-canary"),
    "DL116": Rule("no-rollback-while-waiting", WARNING, "canary"),
    "DL117": Rule("interval-below-the-floor", WARNING, "canary"),
    "DL118": Rule("never-advances", ERROR, "canary"),
    "DL119": Rule("overshoots-its-largest-weight", INFO, "canary"),
    # What it measures
    "DL201": Rule("reads-both-versions", WARNING, "judging-a-canary"),
    "DL202": Rule("reads-the-wrong-version", ERROR, "judging-a-canary"),
    "DL203": Rule("no-request-to-judge-by", WARNING, "judging-a-canary"),
    "DL204": Rule("one-error-fails-a-look", WARNING, "judging-a-canary"),
    "DL205": Rule("no-data-counts-as-good", WARNING, "judging-a-canary"),
    "DL206": Rule("windows-overlap", WARNING, "judging-a-canary"),
    "DL207": Rule("before-against-after", WARNING, "blue-green"),
    "DL208": Rule("two-samples", INFO, "judging-a-canary"),
    "DL209": Rule("window-longer-than-the-rollout", WARNING, "judging-a-canary"),
    "DL210": Rule("no-errors-is-no-value", WARNING, "judging-a-canary"),
    # Traffic and instances
    "DL301": Rule("weight-rounded", WARNING, "canary"),
    "DL302": Rule("weight-zero-unset", WARNING, "canary"),
    "DL303": Rule("old-side-gone-too-soon", WARNING, "blue-green"),
    "DL304": Rule("errors-at-the-last-step", WARNING, "blue-green"),
    "DL305": Rule("way-back-too-small", WARNING, "canary"),
    "DL306": Rule("aborted-version-stays", WARNING, "canary"),
    "DL307": Rule("retired-router", WARNING, "which-strategy"),
    "DL308": Rule("sticky-users-drift", WARNING, "canary"),
    "DL309": Rule("mirror-writes-twice", WARNING, "shadow-ab-bandits"),
    "DL310": Rule("no-room-for-one-more", WARNING, "rolling"),
    "DL311": Rule("traffic-before-warm", WARNING, "rolling"),
}


@dataclass(frozen=True)
class Finding:
    """One finding. what: happened; why: it matters; do: the way out."""

    rule: str
    path: str
    line: int
    what: str
    why: str
    do: str
    severity: str

    @property
    def name(self) -> str:
        """The rule's name."""
        return RULES[self.rule].name

    @property
    def page(self) -> str:
        """The label of the page of the book."""
        return RULES[self.rule].page


@dataclass
class Gate:
    """What one rollout does, as far as it is computed.

    engine: whose semantics. healthy, bad: what becomes of a good and of a bad version;
    None where not computed. not_computed: what the numbers leave out, and why; if they
    are None, the reasons. remarks: what was assumed or read into the file. looks: how
    many, or how many stages; focus: the line that findings on the figures point at.
    """

    path: str
    line: int
    kind: str
    name: str
    engine: str
    healthy: Chances | None = None
    bad: Chances | None = None
    looks: int = 0
    focus: int = 0
    not_computed: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Notebook:
    """Takes down findings on one document, and reads its values with their types."""

    def __init__(self, document: Document, findings: list[Finding]) -> None:
        self.document, self.findings = document, findings
        self._seen = set(findings) if len(findings) < 1000 else set()
        self._unknown_fields = 0

    def find(
        self, rule: str, line: int, what: str, why: str, do: str, severity: str = ""
    ) -> None:
        """Take one down; the same thing on the same line only once."""
        finding = Finding(
            rule,
            self.document.path,
            line,
            what,
            why,
            do,
            severity or RULES[rule].severity,
        )
        if finding not in self._seen:
            self._seen.add(finding)
            self.findings.append(finding)

    def refuse(self, line: int, what: str, do: str) -> None:
        """Take down a value that the engine refuses."""
        why = "The API server or the controller refuses it, and nothing is rolled out."
        self.find("DL003", line, what, why, do)

    def map(self, node: Map, key: str) -> Map | None:
        """A mapping below a key; a finding if it is something else."""
        value = node.get(key)
        if value is None or isinstance(value, Map):
            return value
        self.refuse(
            node.lines[key], f"{key} is not a mapping", "Indent its fields below."
        )
        return None

    def maps(self, node: Map | None, key: str) -> list[Map]:
        """The mappings of a list below a key."""
        value = node.get(key) if node is not None else None
        if node is None or value is None:
            return []
        if not isinstance(value, List):
            do = "Write one entry a line, each with a hyphen."
            self.refuse(node.lines[key], f"{key} is not a list", do)
            return []
        for entry, line in zip(value, value.lines, strict=True):
            if not isinstance(entry, Map):
                self.refuse(
                    line, f"an entry of {key} is not a mapping", "Give its fields."
                )
        return [entry for entry in value if isinstance(entry, Map)]

    def whole(
        self, node: Map, key: str, silent: int | None, least: int = 0, most: int = 10**6
    ) -> int | None:
        """A whole number, also as text; ``silent`` where the file is, or it is none."""
        value = node.get(key)
        if value is None:
            return silent
        if isinstance(value, str) and value.strip().isascii() and len(value) < 10:
            try:
                value = int(value)
            except ValueError:
                if "{{" in value or "@" in value:
                    return silent
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self.refuse(
                node.lines[key],
                f"{key} is {_shown(value)}, not a whole number",
                f"Write {silent if silent is not None else least}, or another number.",
            )
            return silent
        if not least <= value <= most:
            self.refuse(
                node.lines[key],
                f"{key} is {_shown(value)}",
                f"It lies from {least} to {most:,}.",
            )
            return silent
        return value

    def number(self, node: Map, key: str) -> float | None:
        """A finite number, None where there is none."""
        value = node.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse(
                node.lines[key], f"{key} is {_shown(value)}, not a number", "Write one."
            )
            return None
        if not -1e12 < value < 1e12:
            self.refuse(node.lines[key], f"{key} is {_shown(value)}", "Write less.")
            return None
        return float(value)

    def text(self, node: Map, key: str) -> str:
        """A text, "" where there is none."""
        value = node.get(key)
        if value is None or isinstance(value, str):
            return value or ""
        self.refuse(node.lines[key], f"{key} is {_shown(value)}, not text", "Quote it.")
        return ""

    def duration(self, node: Map, key: str) -> float | None:
        """Seconds of a duration like "5m", None where there is none."""
        value = node.get(key)
        if value is None or value == "":
            return None
        lasts_s = seconds(value)
        if lasts_s is None:
            self.refuse(
                node.lines[key],
                f"{key} is {_shown(value)}, which is no duration",
                'Write a number and a unit, as in "30s", "5m" or "1h30m".',
            )
        return lasts_s

    def check_fields(self) -> None:
        """Findings on fields that the kind does not have, and on keys written twice."""
        root = self.document.root
        known = FIELDS[self.document.kind]
        top = dict.fromkeys(("apiVersion", "kind", "spec", "status"))
        self._fields(root, top | {"metadata": ..., "spec": known, "status": ...}, "")

    def _fields(self, node: Any, known: Any, where: str) -> None:
        if isinstance(node, List):
            for entry in node:
                self._fields(entry, known, where)
        if not isinstance(node, Map):
            return
        for key, line in node.twice:
            self.find(
                "DL002",
                line,
                f"{where}{key} is written twice",
                "Readers take one of the two, and not all the same one.",
                "Keep one.",
            )
        if known is ...:
            return
        for key, value in node.items():
            if known is None or key not in known:
                self._unknown(key, node.lines[key], where, known or {})
            elif known[key] is not None:
                self._fields(value, known[key], f"{where}{key}.")

    def _unknown(self, key: str, line: int, where: str, known: dict[str, Any]) -> None:
        self._unknown_fields += 1
        if self._unknown_fields > MAX_UNKNOWN:
            return
        near = difflib.get_close_matches(key[:60], list(known), 1, 0.6)
        do = f"Did you mean {near[0]}?" if near else "Take it out, or look it up."
        self.find(
            "DL001",
            line,
            f"{where}{key[:60]} is no field of {self.document.kind}",
            "It is dropped without a word, or refused; either way it does nothing.",
            do,
        )


def _shown(value: object) -> str:
    if isinstance(value, Map):
        return "a mapping"
    if isinstance(value, List):
        return "a list"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**12:
        return "a very large number"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
