"""Checks for *See what every strategy costs before you choose one*."""

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Before, Option, choice, order

Stages = list[tuple[float, float]]


@exercise(
    hints={
        "*": [
            "Draw the share of the traffic over time, as stairs. Where in the picture "
            "are the requests?",
            "They are the area under the stairs, times the rate, up to the moment when "
            "the traffic is gone.",
            "1 how long each stage lasts before the verdict, 2 share times seconds for "
            "each of them, 3 the stage in which the verdict falls, 4 its share times "
            "the seconds of the way back, 5 all of it times the rate.",
        ],
        "after-the-last": [
            "When all stages are over, who still meets the old version?"
        ],
        "boundary": [
            "At the last second of a stage, which share do the requests have that are "
            "under way?"
        ],
        "back-forgotten": [
            "Between the verdict and the end of the traffic, who answers the requests?"
        ],
    },
    not_checked="Whether the version is seen at that time at all; and requests are "
    "not users.",
    notice="Rate and way back are the platform's, the time until it is seen is the "
    "gate's, and the stages are the strategy's. Each can be changed alone.",
    wrong=[
        Wrong(
            "nothing for the way back",
            "back-forgotten",
            patch=(("(answered + share * back_s)", "answered"),),
        ),
        Wrong(
            "everybody on the way back",
            "back-everybody",
            patch=(("share * back_s", "back_s"),),
        ),
        Wrong(
            "the first share for all of the time",
            "one-share",
            source="""
            def exposed_requests(rate_per_s, stages, seen_after_s, back_s):
                share = stages[0][0] if stages else 1.0
                return rate_per_s * share * (seen_after_s + back_s)
            """,
        ),
        Wrong(
            "the share of the verdict for all of the time",
            "last-share",
            source="""
            def exposed_requests(rate_per_s, stages, seen_after_s, back_s):
                began_s = 0
                for share, lasts_s in stages:
                    began_s += lasts_s
                    if seen_after_s <= began_s:
                        return rate_per_s * share * (seen_after_s + back_s)
                return rate_per_s * (seen_after_s + back_s)
            """,
        ),
        Wrong(
            "the traffic ends with the stages",
            "after-the-last",
            source="""
            def exposed_requests(rate_per_s, stages, seen_after_s, back_s):
                answered, left_s, share = 0.0, seen_after_s, 0.0
                for share, lasts_s in stages:
                    here_s = min(lasts_s, left_s)
                    answered += share * here_s
                    left_s -= here_s
                    if left_s <= 0:
                        break
                return rate_per_s * (answered + share * back_s)
            """,
        ),
        Wrong(
            "the last stage goes on for ever",
            "after-the-last",
            patch=(("(1.0, float", "(stages[-1][0] if stages else 1.0, float"),),
        ),
        Wrong(
            "the next stage begins at the verdict",
            "boundary",
            patch=(("if left_s <= 0:", "if left_s <= 0 and here_s < lasts_s:"),),
        ),
        Wrong(
            "seconds, not requests",
            "seconds",
            patch=(("return rate_per_s * (", "return ("),),
        ),
        Wrong(
            "whole requests",
            "rounded",
            patch=(
                (
                    "return rate_per_s * (answered + share * back_s)",
                    "return round(rate_per_s * (answered + share * back_s))",
                ),
            ),
        ),
        Wrong(
            "every stage in full",
            "full-stages",
            source="""
            def exposed_requests(rate_per_s, stages, seen_after_s, back_s):
                answered = sum(share * lasts_s for share, lasts_s in stages)
                share = stages[-1][0] if stages else 1.0
                if not stages:
                    answered = seen_after_s
                return rate_per_s * (answered + share * back_s)
            """,
        ),
        Wrong(
            "fails without stages",
            "crash",
            patch=(("answered, left_s =", "stages[0]\n    answered, left_s ="),),
        ),
        Wrong(
            "looks at three stages at most",
            "off",
            patch=(("[*stages, (1.0", "[*stages[:3], (1.0"),),
        ),
    ],
    also_right=[
        Right(
            "second by quarter second",
            source="""
            def exposed_requests(rate_per_s, stages, seen_after_s, back_s):
                def share_at(second):
                    end = 0.0
                    for share, lasts_s in stages:
                        end += lasts_s
                        if second <= end:
                            return share
                    return 1.0
                answered = 0.0
                for quarter in range(int(seen_after_s * 4)):
                    answered += 0.25 * share_at((quarter + 1) / 4)
                return rate_per_s * (answered + back_s * share_at(seen_after_s))
            """,
        ),
        Right(
            "what is left, backwards",
            source="""
            def exposed_requests(rate_per_s, stages, seen_after_s, back_s):
                if not stages:
                    return rate_per_s * (seen_after_s + back_s)
                (share, lasts_s), *rest = stages
                if seen_after_s <= lasts_s:
                    return rate_per_s * share * (seen_after_s + back_s)
                later = exposed_requests(
                    rate_per_s, rest, seen_after_s - lasts_s, back_s
                )
                return rate_per_s * share * lasts_s + later
            """,
        ),
    ],
)
def predict_exposure(t: Trial) -> None:
    """Requests under a share that goes up in stairs, from hand-made cases on."""
    value = t.call(100, [(0.25, 60)], 20, 4, gives="number")
    t.need(
        not near(value, 500),
        "back-forgotten",
        f"{t.said}. The verdict falls at 20 s, and the traffic is gone 4 s later.",
        "A verdict moves nobody; until the router has, users meet the bad version.",
        "Count the requests between the verdict and the end of the traffic too.",
    )
    t.need(
        not near(value, 900),
        "back-everybody",
        f"{t.said}. On the way back it has a quarter of the traffic, as before.",
        "The way back is cheap for a small share, which is one reason to have one.",
        "Ask which share is in force after the verdict.",
    )
    t.need(
        not near(value, 6),
        "seconds",
        f"{t.said}. At 100 requests a second there are more.",
        "Users feel requests; seconds alone do not tell how many.",
        "Turn the seconds into requests.",
    )
    t.need(
        not near(value, 1600),
        "full-stages",
        f"{t.said}. The stage was planned for 60 s, and the verdict fell at 20 s.",
        "An abort that waits for the end of its stage is no abort.",
        "Count the seconds until the verdict, not those of the plan.",
    )
    as_by_hand(t, value, 100, [(0.25, 60)], 20, 4)
    t.good("a verdict in the first stage")
    stages = [(0.25, 60), (0.5, 60)]
    value = t.call(100, stages, 80, 4, gives="number")
    t.need(
        not near(value, 2100),
        "one-share",
        f"{t.said}, as if the share had been 0.25 all the time.",
        "Most of the damage of a late verdict is done in the later stages.",
        "Ask which share is in force in the first minute, and which in the second.",
    )
    t.need(
        not near(value, 4200),
        "last-share",
        f"{t.said}, as if the share had been 0.5 all the time.",
        "The early stages are small, and that is what they are there for.",
        "Ask which share is in force in the first minute, and which in the second.",
    )
    as_by_hand(t, value, 100, stages, 80, 4)
    t.good("a verdict in the second stage")
    value = t.call(100, stages, 150, 4, gives="number")
    t.need(
        not any(near(value, n) for n in (4700, 6200, 4500, 6000)),
        "after-the-last",
        f"{t.said}. The stages are over at 120 s, and the verdict falls at 150 s.",
        "After its last stage a version is not gone: it is the one that serves.",
        "Ask who answers the requests after the last stage.",
    )
    as_by_hand(t, value, 100, stages, 150, 4)
    t.good("a verdict after the last stage")
    value = t.call(100, stages, 60, 4, gives="number")
    t.need(
        not near(value, 1700),
        "boundary",
        f"{t.said}. The verdict falls at 60 s, the very end of the first stage.",
        "A gate that fails at the last moment keeps the share from rising.",
        "Read what the statement says of a stage that ends exactly then.",
    )
    as_by_hand(t, value, 100, stages, 60, 4)
    as_by_hand(t, t.call(100, stages, 120, 4, gives="number"), 100, stages, 120, 4)
    t.good("a verdict at the end of a stage")
    value = t.call(7, [(0.25, 60)], 1, 0.5, gives="number")
    t.need(
        not (value == round(value) and abs(value - 2.625) < 1),
        "rounded",
        f"{t.said}; by hand it is 2.625.",
        "It is a mean, and whoever adds up many releases adds up what was rounded.",
        "Do not round.",
    )
    as_by_hand(t, value, 7, [(0.25, 60)], 1, 0.5)
    as_by_hand(t, t.call(100, [], 20, 4, gives="number"), 100, [], 20, 4)
    t.good("everybody at once")
    many = [(share / 8, 2) for share in range(1, 7)]
    as_by_hand(t, t.call(80, many, 9, 2, gives="number"), 80, many, 9, 2)
    for _ in range(16):
        shares = sorted(t.rng.choice(31, size=int(t.rng.integers(1, 6)), replace=False))
        stages = [
            ((int(share) + 1) / 32, int(t.rng.integers(1, 9)) / 4) for share in shares
        ]
        seen_after_s = int(t.rng.integers(1, 50)) / 4
        case = (int(t.rng.integers(1, 900)), stages, seen_after_s, 1.75)
        as_by_hand(t, t.call(*case, gives="number"), *case)
    t.good("any stages, and a verdict at any time")


