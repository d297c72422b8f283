"""Live systems for exercises: a server that a student wrote, and one to operate.

``Program`` runs a student's server on a disk that we can hold, so that its loading
takes as long as a check wants to look at it. ``System`` is a server under traffic,
with the controls that a runbook needs; it keeps a log of what was done to it, and a
record of what every request got. Processes and HTTP are real in both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.client
import ipaddress
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self
from urllib.parse import urlsplit

import numpy as np
import psutil

from deploylab import ROOT, artifacts, servers

# -- HTTP, one request at a time ---------------------------------------------------

_JSON = {"Content-Type": "application/json", "Connection": "close"}


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came back for a request; status 0 and an ``error`` if nothing did."""

    status: int
    body: bytes = b""
    error: str = ""
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(errors="replace")

    @property
    def said(self) -> str:
        """The status or the error, to be put into a sentence: "gave 500"."""
        return f"gave {self.status}" if self.status else f"got no answer ({self.error})"


def ask(
    address: tuple[str, int], path: str, body: bytes | None = None, timeout_s: float = 2
) -> Reply:
    """GET ``path``, or POST ``body`` to it; never raises."""
    return SlowCaller(address, path, body, timeout_s, share=1).finish()


class SlowCaller:
    """A client that has sent the ``share`` of its body, and sends the rest later."""

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        body: bytes | None,
        timeout_s: float = 2,
        share: float = 0.5,
    ) -> None:
        self._connection = http.client.HTTPConnection(*address, timeout=timeout_s)
        self._started = time.monotonic()
        self._failed = ""
        sent = int(len(body or b"") * share)
        self._rest = (body or b"")[sent:]
        try:
            self._connection.putrequest("GET" if body is None else "POST", path)
            for name, value in _JSON.items():
                self._connection.putheader(name, value)
            if body is not None:
                self._connection.putheader("Content-Length", str(len(body)))
            self._connection.endheaders()
            if sent:
                self._connection.send(body[:sent])
        except (OSError, http.client.HTTPException) as error:
            self._failed = _shown(error)

    def finish(self, timeout_s: float | None = None) -> Reply:
        """Send what is left, and take the answer."""
        try:
            if self._failed:
                return Reply(0, error=self._failed)
            if timeout_s is not None:
                self._connection.sock.settimeout(timeout_s)
            # A server may refuse before it has read the whole body.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if self._rest:
                    self._connection.send(self._rest)
            answer = self._connection.getresponse()
            body = answer.read()
            seconds = time.monotonic() - self._started
            return Reply(answer.status, body, seconds=seconds)
        except (OSError, http.client.HTTPException) as error:
            return Reply(0, error=_shown(error))
        finally:
            self._connection.close()


def _shown(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it did not come in time"
    if isinstance(error, ConnectionRefusedError):
        return "the connection was refused"
    return "the connection was closed"


# -- a server that a student wrote -------------------------------------------------

#: A program that works for so long and does not answer yet never will.
LONGEST_UP_S = 30.0

#: What to try if a program runs and has not opened a port.
LISTENS_NOWHERE = (
    "Your program still runs and listens on no port. If it was still importing or "
    "loading, run the check again; if not, look at what it does before it listens."
)

#: What each Python of the student's program runs first. An audit hook sees every file
#: that Python opens, so the program's own code stays as it is. What a library opens by
#: itself it does not see. Threads that share a name meet in it once in many thousand
#: requests; with a pause before each line of the program they meet in any dozen.
_SLOW_DISK = '''\
"""A disk that is slow, and that counts: opening the model waits for a sign."""

import os
import sys
import threading
import time

MODEL = os.environ["CHECK_MODEL"]
LOG = os.environ["CHECK_LOG"]
SIGN = os.environ["CHECK_SIGN"]
MEET = os.environ["CHECK_MEET"]
PROGRAM = os.environ["CHECK_PROGRAM"]


def slow(event, arguments):
    if event != "open" or not str(arguments[0]).endswith(MODEL):
        return
    fd = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%d\\n" % os.getpid())
    os.close(fd)
    while not os.path.exists(SIGN):
        time.sleep(0.01)


def begin(frame, event, argument):
    """What a new thread calls first: from the sign on, such threads pause."""
    sys.settrace(find if os.path.exists(MEET) else None)


def find(frame, event, argument):
    # By its whole path: the standard library has an http/server.py.
    return pause if frame.f_code.co_filename == PROGRAM else None


def pause(frame, event, argument):
    if event == "line":
        time.sleep(0.001)
    return pause


sys.addaudithook(slow)
threading.settrace(begin)
'''


class Service:
    """A server that runs somewhere on this machine, at ``http://host:port``."""

    #: Seconds that it took to come up, as far as that was seen.
    up_s = 0.0

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "127.0.0.1", parts.port or 80)

    def ask(self, path: str, body: bytes | None = None, timeout_s: float = 2) -> Reply:
        """GET ``path``, or POST ``body`` to it."""
        return ask(self.address, path, body, timeout_s)

    def slow_caller(self, path: str, body: bytes, timeout_s: float = 2) -> SlowCaller:
        """A client that has sent half of its body."""
        return SlowCaller(self.address, path, body, timeout_s)

    def let_meet(self) -> None:
        """Make threads meet that share something; here it is left to chance."""

    def last_words(self) -> str:
        """What its log says last; nothing is known of a log here."""
        return ""

    def died(self) -> str:
        """How its process ended; "" while it lives, or where that is not known."""
        return ""


