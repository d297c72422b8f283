"""The running example: its data, its split, and its cast."""

import numpy as np
import pytest

from deploylab import artifacts, phishing
from deploylab.phishing import CONTRACT, CONTRACT_V3, LABEL, VERSIONS


def test_the_data_is_the_documented_file(monkeypatch):
    data = phishing.load()
    assert data.shape == (1250, 10)
    assert data[LABEL].value_counts().to_dict() == {0: 702, 1: 548}
    assert len(data.drop_duplicates(CONTRACT_V3.names)) == 625
    monkeypatch.setattr(phishing, "DATA_SHA256", "0" * 64)
    with pytest.raises(phishing.DataError, match="git checkout"):
        phishing.load()


def test_every_value_of_the_data_keeps_the_contract():
    data = phishing.load()
    for feature in CONTRACT_V3.features:
        assert set(data[feature.name]) == set(feature.values)


def test_the_split_is_repeatable_and_keeps_equal_rows_together():
    one, two = phishing.split(), phishing.split()
    assert one.train.equals(two.train)
    assert one.test.equals(two.test)
    assert len(one.train) + len(one.test) == 1250
    seen = set(map(tuple, one.train[CONTRACT.names].to_numpy()))
    held = set(map(tuple, one.test[CONTRACT.names].to_numpy()))
    assert not seen & held


def test_groups_are_equal_exactly_for_equal_rows():
    data = phishing.load()
    groups = phishing.groups(data)
    rows = data[CONTRACT.names].to_numpy()
    for i in range(0, 200):
        same = (rows == rows[i]).all(axis=1)
        assert ((groups == groups[i]) == same).all()


def test_an_unknown_version_names_the_known_ones():
    with pytest.raises(phishing.UnknownVersion, match="v2-skewed") as caught:
        phishing.version("v9")
    assert "'v9'" in str(caught.value)


def test_the_cast_is_the_designed_one():
    assert list(VERSIONS) == [
        "v1",
        "v2",
        "v2-skewed",
        "v2-slow",
        "v2-flaky",
        "v2-dies-loading",
        "v2-dies-serving",
        "v3-contract",
    ]
    assert VERSIONS["v3-contract"].contract is CONTRACT_V3
    assert not VERSIONS["v1"].faults
    assert not VERSIONS["v2"].faults
    assert all(v.faults for n, v in VERSIONS.items() if n.startswith("v2-"))


def test_v2_is_good_and_skew_is_bad():
    test = phishing.split().test
    rows, truth = test[CONTRACT.names].to_numpy(), test[LABEL].to_numpy()
    model = phishing.train("v2")
    assert (model.predict(rows) == truth).mean() > 0.9
    skewed = rows.copy()
    column = CONTRACT.names.index("popup_window")
    skewed[:, column] = 1 - skewed[:, column]
    changed = (model.predict(skewed) != model.predict(rows)).mean()
    assert 0.2 < changed < 0.4


def test_training_twice_gives_the_same_scores():
    rows = phishing.split().test[CONTRACT.names].to_numpy()
    for name in ("v1", "v2"):
        one, two = (phishing.train(name).predict_proba(rows) for _ in range(2))
        np.testing.assert_array_equal(one, two)


def test_the_code_digest_sees_the_service_and_the_faults(tmp_path):
    v2, skewed = VERSIONS["v2"], VERSIONS["v2-skewed"]
    assert v2.code_digest() != skewed.code_digest()
    service = tmp_path / "service.py"
    service.write_text("one")
    before = v2.code_digest(service)
    service.write_text("two")
    assert v2.code_digest(service) != before


def test_saved_together_and_saved_alone_are_the_same_versions(tmp_path, monkeypatch):
    """What differs in faults alone has one model, fitted and exported once."""
    names, fits = ["v1", "v2", "v2-skewed", "v3-contract"], []
    plain = phishing.Version.fit

    def fit(version, rows=None):
        fits.append(version.name)
        return plain(version, rows)

    alone = {
        name: artifacts.save(VERSIONS[name], tmp_path / f"a/{name}") for name in names
    }
    monkeypatch.setattr(phishing.Version, "fit", fit)
    together = phishing.save(names, tmp_path / "b")
    assert list(together) == names
    assert fits == ["v1", "v2", "v3-contract"]
    for name, folder in together.items():
        assert artifacts.read(folder).digest == alone[name].digest
        assert artifacts.load(folder).artifact.version == name
    with pytest.raises(phishing.UnknownVersion, match="v2-skewed"):
        phishing.save(["v1", "v9"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
