"""What is in a store: by its inventory, a few objects at a time, or by a list of everything, which others wait for.

``look`` decides. It lists only

- where there is no inventory: the client that came to the store first is of an early release, or its memory cannot be
  had here;
- where a record could not be written;
- where something shows that a record is missing: a writer was killed between its steps; an object has gone without a
  record and its memory is still there, because a client on another host has deleted it while somebody read it; or more
  memory is in use than all records tell of, and than was the case when everything was listed last;
- when that is wished.

An object that is put while one looks is in none of the two, or in both: who frees something looks at it again.
"""

from __future__ import annotations

import logging
import time
from itertools import chain
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from .._io.deadline import Deadline
from .._io.ledger import Ledger
from .._wire.messages import DropBuffer, GetBuffers, GetData, Release
from ..exceptions import VineyardError
from . import objects
from .connection import Connection
from .identity import Identity
from .inventory import NEXT, SMALL, TOMBSTONE_KEPT, WHOLE, Entry, Inventory, Known, shares_of
from .meta import TOMBSTONE, VALUE, ValueMeta

__all__ = ["Found", "look", "noted", "open_inventory"]

log = logging.getLogger("vineyard_client.objects")

# Seconds to wait for another client that begins the inventory: it lists what is there.
_BEGINNING = 10.0

# Seconds to wait for another client that frees what killed writers left.
_FREEING = 1.0

# The share of the store that may be in use though no record tells of it: less makes no difference.
_ANYWAY = 64

# How often that must be seen, and seconds in between: a record comes a moment after what it tells of.
_LOOKS = 4
_MOMENT = 0.01

Objects = List[Tuple[int, ValueMeta]]


class Found(NamedTuple):
    """What there is.

    Attributes:
        values: those of this instance, the oldest first; only those that may be garbage, if no more was asked for.
        tombstones: likewise, those of deletes that are under way left out.
        doubtful: those of the values that may not be whole.
    """

    values: Objects
    tombstones: Objects
    doubtful: Objects


def open_inventory(connection: Connection, identity: Identity) -> Optional[Inventory]:
    """Return the inventory of a store, which is begun if there is none; None where it cannot be had.

    Args:
        connection: to that store.
        identity: the store's; its blob leads to the store's memory.
    """
    if not identity.blob:
        log.debug("%s has no inventory: a client of an early release came first", connection.peer)
        return None
    found, _ = connection.outcomes(GetBuffers([identity.blob], unsealed=True), Release(identity.blob))
    refused = isinstance(found, VineyardError) or not found
    memory = None if refused else connection.conversation.fds.get(found[0].store_fd)
    if memory is None:
        log.debug("the memory of %s cannot be had: %s", connection.peer, found)
        return None
    ledger = Ledger.of(memory, found[0].map_size, connection.conversation.owned_fd())
    if ledger is None:
        return None
    inventory = Inventory(ledger)
    try:
        if not ledger.begun:
            with ledger.alone(Deadline(_BEGINNING)) as mine:
                if mine and not ledger.begun:
                    known = _listed(connection)
                    ledger.begin(b"".join(known.records()), len(known.small))
                    inventory.foreign = max(0, connection.fullness().memory_used - known.nbytes)
        if ledger.begun:
            inventory.shorten()
            return inventory
    except VineyardError:
        raise
    except (OSError, ValueError) as error:
        log.info("%s has no inventory, everything is listed instead: %s", connection.peer, error)
    inventory.missing = True  # what is put from here nobody notes
    return None


def _listed(connection: Connection) -> Known:
    """Return what is there, for an inventory that begins."""
    found = _everything(connection)
    doubtful = objects.incomplete_objects(connection, found.values)
    entries = {number: Entry.of(number, meta) for number, meta in found.values}
    return Known(
        {number: entry for number, entry in entries.items() if entry.blob and number not in doubtful},
        {number: entry for number, entry in entries.items() if not entry.blob},
        {number: Entry.of(number, meta) for number, meta in found.tombstones},
        {},
        {entry.blob: entry for number, entry in entries.items() if number in doubtful},
        0,
        {bytes.fromhex(meta.token): shares_of(meta) for _, meta in (*found.values, *found.tombstones) if meta.shared},
    )


