"""What runs inside a model server: gunicorn's settings, its hooks and its worker.

gunicorn is started as ``python -m gunicorn -c python:deploylab.worker``, so the
module's lower-case names are gunicorn settings. `deploylab.servers` says in the
environment variable ``DEPLOYLAB_SERVER`` what to serve, and hands over four file
descriptors:

listen  the bound socket;
life    a pipe that its owner holds open: end of file means that the owner is gone;
drain   a pipe that its owner holds open: end of file means "take no new work";
status  a pipe on which the server reports, one line an event: ``ready <pid>``,
        ``draining <pid>``, ``exit <pid>`` of a worker that owed no client an answer,
        ``crash <pid>`` of one that may have, ``ending <pid>`` of the master.

End of file reaches every process that holds the reading end, however late it
started and however its owner ended, on Linux and on macOS. A parent-death signal
does neither: it fires when the *thread* that started the child ends.

Only the standard library, gunicorn and the fault catalogue are imported here: a
server process carries its model and nothing that trains one.
"""

import contextlib
import ctypes
import importlib
import importlib.util
import json
import logging
import mmap
import os
import selectors
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from wsgiref.util import setup_testing_defaults

from gunicorn.errors import HaltServer
from gunicorn.workers import gthread

from deploylab import faults

_SPEC = json.loads(os.environ.get("DEPLOYLAB_SERVER", "{}"))
_LIFE, _DRAIN, _STATUS = (_SPEC.get(name, -1) for name in ("life", "drain", "status"))

# A connection that stays silent this long after the server was told to end is
# closed. A client that has just got an answer has had time to ask again.
LINGER_S = _SPEC.get("linger_s", 0.5)
# This many workers in a row that end before they are ready end the server, unless
# another worker is ready. Then the next attempts wait, twice as long each time.
CRASH_LOOP = 3
FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 15.0

bind = f"fd://{_SPEC.get('listen', 0)}"
workers = _SPEC.get("workers", 1)
threads = _SPEC.get("threads", 4)
worker_class = "deploylab.worker.Worker"
# Longer than any client here keeps an idle connection, so that it is the client
# that closes it and never the server under a request that is on its way.
keepalive = 75
# How long a server may take to end is for its owner to say, who then kills it.
graceful_timeout = 3600
# The master kills a worker that has not reported for so long; loading counts.
timeout = max(30, int(_SPEC.get("timeout_s", 0)) + 5)
# Without this, every gunicorn of a user shares one control socket in his home.
control_socket_disable = True
# The heartbeat is a file; in memory it cannot wait for a full or slow disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None

# For so long a thread waits on a new connection for its first byte; then the
# connection waits alone. gunicorn's 5 s let four silent clients stop four threads.
gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.05

DRAINING = threading.Event()
_request = threading.local()
_master: dict[str, int] = {"failed_loads": 0, "read": -1, "write": -1}


# -- the application ---------------------------------------------------------------


def build() -> Callable:
    """The WSGI application of this server: factory, faults, draining."""
    app = load_factory(_SPEC["app"])
    app = app(_SPEC["artifact"]) if _SPEC.get("artifact") else app()
    app = drainable(faults.wrap(app, _SPEC.get("faults") or {}))
    if _SPEC.get("digest") is None:
        return app
    return stamped(app, _SPEC["version"], _SPEC["digest"])


def load_factory(app: str) -> Callable:
    """Import ``path/to/file.py:factory`` or ``package.module:factory``."""
    module_name, _, factory = app.rpartition(":")
    if module_name.endswith(".py"):
        path = Path(module_name)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(module_name)
    return getattr(module, factory)


def stamped(app: Callable, version: str, digest: str) -> Callable:
    """Wrap a WSGI app: every answer names its version, whoever has made it.

    It adds the headers ``X-Model-Version`` and ``X-Model-Digest`` (first 12 digits)
    where the app has not set them, and answers 500 for an app that raises: what
    judges versions by their answers must know whose an error is.
    """
    stamp = {"X-Model-Version": version, "X-Model-Digest": digest[:12]}

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        def start(status: str, headers: list, exc_info: tuple | None = None):
            present = {name.lower() for name, _ in headers}
            mine = [pair for pair in stamp.items() if pair[0].lower() not in present]
            return start_response(status, [*headers, *mine], exc_info)

        try:
            return app(environ, start)
        except Exception:
            logging.getLogger("gunicorn.error").exception("The app has raised")
            body = b'{"error": "internal error"}\n'
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
            ]
            # With exc_info it replaces an answer that has been begun, if not sent.
            start("500 Internal Server Error", headers, sys.exc_info())
            return [body]

    return wsgi


