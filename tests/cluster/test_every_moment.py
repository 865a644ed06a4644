"""Whatever happens at whatever moment of ``migrate``, it is as if the call had been made, or had not.

As in ``tests/integration/test_every_moment.py``, between two hosts.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import threading
import time
from functools import partial
from typing import Any, Callable, List, Optional, Type

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.cluster import Trio
from vineyard_testing.injector import Boom, Injector, points_of, raise_boom, sample
from vineyard_testing.processes import in_child

import vineyard_client as vc

EVERY = bool(os.environ.get("VINEYARD_EVERY_MOMENT"))
SEED = int(os.environ.get("VINEYARD_SEED", time.time() // 86_400))

VALUE = memoryview(bytes([5]) * 300_000)


def cut(client: vc.Client) -> None:
    """Break the connection to the store of this host."""
    connection = client._session._connections._connection
    if connection is not None:
        with socket.socket(fileno=os.dup(connection.conversation.stream.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)


def split(client: vc.Client) -> None:
    """Fork a child that uses the client."""

    def child() -> None:
        ref = client.put(VALUE)
        assert client.get(ref) == VALUE and client.delete(ref)

    assert in_child(child) == 0


def exhaust(client: vc.Client) -> None:
    """Leave this process no further file descriptor."""
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def play(client: vc.Client, ref: vc.ObjectRef, injector: Injector, *allowed: Type[BaseException]) -> List[str]:
    """Migrate with something happening at one point of it, and return what is wrong afterwards."""
    problems: List[str] = []
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    error: Optional[BaseException] = None
    try:
        with injector:
            client.migrate(ref)
    except BaseException as raised:  # noqa: BLE001
        error = raised
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if error is not None and not isinstance(error, allowed):
        problems.append(f"{type(error).__name__}: {error}")
    del error
    answered: List[object] = []

    def ask() -> None:
        try:
            client.status()
        except vc.ConnectionFailed:  # the call that finds it broken
            client.status()
        answered.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(3 * UNIT)
    if not answered:
        return [*problems, "a lock is held"]
    replica = client.migrate(ref)
    if client.get(replica) != VALUE or client.migrate(ref) != replica:
        problems.append("there is no replica, or another value")
    client.delete(ref)
    gc.collect()

    def clean() -> bool:
        return client.collect() == [] and client.status().memory_used == 0

    try:
        until(clean, "everything is free", 5)
    except AssertionError:
        problems.append(f"{client.status().memory_used} bytes are left")
    return problems


@pytest.mark.parametrize(
    ("action", "allowed", "part"),
    [
        (lambda client: raise_boom(), Boom, 300),
        (cut, (vc.ConnectionFailed, vc.MigrationFailed), 600),
        (split, (), 600),
        (exhaust, vc.VineyardError, 300),
    ],
    ids=["an exception", "a broken connection", "a fork", "no descriptor left"],
)
def test_migrate(servers: Trio, action: Callable[[vc.Client], object], allowed: Any, part: int) -> None:
    """The replica is there, or nothing is; the next call makes it, and nothing stays locked or allocated."""

    def put(count: int) -> List[vc.ObjectRef]:
        return servers.b.do(lambda client: [client.put(VALUE) for _ in range(count)])

    def count(client: vc.Client) -> int:
        for ref in refs:
            points = points_of(partial(client.migrate, ref))
            client.delete(ref)
        return points

    refs = put(2)
    tried = sample(servers.a.do(count), SEED, 1 if EVERY else part)
    assert tried
    for first in range(0, len(tried), 20):
        refs = put(len(tried[first : first + 20]))

        def strike(client: vc.Client) -> List[str]:
            unraisable: List[str] = []
            sys.unraisablehook = lambda found: unraisable.append(f"{found.exc_value!r} in {found.object!r}")
            problems: List[str] = []
            for number, ref in zip(tried[first:], refs):  # noqa: B023
                injector = Injector(number, partial(action, client))
                found = play(client, ref, injector, *(allowed if isinstance(allowed, tuple) else [allowed]))
                problems += [f"{number} ({injector.where}): {problem}" for problem in found]
            return [*problems, *unraisable]

        problems = servers.a.do(strike, within=60 * UNIT)
        assert not problems, "\n".join(problems)
