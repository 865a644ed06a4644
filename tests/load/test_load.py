"""A thousand task instances with clears, retries, kills and deletions in between, and then ``gc --orphans``.

Every value that a row refers to is there and right, and the store holds nothing else. Takes a quarter of an
hour and PostgreSQL, as Debian packages it, and is not part of the default run: ``nox -s load``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, Iterator, List, Set, Tuple
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from vineyard_testing.one_host import OneHost, missing

import vineyard_client
from airflow_provider_vineyard.reference import RowReference
from vineyard_client._store.meta import INLINE_LIMIT

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

HERE = Path(__file__).parent
DAGS = ("chain", "fan", "outputs")

# Forty task instances in one run of each DAG.
RUNS = int(os.environ.get("VINEYARD_LOAD_RUNS", "25"))
TASKS = 40 * RUNS

# Seconds for all of the runs; with starting and stopping it is a quarter of an hour. A busy host needs more.
LIMIT = float(os.environ.get("VINEYARD_LOAD_SECONDS", "750"))

# The row of a value that was put before is written within milliseconds; so far below the default is safe here, too.
GRACE = "30s"

# Bytes. Who is killed in the instant between the allocation of memory and the request that gives it an object leaves
# memory that nobody can list: seen once in some hundred kills, on a host whose load made the instant long.
LOST = 3 * 101_000


def load_dags() -> Any:
    """Return the module with the DAGs, for the functions that make their values."""
    spec = importlib.util.spec_from_file_location("load", HERE / "dags" / "load.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def host() -> Iterator[OneHost]:
    """All of Airflow, with an embedded server."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    maintenance = HERE.parents[1] / "examples" / "dags" / "vineyard_maintenance.py"
    env = {
        "AIRFLOW__CORE__PARALLELISM": "6",
        "AIRFLOW__CORE__MAX_ACTIVE_RUNS_PER_DAG": "50",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
        "AIRFLOW__VINEYARD__SIZE": "1Gi",
    }
    host = OneHost([HERE / "dags" / "load.py", maintenance], env)
    # Of a task's environment, which otherwise has no access to the database.
    host.env["VINEYARD_GC_DATABASE"] = host.url
    try:
        host.start([*DAGS, "vineyard_maintenance"])
        yield host
    finally:
        host.stop()


class Turmoil:
    """What happens to the runs while they run.

    Runs of which something was deleted are left alone afterwards: their tasks would rightly fail if they ran again.
    """

    def __init__(self, host: OneHost) -> None:
        self.host = host
        self.random = random.Random(2026)
        self.spoilt: Set[Tuple[str, str]] = set()
        self.freed: Counter[str] = Counter()
        self.done = dict.fromkeys(["kill", "clear", "delete run", "delete xcom", "gc"], 0)

    def trigger(self, number: int) -> None:
        """Start a run of each DAG."""
        for dag_id in DAGS:
            body = {"dag_run_id": f"run{number}", "logical_date": None}
            self.host.rest("POST", f"/dags/{dag_id}/dagRuns", body)

    def unfinished(self) -> int:
        """Return how many runs are not finished; none may have failed."""
        states = dict(
            self.host.query("select state, count(*) from dag_run where dag_id != 'vineyard_maintenance' group by 1")
        )
        assert "failed" not in states, self.host.query(
            "select dag_id, run_id, task_id, map_index, try_number, state from task_instance where state = 'failed'"
        )
        return sum(states.values()) - states.get("success", 0)

    def finished(self) -> List[Tuple[str, str]]:
        """Return the runs that are finished and whole."""
        query = "select dag_id, run_id from dag_run where state = 'success' and run_id like 'run%' order by 1, 2"
        return [run for run in self.host.query(query) if run not in self.spoilt]

    def kill(self) -> None:
        """Kill a task in the middle of whatever it is doing."""
        running = self.host.query(
            "select pid from task_instance where state = 'running' and pid is not null order by 1"
        )
        if running:
            (pid,) = self.random.choice(running)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if b"airflow" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    self.done["kill"] += 1

    def clear(self) -> None:
        """Have a task of a finished run, and what comes after it, run again."""
        finished = self.finished()
        if finished:
            dag_id, run_id = self.random.choice(finished)
            task_id = {"chain": "link8", "fan": "join", "outputs": "read3"}[dag_id]
            if self.random.random() < 0.2:
                task_id = {"chain": "link5", "fan": "parts", "outputs": "split"}[dag_id]
            body = {
                "dry_run": False,
                "dag_run_id": run_id,
                "task_ids": [task_id],
                "include_downstream": True,
                "only_failed": False,
                "reset_dag_runs": True,
            }
            self.host.rest("POST", f"/dags/{dag_id}/clearTaskInstances", body)
            self.done["clear"] += 1

    def delete_run(self) -> None:
        """Delete a finished run, and with it its rows."""
        finished = self.finished()
        if finished:
            dag_id, run_id = self.random.choice(finished)
            self.spoilt.add((dag_id, run_id))
            self.host.rest("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")
            self.done["delete run"] += 1

    def delete_xcom(self) -> None:
        """Delete one XCom of a finished run."""
        finished = [run for run in self.finished() if run[0] != "fan"]
        if finished:
            dag_id, run_id = self.random.choice(finished)
            self.spoilt.add((dag_id, run_id))
            task_id, key = ("link2", "return_value") if dag_id == "chain" else ("split", "output1")
            path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{quote(key)}"
            self.host.rest("DELETE", path)
            self.done["delete xcom"] += 1

    def collect(self) -> None:
        """Free orphans while everything runs."""
        found = json.loads(self.host.run("airflow-vineyard", "gc", "--orphans", "--grace", GRACE, "--json"))
        self.freed.update(freed["reason"] for freed in found["freed"])
        self.done["gc"] += 1


