"""The programs that pages show: they do what the pages say."""

import json
import subprocess
import sys
import time
import zipapp

import pytest
import requests
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from deploylab import ROOT, artifacts, phishing, servers
from deploylab.phishing import VERSIONS

LISTINGS = ROOT / "book" / "listings"
sys.path.insert(0, str(LISTINGS))

import empty_service  # noqa: E402
import phishing_service  # noqa: E402

GOOD = dict.fromkeys(phishing.CONTRACT.names, 0.5) | {"ip_in_url": 1}


def wait_until(app, state, timeout_s=30):
    client = app.test_client()
    end = time.monotonic() + timeout_s
    while (said := client.get("/ready").json["status"]) != state:
        assert time.monotonic() < end, f"still {said}"
        time.sleep(0.01)
    return client


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v2")
    artifacts.save(VERSIONS["v2"], folder)
    return folder


@pytest.fixture(scope="module")
def client(folder):
    return wait_until(phishing_service.create_app(folder), "ready")


def post(client, data, content_type="application/json"):
    return client.post("/predict", data=data, content_type=content_type)


def test_a_good_request_gets_an_answer_with_its_version(client, folder):
    answer = client.post("/predict", json=GOOD)
    assert answer.status_code == 200
    assert answer.headers["X-Model-Version"] == "v2"
    score = artifacts.load(folder).score([list(GOOD.values())])[0]
    assert answer.json == {
        "version": "v2",
        "phishing": bool(score > 0.5),
        "probability": float(score),
    }


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (json.dumps(GOOD), "text/plain", 415),
        (json.dumps(GOOD), None, 415),
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b" " * 20_000, "application/json", 413),
        (json.dumps({**GOOD, "https": None}), "application/json", 422),
        (json.dumps({**GOOD, "extra": 1}), "application/json", 422),
        (json.dumps({**GOOD, "https": float("nan")}), "application/json", 422),
    ],
)
def test_a_bad_request_is_the_callers_fault_and_the_next_one_works(
    client, data, content_type, status
):
    answer = post(client, data, content_type)
    assert answer.status_code == status
    assert answer.json["error"]
    assert client.post("/predict", json=GOOD).status_code == 200


def test_flasks_own_errors_are_json_too(client):
    assert client.get("/nowhere").status_code == 404
    assert client.get("/nowhere").json["error"]
    answer = client.get("/predict")
    assert answer.status_code == 405
    assert answer.json["error"]
    assert answer.allow == {"POST", "OPTIONS"}  # RFC 9110, section 15.5.6


def test_the_description_is_served(client):
    described = client.get("/openapi.json").json
    assert described == phishing.CONTRACT.openapi("v2")


def test_not_ready_until_loaded_and_never_when_loading_fails(folder, monkeypatch):
    import threading

    go = threading.Event()
    load = artifacts.load

    def held_load(*args, **kwargs):
        assert go.wait(30)
        return load(*args, **kwargs)

    monkeypatch.setattr(phishing_service.artifacts, "load", held_load)
    app = phishing_service.create_app(folder)
    client = app.test_client()
    assert client.get("/health").status_code == 200
    assert client.get("/ready").status_code == 503
    assert client.post("/predict", json=GOOD).status_code == 503
    go.set()
    wait_until(app, "ready")
    assert client.post("/predict", json=GOOD).status_code == 200

    def failing_load(*args, **kwargs):
        raise artifacts.CorruptArtifact("bad bytes")

    monkeypatch.setattr(phishing_service.artifacts, "load", failing_load)
    broken = wait_until(phishing_service.create_app(folder), "failed")
    assert broken.get("/ready").status_code == 503
    assert broken.post("/predict", json=GOOD).status_code == 503
    assert broken.get("/health").status_code == 500, "only a restart can help"


@pytest.mark.slow
def test_a_chunked_body_is_refused_before_it_is_cut(folder):
    """Over the real server: cut at the limit, the rest could still be a row."""
    row = json.dumps(GOOD).encode()
    with servers.start(folder) as server:
        for padding in (0, 20_000, 1_000_000):
            pieces = iter([row, b" " * padding] if padding else [row])
            answer = requests.post(
                server.url + "/predict",
                data=pieces,
                headers={"Content-Type": "application/json"},
                timeout=30,
            )
            assert answer.status_code == 411
        answer = requests.post(server.url + "/predict", json=GOOD, timeout=30)
        assert answer.status_code == 200


