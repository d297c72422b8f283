"""A process behind the kernel's fences: namespaces, a root of its own, a CPU limit.

    with Box(["user", "pid", "net"]) as box:
        box.start(["python", "serve.py"])
        print(box.run(["ip", "address"]))

What the machine refuses raises `Refused`, with its own words. Nothing outlives a
box with the fence "pid": its first process reads from a pipe that its owner holds, and
ends with it. It holds what happens by accident, not a program that wants to get out:
inside one is root, with all that root may do there.
"""

import contextlib
import fcntl
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

FENCES = ("user", "pid", "uts", "net", "mount")
# Without the links above it, which a root of our own may not have.
PYTHON = str(Path(sys.prefix).resolve() / "bin" / "python")
CGROUPS = Path("/sys/fs/cgroup")
MANAGER = Path("/run/systemd/system")  # there while systemd runs the machine


class Refused(RuntimeError):
    """The machine does not let us; the message says what it said."""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


def unshare(fences: Sequence[str]) -> list[str]:
    """The command that puts what follows it behind these fences."""
    program = shutil.which("unshare")
    if not sys.platform.startswith("linux") or program is None:
        raise Refused("namespaces need Linux and the program unshare (util-linux)")
    command = [program]
    for fence in fences:
        command.append(f"--{fence}")
    if "user" in fences:
        command.append("--map-root-user")
    if "pid" in fences:  # the fence holds for children, so there has to be one
        command += ["--fork", "--kill-child"]
    return command


def probe() -> dict[str, str]:
    """What this machine allows: "yes", or its reason, for each fence."""
    found = {}
    for fence in FENCES:
        together = dict.fromkeys(["user", fence])  # a user namespace opens the others
        try:
            tried = subprocess.run(
                [*unshare(list(together)), "true"], capture_output=True, text=True
            )
        except (Refused, OSError) as error:
            found[fence] = str(error)
        else:
            found[fence] = _last_line(tried.stderr) if tried.returncode else "yes"
    try:
        with CpuLimit(0.5):
            found["cgroup: cpu"] = "yes"
    except Refused as error:
        found["cgroup: cpu"] = str(error)
    return found


