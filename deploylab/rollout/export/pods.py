"""What one instance is on Kubernetes: its pod, and the Service in front of it.

Shared by all engines that run pods, so that a version is the same pod whatever moves
its traffic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

import yaml

from deploylab.rollout.strategies import Basic, Strategy

#: What one instance asks for, and may have. Memory is limited to what was asked for, so
#: the node does not promise it twice; CPU is not limited, because that would throttle
#: the server in the middle of an answer while the node has time to spare.
REQUESTS = {"cpu": "500m", "memory": "512Mi"}
LIMITS = {"memory": "512Mi"}
#: Seconds that a pod which is to go serves on, so that routers learn of it first.
PRE_STOP_S = 5

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


@dataclass(frozen=True)
class Versions:
    """The images of the two versions, each with a tag that stays, or a digest."""

    stable: str
    candidate: str

    def __post_init__(self) -> None:
        check_image(self.stable)
        check_image(self.candidate)
        if self.stable == self.candidate:
            raise ValueError(
                f"both versions are {self.stable}, so there is nothing to roll out; "
                "give the candidate the image of the new version"
            )


@dataclass(frozen=True)
class Pod:
    """The settings of an instance, the same for both versions.

    port, ready_path, live_path: of the server. requests, limits: quantities by
    resource, as in ``{"memory": "512Mi"}``. start_limit_s: within it the server must be
    ready, or it is restarted. pre_stop_s: how long a pod that is to go serves on before
    it is told to stop; drain_s: after how long from then it is killed.
    progress_deadline_s: after so long without progress the engine reports failure.
    user_id: the user that the server runs as, by number, not 0. All times are whole
    seconds. Raises ValueError for what the API server would refuse.
    """

    port: int = 8000
    ready_path: str = "/ready"
    live_path: str = "/health"
    requests: Mapping[str, str] = field(default_factory=lambda: dict(REQUESTS))
    limits: Mapping[str, str] = field(default_factory=lambda: dict(LIMITS))
    start_limit_s: int = 120
    pre_stop_s: int = PRE_STOP_S
    drain_s: int = 35
    progress_deadline_s: int = 600
    user_id: int = 10001

    def __post_init__(self) -> None:
        check_paths(ready_path=self.ready_path, live_path=self.live_path)
        check_numbers(
            port=self.port,
            start_limit_s=self.start_limit_s,
            drain_s=self.drain_s,
            progress_deadline_s=self.progress_deadline_s,
            user_id=self.user_id,
        )
        if self.pre_stop_s != 0:  # 0 is to go at once
            check_numbers(pre_stop_s=self.pre_stop_s)
        check_resources(self.requests, self.limits)
        if self.port > 65535:
            raise ValueError(f"port is at most 65535, not {self.port}")

    def check_deadline(self, settle_s: int = 0) -> None:
        """Refuse a deadline that is over before an instance has had its time."""
        if self.progress_deadline_s <= self.start_limit_s + settle_s:
            raise ValueError(
                f"progress_deadline_s={self.progress_deadline_s} is over before an "
                f"instance has had its time: {self.start_limit_s} s to start and "
                f"{settle_s} s to stay ready. "
                f"Give it more than {self.start_limit_s + settle_s} s."
            )

    def container(self, image: str, name: str = "server") -> dict[str, object]:
        """The one container of a pod."""
        check_image(image)
        sleep = {"preStop": {"sleep": {"seconds": self.pre_stop_s}}}
        return {
            "name": name,
            "image": image,
            "ports": [{"name": "http", "containerPort": self.port}],
            "startupProbe": _probe(
                self.ready_path,
                failureThreshold=math.ceil(self.start_limit_s / _PROBE_PERIOD_S),
            ),
            "readinessProbe": _probe(self.ready_path, timeoutSeconds=2),
            # A restart is the last resort, so liveness is more patient than readiness.
            "livenessProbe": _probe(
                self.live_path, periodSeconds=10, timeoutSeconds=5, failureThreshold=6
            ),
            **({"lifecycle": sleep} if self.pre_stop_s else {}),
            "resources": {"requests": dict(self.requests), "limits": dict(self.limits)},
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }

    def spec(self, image: str, container: str = "server") -> dict[str, object]:
        """A pod that keeps to the Pod Security Standard *restricted*."""
        return {
            "automountServiceAccountToken": False,  # it asks nothing of the cluster
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": self.user_id,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": self.pre_stop_s + self.drain_s,
            "containers": [self.container(image, container)],
        }

    def template(self, image: str, labels: Mapping[str, str]) -> dict[str, object]:
        """The template of a controller that starts such pods."""
        return {"metadata": {"labels": dict(labels)}, "spec": self.spec(image)}


class _Dumper(yaml.SafeDumper):
    """Writes text of several lines as lines, so that a query stays readable."""


def _as_lines(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _as_lines)


def to_yaml(objects: list[dict[str, object]]) -> str:
    """Objects as one YAML text, keys in the order in which they were written."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=1000)


def metadata(
    name: str, labels: Mapping[str, str], namespace: str | None = None
) -> dict[str, object]:
    """The metadata of an object."""
    where = {} if namespace is None else {"namespace": namespace}
    return {"name": name, **where, "labels": dict(labels)}


def service(
    name: str, selects: Mapping[str, str], namespace: str | None = None
) -> dict[str, object]:
    """A Service (v1) on port 80 for the pods with these labels."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(name, selects, namespace),
        "spec": {
            "selector": dict(selects),
            "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
        },
    }


def gently() -> dict[str, object]:
    """How a Deployment replaces its pods where something else moves the traffic.

    None is taken away before another is ready: they have users while that happens.
    Written out, because the default takes a quarter of them away.
    """
    limits = {"maxSurge": "25%", "maxUnavailable": 0}
    return {"type": "RollingUpdate", "rollingUpdate": limits}


def pre_stop_of(strategy: Strategy) -> int:
    """How long the pods of a strategy serve on, unless somebody says so.

    Those of ``Basic`` do not: the new ones wait until they have ended.
    """
    return 0 if isinstance(strategy, Basic) else PRE_STOP_S


def _probe(path: str, **settings: int) -> dict[str, object]:
    where = {"httpGet": {"path": path, "port": "http"}}
    return where | {"periodSeconds": _PROBE_PERIOD_S} | settings


def check_name(name: str) -> None:
    if not re.fullmatch(_LABEL, name):
        raise ValueError(
            f"the name {name!r} is none that a Service may have: lower-case letters, "
            "digits and hyphens, a letter first, no hyphen last, at most 63"
        )


def check_image(image: str) -> None:
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


def check_paths(**paths: str) -> None:
    for name, path in paths.items():
        if not path.startswith("/"):
            raise ValueError(f"{name} begins with a slash, as in /ready, not {path!r}")


def check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"{name} is a whole number, 1 or more, not {number!r}: a manifest has "
                "no fractions here"
            )


def check_resources(requests: Mapping[str, str], limits: Mapping[str, str]) -> None:
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
