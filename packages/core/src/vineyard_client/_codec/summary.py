"""One line about a value, for people: kind, shape, column names and types; never the values themselves.

The line is made where the value is written, stored with it, and shown by listings and user interfaces. It looks at
attributes only and imports nothing; whatever a foreign type's attributes do, a summary never makes ``put`` fail.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import islice
from typing import Any, Iterable, List

from .outside import from_outside

__all__ = ["LIMIT", "describe", "type_name"]

LIMIT = 300
_SAMPLE = 1000
_COLUMNS_SHOWN = 6
_COLUMNS_READ = 40


def type_name(value: object) -> str:
    """Return the name of a value's type as people write it: ``pandas.DataFrame``, wherever pandas defines it."""
    cls = type(value)
    module = getattr(cls, "__module__", None) or ""
    name = cls.__qualname__
    package = module.partition(".")[0]
    # Not getattr: modules warn about names that they are to lose.
    if module != package and vars(sys.modules.get(package, object)).get(name) is cls:
        module = package
    return f"{module}.{name}" if module else name


def describe(value: object) -> str:
    """Return a line of at most ``LIMIT`` characters about a value."""
    try:
        text = _describe(value)
    except Exception as exc:  # an attribute of a type we do not know may do anything
        if from_outside(exc):
            raise
        text = f"{type_name(value)} ({type(exc).__name__} when asked for its shape)"
    return text if len(text) <= LIMIT else text[: LIMIT - 1] + "…"


def _describe(value: Any) -> str:
    kind = type(value)
    if value is None or isinstance(value, (bool, int, float, complex)):
        return kind.__name__
    if isinstance(value, str):
        return f"{kind.__name__} of {_count(len(value), 'character')}"
    if isinstance(value, (bytes, bytearray)):
        return f"{kind.__name__} of {_count(len(value), 'byte')}"
    if isinstance(value, memoryview):
        return f"memoryview of {_count(value.nbytes, 'byte')}"
    if isinstance(value, dict):
        return f"{kind.__name__} of {_count(len(value), 'item')}{_kinds(value.values())}"
    if isinstance(value, (list, tuple, set, frozenset)):
        return f"{kind.__name__} of {_count(len(value), 'item')}{_kinds(value)}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return _shaped(value, shape)
    name = type_name(value)
    if name == "builtins.type" or isinstance(value, type):
        return "class"
    try:
        return f"{name} of {_count(len(value), 'item')}"
    except TypeError:
        return name


def _shaped(value: Any, shape: Any) -> str:
    columns = _columns(value)
    if columns is not None and len(shape) == 2:
        text = f"{_count(int(shape[0]), 'row')} × {_count(int(shape[1]), 'column')}"
        return f"{text}: {', '.join(columns)}" if columns else text
    dtype = getattr(value, "dtype", getattr(value, "type", None))
    size = " × ".join(str(int(length)) for length in shape)
    if type(value).__name__ in ("Series", "Index", "ChunkedArray"):
        return f"{type_name(value)} {dtype} of {_count(int(shape[0]), 'item')}"
    return f"{type_name(value)} {dtype} {size or 'scalar'}" if dtype is not None else f"{type_name(value)} {size}"


def _columns(value: Any) -> List[str] | None:
    """Return ``name type`` of a table's columns, the middle of many left out; None if it has no named columns.

    Only the columns that can be shown are looked at: a frame may have thousands.
    """
    schema: Any = getattr(value, "schema", None)
    if hasattr(schema, "names") and hasattr(schema, "types"):  # pyarrow
        count, names, types = len(schema.names), schema.names, schema.types
    elif hasattr(value, "columns") and hasattr(value, "iloc"):  # pandas
        dtypes = value.dtypes  # a series; taking columns out of the frame would cost far more
        count = len(dtypes)
        shown = range(count) if count <= _COLUMNS_READ else [*range(_COLUMNS_READ - 1), count - 1]
        names, types = [dtypes.index[n] for n in shown], [dtypes.array[n] for n in shown]
    elif hasattr(value, "columns") and isinstance(getattr(value, "dtypes", None), list):  # polars
        count, names, types = len(value.columns), value.columns, value.dtypes
    else:
        return None
    texts = [f"{_label(name)} {kind}" for name, kind in islice(zip(names, types), _COLUMNS_READ)]
    if count <= len(texts) and sum(map(len, texts)) + 2 * count <= LIMIT - 40:
        return texts
    last = f"{_label(names[-1])} {types[-1]}"
    return [*texts[:_COLUMNS_SHOWN], "…", last]


def _label(name: Any) -> str:
    text = str(name)
    return text if len(text) <= 24 else text[:23] + "…"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _kinds(items: Iterable[Any]) -> str:
    counted = Counter(map(type, islice(items, _SAMPLE)))
    if not counted:
        return ""
    names = [kind.__name__ for kind, _ in counted.most_common(4)]
    return ": " + ", ".join(names) + (", …" if len(counted) > 4 else "")
