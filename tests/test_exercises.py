"""The check engine: whatever a student hands in, an answer in the same form."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from battery import FUNCTIONS

from deploylab import ROOT, check, cli
from deploylab.exercises import Check, exercises, progress, sandbox
from deploylab.exercises.engine import (
    GIVES,
    Trial,
    check_source,
    exercise,
    is_empty,
    same,
    shown_call,
    source_digest,
)
from deploylab.exercises.kinds import (
    Before,
    Guess,
    Option,
    choice,
    order,
    prediction,
    words,
)
from deploylab.exercises.result import Finding, Result, Status, show

MODES = [
    pytest.param(
        True,
        id="apart",
        marks=pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking"),
    ),
    pytest.param(False, id="here"),
]


@exercise(hints={"*": ["Two and two."], "off": ["By how much?"]}, not_checked="Much.")
def add(t: Trial) -> None:
    """The sum of a list."""
    numbers = [1.0, 2.0]
    value = t.call(numbers, gives="number")
    t.need(value == 3, "off", f"{t.said}.", "Sums matter.", "Add them up.")
    t.good("adds two numbers")


def solution(numbers):
    """Right."""
    return numbers[0] + numbers[1]


def ended(result: Result, status: Status, finding: str) -> Result:
    """The result, after its status and finding were compared."""
    found = result.finding.id if result.finding else ""
    assert (result.status, found) == (status, finding), repr(result)
    return result


# The statuses


def test_a_solution_is_done_and_says_what_is_not_checked():
    result = ended(add.try_out(solution), Status.DONE, "")
    assert result.passed
    assert "Not checked: Much." in repr(result)
    assert "adds two numbers" in repr(result)


def test_a_difference_is_not_yet_and_shows_call_and_value():
    result = ended(add.try_out(lambda numbers: 4), Status.NOT_YET, "off")
    assert "`your_function([1.0, 2.0])` gave `4`" in result.finding.what
    assert not result.passed
    assert "Not checked" not in repr(result)


def test_stubs_are_not_started():
    def with_docstring(numbers):
        """To be written."""
        ...

    def passes(numbers):
        pass

    for stub in (with_docstring, passes, lambda numbers: ..., None, ...):
        if stub is not None and callable(stub) and stub.__name__ == "<lambda>":
            continue  # it returns an Ellipsis: an answer, if a strange one
        ended(add.try_out(stub), Status.NOT_STARTED, "not-started")


def test_a_body_with_one_statement_is_not_empty():
    def prints(numbers):
        print(numbers)

    def constant(numbers):
        return 3

    def word(numbers):
        return "another model"

    def described(numbers):
        """Begun."""
        return "another model"

    assert not is_empty(prints)
    assert not is_empty(constant)
    assert not is_empty(word)
    assert not is_empty(described)
    assert not is_empty(len)


def test_an_exception_is_quoted_with_its_line():
    def broken(numbers):
        return numbers[0] / 0

    result = ended(add.try_out(broken), Status.STOPPED, "crash")
    assert "ZeroDivisionError" in result.finding.what
    assert "return numbers[0] / 0" in result.finding.what


def test_an_unknown_name_names_the_arguments():
    result = add.try_out(lambda numbers: number)  # noqa: F821
    assert "`numbers`" in ended(result, Status.STOPPED, "crash").finding.do


@pytest.mark.parametrize("apart", MODES)
def test_a_fault_of_the_check_is_said_to_be_ours(apart):
    @exercise(hints={}, not_checked="")
    def faulty(t: Trial) -> None:
        t.call(1)
        raise KeyError("p99")

    result = ended(faulty.try_out(lambda x: x, apart=apart), Status.BROKE, "broke")
    assert "KeyError: 'p99'" in result.finding.what
    assert "not yours" in result.finding.why


# What a student's code may do


def loops(numbers):
    """Swallows what would stop it."""
    while True:
        with contextlib.suppress(Exception):
            len(numbers)


def loops_in_c(numbers):
    """Never comes back to Python."""
    return sum(range(10**13))


def fills_memory(numbers):
    """Asks for more than there is."""
    return [0] * 10**12


def ends_process(numbers):
    """Leaves no chance to say so."""
    os._exit(3)


def shadows(numbers):
    """Shadows builtins of its own module, and changes those of all."""
    import builtins

    builtins.len = None
    return 3.0


def deletes_folder(numbers):
    """Deletes the folder that it runs in."""
    shutil.rmtree(os.getcwd())
    return 3.0


def changes_argument(numbers):
    """Sorts what belongs to the caller."""
    numbers.reverse()
    return 3.0


@pytest.mark.parametrize("apart", MODES)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_the_battery_is_answered(function, apart):
    result = add.try_out(function, apart=apart)
    assert result.status in (Status.NOT_YET, Status.STOPPED)
    assert result.finding.do
    assert len(repr(result)) < 2000


@pytest.mark.parametrize("apart", MODES)
def test_an_endless_loop_is_stopped(apart):
    quick = replace(add, limit_s=0.3)
    result = ended(quick.try_out(loops, apart=apart), Status.STOPPED, "too-slow")
    assert "loops([1.0, 2.0])" in result.finding.what


def waits(numbers):
    """Waits for what does not come, without work."""
    threading.Event().wait()


@pytest.mark.parametrize("apart", MODES)
def test_an_endless_wait_is_stopped(apart):
    quick = replace(add, limit_s=0.3)
    ended(quick.try_out(waits, apart=apart), Status.STOPPED, "too-slow")


def test_an_exercise_may_say_why_too_slow_matters_to_it():
    quick = replace(add, limit_s=0.3, too_slow=("Nobody waits.", "Do less."))
    finding = ended(quick.try_out(loops), Status.STOPPED, "too-slow").finding
    assert (finding.why, finding.do) == ("Nobody waits.", "Do less.")


def test_an_empty_file_is_called_empty(tmp_path):
    file = tmp_path / "answer.sql"
    file.write_text("\n")
    result = replace(add, kind="configuration").try_out(file)
    found = ended(result, Status.NOT_STARTED, "not-started").finding
    assert found.what == "`answer.sql` is empty."


@pytest.mark.parametrize(
    ("clock_s", "processor_s", "more"),
    [
        (1.5, 1.5, 0.0),  # it has had its time
        (1.5, 0.0, 0.0),  # it waits
        (1.5, 0.3, 1.2),  # it works, on a machine that has much else to do
        (15.0, 1.0, 0.0),  # enough all the same
    ],
)
def test_a_busy_machine_stops_nobody_who_is_at_work(clock_s, processor_s, more):
    assert sandbox.more_s(1.5, clock_s, processor_s) == pytest.approx(more)


def test_patience_bounds_the_clock():
    assert sandbox.more_s(40, 100, 5, patience=3) == 20
    assert sandbox.more_s(40, 120, 5, patience=3) == 0


@pytest.mark.parametrize("apart", MODES)
def test_a_live_check_that_waits_says_how_long(apart):
    quick = replace(add, limit_s=0.6, live=True)
    result = quick.try_out(waits, apart=apart)
    ended(result, Status.STOPPED, "too-slow")
    assert "after 0.6 seconds" not in result.finding.what


@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
def test_a_loop_inside_a_c_function_is_stopped():
    quick = replace(add, limit_s=0.3)
    ended(quick.try_out(loops_in_c), Status.STOPPED, "too-slow")


@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
@pytest.mark.parametrize(
    ("function", "finding"), [(fills_memory, "crash"), (ends_process, "process-ended")]
)
def test_the_notebook_survives(function, finding):
    ended(add.try_out(function), Status.STOPPED, finding)


TABLE = """
import pandas
from deploylab.exercises import sandbox

