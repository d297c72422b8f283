"""The two buttons above a page: they give the student notebook, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from lab_sphinx import launch
from lab_sphinx.mending import mend_buttons
from sphinx.errors import ExtensionError
from student import Book, leaks

ROOT = Path(__file__).resolve().parent.parent
DOCNAME = "book/serving/serve"

PAGE = """---
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
# Serve a model

```{exercise} Try
:label: ex-try
What is left?
```

```{solution-start} ex-try
:class: dropdown
```

```{code-cell} ipython3
the_secret_answer = 42
```

```{solution-end}
```

```{code-cell} ipython3
:tags: [hide-input]
x = 1
```
"""

PUBLISHED = {"url": "https://github.com/someone/lab", "branch": "main"}
BINDER = {"binderhub_url": "https://binder.example", "notebook_interface": "jupyterlab"}


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of one page with code, one without, and the landing page."""
    (tmp_path / "book/serving").mkdir(parents=True)
    (tmp_path / "book/index.md").write_text("(index)=\n# The Lab\n")
    (tmp_path / f"{DOCNAME}.md").write_text(PAGE)
    (tmp_path / "book/words.md").write_text("(words)=\n# Words\n\nNo code.\n")
    (tmp_path / "_toc.yml").write_text(
        f"format: jb-book\nroot: book/index\nchapters:\n  - file: {DOCNAME}\n"
        "  - file: book/words\n"
    )
    return tmp_path


def app_for(book: Path, repository: dict[str, str], binder: dict[str, str]) -> Any:
    """What the hooks see of Sphinx, with Jupyter Book's theme options."""
    options = {
        "repository_url": repository.get("url", ""),
        "repository_branch": repository.get("branch", ""),
        "launch_buttons": dict(binder),
    }
    config = SimpleNamespace(html_theme_options=options)
    return SimpleNamespace(srcdir=str(book), config=config)


def buttons(app: Any, pagename: str) -> list[dict[str, str]]:
    """The buttons above a page that had one of the theme's own."""
    launch.prepare(app)
    context = {
        "pathto": lambda path, resource: f"../../{path}",
        "header_buttons": [{"label": "fullscreen-button"}],
    }
    launch.add_buttons(app, pagename, "page.html", context, None)
    return context["header_buttons"]


def test_a_page_with_code_offers_its_notebook(book):
    download, theirs = buttons(app_for(book, {}, {}), DOCNAME)
    assert download["url"] == "../../notebooks/serving/serve.ipynb"
    assert download["label"] == "download-notebook-button"
    assert theirs["label"] == "fullscreen-button"


@pytest.mark.parametrize("pagename", ["book/index", "book/words", "search", "genindex"])
def test_a_page_without_code_offers_none(book, pagename):
    found = buttons(app_for(book, PUBLISHED, BINDER), pagename)
    assert [button["label"] for button in found] == ["fullscreen-button"]


def test_the_launch_button_opens_the_student_notebook(book):
    first, *_ = buttons(app_for(book, PUBLISHED, BINDER), DOCNAME)
    assert first["label"] == "launch-notebook-button"
    assert first["url"] == (
        "https://binder.example/v2/gh/someone/lab/main"
        "?urlpath=lab/tree/notebooks/serving/serve.ipynb"
    )


@pytest.mark.parametrize(
    ("repository", "binder"), [({}, BINDER), (PUBLISHED, {}), ({}, {})]
)
def test_until_both_addresses_are_known_nothing_is_launched(book, repository, binder):
    found = buttons(app_for(book, repository, binder), DOCNAME)
    assert [button["label"] for button in found] == [
        "download-notebook-button",
        "fullscreen-button",
    ]


def test_the_theme_is_left_without_launch_settings(book):
    """Else it would publish the executed page, solutions included, in _sources."""
    app = app_for(book, PUBLISHED, BINDER)
    launch.prepare(app)
    assert "launch_buttons" not in app.config.html_theme_options


@pytest.mark.parametrize(
    ("repository", "branch", "source"),
    [
        ("https://github.com/a/b", "main", "gh/a/b/main"),
        ("https://github.com/a/b.git/", "x/y", "gh/a/b/x%2Fy"),
        ("https://gitlab.com/a/b", "main", "gl/a%2Fb/main"),
        ("https://git.example/a", "main", "git/https%3A%2F%2Fgit.example%2Fa/main"),
    ],
)
def test_binder_addresses(repository, branch, source):
    url = launch.binder_url("https://b.example/", repository, branch, "classic", "n.x")
    assert url == f"https://b.example/v2/{source}?urlpath=tree/n.x"


