"""What placement costs the scheduler: what VineyardCeleryExecutor does besides sending, on real PostgreSQL and Redis.

    python benchmarks/placement.py cost

A line of the table is the medians of several processes, each a fresh one: how long it takes to place a batch (rows of
XComs read, hosts chosen, rows of the audit log written), and to look at the queues of hosts in a heartbeat. All tasks
of a batch have an input that is large enough, so each of them is placed. With the option off the same calls are made.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import uuid
import zlib
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, Tuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "helpers"))

PLACE = "10.0.0.1:9600"
SIZES = (1, 4, 16, 64)
PROCESSES = 3
BATCHES = 110
FIRST = 10  # batches that open connections and read the DAG
LARGE = 100_000_000


def missing() -> str:
    """Return why it cannot be measured here, or nothing."""
    from vineyard_testing import brokers, one_host

    return one_host.missing() or brokers.missing("redis-server", "redis-server")


def lines() -> Iterator[str]:
    """Yield the table."""
    from vineyard_testing.brokers import redis_server
    from vineyard_testing.one_host import OneHost

    host = OneHost([], {})
    try:
        host.database()
        with redis_server() as broker:
            host.env.update(
                AIRFLOW__CELERY__BROKER_URL=broker,
                AIRFLOW__CELERY__RESULT_BACKEND=host.url.replace("postgresql+psycopg2", "db+postgresql"),
                AIRFLOW__LOGGING__LOGGING_LEVEL="WARNING",
            )
            yield "| placement | tasks in the batch | wall clock | CPU | look of a heartbeat, wall clock | CPU |"
            yield "|---|--:|--:|--:|--:|--:|"
            for placement, size in [*((True, size) for size in SIZES), (False, 1)]:
                command = [sys.executable, __file__, str(size)]
                settings = {"AIRFLOW__VINEYARD__PLACEMENT": str(placement)}
                runs = [json.loads(host.run(*command, **settings).splitlines()[-1]) for _ in range(PROCESSES)]
                cells = [f"{statistics.median(run[name] for run in runs) * 1e3:.2f} ms" for name in runs[0]]
                yield f"| {'on' if placement else 'off'} | {size} | {' | '.join(cells)} |"
    finally:
        host.stop()


def measure(size: int) -> Dict[str, float]:
    """Place batches in this process, and return seconds: medians of one batch, and of one look."""
    from airflow.providers.celery.executors.celery_executor import app

    from airflow_provider_vineyard.placement.sender import Sender

    items = list(batch(size))
    with app.connection_for_write() as connection:
        app.amqp.queues.new_missing(f"default@{PLACE}")(connection.default_channel).declare()
    sender = Sender(lambda: app)
    sender.relieve()
    _, choices = sender.place(items)
    assert len(choices) == (size if os.environ["AIRFLOW__VINEYARD__PLACEMENT"] == "True" else 0)
    times = {
        "batch": [timed(lambda: sender.place(items)) for _ in range(BATCHES)],
        "look": [timed(sender.relieve) for _ in range(BATCHES)],
    }
    return {
        f"{what}, {clock}": statistics.median(one[number] for one in found[FIRST:])
        for what, found in times.items()
        for number, clock in enumerate(("wall clock", "CPU"))
    }


def batch(size: int) -> Iterator[Tuple[Any, ...]]:
    """Write the rows that tasks read; yield the tasks as Airflow hands them to an executor."""
    from airflow.utils.session import create_session
    from sqlalchemy import text
    from vineyard_testing.metadata import row

    from airflow_provider_vineyard import version_compat

    now, version = datetime.now(timezone.utc), uuid.uuid4()
    data = json.loads((HERE.parent / "tests" / "provider" / "serialized" / "3.3.2.json").read_text(encoding="utf-8"))
    with create_session() as session:
        # The rows that these refer to are of no interest.
        session.execute(text("set local session_replication_role = replica"))
        times = {"last_updated": now, "created_at": now}
        dag = {"id": version, "dag_id": "kinds", "dag_hash": version.hex, "data": data, "dag_version_id": version}
        session.execute(version_compat.serialized_dag_model().__table__.insert().values(**dag, **times))
        for number in range(size):
            names = {"dag_id": "kinds", "run_id": f"{version}.{number}", "task_id": "extract", "map_index": -1}
            more = {"key": "return_value", "value": row(PLACE, LARGE), "timestamp": now}
            id = zlib.crc32(names["run_id"].encode()) % (1 << 31)
            session.execute(version_compat.xcom_model().__table__.insert().values(dag_run_id=id, **names, **more))
    for number in range(size):
        names = {"dag_id": "kinds", "run_id": f"{version}.{number}", "task_id": "clean", "map_index": -1}
        yield (
            number,
            SimpleNamespace(ti=SimpleNamespace(try_number=1, dag_version_id=version, **names)),
            "default",
            None,
        )


def timed(call: Callable[[], Any]) -> Tuple[float, float]:
    """Return the seconds that a call takes, by the clock on the wall and of this process."""
    wall, own = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - wall, time.process_time() - own


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
