"""Checks for *Use this lab*."""

import math

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Option, choice

#: Statuses from every class, the last of each hundred among them.
STATUSES = [101, 199, 200, 201, 204, 206, 299, 300, 304, 399, 400, 404, 422, 500, 503]


@exercise(
    hints={
        "*": [
            "Take one status, such as 204. Which question about this number says "
            "whether the request succeeded?",
            "All statuses of one kind begin with the same digit. A share is how many "
            "succeeded, out of how many there were.",
            "1 the case without requests, 2 count the statuses from 200 to 299, "
            "3 divide by the number of requests.",
        ],
        "crash": ["How many requests are there in the call that stopped?"],
        "only-200": [
            "The table of statuses has five. Which question about the *number* would "
            "take in the success 204 as well?",
            "Two comparisons in one: `low <= status < high`.",
        ],
        "caller-fault-counted": [
            "Who has an answer after a 404: the caller, or nobody?"
        ],
        "no-data-judged": [
            "The statement names a value for the empty list. It is neither 0 nor 1."
        ],
    },
    not_checked="Whether the statuses tell the truth: a service can answer 200 with a "
    "false answer inside, and this book is full of them.",
    notice="A rate of no requests is neither good nor bad news. Many dashboards choose "
    "one of the two without saying so.",
    wrong=[
        Wrong(
            "says that all is well",
            "failures-counted",
            source=("def success_rate(statuses):\n    return 1.0\n"),
        ),
        Wrong(
            "gives percent",
            "percent",
            patch=(("return good / ", "return 100 * good / "),),
        ),
        Wrong(
            "gives the number of successes",
            "count-not-share",
            patch=(("return good / len(statuses)", "return good"),),
        ),
        Wrong(
            "gives the share of failures",
            "failures-not-successes",
            patch=(("return good / ", "return 1 - good / "),),
        ),
        Wrong(
            "divides and drops the rest",
            "rest-dropped",
            patch=(("good / len", "good // len"),),
        ),
        Wrong(
            "counts 200 alone",
            "only-200",
            patch=(("200 <= status < 300", "status == 200"),),
        ),
        Wrong(
            "counts all but the service's own faults",
            "caller-fault-counted",
            patch=(("status < 300", "status < 500"),),
        ),
        Wrong(
            "counts 3xx",
            "redirect-counted",
            patch=(("status < 300", "status < 400"),),
        ),
        Wrong("counts 1xx", "off", patch=(("200 <= status < 300", "status < 300"),)),
        Wrong(
            "does not think of the empty list",
            "crash",
            patch=(("if not statuses:", "if False:"),),
        ),
        Wrong(
            "calls no requests a success",
            "no-data-judged",
            patch=(('float("nan")', "1.0"),),
        ),
        Wrong(
            "gives None for no requests",
            "no-data-judged",
            patch=(('float("nan")', "None"),),
        ),
    ],
    also_right=[
        Right(
            "by the first digit, the empty list last",
            source="""
            def success_rate(statuses):
                first = [str(status)[0] for status in statuses]
                try:
                    return first.count("2") / len(first)
                except ZeroDivisionError:
                    return float("nan")
            """,
        ),
        Right(
            "with numpy",
            source="""
            import numpy as np

            def success_rate(statuses):
                hundreds = np.asarray(statuses) // 100
                return np.mean(hundreds == 2) if len(statuses) else np.nan
            """,
        ),
    ],
)
def success_rate(t: Trial) -> None:
    """Share of requests that were answered with a status from 200 to 299."""
    value = t.call([200, 200, 200, 503], gives="number")
    t.need(
        value != 75,
        "percent",
        f"{t.said}: that is percent.",
        "A limit of 0.99 holds for ever if the rate it is compared with is 75.",
        "Give the share, a number from 0 to 1.",
    )
    t.need(
        value != 3,
        "count-not-share",
        f"{t.said}, the number of successes.",
        "Three successes are a fine result of three requests, and a poor one of "
        "three hundred.",
        "Divide by the number of requests.",
    )
    t.need(
        value != 1,
        "failures-counted",
        f"{t.said}, and one of these four requests failed.",
        "A rate that is always 1 is a smoke alarm without a battery.",
        "Count only the statuses from 200 to 299.",
    )
    t.need(
        value != 0.25,
        "failures-not-successes",
        f"{t.said}, the share that failed.",
        "Whoever reads the number reads it the other way round.",
        "Count the statuses that say success.",
    )
    t.need(
        value != 0,
        "rest-dropped",
        f"{t.said}, and three of these four requests succeeded.",
        "One failure in a thousand would look like a service that is down.",
        "Look at how you divide: does it keep the fraction?",
    )
    t.need(
        near(value, 0.75),
        "off",
        f"{t.said}; three of four is 0.75.",
        "",
        "Count by hand, then compare with your code line by line.",
    )
    t.good("a share of the requests, from 0 to 1")
    value = t.call([201, 204, 200, 500], gives="number")
    t.need(
        not near(value, 0.25),
        "only-200",
        f"{t.said}. 201 (created) and 204 (no content) say success as well.",
        "A service that begins to answer 201 would look broken without being so.",
        "Ask for a range of statuses, not for one.",
    )
    value = t.call([200, 404], gives="number")
    t.need(
        not near(value, 1),
        "caller-fault-counted",
        f"{t.said}. 404 says that there is no such thing: the caller has no answer.",
        "A new version that has lost a path answers 404 to everybody who asks for it.",
        "Count only the statuses from 200 to 299.",
    )
    value = t.call([200, 304, 300], gives="number")
    t.need(
        not near(value, 1),
        "redirect-counted",
        f"{t.said}. 300 and 304 send the caller elsewhere, or to its own copy.",
        "The exercise counts what this service answered itself.",
        "Look at the upper end of your range.",
    )
    drawn = [t.rng.choice(STATUSES, size=size).tolist() for size in range(1, 9)]
    for statuses in [STATUSES[:7], STATUSES[7:], *drawn]:
        share = len([s for s in statuses if s // 100 == 2]) / len(statuses)
        value = t.call(statuses, gives="number")
        t.need(
            near(value, share),
            "off",
            f"{t.said}; counted by hand it is {share:.4g}.",
            "",
            "Run this call in a cell of its own, and count along.",
        )
    t.good("statuses from 101 to 503, in any mixture")
    value = t.call([])
    t.need(
        is_nan(value),
        "no-data-judged",
        f"{t.said}. Without requests there is nothing to judge.",
        "No data is not good data: a service that nobody can reach has no failures "
        "either.",
        "The statement says what to return for an empty list.",
    )
    t.good("no requests, no rate")


def near(value: float, wanted: float) -> bool:
    """Whether two shares are the same, rounding aside."""
    return abs(value - wanted) < 1e-6


def is_nan(value: object) -> bool:
    """Whether a value is the number that is no number."""
    try:
        return math.isnan(value)
    except TypeError:
        return False


ask_stopped = choice(
    "ask_stopped",
    {
        "a": Option(
            False,
            "Silence is what a server gives that has accepted the connection and "
            "hangs. Here no process is left to accept one, and the system says so.",
            "Ask who answers for a port that no process has open.",
        ),
        "b": Option(
            True,
            "the operating system answers that nobody listens there; it takes no "
            "time, and the client can try another server",
        ),
        "c": Option(
            False,
            "A status is sent by a process, and this one has ended. A server can say "
            "503 while it is stopping, not afterwards.",
            "Ask which process would send that status.",
        ),
        "d": Option(
            False,
            "`requests.get` opens a connection for each call and keeps no answers.",
            "Ask where the old answer would have been kept.",
        ),
    },
    hints={
        "*": [
            "Which program is still there to say something, once the server has ended?",
            "The operating system knows which ports are open. What does it tell a "
            "client that knocks at one that is not?",
        ]
    },
    not_checked="Any network but your machine's own. Where a firewall drops packets, "
    "or a whole machine is gone, the client does get silence.",
    notice="Give every request a time limit all the same: one day the server accepts "
    "and then says nothing.",
)
