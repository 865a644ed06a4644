"""Tell an exception that belongs to a value from one that came from outside while the value was handled.

A signal handler may raise between any two lines: a task's timeout, a termination, Ctrl-C. What it raised is no fault of
the value, whatever its type, and passes through unchanged wherever errors of values are turned into ours.
"""

from __future__ import annotations

import functools
import signal
import types
from typing import Any, Iterator

__all__ = ["from_outside"]


def from_outside(exc: BaseException) -> bool:
    """Tell whether an exception was raised by a signal handler, or is none that code handles (``SystemExit`` …).

    For code that must catch everything which somebody else's object may raise: what comes from outside is to go on.

    Args:
        exc: what was caught.
    """
    if not isinstance(exc, Exception):
        return True
    handlers = None
    trace = exc.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if _is_called_by_a_signal(frame):
            return True
        if handlers is None:
            handlers = frozenset(_code_of_handlers())
        if frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _is_called_by_a_signal(frame: types.FrameType) -> bool:
    """Tell whether a frame got a signal's number and the interrupted frame, which is the one that it returns to.

    So a handler is known that was put back before it raised.
    """
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + bool(code.co_flags & 0x04)]  # CO_VARARGS
    if frame.f_back is None or not names:
        return False
    local = frame.f_locals
    arguments = [local.get(name) for name in names[: code.co_argcount]]
    if len(names) > code.co_argcount and isinstance(local.get(names[-1]), tuple):
        arguments += local[names[-1]]
    return any(
        interrupted is frame.f_back and isinstance(number, int) for number, interrupted in zip(arguments, arguments[1:])
    )


def _code_of_handlers() -> Iterator[types.CodeType]:
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while isinstance(handler, (functools.partial, types.MethodType)):
            handler = handler.func if isinstance(handler, functools.partial) else handler.__func__
        if callable(handler) and not isinstance(handler, (type, types.FunctionType, types.BuiltinFunctionType)):
            handler = getattr(type(handler).__call__, "__func__", type(handler).__call__)
        code = getattr(handler, "__code__", None)
        if isinstance(code, types.CodeType):
            yield code
