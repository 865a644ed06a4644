"""numpy: arrays as (memory, dtype, shape, strides), the memory out of band and never copied if it lies in one piece.

What is shipped is what the array shows: of a slice the slice, of a broadcast array the one copy that it repeats, of a
transposed one the memory as it lies, with its strides. Elements with Python objects travel as a list, so that shared
references and cycles through them hold; a structured type with such elements travels field by field.

Dtypes are spelt out (``numpy_dtypes``). Memory is never read as a dtype that holds objects: bytes from outside would be
taken for pointers.

``numpy.memmap`` comes back as the ordinary array it shows: the file is the writer's.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import FILL, MAKE
from ..policy import qualified
from ..writer import reduce_instance
from . import numpy_dtypes, numpy_objects, numpy_random
from .common import damaged, refused
from .numpy_dtypes import PLAIN, dtype_spec, make_dtype

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

np: Any = None  # set by install(): this module is loaded for values of numpy only

# Subclasses of numpy's own, which differ from an array in behaviour but not in content -> where they are defined, in
# numpy 1.17 - 2.5. (numpy.chararray itself warns from 2.5 on.)
_VIEWS: Dict[str, Tuple[str, ...]] = {
    "matrix": ("numpy",),
    "recarray": ("numpy",),
    "chararray": ("numpy._core.defchararray", "numpy.core.defchararray"),
}
_SCALARS = (
    "bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intc uintc longlong ulonglong float16 float32 float64 "
    "longdouble complex64 complex128 clongdouble datetime64 timedelta64 str_ bytes_"
)
_ABSTRACT = "generic number integer signedinteger unsignedinteger inexact floating complexfloating flexible character"
# So many times the bytes that are in use an element with objects may take, since memory is asked for to hold them all.
_MOST_PADDING = 4096

_MEMORY = frozenset([memoryview, bytes, bytearray])


# --- arrays -----------------------------------------------------------------------------------------------------------


def _reduce_dtype(writer: Writer, dtype: Any) -> Tuple[Any, ...]:
    return MAKE, ("numpy.dtype", dtype_spec(dtype))


def _make_dtype(reader: Reader, spec: Any) -> Any:
    return make_dtype(spec)


def plain(array: Any) -> Any:
    """Return an array's memory, dtype, shape and strides as plain data, or None if its elements are no plain bytes.

    The tuple can stand in a larger reduction, which costs less than an array of its own; ``unplain`` is the way back.
    """
    dtype = array.dtype
    if dtype.hasobject or dtype.kind == "T":
        return None
    flags = array.flags
    spec = dtype.str if dtype.isbuiltin == 1 and dtype.char in PLAIN and not dtype.metadata else dtype_spec(dtype)
    shape = array.shape
    if flags.c_contiguous:
        return _flat(array, flags.writeable), spec, shape, None
    if flags.f_contiguous:
        return _flat(array.T, flags.writeable), spec, shape, array.strides
    if 0 in array.strides:
        # Repeated along some axes: ship it once, and repeat it again by strides of zero.
        once = array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]
        once = _compact(once)
        strides = tuple(0 if repeated == 0 else stride for repeated, stride in zip(array.strides, once.strides))
        return _flat(_in_memory_order(once), flags.writeable), spec, shape, strides
    array = _compact(array)
    return _flat(_in_memory_order(array), flags.writeable), spec, shape, array.strides


def _in_memory_order(array: Any) -> Any:
    return array.transpose(sorted(range(array.ndim), key=lambda axis: -array.strides[axis]))


def _compact(array: Any) -> Any:
    """Return the array itself if its elements lie densely, in whatever order of axes; else a dense copy."""
    return array if _in_memory_order(array).flags.c_contiguous else array.copy(order="K")


def _flat(array: Any, writeable: bool) -> Any:
    """Return the memory of a C-contiguous array as a buffer of bytes; datetime64 and others offer none themselves."""
    if not array.size or not array.itemsize:
        return bytearray() if writeable else b""
    view = np.ndarray.view(array, np.ndarray) if type(array) is not np.ndarray else array
    view = view.reshape(-1).view(np.uint8)
    if view.flags.writeable != writeable:
        view.flags.writeable = writeable
    return pickle.PickleBuffer(view)


def unplain(parts: Any) -> Any:
    """Return the array that ``plain`` took apart, as a view of the memory it was given."""
    buffer, spec, shape, strides = parts
    dtype = make_dtype(spec)
    if dtype.hasobject or dtype.kind == "T":
        # Bytes from outside would be taken for pointers.
        raise damaged(f"memory cannot hold elements of type {dtype}")
    if type(buffer) not in _MEMORY:
        # Without memory, numpy would hand out what was there before.
        raise damaged(f"a {type(buffer).__name__} is the memory of an array")
    if strides is None or not len(buffer):
        return np.ndarray(shape, dtype, buffer)
    return np.ndarray(shape, dtype, buffer, 0, strides)


def _reduce_array(writer: Writer, array: Any) -> Tuple[Any, ...]:
    parts = plain(array)
    if parts is not None:
        return MAKE, ("numpy.ndarray", *parts)
    return _reduce_objects(writer, array)


def _make_array(reader: Reader, *parts: Any) -> Any:
    return unplain(parts)


def _reduce_objects(writer: Writer, array: Any) -> Tuple[Any, ...]:
    dtype = array.dtype
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    writeable = array.flags.writeable
    if dtype.kind == "O" and dtype.names is None:
        content: Any = array.ravel(order).tolist()
        own = (dtype_spec(dtype),) if dtype.metadata else ()
        head = "numpy.objects", array.shape, order, len(content), *own
        return MAKE, head, ("numpy.objects", (content, writeable)), None, None, FILL
    spec = dtype_spec(dtype)
    if dtype.kind == "T":
        content = array.ravel(order).tolist()
        return MAKE, ("numpy.strings", spec, array.shape, order, content, writeable)
    if dtype.itemsize // _MOST_PADDING > sum(
        [1 if part.hasobject else part.itemsize for part, *_ in dtype.fields.values()]
    ):
        raise UnsafeType(
            f"An array of elements of {dtype.itemsize} bytes cannot be stored, since hardly any of them are used.",
            "Convert it to a dtype without padding, with numpy.lib.recfunctions.repack_fields().",
            "numpy.ndarray",
        )
    if 0 in array.strides:
        array = array.copy()  # what repeats is written as often as it is read
    content = {name: np.ndarray.view(array[name], np.ndarray) for name in dtype.names}
    return (
        MAKE,
        ("numpy.structured", spec, array.shape, order),
        ("numpy.structured", (content, writeable)),
        None,
        None,
        FILL,
    )


def _checked_size(shape: Any, limit: int) -> None:
    """Refuse a number of elements that what is stored cannot possibly hold, before memory is asked for."""
    size = 1
    for length in shape:
        size *= length
    if size > limit:
        raise damaged(f"an array of shape {shape} is larger than everything stored")


def _make_objects(reader: Reader, shape: Any, order: str, size: int, spec: Any = "O") -> Any:
    _checked_size(shape, reader.limit)
    dtype = make_dtype(spec)
    if dtype.kind != "O":
        raise damaged(f"an array of objects cannot have dtype {dtype}")
    return np.empty(shape, dtype, order)


def _fill_objects(reader: Reader, array: Any, state: Any) -> None:
    content, writeable = state
    if type(array) is not np.ndarray or array.dtype != object or type(content) is not list:
        raise damaged("a list of objects belongs to no array of objects")
    flat = np.empty(len(content), object)
    if set(map(type, content)) <= _ATOMS:
        flat[:] = content
    else:
        # Assigning a list would look for sequences among the objects.
        for position, item in enumerate(content):
            flat[position] = item
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    array[...] = flat.reshape(array.shape, order=order)
    array.flags.writeable = bool(writeable)


def _make_strings(reader: Reader, spec: Any, shape: Any, order: str, content: Any, writeable: Any) -> Any:
    array = np.array(content, dtype=make_dtype(spec)).reshape(shape, order=order)
    array.flags.writeable = bool(writeable)
    return array


def _make_structured(reader: Reader, spec: Any, shape: Any, order: str) -> Any:
    dtype = make_dtype(spec)
    if not dtype.hasobject or dtype.names is None:
        raise damaged(f"fields cannot be set in elements of type {dtype}")
    # Every element has at least one object, and so at least a byte in the stream; what is beside it is in the buffers.
    _checked_size((*shape, dtype.itemsize // _MOST_PADDING or 1), reader.total)
    return np.zeros(shape, dtype, order)


def _fill_structured(reader: Reader, array: Any, state: Any) -> None:
    content, writeable = state
    if type(array) is not np.ndarray or set(array.dtype.names or ()) != set(content):
        raise damaged("fields belong to no structured array")
    for name, column in content.items():
        array[name] = column
    array.flags.writeable = bool(writeable)


# --- subclasses, scalars
# -----------------------------------------------------------------------------------------------


def _base_array(array: Any) -> Any:
    return array.view(type=np.ndarray) if array.dtype.type is not np.record else array.view(array.dtype, np.ndarray)


def _reduce_subclass(writer: Writer, array: Any) -> Tuple[Any, ...]:
    """Write a subclass of numpy's own, or one of the caller's that is nothing but an array with attributes."""
    cls = type(array)
    if "numpy.ma" in sys.modules and isinstance(array, np.ma.MaskedArray):
        return _reduce_masked(writer, array)
    if cls is np.memmap:
        return _reduce_array(writer, _base_array(array))
    if cls.__name__ in _VIEWS and cls is _view_class(cls.__name__):
        return MAKE, ("numpy.view", "", cls.__name__, _base_array(array)), None
    if cls.__reduce__ is not np.ndarray.__reduce__ or cls.__setstate__ is not np.ndarray.__setstate__:
        return reduce_instance(writer, array)
    names = writer.name_of(cls)
    head = "numpy.view", *names, _base_array(array)
    return MAKE, head, ("numpy.view", dict(getattr(array, "__dict__", {}))), None, None, FILL


def _view_class(name: str) -> Any:
    for module in _VIEWS[name]:
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:
            continue  # numpy 1 and 2 differ
    raise damaged(f"numpy has no {name}")


def _make_view(reader: Reader, module: str, qualname: str, array: Any) -> Any:
    if type(array) is not np.ndarray:
        raise damaged("what should be shown as another kind of array is none")
    cls: Any = reader.find_class(module, qualname) if module else _view_class(qualname)
    if not issubclass(cls, np.ndarray):
        raise damaged(f"{qualname} is no kind of array")
    return array.view(cls)


def _fill_view(reader: Reader, array: Any, attributes: Any) -> None:
    if not isinstance(array, np.ndarray) or not reader.allows(type(array)):
        raise refused(f"it sets attributes of a {qualified(type(array))}", qualified(type(array)))
    vars(array).update(attributes)


def _reduce_scalar(writer: Writer, scalar: Any) -> Tuple[Any, ...]:
    dtype = scalar.dtype
    cls = type(scalar)
    if cls is np.str_ or cls is np.bytes_:
        # As an element of an array, or by numpy's own str(), it would lose trailing zeros.
        return MAKE, ("numpy.text", str.__str__(scalar) if cls is np.str_ else bytes.__getitem__(scalar, slice(None)))
    if cls is not dtype.type and not isinstance(scalar, np.void):
        return reduce_instance(writer, scalar)
    if dtype.hasobject:
        array = np.empty((), dtype)
        array[()] = scalar
        return MAKE, ("numpy.element", array)
    return MAKE, ("numpy.scalar", dtype_spec(dtype), scalar.tobytes())


def _make_scalar(reader: Reader, spec: Any, content: bytes) -> Any:
    dtype = make_dtype(spec)
    if dtype.hasobject or dtype.kind == "T":
        raise damaged(f"bytes cannot hold an element of type {dtype}")
    # A structured scalar refers to the memory of its array, which shall be its own to change.
    return np.ndarray((), dtype, content).copy()[()]


def _make_element(reader: Reader, array: Any) -> Any:
    if type(array) is not np.ndarray or array.shape:
        raise damaged("a structured scalar is not stored as one")
    return array[()]


def _make_text(reader: Reader, text: Any) -> Any:
    if type(text) is str:
        return np.str_(text)
    if type(text) is bytes:
        return np.bytes_(text)
    raise damaged("a text scalar is not stored as text")


def _reduce_masked(writer: Writer, array: Any) -> Tuple[Any, ...]:
    if array is np.ma.masked:
        return MAKE, ("numpy.masked",)
    if type(array) is not np.ma.MaskedArray:
        return reduce_instance(writer, array)
    data = array.data
    mask = None if array.mask is np.ma.nomask else np.asarray(array.mask)
    fill = None if array._fill_value is None else np.asarray(array._fill_value)
    extra = dict(array._optinfo)
    return MAKE, ("numpy.MaskedArray", data, mask, fill, bool(array.hardmask), bool(array.sharedmask), extra)


def _make_masked(reader: Reader, *parts: Any) -> Any:
    if not parts:
        return np.ma.masked
    data, mask, fill, hard, shared, extra = parts
    array = np.ma.MaskedArray(data, mask=np.ma.nomask if mask is None else mask, hard_mask=bool(hard), copy=False)
    if fill is not None:
        array.fill_value = fill
    array._sharedmask = bool(shared)
    array._optinfo.update(extra)
    return array


def _reduce_other(writer: Writer, value: Any) -> Tuple[Any, ...]:
    """Write what is no array and no scalar; numpy loads some of its parts when they are first needed, and so do we."""
    if type(value).__module__.startswith("numpy.random"):
        reduced = numpy_random.reduce(writer, value)
        if reduced is not None:
            return reduced
    return numpy_objects.reduce(writer, value)


_ATOMS: set[type] = {str, type(None), float, int, bool}


def install(table: Table) -> None:
    """Declare numpy's types."""
    global np
    np = importlib.import_module("numpy")
    numpy_dtypes.load(np)
    numpy_random.install(table, np)
    table.reducers[np.ndarray] = _reduce_array
    table.reducers[np.dtype] = _reduce_dtype
    table.bases[np.dtype] = _reduce_dtype
    table.bases[np.ndarray] = _reduce_subclass
    table.bases[np.generic] = _reduce_scalar
    numpy_objects.install(table)
    table.families["numpy"] = _reduce_other
    table.makers.update(
        {
            "numpy.ndarray": _make_array,
            "numpy.dtype": _make_dtype,
            "numpy.objects": _make_objects,
            "numpy.strings": _make_strings,
            "numpy.structured": _make_structured,
            "numpy.view": _make_view,
            "numpy.scalar": _make_scalar,
            "numpy.element": _make_element,
            "numpy.text": _make_text,
            "numpy.MaskedArray": _make_masked,
            "numpy.masked": _make_masked,
        }
    )
    table.filler("numpy.objects", _fill_objects, "numpy.objects", holds=True)
    table.filler("numpy.structured", _fill_structured, "numpy.structured")
    table.filler("numpy.view", _fill_view, "numpy.view", must=False, holds=True)
    names: List[str] = [*_SCALARS.split(), *_ABSTRACT.split()]
    for name in names:
        table.value(f"numpy.{name}", getattr(np, name))
