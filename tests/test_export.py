"""Rolling updates as Kubernetes does them, and manifests that it would take."""

from __future__ import annotations

import copy
import inspect
import json
import math
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import jsonschema
import pytest
import yaml

from deploylab.rollout import export, fenceposts, strategies
from deploylab.rollout.judges import Threshold
from deploylab.rollout.model import Gate
from deploylab.rollout.strategies import (
    AB,
    Bandit,
    Basic,
    BlueGreen,
    Canary,
    MultiService,
    Rolling,
    Shadow,
)

HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (1, (1, 0)),
        (2, (1, 0)),
        (3, (1, 0)),
        (4, (1, 1)),
        (5, (2, 1)),
        (7, (2, 1)),
        (10, (3, 2)),
        (20, (5, 5)),
    ],
)
def test_a_quarter_each_way(instances, expected):
    assert fenceposts.resolve(instances, "25%", "25%") == expected


@pytest.mark.parametrize(
    ("instances", "surge", "unavailable", "expected"),
    [
        # The six examples in the comment above ResolveFenceposts, by what moves.
        (2, "0%", "1%", (0, 1)),
        (1, "0%", "1%", (0, 1)),
        (2, "1%", "25%", (1, 0)),
        (1, "1%", "25%", (1, 0)),
        (2, "1%", "0%", (1, 0)),
        (1, "1%", "0%", (1, 0)),
        # Counts are taken as they are; percentages of the surge may pass 100.
        (10, 1, 0, (1, 0)),
        (10, 0, 1, (0, 1)),
        (200, 0, 150, (0, 150)),
        (3, 7, 1, (7, 1)),
        (3, "200%", 0, (6, 0)),
        # No more can be missing than there are (MaxUnavailable).
        (3, 0, 7, (0, 3)),
        (3, 0, "100%", (0, 3)),
        # 0 by rounding is mended, 0 by hand is refused (below).
        (5, 0, "10%", (0, 1)),
        # Exact where a float is not: 0.29 * 100 is 28.999999999999996.
        (100, "29%", "29%", (29, 29)),
    ],
)
def test_limits_of_any_kind(instances, surge, unavailable, expected):
    assert fenceposts.resolve(instances, surge, unavailable) == expected


def test_rounding_against_exact_fractions():
    """Every percentage up to 100 of every fleet up to 60, on exact numbers."""
    for instances in range(1, 61):
        for percent in range(1, 101):
            share = Fraction(percent * instances, 100)
            surge, unavailable = fenceposts.resolve(
                instances, f"{percent}%", f"{percent}%"
            )
            assert (surge, unavailable) == (math.ceil(share), math.floor(share))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 1, 0), "instances is a whole number of instances, 1 or more, not 0"),
        ((-1, 1, 0), "instances is a whole number"),
        ((2.0, 1, 0), "instances is a whole number"),
        ((True, 1, 0), "instances is a whole number"),
        (("3", 1, 0), "instances is a whole number"),
        ((3, -1, 0), "max_surge is a whole number of instances, 0 or more, not -1"),
        ((3, 0, -1), "max_unavailable is a whole number"),
        ((3, True, 0), "max_surge is a whole number"),
        ((3, None, 1), "max_surge is a whole number"),
        ((3, "-5%", 0), "digits and a percent sign, as in \"25%\", not '-5%'$"),
        ((3, 1, "abc%"), "max_unavailable as a string is digits and a percent sign"),
        ((3, "25", 0), "not '25'; for 25 instances write 25$"),
        ((3, "2.5%", 0), "digits and a percent sign"),
        ((3, "25 %", 0), "digits and a percent sign"),
        ((3, "25%\n", 0), "digits and a percent sign"),
        ((3, "٢٥%", 0), "digits and a percent sign"),
        ((3, "%", 0), "digits and a percent sign"),
        ((3, "", 0), "digits and a percent sign"),
        ((3, 0.25, 0), "Kubernetes has no fractions"),
        ((3, 1, 0.25), "Kubernetes has no fractions"),
        ((3, 1, "101%"), "max_unavailable is at most 100%"),
        ((3, 0, 0), "leave nothing to move"),
        ((3, "0%", 0), "leave nothing to move"),
        ((3, 0, "0%"), "leave nothing to move"),
        ((3, "0%", "00%"), "leave nothing to move"),
    ],
)
def test_what_the_api_server_refuses(arguments, said):
    with pytest.raises(ValueError, match=said):
        fenceposts.resolve(*arguments)


