"""Formulas become MathML while the book is built.

MathJax would be a script of 1 MB or more, from another host unless vendored, and
would lay formulas out anew on every visit. Browsers draw MathML by themselves and
screen readers read it.
"""

import re
from html import escape
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.locale import _
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

MATHML = "{http://www.w3.org/1998/Math/MathML}"
CHILDREN = {
    **dict.fromkeys(["mfrac", "msub", "msup", "mover", "munder", "mroot"], 2),
    **dict.fromkeys(["msubsup", "munderover"], 3),
}


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return a ``<math>`` element; ``display`` is ``inline`` or ``block``.

    Raises ValueError where the formula cannot be converted whole: the converter
    itself passes over unknown commands and missing arguments without a word.
    """
    latex = latex.strip()
    # The converter knows `split` but not `aligned`, which does the same here.
    source = re.sub(r"\{(aligned|align)\}", "{split}", latex)
    if r"\\" in source and r"\begin" not in source:
        source = rf"\begin{{split}}{source}\end{{split}}"  # as Sphinx does
    try:
        mathml = convert(source, display=display)
    except Exception as error:  # the converter's errors share no base class
        raise ValueError(type(error).__name__) from error
    # A comma in braces, 1{,}000, is no separator and takes no space.
    mathml = mathml.replace(
        "<mrow><mo>&#x0002C;</mo></mrow>", '<mo rspace="0">&#x0002C;</mo>'
    )
    mathml = mathml.replace("<mi>&</mi>", "<mi>&amp;</mi>")
    root = ElementTree.fromstring(mathml)
    for element in root.iter():
        text = element.text or ""
        if text.startswith("\\") and len(text) > 1:
            raise ValueError(f"unknown command {text}")
        if text == "&" or element.get("linebreak") == "newline":
            raise ValueError("an alignment outside an environment known here")
        name = element.tag.removeprefix(MATHML)
        if len(element) != CHILDREN.get(name, len(element)):
            raise ValueError(f"an argument is missing ({name})")
    return mathml.replace("<math ", f'<math alttext="{escape(latex)}" ', 1)


def convert_node(node: nodes.Element, display: str) -> str:
    """Return the node's formula as MathML, or its source after a warning."""
    latex = node.astext()
    try:
        return to_mathml(latex, display)
    except ValueError as error:
        logger.warning("formula not converted, %s: %s", error, latex, location=node)
        return f"<code>{escape(latex)}</code>"


def visit_math(self: HTML5Translator, node: nodes.math) -> None:
    """Write an inline formula."""
    self.body.append(self.starttag(node, "span", "", CLASS="math"))
    self.body.append(convert_node(node, "inline") + "</span>")
    raise nodes.SkipNode


def visit_math_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a displayed formula with its number, to which ``{eq}`` links."""
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(convert_node(node, "block"))
    if node.get("number"):
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})')
        self.add_permalink_ref(node, _("Link to this equation"))
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode
