"""Frames: the same table drives encoder and decoder; whatever else comes is refused by name."""

from __future__ import annotations

import json
import struct
import tracemalloc
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vineyard_client._wire.framing import MAX_FRAME, FrameDecoder, encode_frame
from vineyard_client.exceptions import ProtocolError

TABLE = [
    ({}, b"\x02\0\0\0\0\0\0\0{}"),
    ({"type": "seal_request"}, b"\x17\0\0\0\0\0\0\0" + b'{"type":"seal_request"}'),
    ({"id": [1, (1 << 64) - 1], "deep": True}, b"\x2b\0\0\0\0\0\0\0" + b'{"id":[1,18446744073709551615],"deep":true}'),
    ({"é": None}, b"\x0f\0\0\0\0\0\0\0" + b'{"\\u00e9":null}'),
    ({"x": "y" * 300}, b"\x34\x01\0\0\0\0\0\0" + b'{"x":"' + b"y" * 300 + b'"}'),
]


def frame(body: bytes) -> bytes:
    return struct.pack("<Q", len(body)) + body


def feed(decoder: FrameDecoder, data: bytes, most: int = 1 << 30) -> List[Dict[str, Any]]:
    """Hand a decoder what it asks for, at most so many bytes at a time, and return the messages."""
    messages = []
    while data:
        count = min(decoder.bytes_desired, most, len(data))
        message = decoder.receive(data[:count])
        data = data[count:]
        if message is not None:
            messages.append(message)
    return messages


@pytest.mark.parametrize("message, data", TABLE)
def test_encode(message: Dict[str, Any], data: bytes) -> None:
    """A message is an 8-byte little-endian length and compact JSON in ASCII."""
    assert encode_frame(message) == data


@pytest.mark.parametrize("most", [1, 3, 1 << 30])
@pytest.mark.parametrize("message, data", TABLE)
def test_decode(message: Dict[str, Any], data: bytes, most: int) -> None:
    """A frame is decoded the same whole, byte by byte and in odd pieces, and leaves the decoder between two frames."""
    decoder = FrameDecoder()
    assert feed(decoder, data, most) == [message]
    assert decoder.idle and decoder.bytes_desired == 8


@pytest.mark.parametrize("message, data", TABLE)
def test_truncated(message: Dict[str, Any], data: bytes) -> None:
    """A part of a frame is no message and no error; the decoder says exactly how many bytes it lacks."""
    for end in range(len(data)):
        decoder = FrameDecoder()
        assert feed(decoder, data[:end]) == []
        assert decoder.bytes_desired == (8 - end if end < 8 else len(data) - end)
        assert decoder.idle is (end == 0)


@pytest.mark.parametrize("message, data", TABLE)
def test_trailing_data(message: Dict[str, Any], data: bytes) -> None:
    """Bytes past the frame's end are refused: a file descriptor may ride on them."""
    decoder = FrameDecoder()
    decoder.receive(data[:8])
    with pytest.raises(
        ProtocolError, match=f"{len(data) - 7} bytes were read where the frame had only {len(data) - 8} left"
    ):
        decoder.receive(data[8:] + b"x")
    with pytest.raises(ProtocolError, match="9 bytes were read where the frame had only 8 left"):
        FrameDecoder().receive(data[:9])


def test_frames_in_a_row() -> None:
    """One decoder reads any number of frames."""
    assert feed(FrameDecoder(), b"".join(data for _, data in TABLE * 3)) == [message for message, _ in TABLE * 3]


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 1 << 40, (1 << 64) - 1, struct.unpack("<Q", b"HTTP/1.1")[0]])
def test_hostile_length(length: int) -> None:
    """A length beyond the limit is refused as soon as it is read, and nothing is allocated for it."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            FrameDecoder().receive(struct.pack("<Q", length))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(caught.value) == (
        f"The peer announced a message of {length} bytes, more than the limit of {MAX_FRAME}. "
        "Check that the socket belongs to vineyardd and not to another program."
    )


def test_largest_length() -> None:
    """The limit itself is allowed, and an announced length allocates nothing before its bytes come."""
    decoder = FrameDecoder(limit=100)
    assert decoder.receive(struct.pack("<Q", 100)) is None
    assert decoder.bytes_desired == 100
    tracemalloc.start()
    try:
        assert FrameDecoder().receive(struct.pack("<Q", MAX_FRAME)) is None
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body, complaint",
    [
        (b"", "sent 0 bytes that are not JSON"),
        (b"hello", "sent 5 bytes that are not JSON"),
        (b'{"a":', "sent 5 bytes that are not JSON"),
        (b'{"a":1}}', "sent 8 bytes that are not JSON"),
        (b"\xff\xfe\xfd", "sent 3 bytes that are not JSON"),
        (b'{"a":"\xff"}', "that are not JSON"),
        (b"[" * 200_000, "that are not JSON"),
        (b"[1]", "sent a JSON list where an object was expected"),
        (b"null", "sent a JSON NoneType where an object was expected"),
        (b'"{}"', "sent a JSON str where an object was expected"),
        (b"1e5", "sent a JSON float where an object was expected"),
    ],
)
def test_bodies_that_are_no_object(body: bytes, complaint: str) -> None:
    """A body that is no JSON object is a ProtocolError that says what came."""
    with pytest.raises(ProtocolError, match=complaint):
        feed(FrameDecoder(), frame(body) if body else struct.pack("<Q", 0))


@given(st.binary(max_size=200), st.integers(1, 50), st.none() | st.binary(max_size=60))
def test_any_bytes(data: bytes, most: int, body: Optional[bytes]) -> None:
    """Whatever bytes come, in whatever pieces: messages, or a ProtocolError; never another error."""
    decoder = FrameDecoder()
    try:
        messages = feed(decoder, data if body is None else frame(body) + data, most)
    except ProtocolError:
        return
    assert all(isinstance(message, dict) for message in messages)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=10), json_values, max_size=5), st.integers(1, 20))
def test_any_message(message: Dict[str, Any], most: int) -> None:
    """Every message survives the wire, however it is cut."""
    assert feed(FrameDecoder(), encode_frame(message), most) == [message]
    assert json.loads(encode_frame(message)[8:]) == message
