"""A model that is data: the service follows an alias, and swaps while it answers."""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flask import Flask, jsonify, request
from werkzeug.exceptions import HTTPException

from deploylab import artifacts, broker, registry
from deploylab.contract import Contract, ContractError

EVENTS = "model-events"
AGAIN_S = 10  # what was refused may have been mended since: look again after this
MAX_BODY_BYTES = 16 * 1024
log = logging.getLogger("swapping_service")


@dataclass(frozen=True)
class Model:
    """A loaded model with all that belongs to it: one object, swapped as one."""

    number: int
    name: str
    digest: str
    contract: Contract
    scorer: artifacts.Scorer


@dataclass(frozen=True)
class Live:
    """What answers now. It is never changed; a swap puts another in its place."""

    sequence: int
    champion: Model
    candidate: Model | None = None
    share: float = 0.0

    def model_for(self, user: str | None) -> Model:
        """The candidate for a fixed share of the users, else the champion."""
        if self.candidate is None or user is None:
            return self.champion
        drawn = int.from_bytes(hashlib.sha256(user.encode()).digest()[:4])
        return self.candidate if drawn < self.share * 2**32 else self.champion


class Refused(RuntimeError):
    """What the registry means cannot be served here; what is live stays."""


REFUSALS = (artifacts.ArtifactError, registry.UnknownNumber, Refused)


class Follower(threading.Thread):
    """Keeps `live` at what the registry means; a hint says when to look."""

    def __init__(
        self,
        reader: registry.Reader,
        home: Path,
        hints: Iterator,
        contract: Contract,  # what callers may send, whichever model is live
    ):
        super().__init__(name="follower", daemon=True)
        self.reader, self.home, self.hints = reader, home, hints
        self.contract = contract
        self.live: Live | None = None
        self.seen, self.refused, self.refused_s = 0, (0, ""), 0.0
        self.trouble = ""

    def run(self) -> None:
        for _ in self.hints:
            try:
                self.look()
                self.trouble = ""
            except Refused as error:
                log.error("refused: %s", error)
            except Exception as error:  # a locked registry, say: look again later
                self.trouble = f"{type(error).__name__}: {error}"
                log.exception("could not look")
            self.report()

    def look(self) -> None:
        """Compare what is live with what is meant; swap if that is newer."""
        meant = self.reader.pointers()
        self.seen = meant.sequence
        at = self.live.sequence if self.live else 0
        refused, why = self.refused
        if meant.sequence <= refused and time.monotonic() < self.refused_s + AGAIN_S:
            return  # known to be bad
        left_out = why and meant.sequence == refused  # if live: only the candidate
        if meant.sequence < at or (meant.sequence == at and not left_out):
            return  # nothing new
        self.refused = (0, "")
        try:
            new = self.prepare(meant)
        except REFUSALS as error:
            self.refuse(meant.sequence, error)
            raise Refused(f"sequence {meant.sequence}: {error}") from error
        self.live = new  # the swap: one reference, one assignment

    def refuse(self, sequence: int, error: Exception) -> None:
        self.refused = (sequence, f"{type(error).__name__}: {error}")
        self.refused_s = time.monotonic()

    def prepare(self, meant: registry.Pointers) -> Live:
        """Load, warm and check all that is meant, beside what is live."""
        if "champion" not in meant.aliases:
            raise Refused("no version has the alias champion")
        champion, candidate = self.load(meant.aliases["champion"]), None
        if "candidate" in meant.aliases:
            try:
                candidate = self.load(meant.aliases["candidate"])
            except REFUSALS as error:  # it must not hold up the champion
                self.refuse(meant.sequence, error)
        return Live(meant.sequence, champion, candidate, meant.share)

    def load(self, number: int) -> Model:
        live = self.live
        here = [live.champion, live.candidate] if live else []
        for model in here:
            if model and model.number == number:
                return model
        published = self.reader.published(number)
        folder = self.reader.fetch(number, self.home / "models")
        scorer = artifacts.load(folder, trust=None)  # nothing that runs code
        need_kept(self.contract, scorer.artifact.contract)
        registry.self_check(scorer)  # this warms it, too
        return Model(
            number,
            published.name,
            published.digest,
            scorer.artifact.contract,
            scorer,
        )

    def report(self) -> None:
        """Say where this worker is, in a file that /status reads."""
        said = {
            "worker": os.getpid(),
            "sequence": self.live.sequence if self.live else 0,
            "number": self.live.champion.number if self.live else None,
            "seen": self.seen,
            "refused": self.refused[1],
            "trouble": self.trouble,
        }
        folder = self.home / "workers"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f".{os.getpid()}"
            draft.write_text(json.dumps(said))
            draft.replace(folder / f"{os.getpid()}.json")
        except OSError:
            log.exception("could not report")


