"""Objects that share memory: what becomes of the one when the other goes, whoever is killed, reads or deletes."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
from typing import Any, Iterator, List

import pytest
from vineyard_testing.clients import WatchedClient
from vineyard_testing.lifetimes import SIZE, buffer, tombstones, used
from vineyard_testing.processes import fork, wait

import vineyard_client as vc
from vineyard_client import cli
from vineyard_client._wire.messages import DeleteData, GetData
from vineyard_client.exceptions import UnsupportedVersion
from vineyard_client.ids import parse_id

pytestmark = pytest.mark.integration

# What an object takes beside its large buffers, at most.
REST = 4096


@pytest.fixture
def store() -> Iterator[vc.Client]:
    """A client of a store of its own, since these tests may leave something in it."""
    with vc.EmbeddedServer("32Mi") as server, vc.connect(server.socket) as client:
        yield client


def put_one_more(client: vc.Client, ref: vc.ObjectRef, fill: int) -> vc.ObjectRef:
    """Put what a reference leads to and one more buffer; of the former nothing is written."""
    before = used(client)
    second = client.put([client.get(ref), buffer(fill)])
    gc.collect()
    assert used(client) - before < SIZE + REST
    return second


def reuse(client: vc.Client) -> None:
    """Write all of the store's free memory, and free it again."""
    refs: List[vc.ObjectRef] = []
    with pytest.raises(vc.StoreFull):
        while True:
            refs.append(client.put(memoryview(bytearray([0xEE]) * 3_000_000)))
    for ref in refs:
        client.delete(ref)


def clean(client: vc.Client) -> None:
    gc.collect()
    for info in list(client.list()):
        client.delete(info.ref)
    client.collect()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_each_outlives_the_others(store: vc.Client, order: Any, read: bool) -> None:
    """Whichever goes first, the rest reads what was put, and with the last one all memory is free."""
    first = store.put(buffer(1))
    second = put_one_more(store, first, 2)
    third = store.put([store.get(second), buffer(3)])
    gc.collect()
    refs = [first, second, third]
    values: List[Any] = [buffer(1), [buffer(1), buffer(2)], [[buffer(1), buffer(2)], buffer(3)]]
    views = [store.get(ref) for ref in refs] if read else []
    assert used(store) < 3 * (SIZE + REST)
    for position, number in enumerate(order):
        assert store.delete(refs[number])
        assert not store.exists(refs[number])
        if position == 1:
            reuse(store)
        for other in order[position + 1 :]:
            assert store.get(refs[other]) == values[other]
        store.collect()
    reuse(store)
    assert not read or views == values
    del views
    gc.collect()
    store.collect()
    assert tombstones(store) == []
    assert used(store) == 0


def test_a_part_that_is_kept_keeps_what_it_lies_in(store: vc.Client) -> None:
    first = store.put(buffer(1))
    second = put_one_more(store, first, 2)
    got: Any = store.get(second)
    shared, own = got
    del got
    for ref in (first, second):
        store.delete(ref)
    del own
    gc.collect()
    store.collect()
    reuse(store)
    assert shared == buffer(1)
    del shared
    gc.collect()
    store.collect()
    assert used(store) == 0


def test_the_original_is_deleted_before_it_is_shared(store: vc.Client) -> None:
    """A value that was deleted while it was read can still be put, and its memory is that of the new object then."""
    first = store.put(buffer(1))
    view = store.get(first)
    store.delete(first)
    before = used(store)
    second = store.put([view, "more"])
    assert used(store) - before < REST
    del view
    gc.collect()
    store.collect()
    assert tombstones(store) == []
    reuse(store)
    assert store.get(second) == [buffer(1), "more"]
    store.delete(second)
    assert used(store) == 0


def test_deletes_meet_a_put_at_every_step(store: vc.Client) -> None:
    """Wherever the original goes and is collected while it is shared, the new object is whole."""
    with WatchedClient(store.socket) as second:
        for meet_at in range(1, 16):
            ref = store.put(buffer(1))
            view = second.get(ref)
            start = second.steps

            def meet(number: int, name: str, at: int = start + meet_at, ref: vc.ObjectRef = ref) -> None:
                if number == at:
                    store.delete(ref)
                    store.collect()

            second.before = meet
            shared = second.put([view, buffer(2)])
            second.before = lambda number, name: None
            store.delete(ref)
            assert second.info(shared).memory < SIZE + REST  # type: ignore[operator]
            del view
            gc.collect()
            store.collect()
            reuse(store)
            assert store.get(shared) == [buffer(1), buffer(2)], meet_at
            store.delete(shared)
            gc.collect()
            store.collect()
            assert used(store) == 0, meet_at


def test_a_writer_is_killed_at_every_step(store: vc.Client) -> None:
    """What it leaves is collected; the value that it shared stays, and goes when it is deleted."""
    ref = store.put(buffer(1))
    before = used(store)
    ends = set()
    for step in range(1, 60):

        def child(step: int = step) -> None:
            with WatchedClient(store.socket) as client:
                view = client.get(ref)
                start = client.steps

                def die(number: int, name: str) -> None:
                    if number == start + step:
                        os.kill(os.getpid(), signal.SIGKILL)

                client.before = die
                client.delete(client.put([view, buffer(2)]))

        status = wait(fork(child))
        ends.add(status)
        for info in list(store.list()):  # what nobody learnt of, if it was whole
            if info.ref != ref:
                store.delete(info.ref)
        store.collect()
        # One killed between allocating and storing the metadata leaves a blob that nothing lists.
        assert used(store) - before <= 3 * (SIZE + REST)
        before = max(before, used(store))
        assert store.get(ref) == buffer(1)
        if status == 0:
            break
    assert {0, signal.SIGKILL} <= ends


