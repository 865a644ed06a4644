"""Have an agent started for a server that was started on demand: it ends with that server, when all is saved.

An agent is there from the moment it is started: who starts it takes the lock of the path and hands it on.

Who ends a server first has the agent save what there is (``doorbell.drain``), while nothing is lost yet if that is not
possible; afterwards the agent, which holds the server's memory, saves what came in between, and ends (``end``).
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import suppress
from typing import List

from .._server.listening import alive
from .._server.running import DETACHED, read_pid, spawn
from .._tiers import doorbell
from .._tiers.options import TierOptions
from ..exceptions import TierUnavailable

__all__ = ["LOCK", "AgentStarter", "agent_command", "end"]

#: The variable in an agent's environment that has the descriptor of its lock, if who started it holds that already.
LOCK = "VINEYARD_AGENT_LOCK"

# Seconds in which a process starts no second agent: one that ended at once would do so again.
_AGAIN = 5.0

# Seconds that an agent may take to answer.
_ANSWER = 10.0

# Seconds in which a process that has nothing more to do goes.
_LAST = 2.0

_POLL = 0.02

_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


def agent_command(path: str, options: TierOptions, *, with_server: bool = False) -> List[str]:
    """Return the command that runs an agent."""
    if options.agent:
        return list(options.agent)
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

    def __call__(self) -> None:
        """Return when an agent is there, or on its way; what it prints goes to ``SOCKET.agent.log``.

        Raises:
            TierUnavailable: it cannot be started.
        """
        if time.monotonic() - self._tried < _AGAIN:
            return
        try:
            lock = os.open(self._path + ".agent.lock", os.O_RDWR | os.O_CREAT | _FLAGS, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._tried = time.monotonic()
                self._start(lock)
            except BlockingIOError:
                return  # one is there: on its way, or about to end
            finally:
                os.close(lock)
        except (OSError, ValueError) as error:
            raise TierUnavailable(
                f"No agent can be started for the store at {self._path}: {error}.",
                "Start one yourself: vineyard-client agent.",
            ) from error

    def _start(self, lock: int) -> None:
        log = os.open(
            doorbell.doorbell_path(self._path) + ".log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | _FLAGS, 0o600
        )
        try:
            command = ["/usr/bin/env", f"{LOCK}={lock}", *agent_command(self._path, self._options, with_server=True)]
            with spawn(DETACHED, log, command, keep=[lock]) as shell:
                read_pid(shell)
        finally:
            os.close(log)


def end(path: str, timeout: float, *, discard: bool = False) -> None:
    """Have the agent that was started with a server, if there is one, save the rest and end; return when it has.

    An agent that somebody else runs waits for the next server.

    Args:
        path: the store's IPC socket.
        timeout: seconds that this may take.
        discard: whether it tries only once to save the rest.

    Raises:
        TierUnavailable: it has not ended then.
    """
    answer = doorbell.ask_if_there(path, {"do": "status"}, _ANSWER)
    if answer is None or not answer.get("with_server"):
        return
    with suppress(TierUnavailable):  # it may end faster than it answers
        doorbell.ask_if_there(path, {"do": "end", "discard": discard}, _ANSWER)
    deadline = time.monotonic() + timeout
    while doorbell.is_there(path):
        if time.monotonic() > deadline:
            raise TierUnavailable(
                f"The agent for the store at {path} (process {answer.get('pid')}) is still saving after {timeout:.0f} "
                "s.",
                f"It ends when all is saved; its log is {doorbell.doorbell_path(path)}.log.",
            )
        time.sleep(_POLL)
    pid, deadline = answer.get("pid", 0), time.monotonic() + _LAST
    while isinstance(pid, int) and pid > 1 and alive(pid) and time.monotonic() < deadline:
        time.sleep(_POLL)  # all is done, and the process is about to go
