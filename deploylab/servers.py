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
        self._lost_worker = False  # while it was ending
        self._obstacle: ServerError | None = None
        self._result: bool | None = None  # of the first stop()
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
            process = subprocess.Popen(
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
        self._group = _Group(process)
        self.pid = process.pid
        self._log = log
        self._finalizer = weakref.finalize(
            self, _end, self._group, self._life, self._drain, self._status, log
        )

    # -- asking

    @property
    def state(self) -> str:
        """What it is now; reading it never raises.

        ``starting``: none of its workers is ready, or none is any more; ``degraded``:
        one is and another is not; ``ready``: all are; ``draining``; ``stopped``.
        """
        self._take_events()
        if self._ended():
            return "stopped"
        readiness = self._readiness()
        self._was_ready |= readiness != "starting"
        return "draining" if self._draining else readiness

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
        return [process.pid for process in self._group.members()]

    def memory_mib(self) -> float:
        """Memory of all its processes in MiB; shared pages count once.

        On Linux the proportional set size; elsewhere what each process has alone.
        """
        total_bytes = 0
        for process in self._group.members():
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
        """Wait until it is ready, all of it; say why if it does not get there.

        It only waits: a server that is not ready in time goes on as it is.
        Raises ServerDied, ServerNotReady, PortTaken.
        """
        deadline = time.monotonic() + timeout_s
        while (state := self.state) != "ready":
            if state == "stopped":
                raise self._died("died while loading")
            if self._obstacle is not None:
                raise self._obstacle
            if time.monotonic() > deadline:
                raise self._not_ready(timeout_s)
            time.sleep(_POLL_S)

    # -- ending

    def stop(self, grace_s: float = 10) -> bool:
        """End the server: SIGTERM, then after `grace_s` seconds SIGKILL to the group.

        Returns whether it ended by itself, in time, with exit code 0, and without
        losing a worker on the way: then it has answered all that it had taken. Once
        this has returned, however it ended, the port refuses. A later call does
        nothing and returns the same. The last lines of the log stay readable.
        """
        with self._stopping:
            if self._result is not None:
                return self._result
            self._result = False
            try:
                self._result = self._end_politely(grace_s)
                return self._result
            finally:
                self._group.kill()
                self._life.release()
                with self._reading:
                    self._take_events()
                    self._last_words = self._read_log()
                    self._finalizer()

    def drain(self, timeout_s: float = 5) -> bool:
        """Stop being ready, and go on serving; return whether that is confirmed.

        A server that is not one of ours knows no such order: nothing happens, and
        the answer is False. See `ModelServer.drain`.
        """
        return False

    def _end_politely(self, grace_s: float) -> bool:
        deadline = time.monotonic() + grace_s
        if not self._ended():
            state = self.state
            if grace_s <= 0 or (state == "starting" and not self._was_ready):
                return False  # nobody was promised an answer
            if state in ("ready", "degraded"):
                self.drain(min(5, grace_s / 2))
            self._group.terminate()
            while not self._ended():
                if time.monotonic() > deadline:
                    return False
                time.sleep(_POLL_S)
        return self._code() == 0 and not self._lost_worker

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.name} at {self.url}, pid {self.pid}, {self.state}>"

    # -- plumbing

    def _readiness(self) -> str:
        raise NotImplementedError

    def _event(self, event: str, value: int) -> None:
        raise NotImplementedError

    def _code(self) -> int | None:
        self._take_events()
        return self._group.exit_code() if self.exit_code is None else self.exit_code

    def _cause(self) -> int | None:
        return self._code()

    def _ended(self) -> bool:
        return not self._group.lives()

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
            f"s.{self._quote()}\n"
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

    def drain(self, timeout_s: float = 5) -> bool:
        """Stop being ready, and go on serving.

        From the return of this call on, ``GET /ready`` answers 503 and every answer
        closes its connection; new connections are still served, until `stop()`.
        This is what a router needs: it sees the 503 and sends its traffic
        elsewhere before anything is refused.

        Returns False if not every worker has confirmed it within `timeout_s`; the
        order stands, and another call waits for it again.
        """
        self._draining = True
        self._drain.release()
        deadline = time.monotonic() + timeout_s
        while not self._ended():
            self._take_events()
            if not self._ready_pids - self._draining_pids:
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return False

    def _readiness(self) -> str:
        if len(self._ready_pids) >= self.workers:
            return "ready"
        return "degraded" if self._ready_pids else "starting"

    def _event(self, event: str, value: int) -> None:
        if event == "ready":
            self._ready_pids.add(value)
        elif event == "draining":
            self._draining_pids.add(value)
        elif event == "ending":
            self._draining = True
        else:
            self._lost_worker |= event == "crash" and self._draining
            self._ready_pids.discard(value)
            self._draining_pids.discard(value)

    def _cause(self) -> int | None:
        code = self._code()
        if code is None or code <= 0:
            return code
        # The master gave up, and its worker's exit code is the one that tells why.
        codes = re.findall(r"Worker \(pid:\d+\) exited with code (\d+)", self.log(200))
        return int(codes[-1]) if codes else code


