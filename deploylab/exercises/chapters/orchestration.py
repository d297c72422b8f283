"""Checks for *Say what should run, and let a loop keep it so*."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from deploylab.exercises.engine import (
    Right,
    Trial,
    Wrong,
    exercise,
    not_started,
    show,
)
from deploylab.exercises.kinds import Guess, Option, choice, prediction

Workers = list[tuple[str, str, str]]


# -- a step of a reconcile loop ----------------------------------------------------


def _orders(t: Trial, desired: dict[str, int], observed: Workers) -> list[tuple]:
    """What the student's step says, as pairs of texts."""
    orders = t.call(desired, observed, gives="list")
    t.need(
        all(
            isinstance(one, list | tuple)
            and len(one) == 2
            and all(isinstance(part, str) for part in one)
            for one in orders
        ),
        "not-orders",
        f"{t.said}.",
        "Whoever carries the orders out reads a kind and a name.",
        'An order is a pair such as `("start", "v1")`.',
    )
    orders = [tuple(one) for one in orders]
    kinds = {what for what, _ in orders} - {"start", "stop", "remove"}
    t.need(
        not kinds,
        "unknown-order",
        f"{t.said}; nobody knows the order `{show(min(kinds, default=''))}`.",
        "",
        "The kinds are `start`, `stop` and `remove`.",
    )
    return orders


def _compare(t: Trial, desired: dict[str, int], observed: Workers) -> None:
    """Call the step, and hold its orders against the four rules."""
    orders = _orders(t, desired, observed)
    state_of = {name: state for name, _, state in observed}
    version_of = {name: version for name, version, _ in observed}
    here = {n for n, state in state_of.items() if state in ("starting", "ready")}
    stops = [name for what, name in orders if what == "stop"]
    removes = sorted(name for what, name in orders if what == "remove")
    starts = Counter(version for what, version in orders if what == "start")
    dead = sorted(n for n, state in state_of.items() if state == "dead")
    t.need(
        removes == dead,
        "dead-stay",
        f"{t.said}. Dead are {dead}, and {removes} are removed.",
        "What is dead stays on the list for ever, or what lives is taken off it.",
        "Give one `remove` for each that is dead, and for no other.",
    )
    t.need(
        len(set(stops)) == len(stops) and set(stops) <= here,
        "stops-twice",
        f"{t.said}. It tells {sorted(stops)} to stop; of those there, "
        f"{sorted(here)} can be told.",
        "The order that is given at every look is not idempotent.",
        "Only those that start or are ready can be told, each once.",
    )
    ready = Counter(version_of[n] for n in here if state_of[n] == "ready")
    short = [v for v, number in sorted(desired.items()) if ready[v] < number]
    full = not short
    for version in sorted(set(version_of.values()) | set(desired) | set(starts)):
        mine = {n for n in here if version_of[n] == version}
        number = desired.get(version, 0)
        missing = max(0, number - len(mine))
        counted_ready = number - ready[version]
        t.need(
            not (starts[version] > missing and starts[version] == counted_ready),
            "starts-a-flood",
            f"{t.said}. Of `{version}` {len(mine)} are there or coming, {number} are "
            f"wanted, and it starts {starts[version]}.",
            "The next look comes before they are ready, and starts as many again.",
            "Count the ones that are starting, too.",
        )
        t.need(
            starts[version] == missing,
            "wrong-starts",
            f"{t.said}. Of `{version}` {len(mine)} are there, {number} are wanted, and "
            f"it starts {starts[version]}.",
            "",
            "What is missing is what is wanted, less what starts or is ready.",
        )
        told = {n for n in stops if version_of[n] == version}
        extra = [max(0, len(mine) - number)]
        young = {n for n in mine if state_of[n] == "starting"}
        if version not in desired:
            late = ", ".join(
                f"of `{v}` {ready[v]} of {desired[v]} are ready" for v in short
            )
            t.need(
                full or told <= young,
                "stops-the-last",
                f"{t.said}. `{version}` is wanted no more, and {late}.",
                "Until then, nobody else does the work that it does.",
                "Stop ready ones of such a version once every wanted version has its "
                "own number ready; another's surplus does not help.",
            )
            t.need(
                desired or told >= mine,
                "waits-for-nobody",
                f"{t.said}. Nothing is wanted, and of `{version}` it stops "
                f"{len(told)} of {len(mine)}.",
                "There is nobody to wait for, so what is ready runs for ever.",
                "What does your rule for *every wanted version* say of none at all?",
            )
            extra = [len(mine) if full else len(young)]
        elif number == 0:  # wanted no more, one may say, so it waits for the others
            extra.append(len(mine) if full else len(young))
        t.need(
            len(told) in extra,
            "wrong-stops",
            f"{t.said}. Of `{version}` {len(mine)} are there, {number} are wanted, and "
            f"it stops {len(told)}; by the rules it is {extra[0]}.",
            "",
            "Take the versions one after the other, also those that are not in "
            "`desired`."
            + (
                " And look at your rule for *has its number ready*: more than the "
                "number is enough, and 0 of 0 is, too."
                if version not in desired and full
                else ""
            ),
        )
        spared = {n for n in mine - told if state_of[n] == "starting"}
        t.need(
            not (spared and any(state_of[n] == "ready" for n in told)),
            "stops-the-ready",
            f"{t.said}. It stops one that is ready and keeps one that is starting.",
            "For a while fewer work than could.",
            "Sort those of a version before you choose: the ready ones stay.",
        )
    return orders


