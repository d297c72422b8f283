"""Checks for *Choose how to compare two versions, and know what each cannot see*."""

from __future__ import annotations

import copy

import numpy as np

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Guess, Option, choice, prediction

unseen_by_shadow = choice(
    "unseen_by_shadow",
    {
        "a": Option(
            False,
            "A copy is as slow as a request, and *slow alone* counts it.",
            "Ask of each candidate which of the four gates would count it.",
        ),
        "b": Option(
            True,
            "It differs on pages that stable blocks; nobody visits those, so no label "
            "ever speaks against it.",
        ),
        "c": Option(
            False,
            "About 200 of the 20,000 copies fail, and *errors alone* counts each.",
            "Ask of each candidate which of the four gates would count it.",
        ),
        "d": Option(True, "A marked copy leaves out the code that writes."),
        "e": Option(True, "Nobody has seen an answer, so nobody has got used to it."),
        "f": Option(
            False,
            "A copy lacks the feature as the request does, and *refused alone* counts "
            "the 422.",
            "Look at what a copy carries: the same body as the user's request.",
        ),
        "g": Option(True, "In 20,000 requests it has kept two connections of fifty."),
    },
    hints={
        "*": [
            "Which of the seven change nothing in an answer, a status or a time? And "
            "of those that do: who would tell the gate?",
            "A gate needs an event and somebody who tells of it. For a mistaken answer "
            "that is a user who was let through to the page.",
            "For each letter: 1 does it show in the answer to a copy? 2 within 20,000 "
            "requests? 3 does somebody learn the truth? A single no lets it pass.",
        ],
        "missed-b": [
            "Follow one such page: stable blocks it. Who finds out what it was?",
        ],
        "missed-d": ["Which lines of the service does a copy never reach?"],
    },
    not_checked="Your own service: what it does beside answering, only its code says.",
    notice="What a shadow run passes is not proved: it has not failed where one "
    "could see it.",
)


def _pairs(both: int, stable: int, candidate: int, neither: int) -> list:
    """So many pairs of each kind."""
    return (
        [(True, True)] * both
        + [(True, False)] * stable
        + [(False, True)] * candidate
        + [(False, False)] * neither
    )


def _true_p(stable: int, candidate: int) -> float:
    """Twice the smaller tail of fair coins, at most 1."""
    from scipy import stats

    low = stats.binom.cdf(min(stable, candidate), stable + candidate, 0.5)
    return min(1.0, 2 * float(low))


def _told(both: int, stable: int, candidate: int, neither: int) -> str:
    return (
        f"Of {both + stable + candidate + neither} pairs both err in {both}, "
        f"stable alone in {stable}, the candidate alone in {candidate}"
    )


def _p(t: Trial, *counts: int) -> tuple[float, str]:
    """What the student's function says of so many pairs, and the sentence."""
    value = t.call(_pairs(*counts), gives="number")
    said = f"{_told(*counts)}: your function gave {value:.4g}"
    t.need(
        0 <= value <= 1,
        "not-a-chance",
        f"{said}.",
        "A p-value is a chance, and whoever compares it with 0.05 relies on that.",
        "Two tails can overlap; look at what their sum is in the middle.",
    )
    return value, said


