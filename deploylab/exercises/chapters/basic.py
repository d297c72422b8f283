"""Checks for *Stop the old version first, and know what that costs*."""

from __future__ import annotations

import numbers
from math import prod
from typing import Any

from deploylab.exercises.engine import Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import (
    Before,
    Guess,
    Option,
    choice,
    order,
    prediction,
)


def _without_an_answer() -> float:
    """Requests that found nobody in two outages, and those that the version failed."""
    rate, stop_s, start_s, window_s, failing = 20, 10, 120, 60, 0.05
    return 2 * rate * (stop_s + start_s) + failing * rate * window_s


recreate_loss = prediction(
    "recreate_loss",
    truth=lambda: _without_an_answer(),
    tolerance=(0.9, 1.1),
    guesses=[
        Guess(
            float("-inf"), 1, "nobody",
            "Between the end of the one and the start of the other somebody comes.",
            "Begin with the seconds in which nobody answers.",
            plausible=False,
        ),
        Guess(
            1, 600, "errors-only",
            "That resembles what the bad version fails. Before it answers anybody, and "
            "after it, there is nobody at all.",
            "For the next prediction: draw a line in time, and mark who answers.",
        ),
        Guess(
            600, 1500, "window-only",
            "That resembles everything that comes in the window. The bad version fails "
            "a twentieth of it; before and after, there is nobody at all.",
            "For the next prediction: draw a line in time, and mark who answers.",
        ),
        Guess(
            1500, 3400, "one-outage",
            "That resembles one outage. The old version was stopped, so the way back "
            "is a deployment too.",
            "For the next prediction: go through the way back step by step.",
        ),
        Guess(
            3400, 4734, "not-twice",
            "That is more than one outage, and less than two. Each lasts from the stop "
            "of one version until the other is ready.",
            "For the next prediction: write down both outages, in seconds.",
        ),
        Guess(
            5786, 6700, "all-of-it",
            "That is more like everything that comes until the old version is back. In "
            "its window the bad version still answers most requests.",
            "For the next prediction: of the requests that a version gets, how many "
            "does it fail?",
        ),
        Guess(
            6700, float("inf"), "too-many",
            "In the whole release, there and back, fewer requests arrive than that.",
            "For the next prediction: the seconds from the first step to the last, "
            "times the rate, are the most that there can be.",
        ),
    ],
    what="the number of requests without a proper answer",
    unit="requests",
    hints={
        "*": [
            "In which stretches of time does nobody answer, and how long is each?",
            "Rate times (stop and start), as often as one version takes the place of "
            "another; then the errors of one window.",
        ],
    },
    not_checked="How you came to your number.",
    notice="Two outages of 2,600 requests each, and 60 errors: nearly all of it is the "
    "deployment's, not the version's. What shortens the start shortens every outage.",
)  # fmt: skip


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9


def _chance(t: Trial, chances: list[float]) -> float:
    """What the student's function gives, and that it is a chance."""
    value = t.call(chances, gives="number")
    right = 1 - prod(1 - chance for chance in chances)
    t.need(
        not (_near(value, 100 * right) and right > 0),
        "percent",
        f"{t.said}.",
        "Whoever multiplies it by a number of releases gets a hundred times too many.",
        "Return a chance, from 0 to 1.",
    )
    return value


def _is_right(t: Trial, value: float, chances: list[float]) -> None:
    right = 1 - prod(1 - chance for chance in chances)
    t.need(
        _near(value, right),
        "differs",
        f"{t.said}; it is {right:.9g}.",
        "",
        "Work this case out by hand: when is none of them bad?",
    )


