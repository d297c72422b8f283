"""Checks for *Replace instances in waves, and know how high they are*."""

from __future__ import annotations

import difflib
import re
import textwrap
from importlib import import_module
from pathlib import Path
from typing import Any

from deploylab.exercises.engine import Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import Guess, Option, choice, prediction


def _reached() -> float:
    """Requests of the bad version, with four instances and the defaults."""
    from deploylab.rollout import Gate, Rolling, Threshold, predict

    four = Rolling(4, gates=(Gate("errors", Threshold(limit=0.01)),))
    world = predict.World(100, 4, start_s=60, stop_s=0, look_s=60, needed=1)
    return predict.damage(four, world).exposed


rolling_reached = prediction(
    "rolling_reached",
    truth=lambda: _reached(),
    tolerance=(0.8, 1.25),
    guesses=[
        Guess(
            float("-inf"),
            100,
            "nobody",
            "The gate knows nothing before users have met the version, and a wave "
            "takes 60 s to become ready.",
            "Begin with the requests of one minute.",
            plausible=False,
        ),
        Guess(
            100,
            2200,
            "one-of-four",
            "That resembles one instance in four for a minute. A surge of one and one "
            "unavailable are two new instances, beside one old one.",
            "For the next prediction: count the ready instances of both kinds after "
            "the first wave.",
        ),
        Guess(
            2200,
            6400,
            "way-there-only",
            "That resembles the time until the gate fails. Then the old version has "
            "one instance, and others take 60 s to start.",
            "For the next prediction: what happens between the verdict and the last "
            "bad answer?",
        ),
        Guess(
            10_000,
            18_000,
            "everybody",
            "That resembles all of the traffic for two or three minutes. The second "
            "wave was ready, but the gate spoke before it got traffic.",
            "For the next prediction: which share, and for how long?",
        ),
        Guess(
            18_000,
            float("inf"),
            "more-than-all",
            "From the start until the last old instance is back there are 18,000 "
            "requests in all.",
            "Take the time that it has traffic, then its share.",
            plausible=False,
        ),
    ],
    what="The number of requests before it gets no more",
    unit="requests",
    hints={
        "*": [
            "How many old and new instances are ready after the first wave?",
            "The share stays the same from the first wave until the old version has "
            "enough instances again.",
            "1 the share after one wave; 2 the seconds until the verdict; 3 the "
            "seconds until the way back is done.",
        ],
    },
    not_checked="How the instances of a wave become ready: here all at the same "
    "moment.",
    notice="The verdict is half of the time. A roll that cannot go back without "
    "starting instances pays for their start as well.",
)


def _after(
    instances: int, surge: int, unavailable: int, old: int, new: int
) -> tuple[int, int]:
    """(old, new) after a wave, one instance after the other."""

    def stop(old: int, new: int) -> int:
        while old and old - 1 + new >= instances - unavailable:
            old -= 1
        return old

    old = stop(old, new)
    while new < instances and old + new < instances + surge:
        new += 1
    return stop(old, new), new


def _wave(t: Trial, *case: int) -> tuple[tuple[int, int], str]:
    """What the student's function says, as whole numbers."""
    pair = t.call(*case, gives="pair")
    t.need(
        all(number == int(number) for number in pair),
        "not-whole",
        f"{t.said}.",
        "Nobody can start half an instance.",
        "Both numbers are counts of instances.",
    )
    return (int(pair[0]), int(pair[1])), t.said


