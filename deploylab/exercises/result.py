"""What a check answers: a status, one finding, and how it looks as text and HTML."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from html import escape
from typing import Any

WIDTH = 79
MAX_DEPTH = 4  # of containers that are shown with `show` for what is in them
MAX_CELLS = 18  # of a table that is shown as one would type it


class Status(StrEnum):
    """The five answers of a check, as the student reads them."""

    NOT_STARTED = "Not started"
    NOT_YET = "Not yet"
    STOPPED = "Your code stopped"
    DONE = "Done"
    BROKE = "The checker broke"


@dataclass(frozen=True)
class Finding:
    """One thing that a check has to say: what happened, why it matters, what next.

    ``id`` names it for hints, wrong answers and the trust page. ``why`` may be
    empty; the other two may not. Text between backticks is shown as code.
    """

    id: str
    what: str
    why: str
    do: str


@dataclass(frozen=True)
class Result:
    """The answer of one check.

    ``good`` holds the sentences about what already works, ``notice`` what a solver
    should take along, ``not_checked`` what this check cannot see, ``remarks`` what
    happened beside it, for instance to the progress file.
    """

    name: str
    status: Status
    finding: Finding | None = None
    good: tuple[str, ...] = ()
    notice: str = ""
    not_checked: str = ""
    remarks: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def passed(self) -> bool:
        """Whether the exercise counts as done."""
        return self.status is Status.DONE

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The labelled lines below the headline, in reading order."""
        lines = []
        if self.finding:
            lines.append(("What happened", self.finding.what))
            lines.append(("Why it matters", self.finding.why))
            lines.append(("Try next", self.finding.do))
        lines.append(("Notice", self.notice))
        lines.append(("Not checked", self.not_checked))
        lines += [("By the way", remark) for remark in self.remarks]
        return [(label, text) for label, text in lines if text]

    @property
    def closing(self) -> str:
        """Where to go from here."""
        if self.status is Status.DONE:
            return "Compare with the folded solution on the page."
        if self.status is Status.NOT_YET or self.status is Status.STOPPED:
            return f"Stuck? `check.{self.name}.hint()`"
        return ""

    def __repr__(self) -> str:
        parts = [f"{self.status} · {self.name}"]
        parts += [_wrap(f"+ {sentence}", "  ") for sentence in self.good]
        parts += [_wrap(f"{label}: {text}") for label, text in self.lines]
        return "\n".join([*parts, self.closing] if self.closing else parts)

    def _repr_html_(self) -> str:
        good = "".join(f"<li>{_html(sentence)}</li>" for sentence in self.good)
        body = [f"<p><strong>{self.status}</strong> · <code>{self.name}</code></p>"]
        if good:
            body.append(f"<p>What works:</p><ul>{good}</ul>")
        body += [
            f"<p><strong>{label}.</strong> {_html(text)}</p>"
            for label, text in self.lines
        ]
        if self.closing:
            body.append(f"<p>{_html(self.closing)}</p>")
        return card(body)


@dataclass(frozen=True)
class Hint:
    """One rung of a ladder of hints, numbered from 1."""

    name: str
    text: str
    number: int
    of: int

    def __repr__(self) -> str:
        return _wrap(f"Hint {self.number} of {self.of} · {self.name}: {self.text}")

    def _repr_html_(self) -> str:
        head = f"<strong>Hint {self.number} of {self.of}</strong>"
        return card([f"<p>{head} · <code>{self.name}</code></p>", _p(self.text)])


def card(body: list[str]) -> str:
    """HTML of a result: a live region, marked by a line and by words, not colour."""
    return (
        '<div class="deploylab-check" role="status" '
        'style="border-left: 0.3em solid; padding-left: 0.8em; max-width: 45em">'
        + "".join(body)
        + "</div>"
    )


def show(value: Any, limit: int = 120, depth: int = 0) -> str:
    """A short text for a value, as a student would type it where that is possible.

    ``depth`` counts the containers around it: a list may hold itself.
    """
    if isinstance(value, str):
        text = repr(value if len(value) <= limit else value[:limit] + "...")
    elif hasattr(value, "shape") and getattr(value, "ndim", 0):
        kind = type(value).__name__
        text = f"{kind} of shape {tuple(value.shape)}"
        if hasattr(value, "items") and value.ndim == 2 and value.size <= MAX_CELLS:
            typed = _table(value)
            text = typed if len(typed) <= limit else text
        if value.ndim == 1 and hasattr(value, "tolist"):
            kind = "np.array" if kind == "ndarray" else kind
            text = f"{kind}({_short(repr(value.tolist()), limit)})"
    elif hasattr(value, "item") and not hasattr(value, "items"):
        text = repr(value.item())  # a NumPy scalar, without its wrapping
    elif isinstance(value, float):
        text = repr(value)
    elif isinstance(value, Enum):
        text = str(value)
    elif _is_small(value) and depth < MAX_DEPTH:
        text = _container(value, limit, depth + 1)
    else:
        try:
            text = repr(value)
        except Exception as error:
            text = f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    return _short(text.replace("`", "'").replace("\n", " "), limit)


def _is_small(value: Any) -> bool:
    return isinstance(value, list | tuple | dict | set) and len(value) <= 12


def _table(table: Any) -> str:
    """A table of pandas as one would type it."""
    columns = repr({name: column.tolist() for name, column in table.items()})
    columns = re.sub(r"\bnan\b", "np.nan", columns)
    return f"pd.DataFrame({columns}, index={table.index.tolist()})"


def _container(value: Any, limit: int, depth: int) -> str:
    if isinstance(value, dict):
        inside = (
            f"{show(k, limit, depth)}: {show(v, limit, depth)}"
            for k, v in value.items()
        )
        return "{" + ", ".join(inside) + "}"
    inside = ", ".join(show(v, limit, depth) for v in value)
    if isinstance(value, list):
        return f"[{inside}]"
    if isinstance(value, tuple):
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return "{" + inside + "}" if value else "set()"


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def _wrap(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _html(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _p(text: str) -> str:
    return f"<p>{_html(text)}</p>"
