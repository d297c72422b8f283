"""`deploylab lint`: what a rollout configuration does, and the traps it falls into.

Reads Argo Rollouts, Flagger and our own strategies as YAML, computes the chance that a
gate aborts a healthy release and that it lets a bad one through, and says what is known
to go wrong. Imports nothing of the serving stack.
"""

from deploylab.lint.compute import Chances, World
from deploylab.lint.findings import RULES, SEVERITIES, Finding, Gate
from deploylab.lint.report import as_json, as_text
from deploylab.lint.run import Report, lint

__all__ = [
    "RULES",
    "SEVERITIES",
    "Chances",
    "Finding",
    "Gate",
    "Report",
    "World",
    "as_json",
    "as_text",
    "lint",
]
