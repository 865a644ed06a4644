"""Values that share memory in the store are whole outside of it: saved, rescued, evicted, loaded, in the overflow."""

from __future__ import annotations

import gc
from typing import Any, List, Tuple

import numpy as np
import pytest
from vineyard_testing.tiers import Host, array, same

import vineyard_client as vc

MEBIBYTE = 1 << 20


def derived(client: vc.Client, first: vc.ObjectRef, seed: int, megabytes: float = 1) -> vc.ObjectRef:
    """Put what a reference leads to and an array more; of the former nothing is written."""
    before = client.info(first).size
    second = client.put([client.get(first), array(megabytes, seed)])
    memory = client.info(second).memory
    assert memory is not None and memory < second.size - before / 2
    return second


def is_derived(value: Any, megabytes: float, seed: int, more: float = 1) -> bool:
    return len(value) == 2 and same(value[0], array(megabytes)) and same(value[1], array(more, seed))


def pair(client: vc.Client) -> Tuple[vc.ObjectRef, vc.ObjectRef]:
    first = client.put(array(2))
    return first, derived(client, first, 1)


@pytest.mark.parametrize("durability", ["through", "behind"])
def test_a_copy_is_whole(host: Host, durability: str) -> None:
    """It is read without the value that it shared memory with, and what is loaded from it shares with nobody."""
    host.start_agent()
    with host.connect(durability) as client:
        first, second = pair(client)
        host.all_saved()
        assert host.keys() == sorted([str(first.copy), str(second.copy)])
        assert client.delete(first)
        host.restart()
        assert is_derived(client.get(second), 2, 1)
        gc.collect()
        for info in client.list():
            assert info.memory == info.size
        assert client.delete(second)
    assert host.keys() == []


@pytest.mark.parametrize("deleted", [False, True], ids=["both", "one"])
def test_a_backlog_is_saved_out_of_the_memory_of_a_killed_server(host: Host, deleted: bool) -> None:
    """All pieces of a value are found, also when the object that had one of them first is deleted."""
    with host.killed_with_a_backlog() as client:
        first, second = pair(client)
        third = derived(client, second, 3)
        gc.collect()
        if deleted:
            client.delete(first)
            client.collect()
    with host.connect() as client:
        assert is_derived(client.get(second), 2, 1)
        value: Any = client.get(third)
        assert is_derived(value[0], 2, 1) and same(value[1], array(1, 3))
        if not deleted:
            assert same(client.get(first), array(2))


def test_what_leaves_a_full_store_takes_nothing_from_others(host: Host) -> None:
    """Values that share memory, four stores full of them: each is whole, whichever left, also while one is read."""
    host.start_agent()
    with host.connect() as client:
        first = client.put(array(16))
        view = client.get(first)
        refs: List[vc.ObjectRef] = []
        for seed in range(30):
            value = view if seed % 3 else client.get(first)
            refs.append(client.put([value, array(8, seed)]))
            del value
            gc.collect()
        for seed, ref in enumerate(refs):
            assert is_derived(client.get(ref), 16, seed, 8), seed
            gc.collect()
        assert same(view, array(16))
        del view
        assert client.delete(first)
        gc.collect()
        host.all_saved()
        host.restart()
        for seed, ref in enumerate(refs[-3:], len(refs) - 3):
            assert is_derived(client.get(ref), 16, seed, 8), seed
            gc.collect()
        for ref in refs:
            assert client.delete(ref)
        client.collect()
    assert host.keys() == []
    assert [kind for kind in ("saved", "unsaved", "loaded", "lost", "overflow") if host.notes(kind)] == []


def test_what_finds_no_room_is_whole(host: Host) -> None:
    """The store is full of what is read, so what is put goes past it, with all that it would have shared."""
    host.start_agent()
    with host.connect() as client:
        first = client.put(array(40))
        view = client.get(first)
        second = client.put([view, array(30, 1)])
        assert same(view, array(40))
        del view
        gc.collect()
        assert client.delete(first)
        assert is_derived(client.get(second), 40, 1, 30)
        gc.collect()
        host.all_saved()
        host.restart()
        assert is_derived(client.get(second), 40, 1, 30)
        gc.collect()
        assert client.delete(second)


def test_what_is_saved_later(host: Host) -> None:
    """A value that was put without a tier, and shares memory, is saved whole."""
    host.start_agent()
    with vc.connect(host.socket) as plain:
        first, second = pair(plain)
    with host.connect("through") as client:
        assert client.saved is not None
        saved = client.saved.save(second)
        client.delete(first)
        host.restart()
        assert is_derived(client.get(saved), 2, 1)


def test_a_copy_that_is_gone_is_written_again(folder_host: Host) -> None:
    """Before a value leaves a full store its copy is looked for, and made of all pieces where somebody removed it."""
    host = folder_host
    with host.connect("through") as client:
        first, second = pair(client)
        (path,) = [path for path in (host.folder / "values").rglob("*") if path.name.startswith(second.token)]
        path.unlink()
        for seed in range(10):
            client.put(array(12, seed))
        client.delete(first)
        host.restart()
        np.testing.assert_equal(client.get(second)[1], array(1, 1))  # type: ignore[index]
        assert is_derived(client.get(second), 2, 1)
