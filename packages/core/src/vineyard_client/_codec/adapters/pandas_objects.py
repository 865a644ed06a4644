"""pandas: frames and series as their blocks, everything else as pandas itself takes it apart, by a table of names.

A frame travels as its axes, the arrays of its blocks with the columns they hold, and its own state (``attrs``, flags,
metadata of subclasses), so its memory layout stays as it was and no column is copied. Index, extension arrays, dtypes,
offsets and scalars use pandas' own reductions, but the class or function in front is replaced by a name of ``NAMES``,
and the reader looks it up there and nowhere else.

What the reader checks: that blocks are arrays of a known kind, lie in the frame and fill it, each column once; that
state is set on objects of these classes only; and whatever else pandas' C code takes for granted (``pandas_checks``).
"""

from __future__ import annotations

import functools
import importlib
import types
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from vineyard_client.exceptions import UnsafeType, UnsupportedVersion

from ..makings import give
from ..ops import FILL, MAKE
from ..policy import qualified
from ..table import table as declared
from ..writer import own_reduction, reduce_instance
from . import numpy_arrays, pandas_checks
from .common import checked, damaged, refused

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

pd: Any = None  # set by install(), like the rest: this module is loaded for values of pandas only
np: Any = None

_BASE = "pandas.core.indexes.base"
_ARRAYS = "pandas.core.arrays"
_DTYPES = "pandas.core.dtypes.dtypes"
_TS = "pandas._libs.tslibs"
_OFFSETS = f"{_TS}.offsets"

