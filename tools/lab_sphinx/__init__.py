"""The book's own Sphinx extension: executed pages, notebooks, what the theme lacks."""

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Set up all parts; imported here, so that a test can take one by itself."""
    from . import executed, launch, theme

    executed.setup(app)
    theme.setup(app)
    launch.setup(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
