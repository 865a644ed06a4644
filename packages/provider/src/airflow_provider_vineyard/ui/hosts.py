"""What the stores say, each within a deadline: hosts that do not answer cost a page that long, together and not each.

One pool of threads of its own asks them, so neither Airflow's API nor its pages wait for a host. A question that
somebody asks already is not asked again (single flight), and an answer is kept for some seconds. A host that was silent
is not asked at all for a while, and then last. A question that comes to its turn after its deadline is not asked any
more, so threads are never held by yesterday's pages.

Who may be asked: this host's store, by its socket, and those whose endpoint ``[vineyard] peers`` allows. A row may have
been forged, so an endpoint in it opens no connection, also where there are no ``peers`` at all.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Callable, Dict, Hashable, Mapping, Tuple

__all__ = ["BUDGET", "Answer", "Hosts", "Late"]

log = logging.getLogger(__name__)

# Seconds: all that a page waits for hosts, however many there are.
BUDGET = 1.5

# Seconds for which an answer is the answer to the same question, and for which a silent host is not asked.
_KEPT = 5.0
_SILENT = 15.0

# Threads; one that waits for a silent host costs little, and as many hosts may be silent before others wait for them.
_THREADS = 32

# Answers; more than a page with all its hosts has.
_MOST = 2000


class Late(Exception):
    """The deadline passed before the question was asked; it says nothing of the host."""


@dataclass(frozen=True)
class Answer:
    """What became of a question.

    Attributes:
        value: the answer, None where there is none.
        error: why not; None if there is one.
    """

    value: Any = None
    error: Any = None


class Hosts:
    """Questions to hosts; one object for all requests of a process.

    Args:
        budget: seconds that the questions of one call may take, all together.
        threads: how many are asked at the same time.
        clock: tells monotonic time.
    """

    def __init__(
        self, *, budget: float = BUDGET, threads: int = _THREADS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budget = budget
        self._threads = threads
        self._clock = clock
        self._lock = threading.Lock()
        self._pool: Any = None
        self._flying: Dict[Hashable, Future[Any]] = {}
        self._kept: Dict[Hashable, Tuple[float, Answer]] = {}
        # Since when.
        self._silent: Dict[Hashable, float] = {}

    def ask(self, questions: Mapping[Tuple[Hashable, Hashable], Callable[[float], Any]]) -> Dict[Any, Answer]:
        """Return the answer to each question, within the budget.

        Args:
            questions: by host and question, what asks it: a function of the seconds that it may take.
        """
        now = self._clock()
        deadline = now + self._budget
        answers: Dict[Any, Answer] = {}
        flights: Dict[Any, Future[Any]] = {}
        with self._lock:
            self._forget(now)
            for key in sorted(questions, key=lambda key: key[0] in self._silent):
                kept, silent = self._kept.get(key), self._silent.get(key[0])
                if kept is not None:
                    answers[key] = kept[1]
                elif silent is not None and now < silent + _SILENT:
                    answers[key] = Answer(error=TimeoutError(f"It was silent {now - silent:.0f} s ago."))
                else:
                    flights[key] = self._flight(key, questions[key], deadline)
        wait(flights.values(), timeout=max(0.0, deadline - self._clock()))
        for key, flight in flights.items():
            answers[key] = self._landed(key, flight)
        return answers

    def once(self, question: Callable[[float], Any]) -> Answer:
        """Return the answer to a question that is not to be kept, such as to delete something."""
        deadline = self._clock() + self._budget
        with self._lock:
            flight = self._start(question, deadline)
        wait([flight], timeout=self._budget)
        return self._outcome(flight)

    def forget(self) -> None:
        """Keep no answer any more; something has changed."""
        with self._lock:
            self._kept.clear()

    def _flight(self, key: Tuple[Hashable, Hashable], question: Callable[[float], Any], deadline: float) -> Future[Any]:
        flying = self._flying.get(key)
        if flying is None or flying.done():
            flying = self._flying[key] = self._start(question, deadline)
        return flying

    def _start(self, question: Callable[[float], Any], deadline: float) -> Future[Any]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="vineyard-hosts")

        def asked() -> Any:
            left = deadline - self._clock()
            if left <= 0:
                raise Late("Its turn came after the deadline.")
            return question(left)

        started: Future[Any] = self._pool.submit(asked)
        return started

    def _landed(self, key: Tuple[Hashable, Hashable], flight: Future[Any]) -> Answer:
        answer = self._outcome(flight)
        now = self._clock()
        with self._lock:
            if isinstance(answer.error, TimeoutError):
                self._silent[key[0]] = now
            elif not isinstance(answer.error, Late):
                self._silent.pop(key[0], None)
                self._kept[key] = (now + _KEPT, answer)
        return answer

    def _outcome(self, flight: Future[Any]) -> Answer:
        if not flight.done():
            said = f"It did not answer within {self._budget:g} s."
            return Answer(error=TimeoutError(said) if flight.running() else Late("Too many others were asked."))
        error = flight.exception()
        if error is None:
            return Answer(flight.result())
        log.debug("a store did not answer a page: %r", error)
        return Answer(error=error)

    def _forget(self, now: float) -> None:
        if len(self._kept) > _MOST:
            self._kept.clear()
        self._kept = {key: kept for key, kept in self._kept.items() if now < kept[0]}
        self._silent = {host: since for host, since in self._silent.items() if now < since + 10 * _SILENT}
        self._flying = {key: flight for key, flight in self._flying.items() if not flight.done()}
