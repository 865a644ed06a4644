"""How long values live where several delete, read, collect and write at once."""

from __future__ import annotations

import gc
import os
import random
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any, Callable, List

import pytest
from vineyard_testing.clients import WatchedClient
from vineyard_testing.lifetimes import SIZE, buffer, tombstones, used
from vineyard_testing.processes import run_python

import vineyard_client as vc
from vineyard_client._wire.messages import IsInUse

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("value", [1, buffer(1)], ids=["small", "large"])
@pytest.mark.parametrize("read", [False, True], ids=["unread", "read"])
def test_two_deleters(server: vc.EmbeddedServer, client: vc.Client, value: Any, read: bool) -> None:
    """Wherever two deletes meet, the object goes, and no tombstone stays that nobody would collect."""
    before = used(client)
    with WatchedClient(server.socket) as second:
        for meet_at in range(1, 12):
            ref = client.put(value)
            view = client.get(ref) if read else None
            start = second.steps

            def meet(number: int, name: str, at: int = start + meet_at, ref: vc.ObjectRef = ref) -> None:
                if number == at:
                    client.delete(ref)

            second.before = meet
            second.delete(ref)
            second.before = lambda number, name: None
            client.delete(ref)
            assert not client.exists(ref)
            assert view is None or view == value
            del view
            gc.collect()
            client.collect()
            assert tombstones(client) == [], f"when the other one deletes before step {meet_at}"
            assert used(client) == before


def test_deleted_while_it_is_read(server: vc.EmbeddedServer, client: vc.Client) -> None:
    """Wherever a delete meets a get, the reader gets the value or hears that it is gone; never other bytes."""
    outcomes = set()
    with WatchedClient(server.socket) as reader:
        for meet_at in range(1, 12):
            ref = client.put(buffer(1))
            start = reader.steps

            def meet(number: int, name: str, at: int = start + meet_at, ref: vc.ObjectRef = ref) -> None:
                if number == at:
                    client.delete(ref)
                    client.put(buffer(2))  # takes the place, if that was freed

            reader.before = meet
            try:
                value: Any = reader.get(ref)
                outcomes.add("value")
                assert value == buffer(1)
                del value
            except vc.ObjectNotFound:
                outcomes.add("gone")
            reader.before = lambda number, name: None
            client.delete(ref)
    gc.collect()
    client.collect()
    assert outcomes == {"value", "gone"}
    assert tombstones(client) == []


class BeforeSend:
    """Do something once, before a client's nth message from here on."""

    def __init__(self, client: WatchedClient, number: int, run: Callable[[], object]) -> None:
        self.left = number
        self.run = run
        self.done = False
        client.before = self

    def __call__(self, number: int, name: str) -> None:
        if name == "send" and not self.done:
            self.left -= 1
            if not self.left:
                self.done = True
                self.run()


def test_deleted_collected_and_read_at_once(server: vc.EmbeddedServer, client: vc.Client) -> None:
    """Wherever a delete, a collection and a get meet, what was got stays in memory for as long as it is held."""
    before = used(client)
    with WatchedClient(server.socket) as deleter, WatchedClient(server.socket) as collector:
        for collect_at in range(1, 6):
            for read_at in range(1, 9):
                ref = client.put(buffer(1))
                views: List[Any] = []

                def read(ref: vc.ObjectRef = ref, views: List[Any] = views) -> None:
                    with suppress(vc.ObjectNotFound):
                        views.append(client.get(ref))

                def collect(read_at: int = read_at, read: Callable[[], None] = read) -> None:
                    BeforeSend(collector, read_at, read)
                    collector.collect()

                BeforeSend(deleter, collect_at, collect)
                deleter.delete(ref)
                assert not client.exists(ref)
                if views:
                    where = (
                        f"collecting before message {collect_at} of delete, reading before message {read_at} of collect"
                    )
                    assert used(client) >= before + SIZE, f"the reader's memory was freed: {where}"
                    assert views[0] == buffer(1)
                del views[:], read, collect
                deleter.before = collector.before = lambda number, name: None
                gc.collect()
                client.collect()
                assert tombstones(client) == [] and used(client) == before


# ---- load


def test_threads(client: vc.Client) -> None:
    """Eight threads put, get, keep, change and delete through one client for two seconds; every value is right."""
    before = used(client)
    until_then = time.monotonic() + 2
    errors: List[BaseException] = []
    counts: List[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        kept: List[Any] = []
        count = 0
        try:
            while time.monotonic() < until_then:
                fill, size = chance.randrange(256), chance.choice([10, 2000, 100_000])
                ref = client.put(buffer(fill, size), labels={"thread": str(seed)})
                value: Any = client.get(ref)
                assert value == buffer(fill, size)
                if chance.random() < 0.3:
                    value[0] = fill ^ 1
                    assert client.get(ref) == buffer(fill, size)
                else:
                    kept.append((fill, size, value))
                assert client.delete(ref)
                if len(kept) > 5:
                    fill, size, value = kept.pop(chance.randrange(len(kept)))
                    assert value == buffer(fill, size)
                if chance.random() < 0.02:
                    client.collect()
                count += 1
        except BaseException as error:
            errors.append(error)
        counts.append(count)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert min(counts) > 0
    gc.collect()
    client.collect()
    assert list(client.list()) == tombstones(client) == []
    assert used(client) == before


def test_processes(client: vc.Client) -> None:
    """Four processes share refs and collect under each other's feet; every value is right or gone."""
    before = used(client)
    code = """
import random, sys, time
import vineyard_client as vc
seed = int(sys.argv[2])
chance = random.Random(seed)
until_then = time.monotonic() + 1.0
done = 0
with vc.connect(sys.argv[1]) as client:
    while time.monotonic() < until_then:
        fill = chance.randrange(256)
        client.put([fill, memoryview(bytearray([fill]) * 100_000)], labels={"shared": "1"})
        infos = list(client.list(labels={"shared": "1"}))
        for info in chance.sample(infos, min(3, len(infos))):
            try:
                fill, view = client.get(info.ref)
            except vc.ObjectNotFound:
                continue
            assert view == bytes([fill]) * 100_000
            if chance.random() < 0.6:
                client.delete(info.ref)
            assert view == bytes([fill]) * 100_000
            done += 1
        if chance.random() < 0.1:
            client.collect()
assert done
"""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda seed: run_python(code, client.socket, str(seed)), range(4)):
            assert result.returncode == 0, result.stderr
    client.collect(older_than=timedelta(0))
    client.collect()
    assert list(client.list()) == tombstones(client) == []
    assert used(client) == before


def test_many_live_values(client: vc.Client) -> None:
    """Any number of values may be alive at once: they use no file descriptors."""
    ref = client.put(buffer(3, 100_000))
    first = os.dup(0)
    os.close(first)
    values: List[Any] = [client.get(ref) for _ in range(1000)]
    now = os.dup(0)
    os.close(now)
    assert now == first
    assert all(value[99_999] == 3 for value in values)
    assert client._connection().call(IsInUse(client_blob(client, ref)))
    values.clear()
    gc.collect()
    assert not client._connection().call(IsInUse(client_blob(client, ref)))


def client_blob(client: vc.Client, ref: vc.ObjectRef) -> int:
    from vineyard_client._store.objects import find_object
    from vineyard_client.ids import parse_id

    return find_object(client._connection(), parse_id(ref.id), ref.token).blob
