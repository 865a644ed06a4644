"""pandas frames, series and indexes as ``vineyard::DataFrame``, ``Series`` and ``Index``.

A column is a tensor. C++ keeps columns in a map, so they may come in another order than their names, and the index may
be among them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, List, Optional

from .arrays import tensor, text_tensor
from .forms import Draft, View, library, no_form

if TYPE_CHECKING:
    from .values import Reader

__all__ = ["draft", "read"]

_PLAIN_PUT = "Convert it, or put it without native=True."


# ---- reading


def read(reader: Reader, view: View) -> Any:
    """Return the value of a frame, a series, an index, or a list of the frames of a partitioned one."""
    pd = library("pandas", view.typename)
    if view.base == "vineyard::DataFrame":
        return _read_frame(pd, reader, view)
    if view.base == "vineyard::GlobalDataFrame":
        return [reader.read(view.member(f"partitions_-{i}")) for i in range(view.count("partitions_-size"))]
    values = _flat(pd, reader.read(view.member("value_")))
    name = _label(view.json("name")) if "name" in view else None
    if view.base == "vineyard::Index":
        # The one dtype of an index that its values do not show.
        category = "value_type_" in view and view.text("value_type_") == "category"
        return pd.Index(values, name=name, tupleize_cols=False, dtype="category" if category else None)
    index = _index(pd, reader.read(view.member("index_"))) if "index_" in view else None
    return pd.Series(values, index=index, name=name, copy=False)


def _read_frame(pd: Any, reader: Reader, view: View) -> Any:
    labels = [_label(label) for label in view.json("columns_")]
    keys = [_label(view.json(f"__values_-key-{i}")) for i in range(view.count("__values_-size"))]
    places: List[int] = list(range(len(labels)))
    if keys[: len(labels)] != labels:
        places = [keys.index(label) for label in labels]
    columns = [_flat(pd, reader.read(view.member(f"__values_-value-{place}"))) for place in places]
    if "index_" in view:
        index = _index(pd, reader.read(view.member("index_")))
    elif "index_" in keys and "index_" not in labels:
        index = _index(pd, reader.read(view.member(f"__values_-value-{keys.index('index_')}")))
    else:
        index = pd.RangeIndex(len(columns[0]) if columns else 0)
    if any(len(column) != len(index) for column in columns):
        raise ValueError(f"columns of {[len(column) for column in columns]!r:.80} rows with {len(index)} labels")
    series = {i: pd.Series(column, index=index, copy=False) for i, column in enumerate(columns)}
    frame = pd.DataFrame(series, index=index, copy=False)
    frame.columns = pd.Index(labels, tupleize_cols=False) if labels else pd.RangeIndex(0)
    return frame


def _index(pd: Any, values: Any) -> Any:
    return values if isinstance(values, pd.Index) else pd.Index(_flat(pd, values), tupleize_cols=False)


def _flat(pd: Any, values: Any) -> Any:
    """Return the values of a column, without labels of their own that pandas would go by."""
    values = values.array if isinstance(values, (pd.Series, pd.Index)) else values
    if getattr(values, "ndim", 1) != 1:
        raise ValueError(f"a column of {values.ndim} dimensions")
    return values


def _label(label: Any) -> Any:
    """Return a label as pandas can have it: JSON makes lists of tuples."""
    return tuple(map(_label, label)) if isinstance(label, list) else label


# ---- writing


def draft(value: Any) -> Optional[Draft]:
    """Return the draft of a frame, series or index, None for other things."""
    pd = library("pandas", "vineyard::DataFrame")
    if type(value) is pd.DataFrame:
        return _draft_frame(pd, value)
    if type(value) is pd.Series:
        _without_attrs(value, "series")
        members = {"index_": _draft_index(pd, value.index), "value_": _column(pd, value, "a series")}
        return Draft("vineyard::Series", {"name": _name(value.name)}, members, sum(m.nbytes for m in members.values()))
    return _draft_index(pd, value) if isinstance(value, pd.Index) else None


def _draft_frame(pd: Any, frame: Any) -> Draft:
    _without_attrs(frame, "frame")
    if isinstance(frame.columns, pd.MultiIndex) or frame.columns.name is not None:
        raise no_form("a frame whose columns have levels or a name", "Give it plain column names.")
    labels = [json.loads(_name(label)) for label in frame.columns]
    if not labels and len(frame):
        raise no_form("a frame without columns but with rows", _PLAIN_PUT)
    members = {}
    if not _counts_rows(pd, frame.index):
        members["index_"] = _draft_index(pd, frame.index)
    fields = {"columns_": json.dumps(labels), "__values_-size": len(labels)}
    for i, label in enumerate(labels):
        fields[f"__values_-key-{i}"] = json.dumps(label)
        members[f"__values_-value-{i}"] = _column(pd, frame.iloc[:, i], f"the column {label!r}")
    fields.update(partition_index_row_=-1, partition_index_column_=-1, row_batch_index_=0)
    return Draft("vineyard::DataFrame", fields, members, sum(member.nbytes for member in members.values()))


def _draft_index(pd: Any, index: Any) -> Draft:
    if isinstance(index, pd.MultiIndex):
        raise no_form("an index of several levels", "Make columns of them: frame.reset_index().")
    values = _column(pd, index, "an index")
    fields = {"name": _name(index.name), "value_type_": values.fields["value_type_"].replace("string", "object")}
    return Draft("vineyard::Index", fields, {"value_": values}, values.nbytes)


def _column(pd: Any, values: Any, what: str) -> Draft:
    """Return the draft of a column's or index's values."""
    if values.dtype == object or str(values.dtype) == "str":  # the latter is text in pandas 3
        texts = values.to_numpy(dtype=object)
        missing = pd.isna(texts)
        if missing.any():
            texts = texts.copy()
            texts[missing] = None
        try:
            return text_tensor(texts)
        except TypeError as error:
            raise no_form(f"{what}, whose objects are not all text", _PLAIN_PUT, getattr(error, "name", "")) from error
    if pd.api.types.is_extension_array_dtype(values.dtype):
        raise no_form(f"{what} of dtype {values.dtype}", _PLAIN_PUT, str(values.dtype))
    return tensor(values.to_numpy())


def _counts_rows(pd: Any, index: Any) -> bool:
    return isinstance(index, pd.RangeIndex) and index.name is None and index.equals(pd.RangeIndex(len(index)))


def _without_attrs(value: Any, what: str) -> None:
    if getattr(value, "attrs", None):
        raise no_form(f"a {what} with attrs", "Clear them.")


def _name(label: Any) -> str:
    """Return a label as JSON."""
    if label is not None and type(label) not in (str, int):
        item = getattr(label, "item", None)
        if item is None or type(item()) is not int:
            raise no_form(f"the name {label!r:.80}, which is neither text nor a whole number", "Rename it.")
        label = item()
    return json.dumps(label)
