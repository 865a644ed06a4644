"""Scalars, sequences and bytes in vineyard's own forms; what has none is refused, and nothing is run."""

from __future__ import annotations

import enum
import os
import pickle
from typing import Any, Callable, Dict

import pytest

from vineyard_client import _native
from vineyard_client.exceptions import ObjectCorrupted, UnsafeType, UnsupportedVersion, VineyardError
from vineyard_client.ids import BLOB_BIT, format_id


def scalar(kind: str, value: object, **fields: object) -> Dict[str, Any]:
    return {"id": format_id(1), "typename": f"vineyard::Scalar<{kind}>", "value_": value, **fields}


def read(tree: Dict[str, Any], **blobs: bytes) -> Any:
    return _native.read(tree, {int(key, 16): bytearray(value) for key, value in blobs.items()}, unpickle=False)


@pytest.mark.parametrize(
    "value",
    [
        *(0, 7, -5, 2**31 - 1, -(2**31), 0.1, 1.5, -1e300, "", "héllo\n", '"quoted"'),
        *((), (1, "a", 0.1), ((1,), ((),)), (b"", b"ab", "c")),
    ],
)
def test_same_value(again: Callable[[object], Any], value: object) -> None:
    """Numbers, texts, and tuples of them and of bytes come back as they were."""
    result = again(value)
    assert result == value and type(result) is type(value)
    assert not isinstance(value, tuple) or list(map(type, result)) == list(map(type, value))


def test_sequences_are_tuples(again: Callable[[object], Any]) -> None:
    """A sequence does not remember that it was a list."""
    assert again([1, [2, "x"]]) == (1, (2, "x"))


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (True, "builtins.bool"),
        (None, "NoneType"),
        (2**31, "more than 32 bits"),
        (-(2**70), "more than 32 bits"),
        (float("nan"), "number nan"),
        (float("-inf"), "number -inf"),
        (b"bare", "bytes by themselves"),
        ({"a": 1}, "builtins.dict"),
        ({1}, "builtins.set"),
        (1j, "builtins.complex"),
        (Colour.RED, "Colour"),
        (object(), "builtins.object"),
        ((1, (2, None)), "NoneType"),
    ],
)
def test_no_native_form(value: object, named: str) -> None:
    """A value that would be lost, changed or pickled is refused by name, wherever it sits."""
    with pytest.raises(UnsafeType, match="There is no native form for ") as caught:
        _native.draft(value)
    assert named in caught.value.what and caught.value.hint


@pytest.mark.parametrize(
    ("tree", "value"),
    [
        (scalar("int", "7"), 7),
        (scalar("int64", 2**40), 2**40),
        (scalar("float", 2), 2.0),
        (scalar("double", "2.5"), 2.5),
        (scalar("std::string", "x"), "x"),
        (scalar("std::__1::string", "x"), "x"),
        (scalar("bool", True), True),
        (scalar("int", True, type_="bool"), True),
    ],
)
def test_scalars_of_other_writers(tree: Dict[str, Any], value: object) -> None:
    """C++ and the official package spell scalars in ways of their own."""
    result = read(tree)
    assert result == value and type(result) is type(value)


def test_numbers_that_their_writer_lost() -> None:
    """The official package writes 2**70 as true and NaN as null: neither is taken for another number."""
    with pytest.raises(ObjectCorrupted, match="too large for its writer"):
        read(scalar("int", True, type_="int"))
    with pytest.raises(ObjectCorrupted, match="not finite"):
        read(scalar("double", None))


def test_unknown_type() -> None:
    """A type of another engine's own is named, and what to do about it."""
    with pytest.raises(UnsupportedVersion, match="gs::ArrowFragment<int64> is none of the native types") as caught:
        read({"id": format_id(1), "typename": "gs::ArrowFragment<int64>"})
    assert "engine that wrote it" in caught.value.hint


@pytest.mark.parametrize(
    "tree",
    [
        {"typename": "vineyard::Scalar<int>"},
        {"typename": "vineyard::Scalar<int>", "value_": {"a": 1}},
        {"typename": "vineyard::Scalar<int>", "value_": "seven"},
        {"typename": "vineyard::Sequence"},
        {"typename": "vineyard::Sequence", "__elements_-size": -1},
        {"typename": "vineyard::Sequence", "__elements_-size": 1},
        {"typename": "vineyard::Sequence", "__elements_-size": 1, "__elements_-0": 5},
        {"typename": "vineyard::Sequence", "__elements_-size": 1, "__elements_-0": {"typename": 5}},
        {"typename": "vineyard::Sequence", "__elements_-size": 1, "__elements_-0": {"typename": _native.BLOB}},
        {"typename": "vineyard::PickleBuffer", "size_": 1, "buffer_": {"typename": "vineyard::Scalar<int>"}},
        {"typename": None},
        {},
    ],
)
def test_trees_that_make_no_sense(tree: Dict[str, Any]) -> None:
    """Whatever stands in a tree, reading raises an error of ours that names the object's type."""
    with pytest.raises(ObjectCorrupted) as caught:
        read({"id": format_id(1), **tree})
    assert str(tree.get("typename")) in caught.value.what and caught.value.hint


class Gadget:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["GADGET"],)


def test_pickles_run_only_if_allowed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle runs what its writer wanted, so it is refused unless the caller allowed it by name."""
    folder = tmp_path / "made by the pickle"
    monkeypatch.setenv("GADGET", str(folder))
    content = pickle.dumps(Gadget())
    buffer = {"id": format_id(BLOB_BIT | 1), "typename": _native.BLOB}
    tree = {"typename": "vineyard::PickleBuffer", "size_": len(content), "buffer_": buffer}
    sequence = {"typename": "vineyard::Sequence", "__elements_-size": 1, "__elements_-0": tree}
    blobs = {BLOB_BIT | 1: bytearray(content + b"padding")}
    for refused in (tree, sequence):
        with pytest.raises(UnsafeType, match="holds a pickle") as caught:
            _native.read(refused, blobs, unpickle=False)
        assert caught.value.name == "pickle.loads" and "pickle.loads" in caught.value.hint
        assert not folder.exists()
    _native.read(sequence, blobs, unpickle=True)
    assert folder.exists()


def test_missing_library(again: Callable[[object], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without numpy, a tensor names the library and the extra that brings it."""
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    with pytest.raises(VineyardError, match="vineyard::Tensor<int64> needs numpy") as caught:
        read({"typename": "vineyard::Tensor<int64>", "value_type_": "int64", "shape_": "[1]"})
    assert "vineyard-client[native]" in caught.value.hint


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"shape_": "[2, 3]"}, "shape [2, 3]"),
        ({"columns_": '["a"]'}, 'columns ["a"]'),
        ({"columns_": "x" * 1000}, "columns " + "x" * 292),
        ({"num_rows_": 2, "num_columns_": 3}, "2 rows × 3 columns"),
        ({"row_num_": 2, "column_num_": 3}, "2 rows × 3 columns"),
        ({"length_": 4}, "4 elements"),
        ({"__elements_-size": 4}, "4 elements"),
        ({"value_": "secret"}, ""),
    ],
)
def test_describe(tree: Dict[str, Any], text: str) -> None:
    """People are told the extent of an object, and never what is in it."""
    assert _native.describe(tree) == text
