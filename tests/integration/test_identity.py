"""Which store it is: one identity for its life, which all clients agree on, and another one after a restart."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator, List

import pytest
from vineyard_testing.processes import fork, wait

import vineyard_client as vc
from vineyard_client._store.identity import STORE, identify
from vineyard_client._wire.messages import CreateData, DeleteData, ListData

pytestmark = pytest.mark.integration


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A socket path at which the test's servers listen, one after the other."""
    yield str(tmp_path / "v.sock")


def identity(path: str) -> str:
    with vc.connect(path) as client:
        return client.status().identity


def test_one_for_all_clients(path: str) -> None:
    """Whoever connects sees the same one; it takes no memory, and is no value."""
    with vc.EmbeddedServer("16Mi", socket=path):
        first = identity(path)
        assert len(first) == 32 and identity(path) == first
        with vc.connect(path) as client:
            client.put(5)
            assert client.status().memory_used == 0
            assert [info.type for info in client.list()] == ["builtins.int"]
            assert client.collect() == []
            assert client.status().identity == first
    with vc.EmbeddedServer("16Mi", socket=path):
        assert identity(path) != first


def test_the_first_clients_agree(path: str) -> None:
    """However many processes are the first ones at the same moment."""
    for _ in range(3):
        with vc.EmbeddedServer("16Mi", socket=path):
            reader, writer = os.pipe()
            go, say = os.pipe()

            def first(go: int = go, say: int = say, writer: int = writer) -> None:
                os.close(say)
                os.read(go, 1)
                os.write(writer, identity(path).encode() + b" ")

            pids = [fork(first) for _ in range(12)]
            os.close(say)
            assert [wait(pid) for pid in pids] == [0] * 12
            os.close(writer)
            with open(reader) as told:
                seen = set(told.read().split())
            os.close(go)
            assert seen == {identity(path)}
            with vc.connect(path) as client:
                assert len(client._connection().call(ListData(STORE))) == 1


def test_a_restart_is_noticed(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that was connected says so, once, and goes on with the new store."""
    with vc.connect(path, autostart=True, size="16Mi") as client:
        ref, before = client.put("value"), client.status().identity
        vc.stop_server(path)
        vc.ensure_server(path, size="16Mi")
        with pytest.raises(vc.ConnectionFailed):
            client.status()
        assert client.status().identity != before
        assert [r.getMessage() for r in caplog.records if "another store" in r.getMessage()] == [
            f"{path} is another store than before: its server was restarted or replaced, and what was put into the "
            "earlier one is gone."
        ]
        with pytest.raises(vc.ObjectNotFound):
            client.get(ref)
        client.status()
        assert caplog.text.count("another store") == 1
        vc.stop_server(path)


def test_a_connection_that_broke_is_no_restart(server: vc.EmbeddedServer, caplog: pytest.LogCaptureFixture) -> None:
    """The same store is known again."""
    with vc.connect(server.socket) as client:
        before = client.status().identity
        client._connection().close()
        assert client.status().identity == before
    assert "another store" not in caplog.text


def test_a_socket_that_was_replaced_is_noticed(path: str, caplog: pytest.LogCaptureFixture) -> None:
    """So is another server that took the path, while the first one goes on where nobody looks."""
    with vc.EmbeddedServer("16Mi", socket=path):
        with vc.connect(path) as client:
            before = client.status().identity
            os.unlink(path)
            with vc.EmbeddedServer("16Mi", socket=path):
                assert client.status().identity == before  # this connection goes on
                client._connection().close()
                assert client.status().identity != before
                assert "another store" in caplog.text


def test_what_makes_no_sense_is_no_identity(path: str) -> None:
    """Objects of its type that others put do not count, nor those of another instance."""
    with vc.EmbeddedServer("16Mi", socket=path), vc.connect(path) as client:
        connection = client._connection()
        known = identify(connection)
        tree = {"typename": STORE, "nbytes": 0, "instance_id": 0, "transient": True}
        connection.call(DeleteData([known.number]))
        wrong: List[int] = [
            connection.call(CreateData({**tree, **fields}))
            for fields in ({}, {"token": 7}, {"token": "x"}, {"token": "0" * 32, "instance_id": 5})
        ]
        made = identify(connection, known)
        assert made != known and made.number not in wrong
        assert identify(connection, made) == made
        connection.call(DeleteData(wrong))
        assert identify(connection) == made
