"""Fence posts of a rolling update: how many instances more and fewer, in which waves.

The rules are those of a Kubernetes Deployment, as its source has them:

- what is refused: ``ValidateRollingUpdateDeployment`` in
  ``pkg/apis/apps/validation/validation.go``;
- what is rounded: ``ResolveFenceposts`` and ``MaxUnavailable`` in
  ``pkg/controller/deployment/util/deployment_util.go``;
- who is started and stopped when: ``reconcileNewReplicaSet`` and
  ``reconcileOldReplicaSets`` in ``pkg/controller/deployment/rolling.go``.
"""

from __future__ import annotations

import re


def resolve(
    instances: int, max_surge: int | str, max_unavailable: int | str
) -> tuple[int, int]:
    """(surge, unavailable) in whole instances, from counts or percentages.

    A percentage is of ``instances``: the surge is rounded up, the unavailable down.
    Where both come to 0, unavailable becomes 1, or nothing could move (for example
    no surge and "10%" of 5). Unavailable is at most ``instances``; the surge may be
    more, although it never helps to start more than ``instances`` at once.

    Raises ValueError for what the API server of Kubernetes refuses: a negative count,
    a string that is not digits and a percent sign (also "25", which it does not read
    as a count), more than "100%" unavailable, and two limits that are written as 0 or
    "0%", rather than rounded to 0.
    """
    _refuse_no_count(instances, "instances", at_least=1)
    surge, surge_is_percent = _parse(max_surge, "max_surge")
    unavailable, unavailable_is_percent = _parse(max_unavailable, "max_unavailable")
    if unavailable_is_percent and unavailable > 100:
        raise ValueError(
            f"max_unavailable is at most 100%, not {max_unavailable!r}: there are no "
            "more instances than all of them"
        )
    if surge == 0 and unavailable == 0:
        raise ValueError(
            f"max_surge={max_surge!r} and max_unavailable={max_unavailable!r} leave "
            "nothing to move: no instance may be added and none may be missing. Let "
            "one of them be 1 or more."
        )
    if surge_is_percent:
        surge = -(-surge * instances // 100)  # rounded up
    if unavailable_is_percent:
        unavailable = unavailable * instances // 100  # rounded down
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return surge, min(unavailable, instances)


def waves(instances: int, surge: int, unavailable: int) -> list[tuple[int, int]]:
    """(old, new) instances that are ready before the rollout and after each wave.

    From (instances, 0) to (0, instances). A wave is all instances that start at the
    same time; they are taken to become ready together, upon which as many old ones are
    stopped as the limits allow, and these are no longer counted. While the first wave
    starts, only ``instances - unavailable`` are ready: the other old ones are stopped
    at once, before any new one is ready.

    surge, unavailable: as from ``resolve``. Raises ValueError if they let nothing move.

    Each stop makes room for one more start, so a wave has surge + unavailable new
    instances, and an old one goes as soon as ``instances - unavailable`` are ready
    without it. The last wave may find no old instance left: then its share of the
    traffic is 1 already, and it only brings the fleet back to full strength.
    """
    _refuse_no_count(instances, "instances", at_least=1)
    _refuse_no_count(surge, "surge", at_least=0)
    _refuse_no_count(unavailable, "unavailable", at_least=0)
    if surge == unavailable == 0:
        raise ValueError(
            "with surge 0 and unavailable 0 nothing can move; take the numbers that "
            "fenceposts.resolve(...) gives"
        )
    states = [(instances, 0)]
    while states[-1] != (0, instances):
        new = min(instances, states[-1][1] + surge + unavailable)
        states.append((max(0, instances - unavailable - new), new))
    return states


def _parse(limit: int | str, name: str) -> tuple[int, bool]:
    """The number in a limit, and whether it is a percentage."""
    if isinstance(limit, str):
        if re.fullmatch("[0-9]+%", limit):
            return int(limit[:-1]), True
        hint = f"; for {limit} instances write {limit}" if limit.isdecimal() else ""
        raise ValueError(
            f'{name} as a string is digits and a percent sign, as in "25%", not '
            f"{limit!r}{hint}"
        )
    if isinstance(limit, float):
        raise ValueError(
            f'{name} is a count like 1, or a percentage like "25%", not {limit!r}: '
            "Kubernetes has no fractions"
        )
    _refuse_no_count(limit, name, at_least=0)
    return limit, False


def _refuse_no_count(count: int, name: str, at_least: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < at_least:
        raise ValueError(
            f"{name} is a whole number of instances, {at_least} or more, not {count!r}"
        )
