"""The student edition: each form has a plain one, each fault is told, nothing leaks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pages
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager
from make_notebooks import NOTEBOOKS, all_notebooks, make_notebooks
from nbformat import NotebookNode
from student import (
    KERNEL,
    SYNTAX,
    Book,
    Converter,
    StudentError,
    chosen_lines,
    fenced,
    first_heading,
    leaks,
    python_object,
    read_toc,
    student_notebook,
    svg_on_paper,
)

ROOT = Path(__file__).resolve().parent.parent
BOOK = Book(ROOT)
CHAPTERS = [c.docname for c in BOOK.chapters if c.docname in BOOK.pages]
CHAPTERS.remove(BOOK.landing)

HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

(serve)=
# Serve a model, and keep the promise

<!--
Objectives: for authors only.
-->

% a comment for authors
"""

IMPORTS = """
```{code-cell} ipython3
import json

from myst_nb import glue

from deploylab import check
```
"""

EXERCISE = """
```{exercise-start} Two of everything
:label: ex-hours-down
```

How many *hours* a year remain? See {ref}`score` and {cite}`crouch`.

```python
print("a fence in the statement")
```

```{code-cell} ipython3
given = {"parts": 7}
```

```{code-cell} ipython3
:tags: [stub]
def hours_down(parts, each, copies=1):
    ...
```

```{code-cell} ipython3
:tags: [check]
check.hours_down(hours_down)
```

```{exercise-end}
```
"""

SOLUTION = """
```{solution-start} ex-hours-down
:class: dropdown
```

```{code-cell} ipython3
:tags: [solution]
def hours_down(parts, each, copies=1):
    works = 1 - (1 - each) ** copies
    return (1 - works**parts) * 365.25 * 24
```

Twins that fail together are no twins.

```{code-cell} ipython3
:tags: [solution]
check.hours_down(hours_down)
```

```{code-cell} ipython3
:tags: [solution, remove-cell, claim]
assert hours_down(7, 0.999, 2) < 1
```

```{solution-end}
```
"""

PAGE = HEADER + IMPORTS + EXERCISE + SOLUTION + "\n## Afterwards\n\nThe end.\n"

SCORE = """(score)=
# Score the model

A page without code.
"""

