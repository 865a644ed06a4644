"""Classes that hold data, full of methods that must not run while a value is read."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import pathlib
import sys
import uuid
from typing import Any, Dict, Generic, List, NamedTuple, Protocol, TypeVar

ran: List[str] = []
T = TypeVar("T")


def trap(name: str) -> Any:
    """Return a method that leaves a trace."""

    def method(self: Any, *arguments: Any, **keywords: Any) -> Any:
        ran.append(f"{type(self).__name__}.{name}")
        raise RuntimeError(name)

    return method


_TRAPPED = (
    *("__init__", "__post_init__", "__setattr__", "__delattr__", "__getattribute__", "__getattr__", "__setitem__"),
    *("__getitem__", "__contains__", "__iter__", "__len__", "__bool__", "__eq__", "__lt__", "__repr__", "__str__"),
    *("__format__", "__call__", "__missing__", "__index__", "__int__", "__float__", "__add__", "__iadd__", "__copy__"),
    *("__deepcopy__", "__dir__", "__sizeof__", "__reversed__", "__set_name__", "append", "extend", "update", "add"),
    *("items", "keys", "values", "__array__", "__fspath__", "__buffer__", "__instancecheck__", "__complex__"),
)


def _trapped(*leave: str) -> Dict[str, Any]:
    return {name: trap(name) for name in _TRAPPED if name not in leave}


class _Data:
    value: Any = None


TrappedData = dataclasses.make_dataclass("TrappedData", [("value", Any)], namespace=_trapped("__init__", "__eq__"))
TrappedData.__module__ = __name__
TrappedData.__init__ = trap("__init__")
TrappedText = type("TrappedText", (str,), _trapped())
TrappedNumber = type("TrappedNumber", (int,), _trapped())
TrappedReal = type("TrappedReal", (float,), _trapped())
TrappedBytes = type("TrappedBytes", (bytes,), _trapped())
TrappedTuple = type("TrappedTuple", (tuple,), _trapped())
TrappedList = type("TrappedList", (list,), _trapped())
TrappedDict = type("TrappedDict", (dict,), _trapped())
TrappedSet = type("TrappedSet", (set,), _trapped())
TrappedOrdered = type("TrappedOrdered", (collections.OrderedDict,), _trapped())
TrappedCounter = type("TrappedCounter", (collections.Counter,), _trapped())
TrappedQueue = type("TrappedQueue", (collections.deque,), _trapped())
TrappedBuffer = type("TrappedBuffer", (bytearray,), _trapped())
TrappedDay = type("TrappedDay", (datetime.date,), _trapped())
TrappedMoment = type("TrappedMoment", (datetime.datetime,), _trapped())
TrappedClock = type("TrappedClock", (datetime.time,), _trapped())
TrappedSpan = type("TrappedSpan", (datetime.timedelta,), _trapped())
TrappedPrice = type("TrappedPrice", (decimal.Decimal,), _trapped())
TrappedFailure = type("TrappedFailure", (ValueError,), _trapped())
for _cls in list(vars().values()):
    if isinstance(_cls, type) and _cls.__name__.startswith("Trapped"):
        _cls.__module__ = __name__


class Text(str):
    """Text with attributes."""


class Number(int):
    """A number with attributes."""


class Real(float):
    """A number."""


class Complex(complex):
    """A number."""


class Raw(bytes):
    """Bytes."""


class Buffer(bytearray):
    """Bytes that change."""


class Row(tuple):
    """A tuple."""


class Items(list):
    """A list."""


class Table(dict):
    """A dict."""


class Group(set):
    """A set."""


class FrozenGroup(frozenset):
    """A set that does not change."""


class Ordered(collections.OrderedDict):
    """A dict with an order of its own."""


class Tally(collections.Counter):
    """A counter."""


class Default(collections.defaultdict):
    """A dict with a factory."""


class Queue(collections.deque):
    """A queue."""


class Wrapped(collections.UserDict):
    """A dict in Python."""


class Day(datetime.date):
    """A date."""

    def quarter(self) -> int:
        """Return something."""
        return (self.month - 1) // 3


class Moment(datetime.datetime):
    """A date with a time."""


class Clock(datetime.time):
    """A time."""


class Span(datetime.timedelta):
    """A length of time."""


class Price(decimal.Decimal):
    """A decimal number."""


class Share(fractions.Fraction):
    """A fraction."""


class Place(pathlib.PurePosixPath):
    """A path with a method."""

    def twice(self) -> str:
        """Return something."""
        return f"{self}{self}"


class Mark(uuid.UUID):
    """A number."""


class Chain(collections.ChainMap):
    """Several dicts."""


class Trouble(ValueError):
    """An exception with arguments that its ``args`` lack."""

    def __init__(self, what: str, code: int = 0) -> None:
        super().__init__(what)
        self.code = code


class Named(Protocol):
    """What a class may say that it follows."""

    name: str


@dataclasses.dataclass
class Follower(Named):
    """A dataclass that follows a protocol, about which classes cannot be asked."""

    name: str


class Point(NamedTuple):
    """A named tuple with a method and a default."""

    x: float
    y: float = 0.0

    def norm(self) -> float:
        """Return something."""
        return abs(self.x) + abs(self.y)


Pair = collections.namedtuple("Pair", "left right")
_Hidden = collections.namedtuple("Other", "a b")


class Tagged(Pair):
    """A named tuple with attributes."""


class Level(enum.IntEnum):
    """Numbers."""

    LOW = 1
    HIGH = 2
    TOP = 2


class Kind(str, enum.Enum):
    """Texts."""

    A = "a"
    B = "b"


class Planet(enum.Enum):
    """Members that are made by code of their own."""

    EARTH = (1, 2)

    def __init__(self, mass: int, radius: int) -> None:
        self.mass, self.radius = mass, radius


class Access(enum.IntFlag):
    """Flags."""

    READ = 1
    WRITE = 2


class Colour(enum.Flag):
    """Flags that are no numbers."""

    RED = 1
    BLUE = 2


class Strange(enum.Flag):
    """Flags that make what has no name."""

    ONE = 1
    TWO = 2

    @classmethod
    def _missing_(cls, value: Any) -> Any:
        ran.append("_missing_")
        return super()._missing_(value)


@dataclasses.dataclass
class Order:
    """A dataclass with everything."""

    name: str
    lines: List[Any] = dataclasses.field(default_factory=list)
    total: int = dataclasses.field(init=False, default=7)
    rate: dataclasses.InitVar[int] = 2

    def __post_init__(self, rate: int) -> None:
        self.extra = rate


@dataclasses.dataclass
class SpecialOrder(Order):
    """A subclass."""

    note: str = ""


@dataclasses.dataclass(frozen=True)
class Key:
    """May be a key."""

    name: str
    number: int = 0


@dataclasses.dataclass
class Slotted:
    """Slots by hand."""

    __slots__ = ("left", "right")
    left: Any
    right: Any


class Outer:
    """Has a class inside."""

    @dataclasses.dataclass
    class Inner:
        """Nested."""

        value: Any


@dataclasses.dataclass
class Box(Generic[T]):
    """Generic."""

    content: T


if sys.version_info >= (3, 10):

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Modern:
        """Frozen, with slots and keywords."""

        value: Any


# --- not passive ----------------------------------------------------------------------------------------------------


class Made(str):
    """Brings its own ``__new__``."""

    def __new__(cls, text: str = "") -> Made:
        """Leave a trace."""
        ran.append("Made.__new__")
        return super().__new__(cls, text)


@dataclasses.dataclass
class Reduced:
    """Is pickled in its own way."""

    value: Any

    def __reduce__(self) -> Any:
        return Reduced, (self.value,)


@dataclasses.dataclass
class Stateful:
    """Sets its state itself."""

    value: Any

    def __setstate__(self, state: Any) -> None:
        ran.append("Stateful.__setstate__")


@dataclasses.dataclass
class Dropping:
    """Leaves something out."""

    value: Any

    def __getstate__(self) -> Any:
        return {}


@dataclasses.dataclass
class Ending:
    """Does something when it is let go."""

    value: Any

    def __del__(self) -> None:
        if ran is not None:  # at the end of the program it is
            ran.append("Ending.__del__")


@dataclasses.dataclass(eq=False)
class Hashed:
    """Computes its own hash."""

    value: Any

    def __hash__(self) -> int:
        ran.append("Hashed.__hash__")
        return 1


@dataclasses.dataclass(frozen=True)
class Computed:
    """Has a generated hash over something that is computed."""

    value: Any

    def __getattribute__(self, name: str) -> Any:
        ran.append(f"Computed.{name}")
        return object.__getattribute__(self, name)


class Meta(type):
    """A metaclass with code."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        """Make an object."""
        return super().__call__(*arguments, **keywords)


@dataclasses.dataclass
class Metamade(metaclass=Meta):
    """Made by it."""

    value: Any


@dataclasses.dataclass
class Covered:
    """Has something in front of a slot."""

    __slots__ = ("left",)
    left: Any


Covered.left = property(trap("left"))  # type: ignore


@dataclasses.dataclass
class Failure(ValueError):
    """An exception."""

    value: Any


class Ordinary:
    """Does not say that it holds data."""

    def __init__(self, value: Any = None) -> None:
        self.value = value


class ReprPath(pathlib.PurePosixPath):
    """A path with another text, which is what its hash is made of."""

    __str__ = trap("__str__")


class SharedMark(uuid.UUID):
    """A number that compares by code of its own."""

    __eq__ = trap("__eq__")
    __hash__ = trap("__hash__")


class LostFailure(Exception):
    """An exception that says itself how it is made."""

    def __reduce__(self) -> Any:
        return LostFailure, ()


NOT_PASSIVE = {
    "ReprPath": ReprPath("a"),
    "SharedMark": SharedMark(int=5),
    "LostFailure": LostFailure(),
    "Made": Made("a"),
    "Reduced": Reduced(1),
    "Stateful": Stateful(1),
    "Dropping": Dropping(1),
    "Ending": Ending(1),
    "Hashed": Hashed(1),
    "Computed": Computed(1),
    "Metamade": Metamade(1),
    "Ordinary": Ordinary(1),
}
