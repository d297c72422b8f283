"""Prove the exercise checks: the gates, on the pages' own stubs and solutions.

    python tools/proof.py [NAME ...]     run the gates, print what fails
    python tools/proof.py --messages     write tests/golden/<chapter>.txt anew
    python tools/proof.py --digest NAME  the digest of a stub, for `starting=`

A page holds the statement, stub and solution of an exercise; deploylab/exercises
holds its check, hints and further answers. Here the two meet.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import functools
import itertools
import linecache
import os
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import battery
from pages import Page, pages_on_disk

from deploylab.exercises import exercises, progress
from deploylab.exercises.engine import (
    ENGINE_FINDINGS,
    Exercise,
    Right,
    Wrong,
    check_parts,
    source_digest,
)
from deploylab.exercises.result import Result, Status

# A solution that is tried out here is nobody's progress.
os.environ[progress.VARIABLE] = "off"

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path("tests", "golden")

SOLUTION_SEEDS = range(20)
WRONG_SEEDS = range(5)

#: Kinds whose answer is code of the student's.
CODE = {"function", "fix", "operate", "program", "configuration"}
#: Kinds whose solution is mutated. A live one is mutated with the full counts only.
MUTATED = {"function", "fix", "operate"}

MAX_WORDS = 40  # in one field of a message
MAX_ROWS = 30  # of a message as text: one screen
MIN_SOLUTION_LINE = 12

FORBIDDEN = re.compile(
    r"\b(wrong|incorrect|just|simply|obviously|easy|easily|trivial|clearly|"
    r"you should|of course)\b|!(?!=)",
    re.IGNORECASE,
)
GATE = re.compile(
    r"^(`{3,}|:{3,})\{(exercise-start|exercise-end|solution-start|solution-end)\}"
    r"[ ]*(.*)\n((?:[ ]*:[a-z]+:.*\n)*)\1",
    re.MULTILINE,
)
LABEL = re.compile(r"^[ ]*:label:[ ]*(\S+)", re.MULTILINE)
HAPPENED = re.compile(r"What happened: .*?(?=(?:Why it matters|Try next): )")
ADDED = re.compile(r"^%%writefile\s+-a\s+\{work\}/\S+[ ]*\n")
WRITEFILE = re.compile(r"^%%writefile\s+\{work\}/(\S+)[ ]*\n")


@dataclass
class OnPage:
    """An exercise as its page has it; the sources of its cells."""

    page: Page
    label: str
    title: str
    imports: str
    statement: str = ""
    given: list[str] = field(default_factory=list)
    stub: list[str] = field(default_factory=list)
    check: list[str] = field(default_factory=list)
    solution: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of its check."""
        return self.label.removeprefix("ex-").replace("-", "_")

    @property
    def answer(self) -> str:
        """The source of the page's solution: the first cell in its gate.

        Of a file, with what the next cells add to it (``%%writefile -a``).
        """
        if not self.solution:
            return ""
        source = self.solution[0]
        for more in self.solution[1:]:
            added = ADDED.match(more)
            if added is None:
                break
            source = f"{source.rstrip()}\n{more[added.end() :]}"
        return source

    @functools.cached_property
    def call(self) -> ast.Call:
        """The call in the check cell; ValueError if it is not one call."""
        body = ast.parse("\n".join(self.check)).body
        call = body[0].value if body and isinstance(body[0], ast.Expr) else None
        if len(body) != 1 or not isinstance(call, ast.Call) or len(call.args) != 1:
            raise ValueError(
                f"{self.label}: the check cell must be one call with one answer, "
                f"`check.{self.name}(...)`"
            )
        return call


@dataclass
class Proof:
    """What the gates found for one exercise."""

    exercise: Exercise
    problems: list[str] = field(default_factory=list)
    wrong_caught: list[str] = field(default_factory=list)
    right_accepted: int = 0
    mutants: int = 0
    equivalent: int = 0
    messages: list[tuple[str, Result]] = field(default_factory=list)
    seconds: float = 0.0


