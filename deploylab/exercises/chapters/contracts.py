"""Checks for *Settle the contract before you serve*."""

from __future__ import annotations

import math
import textwrap
from dataclasses import replace
from numbers import Number
from typing import Any

import numpy as np

from deploylab.contract import Contract, ContractError, Feature
from deploylab.exercises.engine import Found, Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Before, Option, choice, order
from deploylab.exercises.result import show

breaks_whom = choice(
    "breaks_whom",
    {
        "a": Option(True, "every request with eight features is refused"),
        "b": Option(
            False,
            "A caller that stays as it is sends 0 and 1 there, and both are still "
            "taken. Reading more than before refuses nobody.",
            "Ask what an unchanged caller sends, and whether it is still taken.",
        ),
        "c": Option(True, "old callers send it, and the service refuses the name"),
        "d": Option(
            False,
            "These callers ignore what they do not know. One that refuses unknown "
            "fields would be hurt; that is why they should not.",
            "Read again what the callers do with a field that they do not know.",
        ),
        "e": Option(True, "whoever still sends 0.5 is refused"),
        "f": Option(True, "83 does not lie between 0 and 1: the caller refuses it"),
        "g": Option(
            True, "nobody refuses anything, and answers that have turned are believed"
        ),
        "h": Option(True, "`null` is neither true nor false"),
        "i": Option(
            False,
            "A request is read by name. The order matters between the contract and "
            "the model, and that stays inside the service.",
            "Ask who ever sees the order of the list.",
        ),
    },
    hints={
        "*": [
            "For each change, ask who writes the message and who reads it. May the "
            "writer now write what the reader does not take?",
            "Requests: hurt when the service reads less. Answers: hurt when it writes "
            "more than the caller takes. And then there is meaning, which no reader "
            "checks.",
            "1 go through the requests, 2 through the answers, 3 ask of what is left "
            "whether a value has come to mean something else.",
        ]
    },
    not_checked="What your own callers do with a field that they do not know. Ask "
    "them, or send them one in a rehearsal.",
    notice="Of the six that hurt, five are refused by somebody, and one of them is "
    "found only if features are compared.",
)


# A request that proves a break.

LISTED = {"https": (0, 0.5, 1), "ip_in_url": (0, 1)}


class Listed(Contract):
    """A contract that shows what it lists, and no more."""

    def __repr__(self) -> str:
        listed = ", ".join(
            f"{f.name} in ({', '.join(f'{value:g}' for value in f.values)})"
            for f in self.features
        )
        return f"<Contract: {listed}>"


def contract(**values: tuple[float, ...]) -> Contract:
    """A small contract: the values of each feature."""
    return Listed(
        "-".join(values),
        tuple(Feature(name, allowed, name) for name, allowed in values.items()),
    )


def keeps(a: Contract, request: Any) -> bool:
    """Whether a request keeps a contract."""
    try:
        a.row(request)
    except ContractError:
        return False
    return True


def judged(t: Trial, old: Contract, new: Contract, what: str) -> dict | None:
    """The answer for two contracts: None, or a request of the old one."""
    try:
        request = t.call(old, new)
    except Found as found:
        if found.finding.id != "crash":
            raise
        do = "Run `[counterexample(contract, new) for new in proposals.values()]` in a "
        do += "cell of its own: these are the changes of this page."
        raise Found(found.status, replace(found.finding, do=do)) from None
    t.need(
        request is None or isinstance(request, dict),
        "not-a-request",
        f"For {what}, `counterexample` gave `{str(request)[:60]}`, which is neither "
        "a request nor `None`.",
        "Whoever doubts the verdict wants to send the request and see.",
        "Return the request itself, as a dict, or `None`.",
    )
    t.need(
        request is None or keeps(old, request),
        "not-old",
        f"For {what}, `counterexample` gave `{str(request)[:120]}`, which breaks the "
        "old contract itself.",
        "No caller sends this today, so it says nothing of what the change breaks.",
        "Build the request from what the old contract lists.",
    )
    return request


def needless(request: Any, what: str) -> tuple[str, str, str]:
    """The words for a request that the new contract takes, where none is refused."""
    return (
        f"For {what}, `counterexample` gave `{str(request)[:90]}`, and the new service "
        "takes it.",
        "A checker that cries wolf is switched off before the wolf comes.",
        "Return a request only if the new contract refuses it.",
    )


def overlooked(what: str) -> tuple[str, str, str]:
    """The words for a change that was taken for harmless."""
    return (
        f"For {what}, `counterexample` gave `None`.",
        "The change goes out as harmless, and callers are refused.",
        "Name, for this change, one request that was fine and is not any more.",
    )


def proves(t: Trial, new: Contract, request: dict, what: str) -> None:
    """The request must be one that the new contract refuses."""
    t.need(
        not keeps(new, request),
        "not-refused",
        f"For {what}, `counterexample` gave `{str(request)[:90]}`, and the new service "
        "takes it.",
        "Somebody replays it, sees 200, and calls the verdict a false alarm.",
        "Put the value into the request that the new contract does not take.",
    )


