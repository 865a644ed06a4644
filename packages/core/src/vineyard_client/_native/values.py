"""Which module reads and writes which type, and the types that need no library: scalars, sequences, bytes, pickles."""

from __future__ import annotations

import importlib
import pickle
from typing import Any, Callable, Dict, Mapping, Optional

from ..exceptions import ObjectCorrupted, UnsafeType, UnsupportedVersion, VineyardError
from .forms import BLOB, Draft, View, no_form

__all__ = ["Unpickle", "describe", "draft", "read"]

Unpickle = Callable[[bytearray], Any]

# Typename without parameters -> the module that reads it.
_READERS: Dict[str, str] = {
    **dict.fromkeys(["vineyard::Tensor", "vineyard::Array"], "arrays"),
    **{f"vineyard::{kind}Matrix": "arrays" for kind in ("BSR", "COO", "CSC", "CSR", "DIA")},
    **{f"vineyard::{name}": "frames" for name in ("DataFrame", "GlobalDataFrame", "Index", "Series")},
    **{
        f"vineyard::{name}": "arrow"
        for name in (
            *("NumericArray", "BooleanArray", "NullArray", "FixedSizeBinaryArray", "FixedSizeListArray"),
            *("BaseBinaryArray", "StringArray", "BinaryArray", "LargeStringArray", "LargeBinaryArray"),
            *("BaseListArray", "ListArray", "LargeListArray", "SchemaProxy", "RecordBatch", "Table"),
        )
    },
}

# Top-level package of a type -> the module that drafts its values.
_DRAFTERS = {"numpy": "arrays", "scipy": "arrays", "pandas": "frames", "pyarrow": "arrow", "polars": "arrow"}

_PICKLE = "vineyard::PickleBuffer"

_INT32 = range(-(1 << 31), 1 << 31)

_PLAIN_PUT = "Put it without native=True: then any reader with this package gets it back as it was."


# ---- reading


class Reader:
    """Reads the parts of one object.

    Args:
        unpickle: what to do with a pickle; None refuses it.
    """

    def __init__(self, unpickle: Optional[Unpickle]) -> None:
        self._unpickle = unpickle

    def read(self, view: View) -> Any:
        """Return the value of an object."""
        if view.base == "vineyard::Scalar":
            return _scalar(view)
        if view.base == "vineyard::Sequence":
            return tuple(self.read(view.member(f"__elements_-{i}")) for i in range(view.count("__elements_-size")))
        if view.typename == BLOB:
            return bytes(view.bytes())
        if view.base == _PICKLE:
            return self.pickled(view.blob("buffer_")[: view.count("size_")])
        module = _READERS.get(view.base)
        if module is None:
            raise UnsupportedVersion(
                f"{view.typename} is none of the native types that this release can read.",
                "Read it with the library of the engine that wrote it, or have it written as a tensor, data frame, "
                "table, scalar or sequence.",
            )
        return _module(module).read(self, view)

    def pickled(self, data: bytearray) -> Any:
        """Return what is in a pickle, if that is allowed."""
        if self._unpickle is None:
            raise UnsafeType(
                "The object holds a pickle, which runs whatever its writer wanted when it is read.",
                'If you trust everybody who can write to the store: get(ref, allowed_classes=["pickle.loads"]).',
                "pickle.loads",
            )
        return self._unpickle(data)


def read(tree: Mapping[str, Any], blobs: Mapping[int, bytearray], *, unpickle: bool) -> Any:
    """Return the value of a native object.

    Args:
        tree: its metadata.
        blobs: copies of its blobs, which become parts of the value.
        unpickle: whether pickles in it may be run.

    Raises:
        UnsafeType: there is a pickle in it, and nobody allowed that.
        UnsupportedVersion: it has a type that is not known here.
        ObjectCorrupted: it is not what its typename says.
        VineyardError: a library that it needs is not installed.
    """
    try:
        view = View(tree, blobs)
        return Reader(pickle.loads if unpickle else None).read(view)
    except VineyardError:
        raise
    except Exception as error:
        raise ObjectCorrupted(
            f"The object {tree.get('id')} does not have what a {tree.get('typename')} should: "
            f"{type(error).__name__}: {error}.",
            "See what wrote it, and in which version; vineyard's own types differ between releases.",
        ) from error


