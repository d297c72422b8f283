"""Checks for *Find the trap in your rollout file before a bad release does*."""

from __future__ import annotations

import textwrap
from math import comb, nextafter
from pathlib import Path
from typing import Any

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Guess, Option, choice, prediction


def _stopped() -> float:
    """Of 100 healthy releases: ten windows of 180 requests that allow one error."""
    passes = sum(comb(180, k) * 0.002**k * 0.998 ** (180 - k) for k in range(2))
    return 100 * (1 - passes**10)


triple_traffic = prediction(
    "triple_traffic",
    truth=lambda: _stopped(),
    tolerance=(0.85, 1.15),
    guesses=[
        Guess(  # the first range that holds a guess is taken
            0,
            0,
            "none-at-all",
            "A window of 180 requests bears one error. Two in one of ten windows are "
            "rare, and not that rare.",
            "For the next prediction: write down how many errors a window may have.",
        ),
        Guess(
            float("-inf"),
            0,
            "below-none",
            "Fewer than none cannot be stopped.",
            "Give a number between 0 and 100.",
            plausible=False,
        ),
        Guess(
            1,
            4,
            "gone",
            "That would need windows in which several errors more are allowed. A "
            "window of 180 requests allows one.",
            "For the next prediction: write down how many errors a window may have.",
        ),
        Guess(
            0,
            1,
            "a-share",
            "Less than one release of a hundred: that looks like a share of 1.",
            "Give the number of releases out of 100; a quarter is 25.",
            plausible=False,
        ),
        Guess(
            4,
            6,
            "one-window",
            "One window in twenty fails, that is true. Ten windows look, and one that "
            "fails is enough.",
            "For the next prediction: first one window, then all of them.",
        ),
        Guess(
            6,
            15,
            "far-below",
            "One window in twenty fails, and any of ten is enough: that is far more "
            "than this.",
            "For the next prediction: first one window, then all of them.",
        ),
        Guess(
            15,
            35,
            "a-third",
            "A third of what it was, as if the chance went with one over the traffic. "
            "It goes in teeth: from 60 requests to 180 a window allows one error more, "
            "and has three times as many.",
            "For the next prediction: the errors allowed before and after, then the "
            "errors expected.",
        ),
        Guess(
            46,
            65,
            "a-little",
            "That is too gloomy: the second error in a window of 180 is a good deal "
            "rarer than the first in one of 60.",
            "For the next prediction: compute one window, then ten.",
        ),
        Guess(
            65,
            75,
            "as-before",
            "That would be so if a window still held 60 requests. It holds 180, and "
            "1 % of them is more than one error.",
            "For the next prediction: write down how many errors a window may have.",
        ),
        Guess(
            75,
            100,
            "more-than-before",
            "More than before, as if a window still allowed no error. 1 % of 60 "
            "requests is less than one error, and 1 % of 180 is more than one.",
            "For the next prediction: write down how many errors a window may have.",
        ),
        Guess(
            100,
            float("inf"),
            "more-than-there-are",
            "There are a hundred releases.",
            "Give a number between 0 and 100.",
            plausible=False,
        ),
    ],
    what="Of 100 healthy releases, the number that is stopped",
    unit="releases",
    hints={
        "*": [
            "How many requests are in a window now, and how many errors does 1 % of "
            "them allow?",
            "At two errors in a thousand, 180 requests have 0.36 on average. How often "
            "are there two or more?",
            "About one window in twenty fails. And of ten windows, at least one?",
        ]
    },
    not_checked="Bursts. If errors come in groups, two in one window are nothing rare.",
    notice="Three times the traffic does not repair this gate. Ten times would, and so "
    "do longer windows.",
)


