"""Which pages of a private mapping of a file this process has written to, as the kernel tells it.

``/proc/self/pagemap`` has eight bytes for each page (Linux, Documentation/admin-guide/mm/pagemap.rst). A page of a
private mapping of a file is either not there, or it is the file's own (bit 61), or it is a copy that was made because
somebody wrote to it, whoever that was and by whatever means: another thread, a system call, a debugger. A copy that was
swapped out counts as one. What a page says that is neither absent nor the file's own is taken for written.

All of that goes for a mapping that is still what it was. Whoever has the address can lay another one over a part of it,
or move it (man 2 mmap, MAP_FIXED; man 2 mremap), and its pages may then be absent or a file's, too. So what is mapped
is looked up as well, in ``/proc/self/maps``, and what is not the file any more is taken for written.

A process may read its pagemap, except one that is not dumpable and not root (man 2 prctl, PR_SET_DUMPABLE). Whether
the kernel says what it should is tried once, with a mapping of our own: a sandbox may show another system.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from functools import lru_cache
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from .fds import OwnedFD
from .mapping import address_of

__all__ = ["Range", "Stretch", "written"]

_PAGE = mmap.PAGESIZE

# A line of the table of mappings, if the mapping is private (man 5 proc_pid_maps).
_LINE = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ...p ([0-9a-f]+) ")

# The highest byte of an entry: bit 63 is present, 62 swapped, 61 of a file or shared.
_PRESENT_OR_SWAPPED, _OF_FILE = 0xC0, 0x20
_WRITTEN = bytes(bool(byte & _PRESENT_OR_SWAPPED and not byte & _OF_FILE) for byte in range(256))

# Bytes of the table that are read at a time: of 512 MiB of memory with pages of 4 KiB.
_AT_ONCE = 1 << 20

# Where a range of bytes begins, and how long it is.
Range = Tuple[int, int]


class Stretch(NamedTuple):
    """Memory that was mapped privately from a file.

    Attributes:
        address: where it begins.
        nbytes: its length, above zero.
        file: device and inode of the file.
        offset: where in the file it begins.
    """

    address: int
    nbytes: int
    file: Tuple[int, int]
    offset: int


def written(stretches: Sequence[Stretch]) -> Optional[List[List[Range]]]:
    """Return for each stretch of memory what of it may be something else than what the file has.

    Returns:
        For each stretch parts of it, from its own beginning: all pages that were written to, and no others; or all of
        it, where it is not a private mapping of that part of the file. None if the kernel does not tell.
    """
    if not sys.platform.startswith("linux"):
        return None
    table = OwnedFD()
    try:
        table.take(os.open, "/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        if not _tells_the_truth():
            return None
        found = [_written(table.fd, stretch.address, stretch.nbytes) for stretch in stretches]
        # Afterwards: what is there now was there when the table was read.
        mapped = _mapped({stretch.file for stretch in stretches})
    except OSError:
        return None
    finally:
        table.close()
    return [
        parts if _is_mapped(stretch, mapped[stretch.file]) else [(0, stretch.nbytes)]
        for stretch, parts in zip(stretches, found)
    ]


def _mapped(files: Iterable[Tuple[int, int]]) -> Dict[Tuple[int, int], List[Tuple[int, int, int]]]:
    """Return what is mapped privately of files: beginnings, ends and offsets in the file, in ascending order."""
    lines, found = _read("/proc/self/maps").splitlines(), {}
    for device, inode in files:
        name = f" {os.major(device):02x}:{os.minor(device):02x} {inode} ".encode()
        places = [_LINE.match(line) for line in lines if name in line]
        found[device, inode] = [(int(p[1], 16), int(p[2], 16), int(p[3], 16)) for p in places if p is not None]
    return found


def _read(path: str) -> bytes:
    file, pieces = OwnedFD(), [b""]
    try:
        file.take(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        while len(pieces) == 1 or pieces[-1]:
            pieces.append(os.read(file.fd, _AT_ONCE))
    finally:
        file.close()
    return b"".join(pieces)


def _is_mapped(stretch: Stretch, mapped: Sequence[Tuple[int, int, int]]) -> bool:
    reached, end = stretch.address, stretch.address + stretch.nbytes
    for low, high, at in mapped:
        if low <= reached < high and at + reached - low == stretch.offset + reached - stretch.address:
            reached = high
    return reached >= end


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
    """Map four pages of a file, read one, write to two of them, and see whether that is what is told.

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
            address, told = address_of(view), os.fstat(file.fd)
            stretch = Stretch(address, 4 * _PAGE, (told.st_dev, told.st_ino), 0)
            found = _is_mapped(stretch, _mapped([stretch.file])[stretch.file])
            read = view[0]
            before = _written(table.fd, address, 4 * _PAGE)
            view[_PAGE], view[3 * _PAGE] = 1, 2  # the first of them with what is there already
            after = _written(table.fd, address + 1, 4 * _PAGE - 1)
        return found and read == 1 and before == [] and after == [(_PAGE - 1, _PAGE), (3 * _PAGE - 1, _PAGE)]
    finally:
        file.close()
        table.close()
