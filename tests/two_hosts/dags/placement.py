"""Pipelines whose values are large: a chain of tasks, one with many readers, and those that wait for the test."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from airflow.sdk import dag, get_current_context, task

BYTES = 100_000_000


def came_here() -> None:
    """Leave a mark for each time that a task's code runs, with the name of the host."""
    context = get_current_context()
    instance = context["ti"]
    name = f"{instance.run_id}.{instance.task_id}.{instance.map_index}.{time.time_ns()}"
    Path(os.environ["MARKS"], name).write_text(os.environ["AIRFLOW__VINEYARD__RPC_ENDPOINT"])


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def chain() -> None:
    """Hand an array through six tasks, each of which makes another of it."""

    @task
    def begin() -> np.ndarray:
        came_here()
        return np.ones(BYTES // 8)

    @task
    def step(array: np.ndarray) -> np.ndarray:
        came_here()
        return array + 1

    array = begin()
    for _ in range(5):
        array = step(array)


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def readers() -> None:
    """Have one array read by eight tasks that take their time."""

    @task
    def begin() -> np.ndarray:
        came_here()
        return np.ones(BYTES // 8)

    @task
    def read(array: np.ndarray, number: int) -> float:
        came_here()
        time.sleep(6)
        return float(array[number])

    read.partial(array=begin()).expand(number=list(range(8)))


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def pair() -> None:
    """Have an array read when the test opens the gate, which is a pool."""

    @task
    def begin() -> np.ndarray:
        came_here()
        return np.ones(BYTES // 8)

    @task(pool="gate")
    def read(array: np.ndarray) -> float:
        came_here()
        return float(array[0])

    read(begin())


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def crowded() -> None:
    """Make three arrays of one, when the test opens the gate."""

    @task
    def begin() -> np.ndarray:
        came_here()
        return np.ones(BYTES // 8)

    @task(pool="gate", retries=1, retry_delay=timedelta(seconds=5))
    def grow(array: np.ndarray) -> np.ndarray:
        came_here()
        return np.concatenate([array, array, array])

    grow(begin())


chain()
readers()
pair()
crowded()
