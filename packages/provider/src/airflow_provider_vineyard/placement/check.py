"""What ``doctor`` looks at where placement is on; it asks the broker, and the workers that listen to it."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any, Dict, List, NamedTuple, Optional

from airflow_provider_vineyard import settings
from airflow_provider_vineyard.placement.queues import driver, host_queue

__all__ = ["Finding", "look"]

_EXECUTOR = "airflow_provider_vineyard.executors.celery.VineyardCeleryExecutor"

# Seconds that workers have to answer.
_TIMEOUT = 2.0


class Finding(NamedTuple):
    """What was found; ``remedy`` is empty where all is well."""

    found: str
    remedy: str = ""


def look(options: settings.PlacementSettings, host: Optional[str]) -> List[Finding]:
    """Return what keeps tasks from being placed, or how they are.

    Args:
        options: what is set for placement.
        host: the option ``host``.
    """
    executor = settings.executor()
    findings = []
    if "Kubernetes" in executor:
        remedy = "" if host else "Set [vineyard] host to the node's name, from spec.nodeName by the downward API."
        findings.append(Finding(f"Pods prefer nodes; this one's name in rows is {host or 'that of the pod'}.", remedy))
    if _EXECUTOR in executor:
        findings += _celery(options)
    elif "Celery" in executor and "Kubernetes" not in executor:
        findings.append(Finding(f"{executor} places nothing.", f"Set [core] executor to {_EXECUTOR}."))
    if not findings:
        findings.append(Finding(f"{executor} runs tasks on one host.", "Turn [vineyard] placement off."))
    return findings


def _celery(options: settings.PlacementSettings) -> List[Finding]:
    # Such an import reads Airflow's configuration of Celery, and may find it wrong in any way.
    try:
        app = import_module("airflow.providers.celery.executors.celery_executor").app
        kind = driver(app)
    except Exception as error:
        return [Finding(f"Celery cannot be set up: {error}", "Install what [celery] broker_url needs, or correct it.")]
    findings = []
    if options.place is None:
        remedy = "Set it on hosts with a worker, to where others reach their vineyardd."
        findings.append(Finding("[vineyard] rpc_endpoint is not set: a worker here has no queue of its own.", remedy))
    if kind not in ("redis", "amqp"):
        remedy = "Use Redis or RabbitMQ, or turn [vineyard] placement off."
        return [*findings, Finding(f"A broker of the kind {kind} cannot move messages: nothing is placed.", remedy)]
    prefetch, late = app.conf.worker_prefetch_multiplier, app.conf.task_acks_late
    if prefetch > 1 or not late:
        found = f"Workers take messages ahead (worker_prefetch_multiplier {prefetch}, task_acks_late {late})."
        remedy = "Set [celery] worker_prefetch_multiplier to 1 and task_acks_late to True: what a worker holds waits."
        findings.append(Finding(found, remedy))
    try:
        findings += [_listeners(app, options), *_policies(app, options, kind)]
    except Exception as error:
        findings.append(Finding(f"The broker does not answer: {error}", "Start it, or correct [celery] broker_url."))
    return findings


def _listeners(app: Any, options: settings.PlacementSettings) -> Finding:
    answers: Dict[str, List[Dict[str, Any]]] = app.control.inspect(timeout=_TIMEOUT).active_queues() or {}
    names = {queue["name"] for queues in answers.values() for queue in queues}
    hosts = sorted(name for name in names if "@" in name)
    if not hosts:
        remedy = "Set [vineyard] placement and rpc_endpoint where the workers run, and restart them."
        return Finding(f"Workers that answer: {len(answers)}; none listens to a queue of its host.", remedy)
    own = host_queue("", options.place) if options.place else None
    here = "" if own is None else f", {'one' if any(name.endswith(own) for name in hosts) else 'none'} of this host"
    return Finding(f"Workers that answer: {len(answers)}; queues of hosts: {', '.join(hosts)}{here}.")


def _policies(app: Any, options: settings.PlacementSettings, kind: str) -> List[Finding]:
    """See whether RabbitMQ moves on what waits for the default queue."""
    if kind != "amqp":
        return []
    from airflow_provider_vineyard.placement.on_rabbitmq import RabbitRoom, policy

    queue = app.conf.task_default_queue
    room = RabbitRoom(app)
    try:
        deadline = time.monotonic() + options.longest + _TIMEOUT
        while time.monotonic() < deadline:
            if room.open_to([f"{queue}@any"]):
                return [Finding(f"RabbitMQ has a policy that moves messages on to {queue}.")]
            time.sleep(0.1)
    finally:
        room.close()
    remedy = f"Set a policy: {policy(queue, options.longest or 3.0)}"
    return [Finding(f"RabbitMQ moved no message on to {queue} within {options.longest:.0f} s.", remedy)]
