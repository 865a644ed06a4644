"""Extract, transform and load with pandas, as Airflow 2 writes it: 100,000 orders go from task to task.

Tasks return frames as they would return any value. The heavy import stands inside the tasks, so that reading this
file stays quick for Airflow's scheduler.

Try it: ``airflow dags test v6d_etl_pandas $(date -u +%F)``
"""

from __future__ import annotations

from airflow.decorators import dag, task
from airflow.utils.dates import days_ago

ROWS = 100_000


@task
def extract():
    """Return the orders: number, region and value."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(2024)
    return pd.DataFrame(
        {
            "order": np.arange(ROWS),
            "region": rng.choice(["north", "east", "south", "west"], ROWS),
            "value": rng.gamma(2.0, 50.0, ROWS).round(2),
        }
    )


@task(multiple_outputs=True)
def transform(orders):
    """Sum up the orders of each region; the two results become two XComs."""
    regions = orders.groupby("region")["value"].agg(["count", "sum", "mean"])
    return {"regions": regions, "total": float(orders["value"].sum())}


@task
def load(regions, total):
    """Print the figures; a real pipeline would write them to a database."""
    print(regions.round(2).to_string())
    print(f"total {total:,.2f}")


@dag(schedule_interval=None, start_date=days_ago(2), tags=["vineyard", "example"])
def v6d_etl_pandas():
    """Orders in a frame, summed up by region."""
    results = transform(extract())
    load(results["regions"], results["total"])


etl = v6d_etl_pandas()
