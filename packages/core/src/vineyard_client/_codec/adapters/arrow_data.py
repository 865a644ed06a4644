"""pyarrow's arrays and tables: their buffers, out of band, cut to what the array shows.

pyarrow's own pickling ships the whole parent of a slice. Here each array is a node ``(length, null count, offset,
buffers, children)`` under the type of its column (``arrow_types``). Cutting rules:

* Fixed-width data and validity bits are cut at a byte, so an offset below 8 stays where there are bits; nothing copied.
* Offsets (text, lists) are cut; only if they do not start at zero they are counted anew (a copy of the offsets), so
that   the data behind them is cut as well.
* Children of structs come cut from pyarrow; dense unions and views whose data is mostly unused are compacted, a copy.
* The dictionary of a dictionary array is an object of its own, so that chunks which share one still share it.

Reading makes arrays with ``from_buffers`` on views of the stored bytes, and then has Arrow validate the structure: that
every buffer is as long as the length claims, and that offsets begin and end inside. Numbers between (each offset, each
index) are not read, since that would touch all of the memory on every ``get``; call ``validate(full=True)`` on data
from writers whom you do not trust.
"""

from __future__ import annotations

import importlib
import pickle
from typing import TYPE_CHECKING, Any, List, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from . import arrow_types
from .arrow_types import field_at, is_extension, make_schema, make_type, schema_spec, type_spec
from .common import damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

pa: Any = None  # set by install(): this module is loaded for values of pyarrow only

# Views share data among arrays; compact them when less than half of a sizeable amount is used.
_VIEWS_WORTH_COMPACTING = 4096


def _compute() -> Any:
    return importlib.import_module("pyarrow.compute")


# --- taking arrays apart
# -----------------------------------------------------------------------------------------------


def _cut(buffer: Any, start: int, stop: int) -> Any:
    """Return bytes ``start`` to ``stop`` of an Arrow buffer, not copied."""
    if buffer is None or stop <= start:
        return b""
    if start or stop < buffer.size:
        buffer = buffer.slice(start, min(stop, buffer.size) - start)
    return pickle.PickleBuffer(buffer)


