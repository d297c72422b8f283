"""A GitOps agent: a Git repository says what is to run here, and the agent makes it so.

    with reconcile.Controller(fleet, Desired("v1", 2)) as controller:
        with gitops.Agent(address, folder, controller) as agent:
            ...  # commits to the branch `main` of the repository roll out by themselves

The repository holds one file, `service.yaml`, with a version and a number of replicas.
The agent fetches it again and again, judges it, and hands what is good to the
controller, which heals and rolls whether or not there is a repository.

What it does in cases of doubt, each said once in the fleet's log:

- the repository cannot be reached (``unreachable``): the last good state stays desired;
- a file that it cannot carry out (``refused``): likewise, until a newer commit is good;
- a history that was rewritten (``rewritten``): likewise, until the branch contains the
  commit that it follows again;
- somebody changed what is desired by hand (``drift``): the repository's state again;
- a commit while it works: the newest one counts, at the next look;
- another agent with the same folder: refused by `AgentRunning`.

After a restart it goes on from the commit that it followed, also without a repository.
If its own mirror is deleted or damaged, it says ``unreachable`` until somebody deletes
the mirror and starts it again; the new one does not know how far it had followed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
from collections.abc import Collection
from pathlib import Path

import yaml

from deploylab.reconcile import Controller, Desired

FILE, BRANCH = "service.yaml", "main"
#: More than this is taken for a slip of the pen.
MOST_REPLICAS = 10
LONGEST = 1000  # characters of the file; what is deep takes YAML long to read
_SEEN, _FOLLOWED = "refs/agent/seen", "refs/agent/followed"


class GitError(RuntimeError):
    """Git could not do what it was asked to."""


class AgentRunning(RuntimeError):
    """Another agent works in this folder."""


class BadWish(ValueError):
    """The file is no desired state that could be carried out."""


def git(folder: str | Path, *words: str, timeout_s: float = 20) -> str:
    """Run git in `folder`; what it said. Raises GitError.

    It reads nobody's configuration, asks for no password, and goes to no other host:
    name, address and the first branch are given here, for this one call.
    """
    program = shutil.which("git")
    if program is None:
        raise GitError("there is no git on this machine; install the package `git`")
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "file",
        "GIT_AUTHOR_NAME": "ana",
        "GIT_AUTHOR_EMAIL": "ana@example.org",
        "GIT_COMMITTER_NAME": "ana",
        "GIT_COMMITTER_EMAIL": "ana@example.org",
    }
    command = [program, "-c", f"init.defaultBranch={BRANCH}", "-c", "gc.auto=0"]
    try:
        done = subprocess.run(
            [*command, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(f"git {words[0]} did not end well: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise GitError(f"git {words[0]}: {said[0]}")
    return done.stdout.strip()


def read_wish(text: str, known: Collection[str]) -> Desired:
    """The desired state in a file. Raises BadWish, with what is wrong and what to do.

    known: the versions that the registry has.
    """
    if len(text) > LONGEST:
        raise BadWish(f"it has {len(text):,} characters; two short lines are enough")
    try:
        said = yaml.load(text, _Once)  # a safe loader
    except BadWish:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else "it"
        raise BadWish(f"{where} is not YAML; mend it") from error
    if not isinstance(said, dict) or set(said) != {"version", "replicas"}:
        raise BadWish("it must name a version and a number of replicas, nothing else")
    version, replicas = said["version"], said["replicas"]
    if not isinstance(version, str) or version not in known:
        listed = ", ".join(sorted(known))
        raise BadWish(f"there is no version {version!r}; the registry has {listed}")
    if type(replicas) is not int or not 1 <= replicas <= MOST_REPLICAS:
        raise BadWish(f"replicas is 1 to {MOST_REPLICAS}, not {replicas!r}")
    return Desired(version, replicas)


class _Once(yaml.SafeLoader):
    """YAML in which no key may stand twice, as after a merge by hand."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        keys = [str(key.value) for key, _ in node.value]
        if len(set(keys)) < len(keys):
            raise BadWish("a key is there twice; take one out")
        return super().construct_mapping(node, deep)