class CommandServer(Server):
    """A `Server` that is any command, run by `deploylab.watchdog`."""

    def __init__(self, port: int, ready_path: str) -> None:
        super().__init__(port, ready_path)
        self._owns_port = False

    def _readiness(self) -> str:
        if self._get(self._ready_path, timeout_s=1) != 200:
            return "starting"
        if not self._owns_port:
            self._obstacle = self._stranger_on_port()
            self._owns_port = self._obstacle is None
        return "ready" if self._owns_port else "starting"

    def _event(self, event: str, value: int) -> None:
        self.exit_code = value

    def _stranger_on_port(self) -> PortTaken | None:
        """The error if it is another process that answers on the port."""
        try:
            ports = {
                connection.laddr.port
                for process in self._group.members()
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
        except psutil.Error:
            return None  # the system does not tell; nothing to hold against it
        if self.port in ports:
            return None
        return PortTaken(
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
        _wait_or_stop(server, timeout_s)
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
    kind: type[CommandServer] = CommandServer,
) -> CommandServer:
    """Start any command as a server, and own it as `start` does.

    command: the program and its arguments; ``$PORT`` in an argument stands for the
        port, which is also in the environment variable PORT. No shell reads it.
    ready_path: answers 200 when the server is ready.
    env: added to the server's environment.
    kind: the class of the server, for one that does not speak HTTP.

    Raises ServerError (and its kinds PortTaken, ServerDied, ServerNotReady).
    """
    words = shlex.split(command) if isinstance(command, str) else list(command)
    for attempt in (1, 2, 3):
        # The command binds the port itself, so between the choice and the binding
        # another process may take it. Then another one is tried.
        with _bind(port) as probe:
            chosen = probe.getsockname()[1]
        server = kind(chosen, ready_path)
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
            _wait_or_stop(server, timeout_s)
            return server
        except (PortTaken, ServerDied):
            if port or attempt == 3 or not _is_taken(chosen):
                raise
    raise AssertionError("not reached")


def _wait_or_stop(server: Server, timeout_s: float) -> None:
    """Wait until a new server is ready; it does not outlive that it is not."""
    try:
        server.wait_ready(timeout_s)
    except BaseException:
        server.stop(grace_s=0)
        raise


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
    group: "_Group", life: _Hold, drain: _Hold, status: int, log: IO[bytes]
) -> None:
    """End a server at once, if this process is its owner (the finalizer)."""
    if life in _Hold.held:
        group.kill()
        life.release()
    drain.release()
    os.close(status)
    log.close()


class _Group:
    """A process group that this process has started, known by its leader.

    A dead leader keeps its number, and its group's, until it is reaped; after that
    both may be a stranger's. So it is reaped only once the group has been killed,
    and what asks whether it lives does not reap it, as `Popen.poll` would.
    """

    def __init__(self, process: subprocess.Popen) -> None:
        self._process = process
        self._leader = psutil.Process(process.pid)  # tells reused numbers apart
        self._lock = threading.RLock()

    def lives(self) -> bool:
        """Whether the leader does."""
        return self._process.returncode is None and _lives(self._leader)

    def members(self) -> list[psutil.Process]:
        """The leader and its descendants; nobody once the leader is dead."""
        try:
            if self.lives():
                return [self._leader, *self._leader.children(recursive=True)]
        except psutil.Error:
            pass
        return []

    def exit_code(self) -> int | None:
        """The leader's; None while it lives. Ends what is left of the group."""
        if not self.lives():
            self.kill()
        return self._process.returncode

    def terminate(self) -> None:
        with self._lock:
            if self._is_ours():
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self, bound_s: float = 5) -> None:
        with self._lock:
            if not self._is_ours():
                return
            members = self.members() or self._orphans()
            # Nobody may be left; macOS says "not permitted" of a zombie.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(bound_s)
            deadline = time.monotonic() + bound_s
            while any(map(_is_left, members)) and time.monotonic() < deadline:
                time.sleep(_POLL_S)

    def _orphans(self) -> list[psutil.Process]:
        """Those of the group that a dead leader has left."""
        found = []
        for process in psutil.process_iter():
            with suppress(OSError):
                if os.getpgid(process.pid) == self._process.pid:
                    found.append(process)
        return found

    def _is_ours(self) -> bool:
        return self._process.returncode is None and self._leader.is_running()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _is_left(process: psutil.Process) -> bool:
    """Whether anything of it is: a zombie's last threads still hold its sockets."""
    if _lives(process):
        return True
    try:  # elsewhere than on Linux nobody tells
        return process.is_running() and len(os.listdir(f"/proc/{process.pid}/task")) > 1
    except (OSError, psutil.Error):
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
