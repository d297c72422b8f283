"""Model artifacts: one folder a model, in one of four formats, behind one interface.

A folder holds the model file and `manifest.json`: version, format, SHA-256 of the file,
feature contract, and the library versions that made it. Reading checks that the
manifest agrees with its own digest, loading that the file agrees with the manifest;
that finds accidents, not forgers, who can write a new digest. Formats that run code are
refused unless the caller vouches for the exact bytes.
Heavy libraries are imported only when a format needs them, so that a server of an ONNX
artifact never loads scikit-learn. Introduced in *Model as module*.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deploylab.contract import Contract

__all__ = [
    "FORMATS",
    "Artifact",
    "ArtifactError",
    "CorruptArtifact",
    "UntrustedArtifact",
    "load",
    "read",
    "save",
    "to_onnx_bytes",
]

#: Format -> ending of the model file. Those in `RUNS_CODE` execute code when loaded.
FORMATS = {"pickle": "pkl", "joblib": "joblib", "skops": "skops", "onnx": "onnx"}
RUNS_CODE = frozenset({"pickle", "joblib"})
#: A larger model file is refused before it is read: it would fill memory first.
LIMIT_BYTES = 256 * 2**20
#: The same for `manifest.json`, which has a few KiB.
LIMIT_MANIFEST_BYTES = 2**20
#: ONNX operator sets the book exports to; fixed, so that a build is repeatable.
OPSETS = {"": 21, "ai.onnx.ml": 3}


class ArtifactError(RuntimeError):
    """An artifact could not be written or read; the message says what to do next."""


class CorruptArtifact(ArtifactError):
    """The bytes of the model file are not those that the manifest was written for."""


class UntrustedArtifact(ArtifactError):
    """Loading would run code, and nobody vouched for these bytes."""


@dataclass(frozen=True)
class Artifact:
    """A model on disk, described; nothing of it has been loaded."""

    folder: Path
    file: Path
    version: str
    format: str
    sha256: str
    contract: Contract
    faults: dict[str, Any]
    digest: str
    made_with: dict[str, str]

    @property
    def size_kib(self) -> float:
        """Size of the model file in KiB."""
        return self.file.stat().st_size / 1024


@dataclass(frozen=True)
class Scorer:
    """A loaded model: rows in, probabilities of phishing out."""

    artifact: Artifact
    predict_proba: Callable[[np.ndarray], np.ndarray]

    def score(self, rows: Any) -> np.ndarray:
        """Probability of phishing, shape (n,), for rows of shape (n, features)."""
        return self.predict_proba(np.asarray(rows, dtype=np.float64))


def save(
    version: Any,
    folder: str | Path,
    format: str = "onnx",
    *,
    model: Any = None,
    exported: bytes | None = None,
) -> Artifact:
    """Write a version's model to `folder` and describe it; nothing half-written stays.

    `version` is a `deploylab.phishing.Version`; `model` its fitted estimator (fitted
    now when left out), and `exported` that model as `to_onnx_bytes` gives it. An
    artifact that the folder held is replaced whole: the manifest is written last and
    names the model file. Save each version that is in use into a folder of its own,
    since a running server reads its folder again when it restarts.

    Raises `ArtifactError` when the format is unknown, the model does not take the
    contract's features, or the disk does not take the file; what was in the folder
    before is then still there.
    """
    if format not in FORMATS:
        raise ArtifactError(
            f"there is no format {format!r}; choose one of {', '.join(FORMATS)}"
        )
    model = version.fit() if model is None else model
    n_features = len(version.contract.features)
    if model.n_features_in_ != n_features:
        raise ArtifactError(
            f"the model was fitted to {model.n_features_in_} features, the contract of "
            f"{version.name} has {n_features}; pass the model that belongs to it"
        )
    # A skops file differs in its bytes on every save; the ONNX export does not, and
    # so it stands for the model in the version's digest, whatever the format here.
    exported = exported or to_onnx_bytes(model, n_features)
    payload = exported if format == "onnx" else _DUMP[format](model)
    sha256 = hashlib.sha256(payload).hexdigest()
    manifest = {
        "version": version.name,
        "format": format,
        "file": f"model-{sha256[:12]}.{FORMATS[format]}",
        "sha256": sha256,
        "model_sha256": hashlib.sha256(exported).hexdigest(),
        "code_sha256": version.code_digest(),
        "contract": version.contract.as_json(),
        "faults": version.faults,
        "made_with": _made_with(format),
    }
    manifest["digest"] = version_digest(manifest)
    folder = Path(folder)
    text = json.dumps(manifest, indent=2, sort_keys=True).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / manifest["file"], payload)
        _replace(folder / "manifest.json", text)
        for old in folder.glob("model-*"):
            if old.name != manifest["file"]:
                old.unlink()
    except OSError as error:
        raise ArtifactError(
            f"could not write the {format} artifact of {version.name} to {folder}: "
            f"{error.strerror or error}; free some space or choose another folder, "
            "then save again"
        ) from error
    return read(folder)


def version_digest(manifest: Mapping[str, Any]) -> str:
    """One SHA-256 over code, model and contract, whatever the format of the file."""
    parts = ("code_sha256", "model_sha256", "contract", "faults")
    triple = {part: manifest[part] for part in parts}
    text = json.dumps(triple, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read(folder: str | Path) -> Artifact:
    """The description of the artifact in `folder`; the model file is not opened."""
    folder = Path(folder)
    try:
        with (folder / "manifest.json").open("rb") as file:
            text = file.read(LIMIT_MANIFEST_BYTES + 1)
        if len(text) > LIMIT_MANIFEST_BYTES:
            raise ValueError(f"it has more than {LIMIT_MANIFEST_BYTES:,} bytes")
        manifest = json.loads(text.decode())
        artifact = Artifact(
            folder=folder,
            file=folder / Path(manifest["file"]).name,
            version=manifest["version"],
            format=manifest["format"],
            sha256=manifest["sha256"],
            contract=Contract.from_json(manifest["contract"]),
            faults=manifest["faults"],
            digest=manifest["digest"],
            made_with=manifest["made_with"],
        )
        same = version_digest(manifest) == artifact.digest
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} has no manifest.json; name the folder that "
            "`deploylab.artifacts.save` wrote"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptArtifact(
            f"{folder / 'manifest.json'} cannot be read ({error}); save the artifact "
            "again, or fetch a fresh copy"
        ) from error
    if not same:
        raise CorruptArtifact(
            f"{folder / 'manifest.json'} was edited: code, model, contract or faults "
            "are not those of its digest; save the artifact again, or fetch a fresh "
            "copy"
        )
    return artifact


def load(
    folder: str | Path, trust: str | None = None, *, limit_bytes: int = LIMIT_BYTES
) -> Scorer:
    """The model in `folder`, ready to score.

    The file's SHA-256 is compared with the manifest's before anything is parsed
    (`CorruptArtifact`). `trust` is the expected SHA-256, obtained from somewhere other
    than this folder: pickle and joblib run code that the file chooses, so they are
    loaded only with it, and where it is given, no other file is loaded in any format
    (`UntrustedArtifact`). A file of more than `limit_bytes` is refused unread, and so
    is an ONNX model that keeps numbers in further files, which no digest covers.
    """
    artifact = read(folder)
    if artifact.format not in FORMATS:
        raise CorruptArtifact(
            f"the manifest in {folder} names the format {artifact.format!r}; known "
            f"are {', '.join(FORMATS)}"
        )
    try:
        with artifact.file.open("rb") as file:
            too_large = os.fstat(file.fileno()).st_size > limit_bytes
            payload = b"" if too_large else file.read()
    except OSError as error:
        raise CorruptArtifact(
            f"the model file {artifact.file} cannot be read: {error.strerror}; fetch "
            "the artifact again"
        ) from error
    if too_large:
        raise CorruptArtifact(
            f"{artifact.file} has {artifact.size_kib / 1024:,.1f} MiB, and the limit "
            f"is {limit_bytes / 2**20:,.1f} MiB; if the model is meant to be that "
            "large, raise `limit_bytes`"
        )
    found = hashlib.sha256(payload).hexdigest()
    if found != artifact.sha256:
        raise CorruptArtifact(
            f"{artifact.file} has SHA-256 {found[:12]}..., but its manifest says "
            f"{artifact.sha256[:12]}...; the file was changed or cut short after it "
            "was saved: fetch it again, and do not load this one"
        )
    if artifact.format in RUNS_CODE and trust != found:
        why = "no digest was given" if trust is None else "the digest is another one"
        raise UntrustedArtifact(
            f"{artifact.file} is a {artifact.format} file, and loading one runs "
            f"whatever code it holds; {why}. Take the SHA-256 from the place that "
            "built the model, not from this folder, and pass it as `trust`; or ask "
            "for the model as ONNX, which holds no Python"
        )
    if trust not in (None, found):
        raise UntrustedArtifact(
            f"{artifact.file} holds {artifact.version} with SHA-256 {found[:12]}..., "
            f"and {trust[:12]}... was asked for; fetch the artifact that the digest "
            "belongs to, or ask for this one"
        )
    try:
        return Scorer(artifact, _LOAD[artifact.format](payload))
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(
            f"{artifact.file} has the right bytes but does not load here: {error}; it "
            f"was made with {artifact.made_with}, so compare library versions"
        ) from error


def to_onnx_bytes(model: Any, n_features: int) -> bytes:
    """A fitted scikit-learn classifier as ONNX: float32 in, two probabilities out."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    exported = to_onnx(
        model,
        initial_types=[("features", FloatTensorType([None, n_features]))],
        options={"zipmap": False},
        target_opset=OPSETS,
    )
    return exported.SerializeToString(deterministic=True)


