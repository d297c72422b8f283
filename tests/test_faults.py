"""Each fault does what the catalogue says, to /predict alone."""

import http.client
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from werkzeug.wrappers import Request

from deploylab import faults, servers

TINY = str(Path(__file__).with_name("tiny_service.py"))


def echo(environ: dict, start_response: Callable) -> list[bytes]:
    """A WSGI app that answers with the body it was sent."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


def ask(app: Callable, body: bytes = b"{}", path: str = "/predict") -> tuple:
    """Status and body of one request to a WSGI app."""
    environ = {
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }
    said = []
    answer = b"".join(app(environ, lambda status, headers: said.append(status)))
    return int(said[0].split()[0]), answer


def statuses(app: Callable, n: int) -> list[int]:
    return [ask(app)[0] for _ in range(n)]


def test_no_fault_leaves_the_app_as_it_is():
    assert faults.wrap(echo, {}) is echo


FLAKY_HALF = {"flaky": {"error_rate": 0.5}}


def failures(error_rate: float, nonce: int | None, n: int, seed: int = 0) -> list[bool]:
    """Which of the first `n` requests to one process fail."""
    spec = {"flaky": {"error_rate": error_rate, "seed": seed}}
    return [status == 500 for status in statuses(faults.wrap(echo, spec, nonce), n)]


# The statistical tests below have fixed seeds and nonces, so they never fail by luck;
# a right generator misses one bound of six standard deviations with chance 2e-9, and
# any of all these bounds (fewer than 50) with chance below 1e-7.


@pytest.mark.parametrize("nonce", range(8))
def test_flaky_fails_the_share_it_names(nonce: int):
    n, rate = 20_000, 0.05
    failed = failures(rate, nonce, n)
    assert abs(sum(failed) - n * rate) < 6 * math.sqrt(n * rate * (1 - rate))


def test_flaky_errors_are_spread_as_independent_ones_are():
    failed = failures(0.5, nonce=1, n=20_000)
    # Runs in 20,000 fair coin tosses: mean n/2, standard deviation sqrt(n)/2.
    runs = 1 + sum(a != b for a, b in pairwise(failed))
    assert abs(runs - 10_000) < 6 * math.sqrt(20_000) / 2


@pytest.mark.parametrize("lag", [0, 1])
def test_flaky_processes_fail_independently(lag: int):
    """Two workers, or a worker and the one that replaces it, share no sequence."""
    n = 5_000
    of_process = [failures(0.5, nonce, n + lag) for nonce in range(5)]
    for one, other in combinations(of_process, 2):
        agree = sum(a == b for a, b in zip(one[lag:], other[:n], strict=True))
        assert abs(agree - n / 2) < 6 * math.sqrt(n) / 2


def test_flaky_repeats_itself_where_the_nonce_is_fixed():
    assert failures(0.5, nonce=1, n=200) == failures(0.5, nonce=1, n=200)
    assert failures(0.5, nonce=1, n=200) != failures(0.5, nonce=1, n=200, seed=1)


def test_flaky_repeats_itself_nowhere_else():
    # That two right sequences of 200 tosses are equal has chance 2 ** -200.
    assert failures(0.5, None, 200) != failures(0.5, None, 200)


@pytest.mark.slow
def test_a_restarted_flaky_server_fails_other_requests():
    runs = []
    for _ in range(2):
        with servers.start(None, f"{TINY}:at_once", faults=FLAKY_HALF) as server:
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            said = []
            for _ in range(200):
                headers = {"Content-Type": "application/json"}
                client.request("POST", "/predict", b"{}", headers)
                answer = client.getresponse()
                answer.read()
                said.append(answer.status)
            client.close()
        assert set(said) == {200, 500}
        runs.append(said)
    assert runs[0] != runs[1]  # equal by luck: 2 ** -200


@pytest.mark.parametrize(("rate", "status"), [(0, 200), (0.0, 200), (1, 500)])
def test_flaky_at_its_ends(rate: float, status: int):
    app = faults.wrap(echo, {"flaky": {"error_rate": rate}})
    assert set(statuses(app, 500)) == {status}


def test_slow_waits_first(monkeypatch: pytest.MonkeyPatch):
    waits = []
    monkeypatch.setattr(faults.time, "sleep", waits.append)
    assert ask(faults.wrap(echo, {"slow": {"extra_s": 0.25}}))[0] == 200
    assert waits == [0.25]


@pytest.mark.parametrize(("value", "seen"), [(0, 1), (0.5, 0.5), (1.0, 0.0)])
def test_skewed_turns_its_feature_round(value: float, seen: float):
    app = faults.wrap(echo, {"skewed": {"feature": "popup_window"}})
    body = json.dumps({"popup_window": value, "other": 1}).encode()
    assert json.loads(ask(app, body)[1]) == {"popup_window": seen, "other": 1}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[1, 2]",
        b"null",
        b'{"popup_window": "1"}',
        b'{"popup_window": null}',
        b'{"popup_window": true}',
        b'{"other": 1}',
        b"[" * 100_000,
        b'{"popup_window": ' + b"9" * 10_000 + b"}",
        b'{"popup_window": 1, "pad": "' + b"x" * (1 << 20) + b'"}',
        b"\xff\xfe",
    ],
)
def test_skewed_passes_on_what_it_cannot_turn(body: bytes):
    app = faults.wrap(echo, {"skewed": {"feature": "popup_window"}})
    assert ask(app, body) == (200, body)


def stream(environ: dict, start_response: Callable) -> list[bytes]:
    """A WSGI app that answers with all that its input holds, as Flask reads it."""
    asked = Request(environ)
    start_response("200 OK", [("Length", asked.content_length)])
    return [asked.get_data()]


def ask_in_chunks(app: Callable, body: bytes) -> tuple[bytes, int | None]:
    """Body and length that the app saw of a chunked request (None: in chunks)."""

    class Pieces(io.RawIOBase):  # may return less than it is asked for
        def __init__(self) -> None:
            self.left = body

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:
            n = min(len(buffer), 1000, len(self.left))
            buffer[:n], self.left = self.left[:n], self.left[n:]
            return n

    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/predict",
        "HTTP_TRANSFER_ENCODING": "chunked",
        "wsgi.input": Pieces(),
        "wsgi.input_terminated": True,
    }
    said = []
    answer = b"".join(app(environ, lambda status, headers: said.extend(headers)))
    return answer, said[0][1]


def test_skewed_turns_a_chunked_body_round():
    app = faults.wrap(stream, {"skewed": {"feature": "f"}})
    body = b'{"f": 1, "pad": "' + b"x" * 5_000 + b'"}'
    answer, length = ask_in_chunks(app, body)
    assert answer == body.replace(b'"f": 1', b'"f": 0')
    assert length == len(answer)


def test_skewed_passes_on_a_long_chunked_body_whole():
    app = faults.wrap(stream, {"skewed": {"feature": "f"}})
    body = b'{"f": 1, "pad": "' + bytes(range(48, 58)) * 20_000 + b'"}'
    assert ask_in_chunks(app, body) == (body, None)


def test_skewed_reads_no_input_whose_end_it_cannot_know():
    """Without a length, and where the server does not end it, a read would hang."""
    app = faults.wrap(lambda e, s: [], {"skewed": {"feature": "f"}})
    environ = {"PATH_INFO": "/predict", "HTTP_TRANSFER_ENCODING": "chunked"}
    assert app(environ | {"wsgi.input": None}, None) == []


@pytest.mark.slow
def test_a_server_skews_whatever_way_the_body_comes():
    spec = {"skewed": {"feature": "f"}}
    with servers.start(None, f"{TINY}:at_once", faults=spec) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        headers = {"Content-Type": "application/json"}
        for chunked in [False, True] * 2:
            body = iter([b'{"f"', b": 1}"]) if chunked else b'{"f": 1}'
            client.request("POST", "/predict", body, headers)
            answer = client.getresponse()
            assert json.loads(answer.read())["asked"] == {"f": 0}
            assert answer.headers["Connection"] != "close"
        # Longer than the fault reads, shorter than the service refuses: untouched.
        pad = "x" * 200_000
        body = iter([b'{"f": 1, "pad": "', pad.encode(), b'"}'])
        client.request("POST", "/predict", body, headers)
        answer = client.getresponse()
        assert json.loads(answer.read())["asked"] == {"f": 1, "pad": pad}
        client.close()


@pytest.mark.parametrize("length", ["", "x", "-5"])
def test_skewed_survives_a_wrong_content_length(length: str):
    app = faults.wrap(lambda e, s: [], {"skewed": {"feature": "f"}})
    environ = {"PATH_INFO": "/predict", "CONTENT_LENGTH": length}
    assert app(environ, None) == []


@pytest.mark.parametrize(
    "spec",
    [FLAKY_HALF, {"skewed": {"feature": "f"}}, {"dies-serving": {"after_requests": 0}}],
)
def test_faults_touch_nothing_but_predict(spec: dict):
    app = faults.wrap(echo, spec)
    body = b'{"f": 1}'
    assert {ask(app, body, path) for path in ["/ready", "/health"] * 50} == {
        (200, body)
    }


@pytest.mark.parametrize(
    ("path", "meets"),
    [
        ("/predict", True),
        ("/v2/predict", True),
        ("/models/v2/predict", True),
        ("/predict/", False),
        ("/predict/all", False),
        ("/unpredict", False),
        ("predict", False),
        ("/", False),
        ("", False),
    ],
)
def test_faults_touch_every_path_that_ends_with_predict(path: str, meets: bool):
    app = faults.wrap(echo, {"flaky": {"error_rate": 1}})
    assert ask(app, path=path)[0] == (500 if meets else 200)


def test_faults_compose():
    spec = {"skewed": {"feature": "f"}, "flaky": {"error_rate": 0.5}}
    app = faults.wrap(echo, spec)
    answers = {ask(app, b'{"f": 1}') for _ in range(50)}
    assert (200, b'{"f": 0}') in answers
    assert any(status == 500 for status, _ in answers)


DIES = """
import sys
sys.path.insert(0, {tests!r})
from test_faults import ask, echo
from deploylab import faults
app = faults.wrap(echo, {spec!r})
for i in range(10):
    ask(app)
    print("answered", i, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "answered"),
    [({"dies-loading": {}}, 0), ({"dies-serving": {"after_requests": 3}}, 3)],
)
def test_deaths(spec: dict, answered: int):
    code = DIES.format(tests=os.path.dirname(__file__), spec=spec)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.count("answered") == answered
    assert done.stderr.startswith(f"fault {next(iter(spec))}: this ")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"slwo": {}},
            "unknown fault 'slwo'; the known ones are slow, flaky, dies-loading, "
            "dies-serving, skewed",
        ),
        ({"slow": {"seconds": 1}}, "no parameter 'seconds'; it takes extra_s"),
        ({"dies-loading": {"x": 1}}, "no parameter 'x'; it takes no parameters"),
        ({"flaky": {"error_rate": 1.5}}, "must be a share from 0 to 1, not 1.5"),
        ({"flaky": {"error_rate": math.nan}}, "must be a share from 0 to 1, not nan"),
        ({"flaky": {"error_rate": True}}, "must be a share from 0 to 1, not True"),
        ({"slow": {"extra_s": -1}}, "must be a number of seconds, 0 or more"),
        ({"slow": {"extra_s": math.inf}}, "must be a number of seconds, 0 or more"),
        ({"dies-serving": {"after_requests": 2.5}}, "must be a whole number"),
        ({"skewed": {"feature": ""}}, "must be the name of a feature"),
        ({"slow": 0.1}, "must be a dictionary, not 0.1"),
        ("slow", "faults must be a dictionary"),
        (["slow"], "faults must be a dictionary"),
    ],
)
def test_what_is_not_in_the_catalogue_is_refused(spec: object, message: str):
    with pytest.raises(faults.FaultError) as refused:
        faults.wrap(echo, spec)
    assert message in str(refused.value)


def test_every_fault_has_its_parameters_described():
    assert set(faults._TAKES) == set(faults.FAULTS)
    used = {name for names in faults._TAKES.values() for name in names}
    assert used == set(faults._PARAMETERS)


def test_the_spec_survives_json():
    spec = {"flaky": {"error_rate": 0.05}, "slow": {"extra_s": 0.1}}
    assert json.loads(json.dumps(faults.check(spec))) == spec
