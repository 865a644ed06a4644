"""The only module that knows one Airflow release from another.

Nothing of Airflow is imported at the top: this module is loaded while Airflow itself is still loading. Each function
imports what it returns; Python's own module cache makes the second call cheap. The results are typed ``Any`` because
the classes differ from release to release.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, Tuple, Type

__all__ = [
    "airflow_home",
    "airflow_release",
    "airflow_version",
    "base_hook",
    "base_xcom",
    "conf",
    "config_exception",
    "connection",
    "count",
    "create_session",
    "dag_models",
    "has_tags",
    "is_airflow_3",
    "log_model",
    "operator_link",
    "secrets_masker",
    "serialized_dag_model",
    "server_conf",
    "stats",
    "task_instance_model",
    "variable_model",
    "xcom_class",
    "xcom_model",
]

_MASKER_OF_AIRFLOW_2 = "airflow.utils.log.secrets_masker"


def airflow_version() -> Tuple[int, int]:
    """Return major and minor number of the Airflow that is installed."""
    major, minor = airflow_release().split(".")[:2]
    return int(major), int(minor)


def airflow_release() -> str:
    """Return the full version of the Airflow that is installed."""
    return str(import_module("airflow").__version__)


def is_airflow_3() -> bool:
    """Tell whether tasks talk to an API server (3.x) instead of to the database (2.x)."""
    return airflow_version() >= (3, 0)


def base_xcom() -> Any:
    """Return the class that a backend extends."""
    return import_module("airflow.sdk.bases.xcom" if is_airflow_3() else "airflow.models.xcom").BaseXCom


def base_hook() -> Any:
    """Return the class that a hook extends."""
    return import_module("airflow.sdk.bases.hook" if airflow_version() >= (3, 1) else "airflow.hooks.base").BaseHook


def conf() -> Any:
    """Return Airflow's configuration; ask it with ``fallback=``, Airflow before 2.7 does not know our defaults."""
    return import_module("airflow.sdk.configuration" if airflow_version() >= (3, 2) else "airflow.configuration").conf


def server_conf() -> Any:
    """Return the configuration of a process that serves the web interface, with the options that only servers have."""
    return import_module("airflow.configuration").conf


def operator_link() -> Any:
    """Return the class that a link on task instances extends."""
    return import_module("airflow.sdk" if is_airflow_3() else "airflow.models").BaseOperatorLink


def config_exception() -> Type[Exception]:
    """Return the class that Airflow raises for a wrong option."""
    error: Type[Exception] = import_module("airflow.exceptions").AirflowConfigException
    return error


def connection(name: str) -> Any:
    """Return a connection of Airflow's from wherever it is defined; from the database only where that can be read."""
    return import_module("airflow.models.connection").Connection.get_connection_from_secrets(name)


def airflow_home() -> str:
    """Return the folder AIRFLOW_HOME."""
    return str(import_module("airflow.configuration").AIRFLOW_HOME)


def secrets_masker() -> Any:
    """Return the module that knows what is secret in this process: ``redact``, ``should_hide_value_for_key``."""
    if airflow_version() >= (3, 1):
        return import_module("airflow.sdk._shared.secrets_masker")
    return import_module("airflow.sdk.execution_time.secrets_masker" if is_airflow_3() else _MASKER_OF_AIRFLOW_2)


def xcom_class() -> Any:
    """Return the class of the backend that is configured."""
    return import_module("airflow.sdk.execution_time.xcom" if is_airflow_3() else "airflow.models.xcom").XCom


def xcom_model() -> Any:
    """Return the class of the ORM whose rows are XComs; its ``value`` is JSON on Airflow 3 and bytes before."""
    module = import_module("airflow.models.xcom")
    return module.XComModel if is_airflow_3() else module.BaseXCom


def variable_model() -> Any:
    """Return the class of the ORM whose rows are Airflow's variables."""
    return import_module("airflow.models.variable").Variable


def dag_models() -> Tuple[Any, ...]:
    """Return the classes of the ORM whose rows are DAGs, and their runs."""
    return import_module("airflow.models.dag").DagModel, import_module("airflow.models.dagrun").DagRun


def task_instance_model() -> Any:
    """Return the class of the ORM whose rows are task instances; only on Airflow 3 they name a version of their DAG."""
    return import_module("airflow.models.taskinstance").TaskInstance


def serialized_dag_model() -> Any:
    """Return the class of the ORM whose rows are serialized DAGs: each version of one on Airflow 3, one each before."""
    return import_module("airflow.models.serialized_dag").SerializedDagModel


def log_model() -> Any:
    """Return the class of the ORM whose rows are the audit log."""
    return import_module("airflow.models.log").Log


def count(name: str) -> None:
    """Add one to a counter among Airflow's metrics, in the scheduler: since 3.3 it has metrics of its own."""
    module = "airflow.observability.stats" if airflow_version() >= (3, 3) else _stats_module()
    import_module(module).Stats.incr(name)


def stats() -> Any:
    """Return Airflow's metrics as tasks have them: ``incr`` and ``timing``, the latter in milliseconds."""
    return import_module(_stats_module()).Stats


def has_tags() -> bool:
    """Tell whether metrics take tags."""
    return airflow_version() >= (2, 6)


def _stats_module() -> str:
    return "airflow.sdk.observability.stats" if airflow_version() >= (3, 2) else "airflow.stats"


def create_session() -> Any:
    """Return a context manager that gives a session of the metadata database."""
    # At INFO it lists its plugins, which 3.1 and 3.2 print among what `gc --json` prints.
    plugins = logging.getLogger("alembic.runtime.plugins")
    # To set a level, the same or not, empties what all loggers remember.
    if plugins.level != logging.WARNING:
        plugins.setLevel(logging.WARNING)
    return import_module("airflow.utils.session").create_session()
