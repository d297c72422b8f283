"""A strategy as a Canary of Flagger, with a MetricTemplate for each gate."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deploylab.rollout.export.gateway import HEADER
from deploylab.rollout.export.pods import (
    CannotExport,
    Pod,
    Versions,
    check_name,
    check_numbers,
    gently,
    metadata,
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
from deploylab.rollout.model import USERS, Gate
from deploylab.rollout.strategies import AB, BlueGreen, Canary, Shadow, Strategy

#: The shortest interval that Flagger keeps to; a shorter one it takes for this, unsaid.
SHORTEST_S = 10

#: What Flagger lacks for each strategy, and what has it.
BEYOND_FLAGGER = {
    "Basic": (
        "it keeps the old version until the new one is promoted. A Deployment of the "
        "type Recreate does Basic (kubernetes)"
    ),
    "Rolling": "it moves traffic, not instances; a Deployment does it (kubernetes)",
    "Bandit": (
        "nobody computes the weights anew. The nearest is a controller of one's own "
        "that patches the weights of an HTTPRoute (gateway_api)"
    ),
    "MultiService": "a Canary is of one service; export the strategy of each service",
}


def flagger(
    strategy: Strategy,
    versions: Versions,
    *,
    name: str,
    gateway: str,
    instances: int = 1,
    namespace: str = "default",
    prometheus: Prometheus | None = None,
    pod: Pod | None = None,
    header: tuple[str, str] = HEADER,
    load_url: str = "",
    decide_url: str = "",
) -> str:
    """A Deployment, its Canary and its MetricTemplates as YAML (flagger.app/v1beta1).

    The Deployment runs the candidate's image; the stable one is what runs already, as
    the primary that Flagger keeps. Semantics are those of fluxcd/flagger, commit
    15bd6ad5, ``pkg/controller/scheduler.go``: at each interval Flagger asks all metrics
    once, and goes back once ``FailedChecks >= threshold``. So ``failures=k`` of a
    Threshold is ``threshold: k + 1``. It notices that at the interval *after* the
    check: a bad version has traffic for ``(threshold + 1)`` intervals, and not for the
    ``interval * threshold`` of the documentation. The manifest says so in its head.

    To promote, Flagger copies the Deployment over the primary, limits and all
    (``pkg/canary/deployment_controller.go``, ``Promote``), which then rolls while it
    has users: so both limits are written out, and none of its instances may be missing.

    What Flagger does otherwise, and cannot be told not to: a metric without a value is
    a failed check; a failed check keeps a stage for one more interval; and there is one
    count of failed checks for all metrics. So several gates are exported only if none
    of their windows may fail. An interval is one window, so all gates have the same.

    ``Canary`` becomes stepWeights: each stage is watched for one interval, so each
    takes one window. ``BlueGreen`` becomes one iteration: a preview is sent through the
    load tester at ``load_url`` and judged, the switch follows, and after one interval
    of users' traffic, which is ``keep_s``, the same metrics are asked again. ``Shadow``
    becomes iterations with a mirror of all requests, and a hook of the load tester that
    holds the promotion back, since nothing is to be released; the mirror then goes on
    until somebody ends it. ``AB`` becomes a match of
    a header; what the gate that decides says, the service at ``decide_url`` must say:
    ``/successful`` answers 200 to promote, ``/failed`` answers 200 to go back, and any
    other status means not yet. Raises CannotExport for the other strategies and for
    what is said above, ValueError for what the API server would refuse.

    versions: the two images. name: of all objects. gateway: the name of the Gateway
    that Flagger's HTTPRoute belongs to. instances: of the candidate. prometheus: where
    the gates' metrics are. header: its name and the value that means the candidate, for
    ``AB``; something in front must set it for the same users each time.
    """
    kind = type(strategy).__name__
    if not isinstance(strategy, Canary | BlueGreen | Shadow | AB):
        why = BEYOND_FLAGGER.get(kind, "it does Canary, BlueGreen, Shadow and AB")
        raise CannotExport(f"Flagger cannot do {kind}: {why}.")
    pod = pod or Pod()
    check_name(f"{name}-primary")
    check_name(gateway)
    check_name(namespace)
    check_numbers(instances=instances)
    pod.check_deadline()
    if isinstance(strategy, Canary):
        plan = _canary(strategy)
    elif isinstance(strategy, BlueGreen):
        plan = _blue_green(strategy, name, namespace, load_url)
    elif isinstance(strategy, Shadow):
        plan = _shadow(strategy, load_url)
    else:
        plan = _ab(strategy, header, decide_url)
    labels = {"app.kubernetes.io/name": name}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(name, labels, namespace),
        "spec": {
            "replicas": instances,
            "selector": {"matchLabels": dict(labels)},
            "strategy": gently(),
            "minReadySeconds": 0,
            "progressDeadlineSeconds": pod.progress_deadline_s,
            "template": pod.template(versions.candidate, labels),
        },
    }
    metrics, templates = _metrics(
        plan, name, namespace, prometheus or Prometheus(), labels
    )
    canary = {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": metadata(name, labels, namespace),
        "spec": {
            "provider": "gatewayapi:v1",
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "progressDeadlineSeconds": pod.progress_deadline_s,
            "skipAnalysis": False,
            "service": {
                "port": 80,
                "targetPort": "http",
                "gatewayRefs": [{"name": gateway}],
            },
            "analysis": {
                "interval": f"{plan.interval_s}s",
                "threshold": plan.threshold,
                "primaryReadyThreshold": 100,
                "canaryReadyThreshold": 100,
                **plan.how,
                "metrics": metrics,
                **({"webhooks": plan.webhooks} if plan.webhooks else {}),
            },
        },
    }
    exposed_s = (plan.threshold + 1) * plan.interval_s
    head = (
        f"# Flagger goes back one interval after the check that reaches the threshold: "
        f"{exposed_s} s\n# after a bad version's first request, and not "
        f"{plan.threshold * plan.interval_s} s.\n"
    )
    return head + to_yaml([deployment, *templates, canary])


@dataclass(frozen=True)
class _Analysis:
    """What a strategy means to Flagger's analysis."""

    gates: tuple[Gate, ...]
    how: dict[str, object]
    webhooks: tuple[dict[str, object], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "webhooks", list(self.webhooks))
        for gate in self.gates:
            threshold(gate, no_data="fail")
        lengths = {window_s(gate) for gate in self.gates}
        if len(lengths) > 1:
            raise CannotExport(
                "Flagger asks all metrics at the same interval, and the windows of "
                f"these gates take {', '.join(f'{s} s' for s in sorted(lengths))}. "
                "Give them one length; Argo Rollouts has one for each (argo_rollouts)."
            )
        if min(lengths) < SHORTEST_S:
            raise CannotExport(
                f"Flagger measures every {SHORTEST_S} s at most, and takes a shorter "
                f"interval for {SHORTEST_S} s without a word; windows of "
                f"{min(lengths)} s are too short. Argo Rollouts has shorter ones "
                "(argo_rollouts)."
            )
        allowed = [threshold(gate).failures for gate in self.gates]
        if len(allowed) > 1 and any(allowed):
            raise CannotExport(
                "Flagger has one count of failed checks for all metrics, and each of "
                f"these {len(allowed)} gates has its own. Let no window fail, or take "
                "Argo Rollouts, which counts for each (argo_rollouts)."
            )

    @property
    def interval_s(self) -> int:
        """Seconds between two checks."""
        return window_s(self.gates[0])

    @property
    def threshold(self) -> int:
        """How many failed checks end it."""
        return 1 + max(threshold(gate).failures for gate in self.gates)


