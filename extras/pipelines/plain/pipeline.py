"""The pipeline in plain Python: three calls, in order.

python pipeline.py VERSION FOLDER REGISTRY
"""

import sys

import steps

ATTEMPTS = 2


def run(version: str, folder: str, registry: str) -> None:
    steps.train(version, folder)
    steps.gate(folder, registry)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            steps.release(folder, registry)
            break
        except OSError:  # the registry does not answer: once more
            if attempt == ATTEMPTS:
                raise


if __name__ == "__main__":
    run(*sys.argv[1:])
