"""RabbitMQ as the waiting room: a policy of the broker moves what has waited, also with no scheduler running.

The operator sets it once for each base queue (``policy`` has the command). Without it, a message for a host that is
full or gone would wait for ever. So a queue of hosts is sent to only while the broker has shown that it moves messages
on: a probe, one message without any content, is put into a queue of this process's own whose name the policy is for,
``Q@…``. That queue says where dead letters go, an exchange of this process's own, and leaves to the policy how soon
(its ``message-ttl``) and under which name (its ``dead-letter-routing-key``). The probe that comes back in time under
the name of the base queue shows both. It is sent again every minute.
"""

from __future__ import annotations

import json
import re
import shlex
import time
import uuid
from importlib import import_module
from typing import Any, Dict, Iterable, List, Set

from airflow_provider_vineyard.placement.queues import Deadlines, Moved, base_queue

__all__ = ["RabbitRoom", "policy"]

# Seconds: how often a probe is sent, and for how long one that came back counts.
_EVERY = 60.0
_COUNTS = 180.0

# Seconds after which a probe that did not come back is worth a word.
_LATE = 30.0

# Seconds that the scheduler waits for the broker.
_TIMEOUT = 2.0


def policy(queue: str, seconds: float = 3.0) -> str:
    """Return the command that makes RabbitMQ move what has waited in the queues of hosts for a base queue.

    Args:
        queue: the base queue.
        seconds: how long messages wait.
    """
    definition = {
        "message-ttl": int(seconds * 1000),
        "dead-letter-exchange": "",
        "dead-letter-routing-key": queue,
        "expires": 3600000,
    }
    pattern = re.escape(f"{queue}@")
    command = ["rabbitmqctl", "set_policy", f"vineyard-{queue}", f"^{pattern}", json.dumps(definition)]
    return f"{' '.join(map(shlex.quote, command))} --apply-to queues"


class RabbitRoom:
    """Queues of hosts in RabbitMQ.

    Args:
        app: the Celery application that the executor sends with.
    """

    def __init__(self, app: Any) -> None:
        kombu: Any = import_module("kombu")
        timeouts = {"read_timeout": _TIMEOUT, "write_timeout": _TIMEOUT}
        options = {**timeouts, **app.conf.broker_transport_options}
        self._connection = app.connection_for_write(connect_timeout=_TIMEOUT, heartbeat=0, transport_options=options)
        self._connection.ensure_connection(max_retries=1, timeout=_TIMEOUT)
        self._channel = self._connection.channel()
        self._name = f"vineyard-{uuid.uuid4().hex}"
        # Both go with the connection.
        exchange = kombu.Exchange(self._name, "fanout", durable=False, auto_delete=True, channel=self._channel)
        exchange.declare()
        self._back = kombu.Queue(self._name, exchange, durable=False, exclusive=True, channel=self._channel)
        self._back.declare()
        self._sent: Dict[str, float] = {}
        self._came_back: Dict[str, float] = {}

    def close(self) -> None:
        """Close the connection."""
        self._connection.release()

    def open_to(self, queues: Iterable[str]) -> Set[str]:
        """Return those queues of hosts whose policy has shown itself lately; of others it is asked for now."""
        now = time.monotonic()
        names = set(queues)
        for base in {base_queue(name) for name in names}:
            if now - self._sent.get(base, -_EVERY) >= _EVERY:
                self._probe(base)
        self._collect()
        return {name for name in names if now - self._came_back.get(base_queue(name), -_COUNTS) < _COUNTS}

    def relieve(self, deadlines: Deadlines) -> List[Moved]:
        """Look for probes that came back, and send those again that are due; messages are moved by the broker."""
        self.open_to(f"{base}@" for base in self._sent)
        return []

    def complaint(self) -> str:
        """Say what the operator has to do, or nothing: for which base queues no probe came back for half a minute."""
        now = time.monotonic()
        late = [
            base for base, sent in self._sent.items() if now - sent > _LATE and self._came_back.get(base, 0.0) < sent
        ]
        return "" if not late else f"RabbitMQ does not move messages on. Set a policy: {policy(late[0])}"

    def _probe(self, base: str) -> None:
        kombu: Any = import_module("kombu")
        name = f"{base}@{self._name}"
        # The broker removes it when nobody used it for a while, as it does when this process is gone.
        arguments = {"x-dead-letter-exchange": self._name, "x-expires": int(2 * _EVERY * 1000)}
        queue = kombu.Queue(
            name, routing_key=name, durable=False, exclusive=True, queue_arguments=arguments, channel=self._channel
        )
        queue.queue_declare()
        # A policy is for what comes after it; an earlier probe that it is not for would be in the way.
        queue.purge()
        kombu.Producer(self._channel).publish("", routing_key=name, exchange="", delivery_mode=1)
        self._sent[base] = time.monotonic()

    def _collect(self) -> None:
        while True:
            message = self._back.get(no_ack=True)
            if message is None:
                return
            self._came_back[message.delivery_info["routing_key"]] = time.monotonic()
