"""What ``gc`` frees: garbage, orphans and old objects of this deployment, and never a value that a row refers to."""

from __future__ import annotations

import contextlib
import json
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, ContextManager, Dict, Iterator, List

import pytest
from vineyard_testing.metadata import session_of

import vineyard_client
from airflow_provider_vineyard import identity, rows, version_compat
from airflow_provider_vineyard import orphans as subject
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.status import get_status
from airflow_provider_vineyard.xcom import store as xcoms
from vineyard_client import ObjectInfo, ObjectRef

sqlalchemy = pytest.importorskip("sqlalchemy")

pytestmark = [pytest.mark.airflow, pytest.mark.integration]


@pytest.fixture(autouse=True)
def everything_goes_to_vineyard(options: Callable[..., None]) -> None:
    """Keep nothing in the rows, so that small values will do."""
    options(inline_threshold=0)


NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
AT_ONCE = timedelta(0)


class Table:
    """Airflow's database, as far as it is read: of its table of XComs the column ``value``, as this release has it."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        metadata = sqlalchemy.MetaData()
        kind = version_compat.xcom_model().__table__.c.value.type
        self._table = sqlalchemy.Table("xcom", metadata, sqlalchemy.Column("value", kind))
        self._dags = sqlalchemy.Table("dag", metadata, sqlalchemy.Column("dag_id", sqlalchemy.String(250)))
        sqlalchemy.Table("dag_run", metadata, sqlalchemy.Column("dag_id", sqlalchemy.String(250)))
        columns = version_compat.variable_model().__table__.columns
        kept = [sqlalchemy.Column(column.name, column.type, primary_key=column.primary_key) for column in columns]
        sqlalchemy.Table("variable", metadata, *kept)
        metadata.create_all(engine)
        self.values: List[Any] = []

    def know(self, *dag_ids: str) -> None:
        """Have these DAGs, and no others."""
        with self.engine.begin() as connection:
            connection.execute(self._dags.delete())
            for dag_id in dag_ids:
                connection.execute(self._dags.insert().values(dag_id=dag_id))

    def write(self, *values: Any) -> None:
        """Replace all rows; JSON goes in as this release writes it."""
        self.values = list(values)
        with self.engine.begin() as connection:
            connection.execute(self._table.delete())
            for value in values:
                stored = value if version_compat.is_airflow_3() else json.dumps(value).encode()
                connection.execute(self._table.insert().values(value=stored))

    def session(self) -> ContextManager[Any]:
        """Give a session of this database, as Airflow's ``create_session`` does."""
        return session_of(self.engine)


@pytest.fixture
def other(table: Table) -> Iterator[Table]:
    """Return another database, which knows nothing."""
    from sqlalchemy.pool import StaticPool

    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    yield Table(engine)
    engine.dispose()


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    """Return a database of the test's own, which is what the provider reads; it knows the DAGs of these tests."""
    from sqlalchemy.pool import StaticPool

    engine = sqlalchemy.create_engine("sqlite://", poolclass=StaticPool)
    table = Table(engine)
    table.know("etl", "report")
    monkeypatch.setattr(version_compat, "create_session", table.session)
    yield table
    engine.dispose()


def put(value: Any, dag_id: str = "etl") -> Dict[str, Any]:
    """Store a value as the backend does and return its row."""
    return xcoms.put(value, Origin(dag_id, "r1", "extract", -1, "return_value"))


def id_of(row: Dict[str, Any]) -> str:
    """Return the object's id."""
    return str(row["vineyard"]["id"])


def reasons(freed: List[subject.Freed]) -> Dict[str, str]:
    """Return the reasons by object."""
    return {found.info.ref.id: found.reason for found in freed}


def info(age: timedelta, **more: Any) -> ObjectInfo:
    """Return what the store says of an object of that age."""
    ref = ObjectRef("o0000000000000001", "0" * 32, None, "bytes", 1)
    return ObjectInfo(ref, "", {}, NOW - age, "host", "/s", **more)