@exercise(
    hints={
        "*": [
            "Four kinds of pairs go in. Which of them say anything about who is "
            "better?",
            "If both are equally good, each discordant pair is a fair coin. How uneven "
            "is this throw?",
            "1 count the pairs in which the candidate alone errs; 2 those in which "
            "stable alone is; 3 without any, return 1; 4 the two-sided binomial test "
            "of the one in the sum of both, at one half.",
        ],
        "as-two-samples": [
            "Your answer depends on requests in which both err. Which comparison "
            "does not?",
        ],
        "crash": ["What does the test do with no coin at all?"],
    },
    not_checked="Whether the pairs are independent: a user who sends the same page "
    "twenty times gives twenty pairs, and little evidence.",
    notice="Pairs on which both agree cancel, however many there are.",
    equivalent={
        "if mine - others == 0:": "the p-value of an even throw is 1 as well",
    },
    wrong=[
        Wrong(
            "compares the totals as two samples",
            "as-two-samples",
            source="""
            def pair_p(pairs):
                old = sum(1 for stable, _ in pairs if stable)
                new = sum(1 for _, candidate in pairs if candidate)
                table = [[old, len(pairs) - old], [new, len(pairs) - new]]
                return stats.fisher_exact(table).pvalue
            """,
        ),
        Wrong(
            "tosses a coin for each wrong answer",
            "as-two-samples",
            source="""
            def pair_p(pairs):
                old = sum(1 for stable, _ in pairs if stable)
                new = sum(1 for _, candidate in pairs if candidate)
                if old + new == 0:
                    return 1.0
                return stats.binomtest(new, old + new).pvalue
            """,
        ),
        Wrong(
            "counts the pairs that agree",
            "as-two-samples",
            patch=(("binomtest(mine, mine + others)", "binomtest(mine, len(pairs))"),),
        ),
        Wrong(
            "one side only",
            "one-sided",
            patch=(
                ("mine + others).pvalue", "mine + others, alternative='less').pvalue"),
            ),
        ),
        Wrong(
            "the other side only",
            "one-sided",
            patch=(
                (
                    "mine + others).pvalue",
                    "mine + others, alternative='greater').pvalue",
                ),
            ),
        ),
        Wrong(
            "the smaller tail, once",
            "one-sided",
            patch=(
                (
                    "stats.binomtest(mine, mine + others).pvalue",
                    "stats.binom.cdf(min(mine, others), mine + others, 0.5)",
                ),
            ),
        ),
        Wrong(
            "twice a tail, above 1",
            "not-a-chance",
            patch=(
                (
                    "stats.binomtest(mine, mine + others).pvalue",
                    "2 * stats.binom.cdf(min(mine, others), mine + others, 0.5)",
                ),
            ),
        ),
        Wrong(
            "the approximation with chi-squared",
            "not-exact",
            patch=(
                (
                    "stats.binomtest(mine, mine + others).pvalue",
                    "stats.chi2.sf((mine - others) ** 2 / (mine + others), 1)",
                ),
            ),
        ),
        Wrong(
            "without an answer where nothing differs",
            "crash",
            patch=(("    if mine + others == 0:\n        return 1.0\n", ""),),
        ),
        Wrong(
            "significant where nothing differs",
            "nothing-is-something",
            patch=(("return 1.0", "return 0.0"),),
        ),
        Wrong(
            "the share of the discordant pairs",
            "not-a-test",
            patch=(
                (
                    "stats.binomtest(mine, mine + others).pvalue",
                    "mine / (mine + others)",
                ),
            ),
        ),
    ],
    also_right=[
        Right(
            "with arrays, and the tail by hand",
            source="""
            def pair_p(pairs):
                pairs = np.array(pairs, dtype=bool).reshape(-1, 2)
                discordant = pairs[pairs[:, 0] != pairs[:, 1]]
                n = len(discordant)
                few = min(discordant[:, 1].sum(), n - discordant[:, 1].sum())
                return min(1, 2 * stats.binom.cdf(few, n, 0.5)) if n else 1
            """,
        ),
        Right(
            "counts of all four, and whole-number arithmetic",
            source="""
            def pair_p(pairs):
                from math import comb
                seen = Counter((bool(s), bool(c)) for s, c in pairs)
                a, b = seen[True, False], seen[False, True]
                tail = sum(comb(a + b, k) for k in range(min(a, b) + 1))
                return min(1.0, 2 * tail / 2 ** (a + b))
            """,
        ),
    ],
)
def compare_pairs(t: Trial) -> None:
    """The exact two-sided test on discordant pairs."""
    value, said = _p(t, 0, 2, 12, 86)
    t.need(
        not np.isclose(value, 12 / 14) and not np.isclose(value, 2 / 14),
        "not-a-test",
        f"{said}.",
        "A share says how uneven the pairs are, not how often chance does that.",
        "Ask how often fair coins would fall so unevenly, or more so.",
    )
    few, _ = _p(t, 0, 2, 12, 86)
    many, said = _p(t, 40, 2, 12, 46)
    t.need(
        np.isclose(few, many, rtol=1e-6)
        and np.isclose(_p(t, 0, 2, 12, 0)[0], few, rtol=1e-6),
        "as-two-samples",
        f"{said}. Where both err in 0 of them, or with no other pairs at all, "
        "it gives another value.",
        "What is hard for both, or for neither, hides the difference; the pairs were "
        "to take that out.",
        "Leave out the pairs on which the versions agree.",
    )
    t.good("pairs on which both agree change nothing")
    true = _true_p(2, 12)
    turned, turned_said = _p(t, 0, 12, 2, 86)
    for one, what in ((few, said), (turned, turned_said)):
        t.need(
            not np.isclose(one, true / 2, rtol=1e-6)
            and not np.isclose(one, 1 - true / 2, atol=2e-3),
            "one-sided",
            f"{what}, and a two-sided test gives {true:.4g}.",
            "Nobody knew beforehand which version would be better.",
            "Count as uneven what is so in either direction.",
        )
    t.good("it does not matter which version is the better one")
    for counts in ((0, 2, 12, 86), (3, 1, 6, 20), (5, 4, 5, 6)):
        value, said = _p(t, *counts)
        true = _true_p(*counts[1:3])
        t.need(
            np.isclose(value, true, rtol=1e-6),
            "not-exact",
            f"{said}, and exact is {true:.4g}.",
            "With few discordant pairs an approximation says *shown* too often.",
            "Use the binomial law itself.",
        )
    t.good("the chance is exact, with few pairs too")
    value, said = _p(t, 0, 7, 7, 10)
    t.need(
        np.isclose(value, 1),
        "not-exact",
        f"{said}, and as even as can be is 1.",
        "",
        "Any throw is at least as uneven as an even one.",
    )
    for counts in ((4, 0, 0, 9), (0, 0, 0, 0)):
        value, said = _p(t, *counts)
        t.need(
            np.isclose(value, 1),
            "nothing-is-something",
            f"{said}.",
            "Versions that never differ would be told apart.",
            "Without a discordant pair nothing speaks against equality.",
        )
    t.good("without a discordant pair it claims nothing")
    for _ in range(20):
        counts = tuple(int(n) for n in t.rng.integers(0, 30, 4))
        value, said = _p(t, *counts)
        true = _true_p(*counts[1:3])
        t.need(
            np.isclose(value, true, rtol=1e-6),
            "not-exact",
            f"{said}, and exact is {true:.4g}.",
            "A release stands or falls with this number.",
            "Compare your counts of the two kinds of discordant pairs.",
        )


