"""Objects on one connection: the order of steps that keeps values whole under deletes, kills and reused ids.

Writing (``write_object``): a small envelope goes into the metadata, in one step. Any other: allocate guard and blob;
seal and pin the guard; store the metadata; write; seal the blob; release both. The
metadata come before the bytes so that what a killed writer leaves is listed and can be freed. (One killed between
allocating and storing the metadata, some hundred microseconds, leaves a blob that nothing lists.)

Reading (``open_object``): *find* the object, *pin* its blob, *look again* whether the object is still there.

Deleting (``delete_object``): a *tombstone* takes hold of the blob, the object is *seen* to be there still, it *goes*,
and only then is *asked* whether the blob is in use; if it is, the tombstone stays, and keeps the memory until it is
collected. Two may delete at once: each has a tombstone, and the last one that goes frees the memory.

Why a reader is never handed memory that is freed::

    reader   find ........ pin ... look again ..... read
    deleter         tombstone  .. object goes ... in use? ... free

    Either the second look comes before the object goes: then the pin came earlier still, and the deleter sees it.
    Or it comes after: then the reader finds nothing and gives up.

Every object is told by its token: ids alone may belong to another object since the server restarted.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from .._wire.messages import (
    BufferReply,
    CreateBuffer,
    CreateData,
    DeleteData,
    DropBuffer,
    GetData,
    InstanceStatus,
    ListData,
    Payload,
    Release,
    Request,
    Seal,
)
from .._wire.status import CODE_NOT_SEALED
from ..exceptions import ObjectCorrupted, ObjectNotFound, ServerError, StoreFull, VineyardError
from ..ids import format_id
from .connection import Connection
from .meta import GUARD_SIZE, INLINE_LIMIT, TOMBSTONE, VALUE, ValueMeta

__all__ = [
    "delete_object",
    "discard",
    "find_object",
    "finish_object",
    "incomplete_objects",
    "list_objects",
    "open_draft",
    "open_object",
    "orphaned",
    "share_object",
    "start_object",
    "unread_tombstones",
    "write_object",
]

log = logging.getLogger("vineyard_client.objects")

# Bytes up to which a blob is copied instead of mapped: below, copying is faster than the system calls and page faults
# of a mapping, and nothing stays pinned.
COPY_LIMIT = 64 * 1024

# Ids in one request for metadata: some hundred kilobytes of JSON.
_BATCH = 10_000

_GONE_HINT = "It was deleted, or the server restarted since it was put: run again what produced it."

Chunk = Union[bytes, memoryview]


# ---- writing


def write_object(connection: Connection, meta: ValueMeta, chunks: Sequence[Chunk]) -> int:
    """Store an envelope and return the object's id.

    Args:
        connection: where to.
        meta: with neither content nor blobs; ``meta.size`` is the size of the envelope.
        chunks: the envelope.

    Raises:
        StoreFull: there is no room; nothing is left.
    """
    if meta.size <= INLINE_LIMIT:
        return connection.call(CreateData(replace(meta, content=b"".join(chunks)).tree()))
    with start_object(connection, meta) as (number, meta, payload):
        connection.write(payload, chunks)
        finish_object(connection, meta)
    return number


@contextmanager
def start_object(connection: Connection, meta: ValueMeta) -> Iterator[Tuple[int, ValueMeta, Payload]]:
    """Store the metadata of an object whose blob is written in the block.

    The block writes the blob and calls ``finish_object``; if it raises, the object is freed. Either way the writer lets
    go of the guard, once.

    Yields:
        The object's id, the metadata with the blobs' ids, and the place of the blob.

    Raises:
        StoreFull: there is no room; nothing is left.
    """
    guard, blob = _allocate(connection, meta.size)
    meta = replace(meta, blob=blob.id, guard=guard.id)
    connection.hold(guard.id)
    cleanup: List[Request[None]] = [DropBuffer(guard.id), DropBuffer(blob.id)]
    try:
        _, number = connection.call_all(Seal(guard.id), CreateData(meta.tree()))
        cleanup = [DeleteData([number])]
        yield number, meta, blob.payload
    except BaseException:
        discard(connection, *cleanup)
        raise
    finally:
        connection.unpin(guard.id)


@contextmanager
def open_draft(
    connection: Connection, meta: ValueMeta, chunks: Sequence[Chunk], buffers_at: int
) -> Iterator[Tuple[int, memoryview]]:
    """Store an object whose buffers the caller fills in place.

    What describes the value is written; its buffers are not, but the view that this yields shares memory with the store
    until the block ends. Then the object is made whole, or deleted if the block raised, and the view turns into a
    private one, which stays valid and pins the blob: a tombstone keeps the memory of a deleted one.

    Args:
        connection: where to.
        meta: as for ``write_object``.
        chunks: the envelope.
        buffers_at: where in it the buffers begin.

    Yields:
        The object's id and a view of its envelope.

    Raises:
        StoreFull: there is no room; nothing is left.
    """
    with start_object(connection, meta) as (number, meta, payload):
        position = 0
        for chunk in chunks:
            if position < buffers_at or not isinstance(chunk, memoryview):
                connection.write_at(payload, position, chunk)
            position += len(chunk)
        view, detach = connection.map_draft(payload)
        try:
            yield number, view
        except BaseException:
            detach()
            # Sealed, so that its memory is kept for as long as the view pins it, but only when nobody can find it.
            discard(connection, CreateData(meta.tree(TOMBSTONE)), DeleteData([number]), Seal(meta.blob))
            raise
        detach()  # before anybody can read the object
        connection.call(Seal(meta.blob))


def finish_object(connection: Connection, meta: ValueMeta) -> None:
    """Make an object whole: from now on it can be read."""
    sealed, _ = connection.outcomes(Seal(meta.blob), Release(meta.blob))  # the mark may be lost already: _io.pinfile
    if isinstance(sealed, VineyardError):
        raise sealed


def discard(connection: Connection, *cleanup: Request[Any]) -> None:
    """Free what a failed step left; where that fails too, an object stays that can be collected."""
    if not connection.usable:
        return
    try:
        connection.call_all(*cleanup)
    except VineyardError as error:
        log.warning("an unfinished object stays in %s until it is collected: %s", connection.peer, error)


def _allocate(connection: Connection, nbytes: int) -> Tuple[BufferReply, BufferReply]:
    """Return a guard and an unsealed blob."""
    outcomes = connection.outcomes(CreateBuffer(GUARD_SIZE), CreateBuffer(nbytes))
    refusals = [outcome for outcome in outcomes if isinstance(outcome, VineyardError)]
    if not refusals:
        return outcomes[0], outcomes[1]
    discard(connection, *[DropBuffer(outcome.id) for outcome in outcomes if outcome not in refusals])
    if not isinstance(refusals[0], StoreFull):
        raise refusals[0]
    status = connection.call(InstanceStatus())
    hint = "Delete what nobody needs (vineyard-client list), or give vineyardd a larger --size."
    if nbytes > status.memory_limit:
        hint = "The value is larger than the whole store: give vineyardd a larger --size."
    raise StoreFull(
        f"The store at {connection.peer} has no room for {nbytes} bytes: "
        f"{status.memory_used} of {status.memory_limit} are in use.",
        hint,
        requested=nbytes,
        used=status.memory_used,
        limit=status.memory_limit,
    ) from refusals[0]


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


def open_object(connection: Connection, number: int, token: str) -> memoryview:
    """Return the envelope of an object: a private copy of a small one, a private mapping of a large one.

    Raises:
        ObjectNotFound: there is no such object, or it is not complete.
        ObjectCorrupted: its metadata make no sense.
    """
    meta, payload = _pin_object(connection, number, token)
    if payload is None:
        return memoryview(bytearray(meta.content or b""))
    mapped = False
    try:
        if payload.size <= COPY_LIMIT:
            return memoryview(connection.read(payload))
        view = connection.map(payload)
        mapped = True
        return view
    finally:
        if not mapped:
            connection.unpin(meta.blob)


def share_object(connection: Connection, meta: ValueMeta, number: int, chunks: Sequence[Chunk]) -> Optional[int]:
    """Store an object with the blob of another one, if that is there and holds the same envelope.

    Either can be deleted without the other: the server frees a blob with the last object that has it.

    Args:
        connection: where to.
        meta: as for ``write_object``, with the token of the other object.
        number: the other object's id.
        chunks: the envelope.

    Returns:
        The new object's id; None if there is nothing to share, which goes for small objects, too.
    """
    try:
        other, payload = _pin_object(connection, number, meta.token)
    except ObjectNotFound:
        return None
    if payload is None:
        return None
    try:
        # A replica goes when its original does, a value of this host does not.
        if other.origin is not None or payload.size != meta.size or not connection.holds(payload, chunks):
            return None
        return connection.call(CreateData(replace(meta, blob=other.blob, guard=other.guard).tree()))
    finally:
        connection.unpin(other.blob)


def _pin_object(connection: Connection, number: int, token: str) -> Tuple[ValueMeta, Optional[Payload]]:
    """Return an object's metadata and the place of its blob, pinned; None for one whose envelope is in its metadata."""
    meta = find_object(connection, number, token)
    if meta.content is not None:
        return meta, None
    try:
        payload, trees = connection.pin(meta.blob, then=GetData([number]))
    except ServerError as error:
        if error.code != CODE_NOT_SEALED:
            raise
        raise ObjectNotFound(
            f"{format_id(number)} in {connection.peer} is not complete.",
            "Its writer is still at work, or was killed: run again what produced it.",
        ) from error
    if payload is None:
        raise _not_there(connection, number)
    # What an object is never changes: it is enough that it is still this one.
    if trees.get(number, {}).get("token") != token:
        connection.unpin(meta.blob)
        raise _not_there(connection, number)
    return meta, payload


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
        return True
    tombstone, trees = connection.call_all(CreateData(meta.tree(TOMBSTONE)), GetData([number]))
    if number not in trees:
        # Somebody else has deleted it meanwhile, and the blob may be gone: of such a one the server says for ever that
        # it is in use.
        connection.call(DeleteData([tombstone]))
        return False
    if connection.in_use([meta.blob], after=[DeleteData([number])]) == [False]:
        connection.call(DeleteData([tombstone]))
    return True


