"""What tasks exchange, as metrics of Airflow's: it sends them wherever ``[metrics]`` says.

Names say what happened and where, because StatsD keeps no tags; where tags are kept, ``dag_id`` is one. No run, task or
object is in a name or a tag, so that their number stays small. A metric that cannot be sent fails no task.
"""

from __future__ import annotations

import logging
from typing import Dict, Optional

from airflow_provider_vineyard import version_compat
from airflow_provider_vineyard.clients import is_from_outside
from airflow_provider_vineyard.reference import Origin

__all__ = ["ROW", "exchanged", "failed"]

log = logging.getLogger(__name__)

#: Where a value is that is in Airflow's database.
ROW = "row"

# Whether it was said that metrics cannot be sent; once is enough.
_told = [False]


def exchanged(
    verb: str, place: str, origin: Origin, nbytes: Optional[int] = None, milliseconds: Optional[float] = None
) -> None:
    """Count a value that was put or read.

    Args:
        verb: ``put`` or ``get``.
        place: where to or where from, one word: ``row``; ``store``, ``outside`` of a full one; ``replica``, ``host``
            (another one, from which it was brought here), ``tier``.
        origin: which XCom it is.
        nbytes: its size.
        milliseconds: how long it took.
    """
    counts = {f"vineyard.{verb}.{place}": 1}
    if nbytes is not None:
        counts[f"vineyard.{verb}.bytes"] = nbytes
    _send(origin, counts, {} if milliseconds is None else {f"vineyard.{verb}.duration": milliseconds})


def failed(verb: str, error: Exception, origin: Origin) -> None:
    """Count a value that could not be put or read.

    Args:
        verb: ``put`` or ``get``.
        error: why; its class is part of the name.
        origin: which XCom it is.
    """
    _send(origin, {f"vineyard.{verb}.errors": 1, f"vineyard.errors.{type(error).__name__}": 1}, {})


def _send(origin: Origin, counts: Dict[str, int], durations: Dict[str, float]) -> None:
    tags = {} if origin.dag_id is None else {"dag_id": origin.dag_id}
    try:
        stats = version_compat.stats()
        kept = {"tags": tags} if version_compat.has_tags() else {}
        for name, number in counts.items():
            stats.incr(name, number, **kept)
        for name, milliseconds in durations.items():
            stats.timing(name, milliseconds, **kept)
    except Exception as error:  # whatever client for metrics somebody has configured
        if is_from_outside(error):
            raise
        if not _told[0]:
            _told[0] = True
            log.warning("Metrics of vineyard cannot be sent: %s", error)
