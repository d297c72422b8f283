"""Argo Rollouts: a Rollout and its analysis templates as a timeline.

Semantics and defaults after the source of argoproj/argo-rollouts, 9f8d111 and the
commits named: `analysis/analysis.go` (045c1cf: when a metric has failed, is taken
again, or ends; a run that is stopped is Successful), `utils/evaluate` (conditions),
`utils/replicaset/canary.go` (pods for a weight), `utils/defaults/defaults.go`,
`rollout/analysis.go` (what a run does to the rollout), and `utils/analysis/helpers.go`
(what is refused).

A metric fails at the look at which *more than* failureLimit looks have failed; one that
looks neither good nor bad more than inconclusiveLimit times makes the rollout wait for
a person; the fifth look in a row without data (consecutiveErrorLimit 4) aborts, and
looks without data do not count. A step takes no time but for pauses and analyses.

A background run ends when the new version is promoted, and that waits until all its
pods are available (`rollout/sync.go`, shouldFullPromote), which takes a while if some
have still to start after the last step. So a look that is due at the very moment when
the steps are done is taken then; if all pods run already, promotion comes first.

After a blue/green switch the old side's scaleDownDelaySeconds begin when the analysis
has succeeded (`rollout/bluegreen.go`, shouldUpdateBlueGreenStable), so they do not cut
it short, although the documentation says so.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from deploylab.lint.compute import (
    MAX_LOOKS,
    Look,
    Metric,
    NotComputed,
    Timeline,
)
from deploylab.lint.findings import INFO, Finding, Gate, Notebook, Subject
from deploylab.lint.query import (
    BOTH,
    CANDIDATE,
    LATEST_HASH,
    STABLE,
    STABLE_HASH,
    UNKNOWN,
    CanaryIngress,
    Names,
    NotRecognised,
    Ratio,
    condition,
    contains,
    fill,
    recognise,
    seconds,
)
from deploylab.lint.read import Document, List, Map, Unreadable

ERROR_RETRY_S = 10.0
ERRORS_IN_A_ROW = 4
#: Of one rollout; more are not followed.
MAX_STEPS = 200


@dataclass
class Measure:
    """A metric of an analysis, as written. node: where; ratio: what, None if why_not.

    count: of looks, None for no end. source: the notebook of its document.
    """

    node: Map
    source: Notebook
    name: str
    delay_s: float
    interval_s: float | None
    count: int | None
    errors: int
    metric: Metric | None
    ratio: Ratio | None
    why_not: str
    dry: bool = False


class Templates:
    """The analysis templates of all files, by kind, namespace and name."""

    def __init__(self, documents: Iterable[Document], findings: list[Finding]) -> None:
        self.found: dict[tuple[str, str, str], list[Notebook]] = {}
        self._sound: set[int] = set()
        for document in documents:
            if document.kind in ("AnalysisTemplate", "ClusterAnalysisTemplate"):
                book = Notebook(document, findings)
                space = (
                    "" if document.kind.startswith("Cluster") else document.namespace
                )
                key = document.kind, space, document.name
                self.found.setdefault(key, []).append(book)
        for book in itertools.chain.from_iterable(self.found.values()):
            self._refuse_cycles(book, [])

    def get(
        self, cluster: bool, namespace: str, name: str, path: str
    ) -> Notebook | None:
        """A template; one whose file has no namespace serves every namespace.

        path: of the file that refers to it. Raises Several.
        """
        kind = "ClusterAnalysisTemplate" if cluster else "AnalysisTemplate"
        for space in ("",) if cluster else (namespace, ""):
            if (kind, space, name) in self.found:
                return nearest(self.found[kind, space, name], path, name)
        if not cluster and not namespace:
            same = [
                book
                for (k, _, n), books in self.found.items()
                if (k, n) == (kind, name)
                for book in books
            ]
            return nearest(same, path, name) if same else None
        return None

    def named(self, name: str) -> int:
        """How many templates have a name, of any kind and namespace."""
        return sum(len(books) for (_, _, n), books in self.found.items() if n == name)

    def _refuse_cycles(self, book: Notebook, above: list[Notebook]) -> None:
        if id(book) in self._sound:
            return
        if len(above) > 20:
            raise _cycle(book, "templates that refer to templates, more than 20 deep")
        for reference in _references(book.document.spec):
            name, cluster = reference.get("templateName"), _cluster(reference)
            if not isinstance(name, str):
                continue
            try:
                next_book = self.get(
                    cluster, book.document.namespace, name, book.document.path
                )
            except Several:
                continue
            if next_book in (*above, book):
                line = reference.line_of("templateName")
                what = f"a cycle: the templates lead from {name} back to {name}"
                raise Unreadable(
                    book.document.path, line, what, "Take one of the references out."
                )
            if next_book:
                self._refuse_cycles(next_book, [*above, book])
        self._sound.add(id(book))


class Several(NotRecognised):
    """More than one template could be meant."""


def nearest(books: list[Notebook], path: str, name: str) -> Notebook:
    """The template in the file that refers to it, in its folder, or in one below.

    Environments often lie side by side, each with templates of the same names. Raises
    Several where no one of them is nearer than the others.
    """

    def steps(book: Notebook) -> int:
        here, there = Path(path), Path(book.document.path)
        near = (
            here == there,
            here.parent == there.parent,
            here.parent in there.parents,
        )
        return near.index(True) if True in near else len(near)

    order = sorted(books, key=steps)
    if len(order) > 1 and steps(order[0]) == steps(order[1]):
        first, second = (f"{b.document.path}:{b.document.line}" for b in order[:2])
        raise Several(
            f"{len(order)} templates are called {name} ({first}, {second}); give the "
            "files of one environment alone"
        )
    return order[0]


def _cycle(book: Notebook, what: str) -> Unreadable:
    return Unreadable(book.document.path, book.document.line, what, "Flatten them.")


def _by_service(canary: Map, routing: Map) -> bool:
    """Whether a router needs both Services (requireCanaryStableServices)."""
    istio = routing.get("istio")
    if "alb" in routing and "pingPong" not in canary:
        return True
    if "istio" in routing and not (
        isinstance(istio, Map) and "destinationRule" in istio
    ):
        return True
    return bool(
        {"smi", "apisix", "ambassador", "nginx", "appMesh", "traefik"} & set(routing)
    )


def _ingresses(routing: Map | None) -> frozenset[str]:
    """The main Ingresses of ingress-nginx."""
    several = routing.at("nginx", "stableIngresses") if routing else None
    names = several if isinstance(several, List) else []
    return _strings(routing.at("nginx", "stableIngress") if routing else None, *names)


def _references(node: Map) -> list[Map]:
    entries = node.get("templates")
    return (
        [e for e in entries if isinstance(e, Map)] if isinstance(entries, List) else []
    )


def _cluster(reference: Map) -> bool:
    return reference.get("clusterScope") is True


class Rollout(Subject[Templates]):
    """One Rollout."""

    engine = "Argo Rollouts"

    def read(self) -> tuple[Gate, Timeline | None]:
        """The gate, and the timeline if there is something to compute."""
        self.timeline = Timeline([(0.0, 0.0)], 0.0)
        self.plan: list[tuple[Measure, float, float | None]] = []
        self.pods_to_start = False
        self.complete = True
        self.counted = "replicas" in self.spec
        self.replicas = self.book.whole(self.spec, "replicas", 1) or 0
        strategy = self.book.map(self.spec, "strategy")
        both = [key for key in ("canary", "blueGreen") if strategy and key in strategy]
        if strategy is None or len(both) != 1:
            self.book.refuse(
                self.spec.line_of("strategy"),
                f"the strategy is {' and '.join(both) or 'missing'}",
                "Give one of canary and blueGreen.",
            )
            self.gate.not_computed.append("no single strategy")
            return self.gate, None
        manner = self.book.map(strategy, both[0])
        if manner is None:
            manner = Map(strategy.lines[both[0]])
        self._template()
        try:
            if both[0] == "canary":
                self._canary(manner)
            else:
                self._blue_green(manner)
            refused = any(book.refused for book in self.books)
            computed = not refused and self._schedule()
        except NotComputed as why:
            self.gate.not_computed.append(str(why))
            computed = False
        return self.gate, self.timeline if computed else None

    # Canary

    def _canary(self, canary: Map) -> None:
        find = self.book.find
        routing = self.book.map(canary, "trafficRouting")
        stable, candidate = canary.get("stableService"), canary.get("canaryService")
        if stable and stable == candidate:
            self.book.refuse(
                canary.lines["canaryService"],
                "stableService and canaryService are the same",
                "Give each version a Service of its own.",
            )
        if routing and not (stable and candidate) and _by_service(canary, routing):
            self.book.refuse(
                canary.lines["trafficRouting"],
                "trafficRouting needs canaryService and stableService",
                "Name the two Services that the router chooses between.",
            )
        self._refusals(canary, routing)
        self._routing(canary, routing)
        names = Names(
            candidate=_strings(candidate),
            stable=_strings(stable),
            both=self._own_names(),
            turns=_strings(
                canary.at("pingPong", "pingService"),
                canary.at("pingPong", "pongService"),
            ),
            ingress=_ingresses(routing),
        )
        steps = self.book.maps(canary, "steps")
        if len(steps) > MAX_STEPS:
            raise NotComputed(f"more than {MAX_STEPS} steps")
        background = self.book.map(canary, "analysis")
        watched = background is not None
        starting = 0
        if background is not None:
            starting = self.book.whole(background, "startingStep", 0) or 0
            if steps and starting > len(steps):
                find(
                    "DL105",
                    background.lines["startingStep"],
                    f"startingStep is {starting}, and there are {len(steps)} steps",
                    "The analysis never starts, and a rollout that nothing watches "
                    "is successful.",
                    "Count from 0, which is the first step, or leave it out.",
                )
                self.gate.not_computed.append(
                    "the background analysis never starts: by itself it lets every "
                    "bad version through"
                )
                background = None
        now, began = 0.0, None
        weights: list[tuple[float, int, Map]] = []
        for place, step in enumerate(steps):
            if background is not None and place == starting:
                began = now
            now = self._step(step, now, names, routing, canary, weights)
        end_s = now
        if background is not None and began is None:
            began = end_s
        self.timeline.ends_s = end_s
        if weights and not any("setCanaryScale" in step for step in steps):
            mine, _ = self._pods(weights[-1][1], routing, canary)
            self.pods_to_start = mine < self.replicas
        if background is not None:
            assert began is not None
            line = canary.lines["analysis"]
            early = [w for w in weights if w[0] < began and w[1]]
            if early:
                find(
                    "DL108",
                    background.line_of("startingStep"),
                    f"the analysis starts {_time(began)} in; until then "
                    f"{100 * early[-1][1] / self._most(routing):g} % of the requests "
                    "are not watched",
                    "What breaks at once is found late.",
                    "Leave startingStep out, or accept it for the first step alone.",
                )
            self._run(background, began, end_s, names, line, background=True)
        inline = any(isinstance(step.get("analysis"), Map) for step in steps)
        experiments = [step for step in steps if "experiment" in step]
        plugins = [step for step in steps if "plugin" in step]
        for step in (*experiments, *plugins):
            kind = "experiment" if "experiment" in step else "plugin"
            raise NotComputed(
                f"line {step.lines[kind]} has a step of kind {kind}: not modelled"
            )
        if not watched and not inline:
            self._no_gate(canary.line_of("steps"), "no step and no background analysis")
        if not weights and (background is not None or inline):
            raise NotComputed(
                "no setWeight; what setHeaderRoute sends is not in the file"
                if any("setHeaderRoute" in step for step in steps)
                else "no setWeight: without steps Argo replaces pods as a Deployment "
                "does"
            )

    def _step(
        self,
        step: Map,
        now: float,
        names: Names,
        routing: Map | None,
        canary: Map,
        weights: list[tuple[float, int, Map]],
    ) -> float:
        """Carry one step out; the time after it."""
        kinds = [key for key in step if not key.startswith("#")]
        if len(kinds) != 1:
            self.book.refuse(
                step.line,
                f"a step with {len(kinds)} actions ({', '.join(kinds)[:60]})",
                "Give each action a step of its own.",
            )
        if "setWeight" in step:
            limit = self._most(routing)
            weight = self.book.whole(step, "setWeight", 0, 0, limit) or 0
            share = self._share(weight, step, routing, canary)
            self.timeline.shares.append((now, share))
            weights.append((now, weight, step))
            if weight == 0 and routing and "ambassador" in routing:
                self.book.find(
                    "DL302",
                    step.lines["setWeight"],
                    "setWeight: 0 with Ambassador",
                    "A weight of 0 was read as not set there, and got half of the "
                    "traffic (emissary, pull request 1605).",
                    "Begin with a weight of 1 or more, and check what the router does.",
                )
        if "pause" in step:
            now += self._pause(step)
        if isinstance(step.get("setMirrorRoute"), Map):
            self._mirror(step.lines["setMirrorRoute"])
        header = step.get("setHeaderRoute")
        if isinstance(header, Map) and header.get("match"):
            self.gate.not_computed.append(
                f"what setHeaderRoute (line {step.lines['setHeaderRoute']}) sends the "
                "new version: how many requests have these headers is not in the file"
            )
        analysis = self.book.map(step, "analysis") if "analysis" in step else None
        if analysis is not None:
            now = self._run(analysis, now, None, names, step.lines["analysis"])
        return now

    def _pause(self, step: Map) -> float:
        pause = step.get("pause")
        if pause is not None and not isinstance(pause, Map):
            self.book.refuse(
                step.lines["pause"],
                f"pause is {str(pause)[:40]!r}, not a mapping",
                "Write `pause: {duration: 10m}`, or `pause: {}` to wait for a person.",
            )
            return 0.0
        duration = pause.get("duration") if isinstance(pause, Map) else None
        if duration is None:
            waits = _time(self.world.person_s)
            self.gate.remarks.append(
                f"line {step.lines['pause']} waits for a person; taken as {waits}"
            )
            return self.world.person_s
        text = str(duration)
        if re.fullmatch(r"\d{1,9}", text, re.ASCII):
            return float(text)
        lasts_s = seconds(text)
        if lasts_s is None or lasts_s < 0:
            self.book.refuse(
                pause.lines["duration"],
                f"the pause lasts {text[:40]!r}, which is no duration",
                'Write seconds as a number, or "10m", "1h"; a day is "24h".',
            )
            raise NotComputed(f"the pause on line {pause.lines['duration']} is unclear")
        return lasts_s

    def _pods(self, weight: int, routing: Map | None, canary: Map) -> tuple[int, int]:
        """(new, old) pods for a weight; with a router the old ones all stay."""
        if routing:
            mine = math.ceil(Fraction(self.replicas * weight, self._most(routing)))
            return min(mine, self.replicas), self.replicas
        surge = canary.get("maxSurge", "25%")
        surges = not (surge == 0 or re.fullmatch(r"0+%?", str(surge)))
        return pods(self.replicas, weight, surges)

    def _share(self, weight: int, step: Map, routing: Map | None, canary: Map) -> float:
        """The share that a weight comes to: as asked with a router, else by pods."""
        if routing:
            return min(1.0, weight / self._most(routing))
        if not self.counted:
            raise NotComputed(
                "without trafficRouting a share is that of pods, and replicas is not "
                "in the file"
            )
        mine, theirs = self._pods(weight, routing, canary)
        if not mine + theirs:
            return weight / 100
        share = mine / (mine + theirs)
        if abs(share - weight / 100) > 0.02:
            self.book.find(
                "DL301",
                step.lines["setWeight"],
                f"setWeight: {weight} comes to {share:.1%} with {self.replicas} "
                f"replica{'s' * (self.replicas != 1)} ({mine} of {mine + theirs} pods)",
                "Without trafficRouting the share is that of pods.",
                "Add trafficRouting, or more replicas, or ask for what they can give.",
            )
        return share

    def _most(self, routing: Map | None) -> int:
        """The weight that stands for all requests."""
        if routing is None:
            return 100
        return self.book.whole(routing, "maxTrafficWeight", 100, 1, 10**6) or 100

    def _own_names(self) -> frozenset[str]:
        """Names of the whole workload, and of a Service as one calls it after it."""
        own = _strings(self.document.name, self.spec.at("workloadRef", "name"))
        ends = ("", "-svc", "-service")
        return frozenset(name + end for name in own for end in ends)

    def _refusals(self, canary: Map, routing: Map | None) -> None:
        """What the controller refuses (pkg/apis/rollouts/validation, 009ba6b)."""
        refuse, routes = self.book.refuse, routing or Map(0)
        plugins = bool(routes.get("plugins"))
        deadline = self.book.whole(self.spec, "progressDeadlineSeconds", 600, 0, 10**9)
        ready = self.book.whole(self.spec, "minReadySeconds", 0, 0, 10**9)
        if deadline is not None and ready and deadline <= ready:
            refuse(
                self.spec.line_of("minReadySeconds"),
                f"minReadySeconds is {ready}, and progressDeadlineSeconds {deadline}",
                "Let progressDeadlineSeconds be larger.",
            )
        for key in ("scaleDownDelaySeconds", "dynamicStableScale"):
            if routing is None and canary.get(key) not in (None, False):
                refuse(
                    canary.lines[key],
                    f"{key} without trafficRouting",
                    "Leave it out, or add trafficRouting.",
                )
        shrinks = canary.get("dynamicStableScale") is True and routing is not None
        if shrinks and canary.get("scaleDownDelaySeconds") is not None:
            refuse(
                canary.lines["dynamicStableScale"],
                "dynamicStableScale and scaleDownDelaySeconds together",
                "Keep one of the two.",
            )
        nothing = ("maxSurge", "maxUnavailable")
        if all(re.fullmatch("0%?", str(canary.get(key))) for key in nothing):
            refuse(
                canary.lines["maxUnavailable"],
                "maxSurge and maxUnavailable are both 0",
                "Let one of them be at least 1.",
            )
        if "maxTrafficWeight" in routes and not (plugins or "nginx" in routes):
            refuse(
                routes.lines["maxTrafficWeight"],
                "maxTrafficWeight is for nginx and plugins",
                "Leave it out, and give weights from 0 to 100.",
            )
        named = {node.get("name") for node in self.book.maps(routes, "managedRoutes")}
        able = {
            "setCanaryScale": routing is not None,
            "setHeaderRoute": plugins or bool({"istio", "alb", "apisix"} & set(routes)),
            "setMirrorRoute": plugins or "istio" in routes,
        }
        for step in self.book.maps(canary, "steps"):
            for key in able:
                if step.get(key) is None:
                    continue
                name = step.at(key, "name")
                if not able[key]:
                    refuse(
                        step.lines[key],
                        f"{key} without a router that can do it",
                        "Leave the step out, or route by Istio.",
                    )
                elif key != "setCanaryScale" and name not in named:
                    refuse(
                        step.lines[key],
                        f"{key} names {str(name)[:40]}, which is not in managedRoutes",
                        "List it in trafficRouting.managedRoutes.",
                    )

    def _routing(self, canary: Map, routing: Map | None) -> None:
        find = self.book.find
        if routing and "alb" in routing and "pingPong" not in canary:
            find(
                "DL304",
                routing.lines["alb"],
                "an AWS load balancer without pingPong",
                "At the last step the stable Service changes its pods while traffic is "
                "already there, before the load balancer knows them: 503 "
                "(argo-rollouts issues 1453, 2864).",
                "Use pingPong, and turn target verification on.",
            )
        if routing and "nginx" in routing:
            find(
                "DL307",
                routing.lines["nginx"],
                "traffic routing by ingress-nginx",
                "The project was retired in March 2026; a reload also lets old workers "
                "serve old weights while connections last.",
                "Move to the Gateway API.",
            )
        if canary.get("dynamicStableScale") is True and routing is not None:
            find(
                "DL305",
                canary.lines["dynamicStableScale"],
                "dynamicStableScale shrinks the stable version as the weight grows",
                "An abort late in the rollout meets a stable version of few pods "
                "(argo-rollouts issue 3020).",
                "Leave it out, or keep the last weight before 100 small.",
            )
        if canary.get("abortScaleDownDelaySeconds") == 0:
            self._abort_delay(canary)

    def _abort_delay(self, manner: Map) -> None:
        self.book.find(
            "DL306",
            manner.lines["abortScaleDownDelaySeconds"],
            "abortScaleDownDelaySeconds: 0 keeps an aborted version for ever",
            "0 means never, not at once: its pods cost, and background work goes on.",
            "Write the seconds that you want; silent means 30.",
        )

    # Blue/green

    def _blue_green(self, manner: Map) -> None:
        book = self.book
        active, preview = manner.get("activeService"), manner.get("previewService")
        if not active:
            book.refuse(manner.line, "activeService is missing", "Name the Service.")
        if active and active == preview:
            book.refuse(
                manner.lines["previewService"],
                "activeService and previewService are the same",
                "Give the preview a Service of its own.",
            )
        if manner.get("abortScaleDownDelaySeconds") == 0:
            self._abort_delay(manner)
        keeps = book.whole(manner, "scaleDownDelaySeconds", None, 0, 10**7)
        if keeps is not None and keeps < 30:
            book.find(
                "DL303",
                manner.lines["scaleDownDelaySeconds"],
                f"the old side goes {keeps} s after the switch",
                "Nodes and load balancers still send to it until they have heard, and "
                "there is nothing left to switch back to.",
                "Write 30 or more, and at least as long as you watch.",
            )
        if manner.get("autoPromotionEnabled") is False:
            after = book.whole(manner, "autoPromotionSeconds", None, 0, 10**7)
            most = "" if after is None else f", {after} s at the most"
            self.gate.remarks.append(
                f"the switch waits for a person{most}; times are counted from it"
            )
        before = book.map(manner, "prePromotionAnalysis")
        after_map = book.map(manner, "postPromotionAnalysis")
        names = Names(
            candidate=_strings(preview),
            both=_strings(active) | self._own_names(),
        )
        if before is not None:
            line = manner.lines["prePromotionAnalysis"]
            measures = self._measures(before, names, line)
            others = [m.why_not for m in measures if not m.metric]
            why = (
                "; ".join(dict.fromkeys(others))
                if others and len(others) == len(measures)
                else "users send nothing to the preview, so its traffic is not in the "
                "file"
            )
            self.gate.not_computed.append(f"prePromotionAnalysis (line {line}): {why}")
            for measure in measures:
                if measure.ratio and measure.metric:
                    measure.source.find(
                        "DL203",
                        measure.node.line_of("provider"),
                        f"{measure.name} is measured before the switch, when users "
                        "send nothing to the new version",
                        "Without requests a share is NaN or nothing: the look fails, "
                        "or is an error.",
                        "Send it requests of your own while it runs, or measure after "
                        "the switch.",
                    )
        self.timeline.shares = [(0.0, 1.0)]
        if after_map is None:
            if before is None:
                self._no_gate(manner.line, "no analysis before or after the switch")
            self.timeline.ends_s = 0.0
            return
        line = manner.lines["postPromotionAnalysis"]
        ends = self._run(after_map, 0.0, None, names, line, post=True)
        self.timeline.ends_s = ends

    # Analyses

    def _run(
        self,
        analysis: Map,
        at_s: float,
        until_s: float | None,
        names: Names,
        line: int,
        background: bool = False,
        post: bool = False,
    ) -> float:
        """Plan one analysis run; the time at which it ends."""
        self.gate.focus = self.gate.focus or line
        measures = self._measures(analysis, names, line)
        ends_s = at_s
        delays = {m.delay_s for m in measures}
        for measure in measures:
            last = self._last(measure, at_s)
            if last is None and until_s is None:
                measure.source.find(
                    "DL106",
                    measure.node.line_of("interval"),
                    f"{measure.name} has an interval and no count, so this "
                    "analysis never ends",
                    "As a step or a promotion analysis it is refused: it would be "
                    "waited for for ever (argo-rollouts issue 427).",
                    "Give count, or let it run in the background.",
                )
                raise NotComputed(f"{measure.name} never ends")
            if last is not None:
                ends_s = max(ends_s, last)
            if self._over(at_s + measure.delay_s, until_s):
                measure.source.find(
                    "DL105",
                    measure.node.line_of("initialDelay"),
                    f"{measure.name} would look first after {_time(measure.delay_s)}, "
                    "and the rollout is over by then",
                    "A run that is stopped before it has looked is successful "
                    "(argo-rollouts issue 1329).",
                    "Shorten initialDelay, or pause longer.",
                )
            elif until_s is not None and last is not None:
                step = measure.interval_s or 0.0
                if last + step < until_s and until_s - last > step + 1:
                    measure.source.find(
                        "DL107",
                        measure.node.line_of("count"),
                        f"{measure.name} looks for the last time {_time(last)} in, and "
                        f"the rollout goes on until {_time(until_s)}",
                        "In the background, too, it ends at its count (argo-rollouts "
                        "issue 1666); what comes later is not watched.",
                        "Leave count out: it then looks until the last step is done."
                        if "count" in measure.node
                        else "Give interval: without one it looks once.",
                    )
            self.plan.append((measure, at_s, until_s))
        if len(measures) > 1 and len(delays) > 1:
            late = max(measures, key=lambda m: m.delay_s)
            late.source.find(
                "DL114",
                late.node.line_of("initialDelay"),
                f"{late.name} begins later than the other metrics",
                "Before pull request 1407 (1.1) Argo ended a run when all metrics that "
                "had begun were done, and never looked at a late one.",
                "Run 1.1 or newer, or give all the same delay.",
            )
        if len(measures) > 12:
            self.book.find(
                "DL115",
                line,
                f"{len(measures)} metrics in one analysis",
                "Each adds its own false alarms; the Site Reliability Workbook "
                "advises a dozen at the most.",
                "Keep those that users feel.",
            )
        if not background and not post and not measures:
            raise NotComputed(
                f"the analysis on line {line} has no metric that is known"
            )
        return ends_s

    def _last(self, measure: Measure, at_s: float) -> float | None:
        """When a metric looks for the last time, without errors; None for never."""
        if measure.count is None:
            return None
        step = measure.interval_s or 0.0
        return at_s + measure.delay_s + (measure.count - 1) * step

    def _measures(self, analysis: Map, names: Names, line: int) -> list[Measure]:
        """All metrics of an analysis, over its templates and theirs."""
        books: list[Notebook] = []
        for reference in self.book.maps(analysis, "templates"):
            self._collect(reference, self.book, books)
        if not _references(analysis):
            self.book.refuse(line, "an analysis without templates", "Name a template.")
        names = replace(names, arguments=self._merged(books, analysis))
        measures: list[Measure] = []
        for book in books:
            for node in book.maps(book.document.spec, "metrics"):
                measure = self._measure(node, book, names)
                if any(measure.name == other.name for other in measures):
                    book.refuse(
                        node.line,
                        f"two metrics are called {measure.name}",
                        "Call them differently.",
                    )
                    continue
                measures.append(measure)
        rules = [(self.book, rule) for rule in self.book.maps(analysis, "dryRun")]
        for book in books:
            rules += [(book, r) for r in book.maps(book.document.spec, "dryRun")]
        for book, rule in rules:
            self._dry(book, rule, measures)
        return measures

    def _dry(self, book: Notebook, rule: Map, measures: list[Measure]) -> None:
        """Carry out one rule of dryRun (GetDryRunMetrics).

        A regular expression that matches anywhere in the name, and has to match one.
        """
        pattern, line = rule.get("metricName"), rule.line_of("metricName")
        if not isinstance(pattern, str):
            return
        try:
            dry = [m for m in measures if contains(pattern, m.name)]
        except NotRecognised:
            raise NotComputed(
                f"which metrics are dry runs by the pattern on line {line} is not "
                "known here"
            ) from None
        for measure in dry:
            measure.dry = True
            measure.source.find(
                "DL111",
                measure.node.line,
                f"{measure.name} is a dry run (by {pattern[:40]!r})",
                "It is measured, and never stops a rollout; a rule of dryRun holds "
                "for every metric whose name contains what it matches.",
                "Take it off dryRun when it has proved itself.",
            )
        if not dry and self.complete:
            close = difflib.get_close_matches(pattern, [m.name for m in measures], 1)
            book.refuse(
                line,
                f"dryRun names {pattern[:40]!r}, which matches no metric",
                f"Did you mean {close[0]}?" if close else "Take the rule out.",
            )

    def _collect(self, reference: Map, book: Notebook, books: list[Notebook]) -> None:
        name = book.text(reference, "templateName")
        try:
            found = self.templates.get(
                _cluster(reference),
                book.document.namespace or self.document.namespace,
                name,
                book.document.path,
            )
        except Several as why:
            self.gate.not_computed.append(str(why))
            self.complete = False
            return
        if not found:
            self.complete = False
            kind = (
                "ClusterAnalysisTemplate" if _cluster(reference) else "AnalysisTemplate"
            )
            book.find(
                "DL004",
                reference.line_of("templateName"),
                f"{kind} {name} is in none of the files",
                "Nothing can be said of a gate that is not seen.",
                "Give its file as well; clusterScope: true looks for a "
                "ClusterAnalysisTemplate.",
            )
            self.gate.not_computed.append(f"template {name}: in none of the files")
            return
        if found in books:
            return
        books.append(found)
        if found not in self.books:
            self.books.append(found)
            if self.templates.named(name) > 1:
                self.gate.remarks.append(
                    f"of {self.templates.named(name)} templates called {name} that in "
                    f"{found.document.path} is taken"
                )
        if len(books) > 200:
            raise NotComputed("more than 200 templates")
        for inner in found.maps(found.document.spec, "templates"):
            self._collect(inner, found, books)

    def _arguments(self, analysis: Map) -> dict[str, str]:
        """What the rollout gives, by name."""
        given = {}
        for entry in self.book.maps(analysis, "args"):
            name, source = entry.get("name"), entry.get("valueFrom")
            if not isinstance(name, str):
                continue
            if entry.get("value") is not None:
                given[name] = str(entry["value"])[:500]
            elif isinstance(source, Map):
                known = {"Latest": LATEST_HASH, "Stable": STABLE_HASH}
                field = self._field(str(source.at("fieldRef", "fieldPath")))
                hashed = known.get(str(source.get("podTemplateHashValue")))
                given[name] = hashed or field or UNKNOWN
        return given

    def _field(self, path: str) -> str:
        """A field of the rollout's metadata that an argument refers to, or ""."""
        found = re.fullmatch(r"metadata\.(\w+)(?:\['([^']+)'\])?", path)
        if not found:
            return ""
        keys = [key for key in found.groups() if key]
        value = self.document.root.at("metadata", *keys)
        return value[:500] if isinstance(value, str) else ""

    def _merged(self, books: list[Notebook], analysis: Map) -> dict[str, str]:
        """The arguments of all templates with the rollout's (flattenArgs, MergeArgs).

        What one template gives serves the others of the same analysis.
        """
        given = self._arguments(analysis)
        arguments: dict[str, str] = {}
        wanting: dict[str, Notebook] = {}
        for book in books:
            for entry in book.maps(book.document.spec, "args"):
                name = entry.get("name")
                if not isinstance(name, str):
                    continue
                value = entry.get("value")
                if value is not None:
                    text = str(value)[:500]
                    if arguments.get(name, UNKNOWN) not in (UNKNOWN, text):
                        book.refuse(
                            entry.lines["value"],
                            f"the argument {name} has another value in another "
                            "template of the same analysis",
                            "Give it in one of them, or the same value in both.",
                        )
                    arguments[name] = text
                elif entry.get("valueFrom") is not None:
                    arguments.setdefault(name, UNKNOWN)
                else:
                    wanting.setdefault(name, book)
        for name, book in wanting.items():
            if name not in arguments and name not in given and self.complete:
                self.book.find(
                    "DL005",
                    analysis.line,
                    f"the template {book.document.name} needs the argument {name}",
                    "Without a value the analysis is an error, and the rollout aborts.",
                    f"Give {name} below args.",
                )
        return arguments | given

    def _measure(self, node: Map, book: Notebook, names: Names) -> Measure:
        """One metric, with what is refused or cannot work taken down."""
        name = book.text(node, "name") or f"metric of line {node.line}"
        filled, unknown = _filled(node, names)
        refused = len(book.refused)
        interval_s = book.duration(filled, "interval")
        delay_s = book.duration(filled, "initialDelay") or 0.0
        count = book.whole(filled, "count", None) or None
        failures = book.whole(filled, "failureLimit", 0, -1) or 0
        doubts = book.whole(filled, "inconclusiveLimit", 0) or 0
        errors = book.whole(filled, "consecutiveErrorLimit", ERRORS_IN_A_ROW)
        in_a_row = book.whole(filled, "consecutiveSuccessLimit", 0) or 0
        if unknown:
            count = None
        if count and count > 1 and "interval" not in node:
            book.refuse(
                node.lines["count"],
                f"{name} has a count and no interval",
                "Add interval, the time between two looks.",
            )
        if interval_s is not None and interval_s <= 0:
            book.refuse(
                node.lines["interval"],
                f"{name} has no time between looks",
                "Give interval a time above 0, such as 10m.",
            )
            interval_s = None
        if count is None and interval_s is None and not unknown:
            count = 1
        self._limits(node, book, name, count, failures, doubts)
        if unknown:
            count = 1
        measure = Measure(
            node, book, name, delay_s, interval_s, count,
            ERRORS_IN_A_ROW if errors is None else errors, None, None, "",
        )  # fmt: skip
        good, poor = node.get("successCondition"), node.get("failureCondition")
        provider = self._provider(node, book, name)
        if not good and not poor and provider not in ("job", "kayenta", "plugin"):
            book.find(
                "DL109",
                node.line,
                f"{name} has no condition, so every look is a success",
                "Without successCondition and failureCondition only a missing value "
                "is not successful (utils/evaluate); the documentation says otherwise.",
                "Give successCondition.",
            )
        try:
            if provider != "prometheus":
                raise NotRecognised(f"measured by {provider or 'nothing'}")
            if unknown:
                raise NotRecognised(f"the value of its {unknown} is not in the files")
            if len(book.refused) > refused:
                raise NotRecognised("a value of it is refused")
            if in_a_row:
                raise NotRecognised("consecutiveSuccessLimit is not modelled")
            ratio = recognise(node.at("provider", "prometheus", "query"), names)
            bounds = [
                condition(_text(text, names), ratio) if text else None
                for text in (good, poor)
            ]
        except NotRecognised as why:
            measure.why_not = str(why)
            if isinstance(why, CanaryIngress):
                line = node.line_of("provider", "prometheus", "query")
                canary_ingress(book, line, name, why)
            return measure
        if not any(bounds):
            measure.why_not = "it has no condition"
            return measure
        measure.ratio = ratio
        metric = Metric(
            name, ratio.reads, bounds[0], bounds[1],
            failures if failures >= 0 else 10**9, doubts, ratio.least,
        )  # fmt: skip
        measure.metric = metric
        self._sense(node, book, measure, metric, ratio)
        return measure

    def _limits(
        self, node: Map, book: Notebook, name: str, count: int | None,
        failures: int, doubts: int,
    ) -> None:  # fmt: skip
        if not count:
            return
        for key, limit in (("failureLimit", failures), ("inconclusiveLimit", doubts)):
            if limit > count:
                book.refuse(
                    node.line_of(key),
                    f"{name} has a {key} of {limit} and a count of {count}",
                    "The limit is at most the count; below it, to mean something.",
                )
        if failures == count or failures == -1:
            book.find(
                "DL104",
                node.line_of("failureLimit"),
                f"{name} looks {count} time{'s' * (count != 1)} and may fail "
                f"{'any number of' if failures < 0 else failures} times, so it never "
                "fails",
                "A metric fails when more looks fail than failureLimit, not when as "
                "many do.",
                f"Let failureLimit be {max(0, count - 1)} or less.",
            )

    def _provider(self, node: Map, book: Notebook, name: str) -> str:
        provider = node.get("provider")
        kinds = list(provider) if isinstance(provider, Map) else []
        if len(kinds) != 1:
            book.refuse(
                node.line_of("provider"),
                f"{name} has {len(kinds) or 'no'} provider{'s' * (len(kinds) > 1)}",
                "Give one.",
            )
            return ""
        return kinds[0][:40]

    def _sense(
        self, node: Map, book: Notebook, measure: Measure, metric: Metric, ratio: Ratio
    ) -> None:
        """Findings on a metric that is understood: can it fail, can it pass?"""
        line = node.line_of("successCondition" if metric.good else "failureCondition")
        makes_no_sense(book, line, metric)
        query_line = node.line_of("provider", "prometheus", "query")
        if (metric.good and metric.good.empty is True) or (
            metric.poor and not metric.good and metric.poor.empty is False
            and ratio.empty is not None
        ):  # fmt: skip
            book.find(
                "DL205",
                line if ratio.empty is None else query_line,
                f"{metric.name} is successful without a single request",
                "A version that nobody reaches passes.",
                "Drop the fallback, or demand a number of requests in a metric of "
                "its own.",
            )
        if ratio.window_s is None:
            book.find(
                "DL208",
                query_line,
                f"{metric.name} uses irate, which looks at the last two samples alone",
                "Whatever stands in the brackets, a look sees the requests between two "
                "scrapes.",
                "Use rate over the time between two looks.",
            )
        if metric.good and metric.poor and metric.doubtful(1000) and metric.doubts == 0:
            book.find(
                "DL112",
                line,
                f"between its two conditions {metric.name} is inconclusive; once is "
                "enough to wait for a person",
                "Inconclusive looks pause a rollout (inconclusiveLimit 0), and nobody "
                "is told by the file.",
                "Let the conditions meet, or set inconclusiveLimit.",
                INFO,
            )
        reads(book, query_line, metric)
        without = _without_data(metric)
        if without != "good":
            why = "A look without a value is no success here"
            if without == "error":
                why = (
                    f"A look without a value is an error, and {measure.errors + 1} in "
                    "a row abort (argo-rollouts issue 1466)"
                )
            no_value(book, query_line, metric.name, ratio, why)

    # Looks

    def _schedule(self) -> bool:
        """Looks of all planned metrics, in order; whether there is one to compute."""
        rate = self.world.requests_per_s
        self.timeline.shares = _joined(self.timeline.shares)
        looks: list[Look] = []
        for measure, at_s, until_s in self.plan:
            if measure.dry:
                continue
            if not measure.metric or not measure.ratio:
                self.gate.not_computed.append(f"{measure.name}: {measure.why_not}")
                continue
            if measure.metric.reads == STABLE:
                self.gate.remarks.append(f"{measure.name}: it reads the old version")
            window_s = measure.ratio.window_s or self.world.scrape_s
            self.timeline.metrics.append(measure.metric)
            looks += self._looks(measure, at_s, until_s, window_s, rate)
            self._windows(measure, at_s, until_s, window_s)
        if self.plan and all(measure.dry for measure, _, _ in self.plan):
            self.gate.not_computed.append(
                "every metric is a dry run: a bad version always gets through"
            )
        looks.sort(key=lambda look: look.at_s)
        self.timeline.looks = looks
        self.gate.looks = len(looks)
        return bool(self.timeline.metrics)

    def _looks(
        self,
        measure: Measure,
        at_s: float,
        until_s: float | None,
        window_s: float,
        rate: float,
    ) -> list[Look]:
        """When a metric looks, and what is settled before: looks without requests.

        Those are errors, taken again after the interval (10 s without one) and not
        counted, unless the query or the condition has something to say of no data.
        """
        assert measure.metric
        number = len(self.timeline.metrics) - 1
        looks: list[Look] = []
        now, taken, errors, empty, tries = at_s + measure.delay_s, 0, 0, 0, 0
        thin: list[tuple[int, int]] = []
        while measure.count is None or taken < measure.count:
            tries += 1
            if until_s is not None and abs(now - until_s) < 1e-6:
                self._at_the_end(measure)
            if self._over(now, until_s):
                break
            if tries > MAX_LOOKS:
                raise NotComputed(f"it looks more than {MAX_LOOKS:,} times")
            without = _without_data(measure.metric)
            look = Look(now, now - window_s, number, empty=without)
            mine, theirs = self.timeline.read(rate, look)
            enough = mine + theirs >= measure.metric.least
            settled = "" if enough else without
            if not mine or not enough:
                empty += 1
            elif measure.metric.reads == CANDIDATE:
                thin.append((mine, _allowed(measure.metric, mine)))
            if settled == "error":
                errors += 1
                if errors > measure.errors:
                    looks.append(look._replace(settled="stop"))
                    break
                now += measure.interval_s or ERROR_RETRY_S
                continue
            errors = 0
            taken += 1
            looks.append(look._replace(settled=settled))
            now += measure.interval_s or 0.0
        self._traffic(measure, empty, len(looks), thin)
        return looks

    def _over(self, now: float, until_s: float | None) -> bool:
        """Whether a background run has ended by a moment; None: it is no such run."""
        if until_s is None:
            return False
        return now > until_s + (1e-6 if self.pods_to_start else -1e-6)

    def _at_the_end(self, measure: Measure) -> None:
        """Say of a look at the moment when the steps are done whether it is taken."""
        taken = (
            "taken, because pods have still to start then"
            if self.pods_to_start
            else "not taken, because promotion comes first"
        )
        silent = "" if self.counted else " (replicas is not in the file; taken as 1)"
        self.gate.remarks.append(
            f"{measure.name} is due once more when the steps are done; {taken}{silent}"
        )

    def _traffic(
        self, measure: Measure, empty: int, looks: int, thin: list[tuple[int, int]]
    ) -> None:
        book, node = measure.source, measure.node
        rate = self.world.requests_per_s
        assert measure.metric
        if measure.metric.reads == STABLE:
            return
        if empty and measure.metric.reads == CANDIDATE:
            book.find(
                "DL203",
                node.line_of("initialDelay"),
                f"{empty} of the looks of {measure.name} find too few requests of the "
                f"new version at {rate:g} requests/s",
                "The first look comes at once; without requests a share is NaN or "
                "nothing, a failure or an error.",
                "Set initialDelay to the length of the window, or pause before.",
            )
        few_errors(book, node.line_of("provider"), measure.metric, thin, rate)

    def _windows(
        self, measure: Measure, at_s: float, until_s: float | None, window_s: float
    ) -> None:
        """Findings on windows against intervals and steps."""
        assert measure.metric
        assert measure.ratio
        book, node = measure.source, measure.node
        query = node.line_of("provider", "prometheus", "query")
        many = measure.count is None or measure.count > 1
        if many and measure.interval_s and measure.interval_s < window_s - 1e-9:
            times = math.ceil(window_s / measure.interval_s)
            book.find(
                "DL206",
                query,
                f"{measure.name} looks every {_time(measure.interval_s)} back over "
                f"{_time(window_s)}, so {times} looks see the same errors",
                "One burst counts several times against failureLimit, and looks that "
                "agree prove less than they seem to.",
                "Let the window be the interval.",
            )
        first = at_s + measure.delay_s
        if measure.metric.reads == BOTH:
            if self.timeline.shares[0][1] == 1 and first < window_s - 1e-9:
                book.find(
                    "DL207",
                    query,
                    f"the first look of {measure.name} comes {_time(first)} after the "
                    f"switch and reads back over {_time(window_s)}",
                    "It reads the old version's requests as well, and compares times, "
                    "not versions.",
                    "Set initialDelay to the length of the window.",
                )
        elif until_s is not None and window_s > until_s > 0 and measure.ratio.window_s:
            book.find(
                "DL209",
                query,
                f"{measure.name} reads back over {_time(window_s)}, and the whole "
                f"rollout lasts {_time(until_s)}",
                "It judges by fewer requests than it seems to.",
                "Shorten the window, or pause longer.",
            )

    # The rest

    def _no_gate(self, line: int, what: str) -> None:
        self.book.find(
            "DL101",
            line,
            f"nothing is judged: {what}",
            "A canary without evaluation is a slow release: every bad version that "
            "starts gets through.",
            "Add an analysis that reads the new version.",
        )
        self.gate.not_computed.append("no gate: a bad version always gets through")

    def _mirror(self, line: int) -> None:
        self.book.find(
            "DL309",
            line,
            "requests are mirrored",
            "Whatever a request writes is written twice, and caches are warmed twice.",
            "Mirror only what reads, or give the copy a store of its own.",
        )

    def _template(self) -> None:
        """Findings on the pod template: readiness, and what there is one of."""
        containers = self.spec.at("template", "spec", "containers")
        entries = containers if isinstance(containers, List) else []
        pods_ = [entry for entry in entries if isinstance(entry, Map)]
        if pods_ and not any("readinessProbe" in pod for pod in pods_):
            self.book.find(
                "DL311",
                self.spec.line_of("template", "spec", "containers"),
                "no container has a readinessProbe",
                "A pod gets traffic when its process has started, before its model is "
                "loaded and warm.",
                "Add one that says no until the model has answered once.",
            )
        for pod in pods_:
            for kind in ("limits", "requests"):
                amounts = pod.at("resources", kind)
                for key in amounts if isinstance(amounts, Map) else ():
                    few = self.counted and self.replicas <= 1
                    if re.search(r"(gpu|tpu)", key) and few:
                        self.book.find(
                            "DL310",
                            amounts.lines[key],
                            f"one replica that needs {key[:60]}",
                            "The new pod needs a second one before the old goes; "
                            "where there is none, both wait.",
                            "Keep one accelerator free, or accept an outage.",
                        )
                        return


