"""What whole DAGs take with our backend and with others: ``python benchmarks/pipelines.py``.

- A DAG of three small XComs, as ``airflow dags test`` in a fresh process, by turns. The default backend takes part
  twice: what those two differ by is noise.
- Ten tasks, each of which receives a frame of 10 or 200 MB, changes a number in it and returns it, in an Airflow as
  people run it: PostgreSQL, API server, scheduler with a LocalExecutor, and each task a process of its own. Each
  backend needs an Airflow of its own, so here they come one after the other.
- In the same Airflows, tasks that receive a frame of 100,000 rows, with and without ``[vineyard] preload``.

Needs what ``xcoms.py`` needs, and PostgreSQL and psycopg2 for all but the first.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from importlib import util
from pathlib import Path
from typing import Dict, List, Tuple, Union

from report import OURS, Failed, Report, collect, fresh, options
from xcoms import BACKENDS, DEFAULT, STORAGE, environment

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))

from vineyard_testing.one_host import OneHost, missing  # noqa: E402

DAGS = HERE / "dags"
MEGABYTES, QUICK_MEGABYTES = (10, 200), (2,)
PRELOAD = f"{OURS}, preload"

# Seconds in which a task has to end, and those after which a whole run need not be done again.
LIMIT, SLOW = 60, 60

TEXT = "Airflow as it is installed, with its own tables and processes, and nothing changed but the backend."
NOOP = "Three tasks that exchange small values, as `airflow dags test`: the whole process, from start to end."
CHAIN = (
    "From the start of the first of ten tasks to the end of the last, with scheduling: LocalExecutor, PostgreSQL. Each "
    "task changes one number of the frame that it receives, and returns it. With *preload*, pandas is imported once."
)
TASKS = "The same runs without scheduling: the sum of what each task took, from the start of its process to its end."
CONSUMERS = "A task that receives a frame of 100,000 × 2 and sums up a column; its process, from start to end."


def noop(report: Report, rounds: int) -> None:
    """Add the table of a DAG that has no need of a store."""
    again = f"{DEFAULT}, again"
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        envs = {
            peer: {
                **environment(Path(home), f"sqlite:///{home}/airflow.db", backend, f"{home}/none.sock", home),
                "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            }
            for peer, backend in ((OURS, OURS), (DEFAULT, DEFAULT), (again, DEFAULT))
        }
        fresh(sys.executable, "-m", "airflow", "db", "migrate", env=envs[DEFAULT])

        def take(peer: str) -> float:
            started = time.perf_counter()
            fresh(sys.executable, "-m", "airflow", "dags", "test", "noop", env=envs[peer])
            return time.perf_counter() - started

        report.table("a DAG of small values", NOOP)
        for peer, taken in collect(list(envs), rounds, take).items():
            report.add("no-op DAG", peer, taken)


class Airflow:
    """An Airflow with a backend; ``runs`` lets a DAG run."""

    def __init__(self, peer: str, ram: str) -> None:
        backend = OURS if peer.startswith(OURS) else peer
        env = {
            "AIRFLOW__CORE__XCOM_BACKEND": BACKENDS[backend],
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{ram}",
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "3600",
            "AIRFLOW__VINEYARD__SIZE": "8Gi",
            "AIRFLOW__VINEYARD__PRELOAD": "pandas, pyarrow" if peer == PRELOAD else "",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        self._host = OneHost([DAGS / "pipelines.py"], env)

    def __enter__(self) -> Airflow:
        try:
            self._host.start(["chain", "consumers"])
        except BaseException:
            self._host.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._host.stop()

    def run(self, dag_id: str, run_id: str, **conf: int) -> Dict[str, Tuple[float, float]]:
        """Let a DAG run and return when each of its tasks started and ended, in seconds, by task.

        Raises:
            Failed: it did, or a task takes too long.
        """
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        self._host.rest("POST", f"/dags/{dag_id}/dagRuns", body)
        of_this = f"where dag_id = '{dag_id}' and run_id = '{run_id}'"
        done, since = 0, time.monotonic()
        while True:
            self._host.check_alive()
            ((state,),) = self._host.query(f"select state from dag_run {of_this}")
            if state == "success":
                break
            before = done
            ((done,),) = self._host.query(f"select count(*) from task_instance {of_this} and state = 'success'")
            if done > before:
                since = time.monotonic()
            if state == "failed":
                raise Failed(f"task {done + 1} failed")
            if time.monotonic() - since > LIMIT:
                raise Failed(f"task {done + 1} is not done after {LIMIT} s")
            time.sleep(0.5)
        moments = "extract(epoch from start_date), extract(epoch from end_date)"
        rows = self._host.query(f"select task_id, {moments} from task_instance {of_this}")
        return {task: (float(started), float(ended)) for task, started, ended in rows}


def chain(airflow: Airflow, megabytes: int, rounds: int) -> Union[str, List[List[float]]]:
    """Return the seconds of some runs of the chain, with and without scheduling, or why there are none."""
    found: List[List[float]] = []
    try:
        while len(found) < rounds and not (found and found[-1][0] > SLOW):
            moments = airflow.run("chain", f"run{megabytes}-{len(found)}", megabytes=megabytes).values()
            whole = max(ended for _, ended in moments) - min(started for started, _ in moments)
            found.append([whole, sum(ended - started for started, ended in moments)])
    except Failed as error:
        return str(error)
    return found


def main() -> None:
    """Take all samples and print the report."""
    arguments = options(__doc__, rounds=3)
    packages = ("apache-airflow", "airflow-provider-vineyard", "vineyard-client", "pandas", "pyarrow")
    report = Report("pipelines", "Whole DAGs", TEXT, arguments, *packages)
    noop(report, arguments.rounds)
    reason = missing() or ("" if util.find_spec("psycopg2") else "psycopg2 is not installed")
    if reason:
        report.data["text"] += f" Some tables are missing: {reason}."
        report.finish(arguments.json)
        return
    cases = QUICK_MEGABYTES if arguments.quick else MEGABYTES
    chains: Dict[Tuple[int, str], Union[str, List[List[float]]]] = {}
    consumers: Dict[str, List[float]] = {}
    for peer in (OURS, PRELOAD, STORAGE, DEFAULT):
        ram = tempfile.mkdtemp(prefix="bench-", dir="/dev/shm")
        try:
            with Airflow(peer, ram) as airflow:
                if peer in (OURS, PRELOAD):
                    moments = airflow.run("consumers", "run")
                    consumers[peer] = [end - start for task, (start, end) in moments.items() if task != "make"]
                for megabytes in cases:
                    chains[megabytes, peer] = chain(airflow, megabytes, min(arguments.rounds, 2))
        finally:
            shutil.rmtree(ram)
    for name, text, column in (("ten tasks", CHAIN, 0), ("ten tasks, without scheduling", TASKS, 1)):
        report.table(name, text)
        for (megabytes, peer), found in sorted(chains.items(), key=lambda item: item[0][0]):
            taken = found if isinstance(found, str) else [one[column] for one in found]
            report.add(f"frame of {megabytes} MB", peer, taken)
    report.table("a task that receives a frame", CONSUMERS)
    for peer, seconds in consumers.items():
        report.add("100,000 × 2", peer, seconds)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
