"""A server that ends with its program."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from vineyard_testing import until
from vineyard_testing.processes import fork, in_child, run_python, wait
from vineyard_testing.vineyardds import SIZE, kill, servers

import vineyard_client as vc
from vineyard_client._server.listening import alive
from vineyard_client.exceptions import ServerStartFailed

integration = pytest.mark.integration


@integration
def test_embedded(temporary: Path) -> None:
    """An embedded server is there inside of the block, and gone with all that it made afterwards."""
    with vc.EmbeddedServer(SIZE) as embedded:
        assert servers(embedded.socket) == [embedded.pid]
        assert repr(embedded) == f"<EmbeddedServer at {embedded.socket}, running>"
        assert embedded.log == f"{embedded.socket}.log" and os.path.getsize(embedded.log) > 0
        assert stat.S_IMODE(os.stat(os.path.dirname(embedded.socket)).st_mode) == 0o700
        with vc.connect(embedded.socket) as client:
            view = client.get(client.put(bytearray(range(200)) * 1000))
    assert repr(embedded) == f"<EmbeddedServer at {embedded.socket}, stopped>"
    assert servers(embedded.socket) == []
    assert list(temporary.iterdir()) == []
    assert view == bytearray(range(200)) * 1000


@integration
def test_embedded_life(temporary: Path) -> None:
    """Stopping is idempotent, starting twice is an error, starting again works."""
    embedded = vc.EmbeddedServer(SIZE)
    embedded.stop()
    for _ in range(2):
        embedded.start()
        with pytest.raises(ServerStartFailed) as caught:
            embedded.start()
        assert str(caught.value) == (
            f"A server listens at {embedded.socket} already. Connect to it, or choose another path."
        )
        assert servers(embedded.socket) == [embedded.pid]
        embedded.stop()
        embedded.stop()
        assert list(temporary.iterdir()) == []


@integration
def test_embedded_after_a_kill(temporary: Path) -> None:
    """A server that somebody else ended can be started again."""
    with vc.EmbeddedServer(SIZE) as embedded:
        kill(embedded.pid)
        embedded.start()
        assert servers(embedded.socket) == [embedded.pid]
    assert list(temporary.iterdir()) == []


@integration
def test_embedded_at_a_path(path: str) -> None:
    """At a path of the caller's the folder, the lock and the log stay; a second server there is refused."""
    with vc.EmbeddedServer(SIZE, socket=path) as embedded:
        assert embedded.socket == path
        with pytest.raises(ServerStartFailed, match=r"listens at .* already"):
            vc.EmbeddedServer(SIZE, socket=path).start()
        vc.ensure_server(path)
        assert servers(path) == [embedded.pid]
    assert sorted(os.listdir(os.path.dirname(path))) == ["v.sock.lock", "v.sock.log"]


@integration
def test_an_embedded_server_that_was_killed(temporary: Path) -> None:
    """When somebody else ends the server, stopping it still cleans up, without a word."""
    result = run_python(
        """
import os, signal, sys, tempfile
import vineyard_client as vc
tempfile.tempdir = sys.argv[1]
with vc.EmbeddedServer("16Mi") as server:
    os.kill(server.pid, signal.SIGKILL)
""",
        str(temporary),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert list(temporary.iterdir()) == []


PROGRAM = """
import os, signal, sys, tempfile, warnings
import vineyard_client as vc
tempfile.tempdir = sys.argv[1]
server = vc.EmbeddedServer("16Mi").start()
print(server.pid, flush=True)
warnings.simplefilter("ignore")
{end}
"""


@integration
@pytest.mark.parametrize(
    "end",
    [
        "",
        "raise SystemExit(3)",
        "os._exit(0)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
    ],
)
def test_it_ends_with_its_program(temporary: Path, end: str) -> None:
    """However a program ends, also killed, its server ends with it, and what it made is removed."""
    result = run_python(PROGRAM.format(end=end), str(temporary))
    pid = int(result.stdout)
    until(lambda: not alive(pid), "the end of the server")
    until(lambda: not list(temporary.iterdir()), "an empty folder")


@integration
def test_a_forked_child_does_not_end_it(temporary: Path) -> None:
    """A child that leaves the block leaves the server running: it is the parent's."""
    with vc.EmbeddedServer(SIZE) as embedded:

        def child() -> None:
            embedded.stop()
            embedded.__exit__(None, None, None)

        assert in_child(child) == 0
        with vc.connect(embedded.socket) as client:
            assert client.get(client.put(5)) == 5


@integration
def test_a_forked_child_does_not_keep_it(temporary: Path) -> None:
    """Stopping does not wait for children that live on and have inherited the pipe."""
    go, say = os.pipe()

    def child() -> None:
        os.close(say)
        os.read(go, 1)

    with vc.EmbeddedServer(SIZE) as embedded:
        pid = fork(child)
    assert servers(embedded.socket) == []
    os.close(say)
    assert wait(pid) == 0
    os.close(go)
