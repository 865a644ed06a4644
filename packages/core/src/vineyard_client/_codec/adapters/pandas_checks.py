"""What pandas' C code trusts, looked at before anything of it runs: places of blocks, codes, lengths, units.

pandas writes at the places of a frame's blocks, looks up categories by their codes and reads two arrays by the length
of one of them, and asks nothing. So each place, code and length is compared here with what it refers to. Codes are read
for that, which is the one check that takes the longer the more there are (a byte for each of up to 127 categories).
"""

from __future__ import annotations

import datetime
import importlib
from typing import Any, Dict, List

from ..policy import qualified
from .common import checked, damaged

__all__ = ["EMPTY", "check_array", "check_calls", "check_index", "places_of"]

np: Any = None  # set by load(): this module is loaded for values of pandas only

# The memory that arrays begin with before they have theirs: C code that looks at one too early finds an empty one.
EMPTY: Dict[str, str] = {
    "DatetimeArray": "M8[ns]",
    "TimedeltaArray": "m8[ns]",
    "PeriodArray": "i8",
    "Categorical": "i1",
}
_UNITS = frozenset(["s", "ms", "us", "ns"])
_UNIT_NUMBERS = range(7, 11)  # of the same, in C
_MASKED = {"IntegerArray": "iu", "FloatingArray": "f", "BooleanArray": "b"}


def load(module: Any) -> None:
    """Take numpy."""
    global np
    np = module


def _need(condition: Any, what: str) -> None:
    if not condition:
        raise damaged(what)


# --- frames ---------------------------------------------------------------------------------------------------------


def places_of(blocks: List[Any], axes: List[Any]) -> List[Any]:
    """Return where the blocks of a frame or series belong, as slices or arrays: each column in one block, exactly.

    Args:
        blocks: pairs of an array and its place: (start, stop, step) or an array of positions.
        axes: the indexes, columns first.

    Raises:
        ObjectCorrupted: a place is outside, taken twice or left empty, or an array has another shape.
    """
    if len(axes) not in (1, 2):
        raise damaged(f"a frame has {len(axes)} axes")
    count, rows = len(axes[0]), len(axes[-1])
    flat = len(axes) == 1
    found: List[Any] = []
    # A mark for each column; one range that is long enough needs none.
    taken = bytearray(count if len(blocks) > 1 else 0)
    left = count
    for values, place in blocks:
        positions = _positions(place)
        size = len(positions)
        shape = values.shape
        fits = shape == (count,) if flat else shape[-1] == rows and size == (shape[0] if len(shape) == 2 else 1)
        _need(fits, "a block has another shape")
        if type(positions) is range:
            inside = not size or (0 <= positions[0] < count and 0 <= positions[-1] < count)
            _need(inside, "a block of a frame lies outside of it")
            positions = slice(*place)
            if taken:
                taken[positions] = b"\1" * size
        else:
            inside = not size or (positions.min() >= 0 and positions.max() < count)
            _need(inside, "a block of a frame lies outside of it")
            taken = taken or bytearray(count)
            np.frombuffer(taken, np.uint8)[positions] = 1
        left -= size
        found.append(positions)
    _need(not left and 0 not in taken, "the blocks of a frame do not fill it")
    return found


def _positions(place: Any) -> Any:
    if type(place) is tuple:
        start, stop, step = place
        _need(
            checked(start, int) >= 0 and (stop is None or checked(stop, int) >= 0), "a block lies outside of its frame"
        )
        if stop is None:  # backwards, to the first one
            _need(type(step) is int and step < 0, "a block has no end")
            stop = -1
        return range(start, stop, checked(step, int))
    _need(type(place) is np.ndarray and place.ndim == 1 and place.dtype.kind == "i", "a block has no place")
    return place


# --- arrays ---------------------------------------------------------------------------------------------------------


def check_codes(codes: Any, count: int) -> None:
    """Check that codes point at one of so many categories, or at none (-1).

    Raises:
        ObjectCorrupted: one does not, or they are something else.
    """
    _need(type(codes) is np.ndarray and codes.dtype.kind == "i" and codes.ndim in (1, 2), "codes are no integers")
    if codes.size and not _all_below(codes, count):
        _need(codes.min() >= -1 and codes.max() < count, "a code belongs to no category")


def _all_below(codes: Any, count: int) -> bool:
    """Tell whether no code is negative or too large, by one look where none is missing: negative ones look large."""
    unsigned = codes.view(codes.dtype.str.replace("i", "u"))
    return count <= 1 << (8 * codes.itemsize - 1) and bool(unsigned.max() < count)


def _memory(array: Any) -> Any:
    """Return the numpy array behind an array of pandas, as different versions call it."""
    for name in ("_data", "_ndarray", "_codes"):
        found = getattr(array, name, None)
        if type(found) is np.ndarray:
            return found
    raise damaged(f"a {qualified(type(array))} has no memory")


