"""Real Airflow of any release, each test module in an AIRFLOW_HOME of its own.

The database is migrated once per session and copied for each home: an ``airflow`` command takes four seconds to start,
a migration eight more. Homes lie directly below the system's folder for temporary files, because pytest's own are too
deep for the path of a UNIX socket. When a home is given back, its embedded server is stopped with the command that
people would use, and no process that was started in it may be left.

What differs by release stands here: the examples' folder, the command that makes a database, how a run is started and
what its log looks like. Test modules that are for one generation say so with ``needs``.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERSION: Tuple[int, ...] = tuple(int(part) for part in metadata.version("apache-airflow").split(".")[:2])

# Airflow before 3.2 cannot log in JSON. Before 3.1, this format makes each record a line that is a literal of Python.
_LOG_FORMAT = "{'timestamp': '%(asctime)s', 'logger': '%(name)s', 'level': '%(levelname)s', 'event': %(message)r}"
# From 2.5 on, `dags test` shows each record of a task before, too, in a format of its own that may take several lines.
_ECHO = re.compile(r"\[\d{4}-\d\d-\d\d[ T][^]]+\] \{\w+\.py:\d+\} ")
# What the supervisor of 3.0 logs in no format of ours, what its `dags test` says of a new database, and a line that 3.2
# prints for each task: two lists, of a task's assets.
_NOISE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[\w+ *\] |Nothing to clear\.$|\[\] \[\]$")
_LOGGING = (
    {"AIRFLOW__LOGGING__JSON_LOGS": "True"}
    if VERSION >= (3, 1)  # 3.1 pays no heed to either: ``_in_json``
    else {"AIRFLOW__LOGGING__LOG_FORMAT": _LOG_FORMAT, "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False"}
)
_AIRFLOW_2 = {
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "examples" / "dags_airflow2"),
    # Before 2.5, `dags test` waits so long after each task.
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "0",
}
_AIRFLOW_3 = {"AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "examples" / "dags")}


# A record as 3.1 shows it, and its beginning: an event may take several lines.
_SHOWN = re.compile(r"\S+Z \[(?P<level>\w+) *\] (?P<event>.*?) +\[(?P<logger>[\w.]+)\] .*loc=\S+.*", re.DOTALL)
_SHOWN_START = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z \[\w+ *\] ")


def _in_json(lines: List[str]) -> Iterator[str]:
    """Yield lines with the records of Airflow 3.1 turned into what later releases log."""
    begun = ""
    for line in lines:
        text = begun + line
        if not _SHOWN_START.match(text):
            yield text
            continue
        record = _SHOWN.fullmatch(text)
        begun = "" if record else text + "\n"
        if record:
            yield json.dumps({"timestamp": "", **record.groupdict()}, separators=(",", ":"))


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and let old releases of Airflow warn: what they use was deprecated after them."""
    config.addinivalue_line("markers", "needs(first, last): releases of Airflow that a test is for")
    if VERSION < (3, 0):
        config.addinivalue_line("filterwarnings", "ignore")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the installed release cannot do."""
    for mark in item.iter_markers("needs"):
        first, last = (*mark.args, (9, 9))[:2]
        if not first <= VERSION <= last:
            reason = mark.kwargs["reason"]
            pytest.skip(f"Airflow {'.'.join(map(str, VERSION))}: {reason}")


@dataclass
class Output:
    """What a command wrote: Airflow's log records, and the lines that are none, which tasks or the command printed."""

    records: List[Dict[str, Any]] = field(default_factory=list)
    printed: List[str] = field(default_factory=list)

    def events(self, logger: str) -> List[str]:
        """Return the messages of loggers whose name starts so."""
        return [record["event"] for record in self.records if record.get("logger", "").startswith(logger)]


