"""How `run.py` starts each engine, kills it, and starts it again.

An engine is run in the environment of its own, with a folder of its own for what it
keeps. The `airflow` here is three programs that stay; the others end with the run.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: Nothing here takes longer than this, on a busy machine.
PATIENCE_S = 600


class Engine:
    """One that is a command: it runs the pipeline, and ends with it."""

    dist = None  # the package's name
    files = ("pipeline.py",)
    start_s = 0.0
    resumes = "the same command"

    def __init__(self, name, home):
        self.name, self.home = name, Path(home)
        self.folder = HERE / name
        self.kept = self.home / "kept"  # by the engine, and nobody else
        self.observe = self.home / "observe"
        for folder in (self.kept, self.observe):
            folder.mkdir(parents=True)
        self.process = None
        self.env = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, HERE, self.folder))),
            "PYTHONWARNINGS": "ignore",
            "PIPELINE_OBSERVE": str(self.observe),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
        }
        self.env.pop("VIRTUAL_ENV", None)

    @property
    def bin(self):
        """Where the programs of its environment are."""
        return self.folder / ".venv" / "bin"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def command(self, version, folder, registry):
        """What a user types."""
        return [
            self.bin / "python",
            self.folder / "pipeline.py",
            version,
            folder,
            registry,
        ]

    #: What a user types after the run was killed; the same, unless an engine has more.
    resume = command

    def begin(self, version, folder, registry, again=False):
        """Start a run, or the one after a kill."""
        command = (self.resume if again else self.command)(version, folder, registry)
        self.began = time.perf_counter()
        with (self.home / "log.txt").open("ab") as said:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self.kept,
                env=self.env,
            )

    def finish(self):
        """Wait for the end: how it ended in the engine's words, and what it took."""
        pid, until = 0, time.monotonic() + PATIENCE_S
        while not pid:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            seconds = time.perf_counter() - self.began
            if not pid and time.monotonic() > until:
                raise RuntimeError(f"{self.name} did not end in {PATIENCE_S} s")
            time.sleep(0.02)
        code = self.process.returncode = os.waitstatus_to_exitcode(status)
        return {
            "ended": f"exit {code}",
            "seconds": seconds,
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }

    def ended(self):
        """Whether a program of it has ended."""
        return self.process.poll() is not None

    def kill(self):
        """SIGKILL the program, then what it had started: as if the machine went."""
        if self.process is not None and self.process.poll() is None:
            _kill(self.process)


class Plain(Engine):
    """No engine."""

    @property
    def bin(self):
        return Path(sys.executable).parent


class Luigi(Engine):
    dist = "luigi"
    files = ("pipeline.py", "luigi.cfg")

    def command(self, version, folder, registry):
        self.env["LUIGI_CONFIG_PATH"] = str(self.folder / "luigi.cfg")
        about = ["--version", version, "--folder", folder, "--registry", registry]
        task = ["--module", "pipeline", "Release", *about]
        return [self.bin / "luigi", *task, "--local-scheduler"]

    resume = command


class Metaflow(Engine):
    dist = "metaflow"
    resumes = "resume"

    def command(self, version, folder, registry):
        self.env |= {
            "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(self.kept),
            "METAFLOW_USER": "pipeline",
        }
        about = ["--version", version, "--folder", folder, "--registry", registry]
        return [self.bin / "python", self.folder / "pipeline.py", "run", *about]

    def resume(self, *_):
        return [self.bin / "python", self.folder / "pipeline.py", "resume"]


class Kubeflow(Engine):
    dist = "kfp"


