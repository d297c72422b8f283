"""The check engine: an exercise, one trial of an answer, and what a trial may find.

A check is a function over a ``Trial``. It calls the student's function with
``t.call``, states what must hold with ``t.need``, and records what works with
``t.good``. The first thing that does not hold ends it: a student reads one finding
at a time. A check never raises at its caller, whatever it is given.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import hashlib
import inspect
import io
import linecache
import numbers
import sys
import tokenize
import types
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploylab.exercises import sandbox
from deploylab.exercises.result import Finding, Result, Status, show

#: Seconds that a check of a function may take in all.
LIMIT_S = 1.5

#: Why it matters that an answer is too slow, and what to try next.
TOO_SLOW = (
    "A request that waits for ever holds a thread for ever.",
    "Look for a loop that does not end, or for a wait without a limit.",
)

#: Findings that the engine itself makes, for any exercise.
ENGINE_FINDINGS = {
    "not-started",
    "not-a-function",
    "not-a-file",
    "not-text",
    "wrong-arguments",
    "wrong-type",
    "returns-nothing",
    "returns-generator",
    "mutates-input",
    "crash",
    "too-slow",
    "process-ended",
    "broke",
}


@dataclass(frozen=True)
class Wrong:
    """An answer that must fail with ``finding``.

    Either ``patch``, pairs of old and new text applied to the page's own solution,
    or ``source``, which stands in its place.
    """

    name: str
    finding: str
    patch: tuple[tuple[str, str], ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Right:
    """An answer unlike the page's solution that must pass; fields as in Wrong."""

    name: str
    patch: tuple[tuple[str, str], ...] = ()
    source: str = ""


class Found(BaseException):
    """Ends a trial with a finding; a BaseException, so that answers let it pass."""

    def __init__(self, status: Status, finding: Finding) -> None:
        super().__init__(finding.id)
        self.status = status
        self.finding = finding


@dataclass
class Exercise:
    """What the engine knows of one exercise; see ``exercise`` for the fields."""

    name: str
    kind: str
    check: Callable[[Trial], None]
    hints: dict[str, list[str]]
    not_checked: str
    chapter: str
    source: str
    notice: str = ""
    wrong: list[Wrong] = field(default_factory=list)
    also_right: list[Right] = field(default_factory=list)
    equivalent: dict[str, str] = field(default_factory=dict)
    starting: str = ""
    limit_s: float = LIMIT_S
    memory_bytes: int | None = sandbox.MEMORY_BYTES
    live: bool = False
    prepare: Callable[[], Any] | None = None
    too_slow: tuple[str, str] = TOO_SLOW

    @property
    def label(self) -> str:
        """The exercise's label on its page."""
        return f"ex-{self.name.replace('_', '-')}"

    @property
    def digest(self) -> str:
        """Digest of the check and all it calls in its file, hints and answers aside.

        A check that has changed asks for the answer again.
        """
        source = self.source or check_source(self.check)
        return hashlib.sha256(source.encode()).hexdigest()[:16]

    def try_out(
        self, thing: Any, seed: int = 0, apart: bool = sandbox.CAN_FORK
    ) -> Result:
        """The result for an answer. Never raises but for an interrupt.

        ``apart`` runs it in a process of its own, so that nothing it does can hurt
        this one.
        """
        try:
            return self._try_out(thing, seed, apart)
        except Exception as error:
            return self._broke(error)

    def _try_out(self, thing: Any, seed: int, apart: bool) -> Result:
        try:
            thing = KINDS[self.kind](self, thing)
        except Found as found:
            return self._result(found.status, found.finding)
        try:
            run, more = sandbox.here, {}
            if apart:
                run, more = sandbox.apart, {"memory_bytes": self.memory_bytes}
            if self.live:
                more["patience"] = sandbox.LIVE_PATIENCE
            if self.prepare is not None:  # its time is ours, not the answer's
                self.prepare()
            answer = run(
                lambda say: self._work(Trial(self, thing, seed, say)),
                self.limit_s,
                **more,
            )
        except sandbox.Ended as ended:
            return self._result(Status.STOPPED, self._ended(ended))
        status = Status(answer["status"])
        finding = Finding(*answer["finding"]) if answer["finding"] else None
        return self._result(status, finding, answer["good"], answer["notice"])

    def _work(self, t: Trial) -> dict[str, Any]:
        """Run the check; the outcome as JSON, so that it can cross a process."""
        status, finding = Status.DONE, None
        try:
            self.check(t)
        except Found as found:
            status, finding = found.status, found.finding
        except Exception as error:
            status, finding = Status.BROKE, _broken(error)
        return {
            "status": status.value,
            "finding": finding and [finding.id, finding.what, finding.why, finding.do],
            "good": t.works,
            "notice": t.notice or self.notice,
        }

    def _ended(self, ended: sandbox.Ended) -> Finding:
        doing = ended.doing or "The answer"
        if ended.reason == "time":
            # What is busy may be given more than the limit; how much, differs.
            seconds = round(ended.clock_s) if self.live else self.limit_s
            return Finding(
                "too-slow",
                f"{doing} was still running after {seconds:g} seconds.",
                *self.too_slow,
            )
        return Finding(
            "process-ended",
            f"{doing} ended the process that ran it, without a result.",
            "In a service that would end every request that the process had in hand.",
            "Look for a call that ends the process, or that needs very much memory.",
        )

    def _result(
        self,
        status: Status,
        finding: Finding | None,
        good: list[str] | tuple[str, ...] = (),
        notice: str = "",
    ) -> Result:
        done = status is Status.DONE
        return Result(
            self.name,
            status,
            finding,
            tuple(good),
            notice if done else "",
            self.not_checked if done else "",
        )

    def _broke(self, error: Exception) -> Result:
        return Result(self.name, Status.BROKE, _broken(error))


