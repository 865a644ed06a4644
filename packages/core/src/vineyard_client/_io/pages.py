"""Which pages of a private mapping of a file this process has written to, as the kernel tells it.

``/proc/self/pagemap`` has eight bytes for each page (Linux, Documentation/admin-guide/mm/pagemap.rst). A page of a
private mapping of a file is either not there, or it is the file's own (bit 61), or it is a copy that was made because
somebody wrote to it, whoever that was and by whatever means: another thread, a system call, a debugger. A copy that was
swapped out counts as one. What a page says that is neither absent nor the file's own is taken for written.

A process may read that of itself, except one that is not dumpable and not root (man 2 prctl, PR_SET_DUMPABLE). Whether
the kernel says what it should is tried once, with a mapping of our own: a sandbox may show another system.
"""

from __future__ import annotations

import mmap
import os
import sys
from functools import lru_cache
from typing import List, Optional, Sequence, Tuple

from .fds import OwnedFD
from .mapping import address_of

__all__ = ["Range", "written"]

_PAGE = mmap.PAGESIZE

# The highest byte of an entry: bit 63 is present, 62 swapped, 61 of a file or shared.
_PRESENT_OR_SWAPPED, _OF_FILE = 0xC0, 0x20
_WRITTEN = bytes(bool(byte & _PRESENT_OR_SWAPPED and not byte & _OF_FILE) for byte in range(256))

# Bytes of the table that are read at a time: of 512 MiB of memory with pages of 4 KiB.
_AT_ONCE = 1 << 20

# Where a range of bytes begins, and how long it is.
Range = Tuple[int, int]


def written(ranges: Sequence[Range]) -> Optional[List[List[Range]]]:
    """Return for each range of memory what of it may have been written to since it was mapped.

    Args:
        ranges: address and length of each, all of them in private mappings of files.

    Returns:
        For each range parts of it, from its own beginning: all pages that were written to, and no others. None if the
        kernel does not tell.
    """
    if not sys.platform.startswith("linux"):
        return None
    table = OwnedFD()
    try:
        table.take(os.open, "/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        if not _tells_the_truth():
            return None
        return [_written(table.fd, address, nbytes) for address, nbytes in ranges]
    except OSError:
        return None
    finally:
        table.close()


def _written(table: int, address: int, nbytes: int) -> List[Range]:
    first, last = address // _PAGE, (address + nbytes - 1) // _PAGE
    found: List[Range] = []
    for begin in range(first, last + 1, _AT_ONCE // 8):
        count = min(_AT_ONCE // 8, last + 1 - begin)
        entries = os.pread(table, 8 * count, 8 * begin)
        if len(entries) != 8 * count:
            raise OSError("The table of pages is short.")
        pages = entries[7 if sys.byteorder == "little" else 0 :: 8].translate(_WRITTEN)
        start = pages.find(1)
        while start >= 0:
            end = pages.find(0, start)
            end = count if end < 0 else end
            low = max(0, (begin + start) * _PAGE - address)
            high = min(nbytes, (begin + end) * _PAGE - address)
            found.append((low, high - low))
            start = pages.find(1, end)
    return found


@lru_cache(maxsize=1)
def _tells_the_truth() -> bool:
    """Map four pages of a file, read one, write to two of them, and see whether these are what is told.

    Raises:
        OSError: that is not possible; it is tried again.
    """
    if not hasattr(os, "memfd_create"):
        return False
    file, table = OwnedFD(), OwnedFD()
    try:
        file.take(os.memfd_create, "vineyard_client.pages", os.MFD_CLOEXEC)
        table.take(os.open, "/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        os.pwrite(file.fd, b"\1" * 4 * _PAGE, 0)
        with mmap.mmap(file.fd, 4 * _PAGE, mmap.MAP_PRIVATE) as mapped, memoryview(mapped) as view:
            address = address_of(view)
            read = view[0]
            before = _written(table.fd, address, 4 * _PAGE)
            view[_PAGE], view[3 * _PAGE] = 1, 2  # the first of them with what is there already
            after = _written(table.fd, address + 1, 4 * _PAGE - 1)
        return read == 1 and before == [] and after == [(_PAGE - 1, _PAGE), (3 * _PAGE - 1, _PAGE)]
    finally:
        file.close()
        table.close()
