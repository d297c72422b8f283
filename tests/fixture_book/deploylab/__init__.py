"""Stands in for the real package; its own folder comes first on the path."""


def score(rows: int) -> int:
    """Rows answered rightly, out of ``rows``."""
    return rows - 1