first_finding = choice(
    "first_finding",
    {
        "a": Option(
            False,
            "DL103 is an effect: it says what the gate does, not why. Its way out, a "
            "tighter limit, stops most of the healthy releases here, and as many of "
            "the bad ones, because the gate cannot tell them apart.",
            "Look for the finding that explains this one.",
        ),
        "b": Option(
            False,
            "The first ten minutes are not watched, that is true, and the next twenty "
            "watch the old version.",
            "Ask which repair changes what the gate can see at all.",
        ),
        "c": Option(
            True,
            "As long as the query counts the old version, nothing that the new one "
            "does can change a look: the other repairs treat good and bad versions "
            "alike.",
        ),
        "d": Option(
            False,
            "Windows that overlap make the counting worse, and what is counted is the "
            "old version.",
            "Ask which repair changes what the gate can see at all.",
        ),
    },
    hints={
        "*": [
            "Two kinds of findings: what the gate does (its two chances), and why.",
            "Imagine a version that fails every request. Which finding lets it "
            "through?",
            "Change the file for one finding at a time, lint it again, and compare the "
            "chance that a bad release gets through.",
        ]
    },
    not_checked="Whether you mend the others as well. All four are true; lint again "
    "after your repair, and a fifth appears.",
    notice="First what is counted, then how it is counted, then the limit.",
)


def _canary(
    *, interval: str = "10m", window: str = "10m", threshold: int = 1, most: int = 50,
    step: str = "stepWeight: 10", limit: str = "min: 99",
    metric: str = "request-success-rate", more: str = "",
) -> str:  # fmt: skip
    """The source of a cell that writes such a Canary."""
    text = f"""\
apiVersion: flagger.app/v1beta1
kind: Canary
metadata: {{name: phishing, namespace: models}}
spec:
  targetRef: {{apiVersion: apps/v1, kind: Deployment, name: phishing}}
  service: {{port: 80}}
  analysis:
    interval: {interval}
    threshold: {threshold}
    maxWeight: {most}
    {step}
    metrics:
    - name: {metric}
      interval: {window}
      thresholdRange: {{{limit}}}
{more}"""
    return _file(text)


def _file(text: str) -> str:
    return f"%%writefile {{work}}/canary.yaml\n{textwrap.dedent(text).strip()}\n"


def _linter() -> None:
    import yaml  # noqa: F401

    import deploylab.lint  # noqa: F401


LATENCY = """\
    - name: request-duration
      interval: 10m
      thresholdRange: {max: 500}
"""


