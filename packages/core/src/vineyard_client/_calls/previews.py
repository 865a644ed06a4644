"""Find what people are shown of a value: beside the value, in the order of places in which it is nearest."""

from __future__ import annotations

from typing import Optional

from .._hosts.transfer import preview_from
from .._store import objects
from .._store.connection import Connection
from ..exceptions import ObjectNotFound
from ..reference import ObjectRef, number_of
from .session import Session, native_objects

__all__ = ["find"]


def find(session: Session, ref: ObjectRef) -> bytes:
    """Return the preview of a value, which is not read itself; empty if it was put without one.

    Raises:
        ObjectNotFound: the value is nowhere.
        MigrationFailed: it is on a host that cannot be reached.
        ObjectCorrupted: its metadata make no sense.
    """
    connection = session.connection()
    number = number_of(ref)
    missing = ObjectNotFound(f"{ref.id} is in no store.")
    for candidate in (_replica(session, connection, ref), number, _loaded(session, ref)):
        if candidate:
            try:
                return objects.read_preview(connection, candidate, ref.token)
            except ObjectNotFound as error:
                missing = error.with_traceback(None) if candidate == number else missing
    if number and native_objects().find(connection, number, ref.token) is not None:
        return b""
    if number:
        session.must_be_elsewhere(connection, ref, missing)
        token = ref.token
        return session.migration.at_source(connection, ref, lambda remote: preview_from(remote, number, token))
    raise missing


def _replica(session: Session, connection: Connection, ref: ObjectRef) -> Optional[int]:
    """Return the id of the replica here that there may be."""
    if ref.endpoint in (None, session.advertised(connection)):
        return None
    return session.migration.noted(connection, ref.token)


def _loaded(session: Session, ref: ObjectRef) -> Optional[int]:
    """Return the id of what a tier gave before."""
    note = session.tiers.loaded(ref.token) if session.tiers is not None else None
    return note.number if note is not None else None
