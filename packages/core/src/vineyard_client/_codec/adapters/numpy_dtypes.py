"""numpy's dtypes, spelt out in plain data and rebuilt by ``numpy.dtype``, which checks them.

numpy's own state of a dtype would be trusted, down to the flag that says "these bytes are pointers to objects", and the
dtypes of plain numbers are shared by everybody in the process: so ``__setstate__`` of a dtype is never reached.

A specification is what ``dtype.str`` says, for one element and no commas, or a tuple ``(kind, *parts)``.
"""

from __future__ import annotations

import importlib
from typing import Any, Dict

from vineyard_client.exceptions import UnsafeType

from ..policy import qualified
from .common import damaged

__all__ = ["PLAIN", "dtype_spec", "load", "make_dtype"]

np: Any = None  # set by load(): this module is loaded for values of numpy only

# Kinds of element whose ``dtype.str`` says all; the commonest way to spell one.
PLAIN = frozenset("?bBhHiIefdgFDG")
# What the spelling of one dtype consists of: no commas and no parentheses.
_LETTERS = frozenset("<>|=[]?μ0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# Element types of other packages that register with numpy: 0.2 - 0.5 of ml_dtypes.
_FOREIGN_DTYPES = frozenset(
    f"ml_dtypes.{name}"
    for name in [
        "bfloat16",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float8_e4m3fn",
        "float8_e4m3fnuz",
        "float8_e5m2",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        "float6_e2m3fn",
        "float6_e3m2fn",
        "float4_e2m1fn",
        "int2",
        "int4",
        "uint2",
        "uint4",
    ]
)


def load(module: Any) -> None:
    """Take numpy."""
    global np
    np = module


def dtype_spec(dtype: Any) -> Any:
    """Spell a dtype out in plain data."""
    if dtype.metadata:
        return "metadata", dtype_spec(_without_metadata(dtype)), dict(dtype.metadata)
    if dtype.char in "lLqQ" and np.dtype(dtype.str).char != dtype.char:
        return "char", dtype.char, dtype.byteorder  # two integer types of C have the same size
    if dtype.isbuiltin == 1 or (dtype.names is None and dtype.subdtype is None and dtype.kind in "biufcmMSUVO"):
        if dtype.isbuiltin != 2 and dtype.type is getattr(np, "record", None):
            return "record", dtype.str
        if dtype.isbuiltin != 2:
            return dtype.str
    if dtype.subdtype is not None:
        return "array", dtype_spec(dtype.subdtype[0]), dtype.shape
    if dtype.names is not None:
        fields = [dtype.fields[name] for name in dtype.names]
        parts = (
            list(dtype.names),
            [dtype_spec(field[0]) for field in fields],
            [field[1] for field in fields],
            [field[2] if len(field) > 2 else None for field in fields],
        )
        return "fields", *parts, dtype.itemsize, dtype.isalignedstruct, dtype.type is np.record
    if dtype.kind == "T":
        missing = (dtype.na_object,) if hasattr(dtype, "na_object") else ()
        return "string", missing, dtype.coerce
    name = qualified(dtype.type)
    if name not in _FOREIGN_DTYPES:
        raise UnsafeType(
            f"Arrays of dtype {dtype} cannot be stored: {name} is no element type that this release knows.",
            "Convert it to one of numpy's own dtypes with astype().",
            name,
        )
    return "foreign", name


def _without_metadata(dtype: Any) -> Any:
    if dtype.names is not None:
        return np.dtype(
            {
                "names": list(dtype.names),
                "formats": [dtype.fields[name][0] for name in dtype.names],
                "offsets": [dtype.fields[name][1] for name in dtype.names],
                "titles": [(dtype.fields[name] + (None,))[2] for name in dtype.names],
                "itemsize": dtype.itemsize,
            },
            align=dtype.isalignedstruct,
        )
    return np.dtype(dtype.str)


def make_dtype(spec: Any) -> Any:
    """Build a dtype from its spelling; numpy checks it."""
    if type(spec) is str:
        if not _LETTERS.issuperset(spec) or spec.lstrip("<>|=")[:1].isdigit():
            # numpy would read commas, parentheses and leading numbers as several types, and old versions evaluate them.
            raise damaged(f"{spec!r} is no dtype")
        return np.dtype(spec)
    kind, *parts = spec
    if kind == "fields":
        names, formats, offsets, titles, itemsize, aligned, record = parts
        layout: Dict[str, Any] = {
            "names": names,
            "formats": [make_dtype(part) for part in formats],
            "offsets": offsets,
            "itemsize": itemsize,
        }
        if any(title is not None for title in titles):
            layout["titles"] = titles
        dtype = np.dtype(layout, align=bool(aligned))
        return np.dtype((np.record, dtype)) if record else dtype
    if kind == "array":
        return np.dtype((make_dtype(parts[0]), tuple(parts[1])))
    if kind == "metadata":
        return np.dtype(make_dtype(parts[0]), metadata=dict(parts[1]))
    if kind == "string":
        options = {"na_object": parts[0][0]} if parts[0] else {}
        return np.dtypes.StringDType(coerce=bool(parts[1]), **options)
    if kind == "char":
        char, order = parts
        if char not in "lLqQ":
            raise damaged(f"{char!r} is no integer type")
        return np.dtype(char).newbyteorder(order)
    if kind == "record":
        return np.dtype((np.record, make_dtype(parts[0])))
    if kind == "foreign" and parts[0] in _FOREIGN_DTYPES:
        module, name = parts[0].split(".")
        return np.dtype(getattr(importlib.import_module(module), name))
    raise damaged(f"{kind!r} is no kind of dtype")
