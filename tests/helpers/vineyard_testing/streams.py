"""Streams for tests: one that plays a script, one that fails at a chosen step. Both are ``_io.stream.Stream``."""

from __future__ import annotations

import json
import os
import struct
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Tuple, Union

from vineyard_client._io.deadline import Deadline
from vineyard_client._io.fds import OwnedFD
from vineyard_client._io.stream import Data, Stream
from vineyard_client.exceptions import ConnectionFailed, ProtocolError

REGISTERED = {
    "type": "register_reply",
    "version": "0.24.2",
    "instance_id": 0,
    "ipc_socket": "scripted",
    "rpc_endpoint": "scripted:0",
}


def frame(message: object) -> bytes:
    """Return a frame as the server would send it; written out, so that it does not depend on the code under test."""
    body = json.dumps(message).encode()
    return struct.pack("<Q", len(body)) + body


class Descriptor:
    """A step of a script: a file descriptor, of which the stream hands out a duplicate."""

    def __init__(self, fd: int) -> None:
        self.fd = fd


# A message becomes a frame; bytes go out as they are; an exception is raised; a callable runs when its turn comes.
Step = Union[Dict[str, Any], bytes, Descriptor, BaseException, Callable[[], None]]


class ScriptedStream:
    """Play replies in order, whatever is sent; past the end of the script the peer is gone.

    Attributes:
        sent: the messages that were sent.
        closed: whether ``close`` was called.
    """

    peer = "scripted"
    place = None

    def __init__(self, *steps: Step, registered: Optional[Dict[str, Any]] = REGISTERED) -> None:
        self.steps: List[Step] = [registered, *steps] if registered else list(steps)
        self.sent: List[Dict[str, Any]] = []
        self.closed = False
        self._pending = b""

    def expect(self, *steps: Step) -> None:
        """Append to the script."""
        self.steps += steps

    def send(self, data: Data, deadline: Deadline, sent: Optional[Deque[int]] = None) -> None:
        assert not self.closed, "send on a closed stream"
        if sent is not None:
            sent.append(len(data))
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            self.sent.append(json.loads(bytes(data[8 : 8 + length])))
            data = data[8 + length :]

    def ask(self, data: Data, nbytes: int, deadline: Deadline, sent: Deque[int], box: Deque[bytes]) -> None:
        self.send(data, deadline, sent)
        self.receive(nbytes, deadline, box)

    def receive(self, nbytes: int, deadline: Deadline, box: Optional[Deque[bytes]] = None) -> bytes:
        assert not self.closed, "receive on a closed stream"
        while len(self._pending) < nbytes:
            step = self._next()
            if isinstance(step, Descriptor):
                raise AssertionError("a file descriptor comes next, and nobody asked for it")
            self._pending += step if isinstance(step, bytes) else frame(step)
        data, self._pending = self._pending[:nbytes], self._pending[nbytes:]
        if box is not None:
            box.append(data)
        return data

    def receive_fd(self, deadline: Deadline, owner: Optional[OwnedFD] = None) -> OwnedFD:
        step = None if self._pending else self._next()
        if not isinstance(step, Descriptor):
            raise ProtocolError("The scripted peer announced a file descriptor and sent none.")
        return (owner or OwnedFD()).take(os.dup, step.fd)

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed = True

    def _next(self) -> Union[Dict[str, Any], bytes, Descriptor]:
        while self.steps:
            step = self.steps.pop(0)
            if isinstance(step, BaseException):
                raise step
            if not callable(step):
                return step
            step()
        raise ConnectionFailed("The scripted peer closed the connection.")


class WatchedStream:
    """Pass everything on to another stream, and call ``before`` and ``after`` around each step with its number.

    Whatever they raise, the caller of the stream gets; so they can break a conversation at any point, or end the
    process there.
    """

    def __init__(
        self,
        stream: Stream,
        before: Callable[[int, str], None] = lambda number, step: None,
        after: Callable[[int, str], None] = lambda number, step: None,
    ) -> None:
        self.stream = stream
        self.before = before
        self.after = after
        self.number = 0

    @property
    def peer(self) -> str:
        return self.stream.peer

    @property
    def place(self) -> Optional[Tuple[int, ...]]:
        return self.stream.place

    def send(self, data: Data, deadline: Deadline, sent: Optional[Deque[int]] = None) -> None:
        self._step("send", lambda: self.stream.send(data, deadline, sent))

    def ask(self, data: Data, nbytes: int, deadline: Deadline, sent: Deque[int], box: Deque[bytes]) -> None:
        self.send(data, deadline, sent)
        self.receive(nbytes, deadline, box)

    def receive(self, nbytes: int, deadline: Deadline, box: Optional[Deque[bytes]] = None) -> bytes:
        received: bytes = self._step("receive", lambda: self.stream.receive(nbytes, deadline, box))
        return received

    def receive_fd(self, deadline: Deadline, owner: Optional[OwnedFD] = None) -> OwnedFD:
        received: OwnedFD = self._step("receive_fd", lambda: self.stream.receive_fd(deadline, owner))
        return received

    def fileno(self) -> int:
        return self.stream.fileno()

    def close(self) -> object:
        return self.stream.close()

    def _step(self, name: str, run: Callable[[], Any]) -> Any:
        self.number += 1
        self.before(self.number, name)
        result = run()
        self.after(self.number, name)
        return result


def memory(*parts: Tuple[int, bytes], size: int = 1 << 16) -> int:
    """Return a new memory file of ``size`` bytes that has each part at its offset; the caller closes it."""
    fd = os.memfd_create("vineyard-testing") if hasattr(os, "memfd_create") else _temporary()
    os.truncate(fd, size)
    for offset, data in parts:
        os.pwrite(fd, data, offset)
    return fd


def _temporary() -> int:
    import tempfile

    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return fd


def payload(blob: int, offset: int, size: int, *, store_fd: int = 7, map_size: int = 1 << 16) -> Dict[str, Any]:
    """Return where a blob lies, as the server tells it."""
    return {
        "object_id": blob,
        "store_fd": store_fd,
        "data_offset": offset,
        "data_size": size,
        "map_size": map_size,
    }


def got_buffers(payloads: Iterable[Dict[str, Any]], fds: Iterable[int] = ()) -> Dict[str, Any]:
    """Return a reply to GetBuffers."""
    listed = list(payloads)
    numbered: Dict[str, Any] = {str(i): tree for i, tree in enumerate(listed)}
    return {"type": "get_buffers_reply", "num": len(listed), "fds": list(fds), "compress": False, **numbered}
