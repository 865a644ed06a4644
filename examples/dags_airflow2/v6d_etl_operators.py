"""Extract, transform and load in Airflow's classic form: operators, and values pulled by the name of the task.

``ti.xcom_push`` and ``ti.xcom_pull`` go through the XCom backend like what a task returns, and so does a template that
pulls a value. The orders of two shops are pulled at once, as a list.

Try it: ``airflow dags test v6d_etl_operators $(date -u +%F)``
"""

from __future__ import annotations

from airflow.models import DAG
from airflow.operators.bash import BashOperator
from airflow.operators.python import PythonOperator
from airflow.utils.dates import days_ago


def extract(ti, first):
    """Push two thousand orders of a shop, more than stays in the database, under a key of their own."""
    ti.xcom_push(key="orders", value={number: number / 100 for number in range(first, first + 2000)})


def transform(ti):
    """Return the number of orders of both shops and what they are worth."""
    north, south = ti.xcom_pull(key="orders", task_ids=["extract_north", "extract_south"])
    return {"count": len(north) + len(south), "total": sum(north.values()) + sum(south.values())}


def load(ti):
    """Print the figures; a real pipeline would write them to a database."""
    summary = ti.xcom_pull(task_ids="transform")
    print(f"{summary['count']} orders worth {summary['total']:,.2f}")


with DAG("v6d_etl_operators", schedule_interval=None, start_date=days_ago(2), tags=["vineyard", "example"]) as etl:
    shops = [
        PythonOperator(task_id="extract_north", python_callable=extract, op_kwargs={"first": 1001}),
        PythonOperator(task_id="extract_south", python_callable=extract, op_kwargs={"first": 5001}),
    ]
    summed_up = PythonOperator(task_id="transform", python_callable=transform)
    printed = PythonOperator(task_id="load", python_callable=load)
    announced = BashOperator(
        task_id="announce", bash_command="echo today: {{ ti.xcom_pull(task_ids='transform')['count'] }} orders"
    )
    shops >> summed_up >> [printed, announced]
