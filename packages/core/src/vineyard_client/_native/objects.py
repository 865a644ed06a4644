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

*Writing* (``writing``) is not atomic: blobs first, then their objects, members before what they are members of. What
ends it on the way, a failure or an exception from outside, leaves nothing. What a process leaves that is killed
meanwhile has no name, and only a restart of the server frees it; that is so for every writer of native objects.

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
from .._wire.messages import DeleteData, GetBuffers, GetData, Label
from .._wire.status import CODE_NOT_SEALED
from ..exceptions import InvalidReference, ObjectCorrupted, ObjectNotFound, ServerError
from ..ids import format_id, is_blob
from ..reference import ObjectInfo, ObjectRef
from . import values
from .forms import Draft, blob_ids
from .writing import Writing

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
    def write(
        connection: Connection, draft: Draft, labels: Mapping[str, str], made: Optional[List[Writing]] = None
    ) -> NativeObject:
        """Store an object and its parts.

        Args:
            connection: where to.
            draft: what ``draft`` returned.
            labels: of the object.
            made: a list for what is made, so that the caller can undo it also when this has returned.

        Raises:
            StoreFull: there is no room; nothing is left.
        """
        writing = Writing(connection)
        if made is not None:
            made.append(writing)
        try:
            number = writing.store(draft)
            if labels:
                connection.call(Label(number, labels))
            found = NativeObject.find(connection, number, None)
            if found is None:
                raise ObjectNotFound(f"{format_id(number)} was deleted while it was written.", "Put it again.")
            writing.release()
            return found
        except BaseException:
            writing.undo()
            raise


def _token(number: int, tree: Mapping[str, Any]) -> str:
    """Return what identifies an object: the module's docstring says why."""
    parts = [format_id(number), tree.get("typename"), tree.get("signature"), tree.get("__timestamp")]
    if not isinstance(parts[1], str) or not all(isinstance(part, int) and part > 0 for part in parts[2:]):
        raise ObjectCorrupted(
            f"The object {format_id(number)} has no typename, signature or time of its own: {parts[1:]!r:.120}.",
            "It was not made by a vineyardd that this client knows (0.13.1 or newer).",
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
