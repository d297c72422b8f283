"""Traffic keeps its plan, records every request, and cannot be fooled or hung."""

import asyncio
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from aiohttp import web

from deploylab import servers, traffic

TINY = str(Path(__file__).with_name("tiny_service.py"))


# -- a server in a thread ----------------------------------------------------------


class Stub:
    """An HTTP server whose answers a test writes, in a thread of this process."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict, bytes]] = []
        self.handler: Callable = lambda request: web.json_response({})
        self.loop = asyncio.new_event_loop()
        self.up = threading.Event()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        self.up.wait()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._start())
        self.up.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self.runner.cleanup())
        self.loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self.runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((dict(request.headers), await request.read()))
        answer = self.handler(request)
        return await answer if asyncio.iscoroutine(answer) else answer

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture
def stub() -> Iterator[Stub]:
    stub = Stub()
    yield stub
    stub.close()


def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


def at_once(n: int, body: bytes = b"{}") -> traffic.Plan:
    """`n` requests, all at the start."""
    return traffic.Plan(np.zeros(n), np.arange(n), [body] * n)


# -- the plan ----------------------------------------------------------------------


def test_arrivals_are_a_poisson_process():
    times_s = traffic.arrivals(rng(), rate_per_s=100, duration_s=200)
    assert times_s.min() >= 0
    assert times_s.max() < 200
    assert np.all(np.diff(times_s) >= 0)
    # Fixed seed, so never by luck; the bounds are five standard deviations, which a
    # right generator misses with chance 6e-7 for each.
    assert abs(len(times_s) - 20_000) < 5 * math.sqrt(20_000)
    counts = np.histogram(times_s, bins=2000, range=(0, 200))[0]
    dispersion = counts.var(ddof=1) / counts.mean()  # 1 for Poisson counts
    assert abs(dispersion - 1) < 5 * math.sqrt(2 / 1999)


def test_no_arrivals_are_a_plan_too():
    plan = traffic.plan(rng(), [{"a": 1}], rate_per_s=0, duration_s=1)
    assert len(plan) == 0


def test_users_are_equally_active_or_not():
    flat = np.bincount(traffic.users(rng(), 100_000, population=10), minlength=10)
    # Five standard deviations of each of ten binomial counts: chance at most 6e-6
    # over all; the seed is fixed.
    assert np.all(np.abs(flat - 10_000) < 5 * math.sqrt(100_000 * 0.1 * 0.9))
    heavy = traffic.users(rng(), 100_000, population=1000, skew=1.0)
    counts = np.bincount(heavy, minlength=1000)
    share = 1 / np.sum(1 / np.arange(1, 1001))  # Zipf: the first user's share
    sd = math.sqrt(100_000 * share * (1 - share))
    assert abs(counts[0] - 100_000 * share) < 5 * sd
    assert counts[0] > counts[9] > counts[99]


@pytest.mark.parametrize("as_frame", [True, False])
def test_bodies_are_rows_as_json(as_frame: bool):
    rows = [{"a": 0.5, "b": 1}, {"a": 1.0, "b": 0}]
    made = traffic.bodies(rng(), pd.DataFrame(rows) if as_frame else rows, 100)
    assert len(made) == 100
    assert {frozenset(json.loads(body).items()) for body in made} == {
        frozenset(row.items()) for row in rows
    }


def test_a_body_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        traffic.bodies(rng(), [{"a": math.nan}], 1)


def test_the_same_seed_gives_the_same_plan():
    rows = [{"a": i} for i in range(10)]
    one, two = (
        traffic.plan(rng(), rows, 50, 10, population=20, skew=1.0) for _ in range(2)
    )
    assert np.array_equal(one.scheduled_s, two.scheduled_s)
    assert np.array_equal(one.users, two.users)
    assert one.bodies == two.bodies


def test_a_plan_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="as many times"):
        traffic.Plan(np.zeros(2), np.zeros(2), [b""])
    with pytest.raises(ValueError, match="sorted"):
        traffic.Plan(np.array([1.0, 0.5]), np.zeros(2), [b"", b""])


# -- sending -----------------------------------------------------------------------


def test_every_request_is_recorded(stub: Stub):
    stub.handler = lambda request: web.json_response(
        {"version": "v2", "phishing": True, "probability": 0.93}
    )
    plan = traffic.plan(rng(), [{"a": 1}, {"a": 2}], rate_per_s=100, duration_s=0.5)
    frame = traffic.send(plan, stub.url)
    assert len(frame) == len(plan) == len(stub.seen)
    columns = "scheduled_s sent_s finished_s user version role status prediction"
    assert list(frame.columns) == [*columns.split(), "latency_s", "lag_s", "error"]
    assert np.array_equal(frame["scheduled_s"], plan.scheduled_s)
    assert np.array_equal(frame["user"], plan.users)
    assert (frame["version"] == "v2").all()
    assert (frame["status"] == 200).all()
    assert (frame["prediction"] == 0.93).all()
    assert (frame["error"] == "").all()
    assert (frame["sent_s"] >= frame["scheduled_s"]).all()
    assert (frame["finished_s"] >= frame["sent_s"]).all()
    # From the scheduled time, not from the sending.
    assert np.allclose(frame["latency_s"], frame["finished_s"] - frame["scheduled_s"])
    assert np.allclose(frame["lag_s"], frame["sent_s"] - frame["scheduled_s"])
    sent = sorted((headers["X-User"], body) for headers, body in stub.seen)
    assert sent == sorted(zip(map(str, plan.users), plan.bodies, strict=True))
    assert {h["Content-Type"] for h, _ in stub.seen} == {"application/json"}


def test_the_version_comes_from_the_header_first(stub: Stub):
    answers = iter(
        [
            web.json_response({"version": "body"}, headers={"X-Model-Version": "head"}),
            web.json_response({"version": "body"}),
            web.json_response({}),
            web.json_response([1]),
            web.Response(text="no json"),
        ]
    )
    stub.handler = lambda request: next(answers)
    plan = traffic.Plan(np.zeros(5), np.zeros(5), [b"{}"] * 5)
    frame = traffic.send(plan, stub.url, max_connections=1)
    assert sorted(frame["version"].dropna()) == ["body", "head"]
    assert frame["prediction"].isna().all()


def test_a_stalled_server_is_charged_from_the_scheduled_time(stub: Stub):
    """Open loop: requests go out though none is answered, and their waiting counts."""
    release = asyncio.Event()
    waiting = 0

    async def stall(request: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            release.set()  # only when all have come: a closed loop would hang here
        await release.wait()
        return web.json_response({})

    stub.handler = stall
    plan = traffic.Plan(np.linspace(0, 0.4, 20), np.zeros(20), [b"{}"] * 20)
    frame = traffic.send(plan, stub.url, timeout_s=60)
    assert (frame["finished_s"] >= 0.4).all()
    assert frame["latency_s"].iloc[0] >= 0.4


def test_a_generator_that_falls_behind_says_so(stub: Stub):
    """With one connection, ten requests at one instant have to wait for one another."""

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.02)
        return web.json_response({})

    stub.handler = slow
    frame = traffic.send(at_once(10), stub.url, max_connections=1)
    lags = np.sort(frame["lag_s"])
    assert np.all(np.diff(lags) >= 0.02)
    assert traffic.summary(frame)["lag_max_s"] == lags[-1] >= 9 * 0.02


def test_connections_are_bounded(stub: Stub):
    at_a_time = most = 0

    async def count(request: web.Request) -> web.Response:
        nonlocal at_a_time, most
        at_a_time += 1
        most = max(most, at_a_time)
        await asyncio.sleep(0.001)
        at_a_time -= 1
        return web.json_response({})

    stub.handler = count
    traffic.send(at_once(60), stub.url, max_connections=4)
    assert most <= 4


def test_connections_are_kept(stub: Stub):
    peers = set()

    def note(request: web.Request) -> web.Response:
        peers.add(request.transport.get_extra_info("peername"))
        return web.json_response({})

    stub.handler = note
    traffic.send(at_once(100), stub.url, max_connections=3)
    assert len(peers) <= 3


# -- what fails --------------------------------------------------------------------


def test_an_unexpected_status_fails_the_run(stub: Stub):
    statuses = iter([200, 200, 422, 500, 422, 200])

    def answer(request: web.Request) -> web.Response:
        status = next(statuses)
        return web.json_response({"said": f"this is a {status}"}, status=status)

    stub.handler = answer
    plan = traffic.Plan(np.zeros(6), np.zeros(6), [b"{}"] * 6)
    with pytest.raises(traffic.TrafficFailed) as failed:
        traffic.send(plan, stub.url, max_connections=1)
    message = str(failed.value)
    assert "3 of 6 requests" in message
    assert "3 x 200, 2 x 422, 1 x 500" in message
    assert '"said": "this is a 422"' in message or '"said": "this is a 500"' in message
    assert "What next" in message
    assert sorted(failed.value.frame["status"]) == [200, 200, 200, 422, 422, 500]


@pytest.mark.parametrize("status", [199 + 1, 204, 302, 400, 404, 429, 500, 503])
def test_only_2xx_passes_unless_named(stub: Stub, status: int):
    stub.handler = lambda request: web.Response(
        status=status, headers={"Location": "http://example.com/"}
    )
    if 200 <= status <= 299:
        traffic.send(at_once(1), stub.url)
    else:
        with pytest.raises(traffic.TrafficFailed, match=f"1 x {status}"):
            traffic.send(at_once(1), stub.url)
        frame = traffic.send(at_once(1), stub.url, expect={status})
        assert list(frame["status"]) == [status]
    with pytest.raises(traffic.TrafficFailed):
        traffic.send(at_once(1), stub.url, expect={418})
    assert len(traffic.send(at_once(1), stub.url, expect="any")) == 1


def test_an_expectation_that_makes_no_sense_is_refused_before_the_run(stub: Stub):
    with pytest.raises(ValueError, match="expect must be"):
        traffic.send(at_once(1), stub.url, expect="200")
    assert stub.seen == []


@pytest.mark.parametrize("body", ["{", '{"probability": NaN}', ""])
def test_an_answer_that_claims_to_be_json_and_is_not_fails(stub: Stub, body: str):
    stub.handler = lambda request: web.Response(
        text=body, content_type="application/json"
    )
    with pytest.raises(traffic.TrafficFailed, match="not valid JSON"):
        traffic.send(at_once(1), stub.url)


ODD_ANSWERS = [
    ('{"probability": "high"}', "no finite number"),
    ('{"probability": null}', "no finite number"),
    ('{"probability": [0.5]}', "no finite number"),
    ('{"probability": true}', "no finite number"),
    ('{"probability": false}', "no finite number"),
    ('{"probability": 1e999}', "no finite number"),
    ('{"probability": 1' + "0" * 400 + "}", "no finite number"),
    ('{"probability": 1' + "0" * 5000 + "}", "not valid JSON"),
    ('{"probability": NaN}', "not valid JSON"),
    ("[" * 100_000, "not valid JSON"),
    ("\ud800", "not valid JSON"),
]


@pytest.mark.parametrize(
    ("body", "note"), ODD_ANSWERS, ids=[body[:24] for body, _ in ODD_ANSWERS]
)
def test_an_odd_answer_is_recorded_and_does_not_end_the_run(
    stub: Stub, body: str, note: str
):
    bodies = iter([body, '{"version": "v2", "probability": 0.25}'])
    stub.handler = lambda request: web.Response(
        body=next(bodies).encode(errors="surrogatepass"),
        content_type="application/json",
    )
    plan = at_once(2)
    frame = traffic.send(plan, stub.url, expect="any", max_connections=1)
    odd = frame[frame["error"] != ""]
    assert len(odd) == 1
    assert note in odd["error"].iloc[0]
    assert len(odd["error"].iloc[0]) < 300
    assert odd["status"].iloc[0] == 200
    assert odd["prediction"].isna().all()
    assert list(frame["prediction"].dropna()) == [0.25]


@pytest.mark.parametrize("version", [["v2"], {"v": 2}, 2, True])
def test_a_version_that_is_no_string_is_no_version(stub: Stub, version: object):
    said = iter([version, "v2"])
    stub.handler = lambda request: web.json_response(
        {"version": next(said), "probability": 1}
    )
    frame = traffic.send(at_once(2), stub.url, expect="any", max_connections=1)
    assert frame.groupby("version").size().to_dict() == {"v2": 1}
    assert sum("version" in error for error in frame["error"]) == 1
    assert list(frame["prediction"]) == [1, 1]


def test_an_odd_answer_is_not_what_was_expected(stub: Stub):
    stub.handler = lambda request: web.json_response({"probability": "high"})
    with pytest.raises(
        traffic.TrafficFailed, match="'high' is no finite number"
    ) as bad:
        traffic.send(at_once(2), stub.url)
    assert len(bad.value.frame) == 2


def test_a_server_that_is_not_there_fails_the_run():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        with pytest.raises(traffic.TrafficFailed, match="3 x no answer") as failed:
            traffic.send(at_once(3), url)
        assert "Connect call failed" in str(failed.value)
        frame = traffic.send(at_once(3), url, expect="any")
    assert (frame["status"] == 0).all()
    assert frame["error"].str.startswith("ClientConnectorError").all()
    assert frame["latency_s"].notna().all()


def test_a_connection_cut_in_mid_answer_is_an_error(stub: Stub):
    def cut(request: web.Request) -> web.Response:
        request.transport.abort()
        return web.Response()

    stub.handler = cut
    frame = traffic.send(at_once(2), stub.url, expect="any")
    assert (frame["status"] == 0).all()
    assert (frame["error"] != "").all()


def test_a_hung_server_cannot_hang_the_run():
    with socket.create_server(("127.0.0.1", 0)) as hung:  # accepts, never answers
        url = f"http://127.0.0.1:{hung.getsockname()[1]}"
        plan = traffic.Plan(np.linspace(0, 0.2, 50), np.zeros(50), [b"{}"] * 50)
        frame = traffic.send(plan, url, timeout_s=0.3, max_connections=3, expect="any")
        assert (frame["status"] == 0).all()
        assert (frame["error"] == "no answer within 0.3 s").all()
        # Most had to wait for one of the three connections; none for longer.
        assert (frame["latency_s"] >= 0.3).all()
        with pytest.raises(traffic.TrafficFailed, match=r"no answer within 0\.1 s"):
            traffic.capacity(url, [b"{}"], n_requests=5, timeout_s=0.1)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "http://10.0.0.1:8000",
        "http://0.0.0.0:8000",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://127.0.0.1@example.com",
        "https://127.0.0.1:8443",
        "ftp://127.0.0.1",
        "127.0.0.1:8000",
        "",
    ],
)
def test_load_goes_to_this_machine_alone(url: str):
    with pytest.raises(traffic.TargetError, match="not a server on this machine"):
        traffic.send(at_once(1), url)
    with pytest.raises(traffic.TargetError, match="not a server on this machine"):
        traffic.capacity(url, [b"{}"], n_requests=1)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "[::1]", "localhost"])
def test_loopback_addresses_are_accepted(host: str):
    assert traffic._loopback(f"http://{host}:80/") == f"http://{host}:80"


def test_a_redirect_is_not_followed(stub: Stub):
    stub.handler = lambda request: web.Response(
        status=307, headers={"Location": stub.url + "/elsewhere"}
    )
    frame = traffic.send(at_once(1), stub.url, expect={307})
    assert list(frame["status"]) == [307]
    assert len(stub.seen) == 1


def test_a_proxy_in_the_environment_is_not_used(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert len(traffic.send(at_once(1), stub.url)) == 1


# -- where it runs -----------------------------------------------------------------


def test_it_works_where_a_loop_is_running(stub: Stub):
    async def cell() -> pd.DataFrame:  # as in a notebook
        return traffic.send(at_once(3), stub.url)

    assert len(asyncio.run(cell())) == 3


def test_an_interrupt_ends_it(stub: Stub, monkeypatch: pytest.MonkeyPatch):
    async def never(request: web.Request) -> None:
        threading.Thread(target=interrupt).start()
        await asyncio.Event().wait()

    joined = threading.Event()

    class Interrupted(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            if self.name == "traffic" and not joined.is_set():
                joined.wait()
                raise KeyboardInterrupt
            super().join(timeout)

    def interrupt() -> None:
        joined.set()

    stub.handler = never
    monkeypatch.setattr(traffic.threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        traffic.send(at_once(1), stub.url, timeout_s=600)


# -- summary and capacity ----------------------------------------------------------


def test_an_empty_plan_gives_an_empty_frame(stub: Stub):
    frame = traffic.send(at_once(0), stub.url)
    assert frame.empty
    assert traffic.summary(frame)["requests"] == 0


def test_the_summary_counts_and_orders():
    n = 100
    frame = pd.DataFrame(
        {
            "scheduled_s": np.linspace(0, 10, n),
            "finished_s": np.linspace(0, 10, n) + 0.1,
            "status": [500, 500] + [200] * 97 + [0],
            "latency_s": np.linspace(0.01, 1.0, n),
            "lag_s": np.full(n, 0.001),
        }
    )
    summary = traffic.summary(frame)
    assert summary["requests"] == 100
    assert summary["answered"] == 99
    assert summary["answered_2xx"] == 97
    assert summary["offered_per_s"] == pytest.approx(10)
    # All requests: 0.01, 0.02, ... 1.00. Those with 2xx: 0.03 ... 0.99.
    assert summary["latency_p50_s"] == pytest.approx(0.505)
    assert summary["latency_p99_s"] == pytest.approx(0.01 + 0.99 * 0.99)
    assert summary["ok_latency_p50_s"] == pytest.approx(0.51)
    assert summary["ok_latency_p95_s"] == pytest.approx(0.03 + 0.95 * 0.96)
    assert summary["ok_latency_p99_s"] == pytest.approx(0.03 + 0.99 * 0.96)
    assert summary["lag_p99_s"] == pytest.approx(0.001)


def test_the_summary_does_not_reward_failure(stub: Stub):
    """Nine of ten get a fast 500 or no answer; only what was answered well is fast."""
    n = iter(range(30))

    async def answer(request: web.Request) -> web.Response:
        number = next(n)
        if number % 10 == 0:
            await asyncio.sleep(0.1)
            return web.json_response({})
        if number % 10 == 1:
            await asyncio.Event().wait()  # until it is given up
        if number % 10 == 2:
            request.transport.abort()  # at once
        return web.json_response({}, status=500)

    stub.handler = answer
    frame = traffic.send(at_once(30), stub.url, expect="any", timeout_s=1)
    assert dict(frame["status"].value_counts()) == {500: 21, 0: 6, 200: 3}
    # Whoever got no answer waited the whole time, or would have had to.
    assert (frame.loc[frame["status"] == 0, "latency_s"] >= 1).all()
    summary = traffic.summary(frame)
    assert summary["latency_p95_s"] >= 1
    assert summary["latency_p99_s"] >= 1
    assert summary["ok_latency_p50_s"] >= 0.1


def test_a_server_that_is_not_there_does_not_look_fast():
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unheard.getsockname()[1]}"
        frame = traffic.send(at_once(3), url, expect="any", timeout_s=50)
    summary = traffic.summary(frame)
    assert summary["latency_p50_s"] >= 50  # though each was refused at once
    assert math.isnan(summary["ok_latency_p50_s"])


def test_capacity_counts_what_was_answered(stub: Stub):
    result = traffic.capacity(
        stub.url, [b'{"a": 1}', b'{"a": 2}'], connections=4, n_requests=200
    )
    assert len(result.latencies_s) == 200
    assert len(stub.seen) == 204  # the first of each connection is not counted
    assert {body for _, body in stub.seen} == {b'{"a": 1}', b'{"a": 2}'}
    assert result.requests_per_s == pytest.approx(200 / result.duration_s)
    assert len(result.slices_per_s) == 10
    assert result.slices_per_s.mean() == pytest.approx(result.requests_per_s)
    low, high = result.spread_per_s
    assert low <= high
    assert result.latency_s(0.5) <= result.latency_s(0.99)


def test_capacity_stops_in_time(stub: Stub):
    result = traffic.capacity(stub.url, [b"{}"], connections=2, duration_s=0.3)
    assert len(result.latencies_s) > 0


def test_capacity_of_errors_is_refused(stub: Stub):
    stub.handler = lambda request: web.json_response({"no": "field"}, status=422)
    with pytest.raises(traffic.TrafficFailed, match="422") as failed:
        traffic.capacity(stub.url, [b"{}"], n_requests=1000)
    assert '{"no": "field"}' in str(failed.value)
    assert len(stub.seen) < 100  # it did not go on for long


@pytest.mark.parametrize(
    "options",
    [{}, {"n_requests": 1, "duration_s": 1}],
)
def test_capacity_wants_one_measure(stub: Stub, options: dict):
    with pytest.raises(ValueError, match="either"):
        traffic.capacity(stub.url, [b"{}"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_requests": 0}, "n_requests must be 1 or more, not 0"),
        ({"n_requests": -1}, "n_requests must be 1 or more, not -1"),
        ({"duration_s": 0}, "duration_s must be more than 0 and finite, not 0"),
        ({"duration_s": math.nan}, "duration_s must be more than 0 and finite, not"),
        ({"duration_s": math.inf}, "duration_s must be more than 0 and finite, not"),
        ({"n_requests": 1, "connections": 0}, "connections must be 1 or more, not 0"),
    ],
)
def test_capacity_of_nothing_is_refused(stub: Stub, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        traffic.capacity(stub.url, [b"{}"], **options)
    assert stub.seen == []


def test_capacity_in_too_short_a_time_says_what_to_do(stub: Stub):
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.1)
        return web.json_response({})

    stub.handler = slow
    with pytest.raises(ValueError, match=r"too short.*larger duration_s or n_requests"):
        traffic.capacity(stub.url, [b"{}"], connections=2, duration_s=0.01)


def test_capacity_wants_bodies(stub: Stub):
    with pytest.raises(ValueError, match="no bodies"):
        traffic.capacity(stub.url, [], n_requests=1)


# -- with real servers -------------------------------------------------------------


@pytest.mark.slow
def test_traffic_meets_a_model_server_and_its_faults():
    plan = at_once(200, b'{"popup_window": 0}')
    with servers.start(None, f"{TINY}:at_once", workers=2) as server:
        frame = traffic.send(plan, server.url, max_connections=10)
        assert (frame["version"] == "tiny").all()
        assert (frame["prediction"] == 0.75).all()
    flaky = {"flaky": {"error_rate": 0.5}}
    with servers.start(None, f"{TINY}:at_once", faults=flaky) as server:
        with pytest.raises(traffic.TrafficFailed, match="x 500"):
            traffic.send(plan, server.url, max_connections=10)
        frame = traffic.send(plan, server.url, expect={200, 500})
        assert set(frame["status"]) == {200, 500}
    assert traffic.send(plan, server.url, expect="any")["status"].eq(0).all()
