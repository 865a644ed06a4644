"""The smallest pipeline, as Airflow 2 writes it: extract, transform and load a few order values.

Nothing in this file mentions vineyard. With ``VineyardXCom`` configured as Airflow's XCom backend, what the tasks
return travels through it: small values like these stay in Airflow's database, larger ones go to shared memory.

Try it: ``airflow dags test v6d_etl $(date -u +%F)``
"""

from __future__ import annotations

from airflow.decorators import dag, task
from airflow.utils.dates import days_ago


@task(multiple_outputs=False)
def extract():
    """Return the orders of a day: order number and value."""
    return {"1001": 301.27, "1002": 433.21, "1003": 502.22, "1004": 17.5}


@task(multiple_outputs=True)
def transform(orders):
    """Count the orders and sum up their values."""
    return {"count": len(orders), "total": sum(orders.values())}


@task
def load(count, total):
    """Print the figures; a real pipeline would write them to a database."""
    print(f"{count} orders worth {total:,.2f}")


@dag(schedule_interval=None, start_date=days_ago(2), tags=["vineyard", "example"])
def v6d_etl():
    """Orders of a day, counted and summed up."""
    summary = transform(extract())
    load(summary["count"], summary["total"])


etl = v6d_etl()