class Agent:
    """A thread that pulls the desired state and hands it to a controller.

    address: of the repository; folder: the agent's own, where it keeps what it has
    fetched, and how far it has followed; controller: of the running servers;
    every_s: how long it rests between two looks.

    Raises AgentRunning, and GitError if git does not work. That the repository cannot
    be reached is no error: the agent begins with what it has.
    """

    def __init__(
        self,
        address: str | Path,
        folder: str | Path,
        controller: Controller,
        every_s: float = 0.1,
    ) -> None:
        self.address, self.folder = str(address), Path(folder)
        self.controller, self.every_s = controller, every_s
        self.wish: Desired | None = None
        self.looks = 0
        self._said: tuple[str, str] | None = None  # the last trouble, told once
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise AgentRunning(
                f"another agent works in {self.folder}; stop it, or give this one a "
                "folder and servers of its own"
            ) from None
        self._mirror = self.folder / "mirror"
        try:
            self._begin()
        except BaseException:
            self._lock.close()
            raise
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def followed(self) -> str | None:
        """The commit whose state is desired; None before the first. Raises GitError."""
        return self._commit(_FOLLOWED)

    @property
    def trouble(self) -> tuple[str, str] | None:
        """What keeps it from following the branch, and why; None if nothing does."""
        return self._said

    def look(self) -> None:
        """Fetch, judge, hand over: one look. What is no good changes nothing."""
        self._unlock()  # what a git that was killed has locked
        try:
            fetch = f"+refs/heads/{BRANCH}:{_SEEN}"
            git(self._mirror, "fetch", "--quiet", "--no-tags", self.address, fetch)
        except GitError as error:
            self._trouble("unreachable", str(error))
        else:
            self._judge(self._commit(_SEEN))
        if self.wish is not None and self.controller.desired != self.wish:
            self._tell("drift", found=_words(self.controller.desired))
            self.controller.desire(self.wish.version, self.wish.replicas)

    def _judge(self, seen: str) -> None:
        followed = self.followed
        if followed is not None and not self._contains(seen, followed):
            why = f"{BRANCH} is at {seen[:7]}, which does not contain {followed[:7]}"
            self._trouble("rewritten", why)
            return
        try:
            if seen != followed or self.wish is None:
                self._take(seen)
        except BadWish as error:
            self._trouble("refused", f"{seen[:7]}: {error}")
            return
        if self._said is not None:
            self._said = None
            self._tell("well again", commit=seen[:7])

    def _take(self, commit: str) -> None:
        """Desire what a commit says, and remember that. Raises BadWish."""
        try:
            text = git(self._mirror, "show", f"{commit}:{FILE}")
        except GitError as error:
            raise BadWish(f"there is no file {FILE}; put it back") from error
        wish = read_wish(text, self.controller.fleet.versions)
        git(self._mirror, "update-ref", _FOLLOWED, commit)
        self.wish = wish
        self._tell("follow", commit=commit[:7], wish=_words(wish))
        if self.controller.desired != wish:
            self.controller.desire(wish.version, wish.replicas)

    def stop(self) -> None:
        """End the agent; controller and servers go on. A later call does nothing."""
        if not self._ending.is_set():
            self._ending.set()
            self._thread.join()
            self._lock.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    # -- plumbing

    def _begin(self) -> None:
        """Make the mirror if there is none, and take up what was followed."""
        git(self.folder, "init", "--quiet", "--bare", "mirror")
        self._unlock()
        if (followed := self.followed) is not None:
            try:
                self._take(followed)
            except BadWish as error:  # the registry may have lost the version
                self._trouble("refused", f"{followed[:7]}: {error}")

    def _unlock(self) -> None:
        """Take away what a git that was killed has left: no other one works here."""
        for left in self._mirror.glob("refs/agent/*.lock"):
            left.unlink()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self.look()
            except (GitError, ValueError, OSError) as error:
                self._trouble("error", str(error))  # the next look begins anew
            self.looks += 1
            self._ending.wait(self.every_s)

    def _commit(self, name: str) -> str | None:
        """The commit of a reference; None if there is none. Raises GitError."""
        return git(self._mirror, "for-each-ref", "--format=%(objectname)", name) or None

    def _contains(self, commit: str, earlier: str) -> bool:
        try:
            git(self._mirror, "merge-base", "--is-ancestor", earlier, commit)
        except GitError:
            return False
        return True

    def _trouble(self, what: str, why: str) -> None:
        if self._said != (what, why):
            self._said = what, why
            self._tell(what, why=why)

    def _tell(self, what: str, **details: object) -> None:
        self.controller.fleet.tell(what, **details)


def _words(wish: Desired) -> str:
    return f"{wish.replicas} of {wish.version}"