@exercise(
    too_slow=(
        "Thirty features allow more than a billion requests, and a check that nobody "
        "waits for is not run.",
        "Look for a loop over all requests, or for one that does not end.",
    ),
    hints={
        "*": [
            "When does the new service refuse a request that the old one took?",
            "Three reasons: a name that it needs is not there, a name is there that "
            "it does not know, a value is not in its list.",
            "1 build any request of the old contract, 2 compare the names, 3 look for "
            "one value of one feature that is not taken, and put it in.",
        ],
        "too-slow": [
            "How many requests does a contract with thirty features of two values "
            "allow?",
            "No rule joins two features. What does that say about a value that is not "
            "taken: does it matter what the other fields hold?",
        ],
        "missed-removed": [
            "The service refuses names that it does not know. Which names does an old "
            "caller send?",
        ],
        "missed-added": ["Which names does the new service need?"],
        "drawn": [
            "Of a thousand draws among 2,000 values, how many never meet the one that "
            "is gone?",
            "A value that is not taken belongs to one feature. How many requests does "
            "it take to try each value of each feature once?",
        ],
        "not-old": ["Which of the two contracts says what callers send today?"],
        "order-matters": ["How does the service read a request: by place or by name?"],
    },
    not_checked="Contracts with other rules than names and lists of values, such as "
    "a range, or a rule that joins two fields.",
    notice="The request that you return is a test case: keep it, and replay it "
    "against every later release.",
    wrong=[
        Wrong(
            "says true or false",
            "not-a-request",
            source="""
            def counterexample(old, new):
                return old.digest != new.digest
            """,
        ),
        Wrong(
            "compares digests",
            "false-alarm",
            source="""
            def counterexample(old, new):
                if old.digest != new.digest:
                    return {f.name: f.values[0] for f in old.features}
                return None
            """,
        ),
        Wrong(
            "compares names in order",
            "order-matters",
            patch=(("takes.keys() != request.keys()", "old.names != new.names"),),
        ),
        Wrong(
            "looks at names alone",
            "missed-narrowed",
            source="""
            def counterexample(old, new):
                request = {f.name: f.values[0] for f in old.features}
                return request if set(old.names) != set(new.names) else None
            """,
        ),
        Wrong(
            "looks for what is missing, not for what is unknown",
            "missed-removed",
            source="""
            def counterexample(old, new):
                request = {f.name: f.values[0] for f in old.features}
                takes = {f.name: f.values for f in new.features}
                if set(takes) - set(request):
                    return request
                for feature in old.features:
                    for value in feature.values:
                        if value not in takes.get(feature.name, feature.values):
                            return {**request, feature.name: value}
                return None
            """,
        ),
        Wrong(
            "looks for what is unknown, not for what is missing",
            "missed-added",
            source="""
            def counterexample(old, new):
                request = {f.name: f.values[0] for f in old.features}
                takes = {f.name: f.values for f in new.features}
                for feature in old.features:
                    for value in feature.values:
                        if value not in takes.get(feature.name, ()):
                            return {**request, feature.name: value}
                return None
            """,
        ),
        Wrong(
            "asks what a new caller may send",
            "not-old",
            source="""
            def counterexample(old, new):
                request = {f.name: f.values[0] for f in new.features}
                return None if set(old.names) == set(new.names) else request
            """,
        ),
        Wrong(
            "takes a widening for a break",
            "false-alarm",
            patch=(
                (
                    "        for value in feature.values:\n",
                    "        if set(feature.values) != set(takes[feature.name]):\n"
                    "            return request\n"
                    "        for value in feature.values:\n",
                ),
            ),
        ),
        Wrong(
            "finds the value and sends another",
            "not-refused",
            patch=(("{**request, feature.name: value}", "request"),),
        ),
        Wrong(
            "looks at the first feature alone",
            "missed-narrowed",
            patch=(("in old.features:", "in old.features[:1]:"),),
        ),
        Wrong(
            "draws twenty requests",
            "drawn",
            source="""
            import random

            def counterexample(old, new):
                from deploylab.contract import ContractError

                draw = random.Random(1)
                for _ in range(20):
                    request = {f.name: draw.choice(f.values) for f in old.features}
                    try:
                        new.row(request)
                    except ContractError:
                        return request
                return None
            """,
        ),
        Wrong(
            "compares by place",
            "crash",
            source="""
            def counterexample(old, new):
                for a, b in zip(old.features, new.features, strict=True):
                    for value in a.values:
                        if value not in b.values:
                            return {f.name: f.values[0] for f in old.features} | {
                                a.name: value
                            }
                return None
            """,
        ),
        Wrong(
            "tries every request",
            "too-slow",
            source="""
            import itertools

            def counterexample(old, new):
                from deploylab.contract import ContractError

                values = [f.values for f in old.features]
                for row in itertools.product(*values):
                    request = dict(zip(old.names, row))
                    try:
                        new.row(request)
                    except ContractError:
                        return request
                return None
            """,
        ),
    ],
    also_right=[
        Right(
            "asks the new contract, a value at a time",
            source="""
            def counterexample(old, new):
                from deploylab.contract import ContractError

                first = {f.name: f.values[-1] for f in old.features}
                tries = [first] + [
                    first | {f.name: value} for f in old.features for value in f.values
                ]
                for request in tries:
                    try:
                        new.row(request)
                    except ContractError:
                        return request
            """,
        ),
    ],
)
def counterexample(t: Trial) -> None:
    """A request that keeps the old contract and breaks the new one, if there is."""
    old = contract(**LISTED)
    reworded = Contract("b", tuple(Feature(f.name, f.values, "") for f in old.features))
    wider = contract(https=(0, 0.5, 1), ip_in_url=(0, 0.5, 1))
    for new, what in [
        (old, "a contract and itself"),
        (reworded, "other words for the meaning"),
        (wider, "a feature that takes one value more"),
    ]:
        request = judged(t, old, new, what)
        t.need(request is None, "false-alarm", *needless(request, what))
    t.good("None where the new service takes everything that the old one took")

    new, what = contract(**LISTED, age=(0, 1)), "a feature that is added"
    request = judged(t, old, new, what)
    t.need(request is not None, "missed-added", *overlooked(what))
    proves(t, new, request, what)
    new, what = contract(https=(0, 0.5, 1)), "a feature that is removed"
    request = judged(t, old, new, what)
    t.need(request is not None, "missed-removed", *overlooked(what))
    proves(t, new, request, what)
    new, what = contract(tls=(0, 0.5, 1), ip_in_url=(0, 1)), "a feature that is renamed"
    request = judged(t, old, new, what)
    t.need(request is not None, "missed-added", *overlooked(what))
    proves(t, new, request, what)
    t.good("names that are added, removed and renamed")

    many = {f"f{number}": (0.0, 1.0) for number in range(30)}
    for before, new, what in [
        (old, contract(https=(0.5, 1), ip_in_url=(0, 1)), "`https` without 0"),
        (old, contract(https=(0, 1), ip_in_url=(0, 1)), "`https` without 0.5"),
        (old, contract(https=(0, 0.5), ip_in_url=(0, 1)), "`https` without 1"),
        (old, contract(https=(0, 0.5, 1), ip_in_url=(0,)), "`ip_in_url` without 1"),
        (
            old,
            contract(https=(0, 0.5, 1, 2), ip_in_url=(1, 2)),
            "one feature wider and `ip_in_url` without 0",
        ),
        (
            contract(**many),
            contract(**{**many, "f29": (0.0,)}),
            "30 features, of which the last narrows",
        ),
        (
            contract(https=(0, 1), always=(1,)),
            contract(https=(1,), always=(1,)),
            "a feature with one value, and `https` without 0",
        ),
    ]:
        request = judged(t, before, new, what)
        t.need(request is not None, "missed-narrowed", *overlooked(what))
        proves(t, new, request, what)
    t.good("any value of any feature that is no longer taken, among 30 as among 2")

    for gone in t.rng.choice(2_000, size=2, replace=False).tolist():
        kept = tuple(code for code in range(2_000) if code != gone)
        before, new = contract(port=tuple(range(2_000))), contract(port=kept)
        what = f"`port`, 0 to 1,999, of which {gone:,} is not taken any more"
        request = judged(t, before, new, what)
        t.need(
            request is not None,
            "drawn",
            f"For {what}, `counterexample` gave `None`.",
            "A draw that finds nothing proves nothing, and a caller is refused.",
            "Go through the values one by one, and leave none out.",
        )
        proves(t, new, request, what)
    t.good("one value that is gone among 2,000")

    turned = contract(ip_in_url=(1, 0), https=(1, 0.5, 0))
    what = "the same in another order"
    request = judged(t, old, turned, what)
    t.need(request is None, "order-matters", *needless(request, what))
    t.good("the order is nobody's business")

    what = "30 features, of which none changes"
    request = judged(t, contract(**many), contract(**many), what)
    t.need(request is None, "false-alarm", *needless(request, what))
    t.good("None for 30 features too, in no time")


