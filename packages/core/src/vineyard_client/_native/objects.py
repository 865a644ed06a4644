"""Objects of vineyard's own types, written by and for other engines on the same store: find, read, write, delete.

What the types mean stands in ``forms`` and ``values``; here is what touches the store.

*Which object.* A reference needs a token that no other object has, ever, though ids are reused. vineyard keeps two
things with every object: a ``signature``, which the server draws from the time in milliseconds and a counter (up to
0.16: from the processor's cycle counter, which starts anew when the host does), and ``__timestamp``, milliseconds since
1970. The token is a digest of these two, the id and the typename. For two objects to share it, one would have to get
the id and signature of another that was made in the same millisecond. Labelling, persisting and a snapshot of the tree
elsewhere leave all four as they are.

*Lifetime.* Other engines delete objects without asking whether anybody reads them, and vineyard frees the memory at
once: no pin keeps it. So a native object is **copied** when it is read, and looked up again after the last byte: if it
is still there then, the bytes were its own. What was read is the caller's to change and never changes by itself.

*Writing* is not atomic: blobs first, then their objects, members before what they are members of. A failure on the way
is cleaned up. What a process leaves that is killed meanwhile has no name, and only a restart of the server frees it;
that is so for every writer of native objects.

*Trust.* Nothing that an object names is run, except that a pickle in it is loaded if the caller allowed
``pickle.loads``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .._store.connection import Connection
from .._wire.messages import (
    CreateBuffer,
    CreateData,
    DeleteData,
    DropBuffer,
    GetBuffers,
    GetData,
    InstanceStatus,
    Label,
    Release,
    Request,
    Seal,
)
from .._wire.status import CODE_NOT_SEALED
from ..exceptions import InvalidReference, ObjectCorrupted, ObjectNotFound, ServerError, StoreFull, VineyardError
from ..ids import BLOB_BIT, format_id, is_blob
from ..reference import ObjectInfo, ObjectRef
from . import values
from .forms import BLOB, Draft, blob_ids

__all__ = ["PICKLES", "NativeObject"]

log = logging.getLogger("vineyard_client.native")

# What a caller puts into allowed_classes so that pickles in native objects are loaded.
PICKLES = "pickle.loads"

_OURS = "vineyard_client::"

_GONE_HINT = "It was deleted, or the server restarted since it was put: run again what produced it."


@dataclass(frozen=True)
class NativeObject:
    """A native object as it was found.

    Attributes:
        connection: where it is.
        number: its id.
        tree: its metadata.
        token: what tells it from any other object that may get its id.
    """

    connection: Connection
    number: int
    tree: Mapping[str, Any]
    token: str

    @property
    def typename(self) -> str:
        """Name of its type, as vineyard has it."""
        return str(self.tree["typename"])

    @staticmethod
    def find(connection: Connection, number: int, token: Optional[str]) -> Optional[NativeObject]:
        """Return the native object of an id; None if there is none, another one, or a value of this package.

        Args:
            connection: where to look.
            number: the id.
            token: what tells it from another object with its id; None takes the id at its word.

        Raises:
            InvalidReference: the id is that of a blob.
        """
        if is_blob(number):
            raise InvalidReference(
                f"{format_id(number)} is a blob, a piece of memory that belongs to an object.", "Give the object's id."
            )
        tree = connection.call(GetData([number])).get(number)
        if tree is None or str(tree.get("typename")).startswith(_OURS):
            return None
        found = NativeObject(connection, number, tree, _token(number, tree))
        return found if token in (None, found.token) else None

    def info(self, socket: str, endpoint: Optional[str]) -> ObjectInfo:
        """Return what the store knows of it.

        Args:
            socket: the IPC socket of the instance.
            endpoint: where other hosts reach it.
        """
        blobs = list(blob_ids(self.tree))
        trees = self.connection.call(GetData(blobs)) if blobs else {}
        # What its own metadata say of its size is often 0.
        size = sum(int(tree.get("length", 0)) for tree in trees.values())
        labels = json.loads(self.tree.get("__labels", "{}"))
        return ObjectInfo(
            ref=ObjectRef(format_id(self.number), self.token, endpoint, self.typename, size),
            summary=values.describe(self.tree),
            labels={str(key): str(value) for key, value in labels.items()},
            created=datetime.fromtimestamp(self.tree["__timestamp"] / 1000, timezone.utc),
            host=os.uname().nodename,
            socket=socket,
        )

    def read(self, allowed_classes: Sequence[str] = ()) -> object:
        """Return its value: a copy.

        Args:
            allowed_classes: ``pickle.loads`` among them lets pickles in the object be run.

        Raises:
            ObjectNotFound: it is gone, or parts of it are on another instance.
            ObjectCorrupted: it is not what its typename says.
            UnsafeType: there is a pickle in it, and that was not allowed.
            UnsupportedVersion: it has a type that is not known here.
            VineyardError: a library that it needs is not installed.
        """
        connection, name = self.connection, f"{format_id(self.number)} ({self.typename})"
        here = connection.instance.instance_id
        places = blob_ids(self.tree)
        elsewhere = sorted(set(places.values()) - {here})
        if elsewhere:
            raise ObjectNotFound(
                f"{name} has parts in instance {elsewhere[0]}, and this is {here}.",
                "Read it on that host, or have vineyard migrate it here.",
            )
        blobs = _copy(connection, list(places))
        if NativeObject.find(connection, self.number, self.token) is None:
            raise ObjectNotFound(f"{name} is not in {connection.peer}.", _GONE_HINT)
        if len(blobs) < len(places):
            raise ObjectCorrupted(
                f"{name} lacks {len(places) - len(blobs)} of its {len(places)} blobs.",
                "Somebody freed them one by one: run again what produced it.",
            )
        return values.read(self.tree, blobs, unpickle=PICKLES in allowed_classes)

    def delete(self) -> bool:
        """Delete it and those of its parts that belong to no other object; vineyard frees the memory at once."""
        self.connection.call(DeleteData([self.number]))
        return True

    @staticmethod
    def draft(value: object) -> Draft:
        """Say how a value is to be stored; see ``values.draft``."""
        return values.draft(value)

    @staticmethod
    def write(connection: Connection, draft: Draft, labels: Mapping[str, str]) -> NativeObject:
        """Store an object and its parts.

        Raises:
            StoreFull: there is no room; nothing is left.
        """
        writer = _Writer(connection)
        try:
            number = writer.store(draft)
            if labels:
                connection.call(Label(number, labels))
            found = NativeObject.find(connection, number, None)
            if found is None:
                raise ObjectNotFound(f"{format_id(number)} was deleted while it was written.", "Put it again.")
            return found
        except BaseException:
            writer.undo()
            raise
        finally:
            writer.release()


def _token(number: int, tree: Mapping[str, Any]) -> str:
    """Return what identifies an object: the module's docstring says why."""
    parts = [format_id(number), tree.get("typename"), tree.get("signature"), tree.get("__timestamp")]
    if not isinstance(parts[1], str) or not all(isinstance(part, int) and part > 0 for part in parts[2:]):
        raise ObjectCorrupted(
            f"The object {format_id(number)} has no typename, signature or time of its own: {parts[1:]!r:.120}.",
            "It was not made by a vineyardd that this client knows (0.14.6 or newer).",
        )
    return hashlib.sha256(json.dumps(["vineyard_client.native", *parts]).encode()).hexdigest()[:32]


