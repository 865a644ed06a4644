"""pandas objects as native objects: values, dtypes, names and order are kept, or the object is refused."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict

import pytest

from vineyard_client import _native
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

DAYS = pd.to_datetime(["2020-01-01", "2020-01-05"])

FRAMES: Dict[str, Any] = {
    "numbers": pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": [True, False]}),
    "small numbers": pd.DataFrame({"a": np.array([1, 2], "i2"), "b": np.array([1, 2], "f4")}),
    "text": pd.DataFrame({"a": ["x", ""], "b": ["héllo", None]}),
    "time": pd.DataFrame({"a": DAYS, "b": DAYS - DAYS[0]}),
    "named index": pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 6], name="key")),
    "text index": pd.DataFrame({"a": [1, 2]}, index=["x", "y"]),
    "time index": pd.DataFrame({"a": [1, 2]}, index=DAYS),
    "columns by number": pd.DataFrame({0: [1], 7: [2]}),
    "columns by time of writing": pd.DataFrame([[1, 2.5, "x"]], columns=["z", "a", "m"]),
    "columns of one name": pd.DataFrame([[1, 2]], columns=["a", "a"]),
    "a column called index_": pd.DataFrame({"index_": [3, 4]}),
    "no rows": pd.DataFrame({"a": np.array([], "i8"), "b": np.array([], "f8")}),
    "no columns": pd.DataFrame(),
}

OTHERS: Dict[str, Any] = {
    "series": pd.Series([1, 2, 3]),
    "named series": pd.Series([0.5, 2], name="n", index=["x", "y"]),
    "series of text": pd.Series(["a", None]),
    "series of times": pd.Series(DAYS, name=0),
    "index": pd.Index([3, 1]),
    "named index of text": pd.Index(["a", "b"], name="n"),
    "index of times": DAYS,
}


@pytest.mark.parametrize("name", FRAMES)
def test_same_frame(again: Callable[[object], Any], name: str) -> None:
    """A frame comes back equal, and is the caller's to change."""
    result = again(FRAMES[name])
    pd.testing.assert_frame_equal(result, FRAMES[name], check_column_type="equiv" if name != "no columns" else False)
    if len(result) and not name.startswith(("text", "time", "columns of one")):
        result.iloc[0, 0] = 0
        assert result.iloc[0, 0] == 0


@pytest.mark.parametrize("name", OTHERS)
def test_same_series_or_index(again: Callable[[object], Any], name: str) -> None:
    """So do series and indexes."""
    value = OTHERS[name]
    check = pd.testing.assert_index_equal if isinstance(value, pd.Index) else pd.testing.assert_series_equal
    check(again(value), value)


def test_plain_parts(again: Callable[[object], Any]) -> None:
    """Rows that were only counted are again; the parts are of pandas' and numpy's own classes."""
    result = again(FRAMES["numbers"])
    assert isinstance(result.index, pd.RangeIndex)
    assert type(result["a"].to_numpy()) is np.ndarray


def test_what_is_not_kept(again: Callable[[object], Any]) -> None:
    """A range index becomes numbers unless it counts rows, and an index forgets its freq; their values stay."""
    pd.testing.assert_index_equal(again(pd.RangeIndex(1, 10, 3)), pd.Index([1, 4, 7]))
    days = pd.date_range("2020-01-01", periods=3)
    assert again(days).freq is None and again(days).equals(days)


REFUSED: Dict[str, Any] = {
    "the column 'a' of dtype category": pd.DataFrame({"a": pd.Categorical(["x"])}),
    "the column 'a' of dtype Int64": pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
    "the column 'a' of dtype string": pd.DataFrame({"a": pd.array(["x"], dtype="string")}),
    "the column 'a' of dtype datetime64[ns, UTC]": pd.DataFrame({"a": pd.DatetimeIndex(["2020"], dtype="M8[ns, UTC]")}),
    "the column 'a' of dtype Sparse": pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}),
    "the column 'a', whose objects are not all text": pd.DataFrame({"a": [1, "x"]}),
    "columns have levels": pd.DataFrame({("a", "b"): [1]}),
    "columns have levels or a name": pd.DataFrame({"a": [1]}).rename_axis(columns="n"),
    "the name 1.5": pd.DataFrame({1.5: [1]}),
    "the name ('a', 1)": pd.Series([1], name=("a", 1)),
    "an index of several levels": pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([(1, 2)])),
    "an index of dtype category": pd.CategoricalIndex(["a"]),
    "without columns but with rows": pd.DataFrame(index=[1, 2]),
    "IntegerArray": pd.array([1, None], dtype="Int64"),
}


