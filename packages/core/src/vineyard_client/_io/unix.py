"""The IPC socket: a UNIX stream that also carries file descriptors."""

from __future__ import annotations

import array
import errno
import os
import socket
import stat
import struct
import time
from contextlib import contextmanager
from typing import Iterator, Optional

from ..exceptions import ConnectionFailed, DeadlineExceeded, ProtocolError
from .deadline import Deadline
from .fds import OwnedFD

__all__ = ["MAX_PATH", "UnixStream", "is_socket"]

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

# Seconds between two looks whether a server with a full queue of connections takes one more.
_POLL = 0.005


class UnixStream:
    """A connected IPC socket.

    ``close`` closes this process's descriptor only, without a shutdown: after a fork the socket is shared with the
    parent, whose conversation must go on.
    """

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._socket = sock
        self._path = path

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
        sock: Optional[socket.socket] = None
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            while True:
                try:
                    sock.settimeout(deadline.remaining())
                    sock.connect(path)
                    return cls(sock, path)
                except BlockingIOError:
                    # More wait than the server's queue holds; a socket with a timeout is refused at once (connect(2)).
                    if deadline.expired:
                        raise socket.timeout("timed out") from None
                    time.sleep(_POLL)
        except OSError as error:
            if sock is not None:
                sock.close()
            if isinstance(error, socket.timeout):
                raise DeadlineExceeded(
                    f"vineyardd at {path} did not accept a connection within {deadline.timeout} s.",
                    "The server does not take connections at present: see whether it hangs.",
                ) from error
            number = error.errno or 0
            if number == errno.ECONNREFUSED and not is_socket(path):
                number = errno.ENOTSOCK  # Linux refuses a plain file and a folder like a socket without a listener
            raise ConnectionFailed(
                f"Cannot connect to vineyardd at {path}: {error.strerror or error}.", _CONNECT_HINTS.get(number, "")
            ) from error
        except BaseException:
            if sock is not None:
                sock.close()
            raise

    @property
    def peer(self) -> str:
        """The socket's path."""
        return self._path

    @property
    def peer_pid(self) -> int:
        """The process that listens, as the kernel knows it; 0 where the system does not tell."""
        if not hasattr(socket, "SO_PEERCRED"):
            return 0
        pid: int
        pid, _, _ = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return pid

    @contextmanager
    def _errors(self, deadline: Deadline) -> Iterator[None]:
        try:
            self._socket.settimeout(deadline.remaining())
            yield
        except (socket.timeout, BlockingIOError) as error:  # the latter when no time was left to begin with
            raise DeadlineExceeded(
                f"vineyardd at {self._path} did not answer within {deadline.timeout} s.",
                "See whether it hangs or the machine is overloaded; a larger timeout can be given to connect().",
            ) from error
        except OSError as error:
            raise ConnectionFailed(
                f"The connection to vineyardd at {self._path} broke: {error.strerror or error}.",
                "See the server's log; the next call connects anew.",
            ) from error

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of ``data``."""
        with self._errors(deadline):
            self._socket.sendall(data)

    def receive(self, nbytes: int, deadline: Deadline) -> bytes:
        """Return exactly ``nbytes`` bytes, and take no byte more from the stream."""
        with self._errors(deadline):
            data = self._socket.recv(min(nbytes, 1 << 20))
            if len(data) == nbytes:
                return data
            received = bytearray(data)
            while data and len(received) < nbytes:
                self._socket.settimeout(deadline.remaining())
                data = self._socket.recv(min(nbytes - len(received), 1 << 20))
                received += data
        if len(received) < nbytes:
            raise self._gone()
        return bytes(received)

    def receive_fd(self, deadline: Deadline) -> OwnedFD:
        """Return the file descriptor that rides on the next byte."""
        fds = array.array("i")
        with self._errors(deadline):
            data, ancillary, flags, _ = self._socket.recvmsg(
                1, socket.CMSG_SPACE(fds.itemsize), getattr(socket, "MSG_CMSG_CLOEXEC", 0)
            )
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        owned = [OwnedFD(fd) for fd in fds]
        if len(owned) == 1 and not flags & socket.MSG_CTRUNC:
            os.set_inheritable(owned[0].fd, False)
            return owned[0]
        for fd in owned:
            fd.close()
        if not data:
            raise self._gone()
        raise ProtocolError(
            f"vineyardd at {self._path} announced a file descriptor and sent {len(owned)}.",
            "Check the limit of open files (ulimit -n) of this process.",
        )

    def close(self) -> None:
        """Close this process's descriptor; idempotent."""
        self._socket.close()

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
