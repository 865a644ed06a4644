"""What the codec's tests share: the round trip, blobs of our own making, addresses."""

from __future__ import annotations

import binascii
import ctypes
import struct
from typing import Any, List, Sequence, Tuple

from vineyard_client import _codec
from vineyard_client._codec import envelope, ops

TOKEN = bytes(range(16))


def blob(value: Any, allowed_classes: Sequence[str] = (), token: bytes = TOKEN, passive: bool = True) -> bytearray:
    """Encode a value and join its chunks, as a reader finds them."""
    encoded = _codec.encode(value, token=token, allowed_classes=allowed_classes, passive_classes=passive)
    joined = bytearray(b"".join(encoded.chunks))
    assert len(joined) == encoded.nbytes
    return joined


def decode(stored: Any, allowed_classes: Sequence[str] = (), token: bytes = TOKEN, passive: bool = True) -> Any:
    return _codec.decode(memoryview(stored), token=token, allowed_classes=allowed_classes, passive_classes=passive)


def roundtrip(value: Any, *allowed_classes: str, passive: bool = True) -> Any:
    """Write a value and read it back."""
    return decode(blob(value, allowed_classes, passive=passive), allowed_classes, passive=passive)


def blob_of(stream: bytes, buffers: Sequence[bytes] = ()) -> bytearray:
    """Lay out any pickle stream as a blob without fault: what somebody who knows the format could write."""
    chunks, _ = envelope.assemble([stream], [memoryview(buffer) for buffer in buffers], TOKEN)
    return bytearray(b"".join(chunks))


def address(view: Any) -> int:
    """Return where the memory of a writable buffer begins."""
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def inside(start: int, length: int, stored: bytearray) -> bool:
    """Tell whether a range of memory lies in a blob."""
    first = address(stored)
    return first <= start and start + length <= first + len(stored)


class Assembler:
    """Write pickle streams opcode by opcode, as an attacker would.

    Methods return self; ``finish`` adds protocol and end.
    """

    def __init__(self) -> None:
        self.code: List[bytes] = []

    def raw(self, code: bytes) -> Assembler:
        self.code.append(code)
        return self

    def text(self, text: str) -> Assembler:
        data = text.encode()
        return self.raw(b"X" + struct.pack("<I", len(data)) + data)

    def data(self, value: Any) -> Assembler:
        """Push plain data: None, numbers, text, bytes, tuples, lists, dicts."""
        if value is None:
            return self.raw(b"N")
        if isinstance(value, bool):
            return self.raw(b"\x88" if value else b"\x89")
        if isinstance(value, int):
            packed = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return self.raw(b"\x8a" + bytes([len(packed)]) + packed)
        if isinstance(value, float):
            return self.raw(b"G" + struct.pack(">d", value))
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.raw(b"B" + struct.pack("<I", len(value)) + value)
        if isinstance(value, (tuple, list)):
            self.raw(b"(" if isinstance(value, tuple) else b"](")
            for item in value:
                self.data(item)
            return self.raw(b"t" if isinstance(value, tuple) else b"e")
        if isinstance(value, dict):
            self.raw(b"}(")
            for key, item in value.items():
                self.data(key).data(item)
            return self.raw(b"u")
        if isinstance(value, Assembler):
            self.code += value.code
            return self
        raise TypeError(type(value))

    def named(self, module: str, name: str) -> Assembler:
        return self.text(module).text(name).raw(b"\x93")

    def call(self, operation: str, *arguments: Any) -> Assembler:
        """Apply one of our operations."""
        return self.named(ops.__name__, operation).data(tuple(arguments)).raw(b"R")

    def finish(self) -> bytes:
        return b"\x80\x05" + b"".join(self.code) + b"."


def pickled(*parts: Tuple[str, Any]) -> bytes:
    """Return a stream that applies one operation after another and returns the last result."""
    code = Assembler()
    for position, (operation, arguments) in enumerate(parts):
        if position:
            code.raw(b"0")
        code.call(operation, *arguments)
    return code.finish()


# The header of an envelope, its fields in order, and an entry of its index.
HEADER = struct.Struct("<8sHHI16sQQQQII")
FIELDS = [
    "magic",
    "layout",
    "codec",
    "flags",
    "token",
    "total",
    "buffers",
    "stream_offset",
    "stream_length",
    "crc",
    "reserved",
]
ENTRY = struct.Struct("<QQII")


def changed(stored: bytearray, **fields: int | bytes) -> bytearray:
    """Change header fields and make the checksum right again."""
    values = dict(zip(FIELDS, HEADER.unpack_from(stored)))
    values.update(fields)
    HEADER.pack_into(stored, 0, *values.values())
    return sealed(stored)


def sealed(stored: bytearray) -> bytearray:
    values = dict(zip(FIELDS, HEADER.unpack_from(stored)))
    end = values["stream_offset"] + (values["stream_length"] if values["flags"] & 1 else 0)
    covered = bytearray(stored[: min(end, len(stored))])
    covered[64:68] = bytes(4)
    struct.pack_into("<I", stored, 64, binascii.crc32(covered))
    return stored
