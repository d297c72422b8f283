"""The GitOps agent: what it follows, what it refuses, and that users notice nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from deploylab import ROOT, load, phishing, reconcile
from deploylab.reconcile import Desired

sys.path.insert(0, str(ROOT / "book" / "listings"))

import gitops
from gitops import git

KNOWN = ["v1", "v2", "v2-dies-loading"]
GOOD = "version: v1\nreplicas: 2\n"


class Fleet:
    """A fleet that only writes down what it is told."""

    def __init__(self) -> None:
        self.versions = dict.fromkeys(KNOWN)
        self.log: list[tuple[str, dict]] = []

    def tell(self, what: str, **details: object) -> None:
        self.log.append((what, details))


class Controller:
    """A controller that only remembers what is desired."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.desired = Desired("v1", 1)

    def desire(self, version: str, replicas: int) -> None:
        self.desired = Desired(version, replicas)


class Desk:
    """A bare repository, and a clone of it in which somebody works."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.clone = folder / "desired.git", folder / "clone"
        git(folder, "init", "--quiet", "--bare", str(self.bare))
        git(folder, "clone", "--quiet", str(self.bare), str(self.clone))

    def commit(self, text: str | None, message: str = "change") -> str:
        """Write the file (None: delete it), commit, push; the commit."""
        path = self.clone / gitops.FILE
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        git(self.clone, "add", "--all")
        git(self.clone, "commit", "--quiet", "-m", message)
        return self.push()

    def push(self, *options: str) -> str:
        git(self.clone, "push", "--quiet", *options, "origin", "HEAD:main")
        return git(self.clone, "rev-parse", "HEAD")


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    desk.commit(GOOD, "first")
    return desk


@pytest.fixture
def controller():
    return Controller()


@pytest.fixture
def agent(desk, controller, tmp_path):
    with gitops.Agent(desk.bare, tmp_path / "agent", controller, 0.01) as agent:
        after_a_look(agent)
        yield agent


def after_a_look(agent: gitops.Agent) -> None:
    """Return when one look has begun and ended since the call."""
    seen, deadline_s = agent.looks, time.monotonic() + 60
    while agent.looks < seen + 2:
        assert time.monotonic() < deadline_s, "the agent looks no more"
        time.sleep(0.005)


def said(controller: Controller) -> list[str]:
    return [what for what, _ in controller.fleet.log]


# --- what it follows ----------------------------------------------------------------


@pytest.mark.slow
def test_a_commit_is_followed(desk, agent, controller):
    assert controller.desired == Desired("v1", 2)
    commit = desk.commit("version: v2\nreplicas: 3\n")
    after_a_look(agent)
    assert controller.desired == Desired("v2", 3)
    assert agent.followed == commit
    assert agent.trouble is None


@pytest.mark.slow
def test_the_newest_of_several_commits_counts(desk, agent, controller):
    for replicas in (3, 4, 5):
        desk.commit(f"version: v2\nreplicas: {replicas}\n")
    after_a_look(agent)
    assert controller.desired == Desired("v2", 5)


BAD = {
    "syntax": ("version: [v2\n", "not YAML"),
    "below zero": ("version: v2\nreplicas: -1\n", "not -1"),
    "nobody": ("version: v2\nreplicas: 0\n", "not 0"),
    "a million": ("version: v2\nreplicas: 1000000\n", "1000000"),
    "a truth value": ("version: v2\nreplicas: true\n", "True"),
    "half": ("version: v2\nreplicas: 1.5\n", "1.5"),
    "no such version": ("version: v9\nreplicas: 2\n", "no version 'v9'"),
    "a number": ("version: 2\nreplicas: 2\n", "no version 2"),
    "a list": ("- v2\n", "must name"),
    "empty": ("", "must name"),
    "a field less": ("version: v2\n", "must name"),
    "a field more": ("version: v2\nreplicas: 2\nreplica: 3\n", "must name"),
    "a secret": ("version: v2\nreplicas: 2\npassword: x\n", "must name"),
    "deep": ("[" * 900, "not YAML"),
    "a key twice": ("version: v1\nversion: v2\nreplicas: 2\n", "twice"),
    "a day that is none": ("version: 2020-13-45\nreplicas: 2\n", "not YAML"),
    "a number that is none": ("version: v2\nreplicas: !!int x\n", "not YAML"),
    "long": ("#" * 20_000, "characters"),
    "an object": ("!!python/object/apply:os.system ['true']\n", "not YAML"),
    "deleted": (None, "no file"),
}


@pytest.mark.parametrize("name", [name for name in BAD if name != "deleted"])
def test_a_bad_file_is_refused_with_a_reason(name):
    text, why = BAD[name]
    with pytest.raises(gitops.BadWish, match=re.escape(why)):
        gitops.read_wish(text, KNOWN)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["syntax", "below zero", "no such version", "deleted"])
def test_a_bad_commit_changes_nothing_and_is_told_once(desk, agent, controller, name):
    text, why = BAD[name]
    good = agent.followed
    desk.commit(text)
    after_a_look(agent)
    after_a_look(agent)
    assert controller.desired == Desired("v1", 2)
    assert agent.followed == good
    what, told = agent.trouble
    assert what == "refused"
    assert why in told
    assert said(controller).count("refused") == 1
    git(desk.clone, "revert", "--no-edit", "HEAD")
    reverted = desk.push()
    after_a_look(agent)
    assert agent.trouble is None
    assert agent.followed == reverted
    assert controller.desired == Desired("v1", 2)


@pytest.mark.slow
def test_a_revert_brings_the_state_before(desk, agent, controller):
    desk.commit("version: v2\nreplicas: 2\n")
    after_a_look(agent)
    git(desk.clone, "revert", "--no-edit", "HEAD")
    commit = desk.push()
    after_a_look(agent)
    assert controller.desired == Desired("v1", 2)
    assert agent.followed == commit
    # The whole story is still there.
    assert git(desk.clone, "rev-list", "--count", "HEAD") == "3"


@pytest.mark.slow
def test_a_change_by_hand_is_taken_back(agent, controller):
    controller.desire("v2", 4)
    after_a_look(agent)
    assert controller.desired == Desired("v1", 2)
    assert ("drift", {"found": "4 of v2"}) in controller.fleet.log


# --- when the repository is not as it should be -------------------------------------


@pytest.mark.slow
def test_a_deleted_repository_leaves_the_last_good_state(desk, agent, controller):
    good = agent.followed
    away = desk.bare.rename(desk.bare.with_name("away.git"))
    after_a_look(agent)
    after_a_look(agent)
    assert agent.trouble[0] == "unreachable"
    assert said(controller).count("unreachable") == 1
    assert controller.desired == Desired("v1", 2)
    controller.desire("v2", 4)  # drift is repaired from what the agent has
    after_a_look(agent)
    assert controller.desired == Desired("v1", 2)
    away.rename(desk.bare)
    after_a_look(agent)
    assert agent.trouble is None
    assert agent.followed == good


@pytest.mark.slow
def test_it_begins_without_a_repository(desk, tmp_path, controller):
    """A restart while the repository is away: what was followed is on disk."""
    folder = tmp_path / "agent"
    with gitops.Agent(desk.bare, folder, controller, 0.01) as agent:
        after_a_look(agent)
    desk.bare.rename(desk.bare.with_name("away.git"))
    later = Controller()
    with gitops.Agent(desk.bare, folder, later, 0.01) as agent:
        assert later.desired == Desired("v1", 2)
        after_a_look(agent)
        assert agent.trouble[0] == "unreachable"


def test_it_begins_with_nothing_at_all(tmp_path, controller):
    nowhere = tmp_path / "nowhere.git"
    with gitops.Agent(nowhere, tmp_path / "agent", controller, 0.01) as agent:
        after_a_look(agent)
        assert agent.trouble[0] == "unreachable"
        assert agent.followed is None
    assert controller.desired == Desired("v1", 1)


@pytest.mark.slow
def test_the_followed_version_has_left_the_registry(desk, tmp_path, controller):
    folder = tmp_path / "agent"
    with gitops.Agent(desk.bare, folder, controller, 0.01) as agent:
        after_a_look(agent)
    later = Controller()
    del later.fleet.versions["v1"]
    later.desired = Desired("v2", 1)
    with gitops.Agent(desk.bare, folder, later, 0.01) as agent:
        after_a_look(agent)
        assert agent.trouble[0] == "refused"
    assert later.desired == Desired("v2", 1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["back", "beside"])
def test_a_rewritten_history_is_not_followed(desk, agent, controller, how):
    second = desk.commit("version: v2\nreplicas: 2\n")
    after_a_look(agent)
    git(desk.clone, "reset", "--quiet", "--hard", "HEAD~1")
    if how == "beside":
        path = desk.clone / gitops.FILE
        path.write_text("version: v1\nreplicas: 5\n")
        git(desk.clone, "commit", "--quiet", "-am", "as if nothing had been")
    desk.push("--force")
    after_a_look(agent)
    assert agent.trouble[0] == "rewritten"
    assert controller.desired == Desired("v2", 2)
    assert agent.followed == second
    # The way out: a commit on top of the one that is followed.
    git(desk.clone, "fetch", "--quiet", str(agent._mirror), gitops._FOLLOWED)
    git(desk.clone, "reset", "--quiet", "--hard", "FETCH_HEAD")
    git(desk.clone, "revert", "--no-edit", "HEAD")
    desk.push("--force")
    after_a_look(agent)
    assert agent.trouble is None
    assert controller.desired == Desired("v1", 2)


@pytest.mark.slow
def test_a_git_that_fails_does_not_make_it_forget(desk, agent, controller, monkeypatch):
    """What it follows cannot be read: that is not to have followed nothing."""
    second = desk.commit("version: v2\nreplicas: 2\n")
    after_a_look(agent)
    git(desk.clone, "reset", "--quiet", "--hard", "HEAD~1")
    desk.push("--force")
    after_a_look(agent)
    failed = []

    def out_of_processes(folder, *words, **options):
        if words[-1] == gitops._FOLLOWED and not failed:
            failed.append(words)
            raise gitops.GitError("git did not end well: killed")
        return git(folder, *words, **options)

    monkeypatch.setattr(gitops, "git", out_of_processes)
    after_a_look(agent)
    after_a_look(agent)
    monkeypatch.undo()
    assert failed
    assert "error" in said(controller)
    assert agent.trouble[0] == "rewritten"
    assert agent.followed == second
    assert controller.desired == Desired("v2", 2)


@pytest.mark.slow
def test_a_bad_commit_may_be_taken_out_of_the_history(desk, agent, controller):
    """Nobody has followed it."""
    desk.commit("version: v9\nreplicas: 2\n")
    after_a_look(agent)
    git(desk.clone, "reset", "--quiet", "--hard", "HEAD~1")
    desk.push("--force")
    after_a_look(agent)
    assert agent.trouble is None
    assert controller.desired == Desired("v1", 2)


@pytest.mark.slow
def test_one_agent_a_folder(desk, agent, controller, tmp_path):
    with pytest.raises(gitops.AgentRunning, match="another agent"):
        gitops.Agent(desk.bare, tmp_path / "agent", controller)
    agent.stop()
    agent.stop()
    gitops.Agent(desk.bare, tmp_path / "agent", controller).stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seen", "followed"])
def test_a_lock_that_a_killed_git_left_is_taken_away(
    desk, agent, controller, tmp_path, name
):
    left = tmp_path / "agent/mirror/refs/agent" / f"{name}.lock"
    left.touch()  # while it works
    desk.commit("version: v2\nreplicas: 2\n")
    after_a_look(agent)
    assert controller.desired == Desired("v2", 2)
    agent.stop()
    left.touch()  # before it begins
    with gitops.Agent(desk.bare, tmp_path / "agent", controller, 0.01) as second:
        desk.commit("version: v1\nreplicas: 3\n")
        after_a_look(second)
        assert controller.desired == Desired("v1", 3)


@pytest.mark.slow
def test_an_agent_that_cannot_begin_leaves_the_folder_to_the_next(
    desk, controller, tmp_path, monkeypatch
):
    def broken(self, commit):
        raise gitops.GitError("git update-ref: cannot lock ref")

    with gitops.Agent(desk.bare, tmp_path / "agent", controller, 0.01) as first:
        after_a_look(first)
    with monkeypatch.context() as patched:
        patched.setattr(gitops.Agent, "_take", broken)
        with pytest.raises(gitops.GitError, match="cannot lock") as kept:
            gitops.Agent(desk.bare, tmp_path / "agent", controller)
    gitops.Agent(desk.bare, tmp_path / "agent", controller).stop()
    assert kept.traceback  # it holds the failed one, as a notebook does


@pytest.mark.slow
def test_two_agents_with_folders_of_their_own_agree(desk, agent, tmp_path):
    other = Controller()
    with gitops.Agent(desk.bare, tmp_path / "second", other, 0.01) as second:
        desk.commit("version: v2\nreplicas: 2\n")
        after_a_look(agent)
        after_a_look(second)
        assert agent.followed == second.followed
        assert agent.wish == other.desired


@pytest.mark.slow
def test_it_goes_on_after_an_error_of_its_own(desk, agent, controller, monkeypatch):
    monkeypatch.setattr(controller, "desire", explode := Exploding(controller))
    controller.desired = Desired("v2", 7)
    after_a_look(agent)
    assert explode.calls
    assert agent.trouble[0] == "error"
    monkeypatch.undo()
    after_a_look(agent)
    assert controller.desired == Desired("v1", 2)


class Exploding:
    """A `desire` that fails."""

    def __init__(self, controller: Controller) -> None:
        self.calls = 0

    def __call__(self, *wish: object) -> None:
        self.calls += 1
        raise ValueError("not now")


# --- git ---------------------------------------------------------------------------


def test_git_reads_nobodys_configuration(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text("[user]\n\tname = somebody else\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody else")
    desk = Desk(tmp_path)
    desk.commit(GOOD)
    assert git(desk.clone, "log", "-1", "--format=%an %D").startswith(
        "ana HEAD -> main"
    )
    assert (home / ".gitconfig").read_text().count("\n") == 2
    assert not (tmp_path / "elsewhere").exists()


def test_no_other_host_is_asked(tmp_path):
    with pytest.raises(gitops.GitError, match="not allowed"):
        git(tmp_path, "ls-remote", "https://example.org/desired.git")


def test_a_machine_without_git_says_so(tmp_path, monkeypatch, controller):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(gitops.GitError, match="install the package"):
        gitops.Agent(tmp_path, tmp_path / "agent", controller)


def test_git_that_hangs_is_given_up(tmp_path, monkeypatch):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(gitops.GitError, match="did not end well"):
        git(tmp_path, "status", timeout_s=0.1)


# --- for real ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return phishing.save(KNOWN, tmp_path_factory.mktemp("models"))


def until(condition, timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["python", "auto"])
def test_users_notice_nothing(saved, desk, tmp_path, kind):
    """Bad commits, a hand, a lost repository, a commit during a roll: 0 failed."""
    rows = phishing.load()[phishing.CONTRACT.names].head(200)
    rules = reconcile.Rules(slots=4, min_ready_s=0.1)
    with (
        reconcile.Fleet(saved, kind=kind) as fleet,
        reconcile.Controller(fleet, Desired("v1", 2), rules) as controller,
    ):
        controller.wait()
        with (
            load.Load(fleet.url, rows, rate_per_s=30, timeout_s=20) as users,
            gitops.Agent(desk.bare, tmp_path / "agent", controller, 0.02) as agent,
        ):
            until(lambda: len(fleet.log) and agent.followed is not None)
            # Good.
            desk.commit("version: v2\nreplicas: 2\n")
            until(lambda: controller.desired.version == "v2" and controller.reached)
            # It never starts; the controller tries it more than once.
            desk.commit("version: v2-dies-loading\nreplicas: 2\n")
            until(lambda: failures(fleet, "v2-dies-loading") >= 2)
            git(desk.clone, "revert", "--no-edit", "HEAD")
            desk.push()
            until(lambda: controller.desired.version == "v2" and controller.reached)
            # A commit that arrives during a roll.
            desk.commit("version: v1\nreplicas: 2\n")
            until(lambda: controller.desired.version == "v1")
            desk.commit("version: v2\nreplicas: 3\n")
            until(lambda: controller.desired == Desired("v2", 3) and controller.reached)
            # The repository is gone, and an instance too: it heals.
            away = desk.bare.rename(desk.bare.with_name("away.git"))
            until(lambda: agent.trouble is not None)
            mark, routes = len(fleet.log), [e for e in fleet.log if e.what == "route"]
            fleet.server(routes[-1].details["names"][0]).stop()
            until(lambda: "reached" in [e.what for e in list(fleet.log)[mark:]])
            away.rename(desk.bare)
            until(lambda: agent.trouble is None)
            # A hand.
            controller.desire("v1", 1)
            until(lambda: controller.desired == Desired("v2", 3) and controller.reached)
            answers = users.stop()
    assert len(answers) > 100
    assert [a for a in answers if a.status != 200] == []


def failures(fleet, version: str) -> int:
    return fleet.failures[version].number if version in fleet.failures else 0


# --- the same for Argo CD -----------------------------------------------------------

# The fields that Argo CD's own example has: docs/operator-manual/application.yaml in
# argoproj/argo-cd at 0327d2f, read on 2026-11-23. No package that we found carries the
# schema of an Application.
DOCUMENTED = set(
    "apiVersion kind metadata metadata.name metadata.namespace metadata.finalizers "
    "spec spec.project spec.source spec.source.repoURL spec.source.targetRevision "
    "spec.source.path spec.destination spec.destination.server "
    "spec.destination.namespace spec.syncPolicy spec.syncPolicy.automated "
    "spec.syncPolicy.automated.prune spec.syncPolicy.automated.selfHeal "
    "spec.syncPolicy.automated.allowEmpty spec.syncPolicy.syncOptions "
    "spec.syncPolicy.retry spec.syncPolicy.retry.limit spec.syncPolicy.retry.backoff "
    "spec.syncPolicy.retry.backoff.duration spec.syncPolicy.retry.backoff.factor "
    "spec.syncPolicy.retry.backoff.maxDuration".split()
)


def fields(mapping: dict, before: str = "") -> set[str]:
    """The paths of all fields of a manifest."""
    found = set()
    for key, value in mapping.items():
        found.add(before + key)
        if isinstance(value, dict):
            found |= fields(value, f"{before}{key}.")
    return found


def test_the_application_has_documented_fields_and_no_secret():
    path = ROOT / "book/listings/gitops/application.yaml"
    application = yaml.safe_load(path.read_text())
    assert application["apiVersion"] == "argoproj.io/v1alpha1"
    assert application["kind"] == "Application"
    assert fields(application) <= DOCUMENTED
    automated = application["spec"]["syncPolicy"]["automated"]
    assert automated == {"prune": True, "selfHeal": True}
    assert "@" not in application["spec"]["source"]["repoURL"]
    application["spec"]["syncPolicy"]["selfHeal"] = True  # one level too high
    assert fields(application) - DOCUMENTED == {"spec.syncPolicy.selfHeal"}


def test_kubernetes_validate_knows_no_application():
    """As the page says: it lets the kind pass with a warning, unchecked."""
    program = Path(sys.executable).with_name("kubernetes-validate")
    path = ROOT / "book/listings/gitops/application.yaml"
    done = subprocess.run([program, path], capture_output=True, text=True)
    assert done.returncode == 0
    assert "WARN" in done.stdout + done.stderr
