"""Run a task with several outputs through the models of Airflow 2; print which of them come back as they were.

It happens in one process, as in the tests of vineyard's own provider. Prints, as JSON, the configured backend, and for
plain values and for data the keys that are right and whether the whole is.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone

import numpy as np
import pandas as pd
from airflow.decorators import task
from airflow.models import DAG
from airflow.models.xcom import XCom
from airflow.utils.state import State

DAY = datetime(2016, 1, 1, tzinfo=timezone.utc)
FRAME = pd.DataFrame({"left": np.arange(10), "right": np.arange(10, 20)})
ARRAY = np.random.default_rng(1).random((10, 20))


def instance_of(dag_id, outputs):
    """Run a task that returns a dict of outputs; return its instance."""

    @task(multiple_outputs=True)
    def several(number):
        return outputs(number)

    with DAG(dag_id, start_date=DAY, schedule_interval=None) as dag:
        node = several(10)
    run = dag.create_dagrun(
        run_id="manual__one", start_date=DAY, execution_date=DAY, state=State.RUNNING, data_interval=(DAY, DAY)
    )
    node.operator.run(start_date=DAY, end_date=DAY)
    (instance,) = run.get_task_instances()
    assert instance.state == State.SUCCESS, instance.state
    # What is pulled is asked of the task's own DAG run.
    instance.refresh_from_task(node.operator)
    return instance


def same(left, right):
    """Tell whether two values are equal and of one type."""
    if type(left) is not type(right):
        return False
    if isinstance(left, pd.DataFrame):
        return left.equals(right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return left == right


def check(dag_id, outputs):
    """Compare each key, and the whole, with what was returned."""
    instance = instance_of(dag_id, outputs)
    expected = outputs(10)
    right = [key for key, value in expected.items() if same(instance.xcom_pull(task_ids="several", key=key), value)]
    whole = instance.xcom_pull(task_ids="several")
    return right, list(whole) == list(expected) and all(same(whole[key], value) for key, value in expected.items())


print(
    json.dumps(
        [
            f"{XCom.__module__}.{XCom.__name__}",
            check("plain", lambda number: {"number": number + 1, "43": 43}),
            check("data", lambda number: {"number": FRAME, "43": ARRAY, "argument": number}),
        ]
    )
)
