"""A model behind HTTP: one artifact, four addresses, errors that name the field."""

import json
import logging
import os
import threading

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

from deploylab import artifacts
from deploylab.contract import ContractError

MAX_BODY_BYTES = 16 * 1024
log = logging.getLogger("phishing_service")


def create_app(artifact: str, trust: str | None = None) -> Flask:
    """The service for the artifact folder; it loads the model in the background."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    described = artifacts.read(artifact)
    model = BackgroundModel(artifact, trust or os.environ.get("MODEL_SHA256"))
    add_probes(app, model)
    add_prediction(app, model, described)
    app.register_error_handler(ContractError, refuse)
    app.register_error_handler(HTTPException, explain)
    return app


class BackgroundModel:
    """Loads and warms a model in a thread, and says how far it is."""

    def __init__(self, artifact: str, trust: str | None):
        self.state = "loading"
        self.scorer = None
        thread = threading.Thread(target=self.load, args=(artifact, trust))
        thread.daemon = True
        thread.start()

    def load(self, artifact: str, trust: str | None) -> None:
        try:
            scorer = artifacts.load(artifact, trust=trust)
            scorer.score([[0.0] * len(scorer.artifact.contract.features)])
        except Exception:
            self.state = "failed"
            log.exception("the model could not be loaded")
        else:
            self.scorer = scorer
            self.state = "ready"


def add_probes(app: Flask, model: BackgroundModel) -> None:
    """Two questions, two addresses: are you alive, and may I send you traffic?"""

    @app.get("/health")
    def health():
        failed = model.state == "failed"  # only a restart can help
        return jsonify(status="failed" if failed else "alive"), 500 if failed else 200

    @app.get("/ready")
    def ready():
        return jsonify(status=model.state), 200 if model.state == "ready" else 503


def add_prediction(app: Flask, model: BackgroundModel, described) -> None:
    """The address that people pay for, and the description that clients read."""
    contract, version = described.contract, described.version

    @app.post("/predict")
    def predict():
        if "Transfer-Encoding" in request.headers:
            abort(411)  # a body of unknown length would be cut at the limit
        body = request.get_data()
        if request.mimetype != "application/json":
            return jsonify(error="send the row as application/json"), 415
        row = contract.parse(body)
        if model.scorer is None:
            return jsonify(error=f"the model is {model.state}"), 503
        probability = float(model.scorer.score([row])[0])
        phishing = probability > 0.5
        return jsonify(version=version, phishing=phishing, probability=probability)

    @app.get("/openapi.json")
    def openapi():
        return jsonify(contract.openapi(version))

    @app.after_request
    def name_the_version(response: Response) -> Response:
        response.headers["X-Model-Version"] = version
        return response


def refuse(error: ContractError):
    """The caller broke the contract: say which field, and how."""
    return jsonify(error.as_json()), error.status


def explain(error: HTTPException):
    """Flask's own errors (404, 405, 413, 500) as JSON, with the headers they need."""
    response = error.get_response()
    response.data = json.dumps({"error": error.description})
    response.content_type = "application/json"
    return response
