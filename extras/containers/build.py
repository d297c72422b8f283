"""Build the book's Dockerfile without a daemon, run what came out, and record it.

    .venv/bin/python extras/containers/build.py

Needs Linux, root, and from Debian: buildah, skopeo, umoci, bubblewrap, debootstrap.
The base of the listing comes from a registry. Here a base with the same Python, 3.11,
is made by debootstrap and handed in as the argument BASE; no other line differs.
Writes extras/containers/results.csv.
"""

import csv
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "listings" / "container")]

import oci  # noqa: E402

from deploylab import artifacts, phishing  # noqa: E402

LISTINGS = ROOT / "book" / "listings"
WORK = ROOT / "_build" / "containers"
BASE = "localhost/deploylab-base"
TOOLS = "buildah skopeo umoci bwrap debootstrap".split()
BUILDAH = ["buildah", "--root", f"{WORK}/store", "--runroot", f"{WORK}/run"]
# What pip needs to know about this machine; not part of the image.
MACHINE = ("/etc/pip.conf", "/etc/ssl/certs")


def tool(*command: str) -> str:
    """What it printed; stops with its last words if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def make_base() -> None:
    """A Debian with Python 3.11 as a local image: once, it takes a minute."""
    if BASE in tool(*BUILDAH, "images", "--format", "{{.Name}}"):
        return
    system = WORK / "base"
    if system.exists():
        shutil.rmtree(system)
    packages = "--include=python3-venv,python3-pip"
    tool("debootstrap", "--variant=minbase", packages, "bookworm", str(system))
    tool("tar", "-C", str(system), "-cf", f"{WORK}/base.tar", ".")
    made = tool(*BUILDAH, "from", "scratch").strip()
    tool(*BUILDAH, "add", "-q", made, f"{WORK}/base.tar", "/")
    tool(*BUILDAH, "commit", "-q", made, BASE)
    tool(*BUILDAH, "rm", made)


def make_context() -> Path:
    """The folder that the builder sees."""
    context = WORK / "context"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    for path in (LISTINGS / "container").glob("*"):
        if path.is_file():
            shutil.copy(path, context)
    shutil.copy(LISTINGS / "phishing_service.py", context)
    shutil.copytree(ROOT / "deploylab", context / "deploylab")
    built = phishing.save(["v1", "v2"], WORK / "models")
    shutil.copytree(built["v2"], context / "model")
    return context


def build(context: Path, dockerfile: str) -> tuple[float, int, int]:
    """Seconds, steps that were taken from the cache, and steps in all."""
    volumes = [f"--volume={at}:{at}:ro" for at in MACHINE if Path(at).exists()]
    began = time.perf_counter()
    said = tool(
        *BUILDAH, "bud", "--isolation=chroot", "--layers", f"--build-arg=BASE={BASE}",
        *volumes, f"--file={context / dockerfile}", f"--tag={tag(dockerfile)}",
        str(context),
    )  # fmt: skip
    steps = sum("STEP " in line for line in said.splitlines())
    return time.perf_counter() - began, said.count("Using cache"), steps


def tag(dockerfile: str) -> str:
    return "localhost/phishing:" + dockerfile.lower().replace("dockerfile", "v2")


def change(context: Path, what: str) -> None:
    """What a day at work changes."""
    if what == "model":
        artifact = WORK / "models" / "v1"
        shutil.rmtree(context / "model")
        shutil.copytree(artifact, context / "model")
        # Or else the layers of an earlier run would be at hand.
        (context / "model" / "changed").write_text(str(time.time_ns()))
    else:
        path = context / {"code": "phishing_service.py"}.get(what, "requirements.txt")
        path.write_text(path.read_text() + f"# changed {time.time_ns()}\n")


def run(layout: Path, row: list[float]) -> dict:
    """Unpack the image, and run it with bubblewrap as its configuration says."""
    shutil.rmtree(WORK / "bundle", ignore_errors=True)
    tool("umoci", "unpack", "--image", f"{layout}:v2", f"{WORK}/bundle")
    config = json.loads((WORK / "bundle" / "config.json").read_text())["process"]
    user = config["user"]
    inside = Path(__file__).with_name("ask.py")
    flags = ["--unshare-all", "--die-with-parent", "--clearenv", "--cap-drop", "ALL"]
    flags += ["--ro-bind", f"{WORK}/bundle/rootfs", "/", "--proc", "/proc"]
    flags += ["--dev", "/dev", "--tmpfs", "/tmp", "--ro-bind", str(inside), "/tmp/a.py"]
    flags += ["--uid", str(user["uid"]), "--gid", str(user["gid"])]
    flags += ["--chdir", config["cwd"]]
    for line in config["env"]:
        flags += ["--setenv", *line.split("=", 1)]
    body = json.dumps(dict(zip(phishing.CONTRACT.names, row, strict=False)))
    done = subprocess.run(
        ["bwrap", *flags, "python", "/tmp/a.py", json.dumps(config["args"]), body],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the image does not run:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def with_crun() -> str:
    """The last words of a runtime that follows the OCI's specification, or "runs"."""
    if not shutil.which("crun"):
        return "not installed"
    path = WORK / "bundle" / "config.json"
    config = json.loads(path.read_text())
    config["process"] |= {"terminal": False, "args": ["python", "-c", "pass"]}
    path.write_text(json.dumps(config))
    flags = [f"--root={WORK}/crun", "--cgroup-manager=disabled"]
    done = subprocess.run(
        ["crun", *flags, "run", f"--bundle={WORK}/bundle", "deploylab"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return said[-1] if done.returncode else "runs"


def by_hand() -> str:
    """The layout that the page makes by hand, read by skopeo and by umoci."""
    folder = WORK / "by-hand"
    shutil.rmtree(folder, ignore_errors=True)
    stack = [
        oci.layer({"app/serve.py": b"...", "app/credentials.json": b"{}"}),
        oci.layer({}, gone=["app/credentials.json"]),
    ]
    digest = oci.write(folder, stack, {"Cmd": ["python", "/app/serve.py"]}, "v1")
    read = json.loads(tool("skopeo", "inspect", f"oci:{folder}:v1"))
    assert read["Digest"] == digest
    shutil.rmtree(WORK / "by-hand-bundle", ignore_errors=True)
    tool("umoci", "unpack", "--image", f"{folder}:v1", f"{WORK}/by-hand-bundle")
    left = sorted(p.name for p in (WORK / "by-hand-bundle/rootfs/app").iterdir())
    assert left == ["serve.py"], left
    return digest


def versions() -> str:
    said = [tool(name, "--version").split()[2] for name in ("buildah", "skopeo")]
    return f"buildah {said[0]}, skopeo {said[1]}"


def measure() -> list[tuple[str, str, float | str, str, str]]:
    """(experiment, what, value, unit, note)"""
    rows = []
    for dockerfile in ("Dockerfile", "Dockerfile.naive"):
        context = make_context()
        build(context, dockerfile)  # fills the cache
        for what in ("nothing", "model", "code", "requirements"):
            if what != "nothing":
                context = make_context()
                build(context, dockerfile)
                change(context, what)
            seconds, cached, steps = build(context, dockerfile)
            note = f"{cached} of {steps} steps from the cache"
            rows.append((f"rebuild {dockerfile}", what, round(seconds, 1), "s", note))
    context = make_context()
    build(context, "Dockerfile")
    layout = WORK / "oci"
    shutil.rmtree(layout, ignore_errors=True)
    tool(*BUILDAH, "push", "-q", tag("Dockerfile"), f"oci:{layout}:v2")
    index = json.loads((layout / "index.json").read_text())
    blob = layout / "blobs" / "sha256"
    manifest = json.loads((blob / index["manifests"][0]["digest"][7:]).read_text())
    last_stage = (context / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    copies = [line for line in last_stage.splitlines() if line.startswith("COPY")]
    for step, one in zip(["(the base)", *copies], manifest["layers"], strict=True):
        rows.append(("layer", step, one["size"], "bytes", "compressed"))
    row = phishing.load()[phishing.CONTRACT.names].iloc[0].tolist()
    found = run(layout, row)
    here = float(artifacts.load(WORK / "models" / "v2").score([row])[0])
    same = abs(found["answer"]["probability"] - here) < 1e-6
    for what in ("ready_s", "uid", "exit_code", "writes"):
        rows.append(("run", what, found[what], "", "bubblewrap, root read-only"))
    rows.append(("run", "same answer as outside", str(same), "", ""))
    kernel = str(found["kernel"] == os.uname().release)
    rows.append(("run", "same kernel as outside", kernel, "", ""))
    rows.append(("tried", "crun", with_crun(), "", "control groups left alone"))
    rows.append(("by hand", "read by skopeo and umoci", "True", "", by_hand()[:19]))
    return rows


def main() -> None:
    missing = [name for name in TOOLS if not shutil.which(name)]
    if missing or os.getuid() != 0:
        raise SystemExit(
            f"extras-containers needs root and Debian's buildah, skopeo, umoci, "
            f"bubblewrap and debootstrap; missing: {missing or 'root'}"
        )
    WORK.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    make_base()
    rows = measure()
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    machine += f", load {load:.0f} at the start, {versions()}"
    with open(Path(__file__).with_name("results.csv"), "w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow("date machine experiment what value unit note".split())
        for row in rows:
            out.writerow([datetime.date.today(), machine, *row])


if __name__ == "__main__":
    main()
