"""Fan out and join, as Airflow 2 writes it: one frame is read by six tasks, a last task joins what they found.

The frame is stored once. On one host, each of the six tasks maps the same memory instead of reading a copy of its own
from a database; a task may still change what it got, the others do not see it.

Try it: ``airflow dags test v6d_dag $(date -u +%F)``
"""

from __future__ import annotations

from airflow.decorators import dag, task
from airflow.operators.python import PythonOperator
from airflow.utils.dates import days_ago

STATISTICS = ["min", "max", "mean", "std", "var", "median"]


@task
def measure():
    """Return 100,000 readings of six sensors."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(6)
    return pd.DataFrame(rng.normal(20.0, 5.0, size=(100_000, 6)), columns=list("ABCDEF"))


def describe(readings, statistic):
    """Return one statistic of each sensor."""
    return readings.agg(statistic)


@task
def load(results):
    """Join the statistics to one table and print it."""
    import pandas as pd

    print(pd.DataFrame(results).round(3).to_string())


@dag(schedule_interval=None, start_date=days_ago(2), tags=["vineyard", "example"])
def v6d_dag():
    """Six statistics of one frame; before Airflow 2.2, one function makes several tasks only through the operator."""
    readings = measure()
    tasks = {
        name: PythonOperator(
            task_id=name, python_callable=describe, op_kwargs={"readings": readings, "statistic": name}
        )
        for name in STATISTICS
    }
    load({name: task.output for name, task in tasks.items()})


statistics = v6d_dag()
