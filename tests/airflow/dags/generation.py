"""What the test DAGs import, from where the installed Airflow has it, and ``dag`` with the arguments it wants."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import airflow

VERSION = tuple(int(part) for part in airflow.__version__.split(".")[:2])

if VERSION >= (3, 0):
    from airflow.providers.standard.operators.python import BranchPythonOperator, PythonOperator, ShortCircuitOperator
    from airflow.sdk import BaseOperator, get_current_context, task, task_group
    from airflow.sdk import dag as _dag
else:
    from airflow.decorators import dag as _dag
    from airflow.decorators import task, task_group
    from airflow.models.baseoperator import BaseOperator
    from airflow.operators.python import (
        BranchPythonOperator,
        PythonOperator,
        ShortCircuitOperator,
        get_current_context,
    )

__all__ = [
    "VERSION",
    "BaseOperator",
    "BranchPythonOperator",
    "PythonOperator",
    "ShortCircuitOperator",
    "dag",
    "get_current_context",
    "task",
    "task_group",
]

_SCHEDULE = "schedule" if VERSION >= (2, 4) else "schedule_interval"
# Before 2.5, a run must not be before its DAG's start.
_START = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=10)


def dag(function):
    """Make a DAG without a schedule of a function."""
    return _dag(**{_SCHEDULE: None, "start_date": _START, "catchup": False})(function)
