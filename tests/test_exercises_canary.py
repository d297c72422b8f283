"""The canary that students operate: its controls, and that luck decides nothing."""

from __future__ import annotations

import pytest
from scipy import stats

from deploylab.exercises import live
from deploylab.exercises.chapters.canary import LIVE_SHARES
from deploylab.rollout import SplitEProcess

JUDGE = SplitEProcess(alpha=1e-3)


def suffices(errors: list[int]) -> bool:
    """Whether so many of the candidate's errors in each stage make a verdict FAILED."""
    gains = [JUDGE.weights(share)[0] for share in LIVE_SHARES]
    logs = sum(n * gain for n, gain in zip(errors, gains, strict=True))
    return JUDGE.mean_of(logs) >= 1 / JUDGE.alpha


def test_the_bad_version_is_not_missed_by_chance():
    """A right runbook sees `ENOUGH` requests in each stage, or more."""
    law = stats.binom(live.ENOUGH, live.BAD_ERROR_RATE)
    missed = sum(
        law.pmf(first) * law.pmf(second)
        for first in range(live.ENOUGH + 1)
        for second in range(live.ENOUGH + 1)
        if not suffices([first, second])
    )
    assert missed < 1e-8


def test_only_two_versions_come():
    with live.Canaries() as canaries, pytest.raises(ValueError, match="good"):
        canaries.next("v2")


@pytest.mark.slow
def test_after_failed_only_the_way_back_is_left():
    with live.Canaries() as canaries:
        canary = canaries.next("bad")
        canary.start()
        canary.shift(0.5)
        canary.watch(2 * live.ENOUGH)
        assert canary.verdict() == "failed"
        for control in (lambda: canary.watch(1), lambda: canary.shift(0.5)):
            with pytest.raises(live.AfterFailed):
                control()
        with pytest.raises(live.AfterFailed):
            canary.promote()
        assert len(canary.refused) == 3
        canary.shift(0)
        canary.retire()


@pytest.mark.slow
def test_a_canary_without_numbers_comes_to_an_end():
    with live.Canaries() as canaries:
        canary = canaries.next("mute")
        canary.start()
        canary.shift(0.5)
        canary.watch(live.ENOUGH)
        assert canary.verdict() == "error"
        with pytest.raises(live.TooLong, match="may watch"):
            canary.watch(live.MOST_WATCHED)

        def ask_for_ever() -> None:
            while True:
                canary.verdict()

        with pytest.raises(live.TooLong, match="controls"):
            ask_for_ever()


@pytest.mark.slow
def test_controls_that_can_do_nothing_say_what_is_missing():
    with live.Canaries() as canaries:
        canary = canaries.next("good")
        for control in (canary.abort, canary.retire, canary.promote):
            with pytest.raises(live.OutOfOrder):
                control()
        canary.start()
        with pytest.raises(live.OutOfOrder, match="runs already"):
            canary.start()
        with pytest.raises(live.OutOfOrder, match="shift"):
            canary.watch(1)
        with pytest.raises(ValueError, match="between 0 and 1"):
            canary.shift(20)
        canary.shift(1 / 3)  # the router knows it in millionths
        assert canary.verdict() == "error"
        assert canary.watch(3)["candidate"]["requests"] >= 3
        assert canary.verdict() == "inconclusive"
        canary.watch(live.ENOUGH)
        assert canary.verdict() == "successful"
        canary.promote()
        for control in (canary.abort, canary.retire, canary.promote, canary.start):
            with pytest.raises(live.OutOfOrder):
                control()
        with pytest.raises(live.OutOfOrder):
            canary.watch(1)
        done = [one.what for one in canary.done]
        assert done[:2] == ["start", "shift"]
        assert done[-1] == "promote"
        assert list(canary.log["what"]) == done
