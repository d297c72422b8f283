"""Let helm read the chart, and record what it said: `make extras-helm`.

    .venv/bin/python extras/helm/render.py [--helm COMMAND] [--out FOLDER]

Writes to FOLDER, by default the one of this file, default.yaml and v3.yaml (what
`helm template` made of the chart) and runs.csv: every command, what it ended with, and
its last line where that is an error. No cluster is asked, and the commands get an empty
home and environment, so no kubeconfig of yours is found.
"""

import argparse
import csv
import datetime
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHART = HERE.parent.parent / "book" / "listings" / "chart"
#: helm asks the cluster for its version; a template has no cluster, so it is said.
CLUSTER = "--kube-version=1.37.0"
FEW = "--set=autoscaling.enabled=true,autoscaling.maxReplicas=1"
#: What is asked: a name, the arguments, and whether helm is to refuse.
RUNS = [
    ("lint", ["lint", "--strict", "."], False),
    ("default", ["template", "phishing-v2", ".", CLUSTER], False),
    ("v3", ["template", "phishing-v3", ".", CLUSTER, "--values=values-v3.yaml"], False),
    ("a typo", ["template", "phishing-v2", ".", CLUSTER, "--set=replcas=3"], True),
    (
        "latest",
        ["template", "phishing-v2", ".", CLUSTER, "--set=image.tag=latest"],
        True,
    ),
    (
        "version latest",
        ["template", "phishing-latest", ".", CLUSTER, "--set=version=latest"],
        True,
    ),
    ("too few", ["template", "phishing-v2", ".", CLUSTER, FEW], True),
    ("an old cluster", ["template", "phishing-v2", ".", "--kube-version=1.29.0"], True),
]


def digest() -> str:
    """SHA-256 of the chart: of its files' names and contents, in order."""
    found = hashlib.sha256()
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(CHART)}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def run(helm: list[str], arguments: list[str]) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory(prefix="deploylab-") as home:
        return subprocess.run(
            [*helm, *arguments],
            cwd=CHART,
            env={"HOME": home, "PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=60,
        )


def complaint(done: subprocess.CompletedProcess) -> str:
    """What an error said, on one line and without the hint about --debug."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return " ".join(line for line in lines if "--debug" not in line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--helm", default=str(HERE / "node_modules/.bin/helm"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    helm = shlex.split(options.helm)
    try:
        version = run(helm, ["version", "--short"])
    except FileNotFoundError:
        sys.exit(
            f"There is no {helm[0]}. `make extras-helm` gets it on Linux (x86-64)."
        )
    stamp = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "helm": version.stdout.strip(),
        "chart": digest(),
    }
    rows, rendered = [], {}
    for name, arguments, refused in RUNS:
        done = run(helm, arguments)
        command = shlex.join(["helm", *arguments])
        rows.append(
            stamp
            | {"run": name, "command": command, "exit code": done.returncode}
            | {"said": complaint(done)}
        )
        print(f"{command}\n  {done.returncode} {complaint(done)}")
        if (done.returncode != 0) != refused:
            sys.exit(f"That should {'have been refused' if refused else 'pass'}.")
        if arguments[0] == "template" and not refused:
            told = f"# {stamp['date']}, helm {stamp['helm']}: {command}\n"
            rendered[name] = told + done.stdout
    options.out.mkdir(parents=True, exist_ok=True)
    for name, text in rendered.items():
        (options.out / f"{name}.yaml").write_text(text)
    with (options.out / "runs.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


if __name__ == "__main__":
    main()
