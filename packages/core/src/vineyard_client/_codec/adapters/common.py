"""What adapter modules share: reducers by attributes, makers by constructor, and the checks of ``parts``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Tuple

from ..ops import MAKE
from ..parts import checked, checked_callable, damaged, refused, set_state

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Maker, Reducer
    from ..writer import Writer

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
