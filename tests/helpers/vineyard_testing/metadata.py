"""Those tables of Airflow's metadata database that placement reads, as the release that is installed has them."""

from __future__ import annotations

import contextlib
import json
import uuid
import zlib
from datetime import datetime, timezone
from importlib import import_module
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, List, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import Origin, RowReference
from vineyard_client import ObjectRef

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
SERIALIZED = Path(__file__).parents[2] / "provider" / "serialized"


def row(endpoint: Optional[str], size: int, *, host: str = "a", **more: Any) -> Dict[str, Any]:
    """Return the row of a value somewhere."""
    ref = ObjectRef("o0000000000000001", "0" * 32, endpoint, "numpy.ndarray", size)
    made = RowReference(ref, "", host, NOW.isoformat(), Origin("kinds", "r", "extract", -1, "return_value"))
    data = made.to_json()
    data["vineyard"].update(more)
    return data


@contextlib.contextmanager
def session_of(engine: Any) -> Iterator[Any]:
    """Give a session that commits at its end, as Airflow's ``create_session`` does."""
    from sqlalchemy.orm import Session

    session = Session(bind=engine)
    try:
        yield session
        session.commit()
    finally:
        session.close()


class Metadata:
    """The tables, in a SQLite database of the test's own.

    Attributes:
        queries: statements that were run since the last ``clear``.
    """

    def __init__(self) -> None:
        import sqlalchemy
        from sqlalchemy.pool import StaticPool

        # Keys refer to tables of models that nobody has asked for yet.
        import_module("airflow.models").import_all_models()
        # Several sessions, one database.
        self.engine = sqlalchemy.create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
        self._instances = version_compat.task_instance_model().__table__
        self._dags = version_compat.serialized_dag_model().__table__
        self._xcoms = version_compat.xcom_model().__table__
        self._log = version_compat.log_model().__table__
        for table in (self._instances, self._dags, self._xcoms, self._log):
            table.create(self.engine)
        self.queries: List[str] = []
        sqlalchemy.event.listen(self.engine, "before_cursor_execute", self._note)

    def _note(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        self.queries.append(statement)

    def session(self) -> ContextManager[Any]:
        """Give a session that commits at its end, as Airflow's ``create_session`` does."""
        return session_of(self.engine)

    def _insert(self, table: Any, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(table.insert().values(**values))

    def dag(self, dag_id: str = "kinds", data: Any = None) -> str:
        """Write a serialized DAG, that of serialized/kinds.py unless it is given; return its version or its hash."""
        if data is None:
            release = ".".join(map(str, version_compat.airflow_version()))
            path = next(SERIALIZED.glob(f"{release}.*.json"), SERIALIZED / "3.3.2.json")
            data = json.loads(path.read_text(encoding="utf-8"))
        version = uuid.uuid4()
        values: Dict[str, Any] = {"dag_id": dag_id, "dag_hash": version.hex, "data": data, "last_updated": NOW}
        if version_compat.is_airflow_3():
            values.update(id=uuid.uuid4(), created_at=NOW, dag_version_id=version)
        else:
            values.update(fileloc="/dags/kinds.py", fileloc_hash=1)
        self._insert(self._dags, **values)
        return str(version) if version_compat.is_airflow_3() else version.hex

    def instance(self, task_id: str, version: str, *, run_id: str = "r", map_index: int = -1, **more: Any) -> None:
        """Write a task instance of the DAG ``kinds``."""
        values: Dict[str, Any] = {"dag_id": "kinds", "task_id": task_id, "run_id": run_id, "map_index": map_index}
        values.update({"pool": "default_pool", "pool_slots": 1, "try_number": 1, "max_tries": 1, "state": "queued"})
        if version_compat.is_airflow_3():
            values.update(id=_id(self._instances), dag_version_id=uuid.UUID(version))
        if "span_status" in self._instances.c:
            values["span_status"] = "not_started"
        self._insert(self._instances, **{**values, **more})

    def xcom(
        self, task_id: str, value: Any, *, run_id: str = "r", map_index: int = -1, key: str = "return_value"
    ) -> None:
        """Write an XCom of the DAG ``kinds``, as this release writes JSON."""
        stored = value if version_compat.is_airflow_3() else json.dumps(value).encode()
        names: Dict[str, Any] = {"dag_id": "kinds", "run_id": run_id, "task_id": task_id, "map_index": map_index}
        self._insert(
            self._xcoms,
            dag_run_id=zlib.crc32(run_id.encode()) % (1 << 31),
            key=key,
            value=stored,
            timestamp=NOW,
            **names,
        )

    def audit(self) -> List[Tuple[str, str, int, str]]:
        """Return what the audit log has: event, task, map_index, extra."""
        columns = (self._log.c.event, self._log.c.task_id, self._log.c.map_index, self._log.c.extra)
        with self.engine.connect() as connection:
            query = self._log.select().with_only_columns(*columns)
            return [tuple(found) for found in connection.execute(query)]

    def close(self) -> None:
        """Forget it."""
        self.engine.dispose()


def _id(table: Any) -> Any:
    """Return an id for a task instance: a text in some releases, a UUID in others."""
    new = uuid.uuid4()
    return new if table.c.id.type.__class__.__name__ in ("Uuid", "UUID") else str(new)