@dataclass
class XCom:
    """A row of the database's table of XComs."""

    task_id: str
    key: str
    text: str
    map_index: int

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
            "VINEYARD_PROOF": "1",  # what tasks return is read again at once and must be the same
            # Airflow 3.0 does not look for modules in the DAGs' own folder.
            "PYTHONPATH": str(Path(__file__).parent / "dags"),
            **_LOGGING,
            **(_AIRFLOW_3 if VERSION >= (3, 0) else _AIRFLOW_2),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # The test DAGs import Airflow through a module of their own, so its name is not in each file.
            "AIRFLOW__CORE__DAG_DISCOVERY_SAFE_MODE": "False",
            "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
            # The server maps memory as it is used; the size only has to be enough.
            "AIRFLOW__VINEYARD__SIZE": "1Gi",
            "PYTHONWARNINGS": "ignore",
        }

    def test(self, dag_id: str, date: Optional[str] = None, *, succeeds: bool = True, **env: str) -> Output:
        """Run a DAG with ``airflow dags test``.

        Args:
            dag_id: the DAG.
            date: its logical date, in ISO format; Airflow 2 wants one, which must not be before the DAG's start.
            succeeds: whether the run must succeed.
            env: further environment variables.
        """
        if date is None and VERSION < (3, 0):
            date = datetime.now(timezone.utc).date().isoformat()
        output = self.run("airflow", "dags", "test", dag_id, *([date] if date else []), check=succeeds, **env)
        # From 2.5 to 2.11 the exit status says nothing.
        state = self.query("select state from dag_run where dag_id = ? order by id desc limit 1", dag_id)
        if succeeds and state != [("success",)]:
            telling = [str(record) for record in output.records if record["level"].lower() != "info"]
            pytest.fail("\n".join([f"the run of {dag_id} ended as {state}", *telling, *output.printed]), pytrace=False)
        return output

    def run(self, *command: str, check: bool = True, **env: str) -> Output:
        """Run a command; it must succeed unless ``check`` is false."""
        done = subprocess.run(
            command, env={**self.env, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        lines = list(_in_json(done.stdout.splitlines()))
        if check and done.returncode:
            telling = [line for line in lines if '"level":"info"' not in line and "'level': 'INFO'" not in line]
            pytest.fail("\n".join([f"{' '.join(command)} exited with {done.returncode}:", *telling]), pytrace=False)
        output = Output()
        echo = False
        for line in lines:
            echo = not line.startswith(("{'timestamp'", '{"timestamp"')) and (echo or bool(_ECHO.match(line)))
            if line.startswith('{"timestamp"'):
                output.records.append(json.loads(line))
            elif line.startswith("{'timestamp'"):
                output.records.append(ast.literal_eval(line))
            elif not echo and not _NOISE.match(line):
                output.printed.append(line)
        return output

    def query(self, statement: str, *values: Any) -> List[Tuple[Any, ...]]:
        """Run a statement on Airflow's database, and commit it."""
        with contextlib.closing(sqlite3.connect(str(self.path / "airflow.db"))) as database, database:
            return database.execute(statement, values).fetchall()

    def xcoms(self, dag_id: str) -> List[XCom]:
        """Return the rows of a DAG in the order in which they were written."""
        index = "map_index" if VERSION >= (2, 3) else "-1"
        columns = f"task_id, key, cast(value as text), {index}"
        rows = self.query(f"select {columns} from xcom where dag_id = ? order by timestamp, key", dag_id)
        return [XCom(*row) for row in rows]

    def states(self, dag_id: str) -> Dict[str, str]:
        """Return the states of a DAG's task instances by task, with the index of a mapped one in brackets."""
        index = "map_index" if VERSION >= (2, 3) else "-1"
        rows = self.query(f"select task_id, {index}, state from task_instance where dag_id = ?", dag_id)
        return {task if number < 0 else f"{task}[{number}]": state for task, number, state in rows}

    def processes(self) -> List[str]:
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
    """Return Airflow's database as Airflow makes it."""
    home = _new_home()
    home.run("airflow", "db", "migrate" if VERSION >= (2, 7) else "init")
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
