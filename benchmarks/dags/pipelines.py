"""The DAGs that ``benchmarks/pipelines.py`` runs."""

from __future__ import annotations

from typing import Any

from airflow.sdk import dag, task

# Of each frame that the tasks of the chain pass on.
MEGABYTES = "{{ dag_run.conf['megabytes'] }}"

LINKS, CONSUMERS = 10, 8


@dag(schedule=None)
def noop() -> None:
    """Three tasks with small values."""

    @task
    def step(before: Any = None) -> dict[str, Any]:
        return {"step": 1, "before": before}

    step(step(step()))


@dag(schedule=None)
def chain() -> None:
    """Ten tasks, each of which changes the frame of the one before and passes it on."""

    @task
    def make(megabytes: str) -> Any:
        import numpy as np
        import pandas as pd

        frame = pd.DataFrame(np.random.default_rng(1).random((int(megabytes) * 12_500, 10)), columns=list("abcdefghij"))
        frame.loc[0, "a"] = 0
        return frame

    @task
    def link(megabytes: str, number: int, frame: Any) -> Any:
        if len(frame) != int(megabytes) * 12_500 or frame.loc[0, "a"] != number - 1:
            raise ValueError("this is not the frame that was passed on")
        frame.loc[0, "a"] = number
        return frame

    frame = make(MEGABYTES)
    for number in range(1, LINKS):
        frame = link.override(task_id=f"link{number}")(MEGABYTES, number, frame)


@dag(schedule=None, max_active_tasks=1)
def consumers() -> None:
    """Tasks that receive a frame of 100,000 rows, one after the other."""

    @task
    def make() -> Any:
        import numpy as np
        import pandas as pd

        return pd.DataFrame({"a": np.arange(100_000), "b": np.random.default_rng(1).random(100_000)})

    @task
    def consume(frame: Any) -> float:
        return float(frame["b"].sum())

    frame = make()
    for number in range(CONSUMERS):
        consume.override(task_id=f"consume{number}")(frame)


noop()
chain()
consumers()
