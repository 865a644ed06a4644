"""What an XCom costs with our backend and with others: ``python benchmarks/xcoms.py``.

Not named after Airflow, because a script's folder is searched first for what it imports. Needs Airflow 3, both our
packages, pandas, pyarrow, and for the third peer apache-airflow-providers-common-io; PostgreSQL joins in where it is
installed. Each sample is taken in a fresh process, peers take turns, and medians are printed with their spread.

One sample is what happens to a value between two tasks: the backend's ``serialize_value``, the row into Airflow's own
table, committed; then in a new session the row out of it, and ``deserialize_value``. The row's way through the API
server is left out for all peers, and so are imports: each sample begins with a small frame.
``XComObjectStorageBackend`` writes to a RAM disk, /dev/shm.

The second table is a no-op DAG of three small XComs from end to end, as ``airflow dags test``. The default backend
takes part twice: what those two differ by is noise.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List

from report import machine, spread, write

OURS, DEFAULT, STORAGE = "vineyard", "default", "object storage on a RAM disk"
BACKENDS = {
    OURS: "airflow_provider_vineyard.xcom.VineyardXCom",
    DEFAULT: "airflow.sdk.bases.xcom.BaseXCom",
    STORAGE: "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
}

NOOP = """
from airflow.sdk import dag, task

@task
def step(before=None):
    return {"step": 1, "before": before}

@dag(schedule=None)
def noop():
    step(step(step()))

noop()
"""

# ---- one sample, alone in a fresh process


def frame_100k() -> Any:
    import numpy as np
    import pandas as pd

    return pd.DataFrame({"a": np.arange(100_000), "b": np.random.default_rng(1).random(100_000)})


def frame_80mb() -> Any:
    import numpy as np
    import pandas as pd

    return pd.DataFrame(np.random.default_rng(1).random((1_000_000, 10)), columns=list("abcdefghij"))


VALUES: Dict[str, Callable[[], Any]] = {"100,000 × 2 frame, 1.6 MB": frame_100k, "frame, 80 MB": frame_80mb}


def sample(what: str) -> List[float]:
    """Return the seconds that a value takes into the database and out of it, with the configured backend."""
    from airflow.models.xcom import XComModel
    from airflow.sdk.execution_time.xcom import XCom
    from sqlalchemy import delete, select, text

    from airflow import settings

    settings.configure_orm()
    assert settings.engine is not None
    postgres = settings.engine.dialect.name == "postgresql"

    @contextlib.contextmanager
    def session() -> Iterator[Any]:
        with settings.Session() as opened:
            # There is no task instance that the row could belong to.
            opened.execute(text("set session_replication_role = replica" if postgres else "pragma foreign_keys = off"))
            yield opened

    def put(task_id: str, value: Any) -> None:
        origin = {"key": "return_value", "task_id": task_id, "dag_id": "benchmark", "run_id": "r", "map_index": -1}
        row = XCom.serialize_value(value, **origin)
        with session() as opened:
            opened.add(XComModel(value=row, dag_run_id=1, **origin))
            opened.commit()

    def get(task_id: str) -> Any:
        with session() as opened:
            row = opened.scalars(select(XComModel.value).where(XComModel.task_id == task_id)).one()
        return XCom.deserialize_value(SimpleNamespace(value=row, key="return_value"))

    value = VALUES[what]()
    put("warm", value.iloc[:1000])
    get("warm")
    started = time.perf_counter()
    put("value", value)
    middle = time.perf_counter()
    result = get("value")
    ended = time.perf_counter()
    assert result.equals(value)
    with session() as opened:
        for row in opened.scalars(select(XComModel)):
            XCom.purge(row)
        opened.execute(delete(XComModel))
        opened.commit()
    return [middle - started, ended - middle]


# ---- the surroundings


def run(env: Dict[str, str], *command: str) -> str:
    """Return what a command printed; it must succeed."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"{command} exited with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run PostgreSQL in a folder, with fsync off, and give SQLAlchemy's address of its database."""
    binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
    folder.mkdir()
    user: List[str] = []
    if os.geteuid() == 0:
        # It refuses to run as root.
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]

    def command(name: str, *arguments: str) -> List[str]:
        return [*user, f"{binaries}/{name}", *arguments]

    data = str(folder / "data")
    initdb = command("initdb", "-D", data, "-U", "airflow", "-A", "trust", "--no-sync")
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL)
    options = ["-c", "listen_addresses=", "-k", str(folder), "-c", "fsync=off"]
    server = subprocess.Popen(
        command("postgres", "-D", data, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(command("pg_isready", "-q", "-h", str(folder)), check=False).returncode:
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("PostgreSQL did not start")
            time.sleep(0.1)
        subprocess.run(command("createdb", "-h", str(folder), "-U", "airflow", "airflow"), check=True)
        yield f"postgresql+psycopg2://airflow@/airflow?host={folder}"
    finally:
        server.terminate()
        server.wait()


def environment(home: Path, database: str, backend: str, socket: str, ram: str) -> Dict[str, str]:
    """Return the environment of a process that uses a database and a backend."""
    # An installed package has byte code; one that runs from its source must be allowed to keep it.
    dropped = ("AIRFLOW_", "VINEYARD_", "PYTHONDONTWRITEBYTECODE")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(dropped)},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__XCOM_BACKEND": BACKENDS[backend],
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{ram}",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__VINEYARD__IPC_SOCKET": socket,
        "PYTHONWARNINGS": "ignore",
    }


