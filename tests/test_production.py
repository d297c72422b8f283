"""The guarded service, its client and the batcher: what the page on them says."""

import contextlib
import email.utils
import json
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import schemathesis
from flask import Flask, g
from hypothesis import HealthCheck, given, seed, settings
from schemathesis.core.failures import FailureGroup
from schemathesis.generation import GenerationMode
from test_listings import bodies as hostile_bodies
from werkzeug.exceptions import HTTPException

from deploylab import ROOT, artifacts, phishing, servers

sys.path.insert(0, str(ROOT / "book" / "listings"))

import batching_service
import guarded_service
import polite_client

GUARDED = "book/listings/guarded_service.py:create_app"
GOOD = dict.fromkeys(phishing.CONTRACT.names, 0.5) | {"ip_in_url": 1}
SHOP_KEY, SHOP_HASH = guarded_service.make_key("shop")
WATCH_KEY, WATCH_HASH = guarded_service.make_key("watch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v1")
    artifacts.save(phishing.version("v1"), folder)
    return folder


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """The settings of a guarded server: two clients, each with one route."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    kept = {
        "shop": {"sha256": SHOP_HASH, "routes": ["predict"]},
        "watch": {"sha256": WATCH_HASH, "routes": ["metrics"]},
    }
    keys.write_text(json.dumps(kept))
    return {"API_KEYS": str(keys), "RATE_LIMIT": "1000000 per second"}


@pytest.fixture
def make_client(folder, env, monkeypatch):
    """A test client of the guarded service, ready, with these settings."""

    def make(**more):
        for name, value in (env | more).items():
            monkeypatch.setenv(name, value)
        client = guarded_service.create_app(folder).test_client()
        end = time.monotonic() + 30
        while client.get("/ready").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.01)
        return client

    return make


def ask(client, key=SHOP_KEY, body=None, **headers):
    """POST /predict with these headers, through a test client."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key:
        sent["Authorization"] = f"Bearer {key}"
    data = json.dumps(GOOD) if body is None else body
    return client.post(
        "/predict", data=data, headers=sent, content_type="application/json"
    )


# -- keys --------------------------------------------------------------------------


def test_a_known_key_opens_its_own_routes_and_no_others(make_client):
    client = make_client()
    assert ask(client).status_code == 200
    assert ask(client, WATCH_KEY).status_code == 403
    watch = {"Authorization": f"Bearer {WATCH_KEY}"}
    assert client.get("/metrics", headers=watch).status_code == 200
    shop = {"Authorization": f"Bearer {SHOP_KEY}"}
    assert client.get("/metrics", headers=shop).status_code == 403
    for path in ("/health", "/ready", "/openapi.json"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "shop",
        "shop.",
        SHOP_KEY[:-1],
        SHOP_KEY + "x",
        f"shop.{SHOP_HASH}",
        SHOP_KEY.replace("shop", "watch"),
        SHOP_KEY.replace("shop", "nobody"),
        "schl\xfcssel.schl\xfcssel",
    ],
    ids=range(10),  # the keys are new in each process
)
def test_an_unknown_key_is_401_and_says_how(make_client, key):
    answer = ask(make_client(), key)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json["error"]


def test_the_hash_of_nobody_opens_nothing():
    keys = {"shop": {"sha256": SHOP_HASH, "routes": []}}
    assert guarded_service.holder(f"Bearer {SHOP_KEY}", keys) == "shop"
    assert guarded_service.holder(f"Basic {SHOP_KEY}", keys) is None
    assert guarded_service.holder("Bearer nobody.x", keys) is None


def test_without_a_file_of_keys_the_service_does_not_start(folder, monkeypatch):
    monkeypatch.delenv("API_KEYS", raising=False)
    with pytest.raises(KeyError):
        guarded_service.create_app(folder)


def test_a_new_route_is_closed_until_it_is_opened(make_client):
    client = make_client()
    app = client.application
    app._got_first_request = False  # Flask takes no route after the first request
    app.add_url_rule("/secret", "secret", lambda: "secret")
    assert client.get("/secret").status_code == 401
    shop = {"Authorization": f"Bearer {SHOP_KEY}"}
    assert client.get("/secret", headers=shop).status_code == 403


