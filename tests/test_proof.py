"""Every exercise of the book through the gates, and every gate on a planted fault."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import proof
import psutil
import pytest
import trust
from pages import Page
from proof import OnPage, Proof, mutants, on_page, orphans, prove

from deploylab.exercises import exercises, sandbox
from deploylab.exercises.engine import Exercise, Right, Trial, Wrong, exercise
from deploylab.exercises.result import Finding, Result, Status

KNOWN = proof.all_exercises()
QUICK = [name for name in sorted(KNOWN) if not KNOWN[name].live]
LIVE = [name for name in sorted(KNOWN) if KNOWN[name].live]


def marked_processes() -> list[str]:
    """Processes that a check started, and that are still there."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            mark = process.environ().get(sandbox.MARK, "")
            if mark.startswith(f"{os.getpid()} "):  # other tests run beside these
                found.append(str(process))
    return found


def proved(name: str, full: bool = False) -> Proof:
    """The proof of one exercise of the book."""
    return prove(proof.all_on_pages()[name], KNOWN[name], full)


# The book's exercises


def test_no_orphans():
    """G12, and the book has what it promises: ten exercises, five kinds."""
    assert orphans(proof.all_on_pages(), KNOWN) == []
    assert len(KNOWN) >= 10
    assert len({each.kind for each in KNOWN.values()}) >= 5


def test_every_chapter_with_code_has_three_exercises_of_two_types():
    for chapter, group in exercises().items():
        if chapter != "how_to_use":
            assert len(group) >= 3, chapter
            assert len({each.kind for each in group}) >= 2, chapter


def unread(name: str, messages: list[str]) -> list[str]:
    """The messages that are not in the golden file, as last read by people."""
    file = proof.ROOT / proof.GOLDEN / f"{KNOWN[name].chapter}.txt"
    kept = file.read_text("utf-8")
    return [part for part in messages if part not in kept]


CHANGED = "new message: run `python tools/proof.py --messages`, and read the difference"


@pytest.mark.parametrize("name", QUICK)
def test_gates(name):
    found = proved(name)
    assert found.problems == []
    assert found.wrong_caught
    assert unread(name, proof.golden(found)) == [], CHANGED


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", LIVE)
def test_gates_of_live_exercises(name):
    """Once for each answer; the trust page names them on the strength of this test."""
    before = set(marked_processes())
    found = proved(name)
    assert found.problems == []
    assert trust.declared(KNOWN[name]) == trust.facts_of(found)
    assert unread(name, proof.golden(found)) == [], CHANGED
    assert set(marked_processes()) <= before  # G13


@pytest.mark.soak
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", LIVE)
def test_gates_of_live_exercises_in_full(name):
    assert proved(name, full=True).problems == []
    assert marked_processes() == []


def test_golden_messages_are_of_todays_exercises():
    for chapter, group in exercises().items():
        text = (proof.ROOT / proof.GOLDEN / f"{chapter}.txt").read_text("utf-8")
        heads = re.findall(r"^=== (\w+): ", text, re.MULTILINE)
        assert set(heads) == {each.name for each in group}


@pytest.mark.bench
def test_bench_seconds_of_the_proofs():
    """The gates of one exercise, without the imports of its page."""
    for name in QUICK:
        page = proof.all_on_pages()[name]
        proof.Answers(page, Path()).run(page.imports, {})
        print(f"{prove(page, KNOWN[name]).seconds:6.2f} s  {name}")


# The gates, each on a planted fault

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

```{code-cell} ipython3
import math
```
"""

EXERCISE = """
```{exercise-start} Add up
:label: ex-add-up
```

Add two numbers, at most 100.

```{code-cell} ipython3
:tags: [stub]
def add_up(a, b):
    \"\"\"The sum, capped.\"\"\"
    ...
```

```{code-cell} ipython3
:tags: [check]
check.add_up(add_up)
```

```{exercise-end}
```

```{solution-start} ex-add-up
:class: dropdown
```

```{code-cell} ipython3
:tags: [solution]
def add_up(a, b):
    return min(a + b, 100)
```