def onnx_session(payload: bytes) -> Any:
    """An ONNX Runtime session on one thread: a server's workers share the cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A model given as bytes may name further files, looked for from the working folder
    # on. Nothing can be in this one, so every such model is refused.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    return onnxruntime.InferenceSession(
        payload, options, providers=["CPUExecutionProvider"]
    )


def _dump_pickle(model: Any) -> bytes:
    import pickle

    return pickle.dumps(model, protocol=5)


def _dump_joblib(model: Any) -> bytes:
    import joblib

    buffer = io.BytesIO()
    joblib.dump(model, buffer, compress=3)
    return buffer.getvalue()


def _dump_skops(model: Any) -> bytes:
    import skops.io

    return skops.io.dumps(model)


_DUMP: Mapping[str, Callable[[Any], bytes]] = {
    "pickle": _dump_pickle,
    "joblib": _dump_joblib,
    "skops": _dump_skops,
}


def _load_pickle(payload: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import pickle

    return _sklearn_scores(pickle.loads(payload))


def _load_joblib(payload: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import joblib

    return _sklearn_scores(joblib.load(io.BytesIO(payload)))


#: Types outside skops' own list that our models need, each looked at: numeric arrays
#: of fitted trees, no code.
SKOPS_REVIEWED = frozenset({"sklearn.tree._tree.Tree"})


def _load_skops(payload: bytes) -> Callable[[np.ndarray], np.ndarray]:
    import skops.io

    unknown = set(skops.io.get_untrusted_types(data=payload)) - SKOPS_REVIEWED
    if unknown:
        raise UntrustedArtifact(
            f"the file holds types nobody reviewed: {', '.join(sorted(unknown))}"
        )
    return _sklearn_scores(skops.io.loads(payload, trusted=sorted(SKOPS_REVIEWED)))


def _load_onnx(payload: bytes) -> Callable[[np.ndarray], np.ndarray]:
    try:
        session = onnx_session(payload)
    except Exception as error:
        if "External data" not in str(error):
            raise
        raise UntrustedArtifact(
            "the model keeps numbers in another file, which no digest covers; export "
            "it again with everything in one file"
        ) from error
    name = session.get_inputs()[0].name

    def predict_proba(rows: np.ndarray) -> np.ndarray:
        scores = session.run(["probabilities"], {name: rows.astype(np.float32)})[0]
        return scores[:, 1].astype(np.float64)

    return predict_proba


_LOAD: Mapping[str, Callable[[bytes], Callable[[np.ndarray], np.ndarray]]] = {
    "pickle": _load_pickle,
    "joblib": _load_joblib,
    "skops": _load_skops,
    "onnx": _load_onnx,
}


def _sklearn_scores(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: model.predict_proba(rows)[:, 1]


def _made_with(format: str) -> dict[str, str]:
    libraries = ["scikit-learn", "numpy"]
    libraries += {"onnx": ["skl2onnx", "onnx"], "skops": ["skops"]}.get(format, [])
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {"python": platform.python_version(), **versions}


def _replace(path: Path, payload: bytes) -> None:
    """Write beside `path`, then rename: a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o644)  # a server may run as another user
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
