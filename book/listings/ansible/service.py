"""Stands in for systemd where nobody is root: one service, in a folder of its own.

    python service.py start|stop|restart|status FOLDER

FOLDER/service.env says what runs, FOLDER/service.pid what was started and with which
settings and keys. Whoever holds the named pipe FOLDER/life open owns the service: it
ends with its owner.
"""

import contextlib
import hashlib
import http.client
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
    settings = {}
    for line in (line for line in lines if line and line[0] != "#"):
        name, sign, value = line.partition("=")
        if not sign:
            raise SystemExit(f"{folder / 'service.env'}: no = in {line!r}; mend it")
        settings[name] = value
    return settings


def digest(folder: Path) -> str:
    """Of the configuration as it is on the disk now: the settings and the keys."""
    text = (folder / "service.env").read_bytes()
    found = hashlib.sha256(text)
    for line in text.decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name == "API_KEYS" and Path(value).is_file():
            found.update(Path(value).read_bytes())
    return found.hexdigest()


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
    settings = read(folder)
    ready = listens(process, int(settings["PORT"])) and says_ready(settings)
    return "ready" if ready else "not ready"


def listens(process: psutil.Process, port: int) -> bool:
    """Whether it is this process, or a child of it, that has the port."""
    try:
        family = [process, *process.children(recursive=True)]
        found = [c for one in family for c in one.net_connections("tcp")]
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found)


def says_ready(settings: dict[str, str]) -> bool:
    """Whether GET /ready answers 200."""
    url = f"http://127.0.0.1:{settings['PORT']}/ready"
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as answer:
            return answer.status == 200
    except (OSError, http.client.HTTPException):  # nobody there, or no HTTP
        return False


def start(folder: Path) -> str:
    """Start it unless it runs; return once it is ready."""
    if noted(folder)[0]:
        return "runs already"
    settings, configuration = read(folder), digest(folder)
    port, end = int(settings["PORT"]), time.monotonic() + STOP_S
    while says_ready(settings):  # one that ends just now, or a stranger
        if time.monotonic() > end:
            raise SystemExit(f"something else answers on port {port}; stop it first")
        time.sleep(0.05)
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
    ours = psutil.Process(process.pid)
    note = f"{process.pid} {ours.create_time()} {configuration}"
    (folder / "service.pid.new").write_text(note)
    os.replace(folder / "service.pid.new", folder / "service.pid")
    end = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < end:
        if listens(ours, port) and says_ready(settings):
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
    everybody = [process]
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end by itself
        everybody += process.children(recursive=True)
        process.terminate()  # the watchdog passes it on
    _, alive = psutil.wait_procs(everybody, STOP_S)
    for late in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            late.kill()
    psutil.wait_procs(alive, STOP_S)  # until then the port is taken
    return "stopped"


def restart(folder: Path) -> str:
    """Stop, then start: nobody answers meanwhile."""
    read(folder)  # what cannot be read is no reason to stop
    stop(folder)
    return start(folder)


if __name__ == "__main__":
    order, folder = sys.argv[1], Path(sys.argv[2])
    print({f.__name__: f for f in (start, stop, restart, status)}[order](folder))
