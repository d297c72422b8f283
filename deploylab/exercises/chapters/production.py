"""Checks for *Make a model service fit for strangers*."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

from deploylab.exercises.engine import Right, Trial, Wrong, exercise, show
from deploylab.exercises.kinds import Before, Guess, order, prediction

if TYPE_CHECKING:
    from deploylab.exercises import live

# -- retries over three tiers --------------------------------------------------------


def _requests_at_model(tiers: int, tries: int) -> int:
    """Requests that reach the last service if every one of them fails."""
    if tiers == 0:
        return 1
    return sum(_requests_at_model(tiers - 1, tries) for _ in range(tries))


predict_tiers = prediction(
    "predict_tiers",
    truth=lambda: float(_requests_at_model(tiers=3, tries=3)),
    tolerance=(0.99, 1.01),
    guesses=[
        Guess(
            float("-inf"),
            1,
            "less-than-once",
            "The click itself is one request, and it reaches the model.",
            "Count the first try, too.",
            plausible=False,
        ),
        Guess(
            1,
            5,
            "one-tier",
            "That is what one tier does alone. The two others see a failure as well, "
            "and ask again.",
            "Follow the shop's three tries, then ask what the gateway does next.",
        ),
        Guess(
            5,
            26.7,
            "added",
            "That adds tiers up. A tier's second try makes the tier below begin all "
            "its tries again, so they multiply.",
            "Write down the requests at the shop first, then those at the model.",
        ),
        Guess(
            27.3,
            float("inf"),
            "too-many",
            "Three askers with three tries each: the first try is one of the three.",
            "Count the askers, and the tries of each, once more.",
        ),
    ],
    what="The number of requests at the model",
    unit="requests",
    hints={
        "*": [
            "How many requests does the shop get for one click, if the gateway tries "
            "three times for each of the browser's three tries?",
            "One factor for each asker.",
        ]
    },
    not_checked="What your own libraries do: some retry without having been asked, "
    "and each of them is a further factor.",
    notice="Retry in one tier. In every further one it is a factor, not a sum.",
)


# -- a budget ------------------------------------------------------------------------


def _allowed(events: list[str], share: float, most: float) -> list[bool]:
    """What the budget allows, decided by counting up from its rules."""
    left, said = most, []
    for event in events:
        if event == "ask":
            left = min(left + share, most)
            continue
        said.append(left >= 1)
        left -= said[-1]
    return said


def _said(t: Trial, events: list[str], share: float, most: float) -> list[bool]:
    """The student's answers for these events; shares are exact in binary."""
    said = t.call(events, share, most, gives="list")
    t.need(
        all(isinstance(one, bool) for one in said)
        and len(said) == events.count("fail"),
        "not-one-each",
        f"{t.said}, and the events have {events.count('fail')} failed tries.",
        "Whoever asks needs a yes or a no for each failure.",
        "Append `True` or `False` for each `fail`, and nothing for an `ask`.",
    )
    return said


