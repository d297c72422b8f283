"""The phishing service for strangers: identity, keys, limits, deadlines, metrics."""

import hashlib
import hmac
import json
import logging
import math
import os
import re
import secrets
import sys
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import phishing_service
from flask import Flask, Response, abort, g, request
from flask_limiter import Limiter
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    multiprocess,
)
from werkzeug.exceptions import GatewayTimeout, HTTPException, ServiceUnavailable

from deploylab import artifacts
from deploylab.contract import ContractError

OPEN = {"health", "ready", "openapi"}  # routes that need no key
NOBODY = {"sha256": "0" * 64, "routes": []}
SANE_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

ANSWERS = Counter("answers", "Answers given", ["route", "status"])
SECONDS = Histogram("answer_seconds", "Time in the application", ["route"])
log = logging.getLogger("guarded_service")


def create_app(artifact: str, trust: str | None = None) -> Flask:
    """The service for the artifact folder; its settings come from the environment."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = int(os.environ.get("MAX_BODY_BYTES", "4096"))
    described = artifacts.read(artifact)
    model = ModelInTime(artifact, trust or os.environ.get("MODEL_SHA256"))
    account_for_requests(app)  # first, so that a refusal is accounted for as well
    ask_for_key(app, json.loads(Path(os.environ["API_KEYS"]).read_text()))
    limit_rate(app, os.environ.get("RATE_LIMIT", "1000 per second"))
    limit_time(app, most_s())
    phishing_service.add_probes(app, model)
    phishing_service.add_prediction(app, model, described)
    app.view_functions["openapi"] = lambda: openapi(described)
    add_metrics(app)
    app.register_error_handler(ContractError, phishing_service.refuse)
    app.register_error_handler(HTTPException, phishing_service.explain)
    return app


# -- which request is this, and what became of it ----------------------------------


def account_for_requests(app: Flask) -> None:
    """Give each request an id; count it, time it and write one line about it."""
    log_to_stderr()

    @app.before_request
    def begin():
        g.began = time.perf_counter()
        g.client = None
        g.id = sane(request.headers.get("X-Request-ID")) or uuid.uuid4().hex

    @app.after_request
    def account(response: Response) -> Response:
        seconds = time.perf_counter() - g.began
        route = request.url_rule.rule if request.url_rule else "none"
        ANSWERS.labels(route, response.status_code).inc()
        SECONDS.labels(route).observe(seconds)
        response.headers["X-Request-ID"] = g.id
        line = {
            "id": g.id,
            "question": sane(request.headers.get("Idempotency-Key")),
            "client": g.client,
            "route": route,
            "status": response.status_code,
            "ms": round(1000 * seconds, 2),
        }
        log.info(json.dumps(line))
        return response


def sane(text: str | None) -> str | None:
    """An id that a caller has sent, if it is one that can go into a log."""
    return text if text and SANE_ID.fullmatch(text) else None


def log_to_stderr() -> None:
    """One JSON object a line, and nothing else on it."""
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
        log.setLevel(logging.INFO)
        log.propagate = False


def add_metrics(app: Flask) -> None:
    """What Prometheus reads: of all workers, if they share a folder."""

    @app.get("/metrics")
    def metrics():
        registry = REGISTRY
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


# -- who is asking -----------------------------------------------------------------


def make_key(client: str) -> tuple[str, str]:
    """A new key, which its holder gets once, and its hash, which is what we keep."""
    secret = secrets.token_urlsafe(32)
    return f"{client}.{secret}", hashlib.sha256(secret.encode()).hexdigest()


def holder(header: str, keys: dict) -> str | None:
    """The client whose key is in an Authorization header; None if it is nobody's."""
    scheme, _, key = header.partition(" ")
    client, _, secret = key.partition(".")
    kept = keys.get(client, NOBODY)["sha256"]
    given = hashlib.sha256(secret.encode()).hexdigest()
    matches = hmac.compare_digest(given, kept)  # takes as long wherever they differ
    return client if matches and scheme.lower() == "bearer" else None


def ask_for_key(app: Flask, keys: dict) -> None:
    """401 for whom we do not know, 403 for whom we know and do not let in here."""

    @app.before_request
    def authenticate():
        if request.endpoint is None or request.endpoint in OPEN:
            return
        g.client = holder(request.headers.get("Authorization", ""), keys)
        if g.client is None:
            error = HTTPException("a known key is needed: Authorization: Bearer ...")
            error.code = 401
            error.get_headers = lambda *_: [("WWW-Authenticate", "Bearer")]
            raise error
        if request.endpoint not in keys[g.client]["routes"]:
            abort(403, "this key is not for this address")


