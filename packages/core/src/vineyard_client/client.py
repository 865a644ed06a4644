"""``Client``: put, get and everything else that people do with one store.

The order of steps is what keeps values safe under deletes and kills; ``put``, ``get`` and ``delete`` say why theirs is
right. Each opens no connection of its own: a client has one per process, made when it is first needed and again after
it broke, so a restarted server costs one failed call at most. All methods may be called from any thread and after a
fork.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Type, Union

from . import _codec
from ._connection import Connection
from ._io.deadline import Deadline
from ._io.unix import UnixStream
from ._wire.messages import (
    BufferReply,
    CreateBuffer,
    CreateData,
    DeleteData,
    DropBuffer,
    GetData,
    InstanceStatus,
    IsInUse,
    ListData,
    Persist,
    Release,
    Request,
    Seal,
)
from ._wire.status import CODE_NOT_SEALED
from .exceptions import ConnectionFailed, ObjectNotFound, ServerError, StoreFull, VineyardError
from .ids import format_id, parse_id
from .meta import GUARD_SIZE, INLINE_LIMIT, TOMBSTONE, VALUE, ValueMeta
from .reference import ObjectInfo, ObjectRef, StoreStatus

__all__ = ["DEFAULT_TIMEOUT", "Client"]

log = logging.getLogger("vineyard_client.client")

# Seconds. A healthy server answers in well under a millisecond; a loaded host may stall it for a while.
DEFAULT_TIMEOUT = 30.0

# Bytes up to which a blob is copied instead of mapped: below, copying is faster than the two system calls and the page
# faults of a mapping, and nothing stays pinned.
_COPY_LIMIT = 64 * 1024

_GONE_HINT = "It was deleted, or the server restarted since it was put: run again what produced it."


class _PerProcess:
    """What must not be shared with a forked child: the lock and the connection."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.connection: Optional[Connection] = None