BIB = """@article{crouch,
  author = {Crouch, Catherine and Fagen, Adam P. and Mazur, Eric},
  title = {Demonstrations}, year = {2004}, doi = {10.1119/1.1707018}}
@misc{python, author = {{Python Software Foundation}}, title = {pickle},
  year = {2026}, url = {https://docs.python.org}}
@article{dean, author = {Dean, Jeffrey and Barroso, Luiz Andr{\\'e}},
  title = {Tail}, year = {2013}}
"""

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 30"
  fill="currentColor"><!-- by hand --><path class="stroke-1" d="M0 0h9"/></svg>"""

LISTING = '''import flask


@decorate
def create_app(name):
    """Has ``` in it."""
    return flask.Flask(name)


class Model:
    def load(self):
        return 1
'''


@pytest.fixture
def make(tmp_path: Path):
    """Write a book with this page in it; give its student edition."""
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts:\n  - caption: Serving\n"
        "    chapters:\n      - file: book/serving/serve\n"
        "      - file: book/start/score\n"
    )
    (tmp_path / "references.bib").write_text(BIB)
    for name, text in {
        "_config.yml": "title: The Lab\n",
        "book/index.md": "(index)=\n# The Lab\n",
        "book/start/score.md": SCORE,
        "book/listings/app.py": LISTING,
        "images/box.svg": SVG,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "book/serving").mkdir()

    def edition(page: str, edition: str = "local") -> NotebookNode:
        (tmp_path / "book/serving/serve.md").write_text(page)
        return student_notebook(Book(tmp_path), "book/serving/serve", edition)

    edition.root = tmp_path
    return edition


def text_of(notebook: NotebookNode) -> str:
    """The text cells, one below the other."""
    return "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def code_of(notebook: NotebookNode) -> list[str]:
    return [c.source for c in notebook.cells if c.cell_type == "code"]


# The whole page ---------------------------------------------------------------------


def test_a_page_in_the_agreed_format_becomes_a_plain_notebook(make):
    notebook = make(PAGE)
    assert code_of(notebook) == [
        "import json\n\nfrom deploylab import check",
        'given = {"parts": 7}',
        "def hours_down(parts, each, copies=1):\n    ...",
        "check.hours_down(hours_down)",
        "check.progress()",
    ]
    text = text_of(notebook)
    first = notebook.cells[0].source
    assert first.startswith("# Serve a model, and keep the promise\n\n")
    assert text.count("# Serve a model") == 1
    for words in ("check.name(answer)", "check.name.hint()", "check.progress()"):
        assert words in first
    assert "### Your turn: Two of everything\n\nHow many *hours* a year" in text
    assert '```python\nprint("a fence in the statement")\n```' in text
    assert "See [Score the model](../start/score.ipynb) and " in text
    assert "([Crouch et al., 2004](https://doi.org/10.1119/1.1707018))." in text
    assert text.count("The solution is folded, on") == 1
    assert "## Afterwards\n\nThe end." in text
    for gone in ("Twins", "works**parts", "Objectives", "for authors", "(serve)="):
        assert gone not in text + "".join(code_of(notebook))
    assert leaks(PAGE, notebook) == []


def test_the_notebook_opens_anywhere_and_is_the_same_each_time(make):
    notebook = make(PAGE)
    nbformat.validate(notebook)
    assert notebook.metadata["kernelspec"] == KERNEL
    assert notebook.metadata["language_info"]["name"] == "python"
    assert all(c.outputs == [] for c in notebook.cells if c.cell_type == "code")
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook == make(PAGE)
    # A new sentence leaves the ids of the other cells as they were.
    changed = make(PAGE.replace("The end.", "The very end."))
    assert len(set(ids) - {cell.id for cell in changed.cells}) == 1


def test_tags_that_a_run_needs_stay_and_folded_code_is_folded(make):
    cells = "\n".join(
        f"```{{code-cell}} ipython3\n:tags: [{tags}]\n\nx = {n}\n```\n"
        for n, tags in enumerate(
            ("live, remove-output", "raises-exception", "hide-input", "remove-cell")
        )
    )
    made = make(HEADER + cells).cells[1:-1]
    assert [dict(cell.metadata) for cell in made] == [
        {"tags": ["live"]},
        {"tags": ["raises-exception"]},
        {"jupyter": {"source_hidden": True}},
    ]


def test_an_old_page_loses_its_solutions_too(make):
    old = HEADER + (
        "```{exercise} Try\n:label: ex-try\nThe statement with {glue:text}`n`.\n```\n\n"
        "````{solution-start} ex-try\n:class: dropdown\n````\n\n"
        "```{code-cell} ipython3\nanswer_of_the_page = 42\n```\n\n"
        "## A heading in the solution\n\n````{solution-end}\n````\n\nAfter it.\n"
    )
    notebook = make(old)
    assert "### Your turn: Try\n\nThe statement with **[n]**." in text_of(notebook)
    assert "After it." in text_of(notebook)
    assert "heading in the solution" not in text_of(notebook)
    assert code_of(notebook) == []
    assert "check.name" not in text_of(notebook), "the page has no checks"
    assert leaks(old, notebook) == []


def test_a_plain_solution_block_goes_as_well(make):
    page = HEADER + (
        "```{exercise} Try\n:label: ex-try\nThe statement.\n```\n\n"
        "````{solution} ex-try\nA secret in the solution.\n```python\n1\n```\n````\n"
    )
    notebook = make(page)
    assert "secret" not in text_of(notebook)
    assert leaks(page, notebook) == []


# The plain forms --------------------------------------------------------------------

TRUST = first_heading(ROOT / "tools/trust.md")

FORMS = {
    "note": ("```{note}\nMind *this*.\n```", "> **Note**\n>\n> Mind *this*."),
    "admonition": (
        ":::{admonition} Predict first\n:class: hint\nHow many?\n\n- one\n:::",
        "> **Predict first**\n>\n> How many?\n>\n> - one",
    ),
    "nested": (
        "````{warning}\n```{note}\nInner.\n```\n````",
        "> **Warning**\n>\n> > **Note**\n> >\n> > Inner.",
    ),
    "quoted end": ("```{tip}\nIt is a -> b >\n```", "> It is a -> b >"),
    "definition": ("What it is\n: A thing.\n\n  More.", "**What it is**\n\nA thing."),
    "glossary": (
        "```{glossary}\nhealth\n  Alive.\n\nready\n  May be {term}`sent`.\n```",
        "**health**\n\nAlive.\n\n**ready**\n\nMay be sent.",
    ),
    "include": (
        "```{literalinclude} ../listings/app.py\n:pyobject: create_app\n"
        ":caption: book/listings/app.py\n```",
        "**book/listings/app.py**\n\n````python\n@decorate\ndef create_app(name):\n"
        '    """Has ``` in it."""\n    return flask.Flask(name)\n````',
    ),
    "lines": (
        "```{literalinclude} /book/listings/app.py\n:lines: 1, 10-11\n"
        ":language: python\n```",
        "```python\nimport flask\nclass Model:\n    def load(self):\n```",
    ),
    "a method": (
        "```{literalinclude} /book/listings/app.py\n:lines: 11\n:dedent:\n```",
        "```python\ndef load(self):\n```",
    ),
    "caption with a role": (
        '```{code-block} text\n:caption: {cite}`dean` said: "it\'s so"\n\nx\n```',
        '**(Dean and Barroso, 2013) said: "it\'s so"**\n\n```text\nx\n```',
    ),
    "code": ("```{code-block} console\n$ ls\n```", "```console\n$ ls\n```"),
    "fence in fence": (
        "````\n```{solution-start} x\n```\n````",
        "````\n```{solution-start} x\n```\n````",
    ),
    "math": ("```{math}\nx^2\n```", "$$\nx^2\n$$"),
    "math block": ("$$\nx^2\n$$ (eq-x)", "$$\nx^2\n$$"),
    "inline math": ("So $10^{-6}$, {math}`x^2`.", "So $10^{-6}$, $x^2$."),
    "table": (
        "| a | b |\n|---|---|\n| {ref}`score` | 1 |",
        "](../start/score.ipynb) | 1",
    ),
    "cite two": (
        "As {cite}`dean,python` say",
        "(Dean and Barroso, 2013; [Python Software Foundation, 2026]"
        "(https://docs.python.org))",
    ),
    "cite text": ("{cite:t}`dean` say", "Dean and Barroso (2013) say"),
    "ref title": (
        "the {ref}`words <score>` of",
        "the [words](../start/score.ipynb) of",
    ),
    "ref index": ("{ref}`index`", "[The Lab](../index.ipynb)"),
    "ref itself": ("as {ref}`serve` says", "*Serve a model, and keep the promise*"),
    "doc": ("{doc}`../start/score`", "[Score the model](../start/score.ipynb)"),
    "page link": ("[there](../start/score.md)", "[there](../start/score.ipynb)"),
    "outer link": ("[out](https://a.example/b)", "[out](https://a.example/b)"),
    "ref trust": ("the {ref}`trust` page", f"the *{TRUST}* page"),
    "glue": ("{glue:text}`n-rows:.2f` rows", "**[n-rows]** rows"),
    "glue block": ("```{glue} n-rows\n:doc: x.md\n```", "**[n-rows]**"),
    "term": ("a {term}`model server`", "a model server"),
    "abbreviation": ("{abbr}`SLO (objective)`", "SLO (objective)"),
    "download": ("{download}`it <x.py>`", "it"),
    "code span": ("write `` {ref}`a` `` so", "write `` {ref}`a` `` so"),
    "two lines": (
        "see {ref}`the\nscore <score>`.",
        "[the score](../start/score.ipynb)",
    ),
    "block break": ("a\n\n+++\n\nb", "a\n\nb"),
    "escape": (r"a \{ref}`x` b", r"a \{ref}`x` b"),
}


