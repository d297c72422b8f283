"""Exercises that are not code: choices, orders, predictions, and plain words.

Each function here makes an Exercise from its content alone; wrong answers that the
content implies (every wrong option, every broken order) are made with it.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from deploylab.exercises.engine import (
    GIVES,
    Exercise,
    Found,
    Right,
    Trial,
    Wrong,
    show,
)
from deploylab.exercises.result import Finding, Status

#: An answer in words shorter than this is a start, not an explanation.
MIN_WORDS = 20


@dataclass(frozen=True)
class Option:
    """One option of a choice: whether it belongs to the answer, and why (or why not).

    ``do`` says what to try next, and is needed for options that do not belong.
    """

    right: bool
    why: str
    do: str = ""


def choice(
    name: str,
    options: dict[str, Option],
    *,
    hints: dict[str, list[str]],
    not_checked: str,
    notice: str = "",
    left_out: str = "An option left out is a case that nobody looks after.",
) -> Exercise:
    """Choose one letter, or several where several options are right.

    The finding of a letter that does not belong is ``chose-<letter>``, of one that
    is missing ``missed-<letter>``. left_out: why it matters that one is missing.
    """
    right = "".join(letter for letter, option in options.items() if option.right)
    several = len(right) > 1

    def check(t: Trial) -> None:
        chosen = letters(t, options)
        if not several and len(chosen) > 1:
            t.stop(
                "several",
                f"You chose {_listed(chosen)}; one option is asked for.",
                "",
                "Choose the one that you would defend.",
            )
        for letter in chosen:
            option = options[letter]
            if not option.right:
                t.stop(
                    f"chose-{letter}", f"You chose `{letter}`.", option.why, option.do
                )
            t.good(f"`{letter}`: {option.why}")
        for letter in right:
            t.need(
                letter in chosen,
                f"missed-{letter}",
                f"You chose {_listed(chosen)}, and at least one more belongs to them.",
                left_out,
                "Go through the options that you left out, one by one.",
            )
        if not several:
            for letter, option in options.items():
                if letter != right:
                    t.good(f"not `{letter}`: {option.why}")

    wrong = [
        Wrong(f"chooses {letter}", f"chose-{letter}", source=_answer(letter))
        for letter, option in options.items()
        if not option.right
    ]
    if several:
        wrong += [
            Wrong(
                f"leaves out {letter}",
                f"missed-{letter}",
                source=_answer(right.replace(letter, "")),
            )
            for letter in right
        ]
    else:
        wrong.append(Wrong("chooses all", "several", source=_answer("".join(options))))
    wrong.append(Wrong("a letter that is none", "unknown", source=_answer("?")))
    turned = " ".join(reversed(right.upper())) if several else right.upper()
    return _made(
        name, "choice", check, wrong, [Right("upper case", source=_answer(turned))],
        hints, not_checked, notice, content=repr(options),
    )  # fmt: skip


@dataclass(frozen=True)
class Before:
    """In an order, ``first`` must come before ``then``; the finding if it does not."""

    first: str
    then: str
    id: str
    why: str
    do: str


def order(
    name: str,
    lines: dict[str, str],
    before: list[Before],
    *,
    distractors: dict[str, str] | None = None,
    example: str,
    others: list[str],
    hints: dict[str, list[str]],
    not_checked: str,
    notice: str = "",
    noun: str = "line",
    left_out: tuple[str, str] = (
        "A step that is in nobody's list is done by nobody.",
        "Look for the step whose effect you take for granted.",
    ),
    missed: dict[str, tuple[str, str]] | None = None,
) -> Exercise:
    """Put lines in order; any order that keeps all of ``before`` is right.

    distractors: letters of lines that do not belong, each with the reason (finding
    ``distractor-<letter>``). example: a right order, from which wrong ones are made.
    others: further right orders. noun: what a line is called. left_out: why it matters
    that one is missing, and what to try next; missed: the same for single letters
    (finding ``missed-<letter>``) that are the only one missing.
    """
    distractors, missed = distractors or {}, missed or {}
    known = {**lines, **distractors}

    def check(t: Trial) -> None:
        chosen = letters(t, known)
        for letter in chosen:
            if letter in distractors:
                t.stop(
                    f"distractor-{letter}",
                    f"{noun.capitalize()} `{letter}` is in your order.",
                    distractors[letter],
                    f"Leave that {noun} out.",
                )
        t.good(f"no {noun} that does not belong")
        missing = [letter for letter in lines if letter not in chosen]
        has = (
            f"Your order `{' '.join(chosen)}` has {len(chosen)} {noun}s of the "
            f"{len(lines)} that are needed."
        )
        if len(missing) == 1 and missing[0] in missed:
            t.stop(f"missed-{missing[0]}", has, *missed[missing[0]])
        t.need(not missing, "line-missing", has, *left_out)
        t.good(f"every {noun} that is needed")
        place = {letter: chosen.index(letter) for letter in lines}
        for rule in before:
            t.need(
                place[rule.first] < place[rule.then],
                rule.id,
                f"`{rule.then}` comes before `{rule.first}` in `{' '.join(chosen)}`.",
                rule.why,
                rule.do,
            )

    wrong = [
        Wrong(
            f"uses {letter}", f"distractor-{letter}", source=_answer(example + letter)
        )
        for letter in distractors
    ]
    short = next(letter for letter in reversed(example) if letter not in missed)
    shorter = {short: ("a line short", "line-missing")} | {
        letter: (f"leaves out {letter}", f"missed-{letter}") for letter in missed
    }
    for letter, (what, id) in shorter.items():
        wrong.append(Wrong(what, id, source=_answer(example.replace(letter, ""))))
    wrong.append(Wrong("a letter that is none", "unknown", source=_answer("?")))
    for rule in before:
        broken = _breaking(rule, before, example)
        wrong.append(
            Wrong(f"{rule.then} before {rule.first}", rule.id, source=_answer(broken))
        )
    right = [Right(f"order {other}", source=_answer(other)) for other in others]
    return _made(
        name, "order", check, wrong, right, hints, not_checked, notice,
        content=repr((lines, before, distractors)),
    )  # fmt: skip


def _breaking(rule: Before, before: list[Before], example: str) -> str:
    """An order that breaks ``rule`` and none of those that are looked at earlier."""
    earlier = before[: before.index(rule)]
    lines = list(example)
    for start in range(len(lines)):
        for end in range(len(lines)):
            moved = lines.copy()
            moved.insert(end, moved.pop(start))
            place = {letter: moved.index(letter) for letter in moved}
            if place[rule.first] > place[rule.then] and all(
                place[other.first] < place[other.then] for other in earlier
            ):
                return "".join(moved)
    raise ValueError(
        f"no single move breaks {rule.first} before {rule.then} alone: an earlier rule "
        "implies it, so its message can never be read"
    )


@dataclass(frozen=True)
class Guess:
    """What is said about guesses from ``low`` to ``high``, both included.

    A plausible guess counts, near or far: it was committed before the truth was
    known, and ``why`` says what it resembles. One that is not plausible (another
    unit, more than there are) is not told the truth, and may be given again.
    """

    low: float
    high: float
    id: str
    why: str
    do: str
    plausible: bool = True


def prediction(
    name: str,
    truth: Callable[[], float],
    tolerance: tuple[float, float],
    guesses: list[Guess],
    *,
    what: str,
    unit: str,
    hints: dict[str, list[str]],
    not_checked: str,
    notice: str = "",
    limit_s: float = 1.5,
) -> Exercise:
    """Commit to a number, then learn what is true and what the guess resembles.

    truth: computes the true value, in ``unit``, once and before the check's time
    begins. tolerance: the lowest and highest
    guess that pass, as multiples of the truth. guesses: what is said by range of the
    guess; they must cover all other numbers. what: what is predicted, as the
    sentence "... is 3.1 ms" begins.
    """

    known = functools.cache(truth)

    def check(t: Trial) -> None:
        try:
            guess = GIVES["number"][1](t.thing)
        except Exception:
            t.stop(
                "no-number",
                f"`{show(t.thing)}` is not a number.",
                "Only a number can turn out to be far away.",
                f"Give one number, in {unit}, without quotation marks.",
            )
        true = known()
        told = f"{what} is {true:,.4g} {unit}; you said {guess:,.6g}."
        low, high = tolerance
        if low * true <= guess <= high * true:
            t.good(told)
            return
        for said in guesses:
            if said.low <= guess <= said.high:
                if not said.plausible:
                    t.stop(said.id, f"You said {guess:,.6g}.", said.why, said.do)
                t.good("you committed to a number before you saw it")
                finding = Finding(said.id, told, said.why, said.do)
                raise Found(Status.DONE, finding)
        raise LookupError(f"no range of guesses covers {guess}")

    wrong = [
        Wrong(
            f"guesses {_inside(said):g}", said.id, source=f"guess = {_inside(said)!r}"
        )
        for said in guesses
    ]
    wrong.append(Wrong("a text", "no-number", source='guess = "a lot"'))
    made = _made(
        name, "prediction", check, wrong, [], hints, not_checked, notice,
        content=repr((tolerance, guesses)) + inspect.getsource(truth),
    )  # fmt: skip
    made.limit_s = limit_s
    made.prepare = known
    return made


def _inside(said: Guess) -> float:
    """A guess within a range whose ends may be infinite."""
    if said.low == float("-inf"):
        return (
            min(said.high, 0) - 1 if said.high <= 0 else said.high - abs(said.high) / 2
        )
    if said.high == float("inf"):
        return 2 * abs(said.low) + 1
    return (said.low + said.high) / 2


def words(
    name: str,
    question: str,
    model_answer: str,
    compare: list[str],
    *,
    hints: dict[str, list[str]],
) -> Exercise:
    """Explain in words. Not judged: it shows a model answer and three questions."""

    def check(t: Trial) -> None:
        text = t.thing.split()
        t.need(
            len(text) >= MIN_WORDS,
            "too-short",
            f"Words so far: {len(text)}.",
            "What stays in one's head has no gaps; written down, it shows them.",
            f"Write at least {MIN_WORDS} words, as to a colleague who was not there.",
        )
        said = {word.lower().strip(".,;:?") for word in text}
        asked = {word.lower().strip(".,;:?") for word in question.split()}
        t.need(
            len(said - asked) >= MIN_WORDS / 2,
            "only-the-question",
            f"Different words that are not in the question: {len(said - asked)}.",
            "Whoever reads it knows the question already.",
            "Say what happens, to whom, and what follows from it.",
        )
        t.good("you have written it down")
        t.notice = " ".join([f"One answer: {model_answer}", "Compare:", *compare])

    wrong = [
        Wrong("three words", "too-short", source=_answer("because it breaks")),
        Wrong(
            "says the question twice",
            "only-the-question",
            source=_answer((question + " ") * 3),
        ),
    ]
    filler = " ".join(f"reason{number}" for number in range(MIN_WORDS))
    return _made(
        name, "words", check, wrong, [Right("any words", source=_answer(filler))],
        hints, "Whether what you wrote is right. Nobody judges it but you.", "",
        content=repr((question, model_answer, compare)),
    )  # fmt: skip


def letters(t: Trial, known: dict, example: str = "") -> list[str]:
    """The letters of an answer such as "b d", "BD" or "b, d"; all must be known.

    example: what an answer looks like, if not like the first letter.
    """
    example = f"`{example}`" if example else f"`{show(next(iter(known)))}`"
    t.need(
        len(t.thing) <= 100,
        "unknown",
        f"Your answer has {len(t.thing):,} characters.",
        "",
        "Answer with letters from the list, such as `b`.",
    )
    upper = all(letter.isupper() for letter in known)
    text = t.thing.upper() if upper else t.thing.lower()
    chosen = [letter for letter in re.split(r"[\s,;>-]*", text) if letter]
    unknown = [letter for letter in chosen if letter not in known]
    t.need(
        chosen and not unknown,
        "unknown",
        f"`{show(t.thing)}` has no meaning here. The letters are "
        f"{_listed(sorted(known))}.",
        "",
        f"Answer with letters from the list, such as {example}.",
    )
    t.need(
        all(one != other for one, other in pairwise(sorted(chosen))),
        "twice",
        f"`{show(t.thing)}` names a letter twice.",
        "",
        "Name each letter once.",
    )
    return chosen


def _made(
    name: str,
    kind: str,
    check: Callable[[Trial], None],
    wrong: list[Wrong],
    also_right: list[Right],
    hints: dict[str, list[str]],
    not_checked: str,
    notice: str,
    content: str,
) -> Exercise:
    """The exercise, filed under the module that called this module."""
    frame = inspect.currentframe()
    while frame and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    chapter = frame.f_globals["__name__"] if frame else ""
    if kind in ("choice", "order"):
        wrong.append(Wrong("a letter twice", "twice", source=_twice(also_right)))
    return Exercise(
        name=name,
        kind=kind,
        check=check,
        hints=hints,
        not_checked=not_checked,
        chapter=chapter.rpartition(".")[2],
        source=content,
        notice=notice,
        wrong=wrong,
        also_right=also_right,
    )


def _twice(also_right: list[Right]) -> str:
    letter = also_right[0].source.split('"')[1][0] if also_right else "a"
    return _answer(letter * 2)


def _answer(text: str) -> str:
    return f'answer = "{text}"'


def _listed(chosen: list[str] | dict) -> str:
    return ", ".join(f"`{letter}`" for letter in chosen)
