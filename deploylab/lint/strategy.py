"""Our own strategy as YAML: `kind: Strategy` of `deploylab/v1`.

    apiVersion: deploylab/v1
    kind: Strategy
    metadata: {name: phishing}
    spec:
      canary:
        shares: [0.05, 0.2, 0.5]
        bakeSeconds: 300            # one number, or one for each share
        gates:
        - metric: errors
          threshold: {limit: 0.01, failures: 0, minRequests: 1, windowSeconds: 60}

The fields are those of `deploylab.rollout`: Canary and BlueGreen (`keepSeconds`,
`gates`, `before`, `preview`), with a Threshold or a SplitEProcess as judge. A threshold
has `within`, `noData` and `errors` as well. The semantics are those of the classes:
windows start anew with each share, failures are counted over all of them or the last
`within`, and a window of fewer requests than `minRequests` means what `noData` says.
A stage without a window that could be judged aborts, unless `noData` is pass or error.
`deploylab.rollout.export.own` writes such a file.
"""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import NamedTuple

from deploylab.lint.argo import few_errors, makes_no_sense
from deploylab.lint.compute import MAX_LOOKS, Look, Metric, NotComputed, Timeline
from deploylab.lint.findings import Gate, Subject
from deploylab.lint.query import CANDIDATE, Bound
from deploylab.lint.read import List, Map

#: What a window without enough requests means, as in `deploylab.rollout.judges`.
NO_DATA = ("skip", "fail", "pass", "error")


class _Threshold(NamedTuple):
    """A judge: how its windows are counted, and when they have no data."""

    metric: Metric
    at_least: int
    window_s: float
    no_data: str
    errors: int


