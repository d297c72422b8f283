"""`deploylab lint` on files of other people: valid ones, and what no file can tell.

No valid file has an error, and where the file does not tell there is no figure.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deploylab import ROOT, cli
from deploylab.lint import lint

ISTIO = "trafficRouting: {istio: {virtualService: {name: shop}}}"
SERVICES = "canaryService: shop-canary, stableService: shop-stable"
WATCHED = """\
      - setWeight: 10
      - analysis:
          templates: [{templateName: t}]
          args: [{name: service, value: shop-canary}]
"""
BACKGROUND = """\
      - setWeight: 10
      - pause: {duration: 30m}
      - setWeight: 50
      - pause: {duration: 30m}
"""


def rollout(
    steps: str = WATCHED,
    routing: str = ISTIO,
    more: str = "",
    services: str = SERVICES,
    spec: str = "replicas: 10",
) -> str:
    named = "\n".join(f"      {one}" for one in services.split(", ") if one)
    return f"""\
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {{name: shop, labels: {{team: a}}}}
spec:
  {spec}
  strategy:
    canary:
{named}
      {routing}
      {more}
      steps:
{steps}"""


def template(
    labels: str = 'service="{{args.service}}"',
    spec: str = "",
    fields: str = "count: 3",
    limit: str = "0.99",
    metric: str = "http_requests_total",
) -> str:
    return f"""---
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata: {{name: t}}
spec:
  args: [{{name: service}}]
  {spec}
  metrics:
  - name: success-rate
    initialDelay: 10m
    interval: 10m
    {fields}
    successCondition: result[0] >= {limit}
    provider:
      prometheus:
        address: http://prometheus.example.com:9090
        query: >-
          sum(rate({metric}{{{labels},code!~"5.."}}[10m]))
          / sum(rate({metric}{{{labels}}}[10m]))
"""


def canary(fields: str = "", metric: str = "interval: 10m", spec: str = "") -> str:
    return f"""\
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: shop}}
spec:
  targetRef: {{apiVersion: apps/v1, kind: Deployment, name: shop}}
  service: {{port: 80}}
  {spec}
  analysis:
    interval: 10m
    threshold: 1
    maxWeight: 50
    stepWeight: 10
    {fields}
    metrics:
    - {{name: request-success-rate, thresholdRange: {{min: 99}}, {metric}}}
