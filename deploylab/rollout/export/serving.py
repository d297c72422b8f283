"""A strategy for servers of models: KServe's InferenceService, and Ray Serve."""

from __future__ import annotations

import itertools
import math
import re

from deploylab.rollout.export.gateway import moment, refuse_gates
from deploylab.rollout.export.pods import (
    CannotExport,
    Pod,
    Versions,
    check_name,
    check_numbers,
    metadata,
    pre_stop_of,
    to_yaml,
)
from deploylab.rollout.export.queries import percent
from deploylab.rollout.model import CANDIDATE
from deploylab.rollout.strategies import Basic, BlueGreen, Canary, Rolling, Strategy

#: What an InferenceService lacks for each strategy, and what has it.
BEYOND_KSERVE = {
    "Shadow": (
        "it copies no requests. The Gateway API does, with the filter RequestMirror "
        "(gateway_api)"
    ),
    "AB": (
        "its share draws each request for itself. The Gateway API has a match of a "
        "header (gateway_api), and Flagger tests on one (flagger)"
    ),
    "Bandit": (
        "nobody computes the share anew. The nearest is a controller of one's own that "
        "patches trafficPercent of the InferenceService which Canary((0.5,), ...) gives"
    ),
    "MultiService": "an InferenceService is one; export the strategy of each service",
}

#: What Ray Serve lacks for each strategy, and what has it.
BEYOND_RAY_SERVE = {
    "Basic": (
        "it starts the new replicas while the old ones serve. A Deployment of the type "
        "Recreate does Basic (kubernetes)"
    ),
    "Canary": (
        "an application runs one version, and nothing divides traffic between two. The "
        "nearest is an application for each version behind an HTTPRoute (gateway_api)"
    ),
    "BlueGreen": (
        "a configuration is updated in place. The nearest is KubeRay, whose RayService "
        "starts a second cluster and moves all traffic when it is ready "
        "(upgradeStrategy NewCluster); it has no gates and does not keep the old side"
    ),
    "Shadow": (
        "it copies no requests. The Gateway API does, with the filter RequestMirror "
        "(gateway_api)"
    ),
    "AB": (
        "it does not divide users. The nearest is an application for each version, "
        "behind the header match of an HTTPRoute (gateway_api)"
    ),
    "Bandit": (
        "nothing divides traffic between two versions. The nearest is a deployment of "
        "one's own that draws a version for each request and calls it by its handle"
    ),
    "MultiService": "export the strategy of each service as an application of its own",
}

#: Which part of a deployment Ray Serve replaces at once, unless it is told another.
RAY_AT_ONCE = 0.2


