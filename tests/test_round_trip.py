"""What we export, the linter reads back with the chances of the strategy itself."""

from __future__ import annotations

import dataclasses
import re

import pytest
import yaml

from deploylab.lint import World, lint
from deploylab.rollout import export
from deploylab.rollout.judges import ExactBinomial, SplitEProcess, Threshold
from deploylab.rollout.model import Gate
from deploylab.rollout.strategies import BlueGreen, Canary, Rolling

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


@pytest.mark.parametrize(("instances", "taken"), [(10, True), (1, False)])
def test_a_background_analysis_is_read_with_its_last_look(instances, taken):
    """Ours looks at the moment of the end; Argo does while pods have still to start."""
    strategy, settings, written = CASES["canary"]
    manifests = export.to_manifests(
        strategy, VERSIONS, engine="argo-rollouts", name="phishing", background=True,
        instances=instances, **settings,
    )  # fmt: skip
    theirs, ours = (
        only_gate(text) for text in (manifests, OURS.replace("{strategy}", written))
    )
    assert ours.looks - theirs.looks == (not taken)
    same = theirs.healthy.aborted == pytest.approx(ours.healthy.aborted, rel=1e-9)
    assert same is taken
    assert any("when the steps are done" in remark for remark in theirs.remarks)


WRITTEN = {
    "canary": CASES["canary"][0],
    "blue/green": BlueGreen(600.0, (ERRORS,)),
    "preview": BlueGreen(600.0, (ERRORS,), (Gate("errors", Threshold(0.02)),), 300),
    "no data": Canary(
        (0.05, 0.5),
        (240.0, 300.0),
        (Gate("errors", Threshold(0.01, 1, 100, 60.0, "error", 7, 3)),),
        on_doubt="go on",
        sticky=True,
        salt="a",
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_own_writes_the_linter_reads(name):
    """Every field of the class is in the file, and none that the linter passes over."""
    strategy = WRITTEN[name]
    text = export.own(strategy, name="phishing")
    report = lint(["-"], stdin=text.encode())
    assert not [f for f in report.findings if f.rule in ("DL001", "DL003")]
    assert report.gates[0].healthy is not None
    (how,) = yaml.safe_load(text)["spec"].values()
    names = {field.name for field in dataclasses.fields(strategy)}
    spelled = {"bakeSeconds": "bake_s", "onDoubt": "on_doubt", "keepSeconds": "keep_s"}
    assert {spelled.get(key, key) for key in how} == names
    spelled = {"minRequests": "at_least", "windowSeconds": "window_s",
               "noData": "no_data"}  # fmt: skip
    for gate, written in zip(strategy.gates, how["gates"], strict=True):
        fields = {spelled.get(k, k): v for k, v in written["threshold"].items()}
        assert Threshold(**fields) == gate.judge


def test_own_says_what_it_has_no_words_for():
    users = Canary((0.1,), 60.0, (Gate("errors", Threshold(0.01), unit="user"),))
    other = Canary((0.1,), 60.0, (Gate("errors", ExactBinomial(0.01, 100)),))
    ratios = Canary((0.1,), 60.0, (Gate("errors", SplitEProcess(ratios=(2.0,))),))
    for strategy, why in (
        (users, "counts users"),
        (other, "ExactBinomial"),
        (ratios, "not this SplitEProcess"),
        (Rolling(4), "Rolling is neither"),
    ):
        with pytest.raises(export.CannotExport, match=why):
            export.own(strategy, name="phishing")
    bets = Canary((0.1,), 60.0, (Gate("errors", SplitEProcess()),))
    found = only_gate(export.own(bets, name="phishing"))
    assert found.healthy is None
    assert "split e-process" in found.not_computed[0]


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
