"""Which values of other hosts have a replica in the store here: one file per value, beside the socket.

The folder ``SOCKET.replicas`` (which of several paths to the socket: ``_io.beside``) has a file for each such value,
named by its token. Whoever brings the value here holds the lock of its file (flock, which falls with a process that
dies); the others wait for it. Afterwards the file has the replica's id. That is a note and not a promise: who reads it
looks whether the token is still behind the id.

If it could not be brought here, the file says why and is unlinked. Those who were waiting have it open, and fail with
the same words instead of trying one after the other; who comes later finds no file and tries anew.

The socket is open to all users of the host (vineyardd makes it so), hence so is the folder. What is in the files is not
trusted, and nothing is removed that is not a note of ours. Where a process does not see the folder of the others, its
values of other hosts come here once more; the log says so.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .._io.beside import beside, open_file
from .._io.deadline import Deadline
from .._io.fds import OwnedFD
from ..exceptions import InvalidReference, MigrationFailed
from ..ids import format_id, is_token, parse_id

__all__ = ["Busy", "Claim", "Replicas"]

log = logging.getLogger("vineyard_client.migration")

_POLL = 0.01

# Bytes: an id, or the words of an error.
_MAX_RECORD = 1 << 16

_SUFFIX = ".replicas"


class Busy(MigrationFailed):
    """Somebody else holds the lock of a value's file."""


class Claim:
    """The file of one value, locked by us."""

    def __init__(self, fd: int, folder: int, path: str) -> None:
        self._fd = fd
        self._folder = folder
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
        """Remove the file, if it is a note."""
        if not _is_note(self._fd):
            log.warning("%s is no note of a replica: it is left alone", self._path)
            return
        try:
            if _is_at(self._fd, self._folder, os.path.basename(self._path)):
                os.unlink(os.path.basename(self._path), dir_fd=self._folder)
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
        socket: path by which this process comes to its IPC socket.
        told: the path that the server says it listens at.
    """

    def __init__(self, socket: str, told: str = "") -> None:
        self._socket = socket
        self._told = told

    @contextmanager
    def _folder(self, *, make: bool = False) -> Iterator[Tuple[int, str]]:
        """Open the folder; yield its descriptor and its path.

        Raises:
            OSError: it is not there, cannot be opened, or is not safe to use.
        """
        folder = OwnedFD()
        try:
            with beside(self._socket, self._told) as place:
                if not place.shared:
                    _say_not_shared(self._socket, self._told)
                fd, path = place.open_folder(_SUFFIX, make=make, owner=folder), place.path + _SUFFIX
            yield fd, path
        finally:
            folder.close()

    def number(self, token: str) -> Optional[int]:
        """Return the id of the replica of a value as its file has it, without waiting."""
        file = OwnedFD()
        try:
            with self._folder() as (folder, _):
                fd = open_file(folder, token, os.O_RDONLY, owner=file)
            return _number(_read(fd))
        except FileNotFoundError:
            return None
        except OSError as error:
            log.debug("cannot see whether there is a replica of %s: %s", token, error)
            return None
        finally:
            file.close()

    def has(self, token: str) -> bool:
        """Tell whether there is a file for a value, with or without an id in it."""
        try:
            with self._folder() as (folder, _):
                os.stat(token, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return False
        return True

    def tokens(self) -> List[str]:
        """Return the tokens of all values that have a file."""
        try:
            with self._folder() as (folder, _):
                return [name for name in os.listdir(folder) if is_token(name)]
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
        with ExitStack() as stack:
            try:
                folder, path = stack.enter_context(self._folder(make=True))
            except OSError as error:
                raise _cannot_record(os.path.join(self._socket + _SUFFIX, token), error) from error
            path = os.path.join(path, token)
            claimed: List[OwnedFD] = []
            try:
                fd = _locked(folder, token, path, Deadline(wait), claimed)
                yield Claim(fd, folder, path)
            finally:
                for file in claimed:
                    if file.open:
                        # A child that was forked meanwhile has the lock as well: closing would leave it to the child.
                        fcntl.flock(file.fd, fcntl.LOCK_UN)
                        file.close()


def _locked(folder: int, token: str, path: str, deadline: Deadline, claimed: List[OwnedFD]) -> int:
    """Return a value's file, locked; it is put among what is claimed, and belongs to that."""
    while True:
        file = OwnedFD()
        claimed.append(file)
        fd = _open(folder, token, path, file)
        done = False
        try:
            while not _lock(fd):
                if deadline.expired:
                    raise Busy(
                        f"Another process has been bringing the same value here for {deadline.timeout:.0f} s.",
                        f"See who holds {path} (fuser), and whether it makes progress.",
                    )
                time.sleep(_POLL)
            if _is_at(fd, folder, token):
                done = True
                return fd
            failure = _read(fd)  # it was unlinked while we waited
            if failure.get("what"):
                raise MigrationFailed(str(failure["what"]), str(failure.get("hint", "")))
        finally:
            if not done:
                file.close()


def _open(folder: int, token: str, path: str, file: OwnedFD) -> int:
    try:
        fd = open_file(folder, token, os.O_RDWR | os.O_CREAT, owner=file)
    except OSError as error:
        raise _cannot_record(path, error) from error
    status = os.fstat(fd)
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != 0o666:
        os.fchmod(fd, 0o666)  # whatever our umask
    return fd


@lru_cache(maxsize=16)
def _say_not_shared(socket: str, told: str) -> None:
    """Warn once."""
    log.warning(
        "The folder of %s is not the one that other users of the server have (it listens at %s): values of other hosts "
        "are brought here once more. Mount the folder, not the socket alone.",
        socket,
        told,
    )


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


def _is_at(fd: int, folder: int, name: str) -> bool:
    """Whether an open file is still the one of a name in a folder."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _is_note(fd: int) -> bool:
    """Whether a file is a note of ours, also one that has nothing in it yet."""
    return not os.fstat(fd).st_size or bool({"id", "what"} & _read(fd).keys())
