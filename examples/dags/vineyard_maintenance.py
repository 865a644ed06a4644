"""Free, once a day, what no XCom needs any more in the vineyard store of this host, and in the tier behind it.

Airflow deletes XComs in many ways that no backend learns of: ``airflow db clean``, deleting runs or DAGs, the button in
the UI. Their values stay in vineyard until this finds that no row of Airflow's database refers to them.

``gc --orphans`` reads that database. On Airflow 3 a task has no access to it, so the host's environment must say where
it is, in ``VINEYARD_GC_DATABASE``: the same URL as ``[database] sql_alchemy_conn``, preferably of a user who may only
read. Without that variable the command uses what Airflow gives the task: on Airflow 2 and with ``airflow dags test``
that is the database, otherwise the command fails and says so.

Each host has a store of its own: with several worker hosts, make one task for each, with the host's ``queue``.

Try it: ``airflow dags test vineyard_maintenance``
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

with DAG(
    "vineyard_maintenance",
    description="Free what no XCom needs any more",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    params={"grace": Param("1h", type="string", pattern=r"^\d+[smhd]$", description="Younger values are left alone")},
    tags=["vineyard", "maintenance"],
):
    BashOperator(
        task_id="free_orphans",
        bash_command=(
            '${VINEYARD_GC_DATABASE:+env AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="$VINEYARD_GC_DATABASE"} '
            'airflow-vineyard gc --orphans --grace "$GRACE"'
        ),
        env={"GRACE": "{{ params.grace }}"},
        append_env=True,
        retries=2,
        retry_delay=timedelta(minutes=5),
    )
