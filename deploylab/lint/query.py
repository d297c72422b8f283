"""What a query measures, recognised for the documented patterns, and nothing else.

A pattern is a share of requests: the rate of those with a bad (or a good) status over
the rate of all, as in the documentation of Argo Rollouts (docs/features/analysis.md)
and in Flagger's built-in queries (pkg/metrics/observers). Latency, counts and
comparisons of two versions are not computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

#: Characters; a longer query is not looked at.
MAX_QUERY = 5_000

CANDIDATE, STABLE, BOTH = "candidate", "stable", "both"

#: Stands for the pod hash of a version in a query whose arguments are filled in.
LATEST_HASH, STABLE_HASH, UNKNOWN = "@latest", "@stable", "@unknown"

_STATUS = {
    "status", "code", "status_code", "response_code", "http_status", "classification",
    "http_status_code", "http_response_status_code", "response_code_class",
    "envoy_response_code_class", "envoy_response_code", "status_class",
}  # fmt: skip
#: Labels that choose a service, an application or its pods, and so both versions.
_SERVICE = {
    "service", "service_name", "exported_service", "destination_service", "job", "app",
    "destination_service_name", "destination_workload", "destination_app", "container",
    "deployment", "workload", "host", "ingress", "exported_namespace", "namespace",
    "destination_workload_namespace", "destination_service_namespace", "pod", "rollout",
    "kubernetes_namespace", "kubernetes_pod_name", "envoy_cluster_name", "upstream",
    "destination_canonical_service", "application", "model", "name", "rsname",
}  # fmt: skip
#: Labels that say who counted, or which version it was; not fewer requests by design.
_OTHER = {
    "reporter", "direction", "version", "revision", "track", "role", "canary",
    "destination_version", "destination_canonical_revision", "release", "variant",
    "rollouts_pod_template_hash", "pod_template_hash", "rs", "slot", "color",
    "label_rollouts_pod_template_hash", "pod_hash",
}  # fmt: skip
#: Words in the name of a counter of requests, and words that say it counts others.
_REQUESTS = {
    "request", "requests", "req", "reqs", "rq", "response", "responses", "http", "rpc",
    "rpcs", "grpc", "call", "calls", "handled", "hits", "serve", "served",
    "predictions", "inferences",
}  # fmt: skip
_OTHER_UNITS = {
    "sum", "bucket", "seconds", "milliseconds", "microseconds", "ms", "duration",
    "latency", "time", "bytes", "size", "cost", "tokens",
}  # fmt: skip
_NOT_ALL = {
    "error", "errors", "failed", "failure", "failures", "retry", "retries", "timeout",
    "timeouts", "dropped", "rejected", "cancelled", "flight", "active", "pending",
}  # fmt: skip
_NAMESPACES = {label for label in _SERVICE if label.endswith("namespace")}
#: Labels that say where a metric was scraped, in which many workloads may be.
_ANY = {"job", "container", "reporter", "direction"}
_MINE = {"canary", "candidate", "preview"}
_THEIRS = {"stable", "primary"}


class NotRecognised(Exception):
    """Why a query or a condition is not computed."""


class CanaryIngress(NotRecognised):
    """A query on the canary Ingress or its Service, which ingress-nginx never names."""

    def __init__(self, chosen: str) -> None:
        super().__init__(f"ingress-nginx counts no request under {chosen[:80]}")
        self.chosen = chosen[:80]


@dataclass(frozen=True)
class Ratio:
    """A share of requests. of: "errors" or "successes"; scale: 1, or 100 for percent.

    window_s: how far it looks back; None for irate, which looks at the last two
    samples. reads: whose requests. empty: what it gives without any request, None for
    nothing at all, else a number. least: requests below which it gives nothing.
    waits: whether it gives nothing before the first error, whose counter is not there
    until then.
    """

    of: str
    reads: str
    window_s: float | None
    scale: int = 1
    empty: Fraction | None = None
    least: int = 1
    waits: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Names:
    """What tells the versions apart. Each set holds names of services or workloads.

    turns: Services that are the old version's in one release and the new one's in the
    next. ingress: the main Ingress, under which ingress-nginx counts both versions.
    """

    candidate: frozenset[str] = frozenset()
    stable: frozenset[str] = frozenset()
    both: frozenset[str] = frozenset()
    turns: frozenset[str] = frozenset()
    ingress: frozenset[str] = frozenset()
    arguments: Mapping[str, str] = field(default_factory=dict)


def seconds(text: object, promql: bool = False) -> float | None:
    """A duration of Go ("1h30m", "500ms", "1.5h") in s; None if it is not.

    promql: of Prometheus, which knows days, weeks and years ("2d"), and no fractions.
    At most a year, or it is none.
    """
    units = {
        "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0,
        "h": 3600.0, "d": 86400.0, "w": 604800.0, "y": 31536000.0,
    }  # fmt: skip
    if not isinstance(text, str) or len(text) > 40:
        return None
    number = r"\d+" if promql else r"\d+(?:\.\d+)?"
    known = "ms|s|m|h|d|w|y" if promql else "ns|us|µs|ms|s|m|h"
    parts = re.findall(rf"({number})({known})", text, re.ASCII)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    total = sum(float(number) * units[unit] for number, unit in parts)
    return total if total <= 366 * 86400 else None


def fill(query: str, arguments: Mapping[str, str]) -> str:
    """A query with its placeholders filled in; unknown ones become a mark."""

    if len(query) > MAX_QUERY:
        return query

    def value(found: re.Match[str]) -> str:
        name = found[1].strip()
        name = name.removeprefix("args.").strip()
        return arguments.get(name, UNKNOWN)

    return re.sub(r"\{\{(.*?)\}\}", value, query)


_TOKEN = re.compile(
    r"\s*(?:#[^\n]*\n\s*)*(?:(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*')"
    r"|(?P<range>\[[^\]]*\])"
    r"|(?P<number>(?<![\w.])\d+(?:\.\d+)?(?:e-?\d\d?)?)"
    r"|(?P<name>[a-zA-Z_:][\w:]*)"
    r"|(?P<sign>!~|=~|!=|==|>=|<=|[{}(),=<>*/+-]))",
    re.ASCII,
)


@dataclass(frozen=True)
class _Flow:
    """sum(rate(metric{...}[window])). summed: whether there is a sum around it.
    or_else: of `or vector(x)` behind it; least: of `>= x`, which leaves nothing of a
    smaller value."""

    metric: str
    matchers: frozenset[tuple[str, str, str]]
    window: str
    function: str
    summed: bool = False
    or_else: Fraction | None = None
    least: int = 1


@dataclass(frozen=True)
class _Share:
    """One flow over another, scaled, or what is left of it."""

    top: _Flow
    all: _Flow
    scale: Fraction = Fraction(1)
    rest: bool = False
    or_else: Fraction | None = None


class _Parser:
    """The small part of PromQL in which such shares are written."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_QUERY:
            raise NotRecognised("its query is longer than 5,000 characters")
        self.tokens: list[tuple[str, str]] = []
        at = 0
        text = text.strip()
        while at < len(text):
            found = _TOKEN.match(text, at)
            if not found or found.end() == at:
                raise NotRecognised("its query is not one of the documented patterns")
            self.tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))
            at = found.end()
        self.at = 0
        self.depth = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise NotRecognised("its query is not one of the documented patterns")
        self.at += 1
        return token

    def whole(self) -> object:
        value = self.either()
        if self.peek():
            raise NotRecognised("its query is not one of the documented patterns")
        return value

    def either(self) -> object:
        self.depth += 1
        if self.depth > 30:
            raise NotRecognised("its query is nested too deep")
        value = self.sum()
        while self.peek() in (">", ">="):
            sign, number = self.take(), self.number()
            if not isinstance(value, _Flow) or value.function != "increase":
                raise NotRecognised("its query is a comparison")
            least = number.__floor__() + 1 if sign == ">" else number.__ceil__()
            value = replace(value, least=max(value.least, least))
        while self.peek() == "or":
            self.take()
            if self.peek() == "on":
                self.take()
                self.take("(")
                self.take(")")
            self.take("vector")
            self.take("(")
            number = self.number()
            self.take(")")
            if isinstance(value, (_Flow, _Share)):
                value = replace(value, or_else=number)
        self.depth -= 1
        return value

    def number(self) -> Fraction:
        if self.tokens[self.at : self.at + 1] and self.tokens[self.at][0] == "number":
            return Fraction(self.take())
        raise NotRecognised("its query is not one of the documented patterns")

    def sum(self) -> object:
        value = self.product()
        while self.peek() == "-":
            self.take()
            other = self.product()
            if isinstance(value, Fraction) and isinstance(other, _Share):
                if value != other.scale or other.rest or other.or_else is not None:
                    raise NotRecognised("its query is not a share of requests")
                value = _Share(other.top, other.all, other.scale, True)
            else:
                raise NotRecognised("its query is a difference")
        return value

    def product(self) -> object:
        value = self.one()
        while self.peek() in ("*", "/"):
            sign, other = self.take(), self.one()
            if sign == "/" and isinstance(value, _Flow) and isinstance(other, _Flow):
                value = _Share(value, other)
            elif sign == "*" and isinstance(value, Fraction):
                value = self.scaled(other, value)
            elif sign == "*" and isinstance(other, Fraction):
                value = self.scaled(value, other)
            else:
                raise NotRecognised("its query is not a share of requests")
        return value

    def scaled(self, value: object, by: Fraction) -> object:
        if not isinstance(value, _Share) or value.or_else is not None:
            # 100 * sum(...) / sum(...) scales the numerator; the same to us.
            raise NotRecognised("its query is not a share of requests")
        return _Share(value.top, value.all, value.scale * by, value.rest)

    def one(self) -> object:
        if self.peek() == "(":
            self.take()
            value = self.either()
            self.take(")")
            return value
        kind = self.tokens[self.at][0] if self.at < len(self.tokens) else ""
        if kind == "number":
            number = self.number()
            if self.peek() == "*":
                # 100 * sum(...) / sum(...): the number scales what follows.
                self.take()
                return self.scaled(self.product(), number)
            return number
        name = self.take()
        if name in ("sum", "scalar"):
            if self.peek() in ("by", "without"):
                raise NotRecognised("its query gives one value for each label, not one")
            self.take("(")
            value = self.either()
            self.take(")")
            if self.peek() in ("by", "without"):
                raise NotRecognised("its query gives one value for each label, not one")
            if name == "sum" and isinstance(value, _Flow):
                value = replace(value, summed=True)
            elif name == "sum":
                raise NotRecognised("its query adds up what is already a share")
            return value
        if name in ("rate", "irate", "increase"):
            self.take("(")
            flow = self.flow(name)
            self.take(")")
            return flow
        if name == "histogram_quantile":
            raise NotRecognised("it measures latency, which is not modelled")
        raise NotRecognised("its query is not one of the documented patterns")

    def flow(self, function: str) -> _Flow:
        metric = self.take()
        matchers = set()
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                label, sign, text = self.take(), self.take(), self.take()
                if sign not in ("=", "!=", "=~", "!~") or text[:1] not in "\"'":
                    raise NotRecognised(
                        "its query is not one of the documented patterns"
                    )
                matchers.add((label, sign, text[1:-1].replace("\\\\", "\\")))
                if self.peek() == ",":
                    self.take()
            self.take("}")
        window = self.take()
        if not window.startswith("["):
            raise NotRecognised("its query is not one of the documented patterns")
        return _Flow(metric, frozenset(matchers), window[1:-1].strip(), function)


