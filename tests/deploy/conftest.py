"""The assets as they are written, and the programs that judge them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from vineyard_testing.engine import compose_binary

from airflow_vineyard_deploy.cli import main

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _program(name: str) -> str:
    """Return the path of a program of this environment, or of the machine."""
    if name == "docker-compose":
        return str(compose_binary())
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if not found:
        pytest.skip(f"there is no {name}; `nox -s deploy` has the tools")
    return found


@pytest.fixture
def run() -> Run:
    """Run a program; with ``check=False`` it may fail."""

    def call(name: str, *arguments: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        command = [_program(name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
        assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    return call


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of assets with settings, and return where it is."""

    def write(folder: str, *settings: str) -> Path:
        place = tmp_path / folder
        options = [word for setting in settings for word in ("--set", setting)]
        assert main(["write", folder, str(place), *options]) == 0
        return place

    return write


@pytest.fixture
def compose(run: Run) -> Callable[..., Dict[str, Any]]:
    """Return a project as Compose reads it, from its files and its ``.env``."""

    def config(folder: Path, *files: str, **environment: str) -> Dict[str, Any]:
        flags: List[str] = [word for file in files for word in ("--file", file)]
        flags += ["--project-name", "test", "--profile", "debug"]
        env = {"PATH": os.environ["PATH"], **environment}
        found = json.loads(run("docker-compose", *flags, "config", "--format", "json", cwd=folder, env=env).stdout)
        assert isinstance(found, dict)
        return found

    return config
