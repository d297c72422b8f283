"""What queries and conditions are taken to mean, pattern by pattern."""

from __future__ import annotations

from fractions import Fraction

import pytest

from deploylab.lint.query import (
    BOTH,
    CANDIDATE,
    LATEST_HASH,
    STABLE,
    STABLE_HASH,
    Bound,
    Names,
    NotRecognised,
    Ratio,
    condition,
    recognise,
    seconds,
)

NAMES = Names(
    candidate=frozenset({"a-canary"}),
    stable=frozenset({"a-stable"}),
    both=frozenset({"a"}),
    arguments={
        "service-name": "a.default.svc.cluster.local",
        "canary-host": "a-canary.default.svc",
        "latest": LATEST_HASH,
        "stable": STABLE_HASH,
    },
)


def share(labels: str, status: str = 'code=~"5.."', window: str = "5m") -> str:
    comma = "," if labels else ""
    return (
        f"sum(rate(requests_total{{{labels}{comma}{status}}}[{window}])) / "
        f"sum(rate(requests_total{{{labels}}}[{window}]))"
    )


SERVICE = 'service="a-canary"'


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # Argo's documentation, docs/features/analysis.md
        (
            'sum(irate(istio_requests_total{reporter="source",destination_service=~'
            '"{{args.service-name}}",response_code!~"5.*"}[5m])) / sum(irate('
            'istio_requests_total{reporter="source",destination_service=~'
            '"{{args.service-name}}"}[5m]))',
            Ratio("successes", BOTH, None),
        ),
        # Flagger's built-in query for Istio, pkg/metrics/observers/istio.go, filled in
        (
            'sum(rate(istio_requests_total{reporter="destination",'
            'destination_workload_namespace="x",destination_workload=~"a-canary",'
            'response_code!~"5.*"}[1m])) / sum(rate(istio_requests_total{'
            'reporter="destination",destination_workload_namespace="x",'
            'destination_workload=~"a-canary"}[1m])) * 100',
            Ratio("successes", CANDIDATE, 60.0, 100),
        ),
        (share(SERVICE), Ratio("errors", CANDIDATE, 300.0)),
        (f"100 - {share(SERVICE)} * 100", Ratio("successes", CANDIDATE, 300.0, 100)),
        (f"1 - ({share(SERVICE)})", Ratio("successes", CANDIDATE, 300.0)),
        (f"100 * ({share(SERVICE)})", Ratio("errors", CANDIDATE, 300.0, 100)),
        (
            f"({share(SERVICE)}) or on() vector(0)",
            Ratio("errors", CANDIDATE, 300.0, empty=Fraction(0)),
        ),
        (
            '(sum(increase(requests_total{namespace="x", pod=~"a-{{args.latest}}-.+", '
            'code=~"5.."}[60s])) or vector(0))\n/\n'
            '(sum(increase(requests_total{namespace="x", '
            'pod=~"a-{{args.latest}}-.+"}[60s])) >= 50)\n',
            Ratio("errors", CANDIDATE, 60.0, least=50),
        ),
        (
            share(SERVICE).replace("rate", "increase"),
            Ratio("errors", CANDIDATE, 300.0),
        ),
        (
            share(SERVICE, 'status=~"5[0-9]{2}"'),
            Ratio("errors", CANDIDATE, 300.0),
        ),
        (share(SERVICE, 'code=~"2.."'), Ratio("successes", CANDIDATE, 300.0)),
        (share(SERVICE, 'code=~"[45].."'), Ratio("errors", CANDIDATE, 300.0)),
        (
            share(SERVICE, 'classification="failure"'),
            Ratio("errors", CANDIDATE, 300.0),
        ),
        # Which version
        (share('service="a"'), Ratio("errors", BOTH, 300.0)),
        (share('service="a-stable"'), Ratio("errors", STABLE, 300.0)),
        (share('service=~"a.*"'), Ratio("errors", BOTH, 300.0)),
        (share('app="a",version="canary"'), Ratio("errors", CANDIDATE, 300.0)),
        (share('app="a",version!="stable"'), Ratio("errors", CANDIDATE, 300.0)),
        (share('app="a",hash="{{args.latest}}"'.replace("hash", "pod_template_hash")),
         Ratio("errors", CANDIDATE, 300.0)),
        (share('app="a",pod_template_hash="{{ args.stable }}"'),
         Ratio("errors", STABLE, 300.0)),
        (share('ingress="a",canary!=""'), Ratio("errors", CANDIDATE, 300.0)),
        (share('host="{{args.canary-host}}"'), Ratio("errors", CANDIDATE, 300.0)),
        (share('service="a",pod=~"a-canary-.*"'), Ratio("errors", CANDIDATE, 300.0)),
        # A histogram's count of observations
        (
            share(SERVICE).replace("requests_total", "request_seconds_count"),
            Ratio("errors", CANDIDATE, 300.0),
        ),
    ],
)  # fmt: skip
def test_a_documented_pattern_is_recognised(query, expected):
    assert recognise(query, NAMES) == expected


ZERO = share(SERVICE).replace("sum", "(sum", 1).replace(" / ", " or vector(0)) / ")


@pytest.mark.parametrize(
    ("query", "waits"),
    [
        (share(SERVICE), True),
        (f"100 - {share(SERVICE)} * 100", True),  # without errors there is no 0 either
        (ZERO, False),
        (f"100 - {ZERO} * 100", False),
        (f"({share(SERVICE)}) or vector(0)", False),
        (share(SERVICE, 'code!~"5.."'), False),  # the counter of what went well
        ("1 - " + share(SERVICE, 'code!~"5.."'), False),
    ],
)
def test_a_share_of_errors_waits_for_the_first_one(query, waits):
    assert recognise(query, NAMES).waits is waits


