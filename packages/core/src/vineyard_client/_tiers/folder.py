"""A tier that is a folder: written by whoever puts, and mapped instead of loaded, so that the page cache is the memory.

A file appears under its name when it is whole (``NAME.PID.RANDOM.tmp``, then a rename), and is never changed or
truncated afterwards: who has it mapped keeps what it maps, also when the file is replaced or deleted. What a killed
writer leaves is swept when it is a day old.

On a network's file system nothing is mapped: a file that another host deletes would take its pages away under a reader,
whose process the kernel would end. There it is loaded.

Files are for their owner alone (0600, folders 0700), whatever the umask; where a group may write,
``sharing`` has what holds.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress
from typing import Callable, Iterable, Iterator, Optional, Sequence

from .._io.fds import OwnedFD
from .._io.mapping import write_all
from ..exceptions import ObjectCorrupted, ObjectNotFound, TierFailed, TierFull, TierRefused, TierUnavailable
from ..ids import is_token
from .contract import Chunk, Entry, Write
from .keys import is_key, make_key
from .sharing import share

__all__ = ["FolderTier", "file_system", "is_remote", "require_disk", "write_file"]

# Bytes read at a time when a file is loaded.
_PIECE = 1 << 20

# How often a folder is made that others remove, because it is empty, before a file is in it.
_TRIES = 100

# Seconds after which a temporary file counts as left by a killed writer.
_STALE = 86_400.0

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW

# File systems whose files another host may delete.
_REMOTE = {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
}


class FolderTier:
    """Files below one folder.

    Args:
        path: the folder; it is made, for this user only, when something is saved.
        reserve: which share of its file system stays free, from 0 to 1; below that it counts as full.
        sync: whether a file is on the disk, and not only in the kernel's memory, when ``save`` returns.
    """

    def __init__(self, path: str, *, reserve: float = 0.0, sync: bool = False) -> None:
        self.path = os.path.abspath(path)
        self.url = self.path
        self._reserve = reserve
        self._sync = sync
        self._remote: Optional[bool] = None

    def __repr__(self) -> str:
        """Show the path."""
        return f"<FolderTier {self.path}>"

    def _file(self, key: str) -> str:
        if not is_key(key):
            raise ValueError(f"{key!r:.200} is no key")
        return os.path.join(self.path, *key.split("/"))

    def save(self, key: str, chunks: Sequence[Chunk]) -> None:
        """Store chunks, one behind the other, as one file; it appears whole or not at all.

        Raises:
            TierFull: the disk, or what may be used of it, is full.
            TierRefused: this user may not write there.
            TierUnavailable: the disk fails.
        """
        path = self._file(key)

        def write() -> None:
            require_disk(self.path, sum(memoryview(chunk).nbytes for chunk in chunks), self._reserve)
            write_file(path, chunks, sync=self._sync)

        with self._errors(f"A value cannot be saved in {self.path}", missing=True):
            self._in_folder(path, write)

    def _in_folder(self, path: str, write: Callable[[], None]) -> None:
        """Have a file written; again if somebody deletes the last file in its folder meanwhile."""
        for attempt in range(_TRIES):
            _make_folders(self.path, os.path.dirname(path))
            try:
                return write()
            except FileNotFoundError:
                if attempt == _TRIES - 1:
                    raise

    def load(self, key: str, size: int, write: Write) -> None:
        """Hand over the bytes of a file.

        Raises:
            ObjectNotFound: there is none.
            ObjectCorrupted: it has another length.
            TierUnavailable: the disk fails.
        """
        file = self._open(key, size)
        try:
            buffer = memoryview(bytearray(min(_PIECE, size)))
            done = 0
            while done < size:
                with self._errors(f"{key} cannot be read from {self.path}"):
                    count = os.preadv(file.fd, [buffer], done)
                if not count:
                    raise _short(self.path, key, done, size)
                write(done, buffer[:count])
                done += count
        finally:
            file.close()

    def open(self, key: str, size: int) -> Optional[int]:
        """Return a descriptor of the file; None where files must not be mapped."""
        file = self.open_file(key, size)
        try:
            return None if file is None else os.dup(file.fd)
        finally:
            if file is not None:
                file.close()

    def open_file(self, key: str, size: int) -> Optional[OwnedFD]:
        """Return the open file, with an owner; None where files must not be mapped."""
        if self._remote is None:
            self._remote = is_remote(self.path)
        file = self._open(key, size)
        if self._remote:
            file.close()
            return None
        return file

    def _open(self, key: str, size: int) -> OwnedFD:
        try:
            with self._errors(f"{key} cannot be read from {self.path}"):
                file = OwnedFD().take(os.open, self._file(key), _READ)
        except FileNotFoundError as error:
            raise ObjectNotFound(f"There is no {key} in {self.path}.") from error
        status = os.fstat(file.fd)
        if status.st_size != size or not stat.S_ISREG(status.st_mode):
            file.close()
            raise _short(self.path, key, status.st_size, size)
        return file

    def size(self, key: str) -> Optional[int]:
        """Return the length of a file; None if there is none."""
        with self._errors(f"{self.path} cannot be looked into"):
            try:
                status = os.stat(self._file(key), follow_symlinks=False)
            except FileNotFoundError:
                return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def link(self, old: str, new: str) -> None:
        """Make a file known under a second name.

        Raises:
            ObjectNotFound: there is none under the old one.
        """
        path = self._file(new)

        def write() -> None:
            temporary = _temporary(path)
            try:
                os.link(self._file(old), temporary, follow_symlinks=False)
            except FileNotFoundError as error:
                if self.size(old) is None:
                    raise ObjectNotFound(f"There is no {old} in {self.path}.") from error
                raise
            with _removed_on_failure(temporary):
                os.replace(temporary, path)
                # A rename between two names of one file does nothing, and leaves both.
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

        with self._errors(f"A value cannot be saved in {self.path}", missing=True):
            self._in_folder(path, write)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files, and the folders that are empty then."""
        for key in keys:
            path = self._file(key)
            with self._errors(f"{key} cannot be deleted from {self.path}"), suppress(FileNotFoundError):
                os.unlink(path)
            self._remove_empty(os.path.dirname(path))

    def _remove_empty(self, folder: str) -> None:
        while len(folder) > len(self.path):
            try:
                os.rmdir(folder)
            except OSError:
                return  # it has other files, or somebody else was faster, or just makes it anew
            folder = os.path.dirname(folder)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Iterate over the files below a folder of ours."""
        top = os.path.join(self.path, *filter(None, prefix.split("/")))
        for folder, _, names in os.walk(top, onerror=self._cannot_list):
            for name in names:
                key = os.path.relpath(os.path.join(folder, name), self.path)
                if is_token(name) and is_key(key):
                    with suppress(FileNotFoundError):
                        status = os.stat(os.path.join(folder, name), follow_symlinks=False)
                        yield Entry(key, status.st_size, status.st_mtime)

    def _cannot_list(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise TierUnavailable(f"{error.filename} cannot be listed: {error.strerror}.", _DISK_HINT) from error

    def sweep(self) -> int:
        """Delete what killed writers left, and return how many files that were."""
        swept = 0
        for folder, _, names in os.walk(self.path, onerror=self._cannot_list):
            for name in names:
                path = os.path.join(folder, name)
                with suppress(FileNotFoundError):
                    if name.endswith(".tmp") and os.lstat(path).st_mtime < time.time() - _STALE:
                        os.unlink(path)
                        swept += 1
        return swept

    def check(self) -> None:
        """Save, read and delete a small file."""
        key = make_key(["check"], os.urandom(16).hex())
        self.save(key, [b"check"])
        try:
            found = bytearray(5)
            self.load(key, 5, lambda at, piece: found.__setitem__(slice(at, at + len(piece)), piece))
        finally:
            self.delete([key])
        if found != b"check":
            raise TierUnavailable(f"{self.path} does not give back what was saved.", _DISK_HINT)

    @contextmanager
    def _errors(self, what: str, *, missing: bool = False) -> Iterator[None]:
        """Raise what the system refuses as an error of ours; that a file is missing only if that is one, too."""
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not missing:
                raise
            raise failed(what, error) from error


# What the system says when it is not the disk that is wrong, but the folder.
_REFUSED = (
    *(errno.EACCES, errno.EEXIST, errno.ENOENT, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
)

_DISK_HINT = "See whether the disk works and is mounted."


def failed(what: str, error: OSError) -> TierFailed:
    """Return the error for what the system refused; ``what`` is a sentence without its end."""
    words = f"{what}: {error.strerror or error}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return TierFull(words, "Free what no DAG run needs any more (gc), or give it a larger disk.")
    if error.errno in _REFUSED:
        return TierRefused(words, "Give a folder that this user can read and write.")
    return TierUnavailable(words, _DISK_HINT)


def _short(place: str, key: str, found: int, size: int) -> ObjectCorrupted:
    return ObjectCorrupted(
        f"{key} in {place} has {found} bytes where {size} were saved.", "Have the task that made it run again."
    )


def _make_folders(root: str, folder: str) -> None:
    """Make a folder and those above it; those that are there keep their modes."""
    os.makedirs(root, mode=0o700, exist_ok=True)
    while not os.path.isdir(folder):
        missing = folder  # or the first above it that is
        while not os.path.isdir(os.path.dirname(missing)):
            missing = os.path.dirname(missing)
        try:
            os.mkdir(missing, 0o700)
            share(missing, os.path.dirname(missing))
        except FileExistsError:
            if os.path.islink(missing) or os.path.isfile(missing):
                raise
        except FileNotFoundError:
            pass  # somebody has just deleted the last file in the folder above: that is made again, too


def _temporary(path: str) -> str:
    return f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"


@contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise


def write_file(path: str, chunks: Sequence[Chunk], *, sync: bool = False) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    temporary = _temporary(path)
    with _removed_on_failure(temporary):
        owner = OwnedFD()
        try:
            owner.take(os.open, temporary, _NEW, 0o600)
            share(owner.fd, os.path.dirname(path))
            write_all(owner.fd, 0, chunks)
            if sync:
                os.fsync(owner.fd)
        finally:
            owner.close()
        os.replace(temporary, path)
    if sync:
        owner = OwnedFD().take(os.open, os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(owner.fd)
        finally:
            owner.close()


def require_disk(folder: str, nbytes: int, reserve: float) -> None:
    """Return if so many bytes can be written and the reserve stays free.

    Raises:
        OSError: they cannot, as the kernel would say it (ENOSPC).
    """
    found = os.statvfs(folder)
    if nbytes > found.f_bavail * found.f_frsize - reserve * found.f_blocks * found.f_frsize:
        free = found.f_bavail * found.f_frsize
        raise OSError(
            errno.ENOSPC,
            f"{nbytes} bytes are to be written, {free} are free, and {reserve:.0%} of the file system stay free",
        )


def is_remote(path: str) -> bool:
    """Tell whether a path lies on a file system whose files other hosts may delete."""
    return file_system(path).partition(".")[0] in _REMOTE


def file_system(path: str) -> str:
    """Return the type of the file system that a path lies on, such as ``ext4``; empty where it cannot be told."""
    try:
        while not os.path.exists(path):
            path = os.path.dirname(path)
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", errors="surrogateescape") as mounts:
            for line in mounts:
                if line.split()[2] == f"{os.major(device)}:{os.minor(device)}":
                    return line.partition(" - ")[2].split()[0]
    except OSError:
        pass  # no Linux
    return ""