def measure(peers: List[Any], rounds: int) -> List[Dict[str, Any]]:
    """Return a row for each value, database and backend; in each round the peers take turns."""
    rows = []
    for what in VALUES:
        samples: Dict[Any, List[List[float]]] = {(database, backend): [] for database, backend, _ in peers}
        for turn in range(rounds):
            for database, backend, env in peers[turn % len(peers) :] + peers[: turn % len(peers)]:
                printed = run(env, sys.executable, __file__, "--sample", what).splitlines()[-1]
                samples[database, backend].append([float(number) for number in printed.split()])
        for (database, backend), taken in samples.items():
            figures = spread([put + get for put, get in taken])
            put, get = (spread([one[side] for one in taken])["median_ms"] for side in (0, 1))
            ours = spread([sum(one) for one in samples[database, OURS]])["median_ms"]
            times = figures["median_ms"] / ours
            rows.append({"value": what, "database": database, "backend": backend, "put_ms": put, "get_ms": get})
            rows[-1].update({**figures, "times_ours": times})
            print(f"  {what}, {database}, {backend}: {figures['median_ms']:.1f} ms", file=sys.stderr, flush=True)
    return rows


def end_to_end(envs: Dict[str, Dict[str, str]], rounds: int) -> List[Dict[str, Any]]:
    """Return a row for each backend with the time of ``airflow dags test noop``."""
    samples: Dict[str, List[float]] = {name: [] for name in envs}
    for turn in range(rounds):
        names = list(envs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            run(envs[name], sys.executable, "-m", "airflow", "dags", "test", "noop")
            samples[name].append(time.perf_counter() - started)
    return [{"backend": name, **spread(taken)} for name, taken in samples.items()]


def markdown(report: Dict[str, Any]) -> str:
    """Return the report as Markdown tables."""
    lines = ["| value | database | backend | put | get | put + get | lowest – highest | × ours |"]
    lines.append("|---|---|---|--:|--:|--:|--:|--:|")
    for row in report["values"]:
        cells = [row["value"], row["database"], row["backend"]]
        cells += [f"{row[name]:,.1f} ms" for name in ("put_ms", "get_ms", "median_ms")]
        cells += [f"{row['low_ms']:,.1f} – {row['high_ms']:,.1f}", f"{row['times_ours']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| no-op DAG with | `airflow dags test` | lowest – highest |", "|---|--:|--:|"]
    for row in report["noop"]:
        figures = (row[name] / 1e3 for name in ("median_ms", "low_ms", "high_ms"))
        lines.append("| {} | {:.2f} s | {:.2f} – {:.2f} |".format(row["backend"], *figures))
    return "\n".join(lines)


def compare(rounds: int) -> Dict[str, Any]:
    """Bring up the databases and the store, and return the report."""
    from vineyard_client import EmbeddedServer

    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        (folder / "dags").mkdir()
        (folder / "dags" / "noop.py").write_text(NOOP)
        ram = tempfile.mkdtemp(prefix="bench-", dir="/dev/shm")
        stack.callback(shutil.rmtree, ram)
        socket = stack.enter_context(EmbeddedServer(size="2Gi")).socket
        databases = {"SQLite": f"sqlite:///{folder}/airflow.db"}
        if glob.glob("/usr/lib/postgresql/*/bin"):
            databases["PostgreSQL"] = stack.enter_context(postgres(folder / "postgres"))
        peers = [
            (name, backend, environment(folder, address, backend, socket, ram))
            for name, address in databases.items()
            for backend in (BACKENDS if name == "SQLite" else (OURS, DEFAULT))
        ]
        for name in databases:
            env = next(env for database, backend, env in peers if (database, backend) == (name, DEFAULT))
            run(env, sys.executable, "-m", "airflow", "db", "migrate")
        by_backend = {backend: env for database, backend, env in peers if database == "SQLite"}
        noop = {DEFAULT: by_backend[DEFAULT], "default, again": by_backend[DEFAULT], OURS: by_backend[OURS]}
        packages = ["apache-airflow", "airflow-provider-vineyard", "pandas", "pyarrow"]
        return {
            "machine": machine(*packages),
            "values": measure(peers, rounds),
            "noop": end_to_end(noop, rounds),
        }


def main() -> None:
    """Take all samples and print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="samples per value and peer (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the report there as JSON")
    arguments = parser.parse_args()
    if arguments.sample:
        print(*sample(arguments.sample))
        return
    report = compare(arguments.rounds)
    write(report, markdown(report), arguments.json)


if __name__ == "__main__":
    main()
