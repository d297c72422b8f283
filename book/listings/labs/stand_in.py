"""A stand-in for a model: it says its version, and takes as long as it is told to.

The time is slept, not computed: an instance with one thread answers at most
1 / SERVICE_S requests a second on any machine, and leaves the processor alone.
"""

import os
import time

from flask import Flask, request


def create_app(artifact: str | None = None) -> Flask:
    """The service; VERSION and SERVICE_S (seconds) come from the environment."""
    version = os.environ.get("VERSION", "v1")
    service_s = float(os.environ.get("SERVICE_S", "0"))
    app = Flask(__name__)

    @app.get("/ready")
    def ready():
        return {"status": "ready"}

    @app.post("/predict")
    def predict():
        request.get_data()  # a body that nobody reads would end the connection
        time.sleep(service_s)
        return {"version": version}, {"X-Model-Version": version}

    return app
