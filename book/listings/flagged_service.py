"""Two models in one process; a flag in a file says whose users get the new one."""

import hashlib
import json
import os
from pathlib import Path

from flask import Flask, request

from deploylab import artifacts
from deploylab.contract import ContractError


def create_app(artifact: str) -> Flask:
    """The old model is the artifact; NEW and FLAG name a folder and a file."""
    app = Flask(__name__)
    old, new = artifacts.load(artifact), artifacts.load(os.environ["NEW"])
    flag = Path(os.environ["FLAG"])

    @app.get("/ready")
    def ready():
        return {"status": "ready"}

    @app.post("/predict")
    def predict():
        user = request.headers.get("X-User", "")
        model = new if place(user) < share_of(flag) else old
        row = model.artifact.contract.parse(request.get_data())
        score = float(model.score([row])[0])
        return {"version": model.artifact.version, "probability": score}

    @app.errorhandler(ContractError)
    def refuse(error: ContractError):
        return error.as_json(), error.status

    return app


def place(user: str) -> float:
    """Where a user stands between 0 and 1: always there, and on any machine."""
    digest = hashlib.sha256(f"v2:{user}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def share_of(flag: Path) -> float:
    """The share in the file; if that is none, nobody gets the new model."""
    try:
        share = float(json.loads(flag.read_text())["share"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return 0.0
    return share if 0 <= share <= 1 else 0.0
