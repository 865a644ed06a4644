"""scikit-learn (0.24 - 1.9): estimators, pipelines, searches, splitters, scorers, kernels, losses: every class of it.

Estimators are plain Python objects, which ``trusted`` rebuilds; what is written in Cython is made here by exact names.
``BaseEstimator.__setstate__`` runs: it warns when another version wrote the object.

C code of scikit-learn trusts numbers in arrays: children and features of tree nodes, the structure of neighbour trees,
the sizes that belong to a support vector machine, centres of clusters. All of these are checked before the value is
handed out (``sklearn_checks``).

Not stored: what listens on sockets or loads things (``sklearn.callback``, ``sklearn.datasets``), and a metric or a
``FunctionTransformer`` on a function of the caller's own unless that is allowed.
"""

from __future__ import annotations

import importlib
import re
from typing import TYPE_CHECKING, Any, Tuple

from ..ops import MAKE
from ..parts import checked, damaged, refused
from ..policy import qualified
from . import sklearn_checks
from .trusted import Package

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

np: Any = None  # set by install(): this module is loaded for values of scikit-learn only

_PARTS = (
    "_config _loss base calibration callback._callback_support cluster compose covariance cross_decomposition "
    "decomposition discriminant_analysis dummy ensemble exceptions feature_extraction feature_selection frozen "
    "gaussian_process impute inspection isotonic kernel_approximation kernel_ridge linear_model manifold metrics "
    "mixture model_selection multiclass multioutput naive_bayes neighbors neural_network pipeline preprocessing "
    "random_projection semi_supervised svm tree utils._bunch utils._metadata_requests utils._set_output "
    "utils.metaestimators utils._tags utils._repr_html utils._estimator_html_repr utils._param_validation"
)

# Functions that estimators have as attributes: scores, and how an algorithm does one of its steps.
_FUNCTIONS = (
    "cluster._kmeans feature_selection._univariate_selection feature_selection._mutual_info metrics "
    "model_selection._split preprocessing._data utils.validation"
)

_PACKAGE = Package(
    "sklearn",
    parts=_PARTS,
    setters=(
        "sklearn.base.BaseEstimator",
        "sklearn.isotonic.IsotonicRegression",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    ),
    holding=("sklearn.base.BaseEstimator",),
    direct=("sklearn.utils._bunch.Bunch", "sklearn.utils.Bunch"),
    functions=_FUNCTIONS,
    checks=sklearn_checks.CHECKS,
    remedy="Store the fitted estimator, or the arrays of numbers that belong to it.",
)

# Losses of Cython: made anew from the numbers that they are made of.
_LOSS_MODULES = ("sklearn._loss._loss", "sklearn.linear_model._sgd_fast", "sklearn.linear_model.sgd_fast")
# Modules that metrics are in: the second one in 0.24.
_METRICS = ("sklearn.metrics._dist_metrics", "sklearn.neighbors._dist_metrics")
_TREES = ("sklearn.neighbors._kd_tree", "sklearn.neighbors._ball_tree")
_METRIC_NAME = re.compile(r"[A-Z]\w*Distance(?:32|64)?\Z")
_TREE_NAME = re.compile(r"(?:KD|Ball)Tree(?:32|64)?\Z")
_LOSS_NAME = re.compile(r"(?:Cy)?[A-Z][A-Za-z]+\Z")


def _class(module: Any, name: Any, homes: Tuple[str, ...], pattern: re.Pattern[str]) -> Any:
    """Return a class of Cython that a stream names: one of these modules, and called like this."""
    found = getattr(importlib.import_module(module), name, None) if module in homes and pattern.match(name) else None
    if not isinstance(found, type) or qualified(found) != f"{module}.{name}":
        raise refused(f"{module}.{name} is no class that this release knows", f"{module}.{name}")
    return found


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    cls = type(value)
    home, name = cls.__module__, cls.__qualname__
    if home == "sklearn.tree._tree" and name == "Tree":
        _, arguments, state = value.__reduce__()
        return MAKE, ("sklearn.Tree", *arguments, dict(state))
    if home in _LOSS_MODULES and _LOSS_NAME.match(name):
        return MAKE, ("sklearn.loss", home, name, *_numbers_of(value.__reduce__(), cls))
    if home in _METRICS and _METRIC_NAME.match(name):
        return MAKE, ("sklearn.metric", home, name, *value.__getstate__())
    if home in _TREES and _TREE_NAME.match(name):
        return MAKE, ("sklearn.neighbours", home, name, *value.__getstate__())
    return _PACKAGE.reduce(writer, value)


def _numbers_of(reduced: Tuple[Any, ...], cls: type) -> Tuple[Any, ...]:
    """Return what a loss is made of: the arguments of its class, or its state, where Cython wrote the reduction."""
    function, arguments = reduced[:2]
    if function is cls:
        return tuple(arguments)
    state = arguments[2] if arguments[2] is not None or len(reduced) < 3 else reduced[2]
    return tuple(state or ())


def _set_estimator(value: Any, state: Any) -> None:
    """Set the state of an estimator, which compares its version and keeps the rest."""
    checked(state.get("_sklearn_version", ""), str)
    type(value).__setstate__(value, state)


def _make_loss(reader: Reader, module: Any, name: Any, *numbers: Any) -> Any:
    cls = _class(module, name, _LOSS_MODULES, _LOSS_NAME)
    return cls(*(checked(number, float, int) for number in numbers))


def _make_tree(reader: Reader, features: Any, classes: Any, outputs: Any, state: Any) -> Any:
    sklearn_checks.check_tree_parts(features, classes, outputs, checked(state, dict))
    tree = importlib.import_module("sklearn.tree._tree").Tree(features, classes, outputs)
    tree.__setstate__(state)
    return tree


def _make_metric(reader: Reader, module: Any, name: Any, *state: Any) -> Any:
    cls = _class(module, name, _METRICS, _METRIC_NAME)
    metric = cls.__new__(cls)
    power, vector, matrix = state[:3]
    checked(power, float)
    # The state of a metric holds memory that its C code reads without asking for its size.
    if not (sklearn_checks.is_array(vector, 1, "f") and sklearn_checks.is_array(matrix, 2, "f")):
        raise damaged(f"the parts of a {name} are no arrays of numbers")
    if matrix.shape[0] != matrix.shape[1]:
        raise damaged(f"the matrix of a {name} is not square")
    if len(state) > 3 or name.startswith("PyFunc"):
        function, keywords = state[3:]
        if not callable(function) or type(keywords) is not dict:
            raise damaged("a metric has no function")
    metric.__setstate__(state)
    return metric


def _make_neighbours(reader: Reader, module: Any, name: Any, *state: Any) -> Any:
    cls = _class(module, name, _TREES, _TREE_NAME)
    sklearn_checks.check_neighbours(name, state)
    tree = cls.__new__(cls)
    tree.__setstate__(state)
    # The tree goes on using these arrays, which a stream could still change.
    reader.check(lambda: sklearn_checks.check_neighbours(name, state))
    return tree


def install(table: Table) -> None:
    """Declare the classes of scikit-learn."""
    global np
    np = importlib.import_module("numpy")
    table.load("scipy")
    importlib.import_module("sklearn")
    _PACKAGE.install(table)
    _PACKAGE.own_setters["sklearn.base.BaseEstimator"] = _set_estimator
    table.families["sklearn"] = _reduce
    table.makers.update(
        {
            "sklearn.Tree": _make_tree,
            "sklearn.loss": _make_loss,
            "sklearn.metric": _make_metric,
            "sklearn.neighbours": _make_neighbours,
        }
    )
