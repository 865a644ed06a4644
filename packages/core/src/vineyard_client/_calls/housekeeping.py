"""What is in the store, and out with it: look, list, delete, collect."""

from __future__ import annotations

import logging
import os
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Iterator, List, Mapping, Optional, Sequence, Union

from .._store import known, objects
from .._store.collect import DEAD_WRITER, DELETED, EXPIRED, ORIGINAL_GONE, Candidate, Collectable, plan
from .._store.connection import Connection
from .._store.inventory import IN_METADATA
from .._store.meta import TOMBSTONE, VALUE, ValueMeta, check_labels
from ..exceptions import ConnectionFailed, ObjectCorrupted, ObjectNotFound
from ..ids import format_id, parse_id
from ..reference import ObjectInfo, ObjectRef, StoreStatus, number_of
from .session import Session, native_objects

if TYPE_CHECKING:
    from .._tiers.local import Tiers
    from .._tiers.notes import Note

__all__ = ["collect", "delete", "delete_loaded", "info", "objects_there", "status", "status_of"]

log = logging.getLogger("vineyard_client.client")


def info(session: Session, ref: Union[ObjectRef, str]) -> ObjectInfo:
    """Return what the store knows of an object; see ``Client.info``.

    Raises:
        ObjectNotFound: the object is gone.
        MigrationFailed: it is on a host that cannot be reached, and there is no replica here.
    """
    connection = session.connection()
    number, token = (parse_id(ref), None) if isinstance(ref, str) else (number_of(ref), ref.token)
    try:
        if not number:
            raise ObjectNotFound(f"{format_id(0)} is in no store.")
        meta = objects.find_object(connection, number, token)
        deleted = token is None and objects.is_tombstone(connection, number)
        return session.info(connection, number, meta, deleted)
    except (ObjectNotFound, ObjectCorrupted) as error:
        native = native_objects().find(connection, number, token) if number else None
        if native is not None:
            return native.info(session.socket, session.advertised(connection))
        if not isinstance(ref, ObjectRef) or isinstance(error, ObjectCorrupted):
            raise
        saved = _saved(session, ref)
        if saved is not None:
            return saved
        session.must_be_elsewhere(connection, ref, error)
    found = session.migration.find(connection, ref.token)
    # Objects that share a token have labels of their own, and at most one of them has a replica here.
    if found and found[1].origin_id in (None, ref.id):
        return session.info(connection, *found)
    token, endpoint = ref.token, ref.endpoint
    meta = session.migration.at_source(connection, ref, lambda remote: objects.find_object(remote, number, token))
    return replace(session.info(connection, number, meta), ref=ref, socket=endpoint or "", age=None)


def _saved(session: Session, ref: ObjectRef) -> Optional[ObjectInfo]:
    """Return what is known of a value of which a tier, or the overflow, has a copy; None if none has."""
    tiers = session.tiers
    if tiers is None:
        return None
    note = tiers.noted(ref.token, number_of(ref))
    copy = ref.copy or (note.key if note else None)
    if copy is None:
        return None
    if not tiers.is_saved_here(ref.token, number_of(ref)) and tiers.size(copy, ref.token) != ref.size:
        return None
    return ObjectInfo(
        ref=ref,
        summary=note.summary if note else "",
        labels={},
        created=datetime.fromtimestamp(note.created if note else 0, timezone.utc),
        host=(note.host or os.uname().nodename) if note else "",
        socket="",
    )


def objects_there(
    session: Session, wanted: Mapping[str, str], deleted: bool, noted: bool = False
) -> Iterator[ObjectInfo]:
    """Iterate over the values, or over the tombstones, that have these labels, oldest first; see ``Client.list``."""
    connection, typename = session.connection(), TOMBSTONE if deleted else VALUE
    found = known.noted(connection, typename) if noted else None
    for number, meta in objects.list_objects(connection, typename) if found is None else found:
        if all(meta.labels.get(key) == value for key, value in wanted.items()):
            yield session.info(connection, number, meta, deleted)


def status(session: Session) -> StoreStatus:
    """Return how full the store is and who serves it."""
    connection = session.connection()
    found = status_of(connection, session.socket, session.advertised(connection))
    inventory = "none" if connection.inventory is None else connection.inventory.state
    return replace(found, metadata=_metadata(connection.peer_pid), identity=session.identity, inventory=inventory)


def status_of(connection: Connection, socket: str, endpoint: Optional[str]) -> StoreStatus:
    """Return what a store says of itself, here or on another host.

    Args:
        connection: to it.
        socket: its IPC socket.
        endpoint: where other hosts reach it.
    """
    found = connection.fullness()
    small = 0 if connection.inventory is None else connection.inventory.in_metadata()
    return StoreStatus(
        socket=socket,
        version=connection.instance.version,
        instance_id=connection.instance.instance_id,
        metadata=None,
        endpoint=endpoint,
        memory_used=found.memory_used,
        memory_limit=found.memory_limit,
        connections=found.connections,
        small_values=small,
        small_values_used=small * IN_METADATA,
    )


