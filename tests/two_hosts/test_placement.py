"""Placement on two worker hosts: real Airflow, Celery, PostgreSQL and Redis; what crosses the link is counted.

The same pipelines run with and without it, and a table of both is printed (``pytest -s``). Then things fail: a host
that is full, one that is gone, a scheduler that is killed while a message waits, and two schedulers at once.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import pytest
from vineyard_testing.machines import DATA, ROOT, Machines, missing, wait_until

pytestmark = pytest.mark.airflow

HERE = Path(__file__).parent
DAGS = ("flights", "chain", "readers", "pair")
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


class Airflow:
    """The hosts, and what tests do with them."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vy2p-"))
        self.marks = self._folder / "marks"
        dags = self._folder / "dags"
        for folder in (self.marks, dags):
            folder.mkdir()
        for file in (ROOT / "examples" / "dags" / "flights.py", HERE / "dags" / "placement.py"):
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

    def waits(self) -> Dict[str, int]:
        """Return how many messages are in the queues of hosts."""
        return {host: int(self.machines.redis("llen", f"default@{place}")) for place, host in HOSTS.items()}

    def gate(self, slots: int) -> None:
        """Open or close the pool in which reading waits for the test."""
        body = {"pool": "gate", "slots": slots, "description": "", "include_deferred": False}
        self.machines.rest("PATCH", "/pools/gate", body)


@pytest.fixture(scope="module")
def airflow() -> Iterator[Airflow]:
    """Three hosts with Airflow on them, placement on."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    hosts = Airflow()
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()


@pytest.fixture(scope="module")
def placed(airflow: Airflow) -> Dict[str, Run]:
    """Run each pipeline with placement."""
    return {dag_id: airflow.run(dag_id) for dag_id in ("flights", "chain", "readers")}


def test_workers_listen_to_their_hosts(airflow: Airflow) -> None:
    """Each worker was told of one queue and listens to two; `doctor` says so."""
    expected = [f"default@{place}" for place in HOSTS]

    def said() -> bool:
        text = airflow.machines.run("a", "airflow-vineyard", "doctor")
        return "Workers that answer: 2; queues of hosts: " in text and all(name in text for name in expected)

    # On a machine with more to do a worker may not answer in time.
    wait_until(said, "both workers' answers", 120, airflow.machines.check_alive)


def test_large_values_stay_where_they_are(airflow: Airflow, placed: Dict[str, Run]) -> None:
    """Less than a megabyte crosses the link, of some 75 and 600 that are handed on."""
    assert placed["flights"].moved < 1_000_000
    assert placed["chain"].moved < 1_000_000
    assert len(set(placed["chain"].hosts.values())) == 1


def test_many_readers_use_both_hosts(placed: Dict[str, Run]) -> None:
    """Those for whom there is no slot where the value is run on the other host, and bring it there once."""
    run = placed["readers"]
    assert len(run.hosts) == 9
    assert set(Counter(run.hosts.values())) == set(DATA)
    assert run.moved < 110_000_000


def test_the_audit_log_says_so(airflow: Airflow, placed: Dict[str, Run]) -> None:
    """Each task that was placed is in it, with host and bytes."""
    rows = airflow.machines.query("select task_id, extra from log where event = 'placed' and dag_id = 'chain'")
    assert len(rows) == 5
    assert all("has 100000" in extra and "bytes of its inputs" in extra for _, extra in rows)


def test_a_host_that_is_gone(airflow: Airflow) -> None:
    """Its worker was killed: what reads the value there runs elsewhere, after the wait, in the same try."""
    host, run_id = begun(airflow)
    airflow.machines.end(f"worker-{host}")
    try:
        airflow.gate(1)
        airflow.finished(run_id)
        assert airflow.hosts(run_id)["read[-1]"] == other(host)
        assert tries(airflow, run_id) == 1
    finally:
        airflow.machines.worker(host)
        wait_until(lambda: airflow.listens(host), "worker", 180, airflow.machines.check_alive)


def test_a_scheduler_that_is_killed(airflow: Airflow) -> None:
    """A message waits for a host that is gone; the scheduler dies; the next one moves it, and it runs once."""
    host, run_id = begun(airflow)
    airflow.machines.end(f"worker-{host}")
    try:
        airflow.gate(1)
        wait_until(lambda: airflow.waits()[host], "a message that waits", 60, airflow.machines.check_alive)
        airflow.machines.end("scheduler")
        assert airflow.waits()[host] == 1
        time.sleep(3)
        assert airflow.waits()[host] == 1
        airflow.scheduler()
        airflow.finished(run_id)
        assert airflow.waits()[host] == 0
        assert airflow.hosts(run_id)["read[-1]"] == other(host)
        assert tries(airflow, run_id) == 1
    finally:
        airflow.machines.worker(host)
        wait_until(lambda: airflow.listens(host), "worker", 180, airflow.machines.check_alive)


def test_two_schedulers(airflow: Airflow, placed: Dict[str, Run]) -> None:
    """Both look at the same queues, and each task runs once."""
    airflow.scheduler("second")
    try:
        run = airflow.run("readers")
    finally:
        airflow.machines.end("second")
    assert len(run.hosts) == 9
    assert set(run.hosts.values()) == set(DATA)


def test_without(airflow: Airflow, placed: Dict[str, Run]) -> None:
    """Switched off in the scheduler, it is the plain executor: nothing is sent to a host; and the table of both."""
    airflow.machines.end("scheduler")
    airflow.scheduler(placement=False)
    before = airflow.machines.query("select count(*) from log where event = 'placed'")
    plain = {dag_id: airflow.run(dag_id) for dag_id in placed}
    assert airflow.machines.query("select count(*) from log where event = 'placed'") == before
    print("\n| DAG | moved without | moved with | run without | run with |\n|---|--:|--:|--:|--:|")
    for dag_id, run in placed.items():
        off = plain[dag_id]
        cells = [
            f"{off.moved / 1e6:.1f} MB",
            f"{run.moved / 1e6:.1f} MB",
            f"{off.seconds:.1f} s",
            f"{run.seconds:.1f} s",
        ]
        print(f"| {' | '.join([dag_id, *cells])} |")


def begun(airflow: Airflow) -> Any:
    """Start the run whose reader waits for the test; return where its value is, and its id, when the value is there."""
    airflow.gate(0)
    run_id = airflow.trigger("pair")

    def stored() -> List[Any]:
        query = f"select 1 from task_instance where run_id = '{run_id}' and task_id = 'begin' and state = 'success'"
        return airflow.machines.query(query)

    wait_until(stored, "the value", 120, airflow.machines.check_alive)
    return airflow.hosts(run_id)["begin[-1]"], run_id


def other(host: str) -> str:
    """Return the other host."""
    (found,) = set(DATA) - {host}
    return found


def tries(airflow: Airflow, run_id: str) -> Any:
    """Return which try of the reader it was."""
    query = f"select try_number from task_instance where run_id = '{run_id}' and task_id = 'read'"
    ((number,),) = airflow.machines.query(query)
    return number
