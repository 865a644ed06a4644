"""What a task pays that exchanges only small values: for plain JSON nothing at all, for others no more than core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List, Tuple

import pytest

pytestmark = pytest.mark.airflow

# Every attempt to open a socket, start a program or import core from when Airflow is there shows as an audit event.
TASK = """
import json, sys
from types import SimpleNamespace
import airflow
from airflow_provider_vineyard.xcom import VineyardXCom

seen = []

def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.posix_spawn"):
        seen.append(event)
    elif event == "import" and arguments[0].partition(".")[0] in ("vineyard_client", "numpy", "pandas", "pyarrow"):
        seen.append("import " + arguments[0])

sys.addaudithook(watch)
value = eval(sys.argv[1])
row = VineyardXCom.serialize_value(value, key="return_value", task_id="t", dag_id="d", run_id="r", map_index=-1)
result = SimpleNamespace(key="return_value", value=row)
same = VineyardXCom.deserialize_value(result) == value
if hasattr(VineyardXCom, "purge"):
    stored = json.loads(row) if isinstance(row, bytes) else row
    VineyardXCom.purge(SimpleNamespace(key="return_value", value=stored), None)
print(json.dumps([same, seen]))
"""


def _events(value: str, socket: str) -> Tuple[bool, List[str]]:
    """Return whether a value came back the same in a fresh process, and what that did."""
    env = {
        **os.environ,
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
        "AIRFLOW__VINEYARD__IPC_SOCKET": socket,
    }
    command = [sys.executable, "-W", "ignore", "-c", TASK, value]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same, seen = json.loads(done.stdout.splitlines()[-1])
    return same, seen


@pytest.mark.parametrize(
    "value", [None, True, 17, 0.25, "text", [1, [2]], {"rows": 17, "name": "flights", "parts": [None, {"a": 1}]}]
)
def test_small_values_need_no_vineyard(value: Any, tmp_path: Path) -> None:
    """What stays in the database is stored, read and freed although no server can be reached, and nobody tries to."""
    assert _events(repr(value), str(tmp_path / "nobody.sock")) == (True, [])


@pytest.mark.parametrize(
    "value",
    [
        "(1, 2)",
        "7956.495621360727",
        "{1: {2, 3}, None: b'x'}",
        "__import__('datetime').datetime(2024, 1, 1, tzinfo=__import__('datetime').timezone.utc)",
        "__import__('uuid').UUID(int=7)",
        "__import__('decimal').Decimal('1.50')",
    ],
)
def test_other_small_values_need_no_server(value: str, tmp_path: Path) -> None:
    """They are in their rows: core makes them, no data library is loaded, and nobody tries to reach a server."""
    same, seen = _events(value, str(tmp_path / "nobody.sock"))
    assert same
    assert {event for event in seen if not event.startswith("import vineyard_client")} == set()


@pytest.mark.integration
def test_other_values_are_noticed(server: Any) -> None:
    """A value that goes to vineyard is one that the watch of the test above sees."""
    same, seen = _events("tuple(range(5000))", server.socket)
    assert same
    assert "import vineyard_client" in seen
    assert "socket.connect" in seen
