"""What the tests with several hosts do again and again; ``hosts`` makes the hosts."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, List, NamedTuple

import vineyard_client as vc

from . import until
from .hosts import Server, Task


class Trio(NamedTuple):
    """A vineyardd on each of three hosts."""

    a: Server
    b: Server
    c: Server


def leftovers(server: Server) -> List[str]:
    """Return what is in a store, or beside it, that ``collect`` did not free; then a new server replaces this one."""
    problems = server.do(_leftovers)
    problems += [f"a file {path}" for path in Path(server.socket + ".replicas").glob("*")]
    if problems:
        server.kill()
        server.start()
    return problems


def _leftovers(client: vc.Client) -> List[str]:
    def clean() -> bool:
        # A server may need a moment to see that a peer is gone, above all one that was cut off.
        return client.collect() == [] and client.status().memory_used == 0

    with contextlib.suppress(AssertionError):
        until(clean, "everything is free", 5)
    problems = [f"{info} is there" for deleted in (False, True) for info in client.list(deleted=deleted)]
    used = client.status().memory_used
    return [*problems, f"{used} bytes are in use"] if used else problems


def until_sent(server: Server, nbytes: int, task: Task[Any]) -> None:
    """Return when a host has sent so many bytes from now on; the task, which receives them, must be at work still."""
    before = server.host.sent()
    until(lambda: server.host.sent() >= before + nbytes, f"{nbytes} bytes are sent")
    assert not task.done
