r"""The bytes of a stored value: header, index, pickle stream, buffers. This docstring is the format.

Layout versions 1 and 2. All integers are little-endian; nothing is compressed; padding is zero.

====== ======  =================================================================================
offset bytes   header (72 bytes)
====== ======  =================================================================================
0      8       magic ``VYVALUE\n``
8      2       layout version: 1, or 2 if a buffer lies in another blob
10     2       codec: 1 = restricted pickle protocol 5 (``pickle5``)
12     4       flags: bit 0 set when the checksum covers the pickle stream too; the others are zero
16     16      token: random, repeated in the metadata and in every reference to the value
32     8       total length of the blob
40     8       number of out-of-band buffers
48     8       offset of the pickle stream, which follows the index at once
56     8       length of the pickle stream
64     4       CRC-32 of the header (this field as zero), the index and, with flag bit 0, the stream
68     4       reserved: zero
====== ======  =================================================================================

The index follows: 24 bytes for each buffer: offset (8), length (8), flags (4: bit 0 = the value's own memory was
read-only), member (4: zero). Then the pickle stream, then the buffers in order, each starting at the next multiple of
64 after the end of what stands before it; the blob ends where the last buffer ends.

In layout version 2 at least one entry has a member above zero: that buffer is not in this blob, but in another one, at
the offset that the entry states. Which blobs these are, as number 1, 2, …, is said where the value is stored, in its
metadata (``_store.meta``). No two buffers overlap there, because who reads the value may change each of them without
the other. Such a value can be written as version 1 at any time (``flatten``), and is, wherever it leaves its store.

Positions in the blob itself are stated and can also be computed, and both must agree: so an index that overlaps, runs
backwards, leaves gaps or points outside is recognised without comparing every pair. Every number is checked against the
length of the blob before anything of that size is allocated. The checksum finds accidents before unpickling; it is no
defence against a writer who means harm, which is what ``pickle5`` is for. Streams above ``CRC_LIMIT`` are left out of
it, since the checksum would take longer than everything else; so are the buffers.

Pure functions over bytes: no pickling, no I/O.
"""

from __future__ import annotations

import binascii
import struct
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

from vineyard_client.exceptions import ObjectCorrupted, ObjectNotFound, UnsupportedVersion

__all__ = [
    "ALIGNMENT",
    "CRC_LIMIT",
    "HEADER_SIZE",
    "Chunk",
    "Layout",
    "assemble",
    "count_buffers",
    "flatten",
    "inspect",
    "parse",
]

Chunk = Union[bytes, memoryview]

MAGIC = b"VYVALUE\n"
LAYOUT_VERSION, LAYOUT_VERSION_SHARING = 1, 2
CODEC_PICKLE5 = 1
ALIGNMENT = 64
CRC_LIMIT = 1 << 20
TOKEN_SIZE = 16

_FLAG_CRC_COVERS_STREAM = 1
_FLAG_READONLY = 1
_HEADER = struct.Struct("<8sHHI16sQQQQII")
_ENTRY = struct.Struct("<QQII")
_CRC = struct.Struct("<I")
_CRC_OFFSET = 64
HEADER_SIZE = _HEADER.size

# Pieces up to this size are joined into one, so that a value of 10,000 tiny buffers is not 20,000 entries of an iovec.
_JOIN_BELOW = 2048
_ZEROS = bytes(ALIGNMENT)

_GET_AGAIN = "Have the task that made it run again; if it happens again, report how the value was made."


class Layout(NamedTuple):
    """Where the parts of a checked blob are: the stream, a private copy if it is not long, and views of the buffers."""

    stream: Chunk
    buffers: List[memoryview]


# Where a buffer lies that is not in the value's own blob: which of the others, counted from 1, and where in it.
Place = Tuple[int, int]

_NOWHERE: Mapping[int, Place] = {}


def _align(position: int) -> int:
    return (position + ALIGNMENT - 1) & -ALIGNMENT


def assemble(
    stream: Sequence[Chunk],
    buffers: Sequence[memoryview],
    token: bytes,
    elsewhere: Mapping[int, Place] = _NOWHERE,
) -> Tuple[List[Chunk], int]:
    """Lay out a pickle stream and its out-of-band buffers as one blob.

    Args:
        stream: the pieces of the pickle stream.
        buffers: flat views of bytes; they are not copied unless they are tiny.
        token: 16 bytes that tell this value from another under the same object id.
        elsewhere: the buffers, by their number in the sequence, that lie in other blobs.

    Returns:
        The pieces of the blob in order, and their summed length.
    """
    return _assemble(stream, buffers, [buffer.readonly for buffer in buffers], token, elsewhere)


