"""A connection over a scripted stream: what it is answered, and what it holds then."""

from __future__ import annotations

import gc
from typing import Any, Dict, List, Optional, Tuple

from vineyard_client._store.connection import Connection, Pin
from vineyard_client._wire.messages import GetData, Payload

from . import UNIT
from .streams import REGISTERED, Descriptor, ScriptedStream, got_buffers, payload

EXISTS = {"type": "exists_reply", "exists": True}
SEALED = {"type": "seal_reply"}
RELEASED = {"type": "release_reply"}
NOTHING = {"type": "get_data_reply", "content": None}
REFUSED = {"code": 14, "message": "not sealed"}

BLOB, OTHER = (1 << 63) | 5, (1 << 63) | 6
CONTENT = bytes(i % 251 for i in range(20_000))


def connected(*steps: Any, rpc: bool = False) -> Connection:
    registered = {**REGISTERED, "rpc_endpoint": "scripted:9600"} if rpc else REGISTERED
    return Connection(ScriptedStream(*steps, registered=registered), timeout=UNIT)


def script(connection: Connection) -> ScriptedStream:
    stream = connection.conversation.stream
    assert isinstance(stream, ScriptedStream)
    return stream


def types(connection: Connection) -> List[str]:
    """Return what was sent after registering."""
    return [message["type"] for message in script(connection).sent[1:]]


def places(blob: int = BLOB, size: int = len(CONTENT)) -> Dict[str, Any]:
    return payload(blob, 64, size)


def found(store: Optional[int] = None, blob: int = BLOB) -> List[Any]:
    """Return the steps that answer ``pin``; with the store's fd the first time."""
    if store is None:
        return [got_buffers([places(blob)]), NOTHING]
    return [got_buffers([places(blob)], fds=[7]), Descriptor(store), NOTHING]


def pinned(connection: Connection, blob: int = BLOB) -> Tuple[Pin, Payload]:
    pin = connection.pin(blob)
    places, _ = pin.take(GetData([1]))
    assert places is not None
    return pin, places[0]


def placed(connection: Connection, blob: int = BLOB) -> Payload:
    """Pin a blob for as long as the connection is there."""
    pin, place = pinned(connection, blob)
    connection.__dict__.setdefault("kept", []).append(pin)
    return place


def mapped(connection: Connection, blob: int = BLOB) -> memoryview:
    """Return a view, which has what it needs: its pin is given back at once."""
    pin, place = pinned(connection, blob)
    try:
        return connection.map(place, pin)
    finally:
        pin.release()


def told(connection: Connection) -> None:
    """Have the server told of what was dropped, as a finalizer does where there is a real socket."""
    gc.collect()
    connection.conversation.release_dropped()
