"""One registered conversation with a vineyardd on another host, over its RPC port.

It can do what a connection over the IPC socket can, but for memory: blobs come as bytes, behind the reply.

What it cannot see is who reads a blob over there. The pins of the readers are locks on their host
(``_io.pinfile``), and the server's own marks can be lost: a transfer over an RPC connection takes away the mark that
the IPC connection with the same number has on the same blob, and the end of an RPC connection all marks of that number.
But a reader keeps its IPC connection open for as long as its views live. So a blob over there counts as in use while
anybody is connected there.
"""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence

from .._io.deadline import Deadline
from .._io.tcp import TcpStream
from .._store.connection import Connection, Exchange
from .._wire.framing import MAX_REMOTE_FRAME
from .._wire.messages import GetRemoteBuffers, InstanceStatus, Request
from ..exceptions import ObjectNotFound, ProtocolError, ServerError
from ..ids import format_id

__all__ = ["RemoteConnection"]

# Seconds for finding another host and connecting: a dropped packet is sent again after one and three.
_CONNECT_TIMEOUT = 10.0


class RemoteConnection(Connection):
    """A registered connection to an instance on another host.

    Args:
        endpoint: ``host:port`` of its RPC.
        deadline: when all must be done that it is for; by default after ``timeout``.
        timeout: seconds that each call may take and for which a transfer may stall; None is for ever.
        username: for a server that asks (``--htpasswd``).
        password: likewise.

    Raises:
        InvalidReference: that is no endpoint.
        ConnectionFailed: it cannot be reached, or refuses the credentials.
        ProtocolError: what listens there is not vineyardd.
        UnsupportedVersion: the server is older than this client knows.
    """

    most = MAX_REMOTE_FRAME

    def __init__(
        self,
        endpoint: str,
        deadline: Optional[Deadline] = None,
        /,
        *,
        timeout: Optional[float],
        username: str = "",
        password: str = "",
    ) -> None:
        # Half of what is left of the call: where nobody answers, there may be another way to the value.
        left = None if deadline is None else deadline.remaining()
        limits = [_CONNECT_TIMEOUT, *([] if timeout is None else [timeout]), *([] if left is None else [left / 2])]
        self._tcp = TcpStream.connect(endpoint, Deadline(min(limits)))
        super().__init__(self._tcp, deadline, timeout=timeout, username=username, password=password)
        self._deadline = deadline

    @property
    def _marks_can_be_lost(self) -> bool:
        """They can; but no lock is seen from here, and what follows from that stands in ``in_use``."""
        return False

    def _open_pin_file(self, blobs: Sequence[int]) -> None:
        """Do nothing: no memory comes over TCP."""

    def in_use(self, blobs: Sequence[int], after: Sequence[Request[None]] = ()) -> List[bool]:
        """Tell for each blob whether any process on that host may have it pinned; see ``Connection.in_use``."""
        marked = super().in_use(blobs, after)
        anybody = self.call(InstanceStatus()).connections > 0
        return [mark or anybody for mark in marked]

    def fetch_into_file(self, blob: int, nbytes: int, fd: int, offset: int) -> None:
        """Copy a blob into a file, without a copy in this process where the system can.

        Args:
            blob: its id there.
            nbytes: its size as the metadata have it.
            fd: the file.
            offset: where in it.

        Raises:
            ObjectNotFound: the blob is gone, or was never completed.
            ProtocolError: the instance offers another number of bytes.
            ConnectionFailed: the transfer broke or stalled, or the file took no more; the connection is retired.
        """
        self._fetch(blob, nbytes, lambda: self._tcp.receive_into_file(fd, offset, nbytes, self.timeout))

    def fetch_into(self, blob: int, target: memoryview) -> None:
        """Copy a blob into memory of this process, which must have its size.

        Raises:
            ObjectNotFound: the blob is gone, or was never completed.
            ProtocolError: the instance offers another number of bytes.
            ConnectionFailed: the transfer broke or stalled; the connection is retired.
        """
        self._fetch(blob, len(target), lambda: self._tcp.receive_into(target, self.timeout))

    def _fetch(self, blob: int, nbytes: int, take: Callable[[], None]) -> None:
        self.conversation.turn.run(lambda: self._fetch_in_turn(blob, nbytes, take), self.deadline)

    def _fetch_in_turn(self, blob: int, nbytes: int, take: Callable[[], None]) -> None:
        asked = Exchange(GetRemoteBuffers([blob]))
        whole = False
        try:
            self.conversation.proceed(asked, self.deadline)
            (found,) = asked.outcomes
            if found == [] or isinstance(found, ServerError):
                whole = True
                # One that is not sealed is code 14 or, since some release, 2 (KeyError).
                raise ObjectNotFound(
                    f"The blob {format_id(blob)} is gone from {self.peer}, or was never completed.",
                    "It was deleted a moment ago, or its writer was killed: run again what produced it.",
                )
            if isinstance(found, Exception):
                whole = True
                raise found
            sizes = [payload.size for payload in found]
            if sizes != [nbytes]:
                raise ProtocolError(f"{self.peer} offers {sizes} bytes where {nbytes} were asked for.")
            with self.moving():
                take()
            whole = True
        finally:
            if not whole:  # bytes are still to come that nobody will take
                self.conversation.retire()
