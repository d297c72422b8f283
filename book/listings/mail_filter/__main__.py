"""A mail filter with a model inside: JSON rows in, one verdict a line out."""

import sys
import tempfile
import zipfile
from pathlib import Path

from deploylab import artifacts
from deploylab.contract import ContractError


def unpack(folder: str) -> Path:
    """The model that was built into this file, as a folder on disk."""
    with zipfile.ZipFile(sys.argv[0]) as archive:
        for name in archive.namelist():
            if name.startswith("model/"):
                archive.extract(name, folder)
    return Path(folder, "model")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        scorer = artifacts.load(unpack(folder))
    contract = scorer.artifact.contract
    status = 0
    for number, line in enumerate(sys.stdin, start=1):
        try:
            row = contract.parse(line)
        except ContractError as error:
            print(f"line {number}: {error}", file=sys.stderr)
            print("not judged")
            status = 2
            continue
        score = scorer.score([row])[0]
        verdict = "phishing" if score > 0.5 else "fine"
        print(f"{verdict:8} {score:.3f} by {scorer.artifact.version}")
    return status


if __name__ == "__main__":
    sys.exit(main())
