"""What an agent waits on, and what wakes it, also from a signal handler and from other threads."""

from __future__ import annotations

import select
import socket
from contextlib import suppress

__all__ = ["Alarm"]


class Alarm:
    """Wakes who waits for it."""

    def __init__(self) -> None:
        self._hears, self._rings = socket.socketpair()
        self._rings.setblocking(False)

    def ring(self) -> None:
        """Wake who waits, or who waits next; may be called from a signal handler."""
        with suppress(OSError):  # it was rung so often that it cannot be missed, or nobody waits any more
            self._rings.send(b".")

    def wait(self, seconds: float) -> bool:
        """Return when it rings, or when the time is over; return whether it rang."""
        rang = bool(select.select([self._hears], [], [], seconds)[0])
        if rang:
            self._hears.recv(4096)
        return rang

    def close(self) -> None:
        """Close it; it may still be rung."""
        self._hears.close()
        self._rings.close()
