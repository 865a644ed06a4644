"""Named modules are imported once, in the process that tasks are forked from, before the first fork."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, List

import pytest

from airflow_provider_vineyard import preload

pytestmark = pytest.mark.airflow

# What the process has loaded before it forks, what the child finds, and what the parent has afterwards.
FORK = """
import json, os, sys
import airflow
from airflow_provider_vineyard.xcom import VineyardXCom

# Not earlier: old releases cannot be imported with these executors and SQLite.
os.environ["AIRFLOW__CORE__EXECUTOR"] = os.environ["EXECUTOR"]
watched = {"named", "other", "vineyard_client"}
found = [sorted(watched & set(sys.modules))]
for _ in range(2):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, json.dumps(sorted(watched & set(sys.modules))).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        found.append(json.load(answer))
    os.wait()
print(json.dumps([found, os.environ.get("IMPORTED")]))
"""

# It counts its imports, and forks during them, as modules do that look for a library with the help of a program.
NAMED = """
import os
os.environ["IMPORTED"] = os.environ.get("IMPORTED", "") + "+"
if os.fork() == 0:
    os._exit(0)
os.wait()
"""

SCHEDULER, WORKER = ["scheduler", "-n", "1"], ["celery", "worker"]
ALL = ["named", "other", "vineyard_client"]


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """Return a folder for the path with the modules ``named``, ``other`` and ``broken``."""
    (tmp_path / "named.py").write_text(NAMED)
    (tmp_path / "other.py").write_text("")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such device')\n")
    return tmp_path


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """Return the list of what is registered to run before a fork, instead of registering it."""
    registered: List[Any] = []
    monkeypatch.setattr(preload, "_waiting", [])
    monkeypatch.setattr(preload, "os", SimpleNamespace(register_at_fork=lambda before: registered.append(before)))
    return registered


@pytest.mark.parametrize(
    ("arguments", "executor", "named", "expected"),
    [
        (SCHEDULER, "LocalExecutor", "named, other", ALL),
        (SCHEDULER, "LocalExecutor", "named missing", ["named", "vineyard_client"]),
        (SCHEDULER, "LocalExecutor", "", []),
        (SCHEDULER, "CeleryExecutor", "named, other", []),
        (WORKER, "CeleryExecutor", "named,other", ALL),
        (["dag-processor"], "LocalExecutor", "named, other", []),
        (["tasks", "run", "dag", "task"], "SequentialExecutor", "named, other", []),
    ],
)
def test_the_first_fork_imports(
    modules: Path, arguments: List[str], executor: str, named: str, expected: List[str]
) -> None:
    """In a process that forks tasks, and in no other, they are there for each child, and imported only once."""
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")])),
        "EXECUTOR": executor,
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
        "AIRFLOW__VINEYARD__PRELOAD": named,
    }
    command = [sys.executable, "-W", "ignore", "-c", FORK, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (before, *children), imported = json.loads(done.stdout.splitlines()[-1])
    assert before == []
    assert children == [expected, expected]
    assert imported == ("+" if "named" in expected else None)


# Workers as a LocalExecutor has them on CPython 3.14: each says what it found when it was forked.
FORK_SERVER = """
import json, multiprocessing, os, sys

if __name__ == "__main__":
    import airflow
    from airflow_provider_vineyard.xcom import VineyardXCom

    os.environ["AIRFLOW__CORE__EXECUTOR"] = os.environ["EXECUTOR"]
    context = multiprocessing.get_context("forkserver")
    answers = context.SimpleQueue()
    for _ in range(2):
        worker = context.Process(target=__import__("asked").tell, args=(answers,))
        worker.start()
        worker.join()
    print(json.dumps([[answers.get() for _ in range(2)], sorted({"named", "other"} & set(sys.modules))]))
"""

ASKED = """
import os, sys
found = sorted({"named", "other", "vineyard_client"} & set(sys.modules))

def tell(answers):
    answers.put([found, os.environ.get("IMPORTED")])
