"""numpy arrays and sparse matrices as native objects: the same elements, or refused."""

from __future__ import annotations

import sys
from typing import Any, Callable

import pytest

from vineyard_client import _native
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType

np = pytest.importorskip("numpy")


def arrays() -> Any:
    kinds = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16", "M8[ns]", "m8[s]"]
    yield from [(kind, np.arange(6).astype(kind)) for kind in kinds]
    base = np.arange(24).reshape(2, 3, 4)
    yield "three dimensions", base
    yield "Fortran", np.asfortranarray(base)
    yield "transposed", base.transpose(1, 0, 2)
    yield "strided", base[:, ::2, 1]
    yield "backwards", np.arange(5)[::-1]
    yield "no dimension", np.array(5.5)
    yield "no elements", np.zeros((0, 3), "f4")
    yield "broadcast", np.broadcast_to(np.arange(3), (4, 3))


CASES = dict(arrays())


@pytest.mark.parametrize("name", CASES)
def test_same_array(again: Callable[[object], Any], name: str) -> None:
    """Elements, dtype, shape and Fortran order are kept; what comes back is a plain array, the caller's to change."""
    value = CASES[name]
    result = again(value)
    assert type(result) is np.ndarray and result.dtype == value.dtype and result.shape == value.shape
    assert np.array_equal(result, value) and result.flags.writeable
    assert name != "Fortran" or result.flags.f_contiguous


def test_text(again: Callable[[object], Any]) -> None:
    """An array of texts keeps them and its gaps."""
    pytest.importorskip("pyarrow")
    for value in (["a", "", "héllo", None], []):
        result = again(np.array(value, dtype=object))
        assert result.dtype == object and result.tolist() == value


def test_only_what_is_needed_is_stored(stored: Callable[[object], Any]) -> None:
    """A slice ships its slice."""
    _, blobs = stored(np.arange(1000)[10:20])
    assert sum(map(len, blobs.values())) == 80


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.arange(3, dtype=">i4" if sys.byteorder == "little" else "<i4"), "i4"),
        (np.array(["a"]), "U1"),
        (np.array([b"a"]), "S1"),
        (np.zeros(2, dtype=[("a", "i4")]), "'a'"),
        (np.zeros(2, "M8"), "datetime64"),
        (np.ma.array([1, 2], mask=[0, 1]), "MaskedArray"),
        (np.array([1, "a"], dtype=object), "a int in it"),
        (np.array([float("nan"), "a"], dtype=object), "a float in it"),
        (np.array([["a"]], dtype=object), "2 dimensions"),
        (np.int64(5), "int64"),
        (np.float64(5), "float64"),
    ],
)
def test_no_native_form(value: Any, named: str) -> None:
    """What other engines would misread, or the official package would pickle or corrupt, is refused by name."""
    with pytest.raises(UnsafeType, match="There is no native form for ") as caught:
        _native.draft(value)
    assert named in caught.value.what and caught.value.hint


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        ({"value_type_": "float"}, "f4"),
        ({"value_type_": "double"}, "f8"),
        ({"value_type_": '"float"'}, "f4"),
        ({"value_type_": "int"}, "i4"),
        ({"value_type_": "int64_t"}, "i8"),
        ({"value_type_": "uint"}, "u4"),
        ({"value_type_": "unsigned char"}, "u1"),
        ({"value_type_": "int32", "value_type_meta_": ">i4"}, ">i4"),
        ({"value_type_": "bytes16", "value_type_meta_": "|S2"}, "S2"),
        ({"value_type_": "str64", "value_type_meta_": "<U2"}, "<U2"),
        ({"value_type_": "float64", "value_type_meta_": "<f8", "order_": '"C"'}, "<f8"),
    ],
)
def test_tensors_of_other_writers(tensor: Callable[..., Any], written: Any, dtype: str) -> None:
    """C++'s float has four bytes, which the official package forgets; a byte order that was recorded is heeded."""
    expected = np.array([1, 2]).astype(dtype)
    result = tensor(expected.tobytes() + b"padding", **written)
    assert result.dtype == np.dtype(dtype) and result.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "fields",
    [
        {"value_type_": "O"},
        {"value_type_": "|O8"},
        {"value_type_": "int64", "value_type_meta_": "|O8", "shape_": "[9]"},
        {"value_type_": "void8", "value_type_meta_": "|V8"},
        {"value_type_": "i4,O"},
        {"value_type_": "__import__('os').getcwd()"},
        {"value_type_": "datetime64[nonsense]"},
        {"value_type_": 5},
        {"value_type_": "int64", "shape_": "[3]"},
        {"value_type_": "int64", "shape_": "[-1]"},
        {"value_type_": "int64", "shape_": "[4611686018427387904, 4]"},
        {"value_type_": "int64", "shape_": '["2"]'},
        {"value_type_": "int64", "shape_": "2"},
        {"value_type_": "int64", "shape_": "[2"},
        {},
    ],
)
def test_tensors_that_make_no_sense(tensor: Callable[..., Any], fields: Any) -> None:
    """A dtype that is looked up is never evaluated, and a shape never reaches beyond the blob."""
    with pytest.raises(ObjectCorrupted):
        tensor(b"\0" * 16, **fields)


def test_pickled_objects_are_refused(tensor: Callable[..., Any]) -> None:
    """The official package pickles arrays of objects."""
    with pytest.raises(UnsafeType, match="holds a pickle"):
        tensor(b"whatever", value_type_="object")


@pytest.mark.parametrize("kind", ["bsr", "coo", "csc", "csr", "dia"])
def test_sparse(again: Callable[[object], Any], kind: str) -> None:
    """The matrices that vineyard has types for come back in the same format."""
    sparse = pytest.importorskip("scipy.sparse")
    value = getattr(sparse, f"{kind}_matrix")(np.array([[0, 0, 3.5], [1, 0, 0]]))
    result = again(value)
    assert type(result) is type(value) and result.dtype == value.dtype
    assert (result.toarray() == value.toarray()).all()


def test_other_sparse_formats_are_refused() -> None:
    """The official package leaves these out."""
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(UnsafeType, match="lil_matrix"):
        _native.draft(sparse.lil_matrix((2, 2)))