@exercise(
    hints={
        "*": [
            "Forget what has happened. For each version: how many are wanted, and how "
            "many start or are ready?",
            "The versions to look at are those in `desired`, and those that you see.",
            "1 remove the dead; 2 keep those that start or are ready; 3 for each "
            "version, sort them, ready first; 4 start what is missing, stop what is "
            "behind the number.",
        ],
        "stops-the-last": [
            "When is it safe to stop a ready instance of a version that nobody wants "
            "any more? Compute that once, before the loop over versions.",
        ],
    },
    not_checked="Pauses after a crash, and a limit on how many there may be at once.",
    notice="It has no memory, so nothing that was missed can confuse it.",
    wrong=[
        Wrong(
            "counts the ready ones",
            "starts-a-flood",
            patch=(
                (
                    "(number - len(mine))",
                    "(number - sum(i[2] == 'ready' for i in mine))",
                ),
            ),
        ),
        Wrong(
            "forgets the dead",
            "dead-stay",
            patch=(('if state == "dead"]', 'if state == "gone"]'),),
        ),
        Wrong(
            "counts those that are stopping",
            "stops-twice",
            patch=(
                (
                    'if i[2] in ("starting", "ready")]',
                    'if i[2] != "dead"]',
                ),
            ),
        ),
        Wrong(
            "stops the ready ones first",
            "stops-the-ready",
            patch=(('i[2] != "ready")', 'i[2] == "ready")'),),
        ),
        Wrong(
            "does not wait for the new version",
            "stops-the-last",
            patch=((' or state == "starting" or full', " or True"),),
        ),
        Wrong(
            "counts the ready ones of all wanted versions together",
            "stops-the-last",
            patch=(
                (
                    "all(ready.count(v) >= n for v, n in desired.items())",
                    "sum(map(ready.count, desired)) >= sum(desired.values())",
                ),
                (
                    "{v for _, v, _ in here} | set(desired)",
                    "sorted({v for _, v, _ in here} | set(desired))",
                ),
            ),
        ),
        Wrong(
            "waits where nothing is wanted",
            "waits-for-nobody",
            patch=((" full = all(", " full = bool(desired) and all("),),
        ),
        Wrong(
            "leaves what is wanted no more",
            "wrong-stops",
            patch=(("{v for _, v, _ in here} | set(desired)", "desired"),),
        ),
        Wrong(
            "a surplus is not its number",
            "wrong-stops",
            patch=(("ready.count(v) >= n for", "ready.count(v) == n for"),),
        ),
        Wrong(
            "waits for one where 0 are wanted",
            "wrong-stops",
            patch=(("ready.count(v) >= n for", "ready.count(v) >= max(n, 1) for"),),
        ),
        Wrong(
            "starts one at a time",
            "wrong-starts",
            patch=(("* (number - len(mine))", "* (number > len(mine))"),),
        ),
        Wrong(
            "stops and starts all",
            "wrong-starts",
            source="""
            def reconcile_step(desired, observed):
                orders = [("remove", n) for n, _, s in observed if s == "dead"]
                orders += [("stop", n) for n, _, s in observed if s == "ready"]
                for version, number in desired.items():
                    orders += [("start", version)] * number
                return orders
            """,
        ),
        Wrong(
            "texts in place of pairs",
            "not-orders",
            patch=(("return orders", "return [' '.join(o) for o in orders]"),),
        ),
        Wrong(
            "another word",
            "unknown-order",
            patch=(('("start", version)', '("run", version)'),),
        ),
    ],
    also_right=[
        Right(
            "by counting down",
            source="""
            def reconcile_step(desired, observed):
                left, orders, unwanted = dict(desired), [], []
                for state in ("ready", "starting"):
                    if state == "starting":
                        full = not any(n > 0 for n in left.values())
                    for name, version, is_in in observed:
                        if is_in != state:
                            continue
                        if version not in desired and state == "ready":
                            unwanted.append(name)
                        elif left.get(version, 0) > 0:
                            left[version] -= 1
                        else:
                            orders.append(("stop", name))
                if full:
                    orders += [("stop", name) for name in unwanted]
                for version, number in left.items():
                    orders += [["start", version] for _ in range(number)]
                for name, _, is_in in observed:
                    if is_in == "dead":
                        orders.append(("remove", name))
                return orders
            """,
        ),
        Right(
            "0 is wanted no more",
            patch=(("if version in desired or", "if number or"),),
        ),
    ],
)
def reconcile_step(t: Trial) -> None:
    """One step of a reconcile loop over several versions."""
    _compare(t, {"v1": 2}, [("a", "v1", "ready"), ("b", "v1", "ready")])
    t.good("rests at the goal")
    _compare(t, {"v1": 3}, [])
    _compare(t, {"v1": 3}, [("a", "v1", "starting"), ("b", "v1", "ready")])
    t.good("starts what is missing, and no more")
    _compare(t, {"v1": 2}, [("a", "v1", "dead"), ("b", "v1", "ready")])
    _compare(t, {"v1": 1}, [("a", "v1", "stopping"), ("b", "v1", "ready")])
    t.good("heals, and leaves alone what is on its way out")
    three = [("a", "v1", "starting"), ("b", "v1", "ready"), ("c", "v1", "ready")]
    _compare(t, {"v1": 1}, three)
    _compare(t, {"v1": 2}, three)
    t.good("scales down, and keeps those that work")
    _compare(t, {"v2": 1}, [("a", "v1", "ready"), ("b", "v2", "starting")])
    _compare(t, {"v2": 1}, [("a", "v1", "ready"), ("b", "v2", "ready")])
    _compare(t, {"v2": 1}, [("a", "v1", "starting"), ("b", "v2", "starting")])
    two = [("a", "v1", "ready"), ("b", "v2", "ready"), ("c", "v2", "ready")]
    _compare(t, {"v2": 1, "v3": 1}, [*two, ("d", "v3", "starting")])
    _compare(t, {"v2": 1}, two)
    _compare(t, {"v2": 0}, [("a", "v1", "ready")])
    t.good("changes the version, and the old one stays until the new one is ready")
    _compare(t, {}, [("a", "v1", "ready")])
    cases = []
    for _ in range(80):
        number = int(t.rng.integers(0, 8))
        observed = [
            (
                "abcdefg"[i],
                f"v{t.rng.integers(1, 4)}",
                ("starting", "ready", "stopping", "dead")[int(t.rng.integers(4))],
            )
            for i in range(number)
        ]
        desired = {
            f"v{i}": int(t.rng.integers(0, 4))
            for i in range(1, 4)
            if t.rng.random() < 0.6
        }
        cases.append((desired, observed))
    for desired, observed in sorted(cases, key=lambda case: len(repr(case))):
        _compare(t, desired, observed)  # the shortest first: it can be read
    t.good("from any state, to any wish")


