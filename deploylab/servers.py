"""Model servers on this machine: start, wait until ready, drain, stop.

    with servers.start(artifact, workers=2) as server:
        requests.post(server.url + "/predict", json=row)

A server is a group of processes that answers HTTP on one loopback port. Nothing of
it outlives its owner, the process that started it: not when the owner is killed,
not when the server's own master is. See `deploylab.worker` for how.
"""

import errno
import http.client
import json
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar

import psutil

from deploylab import ROOT, artifacts
from deploylab import faults as fault_catalogue

PHISHING_SERVICE = "book/listings/phishing_service.py:create_app"

# What a server sees of its owner's environment ...
_INHERITED = (
    "HOME LANG LC_ALL LC_CTYPE LD_LIBRARY_PATH DYLD_LIBRARY_PATH PATH PYTHONHOME "
    "PYTHONPATH TMPDIR TZ VIRTUAL_ENV"
).split()
# ... and what is set for it: one thread a computation, no telemetry.
_SET = {
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# A model server gives up a request of which nothing has come for so long.
READ_TIMEOUT_S = 10.0
_POLL_S = 0.01


class ServerError(RuntimeError):
    """A server cannot be started, or is not what it should be."""


class PortTaken(ServerError):
    """Another process holds the port."""


class ServerDied(ServerError):
    """A server's process has ended by itself.

    `exit_code` is its exit code, negative for a signal; None where it is unknown.
    """

    def __init__(self, message: str, exit_code: int | None) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class ServerNotReady(ServerError):
    """A server was not ready in time."""


# -- pipes that end with this process ----------------------------------------------


class _Hold:
    """The writing end of a pipe, held by this process alone: it closes with it.

    Python closes it in programs that it starts; a plain fork (multiprocessing)
    inherits it, and closes it here.
    """

    held: ClassVar[set["_Hold"]] = set()
    # Reentrant: a garbage collection inside may end another server.
    lock = threading.RLock()

    def __init__(self) -> None:
        with self.lock:
            self.reading_end, self.fd = os.pipe()
            self.held.add(self)

    def release(self) -> None:
        with self.lock:
            if self in self.held:
                self.held.remove(self)
                os.close(self.fd)

    @classmethod
    def after_fork_in_child(cls) -> None:
        cls.lock = threading.RLock()
        for hold in cls.held:
            os.close(hold.fd)
        cls.held.clear()


os.register_at_fork(
    before=lambda: _Hold.lock.acquire(),
    after_in_parent=lambda: _Hold.lock.release(),
    after_in_child=_Hold.after_fork_in_child,
)


# -- the servers -------------------------------------------------------------------


class Server:
    """A group of processes that answers HTTP on one loopback port.

    Use it as a context manager, or call `stop()`. It is also stopped, at once, when
    the last reference to it goes and when this process ends.

    port: TCP port on 127.0.0.1; pid: of the process that leads the group;
    url: ``http://127.0.0.1:<port>``.
    """

    name = "server"
    version: str | None = None
    digest: str | None = None

    def __init__(self, port: int, ready_path: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.exit_code: int | None = None
        self._ready_path = ready_path
        self._was_ready = False
        self._draining = False
        self._status_tail = b""
        self._last_words: str | None = None  # set once it has been stopped
        self._stopping = threading.Lock()
        self._reading = threading.RLock()

    def _launch(
        self, command: Sequence[str], env: dict, cwd: str | None, fds: Mapping[str, int]
    ) -> None:
        """Start the group's leader and become its owner."""
        try:
            # It has no name in the file system, so nothing is left behind. All
            # writers share one offset; the owner reads with pread.
            log = tempfile.TemporaryFile(prefix="deploylab-")  # noqa: SIM115
        except OSError as error:
            raise ServerError(
                f"cannot create the server's log file: {error}. Free some space on "
                "the disk for temporary files, or let the environment variable TMPDIR "
                "name a folder on another one."
            ) from error
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                cwd=cwd,
                # A group of its own, which a Ctrl-C in a notebook does not reach.
                start_new_session=True,
                pass_fds=tuple(fds.values()),
            )
        except OSError as error:
            log.close()
            raise ServerError(f"cannot start {command[0]}: {error}") from error
        self.pid = self._process.pid
        self._log = log
        self._finalizer = weakref.finalize(
            self, _end, self._process, self._life, self._drain, self._status, log
        )

    # -- asking

    @property
    def state(self) -> str:
        """One of ``starting``, ``ready``, ``draining`` and ``stopped``."""
        self._take_events()
        if self._ended():
            return "stopped"
        ready = self._all_ready()
        self._was_ready |= ready
        if self._draining:
            return "draining"
        return "ready" if ready else "starting"

    def health(self) -> bool:
        """Whether ``GET /health`` answers 200."""
        return self._get("/health") == 200

    def ready(self) -> bool:
        """Whether ``GET /ready`` answers 200: what a router would see now."""
        return self._get(self._ready_path) == 200

    def log(self, lines: int = 20) -> str:
        """The last `lines` lines that the server has written to its output."""
        with self._reading:
            text = self._read_log() if self._last_words is None else self._last_words
        return "\n".join(text.splitlines()[-lines:])

    def processes(self) -> list[int]:
        """Process ids of the server, its leader first."""
        return [process.pid for process in self._processes()]

    def memory_mib(self) -> float:
        """Memory of all its processes in MiB; shared pages count once.

        On Linux the proportional set size; elsewhere what each process has alone.
        """
        total_bytes = 0
        for process in self._processes():
            try:
                memory = process.memory_full_info()
            except psutil.Error:
                continue
            total_bytes += getattr(memory, "pss", None) or memory.uss
        return total_bytes / 2**20

    def check(self) -> None:
        """Raise ServerDied, with the reason and the last log lines, if it has ended.

        A server that was stopped by `stop()` has not died.
        """
        if self._last_words is None and self._ended():
            raise self._died("died")

    # -- waiting

    def wait_ready(self, timeout_s: float = 30) -> None:
        """Wait until it is ready; if it does not get there, stop it and say why.

        Raises ServerDied, ServerNotReady.
        """
        deadline = time.monotonic() + timeout_s
        try:
            while self.state == "starting":
                if time.monotonic() > deadline:
                    raise self._not_ready(timeout_s)
                time.sleep(_POLL_S)
            if self.state == "stopped":
                raise self._died("died while loading")
        except BaseException:
            self.stop(grace_s=0)
            raise

    # -- ending

    def stop(self, grace_s: float = 10) -> bool:
        """End the server: SIGTERM, then after `grace_s` seconds SIGKILL to the group.

        Returns whether it ended in time and in good order, having answered all it
        had taken; false for one that had died before. Stopping a stopped server does
        nothing. The last lines of the log stay readable.
        """
        with self._stopping:
            if self._last_words is not None:
                return True
            try:
                return self._end_politely(grace_s)
            finally:
                _kill_group(self._process)
                self._life.release()
                with self._reading:
                    self._take_events()
                    self._last_words = self._read_log()
                    self._finalizer()

    def _end_politely(self, grace_s: float) -> bool:
        if self._ended():
            return self._code() == 0
        if grace_s <= 0 or (self.state == "starting" and not self._was_ready):
            return False  # nobody was promised an answer
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name} at {self.url}, pid {self.pid}, {self.state}>"

    # -- plumbing

    def _all_ready(self) -> bool:
        raise NotImplementedError

    def _event(self, event: str, value: int) -> None:
        raise NotImplementedError

    def _code(self) -> int | None:
        self._take_events()
        return self._process.poll() if self.exit_code is None else self.exit_code

    def _cause(self) -> int | None:
        return self._code()

    def _ended(self) -> bool:
        return self._process.poll() is not None

    def _take_events(self) -> None:
        """Read what the server has reported since the last look."""
        with self._reading:
            if self._last_words is not None:
                return
            with suppress(BlockingIOError):
                while chunk := os.read(self._status, 65536):
                    self._status_tail += chunk
            *lines, self._status_tail = self._status_tail.split(b"\n")
            for line in lines:
                event, value = line.split()
                self._event(event.decode(), int(value))

    def _read_log(self, last_bytes: int = 65536) -> str:
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - last_bytes)
        text = os.pread(self._log.fileno(), size - start, start)
        return text.decode(errors="replace")

    def _get(self, path: str, timeout_s: float = 5) -> int | None:
        """Status of ``GET path``; None if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout_s)
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _processes(self) -> list[psutil.Process]:
        try:
            leader = psutil.Process(self.pid)
            return [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _died(self, what: str) -> ServerDied:
        code = self._cause()
        how = f"exit code {code}" if code is None or code >= 0 else _signal_name(-code)
        return ServerDied(
            f"the {self.name} on port {self.port} {what} ({how}).{self._quote()}\n"
            "What next: the last lines above name the cause; put it right and start "
            "it again.",
            code,
        )

    def _not_ready(self, timeout_s: float) -> ServerNotReady:
        return ServerNotReady(
            f"the {self.name} on port {self.port} was not ready within {timeout_s:g} "
            f"s, and was stopped.{self._quote()}\n"
            f"What next: if the model only loads slowly, give a larger timeout_s; if "
            f"not, see why GET {self._ready_path} does not answer 200."
        )

    def _quote(self) -> str:
        log = self.log()
        return f"\nLast log lines:\n{log}" if log else "\nIts log is empty."


class ModelServer(Server):
    """A `Server` that is a gunicorn with `deploylab.worker` in it.

    workers: how many worker processes it keeps; version, digest: of the artifact it
    serves, as its folder said at the start; None without an artifact.
    """

    name = "model server"

    def __init__(
        self, port: int, workers: int, version: str | None, digest: str | None
    ) -> None:
        super().__init__(port, "/ready")
        self.workers = workers
        self.version = version
        self.digest = digest
        self._ready_pids: set[int] = set()
        self._draining_pids: set[int] = set()

    def ready_workers(self) -> list[int]:
        """Process ids of the workers whose model is loaded and warm."""
        self._take_events()
        return sorted(self._ready_pids)

    def drain(self) -> None:
        """Stop being ready, and go on serving.

        From the return of this call on, ``GET /ready`` answers 503 and every answer
        closes its connection; new connections are still served, until `stop()`.
        This is what a router needs: it sees the 503 and sends its traffic
        elsewhere before anything is refused.
        """
        self._draining = True
        self._drain.release()
        deadline = time.monotonic() + 5
        while self._ready_pids - self._draining_pids and time.monotonic() < deadline:
            if self._ended():
                return
            time.sleep(_POLL_S)
            self._take_events()

    def _end_politely(self, grace_s: float) -> bool:
        if grace_s > 0 and self.state == "ready":
            self.drain()
        return super()._end_politely(grace_s)

    def _all_ready(self) -> bool:
        return len(self._ready_pids) >= self.workers

    def _event(self, event: str, value: int) -> None:
        if event == "exit":
            self._ready_pids.discard(value)
            self._draining_pids.discard(value)
        else:
            {"ready": self._ready_pids, "draining": self._draining_pids}[event].add(
                value
            )

    def _cause(self) -> int | None:
        code = self._code()
        if code is None or code <= 0:
            return code
        # The master gave up, and its worker's exit code is the one that tells why.
        codes = re.findall(r"Worker \(pid:\d+\) exited with code (\d+)", self.log(200))
        return int(codes[-1]) if codes else code


class CommandServer(Server):
    """A `Server` that is any command, run by `deploylab.watchdog`."""

    def _all_ready(self) -> bool:
        if self._was_ready:
            return True
        if self._get(self._ready_path, timeout_s=1) != 200:
            return False
        self._check_port()
        return True

    def _event(self, event: str, value: int) -> None:
        self.exit_code = value

    def _check_port(self) -> None:
        """Make sure that it is this server that answers on the port."""
        try:
            ports = {
                connection.laddr.port
                for process in self._processes()
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
        except psutil.Error:
            return  # the system does not tell; then there is nothing to hold against it
        if self.port not in ports:
            raise PortTaken(
                f"port {self.port} is answered by another process, not by the command; "
                f"the command listens on {sorted(ports) or 'no port'}. "
                "It must listen on 127.0.0.1 and the port in the environment variable "
                "PORT."
            )


def start(
    artifact: str | Path | None,
    app: str = PHISHING_SERVICE,
    *,
    workers: int = 1,
    threads: int = 4,
    faults: Mapping[str, Mapping] | None = None,
    env: Mapping[str, str] | None = None,
    port: int = 0,
    timeout_s: float = 30,
    linger_s: float = 0.5,
    wait: bool = True,
) -> ModelServer:
    """Start a model server, gunicorn with `workers` processes of `threads` threads.

    artifact: folder that holds the model; None for an app that needs none.
    app: ``path/to/file.py:factory`` or ``package.module:factory``; the factory
        takes the artifact's path and returns a WSGI app that answers ``GET /ready``
        with 200 once its model is loaded and warm, and with 503 until then; with
        the JSON ``{"status": "failed"}`` if that will never be.
    faults: what is wrong with this version, see `deploylab.faults`; by default what
        the artifact's manifest says.
    env: added to the server's environment.
    port: 0 for a free one.
    linger_s: how long a silent connection is kept once the server was told to end.
    wait: return only when every worker is ready; otherwise return at once.

    On `stop`, and on SIGTERM, every client that is connected by then is answered if
    it has sent its request or sends it before its connection has been silent for
    `linger_s`; later ones are refused. Elsewhere than on Linux there is a gap of some
    microseconds in which a new connection is reset before its request is read.

    A server is one version for as long as it runs: a worker that finds another digest
    in the artifact's folder does not load it. Every answer names the version and the
    first 12 digits of its digest, in ``X-Model-Version`` and ``X-Model-Digest``.

    A worker that ends is replaced. When three in a row end before they are ready, the
    server ends, unless another of its workers is ready: then that one serves on, and
    the attempts go on ever later, at least every 15 s.

    Raises ServerError (and its kinds PortTaken, ServerDied, ServerNotReady).
    """
    if artifact is not None and not Path(artifact).exists():
        raise ServerError(
            f"there is no artifact at {artifact}. Make it with deploylab.artifacts, "
            "or give the path of one that exists."
        )
    if workers < 1 or threads < 1:
        raise ServerError(
            f"a server needs at least one worker and one thread, not {workers} and "
            f"{threads}"
        )
    described = _describe(artifact)
    version = described.version if described else None
    digest = described.digest if described else None
    if faults is None:
        faults = described.faults if described else {}
    spec = {
        "app": _find_app(app),
        "artifact": str(Path(artifact).resolve()) if artifact is not None else None,
        "version": version,
        "digest": digest,
        "workers": workers,
        "threads": threads,
        "faults": fault_catalogue.check(faults),
        "timeout_s": timeout_s,
        "linger_s": linger_s,
    }
    worker = "deploylab.worker"
    listener = _bind(port)
    try:
        # At once: a port that is bound, but not listened on, can still be taken.
        listener.listen(128)
        # Accepted connections inherit it. Without it a client that stops in the middle
        # of a request keeps a thread of the server for good.
        patience = struct.pack("ll", int(READ_TIMEOUT_S), int(READ_TIMEOUT_S % 1 * 1e6))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        server = ModelServer(listener.getsockname()[1], workers, version, digest)
        _own(
            server,
            [
                sys.executable,
                "-m",
                "gunicorn",
                "-c",
                f"python:{worker}",
                f"{worker}:build()",
            ],
            environment() | dict(env or {}) | {"DEPLOYLAB_SERVER": json.dumps(spec)},
            listen=listener.fileno(),
        )
    finally:
        # From here on a dead server refuses connections, and does not let them hang.
        listener.close()
    if wait:
        server.wait_ready(timeout_s)
    return server


def run(
    command: str | Sequence[str],
    *,
    ready_path: str = "/ready",
    port: int = 0,
    timeout_s: float = 30,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    wait: bool = True,
) -> CommandServer:
    """Start any command as a server, and own it as `start` does.

    command: the program and its arguments; ``$PORT`` in an argument stands for the
        port, which is also in the environment variable PORT. No shell reads it.
    ready_path: answers 200 when the server is ready.
    env: added to the server's environment.

    Raises ServerError (and its kinds PortTaken, ServerDied, ServerNotReady).
    """
    words = shlex.split(command) if isinstance(command, str) else list(command)
    for attempt in (1, 2, 3):
        # The command binds the port itself, so between the choice and the binding
        # another process may take it. Then another one is tried.
        with _bind(port) as probe:
            chosen = probe.getsockname()[1]
        server = CommandServer(chosen, ready_path)
        _own(
            server,
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py"))]
            + ["{life}", "{status}"]
            + [word.replace("$PORT", str(chosen)) for word in words],
            environment() | {"PORT": str(chosen)} | dict(env or {}),
            cwd=str(cwd) if cwd is not None else None,
        )
        if not wait:
            return server
        try:
            server.wait_ready(timeout_s)
            return server
        except (PortTaken, ServerDied):
            if port or attempt == 3 or not _is_taken(chosen):
                raise
    raise AssertionError("not reached")


def environment() -> dict[str, str]:
    """The environment of a server: what it needs of this one, and no telemetry."""
    return {k: os.environ[k] for k in _INHERITED if k in os.environ} | _SET


# -- plumbing ----------------------------------------------------------------------


def _own(
    server: Server,
    command: list[str],
    env: dict[str, str],
    cwd: str | None = None,
    **fds: int,
) -> None:
    """Launch `command` with a pipe for its owner's life, one to drain, one to report.

    A ``{life}`` in the command stands for the number of that descriptor; likewise
    the others. In the variable DEPLOYLAB_SERVER they are added to the JSON.
    """
    server._life, server._drain = _Hold(), _Hold()
    fds["life"] = server._life.reading_end
    fds["drain"] = server._drain.reading_end
    server._status, fds["status"] = os.pipe()
    os.set_blocking(server._status, False)
    if "DEPLOYLAB_SERVER" in env:
        spec = json.loads(env["DEPLOYLAB_SERVER"])
        env["DEPLOYLAB_SERVER"] = json.dumps(spec | fds)
    command = [
        str(fds[word[1:-1]]) if word in ("{life}", "{status}") else word
        for word in command
    ]
    try:
        server._launch(command, env, cwd, fds)
    except BaseException:
        server._life.release()
        server._drain.release()
        os.close(server._status)
        raise
    finally:
        for name in ("life", "drain", "status"):
            os.close(fds[name])


def _end(
    process: subprocess.Popen, life: _Hold, drain: _Hold, status: int, log: IO[bytes]
) -> None:
    """End a server at once, if this process is its owner (the finalizer)."""
    if life in _Hold.held:
        _kill_group(process)
        life.release()
    drain.release()
    os.close(status)
    log.close()


def _kill_group(process: subprocess.Popen, bound_s: float = 5) -> None:
    members = [process.pid]
    with suppress(psutil.Error):
        members += [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
    # Nobody may be left; macOS says "not permitted" of a zombie.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(bound_s)
    deadline = time.monotonic() + bound_s
    while any(_lives(pid) for pid in members) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _bind(port: int) -> socket.socket:
    """A socket bound to a loopback port, 0 for a free one; it does not listen."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        if getattr(error, "errno", None) != errno.EADDRINUSE:
            raise ServerError(
                f"cannot use port {port} on 127.0.0.1: {error}. Leave port out, and a "
                "free one is chosen."
            ) from error
        raise PortTaken(
            f"port {port} on 127.0.0.1 is taken by another program. Leave port out, "
            "and a free one is chosen, or stop the program that holds it."
        ) from error
    return listener


def _is_taken(port: int) -> bool:
    try:
        _bind(port).close()
    except PortTaken:
        return True
    return False


def _describe(artifact: str | Path | None) -> artifacts.Artifact | None:
    """What the artifact's manifest says; None without one."""
    if artifact is None:
        return None
    try:
        return artifacts.read(artifact)
    except artifacts.ArtifactError:
        return None  # the app may not need one; if it does, it says what is wrong


def _find_app(app: str) -> str:
    """Make the path in ``path/to/file.py:factory`` absolute.

    It counts from the working folder, or else from the project's.
    """
    path, colon, factory = app.rpartition(":")
    if not colon:
        raise ServerError(
            f"app must name a factory, such as 'my_app.py:create_app'; {app!r} has "
            "no colon"
        )
    if not path.endswith(".py"):
        return app
    places = [Path.cwd(), ROOT]
    for place in places:
        if (place / path).is_file():
            return f"{(place / path).resolve()}:{factory}"
    raise ServerError(
        f"there is no file {path} in {' or in '.join(map(str, places))}. Give the path "
        "of the file in which the factory is."
    )


def _signal_name(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"
