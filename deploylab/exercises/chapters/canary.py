"""Checks for *Catch a bad version before every user meets it*."""

from __future__ import annotations

import numbers
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deploylab.exercises.engine import Found, Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import Guess, prediction

if TYPE_CHECKING:
    from deploylab.exercises import live

#: What the page gives for `canary_step`.
STAGES = (0.05, 0.2, 0.5)
BAKE_S = 300


def _is_number(value: Any) -> bool:
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and bool(np.isfinite(value))


def _step(
    t: Trial, share: float, watched_s: float, verdict: Any
) -> tuple[str | float, str]:
    """What the student's rule says, and the sentence that says so."""
    value = t.call(share, watched_s, verdict)
    said = f"`canary_step({share}, {watched_s}, {verdict})` gave `{show(value)}`"
    t.need(
        value in ("abort", "wait") if isinstance(value, str) else _is_number(value),
        "not-a-step",
        f"{said}.",
        "Whoever carries the step out does not know what to do.",
        'Return "abort", "wait", or the next share as a number.',
    )
    t.need(
        isinstance(value, str) or value <= 1,
        "percent",
        f"{said}.",
        "A router that is told 20 for 20 % refuses, or sends everybody.",
        "Shares are between 0 and 1 here, as in `stages`.",
    )
    return (value if isinstance(value, str) else round(float(value), 9)), said


def _right_step(share: float, watched_s: float, verdict: Any) -> str | float:
    """The step, by cases: what ends it, what is not over, what goes on."""
    from deploylab.rollout.model import Verdict

    over = watched_s >= BAKE_S
    if verdict is Verdict.FAILED or (over and verdict is not Verdict.SUCCESSFUL):
        return "abort"
    return {0.05: 0.2, 0.2: 0.5, 0.5: 1.0}[share] if over else "wait"


def _need_members(t: Trial) -> None:
    """A rule that asks for text takes all verdicts for the same, and texts not."""
    from deploylab.rollout.model import Verdict

    def differ(verdicts: list[Any]) -> bool:
        said = set()
        for verdict in verdicts:
            try:
                said.add(show(t.call(0.05, 420, verdict)))
            except Found:
                said.add("")
        return len(said) > 1

    spelled = [[v.value for v in Verdict], [v.name for v in Verdict]]
    t.need(
        differ(list(Verdict)) or not any(differ(texts) for texts in spelled),
        "text-verdict",
        "After a whole stage your function gives the same for all four verdicts, and "
        'tells texts such as `"failed"` apart.',
        "A `model.Verdict` is never equal to a text, so each such comparison says no.",
        "Compare with a member, as in `verdict is model.Verdict.FAILED`.",
    )


