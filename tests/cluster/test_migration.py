"""What hosts seldom do on their own: peers that offer the wrong bytes, values that rot, moments that must be hit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Union

import numpy as np
import pytest
from vineyard_testing.cluster import Trio
from vineyard_testing.hosts import Server
from vineyard_testing.streams import ScriptedStream, got_buffers, payload

import vineyard_client as vc
from vineyard_client._hosts.migration import Migration
from vineyard_client._hosts.remote import RemoteConnection
from vineyard_client._hosts.replicas import Claim
from vineyard_client._io.tcp import TcpStream
from vineyard_client._store import objects
from vineyard_client._store.connection import Connection
from vineyard_client._wire.messages import GetData
from vineyard_client.ids import BLOB_BIT, parse_id

BLOB = BLOB_BIT | 7
VALUE = np.arange(500_000)


def put(server: Server) -> vc.ObjectRef:
    with server.client() as client:
        return client.put(VALUE)


def assert_empty(server: Server) -> None:
    with server.client() as client:
        assert (list(client.list()), list(client.list(deleted=True)), client.status().memory_used) == ([], [], 0)
    assert list(Path(server.socket + ".replicas").glob("*")) == []


# ---- one connection to another host, with a scripted peer


class ScriptedTcp(ScriptedStream):
    """A TCP stream whose blobs are part of the script."""

    peer = "a:9600"

    def receive_into(self, target: memoryview, stall: float) -> None:
        target[:] = self.receive(len(target), None)  # type: ignore[arg-type]


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedTcp]:
    """What connections to other hosts get to talk to."""
    stream = ScriptedTcp()
    monkeypatch.setattr(TcpStream, "connect", lambda endpoint, deadline: stream)
    yield stream


def connect() -> RemoteConnection:
    return RemoteConnection("a:9600", timeout=1.0)


def test_a_blob_follows_its_reply(peer: ScriptedTcp) -> None:
    remote = connect()
    peer.expect(got_buffers([payload(BLOB, 0, 4)]), b"blob", {"type": "get_data_reply", "content": None})
    target = bytearray(4)
    remote.fetch_into(BLOB, memoryview(target))
    assert target == b"blob"
    assert remote.call(GetData([1])) == {}


@pytest.mark.parametrize("code", [2, 14])
def test_a_blob_that_was_never_completed(peer: ScriptedTcp, code: int) -> None:
    """Servers call it code 2 or 14; the stream goes on."""
    remote = connect()
    peer.expect({"code": code, "message": "Failed to get objects"})
    with pytest.raises(vc.ObjectNotFound, match="a:9600"):
        remote.fetch_into(BLOB, memoryview(bytearray(4)))
    assert remote.usable


def test_a_blob_that_is_gone(peer: ScriptedTcp) -> None:
    """It is left out of the reply; the stream goes on."""
    remote = connect()
    peer.expect(got_buffers([]))
    with pytest.raises(vc.ObjectNotFound, match="a:9600"):
        remote.fetch_into(BLOB, memoryview(bytearray(4)))
    assert remote.usable


@pytest.mark.parametrize("sizes", [[3], [5], [4, 4]])
def test_a_blob_of_another_size(peer: ScriptedTcp, sizes: List[int]) -> None:
    """Its bytes are on their way all the same, so this conversation is over."""
    remote = connect()
    reply = got_buffers([payload(BLOB, 0, size) for size in sizes])
    peer.expect({**reply, "num": len(sizes)}, b"blobblob")
    with pytest.raises(vc.ProtocolError, match="a:9600"):
        remote.fetch_into(BLOB, memoryview(bytearray(4 * len(sizes) if len(sizes) > 1 else 4)))
    assert not remote.usable
    assert peer.closed


def test_while_anybody_is_connected_there_a_blob_may_be_in_use(peer: ScriptedTcp) -> None:
    """The marks of the server there do not tell: see test_marks."""
    remote = connect()
    for connections, marked, expected in ((0, False, False), (1, False, True), (0, True, True)):
        meta = {"instance_id": 0, "memory_usage": 1, "memory_limit": 2, "ipc_connections": connections}
        status = {"type": "instance_status_reply", "meta": {**meta, "deployment": "local"}}
        peer.expect({"type": "is_in_use_reply", "is_in_use": marked}, status)
        assert remote.in_use([BLOB]) == [expected]


def test_connecting_never_takes_longer_than_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever time an exchange may take."""
    limits: List[float] = []

    def connect(endpoint: str, deadline: Any) -> ScriptedTcp:
        limits.append(deadline.timeout)
        return ScriptedTcp()

    monkeypatch.setattr(TcpStream, "connect", connect)
    for timeout in (None, 600.0, 0.5):
        RemoteConnection("a:9600", timeout=timeout).close()
    assert limits == [10.0, 10.0, 0.5]


# ---- finding the owner


def lost(endpoint: Union[str, None]) -> vc.ObjectRef:
    return vc.ObjectRef("o0000000000000001", "0" * 32, endpoint, "builtins.int", 77)