# -- probes against a rollout ------------------------------------------------------

LOADS_S = (60, 150)
LATE_S, LOADING_HANG_S, STALL_S, ROUTED_S, HANG_S = 15, 300, 12, 30, 90
STEADY_S, LONG_S = 240, 2000
FIELDS = {
    "delay": "initialDelaySeconds",
    "period": "periodSeconds",
    "failures": "failureThreshold",
}
PATHS = {"startup": "/ready", "readiness": "/ready", "liveness": "/health"}


def _probes(t: Trial) -> dict[str, dict[str, Any]]:
    """The student's probes, with Kubernetes' names."""
    t.need(
        isinstance(t.thing, dict) and set(t.thing) == set(PATHS),
        "not-probes",
        f"The answer is `{show(t.thing, 60)}`.",
        "",
        "Keep the three names `startup`, `readiness` and `liveness`.",
    )
    found = {}
    for name, path in PATHS.items():
        given = t.thing[name]
        t.need(
            isinstance(given, dict) and set(given) == set(FIELDS),
            "not-probes",
            f"`{name}` is `{show(given, 60)}`.",
            "",
            "Keep the three names `delay`, `period` and `failures`.",
        )
        if any(value is ... for value in given.values()):
            raise not_started(
                f"`{name}` has no numbers yet.",
                "Put a whole number in the place of each `...`.",
            )
        for field in FIELDS:
            least = 0 if field == "delay" else 1
            value = given[field]
            whole = isinstance(value, int) and not isinstance(value, bool)
            t.need(
                whole and value >= least,
                "not-probes",
                f"`{name}` has `{field}` = `{show(value, 30)}`.",
                "Kubernetes refuses what is no whole number, and too small a one.",
                f"Write a whole number, {least} or more.",
            )
        found[f"{name}Probe"] = {
            "path": path,
            "timeoutSeconds": 1,
            "successThreshold": 1,
            "terminationGracePeriodSeconds": 30,
            **{FIELDS[field]: given[field] for field in FIELDS},
        }
    return found


