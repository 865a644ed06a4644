"""One server per socket path, whoever comes first; and its end.

A lock file beside the socket (``PATH.lock``, flock) is held while one process looks whether somebody listens and starts
a server if nobody does; everybody else waits for the lock and then finds it listening. The kernel drops the lock of a
process that dies. A socket file that nobody listens at any more is no obstacle: vineyardd replaces it.

Who may write to the folder can put links in the place of lock and log; they are not followed (``_io.beside``).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import Iterator, Optional, Sequence, Tuple

from .._io.beside import Beside, beside, require_sticky
from .._io.deadline import DEFAULT_TIMEOUT, Deadline
from .._io.unix import UnixStream
from .._store.connection import Connection
from ..exceptions import ConnectionFailed, ServerStartFailed
from .command import Size, server_command
from .listening import alive, credentials, listens
from .running import DETACHED, POLL, START_TIMEOUT, opened_log, read_pid, spawn, wait_ready

__all__ = ["STOP_TIMEOUT", "Mark", "ensure_server", "mark_of", "remove_socket", "start_lock", "stop_server"]

# Seconds. A server that is asked to end does so in some milliseconds, or hangs for a minute (seen with 0.24.2).
STOP_TIMEOUT = 2.0

Mark = Tuple[int, int, int]


@contextmanager
def start_lock(socket: str, deadline: Deadline, *, make: bool = True) -> Iterator[Beside]:
    """Hold the lock of a socket path; yield the folder that it is in.

    Args:
        socket: the path.
        deadline: for waiting.
        make: make the folder, if need be.

    Raises:
        ServerStartFailed: it cannot be had, or another process held it for so long.
    """
    import fcntl

    with ExitStack() as stack:
        try:
            if make:
                os.makedirs(os.path.dirname(os.path.realpath(socket)), mode=0o700, exist_ok=True)
            place = stack.enter_context(beside(socket))
            require_sticky(place.fd)
            file = place.open_file(".lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise ServerStartFailed(
                f"A server cannot be started at {socket}: {socket}.lock: {error.strerror}.",
                "Choose a folder you can write to.",
            ) from error
        stack.callback(os.close, file)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.expired:
                    raise ServerStartFailed(
                        f"Another process has been starting the server at {socket} for {deadline.timeout} s.",
                        f"See who holds {socket}.lock (fuser), and {socket}.log.",
                    ) from None
                time.sleep(POLL)
        yield place


def mark_of(socket: str, place: Optional[Beside] = None) -> Optional[Mark]:
    """Return what tells the file at a socket path from those that come after it; None if there is none.

    An inode's number is used again, but not with the same time.
    """
    try:
        status = os.stat(place.name("") if place else socket, dir_fd=place.fd if place else None)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def remove_socket(socket: str, place: Beside, mark: Optional[Mark]) -> None:
    """Remove a socket, unless another one is at the path now; the path's lock must be held."""
    if mark is not None and mark_of(socket, place) == mark:
        with suppress(OSError):  # one that nobody listens at is no obstacle to the next server
            os.unlink(place.name(""), dir_fd=place.fd)


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
    # A link is followed, so that whoever starts the server by the other path has the same lock and the same server.
    socket = os.path.realpath(socket) if os.path.islink(socket) else os.path.abspath(socket)
    command = server_command(socket, size=size, reserve_memory=reserve_memory, options=options)
    deadline = Deadline(timeout)
    with start_lock(socket, deadline) as place:
        if listens(socket):
            return False
        with opened_log(place, socket) as log:
            with spawn(DETACHED, log, command) as shell:
                pid = read_pid(shell)
            wait_ready(socket, pid, log, deadline)
    return True


def stop_server(socket: str, *, timeout: float = STOP_TIMEOUT) -> int:
    """End the server that listens at the path; what it stored is gone with it.

    vineyardd removes the file at its path when it is asked to end, even if that is another server's by then. So nobody
    is let start one there before this one has ended.

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
    mark = mark_of(socket)
    stream = UnixStream.connect(socket, Deadline(DEFAULT_TIMEOUT))
    pid = stream.peer_pid
    Connection(stream, timeout=DEFAULT_TIMEOUT, **credentials()).close()
    if pid <= 0:
        raise ConnectionFailed(
            f"vineyardd at {socket} runs where this process cannot see it.", "End it in its own container or host."
        )
    with ExitStack() as stack:
        place: Optional[Beside] = None
        with suppress(ServerStartFailed):  # who may not start a server there may still end one
            place = stack.enter_context(start_lock(socket, Deadline(timeout), make=False))
        alone = mark_of(socket) == mark
        _end(socket, pid, timeout, [signal.SIGTERM, signal.SIGKILL] if alone else [signal.SIGKILL])
        if place is not None:
            remove_socket(socket, place, mark)
    return pid


def _end(socket: str, pid: int, timeout: float, requests: Sequence[int]) -> None:
    for request in requests:
        try:
            os.kill(pid, request)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise ConnectionFailed(
                f"vineyardd at {socket} is process {pid} of another user.", "Let that user end it."
            ) from error
        deadline = Deadline(timeout)
        while not deadline.expired:
            if not alive(pid):
                return
            time.sleep(POLL)
