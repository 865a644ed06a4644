"""A preview comes from a store that many write to: what is believed of it is rebuilt, bounded and plain."""

from __future__ import annotations

import json
import math
from typing import Any, Callable, Dict, List

import pytest

from airflow_provider_vineyard.ui.previews import checked

vineyard_client = pytest.importorskip("vineyard_client")

TABLE: Dict[str, Any] = {
    "kind": "table",
    "rows": 2,
    "cols": 1,
    "columns": [{"name": "a", "type": "int64", "nulls": 0, "min": 1, "max": 2, "mean": 1.5, "hist": [1, 1]}],
    "index": {"type": "pandas.Index", "name": "i"},
    "head": [[1], [2]],
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


def _values() -> Dict[str, Callable[[], Any]]:
    """Return what makes a value of each kind, of those libraries that are installed."""

    def frame() -> Any:
        pandas = pytest.importorskip("pandas")
        return pandas.DataFrame(
            {"n": [1, 2, None], "t": ["a", "b", None], "when": pandas.Timestamp("2026-01-01", tz="UTC"), 7: [1, 2, 3]}
        )

    def indexed() -> Any:
        return frame().set_index(["t", "n"])

    def series() -> Any:
        return frame()["t"].astype("category")

    def large() -> Any:
        numpy = pytest.importorskip("numpy")
        return pytest.importorskip("pandas").DataFrame({f"c{n}": numpy.arange(50_000.0) for n in range(60)})

    def arrays(*shape: int) -> Callable[[], Any]:
        return lambda: pytest.importorskip("numpy").ones(shape)

    return {
        **{each.__name__: each for each in (frame, indexed, series, large)},
        **{f"array {shape}": arrays(*shape) for shape in ((), (5,), (300, 200), (4, 5, 6), (0, 3))},
        "objects": lambda: pytest.importorskip("numpy").array([None, {"a": 1}], dtype=object),
        "moments": lambda: pytest.importorskip("numpy").array(["2026-01-01", "NaT"], dtype="datetime64[s]"),
        "arrow": lambda: pytest.importorskip("pyarrow").table({"a": [1, None], "b": ["x", "y"]}),
        "polars": lambda: pytest.importorskip("polars").DataFrame({"a": [1, None], "b": ["x", "y"]}),
        "text": lambda: "x" * 100_000,
        "bytes": lambda: bytes(100_000),
        "tree": lambda: {"a": [1, 2.5, None, math.inf, 1 << 99, {"deep": ({"er": [1]},)}], 7: b"x", "s": {1}},
        "tree of arrays": lambda: {"rows": arrays(5, 5)(), "frame": frame(), "many": list(range(1000))},
    }


def _with_figures_apart(preview: Dict[str, Any]) -> Dict[str, Any]:
    """Return a preview as the page has it: what the figures of a column are stands in ``stats``."""
    columns: List[Dict[str, Any]] = preview.get("columns", [])
    for column in columns:
        figures = {name: column.pop(name) for name in ("min", "max", "mean") if name in column}
        column.update({"stats": figures} if figures else {})
    return preview


@pytest.mark.parametrize("level", ["schema", "head", "stats"])
@pytest.mark.parametrize("name", list(_values()))
def test_what_core_made_of_a_value_passes_whole(store: Any, name: str, level: str) -> None:
    """Each field of each kind arrives at the page, as core makes it today."""
    ref = store.put(_values()[name](), preview=level)
    found = store.preview(ref)
    assert found is not None
    kept = checked(found)
    assert kept is not None, found
    assert kept == _with_figures_apart(found)
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept


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
