"""What goes wrong between hosts: the right error in bounded time, naming the host; nothing left; a retry that works.

The ``servers`` fixture looks after each test whether anything is left on any host.
"""

from __future__ import annotations

import socket
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Callable, Iterator, Optional, Type

import numpy as np
import pytest
from vineyard_testing import until
from vineyard_testing.cluster import Trio, until_sent
from vineyard_testing.hosts import Host, Server
from vineyard_testing.processes import paused

import vineyard_client as vc

SIZE = 8_000_000

# Seconds: what clients are given in these tests for each exchange, and what a failure may take at most. Connecting is
# tried at each of an endpoint's addresses within one timeout; then comes the rest of a process's start and end.
TIMEOUT = 1.0
BOUND = 2 * TIMEOUT + 1.0


@lru_cache(maxsize=None)
def numbers(seed: int = 1, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def put(server: Server, value: object) -> vc.ObjectRef:
    with server.client() as client:
        return client.put(value)


def get(ref: vc.ObjectRef) -> Callable[[vc.Client], bool]:
    return lambda client: bool((client.get(ref) == numbers()).all())


def delete(ref: vc.ObjectRef) -> Callable[[vc.Client], bool]:
    return lambda client: client.delete(ref)


def slow(host: Host, rate: str = "64mbit") -> None:
    """Let a host send so slowly that ``SIZE`` takes a second, or longer."""
    host.shape("tbf", "rate", rate, "burst", "256kb", "latency", "400ms")


@contextmanager
def fails(error: Type[vc.VineyardError], *words: str, within: float = BOUND) -> Iterator[None]:
    """Expect an error with some words in it, a cause and a next step, in time."""
    started = time.monotonic()
    with pytest.raises(error) as caught:
        yield
    assert time.monotonic() - started < within
    assert caught.type is error
    assert caught.value.what and caught.value.hint
    for word in words:
        assert word in str(caught.value)


def assert_empty(server: Server) -> None:
    """Nothing is left, without a ``collect``: no object, no memory, no file."""
    with server.client() as client:
        assert (list(client.list()), list(client.list(deleted=True)), client.status().memory_used) == ([], [], 0)
    assert list(Path(server.socket + ".replicas").glob("*")) == []


# ---- the other host is gone


def test_its_server_is_not_running(servers: Trio) -> None:
    """Refused at once. When a server is there again, it has not got the value."""
    a, b, _ = servers
    ref = put(a, numbers())
    a.kill()
    for work in (get(ref), lambda client: client.info(ref), lambda client: client.exists(ref), delete(ref)):
        with fails(vc.MigrationFailed, a.endpoint, "refused", "RPC", within=1.0):
            b.do(work, timeout=TIMEOUT)
    with fails(vc.MigrationFailed, a.endpoint):
        b.do(lambda client: client.get(ref, replica=False), timeout=TIMEOUT)
    assert_empty(b)
    a.start()
    with fails(vc.ObjectNotFound, a.endpoint, "run again"):
        b.do(get(ref), timeout=TIMEOUT)
    assert not b.do(lambda client: client.exists(ref))
    assert not b.do(delete(ref))
    assert_empty(b)
    again = put(a, numbers())
    assert b.do(get(again))
    assert b.do(delete(again))


def test_it_is_off_the_network(servers: Trio) -> None:
    """Nobody answers: the timeout ends it, and those who wait for the same value fail with the first."""
    a, b, _ = servers
    ref = put(a, numbers())
    a.host.cut()
    tasks = [b.begin(get(ref), timeout=TIMEOUT) for _ in range(5)]
    with fails(vc.MigrationFailed, a.endpoint, "did not accept a connection within"):
        tasks[0].result()
    for task in tasks[1:]:
        with fails(vc.MigrationFailed, a.endpoint, within=TIMEOUT):
            task.result()
    assert_empty(b)
    a.host.mend()
    assert b.do(get(ref))
    assert b.do(delete(ref))


def test_it_hangs(servers: Trio) -> None:
    """A stopped server still accepts connections; the timeout of an exchange ends it."""
    a, b, _ = servers
    ref = put(a, numbers())
    with paused(a.pid):
        with fails(vc.MigrationFailed, a.endpoint, "nothing for"):
            b.do(get(ref), timeout=TIMEOUT)
        assert_empty(b)
    assert b.do(get(ref))
    assert b.do(delete(ref))


def test_it_is_killed_during_the_transfer(servers: Trio) -> None:
    """The stream ends early: nothing of it is handed out or left, and the others who waited are told at once."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    tasks = [b.begin(get(ref)) for _ in range(3)]
    until_sent(a, 1_000_000, tasks[0])
    a.kill()
    for task in tasks:
        with fails(vc.MigrationFailed, a.endpoint, "trying again is safe"):
            task.result()
    assert_empty(b)
    a.start()
    again = put(a, numbers())
    assert b.do(get(again))
    assert b.do(delete(again))


def test_it_is_killed_after_the_transfer(servers: Trio) -> None:
    """The replica stays and can be read, until it is known that the original is gone."""
    a, b, _ = servers
    ref = put(a, numbers())
    b.do(get(ref))
    a.kill()
    assert b.do(get(ref))
    assert b.do(lambda client: client.info(ref)).origin == a.endpoint
    assert b.do(lambda client: client.collect()) == []
    a.start()
    assert b.do(get(ref))
    assert [action.reason for action in b.do(lambda client: client.collect())] == ["original gone"]
    with fails(vc.ObjectNotFound, a.endpoint):
        b.do(get(ref))


def test_delete_while_it_is_gone(servers: Trio) -> None:
    """The replica goes and the error tells that the original may be there; it can be deleted later."""
    a, b, _ = servers
    ref = put(a, numbers())
    b.do(get(ref))
    a.host.cut()
    with fails(vc.MigrationFailed, a.endpoint):
        b.do(delete(ref), timeout=TIMEOUT)
    assert_empty(b)
    a.host.mend()
    assert b.do(delete(ref))
    assert_empty(a)


# ---- the network


def test_the_network_is_cut_during_the_transfer(servers: Trio) -> None:
    """Nothing comes any more: the timeout of a stalled transfer ends it, on both sides."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    task = b.begin(get(ref), timeout=TIMEOUT)
    until_sent(a, 1_000_000, task)
    a.host.cut()
    with fails(vc.MigrationFailed, a.endpoint, "nothing for"):
        task.result()
    assert_empty(b)
    a.host.mend()
    a.host.shape()
    assert b.do(get(ref))
    assert b.do(delete(ref))
    # The server at A keeps the memory of a blob until it knows that nobody takes it any more.
    until(lambda: a.memory_used() == 0, "A's memory is free")


def test_a_short_cut_is_no_failure(servers: Trio) -> None:
    """TCP makes good for what was lost meanwhile."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    task = b.begin(get(ref), timeout=5.0)
    until_sent(a, 1_000_000, task)
    a.host.cut()
    time.sleep(0.1)
    a.host.mend()
    assert task.result()
    assert b.do(delete(ref))


def test_a_slow_network_is_no_failure(servers: Trio) -> None:
    """The timeout is for what stands still; a transfer that goes on may take longer."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host, "32mbit")
    started = time.monotonic()
    assert b.do(get(ref), timeout=TIMEOUT)
    assert time.monotonic() - started > 1.5 * TIMEOUT
    assert b.do(delete(ref))


# ---- the value


def test_it_is_deleted_during_the_transfer(servers: Trio) -> None:
    """Its memory may have been used for another by then: what came is not handed out, and not kept."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    task = b.begin(get(ref))
    until_sent(a, 1_000_000, task)
    with a.client() as client:
        assert client.delete(ref)
        others = [client.put(numbers(seed)) for seed in range(2, 8)]
    with fails(vc.ObjectNotFound, a.endpoint, "deleted"):
        task.result()
    assert_empty(b)
    with a.client() as client:
        assert all(client.delete(other) for other in others)


def test_it_is_deleted_here_during_the_transfer(servers: Trio) -> None:
    """Who deletes does not wait for who reads; the transfer finds the original gone and gives up."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host, "20mbit")
    task = b.begin(get(ref))
    until_sent(a, 1_000_000, task)
    started = time.monotonic()
    assert b.do(delete(ref))
    assert time.monotonic() - started < BOUND
    a.host.shape()
    with fails(vc.ObjectNotFound, a.endpoint):
        task.result()
    assert_empty(b)


def test_its_server_was_restarted_and_the_id_taken_again(servers: Trio) -> None:
    """Another value under the same id is never handed out: its token differs."""
    a, b, _ = servers
    ref = put(a, numbers())
    a.kill()
    a.start()
    for value in ({"small": 1}, numbers(2)):
        other = put(a, value)
        reused = replace(ref, id=other.id)
        for options in ({}, {"replica": False}):
            with fails(vc.ObjectNotFound, a.endpoint, "restarted"):
                b.do(lambda client, ref=reused, options=options: client.get(ref, **options))
        assert not b.do(delete(reused))
        assert_empty(b)
        with a.client() as client:
            assert client.delete(other)


def test_an_object_that_is_no_value_of_ours(servers: Trio) -> None:
    """A reference that leads to another's object says that nothing is there."""
    a, b, _ = servers
    from vineyard_client._wire.messages import CreateData, DeleteData
    from vineyard_client.ids import format_id

    ref = put(a, 1)
    with a.client() as client:
        connection = client._connection()
        tree = {"typename": "other::Thing", "nbytes": 0, "instance_id": 0, "transient": True}
        number = connection.call(CreateData(tree))
        with fails(vc.ObjectNotFound, a.endpoint):
            b.do(get(replace(ref, id=format_id(number))))
        connection.call(DeleteData([number]))
        client.delete(ref)


def test_what_its_host_says_of_it_is_too_much(servers: Trio) -> None:
    """Whatever size its metadata have there, nothing of them comes into the store here."""
    a, b, _ = servers
    from vineyard_client._store.meta import ValueMeta
    from vineyard_client._wire.messages import CreateData, DeleteData
    from vineyard_client.ids import format_id

    ref = put(a, 1)
    with a.client() as client:
        connection = client._connection()
        honest = ValueMeta("ab" * 16, "int", "", 5, 1.0, "a", connection.instance.instance_id, content=b"bytes").tree()
        for field, size in (("summary", 100_000), ("content", 100_000), ("summary", 9 << 20)):
            number = connection.call(CreateData({**honest, field: "x" * size}))
            forged = replace(ref, id=format_id(number), token="ab" * 16)
            with pytest.raises(vc.VineyardError) as caught:
                b.do(get(forged))
            assert len(str(caught.value)) < 1000
            assert_empty(b)
            connection.call(DeleteData([number]))
        client.delete(ref)


# ---- here


def test_the_store_here_is_full(servers: Trio) -> None:
    """The error has the sizes and the ways out; reading without a replica is one of them."""
    a, b, _ = servers
    ref = put(a, numbers())
    small = b.host.serve("small", size="4Mi", port=9601)
    try:
        with fails(vc.StoreFull, "4194304", "replica=False"):
            small.do(get(ref))
        assert_empty(small)
        assert small.do(lambda client: bool((client.get(ref, replica=False) == numbers()).all()))
        assert_empty(small)
    finally:
        small.kill()
    with a.client() as client:
        client.delete(ref)


def test_garbage_here_makes_room_first(servers: Trio) -> None:
    """A full store collects before it gives up: deleted values that nobody reads, and replicas of gone originals."""
    a, b, _ = servers
    first, second = put(a, numbers()), put(a, numbers())
    small = b.host.serve("small", size="12Mi", port=9601)
    try:
        assert small.do(get(first))
        with a.client() as client:
            client.delete(first)
        assert small.do(get(second))  # the replica of the first is garbage

        def read_and_delete(client: vc.Client) -> None:
            value = client.get(second)
            client.delete(second)
            assert (value == numbers()).all()

        small.do(read_and_delete)
        assert small.memory_used() > SIZE  # a tombstone
        third = put(a, numbers())
        assert small.do(get(third))
        assert small.do(delete(third))
        assert_empty(small)
    finally:
        small.kill()


def test_the_reader_is_killed_during_the_transfer(servers: Trio) -> None:
    """The next one, who was waiting, brings the value; ``collect`` frees what the first left."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    first = b.begin(get(ref))
    until_sent(a, 1_000_000, first)
    second = b.begin(get(ref))
    first.kill()
    assert second.result()
    assert SIZE * 2 < b.memory_used() < SIZE * 2.1
    assert [action.reason for action in b.do(lambda client: client.collect())] == ["writer died"]
    assert SIZE < b.memory_used() < SIZE * 1.1
    assert b.do(get(ref))
    assert b.do(delete(ref))
    until(lambda: a.memory_used() == 0, "A's memory is free")


def test_the_reader_is_killed_and_nobody_comes(servers: Trio) -> None:
    """``collect`` frees the memory and removes the file."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    task = b.begin(get(ref))
    until_sent(a, 1_000_000, task)
    task.kill()
    assert b.memory_used() > SIZE
    until(lambda: b.do(lambda client: client.collect()), "the dead writer is known")
    assert_empty(b)
    assert b.do(delete(ref))


def test_a_reader_at_work_is_no_dead_writer(servers: Trio) -> None:
    """``collect`` in the middle of a transfer leaves it alone."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    task = b.begin(get(ref))
    until_sent(a, 1_000_000, task)
    for _ in range(5):
        assert b.do(lambda client: client.collect()) == []
    assert task.result()
    assert b.do(delete(ref))


def test_the_server_here_is_killed_during_the_transfer(servers: Trio) -> None:
    """That is no fault of the other host, and the error does not say so."""
    a, b, _ = servers
    ref = put(a, numbers())
    slow(a.host)
    task = b.begin(get(ref))
    until_sent(a, 1_000_000, task)
    b.kill()
    a.host.shape()
    with fails(vc.ConnectionFailed, b.socket):
        task.result()
    b.start()
    assert b.do(get(ref))
    assert b.do(delete(ref))


def test_the_note_of_a_replica_cannot_be_written(servers: Trio) -> None:
    """Without it nobody would find the replica, so there is none; reading without one works."""
    a, b, _ = servers
    ref = put(a, numbers())
    folder = Path(b.socket + ".replicas")
    if folder.exists():
        folder.rmdir()
    folder.write_text("in the way")
    with fails(vc.MigrationFailed, str(folder), "replica=False"):
        b.do(get(ref))
    assert b.do(lambda client: bool((client.get(ref, replica=False) == numbers()).all()))
    folder.unlink()
    assert_empty(b)
    assert b.do(get(ref))
    assert b.do(delete(ref))


# ---- how they are set up


def test_rpc_is_off_where_the_value_is(servers: Trio) -> None:
    """A reference from there names no host; one from before says that nobody listens."""
    a, b, _ = servers
    server = a.host.serve("quiet", port=9601)
    try:
        before = put(server, numbers())
        server.kill()
        server = a.host.serve("quiet", rpc=False)
        ref = put(server, numbers())
        assert ref.endpoint is None
        with fails(vc.ObjectNotFound, b.socket, "RPC"):
            b.do(get(ref))
        with fails(vc.MigrationFailed, before.endpoint or "", "RPC"):
            b.do(get(before))
        assert_empty(b)
        server.kill()
        server = a.host.serve("quiet", port=9601)
        ref = put(server, numbers())
        assert b.do(get(ref))
        assert b.do(delete(ref))
    finally:
        server.kill()


def test_rpc_may_be_off_where_it_is_read(servers: Trio) -> None:
    """Pulling needs the port of the source only."""
    a, b, _ = servers
    quiet = b.host.serve("quiet", rpc=False)
    try:
        ref = put(a, numbers())
        assert quiet.do(get(ref))
        assert quiet.do(delete(ref))
        assert_empty(quiet)
    finally:
        quiet.kill()


@pytest.mark.parametrize("login", [("airflow", "wrong"), ("nobody", "secret"), ("", "")])
def test_wrong_credentials(servers: Trio, login: tuple) -> None:
    """The error names the host that refuses; with the right ones it works."""
    a, b, _ = servers
    locked = a.host.serve("locked", port=9601, login=("airflow", "secret"))
    try:
        ref = put(locked, numbers())
        wrong = {"username": login[0], "password": login[1], "peers": [locked.endpoint]}
        with fails(vc.MigrationFailed, locked.endpoint, "user name and password"):
            b.do(get(ref), **wrong)
        assert_empty(b)
        right = {"username": "airflow", "password": "secret", "peers": ["*.example:1", locked.endpoint]}
        assert b.do(get(ref), **right)
        assert b.do(delete(ref), **right)
        assert_empty(locked)
    finally:
        locked.kill()


def test_only_peers(servers: Trio) -> None:
    """A reference that was forged leads to no host but the peers, and to no host at all with the password."""
    a, b, _ = servers
    locked = a.host.serve("locked", port=9601, login=("airflow", "secret"))
    try:
        ref = put(locked, numbers())
        login = {"username": "airflow", "password": "secret"}
        with fails(vc.MigrationFailed, locked.endpoint, "not told them", "VINEYARD_PEERS"):
            b.do(get(ref), **login)
        with fails(vc.MigrationFailed, locked.endpoint, "none of the peers", "VINEYARD_PEERS"):
            b.do(get(ref), **login, peers=["other:9601", "a:96"])
        assert_empty(b)
        assert b.do(delete(ref), **login, peers=[locked.endpoint.replace("1", "?")])
        assert_empty(locked)
    finally:
        locked.kill()


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("no-such-host.invalid:9600", ["no-such-host.invalid", "does not resolve", "connect(endpoint="]),
        ("a:1", ["a:1", "refused"]),
        ("10.77.0.99:9600", ["10.77.0.99:9600"]),
        ("nonsense", ["nonsense", "host:port"]),
        (f"{'x' * 300}:9600", ["xxx"]),
        ("a..b:9600", ["a..b"]),
    ],
)
def test_an_endpoint_that_leads_nowhere(servers: Trio, endpoint: str, words: list) -> None:
    """Whatever a reference says, the error repeats it and tells what to do."""
    a, b, _ = servers
    ref = put(a, numbers())
    wrong = replace(ref, endpoint=endpoint)
    # A resolver has its own timeouts; there is none in the hosts, which is told at once.
    with fails(vc.MigrationFailed, *words):
        b.do(get(wrong), timeout=TIMEOUT)
    assert_empty(b)
    assert b.do(get(replace(ref, endpoint="a:9600")))
    assert b.do(delete(ref))


def test_another_program_listens_there(servers: Trio) -> None:
    """One that says nothing, and one that speaks another protocol."""
    a, b, _ = servers
    ref = put(a, numbers())

    def listen(reply: Optional[bytes]) -> None:
        with socket.create_server(("", 9601)) as listener:
            while True:
                connection, _ = listener.accept()
                if connection.recv(1 << 16) and reply is not None:
                    connection.sendall(reply)
                    connection.close()

    for reply, words in ((None, " s."), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "vineyardd"), (b"", "closed")):
        program = a.host.start(partial(listen, reply))
        try:
            until(lambda: b.host.call(lambda: listens(a.host.address, 9601)), "somebody listens")
            with fails(vc.MigrationFailed, f"{a.host.address}:9601", words):
                b.do(get(replace(ref, endpoint=f"{a.host.address}:9601")), timeout=TIMEOUT)
        finally:
            program.kill()
    assert_empty(b)
    with a.client() as client:
        client.delete(ref)


def listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