@pytest.mark.parametrize("name", FORMS)
def test_plain_form(make, name):
    written, expected = FORMS[name]
    notebook = make(f"{HEADER}\n{written}\n\nEnd.\n")
    assert expected in text_of(notebook)
    if name != "fence in fence":
        assert leaks("", notebook) == []


def test_a_hand_made_figure_carries_itself(make):
    notebook = make(
        HEADER + "```{figure} ../../images/box.svg\n:name: fig-box\n"
        ':alt: A box, "so".\n\nWhere {cite}`dean` fits.\n```\n\n'
        "See {numref}`fig-box`.\n"
    )
    text = text_of(notebook)
    assert '<img alt="A box, &quot;so&quot;." width="72" src="data:image/svg' in text
    assert "**Figure.** Where (Dean and Barroso, 2013) fits." in text
    assert "See the figure *Where (Dean and Barroso, 2013) fits*." in text
    assert leaks("", notebook) == []


def test_a_drawing_reads_on_white_whatever_the_theme(tmp_path):
    (tmp_path / "box.svg").write_text(SVG)
    data, width = svg_on_paper(tmp_path / "box.svg")
    drawing = data.decode()
    assert width == "72"
    assert "color:#14181e;background:#ffffff" in drawing
    assert ".stroke-1 { stroke: #0072b2; }" in drawing
    assert "var(" not in drawing
    assert "by hand" not in drawing


