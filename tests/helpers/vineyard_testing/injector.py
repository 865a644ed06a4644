"""Do something at every point of the package's code at which CPython may run a signal handler, one point at a time.

A signal handler is Python code that runs between two instructions of the main thread, and may raise, as Ctrl-C does,
Airflow's ``execution_timeout`` and its handler for SIGTERM. CPython looks for signals when it enters a function, when
it jumps back in a loop and after a call; in 3.8 and 3.9 after most instructions. A ``sys.settrace`` function that
watches instructions can count these points, and act at one of them: raise, fork, break the connection.

A call that raises is no such point from 3.10 on: CPython goes to the handler and enters it before it looks. What is
raised between the two would make the frame restore a wrong exception as the one that is handled in this thread, which
then lives on with all frames of its traceback, and with what they hold.
"""

from __future__ import annotations

import opcode
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, List, Optional, Set

import vineyard_client

__all__ = ["Boom", "Injector", "points_of", "raise_boom", "sample"]

PACKAGE = str(Path(vineyard_client.__file__).parent) + os.sep

if sys.version_info >= (3, 10):
    _NAMES = ["CALL", "CALL_KW", "CALL_FUNCTION", "CALL_FUNCTION_EX", "CALL_FUNCTION_KW", "CALL_METHOD", "RESUME"]
    _NAMES += ["JUMP_BACKWARD", "JUMP_ABSOLUTE", "POP_JUMP_BACKWARD_IF_TRUE", "POP_JUMP_BACKWARD_IF_FALSE", "PRECALL"]
else:
    # All that end in DISPATCH(), but for those before which no handler runs (ceval.c, "fast_next_opcode").
    _NAMES = [name for name in opcode.opmap if not name.startswith(("LOAD_", "STORE_FAST", "POP_TOP", "ROT_", "DUP_"))]

_LOOKS: Set[int] = {opcode.opmap[name] for name in _NAMES if name in opcode.opmap}
_NEVER_BEFORE: Set[int] = {
    opcode.opmap[name]
    for name in ("SETUP_FINALLY", "SETUP_WITH", "BEFORE_ASYNC_WITH", "YIELD_FROM")
    if name in opcode.opmap and sys.version_info < (3, 10)
}
# Stands for the instruction that raised.
_RAISED = -1


class Boom(BaseException):
    """What is raised: nothing in the package may know it."""


class Injector:
    """Call a function at one point of the package's code.

    Args:
        number: which point, counted from one; zero only counts.
        action: what to do there; what it raises is raised there.

    Attributes:
        count: how many points there were.
        where: the file and line where it was done.
    """

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.count = 0
        self.where: Optional[str] = None
        self._number = number
        self._action = action
        self._before: Dict[int, int] = {}

    def __enter__(self) -> Injector:
        """Begin to count in this thread."""
        sys.settrace(self._enter)
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        """End it."""
        sys.settrace(None)
        self._before.clear()

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return self._step
        return None

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            now = frame.f_code.co_code[frame.f_lasti]
            before = self._before.get(id(frame))
            self._before[id(frame)] = now
            entered = before is None and sys.version_info < (3, 11)
            if (before in _LOOKS or entered) and now not in _NEVER_BEFORE:
                self.count += 1
                if self.count == self._number:
                    path = frame.f_code.co_filename[len(PACKAGE) :]
                    self.where = f"{path}:{frame.f_lineno} {frame.f_code.co_name}"
                    sys.settrace(None)
                    self._action()
        elif event == "exception" and sys.version_info >= (3, 10):
            self._before[id(frame)] = _RAISED
        elif event == "return":
            self._before.pop(id(frame), None)
        return self._step


def raise_boom() -> None:
    """Do what a signal handler does that raises."""
    raise Boom


def points_of(operation: Callable[[], object]) -> int:
    """Return how many points an operation has."""
    with Injector(0, raise_boom) as counted:
        operation()
    return counted.count


def sample(points: int, seed: int, part: int) -> List[int]:
    """Return one in ``part`` of the points, spread evenly and shifted by the seed; all of them for one in one."""
    return list(range(1 + seed % part, points + 1, part))
