"""One class for each request, with the reply that it expects.

A request knows its wire form (``message``) and how to read its reply (``parse``), which checks every field that it
hands on: what the peer sent is data, not trust. Fields follow v6d's ``src/common/util/protocols.cc``; names are ours
where the wire's are unclear.

Replies to ``CreateBuffer`` and ``GetBuffers`` may be followed by file descriptors. ``fds_announced`` tells which,
from the raw reply, and it must be asked for every reply, even one that is an error or is not understood: an fd that is
not received puts the stream out of step for good.

There are no dataclasses here: making one takes half a millisecond, and every import of the package would wait for all.
"""

from __future__ import annotations

from typing import Any, ClassVar, Dict, Generic, List, Mapping, NamedTuple, Optional, Sequence, Tuple, TypeVar

from ..exceptions import InvalidReference, ProtocolError
from ..ids import format_id, parse_id
from .framing import Message
from .status import error_from

__all__ = [
    "CLIENT_VERSION",
    "BufferReply",
    "ClusterMeta",
    "CreateBuffer",
    "CreateData",
    "DeleteData",
    "DropBuffer",
    "Exists",
    "GetBuffers",
    "GetData",
    "GetRemoteBuffers",
    "InstanceReply",
    "InstanceStatus",
    "IsInUse",
    "Label",
    "ListData",
    "Payload",
    "Persist",
    "Register",
    "Release",
    "Request",
    "Seal",
    "StatusReply",
    "fds_announced",
    "parse_reply",
]

# What we claim to be when registering: the server only logs it, and refuses clients that claim to be newer than itself
# by a major version. 0.13.1 is the oldest server this client is tested against.
CLIENT_VERSION = "0.14.8"

# Offsets in files are signed (man 2 lseek).
_MOST = 1 << 63

Reply = TypeVar("Reply")
Tree = Dict[str, Any]


def _field(reply: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = reply.get(key, default)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ProtocolError(f"The server's {reply.get('type', 'reply')} has {key} = {value!r:.80}, no {kind.__name__}.")
    return value


def _size(reply: Mapping[str, Any], key: str, default: Any = None) -> int:
    value: int = _field(reply, key, int, default)
    if value < 0 or value >= 1 << 64:
        raise ProtocolError(f"The server's {reply.get('type', 'reply')} has {key} = {value}, no size or id.")
    return value


class Request(Generic[Reply]):
    """What all requests have: a wire name, the fields, and the reading of the reply."""

    type: ClassVar[str]
    reply_type: ClassVar[str]

    def fields(self) -> Message:
        """Return the request's own fields in wire form."""
        return {}

    def message(self) -> Message:
        """Return the whole message in wire form."""
        return {"type": self.type, **self.fields()}

    def parse(self, reply: Message) -> Reply:
        """Return what the caller wants from a reply of the right type."""
        raise NotImplementedError


class _Acknowledged(Request[None]):
    def parse(self, reply: Message) -> None:
        return None


def fds_announced(reply: Message) -> Tuple[int, ...]:
    """Return the server's numbers of the fds that follow a reply, in the order in which they come."""
    number = reply.get("fd", -1)
    numbers = reply.get("fds", [])
    if number == -1 and numbers == []:
        return ()
    announced = numbers if number == -1 else [number, *numbers] if isinstance(numbers, list) else None
    if not isinstance(announced, list) or not all(type(n) is int and n >= 0 for n in announced):
        raise ProtocolError(f"The server announced fds as {number!r:.40} and {numbers!r:.40}.")
    return tuple(announced)


def parse_reply(request: Request[Reply], reply: Message) -> Reply:
    """Return the request's reading of a reply.

    Raises:
        VineyardError: the server answered with an error code; the class depends on the code.
        ProtocolError: the reply belongs to another request or lacks what it must have.
    """
    if reply.get("code"):
        raise error_from(reply, request.type)
    if reply.get("type") != request.reply_type:
        raise ProtocolError(f"The server answered {request.type} with {reply.get('type')!r:.80}.")
    return request.parse(reply)


class Payload(NamedTuple):
    """Where a blob lies: bytes ``offset`` to ``offset + size`` of the memory behind the server's fd ``store_fd``."""

    blob: int
    store_fd: int
    offset: int
    size: int
    map_size: int

    @classmethod
    def read(cls, tree: Any, blob: Optional[int] = None) -> Payload:
        """Check and return the payload in a reply; ``blob`` is the id where the tree does not repeat it."""
        if not isinstance(tree, dict):
            raise ProtocolError(f"The server described a blob as {tree!r:.80}.")
        size, offset, map_size = _size(tree, "data_size"), _size(tree, "data_offset", 0), _size(tree, "map_size", 0)
        if size and offset + size > map_size:
            raise ProtocolError(f"The server placed a blob at {offset}+{size}, outside of its memory of {map_size}.")
        if map_size >= _MOST:
            raise ProtocolError(f"The server has memory of {map_size} bytes: no file is so large.")
        store_fd: int = _field(tree, "store_fd", int, -1)
        return cls(_size(tree, "object_id") if blob is None else blob, store_fd, offset, size, map_size)


class InstanceReply(NamedTuple):
    """What a server says of itself when a client registers."""

    version: str
    instance_id: int
    ipc_socket: str
    rpc_endpoint: str


class Register(Request[InstanceReply]):
    """Open the conversation; everything else is refused before."""

    type: ClassVar[str] = "register_request"
    reply_type: ClassVar[str] = "register_reply"

    def __init__(self, username: str = "", password: str = "") -> None:
        self.username = username
        self.password = password

    def fields(self) -> Message:
        """Return the wire fields; the default ("normal") store has number 1, the root session 0."""
        credentials = {"username": self.username, "password": self.password}
        return {"version": CLIENT_VERSION, "store_type": 1, "session_id": 0, **credentials}

    def parse(self, reply: Message) -> InstanceReply:
        """Return the instance behind the socket."""
        return InstanceReply(
            version=_field(reply, "version", str, "0.0.0"),
            instance_id=_size(reply, "instance_id"),
            ipc_socket=_field(reply, "ipc_socket", str, ""),
            rpc_endpoint=_field(reply, "rpc_endpoint", str, ""),
        )


class BufferReply(NamedTuple):
    """A blob that was just created."""

    id: int
    payload: Payload


class CreateBuffer(Request[BufferReply]):
    """Allocate an unsealed blob of ``size`` bytes; size 0 gives the server's one empty blob."""

    type: ClassVar[str] = "create_buffer_request"
    reply_type: ClassVar[str] = "create_buffer_reply"

    def __init__(self, size: int) -> None:
        self.size = size

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"size": self.size}

    def parse(self, reply: Message) -> BufferReply:
        """Return id and place of the new blob."""
        number = _size(reply, "id")
        return BufferReply(number, Payload.read(reply.get("created"), number))