def look(connection: Connection, *, garbage: bool = False, thorough: bool = False) -> Found:
    """Return what there is.

    Args:
        connection: to the store.
        garbage: only what may be garbage by itself, as the records say: of a large store that is a small part.
        thorough: list everything in any case.
    """
    inventory = connection.inventory
    if inventory is None:
        return _everything(connection)
    inventory.shorten()
    known = None if thorough else inventory.known()
    if known is not None and not inventory.missing and not _unnamed(connection, inventory, known):
        if not _unaccounted(connection, inventory, known):
            if garbage:
                return _garbage(connection, inventory, known)
            found = _by_inventory(connection, inventory, known)
            if found is not None:
                return found
        log.info("a record of %s is missing: everything is listed once", connection.peer)
    return _reconciled(connection, inventory)


def noted(connection: Connection, typename: str) -> Optional[Iterator[Tuple[int, ValueMeta]]]:
    """Return the objects of one kind that the inventory knows, about the oldest first, as they are asked for.

    Returns:
        None if there is no inventory.
    """
    inventory = connection.inventory
    known = None if inventory is None else inventory.known()
    if inventory is None or known is None:
        return None
    if typename == TOMBSTONE:
        entries = list(known.tombstones.values())
    else:
        entries = [*known.whole.values(), *known.small.values(), *known.making.values()]
    entries = sorted(entry for entry in entries if entry.number)  # numbers grow with time
    batches = (entries[start : start + objects.BATCH] for start in range(0, len(entries), objects.BATCH))
    return chain.from_iterable(_there(connection, inventory, batch, typename, gone=[]) for batch in batches)


def _garbage(connection: Connection, inventory: Inventory, known: Known) -> Found:
    values = _there(connection, inventory, [entry for entry in known.making.values() if entry.number])
    tombstones = _there(connection, inventory, known.tombstones.values(), TOMBSTONE)
    return Found(values, tombstones, values)


def _by_inventory(connection: Connection, inventory: Inventory, known: Known) -> Optional[Found]:
    """Return what there is by the inventory; None if a record is missing in it."""
    tombstones = _there(connection, inventory, known.tombstones.values(), TOMBSTONE)
    gone: List[Entry] = []
    doubtful = _there(connection, inventory, [entry for entry in known.making.values() if entry.number], gone=gone)
    values = doubtful + _there(connection, inventory, [*known.whole.values(), *known.small.values()], gone=gone)
    held = {blob for _, meta in (*values, *tombstones) for blob in meta.blobs}
    if _still_held(connection, inventory, known, gone, held):
        return None
    values.sort(key=lambda item: (item[1].created, item[0]))
    return Found(values, tombstones, doubtful)


def _unnamed(connection: Connection, inventory: Inventory, known: Known) -> bool:
    """Whether a writer was killed between allocating memory and noting the number of its object."""
    dead = _dead(connection, [entry for entry in known.making.values() if not entry.number])
    again = inventory.known() if dead else known
    if again is None:
        return True
    # Who lives notes what has become of it before the guard is let go.
    dead = [entry for entry in dead if again.making.get(entry.blob) == entry]
    there = {guard for guard, _ in _trees(connection, [entry.guard for entry in dead])}
    inventory.strike(entry for entry in dead if entry.guard not in there)
    return bool(there)


def _dead(connection: Connection, entries: Sequence[Entry]) -> List[Entry]:
    """Return those of what is being made whose writers do not live."""
    alive = connection.in_use([entry.guard for entry in entries])
    return [entry for entry, is_alive in zip(entries, alive) if not is_alive]


def _unaccounted(connection: Connection, inventory: Inventory, known: Optional[Known]) -> bool:
    """Whether memory is in use of which no record tells, more than when everything was listed last."""
    for _ in range(_LOOKS):
        status = connection.fullness()
        if known is None:
            return True
        nbytes, foreign = max(0, status.memory_used - known.nbytes), inventory.foreign
        if nbytes < foreign:
            inventory.foreign = foreign = nbytes
        if nbytes - foreign <= status.memory_limit // _ANYWAY:
            return False
        time.sleep(_MOMENT)
        known = inventory.known()
    log.debug("%d bytes of %s are in use that nobody noted", nbytes - foreign, connection.peer)
    return True


def _still_held(
    connection: Connection, inventory: Inventory, known: Known, gone: Sequence[Entry], held: Set[int]
) -> bool:
    """Whether there is memory of a value that is gone without a record, or in the middle of a delete; others hold none.

    Who was killed in the middle of a delete may have left a tombstone.
    """
    suspects = {entry.blob for entry in gone} | {entry.blob for entry in known.deleting.values()}
    there = {blob for blob, _ in _trees(connection, list(suspects - held))}
    inventory.strike(entry for entry in gone if entry.blob not in there)
    inventory.strike_deletes(n for n, entry in known.deleting.items() if entry.blob not in there | held)
    if not there:
        return False
    # Deletes that are under way now note it in a moment.
    again = inventory.known()
    if again is None:
        return True
    numbers = {entry.number for entry in gone if entry.blob in there} & {*again.whole, *_numbers(again)}
    return bool(numbers) or any(entry.blob in there for entry in again.deleting.values())


