"""The student edition of a page: a plain notebook, without MyST and without solutions.

A page is read block by block with markdown-it-py, so a fence inside a longer fence
is text and nothing else. Every directive and role has a plain form below; one that
has none is an error, and so is anything unbalanced: a notebook with a hole in it, or
with a solution in it, is worse than none.

Pictures become ``<img>`` elements that carry the picture (a ``data:`` address), on
white paper. That needs no file beside the notebook, shows at once in JupyterLab and
VS Code, in light and in dark, and keeps the alt text. An attachment would not do: for
SVG, JupyterLab shows none (its issue 10464), and Colab shows no attachment at all.
Colab shows no SVG in a text cell either (colabtools, issue 2092); there the alt text
and the caption stand in.

Only light packages are imported here: Binder's image has neither Sphinx nor myst-nb.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import mimetypes
import os
import posixpath
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.colon_fence import colon_fence_plugin
from mdit_py_plugins.deflist import deflist_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.front_matter import front_matter_plugin
from mdit_py_plugins.myst_blocks import myst_block_plugin
from mdit_py_plugins.myst_role import myst_role_plugin
from mdit_py_plugins.substitution import substitution_plugin
from nbformat import NotebookNode
from pybtex.database import BibliographyData, Entry, Person, parse_file
from pybtex.plugin import find_plugin
from pybtex.richtext import Text

# The extensions of `_config.yml` that this reader knows; a test compares them.
SYNTAX = {"colon_fence", "deflist", "dollarmath", "substitution"}

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}

# Pages that are made when the book is built, and so may be missing here; each with
# the text that it will begin with, which has its title.
TOOLS = Path(__file__).resolve().parent
GENERATED = {"book/reference/trust": TOOLS / "trust.md"}

# Tags that a notebook's reader, or `deploylab check`, still needs.
KEPT_TAGS = ("live", "raises-exception", "stub", "check")
FOLDED_TAGS = {"hide-input", "hide-cell", "remove-input"}
CELL_OPTIONS = {"tags", "mystnb"}

QUOTED = (
    "attention caution danger error hint important note seealso tip warning"
).split()
DROPPED_DIRECTIVES = {"contents", "tableofcontents"}
LITERALINCLUDE_OPTIONS = {
    "dedent",
    "pyobject",
    "lines",
    "language",
    "caption",
    "name",
    "linenos",
    "emphasize-lines",
}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}

ROLE = re.compile(r"\{([a-zA-Z_\-+:]{1,36})\}(`+)(?!`)(.+?)(?<!`)\2(?!`)", re.DOTALL)
TITLE_AND_TARGET = re.compile(r"(.*?)\s*<([^<>]+)>", re.DOTALL)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
GLUE_IMPORT = re.compile(r"^from myst_nb import glue[ \t]*\n?", re.MULTILINE)
GLUE_CALL = re.compile(r"(?<![\w.])glue\(|\bmyst_nb\b")

# A clone, not the package alone: pages show and run files of the repository.
COLAB = """\
import sys

if "google.colab" in sys.modules:  # which has nothing of the lab yet
    !git clone --quiet --depth 1 --branch {branch} {url} /content/lab
    %pip install --quiet --editable /content/lab
    sys.path.insert(0, "/content/lab")"""

# The book's own light colours: what `currentColor` and `.paper` mean on white paper.
INK, PAPER, SOFT = "#14181e", "#ffffff", "#f3f4f5"
LAB_CSS = TOOLS / "lab_sphinx" / "static" / "lab.css"


class StudentError(ValueError):
    """Pages that have no student edition, each fault as file:line, what, what to do."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


# The book ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What a label points at; ``kind`` is page, section, figure, exercise, ..."""

    kind: str
    docname: str
    text: str


@dataclass(frozen=True)
class Chapter:
    """A page as ``_toc.yml`` lists it: the caption of its part, and its name."""

    part: str
    docname: str


def read_toc(root: Path) -> list[Chapter]:
    """The pages in ``_toc.yml``, the landing page first.

    Raises ValueError if the file is missing or lists something other than files.
    """
    try:
        toc = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
        chapters = [Chapter("", toc["root"]), *_read_chapters("", toc)]
        for part in toc.get("parts", []):
            chapters += _read_chapters(part.get("caption", ""), part)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"_toc.yml cannot be read: {error!r}") from error
    return [Chapter(c.part, c.docname.removesuffix(".md")) for c in chapters]


def _read_chapters(part: str, entry: dict[str, Any]) -> Iterator[Chapter]:
    for item in [*entry.get("chapters", []), *entry.get("sections", [])]:
        if "url" in item:
            continue
        yield Chapter(part, item["file"])
        yield from _read_chapters(part, item)


@dataclass(frozen=True)
class Book:
    """The sources of the book at ``root``, as far as notebooks need them."""

    root: Path

    @cached_property
    def chapters(self) -> list[Chapter]:
        return read_toc(self.root)

    @property
    def landing(self) -> str:
        return self.chapters[0].docname

    @cached_property
    def settings(self) -> dict[str, Any]:
        """``_config.yml``; empty where there is none."""
        path = self.root / "_config.yml"
        return (yaml.safe_load(path.read_text("utf-8")) or {}) if path.exists() else {}

    @property
    def title(self) -> str:
        return self.settings.get("title") or "the book"

    @property
    def base_url(self) -> str:
        """Where the book is published, with a slash at the end, or nothing."""
        url = (self.settings.get("html") or {}).get("baseurl") or ""
        return f"{url.rstrip('/')}/" if url else ""

    @property
    def repository_url(self) -> str:
        return (self.settings.get("repository") or {}).get("url") or ""

    @property
    def branch(self) -> str:
        return (self.settings.get("repository") or {}).get("branch") or "main"

    @cached_property
    def references(self) -> BibliographyData:
        path = self.root / "references.bib"
        return parse_file(str(path)) if path.exists() else BibliographyData()

    @cached_property
    def pages(self) -> dict[str, Page]:
        """Every page in ``_toc.yml`` by name; generated ones only if they are there."""
        return {
            chapter.docname: Page(self, chapter.docname)
            for chapter in self.chapters
            if chapter.docname not in GENERATED
            or (self.root / f"{chapter.docname}.md").exists()
        }

    @cached_property
    def targets(self) -> dict[str, Target]:
        """What each label of the book points at."""
        found = {
            posixpath.basename(docname): Target("page", docname, first_heading(text))
            for docname, text in GENERATED.items()
            if text.exists()
        }
        for page in self.pages.values():
            found |= page.targets
        return found


