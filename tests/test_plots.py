"""The plot style: repeatable SVG, and colours that can be seen in both themes."""

import io

import matplotlib
import matplotlib.pyplot as plt
import pytest

from deploylab import plots

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