def _users() -> float:
    from deploylab.rollout import predict

    return predict.users_needed(0.10, 0.085)


how_many_users = prediction(
    "how_many_users",
    _users,
    (0.8, 1.5),
    [
        Guess(
            float("-inf"), 0, "no-users",
            "A test needs somebody on each side.",
            "Give the number of users on one side.",
            plausible=False,
        ),
        Guess(
            0, 500, "sees-large-things",
            "So few tell apart 10 % and 5 %, and nothing finer.",
            "Ask how many bad answers more or less chance alone makes.",
        ),
        Guess(
            500, 1_500, "a-thousand-is-a-lot",
            "A thousand users get 100 bad answers, give or take ten, and the "
            "difference that you look for is fifteen.",
            "Compare the difference with the standard error of a difference.",
        ),
        Guess(
            1_500, 2_930, "half-of-it",
            "So many find a difference half as large again; this one they miss more "
            "often than not.",
            "The number goes with the square of the difference.",
        ),
        Guess(
            2_930, 4_690, "now-and-then",
            "So many miss this difference about one time in two or three.",
            "Ask for a power of 80 %, not for a good chance.",
        ),
        Guess(
            8_700, 11_000, "more-than-enough",
            "That is enough for smaller differences too, at the price of time.",
            "Put your numbers into the rough formula once.",
        ),
        Guess(
            11_000, 12_500, "both-together",
            "As the number for both sides together that is right. If it is meant for "
            "each, the test takes twice as long as it needs.",
            "Ask of your number: one side, or both?",
        ),
        Guess(
            12_500, 50_000, "far-more-than-enough",
            "That is enough for much smaller differences too, at the price of time.",
            "Put your numbers into the rough formula once.",
        ),
        Guess(
            50_000, float("inf"), "much-more",
            "That would find a difference of a half per cent, or less.",
            "Put your numbers into the rough formula once.",
        ),
    ],
    what="The number for each side",
    unit="users",
    hints={
        "*": [
            "Of 1,000 users, how many get a bad answer, and how much does that vary "
            "by chance?",
            "The true difference must be 2.8 standard errors of the difference.",
            "1 the variance of one user is p (1 - p); 2 of the difference of two means "
            "twice that, by n; 3 set 0.015 to 2.8 times its root; 4 solve for n.",
        ]
    },
    not_checked="How long it takes until so many users have come.",
    notice="Half the difference takes four times the users.",
)  # fmt: skip