def is_here(url: str) -> bool:
    """Whether a URL is plain HTTP on this machine, at a port that there can be."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.port == 0:
            return False
        if parts.hostname == "localhost":
            return True
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:  # no port, no address, or a bracket too few
        return False


class Program(Service):
    """A server program under test, started with $PORT, $ARTIFACT and what `env` adds.

    Every time its Python opens the model file is counted (``loads``), and waits there
    until ``let_load()``; what a library opens without Python is not seen. It works in
    the current folder, which is the check's own, and ends with the ``with`` block.
    """

    def __init__(
        self,
        file: Path,
        artifact: artifacts.Artifact,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.file = file
        folder = Path("disk").resolve()
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(_SLOW_DISK, "utf-8")
        self._log, self._sign = folder / "log", folder / "sign"
        self._meet = folder / "meet"
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        self._env = {
            "ARTIFACT": str(artifact.folder.resolve()),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "CHECK_MODEL": artifact.file.name,
            "CHECK_LOG": str(self._log),
            "CHECK_SIGN": str(self._sign),
            "CHECK_MEET": str(self._meet),
            "CHECK_PROGRAM": str(file),
        } | dict(env or {})
        self.started = time.monotonic()
        self._worked = (0.0, self.started)

    def __enter__(self) -> Program:
        self._server = servers.run(
            [sys.executable, str(self.file)],
            env=self._env,
            cwd=self.file.parent,
            wait=False,
        )
        super().__init__(self._server.url)
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(grace_s=0)

    @property
    def port(self) -> int:
        """The port that it was told to listen on."""
        return self._server.port

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.monotonic() - self.started

    @property
    def loads(self) -> int:
        """How often the model file was opened."""
        return len(self._loaders())

    @property
    def needless_loads(self) -> int:
        """Those beyond one for each of its processes that is running."""
        pids = self._loaders()
        return len(pids) - len(set(pids) & set(self._server.processes()))

    def _loaders(self) -> list[int]:
        """The process of every opening of the model file."""
        try:
            return [int(pid) for pid in self._log.read_text().split()]
        except FileNotFoundError:
            return []

    def let_load(self) -> None:
        """Let the model be read, from now on at once."""
        self._sign.touch()

    def let_meet(self) -> None:
        """From now on the threads of new requests pause before each line."""
        self._meet.touch()

    def terminate(self) -> None:
        """Send it SIGTERM."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._server.pid, signal.SIGTERM)

    def died(self) -> str:
        """How its process ended, as "exit code 1"; "" while it lives."""
        try:
            self._server.check()
        except servers.ServerDied as error:
            code = error.exit_code
            if code is not None and code < 0:
                return f"killed by {signal.Signals(-code).name}"
            return f"exit code {code}"
        return ""

    def ended_within(self, seconds: float) -> bool:
        """Wait for its end; whether it came."""
        deadline = time.monotonic() + seconds
        while not self.died():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def hangs(self) -> bool:
        """Whether it has stopped working: for two seconds neither processor nor disk.

        After `LONGEST_UP_S` it does so in any case. Ask again and again.
        """
        used_s, reads = 0.0, False
        for pid in self._server.processes():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                times = process.cpu_times()
                used_s += times.user + times.system
                reads = reads or process.status() == psutil.STATUS_DISK_SLEEP
        now = time.monotonic()
        if reads or used_s > self._worked[0] + 0.02:
            self._worked = (used_s, now)
        return now > self._worked[1] + 2 or self.seconds > LONGEST_UP_S

    def ports(self) -> list[int]:
        """The ports on which it listens."""
        found = set()
        for pid in self._server.processes():
            with contextlib.suppress(psutil.Error):
                for one in psutil.Process(pid).net_connections("tcp"):
                    if one.status == psutil.CONN_LISTEN:
                        found.add(one.laddr.port)
        return sorted(found)

    def log(self, lines: int = 1000) -> str:
        """The last lines that it has written to its output."""
        return self._server.log(lines)

    def last_words(self) -> str:
        """What its log says last; see `last_words`."""
        return last_words(self.log(200))


