"""The closing table of the part on serving: every column is measured."""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploylab import ROOT, artifacts, broker, phishing

sys.path.insert(0, str(ROOT / "book" / "listings"))

import batch_job
import patterns

ROW = [0, 0.5, 1, 0, 0.5, 0.5, 1, 0]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return phishing.save(["v1", "v2"], tmp_path_factory.mktemp("models"))


def test_each_pattern_is_measured(saved, tmp_path):
    try:
        broker.find_redis()
    except broker.BrokerError:
        pytest.skip("redis is missing")
    rows = patterns.measure(saved["v1"], saved["v2"], ROW, tmp_path)
    table = {row["pattern"]: row for row in rows}
    assert list(table) == ["module", "service", "data", "batch", "queue"]
    dies = {name: row["model's side dies"] for name, row in table.items()}
    assert dies == {
        "module": "the application dies with it",
        "service": "no answers; the application goes on",
        "data": "answers go on, by the last model",
        "batch": "answers go on, from the table",
        "queue": "questions wait",
    }
    assert table["module"]["added_ms"] == 0
    assert all(row["stale_s"] > 0 for row in rows)
    assert table["service"]["added_ms"] > table["data"]["added_ms"]


def test_a_table_is_read_only_with_its_own_manifest(saved, tmp_path):
    """The job was killed between the two, or is at work."""
    rows = {
        "id": [7],
        **{name: [0.0] for name in artifacts.read(saved["v1"]).contract.names},
    }
    source, target = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pq.write_table(pa.table(rows), source)
    manifest = tmp_path / "out.parquet.json"
    batch_job.run(artifacts.load(saved["v1"]), source, target)
    older = manifest.read_bytes()
    found = patterns.read_scores(target)
    assert found["version"] == "v1"
    assert 0 < found[7] < 1
    batch_job.run(artifacts.load(saved["v2"]), source, target)
    assert patterns.read_scores(target)["version"] == "v2"
    manifest.write_bytes(older)
    assert patterns.read_scores(target) == {}


def test_a_model_that_never_comes_is_not_waited_for_for_ever(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(patterns.time, "perf_counter", lambda: next(clock))
    with pytest.raises(TimeoutError, match="v2"):
        patterns.until(lambda: "v1", "v2", began=0)


def test_an_application_that_forgets_to_follow_would_be_caught(
    saved, tmp_path, monkeypatch
):
    """The planted fault: a model as data that nobody reads again."""
    real = patterns.until
    monkeypatch.setattr(
        patterns, "until", lambda ask, version, began: real(ask, version, began - 59.5)
    )
    with pytest.raises(TimeoutError):
        patterns.data(saved["v1"], saved["v2"], ROW, tmp_path, every_s=30)
