"""The command: list, show and write."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from airflow_vineyard_deploy import __version__
from airflow_vineyard_deploy.assets import ASSETS
from airflow_vineyard_deploy.cli import main
from airflow_vineyard_deploy.settings import SETTINGS

Out = pytest.CaptureFixture


def test_list_names_everything(capsys: Out[str]) -> None:
    """All assets and all settings with their defaults are in the list."""
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert set(ASSETS) <= set(out.split())
    assert all(f"  {setting.default or '(none)'}  " in out for setting in SETTINGS.values())


@pytest.mark.parametrize("name", ASSETS)
def test_what_show_prints_is_what_write_writes(name: str, tmp_path: Path, capsys: Out[str]) -> None:
    """Each asset can be had alone; nothing in it is left to be filled in."""
    assert main(["show", name, "--set", "vineyardd_size=3Gi"]) == 0
    shown = capsys.readouterr().out
    assert main(["write", name, str(tmp_path / "new"), "--set", "vineyardd_size=3Gi"]) == 0
    (path,) = [path for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert capsys.readouterr().out == f"{path}\n"
    assert path.name == name.rpartition("/")[2]
    assert path.read_text() == shown
    assert not any(f"@{key}@" in shown for key in SETTINGS)


def test_a_setting_reaches_the_assets(capsys: Out[str]) -> None:
    """A version that is given stands in each file that names it, and the default in none."""
    for name in (
        "docker/Dockerfile",
        "docker/docker-compose.yaml",
        "docker/docker-compose.yaml.diff",
        "docker/.env.example",
    ):
        assert main(["show", name, "--set", "airflow_version=3.1.8"]) == 0
        shown = capsys.readouterr().out
        assert "3.1.8" in shown
        assert SETTINGS["airflow_version"].default not in shown


def test_writing_overwrites_nothing(tmp_path: Path, capsys: Out[str]) -> None:
    """With a file in the way nothing is written at all, unless --force says so; what is not ours stays."""
    (tmp_path / "docker-compose.yaml").write_text("mine")
    (tmp_path / "dags.txt").write_text("mine")
    assert main(["write", "docker", str(tmp_path)]) == 2
    assert "docker-compose.yaml exists already" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"docker-compose.yaml", "dags.txt"}
    assert (tmp_path / "docker-compose.yaml").read_text() == "mine"
    assert main(["write", "docker", str(tmp_path), "--force"]) == 0
    assert "vineyardd" in (tmp_path / "docker-compose.yaml").read_text()
    assert (tmp_path / "dags.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["show", "docker/dockerfile"],
            "There is no asset 'docker/dockerfile'. There are docker, kubernetes, monitoring, systemd, ",
        ),
        (["show", "docker"], "docker is a folder; show one of docker/Dockerfile, "),
        (["show", "docker/Dockerfile", "--set", "size=1Gi"], "There is no setting 'size'."),
        (["show", "docker/Dockerfile", "--set", "meta"], "write key=value"),
        (["show", "docker/Dockerfile", "--set", "meta=etcd", "--set", "meta=local"], "given twice"),
        (["write", "helm", "DIR"], "There is no asset 'helm'."),
        (["write", "docker", "DIR", "--set", "airflow_version=2.11.2"], "docker-compose.yaml is for Airflow 3"),
        (["write", "docker", "DIR", "--set", "vineyardd_size=1GB"], "'1GB' is no size"),
    ],
)
def test_wrong_arguments(arguments: List[str], words: str, tmp_path: Path, capsys: Out[str]) -> None:
    """Exit code 2, what would be right on standard error, and nothing written."""
    target = tmp_path / "new"
    assert main([str(target) if word == "DIR" else word for word in arguments]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert not shown.out
    assert not target.exists()


def test_a_file_where_a_folder_should_be(tmp_path: Path, capsys: Out[str]) -> None:
    """What the system says no to is exit code 1."""
    (tmp_path / "file").write_text("")
    assert main(["write", "docker", str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_as_a_module() -> None:
    """``python -m`` is the same command."""
    command = [sys.executable, "-m", "airflow_vineyard_deploy", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"airflow-vineyard-deploy {__version__}\n"
