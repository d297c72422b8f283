"""Score a Parquet file on Ray Data, and say how long it took.

    python score.py MODEL.onnx INPUT.parquet OUTPUT

The features have the names, and the order, of the `manifest.json` beside the model.
Prints JSON: `start_s` until Ray was up, `total_s` until OUTPUT, a folder of Parquet
files, is written: it is complete or not there, and replaces an older one.
"""

import json
import os
import shutil
import sys
import time

began = time.perf_counter()
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import logging  # noqa: E402

import numpy as np  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402

ROWS = 20_000  # in a worker's memory at a time


class Scorer:
    """Lives in a worker: the model is loaded once, and scores batch after batch."""

    def __init__(self, model: str, names: list[str]) -> None:
        import onnxruntime

        self.names = names
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        columns = [batch[name] for name in self.names]
        rows = np.stack(columns, axis=1).astype(np.float32)
        scores = self.session.run(["probabilities"], {"features": rows})[0]
        return {"id": batch["id"], "probability": scores[:, 1].astype(np.float64)}


def main() -> None:
    model, source, target = (os.path.abspath(path) for path in sys.argv[1:])
    ray.init(
        # Slots, not cores: on two, the tasks that read, score and write would wait for
        # each other's.
        num_cpus=4,
        _node_ip_address="127.0.0.1",
        include_dashboard=False,
        object_store_memory=512 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    start_s = time.perf_counter() - began
    with open(os.path.join(os.path.dirname(model), "manifest.json")) as file:
        names = [one["name"] for one in json.load(file)["contract"]["features"]]
    groups = pq.read_metadata(source).num_row_groups
    table = ray.data.read_parquet(source, override_num_blocks=max(2, min(groups, 64)))
    scored = table.map_batches(
        Scorer,
        fn_constructor_args=(model, names),
        batch_size=ROWS,
        compute=ray.data.ActorPoolStrategy(size=2),
    )
    draft = f"{target}.draft"
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed
    scored.write_parquet(draft)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(draft, target)  # the name means complete
    total_s = time.perf_counter() - began
    ray.shutdown()
    print(
        json.dumps(
            {
                "start_s": start_s,
                "total_s": total_s,
                "tasks": 2,
                "version": f"ray {ray.__version__}",
            }
        )
    )


if __name__ == "__main__":
    main()
