"""pyarrow's data types, fields and schemas, spelt out in plain data.

Arrow's own serialisation of a schema names extension types and lets the library make them: older versions of pyarrow
unpickle what stands there, others call a class that somebody registered. So types are spelt out here and made by
pyarrow's public constructors; an extension type is made by name, from a short list or from the caller's allowed
classes.

A specification is a string for a type without parameters, else a tuple ``(kind, *parameters)`` with specifications
inside. Fields are ``(name, type, nullable, metadata)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from vineyard_client.exceptions import UnsafeType, UnsupportedVersion

from ..policy import qualified
from .common import damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..writer import Writer

pa: Any = None  # set by install(): this module is loaded for values of pyarrow only
_plain: Dict[Any, str] = {}
_made: Dict[str, Any] = {}

# Constructors without parameters, some of them younger than the oldest pyarrow: 6 - 26.
_PLAIN = [
    "null",
    "bool_",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "string",
    "binary",
    "large_string",
    "large_binary",
    "date32",
    "date64",
    "month_day_nano_interval",
    "string_view",
    "binary_view",
]
_DECIMALS = ("decimal128", "decimal256", "decimal32", "decimal64")
# Extension types of other packages that are plain data, and where they are defined: pandas 1.1 - 3.1.
_PANDAS = ("pandas.core.arrays.arrow.extension_types", "pandas.core.arrays._arrow_utils")
_KNOWN_EXTENSIONS: Dict[str, Tuple[str, ...]] = {
    "ArrowPeriodType": _PANDAS,
    "ArrowIntervalType": _PANDAS,
}


def load(module: Any) -> None:
    """Take pyarrow and learn which of the types this version has."""
    global pa
    pa = module
    for name in _PLAIN:
        constructor = getattr(pa, name, None)
        if constructor is not None:
            made = constructor()
            _plain[made] = name
            _made[name] = made


def _is(kind: str, dtype: Any) -> bool:
    check = getattr(pa.types, f"is_{kind}", None)
    return check is not None and bool(check(dtype))


def is_extension(dtype: Any) -> bool:
    """Tell whether a type is an extension type, whoever defined it."""
    return isinstance(dtype, pa.BaseExtensionType)


def field_at(dtype: Any, position: int) -> Any:
    """Return a child field of a struct or union type."""
    # field() is younger than pyarrow 6, and item access older than pyarrow 26 may drop.
    return dtype.field(position) if hasattr(dtype, "field") else dtype[position]


# --- writing
# -----------------------------------------------------------------------------------------------------------


def type_spec(writer: Writer, dtype: Any) -> Any:
    """Spell a type out."""
    if is_extension(dtype):
        return _extension_spec(writer, dtype)
    name = _plain.get(dtype)
    if name is not None:
        return name
    if _is("timestamp", dtype):
        return "timestamp", dtype.unit, dtype.tz
    for kind in ("time32", "time64", "duration"):
        if _is(kind, dtype):
            return kind, str(dtype)[len(kind) + 1 : -1]  # pyarrow 6 has no unit for times
    for kind in _DECIMALS:
        if _is(kind, dtype):
            return kind, dtype.precision, dtype.scale
    if _is("fixed_size_binary", dtype):
        return "binary", dtype.byte_width
    if _is("dictionary", dtype):
        return "dictionary", type_spec(writer, dtype.index_type), type_spec(writer, dtype.value_type), dtype.ordered
    if _is("map", dtype):
        key, item = field_spec(writer, dtype.key_field), field_spec(writer, dtype.item_field)
        return "map_", key, item, bool(getattr(dtype, "keys_sorted", False))
    for kind, constructor in (
        *(("list", "list_"), ("large_list", "large_list")),
        *(("list_view", "list_view"), ("large_list_view", "large_list_view")),
    ):
        if _is(kind, dtype):
            return constructor, field_spec(writer, dtype.value_field)
    if _is("fixed_size_list", dtype):
        return "fixed_size_list", field_spec(writer, dtype.value_field), dtype.list_size
    if _is("run_end_encoded", dtype):
        return "run_end_encoded", type_spec(writer, dtype.run_end_type), type_spec(writer, dtype.value_type)
    if _is("struct", dtype) or _is("union", dtype):
        fields = [field_spec(writer, field_at(dtype, position)) for position in range(dtype.num_fields)]
        return ("struct", fields) if _is("struct", dtype) else ("union", fields, dtype.mode, list(dtype.type_codes))
    raise UnsafeType(
        f"Arrow data of type {dtype} cannot be stored: this release does not know that type.",
        "Cast it to another type.",
        str(dtype),
    )


def _extension_spec(writer: Writer, dtype: Any) -> Any:
    cls = type(dtype)
    storage = type_spec(writer, dtype.storage_type)
    name = cls.__name__
    if cls.__module__.partition(".")[0] == "pyarrow":
        if name == "FixedShapeTensorType":
            names, order = dtype.dim_names, dtype.permutation
            value = type_spec(writer, dtype.value_type)
            return "fixed_shape_tensor", value, list(dtype.shape), names and list(names), order and list(order)
        if name == "OpaqueType":
            return "opaque", storage, dtype.type_name, dtype.vendor_name
        if name == "JsonType":
            return "json_", storage
        if name in ("UuidType", "Bool8Type"):
            return (("uuid" if name == "UuidType" else "bool8"),)
    elif cls.__module__ in _KNOWN_EXTENSIONS.get(name, ()):
        return "extension", "", name, storage, dtype.__arrow_ext_serialize__()
    elif isinstance(dtype, pa.ExtensionType):
        return "extension", *writer.name_of(cls), storage, dtype.__arrow_ext_serialize__()
    raise UnsafeType(
        f"Arrow data of the extension type {qualified(cls)} cannot be stored: to rebuild it, what it names would have "
        "to be run.",
        "Derive the type from pyarrow.ExtensionType and allow its class, or store the storage array.",
        qualified(cls),
    )


def field_spec(writer: Writer, field: Any) -> Tuple[Any, ...]:
    """Spell a field out."""
    return field.name, type_spec(writer, field.type), field.nullable, _metadata(field.metadata)


def schema_spec(writer: Writer, schema: Any) -> Tuple[Any, ...]:
    """Spell a schema out."""
    return [field_spec(writer, field) for field in schema], _metadata(schema.metadata)


def _metadata(metadata: Any) -> Any:
    return None if metadata is None else dict(metadata)


# --- reading
# -----------------------------------------------------------------------------------------------------------


def make_type(reader: Reader, spec: Any) -> Any:
    """Build a type from its specification."""
    if type(spec) is str:
        made = _made.get(spec)
        if made is None:
            raise _missing(spec) if spec in _PLAIN else damaged(f"{spec!r} is no Arrow type")
        return made
    kind, *parts = spec
    if kind in ("timestamp", "time32", "time64", "duration", "binary", *_DECIMALS):
        return _constructor(kind)(*parts)
    if kind in ("list_", "large_list", "list_view", "large_list_view"):
        return _constructor(kind)(make_field(reader, parts[0]))
    if kind == "fixed_size_list":
        return pa.list_(make_field(reader, parts[0]), parts[1])
    if kind == "dictionary":
        return pa.dictionary(make_type(reader, parts[0]), make_type(reader, parts[1]), bool(parts[2]))
    if kind == "run_end_encoded":
        return _constructor(kind)(make_type(reader, parts[0]), make_type(reader, parts[1]))
    if kind == "map_":
        return pa.map_(make_field(reader, parts[0]), make_field(reader, parts[1]), keys_sorted=bool(parts[2]))
    if kind == "struct":
        return pa.struct([make_field(reader, field) for field in parts[0]])
    if kind == "union":
        return pa.union([make_field(reader, field) for field in parts[0]], parts[1], parts[2])
    return _make_extension(reader, kind, parts)


def _make_extension(reader: Reader, kind: str, parts: List[Any]) -> Any:
    if kind == "fixed_shape_tensor":
        value, shape, names, order = parts
        return _constructor(kind)(make_type(reader, value), shape, dim_names=names, permutation=order)
    if kind == "opaque":
        return _constructor(kind)(make_type(reader, parts[0]), parts[1], parts[2])
    if kind == "json_":
        return _constructor(kind)(make_type(reader, parts[0]))
    if kind in ("uuid", "bool8"):
        return _constructor(kind)()
    if kind != "extension":
        raise damaged(f"{kind!r} is no kind of Arrow type")
    module, name, storage, serialized = parts
    cls = reader.find_class(module, name) if module else _known_extension(name)
    if not issubclass(cls, pa.ExtensionType) or type(serialized) is not bytes:
        raise damaged(f"{name} is no Arrow extension type")
    return cls.__arrow_ext_deserialize__(make_type(reader, storage), serialized)


def _known_extension(name: Any) -> Any:
    for module in _KNOWN_EXTENSIONS.get(name, ()):
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue  # versions differ in where it is
    raise damaged(f"{name!r} is no known extension type")


def _constructor(kind: str) -> Any:
    found = getattr(pa, kind, None)
    if found is None:
        raise _missing(kind)
    return found


def _missing(kind: str) -> UnsupportedVersion:
    return UnsupportedVersion(
        f"The stored value holds Arrow data of type {kind}, which pyarrow {pa.__version__} does not have.",
        "Install the same version of pyarrow where the value is written and where it is read.",
    )


def make_field(reader: Reader, spec: Any) -> Any:
    """Build a field from its specification."""
    name, dtype, nullable, metadata = spec
    return pa.field(name, make_type(reader, dtype), bool(nullable), metadata)


def make_schema(reader: Reader, spec: Any) -> Any:
    """Build a schema from its specification."""
    fields, metadata = spec
    return pa.schema([make_field(reader, field) for field in fields], metadata)
