"""Infrastructure as code: every listing is run, or held against its schema."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER
from pages import Page

from deploylab import ROOT, artifacts, phishing, playbooks, watchdog

LISTINGS = ROOT / "book" / "listings"
ANSIBLE = LISTINGS / "ansible"
TEMPLATE = LISTINGS / "cloudformation" / "endpoint.yaml"
CONFIGURATION = LISTINGS / "opentofu" / "endpoint.tf.json"
PROGRAMS = Path(sys.executable).parent

sys.path.insert(0, str(LISTINGS))
sys.path.insert(0, str(ANSIBLE))

import guarded_service  # noqa: E402
import service  # noqa: E402

# --- Ansible ----------------------------------------------------------------------


class Machine:
    """A folder, a port and keys; what deploy.yml needs beside its declaration."""

    def __init__(self, folder: Path, built: dict):
        self.folder, self.built = folder, built
        self.home = folder / "home"
        self.home.mkdir()
        os.mkfifo(self.home / "life")
        self.life = os.open(self.home / "life", os.O_RDWR)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        key, kept = guarded_service.make_key("shop")
        (folder / "key").write_text(key)
        keys = {"shop": {"sha256": kept, "routes": ["predict"]}}
        (folder / "keys.json").write_text(json.dumps(keys))

    def apply(self, version, *, rate_limit="100 per minute", sha256=None, **options):
        """Run the playbook with a declaration."""
        folder = Path(self.built[version])
        files = [
            {"name": p.name, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()}
            for p in sorted(folder.iterdir())
        ]
        if sha256:
            files[1]["sha256"] = sha256
        declared = {
            "model_version": version,
            "model_digest": artifacts.read(folder).digest,
            "model_files": files,
            "rate_limit": rate_limit,
            "deadline_s": 20,
            "home": str(self.home),
            "service_port": self.port,
            "store": folder.parent.as_uri(),
            "keys_file": str(self.folder / "keys.json"),
            "key_file": str(self.folder / "key"),
            "example": dict.fromkeys(phishing.CONTRACT.names, 0.5) | {"ip_in_url": 1},
        }
        return playbooks.run(ANSIBLE / "deploy.yml", declared, **options)

    def tree(self):
        """Names and bytes of what the playbook has set up."""
        names = [self.home / "service.env", *(self.home / "releases").rglob("*")]
        return {p: p.read_bytes() for p in names if p.is_file()}

    def process(self):
        """The process that was started."""
        return service.noted(self.home)[0]


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path, phishing.save(["v1", "v2"], tmp_path / "built"))
    yield machine
    process = machine.process()
    os.close(machine.life)  # its owner is gone, and so is the service
    if process:
        psutil.wait_procs([process], timeout=30)
        assert not process.is_running()


@pytest.mark.slow
@pytest.mark.timeout(900)  # several runs of Ansible
def test_the_playbook_runs_twice_and_repairs_what_drifts(machine):
    first = machine.apply("v1")
    assert first.exit_code == 0, first.text
    assert len(first.changed) == first.recap["changed"] == 5
    tree, process = machine.tree(), machine.process()
    assert requests.get(f"http://127.0.0.1:{machine.port}/ready", timeout=9).ok
    second = machine.apply("v1")
    assert second.exit_code == 0, second.text
    assert second.changed == []
    assert second.recap["changed"] == 0
    assert machine.tree() == tree
    assert machine.process() == process
    assert (machine.folder / "key").read_text() not in first.text + second.text

    env = machine.home / "service.env"
    env.write_text(env.read_text().replace("100 per", "9000 per"))
    model = next((machine.home / "releases").rglob("*.onnx"))
    model.write_bytes(b"another")
    process.kill()
    drifted = machine.tree()
    dry = machine.apply("v1", check=True, diff=True)
    assert dry.changed == [
        "The model, byte for byte",
        "The configuration",
        "It is ready, with this configuration",
    ]
    assert "-RATE_LIMIT=9000" in dry.text
    assert machine.tree() == drifted
    repaired = machine.apply("v1")
    assert repaired.exit_code == 0, repaired.text
    assert machine.tree() == tree
    assert machine.process() != process


@pytest.mark.slow
@pytest.mark.timeout(900)  # several runs of Ansible
def test_a_model_with_another_digest_is_refused_and_the_old_one_serves_on(machine):
    dry = machine.apply("v1", check=True)
    assert dry.failed == ["The model, byte for byte"]  # no folder, in a dry run
    assert machine.apply("v1").exit_code == 0
    process = machine.process()
    refused = machine.apply("v2", sha256="0" * 64)
    assert refused.failed == ["The model, byte for byte"]
    assert machine.process() == process
    assert service.status(machine.home) == "ready"
    update = machine.apply("v2")
    assert update.exit_code == 0, update.text
    back = machine.apply("v1")
    assert back.changed == [
        "The configuration",
        "It is ready, with this configuration",
        "Restart the service",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)  # several runs of Ansible
def test_the_service_knows_what_it_runs_with(machine):
    home = machine.home
    (home / "service.env").write_text("")
    assert service.status(home) == "stopped"
    assert service.stop(home) == "does not run"
    assert not service.says_ready({"PORT": str(machine.port)})
    assert machine.apply("v1").exit_code == 0
    assert service.start(home) == "runs already"
    env = (home / "service.env").read_text()
    (home / "service.env").write_text(env + "MORE=1\n")
    assert service.status(home) == "outdated"  # a handler that was forgotten
    (home / "service.env").write_text(env)
    assert service.status(home) == "ready"
    assert service.stop(home) == "stopped"
    assert service.status(home) == "stopped"
    note = (home / "service.pid").read_text().split()
    note[0] = str(os.getpid())  # the number is another process's by now
    (home / "service.pid").write_text(" ".join(note))
    assert service.status(home) == "stopped"


@pytest.mark.slow
@pytest.mark.timeout(900)  # several runs of Ansible
def test_a_restart_that_meets_a_stranger_on_its_port_fails(machine):
    assert machine.apply("v1").exit_code == 0
    old, note = machine.process(), machine.home / "service.pid"
    kept = note.read_text()
    note.unlink()  # nobody knows any more who serves
    met = machine.apply("v1", rate_limit="50 per minute")
    assert met.failed == ["Restart the service"], met.text
    assert "something else answers" in met.text
    assert old.is_running()
    sleeper = psutil.Process()  # lives, and has not the port
    digest = service.digest(machine.home)
    note.write_text(f"{sleeper.pid} {sleeper.create_time()} {digest}")
    assert service.status(machine.home) == "not ready"
    note.write_text(kept)
    assert service.status(machine.home) == "outdated"
    keys = machine.folder / "keys.json"
    order = [sys.executable, ANSIBLE / "service.py", "restart", machine.home]
    subprocess.run(order, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert service.status(machine.home) == "ready"
    keys.write_text(keys.read_text() + "\n")  # who may call is read at the start
    assert service.status(machine.home) == "outdated"


@pytest.mark.slow
@pytest.mark.timeout(900)  # a run of Ansible
def test_settings_that_cannot_be_read_stop_nothing(machine):
    assert machine.apply("v1").exit_code == 0
    with (machine.home / "service.env").open("a") as file:
        file.write("no sign\n")
    with pytest.raises(SystemExit, match="no sign"):
        service.restart(machine.home)
    assert service.status(machine.home) == "outdated"
    assert service.says_ready({"PORT": str(machine.port)})


def test_a_stranger_that_speaks_no_http_is_not_ready():
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def greet():
            connection, _ = stranger.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-stranger\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        port = stranger.getsockname()[1]
        assert not service.says_ready({"PORT": str(port)})
        thread.join(timeout=60)
        assert not thread.is_alive()  # it was asked


@pytest.mark.slow
def test_a_service_that_does_not_start_says_why(machine):
    settings = f"MODEL=/nowhere\nPORT={machine.port}\nAPI_KEYS=/nowhere\n"
    (machine.home / "service.env").write_text(settings)
    with pytest.raises(SystemExit, match="nowhere"):
        service.start(machine.home)
    assert service.status(machine.home) == "stopped"


@pytest.mark.slow
def test_ansible_lint_has_nothing_against_the_playbook(tmp_path):
    folder = shutil.copytree(ANSIBLE, tmp_path / "ansible")
    command = [PROGRAMS / "ansible-lint", "--offline", "--nocolor", "deploy.yml"]
    env = os.environ | {"HOME": str(tmp_path)}
    env["PATH"] = f"{PROGRAMS}{os.pathsep}{env['PATH']}"

    def lint():
        return subprocess.run(
            [*command, "--profile", "production"],
            cwd=folder, env=env, capture_output=True, text=True,
        )  # fmt: skip

    said = lint()
    assert said.returncode == 0, said.stdout + said.stderr
    text = (folder / "deploy.yml").read_text()
    planted = text.replace('      changed_when: seen.stdout != "ready"\n', "")
    (folder / "deploy.yml").write_text(planted)
    assert "no-changed-when" in lint().stdout


@pytest.mark.slow
def test_the_script_does_its_work_twice(machine):
    old, given = machine.folder / "old", {}
    given |= {"PYTHON": sys.executable, "WATCHDOG": watchdog.__file__}
    given |= {"LIFE": str(machine.home / "life"), "PORT": str(machine.port)}
    given |= {"API_KEYS": str(machine.folder / "keys.json")}
    pids = []
    for version, limit in (("v1", "100 per minute"), ("v2", "50 per minute")):
        model = str(machine.built[version])
        subprocess.run(
            ["sh", str(ANSIBLE / "setup.sh"), str(old), model, limit],
            cwd=LISTINGS, env=os.environ | given, check=True, start_new_session=True,
        )  # fmt: skip
        pids.append(int((old / "service.pid").read_text()))
        end = time.monotonic() + 120
        while not service.says_ready({"PORT": str(machine.port)}):
            assert time.monotonic() < end, (old / "service.log").read_text()
            time.sleep(0.05)
    assert (old / "service.env").read_text().count("RATE_LIMIT=") == 2
    assert (old / "model" / "v2" / "manifest.json").is_file()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


# --- The exercise whose truth is a number -----------------------------------------


@pytest.mark.slow
def test_the_second_recap_says_three(tmp_path):
    page = Page(ROOT, "book/automation/infrastructure-as-code").text
    tasks = re.search(r"second-recap\n.*?```yaml\n(.*?)```", page, re.DOTALL)[1]
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "tasks": yaml.safe_load(tasks),
        }
    ]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    given = {"home": str(tmp_path), "ansible_python_interpreter": sys.executable}
    first, second = (playbooks.run(tmp_path / "play.yml", given) for _ in range(2))
    assert first.recap["changed"] == 5
    assert first.exit_code == 0
    assert second.changed == ["Limit", "Defaults", "Version"]
    assert second.recap["changed"] == 3


# --- CloudFormation ---------------------------------------------------------------


def lint_template(path):
    """Rule and line of what cfn-lint finds."""
    said = subprocess.run(
        [PROGRAMS / "cfn-lint", "--format", "json", path],
        capture_output=True,
        text=True,
    )
    found = json.loads(said.stdout)
    return {(f["Rule"]["Id"], f["Location"]["Start"]["LineNumber"]) for f in found}


@pytest.mark.slow
def test_cfn_lint_has_nothing_against_the_template(tmp_path):
    assert lint_template(TEMPLATE) == set()
    text = TEMPLATE.read_text()
    planted = text.replace("InstanceType:", "InstanceKind:")
    (tmp_path / "planted.yaml").write_text(planted)
    lines = planted.splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "InstanceKind" in text)
    assert ("E3002", line) in lint_template(tmp_path / "planted.yaml")


# --- OpenTofu ---------------------------------------------------------------------

# A resource of the provider, the one of AWS that it stands for, and what the provider
# calls otherwise.
RESOURCES = {
    "aws_sagemaker_model": "AWS::SageMaker::Model",
    "aws_sagemaker_endpoint_configuration": "AWS::SageMaker::EndpointConfig",
    "aws_sagemaker_endpoint": "AWS::SageMaker::Endpoint",
    "aws_cloudwatch_metric_alarm": "AWS::CloudWatch::Alarm",
}
OTHERWISE = {"name": "EndpointName"}


def camel(name):
    """`initial_instance_count` as AWS writes it."""
    return OTHERWISE.get(name, "".join(part.capitalize() for part in name.split("_")))


def unknown(block, properties, schema):
    """The attributes of a block that AWS's schema does not have."""
    for name, value in block.items():
        found = properties.get(camel(name))
        if found is None:
            yield name
            continue
        found = found.get("items", found)
        if "$ref" in found:
            found = schema["definitions"][found["$ref"].rsplit("/")[-1]]
        if isinstance(value, dict) and name != "dimensions":  # those are a map there
            yield from unknown(value, found["properties"], schema)


