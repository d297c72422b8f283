"""Refuse connections to other hosts; Python imports this at start-up.

In force where ``tools/offline.py`` puts this folder on the path. It sees what goes
through Python's ``socket`` module, which is how this book's tools connect.
"""

import ipaddress
import socket

_getaddrinfo = socket.getaddrinfo


def refuse_other_hosts(host: object) -> None:
    """Raise OSError unless ``host`` is this machine."""
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return
    name = host.decode() if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        address = None
    if address is None or not (address.is_loopback or address.is_unspecified):
        raise OSError(f"the network is cut: {name} is another host")


def guarded(name: str):
    """Return the socket method ``name``, which looks at the address first."""
    method = getattr(socket.socket, name)

    def call(self, *args):
        if self.family in (socket.AF_INET, socket.AF_INET6) and args:
            address = args[-1]  # sendto may have flags before it
            if isinstance(address, tuple):
                refuse_other_hosts(address[0])
        return method(self, *args)

    return call


def getaddrinfo(host, *args, **options):
    """Stand-in for ``socket.getaddrinfo``: asking a name server is a connection."""
    refuse_other_hosts(host)
    return _getaddrinfo(host, *args, **options)


for _name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, _name, guarded(_name))
socket.getaddrinfo = getaddrinfo
