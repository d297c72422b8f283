"""The plot style: repeatable SVG, and colours that can be seen in both themes."""

import io
from dataclasses import replace
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from deploylab import plots
from deploylab.rollout import (
    BlueGreen,
    Canary,
    Counts,
    Event,
    Gate,
    Measurement,
    Report,
    SplitEProcess,
    Threshold,
    carry_out,
)
from deploylab.rollout.simulate import Simulated

matplotlib.use("svg")


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.1 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", plots.COLORS)
@pytest.mark.parametrize("background", ["#ffffff", "#14181e"])
def test_colours_stand_out_on_both_backgrounds(colour, background):
    assert contrast(colour, background) >= 3


def draw() -> bytes:
    plots.use_style()
    fig, axes = plt.subplots(3)
    plots.bars(axes[0], {"a": 1, "b": 2}, label="x", spread={"a": (0, 2), "b": (1, 3)})
    plots.ecdf(axes[1], {"a": [1, 2, 3], "b": [2, 4, 8]}, label="x")
    plots.stacked_bar(axes[2], {"p": 1, "q": 2, "r": 3, "s": 4, "t": 5}, label="x")
    out = io.BytesIO()
    fig.savefig(out, format="svg", metadata={"Date": None})
    plt.close(fig)
    return out.getvalue()


def test_the_same_figure_is_the_same_bytes():
    assert draw() == draw()


def test_text_stays_text_and_ink_follows_the_theme():
    text = draw().decode()
    assert "<text" in text
    assert plots.INK in text
    assert "#000000" not in text.replace("fill: #000000; fill-opacity", "")


def test_each_function_returns_its_axes():
    _, ax = plt.subplots()
    assert plots.bars(ax, {"a": 1}, label="x") is ax
    assert plots.ecdf(ax, {"a": [1, 2]}, label="x") is ax
    assert plots.stacked_bar(ax, {"a": 1}, label="x") is ax


# Rollouts over time

JUDGE = SplitEProcess()
CANARY = Canary((0.05, 0.2, 0.5), 20, (Gate("errors", JUDGE),))
BLUE_GREEN = BlueGreen(20, (Gate("errors", Threshold(0.02, window_s=1.0)),))


def simulated(strategy, chance, *, tick_s=0.5, deploy_s=2.0, stable=0.002) -> Report:
    rates = {"stable": {"errors": stable}, "candidate": {"errors": chance}}
    rng = np.random.default_rng(5)
    ready_s = 0.0 if deploy_s is None else None
    environment = Simulated(rates, 150, rng, tick_s, deploy_s or 0.0, ready_s=ready_s)
    return carry_out(strategy, environment)


def report_of(shares, log=(), *, tick_s=0.5, errors=0) -> Report:
    """Ten requests a tick, divided as told; `errors` of the candidate's last ones."""
    ticks = []
    for i, share in enumerate(shares):
        mine = round(10 * share)
        wrong = {"errors": errors if i == len(shares) - 1 else 0}
        ticks.append(
            Measurement(
                i * tick_s, (i + 1) * tick_s, share, Counts(10 - mine),
                Counts(mine, wrong),
            )
        )  # fmt: skip
    return Report("aborted", "", list(log), ticks)


def panels(report, **options):
    plt.close("all")
    plots.use_style()
    fig, axes = plt.subplots(3, 1, sharex=True, figsize=(7, 5))
    assert plots.timeline(axes, report, **options) is axes
    fig.canvas.draw()
    return fig, axes


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def stairs(ax, label):
    """Heights, edges of the outline with this label; nothing drawn is NaN."""
    [patch] = [p for p in ax.patches if p.get_label() == label]
    return patch.get_data().values, patch.get_data().edges


def marks(ax, label):
    [line] = [one for one in ax.lines if one.get_label() == label]
    return line


def right_of(fig, axes):
    [twin] = [ax for ax in fig.axes if ax not in list(axes)]
    return twin


REPORTS = {
    "promoted": (simulated(CANARY, 0.002), JUDGE),
    "aborted": (simulated(CANARY, 0.08), JUDGE),
    "short ticks": (simulated(CANARY, 0.003, tick_s=0.25), JUDGE),
    "long ticks": (simulated(CANARY, 0.003, tick_s=1.0), JUDGE),
    "blue green": (simulated(BLUE_GREEN, 0.1), None),
    "blue green, promoted": (simulated(BLUE_GREEN, 0.0), JUDGE),
    "never ready": (simulated(CANARY, 0.0, deploy_s=None), JUDGE),
    "no candidate": (report_of([0.0] * 20, [Event(2.0, "deploy")]), None),
    "no requests": (
        Report("aborted", "", [], [Measurement(0, 1, 0.5, Counts(), Counts())]),
        JUDGE,
    ),
    "nothing": (Report("aborted", "", [], []), None),
    "nothing, judged": (Report("aborted", "", [], []), JUDGE),
}


