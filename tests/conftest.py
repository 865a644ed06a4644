"""Fixtures for all tests: a real server, a client of it, and a watch on what a test leaves behind."""

from __future__ import annotations

import os
import threading
import time
from typing import Iterator, Set

import pytest


@pytest.fixture(scope="session")
def server() -> Iterator[object]:
    """A vineyardd of the test session's own."""
    import vineyard_client as vc

    with vc.EmbeddedServer(size="512Mi") as embedded:
        yield embedded


@pytest.fixture
def client(server: object) -> Iterator[object]:
    """A client of the session's server, which must be as empty afterwards as it was before."""
    import vineyard_client as vc

    with vc.connect(server.socket) as connected:  # type: ignore[attr-defined]
        yield connected
    with vc.connect(server.socket) as cleaner:  # type: ignore[attr-defined]
        for info in cleaner.list():
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
    """Fail a test of core that leaves file descriptors or threads open."""
    if not os.path.isdir("/proc/self/fd") or "core" not in request.node.path.parts:
        yield
        return
    fds, threads = _open_fds(), set(threading.enumerate())
    yield
    deadline = time.monotonic() + 2
    while (_open_fds() - fds or set(threading.enumerate()) - threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _open_fds() - fds, "left file descriptors open"
    assert not set(threading.enumerate()) - threads, "left threads running"
