"""What scikit-learn's C code trusts, looked at before anything of it runs.

Its Cython modules switch the checking of indices off: a tree node whose child does not exist, a feature beyond the
last one, a support vector that is missing make it read, or write, memory that is not its own. Each function here looks
at one kind of object and raises ``ObjectCorrupted``. All look at whole arrays at a time; none loops over nodes.
"""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict

from ..parts import damaged

__all__ = ["CHECKS", "check_neighbours", "check_tree_parts", "is_array", "is_tree"]

# Sizes beyond which nothing of scikit-learn is useful, and a product of a few would overflow.
_MOST = 1 << 40


def _np() -> Any:
    return importlib.import_module("numpy")


def is_array(thing: Any, dimensions: int, kinds: str) -> bool:
    """Tell whether something is an array of numbers of a kind."""
    return type(thing) is _np().ndarray and thing.ndim == dimensions and thing.dtype.kind in kinds


def _need(condition: Any, what: str) -> None:
    if not condition:
        raise damaged(what)


def _within(array: Any, low: int, high: int) -> bool:
    """Tell whether all numbers are at least ``low`` and below ``high``."""
    return bool(not array.size or (array.min() >= low and array.max() < high))


# --- trees ------------------------------------------------------------------------------------------------------------


def _depth(left: Any, right: Any, root: int = 0) -> int:
    """Return how many steps below the root the lowest leaf is, or -1 if the nodes are no tree.

    Args:
        left: the left child of each node, negative for a leaf; the others are below the number of nodes.
        right: the right child of each node.
        root: where to begin.
    """
    np = _np()
    level, seen, depth = np.array([root]), 1, 0
    while True:
        level = level[left[level] >= 0]
        if not level.size:
            return depth
        level = np.concatenate([left[level], right[level]])
        seen += level.size
        depth += 1
        if seen > left.size:
            return -1


def is_tree(left: Any, right: Any) -> bool:
    """Tell whether the children of nodes, given as lists with negative numbers for leaves, make a tree."""
    np = _np()
    one, other = np.asarray(left, np.int64), np.asarray(right, np.int64)
    level, seen = np.array([0]), 1
    while level.size:
        level = np.concatenate([one[level], other[level]])
        level = level[level >= 0]
        seen += level.size
        if seen > one.size:
            return False
    return True


def check_tree_parts(features: Any, classes: Any, outputs: Any, state: Dict[str, Any]) -> None:
    """Check what a ``Tree`` is made of."""
    what = "the nodes of a decision tree make no tree"
    nodes: Any = state.get("nodes")
    values: Any = state.get("values")
    count: Any = state.get("node_count")
    _need(type(features) is int and 0 <= features < _MOST and type(outputs) is int and 0 < outputs < _MOST, what)
    _need(is_array(classes, 1, "i") and classes.shape == (outputs,) and _within(classes, 1, _MOST), what)
    _need(is_array(nodes, 1, "V") and is_array(values, 3, "f") and type(count) is int, what)
    _need(nodes.shape == (count,) and count > 0, what)
    _need(values.shape == (count, outputs, int(classes.max())), what)
    names = nodes.dtype.names or ()
    _need({"left_child", "right_child", "feature"} <= set(names), what)
    left, right, feature = (nodes[name] for name in ("left_child", "right_child", "feature"))
    _need(left.dtype.kind == right.dtype.kind == feature.dtype.kind == "i", what)
    leaf = left == -1
    _need(bool((leaf == (right == -1)).all()), what)
    _need(_within(left[~leaf], 0, count) and _within(right[~leaf], 0, count), what)
    _need(_within(feature[~leaf], 0, features), what)
    depth = _depth(left, right)
    # decision_path() asks for as much memory as the depth says, and fills what the nodes say.
    _need(depth >= 0 and type(state.get("max_depth")) is int and depth <= state["max_depth"] < _MOST, what)


def _check_decision_tree(tree: Any) -> None:
    inner = vars(tree).get("tree_")
    if inner is not None:
        _need(type(inner).__qualname__ == "Tree", "a decision tree has no nodes")
        _need(inner.n_features == _features(tree), "a decision tree and its nodes differ in the number of features")
        outputs = vars(tree).get("n_outputs_")
        _need(outputs is None or inner.n_outputs == outputs, "a decision tree and its nodes differ in outputs")


def _features(estimator: Any) -> Any:
    state = vars(estimator)
    return state.get("n_features_in_", state.get("n_features_"))  # the second in 0.24


def _estimators(estimator: Any) -> Any:
    found = vars(estimator).get("estimators_")
    if found is None:
        return []
    if type(found) is list:
        return found
    _need(type(found) is _np().ndarray and found.dtype == object, "the estimators of a forest are no list")
    return found.ravel().tolist()


def _check_forest(forest: Any) -> None:
    own = _features(forest)
    for tree in _estimators(forest):
        _need(_features(tree) == own, "the trees of a forest differ in the number of features")
        _need(hasattr(type(tree), "predict"), "a tree of a forest is none")


