"""Flagger: a Canary and its metric templates as a loop of checks.

Semantics and defaults after the source of fluxcd/flagger, 15bd6ad5 and the commits
named: `pkg/controller/scheduler.go` (0016895: advanceCanary, runCanary, runBlueGreen),
`pkg/controller/scheduler_metrics.go` (limits), `pkg/apis/flagger/v1beta1/canary.go`
(013949a: interval 60 s and at least 10 s, threshold 1 if it is 0 or silent, metric
interval 1m) and `pkg/metrics/observers` (built-in queries).

The first tick sets the first weight and checks nothing; each later one checks, and goes
on if the check passed. A failed check is never forgotten, and the tick after the last
one that may fail rolls back: a bad version stays for (threshold + 1) intervals, one
more than the documentation says. No values are a failed check.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable
from fractions import Fraction

from deploylab.lint.argo import (
    _time,
    canary_ingress,
    few_errors,
    makes_no_sense,
    nearest,
    no_value,
    reads,
)
from deploylab.lint.compute import Loop, Metric, NotComputed, Stage
from deploylab.lint.findings import WARNING, Finding, Gate, Notebook, Subject
from deploylab.lint.query import (
    BOTH,
    CANDIDATE,
    STABLE,
    CanaryIngress,
    Names,
    NotRecognised,
    Ratio,
    limit,
    recognise,
)
from deploylab.lint.read import Document, List, Map

INTERVAL_S, FLOOR_S, METRIC_INTERVAL_S = 60.0, 10.0, 60.0
#: Providers whose built-in queries choose the new version alone.
BY_VERSION = ("", "istio", "linkerd", "appmesh", "appmesh:v1beta2", "contour", "gloo",
    "traefik", "osm", "kuma", "apisix", "knative", "skipper", "gatewayapi:v1",
    "gatewayapi:v1beta1", "kubernetes", "smi:v1alpha2", "smi:v1alpha3")  # fmt: skip


#: What the CustomResourceDefinition lists (artifacts/flagger/crd.yaml, 023004d), and
#: what older ones did.
PROVIDERS = (*BY_VERSION, "nginx", "smi:v1alpha1", "gatewayapi:v1alpha2")
HOOKS = ("", "confirm-rollout", "pre-rollout", "rollout", "confirm-promotion",
    "post-rollout", "event", "rollback", "confirm-traffic-increase")  # fmt: skip
TARGETS = ("DaemonSet", "Deployment", "Service")


class Templates:
    """The metric templates of all files, by namespace and name."""

    def __init__(self, documents: Iterable[Document], findings: list[Finding]) -> None:
        self.found: dict[tuple[str, str], list[Notebook]] = {}
        for document in documents:
            if document.kind == "MetricTemplate":
                book = Notebook(document, findings)
                key = document.namespace, document.name
                self.found.setdefault(key, []).append(book)

    def get(self, namespace: str, name: str, path: str) -> Notebook | None:
        """A template; where one side has no namespace, the name alone must do.

        path: of the file that refers to it. Raises Several.
        """
        same = self.found.get((namespace, name)) or self.found.get(("", name)) or []
        if not same and not namespace:
            same = [
                book for (_, n), books in self.found.items() if n == name
                for book in books
            ]  # fmt: skip
        return nearest(same, path, name) if same else None


class Canary(Subject[Templates]):
    """One Canary."""

    engine = "Flagger"

    def read(self) -> tuple[Gate, Loop | None]:
        """The gate, and the loop if there is something to compute."""
        self.window_s: set[float] = set()
        try:
            return self.gate, self._loop()
        except NotComputed as why:
            self.gate.not_computed.append(str(why))
            return self.gate, None

    def _loop(self) -> Loop | None:
        book, find = self.book, self.book.find
        if book.map(self.spec, "targetRef") is None:
            book.refuse(self.spec.line, "targetRef is missing", "Name the Deployment.")
        target = book.map(self.spec, "targetRef")
        if target is not None:
            self._one_of(target, "kind", TARGETS)
        if difflib.get_close_matches(book.text(self.spec, "provider")[:60], PROVIDERS):
            self._one_of(self.spec, "provider", PROVIDERS)  # else it may be a newer one
        for alert in book.maps(book.map(self.spec, "analysis"), "alerts"):
            self._one_of(alert, "severity", ("", "info", "warn", "error"))
        provider = book.text(self.spec, "provider")
        if provider == "nginx":
            find(
                "DL307",
                self.spec.lines["provider"],
                "traffic routing by ingress-nginx",
                "The project was retired in March 2026; a reload also lets old workers "
                "serve old weights while connections last.",
                "Move to the Gateway API.",
            )
        analysis = book.map(self.spec, "analysis")
        if analysis is None:
            book.refuse(
                self.spec.line,
                "analysis is missing",
                "Give it; the definition of the kind asks for it even with "
                "skipAnalysis.",
            )
            return None
        if self.spec.get("skipAnalysis") is True:
            self._no_gate(self.spec.line_of("skipAnalysis"), "skipAnalysis is true")
            return None
        self.gate.focus = self.spec.lines["analysis"]
        interval_s = self._interval(analysis)
        threshold = book.whole(analysis, "threshold", 0, -(10**6)) or 0
        threshold = threshold if threshold > 0 else 1
        self._hooks(analysis)
        metrics = self._metrics(analysis, provider)
        stages = self._stages(analysis, provider)
        self.gate.remarks.append(
            f"failed checks are counted over the whole rollout; number {threshold} "
            "rolls back one interval later"
        )
        if not metrics:
            return None
        if len(self.window_s) > 1:
            raise NotComputed("its metrics look back over different times")
        if len({metric.reads for metric in metrics}) > 1:
            raise NotComputed("its metrics read different versions")
        loop = Loop(
            tuple(stages), interval_s, threshold, self.window_s.pop(), tuple(metrics)
        )
        self.gate.looks = len(stages)
        if any(book.refused for book in self.books):
            return None
        self._judge(loop, analysis)
        return loop

    def _interval(self, analysis: Map) -> float:
        interval_s = self._duration(analysis, "interval")
        if interval_s is None:
            return INTERVAL_S
        if interval_s < FLOOR_S:
            self.book.find(
                "DL117",
                analysis.lines["interval"],
                f"an interval of {_time(interval_s)} is raised to 10 s",
                "Flagger checks no more often.",
                "Write 10s or more.",
            )
        return max(FLOOR_S, interval_s)

    def _hooks(self, analysis: Map) -> None:
        for hook in self.book.maps(analysis, "webhooks"):
            self._hook(hook)
            if hook.get("type") == "confirm-traffic-increase":
                self.book.find(
                    "DL116",
                    hook.lines["type"],
                    "the rollout waits at a confirm-traffic-increase webhook",
                    "While it waits, checks that fail beyond the threshold do not roll "
                    "it back (flagger issue 1801).",
                    "Add a rollback webhook, or do without this one.",
                )
        affinity = self.book.map(analysis, "sessionAffinity")
        if affinity is not None and "primaryCookieName" not in affinity:
            self.book.find(
                "DL308",
                analysis.lines["sessionAffinity"],
                "users of the new version stay on it, and those of the old do not",
                "Each request of a user of the old version is another draw: the share "
                "of users drifts towards the new version, far above the weight.",
                "Set primaryCookieName as well.",
            )
        if analysis.get("mirror") is True:
            self.book.find(
                "DL309",
                analysis.lines["mirror"],
                "requests are mirrored",
                "Whatever a request writes is written twice, and caches are warmed "
                "twice.",
                "Mirror only what reads, or give the copy a store of its own.",
            )

    def _hook(self, hook: Map) -> None:
        """What a webhook adds, which no file can tell (scheduler_hooks.go)."""
        name = f"webhook {str(hook.get('name') or '')[:40]} (line {hook.line})"
        kind = hook.get("type") or "rollout"
        missing = [key for key in ("name", "url") if not hook.get(key)]
        if missing:
            self.book.refuse(
                hook.line, f"a webhook without {' and '.join(missing)}", "Give both."
            )
        self._one_of(hook, "type", HOOKS)
        if kind == "rollout":
            why = "where it fails, the check has failed; and it may send requests"
            self.gate.not_computed.append(f"{name}: {why}")
        elif kind == "rollback":
            self.gate.not_computed.append(f"{name}: it rolls back when it says so")
        elif str(kind).startswith("confirm-"):
            self.gate.remarks.append(f"{name} may wait for somebody; taken as no wait")

    def _one_of(self, node: Map, key: str, known: tuple[str, ...]) -> None:
        """Refuse a value that the definition of the kind does not list."""
        value = node.get(key)
        if value is None or value in known:
            return
        near = difflib.get_close_matches(str(value)[:60], known, 1)
        self.book.refuse(
            node.lines[key],
            f"{key} is {str(value)[:40]!r}",
            f"Did you mean {near[0]}?"
            if near
            else f"It is one of {', '.join(filter(None, known))}.",
        )

    def _duration(self, node: Map, key: str) -> float | None:
        """A duration, in the form that the definition of the kind asks for."""
        value = node.get(key)
        if isinstance(value, str) and value and not re.match(r"[0-9]+(m|s)", value):
            self.book.refuse(
                node.lines[key],
                f"{key} is {value[:40]!r}",
                'Flagger takes minutes and seconds alone, as in "90s" or "60m".',
            )
            return None
        return self.book.duration(node, key)

    # Stages

    def _stages(self, analysis: Map, provider: str) -> list[Stage]:
        """What must be passed, one check each."""
        book = self.book
        iterations = book.whole(analysis, "iterations", 0, 0, 10_000) or 0
        if provider == "kubernetes" and iterations < 1:
            iterations = 10
            self.gate.remarks.append("provider kubernetes: 10 iterations are assumed")
        mirror = analysis.get("mirror") is True
        mirrored = (book.whole(analysis, "mirrorWeight", 100, 0, 100) or 100) / 100
        if analysis.get("match"):
            raise NotComputed(
                "what share of requests the match rules choose is not in the file"
            )
        if iterations:
            if not mirror:
                raise NotComputed(
                    "before the switch users send nothing to the new version; what the "
                    "webhooks send is not in the file"
                )
            return [Stage(0.0, mirrored)] * iterations + [Stage(1.0)]
        weights = self._weights(analysis)
        first = [Stage(0.0, mirrored)] if mirror else []
        return first + [Stage(weight / 100) for weight in weights]

    def _weights(self, analysis: Map) -> list[int]:
        book = self.book
        step = book.whole(analysis, "stepWeight", 0, 0, 100) or 0
        most = book.whole(analysis, "maxWeight", 100, 0, 100) or 100
        given = analysis.get("stepWeights")
        if isinstance(given, List) and given:
            weights = [w for w in given if isinstance(w, int) and 0 < w <= 100]
            rises = all(a < b for a, b in itertools.pairwise(weights))
            if len(weights) != len(given) or not rises:
                self._stuck(
                    analysis.lines["stepWeights"],
                    "stepWeights do not rise from above 0 to at most 100",
                )
            if not step:
                return weights
            most = weights[-1]
        if not step:
            self._stuck(
                self.gate.focus, "no stepWeight, no stepWeights and no iterations"
            )
        weights = []
        while not weights or weights[-1] < most:
            weights.append(min(100, (weights[-1] if weights else 0) + step))
        if weights[-1] > most:
            book.find(
                "DL119",
                analysis.line_of("maxWeight"),
                f"steps of {step} reach {weights[-1]}, above maxWeight {most}",
                "The last step is added before the limit is looked at.",
                "Let maxWeight be a multiple of stepWeight.",
            )
        return weights

    def _stuck(self, line: int, what: str) -> None:
        self.book.find(
            "DL118",
            line,
            what,
            "The weight never changes, and the rollout waits for ever.",
            "Give stepWeight and maxWeight, or stepWeights, or iterations.",
        )
        raise NotComputed("it never advances")

    # Metrics

    def _metrics(self, analysis: Map, provider: str) -> list[Metric]:
        book = self.book
        nodes = book.maps(analysis, "metrics")
        hooks = book.maps(analysis, "webhooks")
        judging = [
            h for h in hooks if h.get("type") in (None, "", "rollout", "rollback")
        ]
        if not nodes and not judging:
            self._no_gate(analysis.line_of("metrics"), "no metric and no webhook")
            return []
        if not nodes:
            raise NotComputed(
                "its webhooks judge, and what they say is not in the file"
            )
        if len(nodes) > 12:
            book.find(
                "DL115",
                analysis.lines["metrics"],
                f"{len(nodes)} metrics in one analysis",
                "Each adds its own false alarms; the Site Reliability Workbook "
                "advises a dozen at the most.",
                "Keep those that users feel.",
            )
        metrics: list[Metric] = []
        for node in nodes:
            name = book.text(node, "name") or f"metric of line {node.line}"
            window_s = self._duration(node, "interval") or METRIC_INTERVAL_S
            try:
                ratio, source, line = self._ratio(node, name, window_s, provider)
            except NotRecognised as why:
                self.gate.not_computed.append(f"{name}: {why}")
                if isinstance(why, CanaryIngress):
                    canary_ingress(book, node.line, name, why)
                continue
            no_value(source, line, name, ratio, "No values are a failed check")
            made = self._limited(node, name, ratio)
            for metric in made:
                reads(source, line, metric)
                makes_no_sense(book, node.line_of("thresholdRange"), metric)
            if ratio.reads == STABLE:
                self.gate.not_computed.append(f"{name}: it reads the old version")
                continue
            if made:
                self.window_s.add(ratio.window_s or self.world.scrape_s)
            metrics += made
        return metrics

    def _ratio(
        self, node: Map, name: str, window_s: float, provider: str
    ) -> tuple[Ratio, Notebook, int]:
        """What a metric measures, and where that is written. Raises NotRecognised."""
        reference = self.book.map(node, "templateRef")
        if reference is None and "query" not in node:
            if name == "request-duration":
                raise NotRecognised("it measures latency, which is not modelled")
            if name != "request-success-rate":
                line = node.line_of("name")
                self.book.find(
                    "DL109",
                    line,
                    f"{name} is not built in, and has neither templateRef nor query",
                    "Flagger passes over it without a word.",
                    "The built-in ones are request-success-rate and request-duration.",
                )
                raise NotRecognised("it is none that Flagger knows")
            if provider not in BY_VERSION:
                raise NotRecognised(
                    f"what the built-in query reads with {provider} is not known here"
                )
            return Ratio("successes", CANDIDATE, window_s, 100), self.book, node.line
        target = str(self.spec.at("targetRef", "name") or "")
        service = str(self.spec.at("service", "name") or target)
        ingress = str(self.spec.at("ingressRef", "name") or target)
        names = Names(
            candidate=frozenset({target, f"{service}-canary"}) - {""},
            ingress=frozenset({ingress}),
            stable=frozenset({f"{target}-primary", f"{service}-primary"}),
            both=frozenset({service}) - {target},
            arguments={
                "name": self.document.name, "target": target, "service": service,
                "namespace": self.document.namespace or "default",
                "ingress": ingress,
                "route": str(self.spec.at("routeRef", "name") or target),
                "interval": f"{window_s:g}s",
                **self._variables(node),
            },
        )  # fmt: skip
        if reference is None:
            query_line = node.lines["query"]
            return recognise(node["query"], names), self.book, query_line
        namespace = self.book.text(reference, "namespace") or self.document.namespace
        wanted = self.book.text(reference, "name")
        found = self.templates.get(namespace, wanted, self.document.path)
        if not found:
            self.book.find(
                "DL004",
                reference.line_of("name"),
                f"MetricTemplate {wanted} is in none of the files",
                "Nothing can be said of a gate that is not seen.",
                "Give its file as well, and mind the namespace.",
            )
            raise NotRecognised("its template is in none of the files")
        if found not in self.books:
            self.books.append(found)
            same = sum(
                len(b) for (_, n), b in self.templates.found.items() if n == wanted
            )
            if same > 1:
                self.gate.remarks.append(
                    f"of {same} templates called {wanted} that in "
                    f"{found.document.path} is taken"
                )
        kind = found.document.spec.at("provider", "type")
        if kind != "prometheus":
            raise NotRecognised(f"measured by {str(kind)[:40]}")
        line = found.document.spec.line_of("query")
        return recognise(found.document.spec.get("query"), names), found, line

    def _variables(self, node: Map) -> dict[str, str]:
        given = node.get("templateVariables")
        if not isinstance(given, Map):
            return {}
        return {f"variables.{key}": str(value)[:500] for key, value in given.items()}

    def _limited(self, node: Map, name: str, ratio: Ratio) -> list[Metric]:
        """A metric for each limit (runBuiltinMetricChecks, runMetricChecks)."""
        given = self.book.map(node, "thresholdRange")
        bounds: list[tuple[str, float]] = []
        if given is not None:
            for key, sign in (("min", ">="), ("max", "<=")):
                value = self.book.number(given, key)
                if value is not None:
                    bounds.append((sign, value))
        else:
            value = self.book.number(node, "threshold") or 0.0
            builtin = name == "request-success-rate" and "templateRef" not in node
            bounds.append((">=" if builtin else "<=", value))
        if not bounds:
            self.book.find(
                "DL109",
                node.line_of("thresholdRange"),
                f"{name} has a thresholdRange without min and max",
                "Whatever it measures, it passes.",
                "Give min for a success rate, max for an error rate.",
            )
        if ratio.of == "successes" and bounds and all(s == "<=" for s, _ in bounds):
            self.book.find(
                "DL109",
                node.line_of("thresholdRange"),
                f"{name} limits a success rate from above",
                "The worse a version is, the better it passes.",
                "Give min.",
            )
        return [
            Metric(
                name,
                ratio.reads,
                limit(ratio, sign, Fraction(str(value))),
                least=ratio.least,
            )
            for sign, value in bounds
        ]

    # Sense

    def _judge(self, loop: Loop, analysis: Map) -> None:
        """Findings on what its checks have to go by."""
        book, rate = self.book, self.world.requests_per_s
        line = analysis.line_of("metrics")
        name = loop.metrics[0].name
        if loop.metrics[0].reads != BOTH:
            thin, empty = [], 0
            for stage in loop.stages:
                requests = sum(loop.requests(rate, stage, loop.window_s))
                if requests < loop.metrics[0].least:
                    empty += 1
                    continue
                failing = loop.failing(requests)
                thin.append((requests, failing[0][0] - 1 if failing else requests))
            few_errors(book, line, loop.metrics[0], thin, rate)
            if empty:
                book.find(
                    "DL203",
                    line,
                    f"{empty} of {len(loop.stages)} stages bring no request into the "
                    f"window of {name} at {rate:g} requests/s",
                    "No values are a failed check (flagger issue 1633).",
                    "Begin with a larger weight, or look over a longer time.",
                )
        if loop.window_s > loop.interval_s + 1e-9:
            book.find(
                "DL206",
                line,
                f"{name} is checked every {_time(loop.interval_s)} and reads back over "
                f"{_time(loop.window_s)}",
                "One burst counts several times against the threshold, and the first "
                "check of a weight still sees the one before.",
                "Let the metric's interval be that of the analysis.",
                WARNING,
            )

    def _no_gate(self, line: int, what: str) -> None:
        self.book.find(
            "DL101",
            line,
            f"nothing is judged: {what}",
            "A canary without evaluation is a slow release: every bad version that "
            "starts gets through.",
            "Add an analysis with request-success-rate.",
        )
        self.gate.not_computed.append("no gate: a bad version always gets through")