class Seal(_Acknowledged):
    """Make a blob immutable and readable; the connection keeps it in use until it releases it."""

    type: ClassVar[str] = "seal_request"
    reply_type: ClassVar[str] = "seal_reply"

    def __init__(self, blob: int) -> None:
        self.blob = blob

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"object_id": self.blob}


class DropBuffer(_Acknowledged):
    """Free a blob that no metadata names."""

    type: ClassVar[str] = "drop_buffer_request"
    reply_type: ClassVar[str] = "drop_buffer_reply"

    def __init__(self, blob: int) -> None:
        self.blob = blob

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"id": self.blob}


class GetBuffers(Request[List[Payload]]):
    """Find blobs and mark them in use by this connection; a blob that is gone is left out of the reply.

    One that is not sealed is refused, unless ``unsealed`` says that it need not be.
    """

    type: ClassVar[str] = "get_buffers_request"
    reply_type: ClassVar[str] = "get_buffers_reply"

    def __init__(self, blobs: Sequence[int], unsealed: bool = False) -> None:
        self.blobs = blobs
        self.unsealed = unsealed

    def fields(self) -> Message:
        """Return the wire fields."""
        numbered = {str(i): blob for i, blob in enumerate(self.blobs)}
        return {**numbered, "num": len(self.blobs), "unsafe": self.unsealed}

    def parse(self, reply: Message) -> List[Payload]:
        """Return the places of those blobs that exist."""
        trees = [reply.get(str(i)) for i in range(min(_size(reply, "num"), len(self.blobs)))]
        payloads = [Payload.read(tree) for tree in trees]
        for payload in payloads:
            if payload.blob not in self.blobs:
                raise ProtocolError(f"The server placed {format_id(payload.blob)}, which nobody asked for.")
        return payloads


class GetRemoteBuffers(GetBuffers):
    """Over TCP: find blobs; behind the reply come their bytes, one blob after the other."""

    type: ClassVar[str] = "get_remote_buffers_request"

    def fields(self) -> Message:
        """Return the wire fields."""
        return {**super().fields(), "compress": False, "use_rdma": False}


class Release(_Acknowledged):
    """Drop this connection's in-use mark from a blob."""

    type: ClassVar[str] = "release_request"
    reply_type: ClassVar[str] = "release_reply"

    def __init__(self, blob: int) -> None:
        self.blob = blob

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"object_id": self.blob}


class IsInUse(Request[bool]):
    """Ask whether any connection has a blob marked in use."""

    type: ClassVar[str] = "is_in_use_request"
    reply_type: ClassVar[str] = "is_in_use_reply"

    def __init__(self, blob: int) -> None:
        self.blob = blob

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"id": self.blob}

    def parse(self, reply: Message) -> bool:
        """Return whether the blob is in use."""
        answer: bool = _field(reply, "is_in_use", bool)
        return answer