def first_heading(path: Path) -> str:
    """The title of a Markdown file, or nothing."""
    found = re.search(r"^# (.+)", path.read_text("utf-8"), re.MULTILINE)
    return found[1].strip() if found else ""


def notebook_path(book: Book, docname: str) -> Path:
    """Where a page's notebook lies, below the folder of notebooks."""
    if docname == book.landing:
        return Path("index.ipynb")
    return Path(docname.removeprefix("book/")).with_suffix(".ipynb")


# Reading ----------------------------------------------------------------------------


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    for plugin in (
        front_matter_plugin,
        colon_fence_plugin,
        myst_block_plugin,
        myst_role_plugin,
        deflist_plugin,
        dollarmath_plugin,
        substitution_plugin,
    ):
        parser.use(plugin)
    return parser


PARSER = _parser()


@dataclass(frozen=True)
class Directive:
    """A directive: its name, argument, options and body, and the body's first line."""

    name: str
    argument: str
    options: dict[str, Any]
    body: str
    line: int
    body_line: int


def read_directive(token: Token, first_line: int) -> Directive | None:
    """The directive that a fence is, or None for a fence of plain code.

    Raises yaml.YAMLError for options that are not YAML.
    """
    if token.type not in ("fence", "colon_fence") or not token.info.startswith("{"):
        return None
    name, _, argument = token.info[1:].partition("}")
    line = first_line + token.map[0]
    lines = token.content.splitlines()
    header: list[str] = []
    used = 0
    if lines and lines[0].strip() == "---" and "---" in map(str.strip, lines[1:]):
        used = [text.strip() for text in lines].index("---", 1) + 1
        header = lines[1 : used - 1]
    else:
        while used < len(lines) and re.match(r":[\w-]+:", lines[used]):
            header.append(lines[used][1:])
            used += 1
        # A value may hold anything; only lists and numbers are YAML's business.
        header = [_quoted(text) for text in header]
    options = yaml.safe_load("\n".join(header)) or {}
    while used < len(lines) and not lines[used].strip():
        used += 1
    body = "\n".join(lines[used:])
    return Directive(name, argument.strip(), options, body, line, line + 1 + used)


def _quoted(option: str) -> str:
    name, _, value = option.partition(":")
    value = value.strip()
    if value and (value[0] not in "[{'\"" or ROLE.match(value)):
        value = "'" + value.replace("'", "''") + "'"
    return f"{name}: {value}"


def blocks(text: str) -> Iterator[tuple[Token, list[Token]]]:
    """The top-level blocks: each opening token, and all tokens of the block."""
    tokens = PARSER.parse(text)
    start = 0
    for index, token in enumerate(tokens):
        if token.level == 0 and token.nesting != 1:
            yield tokens[start], tokens[start : index + 1]
            start = index + 1


def scan(text: str, replace: Callable[[re.Match[str]], str]) -> str:
    """The text with each role replaced; code spans and escapes stay as they are."""
    out, at = [], 0
    while at < len(text):
        if text[at] == "\\":
            out.append(text[at : at + 2])
            at += 2
        elif match := ROLE.match(text, at):
            out.append(replace(match))
            at = match.end()
        elif text[at] == "`":
            end = _end_of_code(text, at)
            out.append(text[at:end])
            at = end
        else:
            out.append(text[at])
            at += 1
    return "".join(out)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """The text with ``change`` applied to what is not in a code span."""
    out, at = [], 0
    while (tick := text.find("`", at)) >= 0:
        end = _end_of_code(text, tick)
        out += [change(text[at:tick]), text[tick:end]]
        at = end
    return "".join([*out, change(text[at:])])


def _end_of_code(text: str, at: int) -> int:
    """Where the code span that begins at ``at`` ends, or its backticks do."""
    ticks = re.compile("`+").match(text, at)[0]
    closing = re.compile(rf"(?<!`){ticks}(?!`)").search(text, at + len(ticks))
    return closing.end() if closing else at + len(ticks)


def as_mapping(value: Any) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, dict) else {}