def work(say):
    table = pandas.json_normalize([{"a": {"x": 1}}, {"a": {"x": 2}}])
    return {"sum": int(table["a.x"].sum())}

print(sandbox.apart(work, 60)["sum"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
def test_the_first_table_of_a_kernel_fits_into_the_memory():
    """Arrow's own pool would reserve as much as the limit allows."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TABLE],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert said.stdout.strip() == "3", said.stderr


def test_a_call_is_shown_whole_where_it_has_room():
    def one(stages):
        """Takes one value."""

    stage = {"candidate": {"requests": 100, "errors": 6}, "stable": {"requests": 900}}
    assert repr([stage, stage]) in shown_call(one, ([stage, stage],), {})
    assert len(shown_call(one, (list(range(10_000)),), {})) < 300
    assert len(shown_call(one, (list(range(10_000)),) * 4, {})) < 300


@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
def test_shadowed_builtins_stay_with_the_answer():
    add.try_out(shadows)
    assert len([1]) == 1


@pytest.mark.parametrize("apart", MODES)
def test_a_deleted_folder_is_not_ours(apart):
    here = os.getcwd()
    ended(add.try_out(deletes_folder, apart=apart), Status.DONE, "")
    assert os.getcwd() == here
    assert os.path.isdir(here)


@pytest.mark.parametrize("apart", MODES)
def test_a_changed_argument_is_found(apart):
    result = add.try_out(changes_argument, apart=apart)
    ended(result, Status.NOT_YET, "mutates-input")


def is_gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; a zombie of nobody's counts."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def sleeps_in_another_session() -> int:
    """A process that has left the session and the environment of who started it."""
    command = ["sleep", "600"]
    return subprocess.Popen(command, start_new_session=True, env={}).pid


def forks() -> int:
    """A process without a program of its own, which keeps all open files."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return pid


@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
@pytest.mark.parametrize("start", [sleeps_in_another_session, forks])
@pytest.mark.parametrize("then", ["returns", "dies", "loops"])
def test_what_an_answer_started_is_ended(tmp_path, then, start):
    note = tmp_path / "pid"

    def starts(numbers):
        server = socket.socket()
        server.bind(("127.0.0.1", 0))
        server.listen()
        note.write_text(f"{start()} {server.getsockname()[1]}")
        if then == "dies":
            os._exit(0)
        while then == "loops":
            pass
        return 3.0

    result = replace(add, limit_s=2.0).try_out(starts)
    finding = {"returns": "", "dies": "process-ended", "loops": "too-slow"}[then]
    assert (result.finding.id if result.finding else "") == finding
    pid, port = map(int, note.read_text().split())
    assert is_gone(pid)
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
@pytest.mark.parametrize("then", ["returns", "dies"])
def test_a_chain_of_forks_is_ended(tmp_path, then):
    """Each link forks the next and ends: nobody is there for long enough to be found.

    The chain notes that it lives, and ends by itself after 20 s at the latest.
    """
    note = tmp_path / "alive"

    def chain(numbers):
        end = time.monotonic() + 20
        if os.fork() == 0:
            while time.monotonic() < end:
                if os.fork():
                    os._exit(0)
                note.write_text("")
            os._exit(0)
        while not note.exists():
            pass
        if then == "dies":
            os._exit(0)
        return 3.0

    add.try_out(chain)
    note.unlink()
    time.sleep(0.5)  # many links, if it went on
    assert not note.exists()


def test_bytes_that_others_write_into_our_pipe_are_passed_over():
    reading, writing = os.pipe()
    os.write(writing, b'not json\n{}\n[1]\n\xff\n{"result": {"a": 1}}\n')
    try:
        assert sandbox._listen(reading, 1) == {"a": 1}
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
def test_nobody_is_asked_during_a_check():
    result = add.try_out(lambda numbers: input("Your sum? "))
    assert "nobody to ask" in ended(result, Status.STOPPED, "crash").finding.what


def test_an_interrupt_is_the_users_and_leaves_nothing():
    """Ctrl-C during a check: the check ends, and so does what it runs."""
    before = {p.pid for p in psutil.Process().children()}
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        replace(add, limit_s=30).try_out(loops)
    timer.join()
    assert {p.pid for p in psutil.Process().children()} <= before


def test_the_alarm_gives_back_the_one_before():
    rung = []
    old = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    before = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        add.try_out(solution, apart=False)
        left_s, _ = signal.getitimer(signal.ITIMER_REAL)
        assert 0 < left_s <= 100
    finally:
        signal.signal(signal.SIGALRM, old)
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_outside_the_main_thread_a_check_still_answers():
    results = []
    thread = threading.Thread(
        target=lambda: results.append(add.try_out(solution, apart=False))
    )
    thread.start()
    thread.join()
    assert results[0].passed


# What comes back


@pytest.mark.parametrize(
    ("gives", "value", "wanted"),
    [
        ("number", np.float32(2.5), 2.5),
        ("number", np.array(2), 2.0),
        ("whole", 3.0, 3),
        ("truth", np.bool_(True), True),
        ("list", (1, 2), [1, 2]),
        ("list", np.array([1, 2]), [1, 2]),
        ("list", pd.Series([1, 2]), [1, 2]),
        ("pair", [1, 2], (1.0, 2.0)),
    ],
)
def test_equal_forms_are_taken(gives, value, wanted):
    taken = GIVES[gives][1](value)
    assert taken == wanted
    assert type(taken) is type(wanted)


@pytest.mark.parametrize(
    ("gives", "value"),
    [
        ("number", True),
        ("number", "2"),
        ("number", float("inf")),
        ("number", 2j),
        ("whole", 2.5),
        ("truth", 1),
        ("list", "ab"),
        ("list", {"a": 1}),
        ("pair", [1]),
        ("text", b"a"),
        ("dict", []),
    ],
)
def test_other_forms_are_not(gives, value):
    with pytest.raises((TypeError, ValueError, AttributeError)):
        GIVES[gives][1](value)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ([1, [2, float("nan")]], [1, [2, float("nan")]], True),
        ({"a": np.array([1.0, np.nan])}, {"a": np.array([1.0, np.nan])}, True),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, False),  # order is content here
        (np.array([1]), np.array([1.0]), False),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}), False),
        (1, True, False),
    ],
)
def test_sameness(one, other, equal):
    assert same(one, other) is equal


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(0.5), "0.5"),
        ([np.int64(1), 2], "[1, 2]"),
        ((1,), "(1,)"),
        (set(), "set()"),
        (np.zeros((3, 2)), "ndarray of shape (3, 2)"),
        (
            pd.DataFrame({"a": [1.0, np.nan]}, index=[7, 8]),
            "pd.DataFrame({'a': [1.0, np.nan]}, index=[7, 8])",
        ),
        (pd.DataFrame({"a": range(19)}), "DataFrame of shape (19, 1)"),
        (object(), "<object object>"),
    ],
)
def test_values_are_shown_short_and_without_addresses(value, text):
    assert show(value) == text
    assert len(show("x" * 10_000)) < 200
    assert "`" not in show("a`b")


