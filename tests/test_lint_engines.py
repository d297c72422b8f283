"""Engines' semantics: when they look, what they count, what a weight comes to."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction

import pytest
import yaml
from scipy import stats

from deploylab.lint import World, compute, lint
from deploylab.lint.argo import pods
from deploylab.lint.compute import Look, Metric, Timeline
from deploylab.lint.query import Bound
from deploylab.rollout.judges import Threshold
from deploylab.rollout.model import Counts, Gate, Measurement, Verdict

QUERY = (
    'sum(rate(requests_total{service="a-canary",code=~"5.."}[WINDOW])) / '
    'sum(rate(requests_total{service="a-canary"}[WINDOW]))'
)


def argo(steps, metrics, analysis=None, **canary):
    """Gate of a Rollout with one template of these metrics."""
    for metric in metrics:
        window = metric.pop("window", metric.get("interval", "1m"))
        query = QUERY.replace("WINDOW", window)
        metric.setdefault("provider", {"prometheus": {"query": query}})
        metric.setdefault("successCondition", "result[0] <= 0.01")
    settings = {
        "canaryService": "a-canary",
        "stableService": "a-stable",
        "trafficRouting": {"istio": {}},
        "steps": steps,
    } | canary
    if analysis is not None:
        settings["analysis"] = {"templates": [{"templateName": "t"}]} | analysis
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "a"},
        "spec": {"replicas": 10, "strategy": {"canary": settings}},
    }
    template = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": "t"},
        "spec": {"metrics": metrics},
    }
    return yaml.safe_dump_all([rollout, template])


def chances(text, **world):
    (gate,) = lint(["-"], World(**world), text.encode()).gates
    assert gate.healthy is not None, gate.not_computed
    return gate.healthy, gate.bad


INLINE = {"analysis": {"templates": [{"templateName": "t"}]}}


def metric(**fields):
    return {"name": "m", "initialDelay": "1m", "interval": "1m", "count": 4} | fields


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_argo_aborts_at_the_failure_after_the_limit(limit):
    text = argo([{"setWeight": 10}, INLINE], [metric(failureLimit=limit)])
    healthy, bad = chances(text, requests_per_s=20)
    for found, rate in ((healthy, 0.002), (bad, 0.02)):
        q = stats.binom.sf(1, 120, rate)
        assert found.aborted == pytest.approx(stats.binom.sf(limit, 4, q), abs=1e-9)
    assert healthy.seconds == 240


def test_limits_may_be_text_and_the_default_limit_is_0():
    default = chances(argo([{"setWeight": 10}, INLINE], [metric()]))
    written = chances(argo([{"setWeight": 10}, INLINE], [metric(failureLimit="0")]))
    assert default == written


def test_two_analyses_count_apart():
    steps = [{"setWeight": 10}, INLINE, {"setWeight": 50}, INLINE]
    healthy, bad = chances(argo(steps, [metric(failureLimit=1)]), requests_per_s=20)
    passes = 1.0
    for share in (0.1, 0.5):
        n = round(20 * 60 * share)
        q = stats.binom.sf(n // 100, n, 0.02)
        passes *= stats.binom.cdf(1, 4, q)
    assert bad.promoted == pytest.approx(passes, abs=1e-9)
    assert healthy.seconds == 480


@pytest.mark.parametrize(
    ("replicas", "starting", "looks"),
    [(10, 0, 10), (10, 2, 5), (10, 4, 0), (1, 0, 9), (1, 2, 4)],
)
def test_a_background_analysis_looks_until_promotion(replicas, starting, looks):
    """Two pauses of 5 min: at 1, 2, ... 10 min.

    At 10 the steps are done. Of ten pods nine have still to start, and promotion waits
    for them (rollout/sync.go, shouldFullPromote), so the look is taken; a single pod
    runs already, and it is not.
    """
    pause = {"pause": {"duration": "5m"}}
    steps = [{"setWeight": 10}, pause, {"setWeight": 10}, pause]
    endless = metric(failureLimit=0)
    del endless["count"]
    text = argo(steps, [endless], {"startingStep": starting})
    text = text.replace("replicas: 10", f"replicas: {replicas}")
    healthy, _ = chances(text, requests_per_s=20)
    q = stats.binom.sf(1, 120, 0.002)
    assert healthy.aborted == pytest.approx(1 - (1 - q) ** looks, abs=1e-9)
    assert healthy.seconds == 600
    (gate,) = lint(["-"], World(), text.encode()).gates
    taken = [remark for remark in gate.remarks if "when the steps are done" in remark]
    assert len(taken) == bool(looks)
    assert all(("not taken" in remark) is (replicas == 1) for remark in taken)


@pytest.mark.parametrize(("limit", "aborts"), [(3, True), (4, True), (5, False)])
def test_looks_without_data_abort_after_the_limit_of_errors(limit, aborts):
    """The analysis is there before the weight: the looks at 0 to 4 min are empty."""
    steps = [
        {"setWeight": 0},
        {"pause": {"duration": "4m30s"}},
        {"setWeight": 10},
        {"pause": {"duration": "5m"}},
    ]
    one = metric(consecutiveErrorLimit=limit, failureLimit=9, initialDelay="0s")
    del one["count"]
    healthy, _ = chances(argo(steps, [one], {}), requests_per_s=20)
    assert (healthy.aborted == 1) is aborts


def test_an_indefinite_pause_lasts_as_long_as_a_person_takes():
    text = argo([{"setWeight": 10}, {"pause": {}}, INLINE], [metric()])
    healthy, _ = chances(text, person_s=1000)
    assert healthy.seconds == 1000 + 240


def test_a_pause_is_in_seconds_as_number_and_as_text():
    for duration in (90, "90", "90s", "1m30s"):
        text = argo([{"setWeight": 10}, {"pause": {"duration": duration}}, INLINE],
                    [metric()])  # fmt: skip
        assert chances(text)[0].seconds == 90 + 240


def test_irate_sees_one_scrape():
    query = QUERY.replace("rate(", "irate(").replace("WINDOW", "5m")
    one = metric(provider={"prometheus": {"query": query}})
    healthy, _ = chances(argo([{"setWeight": 10}, INLINE], [one]), scrape_s=30)
    q = stats.binom.sf(0, 60, 0.002)
    assert healthy.aborted == pytest.approx(1 - (1 - q) ** 4, abs=1e-9)


def test_two_metrics_of_the_same_requests_are_not_two_chances():
    one, two = metric(), metric(name="n")
    alone, _ = chances(argo([{"setWeight": 10}, INLINE], [metric()]))
    both, _ = chances(argo([{"setWeight": 10}, INLINE], [one, two]))
    assert both.samples
    assert abs(both.aborted - alone.aborted) <= 5 * both.errors["aborted"]


@pytest.mark.parametrize(
    ("replicas", "share"),
    list(
        enumerate(
            [0.5, 0.333, 0.25, 0.2, 0.167, 0.143, 0.125, 0.111, 0.1, 0.091], start=1
        )
    ),
)
def test_five_percent_of_few_pods(replicas, share):
    mine, theirs = pods(replicas, 5, True)
    assert mine / (mine + theirs) == pytest.approx(share, abs=6e-4)


@pytest.mark.parametrize("replicas", range(8))
@pytest.mark.parametrize("surges", [True, False])
def test_pods_at_the_ends(replicas, surges):
    assert pods(replicas, 0, surges) == (0, replicas)
    assert pods(replicas, 100, surges) == (replicas, 0)


def flagger(**analysis):
    defaults = {
        "interval": "1m",
        "threshold": 2,
        "metrics": [{"name": "request-success-rate", "thresholdRange": {"min": 99}}],
    }
    canary = {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": {"name": "a"},
        "spec": {"targetRef": {"name": "a"}, "analysis": defaults | analysis},
    }
    return yaml.safe_dump(canary)


@pytest.mark.parametrize(
    ("analysis", "checks"),
    [
        ({"stepWeight": 10, "maxWeight": 50}, 5),
        ({"stepWeight": 20}, 5),
        ({"stepWeight": 30}, 4),  # 30, 60, 90, 100
        ({"stepWeights": [5, 20, 60]}, 3),
        ({"stepWeight": 50, "mirror": True}, 3),  # one more while it mirrors
        ({"iterations": 4, "mirror": True}, 5),  # and one after the switch
    ],
)
def test_a_good_release_takes_a_check_for_each_step(analysis, checks):
    healthy, _ = chances(flagger(**analysis), requests_per_s=1000, healthy=0.0)
    assert healthy.promoted == pytest.approx(1)
    assert healthy.seconds == pytest.approx(60 * checks)


@pytest.mark.parametrize(
    ("interval", "threshold", "exposed"),
    [("1m", 2, 180), ("1m", 0, 120), ("5s", 1, 20), (None, 1, 120)],
)
def test_flaggers_defaults_and_floors(interval, threshold, exposed):
    """Seconds at the first weight of a version that always fails, at 1 request/s."""
    analysis = {"stepWeights": [100], "threshold": threshold}
    metrics = [{"name": "request-success-rate", "thresholdRange": {"min": 99}}]
    if interval == "5s":
        metrics[0]["interval"] = "10s"
    analysis |= {"interval": interval} if interval else {}
    text = flagger(**analysis, metrics=metrics)
    if not interval:
        text = text.replace("    interval: 1m\n", "")
    _, bad = chances(text, requests_per_s=1, bad=1.0)
    assert bad.exposed == pytest.approx(exposed)


def test_a_mirrored_request_exposes_nobody():
    _, bad = chances(
        flagger(iterations=3, mirror=True), requests_per_s=100, bad=1.0, healthy=0.0
    )
    assert bad.aborted == 1
    assert bad.exposed == 0


def ours(windows_s, failures, limit="0.01"):
    return f"""