def test_the_reports_are_what_their_names_say():
    assert REPORTS["promoted"][0].outcome == "promoted"
    assert REPORTS["aborted"][0].outcome == "aborted"
    assert REPORTS["blue green"][0].outcome == "aborted"
    assert REPORTS["blue green, promoted"][0].outcome == "promoted"
    assert not REPORTS["never ready"][0].measurements


@pytest.mark.parametrize("name", REPORTS)
def test_all_requests_and_events_are_in_the_picture(name):
    report, judge = REPORTS[name]
    fig, axes = panels(report, judge=judge)
    for role in ("stable", "candidate"):
        wanted = report.events("errors", role)
        assert marks(axes[1], role).get_ydata().sum() == wanted
    if not report.measurements:
        assert texts(axes[0])[0] == "nothing was measured"
        return
    drawn = {}
    for role in ("candidate", "stable"):
        heights, edges = stairs(axes[0], role)
        drawn[role] = np.nansum(heights * np.diff(edges))
        # What is not drawn has no requests: it does not lie over the other role.
        seconds = np.diff(edges)[~np.isnan(heights)].sum()
        other = {"candidate": 0.0, "stable": 1.0}[role]
        assert seconds == pytest.approx(
            sum(m.to_s - m.from_s for m in report.measurements if m.share != other)
        )
    candidate = report.exposed_requests
    assert drawn["candidate"] == pytest.approx(candidate)
    both = [m for m in report.measurements if m.share < 1]
    total = sum(m.stable.requests + m.candidate.requests for m in both)
    assert drawn["stable"] == pytest.approx(total)
    share, edges = stairs(right_of(fig, axes), "share")
    assert list(share / 100) == [m.share for m in report.measurements]
    assert edges[-1] == report.measurements[-1].to_s


@pytest.mark.parametrize("name", REPORTS)
def test_no_text_lies_on_another_one_or_is_too_small(name):
    report, judge = REPORTS[name]
    fig, axes = panels(report, judge=judge)
    assert_apart(fig, axes)


def assert_apart(fig, axes):
    seen = [text for ax in axes for text in ax.texts if text.get_text()]
    for ax in fig.axes:
        seen.append(ax.yaxis.label)
        seen += tick_labels(ax.yaxis)
    seen += [axes[2].xaxis.label, *tick_labels(axes[2].xaxis)]
    seen += axes[2].get_legend().get_texts()
    assert min(text.get_fontsize() for text in seen) >= 9
    boxes = [(text.get_text(), text.get_window_extent()) for text in seen]
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)
    width = 72 * fig.get_figwidth()
    for text, box in boxes:
        assert -width * 0.02 < box.x0 < box.x1 < width * 1.02, text


def tick_labels(axis) -> list:
    """Those that are drawn: within the limits."""
    low, high = sorted(axis.get_view_interval())
    places = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
    return [label for at, label in places if low <= at <= high and label.get_text()]


def test_the_lines_carry_the_names_of_the_log():
    report = REPORTS["promoted"][0]
    _, axes = panels(report, judge=JUDGE)
    said = ["deploy · shift 5 %", "shift 20 %", "shift 50 %", "shift 100 % · promote"]
    assert texts(axes[0]) == said
    for ax in axes:
        upright = [line.get_xdata()[0] for line in ax.lines if is_upright(line)]
        assert upright == [2, 22, 42, 62]
    _, axes = panels(REPORTS["aborted"][0], judge=JUDGE)
    assert texts(axes[0])[-1] == "abort"


def is_upright(line) -> bool:
    return len(line.get_xdata()) == 2 and list(line.get_ydata()) == [0, 1]


