"""Check a pickle stream, opcode by opcode, before any of it runs.

The C unpickler lets a subclass decide what a name means (``find_class``), but not what happens to the objects
afterwards: ``BUILD`` sets attributes of whatever is on the stack (of a class as well, for everybody in the process) and
calls ``__setstate__`` of types which trust it with memory (``numpy.dtype``); ``NEWOBJ``, ``OBJ`` and ``INST`` call
classes; ``EXT*`` takes objects from a process-wide cache without asking; ``PUT`` with a large number allocates a memo
of that size. So the language is cut down first. What is left can build Python's own plain data, take buffers, name one
of ``ops`` and apply it: nothing else. Our writer needs no more.

Invariants:

* Everything not listed is refused; no opcode of protocols 0 to 3 that the protocol 5 pickler does not emit is listed.
* The unpickler and this check see the same opcodes. A frame may not begin inside a frame, and no opcode may straddle
  the end of one: the unpickler would drop the rest of the frame and go on behind it.
* Opcodes are checked in a private copy, so nobody changes them between the check and the use.

Runs of short opcodes are matched by one regular expression (about as fast as unpickling them); the rest goes by a
table. The expression is compiled for streams that are worth it, since compiling takes longer than checking a small
value.
"""

from __future__ import annotations

import functools
import io
import re
from typing import Dict, List, Pattern, Union

from .parts import damaged, refused

__all__ = ["Parts", "Stream", "verify"]

Stream = Union[bytes, memoryview]

# opcode -> how many bytes it takes in all, for those of a fixed length.
_FIXED: Dict[int, int] = {
    **dict.fromkeys(b"(.01N\x88\x89])}atesu\x8f\x90\x91\x93\x94\x85\x86\x87R\x97\x98", 1),
    **dict.fromkeys(b"Kh", 2),  # BININT1, BINGET
    **dict.fromkeys(b"M", 3),  # BININT2
    **dict.fromkeys(b"Jj", 5),  # BININT, LONG_BINGET
    **dict.fromkeys(b"G", 9),  # BINFLOAT
}
# opcode -> width of the length that follows it: text, bytes and long integers.
_COUNTED: Dict[int, int] = {
    **dict.fromkeys(b"\x8cC\x8a", 1),  # SHORT_BINUNICODE, SHORT_BINBYTES, LONG1
    **dict.fromkeys(b"XB\x8b", 4),  # BINUNICODE, BINBYTES, LONG4
    **dict.fromkeys(b"\x8d\x8e\x96", 8),  # BINUNICODE8, BINBYTES8, BYTEARRAY8
}
_FRAME = 0x95
_STOP = 0x2E
_PROTOCOL = b"\x80\x05"

_SIZES: List[int] = [_FIXED.get(opcode, 0) for opcode in range(256)]
_WIDTHS: List[int] = [_COUNTED.get(opcode, 0) for opcode in range(256)]

# Lengths that the expression knows; each costs time to compile, and longer text is rarer.
_LONGEST_TEXT = 40
_LONGEST_BYTES = 16
# The regular expression engine keeps a record per repetition until the match ends: this bounds its memory.
_RUN = 4000
# From here on the content of a text or bytes is not copied before it is used.
_LARGE = 64 * 1024
_WORTH_COMPILING = 8192


def _counted(opcodes: bytes, longest: int) -> bytes:
    lengths = b"|".join(re.escape(bytes([length])) + b".{%d}" % length for length in range(longest + 1))
    return b"[" + re.escape(opcodes) + b"](?:" + lengths + b")"


@functools.lru_cache(maxsize=1)
def _runs() -> Pattern[bytes]:
    """Return the expression that matches a run of short opcodes; each alternative is one opcode with its argument."""
    by_size: Dict[int, List[int]] = {}
    for opcode, size in _FIXED.items():
        if opcode != _STOP:
            by_size.setdefault(size, []).append(opcode)
    alternatives = [b"[" + re.escape(bytes(by_size.pop(1))) + b"]", _counted(b"\x8c", _LONGEST_TEXT)]
    alternatives += [b"[" + re.escape(bytes(group)) + b"].{%d}" % (size - 1) for size, group in by_size.items()]
    alternatives.append(_counted(b"C\x8a", _LONGEST_BYTES))
    return re.compile(b"(?s:(?:" + b"|".join(alternatives) + b"){1,%d})" % _RUN)


