"""What people see of a value that lives in its row: one line of at most 200 characters, ``6`` or ``2024-01-01``.

It is made in the task that returns the value, from what is known to be plain: numbers, texts, moments, enums, and what
holds them. Objects of other classes are shown by a ``__repr__`` that their author wrote, and where there is none, or
where a value has a shape, by core's summary. Named members (of dicts, named tuples, dataclasses, attrs classes,
pydantic models, structured scalars) are shown as the ``__repr__`` shows them that those libraries make, less what is to
be hidden. Python's own containers and exceptions are taken apart, too: their ``__repr__`` hides nothing, and takes
years for a value of a few hundred bytes that holds one object in many places.

What shows a value follows Airflow's masking. Secrets that are registered with it are taken out of each text before that
is cut, so that no half of one is left. Members whose names Airflow masks, and a value that was pushed under such a
name, are ``***``.

Invariants: it raises nothing but what a signal handler does, takes time for what it shows and not for the rest, and the
line has only printable characters, so every database, log and terminal takes it. Pure; imports neither Airflow nor a
data library.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import partial
from pathlib import PurePath
from types import MappingProxyType, SimpleNamespace
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple
from uuid import UUID

from airflow_provider_vineyard.reference import SHOWN_LIMIT, printable

__all__ = ["HIDDEN", "text_of"]

log = logging.getLogger(__name__)

HIDDEN = "***"

_HALVES = re.compile("([\ud800-\udfff]+)")

_DEPTH_LIMIT = 6
# Beyond that many bits the digits of an int do not fit into the line; Python may refuse to compute them at all.
_BITS_LIMIT = 3 * SHOWN_LIMIT
# Whose objects with a shape are shown by their beginning if they are no larger.
_ARRAY_LIMIT = 200

_SCALARS = (date, time, timedelta, Decimal, Fraction, PurePath, UUID)
# What is shown of Python's own containers, and of classes that have their __repr__ from them.
_CONTENTS: Dict[Any, Callable[[Any], Iterable[Any]]] = {
    BaseException.__repr__: lambda value: value.args,
    ChainMap.__repr__: lambda value: value.maps,
    Counter.__repr__: lambda value: [dict(value)],
    MappingProxyType.__repr__: lambda value: [dict(value)],
    OrderedDict.__repr__: lambda value: [dict(value)],
    UserDict.__repr__: lambda value: [value.data],
    UserList.__repr__: lambda value: [value.data],
    defaultdict.__repr__: lambda value: [value.default_factory, dict(value)],
    deque.__repr__: lambda value: [list(value)],
}

_BRACKETS = ((tuple, "(", ")"), (list, "[", "]"), (frozenset, "frozenset({", "})"), (set, "{", "}"))


def text_of(
    value: object,
    summary: str,
    *,
    name: Optional[str],
    redact: Callable[[str], str],
    is_hidden: Callable[[Any], bool],
) -> str:
    """Return the line for a value.

    Args:
        value: anything.
        summary: what core says of it, which is shown where its contents cannot be.
        name: under which it was pushed, where that is known.
        redact: Airflow's function that takes registered secrets out of a text.
        is_hidden: Airflow's function that tells whether the value of a member with a name is to be hidden.
    """

    def redacted(text: str) -> str:
        # Airflow 2.11 looks for secrets with a library that takes no half surrogates; no secret has one.
        parts = _HALVES.split(text)
        parts[::2] = map(redact, parts[::2])
        return "".join(parts)

    line = _Line(redacted, is_hidden)
    try:
        text = HIDDEN if is_hidden(name) else line.show(value, 0, top=True)
    except Exception as error:  # a class of the user's may do anything when it is asked
        from vineyard_client import from_outside

        if from_outside(error):
            raise
        log.debug("A %s is shown by its summary, it raised %r", type(value).__name__, error)
        text = None
    # Once more, for a secret that was put together from several texts.
    return printable(redacted(summary if text is None else text), SHOWN_LIMIT)


class _Line:
    def __init__(self, redact: Callable[[str], str], is_hidden: Callable[[Any], bool]) -> None:
        self._redact = redact
        self._is_hidden = is_hidden

    def show(self, value: Any, depth: int, *, top: bool = False) -> Optional[str]:
        """Return how a value is shown; None for one that is shown by its summary."""
        text = self._leaf(value, top)
        if text is not None:
            return text
        if depth == _DEPTH_LIMIT:
            return "…"
        if _has_shape(value):
            return self._array(value, depth)
        pairs = _members(value)
        if pairs is not None:
            return self._called(value, pairs, depth)
        if _has_own_repr(type(value)):
            return self._redact(" ".join(repr(value).split()))
        if isinstance(value, dict):
            shown = self._named((f"{self.show(key, depth + 1)}: ", key, member) for key, member in value.items())
            return f"{{{self._joined(shown, depth)}}}"
        for kind, start, end in _BRACKETS:
            if isinstance(value, kind):
                inner = self._joined((("", member) for member in value), depth)
                return f"{start}{inner}{',' if kind is tuple and len(value) == 1 else ''}{end}"
        return None

    def _leaf(self, value: Any, top: bool) -> Optional[str]:
        if value is None or isinstance(value, bool):
            return str(value)
        if isinstance(value, Enum):
            name = value._name_ if value._name_ is not None else repr(value._value_)
            return self._redact(f"{type(value).__name__}.{name}")
        if isinstance(value, str):
            text = self._redact(str.__str__(value))[: SHOWN_LIMIT + 1]
            return text if top else repr(text)
        if isinstance(value, (bytes, bytearray)):
            text = bytes(value).decode("utf-8", "backslashreplace")
            return repr(bytes(value[: SHOWN_LIMIT + 1])) if self._redact(text) == text else f"b'{HIDDEN}'"
        if isinstance(value, int):
            # A number of 300 digits is a text like others; of a longer one nobody reads them.
            return self._redact(int.__repr__(value)) if value.bit_length() <= _BITS_LIMIT else _magnitude(value)
        if isinstance(value, (float, complex, *_SCALARS)) or _is_scalar_of_a_library(value):
            return self._redact(" ".join(str(value).split()))
        return None

    def _array(self, value: Any, depth: int) -> Optional[str]:
        """Return the elements of a small array of numpy's; frames, tables and tensors are shown by their summary."""
        cls = type(value)
        if cls.__module__ == "numpy" and value.shape == () and value.dtype.names and cls.__name__ != "ndarray":
            return self._called(value, [(name, value[name]) for name in value.dtype.names], depth)
        if (cls.__module__, cls.__name__) != ("numpy", "ndarray") or value.size > _ARRAY_LIMIT or value.dtype.names:
            return None if depth == 0 else f"<{cls.__name__}>"
        return self.show(value.tolist(), depth)

    def _called(self, value: Any, pairs: Iterable[Tuple[str, Any]], depth: int) -> str:
        """Return the name of a class with members, most of which have names, too."""
        shown = self._named((f"{name}=" if name else "", name, member) for name, member in pairs)
        return f"{type(value).__name__}({self._joined(shown, depth)})"

    def _named(self, triples: Iterable[Tuple[str, Any, Any]]) -> Iterator[Tuple[str, Any]]:
        """Yield beginnings and members; a member that is to be hidden is one that shows so."""
        for beginning, name, member in triples:
            yield beginning, _HIDDEN_MEMBER if self._is_hidden(name) else member

    def _joined(self, members: Iterable[Tuple[str, Any]], depth: int) -> str:
        """Return members with what stands before each, and stop when the line is full."""
        shown: List[str] = []
        length = 0
        for beginning, member in members:
            if length > SHOWN_LIMIT:
                return ", ".join([*shown, "…"])
            text = HIDDEN if member is _HIDDEN_MEMBER else self.show(member, depth + 1)
            shown.append(beginning + (f"<{type(member).__name__}>" if text is None else text))
            length += len(shown[-1]) + 2
        return ", ".join(shown)


