"""Queues wait as the formulas say, as an event loop says, and as SimPy says.

Two kinds of comparison. On the same arrivals and services the waits must be the same:
equal where both sides add the same floats, to 1e-9 s where they do not. Against Erlang
C each replication gives one request, its last, so that what is compared is independent
and its law is exact: the number that wait is binomial, and the sum of their waits a
gamma. Each comparison has two sides of ALARM; there are fewer than twenty, so that
right code fails one of them with a chance below 1e-6, and the seeds are fixed.
"""

import math
import time
from collections import deque
from heapq import heapify, heappop, heappush

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deploylab.rollout import Canary, Gate, SplitEProcess
from deploylab.rollout.model import CANDIDATE, STABLE
from deploylab.rollout.queues import (
    erlang_c,
    lindley,
    mean_wait_s,
    separate_queues,
    shared_queue,
)
from deploylab.rollout.simulate import canaries

ALARM = 1e-8
INF = math.inf
#: A quarter of a second is exact in binary, and makes things happen at the same time.
SECONDS = st.integers(0, 16).map(lambda n: n / 4) | st.floats(0, 4)
#: No test asserts a time.
at_leisure = settings(deadline=None)


def traffic(rng, servers, load, *shape):
    """Poisson arrivals for servers that take 1 s on average; exponential services."""
    arrivals = rng.standard_exponential(shape).cumsum(axis=-1) / (servers * load)
    return arrivals, rng.standard_exponential(shape)


# -- formulas ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("servers", "erlangs", "chance", "wait"),
    [(10, 7, 0.22173, 0.0739), (8, 7, 0.63532, 0.6353), (1, 0.7, 0.7, 0.7 / 0.3)],
)
def test_erlang_c(servers, erlangs, chance, wait):
    assert erlang_c(servers, erlangs) == pytest.approx(chance, abs=5e-6)
    assert mean_wait_s(servers, erlangs, 1) == pytest.approx(wait, abs=5e-5)
    # In other units of time: the same share waits, a tenth as long.
    assert mean_wait_s(servers, 10 * erlangs, 0.1) == pytest.approx(wait / 10, abs=5e-6)


@at_leisure
@given(st.integers(1, 30), st.floats(0, 0.999))
def test_erlang_c_is_its_series(servers, load):
    a = servers * load
    below = sum(a**k / math.factorial(k) for k in range(servers))
    last = a**servers / math.factorial(servers) * servers / (servers - a)
    assert erlang_c(servers, a) == pytest.approx(last / (below + last), rel=1e-9)


def test_erlang_c_for_thousands_of_servers():
    # Halfin and Whitt (1981): b spare roots of c give 1 / (1 + b F(b) / f(b)) in the
    # limit; their factorials would have overflowed at 171.
    c, b = 1_000_000, 1.0
    limit = 1 / (1 + b * stats.norm.cdf(b) / stats.norm.pdf(b))
    assert erlang_c(c, c - b * math.sqrt(c)) == pytest.approx(limit, rel=1e-3)
    assert erlang_c(10_000, 10.0) == 0 == erlang_c(3, 0)


# -- the same waits as a loop --------------------------------------------------------


def event_by_event(arrivals, work, service, opens, closes, patience):
    """What one queue does, with a clock that jumps from event to event."""
    events = [(arrival, "came", i) for i, arrival in enumerate(arrivals)]
    events += [(opens[j], "free", j) for j in range(len(service))]
    heapify(events)
    queue, free_since = deque(), {}
    waits, server = np.full(len(arrivals), np.nan), np.full(len(arrivals), -1)
    while events:
        now = events[0][0]
        while events and events[0][0] == now:
            _, what, which = heappop(events)
            if what == "came":
                queue.append(which)
            else:
                free_since[which] = now
        while True:
            free_since = {j: t for j, t in free_since.items() if now < closes[j]}
            while queue and now - arrivals[queue[0]] > patience:
                queue.popleft()
            if not queue or not free_since:
                break
            i, j = queue.popleft(), min(free_since, key=lambda j: (free_since[j], j))
            waits[i], server[i] = now - arrivals[i], j
            end = now + service[j] * work[i]
            if end > now:
                del free_since[j]
                heappush(events, (end, "free", j))
            else:
                free_since[j] = now
    return waits, server


