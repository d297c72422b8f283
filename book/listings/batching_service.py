"""The phishing service with micro-batching: rows that meet are scored in one call."""

import os
import queue
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import phishing_service
from flask import Flask

from deploylab import artifacts


def create_app(artifact: str) -> Flask:
    """The phishing service; BATCH_WAIT_MS says how long a row waits for others."""
    plain = phishing_service.BackgroundModel
    phishing_service.BackgroundModel = BatchedModel
    try:
        return phishing_service.create_app(artifact)
    finally:
        phishing_service.BackgroundModel = plain


class BatchedModel(phishing_service.BackgroundModel):
    """A model that is asked through a `Batcher`."""

    def load(self, artifact: str, trust: str | None) -> None:
        super().load(artifact, trust)
        if self.scorer:
            wait_s = float(os.environ.get("BATCH_WAIT_MS", "2")) / 1000
            self.scorer = Batcher(self.scorer, wait_s=wait_s)


class Batcher:
    """Collects the rows of up to `most` requests, or for `wait_s`, into one call."""

    def __init__(self, scorer: artifacts.Scorer, most: int = 16, wait_s: float = 0.002):
        self.scorer, self.most, self.wait_s = scorer, most, wait_s
        self.waiting = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def score(self, rows: list) -> list:
        """The scores of these rows; waits for its turn."""
        answer = Future()
        self.waiting.put((rows, answer))
        return answer.result()

    def collect(self) -> list:
        """The first request, and those that come within `wait_s` of it."""
        batch = [self.waiting.get()]
        end = time.monotonic() + self.wait_s
        while len(batch) < self.most:
            try:
                left_s = max(0, end - time.monotonic())
                batch.append(self.waiting.get(timeout=left_s))
            except queue.Empty:
                break
        return batch

    def work(self) -> None:
        """For ever: one call for all rows, and to each request its own scores."""
        while True:
            batch = self.collect()
            try:
                scores = list(
                    self.scorer.score([row for rows, _ in batch for row in rows])
                )
            except Exception as error:  # all that were in the call fail with it
                for _, answer in batch:
                    answer.set_exception(error)
                continue
            for rows, answer in batch:
                answer.set_result([scores.pop(0) for _ in rows])
