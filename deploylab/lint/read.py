"""Reading: files into documents whose values know their line.

Nothing is constructed from a tag, nothing is expanded before its size is known, and
what cannot be read is an ``Unreadable`` with the file, the line and the way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.resolver import Resolver

#: A larger file is no manifest that somebody wrote.
MAX_BYTES = 1_000_000
#: Values in one document, each alias counted with all that it stands for.
MAX_VALUES = 50_000
#: Levels of nesting; a Rollout with a whole pod template has about 15.
MAX_DEPTH = 60

#: What is read, by kind and by the group of its apiVersion.
KINDS = {
    "Rollout": "argoproj.io",
    "AnalysisTemplate": "argoproj.io",
    "ClusterAnalysisTemplate": "argoproj.io",
    "Canary": "flagger.app",
    "MetricTemplate": "flagger.app",
    "Strategy": "deploylab",
}
_KNOWN_KIND = re.compile(
    rf"^[ \t-]*[\"']?kind[\"']?[ \t]*:[ \t]*[\"']?({'|'.join(KINDS)})\b", re.MULTILINE
)
#: Placeholders that Argo Rollouts and Flagger fill in themselves.
_OF_THE_ENGINE = re.compile(
    r"\s*((args|inputs|outputs|experiment|templates|variables)\.[\w.-]+"
    r"|name|namespace|target|service|ingress|route|interval)\s*"
)
_PLACEHOLDER = re.compile(r"\{\{(.*?)(\}\}|$)", re.DOTALL | re.MULTILINE)
_OF_HELM = re.compile(r"\.Values|\.Release|\.Chart|\binclude\b|\btoYaml\b")


class Unreadable(Exception):
    """A file that cannot be read: where, why, and what to do."""

    def __init__(self, path: str, line: int, why: str, do: str) -> None:
        super().__init__(f"{path}:{line}: {why}. {do}")
        self.path, self.line, self.why, self.do = path, line, why, do


class Map(dict[str, Any]):
    """A mapping of YAML: ``line`` is its own, ``lines`` those of its keys.

    twice: keys that are written more than once, with the later line.
    """

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}
        self.twice: list[tuple[str, int]] = []

    def line_of(self, *path: str | int) -> int:
        """The line of the last step of a path that is there."""
        node: Any = self
        line = self.line
        for step in path:
            if isinstance(node, Map) and step in node:
                line, node = node.lines[str(step)], node[str(step)]
            elif isinstance(node, List) and isinstance(step, int) and step < len(node):
                line, node = node.lines[step], node[step]
            else:
                break
        return line

    def at(self, *path: str) -> Any:
        """The value at the end of a path, None where there is none."""
        node: Any = self
        for step in path:
            if not isinstance(node, Map):
                return None
            node = node.get(step)
        return node


class List(list[Any]):
    """A sequence of YAML: ``line`` is its own, ``lines`` those of its entries."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []


@dataclass(frozen=True)
class Document:
    """One document of a kind that is known. path: as given, "-" for stdin."""

    path: str
    root: Map
    kind: str

    @property
    def line(self) -> int:
        """Where it begins."""
        return self.root.line

    @property
    def name(self) -> str:
        """metadata.name, "" where the file has none."""
        name = self.root.at("metadata", "name")
        return name if isinstance(name, str) else ""

    @property
    def namespace(self) -> str:
        """metadata.namespace, "" where the file is silent."""
        namespace = self.root.at("metadata", "namespace")
        return namespace if isinstance(namespace, str) else ""

    @property
    def spec(self) -> Map:
        """Its specification; empty where there is none."""
        spec = self.root.get("spec")
        return spec if isinstance(spec, Map) else Map(self.root.line_of("spec"))


@dataclass
class Reading:
    """All that was read. notes: what was passed over; faults: what cannot be read."""

    documents: list[Document] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[Unreadable] = field(default_factory=list)


def read(paths: Iterable[str], stdin: bytes = b"", lenient: bool = False) -> Reading:
    """Read files, folders (their .yaml and .yml files) and "-" for ``stdin``.

    lenient: files that do not mention a kind that is known need not be readable; for
    whole repositories, where there are other files too.
    """
    reading = Reading()
    for path, text in _texts(paths, stdin, reading):
        mentions = _KNOWN_KIND.search(text)
        try:
            found = list(_documents(path, text, reading.notes))
        except Unreadable as fault:
            if lenient and not mentions:
                reading.notes.append(f"{path}: passed over, nothing known in it")
            else:
                reading.faults.append(fault)
            continue
        if not found:
            reading.notes.append(
                f"{path}: passed over, no document of the kinds {', '.join(KINDS)}"
            )
        reading.documents += found
    return reading