@exercise(
    hints={
        "*": [
            "Which of the four verdicts needs no more watching, whatever the clock "
            "says?",
            "Three questions, and their order matters: has it failed? Is the stage "
            "over? Has enough been looked at?",
            "1 what ends the rollout at once; 2 what waits; 3 what ends it when the "
            "stage is over; 4 what is left goes on.",
        ],
        "crash": [
            "What comes after the last stage? It does not stand in `stages`.",
        ],
        "no-data-is-good": [
            "Say in words what each verdict means, and which one says that enough was "
            "looked at.",
        ],
    },
    not_checked="Whether the verdict is true. A rule is as good as the judge that it "
    "asks.",
    notice="Failed outranks waiting, and waiting outranks all other verdicts. One "
    "verdict alone moves traffic on: nothing proved against it, with enough looked at.",
    wrong=[
        Wrong(
            "compares with text",
            "text-verdict",
            source="""
            def canary_step(share, watched_s, verdict):
                if verdict == "failed":
                    return "abort"
                if watched_s < bake_s:
                    return "wait"
                if verdict != "successful":
                    return "abort"
                return next((s for s in stages if s > share), 1.0)
            """,
        ),
        Wrong(
            "compares with names, as text",
            "text-verdict",
            source="""
            def canary_step(share, watched_s, verdict):
                if watched_s < bake_s and verdict != "FAILED":
                    return "wait"
                if verdict == "SUCCESSFUL":
                    return next((s for s in stages if s > share), 1.0)
                return "abort"
            """,
        ),
        Wrong(
            "four times as much",
            "not-next",
            patch=(
                ("next((s for s in stages if s > share), 1.0)", "min(share * 4, 1.0)"),
            ),
        ),
        Wrong("returns nothing for wait", "not-a-step", patch=(('"wait"', "None"),)),
        Wrong(
            "percent",
            "percent",
            source="""
            def canary_step(share, watched_s, verdict):
                if verdict is model.Verdict.FAILED:
                    return "abort"
                if watched_s < bake_s:
                    return "wait"
                return {0.05: 20, 0.2: 50, 0.5: 100}[share]
            """,
        ),
        Wrong(
            "from 5 % to everybody",
            "jumps",
            patch=(("next((s for s in stages if s > share), 1.0)", "1.0"),),
        ),
        Wrong("stays where it is", "not-next", patch=(("s > share", "s >= share"),)),
        Wrong(
            "begins again after the last stage",
            "after-last",
            patch=(("if s > share), 1.0)", "if s > share), stages[0])"),),
        ),
        Wrong(
            "reads beyond the last stage",
            "crash",
            patch=(
                (
                    "next((s for s in stages if s > share), 1.0)",
                    "stages[stages.index(share) + 1]",
                ),
            ),
        ),
        Wrong(
            "goes on as soon as it looks good",
            "hurries",
            source="""
            def canary_step(share, watched_s, verdict):
                if verdict is model.Verdict.SUCCESSFUL:
                    return next((s for s in stages if s > share), 1.0)
                if verdict is model.Verdict.FAILED or watched_s >= bake_s:
                    return "abort"
                return "wait"
            """,
        ),
        Wrong(
            "waits for the end before it aborts",
            "waits-with-failed",
            source="""
            def canary_step(share, watched_s, verdict):
                if watched_s < bake_s:
                    return "wait"
                if verdict is not model.Verdict.SUCCESSFUL:
                    return "abort"
                return next((s for s in stages if s > share), 1.0)
            """,
        ),
        Wrong(
            "takes no data for good data",
            "no-data-is-good",
            patch=(
                (
                    "verdict is not model.Verdict.SUCCESSFUL",
                    "verdict is model.Verdict.INCONCLUSIVE",
                ),
            ),
        ),
        Wrong(
            "goes on with doubt",
            "doubt-is-good",
            patch=(
                (
                    "verdict is not model.Verdict.SUCCESSFUL",
                    "verdict is model.Verdict.ERROR",
                ),
            ),
        ),
        Wrong(
            "aborts at the first look without data",
            "impatient",
            patch=(
                (
                    "verdict is model.Verdict.FAILED",
                    "verdict in (model.Verdict.FAILED, model.Verdict.ERROR)",
                ),
            ),
        ),
        Wrong(
            "aborts at the first doubt",
            "impatient",
            patch=(
                (
                    "verdict is model.Verdict.FAILED",
                    "verdict in (model.Verdict.FAILED, model.Verdict.INCONCLUSIVE)",
                ),
            ),
        ),
        Wrong(
            "one look too long",
            "off-by-one",
            patch=(("watched_s < bake_s", "watched_s <= bake_s"),),
        ),
        Wrong(
            "aborts late in the last stage",
            "differs",
            patch=(
                (
                    "verdict is model.Verdict.FAILED",
                    "verdict is model.Verdict.FAILED and share < 0.5",
                ),
            ),
        ),
    ],
    also_right=[
        Right(
            "a table of the stages, and the cases in another order",
            source="""
            def canary_step(share, watched_s, verdict):
                follows = dict(zip(stages, [*stages[1:], 1]))
                match (watched_s >= bake_s, verdict.value):
                    case (_, "failed") | (True, "inconclusive" | "error"):
                        return "abort"
                    case (True, "successful"):
                        return follows[share]
                return "wait"
            """,
        ),
        Right(
            "the book's own strategy, and its steps translated",
            source="""
            def canary_step(share, watched_s, verdict):
                both = frozenset({model.STABLE, model.CANDIDATE})
                state = model.State(watched_s, share, 0.0, both)
                step = Canary(stages, bake_s, ()).next(state, verdict)
                if isinstance(step, model.Abort):
                    return "abort"
                if isinstance(step, model.Bake):
                    return "wait"
                return np.float64(step.split.candidate)
            """,
        ),
    ],
)
def canary_step(t: Trial) -> None:
    """The decision rule of a canary with three stages."""
    from deploylab.rollout.model import Verdict

    _need_members(t)
    step, said = _step(t, 0.05, 420, Verdict.SUCCESSFUL)
    t.need(
        step != 1,
        "jumps",
        f"{said}.",
        "A fault that shows under load, or with rare requests, then meets everybody "
        "at once.",
        "Send it to the next stage, not to the end.",
    )
    t.need(
        step == 0.2,
        "not-next",
        f"{said}; the stages are `{STAGES}`.",
        "",
        "Look for the first stage above this share.",
    )
    step, said = _step(t, 0.2, 420, Verdict.SUCCESSFUL)
    t.need(
        step == 0.5,
        "not-next",
        f"{said}; the stages are `{STAGES}`.",
        "",
        "Look for the first stage above this share.",
    )
    step, said = _step(t, 0.5, 420, Verdict.SUCCESSFUL)
    t.need(
        step == 1,
        "after-last",
        f"{said}.",
        "A rollout without an end leaves two versions in service for good.",
        "After the last stage comes everybody: 1.0.",
    )
    t.good("with nothing proved against it, it goes from stage to stage, to the end")
    step, said = _step(t, 0.05, 60, Verdict.SUCCESSFUL)
    t.need(
        step == "wait",
        "hurries",
        f"{said}, and the stage lasts {BAKE_S} s.",
        "What needs minutes to show (memory, caches, a slow partner) is never seen.",
        "Go on when the stage is over, not before.",
    )
    step, said = _step(t, 0.05, 12, Verdict.FAILED)
    t.need(
        step == "abort",
        "waits-with-failed",
        f"{said}.",
        f"It is proved bad, and users go on meeting it for {BAKE_S - 12} s more.",
        "Ask for this verdict before you ask the clock.",
    )
    t.good("a version that is proved bad goes at once")
    step, said = _step(t, 0.05, 420, Verdict.ERROR)
    t.need(
        step == "abort",
        "no-data-is-good",
        f"{said}.",
        "ERROR means that there is no data: broken metrics look as healthy as a "
        "healthy version.",
        "Decide what may go on, not what may not.",
    )
    step, said = _step(t, 0.05, 420, Verdict.INCONCLUSIVE)
    t.need(
        step == "abort",
        "doubt-is-good",
        f"{said}.",
        "After a whole stage too little has been looked at, and the next one asks four "
        "times as many users.",
        "The text says what doubt means at the end of a stage.",
    )
    for verdict in (Verdict.ERROR, Verdict.INCONCLUSIVE):
        step, said = _step(t, 0.05, 3, verdict)
        t.need(
            step == "wait",
            "impatient",
            f"{said}.",
            "In the first seconds of a stage there is little data yet, with any "
            "version: no release would ever pass.",
            "These two verdicts count when the stage is over.",
        )
    t.good("in doubt it waits for the end of the stage, and then gives up")
    step, said = _step(t, 0.2, BAKE_S, Verdict.SUCCESSFUL)
    t.need(
        step == 0.5,
        "off-by-one",
        f"{said}.",
        "Watched for 300 s is what was asked for; whoever looks once a minute would "
        "add a minute to every stage.",
        "Look at your comparison with `bake_s`.",
    )
    for share in STAGES:
        for verdict in Verdict:
            for watched_s in (0, 1, 299.5, 300, 301, 900):
                step, said = _step(t, share, watched_s, verdict)
                right = _right_step(share, watched_s, verdict)
                t.need(
                    step == right,
                    "differs",
                    f"{said}; the rule asks for `{right}`.",
                    "The same rule holds in every stage.",
                    "Follow this call through your function, line by line.",
                )
    t.good("the same in all stages, at all times")


def _factors(share: float, ratio: float) -> tuple[float, float]:
    """What an error of the candidate's multiplies the value by, and one of stable's."""
    lost = ratio * share + 1 - share
    return ratio / lost, 1 / lost


def _values(t: Trial, errors: list[str], share: float, ratio: float) -> list[float]:
    """The student's e-values, one for each error."""
    values = t.call(errors, share, ratio, gives="list")
    t.need(
        len(values) == len(errors),
        "not-each",
        f"{t.said}: {len(values)} values for {len(errors)} errors.",
        "The gate looks after each error, and needs a value each time.",
        "One value for each error, in order, and none before the first.",
    )
    t.need(
        all(_is_number(value) for value in values),
        "not-numbers",
        f"{t.said}.",
        "",
        "Return a list of numbers.",
    )
    return [float(value) for value in values]


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(1, abs(other))


