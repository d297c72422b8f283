"""What judges make of measurements before they judge: a first sample, a series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploylab.rollout.model import Counts, Measurement


def first_sample(
    measurements: Sequence[Measurement], at_least: int
) -> tuple[Counts, Counts] | None:
    """The candidate's and the stable role's counts when both first have so many
    requests.

    What comes later is left out. So a judge that looks at nothing else may be asked as
    often as one likes: it has one sample, settled by its size and not by its outcome,
    and its answer stays what it is. None if there are too few requests as yet.
    """
    candidate, stable = Counts(), Counts()
    for one in measurements:
        candidate, stable = candidate + one.candidate, stable + one.stable
        if min(candidate.requests, stable.requests) >= at_least:
            return candidate, stable
    return None


def series(
    metric: str, measurements: Sequence[Measurement], window_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """The share of events in each window, of the candidate and of the stable role.

    window_s: length of a window in seconds; those that are not full are left out.
    Returns two arrays of one number a window, NaN where a role had no request. Windows
    go on when the share of the traffic changes.
    """
    points: tuple[list[float], list[float]] = ([], [])
    sums, start = (Counts(), Counts()), None
    for one in measurements:
        start = one.from_s if start is None else start
        sums = (sums[0] + one.candidate, sums[1] + one.stable)
        if one.to_s - start >= window_s - 1e-9:
            for found, counts in zip(points, sums, strict=True):
                events = counts.events.get(metric, 0)
                requests = counts.requests
                found.append(events / requests if requests else np.nan)
            sums, start = (Counts(), Counts()), None
    return np.array(points[0]), np.array(points[1])
