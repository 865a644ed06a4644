"""The hooks of the backend on Airflow 2, where tasks write to the database themselves.

What differs from Airflow 3 (``backend``): a row is bytes of JSON; small values are written by the base class, which may
be told to pickle; web pages show what ``orm_deserialize_value`` returns; and who deletes rows differs by release:

- 2.9 to 2.11 call ``purge`` for each row (``Airflow2Hooks``);
- 2.3 to 2.8 delete them all at once in ``clear``, so that is where their objects are freed (``ClearHooks``);
- 2.2 does the same, and tells ``serialize_value`` nothing about the XCom, so ``set`` remembers it (``UntoldHooks``);
- 2.1 has no ``clear`` either: what a re-run replaces stays in vineyard until it is collected. Its ``get_one`` returns
  what web pages show (``ShownHooks``).
"""

from __future__ import annotations

import json
import logging
from inspect import signature
from typing import Any, Dict, NamedTuple, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.clients import is_from_outside
from airflow_provider_vineyard.reference import ROW_KEY, Origin, looks_like_bare_id, looks_like_row
from airflow_provider_vineyard.xcom import store
from airflow_provider_vineyard.xcom.decision import decide, log_inline, stopwatch
from airflow_provider_vineyard.xcom.inline import is_airflows_own

__all__ = ["Airflow2Hooks", "ClearHooks", "ShownHooks", "UntoldHooks", "hooks"]

log = logging.getLogger(__name__)

# The column of a row is read as JSON only when it starts like ours.
_ROW_START = b'{"' + ROW_KEY.encode() + b'"'
# What pickle writes from its second protocol on.
_PICKLE_START = b"\x80"


class _Pushed(NamedTuple):
    """A value on its way through ``set``, with what ``serialize_value`` is not told."""

    value: Any
    origin: Origin


def hooks(base: Any) -> Tuple[type, ...]:
    """Return the classes with the hooks that the installed Airflow 2 needs, for use as bases before ``BaseXCom``."""
    if hasattr(base, "purge"):
        return (Airflow2Hooks,)
    told = "key" in signature(base.serialize_value).parameters
    return (
        *(() if told else (UntoldHooks,)),
        ClearHooks if hasattr(base, "clear") else ShownHooks,
        Airflow2Hooks,
    )


def _row(stored: object) -> Optional[Dict[str, Any]]:
    """Return the row in a column of the database, raw or already decoded, or None if there is another value in it."""
    if isinstance(stored, bytes) and stored.startswith(_ROW_START):
        try:
            stored = json.loads(stored)
        except ValueError:
            return None
    return stored if isinstance(stored, dict) and looks_like_row(stored) else None


def _refuse_unreadable(result: Any) -> None:
    """Say what to do about a row that Airflow has pickled, where it does not read such any more."""
    stored = result.value
    if not isinstance(stored, bytes) or not stored.startswith(_PICKLE_START):
        return
    if version_compat.conf().getboolean("core", "enable_xcom_pickling", fallback=False):
        return
    raise ValueError(
        f"{Origin(key=getattr(result, 'key', None))} was pickled while [core] enable_xcom_pickling was on, and that is "
        "off here. Turn it on for as long as such rows are needed, or clear the task that pushed it."
    )


