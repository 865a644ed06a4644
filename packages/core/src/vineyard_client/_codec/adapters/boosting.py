"""lightgbm (3.0 - 4.7) and xgboost (1.6 - 3.4): boosters and their wrappers for scikit-learn.

A booster is C++ memory. It travels as the model that the library writes, lightgbm's as text, xgboost's as JSON, and the
library reads it again. Neither asks whether the children, features and leaves of a tree exist before it walks the tree:
that is checked here first. What else a booster has are attributes of the Python object; none that the library keeps its
memory in (``_handle``, ``handle``) is ever set.

Data sets of these libraries belong to the process; they cannot be stored (pickle cannot either).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from typing import TYPE_CHECKING, Any, Dict, List, Tuple

from vineyard_client.exceptions import UnsafeType

from ..ops import FILL, MAKE
from ..parts import checked, damaged
from ..policy import qualified
from .sklearn_checks import is_tree
from .trusted import Package

if TYPE_CHECKING:
    from ..reader import Reader
    from ..table import Table
    from ..writer import Writer

__all__ = ["install_lightgbm", "install_xgboost"]

_LIGHTGBM = Package("lightgbm", parts="sklearn engine compat", direct=["lightgbm.engine.CVBooster"])
_XGBOOST = Package("xgboost", parts="sklearn compat callback training")

# What is memory of C++, or of no use without it.
_MEMORY = frozenset(
    (
        *("_handle", "handle", "train_set", "valid_sets", "_network", "network", "_free_buffer"),
        "_Booster__inner_predict_buffer",
    )
)


def _no_data(writer: Writer, value: Any) -> Tuple[Any, ...]:
    raise UnsafeType(
        f"A {qualified(type(value))} cannot be stored: it is memory of the library in this process.",
        "Store the arrays or the frame that it was made of.",
        qualified(type(value)),
    )


def _attributes(value: Any) -> Dict[str, Any]:
    return {name: item for name, item in vars(value).items() if name not in _MEMORY}


def _fill(reader: Reader, value: Any, attributes: Any) -> None:
    for name in checked(attributes, dict):
        if type(name) is not str or name in _MEMORY or name.startswith("__") or name in ("append", "extend", "add"):
            raise damaged(f"a booster has the attribute {name!r}")
    vars(value).update(attributes)


# --- lightgbm ---------------------------------------------------------------------------------------------------------


def _reduce_lightgbm(writer: Writer, booster: Any) -> Tuple[Any, ...]:
    text = booster.model_to_string(num_iteration=-1)
    return MAKE, ("lightgbm.booster", text), ("lightgbm.booster", _attributes(booster)), None, None, FILL


def _make_lightgbm(reader: Reader, text: Any) -> Any:
    _check_text(checked(text, str))
    return importlib.import_module("lightgbm").Booster(model_str=text)


def _numbers(block: Dict[str, str], name: str, count: int) -> List[int]:
    found = [int(word) for word in block.get(name, "").split()]
    if len(found) != count:
        raise damaged(f"a tree of a boosted model has {len(found)} of {name}")
    return found


def _check_text(text: str) -> None:
    what = "the trees of a boosted model make no trees"
    head, *trees = text.partition("\nend of trees")[0].split("\nTree=")
    try:
        features = int(dict(line.partition("=")[::2] for line in head.splitlines()).get("max_feature_idx", "-1")) + 1
        for tree in trees:
            block = dict(line.partition("=")[::2] for line in tree.splitlines()[1:])
            leaves, groups = int(block["num_leaves"]), int(block.get("num_cat", "0"))
            if leaves < 1 or groups < 0 or len(block["leaf_value"].split()) != leaves:
                raise damaged(what)
            if leaves == 1:
                continue
            inner = leaves - 1
            left, right = (_numbers(block, name, inner) for name in ("left_child", "right_child"))
            split, kinds = (_numbers(block, name, inner) for name in ("split_feature", "decision_type"))
            if len(block["threshold"].split()) != inner or not all(0 <= feature < features for feature in split):
                raise damaged(what)
            if not all(-leaves <= child < inner for child in (*left, *right)) or not is_tree(left, right):
                raise damaged(what)
            if groups:
                bounds = _numbers(block, "cat_boundaries", groups + 1)
                sets = block["cat_threshold"].split()
                chosen = [float(number) for number, kind in zip(block["threshold"].split(), kinds) if kind & 1]
                if bounds[0] != 0 or bounds[-1] != len(sets) or sorted(bounds) != bounds:
                    raise damaged(what)
                if not all(0 <= number < groups for number in chosen):
                    raise damaged(what)
            elif any(kind & 1 for kind in kinds):
                raise damaged(what)
    except (KeyError, ValueError) as exc:
        raise damaged(what) from exc


def install_lightgbm(table: Table) -> None:
    """Declare boosters and models of lightgbm."""
    lightgbm: Any = importlib.import_module("lightgbm")
    if importlib.util.find_spec("sklearn") is not None:
        table.load("sklearn")
    _LIGHTGBM.install(table)
    table.reducers[lightgbm.Booster] = _reduce_lightgbm
    table.reducers[lightgbm.Dataset] = _no_data
    table.makers["lightgbm.booster"] = _make_lightgbm
    table.filler("lightgbm.booster", _fill, "lightgbm.booster", holds=True)


# --- xgboost ----------------------------------------------------------------------------------------------------------


def _reduce_xgboost(writer: Writer, booster: Any) -> Tuple[Any, ...]:
    model = bytes(booster.save_raw("json"))
    head = "xgboost.booster", model, booster.save_config()
    return MAKE, head, ("xgboost.booster", _attributes(booster)), None, None, FILL


def _make_xgboost(reader: Reader, model: Any, configuration: Any) -> Any:
    _check_json(checked(model, bytes))
    booster = importlib.import_module("xgboost").Booster()
    booster.load_model(bytearray(model))
    booster.load_config(checked(configuration, str))
    return booster


def _check_json(model: bytes) -> None:
    what = "the trees of a boosted model make no trees"
    try:
        learner = json.loads(model)["learner"]
        features = int(learner["learner_model_param"]["num_feature"])
        booster = learner["gradient_booster"]
        if booster["name"] == "gblinear":
            groups = max(1, int(learner["learner_model_param"].get("num_class", "0")))
            if len(booster["model"]["weights"]) % ((features + 1) * groups):
                raise damaged(what)
            return
        inner = booster.get("gbtree", booster)["model"]  # those of dart are a level below
        trees = inner["trees"]
        if len(inner["tree_info"]) != len(trees):
            raise damaged(what)
        outputs = max(1, int(learner["learner_model_param"].get("num_class", "0")))
        outputs = max(outputs, int(learner["learner_model_param"].get("num_target", "1")))
        if not all(0 <= group < outputs for group in inner["tree_info"]):
            raise damaged(what)
        for tree in trees:
            left, right, split = (tree[name] for name in ("left_children", "right_children", "split_indices"))
            count = len(left)
            for name in ("right_children", "split_indices", "split_conditions", "default_left"):
                if len(tree[name]) != count:
                    raise damaged(what)
            if not count or int(tree["tree_param"]["num_nodes"]) != count:
                raise damaged(what)
            if not all(-1 <= child < count for child in (*left, *right)) or not is_tree(left, right):
                raise damaged(what)
            if not all(0 <= feature < max(features, 1) for feature, child in zip(split, left) if child >= 0):
                raise damaged(what)
            sizes, starts = tree.get("categories_sizes", []), tree.get("categories_segments", [])
            nodes, members = tree.get("categories_nodes", []), tree.get("categories", [])
            if not len(sizes) == len(starts) == len(nodes) or not all(0 <= node < count for node in nodes):
                raise damaged(what)
            if not all(0 <= start <= start + size <= len(members) for start, size in zip(starts, sizes)):
                raise damaged(what)
            if not all(0 <= member < 1 << 24 for member in members):
                raise damaged(what)
    except (KeyError, TypeError, ValueError) as exc:
        raise damaged(what) from exc


def install_xgboost(table: Table) -> None:
    """Declare boosters and models of xgboost."""
    xgboost: Any = importlib.import_module("xgboost")
    if importlib.util.find_spec("sklearn") is not None:
        table.load("sklearn")
    _XGBOOST.install(table)
    table.reducers[xgboost.Booster] = _reduce_xgboost
    for name in ("DMatrix", "QuantileDMatrix", "DeviceQuantileDMatrix"):
        cls = vars(xgboost.core).get(name)
        if cls is not None:
            table.reducers[cls] = _no_data
    table.makers["xgboost.booster"] = _make_xgboost
    table.filler("xgboost.booster", _fill, "xgboost.booster", holds=True)
