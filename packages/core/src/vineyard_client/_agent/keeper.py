"""Collecting a store's garbage now and then, with values beyond an age if that is wished; and the agent without a tier.

Where there is a tier, the housekeeper tidies up (``tidying``), and only values beyond an age are looked for here. Both
go by the store's inventory and ask for a few objects at a time, so that nobody waits for it.
"""

from __future__ import annotations

import logging
import os
import time
from datetime import timedelta
from typing import Optional

from .._calls import housekeeping
from .._calls.session import Session
from ..exceptions import ConnectionFailed, VineyardError
from .alarm import Alarm

__all__ = ["Keeper", "collect"]

log = logging.getLogger("vineyard_client.agent")

# Seconds between two rounds, and between two looks whether the server is another one.
_EVERY = 3600.0
_LOOK = 1.0

_TIMEOUT = 60.0


def collect(session: Session, older_than: Optional[timedelta] = None) -> None:
    """Free what nobody needs, and values of an age; say what that was.

    Args:
        session: of the store, and of the tier if there is one: copies go with their values.
        older_than: the age; None is none.

    Raises:
        VineyardError: as ``Client.collect``.
    """
    freed = housekeeping.collect(session, session.connection(), older_than=older_than)
    if freed:
        reasons = sorted({action.reason for action in freed})
        log.info("collected %d objects: %s", len(freed), ", ".join(reasons))


class Keeper:
    """The agent of a store that has no tier: it frees what nobody needs.

    Args:
        path: the store's IPC socket.
        older_than: the age at which values are freed, too.
        with_server: whether it ends when the server has ended.
        every: seconds between two rounds.
        username: for a server started with ``--htpasswd``.
        password: likewise.
    """

    def __init__(
        self,
        path: str,
        *,
        older_than: Optional[timedelta] = None,
        with_server: bool = False,
        every: float = _EVERY,
        username: str = "",
        password: str = "",
    ) -> None:
        self._session = Session(os.path.abspath(path), timeout=_TIMEOUT, username=username, password=password)
        self._older_than = older_than
        self._with_server = with_server
        self._every = every
        self._alarm = Alarm()
        self._ending = False

    def run(self) -> int:
        """Live until told to end; return 0, the number of values that are not saved.

        Raises:
            VineyardError: what listens at the path does not let us in, or is no store.
        """
        looked, due, seen = "", 0.0, False
        try:
            while not self._ending:
                try:
                    identity = housekeeping.status(self._session).identity
                    seen = True
                    if identity != looked or time.monotonic() >= due:
                        self._round()
                        looked, due = identity, time.monotonic() + self._every
                except ConnectionFailed:
                    if seen and self._with_server:
                        break
                self._alarm.wait(_LOOK)
            return 0
        finally:
            self._session.close()
            self._alarm.close()

    def end(self, *_: object) -> None:
        """End; may be called from a signal handler."""
        self._ending = True
        self._alarm.ring()

    def _round(self) -> None:
        """Collect."""
        try:
            collect(self._session, self._older_than)
        except ConnectionFailed:
            raise
        except VineyardError as error:
            log.warning("collecting: %s", error)
