"""The fields that exported manifests may have, engine by engine, and nothing else.

The projects publish their schemas as definitions of several megabytes, which are not
ours to carry. So each field that the exporters write stands here, by hand, with its
type and its bounds; an unknown field, a wrong type or a missing one is an error. Where
the definitions themselves are at hand (see ``published``), the tests hold the manifests
against them as well, and this list, so that it cannot drift from them.

The notation: a dict is an object with these fields, and with no others; a name that
ends in ``!`` is required; a list of one is an array of such; a string is a type below.
"""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
KUBERNETES = json.loads((HERE / "kubernetes_schema" / "v1.37.json").read_text())[
    "$defs"
]

TYPES = {
    "text": {"type": "string", "minLength": 1},
    "name": {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"},
    "flag": {"type": "boolean"},
    "count": {"type": "integer", "minimum": 0},
    "positive": {"type": "integer", "minimum": 1},
    "percent": {"type": "integer", "minimum": 0, "maximum": 100},
    "weight": {"type": "integer", "minimum": 0, "maximum": 1_000_000},
    "port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "seconds": {"type": "string", "pattern": "^[1-9][0-9]*s$"},
    "limit": {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": "%$"}]},
    "map": {"type": "object", "additionalProperties": {"type": "string"}},
    "pod template": {"$ref": "#/$defs/io.k8s.api.core.v1.PodTemplateSpec"},
    "container": {"$ref": "#/$defs/io.k8s.api.core.v1.Container"},
    "pod security": {"$ref": "#/$defs/io.k8s.api.core.v1.PodSecurityContext"},
}

_ABOUT = {"name!": "name", "namespace": "name", "labels": "map", "annotations": "map"}
_ANALYSIS = {
    "templates!": [{"templateName!": "name"}],
    "args": [{"name!": "text", "valueFrom!": {"podTemplateHashValue!": "text"}}],
}
_BACKEND = {"name!": "name", "port!": "port", "weight": "weight"}

#: By API version and kind.
FIELDS = {
    ("argoproj.io/v1alpha1", "Rollout"): {
        "apiVersion!": "text",
        "kind!": "text",
        "metadata!": _ABOUT,
        "spec!": {
            "replicas!": "positive",
            "revisionHistoryLimit!": "count",
            "minReadySeconds!": "count",
            "progressDeadlineSeconds!": "positive",
            "progressDeadlineAbort!": "flag",
            "selector!": {"matchLabels!": "map"},
            "template!": "pod template",
            "strategy!": {
                "canary": {
                    "stableService": "name",
                    "canaryService": "name",
                    "maxSurge!": "limit",
                    "maxUnavailable!": "limit",
                    "dynamicStableScale": "flag",
                    "scaleDownDelaySeconds": "count",
                    "abortScaleDownDelaySeconds": "count",
                    "trafficRouting": {
                        "plugins!": {
                            "argoproj-labs/gatewayAPI!": {
                                "httpRoute!": "name",
                                "namespace!": "name",
                            }
                        }
                    },
                    "analysis": {**_ANALYSIS, "startingStep!": "count"},
                    "steps": [
                        {
                            "setWeight": "percent",
                            "pause": {"duration!": "seconds"},
                            "analysis": _ANALYSIS,
                        }
                    ],
                },
                "blueGreen": {
                    "activeService!": "name",
                    "previewService!": "name",
                    "autoPromotionEnabled!": "flag",
                    "prePromotionAnalysis": _ANALYSIS,
                    "postPromotionAnalysis": _ANALYSIS,
                    "scaleDownDelaySeconds!": "count",
                    "abortScaleDownDelaySeconds!": "count",
                },
            },
        },
    },
    ("argoproj.io/v1alpha1", "AnalysisTemplate"): {
        "apiVersion!": "text",
        "kind!": "text",
        "metadata!": _ABOUT,
        "spec!": {
            "args!": [{"name!": "text"}],
            "metrics!": [
                {
                    "name!": "name",
                    "initialDelay!": "seconds",
                    "interval!": "seconds",
                    "count": "positive",
                    "successCondition!": "text",
                    "failureLimit!": "count",
                    "inconclusiveLimit!": "count",
                    "consecutiveErrorLimit!": "count",
                    "provider!": {
                        "prometheus!": {"address!": "text", "query!": "text"}
                    },
                }
            ],
        },
    },
    ("flagger.app/v1beta1", "Canary"): {
        "apiVersion!": "text",
        "kind!": "text",
        "metadata!": _ABOUT,
        "spec!": {
            "provider!": "text",
            "targetRef!": {"apiVersion!": "text", "kind!": "text", "name!": "name"},
            "progressDeadlineSeconds!": "positive",
            "skipAnalysis!": "flag",
            "service!": {
                "port!": "port",
                "targetPort!": "text",
                "gatewayRefs!": [{"name!": "name"}],
            },
            "analysis!": {
                "interval!": "seconds",
                "threshold!": "positive",
                "primaryReadyThreshold!": "percent",
                "canaryReadyThreshold!": "percent",
                "stepWeights": ["percent"],
                "stepWeightPromotion!": "percent",
                "iterations": "positive",
                "mirror": "flag",
                "match": [{"headers!": "matches"}],
                "metrics!": [
                    {
                        "name!": "name",
                        "templateRef!": {"name!": "name", "namespace!": "name"},
                        "thresholdRange!": {"max!": "share"},
                        "interval!": "seconds",
                    }
                ],
                "webhooks": [
                    {
                        "name!": "name",
                        "type!": "text",
                        "url!": "text",
                        "timeout": "seconds",
                        "metadata": "map",
                    }
                ],
            },
        },
    },
    ("flagger.app/v1beta1", "MetricTemplate"): {
        "apiVersion!": "text",
        "kind!": "text",
        "metadata!": _ABOUT,
        "spec!": {
            "provider!": {"type!": "text", "address!": "text"},
            "query!": "text",
        },
    },
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): {
        "apiVersion!": "text",
        "kind!": "text",
        "metadata!": _ABOUT,
        "spec!": {
            "parentRefs!": [{"name!": "name"}],
            "rules!": [
                {
                    "matches": [
                        {
                            "headers!": [
                                {"type!": "text", "name!": "text", "value!": "text"}
                            ]
                        }
                    ],
                    "filters": [
                        {
                            "type!": "text",
                            "requestMirror!": {
                                "backendRef!": {"name!": "name", "port!": "port"},
                                "percent": "percent",
                                "fraction": {
                                    "numerator!": "count",
                                    "denominator!": "positive",
                                },
                            },
                        }
                    ],
                    "backendRefs!": [_BACKEND],
                }
            ],
        },
    },
}
_PREDICTOR = {
    "name": "name",
    "minReplicas!": "positive",
    "maxReplicas": "positive",
    "canaryTrafficPercent": "percent",
    "deploymentStrategy": {
        "type!": "text",
        "rollingUpdate": {"maxSurge!": "limit", "maxUnavailable!": "limit"},
    },
    "automountServiceAccountToken": "flag",
    "securityContext": "pod security",
    "terminationGracePeriodSeconds": "positive",
    "containers!": ["container"],
}
FIELDS["serving.kserve.io/v1beta1", "InferenceService"] = {
    "apiVersion!": "text",
    "kind!": "text",
    "metadata!": _ABOUT,
    "spec!": {
        "predictor!": _PREDICTOR,
        "canary": [{"trafficPercent!": "percent", "predictor!": _PREDICTOR}],
    },
}
#: A configuration of Ray Serve has neither version nor kind (ray.serve.schema).
RAY_SERVE = {
    "proxy_location!": "text",
    "http_options!": {"host!": "text", "port!": "port"},
    "applications!": [
        {
            "name!": "name",
            "route_prefix!": "text",
            "import_path!": "text",
            "runtime_env!": {"image_uri!": "text"},
            "deployments!": [
                {
                    "name!": "text",
                    "num_replicas!": "positive",
                    "graceful_shutdown_timeout_s!": "positive",
                    "health_check_period_s!": "positive",
                    "health_check_timeout_s!": "positive",
                    "rolling_update_percentage": "share",
                    "max_surge_percent": "percent",
                }
            ],
        }
    ],
}
TYPES["matches"] = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {"exact": {"type": "string"}},
        "required": ["exact"],
        "additionalProperties": False,
    },
}


