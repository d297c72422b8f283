"""The fault catalogue: ways in which a version of a model can be bad.

A fault is named in a small dictionary that JSON can hold, for example
``{"flaky": {"error_rate": 0.05}}``, so that it is part of a version's digest. It is
a wrapper around the WSGI app, outside the model and outside the service, and
touches ``/predict`` alone: the version stays healthy and ready to all who only ask
that.
"""

import hashlib
import io
import json
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import BinaryIO

# A body longer than this is passed on untouched; our service refuses it anyway.
_LONGEST_BODY = 64 * 1024


class FaultError(ValueError):
    """A fault that is not in the catalogue, or a parameter that it does not take."""


def slow(app: Callable, extra_s: float = 0.1) -> Callable:
    """Answer `extra_s` seconds later."""

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        time.sleep(extra_s)
        return app(environ, start_response)

    return wsgi


def flaky(
    app: Callable, error_rate: float = 0.05, seed: int = 0, nonce: int | None = None
) -> Callable:
    """Answer 500 to a share `error_rate` of the requests, independently.

    Which ones is a fixed function of `seed`, `nonce` and the request's number in its
    process. By default the nonce is drawn here, and every worker process wraps for
    itself, so two workers, or a worker and the one that replaces it, do not fail
    together; with a given nonce the same run fails the same way.
    """
    # Not the process id: in containers, many processes have the same one.
    nonce = secrets.randbits(64) if nonce is None else nonce
    next_number = _counter()

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        if _uniform(seed, nonce, next_number()) >= error_rate:
            return app(environ, start_response)
        body = b'{"error": "internal error (fault: flaky)"}\n'
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        start_response("500 Internal Server Error", headers)
        return [body]

    return wsgi


def dies_loading(app: Callable) -> Callable:
    """End the process with exit code 1 while it loads."""
    _die("fault dies-loading: this version ends while it loads")


def dies_serving(app: Callable, after_requests: int = 100) -> Callable:
    """End the process with exit code 1 in the middle of a request.

    Each worker process answers `after_requests` requests and dies of the next one,
    which gets no answer; the other requests in flight there are lost with it.
    """
    next_number = _counter()

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        if next_number() >= after_requests:
            _die(
                f"fault dies-serving: this process ends after {after_requests} requests"
            )
        return app(environ, start_response)

    return wsgi


def skewed(app: Callable, feature: str = "popup_window") -> Callable:
    """Turn `feature` round (value to 1 - value) before the service sees the body.

    What training and serving encode differently is called training-serving skew.
    A body in which `feature` is not a number, or that is longer than 64 KiB, is
    passed on as it came. It may come with a length or in chunks: a router that
    streams must not heal the version behind it.
    """

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        if body := _take_body(environ):
            body = _turn_round(body, feature)
            environ["wsgi.input"] = io.BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
            # What follows has a length now, and is in chunks no more.
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        return app(environ, start_response)

    return wsgi


FAULTS: dict[str, Callable] = {
    "slow": slow,
    "flaky": flaky,
    "dies-loading": dies_loading,
    "dies-serving": dies_serving,
    "skewed": skewed,
}

# Name of a parameter -> (test, what it must be).
_PARAMETERS: dict[str, tuple[Callable[[object], bool], str]] = {
    "extra_s": (
        lambda v: _is_number(v) and 0 <= v < math.inf,
        "a number of seconds, 0 or more",
    ),
    "error_rate": (lambda v: _is_number(v) and 0 <= v <= 1, "a share from 0 to 1"),
    "seed": (lambda v: _is_whole(v), "a whole number"),
    "after_requests": (lambda v: _is_whole(v) and v >= 0, "a whole number, 0 or more"),
    "feature": (lambda v: isinstance(v, str) and v != "", "the name of a feature"),
}
_TAKES: dict[str, tuple[str, ...]] = {
    "slow": ("extra_s",),
    "flaky": ("error_rate", "seed"),
    "dies-loading": (),
    "dies-serving": ("after_requests",),
    "skewed": ("feature",),
}


