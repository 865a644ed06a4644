"""One line about a value: what kind, how large, which columns; never its content, never longer than 300 characters."""

from __future__ import annotations

import collections
import datetime

import pytest

from vineyard_client._codec.summary import LIMIT, describe, type_name

PLAIN = [
    (None, "builtins.NoneType", "NoneType"),
    (True, "builtins.bool", "bool"),
    (5, "builtins.int", "int"),
    ("héllo", "builtins.str", "str of 5 characters"),
    ("x", "builtins.str", "str of 1 character"),
    (b"secret", "builtins.bytes", "bytes of 6 bytes"),
    (memoryview(bytes(8)).cast("d"), "builtins.memoryview", "memoryview of 8 bytes"),
    ({"password": "p", "b": 1}, "builtins.dict", "dict of 2 items: str, int"),
    ([1, 2, "a"], "builtins.list", "list of 3 items: int, str"),
    ([1, "a", 2.5, None, b"x"], "builtins.list", "list of 5 items: int, str, float, NoneType, …"),
    ((), "builtins.tuple", "tuple of 0 items"),
    ({1}, "builtins.set", "set of 1 item: int"),
    (collections.Counter("aab"), "collections.Counter", "Counter of 2 items: int"),
    (datetime.date(2020, 1, 1), "datetime.date", "datetime.date"),
    (collections.deque([1]), "collections.deque", "collections.deque of 1 item"),
    (ValueError("secret"), "builtins.ValueError", "builtins.ValueError"),
    (int, "builtins.type", "class"),
]


@pytest.mark.parametrize(("value", "name", "summary"), PLAIN)
def test_plain_values(value, name, summary):
    assert (type_name(value), describe(value)) == (name, summary)


def test_arrays():
    np = pytest.importorskip("numpy")
    assert type_name(np.zeros(3)) == "numpy.ndarray"
    assert describe(np.zeros((3, 4), "f4")) == "numpy.ndarray float32 3 × 4"
    assert describe(np.array(5)) == "numpy.ndarray int64 scalar"


def test_frames():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(
        {"year": [1], "name": pd.Series(["secret"], dtype=object), "t": pd.to_datetime(["2020"], utc=True)}
    )
    text = describe(frame)
    assert type_name(frame) == "pandas.DataFrame" and type_name(pd.Series([1])) == "pandas.Series"
    assert text.startswith("1 row × 3 columns: year int64, name object, t datetime64[")
    assert "secret" not in text
    wide = pd.DataFrame([[1] * 1000], columns=[f"column{i}" for i in range(1000)])
    assert describe(wide).startswith("1 row × 1000 columns: column0 int64, column1 int64")
    assert describe(wide).endswith("…, column999 int64")
    assert describe(pd.Series([1, 2], name="s")) == "pandas.Series int64 of 2 items"
    assert describe(pd.DataFrame()) == "0 rows × 0 columns"
    long = pd.DataFrame([[1] * 40], columns=["c" * 100 + str(i) for i in range(40)])
    assert len(describe(long)) <= LIMIT


def test_tables():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": [1, 2], "b": ["secret", "y"]})
    assert type_name(table) == "pyarrow.Table"
    assert describe(table) == "2 rows × 2 columns: a int64, b string"
    assert describe(table.column("a")) == "pyarrow.ChunkedArray of 2 items"


def test_polars():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": [1, 2], "b": ["secret", "y"]})
    assert type_name(frame) == "polars.DataFrame"
    assert describe(frame) == "2 rows × 2 columns: a Int64, b String"
    assert "Int64" in describe(frame["a"]) and "LazyFrame" in describe(frame.lazy())


def test_datasets():
    xr = pytest.importorskip("xarray")
    assert "Dataset" in describe(xr.Dataset({"a": 1})) and "DataArray" in describe(xr.DataArray([1]))


class Hostile:
    """Fails whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError("no")

    def __len__(self):
        raise RuntimeError("no")


def test_a_summary_never_fails():
    assert "Hostile" in describe(Hostile()) and "RuntimeError" in describe(Hostile())


@pytest.mark.parametrize("value", [dict.fromkeys(range(10_000)), "x" * 10**6, [object()] * 10], ids=str.__class__)
def test_a_summary_is_short(value):
    assert len(describe(value)) <= LIMIT
