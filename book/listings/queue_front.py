"""The front of a queue: takes work at once, refuses it when the queue is full.

POST /work with a row gives 202 and where the answer will be, or says at once what is
wrong with it, or 429 and when to come again. GET /results/ID gives 200 and the answer,
202 while it is waiting, and 404 for a name that its sender never used, or whose answer
has expired. The key in the header Authorization says who the sender is. The header
Idempotency-Key names the request, so that a caller who got no answer may ask again and
gets one answer; the work may be done again.
"""

import json
import math
import os
import re
import uuid
from pathlib import Path

import guarded_service
import phishing_service
from flask import Flask, Response, abort, g, jsonify, request
from queue_worker import KEEP_S, Queue, key
from werkzeug.exceptions import HTTPException

from deploylab import artifacts, broker
from deploylab.contract import ContractError


def create_app(
    artifact: str,
    url: str | None = None,
    keys: dict | None = None,
    limit: int | None = None,
    rate_per_s: float | None = None,
) -> Flask:
    """The front of the workers that have the model in the folder `artifact`.

    url: the broker; keys: who may send (`guarded_service.make_key`); limit: of the
    queue; rate_per_s: what its workers can do. What is left out is in the environment.
    """
    contract = artifacts.read(artifact).contract
    redis = broker.connect(url or os.environ["BROKER"])
    queue = Queue(redis, "work", limit=limit or int(os.environ.get("LIMIT", "1000")))
    rate_per_s = rate_per_s or float(os.environ.get("RATE_PER_S", "100"))
    app = Flask("queue_front")
    app.config["MAX_CONTENT_LENGTH"] = 10_000
    app.register_error_handler(ContractError, phishing_service.refuse)
    app.register_error_handler(HTTPException, phishing_service.explain)
    if keys is None:
        keys = json.loads(Path(os.environ["API_KEYS"]).read_text())
    guarded_service.ask_for_key(app, keys)  # whose name is then in g.client
    add_routes(app, queue, contract.parse, rate_per_s)
    return app


def add_routes(app: Flask, queue: Queue, check, rate_per_s: float) -> None:
    """Hand work in, and ask for its result. check: raises ContractError."""

    @app.get("/ready")
    def ready() -> Response:
        queue.redis.ping()
        return jsonify(status="ready")

    @app.post("/work")
    def work() -> tuple[Response, int]:
        id = request.headers.get("Idempotency-Key") or uuid.uuid4().hex
        if not re.fullmatch("[A-Za-z0-9._-]{1,64}", id):
            abort(400, "the key: up to 64 of A-Z a-z 0-9 . _ -")
        if "Transfer-Encoding" in request.headers:
            abort(411)  # a body of unknown length would be cut at the limit
        if request.mimetype != "application/json":
            abort(415, "send the row as application/json")
        body = request.get_data(as_text=True)
        check(body)  # now: afterwards nobody waits on the line to be told
        if queue.offer({"sender": g.client, "id": id, "body": body}) is None:
            answer = jsonify(error="the queue is full")
            answer.headers["Retry-After"] = math.ceil(len(queue) / rate_per_s)
            return answer, 429
        queue.redis.set(key("waiting", g.client, id), "", ex=KEEP_S)
        return jsonify(id=id, result=f"/results/{id}"), 202

    @app.get("/results/<id>")
    def result(id: str) -> tuple[Response, int]:
        found = queue.redis.get(key("result", g.client, id))
        if found:
            return jsonify(json.loads(found)), 200
        if queue.redis.exists(key("waiting", g.client, id)):
            return jsonify(status="waiting"), 202
        abort(404, "no such name, or its answer has expired")
