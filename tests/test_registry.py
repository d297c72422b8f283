"""The registry: a version is whole or absent, and every move is in the trail."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest

from deploylab import artifacts, phishing
from deploylab.registry import (
    Reader,
    RegistryError,
    RegistryLocked,
    UnknownNumber,
    self_check,
)

pytestmark = pytest.mark.slow


@contextmanager
def longest_file(n_bytes):
    """A disk on which no file becomes longer than this."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def in_store(truth):
    return sorted(path.name for path in (truth.folder / "store").iterdir())


def database(truth):
    return closing(sqlite3.connect(truth.folder / "registry.db"))


def alias_past_our_door(truth, number):
    """As MLflow's own client does it."""
    truth._client.set_registered_model_alias("phishing", "champion", str(number))


def test_a_published_version_comes_back_byte_for_byte(truth, built, tmp_path):
    number = truth.publish(built["v2"])
    said = truth.published(number)
    original = artifacts.read(built["v2"])
    assert (said.number, said.name, said.digest) == (1, "v2", original.digest)
    folder = Reader(truth.folder).fetch(number, tmp_path / "cache")
    fetched = artifacts.read(folder)
    assert fetched.file.read_bytes() == original.file.read_bytes()
    assert os.listdir(tmp_path / "cache") == [folder.name]  # no draft is left
    self_check(artifacts.load(folder))


def test_numbers_count_and_the_same_files_keep_theirs(truth, built):
    assert [truth.publish(built[v]) for v in ("v1", "v2", "v1")] == [1, 2, 1]
    assert truth.numbers() == [1, 2]
    with pytest.raises(UnknownNumber, match="no version 3"):
        truth.set_alias("champion", 3, "ana")
    with pytest.raises(UnknownNumber, match="no alias 'candidate'"):
        truth.delete_alias("candidate", "ana")
    assert truth.trail() == []


def test_a_reader_sees_what_mlflow_sees(truth, built):
    truth.publish(built["v1"])
    number = truth.publish(built["v2"])
    truth.set_alias("champion", number, "ana")
    by_mlflow = truth._client.get_model_version_by_alias("phishing", "champion")
    assert Reader(truth.folder).pointers().aliases == {"champion": number}
    assert int(by_mlflow.version) == number
    assert by_mlflow.tags["digest"] == truth.published(number).digest


def test_the_trail_holds_every_move_in_order_with_who(truth, built):
    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", one, "ana")
    truth.set_alias("champion", two, "ben")
    truth.set_share(0.25, "ben")
    truth.set_alias("candidate", one, "ana")
    truth.set_alias("champion", one, "cleo")
    pointers = truth.delete_alias("candidate", "cleo")
    assert [(m.what, m.value, m.who) for m in truth.trail()] == [
        ("champion", "1", "ana"),
        ("champion", "2", "ben"),
        ("candidate_share", "0.25", "ben"),
        ("candidate", "1", "ana"),
        ("champion", "1", "cleo"),
        ("candidate", None, "cleo"),
    ]
    assert [m.sequence for m in truth.trail()] == [1, 2, 3, 4, 5, 6]
    assert (pointers.sequence, pointers.share) == (6, 0.25)
    assert [m.at for m in truth.trail()] == sorted(m.at for m in truth.trail())


def test_a_move_past_our_door_is_in_the_trail_too(truth, built):
    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])
    truth.set_alias("champion", one, "ana")
    alias_past_our_door(truth, two)
    truth.set_alias("champion", one, "ben")  # takes no credit for the other's
    assert [m.who for m in truth.trail()] == ["ana", None, "ben"]


def test_a_share_that_is_taken_away_past_our_door_is_a_move(truth):
    truth.set_share(0.5, "ana")
    truth._client.delete_registered_model_tag("phishing", "candidate_share")
    assert [(m.value, m.who) for m in truth.trail()] == [("0.5", "ana"), (None, None)]
    assert (truth.pointers().sequence, truth.pointers().share) == (2, 0)
    for nonsense in ("10%", "7", "nan"):
        truth._client.set_registered_model_tag("phishing", "candidate_share", nonsense)
        assert truth.pointers().share == 0


def test_a_move_of_somebody_else_meanwhile_is_not_signed(truth, built):
    one, two = truth.publish(built["v1"]), truth.publish(built["v2"])

    def both():
        alias_past_our_door(truth, two)
        alias_past_our_door(truth, one)

    with truth._writing():
        truth._move(both, ("champion", str(one)), "ana")
    assert [(m.value, m.who) for m in truth.trail()] == [("2", None), ("1", "ana")]