# Our name -> how it is made, where it is defined (the first that exists), the versions of pandas it was seen in.
#   new    an empty object whose state is set afterwards       index  pandas' own rebuilding function of an index
#   call   called with the arguments of its own reduction
NAMES: Dict[str, Tuple[str, Tuple[str, ...], str]] = {
    "Index": ("index", (f"{_BASE}:Index",), "1.1 - 3.1"),
    "RangeIndex": ("index", ("pandas:RangeIndex",), "1.1 - 3.1"),
    "MultiIndex": ("index", ("pandas:MultiIndex",), "1.1 - 3.1"),
    "CategoricalIndex": ("index", ("pandas:CategoricalIndex",), "1.1 - 3.1"),
    "DatetimeIndex": ("index", ("pandas:DatetimeIndex",), "1.1 - 3.1"),
    "TimedeltaIndex": ("index", ("pandas:TimedeltaIndex",), "1.1 - 3.1"),
    "PeriodIndex": ("index", ("pandas:PeriodIndex",), "1.1 - 3.1"),
    "IntervalIndex": ("index", ("pandas:IntervalIndex",), "1.1 - 3.1"),
    "Int64Index": ("index", ("pandas.core.indexes.numeric:Int64Index",), "1.1 - 1.5"),
    "UInt64Index": ("index", ("pandas.core.indexes.numeric:UInt64Index",), "1.1 - 1.5"),
    "Float64Index": ("index", ("pandas.core.indexes.numeric:Float64Index",), "1.1 - 1.5"),
    "NumericIndex": ("index", ("pandas.core.indexes.numeric:NumericIndex",), "1.4 - 1.5"),
    "FrozenList": ("call", ("pandas.core.indexes.frozen:FrozenList",), "1.1 - 3.1"),
    # arrays
    "Categorical": ("new", (f"{_ARRAYS}.categorical:Categorical",), "1.1 - 3.1"),
    "DatetimeArray": ("new", (f"{_ARRAYS}.datetimes:DatetimeArray",), "1.1 - 3.1"),
    "TimedeltaArray": ("new", (f"{_ARRAYS}.timedeltas:TimedeltaArray",), "1.1 - 3.1"),
    "PeriodArray": ("new", (f"{_ARRAYS}.period:PeriodArray",), "1.1 - 3.1"),
    "IntervalArray": ("new", (f"{_ARRAYS}.interval:IntervalArray",), "1.1 - 3.1"),
    "SparseArray": ("new", (f"{_ARRAYS}.sparse.array:SparseArray", f"{_ARRAYS}.sparse:SparseArray"), "1.1 - 3.1"),
    "IntegerArray": ("new", (f"{_ARRAYS}.integer:IntegerArray",), "1.1 - 3.1"),
    "FloatingArray": ("new", (f"{_ARRAYS}.floating:FloatingArray",), "1.2 - 3.1"),
    "BooleanArray": ("new", (f"{_ARRAYS}.boolean:BooleanArray",), "1.1 - 3.1"),
    "StringArray": ("new", (f"{_ARRAYS}.string_:StringArray",), "1.1 - 3.1"),
    "StringArrayNumpySemantics": ("new", (f"{_ARRAYS}.string_:StringArrayNumpySemantics",), "2.3 - 2.3"),
    "ArrowStringArray": ("new", (f"{_ARRAYS}.string_arrow:ArrowStringArray",), "1.2 - 3.1"),
    "ArrowStringArrayNumpySemantics": (
        "new",
        (f"{_ARRAYS}.string_arrow:ArrowStringArrayNumpySemantics",),
        "2.1 - 2.3",
    ),
    "ArrowExtensionArray": ("new", (f"{_ARRAYS}.arrow.array:ArrowExtensionArray",), "1.5 - 3.1"),
    "NumpyExtensionArray": (
        "new",
        (f"{_ARRAYS}.numpy_:NumpyExtensionArray", f"{_ARRAYS}.numpy_:PandasArray"),
        "1.1 - 3.1",
    ),
    "IntIndex": ("call", ("pandas._libs.sparse:IntIndex",), "1.1 - 3.1"),
    "BlockIndex": ("call", ("pandas._libs.sparse:BlockIndex",), "1.1 - 3.1"),
    # dtypes
    "CategoricalDtype": ("new", (f"{_DTYPES}:CategoricalDtype",), "1.1 - 3.1"),
    "DatetimeTZDtype": ("new", (f"{_DTYPES}:DatetimeTZDtype",), "1.1 - 3.1"),
    "PeriodDtype": ("call", (f"{_DTYPES}:PeriodDtype",), "1.1 - 3.1"),
    "IntervalDtype": ("new", (f"{_DTYPES}:IntervalDtype",), "1.1 - 3.1"),
    "SparseDtype": ("new", (f"{_DTYPES}:SparseDtype", f"{_ARRAYS}.sparse.dtype:SparseDtype"), "1.1 - 3.1"),
    "NumpyEADtype": (
        "new",
        (f"{_DTYPES}:NumpyEADtype", f"{_DTYPES}:PandasDtype", f"{_ARRAYS}.numpy_:PandasDtype"),
        "1.1 - 3.1",
    ),
    "ArrowDtype": ("new", (f"{_DTYPES}:ArrowDtype", f"{_ARRAYS}.arrow.dtype:ArrowDtype"), "1.5 - 3.1"),
    "BooleanDtype": ("new", (f"{_ARRAYS}.boolean:BooleanDtype",), "1.1 - 3.1"),
    **{
        f"{kind}{bits}Dtype": ("new", (f"{_ARRAYS}.integer:{kind}{bits}Dtype",), "1.1 - 3.1")
        for kind in ("Int", "UInt")
        for bits in (8, 16, 32, 64)
    },
    "Float32Dtype": ("new", (f"{_ARRAYS}.floating:Float32Dtype",), "1.2 - 3.1"),
    "Float64Dtype": ("new", (f"{_ARRAYS}.floating:Float64Dtype",), "1.2 - 3.1"),
    # scalars
    "Timestamp": ("call", (f"{_TS}.timestamps:Timestamp",), "1.1 - 1.4"),
    "_unpickle_timestamp": ("call", (f"{_TS}.timestamps:_unpickle_timestamp",), "1.5 - 3.1"),
    "Timedelta": ("call", (f"{_TS}.timedeltas:Timedelta",), "1.1 - 1.4"),
    "_timedelta_unpickle": ("call", (f"{_TS}.timedeltas:_timedelta_unpickle",), "1.5 - 3.1"),
    "Period": ("call", (f"{_TS}.period:Period",), "1.1 - 3.1"),
    "Interval": ("call", ("pandas._libs.interval:Interval",), "1.1 - 3.1"),
    # offsets
    **{
        name: ("call", (f"{_OFFSETS}:{name}",), "1.1 - 3.1")
        for name in [
            "Tick",
            "Day",
            "Hour",
            "Minute",
            "Second",
            "Milli",
            "Micro",
            "Nano",
            "BusinessDay",
            "BusinessHour",
            "CustomBusinessDay",
            "CustomBusinessHour",
            "MonthEnd",
            "MonthBegin",
            "BusinessMonthEnd",
            "BusinessMonthBegin",
            "CustomBusinessMonthEnd",
            "CustomBusinessMonthBegin",
            "SemiMonthEnd",
            "SemiMonthBegin",
            "Week",
            "WeekOfMonth",
            "LastWeekOfMonth",
            "QuarterEnd",
            "QuarterBegin",
            "BQuarterEnd",
            "BQuarterBegin",
            "YearEnd",
            "YearBegin",
            "BYearEnd",
            "BYearBegin",
            "FY5253",
            "FY5253Quarter",
            "Easter",
        ]
    },
    **{
        name: ("call", (f"{_OFFSETS}:{name}",), "3.0 - 3.1")
        for name in ("HalfYearEnd", "HalfYearBegin", "BHalfYearEnd", "BHalfYearBegin")
    },
}
NAMES["StringDtype"] = ("call", (f"{_ARRAYS}.string_:StringDtype",), "1.1 - 3.1")

