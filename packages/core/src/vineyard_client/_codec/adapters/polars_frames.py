"""polars: frames and series through Arrow, so that their buffers travel out of band and come back without a copy.

Columns that pyarrow cannot take (128-bit integers, Python objects), and all of them where pyarrow is not installed,
travel as a list or as polars' own IPC format, which costs one copy in each direction. Types that Arrow does not tell
apart are restored by a cast, and sortedness is set again.

A lazy frame is a plan, and a plan may name Python functions and native plugins, which collecting it runs; polars
unpickles such functions when it reads the plan. So a lazy frame is stored without permission only if it is nothing but
a frame (``frame.lazy()``); any other needs ``allowed_classes=["polars.lazyframe.frame.LazyFrame"]`` on both sides.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import pickle
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from vineyard_client.exceptions import UnsafeType

from ..lending import lend
from ..ops import MAKE
from .arrow_types import field_at
from .common import checked, damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

pl: Any = None  # set by install(): this module is loaded for values of polars only

# Types without parameters, by their names in polars 1.0 - 2.1.
_SIMPLE = frozenset(
    [
        "Null",
        "Boolean",
        "Int8",
        "Int16",
        "Int32",
        "Int64",
        "Int128",
        "UInt8",
        "UInt16",
        "UInt32",
        "UInt64",
        "UInt128",
        "Float16",
        "Float32",
        "Float64",
        "String",
        "Binary",
        "Date",
        "Time",
        "Object",
        "Unknown",
    ]
)
_PARAMETRIC = ["Datetime", "Duration", "Decimal", "List", "Array", "Struct", "Enum", "Categorical", "Field"]
# By this name in its own format polars means columns of Python objects, and where they are in this process's memory.
_ADDRESS = b"_POLARS_PYTHON_OBJECT"
# Types that Arrow, or pyarrow's import of it, has no place for.
_NOT_IN_ARROW = ("Object", "Int128", "UInt128")


# --- types
# -------------------------------------------------------------------------------------------------------------


def _type_spec(dtype: Any) -> Any:
    """Spell a type out."""
    # A type without parameters may be given as its class.
    name = dtype.__name__ if isinstance(dtype, type) else type(dtype).__name__
    if name in _SIMPLE or isinstance(dtype, type):
        return name
    if name == "Datetime":
        return name, dtype.time_unit, dtype.time_zone
    if name == "Duration":
        return name, dtype.time_unit
    if name == "Decimal":
        return name, dtype.precision, dtype.scale
    if name == "List":
        return name, _type_spec(dtype.inner)
    if name == "Array":
        inner = dtype.inner
        for _ in dtype.shape[1:]:
            inner = inner.inner
        return name, _type_spec(inner), list(dtype.shape)
    if name == "Struct":
        return name, [(field.name, _type_spec(field.dtype)) for field in dtype.fields]
    if name == "Enum":
        return name, dtype.categories.to_list()
    if name == "Categorical":
        return name, getattr(dtype, "ordering", None)
    raise UnsafeType(
        f"polars data of type {dtype} cannot be stored: this release does not know that type.",
        "Cast it to another type.",
        f"polars.{name}",
    )


def _make_type(spec: Any) -> Any:
    if type(spec) is str:
        if spec not in _SIMPLE and spec not in _PARAMETRIC:
            raise damaged(f"{spec!r} is no type of polars")
        return getattr(pl, spec) if spec in _PARAMETRIC else getattr(pl, spec)()
    name, *parts = spec
    if name in ("Datetime", "Duration", "Decimal", "Enum"):
        return getattr(pl, name)(*parts)
    if name == "List":
        return pl.List(_make_type(parts[0]))
    if name == "Array":
        return pl.Array(_make_type(parts[0]), tuple(parts[1]))
    if name == "Struct":
        return pl.Struct([pl.Field(field, _make_type(dtype)) for field, dtype in parts[0]])
    if name == "Categorical":
        return pl.Categorical(parts[0]) if parts[0] not in (None, "lexical") else pl.Categorical
    raise damaged(f"{name!r} is no type of polars")


def _in_arrow(spec: Any) -> bool:
    """Tell whether a type and all types inside it can go through pyarrow."""
    if type(spec) is str:
        return spec not in _NOT_IN_ARROW
    if spec[0] in ("Struct", "Array") and int(pl.__version__.partition(".")[0]) < 2:
        # polars 1 exports slices of them with the wrong children: 1.0 - 1.33 were seen to.
        return False
    parts = [part for _, part in spec[1]] if spec[0] == "Struct" else [spec[1]] if spec[0] in ("List", "Array") else []
    return all(map(_in_arrow, parts))


# --- frames
# ------------------------------------------------------------------------------------------------------------


def _parts(columns: List[Any]) -> Tuple[Any, ...]:
    """Take columns apart: names and types, those in Arrow, in IPC and in lists (by position), and which are sorted."""
    specs = [(column.name, _type_spec(column.dtype)) for column in columns]
    through_arrow = importlib.util.find_spec("pyarrow") is not None
    arrow: List[Any] = []
    ipc: List[Any] = []
    objects: Dict[int, Any] = {}
    flags: Dict[int, bool] = {}
    for position, (column, (_, spec)) in enumerate(zip(columns, specs)):
        if spec == "Object":
            objects[position] = column.to_list()
        else:
            # By position: an import from Arrow gives columns without a name one.
            (arrow if through_arrow and _in_arrow(spec) else ipc).append(column.alias(str(position)))
        if column.flags.get("SORTED_ASC") or column.flags.get("SORTED_DESC"):
            flags[position] = bool(column.flags.get("SORTED_DESC"))
    table = _to_arrow(pl.DataFrame(arrow)) if arrow else None
    raw = _to_ipc(pl.DataFrame(ipc)) if ipc else None
    return specs, table, raw, objects, flags


def _to_arrow(frame: Any) -> Any:
    level = getattr(pl, "CompatLevel", None)  # 1.1
    pa = importlib.import_module("pyarrow")
    if level is None or not getattr(getattr(pa, "string_view", lambda: None)(), "has_variadic_buffers", False):
        return frame.to_arrow()
    return frame.to_arrow(compat_level=level.newest())


def _to_ipc(frame: Any) -> Any:
    file = io.BytesIO()
    frame.write_ipc(file, compression="uncompressed")
    if _ADDRESS in file.getbuffer().tobytes():
        raise UnsafeType(
            f"A polars frame cannot be stored that contains the text {_ADDRESS.decode()}, which is polars' own.",
            "Leave it out, or store the columns as lists.",
            "polars.DataFrame",
        )
    return lend(file.getbuffer())


def _bare(dtype: Any) -> bool:
    """Tell whether an Arrow type is one of Arrow's own, and no field inside says that it stands for something else."""
    pa = importlib.import_module("pyarrow")
    if isinstance(dtype, pa.BaseExtensionType):
        return False
    if pa.types.is_dictionary(dtype):
        return _bare(dtype.value_type)
    own = getattr(dtype, "value_field", None)
    fields = [own] if own is not None else [field_at(dtype, position) for position in range(dtype.num_fields)]
    return all(_named_only(field) and _bare(field.type) for field in fields)


