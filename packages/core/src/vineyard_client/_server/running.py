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
from contextlib import contextmanager
from typing import TYPE_CHECKING, Iterator, Sequence

from .._io.beside import Beside
from .._io.deadline import Deadline
from .._wire.messages import InstanceStatus
from ..exceptions import ServerStartFailed, VineyardError
from .command import server_environment
from .listening import alive, open_connection

if TYPE_CHECKING:
    import subprocess

__all__ = ["DETACHED", "OWNED", "POLL", "START_TIMEOUT", "opened_log", "read_pid", "spawn", "temporary", "wait_ready"]

# Seconds. A server is ready in half a second; reserving many gigabytes, or a host under load, takes longer.
START_TIMEOUT = 60.0

POLL = 0.02


@contextmanager
def opened_log(place: Beside, socket: str) -> Iterator[int]:
    """Open the file that a server's words go to, for the duration of the block.

    Raises:
        ServerStartFailed: it is another file than it should be, or this user may not write to it.
    """
    try:
        log = place.open_file(".log", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
    except OSError as error:
        raise ServerStartFailed(
            f"A server cannot be started at {socket}.", f"Its log, {socket}.log, cannot be read: {error.strerror}."
        ) from error
    try:
        yield log
    finally:
        os.close(log)


def wait_ready(socket: str, pid: int, log: int, deadline: Deadline) -> None:
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
        hint = f"Its log, {socket}.log, "
        if not alive(pid):
            raise ServerStartFailed(f"vineyardd for {socket} ended while starting.", hint + _tail(log))
        if deadline.expired:
            os.kill(pid, signal.SIGKILL)
            raise ServerStartFailed(
                f"vineyardd for {socket} was not ready within {deadline.timeout} s: {cause}", hint + _tail(log)
            )
        time.sleep(POLL)


# Empty lines, and the backtrace with which vineyardd ends after it has said what is wrong.
_NOISE = re.compile(r"\s*(backtrace:|.* \+ 0x[0-9A-F]+)?\s*\Z")


def _tail(log: int) -> str:
    text = os.pread(log, 4000, max(0, os.fstat(log).st_size - 4000)).decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if not _NOISE.match(line)]
    return "ends with: " + " / ".join(lines[-6:]) if lines else "is empty."


# In both the log is the standard error of the shell.

# The server must outlive the process that starts it, and nobody must have to wait for it: sh ends at once, and the
# server becomes init's child.
DETACHED = '"$@" </dev/null >&2 & echo $!'

# The server must not outlive the process that owns it, even a killed one: then sh reads the end of its pipe. What goes
# with the server is the folder $1, if any. It is killed, for it has nothing to lose: vineyardd may hang for a minute
# when it is asked to end, and then removes whatever socket is at its path. A socket that is left is no obstacle.
OWNED = """
folder=$1; shift
"$@" </dev/null >&2 &
echo $!
read _
kill -KILL $! 2>/dev/null
wait $! 2>/dev/null
test -z "$folder" || rm -rf "$folder"
"""


def spawn(script: str, log: int, command: Sequence[str], keep: Sequence[int] = ()) -> subprocess.Popen[str]:
    """Run a command by a script; ``keep`` are descriptors that it has as well, under the same numbers."""
    import subprocess  # 3 ms that who finds a server running need not pay

    return subprocess.Popen(
        ["/bin/sh", "-c", script, "vineyard", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
        text=True,
        cwd="/",
        env=server_environment(),
        pass_fds=keep,
    )


def read_pid(shell: subprocess.Popen[str]) -> int:
    assert shell.stdout is not None
    return int(shell.stdout.readline())


def temporary(name: str) -> str:
    from tempfile import gettempdir  # 3 ms that who names a socket need not pay

    return os.path.join(gettempdir(), name)
