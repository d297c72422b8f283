"""Queues: how long single requests wait, by formula and drawn, exact either way.

Requests stand in the last axis of every array, in order of arrival; axes before it
are replications. In `shared_queue` each request takes whichever server of the group can
begin it first; in `separate_queues` a router has chosen one before. Both know how fast
each server is, so that old and new versions can stand side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite, prod
from operator import index

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Served:
    """What became of each request: arrays of the shape of the arrivals.

    waits_s: seconds from arrival until a server began; nan for a request that was lost.
    services_s: seconds that the server took; nan as well. server: which one answered,
    counted from 0; -1 for a request that was lost.
    """

    waits_s: np.ndarray
    services_s: np.ndarray
    server: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        """Whether nobody answered."""
        return self.server < 0

    @property
    def latency_s(self) -> np.ndarray:
        """Seconds from arrival to answer; nan for a request that was lost."""
        return self.waits_s + self.services_s


def erlang_c(servers: int, offered_erlangs: float) -> float:
    """Chance that a request has to wait in an M/M/c queue (Erlang 1917).

    offered_erlangs: arrivals per second times mean service in seconds, which is how
    many servers are busy on average; ValueError unless it is less than ``servers``.
    B(k) = a B(k - 1) / (k + a B(k - 1)), B(0) = 1, gives Erlang's loss formula without
    a factorial, and C = B / (1 - a / c (1 - B)).
    """
    servers = _number(servers)
    if not 0 <= offered_erlangs < servers:
        raise ValueError(
            f"{offered_erlangs:g} erlangs are offered to {servers} servers: the load "
            "must be at least 0 and less than the servers, or the queue grows without "
            "end. Take more servers, or less traffic"
        )
    loss = 1.0
    for k in range(1, servers + 1):
        loss *= offered_erlangs / (k + offered_erlangs * loss)
    return loss / (1 - offered_erlangs / servers * (1 - loss))


def mean_wait_s(servers: int, arrivals_per_s: float, service_s: float) -> float:
    """Mean seconds that a request of an M/M/c queue waits, of all requests.

    service_s: mean service. With a = arrivals_per_s * service_s erlangs it is
    C(c, a) * service_s / (c - a). ValueError for a load that the servers cannot carry.
    """
    if not (arrivals_per_s >= 0 and isfinite(service_s) and service_s > 0):
        raise ValueError(
            f"{arrivals_per_s} arrivals per second of {service_s} s each: take a rate "
            "of at least 0 and a service of more than 0 s"
        )
    offered = arrivals_per_s * service_s
    return erlang_c(servers, offered) * service_s / (servers - offered)


def lindley(arrivals_s: ArrayLike, services_s: ArrayLike) -> np.ndarray:
    """Seconds that each request waits at one server, first come, first served.

    arrivals_s: shape (..., n), never decreasing. services_s: of a shape that broadcasts
    to it, at least 0. The server is idle at first. ValueError for other input.
    Lindley's recursion (1952), W' = max(0, W + S - gap), has the solution
    W = X - min(X so far), where X adds up S - gap; so it takes no loop.
    """
    arrivals, services = _requests(arrivals_s, services_s)
    walk = np.zeros(arrivals.shape)
    gaps = np.diff(arrivals, axis=-1)
    np.subtract(services[..., :-1], gaps, out=walk[..., 1:])
    np.add.accumulate(walk, axis=-1, out=walk)
    return walk - np.minimum.accumulate(walk, axis=-1)


def shared_queue(
    arrivals_s: ArrayLike,
    work: ArrayLike,
    service_s: ArrayLike,
    opens_s: ArrayLike = -inf,
    closes_s: ArrayLike = inf,
    patience_s: float = inf,
) -> Served:
    """One queue before a group of servers, first come, first served.

    arrivals_s: shape (..., n), never decreasing. work: of a shape that broadcasts to
    it, at least 0. service_s: seconds of each server for a unit of work, shape (c,) or
    (..., c); ones if ``work`` is in seconds already, the mean of its version if
    ``work`` has mean 1. opens_s, closes_s: a server begins requests from the one until
    before the other, and ends what it began; shapes that broadcast to ``service_s``.
    patience_s: a request that would wait longer is lost, and takes no server's time;
    without patience it is lost only if no server will ever take it. ValueError for
    other input.

    Of several servers that are free, the one that has been so for longest begins.
    Each step of the recursion (Kiefer and Wolfowitz 1955, who sort the servers' work;
    here each keeps its place, since it has a version) is one request of all
    replications, so many cost little more than one.
    """
    arrivals, work = _requests(arrivals_s, work)
    *outer, n = arrivals.shape
    service, opens, closes = _servers(outer, service_s, opens_s, closes_s)
    if not patience_s >= 0:
        raise ValueError(f"patience_s is at least 0 seconds, not {patience_s}")
    nobody_leaves = patience_s == inf and (closes == inf).all()
    # A request that nobody will ever take waits for ever: longer than any patience.
    patience_s = min(patience_s, np.finfo(float).max)
    replications, c = service.shape
    first = np.arange(replications) * c
    service, free, closes = service.ravel(), opens.ravel(), closes.ravel()
    arrivals, work = (
        np.ascontiguousarray(each.reshape(replications, n).T)
        for each in (arrivals, work)
    )
    starts, services = np.empty((2, n, replications))
    places = np.empty((n, replications), int)

    def soonest(arrival: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = first + free.reshape(replications, c).argmin(axis=1)
        return place, np.maximum(arrival, free.take(place))

    for i, arrival in enumerate(arrivals):
        place, start = soonest(arrival)
        if not nobody_leaves:
            while (shut := (closes.take(place) <= start) & (start < inf)).any():
                free[place[shut]] = inf  # then who is the soonest of the others?
                place, start = soonest(arrival)
        np.multiply(service.take(place), work[i], out=services[i])
        end = start + services[i]
        if not nobody_leaves:
            end = np.where(start - arrival <= patience_s, end, free.take(place))
        free[place] = end
        starts[i], places[i] = start, place
    waits, server = starts - arrivals, places - first
    lost = ~(waits <= patience_s)
    waits[lost] = services[lost] = np.nan
    server[lost] = -1
    return Served(*(each.T.reshape(*outer, n) for each in (waits, services, server)))


def separate_queues(
    arrivals_s: ArrayLike, work: ArrayLike, service_s: ArrayLike, server: ArrayLike
) -> Served:
    """A queue before each server, because a router has chosen when a request came.

    arrivals_s, work, service_s: as in `shared_queue`. server: whom each request goes
    to, integers from 0 to c - 1 of a shape that broadcasts to the arrivals:
    ``rng.integers(c, size=n)`` at random, ``np.arange(n) % c`` by turns. No request is
    lost. ValueError for other input. It is `lindley` for each server.
    """
    arrivals, work = _requests(arrivals_s, work)
    *outer, n = arrivals.shape
    service, _, _ = _servers(outer, service_s, -inf, inf)
    replications, c = service.shape
    server = _choices(server, arrivals.shape, c)
    services = service.reshape(*outer, c)
    services = np.take_along_axis(services, server, axis=-1) * work
    # Each queue becomes a row of its own, filled up with requests after its last.
    short = np.min_scalar_type(c)  # small integers are sorted much faster
    rows = server.reshape(replications, n).astype(short)
    order = np.argsort(rows, axis=1, kind="stable")
    order += np.arange(replications)[:, None] * n
    queue = (rows + np.arange(replications)[:, None] * c).ravel()
    lengths = np.bincount(queue, minlength=replications * c)
    place = np.arange(queue.size) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    order, queue = order.ravel(), np.repeat(np.arange(lengths.size), lengths)
    shape = (lengths.size, lengths.max(initial=0))
    come = np.full(shape, arrivals.max(initial=0))
    take = np.zeros(shape)
    come[queue, place] = arrivals.ravel()[order]
    take[queue, place] = services.ravel()[order]
    waits = np.empty(arrivals.size)
    waits[order] = lindley(come, take)[queue, place]
    return Served(waits.reshape(arrivals.shape), services, server)


def _number(servers: int) -> int:
    try:
        servers = index(servers)
    except TypeError:
        raise ValueError(f"servers are counted: 1, 2, 3; not {servers!r}") from None
    if servers < 1:
        raise ValueError(f"it takes at least 1 server, not {servers}")
    return servers


def _requests(arrivals_s: ArrayLike, work: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as floats of one shape, after a look at them."""
    arrivals, work = np.asarray(arrivals_s, float), np.asarray(work, float)
    try:
        both = np.broadcast_arrays(arrivals, work)
    except ValueError:
        both = ()
    if not both or not arrivals.ndim or both[0].shape[-1] != arrivals.shape[-1]:
        raise ValueError(
            f"arrivals of shape {arrivals.shape} and services of shape {work.shape} do "
            "not belong together: the last axis of both counts the requests"
        )
    ends = arrivals[..., :1], arrivals[..., -1:]
    with np.errstate(invalid="ignore"):  # of inf - inf, which is refused below
        in_order = np.diff(arrivals, axis=-1).min(initial=0) >= 0
    if not in_order or not np.isfinite(ends).all():
        raise ValueError(
            "the arrivals are not in order, or not finite: sort them by time, and "
            "their services with them"
        )
    if not (work.min(initial=0) >= 0 and work.max(initial=0) < inf):
        raise ValueError(
            "a service takes a finite time of at least 0; look for negative numbers "
            "and nan among them"
        )
    return both