_ERROR = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Artifact)\b")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ACCESS = re.compile(r'.*"(GET|POST|HEAD) \S+ HTTP|.*\[(INFO|DEBUG)\]')


def last_words(log: str, limit: int = 150) -> str:
    """The line of a log that says most: the last error, else the last line.

    Lines about single requests do not count. Fit to stand between backticks.
    """
    lines = [line.strip() for line in _COLOUR.sub("", log).splitlines()]
    lines = [line for line in lines if line and not _ACCESS.match(line)]
    errors = [line for line in lines if _ERROR.match(line)]
    line = (errors or lines or [""])[-1].replace("`", "'")
    return line if len(line) <= limit else f"{line[: limit - 4]} ..."


# -- a system to operate -----------------------------------------------------------

#: Requests a second, at regular times: enough that some are always in flight.
RATE_PER_S = 30
#: How long v1 takes for each request, and v2 to load its model.
SLOW_S = 0.25
LOADING_S = 0.7
#: Traffic before the runbook begins, and after it has returned.
BEFORE_S = 0.3
AFTER_S = 0.7
_TIMEOUT_S = 5.0


def slow_to_load(folder: str) -> Callable:
    """The book's service, with a model that takes ``LOADING_S`` longer to load."""
    from deploylab import worker

    load = artifacts.load

    def slowly(*args: Any, **kwargs: Any) -> artifacts.Scorer:
        time.sleep(LOADING_S)
        return load(*args, **kwargs)

    artifacts.load = slowly  # in a server process, which serves this and no other
    service = ROOT / "book" / "listings" / "phishing_service.py"
    return worker.load_factory(f"{service}:create_app")(folder)


@dataclasses.dataclass(eq=False)
class Instance:
    """One running server of a version.

    Times are seconds since the system's start; None for what has not happened.
    ``found_ready`` is whether somebody asked if it is ready, and the answer was yes.
    """

    name: str
    version: str
    server: servers.ModelServer = dataclasses.field(repr=False)
    started_s: float = 0.0
    ready_s: float | None = None
    stopped_s: float | None = None
    killed_s: float | None = None
    found_ready: bool = False

    def ready(self) -> bool:
        """Whether its model is loaded and warm."""
        now = self.server.state == "ready"
        self.found_ready = self.found_ready or now
        return now

    @property
    def running(self) -> bool:
        """Whether neither stop nor kill was ordered."""
        return self.stopped_s is None and self.killed_s is None

    def __repr__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: dict) -> Instance:
        return self  # a running server has no copy


@dataclasses.dataclass(frozen=True)
class Request:
    """What one request of the traffic got. ``instance`` is None if nobody was routed.

    Times are seconds since the system's start; status 0 means no answer.
    """

    sent_s: float
    instance: Instance | None
    status: int
    error: str


