"""Other processes for tests: forked children with a verdict, scripts, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Callable, Dict, Iterator, Optional, Sequence, Set

from . import UNIT, until


def in_child(run: Callable[[], object], *, timeout: float = UNIT) -> int:
    """Run a function in a forked child and return its wait status, as ``os.waitpid`` has it.

    The child ends with 0, or with 1 and a traceback on standard error if the function raised; a child that hangs is
    killed and fails the test.
    """
    return wait(fork(run), timeout=timeout)


def fork(run: Callable[[], object]) -> int:
    """Run a function in a forked child and return its process id; ``wait`` for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def wait(pid: int, *, timeout: float = UNIT) -> int:
    """Return the wait status of a child."""
    done = {}

    def ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            done["status"] = status
        return bool(found)

    try:
        until(ended, f"the end of child {pid}", timeout)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return done["status"]


@contextlib.contextmanager
def paused(pid: int) -> Iterator[None]:
    """Let a process stand still: it does, when this is entered; a signal alone may reach it after its next answer."""
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: _stat(pid)[0] == "T", f"process {pid} stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _stat(pid: int) -> Sequence[str]:
    """Return what ``/proc/PID/stat`` says after the command's name: the state, the parent, and so on."""
    return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()


def run_python(
    code: str,
    *arguments: str,
    timeout: float = 3 * UNIT,
    env: Optional[Dict[str, str]] = None,
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process with warnings as errors, and return what it did.

    ``prefix`` is the command that runs it, such as ``unshare``.
    """
    helpers = str(Path(__file__).parents[1])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([helpers, os.environ.get("PYTHONPATH", "")]),
        **(env or {}),
    }
    command = [*prefix, sys.executable, "-W", "error", "-X", "faulthandler", "-c", code, *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment,
        check=False,
    )


def running(word: str) -> Set[int]:
    """Return the processes, other than this one, that have ``word`` in their command line (Linux)."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it ended meanwhile
            if word.encode() in command:
                found.add(int(entry.name))
    return found


def children() -> Set[int]:
    """Return this process's children, also those that ended and were not waited for (Linux)."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue  # it ended meanwhile
            if parent == os.getpid():
                found.add(int(entry.name))
    return found