def kserve(
    strategy: Strategy,
    versions: Versions,
    *,
    name: str,
    share: float | None = None,
    instances: int | None = None,
    serverless: bool = False,
    pod: Pod | None = None,
    drop_gates: bool = False,
) -> str:
    """An InferenceService (serving.kserve.io/v1beta1) as YAML.

    KServe has shares and no gates, no steps and no time: so a strategy with gates is
    refused, unless ``drop_gates=True`` leaves them out, and the next stage is another
    export. ``Canary`` becomes ``spec.canary``, the candidate with its trafficPercent
    beside the stable version: for the Standard mode of KServe 0.20 (kserve/kserve, pull
    request 5672, and the definition of commit aaac4e294). ``serverless=True`` gives
    what the Knative mode has instead: canaryTrafficPercent on a predictor that runs the
    candidate; the stable version is the revision that had all traffic last, as KServe
    remembers it, so it is not in the file. ``BlueGreen`` is the same with a share of 0
    or 1. ``Rolling`` becomes the deploymentStrategy of the Standard mode with both
    limits written out, ``Basic`` its type Recreate; the time that its gates watch goes
    with them. Raises CannotExport for the other strategies, for shares that are no
    whole percentage and for ``min_ready_s``, which has no field there; ValueError for
    what the API server would refuse.

    versions: the two images. name: of the service. share: the candidate's, for
    ``Canary`` one of its shares, 0 or 1, at first its first; for ``BlueGreen`` 0 or 1,
    at first 0. instances: of each version, at least and at most, since an autoscaler
    would change what a share means to one of them; 1 unless given.
    """
    kind = type(strategy).__name__
    if not isinstance(strategy, Basic | BlueGreen | Canary | Rolling):
        why = BEYOND_KSERVE.get(kind, "it does Basic, BlueGreen, Canary and Rolling")
        raise CannotExport(f"an InferenceService cannot do {kind}: {why}.")
    refuse_gates(strategy, drop_gates, "KServe")
    if isinstance(strategy, Rolling):
        if instances not in (None, strategy.instances):
            raise ValueError(
                f"the strategy has {strategy.instances} instances, so instances="
                f"{instances} contradicts it; leave it out"
            )
        instances = strategy.instances
    instances = 1 if instances is None else instances
    if isinstance(strategy, Rolling) and strategy.min_ready_s:
        raise CannotExport(
            "KServe goes on as soon as an instance is ready; a Deployment waits for "
            "min_ready_s (kubernetes)."
        )
    pod = pod or Pod(pre_stop_s=pre_stop_of(strategy))
    check_name(f"{name}-candidate-predictor")
    check_numbers(instances=instances)
    moved = isinstance(strategy, BlueGreen | Canary)
    if serverless and not moved:
        raise CannotExport(
            f"in its Knative mode KServe has no {kind}: a new revision takes over when "
            "it is ready. Its Standard mode has the limits (serverless=False)."
        )
    if share is not None and not moved:
        raise ValueError(f"{kind} has no share to choose, so leave share={share} out")
    part = percent(moment(strategy, share)) if moved else 0
    count = {"minReplicas": instances, "maxReplicas": instances}
    if serverless:
        revision = {**count, "containers": [_revision(pod, versions.candidate)]}
        spec = {"predictor": {"canaryTrafficPercent": part, **revision}}
    elif moved:
        candidate = {
            "name": CANDIDATE,
            "minReplicas": instances,
            **pod.spec(versions.candidate, "kserve-container"),
        }
        stable = {**count, **pod.spec(versions.stable, "kserve-container")}
        beside = {"trafficPercent": part, "predictor": candidate}
        spec = {"predictor": stable, "canary": [beside]}
    else:
        how = {"deploymentStrategy": _in_waves(strategy)}
        pods = pod.spec(versions.candidate, "kserve-container")
        spec = {"predictor": {**count, **how, **pods}}
    about = metadata(name, {"app.kubernetes.io/name": name})
    mode = "Knative" if serverless else "Standard"
    about["annotations"] = {"serving.kserve.io/deploymentMode": mode}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": about,
        "spec": spec,
    }
    return to_yaml([service])


def _revision(pod: Pod, image: str) -> dict[str, object]:
    """A container as Knative takes it, which starts and stops pods in its own way."""
    return {
        "name": "kserve-container",
        "image": image,
        "ports": [{"containerPort": pod.port, "protocol": "TCP"}],
        "readinessProbe": {"httpGet": {"path": pod.ready_path, "port": pod.port}},
        "resources": {"requests": dict(pod.requests), "limits": dict(pod.limits)},
    }


def _in_waves(strategy: Basic | Rolling) -> dict[str, object]:
    if isinstance(strategy, Basic):
        return {"type": "Recreate"}
    limits = {
        "maxSurge": strategy.max_surge,
        "maxUnavailable": strategy.max_unavailable,
    }
    return {"type": "RollingUpdate", "rollingUpdate": limits}


