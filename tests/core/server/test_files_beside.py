"""Whose socket it is, and whose files beside it: nobody is led to those of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable

import pytest
from vineyard_testing import until
from vineyard_testing.processes import fork, run_python, running, wait
from vineyard_testing.vineyardds import SIZE, STARTS, kill, servers

import vineyard_client as vc
from vineyard_client._server.listening import alive
from vineyard_client.exceptions import ServerStartFailed

integration = pytest.mark.integration


@integration
@pytest.mark.parametrize("how", ["killed", "its socket was removed"])
def test_stopping_leaves_another_server_its_socket(path: str, how: str) -> None:
    """An embedded server that lost its path to another one, in whatever way, does not take that one's socket along."""
    embedded = vc.EmbeddedServer(SIZE, socket=path).start()
    try:
        if how == "killed":
            kill(embedded.pid)
        else:
            os.unlink(path)
        assert vc.ensure_server(path, size=SIZE)
        with vc.connect(path) as client:
            ref = client.put("kept")
        embedded.stop()
        with vc.connect(path) as client:
            assert client.get(ref) == "kept"
        until(lambda: len(servers(path)) == 1, "the end of the embedded server")
        vc.stop_server(path)
        assert not os.path.exists(path)
    finally:
        embedded.stop()


@integration
def test_an_owner_that_is_killed_leaves_another_server_its_socket(path: str) -> None:
    """The same when the shell ends the server because its owner is gone."""
    owner = """
import os, signal, sys
import vineyard_client as vc
from vineyard_client._io.deadline import Deadline
from vineyard_client._io.unix import UnixStream
from vineyard_client._server.listening import alive
server = vc.EmbeddedServer("16Mi", socket=sys.argv[1]).start()
os.kill(server.pid, signal.SIGKILL)
while alive(server.pid):
    pass
vc.ensure_server(sys.argv[1], size="16Mi")
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_python(owner, path)
    until(lambda: len(running(f"--socket={path}")) == 1, "the end of the shell")
    with vc.connect(path) as client:
        assert client.get(client.put(5)) == 5
    vc.stop_server(path)


@integration
def test_nobody_starts_one_before_the_other_has_ended(path: str) -> None:
    """When it is asked to end, vineyardd removes what is at its path; that is never the next one's socket."""
    for _ in range(5):
        vc.ensure_server(path, size=SIZE)
        pid = fork(lambda: vc.stop_server(path))
        while alive(pid):
            vc.ensure_server(path, size=SIZE)
        assert wait(pid) == 0
        vc.ensure_server(path, size=SIZE)
        (only,) = servers(path)
        assert vc.stop_server(path) == only


@integration
@pytest.mark.parametrize("start", [STARTS[0], STARTS[2]], ids=["ensure_server", "EmbeddedServer"])
@pytest.mark.parametrize("suffix", [".lock", ".log"])
@pytest.mark.parametrize("there", [True, False])
def test_links_beside_the_socket_are_not_followed(
    path: str, tmp_path: Path, start: Callable[[str], object], suffix: str, there: bool
) -> None:
    """Who may write to the folder cannot have a file made or written elsewhere."""
    target = tmp_path / "target"
    if there:
        target.write_text("precious")
    Path(path + suffix).symlink_to(target)
    with pytest.raises(ServerStartFailed, match="it is a symbolic link"):
        start(path)
    assert target.read_text() == "precious" if there else not target.exists()
    assert servers(path) == []


def test_a_folder_in_which_everybody_may_replace_things(tmp_path: Path) -> None:
    """No server is started where the next user could put a socket of their own in its place."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ServerStartFailed, match="everybody may replace what is in the folder"):
        vc.ensure_server(str(folder / "v.sock"), size=SIZE)
    assert list(folder.iterdir()) == []


@integration
def test_one_server_for_a_path_and_a_link_to_it(path: str, tmp_path: Path) -> None:
    """Who starts it by the link, and who by the path, start the same one."""
    link = tmp_path / "link.sock"
    link.symlink_to(path)
    assert vc.ensure_server(str(link), size=SIZE)
    assert not vc.ensure_server(path, size=SIZE)
    assert link.is_symlink() and Path(path).is_socket()
    vc.stop_server(str(link))
    assert not os.path.exists(path)