def recognise(query: object, names: Names) -> Ratio:
    """What a PromQL query measures. Raises NotRecognised with the reason."""
    if not isinstance(query, str):
        raise NotRecognised("it has no query")
    share = _Parser(fill(query, names.arguments)).whole()
    if not isinstance(share, _Share):
        raise NotRecognised("its query is not a share of requests")
    if share.scale not in (1, 100):
        raise NotRecognised("its query is scaled by something else than 100")
    top, everything = share.top, share.all
    extra, missing = (
        top.matchers - everything.matchers,
        everything.matchers - top.matchers,
    )
    if top.metric != everything.metric or len(extra) != 1 or missing:
        raise NotRecognised(
            "its query does not divide some requests by all of the same kind"
        )
    if not (top.summed and everything.summed):
        raise NotRecognised(
            "its query divides without sum(), so each series by itself alone"
        )
    _counts_requests(top.metric)
    if any(label in _STATUS for label, _, _ in everything.matchers):
        raise NotRecognised("its query leaves out some answers by their status")
    if (top.window, top.function) != (everything.window, everything.function):
        raise NotRecognised("its query divides rates over two different times")
    of = _status(*next(iter(extra)))
    waits = of == "errors" and top.or_else is None and share.or_else is None
    if share.rest:
        of = "successes" if of == "errors" else "errors"
    window_s = seconds(top.window, promql=True)
    if not window_s:
        raise NotRecognised(f"the window [{top.window}] of its query is not known")
    empty = share.or_else
    if top.least > 1 or everything.or_else is not None:
        raise NotRecognised("its query is not a share of requests")
    return Ratio(
        of,
        _reads(everything, names),
        None if top.function == "irate" else window_s,
        int(share.scale),
        empty,
        everything.least,
        waits,
    )


