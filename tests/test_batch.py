"""The batch job: stopped anywhere and started again, every row is there once."""

import contextlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploylab import ROOT, artifacts, phishing, servers

LISTINGS = ROOT / "book" / "listings"
sys.path.insert(0, str(LISTINGS))

import batch_job  # noqa: E402

NAMES = phishing.CONTRACT.names


def write_rows(path, n_rows, group=100, **changes):
    """Rows that keep the contract, but for columns that are given."""
    picked = np.random.default_rng(7).integers(0, 1250, n_rows)
    data = phishing.load()
    columns = {"id": np.arange(n_rows)}
    columns |= {name: data[name].to_numpy()[picked] for name in NAMES}
    pq.write_table(pa.table(columns | changes), path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return phishing.save(["v1", "v2"], tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def scorer(models):
    return artifacts.load(models["v1"])


@pytest.fixture
def source(tmp_path):
    return write_rows(tmp_path / "in.parquet", 1050)


def test_a_disk_that_is_full_leaves_what_was_there(
    scorer, source, models, tmp_path, monkeypatch
):
    target = tmp_path / "out.parquet"
    batch_job.run(scorer, source, target)
    before, sync = target.read_bytes(), os.fsync

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        batch_job.run(artifacts.load(models["v2"]), source, target)
    assert target.read_bytes() == before
    assert visible(tmp_path) == {"in.parquet", "out.parquet", "out.parquet.json"}
    monkeypatch.setattr(os, "fsync", sync)
    batch_job.run(artifacts.load(models["v2"]), source, target)
    assert target.read_bytes() != before


def visible(folder):
    """What a reader of the folder sees: no work folders, no lock."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_every_row_is_there_once_with_the_models_score(scorer, source, tmp_path):
    target = tmp_path / "out.parquet"
    assert batch_job.run(scorer, source, target, rows=70) == {"found": 0, "scored": 11}
    found, given = pq.read_table(target), pq.read_table(source)
    assert found["id"].to_pylist() == given["id"].to_pylist()
    rows = given.select(NAMES).to_pandas().to_numpy()
    np.testing.assert_allclose(
        found["probability"].to_numpy(), scorer.score(rows), atol=1e-7
    )
    assert found["problem"].null_count == 1050
    assert visible(tmp_path) == {"in.parquet", "out.parquet", "out.parquet.json"}


def test_a_row_that_breaks_the_contract_gets_its_field_and_no_score(scorer, tmp_path):
    https = np.full(300, 0.5)
    https[[3, 150]] = 7, np.nan
    source = write_rows(tmp_path / "in.parquet", 300, https=https)
    batch_job.run(scorer, source, tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert list(found.index[found["probability"].isna()]) == [3, 150]
    assert list(found["problem"].dropna()) == ["https", "https"]
    assert len(found) == 300


def test_no_row_is_a_table_too(scorer, tmp_path):
    source = write_rows(tmp_path / "in.parquet", 0)
    batch_job.run(scorer, source, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_a_second_run_does_nothing_and_another_model_does_all(
    scorer, source, models, tmp_path
):
    target = tmp_path / "out.parquet"
    batch_job.run(scorer, source, target)
    before = target.read_bytes()
    assert batch_job.run(scorer, source, target) == {"found": 0, "scored": 0}
    assert target.read_bytes() == before
    other = artifacts.load(models["v2"])
    assert batch_job.run(other, source, target)["scored"] == 11
    assert target.read_bytes() != before
    said = json.loads((tmp_path / "out.parquet.json").read_text())
    assert said["job"]["model"] == "v2"


def test_a_table_that_somebody_changed_is_made_again(scorer, source, tmp_path):
    target = tmp_path / "out.parquet"
    batch_job.run(scorer, source, target)
    whole = target.read_bytes()
    target.write_bytes(whole[:-100])
    assert batch_job.run(scorer, source, target)["scored"] == 11
    assert target.read_bytes() == whole


def test_a_part_and_a_manifest_that_cannot_be_read_are_made_again(
    scorer, source, tmp_path, monkeypatch
):
    target = tmp_path / "out.parquet"
    with monkeypatch.context() as patched:
        patched.setattr(batch_job, "assemble", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            batch_job.run(scorer, source, target)
    [part] = tmp_path.glob(".out.parquet.*/part-00003.parquet")
    part.write_bytes(b"PAR1")
    assert batch_job.run(scorer, source, target) == {"found": 10, "scored": 1}
    for broken in ("", "null", "{}"):
        (tmp_path / "out.parquet.json").write_text(broken)
        assert batch_job.run(scorer, source, target)["scored"] == 11


def test_a_job_leaves_the_work_of_another_target_alone(scorer, source, tmp_path):
    others = [tmp_path / f".out.parquet.{'0' * 12}", tmp_path / ".out.v2"]
    for other in others:
        other.mkdir()
    own = tmp_path / f".out.{'0' * 12}"
    own.mkdir()
    batch_job.run(scorer, source, tmp_path / "out")
    assert all(other.exists() for other in others)
    assert not own.exists(), "what an older job left"


@pytest.mark.parametrize(
    "what", ["gone", "not Parquet", "no id", "no feature", "ids are text"]
)
def test_an_input_that_cannot_be_scored_is_refused_and_nothing_is_written(
    what, scorer, tmp_path
):
    source = tmp_path / "in.parquet"
    if what == "not Parquet":
        source.write_text("id,https")
    elif what == "ids are text":
        write_rows(source, 2, id=["a", "b"])
    elif what != "gone":
        write_rows(source, 10)
        dropped = "id" if what == "no id" else "https"
        pq.write_table(pq.read_table(source).drop_columns([dropped]), source)
    before = visible(tmp_path)
    with pytest.raises(batch_job.JobError, match=r"in\.parquet"):
        batch_job.run(scorer, source, tmp_path / "out.parquet")
    assert visible(tmp_path) == before


def test_two_runs_at_once_are_refused(scorer, source, tmp_path):
    with (
        batch_job.alone(tmp_path / ".out.parquet.lock"),
        pytest.raises(batch_job.JobError, match="another run"),
    ):
        batch_job.run(scorer, source, tmp_path / "out.parquet")


class PowerCut(BaseException):
    """Stops the job at once; nothing that the job does in Python can catch it."""


def cut_at(step, monkeypatch):
    """Stop at the n-th thing that is done to the disk; the count so far."""
    done = []

    def counted(original):
        def call(*args, **kwargs):
            done.append(original)
            if len(done) == step:
                raise PowerCut
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    monkeypatch.setattr(batch_job, "score_chunk", counted(batch_job.score_chunk))
    monkeypatch.setattr(batch_job.shutil, "rmtree", counted(batch_job.shutil.rmtree))
    return done


def is_right(folder, whole):
    """Whether the reader's view is allowed: no table, or the whole one."""
    target = folder / "out.parquet"
    if (folder / "out.parquet.json").exists():
        assert target.exists(), "the manifest is there before the table"
    return not target.exists() or target.read_bytes() == whole


def test_stopped_at_every_single_step_the_next_run_gives_the_same_bytes(
    scorer, tmp_path, monkeypatch
):
    source = write_rows(tmp_path / "in.parquet", 250)
    (tmp_path / "whole").mkdir()
    batch_job.run(scorer, source, tmp_path / "whole" / "out.parquet")
    whole = (tmp_path / "whole" / "out.parquet").read_bytes()
    step, finished = 0, False
    while not finished:
        step += 1
        folder = tmp_path / f"cut-{step}"
        folder.mkdir()
        with monkeypatch.context() as patched:
            cut_at(step, patched)
            with contextlib.suppress(PowerCut):
                batch_job.run(scorer, source, folder / "out.parquet")
                finished = True
        assert is_right(folder, whole), f"stopped at step {step}"
        batch_job.run(scorer, source, folder / "out.parquet")
        assert (folder / "out.parquet").read_bytes() == whole
        assert visible(folder) == {"out.parquet", "out.parquet.json"}
        assert {path.name for path in folder.iterdir()} - visible(folder) == {
            ".out.parquet.lock"
        }
    assert step > 15, "there are that many steps to stop at"


def test_an_older_table_stays_whole_until_the_new_one_takes_its_name(
    models, tmp_path, monkeypatch
):
    source = write_rows(tmp_path / "in.parquet", 250)
    whole, jobs = {}, {}
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        target = tmp_path / name / "out.parquet"
        batch_job.run(artifacts.load(models[name]), source, target)
        whole[target.read_bytes()] = name
        jobs[name] = json.loads((tmp_path / name / "out.parquet.json").read_text())
    assert len(whole) == 2
    newer, step, seen, finished = artifacts.load(models["v2"]), 0, [], False
    while not finished:
        step += 1
        folder = tmp_path / f"cut-{step}"
        shutil.copytree(tmp_path / "v1", folder)
        with monkeypatch.context() as patched:
            cut_at(step, patched)
            with contextlib.suppress(PowerCut):
                batch_job.run(newer, source, folder / "out.parquet")
                finished = True
        there = whole.get((folder / "out.parquet").read_bytes(), "a part")
        said = json.loads((folder / "out.parquet.json").read_text())
        seen.append((there, next(name for name in jobs if jobs[name] == said)))
        batch_job.run(newer, source, folder / "out.parquet")
        assert whole[(folder / "out.parquet").read_bytes()] == "v2"
        assert json.loads((folder / "out.parquet.json").read_text()) == jobs["v2"]
    order = [("v1", "v1"), ("v2", "v1"), ("v2", "v2")]
    assert list(dict.fromkeys(seen)) == order, "the manifest comes after its table"


def test_a_job_that_writes_in_place_would_be_caught(scorer, tmp_path, monkeypatch):
    """The planted fault: drafts that already have the final name."""

    @contextlib.contextmanager
    def in_place(path):
        yield path

    monkeypatch.setattr(batch_job, "complete", in_place)
    source = write_rows(tmp_path / "in.parquet", 250)
    (tmp_path / "whole").mkdir()
    batch_job.run(scorer, source, tmp_path / "whole" / "out.parquet")
    whole = (tmp_path / "whole" / "out.parquet").read_bytes()
    write, written = pq.ParquetWriter.write_batch, []

    def full_disk(self, batch, *args):
        written.append(batch)
        if len(written) == 5:  # three parts, and the second piece of the table
            raise PowerCut
        return write(self, batch, *args)

    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full_disk)
    with pytest.raises(PowerCut):
        batch_job.run(scorer, source, tmp_path / "out.parquet")
    assert not is_right(tmp_path, whole)


# -- as a process ----------------------------------------------------------------------


def start(model, source, target, *words):
    return subprocess.Popen(
        [sys.executable, LISTINGS / "batch_job.py", model, source, target, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=servers.environment() | {"PYTHONPATH": str(ROOT)},
    )


def finish(process):
    with process:
        said, wrong = process.communicate()
    assert process.returncode == 0, wrong
    return json.loads(said.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_kills", [3, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(900)])]
)
def test_killed_at_random_moments_it_loses_and_doubles_nothing(
    n_kills, models, tmp_path
):
    source = write_rows(tmp_path / "in.parquet", 60_000, group=2_000)
    (tmp_path / "whole").mkdir()
    began = time.monotonic()
    finish(start(models["v1"], source, tmp_path / "whole" / "out.parquet"))
    takes_s = time.monotonic() - began
    whole = (tmp_path / "whole" / "out.parquet").read_bytes()
    rng = np.random.default_rng(7)
    for number in range(n_kills):
        folder = tmp_path / f"killed-{number}"
        folder.mkdir()
        target, died = folder / "out.parquet", False
        while not died:  # a moment after its end is no moment at which it dies
            target.unlink(missing_ok=True)
            (folder / "out.parquet.json").unlink(missing_ok=True)
            job = start(models["v1"], source, target)
            time.sleep(rng.uniform(0, takes_s))
            job.kill()
            job.communicate()
            died = job.returncode < 0
        assert is_right(folder, whole)
        finish(start(models["v1"], source, target))
        assert target.read_bytes() == whole
    ids = pq.read_table(target)["id"].to_numpy()
    np.testing.assert_array_equal(ids, np.arange(60_000))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(models, tmp_path):
    extra = {}
    for n_rows in (100_000, 1_600_000):
        source = write_rows(tmp_path / f"{n_rows}.parquet", n_rows, group=100_000)
        said = finish(start(models["v1"], source, tmp_path / f"out-{n_rows}.parquet"))
        extra[n_rows] = said["extra_mib"]
    assert extra[1_600_000] < 2 * extra[100_000], extra
    table_mib = 1_600_000 * 9 * 8 / 2**20
    assert extra[1_600_000] < 1.2 * table_mib, (extra, table_mib)


@pytest.mark.slow
def test_the_program_says_what_is_wrong_and_fails(models, tmp_path):
    job = start(models["v1"], tmp_path / "nothing.parquet", tmp_path / "out.parquet")
    said, wrong = job.communicate()
    assert job.returncode == 1
    assert said == ""
    assert "nothing.parquet" in wrong
    assert "Traceback" not in wrong


@pytest.mark.parametrize("older", [False, True])
def test_on_ray_the_name_means_complete_too(older, models, tmp_path, monkeypatch):
    """With a Ray that writes two files, and is killed after the first."""
    written, target = [], tmp_path / "scores"

    def write(path):
        for name in ("0", "1"):
            Path(path).mkdir(exist_ok=True)
            Path(path, f"{len(written)}-{name}.parquet").write_text(name)
            written.append(name)
            if len(written) == 1:
                raise PowerCut

    ray = MagicMock(__version__="0")
    ray.data.read_parquet().map_batches().write_parquet.side_effect = write
    monkeypatch.setitem(sys.modules, "ray", ray)
    source = write_rows(tmp_path / "in.parquet", 10)
    model = artifacts.read(models["v1"]).file
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, (model, source, target))])
    if older:
        target.mkdir()
        (target / "old.parquet").write_text("0")
    before = target.exists() and sorted(path.name for path in target.iterdir())
    script = str(ROOT / "extras" / "ray" / "score.py")
    with pytest.raises(PowerCut):
        runpy.run_path(script, run_name="__main__")
    after = target.exists() and sorted(path.name for path in target.iterdir())
    assert after == before, "a part has the final name"
    runpy.run_path(script, run_name="__main__")
    assert [path.read_text() for path in sorted(target.iterdir())] == ["0", "1"]
    assert visible(tmp_path) == {"in.parquet", "scores"}


