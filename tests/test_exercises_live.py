"""The live systems of exercises: nothing is left, whatever happens to a check."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from deploylab import artifacts, phishing, servers
from deploylab.exercises import exercises, live

CHECKS = {e.name: e for e in exercises()["model_as_service"]}


def until(condition, timeout_s=60):
    """Wait for a condition; a slow machine may take its time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder of the test's own, as a check has one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- without processes ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        ("one\ntwo\n", "two"),
        ("KeyError: 'PORT'\nThis is a note.\n", "KeyError: 'PORT'"),
        (
            "deploylab.artifacts.ArtifactError: no\n"
            '127.0.0.1 - - [21/Nov/2026 10:00:00] "GET /ready HTTP/1.1" 503 -\n',
            "deploylab.artifacts.ArtifactError: no",
        ),
        (
            "SystemExit: 0\n"
            "127.0.0.1 - - [21/Nov/2026 10:00:00] "
            '"\x1b[31m\x1b[1mPOST /predict HTTP/1.1\x1b[0m" 422 -\n',
            "SystemExit: 0",
        ),
        ("\x1b[31ma red word\x1b[0m", "a red word"),
        ("a `quoted` word", "a 'quoted' word"),
    ],
)
def test_last_words_are_the_line_that_says_most(log, said):
    assert live.last_words(log) == said


def test_last_words_are_short():
    assert len(live.last_words("x" * 10_000)) == 150


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost:8000/", True),
        ("http://[::1]:8000", True),
        ("https://127.0.0.1", False),
        ("http://example.com", False),
        ("http://127.0.0.1.example.com", False),
        ("http://", False),
        ("server.py", False),
        ("http://127.0.0.1:99999", False),
        ("http://127.0.0.1:0", False),
        ("http://127.0.0.1:abc", False),
        ("http://[::1", False),
    ],
)
def test_a_check_asks_this_machine_only(url, here):
    assert live.is_here(url) is here


@pytest.mark.parametrize("port", ["99999", "abc"])
def test_a_port_that_cannot_be_is_a_finding(port):
    result = CHECKS["serve_model"].try_out(f"http://127.0.0.1:{port}")
    assert result.finding.id == "not-here", result


def test_asking_nobody_is_an_answer():
    with servers._bind(0) as listener:  # bound, so that nobody else can take it
        reply = live.ask(listener.getsockname(), "/predict", b"{}")
    assert reply.status == 0
    assert "refused" in reply.said


# -- a program under test ------------------------------------------------------------

PROGRAM = """
import os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from deploylab import artifacts

scorers = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/again":
            artifacts.load(os.environ["ARTIFACT"])
        self.send_response(200 if scorers else 503)
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


def load():
    scorers.append(artifacts.load(os.environ["ARTIFACT"]))


threading.Thread(target=load, daemon=True).start()
address = ("127.0.0.1", int(os.environ["PORT"]))
ThreadingHTTPServer(address, Handler).serve_forever()
"""


@pytest.fixture
def program(folder):
    """A small server, started, its model not yet readable."""
    (folder / "server.py").write_text(PROGRAM)
    model = phishing.train("v1")
    artifact = artifacts.save(phishing.version("v1"), folder / "v1", model=model)
    with live.Program(folder / "server.py", artifact) as program:
        yield program


@pytest.mark.slow
def test_a_program_waits_for_its_model_and_its_loads_are_counted(program):
    until(lambda: program.ask("/ready").status == 503)
    until(lambda: program.loads == 1)
    assert program.ask("/ready").status == 503
    program.let_load()
    until(lambda: program.ask("/ready").status == 200)
    assert (program.loads, program.needless_loads) == (1, 0)
    assert program.ask("/again", timeout_s=30).status == 200
    assert (program.loads, program.needless_loads) == (2, 1)
    assert program.ports() == [program.port]
    assert not program.died()


SHARED = """
shared = []


class Meeting(Handler):
    def do_GET(self):
        shared.append(self.path)
        said = shared[-1]
        shared.clear()
        self.send_response(200 if said == self.path else 500)
        self.end_headers()


Handler = Meeting
threading."""


@pytest.mark.slow
def test_threads_that_share_a_name_meet_in_it(folder):
    """A pause before each line: of 40 requests, four at a time, some go wrong.

    Each pauses for 1 ms between writing the name and reading it, and so do three
    others beside it; without the pauses nearly none meet.
    """
    (folder / "server.py").write_text(PROGRAM.replace("threading.", SHARED, 1))
    model = phishing.train("v1")
    artifact = artifacts.save(phishing.version("v1"), folder / "v1", model=model)
    with live.Program(folder / "server.py", artifact) as program:
        until(lambda: program.ask("/0").status)
        program.let_meet()
        with ThreadPoolExecutor(4) as pool:
            paths = [f"/{number}" for number in range(40)]
            replies = list(pool.map(lambda p: program.ask(p, timeout_s=30), paths))
    assert {reply.status for reply in replies} != {200}


@pytest.mark.slow
def test_a_slow_caller_is_answered_once_it_has_sent_all(program):
    program.let_load()
    until(lambda: program.ask("/ready").status == 200)
    caller = program.slow_caller("/predict", b"12345678", timeout_s=30)
    assert program.ask("/predict", b"1", timeout_s=30).status == 200
    assert caller.finish().status == 200


@pytest.mark.slow
def test_the_end_of_a_program_is_noticed(program):
    until(lambda: program.ask("/ready").status == 503)
    program.terminate()
    assert program.ended_within(60)
    assert program.died() == "killed by SIGTERM" or "exit code" in program.died()


