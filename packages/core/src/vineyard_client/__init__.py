"""Hand Python values to other processes through vineyard, a shared-memory object store.

::

    import vineyard_client as vc

    client = vc.connect()               # argument > VINEYARD_IPC_SOCKET > a server of your own, started on demand
    ref = client.put(value)             # anything; a small reference comes back
    client.get(ref)                     # same type, same value, in any process on the host, without a copy

See ``Client`` for what else there is and ``exceptions`` for what can go wrong. The names in ``__all__`` are the public
interface; everything in a module with a leading underscore may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._codec.outside import from_outside
from ._store.collect import Collectable
from ._version import __version__
from .client import Client, preload
from .encoded import EncodedValue, declare_type, dumps, encode, loads
from .exceptions import (
    ConnectionFailed,
    DeadlineExceeded,
    InvalidReference,
    MigrationFailed,
    ObjectCorrupted,
    ObjectNotFound,
    ProtocolError,
    ServerError,
    ServerStartFailed,
    StoreFull,
    TierFailed,
    TierFull,
    TierRefused,
    TierUnavailable,
    UnsafeType,
    UnsupportedVersion,
    VineyardError,
)
from .reference import Draft, ObjectInfo, ObjectRef, StoreStatus
from .server import EmbeddedServer, connect, ensure_server, parse_size, stop_server

if TYPE_CHECKING:
    from ._calls.saved import SavedValues
    from ._tiers.facts import Backlog, Disk, Durable, Finding, SavedCopy, TierStatus
    from ._tiers.options import TierOptions
    from .explanation import Explanation, Refusal, explain
    from .peer import Peer

__all__ = [
    # clients and servers
    "Client",
    "EmbeddedServer",
    "Peer",
    "connect",
    "ensure_server",
    "parse_size",
    "preload",
    "stop_server",
    # values as bytes, without a server
    "EncodedValue",
    "declare_type",
    "dumps",
    "encode",
    "loads",
    # functions in other interpreters
    "handover",
    # what would happen to a value
    "Explanation",
    "Refusal",
    "explain",
    # what they return
    "Collectable",
    "Draft",
    "ObjectInfo",
    "ObjectRef",
    "StoreStatus",
    # where values last
    "Backlog",
    "Disk",
    "Durable",
    "Finding",
    "SavedCopy",
    "SavedValues",
    "TierOptions",
    "TierStatus",
    # what can go wrong
    "ConnectionFailed",
    "DeadlineExceeded",
    "InvalidReference",
    "MigrationFailed",
    "ObjectCorrupted",
    "ObjectNotFound",
    "ProtocolError",
    "ServerError",
    "ServerStartFailed",
    "StoreFull",
    "TierFailed",
    "TierFull",
    "TierRefused",
    "TierUnavailable",
    "UnsafeType",
    "UnsupportedVersion",
    "VineyardError",
    "from_outside",
    "__version__",
]


# What few programs use is loaded when it is asked for: its name -> the module that has it.
_LATER = {
    **dict.fromkeys(("Explanation", "Refusal", "explain"), ".explanation"),
    **dict.fromkeys(("Backlog", "Disk", "Durable", "Finding", "SavedCopy", "TierStatus"), "._tiers.facts"),
    "Peer": ".peer",
    "SavedValues": "._calls.saved",
    "TierOptions": "._tiers.options",
}


def __getattr__(name: str) -> Any:
    """Load what few programs use when it is asked for."""
    from importlib import import_module

    if name == "handover":
        return import_module(f".{name}", __name__)
    if name in _LATER:
        return getattr(import_module(_LATER[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
