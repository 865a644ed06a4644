"""Timeouts become deadlines once, at the edge of the package."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Iterator, Optional

__all__ = ["DEFAULT_TIMEOUT", "Deadline", "uptime"]

# Seconds. A healthy server answers in well under a millisecond; a loaded host may stall it for a while.
DEFAULT_TIMEOUT = 30.0


class Deadline:
    """A point in monotonic time, or never.

    Args:
        timeout: seconds from now; None is never.
    """

    __slots__ = ("_at", "timeout")

    def __init__(self, timeout: Optional[float]) -> None:
        self.timeout = timeout
        self._at = None if timeout is None else time.monotonic() + timeout

    def remaining(self) -> Optional[float]:
        """Return the seconds left, never below zero; None is for ever."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    @property
    def expired(self) -> bool:
        """Whether the time is up."""
        return self._at is not None and time.monotonic() >= self._at

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the time in the block not count: we are at work in it, and wait for nobody."""
        started = time.monotonic()
        try:
            yield
        finally:
            if self._at is not None:
                self._at += time.monotonic() - started


def uptime() -> float:
    """Return the seconds since this host was started, by the clock that all its processes have and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
