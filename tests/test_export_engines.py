"""Strategies as manifests for Argo Rollouts, Flagger and the Gateway API."""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from fractions import Fraction

import engine_fields
import jsonschema
import pytest
import yaml

from deploylab.rollout import export, strategies
from deploylab.rollout.export.gateway import weights
from deploylab.rollout.export.queries import names
from deploylab.rollout.judges import SplitEProcess, Threshold
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

VERSIONS = export.Versions("registry.example/phishing:1", "registry.example/phishing:2")
GATE = Gate("errors", Threshold(0.01, at_least=50, window_s=60))
SLOW = Gate("slow", Threshold(0.05, window_s=60))
LENIENT = Gate("errors", Threshold(0.01, failures=3, window_s=60))
COUNTED = export.Prometheus(
    events={"errors": 'code=~"5.."', "slow": 'slow="true"'},
    users="first_requests_total",
)
ARGO, FLAGGER, GATEWAY = "argo-rollouts", "flagger", "gateway-api"
KSERVE, RAY = "kserve", "ray-serve"


def exported(engine: str, strategy: object, **settings: object) -> list[dict]:
    """The objects of an export."""
    defaults = {"name": "phishing"}
    if engine in (ARGO, FLAGGER, GATEWAY):
        defaults["gateway"] = "edge"
    if engine == RAY:
        defaults["import_path"] = "service.app:application"
    text = export.to_manifests(
        strategy, VERSIONS, engine=engine, **(defaults | settings)
    )
    return list(yaml.safe_load_all(text))


def one(objects: list[dict], kind: str) -> dict:
    """The only object of a kind."""
    [found] = [each for each in objects if each["kind"] == kind]
    return found


def complaints(schema: dict, manifest: dict) -> list[str]:
    """What a schema has against a manifest."""
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{e.json_path}: {e.message}" for e in validator.iter_errors(manifest)]


