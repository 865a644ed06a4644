"""``Client``: put, get and everything else that people do with one store.

A client has one connection per process, made when it is first needed and again after it broke, so a restarted server
costs one failed call at most. All methods may be called from any thread and after a fork. How values are kept safe
stands in ``_store.objects``, how they become bytes in ``_codec``.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Callable, Iterator, List, Mapping, Optional, Sequence, Type, TypeVar, Union

from . import _codec
from ._hosts.migration import Migration
from ._io import mapping
from ._io.deadline import Deadline
from ._io.pinfile import PinFile
from ._io.tcp import split_endpoint
from ._io.unix import UnixStream
from ._store import objects
from ._store.collect import DEAD_WRITER, DELETED, EXPIRED, ORIGINAL_GONE, Candidate, Collectable, plan
from ._store.connection import Connection
from ._store.meta import TOMBSTONE, VALUE, ValueMeta, check_labels
from ._store.processes import PerProcess
from ._wire.messages import DeleteData, InstanceStatus, Persist
from .exceptions import ConnectionFailed, ObjectCorrupted, ObjectNotFound, StoreFull
from .ids import format_id, parse_id
from .reference import Draft, ObjectInfo, ObjectRef, StoreStatus, number_of

if TYPE_CHECKING:
    from ._native.objects import NativeObject

__all__ = ["DEFAULT_TIMEOUT", "Client", "preload"]

log = logging.getLogger("vineyard_client.client")

# Seconds. A healthy server answers in well under a millisecond; a loaded host may stall it for a while.
DEFAULT_TIMEOUT = 30.0

Stored = TypeVar("Stored")


class _NotInPlace(Exception):
    """A draft does not lie in the store's memory when it is done."""


