"""One server per path, whoever comes first, and what is said where none comes up."""

from __future__ import annotations

import fcntl
import gc
import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import Callable, List

import pytest
from vineyard_testing import UNIT, until, vineyardds
from vineyard_testing.processes import fork, in_child, wait
from vineyard_testing.vineyardds import SIZE, STARTS, fake_vineyardd, kill, servers

import vineyard_client as vc
from vineyard_client.exceptions import ConnectionFailed, ServerStartFailed

integration = pytest.mark.integration


@integration
def test_started_on_demand(path: str, temporary: Path) -> None:
    """A server is started where nobody listens, outlives who asked for it, and leaves files beside its socket only."""

    def ask() -> None:
        vc.ensure_server(path, size=SIZE)
        vc.ensure_server(path, size=SIZE)

    assert in_child(ask) == 0
    (pid,) = servers(path)
    with vc.connect(path) as client:
        assert client.status().memory_limit == 16 << 20
    assert sorted(os.listdir(os.path.dirname(path))) == ["v.sock", "v.sock.lock", "v.sock.log"]
    assert list(temporary.iterdir()) == []
    assert os.getpgid(pid) != os.getpgid(0)
    assert vc.stop_server(path) == pid
    assert servers(path) == []


@integration
def test_twenty_at_once(path: str) -> None:
    """However many processes ask at the same time, one server is started, and all of them find it."""
    go, say = os.pipe()

    def ask() -> None:
        os.close(say)
        os.read(go, 1)
        with vc.connect(path, autostart=True, size=SIZE) as client:
            client.status()

    pids = [fork(ask) for _ in range(20)]
    os.close(say)
    assert [wait(pid, timeout=5 * UNIT) for pid in pids] == [0] * 20
    os.close(go)
    (pid,) = servers(path)
    assert vc.stop_server(path) == pid


@integration
def test_killed_and_started_again(path: str) -> None:
    """When the server is killed, the call at hand fails, and the next one starts another: its socket file is stale."""
    with vc.connect(path, autostart=True, size=SIZE) as client:
        ref = client.put("value")
        (first,) = servers(path)
        kill(first)
        assert os.path.exists(path)
        with pytest.raises(ConnectionFailed):
            client.get(ref)
        with pytest.raises(vc.ObjectNotFound):
            client.get(ref)
        assert client.get(client.put("another")) == "another"
        (second,) = servers(path)
        assert second != first
        vc.stop_server(path)


@integration
def test_killed_and_not_started_again(path: str) -> None:
    """Without autostart the call after that says that nobody listens any more."""
    vc.ensure_server(path, size=SIZE)
    with vc.connect(path) as client:
        kill(servers(path)[0])
        with pytest.raises(ConnectionFailed):
            client.status()
        with pytest.raises(ConnectionFailed, match="Nobody listens there any more: start vineyardd again"):
            client.status()
        vc.ensure_server(path, size=SIZE)
        assert client.status().memory_used == 0
        vc.stop_server(path)


@integration
def test_the_folder_is_made(tmp_path: Path) -> None:
    """A folder that is missing is made, for this user only."""
    path = str(tmp_path / "a" / "b" / "v.sock")
    vc.ensure_server(path, size=SIZE)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    vc.stop_server(path)


@integration
def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is relative to where the caller is."""
    monkeypatch.chdir(tmp_path)
    vc.ensure_server("v.sock", size=SIZE)
    assert (tmp_path / "v.sock").is_socket()
    vc.stop_server("v.sock")


@pytest.mark.parametrize("start", STARTS, ids=["ensure_server", "connect", "EmbeddedServer"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_something_else_at_the_path(path: str, start: Callable[[str], object], what: str) -> None:
    """What is no socket is left as it is, and the message says what it is."""
    if what == "file":
        Path(path).write_text("precious")
    else:
        os.mkdir(path)
    with pytest.raises(ConnectionFailed, match="It is not a socket: give the path of vineyardd's IPC socket"):
        start(path)
    assert what == "folder" or Path(path).read_text() == "precious"
    assert servers(path) == []


@pytest.mark.parametrize("start", STARTS, ids=["ensure_server", "connect", "EmbeddedServer"])
def test_a_path_that_is_too_long(tmp_path: Path, start: Callable[[str], object]) -> None:
    """A path that no socket can have is refused before a server is started."""
    with pytest.raises(ConnectionFailed, match=r"has \d+ bytes; the system takes \d+\. Choose a shorter one\."):
        start(str(tmp_path / ("x" * 100)))


@pytest.mark.parametrize("start", STARTS[:1] + STARTS[2:], ids=["ensure_server", "EmbeddedServer"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, start: Callable[[str], object]) -> None:
    """A folder below a file cannot be made."""
    (tmp_path / "file").touch()
    with pytest.raises(ConnectionFailed, match=r"Not a directory|File exists"):
        start(str(tmp_path / "file" / "v.sock"))


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """Where nothing can be written nothing can be started, and the message says where."""
    folder = Path(tempfile.mkdtemp(prefix="vt-", dir="/tmp"))
    folder.chmod(0o555)

    def as_nobody() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        with pytest.raises(ServerStartFailed) as caught:
            vc.ensure_server(str(folder / "v.sock"), size=SIZE)
        assert str(caught.value) == (
            f"A server cannot be started at {folder}/v.sock: {folder}/v.sock.lock: Permission denied. "
            "Choose a folder you can write to."
        )

    try:
        assert in_child(as_nobody) == 0
    finally:
        folder.rmdir()


@pytest.mark.parametrize("start", STARTS, ids=["ensure_server", "connect", "EmbeddedServer"])
def test_a_wrong_size(path: str, start: Callable[[str], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that is none is refused before anything is made."""
    monkeypatch.setattr(vineyardds, "SIZE", "huge")
    with pytest.raises(ValueError, match="'huge' is no size"):
        start(path)
    assert os.listdir(os.path.dirname(path)) == []