def test_what_has_no_row_is_freed(store: Any, table: Table) -> None:
    """An object whose row is there stays and can be read; the other one goes."""
    kept, orphan = put((1, 2)), put(b"x" * 200_000)
    table.write(kept, {"a": 1}, None, "text")
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == {id_of(orphan): "orphan"}
    assert xcoms.get(kept) == (1, 2)
    with pytest.raises(vineyard_client.ObjectNotFound):
        xcoms.get(orphan)
    assert subject.free_unneeded(orphans=True, grace=AT_ONCE) == []


def test_a_row_counts_that_does_not_own_its_object(store: Any, table: Table) -> None:
    """A reference that was passed on keeps the object."""
    row = put((1, 2))
    passed_on = {"vineyard": {**row["vineyard"], "owned": False}}
    table.write(passed_on)
    assert subject.free_unneeded(orphans=True, grace=AT_ONCE) == []


def test_the_token_counts_not_the_id(store: Any, table: Table) -> None:
    """A row of an earlier value with the same id keeps nothing."""
    row = put((1, 2))
    table.write({"vineyard": {**row["vineyard"], "token": "0" * 32}})
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == {id_of(row): "orphan"}


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        {"vineyard": None},
        {"vineyard": {"token": 5}},
        {"vineyard": {}},
        {"vineyard": {}, "more": 1},
        [1],
        "",
    ],
)
def test_other_values_do_not_disturb(store: Any, table: Table, value: Any) -> None:
    """Whatever else stands in the table, the rows of ours are found."""
    row = put((1, 2))
    table.write(value, row, value)
    assert subject.free_unneeded(orphans=True, grace=AT_ONCE) == []


@pytest.mark.skipif(version_compat.is_airflow_3(), reason="the column is JSON")
@pytest.mark.parametrize("stored", [b'{"vineyard" and no more', b"\x80\x04K\x01.", None])
def test_other_bytes_do_not_disturb(store: Any, table: Table, stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles and rubbish are passed over."""
    row = put((1, 2))
    table.write(row)
    with table.engine.begin() as connection:
        connection.execute(table._table.insert().values(value=stored))
    assert subject.free_unneeded(orphans=True, grace=AT_ONCE) == []


def test_many_rows_are_read_in_pages(store: Any, table: Table) -> None:
    """What is found on the last page counts, too."""
    row = put((1, 2))
    others = [{"vineyard": {**row["vineyard"], "token": f"{number:032x}"}} for number in range(2_500)]
    table.write(*others, row)
    assert subject.referenced({row["vineyard"]["token"]}) == {row["vineyard"]["token"]}
    assert subject.referenced(set()) == set()


def test_a_young_object_is_no_orphan(store: Any, table: Table) -> None:
    """Its row may be about to be written."""
    put((1, 2))
    assert subject.free_unneeded(orphans=True) == []
    assert subject.free_unneeded(orphans=True, older_than=timedelta(days=7), grace=AT_ONCE) == []


def test_the_grace_period_ends() -> None:
    """From its end on the object may be an orphan; a replica never is."""
    hour = timedelta(hours=1)
    young, old, replica = info(hour - timedelta(seconds=1)), info(hour), info(2 * hour, origin="other:9600")
    assert subject.candidates([young, old, replica], now=NOW, min_age=hour) == [old]


def test_objects_are_listed_before_the_rows_are_read(store: Any, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that is put and whose row is written in between is not taken for an orphan."""
    read = subject.referenced
    rows: List[Any] = []

    def late(tokens: Any) -> Any:
        rows.append(put((3, 4)))
        return read(tokens)

    monkeypatch.setattr(subject, "referenced", late)
    subject.free_unneeded(orphans=True, grace=AT_ONCE)
    assert xcoms.get(rows[0]) == (3, 4)


def test_only_objects_of_this_deployment(store: Any, table: Table, options: Callable[..., None]) -> None:
    """What another deployment or a task itself put into the store stays."""
    mine = put((1, 2))
    own = store.put((3, 4), labels={"dag_id": "etl"})
    options(deployment="other")
    others = put((5, 6))
    options(deployment="airflow")
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == {id_of(mine): "orphan"}
    assert store.get(own) == (3, 4)
    assert xcoms.get(others) == (5, 6)
    assert subject.free_unneeded(older_than=AT_ONCE, dag_id="nothing") == []
    options(deployment="other")
    assert reasons(subject.free_unneeded(older_than=AT_ONCE)) == {id_of(others): "expired"}
    assert store.exists(own)


def test_only_one_dag(store: Any, table: Table) -> None:
    """Orphans of other DAGs stay."""
    mine, other = put((1, 2), "etl"), put((3, 4), "report")
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE, dag_id="etl")) == {id_of(mine): "orphan"}
    assert xcoms.get(other) == (3, 4)