```{solution-end}
```
"""


@exercise(
    hints={"*": ["Which sum?"]},
    not_checked="Large numbers.",
    wrong=[
        Wrong("subtracts", "no-sum", patch=(("a + b", "a - b"),)),
        Wrong("no cap", "no-cap", patch=(("min(a + b, 100)", "a + b"),)),
    ],
    also_right=[
        Right(
            "with if", source="def add_up(a, b): return a + b if a + b < 100 else 100"
        )
    ],
)
def add_up(t: Trial) -> None:
    """A small exercise, sound in every respect."""
    value = t.call(2, 3, gives="number")
    t.need(value == 5, "no-sum", f"{t.said}.", "Sums matter.", "Add the two.")
    value = t.call(70, 70, gives="number")
    t.need(value == 100, "no-cap", f"{t.said}.", "", "Look at the limit.")
    value = t.call(99, 1, gives="number")
    t.need(value == 100, "no-cap", f"{t.said}.", "", "Look at the limit.")


add_up.chapter = "page"


def page_of(folder: Path, text: str) -> list[OnPage]:
    """The exercises of a page with this text."""
    (folder / "_config.yml").write_text("title: a book\n")
    (folder / "book").mkdir(exist_ok=True)
    (folder / "book" / "page.md").write_text(HEADER + text)
    return on_page(Page(folder, "book/page"))


def faults(folder: Path, text: str = EXERCISE, each: Exercise = add_up) -> str:
    """What the gates say, as one text."""
    [page] = page_of(folder, text)
    found = prove(page, each).problems
    found += orphans({page.name: page}, {each.name: each})
    return "\n".join(found)


def test_a_sound_exercise_passes(tmp_path):
    assert faults(tmp_path) == ""


def test_g1_stub_that_is_an_answer(tmp_path):
    begun = EXERCISE.replace("    ...", "    return a")
    assert faults(tmp_path, begun).startswith("G1 add_up: the stub gives")


def test_g3_solution_that_fails(tmp_path):
    bad = EXERCISE.replace("min(a + b, 100)", "min(a + b, 101)")
    assert "G3 add_up: the solution, seed 0" in faults(tmp_path, bad)


def test_g3_solution_that_fails_for_one_seed_only(tmp_path):
    def unlucky(t: Trial) -> None:
        add_up.check(t)
        t.need(t.rng.random() < 0.9, "unlucky", f"{t.said}.", "", "Try again.")

    assert "G3" in faults(tmp_path, each=replace(add_up, check=unlucky))


def test_g4_wrong_answer_that_passes_or_finds_another_thing(tmp_path):
    slips = [
        *add_up.wrong,
        Wrong("cap of 100.0", "no-cap", patch=(("100)", "100.0)"),)),
    ]
    said = faults(tmp_path, each=replace(add_up, wrong=slips))
    assert "G4 add_up: 'cap of 100.0' must find 'no-cap', seed 0 finds ''" in said
    other = [replace(add_up.wrong[0], finding="no-cap"), add_up.wrong[1]]
    said = faults(tmp_path, each=replace(add_up, wrong=other))
    assert "seed 0 finds 'no-sum'" in said


def test_g4_patch_that_fits_no_more(tmp_path):
    changed = EXERCISE.replace("min(a + b, 100)", "min(b + a, 100)")
    assert "fits no more: 'a + b'" in faults(tmp_path, changed)


def test_g5_check_that_is_too_strict(tmp_path):
    def strict(t: Trial) -> None:
        add_up.check(t)
        t.need("if" not in t.thing.__doc__ if t.thing.__doc__ else False, "form", "`1`")

    sound = EXERCISE.replace("    return min", '    "doc"\n    return min')
    said = faults(tmp_path, sound, replace(add_up, check=strict))
    assert "G5 add_up: 'with if' is right" in said


def test_g6_check_that_breaks_on_strange_answers(tmp_path):
    def breaks(t: Trial) -> None:
        value = t.call(2, 3)
        t.need(value + 0 == 5, "no-sum", f"{t.said}.", "", "Add.")

    said = faults(tmp_path, each=replace(add_up, check=breaks))
    assert "G6 add_up: gives_none" in said


def test_g6_check_that_passes_anything(tmp_path):
    said = faults(tmp_path, each=replace(add_up, check=lambda t: t.call(2, 3)))
    assert "G6 add_up: gives_text" in said
    assert "G4" in said
    assert "G8" in said


def test_g7_dead_message(tmp_path):
    fewer = [add_up.wrong[0], replace(add_up.wrong[0], name="again")]
    said = faults(tmp_path, each=replace(add_up, wrong=fewer))
    assert "G7 add_up: no wrong answer produces 'no-cap'" in said


def test_g7_finding_that_is_computed(tmp_path):
    said = faults(tmp_path, each=replace(add_up, check=computed_finding))
    assert "must be written out" in said


def computed_finding(t: Trial) -> None:
    """Its finding's name is not a text in the source."""
    name = "no-" + "sum"
    value = t.call(2, 3, gives="number")
    t.need(value == 5, name, f"{t.said}.", "", "Add.")


