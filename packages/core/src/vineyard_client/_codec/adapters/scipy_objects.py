"""scipy's other values (1.5 - 1.18): results with names, interpolators, distributions, rotations, spatial structures.

Results, interpolators and systems are Python objects, rebuilt as ``trusted`` says; where C code trusts their arrays,
these are checked (``CHECKS``). The others:

* distributions evaluate a text of their own when their state is set, so they never get one: a distribution of scipy's
  is found under its name, a frozen one is frozen anew, one made of a table is made of the table;
* neighbour trees are nodes of C with pointers: the tree is built anew from the data, in the same order of queries;
* hulls and triangulations hold on to Qhull while they are incremental: only their arrays are kept, and checked.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Callable, Dict, Tuple

from vineyard_client.exceptions import UnsafeType, UnsupportedVersion

from ..ops import MAKE
from ..parts import checked, damaged
from ..policy import qualified
from . import scipy_checks
from .trusted import Package

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

np: Any = None  # set by install(): this module is loaded for values of scipy only

# Classes that hold the module of the library that their arrays are of. From 1.18 on an empty array stands for it in
# their state, the second item or "_xp", and their ``__setstate__`` does no more than to ask for that array's module.
_NAMESPACED = (
    "scipy.interpolate._bsplines.BSpline",
    "scipy.interpolate._interpolate.BPoly",
    "scipy.interpolate._interpolate.PPoly",
    "scipy.sparse.linalg._interface.LinearOperator",
)

PACKAGE = Package(
    "scipy",
    parts=(
        "_lib._bunch _lib._disjoint_set _lib._util _lib.uarray _lib.array_api_compat.numpy cluster constants fft "
        "integrate interpolate linalg ndimage odr optimize signal sparse.linalg spatial special._orthogonal stats "
        "_external.array_api_compat.numpy"
    ),
    functions=(
        "_lib.array_api_compat.numpy _external.array_api_compat.numpy integrate._ivp interpolate._interpolate "
        "interpolate.interpolate interpolate._polyint interpolate._rbf interpolate._rbfinterp special stats._distance "
        "stats._kde stats.kde"
    ),
    setters=["scipy.interpolate._rbfinterp.RBFInterpolator", *_NAMESPACED],
    checks=scipy_checks.CHECKS,
    remedy="Store the arrays and numbers behind it.",
)

# Structures of Qhull: from 1.8 on in a private module.
_QHULL = ("scipy.spatial._qhull", "scipy.spatial.qhull")
_QHULL_NAMES = ("ConvexHull", "Delaunay", "Voronoi", "HalfspaceIntersection")
_FROZEN = {"rv_continuous_frozen": "continuous", "rv_discrete_frozen": "discrete", "rv_frozen": "any"}
_INFRASTRUCTURE = ("scipy.stats._distn_infrastructure",)


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    cls = type(value)
    name, home = cls.__name__, cls.__module__
    if home.startswith("scipy.spatial"):
        if name in ("KDTree", "cKDTree"):
            return MAKE, ("scipy.neighbours", name, value.data, int(value.leafsize), _box(value))
        if name == "Rotation":
            return MAKE, ("scipy.rotation", np.asarray(value.as_quat()))
        if name == "RigidTransform":
            return MAKE, ("scipy.transform", np.asarray(value.as_matrix()))
        if name in _QHULL_NAMES and home in _QHULL:
            return _reduce_qhull(value)
    if home in _INFRASTRUCTURE and name in _FROZEN:
        return _reduce_frozen(value)
    distribution = _generic()
    if isinstance(value, distribution):
        return _reduce_distribution(writer, value)
    return PACKAGE.reduce(writer, value)


def _set_namespaced(value: Any, state: Any) -> None:
    """Set the state of an object, if what stands for a library in it is an array of one that this release knows."""
    arrays = [state.get("_xp")] if type(state) is dict else [state[-1]]
    if type(state) is tuple:
        spline = state[0]
        if qualified(type(spline)) != "scipy.interpolate._bsplines._BSpline":
            raise damaged(f"a {type(value).__name__} stands for a {qualified(type(spline))}")
        arrays.append(vars(spline).get("t"))
    for array in arrays:
        if qualified(type(array)) not in ("numpy.ndarray", "torch.Tensor"):
            raise damaged(f"a {qualified(type(array))} stands for the library of a {type(value).__name__}")
    type(value).__setstate__(value, state)


# --- distributions ----------------------------------------------------------------------------------------------------


def _generic() -> Any:
    return importlib.import_module("scipy.stats._distn_infrastructure").rv_generic


def _random_of(distribution: Any) -> Any:
    state = distribution._random_state
    return None if state is np.random.mtrand._rand else state


def _known(name: Any) -> Any:
    """Return scipy's distribution of a name."""
    found = getattr(importlib.import_module("scipy.stats"), checked(name, str), None)
    if not isinstance(found, _generic()):
        raise UnsupportedVersion(
            f"The stored value holds the distribution {name!r}, which this version of scipy does not have.",
            "Install the same version of scipy where the value is written and where it is read.",
        )
    return found


def _is_known(distribution: Any) -> bool:
    found: Any = getattr(importlib.import_module("scipy.stats"), str(distribution.name), None)
    return type(found) is type(distribution) and (found.a, found.b) == (distribution.a, distribution.b)


def _unknown_distribution(value: Any) -> UnsafeType:
    return UnsafeType(
        f"A distribution called {value.name!r} cannot be stored: its density is code, and it is none of scipy's own.",
        "Store its parameters, or freeze one of scipy.stats.",
        qualified(type(value)),
    )