def test_a_value_that_holds_itself_is_shown():
    endless = [1]
    endless.append(endless)
    assert len(show(endless)) < 200


def test_a_value_without_a_repr_is_shown():
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "whose repr raises RuntimeError" in show(Silent())


def test_a_check_is_known_by_all_that_it_calls():
    known = {each.name: each for group in exercises().values() for each in group}
    source = check_source(known["serve_model"].check)
    assert "def serve_model(" in source
    assert "def _need_parallel(" in source  # a helper in the same file
    assert "hints" not in source
    assert len({each.digest for each in known.values()}) == len(known)


def test_digests_see_code_and_not_comments():
    assert source_digest("a = 1  # one\n\n") == source_digest("a=1")
    assert source_digest("a = 1") != source_digest("a = 2")
    assert source_digest("a: [1  # x") == source_digest("a: [1")  # no Python


# How it looks


def test_html_is_a_status_and_escapes_what_students_write():
    finding = Finding("x", "`f('<b>')` gave `<script>`.", "", "Look.")
    html = Result("f", Status.NOT_YET, finding)._repr_html_()
    assert 'role="status"' in html
    assert "<script>" not in html
    assert "<code>f('&lt;b&gt;')</code>" in html


def test_words_come_before_colour():
    for status in Status:
        result = Result("f", status, Finding("x", "`1`.", "", "Look."))
        assert repr(result).startswith(status.value)
        assert status.value in result._repr_html_()


