"""Checks for *Meet the model*."""

import functools
from collections.abc import Iterable

import numpy as np

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Guess, Option, choice, prediction

INFINITY = float("inf")


@functools.cache
def distinct_rows() -> float:
    """How many of the data set's rows differ in their nine features."""
    from deploylab import phishing

    return len(phishing.load().drop_duplicates(subset=phishing.CONTRACT_V3.names))


predict_distinct = prediction(
    "predict_distinct",
    distinct_rows,
    (0.95, 1.05),
    [
        Guess(
            -INFINITY,
            0,
            "none",
            "A file that has rows has at least one kind of row.",
            "Say how many rows remain when each occurs once.",
            plausible=False,
        ),
        Guess(
            0,
            1,
            "a-share",
            "That looks like a share. The question asks for a number of rows.",
            "Multiply your share by the number of rows.",
            plausible=False,
        ),
        Guess(
            663,
            663,
            "label-counted",
            "So many rows differ if the label counts as well, and the question leaves "
            "it out.",
            "Look at the nine features alone.",
            plausible=False,
        ),
        Guess(
            1,
            100,
            "far-too-few",
            "Nine features with two or three codes each can be combined in thousands "
            "of ways, and real addresses use many of them.",
            "Run the next cell, and compare the rows of the table above.",
        ),
        Guess(
            100,
            600,
            "too-few",
            "Repetition is common here, though not as common as that.",
            "Run the next cell, then say what an equal row in the test set would do.",
        ),
        Guess(
            1250,
            1250,
            "all",
            "Rows without a name or a number in them repeat sooner than one thinks: "
            "two addresses with the same nine codes are the same row.",
            "Run the next cell, then ask where a row's twin would land.",
        ),
        Guess(
            1250,
            INFINITY,
            "product-of-codes",
            "That is more than there are rows. The product of the numbers of codes "
            "says how many rows are possible, not how many occur.",
            "Give a number that is at most the number of rows in the file.",
            plausible=False,
        ),
        Guess(
            1100,
            1250,
            "nearly-all",
            "It would be so if all combinations were equally likely. A few kinds of "
            "address are common, and they come again and again.",
            "Run the next cell, then ask where a row's twin would land.",
        ),
        Guess(
            600,
            1100,
            "too-many",
            "Common kinds of address repeat more often than that.",
            "Run the next cell, then ask where a row's twin would land.",
        ),
    ],
    what="What is left when each row is kept once",
    unit="rows",
    hints={
        "*": [
            "How many different rows could there be, and are they all equally likely?",
            "Think of two phishing addresses made by the same kit. In how many of the "
            "nine features would they differ?",
        ]
    },
    not_checked="Whether you guessed before you looked, and why you guessed that.",
    limit_s=10.0,  # where nothing has loaded the data before, it takes seconds
    notice="Equal rows need not be an error. What matters is on which side of the "
    "split they land.",
)


