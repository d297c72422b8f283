"""What serving costs, as ratios taken in one run; nothing here asserts a time."""

import contextlib
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from deploylab import artifacts, phishing, servers, traffic

ROUNDS = 9
REQUESTS = 300


@pytest.mark.bench
@pytest.mark.parametrize("connections", [1, 8])
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_bench_onnx_against_pickle(name, connections, tmp_path):
    """Flask with ONNX Runtime against Flask with a pickle: one worker, one row."""
    version = phishing.version(name)
    model = version.fit()
    rng = np.random.default_rng(7)
    rows = phishing.split().test[version.contract.names]
    bodies = traffic.bodies(rng, rows, 500)
    runs = {"onnx": [], "pickle": []}
    with contextlib.ExitStack() as stack:
        running = {}
        for format in runs:
            saved = artifacts.save(version, tmp_path / format, format, model=model)
            running[format] = stack.enter_context(
                servers.start(saved.folder, env={"MODEL_SHA256": saved.sha256})
            )
        for _ in range(ROUNDS):
            for format, server in running.items():
                run = traffic.capacity(
                    server.url, bodies, connections=connections, n_requests=REQUESTS
                )
                runs[format].append((run.requests_per_s, run.latency_s(0.99)))
        memory = {format: server.memory_mib() for format, server in running.items()}
    onnx, pickled = (np.array(runs[format]) for format in ("onnx", "pickle"))
    rates, tails = (onnx / pickled).T
    print(
        f"\n{name}, {connections} connections, {ROUNDS} interleaved rounds of "
        f"{REQUESTS}: ONNX over pickle"
        f"\n  requests a second  {_spread(rates)}"
        f"\n  p99 latency        {_spread(tails)}"
        f"\n  memory             {memory['onnx'] / memory['pickle']:.2f}"
    )
    assert len(rates) == ROUNDS, "every round was measured"


@pytest.mark.bench
# MLflow says so of a type of its own while it is imported.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")
@pytest.mark.parametrize("name", ["v1", "v2"])
def test_bench_flask_against_mlflow(name, tmp_path):
    """Flask with ONNX, with a pickle, and `mlflow models serve`: one worker, one row.

    One connection. What they do for a request differs: MLflow builds a table and
    enforces a schema. The bodies are those that each of them wants, of the same rows.
    """
    import mlflow.sklearn

    version = phishing.version(name)
    model = version.fit()
    split = phishing.split()
    names = version.contract.names
    rows = split.test[names]
    bodies = traffic.bodies(np.random.default_rng(7), rows, 500)
    records = [b'{"dataframe_records": [' + body + b"]}" for body in bodies]
    mlflow.sklearn.save_model(
        model,
        tmp_path / "mlflow",
        signature=mlflow.models.infer_signature(split.train[names]),
        pyfunc_predict_fn="predict_proba",
        pip_requirements=["scikit-learn"],
        skops_trusted_types=["sklearn.tree._tree.Tree"],
    )
    serve = [sys.executable, "-m", "mlflow", "models", "serve"]
    serve += ["-m", str(tmp_path / "mlflow"), "--env-manager", "local"]
    serve += ["-h", "127.0.0.1", "-p", "$PORT", "-w", "1"]
    # It starts uvicorn by its name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    runs = {"onnx": [], "pickle": [], "mlflow": []}
    with contextlib.ExitStack() as stack:
        asked = {}
        for format in ("onnx", "pickle"):
            saved = artifacts.save(version, tmp_path / format, format, model=model)
            server = servers.start(saved.folder, env={"MODEL_SHA256": saved.sha256})
            asked[format] = stack.enter_context(server), bodies, "/predict"
        server = servers.run(
            serve, ready_path="/ping", env={"PATH": path}, timeout_s=180
        )
        asked["mlflow"] = stack.enter_context(server), records, "/invocations"
        for _ in range(ROUNDS):
            for kind, (server, what, where) in asked.items():
                run = traffic.capacity(
                    server.url, what, path=where, connections=1, n_requests=100
                )
                runs[kind].append((run.requests_per_s, run.latency_s(0.99)))
        memory = {kind: server.memory_mib() for kind, (server, *_) in asked.items()}
    onnx = np.array(runs["onnx"])
    for kind in ("pickle", "mlflow"):
        rates, tails = (onnx / np.array(runs[kind])).T
        print(
            f"\n{name}, 1 connection, {ROUNDS} interleaved rounds of 100: "
            f"Flask with ONNX over {kind}"
            f"\n  requests a second  {_spread(rates)}"
            f"\n  p99 latency        {_spread(tails)}"
            f"\n  memory             {memory['onnx'] / memory[kind]:.2f}"
        )
    assert {len(run) for run in runs.values()} == {ROUNDS}, "every round was measured"


def _spread(ratios: np.ndarray) -> str:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{middle:.2f}  (quartiles {low:.2f} to {high:.2f})"