def _texts(
    paths: Iterable[str], stdin: bytes, reading: Reading
) -> Iterator[tuple[str, str]]:
    """Path and text of every file; what has none becomes a fault."""
    for path, raw in _raw(paths, stdin, reading):
        if len(raw) > MAX_BYTES:
            reading.faults.append(
                Unreadable(
                    path,
                    1,
                    f"more than {MAX_BYTES:,} bytes, which no rollout configuration is",
                    "Give the file with the rollout alone.",
                )
            )
            continue
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            do = "Save the file as UTF-8, or give another one."
            reading.faults.append(Unreadable(path, line, "not UTF-8 text", do))
            continue
        yield path, text


def _raw(
    paths: Iterable[str], stdin: bytes, reading: Reading
) -> Iterator[tuple[str, bytes]]:
    for given in paths:
        if given == "-":
            yield "-", stdin
            continue
        try:
            files = sorted(_files(Path(given)))
            if not files:
                reading.notes.append(f"{given}: no .yaml or .yml file in this folder")
            for path in files:
                with path.open("rb") as file:
                    yield str(path), file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            reading.faults.append(
                Unreadable(
                    given, 1, f"cannot be opened: {why}", "Check the path and rights."
                )
            )


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for found in path.rglob("*"):
        hidden = any(part.startswith(".") for part in found.relative_to(path).parts)
        if found.suffix in (".yaml", ".yml") and found.is_file() and not hidden:
            yield found


def _documents(path: str, text: str, notes: list[str]) -> Iterator[Document]:
    """The known documents of a text; others get a note. Raises Unreadable."""
    roots = list(_compose(path, text))
    while roots:
        root = roots.pop(0)
        if root is None:
            continue
        if not isinstance(root, Map):
            line = getattr(root, "line", 1)
            notes.append(f"{path}:{line}: passed over, not a mapping")
            continue
        kind, api = root.get("kind"), str(root.get("apiVersion", ""))
        if kind == "List" and isinstance(root.get("items"), List):
            roots = [item for item in root["items"] if isinstance(item, Map)] + roots
        elif not isinstance(kind, str) or KINDS.get(kind) != api.split("/")[0]:
            notes.append(
                f"{path}:{root.line}: passed over, {kind or 'no kind'}"
                f"{f' of {api}' if api else ''}"
            )
        else:
            document = Document(path, root, kind)
            _refuse_templates(document)
            yield document


def _refuse_templates(document: Document) -> None:
    """Raise for placeholders that neither the engine nor Kubernetes fills in.

    In the pod template others may stand for a reason (annotations that an injector
    reads), so only Helm's own are refused there.
    """
    stack: list[tuple[Any, int, bool]] = [(document.root, document.line, False)]
    seen: set[int] = set()
    while stack:
        node, line, pod = stack.pop()
        if isinstance(node, str):
            for placeholder in _PLACEHOLDER.finditer(node):
                inside = placeholder[1]
                if _OF_THE_ENGINE.fullmatch(inside):
                    continue
                if not pod or _OF_HELM.search(inside):
                    raise _template(document.path, line, placeholder[0])
        elif isinstance(node, (Map, List)) and id(node) not in seen:
            seen.add(id(node))
            if isinstance(node, Map):
                for key, value in node.items():
                    stack.append((key, node.lines[key], pod))
                    stack.append((value, node.lines[key], pod or key == "template"))
            else:
                stack += [(v, at, pod) for v, at in zip(node, node.lines, strict=True)]


def _template(path: str, line: int, placeholder: str) -> Unreadable:
    shown = " ".join(placeholder.split())[:40]
    return Unreadable(
        path,
        line,
        f"a template, not a manifest: {shown}",
        "Fill it in first, for example `helm template CHART | deploylab lint -`.",
    )