def on_page(page: Page) -> list[OnPage]:
    """The exercises of a page, in order. Raises ValueError for broken gates."""
    found: dict[str, OnPage] = {}
    gate, current = "", None
    imports = ""
    for cell in page.notebook.cells:
        if cell.cell_type == "code":
            imports = imports or import_lines(cell.source)
            if current is not None:
                tags = cell.metadata.get("tags", [])
                place = "solution" if gate == "solution" else "given"
                for tag in ("stub", "check"):
                    place = tag if tag in tags and gate == "exercise" else place
                getattr(current, place).append(cell.source)
            continue
        end = 0
        text = cell.source + "\n"
        for match in GATE.finditer(text):
            if gate == "exercise" and current:
                current.statement += text[end : match.start()]
            end = match.end()
            kind, _, side = match[2].partition("-")
            if (side == "start") == bool(gate) or (side == "end" and kind != gate):
                raise ValueError(f"{page.path}: unbalanced {match[2]} ({match[3]})")
            gate = kind if side == "start" else ""
            if side == "end":
                current = None
            elif kind == "exercise":
                label = LABEL.search(match[4])
                if label is None:
                    raise ValueError(f"{page.path}: no :label: in {match[3]}")
                current = OnPage(page, label[1], match[3].strip(), imports)
                if label[1] in found:
                    raise ValueError(f"{page.path}: {label[1]} occurs twice")
                found[label[1]] = current
            else:
                current = found.get(match[3].strip())
                if current is None:
                    raise ValueError(f"{page.path}: no exercise {match[3].strip()}")
        if gate == "exercise" and current:
            current.statement += text[end:]
    if gate:
        raise ValueError(f"{page.path}: a {gate} gate is never closed")
    return list(found.values())


def import_lines(source: str) -> str:
    """The import statements of a cell; "" if there are none."""
    with contextlib.suppress(SyntaxError):
        nodes = ast.parse(source).body
        kept = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
        return "\n".join(map(ast.unparse, kept))
    return ""


@functools.cache
def all_on_pages(root: Path = ROOT, names: tuple[str, ...] = ()) -> dict[str, OnPage]:
    """Every exercise of the book, by the name of its check.

    With ``names``, of the pages only that hold those.
    """
    pages = [Page(root, name) for name in pages_on_disk(root)]
    if names:
        pages = [p for p in pages if any(f"check.{name}(" in p.text for name in names)]
    return {found.name: found for page in pages for found in on_page(page)}


def all_exercises() -> dict[str, Exercise]:
    """Every exercise that the package checks, by name."""
    return {e.name: e for group in exercises().values() for e in group}


def orphans(pages: dict[str, OnPage], known: dict[str, Exercise]) -> list[str]:
    """Gate G12: what lacks a check, a solution, wrong answers, hints, or a page."""
    problems = []
    for name in sorted(pages.keys() - known.keys()):
        problems.append(f"{pages[name].label} on {pages[name].page.path} has no check")
    for name in sorted(known.keys() - pages.keys()):
        problems.append(f"the check {name} stands on no page")
    for name in sorted(known.keys() & pages.keys()):
        problems += [f"{name}: {said}" for said in incomplete(pages[name], known[name])]
    return problems


