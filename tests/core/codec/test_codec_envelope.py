"""The bytes of a blob: what is written, and what each kind of damage becomes."""

from __future__ import annotations

import mmap
import struct

import pytest
from codec_support import ENTRY, FIELDS, HEADER, TOKEN, blob, changed, decode, sealed

from vineyard_client import _codec
from vineyard_client._codec import envelope
from vineyard_client.exceptions import ObjectCorrupted, ObjectNotFound, UnsupportedVersion, VineyardError


def laid_out(*sizes: int) -> bytearray:
    chunks, nbytes = envelope.assemble([b"stream"], [memoryview(bytes(size)) for size in sizes], TOKEN)
    joined = bytearray(b"".join(chunks))
    assert len(joined) == nbytes
    return joined


def test_the_layout_is_the_documented_one():
    stored = laid_out(100, 64, 1)
    header = dict(zip(FIELDS, HEADER.unpack_from(stored)))
    assert header["magic"] == b"VYVALUE\n" and header["token"] == TOKEN
    assert (header["layout"], header["codec"], header["flags"], header["reserved"]) == (1, 1, 1, 0)
    assert header["total"] == len(stored) and header["buffers"] == 3
    assert header["stream_offset"] == 72 + 3 * 24 and header["stream_length"] == 6
    entries = [ENTRY.unpack_from(stored, 72 + 24 * position) for position in range(3)]
    assert [entry[1:] for entry in entries] == [(100, 1, 0), (64, 1, 0), (1, 1, 0)]
    assert all(entry[0] % 64 == 0 for entry in entries)
    assert entries[-1][0] + 1 == len(stored)


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (64, 64), (63, 0, 65, 5000), (1,) * 500])
def test_parsing_finds_what_was_laid_out(sizes):
    stored = laid_out(*sizes)
    layout = envelope.parse(memoryview(stored), TOKEN)
    assert layout.stream == b"stream"
    assert [len(buffer) for buffer in layout.buffers] == list(sizes)
    assert envelope.count_buffers(memoryview(stored)[: envelope.HEADER_SIZE]) == len(sizes)


def test_the_read_only_flag_of_a_buffer_is_kept():
    chunks, _ = envelope.assemble([b"s"], [memoryview(bytes(5000)), memoryview(bytearray(5000))], TOKEN)
    layout = envelope.parse(memoryview(bytearray(b"".join(chunks))), TOKEN)
    assert [buffer.readonly for buffer in layout.buffers] == [True, False]


def test_large_pieces_are_handed_on_and_tiny_ones_joined():
    large, tiny = bytearray(100_000), [memoryview(bytes(10))] * 1000
    chunks, _ = envelope.assemble([b"s"], [memoryview(large), *tiny], TOKEN)
    assert len(chunks) < 10
    assert any(isinstance(chunk, memoryview) and chunk.obj is large for chunk in chunks)


DAMAGE = {
    "another magic": ({"magic": b"VYVALUE\r"}, ObjectCorrupted),
    "another layout": ({"layout": 3}, UnsupportedVersion),
    "another codec": ({"codec": 7}, UnsupportedVersion),
    "an unknown flag": ({"flags": 3}, ObjectCorrupted),
    "no checksum of a short stream": ({"flags": 0}, ObjectCorrupted),
    "a reserved field": ({"reserved": 1}, ObjectCorrupted),
    "a larger total": ({"total": 10**6}, ObjectCorrupted),
    "a smaller total": ({"total": 100}, ObjectCorrupted),
    "more buffers than bytes": ({"buffers": 2**63}, ObjectCorrupted),
    "fewer buffers": ({"buffers": 1}, ObjectCorrupted),
    "a stream elsewhere": ({"stream_offset": 72}, ObjectCorrupted),
    "a longer stream": ({"stream_length": 2**62}, ObjectCorrupted),
    "another token": ({"token": bytes(16)}, ObjectNotFound),
}


@pytest.mark.parametrize(("fields", "error"), [pytest.param(*case, id=name) for name, case in DAMAGE.items()])
def test_a_wrong_header_is_told_by_kind(fields, error):
    with pytest.raises(error) as caught:
        envelope.parse(memoryview(changed(laid_out(200, 200), **fields)), TOKEN)
    assert caught.value.hint


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_stream_that_ends_before_the_blob_is_damage(length):
    with pytest.raises(ObjectCorrupted, match="follow its last buffer"):
        envelope.parse(memoryview(changed(laid_out(), stream_length=length)), TOKEN)


