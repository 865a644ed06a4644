"""One server per socket path, whoever comes first; and its end.

A lock file beside the socket (``PATH.lock``, flock) is held while one process looks whether somebody listens and starts
a server if nobody does; everybody else waits for the lock and then finds it listening. The kernel drops the lock of a
process that dies. A socket file that nobody listens at any more is no obstacle: vineyardd replaces it.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from typing import Iterator, Sequence

from .._io.deadline import DEFAULT_TIMEOUT, Deadline
from .._io.unix import UnixStream
from .._store.connection import Connection
from ..exceptions import ConnectionFailed, ServerStartFailed
from .command import Size, server_command
from .listening import alive, credentials, listens
from .running import DETACHED, POLL, START_TIMEOUT, read_pid, spawn, wait_ready

__all__ = ["STOP_TIMEOUT", "ensure_server", "start_lock", "stop_server"]

# Seconds. A server that is asked to end does so in some milliseconds, or hangs for a minute (seen with 0.24.2).
STOP_TIMEOUT = 2.0


@contextmanager
def start_lock(socket: str, deadline: Deadline) -> Iterator[None]:
    import fcntl

    path = socket + ".lock"
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ServerStartFailed(
            f"A server cannot be started at {socket}: {path}: {error.strerror}.", "Choose a folder you can write to."
        ) from error
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.expired:
                    raise ServerStartFailed(
                        f"Another process has been starting the server at {socket} for {deadline.timeout} s.",
                        f"See who holds {path} (fuser), and {socket}.log.",
                    ) from None
                time.sleep(POLL)
        yield
    finally:
        os.close(file)


def ensure_server(
    socket: str,
    *,
    size: Size = None,
    reserve_memory: bool = False,
    options: Sequence[str] = (),
    timeout: float = START_TIMEOUT,
) -> bool:
    """Return when a server listens at the path; start one if nobody does.

    Any number of processes may call this at once: one server is started. It goes on running when they end, until
    ``stop_server`` or ``vineyard-client stop`` ends it.

    Args:
        socket: path of the IPC socket; its folder is made if needed, for this user only.
        size: of the store, if one is started: bytes or a text such as ``"2Gi"``; None is half of the memory there is.
        reserve_memory: touch all of the memory at the start.
        options: further options of vineyardd, such as ``--rpc=true``.
        timeout: seconds.

    Returns:
        Whether it was started; one that listens already keeps the size and options that it has.

    Raises:
        ServerStartFailed: there is no vineyardd for this platform, or it did not become ready.
        ConnectionFailed: there is something else at the path, or it is too long.
        ValueError: the size is none, or more than the memory there is.
    """
    if listens(socket):
        return False
    socket = os.path.abspath(socket)
    command = [*server_command(socket, size=size, reserve_memory=reserve_memory), *options]
    deadline = Deadline(timeout)
    with start_lock(socket, deadline):
        if listens(socket):
            return False
        log = socket + ".log"
        with spawn(DETACHED, log, command) as shell:
            pid = read_pid(shell)
        wait_ready(socket, pid, log, deadline)
    return True


def stop_server(socket: str, *, timeout: float = STOP_TIMEOUT) -> int:
    """End the server that listens at the path; what it stored is gone with it.

    Args:
        socket: path of the IPC socket.
        timeout: seconds it may take to end by itself before it is killed.

    Returns:
        The process id that it had.

    Raises:
        ConnectionFailed: nobody listens there, or the process may not be ended by this user.
        ProtocolError: what listens there is not vineyardd; it is left alone.
        UnsupportedVersion: it is older than this package knows; it is left alone, too.
    """
    stream = UnixStream.connect(socket, Deadline(DEFAULT_TIMEOUT))
    pid = stream.peer_pid
    Connection(stream, timeout=DEFAULT_TIMEOUT, **credentials()).close()
    if pid <= 0:
        raise ConnectionFailed(
            f"vineyardd at {socket} runs where this process cannot see it.", "End it in its own container or host."
        )
    for request in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, request)
        except ProcessLookupError:
            return pid
        except PermissionError as error:
            raise ConnectionFailed(
                f"vineyardd at {socket} is process {pid} of another user.", "Let that user end it."
            ) from error
        deadline = Deadline(timeout)
        while not deadline.expired:
            if not alive(pid):
                return pid
            time.sleep(POLL)
    return pid
