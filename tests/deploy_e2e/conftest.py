"""An engine for all modules of the session, and what their steps have in common."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import pytest
from vineyard_testing.engine import Engine, missing

HERE = Path(__file__).parent

# `nox -s deploy-e2e` says where the engine keeps its images.
ENGINE = os.environ.get("ENGINE")
RELEASES = ("3.3.2", "2.11.2")


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """An engine with the images that a registry would have."""
    if not ENGINE:
        pytest.skip("only `nox -s deploy-e2e` runs this; it takes minutes")
    reason = missing()
    if reason:
        pytest.fail(reason)
    found = Engine(Path(ENGINE))
    try:
        found.start()
        # Airflow's official Compose files of both releases; what stands in is Debian's, whatever the name says.
        for image in ("postgres:16", "postgres:13"):
            found.stand_in(image, HERE / "images" / "postgres")
        found.stand_in("redis:7.2-bookworm", HERE / "images" / "redis")
        found.stand_in("e2e/seaweedfs:1", HERE / "images" / "seaweedfs")
        for release in RELEASES:
            found.stand_in(f"apache/airflow:{release}-python3.12", HERE / "images" / "airflow", AIRFLOW_VERSION=release)
        yield found
    finally:
        found.stop()
