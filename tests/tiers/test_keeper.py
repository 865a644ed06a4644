"""The agent frees what nobody needs where there is no tier, and values beyond an age where that is wished."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.tiers import Host, array

import vineyard_client as vc


@contextmanager
def keeper(socket: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """An agent without a tier."""
    env = {name: value for name, value in os.environ.items() if name != "VINEYARD_TIER"}
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", socket, *arguments]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE) as process:
        yield process
        if process.poll() is None:
            process.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[vc.EmbeddedServer]:
    with vc.EmbeddedServer("64Mi", socket=str(tmp_path / "s")) as running:
        yield running


def used(client: vc.Client) -> int:
    return client.status().memory_used


def leave_garbage(socket: str) -> None:
    """Delete a value that a process reads, which is killed before it lets go of it."""
    code = """
import os, signal, sys, numpy as np, vineyard_client as vc
client = vc.connect(sys.argv[1])
ref = client.put(np.zeros(200_000))
kept = client.get(ref)
client.delete(ref)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, socket], check=False).returncode == -signal.SIGKILL


def test_garbage_goes_and_values_stay(server: vc.EmbeddedServer) -> None:
    """Without a tier and without an age, an agent does what `gc` does."""
    with vc.connect(server.socket) as client:
        ref = client.put(array(1))
        leave_garbage(server.socket)
        assert used(client) > 2_000_000
        with keeper(server.socket, "--older-than", "never") as process:
            until(lambda: used(client) < 1_500_000, "the garbage is gone", 3 * UNIT)
            assert client.exists(ref)
            process.send_signal(signal.SIGTERM)
            assert process.wait(3 * UNIT) == 0


def test_values_of_an_age_go(server: vc.EmbeddedServer) -> None:
    """With an age, values go that are older, and no others."""
    with vc.connect(server.socket) as client:
        ref = client.put(array(1))
        leave_garbage(server.socket)
        with keeper(server.socket, "--older-than", "1h"):
            until(lambda: used(client) < 1_500_000, "it has looked", 3 * UNIT)
            assert client.exists(ref)
        with keeper(server.socket, "--older-than", "0s"):
            until(lambda: not client.exists(ref), "the value is gone", 3 * UNIT)


def test_copies_go_with_values_of_an_age(host: Host) -> None:
    """With a tier, what is deleted for its age is deleted there, too."""
    with host.connect("through") as client:
        host.start_agent()
        ref = client.put(array(1))
        assert host.keys() == [ref.copy]
        assert host.end_agent() == 0
        host.start_agent("--older-than", "0s")
        until(lambda: not host.keys(), "the copy is gone", 3 * UNIT)
        assert not client.exists(ref)


def test_another_server(tmp_path: Path) -> None:
    """It waits for a server, and looks again when there is another one."""
    socket = str(tmp_path / "s")
    with keeper(socket, "--older-than", "0s"):
        for _ in range(2):
            with vc.EmbeddedServer("64Mi", socket=socket), vc.connect(socket) as client:
                ref = client.put(array(1))
                until(lambda: not client.exists(ref), "the value is gone", 6 * UNIT)  # noqa: B023


def test_it_ends_with_its_server(server: vc.EmbeddedServer) -> None:
    """With --with-server, as with a tier."""
    with keeper(server.socket, "--with-server", "--older-than", "0s") as process, vc.connect(server.socket) as client:
        ref = client.put(array(1))
        until(lambda: not client.exists(ref), "the value is gone", 6 * UNIT)
        server.stop()
        assert process.wait(3 * UNIT) == 0


@pytest.mark.parametrize("age", ["soon", "7", "-1d"])
def test_what_is_no_age(age: str, tmp_path: Path) -> None:
    """A wrong age is refused at once."""
    with keeper(str(tmp_path / "s"), "--older-than", age) as process:
        assert process.wait(3 * UNIT) == 2
        assert process.stderr and b"age" in process.stderr.read()