apiVersion: deploylab/v1
kind: Strategy
metadata: {{name: a}}
spec:
  canary:
    shares: [0.1, 0.5]
    bakeSeconds: [300, 600]
    gates:
    - metric: errors
      threshold: {{limit: {limit}, failures: {failures}, windowSeconds: {windows_s}}}
"""


@pytest.mark.parametrize(("window_s", "failures"), [(60, 0), (100, 1), (300, 2)])
def test_failures_of_our_own_gate_count_over_all_stages(window_s, failures):
    """With the judge itself for the chance that a window fails."""
    _, bad = chances(ours(window_s, failures), requests_per_s=20)
    judge = Threshold(0.01, failures, window_s=float(window_s))
    q = [judge.window_fails(round(20 * share * window_s), 0.02) for share in (0.1, 0.5)]
    counts = [300 // window_s, 600 // window_s]
    passes = sum(
        stats.binom.pmf(a, counts[0], q[0])
        * stats.binom.cdf(failures - a, counts[1], q[1])
        for a in range(failures + 1)
    )
    assert bad.promoted == pytest.approx(passes, abs=1e-9)


FIELDS = "{limit: 0.01, windowSeconds: 60, minRequests: MIN, failures: F, MORE}"


def by_enumeration(judge, counts, rate):
    """(aborted, mean exposed requests), the judge asked along all paths of windows.

    counts: for each share, requests of a window of 60 s and how many windows.
    """
    windows = [(share, n) for share, (n, times) in counts.items() for _ in range(times)]
    fails = [stats.binom.sf(judge.allowed(n), n, rate) for _, n in windows]
    gate = Gate("errors", judge)
    aborted = exposed = 0.0
    for path in itertools.product((False, True), repeat=len(windows)):
        chance = math.prod(
            q if bad else 1 - q for q, bad in zip(fails, path, strict=True)
        )
        log, seen = [], 0
        for place, ((share, n), bad) in enumerate(zip(windows, path, strict=True)):
            mine = Counts(n, {"errors": n * bad})
            start_s = 60.0 * place
            log.append(
                Measurement(start_s, start_s + 60, share, Counts(1200 - n), mine)
            )
            seen += n
            verdict = gate.judgement(log).verdict
            last = place + 1 == len(windows) or windows[place + 1][0] != share
            if verdict is Verdict.FAILED or (last and verdict is Verdict.ERROR):
                aborted += chance
                break
        exposed += chance * seen
    return aborted, exposed


@pytest.mark.parametrize(
    ("least", "failures", "more", "judge"),
    [
        (1, 1, "within: 3", {"within": 3}),
        (1, 1, "within: 2", {"within": 2}),
        (1, 2, "within: 4", {"within": 4}),
        (100, 0, "noData: skip", {}),
        (100, 2, "noData: fail", {"no_data": "fail"}),
        (100, 9, "noData: fail", {"no_data": "fail"}),
        (100, 0, "noData: pass", {"no_data": "pass"}),
        (100, 1, "noData: pass, within: 4", {"no_data": "pass", "within": 4}),
        (100, 0, "noData: error, errors: 2", {"no_data": "error", "errors": 2}),
        (100, 0, "noData: error, errors: 3", {"no_data": "error", "errors": 3}),
        (100, 0, "noData: error, errors: 4", {"no_data": "error", "errors": 4}),
        (700, 0, "noData: pass", {"no_data": "pass"}),
        (700, 0, "noData: skip", {}),
    ],
)
def test_our_thresholds_are_counted_as_the_judge_counts_them(
    least, failures, more, judge
):
    """Windows of 60 and then of 600 requests, through all 2^8 outcomes."""
    fields = FIELDS.replace("MIN", str(least)).replace("MORE", more)
    fields = fields.replace("F,", f"{failures},")
    lines = [*ours(60, failures).splitlines()[:-1], f"      threshold: {fields}"]
    text = "\n".join(lines).replace("[300, 600]", "[240, 240]").replace("0.1,", "0.05,")
    counted = Threshold(0.01, failures, least, 60.0, **judge)
    stages = {0.05: (60, 4), 0.5: (600, 4)}
    for found, rate in zip(
        chances(text, requests_per_s=20), (0.002, 0.02), strict=True
    ):
        aborted, exposed = by_enumeration(counted, stages, rate)
        assert found.aborted == pytest.approx(aborted, abs=1e-9)
        assert found.exposed == pytest.approx(exposed, rel=1e-9)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ("failures: 2, within: 2", "of the last 2 windows 3 never fail"),
        ("noData: ignore", "noData is 'ignore'"),
        ("errors: -1", "errors is -1"),
        ("within: many", "within is 'many'"),
    ],
)
def test_a_threshold_that_the_class_refuses_is_refused(more, what):
    text = ours(60, 0).replace("failures: 0", more)
    report = lint(["-"], stdin=text.encode())
    assert any(f.what.startswith(what) for f in report.findings if f.rule == "DL003")


def test_a_stage_that_nobody_reaches_and_that_passes_is_a_finding():
    text = ours(60, 0).replace("failures: 0", "minRequests: 900, noData: pass")
    assert "DL205" in {f.rule for f in lint(["-"], stdin=text.encode()).findings}
    other = text.replace("noData: pass", "noData: skip")
    assert "DL203" in {f.rule for f in lint(["-"], stdin=other.encode()).findings}


@pytest.mark.parametrize("within", [2, 3, 5])
def test_failures_within_the_last_looks_simulated_and_exact(within):
    """Fixed seed; were both right and the seed drawn anew, |z| > 5 comes at 6e-7."""
    metric_ = Metric(
        "errors", good=Bound(True, Fraction("0.01"), True), failures=1, within=within
    )
    looks = [Look(60.0 * (k + 1), 60.0 * k, 0) for k in range(9)]
    timeline = Timeline([(0.0, 0.1)], 540.0, [metric_], looks)
    exact = compute.chances(timeline, World(), 0.008)
    drawn = compute._simulated(timeline, World(), 0.008, seed=5)
    assert exact.samples == 0
    for name in ("aborted", "promoted", "exposed"):
        apart = abs(getattr(exact, name) - getattr(drawn, name))
        assert apart <= 5 * drawn.errors[name], name
    everywhere = dataclasses.replace(metric_, within=None)
    of_all = Timeline(timeline.shares, 540.0, [everywhere], looks)
    assert exact.aborted < compute.chances(of_all, World(), 0.008).aborted


def test_argo_and_our_strategy_say_the_same():
    """What is the same gate has the same chances, whoever wrote it."""
    steps = [{"setWeight": 10}, {"pause": {"duration": 300}},
             {"setWeight": 50}, {"pause": {"duration": 600}}]  # fmt: skip
    background = metric(failureLimit=1)
    del background["count"]
    there, there_bad = chances(argo(steps, [background], {}))
    here, here_bad = chances(ours(60, 1))
    assert there.aborted == pytest.approx(here.aborted, abs=1e-9)
    assert there_bad.exposed == pytest.approx(here_bad.exposed, rel=1e-6)
