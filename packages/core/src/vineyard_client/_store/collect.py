"""Decide what in a store nobody needs any more. Deciding is pure; ``Client.collect`` looks, asks here, and frees.

Three kinds of things are freed:

- values that were deleted while somebody read them, once nobody does (tombstones);
- values whose writer was killed before they were whole;
- replicas of values that are gone from their own host;
- whole values older than the caller says, which are deleted as ``Client.delete`` does it.

All but the last are garbage whatever the caller wants; the last only happens when asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Iterable, List, Mapping, NamedTuple, Optional

from ..reference import ObjectInfo

__all__ = ["DEAD_WRITER", "DELETED", "EXPIRED", "ORIGINAL_GONE", "Candidate", "Collectable", "plan"]

DELETED = "deleted"
DEAD_WRITER = "writer died"
ORIGINAL_GONE = "original gone"
EXPIRED = "expired"


class Candidate(NamedTuple):
    """An object as it was found.

    Attributes:
        info: what the store knows of it; ``info.deleted`` tells a tombstone.
        complete: whether its blob is sealed.
        in_use: for a tombstone whether anybody reads it, for an incomplete value whether its writer lives; whole values
            need not be asked.
        original_gone: for a replica, whether the original is known to be gone.
    """

    info: ObjectInfo
    complete: bool = True
    in_use: bool = False
    original_gone: bool = False


@dataclass(frozen=True)
class Collectable:
    """An object to be freed.

    Attributes:
        info: what the store knows of it.
        reason: ``deleted``, ``writer died``, ``original gone`` or ``expired``.
        frees: bytes that come free with it; what other objects share, or somebody reads, does not.
    """

    info: ObjectInfo
    reason: str
    frees: int = 0


def plan(
    candidates: Iterable[Candidate],
    *,
    now: datetime,
    older_than: Optional[timedelta] = None,
    labels: Optional[Mapping[str, str]] = None,
) -> List[Collectable]:
    """Return which of the candidates are to be freed, and why.

    Args:
        candidates: what the store has.
        now: the time, with a time zone: ages that the store does not know are measured from it.
        older_than: the age from which on whole values are freed, too; None frees none of them.
        labels: only objects that have all of these.
    """
    actions = []
    for candidate in candidates:
        info = candidate.info
        if any(info.labels.get(key) != value for key, value in (labels or {}).items()):
            continue
        if info.deleted:
            if not candidate.in_use:
                actions.append(Collectable(info, DELETED))
        elif not candidate.complete:
            if not candidate.in_use:
                actions.append(Collectable(info, DEAD_WRITER))
        elif candidate.original_gone:
            actions.append(Collectable(info, ORIGINAL_GONE))
        elif older_than is not None and (now - info.created if info.age is None else info.age) >= older_than:
            actions.append(Collectable(info, EXPIRED))
    return actions
