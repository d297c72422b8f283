"""Checks for *Score in batches and through queues*."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploylab.exercises.engine import Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import (
    Before,
    Guess,
    Option,
    choice,
    order,
    prediction,
)

# -- what is left to do ------------------------------------------------------------

PLAN = {"part-0": 500, "part-1": 500, "part-2": 80}


def _left(t: Trial, plan: dict[str, int], found: dict[str, Any]) -> list[str]:
    names = t.call(plan, found, gives="list")
    t.need(
        all(isinstance(name, str) for name in names),
        "not-names",
        f"{t.said}.",
        "The job looks up each entry in its plan.",
        "Put the names of the parts into the list, and nothing else.",
    )
    return names


@exercise(
    hints={
        "*": [
            "Which of the two dictionaries can tell you that a part is missing?",
            "Walk over the plan. A part is done if a file of that very name has that "
            "very number of rows.",
        ],
        "counts-only": [
            "Part 1 is missing and part 2 is there: what does the number of files say?"
        ],
        "draft-counts": [
            "What is the name of a file that was cut off while it was written?"
        ],
        "short-part-trusted": [
            "The name says complete. What could you compare to be sure?"
        ],
    },
    not_checked="What stands in the parts: another model or another input would give "
    "the same names and the same numbers. That is why the listing puts both into the "
    "name of the folder.",
    notice="A job that can be asked what is left needs no memory of its own: the files "
    "are its memory.",
    wrong=[
        Wrong(
            "goes by the number of files",
            "counts-only",
            source="""
            def left_to_do(plan, found):
                return list(plan)[len(found):]
            """,
        ),
        Wrong(
            "begins at the first gap",
            "redone",
            source="""
            def left_to_do(plan, found):
                names = list(plan)
                for place, name in enumerate(names):
                    if found.get(name) != plan[name]:
                        return names[place:]
                return []
            """,
        ),
        Wrong(
            "does everything again",
            "redone",
            source="""
            def left_to_do(plan, found):
                return list(plan)
            """,
        ),
        Wrong(
            "trusts the name",
            "short-part-trusted",
            patch=(("found.get(name) != rows", "name not in found"),),
        ),
        Wrong(
            "takes a part with more rows",
            "long-part-trusted",
            patch=(("found.get(name) != rows", "(found.get(name) or 0) < rows"),),
        ),
        Wrong(
            "takes drafts for parts",
            "draft-counts",
            patch=(
                (
                    "return [",
                    'found = {n.removesuffix(".draft"): r for n, r in found.items()}\n'
                    "    return [",
                ),
            ),
        ),
        Wrong(
            "walks through the folder",
            "missing-forgotten",
            source="""
            def left_to_do(plan, found):
                return [name for name in found if found[name] != plan.get(name)]
            """,
        ),
        Wrong(
            "gives them in another order",
            "order",
            patch=(
                ("return [", "return sorted(["),
                ("!= rows]", "!= rows], reverse=True)"),
            ),
        ),
        Wrong(
            "sorts them by name",
            "order",
            patch=(("return [", "return sorted(["), ("!= rows]", "!= rows])")),
        ),
        Wrong(
            "gives the rows as well",
            "not-names",
            patch=(("[name for", "[(name, rows) for"),),
        ),
        Wrong(
            "looks up what is not there",
            "crash",
            patch=(("found.get(name)", "found[name]"),),
        ),
        Wrong(
            "knows the example's parts only",
            "off",
            patch=(("plan.items()", "list(plan.items())[:3]"),),
        ),
        Wrong(
            "takes a file that cannot be read",
            "unreadable-trusted",
            patch=(("!= rows", "not in (rows, None) or name not in found"),),
        ),
    ],
    also_right=[
        Right(
            "a loop",
            source="""
            def left_to_do(plan, found):
                left = []
                for name in plan:
                    if name in found and found[name] == plan[name]:
                        continue
                    left.append(name)
                return left
            """,
        ),
        Right(
            "by sets of pairs",
            source="""
            def left_to_do(plan, found):
                done = set(plan.items()) & set(found.items())
                return tuple(name for name in plan if (name, plan[name]) not in done)
            """,
        ),
    ],
)
def left_to_do(t: Trial) -> None:
    """The parts of a plan that have to be scored."""
    names = _left(t, PLAN, {})
    t.need(
        names,
        "missing-forgotten",
        f"{t.said}, and no part is there.",
        "A row of a part that nobody scores is in no file, and nobody misses it.",
        "Walk over the plan, not over the folder.",
    )
    t.need(
        names == list(PLAN),
        "order",
        f"{t.said}; the plan's order is {show(list(PLAN))}.",
        "The file that is put together has the rows in the order of the input.",
        "Keep the order in which the plan names the parts.",
    )
    t.good("with nothing there, everything is to be done, in order")
    names = _left(t, PLAN, {"part-0": 500, "part-2": 80})
    t.need(
        "part-1" in names,
        "counts-only",
        f"{t.said}; `part-1` is missing.",
        "Two files are two parts, and not the first two.",
        "Ask for each part by its name.",
    )
    t.need(
        names == ["part-1"],
        "redone",
        f"{t.said}; of these only `part-1` is missing.",
        "Those rows are scored already, and the night is spent twice.",
        "Leave out every part that is there, also after the first gap.",
    )
    t.good("a part that is there is not done again")
    names = _left(t, PLAN, {"part-0": 500, "part-1.draft": 500, "part-2": 80})
    t.need(
        names == ["part-1"],
        "draft-counts",
        f"{t.said}; `part-1.draft` is not `part-1`.",
        "A draft has no name yet because nobody knows if all of it is on the disk.",
        "Compare whole names.",
    )
    names = _left(t, PLAN, {"part-0": 500, "part-1": 312, "part-2": 80})
    t.need(
        names == ["part-1"],
        "short-part-trusted",
        f"{t.said}; `part-1` has 312 rows of 500.",
        "A disk that was full, or a job of another size, leaves such a part.",
        "Compare the number of rows with the plan.",
    )
    names = _left(t, PLAN, {"part-0": 500, "part-1": 812, "part-2": 80})
    t.need(
        names == ["part-1"],
        "long-part-trusted",
        f"{t.said}; `part-1` has 812 rows, and 500 are planned.",
        "Rows too many are rows that are there twice.",
        "Compare for equality.",
    )
    names = _left(t, PLAN, {"part-0": 500, "part-1": None, "part-2": 80})
    t.need(
        names == ["part-1"],
        "unreadable-trusted",
        f"{t.said}; `part-1` cannot be read.",
        "It would stop the job later, when everything else is done.",
        "A part that has no number of rows is not done.",
    )
    t.good("drafts, parts of another size and broken ones are done again")
    for _ in range(5):
        plan = {f"p{n}": int(t.rng.integers(1, 99)) for n in t.rng.permutation(6)}
        found = {n: r for n, r in plan.items() if t.rng.random() < 0.5} | {"x": 3}
        names, expected = _left(t, plan, found), [n for n in plan if n not in found]
        t.need(
            names == expected or sorted(names) != sorted(expected),
            "order",
            f"{t.said}; the plan's order is {show(expected)}.",
            "The file that is put together has the rows in the order of the input.",
            "Keep the order in which the plan names the parts.",
        )
        t.need(
            names == expected,
            "off",
            f"{t.said}, and {show(expected)} was expected.",
            "Each part of the plan is either there, whole, or left to do.",
            "Run this call by hand, and look at each part in turn.",
        )


# -- publishing, waiting, choosing -------------------------------------------------

order_batch = order(
    "order_batch",
    {
        "A": "Delete the parts.",
        "B": "Rename the draft to the table's name.",
        "C": "Write the manifest, with the table's digest.",
        "D": "Write all parts, in order, into a draft beside the table.",
        "E": "Force the draft to the disk.",
        "G": "Force the folder to the disk.",
    },
    [
        Before(
            "D", "E", "nothing-to-force",
            "There is nothing to force to the disk yet; what is written afterwards is "
            "in memory only.",
            "Ask what is in the draft at that moment.",
        ),
        Before(
            "E", "B", "renamed-too-soon",
            "The rename can reach the disk before the rows do. After a power cut the "
            "name is there, and the file behind it is empty or cut off.",
            "Ask what has to be on the disk before the name says so.",
        ),
        Before(
            "B", "G", "folder-too-soon",
            "The folder holds the names. Forced to the disk before the rename, it "
            "holds the old one.",
            "Ask which step changes the folder.",
        ),
        Before(
            "G", "C", "manifest-too-soon",
            "The manifest says that the table is there. After a power cut it may be "
            "the only one of the two that is.",
            "Ask when the table's new name is safe.",
        ),
        Before(
            "C", "A", "parts-gone",
            "Until the manifest is there, the next run begins with the parts; without "
            "them it scores everything again.",
            "Ask what a run needs that starts after a kill at this moment.",
        ),
    ],
    distractors={
        "F": "The rename replaces the old table in one step. Deleted before it, there "
        "is none for a while; deleted after it, it is tonight's table that goes, since "
        "both have the same name.",
        "H": "The manifest is the sign that the table is complete. Readers who see it "
        "too early read a table that is not there.",
    },
    example="DEBGCA",
    others=[],
    missed={
        "A": (
            "Readers are served without it, and every night leaves one more folder of "
            "parts on the disk.",
            "Ask what is still there when the manifest has been written.",
        ),
    },
    hints={
        "*": [
            "At each line, cut the power: what does a reader find, and what does the "
            "next run?",
            "The rows go to the disk, then the name, then the sign that both are "
            "there; only then may something be thrown away.",
        ]
    },
    not_checked="Whether your disk keeps its word when it says that something is "
    "written.",
    notice="Every step can be done again: that is what lets a run begin anywhere.",
)  # fmt: skip


def _wait_s() -> float:
    """The wait of the last of a minute's messages, by the queue's own recursion."""
    free_s, begins_s = [0.0, 0.0, 0.0], 0.0
    for number in range(120 * 60):
        arrives_s = number / 120
        begins_s = max(arrives_s, min(free_s))
        free_s[free_s.index(min(free_s))] = begins_s + 0.040
    return begins_s - arrives_s


predict_wait = prediction(
    "predict_wait",
    truth=_wait_s,
    tolerance=(0.9, 1.1),
    guesses=[
        Guess(
            float("-inf"), 0, "before-it-came",
            "More comes than goes, so there is a line, and nobody waits less than no "
            "time.",
            "Count how many are in the queue when the last one comes.",
            plausible=False,
        ),
        Guess(
            0, 1, "no-queue",
            "That is the wait at workers who keep up. These do not: more comes than "
            "goes, all the time.",
            "How many messages do three workers finish in a second?",
        ),
        Guess(
            1, 32, "too-short",
            "The queue grows for the whole minute, and the last message stands behind "
            "all that are left of it.",
            "How many wait after a minute, and how many are done in a second?",
        ),
        Guess(
            40, 100, "too-long",
            "The workers work during the minute as well: what they did by then is not "
            "in the queue any more.",
            "How many wait after a minute, and how many are done in a second?",
        ),
        Guess(
            100, float("inf"), "another-unit",
            "All 7,200 messages together are 96 seconds of work for three workers.",
            "Give your number in seconds.",
            plausible=False,
        ),
    ],
    what="The wait of the last message",
    unit="s",
    hints={
        "*": [
            "First the rates: what comes in a second, what goes in a second, what is "
            "left over?",
            "After a minute there are sixty times the leftover. The last message waits "
            "until those before it are done.",
        ]
    },
    not_checked="What happens when arrivals are not regular, and when the memory ends.",
    notice="The wait is the backlog divided by the rate of the workers. A limit on the "
    "one is a promise about the other.",
)  # fmt: skip


which_pattern = choice(
    "which_pattern",
    {
        "a": Option(True, "the rows are known, nobody waits, and an answer may be old"),
        "b": Option(
            False,
            "Somebody waits for this answer, and 100 ms leave no room for a line. A "
            "service with a deadline says no in time, a queue says it later.",
            "For each case, ask who waits, and for how long.",
        ),
        "c": Option(
            True, "some minutes are fine, and the crowd of an evening can wait in line"
        ),
        "d": Option(
            False,
            "Three applications in three languages would each carry the model, and "
            "release together every week.",
            "For each case, ask who has to be released when the model changes.",
        ),
        "e": Option(
            True, "no call for each mail, and the model changes while the filter runs"
        ),
        "f": Option(
            False,
            "One process scores that table in seconds; the engine is not up by then.",
            "Look at the table of recorded runs: how long does an engine take at its "
            "smallest size?",
        ),
    },
    hints={
        "*": [
            "Who waits for the answer, and for how long? Who may call? What has to be "
            "released when the model changes?",
            "Go through the closing table of the page, one case after the other.",
        ]
    },
    not_checked="Whether the case is told completely: with one more sentence each of "
    "them can turn.",
    notice="Patterns are not ranks. Many systems have three of them, around one model.",
)


# -- a worker that the student starts ----------------------------------------------

#: The model that the check brings: it says what it was asked, waits, and can die.
_MODEL = '''\
"""A model that can be held, that a text can crash, and that can raise."""

import os
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))


def answer(text):
    with open(os.path.join(FOLDER, "asked"), "a") as file:
        file.write(text + "\\n")
    if text == "poison":
        os._exit(139)
    if text == "unheard of":
        raise ValueError("the model does not know this text")
    go = os.path.join(FOLDER, text + ".go")
    while text.startswith("held") and not os.path.exists(go):
        time.sleep(0.005)
    return text[::-1]
'''


#: A program may take so long from its start until it connects to the broker.
START_S = 20
#: A program that ends again and again is started so often while one thing is awaited.
MOST_STARTS = 8


class Bench:
    """A broker, and the student's program on it, started and killed at will."""

    def __init__(self, program: Path, redis: Any, url: str) -> None:
        self.folder = Path("program").resolve()
        self.folder.mkdir()
        self.program = self.folder / "worker.py"
        shutil.copy(program, self.program)
        (self.folder / "model_step.py").write_text(_MODEL, "utf-8")
        self.redis, self._url = redis, url
        self._process: subprocess.Popen | None = None

    def start(self) -> bool:
        """Start the program, and wait until it connects or ends; whether it connected.

        Its messages go to a file.
        """
        known = self._clients()
        env = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        with (self.folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(self.program)],
                env=env | {"BROKER": self._url, "PYTHONDONTWRITEBYTECODE": "1"},
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_S
        while not (connected := bool(self._clients() - known)):
            if self.died() or time.monotonic() > end:
                break
            time.sleep(0.005)
        return connected

    def _clients(self) -> set[str]:
        """The broker's names for its connections; none is given twice."""
        return {client["id"] for client in self.redis.client_list()}

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def died(self) -> bool:
        """Whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def last_words(self) -> str:
        """What it wrote last."""
        from deploylab.exercises import live

        return live.last_words((self.folder / "log").read_text())

    def until(self, condition: Any, timeout_s: float = 6, revive: bool = False) -> bool:
        """Wait until something holds; whether it came. ``revive`` restarts the dead.

        The time that a program needs to start does not count.
        """
        end, starts = time.monotonic() + timeout_s, 0
        while not condition():
            gone = self.died() and (not revive or starts == MOST_STARTS)
            if time.monotonic() > end or gone:
                return bool(condition())
            if self.died():
                began = time.monotonic()
                self.start()
                end += time.monotonic() - began
                starts += 1
            time.sleep(0.005)
        return True

    def send(self, id: str, text: str) -> None:
        """Add a message to the queue."""
        self.redis.xadd("work", {"id": id, "text": text})

    def result(self, id: str) -> str | None:
        """The answer under an id."""
        return self.redis.hget("results", id)

    def dead(self) -> list[str | None]:
        """The ids of what was set aside."""
        return [fields.get("id") for _, fields in self.redis.xrange("dead")]

    def let_go(self, text: str) -> None:
        """Let the model answer a text on which it is held."""
        (self.folder / f"{text}.go").touch()

    def pending(self) -> int:
        """Messages that were taken and are not acknowledged."""
        return self.redis.xpending("work", "workers")["pending"]

    def asked(self, text: str) -> int:
        """How often the model was asked about a text."""
        file = self.folder / "asked"
        return file.read_text().split("\n").count(text) if file.exists() else 0


@contextlib.contextmanager
def bench(program: Path) -> Iterator[Bench]:
    """A bench with a broker of its own; both are gone after the block."""
    from deploylab import broker

    with broker.start() as running:
        redis = broker.connect(running.url)
        made = Bench(program, redis, running.url)
        try:
            redis.xgroup_create("work", "workers", id="0", mkstream=True)
            yield made
        finally:
            made.kill()
            redis.close()


@exercise(
    "program",
    live=True,
    limit_s=240,
    memory_bytes=None,
    starting="9949a2e45be8dac0",
    hints={
        "*": [
            "For each line of the loop, ask: what is lost if the program is killed "
            "after this line?",
            "First the answer, then the acknowledgement. Then a way back for what a "
            "dead worker had, and a limit for what kills every worker.",
        ],
        "wrong-key": ["Which name does the sender know: the stream's or its own?"],
        "acked-first": [
            "Two writes: which of them makes the message unknown to everybody?"
        ],
        "orphan-left": [
            "`>` gives new messages only. Which command gives those of the dead?"
        ],
        "claimed-once": [
            "At which moments does your program ask for what others have left?"
        ],
        "acked-before-written": [
            "Where is the message when the acknowledgement has been sent, and the "
            "answer has not?"
        ],
        "poison-for-ever": [
            "`times_delivered` counts each time that the message was handed out, also "
            "this one. From what number on is it the third?"
        ],
    },
    not_checked="Two workers at once, a broker that is gone for a while, and a message "
    "that takes longer than 200 ms: it would be done twice, which does no harm here.",
    notice="At-least-once delivery and an answer that may be written twice: together "
    "they look like exactly once.",
    wrong=[
        Wrong(
            "acknowledges first",
            "acked-first",
            patch=(
                (
                    "    for message, fields in found:\n",
                    "    for message, fields in found:\n"
                    "        late = orphans and times_delivered(message) > 2\n"
                    '        queue.xack("work", "workers", message)\n',
                ),
                ("if orphans and times_delivered(message) > 2", "if late"),
            ),
        ),
        Wrong(
            "writes under the stream's name",
            "wrong-key",
            patch=(('"results", fields["id"]', '"results", message'),),
        ),
        Wrong(
            "never acknowledges",
            "not-acked",
            patch=(('        queue.xack("work", "workers", message)', ""),),
        ),
        Wrong(
            "takes new messages only",
            "orphan-left",
            patch=(
                (
                    'orphans = queue.xautoclaim("work", "workers", "me", 200, count=1)'
                    "[1]",
                    "orphans = []",
                ),
            ),
        ),
        Wrong(
            "claims once, at its start",
            "claimed-once",
            patch=(
                (
                    "while True:\n"
                    "    orphans = queue.xautoclaim("
                    '"work", "workers", "me", 200, count=1)[1]\n',
                    "import time\ntime.sleep(0.3)\n"
                    'old = queue.xautoclaim("work", "workers", "me", 200)[1]\n'
                    "while True:\n    orphans, old = old, []\n",
                ),
            ),
        ),
        Wrong(
            "acknowledges between the answer and its writing",
            "acked-before-written",
            patch=(
                (
                    '            queue.hset("results", fields["id"], answer)\n',
                    '            queue.xack("work", "workers", message)\n'
                    '            queue.hset("results", fields["id"], answer)\n',
                ),
            ),
        ),
        Wrong(
            "catches everything, and acknowledges",
            "raised-dropped",
            patch=(
                (
                    '            answer = model_step.answer(fields["text"])\n'
                    '            queue.hset("results", fields["id"], answer)\n',
                    "            try:\n"
                    '                answer = model_step.answer(fields["text"])\n'
                    '                queue.hset("results", fields["id"], answer)\n'
                    "            except Exception:\n"
                    "                pass\n",
                ),
            ),
        ),
        Wrong(
            "throws away what was delivered twice",
            "orphan-set-aside",
            patch=(("times_delivered(message) > 2", "times_delivered(message) > 1"),),
        ),
        Wrong(
            "tries for ever",
            "poison-for-ever",
            patch=(("times_delivered(message) > 2", "False"),),
        ),
        Wrong(
            "tries three times",
            "poison-third-try",
            patch=(("times_delivered(message) > 2", "times_delivered(message) > 3"),),
        ),
        Wrong(
            "drops poison without a word",
            "poison-dropped",
            patch=(('queue.xadd("dead", {"id": fields["id"]})', "pass"),),
        ),
        Wrong(
            "ends when it has set one aside",
            "blocked",
            patch=(
                (
                    'queue.xadd("dead", {"id": fields["id"]})',
                    'queue.xadd("dead", {"id": fields["id"]})\n'
                    "            raise SystemExit",
                ),
            ),
        ),
        Wrong(
            "writes the text itself",
            "wrong-answer",
            patch=(("model_step.answer(fields", "str(fields"),),
        ),
        Wrong(
            "does not know the broker",
            "died",
            patch=(('os.environ["BROKER"]', 'os.environ["REDIS"]'),),
        ),
        Wrong(
            "sleeps for ever",
            "no-answer",
            patch=(
                (
                    "while True:\n",
                    "import time\nwhile True:\n    time.sleep(1)\n    continue\n",
                ),
            ),
        ),
    ],
    also_right=[
        Right(
            "in one transaction",
            patch=(
                (
                    '            queue.hset("results", fields["id"], answer)\n',
                    "            both = queue.pipeline(transaction=True)\n"
                    '            both.hset("results", fields["id"], answer)\n'
                    '            both.xack("work", "workers", message)\n'
                    "            both.execute()\n",
                ),
            ),
        ),
        Right(
            "sets aside at once what makes the model raise",
            patch=(
                (
                    '            answer = model_step.answer(fields["text"])\n'
                    '            queue.hset("results", fields["id"], answer)\n',
                    "            try:\n"
                    '                answer = model_step.answer(fields["text"])\n'
                    "            except ValueError:\n"
                    '                queue.xadd("dead", {"id": fields["id"]})\n'
                    "            else:\n"
                    '                queue.hset("results", fields["id"], answer)\n',
                ),
            ),
        ),
        Right(
            "leaves pending what makes the model raise",
            patch=(
                (
                    '            answer = model_step.answer(fields["text"])\n',
                    "            try:\n"
                    '                answer = model_step.answer(fields["text"])\n'
                    "            except Exception:\n"
                    "                continue\n",
                ),
            ),
        ),
        Right(
            "starts slowly",
            patch=(("import os\n", "import os\nimport time\n\ntime.sleep(4.5)\n"),),
        ),
        Right(
            "keeps the first answer, and deletes what is done",
            patch=(
                ("queue.hset(", "queue.hsetnx("),
                (
                    '        queue.xack("work", "workers", message)',
                    '        queue.xack("work", "workers", message)\n'
                    '        queue.xdel("work", message)',
                ),
            ),
        ),
    ],
)
def mend_worker(t: Trial) -> None:
    """A worker program that loses nothing."""
    t.say("The check of your worker")
    with bench(t.thing) as work:
        for number in range(3):
            work.send(f"m{number}", f"text {number}")
        t.need(
            work.start() or work.died(),
            "no-answer",
            f"Your program ran for {START_S} s, and never connected to the broker.",
            "The senders wait.",
            "Look at what it does before its first command to the broker.",
        )
        names = [f"m{number}" for number in range(3)]
        came = work.until(lambda: work.redis.hlen("results") >= 3)
        t.need(
            came or not work.died(),
            "died",
            f"Your program ended by itself. It said last: `{work.last_words()}`.",
            "A worker that is not there takes nothing.",
            "Run it by hand with a broker, and read the traceback from below.",
        )
        t.need(
            came,
            "no-answer",
            f"Three messages, and after some seconds {work.redis.hlen('results')} "
            "answers in `results`.",
            "The senders wait.",
            "Look at what `xreadgroup` returns, and for which stream.",
        )
        found = work.redis.hgetall("results")
        t.need(
            set(found) == set(names),
            "wrong-key",
            f"The ids were {', '.join(names)}; `results` has {show(sorted(found))}.",
            "A sender looks under the name that it chose, and finds nothing.",
            "Use the message's field `id` as the key.",
        )
        t.need(
            found["m0"] == "0 txet",
            "wrong-answer",
            f"For `text 0` the model says `0 txet`; `results` has `{found['m0']}`.",
            "An answer that no model gave looks like any other.",
            "Write what `model_step.answer` returns.",
        )
        t.need(
            work.until(lambda: work.pending() == 0, timeout_s=1),
            "not-acked",
            f"All three are answered, and {work.pending()} are still pending.",
            "Every one of them will be done again, and again.",
            "Acknowledge a message when its answer is written.",
        )
        t.good("messages are answered under their ids, and acknowledged")
        _need_orphan(t, work)
        _need_poison(t, work)
        _need_raised(t, work)
        _need_written_first(t, work)


def _need_orphan(t: Trial, work: Bench) -> None:
    """Kill the program while its model is at work; nothing is lost."""
    work.send("h", "held")
    t.need(
        work.until(lambda: work.asked("held") == 1),
        "no-answer",
        "After three messages a fourth was not taken.",
        "A worker that stops after the first is found when the queue is full.",
        "Go on for ever.",
    )
    pending = work.pending()
    work.kill()
    t.need(
        pending == 1,
        "acked-first",
        "While the model was at work on the message `h`, your worker was killed. `h` "
        f"has no answer, and {pending} messages are pending: it was acknowledged.",
        "Nobody will hand it out again: it is lost, and no counter says so.",
        "Acknowledge after the answer is written.",
    )
    work.let_go("held")
    work.start()
    back = work.until(lambda: work.result("h") is not None, timeout_s=4)
    t.need(
        back or work.redis.xlen("dead") == 0,
        "orphan-set-aside",
        "The message `h`, whose worker was killed once, was set aside at its second "
        "delivery.",
        "A restart of a machine is no fault of the message.",
        "Look at what number of deliveries means the third.",
    )
    t.need(
        back,
        "orphan-left",
        "Your worker was killed while it had the message `h` in hand. A new one ran "
        "for some seconds, and did not take it.",
        "It stays pending for ever: accepted, and never answered.",
        "Claim what has been pending for 200 ms, before you take new messages.",
    )
    with work.redis.pipeline(transaction=True) as both:  # nobody can come between
        both.xadd("work", {"id": "c", "text": "claim"})
        both.xreadgroup("workers", "another worker", {"work": ">"}, count=1)
        both.execute()
    t.need(
        work.until(lambda: work.result("c") is not None),
        "claimed-once",
        "While your worker ran, another one took the message `c` and was killed. Yours "
        "went on running, and did not take it.",
        "It waits until somebody happens to start a worker again, perhaps for months.",
        "Claim in the loop, and not only at the start.",
    )
    t.good("what a killed worker had in hand is answered by another one")


def _need_poison(t: Trial, work: Bench) -> None:
    """A message that kills its worker is set aside; the others are answered."""
    work.send("p", "poison")
    work.until(
        lambda: (
            work.redis.xlen("dead") > 0
            or work.asked("poison") > 3
            or (work.asked("poison") > 1 and work.pending() == 0)
        ),
        timeout_s=15,
        revive=True,
    )
    tries = work.asked("poison")
    t.need(
        tries < 4,
        "poison-for-ever",
        f"The message `p`, which crashes the model, was given to it {tries} times.",
        "It takes down one worker after the other, all night.",
        "Count the deliveries, and set it aside at the third.",
    )
    t.need(
        tries < 3,
        "poison-third-try",
        f"The message `p`, which crashes the model, was given to it {tries} times.",
        "Each time a worker goes down, with what else it had in hand.",
        "`times_delivered` is 3 when you hold it for the third time.",
    )
    dead = work.dead()
    work.send("q", "quick")
    t.need(
        set(dead) == {"p"},
        "poison-dropped",
        f"A message was delivered twice and never finished; `dead` has {show(dead)}.",
        "What disappears cannot be looked at, and its sender waits for ever.",
        "Add its `id` to the stream `dead`, then acknowledge it.",
    )
    t.need(
        work.until(lambda: work.result("q") is not None, revive=True)
        and work.until(lambda: work.pending() == 0, timeout_s=1),
        "blocked",
        f"The poison was set aside; the message behind it has the answer "
        f"`{work.result('q')}`, and {work.pending()} are pending.",
        "One bad message must not hold up the others.",
        "Acknowledge what you set aside, and go on.",
    )
    t.good("poison is set aside at its third delivery, and the others go on")


def _need_raised(t: Trial, work: Bench) -> None:
    """A message at which the model raises an exception is set aside, too."""
    work.send("e", "unheard of")
    work.until(
        lambda: "e" in work.dead() or (work.asked("unheard of") and not work.pending()),
        timeout_s=10,
        revive=True,
    )
    set_aside = work.until(lambda: "e" in work.dead(), timeout_s=1, revive=True)
    state = "pending" if work.pending() else "acknowledged"
    t.need(
        set_aside,
        "raised-dropped",
        "The model raised an exception each time it was given the message `e`. `e` is "
        f"{state}, and `dead` has {show(work.dead())}.",
        "Nobody has answered it, and nobody will look at it: it is lost.",
        "Acknowledge only what is answered, or what is in `dead`.",
    )
    t.good("a message at which the model raises is set aside as well")


def _need_written_first(t: Trial, work: Bench) -> None:
    """The broker has no room for an answer; the message is not acknowledged."""
    work.send("f", "held, then full")
    work.until(lambda: work.asked("held, then full") == 1, revive=True)
    # From here on every command that needs memory is refused; reading and
    # acknowledging are not.
    work.redis.config_set("maxmemory", 1)
    before = _refused(work)
    work.let_go("held, then full")
    work.until(lambda: _refused(work) > before or not work.pending())
    work.redis.config_set("maxmemory", 0)

    def kept() -> bool:
        return work.result("f") is not None or "f" in work.dead()

    work.until(lambda: kept() or not work.pending(), timeout_s=10, revive=True)
    t.need(
        work.until(kept, timeout_s=1),
        "acked-before-written",
        "The broker had no room when the answer to `f` was to be written. When it had "
        f"room again, {work.pending()} messages were pending, and `f` had no answer.",
        "It was acknowledged without one. A worker that is killed between the two "
        "loses the message in the same way.",
        "Acknowledge when the answer is written, and not before.",
    )
    t.good("no message is acknowledged before its answer is written")


def _refused(work: Bench) -> int:
    """How many commands the broker refused because it has no room."""
    errors = work.redis.info("errorstats")
    return errors.get("errorstat_OOM", {"count": 0})["count"]
