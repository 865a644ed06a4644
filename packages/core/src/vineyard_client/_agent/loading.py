"""Bring one value from a tier to this host, for all of its readers: into the store, or else into the overflow.

What is brought is a cache: it may leave again at any time, and goes when its copy does.
"""

from __future__ import annotations

import logging
import mmap
import os
import time
from contextlib import suppress
from typing import Any, Callable, Dict, Optional, Sequence

from .. import _codec
from .._calls import keeping
from .._io.deadline import uptime
from .._io.mapping import write_all
from .._store import objects
from .._store.connection import Connection
from .._store.making import Making
from .._store.meta import INLINE_LIMIT, ValueMeta
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
    with suppress(VineyardError):
        if store.connection is not None and objects.find_object(store.connection, note.number, wanted.token):
            return {"number": note.number}
    return None


def _load(wanted: Wanted, store: Store, tiers: Tiers, tier: Tier) -> Dict[str, Any]:
    connection = store.connection
    for attempt in range(_ROOM_TRIES + 1 if connection is not None else 0):
        assert connection is not None
        try:
            number = _into_store(wanted, connection, tier)
        except StoreFull as full:
            if attempt == _ROOM_TRIES or not keeping.make_room(tiers, connection, full.requested, full.limit or 0):
                break
        except ConnectionFailed as error:
            log.debug("the store went away while %s was loaded: %s", wanted.key, error)
            break
        else:
            _note(wanted, tiers.notes, number, store.identity)
            return {"number": number}
    _into_overflow(wanted, tiers, tier)
    _note(wanted, tiers.notes, 0, "")
    return {"overflow": True}


def _note(wanted: Wanted, notes: Notes, number: int, store: str) -> None:
    note = Note(wanted.token, number, wanted.key, wanted.size, wanted.type, time.time(), store=store)
    notes.write(LOADED, note, name=wanted.token)


def _into_store(wanted: Wanted, connection: Connection, tier: Tier) -> int:
    token = bytes.fromhex(wanted.token)
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
    if wanted.size <= INLINE_LIMIT:
        data = bytearray(wanted.size)
        tier.load(wanted.key, wanted.size, _writer(memoryview(data)))
        _codec.check(memoryview(data), token=token)
        return objects.write_object(connection, meta, [bytes(data)])
    making = Making(connection, meta)
    try:
        making.start()
        payload = making.payload
        tier.load(wanted.key, wanted.size, lambda at, piece: connection.write_at(payload, at, piece))
        _codec.check(connection.peek(payload), token=token)
        if tier.size(wanted.key) is None:
            raise ObjectNotFound(f"{wanted.key} was deleted while it was loaded.")
        making.finish()
        return making.number
    except BaseException:
        making.undo()
        raise
    finally:
        making.let_go()


def _writer(memory: memoryview) -> Callable[[int, memoryview], None]:
    def write(at: int, piece: memoryview) -> None:
        memory[at : at + len(piece)] = piece

    return write


def _into_overflow(wanted: Wanted, tiers: Tiers, tier: Tier) -> None:
    path = tiers.notes.overflow(wanted.token)
    temporary = f"{path}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    try:
        require_disk(os.path.dirname(path), wanted.size, tiers.options.reserve)
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            share(fd, os.path.dirname(path))
            tier.load(wanted.key, wanted.size, lambda at, piece: _write(fd, at, piece))
            with mmap.mmap(fd, wanted.size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
                _check(view, wanted.token)
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        finally:
            os.close(fd)
    except OSError as error:
        raise failed(f"The overflow in {tiers.notes.folder} takes no {wanted.size} bytes", error) from error


def _write(fd: int, at: int, piece: memoryview) -> None:
    write_all(fd, at, [piece])


def _check(view: memoryview, token: str) -> None:
    """Check an envelope, and keep no view of it: the mapping is closed afterwards."""
    _codec.check(view, token=bytes.fromhex(token))