order_change = order(
    "order_change",
    {
        "A": "Release a service with the model of `v2` that takes eight features or "
        "nine.",
        "B": "Have the service count, for each form, the requests that come in it.",
        "C": "Let the callers send nine features, each when its team is ready.",
        "D": "Wait until no request with eight has come for longer than a month.",
        "E": "Release `v3-contract`, and let it take all the traffic.",
        "F": "Remove what was there for eight features.",
    },
    [
        Before(
            "A",
            "C",
            "nobody-reads-nine",
            "A service that takes eight features refuses the ninth by name, so the "
            "first team that moves is refused.",
            "Ask who has to understand the new form before anybody sends it.",
        ),
        Before(
            "C",
            "D",
            "waits-for-nothing",
            "Nobody sends nine yet, so requests with eight never stop.",
            "Ask what makes the old form go away.",
        ),
        Before(
            "B",
            "D",
            "nobody-counts",
            "A wait without a count ends when somebody believes that it may.",
            "Ask how you would know that no such request has come.",
        ),
        Before(
            "D",
            "E",
            "callers-left",
            "`v3-contract` refuses eight features, and the program of the first of "
            "the month is among those that send them.",
            "Ask who is refused at the moment when the new version takes over.",
        ),
        Before(
            "E",
            "F",
            "no-way-back",
            "Until the new version has all the traffic and keeps it, the old form is "
            "the way back.",
            "Ask what you would go back to if `v3-contract` turned out to be bad.",
        ),
    ],
    distractors={
        "G": "A default is an answer that the caller never gave: on this page it "
        "turned answers, silently, and nobody would ever have to move.",
        "H": "Whoever sends eight and meets it is refused. A count finds the same "
        "callers and hurts none of them.",
        "I": "A date tells when somebody should have moved. The count tells whether "
        "they have.",
    },
    example="BACDEF",
    others=["ABCDEF", "ACBDEF"],
    hints={
        "*": [
            "At each moment, two questions: which forms are being sent, and which are "
            "taken by every service that is up?",
            "Expand before anybody moves, migrate until the count says so, and only "
            "then contract.",
            "1 take both forms and count, 2 callers move, 3 the count is silent for "
            "long enough, 4 the new version, 5 clean up.",
        ]
    },
    not_checked="How long you keep the way back open, and who tells the twelve teams.",
    notice="The service changed three times so that no caller ever had to change at "
    "the same moment.",
)


# A training table without a leak.

