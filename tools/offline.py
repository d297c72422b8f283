"""Run a command with the network cut; only this machine's loopback is left.

    python tools/offline.py COMMAND ...

On Linux the command gets a network namespace of its own. Where the kernel refuses
that, and elsewhere, a socket guard makes every Python process refuse to connect
to another host. Which of the two is in force is printed first.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys
from pathlib import Path

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

NAMESPACE = "network cut by a namespace of its own"
GUARD = "network cut by a socket guard in Python"


def enter_namespace() -> bool:
    """Move this process into a network namespace with only loopback, if allowed."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None).unshare
    if unshare(CLONE_NEWNET) != 0:
        # Not root: a user namespace, in which this user keeps its name, may do it.
        user, group = os.getuid(), os.getgid()
        if unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            return False
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", IFF_UP)
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, request)
    return True


def guard_sockets(environment: dict[str, str]) -> None:
    """Make Python processes with this environment load ``socket_guard``."""
    guard = str(Path(__file__).resolve().parent / "socket_guard")
    paths = [guard, environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def main() -> None:
    """Cut the network, say how, and become the command."""
    command = sys.argv[1:]
    if not command:
        sys.exit(__doc__)
    environment = dict(os.environ)
    # LAB_OFFLINE=guard takes the guard also where a namespace is to be had.
    if environment.get("LAB_OFFLINE") != "guard" and enter_namespace():
        print(f"[offline] {NAMESPACE}", flush=True)
    else:
        guard_sockets(environment)
        print(f"[offline] {GUARD}", flush=True)
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
