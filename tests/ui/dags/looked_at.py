"""Values for people to look at: a frame, an array, nested containers, texts that would be markup, mapped tasks."""

from __future__ import annotations

from datetime import datetime

from airflow.sdk import dag, task

EVIL = "<img src=x onerror=document.title='struck'>"


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def looked_at() -> None:
    """Return values of each kind."""

    @task
    def frame() -> object:
        import pandas as pd

        return pd.DataFrame({"city": ["Oslo", "Rome"] * 5000, EVIL: range(10_000)})

    @task
    def nested() -> object:
        return {"model": {EVIL: [1, 2.5, None]}, "path": (EVIL, "x" * 20_000)}

    @task
    def array() -> object:
        import numpy as np

        return np.arange(5000, dtype=float).reshape(100, 50) / 2

    @task
    def text() -> object:
        return EVIL + "x" * 100_000

    @task
    def spare() -> object:
        return "x" * 100_000

    @task
    def small() -> object:
        return {"answer": 42}

    @task
    def square(number: int) -> object:
        return {"squares": tuple(number * number for _ in range(3000)), "number": number}

    frame()
    nested()
    array()
    text()
    spare()
    small()
    square.expand(number=[3, 4])


looked_at()