def test_the_caption_of_a_cell_and_what_it_shows_stand_below_it(make):
    cell = (
        "```{code-cell} ipython3\n---\nmystnb:\n  figure:\n    name: fig-gain\n"
        "    caption: Gain of {ref}`score`.\n  image:\n    alt: >-\n      Two rows\n"
        "      of dots.\ntags: [hide-input]\n---\nplot()\n```\n\n"
        "In {numref}`fig-gain` one sees it.\n"
    )
    notebook = make(HEADER + cell)
    _, code, below, _ = notebook.cells
    assert code.source == "plot()"
    assert below.source == (
        "**Figure.** Gain of [Score the model](../start/score.ipynb).\n\n"
        "What the picture shows: Two rows of dots.\n\n"
        "In the figure *Gain of [Score the model](../start/score.ipynb)* one sees it."
    )


def test_brackets_are_explained_where_there_are_any(make):
    assert "bold brackets" in text_of(make(HEADER + "There are {glue:text}`n`.\n"))
    assert "bold brackets" not in text_of(make(PAGE))


def test_the_way_back(make):
    page = "../../_build/html/book/serving/serve.html"
    text = text_of(make(PAGE))
    assert text.count(f"]({page})") == 2
    assert f"[the page]({page}#ex-hours-down)" in text
    assert "once `make book` has built it" in text
    text = text_of(make(PAGE, "download"))
    assert "_build" not in text
    assert ".ipynb" not in text, "what is taken away by itself has no siblings"
    assert "on the page: open it" in text
    config = "title: The Lab\nhtml:\n  baseurl: https://lab.example/book\n"
    (make.root / "_config.yml").write_text(config)
    base = "https://lab.example/book/book"
    for edition in ("local", "download"):
        text = text_of(make(PAGE, edition))
        assert text.count(f"]({base}/serving/serve.html)") == 2
    assert f"[Score the model]({base}/start/score.html)" in text


def test_colab_fetches_the_lab_and_nobody_else_does(make):
    def cell(edition: str) -> str:
        return code_of(make(PAGE, edition))[0]

    assert cell("download").startswith("import json"), "no address is known"
    config = "repository:\n  url: https://github.com/someone/lab\n  branch: dev\n"
    (make.root / "_config.yml").write_text(config)
    assert cell("local").startswith("import json")
    fetch = cell("download")
    assert "--branch dev https://github.com/someone/lab /content/lab" in fetch
    # IPython reads it, and here it does nothing.
    code = TransformerManager().transform_cell(fetch)
    exec(compile(code, "cell", "exec"), {})


