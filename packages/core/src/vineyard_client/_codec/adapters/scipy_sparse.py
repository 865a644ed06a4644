"""scipy.sparse: matrices and arrays of every format, as the attributes they consist of.

The object is made empty and gets its attributes (arrays, shape, flags) back as they were: scipy's constructors may look
through the indices and choose another integer type. Then everything is checked that scipy's C code takes for granted:
that the arrays have the lengths that belong together, and that each index points into the shape, which reads the
indices.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Dict, Tuple

from ..ops import FILL, MAKE
from . import scipy_objects
from .common import damaged

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

# scipy 1.4 - 1.18; the arrays from 1.8 on.
_NAMES = [
    f"{form}_{kind}" for form in ["bsr", "coo", "csc", "csr", "dia", "dok", "lil"] for kind in ("matrix", "array")
]

_classes: Dict[str, Any] = {}


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    name = type(value).__name__
    # The dictionary of keys is a dict itself before 1.12.
    items = list(dict.items(value)) if isinstance(value, dict) else []
    return MAKE, ("scipy.sparse", name), ("scipy.sparse", (dict(vars(value)), items)), None, None, FILL


def _make(reader: Reader, name: Any) -> Any:
    cls = _classes.get(name)
    if cls is None:
        raise damaged(f"{name!r} is no sparse format of this scipy")
    return cls.__new__(cls)


def _fill(reader: Reader, value: Any, state: Any) -> None:
    attributes, items = state
    if _classes.get(type(value).__name__) is not type(value) or vars(value):
        raise damaged(f"a {type(value).__name__} is filled as a sparse matrix")
    vars(value).update(attributes)
    if items:
        dict.update(value, items)
    _check(type(value).__name__[:3], value)


def _need(condition: Any) -> None:
    if not condition:
        raise damaged("the parts of a sparse matrix do not fit together")


def _check(form: str, value: Any) -> None:
    """Refuse parts that do not belong together, and indices outside of the shape."""
    np: Any = importlib.import_module("numpy")
    shape = vars(value).get("_shape")
    _need(type(shape) is tuple and all(isinstance(length, (int, np.integer)) and length >= 0 for length in shape))
    names = {"lil": ("rows", "data"), "dok": (), "dia": ("data", "offsets"), "coo": ("data",)}
    parts = [getattr(value, name) for name in names.get(form, ("data", "indices", "indptr"))]
    _need(all(type(part) is np.ndarray and (part.dtype == object) is (form == "lil") for part in parts))
    if form in ("csr", "csc", "bsr"):
        value.check_format(full_check=True)
    elif form == "dia":
        data, offsets = parts
        _need(data.ndim == 2 and offsets.shape == data.shape[:1] and offsets.dtype.kind == "i" and len(shape) == 2)
    elif form == "coo":
        coordinates = getattr(value, "coords", None) or (value.row, value.col)
        _need(len(coordinates) == len(shape) and parts[0].ndim == 1)
        for own, length in zip(coordinates, shape):
            _need(type(own) is np.ndarray and own.dtype.kind == "i" and own.shape == parts[0].shape)
            _need(not own.size or (own.min() >= 0 and own.max() < length))
    elif form == "lil":
        rows, data = parts
        _need(rows.shape == data.shape == shape[:1])
        for own, items in zip(rows, data):
            _need(type(own) is list and type(items) is list and len(own) == len(items))
            _need(not own or (min(own) >= 0 and max(own) < shape[-1]))
    elif form == "dok":
        for key in value.keys() if isinstance(value, dict) else value._dict.keys():
            places = key if type(key) is tuple else (key,)
            _need(len(places) == len(shape) and all(0 <= place < length for place, length in zip(places, shape)))


def install(table: Table) -> None:
    """Declare the formats that this scipy has."""
    sparse: Any = importlib.import_module("scipy.sparse")
    table.load("numpy")
    scipy_objects.install(table)
    for name in _NAMES:
        cls = getattr(sparse, name, None)
        if cls is not None:
            _classes[name] = cls
            table.reducers[cls] = _reduce
    table.makers["scipy.sparse"] = _make
    table.filler("scipy.sparse", _fill, "scipy.sparse")
