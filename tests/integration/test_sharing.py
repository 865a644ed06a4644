"""``put(same_as=…)``: two objects with one memory, and what becomes of the one when the other goes."""

from __future__ import annotations

import random
import threading
from typing import Any, List

import pytest

import vineyard_client as vc

pytestmark = pytest.mark.integration

SIZE = 1 << 20


def buffer(fill: int, size: int = SIZE) -> bytearray:
    return bytearray([fill]) * size


def used(client: vc.Client) -> int:
    return client.status().memory_used


def test_the_memory_is_taken_once(client: vc.Client) -> None:
    value = {"a": buffer(1), "b": [1, "two", (3.0,)]}
    first = client.put(value)
    before = used(client)
    second = client.put(value, same_as=first, labels={"key": "b"})
    assert used(client) == before
    assert second.id != first.id
    assert (second.token, second.type, second.size) == (first.token, first.type, first.size)
    assert client.get(second) == client.get(first) == value
    assert client.info(second).labels == {"key": "b"}
    assert {info.ref.id for info in client.list()} == {first.id, second.id}


@pytest.mark.parametrize("kept", [0, 1])
def test_either_outlives_the_other(client: vc.Client, kept: int) -> None:
    empty = used(client)
    first = client.put(buffer(1))
    refs = [first, client.put(buffer(1), same_as=first)]
    assert client.delete(refs[1 - kept])
    assert not client.exists(refs[1 - kept])
    filler = [client.put(buffer(2)) for _ in range(20)]  # would take the memory if it were free
    assert client.collect() == []
    assert client.get(refs[kept]) == buffer(1)
    for ref in [refs[kept], *filler]:
        client.delete(ref)
    assert used(client) == empty


def test_a_view_keeps_what_both_have_lost(client: vc.Client) -> None:
    empty = used(client)
    first = client.put(buffer(1))
    second = client.put(buffer(1), same_as=first)
    view: Any = client.get(second)
    client.delete(first)
    client.delete(second)
    filler = [client.put(buffer(2)) for _ in range(20)]
    assert view == buffer(1)
    del view
    client.collect()
    for ref in filler:
        client.delete(ref)
    assert used(client) == empty


@pytest.mark.parametrize(
    "other",
    [buffer(2), buffer(1, SIZE - 1), bytearray(SIZE - 1) + b"\1", bytes(buffer(1)), "small", [buffer(1)]],
    ids=["content", "size", "last byte", "type", "small", "structure"],
)
def test_what_is_not_the_same_takes_its_own_memory(client: vc.Client, other: Any) -> None:
    first = client.put(bytearray(SIZE) if other[-1:] == b"\1" else buffer(1))
    second = client.put(other, same_as=first)
    assert second.token != first.token
    client.delete(first)
    got = client.get(second)
    assert type(got) is type(other)
    assert got == other


def test_small_values_are_put_as_always(client: vc.Client) -> None:
    first = client.put((1, 2))
    assert client.put((1, 2), same_as=first).token != first.token


def test_what_is_no_reference(client: vc.Client) -> None:
    with pytest.raises(vc.InvalidReference, match="is no ObjectRef"):
        client.put(buffer(1), same_as=client.put(1).to_json())  # type: ignore[arg-type]


def test_a_value_that_is_gone_is_put_again(client: vc.Client) -> None:
    first = client.put(buffer(1))
    client.delete(first)
    assert client.get(client.put(buffer(1), same_as=first)) == buffer(1)


def test_a_refused_value_is_refused_here_too(client: vc.Client) -> None:
    first = client.put(buffer(1))
    with pytest.raises(vc.UnsafeType):
        client.put(lambda: 1, same_as=first)


def test_deletes_and_shares_at_once(server: vc.EmbeddedServer, client: vc.Client) -> None:
    """Whatever the turn of events, a reference that was returned reads its own value."""
    empty = used(client)
    stop = threading.Event()
    failures: List[BaseException] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            with vc.connect(server.socket) as mine:
                while not stop.is_set():
                    fill = chance.randrange(256)
                    first = mine.put(buffer(fill, 100_000))
                    deleter = threading.Thread(target=mine_too.delete, args=[first])
                    deleter.start()
                    second = mine.put(buffer(fill, 100_000), same_as=first)
                    deleter.join()
                    assert mine.get(second) == buffer(fill, 100_000)
                    mine.delete(second)
        except BaseException as error:
            failures.append(error)
            stop.set()

    with vc.connect(server.socket) as mine_too:
        threads = [threading.Thread(target=work, args=[seed]) for seed in range(3)]
        for thread in threads:
            thread.start()
        stop.wait(2)
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    client.collect()
    assert used(client) == empty
