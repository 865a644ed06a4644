"""``check``: what is found before anything starts, as far as that needs no engine; tests/deploy_e2e has the rest."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from vineyard_testing.ports import free_port

from airflow_vineyard_deploy.check import resource_problems
from airflow_vineyard_deploy.cli import main

Services = Callable[..., Dict[str, Any]]


@pytest.fixture
def services(written: Callable[..., Path], compose: Callable[..., Dict[str, Any]]) -> Services:
    """Return the services of a project that is all right, but for the variables given."""
    folder = written("docker")
    for name in ("dags", "logs", "plugins", "config"):
        (folder / name).mkdir()

    def config(**environment: str) -> Dict[str, Any]:
        good = {"AIRFLOW_UID": "1234", "AIRFLOW_PORT": str(free_port()), "VINEYARDD_SIZE": "16Mi"}
        found = compose(folder, "docker-compose.yaml", **{**good, **environment})["services"]
        assert isinstance(found, dict)
        return found

    return config


def problems(services: Dict[str, Any], *running: str) -> List[str]:
    return resource_problems(services, set(running))


def test_all_is_well(services: Services) -> None:
    """A project that can start has no problems."""
    assert problems(services()) == []


def test_no_env(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing asked for is .env; exit code 1. In a folder without a Compose file, it is that."""
    assert main(["check", str(tmp_path)]) == 1
    assert f"There is no Compose file in {tmp_path}. Write one: " in capsys.readouterr().out
    (tmp_path / "compose.yaml").touch()
    assert main(["check", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert f"There is no {tmp_path / '.env'}. Copy .env.example to .env" in shown


def test_no_docker(tmp_path: Path) -> None:
    """Without Docker there is nothing to ask."""
    (tmp_path / ".env").write_text("")
    command = [sys.executable, "-m", "airflow_vineyard_deploy", "check"]
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, cwd=str(tmp_path), env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("- There is no docker on PATH.")) == (1, True), done


def test_no_compose(tmp_path: Path) -> None:
    """A docker without the plugin says something about its own options."""
    (tmp_path / ".env").write_text("")
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'See docker --help' >&2\nexit 1\n")
    docker.chmod(0o755)
    command = [sys.executable, "-m", "airflow_vineyard_deploy", "check"]
    env = {**os.environ, "PATH": f"{tmp_path}:/bin"}
    done = subprocess.run(command, cwd=str(tmp_path), env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, "Install its Compose plugin, 2.20" in done.stdout) == (1, True), done


def test_a_size_that_is_none(services: Services) -> None:
    """Each store with a wrong size is named."""
    found = problems(services(VINEYARDD_SIZE="2 gigs"))
    assert found == [
        f"{name}: '2 gigs' is no size; write a number with Mi, Gi or Ti, such as 2Gi. Change VINEYARDD_SIZE in .env."
        for name in ("vineyardd", "vineyardd-2")
    ]


def test_more_than_the_host_has(services: Services) -> None:
    """Stores that do not fit into the memory there is are found, unless they run already."""
    huge = services(VINEYARDD_SIZE="100Ti")
    (found,) = problems(huge)
    assert found.startswith("The stores reserve 209715200 MiB when they start, but ")
    assert "VINEYARDD_SIZE" in found
    assert problems(huge, "vineyardd", "vineyardd-2") == []


def test_a_port_in_use(services: Services) -> None:
    """A port that somebody listens at is named, unless it is the project's own service."""
    with socket.socket() as busy:
        busy.bind(("0.0.0.0", 0))
        busy.listen()
        number = busy.getsockname()[1]
        project = services(AIRFLOW_PORT=str(number))
        (found,) = problems(project)
        assert problems(project, "airflow-apiserver") == []
    assert found.startswith(f"airflow-apiserver: port {number} is in use on this host. Set AIRFLOW_PORT")
    assert problems(project) == []


def test_missing_folders(services: Services, tmp_path: Path) -> None:
    """Folders that Docker would make for root are to be made first."""
    project = services()
    for name in ("dags", "logs"):
        (tmp_path / "docker" / name).rmdir()
    (found,) = problems(project)
    assert found.endswith(f"mkdir -p {tmp_path / 'docker' / 'dags'} {tmp_path / 'docker' / 'logs'}")
