"""A small feature store: what was known about an entity, and since when.

A row of features has two times: `event_time`, from when it is true, and `created_time`,
from when anybody could read it. `History` is the offline store (DuckDB, in memory): it
keeps every row, and joins to a visit what was known at that moment. `Online` is the
online store (SQLite, one file): it keeps one row for each entity, the newest.
`materialise` copies from the one to the other. Both answer by the same rule, and the
tests hold them to it: of the rows written so far, the one with the latest `event_time`;
of two with the same, the one that was written later.

Times are numbers, on one clock and in one unit, which the caller chooses (days, or
seconds since 1970). Introduced in *Contracts*.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

__all__ = ["FeatureError", "History", "Online", "materialise"]

_TIMES = ["event_time", "created_time"]


class FeatureError(ValueError):
    """Rows that a store cannot take; the message says which, and what to do."""


class History:
    """The offline store: every row of features that was ever written.

    columns: the names of the features, whose values are numbers or missing.
    """

    def __init__(self, *columns: str) -> None:
        self.columns = _checked_names(columns)
        self.database = duckdb.connect(
            config={"threads": 1, "autoinstall_known_extensions": False}
        )
        self.copied_until = float("-inf")
        features = ", ".join(f"{name} DOUBLE" for name in self.columns)
        self.database.execute(
            "CREATE TABLE history (entity VARCHAR, event_time DOUBLE, "
            f"created_time DOUBLE, {features})"
        )

    def add(self, rows: pd.DataFrame) -> None:
        """Append rows: `entity`, `event_time`, `created_time`, and the features.

        A history is only ever appended to: each batch is created later than all rows
        before it, and a correction is a new row, with the time at which it was made.
        It is created later, too, than what `materialise` has copied up to: no later run
        would copy it. Raises `FeatureError` for anything else, and then nothing has
        been added.
        """
        wanted = ["entity", *_TIMES, *self.columns]
        missing = [name for name in wanted if name not in rows]
        if missing:
            raise FeatureError(f"the rows have no column {', '.join(missing)}; add it")
        rows = _typed(rows[wanted], [*_TIMES, *self.columns])
        if not np.isfinite(rows[_TIMES].to_numpy()).all():
            raise FeatureError("a time is missing or not finite; give each row both")
        early = rows["created_time"] < rows["event_time"]
        if early.any():
            raise FeatureError(
                f"{early.sum()} rows were created before their event, such as "
                f"{rows['entity'][early].iloc[0]}; see whether the two times are "
                "swapped, or come from two clocks"
            )
        if rows.duplicated(["entity", *_TIMES]).any():
            raise FeatureError(
                "two rows have the same entity and the same two times, so nobody can "
                "say which holds; keep one"
            )
        last = self.database.execute("SELECT max(created_time) FROM history")
        before = last.fetchall()[0][0]
        if before is not None and len(rows) and rows["created_time"].min() <= before:
            raise FeatureError(
                f"rows up to created_time {before:g} are there, and this batch begins "
                f"at {rows['created_time'].min():g}; a correction carries the time at "
                "which it is made"
            )
        if len(rows) and rows["created_time"].min() <= self.copied_until:
            raise FeatureError(
                f"an online store has been given all rows up to created_time "
                f"{self.copied_until:g}, and this batch begins at "
                f"{rows['created_time'].min():g}: it would never be copied. Let "
                "`materialise` copy up to a moment before what is still being written"
            )
        with self._table("batch", rows):
            self.database.execute(
                f"INSERT INTO history SELECT {', '.join(wanted)} FROM batch"
            )

    def as_of(self, visits: pd.DataFrame, ttl: float = float("inf")) -> pd.DataFrame:
        """The visits (`entity`, `time`, any more), with the features known then.

        A feature is missing where nothing was known, or where what was known is about
        a moment more than `ttl` before the visit. Rows keep their order and index.
        """
        with self._table("visits", _visits(visits)):
            found = self.database.execute(self.as_of_sql, {"ttl": float(ttl)}).df()
        found = found.set_axis(visits.index)
        return visits.assign(**{name: found[name] for name in self.columns})

    @property
    def as_of_sql(self) -> str:
        """The query of `as_of`, over the tables `history` and `visits`."""
        features = ", ".join(
            f"if(visits.time - shown.event_time <= $ttl, shown.{name}, NULL) AS {name}"
            for name in self.columns
        )
        return f"""
