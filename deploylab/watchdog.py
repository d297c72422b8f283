"""Runs a command that knows nothing of its owner, and ends it when the owner ends.

    python watchdog.py LIFE STATUS COMMAND...

LIFE is the reading end of a pipe that the owner holds open, STATUS the writing end
of one that it reads. The watchdog leads a process group of its own, in which the
command runs. It passes SIGTERM on to the command. When the command ends it writes
``exit <code>`` and ends what is left of the group; when the owner ends it ends the
group at once. Standard library only, and started by path: it must come up quickly.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading


def main() -> None:
    """Run the command until it or the owner ends."""
    life, status = int(sys.argv[1]), int(sys.argv[2])
    for fd in (life, status):
        os.set_inheritable(fd, False)

    def end_with_owner() -> None:
        while os.read(life, 1024):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=end_with_owner, daemon=True).start()
    # Held back until there is a command to pass it on to.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        child = subprocess.Popen(sys.argv[3:], preexec_fn=_die_with_watchdog)
    except OSError as error:
        with contextlib.suppress(OSError):  # the disk may be full
            sys.stderr.write(f"cannot start {sys.argv[3]!r}: {error}\n")
            sys.stderr.flush()
        code = 127
    else:
        signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGTERM))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        code = child.wait()
    os.write(status, f"exit {code}\n".encode())
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _die_with_watchdog() -> None:
    """In the command: take SIGTERM again, and end if the watchdog is killed."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if sys.platform == "linux":
        # The signal fires when the thread that started the child ends; here that
        # is the main thread, which lasts as long as the watchdog.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


if __name__ == "__main__":
    main()