def pods(replicas: int, weight: int, surges: bool) -> tuple[int, int]:
    """(new, old) pods for a weight where there is no router.

    Argo's approximateWeightedCanaryStableReplicaCounts: the nearest that N pods, or
    N + 1 if maxSurge allows one, can come to, the earlier option on a tie; at least one
    of each where the weight is neither 0 nor 100.
    """
    if not replicas:
        return 0, 0
    exact = Fraction(replicas * weight, 100)
    high, low = math.ceil(exact), math.floor(exact)
    zero = weight in (0, 100) or (replicas == 1 and not surges)
    options = []
    if high < replicas or zero:
        options.append((high, replicas))
    if exact - low != Fraction(1, 2) and (low or zero):
        options.append((low, replicas))
    if surges:
        options.append((high, replicas + 1))
        with_surge = Fraction((replicas + 1) * weight, 100)
        if with_surge % 1 != Fraction(1, 2) and (low or zero):
            options.append((low, replicas + 1))
    if not options:
        return 0, replicas
    mine, total = min(options, key=lambda o: abs(Fraction(100 * o[0], o[1]) - weight))
    return mine, total - mine


def reads(book: Notebook, line: int, metric: Metric) -> None:
    """A finding on a query that reads the old version."""
    if metric.reads == STABLE:
        book.find(
            "DL202",
            line,
            f"{metric.name} reads the old version",
            "The new one may fail every request, and this stays as it is.",
            "Choose the new version: its Service, or its pod hash (Latest).",
        )


