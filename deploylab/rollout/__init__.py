"""Rollouts: one strategy object to predict, simulate, and run for real.

A strategy decides and does nothing; an environment does and decides nothing. Between
them, ``carry_out`` asks the one, tells the other, and writes the log from which every
report is drawn.
"""

from deploylab.rollout.engine import Report, carry_out
from deploylab.rollout.judges import SplitEProcess, Threshold
from deploylab.rollout.model import (
    Counts,
    Event,
    Gate,
    Group,
    Measurement,
    TrafficSplit,
    Verdict,
)
from deploylab.rollout.strategies import BlueGreen, Canary

__all__ = [
    "BlueGreen",
    "Canary",
    "Counts",
    "Event",
    "Gate",
    "Group",
    "Measurement",
    "Report",
    "SplitEProcess",
    "Threshold",
    "TrafficSplit",
    "Verdict",
    "carry_out",
]
