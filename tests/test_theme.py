"""The Sphinx extension that mends the theme: its parts, and the faults it reports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from lab_sphinx.figures import inline_svg
from lab_sphinx.mathml import to_mathml
from lab_sphinx.mending import mend, mend_dataframes, other_hosts
from lab_sphinx.styles import THEME_SHEET, slim, slim_style_sheets
from lab_sphinx.theme import SOLID_FONT, THEME_STATIC

ROOT = Path(__file__).resolve().parent.parent

# Formulas ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "latex",
    [
        r"p = \frac{x}{n}",
        r"\Pr[\text{abort} \mid H_0] \le \alpha",
        r"\sum_{k=0}^{n} \binom{n}{k} p^k (1-p)^{n-k}",
        r"\hat{p} \sim \mathcal{N}(\mu, \sigma^2)",
        r"\begin{aligned} a &= b \\ &\ge \sqrt{c} \end{aligned}",
        r"a &= b \\ c &= d",
        r"f(x) = \begin{cases} 1 & x > 0 \\ 0 & \text{otherwise} \end{cases}",
    ],
)
def test_formula_becomes_mathml(latex: str) -> None:
    mathml = to_mathml(latex, "block")
    assert mathml.startswith("<math ")
    assert 'display="block"' in mathml
    assert "alttext=" in mathml


@pytest.mark.parametrize(
    ("latex", "why"),
    [
        (r"\frac{x}{\nosuch}", "unknown command"),
        (r"\frac{x}", "argument is missing"),
        (r"\left( x", "MissingRight"),
        (r"\begin{nosuch} a & b \end{nosuch}", "alignment outside"),
    ],
)
def test_formula_that_cannot_be_converted_is_an_error(latex: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        to_mathml(latex)


# Figures ----------------------------------------------------------------------------

DRAWING = """<svg xmlns="http://www.w3.org/2000/svg" width="10pt" height="20pt">
<metadata>who knows</metadata>
<style>* {{ stroke: #0A0B0C }} #box {{ fill: url(#g) }}</style>
<defs><linearGradient id="g"/><path id="box"/></defs>
<g clip-path="url(#g)"><use href="#box"/>{more}</g></svg>"""


def drawing(folder: Path, more: str = "") -> Path:
    path = folder / "drawing.svg"
    path.write_text(DRAWING.format(more=more), "utf-8")
    return path


def test_figure_stands_in_the_page_and_follows_the_theme(tmp_path) -> None:
    svg = inline_svg(drawing(tmp_path), 'A "box"', "lab-svg-1", {"class": "lab-svg"})
    assert 'role="img"' in svg
    assert 'aria-label="A &quot;box&quot;"' in svg
    assert 'viewBox="0 0 10 20"' in svg
    assert "metadata" not in svg
    assert "currentColor" in svg
    assert "#0A0B0C" not in svg
    assert 'id="lab-svg-1-box"' in svg
    assert 'href="#lab-svg-1-box"' in svg
    assert 'clip-path="url(#lab-svg-1-g)"' in svg
    # Its style rules reach nothing outside of it.
    assert "<style>#lab-svg-1 { * {" in svg
    assert "#lab-svg-1-box { fill: url(#lab-svg-1-g) }" in svg


def test_figure_may_not_ask_another_host(tmp_path) -> None:
    path = drawing(tmp_path, '<image href="https://cdn.example/x.png"/>')
    with pytest.raises(ValueError, match="another host"):
        inline_svg(path, "a", "p", {})
    path = drawing(tmp_path, '<a href="https://example.org/"><text>t</text></a>')
    inline_svg(path, "a", "p", {})


def test_broken_drawing_is_an_error(tmp_path) -> None:
    (tmp_path / "drawing.svg").write_text("<svg><g></svg>", "utf-8")
    with pytest.raises(ValueError, match="not well-formed"):
        inline_svg(tmp_path / "drawing.svg", "a", "p", {})


# Pages ------------------------------------------------------------------------------


def test_other_hosts_are_found_and_links_are_not() -> None:
    soup = BeautifulSoup(
        """<link rel="stylesheet" href="https://a.example/x.css">
        <link rel="canonical" href="https://b.example/">
        <script src="//c.example/x.js"></script>
        <iframe src="http://d.example/"></iframe>
        <img srcset="https://e.example/1.png 1x, 2.png 2x" src="3.png">
        <style>@import "https://f.example/x.css"; p{src:url(https://g.example/f)}</style>
        <p style="background: url('https://h.example/x.png')">
        <a href="https://i.example/">a link is not fetched</a>""",
        "html.parser",
    )
    hosts = [url.split("/")[2][0] for url in other_hosts(soup)]
    assert hosts == ["a", "c", "d", "e", "f", "g", "h"]


def test_words_in_tables_stand_left_under_one_row_of_heads() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {"rate": [0.5, float("nan")], "says": ["yes", "no"]}, index=["v1", "v2"]
    ).rename_axis("version")
    soup = BeautifulSoup(table.to_html(), "html.parser")
    mend_dataframes(soup)
    assert [th.get_text() for th in soup.select("thead th")] == [
        "version",
        "rate",
        "says",
    ]
    assert {cell.get_text() for cell in soup.select(".lab-text")} == {
        "says",
        "yes",
        "no",
    }


def test_rules_that_no_page_uses_are_dropped() -> None:
    css = """@charset "utf-8"; :root { --a: "}" } p, .used, .lost { color: red }
    /* .used { comment } */ .used .lost { a: b } .used:not(.lost, #gone) { c: d }
    @media (min-width: 1px) { .lost { e: f } #id > a[href=".x"] { g: h } }
    @media print { .lost { i: j } } .one-1\\/2 { k: l } .bs-made-up { m: n }
    @font-face { font-family: Font Awesome } @keyframes k { from { o: p } }"""
    words = {"used", "id", "one-1", "2"}
    assert slim(css, words) == (
        '@charset "utf-8";:root{--a: "}"}p, .used{color: red}'
        ".used:not(.lost, #gone){c: d}"
        '@media (min-width: 1px){#id > a[href=".x"]{g: h}}'
        ".one-1\\/2{k: l}.bs-made-up{m: n}@keyframes k{ from { o: p } }"
    )


def test_style_sheet_keeps_the_icons_in_use(tmp_path) -> None:
    static = tmp_path / "_static"
    (static / "styles").mkdir(parents=True)
    sheet = static / THEME_SHEET
    whole = (THEME_STATIC / THEME_SHEET).read_text("utf-8")
    sheet.write_text(whole, "utf-8")
    (tmp_path / "index.html").write_text('<i class="fa-solid fa-bars"></i>')
    slim_style_sheets(static, SOLID_FONT)
    css = sheet.read_text("utf-8")
    assert ".fa-bars:before" in css
    assert ".fa-swatchbook:before" not in css
    assert css.count("@font-face") == 1
    assert "data:font/ttf;base64," in css
    assert len(css) < len(whole) / 2
    slim_style_sheets(static, SOLID_FONT)
    assert sheet.read_text("utf-8") == css


def test_mending_keeps_what_it_does_not_mend() -> None:
    builder = SimpleNamespace(images={}, srcdir=".")
    text = "<pre>  a &lt; b\n</pre><p>é &amp; ü<br/>→</p>"
    html = f"<!DOCTYPE html><html lang='en'><head></head><body>{text}</body></html>"
    mended = mend(html, "page", builder)
    assert text in mended
    assert mended.startswith("<!DOCTYPE html>")
    assert mend(mended, "page", builder).split() == mended.split()


# The build --------------------------------------------------------------------------

FAULTS = {
    "no-alt": ("![](dot.png)", "an image has no alt text"),
    "svg-no-alt": ("![](dot.svg)", "an image has no alt text"),
    "figure": ("```{figure} dot.png\nA caption.\n```", "an image has no alt text"),
    "script": ("<script src='https://cdn.example/s.js'></script>", "asks another host"),
    "style": (
        "<link rel='stylesheet' href='https://cdn.example/s.css'>",
        "asks another host",
    ),
    "font": (
        "<style>@font-face{font-family:F;src:url(https://cdn.example/f)}</style>",
        "asks another host",
    ),
    "frame": ("<iframe src='https://cdn.example/'></iframe>", "asks another host"),
    "image": ("![a dot](https://cdn.example/x.png)", "asks another host"),
    "formula": (r"$\nosuch{x}$", "formula not converted"),
}


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the Markdown pages in ``folder`` as the book is built."""
    (folder / "conf.py").write_text(
        "extensions = ['myst_parser', 'sphinx_book_theme', 'lab_sphinx.theme']\n"
        "html_theme = 'sphinx_book_theme'\n"
        "myst_enable_extensions = ['dollarmath']\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    return subprocess.run(
        [*command, str(folder), str(folder / "_build")],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def sources(tmp_path) -> Path:
    """A book of one page with a picture."""
    (tmp_path / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    pixel = "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    (tmp_path / "dot.png").write_bytes(bytes.fromhex(pixel))
    (tmp_path / "index.md").write_text(
        "# A page\n\nA formula $x^2$, and ![a dot](dot.svg) in the text.\n"
    )
    return tmp_path


@pytest.mark.slow
def test_clean_page_builds_without_a_warning(sources) -> None:
    result = build(sources)
    assert (result.returncode, result.stderr) == (0, "")
    html = (sources / "_build" / "index.html").read_text("utf-8")
    assert "<msup>" in html
    assert 'aria-label="a dot"' in html
    assert "fontawesome.js" not in html
    assert not (sources / "_build" / "_static" / "scripts" / "fontawesome.js").exists()


@pytest.mark.slow
def test_each_planted_fault_is_red_and_names_its_page(sources) -> None:
    for name, (text, _) in FAULTS.items():
        page = f"---\norphan: true\n---\n# A page\n\n{text}\n"
        (sources / f"{name}.md").write_text(page)
    result = build(sources)
    assert result.returncode != 0
    for name, (_, message) in FAULTS.items():
        lines = [line for line in result.stderr.splitlines() if f"/{name}.md" in line]
        assert len(lines) == 1, (name, result.stderr)
        assert message in lines[0]
