"""The hooks of the backend on Airflow 3, and the class that is made of them.

The hooks stand in a class without a base (``build`` adds Airflow's), so that this module imports nothing of Airflow.
Airflow 3 wants a plain JSON value from ``serialize_value``: the value itself where it stays in the database, else the
row of ``reference``. ``deserialize_value`` is given anything with a ``value``, often with nothing else, and must cope
with rows that the default backend, a REST client or a trigger wrote; those are the base class's to read.
"""

from __future__ import annotations

from types import new_class
from typing import Any, Optional, Tuple

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import Origin, looks_like_bare_id, looks_like_row
from airflow_provider_vineyard.xcom import store
from airflow_provider_vineyard.xcom.decision import decide, log_inline, stopwatch
from airflow_provider_vineyard.xcom.inline import is_airflows_own

__all__ = ["Airflow3Hooks", "build"]


def build(base: Any) -> Any:
    """Return the backend for the Airflow that is installed.

    Args:
        base: Airflow's ``BaseXCom``.
    """
    hooks: Tuple[type, ...] = (Airflow3Hooks,)
    if not version_compat.is_airflow_3():
        from airflow_provider_vineyard.xcom import airflow2

        hooks = airflow2.hooks(base)
    body = {
        "__module__": "airflow_provider_vineyard.xcom",
        "__qualname__": "VineyardXCom",
        "__doc__": "XCom backend that keeps values in vineyard and references to them in Airflow's database.",
    }
    return new_class("VineyardXCom", (*hooks, base), {}, lambda namespace: namespace.update(body))


class Airflow3Hooks:
    """``serialize_value``, ``deserialize_value`` and ``purge`` as Airflow 3.0 to 3.3 call them."""

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
        """Return what goes into the database for a value: itself if it is small, else the row that refers to it.

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
        value, row = decide(value, Origin(dag_id, run_id, task_id, map_index, key))
        return version_compat.base_xcom().serialize_value(value) if row is None else row

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        """Return the value that a row stands for.

        Args:
            result: anything with a ``value``.

        Raises:
            VineyardError: the value cannot be read; the message says why.
        """
        watch = stopwatch()
        row = result.value
        # An object of the ORM is about to be shown (the API server of 3.0), not pulled: nobody is sent the value.
        shown = hasattr(result, "_sa_instance_state")
        if looks_like_row(row):
            return row if shown else store.get(row)
        value = version_compat.base_xcom().deserialize_value(result)
        key = getattr(result, "key", None)
        if shown or is_airflows_own(key, row):
            return value
        if looks_like_bare_id(value):
            return store.get_bare(value, Origin(key=key))
        log_inline("get", Origin(key=key), value, None, watch)
        return value

    @classmethod
    def purge(cls, xcom: Any, *args: Any) -> None:
        """Free what a row refers to, because the row is about to be deleted. It never raises.

        Args:
            xcom: anything with a ``value``, which may be anything.
            args: what other releases pass beyond it.
        """
        row = getattr(xcom, "value", None)
        if looks_like_row(row):
            store.free(row)
