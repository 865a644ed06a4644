"""Start a server's process, and wait until it answers.

Servers are started through ``sh``, in a session of their own: what kills a task with its process group does not reach
the server that other tasks use. Their RPC is off: a server for one host has nothing to offer to others.
What they print goes to ``PATH.log``, and nowhere else.
"""

from __future__ import annotations

import os
import re
import signal
import time
from typing import TYPE_CHECKING, Sequence

from .._io.deadline import Deadline
from .._wire.messages import InstanceStatus
from ..exceptions import ServerStartFailed, VineyardError
from .command import server_environment
from .listening import alive, open_connection

if TYPE_CHECKING:
    import subprocess

__all__ = ["DETACHED", "OWNED", "POLL", "START_TIMEOUT", "read_pid", "spawn", "temporary", "wait_ready"]

# Seconds. A server is ready in half a second; reserving many gigabytes, or a host under load, takes longer.
START_TIMEOUT = 60.0

POLL = 0.02


def wait_ready(socket: str, pid: int, log: str, deadline: Deadline) -> None:
    """Return when the server answers.

    Raises:
        ServerStartFailed: it ended, or the time is up; the message has the end of its log.
    """
    while True:
        try:
            connection = open_connection(socket, 5.0)
            try:
                connection.call(InstanceStatus())
                return
            finally:
                connection.close()
        except VineyardError as error:
            cause = str(error)
        if not alive(pid):
            raise ServerStartFailed(f"vineyardd for {socket} ended while starting.", f"Its log, {log}, {_tail(log)}")
        if deadline.expired:
            os.kill(pid, signal.SIGKILL)
            raise ServerStartFailed(
                f"vineyardd for {socket} was not ready within {deadline.timeout} s: {cause}",
                f"Its log, {log}, {_tail(log)}",
            )
        time.sleep(POLL)


# Empty lines, and the backtrace with which vineyardd ends after it has said what is wrong.
_NOISE = re.compile(r"\s*(backtrace:|.* \+ 0x[0-9A-F]+)?\s*\Z")


def _tail(log: str) -> str:
    try:
        with open(log, errors="replace") as file:
            lines = [line.strip() for line in file.read()[-4000:].splitlines() if not _NOISE.match(line)]
    except OSError as error:
        return f"cannot be read: {error.strerror}."
    return "ends with: " + " / ".join(lines[-6:]) if lines else "is empty."


# The server must outlive the process that starts it, and nobody must have to wait for it: sh ends at once, and the
# server becomes init's child. $0 is the log.
DETACHED = '"$@" </dev/null >>"$0" 2>&1 & echo $!'

# The server must not outlive the process that owns it, even a killed one: then sh reads the end of its pipe. What goes
# with the server is its socket, before it, so that it cannot be the socket of the next one there; and the folder $1, if
# any. It is killed, for it has nothing to lose, and vineyardd may hang for a minute when it is asked to end.
OWNED = """
folder=$1; shift
"$@" </dev/null >>"$0" 2>&1 &
echo $!
read _
rm -f "${0%.log}"
kill -KILL $! 2>/dev/null
wait $! 2>/dev/null
test -z "$folder" || rm -rf "$folder"
"""


def spawn(script: str, log: str, command: Sequence[str]) -> subprocess.Popen[str]:
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


def read_pid(shell: subprocess.Popen[str]) -> int:
    assert shell.stdout is not None
    return int(shell.stdout.readline())


def temporary(name: str) -> str:
    from tempfile import gettempdir  # 3 ms that who names a socket need not pay

    return os.path.join(gettempdir(), name)