def incomplete(page: OnPage, exercise: Exercise) -> Iterator[str]:
    """What one exercise lacks."""
    slug = page.page.docname.rpartition("/")[2].replace("-", "_")
    if exercise.chapter != slug:
        yield f"is in {exercise.chapter}.py, and its page is {page.page.path}"
    for place, count in (("stub", 1), ("check", 1)):
        if len(getattr(page, place)) != count:
            yield f"has {len(getattr(page, place))} cells tagged {place}, not {count}"
    if page.check and f"check.{exercise.name}(" not in page.check[0]:
        yield f"its check cell does not call check.{exercise.name}"
    if not page.solution:
        yield "has no solution cell"
    if len(exercise.wrong) < 2:
        yield f"has {len(exercise.wrong)} wrong answers, at least 2 are needed"
    if not exercise.hints.get("*"):
        yield "has no hint under '*'"
    if not exercise.not_checked:
        yield "does not say what it cannot see (not_checked)"
    if exercise.kind in CODE and not exercise.also_right:
        yield "has no other right answer"
    known = {wrong.finding for wrong in exercise.wrong} | ENGINE_FINDINGS | {"*"}
    for key in exercise.hints.keys() - known:
        yield f"has hints for {key!r}, which no wrong answer produces"
    if exercise.kind in ("choice", "order"):
        letters = {w.source.split('"')[1] for w in exercise.wrong}
        for letter in sorted({x for x in letters if len(x) == 1 and x.isalnum()}):
            if f"**{letter}**" not in page.statement:
                yield f"option **{letter}** is not in the statement"


class Answers:
    """Makes answers to one exercise from source text, as a page or a student would."""

    def __init__(self, page: OnPage, work: Path) -> None:
        self.page = page
        self.work = work
        self.count = itertools.count()

    @functools.cached_property
    def before(self) -> dict[str, Any]:
        """What an answer may use: the page's imports, and what the exercise gives."""
        names: dict[str, Any] = {"work": self.work, "__name__": "__main__"}
        self.run(self.page.imports, names)
        for source in self.page.given:
            self.run(source, names)
        return names

    def make(self, source: str) -> Any:
        """The answer: what the check cell hands to its check after ``source``."""
        names = dict(self.before)
        if match := WRITEFILE.match(source):
            folder = self.work / str(next(self.count))
            folder.mkdir()
            (folder / match[1]).write_text(source[match.end() :], "utf-8")
            names["work"] = folder
        else:
            self.run(source, names)
        expression = ast.Expression(self.page.call.args[0])
        return eval(compile(expression, "<check>", "eval"), names)

    def run(self, source: str, names: dict[str, Any]) -> None:
        """Execute; the source can be looked up afterwards, as IPython's can."""
        file = f"<answer {self.page.name} {next(self.count)}>"
        lines = source.splitlines(keepends=True)
        linecache.cache[file] = (len(source), None, lines, file)
        with contextlib.redirect_stdout(None):
            exec(compile(source, file, "exec"), names)


def patched(solution: str, answer: Wrong | Right) -> str:
    """The source of a further answer. Raises ValueError if a patch fits no more."""
    if answer.source:
        return textwrap.dedent(answer.source).strip("\n") + "\n"
    source = solution
    for old, new in answer.patch:
        if old not in source:
            raise ValueError(f"the patch of {answer.name!r} fits no more: {old!r}")
        source = source.replace(old, new)
    return source


def prove(page: OnPage, exercise: Exercise, full: bool = False) -> Proof:
    """Run the gates G1 and G3 to G9 on one exercise.

    ``full`` runs a live exercise as often as the others, and mutates it too.
    """
    proof = Proof(exercise)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        gates = Gates(page, exercise, Answers(page, Path(folder)), proof, full)
        try:
            gates.run()
        except ValueError as error:
            proof.problems.append(str(error))
    proof.seconds = time.perf_counter() - started
    return proof


