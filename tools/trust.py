"""Write the trust page: what each exercise check was seen to catch.

    python tools/trust.py [--root DIR]

Runs the gates of tools/proof.py on every exercise whose page, check or engine has
changed since the last time, and writes book/reference/trust.md. Exits 1, and prints
why, if a gate fails.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import proof
from pages import TOOLS, Page, files_digest, pages_in_toc
from proof import OnPage, Proof

from deploylab.exercises import sandbox
from deploylab.exercises.engine import Exercise

PAGE = Path("book", "reference", "trust.md")
KEPT = Path("_build", "trust")

INTRODUCTION = TOOLS / "trust.md"


def main() -> int:
    """Write the page; 0 if every gate holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=proof.ROOT)
    root = parser.parse_args().root.resolve()
    pages, known = proof.all_on_pages(root), proof.all_exercises()
    problems = proof.orphans(pages, known)
    if not problems:
        # A process for each core: the gates of one exercise wait for no other's. A
        # fork has the pages already; where none is safe, one after another.
        if sandbox.CAN_FORK:
            fork = multiprocessing.get_context("fork")
            with ProcessPoolExecutor(os.cpu_count(), mp_context=fork) as pool:
                found = list(pool.map(proved_by_name, itertools.repeat(root), pages))
        else:
            found = [proved_by_name(root, name) for name in pages]
        facts = {name: its for name, (its, _) in zip(pages, found, strict=True)}
        problems += itertools.chain.from_iterable(new for _, new in found)
    if problems:
        print("\n".join(problems))
        return 1
    text = page_text(root, pages, known, facts)
    target = root / PAGE
    if not target.exists() or target.read_text("utf-8") != text:
        target.write_text(text, "utf-8")
    return 0


@functools.cache
def shared_digest(root: Path) -> str:
    """Digest of what all proofs rest on: the package, and the gates."""
    rests_on = [root / "deploylab", TOOLS / "proof.py", TOOLS / "battery.py"]
    return files_digest(rests_on, sys.version)


def proved_by_name(root: Path, name: str) -> tuple[dict, list[str]]:
    """See `proved`."""
    page, exercise = proof.all_on_pages(root)[name], proof.all_exercises()[name]
    return proved(root, page, exercise)


def proved(root: Path, page: OnPage, exercise: Exercise) -> tuple[dict, list[str]]:
    """What the proof of an exercise found, and its problems.

    Kept from before if neither the page's cells, nor the package, nor the gates have
    changed since; only a proof without problems is kept. A live exercise is not
    proved here, since each of its answers starts processes: the tests do that, and
    the page says so.
    """
    if exercise.live:
        return declared(exercise), []
    parts = [page.imports, page.statement, page.given, page.stub, page.check]
    content = json.dumps([shared_digest(root), *parts, page.solution])
    key = hashlib.sha256(content.encode()).hexdigest()
    kept = root / KEPT / f"{exercise.name}.json"
    if kept.exists():
        facts = json.loads(kept.read_text("utf-8"))
        if facts["key"] == key:
            return facts, []
    found = proof.prove(page, exercise)
    facts = {"key": key, **facts_of(found)}
    print(f"{found.seconds:6.1f} s  gates of {exercise.name}", flush=True)
    if not found.problems:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(facts), "utf-8")
    return facts, found.problems


def declared(exercise: Exercise) -> dict:
    """What the tests prove of a live exercise (tests/test_proof.py)."""
    return {
        "wrong": [wrong.name for wrong in exercise.wrong],
        "right": len(exercise.also_right),
        "mutants": 0,
        "equivalent": 0,
    }


def facts_of(found: Proof) -> dict:
    """What the page says of a proof."""
    return {
        "wrong": found.wrong_caught,
        "right": found.right_accepted,
        "mutants": found.mutants,
        "equivalent": found.equivalent,
    }


def page_text(
    root: Path,
    pages: dict[str, OnPage],
    known: dict[str, Exercise],
    facts: dict[str, dict],
) -> str:
    """The page, exercises in the order of the book."""
    parts = [INTRODUCTION.read_text("utf-8"), summary(known, facts)]
    for docname in pages_in_toc(root):
        here = [page for page in pages.values() if page.page.docname == docname]
        if here:
            parts.append(f"## {title(Page(root, docname))}\n")
        for page in here:
            parts.append(entry(page, known[page.name], facts[page.name]))
    return "\n".join(parts)


def title(page: Page) -> str:
    """The first heading of a page."""
    lines = page.text.splitlines()
    return next(line[2:].strip() for line in lines if line.startswith("# "))


def summary(known: dict[str, Exercise], facts: dict[str, dict]) -> str:
    """The counts over all exercises."""
    mutated = sum(each["mutants"] for each in facts.values())
    equivalent = sum(each["equivalent"] for each in facts.values())
    rows = [
        ("exercises", len(facts)),
        ("types of exercise", len({known[name].kind for name in facts})),
        ("listed mistakes caught, with the finding listed for each",
         sum(len(facts[name]["wrong"]) for name in facts if not known[name].live)),
        ("the same in exercises that start processes, run by the tests",
         sum(len(facts[name]["wrong"]) for name in facts if known[name].live)),
        ("other right answers accepted", sum(e["right"] for e in facts.values())),
        ("mutants caught", f"{mutated - equivalent} of {mutated}"),
        ("mutants listed as equivalent, with a reason", equivalent),
    ]  # fmt: skip
    lines = [f"| {what} | {count} |" for what, count in rows]
    return "\n".join(["| what | count |", "|---|---|", *lines, ""])


def entry(page: OnPage, exercise: Exercise, facts: dict) -> str:
    """What is known of one check."""
    lines = [f"{{ref}}`{page.title} <{page.label}>` ({exercise.kind})"]
    lines.append(f": Caught: {'; '.join(facts['wrong'])}.")
    if exercise.also_right:
        names = "; ".join(right.name for right in exercise.also_right)
        lines.append(f": Accepted: {names}.")
    if exercise.live:
        mutated = "; mutants in `make soak`" if exercise.kind in proof.MUTATED else ""
        lines.append(f": Run by the tests, since it starts processes{mutated}.")
    elif facts["mutants"]:
        caught = facts["mutants"] - facts["equivalent"]
        lines.append(f": Mutants: {caught} of {facts['mutants']} caught.")
    for text, reason in exercise.equivalent.items():
        lines.append(f": Equivalent: `{text}`, because {reason}.")
    lines.append(f": Not checked: {exercise.not_checked}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
