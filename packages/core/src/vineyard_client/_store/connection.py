"""One registered conversation with a vineyardd over its IPC socket: requests, fds, memory and pins.

This is the only module that sees the protocol, the streams and the memory together. Its invariants:

- Calls take turns; a request, its reply and the fds behind the reply are one step.
- A step that fails half way (timeout, interrupt, a reply that makes no sense) leaves the stream out of step, so the
  connection is *retired*: no call goes through it again.
- The server sends each store fd once per connection, so the table of fds lives and dies with the connection.
- A pin is held twice: as the server's in-use mark, which belongs to the connection, and as a lock on the store's
  memory, because that mark can be lost (``_io.pinfile`` says how). Both know one pin per blob, not a number: they are
  counted here. Both fall when their descriptor closes. Therefore a retired connection keeps its socket open while
  mapped views are alive, and closes it with the last one.
- Views are dropped by the garbage collector, from any thread, also in the middle of a call. A dropped pin is put into a
  queue and released by whoever has the lock, or next gets it.

Fork: the child inherits socket, fds and mappings, but must not talk. It works with a connection of its own (see
``client``); an inherited one only stays open, which keeps the marks of the inherited views even when the parent ends.
So that the parent does not take those marks away, it releases none that was there when it forked: the kernel closes
the socket, and the server drops the marks, when the last process that has it is done with it.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Sequence, Set, Tuple, TypeVar, Union

from .._io.deadline import Deadline
from .._io.fds import OwnedFD
from .._io.mapping import holds, map_private, map_shared, read_exact, write_all
from .._io.pinfile import PinFile
from .._io.stream import Stream
from .._wire.framing import FrameDecoder, Message, encode_frame
from .._wire.messages import (
    GetBuffers,
    InstanceReply,
    InstanceStatus,
    IsInUse,
    Payload,
    Register,
    Release,
    Request,
    fds_announced,
    parse_reply,
)
from ..exceptions import (
    ConnectionFailed,
    ObjectCorrupted,
    ProtocolError,
    UnsupportedVersion,
    VineyardError,
)

__all__ = ["OLDEST_SERVER", "Connection"]

log = logging.getLogger("vineyard_client.connection")

# The oldest release whose replies were recorded and tested.
OLDEST_SERVER = (0, 14, 8)

# Requests that are sent before the first reply is read. They, and the replies, must fit into the socket's buffers (208
# KiB each by default on Linux), or both ends wait for each other to read.
_PIPELINE = 64

Reply = TypeVar("Reply")

# No WeakSet: other threads may connect while one that forks walks through it.
_connections: Set[weakref.ref[Connection]] = set()


class _Turn:
    """The right to talk: one thread at a time, and no thread twice.

    A signal handler or a ``__del__`` method may call in the middle of another call of the same thread. An ordinary lock
    would make it wait for ever; here it is refused. The lock under it can be taken twice, so that there is no moment
    between taking it and remembering that.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._taken = False

    def take(self, *, wait: bool) -> bool:
        """Return whether it is this thread's turn now; not if it was already, or if it would have to wait."""
        if not self._lock.acquire(blocking=wait):
            return False
        if self._taken:
            self._lock.release()
            return False
        self._taken = True
        return True

    def give_back(self) -> None:
        """Let others talk."""
        self._taken = False
        self._lock.release()

    def __enter__(self) -> None:
        if not self.take(wait=True):
            raise ConnectionFailed(
                "A client was called in the middle of another call of the same thread.",
                "Do not use it in a signal handler or a __del__ method, or use another client there.",
            )

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.give_back()