@pytest.fixture(scope="module")
def turmoil(host: OneHost) -> Turmoil:
    """Have all of it happen, and return when every run has succeeded."""
    turmoil = Turmoil(host)
    deadline = time.monotonic() + LIMIT
    events = [turmoil.kill] * 5 + [turmoil.clear] * 4 + [turmoil.delete_run] * 1 + [turmoil.delete_xcom] * 2
    started, collected = 0, time.monotonic()
    while started < RUNS or turmoil.unfinished():
        host.check_alive()
        assert time.monotonic() < deadline, (
            f"{started} of {RUNS} runs were started, {turmoil.unfinished()} not finished"
        )
        if started < RUNS and turmoil.unfinished() < 8:
            turmoil.trigger(started)
            started += 1
        # With the last runs things calm down.
        if started < RUNS:
            with contextlib.suppress(HTTPError):  # the run has begun again since it was chosen
                turmoil.random.choice(events)()
            if time.monotonic() - collected > 60:
                turmoil.collect()
                collected = time.monotonic()
        time.sleep(1)
    return turmoil


def rows(host: OneHost) -> List[Tuple[str, str, int, str, RowReference]]:
    """Return the rows that are references."""
    query = "select run_id, task_id, map_index, key, value from xcom where value ? 'vineyard'"
    return [(*xcom, RowReference.parse(row)) for *xcom, row in host.query(query)]


def test_enough_happened(host: OneHost, turmoil: Turmoil) -> None:
    """There were as many task instances as there should be, and every kind of disturbance."""
    ((tries,),) = host.query(
        "select (select count(*) from task_instance) + (select count(*) from task_instance_history)"
    )
    print(f"{tries} tries; {turmoil.done}; freed meanwhile: {dict(turmoil.freed)}")
    assert tries >= TASKS
    assert all(count >= 2 for count in turmoil.done.values()), turmoil.done


def test_orphans_are_freed_and_live_values_are_intact(host: OneHost, turmoil: Turmoil) -> None:
    """The store holds exactly what the rows refer to; each value is the right one; memory is what those values need."""
    dags = load_dags()
    found = json.loads(host.run("airflow", "vineyard", "gc", "--orphans", "--grace", "0s", "--json"))
    freed = turmoil.freed + Counter(freed["reason"] for freed in found["freed"])
    print(f"freed in all: {dict(freed)}")
    # Nothing was too old, and nothing is on another host.
    assert freed["orphan"] and freed["writer died"] and set(freed) <= {"orphan", "writer died", "deleted"}
    live = rows(host)
    assert len(live) > 10 * RUNS
    with vineyard_client.connect(str(host.socket)) as client:
        infos = {info.ref.token: info for info in client.list()}
        # Of two rows with one value each has an object of its own, but the memory is there once.
        assert set(infos) == {ref.token for *_, row in live for ref in (row.ref, *row.parts.values())}
        assert list(client.list(deleted=True)) == []
        for run_id, task_id, map_index, key, row in live:
            value: Any = client.get(row.ref)
            for name, part in row.parts.items():
                value[name] = client.get(part)
            verify(dags, value, run_id, task_id, map_index, key)
        # What fits into the metadata takes no memory of the store.
        blobs = [info.size for info in infos.values() if info.size > INLINE_LIMIT]
        used = client.status().memory_used
        print(f"{len(infos)} values, {sum(blobs)} bytes in {len(blobs)} blobs, {used} bytes in use")
        # Each blob is accompanied by a guard of one byte.
        assert 0 <= used - sum(blobs) - len(blobs) <= LOST


def verify(dags: Any, value: Any, run_id: str, task_id: str, map_index: int, key: str) -> None:
    """Fail unless a value is the one that belongs to an XCom."""
    if task_id.startswith("link"):
        dags.verify(value, run_id, "link", int(task_id[4:]))
    elif task_id == "parts":
        for number, part in enumerate(value):
            dags.verify(part, run_id, "part", number)
    elif task_id == "work":
        dags.verify(value, run_id, "work", map_index)
    else:
        assert task_id == "split"
        outputs = value if key == "return_value" else {key: value}
        for name, output in outputs.items():
            dags.verify(output, run_id, "output", int(name[6:]))


def test_the_maintenance_dag_frees_the_rest(host: OneHost, turmoil: Turmoil) -> None:
    """Run by the scheduler, in a task, with the database in its environment: without rows the store becomes empty."""
    for dag_id in DAGS:
        for (run_id,) in host.query(f"select run_id from dag_run where dag_id = '{dag_id}'"):
            host.rest("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")
    assert rows(host) == []
    body = {"dag_run_id": "now", "logical_date": None, "conf": {"grace": "0s"}}
    host.rest("POST", "/dags/vineyard_maintenance/dagRuns", body)
    query = "select state from dag_run where dag_id = 'vineyard_maintenance' and run_id = 'now'"
    # The run that was due when the scheduler started may have to end first.
    deadline = time.monotonic() + 180
    while host.query(query) != [("success",)]:
        host.check_alive()
        assert time.monotonic() < deadline, host.query("select task_id, state, try_number from task_instance")
        time.sleep(0.5)
    with vineyard_client.connect(str(host.socket)) as client:
        assert list(client.list()) == list(client.list(deleted=True)) == []
        assert client.status().memory_used <= LOST