def _numbers(known: Known) -> Iterator[int]:
    return (entry.number for entry in known.making.values())


def _there(
    connection: Connection,
    inventory: Inventory,
    entries: Iterable[Entry],
    typename: str = VALUE,
    gone: Optional[List[Entry]] = None,
) -> Objects:
    """Return those objects that exist, and strike out the others, or add them to ``gone``."""
    wanted = {entry.number: entry for entry in entries}
    here = connection.instance.instance_id
    found: Objects = []
    for number, tree in _trees(connection, list(wanted)):
        if tree.get("typename") != typename or tree.get("token") != wanted[number].token.hex():
            continue
        del wanted[number]
        try:
            meta = ValueMeta.read(tree)
        except VineyardError as error:
            log.warning("%d is left out: %s", number, error)
            continue
        if meta.instance_id == here:
            found.append((number, meta))
    if gone is None:
        inventory.strike(wanted.values())
    else:
        gone += wanted.values()
    return found


def _trees(connection: Connection, numbers: Sequence[int]) -> Iterator[Tuple[int, Dict[str, Any]]]:
    """Yield the metadata of those objects that exist, asked for a few at a time, so that others get their turns."""
    for start in range(0, len(numbers), objects.BATCH):
        trees: Dict[int, Dict[str, Any]] = connection.call(GetData(numbers[start : start + objects.BATCH]))
        yield from trees.items()


# ---- everything


def _everything(connection: Connection) -> Found:
    tombstones = objects.list_objects(connection, TOMBSTONE)
    values = objects.list_objects(connection, VALUE)
    return Found(values, objects.orphaned(tombstones, values), values)


def _reconciled(connection: Connection, inventory: Inventory) -> Found:
    """List everything, and note what the inventory does not know, or what is not there any more."""
    inventory.missing = False
    before = inventory.known()
    # Writers that are dead by now make no objects which the list does not have.
    dead = [] if before is None else _dead(connection, list(before.making.values()))
    found = _everything(connection)
    after = inventory.known()
    if before is None or after is None:
        return found
    listed = {number for number, _ in (*found.values, *found.tombstones)}
    for entries in (before.whole, before.small, before.tombstones):
        inventory.strike(entry for number, entry in entries.items() if number not in listed)
    inventory.strike_deletes(before.deleting.keys() & after.deleting.keys())
    blobs = {blob for _, meta in (*found.values, *found.tombstones) for blob in (*meta.blobs, meta.guard)}
    _free(connection, inventory, [entry for entry in dead if not {entry.blob, entry.guard} & blobs])
    known = {*after.whole, *after.small, *_numbers(after)}
    unknown = [(number, meta) for number, meta in found.values if number not in known]
    doubtful = objects.incomplete_objects(connection, unknown)
    for number, meta in unknown:
        inventory.note_shares(meta)
        if number not in doubtful:
            inventory.note(WHOLE if meta.content is None else SMALL, number, meta)
        elif not doubtful[number]:
            inventory.note(NEXT, number, meta)
    for number, meta in found.tombstones:
        if number not in after.tombstones:
            inventory.note_shares(meta)
            inventory.note(TOMBSTONE_KEPT, number, meta)
    known_now = inventory.known()
    if known_now is not None:
        inventory.foreign = max(0, connection.fullness().memory_used - known_now.nbytes)
    return found


def _free(connection: Connection, inventory: Inventory, dead: Sequence[Entry]) -> None:
    """Free what writers left that were killed before they had an object, and strike out what is gone already.

    Nothing but their ids tells those blobs: one after the other frees them, and none that is sealed, which is a value's
    by now.
    """
    if not dead:
        return
    with inventory.alone(Deadline(_FREEING)) as mine:
        known = inventory.known() if mine else None
        making, shares = ({}, {}) if known is None else (known.making, known.shares)
        for entry in (entry for entry in dead if making.get(entry.blob) == entry):
            copies = [copy.blob for copy in shares.get(entry.token, {}).values() if copy.guard == entry.guard]
            sealed = dict(_trees(connection, [entry.blob, *copies]))
            if inventory.strike([entry]) and not entry.number and not sealed:
                connection.outcomes(*map(DropBuffer, (*copies, entry.blob, entry.guard)))