@exercise(
    hints={
        "*": [
            "Take ten instances, surge 3, unavailable 2, and write down who is ready "
            "after each of the three steps.",
            "Each step is a count that is bounded from two sides: by what there is, "
            "and by what the limit leaves.",
            "1 how many have to be ready; 2 how many old ones may stay; 3 how many "
            "new ones fit; 4 how many old ones are still needed.",
        ],
        "negative-old": [
            "After the second wave of ten the new ones are enough by themselves. How "
            "many old ones does your formula keep?",
        ],
    },
    not_checked="How long a wave takes, and what happens if it never becomes ready.",
    notice="A wave has surge and unavailable instances together, and the last one "
    "may be smaller.",
    wrong=[
        Wrong(
            "forgets the first stop",
            "wave-too-small",
            patch=(("    old = min(old, max(0, least - new))\n    new", "    new"),),
        ),
        Wrong(
            "leaves the old ones",
            "old-stay",
            patch=(
                ("    old = min(old, max(0, least - new))\n    return", "    return"),
            ),
        ),
        Wrong(
            "ignores what may be unavailable",
            "unavailable-ignored",
            patch=(("least = instances - unavailable", "least = instances"),),
        ),
        Wrong(
            "starts the surge alone",
            "wave-too-small",
            patch=(("instances + surge - old)", "new + surge)"),),
        ),
        Wrong(
            "exchanges as many as a wave has",
            "one-for-one",
            source="""
            def next_wave(instances, surge, unavailable, old, new):
                wave = min(surge + unavailable, old, instances - new)
                return old - wave, new + wave
            """,
        ),
        Wrong(
            "returns new, old",
            "turned-round",
            patch=(("return old, new", "return new, old"),),
        ),
        Wrong(
            "fewer than none",
            "negative-old",
            patch=(("max(0, least - new)", "least - new"),),
        ),
        Wrong(
            "more new ones than instances",
            "too-many-new",
            patch=(
                ("min(instances, instances + surge - old)", "instances + surge - old"),
            ),
        ),
        Wrong(
            "counts the new ones twice",
            "too-many-at-once",
            patch=(("instances + surge - old)", "new + instances + surge - old)"),),
        ),
        Wrong(
            "starts no old ones, and invents some",
            "invented",
            patch=(("min(old, max(0, least - new))", "max(0, least - new)"),),
        ),
        Wrong(
            "halves",
            "not-whole",
            patch=(("return old, new", "return old / 4, new"),),
        ),
        Wrong(
            "goes all the way at a time",
            "differs",
            patch=(
                (
                    "return old, new",
                    "return (old, new) if surge < 4 else (0, instances)",
                ),
            ),
        ),
    ],
    also_right=[
        Right(
            "one instance after the other",
            source="""
            def next_wave(instances, surge, unavailable, old, new):
                def stop(old, new):
                    while old > 0 and old + new > instances - unavailable:
                        old -= 1
                    return old
                old = stop(old, new)
                while new < instances and old + new < instances + surge:
                    new += 1
                return [stop(old, new), new]
            """,
        ),
        Right(
            "by what goes and what comes",
            source="""
            def next_wave(instances, surge, unavailable, old, new):
                spare = old + new - (instances - unavailable)
                old -= max(0, min(old, spare))
                comes = min(instances - new, instances + surge - old - new)
                new += comes
                spare = old + new - (instances - unavailable)
                return np.array([old - max(0, min(old, spare)), new])
            """,
        ),
    ],
)
def next_wave(t: Trial) -> None:
    """The next wave of a rolling update, from wherever it stands."""
    (old, new), said = _wave(t, 10, 2, 1, 10, 0)
    t.need(
        (old, new) != (9, 3),
        "old-stay",
        f"{said}: 12 are ready, and 9 have to be.",
        "An update that only adds instances never ends.",
        "Step 3 is the same as step 1, with the new ones counted.",
    )
    t.need(
        (old, new) != (8, 2),
        "unavailable-ignored",
        f"{said}: 10 are ready, and 1 of them may be missing.",
        "With a surge of 0 such an update could never begin.",
        "Ask how many have to be ready at least.",
    )
    t.need(
        (old, new) != (7, 2),
        "wave-too-small",
        f"{said}: 2 have started, and there was room for 3.",
        "The update takes more waves, and with a surge of 0 it never begins.",
        "Step 1 makes room. How many are there when step 2 begins, and how many may "
        "be?",
    )
    t.need(
        (old, new) != (7, 3),
        "one-for-one",
        f"{said}: 10 are ready, and 9 have to be.",
        "An old instance that nobody needs any more keeps a place from the next wave.",
        "Three come, and more than three may go. Count for step 3 who is ready then.",
    )
    t.need(
        (old, new) != (3, 6),
        "turned-round",
        f"{said}. Here `old` is the first of the pair, and `new` the second.",
        "Exchanged, an undo looks like progress.",
        "Look at the order in which you return them.",
    )
    _same(t, (old, new), said, 10, 2, 1, 10, 0)
    t.good("the first wave of ten: three new ones come, four old ones go")
    (old, new), said = _wave(t, 10, 3, 2, 3, 5)
    t.need(
        old >= 0,
        "negative-old",
        f"{said}: that is fewer than none.",
        "Whoever adds the two up gets a share above 100 %.",
        "Bound the number of old ones from below, too.",
    )
    _same(t, (old, new), said, 10, 3, 2, 3, 5)
    t.good("the second wave")
    (old, new), said = _wave(t, 7, 2, 1, 0, 6)
    t.need(
        new <= 7,
        "too-many-new",
        f"{said}: more than the 7 instances of the service.",
        "What nobody asked for has to be paid, and is stopped by the next one who "
        "looks.",
        "Step 2 has two bounds.",
    )
    _same(t, (old, new), said, 7, 2, 1, 0, 6)
    (old, new), said = _wave(t, 3, 1, 0, 2, 1)
    t.need(
        (old, new) != (0, 3),
        "too-many-at-once",
        f"{said}. Two old and one new are there, and at most 4 fit.",
        "The fifth waits for a place that it does not get.",
        "In step 2, count the instances of both kinds.",
    )
    _same(t, (old, new), said, 3, 1, 0, 2, 1)
    t.good("no more new ones than fit, and than are needed")
    (old, new), said = _wave(t, 10, 3, 2, 2, 0)
    t.need(
        old <= 2,
        "invented",
        f"{said}: there were 2 old ones, and no step starts any.",
        "A count of what is not there routes requests to nobody.",
        "Old instances only ever become fewer.",
    )
    _same(t, (old, new), said, 10, 3, 2, 2, 0)
    t.good("goes on after most of the old ones have died")
    (old, new), said = _wave(t, 5, 0, 2, 1, 3)
    _same(t, (old, new), said, 5, 0, 2, 1, 3)
    for _ in range(60):
        instances = int(t.rng.integers(1, 21))
        surge = int(t.rng.integers(0, 7))
        unavailable = int(t.rng.integers(0 if surge else 1, 2 + instances // 3))
        new = int(t.rng.integers(0, 1 + instances // t.rng.integers(1, 4)))
        old = int(t.rng.integers(0, max(1, instances + surge - new + 1)))
        old = min(old, instances)
        case = (instances, surge, unavailable, old, new)
        pair, said = _wave(t, *case)
        _same(t, pair, said, *case)
    t.good("any limits, from any state")


def _same(t: Trial, pair: tuple[int, int], said: str, *case: int) -> None:
    """The pair must be that of this case."""
    right = _after(*case)
    t.need(
        pair == right,
        "differs",
        f"{said}; by the three steps it is `{right}`.",
        "",
        "Go through the three steps with these numbers, on paper.",
    )


rolling_limits = choice(
    "rolling_limits",
    {
        "a": Option(
            False,
            "25 % of four is one, rounded up and rounded down: one may be added, and "
            "one may be missing, so three are ready.",
            "Work out both limits for four instances.",
        ),
        "b": Option(True, "one more, five cards; none fewer, four ready"),
        "c": Option(
            True, "10 % of four is rounded up to one, 20 % is rounded down to none"
        ),
        "d": Option(
            False,
            "30 % of four is 1.2, and a surge is rounded up: two new instances ask "
            "for six cards.",
            "In which direction is a surge rounded?",
        ),
        "e": Option(
            False,
            "20 % of four is 0.8, rounded down to none. Then nothing could move, so "
            "Kubernetes lets one be missing nevertheless.",
            "What happens if both limits come to 0?",
        ),
        "f": Option(
            False,
            "Two limits that are written as 0 leave nothing to move, and the API "
            "server refuses the manifest.",
            "Ask what the first step of this update would be.",
        ),
    },
    hints={
        "*": [
            "Turn each percentage into a number of instances first: 1.0, 0.8, 0.4, "
            "1.2.",
            "The surge is rounded up, *unavailable* down; and if both come to 0, one "
            "of them does not stay 0.",
        ],
        "missed-b": ["Is there one that says both limits as counts?"],
        "missed-c": ["Round the percentages of the others once more."],
    },
    not_checked="Whether five cards are free when the update begins: others may have "
    "taken the fifth. And an instance that is ending holds its card until it is gone.",
    notice="A percentage of a small number is decided by its rounding. Written as "
    "counts, the limits say what they do.",
)


# The configuration: what it promises, and what is read of it.

INSTANCES, ROOM = 3, 4
LOAD_S, SERVED_S, REPORT_S = 180, 60, 600
FORGET_S, ANSWER_S = 5, 30
FIELDS = {
    "the file": (
        "replicas minReadySeconds progressDeadlineSeconds strategy template selector "
        "revisionHistoryLimit paused"
    ),
    "`strategy`": "type rollingUpdate",
    "`rollingUpdate`": "maxSurge maxUnavailable",
    "`template.spec`": "terminationGracePeriodSeconds containers",
    "the container": (
        "name image ports readinessProbe livenessProbe startupProbe lifecycle "
        "resources command args env securityContext imagePullPolicy"
    ),
    "`readinessProbe`": (
        "httpGet initialDelaySeconds periodSeconds timeoutSeconds failureThreshold "
        "successThreshold"
    ),
    "`lifecycle`": "preStop postStart",
    "`preStop`": "sleep exec",
    "`sleep`": "seconds",
}


def _part(t: Trial, thing: Any, where: str) -> dict[str, Any]:
    """A mapping whose names are all known there; {} if it was left out."""
    if thing is None:
        return {}
    t.need(
        isinstance(thing, dict),
        "not-a-mapping",
        f"{where[0].upper()}{where[1:]} is `{show(thing, 40)}`, not names with values.",
        "A cluster refuses the manifest.",
        "Compare the indentation with the file that was given.",
    )
    known = FIELDS[where].split()
    for name in thing:
        near = difflib.get_close_matches(str(name), known, n=1)
        do = f"Did you mean `{near[0]}`?" if near else "Look at where it belongs."
        for other, names in FIELDS.items():
            if name in names.split():
                do = f"It belongs into {other}. Move it there."
        t.need(
            name in known,
            "unknown-field",
            f"`{show(name, 40)}` is no field of {where}, as far as this check knows.",
            "A cluster refuses it at best; at worst it drops it without a word.",
            do,
        )
    return thing


def _seconds(t: Trial, part: dict[str, Any], name: str, default: int) -> int:
    """A whole number of seconds; its default if it was left out."""
    value = part.get(name, default)
    t.need(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31,
        "bad-value",
        f"`{name}` is `{show(value, 40)}`.",
        "Kubernetes refuses the manifest.",
        "Write a whole number, without a unit.",
    )
    return value


def _read(t: Trial) -> dict[str, Any]:
    """The file as YAML."""
    import yaml

    try:
        content = yaml.safe_load(Path(t.thing).read_text("utf-8", errors="replace"))
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or type(error).__name__
        t.stop(
            "not-yaml",
            f"The file cannot be read as YAML{where}: `{show(said, 60)}`.",
            "",
            "Compare the indentation and the colons with the file that was given.",
        )
    t.need(
        isinstance(content, dict),
        "not-yaml",
        f"The file holds `{show(content, 40)}`, not names with values.",
        "",
        "Begin again with the file that was given.",
    )
    return _part(t, content, "the file")


def _check_limits(t: Trial, spec: dict[str, Any]) -> None:
    """Three ready, and no more than four."""
    from deploylab.rollout import fenceposts

    replicas = _seconds(t, spec, "replicas", 1)
    t.need(
        replicas == INSTANCES,
        "other-replicas",
        f"`replicas` is {replicas}, and the service has {INSTANCES}.",
        "More would need more room, and fewer do not carry the load.",
        f"Leave it at {INSTANCES}.",
    )
    t.need(
        not spec.get("paused"),
        "paused",
        "`paused` is set.",
        "A Deployment that is paused rolls nothing out.",
        "Leave the field away.",
    )
    t.need(
        _seconds(t, spec, "revisionHistoryLimit", 10) > 0,
        "no-undo",
        "`revisionHistoryLimit` is 0.",
        "No old revision is kept, so there is nothing that an undo could bring back.",
        "Leave the field away; the default keeps ten.",
    )
    strategy = _part(t, spec.get("strategy"), "`strategy`")
    kind = strategy.get("type", "RollingUpdate")
    t.need(
        kind == "RollingUpdate",
        "all-at-once",
        f"The type of `strategy` is `{show(kind, 40)}`.",
        "Recreate stops all of them before it starts one: an outage of three minutes.",
        "Keep RollingUpdate, and change its limits.",
    )
    rolling = _part(t, strategy.get("rollingUpdate"), "`rollingUpdate`")
    limits = [rolling.get(name, "25%") for name in ("maxSurge", "maxUnavailable")]
    try:
        surge, unavailable = fenceposts.resolve(INSTANCES, *limits)
    except ValueError as error:
        t.stop(
            "refused",
            f"`maxSurge` is `{show(limits[0], 20)}`, `maxUnavailable` "
            f"`{show(limits[1], 20)}`.",
            f"Kubernetes refuses that: {error.args[0].split(': ')[0][:90]}.",
            "Give each a count such as 1, or a percentage.",
        )
    t.need(
        unavailable == 0,
        "too-few-ready",
        f"With `maxSurge: {limits[0]}` and `maxUnavailable: {limits[1]}` there may be "
        f"{INSTANCES - unavailable} ready instances of {INSTANCES}.",
        "Three are needed; the others get the missing one's requests.",
        "Work out both limits in instances, and what happens if both come to 0.",
    )
    t.need(
        INSTANCES + surge <= ROOM,
        "no-room",
        f"With `maxSurge: {limits[0]}` there may be {INSTANCES + surge} instances, and "
        f"there is room for {ROOM}.",
        "One stays Pending, and whether the update goes on is left to chance.",
        "Work out the surge in instances; it is rounded up.",
    )
    t.good("three are ready at any time, and four at most are there")


def _check_probe(t: Trial, container: dict[str, Any]) -> None:
    """Ready means loaded."""
    probe = _part(t, container.get("readinessProbe"), "`readinessProbe`")
    asks = probe.get("httpGet")
    t.need(
        bool(probe),
        "ready-at-once",
        f"There is no `readinessProbe`, and the model loads for up to {LOAD_S} s.",
        "Without one, an instance counts as ready as soon as its process runs.",
        "Ask which address says that the model is loaded.",
    )
    asks = asks if isinstance(asks, dict) else {}
    path, port = asks.get("path"), asks.get("port")
    t.need(
        path != "/health",
        "ready-too-soon",
        "`readinessProbe` asks `/health`, which says 200 after 2 s; the model is "
        f"loaded after up to {LOAD_S} s.",
        "Old instances go for new ones that cannot answer yet.",
        "Ask the address that says 200 once the model is loaded.",
    )
    t.need(
        path == "/ready" and port == 8000 and not isinstance(port, bool),
        "nothing-there",
        f"`readinessProbe` asks `{show(path, 40)}` at port `{show(port, 40)}`.",
        "Where nobody answers 200, no instance ever becomes ready.",
        "Take an address of the service, and its port.",
    )
    t.good("an instance is ready when its model is")


def _check_times(t: Trial, spec: dict[str, Any]) -> None:
    """Watched for long enough, reported neither early nor late."""
    settle_s = _seconds(t, spec, "minReadySeconds", 0)
    t.need(
        settle_s >= SERVED_S,
        "not-watched",
        f"`minReadySeconds` is {settle_s}: an old instance goes {settle_s} s after a "
        "new one is ready.",
        f"The alarms need {SERVED_S} s, and by then all may be replaced.",
        "Let new instances serve for a while before old ones go.",
    )
    deadline_s = _seconds(t, spec, "progressDeadlineSeconds", 600)
    t.need(
        deadline_s > settle_s,
        "refused",
        f"`progressDeadlineSeconds` is {deadline_s}, and `minReadySeconds` {settle_s}.",
        "Kubernetes refuses a deadline that is not longer than that.",
        "Compare the two with the times of the service.",
    )
    place_s = FORGET_S + ANSWER_S
    t.need(
        deadline_s >= place_s + LOAD_S,
        "reported-too-soon",
        f"`progressDeadlineSeconds` is {deadline_s}; an instance may wait {place_s} s "
        f"for the place of one that ends, and take {LOAD_S} s to load.",
        "An alarm for each healthy release is one that nobody reads.",
        "Add up what may pass until an instance is ready.",
    )
    t.need(
        deadline_s <= REPORT_S,
        "reported-too-late",
        f"`progressDeadlineSeconds` is {deadline_s}, and the promise is {REPORT_S}.",
        "A stuck release is found by the next one who looks.",
        "Stay below ten minutes.",
    )
    t.good("new instances are watched, and a stuck release is reported in time")


def _check_image(t: Trial, container: dict[str, Any]) -> None:
    """The same image for all instances."""
    image = container.get("image")
    name, _, digest = str(image).partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    pinned = bool(re.fullmatch("sha256:[0-9a-f]{64}", digest))
    t.need(
        isinstance(image, str) and "phishing" in image,
        "no-image",
        f"The container's `image` is `{show(image, 40)}`.",
        "Without one there is nothing to start.",
        "Keep the name of the image, and look at what stands behind it.",
    )
    t.need(
        pinned or (not digest and tag not in ("", "latest")),
        "moving-image",
        f"The image is `{show(image, 60)}`.",
        "Each instance runs what that means when it starts, and an undo may bring "
        "back the version that was to go.",
        "Name a tag that stays, or a digest with all its 64 digits.",
    )
    t.good("all instances run the same image")


def _check_end(t: Trial, pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Out of the routers first, and time for the last answers."""
    life = _part(t, container.get("lifecycle"), "`lifecycle`")
    stop = _part(t, life.get("preStop"), "`preStop`")
    pause_s = 0
    sleep = stop.get("sleep", {})
    t.need(
        isinstance(sleep, dict),
        "not-a-mapping",
        f"`sleep` is `{show(sleep, 20)}`; Kubernetes wants its seconds by name.",
        "A cluster refuses the manifest.",
        "Write `sleep: {seconds: ...}`.",
    )
    if "sleep" in stop:
        pause_s = _seconds(t, _part(t, sleep, "`sleep`"), "seconds", 0)
    elif isinstance(stop.get("exec"), dict):
        command = " ".join(map(str, stop["exec"].get("command") or ()))
        found = re.search(r"\bsleep (\d{1,6})\b", command)
        pause_s = int(found[1]) if found else 0
    t.need(
        pause_s >= FORGET_S,
        "still-routed",
        f"`preStop` waits for {pause_s} s, and routers need {FORGET_S} s.",
        "Requests come to an instance that has been told to end, and are lost.",
        "Let an instance that is to go serve on for a while, before SIGTERM.",
    )
    grace_s = _seconds(t, pod, "terminationGracePeriodSeconds", 30)
    left = f"{grace_s - pause_s} s are" if grace_s > pause_s else "no time is"
    t.need(
        grace_s >= pause_s + ANSWER_S,
        "killed",
        f"`terminationGracePeriodSeconds` is {grace_s}. It counts from the beginning "
        f"of `preStop`, so {left} left after SIGTERM.",
        "What is not answered by then is cut off.",
        "Add up the pause and the time for the last answers.",
    )
    t.good("an instance that goes loses no request")


def _file(text: str) -> str:
    """The source of a cell that writes such a file."""
    return f"%%writefile {{work}}/rollout.yaml\n{textwrap.dedent(text).strip()}\n"


@exercise(
    kind="configuration",
    starting="6020f322fc7ebfb7",
    prepare=lambda: [import_module(name) for name in ("yaml", "deploylab.rollout")],
    hints={
        "*": [
            "Go through the promises one by one: which field keeps each of them?",
            "Two limits, one probe, three times, one image, one pause. Some of them "
            "are not in the file yet.",
            "1 what 30 % of three is, rounded down, beside a surge of 0; 2 who says "
            "ready; 3 what may pass until an instance is ready; 4 how it ends.",
        ],
        "too-few-ready": [
            "30 % of 3 is 0.9. In which direction is it rounded, and what does "
            "Kubernetes do if then nothing can move?",
        ],
        "killed": [
            "Draw the end of an instance as a line: the pause, SIGTERM, the last "
            "answer, SIGKILL. From where to where goes the grace period?",
        ],
    },
    not_checked="Whether the service drains as it should after SIGTERM, whether other "
    "probes leave it the time to load, whether a tag stays where it is, and whether "
    "anybody reads the report.",
    notice="None of these fields judges the version. They keep a release from "
    "hurting by itself; for a bad version there is the alarm, and you.",
    wrong=[
        Wrong("no YAML", "not-yaml", source=_file("replicas: [3")),
        Wrong("a text", "not-yaml", source=_file("three replicas")),
        Wrong(
            "a misspelt field",
            "unknown-field",
            patch=(("minReadySeconds", "minReadySecond"),),
        ),
        Wrong(
            "the strategy as a word",
            "not-a-mapping",
            patch=(
                (
                    "strategy:\n  type: RollingUpdate\n  rollingUpdate:\n"
                    "    maxSurge: 1\n    maxUnavailable: 0\n",
                    "strategy: RollingUpdate\n",
                ),
            ),
        ),
        Wrong(
            "a unit",
            "bad-value",
            patch=(("minReadySeconds: 60", "minReadySeconds: 60s"),),
        ),
        Wrong(
            "no container",
            "no-container",
            source=_file("replicas: 3\ntemplate: {spec: {containers: []}}"),
        ),
        Wrong("six of them", "other-replicas", patch=(("replicas: 3", "replicas: 6"),)),
        Wrong(
            "recreate",
            "all-at-once",
            patch=(
                (
                    "type: RollingUpdate\n  rollingUpdate:\n    maxSurge: 1\n"
                    "    maxUnavailable: 0",
                    "type: Recreate",
                ),
            ),
        ),
        Wrong("nothing moves", "refused", patch=(("maxSurge: 1", "maxSurge: 0"),)),
        Wrong(
            "one fewer",
            "too-few-ready",
            patch=(("maxUnavailable: 0", "maxUnavailable: 1"),),
        ),
        Wrong(
            "a surge of nothing, beside nothing",
            "too-few-ready",
            patch=(
                ("maxSurge: 1", "maxSurge: 0"),
                ("maxUnavailable: 0", "maxUnavailable: 25%"),
            ),
        ),
        Wrong("40 % more", "no-room", patch=(("maxSurge: 1", "maxSurge: 40%"),)),
        Wrong(
            "no probe",
            "ready-at-once",
            patch=(
                (
                    "        readinessProbe:\n"
                    "          httpGet: {path: /ready, port: 8000}\n",
                    "",
                ),
            ),
        ),
        Wrong("asks for life", "ready-too-soon", patch=(("/ready", "/health"),)),
        Wrong("a closed port", "nothing-there", patch=(("port: 8000", "port: 80"),)),
        Wrong(
            "does not wait",
            "not-watched",
            patch=(("minReadySeconds: 60\n", ""),),
        ),
        Wrong(
            "forgets the wait for a place in the deadline",
            "reported-too-soon",
            patch=(("progressDeadlineSeconds: 300", "progressDeadlineSeconds: 200"),),
        ),
        Wrong(
            "a deadline below the wait",
            "refused",
            patch=(("minReadySeconds: 60", "minReadySeconds: 300"),),
        ),
        Wrong(
            "paused",
            "paused",
            patch=(("replicas: 3", "replicas: 3\npaused: true"),),
        ),
        Wrong(
            "keeps no old revision",
            "no-undo",
            patch=(("replicas: 3", "replicas: 3\nrevisionHistoryLimit: 0"),),
        ),
        Wrong(
            "an hour",
            "reported-too-late",
            patch=(("progressDeadlineSeconds: 300", "progressDeadlineSeconds: 3600"),),
        ),
        Wrong("latest", "moving-image", patch=((":2.0.0", ":latest"),)),
        Wrong("no tag", "moving-image", patch=((":2.0.0", ""),)),
        Wrong(
            "no image",
            "no-image",
            patch=(("        image: registry.example/phishing:2.0.0\n", ""),),
        ),
        Wrong(
            "no pause",
            "still-routed",
            patch=(
                (
                    "        lifecycle:\n          preStop:\n"
                    "            sleep: {seconds: 5}",
                    "",
                ),
            ),
        ),
        Wrong(
            "the time of the last answers alone",
            "killed",
            patch=(("PeriodSeconds: 40", "PeriodSeconds: 30"),),
        ),
        Wrong(
            "a pause longer than the grace period",
            "killed",
            patch=(("{seconds: 5}", "{seconds: 60}"),),
        ),
        Wrong(
            "a pause without its name",
            "not-a-mapping",
            patch=(("sleep: {seconds: 5}", "sleep: 5"),),
        ),
        Wrong(
            "the grace period beside the replicas",
            "unknown-field",
            patch=(
                ("    terminationGracePeriodSeconds: 40\n", ""),
                ("replicas: 3", "replicas: 3\nterminationGracePeriodSeconds: 40"),
            ),
        ),
    ],
    also_right=[
        Right(
            "percentages, a digest, and a shell that sleeps",
            source=_file(
                f"""
                replicas: 3
                minReadySeconds: 90
                strategy: {{rollingUpdate: {{maxSurge: 25%, maxUnavailable: 25%}}}}
                template:
                  spec:
                    terminationGracePeriodSeconds: 60
                    containers:
                      - name: server
                        image: registry.example:5000/phishing@sha256:{64 * "a"}
                        readinessProbe:
                          httpGet: {{path: /ready, port: 8000}}
                          periodSeconds: 2
                        lifecycle:
                          preStop:
                            exec: {{command: [sh, -c, sleep 10]}}
                """
            ),
        ),
        Right(
            "the time to load, and no more than the wait for a place",
            patch=(("progressDeadlineSeconds: 300", "progressDeadlineSeconds: 220"),),
        ),
        Right(
            "more patient",
            patch=(
                ("progressDeadlineSeconds: 300", "progressDeadlineSeconds: 600"),
                ("PeriodSeconds: 40", "PeriodSeconds: 90"),
            ),
        ),
    ],
)
def rolling_manifest(t: Trial) -> None:
    """The part of a Deployment that decides about rollouts."""
    spec = _read(t)
    template = spec.get("template")
    pod = template.get("spec") if isinstance(template, dict) else None
    pod = _part(t, pod, "`template.spec`")
    containers = pod.get("containers")
    t.need(
        isinstance(containers, list) and len(containers) == 1,
        "no-container",
        f"`template.spec.containers` is `{show(containers, 40)}`.",
        "Without a container there is nothing to roll out.",
        "Keep the list with the one container of the file that was given.",
    )
    container = _part(t, containers[0], "the container")
    t.good("the parts are where they belong")
    _check_limits(t, spec)
    _check_probe(t, container)
    _check_times(t, spec)
    _check_image(t, container)
    _check_end(t, pod, container)