def _broken(error: Exception) -> Finding:
    where = error.__traceback__
    while where and where.tb_next:
        where = where.tb_next
    place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
    return Finding(
        "broke",
        f"{type(error).__name__}: {error} ({place}).",
        "This is our mistake, not yours; it does not count against you.",
        "Open an issue with this text and your answer. Meanwhile compare with the "
        "folded solution on the page.",
    )


class Trial:
    """One run of a check over one answer.

    ``thing`` is the answer: a function, a path, a text. ``rng`` gives the same
    numbers for the same exercise and seed. ``said`` is the last call and what it
    gave, ready to be printed: "`f(2)` gave `3`".
    """

    def __init__(
        self, exercise: Exercise, thing: Any, seed: int, say: sandbox.Say
    ) -> None:
        self.exercise = exercise
        self.thing = thing
        self.say = say
        self.rng = np.random.default_rng(zlib.crc32(exercise.name.encode()) + seed)
        self.works: list[str] = []
        self.notice = ""
        self.said = ""
        self.calls = 0

    def call(self, *args: Any, gives: str = "", **kwargs: Any) -> Any:
        """What the student's function returns for a copy of these arguments.

        ``gives`` names the kind of value that is asked for (a key of ``GIVES``); the
        value comes back as the plain Python type. Ends the trial if the function
        cannot be called so, raises, changes an argument, or gives something else.
        """
        call = shown_call(self.thing, args, kwargs)
        self._bind(call, args, kwargs)
        given = copy.deepcopy((args, kwargs))
        printed = sandbox.Tail()
        self.say(f"`{call}`")
        self.calls += 1
        try:
            with (
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(sandbox.Tail()),
            ):
                value = self.thing(*given[0], **given[1])
        except (Found, sandbox.TimeUp):
            raise
        except BaseException as error:
            raise Found(Status.STOPPED, self._crash(call, error)) from error
        self.said = f"`{call}` gave `{show(value)}`"
        if not same((args, kwargs), given):
            self.stop(
                "mutates-input",
                f"`{call}` changed what it was given.",
                "The caller goes on with the changed value, and nobody expects that.",
                "Work on a copy, and return the result.",
            )
        return self._value(call, value, gives, printed.text)

    @functools.cached_property
    def _signature(self) -> inspect.Signature | None:
        try:
            return inspect.signature(self.thing)
        except (ValueError, TypeError):
            return None

    def _bind(self, call: str, args: tuple, kwargs: dict[str, Any]) -> None:
        signature = self._signature
        if signature is None:
            return
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            self.stop(
                "wrong-arguments",
                f"The check calls `{call}`, and your function is "
                f"`{_name(self.thing)}{signature}`: {error}.",
                "",
                "Begin again with the line `def ...` that the exercise gives.",
            )

    def _crash(self, call: str, error: BaseException) -> Finding:
        what = f"`{call}` raised `{show_error(error)}`"
        if line := student_line(self.thing, error):
            what += f" in {line}"
        do = "Run this call in a cell of its own, and read the traceback from below."
        if isinstance(error, NameError):
            names = ", ".join(f"`{name}`" for name in _arguments(self.thing))
            do = f"Look where that name is set. The arguments are {names}."
        if isinstance(error, SystemExit | KeyboardInterrupt):
            do = "Return a value instead of ending the program."
        why = "An exception that nobody expects reaches the user as an error."
        return Finding("crash", f"{what}.", why, do)

    def _value(self, call: str, value: Any, gives: str, printed: str) -> Any:
        lazy = isinstance(value, types.GeneratorType | types.CoroutineType)
        if lazy and (gives or isinstance(value, types.CoroutineType)):
            value.close()
            self.stop(
                "returns-generator",
                f"`{call}` gave a {type(value).__name__}, which has computed nothing.",
                "The work begins when somebody asks for the first value.",
                "Use `return`, not `yield` or `async`.",
            )
        if value is None and gives:
            said = ""
            if printed.strip():
                said = f" It printed `{show(printed.strip())}`, which is not returning."
            self.stop(
                "returns-nothing",
                f"`{call}` gave back `None`.{said}",
                "The caller has nothing to go on with.",
                "End the function with `return` and the value.",
            )
        if not gives:
            return value
        wanted, convert = GIVES[gives]
        try:
            return convert(value)
        except Exception:
            kind = type(value).__name__
            self.stop(
                "wrong-type",
                f"`{call}` gave `{show(value)}`, of type `{kind}`.",
                "",
                f"Return {wanted}.",
            )

    def need(
        self, condition: Any, id: str, what: str, why: str = "", do: str = ""
    ) -> None:
        """End the trial with the finding ``id`` unless ``condition`` holds."""
        if not condition:
            self.stop(id, what, why, do)

    def stop(self, id: str, what: str, why: str, do: str) -> None:
        """End the trial with a finding: not yet."""
        raise Found(Status.NOT_YET, Finding(id, what, why, do))

    def good(self, sentence: str) -> None:
        """Record what works, to be shown above the finding or the success."""
        self.works.append(sentence)


