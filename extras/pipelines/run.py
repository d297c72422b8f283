"""Runs the pipeline in each workflow engine, good, bad, killed and failing once.

    make extras-pipelines                installs all, and writes results.csv
    run.py --only luigi --out other.csv  one engine again, into another file

What is recorded was observed: how often each step ran stands in a journal that the
steps write, what was released in the registry, and how a run ended is what the engine
said. See README.md.
"""

import argparse
import csv
import datetime
import importlib.metadata
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import observe  # noqa: E402
import steps  # noqa: E402
from engines import ENGINES, PATIENCE_S  # noqa: E402

from deploylab.registry import Reader, Registry  # noqa: E402

COLUMNS = [
    *("engine", "package", "version", "experiment", "candidate", "ran", "why not"),
    *(
        "ended",
        "reason shown in",
        "alias before",
        "alias after",
        "alias moves",
        "versions",
    ),
    *("train ran", "gate ran", "release ran", "train again", "release again"),
    *("seconds", "steps s", "engine s", "cpu s", "engine cpu s", "start s"),
    *("lines", "packages", "environment MiB", "kept files", "kept KiB", "kept what"),
    *("resumed by", "date", "machine"),
]
#: Experiment -> the version that it tries to release, and what is planted.
EXPERIMENTS = {
    "good": ("v2", None),
    "bad": ("v2-skewed", None),
    "killed": ("v2", "hold-gate"),
    "fails once": ("v2", "fail-published"),
}
#: The good version is released this often; the fastest counts.
ROUNDS = 3
STEPS = ("train", "gate", "release")


def seed(work):
    """A registry in which v1 is served."""
    steps.train("v1", work / "v1")
    with Registry(work / "registry") as registry:
        number = registry.publish(work / "v1")
        registry.set_alias(steps.ALIAS, number, who="seed")


def experiment(engine, work, name):
    """One release of one candidate, into a registry of its own."""
    version, plant = EXPERIMENTS[name]
    place = Path(tempfile.mkdtemp(dir=work, prefix="run-"))
    folder, registry = place / version, place / "registry"
    shutil.copytree(work / "registry", registry)
    (engine.observe / "journal.jsonl").unlink(missing_ok=True)
    if plant:
        (engine.observe / plant).touch()
    before = Reader(registry).pointers()
    engine.begin(version, folder, registry)
    if name == "killed":
        held(engine)
        engine.kill()
        (engine.observe / plant).unlink()
        observe.note_in(engine.observe, what="killed")
        engine.begin(version, folder, registry, again=True)
    found = engine.finish()
    return found | judged(engine, Reader(registry), before)


def held(engine):
    """Wait until training is over and the gate has begun, and is held there."""
    until = time.monotonic() + PATIENCE_S
    while "held" not in [line["what"] for line in observe.read(engine.observe)]:
        if engine.ended() or time.monotonic() > until:
            raise RuntimeError(f"{engine.name}: the gate was not reached")
        time.sleep(0.1)


def judged(engine, reader, before):
    """What the journal and the registry say about a run."""
    journal, after = observe.read(engine.observe), reader.pointers()
    killed = [i for i, line in enumerate(journal) if line["what"] == "killed"]
    rest = journal[killed[0] :] if killed else []

    def began(name, lines):
        return sum(
            line["what"] == "began" and line["step"] == name
            for line in lines
            if "step" in line
        )

    ended = [line for line in (rest or journal) if "seconds" in line]
    return {
        "alias before": before.aliases[steps.ALIAS],
        "alias after": after.aliases[steps.ALIAS],
        "alias moves": after.sequence - before.sequence,
        "versions": len(reader.numbers()),
        **{f"{name} ran": began(name, journal) for name in STEPS},
        **{f"{name} again": began(name, rest) for name in ("train", "release")},
        "steps s": sum(line["seconds"] for line in ended),
        "steps cpu s": sum(line["cpu_s"] for line in ended),
    }


