"""One connection of a client for each process, across forks.

A connection is made when it is first needed, and again after it broke. A forked child gets its own. The parent gets
another one as well if the child has views that rely on the old one's marks, and holds its own views through that.
"""

from __future__ import annotations

import weakref
from typing import Callable, Optional, Set

from .._forks import everywhere, in_child, in_parent
from .._io.deadline import Deadline
from .._io.turn import Turn
from .connection import Connection
from .conversation import Conversation

__all__ = ["PerProcess"]

_all: Set[weakref.ref[PerProcess]] = set()


class PerProcess:
    """The connections of one client, of which this process has one."""

    def __init__(self) -> None:
        self._connection: Optional[Connection] = None
        self._turn = Turn("the client to connect")
        self._left: Set[weakref.ref[Conversation]] = set()
        _all.add(weakref.ref(self, _all.discard))

    def get(self, connect: Callable[[], Connection], deadline: Deadline) -> Connection:
        """Return this process's connection; call ``connect`` for one if there is none that works.

        Raises:
            DeadlineExceeded: other threads tried to connect for all of the time.
        """
        connection = self._connection
        if connection is None or not connection.usable or connection.conversation.leaving:
            connection = self._turn.run(lambda: self._connected(connect), deadline)
        if self._left:
            self._take_over(connection, deadline)
        return connection

    def _take_over(self, connection: Connection, deadline: Deadline) -> None:
        """Have a connection hold what is held through those that a child has, too."""
        for reference in tuple(self._left):
            conversation = reference()
            if conversation is not None:
                connection.conversation.take_over(conversation, deadline)
            else:
                self._left.discard(reference)

    def _connected(self, connect: Callable[[], Connection]) -> Connection:
        connection = self._connection
        if connection is None or not connection.usable or connection.conversation.leaving:
            # Closed, if nothing holds it, before another descriptor is needed.
            self._connection = connection = None
            self._connection = connection = connect()
        return connection

    def close(self) -> None:
        """Close this process's connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def forked(self) -> None:
        """In a parent: let go of a connection whose marks a child relies on."""
        if self._connection is not None and self._connection.conversation.shared:
            self._left.add(weakref.ref(self._connection.conversation))
            self._connection = None

    def inherited(self) -> None:
        """In a child: have nothing yet, and a lock that nobody holds."""
        self._connection = None
        self._left = set()
        self._turn = Turn("the client to connect")


in_parent(everywhere(_all, PerProcess.forked))
in_child(everywhere(_all, PerProcess.inherited))
