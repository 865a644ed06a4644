"""What is still to be freed at the server, after calls that failed: tried at once, and again by each later call.

Why that is needed: the server may be too slow to say what it has made for us, or gone for a moment; or a second
exception ends the freeing after a first. Each debt is an object that is here before anything is tried, and that knows
what has been done.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import partial
from typing import Callable, Deque, Protocol

from .._forks import generation
from .._io.turn import Turn
from ..exceptions import ConnectionFailed, DeadlineExceeded, VineyardError

__all__ = ["Debt", "Debts"]

log = logging.getLogger("vineyard_client.connection")


class Debt(Protocol):
    """Something to be freed."""

    def pay(self, grace: float) -> bool:
        """Free it within so many seconds, and return whether that is done; what is done once is not repeated.

        Raises:
            VineyardError: the server cannot be reached, or is too slow.
        """
        ...


class Debts:
    """The debts of one client."""

    def __init__(self) -> None:
        self._debts: Deque[Debt] = deque()
        self._turn = Turn("the client to free what is left")
        self._generation = generation()

    def add(self, debt: Debt) -> None:
        """Remember something that is to be freed."""
        self._debts.append(debt)

    def adding(self, debt: Debt) -> Callable[[], object]:
        """Return a function that does ``add`` where no Python code may run."""
        return partial(self._debts.append, debt)

    def pay(self, grace: float) -> None:
        """Free what can be freed, unless another thread is at it. A child does not free what its parent made."""
        if self._debts and self._generation == generation():
            self._turn.run_now(lambda: self._pay(grace))

    def _pay(self, grace: float) -> None:
        for debt in tuple(self._debts):
            try:
                if not debt.pay(grace):
                    continue
            except DeadlineExceeded as error:
                log.debug("what is to be freed has to wait: %s", error)
                continue
            except VineyardError as error:
                if isinstance(error, ConnectionFailed) and not _gone(error):
                    log.debug("what is to be freed has to wait: %s", error)
                    continue
                log.debug("there is nothing left to free: %s", error)
            self._debts.remove(debt)


def _gone(error: ConnectionFailed) -> bool:
    """Whether nobody listens any more, so that all memory is gone."""
    return isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError))