def test_old_objects_go_whether_a_row_refers_to_them_or_not(store: Any, table: Table) -> None:
    """``older_than`` alone needs no database; with ``orphans`` it spares what has a row."""
    row = put((1, 2))
    table.write(row)
    assert subject.free_unneeded(orphans=True, older_than=AT_ONCE, grace=AT_ONCE) == []
    assert subject.free_unneeded(older_than=timedelta(hours=1)) == []
    table.engine.dispose()
    assert reasons(subject.free_unneeded(older_than=AT_ONCE)) == {id_of(row): "expired"}


@pytest.mark.parametrize("arguments", [{}, {"dag_id": "etl"}, {"dry_run": True}, {"older_than": AT_ONCE}])
def test_a_database_that_knows_nothing_of_the_objects(
    store: Any, other: Table, monkeypatch: pytest.MonkeyPatch, arguments: Dict[str, Any]
) -> None:
    """An empty file that Airflow has just made, or the database of somebody else, decides over nothing."""
    row = put((1, 2))
    monkeypatch.setattr(version_compat, "create_session", other.session)
    other.know("another")
    with pytest.raises(
        subject.UnknownDatabase, match=r"knows none of their 1 DAGs: nothing was freed.*--trust-database"
    ):
        subject.free_unneeded(orphans=True, grace=AT_ONCE, **arguments)
    assert xcoms.get(row) == (1, 2)
    assert list(store.list(labels={identity.NOTE_LABEL: "airflow"})) == []


