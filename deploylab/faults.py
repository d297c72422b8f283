"""The fault catalogue: ways in which a version of a model can be bad.

A fault is named in a small dictionary that JSON can hold, for example
``{"flaky": {"error_rate": 0.05}}``, so that it is part of a version's digest. It is
a wrapper around the WSGI app, outside the model and outside the service, and
touches ``/predict`` alone: the version stays healthy and ready to all who only ask
that.
"""

import io
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

# A body longer than this is passed on untouched; the service refuses it anyway.
_LONGEST_BODY = 1 << 20


class FaultError(ValueError):
    """A fault that is not in the catalogue, or a parameter that it does not take."""


def slow(app: Callable, extra_s: float = 0.1) -> Callable:
    """Answer `extra_s` seconds later."""

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        time.sleep(extra_s)
        return app(environ, start_response)

    return wsgi


def flaky(app: Callable, error_rate: float = 0.05, seed: int = 0) -> Callable:
    """Answer 500 to a share `error_rate` of the requests, independently.

    Which ones is a fixed function of `seed` and of the request's number in its
    worker process, so the same run fails the same way.
    """
    next_number = _counter()

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        if _uniform(seed, next_number()) >= error_rate:
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
    A body in which `feature` is not a number is passed on as it came.
    """

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        try:
            length = int(environ.get("CONTENT_LENGTH") or 0)
        except ValueError:
            length = 0
        if 0 < length <= _LONGEST_BODY:
            body = _turn_round(environ["wsgi.input"].read(length), feature)
            environ["wsgi.input"] = io.BytesIO(body)
            environ["CONTENT_LENGTH"] = str(len(body))
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


def wrap(app: Callable, spec: Mapping[str, Mapping]) -> Callable:
    """Put the faults of `spec` around a WSGI app, the first one innermost.

    Only requests to ``/predict`` meet them. ``dies-loading`` ends this process at
    once and ``dies-serving`` later: wrap with them in a server, not in a notebook.
    Raises FaultError.
    """
    broken = app
    for name, parameters in check(spec).items():
        broken = FAULTS[name](broken, **parameters)
    if broken is app:
        return app

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        meets = environ.get("PATH_INFO") == "/predict"
        return (broken if meets else app)(environ, start_response)

    return wsgi


def _die(why: str) -> None:
    """End this process as a crash does: at once, and without tidying up."""
    with suppress(OSError):  # the disk may be full
        sys.stderr.write(why + "\n")
        sys.stderr.flush()
    os._exit(1)


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


def _uniform(seed: int, number: int) -> float:
    """A number in [0, 1) that depends on `seed` and `number` alone (SplitMix64)."""
    mask = (1 << 64) - 1
    z = (seed * 0xD1342543DE82EF95 + (number + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return (z ^ (z >> 31)) / 2**64