# Any JSON value, with the features' own names made likely, and the floats that JSON
# does not have: Python's encoder writes NaN and Infinity, and callers send them.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
rows = st.dictionaries(
    st.sampled_from(phishing.CONTRACT.names) | st.text(max_size=12), values
)
near_rows = st.dictionaries(
    st.sampled_from(phishing.CONTRACT.names), values, max_size=3
).map(lambda changes: {**GOOD, **changes})
bodies = (
    st.binary(max_size=300)
    | st.one_of(values, rows, near_rows).map(lambda v: json.dumps(v).encode())
    | st.integers(1, 15_000).map(lambda n: b'{"https":' * min(n, 1700))
)


def stands(client, body):
    """No 5xx, no NaN, no stack trace, and the next good request works."""
    answer = post(client, body)
    text = answer.get_data(as_text=True)
    assert answer.status_code in (200, 400, 413, 422), text
    assert answer.is_json
    assert "Traceback" not in text
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in an answer"))
    if answer.status_code == 422:
        assert all(problem["field"] for problem in answer.json["problems"])
    assert client.post("/predict", json=GOOD).status_code == 200


@pytest.mark.slow
@given(body=bodies)
@settings(max_examples=500, deadline=None)
def test_hostile_bodies(client, body):
    stands(client, body)


@pytest.mark.soak
@given(body=bodies)
@settings(max_examples=10_000, deadline=None)
def test_ten_thousand_hostile_bodies(client, body):
    stands(client, body)


def test_the_empty_service_answers():
    client = empty_service.create_app().test_client()
    assert client.get("/ready").status_code == 200
    assert client.post("/predict").json == {}


@pytest.fixture(scope="module")
def mail_filter(folder, tmp_path_factory):
    import shutil

    source = tmp_path_factory.mktemp("filter") / "source"
    shutil.copytree(LISTINGS / "mail_filter", source)
    shutil.copytree(folder, source / "model")
    target = source.parent / "mail-filter.pyz"
    zipapp.create_archive(source, target)
    return target


def run(program, text):
    return subprocess.run(
        [sys.executable, program], input=text, capture_output=True, text=True
    )


def test_the_mail_filter_judges_each_line(mail_filter, folder):
    done = run(mail_filter, json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\n")
    assert done.returncode == 0, done.stderr
    score = artifacts.load(folder).score([list(GOOD.values())])[0]
    verdict = "phishing" if score > 0.5 else "fine"
    assert done.stdout.splitlines() == [f"{verdict:8} {score:.3f} by v2"] * 2


def test_the_mail_filter_names_line_and_field_and_judges_the_rest(mail_filter):
    good, bad = json.dumps(GOOD), json.dumps({**GOOD, "https": None})
    done = run(mail_filter, f"{good}\n{bad}\n{good}\n")
    assert done.returncode == 2
    assert done.stderr == "line 2: https: must be a number\n"
    verdicts = done.stdout.splitlines()
    assert len(verdicts) == 3
    assert verdicts[1].startswith("not judged")


def test_the_manifest_probes_addresses_that_the_service_has(folder):
    text = (LISTINGS / "kubernetes" / "phishing-service.yaml").read_text()
    pod = yaml.safe_load(text)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    app = phishing_service.create_app(folder)
    served = {rule.rule for rule in app.url_map.iter_rules()}
    probes = {
        kind: container[kind]["httpGet"]
        for kind in ("readinessProbe", "startupProbe", "livenessProbe")
    }
    assert {p["path"] for p in probes.values()} <= served
    assert probes["readinessProbe"]["path"] == "/ready"
    assert probes["livenessProbe"]["path"] == "/health"
    assert container["livenessProbe"]["timeoutSeconds"] > 1
    ports = {p["containerPort"] for p in container["ports"]}
    assert {p["port"] for p in probes.values()} == ports
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > waits + 30
