"""Placement on two worker hosts: real Airflow, Celery, PostgreSQL and Redis; what crosses the link is counted.

The same pipelines run with and without it, and a table of both is printed (``pytest -s``). Then things fail: a host
that is full, one that is gone, one whose store is full, a scheduler that is killed while a message waits, and two
schedulers at once.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from typing import Any, Dict, Iterator, List

import pytest
from vineyard_testing.machines import DATA, missing, wait_until
from vineyard_testing.placed import EMPTY, HOSTS, PlacedHosts, Run

pytestmark = pytest.mark.airflow

# Fills a store until less than 200 MB are free.
FILL = """
import sys, vineyard_client as vc
with vc.connect(sys.argv[1]) as client:
    while client.status().memory_limit - client.status().memory_used > 200_000_000:
        client.put(bytes(100_000_000))
"""


@pytest.fixture(scope="module")
def airflow() -> Iterator[PlacedHosts]:
    """Three hosts with Airflow on them, placement on."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    hosts = PlacedHosts()
    try:
        hosts.start()
        yield hosts
    finally:
        hosts.stop()


@pytest.fixture(scope="module")
def placed(airflow: PlacedHosts) -> Dict[str, Run]:
    """Run each pipeline with placement."""
    return {dag_id: airflow.run(dag_id) for dag_id in ("flights", "chain", "readers")}


def test_workers_listen_to_their_hosts(airflow: PlacedHosts) -> None:
    """Each worker was told of one queue and listens to two; `doctor` says so."""
    expected = [f"default@{place}" for place in HOSTS]

    def said() -> bool:
        text = airflow.machines.run("a", "airflow-vineyard", "doctor")
        return "Workers that answer: 2; queues of hosts: " in text and all(name in text for name in expected)

    # On a machine with more to do a worker may not answer in time.
    wait_until(said, "both workers' answers", 120, airflow.machines.check_alive)


def test_large_values_stay_where_they_are(airflow: PlacedHosts, placed: Dict[str, Run]) -> None:
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


def test_the_audit_log_says_so(airflow: PlacedHosts, placed: Dict[str, Run]) -> None:
    """Each task that was placed is in it, with host and bytes."""
    rows = airflow.machines.query("select task_id, extra from log where event = 'placed' and dag_id = 'chain'")
    assert len(rows) == 5
    assert all("has 100000" in extra and "bytes of its inputs" in extra for _, extra in rows)


def test_a_host_that_is_gone(airflow: PlacedHosts) -> None:
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


def test_a_scheduler_that_is_killed(airflow: PlacedHosts) -> None:
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


def test_a_store_that_is_full(airflow: PlacedHosts) -> None:
    """What fails because of its host fails there once: its second try is not placed, and runs elsewhere."""
    host, run_id = begun(airflow, "crowded")
    socket = airflow.machines.socket(host)
    airflow.machines.run(host, sys.executable, "-c", FILL, socket)
    airflow.gate(1)

    def failed() -> bool:
        query = f"select state from task_instance where run_id = '{run_id}' and task_id = 'grow'"
        return airflow.machines.query(query) == [("up_for_retry",)]

    wait_until(failed, "the first try's end", 120, airflow.machines.check_alive)
    assert airflow.where(run_id, "grow") == [host]
    # Anybody may take the second try; here only the other host can.
    airflow.machines.end(f"worker-{host}")
    try:
        airflow.finished(run_id)
        assert airflow.where(run_id, "grow") == [host, other(host)]
        query = f"select count(*) from log where event = 'placed' and run_id = '{run_id}' and task_id = 'grow'"
        assert airflow.machines.query(query) == [(1,)]
    finally:
        airflow.machines.run(host, sys.executable, "-c", EMPTY, socket)
        airflow.machines.worker(host)
        wait_until(lambda: airflow.listens(host), "worker", 180, airflow.machines.check_alive)


def test_two_schedulers(airflow: PlacedHosts, placed: Dict[str, Run]) -> None:
    """Both look at the same queues, and each task runs once."""
    airflow.scheduler("second")
    try:
        run = airflow.run("readers")
    finally:
        airflow.machines.end("second")
    assert len(run.hosts) == 9
    assert set(run.hosts.values()) == set(DATA)


def test_without(airflow: PlacedHosts, placed: Dict[str, Run]) -> None:
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


def begun(airflow: PlacedHosts, dag_id: str = "pair") -> Any:
    """Start a run whose reader waits for the test; return where its value is, and its id, when the value is there."""
    airflow.gate(0)
    run_id = airflow.trigger(dag_id)

    def stored() -> List[Any]:
        query = f"select 1 from task_instance where run_id = '{run_id}' and task_id = 'begin' and state = 'success'"
        return airflow.machines.query(query)

    wait_until(stored, "the value", 120, airflow.machines.check_alive)
    (host,) = airflow.where(run_id, "begin")
    return host, run_id


def other(host: str) -> str:
    """Return the other host."""
    (found,) = set(DATA) - {host}
    return found


def tries(airflow: PlacedHosts, run_id: str) -> Any:
    """Return which try of the reader it was."""
    query = f"select try_number from task_instance where run_id = '{run_id}' and task_id = 'read'"
    ((number,),) = airflow.machines.query(query)
    return number
