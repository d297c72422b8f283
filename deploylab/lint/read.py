"""Reading: files into documents whose values know their line.

Nothing is constructed from a tag, nothing is expanded before its size is known, and
what cannot be read is an ``Unreadable`` with the file, the line and the way out.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.resolver import Resolver

#: A larger file is no manifest that somebody wrote.
MAX_BYTES = 1_000_000
#: Of what comes through a pipe: all that a chart makes.
MAX_STDIN = 20_000_000
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


def read(
    paths: Iterable[str],
    stdin: bytes = b"",
    lenient: bool = False,
    exclude: Sequence[str] = (),
) -> Reading:
    """Read files, folders (their .yaml and .yml files) and "-" for ``stdin``.

    lenient: files that do not mention a kind that is known need not be readable; for
    whole repositories, where there are other files too. exclude: patterns of paths that
    are passed over. A document that cannot be read does not hide the others.
    """
    reading = Reading()
    patches: dict[Path, str] = {}
    for path, text in _texts(paths, stdin, reading, exclude):
        mentions = _KNOWN_KIND.search(text)
        found: list[Document] = []
        faults: list[Unreadable] = []
        try:
            _documents(path, text, found, faults, reading.notes, patches)
        except Unreadable as fault:
            faults.append(fault)
        if faults and lenient and not mentions:
            reading.notes.append(f"{path}: passed over, nothing known in it")
        else:
            reading.faults += faults
        if not found and not faults:
            reading.notes.append(
                f"{path}: passed over, no document of the kinds {', '.join(KINDS)}"
            )
        reading.documents += found
    for document in list(reading.documents):
        by = patches.get(_resolved(document.path))
        if by and document.path != "-":
            reading.documents.remove(document)
            reading.notes.append(
                f"{document.path}:{document.line}: passed over, a patch of {by}; lint "
                f"what comes of it: `kustomize build {Path(by).parent} | deploylab "
                "lint -`"
            )
    return reading


def _resolved(path: str | Path) -> Path:
    """A path by which the same file is known again; itself where that fails."""
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        return Path(path)


def _texts(
    paths: Iterable[str], stdin: bytes, reading: Reading, exclude: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Path and text of every file; what has none becomes a fault."""
    for path, raw in _raw(paths, stdin, reading, exclude):
        most = MAX_STDIN if path == "-" else MAX_BYTES
        if len(raw) > most:
            reading.faults.append(
                Unreadable(
                    path,
                    1,
                    f"more than {most:,} bytes, which no rollout configuration is",
                    "Give the rollout alone; of a chart, with `helm template "
                    "--show-only`.",
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
    paths: Iterable[str], stdin: bytes, reading: Reading, exclude: Sequence[str]
) -> Iterator[tuple[str, bytes]]:
    """Each file once, with its content."""
    seen: set[Path | str] = set()
    for given in paths:
        if given == "-":
            if given not in seen:
                seen.add(given)
                yield "-", stdin
            continue
        try:
            if not given:
                raise ValueError("the path is empty")
            files = sorted(_files(Path(given), reading))
            if not files:
                reading.notes.append(f"{given}: no .yaml or .yml file in this folder")
            for path in files:
                if any(_under(path, pattern) for pattern in exclude):
                    reading.notes.append(f"{path}: passed over, excluded")
                    continue
                if _resolved(path) in seen:
                    continue
                seen.add(_resolved(path))
                with path.open("rb") as file:
                    yield str(path), file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            reading.faults.append(_closed(given, error))


def _closed(path: str, error: Exception) -> Unreadable:
    why = getattr(error, "strerror", None) or str(error)
    return Unreadable(path, 1, f"cannot be opened: {why}", "Check the path and rights.")


def _under(path: Path, pattern: str) -> bool:
    """Whether a pattern matches a path or a folder that it is in."""
    places = [path, *path.parents]
    return any(
        fnmatch.fnmatchcase(text, pattern.rstrip("/"))
        for place in places
        for text in (str(place), place.name)
    )


def _files(path: Path, reading: Reading) -> Iterator[Path]:
    """The YAML files of a folder; one that may not be read becomes a fault."""
    if not path.is_dir():
        yield path
        return

    def refused(error: OSError) -> None:
        reading.faults.append(_closed(str(error.filename or path), error))

    for folder, inside, names in os.walk(path, onerror=refused):
        inside[:] = [name for name in inside if not name.startswith(".")]
        for name in names:
            found = Path(folder, name)
            wanted = found.suffix in (".yaml", ".yml") and not name.startswith(".")
            if wanted and found.is_file():
                yield found


def _documents(
    path: str,
    text: str,
    found: list[Document],
    faults: list[Unreadable],
    notes: list[str],
    patches: dict[Path, str],
) -> None:
    """Collect the known documents of a text; others get a note.

    faults: documents that cannot be read, where the others can. patches: files that a
    kustomization patches with, and by which. Raises Unreadable where the text ends.
    """
    for whole in _compose(path, text):
        roots = [whole]
        while roots:
            root = roots.pop(0)
            if root is None:
                continue
            if isinstance(root, Unreadable):
                faults.append(root)
                continue
            if not isinstance(root, Map):
                line = getattr(root, "line", 1)
                notes.append(f"{path}:{line}: passed over, not a mapping")
                continue
            kind, api = root.get("kind"), str(root.get("apiVersion", ""))
            if Path(path).stem == "kustomization" or api.startswith("kustomize."):
                _patches(path, root, patches)
            if kind == "List" and isinstance(root.get("items"), List):
                items = [item for item in root["items"] if isinstance(item, Map)]
                roots = items + roots
            elif not isinstance(kind, str) or KINDS.get(kind) != api.split("/")[0]:
                notes.append(
                    f"{path}:{root.line}: passed over, {kind or 'no kind'}"
                    f"{f' of {api}' if api else ''}"
                )
            else:
                document = Document(path, root, kind)
                try:
                    _refuse_templates(document)
                except Unreadable as fault:
                    faults.append(fault)
                else:
                    found.append(document)


def _patches(path: str, root: Map, patches: dict[Path, str]) -> None:
    """Take down the files that a kustomization patches with."""
    for key in ("patches", "patchesStrategicMerge"):
        entries = root.get(key)
        for entry in entries if isinstance(entries, List) else []:
            name = entry.get("path") if isinstance(entry, Map) else entry
            if isinstance(name, str) and len(name) < 500 and "\n" not in name:
                patches[_resolved(Path(path).parent / name)] = path


def _refuse_templates(document: Document) -> None:
    """Raise for placeholders that neither the engine nor Kubernetes fills in.

    In the pod template and in annotations others may stand for a reason (an injector
    reads them), so only Helm's own are refused there.
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
                    free = pod or key in ("template", "annotations")
                    stack.append((value, node.lines[key], free))
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
    """Each document of a text as Map, List or a plain value, or as an Unreadable.

    Raises Unreadable where nothing more can be read. Of a document of another kind
    that is too much, what was read until then is given.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    opened = _Builder(path, text)
    instead: Any = None
    failed = False
    line = 1
    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                opened, failed = _Builder(path, text), False
            elif isinstance(event, yaml.DocumentEndEvent):
                yield instead if failed else opened.result
            elif not failed:
                try:
                    opened.take(event, line)
                except Unreadable as fault:
                    failed, instead = True, opened.foreign() or fault
    except yaml.YAMLError as error:
        if failed and isinstance(instead, Unreadable):
            raise instead from None
        template = _template_in(path, text)
        if template:
            raise template from None
        mark = getattr(error, "problem_mark", None)
        at = mark.line + 1 if mark else line
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        do = "Mend the file; `kubectl apply --dry-run=client -f` would refuse it too."
        raise Unreadable(path, at, f"not YAML: {problem}", do) from None


class _Builder:
    """One document from the parser's events, with a stack of our own.

    So depth and size are known before they cost anything: an alias counts as all that
    it stands for, and one that stands for a collection around it is a cycle.
    """

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.result: Any = None

    def foreign(self) -> Map | None:
        """What was read, if it is known by then that it is of another kind."""
        root = self.stack[0].value if self.stack else None
        kind = root.get("kind") if isinstance(root, Map) else None
        other = isinstance(kind, str) and kind not in (*KINDS, "List")
        return root if other and isinstance(root, Map) else None

    def take(self, event: yaml.Event, line: int) -> None:
        """Take one event. Raises Unreadable."""
        path, text, stack = self.path, self.text, self.stack
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            if len(stack) >= MAX_DEPTH:
                raise _too_much(path, line, f"nested more than {MAX_DEPTH} deep")
            if stack and isinstance(stack[-1].value, Map) and stack[-1].key is None:
                raise _bad_key(path, text, line)
            mapping = isinstance(event, yaml.MappingStartEvent)
            value: Any = Map(line) if mapping else List(line)
            stack.append(_Open(value, event.anchor))
            if event.anchor:
                self.anchors.pop(event.anchor, None)
        elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
            if isinstance(event, yaml.ScalarEvent):
                value, size = _scalar(event), 1
                if event.anchor:
                    self.anchors[event.anchor] = value, size
            else:
                value, size = _alias(path, line, event.anchor, self.anchors, stack)
            _add(path, text, line, stack, value, size, event)
            if not stack:
                self.result = value
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            done = stack.pop()
            _merge(done)
            if done.anchor:
                self.anchors[done.anchor] = done.value, done.size
            if stack:
                at = done.value.line
                _add(path, text, at, stack, done.value, done.size, None)
            else:
                self.result = done.value


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
