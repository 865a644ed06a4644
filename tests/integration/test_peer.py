"""One store of several, looked at over its IPC socket and over its RPC; and previews, wherever a value is."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Iterator

import pytest
from vineyard_testing import until
from vineyard_testing.peers import Peer as Listener
from vineyard_testing.peers import silent
from vineyard_testing.ports import free_port

import vineyard_client as vc
from vineyard_client._hosts.remote import RemoteConnection
from vineyard_client.server import server_command

pytestmark = pytest.mark.integration

LARGE = {"rows": list(range(2000)), "password": "hunter2"}
SHOWN = {"kind": "tree", "t": "dict", "n": 2}


class Store:
    """A server with RPC, as another host would have it."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "s")
        self.endpoint = f"127.0.0.1:{free_port()}"
        port = self.endpoint.rpartition(":")[2]
        self._command = server_command(self.socket, size="16Mi", options=["--rpc=true", f"--rpc_socket_port={port}"])
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._listens, "it listens")

    def _listens(self) -> bool:
        try:
            vc.Peer(self.endpoint).status()
            vc.connect(self.socket).close()
        except vc.ConnectionFailed:
            return False
        return True

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of the test's own."""
    running = Store(tmp_path)
    yield running
    running.stop()


@pytest.fixture(params=["socket", "endpoint"])
def peer(store: Store, request: pytest.FixtureRequest) -> Iterator[vc.Peer]:
    """It, from near and from far."""
    with vc.Peer(getattr(store, request.param), timeout=5) as peer:
        yield peer


@pytest.fixture
def client(store: Store) -> Iterator[vc.Client]:
    """A client of it."""
    with vc.connect(store.socket, endpoint=store.endpoint) as client:
        yield client


def test_status(peer: vc.Peer, client: vc.Client, store: Store) -> None:
    ref = client.put(bytes(100_000))
    status = peer.status()
    assert status.memory_used >= ref.size
    assert (status.memory_limit, status.socket) == (16 << 20, store.socket)
    assert status.connections >= 1
    if "/" in peer.endpoint:
        assert status.identity == client.status().identity != ""
    else:
        assert status.endpoint == peer.endpoint


def test_look(peer: vc.Peer, client: vc.Client) -> None:
    """Each reference has its answer, in their order; what is gone, was never here or has another token has none."""
    refs = [client.put(value, labels={"dag_id": "etl"}) for value in (LARGE, 5, "small")]
    gone = client.put(LARGE)
    client.delete(gone)
    forged = vc.ObjectRef(refs[0].id, "0" * 32, None, "builtins.dict", 5)
    never = vc.ObjectRef("o" + "0" * 16, "1" * 32, None, "builtins.dict", 5, "a/" + "1" * 32)
    found = peer.look([refs[1], gone, refs[0], forged, refs[2], never, refs[1]])
    assert [None if info is None else info.ref for info in found] == [
        refs[1],
        None,
        refs[0],
        None,
        refs[2],
        None,
        refs[1],
    ]
    info: Any = found[2]
    assert (info.labels, info.type, info.size) == ({"dag_id": "etl"}, "builtins.dict", refs[0].size)
    assert peer.look([]) == []


def test_look_finds_objects_of_vineyards_own_types(peer: vc.Peer, client: vc.Client) -> None:
    numpy = pytest.importorskip("numpy")
    ref = client.put(numpy.arange(10), native=True)
    (info,) = peer.look([ref])
    assert info is not None and info.ref == ref
    assert client.preview(ref) is None


@pytest.mark.parametrize("value", [LARGE, {"rows": [1], "password": "hunter2"}], ids=["large", "small"])
def test_preview(peer: vc.Peer, client: vc.Client, value: Any) -> None:
    """It says what the level allows, and the value arrives as it was."""
    ref = client.put(value, preview="head", hide=lambda name: "pass" in name)
    found: Any = peer.preview(ref)
    assert SHOWN.items() <= found.items()
    assert found == client.preview(ref)
    assert "hunter2" not in str(found) and ["password", {"t": "***"}] in found["kids"]
    assert client.get(ref) == value
    schema: Any = peer.preview(client.put(value, preview="schema"))
    assert "hunter2" not in str(schema) and SHOWN.items() <= schema.items()
    assert peer.preview(client.put(value)) is None
    with pytest.raises(ValueError, match="no level"):
        client.put(value, preview="everything")
    client.delete(ref)
    with pytest.raises(vc.ObjectNotFound):
        peer.preview(ref)
    with pytest.raises(vc.ObjectNotFound):
        client.preview(ref)


