"""The record of a Ray Serve cluster that loses parts: complete, dated, and its rules.

The rules are relations that the page states; no rule is about a time of its own.
"""

import ast
import csv
import datetime
import itertools
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest

from deploylab import ROOT

EXTRA = ROOT / "extras" / "ray"
with (EXTRA / "serve.csv").open(newline="") as _file:
    ROWS = list(csv.DictReader(_file))
ROUNDS = sorted({int(row["round"]) for row in ROWS})
BAD = "update to a version that never starts"
KILLED = (
    "a replica is killed",
    "a worker node is killed",
    "a replica at work is killed",
)
UPDATES = ("update from v1 to v2", "update from v2 to v1, one replica more")
EVENTS = ("nothing", *KILLED, *UPDATES, BAD, "the head is killed")
ALWAYS = (
    *("date", "machine", "round", "version", "load_before", "capacity_per_s"),
    *("event", "asked_at", "rate_per_s", "sent", "failed", "sent_retrying"),
    *("failed_retrying", "versions", "replicas_before", "replicas_after", "lag_s"),
)


def rows(*events, asked_at=None):
    found = [row for row in ROWS if row["event"] in events]
    return [row for row in found if asked_at in (None, row["asked_at"])]


def test_every_event_was_seen_at_two_addresses_in_every_round():
    assert list(range(1, len(ROUNDS) + 1)) == ROUNDS
    for number, event in itertools.product(ROUNDS, EVENTS):
        seen = [row for row in rows(event) if row["round"] == str(number)]
        assert len({row["asked_at"] for row in seen}) == len(seen) == 2
        assert {row["asked_at"] for row in seen} >= {"the head"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['round']}-{row['event']}")
def test_a_row_is_complete_and_dated(row):
    assert [column for column in ALWAYS if not row[column]] == []
    assert datetime.date.fromisoformat(row["date"]) >= datetime.date(2026, 11, 1)
    assert "cores" in row["machine"]
    assert re.fullmatch(r"ray \d+\.\d+\.\d+", row["version"])
    assert int(row["failed"]) <= int(row["sent"])
    assert int(row["failed_retrying"]) <= int(row["sent_retrying"])
    assert bool(row["last_failure_s"]) == (row["failed"] != "0")


def test_the_version_is_the_one_of_the_lock():
    [locked] = re.findall(
        r"^ray==(\S+)$", (EXTRA / "requirements.txt").read_text(), re.M
    )
    assert {row["version"] for row in ROWS} == {f"ray {locked}"}


def test_the_load_was_at_most_30_percent_of_the_capacity():
    source = ast.parse((EXTRA / "serve.py").read_text())
    set_to = {
        node.targets[0].id: node.value.value
        for node in source.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert set_to["SHARE"] == 0.3
    for row in ROWS:
        both = 2 * (float(row["rate_per_s"]) + set_to["POLITE_PER_S"])
        assert both <= 0.3 * float(row["capacity_per_s"]) + 0.5, row  # both are rounded


def test_without_an_event_nothing_fails():
    for row in rows("nothing"):
        assert row["failed"] == row["failed_retrying"] == "0"


def test_what_was_killed_is_replaced_while_the_head_lives():
    for row in rows(*KILLED, *UPDATES):
        assert float(row["healed_s"]) > 0
        assert row["replicas_before"] == row["replicas_after"] == "4"


def test_retries_hide_a_dead_replica_and_a_dead_node_that_is_not_asked():
    seen = rows(*KILLED, asked_at="the head") + rows(KILLED[0], KILLED[2])
    for row in seen:
        assert row["failed_retrying"] == "0"
        assert int(row["failed"]) < 0.1 * int(row["sent"])


def test_retries_do_not_help_where_the_proxy_is_dead():
    for row in rows("a worker node is killed", asked_at="the killed node"):
        assert row["good_until_s"]
        assert int(row["failed"]) > 0.5 * int(row["sent"])
        assert int(row["failed_retrying"]) > 0


def test_requests_that_a_replica_was_working_on_are_lost():
    assert sum(int(row["failed"]) for row in rows("a replica at work is killed")) > 0


def test_an_update_shows_both_versions_and_loses_no_request():
    for row in rows(*UPDATES):
        assert row["versions"] == "v1 v2"
        assert row["failed"] == row["failed_retrying"] == "0"


def test_a_version_that_never_starts_gets_no_traffic():
    for row in rows(BAD):
        assert row["application"] == "DEPLOY_FAILED"
        assert row["note"].startswith("given up after ")
        assert row["versions"] == "v1"
        assert 0 < int(row["replicas_after"]) <= int(row["replicas_before"])
        assert row["failed"] == row["failed_retrying"] == "0"


def test_the_head_is_a_single_point_of_failure():
    for number in map(str, ROUNDS):
        [head] = [
            row
            for row in rows("the head is killed", asked_at="the head")
            if row["round"] == number
        ]
        [worker] = [
            row
            for row in rows("the head is killed", asked_at="a worker")
            if row["round"] == number
        ]
        assert head["healed_s"] == worker["healed_s"] == ""
        assert worker["note"].startswith("no replica left after ")
        assert worker["replicas_after"] == "0"
        # The workers' proxies go on for a while, and then they end too.
        assert float(head["good_until_s"]) < float(worker["good_until_s"])


def members(leader):
    """The living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader:
                found += [process] * (process.status() != psutil.STATUS_ZOMBIE)
        except (psutil.Error, OSError):
            continue
    return found


def wait_for(true, limit_s):
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not become so"
        time.sleep(0.1)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("accident", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_no_process_of_ray_outlives_the_run(accident, tmp_path):
    if not (EXTRA / ".venv" / "done").exists() or sys.platform != "linux":
        pytest.skip("needs the environment that make extras-ray-serve makes, on Linux")
    command = [sys.executable, EXTRA / "serve.py", "--out", tmp_path / "serve.csv"]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: psutil.Process(run.pid).children(), 120)
        [leader] = [child.pid for child in psutil.Process(run.pid).children()]
        names = lambda: " ".join(one.name() for one in members(leader))  # noqa: E731
        wait_for(lambda: "ServeReplica" in names(), 300)
        assert "gcs_server" in names()
        run.send_signal(getattr(signal, accident))
        run.wait(60)
        wait_for(lambda: not members(leader), 60)
    finally:
        run.kill()
        run.wait()
