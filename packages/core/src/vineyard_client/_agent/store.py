"""What the agent has of a store: a connection while its server lives, and its memory also after that.

The server's memory is a file without a name, and exists for as long as anybody has it open. So when the server is
killed, what it held can still be read here, at the places that the notes name; ids and metadata are gone, and the
envelope itself tells whose it is.
"""

from __future__ import annotations

import logging
import os
from typing import Collection, Dict, List, Optional, Tuple

from .. import _codec
from .._calls.session import Session
from .._io.deadline import Deadline
from .._io.fds import OwnedFD
from .._io.mapping import map_private
from .._store import objects
from .._store.connection import Connection
from .._tiers.contract import Chunk
from .._tiers.local import shown
from .._tiers.notes import OVERFLOW, Note, Notes
from .._wire.messages import CreateBuffer, DropBuffer, InstanceStatus
from ..exceptions import ConnectionFailed, ObjectCorrupted, ObjectNotFound, StoreFull, VineyardError

__all__ = ["Deleted", "Lost", "Store"]

log = logging.getLogger("vineyard_client.agent")

# Seconds in which all that is asked of the store for one value must be done; a transfer is part of it.
_WORK = 600.0


class Deleted(Exception):
    """A value was deleted before it was saved."""


class Lost(Exception):
    """A value ended with its store before it was saved."""


class Store:
    """The store behind one socket.

    Args:
        session: connects to it.
        notes: of its values.
    """

    def __init__(self, session: Session, notes: Notes) -> None:
        self._session = session
        self._notes = notes
        self._memories: Dict[Tuple[str, int], int] = {}
        self._seen = ""
        self._connection: Optional[Connection] = None

    @property
    def connection(self) -> Optional[Connection]:
        """A connection to the store, for the work on one value; None while there is no server."""
        connection = self._connection
        return None if connection is None else connection.until(Deadline(_WORK))

    @property
    def identity(self) -> str:
        """Which store it is now; empty while there is none."""
        return self._session.identity if self._connection is not None else ""

    def look(self) -> bool:
        """Connect if need be, and return whether there is a server."""
        try:
            connection = self._session.connection()
            connection.call(InstanceStatus())
            if self._seen != self._session.identity:
                self._hold_memory(connection)
        except VineyardError as error:
            if self._connection is not None:
                log.warning("the store is gone: %s", error)
            elif not isinstance(error, ConnectionFailed):
                log.warning("the store cannot be used: %s", error)
            self._connection = None
            return False
        self._connection = connection
        return True

    def _hold_memory(self, connection: Connection) -> None:
        """Keep the store's memory open; it comes with the place of any blob."""
        identity = self._session.identity
        try:
            buffer = connection.call(CreateBuffer(1))
        except StoreFull:  # not a byte is free: next time
            return
        self._memories[(identity, buffer.payload.store_fd)] = os.dup(connection.store_fd(buffer.payload))
        self._seen = identity
        connection.call(DropBuffer(buffer.id))

    def envelope(self, note: Note) -> List[Chunk]:
        """Return the envelope of a value in pieces, as if it shared no memory; they stay what they are while they live.

        Raises:
            Deleted: somebody deleted it.
            Lost: it is nowhere any more.
            ConnectionFailed: the server went away, or there is none: this must be tried again.
        """
        if note.content is not None:
            return [note.content]
        if not note.number:
            return [self._overflow(note)]
        connection, identity = self.connection, self.identity
        if connection is not None and identity == note.store:
            try:
                return _codec.flatten(*objects.open_object(connection, note.number, note.token))
            except (ObjectNotFound, ObjectCorrupted) as error:
                raise Deleted(str(error)) from error
        pieces = note.pieces or ((note.memory, note.offset, note.size),)
        fds = [self._memories.get((note.store, memory)) for memory, _, _ in pieces]
        if None in fds:
            if connection is None:
                raise ConnectionFailed("There is no server, and its memory is not held.")
            raise Lost("the store that had it has ended")
        try:
            views = [map_private(fd or 0, offset, size, None) for fd, (_, offset, size) in zip(fds, pieces)]
            _codec.check(*views, token=bytes.fromhex(note.token))
            return _codec.flatten(*views)
        except (OSError, ObjectNotFound, ObjectCorrupted) as error:
            raise Lost(str(error)) from error

    def _overflow(self, note: Note) -> memoryview:
        path = os.path.join(self._notes.folder, OVERFLOW, note.token)
        try:
            file = OwnedFD().take(os.open, path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            return shown(file, note.size, path)
        except FileNotFoundError as error:
            raise Deleted(f"{path} is gone") from error
        except ObjectCorrupted as error:
            raise Lost(str(error)) from error

    def is_deleted(self, note: Note) -> bool:
        """Tell whether the object of a value is known to be gone from the store that had it."""
        connection = self.connection
        if not note.number or connection is None or self.identity != note.store:
            return False
        try:
            objects.find_object(connection, note.number, note.token)
        except ObjectNotFound:
            return True
        except VineyardError:
            return False
        return False

    def give_back(self, wanted: Collection[str]) -> None:
        """Let go of the memory of stores that have ended, those left out from which something is still wanted."""
        ended: List[Tuple[str, int]] = [
            key for key in self._memories if key[0] not in wanted and key[0] != self._session.identity
        ]
        if self._connection is None:
            ended = [key for key in self._memories if key[0] not in wanted]
        for key in ended:
            log.debug("giving the memory of the store %s back", key[0])
            os.close(self._memories.pop(key))
            self._seen = "" if self._seen == key[0] else self._seen

    def close(self) -> None:
        """Let go of everything."""
        self._session.close()
        while self._memories:
            os.close(self._memories.popitem()[1])
