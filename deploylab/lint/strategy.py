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
`gates`, `before`, `preview`), with a Threshold or a SplitEProcess as judge, and the
semantics are those of the classes: windows start anew with each share, failures are
counted over all of them, and a stage without a window that could be judged aborts.
"""

from __future__ import annotations

import itertools
from fractions import Fraction

from deploylab.lint.argo import few_errors, makes_no_sense
from deploylab.lint.compute import MAX_LOOKS, Look, Metric, NotComputed, Timeline, World
from deploylab.lint.findings import Finding, Gate, Notebook
from deploylab.lint.query import CANDIDATE, Bound
from deploylab.lint.read import Document, List, Map


class Strategy:
    """One strategy of ours: its gate, and the findings on the way."""

    def __init__(
        self, document: Document, world: World, findings: list[Finding]
    ) -> None:
        self.document, self.world = document, world
        self.book = Notebook(document, findings)
        self.gate = Gate(
            document.path, document.line, "Strategy", document.name, "deploylab"
        )
        self.timeline = Timeline([(0.0, 0.0)], 0.0)

    def read(self) -> tuple[Gate, Timeline | None]:
        """The gate, and the timeline if there is something to compute."""
        spec = self.document.spec
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
            metric, _, _ = threshold
            self.timeline.metrics.append(metric)
            number = len(self.timeline.metrics) - 1
            self.timeline.looks.append(Look(0.0, 0.0, number, preview=preview))
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
            metric, at_least, window_s = threshold
            if not window_s:
                self.gate.not_computed.append(
                    f"{metric.name}: without windowSeconds it is judged whenever the "
                    "environment looks, which is not in the file"
                )
                continue
            self._looks(node, metric, at_least, window_s, stages)

    def _threshold(self, node: Map) -> tuple[Metric, int, float] | None:
        """A Threshold as (metric, at_least, window_s); None, said why, for others."""
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
        bound = Bound(True, Fraction(str(limit)), True)
        metric = Metric(name, CANDIDATE, bound, None, failures, 0)
        makes_no_sense(self.book, given.line_of("limit"), metric)
        return metric, at_least, max(0.0, window_s)

    def _looks(
        self,
        node: Map,
        metric: Metric,
        at_least: int,
        window_s: float,
        stages: list[tuple[float, float]],
    ) -> None:
        number = len(self.timeline.metrics)
        self.timeline.metrics.append(metric)
        rate = self.world.requests_per_s
        thin: list[tuple[int, int]] = []
        for start, end in stages:
            judged = False
            windows = int((end - start) / window_s + 1e-9)
            if len(self.timeline.looks) + windows > MAX_LOOKS:
                raise NotComputed(f"it looks more than {MAX_LOOKS:,} times")
            for place in range(windows):
                at = start + place * window_s
                requests = self.timeline.requests(rate, at, at + window_s)[0]
                if requests >= max(1, at_least):
                    judged = True
                    self.timeline.looks.append(Look(at + window_s, at, number))
                    thin.append((requests, metric.failing(requests)[0][0] - 1))
            if not judged:
                self.book.find(
                    "DL203",
                    node.line,
                    f"no window from {start:g} s to {end:g} s holds {at_least} "
                    f"requests of the new version at {rate:g} requests/s",
                    "A stage without data aborts at its end.",
                    "Lengthen windowSeconds, or lower minRequests.",
                )
                self.timeline.looks.append(Look(end, start, number, settled="stop"))
                break
        few_errors(self.book, node.line, metric, thin, rate)

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
