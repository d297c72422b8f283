"""The chapter on containers: its fences, its image by hand, its Dockerfiles."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest
from gunicorn.config import GracefulTimeout
from pages import Page

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "book" / "listings" / "container"
sys.path.insert(0, str(FOLDER))

import box  # noqa: E402
import oci  # noqa: E402

NO_NAMESPACES = "this kernel gives no user namespace"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="not Linux")


def allowed() -> bool:
    return sys.platform.startswith("linux") and box.probe()["pid"] == "yes"


def program(folder: Path, name: str, script: str, monkeypatch) -> None:
    """Put a program first on the path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


# --- The fences -------------------------------------------------------------------


@linux
def test_a_kernel_that_refuses_is_quoted(tmp_path, monkeypatch, capsys):
    said = "unshare: unshare failed: Operation not permitted"
    program(tmp_path, "unshare", f"echo '{said}' >&2; exit 1", monkeypatch)
    found = box.probe()
    assert {found[fence] for fence in box.FENCES} == {said}
    with pytest.raises(box.Refused, match="Operation not permitted"):
        box.Box(["user", "pid"]).__enter__()
    with box.or_reason(), box.Box(["user"]):
        raise AssertionError("not reached")
    assert capsys.readouterr().out == f"refused here: {said}\n"


def test_a_machine_without_the_program_says_so(monkeypatch):
    monkeypatch.setattr(box.shutil, "which", lambda name: None)
    assert all("unshare" in box.probe()[fence] for fence in box.FENCES)
    with pytest.raises(box.Refused, match="util-linux"):
        box.Box(["user"]).__enter__()


@linux
def test_inside_there_is_little(tmp_path):
    if not allowed():
        pytest.skip(NO_NAMESPACES)
    (tmp_path / "model").write_text("weights")
    folders = {
        path: Path(path)
        for path in ["/usr", "/lib", "/lib64", sys.base_prefix]
        if Path(path).exists()
    }
    folders |= {str(Path(sys.prefix).resolve()): Path(sys.prefix), "/app": tmp_path}
    with box.Box(box.FENCES, folders) as inside:
        assert inside.python("print(open('/app/model').read())") == "weights"
        writes = inside.python("open('/app/model', 'w')")
        assert "Read-only file system" in writes
        assert "FileNotFoundError" in inside.python("open('/etc/passwd')")
        # As the page says: who is root in there may undo it, without capabilities not.
        weak = "setpriv --bounding-set=-all --inh-caps=-all --no-new-privs".split()
        remount = ["mount", "-o", "remount,bind,rw", "/app"]
        inside.run([*weak, *remount])
        assert "Read-only file system" in inside.python("open('/app/model', 'a')")
        inside.run(remount)
        assert inside.python("open('/app/model', 'a'); print('open')") == "open"
        pids = inside.python(
            "import os; print(sum(n.isdigit() for n in os.listdir('/proc')))"
        )
        assert int(pids) <= 4
    assert (tmp_path / "model").read_text() == "weights"


@linux
@pytest.mark.parametrize("owner_ends", ["politely", "killed"])
def test_nothing_outlives_the_owner(owner_ends):
    if not allowed():
        pytest.skip(NO_NAMESPACES)
    code = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import box, psutil, time\n"
        "with box.Box(['user', 'pid']) as inside:\n"
        "    inside.start(['sleep', '600'])\n"
        "    first = psutil.Process(inside.pid)\n"
        "    while not first.children(): time.sleep(0.01)\n"
        "    print(first.pid, first.children()[0].pid, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        members = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert all(one.is_running() for one in members)
        if owner_ends == "killed":
            owner.send_signal(signal.SIGKILL)
        else:
            owner.stdin.close()
        assert psutil.wait_procs(members, timeout=20)[1] == []