"""


def linted(text: str):
    report = lint(["-"], stdin=text.encode())
    assert not report.unreadable, report.unreadable
    (gate,) = report.gates
    return gate, report.findings


def refusals(text: str) -> list[str]:
    """What is refused; a refused file has no figures."""
    gate, findings = linted(text)
    what = [f.what for f in findings if f.rule == "DL003"]
    assert not what or gate.healthy is None
    return what


def no_figure(text: str, why: str) -> list[str]:
    """The reason must be given and no figure; the rules that are found."""
    gate, findings = linted(text)
    assert gate.healthy is None
    assert gate.bad is None
    assert any(why in reason for reason in gate.not_computed), gate.not_computed
    return [f.rule for f in findings]


PLAIN = linted(rollout() + template())[0]


def test_the_plain_one_is_sound():
    assert PLAIN.healthy.aborted < 1e-5
    assert PLAIN.bad.promoted < 1e-6
    assert not PLAIN.not_computed


# Environments side by side


def environments(folder, text, name="rollout.yaml"):
    for env, limit in (("dev", "0.10"), ("prod", "0.99")):
        place = folder / env
        place.mkdir(exist_ok=True)
        (place / name).write_text(text, "utf-8")
        (place / "analysis.yaml").write_text(template(limit=limit), "utf-8")


def test_each_environment_has_its_own_template(tmp_path):
    environments(tmp_path, rollout())
    dev, prod = lint([str(tmp_path)]).gates
    assert prod.bad == PLAIN.bad
    assert dev.bad.promoted == 1
    assert "2 templates called t" in prod.remarks[0]
    alone = lint([str(tmp_path / "prod")])
    assert alone.gates[0].bad == prod.bad
    assert not alone.findings


def test_templates_equally_near_are_not_chosen_between(tmp_path):
    environments(tmp_path, rollout())
    for env in ("dev", "prod"):
        (tmp_path / env / "rollout.yaml").unlink()
    (tmp_path / "rollout.yaml").write_text(rollout(), "utf-8")
    report = lint([str(tmp_path)])
    (gate,) = report.gates
    assert gate.healthy is None
    assert "2 templates are called t" in gate.not_computed[0]
    assert not report.findings


def test_a_canary_in_two_environments_has_no_rival(tmp_path):
    environments(tmp_path, canary(), "canary.yaml")
    assert not lint([str(tmp_path)]).findings
    (tmp_path / "prod" / "more.yaml").write_text(
        canary().replace("metadata: {name: shop}", "metadata: {name: other}"), "utf-8"
    )
    assert [f.rule for f in lint([str(tmp_path)]).findings] == ["DL006"]


def test_a_patch_of_a_kustomization_is_no_manifest(tmp_path):
    base, over = tmp_path / "base", tmp_path / "overlays" / "prod"
    base.mkdir()
    over.mkdir(parents=True)
    (base / "rollout.yaml").write_text(rollout() + template(), "utf-8")
    (over / "kustomization.yaml").write_text(
        "resources: [../../base]\npatches: [{path: replicas.yaml}]\n", "utf-8"
    )
    patch = rollout().split("  strategy:")[0]
    (over / "replicas.yaml").write_text(patch, "utf-8")
    report = lint([str(tmp_path)])
    assert not report.findings
    assert len(report.gates) == 1
    assert any("kustomize build" in note for note in report.notes)
    assert lint([str(over / "replicas.yaml")]).findings


# Weights and routers


def test_a_weight_of_another_scale_is_the_same_share():
    plugins = "trafficRouting: {maxTrafficWeight: 1000, plugins: {a/b: {}}}"
    gate, findings = linted(rollout(WATCHED.replace("10", "100"), plugins) + template())
    assert (gate.bad, findings) == (PLAIN.bad, [])
    over = rollout(WATCHED.replace("10", "1001"), plugins) + template()
    assert refusals(over) == ["setWeight is 1001"]


@pytest.mark.parametrize(
    ("routing", "needs"),
    [
        ("istio: {virtualService: {name: a}, destinationRule: {name: a}}", False),
        ("plugins: {argoproj-labs/gatewayAPI: {httpRoute: a}}", False),
        ("istio: {virtualService: {name: a}}", True),
        ("nginx: {stableIngress: a}", True),
        ("traefik: {weightedTraefikServiceName: a}", True),
    ],
)
def test_the_routers_that_need_two_services(routing, needs):
    text = rollout(routing=f"trafficRouting: {{{routing}}}", services="") + template()
    assert bool(refusals(text)) is needs


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"spec": "minReadySeconds: 700"}, "minReadySeconds is 700"),
        ({"more": "dynamicStableScale: true", "routing": ""}, "without trafficRouting"),
        ({"more": "scaleDownDelaySeconds: 9", "routing": ""}, "without trafficRouting"),
        (
            {"more": "{scaleDownDelaySeconds: 9, dynamicStableScale: true}"},
            "scaleDownDelaySeconds together",
        ),
        ({"more": "{maxSurge: 0, maxUnavailable: 0%}"}, "are both 0"),
        ({"routing": "trafficRouting: {istio: {}, maxTrafficWeight: 99}"}, "for nginx"),
        ({"steps": "      - setCanaryScale: {replicas: 1}\n", "routing": ""}, "router"),
        ({"steps": "      - setHeaderRoute: {name: h}\n"}, "not in managedRoutes"),
        ({"steps": "      - setMirrorRoute: {name: h}\n"}, "not in managedRoutes"),
        ({"steps": "      - pause: 10m\n"}, "pause is '10m', not a mapping"),
        ({"steps": "      - pause: 600\n"}, "pause is '600', not a mapping"),
        ({"steps": "      - pause: {duration: 1d}\n"}, "'1d', which is no duration"),
    ],
)
def test_what_the_controller_refuses(fields, what):
    if fields.get("more", "").startswith("{"):
        fields["more"] = fields["more"][1:-1].replace(", ", "\n      ")
    fields = {"spec": "replicas: 10"} | fields
    found = refusals(rollout(**fields) + template())
    assert len(found) == 1, found
    assert what in found[0]


def test_what_a_header_chooses_is_left_out_and_said():
    routing = ISTIO[:-1] + ", managedRoutes: [{name: h}]}"
    header = "      - setHeaderRoute: {name: h, match: [{headerName: X}]}\n"
    gate, findings = linted(rollout(header + WATCHED, routing) + template())
    assert findings == []
    assert gate.bad == PLAIN.bad
    assert "what setHeaderRoute" in gate.not_computed[0]
    scale = "      - setCanaryScale: {replicas: 1}\n"
    watched = WATCHED.split("\n", 1)[1]
    no_figure(
        rollout(scale + header + watched, routing) + template(),
        "no setWeight; what setHeaderRoute sends is not in the file",
    )


def test_without_replicas_a_share_of_pods_is_not_known():
    gpu = "template: {spec: {containers: [{readinessProbe: {}, resources: \
{limits: {nvidia.com/gpu: 1}}}]}}"
    text = rollout(routing="", spec=gpu) + template()
    assert no_figure(text, "replicas is not in the file") == []
    gate, findings = linted(rollout(spec=gpu) + template())
    assert (gate.bad, findings) == (PLAIN.bad, [])


# When, and by what


def test_an_analysis_behind_the_last_step_never_starts():
    analysis = "analysis: {startingStep: AT, templates: [{templateName: t}], args: \
[{name: service, value: shop-canary}]}"
    for step, found in ((5, ["DL105"]), (3, ["DL108"])):
        text = rollout(BACKGROUND, more=analysis.replace("AT", str(step)))
        gate, findings = linted(text + template(fields=""))
        assert [f.rule for f in findings] == found
        assert (gate.healthy is None) is (step == 5)


@pytest.mark.parametrize(
    ("pattern", "dry"), [("success-rate", 1), ("succ.*", 1), ("^s", 1), ("rates", 0)]
)
def test_a_dry_run_is_a_pattern_found_anywhere(pattern, dry):
    text = rollout() + template(spec=f"dryRun: [{{metricName: '{pattern}'}}]")
    gate, findings = linted(text)
    assert [f.rule for f in findings] == (["DL111"] if dry else ["DL003"])
    assert gate.healthy is None


def test_a_dry_run_of_one_template_holds_for_the_others():
    other = template(spec="dryRun: [{metricName: rate}]").replace(
        "name: t}", "name: u}"
    )
    other = other.replace("success-rate", "u-rate")
    steps = WATCHED.replace(
        "[{templateName: t}]", "[{templateName: t}, {templateName: u}]"
    )
    gate, findings = linted(rollout(steps) + template() + other)
    assert [f.rule for f in findings] == ["DL111", "DL111"]
    assert gate.healthy is None


def test_what_one_template_gives_serves_the_others():
    steps = WATCHED.replace(
        "[{templateName: t}]", "[{templateName: t}, {templateName: u}]"
    )
    steps = "\n".join(steps.splitlines()[:-1]) + "\n"
    other = """---
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata: {name: u}
spec:
  args: [{name: service, value: shop-canary}]
  metrics: [{name: p, initialDelay: 10m, provider: {job: {}}}]