# A page -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Page:
    """One Markdown page."""

    book: Book
    docname: str

    @property
    def path(self) -> str:
        return f"{self.docname}.md"

    @cached_property
    def text(self) -> str:
        return (self.book.root / self.path).read_text("utf-8")

    @cached_property
    def directives(self) -> list[Directive]:
        """The directives at the top level; broken options are reported elsewhere."""
        found = []
        for token, _ in blocks(self.text):
            try:
                found.append(read_directive(token, 1))
            except yaml.YAMLError:
                continue
        return [directive for directive in found if directive]

    @property
    def has_code(self) -> bool:
        return any(part.name == "code-cell" for part in self.directives)

    @cached_property
    def is_checked(self) -> bool:
        """Whether its exercises check themselves: then the format is strict."""
        return any(
            {"stub", "check"} & set(part.options.get("tags") or [])
            for part in self.directives
            if part.name == "code-cell"
        )

    @cached_property
    def title(self) -> str:
        """The first heading, without roles or marks."""
        for token, inner in blocks(self.text):
            if token.type == "heading_open" and token.tag == "h1":
                return inner[1].content
        return ""

    @cached_property
    def targets(self) -> dict[str, Target]:
        """What each label on this page points at."""
        found: dict[str, Target] = {}
        waiting: list[str] = []
        for token, inner in blocks(self.text):
            if token.type == "myst_target":
                waiting.append(token.content or token.meta.get("label", ""))
                continue
            if token.type == "heading_open":
                kind = "page" if token.tag == "h1" else "section"
                for label in waiting:
                    found[label] = Target(kind, self.docname, inner[1].content)
            waiting = []
        for part in self.directives:
            label, text = part.options.get("label"), part.argument
            name, kind = part.options.get("name"), "listing"
            caption = part.options.get("caption", "")
            if part.name in ("figure", "image"):
                kind, caption = "figure", part.body.partition("\n\n")[0]
            elif part.name == "code-cell":
                mystnb = as_mapping(part.options.get("mystnb"))
                figure = as_mapping(mystnb.get("figure"))
                name, caption = figure.get("name"), figure.get("caption", "")
                kind = "figure"
            if part.name in ("exercise", "exercise-start") and label:
                found[label] = Target("exercise", self.docname, text)
            elif part.name in ("solution", "solution-start") and label:
                found[label] = Target("solution", self.docname, "the solution")
            elif name:
                found[name] = Target(kind, self.docname, " ".join(caption.split()))
        return found


# The notebook -----------------------------------------------------------------------


@dataclass
class Gate:
    """An exercise or a solution that is open at this point of the page."""

    kind: str
    label: str
    line: int
    tags: Counter[str] = field(default_factory=Counter)


@dataclass
class Cell:
    """A cell of the notebook to be."""

    kind: str
    source: str
    tags: list[str] = field(default_factory=list)
    folded: bool = False


def student_notebook(book: Book, docname: str, edition: str = "local") -> NotebookNode:
    """The student edition of a page, without outputs.

    ``edition`` is "local" for a notebook among its siblings in the repository, or
    "download" for one that is taken away by itself. Raises StudentError with every
    fault of the page.
    """
    return Converter(book, book.pages[docname], edition).notebook()


