"""What one process hands another so that it finds a value: small, and safe to show.

As JSON (this is a public format)::

    {"v": 1, "id": "o0016f0…", "token": "32 hex digits", "endpoint": "host:9600" or null, "type": "pandas.DataFrame",
     "size": 80000704}

That of a value which is saved in a tier, or is going to be, has ``"v": 3`` and one field more, ``"copy"``: the key that
its copy has there. Which tiers there are is not for a reference to say. Its id is ``o`` and sixteen zeros if the value
never was in a store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Dict, Mapping, Optional, Tuple

from .exceptions import InvalidReference, UnsupportedVersion
from .ids import is_token, parse_id

__all__ = ["Draft", "ObjectInfo", "ObjectRef", "StoreStatus", "number_of"]

# The number between them is that of rows in Airflow's database which hold a value.
_VERSION, _VERSION_WITH_COPY = 1, 3
_NO_REFERENCE = "ObjectRef.from_json makes one of a reference's JSON form, Client.reference one of an object id."
_FIELDS = {"v", "id", "token", "endpoint", "type", "size"}
_FIELDS_WITH_COPY = {*_FIELDS, "copy"}


@dataclass(frozen=True)
class ObjectRef:
    """A reference to a value in a store.

    Attributes:
        id: the object id in its text form, ``o`` and sixteen hex digits.
        token: 32 hex digits that tell this value from every other one.
        endpoint: ``host:port`` where other hosts reach the instance that has it; None when its RPC is off.
        type: what the value is, e.g. ``pandas.DataFrame``; for people, nothing depends on it.
        size: bytes of the whole value; in the store it takes fewer where it shares memory with others.
        copy: the key of its copy in the tier; None if it is in the store alone.

    Raises:
        InvalidReference: a field has another shape.
    """

    id: str
    token: str
    endpoint: Optional[str]
    type: str
    size: int
    copy: Optional[str] = None

    def __post_init__(self) -> None:
        """Check the shape: references come from databases and REST calls."""
        parse_id(self.id)
        if not is_token(self.token):
            raise InvalidReference(f"The token of the reference to {self.id} is not 32 hex digits.")
        if self.endpoint is not None and not isinstance(self.endpoint, str):
            raise InvalidReference(f"The endpoint of the reference to {self.id} is not a text.")
        if not isinstance(self.type, str):
            raise InvalidReference(f"The type of the reference to {self.id} is not a text.")
        if not isinstance(self.size, int) or isinstance(self.size, bool) or self.size < 0:
            raise InvalidReference(f"The size of the reference to {self.id} is not a number of bytes.")
        if self.copy is not None and not isinstance(self.copy, str):
            raise InvalidReference(f"The copy in the reference to {self.id} is not a text.")

    def to_json(self) -> Dict[str, Any]:
        """Return the reference as a JSON object; the module's docstring shows it."""
        fields = {
            "v": _VERSION,
            "id": self.id,
            "token": self.token,
            "endpoint": self.endpoint,
            "type": self.type,
            "size": self.size,
        }
        return fields if self.copy is None else {**fields, "v": _VERSION_WITH_COPY, "copy": self.copy}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ObjectRef:
        """Return the reference that ``to_json`` described.

        Raises:
            InvalidReference: a field is missing, unknown or of another kind.
            UnsupportedVersion: a later release wrote it.
        """
        if not isinstance(data, Mapping):
            raise InvalidReference(f"A reference is a JSON object, not {type(data).__name__}.")
        version = data.get("v")
        if type(version) is not int or version not in (_VERSION, _VERSION_WITH_COPY):
            if type(version) is int and version > _VERSION:
                raise UnsupportedVersion(
                    f"The reference has version {version}; this release knows {_VERSION} and {_VERSION_WITH_COPY}.",
                    "Upgrade vineyard-client here.",
                )
            raise InvalidReference(f"The reference has no version that exists: {version!r:.20}.")
        expected = _FIELDS if version == _VERSION else _FIELDS_WITH_COPY
        if set(data) != expected:
            wrong = sorted(map(str, set(data) ^ expected))
            raise InvalidReference(f"The reference lacks, or has beyond what it should: {', '.join(wrong):.200}.")
        if version == _VERSION_WITH_COPY and data["copy"] is None:
            raise InvalidReference("The reference has a version with a copy, and none.")
        return cls(**{key: data[key] for key in expected - {"v"}})


