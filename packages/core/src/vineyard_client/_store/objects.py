"""Objects on one connection: the order of steps that keeps values whole under deletes, kills and reused ids.

Writing (``Making``): a small envelope goes into the metadata, in one step. Any other: allocate guard and blob;
seal and pin the guard; store the metadata; write; seal the blob; release both. The
metadata come before the bytes so that what a killed writer leaves is listed and can be freed. (One killed between
allocating and storing the metadata, some hundred microseconds, leaves a blob that nothing lists.) A writer that lives
frees what it began, whatever ended it.

Reading (``open_object``): *find* the object, *pin* its blobs, *look again* whether the object is still there.

Deleting (``delete_object``): a *tombstone* takes hold of the blobs, the object is *seen* to be there still, it *goes*,
and only then is *asked* whether a blob is in use; if one is, the tombstone stays, and keeps the memory until it is
collected. Two may delete at once: each has a tombstone, and the last one that goes frees the memory.

Why a reader is never handed memory that is freed::

    reader   find ........ pin ... look again ..... read
    deleter         tombstone  .. object goes ... in use? ... free

    Either the second look comes before the object goes: then the pin came earlier still, and the deleter sees it.
    Or it comes after: then the reader finds nothing and gives up.

An object may have blobs of others (``sharing``). Whoever puts it has held them without a break since it read them, so
no deleter has found them unread, and the object or a tombstone from which they come is there; when the new object is
stored, they are its members, and the server keeps them with it. All of the above holds for each object by itself then.

Every object is told by its token: ids alone may belong to another object since the server restarted.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from .._wire.messages import CreateData, DeleteData, GetData, ListData, Payload
from .._wire.status import CODE_NOT_SEALED
from ..exceptions import ObjectCorrupted, ObjectNotFound, ServerError, VineyardError
from ..ids import format_id
from .connection import Connection, Pin
from .inventory import DELETED, DELETING, GONE, SMALL_GONE, TOMBSTONE_KEPT
from .making import Chunk, Making
from .meta import INLINE_LIMIT, TOMBSTONE, VALUE, ValueMeta

__all__ = [
    "BATCH",
    "COPY_LIMIT",
    "Envelope",
    "delete_object",
    "discard",
    "find_object",
    "free",
    "incomplete_objects",
    "is_whole",
    "is_tombstone",
    "list_objects",
    "open_object",
    "orphaned",
    "places_of",
    "read_preview",
    "share_object",
    "unread_tombstones",
    "write_object",
]

log = logging.getLogger("vineyard_client.objects")

# Bytes up to which a blob is copied instead of mapped: below, copying is faster than the system calls and page faults
# of a mapping, and nothing stays pinned.
COPY_LIMIT = 64 * 1024

# Ids in one request, which takes the server some milliseconds; then others get their turns.
BATCH = 100

# The blobs that have a value's envelope: its own, and those that it shares.
Envelope = Tuple[memoryview, ...]

_GONE_HINT = "It was deleted, or the server restarted since it was put: run again what produced it."


# ---- writing


def write_object(
    connection: Connection,
    meta: ValueMeta,
    chunks: Sequence[Chunk],
    made: Optional[List[Making]] = None,
    preview: bytes = b"",
) -> int:
    """Store an envelope and return the object's id.

    Args:
        connection: where to.
        meta: with neither content nor blobs; ``meta.size`` is the size of the envelope.
        chunks: the envelope.
        made: a list for what is made, so that the caller can undo it also when this has returned.
        preview: what people are shown of the value, if anything; ``INLINE_PREVIEW`` says of which size for a small one.

    Raises:
        StoreFull: there is no room; nothing is left.
    """
    making = Making(connection, meta, preview)
    if made is not None:
        made.append(making)
    try:
        if meta.size <= INLINE_LIMIT:
            making.store_inline(b"".join(chunks))
        else:
            making.start()
            connection.write(making.payload, chunks)
            making.finish()
        return making.number
    except BaseException:
        making.undo()
        raise
    finally:
        making.let_go()


def discard(connection: Connection, number: int) -> None:
    """Free an object that nobody knows of yet; where that fails, it stays until it is collected, or deleted by hand."""
    try:
        connection.renewed(1.0).call(DeleteData([number]))
    except VineyardError as error:
        log.warning("an unfinished object stays in %s: %s", connection.peer, error)


# ---- reading


def find_object(connection: Connection, number: int, token: Optional[str]) -> ValueMeta:
    """Return the metadata of an object.

    Args:
        connection: where to look.
        number: the object's id.
        token: what tells it from another object with its id; None takes the id at its word.

    Raises:
        ObjectNotFound: there is no such object, or it is another one.
        ObjectCorrupted: its metadata make no sense.
    """
    return _check(connection, number, token, connection.call(GetData([number])).get(number))


def _check(connection: Connection, number: int, token: Optional[str], tree: Optional[Dict[str, Any]]) -> ValueMeta:
    if tree is None or (token is not None and tree.get("token") != token):
        raise _not_there(connection, number)
    meta = ValueMeta.read(tree)
    if meta.content is None and meta.instance_id != connection.instance.instance_id:
        # Instances that share metadata see each other's persisted objects, but not their blobs.
        raise ObjectNotFound(f"{format_id(number)} is not in {connection.peer}, but in instance {meta.instance_id}.")
    return meta


def _not_there(connection: Connection, number: int) -> ObjectNotFound:
    return ObjectNotFound(f"{format_id(number)} is not in {connection.peer}.", _GONE_HINT)


def open_object(connection: Connection, number: int, token: str) -> Envelope:
    """Return the blobs that have the envelope of an object: private copies of small ones, private mappings of others.

    The first is its own, the others are those that it shares, in their order.

    Raises:
        ObjectNotFound: there is no such object, or it is not complete.
        ObjectCorrupted: its metadata make no sense.
    """
    meta = find_object(connection, number, token)
    if meta.content is not None:
        return (memoryview(bytearray(meta.content)),)
    pin = connection.pin(*meta.blobs)
    try:
        payloads = _look_again(pin, connection, number, token)
        return tuple([_open(connection, payload, pin) for payload in payloads])
    finally:
        pin.release()


def _open(connection: Connection, payload: Payload, pin: Pin) -> memoryview:
    if payload.size <= COPY_LIMIT:
        return memoryview(connection.read(payload))
    return connection.map(payload, pin)


def read_preview(connection: Connection, number: int, token: str) -> bytes:
    """Return what people are shown of a value; empty if there is nothing.

    Raises:
        ObjectNotFound: there is no such object.
        ObjectCorrupted: its metadata make no sense.
    """
    meta = find_object(connection, number, token)
    if isinstance(meta.preview, str) or not meta.preview:
        return str(meta.preview or "").encode()
    pin = connection.pin(meta.guard)
    try:
        (payload,) = _look_again(pin, connection, number, token)
        if payload.size != meta.guard_size:
            raise ObjectCorrupted(f"The preview of {format_id(number)} has {payload.size} bytes, not {meta.preview}.")
        return bytes(connection.read(payload))
    finally:
        pin.release()


def places_of(connection: Connection, number: int, token: str) -> List[Payload]:
    """Return the places of an object's blobs, its own first; none if the envelope is in the metadata.

    Raises:
        ObjectNotFound: there is no such object, or it is not complete.
    """
    meta = find_object(connection, number, token)
    if meta.content is not None:
        return []
    pin = connection.pin(*meta.blobs)
    try:
        return _look_again(pin, connection, number, token)
    finally:
        pin.release()


def is_whole(connection: Connection, number: int, token: str) -> bool:
    """Tell whether an object is there and complete."""
    try:
        places_of(connection, number, token)
    except ObjectNotFound:
        return False
    return True


def share_object(
    connection: Connection,
    meta: ValueMeta,
    number: int,
    chunks: Sequence[Chunk],
    made: Optional[List[Making]] = None,
) -> Optional[int]:
    """Store an object with the blob of another one, if that is there and holds the same envelope.

    Either can be deleted without the other: the server frees a blob with the last object that has it.

    Args:
        connection: where to.
        meta: as for ``write_object``, with the token of the other object.
        number: the other object's id.
        chunks: the envelope.
        made: as for ``write_object``.

    Returns:
        The new object's id; None if there is nothing to share, which goes for small objects, too.
    """
    try:
        other = find_object(connection, number, meta.token)
    except ObjectNotFound:
        return None
    # A replica goes when its original does, a value of this host does not.
    if other.content is not None or other.origin is not None or other.size != meta.size or other.shared:
        return None
    pin = connection.pin(other.blob)
    making = Making(connection, replace(meta, blob=other.blob, guard=other.guard, preview=other.preview))
    if made is not None:
        made.append(making)
    try:
        (payload,) = _look_again(pin, connection, number, meta.token)
        if payload.size != meta.size or not connection.holds(payload, chunks):
            return None
        making.store_shared()
        return making.number
    except ObjectNotFound:
        return None
    except BaseException:
        making.undo()
        raise
    finally:
        pin.release()


def _look_again(pin: Pin, connection: Connection, number: int, token: str) -> List[Payload]:
    """Pin an object's blobs and return their places, if the object is still there."""
    try:
        payloads, trees = pin.take(then=GetData([number]))
    except ServerError as error:
        if error.code != CODE_NOT_SEALED:
            raise
        raise ObjectNotFound(
            f"{format_id(number)} in {connection.peer} is not complete.",
            "Its writer is still at work, or was killed: run again what produced it.",
        ) from error
    # What an object is never changes: it is enough that it is still this one.
    if payloads is None or trees.get(number, {}).get("token") != token:
        raise _not_there(connection, number)
    return payloads


