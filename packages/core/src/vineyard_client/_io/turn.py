"""The right to do something: one thread at a time, and no thread twice.

A signal handler or a ``__del__`` method may call in the middle of another call of the same thread. An ordinary lock
would make it wait for ever, and one that can be taken twice would let it in; here it is refused.

Whether somebody has the turn is told by the truth: a function of this module is on the stack of some thread, and has
it. So the lock under it cannot stay taken by nobody. An exception of a signal handler does not get between taking it
and remembering that, nor between forgetting and giving it back, from Python 3.10 on; before, and with exceptions of a
debugger, it may: whoever waits then finds that no thread is in there, and lets go of the lock.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from types import FrameType
from typing import Callable, Deque, Optional, TypeVar

from ..exceptions import ConnectionFailed, DeadlineExceeded
from .deadline import Deadline
from .steps import keep_true

__all__ = ["Turn"]

Result = TypeVar("Result")

# Seconds after which one who waits looks whether there is anybody to wait for.
_LOOK = 0.05


class Turn:
    """One turn, that of a connection for instance.

    Args:
        what: what it is for, for the error that says that it did not come.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._looking = threading.Lock()
        self._serial = 0

    def run(self, action: Callable[[], Result], deadline: Deadline) -> Result:
        """Do something when it is this thread's turn.

        Raises:
            ConnectionFailed: it is already, further up on the stack.
            DeadlineExceeded: others had it for all of the time.
        """
        taken: Deque[bool] = deque()
        try:
            keep_true(taken, self._lock.acquire, False)
            if not taken:
                self._wait(taken, deadline)
            self._serial += 1
            return action()
        finally:
            if taken:
                self._lock.release()

    def run_now(self, action: Callable[[], Result]) -> Optional[Result]:
        """Do something if it can be this thread's turn without waiting; else return None."""
        taken: Deque[bool] = deque()
        try:
            keep_true(taken, self._lock.acquire, False)
            if not taken:
                return None
            self._serial += 1
            return action()
        finally:
            if taken:
                self._lock.release()

    def _wait(self, taken: Deque[bool], deadline: Deadline) -> None:
        if self._has_it(sys._getframe()):
            raise ConnectionFailed(
                "A client was called in the middle of another call of the same thread.",
                "Do not use it in a signal handler or a __del__ method, or use another client there.",
            )
        seen: Optional[int] = None
        while True:
            remaining = deadline.remaining()
            keep_true(taken, self._lock.acquire, True, _LOOK if remaining is None else min(_LOOK, remaining))
            if taken:
                return
            if deadline.expired:
                raise DeadlineExceeded(
                    f"Other threads used {self._what} for all of {deadline.timeout} s.",
                    "See whether the server hangs, or give connect() a larger timeout.",
                )
            # Twice, with a pause between: one who has just got it is not on any stack yet.
            serial = self._serial
            if any(map(self._has_it, sys._current_frames().values())):
                seen = None
            elif seen != serial:
                seen = serial
            else:
                self._let_go(serial)

    def _let_go(self, serial: int) -> None:
        """Take the lock from nobody; of several that come here at once one does."""
        with self._looking:
            if self._serial == serial and self._lock.locked():
                self._serial += 1
                self._lock.release()

    def _has_it(self, frame: Optional[FrameType]) -> bool:
        """Whether a call that has the turn is on a stack."""
        while frame is not None:
            if frame.f_code in _CODES and frame.f_locals.get("self") is self and frame.f_locals.get("taken"):
                return True
            frame = frame.f_back
        return False


_CODES = (Turn.run.__code__, Turn.run_now.__code__)
