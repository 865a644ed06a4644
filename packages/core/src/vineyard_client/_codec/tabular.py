"""Previews of tables and arrays: what is shown of values of pandas, numpy, polars and pyarrow.

A table is taken apart into its columns' own memory before anything is asked of it, because a column may be of a class
that somebody else wrote. What is called is called on what has exactly a known type; of any other column the type is
shown, and ``…`` for its cells. A sample is a strided slice, so its cost does not depend on the size of the value.
"""

from __future__ import annotations

import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from .cells import HIDDEN, LARGEST, Maker, cell, cut, is_known, is_missing, name_of_type, which

__all__ = ["described", "shape"]

# Of a table; rows also of one that is so small that its preview must not cost much.
_COLUMNS = 40
_ROWS = 10
_FEW_ROWS = 5

# Of an array, each way.
_SIDE = 8

# Elements that are looked at for what is missing, and for ranges and histograms.
_SAMPLE = 1000
_SAMPLE_OF_STATS = 10_000

_BINS = 10

# Bytes of an element beyond which none is taken out.
_WIDE = 1024

_UNKNOWN = "…"


class _Column(NamedTuple):
    """What is seen of a column.

    Attributes:
        type: its type, as its library calls it.
        head: its first cells, as plain values.
        nulls: how many are missing of those that were looked at; None where none can be.
        numbers: a sample of its numbers, as an array of numpy's.
        sampled: how many were looked at; None where that is all.
        bare: whether the cells are such as JSON has them.
    """

    type: str
    head: Sequence[Any]
    nulls: Optional[int] = None
    numbers: Any = None
    sampled: Optional[int] = None
    bare: bool = False


def described(value: Any, maker: Maker) -> Optional[Dict[str, Any]]:
    """Return the document about a table or an array; None if it is neither."""
    kind = type(value)
    if kind is which("numpy", "ndarray"):
        return _array(value, maker)
    if kind is which("pandas", "DataFrame"):
        return _frame(value, maker)
    if kind is which("pandas", "Series"):
        return _series(value, maker)
    if kind is which("polars", "DataFrame"):
        return _polars(value, maker)
    if kind is which("pyarrow", "Table") or kind is which("pyarrow", "RecordBatch"):
        return _arrow(value, maker)
    return None


def shape(value: Any) -> Dict[str, Any]:
    """Return the shape of a table or an array inside of a tree, as a field of its node."""
    kind = type(value)
    if kind is which("numpy", "ndarray"):
        return {"shape": list(value.shape), "dtype": _name_of(value.dtype)}
    if kind is which("pandas", "DataFrame"):
        return {"shape": list(value._mgr.shape[::-1])} if _is_plain_index(value.index) else {}
    if kind is which("polars", "DataFrame") or kind is which("pyarrow", "Table"):
        return {"shape": list(value.shape)}
    return {}


# ---- tables


def _table(
    rows: int,
    names: Sequence[Any],
    columns: Sequence[_Column],
    maker: Maker,
    *,
    of: int,
    index: Optional[Dict[str, Any]] = None,
) -> Dict[str, Any]:
    """Return the document about a table.

    Args:
        rows: how many it has.
        names: of the columns that are shown.
        columns: those.
        maker: says what may be shown.
        of: how many columns it has.
        index: of its rows.
    """
    found: Dict[str, Any] = {"kind": "table", "rows": rows, "cols": of, "columns": []}
    cells: List[Sequence[Any]] = []
    looked: List[int] = []
    for name, column in zip(names, columns):
        told: Dict[str, Any] = {"name": _label(name), "type": cut(column.type)}
        if column.nulls is not None:
            told["nulls"] = column.nulls
        hidden = maker.hides(name)
        if maker.counts and column.numbers is not None and not hidden:
            told.update(_stats(column.numbers))
        if column.sampled is not None and (column.nulls is not None or "hist" in told):
            looked.append(column.sampled)
        found["columns"].append(told)
        if maker.shows and hidden:
            cells.append([HIDDEN] * len(column.head))
        elif maker.shows:
            cells.append(column.head if column.bare else list(map(cell, column.head)))
    if index is not None:
        found["index"] = index
    if looked and min(looked) < rows:
        found["sampled"] = min(looked)
    if maker.shows and cells:
        found["head"] = list(map(list, zip(*cells)))
    return found


def _label(name: Any) -> str:
    if type(name) is str:
        return cut(name)
    if type(name) is tuple:
        return cut(" / ".join([_label(part) for part in name[:4]]))
    return cut(str(cell(name)))


