"""Large writes into the store's memory: by several threads where that is faster than the kernel's own copying.

``pwritev`` holds a lock of the file: whoever writes into the store of a host waits for all others, and one core does
the work. Copying into a shared mapping locks nothing, but pages have to be mapped, and of new ones the kernel makes
zeros first. So pages that were used before are mapped and filled by as many threads as there are processors; new
pages, small pieces and small values are written. Which pages are new the file itself tells (``SEEK_DATA``).

A mapping must not fail where writing would raise an error. So each piece, the value's memory as well as the store's, is
populated before it is touched (``MADV_POPULATE_READ``, Linux 5.14): where that is not possible, for want of memory or
because a file was cut short, or where the kernel does not know it, the piece is written after all, and the error is
what that says.

An exception of a signal handler may come while threads copy. Each of them refers to the mapping and to the memory that
it reads, so neither goes away under it. But the blob could be freed, and be another's. Therefore who frees it has to
``stop`` the threads first: they end with the pieces that they are at, a matter of milliseconds. In a child that was
forked meanwhile there are no such threads, and nothing is copied there.
"""

from __future__ import annotations

import _thread
import mmap
import os
import sys
import threading
from collections import deque
from functools import lru_cache, partial
from typing import Any, Deque, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from .._forks import generation, importing
from ..exceptions import ConnectionFailed
from .deadline import Deadline
from .mapping import flat, libc, map_for_filling, write_all
from .steps import keep_true, run_all

__all__ = ["LEAST", "Copying"]

# Bytes from which on threads are used. On processors that have nothing else to do they pay from some 4 MB on (mapping
# pages costs half as much as copying them). But where all are busy, the last one of the threads comes late by a turn of
# the scheduler, some milliseconds, and writing this much takes about ten.
LEAST = 32 << 20

# Bytes of a buffer, or of pages that were used before, below which it is not worth a piece of its own.
_LEAST_PIECE = 1 << 20

# Bytes that a thread copies at a time, while no signal handler can run. It has to wait for the interpreter between two
# pieces, for some milliseconds if another thread computes in Python.
_PIECE = 16 << 20

# Threads at most: one put is not to take all processors of a large host.
_MOST_THREADS = 4

# Questions to the file about which pages are new, before the rest counts as new.
_MOST_RUNS = 1000

# Seconds after which one who waits for threads looks whether they exist in this process.
_LOOK = 0.05

# asm-generic/mman-common.h.
_DONTNEED, _POPULATE_READ = 4, 22


class _Stretch(NamedTuple):
    """Bytes, and where in the file they go."""

    offset: int
    source: memoryview


class _Piece(NamedTuple):
    """What is copied at once: a stretch, and where in memory its two ends are."""

    stretch: _Stretch
    source_address: int
    address: int


class Copying:
    """One write, and the threads that are at it."""

    def __init__(self) -> None:
        self._generation = generation()
        self._pieces: Deque[_Piece] = deque()
        self._written: Deque[int] = deque()
        self._errors: Deque[BaseException] = deque()
        # A lock for each thread that was started, which it gives back as the last thing that it does; and one entry for
        # each of them that was taken since.
        self._helpers: List[threading.Lock] = []
        self._ended: Deque[bool] = deque()

    def write(self, fd: int, offset: int, chunks: Iterable[Union[bytes, memoryview]]) -> int:
        """Write chunks one behind the other into the store's memory, and return how many bytes that were.

        Raises:
            OSError: as ``write_all``.
            ConnectionFailed: this process is a child that was forked meanwhile.
        """
        views = [view for view in map(flat, chunks) if len(view)]
        threads = _threads()
        if threads < 2 or sum(map(len, views)) < LEAST:
            return write_all(fd, offset, views)
        to_copy, to_write = _divided(fd, offset, views)
        memory = self._map(fd, to_copy, threads)
        if memory is None:
            to_write += to_copy
        for _ in range(min(threads, len(self._pieces)) - 1):
            if not self._start(fd, memory):
                break
        for stretch in to_write:
            self._check()
            self._written.append(write_all(fd, stretch.offset, [stretch.source]))
        self._work(fd)
        self._wait(None)
        self._check()
        if self._errors:
            raise self._errors.popleft()
        return sum(self._written)

    def stop(self, seconds: float) -> bool:
        """Have threads that an exception left behind end, and return whether they have, after so many seconds."""
        self._pieces.clear()
        return self._wait(seconds)

    def _check(self) -> None:
        if generation() != self._generation:
            raise ConnectionFailed(
                "The process was forked while it wrote a value, and this is the child.",
                "The value is the parent's: end the child where it was forked.",
            )

    def _map(self, fd: int, to_copy: Sequence[_Stretch], threads: int) -> Optional[object]:
        """Map where stretches go, make pieces of them, and return what keeps the mapping; None if it cannot be had."""
        total = sum(len(stretch.source) for stretch in to_copy)
        if total < LEAST:
            return None
        start, end = to_copy[0].offset, to_copy[-1].offset + len(to_copy[-1].source)
        try:
            memory, address = map_for_filling(fd, start, end - start)
            sources = [_address(stretch.source) for stretch in to_copy]
        except (OSError, ImportError):  # no address space is left; or an interpreter without ctypes
            return None
        # Several for each thread, so that one that is held up does not hold up the others.
        size = min(_PIECE, max(_LEAST_PIECE, total // threads // 4)) // mmap.PAGESIZE * mmap.PAGESIZE
        for (offset, source), place in zip(to_copy, sources):
            for begin in range(0, len(source), size):
                stretch = _Stretch(offset + begin, source[begin : begin + size])
                self._pieces.append(_Piece(stretch, place + begin, address + stretch.offset - start))
        return memory

    def _start(self, fd: int, memory: object) -> bool:
        """Start a thread, and return whether that was possible."""
        lock = threading.Lock()
        lock.acquire()
        try:
            run_all(
                partial(_thread.start_new_thread, self._help, (fd, deque([memory]), lock)),
                partial(self._helpers.append, lock),
            )
        except RuntimeError:  # there may be no more of them, or none in this kind of interpreter
            return False
        return True

    def _help(self, fd: int, memory: Deque[object], lock: threading.Lock) -> None:
        try:
            self._work(fd)
        except BaseException as error:  # noqa: BLE001  # it is raised by who waits
            self._errors.append(error.with_traceback(None))
            self._pieces.clear()
        finally:
            memory.clear()
            lock.release()

    def _work(self, fd: int) -> None:
        """Copy pieces as long as there are any."""
        while self._pieces and generation() == self._generation:
            try:
                piece = self._pieces.popleft()
            except IndexError:  # another thread was faster
                return
            _copy(fd, piece)
            self._written.append(len(piece.stretch.source))

    def _wait(self, seconds: Optional[float]) -> bool:
        deadline = Deadline(seconds)
        while len(self._ended) < len(self._helpers) and generation() == self._generation:
            if deadline.expired:
                return False
            # Two may wait for the same one; who did not get it goes on to the next.
            keep_true(self._ended, self._helpers[len(self._ended)].acquire, True, _LOOK)
        return True


def _threads() -> int:
    """Return how many threads may copy at once; 1 where nothing is to be mapped."""
    if not sys.platform.startswith("linux"):
        return 1
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)))


