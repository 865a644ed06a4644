"""What a connection needs of a byte stream; chosen at construction, so that tests can hand in a faulty one."""

from __future__ import annotations

from typing import Protocol

from .deadline import Deadline
from .fds import OwnedFD

__all__ = ["Stream"]


class Stream(Protocol):
    """A connected, reliable byte stream with deadlines.

    Every method raises ConnectionFailed when the peer is gone and DeadlineExceeded when the time is up. After either
    the stream is out of step and must be closed.
    """

    @property
    def peer(self) -> str:
        """The other end, as a person would name it."""
        ...

    def send(self, data: bytes, deadline: Deadline) -> None:
        """Send all of ``data``."""
        ...

    def receive(self, nbytes: int, deadline: Deadline) -> bytes:
        """Return exactly ``nbytes`` bytes, and take no byte more from the stream."""
        ...

    def receive_fd(self, deadline: Deadline) -> OwnedFD:
        """Return the file descriptor that comes next; a stream that carries none raises ProtocolError."""
        ...

    def close(self) -> None:
        """Close this process's end without telling the peer more than that; idempotent."""
        ...
