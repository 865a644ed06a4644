"""Remove what nobody needs any more: notes of what is gone, caches without an original, what killed writers left.

None of it lists the server in ordinary work, which would keep all others waiting: the notes and the store's inventory
say what there is (``_store.known`` has the exceptions).
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import Sequence

from .._calls.housekeeping import delete_loaded
from .._calls.session import Session
from .._tiers.contract import Tier
from .._tiers.folder import FolderTier
from .._tiers.local import Tiers
from .._tiers.notes import KEPT, LOADED, LOST, OVERFLOW, SAVED, UNSAVED, note_name
from ..exceptions import VineyardError
from .keeper import collect
from .store import Store

__all__ = ["Tidying"]

log = logging.getLogger("vineyard_client.agent")

# Seconds after which what is half written, or what nobody reads, counts as left behind.
_STALE = 3600.0

# Seconds after which a value that was lost is not told of any more.
_FORGOTTEN = 30 * 86_400.0


class Tidying:
    """What is done now and then.

    Args:
        session: of the store.
        store: likewise.
        tiers: with the notes.
        opened: the tiers themselves, the one that is written first.
    """

    def __init__(self, session: Session, store: Store, tiers: Tiers, opened: Sequence[Tier]) -> None:
        self._session = session
        self._store = store
        self._tiers = tiers
        self._notes = tiers.notes
        self._opened = opened

    def all(self) -> None:
        """Do all of it; what fails is logged, and done the next time."""
        for step in (
            self._half_written,
            self._saved,
            self._kept,
            self._lost,
            self._loaded,
            self._overflow,
            self._collect,
        ):
            try:
                step()
            except (VineyardError, OSError) as error:
                log.warning("tidying up: %s", error)

    def deletions(self) -> int:
        """Delete the copies that are noted for it; return how many.

        Raises:
            TierFailed: the tier does not let us; the rest stays noted.
        """
        found = list(self._notes.deletions())
        for tier in self._opened if found else ():
            tier.delete([key for _, key in found])
        for name, _ in found:
            self._notes.remove("deleted", name)
        return len(found)

    def _half_written(self) -> None:
        swept = self._notes.sweep(_STALE)
        swept += sum(tier.sweep() for tier in self._opened if isinstance(tier, FolderTier))
        if swept:
            log.info("removed %d files that killed writers left", swept)

    def _saved(self) -> None:
        """Forget what was in a store that has ended, and what was saved outside of one and is gone."""
        identity = self._store.identity
        for name in self._notes.names(SAVED):
            note = self._notes.read(SAVED, name)
            if note is None:
                continue
            if note.number:
                gone = bool(identity) and note.store != identity
            else:
                gone = all(tier.size(note.key) is None for tier in self._opened)
            if gone:
                self._notes.remove(SAVED, name)

    def _kept(self) -> None:
        """Forget what was saved later, once its copy is gone."""
        for name in self._notes.names(KEPT):
            note = self._notes.read(KEPT, name)
            if note is None or self._notes.has(UNSAVED, name):
                continue
            if all(tier.size(note.key) is None for tier in self._opened) and not self._notes.has(UNSAVED, name):
                self._notes.remove(KEPT, name)

    def _lost(self) -> None:
        """Forget what was lost so long ago that nobody will look for it."""
        for put, name in self._notes.by_age(LOST):
            if put < time.time() - _FORGOTTEN:
                self._notes.remove(LOST, name)

    def _loaded(self) -> None:
        """Drop caches whose copies are gone, and those in the overflow that nobody has read for long."""
        for read, token in self._notes.by_age(LOADED):
            note = self._notes.read(LOADED, token)
            if note is None:
                continue
            stale = not note.number and read < time.time() - _STALE
            if stale or all(tier.size(note.key) is None for tier in self._opened):
                delete_loaded(self._session, self._tiers, token)

    def _overflow(self) -> None:
        """Remove what is in the overflow without a note."""
        for token in self._notes.names(OVERFLOW):
            path = os.path.join(self._notes.folder, OVERFLOW, token)
            with suppress(FileNotFoundError):
                noted = self._notes.has(UNSAVED, note_name(token, 0)) or self._notes.has(LOADED, token)
                if not noted and os.lstat(path).st_mtime < time.time() - _STALE:
                    self._notes.remove(OVERFLOW, token)

    def _collect(self) -> None:
        if self._store.identity:
            collect(self._session)
