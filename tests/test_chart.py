"""The Helm chart: what helm made of it is recorded, and held to the plain manifest.

Where `make extras-helm` has got helm, it runs again.
"""

import csv
import datetime
import json
import re
import runpy
import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploylab import ROOT

CHART = ROOT / "book" / "listings" / "chart"
PLAIN = ROOT / "book" / "listings" / "kubernetes" / "phishing-service.yaml"
EXTRA = ROOT / "extras" / "helm"
HELM = EXTRA / "node_modules" / ".bin" / "helm"
TEMPLATES = sorted((CHART / "templates").iterdir())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DEFINITIONS = json.loads((ROOT / "tests/kubernetes_schema/v1.37.json").read_text())
RENDER = runpy.run_path(str(EXTRA / "render.py"))
with (EXTRA / "runs.csv").open(newline="") as _file:
    RUNS = {row["run"]: row for row in csv.DictReader(_file)}


def rendered(name):
    """The manifests that helm made, by kind."""
    found = list(yaml.safe_load_all((EXTRA / f"{name}.yaml").read_text()))
    assert len({one["kind"] for one in found}) == len(found)
    return {one["kind"]: one for one in found}


DEFAULT, V3 = rendered("default"), rendered("v3")


def merged(values, changes):
    """As helm does: maps are merged, all else is replaced."""
    result = dict(values)
    for key, value in changes.items():
        inside = isinstance(value, dict) and isinstance(values.get(key), dict)
        result[key] = merged(values[key], value) if inside else value
    return result


# The record is of this chart.


def test_the_record_is_complete_dated_and_of_this_chart():
    assert list(RUNS) == [name for name, _, _ in RENDER["RUNS"]]
    for name, _, refused in RENDER["RUNS"]:
        row = RUNS[name]
        assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 1)
        assert "cores" in row["machine"]
        assert row["helm"].startswith("v3.")
        assert (row["exit code"] != "0") == refused
        assert row["said"].startswith("Error: ") == refused
        assert row["chart"] == RENDER["digest"](), "make extras-helm: the chart changed"


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ("a typo", "Additional property replcas is not allowed"),
        ("latest", "latest is another image tomorrow"),
        ("version latest", "latest is another image tomorrow"),
        ("too few", "minReplicas is above autoscaling.maxReplicas"),
        ("an old cluster", "incompatible with Kubernetes v1.29.0"),
    ],
)
def test_helm_refused_with_a_reason(run, said):
    assert said in RUNS[run]["said"]


@pytest.mark.slow
def test_helm_says_it_again(tmp_path):
    if not HELM.exists():
        pytest.skip("helm is not there: make extras-helm gets it on Linux")
    command = [sys.executable, EXTRA / "render.py", "--out", tmp_path]
    subprocess.run(command, check=True, capture_output=True)
    for name, recorded in (("default", DEFAULT), ("v3", V3)):
        again = yaml.safe_load_all((tmp_path / f"{name}.yaml").read_text())
        assert list(again) == list(recorded.values())


# What helm made is what Kubernetes reads, and what the book's plain manifest says.


@pytest.mark.parametrize("manifest", [*DEFAULT.values(), *V3.values()])
def test_every_manifest_is_what_kubernetes_reads(manifest):
    kubernetes_validate.validate(manifest, "1.37", strict=True)
    name = {
        "Deployment": "io.k8s.api.apps.v1.Deployment",
        "Service": "io.k8s.api.core.v1.Service",
    }.get(manifest["kind"])
    if name:
        jsonschema.validate(manifest, DEFINITIONS | {"$ref": f"#/$defs/{name}"})


@pytest.mark.parametrize(
    ("kind", "place", "value"),
    [
        ("Deployment", ["spec", "replicas"], "2"),
        ("Deployment", ["spec", "template", "spec", "container"], []),
        ("Service", ["spec", "ports"], 80),
        ("PodDisruptionBudget", ["spec", "maxUnavailable"], 0.5),
        ("HorizontalPodAutoscaler", ["spec", "minReplica"], 2),
    ],
)
def test_a_planted_fault_is_not(kind, place, value):
    broken = json.loads(json.dumps(V3[kind]))
    inside = broken
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_the_deployment_is_the_plain_one_field_by_field():
    assert DEFAULT["Deployment"] == yaml.safe_load(PLAIN.read_text())
    assert set(DEFAULT) == {"Deployment", "Service", "PodDisruptionBudget"}


def test_another_version_differs_in_the_version_and_what_was_asked_for():
    plain = yaml.safe_load(PLAIN.read_text().replace("v2", "v3"))
    assert plain["spec"].pop("replicas") == 2
    digest = yaml.safe_load((CHART / "values-v3.yaml").read_text())["image"]["digest"]
    [container] = plain["spec"]["template"]["spec"]["containers"]
    container["image"] = f"registry.example/phishing@{digest}"
    assert V3["Deployment"] == plain


