"""A service that listens, is alive, and is never ready: its model never comes."""

from flask import Flask


def create_app(artifact: str) -> Flask:
    app = Flask(__name__)

    @app.get("/health")
    def health():
        return {"status": "alive"}

    @app.get("/ready")
    def ready():
        return {"status": "loading"}, 503

    return app