@dataclass
class Gates:
    """The gates over one exercise; each adds to ``proof``."""

    page: OnPage
    exercise: Exercise
    answers: Answers
    proof: Proof
    full: bool

    def run(self) -> None:
        """All of them, in order."""
        once = self.exercise.live and not self.full
        self.stub()
        self.solution(SOLUTION_SEEDS if not once else range(1))
        self.wrong(WRONG_SEEDS if not once else range(1))
        self.right()
        self.universal()
        self.dead_messages()
        if self.exercise.kind in MUTATED and not once:
            self.mutants(WRONG_SEEDS if not self.exercise.live else range(1))
        self.wording()

    def problem(self, gate: str, text: str) -> None:
        """Record what a gate found."""
        self.proof.problems.append(f"{gate} {self.exercise.name}: {text}")

    def judge(self, source: str, seed: int = 0) -> Result:
        """The result for a source text."""
        return self.exercise.try_out(
            self.answers.make(source), seed, apart=self.exercise.live
        )

    def stub(self) -> None:
        """G1: the page's stub is *Not started*."""
        result = self.judge(self.page.stub[0])
        if result.status is not Status.NOT_STARTED:
            digest = stub_digest(self.page)
            self.problem("G1", f"the stub gives\n{result!r}\n(digest {digest})")

    def solution(self, seeds: range) -> None:
        """G3: the page's solution passes, whatever the seed."""
        for seed in seeds:
            result = self.judge(self.page.answer, seed)
            if not result.passed:
                self.problem("G3", f"the solution, seed {seed}:\n{result!r}")
                return
        if not self.exercise.live:
            # As a notebook has it, and live ones always: in a process of its own.
            apart = self.exercise.try_out(self.answers.make(self.page.answer))
            if not apart.passed:
                self.problem("G3", f"the solution, in a process of its own:\n{apart!r}")
        self.proof.messages.append(("the page's solution", result))

    def wrong(self, seeds: range) -> None:
        """G4: each wrong answer gets its own finding."""
        for wrong in self.exercise.wrong:
            source = patched(self.page.answer, wrong)
            for seed in seeds:
                result = self.judge(source, seed)
                found = result.finding.id if result.finding else ""
                failed = result.status in (Status.NOT_YET, Status.STOPPED)
                if self.exercise.kind == "prediction":
                    failed = True  # a guess that is far off counts, with its finding
                if not failed or found != wrong.finding:
                    self.problem(
                        "G4",
                        f"{wrong.name!r} must find {wrong.finding!r}, "
                        f"seed {seed} finds {found!r}:\n{result!r}",
                    )
                    break
                if seed == seeds[0]:
                    self.proof.messages.append((wrong.name, result))
            else:
                self.proof.wrong_caught.append(wrong.name)

    def right(self) -> None:
        """G5: other right answers pass."""
        for right in self.exercise.also_right:
            result = self.judge(patched(self.page.answer, right))
            if result.passed:
                self.proof.right_accepted += 1
            else:
                self.problem("G5", f"{right.name!r} is right:\n{result!r}")

    def universal(self) -> None:
        """G6: whatever is handed in, the answer keeps its form."""
        for name, thing in battery.answers(self.exercise, self.answers.work):
            result = self.exercise.try_out(thing, apart=self.exercise.live)
            if result.status in (Status.DONE, Status.BROKE):
                self.problem("G6", f"{name}:\n{result!r}")

    def dead_messages(self) -> None:
        """G7: every finding that the check can make is made by a wrong answer."""
        made = {wrong.finding for wrong in self.exercise.wrong}
        for id in sorted(finding_ids(self.exercise) - made):
            self.problem("G7", f"no wrong answer produces {id!r}")

    def mutants(self, seeds: range) -> None:
        """G8: every small change of the solution is caught, or listed with a reason."""
        unused = set(self.exercise.equivalent)
        for text, source in mutants(self.page.answer):
            self.proof.mutants += 1
            if text in self.exercise.equivalent:
                unused.discard(text)
                self.proof.equivalent += 1
                continue
            try:
                results = [self.judge(source, seed) for seed in seeds]
            except Exception:
                continue  # it does not even define the answer
            if any(result.passed for result in results):
                self.problem("G8", f"this mutant of the solution passes: {text!r}")
            if any(result.status is Status.BROKE for result in results):
                self.problem("G8", f"the checker breaks on {text!r}:\n{results[0]!r}")
        for text in sorted(unused):
            self.problem("G8", f"listed as equivalent, and no mutant: {text!r}")

    def wording(self) -> None:
        """G9: the messages keep to the style, and do not give the solution away."""
        for name, result in self.proof.messages:
            for said in badly_worded(result, self.page.answer):
                self.problem("G9", f"{name!r}: {said}")
        for key, ladder in self.exercise.hints.items():
            for hint in ladder:
                if match := FORBIDDEN.search(hint):
                    self.problem("G9", f"hint {key!r} says {match[0]!r}")


