"""The page on platforms: its table of tools, its pipeline, and its adapters."""

import csv
import datetime
import inspect
import json
import signal
import subprocess
import sys
import time

import pytest

from deploylab import ROOT, artifacts, phishing, registry, servers

LISTINGS = ROOT / "book" / "listings"
sys.path.insert(0, str(LISTINGS))

import protocols  # noqa: E402
import release_pipeline  # noqa: E402

# --- the table --------------------------------------------------------------------

TABLE = LISTINGS / "platforms.csv"
GROUPS = {
    "managed platform",
    "workflow engine",
    "set of tools",
    "tracking and registry",
    "serving",
    "GitOps",
    "dormant tool",
}
STATES = {"active", "renamed", "limited", "dormant", "ended"}
BASES = {"documentation", "package index", "repository", "issue"}
OPTIONAL = {"licence"}  # empty: not looked up


def rows() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def wrong(rows: list[dict[str, str]]) -> list[str]:
    """What is wrong with the table, one line a fault."""
    found = []
    for row in rows:
        tool = row["tool"]
        for name, value in row.items():
            if not value and name not in OPTIONAL:
                found.append(f"{tool}: no {name}")
        for name, known in ("group", GROUPS), ("status", STATES), ("basis", BASES):
            if row[name] not in known:
                found.append(f"{tool}: {name} is {row[name]!r}")
        if not row["source"].startswith("https://"):
            found.append(f"{tool}: its source is no address")
        try:
            checked = datetime.date.fromisoformat(row["checked"])
        except ValueError:
            found.append(f"{tool}: {row['checked']!r} is no date")
        else:
            if not datetime.date(2026, 11, 1) <= checked <= datetime.date.today():
                found.append(f"{tool}: nobody can have looked on {checked}")
        if row["status"] == "active" and not any(c.isdigit() for c in row["note"]):
            found.append(f"{tool}: active, without a version or a date")
        if (row["operated by"] == "you") == (row["licence"] == "proprietary"):
            found.append(f"{tool}: who runs it does not go with its licence")
    names = [row["tool"] for row in rows]
    found += [f"{name}: twice" for name in set(names) if names.count(name) > 1]
    return found


def test_every_tool_has_a_state_with_a_source_and_a_date():
    assert len(rows()) > 15
    assert {row["group"] for row in rows()} == GROUPS
    assert wrong(rows()) == []


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("source", "", "no source"),
        ("source", "their web page", "no address"),
        ("checked", "", "no checked"),
        ("checked", "last year", "no date"),
        ("checked", "2019-01-01", "nobody can have looked"),
        ("checked", "2999-01-01", "nobody can have looked"),
        ("group", "MLaaS", "group is 'MLaaS'"),
        ("status", "great", "status is 'great'"),
        ("basis", "hearsay", "basis is 'hearsay'"),
        ("note", "it lives", "without a version or a date"),
        ("licence", "proprietary", "does not go with"),
        ("tool", "MLflow", "twice"),
    ],
)
def test_a_fault_in_the_table_is_found(column, value, said):
    table = rows()
    changed = next(row for row in table if row["tool"] == "Luigi")
    changed[column] = value
    assert any(said in line for line in wrong(table)), wrong(table)


# --- the pipeline -----------------------------------------------------------------


def toy(ran: list[str], *names: str):
    """Steps that say that they ran; `settings["breaks"]` names one that breaks."""

    def step(name):
        def run(folder, settings):
            ran.append(name)
            if settings.get("breaks") == name:
                raise OSError("no room")
            return {"of": name}

        run.__name__ = name
        return run

    return [step(name) for name in names]


@pytest.fixture
def ran(monkeypatch):
    """What ran, of three toy steps in place of the real ones."""
    ran: list[str] = []
    steps = toy(ran, "train", "gate", "release")
    monkeypatch.setattr(release_pipeline, "STEPS", steps)
    return ran


def test_a_step_is_done_once_for_equal_settings(ran, tmp_path, capsys):
    release_pipeline.resumable(tmp_path, {"rows": 5, "die_in": None})
    release_pipeline.resumable(tmp_path, {"die_in": "gate", "rows": 5})
    assert ran == ["train", "gate", "release"]
    assert capsys.readouterr().out.count("done before") == 3


