"""Real values of every kind that the codec promises to keep, and what "the same value" means for each.

``cases()`` of a library yields ``(name, make)``; ``make()`` returns the value. Cases that the installed version of a
library cannot make raise ``Unavailable``. ``assert_same`` compares type, value, dtype, index, name, order, flags and
metadata. Used by the tests and by ``benchmarks/lossless.py``.
"""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import fractions
import functools
import ipaddress
import math
import pathlib
import random
import re
import struct
import sys
import time
import types
import uuid
import warnings
from typing import Any, Callable, Dict, Iterator, List, Set, Tuple

Case = Tuple[str, Callable[[], Any]]


class Unavailable(Exception):
    """The installed version of a library does not have this kind of value."""


def make(case: Callable[[], Any]) -> Any:
    """Make the value of a case.

    Raises:
        Unavailable: this version of the library cannot.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return case()
        except (AttributeError, ImportError, TypeError, ValueError, NotImplementedError) as exc:
            raise Unavailable(f"{type(exc).__name__}: {exc}") from exc


# --- what "the same" means ------------------------------------------------------------------------------------------


def assert_same(left: Any, right: Any, _seen: Set[Tuple[int, int]] | None = None) -> None:
    """Fail unless two values have the same type and are equal in everything that a program can see.

    Raises:
        AssertionError: they differ.
    """
    seen = set() if _seen is None else _seen
    if (id(left), id(right)) in seen:
        return
    seen.add((id(left), id(right)))
    assert type(left) is type(right) or _one_kind(left, right), f"{type(left)} became {type(right)}"
    package = type(left).__module__.partition(".")[0]
    if not isinstance(left, type):
        for cls in type(left).__mro__:
            compare = _COMPARERS.get(cls.__module__.partition(".")[0])
            if compare is not None and compare(left, right, seen):
                return
    if isinstance(left, float):
        assert struct.pack("d", left) == struct.pack("d", right), (left, right)
    elif isinstance(left, complex):
        assert_same((left.real, left.imag), (right.real, right.imag), seen)
    elif isinstance(left, (list, tuple, collections.deque)):
        assert len(left) == len(right)
        for one, other in zip(left, right):
            assert_same(one, other, seen)
    elif isinstance(left, dict) or (package == "collections" and hasattr(left, "items")):
        assert_same(list(left.items()), list(right.items()), seen)
        if isinstance(left, collections.defaultdict):
            assert left.default_factory is right.default_factory
    elif isinstance(left, BaseException):
        for attribute in ("args", "__dict__", "__cause__", "__context__", "__suppress_context__"):
            assert_same(getattr(left, attribute), getattr(right, attribute), seen)
        assert str(left) == str(right)
    elif isinstance(left, functools.partial):
        assert (left.func, left.args, left.keywords) == (right.func, right.args, right.keywords)
    elif isinstance(left, random.Random):
        assert left.getstate() == right.getstate()
    elif isinstance(left, memoryview):
        assert (left.format, left.shape, left.tobytes()) == (right.format, right.shape, right.tobytes())
        assert left.readonly == right.readonly, "writeable" if left.readonly else "read-only"
    elif isinstance(left, array.array):
        assert left.typecode == right.typecode and left == right
    elif isinstance(left, datetime.datetime):
        assert (left, left.fold, left.tzinfo) == (right, right.fold, right.tzinfo)
    elif isinstance(left, (datetime.time, decimal.Decimal)):
        assert repr(left) == repr(right)
    elif isinstance(left, slice):
        assert (left.start, left.stop, left.step) == (right.start, right.stop, right.step)
    elif type(left).__eq__ is object.__eq__ and hasattr(left, "__dict__"):
        assert_same(vars(left), vars(right), seen)
    else:
        assert left == right, f"{left!r} became {right!r}"


def _one_kind(left: Any, right: Any) -> bool:
    # pyarrow 6 has two classes for the types of times, depending on where they come from.
    return {type(left).__name__, type(right).__name__} in ({"DataType", "Time32Type"}, {"DataType", "Time64Type"})


def _same_numpy(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    import numpy as np

    if isinstance(left, np.dtype):
        assert left == right and left.isalignedstruct == right.isalignedstruct
        assert (left.metadata or None) == (right.metadata or None)
        return True
    if isinstance(left, np.ma.MaskedArray):
        assert (left is np.ma.masked) == (right is np.ma.masked)
        if left is np.ma.masked:
            return True
        assert_same(np.asarray(left.mask), np.asarray(right.mask), seen)
        assert_same(left.fill_value, right.fill_value, seen)
        assert left.hardmask == right.hardmask
        left, right = np.asarray(left.data), np.asarray(right.data)
    if isinstance(left, np.generic):
        assert left.dtype == right.dtype
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes() or left == right
        return True
    if isinstance(left, np.ndarray):
        assert_same(left.dtype, right.dtype, seen)
        assert left.shape == right.shape
        for flag in ("c_contiguous", "f_contiguous"):
            assert not getattr(left.flags, flag) or getattr(right.flags, flag), flag
        if left.dtype.hasobject or left.dtype.kind == "T":
            assert_same(left.tolist(), right.tolist(), seen)
        else:
            assert left.tobytes() == right.tobytes()
        if getattr(left, "__dict__", None) and type(left).__module__.partition(".")[0] != "numpy":
            assert_same(vars(left), vars(right), seen)
        # Last, so that "read-only" means that everything else is the same.
        assert left.flags.writeable == right.flags.writeable, "read-only" if left.flags.writeable else "writeable"
        return True
    if type(left).__module__.startswith("numpy.random") and hasattr(left, "state"):
        assert repr(left.state) == repr(right.state)
        return True
    if isinstance(left, (np.random.Generator, np.random.RandomState)):
        state = (lambda value: value.bit_generator.state) if isinstance(left, np.random.Generator) else None
        one, other = (state(left), state(right)) if state else (left.get_state(False), right.get_state(False))
        assert repr(one) == repr(other)
        return True
    return False


def _same_pandas(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    import pandas as pd
    import pandas.testing as tm

    if left is pd.NaT or left is getattr(pd, "NA", None):
        assert left is right
    elif isinstance(left, pd.DataFrame):
        tm.assert_frame_equal(left, right, check_index_type="exact", check_column_type="exact", **_exactly(pd))
        for one, other in ((left.index, right.index), (left.columns, right.columns)):
            _same_index(one, other)
        assert_same(left.attrs, right.attrs, seen)
        assert getattr(left, "flags", None) == getattr(right, "flags", None)
        assert [str(dtype) for dtype in left.dtypes] == [str(dtype) for dtype in right.dtypes]
    elif isinstance(left, pd.Series):
        tm.assert_series_equal(left, right, check_index_type="exact", **_exactly(pd))
        _same_index(left.index, right.index)
        assert_same(left.attrs, right.attrs, seen)
        assert left.dtype == right.dtype and left.name == right.name
    elif isinstance(left, pd.Index):
        _same_index(left, right)
    elif isinstance(left, pd.api.extensions.ExtensionArray):
        assert left.dtype == right.dtype
        tm.assert_series_equal(pd.Series(left), pd.Series(right))
        assert getattr(left, "freq", None) == getattr(right, "freq", None)
    elif isinstance(left, pd.Timestamp):
        assert (left, left.tz, left.fold) == (right, right.tz, right.fold)
        assert getattr(left, "unit", None) == getattr(right, "unit", None)
    else:
        assert left == right
    return True


def _exactly(pd: Any) -> Dict[str, bool]:
    # Before 1.2, exact comparison knew numpy's arrays only.
    return {"check_exact": True} if hasattr(pd, "Flags") or hasattr(pd.DataFrame, "flags") else {}


def _same_index(left: Any, right: Any) -> None:
    import pandas as pd
    import pandas.testing as tm

    tm.assert_index_equal(left, right, exact=True)
    assert type(left) is type(right) and left.dtype == right.dtype
    assert list(left.names) == list(right.names)
    assert getattr(left, "freq", None) == getattr(right, "freq", None)
    if isinstance(left, pd.MultiIndex):
        for one, other in zip(left.levels, right.levels):
            _same_index(one, other)
        assert [list(codes) for codes in left.codes] == [list(codes) for codes in right.codes]


def _same_pyarrow(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    import pyarrow as pa

    if isinstance(left, (pa.Schema, pa.Field)):
        assert left.equals(right, check_metadata=True)
    elif isinstance(left, pa.DataType):
        assert left.equals(right) and str(left) == str(right)
    elif isinstance(left, pa.Scalar):
        assert left.type == right.type and left.is_valid == right.is_valid
        assert left.equals(right) or left.as_py() == right.as_py()
    elif isinstance(left, pa.Buffer):
        assert left.equals(right)
    elif isinstance(left, (pa.Table, pa.RecordBatch)):
        assert_same(left.schema, right.schema, seen)
        assert left.num_rows == right.num_rows
        for one, other in zip(left.columns, right.columns):
            assert_same(one, other, seen)
    elif isinstance(left, pa.ChunkedArray):
        assert left.type == right.type and left.num_chunks == right.num_chunks
        for one, other in zip(left.chunks, right.chunks):
            assert_same(one, other, seen)
    elif isinstance(left, pa.Array):
        assert left.type == right.type and str(left.type) == str(right.type)
        assert len(left) == len(right) and left.null_count == right.null_count
        right.validate(full=True)
        assert left.equals(right) or left.to_pylist() == right.to_pylist()
    elif isinstance(left, pa.Tensor):
        assert left.equals(right) and left.dim_names == right.dim_names
    else:
        assert left == right
    return True


def _same_polars(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    import polars as pl
    from polars.testing import assert_frame_equal, assert_series_equal

    if isinstance(left, pl.LazyFrame):
        left, right = left.collect(), right.collect()
    if isinstance(left, pl.DataFrame):
        assert left.schema == right.schema and left.flags == right.flags
        if pl.Object in left.dtypes:
            assert left.rows() == right.rows()
        else:
            assert_frame_equal(left, right)
    elif isinstance(left, pl.Series):
        assert left.dtype == right.dtype and left.name == right.name
        for flag in ("SORTED_ASC", "SORTED_DESC"):
            assert left.flags[flag] == right.flags[flag]
        if left.dtype == pl.Object:
            assert left.to_list() == right.to_list()
        else:
            assert_series_equal(left, right)
    else:
        assert left == right
    return True


def _same_scipy(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    assert left.shape == right.shape and left.dtype == right.dtype and left.nnz == right.nnz
    assert set(vars(left)) == set(vars(right))
    for name in ("data", "indices", "indptr", "row", "col", "offsets"):
        if hasattr(left, name):
            assert_same(getattr(left, name), getattr(right, name), seen)
    assert (left.toarray() == right.toarray()).all()
    return True


def _same_xarray(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    assert left.identical(right)
    assert_same(dict(left.encoding), dict(right.encoding), seen)
    if hasattr(left, "indexes"):
        assert list(left.indexes) == list(right.indexes)
        for name in left.indexes:
            assert_same(left.indexes[name], right.indexes[name], seen)
    return True


def _same_dates(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    if type(left).__name__ == "relativedelta":
        assert vars(left) == vars(right)
    elif hasattr(left, "tzinfo"):
        assert (left, left.fold, left.tzinfo) == (right, right.fold, right.tzinfo)
    else:
        assert left == right and repr(left) == repr(right)
    return True


def _same_torch(left: Any, right: Any, seen: Set[Tuple[int, int]]) -> bool:
    import torch

    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape
        assert torch.equal(left, right) and left.requires_grad == right.requires_grad
        if left.is_leaf:
            assert_same(left.grad, right.grad, seen)
        assert_same(dict(left.__dict__), dict(right.__dict__), seen)
    else:
        assert left == right
    return True


_COMPARERS: Dict[str, Callable[[Any, Any, Set[Tuple[int, int]]], bool]] = {
    "numpy": _same_numpy,
    "pandas": _same_pandas,
    "pyarrow": _same_pyarrow,
    "polars": _same_polars,
    "scipy": _same_scipy,
    "xarray": _same_xarray,
    "torch": _same_torch,
    **dict.fromkeys(("pytz", "dateutil", "pendulum"), _same_dates),
}


# --- values ---------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    """An enumeration of the caller's own."""

    RED = 1
    GREEN = "g"


