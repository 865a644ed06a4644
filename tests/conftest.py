"""Fixtures for all tests: a real server, a client of it, and a watch on what a test leaves behind."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, Set

import pytest

if TYPE_CHECKING:
    from vineyard_client import Client, EmbeddedServer

HERE = Path(__file__).parent

# The release of vineyardd that is tested; ``nox -s servers`` puts others on the path and says so here.
RELEASE = os.environ.get("VINEYARDD_RELEASE", "0.24.2")

# What is put here, and by the processes that tests start, is read again at once and must be the same.
os.environ.setdefault("VINEYARD_PROOF", "1")

sys.path.insert(0, str(HERE / "helpers"))


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedServer]:
    """A vineyardd of the test session's own."""
    import vineyard_client as vc

    with vc.EmbeddedServer(size="512Mi") as embedded:
        with vc.connect(embedded.socket) as client:
            assert client.status().version == RELEASE
        yield embedded


@pytest.fixture(scope="session")
def release() -> str:
    """The release of vineyardd that is tested."""
    return RELEASE


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[Client]:
    """A client of the session's server, which must be as empty afterwards as it was before."""
    import vineyard_client as vc

    with vc.connect(server.socket) as connected:
        yield connected
    with vc.connect(server.socket) as cleaner:
        for deleted in (False, True):
            for info in cleaner.list(deleted=deleted):
                cleaner.delete(info.ref)


def _open_fds() -> Set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} -> {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue  # the listing's own descriptor
    return found


@pytest.fixture(autouse=True)
def leaves_nothing_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test of core that leaves file descriptors, threads or children behind."""
    parts = request.node.path.relative_to(HERE).parts
    if not os.path.isdir("/proc/self/fd") or parts[0] not in ("core", "integration"):
        yield
        return
    from vineyard_testing.processes import children

    before = _open_fds(), set(threading.enumerate()), children()
    yield
    deadline = time.monotonic() + 2
    while True:
        left = [now - then for now, then in zip((_open_fds(), set(threading.enumerate()), children()), before)]
        if not any(left):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: open files {left[0]}, threads {left[1]}, child processes {left[2]}")
        gc.collect()  # a cycle may hold what is going to be closed
        time.sleep(0.01)