def _named_only(field: Any) -> bool:
    return not any(key.startswith(b"ARROW:extension") for key in field.metadata or ())


def _from_arrow(table: Any) -> Any:
    """Import a table into polars, which trusts every number in it, and follows an address that a field may name."""
    pa = importlib.import_module("pyarrow")
    if not isinstance(table, pa.Table):
        raise damaged("the columns of a polars frame are no Arrow table")
    if not all(_named_only(field) and _bare(field.type) for field in table.schema):
        raise damaged("a column of a polars frame is of an extension type")
    table.validate(full=True)
    return pl.from_arrow(table, rechunk=False)


def _from_ipc(raw: Any) -> Any:
    if _ADDRESS in bytes(raw):
        raise damaged("a column of a polars frame names an address")
    return pl.read_ipc(io.BytesIO(raw))


def _without_panic(make: Any, *parts: Any) -> Any:
    """Call what runs code of polars; a fault that it finds in what it was given is no ``Exception`` there."""
    try:
        return make(*parts)
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        raise damaged(f"polars cannot use it: {exc}") from exc


def _columns(specs: Any, table: Any, raw: Any, objects: Dict[int, Any], flags: Dict[int, bool]) -> List[Any]:
    found: Dict[int, Any] = {position: pl.Series("", content, dtype=pl.Object) for position, content in objects.items()}
    if table is not None:
        found.update((int(column.name), column) for column in _from_arrow(table).get_columns())
    if raw is not None:
        found.update((int(column.name), column) for column in _from_ipc(raw).get_columns())
    columns = []
    for position, (name, spec) in enumerate(specs):
        column = found[position]
        if _type_spec(column.dtype) != spec:
            if spec[0] == "Decimal" and spec[1] is None:
                # polars 1 infers decimals without a precision, and gives it up in a cast from text only.
                column = column.cast(pl.String)
            column = column.cast(_make_type(spec))
        if position in flags:
            column = column.set_sorted(descending=flags[position])
        columns.append(column.alias(name))
    return columns