# Hints


def test_hints_follow_the_finding_and_end_at_the_solution():
    c = Check(add)
    assert c.hint().text == "Two and two."
    c(lambda numbers: 4)
    first, second, third = c.hint(), c.hint(), c.hint()
    assert (first.text, first.number, first.of) == ("By how much?", 1, 3)
    assert second.text == "Two and two."
    assert "solution" in third.text
    assert c.hint() == third
    assert "Hint 3 of 3" in third._repr_html_()


def test_no_hint_is_given_twice():
    c = Check(replace(add, hints={"*": ["A.", "B."], "off": ["A."]}))
    c(lambda numbers: 4)
    assert [c.hint().text for _ in range(2)] == ["A.", "B."]
    c(solution)
    assert "It is done" in c.hint().text


# The entry point


def test_names_are_listed_and_near_misses_are_named():
    names = [e.name for group in exercises().values() for e in group]
    assert set(names) <= set(dir(check))
    assert len(names) == len(set(names))
    slip = getattr(check, names[0] + "s")
    assert f"`check.{names[0]}`" in repr(slip)
    assert slip(1).status is Status.NOT_STARTED
    assert "No exercise" in slip._repr_html_()
    assert slip.hint().status is Status.NOT_STARTED
    assert not hasattr(check, "__wrapped__")