def _assemble(
    stream: Sequence[Chunk],
    buffers: Sequence[memoryview],
    readonly: Sequence[bool],
    token: bytes,
    elsewhere: Mapping[int, Place] = _NOWHERE,
) -> Tuple[List[Chunk], int]:
    if len(token) != TOKEN_SIZE:
        raise ValueError(f"a token has {TOKEN_SIZE} bytes, this one {len(token)}")
    stream_offset = HEADER_SIZE + _ENTRY.size * len(buffers)
    stream_length = sum([len(piece) for piece in stream])
    position = stream_offset + stream_length
    index = bytearray()
    body: List[Chunk] = []
    for number, buffer in enumerate(buffers):
        flags = _FLAG_READONLY if readonly[number] else 0
        if number in elsewhere:
            member, offset = elsewhere[number]
            index += _ENTRY.pack(offset, len(buffer), flags, member)
            continue
        start = _align(position)
        if start != position:
            body.append(_ZEROS[: start - position])
        position = start + len(buffer)
        index += _ENTRY.pack(start, len(buffer), flags, 0)
        body.append(buffer)
    covered = stream_length <= CRC_LIMIT
    fields = (
        MAGIC,
        LAYOUT_VERSION_SHARING if elsewhere else LAYOUT_VERSION,
        CODEC_PICKLE5,
        _FLAG_CRC_COVERS_STREAM if covered else 0,
        token,
        position,
        len(buffers),
        stream_offset,
        stream_length,
    )
    crc = binascii.crc32(index, binascii.crc32(_HEADER.pack(*fields, 0, 0)))
    if covered:
        for piece in stream:
            crc = binascii.crc32(piece, crc)
    return _join([_HEADER.pack(*fields, crc, 0), bytes(index), *stream, *body]), position


def _join(pieces: Sequence[Chunk]) -> List[Chunk]:
    """Copy runs of tiny pieces together; large ones stay the views they are."""
    joined: List[Chunk] = []
    run: List[Chunk] = []
    for piece in pieces:
        if len(piece) <= _JOIN_BELOW:
            run.append(piece)
            continue
        if run:
            joined.append(b"".join(run))
            run = []
        joined.append(piece)
    if run:
        joined.append(b"".join(run))
    return joined


def _corrupted(what: str) -> ObjectCorrupted:
    return ObjectCorrupted(f"The stored value is damaged: {what}.", _GET_AGAIN)


def count_buffers(prefix: memoryview) -> int:
    """Return the number of out-of-band buffers that the header states.

    Args:
        prefix: at least the first ``HEADER_SIZE`` bytes of the blob.

    Raises:
        ObjectCorrupted: too short, or no header of ours.
        UnsupportedVersion: written by another generation of this package.
    """
    return int(_header(prefix)[6])


def _header(blob: memoryview) -> Tuple[Any, ...]:
    if len(blob) < HEADER_SIZE:
        raise _corrupted(f"it has {len(blob)} bytes, fewer than a header")
    fields = _HEADER.unpack(blob[:HEADER_SIZE])
    if fields[0] != MAGIC:
        raise _corrupted("it does not begin as a value of this package does")
    if fields[1] not in (LAYOUT_VERSION, LAYOUT_VERSION_SHARING) or fields[2] != CODEC_PICKLE5:
        raise UnsupportedVersion(
            f"The stored value has layout {fields[1]} and codec {fields[2]}; this release reads the layouts "
            f"{LAYOUT_VERSION} and {LAYOUT_VERSION_SHARING} and codec {CODEC_PICKLE5}.",
            "Install the same release of vineyard-client where the value is written and where it is read.",
        )
    return fields


def parse(blob: memoryview, token: Optional[bytes], others: Sequence[memoryview] = ()) -> Layout:
    """Check a blob and find its parts.

    Args:
        blob: the whole blob as a flat view of bytes.
        token: the token in the reference that led here; None where no reference did.
        others: the blobs that have those of its buffers that it has not itself.

    Returns:
        The pickle stream, and views into ``blob`` and the others for the buffers. The stream is a private copy, since a
        hostile writer could change shared memory between a check and the use; of a long one ``verify`` copies what
        needs it.

    Raises:
        ObjectCorrupted: the bytes contradict each other or the checksum.
        ObjectNotFound: the blob is sound but holds another value.
        UnsupportedVersion: written by another generation of this package.
    """
    stream, buffers = inspect(blob, token, others)
    return Layout(bytes(stream) if len(stream) <= CRC_LIMIT else stream, buffers)