class Right(enum.Flag):
    """Flags of the caller's own."""

    READ = 1
    WRITE = 2


class Point(collections.namedtuple("Point", "x y")):
    """A named tuple of the caller's own."""


def python_cases() -> Iterator[Case]:
    """Yield built-in and standard-library values that need no permission."""
    nan_with_payload = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000ABCDEF))[0]
    values: Dict[str, Any] = {
        "None": None,
        "True": True,
        "False": False,
        "0": 0,
        "-1": -1,
        "2**70": 2**70,
        "-2**100": -(2**100),
        "0.1": 0.1,
        "-0.0": -0.0,
        "inf": math.inf,
        "nan": math.nan,
        "nan with payload": nan_with_payload,
        "1-0j": complex(1, -0.0),
        "str": "hé 😀 \ud800"[:-1],
        "str with a surrogate": "a\ud800",
        "long str": "x" * 300_000,
        "bytes": b"\x00\xff",
        "long bytes": bytes(300_000),
        "bytearray": bytearray(b"ab"),
        "list": [1, 2],
        "empty list": [],
        "tuple": (1, (2, ())),
        "dict in order": {"b": 1, "a": 2, 1: None, (1, 2): "t"},
        "set": {1, "a", (2,)},
        "frozenset": frozenset([1, 2]),
        "range": range(2, 9, 3),
        "slice": slice(1, None, 2),
        "Ellipsis": ...,
        "NotImplemented": NotImplemented,
        "classes": [int, str, bytes, list, dict, type(None), datetime.date, decimal.Decimal, ValueError],
        "date": datetime.date(2024, 2, 29),
        "datetime": datetime.datetime(1, 1, 1, 0, 0, 0, 1),
        "datetime max": datetime.datetime.max,
        "datetime with fold": datetime.datetime(2024, 10, 27, 2, 30, fold=1),
        "datetime UTC": datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.timezone.utc),
        "datetime offset": datetime.datetime(
            2024, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=5, minutes=30), "IST")
        ),
        "time": datetime.time(23, 59, 59, 999_999, datetime.timezone.utc, fold=1),
        "timedelta": datetime.timedelta(-1, 5, 7),
        "timezone": datetime.timezone(datetime.timedelta(hours=-3)),
        "Decimal": decimal.Decimal("-0.00"),
        "Decimal NaN": decimal.Decimal("sNaN123"),
        "Decimal huge": decimal.Decimal("1E+999999"),
        "Fraction": fractions.Fraction(-22, 7),
        "UUID": uuid.UUID(int=5),
        "PosixPath": pathlib.PurePosixPath("//a/../b"),
        "Path": pathlib.Path("a/b"),
        "WindowsPath": pathlib.PureWindowsPath("c:\\x"),
        "IPv4": ipaddress.ip_address("10.0.0.1"),
        "IPv6": ipaddress.ip_address("::1"),
        "network": ipaddress.ip_network("10.0.0.0/8"),
        "interface": ipaddress.ip_interface("10.0.0.1/8"),
        "pattern": re.compile("a+(b)?", re.I | re.S),
        "bytes pattern": re.compile(b"x"),
        "OrderedDict": collections.OrderedDict([("z", 1), ("a", 2)]),
        "defaultdict": collections.defaultdict(list, {"a": [1]}),
        "defaultdict without factory": collections.defaultdict(None, {"a": [1]}),
        "Counter": collections.Counter("abca"),
        "deque": collections.deque([1, 2, 3], 5),
        "ChainMap": collections.ChainMap({"a": 1}, {"b": 2}),
        "UserDict": collections.UserDict(a=1),
        "UserList": collections.UserList([1]),
        "UserString": collections.UserString("x"),
        "SimpleNamespace": types.SimpleNamespace(a=1, b=[2]),
        "mappingproxy": types.MappingProxyType({"a": 1}),
        "partial": functools.partial(int, "ff", base=16),
        "struct_time": time.gmtime(0),
        "Random": random.Random(3),
        "array of double": array.array("d", [1.5, -0.0]),
        "array of text": array.array("u", "hé"),
        "long array": array.array("q", range(2000)),
        "memoryview": memoryview(bytearray(5000)),
        "memoryview read-only": memoryview(bytes(5000)),
        "memoryview cast": memoryview(bytearray(64)).cast("d", [2, 4]),
        "memoryview strided": memoryview(bytes(range(100)))[::3],
        "regex flags": re.I | re.M,
        "exception": ValueError("bad", 1),
        "OSError": FileNotFoundError(2, "No such file", "/x"),
        "UnicodeDecodeError": UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        "KeyError": KeyError("k"),
        "StopIteration": StopIteration(5),
        "nested": {"a": [1, (2.5, {"b": {None, "c"}})], "d": datetime.date(2020, 1, 1)},
    }
    values.update(_with_more_than_it_says())
    if sys.version_info >= (3, 9):
        import zoneinfo

        values["ZoneInfo"] = zoneinfo.ZoneInfo("Europe/Berlin")
        values["datetime in a zone"] = datetime.datetime(2024, 7, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Kolkata"))
    for name, value in values.items():
        yield name, lambda value=value: value

    def chained() -> Exception:
        try:
            try:
                raise KeyError("inner")
            except KeyError as exc:
                raise ValueError("outer") from exc
        except ValueError as exc:
            exc.note = [1]  # type: ignore[attr-defined]
            exc.__traceback__ = None
            exc.__cause__.__traceback__ = None  # type: ignore[union-attr]
            return exc

    yield "exception with a cause", chained


def _with_more_than_it_says() -> Dict[str, Any]:
    """Return values with attributes and fields that pickle itself may forget."""

    def noted(made: Any, **fields: Any) -> Any:
        for name, field in fields.items():
            setattr(made, name, field)
        return made

    values: Dict[str, Any] = {
        "ImportError": ImportError("x", name="module", path="/x"),
        "ModuleNotFoundError": ModuleNotFoundError("x", name="module"),
        "OSError, changed": noted(FileNotFoundError(2, "x", "a", None, "b"), filename="c"),
        "StopIteration, changed": noted(StopIteration(1), value=2),
        "SystemExit, changed": noted(SystemExit(1), code=2),
        "SyntaxError": noted(SyntaxError("bad", ("file", 1, 2, "text")), lineno=7),
        "UnicodeDecodeError, changed": noted(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), reason="worse"),
        "exception with attributes": noted(ValueError(1), note=[1], __notes__=["n"]),
        "partial with attributes": noted(functools.partial(int, "3"), note=1),
        "Counter with attributes": noted(collections.Counter("ab"), note=1),
        "ChainMap with attributes": noted(collections.ChainMap({1: 2}), note=1),
        "UserString with attributes": noted(collections.UserString("s"), note=1),
        "OrderedDict with attributes": noted(collections.OrderedDict(a=1), note=1),
    }
    if sys.version_info >= (3, 10):
        for name, run in (("NameError", "missing"), ("AttributeError", "(5).missing"), ("of a module", "math.missing")):
            try:
                eval(run)
            except (NameError, AttributeError) as exc:
                exc.__traceback__ = None
                values[name] = exc
    if sys.version_info >= (3, 11):
        values["ExceptionGroup"] = ExceptionGroup("m", [ValueError(1), ImportError("x", name="n")])  # noqa: F821
    return values