# Waves. The second route simulates the controller on single pods, in the order of
# rolling.go: one scaling a pass, first up, then down, then the pods follow.


@dataclass
class ReplicaSet:
    """A number that is wanted, and pods that are: True once they are ready."""

    replicas: int = 0
    pods: list[bool] = field(default_factory=list)

    @property
    def available(self) -> int:
        return sum(self.pods)

    def settle(self) -> None:
        """Start what is missing; stop what is too many, the unready first."""
        self.pods.sort(reverse=True)
        del self.pods[self.replicas :]
        self.pods += [False] * (self.replicas - len(self.pods))


class Deployment:
    """A rolling update between two replica sets."""

    def __init__(self, instances: int, surge: int, unavailable: int) -> None:
        self.instances, self.surge = instances, surge
        self.min_available = instances - min(unavailable, instances)
        self.old = ReplicaSet(instances, [True] * instances)
        self.new = ReplicaSet()
        self.fewest_ready, self.most_pods = instances, instances

    def reconcile_new(self) -> bool:
        pods = self.old.replicas + self.new.replicas
        more = min(
            self.instances + self.surge - pods, self.instances - self.new.replicas
        )
        if more <= 0:
            return False
        self.new.replicas += more
        return True

    def reconcile_old(self) -> bool:
        unready = self.new.replicas - self.new.available
        pods = self.old.replicas + self.new.replicas
        if self.old.replicas == 0 or pods - self.min_available - unready <= 0:
            return False
        spare = self.old.available + self.new.available - self.min_available
        fewer = min(self.old.replicas, spare)
        if fewer <= 0:
            return False
        self.old.replicas -= fewer
        return True

    def reconcile(self) -> None:
        """Passes of the controller until it has nothing more to do."""
        while self.reconcile_new() or self.reconcile_old():
            for group in (self.old, self.new):
                group.settle()
            self.fewest_ready = min(self.fewest_ready, sum(self.ready()))
            self.most_pods = max(self.most_pods, len(self.old.pods + self.new.pods))

    def ready(self) -> tuple[int, int]:
        return self.old.available, self.new.available

    def roll(self) -> list[tuple[int, int]]:
        """What is ready after each wave, its old pods already stopped."""
        seen = [self.ready()]
        self.reconcile()
        while not all(self.new.pods):
            self.new.pods = [True] * len(self.new.pods)
            self.reconcile()
            seen.append(self.ready())
        return seen


SIZES = [
    (instances, surge, unavailable)
    for instances in range(1, 31)
    for surge in range(instances + 3)
    for unavailable in range(instances + 3)
    if surge + unavailable > 0
]


def test_waves_are_those_of_the_controller():
    for size in SIZES:
        assert fenceposts.waves(*size) == Deployment(*size).roll(), size


def test_the_controller_keeps_its_limits():
    """Else the second route would prove nothing: it uses both limits up, no more."""
    for instances, surge, unavailable in SIZES:
        deployment = Deployment(instances, surge, unavailable)
        deployment.roll()
        assert deployment.fewest_ready == instances - min(unavailable, instances)
        assert deployment.most_pods == instances + min(surge, instances)


def test_as_many_waves_as_it_takes():
    for instances, surge, unavailable in SIZES:
        step = surge + min(unavailable, instances)
        states = fenceposts.waves(instances, surge, unavailable)
        assert len(states) == 1 + math.ceil(instances / step)
        assert (states[0], states[-1]) == ((instances, 0), (0, instances))


