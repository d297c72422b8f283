"""What a page may not do, measured in a real browser or in its HTML."""

from __future__ import annotations

import datetime
import functools
import http.server
import os
import re
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from axe_playwright_python.base import AXE_SCRIPT
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, BrowserContext, Page, Request

ROOT = Path(__file__).resolve().parent.parent
MODES = ("light", "dark")
WEIGHT_LIMIT_BYTES = 1_000_000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}

CHROMIUM_ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A second lock on the door: whatever slips past the interception finds no host.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def html_folder() -> Path:
    """Return the folder of the built book."""
    return Path(os.environ.get("LAB_HTML", ROOT / "_build" / "html")).resolve()


def is_redirect(html: str) -> bool:
    """Tell whether a page only sends the reader on."""
    return bool(re.search(r'<meta[^>]+http-equiv="?refresh', html, re.IGNORECASE))


def built_pages(folder: Path) -> list[str]:
    """Return the built pages as paths from ``folder``, without mere redirects."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.html")
        if "_static" not in path.parts
        and not is_redirect(path.read_text("utf-8")[:2000])
    )


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line on the terminal for each."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on a free loopback port; yield the address, without slash."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def open_context(browser: Browser, mode: str) -> BrowserContext:
    """Return a browser context whose reader has chosen ``mode`` (light or dark)."""
    context = browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
    context.add_init_script(
        f"localStorage.setItem('mode', '{mode}');"
        f"localStorage.setItem('theme', '{mode}');"
    )
    return context


@dataclass
class Visit:
    """What a browser saw of one page."""

    other_hosts: list[str] = field(default_factory=list)  # URLs asked for
    errors: list[str] = field(default_factory=list)  # console errors, lost scripts
    weight_bytes: int = 0  # HTML and own assets, uncompressed


@contextmanager
def visiting(context: BrowserContext, base: str, path: str) -> Iterator[tuple]:
    """Open a page and yield it with its Visit; no other host is reached."""
    visit = Visit()

    def note(request: Request) -> None:
        scheme = urllib.parse.urlsplit(request.url).scheme
        if not request.url.startswith(f"{base}/") and scheme not in ("data", "blob"):
            visit.other_hosts.append(request.url)

    page = context.new_page()
    try:
        page.on("request", note)
        page.on("pageerror", lambda error: visit.errors.append(str(error)))
        page.on(
            "console",
            lambda m: visit.errors.append(m.text) if m.type == "error" else None,
        )
        page.route(re.compile(rf"^(?!{re.escape(base)}/)"), lambda route: route.abort())
        page.goto(f"{base}/{path}", wait_until="load")
        visit.weight_bytes = weight_bytes(page)
        yield page, visit
    finally:
        page.close()


def weight_bytes(page: Page) -> int:
    """Return the size of the HTML and of all that it loaded, as the browser saw it.

    Uncompressed; pictures inside style sheets (data URLs) count as part of those.
    """
    return page.evaluate(
        """() => ["navigation", "resource"]
            .flatMap(kind => performance.getEntriesByType(kind))
            .filter(entry => new URL(entry.name).origin === location.origin)
            .reduce((sum, entry) => sum + entry.decodedBodySize, 0)"""
    )


def unfold(page: Page) -> None:
    """Open what is folded, so that it is looked at too."""
    page.evaluate(
        """() => {
            document.querySelectorAll("main details").forEach(d => { d.open = true; });
            document.querySelectorAll("main .toggle-button-hidden")
                .forEach(b => b.click());
            document.querySelectorAll(".sd-tab-content")
                .forEach(tab => tab.style.setProperty("display", "block"));
            // Two frames: then the observers of sizes have had their turn.
            return new Promise(done =>
                requestAnimationFrame(() => requestAnimationFrame(done)));
        }"""
    )


def thin_out_code(page: Page) -> None:
    """Leave one token of each kind in each kind of code block.

    A chapter has thousands of coloured tokens, and axe needs some ten seconds to find
    the background of each. Tokens of the same class in the same surroundings have the
    same colours, so one of them speaks for all.
    """
    page.evaluate(
        """() => {
            const seen = new Set(), twins = [];
            for (const pre of document.querySelectorAll(".highlight pre")) {
                let where = "";
                for (let e = pre; e; e = e.parentElement) where += "/" + e.className;
                for (const span of pre.querySelectorAll("span")) {
                    if (span.children.length) continue;
                    const kind = [where, span.parentElement.className, span.className]
                        .join("|");
                    seen.has(kind) ? twins.push(span) : seen.add(kind);
                }
            }
            twins.forEach(span => span.replaceWith(span.textContent));
        }"""
    )


def serious_findings(page: Page) -> list[dict]:
    """Return axe's serious and critical findings: rule, impact, selector, html.

    Look at the page for other faults first: its code is thinned out here.
    """
    thin_out_code(page)
    page.evaluate(AXE_SCRIPT)
    violations = page.evaluate(
        """() => axe.run({preload: false, resultTypes: ["violations"]})
                    .then(results => results.violations)"""
    )
    return [
        {
            "rule": violation["id"],
            "impact": violation["impact"],
            "selector": " ".join(map(str, node["target"])),
            "html": node["html"][:200],
            "why": node["failureSummary"],
        }
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def overflow_px(page: Page) -> int:
    """Return by how many pixels the page scrolls sideways."""
    return page.evaluate(
        """() => Math.max(document.documentElement.scrollWidth,
                          document.body.scrollWidth) - window.innerWidth"""
    )


def pictures_without_text(page: Page) -> list[str]:
    """Return the start of each picture that has no text alternative.

    Stricter than axe, which takes ``alt=""`` for an ornament: pictures in this book
    say something. Those in a button are ornaments; axe asks the button for a name.
    """
    return page.evaluate(
        """() => [...document.querySelectorAll("img, svg, object, input[type=image]")]
            .filter(e => !e.closest("[aria-hidden=true], button, summary"))
            .filter(e => !(e.getAttribute("alt") || e.getAttribute("aria-label")
                           || e.getAttribute("aria-labelledby") || "").trim())
            .map(e => e.outerHTML.slice(0, 120))"""
    )


def repeated_ids(page: Page) -> list[str]:
    """Return the ids that stand more than once on a page."""
    return page.evaluate(
        """() => {
            const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
            return [...new Set(ids.filter((id, i) => ids.indexOf(id) !== i))];
        }"""
    )


def broken_links(folder: Path, pages: list[str]) -> list[str]:
    """Return "page: link" for each link inside the book that leads nowhere."""
    links: dict[str, list[str]] = {}
    anchors: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.html")):
        soup = BeautifulSoup(path.read_text("utf-8"), "html.parser")
        name = path.relative_to(folder).as_posix()
        anchors[name] = {str(tag["id"]) for tag in soup.find_all(id=True)}
        anchors[name] |= {str(tag["name"]) for tag in soup.select("a[name]")}
        links[name] = [
            str(tag.get("href") or tag.get("src"))
            for tag in soup.select("a[href], link[href], [src]")
        ]
    broken = []
    for name in pages:
        for link in links[name]:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = name
            if url.path:
                joined = folder.joinpath(name).parent / urllib.parse.unquote(url.path)
                file = Path(os.path.normpath(joined))
                if file.is_dir():
                    file = file / "index.html"
                if not file.is_file() or not file.is_relative_to(folder):
                    broken.append(f"{name}: {link}")
                    continue
                target = file.relative_to(folder).as_posix()
            fragment = urllib.parse.unquote(url.fragment)
            if fragment and target in anchors and fragment not in anchors[target]:
                broken.append(f"{name}: {link}")
    return broken


@dataclass(frozen=True)
class Exemption:
    """A finding that only upstream can mend; it fails once expired or unneeded."""

    rule: str  # axe's name of the rule
    page: str  # on which page, as a path from the HTML folder
    selector: str  # axe's selector of the element
    upstream: str  # link to the issue
    expires: datetime.date


def judge_findings(
    findings: list[dict],
    exemptions: list[Exemption],
    page: str,
    today: datetime.date,
) -> list[str]:
    """Return what is wrong: findings without exemption, exemptions without finding."""
    wrong = []
    mine = [exemption for exemption in exemptions if exemption.page == page]
    used = set()
    for finding in findings:
        key = (finding["rule"], finding["selector"])
        match = [e for e in mine if (e.rule, e.selector) == key and today <= e.expires]
        used.update(match)
        if not match:
            wrong.append(
                f"{finding['rule']} ({finding['impact']}) at {finding['selector']}: "
                f"{finding['html']}\n    {finding['why']}"
            )
    for exemption in mine:
        if today > exemption.expires:
            wrong.append(f"exemption expired: {exemption}")
        elif exemption not in used:
            wrong.append(f"exemption not needed any more, take it out: {exemption}")
    return wrong
