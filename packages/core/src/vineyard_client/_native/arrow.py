"""Arrow arrays, record batches, tables and schemas, and polars frames, which are tables with a note.

Text, bytes and lists have 64-bit offsets: vineyard's own types know no others when they are written.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from ..exceptions import ObjectCorrupted, UnsafeType
from .forms import Draft, View, library, no_form

if TYPE_CHECKING:
    from .values import Reader

__all__ = ["array", "draft", "read"]

# What C++ calls its types where Arrow has another name.
_CPP = {
    **dict.fromkeys(["int", "int32_t"], "int32"),
    **dict.fromkeys(["uint", "uint32_t"], "uint32"),
    **dict.fromkeys(["long", "long long", "int64_t"], "int64"),
    **dict.fromkeys(["unsigned long", "uint64_t"], "uint64"),
    **dict.fromkeys(["int8_t", "signed char", "char"], "int8"),
    **dict.fromkeys(["uint8_t", "unsigned char"], "uint8"),
    **dict.fromkeys(["int16_t", "short"], "int16"),
    **dict.fromkeys(["uint16_t", "unsigned short"], "uint16"),
}
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns), tz=([\w+:/-]+)\]")
_BINARY = re.compile(r"(?:arrow::)?(Large)?(String|Binary)Array")


# ---- reading


def read(reader: Reader, view: View) -> Any:
    """Return the value of an Arrow object."""
    pa = library("pyarrow", view.typename)
    kind = view.base[len("vineyard::") :]
    if kind == "SchemaProxy":
        return _schema(pa, view)
    if kind == "RecordBatch":
        columns = [reader.read(view.member(f"__columns_-{i}")) for i in range(view.count("__columns_-size"))]
        batch = pa.RecordBatch.from_arrays(columns, schema=_schema(pa, view.member("schema_")))
        batch.validate(full=True)
        return batch
    if kind == "Table":
        batches = [reader.read(view.member(f"partitions_-{i}")) for i in range(view.count("batch_num_"))]
        table = pa.Table.from_batches(batches, schema=_schema(pa, view.member("schema_")))
        note = "from_polars" in view and view.field("from_polars")
        return library("polars", "table of polars").from_arrow(table) if note else table
    made = _read_array(pa, reader, view, kind)
    # Its lengths and offsets come from whoever wrote the object; Arrow would follow them out of the buffers.
    made.validate(full=True)
    if len(made) != view.count("length_"):
        raise ValueError(f"{len(made)} elements instead of {view.count('length_')}")
    return made


def _read_array(pa: Any, reader: Reader, view: View, kind: str) -> Any:
    length = view.count("length_")
    if kind == "NullArray":
        return pa.nulls(length)
    if kind == "FixedSizeListArray":
        return pa.FixedSizeListArray.from_arrays(reader.read(view.member("values_")), view.count("list_size_"))
    nulls = view.blob("null_bitmap_")
    bitmap = pa.py_buffer(nulls) if nulls else None
    children: List[Any] = []
    if kind in ("NumericArray", "BooleanArray", "FixedSizeBinaryArray"):
        buffers = [view.blob("buffer_")]
        if kind == "NumericArray":
            dtype = _number_type(pa, view.parameters)
        else:
            dtype = pa.bool_() if kind == "BooleanArray" else pa.binary(view.count("byte_width_"))
    elif kind.endswith("ListArray"):
        buffers = [view.blob("buffer_offsets_")]
        children = [reader.read(view.member("values_"))]
        dtype = (pa.large_list if "Large" in view.typename else pa.list_)(children[0].type)
    else:
        match = _BINARY.fullmatch(view.parameters or kind)
        if match is None:
            raise ObjectCorrupted(f"{view.typename} is no Arrow array.", "See what wrote it.")
        dtype = getattr(pa, f"{'large_' if match[1] else ''}{match[2].lower()}")()
        buffers = [view.blob("buffer_offsets_"), view.blob("buffer_data_")]
    known = [bitmap, *map(pa.py_buffer, buffers)]
    # -1: the number of nulls is counted when it is needed, whatever the writer says.
    return pa.Array.from_buffers(dtype, length, known, -1 if bitmap else 0, view.count("offset_"), children)


def _number_type(pa: Any, name: str) -> Any:
    match = _TIMESTAMP.fullmatch(name)
    if match:
        return pa.timestamp(match[1], match[2])
    try:
        return pa.type_for_alias(_CPP.get(name, name))
    except ValueError:
        raise ObjectCorrupted(f"There is no Arrow type called {name!r:.80}.", "See what wrote the object.") from None


def _schema(pa: Any, view: View) -> Any:
    data = view.blob("buffer_") if "buffer_" in view else bytes(view.json("schema_binary_")["bytes"])
    if b"ARROW:extension:name" in data:
        raise UnsafeType(
            "The schema has an extension type, which is made by running what it names.",
            "Have it written with the storage types instead.",
        )
    return pa.ipc.read_schema(pa.py_buffer(data))


# ---- writing


def draft(value: Any) -> Optional[Draft]:
    """Return the draft of an Arrow object or a polars frame, None for other things."""
    if type(value).__module__.partition(".")[0] == "polars":
        frame = library("polars", "polars frame").DataFrame
        return _table(value.to_arrow(), {"from_polars": True}) if type(value) is frame else None
    pa = library("pyarrow", "vineyard::Table")
    if isinstance(value, pa.Array):
        return array(value)
    if isinstance(value, pa.Schema):
        return _draft_schema(pa, value)
    if isinstance(value, pa.RecordBatch):
        return _table_part(pa, value)
    return _table(value, {}) if isinstance(value, pa.Table) else None


def array(values: Any) -> Draft:
    """Return the draft of an Arrow array.

    Raises:
        UnsafeType: it has a type that vineyard has not.
    """
    pa = library("pyarrow", "vineyard::NumericArray")
    dtype = _stored_type(pa, values.type)
    if dtype != values.type:
        values = values.cast(dtype)
    if _is_slice(values):
        values = pa.concat_arrays([values])  # only the slice, not what it was cut from
    fields: Dict[str, Any] = {"length_": len(values), "null_count_": values.null_count, "offset_": values.offset}
    if dtype == pa.null():
        return Draft("vineyard::NullArray", {"length_": len(values)})
    buffers = values.buffers()
    members: Dict[str, Any] = {"null_bitmap_": _bytes(buffers[0])}
    if pa.types.is_large_list(dtype):
        typename = "vineyard::LargeListArray"
        members.update(buffer_offsets_=_bytes(buffers[1]), values_=array(values.values))
    elif dtype in (pa.large_string(), pa.large_binary()):
        kind = "String" if dtype == pa.large_string() else "Binary"
        typename = f"vineyard::BaseBinaryArray<arrow::Large{kind}Array>"
        members.update(buffer_offsets_=_bytes(buffers[1]), buffer_data_=_bytes(buffers[2]))
    else:
        members["buffer_"] = _bytes(buffers[1])
        if dtype == pa.bool_():
            typename = "vineyard::BooleanArray"
        elif pa.types.is_fixed_size_binary(dtype):
            typename = "vineyard::FixedSizeBinaryArray"
            fields["byte_width_"] = dtype.byte_width
        else:
            typename = f"vineyard::NumericArray<{dtype}>"
    return Draft(typename, fields, members, values.nbytes)


def _is_slice(values: Any) -> bool:
    """Whether an array has buffers that were made for a longer one."""
    buffer = [*values.buffers(), None, None][1]
    if values.offset or buffer is None:
        return bool(values.offset)
    try:
        needed = -(-len(values) * values.type.bit_width // 8)
    except ValueError:  # text, bytes and lists have an offset of eight bytes for each element, and one more
        needed = 8 * (len(values) + 1)
    return bool(buffer.size > needed + 64)  # buffers may be padded to a multiple of 64


def _stored_type(pa: Any, dtype: Any) -> Any:
    """Return the type of vineyard's that holds values of a type."""
    check = pa.types
    if check.is_string(dtype) or str(dtype) == "string_view":
        return pa.large_string()
    if dtype == pa.binary() or str(dtype) == "binary_view":
        return pa.large_binary()
    if check.is_list(dtype) or check.is_large_list(dtype):
        return pa.large_list(_stored_type(pa, dtype.value_type))
    plain = check.is_integer(dtype) or check.is_float32(dtype) or check.is_float64(dtype) or check.is_boolean(dtype)
    if plain or check.is_null(dtype) or dtype in (pa.large_string(), pa.large_binary()):
        return dtype
    if check.is_fixed_size_binary(dtype) and not check.is_decimal(dtype):
        return dtype
    raise no_form(f"Arrow data of type {dtype}", "Cast it to numbers, text or lists of them.", str(dtype))