def test_without_an_answer_it_is_not_started():
    for group in exercises().values():
        for each in group:
            result = getattr(check, each.name)()
            assert result.status is Status.NOT_STARTED, each.name


# Exercises that are not code


pick = choice(
    "pick",
    {"a": Option(False, "No.", "Look at `b`."), "b": Option(True, "yes")},
    hints={"*": ["b"]},
    not_checked="-",
)
several = choice(
    "several",
    {
        "a": Option(True, "one"),
        "b": Option(False, "No.", "Leave it."),
        "c": Option(True, "two"),
    },
    hints={"*": ["two"]},
    not_checked="-",
)
stop = order(
    "stop",
    {"A": "not ready", "B": "wait", "C": "SIGTERM"},
    [
        Before("A", "B", "wait-first", "-", "A first."),
        Before("B", "C", "too-early", "-", "Wait."),
    ],
    distractors={"D": "It gives no chance."},
    example="ABC",
    others=["a b c"],
    hints={"*": ["A"]},
    not_checked="-",
)
guess = prediction(
    "guess",
    lambda: 100.0,
    (0.9, 1.1),
    [
        Guess(
            float("-inf"), 0, "negative", "Time runs forward.", "Up.", plausible=False
        ),
        Guess(0, 50, "low", "Low.", "Up."),
        Guess(50, float("inf"), "high", "High.", "Down."),
    ],
    what="The latency",
    unit="ms",
    hints={"*": ["-"]},
    not_checked="-",
)
tell = words("tell", "Why?", "Because.", ["One?"], hints={"*": ["-"]})


@pytest.mark.parametrize(
    ("which", "answer", "status", "finding"),
    [
        (pick, "b", Status.DONE, ""),
        (pick, " B ", Status.DONE, ""),
        (pick, "a", Status.NOT_YET, "chose-a"),
        (pick, "ab", Status.NOT_YET, "several"),
        (pick, "z", Status.NOT_YET, "unknown"),
        (pick, 2, Status.NOT_YET, "not-text"),
        (pick, "", Status.NOT_STARTED, "not-started"),
        (several, "c, a", Status.DONE, ""),
        (several, ["a", "c"], Status.DONE, ""),
        (several, "a", Status.NOT_YET, "missed-c"),
        (several, "abc", Status.NOT_YET, "chose-b"),
        (several, "aca", Status.NOT_YET, "twice"),
        (stop, "A > B > C", Status.DONE, ""),
        (stop, "B A C", Status.NOT_YET, "wait-first"),
        (stop, "A C B", Status.NOT_YET, "too-early"),
        (stop, "A B", Status.NOT_YET, "line-missing"),
        (stop, "A B C D", Status.NOT_YET, "distractor-D"),
        (guess, 95, Status.DONE, ""),
        (guess, np.float64(105), Status.DONE, ""),
        (guess, 10, Status.DONE, "low"),
        (guess, 1e9, Status.DONE, "high"),
        (guess, -10, Status.NOT_YET, "negative"),
        (guess, "100", Status.NOT_YET, "no-number"),
        (tell, "too few words", Status.NOT_YET, "too-short"),
        (tell, "why? " * 30, Status.NOT_YET, "only-the-question"),
        (tell, " ".join(f"w{n}" for n in range(30)), Status.DONE, ""),
    ],
)
def test_answers_that_are_not_code(which, answer, status, finding):
    ended(which.try_out(answer), status, finding)