class System:
    """Servers behind a list of addresses, under traffic that never pauses.

        with live.System() as system:
            new = system.start("v2")
            system.wait_ready(new)
            ...
            print(system.log)

    Callers send `RATE_PER_S` requests a second, each to the next address on the list
    of those that are routed; they do not ask again when one fails. ``v1`` serves when
    it begins. ``folder`` is for the models; by default a temporary one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._began = time.monotonic()
        self._events: list[tuple[float, str, str]] = []
        self._requests: list[Request] = []
        self._noting = threading.Lock()
        self._over = threading.Event()
        self._clean_up = contextlib.ExitStack()
        self._artifacts: dict[str, artifacts.Artifact] = {}
        self.instances: list[Instance] = []
        self.routed: tuple[Instance, ...] = ()
        #: Who was routed before anybody had found them ready, and how many seconds
        #: after their start.
        self.routed_blindly: list[tuple[Instance, float]] = []

    def __enter__(self) -> System:
        # Here and not above: a server process imports this module for `slow_to_load`.
        from deploylab import phishing, traffic

        with self._clean_up as stack:
            folder = self._folder or stack.enter_context(
                tempfile.TemporaryDirectory(prefix="system-")
            )
            for name in ("v1", "v2"):
                version = phishing.version(name)
                self._artifacts[name] = artifacts.save(version, f"{folder}/{name}")
            rows = phishing.split().test[phishing.CONTRACT.names]
            bodies = traffic.bodies(np.random.default_rng(7), rows, 200)
            self._began = time.monotonic()
            stack.callback(self._stop_all)
            self.v1 = self.start("v1")
            self.wait_ready(self.v1)
            self.route([self.v1])
            self._sender = threading.Thread(target=self._send, args=(bodies,))
            self._sender.start()
            stack.callback(self.end_traffic)
            self.watch(BEFORE_S)
            self._clean_up = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._clean_up.close()

    def __repr__(self) -> str:
        return "system"

    def __deepcopy__(self, memo: dict) -> System:
        return self  # a running system has no copy

    # -- the controls

    def start(self, version: str) -> Instance:
        """Start a server of "v1" or "v2"; it is not ready yet when this returns."""
        if version not in self._artifacts:
            known = ", ".join(repr(name) for name in self._artifacts)
            raise ValueError(f"there is no version {version!r} here; there are {known}")
        slow = version == "v1"
        server = servers.start(
            self._artifacts[version].folder,
            servers.PHISHING_SERVICE if slow else f"{__name__}:slow_to_load",
            threads=16,
            faults={"slow": {"extra_s": SLOW_S}} if slow else {},
            wait=False,
        )
        of_it = sum(other.version == version for other in self.instances)
        name = version if not of_it else f"{version} ({of_it + 1})"
        instance = Instance(name, version, server)
        self.instances.append(instance)
        instance.started_s = self._note("start", name)
        threading.Thread(target=self._await, args=(instance,), daemon=True).start()
        return instance

    def wait_ready(self, instance: Instance, timeout_s: float = 20) -> None:
        """Wait until an instance is ready. Raises ServerError if it does not get so."""
        instance.server.wait_ready(timeout_s)
        instance.found_ready = True
        self._is_ready(instance)

    def route(self, instances: Iterable[Instance]) -> None:
        """Send the traffic to these instances in turn, from the next request on."""
        if isinstance(instances, Instance):
            instances = [instances]
        routed = tuple(instances)
        for one in routed:
            if not isinstance(one, Instance):
                raise TypeError(
                    f"route takes instances, as `start` returns them, not {one!r}"
                )
        self.routed = routed
        now_s = self._note("route", ", ".join(one.name for one in routed) or "nobody")
        self.routed_blindly += [
            (one, now_s - one.started_s) for one in routed if not one.found_ready
        ]

    def stop(self, instance: Instance) -> None:
        """SIGTERM: it answers what it has accepted, and ends. Returns when it has."""
        if instance.running:
            instance.stopped_s = self._note("stop", instance.name)
            instance.server.stop()
            self._note("ended", instance.name)

    def kill(self, instance: Instance) -> None:
        """SIGKILL: it ends at once."""
        if instance.running:
            instance.killed_s = self._note("kill", instance.name)
            instance.server.stop(grace_s=0)

    def watch(self, seconds: float) -> Any:
        """Wait, then return how many requests got which status, by instance."""
        import pandas as pd

        time.sleep(seconds)
        done = self.requests
        names = [one.instance.name if one.instance else "nobody" for one in done]
        statuses = [one.status or "no answer" for one in done]
        return pd.crosstab(
            pd.Series(names, name="instance", dtype=object),
            pd.Series(statuses, name="status", dtype=object),
        )

    # -- what happened

    @property
    def log(self) -> Any:
        """What was done to the system, as a table: seconds, event, instance."""
        import pandas as pd

        columns = ["seconds", "event", "instance"]
        return pd.DataFrame(sorted(self._events), columns=columns).round(2)

    @property
    def requests(self) -> list[Request]:
        """The requests that are over, in the order in which they were sent."""
        return sorted(self._requests, key=lambda one: one.sent_s)

    @property
    def hurt(self) -> list[Request]:
        """Those that did not get their prediction."""
        return [one for one in self.requests if one.status != 200]

    def end_traffic(self) -> None:
        """Let the callers go home: nothing is sent from now on, all is answered."""
        self._over.set()
        self._sender.join()

    # -- plumbing

    def _note(self, event: str, name: str) -> float:
        now = time.monotonic() - self._began
        self._events.append((now, event, name))
        return now

    def _await(self, instance: Instance) -> None:
        while instance.running and instance.server.state != "stopped":
            if instance.server.state == "ready":
                self._is_ready(instance)
                return
            time.sleep(0.01)

    def _is_ready(self, instance: Instance) -> None:
        with self._noting:
            if instance.ready_s is None:
                instance.ready_s = self._note("ready", instance.name)

    def _send(self, bodies: list[bytes]) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(128) as pool:
            for number in _numbers():
                due = began + number / RATE_PER_S
                if self._over.wait(max(0, due - time.monotonic())):
                    return
                routed = self.routed
                instance = routed[number % len(routed)] if routed else None
                pool.submit(self._one, instance, bodies[number % len(bodies)])

    def _one(self, instance: Instance | None, body: bytes) -> None:
        sent_s = time.monotonic() - self._began
        reply = Reply(0, error="nobody was routed")
        if instance is not None:
            address = ("127.0.0.1", instance.server.port)
            reply = ask(address, "/predict", body, _TIMEOUT_S)
        self._requests.append(Request(sent_s, instance, reply.status, reply.error))

    def _stop_all(self) -> None:
        for instance in self.instances:
            instance.server.stop(grace_s=0)


def _numbers() -> Iterator[int]:
    return iter(range(sys.maxsize))


# -- a canary, or a switch, to operate -----------------------------------------------

#: Users' requests a second, and how often the bad version answers 500. So many errors
#: show within seconds what takes `v2-flaky` of the book, with 5 %, much longer.
CANARY_RATE_PER_S = 200.0
BAD_ERROR_RATE = 0.4
#: Requests of the candidate's that a stage needs, for a verdict to say "successful".
ENOUGH = 40
#: What one canary may use: controls, requests of the candidate's to watch, and seconds
#: of watching. A loop without an end finds one here.
MOST_CONTROLS = 200
MOST_WATCHED = 400
MOST_WATCHED_S = 25.0


class OutOfOrder(RuntimeError):
    """A control that can do nothing now; the message says what is missing."""


class AfterFailed(OutOfOrder):
    """A control that goes on with a version after the verdict `failed`."""


class TooLong(OutOfOrder):
    """A rollout that has used up its controls, or what it may watch."""


@dataclasses.dataclass(frozen=True)
class Done:
    """One thing that was done to a canary, and what was known then.

    share: the candidate's, afterwards; watched: its requests since it has that share;
    verdict: what was said, if one was asked for.
    """

    seconds: float
    what: str
    share: float
    watched: int
    verdict: str = ""


class Canaries:
    """Users' traffic on v1, and versions that come one after the other.

        with live.Canaries() as canaries:
            canary = canaries.next("bad")
            operate(canary)
            print(canary.log)

    The "mute" version is as good as the "good" one, but its judge gets no numbers.
    Servers and traffic start with the first control that is used.
    """

    #: The versions that may come, and the faults of each.
    faults: ClassVar[dict[str, dict[str, Any]]] = {
        "good": {},
        "bad": {"flaky": {"error_rate": BAD_ERROR_RATE}},
        "mute": {},
    }

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._clean_up = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._clean_up.close()

    def next(self, version: str) -> Canary:
        """The controls of the next candidate: "good", "bad" or "mute"."""
        return Canary(self, self._known(version))

    def _known(self, version: str) -> str:
        if version not in self.faults:
            raise ValueError(
                f"a version is one of {', '.join(self.faults)}, not {version!r}"
            )
        return version

    def save(self, name: str) -> Path:
        """The folder of the artifact of "stable", or of a version that may come."""
        from deploylab import phishing

        if self._folder is None:
            temporary = tempfile.TemporaryDirectory(prefix="canary-")
            self._folder = Path(self._clean_up.enter_context(temporary))
        # The model does not matter to an error gate, and this one is saved soonest.
        version = dataclasses.replace(
            phishing.version("v1"), faults=self.faults.get(name, {})
        )
        model, exported = self._fitted
        folder = self._folder / name
        return artifacts.save(version, folder, model=model, exported=exported).folder

    @functools.cached_property
    def _fitted(self) -> tuple[Any, bytes]:
        """The model of all these versions, and its export."""
        from deploylab import phishing

        v1 = phishing.version("v1")
        model = v1.fit()
        return model, artifacts.to_onnx_bytes(model, len(v1.contract.features))

    @functools.cached_property
    def system(self) -> Any:
        """Servers, router and traffic, as a `deploylab.rollout.live.System`."""
        from deploylab import phishing
        from deploylab.rollout import live as rollout

        rows = phishing.split().test[list(phishing.CONTRACT.names)]
        stable = self.save("stable")
        system = rollout.System(stable, rows, rate_per_s=CANARY_RATE_PER_S, tick_s=0.05)
        return self._clean_up.enter_context(system)


class _Operated:
    """What somebody operates by controls: what was done, and what was refused."""

    name: ClassVar[str]

    def __init__(self, owner: Canaries, version: str) -> None:
        self._owner, self.version = owner, version
        self._began = time.monotonic()
        self._controls = self._watched = 0
        self._watched_s = 0.0
        self.done: list[Any] = []
        self.refused: list[OutOfOrder] = []

    def __repr__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: dict) -> Self:
        return self  # a running system has no copy

    @property
    def log(self) -> Any:
        """What was done, as a table."""
        import pandas as pd

        table = pd.DataFrame(self.done)
        return table.assign(seconds=table["seconds"].round(2)) if self.done else table

    @functools.cached_property
    def _environment(self) -> Any:
        from deploylab.rollout.live import Live

        system = self._owner.system
        return Live(system, self._owner.save(self.version), ready_s=20.0)

    def _count(self) -> None:
        """Count a control; a loop without an end finds one here."""
        self._controls += 1
        if self._controls > MOST_CONTROLS:
            self._refuse(
                f"this {self.name} has used its {MOST_CONTROLS} controls, and is still "
                "not at an end",
                TooLong,
            )

    def _refuse(self, why: str, kind: type[OutOfOrder] = OutOfOrder) -> NoReturn:
        self.refused.append(kind(why))
        raise self.refused[-1]


class Canary(_Operated):
    """The controls of one candidate beside the version that serves."""

    name = "canary"

    def __init__(self, owner: Canaries, version: str) -> None:
        super().__init__(owner, version)
        self._measured: list[Any] = []
        self._stage: list[Any] = []
        self._stopped = 0  # how much had been measured when it was stopped
        self._failed = False
        self.share = 0.0
        self.runs = self.promoted = False

    # -- the controls

    def start(self) -> None:
        """Start the candidate's instance, and return when it is ready. No traffic."""
        from deploylab.rollout import model

        self._use("start", forward=True)
        if self.promoted:
            self._refuse("the candidate serves everybody now; it is started once")
        if self.runs:
            self._refuse("the candidate runs already; it is started once")
        self._do(model.Deploy(model.CANDIDATE))
        self.runs = True
        self._note("start")

    def shift(self, share: float) -> None:
        """Send the candidate this share of the requests, from the next one on."""
        from deploylab.rollout import model

        self._use(f"shift({share})", forward=float(share) > 0)
        self._need_instance("can be sent any traffic")
        share = round(float(share), 6)  # the router counts in millionths
        self._do(model.Shift(model.TrafficSplit(share)))
        self.share, self._stage = share, []
        self._note("shift")

    def watch(self, requests: int) -> dict[str, dict[str, int]]:
        """Wait until the candidate has had so many more requests.

        Returns the requests and errors of each role since the last shift.
        """
        from deploylab.rollout import model

        self._use("watch", forward=True)
        if self.promoted:
            self._refuse("the candidate serves everybody now; no canary is left")
        if not self.share:
            self._refuse(
                "no candidate gets traffic, so there is nothing to watch; shift "
                "some to it first"
            )
        if self._watched + requests > MOST_WATCHED:
            self._refuse(
                f"this canary has watched {self._watched} requests, and may watch "
                f"{MOST_WATCHED}, which {requests} more exceed",
                TooLong,
            )
        before, began = self._seen(self._stage), time.monotonic()
        while self._seen(self._stage) - before < requests:
            if self._watched_s + time.monotonic() - began > MOST_WATCHED_S:
                self._refuse(
                    f"this canary has watched for {MOST_WATCHED_S:.0f} s, and "
                    f"{requests} requests have not come",
                    TooLong,
                )
            self._do(model.Bake(float("inf")))
        self._watched_s += time.monotonic() - began
        self._watched += self._seen(self._stage) - before
        self._note("watch")
        return {
            role: {
                "requests": sum(getattr(m, role).requests for m in self._stage),
                "errors": _errors(self._stage, role),
            }
            for role in ("stable", "candidate")
        }

    def verdict(self) -> str:
        """What the split e-process says of all that was watched so far."""
        from deploylab.rollout.judges import SplitEProcess

        self._use("verdict")
        # Without the ratio check: its false alarms, one in a million at each look,
        # would be the answer's.
        judge = SplitEProcess(alpha=1e-3, at_least=ENOUGH, check_ratio=False)
        arrived = [] if self.version == "mute" else self._measured
        said = judge.judge("errors", arrived).verdict.value
        self._failed = said == "failed"
        self._note("verdict", said)
        return said

    def abort(self) -> None:
        """Send all traffic back to the version that serves."""
        from deploylab.rollout import model

        self._use("abort")
        if self.promoted:
            self._refuse("the candidate serves everybody now; no way leads back")
        if not (self.runs or self.share):
            self._refuse(
                "there is no candidate beside the version that serves, so nothing can "
                "be aborted"
            )
        self._do(model.Abort("by hand"))
        self.share, self._stage = 0.0, []
        self._note("abort")

    def promote(self) -> None:
        """Send the candidate all traffic, then let the old version finish, and stop it.

        From then on the candidate is the version that serves.
        """
        from deploylab.rollout import model

        self._use("promote", forward=True)
        self._need_instance("can be promoted")
        for step in (
            model.Shift(model.TrafficSplit(1.0)),
            model.Drain(model.STABLE),
            model.Retire(model.STABLE),
        ):
            self._do(step)
        self._do(model.Promote())
        self.share, self.promoted, self.runs = 1.0, True, False
        self._note("promote")

    def retire(self) -> None:
        """Stop the candidate's instance, whatever it gets at this moment."""
        from deploylab.rollout import model

        self._use("retire")
        if self.promoted:
            self._refuse(
                "the candidate serves everybody now, and `promote` has stopped the old "
                "version: nothing is left to stop"
            )
        self._need_instance("could be stopped")
        if self.share:
            # The environment of a rollout refuses that; this one does what it is told.
            group = self._owner.system._groups[model.CANDIDATE]
            while group:
                group.pop().stop()
        else:
            self._do(model.Drain(model.CANDIDATE))
            self._do(model.Retire(model.CANDIDATE))
        self.runs = False
        self._stopped = len(self._measured)
        self._note("retire")

    # -- what happened

    def lost(self, seconds: float = 0.5) -> int:
        """Wait; then the candidate's requests that have failed since it was stopped."""
        from deploylab.rollout import model

        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._do(model.Bake(float("inf")))
        return _errors(self._measured[self._stopped :], "candidate")

    # -- plumbing

    def _do(self, step: Any) -> None:
        new = self._environment.do(step)
        self._measured += new
        self._stage += [m for m in new if abs(m.share - self.share) < 1e-6]

    def _use(self, control: str, *, forward: bool = False) -> None:
        """Count a control, and refuse it if there is no more to come of it."""
        self._count()
        if forward and self._failed:
            self._refuse(
                f"the verdict was `failed`, and `{control}` goes on; `abort` and "
                "`retire` are left",
                AfterFailed,
            )

    def _need_instance(self, what: str) -> None:
        if not self.runs:
            self._refuse(f"the candidate has no instance that {what}; start it first")

    def _seen(self, measured: list[Any]) -> int:
        return sum(m.candidate.requests for m in measured)

    def _note(self, what: str, verdict: str = "") -> None:
        seconds = time.monotonic() - self._began
        seen = self._seen(self._stage)
        self.done.append(Done(seconds, what, self.share, seen, verdict))