@linux
@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"cpu": "/user.slice"}, "another program"),
        ({"": "/init.scope"}, "another program"),
        ({"memory": "/"}, "another program"),
    ],
)
def test_a_group_that_another_program_manages_is_left_alone(
    groups, reason, monkeypatch
):
    monkeypatch.setattr(box, "own_groups", lambda: groups)
    with pytest.raises(box.Refused, match=reason):
        box.CpuLimit(0.5)


@linux
def test_a_group_that_cannot_be_made_is_refused_and_leaves_nothing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(box, "own_groups", lambda: {"cpu": "/"})
    monkeypatch.setattr(box, "CGROUPS", tmp_path)
    monkeypatch.setattr(box, "MANAGER", tmp_path / "no-systemd")
    with pytest.raises(box.Refused, match="No such file"):
        box.CpuLimit(0.5).__enter__()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "no-systemd").mkdir()
    with pytest.raises(box.Refused, match="systemd"):
        box.CpuLimit(0.5)


@linux
def test_a_cpu_limit_stops_its_processes_and_goes(tmp_path):
    try:
        limit = box.CpuLimit(0.05).__enter__()
    except box.Refused as refused:
        pytest.skip(f"no control group of our own: {refused}")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spins:
        try:
            limit.hold([spins.pid])
            deadline = time.monotonic() + 60
            while not limit.throttled():
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            limit.__exit__()
            spins.kill()
    assert not limit.folder.exists()


LEAK = "kept = [bytearray(25 * 2**20) for _ in range(40)]; print('all of it')"


@linux
def test_memory_is_held_by_a_group_or_by_the_process(tmp_path, monkeypatch):
    program(tmp_path, "systemd-run", "exit 1", monkeypatch)
    who, code, said = box.run_with_memory(300, [sys.executable, "-c", LEAK])
    assert (who, code) == ("the process's own limit", 1)
    assert said.endswith("MemoryError")
    # A systemd that makes groups; what it starts is killed, as a group would.
    script = 'for last; do :; done; [ "$last" = true ] || kill -9 $$'
    program(tmp_path, "systemd-run", script, monkeypatch)
    who, code, said = box.run_with_memory(300, [sys.executable, "-c", LEAK])
    assert (who, code, said) == ("a control group", -signal.SIGKILL, "")


# --- The page where everything is refused -------------------------------------------


@linux
@pytest.mark.slow
def test_the_page_goes_on_where_everything_is_refused(tmp_path, monkeypatch):
    """As in Binder: each cell and each claim, with a kernel that says no."""
    program(tmp_path, "unshare", "echo 'not permitted' >&2; exit 1", monkeypatch)
    program(tmp_path, "systemd-run", "exit 1", monkeypatch)
    page = Page(root=ROOT, docname="book/evolution/containers")
    cells = [
        cell.source
        for cell in page.cells
        if not {"stub", "check", "solution"} & set(cell.tags)
    ]
    start = (
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(FOLDER)!r})\nimport box\n"
        "box.own_groups = lambda: {'cpu': '/somebody'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + "\n".join(cells)],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("refused here: not permitted") == 3, done.stdout
    assert "refused here: our group /somebody is managed" in done.stdout
    assert "no network to cut (not permitted)" in done.stdout
    assert "its callers get: ReadTimeout" in done.stdout


# --- The image by hand --------------------------------------------------------------


def test_an_image_is_read_as_it_was_written(tmp_path):
    stack = [
        oci.layer({"a": b"1", "b/c": b"2", "b/d": b"3"}),
        oci.layer({"a": b"new"}, gone=["b/c"]),
    ]
    first = oci.write(tmp_path, stack, {"Cmd": ["x"]}, "v1")
    assert first == oci.write(tmp_path, stack, {"Cmd": ["x"]}, "v1"), "same bytes"
    read = list(oci.layers(tmp_path))
    assert read == [
        {"a": b"1", "b/c": b"2", "b/d": b"3"},
        {"a": b"new", "b/.wh.c": b""},
    ]
    assert oci.merged(read) == {"a": b"new", "b/d": b"3"}