def badly_worded(result: Result, solution: str) -> Iterator[str]:
    """What the style has against a message."""
    fields = [text for _, text in result.lines] + list(result.good)
    for text in fields:
        words = re.sub(r"`[^`]*`", "", text)
        if match := FORBIDDEN.search(words):
            yield f"says {match[0]!r}: {text}"
    if result.finding:
        finding = result.finding
        if not re.search(r"`[^`]+`|\d", finding.what):
            yield f"names no value: {finding.what}"
        if not finding.do:
            yield "has no *Try next*"
        for text in (finding.what, finding.why, finding.do):
            if len(re.sub(r"`[^`]*`", "code", text).split()) > MAX_WORDS:
                yield f"is longer than {MAX_WORDS} words: {text}"
        for line in solution_lines(solution):
            if line in finding.do or line in finding.why:
                yield f"gives a line of the solution: {line}"
    if len(repr(result).splitlines()) > MAX_ROWS:
        yield f"needs more than {MAX_ROWS} rows"


def solution_lines(solution: str) -> list[str]:
    """The lines of a solution that a message may not give away."""
    lines = (line.strip() for line in solution.splitlines())
    return [
        line
        for line in lines
        if len(line) > MIN_SOLUTION_LINE and not line.startswith(("def ", "import "))
    ]


def finding_ids(exercise: Exercise) -> set[str]:
    """The findings that a check's code can make, its helpers in the module included.

    Raises ValueError if one is not written out as a text.
    """
    if exercise.kind in ("choice", "order", "prediction", "words"):
        return set()  # made by kinds.py together with their wrong answers
    ids = set()
    for part in check_parts(exercise.check):
        for node in ast.walk(part):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                place = {"need": 1, "stop": 0}.get(node.func.attr)
                on_trial = getattr(node.func.value, "id", "") == "t"
                if place is None or not on_trial:
                    continue
                id = node.args[place] if len(node.args) > place else None
                if not isinstance(id, ast.Constant):
                    raise ValueError(
                        f"{exercise.name}: a finding's id must be written out "
                        f"(line {node.lineno} of its chapter)"
                    )
                ids.add(id.value)
    return ids


COMPARE = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}
DROPPED = {"abs", "round", "sorted", "int", "float", "ceil"}


def mutants(solution: str) -> list[tuple[str, str]]:
    """Small changes of a program: (the changed statement, the whole source)."""
    tree = ast.parse(solution)
    found = []
    for statement in [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]:
        for node in own_nodes(statement):
            for change in changes(node):
                mutant = changed_copy(tree, statement, node, change)
                if mutant is not None:
                    found.append(mutant)
    return list(dict.fromkeys(found))


def own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a statement, without those of statements inside it."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return
    if is_docstring(statement):
        return
    yield statement
    todo = list(ast.iter_child_nodes(statement))
    while todo:
        node = todo.pop(0)
        if isinstance(node, ast.stmt):
            continue
        yield node
        todo += ast.iter_child_nodes(node)


def is_docstring(statement: ast.stmt) -> bool:
    """A text that stands alone."""
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(value, ast.Constant)


