"""Make objects, and room for them: in one step, in place, or in vineyard's own types."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Callable, List, Mapping, Optional, Sequence, Tuple, TypeVar

from .. import _codec
from .._io.pinfile import one_at_a_time
from .._store import objects
from .._store.connection import Connection
from .._store.inventory import IN_METADATA
from .._store.making import Making, SharedGone
from .._store.meta import INLINE_LIMIT, ValueMeta
from .._store.sharing import recognise
from .._wire.messages import Payload, Persist
from ..exceptions import StoreFull, TierFailed
from ..ids import format_id
from ..reference import ObjectRef, number_of
from . import housekeeping
from .session import Session, native_objects

if TYPE_CHECKING:
    from .._native.writing import Writing
    from .._tiers.notes import Note

__all__ = ["persist", "put", "put_native", "require_room", "save", "take_back", "with_room"]

log = logging.getLogger("vineyard_client.client")

# How often to try although nothing was freed: somebody else may have been faster at it.
_TRIES = 3

# How often room is made for one value before it has to do without.
_ROOM_TRIES = 4

# Seconds between two looks at each value of a full store, which may take as many.
_LOOK_AGAIN = 60.0

Stored = TypeVar("Stored")


def put(
    session: Session,
    connection: Connection,
    meta: ValueMeta,
    encoded: _codec.Encoded,
    *,
    same_as: Optional[ObjectRef],
    persistent: bool,
    made: List[Making],
    noted: List[Note],
    path: Sequence[str] = (),
    preview: bytes = b"",
) -> Optional[ObjectRef]:
    """Store an envelope and return the reference to it; what is in the store already is shared (``_store.sharing``).

    Args:
        session: whose store it is.
        connection: to that store.
        meta: what is said of the value.
        encoded: the envelope.
        same_as: an object that may hold the same envelope, whose memory is shared then.
        persistent: make it visible to every instance of the cluster.
        made: a list for what is made, which the caller undoes if anything fails from here on.
        noted: likewise for what is noted to save it, which ``take_back`` undoes.
        path: what stands before the token in the key of its copy in the tier.
        preview: what people are shown of it.

    Returns:
        None if it is not the same as that other object; nothing is stored then.

    Raises:
        StoreFull: there is no room, neither in the store nor, where values are saved, on the disk.
        TierFailed: it was to be saved, and could not be; the caller undoes what is made.
        ValueError: the path is too long.
    """
    tiers = session.tiers if session.tiers is not None and session.tiers.saves else None
    if tiers is not None:
        from . import keeping

        key = keeping.key_for(path, meta.token, shared=same_as is not None)
    if same_as is not None:
        same = objects.share_object(connection, meta, number_of(same_as), encoded.chunks, made)
        if same is None:
            return None
        number = same
        places = [] if tiers is None else objects.places_of(connection, number, meta.token)
    else:
        try:
            number, places = _written(session, connection, meta, encoded, made, preview)
        except StoreFull as full:
            if tiers is None:
                raise
            return keeping.keep_outside(tiers, session.advertised(connection), meta, key, encoded.chunks, noted, full)
    persist(connection, number, persistent)
    log.debug("put %s: %s, %d bytes", format_id(number), meta.type, meta.size)
    ref = session.reference(connection, number, meta)
    if tiers is None:
        return ref
    copy = same_as.copy if same_as else None
    return keeping.keep(tiers, session.identity, ref, places, key, encoded.chunks, noted, copy)


def _written(
    session: Session,
    connection: Connection,
    meta: ValueMeta,
    encoded: _codec.Encoded,
    made: List[Making],
    preview: bytes,
) -> Tuple[int, List[Payload]]:
    """Write an envelope, or what of it is not in the store; return the object's id and the places of its blobs."""

    def write(meta: ValueMeta, chunks: Sequence[_codec.Chunk]) -> int:
        def store() -> int:
            require_room(connection, meta.memory)
            return objects.write_object(connection, meta, chunks, made, preview)

        return with_room(session, connection, store)

    sharing = recognise(connection, encoded.buffers)
    if sharing is not None:
        try:
            chunks, own = encoded.without(sharing.elsewhere)
            new = replace(meta, own=own, shared=sharing.blobs, sizes=sharing.sizes)
            return write(new, chunks), [made[-1].payload, *sharing.payloads]
        except SharedGone as gone:  # by force: what is still here is written
            log.warning("%s All of the value is written.", str(gone))
        finally:
            sharing.release()
    return write(meta, encoded.chunks), [] if meta.size <= INLINE_LIMIT else [made[-1].payload]


