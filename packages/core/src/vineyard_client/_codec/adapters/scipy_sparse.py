"""scipy.sparse: matrices and arrays of every format, as the attributes they consist of.

The object is made empty and gets its attributes (arrays, shape, flags) back as they were: scipy's constructors may look
through the indices and choose another integer type. Then scipy checks the structure, without reading the indices;
indices which point outside of the shape are not found (``check_format(full_check=True)`` does, for data from writers
whom you do not trust).
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
    check = getattr(value, "check_format", None)
    if check is not None:
        check(full_check=False)


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
