"""TCP ports of this host for servers that tests start.

They are chosen below the range that the kernel gives to outgoing connections: none of those takes a port between its
being found free and the server's start. Nor does a test beside this one, as good as ever: each chooses at random.
"""

from __future__ import annotations

import contextlib
import random
import socket
from typing import List


def free_ports(count: int, *, above: int = 0) -> List[int]:
    """Return ports that nobody listens at, on any address.

    Args:
        count: how many.
        above: the ports by so much higher are to be free, too (SeaweedFS takes those ten thousand above for itself).
    """
    found: List[int] = []
    while len(found) < count:
        port = random.randrange(11_000, 22_000)
        if port not in found and _free(port) and _free(port + above):
            found.append(port)
    return found


def free_port() -> int:
    """Return a port that nobody listens at."""
    return free_ports(1)[0]


def listens(port: int) -> bool:
    """Tell whether somebody accepts connections at a port."""
    with contextlib.closing(socket.socket()) as sock:
        sock.settimeout(1)
        return sock.connect_ex(("127.0.0.1", port)) == 0


def _free(port: int) -> bool:
    with contextlib.closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True
