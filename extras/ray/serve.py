"""Kill parts of a Ray Serve cluster under load, and record what the callers saw.

    .venv/bin/python extras/ray/serve.py [--rounds 3]     (`make extras-ray-serve`)

A head and three worker nodes, each a raylet of its own on this machine, serve the model
of the book with four replicas (service.py, in the environment of extras/ray). Users
send an open-loop load to the proxies of two nodes, without retries; beside them the
book's polite client asks with retries. Then a replica is killed, a worker node, and at
last the head, and between them versions are changed: one row for each event and each
address. Writes serve.csv after every event, whole or not at all.
"""

import argparse
import csv
import ctypes
import datetime
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "book" / "listings")]

from polite_client import Budget, Failed, PoliteClient  # noqa: E402

from deploylab import artifacts, load, phishing, servers, traffic  # noqa: E402

PYTHON = HERE / ".venv" / "bin" / "python"
WORKERS, SLOTS, REPLICAS = 3, 2, 4
SHARE = 0.3  # of the capacity, for all load together
BEFORE_S, AFTER_S, LIMIT_S = 5.0, 10.0, 180.0
POLITE_PER_S = 2.0


class Cluster:
    """Ray in processes of its own, and what it says of itself."""

    def __init__(self, log: Path) -> None:
        self.folder = tempfile.mkdtemp(prefix="ray-")  # short: it will hold sockets
        self.ports = free_ports(1 + WORKERS)
        self.version, self.nodes, self.state = "", [], {}
        command = [PYTHON, HERE / "service.py", self.folder, SLOTS, *self.ports]
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=servers.environment(),
                start_new_session=True,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            said = json.loads(line)
            self.version = said.get("version", self.version)
            self.nodes = said.get("nodes", self.nodes)
            if "state" in said:
                self.state = said["state"] | {"at": said["at"]}

    def tell(self, **command: object) -> None:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def wait(self, true: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Whether it became so in time."""
        end = time.monotonic() + limit_s
        while not true():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def running(self) -> list[dict]:
        """The replicas that take requests, as the controller says, and are alive."""
        found = self.state.get("replicas", [])
        return [one for one in found if one["state"] == "RUNNING" and lives(one["pid"])]

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exception: object) -> None:
        """End every process of the session, which Ray's all are."""
        self.process.stdin.close()
        end = time.monotonic() + 20
        while members := session(self.process.pid):
            for member in members:
                member.kill()
            time.sleep(0.05)
            if time.monotonic() > end:
                raise SystemExit(f"These do not end: {members}")
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def session(leader: int) -> list[psutil.Process]:
    """The living processes of a session; the dead among our children are reaped."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != leader:
                continue
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
            elif process.pid != leader and process.ppid() == os.getpid():
                os.waitpid(process.pid, os.WNOHANG)
        except (psutil.Error, OSError):
            continue
    return found


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Polite:
    """A client that retries, twice a second, until it is stopped."""

    def __init__(self, url: str, rows: list[dict]) -> None:
        self.sent, self.failed, self.versions = 0, 0, Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(url, rows))
        self._thread.start()

    def _ask(self, url: str, rows: list[dict]) -> None:
        client = PoliteClient(url, "none", Budget(share=1, most=100), tries=5)
        while not self._over.wait(1 / POLITE_PER_S):
            try:
                said = client.predict(rows[self.sent % len(rows)], deadline_s=5)
                self.versions[said["version"]] += 1
            except Failed:
                self.failed += 1
            self.sent += 1

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def kill_node(cluster: Cluster, number: int) -> None:
    """Its raylet, and with the head what runs beside it, and all their children."""
    found = [psutil.Process(pid) for pid in cluster.nodes[number]]
    found += [child for one in found for child in one.children(recursive=True)]
    for process in found:
        process.kill()


def experiment(
    cluster: Cluster,
    event: str,
    act: Callable[[], None],
    over: Callable[[], bool],
    asked: dict[str, int],
    ends: str,
    rate_per_s: float,
    rows: list[dict],
) -> list[dict]:
    """Load, act, wait until it is over, and what was seen at each address.

    ends: what to note of an event that ends otherwise than healed.
    """
    urls = {label: f"http://127.0.0.1:{port}" for label, port in asked.items()}
    before = cluster.running()
    loads, clients, answers = {}, {}, {}
    try:
        for label, url in urls.items():
            loads[label] = load.Load(url, rows, rate_per_s=rate_per_s)
            clients[label] = Polite(url, rows)
        time.sleep(BEFORE_S)
        began = time.monotonic()
        act()
        is_over = cluster.wait(
            lambda: over() and (bool(ends) or cluster.state["at"] > began)
        )
        took_s = time.monotonic() - began
        time.sleep(AFTER_S)
    finally:
        for label in loads:
            answers[label] = loads[label].stop(grace_s=10)
        for client in clients.values():
            client.stop()
    return [
        {
            "event": event,
            "asked_at": label,
            "rate_per_s": f"{rate_per_s:.1f}",
            **seen(answers[label], began),
            "sent_retrying": clients[label].sent,
            "failed_retrying": clients[label].failed,
            "versions": " ".join(sorted(clients[label].versions)),
            "healed_s": f"{took_s:.1f}" if is_over and not ends else "",
            "replicas_before": len(before),
            "replicas_after": len(cluster.running()),
            "application": cluster.state["application"],
            "note": f"{ends} after {took_s:.0f} s" if is_over and ends else "",
        }
        for label in urls
    ]


def seen(answers: list[load.Answer], began: float) -> dict:
    """Of a load: how many failed, until when, and until when some were answered.

    `lag_s`: how long after its time the median of the answered requests was sent; a
    second or more says that this machine was away, and not the service.
    """
    sent_s = np.array([one.sent_s for one in answers]) - began
    took_s = np.array([one.finished_s - one.sent_s for one in answers])
    lag_s = np.array([one.latency_s for one in answers]) - took_s
    good = np.array([one.status == 200 for one in answers], bool)
    failed = sent_s[~good]
    ends_badly = len(good) > 5 and not good[-5:].any()
    return {
        "sent": len(answers),
        "failed": int((~good).sum()),
        "last_failure_s": f"{np.nanmax(failed):.1f}" if len(failed) else "",
        "good_until_s": f"{sent_s[good].max():.1f}" if ends_badly else "",
        "lag_s": f"{np.median(lag_s[good]):.3f}",
    }


def one_round(work: Path, log: Path) -> Iterator[list[dict]]:
    """Every event on one cluster; the head's death is the last."""
    rows = phishing.load()[list(phishing.CONTRACT.names)].to_dict("records")
    with Cluster(log) as cluster:

        def deploy(version: str, **settings: object) -> None:
            cluster.tell(deploy=str(work / version), settings=settings)

        def whole(without: frozenset = frozenset()) -> bool:
            """All replicas take requests, and none of these processes is one."""
            there = {one["pid"] for one in cluster.running()}
            return len(there) == REPLICAS and not there & without

        def healthy(number: int) -> bool:
            proxies = cluster.state.get("proxies", {})
            return proxies.get(str(number)) == "HEALTHY"

        deploy("v1")
        cluster.wait(
            lambda: (whole() and healthy(0)) or cluster.process.poll() is not None, 300
        )
        if not whole():
            raise SystemExit(f"Ray did not start; see {log}. Last: {cluster.state}")
        url = f"http://127.0.0.1:{cluster.ports[0]}"
        bodies = [json.dumps(row).encode() for row in rows[:100]]
        # The best of three: less is what other programs took away.
        capacity = max(
            traffic.capacity(url, bodies, duration_s=4).requests_per_s for _ in range(3)
        )
        # Users and clients at two addresses, in all at most that share.
        rate_per_s = float(np.clip(SHARE * capacity / 2 - POLITE_PER_S, 1, 10))
        about = {
            "version": f"ray {cluster.version}",
            "capacity_per_s": f"{capacity:.0f}",
        }

        def run(
            event: str, act: Callable, over: Callable, asked: dict, ends: str = ""
        ) -> list[dict]:
            # Not while other programs hold this machine, if that ends at all.
            cluster.wait(lambda: os.getloadavg()[0] < 4 * psutil.cpu_count(), 60)
            load_before = f"{os.getloadavg()[0]:.1f}"
            found = experiment(cluster, event, act, over, asked, ends, rate_per_s, rows)
            return [about | {"load_before": load_before} | row for row in found]

        def pids() -> frozenset:
            return frozenset(one["pid"] for one in cluster.running())

        def roll(version: str, **settings: object) -> None:
            old = pids()
            deploy(version, **settings)
            if not cluster.wait(lambda: whole(old), 300):
                raise SystemExit(f"{version} did not start: {cluster.state}")

        def with_proxy() -> list[int]:
            """Worker nodes with a replica and a proxy, most replicas first."""
            held = Counter(one["node"] for one in cluster.running())
            order = [number for number, _ in held.most_common()]
            return [one for one in order if healthy(one) and one > 0]

        def addresses(other: int, label: str) -> dict:
            return {"the head": cluster.ports[0], label: cluster.ports[other]}

        cluster.wait(lambda: len(with_proxy()) == WORKERS, 60)
        worker = with_proxy()[0]
        asked = addresses(worker, "a worker")
        yield run("nothing", lambda: None, whole, asked)

        victim = next(one["pid"] for one in cluster.running() if one["node"] == worker)
        yield run(
            "a replica is killed",
            lambda: os.kill(victim, signal.SIGKILL),
            lambda: whole(frozenset([victim])),
            asked,
        )

        cluster.wait(lambda: len(with_proxy()) >= 2, 60)
        worker = with_proxy()[0]
        gone = frozenset(o["pid"] for o in cluster.running() if o["node"] == worker)
        yield run(
            "a worker node is killed",
            lambda: kill_node(cluster, worker),
            lambda: whole(gone),
            addresses(worker, "the killed node"),
        )
        [port] = free_ports(1)
        cluster.ports.append(port)
        cluster.tell(add=port)
        cluster.wait(lambda: len(cluster.nodes) == 2 + WORKERS)

        for event, version, settings in [
            ("update from v1 to v2", "v2", {}),
            ("update from v2 to v1, one replica more", "v1", {"max_surge_percent": 25}),
            ("update to a version that never starts", "v2-dies-loading", {}),
        ]:
            old = pids()

            def over(old: frozenset = old, version: str = version) -> bool:
                if version == "v2-dies-loading":
                    return cluster.state["application"] == "DEPLOY_FAILED"
                return whole(old)

            cluster.wait(lambda: bool(with_proxy()), 60)
            asked = addresses(with_proxy()[0], "a worker")
            act = lambda v=version, s=settings: deploy(v, **s)  # noqa: E731
            ends = "given up" if version == "v2-dies-loading" else ""
            yield run(event, act, over, asked, ends)

        # The same again with requests that take two seconds, so that some are there.
        roll("slow", max_ongoing_requests=50)
        cluster.wait(lambda: bool(with_proxy()), 60)
        asked = addresses(with_proxy()[0], "a worker")
        busy = cluster.running()[0]["pid"]
        yield run(
            "a replica at work is killed",
            lambda: os.kill(busy, signal.SIGKILL),
            lambda: whole(frozenset([busy])),
            asked,
        )

        roll("v2")
        cluster.wait(lambda: bool(with_proxy()), 60)
        asked = addresses(with_proxy()[0], "a worker")
        yield run(
            "the head is killed",
            lambda: kill_node(cluster, 0),
            lambda: not cluster.running(),
            asked,
            "no replica left",
        )


def write(records: list[dict], path: Path) -> None:
    """The record, whole or not at all."""
    draft = path.with_suffix(".draft")
    with draft.open("w", newline="") as file:
        table = csv.DictWriter(file, list(records[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(records)
    os.replace(draft, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "serve.csv")
    options = parser.parse_args()
    if sys.platform != "linux":
        sys.exit("This kills by Linux's rules of sessions and orphans; run it there.")
    if not PYTHON.exists():
        sys.exit("There is no environment of Ray: make extras-ray-serve makes it.")
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to us
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    stamp = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, "
        f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
    }
    records = []
    with tempfile.TemporaryDirectory(prefix="deploylab-") as kept:
        work = Path(kept)
        phishing.save(["v1", "v2", "v2-dies-loading"], work)
        slow = replace(phishing.version("v2"), faults={"slow": {"extra_s": 2.0}})
        artifacts.save(slow, work / "slow")
        for number in range(1, options.rounds + 1):
            for found in one_round(work, work / "ray.log"):
                records += [stamp | {"round": number} | row for row in found]
                print(*found, sep="\n", flush=True)
                write(records, options.out)


if __name__ == "__main__":
    main()
