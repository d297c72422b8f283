"""Run a piece of work that may loop, crash, print, fill the memory or leave things.

``apart`` runs it in a forked process with a folder and a session of its own, under a
supervisor that adopts what the work leaves behind, and ends all of them. Where forking
is not safe (macOS: the system's libraries do not allow it), ``here`` runs it in this
process under an alarm, which cannot interrupt a loop inside a C function.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import psutil

#: Whether work can run in a process of its own.
CAN_FORK = sys.platform == "linux"

#: Environment variable that marks what the work started, for those who look for it:
#: the process id of whoever asked for the check, and the check's folder.
MARK = "DEPLOYLAB_CHECK"

#: Memory that the work may use beyond what the process already holds.
MEMORY_BYTES = 1024**3

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: Work that is busy at the limit goes on until it has had that much processor time,
#: so that a machine with much to do stops nobody who is at work; at most this many
#: times the limit, by the clock.
PATIENCE = 10
#: Where the work keeps processes busy itself, that says nothing of an answer: it may
#: be waiting all the same, and somebody looks at an empty screen.
LIVE_PATIENCE = 3

#: Share of the clock's time in which work that is not waiting has the processor, at
#: the least.
BUSY = 0.02

Say = Callable[[str], None]
Work = Callable[[Say], dict[str, Any]]


class TimeUp(BaseException):
    """The time is over; a BaseException, so that `except Exception` lets it pass."""


class Ended(Exception):
    """The work gave no result: it took too long, or its process died.

    ``doing`` is what it had last said that it was doing; ``reason`` is "time" or
    how the process ended; ``clock_s`` how long it had run, by the clock.
    """

    def __init__(self, reason: str, doing: str, clock_s: float = 0.0) -> None:
        super().__init__(f"{reason} while {doing}")
        self.reason = reason
        self.doing = doing
        self.clock_s = clock_s


def apart(
    work: Work,
    limit_s: float,
    memory_bytes: int | None = MEMORY_BYTES,
    patience: float = PATIENCE,
) -> dict[str, Any]:
    """Run ``work(say)`` in a process of its own; return the dict that it returned.

    ``limit_s`` bounds processor time, and the clock's time too where the work waits;
    ``patience`` times as long is the most by the clock.

    The dict must be JSON. ``memory_bytes`` bounds what the process, and each that it
    starts, may use beyond what this one holds now; None sets no bound. Raises Ended
    if there is no result within them. When this returns or raises,
    nothing that the work started is left.
    """
    folder = tempfile.mkdtemp(prefix="check-")
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; the child uses none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        _supervise(work, writing, folder, memory_bytes)
    os.close(writing)
    workers: list[int] = []
    try:
        return _listen(
            reading, limit_s, lambda: _processor_s(pid), workers.append, patience
        )
    finally:
        os.close(reading)
        _end(pid, workers)
        shutil.rmtree(folder, ignore_errors=True)


def _processor_s(pid: int) -> float:
    """Processor time of the worker, the supervisor's first child."""
    with contextlib.suppress(psutil.Error, IndexError):
        times = psutil.Process(pid).children()[0].cpu_times()
        return times.user + times.system
    return 0.0


def more_s(
    limit_s: float, clock_s: float, processor_s: float, patience: float = PATIENCE
) -> float:
    """How long to go on with work that has run for so long; 0 to stop it."""
    waits = processor_s < BUSY * clock_s
    if waits or processor_s >= limit_s or clock_s >= patience * limit_s:
        return 0.0
    return min(limit_s - processor_s, patience * limit_s - clock_s)


def _listen(
    reading: int,
    limit_s: float,
    processor_s: Callable[[], float] = lambda: 0.0,
    begun: Callable[[int], None] = lambda pid: None,
    patience: float = PATIENCE,
) -> dict[str, Any]:
    """Take messages until the result, the end of the work, or of the time."""
    started = time.monotonic()
    deadline = started + limit_s
    doing, pending = "", b""
    while True:
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([reading], [], [], left_s)[0]:
            now = time.monotonic()
            more = more_s(limit_s, now - started, processor_s(), patience)
            deadline = now + more
            if not more:
                break
            continue
        received = os.read(reading, 65536)
        if not received:
            raise Ended("its process ended", doing)
        *lines, pending = (pending + received).split(b"\n")
        for line in lines:
            try:
                [(kind, content)] = json.loads(line).items()
            except (ValueError, AttributeError):
                continue  # somebody else wrote into our pipe
            if kind == "result":
                return content
            if kind == "worker":
                begun(content)
                continue
            if kind == "ended":
                raise Ended("its process ended", doing)
            doing = content
    raise Ended("time", doing, time.monotonic() - started)


