"""The Python router: a process that hands each request to one of two groups.

    PORT=8000 python router_process.py CONTROL

Users ask on the port. Whoever operates the router talks to it on the Unix socket at
the path CONTROL, one JSON object a line (see `Router.obey`): nobody who can only
send requests can move traffic. A request is drawn, or its user is, against one
number, the candidate's share; against another, the mirror's, it is drawn whether the
candidate gets a copy of what stable answers, and both answers are kept as a pair.
"""

import asyncio
import collections
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import sys
import time

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

ROLES = ("stable", "candidate")
SCALE = 1_000_000  # shares are counted in millionths
USER_HEADER = "X-User"
ROLE_HEADER = "X-Role"  # of every answer: who gave it, or should have
SHARE_HEADER = "X-Share"  # the candidate's, in millionths, when the role was drawn
ERROR_HEADER = "X-Error-From"  # "router" where no instance gave the answer
MIRROR_HEADER = "X-Mirror"  # "1" in a copy: nobody gets the answer, so leave no trace
READY_PATH = "/.router/ready"  # the one path that the router answers itself
BODY_BYTES = 1 << 20
MAX_COPIES, MAX_PAIRS = 100, 4_000  # under way at once; kept until they are taken
PAIR_BYTES, PAGE_PAIRS = 4 << 10, 100  # kept of a body; taken at once
CONNECT_TIMEOUT_S, BODY_TIMEOUT_S = 3, 10
ANSWER_TIMEOUT_S = int(os.environ.get("ANSWER_TIMEOUT_S", "30"))  # for the instance
# About one connection and not about the message, so they are not passed on (RFC 9110,
# section 7.6.1), nor are lengths, which are counted anew. Both sides' own come last.
HOP_BY_HOP = set(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection "
    "te "  # codespell:ignore te
    "trailer transfer-encoding upgrade expect content-length".split()
) | {name.lower() for name in (ROLE_HEADER, SHARE_HEADER, ERROR_HEADER, MIRROR_HEADER)}
HOP_BY_HOP.add(MIRROR_HEADER.lower().replace("-", "_"))  # to WSGI it is the same


def queue(salt: str) -> str:
    """The name of the order in which users come to the candidate."""
    return hashlib.sha256(salt.encode()).hexdigest()[:16]


def bucket(user: str, salt: str) -> int:
    """A user's place in that queue, from 0 to SCALE - 1.

    Those below the share are on the candidate; so one who is there stays there while
    the share grows. Another salt is another queue.
    """
    named = f"{queue(salt)}:{user}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.sha256(named).digest()[:4], "big") % SCALE


