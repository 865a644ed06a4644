"""A Celery worker also listens to the queues of its host: ``Q@PLACE`` for each queue ``Q`` that it was told of.

Celery says when a worker has its queues and has not begun to listen. That signal is connected when the backend is
imported in a process that is one, as ``preload`` does it: from Airflow 3.2 on a worker does not import the executor.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any, List

from airflow_provider_vineyard import settings

__all__ = ["arrange", "listen"]

log = logging.getLogger(__name__)

_CELERY_WORKER = ["celery", "worker"]


def arrange() -> None:
    """Have the worker listen, if this process is one. Without Celery there is none, whatever its arguments say."""
    if sys.argv[1:3] == _CELERY_WORKER and find_spec("celery") is not None:
        import_module("celery.signals").celeryd_after_setup.connect(_after_setup, weak=False, dispatch_uid=__name__)


def _after_setup(sender: str, instance: Any, **_: Any) -> None:
    """Add the queues of this host; a worker whose options are wrong works as one without placement."""
    try:
        names = listen(instance.app.amqp.queues, settings.get_placement())
    except Exception as error:
        log.warning("[vineyard] placement: %s listens to its own queues alone: %s", sender, error)
        return
    if names:
        log.info("[vineyard] placement: %s also listens to %s", sender, ", ".join(names))


def listen(queues: Any, options: settings.PlacementSettings) -> List[str]:
    """Add the queues of this host to those that a worker consumes from; return their names.

    Args:
        queues: the worker's, Celery's ``app.amqp.queues``.
        options: what is set for placement.
    """
    from airflow_provider_vineyard.placement.queues import host_queue

    if not options.enabled:
        return []
    if options.place is None:
        log.warning("[vineyard] placement is on, but tasks find no way to this host: set [vineyard] rpc_endpoint.")
        return []
    names = [host_queue(queue, options.place) for queue in queues.consume_from]
    added = [name for name in names if name is not None]
    for name in added:
        # Declared as the sender declares it, which RabbitMQ insists on.
        queues.select_add(queues.new_missing(name))
    return added
