"""What the tests with several hosts do again and again; ``hosts`` makes the hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, NamedTuple

import vineyard_client as vc

from . import until
from .hosts import Server, Task


class Trio(NamedTuple):
    """A vineyardd on each of three hosts."""

    a: Server
    b: Server
    c: Server


def leftovers(server: Server) -> List[str]:
    """Return what is in a store, or beside it, that ``collect`` did not free; a store with something gets a new server."""
    problems: List[str] = []
    with server.client() as client:
        # A server may need a moment to see that a peer is gone, above all one that was cut off.
        until(lambda: client.collect() == [], "collect finds everything", 5)
        for deleted in (False, True):
            problems += [f"{info.ref} is there" for info in client.list(deleted=deleted)]
        try:
            until(lambda: client.status().memory_used == 0, "all memory is free", 5)
        except AssertionError:
            problems.append(f"{client.status().memory_used} bytes are in use")
    folder = Path(server.socket + ".replicas")
    problems += [f"a file {path}" for path in folder.glob("*")]
    if problems:
        server.kill()
        server.start()
    return problems


def under_way(server: Server, task: Task[Any], nbytes: int = 1_000_000) -> None:
    """Return when a transfer from a host has begun and is not over."""
    before = server.host.sent()
    until(lambda: server.host.sent() > before + nbytes, "the transfer begins")
    assert not task.done


def reading(server: Server, ref: vc.ObjectRef, **options: Any) -> Callable[[], Any]:
    """Return a function that reads a value through a server; it is for a host's ``call`` or ``start``."""

    def read() -> Any:
        with server.client(**options) as client:
            return client.get(ref)

    return read
