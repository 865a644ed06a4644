"""Message brokers for tests, as Debian packages them: each a child of the test, on a port that was free."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, Iterator

from .machines import wait_until
from .ports import free_port, free_ports, listens


def missing(program: str, package: str) -> str:
    """Return why there is no such broker here, or nothing."""
    return "" if shutil.which(program) else f"{program} is not installed (apt-get install {package})"


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """Run Redis; yield its URL."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
    try:
        wait_until(lambda: listens(port), "Redis", 20, lambda: _alive(process))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


class RabbitServer:
    """A node of RabbitMQ.

    Attributes:
        url: for clients.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port, distribution = free_ports(2)
        self.url = f"amqp://guest:guest@127.0.0.1:{self._port}//"
        self._env: Dict[str, str] = {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_NODENAME": f"vineyard{self._port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self._port),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_SERVER_START_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }
        # The launchers in /usr/sbin insist on being root or rabbitmq, and become rabbitmq.
        self._programs = max(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))
        command = ["setpriv", "--pdeathsig", "KILL", str(self._programs / "rabbitmq-server")]
        with open(folder / "log", "wb") as log:
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Return when it listens."""
        wait_until(lambda: listens(self._port), "RabbitMQ", 90, lambda: _alive(self._process))
        self.control("await_startup")

    def control(self, *command: str) -> str:
        """Run a command of rabbitmqctl; it must succeed."""
        line = [str(self._programs / "rabbitmqctl"), *command]
        done = subprocess.run(line, env=self._env, capture_output=True, text=True, check=False)
        assert not done.returncode, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextlib.contextmanager
def rabbit_server() -> Iterator[RabbitServer]:
    """Run RabbitMQ."""
    folder = Path(tempfile.mkdtemp(prefix="vyrmq-"))
    server = RabbitServer(folder)
    try:
        server.wait()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _alive(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
