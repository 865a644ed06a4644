"""What a connection needs of a byte stream; chosen at construction, so that tests can hand in a faulty one.

What is sent and received is noted in *boxes* of the caller, which are there before: an exception of a signal handler
may end a method at any moment, and the caller can still tell how far it came, and go on from there.
"""

from __future__ import annotations

from typing import Deque, Optional, Protocol, Tuple, Union

from .deadline import Deadline
from .fds import OwnedFD

__all__ = ["Data", "Stream"]

Data = Union[bytes, memoryview]


class Stream(Protocol):
    """A connected, reliable byte stream with deadlines.

    Every method raises ConnectionFailed when the peer is gone and DeadlineExceeded when the time is up.
    """

    @property
    def peer(self) -> str:
        """The other end, as a person would name it."""
        ...

    @property
    def place(self) -> Optional[Tuple[int, ...]]:
        """What tells the peer from another one at the same address; None if nothing does."""
        ...

    def send(self, data: Data, deadline: Deadline, sent: Optional[Deque[int]] = None) -> None:
        """Send all of ``data``.

        Args:
            data: the bytes.
            deadline: when the time is up.
            sent: a box for the numbers of bytes that went.
        """
        ...

    def receive(self, nbytes: int, deadline: Deadline, box: Optional[Deque[bytes]] = None) -> bytes:
        """Return exactly ``nbytes`` bytes, and take no byte more from the stream.

        Args:
            nbytes: how many.
            deadline: when the time is up.
            box: a box for the same bytes, in pieces.
        """
        ...

    def ask(self, data: Data, nbytes: int, deadline: Deadline, sent: Deque[int], box: Deque[bytes]) -> None:
        """Send a short request, then receive at most ``nbytes`` bytes of what is answered, at least one.

        The IPC socket does both in one step that no exception can divide: what was asked for is then either not on its
        way, or its answer has begun to arrive, and stays to be read also when the socket is shut down meanwhile.
        """
        ...

    def receive_fd(self, deadline: Deadline, owner: Optional[OwnedFD] = None) -> OwnedFD:
        """Return the file descriptor that comes next; a stream that carries none raises ProtocolError.

        Args:
            deadline: when the time is up.
            owner: who owns it from the moment when it is there, and is returned; by default a new one.
        """
        ...

    def fileno(self) -> int:
        """Return the file descriptor on which short messages may also be sent without waiting; -1 if there is none."""
        ...

    def close(self) -> object:
        """Close this process's end without telling the peer more than that; idempotent."""
        ...