def _counts_requests(metric: str) -> None:
    """Refuse a metric that is not a counter of requests, by its name.

    After Prometheus' conventions: `_count` of a histogram counts what was observed,
    `_sum` adds up seconds or bytes.
    """
    words = re.split(r"[_:]+", metric.lower())
    units = set() if words[-1] == "count" else _OTHER_UNITS.intersection(words)
    for word in (*sorted(units), *sorted(_NOT_ALL.intersection(words))):
        raise NotRecognised(f"{metric[:60]} counts no requests: its name says {word}")
    if not _REQUESTS.intersection(words):
        raise NotRecognised(f"whether {metric[:60]} counts requests is not known here")


def _matches(sign: str, pattern: str, value: str) -> bool:
    """A Prometheus matcher."""
    if sign in ("=", "!="):
        return (pattern == value) == (sign == "=")
    return contains(pattern, value, whole=True) == (sign == "=~")


def contains(pattern: str, text: str, whole: bool = False) -> bool:
    """Whether a regular expression matches somewhere; none is tried that may be slow.

    whole: whether it has to match all of the text. Raises NotRecognised.
    """
    quantifiers = len(re.findall(r"[*+?{]", pattern))
    slow = len(pattern) > 200 or quantifiers > 4 or re.search(r"\)[*+?{]", pattern)
    if slow or (quantifiers and len(text) > 120):
        raise NotRecognised("a pattern in its query is too involved")
    try:
        found = (re.fullmatch if whole else re.search)(pattern, text)
    except (re.error, RecursionError, OverflowError):
        raise NotRecognised("a pattern in its query cannot be read") from None
    return found is not None


