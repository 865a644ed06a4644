"""The IPC socket: a UNIX stream that also carries file descriptors."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from collections import deque
from functools import partial
from itertools import islice, starmap
from typing import Callable, Deque, Optional, Tuple

from ..exceptions import ConnectionFailed, DeadlineExceeded, ProtocolError, VineyardError
from .deadline import Deadline
from .fds import OwnedFD
from .steps import keep, run_all, when_dropped
from .stream import Data

__all__ = ["MAX_PATH", "NoDescriptorLeft", "UnixStream", "is_socket"]

# Seconds between two tries to connect to a server whose queue is full.
_POLL = 0.005

# sockaddr_un.sun_path holds 108 bytes on Linux and 104 on macOS, the closing zero included (man 7 unix).
MAX_PATH = 107 if os.uname().sysname == "Linux" else 103

_CONNECT_HINTS = {
    errno.ENOENT: "There is no such file: start vineyardd there (vineyard-client serve), or correct the path.",
    errno.ECONNREFUSED: "Nobody listens there any more: start vineyardd again.",
    errno.EACCES: "Its permissions do not let this user in.",
    errno.ENOTSOCK: "It is not a socket: give the path of vineyardd's IPC socket.",
    errno.EPROTOTYPE: "It is another kind of socket: give the path of vineyardd's IPC socket.",
    errno.EMFILE: "This process has as many files open as it may: raise the limit (ulimit -n), or drop values.",
    errno.ENFILE: "This host has as many files open as it may: see who has them.",
}


class NoDescriptorLeft(ProtocolError):
    """A file descriptor came, and this process has no room for it; the stream is in step."""


class UnixStream:
    """A connected IPC socket.

    ``close`` closes this process's descriptor only, without a shutdown: after a fork the socket is shared with the
    parent, whose conversation must go on. A stream that is lost is closed with its last reference.
    """

    def __init__(self, sock: socket.SocketType, path: str) -> None:
        self._socket = sock
        self._path = path
        self._place: Optional[Tuple[int, ...]] = None
        #: Close this process's descriptor; idempotent. Written in C, so that a finalizer may call it.
        self.close: Callable[[], object] = partial(socket.SocketType.close, sock)
        when_dropped(self, self.close)

    @classmethod
    def connect(cls, path: str, deadline: Deadline) -> UnixStream:
        """Connect to the IPC socket at a path.

        Raises:
            ConnectionFailed: nobody listens there, or we may not connect; the message tells which.
            DeadlineExceeded: the server did not accept in time.
        """
        if len(os.fsencode(path)) > MAX_PATH:
            raise ConnectionFailed(
                f"The socket path {path!r} has {len(os.fsencode(path))} bytes; the system takes {MAX_PATH}.",
                "Choose a shorter one.",
            )
        # Owned before it is open; and of the plain type, whose finalizer and methods run no Python code.
        sock = socket.SocketType.__new__(socket.SocketType)
        stream = cls(sock, path)
        try:
            sock.__init__(socket.AF_UNIX, socket.SOCK_STREAM)  # type: ignore[misc]
            stream._connect(deadline)
            found = os.stat(path)
            stream._place = found.st_dev, found.st_ino, found.st_mtime_ns
        except OSError as error:
            stream.close()
            if isinstance(error, socket.timeout) or error.errno == errno.EAGAIN:
                raise DeadlineExceeded(
                    f"vineyardd at {path} did not accept a connection within {deadline.timeout:.3g} s.",
                    "The server does not take connections at present: see whether it hangs.",
                ) from error
            number = error.errno or 0
            if number == errno.ECONNREFUSED and not is_socket(path):
                number = errno.ENOTSOCK  # Linux refuses a plain file and a folder like a socket without a listener
            raise ConnectionFailed(
                f"Cannot connect to vineyardd at {path}: {error.strerror or error}.", _CONNECT_HINTS.get(number, "")
            ) from error
        except BaseException:
            stream.close()
            raise
        return stream

    def _connect(self, deadline: Deadline) -> None:
        while True:
            self._socket.settimeout(deadline.remaining())
            try:
                return self._socket.connect(self._path)
            except BlockingIOError:
                # More wait than the server's queue holds; a socket with a timeout is refused at once (connect(2)).
                if deadline.expired:
                    raise
                time.sleep(_POLL)

    @property
    def peer(self) -> str:
        """The socket's path."""
        return self._path

    @property
    def place(self) -> Optional[Tuple[int, ...]]:
        """The socket file, as it was when we connected: each server makes a new one."""
        return self._place

    @property
    def peer_pid(self) -> int:
        """The process that listens, as the kernel knows it; 0 where the system does not tell."""
        if not hasattr(socket, "SO_PEERCRED"):
            return 0
        pid: int
        pid, _, _ = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid

    def _broken(self, error: OSError, deadline: Deadline) -> ConnectionFailed:
        """Return what an error of the socket means."""
        if isinstance(error, (socket.timeout, BlockingIOError)):  # the latter when no time was left to begin with
            return DeadlineExceeded(
                f"vineyardd at {self._path} did not answer within {deadline.timeout:.3g} s.",
                "See whether it hangs or the machine is overloaded; a larger timeout can be given to connect().",
            )
        return ConnectionFailed(
            f"The connection to vineyardd at {self._path} broke: {error.strerror or error}.",
            "See the server's log; the next call connects anew.",
        )

    def send(self, data: Data, deadline: Deadline, sent: Optional[Deque[int]] = None) -> None:
        """Send all of ``data``; see ``Stream.send``."""
        sent = deque() if sent is None else sent
        rest = memoryview(data)
        try:
            while rest:
                known = sum(sent)
                self._socket.settimeout(deadline.remaining())
                keep(sent, self._socket.send, rest)
                rest = rest[sum(sent) - known :]
        except OSError as error:
            raise self._broken(error, deadline) from error

    def receive(self, nbytes: int, deadline: Deadline, box: Optional[Deque[bytes]] = None) -> bytes:
        """Return exactly ``nbytes`` bytes; see ``Stream.receive``."""
        box = deque() if box is None else box
        before = len(box)
        missing = nbytes
        try:
            while missing:
                self._socket.settimeout(deadline.remaining())
                keep(box, self._socket.recv, min(missing, 1 << 20))
                if not box[-1]:
                    raise self._gone()
                missing -= len(box[-1])
        except OSError as error:
            if isinstance(error, VineyardError):
                raise
            raise self._broken(error, deadline) from error
        return box[-1] if len(box) == before + 1 else b"".join(islice(box, before, None))

    def ask(self, data: Data, nbytes: int, deadline: Deadline, sent: Deque[int], box: Deque[bytes]) -> None:
        """Send a request and receive the beginning of its answer in one step; see ``Stream.ask``."""
        try:
            self._socket.settimeout(deadline.remaining())
            run_all(
                partial(sent.extend, starmap(self._socket.send, ((data,),))),
                partial(box.extend, starmap(self._socket.recv, ((nbytes,),))),
            )
        except OSError as error:
            raise self._broken(error, deadline) from error
        if not box[-1]:
            raise self._gone()

    def receive_fd(self, deadline: Deadline, owner: Optional[OwnedFD] = None) -> OwnedFD:
        """Return the file descriptor that rides on the next byte; see ``Stream.receive_fd``."""
        owner = OwnedFD() if owner is None else owner
        try:
            self._socket.settimeout(deadline.remaining())
            owner.receive(self._socket)
        except OSError as error:
            raise self._broken(error, deadline) from error
        assert owner.message is not None
        data, _, flags, _ = owner.message
        if owner.open and not flags & socket.MSG_CTRUNC:
            os.set_inheritable(owner.fd, False)
            return owner
        came = int(owner.open)
        owner.close()
        if not data:
            raise self._gone()
        kind = NoDescriptorLeft if flags & socket.MSG_CTRUNC and not came else ProtocolError
        raise kind(
            f"vineyardd at {self._path} announced a file descriptor and sent {came}.",
            "Check the limit of open files (ulimit -n) of this process.",
        )

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def _gone(self) -> ConnectionFailed:
        return ConnectionFailed(
            f"vineyardd at {self._path} closed the connection.",
            "It stopped or crashed, or is not vineyardd: see its log. The next call connects anew.",
        )


def is_socket(path: str) -> bool:
    """Tell whether a path that refused a connection is a socket, as one is that went away meanwhile."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True