def test_an_implausible_guess_is_not_told_the_truth():
    assert "100" not in repr(guess.try_out(-10))
    assert "100 ms" in repr(guess.try_out(10))


def test_an_order_whose_message_nobody_can_reach_is_refused():
    rules = [
        Before("A", "B", "one", "-", "-"),
        Before("B", "C", "two", "-", "-"),
        Before("A", "C", "implied", "-", "-"),
    ]
    with pytest.raises(ValueError, match="never be read"):
        order(
            "o", {"A": "", "B": "", "C": ""}, rules, example="ABC", others=[],
            hints={"*": ["-"]}, not_checked="-",
        )  # fmt: skip


def test_a_gap_between_ranges_of_guesses_is_our_fault():
    holed = prediction(
        "holed", lambda: 100.0, (0.9, 1.1), [Guess(0, 50, "low", "-", "-")],
        what="It", unit="ms", hints={"*": ["-"]}, not_checked="-",
    )  # fmt: skip
    ended(holed.try_out(70), Status.BROKE, "broke")


def test_the_truth_is_computed_once_and_before_the_clock():
    """What it imports takes seconds in a notebook that has only imported `check`."""
    computed_by = []

    def truth() -> float:
        computed_by.append(os.getpid())
        return 100.0

    slow = prediction(
        "slow", truth, (0.9, 1.1), [Guess(0, 50, "low", "-", "-")],
        what="It", unit="ms", hints={"*": ["-"]}, not_checked="-",
    )  # fmt: skip
    for _ in range(2):
        ended(slow.try_out(100), Status.DONE, "")
    assert computed_by == [os.getpid()]


def test_a_check_imports_what_it_needs_before_the_clock():
    loaded = []
    early = replace(add, prepare=lambda: loaded.append(os.getpid()))
    ended(early.try_out(...), Status.NOT_STARTED, "not-started")
    assert loaded == []
    ended(early.try_out(solution), Status.DONE, "")
    assert loaded == [os.getpid()]


# Progress


@pytest.fixture
def record(tmp_path, monkeypatch) -> Path:
    """A student's folder, its record of progress not yet there."""
    (tmp_path / "index.ipynb").write_text("{}")
    (tmp_path / "serving").mkdir()
    monkeypatch.chdir(tmp_path / "serving")
    monkeypatch.delenv(progress.VARIABLE)
    return tmp_path / "progress.json"


def entries(record: Path) -> dict[str, Any]:
    """The record's entries."""
    return json.loads(record.read_text())["exercises"]


def test_the_record_lies_beside_the_index(record):
    Check(add)(solution)
    assert entries(record)["add"]["status"] == "Done"
    assert entries(record)["add"]["check"] == add.digest


def test_a_stub_does_not_undo_an_answer(record):
    Check(add)(solution)
    Check(add)(...)
    assert entries(record)["add"]["status"] == "Done"


def test_what_was_done_stays_done_until_the_exercise_changes(record):
    Check(add)(lambda numbers: 4)
    assert entries(record)["add"]["status"] == "Not yet"
    Check(add)(solution)
    Check(add)(lambda numbers: 4)
    assert entries(record)["add"]["status"] == "Done"
    changed = replace(add, source="another")
    Check(changed)(lambda numbers: 4)
    assert entries(record)["add"]["status"] == "Not yet"


def test_the_first_guess_is_kept_and_recalled(record):
    Check(guess)(10)
    said = Check(guess)(100)
    assert entries(record)["guess"]["first"] == "10"
    assert "first guess was 10" in repr(said)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"format": 99, "exercises": {}}', '{"format": 1}',
     '{"format": 1, "exercises": {"add": 3}}', "\x00\xff"],
)  # fmt: skip
def test_a_corrupt_record_is_set_aside_and_said(record, content):
    record.write_text(content)
    said = Check(add)(solution)
    aside = record.with_name("progress-set-aside-1.json")
    assert aside.read_text() == content
    assert aside.name in repr(said)
    assert said.passed
    assert entries(record)["add"]["status"] == "Done"
    record.write_text(content)
    assert "progress-set-aside-2.json" in repr(check.progress())