@pytest.mark.slow
def test_a_program_that_does_nothing_hangs(folder):
    (folder / "server.py").write_text("import time\ntime.sleep(600)\n")
    artifact = artifacts.save(phishing.version("v1"), folder / "v1")
    with live.Program(folder / "server.py", artifact) as program:
        until(program.hangs)
        assert not program.died()


# -- the checks ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "finding"),
    [("v2", None), ("v1", "differs"), ("v2-flaky", "other-version")],
)
def test_a_server_that_runs_already_is_checked_by_its_url(tmp_path, version, finding):
    saved = artifacts.save(phishing.version(version), tmp_path / version)
    with servers.start(saved.folder, faults={}) as server:
        result = CHECKS["serve_model"].try_out(server.url)
        assert server.ready()  # it was neither stopped nor hurt
    assert (result.finding.id if result.finding else None) == finding, result
    assert finding or "could not see promises 1, 2, 5 and 7" in result.notice


@pytest.mark.slow
def test_nobody_at_the_url_is_said():
    with servers._bind(0) as listener:
        port = listener.getsockname()[1]
        result = CHECKS["serve_model"].try_out(f"http://127.0.0.1:{port}")
    assert result.finding.id == "no-answer"
    assert "refused" in result.finding.what


@pytest.mark.slow
def test_a_server_that_is_not_ready_is_not_asked_for_predictions(program):
    until(lambda: program.ask("/ready").status == 503)
    host, port = program.address
    result = CHECKS["serve_model"].try_out(f"http://{host}:{port}")
    assert result.finding.id == "never-ready", result


def endless(system):
    """Starts a server, and never comes back."""
    system.start("v2")
    while True:
        system.watch(0.1)


@pytest.mark.slow
def test_an_endless_runbook_is_ended_with_all_it_started():
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    check = dataclasses.replace(CHECKS["replace_server"], limit_s=15)
    result = check.try_out(endless)
    assert result.finding.id == "too-slow", result
    after = {p.pid for p in psutil.Process().children(recursive=True)}
    assert after <= before


INTERRUPTED = """
import signal
from deploylab.exercises import exercises

signal.signal(signal.SIGINT, signal.default_int_handler)


def endless(system):
    while True:
        system.watch(0.1)


(check,) = [e for e in exercises()["model_as_service"] if e.name == "replace_server"]
try:
    check.try_out(endless)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_check_leaves_no_process(how, tmp_path):
    """By Ctrl-C, and by a kernel that is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True
    ) as owner:
        family = []

        def serving():
            family[:] = psutil.Process(owner.pid).children(recursive=True)
            return sum("gunicorn" in " ".join(_words(p)) for p in family) >= 2

        until(serving)
        owner.send_signal(how)
        said, _ = owner.communicate(timeout=60)
    assert said == ("interrupted\n" if how == signal.SIGINT else "")
    until(lambda: not any(map(_lives, family)))


@pytest.mark.slow
def test_a_check_answers_in_a_kernel(tmp_path):
    """In ipykernel a check forks beside threads; it must answer, and end all."""
    import nbclient
    import nbformat

    code = """
    import psutil
    from deploylab import check

    def replace(system):
        new = system.start("v2")
        system.wait_ready(new)
        system.route([new])
        system.stop(system.v1)

    result = check.replace_server(replace)
    left = [p.pid for p in psutil.Process().children(recursive=True)]
    import json
    print(json.dumps([str(result.status), left]))
    """
    cell = nbformat.v4.new_code_cell(textwrap.dedent(code))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    env = os.environ | {"DEPLOYLAB_PROGRESS": "off"}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    with client.setup_kernel(env=env):
        client.execute_cell(cell, 0)
    status, left = json.loads(cell.outputs[-1]["text"])
    assert status == "Done"
    assert left == []


# -- the system ----------------------------------------------------------------------


@pytest.mark.slow
def test_a_system_keeps_a_log_and_a_record_and_ends_with_its_block():
    with live.System() as system:
        new = system.start("v2")
        assert not new.ready()
        with pytest.raises(ValueError, match="there is no version 'v9'"):
            system.start("v9")
        with pytest.raises(TypeError, match="route takes instances"):
            system.route(["v2"])
        system.wait_ready(new)
        system.route([new])
        assert system.routed_blindly == []
        system.stop(system.v1)
        table = system.watch(0.3)
        system.end_traffic()
        pids = new.server.processes()
        family = [psutil.Process(pid) for pid in pids]
    done = [(row.event, row.instance) for row in system.log.itertuples()]
    order = [("start", "v1"), ("route", "v1"), ("start", "v2"), ("route", "v2")]
    order += [("stop", "v1"), ("ended", "v1")]
    assert [step for step in done if step in order] == order
    assert not system.hurt
    assert {one.instance.name for one in system.requests} == {"v1", "v2"}
    assert list(table.columns) == [200]
    assert len(family) >= 2
    assert not any(map(_lives, family))


@pytest.mark.slow
def test_who_is_routed_unasked_is_on_the_record():
    with live.System() as system:
        new = system.start("v2")
        assert not new.ready()
        system.route([system.v1, new])
        until(lambda: new.ready_s is not None)  # known to the system, asked by nobody
        assert not new.found_ready
        system.route([new])
        until(new.ready)
        system.route([new])
        assert [one for one, _ in system.routed_blindly] == [new, new]


@pytest.mark.slow
def test_a_request_to_nobody_is_on_the_record():
    with live.System() as system:
        system.route([])
        system.watch(0.3)
        system.end_traffic()
    assert system.hurt
    assert {one.instance for one in system.hurt} == {None}


def _words(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _lives(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
