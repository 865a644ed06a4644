"""Places the batches that an executor sends to a broker, and has the broker relieve what waits for too long.

For each batch: which of its tasks read what from where (``shares``), which place is worth a wait (``rule``), whether
the broker has a queue for that place that can be sent to (``queues``). The executor sends what comes out of it and says
which ids Celery gave; from then on the message waits until its deadline.

Nothing here raises. A batch that cannot be placed is sent as it is, and a warning says why, once a minute at most. What
cannot be relieved now is looked at again by the next heartbeat; nothing is placed until that has worked.
"""

from __future__ import annotations

import logging
import time
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from airflow_provider_vineyard import settings, version_compat
from airflow_provider_vineyard.placement.queues import Deadlines, WaitingRoom, driver, host_queue, open_room
from airflow_provider_vineyard.placement.rule import Choice, choose
from airflow_provider_vineyard.placement.shares import Reader, by_endpoint, weigh

__all__ = ["PLACED", "RELIEVED", "Sender", "note"]

log = logging.getLogger(__name__)

# Names of metrics.
PLACED = "vineyard.placement.placed"
RELIEVED = "vineyard.placement.relieved"

# Seconds between two warnings of one kind, and between two tries to reach a broker that could not be reached.
_QUIET = 60.0
_AGAIN = 5.0


