"""Two worker hosts with placement, and pipelines whose values are large: what tests and benchmarks do with them."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

from .machines import DATA, ROOT, Machines, wait_until

__all__ = ["HOSTS", "PlacedHosts", "Run"]

DAGS = ("flights", "chain", "readers", "pair", "crowded")
HOSTS = {f"{address}:9600": host for host, address in DATA.items()}
# Deletes what a store has, but for what another test may read.
EMPTY = """
import sys, vineyard_client as vc
with vc.connect(sys.argv[1]) as client:
    for info in client.list():
        if info.labels.get("dag_id") != "pair":
            client.delete(info.ref)
    client.collect()
"""
EXECUTOR = "airflow_provider_vineyard.executors.celery.VineyardCeleryExecutor"


class Run(NamedTuple):
    """A run that ended: bytes that crossed the link, how long it took, and where its tasks' code ran."""

    moved: int
    seconds: float
    hosts: Dict[str, str]


class PlacedHosts:
    """The hosts, and what tests do with them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vy2p-"))
        self.marks = self._folder / "marks"
        dags = self._folder / "dags"
        for folder in (self.marks, dags):
            folder.mkdir()
        for file in (ROOT / "examples" / "dags" / "flights.py", ROOT / "tests" / "two_hosts" / "dags" / "placement.py"):
            shutil.copy(file, dags)
        env = {
            "PYTHONPATH": "",
            "MARKS": str(self.marks),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTOR": EXECUTOR,
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "4",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__VINEYARD__PLACEMENT": "True",
            "AIRFLOW__VINEYARD__PLACEMENT_BANDWIDTH": "50M",
        }
        self.machines = Machines(env, queues="default", size="3Gi")

    def start(self) -> None:
        """Bring everything up."""
        self.machines.start()

        def ready() -> bool:
            parsed = {dag_id for (dag_id,) in self.machines.query("select dag_id from serialized_dag")}
            return set(DAGS) <= parsed and all(self.listens(host) for host in DATA) and self.answers()

        wait_until(ready, "DAGs parsed, workers ready", 300, self.machines.check_alive)
        self.machines.rest("POST", "/pools", {"name": "gate", "slots": 0})

    def answers(self) -> bool:
        """Tell whether the API server does."""
        with contextlib.suppress(RuntimeError):
            return bool(self.machines.rest("GET", "/version", None))
        return False

    def listens(self, host: str) -> bool:
        """Tell whether the worker of a host has come up."""
        return " ready." in (self.machines.folder / f"worker-{host}.log").read_text(errors="replace")

    def stop(self) -> None:
        """End everything."""
        self.machines.stop()
        shutil.rmtree(self._folder)

    def scheduler(self, name: str = "scheduler", *, placement: bool = True) -> None:
        """Start a scheduler."""
        self.machines.env["AIRFLOW__VINEYARD__PLACEMENT"] = str(placement)
        self.machines.launch("control", name, "airflow", "scheduler")

    def trigger(self, dag_id: str) -> str:
        """Start a run and return its id."""
        run_id = f"{dag_id}-{uuid.uuid4().hex}"
        self.machines.rest("POST", f"/dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "logical_date": None})
        return run_id

    def finished(self, run_id: str) -> None:
        """Return when a run has succeeded."""

        def ended() -> List[Any]:
            rows = self.machines.query(f"select state from dag_run where run_id = '{run_id}'")
            return [state for (state,) in rows if state in ("success", "failed")]

        state = wait_until(ended, f"the end of {run_id}", 300, self.machines.check_alive)
        query = f"select task_id, map_index, state, try_number, hostname from task_instance where run_id = '{run_id}'"
        assert state == ["success"], self.machines.query(query)

    def run(self, dag_id: str) -> Run:
        """Run a DAG on its own."""
        before = self.crossed()
        run_id = self.trigger(dag_id)
        self.finished(run_id)
        query = f"select extract(epoch from end_date - start_date) from dag_run where run_id = '{run_id}'"
        ((seconds,),) = self.machines.query(query)
        moved = self.crossed() - before
        # The next run has all of the store again.
        for host in DATA:
            self.machines.run(host, sys.executable, "-c", EMPTY, self.machines.socket(host))
        return Run(moved, float(seconds), self.hosts(run_id))

    def crossed(self) -> int:
        """Return how many bytes have crossed the link, in both directions."""
        return sum(self.machines.received(host) for host in DATA)

    def hosts(self, run_id: str) -> Dict[str, str]:
        """Return where each of a run's task instances ran; each must have run once."""
        found: Dict[str, str] = {}
        for mark in sorted(self.marks.glob(f"{run_id}.*")):
            task, index = mark.name[len(run_id) + 1 :].split(".")[:2]
            assert f"{task}[{index}]" not in found, f"{task}[{index}] of {run_id} ran twice"
            found[f"{task}[{index}]"] = HOSTS[mark.read_text()]
        return found

    def where(self, run_id: str, task_id: str) -> List[str]:
        """Return the hosts on which the code of a task has run, the first try first."""
        marks = sorted(self.marks.glob(f"{run_id}.{task_id}.-1.*"), key=lambda mark: int(mark.suffix[1:]))
        return [HOSTS[mark.read_text()] for mark in marks]

    def waits(self) -> Dict[str, int]:
        """Return how many messages are in the queues of hosts."""
        return {host: int(self.machines.redis("llen", f"default@{place}")) for place, host in HOSTS.items()}

    def gate(self, slots: int) -> None:
        """Open or close the pool in which reading waits for the test."""
        body = {"pool": "gate", "slots": slots, "description": "", "include_deferred": False}
        self.machines.rest("PATCH", "/pools/gate", body)
