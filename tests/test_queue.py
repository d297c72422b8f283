"""The work queue: bounded, nothing lost, answered once, poison set aside."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from deploylab import ROOT, broker, phishing, servers

LISTINGS = ROOT / "book" / "listings"
sys.path.insert(0, str(LISTINGS))

import guarded_service  # noqa: E402
import ngram_model  # noqa: E402
import queue_front  # noqa: E402
import queue_worker  # noqa: E402

ROW = dict.fromkeys(phishing.CONTRACT.names, 1)
BODY = json.dumps(ROW)
SHOP_KEY, SHOP_HASH = guarded_service.make_key("shop")
BANK_KEY, BANK_HASH = guarded_service.make_key("bank")
KEYS = {
    "shop": {"sha256": SHOP_HASH, "routes": ["work", "result"]},
    "bank": {"sha256": BANK_HASH, "routes": ["work", "result"]},
    "guest": {"sha256": SHOP_HASH, "routes": []},
}


def there_is_redis():
    try:
        broker.find_redis()
    except broker.BrokerError:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not there_is_redis(), reason="redis is missing"),
]


@pytest.fixture(scope="module")
def running():
    with broker.start() as running:
        yield running


@pytest.fixture
def redis(running):
    with broker.connect(running.url) as redis:
        redis.flushall()
        yield redis


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return phishing.save(["v1"], tmp_path_factory.mktemp("models"))["v1"]


def answer_all(queue, handle, worker="me"):
    done = []
    while id := queue_worker.answer_next(queue, worker, handle):
        done.append(id)
    return done


def shout(fields):
    return fields["body"].upper()


def mail(id, body="a", **more):
    return {"sender": "me", "id": str(id), "body": body, **more}


def answers(redis):
    """All answers that lie ready, by their sender's name for them."""
    found = redis.keys(queue_worker.key("result", "me", "*"))
    return {name.split(":")[-1]: redis.get(name) for name in found}


def post(client, body=BODY, key=SHOP_KEY, **headers):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {"Content-Type": "application/json"} | sent
    return client.post("/work", data=body, headers=sent | bearer(key))


def bearer(key):
    return {"Authorization": f"Bearer {key}"} if key else {}


# -- the bound -------------------------------------------------------------------------


def test_a_full_queue_refuses_and_a_done_message_makes_room(redis):
    queue = queue_worker.Queue(redis, "work", limit=3)
    offered = [queue.offer(mail(n)) for n in range(5)]
    assert [bool(message) for message in offered] == [True] * 3 + [False] * 2
    queue_worker.answer_next(queue, "me", shout)
    assert len(queue) == 2
    assert queue.offer(mail(6))


def test_senders_at_once_do_not_overfill_it(running, redis):
    queue_worker.Queue(redis, "work")

    def send():
        with broker.connect(running.url) as own:
            queue = queue_worker.Queue(own, "work", limit=20)
            for _ in range(50):
                queue.offer(mail("x"))

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert redis.xlen("work") == 20


# -- the front -------------------------------------------------------------------------


@pytest.fixture
def client(running, redis, model):
    app = queue_front.create_app(model, running.url, KEYS, limit=4, rate_per_s=2)
    return app.test_client()


def test_the_front_accepts_refuses_and_names_the_time(client, redis):
    said = [post(client) for _ in range(5)]
    assert [answer.status_code for answer in said] == [202] * 4 + [429]
    assert said[-1].headers["Retry-After"] == "2"
    assert client.get("/ready").status_code == 200, "a probe needs no key"


def test_a_result_is_waiting_then_there_and_otherwise_unknown(client, redis):
    where = post(client).json["result"]
    assert client.get(where, headers=bearer(SHOP_KEY)).status_code == 202
    answer_all(queue_worker.Queue(redis, "work"), lambda fields: json.dumps({"a": 1}))
    found = client.get(where, headers=bearer(SHOP_KEY))
    assert (found.status_code, found.json) == (200, {"a": 1})
    assert client.get("/results/other", headers=bearer(SHOP_KEY)).status_code == 404
    for name in redis.keys("*:shop:*"):
        assert 0 < redis.ttl(name) <= queue_worker.KEEP_S
        redis.delete(name)  # an hour later
    assert client.get(where, headers=bearer(SHOP_KEY)).status_code == 404