#: Each case: visits, history, what is right, and the words of the finding.
#: The rows of a history: entity, event_time, created_time, reports.
Case = tuple[list, list, list, str, str, str]
FUTURE: Case = (
    [("a", 6)],
    [("a", 5, 5, 1), ("a", 9, 9, 8)],
    [1],
    "A site had 1 report on day 5 and 8 on day 9; it was visited on day 6.",
    "The model learns from what happened after the visit, and cannot have it "
    "when it serves.",
    "Let only rows take part that were there at the time of the visit.",
)
VISIT_LOST: Case = (
    [("a", 6), ("b", 6), ("c", 1)],
    [("a", 5, 5, 1), ("c", 2, 2, 4)],
    [1, None, None],
    "Three visits: nothing is known about one site, and nothing yet about another.",
    "Training sees only sites that somebody reported, and serving sees all.",
    "Keep a visit also when nothing joins to it. Where does your condition stand?",
)
LATE: Case = (
    [("a", 6)],
    [("a", 1, 1, 1), ("a", 5, 7, 2)],
    [1],
    "A row about day 5 was written on day 7; the visit was on day 6.",
    "The service could not read it on day 6: training gets what nobody had.",
    "Ask which of the two times says when a row could be read.",
)
LATE_WINS: Case = (
    [("a", 8)],
    [("a", 5, 5, 3), ("a", 2, 6, 2)],
    [3],
    "A row about day 5 was written on day 5, and one about day 2 arrived late, "
    "on day 6; the visit was on day 8.",
    "An old row that arrives late does not make the newer one untrue.",
    "Ask which of the two times says what the row is about.",
)
TIE: Case = (
    [("a", 8)],
    [("a", 5, 6, 4), ("a", 5, 5, 3)],
    [4],
    "A row about day 5 was written on day 5, and corrected on day 6; the visit "
    "was on day 8.",
    "Which of the two is taken depends on how the table was loaded, so the "
    "training table cannot be made again.",
    "Say which row holds when two are about the same moment.",
)
TIE_AGAIN: Case = (
    [("a", 8)],
    [("a", 5, 5, 3), ("a", 5, 6, 4)],
    [4],
    "A row about day 5 was written on day 5, and corrected on day 6; the visit "
    "was on day 8.",
    "Which of the two is taken depends on how the table was loaded, so the "
    "training table cannot be made again.",
    "Say which row holds when two are about the same moment.",
)
EDGE: Case = (
    [("a", 6)],
    [("a", 1, 1, 1), ("a", 5, 6, 2)],
    [2],
    "A row was written at the very moment of the visit.",
    "The online store would have answered with it, so the two stores disagree.",
    "Look at your comparison: does *at the very moment* count?",
)
STALE: Case = (
    [("a", 40)],
    [("a", 5, 5, 3)],
    [None],
    "What is known is about a moment 35 days before the visit.",
    "The online store answers nothing for it, and the model has learned to "
    "expect a number.",
    "Compare the event time with the time of the visit.",
)
STALE_BY_CREATED: Case = (
    [("a", 40)],
    [("a", 5, 15, 3)],
    [None],
    "A row about day 5 was written on day 15; the visit was on day 40.",
    "The count is 35 days old, however late somebody wrote it down.",
    "Ask from which of the two times the age is counted.",
)
FRESH_LOST: Case = (
    [("a", 35)],
    [("a", 5, 5, 3)],
    [3],
    "What is known is about a moment exactly 30 days before the visit.",
    "*More than 30 days* was agreed, and the online store still answers.",
    "Look at your comparison: are 30 days more than 30 days?",
)
VISITS_MIXED: Case = (
    [("a", 6), ("a", 9), ("b", 9)],
    [("a", 5, 5, 1), ("a", 8, 8, 2), ("b", 7, 7, 5)],
    [1, 2, 5],
    "A site was visited twice, and another one once.",
    "A visit is a site at a time; each has a state of its own.",
    "See what your query groups or joins by.",
)


def _sql(text: str) -> str:
    """The source of a cell that writes such a file."""
    return f"%%writefile {{work}}/training.sql\n{textwrap.dedent(text).strip()}\n"