@exercise(
    hints={
        "*": [
            "Two equal versions: whose is the next error, and with what chance? What "
            "would you pay for a bet on it?",
            "Each error multiplies the value by how much more likely it is if the "
            "candidate is `ratio` times as bad.",
            "1 the candidate's chance s if it is worse; 2 the factor of each of the "
            "two; 3 multiply on from error to error, and keep each value.",
        ],
        "not-fair": [
            "Multiply each of your two factors by its chance under equality, and add. "
            "What must come out?",
        ],
        "stable-ignored": [
            "What does an error of stable's speak for?",
        ],
    },
    not_checked="Overflow after thousands of errors (the book's judge adds logarithms "
    "for that), and a share that changes on the way.",
    notice="You may look after every error because the value is a bet that is fair at "
    "every step: whenever two equal versions stop, it is 1 on average.",
    wrong=[
        Wrong(
            "the last one alone",
            "wrong-type",
            patch=(("return values", "return value"),),
        ),
        Wrong(
            "begins with 1",
            "not-each",
            patch=(("value, values = 1.0, []", "value, values = 1.0, [1.0]"),),
        ),
        Wrong(
            "one value where there is no error",
            "not-each",
            patch=(("return values", "return values or [1.0]"),),
        ),
        Wrong(
            "texts",
            "not-numbers",
            patch=(("values.append(value)", 'values.append(f"{value:.3f}")'),),
        ),
        Wrong(
            "the ratio without the share",
            "ratio-alone",
            source="""
            def e_values(errors, share, ratio):
                factors = {"candidate": ratio, "stable": 1 / ratio}
                return np.cumprod([factors[who] for who in errors])
            """,
        ),
        Wrong(
            "a fair bet on another chance",
            "ratio-alone",
            patch=(
                (
                    "ratio * share / (ratio * share + 1 - share)",
                    "ratio * share",
                ),
            ),
        ),
        Wrong(
            "forgets the share in the chance",
            "other-bet",
            patch=(
                ("ratio * share / (ratio * share + 1 - share)", "ratio / (ratio + 1)"),
            ),
        ),
        Wrong(
            "logarithms",
            "logarithm",
            patch=(("values.append(value)", "values.append(np.log2(value))"),),
        ),
        Wrong(
            "forgets stable's errors",
            "stable-ignored",
            patch=(("(1 - of_candidate) / (1 - share)", "1"),),
        ),
        Wrong("swaps the two", "swapped", patch=(('"candidate"', '"stable"'),)),
        Wrong(
            "chances instead of ratios of chances",
            "not-fair",
            patch=(("of_candidate / share", "of_candidate"),),
        ),
        Wrong(
            "divides by the wrong side's share",
            "not-fair",
            patch=(("(1 - of_candidate) / (1 - share)", "(1 - of_candidate) / share"),),
        ),
        Wrong(
            "fair, on half of the ratio",
            "other-bet",
            patch=(
                (
                    "    of_candidate =",
                    "    ratio = ratio / 2\n    of_candidate =",
                ),
            ),
        ),
        Wrong(
            "adds",
            "adds",
            patch=(
                ("value *= of_candidate / share", "value += of_candidate / share"),
                ("value, values = 1.0", "value, values = 0.0"),
                (
                    "value *= (1 - of_candidate) / (1 - share)",
                    "value += (1 - of_candidate) / (1 - share)",
                ),
            ),
        ),
        Wrong(
            "each error by itself",
            "not-carried",
            patch=(
                (
                    "    for who in errors:",
                    "    for who in errors:\n        value = 1.0",
                ),
            ),
        ),
        Wrong(
            "begins anew when it falls below 1",
            "forgets-the-past",
            patch=(
                (
                    "    for who in errors:",
                    "    for who in errors:\n        value = max(value, 1.0)",
                ),
            ),
        ),
        Wrong(
            "in another order",
            "path",
            patch=(("for who in errors", "for who in sorted(errors)"),),
        ),
    ],
    also_right=[
        Right(
            "a running product",
            source="""
            def e_values(errors, share, ratio):
                mine = np.array([who == "candidate" for who in errors], dtype=bool)
                return np.cumprod(np.where(mine, ratio, 1) / (1 + share * (ratio - 1)))
            """,
        ),
        Right(
            "the book's judge, with one ratio",
            source="""
            def e_values(errors, share, ratio):
                mine = np.array([who == "candidate" for who in errors], dtype=int)
                judge = SplitEProcess(ratios=(ratio,))
                return judge.e_paths(np.array([share]), mine, 1 - mine)
            """,
        ),
        Right(
            "logarithms of two likelihoods",
            source="""
            def e_values(errors, share, ratio):
                odds = ratio * share / (1 - share)
                worse = {"candidate": odds / (1 + odds), "stable": 1 / (1 + odds)}
                equal = {"candidate": share, "stable": 1 - share}
                return tuple(
                    np.exp(sum(
                        np.log(worse[w]) - np.log(equal[w]) for w in errors[: n + 1]
                    ))
                    for n in range(len(errors))
                )
            """,
        ),
    ],
)
def judge_without_peeking(t: Trial) -> None:
    """The e-value after each error, for one ratio."""
    _values(t, ["candidate", "stable", "candidate"], 0.2, 4)
    _values(t, [], 0.2, 4)
    t.good("one value for each error")
    for share, ratio in ((0.2, 4), (0.5, 3), (0.05, 10)):
        _need_fair(t, share, ratio)
    t.good("each step is a bet that is fair between equal versions: 1 on average")
    _, second = _values(t, ["candidate", "candidate"], 0.2, 4)
    t.need(
        not _near(second, 5),
        "adds",
        f"{t.said}: 2.5 and 2.5 added.",
        "A sum grows with every error, whoever made it, and condemns every version in "
        "the end.",
        "What is twice as likely, and then again twice, is four times as likely.",
    )
    t.need(
        not _near(second, 2.5),
        "not-carried",
        f"{t.said}: the second value knows nothing of the first error.",
        "Evidence that is forgotten at once never reaches any limit.",
        "Begin at the value that the last error left.",
    )
    values = _values(t, ["stable", "candidate"], 0.2, 4)
    t.need(
        not (_near(values[0], 0.625) and _near(values[1], 2.5)),
        "forgets-the-past",
        f"{t.said}: after 0.625 the next value begins again at 1.",
        "Every new beginning is a new chance of a false alarm, and there is no end to "
        "them.",
        "Carry the value on, also when it is small.",
    )
    for share, ratio in ((0.2, 4), (0.05, 10)):
        errors = t.rng.permutation(["candidate"] * 5 + ["stable"] * 7).tolist()
        errors = ["stable", "candidate", *errors]
        values = _values(t, errors, share, ratio)
        gain, loss = _factors(share, ratio)
        right = np.cumprod([gain if who == "candidate" else loss for who in errors])
        for n, (value, expected) in enumerate(zip(values, right, strict=True), 1):
            t.need(
                _near(value, expected),
                "path",
                f"`e_values({errors[:n]}, {share}, {ratio})` should end with "
                f"{expected:.4g}; your value there is {value:.4g}.",
                "The gate acts on each value at the moment of its error.",
                "Go through the errors in order, and keep the product after each.",
            )
    t.good("evidence adds up from error to error, in order")


