"""Hosts for tests: each is a network namespace with its own name, address, ``/etc/hosts``, folder and vineyardd.

::

    with Network(folder, ["a", "b"]) as (a, b):
        server = a.serve()
        b.call(lambda: socket.create_connection((a.address, server.port)))

All of them hang on a bridge, which stands in a namespace of its own: nothing is visible from outside. A namespace lives
as long as the shell that was started in it, and that ends with this process, even a killed one; so nothing outlives the
tests. UNIX sockets do not care for network namespaces: this process can look into every store.

Needs root, or at least CAP_SYS_ADMIN and CAP_NET_ADMIN, and Debian's iproute2 and util-linux; ``unavailable`` tells.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import time
import traceback
import urllib.request
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Dict, Generic, List, Optional, Sequence, Tuple, Type, TypeVar

import vineyard_client as vc
from vineyard_client.server import find_binary

from . import UNIT, until

RPC_PORT = 9600

# In each host's namespaces: network, host name, mounts.
_KINDS = ("net", "uts", "mnt")
_UNSHARE = ["unshare", "--net", "--uts", "--mount"]

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)

Result = TypeVar("Result")


def unavailable() -> Optional[str]:
    """Return why there can be no hosts here; None if there can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    missing = [tool for tool in ("ip", "tc", "unshare", "nsenter") if not shutil.which(tool)]
    if missing:
        return f"no {', '.join(missing)} here (Debian: iproute2, util-linux)"
    probe = subprocess.run(
        [*_UNSHARE, "ip", "link", "add", "probe", "type", "bridge"], stderr=subprocess.PIPE, text=True
    )
    return f"network namespaces are not permitted: {probe.stderr.strip()}" if probe.returncode else None


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class _Namespaces:
    """New namespaces, and the shell that keeps them."""

    def __init__(self) -> None:
        command = [*_UNSHARE, "sh", "-c", "echo; read _"]
        self._shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._shell.stdout is not None
        self._shell.stdout.readline()
        self.pid = self._shell.pid

    def command(self, *command: str) -> List[str]:
        return ["nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", "--", *command]

    def run(self, *command: str) -> str:
        done = subprocess.run(self.command(*command), capture_output=True, text=True)
        assert not done.returncode, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def enter(self) -> None:
        for kind in _KINDS:
            fd = os.open(f"/proc/{self.pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, 0):
                    raise OSError(ctypes.get_errno(), f"cannot enter the {kind} namespace")
            finally:
                os.close(fd)

    def processes(self) -> List[int]:
        """Return who runs here, without the shell."""
        mine = os.readlink(f"/proc/{self.pid}/ns/net")
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != self.pid:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    if os.readlink(f"/proc/{entry}/ns/net") == mine:
                        found.append(int(entry))
        return found

    def close(self) -> None:
        if self._shell.poll() is not None:
            return  # a test did it
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._shell.kill()  # a child that a test forked may hold the other end of its pipe, too
        self._shell.communicate()


class Task(Generic[Result]):
    """A function at work in a forked child."""

    def __init__(self, function: Callable[[], Result], enter: Callable[[], None]) -> None:
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # BLAS and Arrow have threads, which do nothing that the child could trip over.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if not self.pid:
            try:
                os.close(reader)
                _die_with_parent()
                with open(writer, "wb") as pipe:
                    pipe.write(_outcome(function, enter))
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(0)
        os.close(writer)
        self._reader: Optional[int] = reader
        self._data = b""

    @property
    def done(self) -> bool:
        """Whether it has ended, or will in a moment."""
        return self._reader is None or bool(select.select([self._reader], [], [], 0)[0])

    def result(self, timeout: float = 3 * UNIT) -> Result:
        """Return what the function returned, or raise what it raised; one that takes longer is killed."""
        deadline = time.monotonic() + timeout
        assert self._reader is not None, "this task has ended"
        while True:
            if not select.select([self._reader], [], [], max(0, deadline - time.monotonic()))[0]:
                self.kill()
                raise AssertionError(f"the task was not done within {timeout} s")
            data = os.read(self._reader, 1 << 20)
            if not data:
                break
            self._data += data
        self._close()
        assert self._data, "the task was killed"
        error, value, text = pickle.loads(self._data)
        if error is not None:
            print(text, file=sys.stderr)
            raise error
        result: Result = value
        return result

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send it a signal; if that kills, wait for its end."""
        os.kill(self.pid, signum)
        if signum == signal.SIGKILL:
            self._close()

    def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            os.close(reader)
            os.waitpid(self.pid, 0)


def _outcome(function: Callable[[], object], enter: Callable[[], None]) -> bytes:
    try:
        enter()
        return pickle.dumps((None, function(), ""))
    except BaseException as error:
        return pickle.dumps((error, None, traceback.format_exc()))


class Server:
    """A vineyardd on a host.

    Attributes:
        socket: path of its IPC socket.
        endpoint: address and port of its RPC.
    """

    def __init__(
        self, host: Host, command: Sequence[str], socket: str, port: int, env: Dict[str, str], login: Dict[str, str]
    ) -> None:
        self.host = host
        self.socket = socket
        self.port = port
        self.endpoint = f"{host.address}:{port}"
        self._command = list(command)
        self._env = env
        self._login = login
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.start()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and return when it answers."""
        assert not self.running
        self._process = self.host.popen(self._command, self.socket + ".log", self._env)
        until(self._answers, f"the start of {self.socket}", 2 * UNIT)

    def _answers(self) -> bool:
        assert self.running, Path(self.socket + ".log").read_text()[-2000:]
        with contextlib.suppress(vc.VineyardError), self.client() as client:
            return bool(client.status().version)
        return False

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def client(self, **options: Any) -> vc.Client:
        """Return a client of it, which writes this host's address into references, and has what it takes to log in."""
        options = {"endpoint": self.endpoint, "timeout": 5.0, **self._login, **options}
        return vc.connect(self.socket, autostart=False, **options)

    def begin(self, work: Callable[[vc.Client], Result], **options: Any) -> Task[Result]:
        """Start a function in a forked child on the host, with a client of this server."""

        def run() -> Result:
            with self.client(**options) as client:
                return work(client)

        return self.host.start(run)

    def do(self, work: Callable[[vc.Client], Result], *, within: float = 3 * UNIT, **options: Any) -> Result:
        """Run a function in a forked child on the host, with a client of this server; it must not take longer."""
        return self.begin(work, **options).result(within)

    def memory_used(self) -> int:
        """Return the bytes in use."""
        with self.client() as client:
            return client.status().memory_used


# What vineyardd runs to check a password: ``htpasswd -v -b FILE USER PASSWORD``. Apache's is not needed for that; this
# one keeps passwords as they are.
_HTPASSWD = """#!/bin/sh
exec grep -qxF -e "$4:$5" "$3"
"""


class Host:
    """One host of a network; see the module's docstring.

    Attributes:
        name: its host name, which the others can resolve.
        address: its IPv4 address.
        folder: for its sockets and files.
    """

    def __init__(self, name: str, address: str, folder: Path, switch: _Namespaces) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        self._switch = switch
        self._namespaces = _Namespaces()
        self._processes: List[subprocess.Popen[bytes]] = []
        folder.mkdir()

    def _plug_in(self, hosts: Path) -> None:
        inside, port = self._namespaces, f"port-{self.name}"
        veth = ["type", "veth", "peer", "name", port, "netns", str(self._switch.pid)]
        subprocess.run(["ip", "link", "add", "name", "eth0", "netns", str(inside.pid), *veth], check=True)
        self._switch.run("ip", "link", "set", port, "master", "bridge", "up")
        inside.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        inside.run("ip", "link", "set", "eth0", "up")
        inside.run("ip", "link", "set", "lo", "up")
        inside.run("sh", "-c", 'echo "$0" >/proc/sys/kernel/hostname', self.name)
        inside.run("mount", "--bind", str(hosts), "/etc/hosts")

    # ---- processes

    def command(self, *command: str) -> List[str]:
        """Return the command that runs a command here."""
        return self._namespaces.command(*command)

    def popen(self, command: Sequence[str], log: str, env: Optional[Dict[str, str]] = None) -> subprocess.Popen[bytes]:
        """Start a process here that ends with this one, at the latest."""
        with open(log, "ab") as output:
            process = subprocess.Popen(
                self.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(self.folder), **(env or {})},
                preexec_fn=_die_with_parent,
            )
        self._processes.append(process)
        return process

    def start(self, function: Callable[[], Result]) -> Task[Result]:
        """Start a function in a forked child here."""
        return Task(function, self._namespaces.enter)

    def call(self, function: Callable[[], Result], timeout: float = 3 * UNIT) -> Result:
        """Run a function in a forked child here; return what it returns, or raise what it raises."""
        return self.start(function).result(timeout)

    def processes(self) -> List[int]:
        """Return the ids of the processes that run here."""
        return self._namespaces.processes()

    # ---- servers

    def serve(
        self,
        name: str = "vineyard",
        *,
        size: str = "256Mi",
        port: int = RPC_PORT,
        rpc: bool = True,
        options: Sequence[str] = ("--meta=local",),
        env: Optional[Dict[str, str]] = None,
        login: Optional[Tuple[str, str]] = None,
    ) -> Server:
        """Run a vineyardd here.

        Args:
            name: of its socket.
            size: of its store.
            port: of its RPC.
            rpc: whether that is on.
            options: further options of vineyardd.
            env: further environment of vineyardd.
            login: the user name and password that it asks for.
        """
        socket = str(self.folder / f"{name}.sock")
        rpc_options = [f"--rpc_socket_port={port}"] if rpc else ["--rpc=false"]
        command = [find_binary(), f"--socket={socket}", f"--size={size}", *rpc_options, *options]
        env = dict(env or {})
        if login:
            program = self.folder / "bin" / "htpasswd"
            program.parent.mkdir(exist_ok=True)
            program.write_text(_HTPASSWD)
            program.chmod(0o755)
            env["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
            passwords = self.folder / f"{name}.htpasswd"
            passwords.write_text(":".join(login) + "\n")
            command.append(f"--htpasswd={passwords}")
        return Server(self, command, socket, port, env, dict(zip(("username", "password"), login or ())))

    def serve_etcd(self) -> str:
        """Run an etcd here and return its URL, once it answers."""
        url, peer = f"http://{self.address}:2379", f"http://{self.address}:2380"
        folder = self.folder / "etcd"
        listen = [f"--listen-client-urls={url}", f"--advertise-client-urls={url}", f"--listen-peer-urls={peer}"]
        cluster = [f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=default={peer}"]
        process = self.popen([find_binary("etcd"), f"--data-dir={folder}", *listen, *cluster], f"{folder}.log")

        def ask() -> bool:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=UNIT) as reply:
                return bool(json.load(reply)["health"] == "true")
            return False

        def healthy() -> bool:
            assert process.poll() is None, Path(f"{folder}.log").read_text()[-2000:]
            return self.call(ask)

        until(healthy, "the start of etcd", 2 * UNIT)
        return url

    # ---- network

    def cut(self) -> None:
        """Pull the plug: packets are lost on the way, and nobody is told."""
        self._switch.run("ip", "link", "set", f"port-{self.name}", "down")

    def mend(self) -> None:
        """Undo ``cut``."""
        self._switch.run("ip", "link", "set", f"port-{self.name}", "up")

    def shape(self, *discipline: str) -> None:
        """Give what this host sends a queueing discipline (man 8 tc), or none."""
        self._namespaces.run("tc", "qdisc", "replace", "dev", "eth0", "root", *(discipline or ["pfifo_fast"]))

    def sent(self) -> int:
        """Return the bytes that this host has sent."""
        (link,) = json.loads(self._namespaces.run("ip", "-json", "-statistics", "link", "show", "dev", "eth0"))
        return int(link["stats64"]["tx"]["bytes"])

    def close(self) -> None:
        """End everything that runs here."""
        self._namespaces.close()
        for process in self._processes:
            process.wait()


class Network:
    """Some hosts and what connects them.

    Args:
        folder: for the hosts' folders; the path must be short, as sockets' paths are limited.
        names: of the hosts.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self._folder = folder
        self._names = names
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Tuple[Host, ...]:
        with contextlib.ExitStack() as opened:
            switch = _Namespaces()
            opened.callback(switch.close)
            switch.run("ip", "link", "add", "bridge", "type", "bridge")
            switch.run("ip", "link", "set", "bridge", "up")
            hosts = []
            for number, name in enumerate(self._names, start=1):
                hosts.append(Host(name, f"10.77.0.{number}", self._folder / name, switch))
                opened.callback(hosts[-1].close)
            table = self._folder / "hosts"
            lines = ["127.0.0.1 localhost", *[f"{host.address} {host.name}" for host in hosts]]
            table.write_text("\n".join(lines) + "\n")
            for host in hosts:
                host._plug_in(table)
            self._opened = opened.pop_all()
        return tuple(hosts)

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self._opened.close()
