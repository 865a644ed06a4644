"""What a task reads is found in the serialized DAGs of all releases; see serialized/kinds.py for the DAG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from airflow_provider_vineyard.placement.graph import Graph, read_graph

SERIALIZED = Path(__file__).parent / "serialized"

EDGES = {
    "extract": set(),
    "names": set(),
    "numbers": set(),
    "parts": set(),
    # An argument; several, also in lists, dicts and lambdas' kin.
    "clean": {"extract"},
    "join": {"clean", "names", "extract"},
    "part_of": {"parts"},
    # Named in a template that somebody wrote.
    "shell": {"extract", "clean", "names"},
    # No argument is an XCom: all direct upstreams.
    "pulls": {"extract"},
    "gate": {"clean"},
    # Mapped: what is expanded and what is partial.
    "square": {"numbers", "extract"},
    "total": {"square"},
    # In a mapped task group, and the one behind it.
    "each.first": {"numbers"},
    "each.second": {"each.first", "extract"},
    "sum_up": {"each.second"},
}


@pytest.mark.parametrize("path", sorted(SERIALIZED.glob("*.json")), ids=lambda path: path.stem)
def test_what_each_release_says(path: Path) -> None:
    """The same DAG reads the same, however a release writes it down."""
    graph = read_graph(json.loads(path.read_text(encoding="utf-8")))
    assert {task: set(named) for task, named in graph.edges.items()} == EDGES
    assert graph.groups == {"each.first": "each", "each.second": "each"}


def one(fields: Dict[str, Any], **task: Any) -> Graph:
    """Return the graph of a DAG with the tasks a, b and c, and one task ``t`` with such fields, downstream of c."""
    tasks = [{"task_id": name, "template_fields": []} for name in "ab"]
    tasks.append({"task_id": "c", "template_fields": [], "downstream_task_ids": ["t", "gone"]})
    tasks.append({"task_id": "t", "template_fields": sorted(fields), **fields, **task})
    return read_graph({"__version": 2, "dag": {"dag_id": "d", "tasks": [{"__var": entry} for entry in tasks]}})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ ti.xcom_pull('a') }}", ("a",)),
        ('{{ ti.xcom_pull("a") }}', ("a",)),
        ("{{ ti.xcom_pull(task_ids=['a', 'b']) }}", ("a", "b")),
        ("{{ ti.xcom_pull(task_ids=('a',), key='b') }}", ("a",)),
        ("{{ ti.xcom_pull(key='b', task_ids='a', dag_id='d') }}", ("a",)),
        ("{{ ti.xcom_pull(task_ids='a', dag_id='another') }}", ("c",)),
        ("{{ ti.xcom_pull('nobody') }}", ("c",)),
        ("{{ ti.xcom_pull('t') }} of the run before", ("c",)),
        ("{{ ti.xcom_pull('a') }}{{ ti.xcom_pull('b') }}", ("a", "b")),
        ("a b", ("c",)),
        ("", ("c",)),
        ("ZipXComArg(XComArg(<Task(Op): a>), XComArg(<Mapped(_PythonDecoratedOperator): b>))", ("a", "b")),
    ],
)
def test_texts(text: str, expected: Any) -> None:
    """Only tasks of this DAG count, and a task that names none reads from its direct upstreams."""
    assert one({"op_args": [text]}).edges["t"] == expected


def test_references_of_any_depth() -> None:
    """What zip, map and concat refer to is found below them."""
    zipped = {
        "__type": "xcomref",
        "__var": {"type": "zip", "args": [{"__type": "xcomref", "__var": {"task_id": "a", "key": "return_value"}}]},
    }
    assert one({}, expand_input={"type": "dict-of-lists", "value": {"x": zipped}}).edges["t"] == ("a",)


@pytest.mark.parametrize(
    "data", [None, {}, [], {"dag": None}, {"dag": {}}, {"dag": {"tasks": [7]}}, {"dag": {"tasks": [{}]}}]
)
def test_what_is_none(data: Any) -> None:
    """Anything else is an error of one kind."""
    with pytest.raises(ValueError, match="serialized DAG"):
        read_graph(data)


def test_one_without_tasks() -> None:
    """It is one all the same."""
    assert read_graph({"dag": {"tasks": []}}) == Graph({}, {})


def test_which_elements_are_read() -> None:
    """Inside of a mapped task group each reads its own; whoever is outside reads all."""
    graph = read_graph(json.loads((SERIALIZED / "3.3.2.json").read_text(encoding="utf-8")))
    assert graph.same_element("each.second", "each.first")
    assert not graph.same_element("each.second", "extract")
    assert not graph.same_element("sum_up", "each.second")
    assert not graph.same_element("total", "square")
