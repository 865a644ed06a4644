"""The rows of ours in Airflow's table of XComs, read as a stream: in one statement, a page at a time.

The database leaves out other rows where it can. Reading fails as a whole or not at all.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import Any, Iterator, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import ROW_KEY, looks_like_row

__all__ = ["DatabaseUnavailable", "session_for", "stream"]

_PAGE = 1000

# What a row begins with wherever the database keeps it as text; see ``reference``.
_ROW_START = b'{"' + ROW_KEY.encode() + b'"'


class DatabaseUnavailable(RuntimeError):
    """Airflow's metadata database cannot be read by this process."""


@contextmanager
def session_for(consequence: str) -> Iterator[Any]:
    """Give a session of the database for the duration of the block; what is not rolled back is committed.

    Args:
        consequence: what cannot be done without it, as the second half of a sentence.

    Raises:
        DatabaseUnavailable: there is none in this process, or it cannot be used.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        # A RuntimeError is Airflow's own: there is no session in a task process of Airflow 3.
        with version_compat.create_session() as session:
            yield session
    except (SQLAlchemyError, RuntimeError, ImportError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatabaseUnavailable(
            f"Airflow's metadata database cannot be read here, {consequence}: {cause}. "
            "Run this where the scheduler runs, or give it the database in AIRFLOW__DATABASE__SQL_ALCHEMY_CONN "
            "(AIRFLOW__CORE__SQL_ALCHEMY_CONN before 2.3); a task of Airflow 3 has no access of its own. Without a "
            "database, gc frees garbage, and --older-than what is old."
        ) from error


def stream(session: Any, *columns: Any) -> Iterator[Tuple[object, Tuple[Any, ...]]]:
    """Iterate over what the rows of ours hold, each with further columns of its row; it may have been edited."""
    value = version_compat.xcom_model().value
    dialect = session.get_bind().dialect.name
    read = _row
    if version_compat.is_airflow_3() and dialect in ("postgresql", "mysql"):
        query, read = _by_path(session, value, dialect, columns), _load
    else:
        query = _by_beginning(session, value, dialect, columns)
    for found, *more in query.yield_per(_PAGE):
        yield read(found), tuple(more)


def _by_path(session: Any, value: Any, dialect: str, columns: Tuple[Any, ...]) -> Any:
    """Return a query for what rows of ours hold, as texts, in a column of JSON."""
    from sqlalchemy import func

    if dialect == "postgresql":
        held = func.jsonb_extract_path_text(value, ROW_KEY)
    else:
        held = func.json_unquote(func.json_extract(value, f"$.{ROW_KEY}"))
    return session.query(held, *columns).filter(held.isnot(None))


def _by_beginning(session: Any, value: Any, dialect: str, columns: Tuple[Any, ...]) -> Any:
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
    query = session.query(raw, *columns)
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
