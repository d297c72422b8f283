"""Take messages from a queue, answer them, and say that they are done.

    python queue_worker.py REDIS_URL STREAM HANDLER...

The queue is a Redis stream with a consumer group. Every message carries the name of its
`sender` and an `id` that the sender chose, and the answer is kept under both, for an
hour. Kill a worker whenever you like: what it had in hand goes to another one after a
while. So a message may be answered twice, and its first answer stands.
"""

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ngram_model
import numpy as np
import redis as redis_client

from deploylab import artifacts, broker
from deploylab.contract import ContractError

GROUP = "workers"
KEEP_S = 3600  # an answer that nobody has fetched by then is gone
#: Adds a message unless the stream is full; Redis runs it as one step.
OFFER = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return false end
return redis.call('XADD', KEYS[1], '*', unpack(ARGV, 2))
"""


def key(kind: str, sender: str, id: str) -> str:
    """Where a sender's `result` lies, or the note that it is `waiting` for one."""
    return f"{kind}:{sender}:{id}"


class BadMessage(ValueError):
    """This message will never be answered, however often it is tried."""


class Queue:
    """A bounded stream, its consumer group, and the stream of what was set aside.

    limit: how many messages may wait or be in hand.
    idle_ms: a message that somebody has had for so long is given to another.
    most_deliveries: after so many, a message is set aside.
    keep_s: how long an answer lies ready.
    """

    def __init__(
        self,
        redis: Any,
        stream: str,
        limit: int = 1000,
        idle_ms: int = 1000,
        most_deliveries: int = 3,
        keep_s: int = KEEP_S,
    ) -> None:
        self.redis, self.stream, self.dead = redis, stream, f"{stream}:dead"
        self.limit, self.idle_ms = limit, idle_ms
        self.most_deliveries, self.keep_s = most_deliveries, keep_s
        try:  # from the beginning: what came before the first worker counts too
            redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
        except redis_client.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def __len__(self) -> int:
        """Messages that wait or are in hand; a done one is deleted."""
        return self.redis.xlen(self.stream)

    def offer(self, fields: dict[str, str]) -> str | None:
        """Add a message; None, and nothing added, if the queue is full."""
        pairs = [part for pair in fields.items() for part in pair]
        return self.redis.eval(OFFER, 1, self.stream, self.limit, *pairs)

    def take(self, worker: str, wait_ms: int = 200) -> tuple[str, dict, int] | None:
        """One message with its number of deliveries: an orphan first, then a new one.

        One, not ten: if it ends this process, the other nine would count it as theirs.
        """
        claimed = self.redis.xautoclaim(
            self.stream, GROUP, worker, self.idle_ms, count=1
        )[1]
        if claimed:
            [(message, fields)] = claimed
            states = self.redis.xpending_range(
                self.stream, GROUP, message, message, count=1
            )
            if not states:  # the one who had it has just finished it
                return None
            return message, fields, states[0]["times_delivered"]
        found = self.redis.xreadgroup(
            GROUP, worker, {self.stream: ">"}, count=1, block=wait_ms
        )
        if not found:
            return None
        [(_, [(message, fields)])] = found.items() if isinstance(found, dict) else found
        return message, fields, 1

    def answer(self, fields: dict[str, str], text: str) -> None:
        """Keep an answer for its sender, for a while, unless there is one."""
        name = key("result", fields["sender"], fields["id"])
        self.redis.set(name, text, nx=True, ex=self.keep_s)

    def finish(self, message: str) -> None:
        """Acknowledge and delete; from now on nobody gets it again."""
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.xack(self.stream, GROUP, message).xdel(self.stream, message)
        pipeline.execute()

    def set_aside(self, message: str, fields: dict[str, str], why: str) -> None:
        """Move a message to the dead, with the reason, and tell its sender."""
        self.answer(fields, json.dumps({"error": why}))
        self.redis.xadd(self.dead, {**fields, "why": why})
        self.finish(message)