@exercise(
    "value",
    hints={
        "*": [
            "For each probe there is a shortest and a longest patience. Patience is "
            "delay plus period times failures, about.",
            "How many questions can fall into 12 s of silence, at your period? One "
            "failure more has to be allowed.",
            "1 startup between 150 and 270 s; 2 readiness between 12 and 30 s; 3 "
            "liveness between 12 and 60 s.",
        ],
        "traffic-late": [
            "After the model is loaded the startup probe has to ask once more, and "
            "then the readiness probe once. How long does each of them take?",
        ],
    },
    not_checked="What an answer takes under full load: the time limit of one second "
    "is given here, and would be too short for many services. And whether liveness is "
    "slower than readiness.",
    notice="Each probe has a patience with two bounds: longer than what passes by "
    "itself, shorter than what users can bear.",
    wrong=[
        Wrong(
            "eager startup",
            "restart-loop",
            patch=(('5, "failures": 40', '5, "failures": 20'),),
        ),
        Wrong(
            "endless startup",
            "loading-hang",
            patch=(('5, "failures": 40', '5, "failures": 400'),),
        ),
        Wrong(
            "looks at leisure",
            "traffic-late",
            patch=(('5, "failures": 40', '50, "failures": 4'),),
        ),
        Wrong(
            "a period that divides both",
            "traffic-late",
            patch=(('5, "failures": 40', '30, "failures": 7'),),
        ),
        Wrong(
            "forgets the grace period of the loading",
            "loading-hang",
            patch=(('5, "failures": 40', '5, "failures": 58'),),
        ),
        Wrong(
            "forgets the grace period",
            "hang-unnoticed",
            patch=(('10, "failures": 4}', '10, "failures": 8}'),),
        ),
        Wrong(
            "a long delay for readiness",
            "traffic-late",
            patch=(
                ('"readiness": {"delay": 0', '"readiness": {"delay": 60'),
            ),
        ),
        Wrong(
            "eager readiness",
            "all-out",
            patch=(('5, "failures": 4}', '5, "failures": 2}'),),
        ),
        Wrong(
            "lax readiness",
            "dead-has-traffic",
            patch=(('5, "failures": 4}', '10, "failures": 8}'),),
        ),
        Wrong(
            "eager liveness",
            "restart-storm",
            patch=(('10, "failures": 4}', '2, "failures": 3}'),),
        ),
        Wrong(
            "lax liveness",
            "hang-unnoticed",
            patch=(('10, "failures": 4}', '30, "failures": 10}'),),
        ),
        Wrong(
            "no number",
            "not-probes",
            patch=(('"failures": 40', '"failures": "forty"'),),
        ),
        Wrong(
            "a name is missing",
            "not-probes",
            patch=(('"liveness": {', '"live": {'),),
        ),
    ],
    also_right=[
        Right(
            "a delay before the first question",
            patch=(
                ('"delay": 0, "period": 5, "failures": 40',
                 '"delay": 20, "period": 5, "failures": 30'),
            ),
        ),
        Right("often", patch=(('5, "failures": 4}', '2, "failures": 10}'),)),
    ],
)  # fmt: skip
def rollout_probes(t: Trial) -> None:
    """Three probes, and what becomes of a rollout with them."""
    from deploylab.exercises.chapters import model_as_service as service

    config = _probes(t)
    t.good("three probes that Kubernetes would take")
    for load_s in range(LOADS_S[0], LOADS_S[1] + 1):
        life = service._life(config, service.Service(load_s=load_s), LONG_S)
        t.need(
            math.isinf(life.ended_s),
            "restart-loop",
            f"A model that takes {load_s} s to load is killed by the {life.ended_by} "
            f"after {life.ended_s:.0f} s, and begins again. The first of the three "
            "instances never gets ready.",
            "The rollout stands still until its deadline, and a model that works is "
            "called broken.",
            "Give the startup probe more patience than the slowest loading takes.",
        )
        late_s = life.first_traffic_s() - load_s
        t.need(
            late_s <= LATE_S,
            "traffic-late",
            f"A model that is loaded after {load_s} s gets its first request "
            f"{late_s:.0f} s later.",
            "Every instance of the rollout waits so long, one after the other.",
            "Ask more often, and allow more failures: the patience stays the same.",
        )
    t.good("each instance loads in peace, and has traffic soon after")
    hung = service.Service(load_s=150, frozen=(3, math.inf))
    life = service._life(config, hung, LONG_S)
    t.need(
        life.killed_s() <= LOADING_HANG_S,
        "loading-hang",
        "An instance that hangs while it loads is restarted after "
        + (
            f"{life.killed_s():.0f} s."
            if life.ended_s < LONG_S
            else "half an hour, or never."
        ),
        "The rollout waits for it, and it will not come.",
        "The patience of the startup probe has an upper bound, too, and the grace "
        "period comes on top.",
    )
    quiet = service._life(config, service.Service(load_s=60), LONG_S)
    for from_s in service._moments(quiet, STEADY_S):
        stall = (from_s, from_s + STALL_S)
        life = service._life(config, service.Service(60, frozen=stall), LONG_S)
        t.need(
            math.isinf(life.ended_s),
            "restart-storm",
            f"A silence of {STALL_S} s that begins {from_s:.0f} s after the start is "
            f"taken for a hang: the {life.ended_by} restarts the instance, and with it "
            "the two others, which are silent at the same time.",
            "For the time of a loading there is nobody, where users would have waited "
            "12 s.",
            "How many questions fall into the silence? One failure more has to count.",
        )
        t.need(
            all(on for at_s, on in life.traffic if at_s >= from_s),
            "all-out",
            f"A silence of {STALL_S} s that begins {from_s:.0f} s after the start "
            "takes this instance out of the traffic, and with it the two others.",
            "Where nobody is ready, every request is refused at once.",
            "Let readiness forgive as many failures as fall into the silence.",
        )
    t.good("a silence of all three passes by")
    for from_s in service._moments(quiet, STEADY_S):
        hangs = service.Service(60, frozen=(from_s, math.inf))
        life = service._life(config, hangs, LONG_S)
        out_s = next((a for a, on in life.traffic if a > from_s and not on), math.inf)
        out_s = min(out_s, life.ended_s) - from_s
        t.need(
            out_s <= ROUTED_S,
            "dead-has-traffic",
            f"An instance that hangs gets requests for {out_s:.0f} s more.",
            "A third of the users waits for an answer that never comes.",
            "Readiness costs nothing: it may be quicker than that, as long as it "
            "forgives the silence.",
        )
        t.need(
            life.killed_s() - from_s <= HANG_S,
            "hang-unnoticed",
            "An instance that hangs is restarted after "
            + (
                f"{life.killed_s() - from_s:.0f} s."
                if life.ended_s < LONG_S
                else "very long, or never."
            ),
            "Until then two instances carry what three should.",
            "Count period times failures of the liveness probe, and the grace period.",
        )
    t.good("what hangs leaves the traffic, and is restarted")