def _status(label: str, sign: str, pattern: str) -> str:
    """Whether a matcher on the status takes errors or successes."""
    if label not in _STATUS:
        raise NotRecognised(f"its query takes requests by {label}, not by status")
    for good, bad in (
        (("200", "302"), ("500", "503")),
        (("2", "3"), ("5",)),
        (("2xx", "3xx"), ("5xx",)),
        (("success",), ("failure",)),
    ):
        of_good = {_matches(sign, pattern, value) for value in good}
        of_bad = {_matches(sign, pattern, value) for value in bad}
        if of_bad == {True} and of_good == {False}:
            return "errors"
        if of_bad == {False} and True in of_good:
            return "successes"
    raise NotRecognised(f"its query takes neither all errors nor none by {label}")


def _reads(flow: _Flow, names: Names) -> str:
    """Whose requests the labels choose."""
    found, unknown = set(), ""
    nginx = flow.metric.startswith("nginx_ingress_controller_")
    for label, sign, pattern in sorted(flow.matchers):
        if label in _NAMESPACES or label in ("reporter", "direction"):
            continue
        if UNKNOWN in pattern:
            raise NotRecognised(f"the value of its label {label} is not in the files")
        chosen = f'{label}{sign}"{pattern}"'
        if names.turns and _chooses(label, sign, pattern, names.turns):
            raise NotRecognised(
                f"whose requests {chosen[:80]} chooses changes with each release"
            )
        if label == "canary":
            mark = _canary(sign, pattern, nginx)
        elif nginx and label in _SERVICE:
            mark = _ingress(label, sign, pattern, names)
        else:
            mark = _mark(label, sign, pattern, names)
        if mark:
            found.add(mark)
        elif label in _SERVICE or label in _OTHER:
            if label not in _ANY and not (nginx and label in _SERVICE):
                unknown = unknown or chosen
        else:
            raise NotRecognised(f"its query reads a part of the requests, by {label}")
    if {CANDIDATE, STABLE} <= found:
        raise NotRecognised("it is not clear which version its query reads")
    for mark in (CANDIDATE, STABLE):
        if mark in found:
            return mark
    if unknown:
        raise NotRecognised(f"which version {unknown[:80]} chooses is not in the files")
    if BOTH in found:
        return BOTH
    raise NotRecognised("its query chooses no service, so it reads whatever there is")


