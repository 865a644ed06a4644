"""What a fork does to this package: who is who afterwards, and which locks it waits for.

A process is told from its relatives by its *generation*, the number of forks between it and the process that imported
this module. A process id cannot tell: it is used again, and in a namespace of its own a child may have its parent's.

All locks of the package are of two kinds. One is held while modules are imported (``importing``): no fork happens
meanwhile, because the child would wait for ever for an import that only a thread of its parent could finish. The other
kind is made anew in the child, by whoever owns it (``in_child``): the thread that held it does not exist there.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Callable, Iterable, List, TypeVar

__all__ = ["everywhere", "forks", "generation", "importing", "in_child", "in_parent"]

T = TypeVar("T")

importing = threading.RLock()

_generation = [0]
_forks = [0]
_in_parent: List[Callable[[], None]] = []
_in_child: List[Callable[[], None]] = []


def generation() -> int:
    """Return how many forks lie between this process and the one that imported the package."""
    return _generation[0]


def forks() -> int:
    """Return how often this process and its forebears have forked: that it changes is what it says."""
    return _forks[0]


def in_parent(action: Callable[[], None]) -> None:
    """Have something done in the parent after each fork; it must not raise."""
    _in_parent.append(action)


def in_child(action: Callable[[], None]) -> None:
    """Have something done in the child after each fork, before anything else of this package; it must not raise."""
    _in_child.append(action)


def everywhere(objects: Iterable[weakref.ref[T]], action: Callable[[T], None]) -> Callable[[], None]:
    """Return an action that does something with each of the objects that are still there."""

    def run() -> None:
        for reference in tuple(objects):
            one = reference()
            if one is not None:
                action(one)

    return run


def _parent() -> None:
    _forks[0] += 1
    for action in _in_parent:
        action()


def _child() -> None:
    _generation[0] += 1
    _forks[0] += 1
    for action in _in_child:
        action()


# Hooks before a fork run last first, those after it first first: the lock is taken last and given back first.
os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
os.register_at_fork(after_in_parent=_parent, after_in_child=_child)
