"""The override laid over an Airflow 2.11.2 with the services of its official Compose file: a DAG runs through it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

import pytest
from vineyard_testing.engine import Engine
from vineyard_testing.machines import wait_until
from vineyard_testing.markdown import ROOT

HERE = Path(__file__).parent
RELEASE = "2.11.2"
WHEELS = os.environ.get("WHEELS")
SETTINGS = {
    "AIRFLOW_UID": "50000",
    "AIRFLOW_IMAGE_NAME": "e2e/airflow-2",
    "VINEYARD_EXTRA_PACKAGES": "pandas pyarrow",
    "VINEYARDD_SIZE": "256Mi",
    "COMPOSE_PROJECT_NAME": "deploy-e2e-2",
    "COMPOSE_FILE": "docker-compose.yaml:docker-compose.vineyard.yaml",
}


class Project:
    """The Compose project."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder

    def compose(self, *arguments: str, **options: Any) -> str:
        return self.engine.run("docker", "compose", *arguments, cwd=self.folder, **options)

    def execute(self, service: str, *command: str) -> str:
        return self.compose("exec", "-T", service, *command)

    def query(self, sql: str) -> str:
        return self.execute("postgres", "psql", "-U", "airflow", "-tA", "-c", sql).strip()


@pytest.fixture(scope="module")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The stack, up."""
    folder = tmp_path_factory.mktemp("airflow2")
    for name in ("docker-compose.vineyard.yaml", "Dockerfile"):
        command = [sys.executable, "-m", "airflow_vineyard_deploy", "write", f"docker/{name}", str(folder)]
        subprocess.run([*command, "--set", f"airflow_version={RELEASE}"], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(HERE / "airflow2.yaml", folder / "docker-compose.yaml")
    shutil.copytree(str(WHEELS), folder / "wheels")
    for name in ("dags", "logs", "plugins"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "examples" / "dags" / "v6d_etl_pandas.py", folder / "dags")
    (folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in SETTINGS.items()))
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, 50000, 0)
    made = Project(engine, folder)
    try:
        made.compose("build", "vineyardd")
        made.compose("up", "--detach")
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5")


def test_no_service_is_invented(project: Project) -> None:
    """The override names what is there, and adds a store with its agent."""
    services = set(project.compose("config", "--services").split())
    own = {line[2:-1] for line in (HERE / "airflow2.yaml").read_text().splitlines() if line.startswith("  airflow-")}
    assert services == (own - {"airflow-cli"}) | {"postgres", "redis", "vineyardd", "vineyard-agent"}


def test_a_pipeline(project: Project) -> None:
    """It succeeds, its values are in the store, and doctor is content."""
    dag_id = "v6d_etl_pandas"
    wait_until(
        lambda: project.query(f"select 1 from serialized_dag where dag_id = '{dag_id}'"),
        "DAG parsed",
        300,
        lambda: None,
    )
    project.execute("airflow-scheduler", "airflow", "dags", "unpause", dag_id)
    project.execute("airflow-scheduler", "airflow", "dags", "trigger", dag_id, "--run-id", "first")

    def ended() -> str:
        state = project.query("select state from dag_run where run_id = 'first'")
        return state if state in ("success", "failed") else ""

    assert wait_until(ended, "the run's end", 300, lambda: None) == "success", project.compose("logs", "--tail=80")
    found = json.loads(project.execute("airflow-worker", "airflow-vineyard", "status", "--json"))
    assert dag_id in found["xcoms"]
    checks = json.loads(project.execute("airflow-worker", "airflow-vineyard", "doctor", "--json"))["checks"]
    assert {check["result"] for check in checks} <= {"ok"}, checks
