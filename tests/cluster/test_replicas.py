"""A value is brought to a host once; where its copies are is known, and they go when it goes."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from vineyard_testing import until
from vineyard_testing.cluster import Trio

import vineyard_client as vc
from vineyard_client.ids import format_id

SIZE = 8_000_000


@lru_cache(maxsize=None)
def numbers(seed: int = 1, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def ids(client: vc.Client) -> list:
    return [info.ref.id for info in client.list()]


def test_fifty_readers_cause_one_transfer(servers: Trio) -> None:
    """However many processes on a host ask at once, the bytes cross once, and there is one replica."""
    a, b, _ = servers
    value = numbers()
    with a.client() as client:
        ref = client.put(value)
    a.host.shape("tbf", "rate", "200mbit", "burst", "256kb", "latency", "400ms")  # so that they do meet
    before = a.host.sent()
    readers = [b.begin(lambda client: bool((client.get(ref) == value).all())) for _ in range(50)]
    results = [reader.result() for reader in readers]
    assert all(results)
    assert SIZE < a.host.sent() - before < SIZE * 1.2
    assert len(b.do(ids)) == 1
    assert b.memory_used() < SIZE * 1.1
    assert b.do(lambda client: client.delete(ref))


def test_a_second_read_asks_nobody(servers: Trio) -> None:
    """Once the replica is there, a read on the host sends nothing to the others."""
    a, b, _ = servers
    with a.client() as client:
        ref = client.put(numbers())
    b.do(lambda client: client.get(ref))
    a.host.cut()
    assert b.do(lambda client: bool((client.get(ref) == numbers()).all()), timeout=1.0)
    a.host.mend()
    assert b.do(lambda client: client.delete(ref))


def test_two_clients_and_two_threads_of_a_process_share_one_transfer(servers: Trio) -> None:
    """The lock of a value's file is not the process's."""
    a, b, _ = servers
    with a.client() as client:
        ref = client.put(numbers())

    def read(first: vc.Client) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with b.client() as second, ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda client: client.get(ref), [first, second] * 4))
        assert all((result == numbers()).all() for result in results)

    before = a.host.sent()
    b.do(read)
    assert a.host.sent() - before < SIZE * 1.2
    assert b.do(lambda client: client.delete(ref))


def test_migrate_returns_a_reference_to_the_replica(servers: Trio) -> None:
    """It has the original's token and the endpoint of the host where it is; at home, ``migrate`` changes nothing."""
    a, b, c = servers
    with a.client() as client:
        ref = client.put(numbers())
        assert client.migrate(ref) == ref
    copy = b.do(lambda client: client.migrate(ref))
    assert copy == b.do(lambda client: client.migrate(ref))
    assert copy == replace(ref, id=copy.id, endpoint=b.endpoint)
    a.host.cut()
    assert c.do(lambda client: bool((client.get(copy) == numbers()).all()))  # C takes it from B
    a.host.mend()
    for server in (c, b):
        assert server.do(lambda client: client.delete(ref))


def test_a_replica_is_no_source_for_the_others(servers: Trio) -> None:
    """A reference leads to the original: C reads it from A, although B has a replica."""
    a, b, c = servers
    with a.client() as client:
        ref = client.put(numbers())
    b.do(lambda client: client.get(ref))
    before = a.host.sent(), b.host.sent()
    assert c.do(lambda client: bool((client.get(ref) == numbers()).all()))
    assert a.host.sent() - before[0] > SIZE
    assert b.host.sent() - before[1] < SIZE / 10
    assert c.do(lambda client: client.delete(ref))


def test_info_tells_where_copies_are(servers: Trio) -> None:
    """The original knows the hosts with a replica, a replica knows its original; reading the info copies nothing."""
    a, b, c = servers
    with a.client() as client:
        ref = client.put(numbers(), labels={"dag": "flights"})

    def look(client: vc.Client) -> vc.ObjectInfo:
        assert client.exists(ref)
        return client.info(ref)

    info = b.do(look)
    assert (info.ref, info.socket, info.origin, info.replicas) == (ref, a.endpoint, None, ())
    assert b.memory_used() == 0
    for server in (b, c):
        server.do(lambda client: client.get(ref))
    info = b.do(look)
    assert (info.socket, info.origin, info.labels) == (b.socket, a.endpoint, {"dag": "flights"})
    with a.client() as client:
        assert client.info(ref).replicas == ("b", "c")
        assert [info.replicas for info in client.list()] == [("b", "c")]
    b.do(lambda client: client.collect(older_than=timedelta(0)))
    with a.client() as client:
        assert client.info(ref).replicas == ("c",)
        assert client.delete(ref)
    assert not b.do(lambda client: client.exists(ref))


