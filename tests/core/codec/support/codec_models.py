"""Classes of a caller's own, as a package of models would have them."""

from __future__ import annotations

import collections
import dataclasses
import enum
import subprocess
from subprocess import Popen  # noqa: F401 - what somebody imported must not become reachable through this module
from typing import Any, List, Optional


class Plain:
    """Attributes only."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted:
    """No dictionary."""

    __slots__ = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left = left
        self.right = right


@dataclasses.dataclass
class Person:
    """A dataclass."""

    name: str
    friends: List[Person] = dataclasses.field(default_factory=list)
    age: Optional[int] = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A frozen dataclass."""

    value: Any


class Outer:
    """Has a class inside."""

    class Inner(Plain):
        """Nested."""


class Names(dict):
    """A dict with attributes."""


class Numbers(list):
    """A list."""


class Count(int):
    """A number."""


Pair = collections.namedtuple("Pair", "first second")


class Colour(enum.Enum):
    """Members with values of all kinds."""

    RED = 1
    NAMES = ("a", "b")


class Right(enum.IntFlag):
    """Flags."""

    READ = 1
    WRITE = 2


class Stateful:
    """Takes its state apart itself."""

    def __init__(self, secret: int) -> None:
        self.secret = secret

    def __getstate__(self) -> Any:
        return ("state", self.secret)

    def __setstate__(self, state: Any) -> None:
        self.secret = state[1]


class Called:
    """Pickles as a call of its class."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return Called, (self.number,)


def rebuild(number: int) -> Rebuilt:
    """Make a ``Rebuilt``; the function that its ``__reduce__`` names."""
    made = Rebuilt()
    made.number = number
    return made


class Rebuilt:
    """Pickles as a call of a function."""

    number = 0

    def __reduce__(self) -> Any:
        return rebuild, (self.number,)


class Keyed:
    """Is made with keywords."""

    def __new__(cls, *, key: str) -> Keyed:
        made = super().__new__(cls)
        made.key = key
        return made

    def __getnewargs_ex__(self) -> Any:
        return (), {"key": self.key}


class Problem(Exception):
    """Takes arguments that are not its args."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code = code
        self.where = where


class LostFile(FileNotFoundError):
    """An error of the system's with something added."""


class Shell(subprocess.Popen):
    """Would run a command when it is made: never to be allowed by a wildcard."""


class Gadget:
    """Does whatever it is told when it is unpickled by pickle itself."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduction = function, arguments

    def __reduce__(self) -> Any:
        return self.reduction


class Meta(type):
    """A class of classes."""


class Waiting:
    """Is taken apart and put together while ``moment`` is called: a moment at which a signal may come."""

    moment: Any = staticmethod(lambda: None)

    def __init__(self, where: str) -> None:
        self.where = where

    def __getstate__(self) -> Any:
        if self.where == "encode":
            Waiting.moment()
        return {"where": self.where}

    def __setstate__(self, state: Any) -> None:
        self.where = state["where"]
        if self.where == "decode":
            Waiting.moment()

    @property
    def shape(self) -> Any:
        if self.where == "summary":
            Waiting.moment()
        raise AttributeError("shape")


class Walked(dict):
    """Is asked for its items only to say where something sits that was refused."""

    def items(self) -> Any:
        Waiting.moment()
        return super().items()
