"""Checks for *Switch everybody at once, and be able to switch back*."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deploylab.exercises.engine import Found, Right, Trial, Wrong, exercise
from deploylab.exercises.kinds import Before, Option, choice, order

if TYPE_CHECKING:
    from deploylab.exercises import live

switch_order = order(
    "switch_order",
    {
        "A": "Watch the errors of `v2`, while the side with `v1` stays up.",
        "B": "Send all traffic to the side with `v2`.",
        "C": "Stop the instances of `v2`.",
        "D": "Before anything: note which version is active.",
        "F": "Send test requests to the side with `v2`.",
        "G": "Wait until the side with `v2` has answered what it accepted.",
        "I": "Deploy `v2` on the idle side, and wait until every instance is ready.",
        "J": "Send all traffic to the side with `v1`.",
    },
    [
        Before(
            "I", "F", "tested-nothing",
            "Before every instance is ready there is nobody to answer a test.",
            "Ask what has to run before you can send it anything.",
        ),
        Before(
            "F", "B", "tested-on-users",
            "After the switch the users do the testing, all of them at once.",
            "Ask when a test still costs no user anything.",
        ),
        Before(
            "D", "B", "way-back-unknown",
            "In an emergency nobody wants to look for the name of the version that "
            "worked.",
            "Ask what you need to know before the first step that users feel.",
        ),
        Before(
            "B", "A", "watched-without-traffic",
            "Without traffic there are no errors, and a quiet gate looks like a good "
            "version.",
            "Ask what the watching is to look at.",
        ),
        Before(
            "A", "J", "back-without-reason",
            "Nothing has been seen yet that speaks against `v2`.",
            "Ask how one comes to know that it is bad.",
        ),
        Before(
            "J", "G", "drained-with-traffic",
            "While new requests come in, there is no end to those that are accepted.",
            "Ask what has to happen first, so that the waiting can end.",
        ),
        Before(
            "G", "C", "in-flight-lost",
            "What the side has in hand is lost when its processes end.",
            "Ask where the requests are that were accepted a moment ago.",
        ),
    ],
    distractors={
        "E": "Then there is nothing left to switch back to: two minutes later the way "
        "back is a deployment.",
        "H": "They still run, idle. If they needed a start, going back would take as "
        "long as a deployment.",
        "K": "The old version could no longer work with the data, and going back would "
        "break it. Contract when nobody will go back any more.",
    },
    example="DIFBAJGC",
    others=["IDFBAJGC", "IFDBAJGC"],
    hints={
        "*": [
            "Which two of the steps do users notice, and what has to be true before "
            "each of them?",
            "Capacity is ready before traffic comes, and traffic has left before "
            "capacity goes. The side with `v1` is touched by nobody.",
            "1 note where you would go back to, make the new side ready and try it, "
            "2 switch, 3 watch, 4 switch back, 5 tidy up the side that has lost its "
            "traffic.",
        ],
        "line-missing": [
            "Of which kind is it: what you know, what you do to a side, what you do to "
            "the traffic, or what you look at?",
            "Before: something is noted, one side is made ready and tried. After: it "
            "is watched, left, emptied, stopped.",
        ],
        "drained-with-traffic": ["When does a queue become empty: while it is fed?"],
        "way-back-unknown": [
            "After which step is *the version that is active now* another one?"
        ],
    },
    not_checked="How long each step takes, and whether clients hold connections open "
    "to the side that they knew.",
    notice="Three steps of eight are the way back, and not one of them starts a "
    "server. That is what the second set of machines was paid for.",
)  # fmt: skip

_in_order = switch_order.check


def _noted(t: Trial) -> None:
    """The order; first, whether the one line is missing that does nothing."""
    if isinstance(t.thing, str):
        t.need(
            set(t.thing.upper()) & set("ABCDEFGHIJK") != set("ABCFGIJ"),
            "nothing-noted",
            f"Your order `{t.thing}` has all lines that do something.",
            "In an emergency nobody wants to look for what was known before.",
            "One line is missing that changes nothing: it is about what you know.",
        )
    _in_order(t)


switch_order.check = _noted
switch_order.wrong.append(
    Wrong("notes nothing", "nothing-noted", source='answer = "IFBAJGC"')
)


@exercise(
    hints={
        "*": [
            "Draw a line in time: the switch, the ends of the windows, the verdict, "
            "the moment when `keep_s` is over, the end of the traffic.",
            "First the time until the verdict, then the time of the way back, which "
            "depends on whether the old side is still there. The rate comes last.",
            "1 how many windows have to fail, 2 the second of the verdict, 3 is the "
            "old side still there, 4 the seconds of the way back, 5 times the rate.",
        ],
        "one-window-short": [
            "With `failures=0`, how many failed windows does the gate wait for?"
        ],
        "side-gone": [
            "At the second of the verdict, what is left of the old side?",
        ],
        "boundary": [
            "Look at `BlueGreen.next`: which line comes first, the one with the "
            "verdict or the one with the clock?"
        ],
        "capped": ["Who takes the traffic away from the version when `keep_s` ends?"],
        "deploy-only": ["Once the old version is ready, does it have traffic?"],
    },
    not_checked="Whether every window really fails. A version that is bad by a little "
    "passes some, and then this is the least that it reaches.",
    notice="Window, patience and `keep_s` are three settings, often in three files. "
    "Only together do they say whether there is a way back.",
    wrong=[
        Wrong(
            "as many windows as failures",
            "one-window-short",
            patch=(("(failures + 1) * window_s", "failures * window_s"),),
        ),
        Wrong(
            "at least one window",
            "one-window-short",
            patch=(("(failures + 1)", "max(failures, 1)"),),
        ),
        Wrong(
            "the first window is enough",
            "failures-ignored",
            patch=(("(failures + 1) * window_s", "window_s"),),
        ),
        Wrong(
            "a window more to be sure",
            "one-window-long",
            patch=(("failures + 1", "failures + 2"),),
        ),
        Wrong(
            "the way back takes no time",
            "switch-forgotten",
            patch=(("(seen_s + back_s)", "seen_s"),),
        ),
        Wrong(
            "the old side is always there",
            "side-gone",
            patch=(("if seen_s <= keep_s else deploy_s + switch_s", ""),),
        ),
        Wrong(
            "the old version is always deployed",
            "always-deployed",
            patch=(("switch_s if seen_s <= keep_s else deploy_s", "deploy_s"),),
        ),
        Wrong(
            "a verdict at the last second is late",
            "boundary",
            patch=(("seen_s <= keep_s", "seen_s < keep_s"),),
        ),
        Wrong(
            "asks whether the switch back ends in time",
            "switch-in-time",
            patch=(("if seen_s <= keep_s", "if seen_s + switch_s <= keep_s"),),
        ),
        Wrong(
            "no switch after the deployment",
            "deploy-only",
            patch=(("else deploy_s + switch_s", "else deploy_s"),),
        ),
        Wrong(
            "ends when the old side does",
            "capped",
            source="""
            def switch_exposed(rate, window_s, failures, keep_s, switch_s, deploy_s):
                return rate * (min((failures + 1) * window_s, keep_s) + switch_s)
            """,
        ),
        Wrong(
            "seconds, not requests",
            "seconds",
            patch=(("return rate * (seen_s + back_s)", "return seen_s + back_s"),),
        ),
        Wrong(
            "whole requests",
            "rounded",
            patch=(
                (
                    "return rate * (seen_s + back_s)",
                    "return int(rate * (seen_s + back_s))",
                ),
            ),
        ),
        Wrong(
            "half of the traffic",
            "half",
            patch=(("return rate *", "return 0.5 * rate *"),),
        ),
        Wrong(
            "the deployment takes a window",
            "off",
            patch=(("else deploy_s", "else window_s"),),
        ),
    ],
    also_right=[
        Right(
            "step by step",
            source="""
            def switch_exposed(rate, window_s, failures, keep_s, switch_s, deploy_s):
                now_s, failed = 0, 0
                while failed <= failures:
                    now_s += window_s
                    failed += 1
                if now_s > keep_s:
                    now_s += deploy_s
                now_s += switch_s
                return float(rate * now_s)
            """,
        ),
        Right(
            "in pieces",
            source="""
            def switch_exposed(rate, window_s, failures, keep_s, switch_s, deploy_s):
                until_verdict = rate * window_s * failures + rate * window_s
                late = window_s * (failures + 1) > keep_s
                return until_verdict + rate * (switch_s + deploy_s * late)
            """,
        ),
    ],
)
def switch_exposed(t: Trial) -> None:
    """Requests in a switch that is taken back, from hand-made cases to random ones."""
    value = t.call(100, 30, 0, 300, 2, 50, gives="number")
    t.need(
        not near(value, 200),
        "one-window-short",
        f"{t.said}. With `failures=0` no window may fail, and it takes one to know.",
        "A gate without any window has seen nothing.",
        "Count the windows that have failed when the gate says so.",
    )
    t.need(
        not near(value, 3000),
        "switch-forgotten",
        f"{t.said}. The verdict falls at 30 s, and the router needs 2 s.",
        "Until the router has moved the traffic, users meet the bad version.",
        "Count the seconds between the verdict and the end of its traffic too.",
    )
    t.need(
        not near(value, 32),
        "seconds",
        f"{t.said}: that is how many seconds it has traffic.",
        "Users are counted in requests, and there are `rate` of them a second.",
        "Turn the seconds into requests.",
    )
    t.need(
        not near(value, 1600),
        "half",
        f"{t.said}. By hand it is 32 s at 100 requests a second.",
        "A switch sends everybody to the new version, not a part.",
        "Ask which share of the traffic the version has.",
    )
    t.need(
        not near(value, 8200),
        "always-deployed",
        f"{t.said}. The verdict falls at 30 s, and the old side is kept for 300 s.",
        "While it is kept, going back is a change at the router and nothing else.",
        "Deploy the old version only if it is gone.",
    )
    t.need(
        not near(value, 6200),
        "one-window-long",
        f"{t.said}. With `failures=0` the first window that fails is one too many.",
        "Each further window is one that users pay for.",
        "Count the windows that have failed when the gate says so.",
    )
    as_by_hand(t, value, 100, 30, 0, 300, 2, 50)
    t.good("one window, then the switch back")
    value = t.call(100, 30, 3, 300, 2, 50, gives="number")
    t.need(
        not near(value, 9200),
        "one-window-short",
        f"{t.said}, the time of three windows. The gate fails when *more than* 3 have "
        "failed.",
        "With 30 s each, the difference is 3,000 requests.",
        "Count the windows that have failed when the gate says so.",
    )
    t.need(
        not near(value, 3200),
        "failures-ignored",
        f"{t.said}, as with `failures=0`.",
        "A gate that may fail has more patience, and users pay for it.",
        "Use `failures`.",
    )
    as_by_hand(t, value, 100, 30, 3, 300, 2, 50)
    t.good("several windows")
    value = t.call(100, 30, 3, 60, 2, 50, gives="number")
    t.need(
        not near(value, 12_200),
        "side-gone",
        f"{t.said}. The verdict falls at 120 s, and the old side was stopped at 60 s.",
        "There is nothing to switch back to until the old version runs again.",
        "Compare the second of the verdict with `keep_s`.",
    )
    t.need(
        not near(value, 6200),
        "capped",
        f"{t.said}: the traffic would end 2 s after the old side does, at 60 s.",
        "When the old side is stopped, the bad version keeps all of the traffic.",
        "Go on counting until the traffic has left the version.",
    )
    t.need(
        not near(value, 17_000),
        "deploy-only",
        f"{t.said}, up to the moment when the old version is ready again.",
        "Ready is not yet released: the router still has to send the traffic there.",
        "Add what happens after the deployment.",
    )
    as_by_hand(t, value, 100, 30, 3, 60, 2, 50)
    t.good("a verdict after the old side is gone")
    value = t.call(100, 30, 1, 61, 2, 50, gives="number")
    t.need(
        not near(value, 11_200),
        "switch-in-time",
        f"{t.said}. The verdict falls at 60 s, and the old side is kept for 61 s.",
        "The statement asks when the verdict falls; from then on the old side is "
        "needed, and nobody stops it.",
        "Compare the verdict with `keep_s`, without the switch.",
    )
    as_by_hand(t, value, 100, 30, 1, 61, 2, 50)
    value = t.call(100, 30, 1, 60, 2, 50, gives="number")
    t.need(
        not near(value, 11_200),
        "boundary",
        f"{t.said}. The verdict falls at 60 s, which is exactly `keep_s`.",
        "In `BlueGreen.next` the verdict is looked at before the clock.",
        "Ask on which side of the comparison the equal case belongs.",
    )
    as_by_hand(t, value, 100, 30, 1, 60, 2, 50)
    t.good("a verdict at the last second")
    value = t.call(3, 30, 0, 300, 0.25, 50, gives="number")
    t.need(
        not (abs(value - 90.75) < 1 and value == round(value)),
        "rounded",
        f"{t.said}; 30.25 s at 3 requests a second are 90.75.",
        "It is a number on average, and whoever adds up many releases adds up what was "
        "rounded.",
        "Do not round.",
    )
    as_by_hand(t, value, 3, 30, 0, 300, 0.25, 50)
    for _ in range(12):
        rate, window_s = int(t.rng.integers(1, 900)), int(t.rng.integers(1, 90))
        failures = int(t.rng.integers(0, 6))
        keep_s = window_s * int(t.rng.integers(1, 7)) + int(t.rng.integers(-1, 2))
        switch_s = float(t.rng.integers(1, 40)) / 4
        deploy_s = int(t.rng.integers(10, 600))
        case = (rate, window_s, failures, keep_s, switch_s, deploy_s)
        as_by_hand(t, t.call(*case, gives="number"), *case)
    t.good("any window, any patience, any time on the way back")


def near(value: float, expected: float) -> bool:
    """Whether two numbers of requests are the same, but for rounding errors."""
    return abs(value - expected) <= 1e-6 * max(1.0, expected)


def as_by_hand(
    t: Trial,
    value: float,
    rate: float,
    window_s: float,
    failures: int,
    keep_s: float,
    switch_s: float,
    deploy_s: float,
) -> None:
    """The requests must be those of this switch."""
    verdict_s = sum(window_s for _ in range(failures + 1))
    end_s = verdict_s + switch_s
    if verdict_s > keep_s:
        end_s += deploy_s
    t.need(
        near(value, rate * end_s),
        "off",
        f"{t.said}; the verdict falls at {verdict_s:g} s, the traffic has left at "
        f"{end_s:g} s, and that makes {rate * end_s:,.7g} requests.",
        "",
        "Draw this case as a line in time, and compare it with your function.",
    )


who_is_to_blame = choice(
    "who_is_to_blame",
    {
        "a": Option(
            False,
            "More requests make the number surer, and leave the question open: what "
            "rose at nine rises for any version.",
            "Ask whether the number would be lower with `v1`, in the same hour.",
        ),
        "b": Option(
            False,
            "That takes the rhythm of the day out, and leaves all that is special "
            "about today: a caller's bad batch, a slow database.",
            "Look for a comparison in which both versions live through the same "
            "minutes.",
        ),
        "c": Option(
            True,
            "the same minutes for both, and chance decides who goes where",
        ),
        "d": Option(
            False,
            "For the users that is the first thing to do. As evidence it is one more "
            "before and after: what rose at nine may fall at ten past by itself.",
            "Look for a comparison in which both versions live through the same "
            "minutes.",
        ),
        "e": Option(
            False,
            "The same minutes, but other callers: the data centres may differ in more "
            "than the version that answers them.",
            "Ask who decides which request goes to which side.",
        ),
        "f": Option(
            True,
            "the same minutes for both; a hash divides the users as lots would, and a "
            "user stays on one side",
        ),
    },
    hints={
        "*": [
            "For each one: suppose that `v2` is as good as `v1`, and the database has "
            "become slow at nine. What would you see?",
            "Two things have to be the same for both versions: the time, and who asks.",
        ],
        "missed-c": ["Is there one more in which chance decides?"],
        "missed-f": ["Is there one more in which chance decides?"],
    },
    not_checked="How many requests ten minutes give, and whether errors of one user "
    "hang together; with `f` the users are then what has to be counted.",
    notice="A comparison is fair when nothing but the version decides the difference. "
    "The clock and the map are the two things that slip in most often.",
)


@exercise(
    "operate",
    live=True,
    limit_s=90,
    memory_bytes=None,
    hints={
        "*": [
            "At each line: what do you know about the green side by now, and who told "
            "you: requests of your own, or users?",
            "There are two questions, one before the switch and one after it. Each has "
            "a way back, and they are not the same.",
            "1 start green; 2 preview; with errors stop green and return; 3 users to "
            "green; 4 watch; with errors users to blue, drain and stop green, return; "
            "5 drain and stop blue.",
        ],
        "burnt-bridge": ["What would you go back to, if the users found a fault now?"],
        "stopped-under-traffic": [
            "Who is still sent to the side at the moment at which it is stopped?"
        ],
        "left-running": ["What is still there that nobody needs any more?"],
    },
    not_checked="What your runbook does when a control itself fails, what the new side "
    "has written before you went back, rarer faults, and answers that are 200 and "
    "false.",
    notice="The preview saved the users of the second version, and the side that was "
    "kept saved those of the third. Neither does the other's work.",
    # No luck: 40 previews of a version that fails in 40 % are all right with a chance
    # of 1e-9, and the version that fades ends before 100 users have been answered.
    wrong=[
        Wrong(
            "does nothing",
            "never-started",
            source="""
            def operate(switch):
                if switch.active == "green":
                    switch.to("blue")
            """,
        ),
        Wrong(
            "users before there is anybody",
            "out-of-order",
            patch=(("    switch.start()\n", ""),),
        ),
        Wrong(
            "users are the preview",
            "unpreviewed",
            source="""
            def operate(switch):
                switch.start()
                switch.to("green")
                if switch.watch(enough)["errors"]:
                    switch.to("blue")
                    switch.drain("green")
                    switch.stop("green")
                    return
                switch.drain("blue")
                switch.stop("blue")
            """,
        ),
        Wrong(
            "a handful of requests",
            "unpreviewed",
            patch=(("preview(own)", "preview(3)"),),
        ),
        Wrong(
            "asks and does not listen",
            "switched-broken",
            patch=(
                (
                    'if switch.preview(own)["errors"]:',
                    'if not switch.preview(own)["requests"]:',
                ),
            ),
        ),
        Wrong(
            "tears the bridge down at once",
            "burnt-bridge",
            source="""
            def operate(switch):
                switch.start()
                if switch.preview(own)["errors"]:
                    switch.stop("green")
                    return
                switch.to("green")
                switch.drain("blue")
                switch.stop("blue")
                switch.watch(enough)
            """,
        ),
        Wrong(
            "watches too little",
            "burnt-bridge",
            patch=(("watch(enough)", "watch(10)"),),
        ),
        Wrong(
            "stays on the bad side",
            "still-exposed",
            patch=(
                (
                    '        switch.to("blue")\n        switch.drain("green")\n'
                    '        switch.stop("green")\n        return\n',
                    "        return\n",
                ),
            ),
        ),
        Wrong(
            "watches, and does not listen",
            "still-exposed",
            patch=(
                (
                    'if switch.watch(enough)["errors"]:',
                    'if not switch.watch(enough)["requests"]:',
                ),
            ),
        ),
        Wrong(
            "stops the green side before its users are gone",
            "stopped-under-traffic",
            patch=(
                (
                    '        switch.to("blue")\n        switch.drain("green")\n'
                    '        switch.stop("green")\n',
                    '        switch.stop("green")\n        switch.to("blue")\n',
                ),
            ),
        ),
        Wrong(
            "does not drain",
            "not-drained",
            patch=(('    switch.drain("blue")\n', ""),),
        ),
        Wrong(
            "leaves the broken side running",
            "left-running",
            patch=(
                (
                    '        switch.stop("green")\n        return\n    switch.to',
                    "        return\n    switch.to",
                ),
            ),
        ),
        Wrong(
            "pays for both for ever",
            "old-still-running",
            patch=(('    switch.drain("blue")\n    switch.stop("blue")', "    pass"),),
        ),
        Wrong(
            "always goes back",
            "good-given-up",
            patch=(('if switch.watch(enough)["errors"]:', "if switch.watch(enough):"),),
        ),
        Wrong(
            "asks for ever",
            "too-long",
            source="""
            def operate(switch):
                switch.start()
                while switch.preview(own)["errors"] == 0:
                    pass
                switch.to("green")
            """,
        ),
    ],
    also_right=[
        Right(
            "watches in small steps, and goes at the first error",
            source="""
            def operate(switch):
                switch.start()
                asked = switch.preview(own + 10)
                if asked["errors"] == 0:
                    switch.to("green")
                    seen = {"requests": 0, "errors": 0}
                    while seen["requests"] < enough and not seen["errors"]:
                        seen = switch.watch(20)
                    if not seen["errors"]:
                        switch.drain("blue")
                        return switch.stop("blue")
                    switch.to("blue")
                    switch.drain("green")
                switch.stop("green")
            """,
        ),
        Right(
            "nobody stays on a side that nobody operates",
            source="""
            def operate(switch):
                switch.start()
                try:
                    assert not switch.preview(own)["errors"]
                    switch.to("green")
                    assert not switch.watch(2 * enough)["errors"]
                except BaseException:
                    switch.to("blue")
                    switch.drain("green")
                    switch.stop("green")
                else:
                    switch.drain("blue")
                    switch.stop("blue")
            """,
        ),
    ],
)
def operate_switch(t: Trial) -> None:
    """A runbook for three versions: good, broken, and one that fades under users."""
    from deploylab.exercises import live

    with live.Switches(Path.cwd()) as switches:  # a folder of the check's own
        ends = {
            "good": "the good version has all users, and the old side is stopped",
            "broken": "the broken version met no user, and is stopped",
            "fading": "the version that faded gave its users back, and is stopped",
        }
        for version, end in ends.items():
            switch = switches.next(version)
            t.say(f"The switch to the {version} version")
            _operate(t, switch)
            _need_switch_order(t, switch)
            _need_switch_end(t, switch)
            t.good(end)


def _operate(t: Trial, switch: live.Switch) -> None:
    """Call the runbook; what a control refused is told in our words."""
    from deploylab.exercises.live import OutOfOrder

    try:
        t.call(switch)
    except Found as found:
        _need_bounds(t, switch)
        number = len(switch.done)
        t.need(
            not isinstance(found.__cause__, OutOfOrder),
            "out-of-order",
            f"After {number} step{'' if number == 1 else 's'} a control refused: "
            f"{found.__cause__}.",
            "Each control needs what earlier ones have brought about.",
            "Put the controls in the order in which the parts need each other.",
        )
        raise
    _need_bounds(t, switch)


def _need_bounds(t: Trial, switch: live.Switch) -> None:
    """It did not go on for ever, even if it caught the refusal."""
    from deploylab.exercises.live import TooLong

    if switch.version == "good" and any(one.errors for one in switch.done):
        raise RuntimeError("a version without a fault gave errors on this machine")
    for refused in switch.refused:
        t.need(
            not isinstance(refused, TooLong),
            "too-long",
            f"A control refused: {refused}.",
            "A release that waits for a sign that never comes holds up the next one.",
            "Say how much is enough, and decide then.",
        )


def _need_switch_order(t: Trial, switch: live.Switch) -> None:
    """What must come before what, told in the order in which it was done."""
    from deploylab.exercises.live import PREVIEW, SWITCH_WATCH

    t.need(
        switch.done,
        "never-started",
        "Your runbook came back, and 0 controls had been used.",
        "A version that is never tried is never released.",
        "Begin with the side that nobody uses.",
    )
    asked = failed = watched = 0
    active, drained = "blue", set()
    for one in switch.done:
        if one.what == "preview":
            asked, failed = asked + one.requests, failed + one.errors
        elif one.what == "watch":
            watched = one.requests
        elif one.what == "drain":
            drained.add(one.side)
        elif one.what == "to":
            watched, active = 0, one.side
            drained.discard(one.side)
            if one.side == "green":
                _need_previewed(t, asked, failed, PREVIEW)
        elif one.what == "stop":
            t.need(
                one.side != active,
                "stopped-under-traffic",
                f"You stopped the {one.side} side while it had 100 % of the users.",
                "Whoever is sent to an instance that is gone gets an error, from a "
                "good version too.",
                "Users move first, then capacity goes.",
            )
            t.need(
                one.side == "green" or watched >= SWITCH_WATCH,
                "burnt-bridge",
                f"You stopped the blue side after {watched} of the users' requests on "
                "the green one.",
                "A fault that only users find would have nothing to go back to.",
                "Keep the old side until `enough` users have been answered.",
            )
            t.need(
                one.side in drained or not _had_users(switch, one),
                "not-drained",
                f'You stopped the {one.side} side, and `drain("{one.side}")` had not '
                "been used.",
                "What it has accepted and not answered is lost with it.",
                "Between the switch and the stop there is one control more.",
            )


def _had_users(switch: live.Switch, until: live.Moved) -> bool:
    """Whether the side that is stopped ever was the active one."""
    before = switch.done[: switch.done.index(until)]
    return until.side == "blue" or any(one.active == until.side for one in before)


def _need_previewed(t: Trial, asked: int, failed: int, enough: int) -> None:
    """Users were sent to the green side after these requests of one's own."""
    t.need(
        asked >= enough,
        "unpreviewed",
        f"All users went to the green side after {asked} requests of your own.",
        "A switch makes everybody the first to try; a broken version then breaks for "
        "everybody.",
        "Ask the green side yourself before users do, as often as `own` says.",
    )
    t.need(
        not failed,
        "switched-broken",
        f"{failed} of {asked} requests of the preview failed, and you sent all users "
        "there.",
        "You knew it before they did.",
        "Let the answer of the preview decide.",
    )


