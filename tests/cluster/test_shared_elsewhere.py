"""Values that share memory with others on their own host: what crosses to another one is whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from vineyard_testing.cluster import Trio

import vineyard_client as vc
from vineyard_client.exceptions import MigrationFailed

FIRST, MORE = np.arange(300_000), np.arange(50_000) * 3.0


def pair(client: vc.Client) -> Any:
    """Put a value and one that shares its memory, and return the references."""
    first = client.put(FIRST)
    second = client.put({"first": client.get(first), "more": MORE})
    assert client.info(second).memory < FIRST.nbytes  # type: ignore[operator]
    return first, second


def is_whole(value: Any) -> bool:
    return list(value) == ["first", "more"] and bool((value["first"] == FIRST).all() and (value["more"] == MORE).all())


@pytest.mark.parametrize("replica", [True, False], ids=["replica", "no replica"])
def test_it_crosses_whole(servers: Trio, replica: bool) -> None:
    """What is read on another host needs nothing that stays behind, and is the reader's to change."""
    a, b, _ = servers
    with a.client() as client:
        first, second = pair(client)
        client.delete(first)

    def read(client: vc.Client) -> None:
        value: Any = client.get(second, replica=replica)
        assert is_whole(value)
        value["first"][:] = -1
        assert (value["more"] == MORE).all()
        assert is_whole(client.get(second, replica=replica))

    b.do(read)
    if replica:

        def look(client: vc.Client) -> None:
            (info,) = client.list()
            assert info.origin == a.endpoint
            assert info.memory >= FIRST.nbytes + MORE.nbytes  # type: ignore[operator]

        b.do(look)
        a.host.cut()
        b.do(lambda client: is_whole(client.get(second)) or 1 / 0)
        a.host.mend()
    assert b.do(lambda client: client.delete(second))


def test_what_is_put_there_shares_with_the_replica(servers: Trio) -> None:
    """A replica is memory of that host: what a task there adds takes what is new. It outlives replica and original."""
    a, b, c = servers
    with a.client() as client:
        first, second = pair(client)

    def go_on(client: vc.Client) -> vc.ObjectRef:
        value: Any = client.get(second)
        value["third"] = MORE + 1
        third = client.put(value)
        assert client.info(third).memory < 2 * MORE.nbytes  # type: ignore[operator]
        return third

    third = b.do(go_on)
    for ref in (first, second):
        assert b.do(lambda client, ref=ref: client.delete(ref))
    b.do(lambda client: client.collect())

    def check(client: vc.Client) -> None:
        value: Any = client.get(third)
        assert (value.pop("third") == MORE + 1).all()
        assert is_whole(value)

    for server in (a, b, c):
        server.do(check)
    assert a.do(lambda client: client.delete(third))
    for server in (b, c):
        server.do(lambda client: client.delete(third))


def test_a_part_that_goes_meanwhile(servers: Trio) -> None:
    """The value is deleted, with all it shared, when somebody comes for it: nothing is left of a replica."""
    a, b, _ = servers
    with a.client() as client:
        first, second = pair(client)
        client.delete(first)
        client.delete(second)
        client.collect()

    def read(client: vc.Client) -> None:
        with pytest.raises((vc.ObjectNotFound, MigrationFailed)):
            client.get(second)
        assert client.status().memory_used == 0

    b.do(read)
