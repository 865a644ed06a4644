"""Memory of the store in this process: mappings, plain reads and plain writes.

A mapping covers just the pages of one blob and is private: the kernel copies a page when somebody writes to it, so what
a caller does to a value never reaches the store or another reader.

Who unmaps, and when, decides whether Python can crash: not before the last object that shows the memory is really gone.
A weak reference or a ``__del__`` comes too early, because the garbage collector calls them while the other objects of a
cycle may still look at the memory, or come back to life. So the memory belongs to an ``mmap.mmap``, which unmaps when
it is deallocated. It is made anonymous, because with a file it would keep a duplicate of the store's fd, and thousands
of live values would use up the process's descriptors; then libc's mmap lays the blob over it.

What keeps the range from being used for something else, a pin, belongs to the mapping, as an attribute that is there
before the memory is. So there is no moment at which a view has memory and no pin. (A value that a ``__del__`` brings
back to life may have lost its pin to the garbage collector, but not its memory.)

Whoever is handed memory can ask whether it lies in such a mapping (``mapped``). One is forgotten before its memory
goes, never after; that a weak reference may come too early does no harm there.

Writing goes through ``pwritev``: no mapping, no page faults. Only who computes in place has a shared mapping, and that
turns into a private one where it is when the value is whole.
"""

from __future__ import annotations

import mmap
import os
import weakref
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, List, NamedTuple, Sequence, Tuple, Union

from .._forks import importing

if TYPE_CHECKING:
    import ctypes

__all__ = [
    "Mapped",
    "address_of",
    "holds",
    "map_private",
    "map_shared",
    "mapped",
    "preload",
    "read_exact",
    "write_all",
]

# MAP_NORESERVE: without it the kernel would set aside memory for a copy of every page that is never going to be written
# (man 2 mmap).
_PROT = mmap.PROT_READ | mmap.PROT_WRITE
_SHARED, _FIXED = mmap.MAP_SHARED, 0x10
_PRIVATE = mmap.MAP_PRIVATE | (0x4000 if os.uname().sysname == "Linux" else 0x40)

# The kernel takes 1024 pieces (IOV_MAX) and 2 GiB less a page in one call (man 2 writev, man 2 write).
_MAX_PIECES = 1024
_MAX_BYTES = 0x7FFFF000

# Bytes that are compared at a time: they stay in the processor's cache.
_COMPARED = 256 * 1024


def preload() -> None:
    """Import what the first mapping needs, ahead of it."""
    _libc()


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    with importing:
        import ctypes  # 3 ms that a process which only exchanges small values need not pay

    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    return libc


class _Mapping(mmap.mmap):
    """A mapping that keeps something alive for as long as it is there."""

    __slots__ = ("owner",)

    owner: object


def map_private(fd: int, offset: int, nbytes: int, owner: object) -> memoryview:
    """Map a range of a file, copy-on-write, and return it as a writable view of bytes.

    The mapping lives as long as anything refers to the view's memory; then it goes away, in whichever thread dropped
    the last reference, possibly in the middle of other code.

    Args:
        fd: may be closed once this returns.
        offset: where the range starts, in bytes; need not be the start of a page.
        nbytes: its length, above zero.
        owner: what the mapping keeps alive. Nothing that it has as a finalizer may wait, or run Python code.

    Raises:
        OSError: the kernel refused, as a rule for want of address space or mappings (vm.max_map_count).
    """
    view, (address, _, start) = _map(_PRIVATE, fd, offset, nbytes, owner)
    if owner is not None:
        address += offset - start
        mapping: Any = view.obj
        _mappings[address] = weakref.ref(mapping, partial(_mappings.pop, address)), nbytes
    return view


class Mapped(NamedTuple):
    """A mapping that ``map_private`` made and that is there for as long as this refers to it.

    Attributes:
        address: where its range begins.
        nbytes: length of that.
        owner: what the mapping keeps alive.
        mapping: the mapping itself.
    """

    address: int
    nbytes: int
    owner: object
    mapping: object


# By the addresses of their ranges. The finalizers run no Python code, and come before the memory can be another's.
_mappings: Dict[int, Tuple[weakref.ref[_Mapping], int]] = {}


def mapped() -> List[Mapped]:
    """Return the mappings that have an owner and are there, by their addresses."""
    found = []
    # Copied in one step: while items are made, the garbage collector may run and take some away.
    for address, (reference, nbytes) in sorted(_mappings.copy().items()):
        mapping = reference()
        if mapping is not None:
            found.append(Mapped(address, nbytes, mapping.owner, mapping))
    return found


def address_of(view: memoryview) -> int:
    """Return where the memory of a view begins that is C-contiguous and not empty, read-only or not."""
    return _reader_of_addresses()(view)