@exercise(
    hints={
        "*": [
            "One number says how many retries are left. Which events change it, and "
            "by how much?",
            "An `ask` adds and is cut off at `most`; a `fail` takes one if there is "
            "one.",
            "1 begin with `most`, 2 a loop over the events, 3 `min` for the cap, 4 a "
            "comparison with 1 before you take.",
        ],
        "off-by-one": ["Is exactly one retry left enough for one retry?"],
        "debt": ["What does a refused retry cost?"],
    },
    not_checked="Threads: two that look at the last retry together both take it, "
    "unless a lock keeps them apart. And shares such as 0.1, whose sums are not exact.",
    notice="A budget allows everything on a good day, and nearly nothing on a bad one, "
    "without having to know which it is.",
    wrong=[
        Wrong(
            "begins with nothing",
            "starts-empty",
            patch=(("left, allowed = most, []", "left, allowed = 0, []"),),
        ),
        Wrong(
            "has no limit",
            "no-budget",
            source="""
            def may_retry(events, share, most):
                return [True for event in events if event == "fail"]
            """,
        ),
        Wrong(
            "saves up without an end",
            "no-cap",
            patch=(("min(most, left + share)", "left + share"),),
        ),
        Wrong("wants more than one", "off-by-one", patch=((">= 1", "> 1"),)),
        Wrong(
            "runs into debt",
            "debt",
            patch=(("allowed.append(False)", "left -= 1; allowed.append(False)"),),
        ),
        Wrong(
            "never earns",
            "never-earns",
            patch=(("left = min(most, left + share)", "pass"),),
        ),
        Wrong(
            "earns a fixed tenth",
            "share-written-in",
            patch=(("left + share", "left + 0.25"),),
        ),
        Wrong(
            "lets a part of a retry count",
            "part-counts",
            patch=(("left >= 1", "left > 0"),),
        ),
        Wrong(
            "one for each event",
            "not-one-each",
            patch=(
                (
                    "left = min(most, left + share)",
                    "left = min(most, left + share); allowed.append(True)",
                ),
            ),
        ),
        Wrong(
            "answers with what is left",
            "not-one-each",
            patch=(("allowed.append(True)", "allowed.append(left)"),),
        ),
        Wrong(
            "a refusal takes what is left",
            "off",
            patch=(("allowed.append(False)", "left = 0; allowed.append(False)"),),
        ),
        Wrong(
            "a failure earns as well",
            "failure-earns",
            patch=(("allowed.append(True)", "left += share; allowed.append(True)"),),
        ),
    ],
    also_right=[
        Right(
            "counts in another unit",
            source="""
            def may_retry(events, share, most):
                cost = 1 / share
                full = tokens = most / share
                said = []
                for event in events:
                    if event == "ask":
                        tokens = min(full, tokens + 1)
                        continue
                    said.append(bool(tokens >= cost))
                    tokens -= cost * said[-1]
                return said
            """,
        ),
    ],
)
def retry_budget(t: Trial) -> None:
    """A retry budget over a list of events."""
    said = _said(t, ["ask", "fail"], 0.25, 4)
    t.need(
        said == [True],
        "starts-empty",
        f"{t.said}; the budget begins with 4 retries.",
        "The first failure of the day would be given up.",
        "Begin with `most`.",
    )
    said = _said(t, ["fail"] * 6, 0.25, 4)
    t.need(
        said != [True] * 6,
        "no-budget",
        f"{t.said}; the budget holds 4 retries.",
        "In an outage everything fails, and everything would come again.",
        "Take one for each retry, and refuse when none is left.",
    )
    t.need(
        said[3] is True,
        "off-by-one",
        f"{t.said}; at the fourth failure one retry is left.",
        "The budget is smaller than was agreed.",
        "Compare with `>=`.",
    )
    t.need(
        sum(said) == 4,
        "failure-earns",
        f"{t.said}; there were 4 retries, and nobody has asked anything new.",
        "A failure that pays for retries feeds the storm.",
        "Add to the budget for an `ask` alone.",
    )
    t.good("begins full, and refuses when nothing is left")
    said = _said(t, ["fail"] * 3 + ["ask"] * 4 + ["fail"], 0.25, 1)
    t.need(
        said[-1] is True or _said(t, ["fail", *["ask"] * 4, "fail"], 0.25, 1)[-1],
        "never-earns",
        f"{t.said}; four questions earn a quarter each.",
        "After the first outage nothing would ever be retried again.",
        "Add `share` for each `ask`.",
    )
    said = _said(t, ["fail"] * 3 + ["ask"] * 4 + ["fail"], 0.25, 1)
    t.need(
        said[-1] is True,
        "debt",
        f"{t.said}; a refused retry costs nothing, so four questions earn one.",
        "The longer the outage, the longer nobody may retry after it.",
        "Take one only where you say `True`.",
    )
    t.good("each question earns its share")
    said = _said(t, ["fail", "fail", "ask", "fail"], 0.5, 2)
    t.need(
        said[-1] is False,
        "part-counts",
        f"{t.said}; half a retry is left at the last failure.",
        "Every question would pay for a whole retry, whatever the share.",
        "Ask whether at least one is left.",
    )
    said = _said(t, ["ask"] * 40 + ["fail"] * 6, 0.25, 4)
    t.need(
        said == [True] * 4 + [False] * 2,
        "no-cap",
        f"{t.said}; the budget holds 4 at the most.",
        "A quiet night would save up enough retries for a storm in the morning.",
        "Cut the sum off at `most`.",
    )
    said = _said(t, ["fail", *["ask"] * 4, "fail"], 0.125, 1)
    t.need(
        said[-1] is False,
        "share-written-in",
        f"{t.said}; four questions with a share of 0.125 earn half a retry.",
        "Each service agrees on a share of its own.",
        "Use the argument `share`.",
    )
    t.good("it holds no more than `most`, and earns what was agreed")
    for share, most in [(0.25, 3), (0.125, 2), (0.5, 5)]:
        events = t.rng.choice(["ask", "fail"], size=30).tolist()
        said = _said(t, events, share, most)
        t.need(
            said == _allowed(events, share, most),
            "off",
            f"{t.said}, and {_allowed(events, share, most)} follows from the rules.",
            "",
            "Go through these events by hand, and write down what is left.",
        )
    t.good("right for mixed events, too")