@exercise(
    "configuration",
    starting="80528dfea4c531c3",
    limit_s=4.0,
    hints={
        "*": [
            "Write down, for one visit, which rows of the history the service could "
            "have read, and which of them it would have answered with.",
            "Two times, two jobs: created time decides whether a row was there, event "
            "time which of those that were there holds.",
            "1 every visit stays, 2 join what was written by then and is not too old, "
            "3 of these the last by event time, then by created time.",
        ],
        "visit-lost": [
            "What does a `JOIN` do with a row on the left that finds none on the "
            "right, and what does a `WHERE` do with it afterwards?",
            "`LEFT JOIN` keeps it, if all conditions stand behind `ON`.",
        ],
        "filled": [
            "What does the online store answer for a site of which nothing is known?",
            "Which function of your query makes a number of a `NULL`?",
        ],
        "tie": [
            "DuckDB takes several columns in `ORDER BY`, also inside `last(x ORDER BY "
            "...)`, and `arg_max` takes a row: `(event_time, created_time)`.",
        ],
        "sql-error": [
            "Read the message: DuckDB names the place. Are the tables and columns "
            "spelt as in the exercise?"
        ],
    },
    not_checked="How fast the query is on a long history, and whether created time in "
    "your own warehouse is what it says: a backfill that writes old times "
    "brings the leak back.",
    notice="The table says what was known, not what is true. Serving never has more.",
    wrong=[
        Wrong(
            "joins the newest by event time, at or before the visit",
            "visit-lost",
            source=_sql("""
            SELECT visits.*, history.reports
            FROM visits ASOF JOIN history
            ON visits.entity = history.entity AND visits.time >= history.event_time
            """),
        ),
        Wrong(
            "the same, and keeps all visits",
            "late",
            source=_sql("""
            SELECT visits.*, history.reports
            FROM visits ASOF LEFT JOIN history
            ON visits.entity = history.entity AND visits.time >= history.event_time
            """),
        ),
        Wrong(
            "as of the created time alone",
            "late-wins",
            source=_sql("""
            SELECT visits.*, history.reports
            FROM visits ASOF LEFT JOIN history
            ON visits.entity = history.entity AND visits.time >= history.created_time
            """),
        ),
        Wrong(
            "keeps all visits, with the newest value",
            "future",
            source=_sql("""
            SELECT visits.entity, visits.time, newest.reports
            FROM visits LEFT JOIN (
                SELECT entity, arg_max(reports, event_time) AS reports
                FROM history GROUP BY entity
            ) AS newest ON visits.entity = newest.entity
            """),
        ),
        Wrong(
            "forgets created time",
            "late",
            patch=(("history.created_time <=", "history.event_time <="),),
        ),
        Wrong(
            "puts the conditions into WHERE",
            "visit-lost",
            patch=(
                (
                    "AND history.created_time <= visits.time\nAND visits.time",
                    "WHERE history.created_time <= visits.time\nAND visits.time",
                ),
            ),
        ),
        Wrong(
            "fills the gaps with 0",
            "filled",
            patch=(
                ("last(history", "coalesce(last(history"),
                ("created_time) AS", "created_time), 0) AS"),
            ),
        ),
        Wrong(
            "a comment alone",
            "no-query",
            source=_sql("-- the newest row that was written by then"),
        ),
        Wrong(
            "gives texts",
            "no-number",
            source=_sql("""
            SELECT entity, time, 'one' AS reports FROM visits
            """),
        ),
        Wrong(
            "before the visit, not at it",
            "edge",
            patch=(("created_time <= visits", "created_time < visits"),),
        ),
        Wrong(
            "leaves the tie to chance",
            "tie",
            patch=(("ORDER BY event_time, created_time", "ORDER BY event_time"),),
        ),
        Wrong(
            "the original holds, not the correction",
            "tie",
            patch=(("event_time, created_time)", "event_time, created_time DESC)"),),
        ),
        Wrong(
            "takes the largest count",
            "late-wins",
            source=_sql("""
            SELECT visits.entity, visits.time, last(h.reports ORDER BY h.created_time)
                AS reports
            FROM visits LEFT JOIN history AS h
            ON visits.entity = h.entity AND h.created_time <= visits.time
            GROUP BY visits.entity, visits.time
            """),
        ),
        Wrong(
            "forgets the thirty days",
            "stale",
            patch=(("\nAND visits.time - history.event_time <= 30", ""),),
        ),
        Wrong(
            "counts the age from the created time",
            "stale-by-created",
            patch=(("time - history.event_time", "time - history.created_time"),),
        ),
        Wrong(
            "thirty days are too old",
            "fresh-lost",
            patch=(("event_time <= 30", "event_time < 30"),),
        ),
        Wrong(
            "groups by site",
            "visits-mixed",
            patch=(
                (
                    "visits.entity, visits.time,\n",
                    "visits.entity, max(visits.time) AS time,\n",
                ),
                ("GROUP BY visits.entity, visits.time", "GROUP BY visits.entity"),
            ),
        ),
        Wrong(
            "weighs one time against the other",
            "off",
            patch=(("event_time, created_time)", "event_time + created_time / 2)"),),
        ),
        Wrong(
            "joins without choosing",
            "too-many",
            source=_sql("""
            SELECT visits.*, history.reports
            FROM visits LEFT JOIN history
            ON visits.entity = history.entity
            AND history.created_time <= visits.time
            AND visits.time - history.event_time <= 30
            """),
        ),
        Wrong(
            "another name for the column",
            "columns",
            patch=(("AS reports", "AS n_reports"),),
        ),
        Wrong(
            "a column that is not there",
            "sql-error",
            patch=(("history.created_time", "history.written_time"),),
        ),
        Wrong(
            "a command instead of a query",
            "columns",
            source=_sql("CREATE TABLE training AS SELECT * FROM visits"),
        ),
    ],
    also_right=[
        Right(
            "a table on the way",
            source=_sql("""
            CREATE TEMP TABLE readable AS
            SELECT visits.entity, time, reports, event_time, created_time
            FROM visits JOIN history USING (entity)
            WHERE created_time <= time AND time - event_time <= 30;

            SELECT entity, time, (
                SELECT arg_max(reports, (event_time, created_time))
                FROM readable
                WHERE readable.entity = visits.entity AND readable.time = visits.time
            ) AS reports
            FROM visits;
            """),
        ),
        Right(
            "a window, and arg_max over both times",
            source=_sql("""
            WITH readable AS (
                SELECT visits.entity, visits.time, history.event_time,
                    history.created_time, history.reports
                FROM visits JOIN history USING (entity)
                WHERE history.created_time <= visits.time
            ), newest AS (
                SELECT * FROM readable
                QUALIFY row_number() OVER (
                    PARTITION BY entity, time
                    ORDER BY event_time DESC, created_time DESC) = 1
            )
            SELECT entity, time, if(time - event_time <= 30, reports, NULL) AS reports
            FROM visits LEFT JOIN newest USING (entity, time)
            """),
        ),
        Right(
            "a subquery for each visit",
            source=_sql("""
            SELECT time, entity, (
                SELECT reports FROM history AS h
                WHERE h.entity = v.entity AND h.created_time <= v.time
                AND h.event_time >= v.time - 30
                ORDER BY h.event_time DESC, h.created_time DESC LIMIT 1
            ) AS reports
            FROM visits AS v;
            """),
        ),
    ],
)
def training_table(t: Trial) -> None:
    """A training table of what was known at each visit, in SQL."""
    right, *words = case(t, FUTURE)
    t.need(right, "future", *words)
    right, *words = case(t, VISIT_LOST)
    t.need(right, "visit-lost", *words)
    right, *words = case(t, LATE)
    t.need(right, "late", *words)
    right, *words = case(t, LATE_WINS)
    t.need(right, "late-wins", *words)
    right, *words = case(t, TIE)
    t.need(right, "tie", *words)
    right, *words = case(t, TIE_AGAIN)
    t.need(right, "tie", *words)
    right, *words = case(t, EDGE)
    t.need(right, "edge", *words)
    right, *words = case(t, STALE)
    t.need(right, "stale", *words)
    right, *words = case(t, STALE_BY_CREATED)
    t.need(right, "stale-by-created", *words)
    right, *words = case(t, FRESH_LOST)
    t.need(right, "fresh-lost", *words)
    right, *words = case(t, VISITS_MIXED)
    t.need(right, "visits-mixed", *words)
    t.good("nothing from the future, and no visit is lost")
    t.good("late rows, ties, and values that are too old")
    for _ in range(3):
        visits = [(str(t.rng.integers(4)), int(t.rng.integers(60))) for _ in range(30)]
        visits = sorted(set(visits))
        keys = {
            (str(t.rng.integers(3)), *sorted(t.rng.integers(60, size=2).tolist()))
            for _ in range(40)
        }
        history = [(*key, number) for number, key in enumerate(sorted(keys))]
        table = joined(t, visits, history)
        for visit in visits:
            right = by_hand(history, *visit)
            t.need(
                table.get(visit, "no row") == right,
                "off",
                "In a made-up history, your query gave "
                f"{shown(table.get(visit, 'no row'))} for a visit; right is "
                f"{shown(right)}.",
                "",
                "Write down the rows that were readable at the visit, and choose.",
            )
    t.good("three made-up histories, each compared row by row")


