"""What people get wrong, and what goes wrong around them: each has its own error, which names cause and next step.

After each of them the client is usable, or its connection is closed and the next call makes another; it is never out of
step.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
from vineyard_testing import peers
from vineyard_testing.clients import WatchedClient
from vineyard_testing.peers import Peer
from vineyard_testing.processes import paused

import vineyard_client as vc
from vineyard_client._io.deadline import Deadline
from vineyard_client._io.unix import UnixStream
from vineyard_client._store.connection import Connection
from vineyard_client._wire.messages import CreateData, GetBuffers, GetData
from vineyard_client.ids import format_id, parse_id

pytestmark = pytest.mark.integration

LARGE = memoryview(bytearray(b"v" * 200_000))


def check(error: vc.VineyardError, cause: str, step: str) -> None:
    """Check that an error names the cause and the next step."""
    assert cause in error.what, error
    assert step in str(error), error


# ---- no server


def test_no_server(tmp_path: Path) -> None:
    """No server, and none to be started: the path, and how to start one."""
    path = str(tmp_path / "v.sock")
    for connect in (lambda: vc.connect(path), lambda: vc.connect(path, autostart=False)):
        with pytest.raises(vc.ConnectionFailed) as caught:
            connect()
        check(caught.value, path, "start vineyardd there (vineyard-client serve), or correct the path")
    assert list(tmp_path.iterdir()) == []


def test_a_path_object(server: vc.EmbeddedServer) -> None:
    """A socket may be given as any kind of path."""
    with vc.connect(Path(server.socket)) as client, vc.Client(Path(server.socket)) as other:
        assert client.socket == other.socket == server.socket


def test_no_own_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing configured and autostart off: the same, for this user's own path."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("VINEYARD_IPC_SOCKET", raising=False)
    with pytest.raises(vc.ConnectionFailed) as caught:
        vc.connect(autostart=False)
    check(caught.value, "vineyard.sock", "start vineyardd there")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_wrong_path(tmp_path: Path, kind: str) -> None:
    """A path of something else."""
    path = tmp_path / "x"
    {"file": path.touch, "folder": path.mkdir}[kind]()
    with pytest.raises(vc.ConnectionFailed) as caught:
        vc.connect(str(path))
    check(caught.value, str(path), "It is not a socket: give the path of vineyardd's IPC socket")


# ---- a socket that is not vineyard's

NOT_VINEYARD = "Check that the socket belongs to vineyardd and not to another program."

PEERS = [
    ("silent", peers.silent, vc.DeadlineExceeded, "did not answer within 0.2 s", "See whether it hangs"),
    ("closing", peers.closing, vc.ConnectionFailed, "closed the connection", "is not vineyardd: see its log"),
    ("HTTP", peers.http, vc.ProtocolError, "announced a message of", NOT_VINEYARD),
    ("nonsense", peers.nonsense, vc.ProtocolError, "answered register_request with None", NOT_VINEYARD),
    ("no JSON", peers.no_json, vc.ProtocolError, "sent 5 bytes that are not JSON", NOT_VINEYARD),
    ("no object", peers.no_object, vc.ProtocolError, "sent a JSON list where an object was expected", NOT_VINEYARD),
    ("half", peers.answering(b"\x50\0\0\0\0\0\0\0{"), vc.DeadlineExceeded, "did not answer within 0.2 s", "hangs"),
    ("too old", peers.too_old("0.13.0"), vc.UnsupportedVersion, "is 0.13.0", "Upgrade the server"),
    ("refusing", peers.refusing(33), vc.ConnectionFailed, "with code 33", "Check the user name and password"),
    ("starting", peers.refusing(31), vc.ConnectionFailed, "with code 31", "try again in a moment"),
]


@pytest.mark.parametrize("handle, kind, cause, step", [case[1:] for case in PEERS], ids=[case[0] for case in PEERS])
def test_not_vineyard(tmp_path: Path, handle: Any, kind: type, cause: str, step: str) -> None:
    """Whatever listens there, the error says what it did and what to look at; nothing is started over it."""
    path = str(tmp_path / "v.sock")
    with Peer(path, handle):
        for autostart in (False, True):
            with pytest.raises(kind) as caught:
                vc.connect(path, timeout=0.2, autostart=autostart)
            assert type(caught.value) is kind
            check(caught.value, cause, step)
            assert path in str(caught.value) or "refused register_request" in str(caught.value)
    assert os.listdir(tmp_path) == ["v.sock"]


def test_a_slow_server(tmp_path: Path) -> None:
    """A server that answers byte by byte is given up on when the time is up."""
    path, stop = str(tmp_path / "v.sock"), threading.Event()
    with Peer(path, peers.dripping(bytes(100_000), stop)):
        with pytest.raises((vc.DeadlineExceeded, vc.ProtocolError)) as caught:
            vc.connect(path, timeout=0.1)
        stop.set()
    assert path in str(caught.value)


# ---- a server that speaks nonsense later on


def test_nonsense_in_the_middle(client: vc.Client, server: vc.EmbeddedServer) -> None:
    """A reply that belongs to something else is noticed, and ends that connection, not the client."""
    ref = client.put(LARGE)
    with WatchedClient(server.socket) as other:
        other.get(ref)
        stream: Any = other._connection().conversation.stream
        stream.stream.send(b"\x02\0\0\0\0\0\0\0{}", Deadline(5))
        with pytest.raises(vc.ServerError):
            other.status()  # gets the answer to what was sent behind its back
        with pytest.raises(vc.ProtocolError) as caught:
            other.get(ref)
        check(caught.value, "answered get_data_request with 'instance_status_reply'", NOT_VINEYARD)
        assert other.get(ref) == LARGE


def test_a_hung_server(client: vc.Client, server: vc.EmbeddedServer) -> None:
    """A server that stops answering costs a call its timeout; when it goes on, so does the client."""
    ref = client.put(LARGE)
    with vc.connect(server.socket, timeout=0.2) as other:
        view = other.get(ref)
        with paused(server.pid):
            for _ in range(2):
                with pytest.raises(vc.DeadlineExceeded) as caught:
                    other.status()
                check(caught.value, "did not answer within 0.2 s", "a larger timeout can be given to connect()")
        assert view == LARGE
        assert other.get(ref) == LARGE


# ---- references


def test_a_value_that_is_gone(client: vc.Client) -> None:
    """A deleted value: which one, where it was looked for, and to make it again."""
    for value in (1, LARGE):
        ref = client.put(value)
        client.delete(ref)
        for use in (client.get, client.info, client.migrate):
            with pytest.raises(vc.ObjectNotFound) as caught:
                use(ref)
            check(caught.value, ref.id, "run again what produced it")
            assert client.socket in caught.value.what
        assert client.exists(ref) is False and client.delete(ref) is False


def test_another_token(client: vc.Client) -> None:
    """A reference whose id now belongs to another value never yields that value, nor deletes it."""
    for value in (1, LARGE):
        ref = client.put(value)
        stale = vc.ObjectRef.from_json({**ref.to_json(), "token": "0" * 32})
        for use in (client.get, client.info, client.migrate):
            with pytest.raises(vc.ObjectNotFound) as caught:
                use(stale)
            check(caught.value, ref.id, "the server restarted since it was put: run again what produced it")
        assert client.exists(stale) is False and client.delete(stale) is False
        assert client.get(ref) == value


def test_after_a_restart(tmp_path: Path) -> None:
    """A restarted server knows nothing of what it had; a client goes on with it after one failed call."""
    path = str(tmp_path / "v.sock")
    with vc.EmbeddedServer("16Mi", socket=path):
        client = vc.connect(path)
        refs = [client.put(1), client.put(LARGE)]
        view = client.get(refs[1])
    with vc.EmbeddedServer("16Mi", socket=path):
        with pytest.raises(vc.ConnectionFailed) as caught:
            client.get(refs[0])
        assert path in caught.value.what
        for ref in refs:
            with pytest.raises(vc.ObjectNotFound, match="the server restarted since it was put"):
                client.get(ref)
        # Ids may come again: whatever id the new values have, the old references do not find them.
        fresh = [client.put(i) for i in range(20)] + [client.put(LARGE)]
        for ref in refs:
            for new in fresh:
                forged = vc.ObjectRef.from_json({**ref.to_json(), "id": new.id})
                with pytest.raises(vc.ObjectNotFound):
                    client.get(forged)
        assert [client.get(ref) for ref in fresh[:20]] == list(range(20))
        assert view == LARGE
        client.close()


def test_an_id_of_another_kind(client: vc.Client) -> None:
    """The id of a blob, or of nothing, names no value."""
    for id_ in ("o8000000000000000", "offffffffffffffff", "o0000000000000000"):
        with pytest.raises(vc.VineyardError) as caught:
            client.info(id_)
        assert id_ in str(caught.value)
    assert client.get(client.put(1)) == 1


# ---- damage


@pytest.fixture
def blob(server: vc.EmbeddedServer) -> Iterator[Callable[[vc.Client, vc.ObjectRef, int, bytes], None]]:
    """Overwrite bytes of a value in the store, as a program gone wild would."""
    connections = []

    def overwrite(client: vc.Client, ref: vc.ObjectRef, position: int, data: bytes) -> None:
        from vineyard_client._store.objects import find_object

        meta = find_object(client._connection(), parse_id(ref.id), ref.token)
        other = Connection(UnixStream.connect(server.socket, Deadline(5)), timeout=5)
        connections.append(other)
        (payload,) = other.call(GetBuffers([meta.blob]))
        os.pwrite(other.store_fd(payload), data, payload.offset + position)

    yield overwrite
    for connection in connections:
        connection.close()


@pytest.mark.parametrize(
    "position, data",
    [
        (0, b"X"),
        (0, bytes(72)),
        (32, b"\xff" * 8),
        (40, b"\xff" * 8),
        (48, b"\xff"),
        (64, b"\xff\xff\xff\xff"),
        (100, b"!!!!"),
    ],
    ids=["magic", "zeros", "length", "buffers", "offset", "checksum", "pickle"],
)
@pytest.mark.parametrize("value", [{"key": list(range(2000))}, LARGE], ids=["copied", "mapped"])
def test_a_corrupted_blob(client: vc.Client, blob: Any, value: Any, position: int, data: bytes) -> None:
    """A value whose bytes were overwritten is recognised before anything of it is read."""
    ref = client.put(value)
    blob(client, ref, position, data)
    with pytest.raises(vc.ObjectCorrupted) as caught:
        client.get(ref)
    check(caught.value, "damaged", "run again")
    assert client.get(client.put(value)) == value
    assert client.delete(ref) is True


def test_damaged_metadata_can_be_deleted(client: vc.Client) -> None:
    """Nobody can read the object, so whoever has its reference gets rid of it."""
    before = client.status().memory_used
    ref = client.put(bytearray(200_000))
    connection = client._connection()
    tree = connection.call(GetData([parse_id(ref.id)]))[parse_id(ref.id)]
    number = connection.call(CreateData({**tree, "created": "never"}))
    client.delete(ref)
    damaged = dataclasses.replace(ref, id=format_id(number))
    with pytest.raises(vc.ObjectCorrupted, match="Delete it"):
        client.get(damaged)
    assert client.delete(damaged)
    assert not client.delete(damaged)
    assert client.status().memory_used == before


def test_metadata_that_are_too_much(client: vc.Client) -> None:
    """Whoever can write to the store can make its listings slow, but not wrong; the object itself can be deleted."""
    ref = client.put(bytearray(200_000))
    connection = client._connection()
    tree = connection.call(GetData([parse_id(ref.id)]))[parse_id(ref.id)]
    large = {"summary": "x" * (2 << 20), "labels": json.dumps({"key": "x" * (2 << 20)}), "host": "x" * 100_000}
    numbers = [connection.call(CreateData({**tree, field: text})) for field, text in large.items()]
    assert ref in [info.ref for info in client.list()]
    assert client.collect(dry_run=True) == []
    for number in numbers:
        planted = dataclasses.replace(ref, id=format_id(number))
        assert planted not in [info.ref for info in client.list()]
        with pytest.raises(vc.ObjectCorrupted, match=r"where \d+ are enough"):
            client.get(planted)
        assert client.delete(planted)
    assert client.get(ref) == bytearray(200_000)
    assert client.delete(ref)


def test_another_value_in_the_place(client: vc.Client, blob: Any) -> None:
    """A blob that holds another value than the metadata say is not taken for it."""
    ref = client.put(LARGE)
    blob(client, ref, 16, bytes(16))
    with pytest.raises(vc.VineyardError):
        client.get(ref)


@pytest.mark.parametrize("call", ["get", "delete", "migrate", "info", "exists"])
@pytest.mark.parametrize("made", [lambda ref: ref.to_json(), lambda ref: None, lambda ref: ref.id.encode()])
def test_what_is_no_reference(client: vc.Client, call: str, made: Any) -> None:
    """Its JSON form, for example, says how to make one of it."""
    ref = client.put((1, 2))
    with pytest.raises(vc.InvalidReference, match=r"is no ObjectRef\. ObjectRef\.from_json makes one"):
        getattr(client, call)(made(ref))
    assert client.get(ref) == (1, 2)


def test_an_endpoint_that_is_none(server: vc.EmbeddedServer) -> None:
    """It would be written into each reference."""
    with pytest.raises(vc.InvalidReference, match="'abc' is no endpoint"):
        vc.connect(server.socket, endpoint="abc")


def test_larger_than_the_store() -> None:
    """No amount of deleting would help."""
    with vc.EmbeddedServer("4Mi") as small, vc.connect(small.socket) as client:
        with pytest.raises(vc.StoreFull, match="The value is larger than the whole store"):
            client.put(bytearray(5 << 20))


def test_a_future_version(client: vc.Client, blob: Any) -> None:
    """A value in a layout of a later release says what to upgrade."""
    ref = client.put(LARGE)
    blob(client, ref, 8, b"\x63\0")
    with pytest.raises(vc.UnsupportedVersion) as caught:
        client.get(ref)
    check(caught.value, "layout 99", "same release of vineyard-client")


# ---- wrong arguments


def test_wrong_arguments(client: vc.Client) -> None:
    """What is no reference is an error of the caller's, before the server is asked."""
    for wrong in (None, 5, b"x", {}):
        for use in (client.get, client.delete, client.exists, client.migrate, client.info):
            with pytest.raises((AttributeError, TypeError, vc.InvalidReference)):
                use(wrong)  # type: ignore[operator]
    assert client.get(client.put(1)) == 1
