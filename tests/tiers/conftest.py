"""A host with a folder, and one with a bucket where SeaweedFS is installed (session ``tiers``)."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, Iterator

import pytest
from vineyard_testing import buckets
from vineyard_testing.tiers import Host

SERVICES = {service.__name__: service for service in buckets.installed()}


@pytest.fixture(scope="session")
def services() -> Iterator[Dict[str, buckets.Bucket]]:
    """The services, started when the first test asks for them."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:

        class Started(Dict[str, buckets.Bucket]):
            def __missing__(self, kind: str) -> buckets.Bucket:
                place = Path(folder, kind)
                place.mkdir()
                self[kind] = stack.enter_context(SERVICES[kind](place))
                return self[kind]

        yield Started()


@pytest.fixture
def bucket(services: Dict[str, buckets.Bucket]) -> buckets.Bucket:
    """The one in SeaweedFS."""
    return services["seaweedfs"]


@pytest.fixture(params=["folder", *(["bucket"] if "seaweedfs" in SERVICES else [])])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param == "folder":
        made = Host(tmp_path, str(tmp_path / "values"))
    else:
        found: buckets.Bucket = request.getfixturevalue("bucket")
        made = Host(tmp_path, f"{found.url}/{os.urandom(4).hex()}", found.options)
    yield made
    made.close()


@pytest.fixture
def folder_host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, str(tmp_path / "values"))
    yield made
    made.close()
