"""What fills the stores, as Airflow's rows say it: objects and bytes by task, store and whether the run has ended.

The database adds up, in one statement, and each row is read as a text that anybody may have written: what is not one of
ours, or gives a size that no store has, does not count. A value that a task only passed on counts where it was put.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import ROW_KEY
from airflow_provider_vineyard.ui.rows import raw

__all__ = ["Sum", "sums"]

# Bytes; a petabyte, beyond which a size is a lie, and sums leave what the database can add.
_LARGEST = 1 << 50

# Of a run that may still read its values.
_GOES_ON = ("queued", "running")

# Characters of the name of a host or endpoint; a longer one is nobody's.
_NAME = 300


class Sum(NamedTuple):
    """What the values of one task take in one store.

    Attributes:
        dag_id: of the DAG.
        task_id: of the task.
        ended: whether the runs have ended, so that no task reads the values any more.
        endpoint: of the store; None if its RPC is off.
        host: where the values were put.
        objects: how many.
        bytes: that they have together.
    """

    dag_id: str
    task_id: str
    ended: bool
    endpoint: Optional[str]
    host: Optional[str]
    objects: int
    bytes: int


def sums(session: Any) -> List[Sum]:
    """Return the sums of all rows that refer to an object in a store."""
    from sqlalchemy import BigInteger, case, cast, func, literal

    model, run = version_compat.xcom_model(), version_compat.dag_models()[1]
    size, owned, endpoint, host = _fields(session, model.value)
    active = session.query(run.id).filter(run.state.in_(_GOES_ON)).scalar_subquery()
    ended = case((model.dag_run_id.in_(active), 0), else_=1)
    columns = {
        "dag_id": model.dag_id,
        "task_id": model.task_id,
        "ended": ended,
        "endpoint": func.substr(endpoint, 1, _NAME),
        "host": func.substr(host, 1, _NAME),
        "size": cast(size, BigInteger()),
    }
    counts = (size.between(0, _LARGEST), owned != literal("false"))
    some = session.query(*(column.label(name) for name, column in columns.items())).filter(*counts)
    # With an offset the database does not merge the two statements: it would sort whole values.
    fields = some.offset(0).subquery().c
    group = (fields.dag_id, fields.task_id, fields.ended, fields.endpoint, fields.host)
    query = session.query(*group, func.count(), func.sum(fields.size)).group_by(*group)
    return [
        Sum(dag_id, task_id, bool(over), where or None, name, objects, int(total))
        for dag_id, task_id, over, where, name, objects, total in query
    ]


def _fields(session: Any, value: Any) -> Tuple[Any, Any, Any, Any]:
    """Return expressions for what a row of ours says of size, owned, endpoint and host; the size of another is NULL."""
    dialect = session.get_bind().dialect.name
    if dialect == "sqlite":
        return _in_sqlite(session, value)
    if not version_compat.is_airflow_3():
        return _in_bytes(session, value, dialect)
    return _in_postgresql(value) if dialect == "postgresql" else _in_mysql(value)


def _in_sqlite(session: Any, value: Any) -> Tuple[Any, Any, Any, Any]:
    """Its functions for JSON take a minute for a few hundred thousand rows, and fail at a NaN; those for texts do not.

    A quotation mark within a text has a backslash in front, so none of these marks is found in one.
    """
    from sqlalchemy import Integer, String, Text, and_, case, cast, func, literal

    start = '{"' + ROW_KEY + '"'
    text = raw(session, value) if version_compat.is_airflow_3() else cast(value, Text())
    ours = func.substr(text, 1, len(start)) == literal(start)

    def behind(mark: str) -> Any:
        return func.substr(text, func.instr(text, mark) + len(mark), _NAME, type_=String())

    def name(field: str) -> Any:
        mark = f'"{field}": "'
        found = behind(mark)
        inner = func.substr(found, 1, func.instr(found, '"') - 1, type_=String())
        return case((and_(ours, func.instr(text, mark) > 0), inner), else_=None)

    refers = and_(ours, func.instr(text, '"id": "o') > 0, func.instr(text, '"size": ') > 0)
    # Of a text that begins with a number it takes that.
    size = case((refers, cast(behind('"size": '), Integer())), else_=None)
    owned = case((func.instr(text, '"owned": false') > 0, "false"), else_="true")
    return size, owned, name("endpoint"), name("host")


def _in_postgresql(value: Any) -> Tuple[Any, Any, Any, Any]:
    from sqlalchemy import Numeric, String, and_, case, cast, func

    def text(name: str) -> Any:
        return func.jsonb_extract_path_text(value, ROW_KEY, name, type_=String())

    def kind(name: str) -> Any:
        return func.jsonb_typeof(func.jsonb_extract_path(value, ROW_KEY, name))

    refers = and_(kind("size") == "number", kind("id") == "string")
    size = case((refers, cast(text("size"), Numeric())), else_=None)
    return size, func.coalesce(text("owned"), "true"), text("endpoint"), text("host")


def _in_mysql(value: Any) -> Tuple[Any, Any, Any, Any]:
    from sqlalchemy import Numeric, String, and_, case, cast, func

    def found(name: str) -> Any:
        return func.json_extract(value, f"$.{ROW_KEY}.{name}")

    def text(name: str) -> Any:
        return case((func.json_type(found(name)) == "STRING", func.json_unquote(found(name), type_=String())))

    refers = and_(func.json_type(found("size")) == "INTEGER", func.json_type(found("id")) == "STRING")
    size = case((refers, cast(found("size"), Numeric())), else_=None)
    owned = func.coalesce(cast(found("owned"), String(10)), "true")
    return size, owned, text("endpoint"), text("host")


def _in_bytes(session: Any, value: Any, dialect: str) -> Tuple[Any, Any, Any, Any]:
    """Airflow 2 keeps bytes, which need not be JSON, so fields are found in the text that this provider writes.

    In a text within it each quotation mark has a backslash in front, so none of these patterns begins in one.
    """
    from sqlalchemy import LargeBinary, Numeric, String, and_, case, cast, func, literal, text, type_coerce

    start = b'{"' + ROW_KEY.encode() + b'"'
    stored = type_coerce(value, LargeBinary())
    ours = func.substr(stored, 1, len(start)) == literal(start, LargeBinary())

    def found(name: str, pattern: str) -> Any:
        if dialect == "postgresql":
            return func.substring(func.encode(value, "escape"), f'"{name}": ({pattern})', type_=String())
        shown = func.convert(value, text("CHAR CHARACTER SET latin1"))
        return func.substring_index(func.regexp_substr(shown, f'"{name}": {pattern}'), '": ', -1, type_=String())

    refers = and_(ours, found("id", '"o[0-9a-f]{16}"').isnot(None))
    size = case((refers, cast(found("size", "[0-9]{1,16}"), Numeric())), else_=None)
    endpoint, host = (
        case((ours, func.replace(found(name, '"[^"]*"'), '"', "", type_=String())), else_=None)
        for name in ("endpoint", "host")
    )
    owned = case((and_(ours, found("owned", "false").isnot(None)), "false"), else_="true")
    return size, owned, endpoint, host
