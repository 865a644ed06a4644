"""Fan out and join: one frame is read by six tasks at once, a last task joins what they found.

The frame is stored once. On one host, each of the six tasks maps the same memory instead of reading a copy of its own
from a database; a task may still change what it got, the others do not see it.

Try it: ``airflow dags test v6d_dag``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import dag, task

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ["min", "max", "mean", "std", "var", "median"]


@task
def measure() -> pd.DataFrame:
    """Return 100,000 readings of six sensors."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(6)
    return pd.DataFrame(rng.normal(20.0, 5.0, size=(100_000, 6)), columns=list("ABCDEF"))


@task
def describe(readings: pd.DataFrame, statistic: str) -> pd.Series:
    """Return one statistic of each sensor."""
    return readings.agg(statistic)


@task
def load(results: dict[str, pd.Series]) -> None:
    """Join the statistics to one table and print it."""
    import pandas as pd

    print(pd.DataFrame(results).round(3).to_string())


@dag(schedule=None, tags=["vineyard", "example"])
def v6d_dag():
    """Six statistics of one frame."""
    readings = measure()
    load({name: describe.override(task_id=name)(readings, name) for name in STATISTICS})


v6d_dag()
