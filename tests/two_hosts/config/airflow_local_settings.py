"""A cluster policy: no task of the flights pipeline runs on the host of the task that it gets its data from."""

from __future__ import annotations

from typing import Any

HOSTS = {
    "extract": "a",
    "airline_names": "a",
    "clean": "b",
    "delays_per_carrier": "a",
    "delays_per_hour": "a",
    "report": "b",
}


def task_policy(task: Any) -> None:
    """Send each task to the queue of its host; those of other pipelines to the first."""
    task.queue = HOSTS.get(task.task_id, "a")
