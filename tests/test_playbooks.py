"""Running playbooks: what is read of what Ansible prints."""

import os
import subprocess

import psutil
import pytest

from deploylab import playbooks

PLAY = """
- name: A play
  hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
  tasks:
"""

PRINTED = """
PLAY [A play] ****************

TASK [One [with brackets]] ***
ok: [localhost]

TASK [A loop] ****************
ok: [localhost] => (item=a)
changed: [localhost] => (item=b)
skipping: [localhost] => (item=c)

TASK [Lines] *****************
--- before
+++ after
@@ -1 +1 @@
-changed: [somebody else]
+ok: [somebody else]

changed: [localhost]

TASK [Nothing to say] ********

RUNNING HANDLER [Restart] ****
fatal: [localhost]: FAILED! => {"msg": "no"}
...ignoring

PLAY RECAP *******************
localhost                  : ok=2    changed=2    unreachable=0    failed=1
"""


def test_statuses_and_the_recap_are_read():
    run = playbooks._read(PRINTED, 2)
    assert run.tasks == (
        ("One [with brackets]", "ok"),
        ("A loop", "changed"),
        ("Lines", "changed"),
        ("Restart", "failed"),
    )
    assert run.changed == ["A loop", "Lines"]
    assert run.failed == ["Restart"]
    assert run.recap == {"ok": 2, "changed": 2, "unreachable": 0, "failed": 1}
    assert run.exit_code == 2


def test_what_is_no_run_has_no_recap():
    run = playbooks._read("[ERROR]: this is no playbook\n", 4)
    assert run.tasks == ()
    assert run.recap == {}
    assert run.exit_code == 4


@pytest.mark.slow
def test_a_real_run_agrees_with_its_recap(tmp_path, monkeypatch):
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "minimal")  # somebody's own setting
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    tasks = """
    - name: Says
      ansible.builtin.debug: {msg: "{{ word }} {{ more }}"}
    - name: A file
      ansible.builtin.copy: {content: "{{ word }}", dest: "{{ to }}", mode: "0600"}
    - name: Not this time
      ansible.builtin.debug: {msg: "no"}
      when: false
    """
    (tmp_path / "play.yml").write_text(PLAY + tasks)
    (tmp_path / "more.yml").write_text("more: words\nword: below\n")
    variables = {"word": 'it\'s "so"', "to": str(tmp_path / "file")}
    options = {"files": [tmp_path / "more.yml"], "check": True, "diff": True}
    dry = playbooks.run(tmp_path / "play.yml", variables, **options)
    assert not (tmp_path / "file").exists()
    assert "+it's" in dry.text
    run = playbooks.run(tmp_path / "play.yml", variables, files=options["files"])
    assert (tmp_path / "file").read_text() == 'it\'s "so"'
    assert dry.tasks == run.tasks
    assert run.exit_code == 0
    assert [status for _, status in run.tasks] == ["ok", "changed", "skipped"]
    assert run.recap["changed"] == len(run.changed)
    assert run.recap["skipped"] == 1
    assert not (tmp_path / "nobody").exists()  # nothing is left at home


@pytest.mark.slow
def test_a_playbook_that_cannot_be_read_is_told_from_one_that_fails(tmp_path):
    (tmp_path / "play.yml").write_text(PLAY + "    - nothing: at all\n")
    run = playbooks.run(tmp_path / "play.yml", syntax_check=True)
    assert run.exit_code != 0
    assert run.recap == {}
    assert run.text


@pytest.mark.slow
def test_one_that_does_not_end_is_ended(tmp_path):
    long = ["sleep", f"36{os.getpid()}"]
    task = f"    - name: Long\n      ansible.builtin.command: {' '.join(long)}\n"
    (tmp_path / "play.yml").write_text(PLAY + task)
    with pytest.raises(subprocess.TimeoutExpired):
        playbooks.run(tmp_path / "play.yml", timeout_s=15)
    every = psutil.process_iter(["cmdline", "status"])
    left = [one for one in every if one.info["cmdline"] == long]
    assert left == []