# -- identity and log ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("checkout-4711", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("short", False),
        ("with space", False),
        ('quote"quote', False),
        ("schl\xfcssel-1", False),
    ],
)
def test_a_sane_id_is_kept_and_any_other_replaced(make_client, sent, kept):
    got = ask(make_client(), X_Request_ID=sent).headers["X-Request-ID"]
    assert (got == sent) is kept
    assert guarded_service.SANE_ID.fullmatch(got)


def test_a_line_of_the_log_says_who_and_what_and_no_secret(make_client, caplog):
    client = make_client()
    guarded_service.log.addHandler(caplog.handler)
    try:
        ask(client, X_Request_ID="checkout-4711", Idempotency_Key="question-1")
        client.get("/nowhere/at/all?key=value")
    finally:
        guarded_service.log.removeHandler(caplog.handler)
    line, other = (json.loads(record.getMessage()) for record in caplog.records[-2:])
    ms = line.pop("ms")
    assert ms >= 0
    assert line == {
        "id": "checkout-4711",
        "question": "question-1",
        "client": "shop",
        "route": "/predict",
        "status": 200,
    }
    assert other["route"] == "none"
    assert "nowhere" not in caplog.text
    assert SHOP_KEY.split(".")[1] not in caplog.text


def test_what_raises_says_nothing_of_itself(make_client, monkeypatch):
    client = make_client()
    client.application.logger.disabled = True
    monkeypatch.setattr(guarded_service.InTime, "score", lambda *_: 1 / 0, raising=True)
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    answer = ask(client)
    assert answer.status_code == 500
    assert "ZeroDivision" not in answer.text
    assert "division" not in answer.text
    assert answer.headers["X-Request-ID"]


# -- limits --------------------------------------------------------------------------


def test_the_size_limit_is_exact(make_client):
    client = make_client(MAX_BODY_BYTES="500")
    row = json.dumps(GOOD).encode()
    assert ask(client, body=row.ljust(500)).status_code == 200
    assert ask(client, body=row.ljust(501)).status_code == 413


def test_a_client_over_its_limit_is_told_when_to_come_back(make_client):
    client = make_client(RATE_LIMIT="3 per hour")
    assert [ask(client).status_code for _ in range(4)] == [200] * 3 + [429]
    refused = ask(client)
    assert 3500 < int(refused.headers["Retry-After"]) <= 3601
    assert refused.json["error"] == "more than 3 per hour"
    assert client.get("/health").status_code == 200, "probes are not counted"
    assert ask(client, key=None).status_code == 401, "nor are strangers, as others"


def test_a_store_that_is_gone_stops_nobody(make_client):
    gone = "redis://127.0.0.1:1/0?socket_connect_timeout=0.1"
    client = make_client(RATE_LIMIT="2 per hour", RATE_STORE=gone)
    statuses = [ask(client).status_code for _ in range(3)]
    assert statuses == [200, 200, 429], "each process counts for itself again"


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 200),
        ("5000", 200),
        ("0", 504),
        ("-1", 400),
        ("1.5", 400),
        ("soon", 400),
        ("9" * 5000, 400),
        ("\xb2", 400),
    ],
)
def test_the_deadline_header_is_a_whole_number(make_client, header, status):
    more = {"X_Timeout_Ms": header} if header else {}
    assert ask(make_client(), **more).status_code == status


class Held:
    """A scorer that waits for a sign, and counts its calls."""

    def __init__(self):
        self.sign, self.calls = threading.Event(), 0

    def score(self, rows):
        self.calls += 1
        assert self.sign.wait(30)
        return [0.5] * len(rows)


def within(guard, left_s):
    with Flask("one request").app_context():
        g.deadline = time.monotonic() + left_s
        try:
            guard.score([[0.0]])
        except HTTPException as error:
            return error.code
    return 200


def test_a_stuck_model_costs_its_slots_and_no_caller_waits_for_ever():
    held = Held()
    guard = guarded_service.InTime(held, slots=2, most_s=60)
    with ThreadPoolExecutor(4) as callers:
        got = sorted(callers.map(lambda s: within(guard, s), [0.3] * 4))
    assert got == [503, 503, 504, 504]
    assert within(guard, 0) == 504
    assert held.calls == 2, "what has no slot and no time is not begun"
    held.sign.set()
    assert within(guard, 30) == 200, "the slots come back"
    guard.threads.shutdown()