LOAD = {"load_url": "http://flagger-loadtester.test"}
DECIDE = {"decide_url": "http://referee.test"}
CASES = {
    "argo canary": (ARGO, Canary((0.05, 0.5), 60, (GATE,)), {}),
    "argo canary, stages of two lengths": (
        ARGO,
        Canary((0.01, 0.2, 0.5), (60, 150, 300), (GATE, SLOW)),
        {"prometheus": COUNTED, "instances": 4},
    ),
    "argo canary in the background": (
        ARGO,
        Canary((0.05, 0.5), 300, (LENIENT,)),
        {"background": True, "namespace": "mail"},
    ),
    "argo canary, one stage": (ARGO, Canary((0.5,), 600, (LENIENT,)), {}),
    "argo canary without gates": (
        ARGO,
        Canary((0.5,), 600, (LENIENT,)),
        {"drop_gates": True},
    ),
    "argo canary of users": (
        ARGO,
        Canary((0.5,), 60, (Gate("errors", GATE.judge, unit="user"),)),
        {"prometheus": COUNTED},
    ),
    "argo blue/green": (ARGO, BlueGreen(600, (GATE,)), {}),
    "argo blue/green, tried before": (
        ARGO,
        BlueGreen(90, (GATE,), before=(GATE, GATE)),
        {"sends_preview": True},
    ),
    "argo blue/green without gates": (ARGO, BlueGreen(0), {}),
    "argo rolling": (ARGO, Rolling(10, 3, "10%", min_ready_s=30), {}),
    "flagger canary": (FLAGGER, Canary((0.05, 0.5), 60, (GATE,)), {}),
    "flagger canary, two gates": (
        FLAGGER,
        Canary((0.05, 0.5), 60, (GATE, SLOW)),
        {"prometheus": COUNTED},
    ),
    "flagger canary, lenient": (FLAGGER, Canary((0.05,), 60, (LENIENT,)), {}),
    "flagger blue/green": (FLAGGER, BlueGreen(60, (GATE,), before=(GATE,)), LOAD),
    "flagger shadow": (FLAGGER, Shadow(1, 600, (LENIENT,)), LOAD),
    "flagger test": (
        FLAGGER,
        AB(1000, GATE, 3600, guards=(GATE,)),
        {**DECIDE, "prometheus": COUNTED},
    ),
    "gateway canary": (GATEWAY, Canary((0.05, 0.5), 60, ()), {}),
    "gateway canary, later": (
        GATEWAY,
        Canary((0.0005, 0.5), 60, (GATE,)),
        {"drop_gates": True, "share": 0.0005, "instances": 3},
    ),
    "gateway blue/green": (GATEWAY, BlueGreen(60), {"share": 1}),
    "gateway shadow": (GATEWAY, Shadow(0.1, 60, (GATE,)), {"drop_gates": True}),
    "gateway shadow, a part of a percent": (
        GATEWAY,
        Shadow(0.125, 60, (GATE,)),
        {"drop_gates": True},
    ),
    "gateway test": (GATEWAY, AB(100, GATE, 60), {"drop_gates": True}),
    "kserve canary": (KSERVE, Canary((0.05, 0.5), 60, ()), {}),
    "kserve canary, later": (
        KSERVE,
        Canary((0.05, 0.5), 60, (GATE,)),
        {"share": 0.5, "drop_gates": True, "instances": 3},
    ),
    "kserve canary on knative": (
        KSERVE,
        Canary((0.05, 0.5), 60, ()),
        {"serverless": True},
    ),
    "kserve blue/green": (KSERVE, BlueGreen(60), {"share": 1}),
    "kserve rolling": (KSERVE, Rolling(10, 1, "10%"), {}),
    "kserve basic": (KSERVE, Basic(), {}),
    "argo as argo has it": (
        ARGO,
        Canary((0.5,), 600, (Gate("errors", Threshold.argo(0.01, window_s=60)),)),
        {},
    ),
    "flagger as flagger has it": (
        FLAGGER,
        Canary(
            (0.5,),
            60,
            (Gate("errors", Threshold.flagger(0.01, window_s=60, threshold=5)),),
        ),
        {},
    ),
    "kubernetes rolling": ("kubernetes", Rolling(4), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_manifests_have_known_fields_only(case):
    engine, strategy, settings = CASES[case]
    objects = exported(engine, strategy, **settings)
    for each in objects:
        schema = engine_fields.of_kind(each["apiVersion"], each["kind"])
        assert complaints(schema, each) == []
    # No two objects of a kind have one name, and all that is referred to is there.
    keys = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(keys) == len(set(keys))
    assert referred(objects) <= set(keys)
    spaces = {each["metadata"].get("namespace") for each in objects}
    assert len(spaces) == 1


def referred(objects: list[dict]) -> set[tuple[str, str]]:
    """The objects that others name, Flagger's own Services and the Gateway aside."""
    found = set()
    for path, value in leaves(objects):
        match path[-1]:
            case "templateName":
                found.add(("AnalysisTemplate", value))
            case "stableService" | "canaryService" | "activeService" | "previewService":
                found.add(("Service", value))
            case "httpRoute":
                found.add(("HTTPRoute", value))
            case "name" if "backendRefs" in path or "backendRef" in path:
                found.add(("Service", value))
            case "name" if "templateRef" in path:
                found.add(("MetricTemplate", value))
            case "name" if "targetRef" in path:
                found.add(("Deployment", value))
    return found


def leaves(value: object, path: tuple = ()) -> list[tuple[tuple, object]]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    else:
        return [(path, value)]
    return [leaf for name, part in parts for leaf in leaves(part, (*path, name))]


def published() -> None:
    if not engine_fields.folder().is_dir():
        pytest.skip("the definitions that the engines' projects publish are not here")


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_what_the_engines_define(case):
    published()
    engine, strategy, settings = CASES[case]
    for each in exported(engine, strategy, **settings):
        key = each["apiVersion"], each["kind"]
        if key in engine_fields.FILES:
            assert complaints(engine_fields.published(*key), each) == []


@pytest.mark.parametrize("key", engine_fields.FIELDS)
def test_every_field_that_we_know_is_defined(key):
    """So that the list by hand is a part of what the projects publish."""
    published()
    undefined = []

    def compare(ours: object, theirs: dict, path: str) -> None:
        if theirs.get("x-kubernetes-preserve-unknown-fields"):
            return
        if isinstance(ours, str):
            wanted = engine_fields.TYPES[ours].get("type", "object")
            given = theirs.get("type", "either")
            same = wanted == given or given == "either"
            # Flagger calls its whole numbers numbers.
            if not same and (wanted, given) != ("integer", "number"):
                undefined.append(f"{path}: {wanted}, and it is {given}")
        elif isinstance(ours, list):
            compare(ours[0], theirs["items"], f"{path}[]")
        else:
            for name, of in ours.items():
                name = name.rstrip("!")
                known = theirs.get("properties", {})
                if name in known:
                    compare(of, known[name], f"{path}.{name}")
                elif not isinstance(theirs.get("additionalProperties"), dict):
                    undefined.append(f"{path}.{name}")

    compare(engine_fields.FIELDS[key], engine_fields.published(*key), "$")
    assert undefined == []


FAULTS = [
    (
        "argo canary",
        "Rollout",
        lambda o: o["spec"]["strategy"]["canary"].update(maxSurges=1),
        "was unexpected",
    ),
    (
        "argo canary",
        "Rollout",
        lambda o: o["spec"]["strategy"]["canary"]["steps"][0].update(setWeight="5"),
        "'5' is not of type 'integer'",
    ),
    (
        "argo canary",
        "AnalysisTemplate",
        lambda o: o["spec"]["metrics"][0].update(failurelimit=0),
        "was unexpected",
    ),
    (
        "argo canary",
        "AnalysisTemplate",
        lambda o: o["spec"]["metrics"][0].pop("provider"),
        "'provider' is a required property",
    ),
    (
        "flagger canary",
        "Canary",
        lambda o: o["spec"]["analysis"].update(thresholds=5),
        "was unexpected",
    ),
    (
        "flagger canary",
        "Canary",
        lambda o: o["spec"]["analysis"].update(interval="soon"),
        "does not match",
    ),
    (
        "flagger canary",
        "MetricTemplate",
        lambda o: o["spec"].pop("query"),
        "'query' is a required property",
    ),
    (
        "gateway canary",
        "HTTPRoute",
        lambda o: o["spec"]["rules"][0]["backendRefs"][0].update(weight=-1),
        "-1 is less than the minimum",
    ),
    (
        "gateway shadow",
        "HTTPRoute",
        lambda o: o["spec"]["rules"][0]["filters"][0]["requestMirror"].update(
            percent=101
        ),
        "101 is greater than the maximum",
    ),
]


@pytest.mark.parametrize(("case", "kind", "fault", "said"), FAULTS)
def test_both_checks_bite(case, kind, fault, said):
    engine, strategy, settings = CASES[case]
    sound = one(exported(engine, strategy, **settings), kind)
    broken = copy.deepcopy(sound)
    fault(broken)
    key = sound["apiVersion"], kind
    schemas = [engine_fields.of_kind(*key)]
    if engine_fields.folder().is_dir():
        schemas.append(engine_fields.published(*key))
    for schema in schemas:
        assert complaints(schema, sound) == []
        assert any(said in complaint for complaint in complaints(schema, broken))


# What the limits mean. Each engine's own rule, as its source has it, against ours.


def argo_fails(failed: int, failure_limit: int) -> bool:
    """analysis.go, assessMetricStatus: ``result.Failed > metric.FailureLimit``."""
    return failed > failure_limit


def flagger_goes_back(failed: int, threshold: int) -> bool:
    """scheduler.go: ``cd.Status.FailedChecks >= cd.GetAnalysisThreshold()``."""
    return failed >= threshold


@pytest.mark.parametrize("failures", range(6))
def test_as_many_windows_may_fail_as_before(failures):
    judge = Threshold(0.01, failures=failures, window_s=60)
    gate = Gate("errors", judge)
    template = one(exported(ARGO, Canary((0.5,), 600, (gate,))), "AnalysisTemplate")
    canary = one(exported(FLAGGER, Canary((0.5,), 60, (gate,))), "Canary")
    [metric] = template["spec"]["metrics"]
    threshold = canary["spec"]["analysis"]["threshold"]
    for failed in range(10):
        ours = failed > judge.failures
        assert argo_fails(failed, metric["failureLimit"]) == ours
        assert flagger_goes_back(failed, threshold) == ours


def test_a_window_may_have_as_many_events_as_before():
    """There the limit is compared as a share, here as a number: never differently."""
    for percent, requests in itertools.product(range(100), range(1, 200)):
        judge = Threshold(percent / 100, window_s=60)
        allowed = judge.allowed(requests)
        condition = f"result[0] <= {judge.limit!r}".replace("result[0]", "{!r}")
        for events in (allowed, min(requests, allowed + 1)):
            there = eval(condition.format(events / requests))
            assert there == (events <= allowed), (percent, requests, events)


def metric_of(case: str) -> list[dict]:
    engine, strategy, settings = CASES[case]
    objects = exported(engine, strategy, **settings)
    kinds = [each for each in objects if each["kind"] == "AnalysisTemplate"]
    return [metric for each in kinds for metric in each["spec"]["metrics"]]


def test_an_argo_stage_lasts_as_long_as_it_bakes():
    engine, strategy, settings = CASES["argo canary, stages of two lengths"]
    objects = exported(engine, strategy, **settings)
    templates = {
        each["metadata"]["name"]: each["spec"]["metrics"]
        for each in objects
        if each["kind"] == "AnalysisTemplate"
    }
    steps = one(objects, "Rollout")["spec"]["strategy"]["canary"]["steps"]
    stages: list[list] = []
    for step in steps:
        if "setWeight" in step:
            stages.append([step["setWeight"], 0])
        elif "analysis" in step:
            [template] = step["analysis"]["templates"]
            stages[-1][1] += max(
                metric["count"] * int(metric["interval"][:-1])
                for metric in templates[template["templateName"]]
            )
        else:
            stages[-1][1] += int(step["pause"]["duration"][:-1])
    assert stages == [[1, 60], [20, 150], [50, 300]]
    for metric in itertools.chain(*templates.values()):
        assert metric["initialDelay"] == metric["interval"] == "60s"
        assert metric["consecutiveErrorLimit"] == metric["count"] - 1


def test_no_data_ends_a_stage_in_both():
    """Without data, Argo errs once a window; the strategy gives up after the last."""
    for windows in (1, 2, 5):
        strategy = Canary((0.5,), 60 * windows, (GATE,))
        template = one(exported(ARGO, strategy), "AnalysisTemplate")
        [metric] = template["spec"]["metrics"]
        # analysis.go: ``result.ConsecutiveError > consecutiveErrorLimit``
        ends_at = next(n for n in range(99) if n > metric["consecutiveErrorLimit"])
        assert ends_at == windows


def test_an_analysis_in_the_background_goes_on():
    engine, strategy, settings = CASES["argo canary in the background"]
    canary = one(exported(engine, strategy, **settings), "Rollout")["spec"]["strategy"]
    assert canary["canary"]["analysis"]["startingStep"] == 1
    steps = canary["canary"]["steps"]
    assert steps == [
        {"setWeight": 5},
        {"pause": {"duration": "300s"}},
        {"setWeight": 50},
        {"pause": {"duration": "300s"}},
    ]
    [metric] = metric_of("argo canary in the background")
    assert "count" not in metric
    assert (metric["failureLimit"], metric["consecutiveErrorLimit"]) == (3, 4)


def test_the_old_side_is_kept_as_long():
    def plan(strategy: BlueGreen) -> dict:
        return one(exported(ARGO, strategy), "Rollout")["spec"]["strategy"]["blueGreen"]

    watched = plan(BlueGreen(600, (GATE,)))
    assert watched["scaleDownDelaySeconds"] == 30  # after an analysis of 600 s
    assert metric_of("argo blue/green")[0]["count"] == 10
    assert plan(BlueGreen(650, (GATE,)))["scaleDownDelaySeconds"] == 50
    assert plan(BlueGreen(600))["scaleDownDelaySeconds"] == 600
    assert plan(BlueGreen(0))["scaleDownDelaySeconds"] == 30
    assert watched["autoPromotionEnabled"] is True


def test_both_limits_of_a_rollout_are_written_out():
    engine, strategy, settings = CASES["argo rolling"]
    rollout = one(exported(engine, strategy, **settings), "Rollout")
    assert rollout["spec"]["strategy"] == {
        "canary": {"maxSurge": 3, "maxUnavailable": "10%"}
    }
    assert rollout["spec"]["replicas"] == 10
    assert rollout["spec"]["minReadySeconds"] == 30


def flagger_run(analysis: dict, fails: list[bool]) -> tuple[str, int]:
    """Flagger's ticks after the first weight: what becomes of it, and when.

    scheduler.go, advanceCanary: the count of failed checks is looked at before the
    next check is made, and only a check that passes moves the weight on.
    """
    stages, failed, tick = len(analysis["stepWeights"]), 0, 0
    while True:
        tick += 1
        if failed >= analysis["threshold"]:
            return "rolled back", tick
        if fails[tick - 1]:
            failed += 1
        elif stages == 1:
            return "promoted", tick
        else:
            stages -= 1


def test_flagger_goes_back_one_interval_late_and_says_so():
    for failures in range(4):
        gate = Gate("errors", Threshold(0.01, failures=failures, window_s=60))
        text = export.flagger(
            Canary((0.5,), 60, (gate,)), VERSIONS, name="phishing", gateway="edge"
        )
        analysis = one(list(yaml.safe_load_all(text)), "Canary")["spec"]["analysis"]
        what, ticks = flagger_run(analysis, [True] * 99)
        assert what == "rolled back"
        assert f"threshold: {60 * ticks} s\n" in text
        assert f"and not {60 * analysis['threshold']} s.\n" in text


def test_flagger_promotes_what_the_strategy_promotes():
    engine, strategy, settings = CASES["flagger canary"]
    analysis = one(exported(engine, strategy, **settings), "Canary")["spec"]["analysis"]
    assert analysis["stepWeights"] == [5, 50]
    for fails in itertools.product((False, True), repeat=2):
        what, _ = flagger_run(analysis, [*fails, *[True] * 9])
        assert what == ("rolled back" if any(fails) else "promoted")


def test_what_flagger_does_for_the_others():
    def analysis(case: str) -> dict:
        engine, strategy, settings = CASES[case]
        return one(exported(engine, strategy, **settings), "Canary")["spec"]["analysis"]

    switch = analysis("flagger blue/green")
    [preview] = switch["webhooks"]
    assert switch["iterations"] == 1
    assert preview["type"] == "pre-rollout"
    assert preview["metadata"]["cmd"] == "hey -n 200 http://phishing-canary.default/"
    shadow = analysis("flagger shadow")
    assert (shadow["mirror"], shadow["iterations"]) == (True, 10)
    assert shadow["webhooks"][0]["url"].endswith("/gate/halt")
    test = analysis("flagger test")
    assert test["match"] == [{"headers": {"x-version": {"exact": "candidate"}}}]
    kinds = {hook["type"]: hook["url"] for hook in test["webhooks"]}
    assert kinds == {
        "confirm-promotion": "http://referee.test/successful",
        "rollback": "http://referee.test/failed",
    }
    assert test["webhooks"][0]["metadata"]["users"] == "1000"


# Queries.


@pytest.mark.parametrize("case", ["argo canary", "flagger canary"])
def test_a_query_reads_the_candidate_only_and_never_divides_by_nothing(case):
    engine, strategy, settings = CASES[case]
    objects = exported(engine, strategy, **settings)
    queries = [value for path, value in leaves(objects) if path[-1] == "query"]
    [query] = queries
    above, below = query.split("\n/\n")
    assert above.startswith("(sum(increase(")
    assert above.endswith("or vector(0))")
    assert below.strip().endswith(">= 50)")
    assert query.count("[60s]") == query.count("pod=~") == 2
    assert above.count('code=~"5.."') == 1
    assert "5.." not in below


def test_the_pods_of_the_query_are_the_candidates():
    objects = exported(FLAGGER, Canary((0.5,), 60, (GATE,)))
    query = one(objects, "MetricTemplate")["spec"]["query"]
    [pattern] = set(re.findall('pod=~"([^"]*)"', query))
    pattern = pattern.replace("{{ target }}", "phishing")
    assert re.fullmatch(pattern, "phishing-7d9f8b6c5d-x2x4z")
    assert not re.fullmatch(pattern, "phishing-primary-7d9f8b6c5d-x2x4z")
    query = metric_of("argo canary")[0]["provider"]["prometheus"]["query"]
    [pattern] = set(re.findall('pod=~"([^"]*)"', query))
    pattern = pattern.replace("{{args.candidate-hash}}", "7d9f8b6c5d")
    assert re.fullmatch(pattern, "phishing-7d9f8b6c5d-x2x4z")
    assert not re.fullmatch(pattern, "phishing-5b5b5b5b5b-x2x4z")


def test_users_are_counted_by_their_own_counter():
    [metric] = metric_of("argo canary of users")
    query = metric["provider"]["prometheus"]["query"]
    assert query.count("first_requests_total{") == 2
    assert "http_requests_total" not in query


def test_gates_on_one_metric_have_names_of_their_own():
    gates = [GATE, SLOW, GATE, Gate("slow alone", GATE.judge), GATE]
    assert names(gates) == [
        "errors",
        "slow",
        "errors-no-2",
        "slow-alone",
        "errors-no-3",
    ]


# Weights.


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0, (100, 0)),
        (1, (0, 100)),
        (0.05, (95, 5)),
        (0.005, (199, 1)),
        (0.0015, (1997, 3)),
        (1e-6, (999_999, 1)),
    ],
)
def test_weights_have_the_ratio_of_the_shares(share, expected):
    stable, candidate = weights(share)
    assert (stable, candidate) == expected
    assert Fraction(candidate, stable + candidate) == Fraction(str(share))


