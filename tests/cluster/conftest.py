"""Hosts for the tests of this folder: three network namespaces with a vineyardd each (``vineyard_testing.hosts``)."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Iterator, List

import pytest
from vineyard_testing.cluster import Trio, leftovers
from vineyard_testing.hosts import Host, Network, unavailable

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Mark what needs hosts, which have real servers."""
    for item in items:
        if HERE in item.path.parents and {"network", "servers"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[List[Host]]:
    """Three hosts."""
    reason = unavailable()
    if reason:
        pytest.skip(f"needs hosts: {reason}")
    with Network(tmp_path_factory.mktemp("net"), ["a", "b", "c"]) as hosts:
        yield list(hosts)


@pytest.fixture(scope="session")
def running(network: List[Host]) -> Trio:
    """The servers that all tests use, in turn."""
    return Trio(*[host.serve() for host in network])


@pytest.fixture
def servers(running: Trio) -> Iterator[Trio]:
    """A vineyardd on each host; afterwards nothing may be left: no object, memory, file or process."""
    before = [set(server.host.processes()) for server in running]
    yield running
    problems: List[str] = []
    for server, processes in zip(running, before):
        server.host.mend()
        server.host.shape()
        if not server.running:
            server.start()
        os.kill(server.pid, signal.SIGCONT)
        problems += [f"{server.host.name}: {problem}" for problem in leftovers(server)]
        for stranger in set(server.host.processes()) - processes - {server.pid}:
            problems.append(f"{server.host.name}: process {stranger}")
            os.kill(stranger, signal.SIGKILL)
    assert not problems