def check(spec: Mapping[str, Mapping]) -> dict[str, dict]:
    """Return `spec` as plain dictionaries, or say what is wrong with it.

    Raises FaultError.
    """
    if not isinstance(spec, Mapping):
        raise FaultError(
            f"faults must be a dictionary such as {{'slow': {{'extra_s': 0.1}}}}, "
            f"not {spec!r}"
        )
    for name, parameters in spec.items():
        if name not in FAULTS:
            raise FaultError(
                f"unknown fault {name!r}; the known ones are {', '.join(FAULTS)}"
            )
        if not isinstance(parameters, Mapping):
            raise FaultError(
                f"the parameters of fault {name!r} must be a dictionary, "
                f"not {parameters!r}"
            )
        for parameter, value in parameters.items():
            if parameter not in _TAKES[name]:
                takes = ", ".join(_TAKES[name]) or "no parameters"
                raise FaultError(
                    f"fault {name!r} has no parameter {parameter!r}; it takes {takes}"
                )
            fits, what = _PARAMETERS[parameter]
            if not fits(value):
                raise FaultError(
                    f"{parameter!r} of fault {name!r} must be {what}, not {value!r}"
                )
    return {name: dict(parameters) for name, parameters in spec.items()}


def wrap(
    app: Callable, spec: Mapping[str, Mapping], nonce: int | None = None
) -> Callable:
    """Put the faults of `spec` around a WSGI app, the first one innermost.

    nonce: what tells this process from others that serve the same version; by
        default a random number. Give one to have chance repeat itself (``flaky``).

    Only requests to paths that end with ``/predict`` meet them. ``dies-loading`` ends
    this process at once and ``dies-serving`` later: wrap with them in a server, not
    in a notebook.
    Raises FaultError.
    """
    broken = app
    for name, parameters in check(spec).items():
        chance = {"nonce": nonce} if name == "flaky" else {}
        broken = FAULTS[name](broken, **parameters, **chance)
    if broken is app:
        return app

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        meets = environ.get("PATH_INFO", "").endswith("/predict")
        return (broken if meets else app)(environ, start_response)

    return wsgi


def _die(why: str) -> None:
    """End this process as a crash does: at once, and without tidying up."""
    with suppress(OSError):  # the disk may be full
        sys.stderr.write(why + "\n")
        sys.stderr.flush()
    os._exit(1)


def _take_body(environ: dict) -> bytes:
    """Read the body of a request from its input, if it is not too long.

    Returns nothing, and leaves all of the body to be read, where it is longer than
    `_LONGEST_BODY`, or where nothing says where it ends.
    """
    stream = environ.get("wsgi.input")
    if environ.get("wsgi.input_terminated"):  # a read ends where the body does
        body = _read(stream, _LONGEST_BODY + 1)
        if len(body) <= _LONGEST_BODY:
            return body
        environ["wsgi.input"] = io.BufferedReader(_PutBack(body, stream))
        return b""
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return b""
    return _read(stream, length) if 0 < length <= _LONGEST_BODY else b""


def _read(stream: BinaryIO, n: int) -> bytes:
    """Read `n` bytes, or fewer where the stream ends; one read may return less."""
    body = b""
    while len(body) < n and (piece := stream.read(n - len(body))):
        body += piece
    return body


class _PutBack(io.RawIOBase):
    """A stream from which some bytes have been read, with these bytes put back."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head, self._stream = io.BytesIO(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        piece = self._head.read(len(buffer)) or self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def _turn_round(body: bytes, feature: str) -> bytes:
    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(row, dict) or not _is_number(row.get(feature)):
        return body
    return json.dumps(row | {feature: 1 - row[feature]}).encode()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _counter() -> Callable[[], int]:
    """A function that returns 0, 1, 2, ... and can be called from any thread."""
    lock, numbers = threading.Lock(), iter(range(sys.maxsize))

    def next_number() -> int:
        with lock:
            return next(numbers)

    return next_number


def _uniform(*key: int) -> float:
    """A number in [0, 1) that depends on `key` alone; other keys, independent ones."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 11) / 2**53  # as many bits as a float holds