def answer_next(queue: Queue, worker: str, handle: Callable[[dict], str]) -> str | None:
    """Answer one message; its sender's id, or None if there was none to take."""
    taken = queue.take(worker)
    if taken is None:
        return None
    message, fields, deliveries = taken
    if deliveries > queue.most_deliveries:
        queue.set_aside(message, fields, f"{deliveries - 1} deliveries, never finished")
        return fields["id"]
    try:
        answer = handle(fields)
    except BadMessage as error:
        queue.set_aside(message, fields, str(error))
        return fields["id"]
    if answer:
        queue.answer(fields, answer)  # first write ...
    queue.finish(message)  # ... then acknowledge
    return fields["id"]


# -- handlers: from a message's fields to the answer, or "" if another one answers --


def phishing(folder: str) -> Callable[[dict], str]:
    """Score the row in `body` with the model in a folder."""
    scorer = artifacts.load(folder)
    contract = scorer.artifact.contract

    def handle(fields: dict) -> str:
        try:
            row = contract.parse(fields["body"])
        except ContractError as error:
            raise BadMessage(str(error)) from error
        probability = float(scorer.score(np.array([row]))[0])
        version = scorer.artifact.version
        return json.dumps({"version": version, "probability": probability})

    return handle


def language(queues: dict[str, Queue], model: Path) -> Callable[[dict], str]:
    """Find the language of `text`, and hand the message on to that language's queue.

    If that is full, the sender is told so, and the next text has its turn: to wait here
    for one language would stop them all.
    """
    detector = ngram_model.load(model)

    def handle(fields: dict) -> str:
        found, known = detector.predict(fields["text"])
        onward = found if found in queues and known > 0.4 else "other"
        if queues[onward].offer({**fields, "language": onward}):
            return ""
        full = f"the queue for {onward} is full: send it later, under another name"
        return json.dumps({"language": onward, "error": full})

    return handle


def sentiment(model: Path) -> Callable[[dict], str]:
    """The sentiment of `text`, by the model of its language."""
    judge = ngram_model.load(model)

    def handle(fields: dict) -> str:
        found, _ = judge.predict(fields["text"])
        return json.dumps({"language": fields["language"], "sentiment": found})

    return handle


def nobody(fields: dict) -> str:
    """No model for this one: said, and not guessed."""
    return json.dumps({"language": fields["language"], "sentiment": None})


# -- the program -------------------------------------------------------------------


def slowed(handle: Callable, takes_s: float, dies_on: str) -> Callable[[dict], str]:
    """Faults that a page plants: slow work, and a text that ends the process."""

    def slow(fields: dict) -> str:
        if dies_on and dies_on in json.dumps(fields):
            os.kill(os.getpid(), signal.SIGKILL)  # as a fault in a C library would
        time.sleep(takes_s)
        return handle(fields)

    return slow


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("stream")
    parser.add_argument("--phishing", help="folder of a saved model")
    parser.add_argument("--language", type=Path, help="file of a language model")
    parser.add_argument(
        "--onward", nargs="*", default=[], help="languages with a queue"
    )
    parser.add_argument("--sentiment", type=Path, help="file of a sentiment model")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--idle-ms", type=int, default=1000)
    parser.add_argument("--takes-s", type=float, default=0.0)
    parser.add_argument("--dies-on", default="")
    options = parser.parse_args()
    redis = broker.connect(options.url)
    kept = {"limit": options.limit, "idle_ms": options.idle_ms}
    queue = Queue(redis, options.stream, **kept)
    if options.phishing:
        handle = phishing(options.phishing)
    elif options.language:
        names = [*options.onward, "other"]
        onward = {name: Queue(redis, f"texts:{name}", **kept) for name in names}
        handle = language(onward, options.language)
    else:
        handle = sentiment(options.sentiment) if options.sentiment else nobody
    handle = slowed(handle, options.takes_s, options.dies_on)
    name = f"{socket.gethostname()}-{os.getpid()}"
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    print("ready", flush=True)
    try:
        while not stopped:
            answer_next(queue, name, handle)
        return 0
    except redis_client.RedisError as error:
        print(f"queue_worker: the broker is gone: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
