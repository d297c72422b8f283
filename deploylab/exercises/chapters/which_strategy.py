"""Checks for *Choose a strategy, and rehearse the way back*."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import contextmanager

from deploylab.exercises.engine import Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Before, letters, order

STRATEGIES = {
    "a": "canary",
    "b": "basic",
    "c": "shadow",
    "d": "flag",
    "e": "blue/green",
}

#: For a case and a strategy that is not its own: why not.
NOT_FOR_1 = {
    "a": "A twentieth of four requests a minute is one in five minutes: the canary "
    "would take days, and hurt users all the while.",
    "b": "All users are the first to try it, after an outage.",
    "d": "Whoever has the flag gets the answers of a version that nobody has tried.",
    "e": "After the switch every user gets the answers of a version that nobody has "
    "tried.",
}
NOT_FOR_2 = {
    "b": "An outage at 5,000 requests a second, and then everybody at once.",
    "d": "A flag can choose few users, but another case needs it: for this one the "
    "router is all that has to choose.",
    "e": "Everybody moves at once, and until somebody looks everybody is hurt.",
}
NOT_FOR_3 = {
    "b": "Between the stop and the start nobody answers, and an outage is not allowed.",
    "d": "With a flag the two versions answer side by side, and no caller knows which "
    "contract the next answer keeps.",
}


@exercise(
    "choice",
    hints={
        "*": [
            "In each case one sentence rules out most strategies. Which one?",
            "Ask the six questions of the page of each case: side by side, what is "
            "written, how much traffic, when the truth comes, what it may cost, whom "
            "it may hurt.",
            "1 which case forbids that anybody is hurt, 2 which one has room for one "
            "model only, 3 which one forbids two versions at once, 4 which one chooses "
            "by customer, 5 what is left.",
        ],
        "case-4": ["How many models fit on the machine at the same time?"],
    },
    not_checked="Whether the strategy that you begin with is also the last one. After "
    "a shadow, for one, a release is still to come.",
    notice="Each of the five is the best one somewhere. What decides is seldom the "
    "strategy; it is traffic, data, machines, and who may be hurt.",
    wrong=[
        Wrong("canary for little traffic", "case-1", source='answer = "a c e b d"'),
        Wrong("switch for little traffic", "case-1", source='answer = "e a c b d"'),
        Wrong("basic for little traffic", "case-1", source='answer = "b a e c d"'),
        Wrong("flag for little traffic", "case-1", source='answer = "d a e b c"'),
        Wrong("switch for much traffic", "case-2", source='answer = "c e a b d"'),
        Wrong("basic for much traffic", "case-2", source='answer = "c b e a d"'),
        Wrong("flag for much traffic", "case-2", source='answer = "c d e b a"'),
        Wrong("basic without outage", "case-3", source='answer = "c a b e d"'),
        Wrong("flag over one table", "case-3", source='answer = "c a d b e"'),
        Wrong("flag on a full machine", "case-4", source='answer = "c a e d b"'),
        Wrong("four letters", "not-five", source='answer = "c a e b"'),
        Wrong("a letter twice", "twice", source='answer = "c a e b b"'),
        Wrong("a letter that is none", "unknown", source='answer = "c a e b x"'),
    ],
    also_right=[Right("upper case, and commas", source='answer = "C,A,E,B,D"')],
)
def five_cases(t: Trial) -> None:
    """Match five cases with five strategies."""
    chosen = letters(t, STRATEGIES, example="a b c d e")
    t.need(
        len(chosen) == len(STRATEGIES),
        "not-five",
        f"Your answer `{t.thing}` has {len(chosen)} letters for five cases.",
        "",
        "Give one letter for each case, in the order of the cases.",
    )
    first, second, third, fourth, _ = chosen
    t.need(
        first == "c",
        "case-1",
        f"For case 1 you chose `{first}`.",
        NOT_FOR_1.get(first, ""),
        "Look for the strategy whose answers no user gets.",
    )
    t.good("case 1, shadow: nobody is hurt, and a pure function may be asked twice")
    t.need(
        second == "a",
        "case-2",
        f"For case 2 you chose `{second}`.",
        NOT_FOR_2.get(second, ""),
        "With so much traffic, how small can a share be that still says enough?",
    )
    t.good("case 2, canary: a small share is enough evidence within seconds")
    t.need(
        third == "e",
        "case-3",
        f"For case 3 you chose `{third}`.",
        NOT_FOR_3.get(third, ""),
        "The two must not serve together, and somebody must always serve.",
    )
    t.good("case 3, blue/green: one moment, no outage, two sets of machines")
    t.need(
        fourth == "b",
        "case-4",
        f"For case 4 you chose `{fourth}`.",
        "Both models would have to be loaded, and the GPU holds one.",
        "An outage costs nothing at night: which strategy is paid for with one?",
    )
    t.good("case 4, basic: no room for two, and nobody there to miss it")
    t.good("case 5, flag: customers are chosen by name, and changed within a request")


repair_runbook = order(
    "repair_runbook",
    {
        "A": "Send all traffic to `v1`.",
        "B": "Stop the instances of `v2`.",
        "C": "Start three more instances of `v1`, and wait until they are ready.",
        "D": "Find the answers that `v2` gave, and tell those who acted on them.",
        "F": "The one who is named decides to go back.",
        "G": "Count at the router that `v2` really gets nothing.",
        "H": "Save the logs of `v2`.",
        "I": "Wait until `v2` has answered what it accepted.",
    },
    [
        Before(
            "F", "C", "nobody-decided",
            "Machines are started, and nobody knows yet whether they are needed; the "
            "next one who comes starts others.",
            "Begin with the one who may say so.",
        ),
        Before(
            "F", "D", "told-too-soon",
            "People are told of bad answers that nobody has called bad yet.",
            "What has to be settled before you tell anybody anything?",
        ),
        Before(
            "C", "A", "under-scaled",
            "One instance gets the load of four: most requests find no answer in time, "
            "from a version that is good.",
            "Ask what the traffic needs before it comes.",
        ),
        Before(
            "A", "G", "looked-too-soon",
            "Before the traffic has moved, `v2` gets all of it, and the count says "
            "nothing about the rollback.",
            "Ask what the count is to confirm.",
        ),
        Before(
            "A", "D", "list-too-short",
            "`v2` goes on answering, so the list is out of date before it is sent; and "
            "whoever sends it is not at the router.",
            "Ask when `v2` gives its last answer, and put the list after that.",
        ),
        Before(
            "A", "H", "logs-first",
            "While logs are copied, users go on getting bad answers; and what `v2` "
            "writes until it is empty is not among them.",
            "Ask which of the two can wait, as long as no instance is stopped.",
        ),
        Before(
            "G", "I", "drained-unseen",
            "If the weight did not take effect, the waiting has no end, and nobody "
            "knows why.",
            "Make sure that nothing new comes before you wait for the rest.",
        ),
        Before(
            "I", "B", "in-flight-lost",
            "Requests that `v2` has accepted are lost when its processes end.",
            "Ask where the requests are that were accepted a moment ago.",
        ),
        Before(
            "H", "B", "logs-lost",
            "With the instance goes what it wrote, and the cause with it.",
            "Ask what you want to read tomorrow, and where it is now.",
        ),
    ],
    distractors={
        "E": "While five people look for each other, users go on getting bad "
        "answers. Who decides is settled before the release.",
        "J": "A reload makes the router read its file, and what was ordered at run "
        "time is forgotten: `v2` comes back.",
    },
    example="FCAGIHDB",
    others=["FCADGIHB", "FCAHGIBD", "FCAGHDIB"],
    hints={
        "*": [
            "Which two lines do users feel, and what has to be true before each?",
            "Capacity is ready before traffic comes, and traffic has gone before "
            "capacity goes. Between the two somebody looks.",
            "1 decide, 2 make the old version large enough, 3 move the traffic, "
            "4 see that it has moved, 5 empty the bad side, 6 save what you need of "
            "it, 7 tell those who have its answers, 8 stop it.",
        ],
        "line-missing": [
            "Is it a decision, a machine, the traffic, a look, or a record?",
        ],
        "under-scaled": ["Read the table of the two rollbacks on the page again."],
    },
    not_checked="How long each step takes, and whether the one who is named can be "
    "reached at three in the morning.",
    notice="Of eight lines one moves traffic. The others are why it works.",
)  # fmt: skip


@contextmanager
def _another_process() -> Iterator[None]:
    """As if in another process: Python's own hash of texts begins from another seed."""
    usual = builtins.hash
    builtins.hash = lambda value: usual(("another process", value))
    try:
        yield
    finally:
        builtins.hash = usual


