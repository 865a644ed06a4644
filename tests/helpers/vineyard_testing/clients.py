"""Clients whose conversation a test can look into, and break."""

from __future__ import annotations

from typing import Any, Callable

from vineyard_client import Client
from vineyard_client._store.connection import Connection

from .streams import WatchedStream


class WatchedClient(Client):
    """A client that calls ``before`` and ``after`` around each step of its conversation, registering left out.

    Attributes:
        before: called with the number of the step, counted from one, and its name.
        after: likewise.
    """

    def __init__(self, socket: str, **options: Any) -> None:
        self.before: Callable[[int, str], None] = _nothing
        self.after: Callable[[int, str], None] = _nothing
        super().__init__(socket, **options)
        connect = self._session._connect
        self._session._connect = lambda deadline: self._watch(connect(deadline))  # type: ignore[method-assign]
        self._watch(self._connection())

    def _watch(self, connection: Connection) -> Connection:
        connection.conversation.stream = WatchedStream(
            connection.conversation.stream, lambda *step: self.before(*step), lambda *step: self.after(*step)
        )
        return connection

    @property
    def steps(self) -> int:
        """How many steps the conversation has had."""
        stream = self._connection().conversation.stream
        assert isinstance(stream, WatchedStream)
        return stream.number


def _nothing(number: int, name: str) -> None:
    """Leave a step alone."""