class Client:
    """A client of the store behind one IPC socket.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that each exchange with the server may take; None is for ever.
        username: for a server started with ``--htpasswd``.
        password: likewise.
        allowed_classes: patterns of classes (``"mypkg.models.*"``, matched against ``module.qualname``) that values may
            hold beyond those of the standard and the known data libraries; each call may add more.
        starter: called with the socket path when nobody listens there; it must start a server or raise. See
            ``vineyard_client.connect``, which passes one where that is wanted.

    The first connection is made at once, so that a wrong path shows here.

    Raises:
        ConnectionFailed: nobody listens at the path, or the credentials are refused.
        ProtocolError: what listens there is not vineyardd.
        UnsupportedVersion: the server is too old.
    """

    def __init__(
        self,
        socket: str,
        *,
        timeout: Optional[float] = DEFAULT_TIMEOUT,
        username: str = "",
        password: str = "",
        allowed_classes: Sequence[str] = (),
        starter: Optional[Callable[[str], None]] = None,
    ) -> None:
        self.socket = socket
        self._timeout = timeout
        self._credentials = {"username": username, "password": password}
        self._allowed_classes = tuple(allowed_classes)
        self._starter = starter
        self._closed = False
        self._processes: Dict[int, _PerProcess] = {}
        self._connection()

    # ---- values

    def put(
        self,
        value: object,
        *,
        labels: Optional[Mapping[str, str]] = None,
        persist: bool = False,
        allowed_classes: Sequence[str] = (),
    ) -> ObjectRef:
        """Store a value and return a reference to it.

        The value's buffers are written from where they lie into the store's memory, once; the value itself stays the
        caller's, and later changes to it do not reach the store.

        The metadata are stored before the bytes, so that what a killed writer leaves is listed and can be freed; until
        the blob is sealed, readers are told that the object is not complete. (A writer killed between allocating and
        storing the metadata, some hundred microseconds, leaves a blob that nothing lists.)

        Args:
            value: anything made of Python's and the known data libraries' types.
            labels: texts by which ``list`` can find it.
            persist: make it visible to every instance of the cluster (not: write it to disk).
            allowed_classes: patterns of further classes that the value may hold.

        Raises:
            UnsafeType: the value holds a class that readers would not accept; nothing is stored.
            StoreFull: there is no room; nothing is stored.
        """
        labels = _check_labels(labels)
        token = os.urandom(16)
        encoded = _codec.encode(value, token=token, allowed_classes=(*self._allowed_classes, *allowed_classes))
        connection = self._connection()
        meta = ValueMeta(
            token=token.hex(),
            type=encoded.type_name,
            summary=encoded.summary,
            size=encoded.nbytes,
            created=time.time(),
            host=os.uname().nodename,
            instance_id=connection.instance.instance_id,
            labels=labels,
        )
        if encoded.nbytes <= INLINE_LIMIT:
            number = connection.call(CreateData(replace(meta, content=b"".join(encoded.chunks)).tree()))
        else:
            number = self._put_blob(connection, meta, encoded.chunks)
        if persist:
            try:
                connection.call(Persist(number))
            except BaseException:
                self._undo(connection, [DeleteData([number])])
                raise
        log.debug("put %s: %s, %d bytes", format_id(number), meta.type, meta.size)
        return self._reference(connection, number, meta)

    def _put_blob(self, connection: Connection, meta: ValueMeta, chunks: List[Union[bytes, memoryview]]) -> int:
        """Store what is too large for its metadata and return the object's id; ``put`` tells why in this order."""
        guard, blob = self._allocate(connection, meta.size)
        cleanup: List[Request[None]] = [DropBuffer(guard.id), DropBuffer(blob.id)]
        try:
            tree = replace(meta, blob=blob.id, guard=guard.id).tree()
            _, number = connection.call_all(Seal(guard.id), CreateData(tree))
            cleanup = [DeleteData([number])]
            connection.write(blob.payload, chunks)
            connection.call_all(Seal(blob.id), Release(blob.id), Release(guard.id))
        except BaseException:
            self._undo(connection, cleanup)
            raise
        return int(number)

    def get(self, ref: ObjectRef, *, allowed_classes: Sequence[str] = ()) -> object:
        """Return the value behind a reference: same type, equal, and the caller's to change.

        Large values are not copied: their buffers are private copy-on-write mappings of the store's memory, which stay
        valid and unchanged for as long as the value lives, whoever deletes the object meanwhile. Small ones are copied
        and keep nothing.

        Timeline that makes this safe: *find* the object, *pin* its blob, *look again* whether the object is still
        there. A deleter removes the object before it asks whether the blob is in use; so if the second look finds the
        object, the deleter will see our pin.

        Args:
            ref: what ``put`` returned, in this process or another.
            allowed_classes: patterns of further classes that the value may hold.

        Raises:
            ObjectNotFound: the object is gone, or its id belongs to another value now.
            UnsafeType: the value holds a class that was not allowed; nothing of it was run.
            ObjectCorrupted: the bytes are not those of the value.
        """
        connection = self._connection()
        meta = self._find(connection, ref)
        if meta.content is not None:
            blob = memoryview(bytearray(meta.content))
        else:
            blob = self._get_blob(connection, ref, meta)
        patterns = (*self._allowed_classes, *allowed_classes)
        return _codec.decode(blob, token=bytes.fromhex(meta.token), allowed_classes=patterns)

    def _get_blob(self, connection: Connection, ref: ObjectRef, meta: ValueMeta) -> memoryview:
        """Return a copy or a private mapping of an object's blob; ``get`` tells why in this order."""
        number = parse_id(ref.id)
        try:
            payload, trees = connection.pin(meta.blob, then=GetData([number]))
        except ServerError as error:
            if error.code != CODE_NOT_SEALED:
                raise
            raise ObjectNotFound(
                f"{ref.id} ({ref.type}) in {self.socket} is not complete.",
                "Its writer is still at work, or was killed: run again what produced it.",
            ) from error
        if payload is None:
            raise self._gone(ref)
        mapped = False
        try:
            self._check(ref, trees.get(number))
            if payload.size <= _COPY_LIMIT:
                return memoryview(connection.read(payload))
            view = connection.map(payload)
            mapped = True
            return view
        finally:
            if not mapped:
                connection.unpin(meta.blob)

    def delete(self, ref: ObjectRef) -> bool:
        """Delete the object behind a reference; values that were read from it stay as they are.

        Timeline that makes this safe: the tombstone takes hold of the blob, the object goes, and only then is asked
        whether the blob is in use. If it is, the tombstone stays and keeps the memory until it is collected.

        Returns:
            Whether there was something to delete; an object that is gone is no error.
        """
        connection = self._connection()
        try:
            meta = self._find(connection, ref)
        except ObjectNotFound:
            return False
        if meta.content is not None:
            connection.call(DeleteData([parse_id(ref.id)]))
            return True
        tombstone = connection.call(CreateData(meta.tree(TOMBSTONE)))
        _, in_use = connection.call_all(DeleteData([parse_id(ref.id)]), IsInUse(meta.blob))
        if not in_use:
            connection.call(DeleteData([tombstone]))
        log.debug("deleted %s", ref.id)
        return True

    # ---- what is there

    def info(self, ref: Union[ObjectRef, str]) -> ObjectInfo:
        """Return what the store knows of an object, without reading its value.

        Args:
            ref: a reference, or an object id in text form; an id is taken at its word.

        Raises:
            ObjectNotFound: the object is gone.
        """
        connection = self._connection()
        text = ref.id if isinstance(ref, ObjectRef) else ref
        meta = self._find(connection, ref)
        return self._info(connection, parse_id(text), meta, deleted=False)

    def exists(self, ref: ObjectRef) -> bool:
        """Tell whether the value behind a reference is there."""
        try:
            self._find(self._connection(), ref)
        except ObjectNotFound:
            return False
        return True

    def list(self, *, labels: Optional[Mapping[str, str]] = None, deleted: bool = False) -> Iterator[ObjectInfo]:
        """Iterate over the objects that this package put into the store, oldest first.

        Args:
            labels: only those that have all of these.
            deleted: those instead that were deleted and whose memory a reader still uses.
        """
        wanted = _check_labels(labels)
        connection = self._connection()
        trees = connection.call(ListData(TOMBSTONE if deleted else VALUE))
        found = []
        for number, tree in trees.items():
            try:
                meta = ValueMeta.read(tree)
            except VineyardError as error:
                log.warning("leaving %s out of the list: %s", format_id(number), error)
                continue
            if all(meta.labels.get(key) == value for key, value in wanted.items()):
                found.append((meta.created, number, meta))
        for _, number, meta in sorted(found, key=lambda item: item[:2]):
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
            endpoint=_endpoint(connection),
            memory_used=status.memory_used,
            memory_limit=status.memory_limit,
            connections=status.connections,
        )

    # ---- life

    def close(self) -> None:
        """Close the connection; values that were read stay valid. Idempotent."""
        self._closed = True
        mine = self._processes.pop(os.getpid(), None)
        if mine and mine.connection:
            mine.connection.close()

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
        pid = os.getpid()
        mine = self._processes.get(pid)
        if mine is None:
            # setdefault is one step for the interpreter: the first threads of a child may all come here at once.
            mine = self._processes.setdefault(pid, _PerProcess())
            for other in [other for other in self._processes if other != pid]:
                inherited = self._processes.pop(other, None)
                if inherited and inherited.connection:
                    inherited.connection.abandon()
        with mine.lock:
            if mine.connection is None or not mine.connection.usable:
                mine.connection = self._connect()
            return mine.connection

    def _connect(self) -> Connection:
        deadline = Deadline(self._timeout)
        try:
            stream = UnixStream.connect(self.socket, deadline)
        except ConnectionFailed:
            if self._starter is None:
                raise
            self._starter(self.socket)
            stream = UnixStream.connect(self.socket, deadline)
        return Connection(stream, timeout=self._timeout, **self._credentials)

    # ---- helpers

    def _find(self, connection: Connection, ref: Union[ObjectRef, str]) -> ValueMeta:
        """Return the metadata of an object, which must be the one that was meant."""
        number = parse_id(ref.id if isinstance(ref, ObjectRef) else ref)
        return self._check(ref, connection.call(GetData([number])).get(number))

    def _check(self, ref: Union[ObjectRef, str], tree: Optional[Dict[str, Any]]) -> ValueMeta:
        if tree is None or (isinstance(ref, ObjectRef) and tree.get("token") != ref.token):
            raise self._gone(ref)
        return ValueMeta.read(tree)

    def _gone(self, ref: Union[ObjectRef, str]) -> ObjectNotFound:
        what = f"{ref.id} ({ref.type}, {ref.size} bytes)" if isinstance(ref, ObjectRef) else ref
        return ObjectNotFound(f"{what} is not in {self.socket}.", _GONE_HINT)

    def _reference(self, connection: Connection, number: int, meta: ValueMeta) -> ObjectRef:
        return ObjectRef(format_id(number), meta.token, _endpoint(connection), meta.type, meta.size)

    def _info(self, connection: Connection, number: int, meta: ValueMeta, deleted: bool) -> ObjectInfo:
        return ObjectInfo(
            ref=self._reference(connection, number, meta),
            summary=meta.summary,
            labels=meta.labels,
            created=datetime.fromtimestamp(meta.created, timezone.utc),
            host=meta.host,
            socket=self.socket,
            deleted=deleted,
        )

    def _allocate(self, connection: Connection, nbytes: int) -> Tuple[BufferReply, BufferReply]:
        """Return a guard and an unsealed blob of a size."""
        outcomes = connection.outcomes(CreateBuffer(GUARD_SIZE), CreateBuffer(nbytes))
        refusals = [outcome for outcome in outcomes if isinstance(outcome, VineyardError)]
        if not refusals:
            return outcomes[0], outcomes[1]
        self._undo(connection, [DropBuffer(outcome.id) for outcome in outcomes if outcome not in refusals])
        if isinstance(refusals[0], StoreFull):
            raise self._store_full(connection, nbytes) from refusals[0]
        raise refusals[0]

    def _undo(self, connection: Connection, cleanup: Sequence[Request[None]]) -> None:
        """Free what a failed put left; where that fails too, the object is listed and can be collected."""
        if not connection.usable:
            return
        try:
            connection.call_all(*cleanup)
        except VineyardError as error:
            log.warning("an unfinished object stays in %s until it is collected: %s", self.socket, error)

    def _store_full(self, connection: Connection, requested: int) -> StoreFull:
        status = connection.call(InstanceStatus())
        return StoreFull(
            f"The store at {self.socket} has no room for {requested} bytes: "
            f"{status.memory_used} of {status.memory_limit} are in use.",
            "Delete what nobody needs (vineyard-client list), or give vineyardd a larger --size.",
            requested=requested,
            used=status.memory_used,
            limit=status.memory_limit,
        )


def _endpoint(connection: Connection) -> Optional[str]:
    """Where other hosts reach the instance; a server with its RPC off reports port 0."""
    endpoint = connection.instance.rpc_endpoint
    return None if not endpoint or endpoint.endswith(":0") else endpoint


def _check_labels(labels: Optional[Mapping[str, str]]) -> Mapping[str, str]:
    labels = dict(labels or {})
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"Labels are texts; {key!r:.40}: {value!r:.40} is not.")
    return labels
