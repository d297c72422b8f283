"""Read the book's pages: which there are, and what their cells and citations are.

The parser is the one that puts the cells on the page (myst-nb's), so a cell seen
here is a cell that is shown, and the other way round.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import yaml
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from myst_nb.core.read import (
    MystMetadataParsingError,
    is_myst_markdown_notebook,
    read_myst_markdown_notebook,
)
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.mdit import create_md_parser
from nbformat import NotebookNode
from nbformat.validator import NotebookValidationError as ValidationError
from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml

TOOLS = Path(__file__).resolve().parent

# What a page's cells may read besides the page itself. A change in any of these
# makes every executed page stale.
SHARED_INPUTS = ("deploylab", "book/listings", "requirements.txt")
# The code that executes pages: when it changes, what it produced is stale too.
EXECUTION_CODE = ("pages.py", "execute.py")

# Jupyter Book's own list, in force unless `_config.yml` gives another.
DEFAULT_SYNTAX = ("colon_fence", "linkify", "substitution", "tasklist")

# Directives whose body is not Markdown.
VERBATIM = {"code-cell", "raw-cell", "code-block", "code", "literalinclude", "math"}


@dataclass(frozen=True)
class Finding:
    """One fault: where it is, what happened, and what to do next."""

    path: str
    line: int
    what: str
    do: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}\n    {self.do}"


@dataclass(frozen=True)
class Cell:
    """A code cell: its place in the notebook, and in the page's source (from 1)."""

    index: int
    line: int
    source: str
    tags: frozenset[str]


@dataclass(frozen=True)
class Directive:
    """A directive as written, e.g. ``{note}``, at any depth."""

    name: str
    line: int
    nested: bool


@dataclass(frozen=True)
class Role:
    """A role as written, e.g. ``{cite}`key```, at any depth."""

    name: str
    line: int
    text: str


@dataclass(frozen=True)
class Page:
    """One Markdown page of the book."""

    root: Path
    docname: str

    @property
    def path(self) -> str:
        """Path relative to the root, as findings print it."""
        return f"{self.docname}.md"

    @cached_property
    def text(self) -> str:
        return (self.root / self.path).read_text("utf-8")

    @cached_property
    def notebook(self) -> NotebookNode:
        """The page as a notebook without outputs.

        Raises ValueError, saying why, if the header or a cell's options are broken.
        """
        try:
            return read_myst_markdown_notebook(
                self.text,
                config=markdown_config(self.root),
                add_source_map=True,
                path=self.root / self.path,
            )
        except (MystMetadataParsingError, ValidationError) as error:
            raise ValueError(str(error).splitlines()[0]) from error

    @cached_property
    def has_header(self) -> bool:
        """Whether myst-nb takes the page for a notebook and can name its kernel."""
        kernel = self.notebook.metadata.get("kernelspec", {}).get("name")
        try:
            return is_myst_markdown_notebook(self.text) and kernel == "python3"
        except AttributeError:  # "jupytext:" with nothing under it
            return False

    @cached_property
    def cells(self) -> list[Cell]:
        """The code cells, in order."""
        starts = self.notebook.metadata["source_map"]
        lines = self.text.splitlines()
        return [
            Cell(
                index,
                _first_line(lines, start, cell.source),
                cell.source,
                frozenset(cell.metadata.get("tags", [])),
            )
            for index, (cell, start) in enumerate(
                zip(self.notebook.cells, starts, strict=True)
            )
            if cell.cell_type == "code"
        ]

    @property
    def weight(self) -> int:
        """How long it is likely to run: lines of code, and 20 for each live cell."""
        lines = sum(len(cell.source.splitlines()) for cell in self.cells)
        return lines + 20 * sum("live" in cell.tags for cell in self.cells)

    @cached_property
    def parts(self) -> list[Directive | Role]:
        """Every directive and role on the page, at any depth."""
        parser = create_md_parser(markdown_config(self.root), RendererHTML)
        return list(_walk(self.text, parser, first_line=1, depth=0))


def _first_line(lines: list[str], start: int, source: str) -> int:
    """Line (from 1) where a cell's source begins, below its options."""
    wanted = source.splitlines()
    for offset in range(start, len(lines)):
        if lines[offset : offset + len(wanted)] == wanted:
            return offset + 1
    return start + 1  # indented, or loaded from a file


def _walk(
    text: str, parser: MarkdownIt, first_line: int, depth: int
) -> Iterator[Directive | Role]:
    for token in parser.parse(text):
        line = first_line + (token.map[0] if token.map else 0)
        if token.type in ("fence", "colon_fence") and token.info.startswith("{"):
            name, _, argument = token.info[1:].partition("}")
            yield Directive(name, line, nested=depth > 0 or token.level > 0)
            if name not in VERBATIM:
                yield from _walk(argument.strip(), parser, line, depth + 1)
                yield from _walk(token.content, parser, line + 1, depth + 1)
        for child in token.children or []:
            if child.type == "myst_role":
                yield Role(child.meta["name"], line, child.content)


def markdown_config(root: Path) -> MdParserConfig:
    """The Markdown syntax that the book's ``_config.yml`` turns on."""
    return _markdown_config((root / "_config.yml").read_text("utf-8"))


@lru_cache
def _markdown_config(config: str) -> MdParserConfig:
    parse = (yaml.safe_load(config) or {}).get("parse") or {}
    syntax = parse.get("myst_enable_extensions", DEFAULT_SYNTAX)
    return MdParserConfig(enable_extensions=set(syntax))


def pages_on_disk(root: Path) -> list[str]:
    """Document names of the Markdown files under ``book/``, listings aside."""
    return sorted(
        path.relative_to(root).with_suffix("").as_posix()
        for path in (root / "book").rglob("*.md")
        if "listings" not in path.relative_to(root).parts
    )


def pages_in_toc(root: Path) -> list[str]:
    """Document names in ``_toc.yml``, the landing page first.

    Raises ValueError if the file is missing or malformed.
    """
    try:
        site_map = parse_toc_yaml(root / "_toc.yml")
    except (OSError, MalformedError, yaml.YAMLError) as error:
        raise ValueError(str(error)) from error
    names = [site_map.root.docname, *(name for name in site_map)]
    return [name.removesuffix(".md") for name in dict.fromkeys(names)]


def execution_key(root: Path, notebook: NotebookNode) -> str:
    """Digest of all that a page's outputs depend on.

    Prose is left out: editing a sentence does not execute the page again.
    """
    code = [
        [cell.source, cell.metadata]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    digest = hashlib.sha256(json.dumps(code, sort_keys=True).encode())
    return f"{digest.hexdigest()} {shared_digest(root)}"


def shared_digest(root: Path) -> str:
    """Digest of what all pages share: package, listings, lock, Python, this code."""
    paths = [root / name for name in SHARED_INPUTS]
    paths += [TOOLS / name for name in EXECUTION_CODE]
    return files_digest(paths, salt=sys.version)


def files_digest(paths: list[Path], salt: str = "") -> str:
    """Digest of the names and contents of files, and of all files in folders."""
    digest = hashlib.sha256(salt.encode())
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                name = file.relative_to(path.parent).as_posix()
                content = file.read_bytes()
                digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()
