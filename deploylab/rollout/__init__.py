"""Rollouts: one strategy object to predict, simulate, and run for real.

A strategy decides and does nothing; an environment does and decides nothing. Between
them, ``carry_out`` asks the one, tells the other, and writes the log from which every
report is drawn.
"""

from deploylab.rollout.engine import (
    Report,
    carry_out,
    carry_out_services,
    compare,
    replay,
)
from deploylab.rollout.judges import FixedSample, SplitEProcess, Threshold
from deploylab.rollout.model import (
    Counts,
    Event,
    Gate,
    Measurement,
    TrafficSplit,
    Verdict,
)
from deploylab.rollout.strategies import (
    AB,
    Bandit,
    Basic,
    BlueGreen,
    Canary,
    MultiService,
    Rolling,
    Shadow,
)

__all__ = [
    "AB",
    "Bandit",
    "Basic",
    "BlueGreen",
    "Canary",
    "Counts",
    "Event",
    "FixedSample",
    "Gate",
    "Measurement",
    "MultiService",
    "Report",
    "Rolling",
    "Shadow",
    "SplitEProcess",
    "Threshold",
    "TrafficSplit",
    "Verdict",
    "carry_out",
    "carry_out_services",
    "compare",
    "replay",
]
