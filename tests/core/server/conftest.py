"""Where servers of these tests may be: paths of their own, and a machine that has no binary."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path
from typing import Iterator

import pytest
from vineyard_testing.processes import running
from vineyard_testing.vineyardds import kill


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A socket path; whatever server a test starts there is gone afterwards."""
    path = str(tmp_path / "v.sock")
    yield path
    for pid in running(f"--socket={path}"):
        kill(pid)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes the place of /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages that bring binaries."""

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
