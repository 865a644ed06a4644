"""What this package has in a store, as all its clients note it: so nobody need ask the server for a list of everything.

A list keeps all others waiting for as long as it takes the server to make it: seconds with 50,000 objects. So who puts
or deletes appends a record to the store's ledger (``_io.ledger``), and ordinary work goes by that, and asks the server
for the metadata of some hundred objects at a time::

    NEXT       its blob and guard are allocated, its metadata are about to be stored; it has no number yet
    STORED     it has one now; only where the writing may take long, so that it is worth while
    WHOLE      a value with a blob, which is whole
    SMALL      a value whose envelope is in its metadata
    TOMBSTONE  keeps the memory of a value that was deleted while somebody read it
    GONE       a value with a blob, or a tombstone, is not there any more
    SMALL_GONE likewise
    SHARES     a blob that an object, told by its token, has beside its own: another one's, or, with a guard, a copy
    DELETING   a value with a blob is about to be deleted, which makes a tombstone for a moment; its number is any
    DELETED    that is done

What a record says is never trusted further than that it is worth a look: before anything is freed, the object is asked
for, and told by its token. So a record too many does no harm; it is struck out when the object is not found. A blob
that no object has yet can be told by nothing: of such a one it is noted *first* that it is gone, and then it is freed,
so that nobody frees what has its id since then. Who is killed in between leaves memory until the server ends.

A record is missing of what was put by an early release, by other clients of vineyard, or by a process that could not
append it; of a tombstone that another host's client left here; and where a client was killed between what it did and
its record. All of that shows: by a mark, by a step that was begun and has no end, or by memory that is in use though no
record tells of it (``known``); and only then everything is listed, once. Small values take no memory that the server
counts: of those only the mark, or a thorough look, tells.
"""

from __future__ import annotations

import logging
import struct
from typing import ContextManager, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

from .._io.deadline import Deadline, uptime
from .._io.ledger import RECORD, Ledger
from .meta import ValueMeta

__all__ = [
    "DELETED",
    "DELETING",
    "GONE",
    "IN_METADATA",
    "NEXT",
    "SMALL",
    "SMALL_GONE",
    "STORED",
    "TOMBSTONE_KEPT",
    "WHOLE",
    "Entry",
    "Inventory",
    "Known",
    "shares_of",
]

log = logging.getLogger("vineyard_client.objects")

NEXT, STORED, WHOLE, SMALL, TOMBSTONE_KEPT = b"n", b"s", b"w", b"i", b"t"
GONE, SMALL_GONE, DELETING, DELETED, SHARES = b"g", b"j", b"d", b"e", b"h"

# Kind, the object's number, its token, blob and guard, and their bytes.
_RECORD = struct.Struct("<c7xQ16sQQQQ")
assert _RECORD.size == RECORD

#: Bytes that a value which is in its metadata takes in vineyardd, on an average (measured: 3 to 5 KiB).
IN_METADATA = 4096

# The share of the store that values in metadata may take in any case, since it makes no difference then.
_ANYWAY = 16

# Records of one client after which it looks how many there are.
_LOOK = 256

# Values in metadata of one client after which it looks how many there are.
_COUNT = 64


class Entry(NamedTuple):
    """What the inventory knows of an object; ``number`` is 0 where that is not known."""

    number: int
    token: bytes
    blob: int
    guard: int
    size: int
    guard_size: int

    @classmethod
    def of(cls, number: int, meta: ValueMeta) -> Entry:
        """Return what is noted of an object."""
        size = meta.own if meta.shared else meta.size
        return cls(number, bytes.fromhex(meta.token), meta.blob, meta.guard, size, meta.guard_size)


Shares = Dict[bytes, Dict[int, Entry]]


def shares_of(meta: ValueMeta) -> Dict[int, Entry]:
    """Return what is noted of the blobs that an object shares, by their ids."""
    token = bytes.fromhex(meta.token)
    return {blob: Entry(0, token, blob, 0, nbytes, 0) for blob, nbytes in zip(meta.shared, meta.sizes)}


