"""Write an object of vineyard's own types, and know at every moment what there is of it to undo."""

from __future__ import annotations

import logging
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

from .._io.deadline import Deadline
from .._store.connection import Connection, Exchange
from .._wire.messages import (
    BufferReply,
    CreateBuffer,
    CreateData,
    DeleteData,
    DropBuffer,
    Release,
    Request,
    Seal,
)
from ..exceptions import DeadlineExceeded, StoreFull, VineyardError
from ..ids import BLOB_BIT, format_id
from .forms import BLOB, Draft

__all__ = ["Writing"]

log = logging.getLogger("vineyard_client.native")

# Seconds that it may take to free what a call leaves that failed, on top of the call's own time.
_GRACE = 1.0

# Requests in one exchange. They, and the replies, must fit into the socket's buffers.
_TOGETHER = 64


class Writing:
    """One draft that is written: what the server makes for it is known as soon as its replies are there.

    Each exchange is remembered before it begins. Blobs that an object has by then are freed with it; to free them by
    their ids as well might free what is somebody else's by now.

    Args:
        connection: where to.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._made: List[Exchange] = []
        self._released = False
        #: Which blobs each of the objects has, by its request.
        self._members: Dict[int, List[int]] = {}
        self._freeing: Optional[List[Exchange]] = None

    def store(self, draft: Draft) -> int:
        """Store all parts and return the id of the whole.

        Raises:
            StoreFull: there is no room.
        """
        parts = list(draft.parts())
        buffers = [part for one in parts for part in one.members.values() if isinstance(part, memoryview)]
        blobs = dict(zip(map(id, buffers), self._store_blobs(buffers)))
        height: Dict[int, int] = {}
        for part in parts:
            below = [height[id(member)] for member in part.members.values() if isinstance(member, Draft)]
            height[id(part)] = 1 + max(below, default=-1)
        trees: Dict[int, Dict[str, Any]] = {}
        numbers: List[int] = []
        for level in range(height[id(draft)] + 1):
            ready = [part for part in parts if height[id(part)] == level]
            requests = []
            for part in ready:
                requests.append(CreateData(self._tree(part, blobs, trees)))
                members = [blobs[id(member)] for member in part.members.values() if isinstance(member, memoryview)]
                self._members[id(requests[-1])] = [member["number"] for member in members]
            numbers = self._all(requests)
            trees.update((id(part), self._member(n, part.typename, part.nbytes)) for part, n in zip(ready, numbers))
        return numbers[-1]

    def _all(self, requests: Sequence[Request[Any]]) -> List[Any]:
        """Make all of something; what is made is known even if an exception comes.

        Raises:
            VineyardError: the first refusal.
        """
        first = len(self._made)
        for start in range(0, len(requests), _TOGETHER):
            self._made.append(Exchange(*requests[start : start + _TOGETHER]))
            self._connection.run(self._made[-1])
        return [outcome for exchange in self._made[first:] for outcome in exchange.results()]

    def _store_blobs(self, buffers: Sequence[memoryview]) -> List[Dict[str, Any]]:
        filled = [buffer for buffer in buffers if buffer.nbytes]
        try:
            created = self._all([CreateBuffer(buffer.nbytes) for buffer in filled])
        except StoreFull as error:
            raise self._full(error, sum(buffer.nbytes for buffer in filled)) from error
        for buffer, blob in zip(filled, created):
            self._connection.write(blob.payload, [buffer])
        self._connection.call_all(*[Seal(blob.id) for blob in created])
        numbers = iter([blob.id for blob in created])
        return [self._blob(next(numbers) if buffer.nbytes else BLOB_BIT, buffer.nbytes) for buffer in buffers]

    def _full(self, error: StoreFull, nbytes: int) -> StoreFull:
        status = self._connection.fullness()
        return StoreFull(
            f"The store at {self._connection.peer} has no room for {nbytes} bytes: "
            f"{status.memory_used} of {status.memory_limit} are in use.",
            error.hint,
            requested=nbytes,
            used=status.memory_used,
            limit=status.memory_limit,
        )

    def _tree(
        self, part: Draft, blobs: Mapping[int, Mapping[str, Any]], trees: Mapping[int, Mapping[str, Any]]
    ) -> Dict[str, Any]:
        members = {
            name: blobs[id(member)]["tree"] if isinstance(member, memoryview) else trees[id(member)]
            for name, member in part.members.items()
        }
        return {**self._head(part.typename, part.nbytes), **part.fields, **members}

    def _head(self, typename: str, nbytes: int) -> Dict[str, Any]:
        instance = self._connection.instance.instance_id
        head = {"typename": typename, "nbytes": nbytes, "instance_id": instance, "transient": True}
        return head if typename == BLOB else {**head, "global": False}

    def _member(self, number: int, typename: str, nbytes: int) -> Dict[str, Any]:
        return {"id": format_id(number), **self._head(typename, nbytes)}

    def _blob(self, number: int, nbytes: int) -> Dict[str, Any]:
        return {"number": number, "tree": {**self._member(number, BLOB, nbytes), "length": nbytes}}

    def release(self) -> None:
        """Drop the marks that creating the blobs left."""
        blobs = [blob.id for _, blob in self._outcomes() if isinstance(blob, BufferReply)]
        self._connection.outcomes(*map(Release, blobs))
        self._released = True

    def undo(self) -> None:
        """Free everything that was stored; what cannot be freed now is freed by a later call."""
        self._connection.debts.add(self)
        self._connection.debts.pay(_GRACE)

    def pay(self, grace: float) -> bool:
        """Free what there is, and return whether nothing is left to be done; see ``_store.debts``."""
        connection = self._connection
        if any(exchange.begun and not exchange.done for exchange in (*self._made, *(self._freeing or ()))):
            try:
                connection.conversation.settle(Deadline(grace))
            except DeadlineExceeded:
                return False
            except VineyardError as error:
                log.debug("%s did not say what it had made: %s", connection.peer, error)
        if not any(exchange.begun for exchange in self._made):
            return True
        renewed = connection.renewed(grace)
        if not (connection.usable or connection.same_server(renewed)):
            return True
        if self._freeing is None:
            requests = list(self._cleanup())
            self._freeing = [Exchange(*requests[n : n + _TOGETHER]) for n in range(0, len(requests), _TOGETHER)]
        for exchange in self._freeing:
            if not exchange.begun:  # each goes out once
                renewed.run(exchange)
        return True

    def _cleanup(self) -> Iterator[Request[Any]]:
        """Yield what frees all that is known to be there."""
        made = list(self._outcomes())
        blobs = [blob.id for _, blob in made if isinstance(blob, BufferReply)]
        if not self._released:
            yield from map(Release, blobs)
        objects = {id(request): number for request, number in made if isinstance(number, int)}
        if objects:
            yield DeleteData(list(objects.values()))
        owned = {blob for request in objects for blob in self._members.get(request, ())}
        yield from (DropBuffer(blob) for blob in blobs if blob not in owned)

    def _outcomes(self) -> Iterator[Any]:
        for exchange in self._made:
            yield from zip(exchange.requests, exchange.outcomes)