"""
    gate, findings = linted(rollout(steps) + template() + other)
    assert (gate.bad, findings) == (PLAIN.bad, [])
    clash = template(spec="").replace("{name: service}", "{name: service, value: x}")
    assert refusals(rollout(steps) + clash + other)


def test_a_number_that_only_the_cluster_knows():
    text = rollout() + template(fields='count: "{{args.n}}"').replace(
        "[{name: service}]",
        "[{name: service}, {name: n, valueFrom: {secretKeyRef: {name: a, key: b}}}]",
    )
    assert no_figure(text, "the value of its count is not in the files") == []


@pytest.mark.parametrize("field", ["interval", "initialDelay"])
def test_go_knows_no_days(field):
    text = template().replace(f"{field}: 10m", f"{field}: 1d", 1)
    assert refusals(rollout() + text) == [f"{field} is '1d', which is no duration"]


# Whose requests


@pytest.mark.parametrize(
    "labels",
    [
        'service="other"',
        'destination_version="v2"',
        'destination_service_name="shop",destination_canonical_revision="latest"',
        'canary="main"',
        'service!="other"',
    ],
)
def test_a_label_that_the_file_does_not_explain(labels):
    why = "chooses is not in the files"
    assert no_figure(rollout() + template(labels), why) == []


@pytest.mark.parametrize(
    "labels",
    ['service="shop"', 'service=~"shop-svc"', 'pod=~"shop-.*"', 'app="shop",job="x"'],
)
def test_both_versions_are_read_by_what_is_the_rollouts_own(labels):
    _, findings = linted(rollout() + template(labels))
    assert "DL201" in [f.rule for f in findings]


def test_ping_and_pong_take_turns():
    text = rollout(
        WATCHED.replace("shop-canary", "ping"),
        "trafficRouting: {alb: {ingress: i, servicePort: 80, rootService: r}}",
        "pingPong: {pingService: ping, pongService: pong}",
        services="",
    )
    assert no_figure(text + template(), "changes with each release") == []


NGINX = {"metric": "nginx_ingress_controller_requests"}
BY_NGINX = "trafficRouting: {nginx: {stableIngress: main}}"


@pytest.mark.parametrize(
    "labels",
    ['ingress="main",canary!=""', 'ingress="main",canary=~".+"',
     'canary="prod-shop-canary-80"', 'exported_namespace="{{args.x}}",canary!=""'],
)  # fmt: skip
def test_ingress_nginx_tells_the_versions_apart_by_one_label(labels):
    gate, _ = linted(rollout(routing=BY_NGINX) + template(labels, **NGINX))
    assert gate.bad == PLAIN.bad


def test_ingress_nginx_counts_both_under_the_main_ingress():
    _, both = linted(rollout(routing=BY_NGINX) + template('ingress="main"', **NGINX))
    assert "DL201" in [f.rule for f in both]
    _, old = linted(rollout(routing=BY_NGINX) + template('canary=""', **NGINX))
    assert "DL202" in [f.rule for f in old]
    for chosen in ('ingress="shop-canary"', 'exported_service="shop-canary"'):
        text = rollout(routing=BY_NGINX) + template(chosen, **NGINX)
        assert "DL211" in no_figure(text, "ingress-nginx counts no request under")


def test_a_namespace_tells_nothing_and_is_not_asked_for():
    args = "args: [{name: service, value: shop-canary}"
    for path in ("metadata.namespace", "metadata.labels['team']"):
        field = f"{{name: ns, valueFrom: {{fieldRef: {{fieldPath: {path!r}}}}}}}"
        field = field.replace("'metadata.namespace'", "metadata.namespace")
        steps = WATCHED.replace(args, f"{args}, {field}")
        labels = 'service="{{args.service}}",namespace="{{args.ns}}"'
        text = template(labels).replace(
            "{name: service}", "{name: service}, {name: ns}"
        )
        gate, findings = linted(rollout(steps) + text)
        assert (gate.bad, findings) == (PLAIN.bad, [])


# Flagger


SOUND = linted(canary())[0]


def test_webhooks_are_said():
    hooks = """webhooks:
    - {name: e2e, url: http://x}
    - {name: back, type: rollback, url: http://x}
    - {name: gate, type: confirm-promotion, url: http://x}
    - {name: first, type: pre-rollout, url: http://x}"""
    gate, findings = linted(canary(hooks))
    assert (gate.bad, findings) == (SOUND.bad, [])
    assert ["e2e" in gate.not_computed[0], "back" in gate.not_computed[1]] == [True] * 2
    assert len(gate.not_computed) == 2
    assert any("gate" in remark for remark in gate.remarks)


def test_what_match_rules_choose_is_not_in_the_file():
    match = "match: [{headers: {x: {exact: '1'}}}]"
    assert no_figure(canary(match), "the match rules choose") == []


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"metric": "interval: 1h"}, "interval is '1h'"),
        ({"fields": "webhooks: [{name: a, url: b, type: acceptance}]"}, "type is"),
        ({"fields": "webhooks: [{name: a}]"}, "a webhook without url"),
        ({"spec": "provider: istoi"}, "provider is 'istoi'"),
        ({"fields": "alerts: [{name: a, severity: fatal}]"}, "severity is 'fatal'"),
    ],
)
def test_what_flagger_refuses(fields, what):
    assert [found[: len(what)] for found in refusals(canary(**fields))] == [what]


