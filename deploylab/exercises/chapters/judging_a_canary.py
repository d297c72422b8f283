"""Checks for *Trust a gate because you know how often it is wrong*."""

from __future__ import annotations

import textwrap
from pathlib import Path

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Guess, Option, choice, prediction

#: The Rollout that the page gives for `repair_gate`.
ROLLOUT = """\
apiVersion: argoproj.io/v1alpha1
kind: Rollout
metadata: {name: phishing}
spec:
  replicas: 10
  strategy:
    canary:
      canaryService: phishing-canary
      stableService: phishing-stable
      trafficRouting: {istio: {virtualService: {name: phishing}}}
      steps:
      - setWeight: 5
      - analysis: {templates: [{templateName: errors}]}
"""


def _abort(
    limit: float, requests: int, looks: int, failures: int, rate: float
) -> float:
    """The chance by adding up, in whole numbers where a limit is compared."""
    from fractions import Fraction
    from math import comb

    allowed = Fraction(str(limit)) * requests // 1
    good = sum(
        comb(requests, k) * rate**k * (1 - rate) ** (requests - k)
        for k in range(int(allowed) + 1)
    )
    fails = max(0.0, 1 - good)
    return 1 - sum(
        comb(looks, k) * fails**k * (1 - fails) ** (looks - k)
        for k in range(min(failures, looks) + 1)
    )


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-6


