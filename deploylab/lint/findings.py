"""What the linter says: rules, findings, and what it computed of each rollout."""

from __future__ import annotations

import contextlib
import difflib
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from deploylab.lint.compute import Chances, World
from deploylab.lint.fields import FIELDS
from deploylab.lint.query import seconds
from deploylab.lint.read import Document, List, Map

#: Unknown fields of one document that are named.
MAX_UNKNOWN = 30

ERROR, WARNING, INFO = "error", "warning", "info"
#: From the mildest.
SEVERITIES = (INFO, WARNING, ERROR)


class Rule(NamedTuple):
    """A rule. name: for people; severity: unless a finding has its own; what: is wrong
    where it is found; do: the way out; section: of the book, as page#anchor, "" for the
    rule's own entry in the catalogue."""

    name: str
    severity: str
    what: str
    do: str
    section: str = ""


#: Identifiers are never used again for something else. DL113 held until the source
#: showed that a scale-down delay does not cut an analysis short.
RULES = {
    # The file
    "DL001": Rule(
        "unknown-field",
        ERROR,
        "A field that the kind does not have: it is dropped without a word, or "
        "refused.",
        "Mend the spelling, or take it out.",
    ),
    "DL002": Rule(
        "key-written-twice",
        ERROR,
        "The same key twice in one mapping: readers take one of them, and not all the "
        "same one.",
        "Keep one.",
    ),
    "DL003": Rule(
        "value-refused",
        ERROR,
        "A value that the API server or the controller refuses, so that nothing is "
        "rolled out.",
        "The finding says which value would do.",
    ),
    "DL004": Rule(
        "template-not-here",
        WARNING,
        "A template is named that is in none of the files; nothing can be said of a "
        "gate that is not seen.",
        "Give its file as well, and mind namespace and scope.",
    ),
    "DL005": Rule(
        "argument-without-value",
        ERROR,
        "A template needs an argument that nobody gives: the analysis is an error, and "
        "the rollout aborts.",
        "Give it below args, or a value in the template.",
    ),
    "DL006": Rule(
        "two-rollouts-of-one-target",
        ERROR,
        "Two controllers set the weights and pods of one workload in turn.",
        "Keep one; where two folders are two environments, lint them apart.",
        "canary#when-to-use-a-canary",
    ),
    # The gate
    "DL101": Rule(
        "no-gate",
        WARNING,
        "Nothing is judged: a slow release, and every bad version that starts gets "
        "through.",
        "Add an analysis that reads the new version.",
        "canary#under-watch",
    ),
    "DL102": Rule(
        "aborts-healthy-releases",
        WARNING,
        "A healthy release is stopped more often than once in twenty; an error from "
        "once in five on.",
        "Let a look more fail, look over a longer time, or widen the limit.",
        "judging-a-canary#small-numbers",
    ),
    "DL103": Rule(
        "lets-bad-releases-through",
        WARNING,
        "A bad release gets through more often than once in five; an error from every "
        "other one on.",
        "Lower the limit, or give it more requests to judge by.",
        "judging-a-canary#what-a-canary-can-see",
    ),
    "DL104": Rule(
        "limit-out-of-reach",
        ERROR,
        "As many looks may fail as there are, so the metric never fails: it takes more "
        "than failureLimit.",
        "Let failureLimit be smaller than count.",
        "judging-a-canary#small-numbers",
    ),
    "DL105": Rule(
        "ends-before-it-looks",
        ERROR,
        "The first look would come when the rollout is over, or startingStep lies "
        "behind the last step; what has not looked is successful.",
        "Shorten initialDelay, or pause longer; count startingStep from 0.",
    ),
    "DL106": Rule(
        "analysis-never-ends",
        ERROR,
        "An interval and no count, in an analysis that is waited for.",
        "Give count, or let it run in the background.",
    ),
    "DL107": Rule(
        "last-steps-unwatched",
        WARNING,
        "A background analysis ends at its count, or without an interval after one "
        "look, and the rollout goes on.",
        "Give interval and no count: it then looks until the last step is done.",
    ),
    "DL108": Rule(
        "first-steps-unwatched",
        INFO,
        "The analysis starts at a later step; what breaks at once is found late.",
        "Leave startingStep out, or accept it for the first step alone.",
    ),
    "DL109": Rule(
        "cannot-fail",
        ERROR,
        "No version, however bad, fails this metric: no condition, a limit on the "
        "wrong side, or a share compared with percent.",
        "Give a limit that the query can cross, in the query's own scale.",
    ),
    "DL110": Rule(
        "fails-always",
        ERROR,
        "The metric fails without a single error: the limit lies outside of what the "
        "query can give.",
        "Mind the scale (a share from 0 to 1, or percent) and the direction.",
    ),
    "DL111": Rule(
        "dry-run",
        WARNING,
        "The metric is measured, and never stops a rollout; a rule of dryRun holds for "
        "every metric whose name contains what it matches.",
        "Take it off dryRun when it has proved itself.",
    ),
    "DL112": Rule(
        "waits-for-a-person",
        WARNING,
        "A result between the two conditions is inconclusive, and the rollout waits "
        "for somebody whom the file does not tell.",
        "Let the conditions meet, or set inconclusiveLimit.",
    ),
    "DL114": Rule(
        "late-metric",
        INFO,
        "One metric begins later than the others: before Argo Rollouts 1.1 it was "
        "never looked at.",
        "Run 1.1 or newer, or give all the same initialDelay.",
    ),
    "DL115": Rule(
        "too-many-metrics",
        WARNING,
        "More than a dozen metrics: each adds its own false alarms.",
        "Keep those that users feel.",
        "judging-a-canary#looking-again",
    ),
    "DL116": Rule(
        "no-rollback-while-waiting",
        WARNING,
        "At a confirm-traffic-increase webhook Flagger does not roll back, however "
        "many checks fail.",
        "Add a rollback webhook, or do without this one.",
    ),
    "DL117": Rule(
        "interval-below-the-floor",
        WARNING,
        "Flagger raises an interval below 10 s to 10 s.",
        "Write 10s or more.",
    ),
    "DL118": Rule(
        "never-advances",
        ERROR,
        "No steps that rise and no iterations: the weight stays where it is.",
        "Give stepWeight and maxWeight, or stepWeights, or iterations.",
    ),
    "DL119": Rule(
        "overshoots-its-largest-weight",
        INFO,
        "The last step is added before maxWeight is looked at.",
        "Let maxWeight be a multiple of stepWeight.",
    ),
    # What it measures
    "DL201": Rule(
        "reads-both-versions",
        WARNING,
        "The query counts both versions together; an error if even the bad version "
        "would not trip it.",
        "Read the new version alone: by its Service, or by its pod hash (Latest).",
        "judging-a-canary#reads-both-versions",
    ),
    "DL202": Rule(
        "reads-the-wrong-version",
        ERROR,
        "The query counts the old version, and the new one may fail every request.",
        "Choose the new version: its Service, or its pod hash (Latest).",
        "judging-a-canary#reads-both-versions",
    ),
    "DL203": Rule(
        "no-request-to-judge-by",
        WARNING,
        "A look finds too few requests: that is a failure or an error, and says "
        "nothing of the version.",
        "Set initialDelay to the length of the window, look over longer, or send more.",
        "rolling#nothing-to-say",
    ),
    "DL204": Rule(
        "one-error-fails-a-look",
        WARNING,
        "A window holds so few requests that one error fails it.",
        "Look over a longer time or at a larger share; the finding says from how many "
        "requests on one error passes.",
        "judging-a-canary#small-numbers",
    ),
    "DL205": Rule(
        "no-data-counts-as-good",
        WARNING,
        "Without a single request the metric is successful: a version that nobody "
        "reaches passes.",
        "Drop the fallback, or demand a number of requests in a metric of its own.",
        "rolling#nothing-to-say",
    ),
    "DL206": Rule(
        "windows-overlap",
        WARNING,
        "Looks come more often than their window is long: one burst counts several "
        "times, and looks that agree prove less than they seem to.",
        "Let the window be the interval.",
        "judging-a-canary#looking-again",
    ),
    "DL207": Rule(
        "before-against-after",
        WARNING,
        "The first look after a switch reads requests from before it.",
        "Set initialDelay to the length of the window.",
        "blue-green#before-and-after",
    ),
    "DL208": Rule(
        "two-samples",
        INFO,
        "irate looks at the last two samples alone, whatever stands in the brackets.",
        "Use rate over the time between two looks.",
    ),
    "DL209": Rule(
        "window-longer-than-the-rollout",
        WARNING,
        "The query reads back over a longer time than the rollout lasts, so it judges "
        "by fewer requests than it seems to.",
        "Shorten the window, or pause longer.",
    ),
    "DL210": Rule(
        "no-errors-is-no-value",
        WARNING,
        "A share of errors that has no value before the version's first error: a "
        "version without errors is taken back for want of a number.",
        "Write (sum(...) or vector(0)) for the errors, above the division.",
    ),
    "DL211": Rule(
        "canary-ingress-is-not-counted",
        WARNING,
        "A query on the canary Ingress, or its Service: ingress-nginx counts both "
        "versions under the main ones, so it finds nothing.",
        'Choose the main Ingress, and the new version by canary!="".',
    ),
    # Traffic and instances
    "DL301": Rule(
        "weight-rounded",
        WARNING,
        "Without a router a weight is rounded to whole pods.",
        "Add trafficRouting or replicas, or ask for what they can give.",
        "canary#a-share-of-instances",
    ),
    "DL302": Rule(
        "weight-zero-unset",
        WARNING,
        "A weight of 0 that the router takes for one that is not set.",
        "Begin with a weight of 1 or more, and check what the router does.",
        "canary#a-weight-of-zero",
    ),
    "DL303": Rule(
        "old-side-gone-too-soon",
        WARNING,
        "The old side goes before nodes and load balancers have heard of the switch.",
        "Write 30 or more, and at least as long as you watch.",
        "blue-green#a-way-back-kept",
    ),
    "DL304": Rule(
        "errors-at-the-last-step",
        WARNING,
        "Behind an AWS load balancer the stable Service changes its pods while traffic "
        "is there already.",
        "Use pingPong, and turn target verification on.",
    ),
    "DL305": Rule(
        "way-back-too-small",
        WARNING,
        "The stable version shrinks as the weight grows, and an abort meets few pods.",
        "Leave dynamicStableScale out, or keep the last weight before 100 small.",
        "which-strategy#capacity-first",
    ),
    "DL306": Rule(
        "aborted-version-stays",
        WARNING,
        "abortScaleDownDelaySeconds: 0 means never, not at once.",
        "Write the seconds that you want; silent means 30.",
    ),
    "DL307": Rule(
        "retired-router",
        WARNING,
        "Traffic is routed by ingress-nginx, which was retired in March 2026.",
        "Move to the Gateway API.",
    ),
    "DL308": Rule(
        "sticky-users-drift",
        WARNING,
        "Users of the new version stay, those of the old are drawn again: the share "
        "drifts far above the weight.",
        "Set primaryCookieName as well.",
        "canary#cookie-drift",
    ),
    "DL309": Rule(
        "mirror-writes-twice",
        WARNING,
        "Requests are mirrored: what they write is written twice, what they warm is "
        "warmed twice.",
        "Mirror only what reads, or give the copy a store of its own.",
        "shadow-ab-bandits#what-a-shadow-cannot-see",
    ),
    "DL310": Rule(
        "no-room-for-one-more",
        WARNING,
        "One replica on an accelerator: the new pod needs a second one before the old "
        "goes, and both may wait for ever.",
        "Keep one accelerator free, or accept an outage.",
        "rolling#no-room-for-a-second",
    ),
    "DL311": Rule(
        "traffic-before-warm",
        WARNING,
        "Without a readinessProbe a pod gets traffic before its model is loaded.",
        "Add one that says no until the model has answered once.",
        "rolling#ready-means-ready",
    ),
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
        """Where the book says more: a page of the strategies, and an anchor on it."""
        return RULES[self.rule].section or f"lint-your-gates#{self.rule.lower()}"


@dataclass
class Gate:
    """What one rollout does, as far as it is computed.

    engine: whose semantics. healthy, bad: what becomes of a good and of a bad version;
    None where not computed; the same with requests that come at random, None where that
    is not computed. not_computed: what the numbers leave out, and why; if they
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
    healthy_at_random: Chances | None = None
    bad_at_random: Chances | None = None
    looks: int = 0
    focus: int = 0
    not_computed: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Notebook:
    """Takes down findings on one document, and reads its values with their types.

    refused: what the engine refuses of it, so that no figure of it would be true.
    """

    def __init__(self, document: Document, findings: list[Finding]) -> None:
        self.document, self.findings = document, findings
        self.refused: list[str] = []
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
        self.refused.append(f"line {line} is refused ({what})")

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
            with contextlib.suppress(ValueError):
                value = int(value)
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
                'Write a number and a unit, as in "30s" or "5m"; a day is "24h".',
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


Templates = TypeVar("Templates")


class Subject(Generic[Templates]):
    """A document that is judged: its gate, and a notebook for the findings on the way.

    templates: those of all files that it may refer to. books: those of the document
    and of the templates that it does refer to.
    """

    #: Whose semantics.
    engine: ClassVar[str]

    def __init__(
        self,
        document: Document,
        templates: Templates,
        world: World,
        findings: list[Finding],
    ) -> None:
        self.document, self.templates, self.world = document, templates, world
        self.book = Notebook(document, findings)
        self.books = [self.book]
        self.spec = document.spec
        self.gate = Gate(
            document.path, document.line, document.kind, document.name, self.engine
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
