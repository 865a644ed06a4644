"""Servers that tests start, or pretend to, at a path of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import pytest

import vineyard_client as vc
from vineyard_client._server.listening import alive
from vineyard_client.server import server_command

from . import until
from .ports import free_port, listens
from .processes import running

SIZE = "16Mi"

STARTS: List[Callable[[str], object]] = [
    lambda path: vc.ensure_server(path, size=SIZE),
    lambda path: vc.connect(path, autostart=True, size=SIZE),
    lambda path: vc.EmbeddedServer(SIZE, socket=path).start(),
]


def servers(path: str) -> List[int]:
    """Return the processes of vineyardd at a path, without the shells that look after them."""
    found = []
    for pid in running(f"--socket={path}"):
        with suppress(OSError):  # it ended meanwhile
            if not os.readlink(f"/proc/{pid}/exe").endswith("sh"):
                found.append(pid)
    return sorted(found)


def kill(pid: int) -> None:
    """Kill a process and wait until it is gone, with its sockets."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), f"the end of {pid}")


def fake_vineyardd(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program of the name into an otherwise empty PATH."""
    program = folder / "vineyardd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@contextmanager
def with_rpc(folder: Path, *, size: str = SIZE) -> Iterator[Tuple[str, str]]:
    """Run a server with RPC; yield the path of its socket and its endpoint, once it answers at both."""
    path, port = str(folder / "v.sock"), free_port()
    command = server_command(path, size=size, options=["--meta=local", "--rpc=true", f"--rpc_socket_port={port}"])
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: answers(path) and listens(port), f"vineyardd at {path}, port {port}")
            yield path, f"127.0.0.1:{port}"
        finally:
            process.kill()


def answers(path: str) -> bool:
    """Tell whether a server answers at a socket; that is there before it listens."""
    try:
        vc.connect(path).close()
    except vc.ConnectionFailed:
        return False
    return True
