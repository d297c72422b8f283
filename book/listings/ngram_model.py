"""A text classifier that fits on a slide: naive Bayes over runs of letters.

Trained in a blink, stored as JSON, and read without a library. Good enough to route
texts by language; for anything else a stand-in for a real model.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path


def pieces(text: str) -> list[str]:
    """All runs of one to four characters, with a space at both ends."""
    text = f" {' '.join(text.lower().split())} "
    return [text[i : i + n] for n in (1, 2, 3, 4) for i in range(len(text) - n + 1)]


class NgramModel:
    """Counts of pieces by label."""

    def __init__(self, counts: dict[str, dict[str, int]]) -> None:
        self.counts = counts
        self.total = {label: sum(seen.values()) for label, seen in counts.items()}
        self.known = set().union(*counts.values())

    def predict(self, text: str) -> tuple[str, float]:
        """The label, and the share of the text's pieces of three that it has seen."""
        parts = [part for part in pieces(text) if len(part) > 1]
        scores = {
            label: sum(
                math.log((seen.get(part, 0) + 0.5) / (self.total[label] + 0.5))
                for part in parts
                if part in self.known
            )
            for label, seen in self.counts.items()
        }
        best = max(scores, key=scores.__getitem__)
        threes = [part for part in parts if len(part) == 3]
        known = sum(part in self.counts[best] for part in threes)
        return best, known / max(1, len(threes))

    def save(self, path: Path) -> None:
        """Write the counts as JSON."""
        path.write_text(json.dumps(self.counts, sort_keys=True), "utf-8")


def fit(texts: Iterable[str], labels: Iterable[str]) -> NgramModel:
    """Count the pieces of each label's texts."""
    counts: dict[str, Counter] = {}
    for text, label in zip(texts, labels, strict=True):
        counts.setdefault(label, Counter()).update(pieces(text))
    return NgramModel({label: dict(seen) for label, seen in counts.items()})


def load(path: Path) -> NgramModel:
    """Read what `save` wrote."""
    return NgramModel(json.loads(Path(path).read_text("utf-8")))
