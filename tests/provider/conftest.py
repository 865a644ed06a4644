"""An AIRFLOW_HOME of the tests' own, and a clean configuration and no cached client for each test.

Where Airflow is not installed, the pure modules are tested; where it is, those modules that are for its generation.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Iterator

import pytest

_PURE = {
    *("test_get_provider_info.py", "test_inline.py", "test_reference.py", "test_shown.py"),
    *("test_placement_graph.py", "test_placement_queues.py", "test_placement_rule.py"),
}


def _generation() -> int:
    try:
        return int(metadata.version("apache-airflow").partition(".")[0])
    except metadata.PackageNotFoundError:
        return 0


GENERATION = _generation()
_LEFT_OUT = ("VINEYARD_IPC_SOCKET", "VINEYARD_TIER", "AIRFLOW__CORE__XCOM_BACKEND")
_UNFIT = {2: {"test_backend_airflow3.py"}, 3: {"test_backend_airflow2.py"}}
collect_ignore = sorted(
    _UNFIT[GENERATION]
    if GENERATION in _UNFIT
    else {path.name for path in Path(__file__).parent.glob("test_*.py")} - _PURE
)

# Before Airflow is first imported, and directly below the system's folder: the path of a UNIX socket is short.
HOME = tempfile.mkdtemp(prefix="vp-")
os.environ["AIRFLOW_HOME"] = HOME
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


def pytest_configure(config: pytest.Config) -> None:
    """Let old releases of Airflow warn: what they use was deprecated after them."""
    if GENERATION == 2:
        config.addinivalue_line("filterwarnings", "ignore")


def pytest_unconfigure() -> None:
    """Remove the home, and end a server that was started in it."""
    socket = os.path.join(HOME, "vineyard", "vineyard.sock")
    if os.path.exists(socket):
        import vineyard_client

        vineyard_client.stop_server(socket, discard=True)
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def clean_configuration(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin each test without settings of vineyard, and forget what the test made the process remember."""
    for name in list(os.environ):
        if name.startswith("AIRFLOW__VINEYARD__") or name in _LEFT_OUT:
            monkeypatch.delenv(name)
    yield
    from airflow_provider_vineyard import clients, settings

    clients.close_clients()
    settings.get_settings.cache_clear()
    settings.get_placement.cache_clear()


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets options of ``[vineyard]``, as the environment does."""

    def set_options(**values: object) -> None:
        from airflow_provider_vineyard import settings

        for name, value in values.items():
            monkeypatch.setenv(f"AIRFLOW__VINEYARD__{name.upper()}", str(value))
        settings.get_settings.cache_clear()
        settings.get_placement.cache_clear()

    return set_options


@pytest.fixture
def store(server: Any, client: Any, options: Callable[..., None]) -> Any:
    """Return core's client of the server that the options name."""
    options(ipc_socket=server.socket)
    return client


@pytest.fixture
def backend() -> Any:
    """Return the backend's class for the Airflow that is installed."""
    from airflow_provider_vineyard.xcom import VineyardXCom

    return VineyardXCom


@pytest.fixture
def result() -> Callable[..., Any]:
    """Return a function that makes what Airflow passes to ``deserialize_value`` and ``purge``."""
    return lambda value, **more: SimpleNamespace(value=value, **more)
