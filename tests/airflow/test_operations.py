"""The commands in real Airflow: a store that a DAG filled is looked at, cleaned by the maintenance DAG, and ended."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

import pytest

import vineyard_client

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.integration,
    pytest.mark.needs((3, 2), reason="a provider cannot extend its command line"),
]


@pytest.fixture(scope="module")
def filled(home: Any) -> Any:
    """Return a home in which a DAG has stored frames, one row of which was deleted since."""
    home.run("airflow", "dags", "test", "v6d_dag", AIRFLOW__VINEYARD__INLINE_THRESHOLD="0")
    database = sqlite3.connect(home.path / "airflow.db")
    with database:
        deleted = database.execute("delete from xcom where dag_id = 'v6d_dag' and task_id = 'measure'").rowcount
    database.close()
    assert deleted == 1
    return home


def objects(home: Any) -> set[str]:
    """Return the ids of all XComs in the store; beside them is a note of which database their rows are in."""
    with vineyard_client.connect(str(home.socket)) as client:
        return {info.ref.id for info in client.list() if "dag_id" in info.labels}


def test_doctor_finds_nothing(filled: Any) -> None:
    """An installation with nothing but the backend configured is healthy."""
    found = json.loads("\n".join(filled.run("airflow", "vineyard", "doctor", "--json").printed))
    assert found["healthy"] and {check["result"] for check in found["checks"]} == {"ok"}


def test_the_maintenance_dag_frees_orphans(filled: Any) -> None:
    """What has a row stays. By default it would leave alone what is younger than an hour."""
    held = [row.value["vineyard"] for row in filled.xcoms("v6d_dag") if "vineyard" in row.text]
    rows = {row["id"] for row in held if "id" in row}
    assert rows < objects(filled)
    output = filled.run("airflow", "dags", "test", "vineyard_maintenance", "--conf", '{"grace": "0s"}')
    assert any("Freed 1 objects, " in event for event in [*output.events(""), *output.printed])
    assert objects(filled) == rows


def test_status_and_stop(filled: Any) -> None:
    """The program for all releases says the same; after ``stop`` there is no server."""
    (line,) = [line for line in filled.run("airflow-vineyard", "status").printed if line.startswith("v6d_dag")]
    assert int(line.split()[1]) == len(objects(filled))
    filled.run("airflow-vineyard", "stop")
    with pytest.raises(vineyard_client.ConnectionFailed):
        vineyard_client.connect(str(filled.socket), autostart=False)
    filled.socket.unlink(missing_ok=True)  # vineyardd leaves it when it had to be killed
