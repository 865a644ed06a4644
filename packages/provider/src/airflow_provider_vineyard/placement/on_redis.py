"""Redis as the waiting room: messages are moved by the scheduler, each by one script.

kombu keeps a queue as a list: it pushes on the left and takes from the right. The script takes a message out of the
list of a host and, only if it was still there, puts it at the right end of the other list, next in line. So of two
schedulers only one moves it, and a worker that takes it at the same moment has it alone. The message's own
``routing_key`` is rewritten on the way: kombu gives back what a dead worker held to the queue that it names.

Which queues of hosts there are stands in a sorted set of Redis, by the time when one was last sent to, so that a new
scheduler finds what an old one left. Only queues that a worker has listened to are sent to: kombu has a binding for
those.

kombu's client prefixes keys (``global_keyprefix``) for those commands only that kombu itself uses. So a plain client is
made on its pool of connections, and keys are prefixed here.
"""

from __future__ import annotations

import json
import time
from importlib import import_module
from typing import Any, Dict, Iterable, List, NamedTuple, Set

from airflow_provider_vineyard.placement.queues import Deadlines, Moved, base_queue

__all__ = ["QUEUES", "RedisRoom"]

QUEUES = "vineyard.placement"

_MOVE = """
if redis.call('LREM', KEYS[1], -1, ARGV[1]) == 0 then return 0 end
redis.call('RPUSH', KEYS[2], ARGV[2])
return 1
"""

# Seconds. A scheduler does not wait longer for Redis than Airflow's own publishing does.
_TIMEOUT = 1.0

# Seconds after which a queue that is empty and was not sent to is looked at now and then only, and how often that is.
_QUIET = 3600.0
_NOW_AND_THEN = 60.0

# Seconds after which such a queue is forgotten, unless kombu may give something back to it even later.
_GONE = 7 * 86400.0


class _Message(NamedTuple):
    """A message that waits: in which queue, with which suffix its list has, what it is, and the id Celery gave it."""

    queue: str
    suffix: str
    raw: bytes
    parsed: Any
    id: str


class RedisRoom:
    """Queues of hosts in Redis.

    Args:
        app: the Celery application that the executor sends with.
    """

    def __init__(self, app: Any) -> None:
        redis: Any = import_module("redis")
        timeouts = {"socket_timeout": _TIMEOUT, "socket_connect_timeout": _TIMEOUT}
        options = {**timeouts, **app.conf.broker_transport_options}
        self._connection = app.connection_for_write(transport_options=options)
        # Not its default channel, which tries to connect for as long as it takes.
        channel = self._connection.channel()
        self._redis = redis.Redis(connection_pool=channel.client.connection_pool)
        self._move = self._redis.register_script(_MOVE)
        self._prefix = channel.global_keyprefix
        # Who may not run scripts here learns it before anything is sent that only the script can move.
        self._move(keys=[self._key(f"{QUEUES}.none")] * 2, args=["", ""])
        self._binding = channel.keyprefix_queue
        # Airflow gives no priorities, but those who set one for all tasks have a list for each step.
        steps = channel.priority_steps if app.conf.task_default_priority else [0]
        self._suffixes = [f"{channel.sep}{step}" if step else "" for step in steps]
        self._gone = max(_GONE, 2 * channel.visibility_timeout)
        self._known: Dict[str, float] = {}
        self._listened: Dict[str, float] = {}
        self._looked = 0.0

    def close(self) -> None:
        """Close the connection."""
        self._connection.release()

    def complaint(self) -> str:
        """Say nothing: whoever could connect can do all of it."""
        return ""

    def open_to(self, queues: Iterable[str]) -> Set[str]:
        """Return those queues of hosts that a worker has listened to, and remember that they are sent to."""
        now, names = time.time(), set(queues)
        unsure = sorted(name for name in names if now - self._listened.get(name, 0.0) > _NOW_AND_THEN)
        if unsure:
            with self._redis.pipeline(transaction=False) as pipe:
                for name in unsure:
                    pipe.exists(self._key(self._binding % name))
                answers = dict(zip(unsure, pipe.execute()))
            self._listened.update((name, now) for name, there in answers.items() if there)
            names -= {name for name, there in answers.items() if not there}
        listened = names
        new = {name: now for name in listened if now - self._known.get(name, 0.0) > _QUIET / 2}
        if new:
            self._redis.zadd(self._key(QUEUES), new)
            self._known.update(new)
        return listened

    def relieve(self, deadlines: Deadlines) -> List[Moved]:
        """Move what has waited for long enough, and return it."""
        now = time.time()
        all_of_them = now - self._looked > _NOW_AND_THEN
        if all_of_them:
            found = self._redis.zrange(self._key(QUEUES), 0, -1, withscores=True)
            self._known = {name.decode(): score for name, score in found}
        names = [name for name, sent in self._known.items() if all_of_them or now - sent < _QUIET]
        messages = self._read(names)
        moved = self._move_all([message for message in messages if deadlines.passed(message.id)])
        deadlines.forget({message.id for message in messages})
        if all_of_them:
            self._tidy(now, {message.queue for message in messages})
            self._looked = now
        return moved

    def _read(self, names: List[str]) -> List[_Message]:
        """Return what waits, of each list the newest first."""
        lists = [(name, suffix) for name in names for suffix in self._suffixes]
        if not lists:
            return []
        with self._redis.pipeline(transaction=False) as pipe:
            for name, suffix in lists:
                pipe.lrange(self._key(name + suffix), 0, -1)
            found = pipe.execute()
        return [_message(name, suffix, raw) for (name, suffix), raws in zip(lists, found) for raw in raws]

    def _move_all(self, due: List[_Message]) -> List[Moved]:
        """Move messages; the oldest of a list is moved last, and so stays the first in line."""
        if not due:
            return []
        with self._redis.pipeline(transaction=False) as pipe:
            for message in due:
                base = base_queue(message.queue)
                keys = [self._key(message.queue + message.suffix), self._key(base + message.suffix)]
                self._move(keys=keys, args=[message.raw, _readdressed(message, base)], client=pipe)
            results = pipe.execute()
        return [Moved(message.id, message.queue) for message, done in zip(due, results) if done]

    def _tidy(self, now: float, waiting: Set[str]) -> None:
        """Forget queues that were not sent to for a long time, and that nothing waits in."""
        gone = [name for name, sent in self._known.items() if now - sent > self._gone and name not in waiting]
        if gone:
            self._redis.zrem(self._key(QUEUES), *gone)
            for name in gone:
                del self._known[name]

    def _key(self, name: str) -> str:
        return f"{self._prefix}{name}"


def _message(queue: str, suffix: str, raw: bytes) -> _Message:
    """Return a message with the id that Celery gave it; what is no message of Celery's is its own id."""
    try:
        parsed = json.loads(raw)
    except ValueError:
        parsed = None
    headers = parsed.get("headers") if isinstance(parsed, dict) else None
    id = headers.get("id") if isinstance(headers, dict) else None
    return _Message(queue, suffix, raw, parsed, id if isinstance(id, str) else raw.decode("latin-1"))


def _readdressed(message: _Message, queue: str) -> bytes:
    """Return a message that names another queue, the rest of it as it was."""
    properties = message.parsed.get("properties") if isinstance(message.parsed, dict) else None
    delivery = properties.get("delivery_info") if isinstance(properties, dict) else None
    if not isinstance(delivery, dict):
        return message.raw
    delivery["routing_key"] = queue
    return json.dumps(message.parsed).encode()