# -- how much, and for how long ----------------------------------------------------


def limit_rate(app: Flask, limit: str) -> None:
    """Predictions a client may ask for; 429 with Retry-After beyond that.

    RATE_STORE may name a store that all workers share, with a limit to its own time:
    ``redis://host:6379/0?socket_timeout=0.1``.
    """
    limiter = Limiter(
        lambda: g.client,
        app=app,
        default_limits=[limit],
        default_limits_exempt_when=lambda: request.endpoint != "predict",
        strategy="moving-window",
        storage_uri=os.environ.get("RATE_STORE", "memory://"),
        in_memory_fallback_enabled=True,  # a store that is gone stops nobody
    )

    @app.errorhandler(429)
    def too_many(error: HTTPException) -> Response:
        error.description = f"more than {limit}"
        response = phishing_service.explain(error)
        wait_s = limiter.current_limit.reset_at - time.time()
        response.headers["Retry-After"] = str(max(1, math.ceil(wait_s)))
        return response


def most_s() -> float:
    """What the service grants a request at most."""
    return float(os.environ.get("DEADLINE_S", "2"))


def limit_time(app: Flask, most_s: float) -> None:
    """The deadline of a request: what the caller grants, and no more than `most_s`."""

    @app.before_request
    def set_deadline():
        granted = request.headers.get("X-Timeout-Ms", "999999")
        if not re.fullmatch("[0-9]{1,6}", granted):
            abort(400, "X-Timeout-Ms must be a whole number of milliseconds")
        g.deadline = time.monotonic() + min(most_s, int(granted) / 1000)


class ModelInTime(phishing_service.BackgroundModel):
    """A model whose scorer keeps the deadline of the request that it works for."""

    def load(self, artifact: str, trust: str | None) -> None:
        super().load(artifact, trust)
        if self.scorer:
            slots = int(os.environ.get("SLOTS", "2"))
            self.scorer = InTime(self.scorer, slots, most_s())


class InTime:
    """Scores at most `slots` requests at once, each until its deadline.

    A request that gets no slot in half its time is refused with 503: nothing was done,
    so it may come again. One whose deadline passes while it is scored gets 504. Python
    cannot stop its thread, which keeps the slot until it ends. Once every slot has been
    kept for longer than `most_s`, requests are refused at once: whoever waits for a
    slot holds a thread of the server's, and the probes need one too.
    """

    def __init__(self, scorer: artifacts.Scorer, slots: int, most_s: float):
        self.scorer, self.slots, self.most_s = scorer, slots, most_s
        self.began = {}  # what is being scored, and since when
        self.free = threading.BoundedSemaphore(slots)
        self.threads = ThreadPoolExecutor(slots)

    def score(self, rows: list) -> list:
        now = time.monotonic()
        left_s = g.deadline - now
        if left_s <= 0:
            raise GatewayTimeout("the deadline passed before the model was asked")
        stuck = sum(began + self.most_s < now for began in [*self.began.values()])
        if stuck == self.slots:
            raise ServiceUnavailable("every slot is stuck", retry_after=1)
        if not self.free.acquire(timeout=left_s / 2):
            raise ServiceUnavailable("all slots are taken", retry_after=1)
        work = self.threads.submit(self.scorer.score, rows)
        self.began[work] = time.monotonic()
        work.add_done_callback(self.end)
        try:
            return work.result(timeout=max(0, g.deadline - time.monotonic()))
        except TimeoutError:
            raise GatewayTimeout("the model did not answer in time") from None

    def end(self, work: Future) -> None:
        del self.began[work]
        self.free.release()


# -- what clients may read ---------------------------------------------------------


def openapi(described: artifacts.Artifact) -> dict:
    """The contract's description, with what the guards add to it."""
    document = described.contract.openapi(described.version)
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    added = {
        "401": "the key is missing or unknown",
        "403": "the key is not for this address",
        "429": "too many requests: wait as long as Retry-After says",
        "504": "the deadline has passed",
    }
    predict = document["paths"]["/predict"]["post"]
    for status, text in added.items():
        predict["responses"][status] = {"description": text, "content": refusal}
    schemes = {"key": {"type": "http", "scheme": "bearer"}}
    document["components"]["securitySchemes"] = schemes
    predict["security"] = [{"key": []}]
    return document
