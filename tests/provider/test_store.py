"""Core's errors keep their class and gain which XCom it was and what to do in Airflow."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from vineyard_testing.vineyardds import with_rpc

import vineyard_client
from airflow_provider_vineyard.reference import Origin, RowReference
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.xcom import store as subject
from vineyard_client import ConnectionFailed, ProtocolError, StoreFull, UnsafeType

pytestmark = [pytest.mark.airflow, pytest.mark.integration]


@pytest.fixture(autouse=True)
def everything_goes_to_vineyard(options: Callable[..., None]) -> None:
    """Keep nothing in the rows, so that small values will do."""
    options(inline_threshold=0)


ORIGIN = Origin("etl", "r1", "extract", -1, "return_value")


def test_the_name_of_the_host(store: Any, options: Callable[..., None], server: Any) -> None:
    """Rows have the system's name for this host, or the one that is configured."""
    assert RowReference.parse(subject.put((1, 2), ORIGIN)).host == os.uname().nodename
    options(ipc_socket=server.socket, host="node-1")
    row = subject.put((1, 2), ORIGIN)
    assert RowReference.parse(row).host == store.info(RowReference.parse(row).ref).host == "node-1"
    assert subject.get(row) == (1, 2)


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
        settings = get_settings()._replace(ipc_socket=small.socket, autostart=False, tier=())
        monkeypatch.setattr(subject, "get_settings", lambda: settings)
        with pytest.raises(StoreFull, match=r"\[vineyard\] size"):
            subject.put(b"x" * (16 << 20), ORIGIN)


def test_a_value_larger_than_the_store(options: Callable[..., None]) -> None:
    """Freeing would not help."""
    with vineyard_client.EmbeddedServer(size="8Mi") as small:
        options(ipc_socket=small.socket)
        with pytest.raises(StoreFull, match="larger than the whole store: give vineyardd a larger --size"):
            subject.put(b"x" * (16 << 20), ORIGIN)
        kept = [subject.put(b"x" * (3 << 20), ORIGIN) for _ in range(2)]
        with pytest.raises(StoreFull, match="Free what no DAG run needs any more with airflow-vineyard gc --orphans"):
            subject.put(b"x" * (3 << 20), ORIGIN)
        assert all(subject.get(row) == b"x" * (3 << 20) for row in kept)


def test_a_class_that_nobody_can_allow(store: Any) -> None:
    """The remedy is one that works."""
    with pytest.raises(UnsafeType) as error:
        subject.put({"lock": threading.Lock()}, ORIGIN)
    assert "allowed_classes" not in str(error.value) and "leave it out" in error.value.hint


def test_classes_that_have_to_be_allowed(store: Any) -> None:
    """The hint names the option, and one pattern for all of them; what it says of the rest stays."""
    makings = {"__module__": "shop.models"}
    values = [type(name, (), dict(makings))() for name in ("Order", "Line")]
    with pytest.raises(UnsafeType) as error:
        subject.put([*values, iter([1])], ORIGIN)
    text = str(error.value)
    assert "shop.models.Order" in text and "shop.models.Line" in text
    assert "add shop.models.* to [vineyard] allowed_classes on every host" in text and "list(…)" in text


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


@pytest.fixture
def hosts() -> Iterator[List[Tuple[str, str]]]:
    """Return the sockets and RPC endpoints of two servers that stand for two hosts."""
    with contextlib.ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vp-"))) for _ in "ab"]
        yield [stack.enter_context(with_rpc(folder)) for folder in folders]


def test_from_another_host(
    hosts: List[Tuple[str, str]], options: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """The row advertises ``rpc_endpoint``; the log says from where a value was migrated, or that it was here."""
    (path_a, endpoint_a), (path_b, endpoint_b) = hosts
    options(ipc_socket=path_a, rpc_endpoint=endpoint_a)
    value = b"x" * 1_000_000
    row = subject.put(value, ORIGIN)
    assert row["vineyard"]["endpoint"] == endpoint_a
    with caplog.at_level(logging.INFO, "airflow_provider_vineyard"):
        assert subject.get(row) == value
        options(ipc_socket=path_b, rpc_endpoint=endpoint_b)
        assert subject.get(row) == value
        assert subject.get(row) == value
    host = row["vineyard"]["host"]
    lines = [record.getMessage() for record in caplog.records if record.name == subject.__name__]
    local, migrated, replica = (line for line in lines if line.startswith("get"))
    assert ", from the local vineyard, " in local
    assert f", migrated from {host} ({endpoint_a}), " in migrated
    assert f", from the local replica of the one on {host}, " in replica


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


def test_no_question_to_the_server_for_the_log(
    hosts: List[Tuple[str, str]], options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a local value is, the log knows without asking each time."""
    path, endpoint = hosts[0]
    options(ipc_socket=path, rpc_endpoint=endpoint)
    row = subject.put((1, 2), ORIGIN)
    assert subject.get(row) == (1, 2)
    monkeypatch.setattr(vineyard_client.Client, "status", None)
    monkeypatch.setattr(vineyard_client.Client, "info", None)
    assert subject.get(row) == (1, 2)


def test_the_deployment_is_a_label(store: Any, options: Callable[..., None]) -> None:
    """By it ``gc`` knows what is whose; the rest says which XCom it was."""
    options(deployment="airflow-2")
    row = subject.put((1, 2), ORIGIN)
    (info,) = store.list()
    assert info.ref.token == row["vineyard"]["token"]
    assert info.labels == {**ORIGIN.labels(), "airflow": "airflow-2"}


def test_free_does_not_fail_on_a_host_that_is_gone(
    hosts: List[Tuple[str, str]], options: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """The object lies where nobody answers: that is logged, and left to ``gc`` over there."""
    (path_a, endpoint_a), (path_b, endpoint_b) = hosts
    options(ipc_socket=path_a, rpc_endpoint=endpoint_a)
    row = subject.put((1, 2), ORIGIN)
    row["vineyard"]["endpoint"] = "127.0.0.1:1"
    options(ipc_socket=path_b, rpc_endpoint=endpoint_b)
    with caplog.at_level(logging.WARNING, "airflow_provider_vineyard"):
        subject.free(row)
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "could not be freed" in message and "127.0.0.1:1" in message and "gc --orphans" in message
    row["vineyard"]["endpoint"] = endpoint_a
    subject.free(row)
    options(ipc_socket=path_a, rpc_endpoint=endpoint_a)
    with pytest.raises(vineyard_client.ObjectNotFound):
        subject.get(row)