def test_what_was_encoded_before(client: vc.Client) -> None:
    with vc.encode(LARGE) as encoded:
        found: Any = client.preview(client.put(encoded, preview="head"))
    assert SHOWN.items() <= found.items()


def test_all_of_it_is_freed(peer: vc.Peer, client: vc.Client) -> None:
    """An object with a preview leaves nothing, and its twin keeps both."""
    first = client.put(LARGE, preview="head")
    second = client.put(LARGE, same_as=first)
    assert client.preview(second) == client.preview(first) is not None
    view = client.preview(first)
    assert peer.delete(first) and not peer.delete(first)
    assert client.preview(second) == view
    assert client.delete(second)
    client.collect()
    assert client.status().memory_used == 0


def test_a_replica_has_its_preview(store: Store, client: vc.Client) -> None:
    """Also when the original's host is gone, and from where it is not, its host is asked."""
    refs = [client.put(LARGE, preview="head"), client.put({"a": 1}, preview="head")]
    shown = [client.preview(ref) for ref in refs]
    assert None not in shown
    with vc.EmbeddedServer("16Mi") as server, vc.connect(server.socket) as here:
        assert [here.preview(ref) for ref in refs] == shown
        assert here.status().memory_used == 0
        for ref in refs:
            here.get(ref)
        store.stop()
        assert [here.preview(ref) for ref in refs] == shown


def test_the_mark_of_a_writer_stays(client: vc.Client, store: Store) -> None:
    """Who asks for a preview in the middle of a put does not make the writer look dead."""
    with client.create(100_000) as draft:
        (info,) = client.list()
        assert vc.Peer(store.endpoint).preview(info.ref) is None
        assert client.collect() == []
        draft.value[:3] = b"abc"  # type: ignore[index]
    assert draft.ref is not None and client.exists(draft.ref)


def test_a_server_that_was_restarted(store: Store, client: vc.Client) -> None:
    """Who asks needs not ask twice."""
    ref = client.put(LARGE)
    for peer in (vc.Peer(store.socket), vc.Peer(store.endpoint)):
        with peer:
            assert peer.look([ref]) != [None]
    kept = vc.Peer(store.socket)
    assert kept.look([ref]) != [None]
    store.stop()
    for endpoint in (store.socket, store.endpoint):
        with pytest.raises(vc.ConnectionFailed):
            vc.Peer(endpoint).status()
    store.start()
    assert kept.look([ref]) == [None]
    kept.close()


def test_who_does_not_answer(tmp_path: Path) -> None:
    """The time is up when it is up."""
    path = str(tmp_path / "silent")
    with Listener(path, silent), socket.create_server(("127.0.0.1", 0)) as listener:
        for endpoint in (path, f"127.0.0.1:{listener.getsockname()[1]}"):
            started = time.monotonic()
            with pytest.raises(vc.DeadlineExceeded):
                vc.Peer(endpoint, timeout=0.2).status()
            assert time.monotonic() - started < 5


def test_only_peers(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is connected to, and only they are told a password."""
    with pytest.raises(vc.ConnectionFailed, match="none of the peers"):
        vc.Peer(store.endpoint, peers=["10.0.0.*:9600"])
    with pytest.raises(vc.InvalidReference):
        vc.Peer("nowhere")
    told = []
    made = RemoteConnection.__init__

    def noting(self: RemoteConnection, *args: Any, **options: Any) -> None:
        told.append(options.get("password"))
        made(self, *args, **options)

    monkeypatch.setattr(RemoteConnection, "__init__", noting)
    login = {"username": "alice", "password": "secret"}
    vc.Peer(store.endpoint, **login).status()
    vc.Peer(store.endpoint, peers=["127.0.0.1:*"], **login).status()
    assert told == [None, "secret"]
