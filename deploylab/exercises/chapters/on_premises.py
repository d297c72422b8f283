"""Checks for *Run model and application in one process*."""

from __future__ import annotations

import threading
import time
from typing import Any

from deploylab.exercises.engine import (
    Right,
    Trial,
    Wrong,
    exercise,
    show,
    show_error,
)
from deploylab.exercises.kinds import Before, Option, choice, order

# --- who_waits ---

who_waits = choice(
    "who_waits",
    {
        "a": Option(
            True,
            "all four threads are with the model, so the page waits for one, and then "
            "for the interpreter's lock",
        ),
        "b": Option(
            True,
            "all four threads wait for an answer of the model, and none is left",
        ),
        "c": Option(
            False,
            "Two threads are never with the model, and its process has a lock of its "
            "own. Who is refused holds a thread for no time at all.",
            "For each case, count the threads that are not with the model.",
        ),
        "d": Option(
            True,
            "everybody has a thread now, and all of them stand in one line, for the "
            "one lock",
        ),
        "e": Option(
            True, "a thread that waits for nobody is held as well, and here for 30 s"
        ),
        "f": Option(
            False,
            "Two questions wait in vain for 30 s each, and two threads are left for "
            "everybody else. The model is gone, and the page of orders is not.",
            "For each case, count the threads that are not with the model.",
        ),
    },
    hints={
        "*": [
            "A page of this shop needs two things: a thread, and the interpreter's "
            "lock. Who holds them, in each case?",
            "For the threads, count how many may be with the model at once. For the "
            "lock, ask in which process the model computes.",
        ]
    },
    not_checked="How long each of them waits, and whether your server hands out "
    "threads like this one. Measure it, as the page does.",
    notice="Two lines to stand in: one for a thread, one for the lock. Another process "
    "removes the second, and only a limit shortens the first.",
    left_out="A wait that nobody expects is looked for on the page where it shows, "
    "and its cause is on another one.",
)

# --- no_version ---

PAGE = {
    "shop": {"tally": [1], "orm": [3, 4]},
    "linkmodel": {"tally": [2], "matrix": [1, 2]},
    "scorer": {"matrix": [2, 3], "orm": [4]},
}


def _coupled(needs: dict[str, dict[str, list[int]]]) -> dict[str, list[str]]:
    """Libraries without a version for all of their parts."""
    found = {}
    for library in sorted({name for parts in needs.values() for name in parts}):
        parts = sorted(part for part in needs if library in needs[part])
        fits = set.intersection(*(set(needs[part][library]) for part in parts))
        if not fits:
            found[library] = parts
    return found


def _given(t: Trial, needs: dict[str, Any]) -> bool:
    """Whether the answer for these needs is right; ends the trial if it is unsorted."""
    given, right = t.call(needs, gives="dict"), _coupled(needs)
    parts = {
        name: sorted(map(str, parts)) if isinstance(parts, list | tuple | set) else None
        for name, parts in given.items()
    }
    t.need(
        parts != right or given == right,
        "not-sorted",
        f"{t.said}; the parts are right, and they are not in a sorted list.",
        "The same conflict would be reported in another form each time.",
        "Give the parts as a list, sorted by name.",
    )
    t.said += f"; it is `{show(right)}`."
    return given == right