INDEX = {
    "an overlap": (1, 0, lambda offset: offset - 64),
    "a gap": (1, 0, lambda offset: offset + 64),
    "not aligned": (1, 0, lambda offset: offset + 8),
    "into the header": (0, 0, lambda offset: 0),
    "beyond the end": (1, 8, lambda length: length + 1),
    "a length beyond everything": (1, 8, lambda length: 2**63),
    "an end that wraps around": (1, 8, lambda length: 2**64 - 64),
    "a shorter last buffer": (1, 8, lambda length: length - 1),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in INDEX.items()])
def test_a_hostile_index_is_damage(case):
    entry, field, change = case
    stored = laid_out(200, 200)
    place = 72 + 24 * entry + field
    struct.pack_into("<Q", stored, place, change(struct.unpack_from("<Q", stored, place)[0]))
    with pytest.raises(ObjectCorrupted, match=r"buffer|last"):
        envelope.parse(memoryview(sealed(stored)), TOKEN)


@pytest.mark.parametrize("field", [16, 20])
def test_reserved_bits_of_the_index_are_damage(field):
    stored = laid_out(200, 200)
    struct.pack_into("<I", stored, 72 + field, 8)
    with pytest.raises(ObjectCorrupted):
        envelope.parse(memoryview(sealed(stored)), TOKEN)


def test_a_blob_cut_anywhere_is_damage():
    stored = blob({"a": [1, 2, "b"], "c": bytearray(5000)})
    for length in [*range(0, 200), len(stored) // 2, len(stored) - 1]:
        with pytest.raises(ObjectCorrupted):
            decode(stored[:length])
    with pytest.raises(ObjectCorrupted):
        decode(stored + b"\x00")


def test_a_token_has_16_bytes():
    with pytest.raises(ValueError, match="16 bytes"):
        _codec.encode(1, token=b"short")


def test_a_large_stream_is_left_out_of_the_checksum_but_still_checked():
    stored = blob([f"text{number}" for number in range(200_000)])
    assert dict(zip(FIELDS, HEADER.unpack_from(stored)))["flags"] == 0
    assert decode(stored)[-1] == "text199999"
    stored[-1] = ord("Q")
    with pytest.raises(VineyardError):
        decode(stored)


def test_has_buffers_needs_the_header_only():
    small, large = blob({"a": 1}), blob(__import__("array").array("d", range(1000)))
    assert not _codec.has_buffers(memoryview(small)[: _codec.HEADER_SIZE])
    assert _codec.has_buffers(memoryview(large)[: _codec.HEADER_SIZE])
    with pytest.raises(ObjectCorrupted):
        _codec.has_buffers(memoryview(bytes(_codec.HEADER_SIZE)))
    with pytest.raises(ObjectCorrupted, match="fewer than a header"):
        _codec.has_buffers(memoryview(b"short"))


def test_check_tells_whose_blob_it_is():
    stored = blob([1])
    _codec.check(memoryview(stored), token=TOKEN)
    with pytest.raises(ObjectNotFound):
        _codec.check(memoryview(stored), token=bytes(16))


def test_ten_thousand_buffers():
    value = [memoryview(bytearray(2000 + number % 3)) for number in range(10_000)]
    encoded = _codec.encode(value, token=TOKEN)
    result = decode(bytearray(b"".join(encoded.chunks)))
    assert len(result) == 10_000 and [len(view) for view in result[:4]] == [2000, 2001, 2002, 2000]


@pytest.mark.skipif(struct.calcsize("P") < 8, reason="needs an address space")
def test_more_than_two_gigabytes():
    """Nothing is copied on the way in or out, so the memory need not exist: untouched pages cost nothing."""
    size = (2 << 30) + 4096
    memory = mmap.mmap(-1, size)
    encoded = _codec.encode([memoryview(memory), "end"], token=TOKEN)
    assert encoded.nbytes > size
    target = mmap.mmap(-1, encoded.nbytes)
    position = 0
    for chunk in encoded.chunks:
        if len(chunk) < size:
            target[position : position + len(chunk)] = bytes(chunk)
        position += len(chunk)
    view, end = decode(target)
    assert end == "end" and view.nbytes == size and view[-1] == 0
    view[-1] = 7
    assert target[position - 1] == 7
