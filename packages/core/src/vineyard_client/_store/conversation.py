"""A conversation with a vineyardd: who talks, how far an exchange has come, and which blobs are held for it.

Its invariants:

- Calls take turns; requests that go out together, their replies and the fds behind those are one *exchange*.
- An exchange is an object that exists before its first byte is sent. What has been sent and what has come is noted in
  it in steps that nothing can divide. So an exception from outside, as of a signal handler, loses nothing: the exchange
  stays, and whoever talks next finishes it first. What the server made for us is known as soon as its reply is there.
- A stream that broke, or a reply that makes no sense, *retires* the conversation: no call goes through it again.
- The server sends each store fd once per conversation, so the table of fds lives and dies with it.
- A blob is *held* twice: by the server's in-use mark, which belongs to its connection, and by a lock on the store's
  memory, because that mark can be lost (``_io.pinfile`` says how). Both know one hold per blob. Both fall when their
  descriptor closes. Therefore each hold keeps the conversation, which closes with its last reference.
- Holds are dropped by whoever has the last reference, in any thread, also in the middle of a call. A finalizer runs no
  Python code and waits for nothing: it puts the hold into a queue, and, if nobody talks at that moment, lets go of the
  lock and sends the request to drop the mark. Its reply is read by the next call.

Fork: the child inherits socket, fds and mappings, but must not talk. An inherited conversation only stays open as long
as the child has views that it holds, and so do the marks, whoever ends first. The parent takes no mark away that the
child relies on: it talks over a new conversation, which takes over what the parent's own views hold, and lets go of
the old one.
"""

from __future__ import annotations

import logging
import weakref
from collections import deque
from copy import copy
from functools import partial
from itertools import accumulate, chain, compress, cycle, islice, repeat
from typing import Any, Deque, Dict, Iterator, List, Optional, Set, Tuple, TypeVar, Union

from .._forks import everywhere, generation, in_child, in_parent
from .._io.deadline import Deadline
from .._io.fds import OwnedFD
from .._io.parting import telling
from .._io.pinfile import PinFile
from .._io.steps import Closers, chained, when_dropped
from .._io.stream import Stream
from .._io.turn import Turn
from .._io.unix import NoDescriptorLeft
from .._wire.framing import MAX_FRAME, FrameDecoder, Message, encode_frame
from .._wire.messages import GetBuffers, Payload, Release, Request, fds_announced, parse_reply
from ..exceptions import ConnectionFailed, DeadlineExceeded, ProtocolError, VineyardError

__all__ = ["NOT_VINEYARD", "Conversation", "Exchange", "Hold"]

log = logging.getLogger("vineyard_client.connection")

NOT_VINEYARD = "Check that the socket belongs to vineyardd and not to another program."

# Bytes of a request that the kernel takes at once, whatever else is on its way.
_SHORT = 4096

# Bytes of a reply that take long to be read once they are here, such as a listing of many objects.
_LONG = 1 << 16

# Requests to drop a mark whose replies nobody has read yet. All of them must fit into the socket's buffers (208 KiB
# each by default on Linux).
_UNREAD = 64

# Seconds that a call which an exception ended still gives the replies to what it has asked for.
_GRACE = 1.0

Error = TypeVar("Error", bound=VineyardError)

# No WeakSet: other threads may connect while one that forks walks through it.
_conversations: Set[weakref.ref[Conversation]] = set()


class Exchange:
    """Requests that go out together, and how far they have come.

    Attributes:
        requests: in their order.
        outcomes: for each reply that has come what it says, or the refusal; of the others nothing is known.
        alone: whether the first reply must not be lost, whatever happens: it names what only we can free.
        lasting: whether it is to be sent even if an exception came before its first byte was.
    """

    __slots__ = ("alone", "data", "lasting", "outcomes", "parts", "requests", "sent")

    def __init__(self, *requests: Request[Any], alone: bool = False, lasting: bool = False, sent: int = 0) -> None:
        self.requests = requests
        self.alone = alone
        self.lasting = lasting
        self.outcomes: List[Any] = []
        self.data = b"".join([encode_frame(request.message()) for request in requests])
        self.sent: Deque[int] = deque([sent])
        self.parts: List[_Parts] = []

    @property
    def begun(self) -> bool:
        """Whether anything of it is on its way."""
        return sum(self.sent) > 0

    @property
    def gone(self) -> bool:
        """Whether all of it is on its way."""
        return sum(self.sent) >= len(self.data)

    @property
    def done(self) -> bool:
        """Whether all replies are there."""
        return len(self.outcomes) == len(self.requests)

    @property
    def ends(self) -> List[int]:
        """Where in the data each request ends."""
        return list(accumulate(len(encode_frame(request.message())) for request in self.requests))

    def results(self) -> List[Any]:
        """Return the outcomes.

        Raises:
            VineyardError: the first refusal; a copy, see ``_alone``.
        """
        for outcome in self.outcomes:
            if isinstance(outcome, VineyardError):
                raise copy(outcome)
        return self.outcomes


