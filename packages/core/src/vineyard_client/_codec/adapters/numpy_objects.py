"""numpy's other values: polynomials, results with names, limits of types, universal functions.

Polynomials and results (``np.linalg.svd``, ``np.unique_all``) are Python objects, rebuilt as ``trusted`` says.
``finfo`` and ``iinfo`` are asked for anew, by their type; universal functions by their name. The functions that models
keep as an attribute (``np.mean`` of a ``FeatureAgglomeration``) are listed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import UnsafeType, UnsupportedVersion

from ..ops import MAKE
from ..parts import checked, damaged
from ..policy import qualified
from ..writer import reduce_name
from . import numpy_dtypes
from .trusted import Package

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

np: Any = None  # set by install(): this module is loaded for values of numpy only
_OF_A_BLOCK: Tuple[Any, ...] = ()

# numpy 1.17 - 2.5. Classes that call themselves numpy's own are in "".
PACKAGE = Package(
    "numpy",
    parts=" linalg lib polynomial core.function_base ma.core",
    functions=(
        ":amax :amin :average :ceil :clip :cumprod :cumsum :dot :floor :linspace :max :mean :median :min :nanmax "
        ":nanmean :nanmedian :nanmin :nanstd :nansum :nanvar :prod :ptp :quantile :round :sort :std :sum :var :where "
        ":diag :zeros :ones :array :asarray"
    ),
    direct=["numpy.polynomial._polybase.ABCPolyBase"],
    remedy="Store the arrays and numbers behind it.",
)
# Packages whose universal functions are known by name.
_UFUNC_HOMES = {"numpy": "numpy", "scipy": "scipy.special"}


def reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    """Write a value of numpy that no other adapter claims."""
    cls = type(value)
    if cls is np.finfo or cls is np.iinfo:
        return MAKE, ("numpy.limits", cls.__name__, numpy_dtypes.dtype_spec(np.dtype(value.dtype)))
    if cls is np.ufunc:
        return _reduce_ufunc(writer, value)
    if isinstance(value, _OF_A_BLOCK):
        raise UnsafeType(
            f"A {qualified(cls)} cannot be stored: it belongs to the loop, or to the block, that it was made for.",
            "Return the arrays and numbers behind it.",
            qualified(cls),
        )
    if cls.__name__ == "_ArrayFunctionDispatcher":
        return reduce_name(writer, value)
    return PACKAGE.reduce(writer, value)


def _make_limits(reader: Reader, kind: Any, spec: Any) -> Any:
    dtype = numpy_dtypes.make_dtype(spec)
    if kind not in ("finfo", "iinfo") or dtype.kind not in {"finfo": "fc", "iinfo": "iu"}[kind]:
        raise damaged(f"numpy has no {kind!r} of type {dtype}")
    return getattr(np, kind)(dtype)


def _reduce_ufunc(writer: Writer, value: Any) -> Tuple[Any, ...]:
    for package, home in _UFUNC_HOMES.items():
        if value.__name__.isidentifier() and _ufunc(home, value.__name__) is value:
            return MAKE, ("numpy.ufunc", package, value.__name__)
    raise UnsafeType(
        f"The universal function {value.__name__} cannot be stored: no other process could find it.",
        "Store its name, or the result of it.",
        "numpy.ufunc",
    )


def _ufunc(home: str, name: str) -> Any:
    return getattr(importlib.import_module(home), name, None)


def _make_ufunc(reader: Reader, package: Any, name: Any) -> Any:
    if package not in _UFUNC_HOMES or not checked(name, str).isidentifier():
        raise damaged(f"{package!r} has no universal functions")
    found = _ufunc(_UFUNC_HOMES[package], name)
    if type(found) is not np.ufunc:
        raise UnsupportedVersion(
            f"The stored value holds the universal function {name} of {package}, which is not in the version here.",
            f"Install the same version of {package} where the value is written and where it is read.",
        )
    return found


def install(table: Table) -> None:
    """Declare the rest of numpy."""
    global np, _OF_A_BLOCK
    np = importlib.import_module("numpy")
    _OF_A_BLOCK = np.ndindex, np.ndenumerate, np.flatiter, np.nditer, np.errstate
    PACKAGE.install(table)
    table.families["numpy"] = reduce
    for name, cls in vars(getattr(np, "dtypes", object)).items():
        if isinstance(cls, type) and issubclass(cls, np.dtype):  # from 1.25 on
            table.value(f"numpy.dtypes.{name}", cls)
    table.makers.update({"numpy.limits": _make_limits, "numpy.ufunc": _make_ufunc})