def _step(rows: int, maker: Maker) -> int:
    most = _SAMPLE_OF_STATS if maker.counts else _SAMPLE
    return max(1, -(-rows // most))


def _rows(maker: Maker) -> int:
    return _FEW_ROWS if maker.small else _ROWS


# ---- numpy


def _is_plain(dtype: Any) -> bool:
    """Tell whether elements can be had without code that is not numpy's own, and are not too large to be had."""
    return dtype.isbuiltin != 2 and dtype.itemsize <= _WIDE and (dtype.kind in "biufcmMSUOT")


def _of_numpy(array: Any, maker: Maker) -> _Column:
    """Return what is seen of an array with one dimension."""
    dtype, most = array.dtype, _rows(maker)
    name = _name_of(dtype)
    if not _is_plain(dtype):
        return _Column(name, [_UNKNOWN] * min(len(array), most))
    kind, head = dtype.kind, _elements(array[:most])
    if kind in "biuSUT":
        numbers = array[:: _step(len(array), maker)] if maker.counts and kind in "iu" else None
        return _Column(name, head, numbers=numbers, bare=kind == "b" or (kind in "iu" and _are_bare(head)))
    sample = array[:: _step(len(array), maker)]
    if kind == "O":
        nulls = sum(map(is_missing, sample[:_SAMPLE].tolist()))
        return _Column(name, head, nulls, None, min(len(sample), _SAMPLE))
    numpy: Any = sys.modules["numpy"]
    missing = numpy.isnat(sample) if kind in "mM" else sample != sample
    numbers = sample[~missing] if maker.counts and kind == "f" else None
    return _Column(name, head, int(numpy.count_nonzero(missing)), numbers, len(sample), kind == "f")


def _are_bare(numbers: Sequence[int]) -> bool:
    return not numbers or (min(numbers) >= -LARGEST and max(numbers) <= LARGEST)


def _name_of(dtype: Any) -> str:
    return _NAMES.get(dtype.str) or cut(str(dtype))


# What the most usual types are called, which numpy takes its time to say.
_NAMES = {f"<{code}8": f"{name}64" for code, name in (("f", "float"), ("i", "int"), ("u", "uint"))}


def _elements(array: Any) -> List[Any]:
    """Return the elements of a plain array, as plain values."""
    if array.dtype.kind in "mM":
        found: List[Any] = sys.modules["numpy"].datetime_as_string(array).tolist() if array.dtype.kind == "M" else []
        return found or [str(each) for each in array]
    listed: List[Any] = array.tolist()
    return listed


def _stats(numbers: Any) -> Dict[str, Any]:
    """Return the range of numbers, and how many of them are in each tenth of it."""
    numpy: Any = sys.modules["numpy"]
    numbers = numbers[numpy.isfinite(numbers)]
    if not numbers.size:
        return {}
    low, high = numbers.min().item(), numbers.max().item()
    counts, _ = numpy.histogram(numbers.astype(float), bins=_BINS)
    mean = numbers.mean(dtype=float).item()
    return {"min": cell(low), "max": cell(high), "mean": cell(float(mean)), "hist": counts.tolist()}


def _array(value: Any, maker: Maker) -> Dict[str, Any]:
    dtype = value.dtype
    found: Dict[str, Any] = {"kind": "array", "shape": list(value.shape), "dtype": _name_of(dtype)}
    if not maker.shows or not _is_plain(dtype):
        return found
    corner = value
    while corner.ndim > 2:
        if not len(corner):
            return found
        corner = corner[0]
    if corner.ndim:  # to slice one without dimensions is to take its element out
        corner = corner[(slice(_SIDE),) * corner.ndim]
    if corner.ndim == 2:
        found["head"] = [list(map(cell, _elements(row))) for row in corner]
    else:
        found["head"] = list(map(cell, _elements(corner.reshape(-1))))
    if maker.counts and dtype.kind in "iuf" and value.size:
        sample = _sample(value)
        found.update(stats=_stats(sample.reshape(-1)), sampled=int(sample.size))
        hist = found["stats"].pop("hist", None)
        if hist is not None:
            found["hist"] = hist
    return found


def _sample(value: Any) -> Any:
    """Return a strided part of an array that has no more elements than a sample may."""
    while value.size > _SAMPLE_OF_STATS:
        axis = max(range(value.ndim), key=lambda number: value.shape[number])
        rest = value.size // value.shape[axis]
        most = max(1, _SAMPLE_OF_STATS // rest)
        step = min(-(-value.shape[axis] // most), value.shape[axis])
        value = value[tuple(slice(None, None, step if number == axis else None) for number in range(value.ndim))]
    return value


# ---- pandas


def _frame(value: Any, maker: Maker) -> Optional[Dict[str, Any]]:
    index, labels = value.index, value.columns
    if not _is_plain_index(index) or not _is_plain_index(labels):
        return None
    manager = value._mgr
    of, rows = manager.shape
    columns = _of_block(manager, rows, maker)
    if columns is None:
        columns = [_of_pandas(manager.iget_values(number), rows, maker) for number in range(min(of, _COLUMNS))]
    names = (labels if of <= _COLUMNS else labels[:_COLUMNS]).tolist()
    return _table(rows, names, columns, maker, of=of, index=_index(index, maker))


def _of_block(manager: Any, rows: int, maker: Maker) -> Optional[List[_Column]]:
    """Return what is seen of the columns of a frame that is one array of floats, at once; None for any other frame.

    A small one takes less to be stored than to have each of its columns looked at.
    """
    blocks: Any = getattr(manager, "blocks", ())
    values: Any = blocks[0].values if len(blocks) == 1 and not maker.counts else None
    if type(values) is not which("numpy", "ndarray") or values.dtype.str != "<f8":
        return None
    shown = values[:_COLUMNS]
    if manager.blklocs[:_COLUMNS].tolist() != list(range(len(shown))):
        return None
    sample = shown[:, :: _step(rows, maker)]
    missing = sys.modules["numpy"].count_nonzero(sample != sample, axis=1).tolist()
    heads = shown[:, : _rows(maker)].tolist()
    return [_Column("float64", head, nulls, None, sample.shape[1], True) for head, nulls in zip(heads, missing)]


def _series(value: Any, maker: Maker) -> Optional[Dict[str, Any]]:
    index = value.index
    if not _is_plain_index(index):
        return None
    column = _of_pandas(value._values, len(index), maker)
    return _table(len(index), [value.name], [column], maker, of=1, index=_index(index, maker))


def _index(index: Any, maker: Maker) -> Dict[str, Any]:
    """Return what is said of the index of rows: names and type; its labels are not shown."""
    found: Dict[str, Any] = {"type": cut(name_of_type(type(index)))}
    names = [_label(name) for name in index.names[:4] if name is not None]
    return {**found, "name": cut(" / ".join(names))} if names else found


def _is_plain_index(index: Any) -> bool:
    """Tell whether an index, and all that it has, is of pandas itself."""
    kind = type(index)
    if kind is which("pandas", "RangeIndex"):
        return True
    if kind is which("pandas", "MultiIndex"):
        return all(map(_is_plain_index, index._levels))
    return is_known(kind) and _has_plain_memory(index._data)


def _has_plain_memory(array: Any) -> bool:
    """Tell whether an array is numpy's, or one of pandas' own that keeps nothing of somebody else's."""
    kind = type(array)
    if kind is which("numpy", "ndarray"):
        return True
    if not is_known(kind):
        return False
    categories = getattr(array, "categories", None) if kind is which("pandas", "Categorical") else None
    if categories is not None:
        return _is_plain_index(categories)
    for name in ("_ndarray", "_data", "_pa_array"):
        inner = getattr(array, name, None)
        if inner is not None:
            chunked = type(inner) is which("pyarrow", "ChunkedArray")
            return is_known(type(inner.type)) if chunked else type(inner) is which("numpy", "ndarray")
    return False


def _of_pandas(array: Any, rows: int, maker: Maker) -> _Column:
    """Return what is seen of a column's own memory."""
    kind = type(array)
    if kind is which("numpy", "ndarray"):
        return _of_numpy(array, maker)
    if not is_known(kind) or not _has_plain_memory(array):
        return _Column(name_of_type(kind), [_UNKNOWN] * min(rows, _rows(maker)))
    if kind.__name__ == "Categorical":
        return _of_categories(array, maker)
    if kind.__name__ == "DatetimeArray":
        return _of_moments(array, maker)
    if kind.__name__ == "TimedeltaArray":
        return _of_numpy(array._ndarray, maker)
    mask = getattr(array, "_mask", None)
    if type(mask) is which("numpy", "ndarray") and type(array._data) is which("numpy", "ndarray"):
        return _of_masked(array._data, mask, str(array.dtype), maker)
    arrow = next((found for found in map(vars(array).get, ("_pa_array", "_data")) if found is not None), None)
    if type(arrow) is which("pyarrow", "ChunkedArray"):
        return _of_arrow(arrow, maker)._replace(type=str(array.dtype))
    if kind.__name__ in ("StringArray", "NumpyExtensionArray", "PandasArray"):
        return _of_numpy(array._ndarray, maker)._replace(type=str(array.dtype))
    return _Column(name_of_type(kind), [_UNKNOWN] * min(rows, _rows(maker)))


def _of_categories(array: Any, maker: Maker) -> _Column:
    codes, categories = array.codes, array.categories
    sample = codes[:: _step(len(codes), maker)]
    head = [None if code < 0 else categories[code] for code in codes[: _rows(maker)].tolist()]
    return _Column("category", head, int((sample < 0).sum()), None, len(sample))


def _of_moments(array: Any, maker: Maker) -> _Column:
    """Return what is seen of times: those with a zone are shown in UTC, in which they are kept."""
    found = _of_numpy(array._ndarray, maker)
    zone = getattr(array.dtype, "tz", None) if is_known(type(array.dtype)) else None
    if zone is None:
        return found
    name = str(zone) if type(zone).__module__.partition(".")[0] in ("datetime", "zoneinfo", "pytz") else ""
    head = [text if text == "NaT" else f"{text}Z" for text in found.head]
    return found._replace(type=f"{found.type[:-1]}, {name or name_of_type(type(zone))}]", head=head)


def _of_masked(data: Any, mask: Any, name: str, maker: Maker) -> _Column:
    step = _step(len(data), maker)
    missing = mask[::step]
    head = [None if gone else each for each, gone in zip(data[: _rows(maker)].tolist(), mask[: _rows(maker)].tolist())]
    numbers = data[::step][~missing] if maker.counts and data.dtype.kind in "iuf" else None
    return _Column(name, head, int(missing.sum()), numbers, len(missing))


# ---- polars


def _polars(value: Any, maker: Maker) -> Dict[str, Any]:
    series = value.get_columns()[:_COLUMNS]
    columns = [_of_polars(each, maker) for each in series]
    return _table(value.height, [each.name for each in series], columns, maker, of=value.width)


def _of_polars(series: Any, maker: Maker) -> _Column:
    dtype = series.dtype
    kind = dtype if is_known(type(dtype)) and type(dtype).__name__ == "DataTypeClass" else type(dtype)
    name = str(dtype) if is_known(kind) else name_of_type(kind)
    nulls, word = int(series.null_count()), kind.__name__
    head = series.head(_rows(maker))
    if not is_known(kind) or word not in _OF_POLARS:
        return _Column(name, [_UNKNOWN] * len(head), nulls)
    if word in ("String", "Utf8"):
        head = head.str.slice(0, 2 * _SIDE * _SIDE)
    elif word in ("Date", "Time", "Datetime", "Categorical", "Enum"):
        head = head.cast(which("polars", "String"))
    numbers = None
    if maker.counts and "numpy" in sys.modules and word.startswith(("Int", "UInt", "Float")):
        numbers = series.gather_every(_step(len(series), maker)).drop_nulls().to_numpy()
    return _Column(name, head.to_list(), nulls, numbers, None if numbers is None else len(numbers))


_OF_POLARS = (
    *("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64", "Boolean"),
    *("String", "Utf8", "Date", "Time", "Datetime", "Categorical", "Enum", "Decimal", "Null"),
)


# ---- pyarrow


def _arrow(value: Any, maker: Maker) -> Dict[str, Any]:
    shown = range(min(value.num_columns, _COLUMNS))
    columns = [_of_arrow(value.column(number), maker) for number in shown]
    names = [value.schema.field(number).name for number in shown]
    return _table(value.num_rows, names, columns, maker, of=value.num_columns)


def _of_arrow(array: Any, maker: Maker) -> _Column:
    """Return what is seen of an array, or of one in chunks."""
    kind = array.type
    if not is_known(type(kind)):
        return _Column(name_of_type(type(kind)), [_UNKNOWN] * min(len(array), _ROWS), array.null_count)
    name = str(kind)
    head, simple = array.slice(0, _rows(maker)), name.partition("[")[0].partition("(")[0]
    if simple not in _OF_ARROW:
        return _Column(name, [_UNKNOWN] * len(head), array.null_count)
    if simple in _TEXTS and head.nbytes > _WIDE:
        cells = [_text_of(head[number]) for number in range(len(head))]
    elif simple in ("timestamp", "time32", "time64", "date32", "date64", "duration"):
        cells = [None if each is None else str(each) for each in _times(head, simple)]
    else:
        cells = head.to_pylist()
    return _Column(name, cells, array.null_count)


def _times(head: Any, simple: str) -> List[Any]:
    if simple == "timestamp" and "numpy" in sys.modules:
        kind = f"datetime64[{head.type.unit}]"
        numbers = head.cast("int64").to_pylist()
        end = "Z" if head.type.tz else ""
        make = sys.modules["numpy"].datetime64
        return [None if each is None else f"{make(each, kind[11:-1])}{end}" for each in numbers]
    if simple in ("date32", "date64"):
        found: List[Any] = head.to_pylist()
        return found
    return [_UNKNOWN] * len(head)


def _text_of(scalar: Any) -> Optional[str]:
    """Return the beginning of a text, of which no more is copied."""
    buffer = scalar.as_buffer()
    return None if buffer is None else bytes(memoryview(buffer)[:_WIDE]).decode("utf-8", "ignore")


_TEXTS = ("string", "large_string", "string_view", "utf8", "large_utf8")
_OF_ARROW = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "halffloat", "float", "double"),
    *("bool", "null", "decimal128", "decimal256", "timestamp", "time32", "time64", "date32", "date64", "duration"),
    *_TEXTS,
)
