"""Arrow data and polars frames as native objects, and what happens to lengths and offsets that lie."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any, Callable, Dict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vineyard_client import _native
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType, VineyardError

pa = pytest.importorskip("pyarrow")

ARRAYS: Dict[str, Any] = {
    "numbers": pa.array([1, None, 3]),
    "floats": pa.array([0.5, None], pa.float32()),
    "bytes of numbers": pa.array([1, 2], pa.uint8()),
    "truth": pa.array([True, None, False]),
    "nulls": pa.nulls(3),
    "text": pa.array(["a", None, "héllo"], pa.large_string()),
    "bytes": pa.array([b"a", b""], pa.large_binary()),
    "fixed bytes": pa.array([b"ab", None], pa.binary(2)),
    "lists": pa.array([[1], None, [], [2, 3]], pa.large_list(pa.int64())),
    "lists of text": pa.array([["a", None]], pa.large_list(pa.large_string())),
    "nothing": pa.array([], pa.int32()),
    "no text": pa.array([], pa.large_string()),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_same_array(again: Callable[[object], Any], name: str) -> None:
    """Arrays of the types that vineyard has come back equal, and of the same type."""
    result = again(ARRAYS[name])
    assert result.equals(ARRAYS[name]) and result.type == ARRAYS[name].type


def test_offsets_of_64_bits(again: Callable[[object], Any]) -> None:
    """Text, bytes and lists with small offsets get large ones."""
    for value, dtype in (
        (pa.array(["a", None]), pa.large_string()),
        (pa.array([b"a"]), pa.large_binary()),
        (pa.array([["a"], []]), pa.large_list(pa.large_string())),
    ):
        result = again(value)
        assert result.type == dtype and result.to_pylist() == value.to_pylist()


@pytest.mark.parametrize("name", [name for name in ARRAYS if len(ARRAYS[name]) > 1])
def test_slices_ship_their_slice(stored: Callable[[object], Any], again: Callable[[object], Any], name: str) -> None:
    """A slice comes back as it was, and takes no more room than its own elements."""
    long = pa.concat_arrays([ARRAYS[name]] * 500)
    for piece in (long[3:9], long[:6]):
        assert again(piece).equals(piece)
        assert sum(map(len, stored(piece)[1].values())) < 600


@pytest.mark.parametrize(
    "value",
    [
        pa.array([1], pa.timestamp("us")),
        pa.array([1], pa.date32()),
        pa.array([1], pa.decimal128(5, 2)),
        pa.array(["a"]).dictionary_encode(),
        pa.array([{"a": 1}]),
        pa.array([[1], [2]], pa.list_(pa.int64(), 1)),
        pa.chunked_array([[1], [2]]),
        pa.scalar(1),
        pa.int64(),
    ],
    ids=lambda value: str(getattr(value, "type", value)),  # without the address of an object
)
def test_no_native_form(value: Any) -> None:
    """What the official package writes and cannot read back, or would pickle, is refused."""
    with pytest.raises(UnsafeType, match="There is no native form for ") as caught:
        _native.draft(value)
    assert caught.value.hint


TABLES: Dict[str, Any] = {
    "table": pa.table({"n": [1, None], "s": pa.array(["a", None], pa.large_string())}),
    "chunks": pa.table({"n": pa.chunked_array([[1], [2, 3]])}),
    "no rows": pa.table({"n": pa.array([], pa.int64())}),
    "metadata": pa.table({"n": [1]}).replace_schema_metadata({"k": "v"}),
    "not nullable": pa.Table.from_arrays(
        [pa.array([1])], schema=pa.schema([pa.field("n", pa.int64(), False, {"f": "m"})])
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_same_table(again: Callable[[object], Any], name: str) -> None:
    """A table comes back with its schema, metadata and all, in the chunks it had."""
    result = again(TABLES[name])
    assert result.equals(TABLES[name]) and result.schema.equals(TABLES[name].schema, check_metadata=True)
    result.validate(full=True)


def test_same_batch_and_schema(again: Callable[[object], Any]) -> None:
    """So do record batches and schemas."""
    batch = TABLES["table"].to_batches()[0]
    assert again(batch).equals(batch)
    assert again(batch.schema).equals(batch.schema, check_metadata=True)


def test_the_column_is_named() -> None:
    """A table with a column that has no native form names the column."""
    with pytest.raises(UnsafeType, match=r"the column 'when' of type date32"):
        _native.draft(pa.table({"n": [1], "when": pa.array([1], pa.date32())}))


def test_polars(again: Callable[[object], Any]) -> None:
    """A polars frame is a table that remembers where it came from."""
    pl = pytest.importorskip("polars")
    value = pl.DataFrame({"a": [1, None], "b": ["x", "y"], "c": [[1], []]})
    result = again(value)
    assert type(result) is pl.DataFrame and result.to_dict(as_series=False) == value.to_dict(as_series=False)
    with pytest.raises(UnsafeType):
        _native.draft(pl.Series([1]))


@pytest.mark.parametrize(
    ("typename", "dtype"),
    [
        ("vineyard::NumericArray<float>", pa.float32()),
        ("vineyard::NumericArray<double>", pa.float64()),
        ("vineyard::NumericArray<uint>", pa.uint32()),
        ("vineyard::NumericArray<long long>", pa.int64()),
        ("vineyard::NumericArray<date32[day]>", pa.date32()),
        ("vineyard::NumericArray<timestamp[us]>", pa.timestamp("us")),
        ("vineyard::NumericArray<timestamp[ms, tz=Europe/Berlin]>", pa.timestamp("ms", "Europe/Berlin")),
    ],
)
def test_numbers_of_other_writers(stored: Callable[[object], Any], typename: str, dtype: Any) -> None:
    """C++'s float has four bytes, which the official package forgets; times are read though they are not written."""
    numbers = pa.array([1, 2]).cast({1: pa.int8(), 4: pa.int32(), 8: pa.int64()}[dtype.bit_width // 8])
    tree, blobs = stored(numbers)
    result = _native.read({**tree, "typename": typename}, blobs, unpickle=False)
    assert result.equals(numbers.view(dtype))


@pytest.mark.parametrize("typename", ["LargeStringArray", "BaseBinaryArray<arrow::LargeStringArray>"])
def test_text_of_other_writers(stored: Callable[[object], Any], typename: str) -> None:
    """Text has had several typenames."""
    tree, blobs = stored(ARRAYS["text"])
    result = _native.read({**tree, "typename": f"vineyard::{typename}"}, blobs, unpickle=False)
    assert result.equals(ARRAYS["text"])


def test_lists_of_one_size(stored: Callable[[object], Any]) -> None:
    """C++ has lists that all have one length."""
    values, blobs = stored(pa.array([1, 2, 3, 4]))
    tree = {"typename": "vineyard::FixedSizeListArray", "length_": 2, "list_size_": 2, "values_": values}
    assert _native.read(tree, blobs, unpickle=False).to_pylist() == [[1, 2], [3, 4]]
    with pytest.raises(ObjectCorrupted):
        _native.read({**tree, "length_": 3}, blobs, unpickle=False)


def test_extension_types_are_refused(stored: Callable[[object], Any]) -> None:
    """Arrow makes an extension type by running what the schema names; older versions unpickle it."""
    schema = pa.schema([pa.field("n", pa.int64(), metadata={"ARROW:extension:name": "arrow.py_extension_type"})])
    tree, blobs = stored(pa.schema([("n", pa.int64())]))
    tree["schema_binary_"] = json.dumps({"bytes": list(schema.serialize().to_pybytes())})
    with pytest.raises(UnsafeType, match="extension type"):
        _native.read(tree, blobs, unpickle=False)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("numbers", {"length_": 4}),
        ("numbers", {"length_": 1 << 62}),
        ("numbers", {"length_": -1}),
        ("numbers", {"offset_": 1}),
        ("numbers", {"offset_": 1 << 62}),
        ("numbers", {"typename": "vineyard::NumericArray<nonsense>"}),
        ("truth", {"length_": 100}),
        ("text", {"length_": 4}),
        ("text", {"offset_": 2}),
        ("text", {"typename": "vineyard::BaseBinaryArray<arrow::Int64Array>"}),
        ("lists", {"length_": 9}),
        ("fixed bytes", {"byte_width_": 1 << 30}),
    ],
)
def test_lengths_that_lie(stored: Callable[[object], Any], name: str, fields: Any) -> None:
    """Arrow would follow a wrong length or offset out of the blob; it is found before."""
    tree, blobs = stored(ARRAYS[name])
    with pytest.raises(ObjectCorrupted):
        _native.read({**tree, **fields}, blobs, unpickle=False)


