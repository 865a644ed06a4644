"""Kubernetes: a pod of KubernetesExecutor prefers the nodes that have its input; kube-scheduler does the rest.

Nothing waits: a preference is a score, and a node that is full or gone is none to begin with. The hook is a cluster
policy (entry point ``airflow.policy``), which runs beside the operator's own ``airflow_local_settings``. Airflow calls
it in the scheduler for each pod of the executor, and elsewhere: in tasks, for the pods of KubernetesPodOperator, and
where the specification of a pod is only shown. Pods of the executor have a variable that says so, and annotations that
name the task instance in full; only one that is queued is about to be created.

An exception in this hook would fail the task, so it lets none out.
"""

from __future__ import annotations

import copy
import logging
import os
import re
from importlib import import_module
from typing import Any, Dict, List, Mapping, Optional

from pluggy import HookimplMarker

from airflow_provider_vineyard import settings, version_compat

__all__ = ["pod_mutation_hook", "preferred_terms"]

log = logging.getLogger(__name__)

_EXECUTORS_POD = "AIRFLOW_IS_K8S_EXECUTOR_POD"

# What Kubernetes takes for the name of a node; one invalid name and the API server refuses the whole pod.
_NODE = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")

# Of more nodes than these, the others have hardly anything.
_MOST_NODES = 8

# The largest weight that Kubernetes knows.
_WEIGHT = 100


@HookimplMarker("airflow.policy")
def pod_mutation_hook(pod: Any) -> None:
    """Let a pod prefer the nodes that have its input."""
    try:
        # Inside of a pod of the executor there is nothing to place.
        if _EXECUTORS_POD not in os.environ and settings.get_placement().enabled:
            _prefer(pod, settings.get_placement())
    except Exception as error:
        log.warning("[vineyard] placement: a pod is created without: %s: %s", type(error).__name__, error)


def preferred_terms(shares: Mapping[str, int], minimum: int) -> Dict[str, int]:
    """Return the weight of each node that is preferred, 100 for the one with the largest share.

    Args:
        shares: bytes of the input, by node.
        minimum: the smallest share for which a node is preferred.
    """
    usable = {node: size for node, size in shares.items() if size > 0 and size >= minimum and _NODE.match(node)}
    order = sorted(usable, key=lambda node: (-usable[node], node))[:_MOST_NODES]
    return {node: max(1, _WEIGHT * usable[node] // usable[order[0]]) for node in order}


def _prefer(pod: Any, options: settings.PlacementSettings) -> None:
    from airflow_provider_vineyard.placement.rule import Choice
    from airflow_provider_vineyard.placement.sender import note
    from airflow_provider_vineyard.placement.shares import Reader, by_host, weigh

    reader = _reader(pod)
    if reader is None:
        return
    with version_compat.create_session() as session:
        if not _is_queued(session, reader):
            return
        shares = weigh(session, [Reader(*reader)], by_host).get(Reader(*reader), {})
        weights = preferred_terms(shares, options.minimum)
        if not weights:
            return
        _add(pod, weights)
        first = next(iter(weights))
        note(session, {Reader(*reader): Choice(first, shares[first], sum(shares.values()), 0.0)})


def _reader(pod: Any) -> Optional[List[Any]]:
    """Return which task instance a pod is for, or None if it is none of the executor's, or not for a first try."""
    containers = pod.spec.containers or []
    variables = {variable.name: variable.value for container in containers for variable in container.env or []}
    if variables.get(_EXECUTORS_POD) != "True":
        return None
    said = pod.metadata.annotations or {}
    if said.get("try_number") != "1" or not {"dag_id", "run_id", "task_id"} <= said.keys():
        return None
    return [said["dag_id"], said["run_id"], said["task_id"], int(said.get("map_index", -1))]


def _is_queued(session: Any, reader: List[Any]) -> bool:
    from sqlalchemy import select

    table = version_compat.task_instance_model().__table__.c
    columns = (table.dag_id, table.run_id, table.task_id, table.map_index)
    query = select(table.state).where(*(column == value for column, value in zip(columns, reader)))
    return bool(session.execute(query).scalar() == "queued")


def _add(pod: Any, weights: Mapping[str, int]) -> None:
    """Add preferences to what a pod requires and prefers already."""
    models: Any = import_module("kubernetes.client").models
    # What it has may be the template's own, which later pods are made from.
    affinity = copy.deepcopy(pod.spec.affinity) or models.V1Affinity()
    node_affinity = affinity.node_affinity = affinity.node_affinity or models.V1NodeAffinity()
    preferred = list(node_affinity.preferred_during_scheduling_ignored_during_execution or ())
    for node, weight in weights.items():
        named = models.V1NodeSelectorRequirement(key="metadata.name", operator="In", values=[node])
        term = models.V1NodeSelectorTerm(match_fields=[named])
        preferred.append(models.V1PreferredSchedulingTerm(weight=weight, preference=term))
    node_affinity.preferred_during_scheduling_ignored_during_execution = preferred
    pod.spec.affinity = affinity