class Sender:
    """Places the batches of one executor.

    Args:
        application: returns the Celery application that the executor sends with.
    """

    def __init__(self, application: Callable[[], Any]) -> None:
        self._application = application
        self._room: Optional[WaitingRoom] = None
        self._deadlines = Deadlines(0.0)
        self._finished = False
        self._works = False
        self._next_try = 0.0
        self._warned: Dict[str, float] = {}

    def place(self, items: Sequence[Any]) -> Tuple[List[Any], Dict[Any, Choice]]:
        """Return a batch with some of its queues changed, and why, by the keys of the items.

        Args:
            items: tuples of a key, a workload or command, a queue, and more.
        """
        try:
            options = settings.get_placement()
            readers = self._readers(items) if options.enabled and options.longest > 0 else {}
            if readers and self._ready(options):
                return self._placed(items, readers, options)
        except Exception as error:
            self._warn("A batch is sent without placement", error)
        return list(items), {}

    def sent(self, events: Mapping[Any, Any], choices: Mapping[Any, Choice]) -> None:
        """Note when what was sent stops waiting.

        Args:
            events: the executor's event buffer, which has the id that Celery gave each item, if it was sent.
            choices: what ``place`` returned.
        """
        for key, choice in choices.items():
            _, id = events.get(key, (None, None))
            if isinstance(id, str):
                self._deadlines.sent(id, choice.wait)

    def relieve(self) -> None:
        """Have the broker move what has waited for long enough."""
        try:
            options = settings.get_placement()
            if options.enabled:
                self._ready(options, now=True)
            elif not self._finished:
                # What waits since an earlier configuration waits no longer.
                self._finished = True
                self._relieve_once()
        except Exception as error:
            self._works = False
            self._warn("What waits for a host cannot be moved on", error)

    def _ready(self, options: settings.PlacementSettings, *, now: bool = False) -> bool:
        """Relieve what waits, if it is time to; tell whether more may be made to wait."""
        if self._finished or (self._works and not now):
            return self._works
        if self._room is None and not self._open(options):
            return False
        assert self._room is not None
        try:
            moved = self._room.relieve(self._deadlines)
        except Exception:
            room, self._room, self._works = self._room, None, False
            self._next_try = time.monotonic() + _AGAIN
            room.close()
            raise
        self._works = True
        complaint = self._room.complaint()
        if complaint:
            self._warn("No task is sent to a host", complaint)
        for message in moved:
            log.info("relieved %s: nobody took it from %s in time, anybody may now", message.id, message.queue)
            version_compat.count(RELIEVED)
        return True

    def _open(self, options: settings.PlacementSettings) -> bool:
        if time.monotonic() < self._next_try:
            return False
        self._next_try = time.monotonic() + _AGAIN
        if self._deadlines.longest != options.longest:
            self._deadlines = Deadlines(options.longest)
        application = self._application()
        self._room = open_room(application)
        if self._room is None:
            self._finished = True
            log.warning(
                "[vineyard] placement does nothing here: a broker of the kind %r cannot move messages from one queue "
                "to another. It works with Redis and RabbitMQ.",
                driver(application),
            )
        return self._room is not None

    def _relieve_once(self) -> None:
        application = self._application()
        if driver(application) != "redis":
            return
        room = open_room(application)
        assert room is not None
        try:
            for message in room.relieve(Deadlines(0.0)):
                log.info("relieved %s: placement is off, anybody may take it from now on", message.id)
        finally:
            room.close()

    def _readers(self, items: Sequence[Any]) -> Dict[int, Reader]:
        """Return the task instances that may be placed, by their number in the batch."""
        found = {}
        for number, item in enumerate(items):
            # Airflow 3 sends workloads, some of which are no tasks; Airflow 2 sends commands, and the key says it all.
            instance = getattr(item[1], "ti", None) if version_compat.is_airflow_3() else item[0]
            if instance is not None and instance.try_number == 1:
                version = getattr(instance, "dag_version_id", None)
                found[number] = Reader(
                    instance.dag_id,
                    instance.run_id,
                    instance.task_id,
                    instance.map_index,
                    None if version is None else str(version),
                )
        return found

    def _placed(
        self, items: Sequence[Any], readers: Dict[int, Reader], options: settings.PlacementSettings
    ) -> Tuple[List[Any], Dict[Any, Choice]]:
        assert self._room is not None
        batch = list(items)
        choices: Dict[Any, Choice] = {}
        with version_compat.create_session() as session:
            weighed = weigh(session, list(readers.values()), by_endpoint)
            wishes: Dict[int, Tuple[str, Choice]] = {}
            for number, reader in readers.items():
                shares = {place: size for place, size in weighed.get(reader, {}).items() if _allowed(place, options)}
                choice = choose(shares, minimum=options.minimum, bandwidth=options.bandwidth, longest=options.longest)
                queue = choice and batch[number][2] and host_queue(batch[number][2], choice.place)
                if choice and queue:
                    wishes[number] = queue, choice
            open_to = self._room.open_to(queue for queue, _ in wishes.values()) if wishes else set()
            for number, (queue, choice) in wishes.items():
                if queue in open_to:
                    item = batch[number]
                    batch[number] = (*item[:2], queue, *item[3:])
                    choices[item[0]] = choice
            note(session, {readers[number]: choice for number, (queue, choice) in wishes.items() if queue in open_to})
        return batch, choices

    def _warn(self, what: str, why: Union[str, Exception]) -> None:
        now = time.monotonic()
        if now - self._warned.get(what, -_QUIET) >= _QUIET:
            self._warned[what] = now
            reason = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else why
            log.warning("[vineyard] placement: %s: %s", what, reason)


def _allowed(place: str, options: settings.PlacementSettings) -> bool:
    """Tell whether tasks may be led to a place: rows can be forged, and each new name is a queue in the broker."""
    return not options.peers or any(fnmatchcase(place, pattern) for pattern in options.peers)


def note(session: Any, placed: Mapping[Reader, Choice]) -> None:
    """Tell which tasks were placed: in the log, among the metrics, and in the audit log."""
    rows = []
    for reader, choice in placed.items():
        text = f"on {choice.place}, which has {choice.held} of {choice.total} bytes of its inputs"
        instance = f"{reader.dag_id}.{reader.task_id}[{reader.map_index}] of run {reader.run_id}"
        log.info("placed %s %s; it waits there for at most %.1f s", instance, text, choice.wait)
        version_compat.count(PLACED)
        row = {"event": "placed", "extra": text, "owner": "airflow", "try_number": 1}
        names = {name: getattr(reader, name) for name in ("dag_id", "run_id", "task_id", "map_index")}
        rows.append({"dttm": datetime.now(timezone.utc), **row, **names})
    if rows:
        # All at once; and with Airflow's own log_task_event the event is lost on 3.3.
        session.connection().execute(version_compat.log_model().__table__.insert(), rows)
