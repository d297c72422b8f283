"""The model on Ray Serve, on a cluster of several nodes that are all on this machine.

    python service.py FOLDER CPUS PORT...

The head has no slots for replicas; each further port is a worker node with CPUS slots.
A node is a raylet of its own with a proxy of its own, the head's at the first port.
Reads commands from standard input, one JSON object a line, and prints what is so, ten
times a second, likewise. Start it as the leader of a process group: it ends the whole
group when its input ends.
"""

import asyncio
import json
import os
import queue
import signal
import sys
import threading
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_SERVE_LOG_TO_STDERR"] = "0"
# Ray's workers step back for other programs, which here would decide the measurement.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
# Else Ray replaces 127.0.0.1 by the machine's own address, and listens on it.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import logging

import numpy as np
import ray
from ray import serve
from ray._common.utils import reset_ray_address
from ray.cluster_utils import Cluster
from starlette.requests import Request
from starlette.responses import JSONResponse

NAME = "phishing"
# What Ray and its processes print goes to the errors, and only tell() to the output.
TOLD = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


@serve.deployment(num_replicas=4, ray_actor_options={"num_cpus": 1})
class Phishing:
    """One replica: the model is loaded once, in a process of some node's."""

    def __init__(self, folder: str) -> None:
        import onnxruntime

        with open(os.path.join(folder, "manifest.json")) as file:
            about = json.load(file)
        if "dies-loading" in about["faults"]:
            os._exit(1)  # this version ends while it loads
        self.version = about["version"]
        self.hold_s = about["faults"].get("slow", {}).get("extra_s", 0)
        self.names = [one["name"] for one in about["contract"]["features"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.path.join(folder, about["file"]),
            options,
            providers=["CPUExecutionProvider"],
        )

    async def __call__(self, request: Request) -> JSONResponse:
        row = await request.json()
        await asyncio.sleep(self.hold_s)
        rows = np.array([[row[name] for name in self.names]], dtype=np.float32)
        [scores] = self.session.run(["probabilities"], {"features": rows})
        probability = float(scores[0, 1])
        return JSONResponse(
            {"version": self.version, "probability": probability},
            headers={"X-Model-Version": self.version},
        )


def start(folder: str, cpus: int, ports: list[int]) -> tuple[Cluster, list]:
    """The cluster, with its files in `folder`, and its nodes: the head first."""
    cluster = Cluster(shutdown_at_exit=False)  # see listen()
    nodes = [
        cluster.add_node(
            num_cpus=0,
            node_ip_address="127.0.0.1",
            object_store_memory=80 * 2**20,
            include_dashboard=False,
            dashboard_agent_listen_port=0,
            temp_dir=folder,
        )
    ]
    for port in ports[1:]:
        add_worker(cluster, nodes, cpus, port)
    ray.init(
        address=cluster.address,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    serve.start(
        proxy_location="EveryNode",
        http_options={"host": "127.0.0.1", "port": ports[0]},
    )
    return cluster, nodes


def add_worker(cluster: Cluster, nodes: list, cpus: int, port: int) -> None:
    """One more node, whose proxy has that port."""
    nodes.append(
        cluster.add_node(
            num_cpus=cpus,
            node_ip_address="127.0.0.1",
            object_store_memory=80 * 2**20,
            env_vars={"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(port)},
        )
    )


def state(client: object, nodes: list) -> dict:
    """Replicas with process, node and state, as the controller has them."""
    details = client.get_serve_details()
    app = details["applications"].get(NAME)
    found = app["deployments"]["Phishing"] if app else {"replicas": [], "status": ""}
    order = {node.node_id: number for number, node in enumerate(nodes)}
    return {
        "application": app["status"] if app else "",
        "deployment": found["status"],
        "message": found.get("message", "")[:300],
        "proxies": {
            order.get(node, -1): proxy["status"]
            for node, proxy in details["proxies"].items()
        },
        "replicas": [
            {
                "pid": one.get("pid"),
                "state": one["state"],
                "node": order.get(one.get("node_id"), -1),
            }
            for one in found["replicas"]
        ],
    }


def processes(nodes: list) -> list[list[int]]:
    """Of each node, what its start began; its other processes are their children."""
    return [
        [info.process.pid for kind in node.all_processes.values() for info in kind]
        for node in nodes
    ]


def tell(**said: object) -> None:
    TOLD.write(json.dumps(said | {"at": time.monotonic()}) + "\n")
    TOLD.flush()


def report(client: object, nodes: list) -> None:
    """Ten times a second, until the head is gone."""
    while True:
        try:
            tell(state=state(client, nodes))
        except Exception as error:
            tell(lost=f"{type(error).__name__}: {error}"[:300])
        time.sleep(0.1)


def listen(commands: queue.Queue) -> None:
    """Pass commands on; at the end of the input, end this process group at once."""
    for line in sys.stdin:
        commands.put(json.loads(line))
    reset_ray_address()  # the file that says where the last cluster was
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    folder, cpus, *ports = sys.argv[1:]
    commands = queue.Queue()
    threading.Thread(target=listen, args=(commands,), daemon=True).start()
    cluster, nodes = start(folder, int(cpus), [int(port) for port in ports])
    client = serve.context._get_global_client()
    tell(version=ray.__version__, nodes=processes(nodes))
    threading.Thread(target=report, args=(client, nodes), daemon=True).start()
    while True:
        command = commands.get()
        if "deploy" in command:
            app = Phishing.options(**command["settings"]).bind(command["deploy"])
            serve._run(app, name=NAME, route_prefix="/predict", _blocking=False)
        if "add" in command:
            add_worker(cluster, nodes, int(cpus), command["add"])
            tell(nodes=processes(nodes))


if __name__ == "__main__":
    main()