def canary_ingress(book: Notebook, line: int, name: str, why: CanaryIngress) -> None:
    """A finding on a query that ingress-nginx has no counter for."""
    book.find(
        "DL211",
        line,
        f"{name} asks for {why.chosen}, under which ingress-nginx counts no request",
        "It counts both versions under the main Ingress and its Service (ingress-nginx "
        "issues 4026, 7976), so the query finds nothing.",
        'Choose the main Ingress, and the new version by canary!="".',
    )


def no_value(book: Notebook, line: int, name: str, ratio: Ratio, why: str) -> None:
    """A finding on a share of errors without a value before the first error."""
    if ratio.waits and ratio.reads == CANDIDATE:
        book.find(
            "DL210",
            line,
            f"{name} has no value before the new version's first error: until then "
            "there is no counter of its errors",
            f"{why}: the best version is taken back.",
            "Write (sum(...) or vector(0)) for the errors, above the division.",
        )


def makes_no_sense(book: Notebook, line: int, metric: Metric) -> None:
    """Findings on a metric that no share of errors can fail, or pass."""
    some = 10_000
    failing = metric.failing(some)
    if not failing:
        book.find(
            "DL109",
            line,
            f"{metric.name} does not fail even if every request does",
            "The limit lies outside of what the query can give, or on the wrong side.",
            "Mind the scale (a share from 0 to 1, or percent) and the direction.",
        )
    elif failing == [(0, some)] or failing[0][0] == 0:
        book.find(
            "DL110",
            line,
            f"{metric.name} fails without a single error",
            "The limit lies outside of what the query can give, or on the wrong side.",
            "Mind the scale (a share from 0 to 1, or percent) and the direction.",
        )
    elif failing[0][0] > some / 2 and metric.reads != STABLE:
        book.find(
            "DL109",
            line,
            f"{metric.name} fails only when {failing[0][0] / some:.0%} of the requests "
            "do",
            "So much is an outage, not a bad release.",
            "Mind the scale (a share, or percent), or whether it limits errors or "
            "successes.",
        )