# -- the autoscaler ----------------------------------------------------------------


def _looks() -> int:
    """Looks that change something, with a load of 8 busy pods and 2 pods."""
    pods, changes = 2, 0
    while True:
        ratio = min(1.0, 8 / pods) / 0.6
        if abs(ratio - 1) <= 0.1:
            return changes
        pods, changes = math.ceil(pods * ratio), changes + 1


autoscaler_looks = prediction(
    "autoscaler_looks",
    truth=lambda: float(_looks()),
    tolerance=(0.9, 1.1),
    guesses=[
        Guess(
            float("-inf"),
            0.5,
            "none",
            "100 % is far from the target of 60 %.",
            "What does the formula say at the first look?",
            plausible=False,
        ),
        Guess(
            0.5,
            1.5,
            "one",
            "That would be enough if it could see the load. It sees two pods at 100 %, "
            "and 100 / 60 of two is four.",
            "For the next prediction: what is the largest factor of one look?",
        ),
        Guess(
            1.5,
            3.5,
            "too-few",
            "From 2 to 4, then to 7: both times all pods are still at 100 %. And 12 "
            "pods are at 67 %, which is more than 10 % above the target.",
            "For the next prediction: write down pods and their use after each look.",
        ),
        Guess(
            11.5,
            20.5,
            "pods",
            "That resembles a number of pods.",
            "Count the looks: how often does the number of pods change?",
            plausible=False,
        ),
        Guess(
            4.5,
            float("inf"),
            "too-many",
            "It comes near the target by a factor of up to 1.67, and rests within "
            "10 % of it.",
            "For the next prediction: at 14 pods, how busy is each, and is that close "
            "enough?",
        ),
    ],
    what="The number of looks that change something",
    unit="looks",
    hints={
        "*": [
            "Two pods cannot show more than 100 %.",
            "The formula: pods times use, divided by the target, rounded up.",
            "1 pods, 2 use of each, at most 100 %, 3 the ratio to 60 %, 4 the next "
            "number; again until the ratio is within 10 % of 1.",
        ],
    },
    not_checked="The time that new pods need, and what the autoscaler assumes of pods "
    "that are not ready yet.",
    notice="What is at its limit cannot say how much is missing. A measure that can "
    "grow, such as requests that wait, would come there in one look.",
)


