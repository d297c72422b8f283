"""The feature store: one rule for both stores, and no row from the future."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploylab.features import FeatureError, History, Online, materialise

COLUMNS = ["entity", "event_time", "created_time", "reports"]


def rows(*lines: tuple) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=COLUMNS)


def visits(*lines: tuple) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=["entity", "time"])


def history(*lines: tuple) -> History:
    store = History("reports")
    store.add(rows(*lines))
    return store


def known(store: History, *asked: tuple, **more: float) -> list:
    found = store.as_of(visits(*asked), **more)["reports"]
    return found.astype(object).where(found.notna(), None).tolist()


# From the definition, row by row: the way one would do it by hand.


def by_hand(lines: list[tuple], entity: str, now: float, ttl: float) -> float | None:
    written = [line for line in lines if line[0] == entity and line[2] <= now]
    if not written:
        return None
    newest = max(written, key=lambda line: (line[1], line[2]))
    return newest[3] if now - newest[1] <= ttl else None


TIMES = st.integers(0, 6)


@st.composite
def histories(draw) -> list[tuple]:
    keys = draw(st.lists(st.tuples(st.sampled_from("ab"), TIMES, TIMES), unique=True))
    kept = [(site, min(e, c), max(e, c)) for site, e, c in keys]
    return [(*key, float(number)) for number, key in enumerate(dict.fromkeys(kept))]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(histories(), st.sampled_from([float("inf"), 0.0, 2.0]), st.randoms())
def test_both_stores_give_what_the_definition_says(lines, ttl, random):
    shuffled = random.sample(lines, len(lines))
    store = history(*shuffled)
    asked = [(site, now) for now in range(8) for site in "abc"]
    wanted = [by_hand(lines, site, now, ttl) for site, now in asked]
    # Four times: for up to 64 visits DuckDB has another plan.
    assert known(store, *asked * 4, ttl=ttl) == wanted * 4
    read, copied = [], float("-inf")
    with Online(":memory:", "reports") as online:
        for site, now in asked:
            if now > copied:
                materialise(store, online, now, after=copied)
                copied = now
            read.append(online.get(site, now, ttl)["reports"])
        assert read == wanted
        # A run that was cut off is run again: nothing changes.
        materialise(store, online, 7)
        assert online.get("a", 7, ttl)["reports"] == by_hand(lines, "a", 7, ttl)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(histories())
def test_what_was_known_never_changes(lines):
    early = [line for line in lines if line[2] <= 3]
    late = [line for line in lines if line[2] > 3]
    asked = [(site, now) for now in range(4) for site in "ab"]
    store = history(*early)
    before = known(store, *asked)
    store.add(rows(*late))
    assert known(store, *asked) == before


@pytest.mark.parametrize(
    ("lines", "now", "wanted"),
    [
        ([("a", 5, 5, 3.0), ("a", 2, 6, 2.0)], 7, 3.0),  # the second is late
        ([("a", 5, 5, 3.0), ("a", 5, 6, 4.0)], 7, 4.0),  # the second is a correction
        ([("a", 5, 5, 3.0), ("a", 5, 6, 4.0)], 5.5, 3.0),  # not yet
        ([("a", 3, 6, 3.0), ("a", 5, 6, 4.0)], 6, 4.0),  # both in one night
        ([("a", 1, 1, 1.0), ("a", 5, 9, 8.0)], 8, 1.0),  # from the future
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_late_rows_corrections_and_the_future(lines, now, wanted, turned):
    store = history(*(reversed(lines) if turned else lines))
    assert known(store, ("a", now)) == [wanted]
    with Online(":memory:", "reports") as online:
        materialise(store, online, now)
        assert online.get("a", now) == {"reports": wanted}
        online.put(rows(*[line for line in lines if line[2] <= now][::-1]))
        assert online.get("a", now) == {"reports": wanted}


def test_visits_keep_their_order_their_index_and_their_columns():
    store = history(("a", 1, 1, 5.0), ("b", 2, 2, 6.0))
    asked = pd.DataFrame(
        {"label": [1, 0, 1], "entity": ["b", "nobody", "a"], "time": [3, 3, 0.5]},
        index=[9, 3, 3],
    )
    found = store.as_of(asked)
    assert found.index.tolist() == [9, 3, 3]
    assert found.drop(columns="reports").equals(asked)
    assert found["reports"].fillna(-1).tolist() == [6, -1, -1]


def test_a_value_that_is_missing_stays_missing_in_both_stores():
    store = history(("a", 1, 1, 5.0), ("a", 2, 2, None))
    assert known(store, ("a", 1.5), ("a", 2)) == [5, None]
    with Online(":memory:", "reports") as online:
        materialise(store, online, 3)
        assert online.get("a", 3) == {"reports": None}


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([("a", 2, 1, 0)], "created before their event"),
        ([("a", 1, 1, 0), ("a", 1, 1, 1)], "two rows have the same entity"),
        ([("a", None, 1, 0)], "a time is missing"),
        ([("a", 1, float("inf"), 0)], "a time is missing"),
        ([(None, 1, 1, 0)], "no entity"),
        ([("a", 1, 1, "many")], "must be numbers"),
        ([("a", 1, 4, 0)], "rows up to created_time 4"),
        ([("a", 5, 5, 0), ("a", 1, 3, 0)], "rows up to created_time 4"),
    ],
)
def test_rows_that_cannot_be_taken_are_refused_whole(lines, says):
    store = history(("x", 1, 4, 7.0))
    with pytest.raises(FeatureError, match=says):
        store.add(rows(*lines))
    assert len(store.written(float("-inf"), float("inf"))) == 1


def test_a_row_that_no_run_would_copy_any_more_is_refused():
    """`until` was too late: what was written meanwhile is behind the watermark."""
    store = history(("a", 1, 1, 5.0))
    with Online(":memory:", "reports") as online:
        assert materialise(store, online, until=3) == 1
        materialise(store, online, until=2)  # an older run, run again
        with pytest.raises(FeatureError, match=r"up to created_time 3, .* begins at 3"):
            store.add(rows(("a", 2, 3, 6.0)))
        store.add(rows(("a", 2, 4, 6.0)))
        assert materialise(store, online, until=5, after=3) == 1
        assert online.get("a", 5) == {"reports": 6.0}


def test_columns_that_are_missing_are_named():
    with pytest.raises(FeatureError, match="created_time"):
        History("reports").add(rows().drop(columns="created_time"))
    with pytest.raises(FeatureError, match="time"):
        History("reports").as_of(pd.DataFrame({"entity": ["a"]}))
    with pytest.raises(FeatureError, match="the time of a visit is missing"):
        History("reports").as_of(visits(("a", np.nan)))


@pytest.mark.parametrize(
    "names", [(), ("reports", "Reports"), ("entity",), ("a b",), ("x; DROP TABLE y",)]
)
def test_names_that_are_no_feature_are_refused(names):
    for store in (History, lambda *n: Online(":memory:", *n)):
        with pytest.raises(FeatureError):
            store(*names)


def test_the_online_store_is_a_file_that_another_process_can_open(tmp_path):
    store = history(("a", 1, 1, 5.0))
    with Online(tmp_path / "online.sqlite", "reports") as online:
        assert materialise(store, online, 2) == 1
    with Online(tmp_path / "online.sqlite", "reports") as again:
        assert again.get("a", 2) == {"reports": 5.0}
        assert again.get("b", 2) == {"reports": None}


def test_a_store_of_another_thread_is_refused_and_its_file_is_not(tmp_path):
    path = tmp_path / "online.sqlite"

    def read_own():
        with Online(path, "reports") as own:
            return own.get("a", 2)

    with Online(path, "reports") as online, ThreadPoolExecutor(1) as other:
        materialise(history(("a", 1, 1, 5.0)), online, 2)
        with pytest.raises(sqlite3.ProgrammingError, match="thread"):
            other.submit(online.get, "a", 2).result(30)
        with pytest.raises(sqlite3.ProgrammingError, match="thread"):
            other.submit(online.put, rows(("a", 2, 2, 6.0))).result(30)
        assert other.submit(read_own).result(30) == {"reports": 5.0}


def test_a_put_that_fails_half_way_changes_nothing():
    with Online(":memory:", "reports") as online:
        with pytest.raises(Exception, match=r"(?i)type|bind|support"):
            online.put(rows(("a", 1, 1, 5.0), ("b", 1, 1, [1])))
        assert online.get("a", 2) == {"reports": None}