def test_on_ray_the_features_are_taken_by_name(models, tmp_path, monkeypatch):
    """Whatever the order of the table's columns, and whatever else it holds."""
    ray, target = MagicMock(__version__="0"), tmp_path / "scores"
    table = ray.data.read_parquet()
    table.map_batches().write_parquet.side_effect = lambda path: Path(path).mkdir()
    monkeypatch.setitem(sys.modules, "ray", ray)
    source = write_rows(tmp_path / "in.parquet", 10)
    scorer = artifacts.load(models["v2"])
    model = scorer.artifact.file
    monkeypatch.setattr(sys, "argv", ["score.py", *map(str, (model, source, target))])
    script = str(ROOT / "extras" / "ray" / "score.py")
    kept = runpy.run_path(script, run_name="__main__")
    given = table.map_batches.call_args.kwargs["fn_constructor_args"]
    rows = pq.read_table(source, columns=NAMES).to_pandas()
    batch = {name: rows[name].to_numpy() for name in sorted(NAMES)}
    batch = {"id": np.arange(10), "shop": np.ones(10)} | batch
    found = kept["Scorer"](*given)(batch)["probability"]
    np.testing.assert_allclose(found, scorer.score(rows.to_numpy()), atol=1e-6)


def test_the_records_of_the_engines_are_whole():
    for engine in ("spark", "ray"):
        path = ROOT / "extras" / engine / "batch.csv"
        table = read_record(path)
        kinds = {(row["rows"], row["engine"]) for row in table}
        assert {kind for _, kind in kinds} == {"job", "two jobs", engine}
        rounds = {row["round"] for row in table}
        assert len(table) == len(kinds) * len(rounds), "a round is missing"
        assert all(float(row["largest_difference"]) < 1e-6 for row in table)


def read_record(path):
    import csv

    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.bench
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_bench_in_chunks_against_one_call(name, models, tmp_path):
    """Rows a second through the whole job, over one `run` on rows in memory."""
    n_rows, rounds = 400_000, 5
    source = write_rows(tmp_path / "in.parquet", n_rows, group=100_000)
    scorer = artifacts.load(models[name])
    rows = pq.read_table(source, columns=NAMES).to_pandas().to_numpy()
    rows32, ratios = rows.astype(np.float32), []
    session = artifacts.onnx_session(scorer.artifact.file.read_bytes())
    for number in range(rounds):
        began = time.perf_counter()
        session.run(["probabilities"], {"features": rows32})
        one_call_s = time.perf_counter() - began
        began = time.perf_counter()
        batch_job.run(scorer, source, tmp_path / f"out-{number}.parquet")
        ratios.append(one_call_s / (time.perf_counter() - began))
    low, middle, high = np.quantile(ratios, [0, 0.5, 1])
    print(
        f"\n{name}: rows a second, the whole job (read, check, score, write) over "
        f"one call on rows in memory: {middle:.2f} ({low:.2f} to {high:.2f} in "
        f"{rounds} rounds of {n_rows:,} rows)"
    )
    assert len(ratios) == rounds
