"""Values that share memory in the store: made, put, read and compared; skips tests where a library is missing."""

from __future__ import annotations

from typing import Any, Tuple

import pytest

import vineyard_client as vc

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")

ROWS = 20_000
COLUMN = 8 * ROWS

# What a frame's object takes beside its columns.
REST = 64 * 1024


def used(client: vc.Client) -> int:
    return client.status().memory_used


def taken(client: vc.Client, value: object) -> Tuple[int, vc.ObjectRef]:
    """Put a value, read it again and compare it; return the bytes that it took, and its reference."""
    before = used(client)
    ref = client.put(value)
    took = used(client) - before
    assert_same(client.get(ref), value)
    return took, ref


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, pd.DataFrame):
        pd.testing.assert_frame_equal(left, right)
    elif isinstance(left, pd.Series):
        pd.testing.assert_series_equal(left, right)
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right):
            assert_same(one, other)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        assert_same(list(left.values()), list(right.values()))
    else:
        assert left == right


def frame(columns: int = 10) -> Any:
    """Return a frame each of whose columns has memory of its own."""
    made = pd.DataFrame(index=pd.RangeIndex(ROWS))
    for number in range(columns):
        made[f"c{number}"] = np.arange(ROWS, dtype=float) * (number + 1)
    return made


def received(client: vc.Client, value: object) -> Any:
    """Return a value as a task receives it."""
    return client.get(client.put(value))


def base_of(array: Any) -> Any:
    """Return the whole mapping that an array lies in, as bytes."""
    view = memoryview(array)
    while isinstance(view.obj, np.ndarray) and view.obj.base is not None:
        view = memoryview(view.obj.base)
    return np.frombuffer(view.obj if view.obj is not None else view, np.uint8)