def _errors(measured: list[Any], role: str) -> int:
    return sum(getattr(m, role).events.get("errors", 0) for m in measured)


#: A switch: requests of our own before it, users' after it, that show what there is.
PREVIEW = 40
SWITCH_WATCH = 100
#: The version that fades passes the preview, and each of its processes ends in the
#: middle of the request after so many: before `SWITCH_WATCH` users have been answered.
FADES_AFTER = 100
SIDES = ("blue", "green")


@dataclasses.dataclass(frozen=True)
class Moved:
    """One thing that was done to a switch, and what was known then.

    active: the side that users reach afterwards; runs: the sides that are there;
    requests, errors: what a preview or a watch has said.
    """

    seconds: float
    what: str
    side: str
    active: str
    runs: tuple[str, ...]
    requests: int = 0
    errors: int = 0


class Switches(Canaries):
    """Users' traffic on the blue side, and versions that come to the green one.

        with live.Switches() as switches:
            switch = switches.next("fading")
            operate(switch)
            print(switch.log)

    The "broken" version fails in any traffic, the "fading" one passes a preview and
    fails later.
    """

    faults: ClassVar[dict[str, dict[str, Any]]] = {
        "good": {},
        "broken": {"flaky": {"error_rate": BAD_ERROR_RATE}},
        "fading": {"dies-serving": {"after_requests": FADES_AFTER}},
    }

    def next(self, version: str) -> Switch:
        """The controls of the next switch: "good", "broken" or "fading"."""
        return Switch(self, self._known(version))