class Converter:
    """Turns one page into cells, and collects its faults on the way."""

    def __init__(self, book: Book, page: Page, edition: str) -> None:
        self.book, self.page, self.edition = book, page, edition
        self.faults: list[str] = []
        self.cells: list[Cell] = []
        self.gate: Gate | None = None
        self.exercises: dict[str, int] = {}
        self.included: list[str] = []

    def notebook(self) -> NotebookNode:
        """The finished notebook; raises StudentError."""
        self.convert_page()
        if self.faults:
            raise StudentError(self.faults)
        cells = [
            self.first_cell(),
            *self.colab_cells(),
            *self.cells,
            *self.last_cells(),
        ]
        metadata = {"page": self.page.docname}
        return make_notebook(cells, metadata)

    def fault(self, line: int, what: str, do: str) -> None:
        self.faults.append(f"{self.page.path}:{line}: {what}\n    {do}")

    # Pages

    def convert_page(self) -> None:
        """Fill ``cells``: one text cell for each section between code cells."""
        if not self.page.title:
            self.fault(1, "the page has no title", "Begin it with a line `# Title`.")
        seen_title = False
        for token, inner in blocks(self.page.text):
            line = 1 + (token.map[0] if token.map else 0)
            try:
                directive = read_directive(token, 1)
            except yaml.YAMLError as error:
                what = f"options that are not YAML: {str(error).splitlines()[0]}"
                self.fault(line, what, "Mend them.")
                continue
            if directive and self.gated(directive):
                continue
            if self.gate and self.gate.kind == "solution":
                if directive and directive.name == "code-cell":
                    self.cell(directive)
                continue
            if directive and directive.name == "code-cell":
                self.cell(directive)
            elif token.type == "heading_open" and token.tag == "h1" and not seen_title:
                seen_title = True
            else:
                text = self.block(token, inner, self.page.text, 1)
                self.add(text, new=token.type == "heading_open")
        if self.gate:
            self.fault(
                self.gate.line,
                f"{self.gate.kind}-start without {self.gate.kind}-end",
                f"Close it with a block `{self.gate.kind}-end`.",
            )

    def add(self, text: str, new: bool = False) -> None:
        """Add Markdown to the last text cell, or begin a new one."""
        if not text.strip():
            return
        if new or not self.cells or self.cells[-1].kind != "markdown":
            self.cells.append(Cell("markdown", text.strip("\n")))
        else:
            self.cells[-1].source += "\n\n" + text.strip("\n")

    # Exercises and solutions

    def gated(self, part: Directive) -> bool:
        """Deal with the marks around exercises and solutions; tell if it was one."""
        match part.name:
            case "exercise" | "exercise-start":
                self.open_exercise(part)
            case "solution" | "solution-start":
                self.open_solution(part)
            case "exercise-end" | "solution-end":
                self.close(part)
            case _:
                return False
        return True

    def open_exercise(self, part: Directive) -> None:
        label = part.options.get("label", "")
        if not label:
            self.fault(part.line, "an exercise without a label", "Add `:label: ex-...`")
        elif label in self.exercises:
            self.fault(
                part.line,
                f"a second exercise is called {label} (the first: line "
                f"{self.exercises[label]})",
                "Give each exercise a label of its own.",
            )
        self.exercises.setdefault(label, part.line)
        if part.name == "exercise-start":
            self.enter("exercise", label, part)
        title = self.inline(part.argument, part.line)
        self.add(f"### Your turn: {title}" if title else "### Your turn", new=True)
        if part.name == "exercise":
            self.add(self.text(part.body, part.body_line))

    def open_solution(self, part: Directive) -> None:
        label = part.argument
        if label not in self.exercises:
            self.fault(
                part.line,
                f"a solution for {label or 'nothing'}, which no exercise above it has "
                "as its label",
                "Mend the label, or move the solution below its exercise.",
            )
        if part.name == "solution-start":
            self.enter("solution", label, part)
        page = self.page_link("the page", f"#{label}")
        self.add(
            f"*The solution is folded, on {page}: open it when you have something to "
            "compare it with.*"
        )

    def enter(self, kind: str, label: str, part: Directive) -> None:
        """Open a gate; whatever stands in its own block would be lost."""
        if self.gate:
            self.fault(
                part.line,
                f"{kind}-start inside the {self.gate.kind} that line {self.gate.line} "
                "opened",
                f"Close that one first, with `{self.gate.kind}-end`.",
            )
        if part.body.strip():
            self.fault(
                part.body_line,
                f"text inside the block {kind}-start itself",
                f"Close the block after its options; the text follows, then "
                f"`{kind}-end`.",
            )
        self.gate = Gate(kind, label, part.line)

    def close(self, part: Directive) -> None:
        kind = part.name.removesuffix("-end")
        if not self.gate or self.gate.kind != kind:
            inside = f"inside {self.gate.kind}-start" if self.gate else "out of nowhere"
            self.fault(
                part.line,
                f"{part.name} {inside}",
                f"Each {part.name} closes one {kind}-start above it.",
            )
            return
        if kind == "exercise" and self.page.is_checked:
            for tag in ("stub", "check"):
                if not self.gate.tags[tag]:
                    self.fault(
                        self.gate.line,
                        f"the exercise {self.gate.label} has no cell tagged {tag}",
                        "Between exercise-start and exercise-end stand one stub and "
                        "one check.",
                    )
        self.gate = None

    # Cells

    def cell(self, part: Directive) -> None:
        """Take a code cell over, or leave it out."""
        for name in sorted(set(part.options) - CELL_OPTIONS):
            self.fault(
                part.line,
                f"the cell option {name!r} has no plain form",
                "Leave it out, or add it to CELL_OPTIONS in tools/student.py.",
            )
        tags = [str(tag) for tag in part.options.get("tags") or []]
        if not self.fits(part, tags) or "remove-cell" in tags:
            return
        source = part.body.rstrip()
        if match := GLUE_IMPORT.search(source):
            above, below = source[: match.start()], source[match.end() :]
            gap = "\n\n" if below.startswith("\n") else "\n"
            source = f"{above.rstrip()}{gap}{below.lstrip()}".strip("\n")
        if match := GLUE_CALL.search(source):
            self.fault(
                part.body_line + source[: match.start()].count("\n"),
                "a visible cell uses glue, which a notebook does not have",
                "Glue in a cell tagged remove-cell and glue or claim.",
            )
        if not source.strip():
            return
        kept = [tag for tag in KEPT_TAGS if tag in tags]
        self.cells.append(Cell("code", source, kept, bool(FOLDED_TAGS & set(tags))))
        self.add(self.figure_of_cell(part))

    def fits(self, part: Directive, tags: list[str]) -> bool:
        """Whether the cell belongs into the notebook; its tags must fit the gate."""
        kind = self.gate.kind if self.gate else ""
        if "solution" in tags and kind != "solution":
            self.fault(
                part.line,
                "a cell tagged solution stands outside a solution",
                "Put it between solution-start and solution-end, or it would be shown.",
            )
        for tag in ("stub", "check"):
            if tag not in tags:
                continue
            if kind != "exercise":
                self.fault(
                    part.line,
                    f"a cell tagged {tag} stands outside an exercise",
                    "Put it between exercise-start and exercise-end.",
                )
            elif self.gate.tags[tag]:
                self.fault(
                    part.line,
                    f"the exercise {self.gate.label} has a second cell tagged {tag}",
                    f"An exercise has one {tag}; other cells carry no such tag.",
                )
            if self.gate:
                self.gate.tags[tag] += 1
        if kind == "solution" and self.page.is_checked and "solution" not in tags:
            self.fault(
                part.line,
                f"a cell in the solution of {self.gate.label} is not tagged solution",
                "Tag it solution.",
            )
        return kind != "solution"

    def figure_of_cell(self, part: Directive) -> str:
        """The caption and the alt text of the picture that the cell draws."""
        mystnb = as_mapping(part.options.get("mystnb"))
        caption = as_mapping(mystnb.get("figure")).get("caption", "")
        alt = as_mapping(mystnb.get("image")).get("alt", "")
        lines = []
        if caption:
            lines.append(f"**Figure.** {self.inline(caption.strip(), part.line)}")
        if alt:
            lines.append(f"What the picture shows: {' '.join(alt.split())}")
        return "\n\n".join(lines)

    # Blocks of text

    def text(self, text: str, first_line: int) -> str:
        """The plain form of Markdown inside a directive."""
        if not text.strip():
            return ""
        done = [
            self.block(token, inner, text, first_line) for token, inner in blocks(text)
        ]
        return "\n\n".join(part for part in done if part)

    def block(
        self, token: Token, inner: list[Token], text: str, first_line: int
    ) -> str:
        """The plain form of one block."""
        begin, end = token.map or (0, 0)
        line = first_line + begin
        source = "\n".join(text.splitlines()[begin:end]).rstrip()
        match token.type:
            case (
                "front_matter"
                | "myst_target"
                | "myst_line_comment"
                | "myst_block_break"
            ):
                return ""
            case "html_block":
                return re.sub(r"<!--.*?-->", "", source, flags=re.DOTALL).strip()
            case "fence" | "colon_fence":
                return self.fence(token, source, first_line)
            case "code_block":
                return source
            case "math_block" | "math_block_label":
                return f"$$\n{token.content.strip()}\n$$"
            case "dl_open":
                return self.definitions(inner, text, first_line)
        for part in inner:
            if part.type in ("fence", "colon_fence") and part.info.startswith("{"):
                self.fault(
                    first_line + part.map[0],
                    f"a directive {part.info} inside a list or a quotation has no "
                    "plain form",
                    "Move it to the top level.",
                )
        found = [
            child
            for part in inner
            for child in part.children or []
            if child.type == "myst_role"
        ]
        return self.inline(source, line, n_roles=len(found))

    def fence(self, token: Token, source: str, first_line: int) -> str:
        line = first_line + token.map[0]
        try:
            part = read_directive(token, first_line)
        except yaml.YAMLError:
            self.fault(line, "options that are not YAML", "Mend them.")
            return ""
        if part is None:
            if token.type == "fence":
                return source
            self.fault(line, "a colon fence that is no directive", "Name one in {}.")
            return ""
        if part.name in DROPPED_DIRECTIVES:
            return ""
        if part.name in QUOTED:
            title = part.name.capitalize() if part.name != "seealso" else "See also"
            body = f"{part.argument}\n{part.body}" if part.argument else part.body
            return self.quoted(title, body, part)
        match part.name:
            case "admonition" | "dropdown" | "tab-item" | "topic" | "sidebar":
                return self.quoted(self.inline(part.argument, line), part.body, part)
            case "margin" | "tab-set":
                return self.text(part.body, part.body_line)
            case "literalinclude":
                return self.literalinclude(part)
            case "code-block" | "code" | "sourcecode":
                caption = self.caption(part)
                return caption + fenced(part.body, part.argument)
            case "math":
                return f"$$\n{(part.argument + chr(10) + part.body).strip()}\n$$"
            case "figure" | "image":
                return self.picture(part)
            case "table":
                title = self.inline(part.argument, line)
                body = self.text(part.body, part.body_line)
                return f"**{title}**\n\n{body}" if title else body
            case "glossary":
                return self.glossary(part)
            case "bibliography":
                return self.bibliography()
            case "glue" | "glue:text" | "glue:any" | "glue:figure":
                return f"**[{part.argument.partition(':')[0]}]**"
        self.fault(
            line,
            f"the directive {{{part.name}}} has no plain form",
            "Write it otherwise, or give it one in tools/student.py.",
        )
        return ""

    def quoted(self, title: str, body: str, part: Directive) -> str:
        """A block quotation with its title in bold."""
        text = f"**{title}**\n\n{self.text(body, part.body_line)}".strip()
        return "\n".join(f"> {line}".rstrip() for line in text.splitlines())

    def definitions(self, inner: list[Token], text: str, first_line: int) -> str:
        """Terms in bold, each above what is said of it."""
        lines, out = text.splitlines(), []
        # What the parser says of where a later definition begins is its term's line;
        # the first block in it knows better.
        parts = [
            (token, inner[index + 1], inner[index + 1].map[0])
            for index, token in enumerate(inner)
            if token.type in ("dt_open", "dd_open") and token.level == 1
        ]
        ends = [begin for _, _, begin in parts[1:]] + [inner[0].map[1]]
        for (token, first, begin), end in zip(parts, ends, strict=True):
            if token.type == "dt_open":
                out.append(f"**{self.inline(first.content, first_line + begin)}**")
            else:
                head = re.sub(r"^\s*[:~]\s+", "", lines[begin])
                rest = textwrap.dedent("\n".join(lines[begin + 1 : end]))
                out.append(self.text(f"{head}\n{rest}", first_line + begin))
        return "\n\n".join(out)

    def glossary(self, part: Directive) -> str:
        out, body = [], []
        lines = [*part.body.splitlines(), ""]
        for number, line in enumerate(lines):
            last = number == len(lines) - 1
            if body and (last or (line and not line[0].isspace())):
                text = textwrap.dedent("\n".join(body))
                out.append(self.text(text, part.body_line + number - len(body)))
                body = []
            if line and not line[0].isspace():
                out.append(f"**{self.inline(line, part.body_line + number)}**")
            elif not last:
                body.append(line)
        return "\n\n".join(out)

    def bibliography(self) -> str:
        """Every entry of ``references.bib``, as the page lists them."""
        style = find_plugin("pybtex.style.formatting", "plain")()
        backend = find_plugin("pybtex.backends", "html")("utf-8")
        items = []
        for entry in style.format_bibliography(self.book.references):
            items.append(f"- {html.unescape(plain_html(entry.text.render(backend)))}")
        return "\n".join(items)

    def literalinclude(self, part: Directive) -> str:
        """The included text as fenced code."""
        unknown = sorted(set(part.options) - LITERALINCLUDE_OPTIONS)
        if unknown:
            self.fault(
                part.line,
                f"literalinclude has no plain form with {', '.join(unknown)}",
                f"Use {', '.join(sorted(LITERALINCLUDE_OPTIONS))}.",
            )
        path = self.file(part)
        if path is None:
            return ""
        text = path.read_text("utf-8")
        try:
            if name := part.options.get("pyobject"):
                text = python_object(text, str(name))
            if lines := part.options.get("lines"):
                text = chosen_lines(text, str(lines))
            if "dedent" in part.options:
                text = textwrap.dedent(text)
        except ValueError as error:
            self.fault(part.line, f"{part.argument}: {error}", "Mend the option.")
            return ""
        self.included.append(text)
        language = part.options.get("language") or LANGUAGES.get(path.suffix, "")
        return self.caption(part) + fenced(text, str(language))

    def caption(self, part: Directive) -> str:
        caption = self.inline(str(part.options.get("caption") or ""), part.line)
        return f"**{caption}**\n\n" if caption else ""

    def file(self, part: Directive) -> Path | None:
        """The file that a directive names; with a slash first, from the root."""
        folder = self.book.root / posixpath.dirname(self.page.docname)
        if part.argument.startswith("/"):
            folder = self.book.root
        path = folder / part.argument.lstrip("/")
        if path.is_file():
            return path
        what = f"the file {part.argument} is not there"
        self.fault(part.line, what, "Mend the path; it is relative to the page.")
        return None

    def picture(self, part: Directive) -> str:
        """The picture itself with its alt text, and its caption below."""
        alt = " ".join(str(part.options.get("alt") or "").split())
        if not alt:
            self.fault(part.line, "a picture without alt text", "Add `:alt:`.")
        path = self.file(part)
        if path is None:
            return ""
        try:
            done = image_element(path, alt)
        except ValueError as error:
            self.fault(part.line, str(error), "Mend the file.")
            return ""
        caption = self.text(part.body, part.body_line)
        return f"{done}\n\n**Figure.** {caption}" if caption else done

    # Text within a line

    def inline(self, text: str, line: int, n_roles: int | None = None) -> str:
        """The plain form of a piece of text: roles, pictures and local links."""
        replaced = 0

        def replace(match: re.Match[str]) -> str:
            nonlocal replaced
            replaced += 1
            at = line + text[: match.start()].count("\n")
            return self.role(match[1], " ".join(match[3].split()), at)

        done = scan(text, replace)
        if n_roles is not None and replaced != n_roles:
            self.fault(
                line,
                f"{n_roles} roles are on the page here, and {replaced} were found",
                "Write the roles of this paragraph more plainly; this may also be a "
                "fault of tools/student.py.",
            )

        def change(plain: str) -> str:
            if match := re.search(r"\{\{.*?\}\}|<!--", plain):
                what = "a substitution" if match[0] != "<!--" else "a comment"
                self.fault(line, f"{what} within the text", "Write it out.")
            plain = IMAGE.sub(lambda m: self.inline_picture(m, line), plain)
            return LINK.sub(lambda m: self.local_link(m, line), plain)

        # Links first written by a role are left alone: they are not local ones.
        return outside_code(done, change)

    def inline_picture(self, match: re.Match[str], line: int) -> str:
        part = Directive("image", match[2], {"alt": match[1]}, "", line, line)
        return self.picture(part)

    def local_link(self, match: re.Match[str], line: int) -> str:
        """A link to another page of the book; other addresses stay."""
        text, address = match[1], match[2]
        if address.startswith("#"):
            return text
        if re.match(r"[a-z]+:", address) or address.endswith((".ipynb", ".html")):
            return match[0]
        path = posixpath.join(posixpath.dirname(self.page.docname), address)
        docname = posixpath.normpath(path.partition("#")[0].removesuffix(".md"))
        if docname in self.book.pages:
            return self.link(docname, text)
        if ".html#" in address:
            return match[0]
        what = f"the link to {address} has no plain form"
        self.fault(line, what, "Link a page of the book, or a full address.")
        return text

    def role(self, name: str, content: str, line: int) -> str:
        """The plain form of a role."""
        match = TITLE_AND_TARGET.fullmatch(content)
        title, target = (match[1], match[2]) if match else ("", content)
        if name.partition(":")[0] == "cite":
            return self.cite(name, content, line)
        if name in ("ref", "numref"):
            return self.reference(title, target, line)
        match name:
            case "doc":
                path = posixpath.join(posixpath.dirname(self.page.docname), target)
                docname = posixpath.normpath(target[1:] if target[0] == "/" else path)
                if docname in self.book.pages:
                    return self.link(docname, title)
                self.fault(line, f"there is no page {target}", "Mend the name.")
                return title
            case "glue" | "glue:text" | "glue:any" | "glue:md":
                return f"**[{target.partition(':')[0]}]**"
            case "term":
                return title or target
            case "abbr":
                return content
            case "download":
                return title or f"`{target}`"
            case "math":
                return f"${content}$"
            case "code" | "kbd" | "file" | "samp" | "command":
                return f"`{content}`"
            case "sub" | "sup" | "subscript" | "superscript":
                return f"<{name[:3]}>{html.escape(content)}</{name[:3]}>"
        self.fault(
            line,
            f"the role {{{name}}} has no plain form",
            "Write it otherwise, or give it one in tools/student.py.",
        )
        return content

    def reference(self, title: str, label: str, line: int) -> str:
        target = self.book.targets.get(label)
        if target is None:
            self.fault(line, f"nothing is called {label}", "Mend the label.")
            return title
        if target.kind in ("page", "section"):
            words = title or target.text
            if target.docname == self.page.docname:
                return words if title else f"*{words}*"
            return self.link(target.docname, words)
        if title or target.kind == "solution":
            return title or target.text
        return f"the {target.kind} *{self.inline(target.text, line).rstrip('.')}*"

    def link(self, docname: str, text: str = "") -> str:
        """A link to another page: its notebook, or the published page."""
        page = self.book.pages.get(docname)
        text = text or page.title
        if self.edition == "download" or page is None:
            address = self.book.base_url and f"{self.book.base_url}{docname}.html"
            return f"[{text}]({address})" if address else f"*{text}*"
        here = notebook_path(self.book, self.page.docname).parent
        there = notebook_path(self.book, docname)
        return f"[{text}]({Path(os.path.relpath(there, here)).as_posix()})"

    def cite(self, name: str, content: str, line: int) -> str:
        """``([Crouch et al., 2004](https://doi.org/...))`` and the like."""
        textual = name in ("cite:t", "cite:ts", "cite:ct")
        done = []
        for key in (part.strip() for part in content.split(",")):
            entry = self.book.references.entries.get(key)
            if entry is None:
                what = f"references.bib has no entry {key}"
                self.fault(line, what, "Add the entry, or mend the key.")
                continue
            year = entry.fields.get("year", "n.d.")
            who = authors(entry)
            words = f"{who} ({year})" if textual else f"{who}, {year}"
            url = address_of(entry)
            done.append(f"[{words}]({url})" if url else words)
        return ", ".join(done) if textual else f"({'; '.join(done)})"

    # The first and the last cells

    def page_link(self, text: str, anchor: str = "") -> str:
        """A link to the page itself, as far as this edition knows where it is."""
        if self.book.base_url:
            return f"[{text}]({self.book.base_url}{self.page.docname}.html{anchor})"
        if self.edition == "download":
            return text
        folder = notebook_path(self.book, self.page.docname).parent
        built = Path("..", "_build", "html", f"{self.page.docname}.html")
        address = Path(os.path.relpath(built, folder)).as_posix()
        return f"[{text}]({address}{anchor})"

    def first_cell(self) -> Cell:
        title = self.inline(self.page.title, 1)
        page = self.page_link(title)
        if page == title:
            page = f"*{title}*"
        what = f"This is the notebook of the page {page} of *{self.book.title}*"
        if self.page.has_code:
            what += ", without outputs and without solutions: run it from the top"
        if self.edition == "local" and not self.book.base_url:
            what += ". Links to the page work once `make book` has built it"
        paragraphs = [f"# {title}", f"{what}."]
        if self.page.is_checked:
            paragraphs.append(
                "Write your answer into the cell below an exercise, run it, and run "
                "`check.name(answer)` below that: it says what happened, why it "
                "matters and what to try next. `check.name.hint()` gives the next "
                "hint, and `check.progress()` lists what is done."
            )
        if any("**[" in cell.source for cell in self.cells if cell.kind == "markdown"):
            paragraphs.append(
                "A name in bold brackets, such as **[n-rows]**, stands where the page "
                "prints a number; your own run of the cells shows it."
            )
        return Cell("markdown", "\n\n".join(paragraphs))

    def colab_cells(self) -> list[Cell]:
        """What a notebook that was taken away needs in Colab: the lab itself."""
        url = self.book.repository_url
        if not (url and self.edition == "download" and self.page.has_code):
            return []
        return [Cell("code", COLAB.format(url=url, branch=self.book.branch))]

    def last_cells(self) -> list[Cell]:
        """The way back, and how far the student is."""
        if not self.page.has_code:
            return []
        page = self.page_link(self.inline(self.page.title, 1))
        text = f"The page, with its outputs and the folded solutions: {page}."
        if not self.page.is_checked:
            return [Cell("markdown", text)]
        text += "\n\nThis is how far you are:"
        return [Cell("markdown", text), Cell("code", "check.progress()")]


