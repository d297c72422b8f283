"""The theme's style sheets without the rules and icons that no page uses.

The stock theme loads 1.5 MB of script and 0.5 MB of style sheets on every page: all of
Bootstrap, and Font Awesome twice, as a script that draws every icon it knows and as
web fonts. https://github.com/pydata/pydata-sphinx-theme/issues/2379

Here a rule stays if its classes and ids occur in some page or script of the finished
book. The icons that the remaining rules name are cut out of the solid font, a few kB,
and stand in the style sheet itself, since some browsers refuse font files to a book
that is opened from a folder.
"""

import base64
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every step

THEME_SHEET = "styles/pydata-sphinx-theme.css"
LARGE_SHEETS = (
    THEME_SHEET,
    "styles/sphinx-book-theme.css",
    "sphinx-design*.css",
    "mystnb*.css",
)
MARK = "/* slimmed */"

COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
BRACE = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]""")
NAME = re.compile(r"[.#]((?:[\w-]|\\.)+)")
ICON = re.compile(r'content:\s*"\\([ef][0-9a-f]{3})"|--pst-icon-[\w-]+:\s*"(.)"')


def slim_style_sheets(static: Path, font_file: Path) -> None:
    """Slim the style sheets in the built book's ``_static`` folder.

    ``font_file`` is the theme's solid icon font as TTF. Sheets that are slim already
    stay as they are: Sphinx copies them anew whenever a page has changed.
    """
    words = used_words(static.parent)
    for path in (path for name in LARGE_SHEETS for path in static.glob(name)):
        css = path.read_text("utf-8")
        if not css.startswith(MARK):
            path.write_text(MARK + slim(css, words), "utf-8")
    theme_sheet = static / THEME_SHEET
    css = theme_sheet.read_text("utf-8")
    if "@font-face" not in css:
        icons = {
            int(code, 16) if code else ord(character)
            for path in static.rglob("*.css")
            for code, character in ICON.findall(path.read_text("utf-8"))
        }
        theme_sheet.write_text(css + font_face(font_file, icons), "utf-8")


def used_words(html: Path) -> set[str]:
    """Return all words of the book's pages and scripts; class names are among them."""
    words: set[str] = set()
    for path in [*html.rglob("*.html"), *html.rglob("_static/**/*.js")]:
        words.update(re.findall(r"[\w-]+", path.read_text("utf-8")))
    return words


def slim(css: str, words: set[str]) -> str:
    """Return ``css`` without the rules whose classes or ids are not in ``words``."""
    kept = []
    for prelude, block in rules(COMMENT.sub("", css)):
        if block is None:
            kept.append(f"{prelude};")
        elif prelude.startswith(("@media", "@supports", "@layer", "@container")):
            if inner := slim(block, words):
                kept.append(f"{prelude}{{{inner}}}")
        elif prelude.startswith("@"):
            if "Font Awesome" not in block:
                kept.append(f"{prelude}{{{block}}}")
        elif selectors := [s for s in split(prelude) if is_used(s, words)]:
            kept.append(f"{','.join(selectors)}{{{block.strip()}}}")
    return "".join(kept)


def rules(css: str) -> Iterator[tuple[str, str | None]]:
    """Yield (selector or at-rule, block), the block None for a mere statement."""
    start = depth = 0
    prelude = ""
    for token in BRACE.finditer(css):
        if token[0] == "{":
            depth += 1
            if depth == 1:
                prelude = css[start : token.start()].strip()
                start = token.end()
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                yield prelude, css[start : token.start()]
                start = token.end()
        elif token[0] == ";" and depth == 0:
            yield css[start : token.start()].strip(), None
            start = token.end()


def split(selectors: str) -> list[str]:
    """Return the selectors of a list; commas in parentheses do not part them."""
    return re.split(r",(?![^()]*(?:\([^()]*\)[^()]*)*\))", selectors)


def is_used(selector: str, words: set[str]) -> bool:
    """Tell whether all classes and ids of a selector occur; ``:not()`` aside."""
    outside = selector
    while "(" in outside:
        shorter = re.sub(r"\([^()]*\)", "", outside)
        if shorter == outside:
            return True  # beyond this function: keep
        outside = shorter
    outside = re.sub(r"\[[^\]]*\]", "", outside)
    names = (re.sub(r"\\(.)", r"\1", name) for name in NAME.findall(outside))
    return all(
        # Bootstrap puts some names together as it runs: "bs-tooltip-" and a side.
        words.issuperset(re.findall(r"[\w-]+", name)) or name.startswith("bs-")
        for name in names
    )


def font_face(font_file: Path, code_points: set[int]) -> str:
    """Return a ``@font-face`` rule that holds the glyphs of ``code_points``."""
    font = TTFont(font_file, recalcTimestamp=False)
    subsetter = subset.Subsetter(subset.Options(hinting=False, layout_features=[]))
    subsetter.populate(unicodes=code_points)
    subsetter.subset(font)
    ttf = io.BytesIO()
    font.save(ttf)
    data = base64.b64encode(ttf.getvalue()).decode()
    return (
        '@font-face{font-family:"Font Awesome 6 Free";font-weight:900;'
        f'src:url("data:font/ttf;base64,{data}") format("truetype")}}'
    )