@exercise(
    hints={
        "*": [
            "Take one library. Which of its versions would every part accept that "
            "needs it?",
            "Collect for each library the parts that need it, with their versions; "
            "then the versions that are in all of these lists.",
            "1 turn the table round, to {library: {part: versions}}; 2 intersect; "
            "3 keep the libraries whose intersection is empty.",
        ],
        "pairs": [
            "Three friends: each two of them have a free evening in common. Do all "
            "three?"
        ],
        "agreed": ["Do two lists have to be equal, for a version to be in both?"],
    },
    not_checked="That the version which suits everybody brings needs of its own along, "
    "and that a model file has needs which no list holds.",
    notice="What cannot be installed together can still run together, in two "
    "processes.",
    wrong=[
        Wrong(
            "different lists are a conflict",
            "agreed",
            patch=(
                (
                    "if not set.intersection(*parts.values())",
                    "if len({frozenset(one) for one in parts.values()}) > 1",
                ),
            ),
        ),
        Wrong(
            "joins instead of intersecting",
            "missed",
            patch=(("set.intersection(", "set.union("),),
        ),
        Wrong(
            "compares two at a time",
            "pairs",
            source="""
            def coupled(needs):
                found = {}
                for one in needs:
                    for two in needs:
                        for library in set(needs[one]) & set(needs[two]):
                            mine, other = needs[one][library], needs[two][library]
                            if not set(mine) & set(other):
                                found.setdefault(library, set()).update((one, two))
                for library in found:
                    parts = [part for part in needs if library in needs[part]]
                    found[library] = sorted(parts)
                return found
            """,
        ),
        Wrong(
            "names only those who disagree",
            "parts-missing",
            source="""
            def coupled(needs):
                wanted = {}
                for part, libraries in needs.items():
                    for library, versions in libraries.items():
                        wanted.setdefault(library, {})[part] = set(versions)
                found = {}
                for library, parts in wanted.items():
                    if not set.intersection(*parts.values()):
                        found[library] = sorted(
                            part for part in parts
                            if any(not parts[part] & parts[two] for two in parts)
                        ) or sorted(parts)
                return found
            """,
        ),
        Wrong(
            "compares the newest",
            "agreed",
            source="""
            def coupled(needs):
                newest, parts = {}, {}
                for part, libraries in needs.items():
                    for library, versions in libraries.items():
                        newest.setdefault(library, set()).add(max(versions, default=0))
                        parts.setdefault(library, []).append(part)
                return {
                    library: sorted(parts[library])
                    for library in newest if len(newest[library]) > 1
                }
            """,
        ),
        Wrong(
            "in the order of the table",
            "not-sorted",
            patch=(("sorted(parts)", "list(parts)"),),
        ),
        Wrong(
            "needs two parts for a conflict",
            "one-alone",
            patch=(
                (
                    "if not set.intersection(",
                    "if len(parts) > 1 and not set.intersection(",
                ),
            ),
        ),
        Wrong(
            "stops at the first",
            "differs",
            source="""
            def coupled(needs):
                names = {name for part in needs.values() for name in part}
                for library in sorted(names):
                    parts = [part for part in sorted(needs) if library in needs[part]]
                    fits = [set(needs[part][library]) for part in parts]
                    if not set.intersection(*fits):
                        return {library: parts}
                return {}
            """,
        ),
        Wrong(
            "gives the names alone",
            "wrong-type",
            patch=(
                (
                    "return {\n        library: sorted(parts)",
                    "return [\n        library",
                ),
                ("parts.values())\n    }", "parts.values())\n    ]"),
            ),
        ),
    ],
    also_right=[
        Right(
            "counts how many accept each version",
            source="""
            def coupled(needs):
                found = {}
                names = {name for part in needs.values() for name in part}
                for library in names:
                    parts = [part for part in sorted(needs) if library in needs[part]]
                    count = {}
                    for part in parts:
                        for version in set(needs[part][library]):
                            count[version] = count.get(version, 0) + 1
                    if max(count.values(), default=0) < len(parts):
                        found[library] = parts
                return found
            """,
        ),
    ],
)
def no_version(t: Trial) -> None:
    """Libraries that keep the parts of an application apart."""
    t.need(
        _given(t, {"shop": {"tally": [1]}, "model": {"tally": [2]}}),
        "missed",
        t.said,
        "No version of it is 1 and 2 at once: these two cannot share a process.",
        "Ask which versions are in the lists of all parts.",
    )
    t.good("two parts that exclude each other")
    for needs in (
        {"shop": {"orm": [3, 4]}, "model": {"orm": [4]}},
        {"shop": {"orm": [3, 4]}, "model": {"orm": [2, 3]}},
        {"shop": {"orm": [3, 4]}, "model": {"matrix": [1]}},
        {},
    ):
        t.need(
            _given(t, needs),
            "agreed",
            t.said,
            "They can be installed together, and would be taken apart for nothing.",
            "One version that all accept is enough.",
        )
    t.good("no conflict where one version suits all")
    circle = {"orm": [1, 2]}, {"orm": [2, 3]}, {"orm": [1, 3]}
    t.need(
        _given(t, dict(zip(("shop", "model", "report"), circle, strict=True))),
        "pairs",
        t.said,
        "Each two of them agree on a version, and all three do not.",
        "Look for a version that is in all lists, not in each two.",
    )
    t.good("three that agree two by two, and not together")
    either = {"tally": [1]}, {"tally": [2]}, {"tally": [1, 2]}
    t.need(
        _given(t, dict(zip(("shop", "model", "admin"), either, strict=True))),
        "parts-missing",
        t.said,
        "Whoever looks for a version has to ask all parts that need the library, "
        "also those that would accept either.",
        "Name every part that needs it.",
    )
    t.good("every part that needs the library is named")
    t.need(
        _given(t, {"shop": {"orm": []}, "model": {"tally": [1]}}),
        "one-alone",
        t.said,
        "The shop accepts no version of it at all: nobody can install that.",
        "An empty list is a need that nothing meets.",
    )
    drawn = sorted((_drawn(t) for _ in range(20)), key=lambda needs: len(str(needs)))
    for needs in (PAGE, *drawn):  # the shortest first, since it is shown
        t.need(_given(t, needs), "differs", t.said, "", "Work this table out by hand.")
    t.good("the page's table, and twenty of four parts")


