"""A server that asks for a user name and password (``--htpasswd``), which it has the program ``htpasswd`` check.

The program is a stand-in with the options and the exit codes of Apache's, and with passwords in the clear: what is
tested is our end and what the server tells us.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any, Iterator

import pytest
from vineyard_testing import until

import vineyard_client as vc
from vineyard_client import cli
from vineyard_client.server import server_command

pytestmark = pytest.mark.integration

# htpasswd -v -b FILE USER PASSWORD
STAND_IN = """#!/bin/sh
[ "$1 $2" = "-v -b" ] || exit 2
grep -q "^$4:" "$3" || { echo "User $4 not found" >&2; exit 6; }
grep -qxF "$4:$5" "$3" || { echo "password verification failed" >&2; exit 3; }
"""


class Locked:
    """A vineyardd with ``--htpasswd``."""

    def __init__(self, folder: Path, path: str) -> None:
        self.socket = str(folder / "vineyard.sock")
        self.file = folder / "users"
        self.file.write_text("alice:sécret\n")
        command = [*server_command(self.socket, size="16Mi"), f"--htpasswd={self.file}"]
        with open(folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "PATH": path})
        until(self.listens, "the server listens")

    def listens(self) -> bool:
        """Whether it answers, be it with a refusal."""
        try:
            vc.connect(self.socket, username="alice", password="sécret").close()
        except vc.ConnectionFailed as error:
            return "Cannot connect" not in error.what
        return True

    def refusal(self, **login: Any) -> vc.ConnectionFailed:
        """Return the error that a login gets."""
        with pytest.raises(vc.ConnectionFailed) as caught:
            vc.connect(self.socket, **login)
        assert "\n" not in str(caught.value)
        return caught.value

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def serve(folder: Path, stand_in: bool) -> Iterator[Locked]:
    program = folder / "bin" / "htpasswd"
    program.parent.mkdir()
    if stand_in:
        program.write_text(STAND_IN)
        program.chmod(stat.S_IRWXU)
    # The programs that the stand-in needs, and no htpasswd of this machine's own.
    for name in ("sh", "grep"):
        (program.parent / name).symlink_to(f"/bin/{name}")
    locked = Locked(folder, str(program.parent))
    try:
        yield locked
    finally:
        locked.stop()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Locked]:
    """A server that checks who connects."""
    yield from serve(tmp_path, stand_in=True)


@pytest.fixture
def unable(tmp_path: Path) -> Iterator[Locked]:
    """A server that is to check who connects, on a host without the program for it."""
    yield from serve(tmp_path, stand_in=False)


def test_the_right_ones(locked: Locked) -> None:
    """With the right user name and password everything works, again after the server dropped the connection."""
    with vc.connect(locked.socket, username="alice", password="sécret") as client:
        ref = client.put(bytearray(100_000))
        assert client.get(ref) == bytearray(100_000)
        client._connection().close()
        assert client.get(ref) == bytearray(100_000)
        assert client.delete(ref)
    assert "sécret" not in repr(client)


def test_none(locked: Locked) -> None:
    """Without credentials the error says that the server asks for some, and how to give them."""
    error = locked.refusal()
    assert error.what == f"vineyardd at {locked.socket} asks for a user name and password."
    assert error.hint == "Give connect() its username and password, or set VINEYARD_USERNAME and VINEYARD_PASSWORD."


def test_from_the_environment(locked: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that cannot pass them on, and the command line, have them from the environment; arguments come first."""
    monkeypatch.setenv("VINEYARD_USERNAME", "alice")
    monkeypatch.setenv("VINEYARD_PASSWORD", "sécret")
    with vc.connect(locked.socket) as client:
        client.delete(client.put(1))
    assert cli.main(["status", "--socket", locked.socket]) == 0
    assert "refused the user 'bob'" in locked.refusal(username="bob", password="x").what
    assert cli.main(["stop", "--socket", locked.socket]) == 0


@pytest.mark.parametrize("login", [("alice", "wrong"), ("alice", ""), ("bob", "sécret"), ("-n", "x")])
def test_the_wrong_ones(locked: Locked, login: Any) -> None:
    """With wrong ones the error names the user, and never the password."""
    error = locked.refusal(username=login[0], password=login[1])
    assert error.what == f"vineyardd at {locked.socket} refused the user {login[0]!r}."
    assert "--htpasswd" in error.hint and "sécret" not in str(error)


def test_the_server_goes_on(locked: Locked) -> None:
    """A refused client disturbs nobody."""
    with vc.connect(locked.socket, username="alice", password="sécret") as client:
        ref = client.put(1)
        locked.refusal(username="alice", password="wrong")
        assert client.get(ref) == 1
        client.delete(ref)


def test_the_file_is_gone(locked: Locked) -> None:
    """A server whose password file was removed lets nobody in and says why."""
    locked.file.unlink()
    error = locked.refusal(username="alice", password="sécret")
    assert "cannot check the user name and password: the file" in error.what and error.hint


def test_the_program_is_missing(unable: Locked) -> None:
    """A server whose host has no ``htpasswd`` lets nobody in and says what to install."""
    error = unable.refusal(username="alice", password="sécret")
    assert "cannot check the user name and password: its host has no htpasswd program" in error.what
    assert "apache2-utils" in error.hint


def test_credentials_for_a_server_that_asks_for_none(server: vc.EmbeddedServer) -> None:
    """Credentials that nobody asked for do no harm."""
    with vc.connect(server.socket, username="alice", password="x") as client:
        assert client.status().memory_limit > 0
