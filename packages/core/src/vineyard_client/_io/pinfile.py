"""Marks that other processes on the host can see and that the kernel takes away from a process that dies.

The server marks blobs in use by connection, but it numbers the connections of its IPC socket and those of its RPC port
from zero each and keeps their marks in one table: an RPC client that disconnects takes away the marks of the IPC client
with its number (0.14.8 to 0.24.2; ``next_conn_id_`` in ``socket_server.h``). So every mark is held a second time, as a
read lock on one byte of *the file behind the store's memory*, whose offset is the blob's id.

Why that file: the server hands it to whoever is connected, so all of them have the same one, by whatever path they came
to the socket (a symbolic link, a mount of the socket alone, another container), and nobody can remove or replace it.
Its name in the file system does not exist, so it takes no room anywhere and no rights but those to the socket.

The locks are "open file description" locks (man 2 fcntl): they belong to the open file, not to the process, so threads
and several clients in a process do not disturb each other, and a forked child shares them. What the server sends is one
open file for everybody, whose locks would be everybody's; so the file is opened anew, through /proc (man 5 proc). They
change nothing in the memory and may lie beyond its end. Where they cannot be had (another system, no /proc), the
server's marks remain.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import sys
import time
from contextlib import contextmanager
from typing import Callable, Iterator, Optional

from ..exceptions import ConnectionFailed
from .deadline import Deadline
from .fds import OwnedFD
from .parting import setting

__all__ = ["LEDGER", "PinFile", "lock_byte", "one_at_a_time"]

log = logging.getLogger("vineyard_client.io")

# fcntl.h; Python has the names from 3.9 on.
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37

# struct flock: l_type, l_whence, l_start, l_len, l_pid (which must be 0).
_FLOCK = struct.Struct("@hhqqi4x")

# Offsets are signed: the highest bit, which tells a blob, goes, and the one below it must not be set with it.
_OFFSETS = (1 << 62) - 1

# Beyond all of them: the bytes that who makes room, and who rewrites the ledger, lock against the others.
_ROOM = 1 << 62
LEDGER = _ROOM + 1

_POLL = 0.01


class PinFile:
    """Marks on blobs, held by one open file."""

    def __init__(self, file: OwnedFD) -> None:
        self._file = file

    @classmethod
    def of(cls, memory: int, owner: Optional[OwnedFD] = None) -> Optional[PinFile]:
        """Open a file of our own on the store's memory; return None where that, or locking it, is not possible.

        Args:
            memory: the file descriptor that the server sent; it stays the caller's.
            owner: who owns ours from the moment when it is there; by default a new one.
        """
        if not sys.platform.startswith("linux"):
            return None
        try:
            owner = OwnedFD() if owner is None else owner
            made = cls(owner.take(os.open, f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            log.debug("no pins on the store's memory: %s", error.strerror)
            return None
        try:
            made.held_by_others(0)
        except OSError as error:  # a sandbox whose kernel does not know these locks
            log.debug("no pins on the store's memory: %s", error.strerror)
            made.close()
            return None
        return made

    def hold(self, blob: int) -> None:
        """Mark a blob.

        Raises:
            ConnectionFailed: the system refused, or somebody locks this byte against all others.
        """
        try:
            self._set(fcntl.F_RDLCK, blob)
        except OSError as error:
            raise ConnectionFailed(
                f"The system refused a mark on the store's memory: {error.strerror}.",
                "See who holds a write lock on it (lslocks): no client of this package does.",
            ) from error

    def drop(self, blob: int) -> None:
        """Take this file's mark from a blob."""
        self._set(fcntl.F_UNLCK, blob)

    def dropping(self, blob: int) -> Callable[[], object]:
        """Return a function that does ``drop`` where no Python code may run."""
        return setting(self._file.fd, _F_OFD_SETLK, _lock(fcntl.F_UNLCK, blob))

    def held_by_others(self, blob: int) -> bool:
        """Tell whether a blob is marked through another open file."""
        answer = fcntl.fcntl(self._file.fd, _F_OFD_GETLK, _lock(fcntl.F_WRLCK, blob))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _set(self, kind: int, blob: int) -> None:
        fcntl.fcntl(self._file.fd, _F_OFD_SETLK, _lock(kind, blob))

    def close(self) -> None:
        """Close the file; its marks fall unless a forked child has it too. Idempotent."""
        self._file.close()


@contextmanager
def one_at_a_time(memory: Optional[int], deadline: Deadline) -> Iterator[None]:
    """Do what is in the block while nobody else does, on any path to the store; wait for others until the deadline.

    Where there is no lock to be had, or not in time, it is done all the same: it must be right without, too.

    Args:
        memory: the file descriptor that the server sent, if it has sent one.
        deadline: for waiting.
    """
    file = OwnedFD()
    if memory is not None and sys.platform.startswith("linux"):
        try:
            file.take(os.open, f"/proc/self/fd/{memory}", os.O_RDWR | os.O_CLOEXEC)
            while not lock_byte(file.fd, _ROOM) and not deadline.expired:
                time.sleep(_POLL)
        except OSError as error:
            log.debug("no lock on the store's memory: %s", error.strerror)
    try:
        yield
    finally:
        file.close()


def lock_byte(file: int, byte: int) -> bool:
    """Lock a byte against all others, who have opened the file anew as well; return whether that worked.

    Raises:
        OSError: there are no such locks.
    """
    try:
        fcntl.fcntl(file, _F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
    except (BlockingIOError, PermissionError):  # either, says man 2 fcntl
        return False
    return True


def _lock(kind: int, blob: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, blob & _OFFSETS, 1, 0)