# -- labels --------------------------------------------------------------------------

ROUTES = ("/health", "/ready", "/predict")


def _labels(t: Trial, *args: Any) -> dict[str, str]:
    """The student's labels of one request."""
    given = t.call(*args, gives="dict")
    t.need(
        all(isinstance(k, str) and isinstance(v, str) for k, v in given.items()),
        "not-text",
        f"{t.said}.",
        "Prometheus stores names and values of labels as text.",
        "Make each value a `str`.",
    )
    return given


def _many(t: Trial, vary: int, values: list[str]) -> set[tuple]:
    """The label sets of requests that differ in one argument alone."""
    base: list[Any] = ["POST", "/predict", 200, "anna"]
    found = set()
    for value in values:
        base[vary] = value
        found.add(tuple(sorted(_labels(t, *base).items())))
    return found


@exercise(
    "fix",
    starting="f699da812f5d0b02",
    hints={
        "*": [
            "Which of the four arguments can a stranger choose?",
            "For each of them: is there a list of the values that you want to tell "
            "apart?",
            "1 leave the user out, 2 a known route or `other`, 3 a known method or "
            "`other`.",
        ],
        "routes-merged": ["Whose errors are they? The route is worth a label."],
    },
    not_checked="How many label sets are too many for your metrics server, and "
    "whether you would rather have a label for the client's plan, of which there are "
    "three.",
    notice="A label's values come from a list of yours. What a stranger sends is one "
    "word: other.",
    wrong=[
        Wrong(
            "keeps the user",
            "user-label",
            patch=(('"status": str(status),', '"status": str(status), "user": user,'),),
        ),
        Wrong(
            "keeps a piece of the user",
            "user-label",
            patch=(
                ('"status": str(status),', '"status": str(status), "u": user[:2],'),
            ),
        ),
        Wrong(
            "keeps the path",
            "path-label",
            patch=(('path if path in ROUTES else "other"', "path"),),
        ),
        Wrong(
            "takes what begins like a route",
            "path-label",
            patch=(("path in ROUTES", "path.startswith(ROUTES)"),),
        ),
        Wrong(
            "keeps the method",
            "method-label",
            patch=(('method if method in METHODS else "other"', "method"),),
        ),
        Wrong(
            "keeps a piece of the method",
            "method-label",
            patch=(('method if method in METHODS else "other"', "method[:4]"),),
        ),
        Wrong(
            "throws the route away",
            "routes-merged",
            patch=(('path if path in ROUTES else "other"', '"all"'),),
        ),
        Wrong(
            "knows one route only",
            "routes-merged",
            patch=(("path in ROUTES", 'path == "/predict"'),),
        ),
        Wrong(
            "throws the status away",
            "status-merged",
            patch=(("str(status)", '"any"'),),
        ),
        Wrong(
            "merges good and bad",
            "status-merged",
            patch=(("str(status)", 'f"{status // 400}"'),),
        ),
        Wrong(
            "leaves a label out where it is not known",
            "names-differ",
            source="""
            def labels(method, path, status, user):
                found = {"status": str(status)}
                if path in ("/health", "/ready", "/predict"):
                    found["route"] = path
                return found
            """,
        ),
        Wrong("numbers for text", "not-text", patch=(("str(status)", "status"),)),
    ],
    also_right=[
        Right(
            "no label for the method, classes of status beside the status",
            source="""
            def labels(method, path, status, user):
                known = {"/health", "/ready", "/predict"}
                return {
                    "route": path if path in known else "none",
                    "class": f"{status // 100}xx",
                    "status": f"{status}",
                }
            """,
        ),
    ],
)
def label_explosion(t: Trial) -> None:
    """Labels whose values strangers cannot multiply."""
    users = [f"user-{number}" for number in range(20)]
    users += [f"{chr(97 + n)}{n}@example.org" for n in range(20)]
    found = _many(t, 3, users)
    t.need(
        len(found) == 1,
        "user-label",
        f"40 users, the same request: {len(found)} different label sets.",
        "Every user is a time series for weeks, and users come without an end.",
        "Leave out what says who it was; the log has it.",
    )
    t.good("users do not multiply the series")
    paths = [f"/predict/{n}" for n in range(20)] + [f"/{n}.php" for n in range(20)]
    found = _many(t, 1, paths)
    t.need(
        len(found) <= 3,
        "path-label",
        f"40 paths that are none of the routes: {len(found)} different label sets.",
        "Anybody with a word list fills your metrics server.",
        "Use the route that was matched, and one word for all other paths.",
    )
    t.good("paths do not, either")
    methods = [f"METHOD{n}" for n in range(20)]
    methods += [f"{a}{b}Y" for a in "ABCDE" for b in "KLMN"]
    found = _many(t, 0, methods)
    t.need(
        len(found) <= 3,
        "method-label",
        f"40 invented methods: {len(found)} different label sets.",
        "HTTP lets the caller write any word there.",
        "Keep a list of methods, and one word for the rest.",
    )
    t.good("nor do invented methods")
    found = _many(t, 1, list(ROUTES))
    t.need(
        len(found) == len(ROUTES),
        "routes-merged",
        f"Requests to {', '.join(ROUTES)} have {len(found)} label sets.",
        "Errors of a probe and errors of a prediction are different alarms.",
        "Keep the known routes apart.",
    )
    found = _many(t, 2, [200, 422, 429, 503])
    t.need(
        len(found) == 4,
        "status-merged",
        f"The statuses 200, 422, 429 and 503 have {len(found)} label sets.",
        "A caller's mistake and a broken server look alike.",
        "Keep the status as it is: there are few of them, and they are yours.",
    )
    t.good("routes and statuses stay apart")
    known = sorted(_labels(t, "POST", "/predict", 200, "anna"))
    other = sorted(_labels(t, "POST", "/x", 404, "anna"))
    t.need(
        known == other,
        "names-differ",
        f"For `/predict` the names are `{known}`, for `/x` they are `{other}`.",
        "A metric has one set of names, and the client library raises an error.",
        "Give every label a value, if only `other`.",
    )


