"""Say where in a value an object sits, for errors. Only used when something was refused, so it may be slow."""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from typing import Any, Iterator, Mapping, Tuple

from .makings import slots_of

__all__ = ["path"]

_MOST = 100_000


def path(root: Any, wanted: Any) -> str:
    """Return the place of an object in a value, such as ``value['model'][3].callback``.

    Args:
        root: the value to search, breadth first.
        wanted: the object to find, by identity.

    Returns:
        The path, or an empty string if it was not found in reasonable time (in a ``__reduce__`` result, say).
    """
    waiting = deque([("value", root)])
    seen = {id(root): root}  # kept, since some children are made at every look, and identities are used again
    while waiting:
        place, current = waiting.popleft()
        if current is wanted:
            return place
        for step, child in _children(current):
            if id(child) not in seen and len(seen) < _MOST:
                seen[id(child)] = child
                waiting.append((place + step, child))
    return ""


def _children(value: Any) -> Iterator[Tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield f"[{_short(key)}]", child
        for key in value:
            yield f" (key {_short(key)})", key
    elif isinstance(value, (list, tuple, deque)):
        for position, child in enumerate(value):
            yield f"[{position}]", child
    elif isinstance(value, (set, frozenset)):
        for child in value:
            yield " (a member)", child
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    elif hasattr(value, "dtype") and hasattr(value, "tolist"):  # an array or a column of objects
        yield from _children(value.tolist())
    elif hasattr(value, "iloc") and hasattr(value, "columns"):  # a frame
        for position, name in enumerate(value.columns):
            yield f"[{_short(name)}]", value.iloc[:, position]
    elif not isinstance(value, type):
        for name, child in getattr(value, "__dict__", {}).items():
            yield f".{name}", child
        for name, slot in slots_of(type(value)):
            if hasattr(value, name):
                yield f".{name}", slot.__get__(value)
    if isinstance(value, defaultdict):
        yield ".default_factory", value.default_factory


def _short(key: Any) -> str:
    text = repr(key) if isinstance(key, (str, int, bytes)) else f"<{type(key).__name__}>"
    return text if len(text) <= 40 else text[:39] + "…"