def test_a_version_that_mlflow_deleted_is_gone_and_can_come_again(truth, built):
    one = truth.publish(built["v1"])
    truth._client.delete_model_version("phishing", str(one))
    assert truth.numbers() == []
    with pytest.raises(UnknownNumber):
        truth.published(one)
    again = truth.publish(built["v1"])
    assert truth.set_alias("champion", again, "ana").aliases == {"champion": again}


def test_a_copy_that_another_worker_made_meanwhile_is_left_alone(
    truth, built, tmp_path, monkeypatch
):
    """Two workers of one service fetch the same version into one folder."""
    number, cache = truth.publish(built["v1"]), tmp_path / "cache"
    real, first = shutil.copytree, []

    def copytree(*arguments, **options):
        done = real(*arguments, **options)
        if not first:
            first.append(None)
            first[0] = truth.fetch(number, cache).stat().st_ino
        return done

    monkeypatch.setattr(shutil, "copytree", copytree)
    folder = truth.fetch(number, cache)
    assert folder.stat().st_ino == first[0]
    assert os.listdir(cache) == [folder.name]


def test_files_that_change_while_they_are_copied_are_not_published(
    truth, built, monkeypatch
):
    real = shutil.copyfile

    def cut(source, target):
        real(source, target)
        target.write_bytes(target.read_bytes()[:-1])

    monkeypatch.setattr(shutil, "copyfile", cut)
    with pytest.raises(artifacts.ArtifactError):
        truth.publish(built["v1"])
    assert truth.numbers() == []
    assert in_store(truth) == []


def test_an_alias_that_stays_is_no_move(truth, built):
    one = truth.publish(built["v1"])
    first = truth.set_alias("champion", one, "ana")
    assert truth.set_alias("champion", one, "ben") == first


@pytest.mark.parametrize(
    "order",
    [
        "DELETE FROM deploylab_trail",
        "UPDATE deploylab_trail SET who = 'eve'",
        "UPDATE deploylab_trail SET value = '9'",
        "UPDATE deploylab_trail SET at = 'never', who = 'eve'",
        "REPLACE INTO deploylab_trail VALUES (1, 'now', 'm', 'a', '9', 'eve')",
    ],
)
def test_the_trail_is_append_only(truth, built, order):
    truth.set_alias("champion", truth.publish(built["v1"]), "ana")
    with database(truth) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute(order)


def test_opening_again_changes_nothing(truth, new_registry, built):
    truth.set_alias("champion", truth.publish(built["v1"]), "ana")
    again = new_registry()
    assert again.pointers() == truth.pointers()
    assert again.trail() == truth.trail()


# -- what goes wrong ---------------------------------------------------------------


@pytest.mark.parametrize("room", [1_000, 50_000])
def test_a_full_disk_leaves_no_version(truth, built, room):
    """Too little for the files; enough for them, and too little for the database."""
    with longest_file(room), pytest.raises(RegistryError, match="again"):
        truth.publish(built["v1"])
    assert truth.numbers() == []
    assert not [name for name in in_store(truth) if name.startswith(".")]
    number = truth.publish(built["v1"])
    assert truth.set_alias("champion", number, "ana").aliases == {"champion": 1}


def test_a_full_disk_moves_no_alias(truth, built):
    truth.set_alias("champion", truth.publish(built["v1"]), "ana")
    before, two = truth.pointers(), truth.publish(built["v2"])
    with longest_file(50_000), pytest.raises(RegistryError):
        truth.set_alias("champion", two, "ben")
    assert truth.pointers() == before
    assert len(truth.trail()) == 1


