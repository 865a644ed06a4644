"""What docs/migrating.md warns of: rows that the object storage backend wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.airflow

# Stores a value as a task with that backend does, and reads its row as a task with ours does.
_SWITCH = """
import json
from types import SimpleNamespace
from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend
from airflow_provider_vineyard.xcom import VineyardXCom
row = XComObjectStorageBackend.serialize_value(list(range(100)), key="k", dag_id="d", run_id="r", task_id="t")
backends = XComObjectStorageBackend, VineyardXCom
print(json.dumps([backend.deserialize_value(SimpleNamespace(key="k", value=row)) for backend in backends]))
"""


def test_rows_of_object_storage_are_paths(tmp_path: Path) -> None:
    """A task that pulls one after the switch receives the path of the file, as a text."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "VINEYARD_"))}
    env = {
        **inherited,
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{tmp_path}/xcoms",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "10",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run([sys.executable, "-c", _SWITCH], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, after = json.loads(done.stdout.splitlines()[-1])
    assert before == list(range(100))
    assert after.startswith(f"file://{tmp_path}/xcoms/d/r/t/")
