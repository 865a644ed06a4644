"""What is saved is looked after: ``save`` for what was there before, ``gc`` in the tier, moving it, turning it off."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List

import pytest
from vineyard_testing.metadata import session_of

from airflow_provider_vineyard import cli, orphans, version_compat
from airflow_provider_vineyard.clients import close_clients
from airflow_provider_vineyard.reference import Origin, RowReference
from airflow_provider_vineyard.rows import DatabaseUnavailable
from airflow_provider_vineyard.saving import save_values
from airflow_provider_vineyard.status import get_status
from airflow_provider_vineyard.version_compat import config_exception
from airflow_provider_vineyard.xcom import store as xcoms
from vineyard_client import EmbeddedServer, ObjectNotFound

sqlalchemy = pytest.importorskip("sqlalchemy")

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

AT_ONCE = timedelta(0)


class Database:
    """Airflow's tables of XComs, variables, DAGs and runs, with their columns and without their foreign keys."""

    def __init__(self, path: Path) -> None:
        self.engine = sqlalchemy.create_engine(f"sqlite:///{path}")
        metadata = sqlalchemy.MetaData()
        self.xcom = self._copied(metadata, version_compat.xcom_model().__table__)
        self._copied(metadata, version_compat.variable_model().__table__)
        for model in version_compat.dag_models():
            sqlalchemy.Table(model.__tablename__, metadata, sqlalchemy.Column("dag_id", sqlalchemy.String(250)))
        metadata.create_all(self.engine)
        self._written = 0

    @staticmethod
    def _copied(metadata: Any, table: Any) -> Any:
        columns = [sqlalchemy.Column(c.name, c.type, primary_key=c.primary_key) for c in table.columns]
        return sqlalchemy.Table(table.name, metadata, *columns)

    def write(self, row: Dict[str, Any], origin: Origin) -> None:
        """Write the row of an XCom, as this release does."""
        self._written += 1
        known = {name: value for name, value in origin._asdict().items() if name in self.xcom.c}
        at = datetime.now(timezone.utc)
        more = {"dag_run_id": 1, "timestamp": at, "execution_date": at}
        stored = row if version_compat.is_airflow_3() else json.dumps(row).encode()
        values = {**known, **{name: value for name, value in more.items() if name in self.xcom.c}, "value": stored}
        with self.engine.begin() as connection:
            connection.execute(self.xcom.insert().values(**values))

    def rows(self) -> Dict[str, Any]:
        """Return what is in the rows, by key."""
        columns = [self.xcom.c.key, self.xcom.c.value]
        query = (
            sqlalchemy.select(*columns) if version_compat.airflow_version() >= (2, 11) else sqlalchemy.select(columns)
        )
        with self.engine.connect() as connection:
            found = connection.execute(query).fetchall()
        return {key: value if isinstance(value, dict) else json.loads(value) for key, value in found}

    def forget(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(self.xcom.delete())

    def session(self) -> ContextManager[Any]:
        """Give a session of this database, as Airflow's ``create_session`` does."""
        return session_of(self.engine)


class Place:
    """A server and a tier of a test's own, and a database."""

    def __init__(self, folder: Path, options: Callable[..., None], database: Database) -> None:
        self.folder, self.options, self.database = folder, options, database
        self.socket = str(folder / "s")
        self.values = folder / "values"
        self.server = EmbeddedServer("32Mi", socket=self.socket).start()

    def use(self, *tiers: object, **more: object) -> None:
        close_clients()
        self.options(ipc_socket=self.socket, tier=" ".join(map(str, tiers)) or "none", inline_threshold=0, **more)

    def put(self, value: object, key: str = "return_value", dag_id: str = "etl") -> Dict[str, Any]:
        """Store a value and write its row."""
        origin = Origin(dag_id, "r1", "extract", -1, key)
        row = xcoms.put(value, origin)
        self.database.write(row, origin)
        return row

    def restart(self) -> None:
        close_clients()
        self.server.stop()
        self.server = EmbeddedServer("32Mi", socket=self.socket).start()

    def files(self, folder: Any = None) -> List[str]:
        top = folder or self.values
        return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


@pytest.fixture
def place(tmp_path: Path, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    database = Database(tmp_path / "db")
    monkeypatch.setattr(version_compat, "create_session", database.session)
    made = Place(tmp_path, options, database)
    yield made
    close_clients()
    made.server.stop()
    database.engine.dispose()


# ---- save


def test_save(place: Place) -> None:
    """What was put without a tier is saved, and its rows lead to it; nothing else changes in them."""
    place.use()
    frame = bytes(200_000)
    member = place.put(frame, key="frame")
    whole = place.put({"frame": frame, "number": 5})
    place.put((1, 2), key="pair", dag_id="other")
    assert whole["vineyard"]["parts"] and whole["vineyard"]["durable"] == "no"
    place.use(place.values)
    done = save_values(dry_run=True)
    assert (done.saved, done.already, done.elsewhere, place.files()) == (3, 0, 0, [])
    assert place.database.rows()["frame"] == member
    assert save_values(dag_id="etl")._replace(bytes=0) == (str(place.values), 2, 0, 0, 0)
    assert save_values()[1:] == (1, place.database.rows()["pair"]["vineyard"]["size"], 2, 0)
    rows = place.database.rows()
    assert {row["vineyard"]["v"] for row in rows.values()} == {3}
    assert {row["vineyard"]["durable"] for row in rows.values()} == {str(place.values)}
    new = {"v", "copy", "durable", "parts"}
    for old, now in [(member, rows["frame"]), (whole, rows["return_value"])]:
        assert {k: v for k, v in now["vineyard"].items() if k not in new} == {
            k: v for k, v in old["vineyard"].items() if k not in new
        }
    place.restart()
    assert xcoms.get(rows["frame"]) == frame
    assert xcoms.get(rows["return_value"]) == {"frame": frame, "number": 5}
    assert xcoms.get(rows["pair"]) == (1, 2)
    for row in rows.values():
        xcoms.free(row)
    assert place.files() == []


def test_save_leaves_what_is_gone_or_was_written_anew(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in this store is counted; a row that a task writes meanwhile is the task's."""
    place.use()
    place.put((1, 2), key="gone")
    place.restart()
    place.put((3, 4), key="replaced")
    place.use(place.values)
    assert save_values(dry_run=True)[1:] == (1, place.database.rows()["replaced"]["vineyard"]["size"], 0, 1)
    from airflow_provider_vineyard import saving

    update = saving._update

    def later(identity: Any, reference: Any) -> bool:
        with place.database.engine.begin() as connection:
            table = place.database.xcom
            at = datetime.now(timezone.utc) + timedelta(seconds=5)
            connection.execute(table.update().where(table.c.key == "replaced").values(timestamp=at))
        return update(identity, reference)

    monkeypatch.setattr(saving, "_update", later)
    assert save_values()[1:] == (0, 0, 0, 2)
    assert place.database.rows()["replaced"]["vineyard"]["v"] == 1


def test_save_without_a_tier(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """There is nowhere to save to."""
    place.use()
    with pytest.raises(config_exception(), match=r"\[vineyard\] tier is empty or none"):
        save_values()
    assert cli.main(["save"]) == 1
    assert "Set them first." in capsys.readouterr().err


def test_save_without_a_database(place: Place) -> None:
    """Nothing is copied that no row would lead to."""
    place.use(place.values)
    place.database.xcom.drop(place.database.engine)
    with pytest.raises(DatabaseUnavailable, match="nothing was saved"):
        save_values()


# ---- gc


def test_copies_without_a_row_go(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those that are in no store any more; younger ones, and those of others, stay."""
    place.use(place.values)
    place.put((1, 2), key="a")
    place.put(bytes(100_000), key="b", dag_id="x/y")
    place.options(deployment="second")
    close_clients()
    xcoms.put((5, 6), Origin("etl", "r1", "extract", -1, "c"))
    place.options(deployment="airflow")
    place.restart()
    assert orphans.free_unneeded(orphans=True, grace=AT_ONCE) == []
    place.database.forget()
    assert orphans.free_unneeded(orphans=True) == []
    planned = orphans.free_unneeded(orphans=True, grace=AT_ONCE, dry_run=True)
    assert len(place.files()) == 4  # beside them a note of whose database this is
    assert orphans.free_unneeded(orphans=True, grace=AT_ONCE, dag_id="nobody") == []
    capsys.readouterr()
    assert cli.main(["gc", "--orphans", "--grace", "0s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {freed["labels"]["dag_id"]: freed["reason"] for freed in found["freed"]} == {
        "etl": "orphan",
        "x/y": "orphan",
    }
    assert sorted(freed["copy"] for freed in found["freed"]) == sorted(str(f.info.ref.copy) for f in planned)
    assert [name for name in place.files() if name.startswith("airflow/")] == []
    assert [name for name in place.files() if name.startswith("second/")] != []
    assert orphans.free_unneeded(orphans=True, grace=AT_ONCE) == []


def test_an_object_and_its_copy_are_one(place: Place) -> None:
    """What is in the store and in the tier is named once, and is in neither afterwards."""
    place.use(place.values)
    row = place.put((1, 2))
    place.database.forget()
    (freed,) = orphans.free_unneeded(orphans=True, grace=AT_ONCE, trust_database=True)
    assert freed.info.ref.id == row["vineyard"]["id"]
    assert [name for name in place.files() if name.startswith("airflow/")] == []


def test_another_database(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It decides over nothing, even if the store has forgotten whose objects it had."""
    place.use(place.values)
    row = place.put((1, 2))
    assert orphans.free_unneeded(orphans=True, grace=AT_ONCE) == []
    place.restart()
    other = Database(tmp_path / "other")
    monkeypatch.setattr(version_compat, "create_session", other.session)
    with pytest.raises(orphans.UnknownDatabase, match="belong to the database"):
        orphans.free_unneeded(orphans=True, grace=AT_ONCE)
    assert xcoms.get(row) == (1, 2)
    other.engine.dispose()


def test_old_copies_go(place: Place) -> None:
    """By age, whether a row refers to them or not, and whether they are in a store or not."""
    place.use(place.values)
    old, young = place.put((1, 2), key="a"), place.put((3, 4), key="b")
    place.restart()
    path = place.values / old["vineyard"]["copy"]
    os.utime(path, (0, 0))
    assert [freed.reason for freed in orphans.free_unneeded(older_than=timedelta(days=7), dry_run=True)] == ["expired"]
    assert [freed.reason for freed in orphans.free_unneeded(older_than=timedelta(days=7))] == ["expired"]
    assert place.files() == [young["vineyard"]["copy"]]
    with pytest.raises(ObjectNotFound, match=r"Clear task etl\.extract"):
        xcoms.get(old)
    assert xcoms.get(young) == (3, 4)


def test_status_tells_what_is_saved(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of what is in no store."""
    place.use(place.values)
    place.put((1, 2))
    place.restart()
    status = get_status()
    assert status.xcoms == {} and status.saved["etl"].objects == 1
    assert status.tier is not None and status.tier.urls == (str(place.values),)
    assert cli.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["tier", str(place.values), "(through,", "no", "agent)"] for line in lines)
    assert any(line.split()[:5] == ["etl", "0", "0", "B", "1"] for line in lines)
    place.use()
    assert cli.main(["status"]) == 0
    assert "none: values end with the server" in capsys.readouterr().out


# ---- moving


def test_moving_house(place: Place) -> None:
    """The first tier is written and all are read; what is copied under its key can be read without the old one."""
    new = place.folder / "new"
    place.use(place.values)
    first = place.put((1, 2), key="a")
    place.use(new, place.values)
    second = place.put((3, 4), key="b")
    place.restart()
    assert (xcoms.get(first), xcoms.get(second)) == ((1, 2), (3, 4))
    assert place.files(new) == [second["vineyard"]["copy"]]
    shutil.copytree(
        place.values / "airflow" / "etl" / "r1" / "extract" / "-1" / "a", new / "airflow/etl/r1/extract/-1/a"
    )
    shutil.rmtree(place.values)
    place.use(new)
    assert (xcoms.get(first), xcoms.get(second)) == ((1, 2), (3, 4))


def test_turned_off(place: Place) -> None:
    """Without the tier, what is saved cannot be read, and the error says so; with it again, it can."""
    place.use(place.values)
    row = place.put((1, 2))
    place.use()
    assert xcoms.get(row) == (1, 2)  # it is in memory
    place.restart()
    with pytest.raises(ObjectNotFound, match=rf"set \[vineyard\] tier to .*{place.values}"):
        xcoms.get(row)
    place.use(place.values)
    assert xcoms.get(row) == (1, 2)


# ---- what rows and logs say


@pytest.mark.parametrize(("durability", "said"), [("through", ""), ("behind", "soon: "), ("none", "no")])
def test_rows_say_where_a_value_is_safe(
    place: Place, caplog: pytest.LogCaptureFixture, durability: str, said: str
) -> None:
    """So does the log."""
    place.use(place.values, durability=durability)
    with caplog.at_level("INFO", "airflow_provider_vineyard"):
        row = place.put((1, 2))
    expected = said if said == "no" else f"{said}{place.values}"
    assert RowReference.parse(row).durable == expected
    assert f"durable: {expected}" in caplog.text


def test_a_tier_that_takes_nothing(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Behind: the value is in memory, and row and log say that it is no more than that. Through: the task fails."""
    place.values.write_text("no folder")
    place.use(place.values, durability="behind")
    row = place.put((1, 2))
    assert RowReference.parse(row).durable.startswith("no: ") and "values" in RowReference.parse(row).durable
    assert "is in the store alone" in caplog.text
    assert xcoms.get(row) == (1, 2)
    place.use(place.values, durability="through")
    from vineyard_client import TierRefused

    with pytest.raises(TierRefused, match="cannot be stored"):
        place.put((1, 2), key="b")
