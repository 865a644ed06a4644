"""The RPC endpoint of an instance on another host: a TCP stream that also carries whole blobs.

A blob goes from the socket straight into the file behind the store's memory: with ``splice`` where Python has it (3.10,
Linux), so that the bytes never enter this process, else through a buffer of a megabyte. Each piece may take as long as
the caller says; the whole may take for ever, as long as something comes.

Every error of the socket is mapped here, and names the endpoint.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Callable, Deque, Iterator, Optional, Tuple

from ..exceptions import ConnectionFailed, DeadlineExceeded, InvalidReference, ProtocolError
from .deadline import Deadline
from .fds import OwnedFD, OwnedPipe
from .mapping import write_all
from .steps import keep, when_dropped
from .stream import Data

__all__ = ["TcpStream", "split_endpoint"]

# Bytes that a pipe is asked to hold, and that are moved at once. The system's limit for unprivileged users is a
# megabyte (/proc/sys/fs/pipe-max-size); a smaller pipe works as well, with more system calls.
_PIPE = 1 << 20

_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ, since Python 3.10

# What splice fails with where a sandbox does not let it through or the file cannot take it.
_NO_SPLICE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP)

_CUT = "See whether its host is up and the network between is whole."


def split_endpoint(endpoint: str) -> Tuple[str, int]:
    """Return host and port of ``host:port`` or ``[address]:port``.

    Raises:
        InvalidReference: it has another form.
    """
    host, _, port = endpoint.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not (port.isascii() and port.isdigit()) or len(port) > 5 or not 0 < int(port) < 65536:
        raise InvalidReference(f"{endpoint!r:.200} is no endpoint.", "An endpoint is host:port.")
    return host, int(port)


class TcpStream:
    """A connected RPC endpoint."""

    def __init__(self, sock: socket.SocketType, endpoint: str) -> None:
        self._socket = sock
        self._endpoint = endpoint
        #: Close the socket; idempotent. Written in C, so that a finalizer may call it.
        self.close: Callable[[], object] = partial(socket.SocketType.close, sock)
        when_dropped(self, self.close)

    @classmethod
    def connect(cls, endpoint: str, deadline: Deadline) -> TcpStream:
        """Connect to an instance on another host, at the first of its addresses that answers.

        Args:
            endpoint: ``host:port``.
            deadline: for connecting; how long a name may take to resolve is the system's to say (man 5 resolv.conf).

        Raises:
            InvalidReference: that is no endpoint.
            ConnectionFailed: the host is not known, not there, or nobody listens.
            DeadlineExceeded: it did not answer in time.
        """
        host, port = split_endpoint(endpoint)
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:  # the latter from a name that cannot be one
            raise ConnectionFailed(
                f"The name of vineyardd at {endpoint:.200} does not resolve here: {_reason(error)}.",
                "Make it known here, or say there under which name or address other hosts reach it: "
                'connect(endpoint="host:port").',
            ) from error
        refusal: OSError = socket.timeout("timed out")
        for family, kind, protocol, _, address in addresses:
            # Owned before it is open; see UnixStream.
            sock = socket.SocketType.__new__(socket.SocketType)
            stream = cls(sock, endpoint)
            try:
                sock.__init__(family, kind, protocol)  # type: ignore[misc]
                # Zero would mean to not wait at all.
                sock.settimeout(None if deadline.timeout is None else max(deadline.remaining() or 0, 0.001))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return stream
            except OSError as error:
                stream.close()
                refusal = error
            except BaseException:
                stream.close()
                raise
            if deadline.expired:
                break
        if isinstance(refusal, socket.timeout):
            raise DeadlineExceeded(
                f"vineyardd at {endpoint} did not accept a connection within {deadline.timeout:.3g} s.", _CUT
            ) from refusal
        raise ConnectionFailed(
            f"Cannot connect to vineyardd at {endpoint}: {_reason(refusal)}.",
            "See whether its host is up and its RPC is on (vineyardd --rpc=true).",
        ) from refusal

    @property
    def peer(self) -> str:
        """The endpoint."""
        return self._endpoint

    @contextmanager
    def _errors(self, seconds: Optional[float]) -> Iterator[None]:
        """Map what the socket raises while somebody waits for it, for so many seconds at most."""
        try:
            yield
        except ConnectionFailed:
            raise
        except (socket.timeout, BlockingIOError) as error:
            raise DeadlineExceeded(
                f"vineyardd at {self._endpoint} sent or took nothing for {seconds:.3g} s.",
                "See whether it hangs, or the network between is cut.",
            ) from error
        except OSError as error:
            raise ConnectionFailed(
                f"The connection to vineyardd at {self._endpoint} broke: {_reason(error)}.", _CUT
            ) from error

    @property
    def place(self) -> Optional[Tuple[int, ...]]:
        """None: nothing tells one server at an endpoint from another."""
        return None

    def send(self, data: Data, deadline: Deadline, sent: Optional[Deque[int]] = None) -> None:
        """Send all of ``data``; see ``Stream.send``."""
        sent = deque() if sent is None else sent
        rest = memoryview(data)
        with self._errors(deadline.timeout):
            while rest:
                known = sum(sent)
                self._socket.settimeout(deadline.remaining())
                keep(sent, self._socket.send, rest)
                rest = rest[sum(sent) - known :]

    def receive(self, nbytes: int, deadline: Deadline, box: Optional[Deque[bytes]] = None) -> bytes:
        """Return exactly ``nbytes`` bytes; see ``Stream.receive``."""
        box = deque() if box is None else box
        before = len(box)
        missing = nbytes
        with self._errors(deadline.timeout):
            while missing:
                self._socket.settimeout(deadline.remaining())
                self._acknowledge_at_once()
                keep(box, self._socket.recv, min(missing, _PIPE))
                if not box[-1]:
                    raise self._gone()
                missing -= len(box[-1])
        return b"".join(islice(box, before, None))

    def _acknowledge_at_once(self) -> None:
        """Let the server go on with the blob behind a reply: it waits for the acknowledgement of that, 40 ms else.

        The kernel forgets this again by itself. Where it has no such option, it takes the time that it takes.
        """
        with suppress(AttributeError, OSError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def ask(self, data: Data, nbytes: int, deadline: Deadline, sent: Deque[int], box: Deque[bytes]) -> None:
        """Send a request, then receive the beginning of its answer; see ``Stream.ask``."""
        self.send(data, deadline, sent)
        self.receive(nbytes, deadline, box)

    def receive_fd(self, deadline: Deadline, owner: Optional[OwnedFD] = None) -> OwnedFD:
        """Refuse: TCP carries no file descriptors."""
        raise ProtocolError(f"vineyardd at {self._endpoint} announced a file descriptor over TCP.")

    def fileno(self) -> int:
        """Return -1: there is nothing that is let go of over TCP."""
        return -1

    def receive_into(self, target: memoryview, stall: Optional[float]) -> None:
        """Move the next bytes of the stream into memory of this process until it is full.

        Args:
            target: a writable view of bytes.
            stall: seconds for which nothing may come; None is for ever.

        Raises:
            DeadlineExceeded: nothing came for that long.
            ConnectionFailed: the stream ended early.
        """
        with self._errors(stall):
            self._socket.settimeout(stall)
            while target:
                count = self._socket.recv_into(target)
                if not count:
                    raise self._gone()
                target = target[count:]

    def receive_into_file(self, fd: int, offset: int, nbytes: int, stall: Optional[float]) -> None:
        """Move the next ``nbytes`` bytes of the stream into a file.

        Args:
            fd: the file.
            offset: where in it.
            nbytes: how many.
            stall: seconds for which nothing may come; None is for ever.

        Raises:
            DeadlineExceeded: nothing came for that long.
            ConnectionFailed: the stream ended early, or the file took no more; the message tells which.
        """
        done = self._splice(fd, offset, nbytes, stall) if hasattr(os, "splice") else 0
        if done < nbytes:
            self._copy(fd, offset + done, nbytes - done, stall)

    def _splice(self, fd: int, offset: int, nbytes: int, stall: Optional[float]) -> int:
        """Return how many bytes were moved: all of them, or none where splice does not work."""
        import fcntl

        done = 0
        pipe = OwnedPipe()
        try:
            try:
                reader, writer = pipe.open()
            except OSError:  # no descriptors left; a copy needs none
                return 0
            with suppress(PermissionError):  # then the default, 64 KiB, does
                fcntl.fcntl(writer, _F_SETPIPE_SZ, _PIPE)
            with self._errors(stall):
                self._wait_in_kernel(stall)
            while done < nbytes:
                try:
                    with self._errors(stall):
                        count = os.splice(self._socket.fileno(), writer, min(nbytes - done, _PIPE))
                except ConnectionFailed as error:
                    if done or getattr(error.__cause__, "errno", None) not in _NO_SPLICE:
                        raise
                    return 0
                if not count:
                    raise self._gone()
                while count:
                    with self._file_errors(nbytes):
                        moved = os.splice(reader, fd, count, offset_dst=offset + done)
                    count -= moved
                    done += moved
        finally:
            pipe.close()
        return done

    def _wait_in_kernel(self, stall: Optional[float]) -> None:
        """Let system calls on the socket wait by themselves.

        A socket with a timeout of Python's never waits in the kernel, and splice would need a poll before each call.
        """
        self._socket.settimeout(None)
        microseconds = 0 if stall is None else max(1, int(stall * 1_000_000))
        timeval = struct.pack("@ll", *divmod(microseconds, 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)

    def _copy(self, fd: int, offset: int, nbytes: int, stall: Optional[float]) -> None:
        buffer = memoryview(bytearray(min(nbytes, _PIPE)))
        end = offset + nbytes
        while offset < end:
            piece = buffer[: end - offset]
            with self._errors(stall):
                self._socket.settimeout(stall)
                count = self._socket.recv_into(piece)
            if not count:
                raise self._gone()
            with self._file_errors(nbytes):
                offset += write_all(fd, offset, [piece[:count]])

    @contextmanager
    def _file_errors(self, nbytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConnectionFailed(
                f"Of {nbytes} bytes from {self._endpoint} not all could be written into the store's memory here: "
                f"{_reason(error)}.",
                "See whether this host has memory left for the store.",
            ) from error

    def _gone(self) -> ConnectionFailed:
        return ConnectionFailed(
            f"vineyardd at {self._endpoint} closed the connection.", "It stopped or crashed: see its log."
        )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
