"""A service for the tests of `servers`: each factory is good or bad in its own way.

The artifact, where there is one, is a folder; files that appear in it are the test's
way to let something go on, so that no test has to sleep and hope.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from flask import Flask, request


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.005)


def make(load) -> Flask:
    """A service that is ready when `load()` has returned, and failed when it raised."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 1 << 20
    state = {"is": "loading"}

    def in_background():
        try:
            load()
            state["is"] = "ready"
        except Exception as error:
            app.logger.exception("could not load: %s", error)
            state["is"] = "failed"

    threading.Thread(target=in_background, daemon=True).start()

    @app.get("/health")
    def health():
        return {"status": "alive"}

    @app.get("/ready")
    def ready():
        return {"status": state["is"]}, 200 if state["is"] == "ready" else 503

    @app.post("/predict")
    def predict():
        asked = request.get_json()
        if "started" in asked:
            Path(asked["started"]).touch()
        if "until" in asked:
            wait_for(Path(asked["until"]))
        return {
            "version": "tiny",
            "phishing": True,
            "probability": 0.75,
            "pid": os.getpid(),
            "asked": asked,
        }

    @app.get("/modules")
    def modules():
        return sorted(sys.modules)

    return app


def at_once(artifact: str | None = None) -> Flask:
    return make(lambda: None)


def when_told(artifact: str) -> Flask:
    """Loads until the file `go` appears in the artifact."""
    return make(lambda: wait_for(Path(artifact) / "go"))


def one_first(artifact: str) -> Flask:
    """The first worker is ready at once, the others when `go` appears."""

    def load():
        try:
            (Path(artifact) / "first").touch(exist_ok=False)
        except FileExistsError:
            wait_for(Path(artifact) / "go")

    return make(load)


def never(artifact: str | None = None) -> Flask:
    print("this model will never be there", flush=True)
    return make(threading.Event().wait)


def raises(artifact: str | None = None) -> Flask:
    raise RuntimeError("model.onnx not found")


def exits(artifact: str | None = None) -> Flask:
    sys.exit("the licence has run out")


def killed(artifact: str | None = None) -> Flask:
    print("using all the memory", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def fails(artifact: str | None = None) -> Flask:
    """Returns at once; the loading in the background raises."""

    def load():
        raise RuntimeError("model.onnx is corrupt")

    return make(load)


def hangs(artifact: str | None = None) -> Flask:
    print("loading in the factory", flush=True)
    threading.Event().wait()


def fails_later(artifact: str) -> Flask:
    """Good until the file `gone` appears in the artifact; workers then do not load."""

    def load():
        if (Path(artifact) / "gone").exists():
            raise RuntimeError("the artifact has gone")

    return make(load)


def raises_later(artifact: str) -> Flask:
    """As `fails_later`, but the factory itself raises."""
    if (Path(artifact) / "gone").exists():
        raise RuntimeError("the artifact has gone")
    return make(lambda: None)


def raises_when_asked(artifact: str) -> Callable:
    """A WSGI app that raises on `/predict`, and names a version on `/named`."""
    app = make(lambda: None)

    @app.get("/named")
    def named():
        return {}, {"X-Model-Version": "of the app"}

    def wsgi(environ: dict, start_response: Callable) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/predict":
            raise RuntimeError("no answer")
        return app(environ, start_response)

    return wsgi


def slow_to_come_back(artifact: str) -> Flask:
    """Ready at once, or, if `hold` is there, says `held` and waits for `go`."""

    def load():
        if (Path(artifact) / "hold").exists():
            (Path(artifact) / "held").touch()
            wait_for(Path(artifact) / "go")

    return make(load)
