"""A Flask service that does nothing: what HTTP and Flask cost without a model."""

from flask import Flask, request


def create_app(artifact: str | None = None) -> Flask:
    """An app that answers every prediction with the same two bytes."""
    app = Flask(__name__)

    @app.get("/ready")
    def ready():
        return {"status": "ready"}

    @app.post("/predict")
    def predict():
        request.get_data()  # a body left unread costs the caller the connection
        return {}

    return app