# Pieces -----------------------------------------------------------------------------


def fenced(text: str, language: str = "") -> str:
    """The text as a fenced code block, whatever backticks it holds."""
    longest = max((len(ticks) for ticks in re.findall("`{3,}", text)), default=2)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def python_object(text: str, name: str) -> str:
    """The source of a function, class or method (``Class.method``).

    Raises ValueError if it is not there.
    """
    body = ast.parse(text).body
    node = None
    for part in name.split("."):
        node = next((n for n in body if getattr(n, "name", None) == part), None)
        if node is None:
            raise ValueError(f"it has no {name}")
        body = node.body
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def chosen_lines(text: str, wanted: str) -> str:
    """The lines that ``1-3, 7, 9-`` names. Raises ValueError if that is not it."""
    lines, out = text.splitlines(), []
    for part in wanted.split(","):
        match = re.fullmatch(r"\s*(\d*)\s*(-?)\s*(\d*)\s*", part)
        if not match or not (match[1] or match[3]):
            raise ValueError(f"lines {wanted!r} are not like 1-3, 7, 9-")
        first = int(match[1] or 1)
        last = int(match[3] or len(lines)) if match[2] else first
        if not 1 <= first <= last <= len(lines):
            raise ValueError(f"it has {len(lines)} lines, not {part.strip()}")
        out += lines[first - 1 : last]
    return "\n".join(out)