def _canary(sign: str, pattern: str, nginx: bool) -> str:
    """The version that a matcher on a label `canary` chooses.

    ingress-nginx (pull request 7696) leaves it empty for the main backend, and gives
    the canary's name for the other; elsewhere only "", and "true", mean something.
    """
    wanted = sign in ("=", "=~")
    if _matches(sign, pattern, ""):
        if wanted and pattern in ("", "^$"):
            return STABLE
        if sign == "=~" and pattern in (".*", "^.*$"):
            return BOTH
    elif (sign, pattern) in (("!=", ""), ("!~", ""), ("!~", "^$")) or (
        wanted and (nginx or pattern in ("true", ".+", "^.+$"))
    ):
        return CANDIDATE
    return ""


def _ingress(label: str, sign: str, pattern: str, names: Names) -> str:
    """What a label of ingress-nginx other than `canary` chooses: never one version.

    The canary's requests are counted under the main Ingress and its Service
    (ingress-nginx issues 4026, 7976).
    """
    main = names.ingress | names.both | names.stable
    if _chooses(label, sign, pattern, main):
        return BOTH
    if _mark(label, sign, pattern, replace(names, both=frozenset())) == CANDIDATE:
        raise CanaryIngress(f'{label}{sign}"{pattern}"')
    return ""


def _mark(label: str, sign: str, pattern: str, names: Names) -> str:
    """The version that one matcher chooses, "" if it is not known."""
    wanted = sign in ("=", "=~")
    if LATEST_HASH in pattern:
        return CANDIDATE if wanted else STABLE
    if STABLE_HASH in pattern:
        return STABLE if wanted else CANDIDATE
    mine = _chooses(label, sign, pattern, names.candidate)
    theirs = _chooses(label, sign, pattern, names.stable)
    if mine != theirs:
        return CANDIDATE if mine else STABLE
    if mine:
        return BOTH
    if _chooses(label, sign, pattern, names.both):
        return BOTH
    words = set(re.split(r"[^a-z]+", pattern.lower()))
    if words & _MINE and not words & _THEIRS:
        return CANDIDATE if wanted else STABLE
    if words & _THEIRS and not words & _MINE:
        return STABLE if wanted else CANDIDATE
    return ""


def _chooses(label: str, sign: str, pattern: str, names: frozenset[str]) -> bool:
    """Whether a matcher takes one of these names, as such, as a host, or as a pod."""
    if sign not in ("=", "=~"):
        return False
    for name in names:
        if pattern.split(".")[0] == name or pattern == name:
            return True
        pod = f"{name}-6c54544bf9-x2x9z"
        if sign == "=~" and _matches(sign, pattern, pod if "pod" in label else name):
            return True
    return False


