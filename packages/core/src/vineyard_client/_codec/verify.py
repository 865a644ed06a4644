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
* The bytes are a private copy, so nobody changes them between the check and the use.

Runs of short opcodes are matched by one regular expression (about as fast as unpickling them); the rest goes by a
table. The expression is compiled for streams that are worth it, since compiling takes longer than checking a small
value.
"""

from __future__ import annotations

import functools
import re
from typing import Dict, List, Pattern

from .adapters.common import damaged, refused

__all__ = ["verify"]

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


def verify(stream: bytes) -> None:
    """Refuse a pickle stream that holds anything but plain data and our own operations.

    Args:
        stream: a private copy of the whole stream.

    Raises:
        UnsafeType: an opcode that could run code.
        ObjectCorrupted: the stream is cut off, or its parts contradict each other.
    """
    if stream[:2] != _PROTOCOL:
        raise damaged("its pickle stream does not begin with protocol 5")
    end = len(stream)
    match = _runs().match if end >= _WORTH_COMPILING else None
    position = 2
    boundary = 0  # end of the current frame; 0 between frames
    while position < end:
        if position == boundary:
            boundary = 0
        limit = boundary or end
        if match is not None:
            run = match(stream, position, limit)
            if run is not None:
                position = run.end()
                continue
        opcode = stream[position]
        after = position + _SIZES[opcode]
        if after == position:
            width = _WIDTHS[opcode]
            if width:
                start = position + 1 + width
                after = start + int.from_bytes(stream[position + 1 : start], "little")
            elif opcode == _FRAME and not boundary:
                after = position + 9
                boundary = after + int.from_bytes(stream[position + 1 : after], "little")
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
            return
    raise damaged("its pickle stream has no end")
