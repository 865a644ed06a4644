"""Acquire and remember, forget and release: each in one step that no exception can divide.

A signal handler may raise between any two steps of the interpreter, so also between a system call that gives us
something and the assignment that remembers it. But it does not run inside of a function that is written in C, nor
between several that are chained without Python code in between. So what is acquired here goes into a *box*, which is
there before, by an iterator that is written in C; what is released is taken out of it in the same way.

The same goes for finalizers. Python code in one would be a place where handlers run and where Python throws away what
they raise. So finalizers here are chains of functions written in C, too: they run no Python code, wait for nothing,
and raise nothing.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections import deque
from functools import partial
from typing import Any, Callable, Deque, Dict, Iterable, Optional, TypeVar

__all__ = ["Closers", "chained", "keep", "keep_true", "run_all", "when_dropped"]

T = TypeVar("T")

_call = operator.methodcaller("__call__")

_watched: Dict[int, weakref.ref[Any]] = {}
_dropped: Deque[int] = deque()
_numbers = itertools.count()


def keep(box: Deque[T], function: Callable[..., T], *arguments: Any) -> None:
    """Call a function that is written in C, and put what it returns into a box."""
    box.extend(itertools.starmap(function, (arguments,)))


def keep_true(box: Deque[T], function: Callable[..., T], *arguments: Any) -> None:
    """Do as ``keep``, but only with something that is true."""
    box.extend(filter(None, itertools.starmap(function, (arguments,))))


def run_all(*actions: Callable[[], object]) -> None:
    """Call functions that are written in C, one behind the other."""
    deque(map(_call, actions), maxlen=0)


def chained(actions: Iterable[Callable[[], object]]) -> Callable[..., object]:
    """Return a function that calls others once, however often it is called: they are written in C and return nothing.

    It takes one argument or none and is itself in C: ``next`` of an iterator that passes over all results at once.
    """
    return partial(next, filter(None, map(_call, actions)))


class Closers:
    """Functions that release something, each called once, all at once."""

    def __init__(self) -> None:
        self._box: Deque[Optional[Callable[[], object]]] = deque([None])
        self.run: Callable[[], object] = partial(chained(iter(self._box.pop, None)), None)

    def add(self, closer: Callable[[], object]) -> None:
        """Add one, before there is anything for it to release."""
        self._box.append(closer)


def when_dropped(owner: object, *closers: Callable[[], object]) -> None:
    """Call functions that are written in C, and return nothing, when nothing refers to an object any more."""
    while _dropped:
        _watched.pop(_dropped.popleft(), None)
    number = next(_numbers)
    _watched[number] = weakref.ref(owner, chained((*closers, partial(_dropped.append, number))))
