"""xarray: datasets, arrays, variables and trees, object by object, with their indexes, attributes and encodings.

These are plain Python objects around arrays of numpy and indexes of pandas, which have their own adapters. Each is made
empty and gets its state back, so that indexes of every kind stay what they were; state is set on the classes of
``NAMES`` only. The file that data was loaded from, and what accessors keep, stay behind. Data that still lies in a file
or behind dask is refused: the writer says ``.load()`` first.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, Tuple

from vineyard_client.exceptions import UnsafeType, UnsupportedVersion

from ..ops import FILL, MAKE
from ..policy import qualified
from ..writer import own_reduction
from .common import damaged, set_state

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

# Name -> the module it is defined in, and the versions of xarray it was seen in.
NAMES: Dict[str, Tuple[str, str]] = {
    "Dataset": ("xarray.core.dataset", "0.16 - 2026.9"),
    "DataArray": ("xarray.core.dataarray", "0.16 - 2026.9"),
    "Variable": ("xarray.core.variable", "0.16 - 2026.9"),
    "IndexVariable": ("xarray.core.variable", "0.16 - 2026.9"),
    "NamedArray": ("xarray.namedarray.core", "2023.12 - 2026.9"),
    "PandasIndexAdapter": ("xarray.core.indexing", "0.16 - 0.18"),
    "PandasIndexingAdapter": ("xarray.core.indexing", "0.19 - 2026.9"),
    "PandasMultiIndexingAdapter": ("xarray.core.indexing", "2022.6 - 2026.9"),
    "PandasIndex": ("xarray.core.indexes", "0.19 - 2026.9"),
    "PandasMultiIndex": ("xarray.core.indexes", "0.19 - 2026.9"),
    "RangeIndex": ("xarray.indexes.range_index", "2025.4 - 2026.9"),
    "DataTree": ("xarray.core.datatree", "2024.10 - 2026.9"),
    "Frozen": ("xarray.core.utils", "0.16 - 2026.9"),
}

# What closes the file behind an object, and what accessors (``ds.my_package``) keep in it.
_CLOSERS = ("_close", "_file_obj")
_ATTACHMENTS = frozenset([*_CLOSERS, "_cache", "_accessors"])

_found: Dict[str, Any] = {}


def _find(name: str) -> Any:
    """Return the class of this xarray with a name of ours, or None if it has none."""
    if name not in _found and name in NAMES:
        try:
            _found[name] = getattr(importlib.import_module(NAMES[name][0]), name, None)
        except ImportError:
            _found[name] = None  # not in this version
    return _found.get(name)


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    cls = type(value)
    if _find(cls.__name__) is not cls:
        raise UnsafeType(
            f"A {qualified(cls)} cannot be stored: this release does not know that class of xarray.",
            "Data that is still in a file or behind dask must be read first, with .load(); else store the arrays.",
            qualified(cls),
        )
    state = _without_attachments(own_reduction(value)[2])
    return MAKE, ("xarray.new", cls.__name__), ("xarray.state", state), None, None, FILL


def _without_attachments(state: Any) -> Any:
    """Leave out what belongs to the process: the file that data came from, and accessors that somebody looked at."""
    if type(state) is tuple:
        return tuple(map(_without_attachments, state))
    if type(state) is not dict:
        return state
    kept = {name: item for name, item in state.items() if name not in _ATTACHMENTS}
    return {**kept, **{name: None for name in _CLOSERS if name in state}}


def _make(reader: Reader, name: Any) -> Any:
    if name not in NAMES:
        raise damaged(f"{name!r} is no class of xarray")
    cls = _find(name)
    if cls is None:
        raise UnsupportedVersion(
            f"The stored value holds a {name} as xarray {NAMES[name][1]} has it, and here is another version.",
            "Install the same version of xarray where the value is written and where it is read.",
        )
    return cls.__new__(cls)


def _fill(reader: Reader, value: Any, state: Any) -> None:
    if _find(type(value).__name__) is not type(value):
        raise damaged(f"a {type(value).__name__} is filled as an object of xarray")
    set_state(value, state)


def install(table: Table) -> None:
    """Declare the classes that this xarray has."""
    table.load("pandas")
    importlib.import_module("xarray")
    table.families["xarray"] = _reduce
    table.makers["xarray.new"] = _make
    table.filler("xarray.state", _fill, "xarray.new", holds=True)