@pytest.mark.parametrize("made", [DEFAULT, V3], ids=["default", "v3"])
def test_every_part_is_about_the_pods_of_the_deployment(made):
    deployment = made["Deployment"]
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    [container] = template["spec"]["containers"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert made["Service"]["spec"]["selector"] == labels
    assert made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    [port] = made["Service"]["spec"]["ports"]
    assert {"containerPort": port["targetPort"]} in container["ports"]
    assert "cpu" in container["resources"]["requests"]  # what an autoscaler divides by
    scaler = made.get("HorizontalPodAutoscaler")
    assert (scaler is None) == ("replicas" in deployment["spec"])
    if scaler:
        target = scaler["spec"]["scaleTargetRef"]
        assert target["name"] == deployment["metadata"]["name"]
        assert target["apiVersion"] == deployment["apiVersion"]


# Values: the schema knows each, and each is used.


def test_the_values_pass_their_schema_and_the_schema_is_one():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    other = yaml.safe_load((CHART / "values-v3.yaml").read_text())
    for values in (VALUES, merged(VALUES, other)):
        jsonschema.validate(values, SCHEMA, jsonschema.Draft7Validator)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"replcas": 3}, "'replcas' was unexpected"),
        ({"replicas": "3"}, "'3' is not of type 'integer'"),
        ({"replicas": -1}, "-1 is less than the minimum"),
        ({"version": 2.1}, "2.1 is not of type 'string'"),
        ({"version": "v3!"}, "does not match"),
        ({"image": {"digest": "sha256:beef"}}, "does not match"),
        ({"image": {"repository": ""}}, "non-empty"),
        ({"server": {"port": 80}}, "80 is less than the minimum"),
        ({"startup": {"limitSeconds": 61}}, "61 is not a multiple of 2"),
        ({"resources": {"limits": {"memory": None}}}, "None is not of type"),
        ({"resources": {"requests": None}}, "None is not of type 'object'"),
        ({"autoscaling": {"enabled": "false"}}, "'false' is not of type 'boolean'"),
        ({"disruption": {"maxUnavailable": 0}}, "0 is less than the minimum"),
    ],
)
def test_bad_values_are_refused_with_a_reason(changes, said):
    with pytest.raises(jsonschema.ValidationError, match=re.escape(said)):
        jsonschema.validate(merged(VALUES, changes), SCHEMA, jsonschema.Draft7Validator)


def paths(values, before=""):
    """All places in a mapping of mappings, with dots: of maps and of their leaves."""
    for key, value in values.items():
        yield before + key
        if isinstance(value, dict):
            yield from paths(value, f"{before}{key}.")


def asked(text):
    """What templates take from elsewhere: all names that begin with a dot."""
    actions = re.findall(r"{{-?(?! */\*)(.*?)-?}}", text, re.DOTALL)
    bare = [re.sub(r'"[^"]*"', '""', action) for action in actions]
    return {name for one in bare for name in re.findall(r"(?<![\w)])\.([\w.]+)", one)}


def unknown(text):
    """The names in templates that helm would take for nothing, without a word."""
    known = {f"Values.{path}" for path in paths(VALUES)}
    return asked(text) - known - {"Release.Name", "Chart.Name"}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_every_name_in_a_template_has_a_value(template):
    assert unknown(template.read_text()) == set()


@pytest.mark.parametrize(
    ("typo", "found"),
    [
        ("{{ .Values.replcas }}", "Values.replcas"),
        ("{{- if gt (int .Values.server.ports) 1 }}", "Values.server.ports"),
        ("{{- with .Values.shutdown }}{{ .preStop }}{{ end }}", "preStop"),
        ('{{ include "a.b" . }}{{ $x := add .Value.replicas 1 }}', "Value.replicas"),
        ("{{ .Release.Title }}", "Release.Title"),
    ],
)
def test_a_planted_typo_is_found(typo, found):
    assert unknown(typo) == {found}


def test_every_value_is_used_and_has_a_schema():
    used = set().union(*(asked(template.read_text()) for template in TEMPLATES))

    def is_used(path):
        parts = path.split(".")
        above = (".".join(parts[:n]) for n in range(1, len(parts) + 1))
        return any(f"Values.{one}" in used for one in above)

    leaves = [
        path
        for path in paths(VALUES)
        if not any(other.startswith(f"{path}.") for other in paths(VALUES))
    ]
    assert [path for path in leaves if not is_used(path)] == []
    described = set(schema_paths(SCHEMA))
    open_ended = ("resources.requests.", "resources.limits.")
    assert {p for p in paths(VALUES) if not p.startswith(open_ended)} == described


def schema_paths(schema, before=""):
    """The same places, in a schema."""
    for key, inside in schema.get("properties", {}).items():
        yield before + key
        yield from schema_paths(inside, f"{before}{key}.")
