"""``VineyardHook``: a connection's socket and credentials, and the form and test that the UI offers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable

import pytest

import airflow
from airflow_provider_vineyard.clients import get_client
from airflow_provider_vineyard.settings import get_settings
from vineyard_client import ConnectionFailed

pytestmark = [pytest.mark.airflow, pytest.mark.integration]


@pytest.fixture
def hook() -> Any:
    """Return the class."""
    from airflow_provider_vineyard.hooks.vineyard import VineyardHook

    return VineyardHook


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Return a function that defines an Airflow connection by its URI."""
    return lambda name, uri: monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", uri)


def test_what_airflow_asks_of_a_hook(hook: Any) -> None:
    """Airflow registers a connection type by these attributes."""
    assert (hook.conn_name_attr, hook.default_conn_name) == ("vineyard_conn_id", "vineyard_default")
    assert (hook.conn_type, hook.hook_name) == ("vineyard", "Vineyard")
    assert hook().vineyard_conn_id == "vineyard_default"


def test_form_fits_airflows_schema(hook: Any) -> None:
    """A form that does not is left out of the UI."""
    import jsonschema

    name = "customized_form_field_behaviours.schema.json"
    schema = json.loads((Path(airflow.__file__).parent / name).read_text())
    jsonschema.validate(hook.get_ui_field_behaviour(), schema)


def test_the_host_is_the_socket(hook: Any, server: Any, connection: Any) -> None:
    """A connection with a path needs no ``[vineyard]``."""
    connection("vineyard_default", f"vineyard://{server.socket.replace('/', '%2F')}")
    assert hook().get_conn().status().socket == server.socket


def test_without_a_host_the_options_decide(hook: Any, store: Any, connection: Any) -> None:
    """One connection can hold the credentials for hosts with different paths."""
    connection("mine", "vineyard://user:secret@")
    client = hook("mine").get_conn()
    assert client.status().socket == get_settings().ipc_socket
    assert client is not get_client(get_settings())


def test_without_a_connection(hook: Any, store: Any) -> None:
    """None is what ``[vineyard]`` configures, and the client that the backend uses."""
    client = hook(None).get_conn()
    assert client is get_client(get_settings())
    ref = client.put({"x": (1,)})
    assert client.get(ref) == {"x": (1,)}


def test_test_connection(hook: Any, server: Any, connection: Any) -> None:
    """It says what answered."""
    connection("vineyard_default", f"vineyard://{server.socket.replace('/', '%2F')}")
    works, message = hook().test_connection()
    assert works is True
    assert message.startswith("vineyardd ") and server.socket in message and "bytes in use" in message


def test_test_connection_fails(hook: Any, connection: Any) -> None:
    """It says why not, and raises nothing."""
    connection("vineyard_default", "vineyard://%2Fnowhere%2Fv.sock")
    works, message = hook().test_connection()
    assert works is False
    assert "ConnectionFailed" in message and "/nowhere/v.sock" in message
    with pytest.raises(ConnectionFailed):
        hook().get_conn()
    assert not os.path.exists("/nowhere")