def test_g8_mutant_that_survives(tmp_path):
    def blind(t: Trial) -> None:
        value = t.call(2, 3, gives="number")
        t.need(value == 5, "no-sum", f"{t.said}.", "", "Add the two.")
        value = t.call(70, 70, gives="number")
        t.need(value < 140, "no-cap", f"{t.said}.", "", "Look at the limit.")

    said = faults(tmp_path, each=replace(add_up, check=blind))
    assert "G8 add_up: this mutant of the solution passes: " in said
    assert "return min(a + b, 101)" in said


def test_g8_stale_equivalent(tmp_path):
    stale = replace(add_up, equivalent={"return max(b, a)": "never was"})
    assert "listed as equivalent, and no mutant" in faults(tmp_path, each=stale)


@pytest.mark.parametrize(
    ("finding", "said"),
    [
        (Finding("x", "`f(1)` gave `2`.", "", "You should add."), "'You should'"),
        (Finding("x", "`f(1)` is wrong.", "", "Add."), "'wrong'"),
        (Finding("x", "Something differs.", "", "Add."), "names no value"),
        (Finding("x", "`f(1)` gave `2`.", "", ""), "no *Try next*"),
        (Finding("x", "`1` " + "word " * 50, "", "Add."), "longer than"),
        (Finding("x", "`1`", "", "Write return min(a + b, 100)."), "gives a line"),
    ],
)
def test_g9_wording(finding, said):
    result = Result("f", Status.NOT_YET, finding)
    solution = "def f(a, b):\n    return min(a + b, 100)\n"
    assert said in "\n".join(proof.badly_worded(result, solution))


def test_g9_a_message_that_fills_more_than_a_screen():
    result = Result("f", Status.DONE, good=tuple(f"{n} works" for n in range(40)))
    assert "rows" in "\n".join(proof.badly_worded(result, ""))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"wrong": add_up.wrong[:1]}, "has 1 wrong answers"),
        ({"hints": {}}, "has no hint"),
        ({"hints": {"*": ["?"], "never": ["?"]}}, "has hints for 'never'"),
        ({"not_checked": ""}, "does not say what it cannot see"),
        ({"also_right": []}, "has no other right answer"),
        ({"chapter": "elsewhere"}, "is in elsewhere.py"),
    ],
)
def test_g12_what_an_exercise_lacks(tmp_path, change, said):
    assert said in faults(tmp_path, each=replace(add_up, **change))


def test_g12_exercises_without_a_counterpart(tmp_path):
    [page] = page_of(tmp_path, EXERCISE)
    assert "has no check" in orphans({"add_up": page}, {})[0]
    assert "stands on no page" in orphans({}, {"add_up": add_up})[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("```{exercise-end}\n```\n", "", "unbalanced solution-start"),
        ("```{solution-end}\n```\n", "", "never closed"),
        (
            "```{solution-start} ex-add-up",
            "```{solution-start} ex-other",
            "no exercise",
        ),
        (":label: ex-add-up", ":class: x", "no :label:"),
    ],
)
def test_g12_broken_gates(tmp_path, old, new, said):
    with pytest.raises(ValueError, match=said):
        page_of(tmp_path, EXERCISE.replace(old, new))


def test_g12_cells_that_are_missing(tmp_path):
    untagged = EXERCISE.replace(":tags: [stub]\n", "").replace("[solution]", "[live]")
    [page] = page_of(tmp_path, untagged)
    said = "\n".join(orphans({page.name: page}, {"add_up": add_up}))
    assert "0 cells tagged stub" in said


@pytest.mark.skipif(not sandbox.CAN_FORK, reason="forking")
def test_g13_the_mark_finds_what_a_check_left():
    """A process with the mark is seen; that none has it is then worth something."""
    left = subprocess.Popen(
        ["sleep", "60"], env={sandbox.MARK: f"{os.getpid()} planted"}
    )
    try:
        assert any(str(left.pid) in process for process in marked_processes())
    finally:
        left.kill()
        left.wait()


def test_mutants_of_a_small_program():
    found = dict(mutants("def f(a):\n    'doc 1'\n    return a < 3 and not min(a, 2)"))
    assert set(found) == {
        "return a <= 3 and (not min(a, 2))",
        "return a < 3 or not min(a, 2)",
        "return a < 4 and (not min(a, 2))",
        "return a < 3 and min(a, 2)",
        "return a < 3 and (not max(a, 2))",
        "return a < 3 and (not min(a, 3))",
    }
