"""numpy arrays as ``vineyard::Tensor``, and scipy's sparse matrices.

A tensor is its elements in C order in one blob. Text is a tensor of one dimension whose buffer is an Arrow array.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ..exceptions import ObjectCorrupted
from . import arrow
from .forms import Draft, View, library, no_form

if TYPE_CHECKING:
    from .values import Reader

__all__ = ["draft", "numpy_dtype", "read", "tensor", "text_tensor"]

# What C++ calls its types, and what the official package does not (it takes "float" for float64).
_CPP = {
    **dict.fromkeys(["int", "int32_t", "i32"], "int32"),
    **dict.fromkeys(["uint", "uint_t", "uint32_t", "u32", "unsigned int"], "uint32"),
    **dict.fromkeys(["long", "long long", "int64_t", "i64"], "int64"),
    **dict.fromkeys(["unsigned long", "unsigned long long", "uint64_t", "u64"], "uint64"),
    **dict.fromkeys(["int8_t", "signed char", "char"], "int8"),
    **dict.fromkeys(["uint8_t", "unsigned char"], "uint8"),
    **dict.fromkeys(["int16_t", "short"], "int16"),
    **dict.fromkeys(["uint16_t", "unsigned short"], "uint16"),
    "float": "float32",
    "double": "float64",
}
_NUMPY_NAME = re.compile(
    r"bool|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)|(datetime|timedelta)64\[\d*[A-Za-z]+\]"
)
# dtype.str of everything but objects and structures.
_NUMPY_TEXT = re.compile(r"[<>|=]?([bSU]\d+|[iufc]\d+|[mM]8\[\d*[A-Za-z]+\])")
_STRINGS = ("str", "string", "std::string", "std::__1::string", "std::__cxx11::string")

# Typename parameters where C++ has a name of its own (v6d: src/common/util/typename.h).
_PARAMETERS = {"int32": "int", "uint32": "uint", "float32": "float", "float64": "double"}

# scipy's matrix -> the parts that make it, in the order in which its constructor takes them.
_SPARSE: Dict[str, List[str]] = {
    "bsr": ["data", "indices", "indptr"],
    "coo": ["data", "row", "col"],
    "csc": ["data", "indices", "indptr"],
    "csr": ["data", "indices", "indptr"],
    "dia": ["data", "offsets"],
}


# ---- reading


def numpy_dtype(name: str, text: str = "") -> Any:
    """Return the dtype that a tree names.

    Args:
        name: as C++ or numpy writes it.
        text: numpy's own spelling, where it was recorded: it alone tells the byte order.

    Raises:
        ObjectCorrupted: it is none, or one of objects.
    """
    np = library("numpy", "vineyard::Tensor")
    name = _CPP.get(name, name)
    if _NUMPY_TEXT.fullmatch(text):
        return np.dtype(text)
    if _NUMPY_NAME.fullmatch(name):
        return np.dtype(name)
    raise ObjectCorrupted(f"There is no type of numbers called {name!r:.80}.", "See what wrote the object.")


def read(reader: Reader, view: View) -> Any:
    """Return the value of a tensor, an array or a sparse matrix."""
    if view.base == "vineyard::Tensor":
        return _read_tensor(reader, view)
    np = library("numpy", view.typename)
    if view.base == "vineyard::Array":
        count = view.count("size_") if "size_" in view else -1
        return np.frombuffer(view.blob("buffer_"), dtype=numpy_dtype(view.parameters), count=count)
    kind = view.base[len("vineyard::") : -len("Matrix")].lower()
    data, *places = [reader.read(view.member(name)) for name in _SPARSE[kind]]
    if kind == "coo":
        places = [tuple(places)]
    make = getattr(library("scipy.sparse", view.typename), f"{kind}_matrix")
    return make((data, *places), shape=tuple(view.shape()))


def _read_tensor(reader: Reader, view: View) -> Any:
    np = library("numpy", view.typename)
    name = view.text("value_type_")
    if name == "object":
        return reader.pickled(view.blob("buffer_"))
    shape = view.shape()
    if name in _STRINGS:
        return reader.read(view.member("buffer_")).to_numpy(zero_copy_only=False).reshape(shape)
    dtype = numpy_dtype(name, view.text("value_type_meta_") if "value_type_meta_" in view else "")
    count = 1
    for length in shape:
        count *= length
    if not count:
        return np.zeros(shape, dtype)
    array = np.frombuffer(view.blob("buffer_"), dtype=dtype, count=count).reshape(shape)
    return np.asfortranarray(array) if "order_" in view and view.text("order_") == "F" else array


# ---- writing


def draft(value: Any) -> Optional[Draft]:
    """Return the draft of an array or sparse matrix, None for other things."""
    np = library("numpy", "vineyard::Tensor")
    if type(value) is np.ndarray:
        return text_tensor(value) if value.dtype == object else tensor(value)
    kind = type(value).__name__[: -len("_matrix")]
    if type(value).__module__.startswith("scipy.sparse") and type(value).__name__ == f"{kind}_matrix":
        return _sparse(value, kind) if kind in _SPARSE else None
    return None


def tensor(array: Any) -> Draft:
    """Return the draft of an array of numbers or points in time.

    Raises:
        UnsafeType: it has a dtype that other engines, or the official package, would misread.
    """
    np = library("numpy", "vineyard::Tensor")
    dtype = array.dtype
    if not dtype.isnative:
        hint = "Give it this machine's byte order: array.astype(array.dtype.newbyteorder('='))."
        raise no_form(f"an array of dtype {dtype.str}", hint)
    if not _NUMPY_NAME.fullmatch(dtype.name):
        hint = "Convert text to objects: array.astype(object)." if dtype.kind in "US" else "Put it without native=True."
        raise no_form(f"an array of dtype {dtype}", hint)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    elements = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    fields = _fields(array.shape, "F" if fortran else "C", dtype.name, dtype.str)
    typename = f"vineyard::Tensor<{_PARAMETERS.get(dtype.name, dtype.name)}>"
    return Draft(typename, fields, {"buffer_": memoryview(elements)}, array.nbytes)


def text_tensor(array: Any) -> Draft:
    """Return the draft of an array of objects, all of which are text or None.

    Raises:
        UnsafeType: there is something else in it, or it has more than one dimension.
    """
    if array.ndim != 1:
        raise no_form(f"text in {array.ndim} dimensions", "Flatten it.")
    for item in array:
        if item is not None and type(item) is not str:
            name = type(item).__name__
            raise no_form(f"an array of objects with a {name} in it", "Convert it to numbers or to text.", name)
    pa = library("pyarrow", "vineyard::Tensor<std::string>")
    texts = arrow.array(pa.array(array, type=pa.large_string()))
    fields = _fields(array.shape, "C", "string", "str")
    return Draft("vineyard::Tensor<std::string>", fields, {"buffer_": texts}, texts.nbytes)


def _fields(shape: Any, order: str, name: str, text: str) -> Dict[str, Any]:
    return {
        "shape_": json.dumps(list(shape)),
        "partition_index_": "[]",
        "order_": json.dumps(order),
        "value_type_": name,
        "value_type_meta_": text,
    }


def _sparse(matrix: Any, kind: str) -> Draft:
    members = {name: tensor(getattr(matrix, name)) for name in _SPARSE[kind]}
    fields = {
        "value_type_": matrix.dtype.name,
        "shape_": json.dumps(list(matrix.shape)),
        "ndim": matrix.ndim,
        "nnz": int(matrix.nnz),
        "partition_index_": "[]",
    }
    nbytes = sum(member.nbytes for member in members.values())
    return Draft(f"vineyard::{kind.upper()}Matrix<{matrix.dtype.name}>", fields, dict(members), nbytes)