def numpy_cases() -> Iterator[Case]:
    """Yield numpy arrays of every dtype and layout, scalars and the rest."""
    import numpy as np

    base = np.arange(24.0).reshape(2, 3, 4)
    large = np.arange(3000.0)

    def read_only() -> Any:
        array_ = large.copy()
        array_.flags.writeable = False
        return array_

    def drawn(generator: Any) -> Any:
        generator.normal()
        return generator

    def spawned(generator: Any) -> Any:
        generator.bit_generator.seed_seq.spawn(2)
        return generator

    def circular() -> Any:
        array_ = np.empty(2, object)
        array_[:] = [1, None]
        array_[1] = [array_]
        return array_

    kinds = [*"bBhHiIlLqQefdgFDG?", "S5", "U5", "V7", "M8[ns]", "M8[D]", "m8[us]", "M8[25s]", ">i4", ">f8", ">U3"]
    kinds.append(">M8[s]")
    for kind in kinds:
        yield f"dtype {kind}", lambda kind=kind: np.zeros(7, kind)
        yield f"dtype {kind}, large", lambda kind=kind: np.ones(2000, np.dtype(kind).str.replace("V7", "u1"))
    layouts: Dict[str, Callable[[], Any]] = {
        "C order": lambda: base,
        "Fortran order": lambda: np.asfortranarray(base),
        "transposed": lambda: base.transpose(1, 2, 0),
        "strided": lambda: large[::3],
        "reversed": lambda: large[::-1],
        "strided in two axes": lambda: base[:, ::2, ::-1],
        "slice": lambda: large[10:20],
        "large slice": lambda: large[10:2000],
        "read-only": read_only,
        "0-d": lambda: np.array(5.5),
        "empty": lambda: np.zeros((0, 3)),
        "empty, one axis of zero": lambda: np.zeros((3, 0, 2), order="F"),
        "broadcast": lambda: np.broadcast_to(large, (50, 3000)),
        "broadcast scalar": lambda: np.broadcast_to(np.float32(2), (5, 5)),
        "values NaN and -0.0": lambda: np.array([math.nan, -0.0, math.inf] * 100),
        "NaT": lambda: np.array(["NaT", "2020-01-01"], "M8[us]"),
        "trailing zeros in text": lambda: np.array([b"a\x00b", b"c"]),
        "16 axes": lambda: np.zeros([1] * 15 + [3]),
    }
    objects: Dict[str, Callable[[], Any]] = {
        "objects": lambda: np.array([None, "a", 1, 2.5, [3], (4,), {"k": 5}], dtype=object),
        "objects in Fortran order": lambda: np.asfortranarray(np.array([[1, "b", None], [4, 5, 6]], dtype=object)),
        "strided objects": lambda: np.array(list("abcdef"), dtype=object)[::2],
        "circular objects": circular,
        "0-d object": lambda: np.array(None, dtype=object),
        "arrays as objects": lambda: np.array([np.arange(3), None], dtype=object),
        "text as objects": lambda: np.array([f"t{i}" for i in range(3000)], dtype=object),
    }
    overlapping = {"names": ["a", "b"], "formats": ["i4", "f8"], "offsets": [4, 16], "itemsize": 32}
    structured: Dict[str, Callable[[], Any]] = {
        "structured": lambda: np.array([(1, 2.5, "x"), (3, 4.5, "yz")], [("a", "i4"), ("b", ">f8"), ("c", "U5")]),
        "structured, offsets": lambda: np.ones(3, overlapping),
        "structured, aligned": lambda: np.ones(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        "structured, nested": lambda: np.zeros(3, [("p", [("x", "f4"), ("y", "f4", (2, 2))]), ("n", "S3")]),
        "structured, titles": lambda: np.zeros(2, [(("title", "name"), "i4")]),
        "structured with objects": lambda: np.array([(1, [2]), (3, None)], [("a", "i4"), ("o", "O")]),
        "structured with objects, wide": lambda: np.zeros(100, [("o", "O"), ("x", "f8", (10_000,))]),
        "structured with objects, one wide": lambda: np.zeros(1, [("o", "O"), ("s", "U20000")]),
        "structured with objects, repeated": lambda: np.broadcast_to(np.zeros(1, [("o", "O"), ("s", "U99")]), (50,)),
        "structured with objects, padded": lambda: np.zeros(
            9, np.dtype({"names": ["o"], "formats": ["O"], "itemsize": 4000})
        ),
        "record array": lambda: np.rec.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        "matrix": lambda: np.matrix([[1, 2], [3, 4]]),
        "chararray": lambda: np.char.array(["a", "b"]),
        "StringDType": lambda: np.array(["a", "é" * 50, ""], dtype=np.dtypes.StringDType()),
        "StringDType with missing": lambda: np.array(["a", np.nan], dtype=np.dtypes.StringDType(na_object=np.nan)),
        "masked": lambda: np.ma.array([1, 2, 3], mask=[0, 1, 0], fill_value=9),
        "masked, no mask": lambda: np.ma.array([1.0, 2.0]),
        "masked, hard": lambda: np.ma.array([1.0, 2.0], mask=[1, 0], hard_mask=True),
        "masked, structured": lambda: np.ma.array([(1, 2.0)], mask=[(0, 1)], dtype=[("a", "i4"), ("b", "f8")]),
        "masked constant": lambda: np.ma.masked,
    }
    scalars: Dict[str, Callable[[], Any]] = {
        "scalar float32": lambda: np.float32(1.1),
        "scalar bool": lambda: np.bool_(True),
        "scalar int8": lambda: np.int8(-5),
        "scalar longdouble": lambda: np.longdouble("1.1"),
        "scalar text": lambda: np.str_("a\x00"),
        "scalar bytes": lambda: np.bytes_(b"a\x00"),
        "scalar datetime": lambda: np.datetime64("2020-01-01T00:00", "25m"),
        "scalar NaT": lambda: np.timedelta64("NaT", "D"),
        "scalar record": lambda: np.array([(1, 2.5)], "i4,f8")[0],
        "scalar record with object": lambda: np.array([(1, "x")], [("a", "i4"), ("o", "O")])[0],
    }
    others: Dict[str, Callable[[], Any]] = {
        "dtypes": lambda: [np.dtype(x) for x in ("i4", ">f8", "M8[ns]", "U3", "O", [("a", "i4", (2,))])],
        "dtype metadata": lambda: np.dtype("i4", metadata={"k": 1}),
        "array with dtype metadata": lambda: np.zeros(3, np.dtype("i4", metadata={"k": [1]})),
        "scalar types": lambda: [np.float64, np.int8, np.str_, np.datetime64, np.integer],
        "bfloat16 of ml_dtypes": lambda: np.arange(2000).astype(__import__("ml_dtypes").bfloat16),
        "int4 of ml_dtypes": lambda: np.arange(7).astype(__import__("ml_dtypes").int4),
        "dtype of ml_dtypes": lambda: np.dtype(__import__("ml_dtypes").float8_e5m2),
        "Generator": lambda: np.random.default_rng(3),
        "Generator on MT19937": lambda: np.random.Generator(np.random.MT19937(1)),
        "RandomState": lambda: np.random.RandomState(3),
        "RandomState with a normal in store": lambda: drawn(np.random.RandomState(3)),
        "Generator with children": lambda: spawned(np.random.default_rng(3)),
        "Generator on Philox": lambda: drawn(np.random.Generator(np.random.Philox(3))),
        "Generator on SFC64": lambda: drawn(np.random.Generator(np.random.SFC64(3))),
        "bit generator": lambda: np.random.PCG64([1, 2, 3]),
        "seed sequence": lambda: np.random.SeedSequence(2**100, spawn_key=(1, 2), pool_size=8),
        "generators on one bit generator": lambda: [np.random.Generator(shared) for shared in [np.random.PCG64(1)] * 2],
    }
    for group in (layouts, objects, structured, scalars, others):
        yield from group.items()


def pandas_cases() -> Iterator[Case]:
    """Yield pandas frames, series, indexes, arrays and scalars of every extension type."""
    import numpy as np
    import pandas as pd

    arrays: Dict[str, Callable[[], Any]] = {
        "category": lambda: pd.Categorical(["b", "a", None], categories=["b", "a", "z"], ordered=True),
        "category of int": lambda: pd.Categorical([1, 2, 1]),
        "Int64": lambda: pd.array([1, None, 3], dtype="Int64"),
        "UInt8": lambda: pd.array([1, None, 3], dtype="UInt8"),
        "Float32": lambda: pd.array([1.5, None], dtype="Float32"),
        "boolean": lambda: pd.array([True, None, False], dtype="boolean"),
        "string": lambda: pd.array(["a", None, "é"], dtype="string"),
        "string[python]": lambda: pd.array(["a", None], dtype=pd.StringDtype("python")),
        "string[pyarrow]": lambda: pd.array(["a", None], dtype=pd.StringDtype("pyarrow")),
        "str": lambda: pd.array(["a", np.nan], dtype=pd.StringDtype(na_value=np.nan)),
        "str[python]": lambda: pd.array(["a", np.nan], dtype=pd.StringDtype("python", na_value=np.nan)),
        "int64[pyarrow]": lambda: pd.array([1, None], dtype="int64[pyarrow]"),
        "list[pyarrow]": lambda: pd.array([[1], None], dtype=pd.ArrowDtype(_pa().list_(_pa().int64()))),
        "timestamp[pyarrow]": lambda: pd.array(
            [pd.Timestamp("2020"), None], dtype=pd.ArrowDtype(_pa().timestamp("us", "UTC"))
        ),
        "datetime": lambda: pd.date_range("2020", periods=3, freq="D").array,
        "datetime with zone": lambda: pd.date_range("2020", periods=3, tz="Europe/Berlin").array,
        "datetime UTC": lambda: pd.date_range("2020", periods=3, tz="UTC").array,
        "timedelta": lambda: pd.timedelta_range("1D", periods=3).array,
        "period": lambda: pd.period_range("2020-01", periods=3, freq="M").array,
        "interval": lambda: pd.arrays.IntervalArray.from_breaks([0.0, 1.0, 2.0], closed="left"),
        "sparse": lambda: pd.arrays.SparseArray([0.0, 0.0, 1.5], fill_value=0.0),
        "sparse of int, blocks": lambda: pd.arrays.SparseArray([0, 0, 1, 1], kind="block"),
        "numpy": lambda: pd.array(np.arange(3), dtype=np.dtype("int64")),
    }
    for name, make_array in arrays.items():
        yield f"array {name}", make_array
        yield f"dtype {name}", lambda make_array=make_array: make_array().dtype
        yield f"series {name}", lambda make_array=make_array: pd.Series(make_array(), name=("a", 1))
        yield f"column {name}", lambda make_array=make_array: pd.DataFrame({"x": make_array(), "y": make_array()})
        if name.startswith("sparse") and not hasattr(pd.DataFrame, "flags"):
            continue  # before 1.2 it is no index that pandas itself could make again
        yield f"index {name}", lambda make_array=make_array: pd.Index(make_array(), name="n")
    product = [["a", "b"], [1, 2], pd.date_range("2020", periods=2)]
    indexes: Dict[str, Callable[[], Any]] = {
        "RangeIndex": lambda: pd.RangeIndex(3, 30, 4, name="r"),
        "Index int64": lambda: pd.Index([3, 1, 2], name="i"),
        "Index uint8": lambda: pd.Index([3, 1, 2], dtype="uint8"),
        "Index float": lambda: pd.Index([1.5, np.nan]),
        "Index bool": lambda: pd.Index([True, False]),
        "Index object": lambda: pd.Index(["a", None, 1], dtype=object),
        "Index text": lambda: pd.Index(["a", "b"], name=("t", 1)),
        "Index complex": lambda: pd.Index([1j, 2]),
        "DatetimeIndex with freq": lambda: pd.date_range("2020", periods=5, freq="2D", name="d"),
        "DatetimeIndex with business freq": lambda: pd.bdate_range("2020", periods=5),
        "DatetimeIndex with zone": lambda: pd.date_range("2020", periods=5, tz="America/New_York"),
        "DatetimeIndex in ms": lambda: pd.DatetimeIndex(np.array([1, 2], "M8[ms]")),
        "TimedeltaIndex": lambda: pd.timedelta_range("1h", periods=3, freq="5min"),
        "PeriodIndex": lambda: pd.period_range("2020", periods=3, freq="W-WED"),
        "IntervalIndex": lambda: pd.interval_range(pd.Timestamp("2020"), periods=2, freq="D"),
        "CategoricalIndex": lambda: pd.CategoricalIndex(["a", "b", "a"], name="c"),
        "MultiIndex": lambda: pd.MultiIndex.from_product(product, names=["x", None, "z"]),
        "MultiIndex with missing": lambda: pd.MultiIndex.from_arrays([["a", None], [1, 2]]),
        "MultiIndex, unused levels": lambda: pd.MultiIndex.from_product(product)[2:3],
        "MultiIndex with categories": lambda: pd.MultiIndex.from_arrays([pd.Categorical(["a", "b"]), [1.5, 2.5]]),
        "empty Index": lambda: pd.Index([]),
    }
    yield from indexes.items()
    for name, make_index in indexes.items():
        yield f"series by {name}", lambda make_index=make_index: pd.Series(range(len(make_index())), make_index())
        yield (
            f"frame with columns {name}",
            lambda make_index=make_index: pd.DataFrame(np.ones((2, len(make_index()))), columns=make_index()),
        )

    def mixed() -> Any:
        frame = pd.DataFrame(
            {
                "i": np.arange(5, dtype="int16"),
                "f": [1.5, np.nan, -0.0, 4, 5],
                "o": [None, "a", 1, [2], {"k": 3}],
                "t": ["x", "y", "z", "x", None],
                "d": pd.to_datetime(["2020", None, "2021", "2022", "2023"]),
                "b": [True, False, True, True, False],
                "c": pd.Categorical(list("abcab")),
            },
            index=list("vwxyz"),
        )
        frame.attrs["source"] = {"url": "x", "n": [1]}
        return frame

    def flagged() -> Any:
        return pd.DataFrame({"a": [1, 2]}).set_flags(allows_duplicate_labels=False)

    def with_attrs() -> Any:
        series = pd.Series([1, 2], name="s")
        series.attrs["unit"] = "m"
        return series

    def many_blocks() -> Any:
        frame = pd.DataFrame({"a": np.arange(1000.0)})
        for position in range(5):
            frame[f"x{position}"] = np.arange(1000.0) + position
        return frame

    wide = pd.DataFrame(np.arange(12000.0).reshape(3000, 4), columns=list("abcd"))
    frames: Dict[str, Callable[[], Any]] = {
        "frame, mixed": mixed,
        "frame, transposed": lambda: wide.T,
        "frame, slice of rows": lambda: wide.iloc[10:2000],
        "frame, every third row": lambda: wide.iloc[::3],
        "frame, some columns": lambda: wide[["d", "a"]],
        "frame, many blocks": many_blocks,
        "frame, duplicate columns": lambda: pd.DataFrame([[1, "a", 2.5]], columns=["x", "x", "y"]),
        "frame, no columns": lambda: pd.DataFrame(index=[1, 2, 3]),
        "frame, no rows": lambda: pd.DataFrame({"a": pd.Series([], dtype="int8"), "b": pd.Series([], dtype="O")}),
        "frame, empty": lambda: pd.DataFrame(),
        "frame, flags": flagged,
        "frame, two column levels": lambda: pd.DataFrame(
            np.ones((2, 4)), columns=pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["u", "v"])
        ),
        "frame, names on axes": lambda: pd.DataFrame({"a": [1]}).rename_axis("i").rename_axis("c", axis=1),
        "frame, big-endian": lambda: pd.DataFrame({"a": np.arange(3, dtype=">i4")}),
        "frame, float16": lambda: pd.DataFrame({"a": np.arange(3, dtype="f2")}),
        "frame, complex": lambda: pd.DataFrame({"a": [1j, 2]}),
        "frame, column labels of kinds": lambda: pd.DataFrame([[1, 2, 3]], columns=[1, "b", (2, 3)]),
        "frame of frames": lambda: pd.DataFrame({"a": pd.Series([wide, None], dtype=object)}),
        "series, attrs": with_attrs,
        "series, object": lambda: pd.Series([1, "a", None, (2,)], dtype=object),
        "series, read-only": lambda: pd.Series(np.broadcast_to(np.float64(1), 5000)),
    }
    yield from frames.items()
    scalars: Dict[str, Callable[[], Any]] = {
        "Timestamp": lambda: pd.Timestamp("2020-01-01 01:02:03.000000004"),
        "Timestamp with zone": lambda: pd.Timestamp("2020", tz="Europe/Berlin"),
        "Timestamp, fold": lambda: pd.Timestamp(1572139800000000000, tz="Europe/Berlin"),
        "Timestamp in s": lambda: pd.Timestamp("2020").as_unit("s"),
        "Timedelta": lambda: pd.Timedelta("1 days 00:00:00.000000005"),
        "Period": lambda: pd.Period("2020Q1", "Q-FEB"),
        "Interval": lambda: pd.Interval(pd.Timestamp("2020"), pd.Timestamp("2021"), "both"),
        "NaT": lambda: pd.NaT,
        "NA": lambda: pd.NA,
        "missing in a list": lambda: [pd.NA, pd.NaT, np.nan, None],
        "DateOffset": lambda: pd.DateOffset(months=2, weekday=3, hour=5),
        "offsets": lambda: [
            *[pd.offsets.Day(2), pd.offsets.Hour(), pd.offsets.MonthEnd(3, normalize=True), pd.offsets.BDay()],
            *[pd.offsets.Week(weekday=2), pd.offsets.QuarterEnd(startingMonth=2), pd.offsets.Easter()],
            *[pd.offsets.CustomBusinessDay(holidays=["2020-01-01"]), pd.offsets.BusinessHour(start="09:30")],
            *[pd.offsets.FY5253(weekday=1, startingMonth=2), pd.offsets.SemiMonthEnd(), pd.offsets.YearBegin()],
        ],
        "classes": lambda: [pd.DataFrame, pd.Timestamp],
    }
    yield from scalars.items()


