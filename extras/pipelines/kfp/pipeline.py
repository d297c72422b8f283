"""The pipeline in Kubeflow Pipelines, run without a cluster by `kfp.local`.

python pipeline.py VERSION FOLDER REGISTRY
"""

import sys

from kfp import dsl, local


# On a cluster a component runs in its own image; so it imports what it needs itself.
@dsl.component(install_kfp_package=False)
def train(version: str, folder: str):
    import steps

    steps.train(version, folder)


@dsl.component(install_kfp_package=False)
def gate(folder: str, registry: str):
    import steps

    steps.gate(folder, registry)


@dsl.component(install_kfp_package=False)
def release(folder: str, registry: str) -> int:
    import steps

    return steps.release(folder, registry)


@dsl.pipeline
def release_model(version: str, folder: str, registry: str) -> int:
    trained = train(version=version, folder=folder)
    passed = gate(folder=folder, registry=registry).after(trained)
    released = release(folder=folder, registry=registry).after(passed)
    released.set_retry(num_retries=1)  # on a cluster: `kfp.local` ignores it
    return released.output


if __name__ == "__main__":
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root="outputs")
    version, folder, registry = sys.argv[1:]
    release_model(version=version, folder=folder, registry=registry)
