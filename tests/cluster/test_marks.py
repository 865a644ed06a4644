"""What somebody reads stays as it is, although the server forgets about readers when clients of its RPC port leave.

The server numbers the connections of the IPC socket and those of the RPC port from zero each, and keeps one table of
who uses which blob (``_io.pinfile``). So here is a new server, whose few IPC clients have low numbers, and clients from
another host come and go until those numbers were theirs.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Callable, Iterator, List

import numpy as np
import pytest
from vineyard_testing import until
from vineyard_testing.cluster import Trio
from vineyard_testing.hosts import Server
from vineyard_testing.streams import ScriptedStream

import vineyard_client as vc
from vineyard_client._store.connection import Connection
from vineyard_client._store.making import Making
from vineyard_client._store.meta import ValueMeta
from vineyard_client._store.objects import find_object
from vineyard_client._wire.messages import IsInUse
from vineyard_client.ids import BLOB_BIT, parse_id

SIZE = 4_000_000


@pytest.fixture
def fresh(servers: Trio) -> Iterator[Server]:
    """A server on host A that had no client from another host yet."""
    server = servers.a.host.serve("fresh", size="64Mi", port=9601)
    yield server
    server.kill()


def numbers(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


def put(server: Server, seed: int) -> vc.ObjectRef:
    with server.client() as client:
        return client.put(numbers(seed))


class Paused:
    """A process on a server's host that works up to where it calls ``pause``, and goes on when it is asked to."""

    def __init__(self, server: Server, work: Callable[[vc.Client, Callable[[], None]], bool]) -> None:
        asked, self._ask = os.pipe()
        ready, reached = os.pipe()

        def pause() -> None:
            os.write(reached, b".")
            os.read(asked, 1)

        self._task = server.begin(lambda client: work(client, pause))
        os.close(asked)
        os.close(reached)
        assert os.read(ready, 1) == b"."
        os.close(ready)

    def go_on(self) -> bool:
        """Return what the work does."""
        os.write(self._ask, b".")
        os.close(self._ask)
        return self._task.result()


class Reader(Paused):
    """A process on a server's host that holds a value, until it is asked whether the value is as it was."""

    def __init__(self, server: Server, ref: vc.ObjectRef, seed: int, way: str = "the path") -> None:
        def hold(client: vc.Client, pause: Callable[[], None]) -> bool:
            with vc.connect(another_way(server.socket, way), endpoint=server.endpoint) as mine:
                value = mine.get(ref)
                pause()
                return bool((value == numbers(seed)).all())

        super().__init__(server, hold)

    def unchanged(self) -> bool:
        return self.go_on()


def another_way(socket: str, way: str) -> str:
    """Return a path by which this process comes to a socket; what has to be made for it, is."""
    other = f"{socket}.{os.getpid()}"
    if way == "a symbolic link":
        os.symlink(socket, other)
    elif way == "a folder that is a symbolic link":
        os.symlink(os.path.dirname(socket), other)
        other = os.path.join(other, os.path.basename(socket))
    elif way == "a relative path":
        os.chdir(os.path.dirname(socket))
        other = os.path.basename(socket)
    elif way == "another name":
        os.link(socket, other)
    elif way.startswith("a mount"):  # into a mount namespace of its own, as a container has one
        assert ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
        folder = Path(tempfile.mkdtemp(dir=os.path.dirname(socket)))
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(folder)], check=True)
        path = folder / os.path.basename(socket)
        source, target = (socket, path) if way.endswith("alone") else (os.path.dirname(socket), folder)
        if way.endswith("alone"):
            path.touch()
        subprocess.run(["mount", "--bind", str(source), str(target)], check=True)
        other = str(path)
    else:
        other = socket
    return other


WAYS = [
    "a symbolic link",
    "a folder that is a symbolic link",
    "a relative path",
    "another name",
    "a mount of the socket alone",
    "a mount of its folder",
]


@pytest.mark.parametrize("way", WAYS)
def test_a_view_stays_intact_however_the_reader_came(fresh: Server, servers: Trio, way: str) -> None:
    """Readers and deleters who came to the server by different paths know of each other."""
    a, b = fresh, servers.b
    ref = put(a, 1)
    reader = Reader(a, ref, 1, way)
    with a.client() as client:
        while marked(client, ref):
            come_and_go(b, ref)
        assert client.delete(ref)
        assert [info.ref.token for info in client.list(deleted=True)] == [ref.token]
        refs = fill(client)
        assert reader.unchanged()
        for other in refs:
            client.delete(other)
        assert [action.reason for action in client.collect()] == ["deleted"]