def test_a_folder_that_is_gone_takes_along_what_is_in_it(tmp_path):
    stack = [
        oci.layer({"app/keys/a": b"1", "app/keys/b/c": b"2", "app/keys.txt": b"3"}),
        oci.layer({"app/new": b"4"}, gone=["app/keys"]),
    ]
    oci.write(tmp_path, stack, {}, "v1")
    seen = oci.merged(list(oci.layers(tmp_path)))
    assert seen == {"app/keys.txt": b"3", "app/new": b"4"}


@pytest.mark.parametrize("which", ["manifest", "config", "layer"])
def test_a_changed_blob_is_refused(tmp_path, which):
    digest = oci.write(tmp_path, [oci.layer({"a": b"1"})], {}, "v1")
    blobs = tmp_path / "blobs" / "sha256"
    manifest = json.loads((blobs / digest[7:]).read_text())
    name = {
        "manifest": digest,
        "config": manifest["config"]["digest"],
        "layer": manifest["layers"][0]["digest"],
    }[which]
    blob = blobs / name[7:]
    blob.write_bytes(blob.read_bytes() + b" ")
    with pytest.raises(ValueError, match="not what its name says"):
        list(oci.layers(tmp_path))


# --- The Dockerfiles ----------------------------------------------------------------


def lint(path: Path) -> list[str]:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [hadolint, "--format=json", str(path)], capture_output=True, text=True
    )
    return [one["code"] for one in json.loads(done.stdout)]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.naive"])
def test_the_linter_has_nothing_to_say(name):
    assert lint(FOLDER / name) == []


def test_the_linter_finds_what_is_planted(tmp_path):
    good = (FOLDER / "Dockerfile").read_text()
    for code, old, new in [
        ("DL3002", "USER 10001:10001", "USER root"),
        ("DL3025", re.search(r"\nCMD \[.*", good)[0], "\nCMD gunicorn app"),
        ("DL3000", "WORKDIR /app", "WORKDIR app"),
        ("DL3064", "EXPOSE 8080", "ENV API_TOKEN=1"),
    ]:
        assert old in good
        (tmp_path / "Dockerfile").write_text(good.replace(old, new))
        assert code in lint(tmp_path / "Dockerfile")


def test_the_bad_one_has_the_faults_that_the_page_names():
    lines = (FOLDER / "Dockerfile.bad").read_text().splitlines()
    assert "hunter2" in lines[2]
    assert lines[4] == "COPY . ."
    assert lines[8].startswith("RUN rm")
    assert {"DL3007", "DL3064", "DL3025"} <= set(lint(FOLDER / "Dockerfile.bad"))


def test_the_dockerfile_keeps_its_promises():
    text = (FOLDER / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and line[0] not in "# "]
    words = [line.split()[0] for line in lines]
    assert re.fullmatch(r"ARG BASE=\S+:\d+\.\d+\.\d+-\S+@sha256:[0-9a-f]{64}", lines[0])
    assert words.count("FROM") == 2
    assert {"USER", "HEALTHCHECK", "CMD"} <= set(words)
    assert json.loads(lines[-1].removeprefix("CMD "))[0] == "gunicorn"
    assert "--require-hashes" in text
    assert words[words.index("USER") :].count("RUN") == 0
    ignored = (FOLDER / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*", "nothing goes along but what is named"
    for line in lines:
        if line.startswith("COPY") and "--from" not in line:
            source = line.split()[1]
            assert any(one.startswith(f"!{source}") for one in ignored), source


def test_gunicorn_drains_for_as_long_as_the_page_says():
    assert GracefulTimeout.default == 30


def test_the_images_packages_are_the_books():
    lock = (FOLDER / "requirements.txt").read_text()
    book = set(
        re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements.txt").read_text(), re.M)
    )
    blocks = re.split(r"\n(?=\S)", lock)
    pins = [block for block in blocks if not block.startswith("#")]
    assert len(pins) > 10
    for block in pins:
        assert re.match(r"(\S+)==(\S+)", block).groups() in book
        assert "--hash=sha256:" in block