def test_other_settings_are_other_work(ran, tmp_path):
    release_pipeline.resumable(tmp_path, {"rows": 5, "die_in": None})
    release_pipeline.resumable(tmp_path, {"rows": 6, "die_in": None})
    assert ran == ["train", "gate", "release"] * 2


def test_what_breaks_is_not_done(ran, tmp_path):
    settings = {"rows": 5, "die_in": None}
    with pytest.raises(OSError, match="no room"):
        release_pipeline.resumable(tmp_path, settings | {"breaks": "gate"})
    assert not (tmp_path / "gate.json").exists()
    release_pipeline.resumable(tmp_path, settings | {"breaks": ""})
    assert ran == ["train", "gate", "train", "gate", "release"]


def test_another_code_of_a_step_is_other_work_for_it_and_the_steps_behind(
    ran, tmp_path, monkeypatch
):
    settings = {"rows": 5, "die_in": None}
    release_pipeline.resumable(tmp_path, settings)
    source = inspect.getsource

    def changed(step):
        return source(step) + "# mended" * (step.__name__ == "gate")

    monkeypatch.setattr(release_pipeline.inspect, "getsource", changed)
    release_pipeline.resumable(tmp_path, settings)
    assert ran == ["train", "gate", "release", "gate", "release"]


@pytest.mark.parametrize("torn", ["", '{"fingerprint": "', "[]x"])
def test_a_record_that_is_not_whole_is_no_record(ran, tmp_path, torn):
    settings = {"rows": 5, "die_in": None}
    release_pipeline.resumable(tmp_path, settings)
    (tmp_path / "train.json").write_text(torn)
    release_pipeline.resumable(tmp_path, settings)
    assert ran == ["train", "gate", "release", "train"]


def test_a_record_goes_before_what_it_vouches_for_is_overwritten(
    ran, tmp_path, monkeypatch
):
    ours = {"rows": 5, "die_in": None, "breaks": "release"}
    with pytest.raises(OSError, match="no room"):  # trained, and passed by the gate
        release_pipeline.resumable(tmp_path, ours)

    def cut(draft, record):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(release_pipeline.os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):  # another candidate, and no record yet
            release_pipeline.resumable(tmp_path, ours | {"rows": 6})
    ran.clear()
    with pytest.raises(OSError, match="no room"):
        release_pipeline.resumable(tmp_path, ours)
    assert ran == ["train", "release"]


SCRIPT = LISTINGS / "release_pipeline.py"