# Conditions


@dataclass(frozen=True)
class Bound:
    """True while a share of errors is at most (or at least) a limit.

    limit: from 0 to 1 where it makes sense. or_equal: whether the limit itself is in.
    empty: whether it is true without data, None if there is then nothing to compare.
    """

    at_most: bool
    limit: Fraction
    or_equal: bool
    empty: bool | None = None

    def errors(self, requests: int) -> tuple[int, int]:
        """The lowest and the highest number of errors for which it is true."""
        exact = self.limit * requests
        if self.at_most:
            high = exact.__floor__()
            if high == exact and not self.or_equal:
                high -= 1
            return 0, min(high, requests)
        low = exact.__ceil__()
        if low == exact and not self.or_equal:
            low += 1
        return max(0, low), requests


_EMPTY = (
    r"!?\s*(?:isNaN|isNil)\(\s*result(?:\[0\])?\s*\)|len\(\s*result\s*\)\s*(?:==|>|!=)\s*0"
    r"|result\s*(?:==|!=)\s*nil"
)
_COMPARED = re.compile(
    r"(?:asFloat\(\s*)?(?:all\(\s*result\s*,\s*\{?\s*#|(?P<default>default\(\s*)?result"
    r"(?:\[0\])?(?(default)\s*,\s*(?P<instead>[\d.]+)\s*\)))\s*\)?\s*"
    r"(?P<sign>>=|<=|>|<)\s*(?P<number>\d+(?:\.\d+)?(?:e-?\d\d?)?)\s*\}?\s*\)?",
    re.ASCII,
)


def condition(text: object, ratio: Ratio) -> Bound:
    """A condition of Argo Rollouts as a bound on errors. Raises NotRecognised."""
    if not isinstance(text, str) or len(text) > 500:
        raise NotRecognised("its condition is not a comparison of the result")
    empty: bool | None = None
    compared = None
    joined = re.split(r"\s*(\|\||&&|\bor\b|\band\b)\s*", text.strip())
    signs = {"or": "||", "and": "&&"}
    used = {signs.get(sign, sign) for sign in joined[1::2]}
    if len(used) > 1:
        raise NotRecognised("its condition joins several in a way that is not computed")
    for part in joined[::2]:
        part = part.strip()
        while part.startswith("(") and part.endswith(")"):
            part = part[1:-1].strip()
        if re.fullmatch(_EMPTY, part):
            there = part.startswith("!") or ">" in part or "!=" in part
            if there == (used == {"||"}):
                raise NotRecognised("its condition on missing data is not computed")
            empty = not there
            continue
        found = _COMPARED.fullmatch(part)
        if not found or compared:
            raise NotRecognised("its condition is not one comparison of the result")
        compared = found
    if not compared:
        raise NotRecognised("its condition is not a comparison of the result")
    bound = limit(ratio, compared["sign"], Fraction(compared["number"]), empty)
    if compared["instead"] and empty is None:
        value = Fraction(compared["instead"])
        return limit(
            ratio, compared["sign"], bound_value := Fraction(compared["number"]),
            _holds(value, compared["sign"], bound_value),
        )  # fmt: skip
    return bound


def _holds(value: Fraction, sign: str, number: Fraction) -> bool:
    return {
        ">=": value >= number, "<=": value <= number,
        ">": value > number, "<": value < number,
    }[sign]  # fmt: skip


def limit(
    ratio: Ratio, sign: str, number: Fraction, empty: bool | None = None
) -> Bound:
    """`value sign number` of a ratio as a bound on the share of errors.

    number: in the ratio's own scale. For a share of successes r the errors are 1 - r.
    """
    share = number / ratio.scale
    less = sign[0] == "<"
    if ratio.of == "successes":
        share, less = 1 - share, not less
    if empty is None and ratio.empty is not None:
        empty = _holds(ratio.empty, sign, number)
    return Bound(less, share, sign.endswith("="), empty)