def other_version() -> str | None:
    """What is wrong with the folder if it holds another version than at the start.

    A running server is one version: a worker that is replaced must not bring in what
    somebody has saved over it. None if all is well.
    """
    if (digest := _SPEC.get("digest")) is None:
        return None
    folder = Path(_SPEC["artifact"])
    try:
        found = json.loads((folder / "manifest.json").read_bytes())["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"none that can be read ({error!r})"
    if found == digest:
        return None
    return (
        f"This server serves version {_SPEC['version']} with digest {digest}, but "
        f"{folder} now holds digest {found}. Save each version into its own folder, "
        "and start a server for it."
    )


def drainable(app: Callable) -> Callable:
    """Wrap a WSGI app: while draining it is not ready, and closes connections."""

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        if DRAINING.is_set() and environ.get("PATH_INFO") == "/ready":
            body = b'{"status": "draining"}\n'
            headers = [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
            ]
            _close_after_answer()
            start_response("503 Service Unavailable", headers)
            return [body]

        def start(status: str, headers: list, exc_info: tuple | None = None):
            # Decided when the answer is made, not when the request came: the
            # order to drain may have come in between.
            _close_after_answer()
            return start_response(status, headers, exc_info)

        return app(environ, start)

    return wsgi


def _close_after_answer() -> None:
    """Say ``Connection: close`` in the answer where the connection will not be kept."""
    req = getattr(_request, "current", None)
    if req is not None and (DRAINING.is_set() or _left_unread(req)):
        req.force_close()


def _left_unread(req: object) -> bool:
    """Whether the app has not read the whole body of the request it answers.

    gunicorn closes such a connection, and without this would have promised to keep
    it: the client's next request would get no answer.
    """
    reader = getattr(req.body, "reader", None)
    unread_bytes = getattr(reader, "length", 0)
    chunks_to_come = getattr(reader, "parser", None)
    return bool(unread_bytes or chunks_to_come)


# -- the worker --------------------------------------------------------------------


class Worker(gthread.ThreadWorker):
    """A threaded gunicorn worker that loses nothing when it is told to end.

    gunicorn's own worker forgets the connections that wait in the listen queue,
    closes a connection whose answer promised to keep it, and waits the whole
    grace time for clients that are silent. This one, on SIGTERM,

    1. accepts what has reached the listen queue, then closes its own hold on it;
       once master and siblings have done so too, a new client is refused, and where
       the worker ends alone, the others serve it;
    2. answers every request in flight, and every request that arrives on an open
       connection, with ``Connection: close``;
    3. closes a connection once it has been silent for `LINGER_S`;
    4. ends when no connection is left.
    """

    ending = False
    # Whether another worker was ready when this one was started: then this one takes
    # no connections before it is ready too.
    has_ready_sibling = False

    def leaves_connections_to_others(self) -> bool:
        """Whether it is loading while another worker is there to serve."""
        return self.has_ready_sibling and not self.was_ready[0]

    def load_wsgi(self) -> None:
        """Load the app, unless its folder holds another version by now."""
        if wrong := other_version():
            self.log.error(wrong)
            sys.exit(1)
        super().load_wsgi()

    def handle_exit(self, sig: int, frame: object) -> None:
        """Take SIGTERM: begin to end (runs in the main thread)."""
        # gunicorn may send two. The second can come while the first one is handled,
        # in the same thread, which would wait for the event's lock for ever.
        if self.ending:
            return
        self.ending = True
        DRAINING.set()
        self.method_queue.defer(lambda: None)  # wakes the loop

    def handle(self, conn: gthread.TConn) -> object:
        """Serve a request (in a thread of the pool); false: the connection is done."""
        kept = super().handle(conn)
        if not kept:
            # gunicorn would do this in the main thread, and wait there for up to two
            # seconds for a client that does not close its side.
            conn.close(graceful=True)
            conn.close = lambda graceful=False: None
        return kept

    def _keepalive_after(self, conn: gthread.TConn, keepalive: bool) -> bool:
        """Whether the connection is kept, which its answer has promised by now.

        gunicorn gives what is left of the body the time above, and asks the clock
        before it looks whether anything is left: a thread that does not run for so
        long breaks the promise, and the client's next request gets no answer. Where
        something is left, `_close_after_answer` has promised nothing.
        """
        if not keepalive:
            return False
        return bool(conn.parser.finish_body(deadline=time.monotonic() + 5))

    def run(self) -> None:
        """Serve until told to end, then finish what was begun."""
        self.owes_answers[0] = 1
        self.poller.register(
            self.method_queue.fileno(),
            selectors.EVENT_READ,
            self.method_queue.run_callbacks,
        )
        while self.alive and not self.ending:
            self.notify()
            has_room = self.nr_conns < self.worker_connections
            self.set_accept_enabled(
                has_room and not self.leaves_connections_to_others()
            )
            self.wait_for_and_dispatch_events(timeout=1.0)
            self.murder_keepalived()
            self.murder_pending()
        self._finish()
        self.alive = False
        self.tpool.shutdown(wait=False)

    def _finish(self) -> None:
        """Answer all that has arrived, within the grace time."""
        self.set_accept_enabled(False)
        for listener in self.sockets:
            if not self.leaves_connections_to_others():
                self._accept_all(listener)
                # What was shaking hands just now has arrived after this.
                time.sleep(0.01)
                self._accept_all(listener)
            listener.close()
        began = time.monotonic()
        while self.nr_conns and time.monotonic() - began < self.cfg.graceful_timeout:
            self.notify()
            self.wait_for_and_dispatch_events(timeout=0.05)
            if time.monotonic() - began > LINGER_S:
                self._close_silent()
        if self.nr_conns:
            self.log.warning(
                "grace time is over: %s connections cut off", self.nr_conns
            )
        else:
            self.owes_answers[0] = 0

    def _accept_all(self, listener: socket.socket) -> None:
        before = -1
        while self.nr_conns > before:
            before = self.nr_conns
            self.accept(listener)

    def _close_silent(self) -> None:
        silent_since = time.monotonic() - LINGER_S
        for conns in (self.keepalived_conns, self.pending_conns):
            for conn in list(conns):
                answered_last = conn.timeout - self.cfg.keepalive
                # The last look: what has arrived by now is answered.
                if answered_last < silent_since and not _has_data(conn.sock):
                    conns.remove(conn)
                    self.poller.unregister(conn.sock)
                    self.nr_conns -= 1
                    conn.close()


def _refuse_newcomers(listener: socket.socket) -> None:
    """Let no connection to a listening socket begin any more, before it is closed.

    The filter is the socket's, which master and workers share, so it is for the
    master alone, and for when the whole server ends. Otherwise a connection that is
    made between the last look at the queue and the close is reset, though its client
    has been told that it is connected. On Linux a packet filter drops the packets
    that begin a connection; their senders try again, find the socket closed, and are
    refused. Elsewhere the gap of some microseconds remains.
    """
    so_attach_filter = 26
    drop_syn = (
        (0x30, 0, 0, 13),  # load the flags, byte 13 of the TCP header
        (0x45, 0, 1, 0x02),  # if SYN is set
        (0x06, 0, 0, 0),  # drop the packet
        (0x06, 0, 0, 0xFFFF),  # else take it
    )
    if sys.platform == "linux":
        code = b"".join(struct.pack("HBBI", *instruction) for instruction in drop_syn)
        held = ctypes.create_string_buffer(code)
        program = struct.pack("HP", len(drop_syn), ctypes.addressof(held))
        with contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, so_attach_filter, program)


