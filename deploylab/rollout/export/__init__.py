"""Strategies as manifests for engines that exist.

``own`` writes a strategy in this course's own words, which `deploylab lint` reads.
``to_manifests`` takes a strategy, its versions and the name of an engine; each engine
has a function of its own, which says what it translates and how. What an engine cannot
express is refused, with the name of one that can; nothing is left out silently.
"""

from deploylab.rollout.export.argo import BEYOND_A_ROLLOUT, argo_rollouts
from deploylab.rollout.export.deployment import BEYOND_A_DEPLOYMENT, kubernetes
from deploylab.rollout.export.flagger_canary import BEYOND_FLAGGER, flagger
from deploylab.rollout.export.gateway import BEYOND_A_ROUTE, gateway_api
from deploylab.rollout.export.own import own
from deploylab.rollout.export.pods import CannotExport, Pod, Versions
from deploylab.rollout.export.queries import Prometheus
from deploylab.rollout.export.serving import (
    BEYOND_KSERVE,
    BEYOND_RAY_SERVE,
    kserve,
    ray_serve,
)
from deploylab.rollout.strategies import Strategy

__all__ = [
    "BEYOND_A_DEPLOYMENT",
    "BEYOND_A_ROLLOUT",
    "BEYOND_A_ROUTE",
    "BEYOND_FLAGGER",
    "BEYOND_KSERVE",
    "BEYOND_RAY_SERVE",
    "ENGINES",
    "CannotExport",
    "Pod",
    "Prometheus",
    "Versions",
    "argo_rollouts",
    "flagger",
    "gateway_api",
    "kserve",
    "kubernetes",
    "own",
    "ray_serve",
    "to_manifests",
]

#: The engines, by name, and what writes their manifests.
ENGINES = {
    "kubernetes": kubernetes,
    "argo-rollouts": argo_rollouts,
    "flagger": flagger,
    "gateway-api": gateway_api,
    "kserve": kserve,
    "ray-serve": ray_serve,
}


def to_manifests(
    strategy: Strategy, versions: Versions, *, engine: str, **settings: object
) -> str:
    """The manifests of a strategy and its versions for one engine, as YAML.

    engine: one of ENGINES. settings: those of the engine's own function, above all
    ``name``. Raises CannotExport for what the engine cannot do, ValueError for bad
    settings and an engine that is not known.
    """
    if engine not in ENGINES:
        raise ValueError(f"the engines are {', '.join(ENGINES)}; {engine!r} is none")
    if engine == "kubernetes":
        return kubernetes(strategy, image=versions.candidate, **settings)
    return ENGINES[engine](strategy, versions, **settings)