@pytest.mark.parametrize("apart_s", [0.05, 0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("end_s", [20.0, 21.0, 40.0])
def test_labels_of_crowded_events_stay_apart(apart_s, end_s):
    shares = (1, 2, 5, 10, 20, 30, 50, 80, 100)
    log = [Event(20 - 9 * apart_s, "deploy")]
    for i, share in enumerate(shares):
        log.append(Event(20 - (8 - i) * apart_s, "shift", {"candidate": f"{share} %"}))
    log.append(Event(20.0, "promote"))
    fig, axes = panels(report_of([0.0] * round(2 * end_s), log))
    labels = texts(axes[0])
    assert any("deploy" in label for label in labels)
    assert any("promote" in label for label in labels)
    assert_apart(fig, axes)


def test_short_ticks_are_put_together_and_none_over_a_change_of_the_share():
    shares = [0.0] * 401 + [0.1] * 397 + [0.5] * 402
    _, axes = panels(report_of(shares, tick_s=0.25))
    _, edges = stairs(axes[0], "stable")
    assert 45 <= len(edges) <= 55
    assert {401 * 0.25, 798 * 0.25} <= set(edges)
    assert axes[1].get_ylabel() == "errors\nin 6 s"
    _, axes = panels(report_of([0.1] * 10))
    assert len(stairs(axes[0], "stable")[1]) == 11
    assert axes[1].get_ylabel() == "errors\nin 0.5 s"


def test_ticks_of_a_real_clock_are_put_together_as_well():
    report = report_of([0.1] * 1200, tick_s=0.25)
    for i, one in enumerate(report.measurements):
        report.measurements[i] = replace(one, from_s=one.from_s + 0.002 * (i % 3))
    _, axes = panels(report)
    heights, edges = stairs(axes[0], "stable")
    assert len(edges) == 51
    assert not np.isnan(heights).any()


def test_a_time_that_was_not_measured_stays_empty():
    report = report_of([0.1] * 20)
    del report.measurements[8:12]
    _, axes = panels(report)
    heights, edges = stairs(axes[0], "stable")
    hole = np.flatnonzero(np.isnan(heights))
    assert [(edges[i], edges[i + 1]) for i in hole] == [(4.0, 6.0)]


@pytest.mark.parametrize("n", [20, 1200])
def test_a_single_error_is_seen(n):
    _, axes = panels(report_of([0.0] * 10 + [0.5] * n, tick_s=0.25, errors=1))
    mark = marks(axes[1], "candidate")
    assert list(mark.get_ydata()) == [1]
    assert mark.get_marker() == "^"
    assert mark.get_markersize() >= 4
    assert axes[1].get_ylim()[1] > 1
    assert not marks(axes[1], "stable").get_ydata().size
    assert "no errors" not in texts(axes[1])
    _, axes = panels(report_of([0.5] * n, errors=0))
    assert texts(axes[1]) == ["no errors"]


def test_the_metric_is_the_one_asked_for():
    report = report_of([0.5] * 4, errors=3)
    _, axes = panels(report, metric="slow")
    assert texts(axes[1]) == ["no slow"]
    assert axes[1].get_ylabel().startswith("slow")


@pytest.mark.parametrize(("alpha", "limit"), [(0.01, "100"), (1e-4, "10,000")])
def test_the_e_value_is_the_judges_and_its_limit_is_drawn(alpha, limit):
    judge = SplitEProcess(alpha=alpha)
    report = REPORTS["aborted"][0]
    _, axes = panels(report, judge=judge)
    line = marks(axes[2], "e-value")
    mixed = [m for m in report.measurements if 0 < m.share < 1]
    values = judge.e_values("errors", mixed)
    assert np.allclose(line.get_ydata(), [1, *values])
    assert list(line.get_xdata()) == [mixed[0].from_s, *(m.to_s for m in mixed)]
    assert axes[2].get_yscale() == "log"
    level = [x for x in axes[2].lines if list(x.get_ydata()) == [1 / alpha] * 2]
    assert [one.get_linestyle() for one in level] == ["--"]
    assert texts(axes[2])[0] == f"limit 1/α\n= {limit}"
    crosses = [one for one in axes[2].lines if one.get_marker() == "X"]
    assert len(crosses) == (values.max() >= 1 / alpha)
    low, high = axes[2].get_ylim()
    assert low < min(values)
    assert max(*values, 1 / alpha) < high


def test_an_e_value_beyond_all_numbers_is_drawn():
    fig, axes = panels(report_of([0.1] * 20, errors=5000), judge=JUDGE)
    assert np.isfinite(marks(axes[2], "e-value").get_ydata()).all()
    assert axes[2].get_ylim()[1] < 1e9
    assert_apart(fig, axes)


def test_without_common_traffic_it_says_so():
    _, axes = panels(REPORTS["blue green, promoted"][0], judge=JUDGE)
    assert texts(axes[2])[-1].startswith("no e-value")


def test_verdicts_are_named_where_there_is_no_e_value():
    log = [
        Event(0.0, "shift", {"candidate": "50 %"}),
        Event(1.0, "verdict", {"of": "errors", "verdict": "inconclusive"}),
        Event(2.0, "verdict", {"of": "slow", "verdict": "successful"}),
        Event(3.0, "verdict", {"of": "errors", "verdict": "successful"}),
        Event(8.0, "verdict", {"of": "slow", "verdict": "error"}),
        Event(8.4, "verdict", {"of": "slow", "verdict": "failed"}),
        Event(8.4, "abort", {"reason": "a gate failed"}),
        Event(10.0, "end", {"outcome": "aborted"}),
    ]
    fig, axes = panels(report_of([0.5] * 17, log), judge=Threshold(0.01))
    said = ["inconclusive", "successful", "successful", "error", "failed"]
    assert sorted(texts(axes[2])) == sorted(said)
    assert [label.get_text() for label in axes[2].get_yticklabels()] == [
        "errors",
        "slow",
    ]
    spans = sorted((p.get_x(), p.get_x() + p.get_width()) for p in axes[2].patches)
    assert np.allclose(spans, [(1, 3), (2, 8), (3, 8.4), (8, 8.4)])
    assert len({p.get_hatch() for p in axes[2].patches}) == 3
    assert_apart(fig, axes)
    _, axes = panels(report_of([0.0] * 4))
    assert texts(axes[2]) == ["no verdict: nothing was judged"]


def test_a_timeline_asks_for_three_axes():
    for n in (1, 2, 4):
        _, axes = plt.subplots(n)
        with pytest.raises(ValueError, match=r"plt\.subplots\(3, 1, sharex=True\)"):
            plots.timeline(axes, REPORTS["nothing"][0])
    plt.close("all")


# Predicted, simulated, live

TABLE = pd.DataFrame(
    {
        "predicted": [31.25, 1200.0, np.nan],
        "simulated": [30.0, 1190.4, 900.0],
        "live": [34.0, np.nan, 0.0],
        "low": [12.0, 600.0, np.nan],
        "high": [70.0, 2400.0, np.nan],
    },
    index=["v2-flaky", "v2-slow", "v2-drifting"],
)


def compared(table, scale="linear"):
    plt.close("all")
    plots.use_style()
    fig, ax = plt.subplots(figsize=(7, 0.9 + 0.6 * len(table)))
    ax.set_xscale(scale)
    assert plots.comparison(ax, table, label="requests") is ax
    fig.canvas.draw()
    return fig, ax


def test_each_source_has_its_marker_its_number_and_its_place():
    _, ax = compared(TABLE)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["predicted", "simulated", "live", "predicted interval"]
    lines = [marks(ax, name) for name in names[:3]]
    assert len({line.get_marker() for line in lines}) == 3
    for name, line in zip(names, lines, strict=False):
        assert np.array_equal(line.get_xdata(), TABLE[name], equal_nan=True)
    assert sorted(texts(ax)) == sorted(
        ["31.2", "1,200", "30", "1,190", "900", "34", "0"]
    )
    assert [label.get_text() for label in ax.get_yticklabels()] == list(TABLE.index)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(box.x1 <= ax.get_window_extent().x1 for box in boxes)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_the_interval_goes_from_low_to_high(scale):
    _, ax = compared(TABLE.iloc[:2], scale)
    ends = [tuple(x.get_xdata()) for x in ax.lines if x.get_marker() == "|"]
    assert ends[:2] == [(12, 70), (600, 2400)]
    bars = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
    assert np.allclose(bars, [(12, 70), (600, 2400)])
    low, high = ax.get_xlim()
    assert low < 12
    assert high > 2400


@pytest.mark.parametrize("column", ["predicted", "simulated", "live"])
def test_one_column_is_enough(column):
    _, ax = compared(TABLE[[column]])
    [text] = ax.get_legend().get_texts()
    assert text.get_text() == column
    assert len(texts(ax)) == TABLE[column].notna().sum()


def test_a_column_without_any_number_does_no_harm():
    _, ax = compared(pd.DataFrame({"live": [np.nan]}, index=["canary"]))
    assert texts(ax) == []


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE[["low", "high"]], "predicted, simulated, live"),
        (TABLE.iloc[:0], "has 0 rows"),
        (TABLE.drop(columns="high"), '"low" and "high"'),
        (TABLE.drop(columns="low"), '"low" and "high"'),
    ],
)
def test_a_table_that_lacks_something_is_refused(table, words):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=words):
        plots.comparison(ax, table, label="x")
    plt.close("all")


def test_the_new_figures_are_repeatable_and_follow_the_theme():
    def drawn(make) -> str:
        out = io.BytesIO()
        make()[0].savefig(out, format="svg", metadata={"Date": None})
        return out.getvalue().decode()

    for make in (lambda: panels(*REPORTS["aborted"][:1]), lambda: compared(TABLE)):
        text = drawn(make)
        assert text == drawn(make)
        assert plots.INK in text
        assert "#000000" not in text.replace("fill: #000000; fill-opacity", "")