def exercise(
    kind: str = "function",
    *,
    hints: dict[str, list[str]],
    not_checked: str,
    wrong: list[Wrong] | None = None,
    also_right: list[Right] | None = None,
    equivalent: dict[str, str] | None = None,
    notice: str = "",
    starting: str = "",
    limit_s: float = LIMIT_S,
    memory_bytes: int | None = sandbox.MEMORY_BYTES,
    live: bool = False,
    prepare: Callable[[], Any] | None = None,
    too_slow: tuple[str, str] = TOO_SLOW,
) -> Callable[[Callable[[Trial], None]], Exercise]:
    """Make a check function into the exercise of its name.

    kind: one of ``KINDS``: what an answer is.
    hints: ladders of hints by finding; "*" is for all the others.
    not_checked: what the check cannot see, shown with every success.
    wrong, also_right: answers that must fail, and others that must pass.
    equivalent: mutants of the page's solution that change nothing that the exercise
    asks for, each with the reason (the gates print a mutant's text).
    notice: what to take along, shown with a success.
    starting: digest of the code that the page gives, if that is more than an empty
    body (the gates print the right value).
    limit_s: seconds that the check may take. memory_bytes: what it may use beyond
    the memory in use; None for one that starts processes.
    live: whether the check starts processes; its gates then run once per answer.
    prepare: called before the check's time begins, to import what it needs.
    too_slow: why it matters that an answer takes too long here, and what to try.
    """

    def make(check: Callable[[Trial], None]) -> Exercise:
        return Exercise(
            name=check.__name__,
            kind=kind,
            check=check,
            hints=hints,
            not_checked=not_checked,
            chapter=check.__module__.rpartition(".")[2],
            source="",
            notice=notice,
            wrong=wrong or [],
            also_right=also_right or [],
            equivalent=equivalent or {},
            starting=starting,
            limit_s=limit_s,
            memory_bytes=memory_bytes,
            live=live,
            prepare=prepare,
            too_slow=too_slow,
        )

    return make