def _metadata(pid: int) -> Optional[str]:
    """Return where a server keeps its metadata: it tells nobody, but its command line does, where that can be seen."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().decode(errors="replace").split("\0")
    except OSError:
        return None
    found = "etcd" if pid and len(words) > 1 else None  # vineyardd's own default
    for word, following in zip(words, words[1:]):
        name, separator, value = word.partition("=")
        if name in ("-meta", "--meta"):  # of several the last counts
            found = value if separator else following
    return found


def delete(session: Session, ref: ObjectRef) -> bool:
    """Delete the object behind a reference, on its own host, and its replica here; see ``Client.delete``.

    Returns:
        Whether there was something to delete.

    Raises:
        MigrationFailed: the host of the original cannot be reached; the replica here is gone.
    """
    number = number_of(ref)
    tiers = session.tiers
    try:
        connection = session.connection()
    except ConnectionFailed:
        # The store is gone, and with it what was in there.
        if tiers is None or not _delete_copy(tiers, ref, tiers.forget(ref.token, number)):
            raise
        return True
    if tiers is None:
        return _delete_objects(session, connection, ref)
    note = tiers.forget(ref.token, number)  # first, so that nobody begins to save it
    try:
        try:
            existed = _delete_objects(session, connection, ref)
        except ConnectionFailed:
            # The server has ended since the last call, and so have its objects. Perhaps there is another one.
            if connection.usable:
                raise
            existed = _delete_objects(session, session.connection(), ref)
    finally:
        copied = _delete_copy(tiers, ref, note)
        delete_loaded(session, tiers, ref.token)
    return existed or copied


def _delete_copy(tiers: Tiers, ref: ObjectRef, note: Optional[Note]) -> bool:
    """Delete the copy of a value, whose key the reference or the note has; return whether there was one."""
    key = ref.copy or (note.key if note else None)
    return key is not None and tiers.delete([(key, ref.token)])


def delete_loaded(session: Session, tiers: Tiers, token: str) -> None:
    """Delete what was loaded from a copy that is gone, and the note of it.

    The note goes when the object has, so that who is killed in between leaves nothing without one. What the agent loads
    at this moment it deletes itself, because its note is gone when it is whole; what became whole just before that is
    found by the second look.
    """
    with suppress(ConnectionFailed):  # it ended with its server
        _delete_whole(session, tiers.loaded(token))
    note = tiers.forget_loaded(token)
    with suppress(ConnectionFailed):
        _delete_whole(session, note)


def _delete_whole(session: Session, note: Optional[Note]) -> None:
    if note is not None and note.number and objects.is_whole(session.connection(), note.number, note.token):
        objects.delete_object(session.connection(), note.number, note.token)


def _delete_objects(session: Session, connection: Connection, ref: ObjectRef) -> bool:
    """Delete an object and its replica here; return whether there was anything."""
    number = number_of(ref)
    existed = bool(number) and objects.delete_object(connection, number, ref.token)
    if not existed and number:
        native = native_objects().find(connection, number, ref.token)
        existed = native is not None and native.delete()
    if not existed and number and session.may_be_elsewhere(connection, ref):
        try:
            existed = session.migration.delete_original(connection, ref)
        finally:
            had_replica = session.migration.forget(connection, ref.token)
        existed = existed or had_replica
    log.debug("deleted %s" if existed else "%s was gone already", ref.id)
    return existed


def _weighed(actions: Sequence[Collectable], metas: Mapping[int, ValueMeta]) -> List[Collectable]:
    """Return the actions with what each frees: a blob goes with the last object that has it."""
    having = Counter(blob for meta in metas.values() for blob in meta.blobs)
    weighed = []
    for action in actions:
        meta = metas[parse_id(action.info.ref.id)]
        having.subtract(meta.blobs)
        freed = sum(size for blob, size in meta.pieces.items() if not having[blob])
        weighed.append(replace(action, frees=freed if meta.blobs else meta.size))
    return weighed


def collect(
    session: Session,
    connection: Connection,
    *,
    older_than: Optional[timedelta] = None,
    labels: Optional[Mapping[str, str]] = None,
    dry_run: bool = False,
    garbage: bool = False,
    thorough: bool = False,
) -> List[Collectable]:
    """Free what nobody needs any more, and return what that was; see ``Client.collect``.

    Args:
        session: whose store it is.
        connection: to that store.
        older_than: as there; so are ``labels``, ``dry_run`` and ``thorough``.
        labels: only objects that have all of these.
        dry_run: free nothing.
        garbage: look only at what is known to be garbage by itself: what was deleted, and what dead writers left.
        thorough: list everything.
    """
    values, tombstones, doubtful = known.look(connection, garbage=garbage, thorough=thorough)
    gone = session.migration.gone_originals(connection, (meta for _, meta in values if meta.origin is not None))
    writers = objects.incomplete_objects(connection, doubtful)
    unread = set(objects.unread_tombstones(connection, tombstones))
    candidates = [
        Candidate(
            session.info(connection, number, meta),
            complete=number not in writers,
            in_use=writers.get(number, False),
            original_gone=meta.origin is not None and meta.token in gone,
        )
        for number, meta in values
    ] + [
        Candidate(session.info(connection, number, meta, deleted=True), in_use=number not in unread)
        for number, meta in tombstones
    ]
    metas = dict((*values, *tombstones))
    now = datetime.now(timezone.utc)
    actions = plan(candidates, now=now, older_than=older_than, labels=check_labels(labels))
    actions = _weighed(actions, metas)
    if not dry_run:
        objects.free(
            connection,
            {
                parse_id(a.info.ref.id): metas[parse_id(a.info.ref.id)]
                for a in actions
                if a.reason in (DELETED, DEAD_WRITER)
            },
        )
        for action in actions:
            if action.reason in (EXPIRED, ORIGINAL_GONE):
                number, token = parse_id(action.info.ref.id), action.info.ref.token
                note = session.tiers.forget(token, number) if session.tiers is not None else None
                objects.delete_object(connection, number, token)
                if session.tiers is not None and note is not None:
                    session.tiers.delete([(note.key, token)])
        expired = {action.info.ref.token for action in actions if action.reason == EXPIRED}
        replicas = [meta for _, meta in values if meta.origin is not None and meta.token in expired]
        session.migration.withdraw(connection, replicas)
        session.migration.tidy(connection)
    return actions