def _check_isolation(forest: Any) -> None:
    state = vars(forest)
    trees = _estimators(forest)
    chosen = state.get("estimators_features_", [])
    _need(len(chosen) == len(trees), "the trees of a forest and their features differ in number")
    np = _np()
    for tree, features in zip(trees, chosen):
        features = np.asarray(features)
        _need(features.dtype.kind in "iu" and _within(features, 0, _features(forest)), "a forest uses unknown features")
        expected = _features(forest) if state.get("_max_features") == _features(forest) else features.size
        _need(_features(tree) == expected, "the trees of a forest differ in the number of features")


def _check_boosting(model: Any) -> None:
    state = vars(model)
    found = state.get("estimators_")
    if found is None:
        return
    what = "the trees of a boosted model do not fit together"
    _need(type(found) is _np().ndarray and found.dtype == object and found.ndim == 2, what)
    for name in ("n_trees_per_iteration_", "_K", "K", "loss_"):  # one for each time of scikit-learn
        width = state.get(name)
        if name == "loss_":
            width = getattr(width, "K", None)
        if width is not None:
            _need(found.shape[1] == width, what)
    for tree in found.ravel().tolist():
        inner: Any = getattr(tree, "tree_", None)
        _need(type(inner).__qualname__ == "Tree" and inner.n_features == _features(model), what)


def _check_predictor(predictor: Any) -> None:
    what = "the nodes of a boosted tree make no tree"
    state = vars(predictor)
    nodes = state.get("nodes")
    _need(is_array(nodes, 1, "V") and nodes.size, what)
    known = importlib.import_module("sklearn.ensemble._hist_gradient_boosting.common").PREDICTOR_RECORD_DTYPE
    _need(nodes.dtype == known, what)
    inner = nodes["is_leaf"] == 0
    np = _np()
    left = np.where(inner, nodes["left"].astype(np.int64), -1)
    right = np.where(inner, nodes["right"].astype(np.int64), -1)
    _need(_within(left, -1, nodes.size) and _within(right, -1, nodes.size) and _depth(left, right) >= 0, what)
    feature = "feature_idx"
    _need(_within(nodes[feature][inner].astype(np.int64), 0, _MOST), what)
    bitsets = [state.get(name) for name in ("binned_left_cat_bitsets", "raw_left_cat_bitsets") if name in state]
    if "is_categorical" in known.names:  # from 0.24 on
        sets = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
        for bits in bitsets:
            _need(is_array(bits, 2, "u") and bits.shape[1] == 8 and _within(sets, 0, bits.shape[0]), what)
        _need(len(bitsets) == 2 or not sets.size, what)


def _check_histogram(model: Any) -> None:
    what = "the trees of a boosted model do not fit together"
    state = vars(model)
    rows = state.get("_predictors")
    if rows is None:
        return
    _need(type(rows) is list, what)
    width = state.get("n_trees_per_iteration_")
    for row in rows:
        _need(type(row) is list and len(row) == width, what)
        for predictor in row:
            _need(type(predictor).__qualname__ == "TreePredictor", what)
            inner = predictor.nodes[predictor.nodes["is_leaf"] == 0]
            _need(_within(inner["feature_idx"].astype("i8"), 0, _width_of(model)), what)


def _width_of(model: Any) -> int:
    # Where a preprocessor puts categories first, it keeps the number of features.
    width = _features(model)
    _need(type(width) is int, "a model does not say how many features it knows")
    return int(width)


# --- neighbours -------------------------------------------------------------------------------------------------------