def _bits(buffer: Any, offset: int, length: int) -> Any:
    return _cut(buffer, offset // 8, (offset + length + 7) // 8)


def _node(writer: Writer, array: Any) -> Tuple[Any, ...]:
    dtype = array.type
    if is_extension(dtype):
        return _node(writer, array.storage)
    kind = pa.types
    if kind.is_dictionary(dtype):
        return len(array), 0, 0, [], [_node(writer, array.indices), _shared(writer, array.dictionary)]
    if _is_nested(dtype):
        return _nested_node(writer, array, dtype)
    length, offset = len(array), array.offset
    if kind.is_null(dtype):
        return length, length, 0, [None], []
    nulls = array.null_count
    buffers = array.buffers()
    if dtype.num_buffers == 2 and not _is_view(dtype):
        # Cut both at a whole byte of validity bits.
        rest = offset % 8 if nulls or kind.is_boolean(dtype) else 0
        first = offset - rest
        if kind.is_boolean(dtype):
            data = _bits(buffers[1], offset, length)
        else:
            width = dtype.bit_width // 8
            data = _cut(buffers[1], first * width, (offset + length) * width)
        return length, nulls, rest, [_bits(buffers[0], first, length + rest) if nulls else None, data], []
    if _is_view(dtype):
        return _view_node(writer, array, buffers, nulls)
    wide = kind.is_large_string(dtype) or kind.is_large_binary(dtype)
    offsets, low, high = _offsets(buffers[1], offset, length, wide)
    return length, nulls, 0, [_validity(array, nulls), offsets, _cut(buffers[2], low, high)], []


def _is_nested(dtype: Any) -> bool:
    # is_nested() knew neither lists of a fixed size (pyarrow 6) nor run-end encoding (17).
    return bool(pa.types.is_nested(dtype)) or dtype.num_fields > 0


def _is_view(dtype: Any) -> bool:
    return bool(getattr(dtype, "has_variadic_buffers", False)) or str(dtype) in ("string_view", "binary_view")


def _validity(array: Any, nulls: int) -> Any:
    """Return validity bits that begin at the array's first element; only if they must be shifted are they copied."""
    if not nulls:
        return None
    offset, length = array.offset, len(array)
    if offset % 8 == 0:
        return _bits(array.buffers()[0], offset, length)
    valid = array.is_valid()
    if valid.offset % 8:  # it shows the array's own bits; to turn them twice makes new ones
        valid = _compute().invert(_compute().invert(valid))
    return _bits(valid.buffers()[1], valid.offset, length)


def _offsets(buffer: Any, offset: int, length: int, wide: bool) -> Tuple[Any, int, int]:
    """Return the offsets of a cut array counted from zero, and the range of the data behind them."""
    width, dtype = (8, pa.int64()) if wide else (4, pa.int32())
    if buffer is None or buffer.size < (offset + length + 1) * width:
        return b"", 0, 0  # an empty array may have none
    offsets = pa.Array.from_buffers(dtype, length + 1, [None, buffer.slice(offset * width)])
    low, high = offsets[0].as_py(), offsets[length].as_py()
    if low:
        offsets = _compute().subtract(offsets, pa.scalar(low, dtype))
    return _cut(offsets.buffers()[1], offsets.offset * width, (offsets.offset + length + 1) * width), low, high


def _view_node(writer: Writer, array: Any, buffers: Any, nulls: int) -> Tuple[Any, ...]:
    if not getattr(array.type, "has_variadic_buffers", False):
        raise UnsafeType(
            f"An Arrow array of type {array.type} cannot be stored with pyarrow {pa.__version__}.",
            "Use pyarrow 18 or newer, or cast it to string or binary.",
            str(array.type),
        )
    total = sum(buffer.size for buffer in buffers[2:])
    if total > _VIEWS_WORTH_COMPACTING:
        wide = array.cast(pa.large_binary() if str(array.type) == "binary_view" else pa.large_string())
        _, low, high = _offsets(wide.buffers()[1], wide.offset, len(wide), True)
        if (high - low) * 2 < total:
            compact = wide.cast(array.type)
            return _view_node_as_is(compact, compact.buffers(), nulls)
    return _view_node_as_is(array, buffers, nulls)


def _view_node_as_is(array: Any, buffers: Any, nulls: int) -> Tuple[Any, ...]:
    length, offset = len(array), array.offset
    data = [_cut(buffer, 0, buffer.size) for buffer in buffers[2:]]
    return length, nulls, 0, [_validity(array, nulls), _cut(buffers[1], offset * 16, (offset + length) * 16), *data], []


def _nested_node(writer: Writer, array: Any, dtype: Any) -> Tuple[Any, ...]:
    kind = pa.types
    length, offset = len(array), array.offset
    if kind.is_union(dtype):
        return _union_node(writer, array, dtype)
    if arrow_types._is("run_end_encoded", dtype):
        first, count = array.find_physical_offset(), array.find_physical_length()
        ends, values = array.run_ends.slice(first, count), array.values.slice(first, count)
        return length, 0, offset, [None], [_node(writer, ends), _node(writer, values)]
    nulls = array.null_count
    validity = _validity(array, nulls)
    if kind.is_struct(dtype):
        children = [_node(writer, array.field(position)) for position in range(dtype.num_fields)]
        return length, nulls, 0, [validity], children
    if kind.is_fixed_size_list(dtype):
        size = dtype.list_size
        values = _first_values(array).slice(offset * size, length * size)
        return length, nulls, 0, [validity], [_node(writer, values)]
    buffers = array.buffers()
    if arrow_types._is("list_view", dtype) or arrow_types._is("large_list_view", dtype):
        return _list_view_node(writer, array, dtype, validity, nulls)
    wide = kind.is_large_list(dtype)
    offsets, low, high = _offsets(buffers[1], offset, length, wide)
    return length, nulls, 0, [validity, offsets], [_node(writer, _first_values(array).slice(low, high - low))]


def _first_values(array: Any) -> Any:
    """Return the whole child of a list array, whatever part of it the array shows."""
    if pa.types.is_map(array.type) and not hasattr(array, "values"):
        # pyarrow before 7 shows the two columns of the entries only.
        fields = [array.type.key_field, array.type.item_field]
        return pa.StructArray.from_arrays([array.keys, array.items], fields=fields)
    return array.values


def _list_view_node(writer: Writer, array: Any, dtype: Any, validity: Any, nulls: int) -> Tuple[Any, ...]:
    length = len(array)
    offsets, sizes = array.offsets, array.sizes
    values = array.values
    compute = _compute()
    used = compute.greater(sizes, 0)
    low = compute.min(compute.filter(offsets, used)).as_py() or 0
    high = compute.max(compute.add(compute.filter(offsets, used), compute.filter(sizes, used))).as_py() or 0
    if low or high < len(values):
        values = values.slice(low, high - low)
        zero = pa.scalar(0, offsets.type)
        # Lists of length zero may point anywhere.
        offsets = compute.if_else(used, compute.subtract(offsets, pa.scalar(low, offsets.type)), zero)
    parts = [_node(writer, part)[3][1] for part in (offsets, sizes)]
    return length, nulls, 0, [validity, *parts], [_node(writer, values)]


def _union_node(writer: Writer, array: Any, dtype: Any) -> Tuple[Any, ...]:
    count = dtype.num_fields
    if dtype.mode == "dense" and sum(len(array.field(position)) for position in range(count)) > len(array):
        array = array.take(pa.array(range(len(array)), pa.int64()))
    length, offset = len(array), array.offset
    buffers = array.buffers()
    own = [None, _cut(buffers[1], offset, offset + length)]
    if dtype.mode == "dense":
        own.append(_cut(buffers[2], offset * 4, (offset + length) * 4))
    return length, 0, 0, own, [_node(writer, array.field(position)) for position in range(count)]


def _shared(writer: Writer, array: Any) -> Any:
    """Return one and the same object for arrays that are the same memory: pyarrow wraps them anew at every look."""
    addresses = tuple(0 if buffer is None else buffer.address for buffer in array.buffers())
    key = ("pyarrow", array.type, array.offset, len(array), addresses)
    return writer.notes.setdefault(key, array)


# --- reductions
# --------------------------------------------------------------------------------------------------------


def _reduce_array(writer: Writer, array: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.Array", type_spec(writer, array.type), _node(writer, array))


def _reduce_chunked(writer: Writer, array: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.ChunkedArray", type_spec(writer, array.type), [_node(writer, part) for part in array.chunks])


def _reduce_batch(writer: Writer, batch: Any) -> Tuple[Any, ...]:
    columns = [_node(writer, column) for column in batch.columns]
    return MAKE, ("pyarrow.RecordBatch", schema_spec(writer, batch.schema), batch.num_rows, columns)


def _reduce_table(writer: Writer, table: Any) -> Tuple[Any, ...]:
    columns = [[_node(writer, part) for part in column.chunks] for column in table.columns]
    return MAKE, ("pyarrow.Table", schema_spec(writer, table.schema), table.num_rows, columns)


def _reduce_scalar(writer: Writer, scalar: Any) -> Tuple[Any, ...]:
    dtype = scalar.type
    if is_extension(dtype):
        storage = dtype.storage_type
        inner = pa.repeat(scalar.value, 1) if scalar.is_valid else pa.nulls(1, storage)
        return MAKE, ("pyarrow.scalar", pa.ExtensionArray.from_storage(dtype, inner))
    return MAKE, ("pyarrow.scalar", pa.nulls(1) if pa.types.is_null(dtype) else pa.repeat(scalar, 1))


def _reduce_type(writer: Writer, dtype: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.DataType", type_spec(writer, dtype))


def _reduce_field(writer: Writer, field: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.Field", arrow_types.field_spec(writer, field))


def _reduce_schema(writer: Writer, schema: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.Schema", schema_spec(writer, schema))


def _reduce_metadata(writer: Writer, metadata: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.KeyValueMetadata", dict(metadata))


def _reduce_buffer(writer: Writer, buffer: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.Buffer", pickle.PickleBuffer(buffer))


def _reduce_tensor(writer: Writer, tensor: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.Tensor", tensor.to_numpy(), tensor.dim_names and list(tensor.dim_names))


# --- putting arrays together
# -------------------------------------------------------------------------------------------


def _build(dtype: Any, node: Any) -> Any:
    if is_extension(dtype):
        return pa.ExtensionArray.from_storage(dtype, _build(dtype.storage_type, node))
    length, nulls, offset, buffers, children = node
    kind = pa.types
    if kind.is_dictionary(dtype):
        indices, dictionary = children
        if not isinstance(dictionary, pa.Array) or dictionary.type != dtype.value_type:
            raise damaged("the dictionary of an Arrow array has another type")
        return pa.DictionaryArray.from_arrays(
            _build(dtype.index_type, indices), dictionary, ordered=dtype.ordered, safe=False
        )
    if length < 0 or offset < 0:
        raise damaged("an Arrow array has a negative length")
    parts = [None if buffer is None else pa.py_buffer(buffer) for buffer in buffers]
    if not _is_nested(dtype):
        return pa.Array.from_buffers(dtype, length, parts, nulls, offset)
    types = _child_types(dtype)
    if len(types) != len(children):
        raise damaged("an Arrow array has another number of children than its type")
    return pa.Array.from_buffers(dtype, length, parts, nulls, offset, list(map(_build, types, children)))


def _child_types(dtype: Any) -> List[Any]:
    kind = pa.types
    if kind.is_map(dtype):
        return [pa.struct([dtype.key_field, dtype.item_field])]
    if kind.is_struct(dtype) or kind.is_union(dtype):
        return [field_at(dtype, position).type for position in range(dtype.num_fields)]
    if arrow_types._is("run_end_encoded", dtype):
        return [dtype.run_end_type, dtype.value_type]
    return [dtype.value_type]


def _checked(array: Any) -> Any:
    array.validate()
    return array


def _make_array(reader: Reader, spec: Any, node: Any) -> Any:
    return _checked(_build(make_type(reader, spec), node))


def _make_chunked(reader: Reader, spec: Any, nodes: Any) -> Any:
    dtype = make_type(reader, spec)
    return pa.chunked_array([_checked(_build(dtype, node)) for node in nodes], dtype)


def _empty_rows(rows: int) -> Any:
    """Return a record batch of rows without columns."""
    return pa.RecordBatch.from_struct_array(pa.Array.from_buffers(pa.struct([]), rows, [None], 0))


def _make_batch(reader: Reader, spec: Any, rows: int, nodes: Any) -> Any:
    schema = make_schema(reader, spec)
    if not nodes:
        return _empty_rows(rows).replace_schema_metadata(schema.metadata)
    arrays = [_checked(_build(field.type, node)) for field, node in zip(schema, nodes)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
    batch.validate()
    return batch


def _make_table(reader: Reader, spec: Any, rows: int, columns: Any) -> Any:
    schema = make_schema(reader, spec)
    if not columns:
        # Without columns only select() keeps the number of rows.
        return pa.table([pa.nulls(rows)], ["rows"]).replace_schema_metadata(schema.metadata).select([])
    arrays = [
        pa.chunked_array([_checked(_build(field.type, node)) for node in nodes], field.type)
        for field, nodes in zip(schema, columns)
    ]
    table = pa.Table.from_arrays(arrays, schema=schema)
    table.validate()
    return table


def _make_scalar(reader: Reader, array: Any) -> Any:
    if not isinstance(array, pa.Array) or len(array) != 1:
        raise damaged("an Arrow scalar is not stored as one")
    array.validate(full=True)  # looking at an element trusts all of its numbers
    return array[0]


def _make_buffer(reader: Reader, buffer: Any) -> Any:
    return pa.py_buffer(buffer)


def _make_metadata(reader: Reader, content: Any) -> Any:
    return pa.KeyValueMetadata(content)


def _make_tensor(reader: Reader, array: Any, names: Any) -> Any:
    return pa.Tensor.from_numpy(array, names)


def _reduce_interval(writer: Writer, value: Any) -> Tuple[Any, ...]:
    return MAKE, ("pyarrow.MonthDayNano", tuple(value))


def _make_interval(reader: Reader, parts: Any) -> Any:
    return pa.MonthDayNano(parts)


def install(table: Table) -> None:
    """Declare the types of pyarrow."""
    global pa
    pa = importlib.import_module("pyarrow")
    arrow_types.load(pa)
    table.bases.update(
        {
            pa.Array: _reduce_array,
            pa.ChunkedArray: _reduce_chunked,
            pa.RecordBatch: _reduce_batch,
            pa.Table: _reduce_table,
            pa.Scalar: _reduce_scalar,
            pa.DataType: _reduce_type,
            pa.Field: _reduce_field,
            pa.Schema: _reduce_schema,
            pa.KeyValueMetadata: _reduce_metadata,
            pa.Buffer: _reduce_buffer,
            pa.Tensor: _reduce_tensor,
        }
    )
    table.makers.update(
        {
            "pyarrow.Array": _make_array,
            "pyarrow.ChunkedArray": _make_chunked,
            "pyarrow.RecordBatch": _make_batch,
            "pyarrow.Table": _make_table,
            "pyarrow.scalar": _make_scalar,
            "pyarrow.DataType": lambda reader, spec: make_type(reader, spec),
            "pyarrow.Field": lambda reader, spec: arrow_types.make_field(reader, spec),
            "pyarrow.Schema": lambda reader, spec: make_schema(reader, spec),
            "pyarrow.KeyValueMetadata": _make_metadata,
            "pyarrow.Buffer": _make_buffer,
            "pyarrow.Tensor": _make_tensor,
        }
    )
    if hasattr(pa, "MonthDayNano"):
        table.reducers[pa.MonthDayNano] = _reduce_interval
        table.makers["pyarrow.MonthDayNano"] = _make_interval
