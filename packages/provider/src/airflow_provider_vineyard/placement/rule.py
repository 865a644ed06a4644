"""Which place is worth a wait, and how long: pure arithmetic, the settings' numbers come in.

Airflow does not know how long tasks take, but what a move costs is known: bytes ÷ bandwidth. To wait longer for a host
than it takes to bring its bytes elsewhere cannot pay, whatever the task does, so that is the most that a task waits.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional

__all__ = ["Choice", "choose"]


class Choice(NamedTuple):
    """A place that is preferred.

    Attributes:
        place: which one.
        held: how many bytes of the input it has.
        total: how many bytes there are in all places.
        wait: seconds after which any other place is as good.
    """

    place: str
    held: int
    total: int
    wait: float


def choose(shares: Mapping[str, int], *, minimum: int, bandwidth: float, longest: float) -> Optional[Choice]:
    """Return the place with the largest share of a task's input, or None where none is worth a wait.

    Args:
        shares: bytes of the input, by place.
        minimum: the smallest share for which a place is preferred.
        bandwidth: bytes per second between places.
        longest: seconds, the most that a task waits in any case.
    """
    if not shares or longest <= 0:
        return None
    # Of equal ones the first by name, so that all readers of a run agree.
    place = min(shares, key=lambda name: (-shares[name], name))
    held = shares[place]
    if held <= 0 or held < minimum:
        return None
    return Choice(place, held, sum(shares.values()), min(held / bandwidth, longest))