def _template_in(path: str, text: str) -> Unreadable | None:
    """The first foreign placeholder outside a comment of a text."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        for placeholder in _PLACEHOLDER.finditer(line):
            if not _OF_THE_ENGINE.fullmatch(placeholder[1]):
                return _template(path, number, placeholder[0])
    return None


class _Open:
    """A collection that is being read: its value, its size so far, its anchor."""

    def __init__(self, value: Map | List, anchor: str | None) -> None:
        self.value, self.anchor = value, anchor
        self.size = 1
        self.key: str | None = None
        self.key_line = 0
        self.merged: list[Map] = []


def _compose(path: str, text: str) -> Iterator[Any]:
    """Each document of a text as Map, List or a plain value. Raises Unreadable.

    Built from the parser's events with a stack of our own, so depth and size are
    known before they cost anything: an alias counts as all that it stands for, and
    one that stands for a collection around it is a cycle.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stack: list[_Open] = []
    anchors: dict[str, tuple[Any, int]] = {}
    result: Any = None
    line = 1
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                anchors, result = {}, None
            elif isinstance(event, yaml.DocumentEndEvent):
                yield result
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                if len(stack) >= MAX_DEPTH:
                    raise _too_much(path, line, f"nested more than {MAX_DEPTH} deep")
                if stack and isinstance(stack[-1].value, Map) and stack[-1].key is None:
                    raise _bad_key(path, text, line)
                mapping = isinstance(event, yaml.MappingStartEvent)
                value = Map(line) if mapping else List(line)
                stack.append(_Open(value, event.anchor))
                if event.anchor:
                    anchors.pop(event.anchor, None)
            elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
                if isinstance(event, yaml.ScalarEvent):
                    value, size = _scalar(event), 1
                    if event.anchor:
                        anchors[event.anchor] = value, size
                else:
                    value, size = _alias(path, line, event.anchor, anchors, stack)
                _add(path, text, line, stack, value, size, event)
                if not stack:
                    result = value
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                done = stack.pop()
                _merge(done)
                if done.anchor:
                    anchors[done.anchor] = done.value, done.size
                at = done.value.line
                if stack:
                    _add(path, text, at, stack, done.value, done.size, None)
                else:
                    result = done.value
    except yaml.YAMLError as error:
        template = _template_in(path, text)
        if template:
            raise template from None
        mark = getattr(error, "problem_mark", None)
        at = mark.line + 1 if mark else line
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        do = "Mend the file; `kubectl apply --dry-run=client -f` would refuse it too."
        raise Unreadable(path, at, f"not YAML: {problem}", do) from None


def _alias(
    path: str,
    line: int,
    anchor: str,
    anchors: dict[str, tuple[Any, int]],
    stack: list[_Open],
) -> tuple[Any, int]:
    if any(opened.anchor == anchor for opened in stack) and anchor not in anchors:
        do = "Write the inner part out: nothing in Kubernetes contains itself."
        raise Unreadable(path, line, f"a cycle: *{anchor} stands inside &{anchor}", do)
    if anchor not in anchors:
        do = "Anchors hold within one document; write the value out."
        raise Unreadable(path, line, f"*{anchor} has no anchor before it", do)
    return anchors[anchor]


def _add(
    path: str,
    text: str,
    line: int,
    stack: list[_Open],
    value: Any,
    size: int,
    event: Any,
) -> None:
    """Put a finished value into the collection that is open."""
    if not stack:
        return
    top = stack[-1]
    top.size += size
    if sum(opened.size for opened in stack) > MAX_VALUES:
        why = (
            f"more than {MAX_VALUES:,} values, aliases counted with what they stand for"
        )
        raise _too_much(path, line, why)
    if isinstance(top.value, List):
        top.value.append(value)
        top.value.lines.append(line)
    elif top.key is None:
        if event is None or isinstance(value, (Map, List)):
            raise _bad_key(path, text, line)
        top.key = event.value if isinstance(event, yaml.ScalarEvent) else str(value)
        top.key_line = line
    elif top.key == "<<":
        parts = value if isinstance(value, List) else [value]
        top.merged += [part for part in parts if isinstance(part, Map)]
        top.key = None
    else:
        if top.key in top.value:
            top.value.twice.append((top.key, top.key_line))
        top.value[top.key] = value
        top.value.lines[top.key] = top.key_line
        top.key = None


def _merge(done: _Open) -> None:
    """Fill in what `<<` brings; keys that are written out win."""
    for part in done.merged:
        for key, value in part.items():
            if key not in done.value:
                done.value[key] = value
                done.value.lines[key] = part.lines[key]


def _bad_key(path: str, text: str, line: int) -> Unreadable:
    return _template_in(path, text) or Unreadable(
        path,
        line,
        "a key that is not text",
        "Quote it, or write the value below a key.",
    )


def _too_much(path: str, line: int, why: str) -> Unreadable:
    return Unreadable(path, line, why, "Give the file with the rollout alone.")


_RESOLVER = Resolver()
_TRUE = {"true", "yes", "on"}


def _scalar(event: yaml.ScalarEvent) -> Any:
    """A plain value as Kubernetes' reader (YAML 1.1) takes it; else the text."""
    text = event.value
    if not event.implicit[0]:
        return text
    tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)).rsplit(":", 1)[-1]
    try:
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() in _TRUE
        if tag == "int":
            return int(text.replace("_", ""))
        if tag == "float":
            return float(text.replace("_", ""))
    except ValueError:
        pass
    return text