# -- a chain of timeouts -------------------------------------------------------------

order_timeouts = order(
    "order_timeouts",
    {
        "A": "How long the service waits for the feature store.",
        "B": "The proxy's limit on waiting for the service's answer.",
        "C": "The service's own deadline for a request.",
        "D": "The browser's limit on waiting for its answer.",
        "F": "The grace period between SIGTERM and SIGKILL of the service.",
    },
    [
        Before(
            "A", "C", "store-outlasts",
            "The service would give up while it still waits for the store, and could "
            "not answer without it.",
            "Who waits for whom here, and who has to be finished first?",
        ),
        Before(
            "C", "B", "proxy-first",
            "The proxy would give up first: the caller gets the proxy's 504, and the "
            "service goes on working for nobody.",
            "Ask whose answer says more: the service's or the proxy's?",
        ),
        Before(
            "B", "D", "browser-first",
            "The browser would be gone before the proxy's answer, and would ask again "
            "while the first request is still being worked on.",
            "The outermost waits longest.",
        ),
        Before(
            "C", "F", "killed-in-flight",
            "A request that may still be answered would be cut off by every release.",
            "Ask how long the slowest request may take after SIGTERM.",
        ),
    ],
    distractors={
        "E": "What always answers has its day, too. A wait without a limit holds a "
        "thread for ever, and after a few of them the service stands still.",
        "G": "The service would work on for nobody, and get the same question again: "
        "more load, at the moment when it is slow.",
    },
    example="ACBDF",
    others=["A C B F D", "A C F B D"],
    hints={
        "*": [
            "Who of two has to give up first, so that its answer still finds "
            "somebody who listens?",
            "From the inside to the outside, each a little longer.",
        ]
    },
    not_checked="By how much each should be longer: the network and the work in "
    "between decide, and a measurement of p99 tells.",
    notice="The one who waits outlasts the one who works.",
    noun="time",
    left_out=(
        "A wait without a number in this chain is one without an end.",
        "Look for the wait whose length you take for granted.",
    ),
)  # fmt: skip


