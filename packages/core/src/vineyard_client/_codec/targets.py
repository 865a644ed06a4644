"""What the opcodes of a checked pickle stream act on: that it is nothing whose class has methods of the caller's.

REDUCE calls what is on the stack, APPEND and SETITEM ask it for a method, READONLY_BUFFER for its memory. ``verify``
does not know what lies there. As long as it can only be plain data and objects of known types, that does not matter;
objects of passive classes may have a ``__call__``, an ``append`` or a ``__getattribute__``, which must not run.

So a stream in which such a class shows up is walked through once more before the first object of it is made, with the
kind of each thing that would lie on the stack. Our writer calls operations only, and adds items only to lists, dicts
and sets that it made empty, to some containers of Python's, and to objects of classes that were allowed.
"""

from __future__ import annotations

from typing import Any, Dict, List

from . import ops
from .parts import damaged, refused

__all__ = ["check_targets"]

# Makers whose values get their items by opcodes.
_CONTAINERS = frozenset(["OrderedDict", "Counter", "defaultdict", "deque"])
_OPEN, _BUFFER = object(), object()  # what takes items; a buffer. Everything else is None, or one of these:


class _Operation(str):
    """An operation by its name; names of makers are plain texts, and tuples have their first item only."""


_MARK, _FRAME, _STOP = 0x28, 0x95, 0x2E
_WIDTHS = {**dict.fromkeys(b"\x8cC\x8a", 1), **dict.fromkeys(b"XB\x8b", 4), **dict.fromkeys(b"\x8d\x8e\x96", 8)}
_TEXTS = frozenset(b"\x8cX\x8d")
_SIZES = {**dict.fromkeys(b"KN\x88\x89MJG", 0), ord("K"): 1, ord("M"): 2, ord("J"): 4, ord("G"): 8}
_ITEMS = {**dict.fromkeys(b"as", 0), **dict.fromkeys(b"eu\x90", 1)}
_LONGEST_NAME = 200


def check_targets(code: bytes) -> None:
    """Refuse a stream that calls, or adds items to, anything but what our writer does.

    Args:
        code: a private copy of a whole stream that ``verify`` has let through.

    Raises:
        UnsafeType: it does.
        ObjectCorrupted: its parts contradict each other.
    """
    try:
        _walk(code)
    except IndexError:
        raise damaged("its pickle stream takes from an empty stack") from None
    except KeyError:
        raise damaged("its pickle stream takes what it did not remember") from None


def _walk(code: bytes) -> None:
    stack: List[Any] = []
    below: List[List[Any]] = []  # stacks below the marks
    memo: Dict[int, Any] = {}
    position = 2
    while True:
        opcode = code[position]
        position += 1
        width = _WIDTHS.get(opcode)
        if width is not None:
            start = position + width
            position = start + int.from_bytes(code[position:start], "little")
            text = opcode in _TEXTS and position - start <= _LONGEST_NAME
            stack.append(code[start:position].decode("utf-8", "surrogatepass") if text else None)
        elif opcode in _SIZES:
            position += _SIZES[opcode]
            stack.append(None)
        elif opcode == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        elif opcode == 0x68 or opcode == 0x6A:  # BINGET, LONG_BINGET
            after = position + (1 if opcode == 0x68 else 4)
            stack.append(memo[int.from_bytes(code[position:after], "little")])
            position = after
        elif opcode == _MARK:
            below.append(stack)
            stack = []
        elif opcode in b"]}\x8f":
            stack.append(_OPEN)
        elif opcode == 0x29:  # EMPTY_TUPLE
            stack.append(())
        elif opcode in b"\x85\x86\x87":
            length = opcode - 0x84
            first = stack[-length]
            del stack[-length:]
            stack.append((first,))
        elif opcode in b"t\x91":  # TUPLE, FROZENSET
            items, stack = stack, below.pop()
            stack.append(tuple(items[:1]) if opcode == 0x74 else None)
        elif opcode in _ITEMS:
            if _ITEMS[opcode]:
                stack = below.pop()
            else:
                del stack[-1 if opcode == 0x61 else -2 :]
            if stack[-1] is not _OPEN:
                raise refused("its pickle stream adds items to what takes none", f"opcode 0x{opcode:02x}")
        elif opcode == 0x93:  # STACK_GLOBAL
            name, module = stack.pop(), stack.pop()
            stack.append(_Operation(name) if type(name) is str and module == ops.__name__ else None)
        elif opcode == 0x52:  # REDUCE
            arguments, function = stack.pop(), stack.pop()
            if type(function) is not _Operation or type(arguments) is not tuple:
                raise refused("its pickle stream calls what is no operation", "opcode 0x52")
            stack.append(_result(function, arguments))
        elif opcode == 0x97:  # NEXT_BUFFER
            stack.append(_BUFFER)
        elif opcode == 0x98:  # READONLY_BUFFER
            if stack[-1] is not _BUFFER:
                raise refused("its pickle stream takes what is no buffer for one", "opcode 0x98")
        elif opcode == 0x30:  # POP
            if stack:
                stack.pop()
            else:
                stack = below.pop()
        elif opcode == 0x31:  # POP_MARK
            stack = below.pop()
        elif opcode == _FRAME:
            position += 8
        elif opcode == _STOP:
            return
        else:
            raise refused(f"its pickle stream has opcode 0x{opcode:02x}", f"opcode 0x{opcode:02x}")


def _result(function: str, arguments: Any) -> Any:
    """Return what an operation makes, as far as it matters here."""
    if function == "MAKE":
        return _OPEN if arguments and arguments[0] in _CONTAINERS else None
    return _OPEN if function in ("NEW", "CALL") else None
