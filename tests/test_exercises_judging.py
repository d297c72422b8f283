"""What the page *judging a canary* gives, and what its checks assume of it."""

from __future__ import annotations

import pytest

from deploylab import ROOT
from deploylab.exercises.chapters.judging_a_canary import ROLLOUT
from deploylab.lint import World, lint

PAGE = (ROOT / "book/strategies/judging-a-canary.md").read_text("utf-8")


def given() -> str:
    """The template that a student begins with."""
    _, _, rest = PAGE.partition("%%writefile {work}/errors.yaml\n")
    return rest.partition("```")[0]


def test_the_page_shows_the_rollout_that_the_check_lints():
    assert f"```yaml\n{ROLLOUT}```" in PAGE


def test_no_version_can_trip_the_gate_that_is_given():
    text = f"{ROLLOUT}---\n{given()}".encode()
    for share in (0.02, 0.999):
        report = lint(["-"], World(bad=share), text)
        assert report.gates[0].bad.promoted == pytest.approx(1)
    names = {found.name for found in report.findings}
    assert {"limit-out-of-reach", "reads-both-versions"} <= names
