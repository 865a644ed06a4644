"""Objects in the making: who owns what the server makes for them, at every moment, until they are whole or gone.

Read ``objects`` for the order of the steps, and why it is that one.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any, Callable, Collection, Dict, List, Optional, Sequence, Tuple, Union

from .._forks import forks
from .._io.deadline import Deadline
from .._wire.messages import (
    BufferReply,
    CreateBuffer,
    CreateData,
    DeleteData,
    DropBuffer,
    GetData,
    ListData,
    Payload,
    Release,
    Request,
    Seal,
)
from ..exceptions import DeadlineExceeded, ObjectNotFound, StoreFull, VineyardError
from .connection import Connection, Exchange, Pin
from .conversation import Conversation
from .inventory import GONE, NEXT, SMALL, SMALL_GONE, STORED, TOMBSTONE_KEPT, WHOLE
from .meta import TOMBSTONE, VALUE, ValueMeta

__all__ = ["Chunk", "Drafting", "Making", "SharedGone"]

log = logging.getLogger("vineyard_client.objects")

# Seconds that it may take to free what a call leaves that failed, on top of the call's own time.
_GRACE = 1.0

# Bytes that take long to write, so that a writer may well be killed meanwhile.
_LARGE = 1 << 20

Chunk = Union[bytes, memoryview]


class SharedGone(ObjectNotFound):
    """A blob that an object was to share is gone: somebody freed it by force."""


class Making:
    """An object in the making: it owns what the server makes for it, from before that is asked for.

    ``start`` allocates guard and blob and stores the metadata; then the blob is written; ``finish`` makes it whole. An
    object that shares blobs with others has them as members: they must be held from before it is stored, and be there
    afterwards. One that is to have blobs of its own instead, as a replica, has them allocated as well.
    Whoever makes it calls ``undo`` if anything fails on the way, which frees all that there is by then, over another
    connection if need be; and ``let_go`` in any case.

    Guard and blob are asked for one after the other, each in an exchange whose first reply cannot be lost: what it
    names nobody else could find.

    Args:
        connection: where to.
        meta: with neither content nor blobs.
        preview: what people are shown of the value; empty if there is none.
    """

    def __init__(self, connection: Connection, meta: ValueMeta, preview: bytes = b"") -> None:
        self.meta = replace(meta, preview=len(preview)) if preview else meta
        self.connection = connection
        self._preview = preview
        self._guard = Exchange(CreateBuffer(self.meta.guard_size), alone=True)
        self._blob: Optional[Exchange] = None
        self._copies: List[Exchange] = []
        self._stored: Optional[Exchange] = None
        self._pin: Optional[Pin] = None
        self._before: Sequence[Request[Any]] = ()
        # What frees it, and the conversation that it was handed to.
        self._freeing: Optional[Tuple[Exchange, Conversation]] = None
        self._late = False
        self._noted = False

    @property
    def number(self) -> int:
        """The object's id."""
        assert self._stored is not None
        number: int = self._stored.results()[0]
        return number

    @property
    def payload(self) -> Payload:
        """The place of its blob."""
        assert self._blob is not None
        created: BufferReply = self._blob.results()[0]
        return created.payload

    @property
    def copies(self) -> List[Payload]:
        """The places of the blobs that stand for those which the original shares."""
        return [exchange.outcomes[0].payload for exchange in self._copies]

    def store_inline(self, content: bytes) -> None:
        """Store an object whose envelope is in its metadata; it is whole then."""
        self.meta = replace(self.meta, content=content, preview=self._preview.decode())
        self.store_shared()

    def store_shared(self) -> None:
        """Store an object that shares the blob of another one, which is pinned; it is whole then."""
        self._store(self.meta.tree())
        self.note(WHOLE if self.meta.content is None else SMALL)

    def start(self, *, copied: bool = False, slow: bool = False) -> None:
        """Store the metadata of an object whose blob is to be written.

        Args:
            copied: whether it gets blobs of its own for those that its original shares with others.
            slow: whether it may take long to write it, however few bytes it has.

        Raises:
            StoreFull: there is no room.
            SharedGone: a blob that it shares is gone.
            ProtocolError: the store's memory cannot be had.
        """
        connection, size = self.connection, self.meta.own if self.meta.shared else self.meta.size
        guard: BufferReply = self._allocated(connection.run(self._guard), size)
        if self._preview:
            connection.write_at(guard.payload, 0, self._preview)
        self._blob = Exchange(CreateBuffer(size), Seal(guard.id), alone=True)
        blob: BufferReply = self._allocated(connection.run(self._blob), size)
        connection.store_fd(blob.payload)  # without which nothing can be written
        self._pin = connection.pin(guard.id)
        self._pin.hold()
        self.meta = replace(self.meta, blob=blob.id, guard=guard.id)
        self.note(NEXT)
        if copied:
            ids = []
            for nbytes in self.meta.sizes:
                self._copies.append(Exchange(CreateBuffer(nbytes), alone=True))
                ids.append(self._allocated(connection.run(self._copies[-1]), nbytes).id)
                if connection.inventory is not None:
                    connection.inventory.note_copy(self.meta, ids[-1], nbytes)
            self.meta = replace(self.meta, shared=tuple(ids))
        elif self.meta.shared and connection.inventory is not None:
            connection.inventory.note_shares(self.meta)
        self._store(self.meta.tree(), () if copied else self.meta.shared)
        if slow or size >= _LARGE:
            self.note(STORED)

    def _store(self, tree: Dict[str, Any], shared: Sequence[int] = ()) -> None:
        # The server takes any id for that of a member. So what is shared is looked for afterwards: if it is there, it
        # was there before, and stays now.
        self._stored = Exchange(CreateData(tree), *([GetData(shared)] if shared else []), alone=True)
        results = self.connection.run(self._stored).results()
        if shared and len(results[1]) != len(shared):
            raise SharedGone(f"A blob that is to be shared was freed by force in {self.connection.peer}.")

    def finish(self) -> None:
        """Make the object whole: from now on it can be read."""
        blobs = [*[payload.blob for payload in self.copies], self.meta.blob]
        requests = [request for blob in blobs for request in (Seal(blob), Release(blob))]
        for sealed in self.connection.outcomes(*requests)[::2]:
            if isinstance(sealed, VineyardError):  # a mark may be lost already: _io.pinfile
                raise sealed
        self.note(WHOLE)

    def note(self, kind: bytes) -> None:
        """Note in the inventory what has become of the object."""
        if self.connection.inventory is not None:
            self._noted = True
            self.connection.inventory.note(kind, 0 if kind == NEXT else self.number, self.meta)

    def let_go(self) -> None:
        """Let go of the guard: nobody is at work here any more. Idempotent."""
        if self._pin is not None:
            self._pin.release()

    def undo(self, before: Sequence[Request[Any]] = ()) -> None:
        """Free everything that there is of the object; what cannot be freed now is freed by a later call.

        Args:
            before: requests that are to be done first.
        """
        self._before = before
        self.connection.debts.add(self)
        self.connection.debts.pay(_GRACE)

    def pay(self, grace: float) -> bool:
        """Free what there is, and return whether nothing is left to be done; see ``debts``."""
        if self._freeing is not None and self._freeing[1].has(self._freeing[0]):
            return True  # it goes out once; to repeat it might free what is somebody else's by now
        connection = self.connection
        if any(exchange is not None and exchange.begun and not exchange.done for exchange in self._asked):
            try:
                # Once it may take a moment; later calls only look.
                connection.conversation.settle(Deadline(0 if self._late else grace))
            except DeadlineExceeded:
                self._late = True
                return False
            except VineyardError as error:
                log.debug("%s did not say what it had made: %s", connection.peer, error)
        freeing = self._cleanup()
        if not freeing and not self._unsure:
            return True
        renewed = connection.renewed(grace)
        if not connection.usable:
            freeing = self._sure(renewed, freeing)
        if freeing and isinstance(freeing[0], DropBuffer):
            self._note_gone(renewed)  # first: see inventory
        exchange = Exchange(*freeing, lasting=True)
        # Sealing marks the blob as in use. If the view that had the mark is gone already, this lets go of it.
        sealed = renewed.pin(self.meta.blob) if self._before else None
        try:
            if sealed is not None:
                sealed.hold()
            self._freeing = exchange, renewed.conversation
            outcomes = renewed.run(exchange).outcomes
        finally:
            if sealed is not None:
                sealed.release()
        for request, outcome in zip(freeing, outcomes):
            # What was interrupted while it was finished may be sealed already.
            if isinstance(outcome, VineyardError) and not isinstance(request, Seal):
                log.warning("%s: a part of an unfinished object stays: %s", connection.peer, outcome)
            elif isinstance(request, CreateData) and renewed.inventory is not None:
                renewed.inventory.note(TOMBSTONE_KEPT, outcome, self.meta)
        if freeing and isinstance(freeing[-1], (DeleteData, Seal)):
            self._note_gone(renewed)
        return True

    def _note_gone(self, renewed: Connection) -> None:
        """Note in the inventory that the object is gone, or is about to go, if it is noted there."""
        if self._noted and renewed.inventory is not None and self.connection.same_server(renewed):
            number = self._stored.outcomes[0] if self._stored is not None and self._stored.outcomes else 0
            kind = GONE if self.meta.content is None else SMALL_GONE
            renewed.inventory.note(kind, number if isinstance(number, int) else 0, self.meta)

    @property
    def _asked(self) -> Tuple[Optional[Exchange], ...]:
        return self._guard, self._blob, *self._copies, self._stored

    @property
    def _unsure(self) -> bool:
        """Whether there may be an object whose id never came."""
        return self._stored is not None and self._stored.begun and not self._stored.outcomes

    def _cleanup(self) -> List[Request[Any]]:
        """Return what frees all that is known to be there."""
        stored = self._stored
        if stored is not None and stored.outcomes and not isinstance(stored.outcomes[0], VineyardError):
            return [*self._before, DeleteData([stored.outcomes[0]])]
        if self._unsure:
            return []  # the object, if there is one, has them, and frees them when it is collected
        outcomes = [exchange.outcomes[0] for exchange in self._asked if exchange and exchange.outcomes]
        return [DropBuffer(outcome.id) for outcome in outcomes if isinstance(outcome, BufferReply)]

    def _sure(self, renewed: Connection, freeing: List[Request[Any]]) -> List[Request[Any]]:
        """Return what may be freed over another connection: the server may be another one by now, with ids of its own.

        An object is told by its token; blobs are only freed at the server that made them.
        """
        stored = self._stored.outcomes[0] if self._stored is not None and self._stored.outcomes else None
        if self._unsure or any(isinstance(request, DeleteData) for request in freeing):
            # Nothing but a list knows of an object whose id never came.
            asked = ListData(VALUE) if stored is None else GetData([stored])
            trees: Dict[int, Dict[str, Any]] = renewed.call(asked)
            numbers = [number for number, tree in trees.items() if tree.get("token") == self.meta.token]
            return [DeleteData(numbers)] if numbers else []
        return freeing if self.connection.same_server(renewed) else []

    def _allocated(self, exchange: Exchange, nbytes: int) -> BufferReply:
        outcome = exchange.outcomes[0]
        if not isinstance(outcome, StoreFull):
            created: BufferReply = exchange.results()[0]
            return created
        self.undo()
        status = self.connection.fullness()
        hint = "Delete what nobody needs (vineyard-client list), or give vineyardd a larger --size."
        if nbytes > status.memory_limit:
            hint = "The value is larger than the whole store: give vineyardd a larger --size."
        raise StoreFull(
            f"The store at {self.connection.peer} has no room for {nbytes} bytes: "
            f"{status.memory_used} of {status.memory_limit} are in use.",
            hint,
            requested=nbytes,
            used=status.memory_used,
            limit=status.memory_limit,
        ) from outcome