#: How often the step is asked in each case, and how far from its chance the share may
#: be: further than 5 standard errors less than once in a million times.
_ASK = 300
FAR = 0.15


def _known(
    stable: tuple[int, int, int], candidate: tuple[int, int, int]
) -> dict[str, dict[str, int]]:
    """What is known of both: sent, labelled, wrong."""
    names = ("sent", "labelled", "mistakes")
    return {
        "stable": dict(zip(names, stable, strict=True)),
        "candidate": dict(zip(names, candidate, strict=True)),
    }


def _better(known: dict[str, dict[str, int]]) -> float:
    """Chance that the candidate's rate is the lower one."""
    from deploylab.rollout.strategies import chance_of_less

    laws = [
        (1 + known[r]["mistakes"], 1 + known[r]["labelled"] - known[r]["mistakes"])
        for r in ("candidate", "stable")
    ]
    return chance_of_less(*laws)


class _Chance(np.random.Generator):
    """A generator that is shown without its address in memory."""

    def __repr__(self) -> str:
        return "rng"

    __str__ = __repr__

    def __deepcopy__(self, memo: dict) -> _Chance:
        return _Chance(copy.deepcopy(self.bit_generator, memo))


def _picked(t: Trial, known: dict[str, dict[str, int]], seed: int) -> str:
    """What the student's function returns; after the first call with less ado."""
    if t.calls:
        try:
            value = t.thing(known, _Chance(np.random.PCG64(seed)))
        except Exception:
            value = None
        if isinstance(value, str):
            return str(value)
    return t.call(known, _Chance(np.random.PCG64(seed)), gives="text")


def _share(t: Trial, known: dict[str, dict[str, int]]) -> float:
    """How often the student's function chooses the candidate."""
    picked = 0
    for seed in t.rng.integers(2**32, size=_ASK).tolist():
        value = _picked(t, known, seed)
        t.need(
            value in known,
            "not-a-version",
            f"Your function gave `{value}`; the versions are `stable` and `candidate`.",
            "A router that is told another name sends the request nowhere.",
            "Return one of the keys of `known`.",
        )
        picked += value == "candidate"
    return picked / _ASK


def _case(known: dict[str, dict[str, int]]) -> str:
    said = [
        f"of {role} {seen['mistakes']} mistakes ({seen['labelled']} labelled, "
        f"{seen['sent']} sent)"
        for role, seen in known.items()
    ]
    return " and ".join(said)


