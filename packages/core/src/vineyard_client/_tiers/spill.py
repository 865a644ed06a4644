"""Decide what leaves a full store: values that a tier has, least recently read first. Deciding is pure."""

from __future__ import annotations

from typing import List, NamedTuple, Sequence

__all__ = ["MARGIN", "Resident", "plan", "worth_it"]

# The share of the store that is freed on top of what is needed, so that not every put makes room.
MARGIN = 0.05

# The share of the store above which nothing leaves for a value: it would take half of the others with it.
_LARGEST = 0.5


class Resident(NamedTuple):
    """A value that is in the store and in a tier.

    Attributes:
        name: of its note.
        size: bytes of its envelope.
        last_read: in seconds since 1970, or by any other clock.
    """

    name: str
    size: int
    last_read: float


def worth_it(need: int, limit: int) -> bool:
    """Tell whether others should leave a store of ``limit`` bytes for a value of ``need`` bytes."""
    return 0 < need <= limit * _LARGEST


def plan(residents: Sequence[Resident], need: int, limit: int) -> List[Resident]:
    """Return what should leave, in that order.

    Args:
        residents: what may leave.
        need: bytes for which there is no room.
        limit: bytes of the whole store.

    Returns:
        As few as free ``need`` bytes and the margin, or all of them if those are too few; none if it is not worth it.
    """
    if not worth_it(need, limit):
        return []
    leaving, freed = [], 0
    for resident in sorted(residents, key=lambda resident: (resident.last_read, resident.name)):
        if freed >= need + MARGIN * limit:
            break
        leaving.append(resident)
        freed += resident.size
    return leaving