def come_and_go(b: Server, ref: vc.ObjectRef) -> None:
    """Let clients from B transfer a value and disconnect, many times."""

    def pull(client: vc.Client) -> None:
        for _ in range(40):
            client.get(ref, replica=False)

    b.do(pull)


def fill(client: vc.Client) -> List[vc.ObjectRef]:
    """Use all memory that is free."""
    refs: List[vc.ObjectRef] = []
    with pytest.raises(vc.StoreFull):
        while True:
            refs.append(client.put(numbers(len(refs) + 100)))
    return refs


def marked(client: vc.Client, ref: vc.ObjectRef, member: str = "blob") -> bool:
    """Tell whether the server knows of somebody who uses a value's blob, or of its writer, who uses its guard."""
    connection = client._connection()
    return connection.call(IsInUse(getattr(find_object(connection, parse_id(ref.id), ref.token), member)))


@pytest.mark.parametrize("where", ["here", "from the other host"])
def test_a_view_stays_intact(fresh: Server, servers: Trio, where: str) -> None:
    """Whoever deletes, here or from another host, does not free memory that a process here reads."""
    a, b = fresh, servers.b
    ref = put(a, 1)
    readers = [Reader(a, ref, 1) for _ in range(3)]
    with a.client() as client:
        while marked(client, ref):  # until the server has forgotten the readers
            come_and_go(b, ref)
        deleter = a if where == "here" else b
        assert deleter.do(lambda client: client.delete(ref))
        assert [info.ref.token for info in client.list(deleted=True)] == [ref.token]
        refs = fill(client)
        come_and_go(b, refs[0])
        assert [reader.unchanged() for reader in readers] == [True] * 3
        for other in refs:
            client.delete(other)
        assert [action.reason for action in client.collect()] == ["deleted"]
        assert client.status().memory_used == 0


def test_a_delete_from_another_host_frees_at_once_what_nobody_can_read(servers: Trio) -> None:
    """Nobody is connected here; so the memory need not wait for a ``collect``."""
    a, b, _ = servers
    ref = put(a, 1)
    until(lambda: a.memory_used() > 0 and connections(a) == 1, "the writer's connection is gone")
    assert b.do(lambda client: client.delete(ref))
    with a.client() as client:
        assert client.status().memory_used == 0
        assert list(client.list(deleted=True)) == []


def connections(server: Server) -> int:
    with server.client() as client:
        return client.status().connections


def test_a_value_in_the_making_is_no_garbage(fresh: Server, servers: Trio) -> None:
    """A writer whose mark was lost is not taken for dead."""
    a, b = fresh, servers.b
    other = put(a, 2)

    def make(client: vc.Client, pause: Callable[[], None]) -> bool:
        with client.create(np.empty(SIZE, dtype=np.uint8)) as draft:
            pause()
            draft.value[:] = numbers(1)
        made: np.ndarray = client.get(draft.ref)
        return bool((made == numbers(1)).all()) and client.delete(draft.ref)

    writer = Paused(a, make)
    with a.client() as collector:
        (info,) = [info for info in collector.list() if info.ref != other]
        while marked(collector, info.ref, "guard"):
            come_and_go(b, other)
        assert collector.collect() == []
        assert writer.go_on()
        assert collector.delete(other)


def test_a_writer_does_not_mind_that_its_mark_is_lost() -> None:
    """The server refuses to release what it has no mark of; the value is whole all the same."""
    refusal = {"code": 2, "message": "DependencyTracker: connection not exist."}
    stream = ScriptedStream({"type": "seal_reply"}, refusal)
    connection = Connection(stream, timeout=1.0)
    meta = ValueMeta("0" * 32, "builtins.bytes", "", SIZE, 0.0, "a", 0, blob=BLOB_BIT | 7, guard=BLOB_BIT | 8)
    Making(connection, meta).finish()
    assert [message["type"] for message in stream.sent[1:]] == ["seal_request", "release_request"]
    assert connection.usable
    stream.expect({"code": 13, "message": "sealed"}, refusal)
    with pytest.raises(vc.ServerError, match="sealed"):
        Making(connection, meta).finish()
    connection.close()