def test_offsets_that_lie(stored: Callable[[object], Any]) -> None:
    """So are offsets inside of a blob."""
    tree, blobs = stored(ARRAYS["text"])
    offsets = blobs[int(tree["buffer_offsets_"]["id"][1:], 16)]
    offsets[8:16] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(ObjectCorrupted):
        _native.read(tree, blobs, unpickle=False)


JUNK = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**65), 2**65), st.floats(), st.text(max_size=5), st.just({})),
    st.sampled_from(["[1]", "[]", "{}", '"F"', "float", "object", "string", "vineyard::Table"]),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_tree_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever stands in some field of some part, reading returns a value or raises an error of ours."""
    tree, blobs = data.draw(st.sampled_from(_fuzzed()))
    tree = part = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(0, 3))):
        below = sorted(key for key, value in part.items() if isinstance(value, dict) and value)
        if below:
            part = part[data.draw(st.sampled_from(below))]
    key = data.draw(st.sampled_from(sorted(part)))
    part[key] = data.draw(JUNK)
    with suppress(VineyardError):
        _native.read(tree, {number: bytearray(blob) for number, blob in blobs.items()}, unpickle=False)


def _fuzzed() -> Any:
    from .conftest import store

    values = [*ARRAYS.values(), *TABLES.values(), (1, "a", 0.5, (b"x",))]
    return [store(_native.draft(value)) for value in values]