def test_an_unknown_interface_is_an_error():
    with pytest.raises(ExtensionError, match="notebook_interface: 'lab' is not known"):
        launch.binder_url("https://b.example", "https://github.com/a/b", "m", "lab", "")


def test_the_readme_has_the_same_address():
    """Both lead into the folder of student notebooks."""
    readme = (ROOT / "README.md").read_text()
    address = re.search(r"https://mybinder\.org/\S+", readme)[0]
    made = launch.binder_url(
        "https://mybinder.org",
        "https://github.com/OWNER/REPOSITORY",
        "main",
        "jupyterlab",
        "notebooks/index.ipynb",
    )
    assert address == made


def test_download_links_are_downloads_and_named():
    soup = BeautifulSoup(
        '<a class="btn btn-download-notebook-button" href="a.ipynb" target="_blank" '
        'title="Download"></a><a class="btn btn-launch-notebook-button" '
        'href="https://b" target="_blank" title="Launch"></a><a class="btn">x</a>',
        "html.parser",
    )
    mend_buttons(soup)
    download, start, other = soup.find_all("a")
    assert download.has_attr("download")
    assert not download.has_attr("target")
    assert download["aria-label"] == "Download"
    assert not start.has_attr("download")
    assert (start["target"], start["aria-label"]) == ("_blank", "Launch")
    assert not other.has_attr("aria-label")


def written(book: Path, **options: Any) -> Path:
    """Where the notebooks are after a build; there were leftovers."""
    out = book / "_build/html"
    (out / "_sources/book").mkdir(parents=True)
    (out / "_sources/book/serve.ipynb").write_text("the_secret_answer")
    (out / "notebooks").mkdir()
    (out / "notebooks/gone.ipynb").write_text("old")
    app = app_for(book, PUBLISHED, BINDER)
    app.outdir = str(out)
    app.builder = SimpleNamespace(format="html")
    launch.prepare(app)
    launch.write_notebooks(app, options.get("exception"))
    return out


def test_the_notebooks_on_offer_are_the_student_edition(book):
    out = written(book)
    found = {p.relative_to(out).as_posix() for p in out.rglob("*.ipynb")}
    assert found == {"notebooks/serving/serve.ipynb"}
    notebook = nbformat.read(out / "notebooks/serving/serve.ipynb", as_version=4)
    assert leaks(PAGE, notebook) == []
    assert "secret" not in json.dumps(notebook)


def test_a_failed_build_writes_none(book):
    out = written(book, exception=ValueError("x"))
    assert not (out / "notebooks/serving").exists()


def test_a_page_without_student_edition_breaks_the_build(book):
    (book / f"{DOCNAME}.md").write_text(PAGE.replace("{solution-end}", "{note}"))
    with pytest.raises(ExtensionError, match=r"serve\.md:\d+: solution-start without"):
        written(book)


@pytest.mark.slow
def test_a_built_page_offers_both(book):
    """With Jupyter Book itself: its theme options, its theme, its header."""
    config = {
        "title": "The Lab",
        "author": "Its contributors",
        "exclude_patterns": ["_build"],
        "execute": {"execute_notebooks": "off"},
        "repository": PUBLISHED,
        "launch_buttons": BINDER,
        "html": {"baseurl": "https://lab.example/"},
        "sphinx": {
            "extra_extensions": [
                "sphinx_exercise",
                "lab_sphinx.theme",
                "lab_sphinx.launch",
            ],
            "recursive_update": True,
            "config": {"html_theme_options": {"use_download_button": False}},
        },
    }
    (book / "_config.yml").write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from jupyter_book.cli.main import main; sys.exit(main())",
            *("build", "-q", "-W", "--keep-going", str(book)),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    html = book / "_build/html"
    soup = BeautifulSoup((html / f"{DOCNAME}.html").read_text(), "html.parser")
    download = soup.select_one(".btn-download-notebook-button")
    assert download["href"] == "../../notebooks/serving/serve.ipynb"
    assert (html / DOCNAME).parent.joinpath(download["href"]).resolve().is_file()
    start = soup.select_one(".btn-launch-notebook-button")
    assert start["href"].endswith("?urlpath=lab/tree/notebooks/serving/serve.ipynb")
    assert not soup.select(".dropdown-launch-buttons"), "the theme's own"
    published = list(html.rglob("*.ipynb"))
    assert published == [html / "notebooks/serving/serve.ipynb"]
    text = published[0].read_text()
    assert "https://lab.example/book/serving/serve.html" in text
    assert "secret" not in text
    plain = BeautifulSoup((html / "book/words.html").read_text(), "html.parser")
    assert not plain.select("[class*='-notebook-button']")
    assert Book(book).repository_url == PUBLISHED["url"]
