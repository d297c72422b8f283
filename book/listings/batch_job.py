"""Score a Parquet file in pieces. Kill it whenever you like, and run it again.

    python batch_job.py MODEL INPUT.parquet OUTPUT.parquet

MODEL is the folder of a saved model. INPUT has a column `id` and the features by name.
OUTPUT gets one row for each of INPUT's, in the same order: the id, the probability, and
the name of the field that breaks the contract where there is one. OUTPUT is complete or
not there. OUTPUT.json, written last, says what was scored with what: the next step of a
chain compares its `job` and `sha256` before it starts, since an older one may still lie
there. The last line printed is JSON with what was done.
"""

import argparse
import contextlib
import fcntl
import glob
import hashlib
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from deploylab import artifacts
from deploylab.contract import Contract

SCHEMA = pa.schema(
    [("id", pa.int64()), ("probability", pa.float64()), ("problem", pa.string())]
)


class JobError(RuntimeError):
    """The job cannot run; nothing was written."""


def describe(model: artifacts.Artifact, source: Path) -> dict:
    """What makes this job this job: another model or another input is another job."""
    wanted = ["id", *model.contract.names]
    try:
        state, footer = source.stat(), pq.read_metadata(source)
        schema = footer.schema.to_arrow_schema()
    except (OSError, pa.ArrowInvalid) as error:
        raise JobError(f"{source} cannot be read as Parquet: {error}") from error
    for name in wanted:
        if name not in schema.names:
            raise JobError(f"{source} has no column {name}")
        kind = schema.field(name).type
        fits = pa.types.is_integer(kind) or (
            name != "id" and pa.types.is_floating(kind)
        )
        if not fits:
            raise JobError(
                f"{source}: {name} is {kind}; ids are integers, the rest numbers"
            )
    return {
        "input": source.name,
        "bytes": state.st_size,
        "written_ns": state.st_mtime_ns,
        "rows": footer.num_rows,
        "model": model.version,
        "model_digest": model.digest,
    }


def problems(contract: Contract, rows: np.ndarray) -> np.ndarray:
    """For each row the first field that breaks the contract, or None."""
    found = np.full(len(rows), None, dtype=object)
    for place in reversed(range(len(contract.features))):
        feature = contract.features[place]
        found[~np.isin(rows[:, place], feature.values)] = feature.name
    return found


def score_chunk(scorer: artifacts.Scorer, chunk: pa.RecordBatch) -> pa.RecordBatch:
    """One row out for each row in; a row that breaks the contract gets no score."""
    contract = scorer.artifact.contract
    columns = [
        chunk.column(name).to_numpy(zero_copy_only=False) for name in contract.names
    ]
    rows = np.stack(columns, axis=1).astype(np.float64)
    problem = problems(contract, rows)
    good = problem == None  # noqa: E711  compares each element
    probability = np.full(len(rows), np.nan)
    if good.any():
        probability[good] = scorer.score(rows[good])
    return pa.record_batch(
        [
            chunk.column("id").cast(pa.int64()),
            pa.array(probability, mask=~good),
            pa.array(problem, pa.string()),
        ],
        schema=SCHEMA,
    )


@contextlib.contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A draft to write to; it gets the name `path` when all of it is on the disk."""
    draft = path.with_name(f".{path.name}.draft")
    yield draft
    with draft.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is on the disk too
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_part(
    scorer: artifacts.Scorer, source: pq.ParquetFile, group: int, path: Path, rows: int
) -> None:
    """Score one row group, at most `rows` rows in memory at a time."""
    wanted = ["id", *scorer.artifact.contract.names]
    chunks = source.iter_batches(
        batch_size=rows, row_groups=[group], columns=wanted, use_threads=False
    )
    with complete(path) as draft, pq.ParquetWriter(draft, SCHEMA) as writer:
        for chunk in chunks:
            writer.write_batch(score_chunk(scorer, chunk))


def is_whole(part: Path, rows: int) -> bool:
    """Whether an earlier run has finished this part."""
    try:
        return pq.read_metadata(part).num_rows == rows
    except (OSError, pa.ArrowInvalid):  # not there, or not a table: once more
        return False


def assemble(parts: list[Path], target: Path, rows: int) -> None:
    """All parts in one file, `rows` rows in memory at a time."""
    with complete(target) as draft, pq.ParquetWriter(draft, SCHEMA) as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for chunk in file.iter_batches(batch_size=rows, use_threads=False):
                    writer.write_batch(chunk)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_done(job: dict, target: Path, manifest: Path) -> bool:
    """Whether this very job has written this very file."""
    if not (manifest.exists() and target.exists()):
        return False
    try:
        said = json.loads(manifest.read_text())
        return said["job"] == job and said["sha256"] == file_digest(target)
    except (ValueError, KeyError, TypeError):  # not one of ours
        return False


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock that the system takes back when the process ends, however it does."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(
                f"another run holds {path}; wait until it has ended"
            ) from None
        yield


def run(
    scorer: artifacts.Scorer,
    source: Path,
    target: Path,
    rows: int = 20_000,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Do what is left of the job; how many parts were found, and how many scored."""
    job = describe(scorer.artifact, source)
    key = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:12]
    work = target.with_name(f".{target.name}.{key}")
    manifest = target.with_name(target.name + ".json")
    done = {"found": 0, "scored": 0}
    with alone(target.with_name(f".{target.name}.lock")):
        if not is_done(job, target, manifest):
            work.mkdir(exist_ok=True)
            with pq.ParquetFile(source) as file:
                parts = []
                for group in range(file.num_row_groups):
                    parts.append(work / f"part-{group:05}.parquet")
                    if is_whole(parts[-1], file.metadata.row_group(group).num_rows):
                        done["found"] += 1
                        continue
                    write_part(scorer, file, group, parts[-1], rows)
                    done["scored"] += 1
                    say(f"part {group + 1} of {file.num_row_groups}")
            assemble(parts, target, rows)
            with complete(manifest) as draft:
                draft.write_text(
                    json.dumps({"job": job, "sha256": file_digest(target)})
                )
        key_of_any = "[0-9a-f]" * 12
        ours = f".{glob.escape(target.name)}.{key_of_any}/"
        for old in target.parent.glob(ours):
            shutil.rmtree(old)
    return done


def memory_mib(peak: bool = False) -> float:
    """Resident memory of this process in MiB, now or at its highest."""
    if not peak:
        return psutil.Process().memory_info().rss / 2**20
    if sys.platform == "linux":  # getrusage counts the parent's, too, until the exec
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--rows", type=int, default=20_000, help="in memory at a time")
    options = parser.parse_args()
    try:
        scorer = artifacts.load(options.model)
        scorer.score(np.zeros((1, len(scorer.artifact.contract.names))))
        before_mib, started = memory_mib(), time.perf_counter()
        say = partial(print, flush=True)
        done = run(scorer, options.source, options.target, options.rows, say)
    except (JobError, artifacts.ArtifactError, OSError) as error:
        print(f"batch_job: {error}", file=sys.stderr)
        return 1
    done["seconds"] = round(time.perf_counter() - started, 3)
    done["extra_mib"] = round(memory_mib(peak=True) - before_mib, 1)
    print(json.dumps(done))
    return 0


if __name__ == "__main__":
    sys.exit(main())