def flatten(blob: memoryview, others: Sequence[memoryview]) -> List[Chunk]:
    """Return the pieces of a value as layout version 1 has them, in which all buffers are in one blob.

    They are what the value would be had it been written without sharing, byte for byte.

    Raises:
        ObjectCorrupted: as ``parse``.
        UnsupportedVersion: likewise.
    """
    header = _header(blob)
    if header[1] == LAYOUT_VERSION and not others:
        return [blob]
    stream, buffers = inspect(blob, None, others)
    index = blob[HEADER_SIZE : HEADER_SIZE + _ENTRY.size * len(buffers)]
    readonly = [bool(flags & _FLAG_READONLY) for _, _, flags, _ in _ENTRY.iter_unpack(index)]
    return _assemble([stream], buffers, readonly, header[4])[0]


def inspect(
    blob: memoryview, token: Optional[bytes], others: Sequence[memoryview] = ()
) -> Tuple[memoryview, List[memoryview]]:
    """Check a blob as ``parse`` does, and return views of its stream and its buffers; nothing large is copied."""
    header = _header(blob)
    _, layout, _, flags, stored_token, total, count, stream_offset, stream_length, crc, reserved = header
    if total != len(blob):
        raise _corrupted(f"it states a length of {total} bytes and has {len(blob)}")
    if flags & ~_FLAG_CRC_COVERS_STREAM or reserved:
        raise _corrupted("it uses reserved fields")
    index_length = count * _ENTRY.size
    if stream_offset != HEADER_SIZE + index_length or stream_offset + stream_length > total:
        raise _corrupted("its index or its pickle stream would reach beyond its end")
    covered = stream_length <= CRC_LIMIT
    if bool(flags & _FLAG_CRC_COVERS_STREAM) != covered:
        raise _corrupted("its flags contradict its lengths")
    index = bytes(blob[HEADER_SIZE:stream_offset])
    stream = blob[stream_offset : stream_offset + stream_length]
    prefix = bytearray(_HEADER.pack(*header))
    _CRC.pack_into(prefix, _CRC_OFFSET, 0)
    computed = binascii.crc32(index, binascii.crc32(prefix))
    if covered:
        computed = binascii.crc32(stream, computed)
    if computed != crc:
        raise _corrupted("its checksum does not match")
    if token is not None and stored_token != token:
        raise ObjectNotFound(
            "Another object has its place: the value found under this id has another token than the reference.",
            "The object was deleted or its server restarted since; have the task that made it run again.",
        )
    buffers: List[memoryview] = []
    elsewhere: List[Tuple[int, int, int]] = []
    position = stream_offset + stream_length
    for start, length, buffer_flags, member in _ENTRY.iter_unpack(index):
        if member and (layout == LAYOUT_VERSION or buffer_flags & ~_FLAG_READONLY):
            raise _corrupted("it uses reserved fields")
        if member:
            if member > len(others) or start + length > len(others[member - 1]):
                raise _corrupted(f"buffer {len(buffers)} is not in any of the {len(others)} other blobs that it has")
            elsewhere.append((member, start, start + length))
            buffer = others[member - 1][start : start + length]
        else:
            if start != _align(position) or start + length > total or buffer_flags & ~_FLAG_READONLY:
                raise _corrupted(f"buffer {len(buffers)} is not where its neighbours leave room for it")
            position = start + length
            buffer = blob[start:position]
        buffers.append(buffer.toreadonly() if buffer_flags & _FLAG_READONLY else buffer)
    if position != total:
        raise _corrupted(f"{total - position} bytes follow its last buffer")
    _check_members(layout, len(others), elsewhere)
    return stream, buffers


def _check_members(layout: int, others: int, elsewhere: List[Tuple[int, int, int]]) -> None:
    """Check that what lies in other blobs makes sense as a whole."""
    if {member for member, _, _ in elsewhere} != set(range(1, others + 1)):
        raise _corrupted(f"it does not use each of the {others} other blobs that it has")
    if layout == LAYOUT_VERSION_SHARING and not elsewhere:
        raise _corrupted("it has the layout of a value with buffers in other blobs, and none there")
    elsewhere.sort()
    for (member, _, end), (following, start, _) in zip(elsewhere, elsewhere[1:]):
        if member == following and start < end:
            raise _corrupted("two of its buffers overlap in another blob")