@exercise(
    "configuration",
    starting="e53bf715bb019df3",
    prepare=_linter,
    limit_s=4.0,
    hints={
        "*": [
            "Which findings say what the mistake is, and which what comes of it? Begin "
            "with the first kind.",
            "A success rate is limited from below. A window as long as the time "
            "between two checks sees each request once.",
            "1 min in place of max, 2 ten minutes for both intervals, 3 one failed "
            "check is enough when a window holds 1,200 requests, 4 steps of which "
            "maxWeight is a multiple.",
        ],
        "too-many-exposed": [
            "A bad version stays for threshold + 1 intervals at least.",
            "Fewer failures allowed, shorter intervals, or smaller first steps: which "
            "of them keeps the other chances?",
        ],
    },
    not_checked="Latency: a version that is slow passes this gate, and a check on it "
    "is not computed.",
    notice="A gate may be strict after one failure when its windows are large enough.",
    wrong=[
        Wrong("not YAML", "not-readable", source=_file("spec: [metrics: {")),
        Wrong(
            "another kind",
            "not-the-canary",
            source=_file("kind: ConfigMap\nmetadata: {name: phishing}\n"),
        ),
        Wrong(
            "the success rate from above",
            "wrong-side",
            source=_canary(limit="max: 99"),
        ),
        Wrong(
            "a share in place of percent",
            "wrong-side",
            source=_canary(limit="min: 0.99"),
        ),
        Wrong(
            "a window of several checks",
            "windows-overlap",
            source=_canary(interval="5m"),
        ),
        Wrong(
            "a step above the largest weight",
            "linter-finds",
            source=_canary(step="stepWeight: 20"),
        ),
        Wrong(
            "a limit that no healthy one keeps",
            "linter-finds",
            source=_canary(limit="min: 99.9"),
        ),
        Wrong(
            "never begins",
            "suspended",
            patch=(("  service: {port: 80}\n", "  suspend: true\n"),),
        ),
        Wrong(
            "no metric",
            "linter-finds",
            patch=(
                (
                    "    metrics:\n    - name: request-success-rate\n"
                    "      interval: 10m\n      thresholdRange: {min: 99}",
                    "    metrics: []",
                ),
            ),
        ),
        Wrong(
            "latency as well", "not-computed", source=_canary(more=LATENCY),
        ),
        Wrong(
            "twenty minutes a step",
            "too-long",
            source=_canary(interval="20m", window="20m"),
        ),
        Wrong(
            "a narrow limit",
            "stops-healthy-ones",
            source=_canary(limit="min: 99.5"),
        ),
        Wrong("a wide limit", "misses", source=_canary(limit="min: 98")),
        Wrong(
            "two failures",
            "too-many-exposed",
            source=_canary(threshold=2),
        ),
        Wrong(
            "large steps",
            "too-many-exposed",
            source=_canary(step="stepWeight: 25"),
        ),
    ],
    also_right=[
        Right("six minutes", source=_canary(interval="6m", window="6m")),
        Right(
            "weights one by one",
            source=_canary(step="stepWeights: [5, 15, 40]"),
        ),
    ],
)  # fmt: skip
def repair_canary(t: Trial) -> None:
    """A Flagger Canary that the linter has nothing against."""
    import yaml

    from deploylab.lint import lint

    text = Path(t.thing).read_bytes()
    report = lint(["-"], stdin=text)
    for fault in report.unreadable:
        t.stop(
            "not-readable",
            f"Line {fault.line} cannot be read: {fault.why}.",
            "The cluster refuses it, and the rollout keeps its old gate.",
            fault.do,
        )
    kinds = [gate.kind for gate in report.gates]
    t.need(
        kinds == ["Canary"],
        "not-the-canary",
        f"The linter finds `{', '.join(kinds) or 'no rollout'}` in the file.",
        "One Canary is to be repaired.",
        "Begin again with the file that the exercise gives.",
    )
    effects = ("aborts-healthy-releases", "lets-bad-releases-through")
    order = {"error": 0, "warning": 1, "info": 2}
    for found in sorted(
        report.findings, key=lambda one: (one.name in effects, order[one.severity])
    ):  # causes before effects
        why = (
            "The two chances are what a gate is for."
            if found.name in effects
            else found.why
        )
        said = (f"{found.rule} at line {found.line}: {found.what}.", why, found.do)
        if found.name in ("cannot-fail", "fails-always"):
            t.stop("wrong-side", *said)
        if found.name == "windows-overlap":
            t.stop("windows-overlap", *said)
        t.stop("linter-finds", *said)
    t.need(
        not any(
            one.get("kind") == "Canary" and one["spec"].get("suspend")
            for one in yaml.safe_load_all(text)
            if isinstance(one, dict)
        ),
        "suspended",
        "`suspend` stands in the file, and the linter has nothing against it.",
        "Flagger passes over a Canary that is suspended: no new version is released, "
        "good or bad.",
        "Take it out.",
    )
    [gate] = report.gates
    t.need(
        gate.healthy and gate.bad and not gate.not_computed,
        "not-computed",
        f"The linter says *not computed*: `{'; '.join(gate.not_computed)}`.",
        "What is asked for here are chances, and a part of this gate has none.",
        "Let the gate be the success rate alone.",
    )
    t.good("the linter finds nothing")
    t.need(
        gate.healthy.seconds <= 3600,
        "too-long",
        f"A healthy release takes {gate.healthy.seconds:,.0f} s.",
        "An hour was given; people go around gates that take an afternoon.",
        "Take fewer steps, or shorter intervals.",
    )
    t.need(
        gate.healthy.aborted <= 0.01,
        "stops-healthy-ones",
        f"A healthy release is stopped with a chance of {gate.healthy.aborted:.3g}.",
        "One in a hundred was asked for.",
        "Move the limit away from the healthy rate, or take longer windows.",
    )
    t.need(
        gate.bad.promoted <= 0.001,
        "misses",
        f"A bad release gets through with a chance of {gate.bad.promoted:.3g}.",
        "One in a thousand was asked for.",
        "Move the limit away from the bad rate.",
    )
    t.need(
        gate.bad.exposed <= 3000,
        "too-many-exposed",
        f"A bad version answers {gate.bad.exposed:,.0f} requests on average.",
        "3,000 were given. Flagger goes back one interval after the last failure that "
        "is allowed, and a failed check keeps the weight where it is.",
        "Let fewer checks fail, or begin with a smaller weight.",
    )
    t.good(f"stops a healthy one with {gate.healthy.aborted:.2g}")
    t.good(f"lets a bad one through with {gate.bad.promoted:.2g}")
    t.good(f"a bad one answers {gate.bad.exposed:,.0f} requests")