_HIDDEN_MEMBER = object()


def _magnitude(value: int) -> str:
    return f"{'-' if value < 0 else ''}2**{value.bit_length() - 1} and more"


def _has_shape(value: Any) -> bool:
    return isinstance(getattr(value, "shape", None), tuple)


def _is_scalar_of_a_library(value: Any) -> bool:
    """Tell numpy's and pandas' scalars and dtypes, whose ``str`` is the plain number, moment or name."""
    package = type(value).__module__.partition(".")[0]
    if package not in ("numpy", "pandas"):
        return False
    if getattr(value, "shape", None) == ():
        # What has no dtype is one. A structured scalar has members with names.
        return type(value).__name__ != "ndarray" and not getattr(getattr(value, "dtype", None), "names", None)
    return package == "pandas" and not hasattr(value, "shape") and not hasattr(value, "__len__")


def _is_attrs(made_in: str) -> bool:
    """Tell whether attrs made a ``__repr__``; up to 21.1 that is a function of its own."""
    return made_in.startswith("<attrs generated") or made_in.endswith("attr/_make.py")


def _made_in(cls: type) -> str:
    """Return the name of the file that the code of a class's ``__repr__`` was made in; empty for one in C."""
    function: Any = cls.__repr__
    code = getattr(getattr(function, "__wrapped__", function), "__code__", None)
    return code.co_filename if code is not None else ""


def _members(value: Any) -> Optional[Iterable[Tuple[str, Any]]]:
    """Return what a ``__repr__`` shows that is generated or Python's own, with its names; None for any other class."""
    cls = type(value)
    made_in = _made_in(cls)
    if (
        isinstance(value, tuple)
        and hasattr(cls, "_fields")
        and getattr(cls.__repr__, "__module__", "") == "collections"
    ):
        return zip(cls._fields, value)
    if dataclasses.is_dataclass(cls) and made_in == "<string>":
        return [(each.name, getattr(value, each.name)) for each in dataclasses.fields(cls) if each.repr]
    if hasattr(cls, "__attrs_attrs__") and _is_attrs(made_in):
        fields: Any = cls.__attrs_attrs__
        # Where there is a function for it, that decides what is shown of the member.
        return [
            (
                each.name,
                getattr(value, each.name) if each.repr is True else _Shown(str(each.repr(getattr(value, each.name)))),
            )
            for each in fields
            if each.repr
        ]
    if hasattr(value, "__repr_args__") and _is_pydantics(cls.__repr__):
        return [(name or "", member) for name, member in value.__repr_args__()]
    own: object = cls.__repr__
    if own is SimpleNamespace.__repr__:
        return list(vars(value).items())
    if own is partial.__repr__:
        return [("", value.func), *(("", argument) for argument in value.args), *value.keywords.items()]
    contents = _CONTENTS.get(cls.__repr__)
    return None if contents is None else [("", member) for member in contents(value)]


class _Shown:
    """A text that stands for a value."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _is_pydantics(function: Any) -> bool:
    return str(getattr(function, "__module__", "")).startswith("pydantic")


def _has_own_repr(cls: type) -> bool:
    """Tell whether objects of a class say themselves how they are shown, other than as object or a plain type does."""
    plain: Tuple[Any, ...] = (
        object.__repr__,
        dict.__repr__,
        list.__repr__,
        tuple.__repr__,
        set.__repr__,
        frozenset.__repr__,
    )
    return cls.__repr__ not in plain and _made_in(cls) != "<string>" and not _is_attrs(_made_in(cls))