disruption_budget = choice(
    "disruption_budget",
    {
        "a": Option(True, "one of three may be missing, so two are left"),
        "b": Option(True, "two have to be there, so one may be missing"),
        "c": Option(
            False,
            "Three have to be there, and there are three: no pod may ever be evicted, "
            "so no node can be emptied.",
            "Ask of each budget how many may be missing.",
        ),
        "d": Option(
            False,
            "Nobody may be missing: no pod may ever be evicted, so no node can be "
            "emptied.",
            "Ask of each budget how many may be missing.",
        ),
        "e": Option(
            False,
            "Two may be missing at once: while the first pod starts elsewhere, the "
            "next node may be emptied, and one is left.",
            "How many are left at the worst moment?",
        ),
        "f": Option(
            False,
            "A budget protects the pods that its selector finds, here none, and says "
            "so to nobody.",
            "Compare the selector with the labels of the pods.",
        ),
    },
    hints={
        "*": [
            "Turn each into one number: how many pods may be missing?",
            "That number has a lower bound (the repair must go on) and an upper one "
            "(two have to be ready).",
        ],
        "missed-a": ["Is there one that says it as a number that may be missing?"],
        "missed-b": ["Is there one that says it as a number that must be there?"],
    },
    not_checked="Crashes: a budget holds back those who ask, and a crash does not.",
    notice="A budget of nothing stops the repair, not the failure.",
)
