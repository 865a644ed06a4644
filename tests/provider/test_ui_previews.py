"""A preview comes from a store that many write to: what is believed of it is rebuilt, bounded and plain."""

from __future__ import annotations

import json
import math
from typing import Any, Dict

import pytest

from airflow_provider_vineyard.ui.previews import checked

vineyard_client = pytest.importorskip("vineyard_client")

TABLE: Dict[str, Any] = {
    "kind": "table",
    "rows": 2,
    "cols": 1,
    "columns": [{"name": "a", "type": "int64", "nulls": 0, "min": 1, "max": 2, "mean": 1.5, "hist": [1, 1]}],
    "index": "i",
    "head": [[0, 1], [1, 2]],
    "sampled": 2,
}


def test_what_core_makes_passes() -> None:
    """A table, an array, a text, bytes and a tree, with all their fields."""
    assert checked(TABLE) == {
        **TABLE,
        "columns": [
            {"name": "a", "type": "int64", "nulls": 0, "stats": {"min": 1, "max": 2, "mean": 1.5}, "hist": [1, 1]}
        ],
    }
    for whole in (
        {
            "kind": "array",
            "shape": [2, 2],
            "dtype": "int64",
            "head": [[1, 2], [3, 4]],
            "stats": {"min": 1},
            "hist": [4],
        },
        {"kind": "array", "shape": [], "dtype": "float64", "head": 1.5},
        {"kind": "text", "length": 5, "head": "hello"},
        {"kind": "bytes", "length": 2, "head": "00ff"},
        {"kind": "tree", "t": "dict", "n": 1, "kids": [["a", {"t": "int", "v": 1}], [None, {"t": "x", "shape": [1]}]]},
    ):
        assert checked(whole) == whole


@pytest.mark.parametrize(
    "value",
    [
        *(None, 1, "text", [], {}, {"kind": None}, {"kind": []}, {"kind": "html", "html": "<b>"}),
        {**TABLE, "columns": None},
        {**TABLE, "columns": [1]},
        {**TABLE, "columns": [{"name": "a", "type": {"a": 1}}]},
        {**TABLE, "rows": -1},
        {**TABLE, "rows": "many"},
        {**TABLE, "rows": 1 << 100},
        {**TABLE, "head": [[{"toString": "x"}]]},
        {**TABLE, "head": [1]},
        {"kind": "array", "shape": "x", "dtype": "int64"},
        {"kind": "array", "shape": [1], "dtype": "int64", "head": [[[[[1]]]]]},
        {"kind": "text", "length": 1, "head": 1},
        {"kind": "tree", "t": "dict", "kids": {"a": 1}},
        {"kind": "tree", "t": "dict", "kids": [["a"]]},
        {"kind": "tree"},
    ],
)
def test_whatever_else_is_none(value: object) -> None:
    """Another kind, a field of another type, a number that is no count: no preview, and no error either."""
    assert checked(value) is None


def test_it_is_bounded() -> None:
    """However much arrives: rows, columns, members and texts are cut, and what is too deep is none."""
    many: Dict[str, Any] = {"kind": "table", "columns": [{"name": "n" * 9999, "type": "t" * 9999}] * 9999}
    many["head"] = [["c" * 9999] * 9999] * 9999
    assert len(json.dumps(checked(many))) < 250_000
    deep: Any = {"t": "list"}
    for _ in range(5000):
        deep = {"t": "list", "kids": [deep]}
    assert checked({"kind": "tree", **deep}) is None
    assert checked({"kind": "text", "length": 1, "head": "x" * 99_999}) == {
        "kind": "text",
        "length": 1,
        "head": "x" * 4096,
    }


def test_unknown_fields_go_and_scalars_can_be_sent() -> None:
    """Nothing passes that is not known; NaN, huge integers and half characters become texts."""
    found = checked(
        {"kind": "array", "shape": [4], "dtype": "o", "head": [math.nan, 1 << 60, 1 << 999, "\ud800"], "onload": "x()"}
    )
    assert found is not None
    assert set(found) == {"kind", "shape", "dtype", "head"}
    assert found["head"] == ["nan", str(1 << 60), "…", "\\ud800"]
    json.dumps(found, allow_nan=False).encode()