@pytest.mark.parametrize("named", REFUSED)
def test_no_native_form(named: str) -> None:
    """What a native frame cannot hold is refused, and the column named."""
    with pytest.raises(UnsafeType, match="There is no native form for ") as caught:
        _native.draft(REFUSED[named])
    assert named in caught.value.what and caught.value.hint


def test_attrs_are_not_dropped() -> None:
    """A frame with attrs is refused rather than stripped."""
    frame = pd.DataFrame({"a": [1]})
    frame.attrs["unit"] = "m"
    with pytest.raises(UnsafeType, match="a frame with attrs"):
        _native.draft(frame)


class Subclass(pd.DataFrame):  # type: ignore[misc]
    pass


def test_subclasses_are_not_dropped() -> None:
    """A subclass, which would come back as its base, is refused."""
    with pytest.raises(UnsafeType, match="Subclass"):
        _native.draft(Subclass({"a": [1]}))


def cpp_frame(stored: Callable[[object], Any], columns: Any, **series: Any) -> Any:
    """Return a frame as C++ writes it: its columns are a map, sorted, with the index among them."""
    tree, blobs = stored(pd.DataFrame(series))
    del tree["columns_"]
    return {**tree, "columns_": json.dumps(columns)}, blobs


def test_frames_of_cpp(stored: Callable[[object], Any]) -> None:
    """Columns are found by their names, not by their places, and the index may be among them."""
    tree, blobs = cpp_frame(stored, ["z", "a"], a=[1, 2], index_=[7, 8], z=[0.5, 1.5])
    result = _native.read(tree, blobs, unpickle=False)
    pd.testing.assert_frame_equal(result, pd.DataFrame({"z": [0.5, 1.5], "a": [1, 2]}, index=[7, 8]))


def test_a_column_that_is_missing(stored: Callable[[object], Any]) -> None:
    """A frame without one of its columns is not shortened."""
    with pytest.raises(ObjectCorrupted):
        _native.read(*cpp_frame(stored, ["a", "b"], a=[1]), unpickle=False)


def test_columns_of_other_lengths(stored: Callable[[object], Any]) -> None:
    """Columns and index must have one length; nothing is filled up."""
    tree, blobs = stored(pd.DataFrame({"a": [1, 2], "b": [3, 4]}))
    tree["__values_-value-1"]["shape_"] = "[1]"
    with pytest.raises(ObjectCorrupted, match="rows with 2 labels"):
        _native.read(tree, blobs, unpickle=False)


def test_a_column_of_two_dimensions(stored: Callable[[object], Any]) -> None:
    """The official package has columns of tensors; pandas has not."""
    tree, blobs = stored(pd.DataFrame({"a": [1, 2, 3, 4]}))
    tree["__values_-value-0"]["shape_"] = "[2, 2]"
    with pytest.raises(ObjectCorrupted, match="2 dimensions"):
        _native.read(tree, blobs, unpickle=False)


def test_partitions(stored: Callable[[object], Any]) -> None:
    """A partitioned frame is read as the list of its parts."""
    tree, blobs = stored(pd.DataFrame({"a": [1, 2]}))
    whole = {
        "typename": "vineyard::GlobalDataFrame",
        "partitions_-size": 2,
        "partitions_-0": tree,
        "partitions_-1": tree,
    }
    for part in _native.read(whole, blobs, unpickle=False):
        pd.testing.assert_frame_equal(part, pd.DataFrame({"a": [1, 2]}))


def test_categorical_index_of_other_writers(stored: Callable[[object], Any]) -> None:
    """The official package writes the labels of a categorical index, and its dtype beside them."""
    tree, blobs = stored(pd.Index(["x", "y"]))
    result = _native.read({**tree, "value_type_": "category"}, blobs, unpickle=False)
    pd.testing.assert_index_equal(result, pd.CategoricalIndex(["x", "y"]))