@st.composite
def groups(draw):
    """Some replications of a few requests and servers, each with its own windows."""
    replications, n, c = (
        draw(st.integers(*ends)) for ends in [(1, 3), (0, 12), (1, 4)]
    )

    def table(columns, values):
        rows = st.lists(values, min_size=columns, max_size=columns)
        drawn = draw(st.lists(rows, min_size=replications, max_size=replications))
        return np.array(drawn, float).reshape(replications, columns)

    arrivals = np.sort(table(n, SECONDS), axis=1)
    service = table(c, st.sampled_from([0.25, 0.5, 1, 2]))
    opens = table(c, SECONDS | st.sampled_from([-INF, INF]))
    closes = np.maximum(opens, table(c, SECONDS | st.just(INF)))
    patience = draw(SECONDS | st.just(INF))
    return arrivals, table(n, SECONDS), service, opens, closes, patience


@at_leisure
@given(groups())
def test_one_queue_is_its_events(case):
    *tables, patience = case
    served = shared_queue(*tables, patience)
    for k, rows in enumerate(zip(*tables, strict=True)):
        waits, server = event_by_event(*rows, patience)
        np.testing.assert_array_equal(served.waits_s[k], waits)
        np.testing.assert_array_equal(served.server[k], server)
        expected = np.where(server < 0, np.nan, rows[2][server] * rows[1])
        np.testing.assert_array_equal(served.services_s[k], expected)
    np.testing.assert_array_equal(served.lost, np.isnan(served.latency_s))


@at_leisure
@given(groups())
def test_one_server_is_lindley(case):
    arrivals, work, service, *_ = case
    shared = shared_queue(arrivals, work, service[:, :1])
    alone = lindley(arrivals, work * service[:, :1])
    np.testing.assert_allclose(alone, shared.waits_s, rtol=0, atol=1e-9)
    assert not shared.lost.any()


@at_leisure
@given(groups(), st.data())
def test_separate_queues_are_queues_of_one(case, data):
    arrivals, work, service, *_ = case
    c = service.shape[1]
    one = st.lists(st.integers(0, c - 1), min_size=work.size, max_size=work.size)
    server = np.array(data.draw(one), int).reshape(work.shape)
    served = separate_queues(arrivals, work, service, server)
    for k in range(len(arrivals)):
        for j in range(c):
            mine = server[k] == j
            alone = shared_queue(arrivals[k, mine], work[k, mine], service[k, [j]])
            np.testing.assert_allclose(
                served.waits_s[k, mine], alone.waits_s, rtol=0, atol=1e-9
            )
            np.testing.assert_array_equal(served.services_s[k, mine], alone.services_s)
    np.testing.assert_array_equal(served.server, server)


def test_lindley_on_a_long_run():
    arrivals, services = traffic(np.random.default_rng(1), 1, 0.95, 50_000)
    waits, wait = [0.0], 0.0
    for gap, service in zip(np.diff(arrivals), services[:-1], strict=True):
        wait = max(0.0, wait + service - gap)
        waits.append(wait)
    np.testing.assert_allclose(lindley(arrivals, services), waits, rtol=0, atol=1e-9)
    # A clock that has run for ages changes nothing but the last digits.
    late = lindley(arrivals + 2.0**30, services)
    np.testing.assert_allclose(late, waits, rtol=0, atol=1e-3)


def test_axes():
    """Axes before the last are replications; what is the same for all is given once."""
    rng = np.random.default_rng(2)
    arrivals, work = traffic(rng, 3, 0.9, 2, 4, 50)
    service, chosen = np.array([1.0, 0.5, 2.0]), np.arange(50) % 3
    for serve in (
        lambda a, w: shared_queue(a, w, service, [0, 1, 2], 9, patience_s=2).waits_s,
        lambda a, w: separate_queues(a, w, service, chosen).waits_s,
        lindley,
    ):
        together = serve(arrivals, work)
        assert together.shape == (2, 4, 50)
        for k in np.ndindex(2, 4):
            alone = serve(arrivals[k], work[k])
            np.testing.assert_allclose(together[k], alone, rtol=0, atol=1e-12)
        same = serve(arrivals, 0.5)
        np.testing.assert_array_equal(same[1, 2], serve(arrivals[1, 2], 0.5))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5)])