def _module(name: str) -> Any:
    return importlib.import_module(f".{name}", __package__)


def _scalar(view: View) -> Any:
    value = view.field("value_")
    kind = view.parameters
    if kind in ("std::string", "std::__1::string", "std::__cxx11::string"):
        return view.field("value_") if isinstance(value, str) else str(value)
    if kind in ("float", "double"):
        if value is None:
            raise ObjectCorrupted(
                "The number is not finite, and which of NaN and the infinities it was, its writer did not record.",
                "Have it written in an array.",
            )
        return float(value)
    if isinstance(value, bool):
        if kind != "bool" and view.field("type_") != "bool":
            # The official package takes an int that needs more than 64 bits for a bool.
            raise ObjectCorrupted("The number was too large for its writer, which recorded 'true' for it.")
        return value
    return int(value)


def describe(tree: Mapping[str, Any]) -> str:
    """Return a line about an object for people: its extent, never its contents; empty where nothing is known."""
    rows, columns = tree.get("num_rows_", tree.get("row_num_")), tree.get("num_columns_", tree.get("column_num_"))
    size = tree.get("__elements_-size", tree.get("partitions_-size"))
    if rows is not None:
        return f"{rows} rows × {columns} columns"
    if "columns_" in tree:
        return f"columns {tree['columns_']}"[:300]
    if "shape_" in tree:
        return f"shape {tree['shape_']}"[:300]
    if "length_" in tree:
        return f"{tree['length_']} elements"
    return "" if size is None else f"{size} elements"


# ---- writing


def draft(value: object) -> Draft:
    """Say how a value is to be stored for other engines.

    Values, dtypes, names and the order of things are kept. Not kept: that a sequence was a list and not a tuple; that
    Arrow data had 32-bit offsets or was cut into chunks; a range index, which becomes one of numbers unless it counts
    the rows from zero; the ``freq`` of an index; which kind of missing value a text was.

    Args:
        value: a number, text or sequence; an array or sparse matrix; a frame, series or index; Arrow data; a polars
            frame. Its buffers are not copied, so it must not change before they are written.

    Raises:
        UnsafeType: vineyard's own types cannot hold it, or only by losing something.
    """
    if type(value) is bytes:
        raise no_form("bytes by themselves: a blob has no metadata to tell it by", "Put them in a tuple.")
    drafted = part(value)
    assert isinstance(drafted, Draft)
    return drafted


def part(value: Any) -> Any:
    """Return the draft of a value, or the bytes if it becomes a blob."""
    kind = type(value)
    if kind is str:
        return Draft("vineyard::Scalar<std::string>", {"value_": value, "type_": "str"})
    if kind is int:
        if value not in _INT32:
            # C++ would cut a Scalar<int> down, and the official package makes None of a Scalar<int64>.
            raise no_form("a whole number of more than 32 bits", "Put it in an array.", "int")
        return Draft("vineyard::Scalar<int>", {"value_": value, "type_": "int"})
    if kind is float:
        if value - value != 0:  # NaN or infinity
            raise no_form(f"the number {value}: metadata are JSON", "Put it in an array.")
        return Draft("vineyard::Scalar<double>", {"value_": value, "type_": "float"})
    if kind is bytes:
        return memoryview(value)
    if kind in (tuple, list):
        members = {f"__elements_-{i}": part(item) for i, item in enumerate(value)}
        return Draft("vineyard::Sequence", {"size_": len(value), "__elements_-size": len(value)}, members)
    module = _DRAFTERS.get(kind.__module__.partition(".")[0])
    drafted = _module(module).draft(value) if module else None
    if drafted is None:
        raise no_form(f"a {kind.__module__}.{kind.__qualname__}", _PLAIN_PUT, f"{kind.__module__}.{kind.__qualname__}")
    return drafted
