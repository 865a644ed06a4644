"""The package: its version, and that it needs nothing."""

from __future__ import annotations

from importlib import metadata

import airflow_vineyard_deploy


def test_version() -> None:
    """The module's version is that of the installed distribution."""
    assert airflow_vineyard_deploy.__version__ == metadata.version("airflow-vineyard-deploy")


def test_no_dependencies() -> None:
    """Who only wants the assets installs nothing else."""
    assert not metadata.requires("airflow-vineyard-deploy")
