"""Run a task instance of Airflow 2 twice; print, as JSON, what the store has after each, and the value at the end."""

from __future__ import annotations

import json
from datetime import datetime, timezone

from airflow.models import DAG
from airflow.operators.python import PythonOperator
from airflow.utils.state import State

import vineyard_client
from airflow_provider_vineyard.settings import get_settings

DAY = datetime(2022, 1, 1, tzinfo=timezone.utc)
runs = []


def count():
    """Return the number of the run, as a value that a row cannot hold."""
    runs.append(None)
    return {len(runs)}


with DAG("twice", start_date=DAY, schedule_interval=None) as dag:
    task = PythonOperator(task_id="count", python_callable=count)
dag.create_dagrun(
    run_id="manual__one", start_date=DAY, execution_date=DAY, state=State.RUNNING, data_interval=(DAY, DAY)
)
(run,) = dag.get_dagruns_between(DAY, DAY)
stored = []
for _ in range(2):
    instance = run.get_task_instance("count")
    instance.refresh_from_task(task)
    instance.run(ignore_all_deps=True, ignore_ti_state=True)
    with vineyard_client.connect(get_settings().ipc_socket) as client:
        stored.append([info.ref.id for info in client.list()])
print(json.dumps([*stored, sorted(instance.xcom_pull(task_ids="count"))]))
