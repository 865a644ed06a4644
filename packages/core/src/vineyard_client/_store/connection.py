"""One registered conversation with a vineyardd over its IPC socket, as one call sees it: requests, memory and pins.

This is the only module that sees the protocol, the streams and the memory together. The state that calls share stands
in ``conversation``; here is what they do with it, and until when: ``until`` gives a public call a view of the same
conversation with one deadline for everything that the call does.

A *pin* is an object that exists before the blob is marked, and that lets go of it once, however often it is told, or
with its last reference. A view of a blob has a reference of its own to what is held, so who pinned a blob to map it
gives its pin back in any case.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from contextlib import contextmanager
from copy import copy
from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional, Sequence, Tuple, TypeVar, Union

from .._io.deadline import Deadline
from .._io.mapping import holds, map_private, map_shared, read_exact, write_all
from .._io.stream import Stream
from .._wire.framing import MAX_FRAME
from .._wire.messages import (
    GetBuffers,
    InstanceReply,
    InstanceStatus,
    IsInUse,
    Payload,
    Register,
    Release,
    Request,
    StatusReply,
)
from ..exceptions import (
    ConnectionFailed,
    ObjectCorrupted,
    ProtocolError,
    UnsupportedVersion,
    VineyardError,
)
from .conversation import NOT_VINEYARD, Conversation, Exchange, Hold
from .debts import Debts
from .inventory import Inventory

__all__ = ["OLDEST_SERVER", "Connection", "Exchange", "Pin"]

log = logging.getLogger("vineyard_client.connection")

# The oldest release that is tested, and the oldest that answers in turn: those before answer what waits for metadata,
# such as a delete, after what was asked later.
OLDEST_SERVER, _IN_TURN = (0, 13, 1), (0, 14, 6)

# Requests that are sent before the first reply is read. They, and the replies, must fit into the socket's buffers (208
# KiB each by default on Linux), or both ends wait for each other to read.
_PIPELINE = 64

Reply = TypeVar("Reply")


class Pin:
    """Blobs that one user of a connection keeps from being freed; made before they are marked.

    Args:
        connection: through which they are marked.
        blobs: their ids.
    """

    def __init__(self, connection: Connection, *blobs: int) -> None:
        self.blobs = blobs
        self._connection = connection
        self._hold: Deque[Hold] = deque()

    def hold(self) -> None:
        """Hold the blobs by locks; with the server's marks or without, they count as in use.

        Raises:
            ConnectionFailed: the system refused.
        """
        conversation = self._connection.conversation
        conversation.turn.run(lambda: self._hold.extend(map(conversation.hold, self.blobs)), self._connection.deadline)

    def take(self, then: Request[Reply]) -> Tuple[Optional[List[Payload]], Reply]:
        """Mark the blobs in use, then ask for something.

        Returns:
            The places of the blobs, None if one of them is gone; and the reply.

        Raises:
            VineyardError: as ``Connection.call``.
        """
        self.hold()
        connection = self._connection
        if connection.conversation.pin_file is not None:
            found, reply = connection.call_all(GetBuffers(self.blobs), then)
        else:  # what is locked comes with the first blob, and is locked before anything else is asked
            found = connection.call(GetBuffers(self.blobs))
            reply = connection.call(then)
        places = {payload.blob: payload for payload in found}
        return ([places[blob] for blob in self.blobs] if len(places) == len(self.blobs) else None), reply

    def held(self, blob: int) -> Hold:
        """Return what is held of a blob, for a view that needs it for longer than this pin."""
        return self._hold[self.blobs.index(blob)]

    def release(self) -> None:
        """Let go; idempotent. A blob stays held for as long as others refer to what is held of it."""
        self._hold.clear()
        self._connection.conversation.release_dropped()


class Connection:
    """A registered connection.

    Args:
        stream: connected and fresh; the connection owns it from here on, also when registering fails.
        deadline: when registering must be done; by default after ``timeout``.
        then: what is asked together with registering; ``answer`` is the reply.
        timeout: seconds that each call may take; None is for ever.
        username: for a server that asks (``--htpasswd``).
        password: likewise.

    Raises:
        ConnectionFailed: the peer went away or refused the credentials.
        ProtocolError: the peer is not vineyardd.
        UnsupportedVersion: the server is older than this client knows.
    """

    instance: InstanceReply
    most = MAX_FRAME

    #: What this package has in the store, where that is noted.
    inventory: Optional[Inventory] = None

    #: Bytes in use that belong to no object which anybody put.
    overhead = 0

    def __init__(
        self,
        stream: Stream,
        deadline: Optional[Deadline] = None,
        then: Optional[Request[Any]] = None,
        /,
        *,
        timeout: Optional[float],
        username: str = "",
        password: str = "",
    ) -> None:
        self.conversation = Conversation(stream, self.most)
        self.pid = os.getpid()
        self._timeout = timeout
        self._deadline = deadline
        self._renew: Optional[Callable[[Deadline], Connection]] = None
        self.debts = Debts()
        try:
            self.answer = self._register(username, password, then)
        except BaseException:
            self.conversation.close()
            raise
        self._deadline = None
        self.conversation.rpc = self.endpoint is not None

    def _register(self, username: str, password: str, then: Optional[Request[Any]]) -> Any:
        exchange = Exchange(Register(username, password), *([] if then is None else [then]))
        try:
            try:
                self.run(exchange)
            except VineyardError:
                self._take_in(exchange)  # what was said to registering counts, whatever became of the rest
                raise
            self._take_in(exchange)
        except ConnectionFailed as error:
            plainly = _not_let_in(self.peer, username, error)
            if plainly is None:
                raise
            raise plainly from error
        return None if then is None else exchange.results()[1]

    def _take_in(self, exchange: Exchange) -> None:
        for instance in raise_refusals(exchange.outcomes[:1]):
            self.conversation.one_by_one = _version(instance.version, self.peer) < _IN_TURN
            self.instance = instance

    def until(self, deadline: Deadline) -> Connection:
        """Return this connection for one call, all of which must be done by then."""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _deadline=deadline)
        return view

    def belong(self, debts: Debts, renew: Callable[[Deadline], Connection]) -> None:
        """Be one of several connections of a client.

        Args:
            debts: what is to be freed for the client.
            renew: returns another connection to the same socket, for that, after this one broke.
        """
        self.debts, self._renew = debts, renew

    @property
    def deadline(self) -> Deadline:
        """Until when the call may take that this connection is for; from now on, if it is for no single call."""
        return self._deadline or Deadline(self._timeout)

    def renewed(self, grace: float) -> Connection:
        """Return a connection to free something with: this one, or another if it broke.

        Args:
            grace: seconds that it may take, whatever became of the call's own deadline.

        Raises:
            ConnectionFailed: there is none.
        """
        deadline = Deadline(grace)
        if self.usable or self._renew is None:
            return self.until(deadline)
        return self._renew(deadline)

    def same_server(self, other: Connection) -> bool:
        """Tell whether another connection of the client leads to the same server, which has not restarted."""
        place = self.conversation.stream.place
        return place is not None and place == other.conversation.stream.place

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Let the time not count in which we are at work, on bytes or on what has come, and wait for nobody."""
        with self.deadline.paused():
            yield

    @property
    def endpoint(self) -> Optional[str]:
        """``host:port`` that the instance reports for other hosts; None if its RPC is off: it reports port 0 then."""
        reported = self.instance.rpc_endpoint
        return None if not reported or reported.endswith(":0") else reported

    @property
    def usable(self) -> bool:
        """Whether calls can go through: neither retired nor inherited from a parent process."""
        return self.conversation.usable

    @property
    def timeout(self) -> Optional[float]:
        """Seconds that each call may take; None is for ever."""
        return self._timeout

    @property
    def peer_pid(self) -> int:
        """The process of the server on this host; 0 where that cannot be told."""
        return getattr(self.conversation.stream, "peer_pid", 0)

    @property
    def peer(self) -> str:
        """The server's end, as a person would name it."""
        return self.conversation.stream.peer

    def __repr__(self) -> str:
        """Show peer, state and pins."""
        state = "usable" if self.usable else "retired" if self.conversation.closed else f"inherited from {self.pid}"
        return f"<Connection to {self.peer}, {state}, {self.conversation.held} pinned>"

    # ---- calls

    def call(self, request: Request[Reply]) -> Reply:
        """Send a request and return its reply.

        Raises:
            VineyardError: the server refused; the connection stays usable.
            ConnectionFailed: the peer is gone or too slow; the connection is retired.
            ProtocolError: the reply made no sense; the connection is retired.
        """
        reply: Reply = self.run(Exchange(request)).results()[0]
        return reply

    def call_all(self, *requests: Request[Any]) -> List[Any]:
        """Send requests together and return their replies: one wait for all of them.

        The server works through them in order, each of them whatever becomes of the others.

        Raises:
            VineyardError: the server refused one; the first refusal is raised when all replies are in.
            ConnectionFailed: as ``call``.
            ProtocolError: as ``call``.
        """
        return raise_refusals(self.outcomes(*requests))

    def outcomes(self, *requests: Request[Any]) -> List[Any]:
        """Do as ``call_all``, but return a refusal in its place instead of raising it."""
        results: List[Any] = []
        for start in range(0, len(requests), _PIPELINE):
            results += self.run(Exchange(*requests[start : start + _PIPELINE])).outcomes
        return results

    def run(self, exchange: Exchange) -> Exchange:
        """Bring an exchange to its end and return it; whoever made it knows at any moment what the server answered.

        Raises:
            ConnectionFailed: as ``call``.
            ProtocolError: as ``call``.
        """
        self.conversation.run(exchange, self.deadline)
        return exchange

    # ---- memory

    def write(self, payload: Payload, chunks: Iterable[Union[bytes, memoryview]]) -> None:
        """Fill a blob with chunks that together have exactly its size.

        The bytes go from where they lie straight into the store's memory.
        """
        with self.moving():
            done = self._written(payload, payload.offset, chunks)
        if done != payload.size:
            raise RuntimeError(f"{done} bytes were written into a blob of {payload.size}")

    def write_at(self, payload: Payload, position: int, chunk: Union[bytes, memoryview]) -> None:
        """Write a piece of a blob; ``position`` is where in the blob it begins."""
        self._written(payload, payload.offset + position, [chunk])

    def _written(self, payload: Payload, offset: int, chunks: Iterable[Union[bytes, memoryview]]) -> int:
        try:
            return write_all(self.store_fd(payload), offset, chunks)
        except OSError as error:
            if isinstance(error, VineyardError):
                raise
            raise ConnectionFailed(
                f"Writing {payload.size} bytes into the memory of {self.peer} failed: {error.strerror or error}.",
                "See whether the host has memory left for the store.",
            ) from error

    def pin(self, *blobs: int) -> Pin:
        """Return a pin on blobs, which holds nothing yet."""
        return Pin(self, *blobs)

    def in_use(self, blobs: Sequence[int], after: Sequence[Request[None]] = ()) -> List[bool]:
        """Tell for each blob whether any process on the host has it pinned, this one included.

        Args:
            blobs: their ids.
            after: requests that are to be done before anything is looked at.
        """
        self._open_pin_file(blobs)
        marked = self.call_all(*after, *[IsInUse(blob) for blob in blobs])[len(after) :]
        # Without locks nobody can tell whom the server has forgotten, but readers stay connected.
        anybody = bool(blobs) and self._marks_can_be_lost and self.call(InstanceStatus()).connections > 1
        return [mark or anybody or self._held(blob) for mark, blob in zip(marked, blobs)]

    def _held(self, blob: int) -> bool:
        pin_file = self.conversation.pin_file
        return self.conversation.holds(blob) or (pin_file is not None and pin_file.held_by_others(blob))

    @property
    def _marks_can_be_lost(self) -> bool:
        """Whether the server's marks are all that there is, and its RPC is on, whose clients undo them."""
        return self.conversation.pin_file is None and self.endpoint is not None

    def _open_pin_file(self, blobs: Sequence[int]) -> None:
        """Have the server send its memory, which comes with the place of any blob, unless it has.

        The locks on it are all that there is of a reader whose connection broke.
        """
        for blob in blobs[:1] if self.conversation.pin_file is None and not self.conversation.fds else ():
            self.outcomes(GetBuffers([blob], unsealed=True), Release(blob))

    def read(self, payload: Payload) -> bytearray:
        """Return a copy of a pinned blob."""
        try:
            return read_exact(self.store_fd(payload), payload.offset, payload.size)
        except OSError as error:
            if isinstance(error, VineyardError):
                raise
            raise ObjectCorrupted(f"The blob at {payload.offset}+{payload.size} of {self.peer} is short.") from error

    def holds(self, payload: Payload, chunks: Iterable[Union[bytes, memoryview]], at: int = 0) -> bool:
        """Tell whether chunks are what a pinned blob holds from some position on, byte for byte."""
        try:
            with self.moving():
                return holds(self.store_fd(payload), payload.offset + at, chunks)
        except OSError as error:
            if isinstance(error, VineyardError):
                raise
            raise ObjectCorrupted(f"The blob at {payload.offset}+{payload.size} of {self.peer} is short.") from error

    def map(self, payload: Payload, pin: Pin) -> memoryview:
        """Return a private, writable view of a pinned blob.

        It keeps the blob held, whatever becomes of the pin, until nothing refers to its memory any more.
        """
        hold = pin.held(payload.blob)
        self.conversation.let_go_promptly(hold)
        hold.memory, hold.payload = self.memory_of(payload), payload
        return self._mapped(payload, lambda fd: map_private(fd, payload.offset, payload.size, hold))

    def memory_of(self, payload: Payload) -> Tuple[int, int]:
        """Return what tells the file with a blob's memory from every other one, for as long as it is mapped."""
        found = os.fstat(self.store_fd(payload))
        return found.st_dev, found.st_ino

    def peek(self, payload: Payload) -> memoryview:
        """Return a view of a blob that this connection is writing; it shows what the store's memory holds."""
        return self._mapped(payload, lambda fd: map_private(fd, payload.offset, payload.size, None))

    def map_draft(self, payload: Payload, pin: Pin) -> Tuple[memoryview, Callable[..., None]]:
        """Return a view of a blob that this connection is writing, which shares memory with the store, and its end.

        It keeps the blob held. Calling the function makes the view private; see ``map_shared``.
        """
        hold = pin.held(payload.blob)
        self.conversation.let_go_promptly(hold)
        return self._mapped(payload, lambda fd: map_shared(fd, payload.offset, payload.size, hold))

    def _mapped(self, payload: Payload, how: Callable[[int], Reply]) -> Reply:
        try:
            return how(self.store_fd(payload))
        except (OSError, ImportError) as error:
            if isinstance(error, VineyardError):
                raise
            raise ConnectionFailed(
                f"The system refused to map {payload.size} bytes of {self.peer}: "
                f"{getattr(error, 'strerror', None) or error}.",
                "Drop values that are no longer needed, close files, or raise vm.max_map_count.",
            ) from error

    def fullness(self) -> StatusReply:
        """Ask how full the instance is with what was put there."""
        found = self.call(InstanceStatus())
        return found._replace(memory_used=max(0, found.memory_used - self.overhead))

    @property
    def memory(self) -> Optional[int]:
        """The file descriptor of the store's memory, if the server has sent it; it stays this connection's."""
        return next((fd.fd for fd in self.conversation.fds.values()), None)

    def store_fd(self, payload: Payload) -> int:
        """Return the file descriptor behind a blob's memory; it stays this connection's.

        Raises:
            ProtocolError: it never came, or this process had no room for it.
        """
        conversation = self.conversation
        try:
            return conversation.fds[payload.store_fd].fd
        except (KeyError, ValueError):
            if conversation.no_memory is not None:
                raise copy(conversation.no_memory) from None
            conversation.retire()
            raise ProtocolError(
                f"{self.peer} placed a blob in memory {payload.store_fd}, whose file descriptor it never sent.",
                NOT_VINEYARD,
            ) from None

    # ---- end

    def close(self) -> None:
        """Take no more calls; the socket closes now, or with the last mapped view. Idempotent."""
        self.conversation.close()


