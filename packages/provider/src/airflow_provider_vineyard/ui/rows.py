"""Pages of Airflow's table of XComs, newest run first, each row as far as a person wants to see it.

A page begins behind the primary key of the last row of the page before, so the hundredth page costs what the first
does. The key begins with the number of the run: runs are looked for first, more at a time while they have too few rows,
because a database that may choose for itself reads all rows of a DAG and sorts them. Of each value the database sends
the beginning alone: an older row may hold megabytes.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain, repeat
from typing import AbstractSet, Any, Iterator, List, NamedTuple, Optional, Tuple, Union

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import (
    RowReference,
    RowValue,
    looks_like_bare_id,
    looks_like_row,
    parse_row,
)

__all__ = ["LIMIT", "Asked", "Page", "Unusable", "Xcom", "find", "has_any", "page", "raw"]

# Rows on one page, at most.
LIMIT = 200

# Characters of a row's value that are read for a page; ours with 32 parts takes half of it.
_BEGINNING = 32_768

# How many runs are looked at together; many have no XCom at all.
_RUNS = (1, 8, 64, 500)

# As _BEGINNING, for one value alone, which may be a small one whose ``inline_threshold`` is not small.
_WHOLE = 8 << 20


class Unusable(ValueError):
    """What the browser asked for cannot be; the text says what."""


@dataclass(frozen=True)
class Asked:
    """Which rows somebody asked for.

    Attributes:
        dag_id: of this DAG only.
        run_id: of this run only.
        task_id: of this task only.
        map_index: of this mapped task instance only; -1 is one that is not mapped.
        key: with this key only.
        after: where the page before ended.
        limit: rows, at most.
    """

    dag_id: Optional[str] = None
    run_id: Optional[str] = None
    task_id: Optional[str] = None
    map_index: Optional[int] = None
    key: Optional[str] = None
    after: Optional[str] = None
    limit: int = 50


@dataclass(frozen=True)
class Xcom:
    """A row.

    Attributes:
        dag_id: of the DAG.
        run_id: of the run.
        task_id: of the task.
        map_index: of the mapped task instance, or -1.
        key: of the XCom.
        written: when the row was.
        length: of what is stored, in characters or bytes.
        held: what is in it: a reference to an object, a small value, a value as plain JSON, or why it is none of these.
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    key: str
    written: datetime
    length: int
    held: Union[RowReference, RowValue, Plain, Other]


class Plain(NamedTuple):
    """A value that Airflow's database holds as plain JSON."""

    value: object


class Other(NamedTuple):
    """A row of which nothing can be shown.

    Attributes:
        kind: ``bare``: an object id, as vineyard's own provider wrote it. ``large``: more than is read for a page.
            ``foreign``: no JSON, so another backend wrote it. ``invalid``: it looks like one of ours and is none.
        detail: a sentence.
    """

    kind: str
    detail: str


class Page(NamedTuple):
    """Rows, and where the next page begins if there is one."""

    rows: List[Xcom]
    after: Optional[str]


def page(session: Any, asked: Asked, dag_ids: AbstractSet[str]) -> Page:
    """Return a page of rows.

    Args:
        session: of Airflow's database.
        asked: which.
        dag_ids: those that may be read; no row of another one is.

    Raises:
        Unusable: the page begins nowhere, or has no length.
    """
    if not 0 < asked.limit <= LIMIT:
        raise Unusable(f"A page has 1 to {LIMIT} rows.")
    if not dag_ids or (asked.dag_id is not None and asked.dag_id not in dag_ids):
        return Page([], None)
    model = version_compat.xcom_model()
    key = (model.dag_run_id, model.task_id, model.map_index, model.key)
    query = _filtered(_query(session, model, _BEGINNING), model, asked)
    ordered = query.order_by(*(column.desc() for column in key))
    begin = None if asked.after is None else _parse(asked.after)
    found: List[Any] = []
    for runs in _runs(session, asked, dag_ids, begin):
        some = ordered.filter(model.dag_run_id.in_(runs))
        if begin is not None and begin[0] in runs:
            some = some.filter(_behind(key, begin))
        found += some.limit(asked.limit + 1 - len(found)).all()
        if len(found) > asked.limit:
            last = found[asked.limit - 1]
            after = _text_of([last.dag_run_id, last.task_id, last.map_index, last.key])
            return Page([_xcom(each, _BEGINNING) for each in found[: asked.limit]], after)
    return Page([_xcom(each, _BEGINNING) for each in found], None)


