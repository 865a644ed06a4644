"""Checks of stored parts, and the errors for those that fail them; what reads a value shares these.

Parts come from the stored bytes and may be anything, whatever the envelope's checksum says.
"""

from __future__ import annotations

import copyreg
import sys
from typing import Any

from vineyard_client.exceptions import ObjectCorrupted, UnsafeType

__all__ = ["checked", "checked_callable", "damaged", "refused", "set_state"]


def damaged(what: str) -> ObjectCorrupted:
    """Return the error for stored parts that do not fit together."""
    return ObjectCorrupted(f"The stored value is damaged: {what}.", "Have the task that made it run again.")


def refused(what: str, name: str) -> UnsafeType:
    """Return the error for a stored value that asks for more than the writing half ever does."""
    return UnsafeType(
        f"The stored value was refused: {what}.",
        "Somebody else wrote to the store, or the value is damaged: find out who, and do not read it by other means.",
        name,
    )


def checked(part: Any, *kinds: type) -> Any:
    """Return a part whose type is one of these exactly.

    Raises:
        ObjectCorrupted: it is another.
    """
    if type(part) not in kinds:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise damaged(f"a {type(part).__name__} stands where only {names} may")
    return part


def checked_callable(part: Any) -> Any:
    """Let through what can be called. Whatever that is, it was let through as a value, and is not called here.

    Raises:
        ObjectCorrupted: it is something else.
    """
    if callable(part):
        return part
    raise damaged(f"a {type(part).__name__} stands where a class or function should")


def set_state(value: Any, state: Any) -> None:
    """Set the state of an object of an allowed class as pickle would, but on this object only."""
    cls = type(value)
    setter = getattr(cls, "__setstate__", None)
    if setter is not None:
        setter(value, state)
        return
    slots: Any = None
    if type(state) is tuple and len(state) == 2:
        state, slots = state
    if state:
        attributes = value.__dict__
        for key, item in state.items():
            attributes[sys.intern(key) if type(key) is str else key] = item
    if slots:
        declared = copyreg._slotnames(cls)  # type: ignore[attr-defined]
        for key, item in slots.items():
            if key not in declared:
                raise damaged(f"the state of a {cls.__qualname__} names {key!r}, which is no slot of it")
            # A frozen class refuses its own __setattr__.
            object.__setattr__(value, key, item)
