"""Run the task of dags/deferral.py until it is deferred, do what a triggerer does, and run it again.

Prints, as JSON, both states, and what it pushed before and returned after. For Airflow 2.2 to 2.7.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone

from airflow.models import DagBag
from airflow.models.trigger import Trigger
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from airflow.utils.state import State

dag = DagBag(include_examples=False).get_dag("deferral")
dag.sync_to_db()
moment = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
run = dag.create_dagrun(run_id="one", execution_date=moment, state=State.RUNNING, start_date=moment, run_type="manual")
task = dag.get_task("waits")
instance = run.get_task_instance("waits")
instance.refresh_from_task(task)
instance._run_raw_task()
states = [instance.state]
with create_session() as session:
    (trigger,) = session.query(Trigger.id).one()
    Trigger.submit_event(trigger, TriggerEvent(True), session=session)
instance = run.get_task_instance("waits")
instance.refresh_from_task(task)
instance._run_raw_task()
pulled = [instance.xcom_pull(task_ids="waits", key=key) for key in ("before", "return_value")]
print(json.dumps([*states, instance.state, *pulled]))