def _reduce_frame(writer: Writer, frame: Any) -> Tuple[Any, ...]:
    return MAKE, ("polars.DataFrame", *_parts(frame.get_columns()))


def _reduce_series(writer: Writer, series: Any) -> Tuple[Any, ...]:
    return MAKE, ("polars.Series", *_parts([series]))


def _make_frame(reader: Reader, *parts: Any) -> Any:
    return _without_panic(lambda: pl.DataFrame(_columns(*parts)))


def _make_series(reader: Reader, *parts: Any) -> Any:
    return _without_panic(_columns, *parts)[0]


def _reduce_lazy(writer: Writer, lazy: Any) -> Tuple[Any, ...]:
    plan = lazy.explain(optimized=False)
    if plan.startswith("DF [") and "\n" not in plan:
        # Nothing but a frame: to collect it hands out the same columns.
        return MAKE, ("polars.lazy", lazy.collect())
    cls = type(lazy)
    module, name = writer.name_of(cls)
    return MAKE, ("polars.plan", module, name, pickle.PickleBuffer(lazy.serialize()))


def _make_lazy(reader: Reader, frame: Any) -> Any:
    if type(frame) is not pl.DataFrame:
        raise damaged("a lazy frame is not made of a frame")
    return frame.lazy()


def _make_plan(reader: Reader, module: str, name: str, plan: Any) -> Any:
    cls = reader.find_class(module, name)
    if cls is not pl.LazyFrame:
        raise damaged(f"{name} is no lazy frame")
    return _without_panic(pl.LazyFrame.deserialize, io.BytesIO(plan))


def _reduce_type(writer: Writer, dtype: Any) -> Tuple[Any, ...]:
    return MAKE, ("polars.DataType", _type_spec(dtype))


def _make_datatype(reader: Reader, spec: Any) -> Any:
    return _without_panic(_make_type, spec)


def _reduce_field(writer: Writer, field: Any) -> Tuple[Any, ...]:
    return MAKE, ("polars.field", field.name, _type_spec(field.dtype))


def _make_field(reader: Reader, name: Any, spec: Any) -> Any:
    return pl.Field(checked(name, str), _without_panic(_make_type, spec))


def install(table: Table) -> None:
    """Declare the types of polars."""
    global pl
    pl = importlib.import_module("polars")
    table.reducers[pl.DataFrame] = _reduce_frame
    table.reducers[pl.Series] = _reduce_series
    table.reducers[pl.LazyFrame] = _reduce_lazy
    table.bases[pl.DataType] = _reduce_type
    table.reducers[pl.Field] = _reduce_field
    table.makers.update(
        {
            "polars.DataFrame": _make_frame,
            "polars.Series": _make_series,
            "polars.lazy": _make_lazy,
            "polars.plan": _make_plan,
            "polars.DataType": _make_datatype,
            "polars.field": _make_field,
        }
    )
    for name in (*_SIMPLE, *_PARAMETRIC):
        cls = getattr(pl, name, None)
        if cls is not None and isinstance(cls, type):
            table.value(f"polars.{name}", cls)
