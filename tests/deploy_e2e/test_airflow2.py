"""The override over an Airflow 2 with the services of its official Compose file: the README's steps, the pipeline.

``AIRFLOW2_COMPOSE`` may name that file itself, as Airflow's documentation of the release has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Iterator, List

import pytest
from vineyard_testing.compose import EXTRA, Project
from vineyard_testing.engine import Engine
from vineyard_testing.machines import wait_until
from vineyard_testing.markdown import ROOT, by_language

RELEASE = "2.11.2"
OVERRIDE = "docker-compose.vineyard.yaml"
OFFICIAL = Path(os.environ.get("AIRFLOW2_COMPOSE") or ROOT / "tests" / "deploy" / "airflow2.yaml")
SERVICES = ("webserver", "scheduler", "triggerer", "worker")

# The README's steps, and what it says of Airflow 2.
(STEPS,) = [
    [re.sub(r"write \S+ \.$", rf"\g<0> --set airflow_version={RELEASE}", command) for command in block.commands]
    for block in by_language("console")["packages/deploy/README.md"]
    if f"write docker/{OVERRIDE}" in block.text
]


@pytest.fixture(scope="module")
def project(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The stack, up."""
    clone = tmp_path_factory.mktemp("clone")
    (clone / "packages").symlink_to(ROOT / "packages")
    env = {
        "AIRFLOW_UID": "50000",
        "AIRFLOW_IMAGE_NAME": "e2e/airflow-vineyard-2",
        "VINEYARD_EXTRA_PACKAGES": EXTRA,
        "VINEYARDD_SIZE": "256Mi",
        "COMPOSE_PROJECT_NAME": "deploy-e2e-2",
        "COMPOSE_FILE": f"docker-compose.yaml:{OVERRIDE}",
    }
    made = Project(engine, clone, "airflow", env)
    for name in ("dags", "logs", "plugins", "config"):
        (made.folder / name).mkdir(parents=True)
    shutil.copy(OFFICIAL, made.folder / "docker-compose.yaml")
    shutil.copy(ROOT / "examples" / "dags_airflow2" / "flights.py", made.folder / "dags")
    made.append_env()
    made.give_away()
    try:
        for step in STEPS:
            made.step("cd airflow", step)
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5")


def see_to_the_scheduler(project: Project) -> None:
    """Wait until it schedules; restart it once if it stands still, as whoever operates an Airflow 2 does.

    Now and then it waits for ever as it starts: what reads DAG files is forked from it, with its connection to the
    database, and takes what was meant for it.
    """
    jobs = "from job where job_type = 'SchedulerJob'"
    beats = f"select now() - min(start_date) > '1 minute' and now() - max(latest_heartbeat) < '30 seconds' {jobs}"
    stands = f"select now() - max(latest_heartbeat) > '2 minutes' {jobs}"
    restarted: List[str] = []

    def restart() -> None:
        if project.query(stands) == [["t"]] and not restarted:
            restarted.append(project.compose("restart", "airflow-scheduler"))

    wait_until(lambda: project.query(beats) == [["t"]], "the scheduler schedules", 900, restart)


def test_no_service_is_invented(project: Project) -> None:
    """The override names what is there, and adds a store with its agent."""
    plain = set(project.compose("-f", "docker-compose.yaml", "config", "--services").split())
    assert {f"airflow-{name}" for name in SERVICES} <= plain
    assert set(project.compose("config", "--services").split()) == plain | {"vineyardd", "vineyard-agent"}


def test_a_pipeline(project: Project) -> None:
    """It succeeds, its values are in the store, and doctor is content wherever tasks and triggers run."""
    see_to_the_scheduler(project)
    project.run_flights("first", "airflow-worker", "airflow-scheduler")
    rows = project.query(
        "select convert_from(value, 'utf8') from xcom where dag_id = 'flights' and key = 'return_value'"
    )
    endpoints = [json.loads(row).get("vineyard", {}).get("endpoint") for (row,) in rows]
    assert "vineyardd:9600" in endpoints, rows
    for service in ("airflow-worker", "airflow-triggerer", "airflow-scheduler"):
        found = json.loads(project.execute(service, "airflow-vineyard", "doctor", "--json"))
        assert {check["result"] for check in found["checks"]} == {"ok"}, (service, found)
