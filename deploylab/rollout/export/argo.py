"""A strategy as a Rollout of Argo Rollouts, with the analysis that its gates are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deploylab.rollout.export.gateway import backend, route
from deploylab.rollout.export.pods import (
    CannotExport,
    Pod,
    Versions,
    check_name,
    check_numbers,
    metadata,
    service,
    to_yaml,
)
from deploylab.rollout.export.queries import (
    Prometheus,
    names,
    percent,
    threshold,
    whole_seconds,
    window_s,
)
from deploylab.rollout.model import CANDIDATE, STABLE, Gate
from deploylab.rollout.strategies import BlueGreen, Canary, Rolling, Strategy

#: Argo's own default, the time that the nodes of a cluster need to learn of a switch.
SCALE_DOWN_S = 30

#: What a Rollout lacks for each strategy, and what has it.
BEYOND_A_ROLLOUT = {
    "Basic": (
        "it never stops all that it has. A Deployment of the type Recreate does "
        "(kubernetes)"
    ),
    "Shadow": (
        "its step setMirrorRoute copies requests, and then the Rollout goes on to "
        "promote. The Gateway API has the filter RequestMirror (gateway_api), and "
        "Flagger mirrors and can be told to wait (flagger)"
    ),
    "AB": (
        "its step setHeaderRoute matches users, and nothing compares the two sides. "
        "Flagger runs a test on a match and asks before it promotes (flagger)"
    ),
    "Bandit": (
        "nobody computes the weights anew. The nearest is a controller of one's own "
        "that patches the weights of an HTTPRoute (gateway_api)"
    ),
    "MultiService": "a Rollout is one service; export the strategy of each service",
}


def argo_rollouts(
    strategy: Strategy,
    versions: Versions,
    *,
    name: str,
    gateway: str = "",
    instances: int | None = None,
    namespace: str = "default",
    prometheus: Prometheus | None = None,
    pod: Pod | None = None,
    background: bool = False,
    sends_preview: bool = False,
    drop_gates: bool = False,
) -> str:
    """A Rollout, its Services and its AnalysisTemplate as YAML (argoproj.io/v1alpha1).

    The Rollout runs the candidate's image; the stable one is what runs already.
    Semantics are those of commit 9f8d111 of argoproj/argo-rollouts,
    ``analysis/analysis.go``: a metric fails once ``failed > failureLimit``. That is the
    rule of Threshold, so ``failures=k`` is ``failureLimit: k``, although the
    documentation of Argo says of ``failureLimit: 3`` that three failures end it; it
    takes four.

    ``Canary`` becomes steps. The weights are those of an HTTPRoute, changed by Argo's
    plugin for the Gateway API, since without a router a weight is rounded to whole
    pods. After each weight comes an analysis that measures at the end of each window
    for as long as the stage is watched. A window without data is an error and is
    measured again, so the stage lasts longer; after as many in a row as the stage has
    windows Argo gives up, as the strategy does. Argo counts failures of such an
    analysis for each step anew, and the strategy counts them for the whole rollout: the
    two differ if more than none may fail in more than one stage, which is refused. With
    ``background=True`` one analysis counts them across all steps; then a window may
    begin under one share and end under the next, and its last verdict may come when the
    stage is over.

    ``BlueGreen`` becomes blueGreen: gates ``before`` the switch its
    prePromotionAnalysis, the others its postPromotionAnalysis; the old side is kept
    until that is over and for the rest of ``keep_s``, at least 30 s. Nothing in Argo
    sends the requests of a preview: something else must, which ``sends_preview=True``
    states. While it is judged nothing makes progress (``rollout/sync.go``,
    ``isIndefiniteStep``), so it must be over before ``progress_deadline_s`` is.

    ``Rolling`` without gates becomes a canary without steps, with both limits written
    out, because the documentation of Argo disagrees with itself on their defaults.

    Raises CannotExport for the other strategies, for judges other than Threshold, for
    sticky shares and for shares that are no whole percentage; ValueError for what the
    API server would refuse.

    versions: the two images. name: of the Rollout, and the beginning of all other
    names. gateway: the Gateway that the HTTPRoute of a ``Canary`` belongs to.
    instances: of the service, 1 unless given; ``Rolling`` has its own number.
    prometheus: where the gates' metrics are. drop_gates: whether to leave the gates
    out.
    """
    kind = type(strategy).__name__
    if not isinstance(strategy, Canary | BlueGreen | Rolling):
        why = BEYOND_A_ROLLOUT.get(kind, "it does Canary, BlueGreen and Rolling")
        raise CannotExport(f"a Rollout cannot do {kind}: {why}.")
    if isinstance(strategy, Rolling):
        if instances not in (None, strategy.instances):
            raise ValueError(
                f"the strategy has {strategy.instances} instances, so instances="
                f"{instances} contradicts it; leave it out"
            )
        instances = strategy.instances
    instances = 1 if instances is None else instances
    pod = pod or Pod()
    settle_s = math.ceil(getattr(strategy, "min_ready_s", 0))
    check_name(f"{name}-{CANDIDATE}")
    check_name(namespace)
    check_numbers(instances=instances)
    pod.check_deadline(settle_s)
    plan = _Plan(name, namespace, prometheus or Prometheus(), drop_gates)
    if isinstance(strategy, Canary):
        how, objects = _canary(plan, strategy, gateway, background)
    elif isinstance(strategy, BlueGreen):
        how, objects = _blue_green(plan, strategy, sends_preview)
        _check_preview(plan.wanted(strategy.before), pod)
    else:
        how, objects = _rolling(plan, strategy)
    labels = {"app.kubernetes.io/name": name}
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": metadata(name, labels, namespace),
        "spec": {
            "replicas": instances,
            "revisionHistoryLimit": 10,
            "minReadySeconds": settle_s,
            "progressDeadlineSeconds": pod.progress_deadline_s,
            "progressDeadlineAbort": True,  # else it reports, and stays where it is
            "selector": {"matchLabels": dict(labels)},
            "strategy": how,
            "template": pod.template(versions.candidate, labels),
        },
    }
    return to_yaml([rollout, *objects])


@dataclass(frozen=True)
class _Plan:
    """What the parts of an export share."""

    name: str
    namespace: str
    prometheus: Prometheus
    drop_gates: bool

    def wanted(self, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        """The gates that are exported."""
        return () if self.drop_gates else gates

    def service(self, role: str) -> dict[str, object]:
        """A Service; Argo adds the version's hash to what it selects."""
        selects = {"app.kubernetes.io/name": self.name}
        return service(f"{self.name}-{role}", selects, self.namespace)

    def template(
        self, part: str, metrics: list[dict[str, object]]
    ) -> dict[str, object]:
        """An AnalysisTemplate with these metrics."""
        labels = {"app.kubernetes.io/name": self.name}
        return {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "AnalysisTemplate",
            "metadata": metadata(f"{self.name}-{part}", labels, self.namespace),
            "spec": {"args": [{"name": "candidate-hash"}], "metrics": metrics},
        }

    def analysis(self, part: str) -> dict[str, object]:
        """A reference to a template, with the hash in its candidate's pods' names."""
        latest = {"podTemplateHashValue": "Latest"}
        return {
            "templates": [{"templateName": f"{self.name}-{part}"}],
            "args": [{"name": "candidate-hash", "valueFrom": latest}],
        }

    def metrics(
        self, gates: tuple[Gate, ...], windows: Sequence[int], counted: bool = True
    ) -> list[dict[str, object]]:
        """Gates as metrics, every limit written out.

        windows: for each gate, how many there are until it is judged at the latest;
        counted: whether it ends after them.
        """
        pods = (
            f'namespace="{self.namespace}", '
            f'pod=~"{self.name}-{{{{args.candidate-hash}}}}-.+"'
        )
        return [
            {
                "name": name,
                "initialDelay": f"{window_s(gate)}s",  # until the first window is full
                "interval": f"{window_s(gate)}s",
                **({"count": number} if counted else {}),
                "successCondition": f"result[0] <= {threshold(gate).limit!r}",
                "failureLimit": threshold(gate).failures,
                "inconclusiveLimit": 0,
                "consecutiveErrorLimit": _errors(gate, number),
                "provider": {
                    "prometheus": {
                        "address": self.prometheus.address,
                        "query": self.prometheus.query(gate, pods),
                    }
                },
            }
            for name, gate, number in zip(names(gates), gates, windows, strict=True)
        ]


