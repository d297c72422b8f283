"""Artifacts: saved, described, refused when they must be, equal in their answers."""

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploylab import artifacts, phishing
from deploylab.phishing import VERSIONS


@pytest.fixture(scope="module")
def models():
    return {name: phishing.train(name) for name in ("v1", "v2", "v3-contract")}


def every_row(contract):
    return np.array(list(itertools.product(*(f.values for f in contract.features))))


@pytest.mark.slow
@pytest.mark.parametrize("format", artifacts.FORMATS)
@pytest.mark.parametrize("name", ["v1", "v2", "v3-contract"])
def test_every_format_answers_like_the_model_on_every_row(
    name, format, models, tmp_path
):
    version = VERSIONS[name]
    saved = artifacts.save(version, tmp_path, format, model=models[name])
    scorer = artifacts.load(tmp_path, trust=saved.sha256)
    rows = every_row(version.contract)
    expected = models[name].predict_proba(rows)[:, 1]
    tolerance = 1e-6 if format == "onnx" else 1e-12
    np.testing.assert_allclose(scorer.score(rows), expected, rtol=0, atol=tolerance)
    assert ((scorer.score(rows) > 0.5) == (expected > 0.5)).all()


def test_the_manifest_says_what_was_saved(models, tmp_path):
    saved = artifacts.save(VERSIONS["v2-slow"], tmp_path, model=models["v2"])
    read = artifacts.read(tmp_path)
    assert read == saved
    assert (read.version, read.format) == ("v2-slow", "onnx")
    assert read.contract == phishing.CONTRACT
    assert read.faults == {"slow": {"extra_s": 0.1}}
    assert set(read.made_with) >= {"python", "scikit-learn", "skl2onnx"}


DIGESTS = """
import json, sys, tempfile
from deploylab import artifacts, phishing
found = {}
for name in phishing.VERSIONS:
    with tempfile.TemporaryDirectory() as folder:
        saved = artifacts.save(phishing.version(name), folder)
        found[name] = [saved.digest, saved.sha256]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_version_has_the_same_digest_on_every_build():
    runs = [
        json.loads(subprocess.check_output([sys.executable, "-c", DIGESTS]))
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    digests = [digest for digest, _ in runs[0].values()]
    assert len(set(digests)) == len(VERSIONS)


@pytest.mark.parametrize("format", artifacts.FORMATS)
def test_the_versions_digest_does_not_depend_on_the_format(format, models, tmp_path):
    onnx = artifacts.save(VERSIONS["v1"], tmp_path / "a", model=models["v1"])
    other = artifacts.save(VERSIONS["v1"], tmp_path / "b", format, model=models["v1"])
    assert other.digest == onnx.digest


@pytest.mark.parametrize("format", artifacts.FORMATS)
def test_changed_or_cut_bytes_are_refused(format, models, tmp_path):
    saved = artifacts.save(VERSIONS["v1"], tmp_path, format, model=models["v1"])
    whole = saved.file.read_bytes()
    for bad in (whole[:-1], whole + b"\0", b"", whole[:10] + b"\1" + whole[11:]):
        saved.file.write_bytes(bad)
        with pytest.raises(artifacts.CorruptArtifact, match="fetch it again"):
            artifacts.load(tmp_path, trust=saved.sha256)


class Errand:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return eval, (f"open({self.mark!r}, 'w').close()",)


@pytest.mark.parametrize("format", sorted(artifacts.RUNS_CODE))
def test_a_file_that_runs_code_needs_a_voucher_from_elsewhere(format, models, tmp_path):
    """Also when the attacker rewrites the manifest beside the file."""
    saved = artifacts.save(VERSIONS["v1"], tmp_path, format, model=models["v1"])
    with pytest.raises(artifacts.UntrustedArtifact, match="`trust`"):
        artifacts.load(tmp_path)
    mark = tmp_path / "mark"
    hostile = pickle.dumps(Errand(str(mark)))
    saved.file.write_bytes(hostile)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["sha256"] = artifacts.hashlib.sha256(hostile).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    for trust in (None, saved.sha256):
        with pytest.raises(artifacts.UntrustedArtifact):
            artifacts.load(tmp_path, trust=trust)
    assert not mark.exists()
    pickle.loads(hostile)
    assert mark.exists(), "the attack must work where nothing stops it"


def test_skops_refuses_a_type_that_nobody_reviewed(models, tmp_path, monkeypatch):
    artifacts.save(VERSIONS["v2"], tmp_path, "skops", model=models["v2"])
    monkeypatch.setattr(artifacts, "SKOPS_REVIEWED", frozenset())
    with pytest.raises(artifacts.UntrustedArtifact, match="Tree"):
        artifacts.load(tmp_path)


def test_a_folder_without_a_manifest_says_what_to_name(tmp_path):
    with pytest.raises(artifacts.ArtifactError, match=r"no manifest\.json"):
        artifacts.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"version": 1}', "null"),
        *("[" * 200_000, " " * artifacts.LIMIT_MANIFEST_BYTES + "{}"),
    ],
    ids=lambda text: text[:14] or "nothing",
)
def test_a_broken_manifest_is_refused(text, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(artifacts.CorruptArtifact, match="fetch a fresh copy"):
        artifacts.read(tmp_path)


def test_an_unknown_format_is_refused(models, tmp_path):
    with pytest.raises(artifacts.ArtifactError, match="pickle, joblib, skops, onnx"):
        artifacts.save(VERSIONS["v1"], tmp_path, "pmml", model=models["v1"])
    artifacts.save(VERSIONS["v1"], tmp_path, model=models["v1"])
    path = tmp_path / "manifest.json"
    path.write_text(path.read_text().replace('"onnx"', '"pmml"'))
    with pytest.raises(artifacts.CorruptArtifact, match="pmml"):
        artifacts.load(tmp_path)


FULL_DISK = """
import resource, sys
from deploylab import artifacts, phishing
model = phishing.train("v2")
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    artifacts.save(phishing.version("v2"), sys.argv[1], model=model)
except artifacts.ArtifactError as error:
    print(error)