def _reduce_distribution(writer: Writer, value: Any) -> Tuple[Any, ...]:
    name = type(value).__name__
    if name == "rv_histogram" and type(value).__module__.startswith("scipy."):
        density = getattr(value, "_density", None)
        return MAKE, ("scipy.histogram", tuple(value._histogram), density, _random_of(value))
    if name == "rv_sample" and type(value).__module__.startswith("scipy."):
        return MAKE, (
            "scipy.sample",
            tuple(value._updated_ctor_param()["values"]),
            value.name,
            value.badvalue,
            _random_of(value),
        )
    if not _is_known(value):
        raise _unknown_distribution(value)
    if value is _known(value.name):
        return MAKE, ("scipy.distribution", value.name)
    raise _unknown_distribution(value)


def _reduce_frozen(value: Any) -> Tuple[Any, ...]:
    inner = value.dist
    if type(inner).__name__ in ("rv_histogram", "rv_sample"):
        return MAKE, ("scipy.frozen", inner, value.args, value.kwds, None)
    if not _is_known(inner):
        raise _unknown_distribution(inner)
    return MAKE, ("scipy.frozen", inner.name, value.args, value.kwds, _random_of(inner))


def _make_distribution(reader: Reader, name: Any) -> Any:
    return _known(name)


def _make_frozen(reader: Reader, distribution: Any, arguments: Any, keywords: Any, random: Any) -> Any:
    numbers = (*checked(arguments, tuple), *checked(keywords, dict).values())
    if not all(isinstance(number, (int, float, np.number, np.ndarray, list, tuple)) for number in numbers):
        raise damaged("the parameters of a distribution are no numbers")
    known = distribution if isinstance(distribution, _generic()) else _known(distribution)
    frozen = known(*arguments, **keywords)
    if random is not None:
        frozen.random_state = random
    return frozen


def _make_table(kind: str) -> Callable[..., Any]:
    def make(reader: Reader, table: Any, *parts: Any) -> Any:
        stats = importlib.import_module("scipy.stats")
        columns = [column for column in checked(table, tuple) if type(column) in (list, tuple, np.ndarray)]
        if len(columns) != 2 or not all(np.asarray(column).dtype.kind in "iuf" for column in columns):
            raise damaged("the table of a distribution is none of numbers")
        if kind == "histogram":
            density, random = parts
            options = {} if density is None else {"density": checked(density, bool)}
            return _with_random(stats.rv_histogram(table, **options), random)
        name, bad, random = parts
        made = stats.rv_discrete(name=checked(name, str), badvalue=bad, values=table)
        return _with_random(made, random)

    return make


def _with_random(distribution: Any, random: Any) -> Any:
    if random is not None:
        distribution.random_state = random
    return distribution


# --- space ------------------------------------------------------------------------------------------------------------


def _box(tree: Any) -> Any:
    boxsize = getattr(tree, "boxsize", None)  # a KDTree has had one since 1.6
    return None if boxsize is None else np.asarray(boxsize)


def _make_neighbours(reader: Reader, name: Any, data: Any, leafsize: Any, boxsize: Any) -> Any:
    spatial = importlib.import_module("scipy.spatial")
    if name not in ("KDTree", "cKDTree") or type(data) is not np.ndarray or data.ndim != 2 or data.dtype.kind != "f":
        raise damaged("a neighbour tree is not made of an array of points")
    options = {} if boxsize is None else {"boxsize": np.asarray(boxsize, float)}
    return getattr(spatial, name)(data, leafsize=checked(leafsize, int), **options)


def _numbers(array: Any) -> Any:
    if type(array) is not np.ndarray or array.dtype.kind != "f":
        raise damaged("a rotation is not made of numbers")
    return array


def _make_rotation(reader: Reader, quaternions: Any) -> Any:
    rotation = importlib.import_module("scipy.spatial.transform").Rotation
    try:
        return rotation(_numbers(quaternions), normalize=False)
    except TypeError:  # 1.5 knows another word for it
        return rotation(_numbers(quaternions), normalized=True)


def _make_transform(reader: Reader, matrices: Any) -> Any:
    return importlib.import_module("scipy.spatial.transform").RigidTransform(_numbers(matrices), normalize=False)


def _reduce_qhull(value: Any) -> Tuple[Any, ...]:
    state = dict(vars(value))
    if state.pop("_qhull", None) is not None:
        raise UnsafeType(
            f"A {type(value).__name__} that is still incremental cannot be stored: Qhull's memory belongs to it.",
            "Call its close() first.",
            qualified(type(value)),
        )
    return MAKE, ("scipy.qhull", type(value).__name__, state)


def _make_qhull(reader: Reader, name: Any, state: Any) -> Any:
    module: Any = importlib.import_module("scipy.spatial")
    if name not in _QHULL_NAMES:
        raise damaged(f"{name!r} is no structure of Qhull")
    scipy_checks.check_qhull(name, checked(state, dict))
    cls = getattr(module, name)
    value = object.__new__(cls)
    vars(value).update(state, _qhull=None)
    reader.check(lambda: scipy_checks.check_qhull(name, vars(value)))
    return value


def install(table: Table) -> None:
    """Declare the rest of scipy."""
    global np
    np = importlib.import_module("numpy")
    PACKAGE.install(table)
    PACKAGE.own_setters.update(dict.fromkeys(_NAMESPACED, _set_namespaced))
    table.families["scipy"] = _reduce
    makers: Dict[str, Any] = {
        "scipy.neighbours": _make_neighbours,
        "scipy.rotation": _make_rotation,
        "scipy.transform": _make_transform,
        "scipy.qhull": _make_qhull,
        "scipy.distribution": _make_distribution,
        "scipy.frozen": _make_frozen,
        "scipy.histogram": _make_table("histogram"),
        "scipy.sample": _make_table("sample"),
    }
    table.makers.update(makers)
