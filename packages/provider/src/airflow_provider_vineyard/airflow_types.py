"""Types of Airflow's that need code to be stored: paths in object storage, and the stores that they lie in.

Both are made of names: a URL, a connection's id, options. They are made anew by Airflow's own constructors, as its own
serialisation does it, with the connection as it is then. Other types of Airflow are listed in
``settings.AIRFLOW_CLASSES``, or need nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Dict, Optional, Tuple

__all__ = ["declare"]

# In Airflow 2.8 - 2.11, and in Airflow 3.
_HOMES = "airflow.io", "airflow.sdk.io"


def declare() -> None:
    """Tell core of them; imports nothing of Airflow."""
    from vineyard_client import declare_type

    for name, cls, take, make in (
        ("airflow.path", "path.ObjectStoragePath", _take_path, _make_path),
        ("airflow.store", "store.ObjectStore", _take_store, _make_store),
    ):
        declare_type(name, *[f"{home}.{cls}" for home in _HOMES], take=take, make=make)


def _take_path(path: Any) -> Tuple[Any, ...]:
    taken = path.serialize()
    # Airflow 2 keeps the connection among the options; there, none named and None named are two things.
    unnamed = {"conn_id": None} if taken["conn_id"] is None and "conn_id" in path.storage_options else {}
    return taken["path"], taken["conn_id"], {**taken["kwargs"], **unnamed}


def _make_path(path: Any, conn_id: Any, options: Any) -> Any:
    named = {} if conn_id is None else {"conn_id": _checked(conn_id, str)}
    options = {_checked(key, str): item for key, item in _checked(options, dict).items()}
    return _module("path").ObjectStoragePath(_checked(path, str), **named, **options)


def _take_store(store: Any) -> Tuple[Any, ...]:
    options: Optional[Dict[str, Any]] = store.storage_options
    return store.protocol, store.conn_id, None if options is None else dict(options)


def _make_store(protocol: Any, conn_id: Any, options: Any) -> Any:
    # Not by attach(), which would hand these options to everybody in the process who asks for this store later.
    options = None if options is None else _checked(options, dict)
    conn_id = None if conn_id is None else _checked(conn_id, str)
    return _module("store").ObjectStore(_checked(protocol, str), conn_id, storage_options=options)


def _checked(part: Any, kind: type) -> Any:
    if type(part) is not kind:
        raise TypeError(f"a {type(part).__name__} stands where only {kind.__name__} may")
    return part


def _module(name: str) -> Any:
    """Return a module of Airflow's object storage, of this release."""
    from airflow_provider_vineyard import version_compat

    return import_module(f"{_HOMES[version_compat.is_airflow_3()]}.{name}")
