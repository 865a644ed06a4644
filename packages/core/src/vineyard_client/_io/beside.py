"""The folder beside a server's socket, where processes of a host leave small files for each other.

Two clients can come to one socket by different paths: a symbolic link, another name, a mount of the socket file alone
into another mount namespace. Files that are found by the caller's spelling would not be the same for all of them. So
the folder is that of the path which the *server* says it listens at, if the socket there is the one that this process
is connected to; else that of the path behind all links. Whether it is a mount of the socket alone shows in the number
of its mount, which then is not the folder's: such a folder is not the one that others see (``shared``).

The folder is opened once for each use, and what is in it through that descriptor, by names without a slash, and without
following links: whoever may write to the folder can put any link there, at any moment. A file must be a plain one with
one name.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import contextmanager
from functools import partial
from typing import Iterator, Optional

from .fds import OwnedFD

__all__ = ["Beside", "Unsafe", "beside"]

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

# Opens nothing, but refers to what is there, a socket or a folder that may not be read; Linux only.
_REFER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC

_MOUNT = re.compile(r"^mnt_id:\s*(\d+)", re.MULTILINE)


class Unsafe(OSError):
    """What is at a path is not what it should be: a link, another kind of file, or open to everybody."""


class Beside:
    """An open folder beside a socket.

    Attributes:
        path: of the socket, as it is found in the folder.
        shared: whether the folder is the one that other processes find, as far as one can see.
    """

    def __init__(self, path: str, folder: OwnedFD, shared: bool = True) -> None:
        self.path = path
        self.shared = shared
        self._folder = folder

    @property
    def fd(self) -> int:
        """Its descriptor, which stays this object's."""
        return self._folder.fd

    def close(self) -> None:
        """Close it; idempotent."""
        self._folder.close()

    def name(self, suffix: str) -> str:
        """Return the name in the folder of what belongs to the socket."""
        return os.path.basename(self.path) + suffix

    def open_file(self, suffix: str, flags: int, mode: int = 0o666, owner: Optional[OwnedFD] = None) -> int:
        """Open a file of the socket's and return its descriptor; see ``open_file`` below."""
        return open_file(self.fd, self.name(suffix), flags, mode, owner)

    def open_folder(self, suffix: str, *, make: bool = False, owner: Optional[OwnedFD] = None) -> int:
        """Open a folder of the socket's that all users of the host share, and return its descriptor.

        Args:
            suffix: what its name ends with.
            make: make it, if need be.
            owner: who owns the descriptor from the moment when it is there; by default the caller.

        Raises:
            FileNotFoundError: it is not there, and is not to be made.
            Unsafe: it is a link or no folder, or everybody may remove what others put there.
            OSError: it cannot be opened or made.
        """
        name = self.name(suffix)
        if make:
            try:
                os.mkdir(name, 0o700, dir_fd=self.fd)
            except FileExistsError:
                make = False
        fd = _open(name, os.O_RDONLY | os.O_DIRECTORY, 0, self.fd, owner)
        try:
            if make:
                os.fchmod(fd, 0o1777)  # whatever our umask
            require_sticky(fd)
        except BaseException:
            _close(fd, owner)
            raise
        return fd


def require_sticky(fd: int) -> None:
    """Return if not everybody may remove or replace what others have in a folder.

    Raises:
        Unsafe: everybody may.
    """
    mode = os.fstat(fd).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise Unsafe(None, "everybody may replace what is in the folder (chmod +t, or o-w)")


def open_file(folder: int, name: str, flags: int, mode: int = 0o666, owner: Optional[OwnedFD] = None) -> int:
    """Open a plain file with one name in an open folder, and return its descriptor.

    Args:
        folder: descriptor of the folder.
        name: in it.
        flags: as ``os.open`` has them; with ``O_CREAT`` it is made if it is not there.
        mode: for one that is made.
        owner: who owns the descriptor from the moment when it is there; by default the caller.

    Raises:
        FileNotFoundError: it is not there.
        Unsafe: it is a link, has another name as well, or is no plain file.
        OSError: it cannot be opened or made.
    """
    try:
        # In a folder open to all the kernel may refuse O_CREAT for a file of another user (fs.protected_regular).
        fd = _open(name, flags & ~os.O_CREAT, mode, folder, owner)
    except FileNotFoundError:
        if not flags & os.O_CREAT:
            raise
        fd = _open(name, flags, mode, folder, owner)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        _close(fd, owner)
        raise Unsafe(None, "it is not a file of its own")
    return fd


def _close(fd: int, owner: Optional[OwnedFD]) -> None:
    if owner is None:
        os.close(fd)
    else:
        owner.close()


def _open(name: str, flags: int, mode: int, folder: int, owner: Optional[OwnedFD]) -> int:
    try:
        if owner is None:
            return os.open(name, flags | _FLAGS, mode, dir_fd=folder)
        return owner.take(partial(os.open, dir_fd=folder), name, flags | _FLAGS, mode).fd
    except FileNotFoundError:
        raise
    except OSError as error:
        try:
            link = stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except OSError:
            link = False
        if link:
            raise Unsafe(None, "it is a symbolic link") from error
        raise


@contextmanager
def beside(socket: str, told: str = "") -> Iterator[Beside]:
    """Open the folder beside a socket for the duration of the block.

    Args:
        socket: the path by which this process comes to it.
        told: the path that the server says it listens at, if one is known.

    Raises:
        OSError: the folder cannot be opened.
    """
    found: Optional[Beside] = None
    real = os.path.realpath(socket)
    for path in dict.fromkeys([told, real] if os.path.isabs(told) else [real]):
        candidate = _candidate(path, socket)
        if candidate is not None:
            other, found = (found, candidate) if candidate.shared or found is None else (candidate, found)
            if other is not None:
                other.close()
            if found.shared:
                break
    if found is None:  # nobody has a socket there yet
        found = Beside(real, _open_folder(real))
    try:
        yield found
    finally:
        found.close()


def _open_folder(path: str) -> OwnedFD:
    return OwnedFD().take(os.open, os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _candidate(path: str, socket: str) -> Optional[Beside]:
    """Return the folder of a path, open, if what is at the path is the socket."""
    folder: Optional[OwnedFD] = None
    try:
        folder = _open_folder(path)
        name = os.path.basename(path)
        if os.path.samestat(os.stat(name, dir_fd=folder.fd, follow_symlinks=False), os.stat(socket)):
            found, folder = Beside(path, folder, _one_mount(folder.fd, name)), None
            return found
        return None
    except OSError:
        return None
    finally:
        if folder is not None:
            folder.close()


def _one_mount(folder: int, name: str) -> bool:
    """Whether a file is mounted together with its folder; true where the system does not tell."""
    if not hasattr(os, "O_PATH"):
        return True
    file = OwnedFD().take(partial(os.open, dir_fd=folder), name, _REFER | os.O_NOFOLLOW)
    try:
        mounts = [_mount(file.fd), _mount(folder)]
    finally:
        file.close()
    return mounts[0] == mounts[1]


def _mount(fd: int) -> Optional[str]:
    try:
        file = OwnedFD().take(os.open, f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        match = _MOUNT.search(os.read(file.fd, 1 << 12).decode(errors="replace"))
        file.close()
    except OSError:
        return None
    return match[1] if match else None
