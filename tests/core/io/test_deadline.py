"""Timeouts become points in monotonic time."""

from __future__ import annotations

import time

import pytest

from vineyard_client._io.deadline import Deadline


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list:  # type: ignore[type-arg]
    """A clock that the test sets."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_remaining(clock: list) -> None:  # type: ignore[type-arg]
    """What remains shrinks with the clock and is never below zero."""
    deadline = Deadline(5.0)
    assert (deadline.timeout, deadline.remaining(), deadline.expired) == (5.0, 5.0, False)
    clock[0] += 4.5
    assert (deadline.remaining(), deadline.expired) == (0.5, False)
    clock[0] += 0.5
    assert (deadline.remaining(), deadline.expired) == (0.0, True)
    clock[0] += 100
    assert (deadline.remaining(), deadline.expired) == (0.0, True)


def test_never(clock: list) -> None:  # type: ignore[type-arg]
    """None is for ever."""
    deadline = Deadline(None)
    clock[0] += 1e9
    assert (deadline.timeout, deadline.remaining(), deadline.expired) == (None, None, False)


@pytest.mark.parametrize("timeout", [0, -1.0])
def test_at_once(clock: list, timeout: float) -> None:  # type: ignore[type-arg]
    """A timeout of nothing, or less, is up at once."""
    deadline = Deadline(timeout)
    assert (deadline.remaining(), deadline.expired) == (0.0, True)