def _pa() -> Any:
    import pyarrow as pa

    return pa


def pyarrow_cases() -> Iterator[Case]:
    """Yield Arrow arrays of every type, whole and sliced, and what contains them."""
    arrays = _pyarrow_arrays()
    pa = _pa()
    for name, make_array in arrays.items():
        yield name, make_array
        yield f"{name}, sliced", lambda make_array=make_array: make_array()[1:-1]
        yield f"{name}, sliced at 8", lambda make_array=make_array: make_array().slice(8, 5)
        yield f"{name}, empty", lambda make_array=make_array: make_array().slice(0, 0)
        yield f"{name}, type", lambda make_array=make_array: make_array().type
        yield f"{name}, scalars", lambda make_array=make_array: [make_array()[0], make_array()[2]]
        yield (
            f"{name}, chunked",
            lambda make_array=make_array: pa.chunked_array([make_array(), make_array().slice(2)]),
        )
        yield (
            f"{name}, table",
            lambda make_array=make_array: pa.table({"x": make_array()}).replace_schema_metadata({"k": "v"}),
        )
        yield (
            f"{name}, batch",
            lambda make_array=make_array: pa.RecordBatch.from_arrays([make_array()], ["x"]).slice(1, 4),
        )
    field = lambda: pa.field("a", pa.list_(pa.field("e", pa.int8(), False)), False, {"m": "n"})  # noqa: E731
    others: Dict[str, Callable[[], Any]] = {
        "field": field,
        "schema": lambda: pa.schema([field(), pa.field("b", pa.string())], {"k": "v"}),
        "metadata": lambda: pa.schema([field()], {"k": "v"}),
        "rows without columns": lambda: pa.table({"a": [1, 2]}).select([]),
        "batch without columns": lambda: pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([]))),
        "chunks, none": lambda: pa.chunked_array([], pa.int8()),
        "buffer": lambda: pa.py_buffer(bytes(5000)),
        "tensor": lambda: pa.Tensor.from_numpy(__import__("numpy").arange(6.0).reshape(2, 3), ["x", "y"]),
        "table, duplicate names": lambda: pa.Table.from_arrays([pa.array([1]), pa.array(["a"])], ["x", "x"]),
        "interval scalar": lambda: pa.MonthDayNano([1, 2, 3]),
    }
    yield from others.items()