class Switch(_Operated):
    """The controls of a green side beside the blue one, which serves at first."""

    name = "switch"

    def __init__(self, owner: Switches, version: str) -> None:
        super().__init__(owner, version)
        self.active = "blue"
        self.runs = {"blue"}
        self._since: list[Any] = []  # what users met since the last switch
        self._promoted = False  # then the router calls the green side stable

    # -- the controls

    def start(self) -> None:
        """Start the green side, and return when it is ready. It gets no traffic."""
        from deploylab.rollout import model

        self._count()
        if "green" in self.runs:
            self._refuse("the green side runs already; it is started once")
        if any(one.what == "start" for one in self.done):
            self._refuse("the green side was stopped; it is started once")
        self._environment.do(model.Deploy(model.CANDIDATE))
        self.runs.add("green")
        self._note("start", "green")

    def preview(self, requests: int) -> dict[str, int]:
        """Send the green side requests of our own, past the router; no user gets them.

        Returns how many there were, and how many of them were errors.
        """
        from deploylab.rollout import model

        self._count()
        self._need("green", "can be asked anything")
        self._may_watch(requests)
        told = self._environment.do(model.Preview(int(requests)))
        said = next(one for one in told if one.of == model.PREVIEW).candidate
        self._watched += said.requests
        errors = said.events.get("errors", 0)
        return self._note("preview", "green", said.requests, errors)

    def to(self, side: str) -> None:
        """Send all users to this side, from the next request on."""
        from deploylab.rollout import model

        self._count()
        self._need(side, "can be sent users")
        if side == "green":
            self._environment.do(model.Shift(model.TrafficSplit(1.0)))
        else:
            self._environment.do(model.Abort("by hand"))
        self.active, self._since = side, []
        self._note("to", side)

    def watch(self, requests: int) -> dict[str, int]:
        """Wait until the active side has had so many more of the users' requests.

        Returns how many it has had since the last switch, and how many were errors.
        """
        self._count()
        self._may_watch(requests)
        before, began = self._seen()[0], time.monotonic()
        while self._seen()[0] - before < requests:
            if self._watched_s + time.monotonic() - began > MOST_WATCHED_S:
                self._refuse(
                    f"this switch has watched for {MOST_WATCHED_S:.0f} s, and "
                    f"{requests} requests have not come",
                    TooLong,
                )
            time.sleep(0.05)
            # Not a step: whether a process has ended is for the student to find out.
            environment = self._environment
            self._since += environment._take(environment._share_in_force)
        self._watched_s += time.monotonic() - began
        seen, errors = self._seen()
        self._watched += seen - before
        return self._note("watch", self.active, seen, errors)

    def drain(self, side: str) -> None:
        """Wait until this side has answered all that it has accepted."""
        from deploylab.rollout import model

        self._count()
        self._need(side, "could be drained")
        if side == self.active:
            self._refuse(f"all users are sent to the {side} side, so it is never empty")
        role = model.CANDIDATE if side == "green" else model.STABLE
        self._environment.do(model.Drain(role))
        self._note("drain", side)

    def stop(self, side: str) -> None:
        """Stop this side's instances, whatever they get at this moment."""
        from deploylab.rollout import model
        from deploylab.rollout.engine import StepFailed

        self._count()
        self._need(side, "could be stopped")
        role = model.CANDIDATE if side == "green" else model.STABLE
        if side == self.active:
            # The environment of a rollout refuses that; this one does what it is told.
            group = self._owner.system._groups[role]
            while group:
                group.pop().stop()
        else:
            self._environment.do(model.Retire(role))
            if side == "blue":
                # For the next switch it is the blue one, if it lives.
                with contextlib.suppress(StepFailed):
                    self._environment.do(model.Promote())
                    self._promoted, self._since = True, []
        self.runs.discard(side)
        self._note("stop", side)

    # -- plumbing

    def _need(self, side: str, what: str) -> None:
        if side not in SIDES:
            self._refuse(f'a side is "blue" or "green", not {side!r}')
        if side not in self.runs:
            self._refuse(f"the {side} side does not run, so nothing there {what}")

    def _may_watch(self, requests: int) -> None:
        if self._watched + requests > MOST_WATCHED:
            self._refuse(
                f"this switch has seen {self._watched} requests, and may see "
                f"{MOST_WATCHED}, which {requests} more exceed",
                TooLong,
            )

    def _seen(self) -> tuple[int, int]:
        """Requests and errors of the active side since the last switch."""
        on_trial = self.active == "green" and not self._promoted
        share, role = (1.0, "candidate") if on_trial else (0.0, "stable")
        here = [m for m in self._since if m.share == share and m.of == "users"]
        return sum(getattr(m, role).requests for m in here), _errors(here, role)

    def _note(
        self, what: str, side: str, requests: int = 0, errors: int = 0
    ) -> dict[str, int]:
        seconds = time.monotonic() - self._began
        runs = tuple(side for side in SIDES if side in self.runs)
        self.done.append(
            Moved(seconds, what, side, self.active, runs, requests, errors)
        )
        return {"requests": requests, "errors": errors}