def _send(writing: int, message: dict[str, Any]) -> None:
    payload = json.dumps(message).encode() + b"\n"
    while payload:
        payload = payload[os.write(writing, payload) :]


def _supervise(work: Work, writing: int, folder: str, memory_bytes: int | None) -> None:
    """The forked process: forks the worker, and adopts whatever that leaves behind.

    It stays until it is ended, so that all that was started is found below it.
    """
    try:
        os.setsid()
        libc = ctypes.CDLL(None)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        worker = os.fork()
        if worker == 0:
            os.setpgid(0, 0)  # a group of its own, which can be ended at one stroke
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            _work(work, writing, folder, memory_bytes)
        _send(writing, {"worker": worker})
        with contextlib.suppress(ChildProcessError):
            while True:  # whatever was left behind is ours now, and is reaped here
                if os.wait()[0] == worker:
                    _send(writing, {"ended": True})
        while True:
            signal.pause()
    finally:
        os._exit(0)


def _work(work: Work, writing: int, folder: str, memory_bytes: int | None) -> None:
    """The worker: run the work and send the result; end without clean-up."""
    try:
        owner = psutil.Process(os.getppid()).ppid()
        os.chdir(folder)
        os.environ[MARK] = f"{owner} {folder}"
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(nothing, fd)
        builtins.input = _no_input
        if memory_bytes is not None:
            _use_little_address_space()
            size = psutil.Process().memory_info().vms + memory_bytes
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
        with _no_output():
            result = work(lambda text: _send(writing, {"doing": text}))
        _send(writing, {"result": result})
    finally:
        os._exit(0)


def _use_little_address_space() -> None:
    """Let pandas' texts take what they need: Arrow's own pool reserves a gigabyte."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # if it is imported from now on
    if arrow := sys.modules.get("pyarrow"):
        arrow.set_memory_pool(arrow.system_memory_pool())


def _no_input(*args: object) -> str:
    raise EOFError("a check has nobody to ask: take the value as an argument")


def _end(pid: int, workers: list[int]) -> None:
    """End the worker's group at one stroke, then what has left it, then the supervisor.

    By groups first: a chain of processes that fork and exit is faster than whoever
    looks for them one by one.
    """
    supervisor = psutil.Process(pid)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker, signal.SIGKILL)
    while family := supervisor.children(recursive=True):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.001)  # until the supervisor has reaped them
    supervisor.kill()
    os.waitpid(pid, 0)


def here(work: Work, limit_s: float, patience: float = PATIENCE) -> dict[str, Any]:
    """Run ``work(say)`` in this process, in a folder of its own, under an alarm.

    Raises Ended if ``limit_s`` seconds pass first. Outside the main thread there is
    no alarm, and so no limit.
    """
    doing = ""

    def say(text: str) -> None:
        nonlocal doing
        doing = text

    started = time.monotonic()
    with _own_folder(), _no_output():
        try:
            with _alarm(limit_s, patience):
                return work(say)
        except TimeUp:
            raise Ended("time", doing, time.monotonic() - started) from None


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    before = os.getcwd()
    folder = tempfile.mkdtemp(prefix="check-")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alarm(limit_s: float, patience: float) -> Iterator[None]:
    """Raise TimeUp after a while, again and again in case it is caught."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    started, worked = time.monotonic(), time.process_time()

    def ring(*_: object) -> None:
        clock_s = time.monotonic() - started
        processor_s = time.process_time() - worked
        left_s = more_s(limit_s, clock_s, processor_s, patience)
        if not left_s:
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)  # in case it is caught
            raise TimeUp
        signal.setitimer(signal.ITIMER_REAL, left_s)

    before = signal.signal(signal.SIGALRM, ring)
    other_s, other_interval_s = signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if other_s:  # somebody else's alarm goes on where it was
            left_s = max(0.001, other_s - (time.monotonic() - started))
            signal.setitimer(signal.ITIMER_REAL, left_s, other_interval_s)


@contextlib.contextmanager
def _no_output() -> Iterator[None]:
    """What is printed outside a call goes nowhere."""
    with contextlib.redirect_stdout(Tail()), contextlib.redirect_stderr(Tail()):
        yield


class Tail(io.TextIOBase):
    """A stream that keeps the first characters and forgets the rest."""

    def __init__(self, keep: int = 200) -> None:
        self.keep = keep
        self.text = ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Keep what still fits."""
        self.text += str(text)[: max(0, self.keep - len(self.text))]
        return len(text)
