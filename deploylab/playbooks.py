"""Ansible playbooks on this machine: run one, and read what it says it changed.

    run = playbooks.run("deploy.yml", {"home": "/tmp/here"}, check=True)
    print(run.changed, run.recap)

ansible-core writes no JSON of a whole run: the callback that does is in a collection of
its own (ansible.posix). So what it prints is read: one status a task, and the recap,
which must agree.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

#: What Ansible keeps for itself goes into a folder that is thrown away, and what it
#: prints does not depend on the terminal or on somebody's ansible.cfg.
_SET = {
    "ANSIBLE_DEPRECATION_WARNINGS": "0",
    "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "1",
    "ANSIBLE_FORCE_COLOR": "0",
    "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
    "ANSIBLE_LOCALHOST_WARNING": "0",
    "ANSIBLE_NOCOLOR": "1",
    "ANSIBLE_NOCOWS": "1",
    "ANSIBLE_PIPELINING": "1",
    "ANSIBLE_RETRY_FILES_ENABLED": "0",
    "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
    "LC_ALL": "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8",
    "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",  # macOS, where it forks
}
_HEAD = re.compile(r"(TASK|RUNNING HANDLER) \[(.*)\] \*+")
_SAID = re.compile(r"(ok|changed|skipping|failed|fatal): \[localhost\]")
_RECAP = re.compile(r"^localhost +: (.*)$", re.MULTILINE)
#: Of the items of a loop, the one that says most stands for the task.
_WEIGHT = ["skipped", "ok", "changed", "failed"]
_STATUS = {"skipping": "skipped", "fatal": "failed"}


@dataclass(frozen=True)
class Run:
    """One run of a playbook: its tasks as (name, status) in order, and its recap.

    A status is ok, changed, skipped or failed; those of handlers are among them.
    `recap` counts tasks by ok, changed, failed and others, as Ansible does; it is
    empty when the playbook could not be read. `text` is all that was printed.
    """

    tasks: tuple[tuple[str, str], ...]
    recap: dict[str, int]
    text: str
    exit_code: int

    @property
    def changed(self) -> list[str]:
        """Names of the tasks that changed something, or would have (check)."""
        return [name for name, status in self.tasks if status == "changed"]

    @property
    def failed(self) -> list[str]:
        """Names of the tasks that failed."""
        return [name for name, status in self.tasks if status == "failed"]


def run(
    playbook: str | Path,
    variables: Mapping[str, Any] | None = None,
    *,
    files: Iterable[str | Path] = (),
    check: bool = False,
    diff: bool = False,
    syntax_check: bool = False,
    timeout_s: float = 300,
) -> Run:
    """Run a playbook for localhost with the `ansible-playbook` of this environment.

    files: of variables, YAML, read in order; `variables` stand above them.
    check: change nothing, and say what would be; diff: show the lines.
    A playbook that fails raises nothing: see `failed` and `exit_code`. Raises
    subprocess.TimeoutExpired, after which nothing of it goes on.
    """
    command = [_program(), str(playbook), "--inventory=localhost,"]
    for path in files:
        command.append(f"--extra-vars=@{path}")
    if variables:
        command.append(f"--extra-vars={json.dumps(dict(variables))}")
    given = {"--check": check, "--diff": diff, "--syntax-check": syntax_check}
    command += [option for option, wanted in given.items() if wanted]
    with tempfile.TemporaryDirectory(prefix="ansible-") as home:
        config = Path(home, "ansible.cfg")
        config.touch()
        own = {"ANSIBLE_HOME": home, "ANSIBLE_CONFIG": str(config)}
        own |= {"ANSIBLE_LOCAL_TEMP": home, "ANSIBLE_REMOTE_TEMP": home}
        theirs = {k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE_")}
        with subprocess.Popen(
            command,
            env=theirs | _SET | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            try:
                text, _ = process.communicate(timeout=timeout_s)
            except BaseException:
                _end(process.pid)
                raise
    return _read(text, process.returncode)


def _program() -> str:
    return str(Path(sys.executable).with_name("ansible-playbook"))


def _end(pid: int) -> None:
    """End a process and all that it has started, as long as they are its family."""
    with contextlib.suppress(psutil.NoSuchProcess):
        leader = psutil.Process(pid)
        for process in [leader, *leader.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _read(text: str, exit_code: int) -> Run:
    """What a run printed, as a Run."""
    tasks: list[list[str]] = []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            tasks.append([head[2], ""])
        elif tasks and (said := _SAID.match(line)):
            status = _STATUS.get(said[1], said[1])
            tasks[-1][1] = max(tasks[-1][1] or "skipped", status, key=_WEIGHT.index)
    recap = _RECAP.search(text)
    counts = dict(pair.split("=") for pair in recap[1].split()) if recap else {}
    told = tuple((name, status) for name, status in tasks if status)
    return Run(told, {k: int(n) for k, n in counts.items()}, text, exit_code)
