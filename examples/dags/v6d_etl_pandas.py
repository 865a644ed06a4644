"""Extract, transform and load with pandas: a frame of 100,000 orders goes from task to task.

Tasks return frames as they would return any value. The heavy import stands inside the tasks, so that reading this
file stays quick for Airflow's DAG processor.

Try it: ``airflow dags test v6d_etl_pandas``
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import dag, task

if TYPE_CHECKING:
    import pandas as pd

ROWS = 100_000


@task
def extract() -> pd.DataFrame:
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
def transform(orders: pd.DataFrame) -> dict[str, pd.DataFrame | float]:
    """Sum up the orders of each region; the two results become two XComs."""
    regions = orders.groupby("region")["value"].agg(["count", "sum", "mean"])
    return {"regions": regions, "total": float(orders["value"].sum())}


@task
def load(regions: pd.DataFrame, total: float) -> None:
    """Print the figures; a real pipeline would write them to a database."""
    print(regions.round(2).to_string())
    print(f"total {total:,.2f}")


@dag(schedule=None, tags=["vineyard", "example"])
def v6d_etl_pandas():
    """Orders in a frame, summed up by region."""
    results = transform(extract())
    load(results["regions"], results["total"])


v6d_etl_pandas()
