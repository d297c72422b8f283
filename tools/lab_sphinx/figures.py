"""SVG figures go into the page itself, so that they follow the light or dark theme.

An ``<img>`` sees neither the page's text colour nor its style sheet.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)

# The colour by which a figure made in a cell says "the page's text colour".
SENTINEL = re.compile("#0a0b0c", re.IGNORECASE)
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def inline_svg(path: Path, alt: str, prefix: str, attributes: dict[str, str]) -> str:
    """Return the SVG file as an element of an HTML page.

    ``prefix`` makes its ids unique on the page; ``attributes`` (class, style) come
    from the image that it replaces. Raises ValueError where the file is not SVG or
    asks another host for something.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path.name} is not well-formed SVG: {error}") from error
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}title", "}script")):
                parent.remove(child)

    slim(root)
    ids = {element.get("id") for element in root.iter()} - {None}
    for element in root.iter():
        for name, value in element.attrib.items():
            fetched = name.endswith("href") and not element.tag.endswith("}a")
            if fetched and re.match(r"(\w+:)?//", value):
                raise ValueError(f"{path.name} asks another host: {value}")
            element.set(name, prefixed(name, value, ids, prefix))
        if element.tag == f"{{{SVG}}}style" and element.text:
            # Nested under the figure's id, or its rules would style the page
            # (Matplotlib writes a rule for `*`).
            text = re.sub(
                r"#([\w-]+)(?=[^{}]*\{)",
                lambda m: f"#{prefix}-{m[1]}" if m[1] in ids else m[0],
                element.text,
            )
            element.text = f"#{prefix} {{ {prefixed('', text, ids, prefix)} }}"

    if "viewBox" not in root.attrib and {"width", "height"} <= root.attrib.keys():
        size = [re.sub(r"[a-z]+$", "", root.attrib[k]) for k in ("width", "height")]
        root.set("viewBox", f"0 0 {size[0]} {size[1]}")
    root.attrib |= {"id": prefix, "role": "img", "aria-label": alt, **attributes}
    text = ElementTree.tostring(root, encoding="unicode")
    return SENTINEL.sub("currentColor", text)


def slim(root: ElementTree.Element) -> None:
    """Drop what Matplotlib writes and nobody sees: a third of the figure."""
    text = ElementTree.tostring(root, encoding="unicode")
    for element in root.iter():
        name = element.get("id")
        if name and not re.search(rf"#{re.escape(name)}\b", text):
            del element.attrib["id"]
        for key in ("d", "x", "y", "width", "height", "points", "transform"):
            if key in element.attrib:
                # A hundredth of a point is a tenth of what a good screen shows.
                value = LONG_NUMBER.sub(shorter, element.attrib[key])
                element.set(key, re.sub(r"\s+", " ", value).strip())
        if not element.tag.endswith(("}text", "}tspan", "}style")):
            element.text = (element.text or "").strip()
            for child in element:
                child.tail = (child.tail or "").strip()


def shorter(number: re.Match[str]) -> str:
    """Return the number with two decimals at most."""
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def prefixed(name: str, value: str, ids: set[str], prefix: str) -> str:
    """Return an attribute's value with the references to ``ids`` prefixed."""
    if name == "id":
        return f"{prefix}-{value}"
    if name.startswith("aria-"):
        return " ".join(f"{prefix}-{v}" if v in ids else v for v in value.split())
    if name.endswith("href") and value[1:] in ids:
        return f"#{prefix}-{value[1:]}"
    return re.sub(
        r"url\(#([^)]+)\)",
        lambda m: f"url(#{prefix}-{m[1]})" if m[1] in ids else m[0],
        value,
    )
