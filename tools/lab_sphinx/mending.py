"""Mends a page's finished HTML, and warns of what an author must mend.

Warnings turn the build red under ``-W``.
"""

import re
import urllib.parse
from pathlib import Path

from bs4 import BeautifulSoup, Comment, Tag
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.util import logging

from .figures import inline_svg

logger = logging.getLogger(__name__)

# What pandas prints for a number: 1,250, -0.5, 3.1e-05, 12 %, NaN.
NUMBER = re.compile(r"\s*([-−+]?[\d.,  ]+(e[-+]?\d+)?\s*[%a-zµ]{0,3}|NaN|inf)\s*")

THEME_SCRIPT = """
    const stored = localStorage.getItem("theme");
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.dataset.mode = localStorage.getItem("mode") || "auto";
    document.documentElement.dataset.theme = stored || (dark ? "dark" : "light");
"""


def mend(html: str, pagename: str, builder: StandaloneHTMLBuilder) -> str:
    """Return the page's HTML mended; warn of missing alt text and other hosts."""
    soup = BeautifulSoup(html, "html.parser")
    drop_scripts(soup, pagename)
    figures = replace_svg_images(soup, pagename, builder)
    mend_head(soup)
    mend_ids(soup)
    mend_names(soup)
    mend_roles(soup)
    mend_buttons(soup)
    mend_dataframes(soup)
    warn_of_missing_alt(soup, pagename)
    warn_of_other_hosts(soup, pagename)
    html = soup.decode()
    for token, svg in figures.items():
        html = html.replace(f"<!--{token}-->", svg)
    return html


def drop_scripts(soup: BeautifulSoup, pagename: str) -> None:
    """Remove what the theme's layout loads and this book does not need."""
    for script in soup.find_all("script", src=True):
        name = script["src"].split("?")[0].rpartition("/")[2]
        # 1.5 MB; see styles.py.
        unwanted = {"fontawesome.js"}
        if pagename != "search":
            # Only search-as-you-type, which is off, needs the index on every page.
            unwanted |= {"searchtools.js", "language_data.js", "searchindex.js"}
        if name in unwanted:
            script.decompose()


def mend_head(soup: BeautifulSoup) -> None:
    """Choose light or dark before the page is drawn, and name the screen once."""
    # The theme sets an empty theme for a first visit, and mends it with a deferred
    # script: a dark reader sees a white flash, and without scripts there is no theme.
    soup.html["data-theme"] = "light"
    for script in soup.head.find_all("script", attrs={"data-cfasync": True}):
        script.string = THEME_SCRIPT
    for viewport in soup.select("head meta[name=viewport]")[1:]:
        viewport.decompose()


def mend_ids(soup: BeautifulSoup) -> None:
    """Rename ids that sphinx-exercise repeats for each exercise on a page."""
    for name in ("exercise-content", "solution-content"):
        for number, tag in enumerate(soup.find_all(id=name), start=1):
            tag["id"] = f"{name}-{number}"


def mend_names(soup: BeautifulSoup) -> None:
    """Name what a screen reader would meet without a name; hide mere ornaments."""
    for icon in soup.select("[class*='fa-']"):
        icon["aria-hidden"] = "true"
    # The arrow that unfolds a part of the table of contents.
    for summary in soup.select("li.has-children > details > summary"):
        link = summary.find_parent("li").find("a")
        summary["aria-label"] = f"Pages under {link.get_text(strip=True)}"
    # The book's title stands outside of every landmark.
    for title in soup.select(".sidebar-primary-item:has(> .navbar-brand)"):
        title["role"] = "navigation"
        title["aria-label"] = "Home"
    # Scripts (the theme's, and lab.js) let the keyboard into these where they scroll.
    for name, selector in (
        ("Code", "div.highlight > pre"),
        ("Table", ".pst-scrollable-table-container"),
        ("Output", ".cell_output > .output"),
        ("Formula", "main div.math"),
    ):
        for tag in soup.select(selector):
            tag["role"] = "group"
            tag["aria-label"] = name


def mend_roles(soup: BeautifulSoup) -> None:
    """Take away roles whose rules the page breaks."""
    # docutils calls the bibliography a list, without list items in it.
    for tag in soup.select(".citation-list[role=list]"):
        del tag["role"]
    for tag in soup.select(".citation[role=doc-biblioentry]"):
        del tag["role"]


def mend_buttons(soup: BeautifulSoup) -> None:
    """Let the buttons of launch.py say what they do, to browsers and screen readers."""
    for link in soup.select("a[class*='-notebook-button']"):
        link["aria-label"] = link["title"]
        if "btn-download-notebook-button" in link["class"]:
            del link["target"]
            link["download"] = ""


def mend_dataframes(soup: BeautifulSoup) -> None:
    """Give pandas' tables one row of heads, and words on the left."""
    for table in soup.select("table.dataframe"):
        heads = table.select("thead tr")
        if len(heads) == 2 and not any(
            th.get_text(strip=True) for th in heads[1].find_all("th")[1:]
        ):
            # The index's name stands in a row of its own, among empty heads.
            heads[0].th.string = heads[1].th.get_text(strip=True)
            heads[1].decompose()
        for th in table.select("thead th"):
            if not th.get_text(strip=True):
                th.name = "td"  # an empty head heads nothing
        rows = table.select("tbody tr")
        for column in zip(*(row.find_all("td") for row in rows), strict=False):
            words = [cell for cell in column if not NUMBER.fullmatch(cell.get_text())]
            if len(words) * 2 > len(column):
                place = len(column[0].find_previous_siblings()) + 1
                for cell in (*column, *table.select(f"thead tr > :nth-child({place})")):
                    cell["class"] = [*cell.get("class", []), "lab-text"]


def replace_svg_images(
    soup: BeautifulSoup, pagename: str, builder: StandaloneHTMLBuilder
) -> dict[str, str]:
    """Replace ``<img>`` of SVG files by marks; return the SVG to put at each mark.

    Marks, since the parser would write ``viewBox`` and ``clipPath`` in lower case.
    """
    sources = {name: uri for uri, name in builder.images.items()}
    figures = {}
    for number, img in enumerate(soup.select("img[src$='.svg']"), start=1):
        uri = sources.get(urllib.parse.unquote(img["src"].rpartition("/")[2]))
        if uri is None or missing_alt(img):
            continue
        kept = {key: img[key] for key in ("style", "width") if key in img.attrs}
        kept["class"] = " ".join(["lab-svg", *img.get("class", [])])
        path = Path(builder.srcdir, uri)
        try:
            svg = inline_svg(path, img["alt"], f"lab-svg-{number}", kept)
        except ValueError as error:
            warn(pagename, str(error))
            continue
        token = f"lab-figure-{number}"
        figures[token] = svg
        img.replace_with(Comment(token))
    return figures


def missing_alt(img: Tag) -> bool:
    """Tell whether an image lacks alt text; Sphinx writes the file name instead."""
    alt = str(img.get("alt") or "").strip()
    return not alt or alt == img.get("src") or bool(re.fullmatch(r"\S+\.\w{3,4}", alt))


def warn_of_missing_alt(soup: BeautifulSoup, pagename: str) -> None:
    """Warn of each picture in the text that a blind reader would miss."""
    for img in soup.select("main img"):
        if missing_alt(img):
            warn(pagename, f"an image has no alt text: {img.get('src', '')[:80]}")
    for svg in soup.select("article svg"):
        hidden = svg.get("aria-hidden") == "true"
        if not hidden and not (svg.get("aria-label") or svg.find("title")):
            svg["aria-hidden"] = "true"


def warn_of_other_hosts(soup: BeautifulSoup, pagename: str) -> None:
    """Warn of each script, style, font, frame or picture from another host."""
    for url in other_hosts(soup):
        warn(pagename, f"the page asks another host: {url}")


def other_hosts(soup: BeautifulSoup) -> list[str]:
    """Return the URLs that a browser would fetch from another host."""
    urls = []
    for tag in soup.find_all(True):
        if tag.name == "link":
            # These are only named, never fetched.
            rel = set(tag.get("rel", []))
            if not rel & {"canonical", "license", "author", "alternate", "help"}:
                urls.append(tag.get("href", ""))
        elif tag.name == "meta" and str(tag.get("http-equiv")).lower() == "refresh":
            urls.append(tag.get("content", "").rpartition("=")[2])
        elif tag.name == "object":
            urls.append(tag.get("data", ""))
        elif tag.name in ("image", "use"):  # in SVG
            urls.append(tag.get("href", ""))
        for name in ("src", "poster", "background", "srcset"):
            urls += [u.split()[0] for u in tag.get(name, "").split(",") if u.strip()]
        styles = tag.get("style", "")
        if tag.name == "style":
            styles += tag.get_text()
        urls += re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", styles)
    return [url for url in urls if re.match(r"(https?:|wss?:|ftp:)?//", url.strip())]


def warn(pagename: str, message: str) -> None:
    """Warn with the page's name."""
    logger.warning(message, location=pagename)