def _chances(aborted: float, waits: float, promoted: float) -> dict[str, Any]:
    return {
        "aborted": aborted,
        "waits": waits,
        "promoted": promoted,
        "exposed": 2400.0,
        "seconds": 3600.0 if promoted else None,
        "samples": 0,
        "standard_errors": {},
    }


def _gate(
    aborted: float = 0.0, waits: float = 0.0, missed: float = 0.0,
    held: float = 0.0, left_out: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """A gate of a report; held: the chance that a bad one waits for a person."""
    # Rounded up, so that 1 minus it is not above a limit that the sum keeps.
    promoted = nextafter(1 - aborted - waits, 1)
    return {
        "path": "deploy/a.yaml",
        "line": 1,
        "kind": "Rollout",
        "name": "phishing",
        "engine": "Argo Rollouts",
        "healthy": _chances(aborted, waits, promoted),
        "bad": _chances(1 - missed - held, held, missed),
        "healthy_at_random": _chances(aborted, waits, promoted),
        "bad_at_random": _chances(1 - missed - held, held, missed),
        "not_computed": list(left_out),
        "remarks": [],
    }


def _unknown() -> dict[str, Any]:
    """A gate of which nothing is computed."""
    reason = "it measures latency, which is not modelled"
    unknown = ("healthy", "bad", "healthy_at_random", "bad_at_random")
    return {**_gate(left_out=(reason,)), **dict.fromkeys(unknown)}


def _report(*gates: dict[str, Any], broken: bool = False) -> dict[str, Any]:
    """A report with every field of format 1, as ``as_json`` writes it."""
    fault = {"path": "deploy/b.yaml", "line": 3, "why": "not YAML", "do": "Mend it."}
    return {
        "format": 1,
        "assumed": {
            "requests_per_s": 20.0, "healthy": 0.002, "bad": 0.02, "scrape_s": 15.0,
            "person_s": 600.0,
        },
        "gates": list(gates),
        "findings": [],
        "unreadable": [fault] if broken else [],
        "notes": [],
    }  # fmt: skip


_POLICY = """
def may_merge(report):
    for gate in report["gates"]:
        healthy, bad = gate["healthy"], gate["bad"]
        {none}
        if healthy["aborted"] + healthy["waits"] > 0.05:
            return False
        if bad["promoted"] > 0.10:
            return False
    return {end}
"""


@exercise(
    hints={
        "*": [
            "Which values may be null in this report, and what does that say of the "
            "gate?",
            "A release is stopped if it is aborted, and also if it waits for a person. "
            "A miss is what gets to all users.",
            "1 nothing unreadable and at least one gate, 2 for each gate: computed, "
            "and completely, 3 both chances within their limits, 4 only then True.",
        ],
        "null-passes": ["What is `healthy` of a gate that is not computed?"],
        "nothing-passes": ["What does `all(...)` say of an empty list?"],
    },
    not_checked="The findings. A file may be within both limits and still fall into a "
    "trap, so keep `--fail-on` beside it.",
    notice="A number that nobody could compute is not a small number.",
    wrong=[
        Wrong(
            "waiting is not stopping",
            "waits-ignored",
            patch=(('healthy["aborted"] + healthy["waits"]', 'healthy["aborted"]'),),
        ),
        Wrong(
            "what is null passes",
            "null-passes",
            source=_POLICY.format(
                none='if healthy is None: continue',
                end='bool(report["gates"]) and not report["unreadable"]',
            ),
        ),
        Wrong(
            "what is left out passes",
            "left-out-passes",
            patch=(('healthy is None or gate["not_computed"]', "healthy is None"),),
        ),
        Wrong(
            "the first gate decides",
            "first-gate-only",
            patch=(("    return True", "        return True"),),
        ),
        Wrong(
            "waiting bad ones are missed",
            "waits-missed",
            patch=(('bad["promoted"] > 0.10', '1 - bad["aborted"] > 0.10'),),
        ),
        Wrong(
            "the chance that a bad one is stopped",
            "other-way-round",
            patch=(('bad["promoted"] > 0.10', 'bad["aborted"] > 0.10'),),
        ),
        Wrong(
            "an empty report passes",
            "nothing-passes",
            patch=(('report["unreadable"] or not report["gates"]',
                    'report["unreadable"]'),),
        ),
        Wrong(
            "what cannot be read passes",
            "unreadable-passes",
            patch=(('report["unreadable"] or not report["gates"]',
                    'not report["gates"]'),),
        ),
        Wrong(
            "below the limits, not at them",
            "at-the-limit",
            patch=(("> 0.05", ">= 0.05"),),
        ),
        Wrong(
            "below the limit of misses, not at it",
            "at-the-limit",
            patch=(("> 0.10", ">= 0.10"),),
        ),
        Wrong(
            "a limit that is a little looser",
            "beyond-the-limit",
            patch=(("> 0.05", "> 0.055"),),
        ),
        Wrong(
            "one gate and no more",
            "two-good-ones",
            patch=(('not report["gates"]', 'len(report["gates"]) != 1'),),
        ),
        Wrong(
            "misses are not looked at",
            "misses-pass",
            patch=(('if bad["promoted"] > 0.10:', "if False:"),),
        ),
        Wrong(
            "false alarms are not looked at",
            "false-alarms-pass",
            patch=(('if healthy["aborted"] + healthy["waits"] > 0.05:', "if False:"),),
        ),
        Wrong(
            "goes by the findings",
            "null-passes",
            source="""
            def may_merge(report):
                if report["unreadable"] or not report["gates"]:
                    return False
                return not report["findings"]
            """,
        ),
        Wrong(
            "one good gate is enough",
            "first-gate-only",
            source="""
            def may_merge(report):
                if report["unreadable"]:
                    return False
                return any(
                    gate["healthy"] is not None
                    and not gate["not_computed"]
                    and gate["healthy"]["aborted"] + gate["healthy"]["waits"] <= 0.05
                    and gate["bad"]["promoted"] <= 0.10
                    for gate in report["gates"]
                )
            """,
        ),
    ],
    also_right=[
        Right(
            "all in one",
            source="""
            def may_merge(report):
                def fine(gate):
                    if gate["not_computed"] or gate["healthy"] is None:
                        return False
                    stopped = 1 - gate["healthy"]["promoted"]
                    return stopped <= 0.05 + 1e-9 and gate["bad"]["promoted"] <= 0.1
                gates = report["gates"]
                readable = not report["unreadable"]
                return readable and bool(gates) and all(map(fine, gates))
            """,
        ),
        Right(
            "by what is promoted, and says where",
            source="""
            def may_merge(report):
                fine = bool(report["gates"]) and not report["unreadable"]
                for gate in report["gates"]:
                    where = f'{gate["path"]}:{gate["line"]} {gate["kind"]}'
                    healthy, bad = gate["healthy"], gate["bad"]
                    if (
                        healthy is None
                        or gate["not_computed"]
                        or 1 - healthy["promoted"] > 0.05
                        or 1 - bad["aborted"] - bad["waits"] > 0.10
                    ):
                        print(where, gate["engine"], report["assumed"])
                        fine = False
                    elif healthy["samples"] and healthy["standard_errors"]["aborted"]:
                        print(where, "simulated", bad["exposed"], healthy["seconds"])
                return fine
            """,
        ),
    ],
)  # fmt: skip
def may_merge(t: Trial) -> None:
    """A policy on the linter's JSON."""

    def ask(*gates: dict[str, Any], broken: bool = False) -> bool:
        return t.call(_report(*gates, broken=broken), gives="truth")

    t.need(
        not ask(_unknown()),
        "null-passes",
        f"{t.said}, and of its only gate nothing is computed: `healthy` and `bad` are "
        "null.",
        "A gate whose chances nobody knows is not a good one.",
        "Say False where there is no number.",
    )
    t.need(
        ask(_gate(0.01, 0.0, 0.02)),
        "other-way-round",
        f"{t.said}; this gate stops 1 % of the healthy releases and misses 2 % of the "
        "bad ones.",
        "A policy that refuses every gate is soon switched off.",
        "A miss is the chance that a bad version is promoted.",
    )
    t.good("a good gate may be merged, one without numbers may not")
    t.need(
        not ask(_gate(0.2)),
        "false-alarms-pass",
        f"{t.said}; a healthy release is stopped with a chance of 0.2.",
        "One release in five is taken back for nothing.",
        "Compare what becomes of a healthy version with 0.05.",
    )
    t.need(
        not ask(_gate(missed=0.3)),
        "misses-pass",
        f"{t.said}; a bad release gets through with a chance of 0.3.",
        "That is what the gate was to prevent.",
        "Compare what becomes of a bad version with 0.10.",
    )
    t.need(
        not ask(_gate(0.03, 0.03)),
        "waits-ignored",
        f"{t.said}; 3 % of the healthy releases are aborted, and 3 % wait for a "
        "person.",
        "Who has to be called at night has been stopped.",
        "Add both chances.",
    )
    t.need(
        ask(_gate(held=0.9)),
        "waits-missed",
        f"{t.said}; a bad version is aborted with 0.1, waits for a person with 0.9, "
        "and is never promoted.",
        "What waits has not reached all users.",
        "A miss is a bad version that is promoted.",
    )
    t.good("waiting counts as stopped")
    t.need(
        ask(_gate(0.05, 0.0, 0.1)) and ask(_gate(0.0, 0.05, 0.05)),
        "at-the-limit",
        f"{t.said}; both chances are at most what the statement allows.",
        "Two people with two readings of a limit merge different things.",
        "*At most* has the limit in it.",
    )
    t.need(
        not ask(_gate(0.051)) and not ask(_gate(missed=0.101)),
        "beyond-the-limit",
        f"{t.said}; one of its chances is beyond what the statement allows.",
        "Two people with two readings of a limit merge different things.",
        "The limits are 0.05 and 0.10.",
    )
    t.need(
        not ask(_gate(left_out=("request-duration: it measures latency",))),
        "left-out-passes",
        f"{t.said}; its numbers are good, and a part of the gate is not computed.",
        "The numbers stand for the rest of the gate, and that is not all of it.",
        "Look at `not_computed` as well.",
    )
    fine = _gate(0.01, 0.0, 0.02)
    t.need(
        not ask(fine, _gate(missed=0.9)) and not ask(_gate(missed=0.9), fine),
        "first-gate-only",
        f"{t.said}; one of its two gates misses 90 % of the bad releases.",
        "The report has one entry for each rollout, and all of them will run.",
        "Every gate has to be good.",
    )
    t.good("two gates, the limits themselves, and a gate that is computed in part")
    t.need(
        not ask(fine, broken=True),
        "unreadable-passes",
        f"{t.said}, and one of its files could not be read.",
        "The gate that nobody could read may be the one that matters.",
        "Look at `unreadable`.",
    )
    t.need(
        not ask(),
        "nothing-passes",
        f"{t.said}, and there is no gate in it.",
        "A path with a slip of the pen would be green for ever.",
        "Ask for at least one gate.",
    )
    t.need(
        ask(fine, fine),
        "two-good-ones",
        f"{t.said}; both of its gates are good.",
        "",
        "Two good gates may be merged.",
    )
