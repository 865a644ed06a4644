"""The place with most bytes is preferred, for no longer than moving them would take."""

from __future__ import annotations

from typing import Dict, Optional

import pytest

from airflow_provider_vineyard.placement.rule import Choice, choose

MI = 1 << 20


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ({}, None),
        ({"a": 0}, None),
        ({"a": 16 * MI - 1}, None),
        ({"a": 16 * MI}, Choice("a", 16 * MI, 16 * MI, 16 * MI / 1e8)),
        ({"a": 10 * MI, "b": 10 * MI}, None),
        ({"b": 100_000_000, "a": 50_000_000}, Choice("b", 100_000_000, 150_000_000, 1.0)),
        ({"b": 100_000_000, "a": 100_000_000}, Choice("a", 100_000_000, 200_000_000, 1.0)),
        ({"a": 5_000_000_000}, Choice("a", 5_000_000_000, 5_000_000_000, 10.0)),
    ],
)
def test_the_rule(shares: Dict[str, int], expected: Optional[Choice]) -> None:
    """By table."""
    assert choose(shares, minimum=16 * MI, bandwidth=1e8, longest=10.0) == expected


def test_no_wait_no_place() -> None:
    """With a limit of 0 no task is ever sent to a queue in which it would have to wait."""
    assert choose({"a": 1 << 40}, minimum=0, bandwidth=1.0, longest=0.0) is None


def test_never_longer_than_said() -> None:
    """Whatever the numbers: never longer than bytes ÷ bandwidth or the limit, never for less than the minimum."""
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies

    @hypothesis.settings(deadline=None)
    @hypothesis.given(
        st.dictionaries(st.text(max_size=3), st.integers(0, 1 << 50), max_size=5),
        st.integers(0, 1 << 40),
        st.floats(1, 1e12),
        st.floats(0, 300),
    )
    def check(shares: Dict[str, int], minimum: int, bandwidth: float, longest: float) -> None:
        choice = choose(shares, minimum=minimum, bandwidth=bandwidth, longest=longest)
        if choice is None:
            assert longest == 0 or all(size < max(minimum, 1) for size in shares.values())
            return
        assert choice.held == shares[choice.place] == max(shares.values()) >= max(minimum, 1)
        assert choice.total == sum(shares.values())
        assert 0 <= choice.wait <= longest
        assert choice.wait <= choice.held / bandwidth

    check()
