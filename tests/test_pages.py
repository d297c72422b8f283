"""The built pages in a real browser: no other host, light, accessible, unbroken.

The book is read from ``_build/html``, or from the folder that the environment
variable ``LAB_HTML`` names.
"""

from __future__ import annotations

import datetime
import re

import pytest
from chromium import find_chromium
from pages_support import (
    CHROMIUM_ARGUMENTS,
    DESKTOP,
    MODES,
    PHONE,
    WEIGHT_LIMIT_BYTES,
    Exemption,
    broken_links,
    built_pages,
    html_folder,
    judge_findings,
    open_context,
    overflow_px,
    pictures_without_text,
    repeated_ids,
    serious_findings,
    served,
    unfold,
    visiting,
)
from playwright.sync_api import sync_playwright

pytestmark = [
    pytest.mark.slow,
    # One worker, one browser. It ends with this file, because Playwright's event loop
    # would be found running by every later test of the same process.
    pytest.mark.xdist_group("pages"),
]

# What axe finds and only upstream can mend. Each needs a link and an expiry date,
# and must go as soon as it is not needed any more.
EXEMPTIONS: list[Exemption] = []

FOLDER = html_folder()
PAGES = built_pages(FOLDER) if FOLDER.is_dir() else []


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests of this file."""
    path = find_chromium()
    if path is None:
        pytest.skip("chromium is not installed; LAB_CHROMIUM may name its path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=list(CHROMIUM_ARGUMENTS)
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def contexts(browser):
    """One reader for each mode, who keeps the mode from page to page."""
    contexts = {mode: open_context(browser, mode) for mode in MODES}
    yield contexts
    for context in contexts.values():
        context.close()


@pytest.fixture(scope="module")
def book():
    """The address of the built book."""
    with served(FOLDER) as base:
        yield base


def test_there_are_pages() -> None:
    assert PAGES, f"no page in {FOLDER}: run `make book` first"


def test_exemptions_name_pages_of_the_book() -> None:
    assert {exemption.page for exemption in EXEMPTIONS} <= set(PAGES)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("path", PAGES)
def test_page(path: str, mode: str, contexts, book) -> None:
    with visiting(contexts[mode], book, path) as (page, visit):
        theme = page.evaluate("() => document.documentElement.dataset.theme")
        unfold(page)
        assert theme == mode
        assert not visit.other_hosts
        assert not visit.errors
        assert 0 < visit.weight_bytes <= WEIGHT_LIMIT_BYTES
        assert overflow_px(page) <= 0, "scrolls sideways on a desk"
        page.set_viewport_size(PHONE)
        assert overflow_px(page) <= 0, "scrolls sideways on a phone"
        page.set_viewport_size(DESKTOP)
        assert not pictures_without_text(page)
        assert not repeated_ids(page)
        findings = serious_findings(page)
    wrong = judge_findings(findings, EXEMPTIONS, path, datetime.date.today())
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", PAGES)
def test_page_says_what_it_is(path: str) -> None:
    html = (FOLDER / path).read_text("utf-8")
    assert re.search(r'<html[^>]* lang="en"', html)
    assert "<title>" in html
    assert "creativecommons.org/licenses/by/4.0" in html, "the footer has no licence"
    assert "<code>\\" not in html, "a formula was not converted"


def test_links_inside_the_book_lead_somewhere() -> None:
    assert not broken_links(FOLDER, PAGES)


def test_search_finds_a_page(contexts, book) -> None:
    with visiting(contexts["light"], book, "search.html?q=model") as (page, visit):
        page.wait_for_selector("#search-results li a", timeout=20_000)
        assert not visit.other_hosts


def test_theme_switch_works(browser, book) -> None:
    context = browser.new_context(color_scheme="dark")
    try:
        with visiting(context, book, PAGES[0]) as (page, visit):
            theme = "() => document.documentElement.dataset.theme"
            assert page.evaluate(theme) == "dark"  # as the reader's system has it
            switch = page.locator("button.theme-switch-button").first
            seen = set()
            for _ in range(3):
                switch.click()
                seen.add(page.evaluate(theme))
            assert seen == {"light", "dark"}
            assert not visit.errors
    finally:
        context.close()


# The functions above, shown to fail -------------------------------------------------

PAGE = """<!DOCTYPE html><html lang="en"><head><title>Planted</title>{head}</head>
<body><main><h1>A page</h1>{body}</main></body></html>"""


@pytest.fixture
def planted(tmp_path, contexts):
    """Return a function that visits a page with something planted in it."""

    def visit_planted(head: str = "", body: str = "", act=lambda page: None):
        html = PAGE.format(head=head, body=body)
        (tmp_path / "planted.html").write_text(html, "utf-8")
        context = contexts["light"]
        with served(tmp_path) as base, visiting(context, base, "planted.html") as seen:
            page, visit = seen
            return act(page), visit

    return visit_planted


def test_a_clean_page_has_no_finding(planted) -> None:
    findings, visit = planted("<link rel=icon href='data:,'>", act=serious_findings)
    assert findings == []
    assert visit.other_hosts == []
    assert visit.errors == []
    assert visit.weight_bytes > 100


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("<script src='https://cdn.example/x.js'></script>", ""),
        ("<link rel=stylesheet href='//cdn.example/x.css'>", ""),
        (
            "<style>@font-face{font-family:F;src:url(https://cdn.example/f.woff2)}"
            "p{font-family:F}</style>",
            "<p>text</p>",
        ),
        ("", "<iframe title='a frame' src='https://cdn.example/'></iframe>"),
        ("", "<img alt='a picture' src='https://cdn.example/x.png'>"),
        ("", "<script>fetch('https://cdn.example/x.json').catch(() => 0)</script>"),
    ],
    ids=["script", "style", "font", "frame", "image", "fetch"],
)
def test_another_host_is_seen(planted, head: str, body: str) -> None:
    _, visit = planted(head, body)
    assert any("cdn.example" in url for url in visit.other_hosts)


def test_low_contrast_is_seen(planted) -> None:
    findings, _ = planted(
        body="<p style='color:#bbb;background:#fff'>pale</p>", act=serious_findings
    )
    assert [finding["rule"] for finding in findings] == ["color-contrast"]


def test_a_picture_without_text_is_seen(planted) -> None:
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    body = f"<img src='{pixel}'><svg viewBox='0 0 1 1'></svg>"
    findings, _ = planted(body=body, act=serious_findings)
    assert "image-alt" in {finding["rule"] for finding in findings}
    assert len(planted(body=body, act=pictures_without_text)[0]) == 2
    body = f"<img alt='' src='{pixel}'>"
    assert len(planted(body=body, act=pictures_without_text)[0]) == 1
    body = f"<img alt='a dot' src='{pixel}'>"
    assert not planted(body=body, act=pictures_without_text)[0]


def test_a_script_error_is_seen(planted) -> None:
    _, visit = planted(body="<script>let a; let a;</script>")
    assert visit.errors
    _, visit = planted(body="<script src='lost.js'></script>")
    assert visit.errors


def test_a_heavy_page_is_seen(planted) -> None:
    _, visit = planted(body="x" * (WEIGHT_LIMIT_BYTES + 1))
    assert visit.weight_bytes > WEIGHT_LIMIT_BYTES


def test_sideways_scrolling_is_seen(planted) -> None:
    body = "<div style='width:2000px'>wide</div>"
    assert planted(body=body, act=overflow_px)[0] > 0


def test_pale_code_is_seen_once(planted) -> None:
    token = "<span class='k' style='color:#bbb'>def</span> "
    body = f"<div class='highlight'><pre>{token * 3}</pre></div>"
    findings, _ = planted(body=body, act=serious_findings)
    assert [finding["rule"] for finding in findings] == ["color-contrast"]


def test_repeated_ids_are_seen(planted) -> None:
    body = "<p id='two'></p><p id='two'></p><p id='three'></p>"
    assert planted(body=body, act=repeated_ids)[0] == ["two"]


def test_broken_links_are_seen(tmp_path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="one"><a href="b.html#two">b</a> <a href="b.html#gone">x</a>'
        '<a href="lost.html">y</a> <a href="#one">z</a> <img src="lost.png">'
    )
    (tmp_path / "b.html").write_text('<p id="two">')
    assert broken_links(tmp_path, built_pages(tmp_path)) == [
        "a.html: b.html#gone",
        "a.html: lost.html",
        "a.html: lost.png",
    ]


def test_exemptions_expire_and_must_be_needed() -> None:
    finding = {"rule": "r", "selector": "s", "impact": "serious", "html": "", "why": ""}
    day = datetime.date(2026, 12, 31)
    exemption = Exemption("r", "a.html", "s", "https://example.org/issues/1", day)
    after = day + datetime.timedelta(days=1)
    assert judge_findings([finding], [], "a.html", day)
    assert not judge_findings([finding], [exemption], "a.html", day)
    assert len(judge_findings([finding], [exemption], "a.html", after)) == 2
    assert judge_findings([], [exemption], "a.html", day)
    assert not judge_findings([], [exemption], "b.html", day)
    assert judge_findings([finding], [exemption], "b.html", day)
