"""Two versions in one process: the old one is slow, the new one ends the process.

`os._exit` stands for a fault in a native library, or for too much memory.
"""

import os
import time

from flask import Flask, request


def create_app(artifact: str | None = None) -> Flask:
    """The service; the user `new` has the flag."""
    app = Flask(__name__)

    @app.get("/ready")
    def ready():
        return {"status": "ready"}

    @app.post("/predict")
    def predict():
        if request.headers["X-User"] == "new":
            os._exit(1)
        time.sleep(1)
        return {"version": "v1"}

    return app
