"""Train, gate, release: the three steps, the same under every workflow engine.

    train(version, folder)
    gate(folder, registry)
    release(folder, registry)

`folder` is one candidate's: its artifact, and what the steps found. `registry` is the
folder of a `deploylab.registry`; its alias `champion` names the model that is served.
Each step may be run again at any time, and then leaves what it left before.
Libraries are imported where they are needed: an engine that reads this file to learn
its steps does not load scikit-learn.
"""

import itertools
import json
import os
from pathlib import Path

from observe import point, step

ALIAS = "champion"
#: The largest difference of a score between the fitted model and its export.
TOLERANCE = 1e-5
#: The share of right answers by which a candidate may stay below the served model.
MARGIN = 0.01


class Refused(RuntimeError):
    """The candidate may not be released; the message says why."""


@step
def train(version: str, folder: str) -> None:
    """Fit a version of the cast, export it, and keep its score for every row.

    `v2-skewed` is fitted to rows in which the feature of its fault is turned round:
    its training and its service encode that feature differently.
    """
    import numpy as np

    from deploylab import artifacts, phishing

    chosen = phishing.version(version)
    rows = phishing.split().train
    if skew := chosen.faults.get("skewed"):
        rows = rows.assign(**{skew["feature"]: 1 - rows[skew["feature"]]})
    model = chosen.fit(rows)
    scores = model.predict_proba(_all_rows(chosen.contract))[:, 1]
    Path(folder).mkdir(parents=True, exist_ok=True)
    np.save(Path(folder, "scores.npy"), scores)
    artifacts.save(chosen, folder, model=model)  # its manifest is written last


@step
def gate(folder: str, registry: str) -> dict:
    """Compare the candidate with the served model, and write `passed.json`.

    Raises `Refused`, with every reason, and then there is no `passed.json`.
    """
    import numpy as np

    from deploylab import artifacts, phishing
    from deploylab.registry import Reader

    Path(folder, "passed.json").unlink(missing_ok=True)
    reader = Reader(registry)
    number = reader.pointers().aliases.get(ALIAS)
    if number is None:
        raise Refused(
            f"served: {registry} has no {ALIAS} to compare with; publish the first "
            "version, and set the alias, by hand"
        )
    served = artifacts.load(reader.published(number).folder)
    candidate = artifacts.load(folder)
    test = phishing.split().test

    def right(scorer):
        rows = test[scorer.artifact.contract.names].to_numpy()
        return float(((scorer.score(rows) > 0.5) == test[phishing.LABEL]).mean())

    contracts = [scorer.artifact.contract for scorer in (served, candidate)]
    off = np.abs(
        candidate.score(_all_rows(contracts[1])) - np.load(Path(folder, "scores.npy"))
    )
    quality = {"served": right(served), "candidate": right(candidate)}
    reasons = []
    if not (off <= TOLERANCE).all():  # a NaN is refused too
        reasons.append(
            f"parity: {np.count_nonzero(~(off <= TOLERANCE))} of {len(off)} rows differ"
        )
    if quality["candidate"] < quality["served"] - MARGIN:
        reasons.append(
            f"quality: {quality['candidate']:.1%} right, "
            f"and the served version {number} has {quality['served']:.1%}"
        )
    if contracts[0] != contracts[1]:
        reasons.append(
            f"contract: {contracts[1].name}, and callers send {contracts[0].name}"
        )
    if reasons:
        raise Refused("; ".join(reasons))
    found = {
        "digest": candidate.artifact.digest,
        "rows": len(off),
        "largest_difference": float(off.max()),
        "quality": quality,
    }
    _write(folder, "passed.json", found)
    return found


@step
def release(folder: str, registry: str) -> int:
    """Publish the candidate and let the alias mean it; the number of the version.

    Raises `Refused` for a candidate that did not pass the gate as it is now.
    """
    from deploylab import artifacts
    from deploylab.registry import Registry

    passed = Path(folder, "passed.json")
    digest = json.loads(passed.read_text())["digest"] if passed.exists() else None
    if digest != artifacts.read(folder).digest:
        raise Refused("release: these files did not pass the gate; run it first")
    with Registry(registry, timeout_s=30) as store:
        number = store.publish(folder)  # the same files keep their number
        point("published")
        if store.pointers().aliases.get(ALIAS) != number:
            store.set_alias(ALIAS, number, who="pipeline")
    _write(folder, "released.json", {"number": number})
    return number


def _all_rows(contract):
    """Every row that the contract allows, shape (n, features)."""
    import numpy as np

    values = [feature.values for feature in contract.features]
    return np.array(list(itertools.product(*values)))


def _write(folder, name, what):
    """A file that is whole or not there."""
    draft = Path(folder, f".{name}")
    draft.write_text(json.dumps(what))
    os.replace(draft, Path(folder, name))