@lru_cache(maxsize=1)
def _reader_of_addresses() -> Callable[[memoryview], int]:
    with importing:
        import ctypes

    # Of the stable interface, and in one step: nothing holds the view when it returns.
    function = ctypes.PyDLL(None).PyObject_AsReadBuffer
    function.argtypes = [ctypes.py_object, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_ssize_t)]

    def read(view: memoryview) -> int:
        address, length = ctypes.c_void_p(), ctypes.c_ssize_t()
        function(view, ctypes.byref(address), ctypes.byref(length))
        return address.value or 0

    return read


def map_shared(fd: int, offset: int, nbytes: int, owner: object) -> Tuple[memoryview, Callable[..., None]]:
    """Map a range of a file so that writes reach the file, and return a view and a function that ends that.

    The function makes the mapping private where it is: the view, and whatever refers to its memory, stay valid and
    writable, but from then on writes reach nobody. It must be called before the range may be read by others or used for
    anything else, and while ``fd`` is open. With ``copy=True`` the view has memory of its own from then on, and shows
    nothing that is written to the file later, as by a child process that was forked meanwhile and still shares it. For
    the rest see ``map_private``.
    """
    view, (address, length, start) = _map(_SHARED, fd, offset, nbytes, owner)

    def detach(*, copy: bool = False) -> None:
        if copy:
            saved = bytes(view)
            _overlay(address, length, _PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
            view[:] = saved
        else:
            _overlay(address, length, _PRIVATE, fd, start)

    return view, detach


def _map(flags: int, fd: int, offset: int, nbytes: int, owner: object) -> Tuple[memoryview, Tuple[int, int, int]]:
    _libc()  # before anything is mapped: this may import
    import ctypes

    start = offset - offset % mmap.ALLOCATIONGRANULARITY
    length = offset - start + nbytes
    mapping = _Mapping(-1, length, _PRIVATE | mmap.MAP_ANONYMOUS, _PROT)
    mapping.owner = owner
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    _overlay(address, length, flags, fd, start)
    return memoryview(mapping)[offset - start :], (address, length, start)


def _overlay(address: int, length: int, flags: int, fd: int, start: int) -> None:
    import ctypes

    if _libc().mmap(address, length, _PROT, flags | _FIXED, fd, start) != address:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def read_exact(fd: int, offset: int, nbytes: int) -> bytearray:
    """Return a copy of a range of a file.

    Raises:
        OSError: the file is shorter than that.
    """
    data = bytearray(nbytes)
    _read_into(memoryview(data), fd, offset)
    return data


def _read_into(view: memoryview, fd: int, offset: int) -> None:
    done, nbytes = 0, len(view)
    while done < nbytes:
        count = os.preadv(fd, [view[done : done + _MAX_BYTES]], offset + done)
        if not count:
            raise OSError(f"The store's memory ends {nbytes - done} bytes early.")
        done += count


def holds(fd: int, offset: int, chunks: Iterable[Union[bytes, memoryview]]) -> bool:
    """Tell whether a range of a file is the same, byte for byte, as chunks one behind the other.

    Raises:
        OSError: the file is shorter than that.
    """
    data = bytearray()
    for batch in _batches(chunks):
        for view in batch:
            for begin in range(0, len(view), _COMPARED):
                piece = view[begin : begin + _COMPARED]
                if len(data) != len(piece):
                    data = bytearray(len(piece))
                _read_into(memoryview(data), fd, offset)
                # A bytearray compares with memcmp, two memoryviews would go byte by byte.
                if data != piece:
                    return False
                offset += len(piece)
    return True


def write_all(fd: int, offset: int, chunks: Iterable[Union[bytes, memoryview]]) -> int:
    """Write chunks one behind the other into a file and return how many bytes that were.

    The chunks are handed to the kernel where they lie, without a copy in between.
    """
    start = offset
    for batch in _batches(chunks):
        offset += _write_batch(fd, offset, batch)
    return offset - start


def _batches(chunks: Iterable[Union[bytes, memoryview]]) -> Iterable[List[memoryview]]:
    batch: List[memoryview] = []
    total = 0
    for chunk in chunks:
        view = memoryview(chunk)
        if not view.nbytes:
            continue  # and a view with a zero in its shape cannot be cast
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        for begin in range(0, len(view), _MAX_BYTES):
            piece = view[begin : begin + _MAX_BYTES]
            if len(batch) == _MAX_PIECES or total + len(piece) > _MAX_BYTES:
                yield batch
                batch, total = [], 0
            batch.append(piece)
            total += len(piece)
    if batch:
        yield batch


def _write_batch(fd: int, offset: int, batch: Sequence[memoryview]) -> int:
    expected = sum(len(piece) for piece in batch)
    done = os.pwritev(fd, batch, offset)
    while done < expected:
        count = os.pwritev(fd, _after(batch, done), offset + done)
        if not count:
            raise OSError("The store's memory took no more bytes.")
        done += count
    return done


def _after(batch: Sequence[memoryview], skip: int) -> List[memoryview]:
    rest: List[memoryview] = []
    for piece in batch:
        if skip < len(piece):
            rest.append(piece[skip:])
        skip = max(0, skip - len(piece))
    return rest
