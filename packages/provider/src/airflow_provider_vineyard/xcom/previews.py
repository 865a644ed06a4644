"""How much is kept of a value to be shown to people: what the options say, within what Airflow masks."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Dict

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.settings import Settings

__all__ = ["level", "options"]

_SCHEMA = "schema"


def options(origin: Origin, settings: Settings) -> Dict[str, Any]:
    """Return what core's ``put`` is told of the preview of an XCom's value.

    Where there is no masker, or where it hides what has the XCom's key, nothing but the schema is kept.
    """
    wanted = level(origin, settings)
    if wanted == "off":
        return {}
    try:
        hides = version_compat.secrets_masker().should_hide_value_for_key
    except RuntimeError:  # a logging configuration of somebody's own, without a masker
        return {"preview": _SCHEMA}
    if origin.key is not None and hides(origin.key):
        return {"preview": _SCHEMA, "hide": hides}
    return {"preview": wanted, "hide": hides}


def level(origin: Origin, settings: Settings) -> str:
    """Return the level for the values of a DAG."""
    excluded = settings.preview != "off" and any(
        fnmatchcase(origin.dag_id or "", pattern) for pattern in settings.preview_exclude
    )
    return _SCHEMA if excluded else settings.preview
