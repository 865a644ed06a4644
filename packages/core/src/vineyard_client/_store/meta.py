"""Metadata trees of the objects that this package puts into a store.

A value is one metadata object. A small one is inside of it; any other has a blob, and a guard::

    typename     vineyard_client::Value
    token        32 hex digits, drawn for each put; also in the value's envelope and in every reference
    version      of this form
    type         what the value is, e.g. pandas.DataFrame
    summary      the same for people, a few hundred bytes at most
    size         bytes of the envelope (the blob's own nbytes read 0 while it is unsealed)
    created      seconds since 1970, UTC, by the writer's clock: for people
    uptime       seconds since the host was started, when it came into this store; ages are counted by that, because a
                 store does not outlive its host's start, and nobody sets that clock. Not in what early releases put
    host         where it was put
    labels       a JSON object of strings; as text, because the server takes a dict for a member object
    content      the envelope in base64, if it has at most INLINE_LIMIT bytes; else there are two members:
    blob         the envelope
    guard        sealed, and in use by the writer's connection until the value is whole; it has the preview, or one byte
    preview      what people are shown of the value, a JSON text: with ``content`` itself, else its bytes in the guard.
                 Not in what has none

A value that shares memory with others has ``version`` 2, and further members and fields; ``size`` is what the envelope
would be without sharing, and its copies are::

    own          bytes of blob
    sizes        those of the following, as the text of a JSON list (the server says 0 of every blob that is a member)
    shared_0 …   blobs with buffers of the value that are not in its own (``_codec.envelope``); the server frees a blob
                 with the last object that has it as a member

A replica, which is a copy of a value that lives on another host, has two fields more::

    origin       host:port of the instance that has the original
    origin_id    the original's object id there

In turn the original carries a label of the server's, ``vineyard_client.replica.HOST``, for each host with a replica.

The guard tells a writer that is at work from one that was killed: the server keeps calling an unsealed blob in use when
its creator is dead, but drops the marks that the creator had on sealed ones.

A tombstone is the same tree with the typename vineyard_client::Tombstone: it keeps the memory of a deleted value while
somebody still reads it.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple, Union

from ..exceptions import ObjectCorrupted, UnsupportedVersion, VineyardError
from ..ids import format_id, is_token, parse_id

__all__ = [
    "GUARD_SIZE",
    "INLINE_LIMIT",
    "INLINE_PREVIEW",
    "MAX_SHARED",
    "REPLICA_LABEL",
    "TOMBSTONE",
    "VALUE",
    "ValueMeta",
    "blob_member",
    "check_labels",
]

VALUE = "vineyard_client::Value"
TOMBSTONE = "vineyard_client::Tombstone"

VERSION, VERSION_SHARING = 1, 2

REPLICA_LABEL = "vineyard_client.replica."

# The server has one blob of no bytes for everybody, so a guard needs a byte.
GUARD_SIZE = 1

# Bytes. Each exchange with the server costs far more than a kilobyte more or less in it, and a small value in its
# metadata takes one to put and one to get; but a listing of the store carries all of them.
INLINE_LIMIT = 1024

# Bytes of a preview in the metadata, which each listing carries, too.
INLINE_PREVIEW = 400

# These are security limits: what a peer, or whoever writes to the store, can have every later listing of it carry.
# Names of types and hosts are short, a summary has a few hundred characters; Airflow's own limits for what is in the
# labels of an XCom (four texts of 250 to 512 characters) fit several times.
MAX_TYPE = 1024
MAX_SUMMARY = 4096
MAX_HOST = 1024
# A later release may make larger previews than this one, but nobody shows megabytes.
MAX_PREVIEW = 64 * 1024
MAX_LABELS = 64
MAX_LABELS_SIZE = 16 * 1024
MAX_SERVER_LABELS_SIZE = 1024 * 1024

# Blobs that a value may share. Each is a member in its metadata, some 150 bytes, and a mapping of whoever reads it.
MAX_SHARED = 128

# What reading a damaged tree raises: JSON may nest without end, and a number may be infinite.
_DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, VineyardError)

# Seconds since 1970; what comes later is no date for Python.
_YEAR_9999 = 253_370_764_800

Tree = Dict[str, Any]


@dataclass(frozen=True)
class ValueMeta:
    """What the metadata of a value say.

    Either ``content`` is the envelope, or it is None and ``blob`` and ``guard`` are the ids of the two blobs, which
    ``instance_id`` has. ``shared`` are the ids of further blobs, and ``sizes`` are theirs; ``own`` is then that of
    ``blob``.
    """

    token: str
    type: str
    summary: str
    size: int
    created: float
    host: str
    instance_id: int
    labels: Mapping[str, str] = field(default_factory=dict)
    content: Optional[bytes] = None
    blob: int = 0
    guard: int = 0
    origin: Optional[str] = None
    origin_id: Optional[str] = None
    replicas: Tuple[str, ...] = ()
    uptime: Optional[float] = None
    preview: Union[int, str] = 0
    own: int = 0
    shared: Tuple[int, ...] = ()
    sizes: Tuple[int, ...] = ()

    @property
    def guard_size(self) -> int:
        """Bytes of the guard, which has the preview."""
        return max(GUARD_SIZE, self.preview) if isinstance(self.preview, int) else GUARD_SIZE

    @property
    def blobs(self) -> Tuple[int, ...]:
        """The ids of all blobs that have parts of the envelope, its own first."""
        return (self.blob, *self.shared) if self.content is None else ()

    @property
    def pieces(self) -> Dict[int, int]:
        """The bytes of each of them, by their ids."""
        return dict(zip(self.blobs, (self.own, *self.sizes) if self.shared else (self.size,)))

    @property
    def memory(self) -> int:
        """Bytes that were taken for it: what it shares was there; a replica has all of it for itself."""
        if not self.shared:
            return self.size
        return self.own + (sum(self.sizes) if self.origin is not None else 0)

    def tree(self, typename: str = VALUE) -> Tree:
        """Return the tree to store, of one typename or the other."""
        tree = {
            "typename": typename,
            "version": VERSION_SHARING if self.shared else VERSION,
            "nbytes": self.memory,
            "instance_id": self.instance_id,
            "transient": True,
            "token": self.token,
            "type": self.type[:MAX_TYPE],
            "summary": self.summary[:MAX_SUMMARY],
            "size": self.size,
            "created": self.created,
            "host": self.host,
            "labels": json.dumps(dict(self.labels)),
        }
        if self.uptime is not None:
            tree = {**tree, "uptime": self.uptime}
        if self.origin is not None:
            tree = {**tree, "origin": self.origin, "origin_id": self.origin_id}
        if self.preview:
            tree = {**tree, "preview": self.preview}
        if self.content is not None:
            return {**tree, "content": b64encode(self.content).decode()}
        members = {"blob": (self.blob, self.size), "guard": (self.guard, self.guard_size)}
        if self.shared:
            tree = {**tree, "own": self.own, "sizes": json.dumps(self.sizes)}
            members["blob"] = self.blob, self.own
            for position, blob in enumerate(zip(self.shared, self.sizes)):
                members[f"shared_{position}"] = blob
        return {**tree, **{name: blob_member(*blob, self.instance_id) for name, blob in members.items()}}

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> ValueMeta:
        """Read a tree of either typename.

        Raises:
            UnsupportedVersion: a later release of this package wrote it.
            ObjectCorrupted: a field is missing or has another kind.
        """
        if tree.get("typename") not in (VALUE, TOMBSTONE):
            raise ObjectCorrupted(
                f"The object {tree.get('id')} is a {tree.get('typename')!s:.80}, not a value of this package.",
                "Only objects that vineyard-client put can be read.",
            )
        if tree.get("version") not in (VERSION, VERSION_SHARING):
            raise UnsupportedVersion(
                f"The object {tree.get('id')} has metadata of version {tree.get('version')!r:.20}; "
                f"this release knows {VERSION} and {VERSION_SHARING}.",
                "Upgrade vineyard-client here, or put the value with the release that is installed here.",
            )
        try:
            labels = json.loads(_bounded(tree["labels"], MAX_LABELS_SIZE))
            if len(labels) > MAX_LABELS:
                raise ValueError(f"it has {len(labels)} labels")
            meta = cls(
                token=tree["token"],
                type=_bounded(tree["type"], MAX_TYPE),
                summary=_bounded(tree["summary"], MAX_SUMMARY),
                size=tree["size"],
                created=float(tree["created"]),
                host=_bounded(tree["host"], MAX_HOST),
                instance_id=int(tree["instance_id"]),
                labels=labels,
                origin=None if tree.get("origin") is None else _bounded(tree["origin"], MAX_HOST),
                origin_id=tree.get("origin_id"),
                replicas=_replicas(tree),
                uptime=None if tree.get("uptime") is None else float(tree["uptime"]),
                preview=_preview(tree),
                **_place(tree),
                **(_shared(tree) if tree.get("version") == VERSION_SHARING else {}),
            )
            texts = [meta.type, meta.summary, meta.host, *labels, *labels.values()]
            texts += [] if meta.origin is None else [meta.origin, meta.origin_id]
            if not all(isinstance(text, str) for text in texts) or not isinstance(meta.size, int):
                raise TypeError("a field has the wrong kind")
            if meta.uptime is not None and not 0 <= meta.uptime < _YEAR_9999:
                raise ValueError("it says that it was put at no time")
            if not is_token(meta.token) or not 0 <= meta.size < 1 << 63 or not 0 <= meta.created < _YEAR_9999:
                raise ValueError("a field has an impossible value")
        except _DAMAGE as error:
            raise ObjectCorrupted(
                f"The metadata of the object {tree.get('id')} cannot be read: {type(error).__name__} {error!s:.200}.",
                "Delete it (with the reference that put returned) and put the value again.",
            ) from error
        return meta


def check_labels(labels: Optional[Mapping[str, str]]) -> Mapping[str, str]:
    """Return a copy of labels.

    Raises:
        TypeError: one of them, or its value, is not a text.
        ValueError: there are too many of them, or they are too long.
    """
    labels = dict(labels or {})
    for key, value in labels.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"Labels are texts; {key!r:.40}: {value!r:.40} is not.")
    size = len(json.dumps(labels))
    if len(labels) > MAX_LABELS or size > MAX_LABELS_SIZE:
        raise ValueError(
            f"{len(labels)} labels of {size} bytes as JSON are more than an object may have: {MAX_LABELS} labels, "
            f"{MAX_LABELS_SIZE} bytes. Put into labels what objects are found by, and the rest into the value."
        )
    return labels


def _bounded(text: Any, most: int) -> Any:
    if isinstance(text, str) and len(text) > most:
        raise ValueError(f"a text has {len(text)} characters where {most} are enough")
    return text


def _preview(tree: Mapping[str, Any]) -> Union[int, str]:
    """Return the preview, or how many bytes of the guard are one."""
    found = tree.get("preview", 0)
    if not isinstance(found, str if "content" in tree and found else int) or isinstance(found, bool):
        raise TypeError("its preview has the wrong kind")
    if isinstance(found, int) and not 0 <= found <= MAX_PREVIEW:
        raise ValueError(f"its preview has {found} bytes where {MAX_PREVIEW} are enough")
    shown: Union[int, str] = _bounded(found, MAX_PREVIEW)
    return shown


def _place(tree: Mapping[str, Any]) -> Dict[str, Any]:
    """Return where the envelope is, as arguments of ``ValueMeta``."""
    if "content" in tree:
        # A later release may have another limit, but nobody has megabytes in here.
        return {"content": b64decode(_bounded(tree["content"], 64 * INLINE_LIMIT), validate=True)}
    return {name: parse_id(tree[name]["id"]) for name in ("blob", "guard")}


def _shared(tree: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what is shared with others, as arguments of ``ValueMeta``."""
    sizes = json.loads(_bounded(tree["sizes"], 32 * MAX_SHARED))
    blobs = [parse_id(tree[f"shared_{position}"]["id"]) for position in range(len(sizes))]
    distinct = {parse_id(tree["blob"]["id"]), *blobs}
    if "content" in tree or not 0 < len(blobs) <= MAX_SHARED or len(distinct) != len(blobs) + 1:
        raise ValueError("it does not share what it says")
    if not all(type(size) is int and 0 < size < 1 << 63 for size in (tree["own"], *sizes)):
        raise ValueError("a size is none")
    return {"own": tree["own"], "shared": tuple(blobs), "sizes": tuple(sizes)}


def _replicas(tree: Mapping[str, Any]) -> Tuple[str, ...]:
    """Return the hosts that the server's own labels say have a replica; an empty label is one that was taken back."""
    labels = json.loads(_bounded(tree.get("__labels", "{}"), MAX_SERVER_LABELS_SIZE))
    return tuple(sorted(key[len(REPLICA_LABEL) :] for key in labels if key.startswith(REPLICA_LABEL) and labels[key]))


def blob_member(blob: int, size: int, instance_id: int) -> Tree:
    """Return the tree of a blob as a member of a metadata object."""
    return {
        "id": format_id(blob),
        "typename": "vineyard::Blob",
        "nbytes": size,
        "length": size,
        "instance_id": instance_id,
        "transient": True,
    }
