"""The listings of *Choose a strategy*: a flag in a file, and what it cannot isolate."""

import json
import sys
from itertools import pairwise

import pytest
import requests

from deploylab import ROOT, artifacts, phishing, servers

sys.path.insert(0, str(ROOT / "book" / "listings"))

import flagged_service

ROW = dict.fromkeys(phishing.CONTRACT.names, 0.5) | {"ip_in_url": 1}
USERS = [f"user-{number}" for number in range(100)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    work = tmp_path_factory.mktemp("flagged")
    return {
        name: artifacts.save(phishing.version(name), work / name).folder
        for name in ("v1", "v2")
    }


@pytest.fixture
def flagged(saved, tmp_path, monkeypatch):
    """Who has the new model, by what the flag's file says."""
    flag = tmp_path / "flag.json"
    monkeypatch.setenv("NEW", str(saved["v2"]))
    monkeypatch.setenv("FLAG", str(flag))
    client = flagged_service.create_app(saved["v1"]).test_client()

    def having(text):
        if text is None:
            flag.unlink(missing_ok=True)
        else:
            flag.write_text(text)
        versions = {
            user: client.post("/predict", json=ROW, headers={"X-User": user}).json
            for user in USERS
        }
        return {user for user in USERS if versions[user]["version"] == "v2"}

    return having


def test_a_growing_share_takes_no_user_back(flagged):
    shares = (0, 0.1, 0.4, 0.8, 1)
    having = [flagged(json.dumps({"share": share})) for share in shares]
    assert having[0] == set()
    assert having[-1] == set(USERS)
    for before, after in pairwise(having):
        assert before < after
    assert flagged('{"share": 0.1}') == having[1]


@pytest.mark.parametrize(
    "share", ["40", "-0.1", "1.0001", "NaN", "Infinity", "1" + 400 * "0"]
)
def test_a_share_outside_0_to_1_is_off(flagged, share):
    assert flagged(f'{{"share": {share}}}') == set()


@pytest.mark.parametrize("text", [None, "", "{oops", "[]", "{}", '{"share": null}'])
def test_a_flag_that_cannot_be_read_is_off(flagged, text):
    assert flagged(text) == set()


def test_a_request_that_breaks_the_contract_is_refused(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("NEW", str(saved["v2"]))
    monkeypatch.setenv("FLAG", str(tmp_path / "none"))
    client = flagged_service.create_app(saved["v1"]).test_client()
    assert client.post("/predict", json={}).status_code == 422
    assert client.get("/ready").status_code == 200


@pytest.mark.slow
def test_the_new_version_ends_the_process_of_both():
    app = f"{ROOT}/book/listings/labs/two_in_one.py:create_app"
    with servers.start(None, app) as server:
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{server.url}/predict", headers={"X-User": "new"})
        server.wait_ready()
        answer = requests.post(f"{server.url}/predict", headers={"X-User": "old"})
        assert answer.json() == {"version": "v1"}