_REBUILD = {
    "DatetimeIndex": ("pandas.core.indexes.datetimes", "_new_DatetimeIndex"),
    "TimedeltaIndex": ("pandas.core.indexes.timedeltas", "_new_TimedeltaIndex"),
    "IntervalIndex": ("pandas.core.indexes.interval", "_new_IntervalIndex"),
}

# Classes of frames that are known, by the names that they have in a value; the adapter of geopandas adds its own.
FRAMES: Dict[str, Any] = {}

# Found when first needed: our name -> the class or function of this version, and back.
_found: Dict[str, Any] = {}
_names: Dict[Any, str] = {}


def _find(name: str) -> Any:
    """Return the class or function of this pandas under one of our names, or None if it has none."""
    found = _found.get(name)
    if found is None:
        for place in NAMES[name][1]:
            module, _, attribute = place.partition(":")
            try:
                found = getattr(importlib.import_module(module), attribute, None)
            except ImportError:
                continue  # not in this version
            if found is not None:
                _found[name] = found
                _names[found] = name
                break
    return found


def _name(thing: Any) -> str:
    """Return our name of a class or function of pandas, or an empty one."""
    name = _names.get(thing)
    if name is None:
        # Two of them have been renamed; everything else is called as it is called here.
        own = getattr(thing, "__name__", "")
        name = {"PandasArray": "NumpyExtensionArray", "PandasDtype": "NumpyEADtype"}.get(own, own)
        if name not in NAMES or _find(name) is not thing:
            return ""
    return name


def _lookup(name: str, kind: str) -> Any:
    row = NAMES.get(name)
    if row is None or row[0] != kind:
        raise damaged(f"pandas has no {name!r} that is made by {kind!r}")
    found = _find(name)
    if found is None:
        raise UnsupportedVersion(
            f"The stored value holds a {name} as pandas {row[2]} has it; here is pandas {pd.__version__}.",
            "Install the same version of pandas where the value is written and where it is read.",
        )
    return found


# --- everything but frames ------------------------------------------------------------------------------------------


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    own = _name(type(value))
    if own.startswith("Arrow") and own.endswith(("Array", "Semantics")):
        return _reduce_arrow_array(writer, value)
    if own == "StringDtype":
        return _reduce_string_dtype(writer, value)
    if not own and type(value) not in (pd.Timestamp, pd.Timedelta):
        try:
            return reduce_instance(writer, value)
        except UnsafeType:
            raise _unknown(type(value)) from None
    reduced: Any = own_reduction(value)
    function, arguments, state = (*reduced, None, None)[:3]
    if getattr(function, "__name__", "").startswith(("_new_", "__newobj__", "__pyx_unpickle_")):
        cls, parts = arguments[0], arguments[1:]
    else:
        cls, parts = function, arguments
    name = _name(cls)
    if not name:
        raise _unknown(cls)
    kind = NAMES[name][0]
    if kind == "index":
        content = dict(parts[0])
        if name == "IntervalIndex":
            content["closed"] = value.closed  # pandas 1.1 leaves it out
        return MAKE, ("pandas.index", name, content)
    if kind == "call":
        if state is not None:
            raise _unknown(cls)
        return MAKE, ("pandas.call", name, tuple(parts))
    return MAKE, ("pandas.new", name), ("pandas.state", _without_cache(state)), None, None, FILL