def number_of(ref: ObjectRef) -> int:
    """Return the object id in a reference as a number.

    Raises:
        InvalidReference: this is no ``ObjectRef``.
    """
    if not isinstance(ref, ObjectRef):
        raise InvalidReference(f"{ref!r:.80} is no ObjectRef.", _NO_REFERENCE)
    return parse_id(ref.id)


@dataclass(frozen=True)
class ObjectInfo:
    """What a store knows of a value, without the value.

    Attributes:
        ref: the reference to it; its ``size`` is that of the whole value.
        summary: what it is, for people: rows and columns, shape, length; never its contents.
        labels: what it was labelled with when it was put.
        created: when it was put, in UTC.
        host: the host on which it was put.
        socket: the IPC socket of the instance that answered.
        deleted: whether this is a deleted value whose memory a reader still uses.
        origin: for a replica, ``host:port`` of the instance that has the original.
        replicas: for an original, the hosts that made a replica of it.
        age: how long it has been in this store, by a clock that nobody sets; None where that is not known, as of an
            object on another host.
        memory: bytes of the store that were taken for it; the rest of ``size`` it shares with values that were there
            already. None where it is not in a store of ours, or is native.
        blobs: the pieces of the store's memory that it has: their ids, and the bytes of each. What several objects have
            comes free with the last of them. Empty for what is in the metadata, native, or in no store.
    """

    ref: ObjectRef
    summary: str
    labels: Mapping[str, str]
    created: datetime
    host: str
    socket: str
    deleted: bool = False
    origin: Optional[str] = None
    replicas: Tuple[str, ...] = ()
    age: Optional[timedelta] = field(default=None, compare=False)
    memory: Optional[int] = None
    blobs: Mapping[str, int] = field(default_factory=dict, repr=False)

    @property
    def type(self) -> str:
        """What the value is, e.g. ``pandas.DataFrame``."""
        return self.ref.type

    @property
    def size(self) -> int:
        """Bytes of the whole value, wherever they lie."""
        return self.ref.size


@dataclass(frozen=True)
class StoreStatus:
    """The state of one instance.

    Attributes:
        socket: its IPC socket.
        version: of vineyardd.
        instance_id: its number within the cluster; 0 for a server of its own.
        metadata: where it keeps its metadata: ``local``, or the kind of service that instances share, such as ``etcd``;
            None where the command line of its process cannot be seen from here, as from another container.
        endpoint: ``host:port`` of its RPC; None when that is off.
        memory_used: bytes in use.
        memory_limit: the size of the store in bytes.
        connections: how many clients are connected to the IPC socket.
        identity: 32 hex digits that tell this store from every other one, and from itself after a restart.
        small_values: how many values are in their metadata, because they have a kilobyte or less; 0 where that is not
            known.
        small_values_used: about how many bytes of vineyardd's memory those take, beside ``memory_used``. Where that is
            more than a sixteenth of the store, it counts when a value is put.
        inventory: how much clients have noted of what is in the store: ``complete``, ``incomplete``, or ``none``; then
            ``collect`` lists everything; empty for a store on another host.
    """

    socket: str
    version: str
    instance_id: int
    metadata: Optional[str]
    endpoint: Optional[str]
    memory_used: int
    memory_limit: int
    connections: int
    identity: str = ""
    small_values: int = 0
    small_values_used: int = 0
    inventory: str = ""


class Draft:
    """A value that is being made in the store's memory; see ``Client.create``.

    Attributes:
        value: the value, to be filled.
        ref: the reference to it; set when the block has ended.
    """

    def __init__(self, value: object) -> None:
        self.value = value
        self.ref: Optional[ObjectRef] = None