class CreateData(Request[int]):
    """Store a metadata tree; the reply is the new object's id."""

    type: ClassVar[str] = "create_data_request"
    reply_type: ClassVar[str] = "create_data_reply"

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"content": self.tree}

    def parse(self, reply: Message) -> int:
        """Return the object id."""
        return _size(reply, "id")


def _trees(reply: Message) -> Dict[int, Tree]:
    """Read ``content``: trees by object id; null when nothing was found."""
    content = reply.get("content")
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(tree, dict) for tree in content.values()):
        raise ProtocolError(f"The server's {reply.get('type')} has content {content!r:.80}.")
    try:
        return {parse_id(key): tree for key, tree in content.items()}
    except InvalidReference as error:
        raise ProtocolError(f"The server's {reply.get('type')} names an object badly: {error.what}") from error


class GetData(Request[Dict[int, Tree]]):
    """Read metadata trees; objects that are gone are left out."""

    type: ClassVar[str] = "get_data_request"
    reply_type: ClassVar[str] = "get_data_reply"

    def __init__(self, ids: Sequence[int], sync_remote: bool = False) -> None:
        self.ids = ids
        self.sync_remote = sync_remote

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"id": list(self.ids), "sync_remote": self.sync_remote, "wait": False}

    def parse(self, reply: Message) -> Dict[int, Tree]:
        """Return the trees by object id."""
        return _trees(reply)


class ListData(Request[Dict[int, Tree]]):
    """Read the trees of all objects whose typename matches a glob; the server knows no pages, only a limit."""

    type: ClassVar[str] = "list_data_request"
    reply_type: ClassVar[str] = "get_data_reply"

    def __init__(self, pattern: str, limit: int = 1 << 62) -> None:
        self.pattern = pattern
        self.limit = limit

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"pattern": self.pattern, "regex": False, "limit": self.limit}

    def parse(self, reply: Message) -> Dict[int, Tree]:
        """Return the trees by object id."""
        return _trees(reply)


class DeleteData(_Acknowledged):
    """Delete objects with their members; ids that are gone are no error, members of other objects survive."""

    type: ClassVar[str] = "del_data_request"
    reply_type: ClassVar[str] = "del_data_reply"

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = ids

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"id": list(self.ids), "force": False, "deep": True, "fastpath": False, "memory_trim": False}


class Label(_Acknowledged):
    """Add the server's own labels to an object; they come back in its tree, as a JSON text under ``__labels``."""

    type: ClassVar[str] = "label_request"
    reply_type: ClassVar[str] = "label_reply"

    def __init__(self, id: int, labels: Mapping[str, str]) -> None:
        self.id = id
        self.labels = labels

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"id": self.id, "keys": list(self.labels), "values": list(self.labels.values())}


class Exists(Request[bool]):
    """Ask whether an id is taken."""

    type: ClassVar[str] = "exists_request"
    reply_type: ClassVar[str] = "exists_reply"

    def __init__(self, id: int) -> None:
        self.id = id

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"id": self.id}

    def parse(self, reply: Message) -> bool:
        """Return whether the object exists."""
        answer: bool = _field(reply, "exists", bool)
        return answer


class Persist(_Acknowledged):
    """Make an object visible to every instance of the cluster."""

    type: ClassVar[str] = "persist_request"
    reply_type: ClassVar[str] = "persist_reply"

    def __init__(self, id: int) -> None:
        self.id = id

    def fields(self) -> Message:
        """Return the wire fields."""
        return {"id": self.id}


class StatusReply(NamedTuple):
    """How full an instance is, in bytes."""

    instance_id: int
    memory_used: int
    memory_limit: int
    connections: int


class InstanceStatus(Request[StatusReply]):
    """Ask how full the instance is."""

    type: ClassVar[str] = "instance_status_request"
    reply_type: ClassVar[str] = "instance_status_reply"

    def parse(self, reply: Message) -> StatusReply:
        """Return the figures."""
        meta: Tree = _field(reply, "meta", dict)
        return StatusReply(
            instance_id=_size(meta, "instance_id"),
            memory_used=_size(meta, "memory_usage"),
            memory_limit=_size(meta, "memory_limit"),
            connections=_size(meta, "ipc_connections", 0),
        )


class ClusterMeta(Request[Dict[str, Tree]]):
    """Ask for every instance of the cluster: host name, IPC socket and RPC endpoint of each."""

    type: ClassVar[str] = "cluster_meta"
    reply_type: ClassVar[str] = "cluster_meta"

    def parse(self, reply: Message) -> Dict[str, Tree]:
        """Return the instances by their names."""
        meta: Tree = _field(reply, "meta", dict)
        return {name: tree for name, tree in meta.items() if isinstance(tree, dict)}
