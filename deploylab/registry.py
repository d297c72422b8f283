"""The registry: which versions of a model there are, and which one is meant.

A folder holds an MLflow model registry on SQLite (`registry.db`), the files of every
published version (`store/`), and in the same database an append-only **trail** of every
move of an alias. The trail is written by SQLite itself, in the transaction of the move,
so that a move made with MLflow's own tools stands in it too.

    registry = Registry(folder)               # imports MLflow: seconds, and memory
    number = registry.publish(artifact_folder)
    registry.set_alias("champion", number, who="ana")

    Reader(folder).pointers()                 # standard library only: for a server

`Reader` is what a serving process uses: it reads the same database without MLflow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploylab import artifacts
from deploylab.contract import Contract

__all__ = [
    "Move",
    "Pointers",
    "Published",
    "Reader",
    "Registry",
    "RegistryError",
    "RegistryLocked",
    "UnknownNumber",
    "self_check",
]

#: The tag that holds the candidate's share of the users, from 0 to 1.
SHARE = "candidate_share"
#: The largest difference of a score from the one that was published with the model.
TOLERANCE = 1e-5
_DATABASE, _STORE = "registry.db", "store"
_EXAMPLES = "examples.json"
# MLflow keeps the tags of a version that was deleted.
_NOT_DELETED = (
    "EXISTS (SELECT 1 FROM model_versions v WHERE v.name=model_version_tags.name "
    "AND v.version=model_version_tags.version "
    "AND v.current_stage IS NOT 'Deleted_Internal')"
)
_N_EXAMPLES = 32

_TRAIL = f"""
CREATE TABLE IF NOT EXISTS deploylab_trail (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    model TEXT NOT NULL,
    what TEXT NOT NULL,
    value TEXT,
    who TEXT
);
CREATE TRIGGER IF NOT EXISTS deploylab_alias_new
AFTER INSERT ON registered_model_aliases BEGIN
    INSERT INTO deploylab_trail (model, what, value)
    VALUES (NEW.name, NEW.alias, NEW.version);
END;
CREATE TRIGGER IF NOT EXISTS deploylab_alias_moved
AFTER UPDATE ON registered_model_aliases BEGIN
    INSERT INTO deploylab_trail (model, what, value)
    VALUES (NEW.name, NEW.alias, NEW.version);
END;
CREATE TRIGGER IF NOT EXISTS deploylab_alias_gone
AFTER DELETE ON registered_model_aliases BEGIN
    INSERT INTO deploylab_trail (model, what, value)
    VALUES (OLD.name, OLD.alias, NULL);
END;
CREATE TRIGGER IF NOT EXISTS deploylab_share_new
AFTER INSERT ON registered_model_tags WHEN NEW.key = '{SHARE}' BEGIN
    INSERT INTO deploylab_trail (model, what, value)
    VALUES (NEW.name, NEW.key, NEW.value);
END;
CREATE TRIGGER IF NOT EXISTS deploylab_share_moved
AFTER UPDATE ON registered_model_tags WHEN NEW.key = '{SHARE}' BEGIN
    INSERT INTO deploylab_trail (model, what, value)
    VALUES (NEW.name, NEW.key, NEW.value);
END;
CREATE TRIGGER IF NOT EXISTS deploylab_share_gone
AFTER DELETE ON registered_model_tags WHEN OLD.key = '{SHARE}' BEGIN
    INSERT INTO deploylab_trail (model, what, value)
    VALUES (OLD.name, OLD.key, NULL);
END;
CREATE TRIGGER IF NOT EXISTS deploylab_trail_is_new
BEFORE INSERT ON deploylab_trail
WHEN EXISTS (SELECT 1 FROM deploylab_trail WHERE sequence = NEW.sequence) BEGIN
    SELECT RAISE(ABORT, 'the trail is append-only');
END;
CREATE TRIGGER IF NOT EXISTS deploylab_trail_is_kept
BEFORE DELETE ON deploylab_trail BEGIN
    SELECT RAISE(ABORT, 'the trail is append-only');