@pytest.mark.parametrize(
    ("query", "why"),
    [
        (None, "no query"),
        (share("").replace('code=~"5..",', ""), "chooses no service"),
        (share('service="{{args.unknown}}"'), "label service is not in the files"),
        (share(SERVICE, 'path="/x"'), "not by status"),
        (share(SERVICE, 'code=~".*"'), "neither all errors nor none"),
        (share(SERVICE, 'code=~"((a+)+)+"'), "too involved"),
        (share(SERVICE, 'code=~"["'), "cannot be read"),
        (share('service="a",tenant="x"'), "a part of the requests, by tenant"),
        (share('service=~"a-stable|a-canary"'), "errors"),
        (f"{share(SERVICE)} - {share(SERVICE)}", "difference"),
        (
            f"sum by (pod) (rate(requests_total{{{SERVICE}}}[5m]))",
            "one value for each label",
        ),
        (share(SERVICE, window="5 m"), "window [5 m]"),
        (
            share(SERVICE).replace("requests", "calls", 1),
            "of the same kind",
        ),
        ("(" * 100 + share(SERVICE) + ")" * 100, "nested too deep"),
        (share(SERVICE).replace("sum(rate", "(rate"), "without sum()"),
        (f"sum({share(SERVICE)})", "already a share"),
        ("1" * 6000, "longer than"),
    ],
)
def test_what_is_not_a_pattern_is_not_guessed(query, why):
    if why == "errors":  # one pattern for both names reads both
        assert recognise(query, NAMES).reads == BOTH
        return
    with pytest.raises(NotRecognised) as refused:
        recognise(query, NAMES)
    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("http_request_duration_seconds_sum", "its name says duration"),
        ("istio_request_duration_milliseconds_bucket", "its name says bucket"),
        ("http_response_size_bytes_sum", "its name says bytes"),
        ("request_processing_seconds_total", "its name says seconds"),
        ("http_requests_failed_total", "its name says failed"),
        ("http_requests_in_flight", "its name says flight"),
        ("gpu_cost_total", "its name says cost"),
        ("jobs_total", "is not known here"),
        ("ratio", "is not known here"),
    ],
)
def test_a_share_of_something_else_than_requests_is_not_one_of_requests(name, why):
    with pytest.raises(NotRecognised) as refused:
        recognise(share(SERVICE).replace("requests_total", name), NAMES)
    assert why in str(refused.value)
    assert name in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        # Flagger's observers (pkg/metrics/observers), servers and client libraries
        "istio_requests_total", "response_total",
        "envoy_cluster_upstream_rq", "traefik_service_requests_total",
        "skipper_serve_host_duration_seconds_count", "apisix_http_status",
        "revision_request_count", "http_server_requests_seconds_count",
        "haproxy_backend_http_responses_total", "flask_http_request_total",
    ],
)  # fmt: skip
def test_counters_of_requests_are_known_by_their_names(name):
    query = share(SERVICE).replace("requests_total", name)
    assert recognise(query, NAMES) == Ratio("errors", CANDIDATE, 300.0)


ERRORS = Ratio("errors", CANDIDATE, 60.0)
SUCCESSES = Ratio("successes", CANDIDATE, 60.0)
PERCENT = Ratio("successes", CANDIDATE, 60.0, 100)


@pytest.mark.parametrize(
    ("text", "ratio", "expected"),
    [
        ("result[0] <= 0.01", ERRORS, Bound(True, Fraction("0.01"), True)),
        ("result < 0.01", ERRORS, Bound(True, Fraction("0.01"), False)),
        ("result[0] >= 0.99", SUCCESSES, Bound(True, Fraction("0.01"), True)),
        ("asFloat(result) > 99", PERCENT, Bound(True, Fraction("0.01"), False)),
        ("result[0] > 0.05", ERRORS, Bound(False, Fraction("0.05"), False)),
        ("result[0] < 0.95", SUCCESSES, Bound(False, Fraction("0.05"), False)),
        ("all(result, # <= 0.01)", ERRORS, Bound(True, Fraction("0.01"), True)),
        (
            "isNaN(result[0]) || result[0] <= 0.01",
            ERRORS,
            Bound(True, Fraction("0.01"), True, True),
        ),
        (
            "len(result) == 0 || result[0] <= 0.01",
            ERRORS,
            Bound(True, Fraction("0.01"), True, True),
        ),
        (
            "len(result) > 0 && result[0] <= 0.01",
            ERRORS,
            Bound(True, Fraction("0.01"), True, False),
        ),
        (
            "!isNaN(result[0]) && result[0] <= 0.01",
            ERRORS,
            Bound(True, Fraction("0.01"), True, False),
        ),
        (
            "default(result, 0) <= 0.01",
            ERRORS,
            Bound(True, Fraction("0.01"), True, True),
        ),
        (
            "default(result, 1) <= 0.01",
            ERRORS,
            Bound(True, Fraction("0.01"), True, False),
        ),
    ],
)
def test_a_condition_is_a_bound_on_errors(text, ratio, expected):
    assert condition(text, ratio) == expected


@pytest.mark.parametrize(
    "text",
    ["", "result == 1", "result[0] < 1 && result[0] > 0", "true", "x > 1", 5,
     "isNaN(result[0])", "result[0] < 1 || isNaN(result[0]) && len(result) > 0"],
)  # fmt: skip
def test_another_condition_is_not_guessed(text):
    with pytest.raises(NotRecognised):
        condition(text, ERRORS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5m", 300.0), ("1h30m", 5400.0), ("500ms", 0.5), ("1.5h", 5400.0), ("2d", None)]
    + [(text, None) for text in ("", "5", "m", "-5m", "5 m", "9999w", "5m5", 5, None)],
)
def test_durations(text, expected):
    assert seconds(text) == expected
