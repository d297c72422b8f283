"""The listings of the chapter on orchestration, and probes replayed as it says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from book.listings import never_ready_service
from deploylab.rollout import Rolling, export

HERE = Path(__file__).resolve().parent
AROUND = HERE.parent / "book" / "listings" / "kubernetes" / "phishing-around.yaml"
DEFINITIONS = json.loads((HERE / "kubernetes_schema" / "v1.37.json").read_text())
IMAGE = "registry.example/phishing:2.0.0"


def exported() -> list[dict]:
    plan = Rolling(3, max_surge=1, max_unavailable=0, min_ready_s=10)
    return list(
        yaml.safe_load_all(export.kubernetes(plan, name="phishing", image=IMAGE))
    )


def around() -> list[dict]:
    return list(yaml.safe_load_all(AROUND.read_text()))


@pytest.mark.parametrize("manifest", [*exported(), *around()], ids=lambda m: m["kind"])
def test_every_manifest_is_what_kubernetes_reads(manifest):
    kubernetes_validate.validate(manifest, "1.37", strict=True)
    broken = manifest | {"spec": manifest["spec"] | {"replicsa": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_the_spread_of_the_page_is_in_the_schema_too():
    deployment, service = exported()
    pod = deployment["spec"]["template"]["spec"]
    spread = {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": service["spec"]["selector"]},
        "matchLabelKeys": ["pod-template-hash"],
    }
    schema = DEFINITIONS | {"$ref": "#/$defs/io.k8s.api.apps.v1.Deployment"}
    pod["topologySpreadConstraints"] = [spread]
    jsonschema.validate(deployment, schema)
    pod["topologySpreadConstraints"] = [spread | {"maxSkew": "one"}]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(deployment, schema)


def test_what_stands_around_is_about_the_deployment():
    deployment, _ = exported()
    scaler, budget = around()
    target = scaler["spec"]["scaleTargetRef"]
    assert target == {
        "apiVersion": deployment["apiVersion"],
        "kind": deployment["kind"],
        "name": deployment["metadata"]["name"],
    }
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert scaler["spec"]["minReplicas"] > budget["spec"]["maxUnavailable"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert "cpu" in container["resources"]["requests"]  # percent of what, otherwise


def test_the_service_that_is_never_ready_is_alive():
    client = never_ready_service.create_app("").test_client()
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