END;
CREATE TRIGGER IF NOT EXISTS deploylab_trail_is_true
BEFORE UPDATE ON deploylab_trail
WHEN OLD.who IS NOT NULL OR NEW.sequence IS NOT OLD.sequence
    OR NEW.at IS NOT OLD.at OR NEW.model IS NOT OLD.model
    OR NEW.what IS NOT OLD.what OR NEW.value IS NOT OLD.value
BEGIN
    SELECT RAISE(ABORT, 'the trail is append-only');
END;
"""


class RegistryError(RuntimeError):
    """The registry cannot do what was asked; nothing of it was done halfway."""


class RegistryLocked(RegistryError):
    """Another writer holds the registry, and did not let go in time."""


class UnknownNumber(RegistryError, KeyError):
    """No version of that number, or no alias of that name."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Move:
    """One line of the trail: what was moved to which value, when and by whom.

    sequence: counts every move of the registry, and never goes back. at: UTC, ISO
    8601. what: an alias, or `SHARE`. value: a version's number or the share; None: the
    alias, or the share, was taken away. who: None where it was moved past `Registry`,
    or where the process ended before it could sign.
    """

    sequence: int
    at: str
    what: str
    value: str | None
    who: str | None


@dataclass(frozen=True)
class Pointers:
    """What is meant now, as of one instant: the aliases and the candidate's share.

    sequence: of the last move; 0 before the first.
    """

    sequence: int
    aliases: Mapping[str, int]
    share: float


@dataclass(frozen=True)
class Published:
    """A version as the registry describes it; its files are not opened.

    number: the registry's, from 1. name: the artifact's own. digest: of code, model
    and contract. manifest_sha256: of the manifest's bytes, examples_sha256: of the
    examples'. folder: where the registry keeps the files.
    """

    number: int
    name: str
    digest: str
    manifest_sha256: str
    examples_sha256: str
    folder: Path


class Reader:
    """Reads a registry, with nothing but the standard library; never writes to it.

    timeout_s: how long to wait while another process is writing.
    """

    def __init__(
        self, folder: str | Path, model: str = "phishing", timeout_s: float = 5
    ) -> None:
        self.folder = Path(folder).resolve()
        self.model = model
        self.timeout_s = timeout_s

    def pointers(self) -> Pointers:
        """The aliases, the share and the last move, read in one transaction."""
        with self._reading() as rows:
            sequence = rows(
                "SELECT coalesce(max(sequence), 0) FROM deploylab_trail WHERE model=?"
            )
            aliases = rows(
                "SELECT alias, version FROM registered_model_aliases WHERE name=?"
            )
            share = rows(
                "SELECT value FROM registered_model_tags "
                f"WHERE name=? AND key='{SHARE}'"
            )
        return Pointers(
            sequence[0][0],
            {alias: int(number) for alias, number in sorted(aliases)},
            _share(share[0][0]) if share else 0.0,
        )

    def published(self, number: int) -> Published:
        """The description of a version; `UnknownNumber` if there is none."""
        with self._reading() as rows:
            tags = dict(
                rows(
                    "SELECT key, value FROM model_version_tags "
                    f"WHERE name=? AND version={int(number)} AND {_NOT_DELETED}"
                )
            )
        if "manifest_sha256" not in tags:
            raise UnknownNumber(
                f"{self.model} has no version {number}; publish it first, or ask "
                "`numbers()` which there are"
            )
        return Published(
            int(number),
            tags["name"],
            tags["digest"],
            tags["manifest_sha256"],
            tags["examples_sha256"],
            self.folder / _STORE / tags["manifest_sha256"][:16],
        )

    def numbers(self) -> list[int]:
        """The numbers of all published versions."""
        with self._reading() as rows:
            # A version without its digest was never published to its end.
            found = rows(
                "SELECT version FROM model_version_tags "
                f"WHERE name=? AND key='manifest_sha256' AND {_NOT_DELETED}"
            )
        return sorted(int(number) for (number,) in found)

    def trail(self) -> list[Move]:
        """Every move there ever was, oldest first."""
        with self._reading() as rows:
            found = rows(
                "SELECT sequence, at, what, value, who FROM deploylab_trail "
                "WHERE model=? ORDER BY sequence"
            )
        return [Move(*row) for row in found]

    def fetch(self, number: int, into: str | Path) -> Path:
        """Copy a version's files into a folder of its own in `into`; verified.

        The manifest is compared with the SHA-256 in the registry, the model file with
        the one in the manifest: files that somebody exchanged in the store, both of
        them and consistently, are found too. Raises `artifacts.CorruptArtifact`;
        `into` then holds nothing new. A copy that is there already is verified again.
        """
        published = self.published(number)
        target = Path(into) / published.manifest_sha256[:16]
        if target.exists() and _holds(target, published):
            return target
        Path(into).mkdir(parents=True, exist_ok=True)
        with _staging(Path(into)) as staged:
            try:
                shutil.copytree(published.folder, staged, dirs_exist_ok=True)
            except (OSError, shutil.Error) as error:
                raise artifacts.CorruptArtifact(
                    f"the files of version {number} cannot be copied from "
                    f"{published.folder}: {error}; publish it again"
                ) from error
            _verify(staged, published)
            # Another worker may have put it there meanwhile, and be reading it.
            _put(staged, target, whole=lambda: _holds(target, published))
        return target

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """A function that asks, all its answers as of one instant."""
        path = self.folder / _DATABASE
        connection = None
        try:
            # Not mode=ro: what a writer that was killed has left half-written is
            # undone by whoever comes next, and that has to be allowed to us.
            connection = sqlite3.connect(
                f"file:{path}?mode=rw",
                uri=True,
                timeout=self.timeout_s,
                isolation_level=None,
            )
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield lambda query: connection.execute(query, (self.model,)).fetchall()
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise self._locked() from error
            raise RegistryError(
                f"the registry {path} cannot be read: {error}; name the folder in "
                "which a Registry was made"
            ) from error
        finally:
            if connection is not None:
                connection.close()

    def _locked(self) -> RegistryLocked:
        return RegistryLocked(
            f"another process has held the registry {self.folder} for more than "
            f"{self.timeout_s:g} s; what was asked was not done: ask again, and if it "
            "stays so, look for a writer that hangs"
        )


