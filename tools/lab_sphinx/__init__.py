"""The book's own Sphinx extension: what the stock theme lacks."""

from importlib import import_module
from importlib.util import find_spec

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Set up the parts of the extension that are there."""
    for part in ("theme", "executed"):
        if find_spec(f"{__name__}.{part}"):
            import_module(f"{__name__}.{part}").setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