@exercise(
    hints={
        "*": [
            "For one threshold, which two kinds of error do you count, and what does "
            "each cost?",
            "Write the cost of one threshold as a function first. Then look for the "
            "candidate with the smallest cost.",
            "1 which rows are called phishing, 2 missed attacks, 3 false alarms, "
            "4 the cost of both, 5 the cheapest candidate, 6 the lowest of several.",
        ],
        "not-a-candidate": [
            "What does your `return` give: a cost, a place in the list, or one of the "
            "candidates?"
        ],
        "dearest": [
            "At the threshold 0.95, which of the rows do you call phishing?",
            "Look at the sign of one comparison, then at `min` or `max`.",
        ],
        "costs-ignored": [
            "Which two arguments of the function does your result not depend on?"
        ],
        "costs-swapped": [
            "An attack that is not called phishing: is that a miss or an alarm?"
        ],
        "at-the-threshold": [
            "The statement says *above*. Is 0.5 above 0.5?",
            "Both kinds of error use that comparison: a row that is not called "
            "phishing has a score *at or below* the threshold.",
        ],
        "rates-not-counts": [
            "Who pays: the share of attacks that is missed, or each missed attack?"
        ],
        "tie-first": ["In which order do you go through the candidates?"],
        "tie-highest": [
            "When a second candidate costs as much as the best so far, which stays?"
        ],
        "off": [
            "Make a table of the call that the check shows: one line for each "
            "candidate, with missed attacks, false alarms and cost.",
            "Does your function look at every candidate, also after the cost has risen "
            "once?",
        ],
    },
    not_checked="Whether the threshold stays the cheapest on rows that nobody has "
    "seen. A check of the function cannot know on which rows you will use it.",
    notice="The threshold is code: with another one, other answers leave the service.",
    wrong=[
        Wrong(
            "gives the lowest cost",
            "not-a-candidate",
            patch=(
                (
                    "return min(sorted(candidates), key=cost)",
                    "return min(map(cost, candidates))",
                ),
            ),
        ),
        Wrong(
            "calls low scores phishing",
            "dearest",
            patch=(("scores > threshold", "scores < threshold"),),
        ),
        Wrong(
            "counts errors",
            "costs-ignored",
            patch=(("miss_cost * missed + alarm_cost * alarms", "missed + alarms"),),
        ),
        Wrong(
            "confuses the costs",
            "costs-swapped",
            patch=(
                (
                    "miss_cost * missed + alarm_cost * alarms",
                    "alarm_cost * missed + miss_cost * alarms",
                ),
            ),
        ),
        Wrong(
            "always ten to one",
            "costs-fixed",
            patch=(
                (
                    "miss_cost * missed + alarm_cost * alarms",
                    "10 * missed + 1 * alarms",
                ),
            ),
        ),
        Wrong(
            "weighs rates",
            "rates-not-counts",
            patch=(
                (
                    "miss_cost * missed + alarm_cost * alarms",
                    "miss_cost * missed / max(1, (labels == 1).sum()) "
                    "+ alarm_cost * alarms / max(1, (labels == 0).sum())",
                ),
            ),
        ),
        Wrong(
            "calls a score at the threshold phishing",
            "at-the-threshold",
            patch=(("scores > threshold", "scores >= threshold"),),
        ),
        Wrong(
            "takes the first of equals",
            "tie-first",
            patch=(("sorted(candidates)", "candidates"),),
        ),
        Wrong(
            "takes the highest of equals",
            "tie-highest",
            patch=(("sorted(candidates)", "sorted(candidates)[::-1]"),),
        ),
        Wrong(
            "stops where the cost first rises",
            "off",
            source="""
            import numpy as np

            def cheapest_threshold(scores, labels, miss_cost, alarm_cost, candidates):
                best, lowest = None, None
                for threshold in sorted(candidates):
                    called = scores > threshold
                    missed = np.sum(~called & (labels == 1))
                    alarms = np.sum(called & (labels == 0))
                    cost = miss_cost * missed + alarm_cost * alarms
                    if lowest is not None and cost > lowest:
                        break
                    if lowest is None or cost < lowest:
                        best, lowest = threshold, cost
                return best
            """,
        ),
    ],
    also_right=[
        Right(
            "the mean cost of a row",
            patch=(
                (
                    "miss_cost * missed + alarm_cost * alarms",
                    "miss_cost * (missed / len(labels))"
                    " + alarm_cost * (alarms / len(labels))",
                ),
            ),
        ),
        Right(
            "by a table of confusion",
            source="""
            import numpy as np
            from sklearn.metrics import confusion_matrix

            def cheapest_threshold(scores, labels, miss_cost, alarm_cost, candidates):
                ordered = np.sort(candidates)
                costs = []
                for threshold in ordered:
                    table = confusion_matrix(labels, scores > threshold)
                    _, alarms, missed, _ = table.ravel()
                    costs.append(miss_cost * missed + alarm_cost * alarms)
                return ordered[np.argmin(costs)]
            """,
        ),
        Right(
            "row by row, in plain Python",
            source="""
            def cheapest_threshold(scores, labels, miss_cost, alarm_cost, candidates):
                best = None
                for threshold in candidates:
                    cost = 0
                    for score, label in zip(scores, labels):
                        if score > threshold and not label:
                            cost += alarm_cost
                        if score <= threshold and label:
                            cost += miss_cost
                    if best is None or (cost, threshold) < best:
                        best = (cost, threshold)
                return best[1]
            """,
        ),
        Right(
            "all thresholds at once",
            source="""
            import numpy as np

            def cheapest_threshold(scores, labels, miss_cost, alarm_cost, candidates):
                ordered = np.sort(candidates)
                called = scores[:, None] > ordered
                attack = np.asarray(labels, dtype=bool)[:, None]
                price = np.where(attack, miss_cost * ~called, alarm_cost * called)
                return ordered[price.mean(axis=0).round(9).argmin()]
            """,
        ),
    ],
)
def cheapest_threshold(t: Trial) -> None:
    """The candidate threshold with the lowest total cost, the lowest of equals."""
    # Attacks at 0.45, 0.7, 0.8 and 0.9. By candidate: missed attacks and false alarms
    # are 0 and 4, 1 and 1, 3 and 0, 4 and 0.
    scores = np.array([0.1, 0.3, 0.35, 0.4, 0.45, 0.6, 0.7, 0.8, 0.9])
    labels = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1])
    candidates = np.array([0.2, 0.5, 0.85, 0.95])
    value = t.call(scores, labels, 10, 1, candidates, gives="number")
    t.need(
        value in candidates,
        "not-a-candidate",
        f"{t.said}, which is none of the candidates.",
        "",
        "Return the threshold itself, not its cost or its place in the list.",
    )
    t.need(
        value != 0.95,
        "dearest",
        f"{t.said}. There all four attacks are missed: 40, the highest cost of all.",
        "A filter that lets everything through raises no false alarm.",
        "Check which rows you call phishing, and whether you look for the lowest cost.",
    )
    t.need(
        value != 0.5,
        "costs-ignored",
        f"{t.said}, the threshold with the fewest errors; it costs 11.",
        "One missed attack can hurt more than many false alarms.",
        "Multiply each kind of error by its own cost.",
    )
    t.need(
        value != 0.85,
        "costs-swapped",
        f"{t.said}. It misses 3 attacks and raises no alarm, so it costs 30.",
        "With the costs exchanged, the model protects nobody whom it should.",
        "Check which cost belongs to which kind of error.",
    )
    t.good("missed attacks ten times as dear as false alarms")
    value = t.call(scores, labels, 1, 10, candidates, gives="number")
    t.need(
        value == 0.85,
        "costs-fixed",
        f"{t.said}. Now a false alarm costs ten, and 0.85 raises none.",
        "Costs belong to whoever uses the model, and they change.",
        "Use the two costs that the function is given.",
    )
    t.good("the other way round")
    scores = np.array([0.3, 0.32, 0.34, 0.36, 0.4, 0.9])
    labels = np.array([0, 0, 0, 0, 1, 1])
    candidates = np.array([0.2, 0.5])
    value = t.call(scores, labels, 3, 1, candidates, gives="number")
    t.need(
        value == 0.5,
        "rates-not-counts",
        f"{t.said}. Its four alarms cost 4; at 0.5 one missed attack costs 3.",
        "Each error has a cost; where honest pages are many, a small rate is many "
        "alarms.",
        "Add up the cost of every row.",
    )
    scores, labels = np.array([0.5, 0.9]), np.array([0, 1])
    value = t.call(scores, labels, 10, 1, np.array([0.4, 0.5]), gives="number")
    t.need(
        value == 0.5,
        "at-the-threshold",
        f"{t.said}. A score of 0.5 is not above 0.5, so that threshold costs nothing.",
        "With few different scores, many rows lie exactly at a threshold.",
        "Look at which comparison you use.",
    )
    t.good("scores exactly at a threshold")
    scores, labels = np.array([0.1, 0.9]), np.array([0, 1])
    value = t.call(scores, labels, 10, 1, np.array([0.5, 0.7, 0.4]), gives="number")
    t.need(
        value != 0.5,
        "tie-first",
        f"{t.said}, the first of three that cost nothing.",
        "Two people with the same data and another order would ship two versions.",
        "Of equally cheap candidates take the lowest, in whatever order they come.",
    )
    t.need(
        value != 0.7,
        "tie-highest",
        f"{t.said}, the highest of three that cost nothing.",
        "On new rows, a higher threshold can only miss more attacks.",
        "Of equally cheap candidates take the lowest.",
    )
    t.good("the lowest of equally cheap thresholds")
    for _ in range(12):
        rows = int(t.rng.integers(5, 9))
        scores = t.rng.integers(1, 20, size=rows) / 20
        labels = t.rng.permutation(np.arange(rows) % 2)  # of both classes, always
        candidates = t.rng.permutation(np.arange(1, 20, 3) / 20)
        costs = [int(cost) for cost in t.rng.integers(1, 6, size=2)]
        value = t.call(scores, labels, *costs, candidates, gives="number")
        by_hand = costs_by_hand(scores, labels, *costs, candidates)
        best = min(by_hand, key=by_hand.get)
        # Of equals any: added up in another order, equal costs differ in the last bit.
        t.need(
            by_hand.get(value) == by_hand[best],
            "off",
            f"{t.said}; counted row by row, {best:g} is the cheapest.",
            "",
            "Print the cost of every candidate for this call.",
        )
    t.good("random scores, labels and costs")


def costs_by_hand(
    scores: np.ndarray,
    labels: np.ndarray,
    miss_cost: int,
    alarm_cost: int,
    candidates: np.ndarray,
) -> dict[float, int]:
    """The cost of each candidate, by sets of rows instead of comparisons of arrays."""
    attacks = {row for row, label in enumerate(labels) if label}
    honest = set(range(len(labels))) - attacks
    costs = {}
    for threshold in candidates:
        passed = {row for row, score in enumerate(scores) if not score > threshold}
        missed, alarms = len(attacks & passed), len(honest - passed)
        costs[float(threshold)] = miss_cost * missed + alarm_cost * alarms
    return costs


@exercise(
    hints={
        "*": [
            "What does each fold give you, and which function of the page takes it?",
            "It is the page's interval of the differences, with one number to work "
            "out: how many rows are held back for each row that is fitted to.",
            "1 differences fold by fold, 2 test rows per fit row, 3 the corrected "
            "spread, 4 the quantile, 5 mean minus and plus.",
        ],
        "high-first": ["Which of the two numbers do you return first?"],
        "wrong-way-round": [
            "Which version is better in this call, and on how many folds?"
        ],
        "naive": [
            "What does the page's `interval` add to `1 / n`, and why?",
            "Two folds share rows to fit, so they are not independent. The correction "
            "adds test rows for each fit row.",
        ],
        "one-sided": [
            "A confidence of 0.95 leaves 0.05. How much of it lies beyond each end?"
        ],
        "normal-not-t": ["Which quantile does the page's `interval` take?"],
        "folds-ignored": [
            "The page's 0.25 stands for five folds: one part is held back, and how "
            "many are fitted to?",
            "With `folds` parts, one is held back and the others are fitted to. Write "
            "the ratio of the two.",
        ],
        "spread-too-small": ["What is the default of `ddof` in NumPy's `var`?"],
        "confidence-ignored": ["Where does 0.95 or 0.975 stand in your function?"],
        "degrees-of-folds": [
            "How many differences is the spread estimated from, and how many folds "
            "has one repetition?",
            "The page repeats five folds four times. Its degrees of freedom come from "
            "the number of differences.",
        ],
        "mean-and-reach": ["Around 0.03 by 0.01: from where to where does that go?"],
        "rounded": ["Who should round: the function, or whoever prints its result?"],
        "share-of-all": [
            "With two folds, half of the rows are fitted to and half are held back. "
            "What is the ratio of the two?"
        ],
        "unpaired": [
            "Fold 3 is hard for both versions. Should that make you less sure which of "
            "the two is better?"
        ],
    },
    not_checked="Whether both lists come from the same folds in the same order, and "
    "whether a gain in accuracy is the gain that you need.",
    notice="An interval that contains zero does not say that two versions are equally "
    "good. It says that these folds cannot tell.",
    wrong=[
        Wrong(
            "old minus new",
            "wrong-way-round",
            patch=(("np.asarray(new) - np.asarray(old)", "np.asarray(old) - new"),),
        ),
        Wrong(
            "high before low",
            "high-first",
            patch=(
                (
                    "return middle - reach, middle + reach",
                    "return middle + reach, middle - reach",
                ),
            ),
        ),
        Wrong(
            "forgets the correction",
            "naive",
            patch=(("(1 / n + 1 / (folds - 1))", "(1 / n)"),),
        ),
        Wrong(
            "adds the variances of both versions",
            "unpaired",
            patch=(
                (
                    "gain.var(ddof=1)",
                    "(np.var(new, ddof=1) + np.var(old, ddof=1))",
                ),
            ),
        ),
        Wrong(
            "leaves 5 % on each side",
            "one-sided",
            patch=(("(1 + confidence) / 2", "confidence"),),
        ),
        Wrong(
            "the normal quantile",
            "normal-not-t",
            patch=(
                (
                    "stats.t.ppf((1 + confidence) / 2, n - 1)",
                    "stats.norm.ppf((1 + confidence) / 2)",
                ),
            ),
        ),
        Wrong(
            "the share of all rows",
            "share-of-all",
            patch=(("1 / (folds - 1)", "1 / folds"),),
        ),
        Wrong(
            "always a quarter",
            "folds-ignored",
            patch=(("1 / (folds - 1)", "0.25"),),
        ),
        Wrong(
            "divides by n",
            "spread-too-small",
            patch=(("gain.var(ddof=1)", "gain.var()"),),
        ),
        Wrong(
            "always 95 %",
            "confidence-ignored",
            patch=(("(1 + confidence) / 2", "0.975"),),
        ),
        Wrong(
            "gives the middle and how far it reaches",
            "mean-and-reach",
            patch=(("middle - reach, middle + reach", "middle, reach"),),
        ),
        Wrong(
            "rounds to three decimals",
            "rounded",
            patch=(
                (
                    "middle - reach, middle + reach",
                    "round(middle - reach, 3), round(middle + reach, 3)",
                ),
            ),
        ),
        Wrong(
            "degrees of freedom from the folds of one repetition",
            "degrees-of-folds",
            patch=(("/ 2, n - 1)", "/ 2, folds - 1)"),),
        ),
        Wrong(
            "takes the median",
            "off",
            patch=(("gain.mean()", "np.median(gain)"),),
        ),
    ],
    also_right=[
        Right(
            "the page's function, with its share",
            source="""
            import numpy as np
            from scipy import stats

            def interval(differences, test_share=0.25, confidence=0.95):
                n = len(differences)
                spread = np.sqrt((1 / n + test_share) * differences.var(ddof=1))
                reach = stats.t.ppf((1 + confidence) / 2, n - 1) * spread
                return differences.mean() - reach, differences.mean() + reach

            def gain_interval(new, old, folds, confidence=0.95):
                held_back, fitted = 1 / folds, 1 - 1 / folds
                return interval(new - old, held_back / fitted, confidence)
            """,
        ),
        Right(
            "as an array, by SciPy's own interval",
            source="""
            import numpy as np
            from scipy import stats

            def gain_interval(new, old, folds, confidence=0.95):
                gain = np.subtract(new, old)
                wider = np.sqrt(1 + len(gain) / (folds - 1))
                bounds = stats.t.interval(
                    confidence, len(gain) - 1, gain.mean(), wider * stats.sem(gain)
                )
                return np.array(bounds)
            """,
        ),
    ],
)
def gain_interval(t: Trial) -> None:
    """Corrected resampled t interval of a paired gain, for any number of folds."""
    new = np.array([0.90, 0.95, 0.91, 0.96, 0.93])
    old = np.array([0.88, 0.90, 0.90, 0.91, 0.91])
    gain = (new - old).tolist()
    low, high = bounds(gain, share=1)
    pair = t.call(new, old, 2, gives="pair")
    t.need(
        not near(pair, (high, low)),
        "high-first",
        f"{t.said}, the higher end first.",
        "Whoever asks whether the lower end is above zero asks the other one.",
        "Return the lower end first.",
    )
    t.need(
        not near(pair, (-high, -low)),
        "wrong-way-round",
        f"{t.said}, and the new version is better on all five folds.",
        "A gain with the sign reversed ships the version that lost.",
        "Check which one you subtract from which.",
    )
    t.need(
        not near(pair, bounds(gain, share=0)),
        "naive",
        f"{t.said}: without the correction that is the interval.",
        "The folds share rows to fit, so they say less than as many independent "
        "experiments.",
        "Add test rows per fit row to `1 / n`, as the page does.",
    )
    apart = variance_of(new) + variance_of(old)
    t.need(
        not near(pair, bounds(gain, share=1, variance=apart)),
        "unpaired",
        f"{t.said}, with the spread of both versions added up.",
        "Some folds are harder than others for both; that says nothing of the gain.",
        "Take the spread of the differences, fold by fold.",
    )
    t.need(
        not near(pair, bounds(gain, share=1, confidence=0.9)),
        "one-sided",
        f"{t.said}, which leaves 5 % beyond each end: 90 % in all.",
        "Half of the surprises would be at the other end.",
        "Share what is left between the two ends.",
    )
    t.need(
        not near(pair, bounds(gain, share=1, normal=True)),
        "normal-not-t",
        f"{t.said}, with the quantile of a normal distribution.",
        "From five folds the spread itself is known badly.",
        "Use the distribution that the page uses, with its degrees of freedom.",
    )
    t.need(
        not near(pair, bounds(gain, share=0.5)),
        "share-of-all",
        f"{t.said}. Half of all rows are held back, and the other half is fitted to.",
        "The correction wants test rows for each row that is fitted to.",
        "Ask how many of the folds are fitted to when one is held back.",
    )
    t.need(
        not near(pair, bounds(gain, share=0.25)),
        "folds-ignored",
        f"{t.said}, the interval for five folds, and here there are two.",
        "The more rows are held back, the less one repetition says.",
        "Work the ratio out from `folds`.",
    )
    t.need(
        not near(pair, bounds(gain, share=1, variance=0.8 * variance_of(gain))),
        "spread-too-small",
        f"{t.said}, with the squared deviations divided by the number of folds.",
        "The mean comes from the same folds, and makes the spread look smaller.",
        "Divide by one less: NumPy's `ddof`.",
    )
    t.need(
        not near(pair, bounds(gain, share=1, degrees=1)),
        "degrees-of-folds",
        f"{t.said}, with one degree of freedom: one less than the folds.",
        "The spread was estimated from five differences, so it is known better.",
        "Count what the spread is computed from.",
    )
    as_formula(t, pair, (low, high))
    t.good("two folds, five differences")
    pair = t.call(new, old, 2, confidence=0.5, gives="pair")
    t.need(
        not near(pair, (low, high)),
        "confidence-ignored",
        f"{t.said}, as for a confidence of 0.95.",
        "How sure one wants to be is the caller's choice.",
        "Use the argument `confidence`.",
    )
    for _ in range(6):
        n, folds = int(t.rng.integers(3, 8)), int(t.rng.integers(2, 11))
        confidence = float(t.rng.choice([0.5, 0.8, 0.95, 0.99]))
        new, old = (t.rng.uniform(0.8, 1, size=n).round(2) for _ in range(2))
        wanted = bounds((new - old).tolist(), 1 / (folds - 1), confidence)
        pair = t.call(new, old, folds, confidence=confidence, gives="pair")
        as_formula(t, pair, wanted)
    t.good("any number of folds, any confidence")