def _need_switch_end(t: Trial, switch: live.Switch) -> None:
    """Everybody on the right side, and nothing else runs."""
    last = switch.done[-1]
    if last.active == "green":
        t.need(
            not _errors_of_users(switch),
            "still-exposed",
            f"{_errors_of_users(switch)} of the users' requests on the green side had "
            "failed, and at the end they are still sent there.",
            "Your runbook has returned, so nobody will take them back.",
            "Let what users met decide whether they stay.",
        )
        t.need(
            switch.version != "fading",
            "still-exposed",
            "The third version fails under users, and at the end they are still sent "
            "there.",
            "Your runbook has returned, so nobody will take them back.",
            "Let what users met decide whether they stay.",
        )
        t.need(
            "blue" not in last.runs,
            "old-still-running",
            f"At the end all users are on the green side, and `{last.runs}` run.",
            "It is paid for and patched, and the next release finds two sides where "
            "one is expected to be free.",
            "Two controls are left, in their order.",
        )
        return
    t.need(
        "green" not in last.runs,
        "left-running",
        f"At the end all users are on the blue side, and `{last.runs}` run.",
        "A server that nobody knows of is found when it does harm.",
        "Stop it, now that nobody is sent there.",
    )
    t.need(
        switch.version != "good",
        "good-given-up",
        "The first version was good (0 errors in all), and you gave it up.",
        "A release process that never lets anything pass is one that people go around.",
        "Look at the condition under which you go back.",
    )


def _errors_of_users(switch: live.Switch) -> int:
    return sum(one.errors for one in switch.done if one.what == "watch")
