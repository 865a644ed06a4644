"""Find a value: the places where it may be, in the order in which they are asked.

1. the replica here, if the reference leads to another host and there is a note of one;
2. the store here, by the reference's own id;
3. the store here, as an object of vineyard's own types;
4. its own host, from which it is brought here once for all readers.

A further place is one more function in ``_ORDER``. The first that has the value ends the search; where nobody has it,
what the store here said is raised.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Optional, Sequence, Union

from .._store import objects
from .._store.connection import Connection
from ..exceptions import ObjectNotFound
from ..ids import parse_id
from ..reference import ObjectRef, number_of
from . import writing
from .session import Session, native_objects

if TYPE_CHECKING:
    from .._native.objects import NativeObject

__all__ = ["find", "migrate"]


@dataclass
class _Search:
    """One search.

    Attributes:
        session: whose it is.
        connection: to the store here.
        ref: what is wanted.
        replica: whether a value from another host is kept here.
        missing: what the store here said.
    """

    session: Session
    connection: Connection
    ref: ObjectRef
    replica: bool
    missing: ObjectNotFound


Found = Union[memoryview, "NativeObject"]


def find(session: Session, ref: ObjectRef, *, replica: bool) -> Found:
    """Return the envelope of a value, or the object if it is one of vineyard's own types.

    Args:
        session: whose store comes first.
        ref: what ``put`` returned, here or on another host.
        replica: whether a value from another host is kept in the store here; if not, it is only in this process.

    Raises:
        ObjectNotFound: the object is gone, or its id belongs to another value now.
        MigrationFailed: its host cannot be reached, or the transfer failed.
        StoreFull: there is no room here for the replica.
        ObjectCorrupted: its metadata make no sense.
    """
    search = _Search(session, session.connection(), ref, replica, ObjectNotFound(f"{ref.id} is nowhere."))
    for place in _ORDER:
        found = place(search)
        if found is not None:
            return found
    raise search.missing


def _noted_replica(search: _Search) -> Optional[Found]:
    if search.ref.endpoint in (None, search.session.advertised(search.connection)):
        return None
    noted = search.session.migration.noted(search.connection, search.ref.token)
    if noted is not None:
        with suppress(ObjectNotFound):
            return objects.open_object(search.connection, noted, search.ref.token)
    return None


def _here(search: _Search) -> Optional[Found]:
    try:
        return objects.open_object(search.connection, parse_id(search.ref.id), search.ref.token)
    except ObjectNotFound as error:
        # Without its frames, which would form a cycle with the search and keep alive what is found elsewhere.
        search.missing = error.with_traceback(None)
        return None


def _native(search: _Search) -> Optional[Found]:
    return native_objects().find(search.connection, parse_id(search.ref.id), search.ref.token)


def _its_host(search: _Search) -> Optional[Found]:
    session, connection, ref = search.session, search.connection, search.ref
    session.must_be_elsewhere(connection, ref, search.missing)
    if search.replica or session.migration.find(connection, ref.token):
        number = _replicate(session, connection, ref)
        with suppress(ObjectNotFound):  # somebody may have deleted the replica at once
            return objects.open_object(connection, number, ref.token)
    return session.migration.read(connection, ref)


_ORDER: Sequence[Callable[[_Search], Optional[Found]]] = (_noted_replica, _here, _native, _its_host)


def migrate(session: Session, ref: ObjectRef) -> ObjectRef:
    """Bring a value from another host into the store of this one, and return a reference to the replica.

    Raises:
        ObjectNotFound: the value is gone.
        MigrationFailed: its host cannot be reached, or the transfer failed.
        StoreFull: there is no room here.
    """
    connection = session.connection()
    number: int = number_of(ref)
    try:
        meta = objects.find_object(connection, number, ref.token)
    except ObjectNotFound as error:
        session.must_be_elsewhere(connection, ref, error)
        number = _replicate(session, connection, ref)
        meta = objects.find_object(connection, number, ref.token)
    return session.reference(connection, number, meta)


def _replicate(session: Session, connection: Connection, ref: ObjectRef) -> int:
    return writing.with_room(session, connection, lambda: session.migration.replicate(connection, ref))