@exercise(
    hints={
        "*": [
            "In how many ways can at least one be bad, and in how many can none?",
            "None is bad if the first is good, and the second is good, and so on. "
            "Chances of independent events that all happen multiply.",
            "1 the chance that each is good; 2 their product; 3 the opposite of it.",
        ],
        "empty": ["What is the product of no numbers at all?"],
        "all-the-same": ["Which numbers of the list does your function look at?"],
    },
    not_checked="Whether your changes are independent. One mistake in a library that "
    "all share is bad everywhere at once.",
    notice="The opposite of *at least one* is *none*, and for that one the chances "
    "multiply.",
    wrong=[
        Wrong(
            "adds the chances",
            "adds",
            source="""
            def any_bad(chances):
                return sum(chances)
            """,
        ),
        Wrong(
            "adds, and stops at 1",
            "adds",
            source="""
            def any_bad(chances):
                return min(1, sum(chances))
            """,
        ),
        Wrong(
            "the worst one",
            "worst-only",
            source="""
            def any_bad(chances):
                return max(chances, default=0)
            """,
        ),
        Wrong(
            "all of them",
            "all-bad",
            source="""
            def any_bad(chances):
                return float(np.prod(chances)) if chances else 0.0
            """,
        ),
        Wrong(
            "none of them",
            "none-bad",
            patch=(("return 1 - none_is_bad", "return none_is_bad"),),
        ),
        Wrong(
            "all but one is bad as well",
            "opposite-of-all",
            patch=(("*= 1 - chance", "*= chance"),),
        ),
        Wrong(
            "the mean, as often as there are services",
            "all-the-same",
            source="""
            def any_bad(chances):
                if not chances:
                    return 0.0
                return 1 - (1 - sum(chances) / len(chances)) ** len(chances)
            """,
        ),
        Wrong(
            "the first, as often as there are services",
            "all-the-same",
            source="""
            def any_bad(chances):
                return 1 - (1 - chances[0]) ** len(chances) if chances else 0.0
            """,
        ),
        Wrong(
            "percent",
            "percent",
            patch=(("return 1 - none_is_bad", "return 100 - 100 * none_is_bad"),),
        ),
        Wrong(
            "the first of an empty list",
            "crash",
            source="""
            def any_bad(chances):
                none = 1 - chances[0]
                for chance in chances[1:]:
                    none *= 1 - chance
                return 1 - none
            """,
        ),
        Wrong(
            "nothing changed is bad for sure",
            "empty",
            source="""
            def any_bad(chances):
                if not chances:
                    return 1.0
                return 1 - float(np.prod([1 - c for c in chances]))
            """,
        ),
        Wrong(
            "the last is left out",
            "differs",
            patch=(("in chances:", "in chances[: max(3, len(chances) - 1)]:"),),
        ),
        Wrong(
            "rounded",
            "differs",
            patch=(("return 1 - none_is_bad", "return round(1 - none_is_bad, 3)"),),
        ),
        Wrong(
            "drawn",
            "differs",
            source="""
            def any_bad(chances):
                rng = np.random.default_rng(3)
                drawn = rng.random((20_000, len(chances)))
                return float((drawn < np.array(chances)).any(axis=1).mean())
            """,
        ),
    ],
    also_right=[
        Right(
            "one after the other",
            source="""
            def any_bad(chances):
                so_far = 0.0
                for chance in chances:
                    so_far += (1 - so_far) * chance
                return so_far
            """,
        ),
        Right(
            "with numpy",
            source="""
            def any_bad(chances):
                return 1 - np.prod(1 - np.asarray(chances, float))
            """,
        ),
        Right(
            "the package's own",
            source="""
            def any_bad(chances):
                return predict.any_bad(chances)
            """,
        ),
    ],
)
def any_bad(t: Trial) -> None:
    """The chance that at least one of several changes is bad."""
    chances = [0.1, 0.3]
    value = _chance(t, chances)
    t.need(
        not _near(value, 0.4),
        "adds",
        f"{t.said}, the sum.",
        "Two bad changes in one release are counted as two releases, and ten chances "
        "of 0.2 would be more than sure.",
        "Count the releases in which none is bad.",
    )
    t.need(
        not _near(value, 0.3),
        "worst-only",
        f"{t.said}, the larger of the two.",
        "The other change can be bad as well, while this one is good.",
        "Both have to be good for the release to be.",
    )
    t.need(
        not _near(value, 0.03),
        "all-bad",
        f"{t.said}: so often both are bad.",
        "One bad change is enough to bring the system down.",
        "What is the opposite of *at least one*?",
    )
    t.need(
        not _near(value, 0.63),
        "none-bad",
        f"{t.said}: so often both are good.",
        "",
        "The question is how often that is not so.",
    )
    t.need(
        not _near(value, 0.97),
        "opposite-of-all",
        f"{t.said}: so often they are not both bad.",
        "A release in which one of two is bad counts as a good one there.",
        "The product to take is that of the chances of *good*.",
    )
    t.need(
        not (_near(value, 1 - 0.8**2) or _near(value, 1 - 0.9**2)),
        "all-the-same",
        f"{t.said}, as if both had the same chance.",
        "A risky change among safe ones decides, and a mean hides it.",
        "Let each chance of the list count as itself.",
    )
    _is_right(t, value, chances)
    t.good("two services with different chances")
    value = _chance(t, [])
    t.need(
        _near(value, 0),
        "empty",
        f"{t.said}.",
        "A report on a week without a release would raise an alarm.",
        "If nothing is changed, how often is none of it bad?",
    )
    for chances in ([0.03], [0.0, 0.0, 0.0], [0.2, 1.0, 0.1], [0.5] * 4, [0.01] * 20):
        _is_right(t, _chance(t, chances), chances)
    t.good("none, one, and many")
    for _ in range(20):
        drawn = t.rng.uniform(0, 0.5, int(t.rng.integers(1, 12)))
        chances = [float(chance) for chance in drawn.round(3)]
        _is_right(t, _chance(t, chances), chances)