def _metrics(
    plan: _Analysis,
    name: str,
    namespace: str,
    prometheus: Prometheus,
    labels: dict[str, str],
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """The metrics of an analysis, and their templates."""
    # The candidate's pods; those of the primary have one part more in their names.
    pods = 'namespace="{{ namespace }}", pod=~"{{ target }}-[0-9a-zA-Z]+-[0-9a-zA-Z]+"'
    metrics, templates = [], []
    for short, gate in zip(names(plan.gates), plan.gates, strict=True):
        template = f"{name}-{short}"
        templates.append(
            {
                "apiVersion": "flagger.app/v1beta1",
                "kind": "MetricTemplate",
                "metadata": metadata(template, labels, namespace),
                "spec": {
                    "provider": {"type": "prometheus", "address": prometheus.address},
                    "query": prometheus.query(gate, pods),
                },
            }
        )
        metrics.append(
            {
                "name": short,
                "templateRef": {"name": template, "namespace": namespace},
                "thresholdRange": {"max": threshold(gate).limit},
                "interval": f"{plan.interval_s}s",
            }
        )
    return metrics, templates


def _need(gates: tuple[Gate, ...]) -> None:
    if not gates:
        raise CannotExport(
            "Flagger without metrics takes every version for a good one; give the "
            "strategy a gate with a Threshold. Without gates an HTTPRoute is enough "
            "(gateway_api)."
        )


def _canary(strategy: Canary) -> _Analysis:
    _need(strategy.gates)
    if strategy.sticky:
        raise CannotExport(
            "Flagger's sessionAffinity keeps those users who have met the candidate, "
            "and draws the others anew at each request, so the share of users grows "
            "without a step. That is no sticky share. The nearest is AB, whose users a "
            "header divides."
        )
    weights = [percent(share) for share in strategy.shares]
    plan = _Analysis(strategy.gates, {"stepWeights": weights, "stepWeightPromotion": 0})
    if any(bake_s != plan.interval_s for bake_s in strategy.bakes_s):
        raise CannotExport(
            "Flagger checks each stage once, after one interval, and these stages are "
            f"watched for {_list(strategy.bakes_s)} with windows of {plan.interval_s} "
            "s. Make both the same; Argo Rollouts has more than one window in a stage "
            "(argo_rollouts)."
        )
    return plan


def _list(times_s: tuple[float, ...]) -> str:
    return ", ".join(f"{one:g} s" for one in sorted(set(times_s)))


def _blue_green(
    strategy: BlueGreen, name: str, namespace: str, load_url: str
) -> _Analysis:
    _need(strategy.gates)
    here = tuple(replace(gate, on=USERS) for gate in strategy.before)
    if here != strategy.gates:
        raise CannotExport(
            "Flagger asks the same metrics before the switch and after it, so the "
            "gates before must be those after. Argo Rollouts has both (argo_rollouts)."
        )
    if not load_url:
        raise CannotExport(
            "the gates before the switch judge requests of one's own: give the address "
            'of Flagger\'s load tester, load_url="http://...", which sends them.'
        )
    plan = _Analysis(
        strategy.gates,
        {"iterations": 1, "stepWeightPromotion": 0},
        (
            {
                "name": "preview",
                "type": "pre-rollout",
                "url": f"{load_url.rstrip('/')}/",
                "timeout": f"{window_s(strategy.gates[0])}s",
                "metadata": {
                    "type": "bash",
                    "cmd": f"hey -n {strategy.preview} "
                    f"http://{name}-canary.{namespace}/",
                },
            },
        ),
    )
    if whole_seconds("keep_s", strategy.keep_s) != plan.interval_s:
        raise CannotExport(
            "after the switch Flagger checks once, one interval later, and then lets "
            f"the old side go: keep_s would be {plan.interval_s} s and not "
            f"{strategy.keep_s:g} s. Argo Rollouts keeps it as long as it is told "
            "(argo_rollouts)."
        )
    return plan


def _shadow(strategy: Shadow, load_url: str) -> _Analysis:
    _need(strategy.gates)
    if strategy.mirrored != 1:
        raise CannotExport(
            "on a Gateway, Flagger mirrors all requests or none, and not "
            f"{strategy.mirrored:g} of them. RequestMirror of an HTTPRoute has a "
            "percentage (gateway_api)."
        )
    if not load_url:
        raise CannotExport(
            "after a mirror Flagger promotes, and a Shadow releases nothing: give the "
            'address of Flagger\'s load tester, load_url="http://...", whose gate '
            "holds the promotion back."
        )
    hold = {
        "name": "release-nothing",
        "type": "confirm-promotion",
        "url": f"{load_url.rstrip('/')}/gate/halt",
    }
    interval_s = window_s(strategy.gates[0])
    iterations = whole_seconds("bake_s", strategy.bake_s) // interval_s
    if not iterations:
        raise CannotExport(
            f"bake_s is {strategy.bake_s:g} s, and a window takes {interval_s} s: "
            "Flagger would check nothing. Watch longer, or give shorter windows."
        )
    how = {"iterations": iterations, "mirror": True, "stepWeightPromotion": 0}
    return _Analysis(strategy.gates, how, (hold,))


def _ab(strategy: AB, header: tuple[str, str], decide_url: str) -> _Analysis:
    if not strategy.guards:
        raise CannotExport(
            "Flagger checks metrics at each interval, and this test has none before "
            "its end: give it a guard with a Threshold, guards=(...)."
        )
    if not decide_url:
        raise CannotExport(
            "Flagger compares a number with a limit, and not the two sides of a test: "
            'give the address of a service that does, decide_url="http://...", which '
            "Flagger asks before it promotes."
        )
    asked = {
        "users": str(strategy.users),
        "metric": strategy.decides.metric,
        "longest_s": f"{strategy.longest_s:g}",
    }
    base = decide_url.rstrip("/")
    webhooks = (
        {
            "name": "successful",
            "type": "confirm-promotion",
            "url": f"{base}/successful",
            "metadata": dict(asked),
        },
        {
            "name": "failed",
            "type": "rollback",
            "url": f"{base}/failed",
            "metadata": dict(asked),
        },
    )
    name, value = header
    how = {
        "iterations": 1,
        "match": [{"headers": {name: {"exact": value}}}],
        "stepWeightPromotion": 0,
    }
    return _Analysis(strategy.guards, how, webhooks)
