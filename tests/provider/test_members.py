"""Large members of a dict with ``multiple_outputs``: in vineyard once, and there until the last row goes."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Dict, List

import pytest

import vineyard_client
from airflow_provider_vineyard import orphans
from airflow_provider_vineyard.reference import Origin, RowReference
from airflow_provider_vineyard.status import get_status
from airflow_provider_vineyard.xcom import members
from airflow_provider_vineyard.xcom import store as subject
from vineyard_client import InvalidReference, UnsafeType

pytestmark = [pytest.mark.airflow, pytest.mark.integration]

SIZE = 1 << 20
TASK = Origin("etl", "r1", "extract", -1)


def large(fill: int) -> bytearray:
    return bytearray([fill]) * SIZE


def push(key: str, value: Any, task: Origin = TASK) -> Dict[str, Any]:
    """Store an XCom as the backend does, and return its row as the database gives it back."""
    row: Dict[str, Any] = json.loads(json.dumps(subject.put(value, task._replace(key=key))))
    return row


def push_outputs(value: Dict[str, Any], task: Origin = TASK) -> List[Dict[str, Any]]:
    """Store what Airflow pushes of a dict: the members that are not plain JSON, in order, and the dict."""
    rows = [push(key, member, task) for key, member in value.items() if not isinstance(member, (int, list))]
    return [*rows, push("return_value", value, task)]


def parts(row: Dict[str, Any]) -> List[str]:
    return list(row["vineyard"].get("parts", {}))


def used(store: Any) -> int:
    return int(store.status().memory_used)


def test_once_not_twice(store: Any) -> None:
    """The memory is taken once; what comes out is what went in, in its order."""
    value = {"n": 1, "a": large(1), "names": ["x", "y"], "b": bytes(large(2)), "small": (1, 2)}
    before = used(store)
    rows = push_outputs(value)
    assert used(store) - before < 2 * SIZE + 100_000
    got = subject.get(rows[-1])
    assert got == value
    assert list(got) == list(value)
    assert [type(member) for member in got.values()] == [type(member) for member in value.values()]
    assert parts(rows[-1]) == ["a", "b"]


def test_the_row(store: Any) -> None:
    """It says what the whole dict is and takes, and is read back as it was written."""
    row = push_outputs({"n": 1, "a": large(1)})[-1]
    assert row["vineyard"]["type"] == "builtins.dict"
    assert row["vineyard"]["summary"] == "dict of 2 items, with a builtins.bytearray"
    assert SIZE < row["vineyard"]["size"] < SIZE + 1000
    assert RowReference.parse(row).to_json() == row


@pytest.mark.parametrize("first", [0, 1])
def test_each_is_there_until_its_row_goes(store: Any, first: int) -> None:
    """Whichever row goes first, the other can be read; with the last one the memory is free."""
    before = used(store)
    rows = push_outputs({"a": large(1)})
    values = [large(1), {"a": large(1)}]
    subject.free(rows[first])
    with pytest.raises(vineyard_client.ObjectNotFound):
        subject.get(rows[first])
    push("other", large(2))  # would take the memory if it were free
    assert subject.get(rows[1 - first]) == values[1 - first]
    subject.free(rows[1 - first])
    assert used(store) - before < SIZE + 100_000
    assert orphans.free_unneeded() == []


def test_values_are_the_callers_to_change(store: Any) -> None:
    """A change to the one is not seen in the other."""
    rows = push_outputs({"a": large(1)})
    subject.get(rows[1])["a"][:3] = b"new"
    assert subject.get(rows[0]) == large(1)
    assert subject.get(rows[1]) == {"a": large(1)}


def test_a_member_that_changed(store: Any) -> None:
    """What the task pushed itself, and changed before it returned it, is two values."""
    value = large(1)
    pushed = push("a", value)
    value[5] = 7
    returned = push("return_value", {"a": value})
    assert subject.get(pushed) == large(1)
    assert subject.get(returned) == {"a": value}


def test_another_task_with_the_same_key(store: Any) -> None:
    """Only what the task itself has pushed counts."""
    push("a", large(1))
    assert parts(push("return_value", {"a": large(1)}, TASK._replace(task_id="other"))) == []
    push("a", large(1))
    assert parts(push("return_value", {"a": large(1)})) == ["a"]
    push("a", large(1), TASK._replace(map_index=3))
    assert parts(push("return_value", {"a": large(1)})) == []


def test_objects_in_two_places_come_back_as_one(store: Any) -> None:
    """A dict is left whole where taking it apart would show."""
    one = large(1)
    got = subject.get(push_outputs({"a": one, "b": one})[-1])
    assert got["a"] is got["b"]
    got = subject.get(push_outputs({"a": one, "in": {"a": one}})[-1])
    assert got["a"] is got["in"]["a"]
    holder, inner = [one, large(2)], large(2)
    got = subject.get(push_outputs({"a": one, "holder": (holder,), "b": inner})[-1])
    assert got["holder"][0][0] is got["a"]
    shared = [large(1)]
    got = subject.get(push_outputs({"a": tuple(shared), "b": (shared[0],)})[-1])
    assert got["a"][0] is got["b"][0]


def test_what_is_not_taken_apart(store: Any) -> None:
    """Small members, subclasses of dict, and keys that Airflow or a database would not carry in a row."""
    from collections import OrderedDict

    assert parts(push_outputs({"a": bytes(1000)})[-1]) == []
    assert parts(push_outputs(OrderedDict(a=large(1)))[-1]) == []
    for key in ("__classname__", "nul\0", "\ud800"):
        row = push_outputs({key: large(1)})[-1]
        assert parts(row) == []
        assert subject.get(row) == {key: large(1)}


def test_beside_a_smaller_object(store: Any) -> None:
    """Whatever it is, it is too small to hold the part."""
    row = push_outputs({"a": large(1), "model": (1, [bytes(2000)])})[-1]
    assert parts(row) == ["a"]
    assert subject.get(row) == {"a": large(1), "model": (1, [bytes(2000)])}


def test_many_members(store: Any) -> None:
    """The row stays small."""
    value = {f"k{number}": bytes([number]) * 70_000 for number in range(40)}
    row = push_outputs(value)[-1]
    assert len(parts(row)) == 32
    assert len(json.dumps(row)) < 10_000
    assert subject.get(row) == value


def test_what_cannot_be_stored_leaves_nothing(store: Any) -> None:
    """The members that were pushed before it stay."""
    row = push("a", large(1))
    push("b", large(2))
    before = {info.ref.id for info in store.list()}
    with pytest.raises(UnsafeType):
        push("return_value", {"a": large(1), "b": large(2), "n": b"\0", "f": vineyard_client.connect})
    unsafe = type("ndarray", (), {"__module__": "numpy"})()  # passes for a part
    with pytest.raises(UnsafeType):
        push("return_value", {"a": large(1), "b": large(2), "f": unsafe})
    assert {info.ref.id for info in store.list()} == before
    assert subject.get(row) == large(1)


def test_status_counts_shared_memory_once(store: Any) -> None:
    """The share of a DAG is what it takes."""
    push_outputs({"a": large(1)}, TASK._replace(dag_id="counted"))
    share = get_status().xcoms["counted"]
    assert share.objects == 3
    assert SIZE < share.bytes < SIZE + 10_000


@pytest.mark.parametrize(
    "edit",
    [
        {"parts": {"a": None}},
        {"parts": []},
        {"parts": {"a": {"id": "o0016f0c2a4b1d3e5"}}},
        {"parts": {str(number): None for number in range(33)}},
    ],
)
def test_edited_parts(store: Any, edit: Dict[str, Any]) -> None:
    """They are refused like every other field."""
    row = push_outputs({"a": large(1)})[-1]
    with pytest.raises(InvalidReference, match="looks like a reference to vineyard but is none"):
        subject.get({"vineyard": {**row["vineyard"], **edit}})


def test_parts_of_what_is_no_dict(store: Any) -> None:
    """Only a dict has members."""
    member, whole = push_outputs({"a": large(1)})
    with pytest.raises(InvalidReference, match="is no dict"):
        subject.get({"vineyard": {**member["vineyard"], "parts": whole["vineyard"]["parts"]}})


def test_gc_knows_parts(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the row of the dict is there, its parts are no orphans; the row of the member alone keeps its own."""
    member, whole = push_outputs({"a": large(1)})
    for row, value in ((whole, {"a": large(1)}), (member, large(1))):
        needed = set(orphans._tokens(row["vineyard"]))
        monkeypatch.setattr(orphans, "referenced", lambda tokens, needed=needed: tokens & needed)
        orphans.free_unneeded(orphans=True, grace=timedelta(0))
        assert subject.get(row) == value
    monkeypatch.setattr(orphans, "referenced", lambda tokens: set())
    orphans.free_unneeded(orphans=True, grace=timedelta(0), trust_database=True)
    assert list(store.list()) == []


def test_nothing_is_remembered_of_earlier_tasks() -> None:
    """A process that works on many tasks does not grow."""
    ref = vineyard_client.ObjectRef("o0016f0c2a4b1d3e5", "0" * 32, None, "bytes", SIZE)
    for number in range(100):
        members.remember(Origin("etl", "r1", f"t{number}", -1, "a"), ref)
    assert len(members._pushed) == 1
