"""``VineyardCeleryExecutor``: Airflow's CeleryExecutor, which sends a task to the host that has most of its input.

``[core] executor = airflow_provider_vineyard.executors.celery.VineyardCeleryExecutor``. With ``[vineyard] placement``
off it is the plain one. The class is made when somebody asks for it (PEP 562), from the installed provider's own, so
that this module imports neither Airflow nor Celery.

Only the queue that Celery publishes to is changed. The task's own queue stays in the message's body and in Airflow's
database, for retries and for the UI. The method that sends has another name in other releases of the provider; the
class is asked which one it has.

It is not called "Local…", which ``preload`` takes for an executor that forks tasks; and it has "CeleryExecutor" in its
name, which the templates of Airflow's chart look for.
"""

from __future__ import annotations

import logging
from importlib import import_module
from types import new_class
from typing import TYPE_CHECKING, Any, Sequence

from airflow_provider_vineyard.placement.sender import Sender

if TYPE_CHECKING:
    VineyardCeleryExecutor: Any

__all__ = ["VineyardCeleryExecutor", "build"]

log = logging.getLogger(__name__)

# The method that hands a batch to Celery, in releases 3.18 and newer, 3.11 to 3.17, and older ones.
_SENDING = ("_send_workloads", "_send_tasks", "_process_tasks")


def build(base: Any) -> Any:
    """Return the executor for the Airflow and the provider that are installed.

    Args:
        base: the provider's ``CeleryExecutor``.
    """
    sending = next((name for name in _SENDING if hasattr(base, name)), None)
    if sending is None:
        log.warning("This release of Airflow's Celery provider is not known here: tasks are sent without placement.")

    def send(self: Any, items: Sequence[Any]) -> None:
        sender = _sender(self)
        placed, choices = sender.place(items)
        getattr(base, sending or "")(self, placed)
        sender.sent(self.event_buffer, choices)

    def sync(self: Any) -> None:
        _sender(self).relieve()
        base.sync(self)

    body = {
        "__module__": __name__,
        "__qualname__": "VineyardCeleryExecutor",
        "__doc__": "CeleryExecutor that sends a task to the host that has most of its input.",
        "sync": sync,
    }
    if sending is not None:
        body[sending] = send
    return new_class("VineyardCeleryExecutor", (base,), {}, lambda namespace: namespace.update(body))


def _sender(executor: Any) -> Sender:
    """Return what an executor places with, which is made when it is first needed."""
    found = vars(executor).get("_vineyard")
    if not isinstance(found, Sender):
        found = executor._vineyard = Sender(lambda: _application(executor))
    return found


def _application(executor: Any) -> Any:
    """Return the Celery application that an executor sends with: its own, or in older releases the module's."""
    found = getattr(executor, "celery_app", None)
    if found is None:
        found = import_module("airflow.providers.celery.executors.celery_executor").app
    return found


def __getattr__(name: str) -> Any:
    if name != "VineyardCeleryExecutor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    base = import_module("airflow.providers.celery.executors.celery_executor").CeleryExecutor
    # Importing the base class may have asked for ours, and so made it, a few frames further up.
    if name not in globals():
        globals()[name] = build(base)
    return globals()[name]