def schema(fields: object) -> dict[str, object]:
    """The JSON Schema of fields in this notation."""
    if isinstance(fields, str):
        return TYPES[fields]
    if isinstance(fields, list):
        return {"type": "array", "items": schema(fields[0]), "minItems": 1}
    return {
        "type": "object",
        "properties": {name.rstrip("!"): schema(of) for name, of in fields.items()},
        "required": [name[:-1] for name in fields if name.endswith("!")],
        "additionalProperties": False,
    }


def of_kind(api_version: str, kind: str) -> dict[str, object]:
    """The JSON Schema of a kind; of Kubernetes' own kinds it is Kubernetes' own."""
    own = {
        ("apps/v1", "Deployment"): "io.k8s.api.apps.v1.Deployment",
        ("v1", "Service"): "io.k8s.api.core.v1.Service",
    }
    if (api_version, kind) in own:
        return {"$defs": KUBERNETES, "$ref": f"#/$defs/{own[api_version, kind]}"}
    return {"$defs": KUBERNETES, **schema(FIELDS[api_version, kind])}


# The definitions that the projects publish.

FILES = {
    ("argoproj.io/v1alpha1", "Rollout"): "argo-rollout-crd.yaml",
    ("argoproj.io/v1alpha1", "AnalysisTemplate"): "argo-analysis-template-crd.yaml",
    ("flagger.app/v1beta1", "Canary"): "flagger-crd.yaml",
    ("flagger.app/v1beta1", "MetricTemplate"): "flagger-crd.yaml",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "gateway-httproute-crd.yaml",
    (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    ): "kserve-inferenceservice-crd.yaml",
}