def ray_serve(
    strategy: Strategy,
    versions: Versions,
    *,
    name: str,
    import_path: str,
    deployment: str = "Model",
    drain_s: int = 35,
    port: int = 8000,
    drop_gates: bool = False,
) -> str:
    """A configuration of Ray Serve as YAML, for ``serve deploy``.

    When an application changes, Ray Serve replaces a part of a deployment's replicas at
    a time, and starts the new ones when the old ones have stopped: that is ``Rolling``
    with ``max_surge=0``, and the part is ``rolling_update_percentage``, a fifth unless
    the strategy says otherwise. Or it starts some first, and stops old ones once as
    many run as are wanted: ``max_unavailable=0``, and ``max_surge_percent``. Both
    options need Ray 2.60 or later, and are left out where the strategy is what Ray does
    by itself. Replicas that still drain do not count. It has no gates, and no time that
    a replica must have been ready. Raises CannotExport for the other strategies,
    ValueError for settings that make no sense. Source: ``_rollout_size`` and
    ``_surge_replicas_to_start`` in ``ray/serve/_private/deployment_state.py``, 2.60.0.

    versions: the two images; the application runs in the candidate's, as its runtime
    environment's ``image_uri``. name: of the application. import_path: of the
    application in it, as in ``service.app:application``. deployment: the name of the
    one deployment that the strategy is of. drain_s: after how long a replica that is to
    go is stopped, whether or not it has answered. port: of the HTTP proxies.
    """
    kind = type(strategy).__name__
    if not isinstance(strategy, Rolling):
        why = BEYOND_RAY_SERVE.get(kind, "it does Rolling, and nothing else")
        raise CannotExport(f"Ray Serve cannot do {kind}: {why}.")
    refuse_gates(strategy, drop_gates, "Ray Serve")
    check_name(name)
    check_numbers(drain_s=drain_s, port=port)
    options = _ray_options(strategy.instances, *strategy.limits)
    if strategy.min_ready_s:
        raise CannotExport(
            "Ray Serve goes on as soon as a replica is ready; a Deployment waits for "
            "min_ready_s (kubernetes)."
        )
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", import_path):
        raise ValueError(
            f"import_path is a module and a name, as in service.app:application, not "
            f"{import_path!r}"
        )
    application = {
        "name": name,
        "route_prefix": "/",
        "import_path": import_path,
        "runtime_env": {"image_uri": versions.candidate},
        "deployments": [
            {
                "name": deployment,
                "num_replicas": strategy.instances,
                "graceful_shutdown_timeout_s": drain_s,
                "health_check_period_s": 10,
                "health_check_timeout_s": 30,
                **options,
            }
        ],
    }
    config = {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": port},
        "applications": [application],
    }
    return to_yaml([config])


def _ray_options(instances: int, surge: int, missing: int) -> dict[str, float]:
    """The options of a deployment of Ray Serve that has these limits, in replicas."""
    if surge and missing:
        raise CannotExport(
            f"Ray Serve starts new replicas first or stops old ones first, not both: "
            f"Rolling({instances}, {surge}, 0) or Rolling({instances}, 0, {missing}). "
            "A Deployment takes any limits (kubernetes)."
        )
    if not surge:
        if _ray_replaces(RAY_AT_ONCE, instances) == missing:
            return {}
        return {"rolling_update_percentage": _ray_share(missing, instances)}
    percentage = min(surge * 100 // instances, 100)
    takes = [-(-one * instances // 100) for one in (percentage, percentage + 1)]
    if takes[0] != surge:
        raise CannotExport(
            f"Ray Serve counts its surge in whole percent of the replicas, up to 100: "
            f"of {instances} it starts {takes[0]} first"
            + (f" or {takes[1]}" if percentage < 100 else "")
            + f", but not {surge}."
        )
    return {"max_surge_percent": percentage}


def _ray_replaces(share: float, instances: int) -> int:
    """How many replicas Ray Serve replaces at once; as it computes it itself."""
    return max(int(share * instances), 1)


def _ray_share(missing: int, instances: int) -> float:
    """The shortest share of the replicas that Ray Serve takes for this number.

    Its sum cuts off, and 0.29 of 100 is 28 there: so this tries, and does not divide.
    """
    for digits in itertools.count(1):
        least = math.ceil(missing / instances * 10**digits)
        for numerator in (least, least + 1):
            share = numerator / 10**digits
            if _ray_replaces(share, instances) == missing:
                return share