@exercise(
    hints={
        "*": [
            "What is known of an answer that nobody has judged yet?",
            "Draw one rate from what is known of each version, and compare the two "
            "draws.",
            "1 for each version, right = labelled - mistakes; 2 one draw from "
            "Beta(1 + mistakes, 1 + right); 3 the name with the lower draw.",
        ],
        "silence-is-good": [
            "480 answers have no label. With which number do they enter your law?",
        ],
        "greedy": [
            "Run the example twice with two generators. Does the answer ever change?",
        ],
        "another-chance": [
            "Which call in your function draws without being given `rng`?",
        ],
    },
    not_checked="Whether labels come as soon for both versions. If the mistakes of one "
    "come late, its labelled requests flatter it, and this step believes them.",
    notice="A bandit that counts only what has been judged is slow when labels are "
    "late, and right.",
    limit_s=4,
    wrong=[
        Wrong(
            "silence is good",
            "silence-is-good",
            patch=(
                (
                    'seen["labelled"] - seen["mistakes"]',
                    'seen["sent"] - seen["mistakes"]',
                ),
            ),
        ),
        Wrong(
            "the highest rate",
            "the-worse-one",
            patch=(("min(drawn", "max(drawn"),),
        ),
        Wrong(
            "right and wrong exchanged",
            "the-worse-one",
            patch=(
                (
                    'rng.beta(1 + seen["mistakes"], 1 + right)',
                    'rng.beta(1 + right, 1 + seen["mistakes"])',
                ),
            ),
        ),
        Wrong(
            "the lower mean, no draw",
            "always-the-same",
            patch=(
                (
                    'rng.beta(1 + seen["mistakes"], 1 + right)',
                    '(1 + seen["mistakes"]) / (2 + seen["labelled"])',
                ),
            ),
        ),
        Wrong(
            "a coin",
            "ignores-the-data",
            source="""
            def next_version(known, rng):
                return str(rng.choice(list(known)))
            """,
        ),
        Wrong(
            "explores one time in ten",
            "greedy",
            source="""
            def next_version(known, rng):
                if rng.random() < 0.1:
                    return str(rng.choice(list(known)))
                rate = {
                    name: (1 + seen["mistakes"]) / (2 + seen["labelled"])
                    for name, seen in known.items()
                }
                return min(rate, key=rate.get)
            """,
        ),
        Wrong(
            "without the prior",
            "crash",
            patch=(
                (
                    'rng.beta(1 + seen["mistakes"], 1 + right)',
                    'rng.beta(seen["mistakes"], right)',
                ),
            ),
        ),
        Wrong(
            "all labelled as right",
            "another-law",
            patch=(('seen["labelled"] - seen["mistakes"]', 'seen["labelled"]'),),
        ),
        Wrong(
            "the mean of many draws",
            "greedy",
            patch=(
                (
                    'rng.beta(1 + seen["mistakes"], 1 + right)',
                    'rng.beta(1 + seen["mistakes"], 1 + right, 1000).mean()',
                ),
            ),
        ),
        Wrong(
            "returns the rate",
            "wrong-type",
            patch=(("min(drawn, key=drawn.get)", "min(drawn.values())"),),
        ),
        Wrong(
            "a generator of its own",
            "always-the-same",
            patch=(("rng.beta(", "np.random.default_rng(3).beta("),),
        ),
        Wrong(
            "NumPy's common generator",
            "another-chance",
            patch=(("rng.beta(", "np.random.beta("),),
        ),
        Wrong(
            "a new generator each time",
            "another-chance",
            patch=(("rng.beta(", "np.random.default_rng().beta("),),
        ),
        Wrong(
            "a name that nobody has",
            "not-a-version",
            patch=(("min(drawn, key=drawn.get)", "min(drawn, key=drawn.get)[0]"),),
        ),
    ],
    also_right=[
        Right(
            "rates of right answers, and the higher one",
            source="""
            def next_version(known, rng):
                names = list(known)
                wrong = np.array([known[name]["mistakes"] for name in names])
                n = np.array([known[name]["labelled"] for name in names])
                return names[int(rng.beta(1 + n - wrong, 1 + wrong).argmax())]
            """,
        ),
        Right(
            "two gamma variables for each",
            source="""
            def next_version(known, rng):
                def rate(seen):
                    x = rng.gamma(1 + seen["mistakes"])
                    return x / (x + rng.gamma(1 + seen["labelled"] - seen["mistakes"]))
                better = rate(known["candidate"]) < rate(known["stable"])
                return "candidate" if better else "stable"
            """,
        ),
    ],
)
def thompson_step(t: Trial) -> None:
    """One step of Thompson sampling, with labels that are late."""
    nothing = _known((0, 0, 0), (0, 0, 0))
    at_first = _share(t, nothing)
    t.need(
        at_first not in (0, 1),
        "always-the-same",
        f"With nothing known, asked {_ASK} times with {_ASK} generators, your function "
        f"always chose `{'candidate' if at_first else 'stable'}`.",
        "A version that gets no request can never show that it is better.",
        "Let the rate of each version be one draw from its law, made by `rng`.",
    )
    plain = _known((600, 600, 30), (600, 600, 120))
    share = _share(t, plain)
    t.need(
        share < 0.5 or 0.4 < share < 0.6,
        "the-worse-one",
        f"With {_case(plain)}, the candidate got {share:.0%}.",
        "It sends users where more answers are mistaken.",
        "Look at which rate you have drawn, and at which end you take it.",
    )
    t.need(
        share < 0.2,
        "ignores-the-data",
        f"With {_case(plain)}, the candidate got {share:.0%}.",
        "Users go on meeting a version that is known to be worse.",
        "The law of each version narrows with what is known of it.",
    )
    t.good("what is plainly worse gets hardly anything")
    near = _known((40, 40, 4), (40, 40, 5))
    share, true = _share(t, near), _better(near)
    t.need(
        true - share < FAR,
        "greedy",
        f"With {_case(near)}, the candidate got {share:.0%} of {_ASK} requests, and "
        f"its chance of being the better one is {true:.0%}.",
        "A version with bad luck at the start is hardly asked again, even if it is "
        "the better one.",
        "Compare one draw of each, not two means.",
    )
    t.good("a version that is only probably worse is still asked")
    late = _known((900, 600, 60), (500, 20, 1))
    share, true = _share(t, late), _better(late)
    t.need(
        share - true < FAR,
        "silence-is-good",
        f"With {_case(late)}, the candidate got {share:.0%} of {_ASK} requests; what "
        f"is known supports {true:.0%}.",
        "A version whose mistakes come to light late is sent everybody, as long as "
        "they have not.",
        "Count an answer as right once its label says so.",
    )
    t.good("what has no label yet counts for nothing")
    for known in (
        near,
        _known((12, 12, 12), (12, 12, 9)),
        _known((3, 3, 3), (60, 60, 45)),
        _known((3, 3, 0), (60, 60, 12)),
    ):
        share, true = _share(t, known), _better(known)
        t.need(
            abs(share - true) < FAR,
            "another-law",
            f"With {_case(known)}, the candidate got {share:.0%} of {_ASK} requests, "
            f"and its chance of being the better one is {true:.0%}.",
            "The share of the traffic is to follow that chance.",
            "Check the two parameters: 1 + mistakes and 1 + right; an answer is one or "
            "the other.",
        )
    t.good("each gets as much as its chance of being the better one")
    # Fair coins agree in all of 40 pairs of calls less than once in 10 ** 12.
    unlike = sum(
        _picked(t, nothing, seed) != _picked(t, nothing, seed)
        for seed in t.rng.integers(2**32, size=40).tolist()
    )
    t.need(
        not unlike,
        "another-chance",
        "With nothing known, asked twice with equal generators, your function gave "
        "`stable` the one time and `candidate` the other.",
        "A decision that cannot be repeated cannot be looked into afterwards.",
        "Take every draw from `rng`.",
    )
    t.good("equal generators give equal decisions")