class Airflow(Engine):
    """Three programs that stay: API server, scheduler, DAG processor."""

    dist = "apache-airflow"

    resumes = "its programs, started again"

    def __init__(self, name, home):
        super().__init__(name, home)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (self.kept / "dags").mkdir()
        (self.kept / "dags" / "pipeline.py").write_bytes(
            (self.folder / "pipeline.py").read_bytes()
        )
        settings = {
            "CORE__LOAD_EXAMPLES": "False",
            "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": "2",
            "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self.port}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "API__HOST": "127.0.0.1",
            "API__PORT": str(self.port),
            "API__WORKERS": "1",
            "API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "USAGE_DATA_COLLECTION__ENABLED": "False",
            # After a kill, look for tasks that nobody runs every 10 s, not 300 s.
            "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        }
        self.env |= {f"AIRFLOW__{key}": value for key, value in settings.items()}
        self.env |= {"AIRFLOW_HOME": str(self.kept)}
        self.programs, self.run_id, self.runs = [], None, 0

    def __enter__(self):
        began = time.perf_counter()
        self._airflow("db", "migrate")
        self._start()
        self._wait("SELECT 1 FROM serialized_dag WHERE dag_id='release_model'")
        self.start_s = time.perf_counter() - began
        return self

    def begin(self, version, folder, registry, again=False):
        if again:  # the run is known: whoever starts the programs starts it
            self.cpu = 0.0
            self.began = time.perf_counter()
            self._start()
            return
        self.runs += 1
        self.run_id = f"run-{self.runs}"
        conf = {"version": version, "folder": str(folder), "registry": str(registry)}
        self.cpu = self._cpu_s()
        self.began = None
        about = ["--run-id", self.run_id, "--conf", json.dumps(conf)]
        self._airflow("dags", "trigger", "release_model", *about)

    def finish(self):
        [(state, queued, ended)] = self._wait(
            "SELECT state, queued_at, end_date FROM dag_run WHERE run_id=? "
            "AND state IN ('success', 'failed')",
            self.run_id,
        )
        tasks = self._ask(
            "SELECT task_id, state FROM task_instance WHERE run_id=? "
            "ORDER BY start_date IS NULL, start_date, task_id",
            self.run_id,
        )
        seconds = (
            time.perf_counter() - self.began
            if self.began
            else (_instant(ended) - _instant(queued)).total_seconds()
        )
        words = ", ".join(f"{task} {state}" for task, state in tasks)
        return {
            "ended": f"run {state}: {words}",
            "seconds": seconds,
            "cpu_s": self._cpu_s() - self.cpu,
        }

    def ended(self):
        return any(program.poll() is not None for program in self.programs)

    def kill(self):
        for program in self.programs:
            _kill(program)
        self.programs = []

    def _start(self):
        """A task that starts before the API server answers has failed."""
        self._program("api-server")
        until = time.monotonic() + PATIENCE_S
        while not self._answers():
            if self.ended() or time.monotonic() > until:
                raise RuntimeError("Airflow's API server does not answer")
            time.sleep(0.3)
        self._program("scheduler")
        self._program("dag-processor")

    def _program(self, name):
        with (self.home / "log.txt").open("ab") as said:
            started = subprocess.Popen(
                [str(self.bin / "airflow"), name],
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self.kept,
                env=self.env,
            )
        self.programs.append(started)

    def _answers(self):
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{self.port}/api/v2/monitor/health"
            return urllib.request.urlopen(url, timeout=5).status == 200
        return False

    def _airflow(self, *words):
        subprocess.run(
            [self.bin / "airflow", *words],
            check=True,
            capture_output=True,
            cwd=self.kept,
            env=self.env,
        )

    def _ask(self, query, *values):
        path = self.kept / "airflow.db"
        with contextlib.closing(
            sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        ) as database:
            return database.execute(query, values).fetchall()

    def _wait(self, query, *values):
        """The rows of a query, once there are any."""
        until = time.monotonic() + PATIENCE_S
        while not (rows := self._ask(query, *values)):
            if self.ended() or time.monotonic() > until:
                raise RuntimeError("Airflow ended, or was never done")
            time.sleep(0.3)
        return rows

    def _cpu_s(self):
        """Processor time of the programs and of all that they started, so far."""
        total = 0.0
        for process in _tree(self.programs):
            with contextlib.suppress(psutil.Error):
                total += sum(process.cpu_times()[:4])
        return total


ENGINES = {
    "plain": Plain,
    "luigi": Luigi,
    "metaflow": Metaflow,
    "kfp": Kubeflow,
    "airflow": Airflow,
}


def _instant(text):
    return datetime.fromisoformat(text)


def _tree(processes):
    found = {}
    for process in processes:
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(process.pid)
            for one in (top, *top.children(recursive=True)):
                found[one.pid] = one
    return list(found.values())


def _kill(process):
    """SIGKILL by number: the process first, so that it starts nothing more."""
    tree = _tree([process])
    for one in tree:
        with contextlib.suppress(psutil.Error):
            one.send_signal(signal.SIGKILL)
    process.wait()
    psutil.wait_procs(tree, timeout=30)
