"""Conversations that break, and processes that are killed, at every step; a store that is full."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.clients import WatchedClient
from vineyard_testing.processes import fork, wait

import vineyard_client as vc
from vineyard_client._store import objects
from vineyard_client._store.collect import DEAD_WRITER
from vineyard_client._wire.messages import CreateBuffer, Seal

pytestmark = pytest.mark.integration

SIZE = 200_000
# More steps than any of the calls here takes.
MOST = 60


def buffer(fill: int, size: int = SIZE) -> memoryview:
    return memoryview(bytearray([fill]) * size)


def used(client: vc.Client) -> int:
    return client.status().memory_used


def clean(client: vc.Client) -> None:
    """Free everything, as a person would."""
    for info in list(client.list()):
        client.delete(info.ref)
    gc.collect()
    client.collect()


@pytest.fixture
def store() -> Iterator[vc.Client]:
    """A client of a store of its own, since these tests may leave something in it."""
    with vc.EmbeddedServer("64Mi") as server, vc.connect(server.socket) as client:
        yield client


class Broken(Exception):
    """What a test breaks a conversation with."""


def break_at(step: int, client: WatchedClient, when: str) -> None:
    """Make one step of a client's conversation fail, counted from here, before or after it is done."""
    start = client.steps

    def fail(number: int, name: str) -> None:
        if number == start + step:
            raise Broken

    setattr(client, when, fail)


CALLS: List[Any] = [
    ("put small", lambda client, ref: client.put(1)),
    ("put large", lambda client, ref: client.put(buffer(9))),
    ("put shared", lambda client, ref: client.put([client.get(ref), buffer(9)])),
    ("persist", lambda client, ref: client.put(buffer(9), persist=True)),
    ("get", lambda client, ref: client.get(ref)),
    ("delete", lambda client, ref: client.delete(ref)),
    ("info", lambda client, ref: client.info(ref)),
    ("list", lambda client, ref: list(client.list())),
    ("status", lambda client, ref: client.status()),
    ("collect", lambda client, ref: client.collect()),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [case[1] for case in CALLS], ids=[case[0] for case in CALLS])
def test_a_conversation_that_breaks(store: vc.Client, call: Callable[..., Any], when: str) -> None:
    """Wherever a call breaks, the client is not out of step: its next call is answered rightly, on a new connection.

    The values of others are whole, and nothing stays that cannot be freed.
    """
    witness = store.put(["witness", buffer(7)])
    before = used(store)
    broken = 0
    with WatchedClient(store.socket) as client:
        for step in range(1, MOST):
            ref = store.put(buffer(5))
            break_at(step, client, when)
            try:
                result = call(client, ref)
            except Broken:
                broken += 1
                result = None
            else:
                client.before = client.after = lambda number, name: None
            del result
            client.before = client.after = lambda number, name: None
            assert client.get(witness) == ["witness", buffer(7)]
            assert client.get(client.put(step)) == step
            gc.collect()
            for info in list(store.list()):
                if info.ref != witness:
                    store.delete(info.ref)
            store.collect()
            assert list(store.list(deleted=True)) == []
            assert [info.ref for info in store.list()] == [witness]
            if broken < step:
                break
        else:
            pytest.fail("the call has more steps than expected")
    assert broken >= 3
    assert used(store) == before