def all_unknown(configuration):
    """Unknown attributes of all resources."""
    for kind, named in configuration["resource"].items():
        schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema(
            "us-east-1", RESOURCES[kind]
        ).schema
        for block in named.values():
            block = {k: v for k, v in block.items() if k != "lifecycle"}
            yield from unknown(block, schema["properties"], schema)


def dangling(configuration):
    """The references that lead to nothing in this file."""
    resources, variables = configuration["resource"], configuration["variable"]
    for reference in re.findall(r"\$\{(.*?)\}", json.dumps(configuration)):
        kind, name, *_ = reference.split(".")
        if name not in (variables if kind == "var" else resources.get(kind, {})):
            yield reference


def values(thing):
    """All texts and numbers in a tree, references aside."""
    if isinstance(thing, dict):
        if thing.keys() <= {"Ref", "Fn::GetAtt", "Fn::Sub"}:
            return set()
        return set().union(*map(values, thing.values()))
    if isinstance(thing, list):
        return set().union(*map(values, thing))
    return set() if "${" in str(thing) else {thing}


def test_the_configuration_of_opentofu_agrees_with_aws_and_with_the_template():
    configuration = json.loads(CONFIGURATION.read_text())
    assert list(all_unknown(configuration)) == []
    assert list(dangling(configuration)) == []
    resources = yaml.safe_load(TEMPLATE.read_text())["Resources"]
    told = {one["Type"]: one["Properties"] for one in resources.values()}
    for kind, named in configuration["resource"].items():
        (block,) = named.values()
        block = {k: v for k, v in block.items() if k != "lifecycle"}
        told_there = told[RESOURCES[kind]]
        dimensions = [d["Name"] for d in told_there.get("Dimensions", [])]
        assert values(block) == values(told_there) - set(dimensions), kind


def test_a_mistake_in_the_configuration_of_opentofu_is_found():
    text = CONFIGURATION.read_text()
    planted = json.loads(text.replace('"canary_size"', '"canary_share"'))
    assert list(all_unknown(planted)) == ["canary_share"]
    planted = json.loads(text.replace("var.image", "var.picture"))
    assert list(dangling(planted)) == ["var.picture"]
