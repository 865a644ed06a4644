"""Recognise what lies in the store already: buffers of a value that are still what the store handed out, unchanged.

What ``get`` returns are private mappings of blobs. A value that is put may have such memory in it, at any depth, from
any library: the columns of a frame that nobody touched, a slice of an array. Instead of writing it once more, the new
object has the blob as a member (``objects`` says why the memory cannot go meanwhile).

Nothing is guessed. A buffer is shared only if it lies in a mapping that is there now, of the memory of the very server
that it is put into, at the place that the blob has there; and if each of its bytes is what the store has: on pages that
nobody has written to, it is the same memory (``_io.pages``); all others are compared, and where the kernel does not
tell about pages, or there is little to compare, all bytes are. So a buffer that was changed and changed back is shared,
too.

As with any put, the value is as of the put: each byte is looked at once, in the middle of the call, and what another
thread writes after that reaches a private page and nobody else.

Chains stay flat, because a mapping is one of a blob and not of an object: what was shared before is shared from where
it lies.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from .._io.mapping import Mapped, address_of, mapped
from .._io.pages import Range, Stretch, written
from .._wire.messages import GetData, Payload
from ..exceptions import ServerError
from .connection import Connection, Pin
from .conversation import Hold
from .meta import MAX_SHARED

__all__ = ["LEAST", "Sharing", "recognise"]

log = logging.getLogger("vineyard_client.objects")

# Bytes of a buffer from which on it is shared. Below, writing it costs less than finding out.
LEAST = 64 * 1024

# Bytes up to which all are compared: asking the kernel costs as much as that, however little there is to ask about.
_COMPARED = 4 * 1024 * 1024

# A blob is shared if at least one part in so many of it is: else a slice of one megabyte would keep ten gigabytes in
# memory when everything else of them is deleted. With a half, what values keep alive is no more than twice what they
# have. What does not reach that for want of less than ``LEAST``, which the description takes, is half of it, too.
_PARTS = 2


class Sharing:
    """What of a value is in the store already, held until it is released.

    Attributes:
        elsewhere: the buffers that need not be written, by their number: which of the blobs each is in, counted from 1,
            and where in it.
        payloads: the places of the blobs that have them, in the order of their numbers.
    """

    def __init__(self, pin: Pin, elsewhere: Dict[int, Tuple[int, int]], payloads: List[Payload]) -> None:
        self._pin = pin
        self.elsewhere = elsewhere
        self.payloads = payloads

    @property
    def blobs(self) -> Tuple[int, ...]:
        """The ids of the blobs."""
        return tuple(payload.blob for payload in self.payloads)

    @property
    def sizes(self) -> Tuple[int, ...]:
        """Their sizes."""
        return tuple(payload.size for payload in self.payloads)

    def release(self) -> None:
        """Let go of the blobs. Idempotent."""
        self._pin.release()


class _Found(NamedTuple):
    """A buffer that lies in a blob: its number, where it is in memory and in the blob, and what keeps it there."""

    number: int
    address: int
    nbytes: int
    offset: int
    hold: Hold
    mapping: Mapped


def recognise(connection: Connection, buffers: Sequence[memoryview]) -> Optional[Sharing]:
    """Return which of a value's buffers are in the store already; None if none is that is worth it.

    Args:
        connection: to the store.
        buffers: the value's memory, flat views of bytes.

    Raises:
        VineyardError: as ``Connection.call``.
    """
    found = {blob: group for blob, group in _groups(buffers).items() if _worth_it(group)}
    if not found:
        return None
    pin = connection.pin(*found)
    sharing = None
    try:
        places = _places(connection, pin, found)
        same = _unchanged(connection, buffers, places, [each for blob in places for each in found[blob]])
        sharing = _chosen(pin, places, same)
        return sharing
    finally:
        if sharing is None:
            pin.release()


def _groups(buffers: Sequence[memoryview]) -> Dict[int, List[_Found]]:
    """Return by blobs what lies in mappings of them; of what overlaps there only one."""
    large = [(number, buffer) for number, buffer in enumerate(buffers) if len(buffer) >= LEAST]
    mappings = mapped() if large else []
    if not mappings:
        return {}
    starts = [mapping.address for mapping in mappings]
    memories: Dict[int, Tuple[int, int]] = {}
    groups: Dict[int, List[_Found]] = {}
    for number, buffer in large:
        address = address_of(buffer)
        position = bisect_right(starts, address) - 1
        if position < 0:
            continue
        mapping = mappings[position]
        offset, hold = address - mapping.address, mapping.owner
        if offset + len(buffer) > mapping.nbytes or not isinstance(hold, Hold) or hold.memory is None:
            continue
        # Of two stores that number their blobs alike one is enough to look at.
        if memories.setdefault(hold.blob, hold.memory) == hold.memory:
            groups.setdefault(hold.blob, []).append(_Found(number, address, len(buffer), offset, hold, mapping))
    return {blob: _apart(group) for blob, group in groups.items()}


def _apart(group: List[_Found]) -> List[_Found]:
    """Leave out what overlaps with something else: who reads the value may change each buffer without the other."""
    kept: List[_Found] = []
    for each in sorted(group, key=lambda found: (found.offset, -found.nbytes)):
        if not kept or each.offset >= kept[-1].offset + kept[-1].nbytes:
            kept.append(each)
    return kept


def _worth_it(group: Sequence[_Found]) -> bool:
    payload = group[0].hold.payload if group else None
    return payload is not None and _PARTS * sum(each.nbytes for each in group) + LEAST >= payload.size


def _places(connection: Connection, pin: Pin, found: Dict[int, List[_Found]]) -> Dict[int, Payload]:
    """Hold the blobs through this connection and return where they are, if they are the ones that are mapped."""
    try:
        payloads, trees = pin.take(then=GetData(list(found)))
    except ServerError as error:
        log.debug("%s does not have what was read: %s", connection.peer, error)
        return {}
    places = {}
    for payload in payloads or ():
        known = found[payload.blob][0].hold
        same = known.payload is not None and known.payload[2:4] == payload[2:4]
        if same and known.memory == connection.memory_of(payload) and payload.blob in trees:
            places[payload.blob] = payload
    return places


def _unchanged(
    connection: Connection, buffers: Sequence[memoryview], places: Dict[int, Payload], found: Sequence[_Found]
) -> List[_Found]:
    """Return those whose bytes are what the store has."""
    told = None
    if sum(each.nbytes for each in found) > _COMPARED:
        told = written([_stretch(each, places[each.hold.blob]) for each in found])
    same = []
    for position, each in enumerate(found):
        parts: List[Range] = [(0, each.nbytes)] if told is None else told[position]
        buffer, payload = buffers[each.number], places[each.hold.blob]
        if all(connection.holds(payload, [buffer[at : at + n]], each.offset + at) for at, n in parts):
            same.append(each)
    return same


def _stretch(each: _Found, place: Payload) -> Stretch:
    assert each.hold.memory is not None  # else it would not have been found
    return Stretch(each.address, each.nbytes, each.hold.memory, place.offset + each.offset)


def _chosen(pin: Pin, places: Dict[int, Payload], same: Sequence[_Found]) -> Optional[Sharing]:
    groups: Dict[int, List[_Found]] = {}
    for each in same:
        groups.setdefault(each.hold.blob, []).append(each)
    worth = [group for group in groups.values() if _worth_it(group)]
    worth = sorted(worth, key=lambda group: -sum(each.nbytes for each in group))[:MAX_SHARED]
    elsewhere = {each.number: (member, each.offset) for member, group in enumerate(worth, 1) for each in group}
    return Sharing(pin, elsewhere, [places[group[0].hold.blob] for group in worth]) if worth else None