def test_what_was_refused_is_not_waiting(client):
    for number in range(5):
        post(client, Idempotency_Key=f"m{number}")
    assert client.get("/results/m3", headers=bearer(SHOP_KEY)).status_code == 202
    assert client.get("/results/m4", headers=bearer(SHOP_KEY)).status_code == 404


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (400, "{", {}),
        (400, b"\xff", {}),
        (422, json.dumps({**ROW, "https": 7}), {}),
        (422, json.dumps({**ROW, "extra": 1}), {}),
        (422, "[]", {}),
        (413, BODY + " " * 10_000, {}),
        (411, BODY, {"Transfer_Encoding": "chunked"}),
        (415, BODY, {"Content_Type": "text/plain"}),
        (400, BODY, {"Idempotency_Key": "a/b"}),  # would be no address
        (400, BODY, {"Idempotency_Key": "a:b"}),
        (401, BODY, {"key": None}),
        (401, BODY, {"key": SHOP_KEY[:-1]}),
        (403, BODY, {"key": SHOP_KEY.replace("shop", "guest")}),
    ],
    ids=range(13),  # the keys are new in each process
)
def test_a_bad_request_is_refused_at_the_front_and_nobody_works_on_it(
    status, body, headers, client, redis
):
    said = post(client, body, **headers)
    assert said.status_code == status
    assert said.json["error"]
    assert redis.xlen("work") == 0
    assert redis.keys("waiting:*") == []
    assert post(client).status_code == 202


def test_two_senders_who_choose_one_name_read_their_own_answers(client, redis):
    for key in (SHOP_KEY, BANK_KEY):
        post(client, key=key, Idempotency_Key="1")
    post(client, key=SHOP_KEY, Idempotency_Key="2")
    answer_all(queue_worker.Queue(redis, "work"), lambda f: json.dumps(f["sender"]))
    for key, name in {SHOP_KEY: "shop", BANK_KEY: "bank"}.items():
        assert client.get("/results/1", headers=bearer(key)).json == name
    assert client.get("/results/2", headers=bearer(BANK_KEY)).status_code == 404
    assert client.get("/results/2").status_code == 401


# -- nothing lost, answered once -------------------------------------------------------


def test_what_a_dead_worker_had_in_hand_goes_to_another(redis):
    queue = queue_worker.Queue(redis, "work", idle_ms=50)
    for n in range(3):
        queue.offer(mail(n))
    assert queue.take("dead")[1]["id"] == "0"  # and it never comes back
    assert answer_all(queue, shout) == ["1", "2"]
    end = time.monotonic() + 20
    while "0" not in answers(redis):
        queue_worker.answer_next(queue, "me", shout)
        assert time.monotonic() < end
    assert answers(redis) == dict.fromkeys("012", "A")
    assert len(queue) == 0


def test_a_worker_that_acknowledges_first_would_be_caught(redis, monkeypatch):
    """The planted fault: killed between acknowledging and writing."""
    queue = queue_worker.Queue(redis, "work", idle_ms=50)
    queue.offer(mail(0))
    message, _, _ = queue.take("dead")
    queue.finish(message)  # then it dies
    time.sleep(0.1)
    assert queue.take("me", wait_ms=1) is None, "nobody gets it again"
    assert answers(redis) == {}


def test_the_first_answer_stands_however_often_a_message_is_answered(redis):
    queue = queue_worker.Queue(redis, "work", idle_ms=0)
    queue.offer(mail(0))
    slow = queue.take("slow")
    time.sleep(0.01)
    assert queue_worker.answer_next(queue, "me", lambda fields: "first") == "0"
    queue.answer(slow[1], "second")  # the slow one comes back
    queue.finish(slow[0])
    assert answers(redis) == {"0": "first"}


def test_an_answer_does_not_lie_there_for_ever(redis):
    queue = queue_worker.Queue(redis, "work", keep_s=1)
    queue.offer(mail(0))
    queue.offer(mail(1))
    queue_worker.answer_next(queue, "me", shout)
    queue.set_aside(*queue.take("me")[:2], "poison")
    names = redis.keys("result:*")
    assert all(0 <= redis.pttl(name) <= 1000 for name in names), "it never expires"
    end = time.monotonic() + 20
    while answers(redis):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_claim_of_what_was_finished_in_between_ends_no_worker(redis, monkeypatch):
    queue = queue_worker.Queue(redis, "work", idle_ms=0)
    queue.offer(mail(0))
    slow = queue.take("slow")
    time.sleep(0.01)
    claim = redis.xautoclaim

    def finished_meanwhile(*args, **kwargs):
        found = claim(*args, **kwargs)
        queue.finish(slow[0])
        return found

    monkeypatch.setattr(redis, "xautoclaim", finished_meanwhile)
    assert queue.take("me", wait_ms=1) is None


# -- poison ----------------------------------------------------------------------------