else:
    print("no error")
"""


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_there(models, tmp_path):
    """RLIMIT_FSIZE makes the write fail half-way, as a full disk does."""
    before = artifacts.save(VERSIONS["v1"], tmp_path, model=models["v1"])
    listed = sorted(tmp_path.iterdir())
    said = subprocess.check_output(
        [sys.executable, "-c", FULL_DISK, tmp_path], text=True
    )
    assert "free some space" in said
    assert sorted(tmp_path.iterdir()) == listed
    assert artifacts.load(tmp_path).artifact == before


def test_dev_full_is_reported(models, tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("/dev/full: this system has none")

    def onto_full(dir, prefix):
        return artifacts.os.open("/dev/full", artifacts.os.O_WRONLY), str(
            tmp_path / "gone"
        )

    monkeypatch.setattr(artifacts.tempfile, "mkstemp", onto_full)
    with pytest.raises(artifacts.ArtifactError, match="No space left"):
        artifacts.save(VERSIONS["v1"], tmp_path / "x", model=models["v1"])


LIGHT = """
import sys
from deploylab import artifacts
artifacts.load(sys.argv[1]).score([[0.0] * 8])
heavy = {"sklearn", "pandas", "skl2onnx", "scipy"} & set(sys.modules)
print(sorted(heavy))
"""


@pytest.mark.slow
def test_scoring_onnx_imports_no_training_library(models, tmp_path):
    artifacts.save(VERSIONS["v2"], tmp_path, model=models["v2"])
    said = subprocess.check_output([sys.executable, "-c", LIGHT, tmp_path], text=True)
    assert said.strip() == "[]"


def test_saving_over_a_version_replaces_it_whole(models, tmp_path):
    artifacts.save(VERSIONS["v1"], tmp_path, model=models["v1"])
    artifacts.save(VERSIONS["v2"], tmp_path, model=models["v2"])
    loaded = artifacts.load(tmp_path).artifact
    assert loaded.version == "v2"
    assert set(tmp_path.iterdir()) == {loaded.file, tmp_path / "manifest.json"}
    assert loaded.file.stat().st_mode & 0o044, "another user may read it"


def test_a_failing_manifest_leaves_the_old_version(models, tmp_path, monkeypatch):
    """The manifest is written last; until then the old one is the truth."""
    before = artifacts.save(VERSIONS["v1"], tmp_path, model=models["v1"])
    replace = artifacts._replace

    def full(path, payload):
        if path.name == "manifest.json":
            raise OSError(28, "No space left on device")
        replace(path, payload)

    monkeypatch.setattr(artifacts, "_replace", full)
    with pytest.raises(artifacts.ArtifactError, match="No space left"):
        artifacts.save(VERSIONS["v2"], tmp_path, model=models["v2"])
    assert artifacts.load(tmp_path).artifact == before


@pytest.mark.parametrize("part", ["contract", "faults", "code_sha256", "digest"])
def test_an_edited_manifest_is_refused(part, models, tmp_path):
    """Two features swapped would change answers, and nothing else would notice."""
    artifacts.save(VERSIONS["v1"], tmp_path, model=models["v1"])
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text())
    if part == "contract":
        features = manifest["contract"]["features"]
        features[0], features[1] = features[1], features[0]
    else:
        manifest[part] = {"flaky": {}} if part == "faults" else "0" * 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(artifacts.CorruptArtifact, match="was edited"):
        artifacts.load(tmp_path)


def test_a_model_that_does_not_take_the_contract_is_refused(models, tmp_path):
    with pytest.raises(artifacts.ArtifactError, match=r"8 features.* has 9"):
        artifacts.save(VERSIONS["v3-contract"], tmp_path, model=models["v2"])
    assert not list(tmp_path.iterdir())


def test_a_manifest_cannot_name_a_file_elsewhere(models, tmp_path):
    artifacts.save(VERSIONS["v1"], tmp_path / "a", model=models["v1"])
    path = tmp_path / "a" / "manifest.json"
    path.write_text(path.read_text().replace('"file": "', '"file": "../../'))
    assert artifacts.read(tmp_path / "a").file.parent == tmp_path / "a"


@pytest.mark.parametrize("format", ["onnx", "skops"])
def test_a_whole_folder_exchanged_is_refused_where_a_digest_was_asked_for(
    format, models, tmp_path
):
    """File and manifest of v1 agree with each other; it is v2 that was wanted."""
    wanted = artifacts.save(VERSIONS["v2"], tmp_path, format, model=models["v2"])
    artifacts.save(VERSIONS["v1"], tmp_path, format, model=models["v1"])
    assert artifacts.load(tmp_path).artifact.version == "v1"
    with pytest.raises(artifacts.UntrustedArtifact, match=r"holds v1 .*was asked for"):
        artifacts.load(tmp_path, trust=wanted.sha256)


def planted(folder, payload, models):
    """An ONNX artifact whose file is these bytes, and whose manifest says so."""
    saved = artifacts.save(VERSIONS["v1"], folder, model=models["v1"])
    saved.file.write_bytes(payload)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sha256"] = artifacts.hashlib.sha256(payload).hexdigest()
    path.write_text(json.dumps(manifest))


def test_a_file_above_the_limit_is_refused_unread(models, tmp_path):
    """The file is sparse: it takes no room, and reading it whole would."""
    saved = artifacts.save(VERSIONS["v1"], tmp_path, model=models["v1"])
    with saved.file.open("r+b") as file:
        file.truncate(4 * 2**40)
    with pytest.raises(artifacts.CorruptArtifact, match=r"limit is 256\.0 MiB"):
        artifacts.load(tmp_path)


def test_the_limit_is_the_callers(models, tmp_path):
    saved = artifacts.save(VERSIONS["v1"], tmp_path, model=models["v1"])
    size = saved.file.stat().st_size
    artifacts.load(tmp_path, limit_bytes=size)
    with pytest.raises(artifacts.CorruptArtifact, match="raise `limit_bytes`"):
        artifacts.load(tmp_path, limit_bytes=size - 1)


def moved_outside(payload, location, beside):
    """The model with a first step whose numbers are in another file, `location`."""
    import onnx
    from onnx.external_data_helper import set_external_data

    model = onnx.load_from_string(payload)
    tensor = onnx.numpy_helper.from_array(np.zeros(8, np.float32), "shift")
    beside.write_bytes(tensor.raw_data)
    set_external_data(tensor, location, offset=0, length=32)
    tensor.ClearField("raw_data")
    model.graph.initializer.append(tensor)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == "features":
                node.input[place] = "moved"
    add = onnx.helper.make_node("Add", ["features", "shift"], ["moved"])
    model.graph.node.insert(0, add)
    return model.SerializeToString()


@pytest.mark.parametrize("location", ["{absolute}", "../{name}", "{name}"])
def test_onnx_with_numbers_in_another_file_is_refused(
    location, models, tmp_path, monkeypatch
):
    """Outside its folder, and beside the file as well: no digest covers either."""
    import onnxruntime

    away = tmp_path / "elsewhere"
    away.mkdir()
    beside = (tmp_path if ".." in location else away) / "numbers.bin"
    location = location.format(absolute=beside, name=beside.name)
    payload = artifacts.to_onnx_bytes(models["v1"], 8)
    payload = moved_outside(payload, location, beside)
    planted(tmp_path / "model", payload, models)
    monkeypatch.chdir(away)
    with pytest.raises(artifacts.UntrustedArtifact, match="in another file"):
        artifacts.load(tmp_path / "model")
    if location == beside.name:
        plain = away / "plain.onnx"
        plain.write_bytes(payload)
        assert onnxruntime.InferenceSession(plain), "the plant must work elsewhere"


def test_onnx_of_an_operator_set_that_does_not_exist_is_refused(models, tmp_path):
    import onnx

    model = onnx.load_from_string(artifacts.to_onnx_bytes(models["v1"], 8))
    model.opset_import[0].version = 99
    planted(tmp_path, model.SerializeToString(), models)
    with pytest.raises(artifacts.ArtifactError, match="compare library versions"):
        artifacts.load(tmp_path)


@pytest.mark.parametrize("cut", [0.5, 0.9, 0.999])
def test_onnx_that_was_cut_before_it_was_described_is_refused(cut, models, tmp_path):
    """The digest fits, because it was taken of the cut file."""
    payload = artifacts.to_onnx_bytes(models["v2"], 8)
    planted(tmp_path, payload[: int(cut * len(payload))], models)
    with pytest.raises(artifacts.ArtifactError, match="does not load here"):
        artifacts.load(tmp_path)