class Known(NamedTuple):
    """All that the inventory knows.

    Attributes:
        whole: values with a blob, by their numbers.
        small: values in metadata, likewise.
        tombstones: likewise.
        deleting: values of which a delete has begun, by the numbers that the deletes have.
        making: what is being made, by blob.
        end: until where the ledger was read.
        shares: the blobs that objects have beside their own, by the objects' tokens.
    """

    whole: Dict[int, Entry]
    small: Dict[int, Entry]
    tombstones: Dict[int, Entry]
    deleting: Dict[int, Entry]
    making: Dict[int, Entry]
    end: int
    shares: Shares

    @property
    def nbytes(self) -> int:
        """Bytes of the store's memory that all of it takes; objects may share a blob."""
        blobs: Dict[int, int] = {}
        for entries in (self.whole, self.tombstones, self.making):
            blobs.update((entry.blob, entry.size) for entry in entries.values())
            blobs.update((entry.guard, entry.guard_size) for entry in entries.values())
        for shared in self.shares.values():
            blobs.update((blob, entry.size) for blob, entry in shared.items())
        return sum(blobs.values())

    def records(self) -> Iterator[bytes]:
        """Yield the records that say it, as they stand in a base: in capitals, so that none is taken for a new one."""
        for kind, entries in zip((WHOLE, SMALL, TOMBSTONE_KEPT, DELETING, NEXT), self):
            assert isinstance(entries, dict)
            capital = kind.upper()
            for entry in entries.values():
                yield _RECORD.pack(capital, *entry)
        for shared in self.shares.values():
            for entry in shared.values():
                yield _RECORD.pack(SHARES.upper(), *entry)


class Inventory:
    """The inventory of one store, as one client has it.

    Args:
        ledger: of that store.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._noted = 0
        self._unchecked = 0

    # ---- noting

    def note(self, kind: bytes, number: int, meta: ValueMeta) -> None:
        """Note what has become of an object."""
        self._append(_RECORD.pack(kind, *Entry.of(number, meta)))

    def note_shares(self, meta: ValueMeta) -> None:
        """Note which blobs of others an object has, or is about to have."""
        for entry in shares_of(meta).values():
            self._append(_RECORD.pack(SHARES, *entry))

    def note_copy(self, meta: ValueMeta, blob: int, nbytes: int) -> None:
        """Note a further blob of an object that is being made."""
        self._append(_RECORD.pack(SHARES, 0, bytes.fromhex(meta.token), blob, meta.guard, nbytes, 0))

    def strike(self, entries: Iterable[Entry]) -> bool:
        """Note that objects are not there any more, and return whether all of that is noted."""
        noted = [self._append(_RECORD.pack(GONE if entry.blob else SMALL_GONE, *entry)) for entry in entries]
        return all(noted)

    def strike_deletes(self, numbers: Iterable[int]) -> None:
        """Note that deletes are done."""
        for number in numbers:
            self._append(_RECORD.pack(DELETED, number, b"", 0, 0, 0, 0))

    def _append(self, record: bytes) -> bool:
        try:
            self._ledger.append(record)
        except (OSError, ValueError) as error:  # no memory for it; or the connection was closed meanwhile
            log.debug("an object is not in the inventory: %s", error)
            self.missing = True
            return False
        self._noted += 1
        if not self._noted % _LOOK:
            self.shorten()
        return True

    @property
    def missing(self) -> bool:
        """Whether somebody could not note something, and nobody has looked at everything since."""
        try:
            return bool(self._ledger.mark("missing"))
        except (OSError, ValueError):
            return True

    @missing.setter
    def missing(self, is_so: bool) -> None:
        self._mark("missing", is_so)

    @property
    def state(self) -> str:
        """How complete it is, in a word."""
        return "incomplete" if self.missing or not self._ledger.begun else "complete"

    @property
    def foreign(self) -> int:
        """Bytes in use of which nobody knew anything when everything was listed; vineyard's other clients have them."""
        try:
            return int(self._ledger.mark("foreign"))
        except (OSError, ValueError):
            return 0

    @foreign.setter
    def foreign(self, nbytes: int) -> None:
        self._mark("foreign", nbytes)

    def may_look(self, every: float) -> bool:
        """Whether nobody has looked at each object for so many seconds, as is done now; two may be told so at once."""
        now = uptime()
        try:
            passed = now - self._ledger.mark("looked")
        except (OSError, ValueError):
            return True
        if 0 <= passed < every:  # less than nothing: the host's clock is another one in some container
            return False
        self._mark("looked", now)
        return True

    def _mark(self, name: str, value: float) -> None:
        try:
            self._ledger.set_mark(name, value)
        except (OSError, ValueError) as error:
            log.debug("no mark can be made in the inventory: %s", error)

    def alone(self, deadline: Deadline) -> ContextManager[bool]:
        """Be the only one who frees what nobody can tell by its token; yield whether that is so at the deadline.

        Raises:
            OSError: there are no locks.
            ValueError: the connection was closed meanwhile.
        """
        return self._ledger.alone(deadline)

    # ---- what is known

    def known(self) -> Optional[Known]:
        """Return all that the inventory knows; None if it cannot be read."""
        try:
            found = self._ledger.read()
        except (OSError, ValueError) as error:
            log.debug("the inventory cannot be read: %s", error)
            return None
        return None if found is None else _replayed(*found)

    def shorten(self, *, wait: float = 0.0) -> None:
        """Rewrite the ledger if it has become long, unless somebody else is at it."""
        try:
            if not self._ledger.bounds()[2]:
                return
            with self._ledger.alone(Deadline(wait)) as mine:
                known = self.known() if mine and self._ledger.bounds()[2] else None
                if known is not None:
                    self._ledger.rewrite(b"".join(known.records()), known.end, len(known.small))
        except (OSError, ValueError) as error:
            log.debug("the inventory stays long: %s", error)

    # ---- values in metadata

    def in_metadata(self) -> int:
        """Return how many values are in their metadata."""
        try:
            found = self._ledger.recent()
        except (OSError, ValueError) as error:
            log.debug("the inventory cannot be read: %s", error)
            return 0
        if found is None:
            return 0
        kinds = found[1][::RECORD]
        return max(0, found[0] + kinds.count(SMALL) - kinds.count(SMALL_GONE))

    def beyond(self) -> int:
        """Return the bytes that values in metadata take, if that is so much that it matters; 0 else.

        What they take is only looked at once in a while, and counted only where it may be much.
        """
        if self._unchecked:
            self._unchecked -= 1
            return 0
        try:
            number, records, _ = self._ledger.bounds()
        except (OSError, ValueError):
            return 0
        least = self._ledger.size // _ANYWAY
        taken = 0 if (number + records) * IN_METADATA <= least else self.in_metadata() * IN_METADATA
        if taken <= least:
            self._unchecked = _COUNT
            return 0
        return taken

    def spare(self) -> None:
        """Do not look for a while: there is room."""
        self._unchecked = _COUNT