class Router:
    """Two groups of instances, the split between them, and what came of it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.groups: dict[str, tuple[str, ...]] = dict.fromkeys(ROLES, ())
        self.split = (0, False, "")  # one value: a request sees the old or the new
        self.answered = dict.fromkeys(ROLES, 0)
        self.errors = dict.fromkeys(ROLES, 0)
        self.in_flight = dict.fromkeys(ROLES, 0)
        self.turn = {role: itertools.count() for role in ROLES}
        self.mirror = 0  # the share of stable's requests that are copied
        self.copies: set[asyncio.Task] = set()
        self.pairs = collections.deque(maxlen=MAX_PAIRS)
        self.lost = {"not_sent": 0, "not_kept": 0}

    def draw(self, user: str | None) -> tuple[str, int]:
        """Who answers the next request of this user, and the share that decided it."""
        share, sticky, salt = self.split
        place = bucket(user, salt) if sticky and user else random.randrange(SCALE)
        return ("candidate" if place < share else "stable"), share

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.rel_url.raw_path == READY_PATH:
            return web.Response()
        try:
            if (request.content_length or 0) > BODY_BYTES:
                raise web.HTTPRequestEntityTooLarge(BODY_BYTES)
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return failure(413, "router", f"a body has at most {BODY_BYTES} bytes")
        except TimeoutError:
            return failure(408, "router", f"no whole body within {BODY_TIMEOUT_S} s")
        role, share = self.draw(request.headers.get(USER_HEADER))
        pair = self.copy(request, body) if role == "stable" else {}
        self.in_flight[role] += 1
        try:
            answer = await self.timed(role, request, body, pair)
        finally:
            self.in_flight[role] -= 1
        counts = self.errors if ERROR_HEADER in answer.headers else self.answered
        counts[role] += 1
        answer.headers[SHARE_HEADER] = str(share)
        return answer

    def copy(self, request: web.BaseRequest, body: bytes) -> dict:
        """Send the candidate a copy if it is drawn; return the pair to be, or {}."""
        if random.randrange(SCALE) >= self.mirror:
            return {}
        if len(self.copies) == MAX_COPIES:
            self.lost["not_sent"] += 1
            return {}
        pair = {"sent_at_s": time.monotonic(), **kept("request", body)}
        task = asyncio.create_task(self.timed("candidate", request, body, pair))
        self.copies.add(task)
        task.add_done_callback(self.copies.discard)
        return pair

    async def timed(
        self, role: str, request: web.BaseRequest, body: bytes, pair: dict
    ) -> web.Response:
        """Forward a request; what came of it goes into its pair, if it has one."""
        began_s = time.monotonic()
        is_copy = bool(pair) and role == "candidate"
        answer = await self.forward(role, request, body, is_copy)
        if pair:
            pair[role] = {
                "status": answer.status,
                "latency_s": time.monotonic() - began_s,
                "from_router": ERROR_HEADER in answer.headers,
                **kept("body", answer.body),
            }
            if all(role in pair for role in ROLES):
                self.lost["not_kept"] += len(self.pairs) == MAX_PAIRS
                self.pairs.append(pair)  # the oldest goes
        return answer

    async def forward(
        self, role: str, request: web.BaseRequest, body: bytes, is_copy: bool
    ) -> web.Response:
        """Ask the role's instances in turn until one can be reached."""
        instances, first = self.groups[role], next(self.turn[role])
        asked = end_to_end(request.headers)
        if is_copy:
            asked[MIRROR_HEADER] = "1"
        path = request.rel_url.raw_path_qs
        path = path if path.startswith("/") else "/" + path
        for i in range(len(instances)):
            base = instances[(first + i) % len(instances)]
            url = URL(base + path, encoded=True)
            try:
                async with self.session.request(
                    request.method,
                    url,
                    headers=asked,
                    data=body or None,
                    allow_redirects=False,
                ) as answer:
                    content = await (beginning(answer) if is_copy else answer.read())
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue  # nothing was sent yet, so another one may be asked
            except TimeoutError:
                return failure(504, role, f"no answer within {ANSWER_TIMEOUT_S} s")
            except aiohttp.ClientError as error:  # sent: it must not be sent again
                return failure(502, role, f"no whole answer: {type(error).__name__}")
            headers = end_to_end(answer.headers)
            headers[ROLE_HEADER] = role
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                headers["Content-Length"] = answer.headers["Content-Length"]
            whole = {"status": answer.status, "reason": answer.reason, "body": content}
            return web.Response(headers=headers, **whole)
        return failure(503, role, f"no instance of the {role} group can be reached")

    def obey(self, line: bytes) -> dict:
        """Do what a line of the control socket says; return the router's state."""
        match json.loads(line):
            case {"role": str(role), "urls": [*urls]} if role in ROLES:
                self.groups[role] = tuple(str(URL(url).origin()) for url in urls)
            case {"share": int(share), "sticky": bool(sticky), "salt": str(salt)} if (
                0 <= share <= SCALE
            ):
                self.split = (share, sticky, salt)
            case {"mirror": int(share)} if 0 <= share <= SCALE:
                self.mirror = share
            case {"take": "pairs"}:
                page = range(min(PAGE_PAIRS, len(self.pairs)))
                lost, self.lost = self.lost, dict.fromkeys(self.lost, 0)
                return {"pairs": [self.pairs.popleft() for _ in page], **lost}
            case {"status": True}:
                pass
            case other:
                raise ValueError(f"no order of this router: {str(other)[:100]}")
        said = {n: dict(getattr(self, n)) for n in ("answered", "errors", "in_flight")}
        said["in_flight"]["candidate"] += len(self.copies)
        return said

    async def control(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer each line of one operator."""
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            while not reader.at_eof():
                try:
                    reply = self.obey(await reader.readline())
                except (ValueError, TypeError, RecursionError) as error:
                    reply = {"error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()


def end_to_end(headers: CIMultiDict) -> CIMultiDict:
    """The headers that are meant for the other end, not for this connection."""
    named = {word.strip().lower() for word in headers.get("Connection", "").split(",")}
    drop = HOP_BY_HOP | named
    return CIMultiDict((k, v) for k, v in headers.items() if k.lower() not in drop)


def kept(name: str, body: bytes) -> dict:
    """The beginning of a body for a pair, and whether there was more, for JSON."""
    cut = len(body) > PAIR_BYTES
    return {name: body[:PAIR_BYTES].decode("latin-1"), f"{name}_cut": cut}


async def beginning(answer: aiohttp.ClientResponse) -> bytes:
    """What a pair keeps of an answer, however long it is, and a byte of what is cut."""
    content = bytearray()
    async for chunk in answer.content.iter_any():
        content += chunk[: PAIR_BYTES + 1 - len(content)]
    return bytes(content)


def failure(status: int, role: str, says: str) -> web.Response:
    """An answer of the router's own."""
    headers = {ROLE_HEADER: role, ERROR_HEADER: "router"}
    answer = web.json_response({"error": says}, status=status, headers=headers)
    if status in (408, 413):
        answer.force_close()  # what is left of the request is no next one
    return answer


async def main() -> None:
    """Route until SIGTERM; then answer what was taken, and end."""
    asked_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked_to_end.set)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        timeout=aiohttp.ClientTimeout(
            total=ANSWER_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S
        ),
    ) as session:
        session._retry_connection = False  # or a GET might be sent twice
        router = Router(session)
        await asyncio.start_unix_server(router.control, sys.argv[1])
        runner = web.ServerRunner(web.Server(router.handle), shutdown_timeout=10)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
        sys.stderr.write(f"routing on port {os.environ['PORT']}\n")
        await asked_to_end.wait()
        await runner.cleanup()  # for users only: copies end with their connections


if __name__ == "__main__":
    asyncio.run(main())
