"""One client for each server and credentials in a process, and the embedded server behind it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

import vineyard_client
from airflow_provider_vineyard.clients import close_clients, get_client
from airflow_provider_vineyard.settings import Settings, get_settings
from vineyard_client import ConnectionFailed

pytestmark = [pytest.mark.airflow, pytest.mark.integration]


@pytest.fixture
def embedded() -> Iterator[Settings]:
    """Return settings of an embedded server in a folder of its own; a server that was started there is stopped."""
    folder = Path(tempfile.mkdtemp(prefix="vp-"))
    socket = str(folder / "v" / "vineyard.sock")
    yield get_settings()._replace(ipc_socket=socket, size="64Mi", tier=(str(folder / "values"),))
    if os.path.exists(socket):
        vineyard_client.stop_server(socket)
    shutil.rmtree(folder)


def test_the_same_client_again(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting is done once; other credentials are another client."""
    client = get_client(get_settings())
    assert get_client(get_settings(), username="u", password="p") is not client
    with monkeypatch.context() as patch:
        patch.setattr(vineyard_client, "connect", None)
        assert get_client(get_settings()) is client


def test_closing_forgets(store: Any) -> None:
    """After ``close_clients`` a new one is made."""
    client = get_client(get_settings())
    close_clients()
    assert get_client(get_settings()) is not client
    with pytest.raises(ConnectionFailed):
        client.status()


def test_a_configured_socket_is_never_started(options: Callable[..., None], tmp_path: Path) -> None:
    """It belongs to a server that somebody else runs."""
    options(ipc_socket=tmp_path / "v.sock", autostart="True")
    with pytest.raises(ConnectionFailed):
        get_client(get_settings())
    assert list(tmp_path.iterdir()) == []


def test_the_embedded_server_is_started_on_demand(embedded: Settings) -> None:
    """The first who needs it starts it, with the configured size."""
    client = get_client(embedded)
    assert client.status().memory_limit == 64 << 20
    assert client.get(client.put((1, 2))) == (1, 2)


@pytest.mark.parametrize("saved", [True, False], ids=["as it is", "without a tier"])
def test_a_stopped_embedded_server_is_started_again(embedded: Settings, saved: bool) -> None:
    """Stopped in the middle of a run, it costs an error at most, and comes back empty; values are in the folder."""
    settings = embedded if saved else embedded._replace(tier=())
    client = get_client(settings)
    ref = client.put((1, 2))
    vineyard_client.stop_server(settings.ipc_socket)
    close_clients()
    again = get_client(settings)
    assert list(again.list()) == []
    assert again.exists(ref) == saved
    assert not saved or again.get(ref) == (1, 2)


@pytest.mark.parametrize("how", ["not for this call", "autostart off"])
def test_the_embedded_server_is_not_started(embedded: Settings, how: str) -> None:
    """``purge`` starts none, and nobody does where autostart is off."""
    with pytest.raises(ConnectionFailed):
        if how == "autostart off":
            get_client(embedded._replace(autostart=False))
        else:
            get_client(embedded, start=False)
    assert not os.path.exists(embedded.ipc_socket)


def test_a_size_that_core_refuses(embedded: Settings) -> None:
    """The message names the option."""
    from airflow.exceptions import AirflowConfigException

    with pytest.raises(AirflowConfigException, match=r"\[vineyard\] size cannot be used: .*at least 1Mi"):
        get_client(embedded._replace(size="10"))