def require_room(connection: Connection, nbytes: int) -> None:
    """Return if there is room beside the values that are in their metadata, which the server does not count.

    They count where they take more than a sixteenth of the store; it is looked at once in a while (``Inventory``).

    Raises:
        StoreFull: together with those, the store is full.
    """
    inventory = connection.inventory
    beside = 0 if inventory is None else inventory.beyond()
    if inventory is None or not beside:
        return
    status = connection.fullness()
    if status.memory_used + beside + nbytes <= status.memory_limit:
        inventory.spare()
        return
    raise StoreFull(
        f"The store at {connection.peer} has no room for {nbytes} bytes: {status.memory_used} of "
        f"{status.memory_limit} are in use, and some {beside} by {beside // IN_METADATA} small values in metadata.",
        "Delete what nobody needs (vineyard-client list, gc --older-than), or give vineyardd a larger --size.",
        requested=nbytes,
        used=status.memory_used,
        limit=status.memory_limit,
    )


def take_back(session: Session, noted: Sequence[Note]) -> None:
    """Undo what was done to save values of which nobody will learn."""
    for note in noted:
        if session.tiers is not None:
            session.tiers.take_back(note)


def save(session: Session, connection: Connection, ref: ObjectRef, path: Sequence[str], noted: List[Note]) -> ObjectRef:
    """Save a value that is in the store, as ``put`` does it, and return the reference that has its copy.

    Args are those of ``put``.

    Raises:
        TierFailed: it was to be saved, and could not be; the caller undoes it.
        ValueError: the path is too long; likewise.
    """
    if session.tiers is None or not session.tiers.saves:
        return ref
    from . import keeping

    number = number_of(ref)
    key = keeping.key_for(path, ref.token, shared=False)
    places = objects.places_of(connection, number, ref.token)
    envelope = _codec.flatten(*objects.open_object(connection, number, ref.token))
    return keeping.keep(session.tiers, session.identity, ref, places, key, envelope, noted)


def put_native(session: Session, value: object, labels: Mapping[str, str], persistent: bool) -> ObjectRef:
    """Store a value in vineyard's own types and return the reference to it.

    Raises:
        UnsafeType: vineyard's own types have no form for it.
        StoreFull: there is no room; nothing is stored.
    """
    draft = native_objects().draft(value)
    connection = session.connection()
    made: List[Writing] = []
    try:
        written = with_room(session, connection, lambda: native_objects().write(connection, draft, labels, made))
        persist(connection, written.number, persistent)
        log.debug("put %s: %s", format_id(written.number), written.typename)
        return written.info(session.socket, session.advertised(connection)).ref
    except BaseException:  # nobody learns of it
        for writing in made:
            writing.undo()
        raise


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

    Where there are tiers, values leave that they have, and what finds no room goes to the disk.

    Nothing is listed for it. Only who would fail otherwise looks, once in a while, at each value that the inventory
    has: its memory may be garbage though no record says so.
    """
    try:
        return store()
    except StoreFull as error:
        full = error.with_traceback(None)
    for _ in range(_ROOM_TRIES if session.tiers is not None else 0):
        if not _made_room(session, connection, full):
            break
        try:
            return store()
        except StoreFull as error:  # what left was still read, or others were faster, or the room is in pieces
            full = error.with_traceback(None)
    with one_at_a_time(connection.memory, connection.deadline):
        tries = _TRIES
        while tries and (full.limit is None or full.requested <= full.limit):
            try:
                return store()
            except StoreFull as error:
                full = error
            freed = housekeeping.collect(session, connection, garbage=True)
            if not freed and session.tiers is None and _may_look(connection):
                freed = housekeeping.collect(session, connection)
            status = connection.fullness()
            if freed or (full.used is not None and status.memory_used < full.used):
                continue
            # There may be room and yet none in one piece.
            tries = tries - 1 if status.memory_used + full.requested <= status.memory_limit else 0
    raise full


def _may_look(connection: Connection) -> bool:
    """Whether to look at each value, for which others do not wait, but those who want room as well."""
    inventory = connection.inventory
    return inventory is None or inventory.may_look(_LOOK_AGAIN)


def _made_room(session: Session, connection: Connection, full: StoreFull) -> bool:
    from . import keeping

    assert session.tiers is not None
    try:
        return keeping.make_room(session.tiers, connection, full.requested, full.limit or 0) > 0
    except TierFailed as error:
        log.warning("no value leaves the full store: %s", error)
        return False
