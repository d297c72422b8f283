"""The model swapped under load: nothing fails, nothing is torn, nothing goes back."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import requests

from deploylab import ROOT, answers, artifacts, phishing, servers, traffic
from deploylab.answers import Answer, Released, violations

sys.path.insert(0, str(ROOT / "book" / "listings"))

import swapping_service

LISTING = "book/listings/swapping_service.py:create_app"
GOOD = dict.fromkeys(phishing.CONTRACT.names, 0.5) | {"ip_in_url": 1}


# -- the rule, over logs made by hand ----------------------------------------------

FIRST = Released(1, 10, "aa", moved_s=0, confirmed_s=1)
SECOND = Released(2, 20, "bb", moved_s=5, confirmed_s=6)


def of(release, sent_s, took_s=0.1, worker=1, status=200, **changes):
    answer = Answer(
        sent_s, sent_s + took_s, status, release.sequence, release.number,
        release.digest, worker,
    )  # fmt: skip
    return answer._replace(**changes)


def broken(*log):
    return violations(log, [FIRST, SECOND])


def test_a_clean_swap_breaks_no_rule():
    assert broken(of(FIRST, 2), of(FIRST, 5.1), of(SECOND, 5.3), of(SECOND, 7)) == []
    # Two workers may differ until the move is confirmed, and a request that was sent
    # before that may be answered after it.
    assert broken(of(SECOND, 5.2, worker=2), of(FIRST, 5.9, took_s=2)) == []


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        (of(FIRST, 2, status=503), "not answered with 200"),
        (of(FIRST, 2, status=0), "not answered with 200"),
        (of(FIRST, 2, sequence=7), "nobody released"),
        (of(FIRST, 2, number=20), "does not mean"),
        (of(FIRST, 2, digest="bb"), "does not mean"),
        (of(SECOND, 2), "not meant yet"),
        (of(FIRST, 6.5), "older than what was confirmed"),
    ],
)
def test_each_broken_rule_is_named(answer, rule):
    said = broken(of(FIRST, 1.5), answer)
    assert len(said) == 1
    assert rule in said[0]
    assert said[0].startswith("1 of 2")


def test_a_worker_that_goes_back_is_found():
    forth_and_back = of(SECOND, 5.2), of(FIRST, 5.5)
    assert "their worker had answered before" in broken(*forth_and_back)[0]
    other_worker = of(SECOND, 5.2), of(FIRST, 5.5, worker=2)
    assert broken(*other_worker) == []
    side_by_side = of(SECOND, 5.2), of(FIRST, 5.15, took_s=1)
    assert broken(*side_by_side) == []


# -- what follows, without a server ------------------------------------------------


@pytest.fixture
def follower(truth, tmp_path):
    from deploylab.registry import Reader

    reader = Reader(truth.folder)
    home, promised = tmp_path / "home", phishing.CONTRACT
    return swapping_service.Follower(reader, home, iter([]), promised)


@pytest.mark.slow
def test_it_follows_forth_and_back_and_never_to_an_older_move(truth, built, follower):
    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])
    seen = []
    for number in (one, two, one):
        truth.set_alias("champion", number, "ana")
        follower.look()
        seen.append((follower.live.sequence, follower.live.champion.number))
    assert seen == [(1, one), (2, two), (3, one)]
    current = follower.live
    old = follower.reader.pointers()
    follower.reader.pointers = lambda: type(old)(2, {"champion": two}, 0.0)
    follower.look()  # a registry that was restored from an older copy, say
    assert follower.live is current


@pytest.mark.slow
def test_a_model_that_stays_is_not_loaded_again(truth, built, follower):
    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", one, "ana")
    follower.look()
    champion = follower.live.champion
    truth.set_alias("candidate", two, "ana")
    truth.set_share(0.5, "ana")
    follower.look()
    assert follower.live.champion is champion
    assert follower.live.candidate.number == two
    assert follower.live.share == 0.5


@pytest.mark.slow
def test_shares_grow_without_tossing_users_back(truth, built, follower):
    truth.set_alias("champion", truth.publish(built["v1"]), "ana")
    truth.set_alias("candidate", truth.publish(built["v2"]), "ana")
    got = []
    for share in (0.0, 0.1, 0.6, 1.0):
        truth.set_share(share, "ana")
        follower.look()
        choose = follower.live.model_for
        got.append({u for u in range(2000) if choose(str(u)).name == "v2"})
        # Binomial, n = 2000: six standard deviations, false alarm below 1e-8; the
        # hash is fixed, so this passes always or never.
        assert abs(len(got[-1]) - 2000 * share) <= 6 * math.sqrt(500)
        assert choose(None).name == "v1"
    assert got[0] == set() <= got[1] <= got[2] <= got[3] == set(range(2000))


def no_champion(truth, folders, tmp_path):
    truth.delete_alias("champion", "eve")


def another_contract(truth, folders, tmp_path):
    truth.set_alias("champion", truth.publish(folders["v3-contract"]), "eve")


def cut_short(truth, folders, tmp_path):
    number = truth.publish(folders["v2"])
    truth.set_alias("champion", number, "eve")
    file = artifacts.read(truth.published(number).folder).file
    file.write_bytes(file.read_bytes()[:1000])


def a_pickle(truth, folders, tmp_path):
    version = phishing.version("v1")
    saved = artifacts.save(version, tmp_path / "code", format="pickle")
    number = truth.publish(saved.folder, trust=saved.sha256)
    truth.set_alias("champion", number, "eve")


def other_scores(truth, folders, tmp_path):
    number = truth.publish(folders["v2"], rows=[[0.0] * 8], scores=[0.123])
    truth.set_alias("champion", number, "eve")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (no_champion, "no version has the alias champion"),
        (another_contract, "phishing-9 breaks phishing-8 at age_of_domain"),
        (cut_short, "has SHA-256"),
        (a_pickle, "runs whatever code"),
        (other_scores, "does not compute here"),
    ],
)
def test_what_is_refused_leaves_the_old_version_live(
    truth, built, follower, tmp_path, spoil, reason
):  # fmt: skip
    good = truth.publish(built["v1"])
    truth.set_alias("champion", good, "ana")
    follower.look()
    live = follower.live
    spoil(truth, built, tmp_path)
    with pytest.raises(swapping_service.Refused, match=reason):
        follower.look()
    assert follower.live is live
    assert reason in follower.refused[1]
    follower.look()  # known to be bad: not tried again
    again = truth.publish(built["v2"]) if spoil is not cut_short else good
    truth.set_alias("champion", good if spoil is no_champion else again, "ana")
    if spoil is not other_scores:
        follower.look()
        assert follower.live.sequence == truth.pointers().sequence
        assert follower.refused == (0, "")


@pytest.mark.slow
def test_a_worker_that_starts_refuses_what_its_siblings_refuse(truth, built, follower):
    another_contract(truth, built, None)
    with pytest.raises(swapping_service.Refused, match="phishing-9 breaks phishing-8"):
        follower.look()
    assert follower.live is None


@pytest.mark.slow
def test_a_wider_contract_leaves_the_way_back_open(truth, built, follower, tmp_path):
    version = phishing.version("v2")
    first, *others = version.contract.features
    wider = replace(first, values=(*first.values, 0.25))
    contract = replace(version.contract, features=(wider, *others))
    saved = artifacts.save(replace(version, contract=contract), tmp_path / "wider")
    for number in (truth.publish(saved.folder), truth.publish(built["v1"])):
        truth.set_alias("champion", number, "ana")
        follower.look()
        assert follower.live.champion.number == number


def test_another_meaning_is_another_contract():
    first, *others = phishing.CONTRACT.features
    turned = replace(first, meaning="the other way round")
    new = replace(phishing.CONTRACT, features=(turned, *others))
    with pytest.raises(swapping_service.Refused, match=first.name):
        swapping_service.need_kept(phishing.CONTRACT, new)
    swapping_service.need_kept(phishing.CONTRACT, phishing.CONTRACT)


@pytest.mark.slow
def test_a_bad_candidate_does_not_hold_up_the_champion(truth, built, follower):
    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", two, "ana")
    truth.set_share(0.5, "ana")
    truth.set_alias("candidate", truth.publish(built["v3-contract"]), "eve")
    for number in (two, one):
        truth.set_alias("champion", number, "ana")
        follower.look()
        live = follower.live
        assert (live.champion.number, live.candidate) == (number, None)
        assert "phishing-9 breaks" in follower.refused[1]
    truth.delete_alias("candidate", "ana")
    follower.look()
    assert follower.refused == (0, "")


@pytest.mark.slow
def test_a_candidate_that_was_mended_is_taken_after_a_while(truth, built, follower):
    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", one, "ana")
    truth.set_alias("candidate", two, "ana")
    truth.set_share(0.5, "ana")
    file = artifacts.read(truth.published(two).folder).file
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    follower.look()
    live = follower.live
    assert (live.champion.number, live.candidate) == (one, None)
    follower.refused_s -= swapping_service.AGAIN_S
    follower.look()  # not mended yet
    assert follower.live.candidate is None
    assert follower.refused[0] == live.sequence
    file.write_bytes(whole)
    follower.look()  # too soon
    assert follower.live.candidate is None
    follower.refused_s -= swapping_service.AGAIN_S
    follower.look()
    assert follower.live.candidate.number == two
    assert follower.live.sequence == live.sequence
    assert follower.live.champion is live.champion
    assert follower.refused == (0, "")
    again = follower.live
    follower.look()
    assert follower.live is again


@pytest.mark.slow
def test_a_left_out_candidate_is_no_way_to_an_older_move(
    truth, built, follower, monkeypatch
):
    follower.look()  # nothing is meant yet
    assert (follower.live, follower.refused) == (None, (0, ""))
    truth.set_alias("champion", truth.publish(built["v1"]), "ana")
    truth.set_alias("candidate", truth.publish(built["v3-contract"]), "eve")
    follower.look()
    live, meant = follower.live, truth.pointers()
    assert follower.refused[0] == live.sequence == meant.sequence
    older = replace(meant, sequence=meant.sequence - 1)
    monkeypatch.setattr(follower.reader, "pointers", lambda: older)
    follower.refused_s -= swapping_service.AGAIN_S
    follower.look()
    assert follower.live is live


@pytest.mark.slow
def test_what_was_mended_in_place_is_taken_after_a_while(truth, built, follower):
    number = truth.publish(built["v1"])
    truth.set_alias("champion", number, "ana")
    file = artifacts.read(truth.published(number).folder).file
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(swapping_service.Refused):
        follower.look()
    file.write_bytes(whole)
    follower.look()  # too soon
    assert follower.live is None
    follower.refused_s -= swapping_service.AGAIN_S
    follower.look()
    assert follower.live.champion.number == number


# -- in real servers ---------------------------------------------------------------


def environment(truth, tmp_path, hub=None):
    promised = tmp_path / "contract.json"
    promised.write_text(json.dumps(phishing.CONTRACT.as_json()))
    env = {
        "MODEL_REGISTRY": str(truth.folder),
        "MODEL_HOME": str(tmp_path / "home"),
        "MODEL_CONTRACT": str(promised),
        "MODEL_LOOK_S": "5" if hub else "0.05",
    }
    return env | ({"MODEL_EVENTS": hub.url} if hub else {})


def status(server):
    return requests.get(server.url + "/status", timeout=30).json()


class Releases:
    """Moves of champion, each confirmed by all workers of a server."""

    def __init__(self, truth, server, bus=None, must_confirm=True):
        self.truth, self.server, self.bus = truth, server, bus
        self.must_confirm = must_confirm
        self.log = []

    def release(self, number):
        moved_s = time.monotonic()
        meant = self.truth.set_alias("champion", number, "ana")
        if self.bus:  # late, forged, and twice: events are hints, and do no harm
            for sequence in (1, 10**9, meant.sequence, meant.sequence):
                self.bus.xadd("model-events", {"sequence": sequence, "number": 99})
        deadline = moved_s + 120
        expected = [meant.sequence] * self.server.workers
        while [worker["sequence"] for worker in status(self.server)] != expected:
            assert time.monotonic() < deadline, status(self.server)
            time.sleep(0.005)
        digest = self.truth.published(number).digest[:12]
        self.log.append(
            Released(meant.sequence, number, digest, moved_s, time.monotonic())
        )


def bodies():
    rows = phishing.split().test[phishing.CONTRACT.names]
    return traffic.bodies(np.random.default_rng(11), rows, 300)


def swap_under_load(releases, numbers, swaps, n_requests):
    one, two = numbers
    releases.release(one)
    with answers.Asking(releases.server.url, bodies(), connections=4) as asking:
        for i in range(swaps):
            asking.wait_for(n_requests // (swaps + 1), timeout_s=600)
            releases.release(one if i % 2 else two)
        missing = n_requests - len(asking.log)
        asking.wait_for(max(missing, 20), timeout_s=600)
    return asking.log


def must_be_right(log, releases, truth, numbers):
    """No rule broken, and every score is that of the version the answer names."""
    assert violations(log, releases) == []
    sent = [list(phishing.CONTRACT.parse(body)) for body in bodies()]
    right = {
        number: artifacts.load(truth.published(number).folder).score(sent)
        for number in numbers
    }
    for answer in log:
        assert abs(answer.probability - right[answer.number][answer.row]) < 1e-6
    assert {answer.number for answer in log} == set(numbers)


def check_swaps(truth, built, tmp_path, workers, swaps, n, hub=None, bus=None):
    numbers = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", numbers[1], "ana")
    env = environment(truth, tmp_path, hub)
    with servers.start(None, LISTING, workers=workers, env=env) as server:
        releases = Releases(truth, server, bus)
        log = swap_under_load(releases, numbers, swaps, n)
    must_be_right(log, releases.log, truth, numbers)
    assert len(log) >= n
    return log


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_swaps_by_polling_lose_nothing(truth, built, tmp_path, workers):
    check_swaps(truth, built, tmp_path, workers, swaps=4, n=300)


@pytest.mark.slow
def test_swaps_by_event_lose_nothing(truth, built, tmp_path, hub, bus):
    check_swaps(truth, built, tmp_path, 2, 4, 300, hub, bus)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_hundred_thousand_requests_over_fifty_swaps(
    truth, built, tmp_path, hub, bus, workers
):  # fmt: skip
    log = check_swaps(truth, built, tmp_path, workers, 50, 100_000, hub, bus)
    failed = sum(answer.status != 200 for answer in log)
    print(f"\n{len(log):,} requests, 50 swaps, {workers} workers: {failed} failed")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "rule"),
    [("torn", "does not mean"), ("backwards", "older than what")],
)
def test_planted_faults_are_found(truth, built, tmp_path, fault, rule):
    numbers = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", numbers[0], "ana")
    env = environment(truth, tmp_path)
    app = f"tests/torn_service.py:{fault}"
    with servers.start(None, app, env=env) as server:
        releases = Releases(truth, server)
        releases.release(numbers[0])
        with answers.Asking(server.url, bodies(), connections=4) as asking:
            asking.wait_for(50)
            releases.release(numbers[1])
            deadline = time.monotonic() + 30
            while not any(
                rule in said for said in violations(asking.log, releases.log)
            ):
                assert time.monotonic() < deadline, "the planted fault was not seen"
                time.sleep(0.05)


@pytest.mark.slow
def test_it_goes_on_without_broker_and_registry(truth, built, tmp_path, hub, bus):
    from deploylab import broker

    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", two, "ana")
    env = environment(truth, tmp_path, hub)
    with servers.start(None, LISTING, env=env) as server:
        releases = Releases(truth, server, bus)
        releases.release(one)
        with answers.Asking(server.url, bodies(), connections=2) as asking:
            hub.stop()
            releases.bus = None
            releases.release(two)  # found without being told
            moved = truth.folder.with_name("away")
            truth.folder.rename(moved)
            asking.wait_for(50)
            moved.rename(truth.folder)
            with broker.start(port=hub.port):
                releases.bus = bus
                releases.release(one)  # told again
                asking.wait_for(50)
        assert violations(asking.log, releases.log) == []


@pytest.mark.slow
def test_without_a_model_it_is_not_ready_and_says_so(truth, built, tmp_path):
    env = environment(truth, tmp_path)
    with servers.start(None, LISTING, env=env, wait=False) as server:
        deadline = time.monotonic() + 60
        while not server.health():
            server.check()
            assert time.monotonic() < deadline
        assert not server.ready()
        post = requests.post(server.url + "/predict", json=GOOD, timeout=30)
        assert post.status_code == 503
        truth.set_alias("champion", truth.publish(built["v1"]), "ana")
        server.wait_ready(60)
        answer = requests.post(server.url + "/predict", json=GOOD, timeout=30)
        assert (answer.status_code, answer.json()["version"]) == (200, "v1")
        assert answer.headers["X-Model-Version"] == "v1"
        bad = requests.post(server.url + "/predict", data=b"null", timeout=30)
        assert bad.status_code == 422
        huge = requests.post(server.url + "/predict", data=b"x" * 20_000, timeout=30)
        assert huge.status_code == 413
