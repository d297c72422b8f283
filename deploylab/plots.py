"""One look for the whole book: each function draws on `ax` and returns it.

Figures are SVG. Lines and letters in `INK` follow the page's theme, because the build
replaces that colour by the page's own text colour; the data colours keep at least 3:1
contrast against the light and the dark background, and never carry meaning alone.
Introduced in *Meet the model*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib_inline.backend_inline import set_matplotlib_formats

__all__ = ["COLORS", "INK", "bars", "ecdf", "stacked_bar", "use_style"]

#: Replaced by the page's text colour when the book is built.
INK = "#0a0b0c"
#: Okabe and Ito's palette, without the hues too pale for a white page.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "\\\\\\", "xx")


def use_style() -> None:
    """Make every figure of a page look alike: SVG, no frame, ink in the text colour."""
    set_matplotlib_formats("svg", metadata={"Date": None})
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.2),
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "svg.fonttype": "none",
            "svg.hashsalt": "the-model-deployment-lab",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 10,
            "axes.prop_cycle": mpl.cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "legend.frameon": False,
            "legend.labelcolor": INK,
            "lines.linewidth": 2,
            "grid.color": INK,
            "grid.alpha": 0.15,
            "hatch.linewidth": 0.6,
        }
    )


def bars(
    ax: Axes,
    values: Mapping[str, float],
    *,
    label: str,
    spread: Mapping[str, tuple[float, float]] | None = None,
    fmt: str = "{:.3g}",
) -> Axes:
    """Horizontal bars, one a key, its value at the end; `spread` adds (low, high)."""
    names = list(values)
    numbers = np.array([values[name] for name in names], dtype=float)
    rows = np.arange(len(names))[::-1]
    error = None
    if spread:
        ends = np.array([spread[name] for name in names]).T
        error = np.abs(ends - numbers)
    ax.barh(rows, numbers, color=COLORS[0], height=0.6, xerr=error, ecolor=INK)
    far = numbers if error is None else numbers + error[1]
    for row, number, end in zip(rows, numbers, far, strict=True):
        ax.annotate(
            fmt.format(number), (end, row), (5, 0), textcoords="offset points",
            va="center",
        )  # fmt: skip
    ax.set_yticks(rows, names)
    ax.set_xlabel(label)
    ax.margins(x=0.12)
    return ax


def ecdf(ax: Axes, samples: Mapping[str, Sequence[float]], *, label: str) -> Axes:
    """The share of values at or below x, one line a key, on a logarithmic x axis."""
    for i, (name, values) in enumerate(samples.items()):
        ax.ecdf(values, label=name, color=COLORS[i], linestyle=_LINES[i])
    ax.set_xscale("log")
    ax.set_xlabel(label)
    ax.set_ylabel("share of requests")
    ax.grid(True)
    ax.legend(loc="lower right")
    return ax


def stacked_bar(ax: Axes, parts: Mapping[str, float], *, label: str) -> Axes:
    """One bar cut into parts, each named in the legend with its value."""
    left = 0.0
    for i, (name, value) in enumerate(parts.items()):
        ax.barh(
            [0], [value], left=left, height=0.5, color=COLORS[i % 4],
            hatch=_HATCHES[(i // 4 + i) % 4], edgecolor=INK, linewidth=0.5,
            label=f"{name}: {value:,.0f}",
        )  # fmt: skip
        left += value
    ax.set_yticks([])
    ax.set_xlabel(label)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.8), ncols=2)
    return ax