def _draft_schema(pa: Any, schema: Any) -> Draft:
    fields = []
    for field in schema:
        try:
            fields.append(field.with_type(_stored_type(pa, field.type)))
        except UnsafeType as error:
            raise no_form(f"the column {field.name!r} of type {field.type}", error.hint, error.name) from error
    data = pa.schema(fields, schema.metadata).serialize()
    binary = json.dumps({"bytes": list(data.to_pybytes())})
    return Draft("vineyard::SchemaProxy", {"schema_binary_": binary}, nbytes=data.size)


def _table_part(pa: Any, batch: Any) -> Draft:
    members: Dict[str, Any] = {"schema_": _draft_schema(pa, batch.schema)}
    members.update((f"__columns_-{i}", array(batch.column(i))) for i in range(batch.num_columns))
    fields = {
        "row_num_": batch.num_rows,
        "column_num_": batch.num_columns,
        "__columns_-size": batch.num_columns,
    }
    return Draft("vineyard::RecordBatch", fields, members, sum(member.nbytes for member in members.values()))


def _table(table: Any, note: Dict[str, Any]) -> Draft:
    pa = library("pyarrow", "vineyard::Table")
    members: Dict[str, Any] = {"schema_": _draft_schema(pa, table.schema)}
    batches = table.to_batches()
    members.update((f"partitions_-{i}", _table_part(pa, batch)) for i, batch in enumerate(batches))
    fields = {
        "num_rows_": table.num_rows,
        "num_columns_": table.num_columns,
        "batch_num_": len(batches),
        "partitions_-size": len(batches),
        **note,
    }
    return Draft("vineyard::Table", fields, members, sum(member.nbytes for member in members.values()))


def _bytes(buffer: Any) -> memoryview:
    return memoryview(b"") if buffer is None else memoryview(buffer).cast("B")
