"""Bring one value from a tier to this host, for all of its readers: into the store, or else into the overflow.

What is brought is a cache: it may leave again at any time, and goes when its copy does.

Its note is written before it is whole, so whoever is killed on the way leaves nothing that nobody finds: what is whole
is found by its note, and an object that is not is found as any that a killed writer left, also by the next load. Who
deletes the value removes the note first and then the object, if that is whole; the loader looks for the note when the
object is whole. So one of the two sees the other, and the object goes.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from contextlib import suppress
from typing import Any, Dict, Optional, Sequence

from .. import _codec
from .._calls import keeping
from .._io.deadline import uptime
from .._io.mapping import write_all
from .._store import objects
from .._store.connection import Connection
from .._store.making import Making
from .._store.meta import ValueMeta
from .._tiers.contract import Tier
from .._tiers.folder import failed, require_disk
from .._tiers.local import Tiers
from .._tiers.notes import LOADED, OVERFLOW, Note, Notes
from .._tiers.sharing import share
from ..exceptions import ConnectionFailed, ObjectNotFound, StoreFull, VineyardError
from .store import Store

__all__ = ["Wanted", "load"]

log = logging.getLogger("vineyard_client.agent")

# How often room is made for one value.
_ROOM_TRIES = 4


class Wanted:
    """A value that somebody wants.

    Attributes:
        token: the value's.
        key: of its copy.
        size: bytes of its envelope.
        type: what it is, for people.
    """

    def __init__(self, token: str, key: str, size: int, type: str) -> None:
        self.token = token
        self.key = key
        self.size = size
        self.type = type


def load(wanted: Wanted, store: Store, tiers: Tiers, opened: Sequence[Tier]) -> Dict[str, Any]:
    """Bring a value here unless it is here; return the id of its object, or that it is in the overflow.

    Raises:
        ObjectNotFound: no tier has it.
        ObjectCorrupted: what came is not the value.
        TierFailed: no tier that has it gives it, or there is no room on the disk.
    """
    notes = tiers.notes
    found = _here(wanted, store, notes)
    if found is not None:
        return found
    missing: Optional[ObjectNotFound] = None
    for tier in opened:
        try:
            return _load(wanted, store, tiers, tier)
        except ObjectNotFound as error:
            missing = missing or error
    raise missing or ObjectNotFound(f"No tier has {wanted.key}.")


def _here(wanted: Wanted, store: Store, notes: Notes) -> Optional[Dict[str, Any]]:
    note = notes.read(LOADED, wanted.token)
    if note is None:
        return None
    if not note.number:
        return {"overflow": True} if notes.has(OVERFLOW, wanted.token) else None
    connection = store.connection
    with suppress(VineyardError):
        if connection is not None and objects.is_whole(connection, note.number, wanted.token):
            return {"number": note.number}
        if connection is not None:
            objects.find_object(connection, note.number, wanted.token)
            objects.discard(connection, note.number)  # an agent that was killed has left it
    return None


def _load(wanted: Wanted, store: Store, tiers: Tiers, tier: Tier) -> Dict[str, Any]:
    connection = store.connection
    for attempt in range(_ROOM_TRIES + 1 if connection is not None else 0):
        assert connection is not None
        try:
            return {"number": _into_store(wanted, connection, tiers.notes, store.identity, tier)}
        except StoreFull as full:
            if attempt == _ROOM_TRIES or not keeping.make_room(tiers, connection, full.requested, full.limit or 0):
                break
        except ConnectionFailed as error:
            log.debug("the store went away while %s was loaded: %s", wanted.key, error)
            break
    _into_overflow(wanted, tiers, tier)
    return {"overflow": True}


def _note(wanted: Wanted, notes: Notes, number: int, store: str) -> None:
    note = Note(wanted.token, number, wanted.key, wanted.size, wanted.type, time.time(), store=store)
    notes.write(LOADED, note, name=wanted.token)


def _into_store(wanted: Wanted, connection: Connection, notes: Notes, store: str, tier: Tier) -> int:
    meta = ValueMeta(
        token=wanted.token,
        type=wanted.type,
        summary=f"loaded from {tier.url}",
        size=wanted.size,
        created=time.time(),
        host=os.uname().nodename,
        instance_id=connection.instance.instance_id,
        uptime=uptime(),
    )
    making = Making(connection, meta)
    try:
        making.start(slow=True)
        _note(wanted, notes, making.number, store)
        payload = making.payload
        tier.load(wanted.key, wanted.size, lambda at, piece: connection.write_at(payload, at, piece))
        _codec.check(connection.peek(payload), token=bytes.fromhex(wanted.token))
        if tier.size(wanted.key) is None:
            raise ObjectNotFound(f"{wanted.key} was deleted while it was loaded.")
        making.finish()
    except BaseException:
        making.undo()
        notes.remove(LOADED, wanted.token)
        raise
    finally:
        making.let_go()
    if not notes.has(LOADED, wanted.token):  # deleted meanwhile, or it left a full store at once
        objects.delete_object(connection, making.number, wanted.token)
    return making.number


def _into_overflow(wanted: Wanted, tiers: Tiers, tier: Tier) -> None:
    notes = tiers.notes
    path = notes.overflow(wanted.token)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        require_disk(os.path.dirname(path), wanted.size, tiers.options.reserve)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            share(fd, os.path.dirname(path))
            tier.load(wanted.key, wanted.size, lambda at, piece: _write(fd, at, piece))
            with mmap.mmap(fd, wanted.size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
                _check(view, wanted.token)
            _note(wanted, notes, 0, "")
            os.rename(temporary, path)
        except BaseException:
            notes.remove(LOADED, wanted.token)
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise failed(f"The overflow in {notes.folder} takes no {wanted.size} bytes", error) from error
    if not notes.has(LOADED, wanted.token):  # deleted meanwhile
        notes.remove(OVERFLOW, wanted.token)


def _write(fd: int, at: int, piece: memoryview) -> None:
    write_all(fd, at, [piece])


def _check(view: memoryview, token: str) -> None:
    """Check an envelope, and keep no view of it: the mapping is closed afterwards."""
    _codec.check(view, token=bytes.fromhex(token))
