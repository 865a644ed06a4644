"""What an XCom costs with our backend and with others: ``python benchmarks/xcoms.py``.

Not named after Airflow, because a script's folder is searched first for what it imports. Needs Airflow 3, both our
packages, pandas, pyarrow, and for the third peer apache-airflow-providers-common-io; PostgreSQL joins in where it is
installed, with psycopg2.

One sample is what happens to a value between two tasks, in a fresh process: the backend's ``serialize_value``, the row
into Airflow's own table, committed; then in a new session the row out of it, and ``deserialize_value``. The row's way
through the API server is left out for all peers, and so are imports: each sample begins with a smaller frame.
``XComObjectStorageBackend`` writes to a RAM disk, /dev/shm.

The last table is what importing a backend adds to a task process, which has loaded Airflow's own by then.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib import import_module, util
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List

import report as reports
import values
from report import OURS, Report, collect, fresh, options

DEFAULT, STORAGE = "Airflow's default", "object storage on a RAM disk"
BACKENDS = {
    OURS: "airflow_provider_vineyard.xcom.VineyardXCom",
    DEFAULT: "airflow.sdk.bases.xcom.BaseXCom",
    STORAGE: "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend",
}

VALUES = ("frame, 1.6 MB (100,000 × 2)", "frame, 80 MB (1,000,000 × 10)")

TEXT = (
    "The backend, and Airflow's own table, from one task to the next: `serialize_value`, the row, committed; the row "
    "again, `deserialize_value`. Without the API server, which the default backend's rows have to pass, too."
)

# ---- one sample, alone in a fresh process


def importing(backend: str) -> List[float]:
    """Return the seconds that a backend takes to import."""
    import airflow.sdk.execution_time.task_runner  # noqa: F401  # as each task process does

    module, _, name = BACKENDS[backend].rpartition(".")
    started = time.perf_counter()
    getattr(import_module(module), name)
    return [time.perf_counter() - started]


def passing(what: str, size: str) -> List[float]:
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

    value = values.make(what, size)
    put("warm", values.make_first(what))
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
    inherited = reports.environment().items()
    return {
        **{name: value for name, value in inherited if not name.startswith(("AIRFLOW_", "VINEYARD_"))},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__XCOM_BACKEND": BACKENDS[backend],
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{ram}",
        "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__VINEYARD__IPC_SOCKET": socket,
        "PYTHONWARNINGS": "ignore",
    }


def take(envs: Dict[str, Dict[str, str]], what: str, size: str, backend: str) -> List[float]:
    """Return one sample of a backend."""
    return [float(each) for each in fresh(sys.executable, __file__, "--sample", what, size, env=envs[backend]).split()]


def main() -> None:
    """Take all samples and print the report."""
    arguments = options(__doc__, rounds=5)
    if arguments.sample:
        print(*(passing if len(arguments.sample) == 2 else importing)(*arguments.sample))
        return
    from vineyard_client import EmbeddedServer

    packages = ("apache-airflow", "airflow-provider-vineyard", "vineyard-client", "pandas", "pyarrow")
    report = Report("xcoms", "From one Airflow task to the next", TEXT, arguments, *packages)
    found: Dict[str, Dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="bench-"))
        stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        ram = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm"))
        socket = stack.enter_context(EmbeddedServer(size="2Gi")).socket
        databases = {"SQLite": f"sqlite:///{folder}/airflow.db"}
        if glob.glob("/usr/lib/postgresql/*/bin") and util.find_spec("psycopg2"):
            databases["PostgreSQL"] = stack.enter_context(postgres(folder / "postgres"))
        for name, address in databases.items():
            envs = {backend: environment(folder, address, backend, socket, ram) for backend in BACKENDS}
            fresh(sys.executable, "-m", "airflow", "db", "migrate", env=envs[DEFAULT])
            for what in VALUES:
                one = partial(take, envs, what, "quick" if arguments.quick else "")
                found[f"{what}, {name}"] = collect(list(BACKENDS), arguments.rounds, one)

        def take_import(backend: str) -> float:
            return float(fresh(sys.executable, __file__, "--sample", backend, env=envs[DEFAULT]))

        imports = collect([OURS, STORAGE], arguments.rounds, take_import)
    for name, count in (("put and get", slice(None)), ("put", slice(1)), ("get", slice(1, None))):
        report.table(f"XCom: {name}", "")
        for case, samples in found.items():
            for backend, taken in samples.items():
                report.add(case, backend, taken if isinstance(taken, str) else [sum(one[count]) for one in taken])
    report.table("import of the backend", "What it adds to a task process that has loaded Airflow.")
    for backend, taken in imports.items():
        report.add("import", backend, taken)
    report.finish(arguments.json)


if __name__ == "__main__":
    main()
