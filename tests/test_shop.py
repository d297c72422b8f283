"""The shop of *Run model and application in one process*, and its crowd."""

import json
import subprocess
import sys
import threading

import pytest

from deploylab import ROOT, artifacts, phishing, servers

sys.path.insert(0, str(ROOT / "book" / "listings"))

import shop_service

SHOP = "book/listings/shop_service.py:create_app"
ROW = dict(zip(phishing.CONTRACT.names, [0, 0.5, 1, 0, 0.5, 0.5, 1, 0], strict=True))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return phishing.save(["v1"], tmp_path_factory.mktemp("models"))["v1"]


def test_the_model_in_the_process_answers_as_the_artifact_does(saved):
    client = shop_service.create_app(saved).test_client()
    answer = client.post("/predict", json=ROW)
    score = float(artifacts.load(saved).score([list(ROW.values())])[0])
    assert answer.json == {"phishing": score > 0.5, "probability": score}
    assert client.get("/ready").status_code == 200
    assert client.get("/orders").json == shop_service.ORDERS


def test_a_broken_row_is_the_callers_fault(saved):
    answer = shop_service.create_app(saved).test_client().post("/predict", json={})
    assert 400 <= answer.status_code < 500
    assert answer.json


def test_the_report_has_a_line_for_each_order(saved, monkeypatch):
    monkeypatch.setattr(shop_service.time, "sleep", lambda seconds: None)
    lines = shop_service.create_app(saved).test_client().get("/report").text
    assert lines.splitlines()[0] == "1000,995"
    assert len(lines.splitlines()) == len(shop_service.ORDERS)


def test_without_the_model_elsewhere_the_shop_goes_on(monkeypatch):
    with servers._bind(0) as nobody:  # bound and not listening: refuses
        monkeypatch.setenv("MODEL_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        client = shop_service.create_app().test_client()
        answer = client.post("/predict", json=ROW)
        assert answer.status_code == 503
        assert "ConnectionError" in answer.json["error"]
        assert client.get("/orders").status_code == 200


def test_the_wall_refuses_at_once_and_opens_again(saved, monkeypatch):
    monkeypatch.setenv("MODEL_PLACES", "1")
    inside, go = threading.Event(), threading.Event()
    real = shop_service.Here.score

    def held(here, body):
        inside.set()
        assert go.wait(30)
        return real(here, body)

    monkeypatch.setattr(shop_service.Here, "score", held)
    app = shop_service.create_app(saved)
    first = []
    asking = threading.Thread(
        target=lambda: first.append(app.test_client().post("/predict", json=ROW))
    )
    asking.start()
    assert inside.wait(30)
    refused = app.test_client().post("/predict", json=ROW)
    go.set()
    asking.join(30)
    assert refused.status_code == 503
    assert "Busy" in refused.json["error"]
    assert first[0].status_code == 200
    assert app.test_client().post("/predict", json=ROW).status_code == 200


def crowd(url, callers, seconds):
    program = ROOT / "book/listings/crowd.py"
    done = subprocess.run(
        [sys.executable, program, url, str(callers), str(seconds)],
        input=json.dumps(ROW),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_crowd_counts_both_sides(saved):
    with (
        servers.start(saved) as model,
        servers.start(None, SHOP, env={"MODEL_URL": model.url}) as shop,
    ):
        seen = crowd(shop.url, 2, 0.5)
        assert seen["scores"].keys() == seen["orders"].keys() == {"200"}
        assert len(seen["orders_ms"]) == seen["orders"]["200"] > 0
        assert crowd(shop.url, 0, 0.1)["scores"] == {}
        model.stop()
        gone = crowd(shop.url, 2, 0.3)
        assert gone["scores"].keys() == {"503"}
        assert gone["orders"].keys() == {"200"}


@pytest.mark.slow
def test_the_crowd_counts_what_has_no_answer():
    with servers._bind(0) as nobody:
        seen = crowd(f"http://127.0.0.1:{nobody.getsockname()[1]}", 1, 0.1)
    assert seen["scores"].keys() <= {"0"}
    assert seen["orders"].keys() == {"0"}
