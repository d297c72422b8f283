"""Checks for *Why deploying is hard*."""

import numpy as np

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Option, choice, words

HOURS = 365.25 * 24


@exercise(
    hints={
        "*": [
            "Begin with one part: when is it down, if it has several copies?",
            "A part with copies is down only while all its copies are down. "
            "Independent chances multiply.",
            "1 share of time that all copies are down, 2 share that the part works, "
            "3 share that all parts work, 4 the rest, in hours.",
        ],
        "copies-ignored": ["Where does `copies` stand in your formula?"],
        "copies-add-up": ["Two coins: how often do both show heads?"],
        "copies-as-parts": [
            "A part with three copies: does it need all three, or one of them?",
            "The chance that *all* of several things happen is a product. Which of "
            "the two is it here: that all copies work, or that all are down?",
        ],
        "root": [
            "Take two coins, then three. Does the chance that all show heads rise or "
            "fall, and by what operation?",
        ],
        "whole-twinned": [
            "Draw two parts with a twin each. Which pairs of failures stop the whole?",
            "First make one number for a part and its copies together; then make a "
            "chain of such numbers.",
        ],
        "all-must-fail": [
            "The chain needs all parts. How many must be down to stop it?"
        ],
        "rounded": ["Who should round: the function, or whoever prints its result?"],
        "other-unit": ["How many of your units has a year, and how many hours?"],
        "parts-added": [
            "With 2,000 such parts, adding gives more hours than a year has. What "
            "would be true instead?"
        ],
    },
    not_checked="Whether parts fail independently. They often do not, and then the "
    "copies help less than this function says.",
    notice="The formula is short; the word *independently* carries all of its weight.",
    wrong=[
        Wrong(
            "forgets the copies",
            "copies-ignored",
            patch=(("(1 - each) ** copies", "(1 - each)"),),
        ),
        Wrong(
            "halves instead of multiplying",
            "copies-add-up",
            patch=(("(1 - each) ** copies", "(1 - each) / copies"),),
        ),
        Wrong(
            "adds the parts' hours",
            "parts-added",
            patch=(("1 - works**parts", "parts * (1 - works)"),),
        ),
        Wrong(
            "gives the share that works",
            "share-not-hours",
            patch=(("(1 - works**parts) * 8766", "works**parts"),),
        ),
        Wrong(
            "gives the hours that it works",
            "works-not-down",
            patch=(("(1 - works**parts) * 8766", "works**parts * 8766"),),
        ),
        Wrong(
            "takes one copy as none",
            "one-copy",
            patch=(("** copies", "** (copies + 1)"),),
        ),
        Wrong(
            "gives percent",
            "share-not-hours",
            patch=(("* 8766", "* 100"),),
        ),
        Wrong("gives days", "other-unit", patch=(("* 8766", "* 365.25"),)),
        Wrong("gives minutes", "other-unit", patch=(("* 8766", "* 8766 * 60"),)),
        Wrong(
            "down when all parts are",
            "all-must-fail",
            patch=(("(1 - works**parts)", "(1 - works) ** parts"),),
        ),
        Wrong(
            "more copies, more to go wrong",
            "copies-as-parts",
            patch=(("1 - (1 - each) ** copies", "each**copies"),),
        ),
        Wrong(
            "one power of parts and copies",
            "copies-as-parts",
            patch=(("works**parts", "each ** (parts * copies)"),),
        ),
        Wrong(
            "a power of parts by copies",
            "root",
            patch=(("works**parts", "each ** (parts / copies)"),),
        ),
        Wrong(
            "doubles the whole chain",
            "whole-twinned",
            patch=(("(1 - works**parts)", "(1 - each**parts) ** copies"),),
        ),
        Wrong(
            "rounds to a tenth of an hour",
            "rounded",
            source="""
            def hours_down(parts, each, copies=1):
                works = 1 - (1 - each) ** copies
                return round((1 - works**parts) * 8766, 1)
            """,
        ),
        Wrong(
            "rounds to hours",
            "rounded",
            source="""
            def hours_down(parts, each, copies=1):
                works = 1 - (1 - each) ** copies
                return round((1 - works**parts) * 8766)
            """,
        ),
        Wrong(
            "rounds the share",
            "rounded",
            source="""
            def hours_down(parts, each, copies=1):
                works = 1 - (1 - each) ** copies
                return round(1 - works**parts, 5) * 8766
            """,
        ),
        Wrong("a year of 360 days", "off", patch=(("8766", "360 * 24"),)),
        Wrong(
            "one copy of three is enough, two are forgotten",
            "off",
            patch=(("** copies", "** min(copies, 2)"),),
        ),
    ],
    also_right=[
        Right(
            "a year of 365 days, in a loop",
            source="""
            def hours_down(parts, each, copies=1):
                up = 1.0
                for _ in range(parts):
                    down = 1.0
                    for _ in range(copies):
                        down *= 1 - each
                    up *= 1 - down
                return (1 - up) * 365 * 24
            """,
        ),
    ],
    equivalent={
        "return (1 - works ** parts) * 8767": "a year is 8,760 to 8,784 hours long; "
        "any length in that range passes",
    },
)
def hours_down(t: Trial) -> None:
    """Hours a year that a chain of replicated parts is down."""

    value = t.call(1, 0.5, gives="number")
    t.need(
        not 0 <= value <= 1 and value != 50,
        "share-not-hours",
        f"{t.said}, and a year has 8,766 hours.",
        "A share of 0.001 sounds small; 9 hours do not.",
        "Turn the share into hours.",
    )
    t.need(
        not near_hours(value, 0.5 / 24) and not near_hours(value, 0.5 * 60),
        "other-unit",
        f"{t.said}. Half a year is 4,383 hours.",
        "An alert that compares days with hours never rings, or always.",
        "Look at the number that you multiply the share with.",
    )
    t.need(
        value > 0.4 * HOURS,
        "one-copy",
        f"{t.said}. One part that works half of the time is down for half a year.",
        "A part without a second copy is the usual case.",
        "With `copies=1`, the part alone decides.",
    )
    value = t.call(1, 0.9, gives="number")
    t.need(
        value < 0.5 * HOURS,
        "works-not-down",
        f"{t.said}. A part that works 90 % of the time is down for 10 % of it.",
        "Whoever reads the number plans for it.",
        "Ask which of the two shares you have computed.",
    )
    value = t.call(2, 0.5, gives="number")
    t.need(
        not near_hours(value, 0.25),
        "all-must-fail",
        f"{t.said}, the time that both parts are down.",
        "One broken part is enough to stop a chain that needs them all.",
        "Work out first how often all parts work.",
    )
    t.need(
        value < 0.9 * HOURS,
        "parts-added",
        f"{t.said}. Two parts that work half of the time: a quarter of the year "
        "remains in which both work.",
        "Sums of shares pass 100 % sooner or later, and no service is down for longer "
        "than always.",
        "Work out first how often all parts work.",
    )
    as_expected(t, value, 2, 0.5, 1)
    t.good("a chain of parts without copies")
    value = t.call(1, 0.5, copies=3, gives="number")
    t.need(
        not near_hours(value, 0.5),
        "copies-ignored",
        f"{t.said}, as much as without copies.",
        "Copies are what one pays for to be down less.",
        "Use `copies`: the part fails only when all of them do.",
    )
    t.need(
        not near_hours(value, 0.5 / 3),
        "copies-add-up",
        f"{t.said}: a third of the time without copies.",
        "Three independent copies that fail half of the time fail together far less "
        "often than a third of that.",
        "Ask how often three coins show heads together.",
    )
    t.need(
        not near_hours(value, 1 - 0.5**3),
        "copies-as-parts",
        f"{t.said}, more than the 4,383 hours of a part without copies.",
        "Your formula needs all three copies at once; here one of them is enough.",
        "Ask what has to happen before a part with three copies is down.",
    )
    t.need(
        not near_hours(value, 1 - 0.5 ** (1 / 3)),
        "root",
        f"{t.said}. By hand: all three copies are down for an eighth of the year, "
        "about 1,096 hours.",
        "A copy helps by far more than a share of a part.",
        "Work out first how often all copies of one part are down.",
    )
    as_expected(t, value, 1, 0.5, 3)
    t.good("one part with copies")
    value = t.call(2, 0.5, copies=2, gives="number")
    t.need(
        not near_hours(value, 0.75**2),
        "whole-twinned",
        f"{t.said}. That is the whole chain twice, which stops as soon as one part in "
        "each chain is down.",
        "With a twin for each part, a part of one chain stands in for the other's.",
        "Give each part its copies first, then make the chain of them.",
    )
    as_expected(t, value, 2, 0.5, 2)
    t.good("two parts with a twin each")
    as_expected(t, t.call(7, 0.999, copies=2, gives="number"), 7, 0.999, 2)
    for _ in range(8):
        parts, copies = int(t.rng.integers(1, 30)), int(t.rng.integers(1, 4))
        each = float(t.rng.choice([0.5, 0.9, 0.99, 0.999]))
        value = t.call(parts, each, copies=copies, gives="number")
        as_expected(t, value, parts, each, copies)
    t.good("any number of parts and copies")