def test_hosts_that_finish_at_once_are_both_noted(servers: Trio) -> None:
    """The server loses one of two labels that come at the same moment; the clients see to it."""
    a, b, c = servers
    for _ in range(5):
        with a.client() as client:
            ref = client.put(numbers(size=1000))
        start = time.monotonic() + 0.1

        def read(client: vc.Client, ref: vc.ObjectRef = ref, start: float = start) -> None:
            time.sleep(max(0.0, start - time.monotonic()))
            client.get(ref)

        for task in [server.begin(read) for server in (b, c)]:
            task.result()
        with a.client() as client:
            assert client.info(ref).replicas == ("b", "c")
            client.delete(ref)


def test_delete_from_another_host_frees_the_original_and_the_replica_there(servers: Trio) -> None:
    """And ``collect`` frees replicas on third hosts."""
    a, b, c = servers
    with a.client() as client:
        ref = client.put(numbers())
    for server in (b, c):
        server.do(lambda client: client.get(ref))
    assert b.do(lambda client: client.delete(ref))
    assert [server.memory_used() > 0 for server in servers] == [False, False, True]
    assert not b.do(lambda client: client.delete(ref))
    with pytest.raises(vc.ObjectNotFound, match=f"{a.endpoint}"):
        b.do(lambda client: client.get(ref))
    freed = c.do(lambda client: client.collect(dry_run=True))
    assert [(action.reason, action.info.ref.token) for action in freed] == [("original gone", ref.token)]
    assert c.memory_used() > 0
    assert c.do(lambda client: client.collect()) == freed
    assert c.memory_used() == 0


def test_small_values_are_deleted_as_well(servers: Trio) -> None:
    """A value inside of its metadata has replicas like any other."""
    a, b, c = servers
    with a.client() as client:
        ref = client.put({"rows": 17})
    for server in (b, c):
        assert server.do(lambda client: client.get(ref)) == {"rows": 17}
        assert len(server.do(ids)) == 1
    with a.client() as client:
        assert client.info(ref).replicas == ("b", "c")
    assert c.do(lambda client: client.delete(ref))
    assert [len(server.do(ids)) for server in servers] == [0, 1, 0]
    assert [action.reason for action in b.do(lambda client: client.collect())] == ["original gone"]


def test_a_host_out_of_reach_is_not_gone(servers: Trio) -> None:
    """``collect`` keeps the replicas of a host that does not answer, which it asks only once for all of them."""
    a, _, c = servers
    with a.client() as client:
        refs = [client.put(numbers(seed, 100_000)) for seed in range(5)]
    for ref in refs:
        c.do(lambda client, ref=ref: client.get(ref))
    a.host.cut()
    started = time.monotonic()
    assert c.do(lambda client: client.collect(), timeout=1.0) == []
    assert time.monotonic() - started < 3
    assert len(c.do(ids)) == len(refs)
    a.host.mend()
    assert c.do(lambda client: client.collect()) == []
    with a.client() as client:
        assert all(client.delete(ref) for ref in refs)
    assert {action.reason for action in c.do(lambda client: client.collect())} == {"original gone"}


def test_an_expired_replica_goes_and_can_be_fetched_again(servers: Trio) -> None:
    """``collect(older_than=...)`` on a host frees its replicas, and touches nothing elsewhere."""
    a, b, _ = servers
    with a.client() as client:
        ref = client.put(numbers())
    b.do(lambda client: client.get(ref))
    assert [action.reason for action in b.do(lambda client: client.collect(older_than=timedelta(0)))] == ["expired"]
    assert (a.memory_used() > 0, b.memory_used()) == (True, 0)
    assert b.do(lambda client: bool((client.get(ref) == numbers()).all()))
    assert b.do(lambda client: client.delete(ref))


