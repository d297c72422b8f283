"""The replay of probes does what Kubernetes' documentation says of them."""

from __future__ import annotations

import math

from deploylab.exercises.chapters.model_as_service import Service, _life

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
    short = {"livenessProbe": probe("/health", initialDelaySeconds=3)}
    assert _life(short, full, 1000).ended_by == "livenessProbe"
    enough = {
        "livenessProbe": probe("/health", initialDelaySeconds=3, timeoutSeconds=3)
    }
    assert _life(enough, full, 1000).ended_s == NEVER


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
