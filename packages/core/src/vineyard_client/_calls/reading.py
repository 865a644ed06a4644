"""Find a value: the places where it may be, in the order in which they are asked.

1. the replica here, if the reference leads to another host and there is a note of one;
2. the store here, by the reference's own id;
3. the store here, as an object of vineyard's own types;
4. what a tier gave before: in the store here, or in the overflow beside it;
5. its own host, from which it is brought here once for all readers;
6. the tier that its copy is in: a folder is mapped, from a bucket the agent brings it here, once for all readers.

A further place is one more function in ``_ORDER``. The first that has the value ends the search; where nobody has it,
what the store here said is raised.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Callable, Optional, Sequence, Tuple, Union

from .._store import objects
from .._store.connection import Connection
from ..exceptions import ConnectionFailed, MigrationFailed, ObjectNotFound, StoreFull, VineyardError
from ..ids import parse_id
from ..reference import ObjectRef, number_of
from . import writing
from .session import Session, native_objects

if TYPE_CHECKING:
    from .._native.objects import NativeObject

__all__ = ["find", "migrate"]


class _Search:
    """One search.

    Args:
        session: whose it is.
        connection: to the store here.
        ref: what is wanted.
        replica: whether a value from another host is kept here.
    """

    def __init__(self, session: Session, connection: Connection, ref: ObjectRef, replica: bool) -> None:
        self.session = session
        self.connection = connection
        self.ref = ref
        self.replica = replica
        #: What the store here said, or the last one who should have had it.
        self.missing: VineyardError = ObjectNotFound(f"{ref.id} is in no store.")

    @property
    def copy(self) -> Optional[str]:
        """The key of a copy in the tiers, if there are any; one that was saved later has it in a note."""
        if self.session.tiers is None or self.ref.copy is not None or not parse_id(self.ref.id):
            return self.ref.copy if self.session.tiers is not None else None
        return self.session.tiers.key_of(self.ref.token, parse_id(self.ref.id))


Found = Union[objects.Envelope, "NativeObject"]


def find(session: Session, ref: ObjectRef, *, replica: bool) -> Found:
    """Return the blobs with the envelope of a value, or the object if it is one of vineyard's own types.

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
    connection = session.connection()
    try:
        return _find(_Search(session, connection, ref, replica))
    except ConnectionFailed:
        # The server has ended since the last call. The copy is still there, and so may be another server.
        if connection.usable or session.tiers is None:
            raise
    return _find(_Search(session, session.connection(), ref, replica))


def _find(search: _Search) -> Found:
    for source, place in _ORDER:
        found = place(search)
        if found is not None:
            search.session.source = source
            return found
    raise _nowhere(search)


def _nowhere(search: _Search) -> VineyardError:
    """Return the error of a value that nobody has."""
    session, ref, missing = search.session, search.ref, search.missing
    copy = ref.copy or search.copy
    if copy is None:
        if isinstance(missing, ObjectNotFound):
            session.must_be_elsewhere(search.connection, ref, missing)
        return missing
    if not isinstance(missing, ObjectNotFound):
        what = f"{missing.what} Nor is its copy {copy} to be had."
        return type(missing)(what, f"{missing.hint} If its host is lost, run again what produced it.".strip())
    if session.tiers is None:
        hint = f"It is saved as {copy}: give this client the tier that has it."
        return type(missing)(missing.what, f"{missing.hint} {hint}".strip())
    if session.tiers.was_lost(ref.token, number_of(ref)):
        return ObjectNotFound(
            f"{ref.id} ({ref.type}) was not saved yet when its store ended.", "Run again what produced it."
        )
    return ObjectNotFound(
        f"{ref.id} ({ref.type}) is gone, and so is its copy {copy} from {session.tiers.url}. {missing.what}",
        "It was deleted, or expired there: run again what produced it.",
    )


def _noted_replica(search: _Search) -> Optional[Found]:
    if search.ref.endpoint in (None, search.session.advertised(search.connection)):
        return None
    noted = search.session.migration.noted(search.connection, search.ref.token)
    if noted is not None:
        with suppress(ObjectNotFound):
            return objects.open_object(search.connection, noted, search.ref.token)
    return None


def _here(search: _Search) -> Optional[Found]:
    number = parse_id(search.ref.id)
    if not number:
        return None  # it never was in a store
    try:
        found = objects.open_object(search.connection, number, search.ref.token)
        if search.session.tiers is not None:
            search.session.tiers.touch(search.ref.token, number)
        return found
    except ObjectNotFound as error:
        # Without its frames, which would form a cycle with the search and keep alive what is found elsewhere.
        search.missing = error.with_traceback(None)
        return None


def _native(search: _Search) -> Optional[Found]:
    if not parse_id(search.ref.id) or search.ref.copy is not None:
        return None  # none of those has a copy
    return native_objects().find(search.connection, parse_id(search.ref.id), search.ref.token)


def _from_tier_before(search: _Search) -> Optional[Found]:
    tiers = search.session.tiers
    if search.copy is None or tiers is None:
        return None
    note = tiers.loaded(search.ref.token)
    if note is not None and note.number:
        with suppress(ObjectNotFound):
            return objects.open_object(search.connection, note.number, search.ref.token)
    return _whole(tiers.overflow(search.ref.token, search.ref.size))


def _whole(envelope: Optional[memoryview]) -> Optional[Found]:
    """Return what a tier gave, where all of a value is in one piece."""
    return None if envelope is None else (envelope,)


def _its_host(search: _Search) -> Optional[Found]:
    session, connection, ref = search.session, search.connection, search.ref
    if not number_of(ref) or not session.may_be_elsewhere(connection, ref):
        return None
    migration = session.migration if search.copy is None else session.migration_or_copy
    try:
        if search.replica or migration.find(connection, ref.token):
            number = writing.with_room(session, connection, lambda: migration.replicate(connection, ref))
            with suppress(ObjectNotFound):  # somebody may have deleted the replica at once
                return objects.open_object(connection, number, ref.token)
        return migration.read(connection, ref)
    except (ObjectNotFound, MigrationFailed, StoreFull) as error:
        if search.copy is None:
            raise
        search.missing = error.with_traceback(None)
        return None


def _tier(search: _Search) -> Optional[Found]:
    tiers, ref, key = search.session.tiers, search.ref, search.copy
    if key is None or tiers is None:
        return None
    number = number_of(ref)
    found = _whole(tiers.read(ref.token, number, key, ref.size))
    for _ in range(_LOADS if found is None else 0):
        try:
            place = tiers.load(ref.token, key, ref.size, ref.type)
        except ObjectNotFound as error:
            if isinstance(search.missing, ObjectNotFound):  # else its host is not there, which says more
                search.missing = error.with_traceback(None)
            return None
        if place is None:
            return None
        search.connection = search.session.connection()  # with time for the rest: bringing it here has its own
        found = _from_tier_before(search)  # it may leave a full store again at once
        if found is not None:
            break
    return found


# How often a value is brought here that leaves again before it can be read.
_LOADS = 5

_ORDER: Sequence[Tuple[str, Callable[[_Search], Optional[Found]]]] = (
    *(("replica", _noted_replica), ("store", _here), ("store", _native)),
    *(("tier", _from_tier_before), ("host", _its_host), ("tier", _tier)),
)


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
    return replace(session.reference(connection, number, meta), copy=ref.copy)


def _replicate(session: Session, connection: Connection, ref: ObjectRef) -> int:
    return writing.with_room(session, connection, lambda: session.migration.replicate(connection, ref))
