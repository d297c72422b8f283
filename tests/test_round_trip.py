"""What we export, the linter reads back with the chances of the strategy itself."""

from __future__ import annotations

import dataclasses
import re

import pytest

from deploylab.lint import World, lint
from deploylab.rollout import export
from deploylab.rollout.judges import Threshold
from deploylab.rollout.model import Gate
from deploylab.rollout.strategies import BlueGreen, Canary

VERSIONS = export.Versions("registry.example/phishing:1", "registry.example/phishing:2")
ERRORS = Gate("errors", Threshold(0.01, at_least=50, window_s=60))

OURS = """
apiVersion: deploylab/v1
kind: Strategy
metadata: {name: phishing}
spec:
  {strategy}
    gates:
    - metric: errors
      threshold: {limit: 0.01, failures: 0, minRequests: 50, windowSeconds: 60}
"""
CASES = {
    "canary": (
        Canary((0.1, 0.5), (300.0, 600.0), (ERRORS,)),
        {"gateway": "shop"},
        "canary:\n    shares: [0.1, 0.5]\n    bakeSeconds: [300, 600]",
    ),
    "three stages": (
        Canary((0.05, 0.2, 0.5), 300.0, (ERRORS,)),
        {"gateway": "shop"},
        "canary:\n    shares: [0.05, 0.2, 0.5]\n    bakeSeconds: 300",
    ),
    "blue/green": (
        BlueGreen(600.0, (ERRORS,)),
        {},
        "blueGreen:\n    keepSeconds: 600",
    ),
}


def only_gate(text: str):
    """The one gate that the linter finds in this text."""
    (found,) = lint(["-"], stdin=text.encode()).gates
    return found


@pytest.mark.parametrize("case", CASES)
def test_argo_reads_as_the_strategy_that_was_exported(case: str):
    strategy, settings, written = CASES[case]
    manifests = export.to_manifests(
        strategy, VERSIONS, engine="argo-rollouts", name="phishing", **settings
    )
    theirs, ours = (
        only_gate(text) for text in (manifests, OURS.replace("{strategy}", written))
    )
    for version in ("healthy", "bad"):
        read, meant = (
            dataclasses.asdict(getattr(one, version)) for one in (theirs, ours)
        )
        assert read.pop("errors") == meant.pop("errors") == {}  # exact: none drawn
        assert read == pytest.approx(meant, rel=1e-9), version
    assert 0 < ours.healthy.aborted < ours.bad.aborted
    assert ours.bad.exposed > 0


def test_another_limit_is_read_as_another_gate():
    strategy, settings, _ = CASES["canary"]
    other = dataclasses.replace(
        strategy, gates=(Gate("errors", Threshold(0.03, at_least=50, window_s=60)),)
    )
    strict, lax = (
        only_gate(
            export.to_manifests(
                one, VERSIONS, engine="argo-rollouts", name="phishing", **settings
            )
        )
        for one in (strategy, other)
    )
    assert lax.healthy.aborted < strict.healthy.aborted
    assert lax.bad.exposed > strict.bad.exposed


def test_flagger_is_read_and_computed():
    """Its loop differs from ours: a failed check repeats its stage."""
    manifests = export.to_manifests(
        Canary((0.1, 0.5), 60.0, (ERRORS,)),
        VERSIONS,
        engine="flagger",
        name="phishing",
        gateway="shop",
    )
    found = only_gate(manifests)
    assert 0 < found.healthy.aborted < found.bad.aborted <= 1
    # The weight stands for one interval more than there are failures allowed.
    assert found.bad.exposed > 0


@pytest.mark.parametrize("failures", range(4))
def test_the_seconds_in_a_flagger_manifest_are_those_that_the_linter_computes(failures):
    """Of a version that fails every request, at two requests a second of its own."""
    gate = Gate("errors", Threshold(0.01, failures=failures, window_s=60))
    text = export.flagger(
        Canary((0.1,), 60.0, (gate,)), VERSIONS, name="phishing", gateway="shop"
    )
    world = World(requests_per_s=20, bad=1.0)
    [found] = lint(["-"], world, stdin=text.encode()).gates
    said_s = re.search(r"reaches the threshold: (\d+) s", text)
    assert found.bad.exposed == pytest.approx(2 * int(said_s[1]))
    assert int(said_s[1]) == 60 * (failures + 2)


@pytest.mark.parametrize("engine", ["argo-rollouts", "flagger"])
def test_the_linter_has_nothing_against_what_is_exported(engine: str):
    """At a rate that fills the windows; the exporter chooses no limits."""
    strategy = Canary((0.1, 0.5), 60.0, (ERRORS,))
    text = export.to_manifests(
        strategy, VERSIONS, engine=engine, name="phishing", gateway="shop"
    )
    report = lint(["-"], World(requests_per_s=200), stdin=text.encode())
    assert report.findings == []
    assert report.unreadable == []