def _replayed(base: bytes, since: bytes, end: int) -> Known:
    """Return what records say: those of the base, and then those that were appended."""
    whole: Dict[int, Entry] = {}
    small: Dict[int, Entry] = {}
    tombstones: Dict[int, Entry] = {}
    deleting: Dict[int, Entry] = {}
    making: Dict[int, Entry] = {}
    numbered = {SMALL: small, TOMBSTONE_KEPT: tombstones, DELETING: deleting}
    based = {kind.upper(): entries for kind, entries in [*numbered.items(), (WHOLE, whole)]}
    shares: Shares = {}
    for kind, entry in _records(base):
        if kind == SHARES.upper():
            shares.setdefault(entry.token, {})[entry.blob] = entry
        elif kind in based:
            based[kind][entry.number] = entry
        elif kind == NEXT.upper():
            making[entry.blob] = entry
    for kind, entry in _records(since):
        if kind in numbered:
            numbered[kind][entry.number] = entry
        elif kind == WHOLE:
            _made(making, entry)
            whole[entry.number] = entry
        elif kind in (NEXT, STORED):
            making[entry.blob] = entry
        elif kind == SHARES:
            shares.setdefault(entry.token, {})[entry.blob] = entry
        elif kind == DELETED:
            deleting.pop(entry.number, None)
        elif kind == SMALL_GONE:
            small.pop(entry.number, None)
        elif kind == GONE:
            whole.pop(entry.number, None)
            tombstones.pop(entry.number, None)
            _made(making, entry)
    if shares:
        there = {entry.token for entries in (whole, tombstones, making) for entry in entries.values()}
        shares = {token: shared for token, shared in shares.items() if token in there}
    return Known(whole, small, tombstones, deleting, making, end, shares)


def _made(making: Dict[int, Entry], entry: Entry) -> None:
    """Take what is not being made any more out of what is; its blob may be another one's by now."""
    if entry.blob in making and making[entry.blob].token == entry.token:
        del making[entry.blob]


def _records(data: bytes) -> Iterator[Tuple[bytes, Entry]]:
    for kind, *fields in _RECORD.iter_unpack(data[: len(data) // RECORD * RECORD]):
        yield kind, Entry._make(fields)
