"""The support package of The Model Deployment Lab: open plumbing, small on purpose.

The lesson is on the page; what would distract from it is in here.
"""

from pathlib import Path
from typing import Any

#: The folder that holds `book/` and this package (the lab runs from a checkout).
ROOT = Path(__file__).resolve().parents[1]

__all__ = ["ROOT", "check"]


def __getattr__(name: str) -> Any:
    """`from deploylab import check`, loaded only where it is asked for."""
    if name == "check":
        from deploylab.exercises import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
