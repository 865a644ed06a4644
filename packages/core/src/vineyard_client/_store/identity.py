"""Which store this is: a random identity that a store has for the life of its server.

The first client of ours that comes to a store puts it there::

    typename     vineyard_client::Store
    version      of this form
    token        32 hex digits
    memory       a blob of one byte, by which every client is handed the store's memory, also when that is full; not in
                 what early releases put. That byte is left out of what is told to be in use.

A path says little of who listens there: servers are restarted, and sockets replaced. So each connection looks, when it
registers and together with that, whether the store is still the one that it was.

Several clients may be the first at the same moment. Each puts an object and then looks at all of them; ids grow with
time, so the smallest is the one that was there first, and everybody who came later has seen it. The others remove
theirs.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .._wire.messages import (
    CreateBuffer,
    CreateData,
    DeleteData,
    DropBuffer,
    GetData,
    ListData,
    Release,
    Request,
    Seal,
)
from ..exceptions import InvalidReference, StoreFull
from ..ids import is_token, parse_id
from .connection import Connection
from .meta import blob_member

__all__ = ["SIZE", "STORE", "Identity", "identify", "question"]

STORE = "vineyard_client::Store"

_VERSION = 1

#: Bytes of its blob.
SIZE = 1

# Seconds to free that again, if it was for nothing.
_GRACE = 1.0


class Identity(NamedTuple):
    """The object that says which store it is, and what it says; ``blob`` is 0 if it has none."""

    number: int
    token: str
    blob: int = 0


Trees = Dict[int, Dict[str, Any]]


def question(known: Optional[Identity] = None) -> Request[Trees]:
    """Return what is asked for the identity of a store.

    Args:
        known: what it was at an earlier connection.
    """
    # The server lists by id, and one that was put at first contact is among the first.
    return ListData(STORE, limit=1) if known is None else GetData([known.number])


def identify(connection: Connection, known: Optional[Identity] = None, answer: Optional[Trees] = None) -> Identity:
    """Return the identity of the store behind a connection, which gets one if it has none.

    Args:
        connection: to the store.
        known: what it was at an earlier connection.
        answer: what the store said to the question, if it has been asked.
    """
    trees = connection.call(question(known)) if answer is None else answer
    if known is not None:
        if trees.get(known.number, {}).get("token") == known.token:
            return known
        trees = connection.call(question())
    found = _read(connection, trees)
    return found[0] if found else _put(connection)


def _put(connection: Connection) -> Identity:
    tree = {
        "typename": STORE,
        "version": _VERSION,
        "nbytes": 0,
        "instance_id": connection.instance.instance_id,
        "transient": True,
        "token": os.urandom(16).hex(),
    }
    mine, blob = _with_memory(connection, tree)
    found = _read(connection, connection.call(ListData(STORE)))
    first = found[0] if found else Identity(mine, str(tree["token"]), blob)
    if first.number != mine:
        connection.call(DeleteData([mine]))
    return first


def _with_memory(connection: Connection, tree: Dict[str, Any]) -> Tuple[int, int]:
    """Store an identity with a blob, if there is a byte for it; return the ids of both."""
    try:
        blob: int = connection.call(CreateBuffer(SIZE)).id
    except StoreFull:
        return connection.call(CreateData(tree)), 0
    try:
        tree["memory"] = blob_member(blob, SIZE, connection.instance.instance_id)
        _, number, _ = connection.call_all(Seal(blob), CreateData(tree), Release(blob))
    except BaseException:
        connection.renewed(_GRACE).outcomes(DropBuffer(blob))
        raise
    return number, blob


def _read(connection: Connection, trees: Trees) -> List[Identity]:
    """Return the identities of this instance, the first one first; instances may see each other's objects."""
    here = connection.instance.instance_id
    return sorted(
        Identity(number, tree["token"], _blob(tree))
        for number, tree in trees.items()
        if is_token(tree.get("token")) and tree.get("instance_id") == here
    )


def _blob(tree: Dict[str, Any]) -> int:
    try:
        return parse_id(tree["memory"]["id"])
    except (InvalidReference, LookupError, TypeError):
        return 0