WITH written AS (  -- of rows written at one moment, the one about the latest event
    SELECT * FROM history
    QUALIFY row_number() OVER (
        PARTITION BY entity, created_time ORDER BY event_time DESC) = 1
), shown AS (      -- and of those, each that was news when it was written
    SELECT * FROM written
    QUALIFY event_time = max(event_time) OVER (
        PARTITION BY entity ORDER BY created_time)
)
SELECT {features}
FROM visits ASOF LEFT JOIN shown
ON visits.entity = shown.entity AND visits.time >= shown.created_time
ORDER BY visits.number"""

    def written(self, after: float, until: float) -> pd.DataFrame:
        """The rows with `after` < created_time <= `until`, oldest first."""
        return self.database.execute(
            "SELECT * FROM history WHERE created_time > $after "
            "AND created_time <= $until ORDER BY created_time, event_time, entity",
            {"after": float(after), "until": float(until)},
        ).df()

    @contextmanager
    def _table(self, name: str, rows: pd.DataFrame) -> Iterator[None]:
        self.database.register(name, rows)
        try:
            yield
        finally:
            self.database.unregister(name)


class Online:
    """The online store: the newest row of each entity, in one SQLite file.

    It reads by key, in a time that does not grow with the history. Use it as a context
    manager, or call `close`. It belongs to the thread that opened it, and refuses any
    other (`sqlite3.ProgrammingError`): each thread opens its own.
    """

    def __init__(self, path: str | Path, *columns: str) -> None:
        self.columns = _checked_names(columns)
        self.database = sqlite3.connect(path)
        features = ", ".join(f"{name} REAL" for name in self.columns)
        with self.database:
            self.database.execute(
                "CREATE TABLE IF NOT EXISTS newest (entity TEXT PRIMARY KEY, "
                f"event_time REAL, created_time REAL, {features})"
            )

    def put(self, rows: pd.DataFrame) -> None:
        """Take these rows, all or none: a row replaces an older one, never a newer."""
        names = ["entity", *_TIMES, *self.columns]
        taken = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        values = rows[names].astype(object).where(rows[names].notna(), None)
        with self.database:
            self.database.executemany(
                f"INSERT INTO newest ({', '.join(names)}) "
                f"VALUES ({', '.join('?' * len(names))}) "
                f"ON CONFLICT (entity) DO UPDATE SET {taken} "
                "WHERE (excluded.event_time, excluded.created_time) "
                "> (newest.event_time, newest.created_time)",
                values.itertuples(index=False, name=None),
            )

    def get(
        self, entity: str, now: float, ttl: float = float("inf")
    ) -> dict[str, float | None]:
        """The features of one entity; None where unknown, or older than `ttl`."""
        row = self.database.execute(
            f"SELECT event_time, {', '.join(self.columns)} FROM newest "
            "WHERE entity = ?",
            (entity,),
        ).fetchone()
        if row is None or not now - row[0] <= ttl:
            return dict.fromkeys(self.columns)
        return dict(zip(self.columns, row[1:], strict=True))

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def __enter__(self) -> Online:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def materialise(
    history: History, online: Online, until: float, after: float = float("-inf")
) -> int:
    """Copy what was written after `after`, up to `until`; the number of rows.

    Copying a row twice changes nothing, so a run that was cut off is run again. A row
    that is added later, and was created up to `until`, would never be copied, and so
    the history refuses it: let `until` lie before anything that is still being written.
    """
    history.copied_until = max(history.copied_until, until)
    rows = history.written(after, until)
    online.put(rows)
    return len(rows)


def _checked_names(columns: tuple[str, ...]) -> list[str]:
    """Feature names that are safe in a query, and at least one."""
    taken = {"entity", "time", "number", *_TIMES}
    for name in columns:
        if not (name.isascii() and name.isidentifier()) or name.lower() in taken:
            raise FeatureError(
                f"{name!r} cannot name a feature; use letters, digits and _, and none "
                f"of {', '.join(sorted(taken))}"
            )
    if not columns or len({name.lower() for name in columns}) < len(columns):
        raise FeatureError("name at least one feature, and each of them once")
    return list(columns)


def _typed(rows: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """A copy with entities as text and the rest as numbers; missing stays missing."""
    if rows["entity"].isna().any():
        raise FeatureError("a row has no entity; say what it is about")
    try:
        return rows.astype({"entity": str} | dict.fromkeys(numbers, float))
    except (TypeError, ValueError) as error:
        raise FeatureError(f"times and features must be numbers: {error}") from None


def _visits(visits: pd.DataFrame) -> pd.DataFrame:
    missing = [name for name in ("entity", "time") if name not in visits]
    if missing:
        raise FeatureError(f"the visits have no column {', '.join(missing)}; add it")
    asked = _typed(visits[["entity", "time"]], ["time"])
    if not np.isfinite(asked["time"]).all():
        raise FeatureError("the time of a visit is missing; give each visit one")
    return asked.assign(number=np.arange(len(asked)))
