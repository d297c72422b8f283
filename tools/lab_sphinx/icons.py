"""The theme's icons without its 1.5 MB script and 400 kB of fonts and rules.

The theme carries Font Awesome twice: as a script that draws every icon it knows, and
as web fonts. The icons that pages use are cut out of the solid font, a few kB, and
put into the style sheet itself, since some browsers refuse font files to a book that
is opened from a folder. https://github.com/pydata/pydata-sphinx-theme/issues/2379
"""

import base64
import io
import logging
import re
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every step

ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\([0-9a-f]+)"\}')
ICON_CONTENT = re.compile(r'content:\s*"\\(f[0-9a-f]{3})"')
ICON_VARIABLE = re.compile(r'--pst-icon-[\w-]+:\s*"(.)"')


def icon_names(html_folder: Path) -> set[str]:
    """Return the icons that pages or their scripts name, such as ``fa-bars``."""
    names: set[str] = set()
    for path in [*html_folder.rglob("*.html"), *html_folder.rglob("_static/**/*.js")]:
        names.update(re.findall(r"\bfa-[a-z][a-z0-9-]*", path.read_text("utf-8")))
    return names


def icon_code_points(html_folder: Path) -> set[int]:
    """Return the icons that other extensions' style sheets name by code point."""
    points: set[int] = set()
    for path in html_folder.glob("_static/*.css"):
        points.update(int(c, 16) for c in ICON_CONTENT.findall(path.read_text("utf-8")))
    return points


def slim_style_sheet(
    css: str, font_file: Path, names: set[str], code_points: set[int]
) -> str:
    """Return the theme's style sheet with the icons asked for and no others.

    ``css`` is the theme's own sheet, ``font_file`` its solid font as TTF; ``names``
    and ``code_points`` say which icons the pages use.
    """
    code_points = code_points | {ord(icon) for icon in ICON_VARIABLE.findall(css)}

    def keep_if_used(rule: re.Match[str]) -> str:
        if names.isdisjoint(re.findall(r"fa-[\w-]+", rule[1])):
            return ""
        code_points.add(int(rule[2], 16))
        return rule[0]

    css = ICON_RULE.sub(keep_if_used, css)
    css = re.sub(r"@font-face\{[^}]*Font Awesome[^}]*\}", "", css)
    css = re.sub(r"/\*# sourceMappingURL=.*?\*/", "", css)
    return font_face(font_file, code_points) + css


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