def run_script(folder, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            sys.executable,
            LISTINGS / "release_pipeline.py",
            folder,
            folder / "registry",
            *flags,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=servers.environment() | {"PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
def test_a_killed_pipeline_goes_on_where_it_was(tmp_path):
    for step in ("train", "gate", "release"):
        killed = run_script(tmp_path, "--resume", "--die-in", step)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert f"{step}: " not in killed.stdout
        assert not (tmp_path / f"{step}.json").exists()
    done = run_script(tmp_path, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done before") == 2
    truth = registry.Reader(tmp_path / "registry")
    assert truth.pointers().aliases == {"champion": 1}
    assert truth.numbers() == [1]


@pytest.mark.slow
def test_a_candidate_that_is_refused_is_not_released(tmp_path):
    settings = release_pipeline.SETTINGS | {"registry": str(tmp_path / "registry")}
    with pytest.raises(release_pipeline.Refused, match="asked for are 92%"):
        release_pipeline.resumable(tmp_path, settings | {"rows": 30})
    assert not (tmp_path / "registry").exists()
    assert not (tmp_path / "gate.json").exists()


# --- the adapters -----------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A client of the service at its three addresses, and its model."""
    saved = phishing.save(["v1"], tmp_path_factory.mktemp("protocols"))["v1"]
    client = protocols.create_app(str(saved)).test_client()
    deadline = time.monotonic() + 30
    while client.get("/ping").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return client, artifacts.load(saved)


NAMES = phishing.CONTRACT.names
INFER = "/v2/models/phishing/infer"


def tensors(records: list[dict]) -> dict:
    columns = {name: [record[name] for record in records] for name in records[0]}
    shape = [len(records)]
    return {
        "inputs": [
            {"name": name, "shape": shape, "datatype": "FP64", "data": data}
            for name, data in columns.items()
        ]
    }


def some(n: int) -> list[dict]:
    return phishing.load()[NAMES].head(n).to_dict("records")


def test_three_protocols_give_the_models_answer(asked):
    client, scorer = asked
    records = some(30)
    expected = scorer.score([[one[name] for name in NAMES] for one in records])
    ours = [client.post("/predict", json=one).json["probability"] for one in records]
    theirs = client.post("/invocations", json={"dataframe_records": records}).json
    shared = client.post(INFER, json=tensors(records)).json
    assert theirs["predictions"] == expected.tolist()
    # A batch is added up in another order than a single row.
    assert ours == pytest.approx(expected.tolist(), abs=1e-6)
    assert shared == {
        "model_name": "phishing",
        "model_version": "v1",
        "outputs": [
            {
                "name": "probability",
                "datatype": "FP64",
                "shape": [30],
                "data": expected.tolist(),
            }
        ],
    }


@pytest.mark.parametrize("id", ["42", ""])
def test_the_id_of_an_open_inference_request_comes_back(asked, id):
    client, _ = asked
    answer = client.post(INFER, json=tensors(some(2)) | {"id": id}).json
    assert answer["id"] == id
    assert "id" not in client.post(INFER, json=tensors(some(2))).json


def test_a_tensor_may_have_one_list_for_each_row(asked):
    client, _ = asked
    flat, nested = tensors(some(2)), tensors(some(2))
    for tensor in nested["inputs"]:
        tensor["shape"] = [2, 1]
        tensor["data"] = [[value] for value in tensor["data"]]
    assert client.post(INFER, json=nested).json == client.post(INFER, json=flat).json


@pytest.mark.parametrize(
    "fault",
    [
        lambda tensors: tensors.append(tensors[0]),
        lambda tensors: tensors[0].update(shape=[7]),
        lambda tensors: tensors[0].update(shape=[2, 1], data=[[], []]),
        lambda tensors: tensors[0].update(shape=[2, 1], data=[[1, 2], [3, 4]]),
        lambda tensors: tensors[0].pop("shape"),
    ],
)
def test_a_tensor_that_is_not_what_it_says_is_refused(asked, fault):
    client, _ = asked
    body = tensors(some(2))
    fault(body["inputs"])
    assert client.post(INFER, json=body).status_code in (400, 422)


def test_the_order_of_columns_makes_no_difference(asked):
    client, _ = asked
    records = some(3)
    turned = [dict(reversed(one.items())) for one in records]
    for path, one, other in (
        (INFER, tensors(records), tensors(turned)),
        ("/invocations", {"dataframe_records": records}, {"dataframe_records": turned}),
    ):
        assert client.post(path, json=one).json == client.post(path, json=other).json


@pytest.mark.parametrize(
    "change",
    [{"https": 7}, {"https": None}, {"https": "yes"}, {"https_": 1}, {"https": [1]}],
)
def test_the_contract_holds_in_every_protocol(asked, change):
    client, _ = asked
    bad = [some(1)[0] | change]
    field = next(iter(change))
    for path, body in (
        ("/predict", bad[0]),
        ("/invocations", {"dataframe_records": bad}),
        (INFER, tensors(bad)),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422
        assert field in [problem["field"] for problem in answer.json["problems"]]


@pytest.mark.parametrize("path", ["/invocations", INFER])
@pytest.mark.parametrize(
    "body",
    ["{", "[]", "3", "null", '"text"', "{}", '{"inputs": 3}', '{"inputs": [3]}',
     '{"inputs": []}', '{"inputs": [{"name": "https"}]}',
     '{"inputs": [{"name": [], "data": [1]}]}',
     '{"inputs": [{"name": "https", "data": 1}]}',
     '{"inputs": [{"name": "a", "data": [1]}, {"name": "b", "data": [1, 2]}]}',
     '{"dataframe_records": []}', '{"dataframe_records": 3}',
     '{"dataframe_records": [3]}', '{"dataframe_records": {}}'],
)  # fmt: skip
def test_what_is_not_of_the_protocol_is_refused(asked, path, body):
    client, _ = asked
    answer = client.post(path, data=body, content_type="application/json")
    assert answer.status_code in (400, 422)
    assert json.loads(answer.data)["error"]


def test_a_body_that_is_too_large_is_refused(asked):
    client, _ = asked
    body = {"dataframe_records": some(200)}
    assert client.post("/invocations", json=body).status_code == 413