services_order = order(
    "services_order",
    {
        "L": "Before anything is switched: write down which versions serve now.",
        "G": "Start the instances of all three new versions, and wait.",
        "B": "Switch `model` to its new version.",
        "I": "Switch `filter` to its new version.",
        "D": "Switch `web` to its new version.",
        "H": "Watch the errors of `web`.",
        "K": "Switch `web` back to its old version.",
        "A": "Switch `filter` back to its old version.",
        "E": "Switch `model` back to its old version.",
        "C": "Stop the instances of the three new versions.",
    },
    [
        Before(
            "G", "B", "switched-to-nobody",
            "Before the new instances are ready there is nobody to answer.",
            "Ask what has to run before traffic can come.",
        ),
        Before(
            "L", "B", "way-back-unknown",
            "After the first switch *the versions that serve now* are others.",
            "Ask what you need to know before the first step that users feel.",
        ),
        Before(
            "B", "I", "filter-before-model",
            "The new `filter` then calls the old `model`, which refuses its requests.",
            "Ask who understands whom: a new callee takes both kinds of requests.",
        ),
        Before(
            "I", "D", "web-before-filter",
            "The new `web` then calls the old `filter`, which refuses its requests.",
            "Ask who understands whom: a new callee takes both kinds of requests.",
        ),
        Before(
            "D", "H", "watched-too-early",
            "The new `web` has no traffic yet, so it cannot have errors.",
            "Ask what the watching is to look at.",
        ),
        Before(
            "H", "K", "back-without-reason",
            "Nothing has been seen yet that speaks against the release.",
            "Ask how one comes to know that it is bad.",
        ),
        Before(
            "K", "A", "filter-back-first",
            "The new `web` then still calls, and the old `filter` refuses its "
            "requests.",
            "On the way back, ask again who understands whom.",
        ),
        Before(
            "A", "E", "model-back-first",
            "The new `filter` then still calls, and the old `model` refuses its "
            "requests.",
            "On the way back, ask again who understands whom.",
        ),
        Before(
            "E", "C", "stopped-in-use",
            "A version that still has traffic would be stopped, and that is an outage.",
            "Ask who still sends requests to it.",
        ),
    ],
    distractors={
        "F": "Then there is nothing left to switch back to, and the way back is a "
        "deployment.",
        "J": "They still run. If they needed a start, the way back would take as long "
        "as a deployment.",
    },
    example="LGBIDHKAEC",
    others=["GLBIDHKAEC"],
    hints={
        "*": [
            "A new caller with an old callee is the one pair that does not work. When "
            "could it come about?",
            "Forward: the one that is called goes first. Back: the one that calls.",
            "1 make ready, 2 three switches forward, 3 watch, 4 three switches back, "
            "5 tidy up.",
        ],
    },
    not_checked="How long each switch takes, and requests that are under way while it "
    "happens.",
    notice="The way back is the way there, read from the end. Nothing was started on "
    "it, and no pair ever met that cannot talk to each other.",
)  # fmt: skip

#: The pauses after the first, second and third try, in seconds.
PAUSES_S = {1: 0.5, 2: 1.0, 3: 2.0}
PERHAPS_DONE = (0, 500, 502, 503, 504)
LATER = (408, 425, 429)
ROUTER = {"X-Error-From": "router"}


def _right_pause(
    status: int, headers: dict[str, str], tries: int, idempotent: bool
) -> float | None:
    """What the rule of the statement gives."""
    not_seen = status == 503 and headers.get("X-Error-From") == "router"
    again = not_seen or status in LATER or (status in PERHAPS_DONE and idempotent)
    if not again or tries not in PAUSES_S:
        return None
    return max(PAUSES_S[tries], float(headers.get("Retry-After", 0)))