class Strategy(Subject[None]):
    """One strategy of ours."""

    engine = "deploylab"

    def read(self) -> tuple[Gate, Timeline | None]:
        """The gate, and the timeline if there is something to compute."""
        self.timeline = Timeline([(0.0, 0.0)], 0.0)
        spec = self.spec
        kinds = [key for key in ("canary", "blueGreen") if key in spec]
        if len(kinds) != 1:
            self.book.refuse(
                spec.line, "no single strategy", "Give canary or blueGreen."
            )
            self.gate.not_computed.append("no single strategy")
            return self.gate, None
        manner = self.book.map(spec, kinds[0])
        if manner is None:
            self.gate.not_computed.append("the strategy is empty")
            return self.gate, None
        self.gate.focus = spec.lines[kinds[0]]
        try:
            if kinds[0] == "canary":
                stages = self._canary(manner)
            else:
                stages = self._blue_green(manner)
            self._gates(manner, "gates", stages)
        except NotComputed as why:
            self.gate.not_computed.append(str(why))
            return self.gate, None
        self.timeline.looks.sort(key=lambda look: (look.at_s, look.settled == "stop"))
        self.gate.looks = len(self.timeline.looks)
        return self.gate, self.timeline if self.timeline.metrics else None

    def _canary(self, manner: Map) -> list[tuple[float, float]]:
        shares = self._numbers(manner, "shares")
        path = [0.0, *shares, 1.0]
        if not shares or any(a >= b for a, b in itertools.pairwise(path)):
            self.book.refuse(
                manner.line_of("shares"),
                "the shares do not rise between 0 and 1",
                "As in [0.05, 0.2, 0.5].",
            )
            raise NotComputed("its shares are unclear")
        bakes = self._numbers(manner, "bakeSeconds")
        bakes = bakes * len(shares) if len(bakes) == 1 else bakes
        if len(bakes) != len(shares) or min(bakes) <= 0:
            self.book.refuse(
                manner.line_of("bakeSeconds"),
                f"{len(bakes)} times to watch for {len(shares)} shares",
                "Give one for all, or one for each, above 0.",
            )
            raise NotComputed("its times to watch are unclear")
        if len(shares) > 200:
            raise NotComputed("more than 200 shares")
        now, stages = 0.0, []
        self.timeline.shares = []
        for share, bake_s in zip(shares, bakes, strict=True):
            self.timeline.shares.append((now, share))
            stages.append((now, now + bake_s))
            now += bake_s
        self.timeline.ends_s = now
        return stages

    def _blue_green(self, manner: Map) -> list[tuple[float, float]]:
        keep_s = self.book.number(manner, "keepSeconds") or 0.0
        if not 0 <= keep_s < 1e8:
            self.book.refuse(
                manner.lines["keepSeconds"], "keepSeconds is below 0", "Give seconds."
            )
            raise NotComputed("its time to watch is unclear")
        self.timeline.shares = [(0.0, 1.0)]
        self.timeline.ends_s = keep_s
        preview = self.book.whole(manner, "preview", 200, 1) or 200
        for node in self.book.maps(manner, "before"):
            threshold = self._threshold(node)
            if threshold is None:
                continue
            self.timeline.metrics.append(threshold.metric)
            number = len(self.timeline.metrics) - 1
            look = Look(0.0, 0.0, number, preview=preview)
            if preview < threshold.at_least:
                passes = threshold.no_data in ("pass", "error")
                look = look._replace(settled="good" if passes else "stop")
            self.timeline.looks.append(look)
        return [(0.0, keep_s)] if keep_s else []

    def _gates(self, manner: Map, key: str, stages: list[tuple[float, float]]) -> None:
        nodes = self.book.maps(manner, key)
        if not nodes and "before" not in manner:
            self.book.find(
                "DL101",
                manner.line_of(key),
                "nothing is judged: no gate",
                "A canary without evaluation is a slow release: every bad version that "
                "starts gets through.",
                "Add a gate on errors.",
            )
            self.gate.not_computed.append("no gate: a bad version always gets through")
        for node in nodes:
            threshold = self._threshold(node)
            if threshold is None:
                continue
            if not threshold.window_s:
                self.gate.not_computed.append(
                    f"{threshold.metric.name}: without windowSeconds it is judged "
                    "whenever the environment looks, which is not in the file"
                )
                continue
            self._looks(node, threshold, stages)

    def _threshold(self, node: Map) -> _Threshold | None:
        """A threshold of a gate; None, said why, for other judges."""
        name = self.book.text(node, "metric") or f"gate of line {node.line}"
        given = self.book.map(node, "threshold")
        if given is None:
            judge = "splitEProcess" if "splitEProcess" in node else "its judge"
            why = (
                "a split e-process, which aborts a healthy release with a chance of at "
                "most alpha; deploylab.rollout.simulate says the rest"
                if judge == "splitEProcess"
                else "it has no judge that is known"
            )
            self.gate.not_computed.append(f"{name}: {why}")
            return None
        limit = self.book.number(given, "limit")
        if limit is None or not 0 <= limit < 1:
            self.book.refuse(
                given.line_of("limit"), "limit is a share of requests, from 0 to 1",
                "For 1 % write 0.01.",
            )  # fmt: skip
            return None
        if name not in ("errors",):
            self.gate.not_computed.append(f"{name}: only errors have a rate here")
            return None
        failures = self.book.whole(given, "failures", 0) or 0
        at_least = self.book.whole(given, "minRequests", 1) or 1
        window_s = self.book.number(given, "windowSeconds") or 0.0
        within = self.book.whole(given, "within", None, 1)
        if within is not None and within <= failures:
            self.book.refuse(
                given.lines["within"],
                f"of the last {within} windows {failures + 1} never fail",
                "Count failures within more windows, or let fewer fail.",
            )
            self.gate.not_computed.append(f"{name}: nothing can fail it")
            return None
        no_data = self.book.text(given, "noData") or "skip"
        if no_data not in NO_DATA:
            self.book.refuse(
                given.lines["noData"],
                f"noData is {no_data[:40]!r}",
                f"It is one of {', '.join(NO_DATA)}.",
            )
            no_data = "skip"
        errors = self.book.whole(given, "errors", 4)
        bound = Bound(True, Fraction(str(limit)), True)
        at_least = max(1, at_least)
        metric = Metric(name, CANDIDATE, bound, None, failures, 0, at_least, within)
        makes_no_sense(self.book, given.line_of("limit"), metric)
        return _Threshold(
            metric, at_least, max(0.0, window_s), no_data,
            4 if errors is None else errors,
        )  # fmt: skip

    def _looks(
        self, node: Map, judge: _Threshold, stages: list[tuple[float, float]]
    ) -> None:
        """When a judge looks, and what is settled: windows without enough requests."""
        number = len(self.timeline.metrics)
        self.timeline.metrics.append(judge.metric)
        rate, window_s = self.world.requests_per_s, judge.window_s
        looks = self.timeline.looks
        thin: list[tuple[int, int]] = []
        failed = gaps = 0
        for start, end in stages:
            judged, gone = False, False
            windows = int((end - start) / window_s + 1e-9)
            if len(looks) + windows > MAX_LOOKS:
                raise NotComputed(f"it looks more than {MAX_LOOKS:,} times")
            for place in range(windows):
                at = start + place * window_s
                requests = self.timeline.requests(rate, at, at + window_s)[0]
                empty = {"fail": "poor", "error": "error"}.get(judge.no_data, "good")
                look = Look(at + window_s, at, number, empty=empty)
                if requests >= judge.at_least:
                    judged, gaps = True, 0
                    looks.append(look)
                    thin.append((requests, judge.metric.failing(requests)[0][0] - 1))
                    continue
                gaps += 1
                gone = judge.no_data == "error" and gaps > judge.errors
                if gone:
                    break
                if judge.no_data == "fail":
                    failed += 1
                    looks.append(look._replace(settled="poor"))
                elif judge.metric.within is not None:
                    looks.append(look._replace(settled="good"))
            seen = self.timeline.requests(rate, 0, end)[0]
            goes_on = judge.no_data in ("pass", "error") and seen and not gone
            if not judged:
                self._without_data(node, judge, start, end, bool(goes_on))
            elif gone:
                self._too_few(node, judge, f"{gaps} windows in a row hold")
            if not (judged or goes_on) or gone:
                looks.append(Look(end, start, number, settled="stop"))
                break
        if failed:
            self._too_few(node, judge, f"{failed} windows that count as failed hold")
        few_errors(self.book, node.line, judge.metric, thin, rate)

    def _without_data(
        self, node: Map, judge: _Threshold, start: float, end: float, goes_on: bool
    ) -> None:
        """A finding on a stage that ends without a judged window."""
        what = (
            f"no window from {start:g} s to {end:g} s holds {judge.at_least} "
            f"requests of the new version at {self.world.requests_per_s:g} requests/s"
        )
        if goes_on:
            self.book.find(
                "DL205",
                node.line,
                f"{what}, and noData: {judge.no_data} goes on",
                "A version that nobody reaches passes.",
                "Let noData be skip, or lengthen windowSeconds.",
            )
        else:
            self.book.find(
                "DL203",
                node.line,
                what,
                "A stage without data aborts at its end.",
                "Lengthen windowSeconds, or lower minRequests.",
            )

    def _too_few(self, node: Map, judge: _Threshold, windows: str) -> None:
        self.book.find(
            "DL203",
            node.line,
            f"{windows} fewer than {judge.at_least} requests of the new version at "
            f"{self.world.requests_per_s:g} requests/s",
            "A release is stopped by what nobody asked, whatever its version is worth.",
            "Lengthen windowSeconds, or lower minRequests.",
        )

    def _numbers(self, manner: Map, key: str) -> list[float]:
        value = manner.get(key)
        entries = value if isinstance(value, List) else [value]
        return [
            float(entry)
            for entry in entries
            if isinstance(entry, (int, float))
            and not isinstance(entry, bool)
            and 0 <= entry < 1e8
        ]
