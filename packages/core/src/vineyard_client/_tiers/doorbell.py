"""Ask the agent: one JSON object per line over the UNIX socket ``SOCKET.agent``, answered by one.

Requests name what is to be done in ``do``; the answer repeats nothing, and has ``error``, ``what`` and ``hint`` if it
failed, which become the error of that name here. A list is answered by several, the last one without entries. A ring
is a request to look at the notes, and is not waited for.

The notes say what is to be saved, so a ring that nobody hears costs a second and loses nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from typing import Any, Dict, Iterator, Optional

from .. import exceptions
from .._io.deadline import Deadline
from ..exceptions import TierUnavailable, VineyardError

__all__ = [
    "MAX_LINE",
    "NoAgent",
    "ask",
    "ask_for_parts",
    "ask_if_there",
    "doorbell_path",
    "drain",
    "has_door",
    "is_there",
    "ring",
]

# Bytes of a request or an answer; some thousand keys fit in.
MAX_LINE = 1 << 22

# Seconds that an agent may need from its start until it listens; it lists nothing and loads little.
_ON_ITS_WAY = 10.0

# Seconds for an answer beyond those that the agent has for what it is to do.
_LONGER = 10.0

_POLL = 0.02

# Seconds within which the agent's socket must take a connection; it is on this host.
_CONNECT = 2.0


class NoAgent(TierUnavailable):
    """Nobody listens, or who listened has ended before the answer: asking again may find the next agent."""


def doorbell_path(path: str) -> str:
    """Return the agent's socket for the IPC socket of a store."""
    return path + ".agent"


def has_door(path: str) -> bool:
    """Tell whether the agent's socket is at its place; one that was killed leaves it there."""
    return os.path.exists(doorbell_path(path))


def ring(path: str) -> bool:
    """Have the agent of a store look at its notes; return False if there is no agent."""
    try:
        with _connect(path, _CONNECT) as sock:
            sock.sendall(b'{"do": "ring"}\n')
    except OSError:
        return False
    return True


def ask(path: str, request: Dict[str, Any], timeout: float) -> Dict[str, Any]:
    """Ask the agent of a store, and return its answer.

    Args and errors are those of ``ask_for_parts``.
    """
    for answer in ask_for_parts(path, request, timeout):
        return answer
    raise AssertionError("an answer has a part")


def ask_for_parts(path: str, request: Dict[str, Any], timeout: float) -> Iterator[Dict[str, Any]]:
    """Ask the agent of a store, and iterate over the parts of its answer, without an end: the asker knows the last.

    Args:
        path: the store's IPC socket.
        request: what is to be done.
        timeout: seconds to wait for each part.

    Raises:
        NoAgent: there is none, or it ended meanwhile.
        TierUnavailable: it did not answer in time.
        VineyardError: what the agent says.
    """
    rest = bytearray()
    try:
        with _connect(path, _CONNECT) as sock:
            sock.sendall(json.dumps(request).encode() + b"\n")
            while True:
                yield _read_line(sock, Deadline(timeout), rest)
    except OSError as error:
        if isinstance(error, socket.timeout):
            what, hint = f"did not answer within {timeout:.0f} s", "See its log, and whether the tier answers it."
        else:
            what = f"cannot be reached: {error.strerror or error}"
            hint = "Start it: vineyard-client agent --socket PATH --tier URL."
        kind = TierUnavailable if isinstance(error, socket.timeout) else NoAgent
        raise kind(f"The agent for the store at {path} {what}.", hint) from error


def ask_if_there(path: str, request: Dict[str, Any], timeout: float) -> Optional[Dict[str, Any]]:
    """Return what the agent of a store answers, also one that was only just started; None if there is none.

    Args and errors are those of ``ask``.
    """
    deadline = time.monotonic() + _ON_ITS_WAY
    while not ring(path):
        if not is_there(path) or time.monotonic() > deadline:
            return None
        time.sleep(_POLL)
    return ask(path, request, timeout)


def is_there(path: str) -> bool:
    """Whether somebody holds the lock of a store's agent."""
    try:
        fd = os.open(path + ".agent.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def drain(path: str, timeout: float) -> None:
    """Have the agent of a store, if there is one, save what there is to save.

    Args:
        path: the store's IPC socket.
        timeout: seconds that this may take.

    Raises:
        TierUnavailable: something is not saved then; the message says how much, and why.
    """
    answer = ask_if_there(path, {"do": "drain", "timeout": timeout}, timeout + _LONGER)
    left: int = answer.get("number", 0) if answer else 0
    if answer and left:
        raise TierUnavailable(
            f"{left} values ({answer.get('bytes', 0)} bytes) are not saved yet. {answer.get('last_error', '')}".strip(),
            f"See the agent's log, {doorbell_path(path)}.log, and mend what hinders it.",
        )


def _connect(path: str, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(os.fsencode(doorbell_path(path)))
    except BaseException:
        sock.close()
        raise
    return sock


def _read_line(sock: socket.socket, deadline: Deadline, rest: bytearray) -> Dict[str, Any]:
    """Return the next line; ``rest`` has what was read beyond the one before, and then what is beyond this one."""
    searched = 0
    while (end := rest.find(b"\n", searched)) < 0:
        searched = len(rest)
        remaining = deadline.remaining()
        if remaining is not None and remaining <= 0:
            raise socket.timeout
        sock.settimeout(remaining)
        piece = sock.recv(1 << 16)
        if not piece or len(rest) > MAX_LINE:
            raise ConnectionResetError(0, "it broke off")
        rest += piece
    line = bytes(rest[:end])
    del rest[: end + 1]
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ConnectionResetError(0, "it says what makes no sense")
    if "error" in answer:
        kind = getattr(exceptions, str(answer["error"]), None)
        kind = kind if isinstance(kind, type) and issubclass(kind, VineyardError) else TierUnavailable
        raise kind(str(answer.get("what", "")), str(answer.get("hint", "")))
    return answer