def _used(fd: int, start: int, end: int) -> Iterator[Tuple[int, int]]:
    """Yield the stretches of a file that are not holes, from where to where."""
    for _ in range(_MOST_RUNS):
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:  # there are none any more, or this kind of file does not tell
            return
        if start >= end:
            return
        yield start, min(stop, end)
        start = stop


def _divided(fd: int, offset: int, views: Sequence[memoryview]) -> Tuple[List[_Stretch], List[_Stretch]]:
    """Return what is to be copied into pages that were used before, and what is to be written."""
    to_copy: List[_Stretch] = []
    to_write: List[_Stretch] = []
    used = list(_used(fd, offset, offset + sum(map(len, views))))
    for view in views:
        done = 0
        for begin, end in used if len(view) >= _LEAST_PIECE else ():
            begin, end = max(begin - offset, done), min(end - offset, len(view))
            if end - begin >= _LEAST_PIECE:
                if begin > done:
                    to_write.append(_Stretch(offset + done, view[done:begin]))
                to_copy.append(_Stretch(offset + begin, view[begin:end]))
                done = end
        if done < len(view):
            to_write.append(_Stretch(offset + done, view[done:]))
        offset += len(view)
    return to_copy, to_write


def _copy(fd: int, piece: _Piece) -> None:
    """Copy a piece.

    Raises:
        OSError: it can be neither copied nor written.
    """
    import ctypes

    stretch, source, address = piece
    nbytes = len(stretch.source)
    if _populate(source, nbytes) and _populate(address, nbytes):
        ctypes.memmove(address, source, nbytes)
        _advise(address, nbytes, _DONTNEED)  # by each thread its own: it takes a fifth of the time
    else:
        write_all(fd, stretch.offset, [stretch.source])


def _populate(address: int, nbytes: int) -> bool:
    return _advise(address, nbytes, _POPULATE_READ)


def _advise(address: int, nbytes: int, advice: int) -> bool:
    start = address - address % mmap.PAGESIZE
    return bool(libc().madvise(start, address + nbytes - start, advice) == 0)


@lru_cache(maxsize=1)
def _buffers() -> Tuple[Any, Any, Any]:
    """Return the two functions of CPython that tell where a buffer lies, and what they fill."""
    with importing:
        import ctypes

    class Buffer(ctypes.Structure):
        """``Py_buffer`` (docs.python.org/3/c-api/buffer.html), of which only the address is used."""

        _fields_ = [("address", ctypes.c_void_p), ("rest", ctypes.c_byte * 128)]

    python = ctypes.PyDLL(None)
    python.PyObject_GetBuffer.argtypes = [ctypes.py_object, ctypes.POINTER(Buffer), ctypes.c_int]
    python.PyBuffer_Release.argtypes = [ctypes.POINTER(Buffer)]
    return python.PyObject_GetBuffer, python.PyBuffer_Release, Buffer


def _address(view: memoryview) -> int:
    """Return where the bytes of a view lie, which stay there for as long as there is the view."""
    get, release, kind = _buffers()
    buffer = kind()
    run_all(partial(get, view, buffer, 0), partial(release, buffer))
    address: Optional[int] = buffer.address
    assert address is not None
    return address