def _need_fair(t: Trial, share: float, ratio: float) -> None:
    """One error of each: the two factors, and their mean under equality."""
    gain, loss = _factors(share, ratio)
    (mine,) = _values(t, ["candidate"], share, ratio)
    said_mine = t.said
    (theirs,) = _values(t, ["stable"], share, ratio)
    mean = share * mine + (1 - share) * theirs
    summed = f"{share:g} x {mine:.4g} + {1 - share:g} x {theirs:.4g} = {mean:.4g}"
    logarithms = mine > 0 > theirs and _near(mine * np.log(loss), theirs * np.log(gain))
    t.need(
        not logarithms,
        "logarithm",
        f"{said_mine}, and one of stable's `{theirs:.4g}`.",
        "Logarithms add up well, but the limit of 1,000 is one for the value.",
        "Return the value, not its logarithm.",
    )
    alone = _near(mine, ratio)
    if alone:  # at one share that may be an accident
        (again,) = _values(t, ["candidate"], 0.3, ratio)
        alone = _near(again, ratio)
    t.need(
        not alone,
        "ratio-alone",
        f"{said_mine}: the factor is the ratio, at any share.",
        "With half of the traffic, half of the errors are the candidate's anyway; with "
        "1 % each one is news.",
        "Find the candidate's chance of being the next, then divide by the share.",
    )
    t.need(
        not _near(theirs, 1),
        "stable-ignored",
        f"{t.said}. Equal versions have a mean factor of {summed}.",
        f"It should be 1. After 20 errors that is {mean**20:,.0f} on average, and "
        "every good version is condemned.",
        "An error of stable's speaks for the candidate: by how much?",
    )
    t.need(
        not (_near(mine, loss) and _near(theirs, gain)),
        "swapped",
        f"{said_mine}; an error of stable's gave `{theirs:.4g}`.",
        "The more errors the candidate makes, the better it looks.",
        "Whose error speaks against the candidate?",
    )
    t.need(
        _near(mean, 1),
        "not-fair",
        f"{said_mine}, and one of stable's `{theirs:.4g}`. Equal versions have a mean "
        f"factor of {summed}.",
        "It should be 1: else the value drifts by itself, and looking often finds "
        f"what is not there. After 20 errors it is {mean**20:,.3g} on average.",
        "Divide each chance by the chance that the same error has under equality.",
    )
    t.need(
        _near(mine, gain),
        "other-bet",
        f"{said_mine}; a candidate with {ratio} times the error rate makes it "
        f"{gain:.4g}.",
        "The bet is fair, and on another version than the one that you fear.",
        "How often is the next error its own, if its rate is `ratio` times as high?",
    )


def _exposed() -> float:
    """Mean requests of a version with 5 % errors, at 5 % of the traffic."""
    from deploylab.rollout import Canary, Gate, SplitEProcess, predict
    from deploylab.rollout.model import CANDIDATE, STABLE

    gate = Gate("errors", SplitEProcess(alpha=0.001))
    rates = {STABLE: {"errors": 0.0}, CANDIDATE: {"errors": 0.05}}
    return predict.canary(Canary((0.05,), 3600.0, (gate,)), rates, 200.0).exposed


blast_radius = prediction(
    "blast_radius",
    truth=lambda: _exposed(),
    tolerance=(0.6, 1.6),
    guesses=[
        Guess(
            1,
            13,
            "before-an-error",
            "`v2-flaky` errs once in 20 requests, so in most cases not one error has "
            "come by then. Without an error no gate knows anything.",
            "For the next prediction: what must have happened before a gate can act?",
        ),
        Guess(
            13,
            48,
            "one-error",
            "`v2-flaky` errs once in 20 requests, so this is one error or two. One "
            "error is weak evidence: with 5 % of the traffic, one error of 20 is the "
            "candidate's anyway.",
            "For the next prediction: how many errors in a row have a chance of 1 in "
            "1,000?",
        ),
        Guess(
            float("-inf"),
            1,
            "nobody",
            "No gate has heard of an error before a user has had it.",
            "Begin with the requests that one error takes.",
            plausible=False,
        ),
        Guess(
            128,
            450,
            "a-sample",
            "That resembles a sample size chosen beforehand. This judge looks after "
            "each error, and stops at the first moment that suffices.",
            "For the next prediction: count the errors that it needs, then the "
            "requests that these take.",
        ),
        Guess(
            450,
            2000,
            "by-the-clock",
            "That is a minute or more, at 10 requests a second. Evidence is counted in "
            "errors, and the clock brings none.",
            "For the next prediction, leave time out: how many errors, and how many "
            "requests for each?",
        ),
        Guess(
            2000,
            36_000,
            "whole-stage",
            "That is more like what the whole stage would send, and far away. The "
            "exercise is done, because you committed to it; the distance is what you "
            "learn.",
            "For the next prediction: a gate that is asked all the time ends a stage "
            "early. After how many errors?",
        ),
        Guess(
            36_000,
            float("inf"),
            "more-than-all",
            "The candidate gets 10 requests a second for an hour, and that is less.",
            "Take 5 % of the traffic first.",
            plausible=False,
        ),
    ],
    what="The number of requests before the gate ends it",
    unit="requests",
    hints={
        "*": [
            "If versions are equal, an error is the candidate's with a chance of 5 %. "
            "How likely are two of two? And three of three?",
            "The requests are the errors that the judge needs, times the requests that "
            "one error takes.",
            "The stake is spread over many ratios, and most gain less than the best: "
            "the mean needs one error more than the best of them.",
        ]
    },
    not_checked="How you came to your number. And the time between the deciding error "
    "and the switch, which adds requests at any share.",
    notice="Errors needed, times requests for an error: the share of traffic is hardly "
    "in it. A smaller share makes the wait longer, not the harm smaller.",
    limit_s=10,
)


