"""What differs on Airflow 2: bytes of JSON in the row, what web pages show, and who frees what a re-run replaces."""

from __future__ import annotations

import json
import pickle
from types import SimpleNamespace
from typing import Any, Callable, Tuple

import pytest

from airflow_provider_vineyard import version_compat

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

VERSION = version_compat.airflow_version()

# More than stays in the database.
LARGE = tuple(range(5000))


def test_a_row_is_bytes_of_json(backend: Any, store: Any) -> None:
    """Other bytes break ``clear`` in 2.9 and later, and the migration to Airflow 3."""
    stored = backend.serialize_value((1, 2), key="k")
    assert isinstance(stored, bytes)
    assert list(json.loads(stored)) == ["vineyard"]


def test_pickled_rows(backend: Any, store: Any, monkeypatch: pytest.MonkeyPatch, result: Callable[..., Any]) -> None:
    """With enable_xcom_pickling small values are pickled as ever, references stay JSON, and both are read."""
    monkeypatch.setenv("AIRFLOW__CORE__ENABLE_XCOM_PICKLING", "True")
    for value in (1, "x", {"a": 1}, (1, 2), LARGE):
        assert backend.deserialize_value(result(backend.serialize_value(value, key="k"))) == value
    assert backend.serialize_value({"a": 1}, key="k")[:1] == b"\x80"
    for value in ((1, 2), LARGE):
        assert backend.serialize_value(value, key="k").startswith(b'{"vineyard"')


def test_pickled_rows_with_the_option_off(backend: Any, result: Callable[..., Any]) -> None:
    """The error says what to do; web pages are as ever."""
    with pytest.raises(ValueError, match=r"XCom 'k' was pickled while .* enable_xcom_pickling was on, and that is off"):
        backend.deserialize_value(result(pickle.dumps({"a": 1}), key="k"))


def test_web_pages_show_the_row(backend: Any, options: Callable[..., None], store: Any) -> None:
    """They show it without vineyard, and small values as ever."""
    reference, small = (backend.serialize_value(value, key="k") for value in ((1, 2), {"a": 1}))
    options(ipc_socket="/nowhere/v.sock")
    shown = backend.orm_deserialize_value(SimpleNamespace(value=reference))
    assert shown == json.loads(reference)
    assert backend.orm_deserialize_value(SimpleNamespace(value=small)) == {"a": 1}


def test_purge_takes_raw_and_decoded_rows(backend: Any, store: Any, result: Callable[..., Any]) -> None:
    """Airflow 2.9 to 2.11 pass the row as the base class decoded it."""
    for decode in (bytes, json.loads):
        backend.purge(result(decode(backend.serialize_value((1, 2), key="k"))), None)
        stored = backend.serialize_value(LARGE, key="k")
        backend.purge(result(decode(stored)), None)
        assert list(store.list()) == []


@pytest.fixture
def cleared(backend: Any, store: Any, monkeypatch: pytest.MonkeyPatch) -> Tuple[Any, Any]:
    """Return a session on a database that has one row with a reference, and the arguments that clear it."""
    if VERSION == (2, 1):
        pytest.skip("Airflow 2.1 has no clear")
    from airflow.models.dagrun import DagRun
    from airflow.utils import timezone
    from sqlalchemy import Column, MetaData, Table, create_engine
    from sqlalchemy.orm import sessionmaker

    base = version_compat.base_xcom()
    engine = create_engine("sqlite://")
    for table in (base.__table__, DagRun.__table__):
        # Without the foreign keys, which lead to all other tables.
        columns = [Column(column.name, column.type, primary_key=column.primary_key) for column in table.columns]
        Table(table.name, MetaData(), *columns).create(engine)
    session = sessionmaker(bind=engine)()
    stored = backend.serialize_value(LARGE, key="k", dag_id="d", task_id="t", run_id="r")
    moment = timezone.datetime(2022, 1, 1)
    row = {"key": "k", "value": stored, "dag_id": "d", "task_id": "t", "timestamp": moment}
    which = {"dag_id": "d", "task_id": "t"}
    if VERSION < (2, 3):
        row["execution_date"] = which["execution_date"] = moment
    else:
        row.update(run_id="r", dag_run_id=1, map_index=-1)
        which["run_id"] = "r"
    session.execute(base.__table__.insert().values(**row))
    return session, which


def test_clear_frees(backend: Any, store: Any, cleared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A re-run deletes the row, and its object goes with it."""
    import airflow.models.xcom as models

    monkeypatch.setattr(models, "XCom", backend)
    session, which = cleared
    assert len(list(store.list())) == 1
    backend.clear(session=session, **which)
    assert session.query(version_compat.base_xcom().key).all() == []
    assert list(store.list()) == []


def test_clear_never_fails(
    backend: Any, store: Any, cleared: Any, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server the row is deleted all the same."""
    import airflow.models.xcom as models

    monkeypatch.setattr(models, "XCom", backend)
    session, which = cleared
    options(ipc_socket="/nowhere/v.sock")
    backend.clear(session=session, **which)
    assert session.query(version_compat.base_xcom().key).all() == []


@pytest.mark.skipif(VERSION > (2, 2), reason="later releases tell serialize_value which XCom it is")
def test_set_tells_what_airflow_does_not(backend: Any, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 2.1 and 2.2 the object is labelled with key, task and DAG; Airflow's own keys stay inline."""
    written = []
    base = version_compat.base_xcom()

    def set_(cls: Any, key: str, value: Any, task_id: str, dag_id: str, **more: Any) -> None:
        written.append(cls.serialize_value(value))

    monkeypatch.setattr(base, "set", classmethod(set_))
    backend.set(key="k", value=LARGE, task_id="t", dag_id="d")
    (info,) = store.list()
    assert info.labels == {"key": "k", "task_id": "t", "dag_id": "d", "airflow": "airflow"}
    backend.set(key="skipmixin_key", value={"followed": ["x" * 9000]}, task_id="t", dag_id="d")
    assert json.loads(written[-1]) == {"followed": ["x" * 9000]}


@pytest.mark.skipif(VERSION > (2, 1), reason="later releases return the value")
def test_get_one_returns_the_value(backend: Any, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On 2.1 the base class returns what web pages show."""
    for value in ((1, 2), LARGE):
        row = json.loads(backend.serialize_value(value, key="k"))
        monkeypatch.setattr(version_compat.base_xcom(), "get_one", classmethod(lambda cls, row=row, **_: row))
        assert backend.get_one(key="k") == value
