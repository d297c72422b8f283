"""A crowd that asks a shop's model without a pause, and one who wants the orders.

    python crowd.py URL CALLERS SECONDS < body.json

Prints what became of both as one line of JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter

import aiohttp

PAUSE_S = 0.02  # of the one who wants the orders, between two looks


async def ask(session, method, url, body=None):
    """The status of one answer, 0 for none, and its milliseconds."""
    began = time.perf_counter()
    try:
        async with session.request(method, url, data=body) as answer:
            await answer.read()
            status = answer.status
    except (aiohttp.ClientError, TimeoutError):
        status = 0
        await asyncio.sleep(0.05)  # or a dead server is asked without end
    return status, 1000 * (time.perf_counter() - began)


async def crowd(url, callers, seconds, body):
    """Ask for so long; the statuses of both sides, and the orders' milliseconds."""
    scores, orders, orders_ms = Counter(), Counter(), []
    begin = asyncio.Event()
    headers = {"Content-Type": "application/json"}
    patience = aiohttp.ClientTimeout(total=10)

    async def call():
        while True:
            status, _ = await ask(session, "POST", url + "/predict", body)
            scores[status] += 1
            begin.set()

    async with aiohttp.ClientSession(headers=headers, timeout=patience) as session:
        calling = [asyncio.create_task(call()) for _ in range(callers)]
        if callers:
            await begin.wait()
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            status, ms = await ask(session, "GET", url + "/orders")
            orders[status] += 1
            orders_ms.append(ms)
            await asyncio.sleep(PAUSE_S)
        for one in calling:
            one.cancel()
    return {"scores": scores, "orders": orders, "orders_ms": orders_ms}


if __name__ == "__main__":
    url, callers, seconds = sys.argv[1:]
    body = sys.stdin.buffer.read()
    print(json.dumps(asyncio.run(crowd(url, int(callers), float(seconds), body))))
