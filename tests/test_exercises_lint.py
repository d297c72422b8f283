"""The reports that the exercises on the linter make up."""

from __future__ import annotations

import json

from deploylab import ROOT
from deploylab.exercises.chapters import lint_your_gates
from deploylab.lint import as_json, lint


def test_a_report_of_the_check_has_the_fields_of_the_linter() -> None:
    file = ROOT / "tests/lint_configs/good/argo_canary.yaml"
    real = json.loads(as_json(lint([str(file)])))
    made = lint_your_gates._report(lint_your_gates._gate(), broken=True)
    assert list(made) == list(real)
    assert made["format"] == real["format"]
    assert made["assumed"] == real["assumed"]
    for before in (real["gates"][0], lint_your_gates._unknown()):
        assert list(made["gates"][0]) == list(before)
    for version in ("healthy", "bad"):
        assert list(made["gates"][0][version]) == list(real["gates"][0][version])
