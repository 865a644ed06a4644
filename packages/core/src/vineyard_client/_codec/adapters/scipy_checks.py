"""What scipy's C code trusts, looked at before anything of it runs.

Evaluating a spline or a piecewise polynomial, and searching a triangulation, goes by sizes and indices that the objects
hold, without asking whether the arrays are that long.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict

from ..parts import damaged
from ..policy import qualified

__all__ = ["CHECKS", "check_qhull"]


def _np() -> Any:
    return importlib.import_module("numpy")


def _need(condition: Any, what: str) -> None:
    if not condition:
        raise damaged(what)


def _is_array(thing: Any, kinds: str, *shape: Any) -> bool:
    """Tell whether something is an array of numbers of a kind and shape; None stands for any length."""
    return (
        type(thing) is _np().ndarray
        and thing.dtype.kind in kinds
        and thing.ndim == len(shape)
        and all(length is None or length == own for length, own in zip(shape, thing.shape))
    )


def _within(array: Any, low: int, high: int) -> bool:
    return bool(not array.size or (array.min() >= low and array.max() < high))


def _part(value: Any, name: str) -> Any:
    """Return an attribute, whether it is called so or, as in later versions, with a line in front of it."""
    return getattr(value, f"_{name}", None) if hasattr(value, f"_{name}") else getattr(value, name, None)


def _check_spline(spline: Any) -> None:
    what = "the parts of a spline do not fit together"
    knots, degree, coefficients = (_part(spline, name) for name in ("t", "k", "c"))
    _need(_is_array(knots, "f", None) and type(degree) is int and 0 <= degree < 1000, what)
    _need(type(coefficients) is _np().ndarray and coefficients.dtype.kind in "fc" and coefficients.ndim > 0, what)
    count = knots.size - degree - 1
    _need(count > degree and coefficients.shape[0] >= count, what)
    _need(bool((knots[1:] >= knots[:-1]).all()), what)


def _check_pieces(polynomial: Any) -> None:
    what = "the parts of a piecewise polynomial do not fit together"
    breaks, coefficients = _part(polynomial, "x"), _part(polynomial, "c")
    _need(type(coefficients) is _np().ndarray and coefficients.dtype.kind in "fc" and coefficients.ndim >= 2, what)
    _need(_is_array(breaks, "f", coefficients.shape[1] + 1) and coefficients.shape[0] > 0, what)
    steps = breaks[1:] - breaks[:-1]
    _need(bool((steps >= 0).all() or (steps <= 0).all()), what)


def _check_delegate(name: str, check: Callable[[Any], None]) -> Callable[[Any], None]:
    """Return a check for what holds its arrays itself or, from 1.18 on, has an object of this class that does.

    That object has a check of its own, because it is one of the stream, too.
    """

    def look(value: Any) -> None:
        if "_delegate_to" not in vars(value):
            check(value)
            return
        kind = qualified(type(vars(value)["_delegate_to"]))
        _need(kind == f"scipy.interpolate.{name}", f"a {type(value).__name__} stands for a {kind}")

    return look


def _check_many_pieces(polynomial: Any) -> None:
    what = "the parts of a piecewise polynomial do not fit together"
    breaks, coefficients = _part(polynomial, "x"), _part(polynomial, "c")
    _need(type(breaks) is tuple and type(coefficients) is _np().ndarray and coefficients.dtype.kind in "fc", what)
    axes = len(breaks)
    _need(coefficients.ndim >= 2 * axes and 0 not in coefficients.shape[:axes], what)
    for axis, own in enumerate(breaks):
        _need(_is_array(own, "f", coefficients.shape[axes + axis] + 1), what)


def _check_tensor(spline: Any) -> None:
    what = "the parts of a spline do not fit together"
    knots, lengths, coefficients, degrees = (_part(spline, name) for name in ("t", "len_t", "c", "k"))
    if type(knots) is tuple:  # before 1.15
        _need(all(_is_array(own, "f", None) for own in knots), what)
        lengths = _np().array([own.size for own in knots])
    else:
        _need(_is_array(knots, "f", None, None) and _is_array(lengths, "i", knots.shape[0]), what)
        _need(_within(lengths, 1, knots.shape[1] + 1), what)
    axes = len(knots)
    degrees = _np().asarray(degrees)
    _need(_is_array(degrees, "i", axes) and _within(degrees, 0, 100), what)
    _need(type(coefficients) is _np().ndarray and coefficients.dtype.kind in "fc" and coefficients.ndim >= axes, what)
    counts = lengths - degrees - 1
    _need(bool((counts > degrees).all()) and all(n <= own for n, own in zip(counts, coefficients.shape)), what)
    indices = _part(spline, "indices_k1d")
    if indices is not None:
        _need(_is_array(indices, "i", int((degrees + 1).prod()), axes), what)
        _need(bool((indices >= 0).all() and (indices <= degrees).all()), what)


def _check_fitted(spline: Any) -> None:
    state, what = vars(spline), "the parts of a spline do not fit together"
    if "_eval_args" not in state:
        return
    parts = state["_eval_args"]
    _need(type(parts) is tuple and len(parts) == 3, what)
    knots, coefficients, degree = parts
    _need(_is_array(knots, "f", None) and _is_array(coefficients, "f", None), what)
    _need(0 <= int(degree) <= 5 and knots.size >= 2 * int(degree) + 2 and coefficients.size >= knots.size, what)


def _check_surface(spline: Any) -> None:
    state, what = vars(spline), "the parts of a spline do not fit together"
    parts, degrees = state.get("tck"), state.get("degrees")
    if parts is None:
        return
    _need(type(parts) is tuple and len(parts) == 3 and type(degrees) is tuple and len(degrees) == 2, what)
    _need(all(_is_array(part, "f", None) for part in parts) and all(0 <= int(k) <= 5 for k in degrees), what)
    counts = [part.size - int(degree) - 1 for part, degree in zip(parts, degrees)]
    _need(min(counts) > 0 and parts[2].size >= counts[0] * counts[1], what)


def _check_grid(interpolator: Any) -> None:
    what = "the grid of an interpolator does not fit its values"
    grid, values = _part(interpolator, "grid"), _part(interpolator, "values")
    _need(type(grid) is tuple and type(values) is _np().ndarray and values.dtype.kind in "fciu", what)
    _need(values.ndim >= len(grid), what)
    for axis, points in enumerate(grid):
        _need(_is_array(points, "fiu", values.shape[axis]) and points.size > 0, what)


def _check_triangles(interpolator: Any) -> None:
    state, what = vars(interpolator), "the triangles of an interpolator do not fit its values"
    triangles, values, points = state.get("tri"), state.get("values"), state.get("points")
    if triangles is None:
        return
    _need(type(triangles).__name__ == "Delaunay" and type(values) is _np().ndarray, what)
    count = triangles.points.shape[0]
    _need(values.dtype.kind in "fc" and values.ndim == 2 and values.shape[0] == count, what)
    _need(points is None or _is_array(points, "f", count, triangles.points.shape[1]), what)
    slopes = state.get("grad")
    if slopes is not None:
        _need(_is_array(slopes, "fc", count, values.shape[1], 2), what)


def _check_sobol(engine: Any) -> None:
    state, what = vars(engine), "the parts of a sequence of Sobol do not fit together"
    numbers, own, dimensions = state.get("_sv"), state.get("_quasi"), state.get("d")
    _need(isinstance(dimensions, (int, _np().integer)) and int(dimensions) > 0, what)
    _need(numbers is None or _is_array(numbers, "u", int(dimensions), None), what)
    _need(own is None or _is_array(own, "u", int(dimensions)), what)


def check_qhull(name: str, state: Dict[str, Any]) -> None:
    """Check the arrays of a hull, a triangulation or a diagram."""
    what = f"the parts of a {name} do not fit together"
    _need(state.get("_qhull") is None, what)
    _need(all(type(key) is str and not key.startswith("__") for key in state), what)
    points: Any = state.get("_points", state.get("points"))
    _need(_is_array(points, "f", None, None), what)
    if "simplices" not in state:
        return
    count, dimensions = points.shape
    simplices, neighbours = state["simplices"], state.get("neighbors")
    _need(_is_array(simplices, "i", None, None) and _within(simplices, 0, count), what)
    rows, corners = simplices.shape
    _need(_is_array(neighbours, "i", rows, corners) and _within(neighbours, -1, rows), what)
    if name != "Delaunay":
        return
    _need(corners == dimensions + 1 and _is_array(state.get("equations"), "f", rows, dimensions + 2), what)
    for bound in ("min_bound", "max_bound", "_min_bound", "_max_bound"):
        _need(bound not in state or _is_array(state[bound], "f", dimensions), what)
    transform = state.get("_transform")
    _need(transform is None or _is_array(transform, "f", rows, dimensions + 1, dimensions), what)
    vertices = state.get("_vertex_to_simplex")
    _need(vertices is None or (_is_array(vertices, "i", count) and _within(vertices, -1, rows)), what)


CHECKS: Dict[str, Callable[[Any], None]] = {
    "BSpline": _check_delegate("_bsplines._BSpline", _check_spline),
    "_BSpline": _check_spline,
    "PPoly": _check_delegate("_interpolate._PPoly", _check_pieces),
    "BPoly": _check_delegate("_interpolate._BPoly", _check_pieces),
    "NdBSpline": _check_tensor,
    "_PPolyBase": _check_pieces,
    "NdPPoly": _check_many_pieces,
    "UnivariateSpline": _check_fitted,
    "_BivariateSplineBase": _check_surface,
    "RegularGridInterpolator": _check_grid,
    "LinearNDInterpolator": _check_triangles,
    "CloughTocher2DInterpolator": _check_triangles,
    "Sobol": _check_sobol,
}
