"""Exercises that check themselves: ``from deploylab import check``.

One file per chapter holds, for each exercise of its page, the check, the hints, and
the answers that the check is proved with. Statement, stub and solution are on the
page.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import time
from dataclasses import replace
from functools import cached_property
from html import escape
from typing import Any

from deploylab import ROOT
from deploylab.exercises import chapters, progress
from deploylab.exercises.engine import Exercise
from deploylab.exercises.result import Finding, Hint, Result, Status, card, show

LAST_RUNG = (
    "The solution is folded below the exercise on the page. Read it, close it, and "
    "write it from memory."
)
AFTER_DONE = "It is done. Compare with the folded solution on the page."


class Check:
    """The check of one exercise: call it with your answer."""

    def __init__(self, exercise: Exercise) -> None:
        self._exercise = exercise
        self._last = ""
        self._done = False
        self._rungs: dict[str, int] = {}
        self.__name__ = exercise.name
        self.__doc__ = f"Check an answer to the exercise {exercise.name}."

    def __call__(self, answer: Any = ...) -> Result:
        """What the check says about the answer. Never raises."""
        started = time.perf_counter()
        result = self._exercise.try_out(answer)
        self._last = result.finding.id if result.finding else ""
        self._done = result.passed
        remarks = tuple(filter(None, self._enter(result, answer)))
        seconds = time.perf_counter() - started
        return replace(result, remarks=remarks, seconds=seconds)

    def _enter(self, result: Result, answer: Any) -> list[str]:
        """Keep the result; remarks on that, and on the first guess of a prediction.

        A stub does not take the place of an answer, nor does a fault of ours, nor a
        later attempt that of one that was done.
        """
        try:
            file = progress.path()
            record, remark = progress.read(file)
            if result.status in (Status.NOT_STARTED, Status.BROKE):
                return [remark]
            name = self._exercise.name
            entry = {"status": result.status.value, "check": self._exercise.digest}
            before = record.get(name, {})
            first = before.get("first")
            if self._exercise.kind == "prediction" and first is None:
                entry["first"] = show(answer)
            remarks = [remark]
            if (
                result.passed
                or before.get("status") != Status.DONE
                or (before.get("check") != entry["check"])
            ):  # what was done stays done, whatever is tried afterwards
                remarks.append(progress.write(file, name, entry))
            if first is not None and first != show(answer):
                remarks.append(f"Your first guess was {first}.")
            return remarks
        except Exception as error:
            return [
                f"Your progress could not be kept ({type(error).__name__}: {error})."
            ]

    def hint(self) -> Hint:
        """The next hint for what the check said last."""
        hints = self._exercise.hints
        if self._done:
            return Hint(self._exercise.name, AFTER_DONE, 1, 1)
        key = self._last if self._last in hints else "*"
        own = hints.get(key, [])
        general = [text for text in hints.get("*", []) if text not in own]
        ladder = [*own, *general, LAST_RUNG]
        rung = self._rungs.get(key, 0)
        self._rungs[key] = min(rung + 1, len(ladder) - 1)
        return Hint(self._exercise.name, ladder[rung], rung + 1, len(ladder))

    def __repr__(self) -> str:
        name = self._exercise.name
        return f"check.{name}(your answer), or check.{name}.hint()"


class UnknownCheck:
    """Stands for a check that does not exist, and says which are near."""

    def __init__(self, name: str, known: list[str]) -> None:
        self._name = name
        self._near = difflib.get_close_matches(name, known, n=1)

    def __call__(self, *args: Any, **kwargs: Any) -> Result:
        """Say that there is no such exercise."""
        do = "`check.progress()` lists them all."
        if self._near:
            do = f"Did you mean `check.{self._near[0]}`?"
        finding = Finding("unknown", f"No exercise is called `{self._name}`.", "", do)
        return Result(self._name, Status.NOT_STARTED, finding)

    def hint(self) -> Result:
        """The same."""
        return self()

    def __repr__(self) -> str:
        return repr(self())

    def _repr_html_(self) -> str:
        return self()._repr_html_()


class Progress:
    """The table of exercises, by chapter."""

    def __init__(self, rows: list[tuple[str, str, str]], remarks: list[str]) -> None:
        self.rows = rows
        self.remarks = remarks

    def __repr__(self) -> str:
        width = max((len(name) for _, name, _ in self.rows), default=0)
        lines, chapter = [], None
        for in_chapter, name, status in self.rows:
            if in_chapter != chapter:
                lines.append(in_chapter)
                chapter = in_chapter
            lines.append(f"  {name:{width}}  {status}")
        return "\n".join([*lines, *self.remarks])

    def _repr_html_(self) -> str:
        head = "<tr><th>Chapter</th><th>Exercise</th><th>Status</th></tr>"
        rows = "".join(
            f"<tr><td>{escape(chapter)}</td><td><code>{escape(name)}</code></td>"
            f"<td>{escape(status)}</td></tr>"
            for chapter, name, status in self.rows
        )
        style = "border-collapse: separate; border-spacing: 1em 0; margin: 0"
        table = (
            f'<table style="{style}"><thead>{head}</thead><tbody>{rows}</tbody></table>'
        )
        return card([table, *(f"<p>{escape(text)}</p>" for text in self.remarks)])


class Checks:
    """All checks, by name: ``check.hours_down(answer)``."""

    @cached_property
    def _exercises(self) -> dict[str, Exercise]:
        return {
            exercise.name: exercise
            for group in exercises().values()
            for exercise in group
        }

    @cached_property
    def _checks(self) -> dict[str, Check]:
        return {name: Check(exercise) for name, exercise in self._exercises.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("shape", "dtype"):
            raise AttributeError(name)  # what tools ask of any object
        if name in self._checks:
            return self._checks[name]
        return UnknownCheck(name, list(self._checks))

    def __dir__(self) -> list[str]:
        return [*self._checks, "progress"]

    def __repr__(self) -> str:
        return "check.<exercise>(your answer); check.progress() lists the exercises"

    def progress(self, chapter: str = "") -> Progress:
        """How far you are, in one chapter (its file name) or in all."""
        try:
            file = progress.path()
            record, remark = progress.read(file)
        except OSError as error:
            file, record, remark = None, {}, f"Your progress cannot be read: {error}"
        rows, known = [], not chapter
        for name, group in exercises().items():
            title = name.replace("_", "-")
            if chapter and title != chapter.replace("_", "-"):
                continue
            known = True
            for exercise in group:
                kept = record.get(exercise.name, {})
                status = kept.get("status", Status.NOT_STARTED.value)
                if kept and kept.get("check") != exercise.digest:
                    status += ", check again: the exercise has changed"
                rows.append((title, exercise.name, status))
        remarks = [remark] if remark else []
        if not known:
            names = ", ".join(name.replace("_", "-") for name in exercises())
            remarks.append(f"No chapter is called {chapter}. There are: {names}.")
        if "BINDER_SERVICE_HOST" in os.environ:
            remarks.append(
                "This session is temporary: Binder keeps nothing. Download your "
                f"notebook and {progress.FILE} (in the file list on the left, by right "
                "click) to go on elsewhere."
            )
        elif file is not None:
            remarks.append(
                f"A note to yourself, kept in {file.name}; nothing is sent anywhere."
            )
        return Progress(rows, remarks)


def exercises() -> dict[str, list[Exercise]]:
    """The exercises of each chapter, in the order of the book and of each file."""
    names = [module.name for module in pkgutil.iter_modules(chapters.__path__)]
    return {
        name: [
            value
            for value in vars(
                importlib.import_module(f"{chapters.__name__}.{name}")
            ).values()
            if isinstance(value, Exercise)
        ]
        for name in sorted(names, key=_place_in_book)
    }


def _place_in_book(chapter: str) -> int:
    """Where the list of chapters names it; the package may be without the book."""
    toc = ROOT / "_toc.yml"
    text = toc.read_text("utf-8") if toc.exists() else ""
    return text.find(f"/{chapter.replace('_', '-')}\n")


check = Checks()