class Registry(Reader):
    """A registry that is also written to. Making the first one takes seconds.

    folder: made if it is not there; one that holds a registry is opened. timeout_s:
    how long a writer waits for another one before it gives up with `RegistryLocked`.
    Writers of several processes wait for one another.

    Use it as a context manager, or call `close()`.
    """

    def __init__(
        self, folder: str | Path, model: str = "phishing", timeout_s: float = 5
    ) -> None:
        super().__init__(folder, model, timeout_s)
        try:
            (self.folder / _STORE).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(
                f"cannot make a registry in {self.folder}: {error}; choose a folder "
                "that can be written to"
            ) from error
        with self._writing(), _quiet():
            self._client, store, unknown = _mlflow(
                # The timeout is SQLite's own, for writers that know no lock of ours.
                f"sqlite:///{self.folder / _DATABASE}?timeout={timeout_s:g}"
            )
            self._engine = store.engine
            try:
                self._client.get_registered_model(model)
            except unknown:
                self._client.create_registered_model(model)
            with self._database() as connection:
                connection.executescript(_TRAIL)

    def publish(
        self,
        folder: str | Path,
        *,
        rows: Sequence[Sequence[float]] | None = None,
        scores: Sequence[float] | None = None,
        trust: str | None = None,
    ) -> int:
        """Publish the artifact in `folder`; the number of the version.

        Files first, then the row in the registry: a version that has a number is
        whole. No alias moves. The same files again give the number they have.

        rows, scores: examples that travel with the model, shapes (n, features) and
            (n,): who loads it has to find these scores (`self_check`). By default rows
            that the contract allows, as scored here. trust: as in `artifacts.load`.

        Raises `artifacts.ArtifactError` for files that are not whole, or that nobody
        vouches for; RegistryError when they, or the row, cannot be written. Then the
        version is not there, and publishing again is safe.
        """
        scorer = artifacts.load(folder, trust)
        artifact = scorer.artifact
        if rows is None:
            rows = _examples(artifact.contract)
        if scores is None:
            scores = scorer.score(rows)
        examples = {"rows": np.asarray(rows), "scores": np.asarray(scores)}
        examples = {name: values.tolist() for name, values in examples.items()}
        if len(examples["rows"]) != len(examples["scores"]) or not examples["rows"]:
            raise RegistryError("examples need as many scores as rows, and at least 1")
        text = json.dumps(examples).encode()
        manifest = (artifact.folder / "manifest.json").read_bytes()
        tags = {
            "name": artifact.version,
            "digest": artifact.digest,
            "manifest_sha256": hashlib.sha256(manifest).hexdigest(),
            "examples_sha256": hashlib.sha256(text).hexdigest(),
        }
        target = self.folder / _STORE / tags["manifest_sha256"][:16]
        with self._writing():
            for number in self.numbers():
                known = self.published(number)
                same = known.manifest_sha256 == tags["manifest_sha256"]
                if same and _holds(known.folder, known):
                    return number
            try:
                with _staging(self.folder / _STORE) as staged:
                    for file in (artifact.file, artifact.folder / "manifest.json"):
                        shutil.copyfile(file, staged / file.name)
                    (staged / _EXAMPLES).write_bytes(text)
                    # What was copied is what counts: somebody may be building it.
                    _verify(staged, Published(0, **tags, folder=staged))
                    _put(staged, target)
            except OSError as error:
                raise RegistryError(
                    f"the files of {artifact.version} could not be written to "
                    f"{self.folder}: {error.strerror or error}; nothing was "
                    "published: free some space, then publish again"
                ) from error
            made = self._write(
                lambda: self._client.create_model_version(
                    self.model, source=str(target), tags=tags
                ),
                f"{artifact.version} could not be entered",
            )
        return int(made.version)

    def set_alias(self, alias: str, number: int, who: str) -> Pointers:
        """Let `alias` mean the version `number`; what is meant now.

        Raises `UnknownNumber`, or `artifacts.CorruptArtifact` for a version whose
        files in the store are not those that were published.
        """
        with self._writing():
            published = self.published(number)
            _verify(published.folder, published)
            return self._move(
                lambda: self._client.set_registered_model_alias(
                    self.model, alias, str(number)
                ),
                (alias, str(number)),
                who,
            )

    def delete_alias(self, alias: str, who: str) -> Pointers:
        """Take an alias away; what is meant now."""
        with self._writing():
            if alias not in self.pointers().aliases:
                raise UnknownNumber(f"there is no alias {alias!r} to take away")
            return self._move(
                lambda: self._client.delete_registered_model_alias(self.model, alias),
                (alias, None),
                who,
            )

    def set_share(self, share: float, who: str) -> Pointers:
        """Give the candidate a share of the users, from 0 to 1; what is meant now."""
        if not 0 <= share <= 1:
            raise RegistryError(f"a share lies between 0 and 1; {share!r} does not")
        with self._writing():
            return self._move(
                lambda: self._client.set_registered_model_tag(
                    self.model, SHARE, repr(float(share))
                ),
                (SHARE, repr(float(share))),
                who,
            )

    def close(self) -> None:
        """Close the connections to the database."""
        self._engine.dispose()

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- plumbing

    def _move(self, move: Any, what: tuple[str, str | None], who: str) -> Pointers:
        before = self.pointers().sequence
        self._write(move, "nothing was moved, because it could not be written")
        with self._database() as connection:
            connection.execute(
                # Only our own line: MLflow's tools may move something meanwhile.
                "UPDATE deploylab_trail SET who=? WHERE sequence=("
                "SELECT min(sequence) FROM deploylab_trail WHERE model=? "
                "AND sequence>? AND what=? AND value IS ? AND who IS NULL)",
                (who, self.model, before, *what),
            )
        return self.pointers()

    def _write(self, action: Any, what: str) -> Any:
        """Do it through MLflow; its many kinds of error become ours."""
        try:
            with _quiet():
                return action()
        except Exception as error:
            if "database is locked" in str(error):
                raise self._locked() from error
            reason = str(error).splitlines()[0]
            raise RegistryError(
                f"{what}: {reason}; the registry is as it was: put that right, then "
                "do it again"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, of all processes: a lock that ends with its holder."""
        import fcntl

        with (self.folder / ".lock").open("a") as lock:
            deadline = time.monotonic() + self.timeout_s
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise self._locked() from None
                    time.sleep(0.01)
            yield

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        """A connection of our own, committed at the end."""
        with contextlib.closing(
            sqlite3.connect(self.folder / _DATABASE, timeout=self.timeout_s)
        ) as connection:
            try:
                with connection:
                    yield connection
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    raise self._locked() from error
                raise RegistryError(f"the trail was not written: {error}") from error


def self_check(scorer: artifacts.Scorer, tolerance: float = TOLERANCE) -> None:
    """Score the examples that were published with a model; refuse other scores.

    It finds what a digest cannot: the right bytes that compute something else here,
    under another runtime or another processor. Raises `artifacts.ArtifactError`.
    """
    path = scorer.artifact.folder / _EXAMPLES
    try:
        examples = json.loads(path.read_text())
        rows, scores = examples["rows"], np.asarray(examples["scores"], dtype=float)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise artifacts.CorruptArtifact(
            f"{path} cannot be read ({error}); publish the version again"
        ) from error
    off = np.abs(scorer.score(rows) - scores)
    if not (off <= tolerance).all():  # a NaN is refused too
        raise artifacts.ArtifactError(
            f"{scorer.artifact.version} does not compute here what it computed where "
            f"it was published: {np.count_nonzero(~(off <= tolerance))} of {len(off)} "
            f"examples differ by more than {tolerance:g}; compare library versions "
            f"with {scorer.artifact.made_with}"
        )


# -- plumbing ----------------------------------------------------------------------


def _verify(folder: Path, published: Published) -> None:
    """That a folder holds what was published, byte for byte."""
    artifact = artifacts.read(folder)
    expected = {
        folder / "manifest.json": published.manifest_sha256,
        folder / _EXAMPLES: published.examples_sha256,
        artifact.file: artifact.sha256,
    }
    for file, sha256 in expected.items():
        try:
            found = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:
            raise artifacts.CorruptArtifact(
                f"{file} cannot be read: {error.strerror}; publish version "
                f"{published.number} again"
            ) from error
        if found != sha256:
            raise artifacts.CorruptArtifact(
                f"{file.name} of version {published.number} has SHA-256 "
                f"{found[:12]}..., and {sha256[:12]}... was published: it was changed "
                "or cut short since; publish it again, and do not load this one"
            )


def _holds(folder: Path, published: Published) -> bool:
    """Whether a folder holds what was published."""
    try:
        _verify(folder, published)
    except artifacts.ArtifactError:
        return False
    return True


def _share(text: str) -> float:
    """The share in a tag; 0 for what is none, since MLflow takes any text."""
    try:
        share = float(text)
    except ValueError:
        return 0.0
    return share if 0 <= share <= 1 else 0.0


def _examples(contract: Contract) -> list[list[float]]:
    """Rows that the contract allows, the same for equal contracts."""
    rng = np.random.default_rng(int(contract.digest[:8], 16))
    columns = [rng.choice(f.values, _N_EXAMPLES) for f in contract.features]
    return np.stack(columns, axis=1).tolist()


@contextlib.contextmanager
def _staging(parent: Path) -> Iterator[Path]:
    """A hidden folder in `parent` that is gone afterwards, unless it was renamed."""
    staged = Path(tempfile.mkdtemp(prefix=".incoming-", dir=parent))
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _put(staged: Path, target: Path, whole: Callable[[], bool] = bool) -> None:
    """Make a whole folder appear under its name, in the place of a broken one."""
    staged.chmod(0o755)  # a server may run as another user
    for path in (*staged.iterdir(), staged):
        _sync(path)
    try:
        staged.rename(target)
    except OSError:
        if not target.exists():
            raise
        if whole():
            return  # another process was faster
        shutil.rmtree(target)
        staged.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _mlflow(uri: str) -> tuple[Any, Any, type[Exception]]:
    """MLflow's client and store of a database, and what it raises.

    A database that is not there yet is made, with all its migrations.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from mlflow.exceptions import MlflowException
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from mlflow.tracking import MlflowClient

    with _quiet():  # again: the import has set the level of its logger
        store = SqlAlchemyStore(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    return client, store, MlflowException


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without MLflow's reports, and SQLAlchemy's of its next version."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)  # errors are raised
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