class Airflow2Hooks:
    """The hooks that all releases of Airflow 2 have in common, and ``purge``."""

    @staticmethod
    def serialize_value(
        value: Any,
        *,
        key: Optional[str] = None,
        task_id: Optional[str] = None,
        dag_id: Optional[str] = None,
        run_id: Optional[str] = None,
        map_index: Optional[int] = None,
    ) -> Any:
        """Return the bytes that go into the database for a value: its own if it is small, else those of its row.

        Args:
            value: what a task returned or pushed.
            key: the XCom's key.
            task_id: the task that pushes it.
            dag_id: its DAG.
            run_id: its run.
            map_index: its map index, -1 where the task is not mapped.

        Raises:
            VineyardError: the value cannot be stored; the message says why.
            AirflowConfigException: an option of ``[vineyard]`` has a wrong value.
        """
        if isinstance(value, _Pushed):
            value, origin = value
        else:
            origin = Origin(dag_id, run_id, task_id, map_index, key)
        value, row = decide(value, origin)
        return version_compat.base_xcom().serialize_value(value) if row is None else json.dumps(row).encode()

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        """Return the value that a row stands for.

        Args:
            result: anything with a ``value``.

        Raises:
            VineyardError: the value cannot be read; the message says why.
        """
        watch = stopwatch()
        row = _row(result.value)
        # An object of the ORM is about to be shown by the REST API, not pulled: nobody is sent the value.
        shown = hasattr(result, "_sa_instance_state")
        if row is not None:
            return row if shown else store.get(row)
        if not shown:
            _refuse_unreadable(result)
        value = version_compat.base_xcom().deserialize_value(result)
        key = getattr(result, "key", None)
        if shown or is_airflows_own(key, value):
            return value
        if looks_like_bare_id(value):
            return store.get_bare(value, Origin(key=key))
        log_inline("get", Origin(key=key), value, len(result.value or b""), watch)
        return value

    def orm_deserialize_value(self) -> Any:
        """Return what web pages show of an XCom: the row where there is one. It needs no vineyard."""
        row = _row(self.value)  # type: ignore[attr-defined]
        return version_compat.base_xcom().orm_deserialize_value(self) if row is None else row

    @staticmethod
    def purge(xcom: Any, *args: Any) -> None:
        """Free what a row refers to, because the row is about to be deleted (2.9 and later). It never raises.

        Args:
            xcom: anything with a ``value``, which may be anything.
            args: the session, which is not used.
        """
        row = _row(getattr(xcom, "value", None))
        if row is not None:
            store.free(row)


class ClearHooks:
    """``clear`` for releases that delete rows without a word to the backend (2.2 to 2.8)."""

    @classmethod
    def clear(cls, *args: Any, **kwargs: Any) -> Any:
        """Free what the rows refer to that ``BaseXCom.clear`` is about to delete; same arguments."""
        base = version_compat.base_xcom()
        call = signature(base.clear).bind(*args, **kwargs).arguments
        try:
            for row in _cleared_rows(base, call):
                store.free(row)
        except Exception as error:
            if is_from_outside(error):
                raise
            log.warning("Old XComs could not be freed and may still take room in vineyard: %s", error)
        return base.clear(*args, **kwargs)


def _cleared_rows(base: Any, call: Dict[str, Any]) -> Tuple[Dict[str, Any], ...]:
    from airflow.utils.session import create_session

    where = {name: call[name] for name in ("dag_id", "task_id", "run_id", "map_index") if call.get(name) is not None}
    if call.get("execution_date") is not None:
        where["execution_date"] = call["execution_date"]

    def rows(session: Any) -> Tuple[Dict[str, Any], ...]:
        query = session.query(base.value).filter(*(getattr(base, name) == value for name, value in where.items()))
        found = (_row(value) for (value,) in query)
        return tuple(row for row in found if row is not None)

    if call.get("session"):
        return rows(call["session"])
    with create_session() as session:
        return rows(session)


class UntoldHooks:
    """``set`` for releases whose ``serialize_value`` learns nothing but the value (2.1 and 2.2)."""

    @classmethod
    def set(cls, *args: Any, **kwargs: Any) -> Any:
        """Store an XCom as ``BaseXCom.set`` does, and let ``serialize_value`` know which it is; same arguments."""
        parent: Any = super()
        call = signature(parent.set).bind(*args, **kwargs)
        told = call.arguments
        origin = Origin(told["dag_id"], told.get("run_id"), told["task_id"], None, told["key"])
        told["value"] = _Pushed(told["value"], origin)
        return parent.set(*call.args, **call.kwargs)


class ShownHooks:
    """``get_one`` for the release that returns what web pages show (2.1)."""

    @classmethod
    def get_one(cls, *args: Any, **kwargs: Any) -> Any:
        """Return one XCom's value, not its row; same arguments."""
        parent: Any = super()
        shown = parent.get_one(*args, **kwargs)
        if looks_like_bare_id(shown):
            return store.get_bare(shown, Origin())
        return store.get(shown) if looks_like_row(shown) else shown