def changes(node: ast.AST) -> list[Callable[[Any], Any]]:
    """Functions that change a copy of the node in place, or return another one."""
    found: list[Callable[[Any], Any]] = []
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            if other := COMPARE.get(type(operator)):
                found.append(functools.partial(set_operator, place, other))
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        swapped = ARITHMETIC[type(node.op)]
        found.append(lambda n: setattr(n, "op", swapped()))
    if isinstance(node, ast.BoolOp):
        opposite = ast.Or if isinstance(node.op, ast.And) else ast.And
        found.append(lambda n: setattr(n, "op", opposite()))
    if isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            found.append(lambda n: setattr(n, "value", not n.value))
        elif isinstance(node.value, int | float):
            found.append(lambda n: setattr(n, "value", n.value + 1))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        found.append(lambda n: n.operand)
    if isinstance(node, ast.If | ast.IfExp | ast.While):
        found.append(negate)
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in CALLS and isinstance(node.func, ast.Name):
            found.append(lambda n: setattr(n.func, "id", CALLS[name]))
        if name in DROPPED and node.args:
            found.append(lambda n: n.args[0])
    return found


def set_operator(place: int, operator: type[ast.cmpop], node: ast.Compare) -> None:
    """Change one operator of a comparison."""
    node.ops[place] = operator()


def negate(node: Any) -> None:
    """Change the sense of a condition."""
    node.test = ast.UnaryOp(ast.Not(), node.test)


def changed_copy(
    tree: ast.Module, statement: ast.stmt, node: ast.AST, change: Callable[[Any], Any]
) -> tuple[str, str] | None:
    """The program with one node changed: (changed statement's first line, source)."""
    order = list(ast.walk(tree))
    twin_tree = copy.deepcopy(tree)
    twins = list(ast.walk(twin_tree))
    twin = twins[order.index(node)]
    twin_statement = twins[order.index(statement)]
    other = change(twin)
    if other is not None:
        replace(twin_tree, twin, other)
    source = ast.unparse(ast.fix_missing_locations(twin_tree))
    lines = ast.unparse(twin_statement).splitlines()
    return next(line for line in lines if not line.startswith("@")), source


def replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    """Put another node in the place of one."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
            elif isinstance(value, list) and old in value:
                value[value.index(old)] = new


def stub_digest(page: OnPage) -> str:
    """The digest of a stub, as ``starting`` wants it."""
    source = page.stub[0]
    if match := WRITEFILE.match(source):
        return source_digest(source[match.end() :])
    return source_digest(source)


def golden(proof: Proof) -> list[str]:
    """The messages of an exercise, to be read by people, and compared.

    Of a live exercise without what happened, which differs from run to run.
    """
    parts = []
    for name, result in proof.messages:
        text = f"=== {proof.exercise.name}: {name}\n{result!r}\n"
        if proof.exercise.live:
            text = re.sub(r"/\S*/check-[\w-]+", "FOLDER", " ".join(text.split()))
            text = re.sub(r"\d+([.,]\d+)*", "#", text) + "\n"
            text = re.sub(HAPPENED, "", text)
        parts.append(text)
    return parts


def main(arguments: list[str]) -> int:
    """Run the gates asked for; 0 if nothing fails."""
    wanted = tuple(a for a in arguments if not a.startswith("--"))
    pages, known = all_on_pages(names=wanted), all_exercises()
    if arguments[:1] == ["--digest"]:
        for name in arguments[1:]:
            print(name, stub_digest(pages[name]))
        return 0
    write = arguments[:1] == ["--messages"]
    names = list(wanted) or sorted(known)
    problems = [] if wanted else orphans(pages, known)
    proofs = []
    for name in names:
        proof = prove(pages[name], known[name])
        proofs.append(proof)
        problems += proof.problems
        print(
            f"{proof.seconds:6.2f} s  {name}: {len(proof.wrong_caught)} wrong answers, "
            f"{proof.right_accepted} other right ones, {proof.mutants} mutants "
            f"({proof.equivalent} equivalent)",
            flush=True,
        )
    print("\n".join(problems))
    if write and not problems:
        (ROOT / GOLDEN).mkdir(exist_ok=True)
        for chapter, group in exercises().items():
            mine = [p for p in proofs if p.exercise in group]
            if len(mine) < len(group):
                continue  # not all of its exercises were asked for
            parts = [part for proof in mine for part in golden(proof)]
            (ROOT / GOLDEN / f"{chapter}.txt").write_text("\n".join(parts), "utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