class Connection:
    """A registered connection.

    Args:
        stream: connected and fresh; the connection owns it from here on, also when registering fails.
        timeout: seconds that each call may take; None is for ever.
        username: for a server that asks (``--htpasswd``).
        password: likewise.

    Raises:
        ConnectionFailed: the peer went away or refused the credentials.
        ProtocolError: the peer is not vineyardd.
        UnsupportedVersion: the server is older than this client knows.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        timeout: Optional[float],
        username: str = "",
        password: str = "",
    ) -> None:
        self._stream = stream
        self._pin_file: Optional[PinFile] = None
        self._timeout = timeout
        self._turn = _Turn()
        self._fds: Dict[int, OwnedFD] = {}
        self._pins: Dict[int, int] = {}
        self._inherited: Set[int] = set()
        self._dropped: Deque[int] = deque()
        self._retired = False
        self.pid = os.getpid()
        try:
            self.instance = self._register(username, password)
            _check_version(self.instance.version, stream.peer)
        except BaseException:
            self.close()
            raise
        _connections.add(weakref.ref(self, _connections.discard))

    def _register(self, username: str, password: str) -> InstanceReply:
        try:
            return self.call(Register(username, password))
        except ConnectionFailed as error:
            plainly = _not_let_in(self.peer, username, error)
            if plainly is None:
                raise
            raise plainly from error

    @property
    def endpoint(self) -> Optional[str]:
        """``host:port`` that the instance reports for other hosts; None if its RPC is off: it reports port 0 then."""
        reported = self.instance.rpc_endpoint
        return None if not reported or reported.endswith(":0") else reported

    @property
    def usable(self) -> bool:
        """Whether calls can go through: neither retired nor inherited from a parent process."""
        return not self._retired and self.pid == os.getpid()

    @property
    def timeout(self) -> Optional[float]:
        """Seconds that each call may take; None is for ever."""
        return self._timeout

    @property
    def peer(self) -> str:
        """The server's end, as a person would name it."""
        return self._stream.peer

    def __repr__(self) -> str:
        """Show peer, state and pins."""
        state = "usable" if self.usable else "retired" if self._retired else f"inherited from {self.pid}"
        return f"<Connection to {self.peer}, {state}, {len(self._pins)} pinned>"

    # ---- calls

    def call(self, request: Request[Reply]) -> Reply:
        """Send a request and return its reply.

        Raises:
            VineyardError: the server refused; the connection stays usable.
            ConnectionFailed: the peer is gone or too slow; the connection is retired.
            ProtocolError: the reply made no sense; the connection is retired.
        """
        reply: Reply = self.call_all(request)[0]
        return reply

    def call_all(self, *requests: Request[Any]) -> List[Any]:
        """Send requests together and return their replies: one wait for all of them.

        The server works through them in order, each of them whatever becomes of the others.

        Raises:
            VineyardError: the server refused one; the first refusal is raised when all replies are in.
            ConnectionFailed: as ``call``.
            ProtocolError: as ``call``.
        """
        return _raise_refusals(self.outcomes(*requests))

    def outcomes(self, *requests: Request[Any]) -> List[Any]:
        """Do as ``call_all``, but return a refusal in its place instead of raising it."""
        results: List[Any] = []
        try:
            with self._turn:
                for start in range(0, len(requests), _PIPELINE):
                    results += self._exchange(requests[start : start + _PIPELINE])
            return results
        finally:
            self._release_dropped()

    def _exchange(self, requests: Sequence[Request[Any]]) -> List[Any]:
        if not self.usable:
            raise ConnectionFailed(f"The connection to {self.peer} is closed.", "Connect anew.")
        deadline = Deadline(self._timeout)
        results: List[Any] = []
        try:
            self._stream.send(b"".join([encode_frame(request.message()) for request in requests]), deadline)
            for request in requests:
                reply = self._receive(deadline)
                try:
                    results.append(parse_reply(request, reply))
                except ProtocolError:
                    raise
                except VineyardError as refusal:
                    results.append(refusal)
        except ProtocolError as error:
            self._retire()
            # The layers below do not know whom they talk to.
            raise ProtocolError(f"{self.peer}: {error.what}", error.hint or _NOT_VINEYARD) from error
        except BaseException:
            self._retire()
            raise
        return results

    def _receive(self, deadline: Deadline) -> Message:
        """Take one reply and the fds behind it from the stream."""
        decoder = FrameDecoder()
        reply = None
        while reply is None:
            reply = decoder.receive(self._stream.receive(decoder.bytes_desired, deadline))
        for number in fds_announced(reply):
            fd = self._stream.receive_fd(deadline)
            stale = self._fds.pop(number, None)
            self._fds[number] = fd
            if stale:
                stale.close()
            if self._pin_file is None:
                self._pin_in(fd.fd)
        return reply

    def _pin_in(self, memory: int) -> None:
        """Hold pins, those that there are and those to come, on the store's memory, too."""
        self._pin_file = PinFile.of(memory)
        if self._pin_file is not None:
            for blob in self._pins:
                self._pin_file.hold(blob)
        elif self.endpoint:
            log.warning(
                "Readers at %s are protected by the server's marks alone, which clients of its RPC port can undo: the "
                "store's memory cannot be locked here. Mount /proc, and use a kernel with open file description locks.",
                self.peer,
            )

    # ---- memory

    def write(self, payload: Payload, chunks: Iterable[Union[bytes, memoryview]]) -> None:
        """Fill a blob with chunks that together have exactly its size.

        The bytes go from where they lie straight into the store's memory.
        """
        try:
            done = write_all(self.store_fd(payload), payload.offset, chunks)
        except OSError as error:
            raise ConnectionFailed(
                f"Writing {payload.size} bytes into the memory of {self.peer} failed: {error.strerror or error}.",
                "See whether the host has memory left for the store.",
            ) from error
        if done != payload.size:
            raise RuntimeError(f"{done} bytes were written into a blob of {payload.size}")

    def hold(self, blob: int) -> None:
        """Hold a blob by a lock; with the server's mark or without, it counts as in use."""
        with self._turn:
            self._hold(blob)

    def _hold(self, blob: int) -> None:
        count = self._pins.get(blob, 0)
        if not count and self._pin_file:
            self._pin_file.hold(blob)
        self._pins[blob] = count + 1

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
        with self._turn:
            return [mark or anybody or self._held(blob) for mark, blob in zip(marked, blobs)]

    def _held(self, blob: int) -> bool:
        return blob in self._pins or (self._pin_file is not None and self._pin_file.held_by_others(blob))

    @property
    def _marks_can_be_lost(self) -> bool:
        """Whether the server's marks are all that there is, and its RPC is on, whose clients undo them."""
        return self._pin_file is None and self.endpoint is not None

    def _open_pin_file(self, blobs: Sequence[int]) -> None:
        """Have the server send its memory, which comes with the place of any blob, where that decides something."""
        for blob in blobs[:1] if self._marks_can_be_lost else ():
            self.outcomes(GetBuffers([blob], unsealed=True), Release(blob))

    def pin(self, blob: int, then: Request[Reply]) -> Tuple[Optional[Payload], Reply]:
        """Mark a blob in use, then ask for something else; return the blob's place, None if it is gone, and the reply.

        Every place that is returned needs one ``unpin``, or ``map``, which takes the pin over.
        """
        pinned = False
        try:
            with self._turn:
                self._hold(blob)
                try:
                    if self._pin_file:
                        found, reply = _raise_refusals(self._exchange([GetBuffers([blob]), then]))
                    else:  # what is locked comes with the first blob, and is locked before anything else is asked
                        (found,) = _raise_refusals(self._exchange([GetBuffers([blob])]))
                        (reply,) = _raise_refusals(self._exchange([then]))
                    pinned = bool(found)
                finally:
                    if not pinned:
                        self._dropped.append(blob)
            return (found[0] if found else None), reply
        finally:
            self._release_dropped()

    def unpin(self, blob: int) -> None:
        """Give one pin back; with the last one of a blob its mark falls."""
        self._dropped.append(blob)
        self._release_dropped()

    def read(self, payload: Payload) -> bytearray:
        """Return a copy of a pinned blob."""
        try:
            return read_exact(self.store_fd(payload), payload.offset, payload.size)
        except OSError as error:
            raise ObjectCorrupted(f"The blob at {payload.offset}+{payload.size} of {self.peer} is short.") from error

    def holds(self, payload: Payload, chunks: Iterable[Union[bytes, memoryview]]) -> bool:
        """Tell whether chunks that together have the size of a pinned blob are what it holds, byte for byte."""
        try:
            return holds(self.store_fd(payload), payload.offset, chunks)
        except OSError as error:
            raise ObjectCorrupted(f"The blob at {payload.offset}+{payload.size} of {self.peer} is short.") from error

    def map(self, payload: Payload) -> memoryview:
        """Return a private, writable view of a pinned blob and take its pin over.

        The pin is given back when nothing refers to the view's memory any more.
        """
        return self._map(payload, lambda: self.unpin(payload.blob))

    def peek(self, payload: Payload) -> memoryview:
        """Return a view of a blob that this connection is writing; it shows what the store's memory holds."""
        return self._map(payload, lambda: None)

    def _map(self, payload: Payload, released: Callable[[], None]) -> memoryview:
        try:
            return map_private(self.store_fd(payload), payload.offset, payload.size, released)
        except OSError as error:
            raise ConnectionFailed(
                f"The system refused to map {payload.size} bytes of {self.peer}: {error.strerror}.",
                "Drop values that are no longer needed, or raise vm.max_map_count.",
            ) from error

    def write_at(self, payload: Payload, position: int, chunk: Union[bytes, memoryview]) -> None:
        """Write a piece of a blob; ``position`` is where in the blob it begins."""
        write_all(self.store_fd(payload), payload.offset + position, [chunk])

    def map_draft(self, payload: Payload) -> Tuple[memoryview, Callable[[], None]]:
        """Return a view of a blob that this connection is writing, which shares memory with the store, and its end.

        The view pins the blob. Calling the function makes the view private; see ``map_shared``.
        """
        self.hold(payload.blob)
        return map_shared(self.store_fd(payload), payload.offset, payload.size, lambda: self.unpin(payload.blob))

    @property
    def memory(self) -> Optional[int]:
        """The file descriptor of the store's memory, if the server has sent it; it stays this connection's."""
        return next((fd.fd for fd in self._fds.values()), None)

    def store_fd(self, payload: Payload) -> int:
        """Return the file descriptor behind a blob's memory; it stays this connection's."""
        try:
            return self._fds[payload.store_fd].fd
        except (KeyError, ValueError):
            self._retire()
            raise ProtocolError(
                f"{self.peer} placed a blob in memory {payload.store_fd}, whose file descriptor it never sent.",
                _NOT_VINEYARD,
            ) from None

    # ---- pins

    def _release_dropped(self) -> None:
        """Release the pins in the queue, unless another thread holds the lock: then that thread will do it."""
        while self._dropped and self._turn.take(wait=False):
            try:
                _raise_refusals(self._release_one(self._dropped.popleft()))
            except IndexError:
                pass  # another thread was faster between the check and the lock
            except VineyardError as error:
                # The mark is gone with the connection, or the blob with somebody else's forced delete.
                log.debug("releasing a pin on %s: %s", self.peer, error)
            finally:
                self._turn.give_back()

    def _release_one(self, blob: int) -> List[Any]:
        self._pins[blob] -= 1
        if self._pins[blob]:
            return []
        del self._pins[blob]
        if self._retired:
            self._retire()
        elif self.usable and blob not in self._inherited:
            if self._pin_file:
                self._pin_file.drop(blob)
            return self._exchange([Release(blob)])
        return []

    def _forked(self) -> None:
        """Remember, in the parent, which marks a child relies on."""
        self._inherited.update(self._pins)

    # ---- end

    def _retire(self) -> None:
        self._retired = True
        if not self._pins:
            self._stream.close()
            if self._pin_file:
                self._pin_file.close()
            fds, self._fds = self._fds, {}
            for fd in fds.values():
                fd.close()

    def close(self) -> None:
        """Take no more calls; the socket closes now, or with the last mapped view. Idempotent."""
        mine = self._turn.take(wait=True)
        try:
            self._retire()  # also from within a call of this thread, which fails then
        finally:
            if mine:
                self._turn.give_back()

    def abandon(self) -> None:
        """Close this process's copy of an inherited connection, unless inherited views need its marks.

        The lock is not taken: the thread that held it when the process forked does not exist here.
        """
        if self.pid != os.getpid():
            self._retire()

    def __del__(self) -> None:
        """Close what is left; by now no view refers to it."""
        if hasattr(self, "_pins"):
            self._pins.clear()
            self._retire()


_NOT_VINEYARD = "Check that the socket belongs to vineyardd and not to another program."


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


def _raise_refusals(results: List[Any]) -> List[Any]:
    for result in results:
        if isinstance(result, VineyardError):
            raise result
    return results


def _check_version(text: str, peer: str) -> None:
    try:
        version = tuple(int(part) for part in text.split(".")[:3])
    except ValueError:
        raise ProtocolError(f"{peer} calls its version {text!r}.", _NOT_VINEYARD) from None
    if version < OLDEST_SERVER:
        raise UnsupportedVersion(
            f"vineyardd at {peer} is {text}; this client needs {'.'.join(map(str, OLDEST_SERVER))} or newer.",
            "Upgrade the server (pip install --upgrade vineyard-bdist).",
        )


def _remember_pins() -> None:
    for reference in tuple(_connections):
        connection = reference()
        if connection is not None:
            connection._forked()


# Before and after: another thread may pin in between.
os.register_at_fork(before=_remember_pins, after_in_parent=_remember_pins)