#: So many that one place in 256 is hardly missed (a chance of 1e-4).
MANY = 2_400


def _having(t: Trial, share: float, flag: str = "v2", n: int = 120) -> set[str]:
    """Which of so many users have the flag."""
    users = [f"user-{number}" for number in range(n)]
    return {user for user in users if t.call(user, share, flag, gives="truth")}


@exercise(
    hints={
        "*": [
            "What about a user never changes, whatever the share and the day?",
            "Give each user a fixed place between 0 and 1. The share is a line over "
            "these places.",
            "1 a text from the flag and the user, 2 its digest, 3 some bytes of it as "
            "a number, 4 divided by the largest one plus one, 5 compared with the "
            "share.",
        ],
        "not-nested": ["What goes into your digest that should not be in it?"],
        "same-users": ["Two flags: what is different between them in your digest?"],
        "other-process": [
            "Which function of the standard library is seeded anew "
            "each time that Python starts?"
        ],
    },
    not_checked="Whether the user's name is always there. Somebody who is not logged "
    "in needs another key, and it must not change when they log in.",
    notice="It is the same arithmetic with which a router keeps users on one side. "
    "Whoever goes first with a flag is a fixed set: take another name for the next.",
    wrong=[
        Wrong(
            "draws for each request",
            "differs-each-time",
            source="""
            def flag_on(user, share, flag):
                return np.random.default_rng().random() < share
            """,
        ),
        Wrong(
            "Python's own hash",
            "other-process",
            source="""
            def flag_on(user, share, flag):
                return hash(flag + user) % 1000 < 1000 * share
            """,
        ),
        Wrong(
            "draws anew for each share",
            "not-nested",
            patch=(('f"{flag}:{user}"', 'f"{flag}:{user}:{share}"'),),
        ),
        Wrong(
            "forgets the flag",
            "same-users",
            patch=(('f"{flag}:{user}"', "user"),),
        ),
        Wrong(
            "takes percent",
            "wrong-share",
            patch=(("place < share", "100 * place < share"),),
        ),
        Wrong(
            "the other way round",
            "wrong-share",
            patch=(("place < share", "place > share"),),
        ),
        Wrong(
            "one byte too few in the divisor",
            "wrong-share",
            patch=(("2**64", "2**56"),),
        ),
        Wrong(
            "buckets of 16",
            "coarse",
            source="""
            def flag_on(user, share, flag):
                place = sha256(f"{flag}:{user}".encode()).digest()[0] // 16
                return place < round(16 * share)
            """,
        ),
        Wrong(
            "a hundred buckets",
            "coarse",
            source="""
            def flag_on(user, share, flag):
                digest = sha256(f"{flag}:{user}".encode()).digest()
                return int.from_bytes(digest[:8], "big") % 100 < 100 * share
            """,
        ),
        Wrong(
            "a byte divided by the largest one",
            "one-is-not-everybody",
            source="""
            def flag_on(user, share, flag):
                return sha256(f"{flag}:{user}".encode()).digest()[0] / 255 < share
            """,
        ),
        Wrong(
            "the last digits of the name",
            "same-users",
            source="""
            def flag_on(user, share, flag):
                return int(user.split("-")[1]) * 7919 % 10_007 < 10_007 * share
            """,
        ),
        Wrong(
            "at 0 somebody has it",
            "zero-is-not-nobody",
            source="""
            def flag_on(user, share, flag):
                digest = sha256(f"{flag}:{user}".encode()).digest()
                return int.from_bytes(digest[:2], "big") % 100 <= 100 * share
            """,
        ),
        Wrong(
            "at 1 somebody has it not",
            "one-is-not-everybody",
            source="""
            def flag_on(user, share, flag):
                digest = sha256(f"{flag}:{user}".encode()).digest()
                return int.from_bytes(digest[:2], "big") % 100 < 99 * share
            """,
        ),
    ],
    also_right=[
        Right(
            "hexadecimal digits, in ten thousand buckets",
            source="""
            def flag_on(user, share, flag):
                bucket = int(sha256((user + "|" + flag).encode()).hexdigest(), 16)
                return bucket % 10_000 < share * 10_000
            """,
        ),
        Right(
            "a generator with a text as its seed",
            source="""
            def flag_on(user, share, flag):
                import random
                return random.Random(f"{user} {flag}").random() < share
            """,
        ),
        Right(
            "a truth of NumPy's",
            source="""
            def flag_on(user, share, flag):
                digest = sha256(json.dumps([flag, user]).encode()).digest()
                places = np.frombuffer(digest, np.uint32) / 2**32
                return places[3] < share
            """,
        ),
    ],
    equivalent={
        "return place <= share": "no user's place is exactly 0, or exactly the share",
    },
    limit_s=5,
)
def flag_on(t: Trial) -> None:
    """A flag by user, with nested buckets."""
    fifth = _having(t, 0.2)
    t.need(
        fifth == _having(t, 0.2),
        "differs-each-time",
        "Two calls for the same 120 users, share and flag gave different users.",
        "A user who reloads the page gets the other model, and nobody can say who had "
        "which.",
        "Derive the answer from the user's name, not from a draw.",
    )
    with _another_process():
        elsewhere = _having(t, 0.2)
    t.need(
        fifth == elsewhere,
        "other-process",
        "In another Python process, other users of the 120 have the flag.",
        "Two instances of the same service then disagree about who has the new model.",
        "Take a digest that is the same everywhere, such as `sha256`.",
    )
    t.good("the same users each time, in each process")
    # Numbers of draws lie outside these ranges with a chance below 1e-6, and the names
    # are fixed besides; the same holds of the other bounds.
    half = _having(t, 0.5)
    t.need(
        4 < len(fifth) < 56 and 30 < len(half) < 90,
        "wrong-share",
        f"At a share of 0.2, {len(fifth)} of 120 users have the flag, and at a share "
        f"of 0.5 there are {len(half)}.",
        "A rollout that is to reach a fifth, or a half, reaches another part.",
        "Follow one user: between which numbers does the place lie, and the share?",
    )
    nobody, everybody = _having(t, 0.0), _having(t, 1.0, n=MANY)
    t.need(
        not nobody,
        "zero-is-not-nobody",
        f"At a share of 0, {len(nobody)} of 120 users have the flag.",
        "Zero is the way back. It has to hold for everybody.",
        "Look at your comparison, at the lowest place that there is.",
    )
    t.need(
        len(everybody) == MANY,
        "one-is-not-everybody",
        f"At a share of 1, {MANY - len(everybody):,} of {MANY:,} users do not have it.",
        "Some users stay on a version that nobody looks after any more.",
        "Look at your comparison, at the highest place that there is.",
    )
    t.good("at 0 nobody has it, at 1 everybody")
    before: set[str] = set()
    for share, now in ((0.1, _having(t, 0.1)), (0.2, fifth), (0.5, half)):
        t.need(
            before <= now,
            "not-nested",
            f"Of {len(before)} users who had it at a smaller share, "
            f"{len(before - now)} lost it at {share}.",
            "They see the models change for no reason, back and forth as it grows.",
            "Who has it may depend on the share in one place only: the comparison.",
        )
        before = now
    t.good("who has it keeps it while the share grows")
    t.need(
        _having(t, 0.03, n=500),
        "coarse",
        "At a share of 0.03, not one of 500 users has the flag.",
        "A rollout that begins with few users then begins with nobody.",
        "Use more of the digest, so that there are more places.",
    )
    few = _having(t, 0.001, n=MANY)
    t.need(
        len(few) <= 13,
        "coarse",
        f"At a share of 0.001, {len(few):,} of {MANY:,} users have the flag.",
        "A rollout that is to begin with one user in a thousand begins with many more.",
        "Use more of the digest, so that there are more places.",
    )
    other = _having(t, 0.2, flag="another")
    t.need(
        len(fifth & other) < 0.8 * len(fifth),
        "same-users",
        f"Of {len(fifth)} users who have the flag `v2`, {len(fifth & other)} also "
        "have the flag `another`.",
        "The same people are the first to meet every mistake.",
        "Let the flag's name decide too where a user stands.",
    )
    t.good("another flag has other users")


