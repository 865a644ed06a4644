"""Have an agent started for a server that was started on demand: it ends with that server, when all is saved."""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import time
from typing import List

from .._server.running import DETACHED, read_pid, spawn
from .._tiers import doorbell
from .._tiers.options import TierOptions
from ..exceptions import TierUnavailable

__all__ = ["AgentStarter", "agent_command"]

# Seconds in which a process starts no second agent: the first one needs that long to be there.
_AGAIN = 5.0


def agent_command(path: str, options: TierOptions, *, with_server: bool = False) -> List[str]:
    """Return the command that runs an agent."""
    command = [sys.executable, "-m", "vineyard_client", "agent", "--socket", path]
    for url in options.urls:
        command += ["--tier", url]
    for name, value in options.options.items():
        command += ["--tier-option", f"{name}={value}"]
    if options.spill:
        command += ["--spill", options.spill]
    command += ["--reserve", repr(options.reserve), "--timeout", repr(options.timeout)]
    return command + ["--sync"] * options.sync + ["--with-server"] * with_server


class AgentStarter:
    """Starts an agent unless there is one; any number of processes may do so at once.

    Args:
        path: the store's IPC socket.
        options: the tiers.
    """

    def __init__(self, path: str, options: TierOptions) -> None:
        self._path = os.path.abspath(path)
        self._options = options
        self._tried = -_AGAIN
        self._lock = threading.Lock()

    def __call__(self) -> None:
        """Return when an agent is there, or on its way; what it prints goes to ``SOCKET.agent.log``.

        Raises:
            TierUnavailable: it cannot be started.
        """
        with self._lock:
            if time.monotonic() - self._tried < _AGAIN or self._is_there():
                return
            self._tried = time.monotonic()
        try:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            log = os.open(doorbell.doorbell_path(self._path) + ".log", flags, 0o600)
            try:
                with spawn(DETACHED, log, agent_command(self._path, self._options, with_server=True)) as shell:
                    read_pid(shell)
            finally:
                os.close(log)
        except (OSError, ValueError) as error:
            raise TierUnavailable(
                f"No agent can be started for the store at {self._path}: {error}.",
                "Start one yourself: vineyard-client agent.",
            ) from error

    def _is_there(self) -> bool:
        """Whether somebody holds the agent's lock."""
        try:
            fd = os.open(self._path + ".agent.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False
