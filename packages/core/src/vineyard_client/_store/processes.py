"""One connection of a client for each process, across forks.

A connection is made when it is first needed, and again after it broke. A forked child gets its own.

What must not be shared with a child is kept by process id: the connection, and the lock that guards making it, which
another thread may have held when the process forked.
"""

from __future__ import annotations

import os
import threading
from typing import Callable, Dict, Optional

from .connection import Connection

__all__ = ["PerProcess"]


class _Slot:
    """What one process has."""

    def __init__(self) -> None:
        # One that a signal handler may take again in the middle of connecting.
        self.lock = threading.RLock()
        self.connection: Optional[Connection] = None


class PerProcess:
    """The connections of one client."""

    def __init__(self) -> None:
        self._slots: Dict[int, _Slot] = {}

    def get(self, connect: Callable[[], Connection]) -> Connection:
        """Return this process's connection; call ``connect`` for one if there is none that works."""
        pid = os.getpid()
        mine = self._slots.get(pid)
        if mine is None:
            # setdefault is one step for the interpreter: the first threads of a child may all come here at once.
            mine = self._slots.setdefault(pid, _Slot())
            for other in [other for other in self._slots if other != pid]:
                inherited = self._slots.pop(other, None)
                if inherited and inherited.connection:
                    inherited.connection.abandon()
        with mine.lock:
            if mine.connection is None or not mine.connection.usable:
                mine.connection = connect()
            return mine.connection

    def close(self) -> None:
        """Close this process's connection."""
        mine = self._slots.pop(os.getpid(), None)
        if mine and mine.connection:
            mine.connection.close()
