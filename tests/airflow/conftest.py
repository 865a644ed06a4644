"""Real Airflow, each test module in an AIRFLOW_HOME of its own.

The database is migrated once per session and copied for each home: an ``airflow`` command takes four seconds to start,
a migration eight more. Homes lie directly below the system's folder for temporary files, because pytest's own are too
deep for the path of a UNIX socket. When a home is given back, its embedded server is stopped with the command that
people would use, and no process that was started in it may be left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Output:
    """What a command wrote: Airflow's log records, and the lines that are none, which tasks or the command printed."""

    records: list[dict[str, Any]] = field(default_factory=list)
    printed: list[str] = field(default_factory=list)

    def events(self, logger: str) -> list[str]:
        """Return the messages of loggers whose name starts so."""
        return [record["event"] for record in self.records if record.get("logger", "").startswith(logger)]


@dataclass
class XCom:
    """A row of the database's table of XComs."""

    task_id: str
    key: str
    text: str

    @property
    def value(self) -> Any:
        """The JSON value in the row."""
        return json.loads(self.text)


def _command_line(pid: str) -> str:
    try:
        return Path("/proc", pid, "cmdline").read_text(errors="replace").replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""  # it ended since the folder was listed


class Home:
    """An AIRFLOW_HOME, with what tests do in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = path / "vineyard" / "vineyard.sock"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW_", "VINEYARD_", "PYTEST_"))}
        self.env = {
            **inherited,
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
            "AIRFLOW_HOME": str(path),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "examples" / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
            "AIRFLOW__LOGGING__JSON_LOGS": "True",
            # The server maps memory as it is used; the size only has to be enough.
            "AIRFLOW__VINEYARD__SIZE": "1Gi",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, *command: str, **env: str) -> Output:
        """Run a command; it must succeed."""
        done = subprocess.run(
            command, env={**self.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        lines = done.stdout.splitlines()
        if done.returncode:
            telling = [line for line in lines if '"level":"info"' not in line]
            pytest.fail("\n".join([f"{' '.join(command)} exited with {done.returncode}:", *telling]), pytrace=False)
        output = Output()
        for line in lines:
            if line.startswith('{"timestamp"'):
                output.records.append(json.loads(line))
            else:
                output.printed.append(line)
        return output

    def xcoms(self, dag_id: str) -> list[XCom]:
        """Return the rows of a DAG in the order in which they were written."""
        query = "select task_id, key, cast(value as text) from xcom where dag_id = ? order by timestamp, key"
        database = sqlite3.connect(self.path / "airflow.db")
        try:
            return [XCom(*row) for row in database.execute(query, [dag_id])]
        finally:
            database.close()

    def processes(self) -> list[str]:
        """Return the command lines of running processes that name this home."""
        if Path("/proc/self/cmdline").exists():
            lines = [_command_line(pid) for pid in os.listdir("/proc") if pid.isdigit()]
        else:
            lines = subprocess.run(
                ["ps", "-Ao", "pid=,args="], stdout=subprocess.PIPE, text=True, check=True
            ).stdout.splitlines()
        return [line for line in lines if str(self.path) in line]

    def close(self) -> None:
        """Stop the embedded server, if one was started, and remove the folder."""
        if self.socket.exists():
            self.run("vineyard-client", "stop", "--socket", str(self.socket))
        left = self.processes()
        shutil.rmtree(self.path)
        assert not left


def _new_home() -> Home:
    return Home(Path(tempfile.mkdtemp(prefix="af-")))


@pytest.fixture(scope="session")
def migrated() -> Iterator[Path]:
    """Return Airflow's database as ``airflow db migrate`` makes it."""
    home = _new_home()
    home.run("airflow", "db", "migrate")
    yield home.path / "airflow.db"
    home.close()


@pytest.fixture(scope="module")
def new_home(migrated: Path) -> Iterator[Callable[[], Home]]:
    """Return a function that makes homes with an empty database; they last as long as the module's tests."""
    with contextlib.ExitStack() as homes:

        def make() -> Home:
            home = _new_home()
            homes.callback(home.close)
            # Not airflow.cfg: it is made from AIRFLOW_HOME, with paths in it.
            shutil.copy(migrated, home.path)
            return home

        yield make


@pytest.fixture(scope="module")
def home(new_home: Callable[[], Home]) -> Home:
    """Return a home with an empty database."""
    return new_home()