@exercise(
    hints={
        "*": [
            "What is the chance that a user with two requests meets it in neither?",
            "It is shorter to count those who never meet it.",
            "1 how often is a side drawn for this user; 2 the chance that it is never "
            "the candidate's; 3 all the others.",
        ],
        "zero-requests": ["How often is a side drawn for somebody who never comes?"],
        "sticky-ignored": ["How often is a side drawn for a user who keeps theirs?"],
    },
    not_checked="Users who differ: real ones send one request or a thousand, and then "
    "the share is a mean over all of them.",
    notice="A user, not a request, is who gets hurt. Whoever wants few users to meet a "
    "bad version keeps each of them on one side.",
    wrong=[
        Wrong(
            "in percent",
            "percent",
            patch=(
                (
                    "return 1 - (1 - share) ** draws",
                    "return 100 - 100 * (1 - share) ** draws",
                ),
            ),
        ),
        Wrong(
            "share times requests",
            "above-one",
            patch=(("1 - (1 - share) ** draws", "share * draws"),),
        ),
        Wrong(
            "share times requests, at most 1",
            "adds-chances",
            patch=(("1 - (1 - share) ** draws", "min(1, share * draws)"),),
        ),
        Wrong(
            "the chance of all",
            "every-request",
            patch=(("1 - (1 - share) ** draws", "share ** draws"),),
        ),
        Wrong(
            "the chance of none",
            "those-spared",
            patch=(("return 1 - (1", "return (1"),),
        ),
        Wrong(
            "everybody is sticky",
            "one-draw",
            patch=(("requests_each\n", "1\n"),),
        ),
        Wrong(
            "an exponential",
            "approximate",
            patch=(("1 - (1 - share) ** draws", "1 - np.exp(-share * draws)"),),
        ),
        Wrong(
            "tries it out with random numbers",
            "estimated",
            source="""
            def users_touched(share, requests_each, sticky):
                draws = min(requests_each, 1) if sticky else requests_each
                rng = np.random.default_rng(5)
                return (rng.random((20_000, draws)) < share).any(axis=1).mean()
            """,
        ),
        Wrong(
            "half of them",
            "differs",
            patch=(("return 1 - (1 - share) ** draws", "return draws / (draws + 5)"),),
        ),
        Wrong(
            "rounded",
            "estimated",
            patch=(("1 - (1 - share) ** draws", "round(1 - (1 - share) ** draws, 2)"),),
        ),
        Wrong(
            "sticky or not",
            "sticky-ignored",
            patch=(
                ("min(requests_each, 1) if sticky else requests_each", "requests_each"),
            ),
        ),
        Wrong(
            "those who never come are touched too",
            "zero-requests",
            source="""
            def users_touched(share, requests_each, sticky):
                if sticky:
                    return share
                return 1 - (1 - share) ** requests_each
            """,
        ),
        Wrong(
            "as good as nobody below 1 %",
            "differs",
            patch=(
                (
                    "    draws =",
                    "    if share < 0.01:\n        return 0.0\n    draws =",
                ),
            ),
        ),
    ],
    also_right=[
        Right(
            "request after request",
            source="""
            def users_touched(share, requests_each, sticky):
                if requests_each == 0:
                    return 0
                if sticky:
                    return share
                touched = 0.0
                for _ in range(requests_each):
                    touched += (1 - touched) * share
                return touched
            """,
        ),
        Right(
            "logarithms",
            source="""
            def users_touched(share, requests_each, sticky):
                draws = bool(requests_each) if sticky else requests_each
                if share == 1:
                    return float(draws > 0)
                return -np.expm1(draws * np.log1p(-share))
            """,
        ),
    ],
)
def users_hurt(t: Trial) -> None:
    """The share of users who meet the candidate at least once."""
    value = t.call(0.05, 30, False, gives="number")
    right = 1 - 0.95**30
    t.need(
        not _near(value, 100 * right),
        "percent",
        f"{t.said}.",
        "The caller multiplies it by the number of users, and gets a hundred times too "
        "many.",
        "Return a share, from 0 to 1.",
    )
    t.need(
        value <= 1,
        "above-one",
        f"{t.said}: more users than there are.",
        "Chances of several tries cannot be added: a user who is hit twice would count "
        "twice.",
        "Count those who never meet it.",
    )
    value = t.call(0.05, 20, False, gives="number")
    right = 1 - 0.95**20
    t.need(
        not _near(value, 1),
        "adds-chances",
        f"{t.said}: with 20 requests at 5 % nobody would be spared.",
        "Some users are hit twice, so others are not hit at all.",
        "Count those who never meet it.",
    )
    t.need(
        not _near(value, 0.05**20),
        "every-request",
        f"{t.said}.",
        "That is who meets it with every single request; one is enough to be hurt.",
        "What is the opposite of *at least once*?",
    )
    t.need(
        not _near(value, 1 - right),
        "those-spared",
        f"{t.said}.",
        "",
        "Is that the share of those who meet it, or of those who do not?",
    )
    t.need(
        not _near(value, 0.05),
        "one-draw",
        f"{t.said}: the share of the requests.",
        "Without stickiness each request is drawn anew, so a user who comes often is "
        "nearly sure to meet it.",
        "How often is a side drawn for such a user?",
    )
    t.need(
        not _near(value, 1 - np.exp(-0.05 * 20)),
        "approximate",
        f"{t.said}; exactly it is {right:.9f}.",
        "An approximation that fits at 5 % is off at 50 %, where a canary goes too.",
        "Multiply the chances of not meeting it, as often as it is drawn.",
    )
    t.need(
        abs(value - right) <= 1e-9 or abs(value - right) > 0.03,
        "estimated",
        f"{t.said}; exactly it is {right:.9f}.",
        "It is near, but what chance or rounding has touched is off by a little, and "
        "chance by another little each time.",
        "Give the formula: multiply the chances of not meeting it, and do not round.",
    )
    t.need(
        abs(value - right) <= 1e-9,
        "differs",
        f"{t.said}; it is {right:.6g}.",
        "",
        "Work this case out on paper, and compare line by line.",
    )
    t.good("5 % of the requests, 20 for each user: about two users of three")
    value = t.call(0.05, 20, True, gives="number")
    t.need(
        abs(value - 0.05) <= 1e-9,
        "sticky-ignored",
        f"{t.said}.",
        "A sticky user is drawn once, and keeps the side with every request.",
        "Use the third argument.",
    )
    t.good("and 5 % of the users if each stays on one side")
    for sticky in (False, True):
        value = t.call(0.2, 0, sticky, gives="number")
        t.need(
            abs(value) <= 1e-9,
            "zero-requests",
            f"{t.said}.",
            "Users who never come are counted among the hurt.",
            "Who sends nothing meets nobody.",
        )
    for share in (0.0, 0.001, 0.2, 0.5, 1.0):
        for requests in (0, 1, 2, 7):
            for sticky in (False, True):
                value = t.call(share, requests, sticky, gives="number")
                draws = min(requests, 1) if sticky else requests
                right = 1 - (1 - share) ** draws
                t.need(
                    abs(value - right) <= 1e-9,
                    "differs",
                    f"{t.said}; it is {right:.6g}.",
                    "",
                    "Work this case out on paper, and compare line by line.",
                )
    t.good("also for none, one and many requests, and for nobody and everybody")