def case(t: Trial, this: Case) -> tuple[bool, str, str, str]:
    """Whether the query is right for a case, and the words if it is not."""
    visits, history, right, what, why, do = this
    table = joined(t, visits, history)
    got = [table.get(visit, "no row") for visit in visits]
    said, wanted = (", ".join(map(shown, values)) for values in (got, right))
    what = f"{what} Your query gave {said}; right is {wanted}."
    known = {None, "no row", *(row[3] for row in history)}
    nothing = [value for value, truth in zip(got, right, strict=True) if truth is None]
    t.need(
        known.issuperset(nothing),
        "filled",
        f"{what} No row of the history says so.",
        "`NULL` says that nothing is known. The online store answers nothing there, "
        "and the model has learned to expect a number.",
        "Take away what puts a value in the place of a `NULL`.",
    )
    return got == right, what, why, do


def shown(value: float | str | None) -> str:
    """A value of the result, as one says it."""
    return "`NULL`" if value is None else value if value == "no row" else f"`{value:g}`"


def by_hand(history: list, entity: str, time: float) -> float | None:
    """The value that the online store would have answered, from its definition."""
    there = [row for row in history if row[0] == entity and row[2] <= time]
    if not there:
        return None
    newest = max(there, key=lambda row: (row[1], row[2]))
    return newest[3] if time - newest[1] <= 30 else None


def _database() -> Any:
    """The two tables, empty; nothing of a query reaches a file."""
    import duckdb

    config = {"threads": 1, "memory_limit": "200MB", "enable_external_access": False}
    database = duckdb.connect(config=config)
    database.execute("CREATE TABLE visits (entity VARCHAR, time DOUBLE)")
    database.execute(
        "CREATE TABLE history (entity VARCHAR, event_time DOUBLE, "
        "created_time DOUBLE, reports DOUBLE)"
    )
    return database


def joined(t: Trial, visits: list, history: list) -> dict:
    """What the student's query gives for each visit, in a database of its own."""
    import duckdb

    query, columns, rows = t.thing.read_text("utf-8", errors="replace"), [], []
    try:
        with _database() as database:
            for table, lines in (("visits", visits), ("history", history)):
                row = f"({', '.join('?' * len(lines[0]))})"
                rows_of_marks = ", ".join([row] * len(lines))
                values = [value for line in lines for value in line]
                # One statement: `executemany` takes as long for each row.
                database.execute(f"INSERT INTO {table} VALUES {rows_of_marks}", values)
            result = database.execute(query)
            if result is not None and result.description:
                columns = [column[0].lower() for column in result.description]
                rows = result.fetchall()
    except duckdb.Error as error:
        said = " ".join(str(error).split()).replace("`", "'")[:140]
        t.stop(
            "sql-error",
            f"DuckDB could not run `{t.thing.name}`: {said}",
            "",
            "Run the query on two small tables of your own, and read the message.",
        )
    t.need(
        result is not None,
        "no-query",
        f"`{t.thing.name}` holds no query.",
        "A comment is no query, so there is no training table.",
        "Write one `SELECT` that gives the three columns.",
    )
    t.need(
        sorted(columns) == ["entity", "reports", "time"],
        "columns",
        f"The result has the columns `{', '.join(columns) or 'of no query'}`.",
        "Whoever trains on it reads `entity`, `time` and `reports`.",
        "Give the result these three columns, by these names.",
    )
    place = [columns.index(name) for name in ("entity", "time", "reports")]
    lines = [tuple(row[i] for i in place) for row in rows]
    t.need(
        len(lines) <= len(visits),
        "too-many",
        f"{len(visits)} visits gave {len(lines)} rows.",
        "A site with a long history counts many times in training, with one label.",
        "Choose one row of the history for each visit.",
    )
    values = [value for _, *numbers in lines for value in numbers]
    odd = [value for value in values if not isinstance(value, Number | None)]
    t.need(
        not odd,
        "no-number",
        f"The result has `{show(odd[0] if odd else '')}` for `time` or `reports`, and "
        "that is no number.",
        "A model is fitted to numbers.",
        "Give both as the tables have them, and `NULL` where nothing is known.",
    )
    return {(str(entity), time): value for entity, time, value in lines}


# The paired test.


