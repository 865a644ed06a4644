"""How many bytes of a task's input lie where, from the tables of the Airflow that is installed."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

pytest.importorskip("sqlalchemy")
from vineyard_testing.metadata import Metadata, row  # noqa: E402

from airflow_provider_vineyard import version_compat  # noqa: E402
from airflow_provider_vineyard.placement import shares as subject  # noqa: E402
from airflow_provider_vineyard.placement.shares import Reader, by_endpoint, by_host, weigh  # noqa: E402

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.skipif(version_compat.airflow_version() < (2, 10), reason="placement is for Airflow 2.10 and newer"),
]

A, B = "10.0.0.1:9600", "10.0.0.2:9600"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    """Return empty tables, and forget the graphs of other tests."""
    monkeypatch.setattr(subject, "_graphs", {})
    made = Metadata()
    yield made
    made.close()


def reader(task_id: str, version: str = "", **more: Any) -> Reader:
    """Return a task instance of the DAG ``kinds``."""
    told = version if version and version_compat.is_airflow_3() else None
    return Reader(**{"dag_id": "kinds", "run_id": "r", "task_id": task_id, "version": told, **more})


def weighed(tables: Metadata, *readers: Reader, place_of: Any = by_endpoint) -> Any:
    """Return the shares of readers."""
    with tables.session() as session:
        return weigh(session, readers, place_of)


def test_bytes_by_place(tables: Metadata) -> None:
    """All inputs count, each where it was put; those of other runs, other keys and other tasks do not."""
    version = tables.dag()
    tables.xcom("clean", row(A, 100))
    tables.xcom("names", row(B, 10, host="b"))
    tables.xcom("extract", row(A, 1))
    tables.xcom("extract", row(B, 5000), run_id="another")
    tables.xcom("extract", row(B, 5000), key="part")
    tables.xcom("numbers", row(B, 5000))
    join = reader("join", version)
    assert weighed(tables, join) == {join: {A: 101, B: 10}}
    assert weighed(tables, join, place_of=by_host) == {join: {"a": 101, "b": 10}}


def test_a_batch(tables: Metadata) -> None:
    """Each reader has its own shares; one without input is left out; rows are asked for once."""
    version = tables.dag()
    tables.xcom("extract", row(A, 100))
    tables.xcom("extract", row(B, 7), run_id="r2")
    first, second = reader("clean", version), reader("clean", version, run_id="r2")
    nothing = reader("extract", version)
    tables.queries.clear()
    assert weighed(tables, first, second, nothing) == {first: {A: 100}, second: {B: 7}}
    assert sum("FROM xcom" in query for query in tables.queries) == 1
    tables.queries.clear()
    weighed(tables, first)
    graphs = [query for query in tables.queries if "FROM serialized_dag" in query and "data" in query]
    assert graphs == []


def test_mapped_tasks(tables: Metadata) -> None:
    """What is mapped over a value reads all of it; inside of a mapped group an element reads its own."""
    version = tables.dag()
    for index in range(3):
        tables.xcom("square", row(A if index else B, 10 + index), map_index=index)
        tables.xcom("each.first", row(B if index else A, 20 + index), map_index=index)
    total, element = reader("total", version), reader("each.second", version, map_index=1)
    assert weighed(tables, total, element) == {total: {A: 23, B: 10}, element: {B: 21}}


def test_rows_that_weigh_nothing(tables: Metadata) -> None:
    """Small values, other backends' rows, forged ones, and values that no other host can reach."""
    version = tables.dag()
    tables.xcom("clean", row(None, 100))
    tables.xcom("names", {"vineyard": {"v": 1, "size": 1 << 60, "endpoint": A}})
    join = reader("join", version)
    assert weighed(tables, join) == {}
    tables.xcom("extract", "o0016f0c2a4b1d3e5")
    assert weighed(tables, join) == {}


def test_an_upper_limit(tables: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many rows a part is read, which says as much."""
    monkeypatch.setattr(subject, "ROWS", 5)
    version = tables.dag()
    for index in range(9):
        tables.xcom("square", row(A, 10), map_index=index)
    total = reader("total", version)
    assert weighed(tables, total) == {total: {A: 50}}


def test_an_unknown_dag(tables: Metadata) -> None:
    """One that was deleted meanwhile has no graph, and its tasks no input."""
    assert weighed(tables, reader("clean", "00000000-0000-0000-0000-000000000000")) == {}


def test_a_dag_that_cannot_be_read(tables: Metadata, caplog: pytest.LogCaptureFixture) -> None:
    """It is a warning, once, and the tasks of others are weighed."""
    version = tables.dag("kinds", {"dag": {"tasks": "none"}})
    tables.xcom("extract", row(A, 100))
    clean = reader("clean", version)
    assert weighed(tables, clean) == weighed(tables, clean) == {}
    assert len([record for record in caplog.records if "cannot be placed" in record.getMessage()]) == 1


@pytest.mark.skipif(not version_compat.is_airflow_3(), reason="before Airflow 3 DAGs have no versions")
def test_the_version_is_looked_up(tables: Metadata) -> None:
    """Where Airflow does not tell it, as 3.0 does not, it is that of the task instance."""
    old, new = tables.dag(), tables.dag("kinds", {"dag": {"dag_id": "kinds", "tasks": []}})
    tables.instance("clean", old)
    tables.instance("clean", new, run_id="r2")
    tables.xcom("extract", row(A, 100))
    tables.xcom("extract", row(A, 100), run_id="r2")
    assert weighed(tables, reader("clean"), reader("clean", run_id="r2")) == {reader("clean"): {A: 100}}


@pytest.mark.skipif(version_compat.is_airflow_3(), reason="on Airflow 3 a version never changes")
def test_a_changed_dag_is_read_again(tables: Metadata) -> None:
    """Its hash tells."""
    tables.dag()
    tables.xcom("extract", row(A, 100))
    clean = reader("clean")
    assert weighed(tables, clean) == {clean: {A: 100}}
    with tables.engine.begin() as connection:
        connection.execute(tables._dags.delete())
    tables.dag("kinds", {"dag": {"dag_id": "kinds", "tasks": []}})
    assert weighed(tables, clean) == {}


def test_few_graphs_are_kept(tables: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go first."""
    monkeypatch.setattr(subject, "GRAPHS", 2)
    for name in "abc":
        version = tables.dag(name)
        weighed(tables, reader("clean", version, dag_id=name))
    assert len(subject._graphs) == 2