def need_kept(old: Contract, new: Contract) -> None:
    """Refuse a model that would refuse rows which callers may send today."""
    takes = {feature.name: set(feature.values) for feature in new.features}
    sent = {feature.name: set(feature.values) for feature in old.features}
    broken = [name for name in sent if not sent[name] <= takes.get(name, set())]
    broken += sorted(takes.keys() - sent.keys())
    words = {feature.name: feature.meaning for feature in old.features}
    meant = [f for f in new.features if f.name in words]
    broken += [f.name for f in meant if f.meaning != words[f.name]]
    if broken:
        raise Refused(
            f"contract {new.name} breaks {old.name} at {', '.join(broken)}: "
            "callers change first, and then the model"
        )


def polling(every_s: float) -> Iterator[None]:
    """A hint again and again: needs nothing but a clock."""
    while True:
        yield
        time.sleep(every_s)


def events(url: str, at_least_every_s: float = 5, retry_s: float = 0.2) -> Iterator:
    """A hint for each event of the broker; without a broker, polling."""
    import redis

    while True:
        client = broker.connect(url, timeout_s=at_least_every_s + 2)
        try:
            # First the place in the stream, then the look: an event in between
            # gives one look too many, and none is missed.
            newest = client.xrevrange(EVENTS, count=1)
            last = newest[0][0] if newest else "0-0"
            yield
            while True:
                block_ms = int(1000 * at_least_every_s)
                found = client.xread({EVENTS: last}, block=block_ms)
                if found:
                    last = found[0][1][-1][0]
                yield
        except (redis.RedisError, OSError):
            yield
            time.sleep(retry_s)
        finally:
            client.close()


def create_app() -> Flask:
    """The service for a registry; the environment says where everything is."""
    home = Path(os.environ["MODEL_HOME"])
    reader = registry.Reader(os.environ["MODEL_REGISTRY"])
    url = os.environ.get("MODEL_EVENTS")
    every_s = float(os.environ.get("MODEL_LOOK_S", "5" if url else "0.2"))
    hints = events(url, every_s) if url else polling(every_s)
    promised = json.loads(Path(os.environ["MODEL_CONTRACT"]).read_text())
    follower = Follower(reader, home, hints, Contract.from_json(promised))
    follower.report()  # over what a worker of the same number may have left
    follower.start()
    return make_app(follower)


def make_app(follower: Follower) -> Flask:
    """The addresses of the service."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES

    @app.post("/predict")
    def predict():
        live = follower.live  # read once; all that follows is of one version
        if live is None:
            return jsonify(error="there is no model yet"), 503
        model = live.model_for(request.headers.get("X-User"))
        row = model.contract.parse(request.get_data())
        probability = float(model.scorer.score([row])[0])
        answer = jsonify(
            version=model.name,
            number=model.number,
            sequence=live.sequence,
            digest=model.digest[:12],
            worker=os.getpid(),
            phishing=probability > 0.5,
            probability=probability,
        )
        answer.headers["X-Model-Version"] = model.name
        answer.headers["X-Model-Digest"] = model.digest[:12]
        return answer

    @app.get("/health")
    def health():
        alive = follower.is_alive()
        return jsonify(status="alive" if alive else "failed"), 200 if alive else 500

    @app.get("/ready")
    def ready():
        return jsonify(status="ready" if follower.live else "loading"), (
            200 if follower.live else 503
        )

    @app.get("/status")
    def status():
        return jsonify(workers(follower.home))

    @app.errorhandler(ContractError)
    def refuse(error: ContractError):
        return jsonify(error.as_json()), error.status

    @app.errorhandler(HTTPException)
    def explain(error: HTTPException):
        return jsonify(error=error.description), error.code

    return app


def workers(home: Path) -> list[dict]:
    """What the workers of this server have reported, those that still run."""
    said = []
    for file in sorted((home / "workers").glob("*.json")):
        try:
            os.kill(int(file.stem), 0)
        except ProcessLookupError:
            file.unlink(missing_ok=True)
            continue
        except PermissionError:
            pass  # it runs, as another user
        with suppress(FileNotFoundError):  # another worker may have cleared it away
            said.append(json.loads(file.read_text()))
    return said