def test_a_weight_is_written_also_where_it_is_nothing():
    """A weight that is left out is 1, and not 0."""
    route = one(exported(GATEWAY, BlueGreen(60)), "HTTPRoute")
    [rule] = route["spec"]["rules"]
    assert [ref["weight"] for ref in rule["backendRefs"]] == [100, 0]


def test_a_copy_is_a_percentage_or_a_fraction():
    def copied(share: float) -> dict:
        strategy = Shadow(share, 60, (GATE,))
        route = one(exported(GATEWAY, strategy, drop_gates=True), "HTTPRoute")
        [rule] = route["spec"]["rules"]
        [found] = rule["filters"]
        return found["requestMirror"]

    assert copied(1)["percent"] == 100
    assert copied(0.07)["percent"] == 7
    assert copied(0.125)["fraction"] == {"numerator": 1, "denominator": 8}
    assert "percent" not in copied(0.125)


def test_a_user_of_the_test_has_a_header():
    route = one(
        exported(GATEWAY, AB(99, GATE, 60), drop_gates=True, header=("x-beta", "yes")),
        "HTTPRoute",
    )
    theirs, others = route["spec"]["rules"]
    [match] = theirs["matches"]
    assert match["headers"] == [{"type": "Exact", "name": "x-beta", "value": "yes"}]
    assert theirs["backendRefs"][0]["name"] == "phishing-candidate"
    assert "matches" not in others
    assert others["backendRefs"][0]["name"] == "phishing-stable"