def as_formula(
    t: Trial, pair: tuple[float, float], wanted: tuple[float, float]
) -> None:
    """The interval must be this one, as it is."""
    if near(pair, wanted):
        return
    middle, reach = sum(wanted) / 2, (wanted[1] - wanted[0]) / 2
    t.need(
        not near(pair, (middle, reach)),
        "mean-and-reach",
        f"{t.said}: the middle, and how far the interval reaches from it.",
        "Whoever asks whether the lower end is above zero asks the mean.",
        "Return the two ends.",
    )
    rounded = (tuple(round(end, places) for end in wanted) for places in range(2, 7))
    t.need(
        not any(near(pair, ends) for ends in rounded),
        "rounded",
        f"{t.said}; without rounding it is ({wanted[0]:.6f}, {wanted[1]:.6f}).",
        "An end that is a little above zero may be rounded down to it.",
        "Return both numbers as they are, and round where you print them.",
    )
    t.stop(
        "off",
        f"{t.said}; the formula gives ({wanted[0]:.4g}, {wanted[1]:.4g}): the middle "
        f"{middle:.4g}, and {reach:.4g} to either side.",
        "",
        "See which of the two differs: the middle is a mean, the rest is a quantile "
        "times a spread.",
    )


def bounds(
    gain: list[float],
    share: float,
    confidence: float = 0.95,
    variance: float | None = None,
    normal: bool = False,
    degrees: int | None = None,
) -> tuple[float, float]:
    """The interval of a mean gain; share: test rows per fit row."""
    from scipy import special

    n, middle = len(gain), sum(gain) / len(gain)
    if variance is None:
        variance = variance_of(gain)
    beyond = (1 - confidence) / 2
    quantile = (
        -special.ndtri(beyond) if normal else -special.stdtrit(degrees or n - 1, beyond)
    )
    reach = float(quantile) * (variance / n + variance * share) ** 0.5
    return middle - reach, middle + reach


