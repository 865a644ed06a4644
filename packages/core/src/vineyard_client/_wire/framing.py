"""Frames: an 8-byte little-endian length, then that many bytes of JSON.

The decoder always says how many bytes it wants and must never be handed more: on the IPC socket a file descriptor
rides on one carrier byte right behind a reply, and a read past the reply's end would swallow it.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Dict, Optional

from ..exceptions import ProtocolError

__all__ = ["MAX_FRAME", "MAX_REMOTE_FRAME", "FrameDecoder", "encode_frame"]

_LENGTH = struct.Struct("<Q")
_text = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each message

# This is a security limit: what a peer can make us allocate with eight bytes. The largest honest reply is a listing of
# the whole store, about 1 KiB for each object; the server itself refuses requests above 256 MiB (MESSAGE_HEADER_LIMIT
# in socket_server.cc).
MAX_FRAME = 1 << 30

# The same for a peer on another host, which is trusted less: it is asked for the metadata of some hundred objects at
# most, which have bounds of their own, and may answer in as few bytes as it likes with JSON that takes thirty times as
# much in this process.
MAX_REMOTE_FRAME = 8 << 20

Message = Dict[str, Any]


def encode_frame(message: Message) -> bytes:
    """Return the bytes that carry one message."""
    body = _text(message).encode()
    return _LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Turn received bytes into messages, one frame at a time.

    Two states: reading the length, reading the body. ``receive`` returns None until a frame is whole; then it returns
    the message and the decoder stands at the start of the next frame.
    """

    def __init__(self, limit: int = MAX_FRAME) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._body: Optional[int] = None

    @property
    def bytes_desired(self) -> int:
        """How many bytes complete the current length or body; never read more than that."""
        whole = _LENGTH.size if self._body is None else self._body
        return whole - len(self._buffer)

    @property
    def idle(self) -> bool:
        """Whether the decoder stands between two frames."""
        return self._body is None and not self._buffer

    def receive(self, data: bytes) -> Optional[Message]:
        """Take bytes from the peer; return the message that they complete, or None when more are needed.

        Raises:
            ProtocolError: a length beyond the limit, a body that is no JSON object, or more bytes than were desired.
        """
        if len(data) > self.bytes_desired:
            raise ProtocolError(f"{len(data)} bytes were read where the frame had only {self.bytes_desired} left.")
        self._buffer += data
        if self.bytes_desired:
            return None
        if self._body is None:
            (self._body,) = _LENGTH.unpack(self._buffer)
            self._buffer.clear()
            if self._body > self._limit:
                raise ProtocolError(
                    f"The peer announced a message of {self._body} bytes, more than the limit of {self._limit}.",
                    "Check that the socket belongs to vineyardd and not to another program.",
                )
            if self._body:
                return None
        body, self._buffer, self._body = self._buffer, bytearray(), None
        try:
            message = json.loads(body.decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"The peer sent {len(body)} bytes that are not JSON: {error}.") from error
        if not isinstance(message, dict):
            raise ProtocolError(f"The peer sent a JSON {type(message).__name__} where an object was expected.")
        return message