# ---- deleting


def delete_object(connection: Connection, number: int, token: Optional[str]) -> bool:
    """Delete an object and return whether it was there; who reads it is not disturbed."""
    try:
        meta = find_object(connection, number, token)
    except ObjectNotFound:
        return False
    except ObjectCorrupted:  # nobody can read it, so there is nobody to mind
        meta = None
    if meta is None or meta.content is not None:
        connection.call(DeleteData([number]))
        if meta is not None:
            _note(connection, SMALL_GONE, number, meta)
        return True
    this_delete = int.from_bytes(os.urandom(8), "little")
    _note(connection, DELETING, this_delete, meta)
    tombstone, trees = connection.call_all(CreateData(meta.tree(TOMBSTONE)), GetData([number]))
    if number not in trees:
        # Somebody else has deleted it meanwhile, and the blob may be gone: of such a one the server says for ever that
        # it is in use.
        connection.call(DeleteData([tombstone]))
        _note(connection, DELETED, this_delete, meta)
        return False
    if not any(connection.in_use(meta.blobs, after=[DeleteData([number])])):
        connection.call(DeleteData([tombstone]))
    else:
        _note(connection, TOMBSTONE_KEPT, tombstone, meta)
    _note(connection, GONE, number, meta)
    _note(connection, DELETED, this_delete, meta)
    return True