"""


@pytest.mark.parametrize(
    ("executor", "named", "expected"),
    [
        ("LocalExecutor", "named, other", [ALL, "+"]),
        ("CeleryExecutor", "named", [[], None]),
    ],
)
def test_a_fork_server_imports(modules: Path, executor: str, named: str, expected: List[Any]) -> None:
    """Where the scheduler has its workers from one, they are there for each worker, and imported only once."""
    (modules / "asked.py").write_text(ASKED)
    (modules / "scheduler.py").write_text(FORK_SERVER)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(modules), os.environ.get("PYTHONPATH")])),
        "EXECUTOR": executor,
        "AIRFLOW__CORE__XCOM_BACKEND": "airflow_provider_vineyard.xcom.VineyardXCom",
        "AIRFLOW__VINEYARD__PRELOAD": named,
    }
    command = [sys.executable, "-W", "ignore", str(modules / "scheduler.py"), *SCHEDULER]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "cannot use sqlite with" in done.stderr:
        pytest.skip("this release cannot be imported with that executor and SQLite, so nor by a new interpreter")
    assert json.loads(done.stdout.splitlines()[-1]) == [[expected, expected], []]


def test_what_cannot_be_imported_is_a_warning(
    modules: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing, broken and impossible names are warned of, with what to do; the others are imported."""
    monkeypatch.syspath_prepend(str(modules))
    with caplog.at_level(logging.WARNING, preload.__name__):
        assert preload.load(["missing", "broken", ".relative", "other"]) == ["other"]
    monkeypatch.delitem(sys.modules, "other")
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3
    assert texts[0].startswith(
        "[vineyard] preload: 'missing' cannot be imported here: ModuleNotFoundError: No module named 'missing'."
    )
    assert "RuntimeError: no such device" in texts[1]
    assert "'.relative'" in texts[2]
    assert all(text.endswith("Install it for this Airflow, or take it out of the option.") for text in texts)


def test_other_processes_have_no_hook(hooks: List[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A task process and a command pay for one comparison."""
    for arguments in ([], ["dags", "test", "scheduler"], ["celery", "flower"], ["api-server"]):
        monkeypatch.setattr(sys, "argv", ["airflow", *arguments])
        preload.arrange()
    assert hooks == []
    monkeypatch.setattr(sys, "argv", ["airflow", "scheduler"])
    preload.arrange()
    preload.arrange()
    assert len(hooks) == 1


def test_nothing_is_logged_without_the_option(
    hooks: List[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hook of those who do not use it is silent."""
    monkeypatch.setattr(sys, "argv", ["airflow", "celery", "worker"])
    preload.arrange()
    with caplog.at_level(logging.DEBUG, preload.__name__):
        hooks[0]()
    assert not caplog.records


def test_an_unreadable_configuration_is_a_warning(
    hooks: List[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The fork goes on when the option cannot be read."""

    def read() -> None:
        raise OSError("no such command")

    monkeypatch.setattr(sys, "argv", ["airflow", "scheduler"])
    monkeypatch.setattr(preload.settings, "preload_modules", read)
    preload.arrange()
    with caplog.at_level(logging.WARNING, preload.__name__):
        hooks[0]()
        hooks[0]()
    assert [record.getMessage() for record in caplog.records] == [
        "[vineyard] preload cannot be read, nothing is imported ahead of tasks: no such command"
    ]


def test_names_are_separated_by_spaces_or_commas(options: Callable[..., None]) -> None:
    """Both work, each name counts once, and the order stays."""
    options(preload=" pandas, pyarrow  numpy,pandas ")
    assert preload.settings.preload_modules() == ("pandas", "pyarrow", "numpy")


@pytest.mark.parametrize(
    ("executor", "expected"),
    [
        ("LocalExecutor", True),
        ("CeleryExecutor,LocalExecutor", True),
        ("airflow.executors.local_executor.LocalExecutor", True),
        ("LocalKubernetesExecutor", True),
        ("SequentialExecutor", False),
        ("CeleryExecutor", False),
        ("KubernetesExecutor", False),
    ],
)
def test_which_schedulers_fork_tasks(executor: str, expected: bool) -> None:
    """Those whose executor has tasks run below the scheduler; a Celery worker does in any case."""
    assert preload.forks_tasks(["scheduler", "--daemon"], executor) is expected
    assert preload.forks_tasks(["celery", "worker"], executor)
    assert not preload.forks_tasks(["triggerer"], executor)
