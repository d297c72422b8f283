"""The fields that each kind has, for findings on those that it does not have.

Of the CustomResourceDefinitions as their projects publish them, the names alone: Argo
Rollouts 9f8d111 (`rollout`, `analysis-template`), Flagger 15bd6ad5 (`canary`,
`metrictemplate`), Apache License 2.0. `*` marks a field whose inside is not looked at:
pod templates, settings of routers and of metric stores, free-form maps.
"""

from __future__ import annotations

from typing import Any

#: What an analysis of a Rollout has, wherever it stands.
_RUN = """
analysisRunMetadata*
args:
  name value
  valueFrom:
    podTemplateHashValue
    fieldRef:
      fieldPath
dryRun:
  metricName
measurementRetention:
  limit metricName
templates:
  clusterScope templateName
"""

_ROLLOUT = """
minReadySeconds paused progressDeadlineAbort progressDeadlineSeconds replicas
restartAt revisionHistoryLimit selector* template*
analysis:
  successfulRunHistoryLimit unsuccessfulRunHistoryLimit
rollbackWindow:
  revisions
strategy:
  blueGreen:
    abortScaleDownDelaySeconds activeMetadata* activeService antiAffinity*
    autoPromotionEnabled autoPromotionSeconds maxUnavailable previewMetadata*
    previewReplicaCount previewService scaleDownDelayRevisionLimit
    scaleDownDelaySeconds
    postPromotionAnalysis:
      @run
    prePromotionAnalysis:
      @run
  canary:
    abortScaleDownDelaySeconds antiAffinity* canaryMetadata* canaryService
    dynamicStableScale maxSurge maxUnavailable minPodsPerReplicaSet
    scaleDownDelayRevisionLimit scaleDownDelaySeconds stableMetadata*
    stableService
    analysis:
      @run startingStep
    pingPong:
      pingService pongService
    replicaProgressThreshold:
      type value
    steps:
      experiment* plugin* setWeight
      analysis:
        @run
      pause:
        duration
      setCanaryScale:
        matchTrafficWeight replicas weight
      setHeaderRoute:
        match* name
      setMirrorRoute:
        match* name percentage
    trafficRouting:
      alb* ambassador* apisix* appMesh* istio* maxTrafficWeight nginx* plugins*
      smi* traefik*
      managedRoutes:
        name
workloadRef:
  apiVersion kind name scaleDown
"""

_ANALYSISTEMPLATE = """
args:
  name value
  valueFrom:
    fieldRef:
      fieldPath
    secretKeyRef:
      key name
dryRun:
  metricName
measurementRetention:
  limit metricName
metrics:
  consecutiveErrorLimit consecutiveSuccessLimit count failureCondition failureLimit
  inconclusiveLimit initialDelay interval name successCondition
  provider:
    cloudWatch* datadog* graphite* influxdb* job* kayenta* newRelic* plugin*
    skywalking* wavefront* web*
    prometheus:
      address headers* insecure query timeout
      authentication:
        basicAuth:
          password username
        oauth2:
          clientId clientSecret scopes tokenUrl
        sigv4:
          profile region roleArn
      rangeQuery:
        end start step
templates:
  clusterScope templateName
"""

_CANARY = """
provider metricsServer progressDeadlineSeconds autoscalerRef* service* skipAnalysis
revertOnDeletion suspend
targetRef:
  apiVersion kind name
ingressRef:
  apiVersion kind name
routeRef:
  apiVersion kind name
upstreamRef:
  apiVersion kind name namespace
analysis:
  interval iterations threshold maxWeight stepWeight stepWeights stepWeightPromotion
  mirror mirrorWeight primaryReadyThreshold canaryReadyThreshold match*
  metrics:
    name interval threshold query templateVariables*
    thresholdRange:
      min max
    templateRef:
      name namespace
  alerts:
    name severity
    providerRef:
      name namespace
  webhooks:
    name type muteAlert url timeout retries disableTLS metadata*
  sessionAffinity:
    cookieName primaryCookieName domain httpOnly maxAge partitioned path sameSite
    secure
"""

_METRICTEMPLATE = """
query
provider:
  type address headers* region insecureSkipVerify
  secretRef:
    name
"""

_GATES = """
metric
threshold:
  limit failures minRequests windowSeconds within noData errors
splitEProcess:
  alpha minRequests
"""

_STRATEGY = """
canary:
  shares bakeSeconds onDoubt sticky salt
  gates:
    @gates
blueGreen:
  keepSeconds preview
  gates:
    @gates
  before:
    @gates
"""


def _tree(text: str) -> dict[str, Any]:
    """Nested names: None for a field without fields, ... for one not looked at."""
    root: dict[str, Any] = {}
    open_: list[tuple[int, dict[str, Any]]] = [(-1, root)]
    for line in text.strip().splitlines():
        indent = len(line) - len(line.lstrip())
        while open_[-1][0] >= indent:
            open_.pop()
        here = open_[-1][1]
        for word in line.split():
            if word == "@run":
                here |= _tree(_RUN)
            elif word == "@gates":
                here |= _tree(_GATES)
            elif word.endswith(":"):
                here[word[:-1]] = below = {}
                open_.append((indent, below))
            else:
                here[word.rstrip("*")] = ... if word.endswith("*") else None
    return root


_ANALYSIS = _tree(_ANALYSISTEMPLATE)
#: The fields of each kind's ``spec``.
FIELDS: dict[str, dict[str, Any]] = {
    "Rollout": _tree(_ROLLOUT),
    "AnalysisTemplate": _ANALYSIS,
    "ClusterAnalysisTemplate": _ANALYSIS,
    "Canary": _tree(_CANARY),
    "MetricTemplate": _tree(_METRICTEMPLATE),
    "Strategy": _tree(_STRATEGY),
}
