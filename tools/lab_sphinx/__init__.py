"""The book's own Sphinx extension: executed pages, and what the theme lacks."""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Set up both halves; imported here, so that a test can take one by itself."""
    from . import executed, theme

    executed.setup(app)
    theme.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
