"""Whatever can be put on one host comes out on another as it was: same type, same value."""

from __future__ import annotations

import collections
import datetime
import decimal
from typing import Any, Callable, Dict

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from vineyard_testing.cluster import Trio

import vineyard_client as vc


def frame() -> pd.DataFrame:
    hours = pd.date_range("2013-01-01", periods=30_000, freq="h", tz="America/New_York")
    table = pd.DataFrame(
        {
            "carrier": pd.Categorical(["UA", "AA", None] * 10_000, categories=["AA", "B6", "UA"], ordered=True),
            "tail": [f"N{i}" if i % 7 else None for i in range(30_000)],
            "delay": pd.array([1, None, 3] * 10_000, dtype="Int32"),
            "hour": hours,
            "distance": np.arange(30_000) / 7,
        }
    )
    table.attrs["source"] = "nycflights13"
    return table.set_index(["hour", "carrier"])


def linked() -> Any:
    """A list that holds itself and one array twice."""
    array = np.arange(50_000)
    value: Any = [array, {"again": array}]
    value.append(value)
    return value


VALUES: Dict[str, Callable[[], Any]] = {
    "frame with strings, categories, missing values and time zones": frame,
    "empty frame": lambda: pd.DataFrame({"a": pd.Series([], dtype="datetime64[ns]"), "b": pd.Series([], dtype=str)}),
    "series": lambda: pd.Series(np.arange(10.0), name="s", index=pd.period_range("2020-01", periods=10, freq="M")),
    "array": lambda: np.arange(1_000_000, dtype=">i4").reshape(1000, 1000),
    "array, Fortran order": lambda: np.asfortranarray(np.random.default_rng(1).random((300, 400))),
    "array of no dimension": lambda: np.array(2.5),
    "empty array": lambda: np.empty((0, 3), dtype="f4"),
    "structured array": lambda: np.array([(1, "x"), (2, "y")], dtype=[("n", "<i8"), ("s", "U4")]),
    "table": lambda: pa.table(
        {"n": list(range(50_000)), "s": [f"text {i}" for i in range(50_000)], "l": [[i] for i in range(50_000)]}
    ),
    "nested": lambda: {"list": [1, 2.5, None, True], "tuple": (1, (2,)), "set": {3}, "when": datetime.date(2013, 1, 1)},
    "linked": linked,
    "small": lambda: 17,
    "none": lambda: None,
    "large number": lambda: 2**70,
    "decimal": lambda: decimal.Decimal("1.10"),
    "counter": lambda: collections.Counter("vineyard"),
    "text of 1 KB": lambda: "ü" * 500,
    "text of 300 KB": lambda: "ü" * 150_000,
    "pickle of 600 KB": lambda: [str(i) for i in range(60_000)],
    "bytes of 3 MB": lambda: bytes(range(256)) * 12_000,
    "bytearray": lambda: bytearray(b"abc" * 50_000),
}


def assert_same(got: Any, expected: Any) -> None:
    assert type(got) is type(expected)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(got, expected, check_freq=True)
        assert got.attrs == expected.attrs
    elif isinstance(expected, pd.Series):
        pd.testing.assert_series_equal(got, expected, check_freq=True)
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        assert got.flags.f_contiguous == expected.flags.f_contiguous
        assert got.dtype.byteorder == expected.dtype.byteorder
        np.testing.assert_array_equal(got, expected)
    elif isinstance(expected, pa.Table):
        assert got.equals(expected, check_metadata=True)
    else:
        assert got == expected


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_crosses_unchanged(servers: Trio, kind: str) -> None:
    """``get`` on another host returns what was put, with a replica or without, and it is the reader's to change."""
    a, b, _ = servers
    value = VALUES[kind]()

    def read(client: vc.Client) -> None:
        for replica in (False, True):
            got: Any = client.get(ref, replica=replica)
            if kind == "linked":
                assert got[2] is got and got[1]["again"] is got[0]
                assert_same(got[0], value[0])
            else:
                assert_same(got, value)
            if isinstance(got, np.ndarray) and got.size:
                got[...] = 0
                assert_same(client.get(ref, replica=replica), value)
            assert [dict(info.labels) for info in client.list()] == [{"kind": kind}] * replica
        assert client.delete(ref)

    with a.client() as client:
        ref = client.put(value, labels={"kind": kind})
    b.do(read)


class Point:
    """A class of the caller's, which does more than hold data."""

    def __init__(self, x: int, y: int) -> None:
        self.place = (x, y)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and self.place == other.place


POINT = f"{Point.__module__}.Point"


def test_a_value_that_needs_a_class_needs_it_there_too(servers: Trio) -> None:
    """The trust in classes is the reader's, wherever the value comes from."""
    a, b, _ = servers
    with a.client(allowed_classes=[POINT]) as client:
        ref = client.put(Point(1, 2))
    with pytest.raises(vc.UnsafeType, match="Point"):
        b.do(lambda client: client.get(ref))
    b.do(lambda client: assert_same(client.get(ref, allowed_classes=[POINT]), Point(1, 2)))
    assert b.do(lambda client: client.delete(ref))