def _has_data(sock: socket.socket) -> bool:
    """Whether bytes wait to be read; `sock` does not block."""
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


# -- gunicorn's hooks --------------------------------------------------------------


def on_starting(arbiter: object) -> None:
    """Master, before anything else: watch the owner."""
    for fd in (_LIFE, _DRAIN, _STATUS):
        os.set_inheritable(fd, False)
    os.set_blocking(_STATUS, False)
    # gunicorn ends the whole server when a worker exits with one of these codes. That
    # is for `child_exit` to decide, who looks at the other workers first.
    arbiter.WORKER_BOOT_ERROR = arbiter.APP_LOAD_ERROR = -1
    # Held open by the master alone, for its workers to see it end.
    _master["read"], _master["write"] = os.pipe()
    _watch({_LIFE: _end_group})

    stop = arbiter.stop

    def refuse_newcomers_and_stop(graceful: bool = True) -> None:
        for listener in arbiter.LISTENERS:
            _refuse_newcomers(listener.sock)
        report("ending")
        stop(graceful)

    # gunicorn has no hook for the moment before it stops its workers.
    arbiter.stop = refuse_newcomers_and_stop


def pre_fork(arbiter: object, worker: Worker) -> None:
    """Master, before each fork: two bytes shared with the worker to come."""
    worker.was_ready = mmap.mmap(-1, 1)
    worker.owes_answers = mmap.mmap(-1, 1)