def few_errors(
    book: Notebook, line: int, metric: Metric, thin: list[tuple[int, int]], rate: float
) -> None:
    """A finding on looks that a single error fails: (requests, errors allowed)."""
    strict = [requests for requests, allowed in thin if allowed == 0]
    if not strict:
        return
    book.find(
        "DL204",
        line,
        f"{len(strict)} of {len(thin)} looks of {metric.name} hold so few requests "
        f"({min(strict)} at the least, at {rate:g} requests/s) that one error fails",
        "At low traffic a share jumps: one request more in a window may let one "
        "error pass.",
        f"Look over a longer time, or at a larger share{_enough(metric)}.",
    )


def _enough(metric: Metric) -> str:
    """How many requests let one error pass, in words; "" if it never does.

    A window holds a number of requests only on average. At the number from which on one
    error passes, every other window has fewer; at two standard deviations of a Poisson
    law more, about one in forty.
    """
    bound = metric.good
    if not bound or not bound.at_most or bound.limit <= 0:
        return ""
    least = math.ceil(1 / bound.limit)
    least += not bound.or_equal and bound.limit * least == 1
    clear = least + math.ceil(2 * math.sqrt(least))
    return (
        f": one error passes from {least:,} requests on, and as windows vary, plan for "
        f"{clear:,}"
    )