def _pyarrow_arrays() -> Dict[str, Callable[[], Any]]:
    pa = _pa()
    count = 50

    def of(dtype: Callable[[], Any], value: Callable[[int], Any], step: int = 7) -> Callable[[], Any]:
        return lambda: pa.array([None if step and i % step == 3 else value(i) for i in range(count)], dtype())

    found: Dict[str, Callable[[], Any]] = {"null": lambda: pa.nulls(count)}
    for name in ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]:
        found[name] = of(getattr(pa, name), lambda i: i)
        found[f"{name}, no nulls"] = of(getattr(pa, name), lambda i: i, 0)
    for name in ("float32", "float64"):
        found[name] = of(getattr(pa, name), lambda i: i / 3)
    found["float16"] = lambda: pa.array(__import__("numpy").arange(count, dtype="f2"))
    found["bool"] = of(pa.bool_, lambda i: i % 2 == 0)
    for name in ("string", "large_string", "string_view"):
        found[name] = lambda name=name: of(_storable(name), lambda i: "é" * (i % 30))()
    for name in ("binary", "large_binary", "binary_view"):
        found[name] = lambda name=name: of(_storable(name), lambda i: b"\xff" * (i % 30))()
    found["fixed_size_binary"] = of(lambda: pa.binary(3), lambda i: b"%03d" % i)
    for name in ("decimal32", "decimal64", "decimal128", "decimal256"):
        found[name] = lambda name=name: of(lambda: getattr(pa, name)(7, 2), lambda i: decimal.Decimal(i) / 4)()
    for unit in ("s", "ms", "us", "ns"):
        found[f"timestamp[{unit}]"] = lambda unit=unit: pa.array([*range(count - 1), None], pa.int64()).cast(
            pa.timestamp(unit, "Europe/Berlin" if unit == "us" else None)
        )
        found[f"duration[{unit}]"] = lambda unit=unit: pa.array([*range(count)], pa.int64()).cast(pa.duration(unit))
    found["date32"] = of(pa.date32, lambda i: datetime.date(2020, 1, 1 + i % 28))
    found["date64"] = of(pa.date64, lambda i: datetime.date(2020, 1, 1 + i % 28))
    found["time32"] = of(lambda: pa.time32("ms"), lambda i: datetime.time(i % 24))
    found["time64"] = of(lambda: pa.time64("ns"), lambda i: datetime.time(i % 24))
    found["month_day_nano"] = lambda: of(pa.month_day_nano_interval, lambda i: (i, 2, 3))()
    found["list"] = of(lambda: pa.list_(pa.int64()), lambda i: list(range(i % 4)))
    found["large_list"] = of(lambda: pa.large_list(pa.string()), lambda i: ["x"] * (i % 4))
    found["fixed_size_list"] = of(lambda: pa.list_(pa.int32(), 2), lambda i: [i, None])
    found["list_view"] = lambda: of(lambda: pa.list_view(pa.int64()), lambda i: list(range(i % 4)))()
    found["large_list_view"] = lambda: of(lambda: pa.large_list_view(pa.string()), lambda i: ["y"] * (i % 4))()
    found["struct"] = of(
        lambda: pa.struct([("a", pa.int8()), ("b", pa.string())]), lambda i: {"a": i, "b": None if i % 2 else "x"}
    )
    found["map"] = of(lambda: pa.map_(pa.string(), pa.int64()), lambda i: [(str(j), j) for j in range(i % 3)])
    found["nested"] = of(
        lambda: pa.list_(pa.struct([("a", pa.list_(pa.string()))])), lambda i: [{"a": ["x"] * (i % 3)}, None]
    )
    found["dictionary"] = lambda: pa.array(["a", None, "b", "a"] * 15).dictionary_encode()
    found["dictionary, ordered"] = lambda: pa.DictionaryArray.from_arrays(
        pa.array([0, 1, None, 0] * 10, pa.int8()), pa.array(["x", "y"]), ordered=True
    )
    found["dictionary in a list"] = lambda: pa.ListArray.from_arrays(
        list(range(0, 61, 2)), pa.array(["a", None, "b"] * 20).dictionary_encode()
    )
    found["sparse union"] = lambda: pa.UnionArray.from_sparse(
        pa.array([0, 1] * 20, pa.int8()), [pa.array(range(40)), pa.array(["a", None] * 20)], ["i", "s"], [0, 1]
    )
    found["dense union"] = lambda: pa.UnionArray.from_dense(
        pa.array([0, 1] * 20, pa.int8()),
        pa.array([j for i in range(20) for j in (i, i)], pa.int32()),
        [pa.array(range(20)), pa.array(["a", None] * 10)],
    )
    found["run_end_encoded"] = lambda: pa.RunEndEncodedArray.from_arrays(
        pa.array(range(3, 63, 3), pa.int32()), pa.array(["a", None] * 10)
    )
    found["uuid"] = lambda: pa.array([b"a" * 16, None] * 10, pa.uuid())
    found["json"] = lambda: pa.ExtensionArray.from_storage(pa.json_(pa.string()), pa.array(["{}", None] * 10))
    found["bool8"] = lambda: pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None] * 10, pa.int8()))
    found["opaque"] = lambda: pa.ExtensionArray.from_storage(
        pa.opaque(pa.int64(), "type", "vendor"), pa.array(range(20))
    )
    found["fixed_shape_tensor"] = lambda: pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2, 2], dim_names=["x", "y"], permutation=[1, 0]),
        pa.array([[i, 2, 3, 4] for i in range(20)], pa.list_(pa.int32(), 4)),
    )
    found["extension in a struct"] = lambda: pa.StructArray.from_arrays([found["uuid"]()], ["u"])
    found["period of pandas"] = lambda: pa.array(__import__("pandas").period_range("2020", periods=20, freq="M"))
    return found


