"""The front of a queue: takes work at once, refuses it when the queue is full.

POST /work with a JSON object gives 202 and where the answer will be, or 429 and when to
come again. The header Idempotency-Key names the request, so that a caller who got no
answer may ask again and gets one answer; the work may be done again.
"""

import json
import math
import os
import re
import uuid

from flask import Flask, Response, jsonify, request
from queue_worker import RESULTS, Queue

from deploylab import broker


def create_app(
    url: str | None = None, limit: int | None = None, rate_per_s: float | None = None
) -> Flask:
    """url: the broker; limit: of the queue; rate_per_s: what its workers can do."""
    redis = broker.connect(url or os.environ["BROKER"])
    queue = Queue(redis, "work", limit=limit or int(os.environ.get("LIMIT", "1000")))
    rate_per_s = rate_per_s or float(os.environ.get("RATE_PER_S", "100"))
    app = Flask("queue_front")

    @app.get("/ready")
    def ready() -> Response:
        redis.ping()
        return jsonify(status="ready")

    @app.post("/work")
    def work() -> tuple[Response, int]:
        id = request.headers.get("Idempotency-Key") or uuid.uuid4().hex
        if not re.fullmatch("[A-Za-z0-9._-]{1,64}", id):
            return jsonify(error="the key: up to 64 of A-Z a-z 0-9 . _ -"), 400
        if request.content_length is None or request.content_length > 10_000:
            return jsonify(error="at most 10,000 bytes, with their length"), 413
        body = request.get_data(as_text=True)
        if queue.offer({"id": id, "body": body}) is None:
            answer = jsonify(error="the queue is full")
            answer.headers["Retry-After"] = math.ceil(len(queue) / rate_per_s)
            return answer, 429
        return jsonify(id=id, result=f"/results/{id}"), 202

    @app.get("/results/<id>")
    def result(id: str) -> tuple[Response, int]:
        found = redis.hget(RESULTS, id)
        return (jsonify(json.loads(found)), 200) if found else (jsonify(), 404)

    return app