def _not_let_in(peer: str, username: str, refusal: ConnectionFailed) -> Optional[ConnectionFailed]:
    """Say plainly what a server with ``--htpasswd`` means, which has the program of that name check the password."""
    if "Failed to launch process" in refusal.what:
        what, hint = (
            "cannot check the user name and password: its host has no htpasswd program.",
            "Install it there (Debian: apache2-utils, Fedora: httpd-tools) and have it on the server's PATH.",
        )
    elif "Failed to find the htpasswd" in refusal.what:
        what, hint = (
            "cannot check the user name and password: the file that its --htpasswd names is not there.",
            "Put it there, or start the server with another.",
        )
    elif "Incorrect username" not in refusal.what:
        return None
    elif not username:
        what, hint = (
            "asks for a user name and password.",
            ("Give connect() its username and password, or set VINEYARD_USERNAME and VINEYARD_PASSWORD."),
        )
    else:
        what, hint = (
            f"refused the user {username!r}.",
            "Check the user name and password against the file that the server's --htpasswd names.",
        )
    return ConnectionFailed(f"vineyardd at {peer} {what}", hint)


def raise_refusals(results: List[Any]) -> List[Any]:
    for result in results:
        if isinstance(result, VineyardError):
            raise result
    return results


def _version(text: str, peer: str) -> Tuple[int, ...]:
    try:
        version = tuple(int(part) for part in text.split(".")[:3])
    except ValueError:
        raise ProtocolError(f"{peer} calls its version {text!r}.", NOT_VINEYARD) from None
    if version < OLDEST_SERVER:
        raise UnsupportedVersion(
            f"vineyardd at {peer} is {text}; this client needs {'.'.join(map(str, OLDEST_SERVER))} or newer.",
            "Upgrade the server (pip install --upgrade vineyard-bdist).",
        )
    return version