# ---- what is there


def list_objects(connection: Connection, typename: str = VALUE) -> List[Tuple[int, ValueMeta]]:
    """Return all values or all tombstones of this instance, oldest first; what cannot be read is left out, and logged.

    Instances that share metadata also list each other's persisted objects.
    """
    found = []
    for number, tree in connection.call(ListData(typename)).items():
        try:
            meta = ValueMeta.read(tree)
        except VineyardError as error:
            log.warning("leaving %s out of the list: %s", format_id(number), error)
            continue
        if meta.instance_id == connection.instance.instance_id:
            found.append((number, meta))
    return sorted(found, key=lambda item: (item[1].created, item[0]))


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
    """Return those of the tombstones whose blobs nobody reads, or writes.

    The server says for ever that an unsealed blob is in use, so its guard tells whether that is so.
    """
    abandoned = {number for number, alive in incomplete_objects(connection, objects).items() if not alive}
    in_use = connection.in_use([meta.blob for _, meta in objects])
    return (number for (number, _), used in zip(objects, in_use) if not used or number in abandoned)


def _sealed(connection: Connection, blobs: Sequence[int]) -> Dict[int, Dict[str, Any]]:
    """Return those blobs that are sealed; of others the server says that they do not exist."""
    found: Dict[int, Dict[str, Any]] = {}
    for start in range(0, len(blobs), _BATCH):
        trees: Dict[int, Dict[str, Any]] = connection.call(GetData(blobs[start : start + _BATCH]))
        found.update(trees)
    return found