def image_element(path: Path, alt: str) -> str:
    """An ``<img>`` that carries the picture. Raises ValueError for a broken file."""
    if path.suffix == ".svg":
        data, width = svg_on_paper(path)
        kind = "image/svg+xml"
    else:
        data, width = path.read_bytes(), ""
        kind = mimetypes.guess_type(path.name)[0] or ""
        if not kind.startswith("image/"):
            raise ValueError(f"{path.name} is not a picture")
    size = f' width="{width}"' if width else ""
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alt)}"{size} src="data:{kind};base64,{encoded}">'


def svg_on_paper(path: Path) -> tuple[bytes, str]:
    """A drawing in dark ink on white paper, and its width in pixels.

    An image sees neither the text colour nor the style sheet around it, so both are
    put in. Raises ValueError where the file is not SVG.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name} is not well-formed SVG: {error}") from error
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    style = root.get("style", "")
    root.set("style", f"color:{INK};background:{PAPER};{style}")
    if any("class" in element.attrib for element in root.iter()):
        rules = ElementTree.Element("{http://www.w3.org/2000/svg}style")
        rules.text = drawing_rules(LAB_CSS.read_text("utf-8"))
        root.insert(0, rules)
    width = root.get("viewBox", "").split()[2:3] or [root.get("width", "")]
    return ElementTree.tostring(root, encoding="utf-8"), re.sub(r"\D.*", "", width[0])


def drawing_rules(css: str) -> str:
    """The book's rules for hand-made drawings, with plain colours."""
    colours = dict(re.findall(r"(--lab-c\d): (#\w+)", css))
    colours |= {"--pst-color-background": PAPER, "--pst-color-surface": SOFT}
    rules = re.findall(r"^\.lab-svg (\.[\w-]+ \{.*?\})", css, re.MULTILINE)
    return re.sub(
        r"var\((--[\w-]+)\)", lambda m: colours.get(m[1], INK), " ".join(rules)
    )


