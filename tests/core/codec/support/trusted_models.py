"""A package all of whose classes are trusted, as a library's would be."""

from __future__ import annotations

import os
from typing import Any


class Model:
    """Objects that are rebuilt past everything that they would do themselves."""

    def __new__(cls, *arguments: Any, **attributes: Any) -> Model:
        """Would need what nobody stored."""
        assert arguments, "ran"
        made = super().__new__(cls)
        made.__dict__.update(attributes)
        return made

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("ran")


class Bunch(dict):
    """A dict that looks at what is put into it."""

    def __setitem__(self, key: Any, value: Any) -> None:
        raise AssertionError("ran")


class Slotted:
    """No dictionary."""

    __slots__ = ("left", "right")


class Tree:
    """Rebuilds itself from checked arguments, as C code does."""

    def __new__(cls, size: int) -> Tree:
        """Check the size."""
        made = super().__new__(cls)
        made.size = int(size)
        return made

    def __reduce__(self) -> Any:
        return Tree, (self.size,), {"nodes": self.nodes}

    def __setstate__(self, state: Any) -> None:
        self.nodes = [state["nodes"], "checked"]


class Stranger:
    """Has the system do something."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


class Cleaning:
    """Does something when it is let go."""

    def __del__(self) -> None:
        pass


def loss(value: float) -> float:
    """Give a function that objects hold."""
    return value


def other(value: float) -> float:
    """Give a function that they do not."""
    return value
