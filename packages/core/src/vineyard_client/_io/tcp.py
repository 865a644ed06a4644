"""The RPC endpoint of an instance on another host: a TCP stream that also carries whole blobs.

A blob goes from the socket straight into the file behind the store's memory: with ``splice`` where Python has it (3.10,
Linux), so that the bytes never enter this process, else through a buffer of a megabyte.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from typing import Optional, Tuple

from ..exceptions import ConnectionFailed, DeadlineExceeded, InvalidReference, ProtocolError
from .deadline import Deadline
from .fds import OwnedFD
from .mapping import write_all

__all__ = ["TcpStream", "split_endpoint"]

# Bytes that a pipe is asked to hold, and that are moved at once. The system's limit for unprivileged users is a
# megabyte (/proc/sys/fs/pipe-max-size); a smaller pipe works as well, with more system calls.
_PIPE = 1 << 20

_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ, since Python 3.10


def split_endpoint(endpoint: str) -> Tuple[str, int]:
    """Return host and port of ``host:port`` or ``[address]:port``.

    Raises:
        InvalidReference: it has another form.
    """
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidReference(f"{endpoint!r} is no endpoint.", "An endpoint is host:port.")
    return (host[1:-1] if host.startswith("[") and host.endswith("]") else host), int(port)


class TcpStream:
    """A connected RPC endpoint."""

    def __init__(self, sock: socket.socket, endpoint: str) -> None:
        self._socket = sock
        self._endpoint = endpoint

    @classmethod
    def connect(cls, endpoint: str, deadline: Deadline) -> TcpStream:
        """Connect to an instance on another host.

        Args:
            endpoint: ``host:port``.
            deadline: for resolving the name and connecting.

        Raises:
            ConnectionFailed: the host is not known, not there, or nobody listens.
            DeadlineExceeded: it did not answer in time.
        """
        try:
            sock = socket.create_connection(split_endpoint(endpoint), timeout=deadline.remaining())
        except socket.timeout as error:
            raise DeadlineExceeded(
                f"vineyardd at {endpoint} did not accept a connection within {deadline.timeout} s.",
                "See whether the host is up and reachable from here.",
            ) from error
        except OSError as error:
            raise ConnectionFailed(
                f"Cannot connect to vineyardd at {endpoint}: {error.strerror or error}.",
                "See whether its host is up, its RPC is on, and the name resolves here; where it does not, say what to "
                "advertise there.",
            ) from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return cls(sock, endpoint)

    @property
    def peer(self) -> str:
        """The endpoint."""
        return self._endpoint

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of ``data``."""
        try:
            self._socket.settimeout(deadline.remaining())
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken(error, deadline) from error

    def receive(self, nbytes: int, deadline: Deadline) -> bytes:
        """Return exactly ``nbytes`` bytes, and take no byte more from the stream."""
        received = bytearray()
        try:
            while len(received) < nbytes:
                self._socket.settimeout(deadline.remaining())
                data = self._socket.recv(min(nbytes - len(received), _PIPE))
                if not data:
                    raise self._gone()
                received += data
        except ConnectionFailed:
            raise
        except OSError as error:
            raise self._broken(error, deadline) from error
        return bytes(received)

    def receive_fd(self, deadline: Deadline) -> OwnedFD:
        """Refuse: TCP carries no file descriptors."""
        raise ProtocolError(f"vineyardd at {self._endpoint} announced a file descriptor over TCP.")

    def receive_into_file(self, fd: int, offset: int, nbytes: int, stall: Optional[float]) -> None:
        """Move the next ``nbytes`` bytes of the stream into a file.

        Args:
            fd: the file.
            offset: where in it.
            nbytes: how many.
            stall: seconds for which nothing may come; None is for ever.

        Raises:
            DeadlineExceeded: nothing came for that long.
            ConnectionFailed: the stream ended early, or the file took no more.
        """
        move = self._splice if hasattr(os, "splice") else self._copy
        try:
            move(fd, offset, nbytes, stall)
        except ConnectionFailed:
            raise
        except OSError as error:
            raise self._broken(error, Deadline(stall)) from error

    def receive_into(self, target: memoryview, stall: Optional[float]) -> None:
        """Move the next bytes of the stream into memory of this process until it is full.

        Args:
            target: a writable view of bytes.
            stall: seconds for which nothing may come; None is for ever.

        Raises:
            DeadlineExceeded: nothing came for that long.
            ConnectionFailed: the stream ended early.
        """
        try:
            self._socket.settimeout(stall)
            while target:
                count = self._socket.recv_into(target)
                if not count:
                    raise self._gone()
                target = target[count:]
        except ConnectionFailed:
            raise
        except OSError as error:
            raise self._broken(error, Deadline(stall)) from error

    def _splice(self, fd: int, offset: int, nbytes: int, stall: Optional[float]) -> None:
        import fcntl

        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        self._socket.setblocking(False)
        reader, writer = os.pipe()
        try:
            with suppress(PermissionError):  # then the default, 64 KiB, does
                fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE)
            while nbytes:
                try:
                    count = os.splice(self._socket.fileno(), writer, min(nbytes, _PIPE))
                except BlockingIOError:
                    if not poll.poll(None if stall is None else stall * 1000):
                        raise socket.timeout("timed out") from None
                    continue
                if not count:
                    raise self._gone()
                nbytes -= count
                while count:
                    moved = os.splice(reader, fd, count, offset_dst=offset)
                    count -= moved
                    offset += moved
        finally:
            os.close(reader)
            os.close(writer)

    def _copy(self, fd: int, offset: int, nbytes: int, stall: Optional[float]) -> None:
        buffer = memoryview(bytearray(min(nbytes, _PIPE)))
        while nbytes:
            self._socket.settimeout(stall)
            count = self._socket.recv_into(buffer, min(nbytes, len(buffer)))
            if not count:
                raise self._gone()
            offset += write_all(fd, offset, [buffer[:count]])
            nbytes -= count

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()

    def _broken(self, error: OSError, deadline: Deadline) -> ConnectionFailed:
        if isinstance(error, socket.timeout):
            return DeadlineExceeded(
                f"vineyardd at {self._endpoint} sent nothing for {deadline.timeout} s.",
                "See whether its host hangs or the network between is cut.",
            )
        return ConnectionFailed(
            f"The connection to vineyardd at {self._endpoint} broke: {error.strerror or error}.",
            "See whether its host is up.",
        )

    def _gone(self) -> ConnectionFailed:
        return ConnectionFailed(
            f"vineyardd at {self._endpoint} closed the connection.", "It stopped or crashed: see its log."
        )