def test_the_lock_is_held(path: str) -> None:
    """Who waits too long for another process to start the server says so."""
    with open(f"{path}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ServerStartFailed) as caught:
            vc.ensure_server(path, size=SIZE, timeout=0.05)
    assert str(caught.value) == (
        f"Another process has been starting the server at {path} for 0.05 s. "
        f"See who holds {path}.lock (fuser), and {path}.log."
    )
    assert servers(path) == []


@integration
def test_a_lock_without_a_holder(path: str) -> None:
    """A lock file that a killed process left is no obstacle."""
    Path(f"{path}.lock").touch()
    vc.ensure_server(path, size=SIZE)
    vc.stop_server(path)


@pytest.mark.parametrize("start", STARTS, ids=["ensure_server", "connect", "EmbeddedServer"])
def test_a_server_that_does_not_come_up(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None, start: Callable[[str], object]
) -> None:
    """A server that ends while starting is reported with what it said, not with its backtrace."""
    said = "Hello vineyard\\n\\n  what(): no memory\\nbacktrace:\\n  main + 0x2F\\n"
    fake_vineyardd(tmp_path, monkeypatch, f"printf '{said}' >&2; exit 1")
    with pytest.raises(ServerStartFailed) as caught:
        start(path)
    assert str(caught.value) == (
        f"vineyardd for {path} ended while starting. Its log, {path}.log, ends with: Hello vineyard / what(): no memory"
    )


def test_a_server_that_says_nothing(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None
) -> None:
    """One that ends without a word, or whose log cannot be read, is reported as well."""
    fake_vineyardd(tmp_path, monkeypatch, "exit 1")
    with pytest.raises(ServerStartFailed, match=r"v\.sock\.log, is empty\.$"):
        vc.ensure_server(path, size=SIZE)
    os.unlink(f"{path}.log")
    os.mkdir(f"{path}.log")
    with pytest.raises(ServerStartFailed, match=r"v\.sock\.log, cannot be read: Is a directory\.$"):
        vc.ensure_server(path, size=SIZE)


@pytest.mark.parametrize("start", [STARTS[0], STARTS[2]], ids=["ensure_server", "EmbeddedServer"])
def test_a_server_that_is_too_slow(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None, start: Callable[[str], object]
) -> None:
    """One that does not become ready in time is killed and reported."""
    sleep = f"exec {sys.executable} -c 'import time; time.sleep(100)' $*"
    fake_vineyardd(tmp_path, monkeypatch, sleep)
    starts: List[Callable[[], object]] = [
        lambda: vc.ensure_server(path, size=SIZE, timeout=0.1),
        lambda: vc.EmbeddedServer(SIZE, socket=path, timeout=0.1).start(),
    ]
    with pytest.raises(
        ServerStartFailed, match=r"was not ready within 0\.1 s: Cannot connect to vineyardd at .*is empty"
    ):
        starts[0 if start is STARTS[0] else 1]()
    until(lambda: not servers(path), "the end of the server")


# ---- connect


@integration
def test_which_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: vc.EmbeddedServer) -> None:
    """The path is the argument, else VINEYARD_IPC_SOCKET; neither is started by itself."""
    monkeypatch.setenv("VINEYARD_IPC_SOCKET", server.socket)
    with vc.connect() as client:
        assert client.socket == server.socket
    with pytest.raises(ConnectionFailed, match="There is no such file"):
        vc.connect(str(tmp_path / "other"))
    monkeypatch.setenv("VINEYARD_IPC_SOCKET", str(tmp_path / "other"))
    with vc.connect(server.socket) as client:
        assert client.socket == server.socket
    with pytest.raises(ConnectionFailed, match="There is no such file"):
        vc.connect()
    assert list(tmp_path.iterdir()) == []


@integration
def test_own_server(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing configured a server of this user's own is started, unless that is switched off."""
    monkeypatch.delenv("VINEYARD_IPC_SOCKET", raising=False)
    with pytest.raises(ConnectionFailed, match="There is no such file"):
        vc.connect(autostart=False)
    with vc.connect(size=SIZE) as client, vc.connect() as other:
        assert client.socket == other.socket == server_path(temporary)
        assert other.get(client.put(1)) == 1
        assert len(servers(client.socket)) == 1
    vc.stop_server(server_path(temporary))
    gc.collect()


def server_path(temporary: Path) -> str:
    return str(temporary / f"vineyard-{os.getuid()}" / "vineyard.sock")
