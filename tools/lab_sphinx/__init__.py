"""The book's own Sphinx extension."""
def setup(app):
    return {}
