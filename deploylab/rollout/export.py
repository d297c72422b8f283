"""Strategies as manifests for engines that exist.

``kubernetes`` writes a Deployment and its Service. What an engine cannot express is
refused, with the name of one that can; nothing is left out silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal

import yaml

from deploylab.rollout.strategies import Basic, Rolling, Strategy

#: What one instance asks for, and may have. Memory is limited to what was asked for, so
#: the node does not promise it twice; CPU is not limited, because that would throttle
#: the server in the middle of an answer while the node has time to spare.
REQUESTS = {"cpu": "500m", "memory": "512Mi"}
LIMITS = {"memory": "512Mi"}

#: What a Deployment lacks for each strategy, and what has it.
BEYOND_A_DEPLOYMENT = {
    "Canary": (
        "a Deployment gives every instance the same traffic, so it has no shares to "
        "move and no gates to stop at. Argo Rollouts (strategy.canary) and Flagger "
        "have both. The nearest that a Deployment does is Rolling(instances, "
        "max_surge=1, max_unavailable=0): one instance at a time, judged by readiness"
    ),
    "BlueGreen": (
        "a Deployment replaces its instances and keeps no second side to go back to. "
        "Argo Rollouts (strategy.blueGreen) and Flagger do. By hand it takes two "
        "Deployments, and a Service whose selector is changed from one to the other"
    ),
    "Shadow": (
        "a Deployment does not see requests, so it cannot copy any. The Gateway API "
        "does, with the filter RequestMirror of an HTTPRoute, beside two Deployments"
    ),
    "AB": (
        "a Deployment does not see users, so it cannot divide them. The Gateway API "
        "does, with a header match of an HTTPRoute, and so does Flagger (A/B testing)"
    ),
    "Bandit": (
        "no engine has it as a setting. It takes a controller of one's own that "
        "computes the shares and patches the weights of an HTTPRoute (Gateway API)"
    ),
    "MultiService": (
        "a Deployment is one service, and none waits for another. Export the strategy "
        "of each service, and let what applies them keep the order: the sync waves of "
        "Argo CD do, and so does kubectl rollout status between two kubectl apply"
    ),
}

_LABEL = "[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
_IMAGE = (
    r"([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]+)?/)?"  # the registry
    r"[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?P<digest>@sha256:[0-9a-f]{64}|@sha512:[0-9a-f]{128})?"
)
_QUANTITY = "([0-9]+(?:[.][0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"
_POWERS = {"m": -1, "": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_PROBE_PERIOD_S = 2


class CannotExport(ValueError):
    """This engine cannot do what the strategy says; the message names one that can."""


def kubernetes(
    strategy: Strategy,
    *,
    name: str,
    image: str,
    instances: int | None = None,
    port: int = 8000,
    ready_path: str = "/ready",
    live_path: str = "/health",
    requests: Mapping[str, str] = REQUESTS,
    limits: Mapping[str, str] = LIMITS,
    start_limit_s: int = 120,
    pre_stop_s: int = 5,
    drain_s: int = 35,
    progress_deadline_s: int = 600,
    user_id: int = 10001,
    drop_gates: bool = False,
) -> str:
    """A Deployment (apps/v1) and its Service (v1) as YAML, for Kubernetes 1.30 on.

    ``Basic`` becomes the strategy type Recreate, ``Rolling`` RollingUpdate with both
    limits written out, as they were given. ``bake_s`` and ``min_ready_s`` become
    minReadySeconds, rounded up. Raises CannotExport for the other strategies, and for
    gates: a Deployment judges by readiness alone. ``drop_gates=True`` leaves them out.
    Raises ValueError for what the API server would refuse, and for an image that is
    not pinned.

    name: of both objects, and of the label that the Service selects by; no version is
    in it, because during the rollout the Service must reach old and new alike.
    image: with a tag other than ``latest``, or a digest.
    instances: for ``Basic``, 1 unless given; ``Rolling`` has its own number.
    port, ready_path, live_path: of the server. The Service listens on port 80.
    requests, limits: quantities by resource, as in ``{"memory": "512Mi"}``.
    start_limit_s: within it the server must be ready, or it is restarted. The startup
    probe holds the liveness probe off until then, or loading a large model would look
    like a hang.
    progress_deadline_s: after so long without progress the Deployment reports failure.
    It does not go back by itself: ``kubectl rollout undo`` does.
    user_id: the user that the server runs as, by number, since a name in the image
    cannot be checked; not 0. The pod keeps to the Pod Security Standard *restricted*.

    Drain comes before stop in three steps. A pod that is to go is taken off the list of
    endpoints and told to stop at the same time, and routers learn of the former later:
    so it first sleeps for ``pre_stop_s``, still serving, until nobody sends it new
    requests. Then comes SIGTERM, upon which the server finishes what it has begun.
    ``drain_s`` after it comes SIGKILL: keep it above the server's own limit (gunicorn's
    ``graceful_timeout``, 30 s unless set). The grace period of the pod counts from the
    beginning of the sleep, so it is the sum of the two. ``Basic`` does not sleep: its
    new instances start when the old ones have ended, and the outage would be longer.
    """
    instances, settle_s, how = _manner(strategy, instances, drop_gates)
    _check_name(name)
    _check_image(image)
    _check_paths(ready_path=ready_path, live_path=live_path)
    _check_numbers(
        instances=instances,
        port=port,
        start_limit_s=start_limit_s,
        pre_stop_s=pre_stop_s,
        drain_s=drain_s,
        progress_deadline_s=progress_deadline_s,
        user_id=user_id,
    )
    _check_resources(requests, limits)
    if port > 65535:
        raise ValueError(f"port is at most 65535, not {port}")
    if progress_deadline_s <= start_limit_s + settle_s:
        raise ValueError(
            f"progress_deadline_s={progress_deadline_s} is over before an instance has "
            f"had its time: {start_limit_s} s to start and {settle_s} s to stay ready. "
            f"Give it more than {start_limit_s + settle_s} s."
        )
    sleep_s = 0 if isinstance(strategy, Basic) else pre_stop_s
    label = {"app.kubernetes.io/name": name}
    container = {
        "name": "server",
        "image": image,
        "ports": [{"name": "http", "containerPort": port}],
        "startupProbe": _probe(
            ready_path, failureThreshold=math.ceil(start_limit_s / _PROBE_PERIOD_S)
        ),
        "readinessProbe": _probe(ready_path, timeoutSeconds=2),
        # A restart is the last resort, so liveness is more patient than readiness.
        "livenessProbe": _probe(
            live_path, periodSeconds=10, timeoutSeconds=5, failureThreshold=6
        ),
        **(
            {"lifecycle": {"preStop": {"sleep": {"seconds": sleep_s}}}}
            if sleep_s
            else {}
        ),
        "resources": {"requests": dict(requests), "limits": dict(limits)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "automountServiceAccountToken": False,  # it asks nothing of the cluster
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user_id,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": sleep_s + drain_s,
        "containers": [container],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": dict(label)},
        "spec": {
            "replicas": instances,
            "selector": {"matchLabels": dict(label)},
            "strategy": how,
            "minReadySeconds": settle_s,
            "progressDeadlineSeconds": progress_deadline_s,
            "template": {"metadata": {"labels": dict(label)}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": dict(label)},
        "spec": {
            "selector": dict(label),
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }
    return yaml.safe_dump_all([deployment, service], sort_keys=False)


def _manner(
    strategy: Strategy, instances: int | None, drop_gates: bool
) -> tuple[int, int, dict[str, object]]:
    """Replicas, minReadySeconds and the strategy of a Deployment."""
    if not isinstance(strategy, Basic | Rolling):
        kind = type(strategy).__name__
        why = BEYOND_A_DEPLOYMENT.get(kind, "it does Basic and Rolling, nothing else")
        raise CannotExport(f"a Deployment cannot do {kind}: {why}.")
    if strategy.gates and not drop_gates:
        raise CannotExport(
            "a Deployment has no gates: it judges by readiness alone, and when it "
            "makes no progress it reports that and does not roll back. Argo Rollouts "
            "and Flagger have gates. With drop_gates=True they are left out."
        )
    if isinstance(strategy, Basic):
        replicas = 1 if instances is None else instances
        return replicas, math.ceil(strategy.bake_s), {"type": "Recreate"}
    if instances not in (None, strategy.instances):
        raise ValueError(
            f"the strategy has {strategy.instances} instances, so instances="
            f"{instances} contradicts it; leave it out"
        )
    limits = {
        "maxSurge": strategy.max_surge,
        "maxUnavailable": strategy.max_unavailable,
    }
    how = {"type": "RollingUpdate", "rollingUpdate": limits}
    return strategy.instances, math.ceil(strategy.min_ready_s), how


def _probe(path: str, **settings: int) -> dict[str, object]:
    where = {"httpGet": {"path": path, "port": "http"}}
    return where | {"periodSeconds": _PROBE_PERIOD_S} | settings


def _check_name(name: str) -> None:
    if not re.fullmatch(_LABEL, name):
        raise ValueError(
            f"the name {name!r} is none that a Service may have: lower-case letters, "
            "digits and hyphens, a letter first, no hyphen last, at most 63"
        )


def _check_image(image: str) -> None:
    parts = re.fullmatch(_IMAGE, image)
    if parts is None:
        raise ValueError(
            f"{image!r} is no image; it looks like registry.example/model:2.1.0, or "
            "registry.example/model@sha256:… with all 64 digits"
        )
    if not parts["digest"] and parts["tag"] in (None, "latest"):
        means = (
            "has no tag, which means latest" if parts["tag"] is None else "is latest"
        )
        raise ValueError(
            f"the image {image!r} {means}: a pod runs what that is when it starts, so "
            "one rollout may run two models, and an undo may bring back the bad one. "
            "Name a tag that stays, as in :2.1.0, or better a digest."
        )


def _check_paths(**paths: str) -> None:
    for name, path in paths.items():
        if not path.startswith("/"):
            raise ValueError(f"{name} begins with a slash, as in /ready, not {path!r}")


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"{name} is a whole number, 1 or more, not {number!r}: a manifest has "
                "no fractions here"
            )


def _check_resources(requests: Mapping[str, str], limits: Mapping[str, str]) -> None:
    for given in (requests, limits):
        for resource, quantity in given.items():
            _amount(resource, quantity)
    for resource in requests.keys() & limits.keys():
        asked, allowed = requests[resource], limits[resource]
        if _amount(resource, asked) > _amount(resource, allowed):
            raise ValueError(
                f"an instance asks for {asked} of {resource} and may have {allowed}: "
                "raise the limit, or ask for less"
            )


def _amount(resource: str, quantity: str) -> Decimal:
    """A Kubernetes quantity as a number."""
    parts = re.fullmatch(_QUANTITY, quantity) if isinstance(quantity, str) else None
    if parts is None or (parts[2] == "m" and resource != "cpu"):
        raise ValueError(
            f"{quantity!r} of {resource} is no quantity that was meant; write cpu as "
            '"500m" or "2", memory as "512Mi" or "2Gi" ("m" is a thousandth)'
        )
    number, suffix = Decimal(parts[1]), parts[2] or ""
    base = 1024 if suffix.endswith("i") else 1000
    return number * Decimal(base) ** _POWERS[suffix[:1]]