class Drafting:
    """An object whose buffers the caller fills in place.

    All but the buffers that are left to be filled is written when it is started, and the view shares memory with the
    store until ``finish`` or ``undo``. Then the object is whole, or deleted, and the view is a private one, which stays
    valid and keeps the blob: a tombstone keeps the memory of a deleted one.

    Where the process forked meanwhile, a child may write to the memory for as long as it lives. So the object must be
    undone then: the view shows a copy, and the memory is free to be used again when the child has ended.

    One that is forgotten is a debt of the client, which the next call pays.

    Args:
        connection: where to.
        meta: as for ``write_object``.
    """

    def __init__(self, connection: Connection, meta: ValueMeta) -> None:
        self._making = Making(connection, meta)
        self._forks = forks()
        self._detach: Optional[Callable[..., None]] = None
        self._viewed = False
        self._ended = False

    def start(self, chunks: Sequence[Chunk], left_to_fill: Collection[int]) -> memoryview:
        """Store the object and return a view of its envelope.

        Args:
            chunks: the envelope.
            left_to_fill: positions of the chunks that are not written, since the caller will.

        Raises:
            StoreFull: there is no room.
        """
        making = self._making
        connection = making.connection
        making.start(slow=True)
        position = 0
        for number, chunk in enumerate(chunks):
            if number not in left_to_fill:
                connection.write_at(making.payload, position, chunk)
            position += len(chunk)
        pin = connection.pin(making.payload.blob)
        try:
            pin.hold()
            view, self._detach = connection.map_draft(making.payload, pin)
        finally:
            pin.release()
        return view

    def go_on(self, connection: Connection) -> None:
        """Use another connection, or the same with another deadline, from here on."""
        self._making.connection = connection

    @property
    def number(self) -> int:
        """The object's id."""
        return self._making.number

    @property
    def forked(self) -> bool:
        """Whether the process forked since this began."""
        return forks() != self._forks

    def finish(self) -> None:
        """Make the object whole; before that, make the view private."""
        self._make_private()
        self._making.connection.call(Seal(self._making.payload.blob))
        self._making.note(WHOLE)
        self._ended = True
        self._making.let_go()

    def undo(self) -> None:
        """Free the object, also a finished one; before that, make the view private. Idempotent."""
        self._make_private()
        before: List[Request[Any]] = []
        if self._viewed:
            # Sealed, so that its memory is kept for as long as the view pins it, but only when nobody can find it.
            blob, tombstone = self._making.payload.blob, self._making.meta.tree(TOMBSTONE)
            before = [CreateData(tombstone), DeleteData([self.number]), Seal(blob)]
        self._making.undo(before)
        self._ended = True  # not before the client owes it
        self._making.let_go()

    def _make_private(self) -> None:
        if self._detach is not None:
            self._viewed = True
            self._detach(copy=self.forked)
            self._detach = None

    def pay(self, grace: float) -> bool:
        """Undo what was forgotten."""
        if not self._ended:
            self.undo()
        return True