def test_a_folder_that_cannot_be_written_is_a_remark(record, monkeypatch):
    monkeypatch.setenv(progress.VARIABLE, "/proc/progress.json")
    said = Check(add)(solution)
    assert said.passed
    assert "could not be written" in repr(said)


def test_two_notebooks_write_at_once(record):
    def many(name: str) -> None:
        for number in range(20):
            progress.write(record, f"{name}{number}", {"status": "Done", "check": ""})

    threads = [threading.Thread(target=many, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entries(record)) == 60


def test_a_changed_exercise_asks_again(record):
    name = next(e.name for group in exercises().values() for e in group)
    progress.write(record, name, {"status": "Done", "check": "another"})
    row = next(row for row in check.progress().rows if row[1] == name)
    assert row[2] == "Done, check again: the exercise has changed"


def test_the_table_has_every_exercise(record):
    shown = check.progress()
    for group in exercises().values():
        for each in group:
            assert each.name in repr(shown)
            assert each.name in shown._repr_html_()
    assert "No chapter is called nonsense" in repr(check.progress("nonsense"))
    chapter = next(iter(exercises()))
    assert len(check.progress(chapter).rows) == len(exercises()[chapter])


def test_chapters_come_in_the_order_of_the_book():
    toc = (ROOT / "_toc.yml").read_text("utf-8")
    places = [toc.index(name.replace("_", "-") + "\n") for name in exercises()]
    assert places == sorted(places)


def test_binder_is_told_that_nothing_stays(record, monkeypatch):
    assert "Binder" not in repr(check.progress())
    monkeypatch.setenv("BINDER_SERVICE_HOST", "10.0.0.1")
    assert "Binder keeps nothing" in repr(check.progress())


# The command


def write_notebook(path: Path, *cells: str) -> None:
    """A student's notebook."""
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(book, path)


@pytest.mark.slow
def test_the_command_rebuilds_the_record(record, monkeypatch, capsys):
    root = record.parent
    monkeypatch.chdir(root)
    (root / "index.ipynb").unlink()
    write_notebook(root / "index.ipynb", "1 + 1")
    write_notebook(
        root / "start" / "why-deploying-is-hard.ipynb",
        "from deploylab import check",
        "check.which_monitor('d')",
        "check.hours_down(...)",
    )
    old = {"status": "Done", "check": "old"}
    for name in ("hours_down", "elsewhere"):
        progress.write(record, name, old)
    before = (root / "start" / "why-deploying-is-hard.ipynb").read_bytes()
    assert cli.main(["check", str(root)]) == 0
    kept = entries(record)
    assert kept["which_monitor"]["status"] == "Done"
    assert "hours_down" not in kept  # it was not done after all
    assert kept["elsewhere"] == old  # not in these notebooks
    assert (root / "start" / "why-deploying-is-hard.ipynb").read_bytes() == before
    assert "which_monitor" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_says_which_cell_stopped(record, monkeypatch, capsys):
    root = record.parent
    write_notebook(root / "a.ipynb", "1 + 1", "nothing_here")
    (root / "broken.ipynb").write_text("{")
    assert cli.main(["check", str(root / "a.ipynb"), str(root / "broken.ipynb")]) == 1
    said = capsys.readouterr().out
    assert "a.ipynb, cell 2: NameError" in said
    assert "broken.ipynb cannot be read" in said


def test_the_command_names_what_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert cli.main(["check"]) == 2
    assert "make notebooks" in capsys.readouterr().err


def test_importing_check_is_light():
    """A server's workers import deploylab; they need none of this."""
    code = (
        "import sys, deploylab; assert 'deploylab.exercises' not in sys.modules; "
        "from deploylab import check; dir(check); "
        "assert 'sklearn' not in sys.modules, 'sklearn'; "
        "assert 'matplotlib' not in sys.modules, 'matplotlib'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
