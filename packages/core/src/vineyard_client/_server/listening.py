"""Whether somebody listens at a socket path, and whether a process runs."""

from __future__ import annotations

import os
from typing import Dict

from .._io.deadline import DEFAULT_TIMEOUT, Deadline
from .._io.unix import UnixStream, is_socket
from .._store.connection import Connection
from ..exceptions import ConnectionFailed, ServerStartFailed

__all__ = ["alive", "credentials", "listens", "open_connection", "require_free"]


def open_connection(socket: str, timeout: float) -> Connection:
    return Connection(UnixStream.connect(socket, Deadline(timeout)), timeout=timeout, **credentials())


def credentials(username: str = "", password: str = "") -> Dict[str, str]:
    """Return the user name and password that were given, else those in the environment."""
    if not username:
        username, password = os.environ.get("VINEYARD_USERNAME", ""), os.environ.get("VINEYARD_PASSWORD", "")
    return {"username": username, "password": password}


def listens(socket: str) -> bool:
    """Whether anything accepts connections at the path; what it is, shows when one registers.

    Raises:
        ConnectionFailed: something is there that no server could replace, such as a file or another user's socket.
    """
    try:
        UnixStream.connect(socket, Deadline(DEFAULT_TIMEOUT)).close()
    except ConnectionFailed as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        if missing or (isinstance(error.__cause__, ConnectionRefusedError) and is_socket(socket)):
            return False
        raise
    return True


def require_free(socket: str) -> None:
    """Return if a server could listen at the path.

    Raises:
        ServerStartFailed: one does already.
        ConnectionFailed: there is something else.
    """
    if listens(socket):
        raise ServerStartFailed(f"A server listens at {socket} already.", "Connect to it, or choose another path.")


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not.

    Its first thread may have ended while others still have its sockets open.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            ended = file.read().rpartition(")")[2].split()[0] in "ZX"
        return not ended or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
