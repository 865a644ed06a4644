"""The pickler for values that are nested more deeply than C code may recurse.

Python limits how deep C code goes, since its stack is small; from 3.12 on no setting changes that. Python code has no
such need from 3.11 on, and much more room before. So the pickler of ``pickle`` that is written in Python goes deeper,
at a tenth of the speed. It is used for what the one in C gave up on.

Invariants: the limit of the process is raised while a value is written, by one thread at a time, and is afterwards what
it was; reading needs nothing of this, since an unpickler does not recurse.
"""

from __future__ import annotations

import pickle
import sys
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator

from vineyard_client._forks import in_child

__all__ = ["DeepPickler", "deep"]

# Frames of Python: a list in a list takes three. Before 3.11 each takes some of the stack of C, of which a thread has 8
# MB; afterwards about half a kilobyte of memory.
_LIMIT = 200_000 if sys.version_info >= (3, 11) else 7_000

# What the pickler in C writes by itself, without asking.
_PLAIN = frozenset(
    [
        *[type(None), bool, int, float, str, bytes, bytearray],
        *[tuple, list, dict, set, frozenset, pickle.PickleBuffer],
    ]
)

_turn = [threading.Lock()]


def _renew() -> None:
    _turn[0] = threading.Lock()


in_child(_renew)


@contextmanager
def deep() -> Iterator[None]:
    """Let Python recurse deeply for as long as the block lasts."""
    with _turn[0]:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _LIMIT))
        try:
            yield
        finally:
            sys.setrecursionlimit(limit)


_Base: Any = pickle._Pickler


class DeepPickler(_Base):  # type: ignore[misc]
    """The pickler in Python, with the ways of the one in C."""

    def __init__(self, file: Any, buffer_callback: Callable[[Any], Any], reduce: Callable[[Any], Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=buffer_callback)
        self._reduce = reduce

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        """Write an object: plain data as the base class does, what is known already as such, the rest when asked for.

        No call here spreads out its arguments: Python would make such a call by way of C, whose stack is small.
        """
        if type(obj) in _PLAIN:
            _Base.save(self, obj)
            return
        self.framer.commit_frame()
        known = self.memo.get(id(obj))
        if known is not None:
            self.write(self.get(known[0]))
            return
        reduced = self._reduce(obj)
        if isinstance(reduced, str):
            self.save_global(obj, reduced)
            return
        function, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
        self.save_reduce(function, arguments, state, items, pairs, setter, obj=obj)