def variance_of(values: Iterable[float]) -> float:
    """The sample variance, from the definition."""
    listed = [float(value) for value in values]
    middle = sum(listed) / len(listed)
    return sum((value - middle) ** 2 for value in listed) / (len(listed) - 1)


def near(pair: tuple[float, float], wanted: tuple[float, float]) -> bool:
    """Whether both ends agree, rounding aside."""
    return all(abs(one - other) < 1e-6 for one, other in zip(pair, wanted, strict=True))


version_parts = choice(
    "version_parts",
    {
        "a": Option(
            False,
            "The web site asks the service and shows its answer. Whatever its colour, "
            "the same address gets the same answer.",
            "For each change, ask whether one address could get another answer.",
        ),
        "b": Option(
            True,
            "the same data and code can fit another model, and the same model can be "
            "run in another way",
        ),
        "c": Option(
            False,
            "A comment changes no answer. Our digest changes all the same, as it "
            "is taken over the source: a version too many, on the safe side.",
            "For each change, ask whether one address could get another answer.",
        ),
        "d": Option(True, "one row more or less is another model"),
        "e": Option(
            False,
            "More servers answer more requests, all in the same way. Their number "
            "belongs to the deployment.",
            "For each change, ask whether one address could get another answer.",
        ),
        "f": Option(
            True,
            "the threshold turns a probability into an answer, and stands in the code",
        ),
    },
    hints={
        "*": [
            "Go through the list with one web address in mind: could it get another "
            "answer afterwards?",
            "A version is the triple of code, model and contract. Which of the three "
            "does each change touch, and could that reach an answer?",
        ]
    },
    not_checked="Whether your own build would notice each of these changes. Ours sees "
    "an upgrade only if the exported model changes with it.",
    notice="A digest that moves too often costs a review. One that stays when answers "
    "change costs the way back.",
)
