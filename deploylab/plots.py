"""One look for the whole book: each function draws on `ax` and returns it.

Figures are SVG. Lines and letters in `INK` follow the page's theme, because the build
replaces that colour by the page's own text colour; the data colours keep at least 3:1
contrast against the light and the dark background, and never carry meaning alone.
Introduced in *Meet the model*.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend_handler import HandlerLine2D, HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from matplotlib_inline.backend_inline import set_matplotlib_formats

if TYPE_CHECKING:
    import pandas as pd

    from deploylab.rollout import Event, Measurement, Report

__all__ = [
    "COLORS",
    "INK",
    "bars",
    "comparison",
    "ecdf",
    "stacked_bar",
    "timeline",
    "use_style",
]

#: Replaced by the page's text colour when the book is built.
INK = "#0a0b0c"
#: Okabe and Ito's palette, without the hues too pale for a white page.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_LINES = ("-", "--", "-.", ":")
_HATCHES = ("", "///", "\\\\\\", "xx")
_SMALL = 9  # points: the least that is still read with ease at 700 px
_ROLES = {  # colour, marker, hatch
    "stable": (COLORS[0], "o", ""),
    "candidate": (COLORS[1], "^", "///"),
}
_LINES_AT = ("deploy", "shift", "abort", "promote")
_VERDICTS = {  # colour, marker, hatch
    "successful": (COLORS[2], "o", ""),
    "failed": (COLORS[1], "X", "xx"),
    "inconclusive": (COLORS[3], "D", "///"),
    "error": (INK, "s", "..."),
}
_COLUMNS = {  # colour, marker
    "predicted": (COLORS[0], "D"),
    "simulated": (COLORS[2], "o"),
    "live": (COLORS[1], "^"),
}


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


def timeline(
    axes: Sequence[Axes] | np.ndarray,
    report: Report,
    *,
    metric: str = "errors",
    judge: Any = None,
    of: str = "users",
) -> Sequence[Axes] | np.ndarray:
    """A rollout over time: traffic, events of a metric, and the evidence.

    axes: the three of ``plt.subplots(3, 1, sharex=True, figsize=(7, 5))``, from the
    top. report: its measurements and its log, both in seconds since the start.
    judge: whose e-value is drawn, a ``SplitEProcess``; any other judge, or none, gives
    a band of the verdicts in the log. of: whose requests are drawn: "users", or
    "mirror" for the copies that a shadow answers.

    The top panel stacks the requests per second of the candidate and of the stable
    version, with the share that the router was told: 100 % is at the mean traffic, so
    that under even traffic its line lies on the candidate's edge if the router does as
    it is told. The middle one has a mark for each stretch of time in which a role had
    events, at their number. Both put ticks together, to about 50 stretches across
    (none goes over a change of the share); the e-value is drawn tick by tick. Lines
    through all panels: deploy, shift, abort, promote.

    A report without measurements, candidate traffic or log gives emptier panels.
    ValueError if there are not three axes.
    """
    panels = list(np.ravel(axes))
    if len(panels) != 3:
        raise ValueError(
            f"a timeline has three panels, and this gives it {len(panels)} axes; make "
            "them with fig, axes = plt.subplots(3, 1, sharex=True)"
        )
    drawn = [m for m in report.measurements if m.of == of]
    times = [m.from_s for m in drawn]
    times += [m.to_s for m in drawn] + [e.at_s for e in report.log]
    start, end = (min(times), max(times)) if times else (0.0, 0.0)
    end = end if end > start else start + 1
    for ax in panels:
        ax.set_xlim(start - 0.02 * (end - start), end + 0.02 * (end - start))
        ax.grid(True, axis="y")
    bins = _bins(drawn, (end - start) / 50)
    _draw_traffic(panels[0], bins, drawn)
    _draw_events(panels[1], bins, metric)
    if hasattr(judge, "e_values"):
        _draw_evidence(panels[2], drawn, metric, judge)
    else:
        _draw_verdicts(panels[2], report.log, end)
    _draw_log(panels, report.log)
    panels[2].set_xlabel("seconds since the start")
    below = ScaledTranslation(0, -36 / 72, panels[2].figure.dpi_scale_trans)
    panels[2].legend(
        handles=[
            *(
                (
                    Patch(fc="none" if hatch else (c, 0.22), ec=c, hatch=hatch),
                    Line2D([], [], color=c, marker=mark, markersize=5, linestyle=""),
                )
                for c, mark, hatch in _ROLES.values()
            ),
            Line2D([], [], color=INK, linestyle=":", linewidth=1.2),
        ],
        labels=[*_ROLES, "share that the router was told"],
        handler_map={tuple: HandlerTuple(ndivide=None)},
        loc="upper center", bbox_to_anchor=(0.5, 0), ncols=3, borderaxespad=0,
        bbox_transform=panels[2].transAxes + below, handlelength=4,
        handleheight=1,
    )  # fmt: skip
    panels[0].figure.align_ylabels(panels)
    return axes


def comparison(ax: Axes, table: pd.DataFrame, *, label: str) -> Axes:
    """The same figure from several sources: a dot for each, with its number.

    table: a row for each case (its index names them), and at least one of the columns
    "predicted", "simulated", "live"; "low" and "high", together, are the ends of the
    prediction's interval. NaN: there is none. label: what the numbers are, and their
    unit. Give it a figure of about ``(7, 0.9 + 0.6 * len(table))`` inches; for a
    logarithmic axis call ``ax.set_xscale("log")`` before.

    ValueError if a column is missing or there is no row.
    """
    sources = [name for name in _COLUMNS if name in table]
    if not sources or not len(table):
        raise ValueError(
            "nothing to compare: the table needs a row, and a column named "
            f"{', '.join(_COLUMNS)} (one or more of them); it has {len(table)} rows "
            f"and the columns {list(table)}"
        )
    if ("low" in table) != ("high" in table):
        raise ValueError(
            'an interval has two ends: give the table both "low" and "high", or neither'
        )
    rows = np.arange(len(table))[::-1].astype(float)
    above = np.linspace(0.2, -0.3, len(sources)) if len(sources) > 1 else [0.0]
    ends = np.full((2, len(table)), np.nan)
    if "low" in table:
        ends = table[["low", "high"]].to_numpy(dtype=float).T
        known = np.isfinite(ends).all(axis=0)
        wide = ends[1, known] - ends[0, known]
        ax.barh(
            rows[known], wide, left=ends[0, known], height=0.84, color=COLORS[0],
            alpha=0.13, linewidth=0,
        )  # fmt: skip
        # Above the dots, where it strikes through no number.
        for (low, high), row in zip(ends[:, known].T, rows[known], strict=True):
            ax.plot(
                [low, high], [row + 0.42] * 2, "-|", color=COLORS[0], markersize=8,
                markeredgewidth=2,
            )  # fmt: skip
    widest = 0.0
    for name, up in zip(sources, above, strict=True):
        color, marker = _COLUMNS[name]
        numbers = table[name].to_numpy(dtype=float)
        ax.plot(
            numbers, rows + up, marker, color=color, markersize=7, label=name,
            zorder=3, clip_on=False,
        )  # fmt: skip
        for row, number in zip(rows, numbers, strict=True):
            if np.isfinite(number):
                text = _short(number)
                widest = max(widest, _width(text))
                ax.annotate(
                    text, (number, row + up), (8, 0), textcoords="offset points",
                    va="center_baseline", fontsize=_SMALL,
                )  # fmt: skip
    two_ended = {}
    if "low" in table:
        [sample] = ax.plot(
            [], [], "-|", color=COLORS[0], markersize=8, markeredgewidth=2,
            label="predicted interval",
        )  # fmt: skip
        two_ended[sample] = HandlerLine2D(numpoints=2)
    for line in rows[:-1] - 0.46:
        ax.axhline(line, color=INK, alpha=0.15, linewidth=0.8)
    ax.set_yticks(rows, [str(name) for name in table.index])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.55, len(table) - 0.45)
    ax.set_xlabel(label)
    ax.use_sticky_edges = False
    part = min((widest + 16) / _points_across(ax), 0.3)
    ax.margins(x=part / (1 - 2 * part))
    low = np.nanmin([*table[sources].min(), *ends[0], np.inf])
    if ax.get_xscale() == "linear" and 0 <= low < np.inf:
        ax.set_xlim(left=0 if low > 0 else -0.02 * ax.get_xlim()[1])
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4, handletextpad=0.4,
        columnspacing=1.5,
        handler_map=two_ended,
    )  # fmt: skip
    return ax


def _bins(measurements: Sequence[Measurement], width_s: float) -> list[list]:
    """Measurements in stretches of about equal length, in order.

    None goes over a change of the share, or over a time that was not measured.
    """
    runs: list[list] = []
    for one in measurements:
        last = runs[-1][-1] if runs else None
        late_s = one.from_s - last.to_s if last else 0.0  # real clocks lose a little
        if last and last.share == one.share and late_s < (one.to_s - one.from_s) / 2:
            runs[-1].append(one)
        else:
            runs.append([one])
    bins = []
    for run in runs:
        start_s = run[0].from_s
        length_s = max(run[-1].to_s - start_s, 1e-9)
        # None is shorter than the longest measurement: a rate over a moment, as
        # between two steps of a live rollout, would say nothing.
        longest_s = max(1e-9, *(one.to_s - one.from_s for one in run))
        n = max(1, min(round(length_s / width_s), int(length_s / longest_s + 1e-3)))
        parts: list[list] = [[] for _ in range(n)]
        for one in run:
            middle_s = (one.from_s + one.to_s) / 2 - start_s
            parts[min(int(middle_s / length_s * n), n - 1)].append(one)
        bins += [part for part in parts if part]
    return bins


def _steps(spans: Sequence[tuple[float, float]], values: Sequence[float]) -> tuple:
    """Values and edges for ``Axes.stairs``, with NaN where nothing was measured."""
    edges = [spans[0][0]]
    heights: list[float] = []
    for (left, right), value in zip(spans, values, strict=True):
        if left - edges[-1] >= (right - left) / 2:
            edges.append(left)
            heights.append(np.nan)
        edges.append(right)
        heights.append(value)
    return np.array(heights), np.array(edges)


def _draw_traffic(ax: Axes, bins: list[list], measurements: Sequence) -> None:
    """Requests per second, stacked, and on the right the share that was told."""
    ax.set_ylabel("requests/s")
    right = ax.twinx()
    right.spines["right"].set_visible(True)
    right.set_ylabel("share")
    right.set_yticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    if not measurements:
        ax.set_ylim(0, 1)
        ax.set_yticks([0])
        right.set_ylim(0, 115)
        _say(ax, "nothing was measured")
        return
    spans = [(some[0].from_s, some[-1].to_s) for some in bins]
    seconds = np.array([b - a for a, b in spans])
    told = np.array([some[0].share for some in bins])
    base = np.zeros(len(bins))
    for role, off in (("candidate", told == 0), ("stable", told == 1)):
        color, _, hatch = _ROLES[role]
        requests = np.array([sum(getattr(m, role).requests for m in b) for b in bins])
        top = base + requests / seconds
        shown = np.where(off & (requests == 0), np.nan, top)
        heights, edges = _steps(spans, shown)
        floor, _ = _steps(spans, base)
        ax.stairs(
            heights, edges, baseline=floor, fill=True, facecolor=color, alpha=0.22,
            linewidth=0,
        )  # fmt: skip
        if hatch:
            ax.stairs(
                heights, edges, baseline=floor, fill=True, facecolor="none",
                edgecolor=color, hatch=hatch, linewidth=0,
            )  # fmt: skip
        ax.stairs(heights, edges, baseline=None, color=color, linewidth=1.4, label=role)
        base = top
    mean = (base * seconds).sum() / seconds.sum()
    highest = 1.12 * max(base.max(), mean, 1e-9)
    ax.set_ylim(0, highest)
    right.set_ylim(0, 100 * highest / mean if mean else 115)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4))
    share, edges = _steps(
        [(m.from_s, m.to_s) for m in measurements],
        [100 * m.share for m in measurements],
    )
    right.stairs(
        share, edges, baseline=None, color=INK, linestyle=":", linewidth=1.2,
        label="share", clip_on=False,
    )  # fmt: skip


def _draw_events(ax: Axes, bins: list[list], metric: str) -> None:
    """How many events each role had in each stretch of time; one is seen as well."""
    lengths = [some[-1].to_s - some[0].from_s for some in bins]
    usual = float(np.median(lengths)) if bins else 0.0
    same = bins and np.ptp(lengths) < 0.1 * usual
    ax.set_ylabel(
        f"{metric}\nin {'' if same else 'about '}{usual:.2g} s" if bins else metric
    )
    most = 0
    for role, part in (("stable", 0.3), ("candidate", 0.7)):
        color, marker, _ = _ROLES[role]
        seen = np.array(
            [sum(getattr(m, role).events.get(metric, 0) for m in b) for b in bins],
            dtype=int,
        )
        at = np.array([b[0].from_s + part * (b[-1].to_s - b[0].from_s) for b in bins])
        some = seen > 0
        ax.vlines(at[some], 0, seen[some], color=color, linewidth=1.2)
        ax.plot(
            at[some], seen[some], marker, color=color, markersize=5, label=role,
            clip_on=False,
        )  # fmt: skip
        most = max(most, *seen, 0)
    ax.set_ylim(0, 1.2 * max(most, 1))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
    if not most:
        _say(ax, f"no {metric}")


def _draw_evidence(ax: Axes, measurements: Sequence, metric: str, judge: Any) -> None:
    """The e-value after each tick in which both had traffic, and its limit."""
    limit = 1 / judge.alpha
    ax.set_yscale("log")
    ax.set_ylabel("e-value")
    ax.axhline(limit, color=INK, linestyle="--", linewidth=1.2)
    ax.annotate(
        f"limit 1/α\n= {_short(limit)}", (1, limit), (5, 0), va="center",
        xycoords=("axes fraction", "data"), textcoords="offset points",
        fontsize=_SMALL, annotation_clip=False,
    )  # fmt: skip
    mixed = [m for m in measurements if 0 < m.share < 1]
    if not mixed:
        ax.set_ylim(0.1, 10 * limit)
        _say(ax, "no e-value: the two never had traffic together")
        return
    values = judge.e_values(metric, mixed)
    # Beyond these the line has left the picture, and Matplotlib would overflow.
    drawn = np.clip(values, 1e-15, 1e9 * limit)
    seconds = [mixed[0].from_s, *(m.to_s for m in mixed)]
    ax.plot(
        seconds, [1, *drawn], color=COLORS[2], drawstyle="steps-post", label="e-value"
    )
    ax.set_ylim(
        min(0.3, max(drawn.min(), 1e-12) / 3),
        max(8 * limit, min(3 * drawn.max(), 1e6 * limit)),
    )
    over = np.flatnonzero(values >= limit)
    if over.size:
        second, value = seconds[over[0] + 1], values[over[0]]
        left, right = ax.get_xlim()
        late = second > left + 0.5 * (right - left)
        ax.plot(
            [second],
            [min(value, 1e5 * limit)],
            "X",
            color=COLORS[1],
            markersize=8,
            zorder=4,
        )
        ax.annotate(
            _short(value), (second, min(value, 1e5 * limit)),
            (-8 if late else 8, 3), textcoords="offset points", va="bottom",
            ha="right" if late else "left", fontsize=_SMALL,
        )  # fmt: skip


def _draw_verdicts(ax: Axes, log: Sequence[Event], end_s: float) -> None:
    """For each metric that was judged, which verdict held when."""
    said = [e for e in log if e.what == "verdict"]
    metrics = list(dict.fromkeys(e.details.get("of", "") for e in said))
    ax.set_ylabel("verdict")
    ax.grid(False)
    ax.set_ylim(-0.35, max(len(metrics), 1) - 0.2)
    ax.set_yticks(range(len(metrics))[::-1], metrics)
    if not said:
        _say(ax, "no verdict: nothing was judged")
        return
    over = [e.at_s for e in log if e.what in ("abort", "promote", "end")]
    until_s = min(over, default=end_s)
    for row, name in enumerate(reversed(metrics)):
        own = [e for e in said if e.details.get("of", "") == name]
        names = [str(e.details.get("verdict")) for e in own]
        for event, until, verdict in zip(
            own, [*(e.at_s for e in own[1:]), until_s], names, strict=True
        ):
            color, marker, hatch = _VERDICTS.get(verdict, _VERDICTS["error"])
            if until > event.at_s:
                ax.barh(
                    [row], [until - event.at_s], left=event.at_s, height=0.3,
                    facecolor="none", edgecolor=color, hatch=hatch, linewidth=1.5,
                )  # fmt: skip
            ax.plot([event.at_s], [row], marker, color=color, markersize=8, zorder=4)
        at = [e.at_s for e in own]
        walls = [e.at_s for e in log if e.what in _LINES_AT]
        for text, x, shift, up in _lanes(ax, at, names, 40, walls):
            ax.annotate(
                text, (x, row + 0.18), (shift, 2 + 12 * up), fontsize=_SMALL,
                textcoords="offset points", va="bottom", annotation_clip=False,
            )  # fmt: skip


def _draw_log(panels: Sequence[Axes], log: Sequence[Event]) -> None:
    """A line for each deploy, shift, abort, promote; the names above the top panel."""
    top = panels[0]
    left, right = top.get_xlim()
    groups: list[tuple[float, list[str]]] = []
    for event in log:
        if event.what not in _LINES_AT:
            continue
        if not groups or event.at_s - groups[-1][0] > 0.012 * (right - left):
            groups.append((event.at_s, []))
        if event.what == "shift":  # of several at once the last one holds
            earlier = [text for text in groups[-1][1] if not text.startswith("shift")]
            groups[-1][1][:] = earlier
        share = f" {event.details.get('candidate', '')}".rstrip()
        groups[-1][1].append(event.what + (share if event.what == "shift" else ""))
    at = [second for second, _ in groups]
    names = [" · ".join(texts) for _, texts in groups]
    # Too many shifts for three lanes: only each second, third, ... one has a label.
    plain = [i for i, name in enumerate(names) if re.fullmatch(r"shift [^·]*", name)]
    for every in range(1, len(plain) + 2):
        kept = [i for i in range(len(names)) if i not in plain]
        kept = sorted(kept + plain[every - 1 :: every])
        spots = _lanes(top, [at[i] for i in kept], [names[i] for i in kept], room=45)
        if max((up for *_, up in spots), default=0) < 3:
            break
    style = {
        second: {"color": INK, "lw": 1.2, "ls": "-"}
        if "abort" in text or "promote" in text
        else {"color": INK, "lw": 0.8, "ls": "--"}
        for second, text in zip(at, names, strict=True)
    }
    for ax in panels:
        for second in at:
            ax.axvline(second, zorder=0.5, **style[second])
    for text, x, shift, up in spots:
        top.annotate(
            "", (x, 1), (0, 14 + 13 * up), xycoords=("data", "axes fraction"),
            textcoords="offset points", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "shrinkA": 0, "shrinkB": 0, **style[x]},
        )  # fmt: skip
        top.annotate(
            text, (x, 1), (shift, 4 + 13 * up), xycoords=("data", "axes fraction"),
            textcoords="offset points", fontsize=_SMALL, annotation_clip=False,
        )  # fmt: skip


def _lanes(
    ax: Axes,
    at: Sequence[float],
    texts: Sequence[str],
    room: float,
    avoid: Sequence[float] = (),
) -> list[tuple[str, float, float, int]]:
    """Where labels go that hang on upright lines at `at`: (text, x, shift, lane).

    A label begins right of its line, or ends left of it where it would pass the
    panel's edge by more than `room` points, or cross a line at `avoid` that it can
    miss; lane 0 is the lowest. No label meets another one, or a line on its way up to
    a higher lane. shift: in points, from the line to the label's beginning.
    """
    left, right = ax.get_xlim()
    scale = _points_across(ax) / (right - left)
    lines = [(second - left) * scale for second in at]
    walls = [(second - left) * scale for second in avoid]
    wide = [_width(text) for text in texts]

    def crossed(begin: float, i: int, others: Sequence[float]) -> bool:
        return any(begin - 3 < x < begin + wide[i] + 3 for x in others)

    begins = [x + 4 for x in lines]
    turned: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: -lines[i]):
        back = lines[i] - wide[i] - 4
        far = begins[i] + wide[i] > (right - left) * scale + room
        hit = crossed(begins[i], i, walls) and not crossed(back, i, walls)
        met = crossed(begins[i], i, [lines[j] for j in turned])
        if (far or hit or met) and back > 0:
            begins[i] = back
            turned.append(i)
    # From the right, so that a line finds only labels that begin right of it; those
    # that lie left of their line come last, and stand above what they pass.
    order = [i for i in np.argsort(lines)[::-1] if i not in turned] + turned[::-1]
    lanes: dict[int, int] = {}
    for i in map(int, order):
        lane = 0
        while lane <= len(texts) and any(
            (
                up == lane
                and begins[i] < begins[j] + wide[j] + 6
                and begins[j] < begins[i] + wide[i] + 6
            )
            or (up > lane and crossed(begins[i], i, [lines[j]]))
            or (up < lane and crossed(begins[j], j, [lines[i]]))
            for j, up in lanes.items()
        ):
            lane += 1
        lanes[i] = lane
    return [(texts[i], at[i], begins[i] - lines[i], lanes[i]) for i in sorted(lanes)]


def _say(ax: Axes, text: str) -> None:
    """Words where there is nothing to draw."""
    ax.grid(False)
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center")


def _width(text: str) -> float:
    """Points that a small label is wide."""
    return TextPath((0, 0), text, size=_SMALL).get_extents().width if text else 0.0


def _points_across(ax: Axes) -> float:
    """Points that a panel is wide, before any layout engine moves it."""
    return 72 * ax.get_position().width * ax.figure.get_size_inches()[0]


def _short(number: float) -> str:
    """A number for a label: three digits, or all before the point up to a million."""
    return f"{number:,.0f}" if 100 <= abs(number) < 1e6 else f"{number:.3g}"