def test_no_requests(shape):
    nothing = np.zeros(shape)
    assert lindley(nothing, nothing).shape == shape
    assert shared_queue(nothing, nothing, [1, 2], 3, 4, 5).waits_s.shape == shape
    none = separate_queues(nothing, nothing, [1, 2], nothing.astype(int))
    assert none.latency_s.shape == none.server.shape == shape


# -- the same waits as SimPy ---------------------------------------------------------


def simpy_waits(arrivals, services, servers):
    """Waits of one queue before a group of equal servers, by SimPy."""
    env = simpy.Environment()
    group = simpy.Resource(env, servers)
    waits = [math.nan] * len(arrivals)

    def request(i, service):
        came = env.now
        with group.request() as turn:
            yield turn
            waits[i] = env.now - came
            yield env.timeout(service)

    def source():
        for i, (gap, service) in enumerate(zip(gaps, services, strict=True)):
            yield env.timeout(gap)
            env.process(request(i, service))

    gaps = np.diff(arrivals, prepend=0).tolist()
    services = services.tolist()
    env.process(source())
    env.run()
    return waits


def simpy_group(arrivals, work, service, opens, closes, patience):
    """Waits and servers of a group whose servers come and go, by SimPy."""
    env = simpy.Environment()
    idle = simpy.Store(env)
    waits, server = np.full(len(arrivals), np.nan), np.full(len(arrivals), -1)

    def window(j):
        yield env.timeout(opens[j])
        idle.put(j)
        yield env.timeout(closes[j] - opens[j])
        if j in idle.items:
            idle.items.remove(j)

    def request(i):
        yield env.timeout(arrivals[i])
        turn = idle.get()
        yield turn | env.timeout(patience)
        if not turn.triggered:
            turn.cancel()
            return
        j = turn.value
        waits[i], server[i] = env.now - arrivals[i], j
        yield env.timeout(service[j] * work[i])
        if env.now < closes[j]:
            idle.put(j)

    for j in range(len(service)):
        env.process(window(j))
    for i in range(len(arrivals)):
        env.process(request(i))
    env.run()
    return waits, server


@pytest.mark.parametrize("servers", [1, 10])
def test_simpy_finds_the_same_waits(servers):
    arrivals, work = traffic(np.random.default_rng(3), servers, 0.9, 4_000)
    theirs = simpy_waits(arrivals, work, servers)
    assert np.count_nonzero(theirs) > 1_000, "nobody waited: nothing was compared"
    ours = shared_queue(arrivals, work, np.ones(servers)).waits_s
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
    if servers == 1:
        alone = lindley(arrivals, work)
        np.testing.assert_allclose(alone, theirs, rtol=0, atol=1e-9)


