"""The flights pipeline on two worker hosts, each task on another host than the one it gets its data from."""

from __future__ import annotations

import json
import sys
from typing import Any, Dict, Iterator

import pytest
from vineyard_testing.machines import DATA, Machines, missing, wait_until

pytestmark = pytest.mark.airflow

# Runs on a worker host: compares what the store gives for the rows with the same functions run in one process.
COMPARE = """
import json, sys
import pandas as pd
import vineyard_client as vc
import flights as pipeline
from airflow_provider_vineyard.reference import RowReference

rows = json.load(sys.stdin)
client = vc.connect()
got = {task: client.get(RowReference.parse(row).ref) for task, row in rows.items()}
raw = pipeline.extract.function()
pd.testing.assert_frame_equal(got["extract"], raw)
clean = pipeline.clean.function(raw.copy())
pd.testing.assert_frame_equal(got["clean"], clean)
pd.testing.assert_frame_equal(got["delays_per_carrier"], pipeline.delays_per_carrier.function(clean))
pd.testing.assert_frame_equal(got["delays_per_hour"], pipeline.delays_per_hour.function(clean))
print("equal:", *sorted(got))
"""


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    """Three hosts with Airflow on them."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    hosts = Machines()
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()


@pytest.fixture(scope="module")
def rows(machines: Machines) -> Dict[str, Any]:
    """Run the pipeline; return the rows of its XComs by task."""

    def ready() -> bool:
        parsed = machines.query("select 1 from serialized_dag where dag_id = 'flights'")
        workers = [machines.folder / f"worker-{host}.log" for host in DATA]
        return bool(parsed) and all(" ready." in log.read_text(errors="replace") for log in workers)

    wait_until(ready, "DAG parsed, workers ready", 180, machines.check_alive)
    machines.run("control", "airflow", "dags", "unpause", "flights")
    machines.run("control", "airflow", "dags", "trigger", "flights")

    def ended() -> Any:
        states = machines.query("select state from dag_run where dag_id = 'flights'")
        return [state for (state,) in states if state in ("success", "failed")]

    state = wait_until(ended, "the run's end", 300, machines.check_alive)
    tasks = machines.query("select task_id, state, hostname, queue from task_instance where dag_id = 'flights'")
    assert state == ["success"], tasks
    found = machines.query("select task_id, value from xcom where dag_id = 'flights' and key = 'return_value'")
    return {task: value if isinstance(value, (dict, list)) else json.loads(value) for task, value in found}


def test_each_value_crosses_once(machines: Machines, rows: Dict[str, Any]) -> None:
    """Between the hosts went each value that the other host needed, once, and hardly anything else."""
    sizes = {task: row["vineyard"]["size"] for task, row in rows.items() if "vineyard" in row}
    assert sizes.keys() >= {"extract", "clean", "delays_per_carrier", "delays_per_hour"}
    to_b = sizes["extract"] + sizes["delays_per_carrier"] + sizes["delays_per_hour"]
    to_a = sizes["clean"]  # which two tasks read there
    for host, expected in (("a", to_a), ("b", to_b)):
        received = machines.received(host)
        # Headers of TCP, the exchanges about the objects, and acknowledgements of what went the other way.
        assert expected <= received <= expected * 1.1 + 300_000, (host, expected, received)


def test_rows_name_the_host_that_has_the_value(machines: Machines, rows: Dict[str, Any]) -> None:
    """References carry the endpoint that the operator configured on the producer's host."""
    endpoints = {task: row["vineyard"]["endpoint"] for task, row in rows.items() if "vineyard" in row}
    assert endpoints["extract"] == endpoints["delays_per_hour"] == f"{DATA['a']}:9600"
    assert endpoints["clean"] == f"{DATA['b']}:9600"


def test_frames_equal_those_of_a_single_process(machines: Machines, rows: Dict[str, Any]) -> None:
    """What the tasks handed on equals what the same functions return without Airflow and vineyard, on either host."""
    references = {task: row for task, row in rows.items() if "vineyard" in row}
    for host in DATA:
        line, env = machines.command(host, sys.executable, "-c", COMPARE)
        env["VINEYARD_IPC_SOCKET"] = machines.socket(host)
        env["PYTHONPATH"] += f":{env['AIRFLOW__CORE__DAGS_FOLDER']}"
        printed = machines.run(host, "env", *_settings(env), *line[4:], input=json.dumps(references))
        assert "equal: clean delays_per_carrier delays_per_hour extract" in printed


def _settings(env: Dict[str, str]) -> list[str]:
    return [f"{name}={env[name]}" for name in ("VINEYARD_IPC_SOCKET", "PYTHONPATH")]
