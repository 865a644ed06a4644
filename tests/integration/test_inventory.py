"""Ordinary work asks the server for no list: what there is, and what is garbage, stands in the store's inventory."""

from __future__ import annotations

import gc
import os
import signal
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.processes import fork, wait

import vineyard_client as vc
from vineyard_client import cli
from vineyard_client._agent.keeper import Keeper
from vineyard_client._io.ledger import Ledger
from vineyard_client._store import inventory, objects
from vineyard_client._store.collect import DEAD_WRITER, DELETED, EXPIRED
from vineyard_client._store.identity import STORE
from vineyard_client._store.making import Making
from vineyard_client._store.meta import TOMBSTONE
from vineyard_client._wire.messages import CreateData, DeleteData, ListData, Release

pytestmark = pytest.mark.integration

SIZE = 300_000


def buffer(fill: int, size: int = SIZE) -> memoryview:
    return memoryview(bytearray([fill]) * size)


def used(client: vc.Client) -> int:
    return client.status().memory_used


@pytest.fixture
def server(tmp_path: Path) -> Iterator[vc.EmbeddedServer]:
    with vc.EmbeddedServer("64Mi", socket=str(tmp_path / "s")) as running:
        yield running


@pytest.fixture
def store(server: vc.EmbeddedServer) -> Iterator[vc.Client]:
    with vc.connect(server.socket) as client:
        yield client


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """What this process asks lists of; a new connection asks for the store's identity, which is none of everything."""
    asked: List[str] = []
    before = ListData.__init__

    def init(self: ListData, pattern: str, limit: int = 1 << 62) -> None:
        if pattern != STORE:
            asked.append(pattern)
        before(self, pattern, limit)

    monkeypatch.setattr(ListData, "__init__", init)
    return asked


def inventory_of(client: vc.Client) -> inventory.Inventory:
    found = client._connection().inventory
    assert found is not None
    return found


def known(client: vc.Client) -> inventory.Known:
    now = inventory_of(client).known()
    assert now is not None
    return now


def nothing_is_known(client: vc.Client) -> bool:
    return not any(known(client)[:5])


def killed(socket: str, action: Callable[[vc.Client], object]) -> None:
    """Do something in a process that is killed then."""

    def work() -> None:
        action(vc.connect(socket))
        os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(wait(fork(work)))


@pytest.fixture
def little_store(tmp_path: Path) -> Iterator[vc.Client]:
    with vc.EmbeddedServer("8Mi", socket=str(tmp_path / "s")) as server, vc.connect(server.socket) as client:
        yield client


def leave_tombstone(socket: str, size: int = SIZE) -> None:
    def work(client: vc.Client) -> None:
        ref = client.put(buffer(1, size))
        client.kept = client.get(ref)  # type: ignore[attr-defined]
        client.delete(ref)

    killed(socket, work)


def leave_unfinished(socket: str, size: int = SIZE) -> None:
    def work(client: vc.Client) -> None:
        client.draft = client.create(size)  # type: ignore[attr-defined]
        client.draft.__enter__()  # type: ignore[attr-defined]

    killed(socket, work)


# ---- no list