@pytest.mark.parametrize(
    ("instances", "shares"),
    [
        (4, [0, 2 / 3, 1]),
        (5, [0, 3 / 4, 1]),
        (7, [0, 1 / 2, 1, 1]),  # 6 of 7 serve alone before the seventh is ready
        (10, [0, 5 / 8, 1]),
        (20, [0, 2 / 3, 1]),
    ],
)
def test_shares_of_the_default_limits(instances, shares):
    limits = fenceposts.resolve(instances, "25%", "25%")
    states = fenceposts.waves(instances, *limits)
    assert [new / (old + new) for old, new in states] == pytest.approx(shares)


def test_the_waves_of_seven_and_ten():
    assert fenceposts.waves(7, 2, 1) == [(7, 0), (3, 3), (0, 6), (0, 7)]
    assert fenceposts.waves(10, 3, 2) == [(10, 0), (3, 5), (0, 10)]


@pytest.mark.parametrize(
    "arguments", [(0, 1, 0), (3, 0, 0), (3, -1, 2), (3, 1, -1), (3, "25%", 1)]
)
def test_waves_that_cannot_be(arguments):
    with pytest.raises(ValueError):
        fenceposts.waves(*arguments)


# Manifests. The schema says what Kubernetes' API server would decode; what it asks
# beyond that is asked below, one by one.

DEFINITIONS = json.loads((HERE / "kubernetes_schema" / "v1.37.json").read_text())
KINDS = {
    ("apps/v1", "Deployment"): "io.k8s.api.apps.v1.Deployment",
    ("v1", "Service"): "io.k8s.api.core.v1.Service",
}
PINNED = "registry.example/team/phishing:2.1.0"
DIGEST = "@sha256:" + "0123456789abcdef" * 4
GATE = Gate("errors", Threshold(0.01))


def complaints(manifest: dict) -> list[str]:
    """What the schema of its kind has against a manifest."""
    name = KINDS[manifest["apiVersion"], manifest["kind"]]
    schema = DEFINITIONS | {"$ref": f"#/$defs/{name}"}
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{e.json_path}: {e.message}" for e in validator.iter_errors(manifest)]


def exported(strategy: object, **settings: object) -> tuple[str, dict, dict]:
    """The text, and the Deployment and the Service in it."""
    text = export.kubernetes(
        strategy, **{"name": "phishing", "image": PINNED} | settings
    )
    deployment, service = yaml.safe_load_all(text)
    return text, deployment, service


CASES = [
    (Basic(), {}),
    (Basic(bake_s=12.5), {"instances": 3}),
    (Rolling(1), {}),
    (Rolling(10), {}),
    (Rolling(10, 1, 0), {"port": 80, "ready_path": "/v2/health/ready"}),
    (Rolling(10, 0, "100%", min_ready_s=0.2), {"image": PINNED + DIGEST}),
    (Rolling(3, "200%", 0), {"requests": {}, "limits": {}}),
    (
        Rolling(4),
        {
            "name": "no",
            "requests": {"cpu": "1", "memory": "2Gi"},
            "limits": {"cpu": "1500m", "memory": "2.5G", "nvidia.com/gpu": "1"},
            "start_limit_s": 599,
            "pre_stop_s": 15,
            "drain_s": 120,
            "user_id": 1,
        },
    ),
]