def near_hours(value: float, share: float) -> bool:
    """Whether hours are this share of a year, which may have 365 to 366 days."""
    return 0.9985 * share * HOURS <= value <= 1.0025 * share * HOURS


def as_expected(t: Trial, value: float, parts: int, each: float, copies: int) -> None:
    """The hours must be those of this chain, which is worked out part by part."""
    down = 1.0
    for _ in range(copies):
        down *= 1 - each
    up = 1.0
    for _ in range(parts):
        up *= 1 - down
    expected = (1 - up) * HOURS
    if near_hours(value, 1 - up):
        return
    rounded = [
        number
        for year in (HOURS, 365 * 24)
        for places in range(7)
        for number in (round((1 - up) * year, places), round(1 - up, places) * year)
    ]
    t.need(
        all(abs(value - number) > 1e-9 for number in rounded),
        "rounded",
        f"{t.said}; without rounding it is {expected:.4g} hours.",
        "Where parts are good, what is rounded away is all that there is.",
        "Return the number as it is, and round where you print it.",
    )
    t.stop(
        "off",
        f"{t.said}; about {expected:,.4g} hours are expected.",
        "",
        f"Write down how often one part with copies={copies} is down, then how often "
        f"parts={parts} such parts all work.",
    )


@exercise(
    hints={
        "*": [
            "Write the standard error of one share first, then that of the distance "
            "between a threshold and each share.",
            "The threshold has to lie `z` standard errors above the lower share and "
            "`z` standard errors below the higher one. So the gap is `z` times the sum "
            "of both standard errors.",
            "1 spread of one answer for each share, 2 add the two, 3 how many times "
            "the gap, 4 square, 5 round up.",
        ],
        "midpoint": [
            "Which of the two shares has the smaller standard error, and which could "
            "do with less room?",
            "Call the threshold `c`. There are two conditions, one for each share. Add "
            "them up, and `c` is gone.",
        ],
        "one-side": ["On which side of the threshold has each share to stay?"],
        "not-squared": ["How many more requests halve a standard error?"],
        "variances-added": [
            "Two standard errors that have to fit side by side into the gap: do you "
            "add them before or after the square root?"
        ],
        "not-whole": ["What would you tell a colleague who asks for 12.3 requests?"],
    },
    not_checked="Whether requests are independent of each other, and whether the "
    "normal approximation holds for shares very near 0 or 1.",
    notice="The gap stands in the square: half the gap needs four times the requests.",
    wrong=[
        Wrong(
            "one standard error for both",
            "one-side",
            patch=((" + np.sqrt(q * (1 - q))", ""),),
        ),
        Wrong(
            "adds variances",
            "variances-added",
            patch=(
                (
                    "np.sqrt(p * (1 - p)) + np.sqrt(q * (1 - q))",
                    "np.sqrt(p * (1 - p) + q * (1 - q))",
                ),
            ),
        ),
        Wrong(
            "the threshold in the middle, for the larger standard error",
            "midpoint",
            source="""
            def requests_needed(p, q, z=3.09):
                widest = max(p * (1 - p), q * (1 - q))
                return np.ceil(widest * (z / ((p - q) / 2)) ** 2)
            """,
        ),
        Wrong(
            "the threshold in the middle, with the mean share's standard error",
            "midpoint",
            source="""
            def requests_needed(p, q, z=3.09):
                mean = (p + q) / 2
                return np.ceil(mean * (1 - mean) * (2 * z / (p - q)) ** 2)
            """,
        ),
        Wrong(
            "the threshold in the middle, with the mean variance",
            "midpoint",
            source="""
            def requests_needed(p, q, z=3.09):
                mean = (p * (1 - p) + q * (1 - q)) / 2
                return np.ceil(mean * (2 * z / (p - q)) ** 2 - 1e-9)
            """,
        ),
        Wrong("forgets the square", "not-squared", patch=((" ** 2", ""),)),
        Wrong("keeps the fraction", "not-whole", patch=(("np.ceil(", "("),)),
        Wrong("rounds down", "rounds-down", patch=(("np.ceil(", "np.floor("),)),
        Wrong("always 3.09", "z-ignored", patch=(("(z * spread", "(3.09 * spread"),)),
        Wrong(
            "takes q for the larger share",
            "order-matters",
            patch=(("(p - q)) ** 2", "max(p - q, 1e-9)) ** 2"),),
        ),
        Wrong(
            "takes the variance for its root",
            "off",
            patch=(("np.sqrt(p * (1 - p))", "p * (1 - p)"),),
        ),
    ],
    also_right=[
        Right(
            "with math, step by step",
            source="""
            import math

            def requests_needed(p, q, z=3.09):
                one, other = math.sqrt(p - p * p), math.sqrt(q - q * q)
                root = z * (one + other) / abs(p - q)
                return int(math.ceil(root * root))
            """,
        ),
    ],
    equivalent={
        "def requests_needed(p, q, z=4.09):": "the default is what the page's text "
        "proposes; the check always gives `z`",
    },
)
def requests_needed(t: Trial) -> None:
    """Requests that tell two shares apart, by the normal approximation."""
    value = t.call(0.5, 0.3, z=3.0, gives="number")
    # z (0.5 + sqrt 0.21) / 0.2 = 14.374, squared 206.6
    t.need(
        not 14 <= value <= 15,
        "not-squared",
        f"{t.said}.",
        "A standard error shrinks with the square root of the requests, so the "
        "requests grow with the square.",
        "Solve for `n`, which stands under a square root.",
    )
    t.need(
        not 56 <= value <= 57,
        "one-side",
        f"{t.said}, enough for one of the two shares to stay on its side.",
        "The other one crosses the threshold in half of the cases.",
        "Leave room on both sides of the threshold.",
    )
    t.need(
        not 103 <= value <= 104,
        "variances-added",
        f"{t.said}. That is the answer for the difference of two shares, with one "
        "error in a thousand on one side.",
        "Here a threshold lies between them, and each has to stay on its own side.",
        "Give each share its own standard errors of distance.",
    )
    in_the_middle(t, value, {225, 226, 216, 217})
    t.need(
        value == int(value),
        "not-whole",
        f"{t.said}.",
        "Nobody sends a part of a request.",
        "Round in the direction that keeps the promise.",
    )
    t.need(
        value != 206,
        "rounds-down",
        f"{t.said}, and the formula gives 206.6.",
        "With 206 the promise is broken by a little.",
        "Round in the direction that keeps the promise.",
    )
    t.need(
        value != 220,
        "z-ignored",
        f"{t.said}, the answer for 3.09 standard errors.",
        "How sure one wants to be is the caller's choice.",
        "Use the argument `z`.",
    )
    t.need(
        value == 207,
        "off",
        f"{t.said}; by hand it is 207.",
        "",
        "Write both standard errors for `n` requests. How many of each have to fit "
        "into the gap of 0.2?",
    )
    value = t.call(0.5, 0.1, z=3.1, gives="number")
    # 3.1 (0.5 + 0.3) / 0.4 = 6.2, squared 38.44; the middle: 60.1, 50.5 and 40.8.
    in_the_middle(t, value, {41, 51, 61})
    t.good("two shares far apart, rounded up")
    value = t.call(0.3, 0.5, z=3.0, gives="number")
    t.need(
        value == 207,
        "order-matters",
        f"{t.said}; with the shares the other way round it was 207.",
        "The forgotten server may call more addresses phishing, or fewer.",
        "Only the distance between the shares matters.",
    )
    t.good("the same for shares in either order")
    for _ in range(20):
        p, q = (float(x) for x in t.rng.uniform(0.02, 0.98, size=2).round(3))
        z = float(t.rng.uniform(1, 4))
        if abs(p - q) < 0.01:
            continue
        value = t.call(p, q, z=z, gives="number")
        deviation = [(share - share * share) ** 0.5 for share in (p, q)]
        exact = (z * sum(deviation) / (p - q)) ** 2
        t.need(
            exact - 1e-6 <= value <= exact + 1 + 1e-6,
            "off",
            f"{t.said}; the formula gives {exact:.1f}, to be rounded up.",
            "",
            "Compute this case by hand.",
        )
    t.good("any two shares, any certainty")


