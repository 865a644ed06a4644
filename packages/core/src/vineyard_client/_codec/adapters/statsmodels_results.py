"""statsmodels (0.13 - 0.15): fitted models and their results, those of formulas as well.

Models and results are Python objects around arrays and frames, rebuilt as ``trusted`` says; the workspaces of the state
space models are Cython objects, which are not stored and which the models make again.

A model of a formula evaluates it again when its data is read, so that it can predict: the formula is Python code. It is
read only if it consists of names, numbers, operators and the transformations that formulas have (``FUNCTIONS``), over a
frame; the writer refuses all others and says to compute the column first.
"""

from __future__ import annotations

import ast
import importlib
import re
from typing import TYPE_CHECKING, Any, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import MAKE
from ..parts import checked, damaged, refused
from .trusted import Package

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

__all__ = ["FUNCTIONS", "harmless"]

# What a formula may call, by itself or as an attribute of numpy.
FUNCTIONS = frozenset(
    [
        *("C", "Q", "I", "bs", "cc", "cr", "te", "center", "standardize", "scale", "poly", "lag", "hashed"),
        *("Treatment", "Sum", "Poly", "Helmert", "Diff", "abs", "log", "log10", "log2", "log1p", "exp", "expm1"),
        *("sqrt", "square", "power", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh"),
        *("sign", "floor", "ceil", "minimum", "maximum", "where", "clip"),
    ]
)
_NODES = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.Tuple, ast.List, ast.BinOp, ast.UnaryOp, ast.Compare),
    *(ast.operator, ast.unaryop, ast.cmpop, ast.Call, ast.keyword, ast.Attribute, ast.BoolOp, ast.boolop),
)

# Cython objects of a state space model, one for each type of number; it makes those that it misses.
_WORKSPACES = frozenset(
    ["_statespaces", "_kalman_filters", "_kalman_smoothers", "_simulators", "_kalman_filter", "_kalman_smoother"]
)
# How a Kalman filter begins, for each type of number: Cython, made anew from its arrays.
_INITIALIZATIONS = ("sInitialization", "dInitialization", "cInitialization", "zInitialization")

_PACKAGE = Package(
    "statsmodels",
    parts=(
        "base compat.python discrete distributions duration emplike formula genmod gam imputation iolib miscmodels "
        "multivariate nonparametric regression robust sandbox.nonparametric.kernels sandbox.stats stats tools "
        "treatment tsa"
    ),
    setters=["statsmodels.base.data.ModelData", "statsmodels.discrete.discrete_model.NegativeBinomial"],
    direct=[
        "statsmodels.base.wrapper.ResultsWrapper",
        "statsmodels.discrete.discrete_model.GenericZeroInflated",
        "statsmodels.discrete.count_model.GenericZeroInflated",
        "statsmodels.discrete.count_model.ZeroInflatedPoisson",
        "statsmodels.discrete.count_model.ZeroInflatedGeneralizedPoisson",
        "statsmodels.discrete.count_model.ZeroInflatedNegativeBinomialP",
    ],
    functions=(
        "base discrete formula genmod iolib nonparametric.kernels regression robust "
        "sandbox.nonparametric.kernels stats tools tsa"
    ),
    remedy="Store the results, or their parameters and tables.",
)


def harmless(formula: Any) -> bool:
    """Tell whether evaluating a formula can do no more than to compute columns from columns."""
    if type(formula) is not str or "__" in formula or "{" in formula or "lambda" in formula:
        return False
    text = re.sub(r"`[^`]*`", "name", formula).replace("~", ",").replace(":", "+").replace("|", "+")
    try:
        tree = ast.parse(f"({text.strip().lstrip(',')})", mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    for node in ast.walk(tree):
        if not isinstance(node, _NODES):
            return False
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
            if name not in FUNCTIONS:
                return False
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy") and node.attr in FUNCTIONS
        ):
            return False
    return True


def _reduce(writer: Writer, value: Any) -> Tuple[Any, ...]:
    state = getattr(value, "__dict__", {})
    if ("model_spec" in state or "design_info" in state) and not harmless(state.get("formula")):
        raise UnsafeType(
            f"A model of the formula {state.get('formula')!r} cannot be stored: reading it would evaluate the formula, "
            "which calls more than the transformations of formulas.",
            "Compute that column before, and name it in the formula; or store the parameters of the results.",
            "statsmodels.base.data.ModelData",
        )
    if type(value).__name__ in _INITIALIZATIONS:
        _, arguments, own = value.__reduce__()
        temporary = own["_tmp_transition"], own["_tmp_selected_state_cov"]
        return MAKE, ("statsmodels.initialization", type(value).__name__, *arguments, *temporary)
    reduced = _PACKAGE.reduce(writer, value)
    if _WORKSPACES.isdisjoint(state):
        return reduced
    operation, head, (name, (attributes, content)), *rest = reduced
    attributes = {key: {} if key in _WORKSPACES else item for key, item in attributes.items()}
    return (operation, head, (name, (attributes, content)), *rest)


def _set_data(value: Any, state: Any) -> None:
    """Set the state of a model's data, which evaluates the formula."""
    pd = importlib.import_module("pandas")
    if "restore_model_spec" in state or "restore_design_info" in state:
        if not harmless(state.get("formula")):
            raise refused("it has a formula that calls what no formula does", "statsmodels.base.data.ModelData")
        tables = [state["frame"]] if "frame" in state else [state.get("orig_endog"), state.get("orig_exog")]
        if not all(type(table) in (pd.DataFrame, pd.Series) for table in tables):
            raise damaged("the data of a formula is no frame")
    type(value).__setstate__(value, state)


def _set_likelihood(value: Any, state: Any) -> None:
    """Set the state of a model that makes functions of its own; what these change on the way is set again."""
    type(value).__setstate__(value, state)
    vars(value).update(state)


def _make_initialization(reader: Reader, name: Any, states: Any, *parts: Any) -> Any:
    np = importlib.import_module("numpy")
    if name not in _INITIALIZATIONS or not 0 <= checked(states, int) < 1 << 20 or len(parts) != 5:
        raise damaged(f"{name!r} is no initialization")
    constant, covariance, variance, *temporary = parts
    arrays = [constant, covariance, *temporary]
    if not all(type(array) is np.ndarray and array.dtype.kind in "fc" for array in arrays):
        raise damaged("an initialization is not made of numbers")
    if constant.shape != (states,) or any(array.shape != (states, states) for array in arrays[1:]):
        raise damaged("the parts of an initialization differ in size")
    cls = getattr(importlib.import_module("statsmodels.tsa.statespace._initialization"), name)
    made = cls(states, constant, covariance, variance)
    made.__setstate__({"_tmp_transition": temporary[0], "_tmp_selected_state_cov": temporary[1]})
    return made


def install(table: Table) -> None:
    """Declare models and results."""
    importlib.import_module("statsmodels")
    for package in ("pandas", "scipy"):
        table.load(package)
    _PACKAGE.install(table)
    _PACKAGE.own_setters.update(
        {
            "statsmodels.base.data.ModelData": _set_data,
            "statsmodels.discrete.discrete_model.NegativeBinomial": _set_likelihood,
        }
    )
    table.makers["statsmodels.initialization"] = _make_initialization
    table.families["statsmodels"] = _reduce
