"""Save one value: from the store, or from what is left of it, into the tier; see ``_tiers.notes`` for the order."""

from __future__ import annotations

import logging
import time

from .._tiers.contract import Tier
from .._tiers.notes import OVERFLOW, UNSAVED, Notes
from .store import Deleted, Lost, Store

__all__ = ["save"]

log = logging.getLogger("vineyard_client.agent")


def save(name: str, notes: Notes, store: Store, tier: Tier) -> int:
    """Save the value of a note, and return the bytes that were saved; none if it was deleted, or lost.

    Raises:
        TierFailed: the tier does not take it; its note stays.
        ConnectionFailed: the store went away meanwhile; likewise.
    """
    note = notes.read(UNSAVED, name)
    if note is None:
        return 0  # it is saved already, or deleted
    try:
        envelope = store.envelope(note)
    except Deleted as gone:
        log.debug("%s was deleted before it was saved: %s", note.key, gone)
        notes.remove(UNSAVED, name)
        return 0
    except Lost as lost:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(note.created))
        log.error(
            "%s (%s, %d bytes, put at %s UTC) was lost before it was saved: %s. Run again what produced it.",
            *(note.key, note.type, note.size, when, lost),
        )
        notes.give_up(name)
        return 0
    try:
        tier.save(note.key, envelope)
    finally:
        envelope.clear()
    # In this order: once it is noted as saved, it may leave a full store, and a missing object means nothing any more.
    if store.is_deleted(note) or not notes.promote(name):
        log.debug("%s was deleted while it was saved", note.key)
        notes.remove(UNSAVED, name)
        tier.delete([note.key])
        return 0
    if not note.number:
        notes.remove(OVERFLOW, note.token)
    log.debug("saved %s: %d bytes", note.key, note.size)
    return note.size
