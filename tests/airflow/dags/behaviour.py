"""What tasks may do with the values they receive and push; test_values.py looks at what became of them."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path

from generation import VERSION, dag, get_current_context, task


@task
def produce():
    """Return a frame with missing values and timestamps, and an array whose memory can be written to directly."""
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame(
        {
            "number": np.arange(1000),
            "name": pd.Series(["x", None] * 500, dtype="string"),
            "at": pd.date_range("2024-01-01", periods=1000, freq="h", tz="Europe/Berlin"),
        }
    )
    return {"frame": frame, "array": np.arange(100_000.0)}


@task
def change(values):
    """Write to everything that was received."""
    values["array"][:] = -1
    values["frame"].loc[0, "number"] = -1
    values["frame"].drop(columns="at", inplace=True)
    return [float(values["array"].sum()), int(values["frame"]["number"].sum()), list(values["frame"].columns)]


@task
def read(values):
    """Look at what another task has been writing to."""
    return [float(values["array"].sum()), int(values["frame"]["number"].sum()), list(values["frame"].columns)]


@task(multiple_outputs=False)
def small():
    """Return what JSON can carry exactly."""
    return {"text": "ä\u2028", "numbers": [1, -2.5, 2**53], "nothing": None, "flags": [True, False], "empty": {}}


@task
def check_small(value, expected):
    """Compare with what a template and the argument deliver."""
    assert value == expected
    assert get_current_context()["ti"].xcom_pull(task_ids="small") == expected


@task
def nothing():
    """Return None, which pushes nothing."""


@task(retries=1, retry_delay=timedelta(0))
def retried():
    """Push a value, fail; when run again, push another one. Print what the store has of it at each step."""
    import numpy as np

    import vineyard_client
    from airflow_provider_vineyard.settings import get_settings

    ti = get_current_context()["ti"]
    client = vineyard_client.connect(get_settings().ipc_socket)

    def stored():
        return [info.ref.id for info in client.list(labels={"task_id": "retried"})]

    # Not ti.try_number: in `dags test`, what it says of a second try differs by release.
    tries = Path(os.environ["AIRFLOW_HOME"], "tries")
    number = len(tries.read_text()) + 1 if tries.exists() else 1
    tries.write_text("x" * number)
    before = stored()
    ti.xcom_push("array", np.full(1000, number))
    print(json.dumps({"try": number, "before": before, "after": stored()}))
    if number == 1:
        raise RuntimeError("The first try fails, on purpose.")


@dag
def behaviour():
    values = produce()
    change(values) >> read(values)
    result = small()
    check_small(result, result)
    nothing()
    if VERSION >= (2, 5):  # before, `dags test` makes no second try
        values >> retried()


behaviour_dag = behaviour()
