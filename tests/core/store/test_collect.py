"""What is garbage: the plan, which is pure."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, List, Optional

import pytest

from vineyard_client._store.collect import DEAD_WRITER, DELETED, EXPIRED, ORIGINAL_GONE, Candidate, Collectable, plan
from vineyard_client.reference import ObjectInfo, ObjectRef

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


def candidate(*, age: timedelta = HOUR, deleted: bool = False, labels: Any = (), **state: bool) -> Candidate:
    ref = ObjectRef("o0000000000000005", "0" * 32, None, "t", 5)
    info = ObjectInfo(ref, "s", dict(labels), NOW - age, "h", "/s", deleted=deleted)
    return Candidate(info, **state)


def reasons(found: Candidate, older_than: Optional[timedelta] = None, **labels: str) -> List[str]:
    actions = plan([found], now=NOW, older_than=older_than, labels=labels)
    assert all(action == Collectable(found.info, action.reason) for action in actions)
    return [action.reason for action in actions]


@pytest.mark.parametrize("older_than", [None, timedelta(0), 2 * HOUR])
def test_garbage_whatever_the_caller_wants(older_than: Optional[timedelta]) -> None:
    """Tombstones that nobody reads, and what dead writers left, are freed whatever their age."""
    assert reasons(candidate(deleted=True), older_than) == [DELETED]
    assert reasons(candidate(complete=False), older_than) == [DEAD_WRITER]
    assert reasons(candidate(original_gone=True), older_than) == [ORIGINAL_GONE]


@pytest.mark.parametrize("older_than", [None, timedelta(0)])
def test_what_somebody_uses_stays(older_than: Optional[timedelta]) -> None:
    """A tombstone with a reader, and a value with a writer at work, are never freed."""
    assert reasons(candidate(deleted=True, in_use=True), older_than) == []
    assert reasons(candidate(complete=False, in_use=True), older_than) == []


@pytest.mark.parametrize(
    "age, older_than, expected",
    [
        (HOUR, None, []),
        (HOUR, 2 * HOUR, []),
        (HOUR, HOUR, [EXPIRED]),
        (HOUR, timedelta(0), [EXPIRED]),
        (-HOUR, timedelta(0), []),  # the clock of whoever put it is ahead
    ],
)
def test_age(age: timedelta, older_than: Optional[timedelta], expected: List[str]) -> None:
    """Whole values are freed only when asked for, from the given age on."""
    assert reasons(candidate(age=age), older_than) == expected


@pytest.mark.parametrize("state", [{"deleted": True}, {"complete": False}, {"original_gone": True}, {}])
def test_labels_narrow_it_down(state: Any) -> None:
    """With labels only objects that have all of them are considered, garbage as well."""
    found = candidate(labels={"a": "1", "b": "2"}, **state)
    assert len(reasons(found, HOUR, a="1")) == 1
    assert len(reasons(found, HOUR, a="1", b="2")) == 1
    assert reasons(found, HOUR, a="2") == []
    assert reasons(found, HOUR, a="1", c="") == []


def test_order_is_kept() -> None:
    """Actions come in the order of the candidates, at most one for each."""
    found = [candidate(), candidate(deleted=True), candidate(complete=False), candidate(age=5 * HOUR)]
    actions = plan(found, now=NOW, older_than=2 * HOUR)
    assert [action.reason for action in actions] == [DELETED, DEAD_WRITER, EXPIRED]
    assert plan([], now=NOW) == []
