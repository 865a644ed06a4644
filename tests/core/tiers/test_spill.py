"""What leaves a full store: the plan, with stores that are only lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vineyard_client._tiers.spill import MARGIN, Resident, plan, worth_it

LIMIT = 1000


def residents(*sizes: int) -> list[Resident]:
    return [Resident(f"v{n}", size, float(n)) for n, size in enumerate(sizes)]


def test_least_recently_read_first() -> None:
    """What was read longest ago leaves first, and no more than is needed with the margin."""
    store = [Resident("new", 100, 3.0), Resident("old", 100, 1.0), Resident("middle", 100, 2.0)]
    assert [r.name for r in plan(store, 10, LIMIT)] == ["old"]
    assert [r.name for r in plan(store, 100, LIMIT)] == ["old", "middle"]


def test_too_little_to_free() -> None:
    """All leave if they do not suffice: something may have become free meanwhile."""
    assert len(plan(residents(10, 10), 400, LIMIT)) == 2


def test_not_for_a_giant() -> None:
    """For a value of more than half of the store nothing leaves, nor for none."""
    assert plan(residents(400, 400), 501, LIMIT) == []
    assert plan(residents(400, 400), 0, LIMIT) == []
    assert worth_it(500, LIMIT) and not worth_it(501, LIMIT)


@given(st.lists(st.tuples(st.integers(1, 400), st.floats(0, 10)), max_size=20), st.integers(1, 500))
def test_enough_and_not_more(values: list[tuple[int, float]], need: int) -> None:
    """What leaves suffices if that is possible, and would not without the last of it."""
    store = [Resident(str(n), size, read) for n, (size, read) in enumerate(values)]
    leaving = plan(store, need, LIMIT)
    freed = sum(resident.size for resident in leaving)
    wanted = need + MARGIN * LIMIT
    assert freed >= wanted or len(leaving) == len(store)
    assert not leaving or freed - leaving[-1].size < wanted
    stay = [resident.last_read for resident in store if resident not in leaving]
    assert all(resident.last_read <= min(stay, default=10.0) for resident in leaving)