# -- a guarded service ---------------------------------------------------------------


def _post(
    program: live.Program, body: bytes, key: str | None, length: int | None = None
) -> tuple[int, str, dict[str, str], str]:
    """POST /predict: status (0: no answer), text, headers in lower case, the error.

    length: announced in place of the body's own.
    """
    import http.client

    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = key
    headers["Content-Length"] = str(len(body) if length is None else length)
    connection = http.client.HTTPConnection(*program.address, timeout=3)
    try:
        connection.putrequest("POST", "/predict")
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()
        if body:
            connection.send(body)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return answer.status, text, {k.lower(): v for k, v in answer.getheaders()}, ""
    except TimeoutError:
        return 0, "", {}, "no answer within 3 s"
    except (OSError, http.client.HTTPException):
        return 0, "", {}, "the connection was closed"
    finally:
        connection.close()


def _gave(status: int, error: str) -> str:
    return f"gave {status}" if status else f"got no answer ({error})"


def _is_error(text: str) -> bool:
    try:
        said = json.loads(text)
    except ValueError:
        return False
    return isinstance(said, dict) and bool(said.get("error"))


def _need_started(t: Trial, program: live.Program) -> None:
    """It comes up, and its probes are open."""
    from deploylab.exercises import live

    program.let_load()
    while not program.ask("/health", timeout_s=0.5).status:
        said = program.last_words()
        t.need(
            not program.died(),
            "died",
            f"`python {program.file.name}` ended with {program.died()}. "
            + (f"Its log says `{said}`." if said else "Its log is empty."),
            "",
            "Start the program by hand, as the exercise says, and read its output.",
        )
        t.need(
            not program.hangs(),
            "no-answer",
            f"After {program.seconds:.0f} s nobody answers on port {program.port}, "
            "which stood in `PORT`.",
            "",
            "Keep the last two lines of the program as the page gives them."
            if program.ports()
            else live.LISTENS_NOWHERE,
        )
        time.sleep(0.02)
    for path in ("/health", "/ready"):
        reply = program.ask(path)
        t.need(
            reply.status == 200,
            "probes-closed",
            f"`GET {path}` without a key {reply.said}.",
            "Whoever restarts the process or routes to it has no key, and would take "
            "a healthy service out.",
            "Let the two probes through before you look for a key.",
        )
    t.good("probes need no key")