def check_array(name: str, value: Any) -> None:
    """Check an array or dtype that has got its state.

    Raises:
        ObjectCorrupted: its parts do not fit together.
    """
    what = f"the parts of a {name} do not fit together"
    if name in ("DatetimeArray", "TimedeltaArray"):
        memory = _memory(value)
        kind = memory.dtype.kind
        _need(kind == ("M" if name == "DatetimeArray" else "m") and np.datetime_data(memory.dtype)[0] in _UNITS, what)
        own = vars(value).get("_dtype") if "_dtype" in getattr(value, "__dict__", {}) else value._dtype
        if own is not None and not isinstance(own, np.dtype):
            _need(_is(own, "DatetimeTZDtype") and getattr(own, "unit", "ns") == np.datetime_data(memory.dtype)[0], what)
        elif own is not None:
            _need(own == memory.dtype, what)
    elif name == "PeriodArray":
        memory = _memory(value)
        _need(memory.dtype == np.int64 and _is(value._dtype, "PeriodDtype"), what)
    elif name == "Categorical":
        _need(_is(value._dtype, "CategoricalDtype"), what)
        categories = value._dtype.categories
        check_codes(_memory(value), 0 if categories is None else len(categories))
    elif name in _MASKED:
        data, mask = vars(value).get("_data"), vars(value).get("_mask")
        _need(type(data) is np.ndarray and type(mask) is np.ndarray and mask.dtype == bool, what)
        _need(data.shape == mask.shape and data.dtype.kind in _MASKED[name], what)
    elif name == "IntervalArray":
        _need(len(value._left) == len(value._right) and value._left.dtype == value._right.dtype, what)
    elif name == "SparseArray":
        values, index = value._sparse_values, value._sparse_index
        _need(type(values) is np.ndarray and values.ndim == 1, what)
        _need(type(index).__name__ in ("IntIndex", "BlockIndex") and index.npoints == len(values), what)
        _need(_is(value._dtype, "SparseDtype") and value._dtype.subtype == values.dtype, what)
    elif name in ("NumpyExtensionArray", "StringArray", "StringArrayNumpySemantics"):
        memory = _memory(value)
        _need(name == "NumpyExtensionArray" or memory.dtype.kind in "OT", what)
        numpy_dtype = getattr(value._dtype, "numpy_dtype", None)
        _need(numpy_dtype is None or numpy_dtype == memory.dtype, what)
    elif name == "DatetimeTZDtype":
        _need(isinstance(value.tz, datetime.tzinfo) and value.unit in _UNITS, what)


def _is(thing: Any, name: str) -> bool:
    return type(thing).__name__ == name and type(thing).__module__.partition(".")[0] == "pandas"


# --- indexes, and what is called ------------------------------------------------------------------------------------


def check_index(name: str, parts: Dict[str, Any]) -> None:
    """Check the parts of an index that pandas rebuilds without looking at them.

    Raises:
        ObjectCorrupted: they do not fit together.
    """
    data = parts.get("data")
    if name == "DatetimeIndex":
        _need(_is(data, "DatetimeArray"), "a DatetimeIndex has no dates")
    elif name == "TimedeltaIndex":
        _need(_is(data, "TimedeltaArray"), "a TimedeltaIndex has no times")
    elif name == "MultiIndex":
        levels, codes = list(parts["levels"]), list(parts["codes"])
        index: Any = importlib.import_module("pandas").Index
        _need(parts.keys() <= {"levels", "codes", "sortorder", "names"}, "a MultiIndex has strange parts")
        _need(len(levels) == len(codes) > 0 and all(isinstance(level, index) for level in levels), "levels are missing")
        for level, own in zip(levels, codes):
            check_codes(own, len(level))
            _need(len(own) == len(codes[0]) and own.ndim == 1, "the codes of a MultiIndex differ in length")


def check_calls(name: str, arguments: Any) -> None:
    """Check the arguments of what pandas calls: none that turns off its own checks.

    Raises:
        ObjectCorrupted: there are others than its own reduction gives.
    """
    checked(arguments, tuple)
    most = {"IntIndex": 2, "BlockIndex": 3, "_unpickle_timestamp": 4, "_timedelta_unpickle": 2, "Timestamp": 3}.get(
        name
    )
    _need(most is None or len(arguments) <= most, f"a {name} has {len(arguments)} parts")
    unit = {"_unpickle_timestamp": 3, "_timedelta_unpickle": 1}.get(name)
    _need(unit is None or len(arguments) <= unit or arguments[unit] in _UNIT_NUMBERS, f"a {name} has no unit")
    if name in ("Timestamp", "_unpickle_timestamp"):
        _need(all(part is None or isinstance(part, datetime.tzinfo) for part in arguments[2:3]), "a time zone is none")