def _copy(connection: Connection, blobs: List[int]) -> Dict[int, bytearray]:
    """Return copies of those blobs that exist."""
    if not blobs:
        return {}
    # The server marks what it hands out as in use by this connection, once, however often it is asked for: what keeps
    # the mark for other views of the same blob is the connection's.
    pins = [connection.pin(blob) for blob in blobs]
    try:
        for pin in pins:
            pin.hold()
        payloads = connection.call(GetBuffers(blobs))
        return {payload.blob: connection.read(payload) for payload in payloads}
    except ServerError as error:
        if error.code != CODE_NOT_SEALED:
            raise
        raise ObjectNotFound(
            f"A part of the object in {connection.peer} is not complete.", "Its writer is still at work, or was killed."
        ) from error
    finally:
        for pin in pins:
            pin.release()


class _Writer:
    """Writes one draft and remembers what there is to undo."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._blobs: List[int] = []
        self._objects: List[int] = []

    def store(self, draft: Draft) -> int:
        """Store all parts and return the id of the whole."""
        parts = list(draft.parts())
        buffers = [part for one in parts for part in one.members.values() if isinstance(part, memoryview)]
        blobs = dict(zip(map(id, buffers), self._store_blobs(buffers)))
        height: Dict[int, int] = {}
        for part in parts:
            below = [height[id(member)] for member in part.members.values() if isinstance(member, Draft)]
            height[id(part)] = 1 + max(below, default=-1)
        trees: Dict[int, Dict[str, Any]] = {}
        for level in range(height[id(draft)] + 1):
            ready = [part for part in parts if height[id(part)] == level]
            requests = [CreateData(self._tree(part, blobs, trees)) for part in ready]
            outcomes = self._connection.outcomes(*requests)
            self._objects += [outcome for outcome in outcomes if isinstance(outcome, int)]
            _raise_first(outcomes)
            trees.update((id(part), self._member(n, part.typename, part.nbytes)) for part, n in zip(ready, outcomes))
        return self._objects[-1]

    def _store_blobs(self, buffers: Sequence[memoryview]) -> List[Dict[str, Any]]:
        filled = [buffer for buffer in buffers if buffer.nbytes]
        outcomes = self._connection.outcomes(*[CreateBuffer(buffer.nbytes) for buffer in filled])
        created = [outcome for outcome in outcomes if not isinstance(outcome, VineyardError)]
        self._blobs = [blob.id for blob in created]
        self._raise_full(outcomes, sum(buffer.nbytes for buffer in filled))
        for buffer, blob in zip(filled, created):
            self._connection.write(blob.payload, [buffer])
        self._connection.call_all(*[Seal(blob.id) for blob in created])
        numbers = iter(self._blobs)
        return [self._blob(next(numbers) if buffer.nbytes else BLOB_BIT, buffer.nbytes) for buffer in buffers]

    def _raise_full(self, outcomes: Sequence[Any], nbytes: int) -> None:
        try:
            _raise_first(outcomes)
        except StoreFull as error:
            status = self._connection.call(InstanceStatus())
            raise StoreFull(
                f"The store at {self._connection.peer} has no room for {nbytes} bytes: "
                f"{status.memory_used} of {status.memory_limit} are in use.",
                error.hint,
                requested=nbytes,
                used=status.memory_used,
                limit=status.memory_limit,
            ) from error

    def _tree(
        self, part: Draft, blobs: Mapping[int, Mapping[str, Any]], trees: Mapping[int, Mapping[str, Any]]
    ) -> Dict[str, Any]:
        members = {
            name: blobs[id(member)] if isinstance(member, memoryview) else trees[id(member)]
            for name, member in part.members.items()
        }
        return {**self._head(part.typename, part.nbytes), **part.fields, **members}

    def _head(self, typename: str, nbytes: int) -> Dict[str, Any]:
        instance = self._connection.instance.instance_id
        head = {"typename": typename, "nbytes": nbytes, "instance_id": instance, "transient": True}
        return head if typename == BLOB else {**head, "global": False}

    def _member(self, number: int, typename: str, nbytes: int) -> Dict[str, Any]:
        return {"id": format_id(number), **self._head(typename, nbytes)}

    def _blob(self, number: int, nbytes: int) -> Dict[str, Any]:
        return {**self._member(number, BLOB, nbytes), "length": nbytes}

    def undo(self) -> None:
        """Free everything that was stored; what is gone already is no matter."""
        if not self._connection.usable:
            return
        cleanup: List[Request[None]] = [DeleteData(self._objects)] if self._objects else []
        try:
            self._connection.outcomes(*cleanup, *map(DropBuffer, self._blobs))
        except VineyardError as error:
            log.warning("parts of an unfinished native object stay in %s: %s", self._connection.peer, error)

    def release(self) -> None:
        """Drop the marks that creating the blobs left."""
        if self._connection.usable and self._blobs:
            self._connection.outcomes(*map(Release, self._blobs))


def _raise_first(outcomes: Sequence[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, VineyardError):
            raise outcome