def test_both_versions_run_and_each_has_a_service():
    objects = exported(GATEWAY, BlueGreen(60), instances=3)
    images = {}
    for each in objects:
        if each["kind"] == "Deployment":
            spec = each["spec"]
            [container] = spec["template"]["spec"]["containers"]
            images[each["metadata"]["name"]] = container["image"]
            assert spec["replicas"] == 3
            assert (
                spec["selector"]["matchLabels"]
                == spec["template"]["metadata"]["labels"]
            )
    assert images == {
        "phishing-stable": VERSIONS.stable,
        "phishing-candidate": VERSIONS.candidate,
    }
    selects = [e["spec"]["selector"]["role"] for e in objects if e["kind"] == "Service"]
    assert selects == ["stable", "candidate"]


# Servers of models.


def test_the_shares_of_an_inference_service():
    def spec(case: str) -> dict:
        engine, strategy, settings = CASES[case]
        return one(exported(engine, strategy, **settings), "InferenceService")["spec"]

    def image(predictor: dict) -> str:
        [container] = predictor["containers"]
        assert container["name"] == "kserve-container"
        return container["image"]

    canary = spec("kserve canary")
    [beside] = canary["canary"]
    assert beside["trafficPercent"] == 5
    assert image(beside["predictor"]) == VERSIONS.candidate
    assert image(canary["predictor"]) == VERSIONS.stable
    # No autoscaler for the canary: KServe refuses its fields there.
    assert beside["predictor"]["minReplicas"] == 1
    assert "maxReplicas" not in beside["predictor"]
    assert spec("kserve canary, later")["canary"][0]["trafficPercent"] == 50
    knative = spec("kserve canary on knative")["predictor"]
    assert knative["canaryTrafficPercent"] == 5
    assert image(knative) == VERSIONS.candidate
    assert spec("kserve blue/green")["canary"][0]["trafficPercent"] == 100
    rolling = spec("kserve rolling")["predictor"]
    assert rolling["minReplicas"] == rolling["maxReplicas"] == 10
    assert rolling["deploymentStrategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "10%"},
    }


