"""Where a value goes, to vineyard or into Airflow's database, whichever generation of Airflow asks.

``backend`` and ``airflow2``, the hooks of the two generations, both stand on this.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, Dict, Optional, Tuple

from airflow_provider_vineyard import stats, version_compat
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.xcom import store
from airflow_provider_vineyard.xcom.inline import inline_json, is_airflows_own

__all__ = ["decide", "log_inline", "stopwatch"]

log = logging.getLogger(__name__)

# What a mapped task's downstream is given in place of a list, by release. Returned as it is, it could not be stored.
_LAZY_SEQUENCES = frozenset({"LazyXComSequence", "LazyXComSelectSequence", "LazyXComAccess", "_LazyXComAccess"})


def decide(value: Any, origin: Origin) -> Tuple[Any, Optional[Dict[str, Any]]]:
    """Store a value in vineyard, or leave it to Airflow's database.

    Args:
        value: what a task returned or pushed.
        origin: which XCom it is.

    Returns:
        The value, as a list where it was one of Airflow's lazy sequences, and its row: None for a value that stays in
        the database.

    Raises:
        VineyardError: the value cannot be stored; the message says why.
        AirflowConfigException: an option of ``[vineyard]`` has a wrong value.
    """
    watch = stopwatch()
    if is_airflows_own(origin.key, value):
        return value, None
    kind = type(value)
    if kind.__name__ in _LAZY_SEQUENCES and kind.__module__.startswith("airflow."):
        # One request for all of it on Airflow 3; older releases cannot slice.
        value = list(value[:] if version_compat.is_airflow_3() else value)
    text = inline_json(value, get_settings().inline_threshold)
    if text is None:
        return value, store.put(value, origin)
    log_inline("put", origin, value, len(text), watch)
    return value, None


def stopwatch() -> Callable[[], float]:
    """Return a function that returns the milliseconds since now."""
    started = time.perf_counter()
    return lambda: (time.perf_counter() - started) * 1000


def log_inline(verb: str, origin: Origin, value: object, size: Optional[int], watch: Callable[[], float]) -> None:
    """Log the one line for a value that is in the database."""
    stats.exchanged(verb, stats.ROW, origin)
    stated = "" if size is None else f", {size} B"
    log.info("%s %s: %s%s, inline in the database, %.1f ms", verb, origin, type(value).__name__, stated, watch())
