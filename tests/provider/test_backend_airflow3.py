"""Airflow 3's own ``set``, ``get_one``, ``get_all`` and ``delete`` with the backend in their middle.

The supervisor, which Airflow's task process talks to, is a dict here; messages go through the real classes, so what
Airflow would refuse is refused, and values pass through JSON as on their way to the database.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Callable, Dict, Tuple

import airflow.sdk.execution_time.xcom as resolved
import pytest
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import (
    DeleteXCom,
    GetXCom,
    GetXComSequenceSlice,
    SetXCom,
    XComResult,
    XComSequenceSliceResult,
)
from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

TI = {"dag_id": "etl", "task_id": "extract", "run_id": "r1"}


class Supervisor:
    """What stands between a task and the API server, with the rows of one database."""

    def __init__(self) -> None:
        self.rows: Dict[Tuple[str, int], Any] = {}

    def send(self, msg: Any) -> Any:
        """Answer as the supervisor does."""
        if isinstance(msg, SetXCom):
            sent = json.loads(msg.model_dump_json())
            self.rows[sent["key"], sent["map_index"]] = sent["value"]
            return None
        if isinstance(msg, GetXCom):
            index = -1 if msg.map_index is None else msg.map_index
            return XComResult(key=msg.key, value=self.rows.get((msg.key, index)))
        if isinstance(msg, GetXComSequenceSlice):
            return XComSequenceSliceResult(root=[row for (key, _), row in sorted(self.rows.items()) if key == msg.key])
        assert isinstance(msg, DeleteXCom)
        self.rows.pop((msg.key, -1 if msg.map_index is None else msg.map_index), None)
        return None

    async def asend(self, msg: Any) -> Any:
        """Answer likewise."""
        return self.send(msg)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, store: Any) -> Dict[Tuple[str, int], Any]:
    """Return the rows of the database that the task process talks to."""
    supervisor = Supervisor()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    return supervisor.rows


def test_set_and_get(backend: Any, rows: Any) -> None:
    """A value goes out as a plain JSON object and comes back as it was."""
    backend.set("return_value", (1, {2: "x"}), **TI)
    row = rows["return_value", -1]
    assert list(row) == ["vineyard"]
    assert backend.get_one(key="return_value", **TI) == (1, {2: "x"})


@pytest.mark.parametrize("value", [{"a": [1, None, 2.5]}, "text", 7, True, [], b"bytes", {1, 2}, 2**70, float("inf")])
def test_every_value_is_sent_as_json(backend: Any, rows: Any, value: Any) -> None:
    """Airflow sends JSON values only; bytes, tuples or sets in a row would fail the task."""
    backend.set("k", value, **TI)
    assert backend.get_one(key="k", **TI) == value


def test_none(backend: Any, rows: Any) -> None:
    """None is a small value."""
    backend.set("k", None, **TI)
    assert rows["k", -1] is None
    assert backend.get_one(key="k", **TI) is None


def test_get_all_map_indexes(backend: Any, rows: Any) -> None:
    """Each of several rows becomes its value, whether it is a reference or not."""
    for index, value in enumerate([(1, 2), "small", {3}]):
        backend.set("k", value, map_index=index, **TI)
    assert backend.get_all(key="k", **TI) == [(1, 2), "small", {3}]


def test_asynchronous_tasks(backend: Any, rows: Any) -> None:
    """Airflow 3.3's asynchronous methods call the same hooks."""
    if not hasattr(backend, "aset"):
        pytest.skip("this Airflow has no asynchronous methods")

    async def go() -> Any:
        await backend.aset("k", (1, 2), **TI)
        return await backend.aget_one(key="k", **TI)

    assert asyncio.run(go()) == (1, 2)


def test_delete_frees(backend: Any, rows: Any, store: Any) -> None:
    """Airflow deletes a task's old XComs before it runs again; their objects go with them."""
    backend.set("return_value", tuple(range(5000)), **TI)
    backend.set("small", 1, **TI)
    assert len(list(store.list())) == 1
    backend.delete(key="return_value", **TI)
    backend.delete(key="small", **TI)
    backend.delete(key="never set", **TI)
    assert rows == {}
    assert list(store.list()) == []


def test_delete_without_a_server(backend: Any, rows: Any, options: Callable[..., None]) -> None:
    """A task runs again even when its old values cannot be freed."""
    backend.set("return_value", (1, 2), **TI)
    options(ipc_socket="/nowhere/v.sock")
    backend.delete(key="return_value", **TI)
    assert rows == {}


def test_a_text_that_is_a_row(backend: Any, rows: Any) -> None:
    """A JSON text is a text, as REST clients of 3.0 and 3.1 and triggers write them; it is no reference."""
    text = json.dumps({"vineyard": {"v": 1}})
    rows["k", -1] = text
    assert backend.get_one(key="k", **TI) == text


def test_what_airflow_serialised_is_airflows_to_read(backend: Any, rows: Any) -> None:
    """Rows of the default backend with objects in them come back as the objects."""
    rows["k", -1] = {"__classname__": "builtins.tuple", "__version__": 1, "__data__": [1, 2]}
    assert backend.get_one(key="k", **TI) == (1, 2)


def test_a_lazy_sequence_is_stored_as_a_list(backend: Any, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task may return what it got from a mapped task; its rows are fetched with one request."""
    for index, value in enumerate([(1, 2), 3]):
        backend.set("return_value", value, map_index=index, **TI)

    class Argument:
        key = "return_value"
        operator = type("Operator", (), {"dag_id": "etl", "task_id": "extract"})

    monkeypatch.setattr(resolved, "XCom", backend)
    lazy: Any = LazyXComSequence(xcom_arg=Argument(), ti=type("TI", (), {"run_id": "r1"}))
    backend.set("again", lazy, **TI)
    assert backend.get_one(key="again", **TI) == [(1, 2), 3]