def verify(stream: Stream) -> Union[io.BytesIO, Parts]:
    """Refuse a pickle stream that holds anything but plain data and our own operations.

    Args:
        stream: the whole stream. Bytes are a private copy already; of a view, everything is copied but the content of
            large texts and bytes, which is data whoever changes it.

    Returns:
        A file for the unpickler, with what was checked, which ``getvalue`` returns whole.

    Raises:
        UnsafeType: an opcode that could run code.
        ObjectCorrupted: the stream is cut off, or its parts contradict each other.
    """
    if stream[:2] != _PROTOCOL:
        raise damaged("its pickle stream does not begin with protocol 5")
    if isinstance(stream, bytes):
        if not _check(stream, 2, False):
            raise damaged("its pickle stream has no end")
        return io.BytesIO(stream)
    return Parts(_private(stream))


def _check(code: bytes, position: int, in_frame: bool) -> bool:
    """Check whole opcodes from a position to the end; tell whether they end the stream."""
    end = len(code)
    match = _runs().match if end >= _WORTH_COMPILING else None
    boundary = end if in_frame else 0  # end of the current frame; 0 between frames
    while position < end:
        if position == boundary:
            boundary = 0
        limit = boundary or end
        if match is not None:
            run = match(code, position, limit)
            if run is not None:
                position = run.end()
                continue
        opcode = code[position]
        after = position + _SIZES[opcode]
        if after == position:
            width = _WIDTHS[opcode]
            if width:
                start = position + 1 + width
                after = start + int.from_bytes(code[position + 1 : start], "little")
            elif opcode == _FRAME and not boundary:
                after = position + 9
                boundary = after + int.from_bytes(code[position + 1 : after], "little")
                limit = end
                if boundary == after or boundary > end:
                    raise damaged("a frame of its pickle stream is empty or reaches beyond the end")
            else:
                raise refused(
                    f"its pickle stream has opcode 0x{opcode:02x} at byte {position}, which could run code and which "
                    "this package never writes",
                    f"opcode 0x{opcode:02x}",
                )
        if after > limit:
            raise damaged("its pickle stream is cut off, or an opcode reaches beyond its frame")
        position = after
        if opcode == _STOP:
            if position != end:
                raise damaged("its pickle stream goes on after its end")
            return True
    return False


def _private(view: memoryview) -> List[Union[bytes, memoryview]]:
    """Copy and check a long stream part by part: frames, single opcodes between them, and the content of large ones."""
    parts: List[Union[bytes, memoryview]] = [_PROTOCOL]
    position, end, ended = 2, len(view), False
    while position < end:
        if ended:
            raise damaged("its pickle stream goes on after its end")
        opcode = view[position]
        width = 8 if opcode == _FRAME else _WIDTHS[opcode]
        start = position + (1 + width if width else max(_SIZES[opcode], 1))
        head = bytes(view[position:start])
        length = int.from_bytes(head[1:], "little") if width else 0
        if len(head) != start - position or start + length > end:
            raise damaged("its pickle stream is cut off")
        if opcode == _FRAME and not length:
            raise damaged("a frame of its pickle stream is empty")
        parts.append(head)
        content = view[start : start + length]
        if opcode == _FRAME:
            frame = bytes(content)
            ended = _check(frame, 0, True)
            parts.append(frame)
        elif not width:
            ended = _check(head, 0, True)
        elif length:
            parts.append(content if length >= _LARGE else bytes(content))
        position = start + length
    if not ended:
        raise damaged("its pickle stream has no end")
    return parts


class Parts:
    """A file of parts, read in the pieces in which they were written, so that hardly anything is copied again."""

    def __init__(self, parts: List[Union[bytes, memoryview]]) -> None:
        self._whole = parts
        self._parts = parts[::-1]

    def getvalue(self) -> bytes:
        """Return everything, whatever has been read of it."""
        return b"".join(self._whole)

    def read(self, size: int) -> bytes:
        """Return the next bytes: a part as it is if it is wanted whole."""
        taken = []
        while size and self._parts:
            part = self._parts.pop()
            if len(part) > size:
                self._parts.append(part[size:])
                part = part[:size]
            size -= len(part)
            taken.append(part)
        if len(taken) == 1 and isinstance(taken[0], bytes):
            return taken[0]
        return b"".join(taken)

    def readinto(self, target: memoryview) -> int:
        """Fill a buffer, straight from the parts."""
        filled = 0
        while filled < len(target) and self._parts:
            part = self._parts.pop()
            room = len(target) - filled
            if len(part) > room:
                self._parts.append(memoryview(part)[room:])
                part = memoryview(part)[:room]
            target[filled : filled + len(part)] = part
            filled += len(part)
        return filled

    def readline(self) -> bytes:
        """Refuse; only opcodes that were refused before read lines."""
        raise damaged("its pickle stream holds lines")