def post_fork(arbiter: object, worker: Worker) -> None:
    """Worker, first thing: watch owner and master."""
    # Until the worker has its own handlers, the master's would swallow this.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.close(_master["write"])
    del arbiter.WORKER_BOOT_ERROR, arbiter.APP_LOAD_ERROR  # gunicorn's own again
    siblings = list(arbiter.WORKERS.values())
    worker.has_ready_sibling = _any_ready(siblings)
    _watch({_LIFE: _end_group, _master["read"]: _end_group, _DRAIN: _drain})
    # The master must go on meanwhile; so it is the new worker that waits.
    wait_until = time.monotonic() + _wait_s()
    while time.monotonic() < wait_until and _any_ready(siblings):
        worker.notify()
        time.sleep(0.05)


def post_worker_init(worker: Worker) -> None:
    """Worker, once the factory has returned: tell the owner when it is ready."""

    def wait_until_ready() -> None:
        while (state := _readiness(worker.wsgi)) != "ready":
            if state == "failed":
                worker.log.error("The app says that its model cannot be loaded.")
                os._exit(1)
            time.sleep(0.01)
        # Once more: it may have been saved over while the app was reading it.
        if wrong := other_version():
            worker.log.error(wrong)
            os._exit(1)
        worker.was_ready[0] = 1
        worker.method_queue.defer(lambda: None)  # wakes the loop
        worker.log.info("Worker is ready (pid: %s)", worker.pid)
        report("ready")

    threading.Thread(target=wait_until_ready, name="readiness", daemon=True).start()


def child_exit(arbiter: object, worker: Worker) -> None:
    """Master, after a worker has ended: tell the owner, and stop a crash loop.

    While another worker is ready, the server serves on, and tries again ever later.
    """
    report("crash" if worker.owes_answers[0] else "exit", worker.pid)
    if worker.was_ready[0]:
        worker.was_ready[0] = 0  # its siblings see it too
        _master["failed_loads"] = 0
        return
    if not arbiter.LISTENERS:
        return  # the server is ending
    _master["failed_loads"] += 1
    n_ready = sum(sibling.was_ready[0] for sibling in arbiter.WORKERS.values())
    if n_ready:
        arbiter.log.error(
            "A worker ended before it was ready, see above; %s failed loads in a row. "
            "%s ready %s on; next load in %.3g s.",
            _master["failed_loads"],
            n_ready,
            "worker serves" if n_ready == 1 else "workers serve",
            _wait_s(),
        )
    elif _master["failed_loads"] >= CRASH_LOOP:
        raise HaltServer(
            f"Crash loop: {CRASH_LOOP} workers in a row ended before they were ready.",
            type(arbiter).WORKER_BOOT_ERROR,
        )


def pre_request(worker: Worker, req: object) -> None:
    """Worker, before each request: remember it for `drainable`."""
    _request.current = req


# -- plumbing ----------------------------------------------------------------------


def report(event: str, pid: int | None = None) -> None:
    """Write one event to the owner; never wait for it."""
    # That the owner is gone or reads nothing is no reason to stop serving.
    with contextlib.suppress(OSError):
        os.write(_STATUS, f"{event} {pid or os.getpid()}\n".encode())


def _any_ready(workers: Iterable[Worker]) -> bool:
    return any(worker.was_ready[0] for worker in workers)


def _wait_s() -> float:
    """How long the next worker waits before it loads, if another one is ready."""
    if not (failed := _master["failed_loads"]):
        return 0.0
    return min(FIRST_WAIT_S * 2 ** min(failed - 1, 20), LONGEST_WAIT_S)


def _watch(on_end: dict[int, Callable[[], None]]) -> None:
    """Call ``on_end[fd]()`` in a thread when the pipe behind `fd` ends."""

    def watch() -> None:
        with selectors.DefaultSelector() as selector:
            for fd in on_end:
                selector.register(fd, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if not os.read(key.fd, 1024):
                        selector.unregister(key.fd)
                        on_end[key.fd]()

    threading.Thread(target=watch, name="watch", daemon=True).start()


def _end_group() -> None:
    """End every process of this server, this one included, at once."""
    # The group is ours alone: `deploylab.servers` starts the master as its leader.
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _drain() -> None:
    DRAINING.set()
    report("draining")


def _readiness(app: Callable) -> str:
    """Ask the application itself, in this process, by ``GET /ready``.

    Returns ``ready`` for a 200, ``failed`` for another status with the JSON
    ``{"status": "failed"}``, which says that waiting is in vain, else ``loading``.
    """
    environ = {"PATH_INFO": "/ready", "REMOTE_ADDR": "127.0.0.1"}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    chunks = app(environ, lambda status, *_: statuses.append(status))
    try:
        body = b"".join(chunks)
    finally:
        getattr(chunks, "close", lambda: None)()
    if statuses[-1].startswith("200"):
        return "ready"
    with contextlib.suppress(ValueError, AttributeError):
        if json.loads(body).get("status") == "failed":
            return "failed"
    return "loading"