def _without_cache(state: Any) -> Any:
    """Leave out what pandas has computed already, and would compute again: classes among it."""
    if type(state) is dict:
        return {**state, "_cache": {}} if state.get("_cache") else state
    return tuple(map(_without_cache, state)) if type(state) is tuple else state


def _unknown(cls: Any) -> UnsafeType:
    return UnsafeType(
        f"A {qualified(cls)} cannot be stored: this release does not know that class of pandas.",
        "Store the frame, series or array behind it.",
        qualified(cls),
    )


def _make_index(reader: Reader, name: str, parts: Dict[str, Any]) -> Any:
    cls = _lookup(name, "index")
    pandas_checks.check_index(name, parts)
    home, function = _REBUILD.get(name, (_BASE, "_new_Index"))
    module = importlib.import_module(home)
    # TimedeltaIndex has a function of its own from 3.1 on.
    rebuild = getattr(module, function, None) or importlib.import_module(_BASE)._new_Index
    return rebuild(cls, parts)


def _make_call(reader: Reader, name: str, arguments: Tuple[Any, ...]) -> Any:
    pandas_checks.check_calls(name, arguments)
    make = _lookup(name, "call")
    if name == "StringDtype" and len(arguments) == 2 and make.__init__.__code__.co_argcount == 2:
        raise UnsupportedVersion(
            f"The stored value holds texts as pandas from 2.3 on has them; here is pandas {pd.__version__}.",
            "Install pandas 2.3 or later here, or turn columns and their names into objects where it is written.",
        )
    return make(*arguments)


def _make_new(reader: Reader, name: str) -> Any:
    cls = _lookup(name, "new")
    # Since 1.3 some arrays are objects of C, which takes for granted that there is memory.
    backed = _array_in_c()
    for base in cls.__mro__:
        create = vars(base).get("__new__")
        # The constructor in C, past those in Python that want the array's content.
        if isinstance(create, types.BuiltinFunctionType):
            made = create(cls)
            if backed is not None and isinstance(made, backed):
                memory = np.empty(0, pandas_checks.EMPTY.get(name, "O"))
                backed.__init__(made, memory, memory.dtype)
            return made
    raise damaged(f"a {name} cannot be made empty")


def _fill_state(reader: Reader, value: Any, state: Any) -> None:
    cls = type(value)
    if NAMES.get(_name(cls), ("",))[0] != "new":
        raise refused(f"it sets the state of a {qualified(cls)}", qualified(cls))
    for setter in ("__setstate__", "__setstate_cython__"):
        if hasattr(cls, setter):
            getattr(value, setter)(state)
            break
    else:
        if state is not None:
            vars(value).update(state)
    pandas_checks.check_array(_name(cls), value)


def _reduce_arrow_array(writer: Writer, array: Any) -> Tuple[Any, ...]:
    # pandas' own state joins the chunks, a copy.
    state = _without_cache(dict(vars(array)))
    return MAKE, ("pandas.new", _name(type(array))), ("pandas.attributes", state), None, None, FILL


def _fill_attributes(reader: Reader, array: Any, state: Dict[str, Any]) -> None:
    if not _name(type(array)).startswith("Arrow") or "_dtype" in vars(array):
        raise refused(f"it sets attributes of a {qualified(type(array))}", qualified(type(array)))
    vars(array).update(state)
    if "ChunkedArray" not in [type(part).__name__ for part in state.values()]:
        raise damaged("an Arrow array of pandas has no chunks")


