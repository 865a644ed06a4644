"""Which store this is: a random identity that a store has for the life of its server.

The first client of ours that comes to a store puts it there, as an object without memory::

    typename     vineyard_client::Store
    version      of this form
    token        32 hex digits

A path says little of who listens there: servers are restarted, and sockets replaced. So each connection looks, when it
registers and together with that, whether the store is still the one that it was.

Several clients may be the first at the same moment. Each puts an object and then looks at all of them; ids grow with
time, so the smallest is the one that was there first, and everybody who came later has seen it. The others remove
theirs.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List, NamedTuple, Optional

from .._wire.messages import CreateData, DeleteData, GetData, ListData, Request
from ..ids import is_token
from .connection import Connection

__all__ = ["STORE", "Identity", "identify", "question"]

STORE = "vineyard_client::Store"

_VERSION = 1


class Identity(NamedTuple):
    """The object that says which store it is, and what it says."""

    number: int
    token: str


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
    mine = connection.call(CreateData(tree))
    found = _read(connection, connection.call(ListData(STORE)))
    first = found[0] if found else Identity(mine, str(tree["token"]))
    if first.number != mine:
        connection.call(DeleteData([mine]))
    return first


def _read(connection: Connection, trees: Trees) -> List[Identity]:
    """Return the identities of this instance, the first one first; instances may see each other's objects."""
    here = connection.instance.instance_id
    return sorted(
        Identity(number, tree["token"])
        for number, tree in trees.items()
        if is_token(tree.get("token")) and tree.get("instance_id") == here
    )
