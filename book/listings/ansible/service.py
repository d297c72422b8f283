"""Stands in for systemd where nobody is root: one service, in a folder of its own.

    python service.py start|stop|restart|status FOLDER

FOLDER/service.env says what runs, FOLDER/service.pid what was started and with which
service.env. Whoever holds the named pipe FOLDER/life open owns the service: it ends
with its owner.
"""

import hashlib
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

from deploylab import watchdog

APPLICATION = Path(__file__).resolve().parent.parent  # where guarded_service.py is
START_S, STOP_S, ANSWER_S = 120, 10, 30


def read(folder: Path) -> dict[str, str]:
    """The settings in service.env."""
    lines = (folder / "service.env").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line and line[0] != "#"]
    return dict(pairs)


def digest(folder: Path) -> str:
    """Of the configuration as it is on the disk now."""
    return hashlib.sha256((folder / "service.env").read_bytes()).hexdigest()


def noted(folder: Path) -> tuple[psutil.Process | None, str]:
    """The process that was started, if it lives, and its configuration's digest."""
    try:
        pid, began, configuration = (folder / "service.pid").read_text().split()
        process = psutil.Process(int(pid))
        # The number alone may be somebody else's by now.
        same = abs(process.create_time() - float(began)) < 0.1
        lives = same and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None, ""
    return (process if lives else None), configuration


def status(folder: Path) -> str:
    """stopped, outdated (it runs with another configuration), not ready, or ready."""
    process, configuration = noted(folder)
    if process is None:
        return "stopped"
    if configuration != digest(folder):
        return "outdated"
    return "ready" if says_ready(read(folder)) else "not ready"


def says_ready(settings: dict[str, str]) -> bool:
    """Whether GET /ready answers 200."""
    url = f"http://127.0.0.1:{settings['PORT']}/ready"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
            return answer.status == 200
    except OSError:
        return False


def start(folder: Path) -> str:
    """Start it unless it runs; return once it is ready."""
    if noted(folder)[0]:
        return "runs already"
    settings, configuration = read(folder), digest(folder)
    application = f"guarded_service:create_app({settings['MODEL']!r})"
    life = os.open(folder / "life", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(life, True)
    gunicorn = [sys.executable, "-m", "gunicorn", "--threads=4", "--no-control-socket"]
    gunicorn += [f"--bind=127.0.0.1:{settings['PORT']}", application]
    with (folder / "service.log").open("wb") as log:
        owned = [sys.executable, watchdog.__file__, str(life), str(log.fileno())]
        process = subprocess.Popen(
            owned + gunicorn,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=APPLICATION,
            env=os.environ | settings,
            start_new_session=True,
            pass_fds=(life, log.fileno()),
        )
    began = psutil.Process(process.pid).create_time()
    (folder / "service.pid").write_text(f"{process.pid} {began} {configuration}")
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        if says_ready(settings):
            return "started"
        time.sleep(0.02)
    stop(folder)
    said = (folder / "service.log").read_text(errors="replace")[-1500:]
    raise SystemExit(f"not ready; the end of its log:\n{said}")


def stop(folder: Path) -> str:
    """End it, politely at first."""
    process, _ = noted(folder)
    if process is None:
        return "does not run"
    everybody = [process, *process.children(recursive=True)]
    process.terminate()  # the watchdog passes it on
    _, alive = psutil.wait_procs(everybody, STOP_S)
    for late in alive:
        late.kill()
    return "stopped"


def restart(folder: Path) -> str:
    """Stop, then start: nobody answers meanwhile."""
    stop(folder)
    return start(folder)


if __name__ == "__main__":
    order, folder = sys.argv[1], Path(sys.argv[2])
    print({f.__name__: f for f in (start, stop, restart, status)}[order](folder))
