"""How long values live: views under deletion, tombstones, collection, forks."""

from __future__ import annotations

import gc
import os
import socket
import textwrap
from datetime import timedelta
from typing import Any, List

import pytest
from vineyard_testing import until
from vineyard_testing.lifetimes import SIZE, buffer, reuse, tombstones, used
from vineyard_testing.processes import fork, in_child, run_python, wait

import vineyard_client as vc
from vineyard_client._store.collect import DELETED, EXPIRED

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("deleter", ["the reader", "another client"])
def test_a_view_never_changes(server: vc.EmbeddedServer, deleter: str) -> None:
    """What ``get`` returned stays as it was when the object is deleted and the store's memory written all over."""
    with vc.EmbeddedServer("64Mi") as small, vc.connect(small.socket) as client, vc.connect(small.socket) as second:
        ref = client.put(buffer(1))
        view: Any = client.get(ref)
        assert (client if deleter == "the reader" else second).delete(ref)
        assert not client.exists(ref)
        reuse(second)
        assert view == buffer(1)
        del view


def test_views_of_a_broken_connection_go_one_by_one(server: vc.EmbeddedServer, other: vc.Client) -> None:
    """Memory is free when nobody reads it, whatever else the connection that read it must keep."""
    client = vc.connect(server.socket)
    refs = [client.put(buffer(1)), client.put(buffer(2))]
    views: List[Any] = [client.get(ref) for ref in refs]
    before = used(other)
    with socket.socket(fileno=os.dup(client._connection().conversation.stream.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
    with pytest.raises(vc.ConnectionFailed):
        client.status()
    assert used(client) == before
    assert [other.delete(ref) for ref in refs] == [True, True]
    other.collect()
    assert used(other) == before
    del views[0]
    other.collect()
    assert used(other) < before
    left = used(other)
    reuse(other)
    assert views == [buffer(2)]
    for info in list(other.list()):
        other.delete(info.ref)
    views.clear()
    client.close()
    other.collect()
    assert used(other) < left


def test_a_child_keeps_what_a_closed_client_of_its_parent_read(server: vc.EmbeddedServer, other: vc.Client) -> None:
    """Its views stay as they are when those of the parent go."""
    client = vc.connect(server.socket)
    refs = [client.put(buffer(1)), client.put(buffer(2))]
    views: List[Any] = [client.get(ref) for ref in refs]
    client.close()
    reading, writing = os.pipe()

    def child() -> None:
        os.close(writing)
        assert os.read(reading, 1) == b""
        assert views == [buffer(1), buffer(2)]

    pid = fork(child)
    os.close(reading)
    del views[0]
    for ref in refs:
        other.delete(ref)
    other.collect()
    reuse(other)
    os.close(writing)
    assert wait(pid) == 0
    for info in list(other.list()):
        other.delete(info.ref)
    views.clear()
    gc.collect()


def test_a_deleted_value_keeps_its_memory_until_nobody_reads_it(client: vc.Client, other: vc.Client) -> None:
    """The memory of a deleted value that is read is kept by a tombstone, and collected when the last view is gone."""
    before = used(client)
    ref = client.put(buffer(1), labels={"a": "b"})
    views = [client.get(ref), other.get(ref)]
    assert client.delete(ref)
    (tombstone,) = tombstones(client)
    assert (tombstone.deleted, tombstone.type, tombstone.labels) == (True, "builtins.memoryview", {"a": "b"})
    assert used(client) == before + ref.size + 1
    for _ in range(2):
        assert client.collect() == other.collect() == []
        views.pop()
        gc.collect()
    assert tombstones(client) == [tombstone]
    planned = client.collect(dry_run=True)
    assert [(action.info, action.reason) for action in planned] == [(tombstone, DELETED)]
    assert tombstones(client) == [tombstone]
    assert other.collect() == planned
    assert tombstones(client) == [] and used(client) == before
    assert client.collect() == []


def test_a_value_that_nobody_reads_goes_at_once(client: vc.Client) -> None:
    """A view that is gone is no reader: the delete frees the memory itself."""
    before = used(client)
    ref = client.put(buffer(1))
    for _ in range(3):
        client.get(ref)
    gc.collect()
    client.delete(ref)
    assert used(client) == before and tombstones(client) == []


def test_small_values_pin_nothing(client: vc.Client) -> None:
    """A value that is copied when it is got does not keep the store's memory."""
    before = used(client)
    ref = client.put(buffer(1, 10_000))
    value: Any = client.get(ref)
    client.delete(ref)
    assert used(client) == before and tombstones(client) == []
    assert value == buffer(1, 10_000)


def test_a_value_that_took_no_view_pins_nothing(client: vc.Client) -> None:
    """A large value that the codec had to copy does not keep the mapping either."""
    before = used(client)
    ref = client.put("x" * SIZE)
    value = client.get(ref)
    gc.collect()
    client.delete(ref)
    assert used(client) == before
    assert value == "x" * SIZE


def test_a_part_of_a_value_keeps_it(client: vc.Client) -> None:
    """Whoever keeps a part of a value keeps the memory behind it."""
    ref = client.put([buffer(1), buffer(2)])
    value: Any = client.get(ref)
    part = value[1][5:7]
    del value
    gc.collect()
    client.delete(ref)
    assert len(tombstones(client)) == 1
    assert part == b"\2\2"
    del part
    gc.collect()
    assert len(client.collect()) == 1


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_views_outlive_their_client(server: vc.EmbeddedServer, client: vc.Client, how: str) -> None:
    """A client that is closed or forgotten leaves live views valid and pinned; the last one ends its connection."""
    gc.collect()
    before = client.status()
    ref = client.put(buffer(1))
    reader = vc.connect(server.socket)
    view: Any = reader.get(ref)
    if how == "closed":
        reader.close()
    del reader
    gc.collect()
    client.delete(ref)
    assert view == buffer(1) and client.collect() == []
    assert client.status().connections == before.connections + 1
    del view
    gc.collect()
    until(lambda: client.status().connections == before.connections, "the end of the reader's connection")
    assert len(client.collect()) == 1
    assert used(client) == before.memory_used


def test_views_outlive_the_server(tmp_path: Any) -> None:
    """A server that ends takes its objects, not what readers hold."""
    with vc.EmbeddedServer("16Mi") as server:
        client = vc.connect(server.socket)
        view: Any = client.get(client.put(buffer(7)))
    assert view == buffer(7)
    with pytest.raises(vc.ConnectionFailed):
        client.status()
    assert view == buffer(7)
    client.close()


@pytest.mark.parametrize("value", ["too large", "refused"])
def test_a_failed_put_lets_go_of_the_value(value: str) -> None:
    """Whoever keeps the error of a failed put, with its traceback, does not keep the value's memory locked."""
    mine = bytearray(2 << 20)
    with vc.EmbeddedServer("1Mi") as server, vc.connect(server.socket) as client:
        with pytest.raises(vc.VineyardError) as caught:
            client.put(mine if value == "too large" else [mine, lambda: None])
        mine.append(1)  # BufferError if somebody still looks at it
        assert caught.value.__traceback__ is not None


def test_a_failed_put_is_collected() -> None:
    """An error in a reference cycle is collected like any other, also with a memoryview among what it refers to."""
    result = run_python(
        """
import gc
import vineyard_client as vc
with vc.EmbeddedServer("1Mi") as server, vc.connect(server.socket) as client:
    for value in (memoryview(bytearray(2 << 20)), [memoryview(bytearray(100_000)), lambda: None]):
        try:
            client.put(value)
        except vc.VineyardError as error:
            error.cycle = error
        del value
        gc.collect()
"""
    )
    assert (result.returncode, result.stderr) == (0, "")


# ---- collecting


def test_collecting_by_age(client: vc.Client) -> None:
    """With an age, whole values of that age are deleted as ``delete`` does it; labels narrow it down."""
    before = used(client)
    refs = [client.put(buffer(i), labels={"n": str(i)}) for i in range(3)]
    view: Any = client.get(refs[1])
    assert client.collect(older_than=timedelta(hours=1)) == []
    assert client.collect(older_than=timedelta(0), labels={"n": "7"}) == []
    found = client.collect(older_than=timedelta(0), labels={"n": "0"})
    assert [(action.info.ref, action.reason) for action in found] == [(refs[0], EXPIRED)]
    assert [action.info.ref for action in client.collect(older_than=timedelta(0))] == refs[1:]
    assert not any(client.exists(ref) for ref in refs)
    assert view == buffer(1) and len(tombstones(client)) == 1
    del view
    gc.collect()
    assert len(client.collect()) == 1 and used(client) == before


def test_a_full_store_collects_by_itself(tmp_path: Any) -> None:
    """Before ``put`` says that the store is full, it frees what nobody needs any more."""
    with vc.EmbeddedServer("16Mi") as server, vc.connect(server.socket) as client:
        ref = client.put(buffer(1, 10 << 20))
        view: Any = client.get(ref)
        client.delete(ref)
        with pytest.raises(vc.StoreFull):
            client.put(buffer(2, 10 << 20))
        assert view[:5] == b"\1" * 5
        del view
        gc.collect()
        assert client.get(client.put(buffer(2, 10 << 20))) == buffer(2, 10 << 20)


# ---- fork


def test_a_child_works_with_a_connection_of_its_own(client: vc.Client) -> None:
    """After a fork parent and child both go on, with the same client object, at the same time."""
    ref = client.put(buffer(1))

    def work() -> None:
        for i in range(50):
            mine = client.put([i, buffer(i)])
            assert client.get(mine) == [i, buffer(i)]
            assert client.get(ref) == buffer(1)
            assert client.delete(mine)

    pids = [fork(work) for _ in range(3)]
    work()
    assert [wait(pid) for pid in pids] == [0, 0, 0]
    gc.collect()
    client.delete(ref)


def test_children_of_children(client: vc.Client) -> None:
    """Grandchildren, too, with and without the generation in between having used the client."""

    def grandchild() -> None:
        assert client.get(client.put(2)) == 2

    def child(use: bool) -> None:
        if use:
            assert client.get(client.put(1)) == 1
        assert in_child(grandchild) == 0

    assert in_child(lambda: child(True)) == 0
    assert in_child(lambda: child(False)) == 0
    assert client.get(client.put(3)) == 3


def test_inherited_views_stay_valid(server: vc.EmbeddedServer) -> None:
    """A child's inherited view is safe from deletes and reuse, also when the parent dropped its own and closed."""
    with vc.EmbeddedServer("64Mi") as small, vc.connect(small.socket) as second:
        client = vc.connect(small.socket)
        ref = client.put(buffer(1))
        views: List[Any] = [client.get(ref)]
        go, say = os.pipe()

        def child() -> None:
            os.close(say)
            assert client.get(client.put(5)) == 5  # a connection of its own; the inherited one is abandoned
            os.read(go, 1)
            assert views == [buffer(1)]

        pid = fork(child)
        views.clear()
        client.close()
        gc.collect()
        assert second.delete(ref)
        assert len(tombstones(second)) == 1 and second.collect() == []
        reuse(second)
        os.close(say)
        assert wait(pid) == 0
        os.close(go)
        assert len(second.collect()) == 1


def test_a_closed_client_stays_closed_in_a_child(server: vc.EmbeddedServer) -> None:
    """Forking does not open what was closed; closing in a child does not close the parent's."""
    client = vc.connect(server.socket)

    def child() -> None:
        client.close()
        with pytest.raises(vc.ConnectionFailed):
            client.status()

    assert in_child(child) == 0
    client.status()
    client.close()
    assert in_child(child) == 0


def test_forking_while_threads_work(client: vc.Client) -> None:
    """A child forked while other threads are in the middle of calls is not held up by their locks."""
    result = run_python(
        """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what this is about
import vineyard_client as vc
client = vc.connect(sys.argv[1])
stop = threading.Event()
failed = []

def work(number):
    try:
        while not stop.is_set():
            ref = client.put(memoryview(bytearray([number]) * 100_000))
            assert client.get(ref) == bytes([number]) * 100_000
            client.delete(ref)
    except BaseException as error:
        failed.append(error)

threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[thread.start() for thread in threads]
for i in range(30):
    pid = os.fork()
    if not pid:
        ref = client.put(memoryview(bytearray([99]) * 100_000))
        ok = client.get(ref) == bytes([99]) * 100_000 and client.delete(ref)
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0, i
stop.set()
[thread.join() for thread in threads]
assert not failed, failed
client.close()
""",
        client.socket,
    )
    assert result.returncode == 0, result.stderr
    client.collect()
    assert list(client.list()) == tombstones(client) == []


def test_preload(server: vc.EmbeddedServer) -> None:
    """What a process has loaded, those that it forks need not load, and no library is loaded that nobody asked for."""
    pytest.importorskip("pandas")
    code = """
    import sys
    import pandas as pd
    import vineyard_client as vc
    present = set(sys.modules)
    vc.preload()
    libraries = {name.partition(".")[0] for name in set(sys.modules) - present}
    assert not libraries & {"polars", "scipy", "torch", "xarray"}, libraries
    loaded = set(sys.modules)
    with vc.connect(sys.argv[1]) as client:
        ref = client.put(pd.DataFrame({"a": range(100_000), "b": "x"}))
        assert len(client.get(ref)) == 100_000
        client.delete(ref)
    print([name for name in set(sys.modules) - loaded if name.startswith(("vineyard_client", "ctypes"))])
    """
    done = run_python(textwrap.dedent(code), server.socket)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
