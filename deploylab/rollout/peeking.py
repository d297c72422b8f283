"""What it costs to look at a test again and again, and what mends it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import optimize, stats

#: Nodes of the quadrature in each step; doubling them changes no tenth digit.
NODES = 160


def chance_of_alarm(bounds: np.ndarray | list[float], sides: int = 2) -> float:
    """Chance that a z-test reaches one of its bounds, if there is nothing to find.

    bounds: for each look the z at which it alarms, as many as there are looks; the
    sample grows by the same amount before each. sides: 2 if it alarms either way, 1 if
    only above. A float from 0 to 1.

    By the recursion of Armitage, McPherson and Rowe, Repeated significance tests on
    accumulating data, J. R. Stat. Soc. A 132 (1969), 235-244: the density of the sum
    among those cases without an alarm so far is folded with one more normal increment.
    """
    bounds = np.asarray(bounds, float)
    if sides not in (1, 2):
        raise ValueError(f"a test has 1 or 2 sides, not {sides}")
    if not bounds.size or not (bounds > 0).all():
        raise ValueError("there is one bound above 0 for each look, and at least one")
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    places, density = np.array([0.0]), np.array([1.0])
    for look, bound in enumerate(bounds, start=1):
        top = bound * np.sqrt(look)
        bottom = -top if sides == 2 else -10 * np.sqrt(look)
        half = (top - bottom) / 2
        now = half * nodes + (top + bottom) / 2
        # The density of one normal increment, folded with what is there so far.
        density = np.exp(-((now[:, None] - places) ** 2) / 2) @ density
        density *= half * weights / np.sqrt(2 * np.pi)
        places = now
    return float(1 - density.sum())


def peeking(looks: int, alpha: float = 0.05, sides: int = 2) -> float:
    """Chance of a false alarm of a test at level alpha that is looked at so often."""
    if looks < 1:
        raise ValueError(f"looks is how often one looks, 1 or more, not {looks}")
    return chance_of_alarm([stats.norm.isf(alpha / sides)] * looks, sides)


def pocock(looks: int, alpha: float = 0.05, sides: int = 2) -> np.ndarray:
    """One bound for all looks that keeps the level (Pocock, Biometrika 64, 1977)."""
    return _bounds(lambda c: np.full(looks, c), looks, alpha, sides)


def obrien_fleming(looks: int, alpha: float = 0.05, sides: int = 2) -> np.ndarray:
    """Bounds that fall as 1 / sqrt(look) (O'Brien and Fleming, Biometrics 35, 1979)."""
    falling = np.sqrt(looks / np.arange(1, looks + 1))
    return _bounds(lambda c: c * falling, looks, alpha, sides)


def _bounds(
    shape: Callable[[float], np.ndarray], looks: int, alpha: float, sides: int
) -> np.ndarray:
    if looks < 1:
        raise ValueError(f"looks is how often one looks, 1 or more, not {looks}")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is a chance above 0 and below a half, not {alpha}")
    c = optimize.brentq(
        lambda c: chance_of_alarm(shape(c), sides) - alpha,
        stats.norm.isf(alpha / sides) / 2,
        stats.norm.isf(alpha / sides / looks) + 1,
        xtol=1e-11,
    )
    return shape(c)


def pooled_z(
    mine: np.ndarray, requests: np.ndarray, others: np.ndarray, of: np.ndarray
) -> np.ndarray:
    """The z of two shares, ``mine / requests`` less ``others / of``, pooled.

    The textbook test, for arrays that broadcast; 0 where nothing varies. Positive if
    the first share is larger (Fleiss, Levin and Paik, Statistical Methods for Rates and
    Proportions, 3rd ed., 2003).
    """
    mine, requests, others, of = map(np.asarray, (mine, requests, others, of))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (mine + others) / (requests + of)
        spread = np.sqrt(share * (1 - share) * (1 / requests + 1 / of))
        z = (mine / requests - others / of) / spread
    return np.where(np.isfinite(z), z, 0.0)


def split_p(mine: np.ndarray, others: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Chance of so many of all events or more, if each is the candidate's with
    ``share``.

    The exact one-sided test of two rates, given the number of events (Przyborowski and
    Wilenski, Biometrika 31, 1940); arrays broadcast.
    """
    mine, others = np.asarray(mine), np.asarray(others)
    return stats.binom.sf(mine - 1, mine + others, share)
