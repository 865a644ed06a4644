"""What is still to be done when an object goes, by functions that are written in C and neither wait nor raise.

A finalizer may run in the middle of anything. So these are libc's own functions, called without letting other threads
run: what they do is done in one step, whatever those are about to do. They tell by what they return whether it worked.
"""

from __future__ import annotations

import socket
from functools import lru_cache, partial
from itertools import starmap
from typing import TYPE_CHECKING, Callable, Deque

from .._forks import importing

if TYPE_CHECKING:
    import ctypes

__all__ = ["setting", "telling"]

_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0) | getattr(socket, "MSG_NOSIGNAL", 0)


@lru_cache(maxsize=1)
def _libc() -> ctypes.PyDLL:
    with importing:
        import ctypes

    libc = ctypes.PyDLL(None)
    libc.send.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
    libc.send.restype = ctypes.c_ssize_t
    libc.fcntl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p]
    return libc


def telling(number: int, message: bytes, sent: Deque[int]) -> Callable[[], object]:
    """Return a function that sends a short message over a socket, all of it or nothing.

    Args:
        number: the socket's file descriptor.
        message: what to send.
        sent: a box for the number of bytes that went; below zero means none.
    """
    return partial(sent.extend, starmap(_libc().send, ((number, message, len(message), _AT_ONCE),)))


def setting(number: int, command: int, argument: bytes) -> Callable[[], object]:
    """Return a function that does an ``fcntl`` with a structure; it returns 0 if that worked."""
    return partial(_libc().fcntl, number, command, argument)
