"""Which metrics there are, and that none of them fails a task."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

from airflow_provider_vineyard import stats as subject
from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.xcom import store as xcom_store
from vineyard_client import ConnectionFailed, UnsafeType

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

ORIGIN = Origin("etl", "r1", "extract", -1, "return_value")


# What a task's process does before and while a task runs: since 3.3 it says first where metrics go.
TASK = """
from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.xcom import store
if version_compat.airflow_version() >= (3, 3):
    from airflow.sdk.observability import stats
    from airflow.sdk.observability.metrics import stats_utils
    stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=True)
origin = Origin("etl", "r1", "extract", -1, "return_value")
for value in ((1, 2), bytes(200_000)):
    assert store.get(store.put(value, origin)) == value
"""


class Recorder:
    """A client for metrics, as somebody could have configured one."""

    def __init__(self) -> None:
        self.sent: List[Tuple[str, float, Dict[str, str]]] = []

    def incr(self, name: str, count: int = 1, rate: float = 1, *, tags: Any = None) -> None:
        """Keep it."""
        self.sent.append((name, count, tags or {}))

    def timing(self, name: str, dt: float, *, tags: Any = None) -> None:
        """Keep it."""
        self.sent.append((name, dt, tags or {}))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> List[Tuple[str, float, Dict[str, str]]]:
    """Return what is sent."""
    recorder = Recorder()
    monkeypatch.setattr(version_compat, "stats", lambda: recorder)
    return recorder.sent


def test_a_value_in_vineyard(store: Any, options: Callable[..., None], sent: List[Any], server: Any) -> None:
    """Place, bytes and duration, with the DAG as the tag where there are tags."""
    options(ipc_socket=server.socket, inline_threshold=0)
    row = xcom_store.put((1, 2), ORIGIN)
    xcom_store.get(row)
    names = [name for name, _, _ in sent]
    assert names == [f"vineyard.{verb}.{what}" for verb in ("put", "get") for what in ("store", "bytes", "duration")]
    assert {number for name, number, _ in sent if name.endswith("bytes")} == {row["vineyard"]["size"]}
    tags = {"dag_id": "etl"} if version_compat.has_tags() else {}
    assert all(each == tags for _, _, each in sent)


def test_a_value_in_its_row(options: Callable[..., None], sent: List[Any], tmp_path: Path) -> None:
    """No server is asked, and it is counted alone."""
    options(ipc_socket=tmp_path / "nowhere")
    xcom_store.get(xcom_store.put((1, 2), ORIGIN))
    assert [name for name, _, _ in sent] == ["vineyard.put.row", "vineyard.get.row"]


def test_errors(options: Callable[..., None], sent: List[Any], tmp_path: Path) -> None:
    """Those of core are counted by their class."""
    options(ipc_socket=tmp_path / "nowhere", inline_threshold=0)
    with pytest.raises(ConnectionFailed):
        xcom_store.put((1, 2), ORIGIN)
    with pytest.raises(UnsafeType):
        xcom_store.put(Recorder(), ORIGIN)
    names = [name for name, _, _ in sent]
    assert names == [
        *("vineyard.put.errors", "vineyard.errors.ConnectionFailed"),
        *("vineyard.put.errors", "vineyard.errors.UnsafeType"),
    ]


def test_metrics_that_cannot_be_sent(
    options: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """It is said once, and the value is stored."""

    class Broken(Recorder):
        def incr(self, name: str, count: int = 1, rate: float = 1, *, tags: Any = None) -> None:
            raise RuntimeError("no such server")

    options(ipc_socket=tmp_path / "nowhere")
    monkeypatch.setattr(version_compat, "stats", Broken)
    monkeypatch.setattr(subject, "_told", [False])
    with caplog.at_level(logging.WARNING):
        assert xcom_store.get(xcom_store.put((1, 2), ORIGIN)) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == ["Metrics of vineyard cannot be sent: no such server"]


@pytest.mark.skipif(version_compat.airflow_version() == (3, 2), reason="its task runner alone begins metrics")
def test_what_a_statsd_server_receives(store: Any, server: Any) -> None:
    """What a process puts and reads arrives over the network, through the client that Airflow itself has."""
    pytest.importorskip("statsd", reason="Airflow sends no metrics without it")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        env = {
            **os.environ,
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(listener.getsockname()[1]),
            "AIRFLOW__VINEYARD__IPC_SOCKET": server.socket,
        }
        subprocess.run([sys.executable, "-W", "ignore", "-c", TASK], env=env, check=True, stdout=subprocess.DEVNULL)
        received = {}
        while True:
            try:
                name, _, value = listener.recv(65536).decode().partition(":")
            except BlockingIOError:
                break
            if name.startswith("airflow.vineyard."):
                received[name[len("airflow.vineyard.") :]] = value
    for verb in ("put", "get"):
        assert received.pop(f"{verb}.row") == received.pop(f"{verb}.store") == "1|c"
        nbytes, duration = received.pop(f"{verb}.bytes"), received.pop(f"{verb}.duration")
        assert nbytes.endswith("|c") and int(nbytes[:-2]) >= 200_000
        assert duration.endswith("|ms") and float(duration[:-3]) > 0
    assert not received
