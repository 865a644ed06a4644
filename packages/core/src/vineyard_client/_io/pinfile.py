"""Marks that other processes on the host can see and that the kernel takes away from a process that dies.

The server marks blobs in use by connection, but it numbers the connections of its IPC socket and those of its RPC port
from zero each and keeps their marks in one table: an RPC client that disconnects takes away the marks of the IPC client
with its number (0.14.8 to 0.24.2; ``next_conn_id_`` in ``socket_server.h``). So every mark is held a second time, as a
read lock on one byte of the file ``SOCKET.pins``, whose offset is the blob's id.

The locks are "open file description" locks (man 2 fcntl): they belong to the open file, not to the process, so threads
and several clients in a process do not disturb each other, and a forked child shares them. They cost no memory in the
file, which stays empty. Where the file cannot be had (a folder that is not writable, a system without such locks), the
server's marks remain.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
import struct
import sys
from typing import Optional

from .fds import OwnedFD

__all__ = ["PinFile"]

log = logging.getLogger("vineyard_client.io")

# fcntl.h; Python has the names from 3.9 on.
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37

# struct flock: l_type, l_whence, l_start, l_len, l_pid (which must be 0).
_FLOCK = struct.Struct("@hhqqi4x")

# Offsets are signed: the highest bit, which tells a blob, goes, and the one below it must not be set with it.
_OFFSETS = (1 << 62) - 1


class PinFile:
    """Marks on blobs, held by one open file."""

    def __init__(self, file: OwnedFD) -> None:
        self._file = file

    @classmethod
    def open(cls, path: str) -> Optional[PinFile]:
        """Open the file, and make it if need be; return None where that is not possible."""
        if not sys.platform.startswith("linux"):
            return None
        try:
            file = OwnedFD(_open(path))
        except OSError as error:
            log.debug("no pins in %s: %s", path, error.strerror)
            return None
        status = os.fstat(file.fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            # In a folder that others can write to somebody may have put a name of another file there.
            log.warning("no pins in %s: it is not a file of its own", path)
            file.close()
            return None
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o666:
            os.fchmod(file.fd, 0o666)  # whoever may use the socket may pin, whatever our umask
        return cls(file)

    def hold(self, blob: int) -> None:
        """Mark a blob."""
        self._set(fcntl.F_RDLCK, blob)

    def drop(self, blob: int) -> None:
        """Take this file's mark from a blob."""
        self._set(fcntl.F_UNLCK, blob)

    def held_by_others(self, blob: int) -> bool:
        """Tell whether a blob is marked through another open file."""
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, blob & _OFFSETS, 1, 0)
        answer = fcntl.fcntl(self._file.fd, _F_OFD_GETLK, asked)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _set(self, kind: int, blob: int) -> None:
        fcntl.fcntl(self._file.fd, _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, blob & _OFFSETS, 1, 0))

    def close(self) -> None:
        """Close the file; its marks fall unless a forked child has it too. Idempotent."""
        self._file.close()


def _open(path: str) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        # In a folder like /tmp the kernel may refuse O_CREAT for a file of another user (fs.protected_regular).
        return os.open(path, flags)
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, 0o666)