@pytest.mark.parametrize("instances", [1, 4, 5, 9, 10, 23])
def test_ray_serve_rolls_a_fifth_at_a_time(instances):
    at_once = max(instances // 5, 1)
    [config] = exported(RAY, Rolling(instances, 0, at_once))
    schema = engine_fields.schema(engine_fields.RAY_SERVE)
    assert complaints(schema, config) == []
    [application] = config["applications"]
    assert application["runtime_env"] == {"image_uri": VERSIONS.candidate}
    [deployment] = application["deployments"]
    assert deployment["num_replicas"] == instances
    assert deployment["graceful_shutdown_timeout_s"] == 35
    deployment["num_replica"] = 3
    assert len(complaints(schema, config)) == 1
    with pytest.raises(export.CannotExport, match="A Deployment takes any limits"):
        exported(RAY, Rolling(instances, 1, at_once))


def ray_deployment(strategy: Rolling) -> dict:
    [config] = exported(RAY, strategy)
    assert complaints(engine_fields.schema(engine_fields.RAY_SERVE), config) == []
    return config["applications"][0]["deployments"][0]


@pytest.mark.parametrize("instances", [1, 2, 3, 7, 10, 29, 41, 100, 250, 1000])
def test_ray_serve_takes_as_many_as_the_strategy_says(instances):
    """By its own sums: max(int(share * n), 1), and the whole percent rounded up."""
    for most in {1, 2, 3, 7, 29, 58, instances // 2, instances - 1, instances}:
        if not 1 <= most <= instances:
            continue
        said = ray_deployment(Rolling(instances, 0, most))
        share = said.get("rolling_update_percentage", 0.2)
        assert 0 < share <= 1
        assert max(int(share * instances), 1) == most
        assert "max_surge_percent" not in said
        possible = {(p * instances + 99) // 100 for p in range(101)}
        if most in possible:
            said = ray_deployment(Rolling(instances, most, 0))
            assert (said["max_surge_percent"] * instances + 99) // 100 == most
            assert "rolling_update_percentage" not in said
        else:
            with pytest.raises(export.CannotExport, match="whole percent") as refused:
                exported(RAY, Rolling(instances, most, 0))
            near = re.search(r"starts (\d+) first or (\d+),", str(refused.value))
            assert {int(one) for one in near.groups()} <= possible
    assert instances > 100 or possible == set(range(instances + 1))


def test_ray_serve_starts_at_most_as_many_again():
    with pytest.raises(export.CannotExport, match="of 3 it starts 3 first, but not 7"):
        exported(RAY, Rolling(3, 7, 0))


@pytest.mark.parametrize("case", CASES)
def test_every_deployment_says_how_it_replaces_its_pods(case):
    engine, strategy, settings = CASES[case]
    for each in exported(engine, strategy, **settings):
        if each["kind"] == "Deployment":
            assert "minReadySeconds" in each["spec"]
            how = each["spec"]["strategy"]
            assert how["rollingUpdate"].keys() == {"maxSurge", "maxUnavailable"}
            if engine in (FLAGGER, GATEWAY):  # they move traffic, and keep capacity
                assert how["rollingUpdate"]["maxUnavailable"] == 0


def test_a_basic_service_does_not_prolong_its_outage():
    def predictor(**settings: object) -> dict:
        [service] = exported(KSERVE, Basic(), **settings)
        return service["spec"]["predictor"]

    assert predictor()["terminationGracePeriodSeconds"] == 35
    assert "lifecycle" not in predictor()["containers"][0]
    told = predictor(pod=export.Pod(pre_stop_s=15))
    assert told["terminationGracePeriodSeconds"] == 50
    assert "lifecycle" in told["containers"][0]


def test_an_engines_own_rules_come_out_as_they_went_in():
    [metric] = metric_of("argo as argo has it")
    assert (metric["failureLimit"], metric["consecutiveErrorLimit"]) == (0, 4)
    engine, strategy, settings = CASES["flagger as flagger has it"]
    canary = one(exported(engine, strategy, **settings), "Canary")
    assert canary["spec"]["analysis"]["threshold"] == 5


# Refusals.

PLAIN = Canary((0.05, 0.5), 60, (GATE,))
NO_WINDOW = Gate("errors", Threshold(0.01))
REFUSED = [
    (ARGO, Basic(), {}, r"Deployment of the type Recreate"),
    (ARGO, Shadow(1, 60, (GATE,)), {}, r"gateway_api.*flagger"),
    (ARGO, AB(99, GATE, 60), {}, r"Flagger"),
    (ARGO, Bandit("errors", 60, 600), {}, r"patches the weights of an HTTPRoute"),
    (ARGO, MultiService({"a": PLAIN}), {}, r"strategy of each service"),
    (ARGO, object(), {}, r"it does Canary, BlueGreen and Rolling"),
    (ARGO, Canary((0.005,), 60, (GATE,)), {}, r"whole percentage here, and 0.005"),
    (ARGO, Canary((0.5,), 60, ()), {"gateway": ""}, r"gateway="),
    (ARGO, Canary((0.5,), 60, (Gate("errors", SplitEProcess()),)), {}, r"is a test"),
    (ARGO, Canary((0.5,), 60, (NO_WINDOW,)), {}, r"window_s=60"),
    (ARGO, Canary((0.5,), 59, (GATE,)), {}, r"Argo would never measure it"),
    (ARGO, Canary((0.5,), 60.5, (GATE,)), {}, r"bake_s is a time in whole seconds"),
    (ARGO, Canary((0.05, 0.5), 600, (LENIENT,)), {}, r"background=True"),
    (ARGO, Canary((0.5,), 60, (GATE,), sticky=True), {}, r"sessionAffinity"),
    (ARGO, Canary((0.5,), 60, (SLOW,)), {}, r"which requests count as 'slow'"),
    (
        ARGO,
        Canary((0.5,), 60, (Gate("errors", GATE.judge, unit="user"),)),
        {},
        r"counter of first requests",
    ),
    (ARGO, BlueGreen(60, (), before=(GATE,)), {}, r"sends_preview=True.*flagger"),
    (ARGO, BlueGreen(30, (GATE,)), {}, r"keep_s is 30 s, and a window"),
    (
        ARGO,
        BlueGreen(0, (), before=(GATE,)),
        {
            "sends_preview": True,
            "pod": export.Pod(start_limit_s=30, progress_deadline_s=60),
        },
        r"takes 60 s, and after progress_deadline_s=60 Argo gives up",
    ),
    (ARGO, Rolling(4, gates=(GATE,)), {}, r"The nearest is a Canary"),
    (ARGO, Rolling(4), {"instances": 3}, r"contradicts it"),
    (FLAGGER, Basic(), {}, r"Deployment of the type Recreate"),
    (FLAGGER, Rolling(4), {}, r"a Deployment does it"),
    (FLAGGER, Bandit("errors", 60, 600), {}, r"patches the weights of an HTTPRoute"),
    (FLAGGER, MultiService({"a": PLAIN}), {}, r"strategy of each service"),
    (FLAGGER, object(), {}, r"it does Canary, BlueGreen, Shadow and AB"),
    (FLAGGER, Canary((0.5,), 60, ()), {}, r"takes every version for a good one"),
    (FLAGGER, Canary((0.5,), 120, (GATE,)), {}, r"watched for 120 s.*Argo Rollouts"),
    (FLAGGER, Canary((0.5,), 60, (GATE,), sticky=True), {}, r"nearest is AB"),
    (
        FLAGGER,
        Canary((0.5,), 5, (Gate("errors", Threshold(0.1, window_s=5)),)),
        {},
        r"every 10 s at most",
    ),
    (
        FLAGGER,
        Canary((0.5,), 60, (GATE, Gate("slow", Threshold(0.1, window_s=30)))),
        {},
        r"take 30 s, 60 s",
    ),
    (FLAGGER, Canary((0.5,), 60, (GATE, LENIENT)), {}, r"one count of failed checks"),
    (FLAGGER, BlueGreen(60, (GATE,)), LOAD, r"before must be those after"),
    (FLAGGER, BlueGreen(60, (GATE,), before=(GATE,)), {}, r"load_url="),
    (
        FLAGGER,
        BlueGreen(600, (GATE,), before=(GATE,)),
        LOAD,
        r"would be 60 s and not 600",
    ),
    (FLAGGER, Shadow(0.5, 60, (GATE,)), LOAD, r"RequestMirror"),
    (FLAGGER, Shadow(1, 60, (GATE,)), {}, r"a Shadow releases nothing"),
    (FLAGGER, Shadow(1, 30, (GATE,)), LOAD, r"would check nothing"),
    (FLAGGER, AB(99, GATE, 60), DECIDE, r"give it a guard"),
    (FLAGGER, AB(99, GATE, 60, guards=(GATE,)), {}, r"decide_url="),
    (FLAGGER, AB(99, GATE, 60, guards=(GATE,)), DECIDE, r"counter of first requests"),
    (GATEWAY, Basic(), {}, r"a Deployment does Basic"),
    (GATEWAY, Rolling(4), {}, r"a Deployment does it"),
    (GATEWAY, Bandit("errors", 60, 600), {}, r"The nearest is a controller"),
    (GATEWAY, MultiService({"a": PLAIN}), {}, r"strategy of each service"),
    (GATEWAY, object(), {}, r"it does Canary, BlueGreen, Shadow and AB"),
    (GATEWAY, PLAIN, {}, r"no gates.*drop_gates=True"),
    (GATEWAY, AB(99, GATE, 60), {}, r"no gates.*drop_gates=True"),
    (GATEWAY, Canary((0.5,), 60, (), sticky=True), {}, r"match of a header"),
    (GATEWAY, Canary((0.5,), 60, ()), {"share": 0.4}, r"it has 0, 0.5, 1"),
    (GATEWAY, Canary((1e-7,), 60, ()), {}, r"round it to six digits"),
    (GATEWAY, Shadow(1, 60, ()), {"share": 0.5}, r"Shadow has no share to choose"),
    (KSERVE, Shadow(1, 60, ()), {}, r"RequestMirror"),
    (KSERVE, AB(99, GATE, 60), {}, r"match of a header.*Flagger"),
    (KSERVE, Bandit("errors", 60, 600), {}, r"patches trafficPercent"),
    (KSERVE, MultiService({"a": PLAIN}), {}, r"strategy of each service"),
    (KSERVE, object(), {}, r"it does Basic, BlueGreen, Canary and Rolling"),
    (KSERVE, PLAIN, {}, r"KServe measures nothing.*Argo Rollouts"),
    (KSERVE, Canary((0.005,), 60, ()), {}, r"whole percentage"),
    (KSERVE, Canary((0.5,), 60, (), sticky=True), {}, r"match of a header"),
    (KSERVE, Rolling(4), {"serverless": True}, r"no Rolling.*Standard mode"),
    (KSERVE, Rolling(4, min_ready_s=5), {}, r"a Deployment waits for min_ready_s"),
    (KSERVE, Rolling(4), {"share": 0.5}, r"Rolling has no share"),
    (KSERVE, Rolling(4), {"instances": 3}, r"contradicts it"),
    (RAY, Basic(), {}, r"a Deployment|A Deployment"),
    (RAY, PLAIN, {}, r"HTTPRoute"),
    (RAY, BlueGreen(60), {}, r"RayService.*NewCluster"),
    (RAY, Shadow(1, 60, ()), {}, r"RequestMirror"),
    (RAY, AB(99, GATE, 60), {}, r"header match"),
    (RAY, Bandit("errors", 60, 600), {}, r"calls it by its handle"),
    (RAY, MultiService({"a": PLAIN}), {}, r"an application of its own"),
    (RAY, object(), {}, r"it does Rolling, and nothing else"),
    (RAY, Rolling(10), {}, r"Rolling\(10, 3, 0\) or Rolling\(10, 0, 2\)"),
    (RAY, Rolling(4, 0, 1, gates=(GATE,)), {}, r"Ray Serve measures nothing"),
    (RAY, Rolling(4, 0, 1, min_ready_s=5), {}, r"a Deployment waits"),
    (RAY, Rolling(4, 0, 1), {"import_path": "app.py"}, r"a module and a name"),
    (
        ARGO,
        Canary((0.5,), 60, (Gate("errors", Threshold.flagger(0.1, window_s=60)),)),
        {},
        r"no_data='error'",
    ),
    (
        FLAGGER,
        Canary((0.5,), 60, (Gate("errors", Threshold.argo(0.1, window_s=60)),)),
        {},
        r"no_data='fail'",
    ),
    (
        ARGO,
        Canary((0.5,), 60, (Gate("errors", Threshold.sagemaker(0.1, window_s=60)),)),
        {},
        r"CloudWatch",
    ),
]


@pytest.mark.parametrize(("engine", "strategy", "settings", "said"), REFUSED)
def test_what_an_engine_cannot_do_names_the_nearest(engine, strategy, settings, said):
    with pytest.raises(ValueError, match=f"(?s){said}"):
        exported(engine, strategy, **settings)


def test_an_engine_that_nobody_knows():
    with pytest.raises(ValueError, match="the engines are kubernetes, argo-rollouts"):
        exported("nomad", PLAIN)


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        (("a:1", "a:1"), "nothing to roll out"),
        (("a", "a:1"), "no tag"),
        (("a:1", "a:latest"), "is latest"),
    ],
)
def test_versions_that_are_none(versions, said):
    with pytest.raises(ValueError, match=said):
        export.Versions(*versions)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "Phishing"}, "none that a Service may have"),
        ({"name": "p" * 60}, "none that a Service may have"),
        ({"namespace": "a.b"}, "none that a Service may have"),
        ({"instances": 0}, "instances is a whole number"),
        ({"pod": export.Pod(start_limit_s=700)}, "Give it more than 700 s"),
    ],
)
@pytest.mark.parametrize("engine", [ARGO, FLAGGER])
def test_bad_settings(engine, settings, said):
    with pytest.raises(ValueError, match=said):
        exported(engine, PLAIN, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"port": 0}, "port is a whole number"),
        ({"port": 70000}, "at most 65535"),
        ({"ready_path": "ready"}, "begins with a slash"),
        ({"pre_stop_s": -1}, "pre_stop_s is a whole number"),
        ({"limits": {"memory": "1Mi"}}, "raise the limit"),
    ],
)
def test_bad_pods(settings, said):
    with pytest.raises(ValueError, match=said):
        export.Pod(**settings)


def test_every_engine_exports_or_refuses_every_strategy_by_name():
    """So that a new strategy cannot be forgotten here."""
    known = {
        name
        for name, kind in inspect.getmembers(strategies, inspect.isclass)
        if kind.__module__ == strategies.__name__
        and hasattr(kind, "next")
        and name != "Strategy"
    }
    assert known == {"Canary", "BlueGreen", "Rolling"} | export.BEYOND_A_ROLLOUT.keys()
    both = {"Canary", "BlueGreen", "Shadow", "AB"}
    assert known == both | export.BEYOND_FLAGGER.keys()
    assert known == both | export.BEYOND_A_ROUTE.keys()
    served = {"Basic", "BlueGreen", "Canary", "Rolling"}
    assert known == served | export.BEYOND_KSERVE.keys()
    assert known == {"Rolling"} | export.BEYOND_RAY_SERVE.keys()


def test_no_anchors_in_the_text():
    for engine, strategy, settings in CASES.values():
        routed = engine in (ARGO, FLAGGER, GATEWAY)
        defaults = {"gateway": "edge"} if routed else {}
        text = export.to_manifests(
            strategy, VERSIONS, engine=engine, name="phishing", **(defaults | settings)
        )
        assert "&id" not in text
