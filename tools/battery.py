"""Answers that no exercise asks for, and that every check must survive (gate G6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deploylab.exercises.engine import Exercise


def takes_nothing_useful() -> int:
    """A function whose arguments do not fit."""
    return 0


def gives_none(*args: Any, **kwargs: Any) -> None:
    """Returns nothing, but is not empty."""
    len(args)


def gives_text(*args: Any, **kwargs: Any) -> str:
    """Returns a text that is nothing else."""
    return "forty-two"


def gives_nan(*args: Any, **kwargs: Any) -> float:
    """Returns no number."""
    return float("nan")


def gives_object(*args: Any, **kwargs: Any) -> object:
    """Returns something without any use."""
    return object()


def raises(*args: Any, **kwargs: Any) -> None:
    """Fails."""
    raise ValueError("no")


def ends_program(*args: Any, **kwargs: Any) -> None:
    """Wants to end the program."""
    raise SystemExit(3)


def yields(*args: Any, **kwargs: Any) -> Iterator[int]:
    """A generator: computes nothing until asked."""
    yield 1


async def awaits(*args: Any, **kwargs: Any) -> int:
    """A coroutine, likewise."""
    return 1


def prints_much(*args: Any, **kwargs: Any) -> None:
    """Prints a megabyte, and returns nothing."""
    print("x" * 2**20)


FUNCTIONS: list[Callable] = [
    takes_nothing_useful,
    gives_none,
    gives_text,
    gives_nan,
    gives_object,
    raises,
    ends_program,
    yields,
    awaits,
    prints_much,
]

VALUES: list[tuple[str, Any]] = [
    ("a text", "forty-two"),
    ("not a number", float("nan")),
    ("an object", object()),
    ("a class", int),
    ("an empty list", []),
    ("a dict", {"a": 1}),
    ("bytes", b"\xff"),
    ("a lambda", lambda *args: None),
]


def answers(exercise: Exercise, work: Path) -> Iterator[tuple[str, Any]]:
    """Bad answers to an exercise of this kind, each with its name."""
    yield from (("None", None), ("an ellipsis", ...))
    yield from VALUES
    if exercise.kind in ("function", "fix", "operate"):
        chosen = FUNCTIONS if not exercise.live else [*FUNCTIONS[:2], raises]
        yield from ((function.__name__, function) for function in chosen)
    if exercise.kind in ("program", "configuration"):
        yield from files(work)
    if exercise.kind in ("choice", "order", "words"):
        yield from (("a long text", "x" * 2**20), ("spaces", "   "), ("a quote", '"'))


def files(work: Path) -> Iterator[tuple[str, Any]]:
    """Files that are no answer."""
    folder = work / "battery"
    folder.mkdir(exist_ok=True)
    contents = {
        "empty": b"",
        "binary": bytes(range(256)),
        "syntax error": b"def f(:\n",
        "ends at once": b"raise SystemExit(0)\n",
        "prints a megabyte": b"print('x' * 2**20)\n",
        "a list": b"[1, 2, 3]\n",
    }
    for name, content in contents.items():
        file = folder / f"{name.replace(' ', '-')}.py"
        file.write_bytes(content)
        yield name, file
    yield "a folder", folder
    yield "a missing file", folder / "nothing.py"
