"""A strategy in this course's own words, as `deploylab lint` reads it."""

from __future__ import annotations

from typing import Any

from deploylab.rollout.export.pods import CannotExport, check_name, to_yaml
from deploylab.rollout.judges import SplitEProcess, Threshold
from deploylab.rollout.model import Gate
from deploylab.rollout.strategies import BlueGreen, Canary, Strategy


def own(strategy: Strategy, *, name: str) -> str:
    """A strategy as YAML of the kind Strategy (deploylab/v1), every field written out.

    Raises CannotExport for strategies, judges and gates that the kind has no words for.
    """
    check_name(name)
    if isinstance(strategy, Canary):
        spec: dict[str, Any] = {
            "canary": {
                "shares": list(strategy.shares),
                "bakeSeconds": list(strategy.bakes_s),
                "onDoubt": strategy.on_doubt,
                "sticky": strategy.sticky,
                "salt": strategy.salt,
                "gates": [_gate(gate) for gate in strategy.gates],
            }
        }
    elif isinstance(strategy, BlueGreen):
        spec = {
            "blueGreen": {
                "keepSeconds": strategy.keep_s,
                "gates": [_gate(gate) for gate in strategy.gates],
                "before": [_gate(gate) for gate in strategy.before],
                "preview": strategy.preview,
            }
        }
    else:
        raise CannotExport(
            f"the kind Strategy has Canary and BlueGreen, and "
            f"{type(strategy).__name__} is neither"
        )
    return to_yaml(
        [
            {
                "apiVersion": "deploylab/v1",
                "kind": "Strategy",
                "metadata": {"name": name},
                "spec": spec,
            }
        ]
    )


def _gate(gate: Gate) -> dict[str, Any]:
    judge = gate.judge
    if gate.unit != "request":
        raise CannotExport(
            f"the gate on {gate.metric} counts users, and the kind Strategy counts "
            "requests"
        )
    if isinstance(judge, Threshold):
        return {
            "metric": gate.metric,
            "threshold": {
                "limit": judge.limit,
                "failures": judge.failures,
                "minRequests": judge.at_least,
                "windowSeconds": judge.window_s,
                "noData": judge.no_data,
                "errors": judge.errors,
                **({} if judge.within is None else {"within": judge.within}),
            },
        }
    if isinstance(judge, SplitEProcess) and judge.ratios == SplitEProcess.ratios:
        return {
            "metric": gate.metric,
            "splitEProcess": {"alpha": judge.alpha, "minRequests": judge.at_least},
        }
    raise CannotExport(
        "the kind Strategy has thresholds, and split e-processes with their own "
        f"ratios; not this {type(judge).__name__}"
    )
