"""``gc``: free what no XCom needs any more, in the store of this host.

What may be freed, and what decides:

- the store's own garbage (deleted values that nobody reads any more, what killed writers left, replicas of values that
  are gone from their own host): core's ``collect`` decides, whoever put it;
- orphans: objects of this deployment (they carry its name as a label) whose token is in no row of Airflow's table of
  XComs. Airflow deletes rows in many ways that no backend learns of;
- on request, objects of this deployment from a certain age on, whether a row refers to them or not.

Why no live value is taken for an orphan::

    task:   puts the value ............... writes its row
    gc:           lists the objects ............................. reads the rows

A value that is listed before its row is written is younger than the grace period, and left alone; every other listed
value had its row before the rows are read. So the objects are listed first, and the rows read after that. A row counts
in whatever run it stands and whether it owns its object or not. A replica is never an orphan: it goes when its original
is gone. A reader of an object that is deleted keeps its value.

The rows are read as a stream in one statement, a page at a time, and only the tokens are kept that are looked for, so
memory is bounded by what is in the store. Reading fails as a whole or not at all: with half the rows read, live values
would look like orphans. That the rows are those of the right database is ``identity``'s to say.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, AbstractSet, Any, Dict, Iterable, Iterator, List, Optional, Set

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.clients import get_client_if_running
from airflow_provider_vineyard.identity import UnknownDatabase, recognise
from airflow_provider_vineyard.reference import DEPLOYMENT_LABEL, ROW_KEY, looks_like_row
from airflow_provider_vineyard.settings import get_settings

if TYPE_CHECKING:
    from vineyard_client import Client, ObjectInfo

__all__ = [
    "DEFAULT_GRACE",
    "DatabaseUnavailable",
    "Freed",
    "UnknownDatabase",
    "find_orphans",
    "free_unneeded",
    "referenced",
]

# A task writes the row right after the value, within seconds even on a loaded host.
DEFAULT_GRACE = timedelta(hours=1)

ORPHAN = "orphan"

_PAGE = 1000

# What a row begins with wherever the database keeps it as text; see ``reference``.
_ROW_START = b'{"' + ROW_KEY.encode() + b'"'


class DatabaseUnavailable(RuntimeError):
    """Airflow's metadata database cannot be read by this process."""


@dataclass(frozen=True)
class Freed:
    """An object that was freed, or would be.

    Attributes:
        info: what the store knew of it.
        reason: ``orphan``, or one of core's: ``expired``, ``deleted``, ``writer died``, ``original gone``.
    """

    info: ObjectInfo
    reason: str


def free_unneeded(
    *,
    orphans: bool = False,
    older_than: Optional[timedelta] = None,
    dag_id: Optional[str] = None,
    grace: timedelta = DEFAULT_GRACE,
    dry_run: bool = False,
    trust_database: bool = False,
) -> List[Freed]:
    """Free the store's garbage, and orphans or old objects on request; return what was freed.

    No server is started for it: an embedded server that does not run has nothing to free.

    Args:
        orphans: also delete objects to which no row refers.
        older_than: without ``orphans``, delete all objects of this age or older; with it, only orphans of that age.
        dag_id: only orphans and old objects of this DAG. Garbage is freed whoever made it.
        grace: age below which no object is an orphan.
        dry_run: free nothing, only return what would be.
        trust_database: with ``orphans``, go by the rows of a database that is not known to be that of the objects.

    Raises:
        VineyardError: the server cannot be reached or refused. What was freed by then stays freed.
        DatabaseUnavailable: the rows cannot be read; nothing was freed.
        UnknownDatabase: the database is another one than that of the objects, or knows nothing of them; nothing was
            freed.
        AirflowConfigException: an option of ``[vineyard]`` has a wrong value.
    """
    settings = get_settings()
    client = get_client_if_running(settings)
    if client is None:
        return []
    labels = {DEPLOYMENT_LABEL: settings.deployment}
    freed: Dict[str, Freed] = {}
    if orphans:
        found = find_orphans(
            client,
            settings.deployment,
            min_age=max(grace, older_than or grace),
            dag_id=dag_id,
            dry_run=dry_run,
            trust_database=trust_database,
        )
        for info in found:
            if dry_run or client.delete(info.ref):
                freed[info.ref.id] = Freed(info, ORPHAN)
    elif older_than is not None:
        if dag_id is not None:
            labels["dag_id"] = dag_id
        for action in client.collect(older_than=older_than, labels=labels, dry_run=dry_run):
            freed[action.info.ref.id] = Freed(action.info, action.reason)
    # Last, so that it also frees the memory of what was deleted above and is not read any more.
    for action in client.collect(dry_run=dry_run):
        freed.setdefault(action.info.ref.id, Freed(action.info, action.reason))
    return list(freed.values())


