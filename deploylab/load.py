"""A load generator in a process of its own, which tells of each request at once.

    with Load(router.url, rows, rate_per_s=100) as load:
        time.sleep(5)
        answers = load.take()

It goes on until it is stopped, and ends with its owner. The load is open-loop, as in
`deploylab.traffic`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deploylab import servers, traffic
from deploylab.router_process import ERROR_HEADER, SHARE_HEADER

if TYPE_CHECKING:  # a process that only sends is there sooner without it
    import pandas as pd

#: Longest time that one load goes on, in seconds.
LONGEST_S = 3600.0


class Answer(NamedTuple):
    """What became of one request.

    row: its place among the rows; user: its user's id; sent_s, finished_s: on this
    machine's monotonic clock (sent_s is NaN if no connection came free); latency_s:
    from the time at which it was due; status: 0 if there was no answer; role: whom the
    router chose, None if nobody said; share: the candidate's share of the traffic when
    it chose, NaN likewise; probability: as answered, NaN if it was not; from_router:
    whether the answer is the router's own.
    """

    row: int
    user: int
    sent_s: float
    finished_s: float
    latency_s: float
    status: int
    role: str | None
    share: float
    probability: float
    from_router: bool = False


class Load:
    """Poisson arrivals from many users, sent to one address until it is stopped.

    url: of a server on this machine; rows: what they send, drawn with replacement;
    rate_per_s: mean rate, 0 for no traffic at all; seed: of arrivals, users and rows;
    population, skew: of the users, see `traffic.users`; timeout_s: after which a
    request is given up.
    """

    def __init__(
        self,
        url: str,
        rows: pd.DataFrame | Sequence[Mapping],
        *,
        rate_per_s: float,
        seed: int = 0,
        population: int = 1000,
        skew: float = 0.0,
        timeout_s: float = 5.0,
    ) -> None:
        if hasattr(rows, "to_dict"):  # a DataFrame
            rows = rows.to_dict("records")
        if not rate_per_s >= 0:
            raise ValueError(f"rate_per_s is requests a second, not {rate_per_s}")
        spec = {
            "url": url,
            "rows": list(rows),
            "rate_per_s": rate_per_s,
            "seed": seed,
            "population": population,
            "skew": skew,
            "timeout_s": timeout_s,
        }
        self._answers: deque[Answer] = deque()
        self._life = servers._Hold()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deploylab.load", str(self._life.reading_end)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=servers.environment(),
                pass_fds=[self._life.reading_end],
                start_new_session=True,
                text=True,
            )
        except BaseException:
            self._life.release()
            raise
        finally:
            os.close(self._life.reading_end)
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, daemon=True)
        try:
            self._process.stdin.write(json.dumps(spec, allow_nan=False))
            self._process.stdin.close()
            ready = self._process.stdout.readline()
            if not ready:
                raise servers.ServerError(
                    "the load generator ended before it began (exit code "
                    f"{self._process.wait()}); what it said is above"
                )
        except BaseException:
            self.stop(grace_s=0)
            raise
        self._reader.start()

    @property
    def alive(self) -> bool:
        """Whether it still sends."""
        return self._process.poll() is None

    def take(self) -> list[Answer]:
        """What was over since the last call, in order of the ends."""
        taken = []
        while self._answers:
            taken.append(self._answers.popleft())
        return taken

    def stop(self, grace_s: float = 2.0) -> list[Answer]:
        """Send nothing more, wait for the answers, end; what was not taken yet.

        It is killed after `grace_s`. A later call does nothing.
        """
        with suppress(subprocess.TimeoutExpired):
            if self.alive and grace_s > 0:
                self._process.terminate()
                self._process.wait(grace_s)
        self._process.kill()
        self._process.wait()
        if self._reader.is_alive():
            self._reader.join()
        self._process.stdout.close()
        self._life.release()
        return self.take()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _read(self) -> None:
        with suppress(ValueError):  # the last line may be cut by a kill
            for line in self._process.stdout:
                self._answers.append(Answer(*json.loads(line)))


class _Told(traffic._Records):
    """Records that are told on standard output as soon as they are whole."""

    def __init__(self, plan: traffic.Plan, rows: np.ndarray, timeout_s: float) -> None:
        super().__init__(len(plan))
        self.plan, self.rows, self.timeout_s = plan, rows, timeout_s
        self.share = np.full(self.n, np.nan)
        self.from_router = np.zeros(self.n, bool)

    def answer(self, i: int, status: int, headers: Mapping, body: bytes) -> None:
        super().answer(i, status, headers, body)
        with suppress(ValueError):
            self.share[i] = int(headers.get(SHARE_HEADER, "")) / 1e6
        self.from_router[i] = headers.get(ERROR_HEADER) == "router"

    def done(self, i: int) -> None:
        waited_s = self.finished_s[i] - self.plan.scheduled_s[i]
        latency_s = waited_s if self.status[i] else max(waited_s, self.timeout_s)
        answer = Answer(
            int(self.rows[i]),
            int(self.plan.users[i]),
            float(self.start_s + self.sent_s[i]),
            float(self.start_s + self.finished_s[i]),
            float(latency_s),
            int(self.status[i]),
            self.role[i],
            float(self.share[i]),
            float(self.prediction[i]),
            bool(self.from_router[i]),
        )
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _end_with_owner(life: int) -> None:
    while os.read(life, 1024):
        pass
    os._exit(0)


def main(life: int) -> None:
    """Send as the specification on standard input says, until SIGTERM."""
    threading.Thread(target=_end_with_owner, args=(life,), daemon=True).start()
    spec = json.load(sys.stdin)
    rng = np.random.default_rng(spec["seed"])
    times_s = traffic.arrivals(rng, spec["rate_per_s"], LONGEST_S)
    encoded = [json.dumps(row).encode() for row in spec["rows"]]
    rows = rng.integers(len(encoded), size=len(times_s))
    users = traffic.users(rng, len(times_s), spec["population"], spec["skew"])
    plan = traffic.Plan(times_s, users, [encoded[row] for row in rows])
    told = _Told(plan, rows, spec["timeout_s"])
    url = traffic._loopback(spec["url"]) + "/predict"
    asyncio.run(_send(told, url))


async def _send(told: _Told, url: str) -> None:
    ended = asyncio.Event()

    def end() -> None:
        told.ended = True
        ended.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await traffic._send_all(told.plan, url, told, 100, told.timeout_s)
    if not len(told.plan):
        await ended.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
