"""Core's errors keep their class and gain which XCom it was and what to do in Airflow."""

from __future__ import annotations

import pickle
import socket
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

import vineyard_client
from airflow_provider_vineyard.reference import Origin, RowReference
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.xcom import store as subject
from vineyard_client import ConnectionFailed, ProtocolError, StoreFull, UnsafeType

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

ORIGIN = Origin("etl", "r1", "extract", -1, "return_value")


def test_no_server(options: Callable[..., None], tmp_path: Path) -> None:
    """The message names XCom, socket and option."""
    path = str(tmp_path / "v.sock")
    options(ipc_socket=path)
    with pytest.raises(ConnectionFailed) as error:
        subject.put((1, 2), ORIGIN)
    text = str(error.value)
    assert text.startswith("XCom 'return_value' of task etl.extract (run r1) cannot be stored: ")
    assert f"Start vineyardd at {path}, or correct [vineyard] ipc_socket" in text


def test_no_server_and_autostart_off(options: Callable[..., None]) -> None:
    """The remedy is another one."""
    options(autostart="False")
    with pytest.raises(ConnectionFailed, match=r"\[vineyard\] autostart is off"):
        subject.put((1, 2), ORIGIN)


def test_a_socket_that_is_not_vineyards(options: Callable[..., None], tmp_path: Path) -> None:
    """Somebody else's socket is told apart from a server that is down."""
    path = str(tmp_path / "other.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)

        def answer() -> None:
            with listener.accept()[0] as peer:
                peer.recv(10)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        options(ipc_socket=path)
        with pytest.raises(ProtocolError, match="cannot be stored"):
            subject.put((1, 2), ORIGIN)
        thread.join()


def test_a_full_store(options: Callable[..., None]) -> None:
    """The task fails with what to do; the store stays usable."""
    with vineyard_client.EmbeddedServer(size="8Mi") as small:
        options(ipc_socket=small.socket)
        with pytest.raises(StoreFull) as error:
            subject.put(b"x" * (16 << 20), ORIGIN)
        text = str(error.value)
        assert "cannot be stored" in text and "--size" in text
        assert error.value.requested >= 16 << 20
        row = subject.put(b"x" * 10_000, ORIGIN)
        assert subject.get(row) == b"x" * 10_000


def test_the_embedded_servers_size(options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server is ours, the remedy is our option."""
    with vineyard_client.EmbeddedServer(size="8Mi") as small:
        settings = get_settings()._replace(ipc_socket=small.socket, autostart=False)
        monkeypatch.setattr(subject, "get_settings", lambda: settings)
        with pytest.raises(StoreFull, match=r"\[vineyard\] size"):
            subject.put(b"x" * (16 << 20), ORIGIN)


def test_errors_survive_pickling(store: Any) -> None:
    """Airflow hands errors from process to process."""
    with pytest.raises(UnsafeType) as error:
        subject.put(subject.put.__code__, ORIGIN)
    again = pickle.loads(pickle.dumps(error.value))
    assert type(again) is UnsafeType
    assert str(again) == str(error.value)
    assert again.name == error.value.name


def test_a_server_that_restarted(options: Callable[..., None], tmp_path: Path) -> None:
    """What it had is gone, and the message says that this may be why."""
    with vineyard_client.EmbeddedServer(size="8Mi") as first:
        options(ipc_socket=first.socket)
        row = subject.put((1, 2), ORIGIN)
        path = first.socket
        first.stop()
    options(ipc_socket=path)
    with vineyard_client.EmbeddedServer(size="8Mi", socket=path):
        from airflow_provider_vineyard.clients import close_clients

        close_clients()
        with pytest.raises(vineyard_client.ObjectNotFound, match=r"restarted.*Clear task etl\.extract"):
            subject.get(row)


def test_persist_is_passed_on(store: Any, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """``[vineyard] persist`` reaches core."""
    seen = []
    original = vineyard_client.Client.put

    def put(self: Any, value: object, **keywords: Any) -> Any:
        seen.append(keywords["persist"])
        return original(self, value, **keywords)

    monkeypatch.setattr(vineyard_client.Client, "put", put)
    subject.put((1, 2), ORIGIN)
    options(persist="True")
    subject.put((1, 2), ORIGIN)
    assert seen == [False, True]


def test_free_starts_no_server(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty embedded server has nothing to free."""
    row = subject.put((1, 2), ORIGIN)
    started = []
    monkeypatch.setattr(vineyard_client.server, "ensure_server", lambda *_, **__: started.append(1))
    settings = get_settings()._replace(ipc_socket=str(tmp_path / "v.sock"), embedded=True)
    monkeypatch.setattr(subject, "get_settings", lambda: settings)
    subject.free(row)
    assert not started


def test_free_leaves_what_the_row_does_not_own(store: Any) -> None:
    """An edited row cannot make somebody else's object its own without its token, and a shared one stays."""
    ref = store.put((1, 2))
    row = RowReference.describe(ref, store.info(ref), origin=ORIGIN, owned=False).to_json()
    subject.free(row)
    assert store.exists(ref)
    row["vineyard"].update(owned=True, token="0" * 32)
    subject.free(row)
    assert store.exists(ref)