class Box:
    """The first process of a container, and the door through which we send others.

    fences: names from `FENCES`. folders: with "mount", what its root holds: the path
    inside, and the folder of the machine that is seen there, read-only.
    """

    def __init__(
        self, fences: Sequence[str], folders: Mapping[str, Path] | None = None
    ) -> None:
        self.fences, self.folders = list(fences), folders

    def __enter__(self) -> "Box":
        with contextlib.ExitStack() as stack:
            command = [*unshare(self.fences), sys.executable, __file__]
            if self.folders is not None:
                root = stack.enter_context(tempfile.TemporaryDirectory(prefix="box-"))
                command.append(root)
                command += [f"{inside}={at}" for inside, at in self.folders.items()]
            self.first = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # closed when we end, whatever ends us
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.callback(self._end)
            if self.first.stdout.readline() != "up\n":
                self.first.stdin.close()
                raise Refused(_last_line(self.first.stderr.read()))
            self.pid = self.first.pid  # unshare's, or that of its child
            if "pid" in self.fences:
                self.pid = psutil.Process(self.pid).children()[0].pid
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        self.first.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.first.wait(5)
        self.first.kill()
        self.first.wait()
        self.first.stdout.close()
        self.first.stderr.close()

    def enter(self, command: Sequence[str]) -> list[str]:
        """The command that does another one inside."""
        flags = [f"--{fence}" for fence in self.fences]
        if "user" in self.fences:
            flags.append("--preserve-credentials")
        if self.folders is not None:
            flags += ["--root", "--wd=/"]
        return ["nsenter", f"--target={self.pid}", *flags, "--", *command]

    def run(self, command: Sequence[str], timeout_s: float = 90) -> str:
        """What the command prints inside; its errors count as output."""
        done = subprocess.run(
            self.enter(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        return done.stdout.strip()

    def python(self, code: str) -> str:
        """What this Python program prints inside."""
        return self.run([PYTHON, "-c", code])

    def start(self, command: Sequence[str]) -> None:
        """Start it inside, as a child of the first process."""
        self.first.stdin.write("\0".join(command) + "\n")
        self.first.stdin.flush()


# -- inside ------------------------------------------------------------------------


def first_process(root: str = "", *folders: str) -> None:
    """Make the root, bring up the loopback device, start what comes, end with it."""
    if root:
        enter_root(Path(root), dict(one.split("=", 1) for one in folders))
    with contextlib.suppress(OSError):  # without the net fence it is up already
        loopback(up=True)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    children = []
    for line in sys.stdin:  # until the owner is gone
        children.append(
            subprocess.Popen(line.rstrip("\n").split("\0"), stdin=subprocess.DEVNULL)
        )
    for child in children:
        child.kill()
        child.wait()


def loopback(up: bool) -> None:
    """Set the device `lo` of this network namespace up or down."""
    get_flags, set_flags, is_up = 0x8913, 0x8914, 1  # linux/sockios.h, net/if.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(asking, get_flags, request))[1]
        flags = flags | is_up if up else flags & ~is_up
        fcntl.ioctl(asking, set_flags, struct.pack("16sh14x", b"lo", flags))


def enter_root(root: Path, folders: Mapping[str, str]) -> None:
    """Make `root`, of these folders and nothing else, the root of this process."""

    def mount(*words: str) -> None:
        subprocess.run(["mount", *words], check=True)

    mount("--make-rprivate", "/")  # what is mounted from here on, nobody else sees
    mount("-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs", str(root))
    for inside, at in folders.items():
        place = root / inside.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        mount("--bind", at, str(place))
        mount("-o", "remount,bind,ro", str(place))
    for name in ("null", "urandom"):
        place = root / "dev" / name
        place.parent.mkdir(exist_ok=True)
        place.touch()
        mount("--bind", f"/dev/{name}", str(place))
    for name in ("tmp", "proc"):  # one of the folders may lie in there
        (root / name).mkdir(exist_ok=True)
    mount("-t", "proc", "proc", str(root / "proc"))
    os.chroot(root)  # root can leave it again; an engine takes pivot_root
    os.chdir("/")


# -- limits ------------------------------------------------------------------------


def own_groups() -> dict[str, str]:
    """The control group of this process for each controller; "" for version 2."""
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


class CpuLimit:
    """A control group below the machine's root group that may use so many CPUs."""

    def __init__(self, cpus: float, period_us: int = 100_000) -> None:
        try:
            groups = own_groups()
        except OSError as error:
            raise Refused(f"there are no control groups: {error}") from error
        old = "cpu" in groups
        self.parent = CGROUPS / "cpu" if old else CGROUPS
        # One writer for each group: what another program manages is left alone.
        if (owner := groups.get("cpu", groups.get(""))) != "/":
            raise Refused(f"our group {owner} is managed by another program")
        if MANAGER.exists():
            raise Refused("the groups are managed by systemd")
        if not old and "cpu" not in (
            (self.parent / "cgroup.subtree_control").read_text().split()
        ):
            raise Refused("the controller cpu is not handed on to groups below ours")
        quota_us = int(cpus * period_us)
        self.settings = {"cpu.max": f"{quota_us} {period_us}"}
        if old:
            self.settings = {
                "cpu.cfs_period_us": f"{period_us}",
                "cpu.cfs_quota_us": f"{quota_us}",
            }

    def __enter__(self) -> "CpuLimit":
        self.folder = self.parent / f"deploylab-{os.getpid()}-{id(self)}"
        try:
            self.folder.mkdir()
            for name, value in self.settings.items():
                (self.folder / name).write_text(value)
        except OSError as error:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
            raise Refused(f"{error.strerror}: {error.filename}") from error
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in (self.folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                (self.parent / "cgroup.procs").write_text(pid)
        self.folder.rmdir()

    def hold(self, pids: Sequence[int]) -> None:
        """Put these processes under the limit."""
        for pid in pids:
            (self.folder / "cgroup.procs").write_text(str(pid))

    def throttled(self) -> int:
        """In how many periods its processes had to stop and wait for the next."""
        lines = (self.folder / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["nr_throttled"])


def run_with_memory(mib: int, command: Sequence[str]) -> tuple[str, int, str]:
    """Run it with so much memory: who held the limit, its exit code, its output.

    A control group where systemd makes one for us, or else the limit on addresses
    that every process has (`ulimit -v`). macOS refuses that one: there nobody holds.
    """
    group = ["systemd-run", "--user", "--scope", "--quiet"]
    group += [f"--property=MemoryMax={mib}M", "--property=MemorySwapMax=0", "--"]
    try:
        held = not subprocess.run([*group, "true"], capture_output=True).returncode
    except OSError:
        held = False
    limited = not held and sys.platform.startswith("linux")

    def limit_addresses() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (mib * 2**20, mib * 2**20))

    done = subprocess.run(
        [*group, *command] if held else command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit_addresses if limited else None,
    )
    own = "the process's own limit" if limited else "nobody"
    who = "a control group" if held else own
    return who, done.returncode, done.stdout.strip()


@contextlib.contextmanager
def or_reason() -> Iterator[None]:
    """Say what was refused, and go on."""
    try:
        yield
    except Refused as refused:
        print(f"refused here: {refused}")


if __name__ == "__main__":
    first_process(*sys.argv[1:])