def authors(entry: Entry) -> str:
    """``Crouch et al.``, ``Dean and Barroso``, or whoever else made it."""
    people = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [last_name(person) for person in people]
    if not names:
        return plain(entry.fields.get("title", entry.key))
    if len(names) > 2 or names[-1] == "others":
        return f"{names[0]} et al."
    return " and ".join(names)


def last_name(person: Person) -> str:
    return plain(" ".join([*person.prelast_names, *person.last_names]))


def plain(latex: str) -> str:
    """LaTeX without its braces and accents written as letters."""
    return str(Text.from_latex(latex))


def plain_html(text: str) -> str:
    """Markdown of the little HTML that pybtex writes."""
    text = re.sub(r'<a href="([^"]*)">(.*?)</a>', r"[\2](\1)", text, flags=re.DOTALL)
    text = re.sub(r"</?em>|\\emph ", lambda m: "*" * ("<" in m[0]), text)
    return " ".join(re.sub(r"<[^>]*>", "", text).split())


def address_of(entry: Entry) -> str:
    """Where the work is: its DOI's address, or the one it gives, or nothing."""
    if doi := entry.fields.get("doi"):
        return f"https://doi.org/{doi}"
    return entry.fields.get("url", "")


# Files ------------------------------------------------------------------------------


def make_notebook(cells: list[Cell], metadata: dict[str, str]) -> NotebookNode:
    """A valid notebook of these cells; the same cells give the same bytes."""
    made, seen = [], Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.kind}\n{cell.source}".encode()).hexdigest()
        seen[digest] += 1
        name = digest[:12] + (f"-{seen[digest]}" if seen[digest] > 1 else "")
        new = getattr(nbformat.v4, f"new_{cell.kind}_cell")(cell.source, id=name)
        if cell.tags:
            new.metadata["tags"] = cell.tags
        if cell.folded:
            new.metadata["jupyter"] = {"source_hidden": True}
        made.append(new)
    notebook = nbformat.v4.new_notebook(
        cells=made,
        metadata={
            "kernelspec": KERNEL,
            "language_info": LANGUAGE,
            "deploylab": {**metadata, "digest": source_digest(made)},
        },
    )
    nbformat.validate(notebook)
    return notebook