@exercise(
    "program",
    live=True,
    starting="2bf8d683aedbdc7b",
    limit_s=60,
    memory_bytes=None,
    hints={
        "*": [
            "What can you know before the body is read?",
            "`@app.before_request` runs before each route; what it returns is the "
            "answer, and `None` lets the request pass.",
            "1 let the probes through, 2 take the header apart, 3 hash and compare, "
            "4 look at `request.content_length`.",
        ],
        "reads-first": [
            "`request.get_data()` waits for all that was announced. Which header says "
            "how much that will be?"
        ],
        "crash-on-header": [
            "`hmac.compare_digest` refuses text with letters beyond ASCII. What has "
            "only ASCII letters, whatever was sent?"
        ],
    },
    not_checked="Whether the comparison takes equally long for all keys: over a "
    "network that shows in thousands of requests only. Bodies in chunks, many callers "
    "at once, and TLS, without which a key is no secret.",
    notice="A guard reads headers, names what is open, and closes the rest.",
    wrong=[
        Wrong(
            "has no guard",
            "open",
            patch=(("@app.before_request\n", ""),),
        ),
        Wrong(
            "asks for some key",
            "any-key",
            patch=(("or not known", "or not key"),),
        ),
        Wrong(
            "asks the probes as well",
            "probes-closed",
            patch=(("if request.path in open_to_all", "if not request.path"),),
        ),
        Wrong(
            "forgets to hash",
            "hash-is-key",
            patch=(
                (
                    "hashlib.sha256(key.encode()).hexdigest()",
                    'key.encode("ascii", "replace").decode()',
                ),
            ),
        ),
        Wrong(
            "writes the hash in another way",
            "good-refused",
            patch=(("hexdigest()", "hexdigest().upper()"),),
        ),
        Wrong(
            "compares the beginning",
            "any-key",
            patch=(
                (
                    'hmac.compare_digest(given, os.environ["KEY_SHA256"])',
                    'given[:0] == os.environ["KEY_SHA256"][:0]',
                ),
            ),
        ),
        Wrong(
            "raises at letters beyond ASCII",
            "crash-on-header",
            patch=(("key.encode()", 'key.encode("ascii")'),),
        ),
        Wrong(
            "takes the last word of the header",
            "crash-without-key",
            patch=(
                (
                    'scheme, _, key = request.headers.get("Authorization", "")'
                    '.partition(" ")',
                    'scheme = "bearer"\n'
                    '    key = request.headers.get("Authorization", "").split()[-1]',
                ),
            ),
        ),
        Wrong(
            "waits for something before it opens the port",
            "no-answer",
            patch=(
                (
                    "app = Flask",
                    "import threading\nthreading.Event().wait()\napp = Flask",
                ),
            ),
        ),
        Wrong(
            "says 403",
            "not-401",
            patch=(("}, 401,", "}, 403,"),),
        ),
        Wrong(
            "does not say how",
            "no-challenge",
            patch=((', {"WWW-Authenticate": "Bearer"}', ""),),
        ),
        Wrong(
            "takes any size",
            "size-unlimited",
            patch=(("or request.content_length > 4096", "or False"),),
        ),
        Wrong(
            "takes a little more",
            "size-unlimited",
            patch=(("> 4096", "> 65536"),),
        ),
        Wrong(
            "takes less than it promised",
            "refuses-small",
            patch=(("> 4096", "> 1024"),),
        ),
        Wrong(
            "reads the body to know its size",
            "reads-first",
            patch=(
                (
                    "request.content_length is None or request.content_length > 4096",
                    "len(request.get_data()) > 4096",
                ),
            ),
        ),
        Wrong(
            "looks at the length before the key",
            "size-first",
            patch=(
                (
                    "    scheme, _, key",
                    "    if (request.content_length or 0) > 4096:\n"
                    '        return {"error": "too large"}, 413\n'
                    "    scheme, _, key",
                ),
            ),
        ),
        Wrong(
            "reads the body before the key",
            "reads-first",
            patch=(
                ("    scheme, _, key", "    request.get_data()\n    scheme, _, key"),
            ),
        ),
        Wrong(
            "refuses without a word",
            "no-json",
            patch=(('{"error": "no key"}', '""'),),
        ),
        Wrong(
            "repeats the key",
            "key-shown",
            patch=(('"no key"', 'f"no such key: {key}"'),),
        ),
        Wrong(
            "writes the key into the log",
            "key-logged",
            patch=(
                (
                    "    given = hash",
                    '    print("key", key, flush=True)\n    given = hash',
                ),
            ),
        ),
        Wrong(
            "is an address",
            "not-a-program",
            source="""
            class Work(str):
                def __truediv__(self, name):
                    return str(self)

            work = Work("http://127.0.0.1:8000")
            """,
        ),
        Wrong(
            "ends at once",
            "died",
            patch=(('os.environ["ARTIFACT"]', 'os.environ["MODEL"]'),),
        ),
        Wrong(
            "listens elsewhere",
            "no-answer",
            patch=(('int(os.environ["PORT"])', "0"),),
        ),
        Wrong(
            "lets bad rows crash",
            "contract-lost",
            patch=(("@app.errorhandler(contract.ContractError)\n", ""),),
        ),
    ],
    also_right=[
        Right(
            "a limit of Flask's, and a guard in the route",
            source="""
            %%writefile {work}/guard.py
            import hashlib
            import hmac
            import os

            from flask import Flask, abort, request
            from werkzeug.exceptions import HTTPException
            from werkzeug.serving import make_server

            from deploylab import artifacts, contract

            app = Flask(__name__)
            app.config["MAX_CONTENT_LENGTH"] = 4096
            model = artifacts.load(os.environ["ARTIFACT"])
            good = bytes.fromhex(os.environ["KEY_SHA256"])

            @app.get("/health")
            @app.get("/ready")
            def probe():
                return {"status": "ready"}

            @app.post("/predict")
            def predict():
                given = request.headers.get("Authorization", "").encode("latin-1")
                key = given.removeprefix(b"Bearer ")
                same = hmac.compare_digest(hashlib.sha256(key).digest(), good)
                if not same or key == given:
                    answer = {"error": "who are you?"}
                    return answer, 401, {"WWW-Authenticate": 'Bearer realm="model"'}
                row = model.artifact.contract.parse(request.get_data())
                return {"probability": float(model.score([row])[0])}

            @app.errorhandler(contract.ContractError)
            def refuse(error):
                return error.as_json(), error.status

            @app.errorhandler(HTTPException)
            def explain(error):
                return {"error": error.name}, error.code

            port = int(os.environ["PORT"])
            make_server("127.0.0.1", port, app, threaded=True).serve_forever()
            """,
        ),
    ],
)
def guard_service(t: Trial) -> None:
    """A service with a guard that the student writes."""
    from deploylab import artifacts, phishing
    from deploylab.exercises import live

    t.say("The check of your server")
    if isinstance(t.thing, str):
        t.stop(
            "not-a-program",
            f"`{show(t.thing)}` is an address, and the check needs the program.",
            "It starts the program with a key that it knows.",
            "Give the path of the file.",
        )
    secret = t.rng.bytes(24).hex()
    saved = artifacts.save(phishing.version("v1"), "artifact")
    hashed = hashlib.sha256(secret.encode()).hexdigest()
    with live.Program(t.thing, saved, {"KEY_SHA256": hashed}) as program:
        _need_started(t, program)
        _need_keys(t, program, secret)
        _need_limit(t, program, secret)