@pytest.mark.parametrize(("strategy", "settings"), CASES)
def test_manifests_are_what_kubernetes_reads(strategy, settings):
    text, deployment, service = exported(strategy, **settings)
    assert complaints(deployment) == complaints(service) == []
    assert "&id" not in text  # an anchor would be legal, and no one would expect it
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    # Both select by what the pods carry, whatever their version.
    labels = spec["template"]["metadata"]["labels"]
    assert labels == {"app.kubernetes.io/name": deployment["metadata"]["name"]}
    assert spec["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    # Every port that is named exists.
    [port], [served] = container["ports"], service["spec"]["ports"]
    probes = [container[f"{w}Probe"] for w in ("startup", "readiness", "liveness")]
    ports = {probe["httpGet"]["port"] for probe in probes} | {served["targetPort"]}
    assert ports == {port["name"]}
    # Time enough to start before the deadline, and to drain before the stop.
    start = probes[0]["periodSeconds"] * probes[0]["failureThreshold"]
    assert spec["progressDeadlineSeconds"] > spec["minReadySeconds"]
    assert start >= settings.get("start_limit_s", 120)
    if isinstance(strategy, Basic):
        assert "lifecycle" not in container  # it would add to the outage
        sleep = 0
    else:
        sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = pod["terminationGracePeriodSeconds"] - sleep
    assert drain == settings.get("drain_s", 35) > 0
    # Pod Security Standard "restricted".
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Basic(), (1, {"type": "Recreate"}, 0)),
        (Basic(bake_s=0.2), (1, {"type": "Recreate"}, 1)),
        (Rolling(7), (7, ("25%", "25%"), 0)),
        (Rolling(7, 3, "10%", min_ready_s=30), (7, (3, "10%"), 30)),
        (Rolling(7, 0, 1, min_ready_s=30.5), (7, (0, 1), 31)),
    ],
)
def test_the_strategy_is_written_out(strategy, expected):
    instances, how, settle_s = expected
    if isinstance(how, tuple):
        limits = {"maxSurge": how[0], "maxUnavailable": how[1]}
        how = {"type": "RollingUpdate", "rollingUpdate": limits}
    _, deployment, _ = exported(strategy)
    spec = deployment["spec"]
    assert (spec["replicas"], spec["strategy"]) == (instances, how)
    assert spec["minReadySeconds"] == settle_s


def test_settings_arrive():
    requests, limits = {"cpu": "2", "memory": "1Gi"}, {"memory": "3Gi"}
    _, deployment, service = exported(
        Basic(),
        name="mail-filter",
        instances=4,
        port=9000,
        ready_path="/r",
        live_path="/l",
        requests=requests,
        limits=limits,
        start_limit_s=301,
        progress_deadline_s=900,
        user_id=65532,
    )
    assert (
        deployment["metadata"]["name"] == service["metadata"]["name"] == "mail-filter"
    )
    assert deployment["spec"]["replicas"] == 4
    assert deployment["spec"]["progressDeadlineSeconds"] == 900
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == 65532
    assert container["image"] == PINNED
    assert container["ports"] == [{"name": "http", "containerPort": 9000}]
    assert container["resources"] == {"requests": requests, "limits": limits}
    paths = {
        w: container[f"{w}Probe"]["httpGet"]["path"] for w in ("startup", "liveness")
    }
    assert paths == {"startup": "/r", "liveness": "/l"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/r"
    assert container["startupProbe"]["failureThreshold"] == 151


def test_keys_stand_in_the_usual_order():
    text, deployment, service = exported(Rolling(4))
    for manifest in (deployment, service):
        assert list(manifest) == ["apiVersion", "kind", "metadata", "spec"]
    assert list(deployment["spec"]["strategy"]) == ["type", "rollingUpdate"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert list(container)[:3] == ["name", "image", "ports"]
    assert text.startswith("apiVersion: apps/v1\nkind: Deployment\n")
    assert text.count("\n---\n") == 1


def test_the_listing_on_the_page_is_one_too():
    listing = HERE.parent / "book" / "listings" / "kubernetes" / "phishing-service.yaml"
    assert complaints(yaml.safe_load(listing.read_text())) == []


# The validator bites: one fault each, planted in a manifest that was right.


def in_pod(fault):
    return lambda deployment: fault(deployment["spec"]["template"]["spec"])


def in_container(fault):
    return in_pod(lambda pod: fault(pod["containers"][0]))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda d: d.update(specs={}), "'specs' was unexpected"),
        (lambda d: d.pop("spec"), "'spec' is a required property"),
        (lambda d: d["spec"].pop("selector"), "'selector' is a required property"),
        (lambda d: d["spec"].update(replicas="3"), "$.spec.replicas: '3' is not of"),
        (lambda d: d["spec"].update(minReadySeconds=0.5), "0.5 is not of type"),
        (lambda d: d["spec"].update(minReadySecond=5), "was unexpected"),
        (
            lambda d: d["spec"]["strategy"]["rollingUpdate"].update(maxSurge=0.25),
            "rollingUpdate.maxSurge: 0.25 is not valid",
        ),
        (
            lambda d: d["spec"]["strategy"].update(canary={}),
            "$.spec.strategy: Additional properties",
        ),
        (in_pod(lambda pod: pod.pop("containers")), "'containers' is a required"),
        (in_pod(lambda pod: pod.update(runAsNonRoot=True)), "was unexpected"),
        (in_container(lambda c: c.pop("name")), "'name' is a required property"),
        (in_container(lambda c: c.update(ports=8000)), "8000 is not of type"),
        (in_container(lambda c: c.update(livenessprobe={})), "was unexpected"),
        (
            in_container(lambda c: c["lifecycle"]["preStop"].update(sleep=5)),
            "5 is not of type",
        ),
        (
            in_container(lambda c: c["readinessProbe"]["httpGet"].pop("port")),
            "'port' is a required property",
        ),
        (
            in_container(lambda c: c["resources"].update(limits=["1Gi"])),
            "['1Gi'] is not of type",
        ),
    ],
)
def test_the_schema_bites(fault, said):
    _, deployment, _ = exported(Rolling(4))
    broken = copy.deepcopy(deployment)
    fault(broken)
    assert complaints(deployment) == []
    [complaint] = complaints(broken)
    assert said in complaint