def test_ordinary_work_lists_nothing(store: vc.Client, lists: List[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Put, get, info, status, delete, collecting with and without an age, and the commands for it."""
    large, small = store.put(buffer(1)), store.put("small")
    assert store.get(large) == buffer(1) and store.get(small) == "small"
    assert store.info(large.id).ref == large and store.reference(small.id) == small
    assert store.status().small_values == 1
    leave_tombstone(store.socket)
    leave_unfinished(store.socket)
    assert sorted(action.reason for action in store.collect(dry_run=True)) == [DELETED, DEAD_WRITER]
    assert sorted(action.reason for action in store.collect()) == [DELETED, DEAD_WRITER]
    assert store.collect() == []
    assert [info.ref for info in store.list(noted=True)] == [large, small]
    for command in ("status", "gc"):
        assert cli.main([command, "--socket", store.socket, "--json"]) == 0
    capsys.readouterr()
    assert {action.reason for action in store.collect(older_than=timedelta(0))} == {EXPIRED}
    assert lists == [] and used(store) == 0 and nothing_is_known(store)
    assert list(store.list()) == [] and lists


def test_a_tombstone_is_told_by_its_id(store: vc.Client, lists: List[str]) -> None:
    """``info`` of a bare id says so, and ``reference`` refuses it."""
    ref = store.put(buffer(1))
    view = store.get(ref)
    store.delete(ref)
    (kept,) = store.list(deleted=True, noted=True)
    assert kept.deleted and store.info(kept.ref.id).deleted
    with pytest.raises(vc.ObjectNotFound, match="keeps the memory of a deleted value"):
        store.reference(kept.ref.id)
    assert lists == []
    del view
    gc.collect()
    assert len(store.collect()) == 1 and used(store) == 0


@pytest.mark.parametrize("leave", [leave_tombstone, leave_unfinished])
def test_a_full_store_lists_nothing(store: vc.Client, lists: List[str], leave: Callable[[str, int], None]) -> None:
    """What killed processes left makes room for a put, and one that finds none fails."""
    for _ in range(9):
        leave(store.socket, 4 << 20)
    rest = [store.put(buffer(2, 1 << 20)) for _ in range(28)]
    last = store.put(buffer(3, 5 << 20))
    assert store.get(last) == buffer(3, 5 << 20) and all(map(store.exists, rest))
    gc.collect()
    with pytest.raises(vc.StoreFull):
        for _ in range(60):
            store.put(buffer(4, 1 << 20))
    assert lists == []


def test_the_agent_lists_nothing(server: vc.EmbeddedServer, store: vc.Client, lists: List[str]) -> None:
    """Neither what it does in each round, nor values of an age."""
    leave_tombstone(store.socket)
    leave_unfinished(store.socket)
    kept = store.put(buffer(1))
    keeper = Keeper(server.socket, every=0.1)
    thread = threading.Thread(target=keeper.run)
    thread.start()
    try:
        until(lambda: used(store) < SIZE + 10_000, "the garbage is gone", 3 * UNIT)
        assert store.exists(kept)
    finally:
        keeper.end()
        thread.join()
    elder = Keeper(server.socket, every=0.1, older_than=timedelta(0))
    thread = threading.Thread(target=elder.run)
    thread.start()
    try:
        until(lambda: not store.exists(kept), "the value is gone", 3 * UNIT)
    finally:
        elder.end()
        thread.join()
    assert lists == []


# ---- what is missing


def test_it_begins_with_what_is_there(server: vc.EmbeddedServer, store: vc.Client, lists: List[str]) -> None:
    """Whatever was put before there was an inventory is in it."""
    refs = [store.put(buffer(1)), store.put("small")]
    view = store.get(refs[0])
    gone = store.put(buffer(2))
    held = store.get(gone)
    store.delete(gone)
    ledger = store._connection().inventory
    assert ledger is not None
    os.truncate(f"/proc/self/fd/{store._connection().memory}", ledger._ledger.size)  # as if there had been none
    with vc.connect(server.socket) as other:
        assert len(lists) == 2
        assert {info.ref for info in other.list(noted=True)} == {*refs}
        assert len(known(other).tombstones) == 1
        del held, view
        gc.collect()
        assert [action.reason for action in other.collect()] == [DELETED]
        assert len(lists) == 2


def test_an_object_that_went_without_a_record(store: vc.Client, lists: List[str]) -> None:
    """A record too many is struck out; one whose memory is still there has everything listed, once."""
    ref, other = store.put(buffer(1)), store.put("small")
    connection = store._connection()
    meta = objects.find_object(connection, int(ref.id[1:], 16), ref.token)
    connection.call(DeleteData([int(other.id[1:], 16)]))
    assert store.collect() == [] and lists == [] and not known(store).small
    # As a client on another host deletes it while somebody might read it.
    connection = store._connection()
    connection.call_all(CreateData(meta.tree(TOMBSTONE)), DeleteData([int(ref.id[1:], 16)]))
    assert [action.reason for action in store.collect()] == [DELETED] and len(lists) == 2
    assert used(store) == 0 and store.collect() == [] and len(lists) == 2
    assert nothing_is_known(store)


def test_a_record_that_could_not_be_written(store: vc.Client, lists: List[str]) -> None:
    """Everybody learns of it, and lists everything once; afterwards all is known again."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ref = store.put(buffer(1))
    memory = store._connection().memory
    assert memory is not None
    end = os.fstat(memory).st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (end, before[1]))
        unknown = store.put(buffer(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with vc.connect(store.socket) as other:
        assert other.collect() == [] and len(lists) == 2
        assert {info.ref for info in other.list(noted=True)} == {ref, unknown}
        assert other.collect() == [] and len(lists) == 2


def test_a_thorough_look_finds_what_nobody_noted(store: vc.Client, lists: List[str]) -> None:
    """As of a client of an early release; afterwards it is known."""
    ref = store.put("small")
    connection = store._connection()
    meta = objects.find_object(connection, int(ref.id[1:], 16), ref.token)
    connection.call(CreateData(meta.tree()))
    assert store.status().small_values == 1 and store.collect() == []
    assert cli.main(["gc", "--socket", store.socket, "--thorough"]) == 0
    assert store.status().small_values == 2 and len(list(store.list(noted=True))) == 2 and len(lists) == 2


def as_an_early_release(client: vc.Client) -> None:
    """Have a client note nothing."""
    connection = client._session._connections._connection
    assert connection is not None
    connection.inventory = None


@pytest.mark.parametrize("full", [False, True], ids=["collecting", "full"])
def test_garbage_of_an_early_release(little_store: vc.Client, lists: List[str], full: bool) -> None:
    """That more memory is in use than records tell of shows that there is something to look for."""
    store = little_store

    def work(client: vc.Client) -> None:
        as_an_early_release(client)
        ref = client.put(buffer(1, 3 << 20))
        client.kept = client.get(ref)  # type: ignore[attr-defined]
        client.delete(ref)
        client.draft = client.create(3 << 20)  # type: ignore[attr-defined]
        client.draft.__enter__()  # type: ignore[attr-defined]

    killed(store.socket, work)
    if full:
        store.put(buffer(2, 5 << 20))
    else:
        assert sorted(action.reason for action in store.collect()) == [DELETED, DEAD_WRITER]
        assert used(store) == 0
    assert 0 < len(lists) <= 4
    before = len(lists)
    assert store.collect() == [] and len(lists) == before and store.status().inventory == "complete"


def test_a_value_of_an_early_release(store: vc.Client, lists: List[str]) -> None:
    """It is known as soon as it matters, and so is what becomes of it."""
    with vc.connect(store.socket) as early:
        as_an_early_release(early)
        ref = early.put(buffer(1, 3 << 20))
        assert store.collect() == [] and len(lists) == 2
        assert [info.ref for info in store.list(noted=True)] == [ref]
        early.delete(ref)
    assert store.collect() == [] and nothing_is_known(store) and len(lists) == 2


def test_memory_that_values_share(store: vc.Client, lists: List[str]) -> None:
    """It is noted as that of each value that has it, and is in use for as long as one is there."""
    np = pytest.importorskip("numpy")
    first = store.put([np.ones(1 << 19), "first"])
    value: Any = store.get(first)
    second = store.put([value[0], "second"])
    assert known(store).nbytes == used(store) < 5 << 20
    store.delete(first)
    value = None
    gc.collect()
    store.collect()
    assert known(store).nbytes == used(store) > 4 << 20
    with vc.connect(store.socket) as other:
        inventory_of(other).shorten(wait=1)
        assert other.collect() == [] and lists == []
        assert other.get(second)[1] == "second"  # type: ignore[index]
    gc.collect()
    store.delete(second)
    store.collect()
    assert known(store).nbytes == used(store) == 0 and not known(store).shares and lists == []


def test_what_other_clients_of_vineyard_put(store: vc.Client, lists: List[str]) -> None:
    """It is nobody's garbage, and everything is listed once because of it."""
    np = pytest.importorskip("numpy")
    native = [store.put(np.ones(1 << 19), native=True) for _ in range(2)]
    for _ in range(3):
        assert store.collect() == []
    assert len(lists) == 2 and all(map(store.exists, native))
    store.delete(native.pop())
    assert store.collect() == [] and len(lists) == 2
    native.append(store.put(np.ones(1 << 19), native=True))
    assert store.collect() == [] and len(lists) == 4
    assert all(map(store.exists, native))


def test_who_cannot_append(store: vc.Client, lists: List[str]) -> None:
    """Another user, where memory is its owner's alone, or a process that has no descriptor left: all learn of it."""
    assert store.status().inventory == "complete"
    with vc.connect(store.socket) as poor:
        found = poor._connection().inventory
        assert found is not None
        found._ledger._file.close()
        refs = [poor.put("small"), poor.put(buffer(1))]
        assert store.status().inventory == poor.status().inventory == "incomplete"
        assert poor.collect() == [] and len(lists) == 2
        assert store.collect() == [] and len(lists) == 4
        assert [info.ref for info in store.list(noted=True)] == refs
        assert store.status().inventory == "complete"


def test_a_damaged_inventory(store: vc.Client, lists: List[str]) -> None:
    """Everything is listed until somebody begins a new one, and nothing is lost."""
    refs = [store.put("small"), store.put(buffer(1))]
    leave_tombstone(store.socket)
    connection = store._connection()
    assert connection.inventory is not None and connection.memory is not None
    end = os.fstat(connection.memory).st_size
    start = connection.inventory._ledger._start
    os.pwrite(connection.memory, os.urandom(end - start), start)
    assert store.status().inventory == "incomplete"
    assert [action.reason for action in store.collect()] == [DELETED] and len(lists) == 2
    with vc.connect(store.socket) as other:
        assert len(lists) == 4 and other.status().small_values == 1
        assert [info.ref for info in store.list(noted=True)] == refs
        other.collect(thorough=True)
        assert store.status().inventory == "complete"
        leave_unfinished(store.socket)
        assert [action.reason for action in store.collect()] == [DEAD_WRITER]
        assert all(map(store.exists, refs)) and len(lists) == 6


def test_many_begin_it_at_once(store: vc.Client) -> None:
    """One of them does, and the others note in that what they put."""
    refs = {store.put(buffer(1)), store.put("small")}
    connection = store._connection()
    assert connection.inventory is not None and connection.memory is not None
    os.truncate(f"/proc/self/fd/{connection.memory}", connection.inventory._ledger.size)

    def work() -> None:
        with vc.connect(store.socket) as client:
            client.put(buffer(2))
            client.put("small, too")

    assert [wait(pid) for pid in [fork(work) for _ in range(6)]] == [0] * 6
    with vc.connect(store.socket) as other:
        listed = {info.ref for info in other.list()}
        assert {info.ref for info in other.list(noted=True)} == listed > refs and len(listed) == 14
        assert other.status().inventory == "complete" and other.status().small_values == 7


def test_blobs_are_freed_only_of_who_is_dead(store: vc.Client) -> None:
    """What has no object yet is told by its ids alone: who lives keeps it, and what has it since then, too."""
    connection = store._connection()
    noted = connection.inventory
    assert noted is not None
    making = Making(connection, store._session.meta(connection, os.urandom(16), "t", "", 5000, {}))
    making._store = lambda tree, shared=(): None  # type: ignore[method-assign]
    making.start()
    assert store.collect(thorough=True) == [] and used(store) == 5001
    assert len(known(store).making) == 1
    making.let_go()  # its mark on the guard; the connection has another
    connection.outcomes(Release(making.meta.guard))
    assert store.collect() == [] and used(store) == 0 and nothing_is_known(store)
    ref = store.put(buffer(1, 4500))
    meta = objects.find_object(connection, int(ref.id[1:], 16), ref.token)
    noted.note(inventory.NEXT, 0, replace(making.meta, blob=meta.blob, guard=meta.guard))  # too late a record
    noted.note(inventory.WHOLE, int(ref.id[1:], 16), meta)
    assert store.collect() == [] and store.collect(thorough=True) == []
    assert store.get(ref) == buffer(1, 4500)


def test_without_an_inventory_everything_is_listed(
    server: vc.EmbeddedServer, store: vc.Client, lists: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store's memory cannot be written to, all is as right, and others wait."""
    monkeypatch.setattr(Ledger, "of", lambda *_: None)
    with vc.connect(server.socket) as client:
        assert client._connection().inventory is None and client.status().inventory == "none"
        ref = client.put(buffer(1))
        view = client.get(ref)
        client.delete(ref)
        assert client.collect() == [] and len(lists) == 2
        assert len(list(client.list(deleted=True, noted=True))) == 1
        del view
        gc.collect()
        assert [action.reason for action in client.collect()] == [DELETED] and used(client) == 0


# ---- how long it gets


def test_it_stays_as_long_as_there_are_objects(store: vc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come and go, and what is there is known."""
    monkeypatch.setattr("vineyard_client._io.ledger._LONG", 1 << 13)
    kept = [store.put(i) for i in range(20)] + [store.put(buffer(1, 5000)) for _ in range(20)]
    memory = store._connection().memory
    assert memory is not None
    blocks = []
    for i in range(600):
        store.delete(store.put(i if i % 10 else buffer(2, 2000)))
        blocks.append(os.fstat(memory).st_blocks)
    assert max(blocks[300:]) <= max(blocks[:300]) + 32
    assert {info.ref for info in store.list(noted=True)} == {*kept}
    assert store.status().small_values == 20
    assert store.collect() == [] and all(map(store.exists, kept))


# ---- values in metadata


def test_small_values_count(little_store: vc.Client, lists: List[str]) -> None:
    """They take no memory that the server counts; together with what is in use they may not be more than the store."""
    store, limit = little_store, little_store.status().memory_limit
    large = [store.put(buffer(1, 1 << 20)) for _ in range(7)]
    refs: List[vc.ObjectRef] = []
    with pytest.raises(vc.StoreFull, match="small values in metadata") as caught:
        for i in range(5000):
            refs.append(store.put(i))
    status = store.status()
    assert status.small_values == len(refs) and status.small_values_used == len(refs) * 4096
    assert limit // 16 < status.small_values_used < limit - status.memory_used + 130 * 4096
    assert caught.value.limit == limit and caught.value.used == status.memory_used
    store.delete(large.pop())
    refs.append(store.put("again"))
    for ref in refs:
        store.delete(ref)
    assert store.status().small_values == 0
    assert lists == []


def test_a_full_store_takes_some_small_values(little_store: vc.Client) -> None:
    """A sixteenth of it makes no difference."""
    with pytest.raises(vc.StoreFull):
        while True:
            little_store.put(buffer(1, 1 << 20))
    refs = [little_store.put(i) for i in range(120)]
    assert little_store.get(refs[-1]) == 119


# ---- kills


STEPS: List[Any] = [
    ("put", lambda client, ref: client.put(buffer(3))),
    ("put-small", lambda client, ref: client.put(3)),
    ("put-same", lambda client, ref: client.put(buffer(1), same_as=ref)),
    ("delete", lambda client, ref: client.delete(ref)),
    ("create", lambda client, ref: client.create(SIZE).__enter__()),
]


@pytest.mark.parametrize("call", [case[1] for case in STEPS], ids=[case[0] for case in STEPS])
@pytest.mark.parametrize("when", ["before", "after"])
def test_who_is_killed_at_a_record(store: vc.Client, call: Callable[..., Any], when: str) -> None:
    """Nothing stays that is not found, and nothing is freed that somebody needs.

    But of memory that was allocated a moment ago, and not noted yet, only the server knows.
    """
    witness = store.put(["witness", buffer(7)])
    view = store.get(witness)
    before = used(store)
    append = Ledger.append
    for step in range(1, 9):
        ref = store.put(buffer(1))

        def work() -> None:
            count = 0

            def dying(self: Ledger, record: bytes) -> None:
                nonlocal count
                count += 1
                if count == step and when == "before":  # noqa: B023
                    os.kill(os.getpid(), signal.SIGKILL)
                append(self, record)
                if count == step:  # noqa: B023
                    os.kill(os.getpid(), signal.SIGKILL)

            with vc.connect(store.socket) as client:
                client.status()
                Ledger.append = dying  # type: ignore[method-assign]
                kept = call(client, ref)  # noqa: B023
                del kept

        status = wait(fork(work))
        until(lambda: store.status().connections == 1, "the end of the other's connection")
        store.collect()
        for info in store.list():
            if info.ref != witness:
                store.delete(info.ref)
        store.collect()
        if step == 1 and when == "before" and used(store) > before:
            before = used(store)
        assert list(store.list(deleted=True)) == [] and used(store) == before
        assert [entry.number for entry in known(store).whole.values()] == [int(witness.id[1:], 16)]
        assert not any(known(store)[2:5])
        assert view == ["witness", buffer(7)]
        if not os.WIFSIGNALED(status):
            break
    else:
        pytest.fail("there are more records than expected")
    assert step > 1
    assert Making