@exercise(
    hints={
        "*": [
            "Two questions, one after the other: how likely does one window fail, and "
            "how likely do too many of them?",
            "How many errors may a window have? The chance of more is the upper tail "
            "of a binomial distribution, `stats.binom.sf(allowed, requests, rate)`.",
            "1 the errors allowed, 2 the chance that a window has more, 3 the chance "
            "that more than `failures` of `looks` windows fail: the same law again.",
        ],
        "one-window": ["How many windows are looked at?"],
        "rounding": ["Print `0.29 * 100` with all its digits."],
    },
    not_checked="Whether requests fail each by itself. In a burst many fail together, "
    "and a healthy version then fails a window more often than this.",
    notice="Both rules, and both numbers: put a healthy rate in and it is the false "
    "alarms, put a bad one in and what is left of one is the misses.",
    wrong=[
        Wrong(
            "one window alone",
            "one-window",
            patch=(
                (
                    "return stats.binom.sf(failures, looks, window_fails)",
                    "return window_fails",
                ),
            ),
        ),
        Wrong(
            "adds the windows up",
            "above-one",
            patch=(
                (
                    "return stats.binom.sf(failures, looks, window_fails)",
                    "return looks * window_fails",
                ),
            ),
        ),
        Wrong(
            "percent",
            "above-one",
            patch=(
                (
                    "return stats.binom.sf(failures",
                    "return 100 * stats.binom.sf(failures",
                ),
            ),
        ),
        Wrong(
            "aborts at the limit of failures",
            "failures-off-by-one",
            patch=(("sf(failures, looks", "sf(max(0, failures - 1), looks"),),
        ),
        Wrong(
            "no failure is allowed",
            "failures-ignored",
            patch=(("sf(failures, looks", "sf(0, looks"),),
        ),
        Wrong(
            "a window at the limit fails",
            "limit-off-by-one",
            patch=(("sf(allowed, requests", "sf(allowed - 1, requests"),),
        ),
        Wrong(
            "at least, and not above",
            "equal-fails",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                allowed = np.ceil(limit * requests) - 1
                fails = stats.binom.sf(allowed, requests, rate)
                return stats.binom.sf(failures, looks, fails)
            """,
        ),
        Wrong(
            "all windows in one",
            "one-large-window",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                allowed = int(limit * requests * looks + 1e-9) + failures
                return stats.binom.sf(allowed, requests * looks, rate)
            """,
        ),
        Wrong(
            "all windows in one, at the same limit",
            "one-large-window",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                allowed = int(limit * requests * looks + 1e-9)
                return stats.binom.sf(allowed, requests * looks, rate)
            """,
        ),
        Wrong(
            "simulates",
            "only-near",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                rng = np.random.default_rng(1)
                errors = rng.binomial(requests, rate, (20_000, looks))
                failed = (errors > limit * requests + 1e-9).sum(1)
                return float(np.mean(failed > failures))
            """,
        ),
        Wrong(
            "rounds to the nearest",
            "sawtooth",
            patch=(("int(limit * requests + 1e-9)", "round(limit * requests)"),),
        ),
        Wrong(
            "expects, and does not draw",
            "no-chance",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                return float(rate > limit)
            """,
        ),
        Wrong(
            "the chance of passing",
            "the-other-side",
            patch=(("return stats.binom.sf(", "return stats.binom.cdf("),),
        ),
        Wrong(
            "one window more",
            "differs",
            patch=(("sf(failures, looks", "sf(failures, looks + 1"),),
        ),
        Wrong(
            "trusts the product",
            "rounding",
            patch=(("limit * requests + 1e-9", "limit * requests"),),
        ),
        Wrong(
            "a bell curve",
            "only-near",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                spread = (rate * (1 - rate) / requests) ** 0.5
                edge = (int(limit * requests + 1e-9) + 0.5) / requests
                fails = stats.norm.sf((edge - rate) / spread)
                return stats.binom.sf(failures, looks, fails)
            """,
        ),
    ],
    also_right=[
        Right(
            "adds up the law",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                from math import comb, floor
                def below(n, p, most):
                    return sum(comb(n, k) * p**k * (1 - p) ** (n - k)
                               for k in range(min(most, n) + 1))
                fails = 1 - below(requests, rate, floor(round(limit * requests, 6)))
                return 1 - below(looks, fails, failures)
            """,
        ),
        Right(
            "the book's own judge",
            source="""
            def abort_chance(limit, requests, looks, failures, rate):
                fails = Threshold(limit).window_fails(requests, rate)
                return 1 - stats.binom.cdf(failures, looks, fails)
            """,
        ),
    ],
    equivalent={
        "allowed = limit * requests + 1e-09": "SciPy rounds a number of events down",
    },
)
def abort_chance(t: Trial) -> None:
    """The exact chance that a gate of limits aborts."""

    case = (0.01, 150, 10, 2, 0.004)
    value = t.call(*case, gives="number")
    right = _abort(*case)
    t.need(
        -1e-9 <= value <= 1 + 1e-9,
        "above-one",
        f"{t.said}.",
        "A chance is between 0 and 1; those of windows do not add up, because two of "
        "them can fail in the same rollout.",
        "Take the binomial law of the windows, and a share, not a percentage.",
    )
    t.need(
        0 < value < 1,
        "no-chance",
        f"{t.said}.",
        "This version is below the limit on average, and a window of 150 requests "
        "still holds too many errors now and then.",
        "Errors are drawn: ask how often a window has more than it may.",
    )
    t.need(
        not _near(value, 1 - right),
        "the-other-side",
        f"{t.said}, and the chance of being aborted is {right:.6f}.",
        "What you have is the chance of passing.",
        "Take the upper tail.",
    )
    t.need(
        not _near(value, _abort(0.01, 150, 1, 0, 0.004)),
        "one-window",
        f"{t.said}, which is the chance of one window.",
        "Ten windows are looked at, and two of them may fail.",
        "Go on from one window to `looks` of them.",
    )
    t.need(
        not _near(value, _abort(0.0, 150, 10, 2, 0.004)),
        "limit-off-by-one",
        f"{t.said}; 1 error in 150 requests is not above {case[0]}.",
        "The gate would abort what it is told to allow.",
        "Which number of errors is the largest that does not fail a window?",
    )
    t.need(
        not _near(value, _abort(2 / 150, 150, 10, 2, 0.004)),
        "sawtooth",
        f"{t.said}; 2 errors in 150 requests are above {case[0]}.",
        "What a window may have is rounded down, and that makes the teeth of the saw.",
        "1.5 errors are allowed: how many is that in whole ones?",
    )
    t.need(
        not _near(value, _abort(0.01, 150, 10, 1, 0.004)),
        "failures-off-by-one",
        f"{t.said}, which is the chance of two failed windows or more.",
        "Argo lets `failureLimit` windows fail, and aborts at the next.",
        "Ask for more than `failures`.",
    )
    t.need(
        not _near(value, _abort(0.01, 150, 10, 0, 0.004)),
        "failures-ignored",
        f"{t.said}, which is the chance that any window fails.",
        "Two may fail here without an abort.",
        "Use `failures`.",
    )
    for allowed in (15, 17):
        t.need(
            not _near(value, _abort(allowed / 1500, 1500, 1, 0, 0.004)),
            "one-large-window",
            f"{t.said}, the chance that all 1,500 requests together have too many "
            "errors.",
            "Each window is judged by itself, and a bad minute is not made good by the "
            "next one.",
            "Begin with one window of 150 requests.",
        )
    _exactly(t, value, case)
    t.good("ten windows of which two may fail")
    case = (0.01, 100, 10, 0, 0.002)
    value = t.call(*case, gives="number")
    t.need(
        not _near(value, _abort(0.0, 100, 10, 0, 0.002)),
        "equal-fails",
        f"{t.said}; 1 error in 100 requests is a share of 0.01, and here it fails.",
        "A share equal to the limit is fine.",
        "Fail a window above the limit, and not at it.",
    )
    _exactly(t, value, case)
    case = (0.29, 100, 4, 0, 0.25)
    value = t.call(*case, gives="number")
    t.need(
        not _near(value, _abort(0.28, 100, 4, 0, 0.25)),
        "rounding",
        f"{t.said}; 29 errors in 100 requests are not above 0.29, and here they fail.",
        "`0.29 * 100` is 28.999999999999996 in a computer.",
        "Add a little before you round down.",
    )
    for other in (
        case,
        (0.01, 99, 10, 0, 0.002),
        (0.05, 200, 12, 2, 0.04),
        (0.0, 30, 5, 1, 0.01),
        (0.02, 75, 1, 0, 0.03),
        (0.01, 60, 3, 3, 0.5),
        (0.07, 100, 6, 1, 0.06),
    ):
        _exactly(t, t.call(*other, gives="number"), other)
    t.good("99 requests, and 100; other limits; a gate that cannot abort at all")


def _exactly(t: Trial, value: float, case: tuple) -> None:
    right = _abort(*case)
    t.need(
        _near(value, right) or abs(value - right) > 0.05 * right,
        "only-near",
        f"{t.said}, which is near; exactly it is {right:.6f}.",
        "Chances as small as those of a good gate are lost in what is only near.",
        "Take the binomial law itself, for the errors of a window and for the windows.",
    )
    t.need(
        _near(value, right),
        "differs",
        f"{t.said}; added up by hand it is {right:.6f}.",
        "",
        "Compare the errors that a window may have, and the windows that may fail, "
        "with the statement.",
    )


hour_of_peeking = prediction(
    "hour_of_peeking",
    truth=lambda: _alarms(),
    tolerance=(0.6, 1.6),
    guesses=[
        Guess(
            0.02,
            0.95,
            "a-share",
            "That looks like a share, and the question is how many of 1,000.",
            "Multiply by 1,000.",
            plausible=False,
        ),
        Guess(
            float("-inf"),
            5,
            "below-the-promise",
            "One look alone gives ten.",
            "Begin with what a single look does, then add looks.",
            plausible=False,
        ),
        Guess(
            5,
            49,
            "hardly-more",
            "That is what one look gives, or a few. Each further look is another "
            "chance to be unlucky, and nobody takes an alarm back.",
            "For the next prediction: what does the second look add, and the tenth?",
        ),
        Guess(
            132,
            200,
            "few-errors",
            "That resembles the z-test of the tournament: this test with few errors in "
            "a minute, where the bell curve is poor. With plenty of traffic it is "
            "less.",
            "For the next prediction: ask whether there are errors enough for the bell "
            "curve.",
        ),
        Guess(
            200,
            400,
            "too-many",
            "That resembles a test at 5 %, which the page shows. The line of a test at "
            "1 % is higher, and is crossed less often at each look.",
            "For the next prediction: begin with the chance of one look.",
        ),
        Guess(
            400,
            560,
            "independent-looks",
            "That would be so if the sixty looks were independent. What is known at "
            "minute 31 is mostly what was known at minute 30.",
            "For the next prediction: how much is new at a late look?",
        ),
        Guess(
            560,
            1000,
            "adds-up",
            "That is sixty times the chance of one look. Chances add up only if no two "
            "things can happen together, and a release with one alarm mostly has many.",
            "For the next prediction: count releases, and not alarms.",
        ),
        Guess(
            1000,
            float("inf"),
            "more-than-there-are",
            "There are a thousand releases.",
            "Give a number between 0 and 1,000.",
            plausible=False,
        ),
    ],
    what="Of 1,000 good releases, the number that is rolled back",
    unit="releases",
    hints={
        "*": [
            "One look would stop ten of a thousand. How many looks are there that are "
            "really new?",
            "After one minute the sample doubles; at minute 59 hardly anything is new. "
            "So most of the risk is in the first looks.",
            "Each doubling of the data is about one more independent look: how many "
            "are there in an hour?",
        ]
    },
    not_checked="Little traffic: with a few errors in each minute the bell curve of "
    "this law is poor, and it is more.",
    notice="It grows with the logarithm of the time: not by the number of looks, but "
    "by how often the data doubles between them.",
    limit_s=10,
)


def _alarms() -> float:
    from deploylab.rollout.peeking import peeking

    return round(1000 * peeking(60, alpha=0.01, sides=1))


choose_judge = choice(
    "choose_judge",
    {
        "a": Option(
            False,
            "A minute holds 60 requests, so that one error fails it: on a usual day "
            "most healthy releases of an hour are stopped, and in the evening all.",
            "Compute the chance that sixty healthy windows hold no error.",
        ),
        "b": Option(
            False,
            "It takes the evening's rate for the candidate's fault: a healthy version "
            "lies between the two rates that it was told.",
            "Look for a judge that needs no rate beforehand.",
        ),
        "c": Option(
            True,
            "It compares with the old version at the same moment, so evenings cancel, "
            "and it may be asked at any time.",
        ),
        "d": Option(
            False,
            "It is valid once. Read each minute, it stops far more than one healthy "
            "release in a hundred.",
            "Which judges allow a look each minute?",
        ),
        "e": Option(
            False,
            "It keeps its promise, an hour too late: the bad version answers thousands "
            "of requests until then.",
            "Look at what the case says about minutes.",
        ),
        "f": Option(
            False,
            "It reads scores, and an error has none; and a better version is above 0.1 "
            "as well.",
            "Which number does the case want watched?",
        ),
    },
    hints={
        "*": [
            "Underline what the case asks for: how often it is asked, how fast it must "
            "be, what changes during the day.",
            "Which of the judges need a rate that somebody knew beforehand?",
            "1 which may be asked each minute, 2 which of these compare with the old "
            "version at the same moment.",
        ]
    },
    not_checked="Whether the errors are independent. A partner who fails in bursts "
    "makes many of one cause, and then users or minutes have to be counted.",
    notice="Begin with what could fool the judge, and end with its speed.",
)


def _template(
    *, delay: str = "initialDelay: 10m", interval: str = "10m", window: str = "10m",
    count: int = 3, failures: int = 0, service: str = "phishing-canary",
    condition: str = "result[0] <= 0.01", field: str = "failureLimit",
    zero: str = " or vector(0)",
) -> str:  # fmt: skip
    """The source of a cell that writes such a template."""
    text = f"""\
apiVersion: argoproj.io/v1alpha1
kind: AnalysisTemplate
metadata: {{name: errors}}
spec:
  metrics:
  - name: errors
    {delay}
    interval: {interval}
    count: {count}
    {field}: {failures}
    successCondition: {condition}
    provider:
      prometheus:
        address: http://prometheus.example.com:9090
        query: |
          (sum(rate(requests_total{{service="{service}",code=~"5.."}}[{window}])){zero})
          / sum(rate(requests_total{{service="{service}"}}[{window}]))
"""
    return _file(text.replace("    \n", ""))


def _file(text: str) -> str:
    return f"%%writefile {{work}}/errors.yaml\n{textwrap.dedent(text).strip()}\n"


def _linter() -> None:
    import deploylab.lint  # noqa: F401


@exercise(
    "configuration",
    starting="a0114e15458b1c40",
    prepare=_linter,
    limit_s=4.0,
    hints={
        "*": [
            "Whose requests does the query read, and how many of them are in a window? "
            "How many looks may fail, and how many are there?",
            "The Rollout names the Services of both versions. At 5 % of 20 requests a "
            "second, how long is a window with several hundred requests?",
            "1 the canary's own Service in both lines of the query, 2 a window, an "
            "interval and a first delay of ten minutes, 3 fewer failures allowed than "
            "there are looks, 4 a value for the share while there is no error.",
        ],
        "reads-both-versions": ["Which Service does the Rollout name for the canary?"],
        "limit-out-of-reach": ["More than failureLimit looks must fail. Can they?"],
        "no-errors-is-no-value": [
            "What is nothing over something, for Prometheus? Give the errors a 0 of "
            "their own, in brackets above the division."
        ],
    },
    not_checked="Your own traffic and rates: the same template at another service may "
    "cry wolf or sleep. Give the linter yours.",
    notice="The limit of 1 % is the same before and after. What a gate is worth stands "
    "in the lines around it.",
    wrong=[
        Wrong("not YAML", "not-readable", source=_file("spec: [metrics: {")),
        Wrong(
            "another kind",
            "not-the-template",
            source=_file("kind: ConfigMap\nmetadata: {name: errors}\n"),
        ),
        Wrong(
            "no longer a template of this name",
            "linter-finds",
            patch=(("metadata: {name: errors}", "metadata: {name: gate}"),),
        ),
        Wrong(
            "three looks of which three may fail",
            "limit-out-of-reach",
            source=_template(failures=3),
        ),
        Wrong(
            "reads both versions",
            "reads-both-versions",
            source=_template(service="phishing"),
        ),
        Wrong(
            "no value without an error",
            "no-errors-is-no-value",
            source=_template(zero=""),
        ),
        Wrong(
            "by the pod hash, which nobody gives",
            "no-arguments",
            source=_template(service="{{args.hash}}").replace(
                "spec:\n", "spec:\n  args: [{name: hash}]\n"
            ),
        ),
        Wrong(
            "reads the old version",
            "linter-finds",
            source=_template(service="phishing-stable"),
        ),
        Wrong(
            "a minute each",
            "linter-finds",
            source=_template(delay="initialDelay: 1m", interval="1m", window="1m"),
        ),
        Wrong(
            "the first look has nothing",
            "linter-finds",
            source=_template(delay=""),
        ),
        Wrong(
            "a field that nobody knows",
            "linter-finds",
            source=_template(field="failuresLimit"),
        ),
        Wrong(
            "a limit that lets the bad one through",
            "linter-finds",
            source=_template(condition="result[0] <= 0.03"),
        ),
        Wrong(
            "a limit that no healthy one keeps",
            "linter-finds",
            source=_template(condition="result[0] <= 0.002"),
        ),
        Wrong(
            "twice as many looks as an hour has",
            "too-long",
            source=_template(count=12, failures=1),
        ),
        Wrong(
            "latency in place of errors",
            "not-computed",
            patch=(
                (
                    '(sum(rate(requests_total{service="phishing-canary",'
                    'code=~"5.."}[10m]))\n          or vector(0))\n'
                    "         / sum(rate(requests_total"
                    '{service="phishing-canary"}[10m]))',
                    "histogram_quantile(0.9, sum(rate(seconds_bucket[10m])) by (le))",
                ),
            ),
        ),
        Wrong(
            "one look",
            "misses",
            source=_template(count=1),
        ),
        Wrong(
            "a narrow limit",
            "stops-healthy-ones",
            source=_template(condition="result[0] <= 0.007"),
        ),
    ],
    also_right=[
        Right(
            "the other condition, and five looks of six minutes",
            source=_template(
                delay="initialDelay: 6m",
                interval="6m",
                window="6m",
                count=5,
                failures=1,
                condition="result[0] < 0.0101",
            ),
        ),
    ],
)
def repair_gate(t: Trial) -> None:
    """A template that the linter has nothing against."""
    from deploylab.lint import lint

    text = Path(t.thing).read_bytes()
    alone = lint(["-"], stdin=text)
    for fault in alone.unreadable:
        t.stop(
            "not-readable",
            f"Line {fault.line} cannot be read: {fault.why}.",
            "The cluster refuses it, and the rollout keeps its old gate.",
            fault.do,
        )
    t.need(
        alone.documents == 1 and not alone.gates,
        "not-the-template",
        f"The file holds {alone.documents} documents that the linter knows, and "
        f"{len(alone.gates)} of them are rollouts.",
        "The Rollout is there already, and it needs one AnalysisTemplate.",
        "Write the AnalysisTemplate alone.",
    )
    report = lint(["-"], stdin=ROLLOUT.encode() + b"---\n" + text)
    lines = ROLLOUT.count("\n") + 1
    order = {"error": 0, "warning": 1, "info": 2}
    effects = ("aborts-healthy-releases", "lets-bad-releases-through")
    for found in sorted(
        report.findings, key=lambda one: (one.name in effects, order[one.severity])
    ):  # causes before effects
        place = (
            f"line {found.line - lines}" if found.line > lines else "the Rollout's gate"
        )
        why = (
            "The two chances are what a gate is for."
            if found.name in effects
            else found.why
        )
        said = (f"{found.rule} at {place}: {found.what}.", why, found.do)
        if found.name == "argument-without-value":
            t.stop(
                "no-arguments",
                *said[:2],
                "The Rollout gives no arguments and stays as it is: read the canary by "
                "its Service.",
            )
        if found.name == "reads-both-versions":
            t.stop("reads-both-versions", *said)
        if found.name == "limit-out-of-reach":
            t.stop("limit-out-of-reach", *said)
        if found.name == "no-errors-is-no-value":
            t.stop(
                "no-errors-is-no-value",
                *said[:2],
                "Give the errors a zero for when there are none: `or vector(0)`, in "
                "brackets, before anything is divided.",
            )
        t.stop("linter-finds", *said)
    [gate] = report.gates
    t.need(
        gate.healthy and gate.bad and not gate.not_computed,
        "not-computed",
        f"The linter says *not computed*: `{'; '.join(gate.not_computed)}`.",
        "A gate whose chances nobody knows is where this exercise began.",
        "Let the query be a share of the canary's requests by their status, the "
        "condition one comparison of `result[0]`, and leave out what the linter names.",
    )
    t.good("the linter finds nothing in the two files")
    t.need(
        gate.healthy.seconds <= 3600,
        "too-long",
        f"A healthy release takes {gate.healthy.seconds:,.0f} s.",
        "An hour was given; people go around gates that take an afternoon.",
        "Take fewer looks, or shorter windows.",
    )
    t.need(
        gate.healthy.aborted <= 0.01,
        "stops-healthy-ones",
        f"A healthy release is stopped with a chance of {gate.healthy.aborted:.3g}.",
        "One in a hundred was asked for.",
        "Move the limit away from the healthy rate, or take longer windows.",
    )
    t.need(
        gate.bad.promoted <= 0.01,
        "misses",
        f"A bad release gets through with a chance of {gate.bad.promoted:.3g}.",
        "One in a hundred was asked for.",
        "Look more than once, or tighten the limit.",
    )
    t.good(f"stops a healthy one with {gate.healthy.aborted:.2g}")
    t.good(f"lets a bad one through with {gate.bad.promoted:.2g}")


def _stage(n: int, x: int, m: int, y: int) -> dict[str, dict[str, int]]:
    """A stage: the candidate's requests and errors, then stable's."""
    return {
        "candidate": {"requests": n, "errors": x},
        "stable": {"requests": m, "errors": y},
    }


def _fair(stages: list) -> float:
    from fractions import Fraction

    total = Fraction(0)
    for one in stages:
        n, m = (one[role]["requests"] for role in ("candidate", "stable"))
        x, y = (one[role]["errors"] for role in ("candidate", "stable"))
        total += Fraction((x + y) * n, n + m) if n + m else 0
    return float(total)


def _pooled(stages: list) -> float:
    n, x, m, y = (
        sum(one[role][what] for one in stages)
        for role in ("candidate", "stable")
        for what in ("requests", "errors")
    )
    return (x + y) * n / (n + m)


@exercise(
    hints={
        "*": [
            "In one stage: if a tenth of the requests are the candidate's, how many of "
            "the errors should be?",
            "Do that in each stage, and add up at the end, not before.",
            "1 all errors of a stage, 2 the candidate's share of its requests, 3 their "
            "product, 4 the sum over the stages.",
        ],
        "pooled": ["What do you add up before you divide?"],
    },
    not_checked="What changes within a stage. If the day turns while the share stays, "
    "the comparison holds; if the share changes within, cut the stage in two.",
    notice="Compare at each moment, then add up. The split e-process does this after "
    "each error.",
    wrong=[
        Wrong(
            "pools first",
            "pooled",
            source="""
            def fair_errors(stages):
                n, x, m, y = (sum(one[role][what] for one in stages)
                              for role in ("candidate", "stable")
                              for what in ("requests", "errors"))
                return (x + y) * n / (n + m) if n + m else 0.0
            """,
        ),
        Wrong(
            "stable's rate in each stage",
            "stable-alone",
            patch=(
                (
                    'errors * mine["requests"] / requests',
                    'others["errors"] * mine["requests"] / others["requests"]',
                ),
            ),
        ),
        Wrong(
            "what it really had",
            "its-own",
            patch=(('errors * mine["requests"] / requests', 'mine["errors"]'),),
        ),
        Wrong(
            "the share for the old version",
            "the-other-role",
            patch=(
                (
                    'errors * mine["requests"] / requests',
                    'errors * others["requests"] / requests',
                ),
            ),
        ),
        Wrong(
            "the last stage only",
            "last-stage",
            patch=(("total += errors", "total = errors"),),
        ),
        Wrong(
            "an empty stage divides by nothing",
            "crash",
            patch=(("if requests:", "if True:"),),
        ),
        Wrong(
            "how many times as many",
            "a-ratio",
            patch=(
                (
                    "return total",
                    "had = sum(one['candidate']['errors'] for one in stages)\n"
                    "    return had / total if total else 0.0",
                ),
            ),
        ),
        Wrong(
            "leaves out a stage of one version alone",
            "half-a-stage",
            patch=(("if requests:", 'if mine["requests"] and others["requests"]:'),),
        ),
        Wrong(
            "an average of the stages",
            "differs",
            patch=(("return total", "return total / max(1, len(stages))"),),
        ),
    ],
    also_right=[
        Right(
            "one sum",
            source="""
            def fair_errors(stages):
                return sum(
                    sum(one[role]["errors"] for role in one)
                    * one["candidate"]["requests"]
                    / max(1, sum(one[role]["requests"] for role in one))
                    for one in stages
                )
            """,
        ),
    ],
)
def fair_errors(t: Trial) -> None:
    """Errors expected under equality, stage by stage."""
    one = [_stage(100, 6, 900, 24)]
    value = t.call(one, gives="number")
    t.need(
        not _near(value, 2),
        "a-ratio",
        f"{t.said}, the errors that it had over those that it should have had.",
        "The report has its errors already; the other number is what it lacks.",
        "Return the fair number itself.",
    )
    t.need(
        value != 6,
        "its-own",
        f"{t.said}, the number that it had.",
        "The question is what it would have had.",
        "Divide all errors of the stage by who got the requests.",
    )
    t.need(
        not _near(value, 27),
        "the-other-role",
        f"{t.said}; a tenth of the requests are the candidate's.",
        "",
        "Which of the two roles is asked for?",
    )
    t.need(
        not _near(value, 100 * 24 / 900),
        "stable-alone",
        f"{t.said}, the old version's rate times the candidate's requests.",
        "If both are equally good, the errors of both tell the rate; and a stage in "
        "which the old version had nothing would be lost.",
        "Begin with the errors of both.",
    )
    _as_fair(t, value, one)
    t.good("one stage")
    two = [_stage(10_000, 20, 990_000, 1_980), _stage(250_000, 5_000, 250_000, 5_000)]
    value = t.call(two, gives="number")
    t.need(
        not _near(value, _pooled(two)),
        "pooled",
        f"{t.said}, from the sums of the whole day; the candidate had 5,020, as many "
        "as it should.",
        "That is the comparison that lied.",
        "Compare within each stage, and add up at the end.",
    )
    t.need(
        not _near(value, 5_000),
        "last-stage",
        f"{t.said}, the last stage's part.",
        "",
        "Each stage adds its own.",
    )
    _as_fair(t, value, two)
    t.good("two stages, and the day does not fool it")
    for stages in ([], [_stage(0, 0, 0, 0), *one]):
        _as_fair(t, t.call(stages, gives="number"), stages)
    alone = [_stage(0, 0, 50, 5), _stage(50, 5, 0, 0)]
    value = t.call(alone, gives="number")
    t.need(
        value != 0,
        "half-a-stage",
        f"{t.said}: first 50 requests of stable's alone, then 50 of the candidate's "
        "alone, each with 5 errors.",
        "Where one version has all requests, all errors are its own: the second stage "
        "adds 5.",
        "Leave out only a stage in which neither had a request.",
    )
    _as_fair(t, value, alone)
    for _ in range(5):
        stages = []
        for _ in range(int(t.rng.integers(1, 3))):
            n, m = (int(k) for k in t.rng.integers(1, 900, 2))
            x, y = int(t.rng.integers(0, n + 1)), int(t.rng.integers(0, m + 1))
            stages.append(_stage(n, x, m, y))
        _as_fair(t, t.call(stages, gives="number"), stages)
    t.good("empty stages, and any others")


def _as_fair(t: Trial, value: float, stages: list) -> None:
    right = _fair(stages)
    t.need(
        abs(value - right) <= 1e-6 * max(1, right),
        "differs",
        f"{t.said}; stage by stage it is {right:,.6g}.",
        "",
        "Work this case out by hand, one stage after the other.",
    )