def test_while_every_slot_is_stuck_nobody_holds_a_thread_to_wait_for_one(monkeypatch):
    """Whoever waited would hold a thread of the server's, which a probe needs."""
    held, waited = Held(), []
    guard = guarded_service.InTime(held, slots=2, most_s=60)
    acquire = guard.free.acquire

    def counted(timeout):
        waited.append(timeout)
        return acquire(timeout=timeout)

    monkeypatch.setattr(guard.free, "acquire", counted)
    assert [within(guard, 0.05) for _ in range(2)] == [504, 504]
    for kept in [*guard.began]:  # its caller gave it little time: that is not stuck
        assert within(guard, 0.05) == 503
        guard.began[kept] -= 61
    assert len(waited) == 4
    assert within(guard, 1e6) == 503
    assert len(waited) == 4, "it waited for a slot that will not be free"
    held.sign.set()
    guard.threads.shutdown()
    assert guard.began == {}, "what has ended is not stuck"


def test_an_error_of_the_model_gives_its_slot_back():
    class Broken:
        def score(self, rows):
            raise ValueError("bad")

    guard = guarded_service.InTime(Broken(), slots=1, most_s=60)
    for _ in range(3):
        with pytest.raises(ValueError):
            within(guard, 30)
    guard.threads.shutdown()


# -- metrics over processes ------------------------------------------------------------


@contextlib.contextmanager
def only(server, pid):
    """Freeze all workers but one."""
    others = [p for p in server.ready_workers() if p != pid]
    for other in others:
        os.kill(other, signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            os.kill(other, signal.SIGCONT)


def predictions(server):
    text = requests.get(
        server.url + "/metrics",
        headers={"Authorization": f"Bearer {WATCH_KEY}"},
        timeout=30,
    ).text
    wanted = 'answers_total{route="/predict",status="200"} '
    found = [line for line in text.splitlines() if line.startswith(wanted)]
    return float(found[0].split()[-1]) if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_metrics_are_of_all_workers_only_with_a_shared_folder(
    folder, env, tmp_path, shared
):
    more = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)} if shared else {}
    headers = {"Authorization": f"Bearer {SHOP_KEY}"}
    with servers.start(folder, GUARDED, workers=2, env=env | more) as server:
        pids = server.ready_workers()
        for pid, n in zip(pids, [5, 2], strict=True):
            with only(server, pid):
                for _ in range(n):
                    url = server.url + "/predict"
                    answer = requests.post(url, json=GOOD, headers=headers, timeout=30)
                    assert answer.status_code == 200
        seen = []
        for pid in pids:
            with only(server, pid):
                seen.append(predictions(server))
    assert seen == ([7, 7] if shared else [5, 2])


# -- against its own description, and against those who mean harm --------------------


def conforms(server, key, n_each):
    """Send requests that the description allows, and as many that it does not."""
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    answers = []
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @seed(7)
            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=n_each,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def send(case):
                headers = {"Authorization": f"Bearer {key}"}
                answer = case.call_and_validate(headers=headers, timeout=30)
                assert "Traceback" not in answer.text
                answers.append(answer.status_code)

            send()
    return answers


def memory_stays_flat(before_mib, after_mib):
    """A leak of one small body a request would show; allocators breathe a little."""
    assert after_mib < before_mib + 20


def stands_up_to(server, n_each):
    """The description with `n_each` requests of both kinds; memory stays flat."""
    conforms(server, SHOP_KEY, 50)  # warm
    before_mib = server.memory_mib()
    answers = conforms(server, SHOP_KEY, n_each)
    assert 200 in answers
    assert {400, 422} & set(answers), "nothing bad was sent"
    memory_stays_flat(before_mib, server.memory_mib())
    assert server.log(100_000).count("Traceback") == 0


@pytest.mark.slow
def test_the_service_is_what_its_description_says(folder, env):
    with servers.start(folder, GUARDED, env=env) as server:
        stands_up_to(server, 100)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_requests_from_its_description(folder, env):
    with servers.start(folder, GUARDED, env=env) as server:
        stands_up_to(server, 5_000)