@pytest.mark.parametrize("when", ["before", "while"])
def test_memory_that_was_freed_by_force(store: vc.Client, when: str, caplog: pytest.LogCaptureFixture) -> None:
    """The server lets anybody free what others read, and gives it to the next. Nothing is lost with the memory then."""
    ref = store.put(buffer(1))
    with WatchedClient(store.socket) as client:
        view = client.get(ref)
        free = DeleteData([parse_id(ref.id)])
        sent: List[int] = []

        def meet(number: int, name: str) -> None:
            sent.append(number)
            if when == "while" and len(sent) == 3:  # it is held by now
                store._connection().call(free)

        if when == "before":
            store._connection().call(free)
        client.before = meet
        with caplog.at_level(logging.WARNING):
            second = client.put([view, buffer(2)])
        client.before = lambda number, name: None
        got: Any = client.get(second)
        assert len(got[0]) == SIZE
        assert got[1] == buffer(2)
        info = client.info(second)
        assert info.memory == info.size
        assert ("freed by force" in caplog.text) == (when == "while")
        del view, got
    clean(store)
    assert used(store) == 0


def test_earlier_releases_do_not_touch_it(store: vc.Client) -> None:
    """They would delete it under its readers: the metadata have a version of their own."""
    second = put_one_more(store, store.put(buffer(1)), 2)
    tree = store._connection().call(GetData([parse_id(second.id)]))[parse_id(second.id)]
    assert tree["version"] == 2
    plain = store._connection().call(GetData([parse_id(ref.id) for ref in [store.put(buffer(3))]]))
    assert [tree["version"] for tree in plain.values()] == [1]
    assert issubclass(UnsupportedVersion, vc.VineyardError)


def test_a_forged_object_cannot_show_what_it_should_not(store: vc.Client) -> None:
    """Metadata that name other blobs, or the wrong ones, are damage when they are read, and can be deleted."""
    second = put_one_more(store, store.put(buffer(1)), 2)
    third = store.put(buffer(3, 1000 + SIZE))
    connection = store._connection()
    trees = connection.call(GetData([parse_id(second.id), parse_id(third.id)]))
    good, other = (trees[parse_id(ref.id)] for ref in (second, third))
    fields = {key: value for key, value in good.items() if key not in ("id", "signature", "__timestamp")}
    for damage in (
        {"shared_0": good["guard"]},
        {"shared_0": {**good["shared_0"], "id": f"o{(1 << 63) | 12345:016x}"}},
        {"sizes": json.dumps([SIZE, SIZE]), "shared_1": other["blob"]},
        {"version": 1},
        {"blob": other["blob"]},
    ):
        from vineyard_client._wire.messages import CreateData

        number = connection.call(CreateData({**fields, **damage}))
        ref = vc.ObjectRef(f"o{number:016x}", second.token, second.endpoint, second.type, second.size)
        with pytest.raises((vc.ObjectCorrupted, vc.ObjectNotFound)):
            store.get(ref)
        connection.call(DeleteData([number]))
    assert store.get(second) == [buffer(1), buffer(2)]


# ---- what is told of it


def test_what_is_its_own_is_told(store: vc.Client, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.put(buffer(1))
    second = put_one_more(store, first, 2)
    own = {info.ref.id: info.memory for info in store.list()}
    assert own[first.id] == first.size > SIZE
    assert SIZE < own[second.id] < SIZE + REST  # type: ignore[operator]
    assert store.info(second).memory == own[second.id]
    assert second.size > 2 * SIZE

    assert cli.main(["show", second.id, "--socket", store.socket]) == 0
    assert f"{own[second.id]} bytes are its own" in capsys.readouterr().out
    assert cli.main(["list", "--json", "--socket", store.socket]) == 0
    assert {entry["id"]: entry["memory"] for entry in json.loads(capsys.readouterr().out)} == own


def test_what_collecting_frees_is_told(store: vc.Client, capsys: pytest.CaptureFixture[str]) -> None:
    first = store.put(buffer(1))
    second = put_one_more(store, first, 2)
    third = put_one_more(store, first, 3)
    view = store.get(second)
    store.delete(second)
    del view
    gc.collect()
    (action,) = store.collect(dry_run=True)
    assert SIZE < action.frees < SIZE + REST
    assert cli.main(["gc", "--socket", store.socket]) == 0
    said = capsys.readouterr().out
    assert "FREES" in said
    assert "Freed 1 objects, 195." in said
    (view, view_of_third), _ = (store.get(first), store.get(third)), None
    store.delete(first)
    store.delete(third)
    del view, view_of_third
    gc.collect()
    before = used(store)
    assert sum(action.frees for action in store.collect()) in range(before - 8, before + 1)
    assert used(store) == 0