def test_reading_without_a_replica_leaves_none(servers: Trio) -> None:
    """Nothing is stored on the host; but a replica that is there is used."""
    a, b, _ = servers
    with a.client() as client:
        ref = client.put(numbers())
    before = a.host.sent()
    assert b.do(lambda client: bool((client.get(ref, replica=False) == numbers()).all()))
    assert a.host.sent() - before > SIZE
    assert (b.memory_used(), b.do(ids)) == (0, [])
    b.do(lambda client: client.get(ref))
    before = a.host.sent()
    assert b.do(lambda client: bool((client.get(ref, replica=False) == numbers()).all()))
    assert a.host.sent() - before < SIZE / 10
    assert b.do(lambda client: client.delete(ref))


def test_values_that_were_read_outlive_their_replica(servers: Trio) -> None:
    """Who reads on B is not disturbed when the value is deleted everywhere and the memory used again."""
    a, b, _ = servers
    with a.client() as client:
        ref = client.put(numbers())

    def read_and_delete(client: vc.Client) -> None:
        value = client.get(ref)
        assert client.delete(ref)
        others = [client.put(numbers(seed)) for seed in range(2, 12)]
        assert (value == numbers()).all()
        for other in others:
            client.delete(other)
        assert [info.ref.token for info in client.list(deleted=True)] == [ref.token]
        del value
        assert [action.reason for action in client.collect()] == ["deleted"]

    b.do(read_and_delete)


def test_a_note_of_a_replica_is_no_promise(servers: Trio) -> None:
    """A file that names an object that is gone, or another one, or makes no sense, leads to a new transfer."""
    a, b, _ = servers
    with a.client() as client:
        ref = client.put(numbers())
    with b.client() as client:
        other = client.put(numbers(2))
    b.do(lambda client: client.get(ref))
    note = Path(b.socket + ".replicas", ref.token)
    for text in (json.dumps({"id": other.id}), json.dumps({"id": format_id(7)}), '{"id": 7}', "[", "", "[[]]", "\0"):
        note.write_text(text)
        assert b.do(lambda client: bool((client.get(ref) == numbers()).all()))
        assert len(b.do(ids)) >= 2
    assert b.do(lambda client: client.delete(ref))
    assert b.do(lambda client: client.delete(other))
    # Those whose notes were overwritten are known by their token, and that their original is gone.
    assert {action.reason for action in b.do(lambda client: client.collect())} == {"original gone"}


def test_collect_removes_files_that_name_nothing(servers: Trio) -> None:
    """What a killed process left beside the socket goes with the next ``collect``; what is no file of ours stays."""
    _, b, _ = servers
    folder = Path(b.socket + ".replicas")
    folder.mkdir(exist_ok=True)
    (folder / ("0" * 32)).write_text("")
    (folder / ("1" * 32)).write_text('{"id": "o0000000000000001"}')
    (folder / "README").write_text("")
    b.do(lambda client: client.collect())
    assert [path.name for path in folder.iterdir()] == ["README"]
    (folder / "README").unlink()


def test_a_transfer_that_is_awaited_ends_the_waiting(servers: Trio) -> None:
    """Who waits for another process's transfer goes on as soon as that is done."""
    a, b, _ = servers
    with a.client() as client:
        ref = client.put(numbers())
    a.host.shape("tbf", "rate", "100mbit", "burst", "256kb", "latency", "400ms")
    first = b.begin(lambda client: client.migrate(ref))
    until(lambda: b.memory_used() > 0, "the transfer begins")
    second = b.begin(lambda client: client.migrate(ref))
    assert first.result() == second.result()
    assert b.do(lambda client: client.delete(ref))


def test_what_is_told_of_objects_that_share_a_token(servers: Trio) -> None:
    """A replica stands for the one that it is of, and not for the other one."""
    a, b, _ = servers
    with a.client() as client:
        first = client.put(numbers(), labels={"which": "first"})
        second = client.put(numbers(), labels={"which": "second"}, same_as=first)
    assert second.token == first.token and second.id != first.id

    def look(client: vc.Client) -> list:
        client.get(first)
        infos = [client.info(ref) for ref in (first, second)]
        assert infos[1].ref == second
        return [info.labels["which"] for info in infos]

    assert b.do(look) == ["first", "second"]
    for ref in (first, second):
        assert b.do(lambda client, ref=ref: client.delete(ref))