def test_pieces():
    assert fenced("a\n````\nb") == "`````\na\n````\nb\n`````"
    assert python_object(LISTING, "Model.load") == "def load(self):\n    return 1"
    assert chosen_lines("a\nb\nc\nd", "-2, 4") == "a\nb\nd"
    for wrong in ("x", "3-9", "0", "2-1", ""):
        with pytest.raises(ValueError):
            chosen_lines("a\nb\nc\nd", wrong)


# Faults: each is told with its line and what to do ----------------------------------

CELL = "```{code-cell} ipython3\n:tags: [%s]\nx = 1\n```\n"
GATE = "```{exercise-start} T\n:label: ex-t\n```\n\n%s\n```{exercise-end}\n```\n"
ANSWER = "```{solution-start} %s\n```\n\nAnswer.\n\n```{solution-end}\n```\n"

FAULTS = {
    "solution outside": (CELL % "solution", "solution stands outside a solution"),
    "solution in exercise": (
        PAGE.replace("[stub]", "[solution]"),
        "solution stands outside a solution",
    ),
    "untagged in solution": (
        PAGE.replace(":tags: [solution]\ncheck.h", "check.h"),
        "in the solution of ex-hours-down is not tagged solution",
    ),
    "stub outside": (CELL % "stub", "tagged stub stands outside an exercise"),
    "check outside": (CELL % "check", "tagged check stands outside an exercise"),
    "two stubs": (
        PAGE.replace('given = {"parts', ':tags: [stub]\ngiven = {"parts'),
        "has a second cell tagged stub",
    ),
    "two checks": (
        PAGE.replace('given = {"parts', ':tags: [check]\ngiven = {"parts'),
        "has a second cell tagged check",
    ),
    "no check": (PAGE.replace(":tags: [check]\n", ""), "has no cell tagged check"),
    "no stub": (PAGE.replace(":tags: [stub]\n", ""), "has no cell tagged stub"),
    "unknown label": (
        PAGE.replace("solution-start} ex-hours-down", "solution-start} ex-hour"),
        "a solution for ex-hour,",
    ),
    "solution first": (ANSWER % "ex-t" + GATE % "", "a solution for ex-t,"),
    "no label": (GATE.replace(":label: ex-t\n", "") % "", "without a label"),
    "label twice": (GATE % "" + "\n" + GATE % "", "a second exercise is called ex-t"),
    "open exercise": (
        PAGE.replace("```{exercise-end}\n```\n", ""),
        "solution-start inside the exercise",
    ),
    "open solution": (
        PAGE.replace("```{solution-end}\n```\n", ""),
        "solution-start without solution-end",
    ),
    "end alone": ("```{solution-end}\n```\n", "solution-end out of nowhere"),
    "wrong end": (
        PAGE.replace("{solution-end}", "{exercise-end}"),
        "exercise-end inside solution-start",
    ),
    "text in a gate's block": (
        GATE.replace("ex-t\n", "ex-t\n\nLost words.\n") % "",
        "text inside the block exercise-start itself",
    ),
    "directive": ("```{mermaid}\na\n```", "directive {mermaid} has no plain form"),
    "solution in a note": (
        "````{note}\n```{solution-start} ex-t\n```\n````",
        "directive {solution-start} has no plain form",
    ),
    "cell in a note": (
        "````{note}\n```{code-cell} ipython3\n1\n```\n````",
        "directive {code-cell} has no plain form",
    ),
    "directive in a list": (
        "- a\n\n  ```{note}\n  b\n  ```\n",
        "a directive {note} inside a list",
    ),
    "role": ("A {fancy}`x`.", "role {fancy} has no plain form"),
    "ref": ("See {ref}`nowhere`.", "nothing is called nowhere"),
    "doc": ("See {doc}`nowhere`.", "there is no page nowhere"),
    "cite": ("See {cite}`nobody`.", "references.bib has no entry nobody"),
    "file": ("```{literalinclude} no.py\n```", "no.py is not there"),
    "object": (
        "```{literalinclude} ../listings/app.py\n:pyobject: gone\n```",
        "it has no gone",
    ),
    "option": (
        "```{literalinclude} ../listings/app.py\n:diff: x\n```",
        "no plain form with diff",
    ),
    "alt": ("![](../../images/box.svg)", "a picture without alt text"),
    "figure alt": ("```{figure} ../../images/box.svg\n```", "without alt text"),
    "link": ("[a](../gone.md)", "the link to ../gone.md has no plain form"),
    "glue": (
        "```{code-cell} ipython3\nglue('n', 1)\n```",
        "a visible cell uses glue",
    ),
    "cell option": ("```{code-cell} ipython3\n:load: x.py\n```", "option 'load'"),
    "yaml": ("```{code-cell} ipython3\n---\ntags: [a\n---\n1\n```", "not YAML"),
    "colon fence": (":::\nx\n:::", "a colon fence that is no directive"),
    "substitution": ("Say {{ x }}.", "a substitution within the text"),
    "comment": ("Say <!-- no --> it.", "a comment within the text"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(make, name):
    written, what = FAULTS[name]
    page = written if written.startswith("---") else f"{HEADER}\n{written}\n"
    with pytest.raises(StudentError) as caught:
        make(page)
    fault = next(fault for fault in caught.value.faults if what in fault)
    where, _, do = fault.partition("\n")
    line = int(re.match(r"book/serving/serve\.md:(\d+): ", where)[1])
    assert HEADER.count("\n") < line <= page.count("\n") + 1
    assert do.strip().endswith((".", "`")), "it says what to do"


def test_faults_name_the_line_of_the_mark(make):
    page = PAGE.replace("{solution-start} ex-hours-down", "{solution-start} ex-other")
    with pytest.raises(StudentError) as caught:
        make(page)
    line = page.split("{solution-start}")[0].count("\n") + 1
    assert caught.value.faults[0].startswith(f"book/serving/serve.md:{line}: ")


def test_a_page_without_title_and_all_faults_at_once(make):
    with pytest.raises(StudentError) as caught:
        make("No title, {ref}`a` and {ref}`b`.\n")
    assert len(caught.value.faults) == 3


# Gate G10: no leak ------------------------------------------------------------------


def seeded(notebook: NotebookNode, text: str, kind: str = "markdown") -> NotebookNode:
    """The notebook with one more cell."""
    notebook.cells.append(getattr(nbformat.v4, f"new_{kind}_cell")(text))
    return notebook


LEAKS = {
    "code": ("    works = 1 - (1 - each) ** copies", "code", "a line of a solution"),
    "prose": ("Twins that fail together are no twins.", "markdown", "a line of a"),
    "quoted": ("> Twins that fail together are no twins.", "markdown", "a line of a"),
    "mark": ("```{solution-start} ex\n```", "markdown", "{solution"),
    "mark in code": ("# ```{solution-end}", "code", "{solution"),
    "directive": ("```{note}\nx\n```", "markdown", "a directive {note}"),
    "colon directive": (":::{note}\nx\n:::", "markdown", "a colon_fence"),
    "quoted colons": ("> a\n> :::{note}", "markdown", "a colon fence"),
    "role": ("A {ref}`x`.", "markdown", "a role {ref}"),
    "target": ("(serve)=\n# A", "markdown", "a myst_target"),
    "comment": ("<!-- for authors -->", "markdown", "a comment"),
    "inline comment": ("a <!-- b --> c", "markdown", "a comment"),
    "line comment": ("% for authors", "markdown", "a myst_line_comment"),
    "definition": ("a\n: b", "markdown", "a dl_open"),
    "substitution": ("{{ x }}", "markdown", "substitution"),
    "glue": ("glue('n', 1)", "code", "glue"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_seeded_leak_is_red(make, name):
    text, kind, what = LEAKS[name]
    assert leaks(PAGE, make(PAGE)) == []
    found = leaks(PAGE, seeded(make(PAGE), text, kind))
    assert any(what in line for line in found), found


def test_a_solution_by_its_tag_and_an_output_are_leaks(make):
    notebook = make(PAGE)
    notebook.cells[2].metadata["tags"] = ["solution"]
    notebook.cells[4].outputs = [nbformat.v4.new_output("stream", text="4")]
    found = "\n".join(leaks(PAGE, notebook))
    assert "a cell tagged solution" in found
    assert "an output" in found


def test_what_the_page_shows_anyway_is_no_leak(make):
    shown = PAGE + "\nTwins that fail together are no twins.\n"
    assert leaks(shown, make(shown)) == []
    line = "    works = 1 - (1 - each) ** copies"
    notebook = seeded(make(PAGE), line, "code")
    assert leaks(PAGE, notebook, shown=line) == []


def test_a_generator_that_forgets_a_solution_is_caught(make, monkeypatch):
    """The gate reads the page by itself, so the generator's fault is not its own."""
    monkeypatch.setattr(
        Converter, "open_solution", lambda self, part: self.enter("", "", part)
    )
    monkeypatch.setattr(Converter, "close", lambda self, part: None)
    monkeypatch.setattr(Converter, "fits", lambda self, part, tags: True)
    monkeypatch.setattr(Converter, "enter", lambda self, *args: None)
    found = leaks(PAGE, make(PAGE))
    assert len(found) >= 3, found


# The real book ----------------------------------------------------------------------


def test_the_chapter_list_is_the_one_that_the_book_reads():
    assert [c.docname for c in BOOK.chapters] == pages.pages_in_toc(ROOT)
    assert {c.part for c in BOOK.chapters[1:]} > {"Start"}


def test_nested_chapters_are_read_in_order(tmp_path):
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nchapters:\n  - file: book/a.md\n"
        "    sections:\n      - file: book/b\n  - url: https://a.example\n"
        "    title: out\n  - file: book/c\n"
    )
    found = [c.docname for c in read_toc(tmp_path)]
    assert (
        found
        == pages.pages_in_toc(tmp_path)
        == "book/index book/a book/b book/c".split()
    )


@pytest.mark.parametrize("text", ["[", "parts: 3", "root: a\nchapters:\n  - x: 1"])
def test_a_broken_chapter_list_is_an_error(tmp_path, text):
    (tmp_path / "_toc.yml").write_text(text)
    with pytest.raises(ValueError, match=r"_toc\.yml cannot be read"):
        read_toc(tmp_path)


def test_the_syntax_is_the_one_that_the_book_turns_on():
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    assert set(config["parse"]["myst_enable_extensions"]) == SYNTAX


@pytest.mark.parametrize("docname", CHAPTERS)
def test_real_page(docname):
    """Gate G10, and what a notebook must be to open anywhere."""
    converter = Converter(BOOK, BOOK.pages[docname], "local")
    notebook = converter.notebook()
    nbformat.validate(notebook)
    page = BOOK.pages[docname]
    assert leaks(page.text, notebook, "\n".join(converter.included)) == []
    for cell in notebook.cells:
        assert str(ROOT) not in cell.source
        if cell.cell_type == "markdown":
            for image in re.findall(r"<img[^>]*>", cell.source):
                assert re.match(r'<img alt="[^"]{20,}"', image), image[:80]
                assert 'src="data:image/' in image
            assert not re.search(r"!\[", cell.source)
    # Every cell that a reader of the page sees, and not one more. The page's cells
    # are read here by what puts them on the page.
    shown = [
        re.sub(r"from myst_nb import glue\n", "", cell.source).strip()
        for cell in pages.Page(ROOT, docname).cells
        if "remove-cell" not in cell.tags
    ]
    kept = code_of(notebook)
    if page.is_checked:
        assert kept.pop() == "check.progress()"
    missing = [source for source in shown if source not in kept]
    assert [source for source in kept if source not in shown] == []
    solutions = page.text.count("{solution-start}")
    assert bool(missing) <= bool(solutions)
    for source in missing:
        assert any(line in page.text for line in source.splitlines())


def test_no_link_of_a_notebook_is_broken():
    made = all_notebooks(BOOK)
    for path, notebook in made.items():
        for address in re.findall(r"\]\(([^)]*\.ipynb)\)", text_of(notebook)):
            there = os.path.normpath(path.parent / address)
            assert Path(there) in made, (path, address)


LIGHT = """
import builtins, sys
real = builtins.__import__
def light(name, *args, **kwargs):
    if name.partition(".")[0] in ("sphinx", "myst_nb", "myst_parser", "docutils",
                                  "jupyter_book", "sphinx_external_toc", "bs4"):
        raise ImportError(name + " is not in Binder's image")
    return real(name, *args, **kwargs)
builtins.__import__ = light
sys.path.insert(0, "tools")
import make_notebooks
print(len(make_notebooks.all_notebooks(make_notebooks.Book(make_notebooks.ROOT))))
"""


def test_nothing_heavy_is_needed():
    done = subprocess.run(
        [sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(len(CHAPTERS) + 1), done.stderr


# Gate G2: it runs -------------------------------------------------------------------

RUN = """
import sys
import nbformat
from nbclient import NotebookClient
path, folder, timeout_s = sys.argv[1], sys.argv[2], int(sys.argv[3])
notebook = nbformat.read(path, as_version=4)
client = NotebookClient(
    notebook, timeout=timeout_s, kernel_name="python3",
    resources={"metadata": {"path": folder}},
)
client.execute()
nbformat.write(notebook, path)
"""


def run(path: Path) -> NotebookNode:
    """The notebook after a run from the top in its own folder, in a fresh kernel.

    Raises AssertionError with what the run said, if a cell failed.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), str(path.parent), "180"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return nbformat.read(path, as_version=4)


def wrong_answers(notebook: NotebookNode) -> list[str]:
    """The cells whose check did not answer as it must answer an empty stub."""
    found = []
    for cell in notebook.cells:
        outputs = "\n".join(said(cell))
        is_check = "check" in cell.metadata.get("tags", [])
        if "The checker broke" in outputs or (
            is_check and "Not started" not in outputs
        ):
            found.append(cell.source)
    return found


def said(cell: NotebookNode) -> Iterator[str]:
    """The outputs of a cell, as text and as HTML."""
    for output in cell.get("outputs", []):
        yield output.get("text", "")
        yield from map(str, output.get("data", {}).values())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "docname", [name for name in CHAPTERS if BOOK.pages[name].has_code]
)
def test_real_notebook_runs_with_its_stubs(docname, tmp_path):
    make_notebooks_in(tmp_path)
    path = tmp_path / NOTEBOOKS / Path(docname).relative_to("book")
    notebook = run(path.with_suffix(".ipynb"))
    assert any(text.strip() for cell in notebook.cells for text in said(cell))
    assert wrong_answers(notebook) == []


def make_notebooks_in(folder: Path) -> None:
    """The notebooks of the real book in a folder of their own."""
    for path, notebook in all_notebooks(BOOK).items():
        target = folder / NOTEBOOKS / path
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, target)


@pytest.mark.parametrize(
    ("answer", "red"),
    [("Not started", 0), ("Done", 1), ("Not started. The checker broke", 1), ("", 1)],
)
def test_a_check_that_answers_a_stub_otherwise_is_red(make, answer, red):
    notebook = make(PAGE)
    check = next(c for c in notebook.cells if "check" in c.metadata.get("tags", []))
    data = {"text/plain": answer, "text/html": f"<b>{answer}</b>"}
    check.outputs = [nbformat.v4.new_output("display_data", data=data)]
    assert len(wrong_answers(notebook)) == red


@pytest.mark.slow
def test_a_notebook_that_breaks_is_red(make):
    """The planted faults of gate G2: a cell that fails, and one that is meant to."""
    for tags, red in (("", True), (":tags: [raises-exception]\n", False)):
        make(f"{HEADER}```{{code-cell}} ipython3\n{tags}1 / 0\n```\n")
        make_notebooks(make.root)
        path = make.root / NOTEBOOKS / "serving/serve.ipynb"
        if red:
            with pytest.raises(AssertionError, match="ZeroDivisionError"):
                run(path)
        else:
            run(path)
        shutil.rmtree(make.root / NOTEBOOKS)