@functools.cache
def definitions(module: str) -> dict[str, ast.stmt]:
    """What a module defines at its top level, by name."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {t.id: node for t in targets if isinstance(t, ast.Name)}
    return found


def check_parts(check: Callable) -> list[ast.stmt]:
    """A check, and the functions and constants of its module that it uses."""
    known = definitions(check.__module__)
    todo, used = [check.__name__], {}
    while todo:
        name = todo.pop()
        if name in known and name not in used:
            used[name] = known[name]
            nodes = ast.walk(known[name])
            todo += [node.id for node in nodes if isinstance(node, ast.Name)]
    return [used[name] for name in sorted(used)]


def check_source(check: Callable) -> str:
    """The source of a check and of what it uses, without comments."""
    parts = check_parts(check)
    return "\n".join(map(ast.unparse, parts)) if parts else inspect.getsource(check)


# What a function may be asked to give back: in words, and how it is taken.


def _number(value: Any) -> float:
    value = value.item() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    if not np.isfinite(float(value)):
        raise ValueError
    return float(value)


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _truth(value: Any) -> bool:
    value = value.item() if isinstance(value, np.ndarray | np.generic) else value
    if not isinstance(value, bool):
        raise TypeError
    return value


def _of(*kinds: type) -> Callable[[Any], Any]:
    def take(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise TypeError
        return value

    return take


def _list(value: Any) -> list:
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    return value.to_list()  # a pandas column; AttributeError for anything else


def _pair(value: Any) -> tuple[float, float]:
    low, high = _list(value)
    return _number(low), _number(high)


GIVES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "number": ("a finite number", _number),
    "whole": ("a whole number", _whole),
    "truth": ("`True` or `False`", _truth),
    "text": ("a text (`str`)", _of(str)),
    "bytes": ("`bytes`", _of(bytes)),
    "list": ("a list", _list),
    "dict": ("a `dict`", _of(dict)),
    "pair": ("two numbers", _pair),
}


# What an answer may be, by kind of exercise: each takes (exercise, thing) and returns
# the thing as the check wants it, or raises Found.


def not_started(text: str, do: str) -> Found:
    """The finding of an answer that is still what the page gave."""
    return Found(Status.NOT_STARTED, Finding("not-started", text, "", do))


def _function(exercise: Exercise, thing: Any) -> Any:
    if thing is ... or thing is None:
        raise not_started(
            f"`check.{exercise.name}` got no function.",
            f"Write the function, then run `check.{exercise.name}` with its name.",
        )
    if inspect.isclass(thing) or not callable(thing):
        is_class = inspect.isclass(thing)
        got = f"the class `{thing.__name__}`" if is_class else f"`{show(thing)}`"
        do = "Give it the function's name, without brackets behind it."
        if is_class:
            do = "Write a function, in which your class may be used."
        raise Found(
            Status.NOT_YET,
            Finding(
                "not-a-function",
                f"`check.{exercise.name}` got {got}, not a function.",
                "",
                do,
            ),
        )
    if is_empty(thing) or (exercise.starting and _as_given(exercise, thing)):
        raise not_started(
            f"`{_name(thing)}` is still as the page gives it.",
            "Write your answer, run its cell, then run this check again.",
        )
    return thing


def _as_given(exercise: Exercise, thing: Any) -> bool:
    with contextlib.suppress(OSError, TypeError, SyntaxError):
        source = inspect.getsource(thing)
        return source_digest(source) == exercise.starting
    return False


def _file(exercise: Exercise, thing: Any) -> Any:
    if thing is ... or thing is None:
        raise not_started(
            f"`check.{exercise.name}` got no file.",
            "Write the file with the cell above, then give its path.",
        )
    if isinstance(thing, str) and thing.startswith(("http://", "https://")):
        return thing
    path = Path(thing) if isinstance(thing, str | Path) else None
    if path is None or not path.is_file():
        raise Found(
            Status.NOT_YET,
            Finding(
                "not-a-file",
                f"`check.{exercise.name}` got `{show(thing)}`, and no file is there.",
                "",
                "Run the cell that writes the file, then this check again.",
            ),
        )
    text = path.read_text("utf-8", errors="replace")
    if not text.strip() or source_digest(text) == exercise.starting:
        state = "still as the page gives it" if text.strip() else "empty"
        raise not_started(
            f"`{path.name}` is {state}.",
            "Write your answer, run its cell, then run this check again.",
        )
    return path.resolve()


def _text(exercise: Exercise, thing: Any) -> str:
    if exercise.kind == "choice" and isinstance(thing, set | frozenset):
        thing = sorted(thing, key=str)
    letters = exercise.kind in ("choice", "order") and isinstance(thing, list | tuple)
    if letters and all(isinstance(letter, str) for letter in thing):
        thing = " ".join(thing)
    if thing is ... or thing is None or thing == "":
        raise not_started(
            f"`check.{exercise.name}` got no answer yet.",
            "Put your answer in the place of `...`, between quotation marks.",
        )
    if not isinstance(thing, str):
        raise Found(
            Status.NOT_YET,
            Finding(
                "not-text",
                f"`check.{exercise.name}` got `{show(thing)}`, which is not a text.",
                "",
                "Write the answer between quotation marks.",
            ),
        )
    return thing


def _value(exercise: Exercise, thing: Any) -> Any:
    if thing is ... or thing is None:
        raise not_started(
            f"`check.{exercise.name}` got no answer yet.",
            "Put your answer in the place of `...`.",
        )
    return thing


KINDS: dict[str, Callable[[Exercise, Any], Any]] = {
    "function": _function,
    "fix": _function,
    "operate": _function,
    "program": _file,
    "configuration": _file,
    "choice": _text,
    "order": _text,
    "words": _text,
    "prediction": _value,
    "value": _value,
}


def is_empty(function: Any) -> bool:
    """Whether a function's body is empty: `...`, `pass`, or a docstring alone."""
    code = getattr(function, "__code__", None)
    if code is None:
        return False

    def nothing() -> None: ...

    def described() -> None:
        """A docstring and nothing more."""

    constants = {c for c in code.co_consts if c is not None}
    return (
        code.co_code in (nothing.__code__.co_code, described.__code__.co_code)
        and not code.co_names
        and constants <= {getattr(function, "__doc__", None)}
    )


