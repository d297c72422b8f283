"""The listings of the break-it labs: what each must do for its lab to show anything."""

import os
import socket
import subprocess
import sys
from contextlib import closing
from http.client import HTTPConnection, RemoteDisconnected

import pytest

from deploylab import ROOT, router, servers

LABS = ROOT / "book" / "listings" / "labs"
sys.path.insert(0, str(LABS))

import stand_in  # noqa: E402

STAND_IN = f"{LABS}/stand_in.py:create_app"


@pytest.fixture
def slept_s(monkeypatch):
    """How long the stand-in slept, each time; nobody waits for it."""
    slept = []
    monkeypatch.setattr(stand_in.time, "sleep", slept.append)
    return slept


def test_a_stand_in_says_its_version(monkeypatch, slept_s):
    monkeypatch.setenv("VERSION", "v2")
    client = stand_in.create_app().test_client()
    assert client.get("/ready").json == {"status": "ready"}
    answer = client.post("/predict", json={})
    assert (answer.status_code, answer.json) == (200, {"version": "v2"})
    assert answer.headers["X-Model-Version"] == "v2"


def test_a_stand_in_is_v1_and_quick_unless_told(monkeypatch, slept_s):
    monkeypatch.delenv("VERSION", raising=False)
    monkeypatch.delenv("SERVICE_S", raising=False)
    # A server hands over the path of an artifact; the stand-in has none to load.
    client = stand_in.create_app("nowhere").test_client()
    assert client.post("/predict").json == {"version": "v1"}
    assert slept_s == [0]


def test_a_stand_in_takes_as_long_as_it_is_told(monkeypatch, slept_s):
    monkeypatch.setenv("SERVICE_S", "0.2")
    client = stand_in.create_app().test_client()
    # Set once, at its start, not with each request.
    monkeypatch.setenv("SERVICE_S", "9")
    client.post("/predict", json={"takes_s": 7})
    assert client.get("/ready").status_code == 200
    assert slept_s == [0.2]  # to be ready takes no time


def wire_to(front: servers.Server) -> HTTPConnection:
    """A connection of our own, not yet open."""
    return HTTPConnection("127.0.0.1", front.port, timeout=30)


def version(wire: HTTPConnection, body: bytes = b"{}") -> str:
    """The version that answers; the connection is kept, as a pool of them would."""
    wire.request("POST", "/predict", body, {"Content-Type": "application/json"})
    answer = wire.getresponse()
    answer.read()
    return answer.headers["X-Model-Version"]


@pytest.fixture(scope="module")
def two():
    """Two stand-ins, v1 and v2."""
    with (
        servers.start(None, STAND_IN, env={"VERSION": "v1"}) as old,
        servers.start(None, STAND_IN, env={"VERSION": "v2"}) as new,
    ):
        yield old, new


@pytest.fixture
def switch(two, tmp_path):
    """The switch in front of v1, and the file that it reads."""
    selector = tmp_path / "selector"
    selector.write_text(str(two[0].port))
    command = [sys.executable, str(LABS / "tcp_switch.py"), str(selector)]
    with servers.run(command) as front:
        yield front, selector


def test_a_kept_connection_stays_and_a_new_one_moves(two, switch):
    front, selector = switch
    with closing(wire_to(front)) as kept, closing(wire_to(front)) as new:
        assert version(kept) == "v1"
        selector.write_text(str(two[1].port))
        assert [version(kept), version(new), version(kept)] == ["v1", "v2", "v1"]
        kept.close()
        assert version(kept) == "v2"  # http.client connects again


def test_the_switch_carries_more_than_one_read(switch):
    with closing(wire_to(switch[0])) as wire:
        assert version(wire, b"{" + b" " * 300_000 + b"}") == "v1"
        assert version(wire) == "v1"  # nothing of the first request was left over


def test_the_switch_hangs_up_where_nobody_listens_and_goes_on(two, switch):
    front, selector = switch
    with socket.socket() as silent, closing(wire_to(front)) as lost:
        silent.bind(("127.0.0.1", 0))  # nobody else gets this port meanwhile
        selector.write_text(str(silent.getsockname()[1]))
        with pytest.raises((RemoteDisconnected, ConnectionError)):
            version(lost)
    selector.write_text(str(two[0].port))
    with closing(wire_to(front)) as found:
        assert version(found) == "v1"


@pytest.fixture(scope="module")
def haproxy():
    """The program. A skip here is a missing HAProxy, and says so."""
    try:
        return router.find_haproxy()
    except router.RouterError as error:
        pytest.skip(f"haproxy: {error}")


def checked(program, config, folder) -> subprocess.CompletedProcess:
    """What HAProxy says of a configuration, with the ports that a lab would give it."""
    ports = {"PORT": "1", "V1": "2", "V2": "3", "STABLE": "2", "CANDIDATE": "3"}
    return subprocess.run(
        [program, "-c", "-f", str(config)],
        cwd=folder,
        env=os.environ | ports | {"WEIGHT": "5"},
        capture_output=True,
        text=True,
        timeout=60,
    )


CONFIGS = ["reload.cfg", "sticky_canary.cfg"]


def test_these_are_all_configurations():
    assert sorted(path.name for path in LABS.glob("*.cfg")) == CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_haproxy_takes_the_configuration(haproxy, name, tmp_path):
    said = checked(haproxy, LABS / name, tmp_path)
    assert said.returncode == 0, said.stderr
    assert "ALERT" not in said.stderr
    assert "WARNING" not in said.stderr


@pytest.mark.parametrize("name", CONFIGS)
def test_haproxy_would_refuse_a_word_that_it_does_not_know(haproxy, name, tmp_path):
    text = (LABS / name).read_text("utf-8")
    broken = tmp_path / name
    broken.write_text(text.replace("default_backend", "default_backends"))
    said = checked(haproxy, broken, tmp_path)
    assert said.returncode != 0
    assert "default_backends" in said.stderr