def migration(tmp_path: Path) -> Migration:
    return Migration(str(tmp_path / "sock"), timeout=1.0, username="", password="")


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    """Then both are told: that the endpoint does not lead there, and that the cluster could not be asked."""
    local = Connection(ScriptedStream({"code": 35, "message": "etcd is gone"}), timeout=1.0)
    with pytest.raises(vc.MigrationFailed, match=r"127\.0\.0\.1:1.*code 35: etcd is gone"):
        migration(tmp_path).replicate(local, lost("127.0.0.1:1"))
    assert list((tmp_path / "sock.replicas").iterdir()) == []


@pytest.mark.parametrize(
    "instance",
    [{}, {"rpc_endpoint": "0.0.0.0:0"}, {"rpc_endpoint": ""}, {"rpc_endpoint": None}, {"rpc_endpoint": "nonsense"}],
)
def test_an_owner_without_an_endpoint(tmp_path: Path, instance: Dict[str, Any]) -> None:
    """Its RPC is off, or it left the cluster: nobody knows a way."""
    tree = {"token": "0" * 32, "instance_id": 3}
    found = {"type": "get_data_reply", "content": {"o0000000000000001": tree}}
    members = {"type": "cluster_meta", "meta": {"i3": instance}}
    local = Connection(ScriptedStream(found, members), timeout=1.0)
    with pytest.raises(vc.ObjectNotFound, match="names no host"):
        migration(tmp_path).replicate(local, lost(None))


def test_all_names_of_an_owner_are_tried(tmp_path: Path) -> None:
    """What it reports as its endpoint first."""
    tree = {"token": "0" * 32, "instance_id": 3}
    found = {"type": "get_data_reply", "content": {"o0000000000000001": tree}}
    owner = {"rpc_endpoint": "127.0.0.2:1", "hostname": "127.0.0.3", "nodename": "127.0.0.2"}
    members = {"type": "cluster_meta", "meta": {"i3": owner}}
    local = Connection(ScriptedStream(found, members), timeout=1.0)
    with pytest.raises(vc.MigrationFailed, match=r"127\.0\.0\.1:1: .*127\.0\.0\.2:1: .*127\.0\.0\.3:1: ") as caught:
        migration(tmp_path).replicate(local, lost("127.0.0.1:1"))
    assert str(caught.value).count("127.0.0.2:1") == 1


# ---- moments, on real hosts


def test_a_value_that_rotted_is_not_brought(servers: Trio) -> None:
    """Its bytes at the source are not those of the token: nothing of them stays here."""
    a, b, _ = servers
    ref = put(a)
    with a.client() as client:
        connection = client._connection()
        blob = objects.find_object(connection, parse_id(ref.id), ref.token).blob
        pin = connection.pin(blob)
        places, _ = pin.take(then=GetData([1]))
        assert places is not None
        (place,) = places
        for position, error in ((0, vc.ObjectCorrupted), (16, vc.ObjectCorrupted)):
            fd, offset = connection.store_fd(place), place.offset + position
            before = os.pread(fd, 8, offset)
            os.pwrite(fd, b"rotten!!", offset)
            for options in ({}, {"replica": False}):
                with pytest.raises(error):
                    b.do(lambda client, options=options: client.get(ref, **options))
                assert_empty(b)
            os.pwrite(fd, before, offset)
        pin.release()
    del connection, pin  # the processes that were forked above kept this connection open, and so do references to it
    assert b.do(lambda client: bool((client.get(ref) == VALUE).all()))
    assert b.do(lambda client: client.delete(ref))


def test_a_replica_that_cannot_be_noted_is_freed(servers: Trio, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk may be full when the transfer is done."""
    a, b, _ = servers
    ref = put(a)

    def full(claim: Claim, number: int) -> None:
        raise vc.MigrationFailed("A replica cannot be recorded: No space left on device.", "Make room.")

    with monkeypatch.context() as patched:
        patched.setattr(Claim, "record", full)
        with pytest.raises(vc.MigrationFailed, match="No space left"):
            b.do(lambda client: client.get(ref))
    assert_empty(b)
    assert b.do(lambda client: client.delete(ref))


def test_a_replica_that_is_deleted_at_once(servers: Trio) -> None:
    """Who just brought it reads the value all the same: from its host, since it is there."""
    a, b, _ = servers
    ref = put(a)

    def read(client: vc.Client) -> bool:
        replicate = client._session.migration.replicate

        def deleted(local: Connection, ref: vc.ObjectRef) -> int:
            number = replicate(local, ref)
            assert objects.delete_object(local, number, ref.token)
            return number

        client._session.migration.replicate = deleted  # type: ignore[method-assign]
        return bool((client.get(ref) == VALUE).all())

    assert b.do(read)
    assert b.do(lambda client: client.delete(ref))


def test_an_interrupted_reader_leaves_nothing(servers: Trio) -> None:
    """Ctrl-C in the middle of a transfer."""
    a, b, _ = servers
    ref = put(a)

    def read(client: vc.Client) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        TcpStream.receive_into_file = interrupted  # type: ignore[method-assign,assignment]
        with pytest.raises(KeyboardInterrupt):
            client.get(ref)
        assert client.status().memory_used == 0  # its connection here goes on

    b.do(read)
    assert_empty(b)
    assert b.do(lambda client: client.delete(ref))
