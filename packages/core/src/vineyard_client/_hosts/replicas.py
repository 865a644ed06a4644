"""Which values of other hosts have a replica in the store here: one file per value, beside the socket.

The folder ``SOCKET.replicas`` has a file for each such value, named by its token. Whoever brings the value here holds
the lock of its file (flock, which falls with a process that dies); the others wait for it. Afterwards the file has the
replica's id. That is a note and not a promise: who reads it looks whether the token is still behind the id.

If it could not be brought here, the file says why and is unlinked. Those who were waiting have it open, and fail with
the same words instead of trying one after the other; who comes later finds no file and tries anew.

The socket is open to all users of the host (vineyardd makes it so), hence so is the folder; what is in the files is not
trusted.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import Any, Dict, Iterator, List, Optional

from .._io.deadline import Deadline
from ..exceptions import InvalidReference, MigrationFailed
from ..ids import format_id, is_token, parse_id

__all__ = ["Busy", "Claim", "Replicas"]

log = logging.getLogger("vineyard_client.migration")

_POLL = 0.01

# Bytes: an id, or the words of an error.
_MAX_RECORD = 1 << 16

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Busy(MigrationFailed):
    """Somebody else holds the lock of a value's file."""


class Claim:
    """The file of one value, locked by us."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self._path = path

    @property
    def number(self) -> Optional[int]:
        """The id that the file has, if it has one."""
        return _number(_read(self._fd))

    def record(self, number: int) -> None:
        """Write the replica's id into the file, and let go of the lock: the others need not wait any longer.

        Raises:
            MigrationFailed: that is not possible.
        """
        try:
            self._write({"id": format_id(number)})
        except OSError as error:
            raise _cannot_record(self._path, error) from error
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def fail(self, error: MigrationFailed) -> None:
        """Remove the file, and tell those who wait for it why."""
        with suppress(OSError):  # then they try themselves
            self._write({"what": error.what, "hint": error.hint})
        self.remove()

    def remove(self) -> None:
        """Remove the file."""
        try:
            with suppress(FileNotFoundError):
                os.unlink(self._path)
        except OSError as error:
            # It is another user's, in a folder where only the owner may unlink.
            log.debug("cannot remove %s: %s", self._path, error)
            os.ftruncate(self._fd, 0)

    def _write(self, record: Dict[str, str]) -> None:
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(record).encode(), 0)


class Replicas:
    """The files of one store.

    Args:
        socket: path of its IPC socket.
    """

    def __init__(self, socket: str) -> None:
        self._folder = socket + ".replicas"

    def number(self, token: str) -> Optional[int]:
        """Return the id of the replica of a value as its file has it, without waiting."""
        try:
            fd = os.open(os.path.join(self._folder, token), os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.debug("cannot see whether there is a replica of %s: %s", token, error)
            return None
        try:
            return _number(_read(fd))
        finally:
            os.close(fd)

    def has(self, token: str) -> bool:
        """Tell whether there is a file for a value, with or without an id in it."""
        return os.path.exists(os.path.join(self._folder, token))

    def tokens(self) -> List[str]:
        """Return the tokens of all values that have a file."""
        try:
            return [name for name in os.listdir(self._folder) if is_token(name)]
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.debug("cannot list the replicas: %s", error)
            return []

    @contextmanager
    def claim(self, token: str, wait: float) -> Iterator[Claim]:
        """Hold the lock of a value's file, which is made if need be.

        Args:
            token: the value's.
            wait: seconds to wait for another process that holds it.

        Raises:
            Busy: it held it for longer than that.
            MigrationFailed: it failed while we waited; or the file cannot be had.
        """
        path = os.path.join(self._folder, token)
        fd = self._locked(path, Deadline(wait))
        try:
            yield Claim(fd, path)
        finally:
            # A child that was forked meanwhile has the lock as well: closing would leave it to the child.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _locked(self, path: str, deadline: Deadline) -> int:
        while True:
            fd = self._open(path)
            try:
                while not _lock(fd):
                    if deadline.expired:
                        raise Busy(
                            f"Another process has been bringing the same value here for {deadline.timeout:.0f} s.",
                            f"See who holds {path} (fuser), and whether it makes progress.",
                        )
                    time.sleep(_POLL)
                if _is_at(fd, path):
                    locked, fd = fd, -1
                    return locked
                failure = _read(fd)  # it was unlinked while we waited
                if failure.get("what"):
                    raise MigrationFailed(str(failure["what"]), str(failure.get("hint", "")))
            finally:
                if fd >= 0:
                    os.close(fd)

    def _open(self, path: str) -> int:
        try:
            try:
                # In a folder open to all the kernel may refuse O_CREAT for a file of another user.
                fd = os.open(path, os.O_RDWR | _FLAGS)
            except FileNotFoundError:
                self._make_folder()
                fd = os.open(path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
        except OSError as error:
            raise _cannot_record(path, error) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(fd)
            raise MigrationFailed(f"A replica cannot be recorded at {path}: it is not a file of its own.", "Remove it.")
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o666:
            os.fchmod(fd, 0o666)  # whatever our umask
        return fd

    def _make_folder(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(self._folder)
            os.chmod(self._folder, 0o1777)


def _cannot_record(path: str, error: OSError) -> MigrationFailed:
    return MigrationFailed(
        f"A replica cannot be recorded at {path}: {error.strerror}.",
        "Let this user write to the socket's folder, or read without a replica: get(ref, replica=False).",
    )


def _read(fd: int) -> Dict[str, Any]:
    try:
        record = json.loads(os.pread(fd, _MAX_RECORD, 0))
    except (OSError, ValueError, RecursionError):  # empty, or half written
        return {}
    return record if isinstance(record, dict) else {}


def _number(record: Dict[str, Any]) -> Optional[int]:
    try:
        return parse_id(record.get("id", ""))
    except (InvalidReference, TypeError):
        return None


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(fd: int, path: str) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