def test_the_schema_bites_a_service():
    _, _, service = exported(Rolling(4))
    service["spec"]["ports"][0]["port"] = "80"
    service["spec"]["selectors"] = {}
    assert len(complaints(service)) == 2


# Refusals.


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("phishing", "has no tag, which means latest"),
        ("registry.example:5000/phishing", "has no tag, which means latest"),
        ("phishing:latest", "is latest"),
        ("registry.example:5000/phishing:latest", "is latest"),
        ("", "is no image"),
        ("phishing:", "is no image"),
        ("phishing:2.1.0\n", "is no image"),
        ("phishing :2.1.0", "is no image"),
        ("phishing@sha256:abc", "is no image"),
        ("phishing@sha256:" + "0" * 65, "is no image"),
        ("https://registry.example/phishing:2.1.0", "is no image"),
        ("Phishing:2.1.0", "is no image"),
        ("registry.example//phishing:2.1.0", "is no image"),
        ("phishing:2:1", "is no image"),
    ],
)
def test_images_that_are_not_pinned(image, said):
    with pytest.raises(ValueError, match=said):
        exported(Rolling(2), image=image)


@pytest.mark.parametrize(
    "image",
    [
        "phishing:2",
        "phishing:latest-2026-11-01",
        "registry.example:5000/phishing:2.1.0_rc.1",
        "phishing" + DIGEST,
        "phishing:latest" + DIGEST,  # the digest decides
        "phishing@sha512:" + "a" * 128,
    ],
)
def test_images_that_are_pinned(image):
    _, deployment, _ = exported(Rolling(2), image=image)
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "Phishing"}, "none that a Service may have"),
        ({"name": "2-phishing"}, "none that a Service may have"),
        ({"name": "phishing-"}, "none that a Service may have"),
        ({"name": "p" * 64}, "none that a Service may have"),
        ({"name": "phishing\n"}, "none that a Service may have"),
        ({"ready_path": "ready"}, "ready_path begins with a slash"),
        ({"live_path": ""}, "live_path begins with a slash"),
        ({"port": 0}, "port is a whole number"),
        ({"port": True}, "port is a whole number"),
        ({"port": 65536}, "port is at most 65535"),
        ({"user_id": 0}, "user_id is a whole number, 1 or more"),
        ({"pre_stop_s": -1}, "pre_stop_s is a whole number"),
        ({"pre_stop_s": 0.5}, "pre_stop_s is a whole number"),
        ({"drain_s": 0.5}, "drain_s is a whole number"),
        ({"start_limit_s": 600}, "Give it more than 600 s"),
        ({"progress_deadline_s": 100}, "Give it more than 120 s"),
        ({"instances": 3}, "the strategy has 2 instances, so instances=3 contradicts"),
        ({"requests": {"memory": "512MB"}}, "'512MB' of memory is no quantity"),
        ({"requests": {"memory": "512m"}}, "'512m' of memory is no quantity"),
        ({"requests": {"cpu": 1}}, "1 of cpu is no quantity"),
        ({"limits": {"cpu": "-1"}}, "'-1' of cpu is no quantity"),
        ({"requests": {"memory": "1Gi"}}, "asks for 1Gi of memory and may have 512Mi"),
        ({"limits": {"cpu": "499m"}}, "asks for 500m of cpu and may have 499m"),
        ({"limits": {"memory": "536870911"}}, "asks for 512Mi of memory"),
    ],
)
def test_settings_that_kubernetes_would_refuse_or_regret(settings, said):
    with pytest.raises(ValueError, match=said):
        exported(Rolling(2), **settings)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        ("999m", "1"),
        ("1000", "1k"),
        ("1k", "1Ki"),
        ("999M", "1G"),
        ("1Mi", "1.1Mi"),
        ("1023Mi", "1Gi"),
        ("999T", "1P"),
        ("1023Pi", "1Ei"),
    ],
)
def test_quantities_are_compared_as_amounts(small, large):
    exported(Basic(), requests={"cpu": small}, limits={"cpu": large})
    if small != "1000":
        with pytest.raises(ValueError, match="raise the limit, or ask for less"):
            exported(Basic(), requests={"cpu": large}, limits={"cpu": small})