def check_neighbours(name: str, state: Any) -> None:
    """Check what a ``KDTree`` or ``BallTree`` is made of."""
    what = "the parts of a neighbour tree do not fit together"
    _need(len(state) in (12, 13), what)
    data, index, nodes, bounds, leaf_size, n_levels, n_nodes = state[:7]
    metric, weights = state[11], state[12] if len(state) == 13 else None
    _need(is_array(data, 2, "f") and is_array(index, 1, "i") and is_array(bounds, 3, "f"), what)
    _need(all(type(number) is int and 0 <= number < _MOST for number in state[4:11]), what)
    _need(is_array(nodes, 1, "V") and set(nodes.dtype.names or ()) >= {"idx_start", "idx_end", "is_leaf"}, what)
    samples, features = data.shape
    _need(index.shape == (samples,) and _within(index, 0, samples), what)
    _need(0 < n_levels < 63 and n_nodes == (1 << n_levels) - 1 and nodes.shape == (n_nodes,) and leaf_size > 0, what)
    _need(bounds.shape == (2 if name.startswith("KD") else 1, n_nodes, features), what)
    start, end = nodes["idx_start"], nodes["idx_end"]
    _need(_within(start, 0, samples + 1) and _within(end, 0, samples + 1) and bool((start <= end).all()), what)
    _need(bool((nodes["is_leaf"][n_nodes // 2 :] != 0).all()), what)
    _need(weights is None or (is_array(weights, 1, "f") and weights.shape == (samples,)), what)
    home = type(metric).__module__
    _need(home.endswith("._dist_metrics") and home.startswith("sklearn."), what)
    _, vector, matrix = metric.__getstate__()[:3]
    kind = type(metric).__qualname__
    if kind.startswith(("SEuclidean", "WMinkowski")) or (kind.startswith("Minkowski") and vector.size):
        _need(vector.size == features, what)
    if kind.startswith("Mahalanobis"):
        _need(matrix.shape == (features, features), what)
    if kind.startswith("Haversine"):
        _need(features == 2, what)


# --- support vector machines ------------------------------------------------------------------------------------------


def _check_vectors(model: Any) -> None:
    state = vars(model)
    if "support_" not in state:
        return
    what = "the parts of a support vector machine do not fit together"
    np = _np()
    support, vectors, counts = (
        state["support_"],
        state.get("support_vectors_"),
        state.get("_n_support", state.get("n_support_")),
    )
    dual, intercept = state.get("_dual_coef_"), state.get("_intercept_")
    _need(is_array(support, 1, "i") and is_array(counts, 1, "i"), what)
    classifier = "classes_" in state
    classes = len(state["classes_"]) if classifier else 2
    if classifier:
        _need(_within(counts, 0, support.size + 1), what)
        _need(counts.size == classes and counts.sum() == support.size, what)
    else:
        _need(counts.size in (1, 2), what)  # libsvm does not look at them, and in older releases they may be anything
    pairs = classes * (classes - 1) // 2
    _need(is_array(intercept, 1, "f") and intercept.size == pairs, what)
    for name in ("_probA", "_probB", "probA_", "probB_"):
        if name in state:
            found = state[name]
            _need(is_array(found, 1, "f") and found.size in (0, pairs, 1 if not classifier else pairs), what)
    if state.get("_probA") is not None and state.get("_probB") is not None and classifier:
        _need(state["_probA"].size == state["_probB"].size, what)
    shape, width = state.get("shape_fit_"), _features(model)
    _need(type(shape) is tuple and len(shape) == 2 and type(width) is int, what)
    if state.get("_sparse"):
        sparse = importlib.import_module("scipy.sparse")
        _need(sparse.issparse(vectors) and sparse.issparse(dual), what)
        for matrix in (vectors, dual):
            matrix.check_format(full_check=True)
        _need(dual.shape == (classes - 1, support.size) and vectors.shape[0] == support.size, what)
        _need(vectors.shape[1] == width, what)
        return
    _need(is_array(dual, 2, "f") and dual.shape == (classes - 1, support.size), what)
    _need(is_array(vectors, 2, "f"), what)
    if state.get("kernel") == "precomputed" or callable(state.get("kernel")):
        _need(_within(support, 0, int(shape[0])), what)
        _need(vectors.shape[0] in (0, support.size), what)
    else:
        _need(vectors.shape == (support.size, width), what)
    _need(np.isfinite(counts).all(), what)


# --- others -----------------------------------------------------------------------------------------------------------


def _check_centres(model: Any) -> None:
    centres = vars(model).get("cluster_centers_")
    if centres is not None:
        what = "the centres of clusters do not fit together"
        _need(is_array(centres, 2, "f") and centres.shape[1] == _features(model), what)


def _check_bisecting(model: Any) -> None:
    waiting = [vars(model).get("_bisecting_tree")]
    seen = 0
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        seen += 1
        _need(type(node).__qualname__ == "_BisectingTree" and seen < 1_000_000, "a tree of clusters is none")
        centre = vars(node).get("center")
        _need(is_array(centre, 1, "f") and centre.size == _features(model), "a centre of a cluster is none")
        waiting += [vars(node).get("left"), vars(node).get("right")]


def _check_vocabulary(model: Any) -> None:
    words = vars(model).get("vocabulary_")
    if words is not None:
        what = "the words of a vocabulary have numbers beyond it"
        _need(isinstance(words, dict), what)
        _need(all(0 <= int(number) < len(words) for number in words.values()), what)


def _check_linkage(model: Any) -> None:
    tree = vars(model).get("_single_linkage_tree_")
    if tree is not None:
        what = "the tree of a hierarchical clustering is none"
        _need(is_array(tree, 1, "V"), what)
        for name in ("left_node", "right_node"):
            _need(name in (tree.dtype.names or ()) and _within(tree[name], 0, 2 * tree.size + 1), what)
        _need("cluster_size" in tree.dtype.names, what)


CHECKS: Dict[str, Callable[[Any], None]] = {
    "BaseDecisionTree": _check_decision_tree,
    "BaseForest": _check_forest,
    "IsolationForest": _check_isolation,
    "BaseGradientBoosting": _check_boosting,
    "TreePredictor": _check_predictor,
    "BaseHistGradientBoosting": _check_histogram,
    "BaseLibSVM": _check_vectors,
    "KMeans": _check_centres,
    "MiniBatchKMeans": _check_centres,
    "BisectingKMeans": _check_bisecting,
    "_BaseKMeans": _check_centres,
    "CountVectorizer": _check_vocabulary,
    "DictVectorizer": _check_vocabulary,
    "HDBSCAN": _check_linkage,
}
