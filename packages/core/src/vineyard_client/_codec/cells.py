"""What a preview shows of single values and of types, and what it may show.

No code of a value runs: types are compared by identity, because even their hash is their metaclass's to compute, and
what is called belongs to Python or to a library that is known. Nothing is imported.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath, PureWindowsPath
from typing import Any, Callable, Dict, Optional
from uuid import UUID

__all__ = [
    "HIDDEN",
    "LARGEST",
    "Hide",
    "Maker",
    "cell",
    "cut",
    "is_known",
    "is_missing",
    "is_plain",
    "name_of_type",
    "plain",
    "which",
]

HIDDEN = "***"

Hide = Callable[[str], bool]

# Characters of a cell or a name, bytes of one of bytes.
_CELL = 60

#: JavaScript has no larger integers.
LARGEST = (1 << 53) - 1

# Of far larger ones even the digits take long.
_BITS = 256


class Maker:
    """One preview in the making: how much it may show.

    Args:
        level: one of ``LEVELS`` but the first.
        limit: bytes that it may take.
        hide: tells whether what has a name is to be hidden.
        small: whether the value is so small that little may be done for it.
    """

    def __init__(self, level: str, limit: int, hide: Optional[Hide], small: bool = False) -> None:
        self.shows = level != "schema"
        self.counts = level == "stats"
        self.limit = limit
        self.small = small
        self._hide = hide

    def hides(self, name: object) -> bool:
        """Tell whether what has a name is to be hidden."""
        if self._hide is None:
            return False
        if type(name) is tuple:
            return any(map(self.hides, name))
        return type(name) is str and bool(self._hide(name))


# ---- single values


def cell(value: Any) -> Any:
    """Return a single value as JSON shows it: a plain one as it is, or as a short text, of any other its type."""
    kind = type(value)
    show = _CELLS.get(id(kind))
    if show is not None:
        return show(value)
    if is_known(kind):
        found = plain(value)
        if found is not value:
            return cell(found)
    return f"({name_of_type(kind)})"


def _int(value: Any) -> Any:
    if -LARGEST <= value <= LARGEST:
        return value
    return str(value) if value.bit_length() <= _BITS else f"(int of {value.bit_length()} bits)"


def _float(value: Any) -> Any:
    return value if value - value == 0 else repr(value)


def _decimal(value: Any) -> str:
    digits = value.as_tuple()
    return str(value) if len(digits.digits) <= _CELL else f"(Decimal of {len(digits.digits)} digits)"


def _fraction(value: Any) -> str:
    return f"{_int(value.numerator)}/{_int(value.denominator)}"


def _moment(value: Any) -> str:
    """Return a date with its time; a zone that is no type of Python's own is not asked."""
    zone = value.tzinfo
    if zone is None or type(zone) is timezone or _is_zone(type(zone)):
        return str(value.isoformat(" "))
    return f"{value.replace(tzinfo=None).isoformat(' ')} ({name_of_type(type(zone))})"


def _is_zone(kind: type) -> bool:
    zoneinfo: Any = sys.modules.get("zoneinfo")
    return zoneinfo is not None and vars(zoneinfo).get("ZoneInfo") is kind


def _time(value: Any) -> str:
    return str(value.replace(tzinfo=None).isoformat())


def cut(text: str) -> str:
    """Return a text that is no longer than a cell may be."""
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _container(value: Any) -> str:
    return f"({name_of_type(type(value))} of {len(value)})"


def is_plain(value: object) -> bool:
    """Tell whether ``cell`` shows a value itself."""
    return id(type(value)) in _CELLS


# By identity: each is called with a value of exactly that type.
_CELLS: Dict[int, Callable[[Any], Any]] = {
    id(type(None)): lambda value: None,
    id(bool): lambda value: value,
    id(int): _int,
    id(float): _float,
    id(complex): str,
    id(str): lambda value: cut(value[: _CELL + 1]),
    **{id(kind): lambda value: cut(bytes(value[:_CELL]).hex()) for kind in (bytes, bytearray)},
    id(date): lambda value: value.isoformat(),
    id(datetime): _moment,
    id(time): _time,
    id(timedelta): str,
    id(Decimal): _decimal,
    id(Fraction): _fraction,
    id(UUID): str,
    **{id(kind): _container for kind in (dict, OrderedDict, defaultdict, Counter, list, tuple, set, frozenset, deque)},
    **{id(kind): lambda value: cut(str(value)) for kind in (PurePosixPath, PosixPath, PureWindowsPath)},
}


# ---- types


# Libraries whose tables and arrays are known.
_LIBRARIES = ("pandas", "numpy", "polars", "pyarrow")

_TYPE: Any = type.__dict__


def is_known(kind: type) -> bool:
    """Tell whether a class is one of those libraries' own: where it says that it is from, there it is."""
    module = _module(kind)
    if module.partition(".")[0] not in _LIBRARIES:
        return False
    return vars(sys.modules.get(module, object)).get(_TYPE["__qualname__"].__get__(kind)) is kind


def _module(kind: type) -> str:
    """Return the module that a class names, which its metaclass is not asked for."""
    found = _TYPE["__module__"].__get__(kind)
    return found if type(found) is str else ""


def name_of_type(kind: type) -> str:
    """Return the name of a class as people write it; its metaclass is not asked."""
    known = _NAMES.get(id(kind))
    if known is not None:
        return known
    module, name = _module(kind), str(_TYPE["__qualname__"].__get__(kind))
    package = module.partition(".")[0]
    if module != package and vars(sys.modules.get(package, object)).get(name) is kind:
        module = package
    return cut(name if module in ("", "builtins") else f"{module}.{name}")


_NAMES = {id(kind): kind.__name__ for kind in (int, float, str, bool, bytes, dict, list, tuple, type(None))}


def which(package: str, name: str) -> Any:
    """Return a class of a library that is loaded; else something that no type is."""
    return vars(sys.modules.get(package, object)).get(name, _NOTHING)


_NOTHING = object()


def plain(value: Any) -> Any:
    """Return the plain value that a scalar of numpy's or pandas' stands for; anything else as it is."""
    numpy: Any = sys.modules.get("numpy")
    kind = type(value)
    if numpy is not None and numpy.generic in kind.__mro__ and value.dtype.isbuiltin == 1:
        # Python has no numbers as long as numpy's longest.
        return str(value) if value.dtype.kind in "mM" or value.dtype.char in "gG" else value.item()
    if kind is which("pandas", "Timedelta") or kind is type(vars(sys.modules.get("pandas", object)).get("NaT")):
        return str(value)
    if kind is which("pandas", "Timestamp") and value.tzinfo is None:
        return str(value)
    if kind is type(vars(sys.modules.get("pandas", object)).get("NA")):
        return None
    return value


def is_missing(value: Any) -> bool:
    """Tell whether a single value stands for none."""
    kind = type(value)
    return (
        value is None
        or (kind is float and value != value)
        or (is_known(kind) and kind is type(vars(sys.modules.get("pandas", object)).get("NA")))
    )
