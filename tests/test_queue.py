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

import ngram_model  # noqa: E402
import queue_front  # noqa: E402
import queue_worker  # noqa: E402

ROW = dict.fromkeys(phishing.CONTRACT.names, 1)
BODY = json.dumps(ROW)


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


# -- the bound -------------------------------------------------------------------------


def test_a_full_queue_refuses_and_a_done_message_makes_room(redis):
    queue = queue_worker.Queue(redis, "work", limit=3)
    offered = [queue.offer({"id": str(n), "body": "x"}) for n in range(5)]
    assert [bool(message) for message in offered] == [True] * 3 + [False] * 2
    queue_worker.answer_next(queue, "me", shout)
    assert len(queue) == 2
    assert queue.offer({"id": "6", "body": "x"})


def test_senders_at_once_do_not_overfill_it(running, redis):
    queue_worker.Queue(redis, "work")

    def send():
        with broker.connect(running.url) as own:
            queue = queue_worker.Queue(own, "work", limit=20)
            for _ in range(50):
                queue.offer({"id": "x", "body": "y"})

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert redis.xlen("work") == 20


def test_the_front_accepts_refuses_and_names_the_time(running, redis):
    app = queue_front.create_app(running.url, limit=4, rate_per_s=2)
    client = app.test_client()
    answers = [client.post("/work", data=BODY) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [202] * 4 + [429]
    assert answers[-1].headers["Retry-After"] == "2"
    assert client.post("/work", data="x" * 10_001).status_code == 413
    headers = {"Idempotency-Key": "a/b"}  # would have no address for its result
    assert client.post("/work", data=BODY, headers=headers).status_code == 400
    where = answers[0].json["result"]
    assert client.get(where).status_code == 404
    answer_all(queue_worker.Queue(redis, "work"), lambda fields: json.dumps({"a": 1}))
    assert client.get(where).json == {"a": 1}


# -- nothing lost, answered once -------------------------------------------------------


def test_what_a_dead_worker_had_in_hand_goes_to_another(redis):
    queue = queue_worker.Queue(redis, "work", idle_ms=50)
    for n in range(3):
        queue.offer({"id": str(n), "body": "a"})
    assert queue.take("dead")[1]["id"] == "0"  # and it never comes back
    assert answer_all(queue, shout) == ["1", "2"]
    end = time.monotonic() + 20
    while not redis.hexists("results", "0"):
        queue_worker.answer_next(queue, "me", shout)
        assert time.monotonic() < end
    assert redis.hgetall("results") == dict.fromkeys("012", "A")
    assert len(queue) == 0


def test_a_worker_that_acknowledges_first_would_be_caught(redis, monkeypatch):
    """The planted fault: killed between acknowledging and writing."""
    queue = queue_worker.Queue(redis, "work", idle_ms=50)
    queue.offer({"id": "0", "body": "a"})
    message, _, _ = queue.take("dead")
    queue.finish(message)  # then it dies
    time.sleep(0.1)
    assert queue.take("me", wait_ms=1) is None, "nobody gets it again"
    assert not redis.hexists("results", "0")


def test_the_first_answer_stands_however_often_a_message_is_answered(redis):
    queue = queue_worker.Queue(redis, "work", idle_ms=0)
    queue.offer({"id": "0", "body": "a"})
    slow = queue.take("slow")
    time.sleep(0.01)
    assert queue_worker.answer_next(queue, "me", lambda fields: "first") == "0"
    redis.hsetnx("results", "0", "second")  # the slow one comes back
    queue.finish(slow[0])
    assert redis.hget("results", "0") == "first"


def test_a_claim_of_what_was_finished_in_between_ends_no_worker(redis, monkeypatch):
    queue = queue_worker.Queue(redis, "work", idle_ms=0)
    queue.offer({"id": "0", "body": "a"})
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
        queue.offer({"id": id, "body": "a"})
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
    queue.offer({"id": "0", "body": json.dumps({**ROW, "https": 7})})
    queue.offer({"id": "1", "body": BODY})
    assert answer_all(queue, queue_worker.phishing(model)) == ["0", "1"]
    told = {id: json.loads(text) for id, text in redis.hgetall("results").items()}
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
                    queue.offer({"id": str(sent), "body": BODY})
                    sent += 1
                while len(queue) > 10:
                    time.sleep(0.005)
                os.kill(doomed.pid, 9)
        wait_until_empty(queue)
    assert redis.hlen("results") == sent
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
        entrance.offer({"id": str(id), "text": text})
    handle = queue_worker.language(queues, tmp_path / "model.json")
    answer_all(entrance, handle)
    for name, id in {"en": "0", "de": "1", "other": "2"}.items():
        _, fields, _ = queues[name].take("me")
        assert (fields["id"], fields["language"]) == (id, name)
    assert redis.hlen("results") == 0, "the router answers nothing itself"


def test_a_full_queue_behind_it_stops_the_router(redis):
    after = queue_worker.Queue(redis, "texts:en", limit=1)
    entrance = queue_worker.Queue(redis, "texts")
    taken = []
    turns = queue_worker.steps(entrance, {"en": after}, taken.append)
    next(turns)
    assert len(taken) == 1
    after.offer({"id": "0", "text": "a"})
    next(turns)
    assert len(taken) == 1, "it took a text that has nowhere to go"
    after.finish(after.take("me")[0])
    next(turns)
    assert len(taken) == 2