def test_poison_is_set_aside_after_three_deliveries_and_holds_nobody_up(redis):
    queue = queue_worker.Queue(redis, "work", idle_ms=30, most_deliveries=3)
    for id in ("0", "poison", "1"):
        queue.offer(mail(id))
    tries, done = [], []

    def handle(fields):
        if fields["id"] == "poison":
            tries.append(time.monotonic())
            raise ConnectionResetError  # this worker is gone
        return "fine"

    end = time.monotonic() + 20
    while len(queue):
        with contextlib.suppress(ConnectionResetError):
            done.append(queue_worker.answer_next(queue, "me", handle))
        assert time.monotonic() < end
    assert len(tries) == 3
    assert [id for id in done if id][:2] == ["0", "1"], "the others did not wait"
    [(_, dead)] = redis.xrange("work:dead")
    assert dead["id"] == "poison"
    assert "3 deliveries" in dead["why"]


def test_a_message_that_breaks_the_contract_is_set_aside_at_once(redis, model):
    queue = queue_worker.Queue(redis, "work")
    queue.offer(mail(0, json.dumps({**ROW, "https": 7})))
    queue.offer(mail(1, BODY))
    assert answer_all(queue, queue_worker.phishing(model)) == ["0", "1"]
    told = {id: json.loads(text) for id, text in answers(redis).items()}
    assert "https" in told["0"]["error"], "its sender would ask for ever"
    assert "probability" in told["1"]
    [(_, dead)] = redis.xrange("work:dead")
    assert "https" in dead["why"]


# -- as processes ----------------------------------------------------------------------


@contextlib.contextmanager
def worker(url, stream, *words):
    process = subprocess.Popen(
        [sys.executable, LISTINGS / "queue_worker.py", url, stream, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=servers.environment() | {"PYTHONPATH": str(ROOT)},
    )
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_empty(queue, timeout_s=60):
    end = time.monotonic() + timeout_s
    while len(queue):
        assert time.monotonic() < end, f"{len(queue)} are left"
        time.sleep(0.01)


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_workers_killed_at_work_lose_nothing(n_kills, running, redis, model):
    queue = queue_worker.Queue(redis, "work", limit=10_000)
    words = ["--phishing", model, "--takes-s", "0.01", "--idle-ms", "200"]
    sent = 0
    with worker(running.url, "work", *words):
        for _ in range(n_kills):
            with worker(running.url, "work", *words) as doomed:
                for _ in range(40):
                    queue.offer(mail(sent, BODY))
                    sent += 1
                while len(queue) > 10:
                    time.sleep(0.005)
                os.kill(doomed.pid, 9)
        wait_until_empty(queue)
    assert len(answers(redis)) == sent
    assert redis.xlen("work:dead") == 0


def test_a_worker_ends_when_it_is_told_to_and_when_the_broker_is_gone(model):
    with broker.start() as own:
        with worker(own.url, "work", "--phishing", model) as process:
            process.terminate()
            assert process.wait(30) == 0
        with worker(own.url, "work", "--phishing", model) as process:
            own.stop()
            assert process.wait(30) == 1
            assert "the broker is gone" in process.stderr.read()


def test_the_router_sends_each_language_to_its_queue(redis, tmp_path):
    texts = ["the coat is very good", "der Mantel wirkt sehr gut"]
    ngram_model.fit(texts, ["en", "de"]).save(tmp_path / "model.json")
    queues = {
        name: queue_worker.Queue(redis, f"texts:{name}")
        for name in ("en", "de", "other")
    }
    entrance = queue_worker.Queue(redis, "texts")
    for id, text in enumerate([*texts, "大変満足です"]):
        entrance.offer(mail(id, text=text))
    handle = queue_worker.language(queues, tmp_path / "model.json")
    answer_all(entrance, handle)
    for name, id in {"en": "0", "de": "1", "other": "2"}.items():
        _, fields, _ = queues[name].take("me")
        assert (fields["id"], fields["language"]) == (id, name)
    assert answers(redis) == {}, "the router answers nothing itself"


def test_a_full_queue_behind_the_router_stops_its_own_language_only(redis, tmp_path):
    english, german = "the coat is very good", "der Mantel wirkt sehr gut"
    ngram_model.fit([english, german], ["en", "de"]).save(tmp_path / "model.json")
    queues = {
        "de": queue_worker.Queue(redis, "texts:de", limit=2),
        "en": queue_worker.Queue(redis, "texts:en", limit=10),
    }
    entrance = queue_worker.Queue(redis, "texts", limit=10)
    for id, text in enumerate([german] * 5 + [english] * 3):
        entrance.offer(mail(id, text=text))
    answer_all(entrance, queue_worker.language(queues, tmp_path / "model.json"))
    assert len(entrance) == 0
    assert len(queues["de"]) == 2, "a full queue takes no more"
    assert len(queues["en"]) == 3, "they wait for German"
    told = {id: json.loads(text) for id, text in answers(redis).items()}
    assert set(told) == set("234")
    assert all("queue for de is full" in answer["error"] for answer in told.values())