def folder() -> Path:
    """Where the definitions are: ENGINE_SCHEMAS, or a folder beside the project."""
    beside = HERE.parent.parent / "shared" / "schemas"
    return Path(os.environ.get("ENGINE_SCHEMAS", beside))


@functools.cache
def published(api_version: str, kind: str) -> dict[str, object]:
    """The project's own schema of a kind, made strict: unknown fields are errors.

    An API server prunes them without a word, and so a misspelt limit is no limit.
    """
    path = folder() / FILES[api_version, kind]
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for document in yaml.load_all(path.read_text(), Loader=loader):
        if document["spec"]["names"]["kind"] != kind:
            continue
        for version in document["spec"]["versions"]:
            if f"{document['spec']['group']}/{version['name']}" == api_version:
                found = version["schema"]["openAPIV3Schema"]
                found["properties"]["metadata"] = schema(_ABOUT)
                return _strict(found)
    raise LookupError(f"{path} defines no {kind} of {api_version}")


def _strict(found: object) -> object:
    if isinstance(found, list):
        return [_strict(one) for one in found]
    if not isinstance(found, dict):
        return found
    strict = {name: _strict(one) for name, one in found.items()}
    if isinstance(found.get("format"), str):
        del strict["format"]  # int32 and url are no formats of JSON Schema
    if found.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    known = isinstance(found.get("properties"), dict)
    open_ended = found.get("x-kubernetes-preserve-unknown-fields")
    if known and not open_ended and found.get("type") == "object":
        strict.setdefault("additionalProperties", False)
    return strict
