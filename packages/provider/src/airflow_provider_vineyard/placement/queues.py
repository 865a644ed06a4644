"""The broker is the waiting room: what waits for a host is a message in the queue ``QUEUE@PLACE``.

A message that nobody took in time goes to ``QUEUE``, where any worker takes it. So nothing is held back in the
scheduler, and no list of workers, heartbeats or free slots is kept. How a message gets from the one queue to the other
depends on the broker: ``on_redis`` moves it, with RabbitMQ a policy does it (``on_rabbitmq`` sees to it that there is
one).

This module has what both need: the names, and until when messages wait.
"""

from __future__ import annotations

import re
import time
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Protocol, Set

__all__ = ["Deadlines", "Moved", "WaitingRoom", "base_queue", "driver", "host_queue", "open_room"]

_PLACE = re.compile(r"[\w.:\[\]-]+\Z")

# AMQP's limit for the name of a queue, in bytes.
_NAME_LIMIT = 255


def host_queue(queue: str, place: str) -> Optional[str]:
    """Return the name of the queue of a host for what would go to ``queue``, or None where there can be none.

    Args:
        queue: the task's own queue.
        place: the endpoint of the host, as a row has it; rows may be forged.
    """
    name = f"{queue}@{place}"
    return name if _PLACE.match(place) and len(name.encode()) <= _NAME_LIMIT else None


def base_queue(name: str) -> str:
    """Return the queue that a message goes to when it has waited in this queue of a host."""
    return name.rpartition("@")[0]


class Moved(NamedTuple):
    """A message that waited in vain: its id, and the queue that it waited in."""

    id: str
    queue: str


class Deadlines:
    """Until when messages wait, by the ids that Celery gives them.

    They are in memory only. A message that another scheduler sent, or this one before it was restarted, waits at most
    for the longest time, from when it is first seen.

    Args:
        longest: seconds.
        clock: returns seconds; ``time.monotonic`` but in tests.
    """

    def __init__(self, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.longest = longest
        self._clock = clock
        self._ends: Dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def sent(self, id: str, wait: float) -> None:
        """Note that a message was sent just now, which waits for so many seconds."""
        self._ends[id] = self._clock() + wait

    def passed(self, id: str) -> bool:
        """Tell whether a message that is still waiting has waited for long enough."""
        now = self._clock()
        return now >= self._ends.setdefault(id, now + self.longest)

    def forget(self, waiting: Set[str]) -> None:
        """Forget those whose time is over and that do not wait any more."""
        now = self._clock()
        for id in [id for id, end in self._ends.items() if end <= now and id not in waiting]:
            del self._ends[id]


class WaitingRoom(Protocol):
    """What a broker has to be able to do for placement; all of it may raise what the broker's client raises."""

    def open_to(self, queues: Iterable[str]) -> Set[str]:
        """Return those queues of hosts that messages may be sent to now."""

    def relieve(self, deadlines: Deadlines) -> List[Moved]:
        """Move what has waited for long enough, and return it."""

    def complaint(self) -> str:
        """Say what keeps messages from being sent to queues of hosts, and what to do; or nothing."""

    def close(self) -> None:
        """Close the connection to the broker."""


def driver(app: Any) -> str:
    """Return which kind of broker a Celery application has, as kombu calls it: for example ``redis`` or ``amqp``."""
    with app.connection_for_write() as connection:  # which does not connect
        return str(connection.get_transport_cls().driver_type)


def open_room(app: Any) -> Optional[WaitingRoom]:
    """Return the waiting room in a Celery application's broker, or None where its kind cannot be one."""
    kind = driver(app)
    if kind == "redis":
        from airflow_provider_vineyard.placement.on_redis import RedisRoom

        return RedisRoom(app)
    if kind == "amqp":
        from airflow_provider_vineyard.placement.on_rabbitmq import RabbitRoom

        return RabbitRoom(app)
    return None