def test_a_database_is_known_again(store: Any, table: Table, other: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once it has shown that it is the right one, it needs no row and no DAG any more; and no other one will do."""
    kept, first = put((1, 2)), put((3, 4))
    table.write(kept)
    table.know()
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == {id_of(first): "orphan"}
    table.write()
    monkeypatch.setattr(version_compat, "create_session", other.session)
    other.know("etl")
    with pytest.raises(subject.UnknownDatabase, match="this one is without an id: nothing was freed"):
        subject.free_unneeded(orphans=True, grace=AT_ONCE)
    assert xcoms.get(kept) == (1, 2)
    monkeypatch.setattr(version_compat, "create_session", table.session)
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == {id_of(kept): "orphan"}


def test_somebody_says_that_it_is_the_right_one(
    store: Any, table: Table, other: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then that is the database from now on, and the earlier one is not."""
    put((1, 2))
    assert len(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == 1
    row = put((1, 2))
    monkeypatch.setattr(version_compat, "create_session", other.session)
    plan = {"orphans": True, "grace": AT_ONCE, "trust_database": True}
    assert reasons(subject.free_unneeded(**plan, dry_run=True)) == {id_of(row): "orphan"}
    assert reasons(subject.free_unneeded(**plan)) == {id_of(row): "orphan"}
    put((3, 4))
    assert len(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == 1
    assert len(list(store.list(labels={identity.NOTE_LABEL: "airflow"}))) == 1
    put((5, 6))
    monkeypatch.setattr(version_compat, "create_session", table.session)
    with pytest.raises(subject.UnknownDatabase, match="belong to the database"):
        subject.free_unneeded(orphans=True, grace=AT_ONCE)


def test_each_deployment_has_its_database(
    store: Any, table: Table, other: Table, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two on one store, with names of their own, do not get in each other's way."""
    put((1, 2))
    subject.free_unneeded(orphans=True, grace=AT_ONCE)
    options(deployment="second")
    monkeypatch.setattr(version_compat, "create_session", other.session)
    other.know("etl")
    put((1, 2))
    assert len(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == 1


def test_the_note_is_no_garbage(store: Any, table: Table) -> None:
    """It is neither old nor an orphan, and no value of anybody's."""
    put((1, 2))
    subject.free_unneeded(orphans=True, grace=AT_ONCE)
    assert subject.free_unneeded(older_than=AT_ONCE) == []
    assert subject.free_unneeded(orphans=True, grace=AT_ONCE) == []
    assert get_status().others == (0, 0) and get_status().xcoms == {}


def test_dry_run_frees_nothing(store: Any, table: Table) -> None:
    """What it names is what the real run frees."""
    row = put(b"x" * 200_000)
    planned = subject.free_unneeded(orphans=True, grace=AT_ONCE, dry_run=True)
    assert reasons(planned) == {id_of(row): "orphan"}
    assert reasons(subject.free_unneeded(older_than=AT_ONCE, dry_run=True)) == {id_of(row): "expired"}
    assert xcoms.get(row) == b"x" * 200_000
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == reasons(planned)


def test_readers_keep_what_is_freed(store: Any, table: Table) -> None:
    """The memory stays until they are done, and is then freed as garbage by the next run."""
    pattern = bytes(range(256)) * 4096
    row = put(memoryview(pattern))
    value = xcoms.get(row)
    before = store.status().memory_used
    assert reasons(subject.free_unneeded(orphans=True, grace=AT_ONCE)) == {id_of(row): "orphan"}
    for number in range(4):
        put(bytes([number]) * len(pattern))
    assert value == pattern
    del value
    freed = subject.free_unneeded()
    assert [found.reason for found in freed] == ["deleted"]
    assert store.status().memory_used < before + 5 * len(pattern)


def test_no_table(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that cannot be read never count as "no rows": nothing is freed, and the message says what to do."""
    row = put((1, 2))
    engine = sqlalchemy.create_engine("sqlite://")

    @contextlib.contextmanager
    def empty() -> Iterator[Any]:
        from sqlalchemy.orm import Session

        session = Session(bind=engine)
        yield session
        session.close()

    monkeypatch.setattr(version_compat, "create_session", empty)
    with pytest.raises(subject.DatabaseUnavailable, match=r"no such table: xcom.*SQL_ALCHEMY_CONN"):
        subject.free_unneeded(orphans=True, grace=AT_ONCE)
    assert xcoms.get(row) == (1, 2)
    engine.dispose()


def test_no_session(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of Airflow 3 has none; that shows at once, not only when there is an orphan."""

    def blocked() -> Any:
        raise RuntimeError("Direct database access via the ORM is not allowed in Airflow 3.0")

    monkeypatch.setattr(version_compat, "create_session", blocked)
    with pytest.raises(subject.DatabaseUnavailable, match=r"not allowed in Airflow 3\.0"):
        subject.free_unneeded(orphans=True)
    assert subject.free_unneeded() == []


def test_no_embedded_server() -> None:
    """A server that does not run has nothing to free, and is not started."""
    assert get_settings().embedded
    assert subject.free_unneeded(orphans=True) == []


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("postgresql", ["jsonb_extract_path_text(xcom.value, 'vineyard')", "IS NOT NULL"]),
        ("mysql", ["json_unquote(json_extract(xcom.value, '$.vineyard'))", "IS NOT NULL"]),
    ],
)
@pytest.mark.skipif(not version_compat.is_airflow_3(), reason="the column is bytes")
def test_the_database_picks_the_rows(dialect: str, expected: List[str]) -> None:
    """Where the column is JSON that the database understands, only our rows are sent here."""
    from sqlalchemy.dialects import mysql, postgresql
    from sqlalchemy.orm import Session

    kind = {"postgresql": postgresql, "mysql": mysql}[dialect]
    query = rows._by_path(Session(), version_compat.xcom_model().value, dialect, ())
    compiled = query.statement.compile(dialect=kind.dialect(paramstyle="named"), compile_kwargs={"literal_binds": True})
    for part in expected:
        assert part in str(compiled)
