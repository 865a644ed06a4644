"""One table of commands, for the program ``airflow-vineyard`` and for Airflow's own command line."""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Iterator, Set

import pytest
from vineyard_testing import until
from vineyard_testing.processes import paused, running

import vineyard_client
from airflow_provider_vineyard import cli as subject
from airflow_provider_vineyard import doctor, orphans, version_compat
from airflow_provider_vineyard.clients import close_clients, get_client
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.xcom import store as xcoms

pytestmark = [pytest.mark.airflow, pytest.mark.integration]


@pytest.fixture(autouse=True)
def everything_goes_to_vineyard(options: Callable[..., None]) -> None:
    """Keep nothing in the rows, so that small values will do."""
    options(inline_threshold=0)


def put(value: Any, dag_id: str = "etl") -> Any:
    """Store a value as the backend does and return its row."""
    return xcoms.put(value, Origin(dag_id, "r1", "extract", -1, "return_value"))


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the set of tokens that stand for Airflow's rows."""
    tokens: Set[str] = set()
    monkeypatch.setattr(orphans, "referenced", lambda wanted: tokens & wanted)
    return tokens


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the socket of an embedded server that was not started yet."""
    folder = tempfile.mkdtemp(prefix="vp-")
    monkeypatch.setattr(version_compat, "airflow_home", lambda: folder)
    get_settings.cache_clear()
    path = get_settings().ipc_socket
    yield path
    if os.path.exists(path):
        with contextlib.suppress(vineyard_client.ConnectionFailed):  # a server that was killed leaves its socket
            vineyard_client.stop_server(path)
    shutil.rmtree(folder)


def test_status(store: Any, options: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """Objects are counted by DAG; another deployment's and a task's own are told apart."""
    put((1, 2)), put((3, 4)), put(b"x" * 100_000, "report")
    store.put("by hand")
    options(deployment="other")
    put((5, 6))
    options(deployment="airflow")
    capsys.readouterr()
    assert subject.main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["socket"], found["embedded"], found["endpoint"]) == (store.socket, False, None)
    assert {dag_id: share["objects"] for dag_id, share in found["xcoms"].items()} == {"etl": 2, "report": 1}
    assert 100_000 < found["xcoms"]["report"]["bytes"] < 110_000
    assert found["others"]["objects"] == 2
    assert 100_000 < found["memory_used"] < found["memory_limit"]
    assert set(found["versions"]) == {"vineyardd", "airflow", "airflow-provider-vineyard", "vineyard-client"}

    assert subject.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split(None, 1) == ["socket", f"{store.socket} (configured)"]
    table = {line.rsplit(None, 3)[0].strip(): line.split()[-3:] for line in lines if line.endswith("B")}
    assert table["all XComs"][0] == "3" and table["other objects"][0] == "2"


def test_status_of_an_embedded_server_that_does_not_run(
    embedded: str, options: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not started; the message says who starts it."""
    assert subject.main(["status"]) == 1
    assert "is not running. The first value starts it" in capsys.readouterr().err
    options(autostart="False")
    assert subject.main(["status"]) == 1
    assert "autostart is off" in capsys.readouterr().err
    assert not os.path.exists(embedded)