def near(value: float, expected: float) -> bool:
    """Whether two numbers of requests are the same, but for rounding errors."""
    return abs(value - expected) <= 1e-6 * max(1.0, expected)


def as_by_hand(
    t: Trial,
    value: float,
    rate_per_s: float,
    stages: Stages,
    seen_after_s: float,
    back_s: float,
) -> None:
    """The requests must be the area under these stairs."""
    area = began_s = 0.0
    share_then = 1.0  # in force at the verdict
    for share, lasts_s in stages:
        until_s = began_s + lasts_s
        area += share * max(0.0, min(until_s, seen_after_s) - began_s)
        if began_s < seen_after_s <= until_s:
            share_then = share
        began_s = until_s
    area += max(0.0, seen_after_s - began_s) + share_then * back_s
    t.need(
        near(value, rate_per_s * area),
        "off",
        f"{t.said}; share times seconds add up to {area:.6g}, and that makes "
        f"{rate_per_s * area:,.7g} requests.",
        "",
        "Draw this case as stairs, and compare each step with your function.",
    )


read_glance = choice(
    "read_glance",
    {
        "a": Option(
            True,
            "Exposed is who got an answer of the bad version; hurt is whose answer was "
            "spoilt.",
        ),
        "b": Option(
            False,
            "Both are seen after the same ten seconds: the same gate fills the same "
            "window, with fewer requests in it.",
            "Compare the two rows for `v2-slow`, and read what is *seen*.",
        ),
        "c": Option(
            False,
            "Both have everybody on the new version until the gate fails, and expose "
            "the same number. What the basic strategy has more of is lost requests.",
            "Look at the requests that were answered by the bad version, in both.",
        ),
        "d": Option(
            False,
            "The version that dies while it serves came through the preview.",
            "Look for a fault that the preview does not stop before users.",
        ),
        "e": Option(
            True,
            "Both keep the old version whole for as long as they may need it.",
        ),
        "f": Option(
            True,
            "Without the truth the shadow passed it: that two versions differ does not "
            "say which one is right.",
        ),
    },
    hints={
        "*": [
            "Which column, and which two cells of it, does each statement speak of?",
            "Keep apart: exposed, lost, hurt, seen. What is true of one "
            "is soon said of another.",
            "1 find the two cells, 2 read the figure that the statement names, 3 ask "
            "whether the world of the table is the one the statement needs.",
        ],
    },
    not_checked="Whether your own service would give the same table.",
    notice="None of the six is about which strategy is best. The table has no such "
    "column.",
    left_out="A statement that the table bears out and that nobody reads is lost.",
)


