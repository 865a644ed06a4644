"""Every estimator of scikit-learn, fitted, arrives as it was; and what its C code trusts cannot be forged."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("sklearn")

import estimators
from codec_support import TOKEN, blob_of, decode, pickled, roundtrip

from vineyard_client._codec import encode
from vineyard_client._codec.ops import FILL, MAKE
from vineyard_client._codec.table import table
from vineyard_client.exceptions import UnsafeType, VineyardError

NEW = "sklearn.object"


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _assert_same_result(left, right):
    if isinstance(left, tuple):
        for one, other in zip(left, right):
            _assert_same_result(one, other)
    elif hasattr(left, "toarray"):
        _assert_same_result(left.toarray(), right.toarray())
    elif getattr(left, "dtype", np.dtype("O")).kind in "fc":
        # Matrix products differ in the last bit with the alignment of their memory.
        np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-14)
    else:
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", estimators.names())
def test_every_fitted_estimator_arrives(name):
    estimator, known = estimators.fitted(name)
    result = roundtrip(estimator)
    assert type(result) is type(estimator)
    for method, expected in estimators.results(estimator, known):
        _assert_same_result(expected, getattr(result, method)(known))


def _other_values():
    import scipy.sparse
    from sklearn import metrics, model_selection, neighbors
    from sklearn.gaussian_process import kernels
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler
    from sklearn.svm import SVC, SVR
    from sklearn.tree import DecisionTreeClassifier

    x, y = estimators.X, estimators.CLASSES
    yield "a pipeline", make_pipeline(StandardScaler(), SVC()).fit(x, y)
    yield "an estimator not fitted", SVC()
    yield "a precomputed kernel", SVC(kernel="precomputed").fit(x @ x.T, y)
    yield "a regression of sparse data", SVR().fit(scipy.sparse.csr_matrix(x), estimators.NUMBERS)
    yield "a tree", DecisionTreeClassifier(max_leaf_nodes=5).fit(x, y).tree_
    yield "a ufunc in a transformer", FunctionTransformer(np.log1p)
    yield "a scorer", metrics.make_scorer(metrics.f1_score, average="macro")
    yield "a ball tree", neighbors.BallTree(x, leaf_size=3)
    yield (
        "metrics with parameters",
        [
            neighbors.KDTree(x, metric="minkowski", p=3),
            neighbors.BallTree(x, metric="seuclidean", V=np.ones(4)),
            neighbors.BallTree(x, metric="mahalanobis", V=np.cov(x.T)),
        ],
    )
    yield "splitters", [model_selection.KFold(3), model_selection.TimeSeriesSplit(), model_selection.ShuffleSplit(2)]
    yield "kernels", kernels.RBF() + kernels.WhiteKernel() * kernels.ConstantKernel(2.0)
    yield "a report", metrics.classification_report(y, y, output_dict=True)
    yield "a curve", metrics.roc_curve(y == 0, x[:, 0])
    yield "a grid", model_selection.ParameterGrid({"a": [1, 2]})


OTHERS = dict(_other_values())


@pytest.mark.parametrize("name", OTHERS)
def test_other_values_arrive(name):
    roundtrip(OTHERS[name])  # which compares


def test_a_function_of_the_callers_own_needs_permission():
    from sklearn.preprocessing import FunctionTransformer

    with pytest.raises(UnsafeType, match="_assert_same_result"):
        roundtrip(FunctionTransformer(_assert_same_result))


@pytest.mark.usefixtures("unproven")
def test_another_version_is_told_by_sklearn_itself():
    from sklearn.linear_model import Ridge

    estimator = Ridge().fit(estimators.X, estimators.NUMBERS)
    state = {**vars(estimator), "_sklearn_version": "0.1"}
    made = _made(NEW, "sklearn.linear_model._ridge", "Ridge", filling=(NEW, (state, None)))
    with pytest.warns(UserWarning, match="0.1"):
        assert decode(made).coef_.tobytes() == estimator.coef_.tobytes()


def _tree_parts():
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(estimators.X, estimators.CLASSES).tree_
    (features, classes, outputs), state = tree.__reduce__()[1:]
    return features, classes, outputs, dict(state)


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("left_child", 10**6),
        ("left_child", -5),
        ("right_child", 10**6),
        ("right_child", 0),
        ("feature", 99),
        ("feature", -1),
    ],
)
def test_a_node_that_points_elsewhere_is_refused(field, number):
    features, classes, outputs, state = _tree_parts()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][0] = number
    with pytest.raises(VineyardError):
        decode(_made("sklearn.Tree", features, classes, outputs, state))


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize(
    "change",
    [{"max_depth": 0}, {"node_count": 1}, {"node_count": 10**9}, {"nodes": None}, {"values": np.zeros((1, 1, 1))}],
)
def test_a_tree_whose_parts_differ_is_refused(change):
    features, classes, outputs, state = _tree_parts()
    with pytest.raises(VineyardError):
        decode(_made("sklearn.Tree", features, classes, outputs, {**state, **change}))


class Forged:
    """Is written as a test says."""


def _made(name, *parts, filling=None):
    """Return a blob that makes one value of parts, which are written as the codec writes them."""
    head = MAKE, (name, *parts)
    table.reducers[Forged] = lambda writer, value: head if filling is None else (*head, filling, None, None, FILL)
    try:
        encoded = encode(Forged(), token=TOKEN)
        return memoryview(bytearray(b"".join(encoded.chunks)))
    finally:
        del table.reducers[Forged]


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("position", [1, 2, 3, 4, 5, 6, 11])
def test_a_neighbour_tree_whose_parts_differ_is_refused(position):
    from sklearn.neighbors import KDTree

    state = list(KDTree(estimators.X, leaf_size=3).__getstate__())
    wrong = {
        1: lambda index: index + 100,
        2: lambda nodes: nodes[:1],
        3: lambda bounds: bounds[:, :1],
        4: lambda leaf_size: 0,
        5: lambda n_levels: n_levels + 10,
        6: lambda n_nodes: n_nodes * 1000,
        11: lambda metric: 1,
    }
    state[position] = wrong[position](state[position])
    with pytest.raises(VineyardError):
        decode(_made("sklearn.neighbours", "sklearn.neighbors._kd_tree", "KDTree", *state))


def _svc():
    from sklearn.svm import SVC

    return SVC().fit(estimators.X, estimators.CLASSES)


def _forest():
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(2, random_state=0).fit(estimators.X, estimators.CLASSES)


def _boosted():
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = np.repeat(estimators.X, 3, axis=0)
    return HistGradientBoostingRegressor(max_iter=2, min_samples_leaf=3).fit(rows, rows[:, 0])


def _words():
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer().fit(estimators.TEXTS)


def _clusters():
    from sklearn.cluster import KMeans

    return KMeans(2, n_init=1).fit(estimators.X)


def _set(name, number):
    def change(model):
        array = vars(model)[name].copy()
        array.flat[0] = number
        setattr(model, name, array)

    return change


def _in_nodes(field, number, **more):
    def change(model):
        nodes = model._predictors[0][0].nodes.copy()
        for name, value in {field: number, **more}.items():
            nodes[name][0] = value
        model._predictors[0][0].nodes = nodes

    return change


FORGED = {
    "too few support vectors": (_svc, lambda model: setattr(model, "support_vectors_", model.support_vectors_[:1])),
    "counts of support vectors": (_svc, _set("_n_support", 1000)),
    "support vectors of other features": (_svc, lambda m: setattr(m, "n_features_in_", 400)),
    "short coefficients": (_svc, lambda model: setattr(model, "_dual_coef_", model._dual_coef_[:, :1])),
    "short intercepts": (_svc, lambda model: setattr(model, "_intercept_", model._intercept_[:0])),
    "trees of other features": (_forest, lambda model: setattr(model, "n_features_in_", 1)),
    "a child of a boosted node": (_boosted, _in_nodes("left", 10**6)),
    "a node that is its own child": (_boosted, _in_nodes("left", 0)),
    "a feature of a boosted node": (_boosted, _in_nodes("feature_idx", 10**6)),
    "a set of categories": (
        _boosted,
        lambda model: (_in_nodes("is_categorical", 1)(model), _in_nodes("bitset_idx", 9)(model)),
    ),
    "a word beyond the last": (_words, lambda model: model.vocabulary_.update(the=10**6)),
    "centres of other features": (_clusters, lambda model: setattr(model, "n_features_in_", 1)),
}


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("name", FORGED)
def test_numbers_that_c_code_trusts_are_checked(name):
    make, change = FORGED[name]
    model = make()
    change(model)
    with pytest.raises(VineyardError):
        roundtrip(model)


@pytest.mark.parametrize(
    "arguments",
    [
        (NEW, "sklearn.datasets._base", "RemoteFileMetadata"),
        (NEW, "sklearn.utils.parallel", "Parallel"),
        (NEW, "sklearn.callback._progressbar", "RichProgressMonitor"),
        (NEW, "sklearn.tree._tree", "Tree"),
        (NEW, "sklearn.neighbors._kd_tree", "KDTree"),
        (NEW, "sklearn.conftest", "X"),
        ("sklearn.loss", "sklearn._loss._loss", "np"),
        ("sklearn.loss", "os", "system", 1),
        ("sklearn.metric", "sklearn.metrics._dist_metrics", "EuclideanDistance", 2.0, 1, 1),
        ("sklearn.function", "sklearn.datasets._base", "load_files"),
        ("sklearn.function", "sklearn.utils.parallel", "delayed"),
    ],
)
def test_what_is_no_model_is_refused(arguments):
    with pytest.raises(VineyardError):
        decode(blob_of(pickled(("MAKE", arguments))))