def test_a_canary_needs_an_analysis():
    text = canary().replace("analysis:", "canaryAnalysis:")
    assert refusals(text) == ["analysis is missing"]


# The command


def test_a_neighbour_that_cannot_be_read_hides_nothing():
    sound = rollout() + template()
    deep = "apiVersion: v1\nkind: X\na: " + "[" * 70 + "]" * 70 + "\n---\n"
    beside = lint(["-"], stdin=(deep + sound).encode())
    assert (beside.status(), beside.gates[0].bad) == (0, PLAIN.bad)
    helm = sound.replace("name: shop,", 'name: "{{ .Values.a }}",') + "---\n"
    beside = lint(["-"], stdin=(helm + sound).encode())
    assert beside.status() == 2
    assert len(beside.gates) == 1
    large = "apiVersion: v1\nkind: ConfigMap\ndata: {a: " + "a" * 10**6 + "}\n---\n"
    assert lint(["-"], stdin=(large + sound).encode()).status() == 0


def test_an_annotation_may_hold_another_language():
    text = template().replace("{name: t}", '{name: t, annotations: {a: "{{ $b }}"}}')
    assert linted(rollout() + text)[0].bad == PLAIN.bad


def test_a_gate_that_nothing_is_known_of_can_fail(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(rollout() + template('service="other"'), "utf-8")
    assert cli.main(["lint", str(path)]) == 0
    assert "of 1 of 1 gates nothing is computed" in capsys.readouterr().out
    assert cli.main(["lint", str(path), "--fail-on-unknown"]) == 1
    path.write_text(rollout() + template(), "utf-8")
    assert cli.main(["lint", str(path), "--fail-on-unknown"]) == 0


def test_a_path_is_read_once_and_an_empty_one_is_refused(tmp_path, capsys):
    path = tmp_path / "a.yaml"
    path.write_text(rollout() + template(), "utf-8")
    assert len(lint([str(path), str(tmp_path), str(path)]).gates) == 1
    assert len(lint(["-", "-"], stdin=path.read_bytes()).gates) == 1
    assert cli.main(["lint", ""]) == 2
    assert "the path is empty" in capsys.readouterr().out
    assert cli.main(["lint"]) == 2
    assert cli.main(["lint", "--rules"]) == 0
    assert "DL211 canary-ingress-is-not-counted (warning)" in capsys.readouterr().out


@pytest.mark.parametrize("pattern", ["dev", "*/dev/*", "dev/"])
def test_what_is_excluded_is_passed_over(tmp_path, pattern):
    environments(tmp_path, rollout())
    report = lint([str(tmp_path)], exclude=[pattern])
    assert [gate.bad for gate in report.gates] == [PLAIN.bad]
    assert any("excluded" in note for note in report.notes)


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path, monkeypatch):
    """What the system says is planted: whoever runs this may read everything."""

    def walk(path, onerror):
        onerror(PermissionError(13, "Permission denied", str(path)))
        return iter(())

    monkeypatch.setattr(os, "walk", walk)
    report = lint([str(tmp_path)])
    assert report.status() == 2
    assert "Permission denied" in report.unreadable[0].why


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is full")
def test_a_report_that_cannot_be_written_is_no_finding():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "deploylab.cli", "lint", "-"],
            input=(rollout() + template()),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("The report cannot be written: ")
    assert "Traceback" not in done.stderr