def _pause(
    t: Trial, status: int, headers: dict[str, str], tries: int, idempotent: bool
) -> float | None:
    """What the student's rule gives: a number of seconds, or None."""
    value: Any = t.call(status, dict(headers), tries, idempotent)
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    t.need(
        value is None or number,
        "not-a-pause",
        f"`{show(value)}` is neither a number nor `None`, for status {status} after "
        f"try {tries}.",
        "Whoever calls it would have to guess how long to wait.",
        "Return the seconds, or `None` if it is not sent again.",
    )
    return None if value is None else float(value)


@exercise(
    hints={
        "*": [
            "Two questions: may it be sent again, and has it been sent often enough?",
            "For the first, ask whether somebody may already have done what the "
            "request asks for.",
            "1 four tries are enough; 2 nobody has seen it, or *later*: again; "
            "3 perhaps done: again if that does no harm; 4 all else is an answer; "
            "5 the longer of two pauses.",
        ],
        "pauses": ["What is 0.5 times 2 to the power of 0, of 1, of 2?"],
        "twice": ["Which statuses leave open whether it was carried out?"],
        "not-the-router": ["Who besides the router can say 503?"],
        "too-soon": ["Two numbers of seconds; which of them counts?"],
        "added": ["Who waits for the longer of two times has waited for both."],
    },
    not_checked="Chance in the pauses, a deadline, a `Retry-After` that is a date, and "
    "whether your client says honestly that a request is idempotent.",
    notice="Not *has it failed?* decides about another try, but *can it have been "
    "done?*.",
    wrong=[
        Wrong(
            "again whatever it asks for",
            "twice",
            patch=(("(perhaps_done and idempotent)", "perhaps_done"),),
        ),
        Wrong(
            "no answer is as good as nobody",
            "twice",
            patch=(("later or (", "later or status == 0 or ("),),
        ),
        Wrong(
            "whatever the router says",
            "twice",
            patch=(("status == 503 and from_router", "from_router"),),
        ),
        Wrong(
            "503, whoever says it",
            "not-the-router",
            patch=(("status == 503 and from_router", "status == 503"),),
        ),
        Wrong(
            "whoever has a name",
            "not-the-router",
            patch=(('headers.get("X-Error-From") == "router"', "len(headers) > 0"),),
        ),
        Wrong(
            "never what is not idempotent",
            "never-seen",
            patch=(
                (
                    "not_seen or later or (perhaps_done and idempotent)",
                    "(not_seen or later or perhaps_done) and idempotent",
                ),
            ),
        ),
        Wrong(
            "later is an answer",
            "later",
            patch=(("not_seen or later or", "not_seen or"),),
        ),
        Wrong(
            "too many requests is an answer",
            "later",
            patch=(("(408, 425, 429)", "(408, 425)"),),
        ),
        Wrong(
            "later only for what is idempotent",
            "later",
            patch=(
                (
                    "later or (perhaps_done and idempotent)",
                    "((later or perhaps_done) and idempotent)",
                ),
            ),
        ),
        Wrong(
            "its own pause, whatever was asked",
            "too-soon",
            patch=(
                (
                    'max(pause_s, float(headers.get("Retry-After", 0)))',
                    "pause_s",
                ),
            ),
        ),
        Wrong(
            "the pause that was asked, and no longer one",
            "too-soon",
            patch=(
                (
                    'max(pause_s, float(headers.get("Retry-After", 0)))',
                    'float(headers.get("Retry-After", pause_s))',
                ),
            ),
        ),
        Wrong(
            "one pause after the other",
            "added",
            patch=(
                (
                    'max(pause_s, float(headers.get("Retry-After", 0)))',
                    'pause_s + float(headers.get("Retry-After", 0))',
                ),
            ),
        ),
        Wrong(
            "a text as a number",
            "crash",
            patch=(
                (
                    'float(headers.get("Retry-After", 0))',
                    'headers.get("Retry-After", 0)',
                ),
            ),
        ),
        Wrong(
            "refusals too",
            "refused",
            patch=(("(0, 500, 502, 503, 504)", "(0, 422, 500, 502, 503, 504)"),),
        ),
        Wrong(
            "whatever is idempotent",
            "answered",
            patch=(("(perhaps_done and idempotent)", "idempotent"),),
        ),
        Wrong(
            "silence is an answer",
            "gives-up",
            patch=(("(0, 500, 502, 503, 504)", "(500, 502, 503, 504)"),),
        ),
        Wrong(
            "nothing but the router's 503",
            "gives-up",
            patch=(("(0, 500, 502, 503, 504)", "()"),),
        ),
        Wrong("without end", "endless", patch=(("tries >= 4", "tries >= 400"),)),
        Wrong("five tries", "endless", patch=(("tries >= 4", "tries > 4"),)),
        Wrong("three tries", "too-few", patch=(("tries >= 4", "tries >= 3"),)),
        Wrong("the same pause", "pauses", patch=((" * 2 ** (tries - 1)", ""),)),
        Wrong("doubled too early", "pauses", patch=(("(tries - 1)", "tries"),)),
        Wrong(
            "grows by steps",
            "pauses",
            patch=(("0.5 * 2 ** (tries - 1)", "0.5 * tries"),),
        ),
        Wrong("at once", "at-once", patch=(("0.5 * 2 ** (tries - 1)", "0"),)),
        Wrong(
            "says yes instead of a pause",
            "not-a-pause",
            source="""
            def next_pause_s(status, headers, tries, idempotent):
                return tries < 4 and (status == 503 or idempotent)
            """,
        ),
        Wrong(
            "all errors of the server",
            "differs",
            patch=(
                ("status in (0, 500, 502, 503, 504)", "status == 0 or status >= 500"),
            ),
        ),
    ],
    also_right=[
        Right(
            "a table of pauses",
            source="""
            def next_pause_s(status, headers, tries, idempotent):
                pause_s = {1: 0.5, 2: 1, 3: 2}.get(tries)
                if pause_s and "Retry-After" in headers:
                    pause_s = max(pause_s, int(headers["Retry-After"]))
                if status in {408, 425, 429}:
                    return pause_s
                if status == 503 and headers.get("X-Error-From") == "router":
                    return pause_s
                if idempotent and status in {0, 500, 502, 503, 504}:
                    return pause_s
            """,
        ),
        Right(
            "what ends it first",
            source="""
            def next_pause_s(status, headers, tries, idempotent):
                may = {408, 425, 429}
                if headers.get("X-Error-From") == "router":
                    may |= {503}
                if idempotent:
                    may |= {0, 500, 502, 503, 504}
                if status not in may or tries > 3:
                    return None
                asked = float(headers.get("Retry-After", "0"))
                return np.float64(max((0.5, 1.0, 2.0)[tries - 1], asked))
            """,
        ),
    ],
)
def safe_retry(t: Trial) -> None:
    """When a client sends a request again, and after which pause."""
    pause = _pause(t, 503, ROUTER, 1, True)
    t.need(
        pause != 0,
        "at-once",
        f"{t.said}.",
        "In an outage the next moment is as empty as this one, and a server that comes "
        "back meets all its clients at once.",
        "Wait before the next try, and longer before each further one.",
    )
    for tries, right in PAUSES_S.items():
        pause = _pause(t, 503, ROUTER, tries, True)
        t.need(
            pause is not None,
            "too-few",
            f"{t.said}, after try {tries} of 4.",
            "An outage of two seconds becomes an error that the user sees.",
            "Four tries are allowed, and the router says that nobody was there.",
        )
        t.need(
            abs(pause - right) < 1e-9,
            "pauses",
            f"{t.said}; the pause after try {tries} is {right:g} s.",
            "Short pauses for ever load a server that is coming back; long ones at the "
            "beginning make everybody wait.",
            "Write down the three pauses, and how each follows from `tries`.",
        )
    t.good("pauses that double")
    for tries in (4, 5, 40):
        pause = _pause(t, 503, ROUTER, tries, True)
        t.need(
            pause is None,
            "endless",
            f"{t.said}, after try {tries}.",
            "Clients that never give up keep a service down that could come back.",
            "After the fourth try it is over.",
        )
    t.good("an end")
    t.need(
        _pause(t, 503, ROUTER, 1, False) is not None,
        "never-seen",
        f"{t.said}, and no instance has seen this request.",
        "A payment that nobody has heard of may be sent again; otherwise it is lost.",
        "Ask who can have carried it out.",
    )
    for status in (0, 500, 502, 504):
        for headers in ({}, *([ROUTER] if status in (502, 504) else [])):
            t.need(
                _pause(t, status, headers, 1, False) is None,
                "twice",
                f"{t.said}.",
                "It may have been carried out, and then it is done twice: two "
                "payments, two letters.",
                "Such a request may be sent again only if nobody can have done it.",
            )
    for headers in ({}, {"X-Error-From": "proxy"}):
        t.need(
            _pause(t, 503, headers, 1, False) is None,
            "not-the-router",
            f"{t.said}, and it is not our router that says so.",
            "A server may have begun before it said 503, and then it is done twice.",
            "Look at who gave the answer, and not at its status alone.",
        )
    for status in PERHAPS_DONE:
        t.need(
            _pause(t, status, {}, 1, True) is not None,
            "gives-up",
            f"{t.said}.",
            "Doing it twice does no harm, so another try costs nothing but time.",
            "Which statuses leave open whether it was carried out?",
        )
    t.good("nothing is done twice that must not be")
    for status in LATER:
        for idempotent in (True, False):
            t.need(
                _pause(t, status, {}, 1, idempotent) is not None,
                "later",
                f"{t.said}.",
                "It was put off, and nobody has done it: given up, it is lost.",
                "Which statuses mean *later*, and for which requests?",
            )
    for asked_s, tries in ((3, 1), (30, 3), (1, 3)):
        pause = _pause(t, 429, {"Retry-After": str(asked_s)}, tries, False)
        least_s = max(asked_s, PAUSES_S[tries])
        t.need(
            pause is not None and pause >= least_s,
            "too-soon",
            f"{t.said}; {asked_s} s were asked for, and the pause after try {tries} is "
            f"{PAUSES_S[tries]:g} s.",
            "Who comes back too soon is refused again, and keeps the server busy with "
            "refusing.",
            "Take the longer of the two.",
        )
        t.need(
            pause != asked_s + PAUSES_S[tries],
            "added",
            f"{t.said}, the sum of two pauses; the longer of them is {least_s:g} s.",
            "The user waits for both, and one of them says nothing new.",
            "Take the longer of the two.",
        )
    t.good("later, and not before it was asked")
    for status in (422, 400, 404, 413):
        pause = _pause(t, status, {}, 1, True)
        t.need(
            pause is None or _pause(t, 200, {}, 1, True) is not None,
            "refused",
            f"Status {status} after the first try gave a pause of {pause} s.",
            "The same request is refused again, for the same reason.",
            "A refusal is an answer.",
        )
    t.need(
        _pause(t, 200, {}, 1, True) is None,
        "answered",
        f"{t.said}.",
        "It has been answered, and the answer is thrown away.",
        "Ask first whether there is anything left to wish for.",
    )
    said = ({}, ROUTER, {"Retry-After": "5"}, ROUTER | {"Retry-After": "1"})
    statuses = (0, 200, 201, 301, 400, 407, 408, 409, 422, 424, 425, 426, 428, 429)
    for status in (*statuses, 430, *range(499, 506), 599):
        for headers in said if status else said[:1]:  # no answer has no headers
            for tries in (1, 2, 3, 4, 6):
                for idempotent in (False, True):
                    pause = _pause(t, status, headers, tries, idempotent)
                    right = _right_pause(status, headers, tries, idempotent)
                    t.need(
                        pause == right,
                        "differs",
                        f"{t.said}; the rule gives `{right}`.",
                        "",
                        "Go through the statement with this status, these headers and "
                        "this try.",
                    )
    t.good("the rule, for every status")


recreate_right = choice(
    "recreate_right",
    {
        "a": Option(True, "the queue keeps the jobs, and nobody waits for an answer"),
        "b": Option(
            True, "there is no room for two, and the outage is where nobody comes"
        ),
        "c": Option(
            False,
            "If it does not start, the outage lasts until somebody has brought the old "
            "version back.",
            "Look for a way in which the old version stays until the new one is ready.",
        ),
        "d": Option(
            False,
            "There is room to start first and stop afterwards, and then no request is "
            "lost.",
            "Ask what the outage would buy here.",
        ),
        "e": Option(True, "the two cannot share the file, and the pause is expected"),
        "f": Option(
            False,
            "Back means: stop it, start the old one, and nobody answers meanwhile.",
            "Ask how long the way back takes, and who answers on it.",
        ),
    },
    hints={
        "*": [
            "For each: who is waiting for an answer while nobody is there?",
            "It is right where nobody waits, or where the two cannot be there at once.",
        ],
    },
    not_checked="What an outage costs in your own case. That is a number, and the page "
    "has the formula.",
    notice="The question is never whether a recreate is crude. It is what the outage "
    "costs, and what it saves.",
)
