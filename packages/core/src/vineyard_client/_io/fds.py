"""A file descriptor with one owner."""

from __future__ import annotations

import operator
import os
import socket
import struct
from collections import deque
from functools import partial
from itertools import chain, compress, starmap
from typing import Any, Callable, Deque, List, Optional, Tuple

from .steps import keep, run_all, when_dropped

__all__ = ["OwnedFD", "OwnedPipe"]

_NUMBER = struct.Struct("i")
# Room for one descriptor: the kernel closes others and says that it did.
_ROOM = socket.CMSG_LEN(_NUMBER.size) if hasattr(socket, "CMSG_LEN") else 0
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


_ancillary, _kind, _content = operator.itemgetter(1), operator.itemgetter(0, 1), operator.itemgetter(2)
_is_fd = partial(operator.eq, (socket.SOL_SOCKET, getattr(socket, "SCM_RIGHTS", -1)))


class OwnedFD:
    """Hold a file descriptor and close it exactly once.

    The owner is there first: ``take`` opens a file and puts its descriptor here in one step, so that no exception can
    come between. ``close`` is idempotent; one that is lost is closed then. No warning says so: that would be Python
    code in a finalizer, where a signal handler may run whose exception would be thrown away.

    Args:
        fd: a descriptor that is open already; None for one to come.
    """

    def __init__(self, fd: Optional[int] = None) -> None:
        self._box: Deque[Optional[int]] = deque([None] if fd is None else [None, fd])
        self._messages: List[Tuple[Any, ...]] = []
        #: Close the descriptor; later calls do nothing. Written in C, so that a finalizer may call it.
        self.close: Callable[[], object] = partial(next, filter(None, map(os.close, iter(self._box.pop, None))), None)
        when_dropped(self, self.close)

    def take(self, function: Callable[..., int], *arguments: Any) -> OwnedFD:
        """Call what opens a file and is written in C, own the descriptor that it returns, and return this object.

        Raises:
            OSError: as the function.
        """
        keep(self._box, function, *arguments)
        return self

    def receive(self, sock: socket.SocketType) -> None:
        """Own the descriptor that rides on the next byte of a socket; ``message`` tells what came.

        Raises:
            OSError: as ``recvmsg``.
        """
        parts, same = (chain.from_iterable(map(_ancillary, self._messages)) for _ in range(2))
        contents = map(_content, compress(parts, map(_is_fd, map(_kind, same))))
        run_all(
            partial(self._messages.extend, starmap(sock.recvmsg, ((1, _ROOM, _FLAGS),))),
            partial(self._box.extend, chain.from_iterable(map(_NUMBER.unpack, contents))),
        )

    @property
    def message(self) -> Optional[Tuple[Any, ...]]:
        """What ``recvmsg`` returned, when something was received."""
        return self._messages[0] if self._messages else None

    @property
    def fd(self) -> int:
        """The descriptor's number.

        Raises:
            ValueError: it has been closed.
        """
        number = self._box[-1] if self._box else None
        if number is None:
            raise ValueError("This file descriptor has been closed.")
        return number

    @property
    def open(self) -> bool:
        """Whether there is a descriptor here."""
        return len(self._box) > 1

    def __repr__(self) -> str:
        """Show the number, or that it is closed."""
        return f"OwnedFD({self._box[-1] if self.open else 'closed'})"


class OwnedPipe:
    """A pipe with one owner, who is there before it."""

    def __init__(self) -> None:
        self._box: Deque[Optional[int]] = deque([None])
        #: Close both ends; later calls do nothing.
        self.close: Callable[[], object] = partial(next, filter(None, map(os.close, iter(self._box.pop, None))), None)

    def open(self) -> Tuple[int, int]:
        """Open the pipe and return its ends, the one to read from first.

        Raises:
            OSError: this process may open no further file.
        """
        self._box.extend(chain.from_iterable(starmap(os.pipe, ((),))))
        _, reader, writer = self._box
        assert reader is not None and writer is not None
        return reader, writer
