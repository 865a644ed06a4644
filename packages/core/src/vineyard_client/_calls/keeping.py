"""Save what is put, and make room in a full store: what the tiers add to writing.

Order of steps (``_tiers.notes`` says why none of them loses or leaves anything): the object, its copy or the note that
it is to be saved, and only then the reference. To make room: a value leaves the store when nobody reads it and the tier
has all of it, least recently read first, and then its note goes. A reader that comes in between keeps the memory by its
pin, as with any delete; it is not free then, and the put goes on without it.

A put never waits for others to free memory: what finds no room is written to the disk at once.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .. import _codec
from .._store import objects
from .._store.connection import Connection
from .._store.making import Chunk
from .._store.meta import ValueMeta
from .._tiers import spill
from .._tiers.keys import make_key
from .._tiers.local import Tiers
from .._tiers.notes import LOADED, SAVED, Note
from .._wire.messages import GetData, Payload
from ..exceptions import ObjectCorrupted, ObjectNotFound, StoreFull, TierFailed
from ..ids import format_id
from ..reference import ObjectRef, number_of

__all__ = ["key_for", "keep", "keep_outside", "make_room"]

log = logging.getLogger("vineyard_client.tiers")

# Seconds to wait for another process that makes room; afterwards there may be some.
_ROOM_WAIT = 10.0

# Ids in one request for metadata.
_BATCH = 100


def key_for(path: Sequence[str], token: str, *, shared: bool) -> str:
    """Return the key for the copy of a value.

    Args:
        path: what stands before the token.
        token: the value's.
        shared: whether another value has the same token: then each has a key of its own.

    Raises:
        ValueError: the path is too long.
    """
    return make_key((*path, os.urandom(4).hex()) if shared else path, token)


def keep(
    tiers: Tiers,
    store: str,
    ref: ObjectRef,
    places: Sequence[Payload],
    key: str,
    chunks: Sequence[Chunk],
    noted: List[Note],
    same: Optional[str] = None,
) -> ObjectRef:
    """Save a value that was just stored, as the tiers' durability says, and return the reference that has its copy.

    Args:
        tiers: where to.
        store: the identity of the store that has it.
        ref: to the object.
        places: of its blobs; none if the envelope is in its metadata.
        key: of the copy.
        chunks: the envelope.
        noted: a list for what is noted, which the caller takes back if anything fails from here on.
        same: key of the copy of a value with the same envelope.

    Raises:
        TierFailed: it was to be saved before this returns, and is not.
    """
    note = Note(
        token=ref.token,
        number=number_of(ref),
        key=key,
        size=ref.size,
        type=ref.type,
        created=time.time(),
        store=store,
        memory=places[0].store_fd if places else -1,
        offset=places[0].offset if places else 0,
        content=None if places else b"".join(chunks),
        pieces=tuple((place.store_fd, place.offset, place.size) for place in places) if len(places) > 1 else (),
    )
    noted.append(note)
    try:
        tiers.save(note, chunks, same)
    except TierFailed as error:
        if tiers.through:
            raise
        tiers.refused = (ref.token, error.what)
        log.warning("%s (%s, %d bytes) is in the store alone: %s", ref.id, ref.type, ref.size, error)
        return ref
    return replace(ref, copy=key)


def keep_outside(
    tiers: Tiers,
    endpoint: Optional[str],
    meta: ValueMeta,
    key: str,
    chunks: Sequence[Chunk],
    noted: List[Note],
    full: StoreFull,
) -> ObjectRef:
    """Save a value for which the store has no room, and return the reference to it.

    Raises:
        StoreFull: the disk has none either.
        TierFailed: it cannot be saved.
    """
    note = Note(
        token=meta.token,
        number=0,
        key=key,
        size=meta.size,
        type=meta.type,
        created=time.time(),
        summary=meta.summary,
        host=meta.host,
    )
    noted.append(note)
    try:
        tiers.save_outside(note, chunks)
    except TierFailed as error:
        raise StoreFull(
            f"{full.what} Nor can it be saved outside of it. {error.what}",
            f"{full.hint} {error.hint}",
            full.requested,
            full.used,
            full.limit,
        ) from error
    log.info("%d bytes of a %s found no room in the store: saved as %s", meta.size, meta.type, key)
    return ObjectRef(format_id(0), meta.token, endpoint, meta.type, meta.size, key)


# ---- room


def make_room(tiers: Tiers, connection: Connection, need: int, limit: int) -> int:
    """Let values leave the store that the tier has and that nobody reads; return the bytes that they had.

    Args:
        tiers: that have them.
        connection: to the store.
        need: bytes that are wanted.
        limit: bytes of the whole store.
    """
    if not spill.worth_it(need, limit):
        return 0
    freed = 0
    with tiers.notes.lock(_ROOM_WAIT) as mine:
        if not mine:
            return 0  # somebody made room for that long: there may be some
        notes = _residents(tiers)
        there = [spill.Resident(name, note.size, read) for name, (_, note, read) in notes.items()]
        wanted = need + spill.MARGIN * limit
        while freed < wanted:
            leaving = spill.plan(there, max(1, int(need - freed)), limit)
            if not leaving:
                break
            there = [resident for resident in there if resident not in leaving]
            freed += _evict(tiers, connection, [notes[resident.name][:2] for resident in leaving])
    if freed:
        log.info("%d bytes left the store for %d more", freed, need)
    return freed


def _residents(tiers: Tiers) -> Dict[str, Tuple[str, Note, float]]:
    """Return what may leave: the kind of its note, the note, and when it was last read."""
    found = {}
    for kind in (LOADED, SAVED):
        for read, name in tiers.notes.by_age(kind):
            note = tiers.notes.read(kind, name)
            if note is not None and note.number and note.content is None:
                found[name] = (kind, note, read)
    return found


def _evict(tiers: Tiers, connection: Connection, leaving: Sequence[Tuple[str, Note]]) -> int:
    """Let values leave that are unread and saved; return the bytes of those that did."""
    metas = _metas(connection, [note for _, note in leaving])
    blobs = list(dict.fromkeys(blob for meta in metas.values() for blob in meta.blobs))
    in_use = dict(zip(blobs, connection.in_use(blobs)))
    read = {name: any(in_use[blob] for blob in meta.blobs) for name, meta in metas.items() if meta.blobs}
    candidates = []
    for kind, note in leaving:
        name = note.name if kind == SAVED else note.token
        if note.name not in metas:
            tiers.notes.remove(kind, name)  # it is gone with its server, or was deleted
        elif not read.get(note.name, True):
            candidates.append((kind, name, note))
    saved = [note for kind, _, note in candidates if kind == SAVED]
    try:
        sizes = dict(zip([note.name for note in saved], tiers.sizes([note.key for note in saved]))) if saved else {}
    except TierFailed as error:
        log.warning("nothing that is saved leaves the store: %s", error)
        sizes = {}
        candidates = [(kind, name, note) for kind, name, note in candidates if kind == LOADED]
    gone: Dict[int, int] = {}
    for kind, name, note in candidates:
        if kind == SAVED and sizes.get(note.name) != note.size:
            _save_again(tiers, connection, note)
            continue
        if objects.delete_object(connection, note.number, note.token):
            gone.update(metas[note.name].pieces)
        tiers.notes.remove(kind, name)
    # What others share, or have begun to read, stays.
    there = connection.call(GetData(list(gone))) if gone else {}
    return sum(size for blob, size in gone.items() if blob not in there)


def _save_again(tiers: Tiers, connection: Connection, note: Note) -> None:
    """Save a value whose copy somebody removed; until it is, it does not leave the store."""
    log.warning("the copy %s is gone from %s: it is saved again", note.key, tiers.url)
    try:
        if tiers.folder is not None:
            tiers.folder.save(note.key, _codec.flatten(*objects.open_object(connection, note.number, note.token)))
            if not tiers.notes.has(SAVED, note.name):
                tiers.folder.delete([note.key])  # it was deleted meanwhile
        elif tiers.notes.demote(note.name):
            tiers.ring()
    except (ObjectNotFound, TierFailed) as error:
        log.warning("%s cannot be saved again: %s", note.key, error)


def _metas(connection: Connection, notes: Sequence[Note]) -> Dict[str, ValueMeta]:
    """Return what the store says of those values that are there, by the names of their notes."""
    found: Dict[str, ValueMeta] = {}
    trees: Dict[int, Dict[str, Any]] = {}
    numbers = [note.number for note in notes]
    for start in range(0, len(numbers), _BATCH):
        tree_of: Dict[int, Dict[str, Any]] = connection.call(GetData(numbers[start : start + _BATCH]))
        trees.update(tree_of)
    for note in notes:
        tree = trees.get(note.number)
        if tree is None or tree.get("token") != note.token:
            continue
        try:
            meta = ValueMeta.read(tree)
        except (ObjectCorrupted, ObjectNotFound):
            continue
        found[note.name] = meta
    return found