@pytest.mark.slow
def test_the_alarm_of_the_description_works(folder, env, tmp_path):
    """A service that answers a forbidden row, or crashes, does not conform."""
    app = tmp_path / "careless.py"
    app.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'book' / 'listings')!r})\n"
        "import guarded_service\n"
        "from deploylab import contract\n"
        "def create_app(folder):\n"
        "    app = guarded_service.create_app(folder)\n"
        "    def careless(error):\n"
        "        return {'version': 'v1', 'phishing': False, 'probability': 2}, 200\n"
        "    app.register_error_handler(contract.ContractError, careless)\n"
        "    return app\n"
    )
    with (
        servers.start(folder, f"{app}:create_app", env=env) as server,
        pytest.raises(FailureGroup, match=r"probability|negative|API"),
    ):
        conforms(server, SHOP_KEY, 50)


def hurts_nobody(server, n):
    """Hostile bodies, sent to a process that runs: refused, and memory stays flat."""
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {SHOP_KEY}"
    session.headers["Content-Type"] = "application/json"
    url = server.url + "/predict"

    def send(n_examples):
        @seed(7)
        @given(body=hostile_bodies)
        @settings(max_examples=n_examples, deadline=None, database=None)
        def one(body):
            answer = session.post(url, data=body, timeout=30)
            assert answer.status_code in (200, 400, 413, 422), answer.text
            assert "Traceback" not in answer.text
            assert json.loads(answer.text)

        one()

    send(100)
    before_mib = server.memory_mib()
    send(n)
    memory_stays_flat(before_mib, server.memory_mib())
    assert session.post(url, json=GOOD, timeout=30).status_code == 200


@pytest.mark.slow
def test_hostile_bodies_hurt_no_process(folder, env):
    with servers.start(folder, GUARDED, env=env) as server:
        hurts_nobody(server, 300)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_bodies_hurt_no_process(folder, env):
    with servers.start(folder, GUARDED, env=env) as server:
        hurts_nobody(server, 10_000)


# -- the client ------------------------------------------------------------------------


