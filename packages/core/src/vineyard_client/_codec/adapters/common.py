"""Parts that adapter modules share: reducers by attributes, makers by constructor, and checks of what was stored."""

from __future__ import annotations

import copyreg
import functools
import sys
import types
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import ObjectCorrupted, UnsafeType

from ..ops import MAKE

if TYPE_CHECKING:
    from ..reader import Reader
    from ..writer import Writer
    from . import Maker, Reducer

__all__ = [
    "by_attributes",
    "by_call",
    "by_text",
    "checked",
    "checked_callable",
    "damaged",
    "from_text",
    "refused",
    "set_state",
]


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
    """Let a class or function through that the stream got by name, but none of the reader's own operations.

    Raises:
        ObjectCorrupted: it is something else.
    """
    if isinstance(part, (type, types.FunctionType, functools.partial)):
        return part
    raise damaged(f"a {type(part).__name__} stands where a class or function should")


def by_attributes(name: str, *attributes: str) -> Reducer:
    """Return a reducer that hands attributes to the constructor."""

    def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, (name, *[getattr(value, attribute) for attribute in attributes])

    return reduce


def by_text(name: str) -> Reducer:
    """Return a reducer for types whose text says everything."""

    def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
        return MAKE, (name, str(value))

    return reduce


def by_call(constructor: Any) -> Maker:
    """Return a maker that calls a constructor which checks its own arguments."""

    def make(reader: Reader, *parts: Any) -> Any:
        return constructor(*parts)

    return make


def from_text(constructor: Any) -> Maker:
    """Return a maker for a constructor that may get text only, since it takes other things for something else."""

    def make(reader: Reader, text: Any) -> Any:
        return constructor(checked(text, str))

    return make


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