def _storable(name: str) -> Callable[[], Any]:
    """Return the constructor of an Arrow type, unless this pyarrow can make views but not take them apart."""
    constructor = getattr(_pa(), name)
    if name.endswith("_view") and not hasattr(constructor(), "has_variadic_buffers"):
        raise NotImplementedError(name)
    return constructor


def polars_cases() -> Iterator[Case]:
    """Yield polars series of every type, sliced and chunked, frames and lazy frames."""
    import polars as pl

    day = datetime.date(2020, 1, 1)
    series: Dict[str, Callable[[], Any]] = {
        "Int64": lambda: pl.Series("x", [1, None, 3]),
        "UInt8": lambda: pl.Series("x", [1, None, 3], dtype=pl.UInt8),
        "Int128": lambda: pl.Series("x", [2**100, None], dtype=pl.Int128),
        "UInt128": lambda: pl.Series("x", [2**100, None], dtype=pl.UInt128),
        "Float32": lambda: pl.Series("x", [1.5, None, float("nan")], dtype=pl.Float32),
        "Float16": lambda: pl.Series("x", [1.5, None], dtype=pl.Float16),
        "Boolean": lambda: pl.Series("x", [True, None, False]),
        "String": lambda: pl.Series("x", ["a", None, "é" * 50]),
        "Binary": lambda: pl.Series("x", [b"a", None, b"c" * 50]),
        "Categorical": lambda: pl.Series("x", ["b", "a", None, "b"], dtype=pl.Categorical),
        "Enum": lambda: pl.Series("x", ["a", None], dtype=pl.Enum(["z", "a"])),
        "Date": lambda: pl.Series("x", [day, None]),
        "Datetime": lambda: pl.Series("x", [datetime.datetime(2020, 1, 1), None]).dt.cast_time_unit("ms"),
        "Datetime with zone": lambda: pl.Series("x", [day], dtype=pl.Datetime("ms")).dt.replace_time_zone("Asia/Tokyo"),
        "Time": lambda: pl.Series("x", [datetime.time(1, 2), None]),
        "Duration": lambda: pl.Series("x", [datetime.timedelta(1), None]),
        "Decimal": lambda: pl.Series("x", [decimal.Decimal("1.25"), None]),
        "Decimal with precision": lambda: pl.Series("x", [decimal.Decimal("1.25")], dtype=pl.Decimal(10, 3)),
        "List": lambda: pl.Series("x", [[1], None, []]),
        "Array": lambda: pl.Series("x", [[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
        "Struct": lambda: pl.Series("x", [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
        "nested": lambda: pl.Series("x", [[{"a": ["p"]}], None]),
        "Null": lambda: pl.Series("x", [None, None]),
        "Object": lambda: pl.Series("x", [{1}, None, "a"], dtype=pl.Object),
        "sorted": lambda: pl.Series("x", [3, 1, 2]).sort(descending=True),
        "empty": lambda: pl.Series("x", [], dtype=pl.String),
        "no name": lambda: pl.Series([1, 2]),
    }
    for name, make_series in series.items():
        yield f"series {name}", make_series
        yield f"frame {name}", lambda make_series=make_series: pl.DataFrame({"p": make_series(), "q": make_series()})
        yield f"series {name}, sliced", lambda make_series=make_series: make_series().slice(1, 2)
        if name != "Object":
            yield (
                f"series {name}, chunks",
                lambda make_series=make_series: pl.concat([make_series(), make_series()], rechunk=False),
            )
    frame = lambda: pl.DataFrame({"a": [3, 1, 2], "b": ["x", None, "z"]})  # noqa: E731
    others: Dict[str, Callable[[], Any]] = {
        "frame": frame,
        "frame, empty": lambda: pl.DataFrame(),
        "frame, sorted column": lambda: frame().sort("a"),
        "lazy frame": lambda: frame().lazy(),
        "types": lambda: [pl.Int8, pl.Datetime("us", "UTC"), pl.List(pl.Int8), pl.Struct({"a": pl.String})],
    }
    yield from others.items()


def scipy_cases() -> Iterator[Case]:
    """Yield sparse matrices and arrays of every format."""
    import numpy as np
    import scipy.sparse as sp

    dense = np.zeros((40, 30))
    dense[::3, ::5] = 1.5
    for form in ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"]:
        for kind in ("matrix", "array"):
            yield f"{form}_{kind}", lambda form=form, kind=kind: getattr(sp, f"{form}_{kind}")(dense)
    yield "csr of int8, empty", lambda: sp.csr_matrix((3, 4), dtype="int8")


def xarray_cases() -> Iterator[Case]:
    """Yield xarray objects with indexes of several kinds."""
    import numpy as np
    import pandas as pd
    import xarray as xr

    def data() -> Any:
        coords = {"x": [10, 20], "y": ["a", "b", "c"], "z": ("x", [1.0, 2.0]), "s": 5}
        return xr.DataArray(np.arange(6.0).reshape(2, 3), coords, ("x", "y"), name="n", attrs={"u": "m"})

    def dataset() -> Any:
        found = xr.Dataset({"a": data(), "b": ("x", np.array([1, 2]))}, attrs={"t": [1]})
        found["b"].encoding["dtype"] = "f4"
        found.encoding["unlimited_dims"] = {"x"}
        return found

    cases: Dict[str, Callable[[], Any]] = {
        "DataArray": data,
        "Dataset": dataset,
        "Variable": lambda: data().variable,
        "IndexVariable": lambda: data()["x"].variable,
        "MultiIndex": lambda: xr.DataArray(
            np.arange(4), {"i": pd.MultiIndex.from_product([[1, 2], ["p", "q"]], names=["k", "l"])}, ["i"]
        ),
        "time": lambda: xr.DataArray(np.arange(3), {"t": pd.date_range("2020", periods=3)}, ["t"]),
        "scalar": lambda: xr.DataArray(5),
        "slice": lambda: data().isel(y=slice(1, 3)),
        "DataTree": lambda: xr.DataTree.from_dict({"/": dataset(), "/child": dataset()[["b"]]}),
    }
    yield from cases.items()


def torch_cases() -> Iterator[Case]:
    """Yield tensors of every layout in main memory."""
    import torch

    def with_gradient() -> Any:
        parameter = torch.nn.Parameter(torch.rand(5))
        (parameter * 2).sum().backward()
        return parameter

    def with_attribute() -> Any:
        tensor = torch.rand(5)
        tensor.note = [1]
        return tensor

    cases: Dict[str, Callable[[], Any]] = {
        "float32": lambda: torch.rand(100, 100),
        "int64": lambda: torch.arange(5),
        "bool": lambda: torch.tensor([True, False]),
        "bfloat16": lambda: torch.rand(5000).to(torch.bfloat16),
        "complex64": lambda: torch.rand(50, dtype=torch.complex64).conj(),
        "transposed": lambda: torch.rand(60, 80).T,
        "strided": lambda: torch.rand(1000)[::2],
        "one column": lambda: torch.rand(1000, 50)[:, 3],
        "expanded": lambda: torch.rand(1, 5).expand(1000, 5),
        "0-d": lambda: torch.tensor(3.0),
        "empty": lambda: torch.zeros(0, 3),
        "requires_grad": lambda: torch.rand(3, requires_grad=True),
        "Parameter": with_gradient,
        "attribute": with_attribute,
        "others": lambda: [torch.float32, torch.Size([1, 2]), torch.device("cpu")],
    }
    yield from cases.items()


def dates_cases() -> Iterator[Case]:
    """Yield dates, zones and durations of packages that come with pandas and Airflow."""
    when = datetime.datetime(2024, 7, 1, 12)

    def pytz_zone(name: str) -> Any:
        return __import__("pytz").timezone(name)

    def tz() -> Any:
        return __import__("dateutil.tz").tz

    def relative() -> Any:
        return __import__("dateutil.relativedelta").relativedelta

    def pendulum() -> Any:
        return __import__("pendulum")

    def zone_from_file() -> Any:
        with open("/usr/share/zoneinfo/Asia/Tokyo", "rb") as file:
            return pendulum().tz.timezone.Timezone.from_file(file)

    cases: Dict[str, Callable[[], Any]] = {
        "pytz UTC": lambda: pytz_zone("UTC"),
        "pytz zone": lambda: pytz_zone("Europe/Berlin"),
        "pytz fixed": lambda: __import__("pytz").FixedOffset(90),
        "pytz date": lambda: pytz_zone("Europe/Berlin").localize(when),
        "dateutil utc": lambda: when.replace(tzinfo=tz().tzutc()),
        "dateutil offset": lambda: tz().tzoffset("X", 3600),
        "dateutil local": lambda: tz().tzlocal(),
        "dateutil zone": lambda: when.replace(tzinfo=tz().gettz("Europe/Berlin")),
        "relativedelta": lambda: relative().relativedelta(months=2, hour=5, weekday=relative().MO(2)),
        "relativedelta, weekday": lambda: relative().relativedelta(weekday=relative().FR),
        "pendulum DateTime": lambda: pendulum().datetime(2024, 10, 27, 2, 30, tz="Europe/Berlin"),
        "pendulum DateTime, no zone": lambda: pendulum().naive(2024, 1, 1),
        "pendulum Date": lambda: pendulum().date(2024, 2, 29),
        "pendulum Time": lambda: pendulum().time(1, 2, 3, 4),
        "pendulum Duration": lambda: pendulum().duration(years=1, months=2, days=-3, seconds=4.5),
        "pendulum Interval": lambda: pendulum().datetime(2024, 1, 1) - pendulum().datetime(2023, 1, 1),
        "pendulum zone": lambda: pendulum().timezone("Asia/Tokyo"),
        "pendulum zone from a file": lambda: zone_from_file(),
        "pendulum DateTime in a zone from a file": lambda: pendulum().datetime(2024, 1, 1, tz=zone_from_file()),
        "pendulum fixed zone": lambda: pendulum().datetime(2024, 1, 1, tz=3),
    }
    yield from cases.items()


LIBRARIES: Dict[str, Callable[[], Iterator[Case]]] = {
    "python": python_cases,
    "numpy": numpy_cases,
    "pandas": pandas_cases,
    "pyarrow": pyarrow_cases,
    "polars": polars_cases,
    "scipy": scipy_cases,
    "xarray": xarray_cases,
    "torch": torch_cases,
    "dates": dates_cases,
}


def cases(library: str) -> List[Case]:
    """Return the cases of a library that is installed, or an empty list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old releases import what was deprecated since
        try:
            return list(LIBRARIES[library]())
        except ImportError:
            return []