def test_a_configured_server_that_does_not_run(
    options: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It cannot be told whether it has anything to free."""
    options(ipc_socket=tmp_path / "v.sock")
    for command in ("status", "gc"):
        assert subject.main([command]) == 1
        assert f"{tmp_path}/v.sock" in capsys.readouterr().err


@pytest.mark.parametrize("results", [["ok", "warning"], ["ok", "failed", "ok"]])
def test_doctor(results: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says whether a check failed; a warning is none."""
    checks = [
        doctor.Check(f"check {i}", result, "found", "" if result == "ok" else "do it")
        for i, result in enumerate(results)
    ]
    monkeypatch.setattr(doctor, "diagnose", lambda: checks)
    healthy = "failed" not in results
    assert subject.main(["doctor", "--json"]) == (0 if healthy else 1)
    found = json.loads(capsys.readouterr().out)
    assert found == {"healthy": healthy, "checks": [check._asdict() for check in checks]}
    assert subject.main(["doctor"]) == (0 if healthy else 1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == ("Healthy." if healthy else "Not healthy.")
    assert lines[1].split() == [results[1], "check", "1", "found"] and lines[2].strip() == "do it"


def test_gc(store: Any, rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A dry run shows what the real one frees."""
    kept, orphan = put((1, 2)), put((3, 4))
    rows.add(kept["vineyard"]["token"])
    capsys.readouterr()
    assert subject.main(["gc"]) == 0
    assert capsys.readouterr().out == "Freed 0 objects, 0 B.\n"
    assert subject.main(["gc", "--orphans", "--grace", "0s", "--dry-run"]) == 0
    header, line, total = capsys.readouterr().out.splitlines()
    assert header.split() == ["ID", "SIZE", "FREES", "REASON", "CREATED", "XCOM", "TYPE"]
    assert line.startswith(orphan["vineyard"]["id"]) and "etl r1 extract return_value" in line
    assert total.startswith("Would free 1 objects, ") and total.endswith(": 1 orphan.")
    assert subject.main(["gc", "--orphans", "--grace", "0s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["dry_run"], found["objects"]) == (False, 1)
    (freed,) = found["freed"]
    assert (freed["token"], freed["reason"]) == (orphan["vineyard"]["token"], "orphan")
    assert found["bytes"] == freed["size"] == freed["frees"] > 0
    assert freed["labels"]["task_id"] == "extract"
    assert xcoms.get(kept) == (1, 2)


def test_what_is_shared(store: Any, rows: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A task returns what it received and more: it is counted once, and comes free with the last who has it."""
    kept, first = put((1, 2)), put([memoryview(bytearray(1_000_000))])
    second = put([*xcoms.get(first), memoryview(bytearray(100_000))])
    gc.collect()
    capsys.readouterr()
    assert subject.main(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert 1_100_000 < status["xcoms"]["etl"]["bytes"] <= status["memory_used"] < 1_200_000
    rows.update(row["vineyard"]["token"] for row in (kept, second))
    assert subject.main(["gc", "--orphans", "--grace", "0s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (freed,) = found["freed"]
    assert freed["size"] > 1_000_000 and found["bytes"] == freed["frees"] == 0
    assert store.status().memory_used > 1_100_000
    rows.remove(second["vineyard"]["token"])
    assert subject.main(["gc", "--orphans", "--grace", "0s", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (freed,) = found["freed"]
    assert 1_100_000 < found["bytes"] == freed["frees"] < 1_200_000
    assert store.status().memory_used < 10_000


def test_gc_of_what_is_old(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one DAG, and without a database."""
    put((1, 2)), put((3, 4), "report")
    capsys.readouterr()
    assert subject.main(["gc", "--older-than", "1.5h", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 0
    assert subject.main(["gc", "--older-than", "0s", "--dag-id", "report", "--json"]) == 0
    (freed,) = json.loads(capsys.readouterr().out)["freed"]
    assert (freed["reason"], freed["labels"]["dag_id"]) == ("expired", "report")


def test_gc_without_a_database(store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A clear error, and nothing is freed."""

    def blocked() -> Any:
        raise RuntimeError("Session must be set before!")

    monkeypatch.setattr(version_compat, "create_session", blocked)
    row = put((1, 2))
    assert subject.main(["gc", "--orphans", "--grace", "0s"]) == 1
    error = capsys.readouterr().err
    assert "metadata database cannot be read here" in error and "SQL_ALCHEMY_CONN" in error
    assert xcoms.get(row) == (1, 2)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["clean"],
        ["gc", "--older-than", "7"],
        ["gc", "--older-than", "-7d"],
        ["gc", "--older-than", "9999999d"],
        ["gc", "--dag-id", "etl"],
        ["gc", "--grace", "1h"],
        ["stop", "--json"],
    ],
)
def test_wrong_arguments(arguments: Any, store: Any) -> None:
    """The exit code is 2, and nothing is done."""
    row = put((1, 2))
    try:
        code: Any = subject.main(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert xcoms.get(row) == (1, 2)


def test_wrong_options(options: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the option, no traceback."""
    options(size="plenty")
    assert subject.main(["status"]) == 1
    assert capsys.readouterr().err.startswith("airflow-vineyard: [vineyard] size is 'plenty'.")


def test_core_is_broken(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Likewise."""
    monkeypatch.setitem(sys.modules, "vineyard_client", None)
    assert subject.main(["status"]) == 1
    assert "pip install --force-reinstall vineyard-client" in capsys.readouterr().err


def test_stop(embedded: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The embedded server ends; one that does not run is said not to."""
    vineyard_client.ensure_server(embedded, size="64Mi")
    assert subject.main(["stop"]) == 0
    assert embedded in capsys.readouterr().out
    with pytest.raises(vineyard_client.ConnectionFailed):
        vineyard_client.connect(embedded, autostart=False)
    assert subject.main(["stop"]) == 1
    assert "is not running" in capsys.readouterr().err


def test_stop_saves_first(embedded: str, options: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """What a task has just put is in the folder, and no process is left; what cannot be saved keeps the server."""
    options(size="64Mi")
    row = put(b"x" * 100_000)
    assert subject.main(["stop"]) == 0
    values = Path(embedded).parent / "values"
    assert (values / row["vineyard"]["copy"]).is_file()
    assert not running(embedded)
    assert xcoms.get(row) == b"x" * 100_000
    saved: Any = get_client(get_settings()).saved
    until(lambda: saved.status().agent is not None, "the agent listens")
    agent = saved.status().agent
    with paused(agent):
        put((1, 2))
        shutil.rmtree(values)
        values.write_text("no folder")
    options(tier_timeout=2)
    close_clients()
    capsys.readouterr()
    assert subject.main(["stop"]) == 1
    assert "1 values (" in (said := capsys.readouterr().err) and "With --discard" in said
    assert subject.main(["stop", "--discard"]) == 0
    assert not running(embedded)


def test_stop_leaves_a_configured_server_alone(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody else runs it."""
    assert subject.main(["stop"]) == 1
    assert "vineyard-client stop --socket" in capsys.readouterr().err
    assert store.status().memory_limit


only_with_commands = pytest.mark.skipif(
    version_compat.airflow_version() < (3, 2), reason="providers have no commands before Airflow 3.2"
)


@only_with_commands
def test_airflows_command_line(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Airflow finds the group, and a command's exit code is the process's."""
    from airflow.cli import cli_parser
    from airflow.providers_manager import ProvidersManager

    assert subject.airflow_commands in ProvidersManager().cli_command_functions
    parser = cli_parser.get_parser()

    def run(*arguments: str) -> Any:
        parsed = parser.parse_args(["vineyard", *arguments])
        parsed.func(parsed)

    run("status", "--json")
    assert json.loads(capsys.readouterr().out)["socket"] == store.socket
    with pytest.raises(SystemExit) as error:
        run("stop")
    assert error.value.code == 1
    with pytest.raises(SystemExit) as error:
        run("gc", "--older-than", "soon")
    assert error.value.code == 2
    assert "write a number with s, m, h or d" in capsys.readouterr().err


@only_with_commands
def test_both_have_the_same_arguments() -> None:
    """What one command line takes, the other does."""
    (group,) = subject.airflow_commands()
    (choices,) = (action for action in subject._parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert [command.name for command in group.subcommands] == list(choices.choices)
    for command in group.subcommands:
        parser = argparse.ArgumentParser()
        for argument in command.args:
            argument.add_to_parser(parser)
        ours = choices.choices[command.name]
        assert parser._option_string_actions.keys() == ours._option_string_actions.keys()


def test_the_table_costs_nothing_to_import() -> None:
    """Airflow does it on each of its commands: no core, no data library, no database."""
    code = """
import sys
import airflow_provider_vineyard.cli
print(sorted({"airflow", "sqlalchemy", "vineyard_client", "numpy", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.skipif(not version_compat.is_airflow_3(), reason="tasks have the database before Airflow 3")
def test_in_a_task_of_airflow_3(store: Any, tmp_path: Path) -> None:
    """Airflow gives a task a URL in place of the database with which it cannot itself be loaded."""
    names = (subject._DATABASE_VARIABLE, "AIRFLOW__CORE__SQL_ALCHEMY_CONN")
    blocked = dict.fromkeys(names, "airflow-db-not-allowed:///")
    code = "import sys; from airflow_provider_vineyard.cli import main; sys.exit(main(sys.argv[1:]))"

    def run(*arguments: str, **env: str) -> Any:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, *arguments],
            env={**os.environ, **blocked, **env},
            capture_output=True,
            text=True,
            check=False,
        )

    done = run("gc", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["objects"] == 0
    done = run("gc", "--orphans")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Session must be set" in done.stderr
    # With the database put back, as the maintenance DAG does it, it is asked; this one has no tables.
    done = run("gc", "--orphans", **{subject._DATABASE_VARIABLE: f"sqlite:///{tmp_path}/airflow.db"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "no such table: xcom" in done.stderr