def _servers(
    outer: list[int], service_s: ArrayLike, opens_s: ArrayLike, closes_s: ArrayLike
) -> list[np.ndarray]:
    """Each as an array of its own, (replications, c), after a look at them."""
    each = [np.asarray(one, float) for one in (service_s, opens_s, closes_s)]
    c = each[0].shape[-1] if each[0].ndim else 0
    if not c:
        raise ValueError(
            f"service_s has shape {each[0].shape}, and needs an entry for each server: "
            "np.ones(10) for ten that take one second for a unit of work"
        )
    try:
        service, opens, closes = (np.broadcast_to(one, (*outer, c)) for one in each)
    except ValueError:
        shapes = ", ".join(str(one.shape) for one in each)
        raise ValueError(
            f"service_s, opens_s and closes_s have shapes {shapes}: each has an entry "
            f"for each of the {c} servers, and before that the axes of the arrivals or "
            "none"
        ) from None
    if not ((service > 0) & (service < inf)).all():
        raise ValueError("service_s is above 0 seconds, and finite, for each server")
    if not (opens <= closes).all():
        late = np.flatnonzero(~(opens <= closes).reshape(-1, c).all(axis=0))[0]
        raise ValueError(
            f"server {late} closes before it opens, or one of its times is nan; for "
            "one that never serves take the same time twice"
        )
    return [one.reshape(prod(outer), c).copy() for one in (service, opens, closes)]


def _choices(server: ArrayLike, shape: tuple[int, ...], c: int) -> np.ndarray:
    server = np.asarray(server)
    if server.size and server.dtype.kind not in "iu":
        raise ValueError(f"server holds numbers from 0 to {c - 1}, as integers")
    try:
        server = np.broadcast_to(server, shape).astype(int)
    except ValueError:
        raise ValueError(
            f"server has shape {server.shape}, and needs an entry for each request: "
            f"{shape}"
        ) from None
    if server.min(initial=0) < 0 or server.max(initial=0) >= c:
        raise ValueError(
            f"the requests go to servers {server.min()} to {server.max()}, and there "
            f"are servers 0 to {c - 1}"
        )
    return server