def _need_keys(t: Trial, program: live.Program, secret: str) -> None:
    """Who has no good key is refused, at once; who has it is served."""
    from deploylab import phishing

    good = dict.fromkeys(phishing.CONTRACT.names, 0.0)
    row = json.dumps(good).encode()
    hashed = hashlib.sha256(secret.encode()).hexdigest()
    strangers = {
        "without a key": None,
        "with the key `guess`": "Bearer guess",
        "with an empty key": "Bearer ",
        "with the hash for a key": f"Bearer {hashed}",
        "with a key of letters beyond ASCII": "Bearer schl\xfcssel",
    }
    for name, key in strangers.items():
        status, text, headers, error = _post(program, row, key)
        t.need(
            status != 200 or key is not None,
            "open",
            "`POST /predict` without a key gave 200.",
            "The model answers people whom nobody has let in.",
            "Look at the header `Authorization` before the route is run.",
        )
        t.need(
            status != 200 or hashed not in (key or ""),
            "hash-is-key",
            f"`POST /predict` {name} gave 200.",
            "Whoever reads your settings has a key to the door.",
            "Hash what came, and compare the hashes.",
        )
        t.need(
            status != 200,
            "any-key",
            f"`POST /predict` {name} gave 200.",
            "The model answers people whom nobody has let in.",
            "Hash what came, and compare it, all of it, with `KEY_SHA256`.",
        )
        t.need(
            0 < status < 500 or "ASCII" in name,
            "crash-without-key",
            f"`POST /predict` {name} {_gave(status, error)}. "
            f"Its log says `{program.last_words()}`.",
            "A stranger's header counts as the server's fault, and wakes somebody up.",
            "Ask what your code does with a header that is missing, empty or short: "
            "the last line of the log says what went amiss.",
        )
        t.need(
            0 < status < 500,
            "crash-on-header",
            f"`POST /predict` {name} {_gave(status, error)}. "
            f"Its log says `{program.last_words()}`.",
            "A stranger's header counts as the server's fault, and wakes somebody up.",
            "Make bytes of the text before you hash it, in an encoding that has all "
            "letters.",
        )
        t.need(
            status == 401,
            "not-401",
            f"`POST /predict` {name} gave {status}.",
            "401 says *I do not know you*; 403 is for somebody known who may not.",
            "Answer 401.",
        )
        t.need(
            "www-authenticate" in headers,
            "no-challenge",
            f"The 401 {name} has no `WWW-Authenticate` header.",
            "HTTP wants a 401 to say how one makes oneself known, and clients read it.",
            'Add the header `WWW-Authenticate`, with the value `"Bearer"`.',
        )
        t.need(
            _is_error(text),
            "no-json",
            f"The 401 {name} has the body `{show(text.strip(), 60)}`.",
            "Clients read one form of refusal, the one that the contract has.",
            "Answer a JSON object with an `error`.",
        )
    *_, text, _, _ = _post(program, row, "Bearer almost-the-key")
    t.need(
        "almost-the-key" not in text,
        "key-shown",
        f"A refused key came back in the answer: `{show(text.strip(), 60)}`.",
        "Answers end up in logs and on screens, and the next key may be a good one "
        "with a letter too many.",
        "Say that the key is not known, without the key.",
    )
    t.good("strangers get 401, in the contract's form")
    status, text, _, error = _post(program, row, f"Bearer {secret}")
    t.need(
        status == 200 and "probability" in text,
        "good-refused",
        f"`POST /predict` with the good key {_gave(status, error)}.",
        "Nobody can use the service.",
        "Compare the SHA-256 of the key, in hexadecimal, with `KEY_SHA256`.",
    )
    bad = json.dumps(good | {"https": 7}).encode()
    status, *_ = _post(program, bad, f"Bearer {secret}")
    t.need(
        status == 422,
        "contract-lost",
        f"With the good key, a row that breaks the contract gave {status}.",
        "The guard has taken the contract's place instead of standing before it.",
        "Leave the route and the handler of `ContractError` as they were.",
    )
    t.need(
        secret not in program.log(),
        "key-logged",
        f"The good key, `{secret[:6]}...`, stands in the log of your program.",
        "A log is read by more people than a key is meant for, and is kept longer.",
        "Log who it was, or nothing.",
    )
    t.good("the good key opens, and stands in no log")


