"""What serving costs, as ratios taken in one run; nothing here asserts a time."""

import contextlib

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


def _spread(ratios: np.ndarray) -> str:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return f"{middle:.2f}  (quartiles {low:.2f} to {high:.2f})"