class Client:
    """A client of the store behind one IPC socket.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that each exchange with the server may take; None is for ever.
        username: for a server started with ``--htpasswd``.
        password: likewise.
        allowed_classes: patterns of classes (``"mypkg.models.*"``, matched against ``module.qualname``) that values may
            hold beyond those of the standard and the known data libraries; each call may add more.
        endpoint: ``host:port`` to write into references, for other hosts to reach this one's instance; by default what
            the instance reports, which is its host name.
        peers: patterns of the ``host:port`` of other hosts' instances (``"10.0.0.*:9600"``). If there are
            any, references lead to no other host. If there are none, they may lead to any, but no host is told the
            password, because a reference may have been forged.
        starter: called with the socket path when nobody listens there; it must start a server or raise. See
            ``vineyard_client.connect``, which passes one where that is wanted.

    The first connection is made at once, so that a wrong path shows here. Every method that asks the server may raise
    what making a connection raises, ``DeadlineExceeded`` when the time is up, and ``ServerError`` when it refuses.

    Raises:
        InvalidReference: the endpoint is none.
        ConnectionFailed: nobody listens at the path, or the credentials are refused.
        ProtocolError: what listens there is not vineyardd.
        UnsupportedVersion: the server is too old.
    """

    def __init__(
        self,
        socket: Union[str, os.PathLike[str]],
        *,
        timeout: Optional[float] = DEFAULT_TIMEOUT,
        username: str = "",
        password: str = "",
        allowed_classes: Sequence[str] = (),
        endpoint: Optional[str] = None,
        peers: Sequence[str] = (),
        starter: Optional[Callable[[str], object]] = None,
    ) -> None:
        self.socket = os.fspath(socket)
        self._timeout = timeout
        self._credentials = {"username": username, "password": password}
        self._allowed_classes = tuple(allowed_classes)
        if endpoint is not None:
            split_endpoint(endpoint)
        self._endpoint = endpoint
        self._starter = starter
        self._migration = Migration(self.socket, timeout=timeout, **self._credentials, peers=peers)
        self._closed = False
        self._connections = PerProcess()
        self._connection()

    # ---- values

    def put(
        self,
        value: object,
        *,
        labels: Optional[Mapping[str, str]] = None,
        persist: bool = False,
        allowed_classes: Sequence[str] = (),
        native: bool = False,
        same_as: Optional[ObjectRef] = None,
    ) -> ObjectRef:
        """Store a value and return a reference to it.

        The value's buffers are written from where they lie into the store's memory, once; the value itself stays the
        caller's, and later changes to it do not reach the store. When the store is full, what nobody needs any more is
        collected first (see ``collect``).

        Args:
            value: anything made of Python's and the known data libraries' types.
            labels: texts by which ``list`` can find it.
            persist: make it visible to every instance of the cluster (not: write it to disk).
            allowed_classes: patterns of further classes that the value may hold.
            native: store it in vineyard's own types (``vineyard::DataFrame``, ``vineyard::Tensor`` …), which other
                engines on the store can read; see "Native objects" in the README for what they cannot hold. It is not
                written in one step, and ``list`` does not show it.
            same_as: a value of this store that may be the same one. If it is, byte for byte, the new object shares its
                memory and its token instead of taking as much again; each can be deleted without the other.

        Raises:
            UnsafeType: the value holds a class that readers would not accept, or, if it is to be native, one that
                vineyard's own types have no form for; nothing is stored.
            StoreFull: there is no room; nothing is stored.
        """
        labels = check_labels(labels)
        if native:
            return self._put_native(value, labels, persist)
        other = None if same_as is None else number_of(same_as)
        token = os.urandom(16) if same_as is None else bytes.fromhex(same_as.token)
        encoded = _codec.encode(value, token=token, allowed_classes=(*self._allowed_classes, *allowed_classes))
        try:
            connection = self._connection()
            meta = self._meta(connection, encoded, token, labels)
            if other is not None:
                number = objects.share_object(connection, meta, other, encoded.chunks)
            else:
                number = self._with_room(lambda: objects.write_object(connection, meta, encoded.chunks))
        finally:
            encoded.release()
        if number is None:  # it is not the same: a token of its own, then
            return self.put(value, labels=labels, persist=persist, allowed_classes=allowed_classes)
        self._persist(connection, number, persist)
        log.debug("put %s: %s, %d bytes", format_id(number), meta.type, meta.size)
        return self._reference(connection, number, meta)

    @contextmanager
    def create(
        self,
        like: object,
        *,
        labels: Optional[Mapping[str, str]] = None,
        persist: bool = False,
        allowed_classes: Sequence[str] = (),
    ) -> Iterator[Draft]:
        """Make a value in place: compute straight into the store's memory.

        ::

            with client.create(np.empty((10_000, 1_000))) as draft:
                np.matmul(a, b, out=draft.value)
            ref = draft.ref

        When the block ends, the value is whole and can be read by others; if it ends with an exception, there is no
        object. ``draft.value`` stays valid either way, but what is written to it after the block reaches nobody; memory
        of the store that it shows without an object is freed by ``collect`` when it is gone. If parts of it do not lie
        in the store when the block ends, because they are small or were replaced, it is put as ``put`` does it.

        Args:
            like: a value of the right type and shape, such as ``np.empty(shape)``; what lies in its large buffers is
                not copied. An integer stands for a plain buffer of that many bytes: then ``draft.value`` is a
                memoryview.
            labels: texts by which ``list`` can find it.
            persist: make it visible to every instance of the cluster.
            allowed_classes: patterns of further classes that the value may hold.

        Raises:
            UnsafeType: the value holds a class that readers would not accept.
            StoreFull: there is no room.
        """
        template = memoryview(bytearray(like)) if type(like) is int else like
        labels = check_labels(labels)
        token = os.urandom(16)
        patterns = (*self._allowed_classes, *allowed_classes)
        encoded = _codec.encode(template, token=token, allowed_classes=patterns)
        try:
            connection = self._connection()
            meta = self._meta(connection, encoded, token, labels)
            with suppress(_NotInPlace):
                with ExitStack() as stack:
                    number, envelope = self._with_room(
                        lambda: stack.enter_context(
                            objects.open_draft(connection, meta, encoded.chunks, encoded.buffers_at)
                        )
                    )
                    draft = Draft(_codec.decode(envelope, token=token, allowed_classes=patterns))
                    yield draft
                    filled = _codec.encode(draft.value, token=token, allowed_classes=patterns)
                    try:
                        if not _codec.lies_in(filled, envelope):
                            raise _NotInPlace
                    finally:
                        filled.release()
                self._persist(connection, number, persist)
                draft.ref = self._reference(connection, number, meta)
                return
        finally:
            encoded.release()
        draft.ref = self.put(draft.value, labels=labels, persist=persist, allowed_classes=allowed_classes)

    def get(self, ref: ObjectRef, *, allowed_classes: Sequence[str] = (), replica: bool = True) -> object:
        """Return the value behind a reference: same type, equal, and the caller's to change.

        Large values are not copied: their buffers are private copy-on-write mappings of the store's memory, which stay
        valid and unchanged for as long as the value lives, whoever deletes the object meanwhile. Small ones are copied
        and keep nothing.

        A value on another host is brought into the store of this one first, once for all readers here.

        A native object (see ``reference``) is copied, whatever its size, and must be on this host.

        Args:
            ref: what ``put`` returned, in this process or another, on this host or another.
            allowed_classes: patterns of further classes that the value may hold. For native objects only
                ``pickle.loads`` matters: it lets the pickles run that other clients put into them.
            replica: whether a value from another host is kept in the store here; if not, it is only in this process.

        Raises:
            ObjectNotFound: the object is gone, or its id belongs to another value now.
            MigrationFailed: its host cannot be reached, or the transfer failed; trying again is safe.
            StoreFull: there is no room here for the replica.
            UnsafeType: the value holds a class that was not allowed; nothing of it was run.
            ObjectCorrupted: the bytes are not those of the value.
            UnsupportedVersion: another generation of this package wrote the value, a library that it needs is missing,
                or it is native and of a type that is not known here.
        """
        number_of(ref)  # whatever else it is, it is a reference
        connection = self._connection()
        patterns = (*self._allowed_classes, *allowed_classes)
        try:
            envelope = self._local_envelope(connection, ref)
        except ObjectNotFound as error:
            native = _native().find(connection, parse_id(ref.id), ref.token)
            if native is not None:
                return native.read(patterns)
            self._must_be_elsewhere(connection, ref, error)
            envelope = self._remote_envelope(connection, ref, replica)
        return _codec.decode(envelope, token=bytes.fromhex(ref.token), allowed_classes=patterns)

    def _local_envelope(self, connection: Connection, ref: ObjectRef) -> memoryview:
        """Return the envelope of a value that is here, as its original or as a replica of which there is a note."""
        if ref.endpoint not in (None, self._advertised(connection)):
            noted = self._migration.noted(ref.token)
            if noted is not None:
                with suppress(ObjectNotFound):
                    return objects.open_object(connection, noted, ref.token)
        return objects.open_object(connection, parse_id(ref.id), ref.token)

    def _remote_envelope(self, connection: Connection, ref: ObjectRef, replica: bool) -> memoryview:
        """Return the envelope of a value that is on another host."""
        if replica or self._migration.find(connection, ref.token):
            number = self._replicate(connection, ref)
            with suppress(ObjectNotFound):  # somebody may have deleted the replica at once
                return objects.open_object(connection, number, ref.token)
        return self._migration.read(connection, ref)

    def migrate(self, ref: ObjectRef) -> ObjectRef:
        """Bring a value from another host into the store of this one, and return a reference to the replica.

        A value that is here already is left as it is, and its own reference returned.

        Raises:
            ObjectNotFound: the value is gone.
            MigrationFailed: its host cannot be reached, or the transfer failed; trying again is safe.
            StoreFull: there is no room here.
        """
        connection = self._connection()
        number: int = number_of(ref)
        try:
            meta = objects.find_object(connection, number, ref.token)
        except ObjectNotFound as error:
            self._must_be_elsewhere(connection, ref, error)
            number = self._replicate(connection, ref)
            meta = objects.find_object(connection, number, ref.token)
        return self._reference(connection, number, meta)

    def delete(self, ref: ObjectRef) -> bool:
        """Delete the object behind a reference; values that were read from it stay as they are.

        The original is deleted, on its own host, and so is a replica on this one. Replicas on other hosts are freed by
        ``collect`` there, and memory that somebody still reads by ``collect`` after that. From another host nobody can
        see who reads: there the memory counts as read while anybody is connected to the store.

        Returns:
            Whether there was something to delete; an object that is gone is no error.

        Raises:
            MigrationFailed: the host of the original cannot be reached; the replica here is gone.
        """
        connection = self._connection()
        number = number_of(ref)
        existed = objects.delete_object(connection, number, ref.token)
        if not existed:
            native = _native().find(connection, number, ref.token)
            existed = native is not None and native.delete()
        if not existed and self._may_be_elsewhere(connection, ref):
            try:
                existed = self._migration.delete_original(connection, ref)
            finally:
                had_replica = self._migration.forget(connection, ref.token)
            existed = existed or had_replica
        log.debug("deleted %s" if existed else "%s was gone already", ref.id)
        return existed

    # ---- what is there

    def info(self, ref: Union[ObjectRef, str]) -> ObjectInfo:
        """Return what the store knows of an object, without reading its value.

        Args:
            ref: a reference, or the id in text form of an object that is here; an id is taken at its word.

        Raises:
            ObjectNotFound: the object is gone.
            MigrationFailed: it is on a host that cannot be reached, and there is no replica here.
        """
        connection = self._connection()
        number, token = (parse_id(ref), None) if isinstance(ref, str) else (number_of(ref), ref.token)
        try:
            meta = objects.find_object(connection, number, token)
            deleted = token is None and any(number == n for n, _ in objects.list_objects(connection, TOMBSTONE))
            return self._info(connection, number, meta, deleted)
        except (ObjectNotFound, ObjectCorrupted) as error:
            native = _native().find(connection, number, token)
            if native is not None:
                return native.info(self.socket, self._advertised(connection))
            if not isinstance(ref, ObjectRef) or isinstance(error, ObjectCorrupted):
                raise
            self._must_be_elsewhere(connection, ref, error)
        found = self._migration.find(connection, ref.token)
        if found:
            return self._info(connection, *found)
        token, endpoint = ref.token, ref.endpoint
        meta = self._migration.at_source(connection, ref, lambda remote: objects.find_object(remote, number, token))
        return replace(self._info(connection, number, meta), ref=ref, socket=endpoint or "")

    def reference(self, id: str) -> ObjectRef:
        """Return a reference to an object in this store, given its id: the way to what other engines put.

        Args:
            id: the object id in text form, ``o`` and sixteen hex digits: of a value of this package, or of a *native
                object*, which is one of vineyard's own types. The id is taken at its word; from here on the reference
                never resolves to another object.

        Raises:
            ObjectNotFound: there is no such object.
            InvalidReference: the text is no id, or the id of a blob, which is part of an object.
        """
        info = self.info(id)
        if info.deleted:
            raise ObjectNotFound(f"{id} keeps the memory of a deleted value.", "Put the value again.")
        return info.ref

    def exists(self, ref: ObjectRef) -> bool:
        """Tell whether the value behind a reference is there, on this host or its own; one being written is already.

        Raises:
            MigrationFailed: it is on a host that cannot be reached, and there is no replica here.
        """
        try:
            self.info(ref)
        except ObjectNotFound:
            return False
        return True

    def list(self, *, labels: Optional[Mapping[str, str]] = None, deleted: bool = False) -> Iterator[ObjectInfo]:
        """Iterate over the objects that this package put into the store, oldest first.

        Args:
            labels: only those that have all of these.
            deleted: those instead that were deleted and whose memory has not been collected.

        Raises:
            TypeError: a label is not a text; like everything else, this shows when the first object is asked for.
        """
        wanted = check_labels(labels)
        connection = self._connection()
        for number, meta in objects.list_objects(connection, TOMBSTONE if deleted else VALUE):
            if all(meta.labels.get(key) == value for key, value in wanted.items()):
                yield self._info(connection, number, meta, deleted)

    def status(self) -> StoreStatus:
        """Return how full the store is and who serves it."""
        connection = self._connection()
        status = connection.call(InstanceStatus())
        return StoreStatus(
            socket=self.socket,
            version=connection.instance.version,
            instance_id=connection.instance.instance_id,
            metadata=status.deployment,
            endpoint=self._advertised(connection),
            memory_used=status.memory_used,
            memory_limit=status.memory_limit,
            connections=status.connections,
        )

    def collect(
        self,
        *,
        older_than: Optional[timedelta] = None,
        labels: Optional[Mapping[str, str]] = None,
        dry_run: bool = False,
    ) -> List[Collectable]:
        """Free what nobody needs any more, and return what that was.

        That is: values that were deleted while somebody read them, once nobody does; what killed writers left; replicas
        of values that are gone from their own host (one that does not answer is not "gone"); and, if an age is given,
        whole values of that age. Anybody may do this at any time.

        Args:
            older_than: delete whole values of this age or older, too.
            labels: only objects that have all of these.
            dry_run: free nothing, only return what would be.
        """
        connection = self._connection()
        tombstones = objects.list_objects(connection, TOMBSTONE)
        values = objects.list_objects(connection, VALUE)
        tombstones = objects.orphaned(tombstones, values)
        gone = self._migration.gone_originals(meta for _, meta in values if meta.origin is not None)
        writers = objects.incomplete_objects(connection, values)
        unread = set(objects.unread_tombstones(connection, tombstones))
        candidates = [
            Candidate(
                self._info(connection, number, meta),
                complete=number not in writers,
                in_use=writers.get(number, False),
                original_gone=meta.origin is not None and meta.token in gone,
            )
            for number, meta in values
        ] + [
            Candidate(self._info(connection, number, meta, deleted=True), in_use=number not in unread)
            for number, meta in tombstones
        ]
        now = datetime.now(timezone.utc)
        actions = plan(candidates, now=now, older_than=older_than, labels=check_labels(labels))
        if not dry_run:
            garbage = [parse_id(action.info.ref.id) for action in actions if action.reason in (DELETED, DEAD_WRITER)]
            if garbage:
                connection.call(DeleteData(garbage))
            for action in actions:
                if action.reason in (EXPIRED, ORIGINAL_GONE):
                    objects.delete_object(connection, parse_id(action.info.ref.id), action.info.ref.token)
            expired = {action.info.ref.token for action in actions if action.reason == EXPIRED}
            self._migration.withdraw(meta for _, meta in values if meta.origin is not None and meta.token in expired)
            self._migration.tidy(connection)
        return actions

    # ---- life

    def close(self) -> None:
        """Close the connection; values that were read stay valid. Idempotent."""
        self._closed = True
        self._connections.close()

    def __enter__(self) -> Client:
        """Return the client itself."""
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, traceback: object) -> None:
        """Close the client."""
        self.close()

    def __repr__(self) -> str:
        """Show socket and state."""
        return f"<Client of {self.socket}{', closed' if self._closed else ''}>"

    def _connection(self) -> Connection:
        if self._closed:
            raise ConnectionFailed(f"This client of {self.socket} is closed.", "Make another one with connect().")
        return self._connections.get(self._connect)

    def _connect(self) -> Connection:
        deadline = Deadline(self._timeout)
        try:
            stream = UnixStream.connect(self.socket, deadline)
        except ConnectionFailed:
            if self._starter is None:
                raise
            self._starter(self.socket)
            stream = UnixStream.connect(self.socket, deadline)
        connection = Connection(stream, timeout=self._timeout, **self._credentials)
        # Not before it is certain that vineyardd listens there: beside another program's socket we leave no files.
        pin_file = PinFile.open(self.socket + ".pins")
        if pin_file is not None:
            connection.pin_in(pin_file)
        elif connection.endpoint:
            log.warning(
                "%s.pins cannot be opened: readers are protected by the server's marks alone, which clients of its RPC "
                "port can undo. Let this user write to the socket's folder.",
                self.socket,
            )
        return connection

    def _meta(
        self, connection: Connection, encoded: _codec.Encoded, token: bytes, labels: Mapping[str, str]
    ) -> ValueMeta:
        return ValueMeta(
            token=token.hex(),
            type=encoded.type_name,
            summary=encoded.summary,
            size=encoded.nbytes,
            created=time.time(),
            host=os.uname().nodename,
            instance_id=connection.instance.instance_id,
            labels=labels,
        )

    def _persist(self, connection: Connection, number: int, wanted: bool) -> None:
        if not wanted:
            return
        try:
            connection.call(Persist(number))
        except BaseException:
            objects.discard(connection, DeleteData([number]))
            raise

    def _may_be_elsewhere(self, connection: Connection, ref: ObjectRef) -> bool:
        """Whether an object that is not here may be on another host, as its reference or the cluster says."""
        if ref.endpoint not in (None, self._advertised(connection)):
            return True
        return self._migration.has_owner(connection, ref)

    def _must_be_elsewhere(self, connection: Connection, ref: ObjectRef, error: ObjectNotFound) -> None:
        """Return if an object that is not here may be on another host; else raise what was found here."""
        if self._may_be_elsewhere(connection, ref):
            return
        if ref.endpoint is None:
            raise ObjectNotFound(error.what, f"{error.hint} {_NO_ENDPOINT_HINT}") from error
        raise error

    def _advertised(self, connection: Connection) -> Optional[str]:
        """Return where other hosts reach the instance; None when its RPC is off."""
        return self._endpoint or connection.endpoint if connection.endpoint else None

    def _replicate(self, connection: Connection, ref: ObjectRef) -> int:
        return self._with_room(lambda: self._migration.replicate(connection, ref))

    def _put_native(self, value: object, labels: Mapping[str, str], persist: bool) -> ObjectRef:
        draft = _native().draft(value)
        connection = self._connection()
        written = self._with_room(lambda: _native().write(connection, draft, labels))
        self._persist(connection, written.number, persist)
        log.debug("put %s: %s", format_id(written.number), written.typename)
        return written.info(self.socket, self._advertised(connection)).ref

    def _with_room(self, store: Callable[[], Stored]) -> Stored:
        """Store something; when the store is full, collect what nobody needs and try once more."""
        try:
            return store()
        except StoreFull:
            if not self.collect():
                raise
            return store()

    def _reference(self, connection: Connection, number: int, meta: ValueMeta) -> ObjectRef:
        return ObjectRef(format_id(number), meta.token, self._advertised(connection), meta.type, meta.size)

    def _info(self, connection: Connection, number: int, meta: ValueMeta, deleted: bool = False) -> ObjectInfo:
        return ObjectInfo(
            ref=self._reference(connection, number, meta),
            summary=meta.summary,
            labels=meta.labels,
            created=datetime.fromtimestamp(meta.created, timezone.utc),
            host=meta.host,
            socket=self.socket,
            deleted=deleted,
            origin=meta.origin,
            replicas=meta.replicas,
        )


_NO_ENDPOINT_HINT = "Its reference names no host: if it was put on another one, turn vineyardd's RPC on there first."


def _native() -> Type[NativeObject]:
    """Import what knows vineyard's own types; most processes never meet any."""
    from ._native.objects import NativeObject

    return NativeObject


def preload() -> None:
    """Load what values of the libraries that this process has imported need: some milliseconds of work.

    For a process that forks others, which then need not do it, each before its first value. It imports no library.
    """
    _codec.preload()
    mapping.preload()