def _allowed(metric: Metric, requests: int) -> int:
    """The most errors with which a look does not fail, -1 if it always does."""
    failing = metric.failing(requests)
    return failing[0][0] - 1 if failing else requests


def _without_data(metric: Metric) -> str:
    """What a look without any request comes to."""
    good = metric.good.empty if metric.good else None
    poor = metric.poor.empty if metric.poor else None
    if good is None and poor is None:
        return "error"
    if poor or (metric.poor is None and good is False):
        return "poor"
    if good or metric.good is None:
        return "good"
    return "doubt"


def _filled(node: Map, names: Names) -> tuple[Map, str]:
    """A metric whose numbers may be arguments, filled in; the first that is unknown."""
    filled, unknown = Map(node.line), ""
    filled.lines = node.lines
    for key, value in node.items():
        text = (
            _text(value, names) if isinstance(value, str) and "{{" in value else value
        )
        if isinstance(text, str) and UNKNOWN in text:
            text, unknown = None, unknown or key
        filled[key] = text
    return filled, unknown


def _text(value: object, names: Names) -> object:
    return fill(value, names.arguments) if isinstance(value, str) else value


def _strings(*values: object) -> frozenset[str]:
    return frozenset(value for value in values if isinstance(value, str) and value)


def _joined(shares: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Shares by time, the last of several at the same moment."""
    joined: dict[float, float] = dict(shares)
    return sorted(joined.items())


def _time(lasts_s: float) -> str:
    if lasts_s >= 7200:
        return f"{lasts_s / 3600:.3g} h"
    return f"{lasts_s / 60:.3g} min" if lasts_s >= 120 else f"{lasts_s:.3g} s"