def _share(
    t: Trial, rate_per_s: float, ready: int, each_per_s: float, **more: float
) -> float:
    return t.call(rate_per_s, ready, each_per_s, gives="number", **more)


@exercise(
    hints={
        "*": [
            "How many requests a second can the ready instances take together, and "
            "which part of all requests is that?",
            "Capacity is a number times what each can do times the load that it may "
            "have; a share is capacity over traffic, and no share is above 1.",
            "1 what all ready instances can take, 2 divided by the traffic, 3 at most "
            "1, 4 what if there is no traffic.",
        ],
        "crash": ["What is the share if `rate_per_s` is 0?"],
    },
    not_checked="Whether all requests cost the same, and whether a fresh instance is "
    "as fast as a warm one.",
    notice="The sum is the same for every shift, not only back: no weight above what "
    "is ready.",
    wrong=[
        Wrong(
            "by count of instances alone",
            "not-capacity",
            source="""
            def carry_back(rate_per_s, ready, each_per_s, load=0.8):
                return 0.25 * min(ready, 4)
            """,
        ),
        Wrong(
            "to the brim",
            "full-load",
            patch=(("load * ready * each_per_s", "ready * each_per_s"),),
        ),
        Wrong(
            "divides by the load",
            "beyond-capacity",
            patch=(("load * ready * each_per_s", "ready * each_per_s / load"),),
        ),
        Wrong(
            "more than everything",
            "above-one",
            patch=(("min(1.0, can_per_s / rate_per_s)", "can_per_s / rate_per_s"),),
        ),
        Wrong(
            "upside down",
            "beyond-capacity",
            patch=(
                (
                    "min(1.0, can_per_s / rate_per_s)",
                    "min(1.0, rate_per_s / can_per_s) if ready else 0.0",
                ),
            ),
        ),
        Wrong(
            "all or nothing",
            "all-or-nothing",
            source="""
            def carry_back(rate_per_s, ready, each_per_s, load=0.8):
                return float(load * ready * each_per_s >= rate_per_s)
            """,
        ),
        Wrong(
            "forgets that load can be told",
            "load-ignored",
            patch=(("load * ready * each_per_s", "0.8 * ready * each_per_s"),),
        ),
        Wrong(
            "divides by no traffic",
            "crash",
            source="""
            def carry_back(rate_per_s, ready, each_per_s, load=0.8):
                return min(1.0, load * ready * each_per_s / rate_per_s)
            """,
        ),
        Wrong(
            "no traffic, nothing back",
            "no-traffic",
            patch=(("1.0 if ready else 0.0", "0.0"),),
        ),
        Wrong(
            "back to nobody",
            "to-nobody",
            patch=(("1.0 if ready else 0.0", "1.0"),),
        ),
        Wrong(
            "an instance at the least",
            "to-nobody",
            patch=(("can_per_s = load * ready", "can_per_s = load * max(ready, 1)"),),
        ),
    ],
    also_right=[
        Right(
            "whole instances asked for first",
            source="""
            def carry_back(rate_per_s, ready, each_per_s, load=0.8):
                if not ready:
                    return 0
                needed = rate_per_s / (load * each_per_s)
                return 1 if ready >= needed else ready / needed
            """,
        ),
        Right(
            "NumPy's clip",
            source="""
            def carry_back(rate_per_s, ready, each_per_s, load=0.8):
                if rate_per_s == 0:
                    return float(ready > 0)
                share = load * ready * each_per_s / rate_per_s
                return np.clip(share, 0, 1)
            """,
        ),
    ],
)
def carry_back(t: Trial) -> None:
    """The share of the traffic that the ready instances can take."""
    share = _share(t, 48, 0, 20)
    t.need(
        share == 0,
        "to-nobody",
        f"{t.said}: nobody of the old version is ready.",
        "Requests that are sent to nobody get no answer at all.",
        "How much can no instance take?",
    )
    share = _share(t, 100, 1, 50)
    t.need(
        share <= 0.5,
        "beyond-capacity",
        f"{t.said}; one instance answers 50 of the 100 requests a second, at most.",
        "Its queue grows until nobody is answered in time.",
        "Work out how many requests a second that share is.",
    )
    t.need(
        share < 0.5,
        "full-load",
        f"{t.said}, which is all that this instance can do.",
        "At full load a queue never becomes empty again.",
        "Leave the room that `load` asks for.",
    )
    t.need(
        abs(share - 0.4) < 1e-9 or share in (0, 1),
        "not-capacity",
        f"{t.said}; at a load of 0.8 one instance takes 40 requests a second.",
        "",
        "Which part of the 100 requests a second is that?",
    )
    t.need(
        share > 0,
        "all-or-nothing",
        f"{t.said}; one instance could take 40 of the 100 requests a second.",
        "Users whom it could have answered stay with the version that hurts them.",
        "Return the part that can go back, not only whether all can.",
    )
    t.good("a part goes back if that is what can be carried")
    share = _share(t, 48, 4, 20)
    t.need(
        share <= 1,
        "above-one",
        f"{t.said}.",
        "A router that is told more than everything refuses, and nothing moves.",
        "There is no more than all of the traffic.",
    )
    t.good("never more than everything")
    share = _share(t, 100, 1, 50, load=0.5)
    t.need(
        abs(share - 0.25) < 1e-9,
        "load-ignored",
        f"{t.said}; at a load of 0.5 one instance takes 25 requests a second.",
        "Whoever sets a limit relies on it.",
        "Use the argument.",
    )
    share = _share(t, 0, 2, 20)
    t.need(
        share == 1,
        "no-traffic",
        f"{t.said}: two instances are ready, and nothing stands against it.",
        "The next request goes to the version that hurts.",
        "Without traffic any ready instance can carry all of it.",
    )
    t.need(
        _share(t, 0, 0, 20) == 0,
        "to-nobody",
        f"{t.said}: nobody of the old version is ready.",
        "The first request that comes would find nobody.",
        "Ask for instances before you ask for traffic.",
    )
    for _ in range(30):
        rate_per_s, each_per_s = (float(x) for x in t.rng.uniform(1, 500, 2))
        ready, load = int(t.rng.integers(0, 12)), float(t.rng.uniform(0.3, 1))
        right = min(1.0, load * ready * each_per_s / rate_per_s)
        share = _share(t, rate_per_s, ready, each_per_s, load=load)
        t.need(
            abs(share - right) < 1e-6,
            "not-capacity",
            f"{t.said}; the ready instances can take {right:.4g} of it.",
            "",
            "Follow this call through your function.",
        )
    t.good("the same for other services")
