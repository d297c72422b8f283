"""Rolling updates as Kubernetes does them, and manifests that it would take."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction

import pytest

from deploylab.rollout import fenceposts

LIMITS = [0, 1, 2, 5, "0%", "1%", "10%", "25%", "33%", "50%", "99%", "100%"]


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (1, (1, 0)),
        (2, (1, 0)),
        (3, (1, 0)),
        (4, (1, 1)),
        (5, (2, 1)),
        (7, (2, 1)),
        (10, (3, 2)),
        (20, (5, 5)),
    ],
)
def test_a_quarter_each_way(instances, expected):
    assert fenceposts.resolve(instances, "25%", "25%") == expected


@pytest.mark.parametrize(
    ("instances", "surge", "unavailable", "expected"),
    [
        # The six examples in the comment above ResolveFenceposts, by what moves.
        (2, "0%", "1%", (0, 1)),
        (1, "0%", "1%", (0, 1)),
        (2, "1%", "25%", (1, 0)),
        (1, "1%", "25%", (1, 0)),
        (2, "1%", "0%", (1, 0)),
        (1, "1%", "0%", (1, 0)),
        # Counts are taken as they are; percentages of the surge may pass 100.
        (10, 1, 0, (1, 0)),
        (10, 0, 1, (0, 1)),
        (3, 7, 1, (7, 1)),
        (3, "200%", 0, (6, 0)),
        # No more can be missing than there are (MaxUnavailable).
        (3, 0, 7, (0, 3)),
        (3, 0, "100%", (0, 3)),
        # 0 by rounding is mended, 0 by hand is refused (below).
        (5, 0, "10%", (0, 1)),
        # Exact where a float is not: 0.29 * 100 is 28.999999999999996.
        (100, "29%", "29%", (29, 29)),
    ],
)
def test_limits_of_any_kind(instances, surge, unavailable, expected):
    assert fenceposts.resolve(instances, surge, unavailable) == expected


def test_rounding_against_exact_fractions():
    """Every percentage up to 100 of every fleet up to 60, on exact numbers."""
    for instances in range(1, 61):
        for percent in range(1, 101):
            share = Fraction(percent * instances, 100)
            surge, unavailable = fenceposts.resolve(
                instances, f"{percent}%", f"{percent}%"
            )
            assert (surge, unavailable) == (math.ceil(share), math.floor(share))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 1, 0), "instances is a whole number of instances, 1 or more, not 0"),
        ((-1, 1, 0), "instances is a whole number"),
        ((2.0, 1, 0), "instances is a whole number"),
        ((True, 1, 0), "instances is a whole number"),
        (("3", 1, 0), "instances is a whole number"),
        ((3, -1, 0), "max_surge is a whole number of instances, 0 or more, not -1"),
        ((3, 0, -1), "max_unavailable is a whole number"),
        ((3, True, 0), "max_surge is a whole number"),
        ((3, None, 1), "max_surge is a whole number"),
        ((3, "-5%", 0), "digits and a percent sign, as in \"25%\", not '-5%'$"),
        ((3, 1, "abc%"), "max_unavailable as a string is digits and a percent sign"),
        ((3, "25", 0), "not '25'; for 25 instances write 25$"),
        ((3, "2.5%", 0), "digits and a percent sign"),
        ((3, "25 %", 0), "digits and a percent sign"),
        ((3, "25%\n", 0), "digits and a percent sign"),
        ((3, "٢٥%", 0), "digits and a percent sign"),
        ((3, "%", 0), "digits and a percent sign"),
        ((3, "", 0), "digits and a percent sign"),
        ((3, 0.25, 0), "Kubernetes has no fractions"),
        ((3, 1, 0.25), "Kubernetes has no fractions"),
        ((3, 1, "101%"), "max_unavailable is at most 100%"),
        ((3, 0, 0), "leave nothing to move"),
        ((3, "0%", 0), "leave nothing to move"),
        ((3, 0, "0%"), "leave nothing to move"),
        ((3, "0%", "00%"), "leave nothing to move"),
    ],
)
def test_what_the_api_server_refuses(arguments, said):
    with pytest.raises(ValueError, match=said):
        fenceposts.resolve(*arguments)


# Waves. The second route simulates the controller on single pods, in the order of
# rolling.go: one scaling a pass, first up, then down, then the pods follow.


@dataclass
class ReplicaSet:
    """A number that is wanted, and pods that are: True once they are ready."""

    replicas: int = 0
    pods: list[bool] = field(default_factory=list)

    @property
    def available(self) -> int:
        return sum(self.pods)

    def settle(self) -> None:
        """Start what is missing; stop what is too many, the unready first."""
        self.pods.sort(reverse=True)
        del self.pods[self.replicas :]
        self.pods += [False] * (self.replicas - len(self.pods))


class Deployment:
    """A rolling update between two replica sets."""

    def __init__(self, instances: int, surge: int, unavailable: int) -> None:
        self.instances, self.surge = instances, surge
        self.min_available = instances - min(unavailable, instances)
        self.old = ReplicaSet(instances, [True] * instances)
        self.new = ReplicaSet()
        self.fewest_ready, self.most_pods = instances, instances

    def reconcile_new(self) -> bool:
        pods = self.old.replicas + self.new.replicas
        more = min(
            self.instances + self.surge - pods, self.instances - self.new.replicas
        )
        if more <= 0:
            return False
        self.new.replicas += more
        return True

    def reconcile_old(self) -> bool:
        unready = self.new.replicas - self.new.available
        pods = self.old.replicas + self.new.replicas
        if self.old.replicas == 0 or pods - self.min_available - unready <= 0:
            return False
        spare = self.old.available + self.new.available - self.min_available
        fewer = min(self.old.replicas, spare)
        if fewer <= 0:
            return False
        self.old.replicas -= fewer
        return True

    def reconcile(self) -> None:
        """Passes of the controller until it has nothing more to do."""
        while self.reconcile_new() or self.reconcile_old():
            for group in (self.old, self.new):
                group.settle()
            self.fewest_ready = min(self.fewest_ready, sum(self.ready()))
            self.most_pods = max(self.most_pods, len(self.old.pods + self.new.pods))

    def ready(self) -> tuple[int, int]:
        return self.old.available, self.new.available

    def roll(self) -> list[tuple[int, int]]:
        """What is ready after each wave, its old pods already stopped."""
        seen = [self.ready()]
        self.reconcile()
        while not all(self.new.pods):
            self.new.pods = [True] * len(self.new.pods)
            self.reconcile()
            seen.append(self.ready())
        return seen


SIZES = [
    (instances, surge, unavailable)
    for instances in range(1, 31)
    for surge in range(instances + 3)
    for unavailable in range(instances + 3)
    if surge + unavailable > 0
]


def test_waves_are_those_of_the_controller():
    for size in SIZES:
        assert fenceposts.waves(*size) == Deployment(*size).roll(), size


def test_the_controller_keeps_its_limits():
    """Else the second route would prove nothing: it uses both limits up, no more."""
    for instances, surge, unavailable in SIZES:
        deployment = Deployment(instances, surge, unavailable)
        deployment.roll()
        assert deployment.fewest_ready == instances - min(unavailable, instances)
        assert deployment.most_pods == instances + min(surge, instances)


def test_as_many_waves_as_it_takes():
    for instances, surge, unavailable in SIZES:
        step = surge + min(unavailable, instances)
        states = fenceposts.waves(instances, surge, unavailable)
        assert len(states) == 1 + math.ceil(instances / step)
        assert (states[0], states[-1]) == ((instances, 0), (0, instances))


@pytest.mark.parametrize(
    ("instances", "shares"),
    [
        (4, [0, 2 / 3, 1]),
        (5, [0, 3 / 4, 1]),
        (7, [0, 1 / 2, 1, 1]),  # 6 of 7 serve alone before the seventh is ready
        (10, [0, 5 / 8, 1]),
        (20, [0, 2 / 3, 1]),
    ],
)
def test_shares_of_the_default_limits(instances, shares):
    limits = fenceposts.resolve(instances, "25%", "25%")
    states = fenceposts.waves(instances, *limits)
    assert [new / (old + new) for old, new in states] == pytest.approx(shares)


def test_the_waves_of_seven_and_ten():
    assert fenceposts.waves(7, 2, 1) == [(7, 0), (3, 3), (0, 6), (0, 7)]
    assert fenceposts.waves(10, 3, 2) == [(10, 0), (3, 5), (0, 10)]


@pytest.mark.parametrize(
    "arguments", [(0, 1, 0), (3, 0, 0), (3, -1, 2), (3, 1, -1), (3, "25%", 1)]
)
def test_waves_that_cannot_be(arguments):
    with pytest.raises(ValueError):
        fenceposts.waves(*arguments)