def _same_pair(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return all(abs(a - b) <= 1e-9 for a, b in zip(one, other, strict=True))


@exercise(
    hints={
        "*": [
            "Write the windows down one below the other, and beside each what the "
            "engine does at its end.",
            "For each engine: after how many failed windows is it decided, and at the "
            "end of which window is it done?",
            "1 the number for Argo Rollouts, and that many windows; 2 the number for "
            "Flagger, at least one, and one window more.",
        ],
        "argo-allows": ["Is 3 *more* than 3?"],
        "flagger-reaches": ["Is 3 *as many as* 3?"],
        "acts-late": [
            "At the end of the third window the third check fails. When does Flagger "
            "look at the count again?"
        ],
        "zero-threshold": ["What does Flagger take a threshold of 0 for?"],
    },
    not_checked="Windows that do not all fail: a version that fails half of them has "
    "users for longer, and the linter computes how long.",
    notice="From 1 on, the same number in both files lets a bad version have users for "
    "the same time; yet Argo Rollouts bears one failed window more than Flagger.",
    wrong=[
        Wrong(
            "as the sentence in the documentation",
            "argo-allows",
            patch=(("return limit + 1, (limit + 1) *", "return limit, limit *"),),
        ),
        Wrong(
            "one rule for both",
            "flagger-reaches",
            source="""
            def until_back(engine, limit, interval_s):
                return limit + 1, (limit + 1) * interval_s
            """,
        ),
        Wrong(
            "goes back at once",
            "acts-late",
            patch=(("(failed + 1) * interval_s", "failed * interval_s"),),
        ),
        Wrong(
            "none is none",
            "zero-threshold",
            patch=(("max(limit, 1)", "limit"),),
        ),
        Wrong(
            "seconds first",
            "swapped",
            source="""
            def until_back(engine, limit, interval_s):
                if engine == "argo":
                    return (limit + 1) * interval_s, limit + 1
                failed = max(limit, 1)
                return (failed + 1) * interval_s, failed
            """,
        ),
        Wrong(
            "first look at once",
            "differs",
            patch=(("return limit + 1, (limit + 1) *", "return limit + 1, limit *"),),
        ),
        Wrong(
            "never more than five",
            "differs",
            patch=(("max(limit, 1)", "min(max(limit, 1), 5)"),),
        ),
    ],
    also_right=[
        Right(
            "tick by tick",
            source="""
            def until_back(engine, limit, interval_s):
                now_s = failed = 0
                while True:
                    now_s += interval_s
                    if engine == "flagger" and failed >= max(1, limit):
                        return failed, now_s
                    failed += 1
                    if engine == "argo" and failed > limit:
                        return failed, now_s
            """,
        ),
        Right(
            "with a table",
            source="""
            def until_back(engine, limit, interval_s):
                failed = {"argo": limit + 1, "flagger": limit or 1}[engine]
                windows = failed + (engine == "flagger")
                return [failed, windows * interval_s]
            """,
        ),
    ],
)
def read_gate(t: Trial) -> None:
    """How many checks must fail, and how long that takes, in two engines."""
    value = t.call("argo", 3, 60, gives="pair")
    t.need(
        not _same_pair(value, (240, 4)),
        "swapped",
        f"{t.said}.",
        "The caller takes the first number for checks.",
        "Return the checks first, then the seconds.",
    )
    t.need(
        value[0] != 3,
        "argo-allows",
        f"{t.said}: three windows have failed, and three are allowed.",
        "The fourth is the one that ends it; until then a bad version has users.",
        "Argo Rollouts goes back when *more* have failed than `failureLimit`.",
    )
    _need_pair(t, value, (4, 240))
    _need_pair(t, t.call("argo", 0, 30, gives="pair"), (1, 30))
    t.good("Argo Rollouts: `failureLimit` windows may fail, and the next one ends it")
    value = t.call("flagger", 3, 60, gives="pair")
    t.need(
        value[0] != 4,
        "flagger-reaches",
        f"{t.said}: three checks have failed when the fourth window ends, and "
        "Flagger does not check that one any more.",
        "Who copies a limit from one file to the other changes how many failed checks "
        "it bears.",
        "Flagger goes back when *as many* have failed as `threshold`.",
    )
    t.need(
        value[1] != 180,
        "acts-late",
        f"{t.said}: the third check fails after 180 s.",
        "Flagger looks at the count before it makes a check, so all that time and one "
        "interval more the version has users.",
        "Add the interval after the check that failed.",
    )
    _need_pair(t, value, (3, 240))
    value = t.call("flagger", 0, 60, gives="pair")
    t.need(
        _same_pair(value, (1, 120)),
        "zero-threshold",
        f"{t.said}; it is `(1, 120)`.",
        "No check has failed yet, and by your rule it has gone back already.",
        "Take a `threshold` of 0 for 1, as Flagger does.",
    )
    t.good("Flagger: the check that reaches `threshold` ends it, one interval later")
    for limit in (0, 1, 2, 5, 12):
        for interval_s in (10, 60, 300):
            failed = limit + 1
            right = (failed, failed * interval_s)
            _need_pair(t, t.call("argo", limit, interval_s, gives="pair"), right)
            failed = max(limit, 1)
            right = (failed, (failed + 1) * interval_s)
            _need_pair(t, t.call("flagger", limit, interval_s, gives="pair"), right)
    t.good("for limits from 0 to 12 and intervals from 10 s to five minutes")


def _need_pair(
    t: Trial, value: tuple[float, float], right: tuple[float, float]
) -> None:
    t.need(
        _same_pair(value, right),
        "differs",
        f"{t.said}; it is `{right}`.",
        "",
        "Write the windows of this case down, one below the other, and count.",
    )


#: What the page gives for `operate_canary`.
LIVE_SHARES = (0.2, 0.5)


@exercise(
    "operate",
    live=True,
    limit_s=90,
    memory_bytes=None,
    hints={
        "*": [
            "At each line: what do you know at this moment, and what does it allow?",
            "For each stage: send, watch, ask. One answer goes on, all the others go "
            "back.",
            "1 start; 2 for each share: shift, watch, verdict; 3 on anything but "
            "successful: traffic away, then stop it, then return; 4 after the last "
            "stage: promote.",
        ],
        "unjudged": [
            "Between two rises of the share there must be a question. Which one?",
        ],
        "stopped-under-traffic": [
            "Who still sends to the instance at the moment at which it is stopped?",
        ],
        "left-running": ["What is still there that nobody needs any more?"],
        "too-long": [
            "Under which verdicts does your loop end? And what if that one never comes?"
        ],
        "went-on-without-data": [
            "Which verdicts let your runbook go on, and which of them say that "
            "somebody has looked?"
        ],
    },
    not_checked="What your runbook does when a control itself fails (in real life: "
    "abort first), doubt that lasts, rarer faults, and answers that are 200 and false.",
    notice="The same runbook, three versions, two ends: what was decided by you was "
    "the rule, not the outcome.",
    # A right runbook watches 40 requests or more in each of both stages. It is misled
    # if the bad version's errors suffice in neither: with 40 % errors, 6 of 40 at 20 %
    # and 13 in all at 50 % suffice (`rollout.predict`), and the chance of fewer is
    # 7e-9. Then the check lets the runbook pass, which did what it could. The good
    # version gives no errors, so a verdict can take it for a bad one only if the
    # machine fails; then the check says that it is broken.
    wrong=[
        Wrong(
            "does nothing",
            "never-started",
            source="""
            def operate(canary):
                if canary.share:
                    canary.abort()
            """,
        ),
        Wrong(
            "traffic before there is an instance",
            "out-of-order",
            patch=(
                ("    canary.start()\n", ""),
                ("canary.shift(share)", "canary.shift(share)\n        canary.start()"),
            ),
        ),
        Wrong(
            "straight to everybody",
            "too-far",
            source="""
            def operate(canary):
                canary.start()
                canary.shift(1.0)
                canary.watch(enough)
                if canary.verdict() != "successful":
                    canary.abort()
                    canary.retire()
                else:
                    canary.promote()
            """,
        ),
        Wrong(
            "leaves out the second stage",
            "too-far",
            patch=(("in live_shares", "in live_shares[:1]"),),
        ),
        Wrong(
            "looks once only",
            "unjudged",
            source="""
            def operate(canary):
                canary.start()
                canary.shift(0.2)
                canary.watch(enough)
                if canary.verdict() != "successful":
                    canary.abort()
                    canary.retire()
                    return
                canary.shift(0.5)
                canary.promote()
            """,
        ),
        Wrong(
            "asks before anything has come",
            "went-on-without-data",
            patch=(
                ("        canary.watch(enough)\n", ""),
                ('!= "successful"', '== "failed"'),
            ),
        ),
        Wrong(
            "takes doubt for a yes",
            "went-on-in-doubt",
            patch=(("watch(enough)", "watch(5)"), ('!= "successful"', '== "failed"')),
        ),
        Wrong(
            "the second stage on the data of the first",
            "unwatched",
            patch=(
                (
                    "        canary.watch(enough)\n",
                    "        if share < 0.5:\n            canary.watch(enough)\n",
                ),
            ),
        ),
        Wrong(
            "never aborts",
            "went-on-after-failed",
            patch=(
                ('if canary.verdict() != "successful":', "if not canary.verdict():"),
            ),
        ),
        Wrong(
            "watches until it is successful",
            "went-on-after-failed",
            source="""
            def operate(canary):
                canary.start()
                for share in live_shares:
                    canary.shift(share)
                    verdict = ""
                    while verdict != "successful":
                        canary.watch(enough)
                        verdict = canary.verdict()
                canary.promote()
            """,
        ),
        Wrong(
            "swallows the refusal",
            "went-on-after-failed",
            source="""
            def operate(canary):
                canary.start()
                try:
                    for share in live_shares:
                        canary.shift(share)
                        canary.watch(enough)
                        canary.verdict()
                    canary.promote()
                except RuntimeError:
                    canary.abort()
                    canary.retire()
            """,
        ),
        Wrong(
            "everything but failed goes on",
            "went-on-without-data",
            patch=(('!= "successful"', '== "failed"'),),
        ),
        Wrong(
            "asks again and again",
            "too-long",
            source="""
            def operate(canary):
                canary.start()
                for share in live_shares:
                    canary.shift(share)
                    while canary.verdict() == "error":
                        pass
                canary.promote()
            """,
        ),
        Wrong(
            "gives up without a word",
            "still-exposed",
            patch=(("            canary.abort()\n            canary.retire()\n", ""),),
        ),
        Wrong(
            "stops it before its traffic is gone",
            "stopped-under-traffic",
            patch=(
                (
                    "            canary.abort()\n            canary.retire()\n",
                    "            canary.retire()\n            canary.abort()\n",
                ),
            ),
        ),
        Wrong(
            "leaves the bad one running",
            "left-running",
            patch=(("            canary.retire()\n", ""),),
        ),
        Wrong(
            "aborts always",
            "good-aborted",
            patch=(('if canary.verdict() != "successful":', "if canary.verdict():"),),
        ),
        Wrong(
            "stays at half",
            "unfinished",
            patch=(("    canary.promote()", "    canary.watch(1)"),),
        ),
        Wrong(
            "everybody, and the old one runs on",
            "old-still-running",
            patch=(("canary.promote()", "canary.shift(1.0)"),),
        ),
    ],
    also_right=[
        Right(
            "looks often, and goes at the first bad word",
            source="""
            def operate(canary):
                canary.start()
                for share in (0.2, 0.35, 0.5):
                    canary.shift(share)
                    seen, verdict = 0, "error"
                    while seen < enough and verdict != "failed":
                        seen = canary.watch(10)["candidate"]["requests"]
                        verdict = canary.verdict()
                    if verdict != "successful":
                        canary.shift(0)
                        return canary.retire()
                canary.promote()
            """,
        ),
        Right(
            "nobody is left behind, whatever happens",
            source="""
            def operate(canary):
                canary.start()
                try:
                    for share in live_shares:
                        canary.shift(share)
                        canary.watch(enough + 10)
                        assert canary.verdict() == "successful"
                except BaseException:
                    canary.abort()
                    canary.retire()
                else:
                    canary.shift(1)
                    canary.promote()
            """,
        ),
    ],
)
def operate_canary(t: Trial) -> None:
    """A runbook for three versions: a good one, a bad one, one without numbers."""
    from deploylab.exercises import live

    with live.Canaries(Path.cwd()) as canaries:  # a folder of the check's own
        ends = {
            "good": "the good version takes all traffic, and the old one is stopped",
            "bad": "the bad version gets no traffic any more, and is stopped",
            "mute": "the version without numbers gets no traffic, and is stopped",
        }
        for version, end in ends.items():
            canary = canaries.next(version)
            t.say(f"The canary of the {version} version")
            _operate(t, canary)
            _need_order(t, canary)
            _need_rules(t, canary)
            _need_end(t, canary)
            t.good(end)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _operate(t: Trial, canary: live.Canary) -> None:
    """Call the runbook; what a control refused is told in our words."""
    from deploylab.exercises.live import AfterFailed, OutOfOrder, TooLong

    try:
        t.call(canary)
    except Found as found:
        _need_bounds(t, canary, AfterFailed, TooLong)
        steps = f"{len(canary.done)} step{'' if len(canary.done) == 1 else 's'}"
        t.need(
            not isinstance(found.__cause__, OutOfOrder),
            "out-of-order",
            f"After {steps} a control refused: {found.__cause__}.",
            "Each control needs what earlier ones have brought about (an instance, "
            "then traffic), and `promote` is an end.",
            "Put the controls in the order in which the parts need each other.",
        )
        raise
    _need_bounds(t, canary, AfterFailed, TooLong)


def _need_bounds(
    t: Trial, canary: live.Canary, after_failed: type, too_long: type
) -> None:
    """It did not go on after failed, nor for ever, even if it caught the refusal."""
    verdicts = [one.verdict for one in canary.done if one.verdict]
    if canary.version != "bad" and "failed" in verdicts:
        raise RuntimeError("a version without a fault gave errors on this machine")
    for refused in canary.refused:
        t.need(
            not isinstance(refused, after_failed),
            "went-on-after-failed",
            f"A control refused: {refused}.",
            "It is proved bad, and users go on meeting it, more of them at each stage.",
            "On `failed` there is one way: back.",
        )
        t.need(
            not isinstance(refused, too_long),
            "too-long",
            f"A control refused: {refused}. The last verdict was "
            f"`{verdicts[-1] if verdicts else 'none'}`.",
            "A canary that waits for an answer that never comes holds up every "
            "release, and users stay on it.",
            "Say what ends the waiting when no verdict does.",
        )


def _need_order(t: Trial, canary: live.Canary) -> None:
    """It was started, and not stopped under traffic."""
    t.need(
        canary.done,
        "never-started",
        "Your runbook came back, and 0 controls had been used.",
        "A version that is never tried is never released.",
        "Begin with an instance of the new version.",
    )
    for one in canary.done:
        if one.what == "retire" and one.share:
            t.stop(
                "stopped-under-traffic",
                f"You stopped the candidate while it got {_percent(one.share)} of the "
                f"traffic; {canary.lost()} requests have failed since.",
                "Whoever is sent to an instance that is gone gets an error, from a "
                "good version too.",
                "Traffic moves first, then capacity goes.",
            )


def _need_rules(t: Trial, canary: live.Canary) -> None:
    """No rise without enough requests and a good verdict.

    The verdict counts if nothing was watched or shifted after it.
    """
    share, watched, verdict = 0.0, 0, ""
    for one in canary.done:
        rises = one.what in ("shift", "promote") and one.share > share
        if rises:
            _need_rise(t, share, one.share, watched, verdict)
        if one.what == "verdict":
            verdict = one.verdict
        elif one.what in ("shift", "watch", "abort", "promote"):
            verdict = ""
        share, watched = one.share, one.watched


def _need_rise(t: Trial, low: float, high: float, watched: int, verdict: str) -> None:
    """A rise from one share to another, after what was watched at the first."""
    rise = f"You went from {_percent(low)} to {_percent(high)}"
    if low:
        t.need(
            verdict,
            "unjudged",
            f"{rise} without a verdict on what came since the last step.",
            "Then a canary is a slow way to send everybody to a version that nobody "
            "has judged.",
            "Ask for the verdict in each stage, when enough has come.",
        )
        t.need(
            verdict != "error",
            "went-on-without-data",
            f"{rise} with the verdict `{verdict}`: no data.",
            "No data is not good data; a broken metric looks like this.",
            "Let some requests come before you ask, and go on with one verdict alone.",
        )
        t.need(
            verdict != "inconclusive",
            "went-on-in-doubt",
            f"{rise} with the verdict `{verdict}`, after {watched} requests.",
            "Nothing is proved against it, but too little has been looked at.",
            "Go on with one verdict alone, and watch until it can be given.",
        )
        t.need(
            watched >= 40,
            "unwatched",
            f"{rise} after {watched} requests in this stage.",
            "The verdict rests on the stage before, and this one, with more load, was "
            "not looked at.",
            "Watch at least `enough` requests in each stage.",
        )
    allowed = next((s for s in LIVE_SHARES if s > low), 1.0)
    t.need(
        high <= allowed + 1e-9,
        "too-far",
        f"{rise}; from there the next stage is {_percent(allowed)}.",
        "What a small share would have shown, a large one learns from its users.",
        "Go through the stages one by one.",
    )


def _need_end(t: Trial, canary: live.Canary) -> None:
    """Everything on one version, and nothing else runs."""
    verdicts = [one.verdict for one in canary.done if one.verdict]
    t.need(
        not (0 < canary.share < 1) or "failed" not in verdicts,
        "still-exposed",
        f"The verdict was `failed`, and at the end {_percent(canary.share)} of the "
        "requests still go to this version.",
        "Your runbook has returned, so nobody will take them back.",
        "Move the traffic before you return.",
    )
    t.need(
        not 0 < canary.share < 1,
        "unfinished",
        f"At the end the candidate has {_percent(canary.share)} of the traffic.",
        "Two versions answer the same users for good, and the next rollout has no "
        "stable one to begin from.",
        "After the last stage there is one step left.",
    )
    if canary.share == 1:
        t.need(
            canary.promoted,
            "old-still-running",
            f"At the end the candidate has {_percent(canary.share)} of the traffic, "
            "and the old version runs on.",
            "It is paid for and patched, and nobody knows which of both is the stable "
            "one.",
            "One of the controls moves everything and stops the old one.",
        )
        return
    t.need(
        not canary.runs,
        "left-running",
        f"At the end the candidate gets {_percent(canary.share)}, and its instance "
        "still runs.",
        "A server that nobody knows of is found when it does harm.",
        "Stop it, now that nobody is sent there.",
    )
    t.need(
        canary.version != "good",
        "good-aborted",
        f"The first version was good (verdicts: `{', '.join(verdicts) or 'none'}`), "
        "and you gave it up.",
        "A release process that never lets anything pass is one that people go around.",
        "Look at the condition under which you abort.",
    )
