"""Which buffers of a value are plain numbers that somebody means to fill, and which say how the value is built.

Of a value that is made in place only the first kind may be left as it lies in memory, since any bytes are numbers.
Offsets, codes, masks, truth values and indexes are not: nobody can fill an index in place, and code in C trusts them.
"""

from __future__ import annotations

import sys
from typing import Any, Iterator, Sequence, Set, Tuple

from vineyard_client._forks import importing

from .envelope import Chunk

__all__ = ["left_to_fill"]

_KINDS = frozenset("iufcmM")


def left_to_fill(value: Any, chunks: Sequence[Chunk]) -> Set[int]:
    """Return which chunks of an encoded value (by position) are the memory of its plain numeric arrays.

    Args:
        value: an array, a frame or series, a tensor, a memoryview, or lists, tuples and dicts of such.
        chunks: what it was encoded as.
    """
    places = list(_memories(value, 0))
    found = set()
    for position, chunk in enumerate(chunks):
        if isinstance(chunk, memoryview) and not chunk.readonly and len(chunk):
            address = _address(chunk)
            if any(start <= address and address + len(chunk) <= end for start, end in places):
                found.add(position)
    return found


def _address(view: memoryview) -> int:
    with importing:
        import ctypes  # which most processes never need

    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def _memories(value: Any, depth: int) -> Iterator[Tuple[int, int]]:
    """Yield where the memory of each plain numeric array begins and ends."""
    numpy, pandas, torch = (sys.modules.get(name) for name in ("numpy", "pandas", "torch"))
    kind = type(value)
    if kind in (list, tuple, dict):
        for part in (value.values() if kind is dict else value) if depth < 100 else ():
            yield from _memories(part, depth + 1)
    elif kind is memoryview:
        if value.contiguous and value.nbytes and not value.readonly and value.format != "?":
            address = _address(value)
            yield address, address + value.nbytes
    elif numpy is not None and kind is numpy.ndarray:
        if value.dtype.kind in _KINDS and (value.flags.c_contiguous or value.flags.f_contiguous):
            address = value.__array_interface__["data"][0]
            yield address, address + value.nbytes
    elif pandas is not None and kind in (pandas.DataFrame, pandas.Series):
        for block in getattr(value._mgr, "blocks", ()):
            yield from _memories(_numbers(block.values), depth + 1)
    elif torch is not None and kind is torch.Tensor and value.dtype is not torch.bool and value.is_contiguous():
        yield value.data_ptr(), value.data_ptr() + value.numel() * value.element_size()


def _numbers(values: Any) -> Any:
    """Return the array behind a block of dates; other arrays of pandas have more than numbers."""
    if type(values).__name__ in ("DatetimeArray", "TimedeltaArray"):
        return getattr(values, "_ndarray", None)
    return values