def _need_limit(t: Trial, program: live.Program, secret: str) -> None:
    """A body that is too large is refused, and is not waited for."""
    from deploylab import phishing

    row = json.dumps(dict.fromkeys(phishing.CONTRACT.names, 0.0)).encode()
    key = f"Bearer {secret}"
    status, *_, error = _post(program, row.ljust(4096), key)
    t.need(
        status == 200,
        "refuses-small",
        f"A good row with spaces up to 4,096 bytes {_gave(status, error)}.",
        "The limit that was promised is not the one that callers meet.",
        "Refuse what is larger than 4,096 bytes.",
    )
    status, text, _, error = _post(program, row.ljust(4097), key)
    t.need(
        status == 413,
        "size-unlimited",
        f"A body of 4,097 bytes {_gave(status, error)}.",
        "Without a limit the caller decides how much memory a request takes.",
        "Compare `request.content_length` with 4,096, and answer 413.",
    )
    t.need(
        _is_error(text),
        "no-json",
        f"The 413 has the body `{show(text.strip(), 60)}`.",
        "Clients read one form of refusal, the one that the contract has.",
        "Answer a JSON object with an `error`.",
    )
    for who, given, wanted in (("the good", key, 413), ("no", None, 401)):
        status, *_, error = _post(program, b"", given, length=2**30)
        t.need(
            status != 0,
            "reads-first",
            f"A caller with {who} key announced a gigabyte, sent nothing, and "
            f"{_gave(status, error)}; {wanted} was promised at once.",
            "Who only announces a body holds a thread for as long as you wait for it.",
            "Decide by the headers, before anything reads the body.",
        )
        t.need(
            status == wanted,
            "size-first",
            f"A caller with {who} key announced a gigabyte, and "
            f"{_gave(status, error)}; {wanted} was promised.",
            "A stranger needs to hear that a key is missing, not how to send less.",
            "Look for the key first, and at the length then.",
        )
    t.good("large bodies get 413, and nobody waits for them")
