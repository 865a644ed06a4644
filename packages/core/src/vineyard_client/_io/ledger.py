"""Records that all clients of a store on this host share, and that end with the store.

They stand in *the file behind the store's memory*, beyond the end of what the server uses of it. That file the server
hands to whoever is connected, so all have the same one, whoever they are and by whatever path they came; nobody can
remove or replace it; it takes no room on any disk, and needs no rights but those to the socket. A server that starts
anew has a new one. (``pinfile`` has its locks there for the same reasons.) ::

    0         what the server uses, and never anything of ours
    start     one page: the head, and marks
    +1 page   records, to the end of the file

A record is appended in one system call, which the kernel does as a whole and one after the other for all who do it at
once; that is all that who puts a value pays, and nobody waits for anybody.

So that the file does not grow for ever, whoever finds the records long *rewrites* them: it reads all up to some point
(``since``), appends in one piece what is left of them (the *base*), points the head to both, and gives the memory of
what was before back (MADV_REMOVE). Who is killed on the way leaves a base that no head points to: nobody reads it.
Only one rewrites at a time (a lock on one byte); others append meanwhile, behind ``since``.

Who reads looks at the head again afterwards: if it is another one, what was read may be gone, and is read anew.

Nobody who writes here is trusted: what is read is bounded, and what it means is for the reader to judge. Whoever could
do harm with it may write to the store's memory itself.

To append, each client opens the file anew (through /proc, as ``pinfile`` does). Who cannot can still read, and mark
that records are missing. On other systems there is no ledger.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import struct
import sys
import time
from contextlib import contextmanager, suppress
from typing import Any, Iterator, NamedTuple, Optional, Tuple
from zlib import crc32

from .deadline import Deadline
from .fds import OwnedFD
from .pinfile import LEDGER, lock_byte

__all__ = ["RECORD", "Ledger"]

log = logging.getLogger("vineyard_client.io")

#: Bytes of a record: a power of two, so that none lies in two pages, of which one may be had and the other not.
RECORD = 64

_PAGE = 4096

# Magic, where the base begins, its length, since when records count that are not in it, the writer's number; its CRC.
_HEAD = struct.Struct("<8sQQQq")
_CRC = struct.Struct("<I")
_MAGIC = b"vycledg1"

# Where in the first page the marks are.
_MARKS = {
    "missing": (512, struct.Struct("<?")),
    "foreign": (520, struct.Struct("<Q")),
    "looked": (528, struct.Struct("<d")),
}

# Bytes of records since the last time beyond which they are rewritten, if they are also more than the base.
_LONG = 1 << 20

# Bytes of records that are read at most: those of four million objects.
_MOST = 1 << 28

_POLL = 0.005


class _Head(NamedTuple):
    base: int
    length: int
    since: int
    number: int


class Ledger:
    """The records of one store, as one client has them.

    Args:
        file: open for appending, or not open; belongs to this object.
        memory: the file behind the store's memory; it stays the caller's.
        size: bytes that the server uses of it.
    """

    def __init__(self, file: OwnedFD, memory: OwnedFD, size: int) -> None:
        self._file = file
        self._memory = memory
        self._start = -(-size // _PAGE) * _PAGE
        #: About the size of the store.
        self.size = size

    @classmethod
    def of(cls, memory: OwnedFD, size: int, owner: Optional[OwnedFD] = None) -> Optional[Ledger]:
        """Return the ledger behind a store's memory; None where there is none.

        Args:
            memory: the file that the server sent; it stays the caller's.
            size: bytes that the server uses of it.
            owner: who owns ours from the moment when it is there; by default a new one.
        """
        if not sys.platform.startswith("linux") or not hasattr(mmap, "MADV_REMOVE"):
            return None
        owner = OwnedFD() if owner is None else owner
        try:
            owner.take(os.open, f"/proc/self/fd/{memory.fd}", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            log.debug("nothing can be appended to the ledger: %s", error.strerror)
        return cls(owner, memory, size)

    @property
    def begun(self) -> bool:
        """Whether somebody has begun it."""
        return self._head() is not None

    # ---- writing

    def append(self, record: bytes) -> None:
        """Append a record.

        Raises:
            OSError: there is no memory for it, or it cannot be written.
            ValueError: the file is not open.
        """
        if os.write(self._file.fd, record) != len(record):
            raise OSError("a record was cut off")

    @contextmanager
    def alone(self, deadline: Deadline) -> Iterator[bool]:
        """Be the only one who begins or rewrites it; yield whether that is so at the deadline."""
        file = OwnedFD()
        try:
            file.take(os.open, f"/proc/self/fd/{self._memory.fd}", os.O_RDWR | os.O_CLOEXEC)
            while not (mine := lock_byte(file.fd, LEDGER)) and not deadline.expired:
                time.sleep(_POLL)
            yield mine
        finally:
            file.close()

    def begin(self, base: bytes, number: int) -> None:
        """Begin it with these records; for who is alone.

        Raises:
            OSError: that is not possible.
        """
        # Makes the file so long that what is appended comes behind the head.
        os.pwrite(self._memory.fd, b"\0", self._start + _PAGE - 1)
        self._write_base(base, os.fstat(self._memory.fd).st_size, number)

    def rewrite(self, base: bytes, since: int, number: int) -> None:
        """Put these records in place of all up to a point; for who is alone.

        Raises:
            OSError: that is not possible; then all is as it was.
        """
        self._write_base(base, since, number)
        self._give_back(since)

    def _write_base(self, base: bytes, since: int, number: int) -> None:
        start = 0
        if base:
            self.append(base)
            start = os.lseek(self._file.fd, 0, os.SEEK_CUR) - len(base)
            if os.pread(self._file.fd, RECORD, start) != base[:RECORD]:  # another thread of ours came in between
                raise OSError("the base was not found again")
        head = _HEAD.pack(_MAGIC, start, len(base), since, number)
        os.pwrite(self._memory.fd, head + _CRC.pack(crc32(head)), self._start)

    def _give_back(self, last: int) -> None:
        """Give the memory of all records up to a point back; where that fails, who comes next does it."""
        first, last = self._start + _PAGE, last // _PAGE * _PAGE
        if last > first:
            with suppress(OSError, ValueError), mmap.mmap(self._memory.fd, last - first, offset=first) as memory:
                memory.madvise(mmap.MADV_REMOVE)

    # ---- reading

    def read(self) -> Optional[Tuple[bytes, bytes, int]]:
        """Return the base, what was appended since then, and where that ends; None if there is none that can be read.

        Raises:
            OSError: it cannot be read.
            ValueError: the store's memory is closed.
        """
        for _ in range(100):
            head = self._head()
            if head is None:
                return None
            end = self._end(head)
            base = _pread(self._memory.fd, head.length, head.base)
            since = self._since(head, end)
            if head == self._head():
                return base, since, end
        return None

    def recent(self) -> Optional[Tuple[int, bytes]]:
        """Return the number that the head has, and what was appended since then; None if that cannot be read.

        Raises:
            OSError: likewise.
        """
        for _ in range(100):
            head = self._head()
            if head is None:
                return None
            since = self._since(head, self._end(head))
            if head == self._head():
                return head.number, since
        return None

    def bounds(self) -> Tuple[int, int, bool]:
        """Return the number that the head has, how many records there are since then, and whether to rewrite them.

        Raises:
            OSError: it cannot be read.
        """
        head = self._head()
        if head is None:
            return 0, 0, False
        nbytes = max(0, self._end(head) - head.since - head.length)
        return head.number, nbytes // RECORD, nbytes > max(_LONG, head.length)

    def _end(self, head: _Head) -> int:
        end = head.since + max(0, os.fstat(self._memory.fd).st_size - head.since) // RECORD * RECORD
        based = not head.length or head.since <= head.base <= end - head.length
        if not based or end - head.since > _MOST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return end

    def _since(self, head: _Head, end: int) -> bytes:
        """Return what was appended since the base was read; it was appended itself, in the middle of that."""
        fd = self._memory.fd
        if not head.length:
            return _pread(fd, end - head.since, head.since)
        behind = head.base + head.length
        return _pread(fd, head.base - head.since, head.since) + _pread(fd, end - behind, behind)

    def _head(self) -> Optional[_Head]:
        for _ in range(10):
            data = os.pread(self._memory.fd, _HEAD.size + _CRC.size, self._start)
            if len(data) < _HEAD.size + _CRC.size or not any(data):
                return None
            if _CRC.unpack_from(data, _HEAD.size)[0] == crc32(data[: _HEAD.size]) and data.startswith(_MAGIC):
                return _Head(*_HEAD.unpack_from(data)[1:])
            time.sleep(0)  # it was being written
        return None

    # ---- marks

    def mark(self, name: str) -> Any:
        """Return what a mark says: ``missing``, ``foreign`` or ``looked``; nothing, if nobody has set it.

        Raises:
            OSError: it cannot be read.
            ValueError: the store's memory is closed.
        """
        place, form = _MARKS[name]
        return form.unpack(os.pread(self._memory.fd, form.size, self._start + place).ljust(form.size, b"\0"))[0]

    def set_mark(self, name: str, value: Any) -> None:
        """Set a mark, which everybody sees.

        Raises:
            OSError: it cannot be written.
            ValueError: the store's memory is closed.
        """
        place, form = _MARKS[name]
        os.pwrite(self._memory.fd, form.pack(value), self._start + place)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


def _pread(fd: int, length: int, offset: int) -> bytes:
    parts = []
    while length > 0:
        part = os.pread(fd, length, offset)
        if not part:
            break
        parts.append(part)
        length, offset = length - len(part), offset + len(part)
    return b"".join(parts)