def _runs(
    session: Any, asked: Asked, dag_ids: AbstractSet[str], begin: Optional[Tuple[int, str, int, str]]
) -> Iterator[List[int]]:
    """Yield the numbers of the runs that may be read, newest first, ever more at a time."""
    run = version_compat.dag_models()[1]
    wanted = [asked.dag_id] if asked.dag_id is not None else sorted(dag_ids)
    query = session.query(run.id).filter(run.dag_id.in_(wanted)).order_by(run.id.desc())
    if asked.run_id is not None:
        query = query.filter(run.run_id == asked.run_id)
    below = None if begin is None else begin[0] + 1
    for count in chain(_RUNS, repeat(_RUNS[-1])):
        some = query if below is None else query.filter(run.id < below)
        numbers = [number for (number,) in some.limit(count)]
        if numbers:
            yield numbers
        if len(numbers) < count:
            return
        below = numbers[-1]


def find(session: Any, asked: Asked) -> Optional[Xcom]:
    """Return the one row that has all of DAG, run, task, map index and key; None if there is none."""
    assert asked.dag_id is not None and None not in (asked.run_id, asked.task_id, asked.map_index, asked.key)
    model = version_compat.xcom_model()
    found = _filtered(_query(session, model, _WHOLE), model, asked).first()
    return None if found is None else _xcom(found, _WHOLE)


def has_any(session: Any, dag_id: str, run_id: str, task_id: str, map_index: int) -> bool:
    """Tell whether a task instance has pushed anything."""
    model = version_compat.xcom_model()
    asked = Asked(dag_id, run_id, task_id, map_index)
    return _filtered(session.query(model.key), model, asked).first() is not None


def raw(session: Any, value: Any) -> Any:
    """Return an expression for the text, or the bytes, that the database keeps of a value."""
    from sqlalchemy import LargeBinary, String, Text, cast, type_coerce

    if not version_compat.is_airflow_3():
        return type_coerce(value, LargeBinary())
    # SQLite keeps JSON as text, and has the affinity of numbers for it.
    return type_coerce(value, String()) if session.get_bind().dialect.name == "sqlite" else cast(value, Text())


def _query(session: Any, model: Any, limit: int) -> Any:
    from sqlalchemy import func

    text = raw(session, model.value)
    columns = ("dag_run_id", "dag_id", "run_id", "task_id", "map_index", "key", "timestamp")
    return session.query(
        *(getattr(model, name) for name in columns),
        func.substr(text, 1, limit, type_=text.type).label("beginning"),
        func.length(text).label("length"),
    )


def _filtered(query: Any, model: Any, asked: Asked) -> Any:
    for name in ("dag_id", "run_id", "task_id", "map_index", "key"):
        wanted = getattr(asked, name)
        if wanted is not None:
            query = query.filter(getattr(model, name) == wanted)
    return query


def _behind(columns: Tuple[Any, ...], values: Tuple[Any, ...]) -> Any:
    """Return the condition for rows that come behind one whose columns have these values, all of them descending."""
    from sqlalchemy import and_, or_

    *others, last = zip(columns, values)
    condition = last[0] < last[1]
    for column, value in reversed(others):
        # The first condition is one that an index can be entered with.
        condition = and_(column <= value, or_(column < value, condition))
    return condition


def _text_of(values: List[Any]) -> str:
    return urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


def _parse(after: str) -> Tuple[int, str, int, str]:
    try:
        found = json.loads(urlsafe_b64decode(after + "=" * (-len(after) % 4)))
    except ValueError:
        found = None
    if not isinstance(found, list) or list(map(type, found)) != [int, str, int, str]:
        raise Unusable("No page begins there: after is what the answer before had as next.")
    if not all(-(1 << 31) <= number < 1 << 63 for number in (found[0], found[2])):
        raise Unusable("No page begins there: it has numbers that no row has.")
    return found[0], found[1], found[2], found[3]


def _xcom(row: Any, limit: int) -> Xcom:
    written = row.timestamp if row.timestamp.tzinfo is not None else row.timestamp.replace(tzinfo=timezone.utc)
    length = row.length or 0
    held = Other("large", "It is larger than what is shown here.") if length > limit else _held(row.beginning)
    return Xcom(row.dag_id, row.run_id, row.task_id, row.map_index, row.key, written, length, held)


def _held(stored: object) -> Union[RowReference, RowValue, Plain, Other]:
    """Return what stands in an undecoded value."""
    if stored is None:
        return Plain(None)
    try:
        value = json.loads(stored) if isinstance(stored, (bytes, str)) else stored
    except (ValueError, RecursionError):
        return Other("foreign", "Another XCom backend wrote it, and not as JSON.")
    if looks_like_bare_id(value):
        return Other("bare", f"It is the object {value}, as vineyard's own provider writes references.")
    if not looks_like_row(value):
        return Plain(value)
    from vineyard_client import VineyardError

    try:
        return parse_row(value)
    except VineyardError as error:
        return Other("invalid", str(error))