order_exposed = order(
    "order_exposed",
    {
        "A": "A rolling update, one instance more at most, 60 s after each wave.",
        "B": "Blue/green, with the old side kept for ten minutes.",
        "C": "A canary with stages of 10 %, 30 % and 60 %, 60 s each.",
        "E": "A shadow to which every request is copied.",
        "F": "A test with half of the users on each side.",
    },
    [
        Before(
            "B", "F", "half-before-all",
            "In 30 s everybody sends twice as many requests as a half does.",
            "Write the share of the traffic beside each letter.",
        ),
        Before(
            "F", "A", "wave-overrated",
            "With one instance more at most, the first wave is one new instance beside "
            "four old ones.",
            "Work out which share one instance among five gets.",
        ),
        Before(
            "A", "C", "stage-overrated",
            "The gate fails at 30 s, within the first stage, and the later ones never "
            "come.",
            "Ask which share the canary has at 30 s.",
        ),
        Before(
            "C", "E", "copies-counted",
            "A shadow answers copies. No user gets what it says.",
            "Ask how many users' requests it answers.",
        ),
    ],
    distractors={
        "D": "Readiness has nothing against slow answers, so nobody ends it: it is "
        "promoted, and goes on exposing users.",
    },
    example="BFACE",
    others=["BFACE"],
    hints={
        "*": [
            "The window is the same for all. What differs?",
            "Write the share of the traffic that each has in its first 30 s, and order "
            "the shares.",
            "1 which of them has no gate, 2 the share of each other one at the "
            "beginning, 3 from the largest share to the smallest.",
        ],
        "wave-overrated": [
            "How many instances answer requests after the first wave, and how many of "
            "them are new?"
        ],
    },
    not_checked="What happens when the fault shows later than in the first window: "
    "then the stages and waves after the first one count too.",
    notice="Six names, and what decides is one number: the share at the time when the "
    "fault shows.",
    noun="release",
    left_out=(
        "A release that is not in the list cannot be compared with any other.",
        "Leave out only the one that has no gate.",
    ),
    missed={
        "E": (
            "None is a number too: a release that reaches no user is the one to beat.",
            "Ask how many users' requests a shadow answers, and where that number "
            "stands among the others.",
        ),
    },
)  # fmt: skip