@pytest.mark.parametrize("value", [1, buffer(3)], ids=["small", "large"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_that_is_killed(store: vc.Client, value: Any, when: str) -> None:
    """Wherever a writer is killed, there is nothing, or a whole value, or an incomplete one that is collected.

    Only a kill in between allocating and storing the metadata leaves memory that nothing lists.
    """
    outcomes = []
    for step in range(1, MOST):
        before = used(store)

        def put_and_die() -> None:
            with WatchedClient(store.socket) as client:

                def die(number: int, name: str) -> None:
                    if number == step:  # noqa: B023  # the child has its own
                        os.kill(os.getpid(), signal.SIGKILL)

                setattr(client, when, die)
                client.put(value)

        status = wait(fork(put_and_die))
        infos = list(store.list())
        if not infos:
            outcomes.append("nothing" if used(store) == before else "unnamed memory")
        else:
            (info,) = infos
            try:
                assert store.get(info.ref) == value
                outcomes.append("a whole value")
            except vc.ObjectNotFound as error:
                assert "is not complete. Its writer is still at work, or was killed: run again" in str(error)
                outcomes.append("an incomplete value")
                planned = store.collect(dry_run=True)
                assert [(action.info.ref, action.reason) for action in planned] == [(info.ref, DEAD_WRITER)]
                assert store.collect() == planned
        clean(store)
        assert list(store.list()) == list(store.list(deleted=True)) == []
        assert used(store) == before or outcomes[-1] == "unnamed memory"
        if not os.WIFSIGNALED(status):
            break
    order = ["nothing", "unnamed memory", "an incomplete value", "a whole value"]
    expected = {"nothing", "a whole value"} if value == 1 else set(order)
    if when == "after":
        expected.discard("nothing")  # what was sent is done
    assert set(outcomes) == expected
    assert sorted(outcomes, key=order.index) == outcomes


def sends_of_a_put(client: vc.Client) -> int:
    """Return how often a writer sends: guard, blob, name; then the blob is written, and it is the last time.

    Early servers are asked to seal the guard before they are asked to store the name.
    """
    early = tuple(map(int, client.status().version.split("."))) < (0, 14, 6)
    return 5 if early else 4


def test_a_writer_at_work_is_not_collected(store: vc.Client) -> None:
    """An incomplete value whose writer lives is no garbage, whoever collects; readers are told to wait."""
    last = sends_of_a_put(store)
    seen = []

    def look(number: int, name: str) -> None:
        for info in store.list():
            with pytest.raises(vc.ObjectNotFound, match="is not complete"):
                store.get(info.ref)
            seen.append(info)
            assert store.collect() == []

    with WatchedClient(store.socket) as writer:
        start = writer.steps
        sends = []

        def before(number: int, name: str) -> None:
            if name == "send":
                sends.append(number - start)
            if len(sends) == last and name == "send":
                look(number, name)

        writer.before = before
        ref = writer.put(buffer(4))
        assert [info.ref for info in seen] == [ref]
        assert store.get(ref) == buffer(4)


def test_deleting_what_a_killed_writer_left(store: vc.Client) -> None:
    """An incomplete value can also be deleted by its reference, and then collected."""
    last = sends_of_a_put(store)
    before = used(store)

    def put_and_die() -> None:
        with WatchedClient(store.socket) as client:
            sends = []

            def die(number: int, name: str) -> None:
                sends.extend([name] if name == "send" else [])
                if len(sends) == last:
                    os.kill(os.getpid(), signal.SIGKILL)

            client.before = die
            client.put(buffer(3))

    assert os.WIFSIGNALED(wait(fork(put_and_die)))
    (info,) = store.list()
    assert store.delete(info.ref)
    assert not store.exists(info.ref)
    store.collect()
    assert list(store.list(deleted=True)) == [] and used(store) == before


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_reader_that_is_killed(store: vc.Client, when: str) -> None:
    """Wherever a reader is killed, its pin falls with it: the value can be deleted, and its memory is given back."""
    before = used(store)
    for step in range(1, MOST):
        ref = store.put(buffer(1))

        def get_and_die() -> None:
            with WatchedClient(store.socket) as client:

                def die(number: int, name: str) -> None:
                    if number == step:  # noqa: B023  # the child has its own
                        os.kill(os.getpid(), signal.SIGKILL)

                setattr(client, when, die)
                value = client.get(ref)  # noqa: B023
                assert value == buffer(1)

        status = wait(fork(get_and_die))
        until(lambda: store.status().connections == 1, "the end of the reader's connection")
        assert store.get(ref) == buffer(1)
        gc.collect()
        store.delete(ref)
        assert used(store) == before and list(store.list(deleted=True)) == []
        if not os.WIFSIGNALED(status):
            return
    pytest.fail("reading has more steps than expected")


def test_a_reader_that_is_killed_with_a_view(store: vc.Client) -> None:
    """A view pins until its process dies, and not longer."""
    before = used(store)
    ref = store.put(buffer(1))
    ready, say = os.pipe()

    def hold() -> None:
        with vc.connect(store.socket) as client:
            view = client.get(ref)
            os.write(say, b"!")
            signal.pause()
            del view

    pid = fork(hold)
    os.read(ready, 1)
    assert store.delete(ref)
    assert len(list(store.list(deleted=True))) == 1 and store.collect() == []
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    until(lambda: store.collect(), "the end of the reader's pin")
    assert used(store) == before
    os.close(ready)
    os.close(say)


def test_an_interrupted_put(store: vc.Client) -> None:
    """Control-C in the middle of writing leaves nothing, and the client works on."""
    before = used(store)

    class Chunks:
        def __iter__(self) -> Iterator[bytes]:
            yield bytes(1000)
            raise KeyboardInterrupt

    meta = store._meta(store._connection(), _encoded(SIZE), bytes(16), {})
    with pytest.raises(KeyboardInterrupt):
        objects.write_object(store._connection(), meta, Chunks())  # type: ignore[arg-type]
    assert list(store.list()) == [] and used(store) == before
    assert store.get(store.put(buffer(2))) == buffer(2)


def _encoded(size: int) -> Any:
    from vineyard_client import _codec

    encoded = _codec.encode(buffer(1, size), token=bytes(16))
    return encoded


# ---- full


def test_a_full_store(store: vc.Client) -> None:
    """A value that does not fit leaves nothing, says how much there is, and leaves the client usable."""
    limit = store.status().memory_limit
    kept = store.put(buffer(1, 40 << 20))
    before = used(store)
    for _ in range(3):
        with pytest.raises(vc.StoreFull) as caught:
            store.put(buffer(2, 30 << 20))
        error = caught.value
        assert error.requested > 30 << 20 and (error.used, error.limit) == (before, limit)
        assert str(error) == (
            f"The store at {store.socket} has no room for {error.requested} bytes: {before} of {limit} are in use. "
            "Delete what nobody needs (vineyard-client list), or give vineyardd a larger --size."
        )
        assert used(store) == before
        assert [info.ref for info in store.list()] == [kept]
    assert store.get(store.put("small")) == "small"
    assert store.get(kept) == buffer(1, 40 << 20)
    gc.collect()
    store.delete(kept)
    assert store.get(store.put(buffer(2, 30 << 20))) == buffer(2, 30 << 20)


def test_a_value_larger_than_the_store(store: vc.Client) -> None:
    """What never fits is refused without anything being freed for it."""
    kept = store.put(buffer(1))
    with pytest.raises(vc.StoreFull):
        store.put(buffer(0, 65 << 20))
    assert store.exists(kept)


def test_six_writers_and_a_store_full_of_garbage(tmp_path: Path) -> None:
    """While garbage is enough for all of them nobody fails, however they get in each other's way."""
    size, garbage = 24 << 20, 10
    with vc.EmbeddedServer("256Mi", socket=str(tmp_path / "v.sock")) as server, vc.connect(server.socket) as client:
        for _ in range(2):
            refs = [client.put(buffer(seed, size)) for seed in range(garbage)]
            views = [client.get(ref) for ref in refs]
            for ref in refs:
                client.delete(ref)
            del views
            gc.collect()
            go, say = os.pipe()

            def write(go: int = go, say: int = say) -> None:
                os.close(say)
                with vc.connect(server.socket) as mine:
                    os.read(go, 1)
                    mine.put(buffer(1, size), labels={"kept": ""})

            pids = [fork(write) for _ in range(6)]
            os.close(say)
            assert [wait(pid, timeout=10 * UNIT) for pid in pids] == [0] * 6
            os.close(go)
            assert len(list(client.list(labels={"kept": ""}))) == 6
            for info in client.list():
                client.delete(info.ref)


def test_so_full_that_not_even_a_guard_fits(store: vc.Client) -> None:
    """A store without a byte to spare is full, too."""
    connection = store._connection()
    blobs = []
    with contextlib.suppress(vc.StoreFull):
        for size in [1 << n for n in range(25, 2, -1) for _ in range(4)]:
            with contextlib.suppress(vc.StoreFull):
                blobs.append(connection.call(CreateBuffer(size)).id)
        while True:
            blobs.append(connection.call(CreateBuffer(1)).id)
    connection.call(Seal(blobs[0]))
    before = used(store)
    with pytest.raises(vc.StoreFull):
        store.put(buffer(1, 5000))
    assert used(store) == before
    assert store.get(store.put("in the metadata")) == "in the metadata"
