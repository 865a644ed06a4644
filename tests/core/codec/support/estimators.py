"""Every estimator that ``sklearn.utils.all_estimators`` finds, fitted on data small enough for a test."""

from __future__ import annotations

import inspect
from typing import Any, Dict, Iterator, Tuple

import numpy as np
import threadpoolctl
from sklearn.utils import all_estimators

# Many threads for a few rows get into each other's way.
threadpoolctl.threadpool_limits(1)

_DRAW = np.random.RandomState(0)
# Columns that some estimators want positive, others of little rank; a few rows each of three kinds.
X = np.abs(_DRAW.standard_normal((36, 4))) + 0.1
CLASSES = np.arange(36) % 3
NUMBERS = X @ np.array([1.0, -2.0, 0.5, 0.0]) + _DRAW.standard_normal(36) * 0.1
TEXTS = ["the quick brown fox", "jumps over the lazy dog", "the dog sleeps", "brown dogs and foxes"] * 3

# Arguments that a class cannot do without, or that make it quick.
_ARGUMENTS: Dict[str, Dict[str, Any]] = {
    "SparseCoder": {"dictionary": X[:3]},
    "TSNE": {"perplexity": 5, "max_iter": 250},
    "RandomizedSearchCV": {"n_iter": 2},
    "DBSCAN": {"eps": 1.0},
    "SelectKBest": {"k": 2},
    "SparsePCA": {"max_iter": 2},
    "MiniBatchSparsePCA": {"max_iter": 2},
    "GraphicalLassoCV": {"max_iter": 5},
    "SequentialFeatureSelector": {"n_features_to_select": 2},
    "GaussianProcessClassifier": {"max_iter_predict": 5},
    "FeatureHasher": {"n_features": 16, "input_type": "string"},
    "HashingVectorizer": {"n_features": 64},
    "LogisticRegressionCV": {"Cs": 2},
    "OrthogonalMatchingPursuitCV": {"max_iter": 2},
    "SpectralBiclustering": {"n_clusters": 2, "n_components": 2, "n_best": 2},
    "TheilSenRegressor": {"max_subpopulation": 20},
    "PatchExtractor": {"patch_size": (2, 2)},
}
_QUICK = {"n_estimators": 3, "n_components": 2, "n_init": 1, "max_iter": 20, "cv": 2, "n_jobs": None, "n_alphas": 3}
_TEXT = ("CountVectorizer", "TfidfVectorizer", "HashingVectorizer")
_POSITIVE = ("Poisson", "Gamma", "Tweedie")


def names() -> list[str]:
    """Return the names of all estimators."""
    return [name for name, _ in all_estimators()]


def _inner(name: str, keyword: str) -> Any:
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge

    regression = name.endswith(("Regressor", "RegressorChain")) or name == "RegressorChain"
    one: Any = Ridge() if regression else LogisticRegression()
    if name == "FrozenEstimator":
        return one.fit(X, CLASSES)
    if keyword in ("estimators", "transformer_list", "transformers", "steps"):
        from sklearn.preprocessing import StandardScaler

        if keyword == "transformer_list":
            return [("scale", StandardScaler())]
        if keyword == "transformers":
            return [("scale", StandardScaler(), [0, 1])]
        if keyword == "steps":
            return [("scale", StandardScaler()), ("last", one)]
        forest = RandomForestRegressor if regression else RandomForestClassifier
        return [("one", one), ("forest", forest(n_estimators=2))]
    return one


def make(name: str) -> Any:
    """Return an estimator, not fitted."""
    cls: Any = dict(all_estimators())[name]
    parameters = inspect.signature(cls.__init__).parameters
    # Some have other names in older releases.
    arguments = {keyword: value for keyword, value in _ARGUMENTS.get(name, {}).items() if keyword in parameters}
    for keyword, parameter in parameters.items():
        if (
            keyword in arguments
            or keyword == "self"
            or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ):
            continue
        if keyword in ("param_grid", "param_distributions"):
            arguments[keyword] = {"C": [0.1, 1.0]}
        elif keyword in ("estimator", "base_estimator", "estimators", "transformer_list", "transformers", "steps"):
            if parameter.default is parameter.empty or name == "SelfTrainingClassifier":
                arguments[keyword] = _inner(name, keyword)
        elif keyword in _QUICK and keyword not in arguments and _fits(parameter.default):
            arguments[keyword] = _QUICK[keyword]
    if "random_state" in parameters:
        arguments["random_state"] = 0
    return cls(**arguments)


def _fits(default: Any) -> bool:
    return default is None or (isinstance(default, (int, str)) and not isinstance(default, bool))


def data(name: str) -> Tuple[Any, Any]:
    """Return what an estimator is fitted on."""
    if name in _TEXT:
        return TEXTS, None
    if name in ("FixedThresholdClassifier", "TargetEncoder", "TunedThresholdClassifierCV"):
        return X, CLASSES == 0
    if name == "KernelCenterer":
        return X @ X.T, None
    if name == "FeatureHasher":
        return [text.split() for text in TEXTS], None
    if name == "DictVectorizer":
        return [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}], None
    if name == "LabelBinarizer" or name == "LabelEncoder":
        return CLASSES, None
    if name == "MultiLabelBinarizer":
        return [(1, 2), (3,), ()], None
    if name == "PatchExtractor":
        return X.reshape(4, 6, 6), CLASSES
    if name == "IsotonicRegression":
        return X[:, 0], NUMBERS
    if name in (
        "CCA",
        "PLSCanonical",
        "PLSSVD",
        "MultiOutputRegressor",
        "RegressorChain",
        "MultiTaskLasso",
        "MultiTaskLassoCV",
        "MultiTaskElasticNet",
        "MultiTaskElasticNetCV",
    ):
        return X, np.column_stack([NUMBERS, NUMBERS**2])
    if name in ("MultiOutputClassifier", "ClassifierChain"):
        return X, np.column_stack([CLASSES == 0, CLASSES == 1]).astype(int)
    if name.startswith(_POSITIVE):
        return X, np.abs(NUMBERS) + 0.1
    from sklearn.base import is_regressor

    try:
        regression = is_regressor(make(name))
    except Exception:
        regression = False
    return X, NUMBERS if regression else CLASSES


def fitted(name: str) -> Tuple[Any, Any]:
    """Return a fitted estimator and the data it knows."""
    estimator = make(name)
    x, y = data(name)
    if hasattr(estimator, "fit"):
        if y is None:
            estimator.fit(x)
        elif name in ("LabelBinarizer", "LabelEncoder"):
            estimator.fit(y)
        else:
            estimator.fit(x, y)
    return estimator, x


METHODS = (
    "predict",
    "predict_proba",
    "decision_function",
    "transform",
    "kneighbors",
    "score_samples",
    "apply",
    "split",
)


def results(estimator: Any, x: Any) -> Iterator[Tuple[str, Any]]:
    """Yield what the methods of a fitted estimator say of its data."""
    for method in METHODS:
        if hasattr(estimator, method):
            yield method, getattr(estimator, method)(x)