def test_simpy_finds_the_same_queues_behind_a_router():
    rng = np.random.default_rng(4)
    arrivals, work = traffic(rng, 5, 0.8, 4_000)
    service, chosen = np.array([1.0, 1.0, 1.0, 1.2, 0.6]), rng.integers(5, size=4_000)
    ours = separate_queues(arrivals, work, service, chosen)
    for j in range(5):
        mine = chosen == j
        theirs = simpy_waits(arrivals[mine], service[j] * work[mine], 1)
        np.testing.assert_allclose(ours.waits_s[mine], theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("patience_s", [0.4, 1e6])
def test_simpy_finds_the_same_rollout(patience_s):
    """Old servers leave, new and slower ones come, in two waves with a gap."""
    arrivals, work = traffic(np.random.default_rng(5), 6, 0.9, 2_000)
    end = arrivals[-1]
    service = np.array([1.0] * 6 + [1.1] * 6)
    opens = np.array([0.0] * 6 + [0.3 * end] * 3 + [0.7 * end] * 3)
    closes = np.array([0.29 * end] * 3 + [0.69 * end] * 3 + [2 * end] * 6)
    waits, server = simpy_group(arrivals, work, service, opens, closes, patience_s)
    ours = shared_queue(arrivals, work, service, opens, closes, patience_s)
    np.testing.assert_allclose(ours.waits_s, waits, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours.server, server)
    assert set(server) == set(range(12)) | ({-1} if patience_s < 1 else set())


# -- the same law as Erlang C --------------------------------------------------------


def agrees(last_waits, servers, load):
    """Whether independent waits in M/M/c, with services of 1 s, have Erlang's law."""
    # Of those who wait, each waits an exponential time of mean 1 / (c - a).
    chance, mean = erlang_c(servers, servers * load), 1 / (servers * (1 - load))
    waited = last_waits[last_waits > 0]
    number = stats.binom(last_waits.size, chance)
    total = stats.gamma(waited.size, scale=mean)
    return number.ppf(ALARM) <= waited.size <= number.isf(ALARM) and total.ppf(
        ALARM
    ) <= waited.sum() <= total.isf(ALARM)


# So many requests that the empty start is forgotten: what is left of it shrinks with
# each by the factor exp(-(1 - sqrt(load))**2 / load), and in all below 1e-6.
@pytest.mark.parametrize(
    ("servers", "load", "replications", "n"),
    [(1, 0.7, 4_000, 500), (10, 0.7, 8_000, 500), (8, 0.875, 1_000, 3_000)],
)
def test_one_queue_has_the_law_of_erlang(servers, load, replications, n):
    arrivals, work = traffic(np.random.default_rng(6), servers, load, replications, n)
    last = shared_queue(arrivals, work, np.ones(servers)).waits_s[:, -1]
    assert agrees(last, servers, load)
    # The comparison can fail: at a load that is one tenth less, it does.
    assert not agrees(last, servers, 0.9 * load)
    if servers == 1:
        assert agrees(lindley(arrivals, work)[:, -1], servers, load)


def test_random_routing_makes_queues_of_one():
    """Five queues of one server wait as one such queue: more than one queue of five."""
    rng = np.random.default_rng(7)
    arrivals, work = traffic(rng, 5, 0.7, 800, 2_500)
    chosen = rng.integers(5, size=arrivals.shape)
    last = separate_queues(arrivals, work, np.ones(5), chosen).waits_s[:, -1]
    assert agrees(last, 1, 0.7)
    assert not agrees(last, 5, 0.7)


# -- rollouts ------------------------------------------------------------------------


def test_recreate_makes_requests_wait_or_lose_patience():
    """Two old servers leave at 10 s, three new ones are ready at 16 s."""
    arrivals = np.arange(24.0)
    service, opens = [1, 1, 0.5, 0.5, 0.5], [0, 0, 16, 16, 16]
    closes = [10, 10, INF, INF, INF]
    served = shared_queue(arrivals, 1.0, service, opens, closes)
    np.testing.assert_array_equal(served.waits_s[:10], 0)
    starts = arrivals + served.waits_s
    # Six have waited when the new ones open, three at a time; then there is no queue.
    np.testing.assert_array_equal(starts[10:16], [16, 16, 16, 16.5, 16.5, 16.5])
    np.testing.assert_array_equal(starts[16:18], [17, 17])
    np.testing.assert_array_equal(served.waits_s[18:], 0)
    np.testing.assert_array_equal(served.server[:10] < 2, True)
    np.testing.assert_array_equal(served.server[10:] >= 2, True)
    # Three seconds are enough for the request that waits three seconds, not for more.
    hurried = shared_queue(arrivals, 1.0, service, opens, closes, patience_s=3)
    np.testing.assert_array_equal(np.flatnonzero(hurried.lost), [10, 11, 12])
    np.testing.assert_array_equal(hurried.waits_s[13:17], [3, 2, 1, 0.5])
    np.testing.assert_array_equal(hurried.waits_s[17:], 0)
    assert np.isnan(hurried.latency_s[10:13]).all()


def test_a_server_finishes_what_it_began_and_begins_nothing_more():
    served = shared_queue([0.5, 0.75, 1.0], 2.0, [1.0, 1.0], closes_s=[1.0, 0.75])
    np.testing.assert_array_equal(served.server, [0, -1, -1])
    assert served.latency_s[0] == 2.0
    # Who waits just as long as its patience is served, and keeps the server busy.
    served = shared_queue([0.0, 0.0, 0.0], 1.0, [1.0], patience_s=1.0)
    np.testing.assert_array_equal(served.waits_s, [0.0, 1.0, np.nan])
    # Open from 1 s on, so at 1 s.
    served = shared_queue([0.0, 1.0], 0.0, [1.0], opens_s=1.0, closes_s=1.25)
    np.testing.assert_array_equal(served.waits_s, [1.0, 0.0])
    # Never ready: nobody is served, however patient.
    assert shared_queue([0.0, 1.0], 1.0, [1.0], opens_s=INF).lost.all()


def test_rollback_onto_a_stable_that_was_scaled_down():
    """Six erlangs on two servers: a load of 3, and the wait grows by 2/3 s a second."""
    arrivals = np.arange(600) / 6
    served = shared_queue(arrivals, 1.0, np.ones(2))
    # Pair by pair: begun a second after the one before, come a third after it.
    expected = np.arange(600) // 2 * (1 - 2 / 6)
    np.testing.assert_allclose(served.waits_s, expected, rtol=0, atol=1e-9)
    # With patience, two in three are lost, and nobody who is served waits for longer.
    hurried = shared_queue(arrivals, 1.0, np.ones(2), patience_s=5)
    assert hurried.lost[60:].mean() == pytest.approx(2 / 3, abs=0.01)
    assert np.nanmax(hurried.waits_s) <= 5


def test_who_answers_is_decided_by_who_is_free():
    # One at a time: by turns, because the one that has rested for longest begins.
    quiet = shared_queue(np.arange(9.0), 0.5, [1.0, 0.1, 1.5])
    np.testing.assert_array_equal(quiet.server, [0, 1, 2] * 3)
    # Always busy: as often as they are fast.
    busy = shared_queue(np.zeros(900), 1.0, [1.0, 0.5])
    np.testing.assert_array_equal(np.bincount(busy.server), [300, 600])


# -- bad input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: erlang_c(7, 7), "7 erlangs are offered to 7 servers"),
        (lambda: erlang_c(2, -1), "at least 0"),
        (lambda: erlang_c(2, math.nan), "nan erlangs"),
        (lambda: erlang_c(0, 0.5), "at least 1 server"),
        (lambda: erlang_c(2.5, 0.5), "counted"),
        (lambda: mean_wait_s(10, 100, 0.1), "grows without end"),
        (lambda: mean_wait_s(1, 1, 0), "more than 0 s"),
        (lambda: mean_wait_s(1, -1, 0.5), "rate of at least 0"),
        (lambda: mean_wait_s(1, 0, INF), "more than 0 s"),
        (lambda: lindley([1, 0], [1, 1]), "not in order"),
        (lambda: lindley([0, math.nan], [1, 1]), "not in order, or not finite"),
        (lambda: lindley([0, INF, INF], 1), "not finite"),
        (lambda: lindley([-INF, 0], 1), "not finite"),
        (lambda: lindley([0, 1], [1, -1]), "at least 0"),
        (lambda: lindley([0, 1], [1, math.nan]), "nan"),
        (lambda: lindley([0, 1], [INF, 1]), "finite time"),
        (lambda: lindley([0, 1], [1, 1, 1]), r"shape \(2,\) and .* \(3,\)"),
        (lambda: lindley([0], [1, 1, 1]), "last axis"),
        (lambda: lindley(0, 1), "last axis"),
        (lambda: shared_queue([1, 0], 1, [1]), "not in order"),
        (lambda: shared_queue([0], 1, 1.0), r"np.ones\(10\)"),
        (lambda: shared_queue([0], 1, []), "entry for each server"),
        (lambda: shared_queue([0], 1, [1, 0]), "above 0"),
        (lambda: shared_queue([0], 1, [1, math.nan]), "above 0"),
        (lambda: shared_queue([0], 1, [1, 1], [0, 0, 0]), "each of the 2 servers"),
        (lambda: shared_queue([[0], [0]], 1, np.ones((3, 1))), "axes of the arrivals"),
        (lambda: shared_queue([0], 1, [1, 1], 0, [1, -1]), "server 1 closes before"),
        (lambda: shared_queue([0], 1, [1, 1], [math.nan, 0]), "server 0 .* nan"),
        (lambda: shared_queue([0], 1, [1], patience_s=-1), "at least 0 seconds"),
        (lambda: shared_queue([0], 1, [1], patience_s=math.nan), "not nan"),
        (lambda: separate_queues([0, 1], 1, [1, 1], [0, 2]), "servers 0 to 2"),
        (lambda: separate_queues([0, 1], 1, [1, 1], [-1, 0]), "servers -1 to 0"),
        (lambda: separate_queues([0, 1], 1, [1], [0, 0, 0]), r"\(2,\)"),
        (lambda: separate_queues([0, 1], 1, [1], [0.0, 0.0]), "integers"),
        (lambda: separate_queues([0, 1], -1, [1], [0, 0]), "at least 0"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# -- measured ------------------------------------------------------------------------


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@pytest.mark.bench
@pytest.mark.parametrize("servers", [1, 10])
def test_bench_queues(servers):
    """Requests per second beside SimPy, in turns, drawing included on both sides.

    The target is a ratio of 50 at least; it is printed, not asserted.
    """
    rng = np.random.default_rng(8)
    many, few = (1_000, 2_000), 20_000
    ours = {
        "shared_queue": lambda a, w: shared_queue(a, w, np.ones(servers)),
        "with patience": lambda a, w: shared_queue(
            a, w, np.ones(servers), closes_s=1e9, patience_s=0.5
        ),
        "separate_queues": lambda a, w: separate_queues(
            a, w, np.ones(servers), rng.integers(servers, size=a.shape)
        ),
    }
    if servers == 1:
        ours["lindley"] = lindley
    ratios = {name: [] for name in ours}
    rates = []
    for _ in range(7):
        their_s = seconds(
            lambda: simpy_waits(*traffic(rng, servers, 0.7, few), servers)
        )
        rates.append(few / their_s)
        for name, serve in ours.items():
            our_s = seconds(lambda s=serve: s(*traffic(rng, servers, 0.7, *many)))
            ratios[name].append(math.prod(many) / our_s / rates[-1])
    print(
        f"\nM/M/{servers}, {many[0]} replications of {many[1]} requests; SimPy "
        f"{np.median(rates):,.0f} requests/s; times as many:"
    )
    for name, each in ratios.items():
        low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
        print(f"  {name:16} {middle:4.0f}  (quartiles {low:.0f} to {high:.0f})")
        assert len(each) == 7, "every round was measured"


def simpy_canary(strategy, rates, requests_per_s, rng):
    """One canary, request by request, by SimPy: no queue; exposed requests."""
    env = simpy.Environment()
    judge = strategy.gates[0].judge
    role_of = (STABLE, CANDIDATE)
    share, logs, running = 0.0, np.zeros(len(judge.ratios)), True
    requests, errors = [0, 0], [0, 0]

    def request(uniforms):
        role = int(uniforms[0] < share)
        yield env.timeout(0.02)
        requests[role] += 1
        errors[role] += uniforms[1] < rates[role_of[role]]["errors"]

    def source():
        while running:
            gaps = rng.exponential(1 / requests_per_s, 1_000).tolist()
            uniforms = rng.random((1_000, 2)).tolist()
            for gap, pair in zip(gaps, uniforms, strict=True):
                yield env.timeout(gap)
                env.process(request(pair))

    def controller():
        nonlocal share, logs, running
        for share in strategy.shares:
            gain, loss = judge.weights(share)
            for _ in range(int(strategy.bake_s)):
                before = list(errors)
                yield env.timeout(1)
                new = [now - then for now, then in zip(errors, before, strict=True)]
                logs = logs + new[1] * gain - new[0] * loss
                if judge.mean_of(logs[None])[0] >= 1 / judge.alpha:
                    running = False
                    return
        running = False

    env.process(source())
    env.run(env.process(controller()))
    return requests[1]


@pytest.mark.bench
def test_bench_canaries():
    """Ten minutes at 100 requests/s: one by SimPy beside 10,000 by `canaries`."""
    gate = Gate("errors", SplitEProcess(check_ratio=False))
    strategy = Canary((0.05, 0.2, 0.5), bake_s=200, gates=(gate,))
    rates = {STABLE: {"errors": 0.002}, CANDIDATE: {"errors": 0.002}}
    rng = np.random.default_rng(9)
    one_s, many_s, exposed = [], [], []
    for _ in range(5):
        one_s.append(
            seconds(lambda: exposed.append(simpy_canary(strategy, rates, 100, rng)))
        )
        many_s.append(seconds(lambda: canaries(strategy, rates, 100, rng, 10_000)))
    one, many = np.median(one_s), np.median(many_s)
    print(
        f"\na canary of 10 minutes at 100 requests/s: SimPy {one:.2f} s for one "
        f"({1 / one:.1f} rollouts/s), canaries {many:.2f} s for 10,000 "
        f"({10_000 / many:,.0f} rollouts/s, {10_000 / many * one:,.0f} times as many)"
    )
    assert max(exposed) > 10_000, "no canary by SimPy went through its stages"