def rows(name, work):
    """The rows of one engine."""
    with ENGINES[name](name, work / name) as engine:
        about = {
            "engine": name,
            "package": engine.dist or "python",
            "version": version(engine),
            "ran": "yes",
            "lines": lines(engine),
            **size(engine),
        }
        for trial, (candidate, _) in EXPERIMENTS.items():
            rounds = ROUNDS if trial == "good" else 1
            trials = [experiment(engine, work, trial) for _ in range(rounds)]
            found = min(trials, key=lambda one: one["seconds"])
            steps_s, steps_cpu_s = found.pop("steps s"), found.pop("steps cpu s")
            times = {
                "seconds": found["seconds"],
                "steps s": steps_s,
                "engine s": found["seconds"] - steps_s,
                "cpu s": found["cpu_s"],
                "engine cpu s": found.pop("cpu_s") - steps_cpu_s,
                "start s": engine.start_s,
            }
            times = {column: f"{value:.1f}" for column, value in times.items()}
            resumed = {"resumed by": engine.resumes} if trial == "killed" else {}
            row = {"experiment": trial, "candidate": candidate}
            told = {"reason shown in": shown(engine)} if trial == "bad" else {}
            yield about | row | found | times | kept(engine) | resumed | told
            print(f"{name}: {trial}: {found['ended']}", flush=True)


def version(engine):
    """Of the engine, as its own environment says."""
    if engine.dist is None:
        return platform.python_version()
    paths = [str(path) for path in engine.folder.glob(".venv/lib/*/site-packages")]
    [found] = importlib.metadata.distributions(name=engine.dist, path=paths)
    return found.version


def lines(engine):
    """Lines of the engine's own files that are neither empty nor comments."""
    texts = [(engine.folder / file).read_text() for file in engine.files]
    code = [line.strip() for text in texts for line in text.splitlines()]
    return sum(bool(line) and not line.startswith("#") for line in code)


def size(engine):
    """Packages and MiB of the environment, which holds the model's libraries too."""
    if engine.dist is None:
        return {"packages": "", "environment MiB": ""}
    [folder] = engine.folder.glob(".venv/lib/*/site-packages")
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "packages": len(list(folder.glob("*.dist-info"))),
        "environment MiB": round(sum(path.stat().st_size for path in files) / 2**20),
    }


def kept(engine):
    """What the engine keeps after its runs so far, in the folder that is its own."""
    files = [path for path in engine.kept.rglob("*") if path.is_file()]
    names = sorted(path.name for path in engine.kept.iterdir())
    return {
        "kept files": len(files),
        "kept KiB": round(sum(path.stat().st_size for path in files) / 1024),
        "kept what": ", ".join(names),
    }


def shown(engine):
    """Where the gate's reason can be read: in the output, in what the engine keeps."""
    kept = [path for path in engine.kept.rglob("*") if path.is_file()]
    places = {"output": [engine.home / "log.txt"], "kept files": kept}
    return " and ".join(
        place
        for place, paths in places.items()
        if any(b"and the served version" in path.read_bytes() for path in paths)
    )


def machine():
    """Enough to read the times by."""
    system = f"{platform.system()} {platform.machine()}"
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    busy = f"load {os.getloadavg()[0]:.0f}"
    cores = f"{psutil.cpu_count()} cores"
    return f"{system}, {cores}, {memory}, {busy}, Python {platform.python_version()}"


def table(only=None):
    """All rows; an engine that does not run gets one, with the reason."""
    stamp = {"date": datetime.date.today().isoformat()}
    with tempfile.TemporaryDirectory(prefix="pipelines-") as folder:
        work = Path(folder).resolve()
        seed(work)
        for name in [only] if only else ENGINES:
            try:
                for row in rows(name, work):
                    yield row | stamp | {"machine": machine()}
            except (OSError, RuntimeError) as error:
                about = {"engine": name, "ran": "no", "why not": str(error)}
                yield about | stamp | {"machine": machine()}


def main():
    """Write the table, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=ENGINES)
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    for name in [asked.only] if asked.only else ENGINES:
        python = HERE / name / ".venv" / "bin" / "python"
        if name != "plain" and not python.exists():
            sys.exit(f"{python} is missing: `make extras-pipelines` installs it")
    found = list(table(asked.only))
    fresh = asked.out.with_suffix(".new")
    with fresh.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    fresh.replace(asked.out)
    print(f"{len(found)} rows in {asked.out}")


if __name__ == "__main__":
    main()
