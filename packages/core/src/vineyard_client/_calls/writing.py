"""Make objects, and room for them: in one step, in place, or in vineyard's own types."""

from __future__ import annotations

import logging
from typing import Callable, List, Mapping, Optional, Sequence, TypeVar

from .._io.pinfile import one_at_a_time
from .._store import objects
from .._store.connection import Connection
from .._store.making import Chunk, Making
from .._store.meta import ValueMeta
from .._wire.messages import InstanceStatus, Persist
from ..exceptions import StoreFull
from ..ids import format_id
from ..reference import ObjectRef
from . import housekeeping
from .session import Session, native_objects

__all__ = ["persist", "put", "put_native", "with_room"]

log = logging.getLogger("vineyard_client.client")

# How often to try although nothing was freed: somebody else may have been faster at it.
_TRIES = 3

Stored = TypeVar("Stored")


def put(
    session: Session,
    connection: Connection,
    meta: ValueMeta,
    chunks: Sequence[Chunk],
    *,
    same_as: Optional[int],
    persistent: bool,
    made: List[Making],
) -> Optional[ObjectRef]:
    """Store an envelope and return the reference to it.

    Args:
        session: whose store it is.
        connection: to that store.
        meta: what is said of the value.
        chunks: the envelope.
        same_as: id of an object that may hold the same envelope, whose memory is shared then.
        persistent: make it visible to every instance of the cluster.
        made: a list for what is made, which the caller undoes if anything fails from here on.

    Returns:
        None if it is not the same as that other object; nothing is stored then.

    Raises:
        StoreFull: there is no room; nothing is stored.
    """
    if same_as is not None:
        number = objects.share_object(connection, meta, same_as, chunks, made)
        if number is None:
            return None
    else:
        number = with_room(session, connection, lambda: objects.write_object(connection, meta, chunks, made))
    persist(connection, number, persistent)
    log.debug("put %s: %s, %d bytes", format_id(number), meta.type, meta.size)
    return session.reference(connection, number, meta)


def put_native(session: Session, value: object, labels: Mapping[str, str], persistent: bool) -> ObjectRef:
    """Store a value in vineyard's own types and return the reference to it.

    Raises:
        UnsafeType: vineyard's own types have no form for it.
        StoreFull: there is no room; nothing is stored.
    """
    draft = native_objects().draft(value)
    connection = session.connection()
    written = with_room(session, connection, lambda: native_objects().write(connection, draft, labels))
    persist(connection, written.number, persistent)
    log.debug("put %s: %s", format_id(written.number), written.typename)
    return written.info(session.socket, session.advertised(connection)).ref


def persist(connection: Connection, number: int, wanted: bool) -> None:
    """Make an object visible to every instance of the cluster, if that is wanted; where it fails, the object goes."""
    if not wanted:
        return
    try:
        connection.call(Persist(number))
    except BaseException:
        objects.discard(connection, number)
        raise


def with_room(session: Session, connection: Connection, store: Callable[[], Stored]) -> Stored:
    """Store something; when the store is full, collect what nobody needs and try again for as long as that helps.

    Several writers may find the store full at the same moment. One after the other makes room: the first frees for all,
    and who comes next tries before it collects, too. That somebody else was faster at collecting, or took the room that
    one has made, shows in what is in use; so a writer only gives up when nothing was freed and there is no room.
    """
    try:
        return store()
    except StoreFull as error:
        full = error
    with one_at_a_time(connection.memory, connection.deadline):
        tries = _TRIES
        while tries and (full.limit is None or full.requested <= full.limit):
            try:
                return store()
            except StoreFull as error:
                full = error
            freed = housekeeping.collect(session, connection)
            status = connection.call(InstanceStatus())
            if freed or (full.used is not None and status.memory_used < full.used):
                continue
            # There may be room and yet none in one piece.
            tries = tries - 1 if status.memory_used + full.requested <= status.memory_limit else 0
    raise full