def test_a_writer_that_was_killed_is_undone_by_the_next_reader(truth, built):
    """A half-written transaction lies in a journal, which a reader must undo."""
    truth.set_alias("champion", truth.publish(built["v1"]), "ana")
    program = (
        "import os, signal, sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1])\n"
        "connection.execute('PRAGMA cache_size = 1')\n"
        "connection.execute('PRAGMA synchronous = OFF')\n"
        'connection.execute("UPDATE registered_model_aliases SET version = 7")\n'
        "connection.execute('CREATE TABLE filler (i)')\n"
        "rows = ((i,) for i in range(20_000))\n"
        "connection.executemany('INSERT INTO filler VALUES (?)', rows)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = truth.folder / "registry.db"
    killed = subprocess.run([sys.executable, "-c", program, str(path)])
    assert killed.returncode == -signal.SIGKILL
    assert path.with_name("registry.db-journal").stat().st_size > 0
    assert Reader(truth.folder).pointers().aliases == {"champion": 1}


def test_two_writers_wait_for_each_other_and_then_give_up(new_registry, built):
    one, two = new_registry(), new_registry(timeout_s=0.2)
    number = one.publish(built["v1"])
    with one._writing(), pytest.raises(RegistryLocked, match="was not done"):
        two.set_alias("champion", number, "ben")
    two.set_alias("champion", number, "ben")
    assert [m.who for m in one.trail()] == ["ben"]


def test_a_writer_that_knows_no_lock_of_ours_is_waited_for_too(new_registry, built):
    truth = new_registry(timeout_s=0.2)
    number = truth.publish(built["v1"])
    with database(truth) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RegistryLocked):
            truth.set_alias("champion", number, "ana")
        with pytest.raises(RegistryLocked):
            Reader(truth.folder, timeout_s=0.1).pointers()
    assert truth.pointers().sequence == 0


def spoil_model(folder):
    file = artifacts.read(folder).file
    file.write_bytes(file.read_bytes()[:-10])


def spoil_examples(folder):
    (folder / "examples.json").write_text(
        json.dumps({"rows": [[0] * 8], "scores": [1]})
    )


def spoil_both_consistently(folder):
    artifacts.save(phishing.version("v2"), folder)


def spoil_manifest(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"v1"', '"v2"'))


def remove(folder):
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "spoil",
    [spoil_model, spoil_examples, spoil_both_consistently, spoil_manifest, remove],
)
def test_files_that_were_changed_in_the_store_are_refused(
    truth, built, tmp_path, spoil
):
    number = truth.publish(built["v1"])
    spoil(truth.published(number).folder)
    with pytest.raises(artifacts.ArtifactError):
        truth.set_alias("champion", number, "ana")
    with pytest.raises(artifacts.ArtifactError):
        truth.fetch(number, tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == []
    assert truth.pointers().aliases == {}
    healed = truth.publish(built["v1"])  # another number, whole files
    assert truth.set_alias("champion", healed, "ana").aliases == {"champion": healed}


def test_a_copy_that_was_changed_is_fetched_again(truth, built, tmp_path):
    number = truth.publish(built["v1"])
    spoil_model(truth.fetch(number, tmp_path))
    artifacts.load(truth.fetch(number, tmp_path))


def test_code_is_published_only_when_somebody_vouches(truth, tmp_path):
    saved = artifacts.save(phishing.version("v1"), tmp_path / "code", format="pickle")
    with pytest.raises(artifacts.UntrustedArtifact):
        truth.publish(saved.folder)
    assert truth.numbers() == []
    assert truth.publish(saved.folder, trust=saved.sha256) == 1


def test_a_broken_artifact_is_not_published(truth, built, tmp_path):
    shutil.copytree(built["v1"], tmp_path / "broken")
    spoil_model(tmp_path / "broken")
    with pytest.raises(artifacts.CorruptArtifact):
        truth.publish(tmp_path / "broken")
    assert truth.numbers() == []
    assert in_store(truth) == []


@pytest.mark.parametrize("scores", [[0.5], [float("nan")]])
def test_other_scores_than_the_published_ones_are_refused(truth, built, scores):
    number = truth.publish(built["v1"], rows=[[0.0] * 8], scores=scores)
    with pytest.raises(artifacts.ArtifactError, match="does not compute here"):
        self_check(artifacts.load(truth.published(number).folder))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(truth, share):
    with pytest.raises(RegistryError, match="between 0 and 1"):
        truth.set_share(share, "ana")


def test_where_there_is_no_registry_it_says_so(tmp_path):
    with pytest.raises(RegistryError, match="cannot be read"):
        Reader(tmp_path).pointers()
    assert list(tmp_path.iterdir()) == []


def test_reading_imports_nothing_heavy():
    program = (
        "import sys; import deploylab.registry;"
        "print(sorted({'mlflow', 'sqlalchemy', 'sklearn', 'pandas', 'redis'}"
        " & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == "[]"
