"""How many bytes of what a task instance reads lie where: a few indexed queries for a whole batch.

The graphs of DAGs are kept: one is read once per version of its DAG (Airflow 3), or once per hash (Airflow 2). Rows are
read through ``RowReference.parse``; one that is malformed, or another backend's, weighs nothing. A row says where a
value was put; the replicas that readers made elsewhere are not in rows and not looked for.

At most ``ROWS`` rows are read for a batch. What reads from more, such as the one task behind a thousand mapped ones,
has its input everywhere anyway, and a part of it says as much as all of it.
"""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.placement.graph import Graph, read_graph
from airflow_provider_vineyard.reference import RowReference, looks_like_row

if TYPE_CHECKING:
    from typing import Union

    _Version = Union[str, Tuple[str, str]]

__all__ = ["GRAPHS", "ROWS", "Reader", "by_endpoint", "by_host", "weigh"]

log = logging.getLogger(__name__)

# Rows are 600 bytes each; so many take a few milliseconds.
ROWS = 200

# Graphs that are kept; one of a hundred tasks takes some ten kilobytes.
GRAPHS = 512

_KEY = "return_value"

_EMPTY = Graph({}, {})

_graphs: Dict[_Version, Graph] = {}


class Reader(NamedTuple):
    """A task instance that is about to be sent; ``version`` is that of its DAG, where Airflow told it."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    version: Optional[str] = None


def by_endpoint(reference: RowReference) -> Optional[str]:
    """Return the place of a value where workers are known by the endpoint of their host's vineyardd."""
    return reference.ref.endpoint


def by_host(reference: RowReference) -> Optional[str]:
    """Return the place of a value where workers are known by the name of their host."""
    return reference.host


def weigh(
    session: Any, readers: Sequence[Reader], place_of: Callable[[RowReference], Optional[str]]
) -> Dict[Reader, Dict[str, int]]:
    """Return the bytes of each reader's input, by place; readers without any are left out.

    Args:
        session: of the metadata database.
        readers: the task instances.
        place_of: returns the place of a row's value, or None where it cannot be told.
    """
    graphs = _read_graphs(session, readers)
    wanted: Set[Tuple[str, str, str]] = set()
    for reader in readers:
        for upstream in graphs[reader].edges.get(reader.task_id, ()):
            wanted.add((reader.dag_id, reader.run_id, upstream))
    if not wanted:
        return {}
    found: Dict[Tuple[str, str, str], List[Tuple[int, str, int]]] = {}
    for (*task, map_index), value in _rows(session, wanted):
        reference = _parse(value)
        place = None if reference is None else place_of(reference)
        if reference is not None and place:
            found.setdefault((task[0], task[1], task[2]), []).append((map_index, place, reference.ref.size))
    weighed: Dict[Reader, Dict[str, int]] = {}
    for reader in readers:
        graph = graphs[reader]
        shares: Dict[str, int] = {}
        for upstream in graph.edges.get(reader.task_id, ()):
            own = graph.same_element(reader.task_id, upstream)
            for map_index, place, size in found.get((reader.dag_id, reader.run_id, upstream), ()):
                if not own or map_index == reader.map_index:
                    shares[place] = shares.get(place, 0) + size
        if shares:
            weighed[reader] = shares
    return weighed


def _rows(session: Any, wanted: Iterable[Tuple[str, str, str]]) -> Iterable[Tuple[Tuple[str, str, str, int], Any]]:
    found = session.connection().execute(_query(), {"tasks": sorted(wanted), "key": _KEY, "most": ROWS})
    for *task, value in found:
        yield (task[0], task[1], task[2], task[3]), value


@lru_cache(maxsize=1)
def _query() -> Any:
    """Return the query for rows. To make it anew for each batch takes as long as to run it."""
    from sqlalchemy import bindparam, select, tuple_

    table = version_compat.xcom_model().__table__.c
    columns = (table.dag_id, table.run_id, table.task_id)
    query = select(*columns, table.map_index, table.value)
    those = table.key == bindparam("key"), tuple_(*columns).in_(bindparam("tasks", expanding=True))
    return query.where(*those).limit(bindparam("most"))


def _parse(value: Any) -> Optional[RowReference]:
    """Return the reference in a row's value as the database has it, or None if it holds another value."""
    from vineyard_client import VineyardError

    try:
        row = json.loads(value) if isinstance(value, (bytes, str)) else value
    except ValueError:
        return None
    if not looks_like_row(row):
        return None
    try:
        return RowReference.parse(row)
    except VineyardError as error:
        log.debug("A row weighs nothing: %s", error)
        return None


# ---- graphs


def _read_graphs(session: Any, readers: Sequence[Reader]) -> Dict[Reader, Graph]:
    versions = _versions(session, readers)
    missing = {version for version in versions.values() if version not in _graphs}
    if missing:
        for version, data in _serialized(session, missing):
            if len(_graphs) >= GRAPHS:
                _graphs.pop(next(iter(_graphs)))
            try:
                _graphs[version] = read_graph(json.loads(data) if isinstance(data, str) else data)
            except ValueError as error:
                log.warning("Tasks of a DAG cannot be placed, version %s: %s", version, error)
                _graphs[version] = _EMPTY
    empty = dict.fromkeys(readers, _EMPTY)
    return {**empty, **{reader: _graphs.get(version, _EMPTY) for reader, version in versions.items()}}


def _versions(session: Any, readers: Sequence[Reader]) -> Mapping[Reader, _Version]:
    """Return what tells one version of a reader's DAG from another."""
    from sqlalchemy import select, tuple_

    if not version_compat.is_airflow_3():
        table = version_compat.serialized_dag_model().__table__.c
        dags = sorted({reader.dag_id for reader in readers})
        query = select(table.dag_id, table.dag_hash).where(table.dag_id.in_(dags))
        hashes = dict(tuple(row) for row in session.execute(query))
        return {reader: (reader.dag_id, hashes[reader.dag_id]) for reader in readers if reader.dag_id in hashes}
    versions: Dict[Reader, _Version] = {reader: reader.version for reader in readers if reader.version}
    unknown = {reader[:4]: reader for reader in readers if reader not in versions}
    if unknown:
        table = version_compat.task_instance_model().__table__.c
        columns = (table.dag_id, table.run_id, table.task_id, table.map_index)
        query = select(*columns, table.dag_version_id).where(tuple_(*columns).in_(sorted(unknown)))
        for *key, version in session.execute(query):
            if version is not None:
                versions[unknown[key[0], key[1], key[2], key[3]]] = str(version)
    return versions


def _serialized(session: Any, versions: Set[_Version]) -> Iterable[Tuple[_Version, Any]]:
    """Yield serialized DAGs; ``data`` of the ORM's objects also knows compressed ones."""
    model = version_compat.serialized_dag_model()
    if version_compat.is_airflow_3():
        from uuid import UUID

        numbers = [UUID(version) for version in versions if isinstance(version, str)]
        for dag in session.query(model).filter(model.dag_version_id.in_(numbers)):
            yield str(dag.dag_version_id), dag.data
    else:
        dags = sorted(version[0] for version in versions)
        for dag in session.query(model).filter(model.dag_id.in_(dags)):
            # It may have been written anew since its hash was read.
            yield (dag.dag_id, dag.dag_hash), dag.data