def source_digest(source: str) -> str:
    """Digest of a program text, or of any text, without comments and spacing.

    Python's own tokens where it is Python, words elsewhere.
    """
    try:
        skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENCODING}
        skip |= {tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        words = [token.string for token in tokens if token.type not in skip]
    except (tokenize.TokenError, SyntaxError):
        lines = (line.partition("#")[0] for line in source.splitlines())
        words = [word for line in lines for word in line.split()]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:16]


def shown_call(function: Any, args: tuple, kwargs: dict[str, Any]) -> str:
    """The call as one would type it, with long values shortened."""
    room = max(60, 240 // max(1, len(args) + len(kwargs)))  # characters for each
    shown = [show(value, room) for value in args]
    shown += [f"{name}={show(value, room)}" for name, value in kwargs.items()]
    return f"{_name(function)}({', '.join(shown)})"


def show_error(error: BaseException) -> str:
    """The type and message of an exception, short and on one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its text cannot be made)"
    name = type(error).__name__
    return f"{name}: {text}".replace("`", "'")[:180] if text else name


def student_line(function: Any, error: BaseException) -> str:
    """Where in the student's code the error came from, e.g. "line 2: `x = y`"."""
    code = getattr(function, "__code__", None)
    place, where = None, error.__traceback__
    while where is not None:
        if code and where.tb_frame.f_code.co_filename == code.co_filename:
            place = where
        where = where.tb_next
    if place is None:
        return ""
    number = place.tb_lineno
    text = linecache.getline(code.co_filename, number).strip().replace("`", "'")
    return f"line {number}: `{text[:80]}`" if text else f"line {number}"


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in kind and content, NaN equal to NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))
    if hasattr(one, "equals"):  # a pandas table or column
        return bool(one.equals(other)) and same(list(one.keys()), list(other.keys()))
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    if isinstance(one, str | bytes | int | complex | set | frozenset | type(None)):
        return one == other
    return True  # an object of another kind: nothing is said about it


def _name(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    return "your_function" if name == "<lambda>" else name


def _arguments(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (ValueError, TypeError):
        return []
