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
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that takes the place of /tmp, directly below it: the path of a UNIX socket is short."""
    with tempfile.TemporaryDirectory(prefix="vt-") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages that bring binaries."""

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