class Answers:
    """A session that gives what it was told to, and keeps what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked, self.headers = list(answers), [], {}

    def post(self, url, json, headers, timeout):
        self.asked.append((headers, timeout))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, more = answer if isinstance(answer, tuple) else (answer, {})
        given = requests.Response()
        given.status_code, given._content = status, b'{"error": "no"}'
        given.headers.update(more)
        return given


@pytest.fixture
def client(monkeypatch):
    """A client whose pauses are recorded, and pass at once."""
    client = polite_client.PoliteClient("http://x", "key", polite_client.Budget())
    clock = [0.0]
    client.pauses = []

    def sleep(seconds):
        client.pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(polite_client.time, "sleep", sleep)
    monkeypatch.setattr(polite_client.time, "monotonic", lambda: clock[0])
    random.seed(7)
    return client


@pytest.mark.parametrize("first", [429, 500, 502, 503, 504, OSError, 0])
def test_what_may_pass_is_asked_again_with_the_same_question(client, first):
    first = requests.ConnectionError() if first in (0, OSError) else first
    client.session = Answers(first, 200)
    assert client.predict(GOOD, deadline_s=10) == {"error": "no"}
    (one, _), (two, _) = client.session.asked
    assert one["Idempotency-Key"] == two["Idempotency-Key"]
    assert int(two["X-Timeout-Ms"]) < int(one["X-Timeout-Ms"]) == 9000


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 411, 413, 415, 422])
def test_a_refusal_of_the_request_itself_is_not_asked_again(client, status):
    client.session = Answers(status)
    with pytest.raises(polite_client.Failed) as failed:
        client.predict(GOOD)
    assert (failed.value.status, failed.value.tries) == (status, 1)


def test_an_answer_that_is_a_page_keeps_its_status_and_its_header(client):
    """As proxies give them, in HTML."""

    class Page(Answers):
        def post(self, *args, **kwargs):
            given = super().post(*args, **kwargs)
            given._content = b"<html>no</html>"
            return given

    client.session = Page(413)
    with pytest.raises(polite_client.Failed) as failed:
        client.predict(GOOD)
    assert (failed.value.status, failed.value.tries) == (413, 1)
    client.session = Page((503, {"Retry-After": "4"}), 200, 400)
    with pytest.raises(polite_client.Failed) as failed:
        client.predict(GOOD, deadline_s=20)
    assert (failed.value.status, failed.value.tries) == (400, 3), "200 is asked again"
    assert client.pauses[0] > 4


def test_the_tries_end(client):
    client.session = Answers(*[500] * 9)
    with pytest.raises(polite_client.Failed) as failed:
        client.predict(GOOD, deadline_s=100)
    assert failed.value.tries == 3


def test_retry_after_is_a_lower_bound_and_no_pause_outlives_the_deadline(client):
    client.session = Answers((503, {"Retry-After": "4"}), 200)
    client.predict(GOOD, deadline_s=10)
    assert client.pauses[0] > 4
    client.session = Answers((503, {"Retry-After": "400"}), 200)
    with pytest.raises(polite_client.Failed):
        client.predict(GOOD, deadline_s=10)
    assert len(client.pauses) == 1


def test_retry_after_may_be_a_date_and_nonsense_is_none():
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 90 < polite_client.retry_after_s(later) <= 100
    past = email.utils.formatdate(time.time() - 100, usegmt=True)
    assert polite_client.retry_after_s(past) == 0
    for value in (None, "", "soon", "-3", "Mon, 99 Foo"):
        assert polite_client.retry_after_s(value) == 0


def test_in_an_outage_retries_are_a_tenth(client):
    client.budget = polite_client.Budget(share=0.125, most=8)
    client.session = Answers(*[500] * 5_000)
    for _ in range(800):
        with pytest.raises(polite_client.Failed):
            client.predict(GOOD, deadline_s=1e6)
    assert 800 + 100 <= len(client.session.asked) <= 800 + 108


def test_jitter_fills_the_whole_range_and_the_bound_doubles():
    random.seed(7)
    for failed in (1, 2, 3, 12):
        bound = min(2.0, 0.05 * 2 ** (failed - 1))
        pauses = [polite_client.pause_s(failed) for _ in range(1_000)]
        assert 0 <= min(pauses) < 0.05 * bound
        assert 0.95 * bound < max(pauses) <= bound


@pytest.mark.slow
def test_the_client_and_the_service_understand_each_other(folder, env):
    with servers.start(folder, GUARDED, env=env | {"RATE_LIMIT": "2 per hour"}) as one:
        client = polite_client.PoliteClient(one.url, SHOP_KEY, polite_client.Budget())
        for _ in range(2):
            assert client.predict(GOOD, deadline_s=30)["version"] == "v1"
        with pytest.raises(polite_client.Failed) as failed:
            client.predict(GOOD, deadline_s=30)
        assert (failed.value.status, failed.value.tries) == (429, 1), "an hour is long"
        log = [json.loads(x) for x in one.log(50).splitlines() if x.startswith("{")]
        assert any(line["question"] for line in log)
        client.session.close()


# -- the batcher -----------------------------------------------------------------------


class Doubles:
    """A scorer whose score is twice the row's number; it remembers its calls."""

    def __init__(self):
        self.sizes, self.sign = [], threading.Event()

    def score(self, rows):
        self.sizes.append(len(rows))
        assert self.sign.wait(30)
        if any(row[0] < 0 for row in rows):
            raise ValueError("a negative row")
        return [2 * row[0] for row in rows]


def test_everybody_gets_their_own_scores_and_calls_are_shared():
    scorer = Doubles()
    batcher = batching_service.Batcher(scorer, most=8, wait_s=0.05)
    with ThreadPoolExecutor(21) as callers:
        waiting = [callers.submit(batcher.score, [[n], [100 + n]]) for n in range(21)]
        while batcher.waiting.qsize() < 13:  # all but those of the first call
            time.sleep(0.001)
        scorer.sign.set()
        got = [future.result(30) for future in waiting]
    assert got == [[2 * n, 200 + 2 * n] for n in range(21)]
    assert sum(scorer.sizes) == 42
    assert max(scorer.sizes) == 16
    assert len(scorer.sizes) < 21


def test_an_error_reaches_all_in_the_call_and_the_next_call_works():
    scorer = Doubles()
    scorer.sign.set()
    batcher = batching_service.Batcher(scorer, wait_s=0)
    with pytest.raises(ValueError):
        batcher.score([[-1]])
    assert batcher.score([[3]]) == [6]


@pytest.mark.slow
def test_the_batching_service_answers_as_the_plain_one(folder):
    app = "book/listings/batching_service.py:create_app"
    with servers.start(folder) as plain, servers.start(folder, app) as batching:
        said = [
            requests.post(server.url + "/predict", json=GOOD, timeout=30).json()
            for server in (plain, batching)
        ]
    assert said[0] == said[1]
