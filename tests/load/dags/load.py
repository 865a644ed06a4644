"""Three DAGs, forty tasks in all, whose values tell whose they are, so that a task and the test can verify each.

On their first try some tasks fail after they have pushed, are killed after they have pushed, or are killed while they
write into the store.
"""

from __future__ import annotations

import hashlib
import os
import signal
from datetime import timedelta
from typing import Any

from airflow.sdk import dag, get_current_context, task

SIZE = 100_000
LINKS, PARTS, OUTPUTS = 10, 20, 6


def make(*names: object) -> dict[str, Any]:
    """Return a value of some size that follows from its names."""
    text = "/".join(map(str, names))
    return {"of": text, "data": memoryview(hashlib.shake_256(text.encode()).digest(SIZE))}


def verify(value: dict[str, Any], *names: object) -> None:
    """Fail unless a value is the one with these names."""
    wanted = make(*names)
    if value["of"] != wanted["of"] or value["data"] != wanted["data"]:
        raise ValueError(f"{value['of']} came, or its data is another's; {wanted['of']} was wanted")


def stumble(how: str) -> None:
    """End a third of the first tries, with something left behind."""
    context = get_current_context()
    ti, run_id = context["ti"], context["run_id"]
    if ti.try_number > 1 or hashlib.sha256(f"{how}{run_id}".encode()).digest()[0] % 3:
        return
    ti.xcom_push(key="half", value=make(run_id, how))
    if how == "fails":
        raise RuntimeError("as it should, on its first try")
    if how == "is killed while it writes":
        from airflow_provider_vineyard.hooks.vineyard import VineyardHook

        with VineyardHook(vineyard_conn_id=None).get_conn().create(SIZE):
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


defaults = {"retries": 8, "retry_delay": timedelta(seconds=1), "max_retry_delay": timedelta(seconds=1)}


@dag(schedule=None, default_args=defaults)
def chain() -> None:
    """Ten tasks, each with the value of the one before."""

    @task(multiple_outputs=False)
    def link(number: int, before: Any = None) -> dict[str, Any]:
        run_id = get_current_context()["run_id"]
        if before is not None:
            verify(before, run_id, "link", number - 1)
        if number in (3, 5, 7):
            stumble({3: "fails", 5: "is killed", 7: "is killed while it writes"}[number])
        return make(run_id, "link", number)

    value = None
    for number in range(LINKS):
        value = link.override(task_id=f"link{number}")(number, value)


@dag(schedule=None, default_args=defaults)
def fan() -> None:
    """Twenty mapped tasks over a list that is a reference, and one that reads all their values."""

    @task
    def parts() -> list[dict[str, Any]]:
        run_id = get_current_context()["run_id"]
        return [make(run_id, "part", number) for number in range(PARTS)]

    @task(multiple_outputs=False)
    def work(part: dict[str, Any]) -> dict[str, Any]:
        context = get_current_context()
        verify(part, context["run_id"], "part", context["ti"].map_index)
        return make(context["run_id"], "work", context["ti"].map_index)

    @task
    def join(values: Any) -> int:
        run_id = get_current_context()["run_id"]
        for number, value in enumerate(values):
            verify(value, run_id, "work", number)
        stumble("is killed")
        return len(values)

    join(work.expand(part=parts()))


@dag(schedule=None, default_args=defaults)
def outputs() -> None:
    """Six values of one task, and a task for each."""

    @task(multiple_outputs=True)
    def split() -> dict[str, Any]:
        run_id = get_current_context()["run_id"]
        stumble("fails")
        return {f"output{number}": make(run_id, "output", number) for number in range(OUTPUTS)}

    @task
    def read(number: int, value: dict[str, Any]) -> int:
        verify(value, get_current_context()["run_id"], "output", number)
        return number

    @task
    def total(numbers: list[int]) -> None:
        if sorted(numbers) != list(range(OUTPUTS)):
            raise ValueError(f"{numbers}")

    values = split()
    total([read.override(task_id=f"read{number}")(number, values[f"output{number}"]) for number in range(OUTPUTS)])


chain()
fan()
outputs()
