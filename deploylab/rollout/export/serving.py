"""A strategy for servers of models: KServe's InferenceService, and Ray Serve."""

from __future__ import annotations

from deploylab.rollout import fenceposts
from deploylab.rollout.export.gateway import refuse_gates
from deploylab.rollout.export.pods import (
    CannotExport,
    Pod,
    Versions,
    check_name,
    check_numbers,
    metadata,
    to_yaml,
)
from deploylab.rollout.export.queries import percent
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
        "starts a second cluster and moves all traffic when it is ready (upgradeStrategy "
        "NewCluster); it has no gates and does not keep the old side"
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

#: How much of a deployment Ray Serve replaces at once, and at least one replica.
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
    beside the stable version: for the Standard mode, from the definition of commit
    aaac4e294 on. ``serverless=True`` gives what the Knative mode has instead:
    canaryTrafficPercent on a predictor that runs the candidate; the stable version is
    the revision that had all traffic last, as KServe remembers it, so it is not in the
    file. ``BlueGreen`` is the same with a share of 0 or 1. ``Rolling`` becomes the
    deploymentStrategy of the Standard mode with both limits written out, ``Basic`` its
    type Recreate. Raises CannotExport for the other strategies and for shares that are
    no whole percentage; ValueError for what the API server would refuse.

    versions: the two images. name: of the service. share: the candidate's, for
    ``Canary`` one of its shares, 0 or 1, at first its first; for ``BlueGreen`` 0 or 1, at
    first 0. instances: of each version, at least and at most, since an autoscaler would
    change what a share means to one of them; 1 unless given.
    """
    kind = type(strategy).__name__
    if not isinstance(strategy, Basic | BlueGreen | Canary | Rolling):
        why = BEYOND_KSERVE.get(kind, "it does Basic, BlueGreen, Canary and Rolling")
        raise CannotExport(f"an InferenceService cannot do {kind}: {why}.")
    refuse_gates(strategy, drop_gates, "KServe measures nothing")
    if isinstance(strategy, Rolling):
        if instances not in (None, strategy.instances):
            raise ValueError(
                f"the strategy has {strategy.instances} instances, so instances="
                f"{instances} contradicts it; leave it out"
            )
        instances = strategy.instances
    instances = 1 if instances is None else instances
    pod = pod or Pod()
    check_name(f"{name}-predictor")
    check_numbers(instances=instances)
    moved = isinstance(strategy, BlueGreen | Canary)
    if serverless and not moved:
        raise CannotExport(
            f"in its Knative mode KServe has no {kind}: a new revision takes over when it "
            "is ready. Its Standard mode has both limits (serverless=False)."
        )
    if share is not None and not moved:
        raise ValueError(f"{kind} has no share to choose, so leave share={share} out")

    def predictor(image: str) -> dict[str, object]:
        spec = pod.spec(image, container="kserve-container")
        return {"minReplicas": instances, "maxReplicas": instances, **spec}

    mode = "Knative" if serverless else "Standard"
    about = metadata(name, {"app.kubernetes.io/name": name})
    about["annotations"] = {"serving.kserve.io/deploymentMode": mode}
    if not moved:
        spec = {"predictor": predictor(versions.candidate) | _in_waves(strategy)}
    else:
        part = percent(strategy.moment(share) if False else _moment(strategy, share))
        if serverless:
            candidate = predictor(versions.candidate)
            spec = {"predictor": {"canaryTrafficPercent": part, **candidate}}
        else:
            beside = {"trafficPercent": part, "predictor": predictor(versions.candidate)}
            spec = {"predictor": predictor(versions.stable), "canary": [beside]}
    service = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": about,
        "spec": spec,
    }
    return to_yaml([service])
