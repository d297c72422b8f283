"""The running example: is this web address phishing?

The data, the split, the feature contracts, and the cast of versions that every chapter
rolls out. Introduced in *Meet the model*.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from deploylab import ROOT, artifacts
from deploylab.contract import Contract, Feature

__all__ = [
    "CONTRACT",
    "CONTRACT_V3",
    "LABEL",
    "SERVICE",
    "VERSIONS",
    "DataError",
    "Split",
    "UnknownVersion",
    "Version",
    "groups",
    "load",
    "split",
    "train",
    "version",
]

DATA_SHA256 = "cfe77f0b77dd706ac5491842d7ad787c80b5805eb315a47a4b89d0172c760fca"
LABEL = "is_phishing"
_THREE = (0.0, 0.5, 1.0)
_TWO = (0.0, 1.0)

#: The eight features that v1 and v2 need.
CONTRACT = Contract(
    "phishing-8",
    (
        Feature("empty_server_form_handler", _THREE, "where the page's forms are sent"),
        Feature("popup_window", _THREE, "how the page uses pop-up windows"),
        Feature("https", _THREE, "the certificate of the site"),
        Feature("request_from_other_domain", _THREE, "objects from other domains"),
        Feature("anchor_from_other_domain", _THREE, "links to other domains"),
        Feature("is_popular", _THREE, "how much traffic the site has"),
        Feature("long_url", _THREE, "the length of the address"),
        Feature("ip_in_url", _TWO, "an IP address in place of a name"),
    ),
)

#: The nine features that v3-contract needs.
CONTRACT_V3 = Contract(
    "phishing-9",
    (*CONTRACT.features, Feature("age_of_domain", _TWO, "the age of the domain")),
)

#: The Flask service that every version is served by, unless a page says otherwise.
SERVICE = ROOT / "book" / "listings" / "phishing_service.py"


class DataError(RuntimeError):
    """The vendored data set is not the one that the book was written with."""


class UnknownVersion(KeyError):
    """No version of that name is in the cast."""

    def __str__(self) -> str:
        return str(self.args[0])


def load() -> pd.DataFrame:
    """The data set: 1,250 rows, nine feature columns and `is_phishing` (0 or 1).

    Raises `DataError` when the file is not, byte for byte, the one that is documented
    in `deploylab/data/README.md`.
    """
    raw = files("deploylab").joinpath("data", "phishing.csv")
    with raw.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != DATA_SHA256:
            raise DataError(
                f"phishing.csv has SHA-256 {digest[:12]}..., expected "
                f"{DATA_SHA256[:12]}...; restore it with "
                "`git checkout deploylab/data/phishing.csv`"
            )
        file.seek(0)
        return pd.read_csv(file).astype(
            dict.fromkeys(CONTRACT_V3.names, float) | {LABEL: int}
        )


def groups(data: pd.DataFrame) -> np.ndarray:
    """A group number for each row, shape (n,): equal rows share a number.

    Rows are compared on the eight features that v1 and v2 see, so that no row of the
    test side was seen in training under another `age_of_domain`.
    """
    return data.groupby(CONTRACT.names, sort=True).ngroup().to_numpy()


@dataclass(frozen=True)
class Split:
    """Training and test rows; no row of one side is on the other."""

    train: pd.DataFrame
    test: pd.DataFrame


def split(data: pd.DataFrame | None = None) -> Split:
    """The book's split, the same on every call: grouped, stratified, four to one."""
    data = load() if data is None else data
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=7)
    train_rows, test_rows = next(folds.split(data, data[LABEL], groups(data)))
    return Split(
        data.iloc[train_rows].reset_index(drop=True),
        data.iloc[test_rows].reset_index(drop=True),
    )


def logistic_regression() -> ClassifierMixin:
    """The model of v1: scaled features, logistic regression."""
    return make_pipeline(StandardScaler(), LogisticRegression())


def extra_trees() -> ClassifierMixin:
    """The model of v2: one hundred extremely randomised trees, fixed seed."""
    return ExtraTreesClassifier(n_estimators=100, min_samples_leaf=2, random_state=0)


@dataclass(frozen=True)
class Version:
    """A version of the service: code, model and feature contract.

    `faults` is the part of the code that is broken on purpose (see
    `deploylab.faults`): a mapping from the fault's name to its settings.
    """

    name: str
    teaches: str
    make_model: Callable[[], ClassifierMixin] = extra_trees
    contract: Contract = CONTRACT
    faults: dict[str, Any] = field(default_factory=dict)

    def fit(self, rows: pd.DataFrame | None = None) -> ClassifierMixin:
        """The model, fitted to `rows` (the training side of the split by default)."""
        rows = split().train if rows is None else rows
        return self.make_model().fit(rows[self.contract.names].to_numpy(), rows[LABEL])

    def code_digest(self, service: Path = SERVICE) -> str:
        """SHA-256 of the code part: the service's source and the faults put into it."""
        faults = json.dumps(self.faults, sort_keys=True).encode()
        return hashlib.sha256(service.read_bytes() + b"\0" + faults).hexdigest()


_CAST = (
    Version("v1", "the stable baseline", logistic_regression),
    Version("v2", "a good release: gates must let it through"),
    Version(
        "v2-skewed",
        "answers 200, answers wrong: silent failure",
        faults={"skewed": {"feature": "popup_window"}},
    ),
    Version("v2-slow", "a latency gate", faults={"slow": {"extra_s": 0.1}}),
    Version("v2-flaky", "an error gate", faults={"flaky": {"error_rate": 0.05}}),
    Version(
        "v2-dies-loading", "readiness and crash loops", faults={"dies-loading": {}}
    ),
    Version(
        "v2-dies-serving",
        "health, restarts, requests in flight",
        faults={"dies-serving": {"after_requests": 100}},
    ),
    Version(
        "v3-contract",
        "a contract change: expand, migrate, contract",
        contract=CONTRACT_V3,
    ),
)

#: The cast, by name.
VERSIONS: dict[str, Version] = {v.name: v for v in _CAST}


def version(name: str) -> Version:
    """The version of that name; `UnknownVersion` lists the names there are."""
    try:
        return VERSIONS[name]
    except KeyError:
        known = ", ".join(VERSIONS)
        raise UnknownVersion(
            f"there is no version {name!r}; the cast is {known}"
        ) from None


def save(names: Iterable[str], folder: str | Path) -> dict[str, Path]:
    """Save these versions, each into a folder of its own; the folders, by name.

    Versions that differ in their faults alone have one model: it is fitted and exported
    once. `UnknownVersion` names the versions there are, before anything is written.
    """
    models: dict[tuple, tuple[ClassifierMixin, bytes]] = {}
    saved = {}
    for one in [version(name) for name in names]:
        alike = (one.make_model, one.contract)
        if alike not in models:
            model = one.fit()
            exported = artifacts.to_onnx_bytes(model, len(one.contract.features))
            models[alike] = model, exported
        model, exported = models[alike]
        kept = artifacts.save(
            one, Path(folder) / one.name, model=model, exported=exported
        )
        saved[one.name] = kept.folder
    return saved


def train(name: str) -> ClassifierMixin:
    """The fitted model of a version, by name: `version(name).fit()`."""
    return version(name).fit()
