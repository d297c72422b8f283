"""Gates as queries: what a strategy counts, asked of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from deploylab.rollout.export.pods import CannotExport, check_name
from deploylab.rollout.judges import Threshold
from deploylab.rollout.model import Gate


@dataclass(frozen=True)
class Prometheus:
    """Where requests are counted, and which of them count as events.

    address: of the server. requests: the name of a counter of all requests, which has
    the labels ``namespace`` and ``pod``. events: for each metric, the label matchers
    that pick its events among the requests, as in ``{"errors": 'code=~"5.."'}``. users:
    the name of a counter of users' first requests, for gates that count users.
    """

    address: str = "http://prometheus.monitoring:9090"
    requests: str = "http_requests_total"
    events: Mapping[str, str] = field(default_factory=lambda: {"errors": 'code=~"5.."'})
    users: str = ""

    def query(self, gate: Gate, pods: str) -> str:
        """The share of the candidate's requests in a window that are events.

        pods: label matchers of the candidate's pods, and of no others: a query that
        reads both versions dilutes what the new one does. A window with fewer requests
        than the judge needs has no value at all, and so has one without any: then
        neither 0 / 0 nor the absence of a first error is taken for a verdict.
        ``increase`` extrapolates to the ends of the window, so counts are near the true
        ones, and not whole.
        """
        if gate.metric not in self.events:
            raise ValueError(
                f"nothing says which requests count as {gate.metric!r}: give "
                f"Prometheus(events={{{gate.metric!r}: ...}}) the matchers of their "
                "labels"
            )
        if gate.unit == "user" and not self.users:
            raise CannotExport(
                f"the gate on {gate.metric} counts users, each by the first request, "
                "and a counter of requests cannot. Name a counter of first requests, "
                'Prometheus(users="..."), or let the gate count requests.'
            )
        counter = self.users if gate.unit == "user" else self.requests
        window = f"[{window_s(gate)}s]"
        events = f"{counter}{{{pods}, {self.events[gate.metric]}}}"
        least = max(1, threshold(gate).at_least)
        return (
            f"(sum(increase({events}{window})) or vector(0))\n/\n"
            f"(sum(increase({counter}{{{pods}}}{window})) >= {least})\n"
        )


def threshold(gate: Gate, no_data: str = "") -> Threshold:
    """The judge of a gate, if it is one that these engines have.

    no_data: what the engine makes of a window without data, if that matters here; a
    judge that skips such windows is exported as near as the engine's function says.
    """
    judge = gate.judge
    if isinstance(judge, Threshold) and judge.within is not None:
        raise CannotExport(
            f"the gate on {gate.metric} counts failures within the last {judge.within} "
            "windows, and these engines count them all. An alarm of CloudWatch does it "
            "(SageMaker's deployment guardrails). The nearest here is within=None."
        )
    if isinstance(judge, Threshold):
        if no_data and judge.no_data not in ("skip", no_data):
            raise CannotExport(
                f"the gate takes a window without data as {judge.no_data!r}, and the "
                f"engine as {no_data!r}: give Threshold(..., no_data={no_data!r})."
            )
        return judge
    raise CannotExport(
        f"the engines compare a number with a limit, and {type(gate.judge).__name__} "
        "is a test. The nearest is a Threshold; a test needs a service of one's own "
        "that the engine asks for the verdict (in Argo Rollouts a metric of the "
        "provider web or kayenta, in Flagger a webhook)."
    )


def names(gates: Sequence[Gate]) -> list[str]:
    """A name for each gate that is a legal one, and no other's."""
    found: list[str] = []
    for gate in gates:
        name = gate.metric.replace(" ", "-").replace("_", "-").lower()
        alike = sum(one == name or one.startswith(f"{name}-no-") for one in found)
        found.append(f"{name}-no-{alike + 1}" if alike else name)
        check_name(found[-1])
    return found


def window_s(gate: Gate) -> int:
    """The length of a gate's windows, in whole seconds."""
    length = threshold(gate).window_s
    if length < 1 or length != int(length):
        raise CannotExport(
            f"the gate on {gate.metric} has windows of {length:g} s, and engines "
            "measure at an interval of whole seconds, 1 or more; give "
            "Threshold(..., window_s=60)"
        )
    return int(length)


def whole_seconds(name: str, seconds: float) -> int:
    """A time that an engine takes in whole seconds only."""
    if seconds != int(seconds):
        raise CannotExport(f"{name} is a time in whole seconds here, not {seconds:g}")
    return int(seconds)


def percent(share: float) -> int:
    """A share as the whole percentage that most engines' weights are."""
    parts = round(share * 100, 9)
    if parts != int(parts):
        raise CannotExport(
            f"a weight is a whole percentage here, and {share} is none. The Gateway "
            "API has weights of any ratio up to 1,000,000, with a controller of one's "
            "own to change them."
        )
    return int(parts)