def find_orphans(
    client: Client,
    deployment: str,
    *,
    min_age: timedelta,
    dag_id: Optional[str] = None,
    dry_run: bool = False,
    trust_database: bool = False,
) -> List[ObjectInfo]:
    """Return the objects of a deployment to which no row refers, oldest first.

    Args:
        client: of the store.
        deployment: the deployment's name.
        min_age: the age from which on an object may be an orphan.
        dag_id: only objects of this DAG.
        dry_run: leave no note of whose database this is.
        trust_database: see ``free_unneeded``.

    Raises:
        VineyardError: the server cannot be reached or refused.
        DatabaseUnavailable: the rows cannot be read.
        UnknownDatabase: it is not known that these rows decide over these objects.
    """
    everything = list(client.list(labels={DEPLOYMENT_LABEL: deployment}))
    listed = [info for info in everything if dag_id in (None, info.labels.get("dag_id"))]
    listed = candidates(listed, now=datetime.now(timezone.utc), min_age=min_age)
    needed = referenced({info.ref.token for info in everything})
    found = [info for info in listed if info.ref.token not in needed]
    if found or needed:
        try:
            recognise(client, deployment, everything, referred=bool(needed), trusted=trust_database, dry_run=dry_run)
        except UnknownDatabase:
            if found:
                raise
    return found


def candidates(infos: Iterable[ObjectInfo], *, now: datetime, min_age: timedelta) -> List[ObjectInfo]:
    """Return those objects that are orphans if no row refers to them: originals of that age or older."""
    ages = ((info, now - info.created if info.age is None else info.age) for info in infos if info.origin is None)
    return [info for info, age in ages if age >= min_age]


def referenced(tokens: AbstractSet[str]) -> Set[str]:
    """Return those of the tokens that stand in a row of Airflow's table of XComs.

    Raises:
        DatabaseUnavailable: the rows cannot be read.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # A RuntimeError is Airflow's own: there is no session in a task process of Airflow 3.
        with version_compat.create_session() as session:
            return {token for token in _tokens_in_rows(session) if token in tokens}
    except (SQLAlchemyError, RuntimeError, ImportError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatabaseUnavailable(
            f"Airflow's metadata database cannot be read here, so nobody can tell which objects are orphans: {cause}. "
            "Run this where the scheduler runs, or give it the database in AIRFLOW__DATABASE__SQL_ALCHEMY_CONN "
            "(AIRFLOW__CORE__SQL_ALCHEMY_CONN before 2.3); a task of Airflow 3 has no access of its own. Without a "
            "database, gc frees garbage, and --older-than what is old."
        ) from error


def _tokens_in_rows(session: Any) -> Iterator[str]:
    """Yield the tokens in the rows that look like ours; the database leaves out others where it can."""
    value = version_compat.xcom_model().value
    dialect = session.get_bind().dialect.name
    read = _row
    if version_compat.is_airflow_3() and dialect in ("postgresql", "mysql"):
        query, read = _by_path(session, value, dialect), _load
    else:
        query = _by_beginning(session, value, dialect)
    for (found,) in query.yield_per(_PAGE):
        yield from _tokens(read(found))


def _by_path(session: Any, value: Any, dialect: str) -> Any:
    """Return a query for what rows of ours hold, as texts, in a column of JSON."""
    from sqlalchemy import func

    if dialect == "postgresql":
        held = func.jsonb_extract_path_text(value, ROW_KEY)
    else:
        held = func.json_unquote(func.json_extract(value, f"$.{ROW_KEY}"))
    return session.query(held).filter(held.isnot(None))


def _by_beginning(session: Any, value: Any, dialect: str) -> Any:
    """Return a query for the undecoded values that begin like a row of ours.

    All values are bytes on Airflow 2. On Airflow 3, SQLite is asked this way: its functions for JSON fail for the whole
    table when one value holds a NaN, as the default backend writes it.
    """
    from sqlalchemy import LargeBinary, String, func, literal, type_coerce

    kind: Any = LargeBinary()
    start: Any = _ROW_START
    if version_compat.is_airflow_3():
        kind, start = String(), _ROW_START.decode()
    raw = type_coerce(value, kind)
    query = session.query(raw)
    # Elsewhere (SQL Server) the function has another name; all values are read there.
    if dialect in ("sqlite", "postgresql", "mysql"):
        query = query.filter(func.substr(raw, 1, len(start)) == literal(start, kind))
    return query


def _row(stored: object) -> object:
    """Return what an undecoded row holds, or None if it is another value."""
    row = _load(stored)
    return row[ROW_KEY] if isinstance(row, dict) and looks_like_row(row) else None


def _load(stored: object) -> object:
    if not isinstance(stored, (bytes, str)):
        return None
    try:
        return json.loads(stored)
    except ValueError:
        return None


def _tokens(held: object) -> Iterator[str]:
    """Yield the tokens in what a row holds, its own and those of its parts; it may have been edited."""
    if isinstance(held, dict):
        token, parts = held.get("token"), held.get("parts")
        if isinstance(token, str):
            yield token
        if isinstance(parts, dict):
            for part in parts.values():
                yield from _tokens({**part, "parts": None} if isinstance(part, dict) else None)