def test_basic_takes_its_number_from_the_call_and_rolling_from_itself():
    with pytest.raises(ValueError, match="instances is a whole number, 1 or more"):
        exported(Basic(), instances=0)
    _, deployment, _ = exported(Rolling(2), instances=2)
    assert deployment["spec"]["replicas"] == 2


@pytest.mark.parametrize("strategy", [Basic((GATE,), 30), Rolling(4, gates=(GATE,))])
def test_gates_are_dropped_only_knowingly(strategy):
    with pytest.raises(export.CannotExport, match=r"reports .* does not roll back"):
        exported(strategy)
    _, deployment, service = exported(strategy, drop_gates=True)
    assert complaints(deployment) == complaints(service) == []


BEYOND = [
    (Canary((0.05, 0.5), 60, (GATE,)), "Argo Rollouts .* Flagger .* Rolling"),
    (BlueGreen(600), "Argo Rollouts .* Flagger .* two Deployments"),
    (Shadow(0.1, 600, (GATE,)), "Gateway API .* RequestMirror"),
    (AB(1000, GATE, 3600), "Gateway API .* header match .* Flagger"),
    (Bandit("errors", 60, 3600), "no engine .* weights of an HTTPRoute"),
    (MultiService({"phishing": Basic()}), "Export the strategy of each service"),
    (object(), "cannot do object: it does Basic and Rolling"),
]


@pytest.mark.parametrize(
    ("strategy", "said"), BEYOND, ids=lambda value: type(value).__name__
)
def test_what_a_deployment_cannot_do_names_what_can(strategy, said):
    with pytest.raises(export.CannotExport, match=said) as refused:
        exported(strategy, drop_gates=True)
    assert isinstance(refused.value, ValueError)


def test_every_strategy_is_exported_or_refused_by_name():
    """So that a new strategy cannot be forgotten here."""
    known = {
        name
        for name, kind in inspect.getmembers(strategies, inspect.isclass)
        if kind.__module__ == strategies.__name__
        and hasattr(kind, "next")
        and name != "Strategy"
    }
    assert known == {"Basic", "Rolling"} | export.BEYOND_A_DEPLOYMENT.keys()


def test_basic_sleeps_only_when_it_is_told_to():
    def pod_of(strategy, **settings):
        _, deployment, _ = exported(strategy, **settings)
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        return container.get("lifecycle"), pod["terminationGracePeriodSeconds"]

    assert pod_of(Basic()) == (None, 35)
    asleep = {"preStop": {"sleep": {"seconds": 15}}}
    assert pod_of(Basic(), pre_stop_s=15) == (asleep, 50)
    for strategy in (Basic(), Rolling(2)):
        assert pod_of(strategy, pre_stop_s=0) == (None, 35)