def _errors(gate: Gate, windows: int) -> int:
    """How many measurements in a row may be without data; one more ends it."""
    judge = threshold(gate, no_data="error")
    return judge.errors if judge.no_data == "error" else windows - 1


def _windows(gate: Gate, watched_s: int, what: str) -> int:
    """How many windows of a gate end while it is watched."""
    number = watched_s // window_s(gate)
    if not number:
        raise CannotExport(
            f"{what} is {watched_s} s, and a window of the gate on {gate.metric} takes "
            f"{window_s(gate)} s: Argo would never measure it, and take that for "
            "success. Watch longer, or give the gate a shorter window."
        )
    return number


def _canary(
    plan: _Plan, strategy: Canary, gateway: str, background: bool
) -> tuple[dict[str, object], list[dict[str, object]]]:
    if strategy.sticky:
        raise CannotExport(
            "Argo's weights draw each request for itself, so a user would change "
            "sides. The nearest is Flagger's sessionAffinity, which keeps those users "
            "who have met the candidate, and draws the others anew."
        )
    if not gateway:
        raise ValueError(
            "a canary's weights need a router: name the Gateway of its HTTPRoute, "
            'gateway="..."'
        )
    gates = plan.wanted(strategy.gates)
    stages = [whole_seconds("bake_s", bake_s) for bake_s in strategy.bakes_s]
    if not background and len(stages) > 1 and any(threshold(g).failures for g in gates):
        raise CannotExport(
            "Argo counts the failures of an analysis step anew in each stage, and this "
            "strategy counts them for the whole rollout. With background=True Argo "
            "counts them across stages; or let no window fail."
        )
    how: dict[str, object] = {
        "stableService": f"{plan.name}-{STABLE}",
        "canaryService": f"{plan.name}-{CANDIDATE}",
        "maxSurge": "25%",
        "maxUnavailable": 0,
        "dynamicStableScale": False,  # the stable side stays whole until the end
        "scaleDownDelaySeconds": SCALE_DOWN_S,
        "abortScaleDownDelaySeconds": SCALE_DOWN_S,
        "trafficRouting": {
            "plugins": {
                "argoproj-labs/gatewayAPI": {
                    "httpRoute": plan.name,
                    "namespace": plan.namespace,
                }
            }
        },
    }
    steps: list[dict[str, object]] = []
    templates: dict[str, dict[str, object]] = {}
    if gates and background:
        shortest = min(stages)
        windows = [_windows(gate, shortest, "the shortest stage") for gate in gates]
        metrics = plan.metrics(gates, windows, counted=False)
        templates["gates"] = plan.template("gates", metrics)
        how["analysis"] = {**plan.analysis("gates"), "startingStep": 1}
    for share, bake_s in zip(strategy.shares, stages, strict=True):
        steps.append({"setWeight": percent(share)})
        rest_s = bake_s
        if gates and not background:
            numbers = [_windows(gate, bake_s, "a stage") for gate in gates]
            rest_s -= max(
                number * window_s(gate)
                for gate, number in zip(gates, numbers, strict=True)
            )
            part = f"gates-{bake_s}s"
            templates[part] = plan.template(part, plan.metrics(gates, numbers))
            steps.append({"analysis": plan.analysis(part)})
        if rest_s:
            steps.append({"pause": {"duration": f"{rest_s}s"}})
    how["steps"] = steps
    start = {
        "backendRefs": [
            backend(f"{plan.name}-{STABLE}", weight=100),
            backend(f"{plan.name}-{CANDIDATE}", weight=0),
        ]
    }
    objects = [
        *templates.values(),
        plan.service(STABLE),
        plan.service(CANDIDATE),
        route(plan.name, gateway, [start], plan.namespace),
    ]
    return {"canary": how}, objects