def in_the_middle(t: Trial, value: float, if_so: set[int]) -> None:
    """The threshold must lie where the fewest requests are enough."""
    t.need(
        np.ceil(value) not in if_so,
        "midpoint",
        f"{t.said}. That is more than is needed: it puts the threshold in the middle.",
        "The share with the smaller standard error needs less room on its side.",
        "Let the threshold lie anywhere between, `z` standard errors from each share.",
    )


which_monitor = choice(
    "which_monitor",
    {
        "a": Option(
            False,
            "Every answer is a well-formed yes or no, with status 200. No error is "
            "counted.",
            "Ask what these attackers change in the *answers*.",
        ),
        "b": Option(
            False,
            "A model needs as long for a fooled answer as for a good one.",
            "Ask what these attackers change in the *answers*.",
        ),
        "c": Option(
            False,
            "It falls, slowly and on all servers together; a quieter week for "
            "attackers looks the same. It tells one server from another.",
            "Which monitor knows what the address really was?",
        ),
        "d": Option(
            True,
            "only the truth about each address tells a missed attack from a quiet "
            "week, and the truth comes late",
        ),
    },
    hints={
        "*": [
            "Go through the monitors: what would each show in a week without any "
            "attack?",
            "Two weeks with the same predictions, one with missed attacks and one "
            "without: which monitor differs?",
        ]
    },
    not_checked="Whether you would also have watched the inputs: the share of "
    "addresses with a certificate moves at once.",
    notice="Something stops, something differs, everything drifts: the order in which "
    "failures of models become hard to see.",
)

who_decides = words(
    "who_decides",
    "A release has been live for an hour, and the share called phishing has fallen. "
    "Who may take it back, and what do they need to know?",
    "Whoever is on call, alone and at once, because to wait for a meeting costs missed "
    "attacks and a needless return costs little. They need the share by version, the "
    "command, and the name of the version to return to.",
    [
        "Does your answer name one person or role, or a group that has to meet first?",
        "Does it say which number they look at, and compared with what?",
        "Does it say how long the way back takes, and who has tried it?",
    ],
    hints={
        "*": [
            "Imagine that it is three in the morning. Who is awake, what do they see, "
            "and what may they do without asking?"
        ]
    },
)