def _note(connection: Connection, kind: bytes, number: int, meta: ValueMeta) -> None:
    if connection.inventory is not None:
        connection.inventory.note(kind, number, meta)


def free(connection: Connection, garbage: Mapping[int, ValueMeta]) -> None:
    """Free objects that nobody can have found, a few at a time."""
    numbers = list(garbage)
    for start in range(0, len(numbers), BATCH):
        some = numbers[start : start + BATCH]
        connection.call(DeleteData(some))
        for number in some:
            _note(connection, GONE, number, garbage[number])


# ---- what is there


def is_tombstone(connection: Connection, number: int) -> bool:
    """Tell whether an id is that of what keeps a deleted value."""
    return bool(connection.call(GetData([number])).get(number, {}).get("typename") == TOMBSTONE)


def list_objects(connection: Connection, typename: str = VALUE) -> List[Tuple[int, ValueMeta]]:
    """Return all values or all tombstones of this instance, oldest first; what cannot be read is left out, and logged.

    Instances that share metadata also list each other's persisted objects.
    """
    found = []
    trees = connection.call(ListData(typename))
    with connection.moving():  # of a hundred thousand objects that takes seconds
        while trees:
            number, tree = trees.popitem()  # what has been read is let go: a tree takes several times as much
            try:
                meta = ValueMeta.read(tree)
            except VineyardError as error:
                log.warning("leaving %s out of the list: %s", format_id(number), error)
                continue
            if meta.instance_id == connection.instance.instance_id:
                found.append((number, meta))
        found.sort(key=lambda item: (item[1].created, item[0]))
    return found


def incomplete_objects(connection: Connection, objects: Sequence[Tuple[int, ValueMeta]]) -> Dict[int, bool]:
    """Return those of the objects whose blob is not sealed, and whether their writers live.

    A writer lets go of the guard after it has sealed the blob. So the guard is asked first, and the blob once more
    after that: not sealed even then means that the writer died.
    """
    metas = {number: meta for number, meta in objects if meta.content is None}
    sealed = _sealed(connection, [meta.blob for meta in metas.values()])
    metas = {number: meta for number, meta in metas.items() if meta.blob not in sealed}
    in_use = connection.in_use([meta.guard for meta in metas.values()])
    sealed = _sealed(connection, [meta.blob for meta in metas.values()])
    return {number: alive for (number, meta), alive in zip(metas.items(), in_use) if meta.blob not in sealed}


def orphaned(
    tombstones: Sequence[Tuple[int, ValueMeta]], values: Sequence[Tuple[int, ValueMeta]]
) -> List[Tuple[int, ValueMeta]]:
    """Return those of the tombstones whose values are gone; the others belong to deletes that are under way.

    Such a one may not be freed, even if nobody reads: a reader may come while the value is there, and the delete relies
    on its tombstone to keep the memory. The values must have been listed after the tombstones, so that a value which is
    not among them is gone for good.
    """
    held = {meta.blob for _, meta in values}
    return [(number, meta) for number, meta in tombstones if meta.blob not in held]


def unread_tombstones(connection: Connection, objects: Sequence[Tuple[int, ValueMeta]]) -> Iterator[int]:
    """Return those of the tombstones none of whose blobs anybody reads, or writes.

    The server says for ever that an unsealed blob is in use, so its guard tells whether that is so.
    """
    abandoned = {number for number, alive in incomplete_objects(connection, objects).items() if not alive}
    blobs = list(dict.fromkeys(blob for _, meta in objects for blob in meta.blobs))
    in_use = dict(zip(blobs, connection.in_use(blobs)))
    return (number for number, meta in objects if number in abandoned or not any(in_use[blob] for blob in meta.blobs))


def _sealed(connection: Connection, blobs: Sequence[int]) -> Dict[int, Dict[str, Any]]:
    """Return those blobs that are sealed; of others the server says that they do not exist."""
    found: Dict[int, Dict[str, Any]] = {}
    for start in range(0, len(blobs), BATCH):
        trees: Dict[int, Dict[str, Any]] = connection.call(GetData(blobs[start : start + BATCH]))
        found.update(trees)
    return found