def _blue_green(
    plan: _Plan, strategy: BlueGreen, sends_preview: bool
) -> tuple[dict[str, object], list[dict[str, object]]]:
    before, gates = plan.wanted(strategy.before), plan.wanted(strategy.gates)
    if before and not sends_preview:
        raise CannotExport(
            "the gates before the switch judge requests of one's own, and Argo sends "
            "none. Let a job send them to the preview Service and say so with "
            "sends_preview=True; Flagger sends them, through a webhook (flagger)."
        )
    keep_s = whole_seconds("keep_s", strategy.keep_s)
    watched_s = 0
    how: dict[str, object] = {
        "activeService": f"{plan.name}-active",
        "previewService": f"{plan.name}-preview",
        "autoPromotionEnabled": True,
    }
    objects: list[dict[str, object]] = []
    if before:
        metrics = plan.metrics(before, [1] * len(before))
        objects.append(plan.template("before", metrics))
        how["prePromotionAnalysis"] = plan.analysis("before")
    if gates:
        numbers = [_windows(gate, keep_s, "keep_s") for gate in gates]
        watched_s = max(
            number * window_s(gate) for gate, number in zip(gates, numbers, strict=True)
        )
        objects.append(plan.template("gates", plan.metrics(gates, numbers)))
        how["postPromotionAnalysis"] = plan.analysis("gates")
    how["scaleDownDelaySeconds"] = max(SCALE_DOWN_S, keep_s - watched_s)
    how["abortScaleDownDelaySeconds"] = SCALE_DOWN_S
    services = [plan.service("active"), plan.service("preview")]
    return {"blueGreen": how}, [*objects, *services]


def _check_preview(before: tuple[Gate, ...], pod: Pod) -> None:
    longest_s = max((window_s(gate) for gate in before), default=0)
    if longest_s >= pod.progress_deadline_s:
        raise ValueError(
            f"a gate before the switch takes {longest_s} s, and after "
            f"progress_deadline_s={pod.progress_deadline_s} Argo gives up what makes "
            "no progress. Give Pod(progress_deadline_s=...) more, or the gate less."
        )


def _rolling(
    plan: _Plan, strategy: Rolling
) -> tuple[dict[str, object], list[dict[str, object]]]:
    if plan.wanted(strategy.gates):
        raise CannotExport(
            "a Rollout without steps has no analysis, and waves are not steps. The "
            "nearest is a Canary, whose stages have weights and gates. With "
            "drop_gates=True they are left out."
        )
    how = {
        "maxSurge": strategy.max_surge,
        "maxUnavailable": strategy.max_unavailable,
    }
    selects = {"app.kubernetes.io/name": plan.name}
    return {"canary": how}, [service(plan.name, selects, plan.namespace)]