def _reduce_constant(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("pandas.constant", "NaT" if value is pd.NaT else "NA")


def _make_constant(reader: Reader, name: str) -> Any:
    return {"NaT": pd.NaT, "NA": pd.NA}[name]


def _reduce_string_dtype(writer: Writer, dtype: Any) -> Tuple[Any, ...]:
    # It had no storage before 1.3, and one kind of missing value only before 2.3 (where nan was said in the storage).
    storage = getattr(dtype, "storage", None)
    own: Tuple[Any, ...] = (storage,) if storage is not None else ()
    if own and isinstance(getattr(dtype, "_na_value", None), float):
        own += (dtype._na_value,)
    return MAKE, ("pandas.call", "StringDtype", own)


def _reduce_date_offset(writer: Writer, offset: Any) -> Tuple[Any, ...]:
    # Its own state loses what a weekday was given as.
    return MAKE, ("pandas.DateOffset", offset.n, offset.normalize, dict(offset.kwds))


def _make_date_offset(reader: Reader, n: int, normalize: bool, keywords: Dict[str, Any]) -> Any:
    return pd.DateOffset(n, normalize, **keywords)


# --- frames and series ----------------------------------------------------------------------------------------------


def _reduce_grouper(writer: Writer, grouper: Any) -> Tuple[Any, ...]:
    return (
        MAKE,
        ("pandas.grouper", type(grouper) is not pd.Grouper),
        (
            "pandas.grouper",
            dict(vars(grouper)),
        ),
        None,
        None,
        FILL,
    )


def _make_grouper(reader: Reader, timed: Any) -> Any:
    return object.__new__(_timed_grouper() if timed is True else pd.Grouper)


def _fill_grouper(reader: Reader, grouper: Any, attributes: Any) -> None:
    give(grouper, checked(attributes, dict), None)


@functools.lru_cache(maxsize=1)
def _timed_grouper() -> Any:
    return importlib.import_module("pandas.core.resample").TimeGrouper


def _reduce_frame(writer: Writer, frame: Any) -> Tuple[Any, ...]:
    cls = type(frame)
    known = _frame_name(cls)
    if known:
        names: Tuple[str, str] = ("", known)
    else:
        names = writer.name_of(cls)
        own: Any = cls
        if own.__reduce__ is not object.__reduce__ or own.__reduce_ex__ is not object.__reduce_ex__:
            return reduce_instance(writer, frame)
    state = frame.__getstate__()
    manager = state.pop("_mgr")
    if not hasattr(manager, "blocks"):  # the array manager of 1.3 - 2.3
        manager = frame._as_manager("block")._mgr
    blocks = []
    for block in manager.blocks:
        values = block.values
        if not isinstance(values, np.ndarray):
            # A block of dates without a zone is an array in disguise.
            ndarray = getattr(values, "_ndarray", None)
            if ndarray is not None and isinstance(values.dtype, np.dtype) and ndarray.dtype == values.dtype:
                values = ndarray
        parts = numpy_arrays.plain(values) if type(values) is np.ndarray else None
        where = block.mgr_locs
        place = where.as_array if not where.is_slice_like else where.as_slice
        if isinstance(place, slice):
            place = (place.start, place.stop, place.step)
        blocks.append((parts if parts is not None else values, place))
    content = list(manager.axes), blocks, state
    return MAKE, ("pandas.frame", *names), ("pandas.frame", content), None, None, FILL


def _frame_name(cls: type) -> str:
    """Return the name of a known class of frames, or an empty one."""
    package = cls.__module__.partition(".")[0]
    name = cls.__name__ if package == "pandas" else f"{package}.{cls.__name__}"
    return name if FRAMES.get(name) is cls else ""


def _make_frame(reader: Reader, module: str, qualname: str) -> Any:
    if module:
        cls = reader.find_class(module, qualname)
        if not issubclass(cls, (pd.DataFrame, pd.Series)):
            raise refused(f"it uses {module}.{qualname} as a frame", f"{module}.{qualname}")
    else:
        declared.load(qualname.partition(".")[0])
        cls = FRAMES[qualname]
    return cls.__new__(cls)


def _fill_frame(reader: Reader, frame: Any, content: Any) -> None:
    cls = type(frame)
    if not _frame_name(cls) and not (isinstance(frame, (pd.DataFrame, pd.Series)) and reader.allows(cls)):
        raise refused(f"it sets the blocks of a {qualified(cls)}", qualified(cls))
    axes, parts, state = content
    reader.check_quiet((axes, parts), "pandas.frame")
    if "_mgr" in vars(frame) or any(key.startswith("__") for key in state):
        raise damaged("a frame is filled twice or has strange attributes")
    if not all(isinstance(axis, pd.Index) for axis in axes):
        raise damaged("an axis of a frame is no index")
    internals = importlib.import_module("pandas.core.internals")
    new_block = _block_function()
    ndim = len(axes)
    arrays: List[Any] = []
    for values, place in parts:
        if type(values) is tuple:
            values = numpy_arrays.unplain(values)
        elif not isinstance(values, (np.ndarray, pd.api.extensions.ExtensionArray)):
            raise damaged(f"a {qualified(type(values))} is a block of a frame")
        arrays.append((values, place))
    places = pandas_checks.places_of(arrays, axes)
    blocks = [new_block(values, place, ndim) for (values, _), place in zip(arrays, places)]
    if ndim == 1:
        if len(blocks) != 1:
            raise damaged("a series has several blocks")
        manager = internals.SingleBlockManager(blocks[0], axes[0])
    else:
        manager = internals.BlockManager(tuple(blocks), axes, True)  # verify_integrity, once do_integrity_check
    frame.__setstate__({**state, "_mgr": manager})


@functools.lru_cache(maxsize=1)
def _array_in_c() -> Any:
    try:
        return importlib.import_module("pandas._libs.arrays").NDArrayBacked
    except ImportError:
        return None  # before 1.3


@functools.lru_cache(maxsize=1)
def _block_function() -> Any:
    """Return how this version of pandas makes a block of values, a placement and a number of dimensions."""
    blocks = importlib.import_module("pandas.core.internals.blocks")
    placement = importlib.import_module("pandas._libs.internals").BlockPlacement
    if hasattr(blocks, "new_block"):  # 1.3

        def new_block(values: Any, place: Any, ndim: int) -> Any:
            return blocks.new_block(blocks.maybe_coerce_values(values), placement=placement(place), ndim=ndim)

        return new_block

    def make_block(values: Any, place: Any, ndim: int) -> Any:
        return blocks.make_block(values, placement=place, ndim=ndim)

    return make_block


def install(table: Table) -> None:
    """Declare the types of pandas."""
    global pd, np
    pd = importlib.import_module("pandas")
    np = importlib.import_module("numpy")
    table.load("numpy")
    pandas_checks.load(np)
    table.families["pandas"] = _reduce
    table.reducers[type(pd.NaT)] = table.reducers[type(pd.NA)] = _reduce_constant
    table.reducers[pd.DateOffset] = _reduce_date_offset
    table.reducers[pd.Grouper] = table.reducers[_timed_grouper()] = _reduce_grouper
    table.bases[pd.DataFrame] = table.bases[pd.Series] = _reduce_frame
    table.reducers[pd.DataFrame] = table.reducers[pd.Series] = _reduce_frame
    table.makers.update(
        {
            "pandas.index": _make_index,
            "pandas.call": _make_call,
            "pandas.new": _make_new,
            "pandas.constant": _make_constant,
            "pandas.DateOffset": _make_date_offset,
            "pandas.frame": _make_frame,
            "pandas.grouper": _make_grouper,
        }
    )
    table.filler("pandas.state", _fill_state, "pandas.new")
    table.filler("pandas.attributes", _fill_attributes, "pandas.new")
    table.filler("pandas.grouper", _fill_grouper, "pandas.grouper", holds=True)
    table.filler("pandas.frame", _fill_frame, "pandas.frame", holds=True)
    FRAMES.update(DataFrame=pd.DataFrame, Series=pd.Series)
    for cls in (pd.DataFrame, pd.Series, pd.Timestamp, pd.Timedelta, pd.Period, pd.Interval):
        table.value(f"pandas.{cls.__name__}", cls)