def _drawn(t: Trial) -> dict[str, dict[str, list[int]]]:
    """Needs of four parts, each of some of three libraries in some of four versions."""
    return {
        part: {
            library: [n for n in range(1, 5) if t.rng.random() < 0.6]
            for library in ("orm", "tally", "matrix")
            if t.rng.random() < 0.7
        }
        for part in ("shop", "model", "report", "admin")
    }


# --- wall ---

PATIENCE_S = 2.0  # in which a call that waits for nobody is back, on any machine
LOOKS, LOOK_S = 20, 0.05  # at a caller who should be back at once
REFUSED, AT_ONCE_S = 5, 0.002  # the quickest of so many is back in that time
RAISES = {"bad": ValueError, "missing": KeyError, "the end": SystemExit}


class _Model:
    """A score that ends when it is told to, and knows who is in it."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.entered = threading.Semaphore(0)

    def __call__(self, row: Any) -> float:
        self.entered.release()
        self.go.wait(4 * PATIENCE_S)
        if row in RAISES:
            raise RAISES[row]("this row cannot be scored")
        return row / 10

    def __repr__(self) -> str:
        return "score"

    def __deepcopy__(self, memo: Any) -> _Model:
        return self


class _Caller(threading.Thread):
    """One call of the guarded function, in a thread of its own."""

    def __init__(self, guarded: Any, row: Any) -> None:
        super().__init__(daemon=True)
        self.guarded, self.row = guarded, row
        self.value: Any = None
        self.error: BaseException | None = None
        self.took_s = float("inf")
        self.start()

    def run(self) -> None:
        began = time.perf_counter()
        try:
            self.value = self.guarded(self.row)
        except BaseException as error:
            self.error = error
        self.took_s = time.perf_counter() - began


def _walled(t: Trial, model: _Model, places: int) -> Any:
    guarded = t.call(model, places)
    t.need(
        callable(guarded),
        "no-function",
        f"{t.said}, which cannot be called.",
        "The server calls what `walled` returns, once for each request.",
        "Define a function inside `walled`, and return it.",
    )
    return guarded


def _filled(t: Trial, guarded: Any, model: _Model, places: int) -> list[_Caller]:
    """As many callers as there are places, all of them in the model."""
    inside = [_Caller(guarded, 5) for _ in range(places)]
    deadline = time.monotonic() + PATIENCE_S
    came = 0
    while came < places and time.monotonic() < deadline:
        came += model.entered.acquire(timeout=0.02)
        if came + sum(not one.is_alive() for one in inside) >= places:
            break
    t.need(
        came == places or sum(one.is_alive() for one in inside) <= came,
        "queues",
        f"`walled(score, {places})`: {came} of {places} callers is in `score`. The "
        "next one waits, and a place is free.",
        "A place that is entered only when another one is left is no place.",
        "Hold a lock while you count the places, and no longer.",
    )
    t.need(
        came == places,
        "too-few",
        f"`walled(score, {places})` let {came} of {places} callers in.",
        "Places that nobody can take are capacity that is paid for and not used.",
        f"Count: how many places are free before the first of {places} callers "
        "comes, and after it?",
    )
    return inside


def _late(t: Trial, guarded: Any, model: _Model) -> bool:
    """All places are taken and one more comes: whether it was kept out, with None."""
    late = _Caller(guarded, 5)
    for _ in range(LOOKS):  # looks, not seconds: a machine that stalls looks once
        late.join(LOOK_S)
        if model.entered.acquire(blocking=False):
            return False
        if not late.is_alive():
            break
    t.need(
        not late.is_alive(),
        "waits",
        "All places are taken, and one more caller still waits after "
        f"{LOOKS * LOOK_S:g} s.",
        "While it waits it holds a thread, which is what the wall should prevent.",
        "Try to take a place, and do not wait for it: `acquire(blocking=False)`.",
    )
    t.need(
        late.error is None,
        "raises-when-full",
        f"With all places taken, the caller got `{type(late.error).__name__}`.",
        "The statement asks for `None`, and the caller is ready for nothing else.",
        "Return `None` when no place is free.",
    )
    t.need(
        late.value is None,
        "not-none",
        f"With all places taken, the caller got `{show(late.value)}`.",
        "It would be taken for a score.",
        "Return `None` when no place is free.",
    )
    return True


def _at_once(t: Trial, guarded: Any) -> None:
    """All places are taken: whether those who are refused wait before they are."""
    refused = [_Caller(guarded, 5) for _ in range(REFUSED)]
    for one in refused:
        one.join(PATIENCE_S)
    t.need(  # the quickest: a wait is in all of them, a pause of the machine is not
        min(one.took_s for one in refused) < AT_ONCE_S,
        "waits",
        f"All places are taken, and of {REFUSED} more callers none had its `None` "
        f"within {1000 * AT_ONCE_S:g} ms.",
        "While they wait they hold threads, which is what the wall should prevent.",
        "Try to take a place, and do not wait for it, not even for a while: "
        "`acquire(blocking=False)`.",
    )


def _let_out(inside: list[_Caller], model: _Model) -> None:
    model.go.set()
    for caller in inside:
        caller.join(PATIENCE_S)


def _alone(guarded: Any, row: Any) -> _Caller:
    caller = _Caller(guarded, row)
    caller.join(PATIENCE_S)
    return caller


@exercise(
    limit_s=5,
    hints={
        "*": [
            "What is counted, when is it taken, and when is it given back?",
            "`threading.Semaphore(n)` counts free places for many threads at once; "
            "`acquire(blocking=False)` says whether one was taken.",
            "1 one semaphore for each call of `walled`; 2 try to take a place, or "
            "return None; 3 try: return the score; 4 finally: give it back.",
        ],
        "refusal-frees": [
            "Does a caller who was refused pass the line that gives a place back?"
        ],
        "exception-keeps": [
            "Which lines of your function run after `score` has raised?"
        ],
        "shared": ["How many semaphores are there after two calls of `walled`?"],
    },
    not_checked="Whether the number is right for your server, what the caller does "
    "with `None`, and, if you count without a lock, whether two callers can take the "
    "last place in the same moment. A limit also says nothing about how long "
    "those inside stay: give them a time limit too.",
    notice="The wall costs answers, and it says whose: those of the model, and of "
    "nobody else.",
    wrong=[
        Wrong(
            "no wall",
            "too-many",
            source="""
            def walled(score, places):
                def guarded(row):
                    return score(row)
                return guarded
            """,
        ),
        Wrong(
            "a place too many",
            "too-many",
            patch=(("Semaphore(places)", "Semaphore(places + 1)"),),
        ),
        Wrong(
            "a place too few",
            "too-few",
            patch=(("Semaphore(places)", "Semaphore(max(1, places - 1))"),),
        ),
        Wrong(
            "two places, whatever was asked for",
            "too-few",
            patch=(("Semaphore(places)", "Semaphore(2)"),),
        ),
        Wrong(
            "never fewer than two places",
            "other-number",
            patch=(("Semaphore(places)", "Semaphore(max(2, places))"),),
        ),
        Wrong("waits", "waits", patch=(("blocking=False", "blocking=True"),)),
        Wrong(
            "waits half a second",
            "waits",
            patch=(("blocking=False", "timeout=0.5"),),
        ),
        Wrong(
            "waits a little",
            "waits",
            patch=(("blocking=False", "timeout=0.05"),),
        ),
        Wrong(
            "holds its lock while the model computes",
            "queues",
            source="""
            import threading

            def walled(score, places):
                lock, inside = threading.Lock(), [0]
                def guarded(row):
                    with lock:
                        if inside[0] >= places:
                            return None
                        inside[0] += 1
                        try:
                            return score(row)
                        finally:
                            inside[0] -= 1
                return guarded
            """,
        ),
        Wrong(
            "raises when it is full",
            "raises-when-full",
            patch=(("return None", "raise RuntimeError('full')"),),
        ),
        Wrong("gives 0", "not-none", patch=(("return None", "return 0.0"),)),
        Wrong(
            "never gives a place back",
            "never-frees",
            patch=(("free.release()", "pass"),),
        ),
        Wrong(
            "gives back what it never took",
            "refusal-frees",
            source="""
            import threading

            def walled(score, places):
                free = threading.Semaphore(places)
                def guarded(row):
                    try:
                        if free.acquire(blocking=False):
                            return score(row)
                    finally:
                        free.release()
                return guarded
            """,
        ),
        Wrong(
            "an exception keeps its place",
            "exception-keeps",
            source="""
            import threading

            def walled(score, places):
                free = threading.Semaphore(places)
                def guarded(row):
                    if not free.acquire(blocking=False):
                        return None
                    value = score(row)
                    free.release()
                    return value
                return guarded
            """,
        ),
        Wrong(
            "gives a place back after a ValueError alone",
            "exception-keeps",
            patch=(
                ("return score(row)", "value = score(row)"),
                ("finally:", "except ValueError:"),
                (
                    "free.release()",
                    "free.release()\n            raise\n"
                    "        free.release()\n        return value",
                ),
            ),
        ),
        Wrong(
            "gives a place back after an Exception alone",
            "exception-keeps",
            patch=(
                ("return score(row)", "value = score(row)"),
                ("finally:", "except Exception:"),
                (
                    "free.release()",
                    "free.release()\n            raise\n"
                    "        free.release()\n        return value",
                ),
            ),
        ),
        Wrong(
            "swallows the exception",
            "swallows",
            patch=(
                (
                    "        finally:",
                    "        except Exception:\n"
                    "            return None\n        finally:",
                ),
            ),
        ),
        Wrong(
            "one wall for all",
            "shared",
            source="""
            import threading

            WALLS = {}

            def walled(score, places):
                free = WALLS.setdefault(places, threading.Semaphore(places))
                def guarded(row):
                    if not free.acquire(blocking=False):
                        return None
                    try:
                        return score(row)
                    finally:
                        free.release()
                return guarded
            """,
        ),
        Wrong(
            "returns a number",
            "no-function",
            source="""
            def walled(score, places):
                return places
            """,
        ),
        Wrong(
            "drops the score",
            "other-score",
            patch=(("return score(row)", "score(row)"),),
        ),
        Wrong(
            "takes a score of 0 for none",
            "other-score",
            patch=(("return score(row)", "return score(row) or None"),),
        ),
        Wrong(
            "cannot be called twice",
            "raises",
            source="""
            def walled(score, places):
                def guarded(row):
                    places -= 1
                    return score(row)
                return guarded
            """,
        ),
    ],
    also_right=[
        Right(
            "counts under a lock",
            source="""
            import threading

            def walled(score, places):
                lock, inside = threading.Lock(), [0]
                def guarded(row):
                    with lock:
                        if inside[0] >= places:
                            return None
                        inside[0] += 1
                    try:
                        return score(row)
                    finally:
                        with lock:
                            inside[0] -= 1
                return guarded
            """,
        ),
        Right(
            "an object that can be called",
            source="""
            import threading

            class Wall:
                def __init__(self, score, places):
                    self.score, self.free = score, threading.Semaphore(places)
                def __call__(self, row):
                    if not self.free.acquire(blocking=False):
                        return None
                    try:
                        return self.score(row)
                    finally:
                        self.free.release()

            def walled(score, places):
                return Wall(score, places)
            """,
        ),
        Right(
            "a queue of places",
            source="""
            import queue

            def walled(score, places):
                free = queue.SimpleQueue()
                for place in range(places):
                    free.put(place)
                def guarded(row):
                    try:
                        place = free.get_nowait()
                    except queue.Empty:
                        return None
                    try:
                        return score(row)
                    finally:
                        free.put(place)
                return guarded
            """,
        ),
    ],
)
def wall(t: Trial) -> None:
    """A limit on how many are with the model at once."""
    open_model, model = _Model(), _Model()
    open_model.go.set()  # it answers at once
    guarded = _walled(t, open_model, 2)
    for row, score in ((5, 0.5), (0, 0.0)):
        first = _alone(guarded, row)
        t.need(
            first.error is None,
            "raises",
            f"The first caller got `{show_error(first.error or ValueError())}`.",
            "The user sees an error that the model has not made.",
            "Call the guarded function in a cell of its own, and read the traceback.",
        )
        t.need(
            first.value == score,
            "other-score",
            f"The guarded function gave `{show(first.value)}` for the row {row}, and "
            f"`score` gives `{score}`.",
            "Who is let in should not notice the wall.",
            "Return what `score` returns.",
        )
    t.good("a caller who is let in gets the score")
    guarded = _walled(t, model, 2)
    inside = _filled(t, guarded, model, 2)
    t.need(
        _late(t, guarded, model),
        "too-many",
        "`walled(score, 2)`: both places are taken, and one more caller was let in.",
        "Whoever is let in holds one of the server's threads, until none is left.",
        "Before `score` is called, something has to say whether a place is free.",
    )
    t.need(
        _late(t, guarded, model),
        "refusal-frees",
        "`walled(score, 2)`: both places are taken and one caller was refused; the "
        "next one was let in.",
        "Each refusal opens one more place, so the wall is gone when it is needed.",
        "Only who took a place may give one back.",
    )
    _at_once(t, guarded)
    t.good("the one too many gets None at once")
    apart = _alone(_walled(t, open_model, 2), 5)
    t.need(
        apart.value == 0.5,
        "shared",
        "A second `walled(score, 2)`, around another model, refused its first "
        "caller, because the first wall was full.",
        "One slow model would close all the others.",
        "Make what counts inside `walled`, anew at each call.",
    )
    t.good("each wall counts for itself")
    _let_out(inside, model)
    _check_after(t, guarded)
    _check_number(t, 3)
    _check_number(t, 1)
    t.good("as many places as were asked for")


def _check_number(t: Trial, places: int) -> None:
    """A wall with another number of places: all of them, and none more."""
    model = _Model()
    guarded = _walled(t, model, places)
    inside = _filled(t, guarded, model, places)
    kept_out = _late(t, guarded, model)
    _let_out(inside, model)
    t.need(
        kept_out,
        "other-number",
        f"`walled(score, {places})`: {places} in `score`, and one more was let in.",
        "Whoever sets the wall chooses a number, and gets another one.",
        "Count up to `places`, and to nothing that you wrote down yourself.",
    )


def _check_after(t: Trial, guarded: Any) -> None:
    """All callers are out, and the model answers at once: what they left behind."""
    again = _alone(guarded, 5)
    t.need(
        again.value == 0.5,
        "never-frees",
        f"All callers are out, and the next one got `{show(again.value)}`.",
        "After so many requests as there are places, the model is closed for good.",
        "Give the place back when `score` has ended.",
    )
    t.good("a place is free again when its caller is out")
    for row, kind in RAISES.items():
        for _ in range(2):
            bad = _alone(guarded, row)
            got = show_error(bad.error) if bad.error else show(bad.value)
            t.need(
                isinstance(bad.error, kind),
                "swallows",
                f"`score` raised `{kind.__name__}`, and the caller got `{got}`.",
                "A broken row would look like a full model, and be asked again for "
                "ever.",
                "Let the exception pass.",
            )
        good = _alone(guarded, 5)
        t.need(
            good.value == 0.5,
            "exception-keeps",
            f"`score` has raised `{kind.__name__}` twice, nobody is in it, and the "
            f"next caller got `{show(good.value)}`.",
            "Each bad row takes a place away, until none is left.",
            "Give the place back however `score` ends: `try` and `finally`.",
        )
    t.good("an exception reaches its caller, and leaves the place free")


# --- take_out ---

take_out = order(
    "take_out",
    {
        "A": "Delete the model and its libraries from the shop.",
        "B": "Start the service with the same model file, and give it no traffic.",
        "C": "Write down what the shop hands to the model and what it gets back.",
        "D": "Let the service answer behind a switch, first for a small share.",
        "E": "Ask both, behind a wall, with nobody waiting for the service; compare.",
        "F": "Decide what the shop does without a score.",
        "H": "Let everybody use the service, and keep the old way for a while.",
    },
    [
        Before(
            "C", "B", "no-contract",
            "A service that is built before anybody has written down what it is asked "
            "repeats what its author remembers of the old code.",
            "Begin with what both sides have to agree on.",
        ),
        Before(
            "B", "E", "nobody-there",
            "There is nobody yet who could be asked beside the process.",
            "Ask for each step who has to be running for it.",
        ),
        Before(
            "E", "D", "uncompared",
            "Customers would be the first to find a difference: another order of the "
            "columns, another rounding, a field that was always there.",
            "Ask when a mistake of the service hurts nobody yet.",
        ),
        Before(
            "F", "D", "no-plan",
            "From that step on a score may be missing, and what happens then was "
            "decided by whoever wrote the line that raises.",
            "Ask what is possible with a network that was not possible without one.",
        ),
        Before(
            "D", "H", "all-at-once",
            "Whatever the comparison could not see, such as time limits under load, "
            "would meet everybody at once.",
            "Ask how many customers should meet a step for the first time.",
        ),
        Before(
            "H", "A", "no-way-back",
            "With the old model deleted, the way back is a release of the shop.",
            "Ask which step cannot be undone in a minute.",
        ),
    ],
    distractors={
        "G": "Two changes at once: when answers differ, nobody can say whether the "
        "move or the model did it.",
        "I": "One folder of libraries for both brings the coupling back: an upgrade "
        "for one is an upgrade for the other.",
        "J": "More threads wait where fewer waited before, and hold more memory while "
        "they do. A wall and a time limit free them.",
    },
    example="CFBEDHA",
    others=["FCBEDHA", "CBEFDHA", "CBFEDHA"],
    hints={
        "*": [
            "Which step can you undo in a second, and which only by a release?",
            "Nothing may depend on the service before it was compared, and nothing may "
            "be deleted before everybody has used the other way for a while.",
        ]
    },
    not_checked="How long the comparison and the last wait should be. That depends on "
    "how long your incidents take to be noticed.",
    notice="A switch, a comparison, a small share, and the deletion last: the same "
    "order takes anything out of an application.",
    noun="step",
)  # fmt: skip
