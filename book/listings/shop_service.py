"""A shop that asks a model: one route needs it, and the others do not.

The model is an object in this process, or, with MODEL_URL, a service elsewhere.
MODEL_PLACES, if set, is how many requests may be with the model at a time.
"""

import os
import threading
import time

import requests
from flask import Flask, jsonify, request

from deploylab import artifacts
from deploylab.contract import ContractError

ORDERS = [{"order": 1000 + i, "cents": 995 + 137 * i} for i in range(50)]


class Busy(RuntimeError):
    """All places before the model are taken."""


class Here:
    """The model as a module: loaded into this process, and called."""

    def __init__(self, artifact: str, trust: str | None):
        self.scorer = artifacts.load(artifact, trust=trust)
        self.contract = self.scorer.artifact.contract
        self.scorer.score([[0.0] * len(self.contract.features)])

    def score(self, body: bytes) -> float:
        return float(self.scorer.score([self.contract.parse(body)])[0])


class Elsewhere:
    """The model behind an address: the same question, over HTTP."""

    def __init__(self, url: str):
        self.url = url + "/predict"
        self.mine = threading.local()

    def score(self, body: bytes) -> float:
        if not hasattr(self.mine, "session"):
            self.mine.session = requests.Session()
        headers = {"Content-Type": "application/json"}
        answer = self.mine.session.post(self.url, body, headers=headers, timeout=5)
        answer.raise_for_status()
        return answer.json()["probability"]


class Limited:
    """At most so many requests with the model; the next one is refused at once."""

    def __init__(self, model, places: int):
        self.model = model
        self.places = threading.BoundedSemaphore(places)

    def score(self, body: bytes) -> float:
        if not self.places.acquire(blocking=False):
            raise Busy
        try:
            return self.model.score(body)
        finally:
            self.places.release()


def create_app(artifact: str | None = None) -> Flask:
    """The shop, with the model of the artifact or the one at MODEL_URL."""
    app = Flask(__name__)
    if url := os.environ.get("MODEL_URL"):
        model = Elsewhere(url)
    else:
        model = Here(artifact, os.environ.get("MODEL_SHA256"))
    if places := os.environ.get("MODEL_PLACES"):
        model = Limited(model, int(places))

    @app.get("/ready")
    def ready():
        return jsonify(status="ready")

    @app.get("/orders")
    def orders():
        return jsonify(ORDERS)

    @app.get("/report")
    def report():
        """The month's orders, line by line; it takes two seconds."""

        def lines():
            for one in ORDERS:
                yield f"{one['order']},{one['cents']}\n"
                time.sleep(2 / len(ORDERS))

        return app.response_class(lines(), mimetype="text/csv")

    @app.post("/predict")
    def predict():
        try:
            probability = model.score(request.get_data())
        except ContractError as error:
            return jsonify(error.as_json()), error.status
        except (Busy, requests.RequestException) as error:
            return jsonify(error=f"no score: {type(error).__name__}"), 503
        return jsonify(phishing=probability > 0.5, probability=probability)

    return app
