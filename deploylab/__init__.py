"""The support package of The Model Deployment Lab: open plumbing, small on purpose.

The lesson is on the page; what would distract from it is in here.
"""

from pathlib import Path

#: The folder that holds `book/` and this package (the lab runs from a checkout).
ROOT = Path(__file__).resolve().parents[1]

__all__ = ["ROOT"]
