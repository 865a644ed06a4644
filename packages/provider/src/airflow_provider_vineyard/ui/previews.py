"""What is believed of a preview that a store returned: known kinds within bounds, built anew from plain scalars.

A store is written by many, so its bytes may be anybody's. Pure: the same dict goes in and comes out as one that has
these fields only, with texts of bounded length, numbers, truth values and None in them. Whatever else arrives is no
preview. What the fields mean is written where core makes them.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, List, Mapping, Optional

__all__ = ["checked"]

_COLUMNS = 40
_ROWS = 20
_CELLS = 8
_MEMBERS = 20
_BINS = 50
_DEPTH = 6
_DIMENSIONS = 32
_NAME = 200
_CELL = 200
_TEXT = 4096
_LARGEST = 1 << 60


class _Unfit(ValueError):
    """It is no preview."""


def checked(preview: object) -> Optional[Dict[str, Any]]:
    """Return a preview, rebuilt; None if it is none."""
    try:
        return _preview(preview)
    except (_Unfit, RecursionError):
        return None


def _preview(data: object) -> Dict[str, Any]:
    fields = _object(data)
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise _Unfit
    return {"kind": kind, **_KINDS[kind](fields)}


def _table(data: Mapping[str, Any]) -> Dict[str, Any]:
    made: Dict[str, Any] = {"columns": [_column(each) for each in _list(data.get("columns"), _COLUMNS)]}
    _counts(data, made, "rows", "cols", "sampled")
    if "index" in data:
        index = _object(data["index"])
        made["index"] = {name: _text(index[name], _NAME) for name in ("type", "name") if name in index}
    if "head" in data:
        made["head"] = [[_scalar(cell, _CELL) for cell in _list(row, _COLUMNS)] for row in _list(data["head"], _ROWS)]
    return made


def _column(data: object) -> Dict[str, Any]:
    fields = _object(data)
    made: Dict[str, Any] = {"name": _scalar(fields.get("name"), _NAME), "type": _text(fields.get("type"), _NAME)}
    _counts(fields, made, "nulls")
    _figures(fields, made)
    return made


def _array(data: Mapping[str, Any]) -> Dict[str, Any]:
    made: Dict[str, Any] = {
        "shape": [_count(each) for each in _list(data.get("shape"), _DIMENSIONS)],
        "dtype": _text(data.get("dtype"), _NAME),
    }
    if "head" in data:
        made["head"] = _nested(data["head"], 3)
    _counts(data, made, "sampled")
    _figures(data, made)
    return made


def _nested(data: object, depth: int) -> Any:
    if not isinstance(data, list):
        return _scalar(data, _CELL)
    if depth == 0:
        raise _Unfit
    return [_nested(each, depth - 1) for each in _list(data, _CELLS)]


def _string(data: Mapping[str, Any]) -> Dict[str, Any]:
    made: Dict[str, Any] = {}
    _counts(data, made, "length")
    if "head" in data:
        made["head"] = _text(data["head"], _TEXT)
    return made


def _tree(data: Mapping[str, Any]) -> Dict[str, Any]:
    return _node(data, 0)


def _node(data: object, depth: int) -> Dict[str, Any]:
    """Return a member of a container; its ``kids`` are members, or pairs of a name and a member."""
    fields = _object(data)
    if depth > _DEPTH:
        raise _Unfit
    made: Dict[str, Any] = {"t": _text(fields.get("t"), _NAME)}
    _counts(fields, made, "n")
    if "v" in fields:
        made["v"] = _scalar(fields["v"], _CELL)
    if "k" in fields:
        made["k"] = _scalar(fields["k"], _NAME)
    if "shape" in fields:
        made["shape"] = [_count(each) for each in _list(fields["shape"], _DIMENSIONS)]
    if "dtype" in fields:
        made["dtype"] = _text(fields["dtype"], _NAME)
    if "kids" in fields:
        made["kids"] = [_kid(each, depth + 1) for each in _list(fields["kids"], _MEMBERS)]
    return made


def _kid(data: object, depth: int) -> Any:
    if not isinstance(data, list):
        return _node(data, depth)
    if len(data) != 2:
        raise _Unfit
    return [_scalar(data[0], _NAME), _node(data[1], depth)]


def _figures(data: Mapping[str, Any], made: Dict[str, Any]) -> None:
    """Take over ranges and a histogram, where there are any: of a column beside its name, of an array in ``stats``."""
    ranges = _object(data["stats"]) if "stats" in data else data
    figures = {name: _scalar(ranges[name], _CELL) for name in ("min", "max", "mean") if name in ranges}
    if figures:
        made["stats"] = figures
    if data.get("hist") is not None:
        made["hist"] = [_count(each) for each in _list(data["hist"], _BINS)]


def _counts(data: Mapping[str, Any], made: Dict[str, Any], *names: str) -> None:
    for name in names:
        if name in data:
            value = data[name]
            made[name] = value if value is None or isinstance(value, bool) else _count(value)


def _object(data: object) -> Mapping[str, Any]:
    if type(data) is not dict:
        raise _Unfit
    return data


def _list(data: object, most: int) -> List[Any]:
    if type(data) is not list:
        raise _Unfit
    return data[:most]


def _count(data: object) -> int:
    if type(data) is not int or not 0 <= data <= _LARGEST:
        raise _Unfit
    return data


def _text(data: object, most: int) -> str:
    if type(data) is not str:
        raise _Unfit
    # Half a surrogate cannot be sent.
    return data[:most].encode("utf-8", "backslashreplace").decode()


def _scalar(data: object, most: int) -> Any:
    if data is None or type(data) is bool:
        return data
    if type(data) is int:
        # A browser has no larger integers.
        return data if abs(data) < 1 << 53 else str(data)[:most] if abs(data) < 1 << 256 else "…"
    if type(data) is float:
        return data if math.isfinite(data) else str(data)
    return _text(data, most)


_KINDS: Dict[str, Callable[[Mapping[str, Any]], Dict[str, Any]]] = {
    "table": _table,
    "array": _array,
    "text": _string,
    "bytes": _string,
    "tree": _tree,
}