@exercise(
    hints={
        "*": [
            "What makes two rows a pair, and what makes two values equal?",
            "Bring both tables to the same requests, in the same order, and to the "
            "same columns. Then compare cell by cell.",
            "1 the requests on both sides, 2 `.loc` with them and the columns, 3 equal "
            "up to the tolerance or missing on both sides, 4 count the rest.",
        ],
        "wrong-pairs": [
            "The tables come in any order. What names a request on both sides?",
            "`served.values != trained.values` compares places. `.loc` brings rows to "
            "an order that you choose.",
        ],
        "missing-both": ["What does `nan == nan` give?"],
        "filler": [
            "Which number can you put in the place of what is missing, so that "
            "no caller ever sends it?",
            "None. So ask on each side who is missing: `.isna()`.",
        ],
        "relative-tolerance": [
            "`np.allclose` and `np.isclose` have two tolerances. Which did you set, "
            "and what is the other?",
        ],
    },
    equivalent={
        "same = (one - other).abs() <= 1e-06": "no two values differ by exactly the "
        "tolerance",
        "return {name: n for name, n in counts.items() if n}": "an integer of NumPy is "
        "equal to one of Python",
    },
    not_checked="An error that both sides share, and whether the log holds the "
    "requests that matter.",
    notice="No label was needed, and no user: a rehearsal with a few hundred "
    "requests is enough.",
    wrong=[
        Wrong(
            "pairs by place",
            "wrong-pairs",
            source="""
            def skewed(served, trained):
                n = min(len(served), len(trained))
                one = served[trained.columns].iloc[:n].to_numpy()
                other = trained.iloc[:n].to_numpy()
                same = (abs(one - other) < 1e-6) | (np.isnan(one) & np.isnan(other))
                counts = dict(zip(trained.columns, (~same).sum(axis=0).tolist()))
                return {name: count for name, count in counts.items() if count}
            """,
        ),
        Wrong(
            "takes columns by place",
            "wrong-columns",
            patch=(
                (
                    "one = served.loc[both, trained.columns]",
                    "one = served.loc[both].set_axis(trained.columns, axis=1)",
                ),
            ),
        ),
        Wrong(
            "expects every request on both sides",
            "crash",
            patch=(("served.index.intersection(trained.index)", "trained.index"),),
        ),
        Wrong(
            "counts requests without a partner",
            "no-pair",
            patch=(
                (
                    "served.index.intersection(trained.index)",
                    "served.index.union(trained.index)",
                ),
                (
                    "one = served.loc[both, trained.columns]",
                    "one = served.reindex(both)[trained.columns]",
                ),
                ("other = trained.loc[both]", "other = trained.reindex(both)"),
            ),
        ),
        Wrong(
            "missing is never equal",
            "missing-both",
            patch=(("    same |= one.isna() & other.isna()\n", ""),),
        ),
        Wrong(
            "missing on one side is equal",
            "missing-one",
            patch=(("one.isna() & other.isna()", "one.isna() | other.isna()"),),
        ),
        Wrong(
            "fills what is missing with 0",
            "missing-one",
            source="""
            def skewed(served, trained):
                both = served.index.intersection(trained.index)
                one = served.loc[both, trained.columns].fillna(0)
                other = trained.loc[both].fillna(0)
                counts = ((one - other).abs() >= 1e-6).sum()
                return {name: int(n) for name, n in counts.items() if n}
            """,
        ),
        Wrong(
            "fills what is missing with -1",
            "filler",
            source="""
            def skewed(served, trained):
                both = served.index.intersection(trained.index)
                one = served.loc[both, trained.columns].fillna(-1)
                other = trained.loc[both].fillna(-1)
                counts = ((one - other).abs() >= 1e-6).sum()
                return {name: int(n) for name, n in counts.items() if n}
            """,
        ),
        Wrong(
            "np.isclose with its relative part",
            "relative-tolerance",
            patch=(
                (
                    "(one - other).abs() < 1e-6",
                    "pd.DataFrame(np.isclose(one, other, atol=1e-6), one.index, "
                    "one.columns)",
                ),
            ),
        ),
        Wrong(
            "ten times the tolerance",
            "too-coarse",
            patch=(("< 1e-6", "< 1e-5"),),
        ),
        Wrong(
            "a tenth of the tolerance",
            "rounding",
            patch=(("< 1e-6", "< 1e-7"),),
        ),
        Wrong(
            "no tolerance",
            "rounding",
            patch=(("(one - other).abs() < 1e-6", "one == other"),),
        ),
        Wrong(
            "forgets the sign",
            "missed",
            patch=(("(one - other).abs() < 1e-6", "(one - other) < 1e-6"),),
        ),
        Wrong(
            "compares means",
            "missed",
            source="""
            def skewed(served, trained):
                both = served.index.intersection(trained.index)
                found = {}
                for name in trained.columns:
                    one, other = served.loc[both, name], trained.loc[both, name]
                    if abs(one.mean() - other.mean()) > 1e-6:
                        found[name] = int((one != other).sum())
                return found
            """,
        ),
        Wrong(
            "lists features that do not differ",
            "zero-listed",
            patch=((" if n}", "}"),),
        ),
        Wrong(
            "gives a share",
            "share",
            patch=(("name: int(n) for", "name: n / len(both) for"),),
        ),
    ],
    also_right=[
        Right(
            "aligned by pandas, counted by numpy",
            source="""
            def skewed(served, trained):
                one, other = served.align(trained, join="inner")
                same = np.isclose(one, other, rtol=0, atol=1e-6, equal_nan=True)
                counts = zip(one.columns, (~same).sum(axis=0))
                return {name: int(count) for name, count in counts if count > 0}
            """,
        ),
        Right(
            "one request at a time",
            source="""
            def skewed(served, trained):
                found = {}
                for number in served.index:
                    if number not in trained.index:
                        continue
                    for name in trained.columns:
                        a, b = served.at[number, name], trained.at[number, name]
                        if abs(a - b) < 1e-6 or (a != a and b != b):
                            continue
                        found[name] = found.get(name, 0) + 1
                return found
            """,
        ),
    ],
)
def skewed(t: Trial) -> None:
    """Pair served and trained features by request, and count what differs."""
    import pandas as pd

    trained = pd.DataFrame(
        {"https": [0.0, 0.5, 1.0, 1.0], "long_url": [1.0, 0.0, 0.0, 0.5]},
        index=[11, 12, 13, 14],
    )
    right, *words = compared(t, trained.copy(), trained, {}, "a table and itself")
    t.need(right, "missed", *words)
    served = trained.assign(https=[0.0, 1.0, 1.0, 0.5])
    shares = t.call(served, trained, gives="dict")
    t.need(
        shares != {"https": 0.5},
        "share",
        f"For 2 pairs of 4 that differ, `skewed` gave `{shares}`: a share.",
        "A share says nothing without the number of pairs.",
        "Return how many pairs differ.",
    )
    what = "two `https` of four that differ, one higher and one lower"
    right, *words = compared(t, served, trained, {"https": 2}, what)
    t.need(right, "missed", *words)
    t.good("features that differ, and how often")
    shuffled = served.loc[[14, 11, 13, 12]]
    right, *words = compared(t, shuffled, trained, {"https": 2}, "rows that are turned")
    t.need(right, "wrong-pairs", *words)
    turned = served[["long_url", "https"]]
    right, *words = compared(
        t, turned, trained, {"https": 2}, "columns that are turned"
    )
    t.need(right, "wrong-columns", *words)
    what = "a request on each side that the other does not have"
    fewer, without = served.drop(index=14), trained.drop(index=11)
    right, *words = compared(t, fewer, without, {"https": 1}, what)
    t.need(right, "no-pair", *words)
    t.good("rows and columns in any order, and requests on one side alone")
    nan = float("nan")
    holes = trained.assign(long_url=[nan, 0.0, nan, 0.5])
    what = "values that are missing on both sides"
    right, *words = compared(t, holes.copy(), holes, {}, what)
    t.need(right, "missing-both", *words)
    zeros = trained.assign(long_url=[0.0, 0.0, 0.0, 0.5])
    what = "two values that are missing on one side, and 0 on the other"
    for one, other in [(holes, zeros), (zeros, holes)]:
        right, *words = compared(t, one, other, {"long_url": 2}, what)
        t.need(right, "missing-one", *words)
    codes = trained.assign(https=[-1.0, 0.0, 0.5, 1.0])
    empty = trained.assign(https=nan)
    what = "four values that are missing in the log, and -1, 0, 0.5 and 1 in training"
    right, said, *_ = compared(t, empty, codes, {"https": 4}, what)
    t.need(
        right,
        "filler",
        said,
        "What is filled in is a code like any other, and a gap passes for it.",
        "Compare who is missing, and fill nothing in.",
    )
    t.good("missing values")
    thirds = trained.assign(https=[1 / 3, 2 / 3, 1 / 7, 1.0])
    log = thirds.astype(np.float32).astype(float)
    right, *words = compared(t, log, thirds, {}, "a log of 32-bit numbers")
    t.need(right, "rounding", *words)
    near = trained.assign(https=trained["https"] + 5e-7)
    right, *words = compared(t, near, trained, {}, "differences of 0.0000005")
    t.need(right, "rounding", *words)
    near = thirds.assign(https=thirds["https"] + [1e-4, 0, -1e-4, 0])
    right, *words = compared(t, near, thirds, {"https": 2}, "differences of 0.0001")
    t.need(right, "missed", *words)
    same = trained.assign(https=0.0)
    log = same.assign(https=[5e-6, 0, 0, 0])
    what = "`0.000005` in the log and `0` in training"
    right, said, *_ = compared(t, log, same, {"https": 1}, what)
    t.need(
        right,
        "too-coarse",
        said,
        "The tolerance that was agreed is not the one that is applied.",
        "Count the zeros of your tolerance.",
    )
    same = trained.assign(https=1.0)
    log = same.assign(https=[1.000005, 1, 1, 1])
    what = "`1.000005` in the log and `1` in training"
    right, said, *_ = compared(t, log, same, {"https": 1}, what)
    t.need(
        right,
        "relative-tolerance",
        said,
        "The larger a value is, the more passes for equal to it.",
        "Find out what else is added to the tolerance, and set it to 0.",
    )
    t.good("rounding is no skew, and a small difference is")
    for _ in range(3):
        n = int(t.rng.integers(20, 40))
        table = pd.DataFrame(
            t.rng.choice([0, 0.5, 1, nan], size=(n, 3)),
            columns=["a", "b", "c"],
            index=t.rng.permutation(n) + 100,
        )
        spoilt = table.assign(b=np.roll(table["b"], 1)).iloc[t.rng.permutation(n)[3:]]
        what = "a made-up log, one request late"
        right, *words = compared(t, spoilt, table, counted(spoilt, table), what)
        t.need(right, "missed", *words)
    t.good("a log that is one request late")


def counted(served: Any, trained: Any) -> dict[str, int]:
    """The right answer, from its definition."""
    found: dict[str, int] = {}
    for name in trained.columns:
        pairs = [
            (served.at[number, name], trained.at[number, name])
            for number in served.index
        ]
        found[name] = sum(
            not (abs(a - b) < 1e-6 or (math.isnan(a) and math.isnan(b)))
            for a, b in pairs
        )
    return {name: count for name, count in found.items() if count}


def compared(
    t: Trial, served: Any, trained: Any, right: dict, what: str
) -> tuple[bool, str, str, str]:
    """Whether the answer for two tables is this one, and the words if it is not."""
    got = t.call(served, trained, gives="dict")
    zero = [name for name, count in got.items() if count == 0]
    t.need(
        not zero,
        "zero-listed",
        f"For {what}, `skewed` listed `{zero[0] if zero else ''}` with 0 pairs.",
        "Whoever asks whether the dict is empty stops a sound release.",
        "Leave out the features that do not differ.",
    )
    return (
        got == right,
        f"For {what}, {t.said}; right is `{right}`.",
        "A test that counts other pairs stops sound releases, or lets bad ones go.",
        "Make two such tables in a cell, and look at the pairs one by one.",
    )