class _Parts:
    """What has come of one reply."""

    __slots__ = ("bytes", "fds", "whole")

    def __init__(self) -> None:
        self.whole = False
        self.bytes: Deque[bytes] = deque()
        self.fds: List[OwnedFD] = []


class Hold:
    """A blob that is held, for as long as anything refers to this."""

    __slots__ = ("__weakref__", "blob", "conversation", "memory", "payload")

    def __init__(self, conversation: Conversation, blob: int) -> None:
        #: What it lives from: a conversation, or a hold of another one that has taken over.
        self.conversation: Union[Conversation, Hold] = conversation
        self.blob = blob
        #: Where it lies, and in which file, once it has been mapped.
        self.payload: Optional[Payload] = None
        self.memory: Optional[Tuple[int, int]] = None


class _Mark(weakref.ref):  # type: ignore[type-arg]
    """What a conversation knows of one of its holds.

    Attributes:
        blob: what is held.
        sent: how much of the request to drop the mark the finalizer has sent.
        parting: the finalizer that does, if the hold has one.
        release: that request and its reply.
    """

    blob = -1
    sent: Deque[int]
    parting: object = None
    release: Optional[Exchange] = None


class Conversation:
    """The state that all calls over one stream share.

    Args:
        stream: connected; the conversation owns it from here on.
        most: bytes that a reply may have.
    """

    def __init__(self, stream: Stream, most: int = MAX_FRAME) -> None:
        self.stream = stream
        self.most = most
        self.generation = generation()
        self.closed = False
        #: Whether a child has it, too, and relies on its marks.
        self.shared = False
        #: Why the store's memory could not be taken.
        self.no_memory: Optional[NoDescriptorLeft] = None
        #: Whether the server answers out of turn, so that it is asked only when it has answered.
        self.one_by_one = False
        #: Whether the server's RPC is on, whose clients undo its marks.
        self.rpc = False
        self.pin_file: Optional[PinFile] = None
        self.fds: Dict[int, OwnedFD] = {}
        self.turn = Turn(f"the connection to {stream.peer}")
        self._open: Deque[Exchange] = deque()
        self._marks: Dict[int, _Mark] = {}
        self._dropped: Deque[_Mark] = deque()
        # What lets finalizers send, while nobody talks: as many permits as replies may be left unread.
        self._permits: List[Iterator[bool]] = []
        self._closers = Closers()
        self._closers.add(stream.close)
        when_dropped(self, self._closers.run)
        _conversations.add(weakref.ref(self, _conversations.discard))

    @property
    def usable(self) -> bool:
        """Whether a call can go through: neither retired nor inherited from a parent process."""
        return not self.closed and self.generation == generation()

    @property
    def leaving(self) -> bool:
        """Whether calls that are under way may end here, but others belong elsewhere."""
        return self.shared or self.no_memory is not None

    @property
    def held(self) -> int:
        """How many blobs are held."""
        return sum(mark() is not None for mark in list(self._marks.values()))

    # ---- talking

    def run(self, exchange: Exchange, deadline: Deadline) -> None:
        """Bring an exchange to its end.

        Raises:
            ConnectionFailed: the peer is gone or too slow, or this conversation is over.
            ProtocolError: a reply made no sense.
        """
        try:
            self.turn.run(lambda: self.proceed(exchange, deadline), deadline)
        except VineyardError:
            raise
        except BaseException:
            self.recover()
            raise
        finally:
            self.release_dropped()

    def has(self, exchange: Exchange) -> bool:
        """Tell whether an exchange is on its way, or a lasting one will be; an exception may have come before that.

        What a broken connection did not take will not be: it is for another one to do, and is not tried here again.
        """
        if exchange.begun or not self.usable:
            exchange.lasting = exchange.lasting and exchange.begun
            return exchange.begun
        return exchange in list(self._open)

    def recover(self) -> None:
        """After an exception from outside: finish what it interrupted, if that is a matter of moments."""
        if self.usable:
            try:
                self.settle(Deadline(_GRACE))
            except VineyardError as error:
                log.debug("an interrupted call of %s was not finished: %s", self.stream.peer, error)

    def proceed(self, exchange: Exchange, deadline: Deadline) -> None:
        """Do as ``run``, for who has the turn."""
        try:
            self._ready()
            if exchange.alone and self._open:
                self._finish(deadline)
            self._open.append(exchange)
            self._finish(deadline)
        finally:
            self._permit()

    def settle(self, deadline: Deadline) -> None:
        """Bring what is on its way to its end; raises as ``run``.

        A conversation that was retired because the peer was too slow can be asked again.
        """
        self.turn.run(lambda: self._settle(deadline), deadline)

    def _settle(self, deadline: Deadline) -> None:
        self._permits.clear()
        try:
            self._forget_unsent()
            self._take_dropped()
            self._finish(deadline)
        finally:
            self._permit()

    def _ready(self) -> None:
        """Make sure that this conversation can be used, and see what has to go before what is to be sent now."""
        if not self.usable:
            raise ConnectionFailed(f"The connection to {self.stream.peer} is closed.", "Connect anew.")
        self._permits.clear()
        self._forget_unsent()
        self._take_dropped()

    def _forget_unsent(self) -> None:
        """Forget what an exception ended before its first byte was sent: nobody waits for it any more."""
        if self._open and not all(exchange.begun or exchange.lasting for exchange in self._open):
            self._open = deque(exchange for exchange in self._open if exchange.begun or exchange.lasting)

    def _finish(self, deadline: Deadline) -> None:
        try:
            while self._open:
                exchange = self._open[0]
                if self.one_by_one:
                    for number, end in enumerate(exchange.ends):
                        self._send(exchange, deadline, end)
                        self._receive(exchange, number, deadline)
                else:
                    self._send(exchange, deadline)
                    for follower in islice(self._open, 1, _UNREAD):
                        self._send(follower, deadline)
                    for number in range(len(exchange.requests)):
                        self._receive(exchange, number, deadline)
                for request, outcome in zip(exchange.requests, exchange.outcomes):
                    if isinstance(request, Release) and isinstance(outcome, VineyardError):
                        # The mark is gone with the blob, by somebody else's forced delete, or with the other of two
                        # connections that the server gave one number.
                        log.debug("releasing a pin on %s: %s", self.stream.peer, outcome)
                self._open.popleft()
        except ProtocolError as error:
            self.retire()
            # The layers below do not know whom they talk to.
            raise ProtocolError(f"{self.stream.peer}: {error.what}", error.hint or NOT_VINEYARD) from error
        except ConnectionFailed:
            self.retire()
            raise

    def _send(self, exchange: Exchange, deadline: Deadline, end: Optional[int] = None) -> None:
        data = exchange.data[:end]
        if sum(exchange.sent) >= len(data):
            return
        if len(data) <= _SHORT and not exchange.begun and self._open[0] is exchange:
            # Nothing else is unread, so what comes next is the reply to this.
            exchange.parts.append(_Parts())
            self.stream.ask(data, _HEAD, deadline, exchange.sent, exchange.parts[0].bytes)
        else:
            self.stream.send(memoryview(data)[sum(exchange.sent) :], deadline, exchange.sent)

    def _receive(self, exchange: Exchange, number: int, deadline: Deadline) -> None:
        """Take one reply and the fds behind it from the stream, or what is still missing of it."""
        if len(exchange.parts) == number:
            exchange.parts.append(_Parts())
        parts = exchange.parts[number]
        if parts.whole:
            return
        reply = self._message(parts.bytes, deadline)
        announced = fds_announced(reply)
        try:
            outcome = parse_reply(exchange.requests[number], reply)
        except ProtocolError:
            raise
        except VineyardError as refusal:
            outcome = _alone(refusal)
        if len(exchange.outcomes) == number:
            exchange.outcomes.append(outcome)  # before anything else can fail
        for index, store_fd in enumerate(announced):
            if len(parts.fds) == index:
                parts.fds.append(self.owned_fd())
            self._take_fd(store_fd, parts.fds[index], deadline)
        parts.whole = True

    def _message(self, box: Deque[bytes], deadline: Deadline) -> Message:
        decoder = FrameDecoder(self.most)
        message = None
        for piece in tuple(box):
            message = decoder.receive(piece)
        while message is None:
            piece = self.stream.receive(decoder.bytes_desired, deadline, box)
            if len(piece) < _LONG:
                message = decoder.receive(piece)
            else:
                with deadline.paused():
                    message = decoder.receive(piece)
        return message

    def owned_fd(self) -> OwnedFD:
        """Return an owner for a descriptor, which is closed with this conversation."""
        fd = OwnedFD()
        self._closers.add(fd.close)
        return fd

    def _take_fd(self, number: int, fd: OwnedFD, deadline: Deadline) -> None:
        if not fd.open and fd.message is None:
            try:
                fd = self.stream.receive_fd(deadline, fd)
            except NoDescriptorLeft as error:
                # In step, and with all ids known; but the server will not send it again.
                self.no_memory = _alone(error)
        if not fd.open:
            return
        stale = self.fds.get(number)
        self.fds[number] = fd
        if stale is not None and stale is not fd:
            stale.close()
        if self.pin_file is None:
            self._pin_in(fd)

    # ---- holding

    def _pin_in(self, memory: OwnedFD) -> None:
        """Hold blobs, those that are held and those to come, on the store's memory, too."""
        pin_file = PinFile.of(memory.fd, self.owned_fd())
        if pin_file is not None:
            for blob, mark in list(self._marks.items()):
                if mark() is not None:
                    pin_file.hold(blob)
        elif self.rpc:
            log.warning(
                "Readers at %s are protected by the server's marks alone, which clients of its RPC port can undo: the "
                "store's memory cannot be locked here. Mount /proc, and use a kernel with open file description locks.",
                self.stream.peer,
            )
        self.pin_file = pin_file

    def hold(self, blob: int) -> Hold:
        """Hold a blob, for who has the turn; the server's mark, if there is to be one, is the caller's to ask for."""
        self._take_dropped()
        mark = self._marks.get(blob)
        hold: Optional[Hold] = None if mark is None else mark()
        if hold is None:
            hold = Hold(self, blob)
            mark = _Mark(hold, self._dropped.append)
            mark.sent = deque()
            mark.blob = blob
            self._marks[blob] = mark
            if self.pin_file is not None:
                self.pin_file.hold(blob)
        return hold

    def let_go_promptly(self, hold: Hold) -> None:
        """Have a hold's finalizer tell the server, because nobody can say when the next call is."""
        mark = self._marks.get(hold.blob)
        if mark is None or mark.parting is not None or mark() is not hold or self.stream.fileno() < 0:
            return
        actions = [telling(self.stream.fileno(), encode_frame(Release(hold.blob).message()), mark.sent)]
        if self.pin_file is not None:
            actions.append(self.pin_file.dropping(hold.blob))
        mark.parting = weakref.ref(hold, chained(compress(actions, chain.from_iterable(self._permits))))

    def take_over(self, other: Conversation, deadline: Deadline) -> None:
        """Hold what this process holds through another conversation with the same server, and let that go.

        A child has the other one, too, and its marks stay for as long as the child needs them; ours are our own then.
        """
        if other.stream.place != self.stream.place:
            return
        for mark in list(other._marks.values()):
            hold = mark()
            if hold is None or hold.conversation is not other:
                continue
            mine = self.turn.run(partial(self.hold, hold.blob), deadline)
            asked = Exchange(GetBuffers([hold.blob], unsealed=True))
            self.run(asked, deadline)
            if asked.outcomes[0] and not isinstance(asked.outcomes[0], VineyardError):
                self.let_go_promptly(mine)
                hold.conversation = mine

    def holds(self, blob: int) -> bool:
        """Tell whether a blob is held through this conversation."""
        mark = self._marks.get(blob)
        return mark is not None and mark() is not None

    def release_dropped(self) -> None:
        """Tell the server of holds that went, unless another thread talks: then that, or the next call, does it."""
        if not self._dropped:
            return
        if self.usable:
            self.turn.run_now(self._release_dropped)
        elif self.generation == generation():
            self.turn.run_now(self._release_late)

    def _release_late(self) -> None:
        """Let go of the locks of holds that went after the marks; and close with the last of them."""
        while self._dropped:
            mark = self._dropped[0]
            if self._marks.get(mark.blob) is mark:
                if self.pin_file is not None and not self.shared and self.held:
                    self.pin_file.drop(mark.blob)
                self._marks.pop(mark.blob, None)
            self._dropped.popleft()
        if not self.held and not self.owed:
            self._closers.run()

    def _release_dropped(self) -> None:
        deadline = Deadline(0)
        try:
            self._ready()
            if len(self._open) > _UNREAD or (self.one_by_one and any(len(one.requests) > 1 for one in self._open)):
                return  # the next call reads what came
            try:
                for exchange in islice(self._open, _UNREAD):
                    self.stream.send(memoryview(exchange.data)[sum(exchange.sent) :], deadline, exchange.sent)
            except DeadlineExceeded:
                pass  # what is not on its way yet is sent by the next call
            except ConnectionFailed as error:
                self.retire()
                log.debug("the marks on %s fall with the connection: %s", self.stream.peer, error)
        finally:
            self._permit()

    def _take_dropped(self) -> None:
        """Make requests of the holds that went, in the order in which they did; may be interrupted anywhere."""
        while self._dropped:
            mark = self._dropped[0]
            current = self._marks.get(mark.blob) is mark
            told = bool(mark.sent) and mark.sent[0] > 0
            # What a finalizer has told is answered, also when a child has the marks since then.
            if told or (current and not self.shared):
                if current and not told and self.pin_file is not None:
                    self.pin_file.drop(mark.blob)
                if mark.release is None:
                    mark.release = Exchange(Release(mark.blob), lasting=True, sent=mark.sent[0] if told else 0)
                if not mark.release.done and all(exchange is not mark.release for exchange in self._open):
                    self._open.append(mark.release)
            if current:
                self._marks.pop(mark.blob, None)
            self._dropped.popleft()

    def _permit(self) -> None:
        """Let finalizers send again, if there is nothing that an unfinished exchange would come into disorder with."""
        if self.usable and not self.leaving and all(exchange.gone for exchange in self._open):
            self._permits[:] = [repeat(True, 2 * max(0, _UNREAD - len(self._open)))]
        elif self.closed and not self.shared and self.pin_file is not None and self.generation == generation():
            # Nobody is to be told any more, but the locks of what goes are to go: other views may stay for long.
            self._permits[:] = [cycle([False, True])]

    # ---- end

    def retire(self) -> None:
        """Take no more calls; close now, or with the last reference if views or unread replies need that."""
        self.closed = True
        self._permits.clear()
        self._permit()
        if not self.held and not self.owed:
            self._closers.run()

    @property
    def owed(self) -> bool:
        """Whether replies are to come that name what only we can free."""
        return any(exchange.alone and exchange.begun and not exchange.done for exchange in self._open)

    def close(self) -> None:
        """Do as ``retire``, when no other thread talks; from within a call of this thread at once, which fails then."""
        self.closed = True
        try:
            self.turn.run(self.retire, Deadline(_GRACE))
        except DeadlineExceeded:
            log.debug("a call hangs in %s: the connection closes when it ends", self.stream.peer)
        except ConnectionFailed:
            self.retire()

    def forked(self) -> None:
        """In a parent: leave the marks to the child, if it relies on any."""
        if self.held:
            self.shared = True
            self._permits.clear()

    def inherited(self) -> None:
        """In a child: never talk, and close at once if no view needs the marks."""
        self._permits.clear()
        if not self.held:
            self._closers.run()


def _alone(error: Error) -> Error:
    """Return an error without the frames that it came through, and without the one that was handled meanwhile.

    It is kept for long, and all callers with all that they hold would be kept with it.
    """
    error.__context__ = None
    return error.with_traceback(None)


# Bytes of a frame that say how long it is.
_HEAD = 8


in_parent(everywhere(_conversations, Conversation.forked))
in_child(everywhere(_conversations, Conversation.inherited))