def source_digest(cells: list[NotebookNode]) -> str:
    """Digest of what stands in the cells; outputs and empty cells do not count."""
    digest = hashlib.sha256()
    for cell in cells:
        if source := cell.source.strip():
            digest.update(f"{cell.cell_type}\n{source}\n\0".encode())
    return digest.hexdigest()


# Gate G10: no leak ------------------------------------------------------------------

SHORT = 12  # characters: a line no longer than this gives nothing away
GATE_START = re.compile(r"^\s*(`{3,}|:{3,})\s*\{solution(-start)?\}")
MYST_TOKENS = (
    "colon_fence",
    "dl_open",
    "front_matter",
    "myst_line_comment",
    "myst_target",
    "substitution",
)
GATE_END = re.compile(r"^\s*(`{3,}|:{3,})\s*\{solution-end\}")


def leaks(page_text: str, notebook: NotebookNode, shown: str = "") -> list[str]:
    """What a student notebook gives away of its page, or has left of MyST.

    Looks at the page line by line, on purpose not with the reader above, which made
    the notebook. ``shown`` is text that may stand in the notebook too: what the page
    includes from files.
    """
    hidden, visible = split_solutions(page_text)
    visible = f"{visible}\n{shown}"
    found = []
    for number, cell in enumerate(notebook.cells, start=1):
        where = f"cell {number}"
        for line in dict.fromkeys(map(str.strip, hidden)):
            if len(line) > SHORT and line in cell.source and line not in visible:
                found.append(f"{where}: a line of a solution: {line}")
        if "{solution" in cell.source:
            found.append(f"{where}: {{solution")
        if "solution" in cell.metadata.get("tags", []):
            found.append(f"{where}: a cell tagged solution")
        if cell.get("outputs"):
            found.append(f"{where}: an output")
        if cell.cell_type == "markdown":
            found += [f"{where}: {what}" for what in leftovers(cell.source)]
        elif GLUE_CALL.search(cell.source):
            found.append(f"{where}: glue")
    return found


def split_solutions(page_text: str) -> tuple[list[str], str]:
    """The lines of the solutions, and the rest of the page as one text."""
    hidden, visible, until = [], [], None
    for line in page_text.splitlines():
        if until is None and (start := GATE_START.match(line)):
            # A plain solution block ends with its own fence, a gate with its mark.
            closing = rf"^\s*{start[1]}\s*$"
            until = GATE_END if start[2] else re.compile(closing)
        elif until is not None and until.match(line):
            until = None
        elif until is None:
            visible.append(line)
        else:
            hidden.append(line)
    return hidden, "\n".join(visible)


def leftovers(markdown: str) -> list[str]:
    """MyST syntax in the text of a notebook, where nothing would read it."""
    found = []
    for token in PARSER.parse(markdown):
        if token.type == "fence" and token.info.startswith("{"):
            found.append(f"a directive {token.info}")
        elif token.type.startswith(MYST_TOKENS):
            found.append(f"a {token.type}")
        elif token.type == "html_block" and "<!--" in token.content:
            found.append("a comment")
        for child in token.children or []:
            if child.type == "myst_role":
                found.append(f"a role {{{child.meta['name']}}}")
            elif child.type.startswith("substitution"):
                found.append("a substitution")
            elif child.type == "html_inline" and "<!--" in child.content:
                found.append("a comment")
    # A quotation or a broken fence may hide one from the parser.
    outside = re.sub(r"(`{3,}|:{4,}).*?\1|`[^`\n]*`", "", markdown, flags=re.DOTALL)
    if re.search(r"^[> ]*:{3,}\s*\{?\w", outside, re.MULTILINE):
        found.append("a colon fence")
    return found
