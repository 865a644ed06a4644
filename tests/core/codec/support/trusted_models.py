"""A package all of whose classes are trusted, as a library's would be."""

from __future__ import annotations

import os
from typing import Any, ClassVar, List


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


class Reached:
    """Has all the methods that a pickle stream can call."""

    ran: ClassVar[List[str]] = []

    def __call__(self, *arguments: Any) -> None:
        self.ran.append("call")

    def append(self, item: Any) -> None:
        """Take an item."""
        self.ran.append("append")

    extend = add = append

    def __setitem__(self, key: Any, item: Any) -> None:
        self.ran.append("item")


class Plain:
    """Has nothing but attributes."""


class Deciding:
    """Does something with its state."""

    def __setstate__(self, state: Any) -> None:
        os.system(state["command"])


class Making(type):
    """Could do something when an object is made."""


class Made(metaclass=Making):
    """Is of a class that is made by another."""


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
