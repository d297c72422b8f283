"""A strategy as a Kubernetes Deployment and its Service."""

from __future__ import annotations

import math
from collections.abc import Mapping

from deploylab.rollout.export.pods import (
    LIMITS,
    REQUESTS,
    CannotExport,
    Pod,
    check_name,
    check_numbers,
    metadata,
    pre_stop_of,
    service,
    to_yaml,
)
from deploylab.rollout.strategies import Basic, Rolling, Strategy

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
    pre_stop_s: int | None = None,
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
    beginning of the sleep, so it is the sum of the two. Unless ``pre_stop_s`` is given,
    it is 5 s, and ``Basic`` does not sleep: its new instances start when the old ones
    have ended, and the outage would be longer. 0 is no sleep.
    """
    instances, settle_s, how = _manner(strategy, instances, drop_gates)
    check_name(name)
    check_numbers(instances=instances)
    if pre_stop_s is None:
        pre_stop_s = pre_stop_of(strategy)
    pod = Pod(
        port=port,
        ready_path=ready_path,
        live_path=live_path,
        requests=requests,
        limits=limits,
        start_limit_s=start_limit_s,
        pre_stop_s=pre_stop_s,
        drain_s=drain_s,
        progress_deadline_s=progress_deadline_s,
        user_id=user_id,
    )
    pod.check_deadline(settle_s)
    label = {"app.kubernetes.io/name": name}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(name, label),
        "spec": {
            "replicas": instances,
            "selector": {"matchLabels": dict(label)},
            "strategy": how,
            "minReadySeconds": settle_s,
            "progressDeadlineSeconds": progress_deadline_s,
            "template": pod.template(image, label),
        },
    }
    return to_yaml([deployment, service(name, label)])


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
