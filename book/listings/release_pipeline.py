"""Train, gate and release the phishing model: three steps, and two ways to run them.

    python release_pipeline.py FOLDER REGISTRY [--resume] [--die-in STEP]

`--die-in` ends the process with SIGKILL in the middle of that step: no `except` and no
`finally` gets to run. What was written until then is kept by the kernel; a machine that
loses its power may lose that too.
"""

import argparse
import hashlib
import inspect
import json
import os
import signal
from pathlib import Path

from deploylab import artifacts, phishing, registry

SETTINGS = {"rows": 1_000, "correct_at_least": 0.92, "die_in": None}


class Refused(RuntimeError):
    """The gate has seen the candidate, and does not let it through."""


def train(folder: Path, settings: dict) -> dict:
    """Fit the candidate on the first rows of the training side; save the artifact."""
    version = phishing.version("v2")
    rows = phishing.split().train.head(settings["rows"])
    model = version.fit(rows)
    power_cut(settings, "train")
    kept = artifacts.save(version, folder / "candidate", model=model)
    return {"digest": kept.digest[:12]}


def gate(folder: Path, settings: dict) -> dict:
    """Refuse a candidate that is wrong too often on rows that it has not seen."""
    test = phishing.split().test
    scorer = artifacts.load(folder / "candidate")
    scores = scorer.score(test[scorer.artifact.contract.names])
    correct = float(((scores > 0.5) == test[phishing.LABEL]).mean())
    power_cut(settings, "gate")
    if correct < settings["correct_at_least"]:
        raise Refused(f"{correct:.1%} correct, asked for are "
                      f"{settings['correct_at_least']:.0%}")  # fmt: skip
    return {"correct": round(correct, 3)}


def release(folder: Path, settings: dict) -> dict:
    """Publish the candidate, and let the alias mean it."""
    with registry.Registry(settings["registry"]) as truth:
        number = truth.publish(folder / "candidate")
        power_cut(settings, "release")
        truth.set_alias("champion", number, who="pipeline")
    return {"number": number}


STEPS = [train, gate, release]


def power_cut(settings: dict, step: str) -> None:
    """End this process at once if it is to die in this step."""
    if settings["die_in"] == step:
        os.kill(os.getpid(), signal.SIGKILL)


def plain(folder: Path, settings: dict) -> None:
    """The script: one step after the other."""
    for step in STEPS:
        print(f"{step.__name__}: {step(folder, settings)}", flush=True)


def resumable(folder: Path, settings: dict) -> None:
    """The same, but a step is done if its record names what goes into it."""
    before = ""
    for step in STEPS:
        goes_in = json.dumps(settings | {"die_in": None}, sort_keys=True)
        goes_in += inspect.getsource(step) + before
        fingerprint = hashlib.sha256(goes_in.encode()).hexdigest()
        record = folder / f"{step.__name__}.json"
        try:
            done = json.loads(record.read_text())
        except (FileNotFoundError, ValueError):  # there is none, or not all of it
            done = {}
        if done.get("fingerprint") == fingerprint:
            print(f"{step.__name__}: done before, {done['result']}", flush=True)
        else:
            record.unlink(missing_ok=True)  # what it vouches for is overwritten now
            result = step(folder, settings)
            done = {"fingerprint": fingerprint, "result": result}
            draft = record.with_suffix(".draft")
            draft.write_text(json.dumps(done))
            os.replace(draft, record)  # from here on, and not before, it is done
            print(f"{step.__name__}: {result}", flush=True)
        before = json.dumps(done)


def main() -> None:
    """Run the pipeline from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("registry", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--die-in", choices=[step.__name__ for step in STEPS])
    told = parser.parse_args()
    told.folder.mkdir(parents=True, exist_ok=True)
    run = resumable if told.resume else plain
    given = {"registry": str(told.registry), "die_in": told.die_in}
    run(told.folder, SETTINGS | given)


if __name__ == "__main__":
    main()
