"""A moment of a strategy as an HTTPRoute of the Kubernetes Gateway API."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from deploylab.rollout.export.pods import (
    CannotExport,
    Pod,
    Versions,
    check_name,
    check_numbers,
    gently,
    metadata,
    service,
    to_yaml,
)
from deploylab.rollout.model import CANDIDATE, STABLE
from deploylab.rollout.strategies import AB, BlueGreen, Canary, Shadow, Strategy

#: The most that a weight of an HTTPRoute may be.
LARGEST_WEIGHT = 1_000_000
#: The header that tells a user of the test from the others, and its value.
HEADER = ("x-version", CANDIDATE)

#: What an HTTPRoute lacks for each strategy, and what has it.
BEYOND_A_ROUTE = {
    "Basic": "it moves traffic, not instances; a Deployment does Basic (kubernetes)",
    "Rolling": "it moves traffic, not instances; a Deployment does it (kubernetes)",
    "Bandit": (
        "nobody computes the weights anew. The nearest is a controller of one's own "
        "that patches the weights of the HTTPRoute which Canary((0.5,), ...) gives"
    ),
    "MultiService": "a route is of one service; export the strategy of each service",
}


def gateway_api(
    strategy: Strategy,
    versions: Versions,
    *,
    name: str,
    gateway: str,
    share: float | None = None,
    instances: int = 1,
    header: tuple[str, str] = HEADER,
    pod: Pod | None = None,
    drop_gates: bool = False,
) -> str:
    """Both versions, each with a Service, and the HTTPRoute between them, as YAML.

    An HTTPRoute (gateway.networking.k8s.io/v1) is a picture of one moment. Nothing in
    the Gateway API waits, measures or decides: so a strategy with gates is refused,
    unless ``drop_gates=True`` leaves them out, and the next stage is another export.

    ``Canary`` and ``BlueGreen`` become weights, both written out, because a weight that
    is left out is 1 and not 0. ``Shadow`` becomes the filter RequestMirror, with the
    percentage. ``AB`` becomes a match of a header, which something in front must set
    for the same users each time: an HTTPRoute matches users and does not draw them.
    Raises CannotExport for the other strategies, ValueError for what the API server
    would refuse. Source: the HTTPRoute definition of the Gateway API, commit 4564255ac;
    RequestMirror's percentage is GEP-3171.

    versions: the two images. name: of the route, and the beginning of all other names.
    gateway: the name of the Gateway that the route belongs to. share: the candidate's,
    for ``Canary`` one of its shares, 0 or 1, at first its first; for ``BlueGreen`` 0 or
    1, at first 0. instances: of each version. header: its name and the value that means
    the candidate, for ``AB``.
    """
    kind = type(strategy).__name__
    if not isinstance(strategy, Canary | BlueGreen | Shadow | AB):
        why = BEYOND_A_ROUTE.get(kind, "it does Canary, BlueGreen, Shadow and AB")
        raise CannotExport(f"an HTTPRoute cannot do {kind}: {why}.")
    refuse_gates(strategy, drop_gates, "the Gateway API")
    if isinstance(strategy, Canary | BlueGreen):
        rules = [_weighted(name, moment(strategy, share))]
    elif share is not None:
        raise ValueError(f"{kind} has no share to choose, so leave share={share} out")
    elif isinstance(strategy, Shadow):
        rules = [_mirrored(name, strategy.mirrored)]
    else:
        rules = _matched(name, header)
    objects = both(versions, name=name, instances=instances, pod=pod or Pod())
    objects.append(route(name, gateway, rules))
    return to_yaml(objects)


def both(
    versions: Versions, *, name: str, instances: int, pod: Pod
) -> list[dict[str, object]]:
    """A Deployment and a Service for each version, told apart by the label ``role``."""
    check_name(f"{name}-{CANDIDATE}")
    check_numbers(instances=instances)
    pod.check_deadline()
    objects = []
    for role, image in ((STABLE, versions.stable), (CANDIDATE, versions.candidate)):
        labels = {"app.kubernetes.io/name": name, "role": role}
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata(f"{name}-{role}", labels),
            "spec": {
                "replicas": instances,
                "selector": {"matchLabels": dict(labels)},
                "strategy": gently(),
                "minReadySeconds": 0,
                "progressDeadlineSeconds": pod.progress_deadline_s,
                "template": pod.template(image, labels),
            },
        }
        objects += [deployment, service(f"{name}-{role}", labels)]
    return objects


def route(
    name: str,
    gateway: str,
    rules: list[dict[str, object]],
    namespace: str | None = None,
) -> dict[str, object]:
    """An HTTPRoute with these rules."""
    check_name(gateway)
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(name, {"app.kubernetes.io/name": name}, namespace),
        "spec": {"parentRefs": [{"name": gateway}], "rules": rules},
    }


def backend(service_name: str, **settings: int) -> dict[str, object]:
    """A reference to a Service on port 80."""
    return {"name": service_name, "port": 80, **settings}


def weights(share: float) -> tuple[int, int]:
    """Whole weights in the ratio of stable's share to the candidate's.

    Their sum is 100 where that is exact, else the smallest that is.
    """
    exact = Fraction(str(share))
    total = 100 if (exact * 100).denominator == 1 else exact.denominator
    if total > LARGEST_WEIGHT:
        raise CannotExport(
            f"no weights up to {LARGEST_WEIGHT:,} have the ratio of the share {share}; "
            "round it to six digits"
        )
    candidate = int(exact * total)
    return total - candidate, candidate


def _weighted(name: str, share: float) -> dict[str, object]:
    stable, candidate = weights(share)
    return {
        "backendRefs": [
            backend(f"{name}-{STABLE}", weight=stable),
            backend(f"{name}-{CANDIDATE}", weight=candidate),
        ]
    }


def _mirrored(name: str, share: float) -> dict[str, object]:
    copy: dict[str, object] = {"backendRef": backend(f"{name}-{CANDIDATE}")}
    exact = Fraction(str(share))
    if (exact * 100).denominator == 1:
        copy["percent"] = int(exact * 100)
    else:
        copy["fraction"] = {
            "numerator": exact.numerator,
            "denominator": exact.denominator,
        }
    return {
        "filters": [{"type": "RequestMirror", "requestMirror": copy}],
        "backendRefs": [backend(f"{name}-{STABLE}", weight=1)],
    }


def _matched(name: str, header: tuple[str, str]) -> list[dict[str, object]]:
    field, value = header
    match = {"type": "Exact", "name": field, "value": value}
    return [
        {
            "matches": [{"headers": [match]}],
            "backendRefs": [backend(f"{name}-{CANDIDATE}", weight=1)],
        },
        {"backendRefs": [backend(f"{name}-{STABLE}", weight=1)]},
    ]


def moment(strategy: Canary | BlueGreen, share: float | None) -> float:
    """The share that is exported, which is one that the strategy has."""
    shares = strategy.shares if isinstance(strategy, Canary) else ()
    if share is None:
        return shares[0] if shares else 0.0
    if share not in (0.0, *shares, 1.0):
        known = ", ".join(f"{one:g}" for one in (0.0, *shares, 1.0))
        raise ValueError(f"the strategy never has the share {share}; it has {known}")
    return share


def refuse_gates(strategy: Strategy, drop_gates: bool, engine: str) -> None:
    """Refuse what an engine that only routes cannot do: gates, and sticky shares."""
    names: Mapping[str, object] = vars(strategy)
    found = any(names.get(one) for one in ("gates", "before", "guards", "decides"))
    if found and not drop_gates:
        raise CannotExport(
            f"{engine} measures nothing, so it has no gates. Argo Rollouts and Flagger "
            "have them, and move the weights of an HTTPRoute. With drop_gates=True "
            "they are left out, and somebody has to watch."
        )
    if isinstance(strategy, Canary) and strategy.sticky:
        raise CannotExport(
            f"the weights of {engine} draw each request for itself, so a user would "
            "change sides. The nearest is a match of a header that something in front "
            "sets by user, as the Gateway API has for AB (gateway_api)."
        )
