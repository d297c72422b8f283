"""The replay of probes does what Kubernetes' documentation says of them."""

from __future__ import annotations

import math

import pytest

from deploylab.exercises.chapters.model_as_service import (
    Service,
    _life,
    _moments,
)

NEVER = math.inf


def probe(path: str, **fields: int) -> dict[str, object]:
    """A probe with the defaults of Kubernetes."""
    return {
        "path": path,
        "initialDelaySeconds": 0,
        "periodSeconds": 10,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
        "terminationGracePeriodSeconds": 30,
        **fields,
    }


def test_without_probes_a_container_has_traffic_at_once_and_lives() -> None:
    life = _life({}, Service(frozen=(50, NEVER)), 1000)
    assert life.ended_s == NEVER
    assert life.first_traffic_s() == 0


def test_liveness_ends_it_after_so_many_failures_in_a_row() -> None:
    config = {"livenessProbe": probe("/ready", initialDelaySeconds=5)}
    life = _life(config, Service(load_s=90), 1000)
    assert (life.ended_by, life.ended_s) == ("livenessProbe", 25.01)  # 5, 15, 25


def test_one_success_between_failures_begins_the_count_anew() -> None:
    config = {"livenessProbe": probe("/ready", failureThreshold=2)}
    twice = Service(load_s=3, away=(15, 25))  # fails at 0, and at 20
    assert _life(config, twice, 1000).ended_s == NEVER
    longer = Service(load_s=3, away=(15, 35))  # fails at 0, and at 20 and 30
    assert _life(config, longer, 1000).ended_s == 30.01


def test_a_probe_fails_when_the_answer_takes_longer_than_its_timeout() -> None:
    full = Service(load_s=3, full=(100, NEVER))
    for timeout_s, ended_by in ((1, "livenessProbe"), (3, "livenessProbe"), (4, "")):
        times = {"initialDelaySeconds": 3, "timeoutSeconds": timeout_s}
        life = _life({"livenessProbe": probe("/health", **times)}, full, 1000)
        assert life.ended_by == ended_by


def test_a_startup_probe_gives_period_times_threshold_and_holds_the_others() -> None:
    others = {
        "livenessProbe": probe("/ready", failureThreshold=1, initialDelaySeconds=20),
        "readinessProbe": probe("/health"),
    }
    in_time = {"startupProbe": probe("/ready", failureThreshold=10), **others}
    life = _life(in_time, Service(load_s=90), 1000)
    assert life.ended_s == NEVER
    assert 90 <= life.first_traffic_s() <= 91
    too_short = {"startupProbe": probe("/ready", failureThreshold=9), **others}
    life = _life(too_short, Service(load_s=90), 1000)
    assert life.ended_by == "startupProbe"
    assert 80 <= life.ended_s <= 81
    assert life.first_traffic_s() == NEVER


def test_readiness_follows_the_answers_and_never_ends_a_container() -> None:
    config = {"readinessProbe": probe("/ready", failureThreshold=2)}
    life = _life(config, Service(load_s=45, away=(105, 155)), 1000)
    assert life.ended_s == NEVER
    assert [(round(at_s), on) for at_s, on in life.traffic] == [
        (50, True),
        (120, False),
        (160, True),
    ]
    assert life.has_traffic(110)
    assert not life.has_traffic(130)


def test_a_container_is_killed_a_grace_period_after_it_was_told_to_end() -> None:
    hangs = Service(frozen=(100.5, NEVER))
    default = {"livenessProbe": probe("/health", initialDelaySeconds=10)}
    life = _life(default, hangs, 1000)
    assert life.ended_s == 131  # it fails at 110, 120 and 130, a second later each
    assert life.killed_s() == 131 + 30
    own = {
        "livenessProbe": probe("/health", terminationGracePeriodSeconds=7),
        "startupProbe": probe("/health", terminationGracePeriodSeconds=9),
    }
    assert _life(own, hangs, 1000).killed_s() == pytest.approx(131.01 + 7)
    at_start = _life(own, Service(frozen=(0, NEVER)), 1000)
    assert (at_start.ended_s, at_start.killed_s()) == (21, 21 + 9)
    assert _life(own, Service(), 1000).killed_s() == NEVER


def test_a_startup_probe_at_ready_restarts_what_starts_during_an_outage() -> None:
    others = {"livenessProbe": probe("/health"), "readinessProbe": probe("/ready")}
    startup = {"startupProbe": probe("/ready", failureThreshold=25)}
    for away in ((0, 300), (60, 360)):
        life = _life({**others, **startup}, Service(away=away), 1000)
        assert (life.ended_by, life.ended_s) == ("startupProbe", 240.01)
        life = _life(others, Service(away=away), 1000)
        assert life.ended_by == ""
        assert away[1] <= life.first_traffic_s() <= away[1] + 11


@pytest.mark.parametrize("startup", [False, True])
def test_moments_lie_on_both_sides_of_two_probes_of_each_kind(startup: bool) -> None:
    config = {
        "livenessProbe": probe("/health", periodSeconds=60, initialDelaySeconds=15),
        "readinessProbe": probe("/ready", periodSeconds=50),
    }
    if startup:  # it succeeds at 10 s, and the others begin then
        config["startupProbe"] = probe("/health")
    begin_s = 10.01 if startup else 0
    asked_s = [15 + 4 * 60, 15 + 5 * 60, 5 * 50, 6 * 50]
    near = {begin_s + at_s + step for at_s in asked_s for step in (-0.001, 0.001)}
    moments = _moments(_life(config, Service(), 1000), 240)
    assert moments == pytest.approx(sorted({240, *near}))


def test_no_moment_of_a_period_is_worse_than_those_that_are_chosen() -> None:
    times = {"periodSeconds": 7, "timeoutSeconds": 3, "initialDelaySeconds": 5}
    config = {"livenessProbe": probe("/health", failureThreshold=2, **times)}

    def noticed_after_s(begin_s: float) -> float:
        life = _life(config, Service(frozen=(begin_s, NEVER)), 1000)
        return life.ended_s - begin_s

    moments = _moments(_life(config, Service(), 1000), 240)
    chosen_s = max(map(noticed_after_s, moments))
    any_s = max(noticed_after_s(240 + step / 16) for step in range(7 * 16))
    assert any_s <= chosen_s <= 7 * 2 + 3
