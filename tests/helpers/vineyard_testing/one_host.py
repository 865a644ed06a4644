"""One host with all of Airflow: api-server, scheduler with a LocalExecutor, dag-processor, and PostgreSQL.

Whatever is started is a child of the test and is ended with it, and nothing is written outside of one temporary folder.
Needs PostgreSQL, as Debian packages it.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from .machines import wait_until
from .ports import free_ports


def missing() -> str:
    """Return why there can be no such host here, or nothing."""
    return "" if _postgres_folder() else "PostgreSQL is not installed (apt-get install postgresql)"


def _postgres_folder() -> str:
    return max(glob.glob("/usr/lib/postgresql/*/bin"), default="")


class OneHost:
    """A host; ``start`` brings everything up, ``stop`` ends it.

    Args:
        dags: the files that its DAGs are in.
        env: settings beyond the usual.
    """

    def __init__(self, dags: Sequence[Path], env: Dict[str, str]) -> None:
        # Directly below the system's folder: the path of a UNIX socket is short.
        self.folder = Path(tempfile.mkdtemp(prefix="vy1h-"))
        self.folder.chmod(0o755)
        self.socket = self.folder / "vineyard" / "vineyard.sock"
        self.processes: List[Tuple[str, subprocess.Popen[bytes]]] = []
        (self.folder / "dags").mkdir()
        for file in dags:
            shutil.copy(file, self.folder / "dags")
        self._api, self._database = free_ports(2)
        self.url = f"postgresql+psycopg2://airflow@127.0.0.1:{self._database}/airflow"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "VINEYARD_", "PYTEST_"))}
        self.env = {
            **inherited,
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
            "PYTHONWARNINGS": "ignore",
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.folder / "dags"),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{self._api}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API__PORT": str(self._api),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": "a secret of the test",
            "AIRFLOW__API_AUTH__JWT_SECRET": "another secret of the test, which has to be long enough for HMAC-SHA-512",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url,
            **env,
        }

    # ---- processes

    def run(self, *command: str, **env: str) -> str:
        """Run a command and return what it printed; it must succeed."""
        done = subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}{done.stderr[-4000:]}"
            )
        return done.stdout

    def launch(self, name: str, *command: str, credentials: Sequence[str] = ()) -> None:
        """Start a process that runs until ``stop``, or until the test is killed."""
        line = ["setpriv", *credentials, "--pdeathsig", "TERM", *command]
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                line, env=self.env, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        self.processes.append((name, process))

    def check_alive(self) -> None:
        """Fail if something that should run has ended."""
        for name, process in self.processes:
            if process.poll() is not None:
                tail = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{tail}")

    def start(self, dag_ids: Sequence[str]) -> None:
        """Bring up the database, then the services; return when the DAGs can run."""
        self.database()
        for name in ("api-server", "scheduler", "dag-processor"):
            self.launch(name, "airflow", name)

        def parsed() -> bool:
            return set(dag_ids) <= {dag_id for (dag_id,) in self.query("select dag_id from serialized_dag")}

        wait_until(parsed, "DAGs parsed", 180, self.check_alive)
        wait_until(self._answers, "api-server", 60, self.check_alive)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.rest("GET", "/version"))
        return False

    def database(self) -> None:
        """Bring up the database alone, with Airflow's tables."""
        folder, data = _postgres_folder(), self.folder / "postgres"
        data.mkdir(mode=0o700)
        credentials: List[str] = []
        if os.geteuid() == 0:  # as which it refuses to run
            owner = pwd.getpwnam("postgres")
            os.chown(data, owner.pw_uid, owner.pw_gid)
            credentials = ["--reuid=postgres", "--regid=postgres", "--clear-groups"]
        initdb = [f"{folder}/initdb", "-D", str(data), "-U", "airflow", "-A", "trust", "--no-sync"]
        subprocess.run(["setpriv", *credentials, *initdb], check=True, stdout=subprocess.DEVNULL)
        options = ["-c", "listen_addresses=127.0.0.1", "-p", str(self._database), "-k", str(data), "-c", "fsync=off"]
        # Its other kinds of shared memory stay in /dev/shm when it is killed.
        options += ["-c", "dynamic_shared_memory_type=mmap"]
        self.launch("postgres", f"{folder}/postgres", "-D", str(data), *options, credentials=credentials)
        where = ["-h", "127.0.0.1", "-p", str(self._database)]
        ready = [f"{folder}/pg_isready", "-q", *where]
        wait_until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL", 60, self.check_alive)
        subprocess.run([f"{folder}/createdb", *where, "-U", "airflow", "airflow"], check=True)
        self.run("airflow", "db", "migrate")

    def stop(self) -> None:
        """End everything and remove every trace."""
        if self.socket.exists():
            self.run("airflow-vineyard", "stop")
        for number in (signal.SIGTERM, signal.SIGKILL):
            for name, process in reversed(self.processes):
                if name != "postgres" or number == signal.SIGKILL:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
            for name, process in reversed(self.processes):
                if name != "postgres" or number == signal.SIGKILL:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(10 if number == signal.SIGTERM else None)
        shutil.rmtree(self.folder)

    # ---- Airflow

    def query(self, sql: str) -> List[Tuple[Any, ...]]:
        """Return the rows of a query to Airflow's database."""
        import psycopg2

        connection = psycopg2.connect(host="127.0.0.1", port=self._database, user="airflow", dbname="airflow")
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            connection.close()

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """Call Airflow's REST API and return what it answers; it must succeed."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._api}/api/v2{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"null")
