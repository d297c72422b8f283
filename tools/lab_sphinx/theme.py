"""Hooks that mend the stock theme: no other host, light pages, accessible pages.

The theme's templates render a page; ``MendingTemplates`` then hands the HTML to
``mending.mend``, so that no template is copied and a theme update is a small thing.
"""

import shutil
from pathlib import Path
from typing import Any

import pydata_sphinx_theme
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.jinja2glue import BuiltinTemplateLoader

from . import mathml, mending, styles

STATIC = Path(__file__).parent / "static"
THEME_STATIC = (
    Path(pydata_sphinx_theme.__file__).parent
    / "theme"
    / "pydata_sphinx_theme"
    / "static"
)
SOLID_FONT = THEME_STATIC / "vendor/fontawesome/webfonts/fa-solid-900.ttf"

# Never loaded by a page once it is mended, so not published either.
LEFTOVERS = (
    "_static/**/*.map",
    "_static/**/*webpack-macros.html",
    "_static/locales",
    "_static/scripts/fontawesome.js*",
    "_static/sphinx-thebe.*",
    "_static/vendor",
)

REDIRECT = """<!DOCTYPE html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta http-equiv="refresh" content="0; url={url}">
</head>
<body><p><a href="{url}">{title}</a></p></body>
</html>
"""


class MendingTemplates(BuiltinTemplateLoader):
    """Sphinx's own templates, whose HTML pages are mended before they are written."""

    def init(self, builder: Any, *args: Any, **kwargs: Any) -> None:
        """Remember the builder: it knows the pages and their images."""
        self.builder = builder
        super().init(builder, *args, **kwargs)

    def render(self, template: str, context: dict[str, Any]) -> str:
        """Return the rendered template, mended where it is a page."""
        html = super().render(template, context)
        if "<html" not in html:
            return html  # a part of a page: the theme renders some by themselves
        return mending.mend(html, context["pagename"], self.builder)


def configure(app: Sphinx, config: Config) -> None:
    """Choose our parts where Sphinx lets one choose."""
    config.template_bridge = f"{__name__}.MendingTemplates"
    config.html_math_renderer = "mathml"
    config.html_static_path.append(str(STATIC))


def drop_assets(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Drop the scripts and styles of what this book does not use.

    Jupyter Book always loads sphinx-thebe, which names another host and declares the
    same constant twice, a script error on each page (seen in sphinx-thebe 0.3.1).
    """
    for kind in ("css_files", "script_files"):
        kept = []
        for asset in context.get(kind, []):
            name = str(getattr(asset, "filename", asset))
            body = getattr(asset, "attributes", {}).get("body") or ""
            if "thebe" in name or "THEBE_JS_URL" in body:
                continue
            if asset not in kept:  # some extensions add theirs once a page
                kept.append(asset)
        context[kind] = kept


def drop_thebe_nodes(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Remove the settings that sphinx-thebe appends to every page."""
    for node in list(doctree.findall(nodes.raw)):
        if "text/x-thebe-config" in node.astext() or "kernelName" in node.astext():
            node.parent.remove(node)


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Trim the theme's assets and write the redirect to the first page."""
    if exception or app.builder.format != "html":
        return
    html = Path(app.outdir)
    for pattern in LEFTOVERS:
        for path in html.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    styles.slim_style_sheets(html / "_static", SOLID_FONT)

    root = app.config.root_doc
    if root != "index":
        # The redirect of sphinx-external-toc has no title, language or link.
        url = app.builder.get_target_uri(root)
        (html / "index.html").write_text(
            REDIRECT.format(
                language=app.config.language, title=app.config.html_title, url=url
            ),
            "utf-8",
        )


def setup(app: Sphinx) -> None:
    """Register the hooks."""
    app.add_html_math_renderer(
        "mathml", (mathml.visit_math, None), (mathml.visit_math_block, None)
    )
    app.add_css_file("lab.css", priority=900)
    app.add_js_file("lab.js", loading_method="defer")
    app.connect("config-inited", configure)
    app.connect("doctree-resolved", drop_thebe_nodes, priority=900)
    app.connect("html-page-context", drop_assets, priority=900)
    app.connect("build-finished", finish, priority=900)
