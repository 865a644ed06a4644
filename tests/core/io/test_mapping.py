"""Private mappings, plain reads and plain writes of a file that stands in for the store's memory."""

from __future__ import annotations

import array
import ctypes
import errno
import gc
import mmap
import os
import threading
import weakref
from typing import Callable, Iterator, List, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vineyard_testing.streams import memory

from vineyard_client._io import mapping
from vineyard_client._io.mapping import map_private, map_shared, read_exact, write_all

PAGE = mmap.ALLOCATIONGRANULARITY


nothing = None  # for mappings that keep nothing alive


@pytest.fixture
def file() -> Iterator[int]:
    """A file of four pages whose bytes are their offsets, modulo 251."""
    fd = memory((0, bytes(i % 251 for i in range(4 * PAGE))), size=4 * PAGE)
    yield fd
    os.close(fd)


class Released:
    """Count how many owners went."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


class Owner:
    """What a mapping keeps alive: it calls a function when it goes."""

    def __init__(self, released: Callable[[], object]) -> None:
        weakref.finalize(self, released).atexit = False


# ---- map_private


@pytest.mark.parametrize(
    "offset, nbytes", [(0, 1), (0, 4 * PAGE), (1, PAGE), (PAGE - 1, 2), (PAGE + 64, 2 * PAGE), (4 * PAGE - 1, 1)]
)
def test_map_shows_the_range(file: int, offset: int, nbytes: int) -> None:
    """A mapping shows exactly the range that was asked for, wherever it starts, as flat writable bytes."""
    view = map_private(file, offset, nbytes, nothing)
    assert bytes(view) == os.pread(file, nbytes, offset)
    assert (view.format, view.ndim, view.nbytes, view.readonly, view.contiguous) == ("B", 1, nbytes, False, True)


def test_writes_stay_private(file: int) -> None:
    """What is written into a mapping reaches neither the file nor another mapping of it."""
    before = os.pread(file, 4 * PAGE, 0)
    one, two = (map_private(file, 100, 2 * PAGE, nothing) for _ in range(2))
    one[:] = bytes(2 * PAGE)
    assert bytes(one) == bytes(2 * PAGE)
    assert bytes(two) == before[100 : 100 + 2 * PAGE]
    assert os.pread(file, 4 * PAGE, 0) == before


def test_a_mapping_needs_no_descriptor(file: int) -> None:
    """The file may be closed once it is mapped."""
    fd = os.dup(file)
    view = map_private(fd, 0, PAGE, nothing)
    os.close(fd)
    assert view[250] == 250


def test_released_with_the_last_view(file: int) -> None:
    """A mapping lives as long as any view of its memory, however small, and is released once."""
    released = Released()
    view = map_private(file, 0, PAGE, Owner(released))
    part = view[10:20].cast("B", (2, 5))
    last = memoryview(part)
    view.release()
    del view, part
    gc.collect()
    assert released.times == 0
    assert last.tolist() == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    last.release()
    del last
    gc.collect()
    assert released.times == 1


def test_released_through_other_exporters(file: int) -> None:
    """Objects that export the memory again, as arrays do, keep it too."""
    released = Released()
    array_ = (ctypes.c_uint16 * 8).from_buffer(map_private(file, 0, 16, Owner(released)))
    gc.collect()
    assert (released.times, array_[0]) == (0, 0x0100)
    del array_
    gc.collect()
    assert released.times == 1


def test_released_memory_is_unmapped(file: int) -> None:
    """With the mapping its address space goes."""

    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum("vineyard-testing" in line for line in maps)

    if not os.path.exists("/proc/self/maps"):
        pytest.skip("this system does not list a process's mappings")
    view = map_private(file, 0, PAGE, nothing)
    assert mapped() == 1
    del view
    gc.collect()
    assert mapped() == 0


def test_released_from_any_thread(file: int) -> None:
    """Whoever drops the last reference does the work."""
    released: List[int] = []
    views = [map_private(file, 0, PAGE, Owner(lambda: released.append(threading.get_ident())))]
    thread = threading.Thread(target=views.clear)
    thread.start()
    ident = thread.ident
    thread.join()
    assert released == [ident]


def test_thousands_of_mappings(file: int) -> None:
    """Mappings use no file descriptors, so thousands of values may live at once."""
    released = Released()
    before = os.dup(file)
    os.close(before)
    views = [map_private(file, i % (3 * PAGE), 1 + i % PAGE, Owner(released)) for i in range(5000)]
    after = os.dup(file)
    os.close(after)
    assert after == before
    assert all(view[0] == i % (3 * PAGE) % 251 for i, view in enumerate(views))
    del views
    gc.collect()
    assert released.times == 5000


def test_refused_by_the_system(file: int) -> None:
    """A mapping that the kernel refuses raises with the kernel's reason, and keeps nothing."""
    released = Released()
    with pytest.raises(OSError) as caught:
        map_private(file, 0, 1 << 60, Owner(released))
    assert caught.value.errno == errno.ENOMEM
    with pytest.raises(OSError) as caught:
        map_private(10_000_000, 0, PAGE, Owner(released))
    assert caught.value.errno == errno.EBADF
    del caught
    gc.collect()
    assert released.times == 2


# ---- map_shared


def test_shared_until_it_is_detached(file: int) -> None:
    """Writes into a shared mapping reach the file until it is detached, and only this mapping from then on."""
    released = Released()
    view, detach = map_shared(file, 100, PAGE, Owner(released))
    assert bytes(view) == os.pread(file, PAGE, 100)
    view[:3] = b"abc"
    assert os.pread(file, 3, 100) == b"abc"
    address = ctypes.addressof(ctypes.c_char.from_buffer(view))
    detach()
    view[:3] = b"xyz"
    assert bytes(view[:3]) == b"xyz" and os.pread(file, 3, 100) == b"abc"
    assert ctypes.addressof(ctypes.c_char.from_buffer(view)) == address
    assert bytes(view[3:]) == os.pread(file, PAGE - 3, 103)
    detach()  # once more shows the file again; a caller does it once
    assert bytes(view[:3]) == b"abc"
    del view, detach
    gc.collect()
    assert released.times == 1


def test_detached_with_a_copy(file: int) -> None:
    """Then the view shows nothing of what is written to the file later, as by a child that shares it."""
    view, detach = map_shared(file, 100, PAGE, nothing)
    view[:3] = b"abc"
    detach(copy=True)
    os.pwrite(file, b"xyz" + bytes(PAGE), 100)
    assert bytes(view[:4]) == b"abc" + bytes([103])
    view[:3] = b"ABC"
    assert os.pread(file, 3, 100) == b"xyz"


# ---- read_exact


@pytest.mark.parametrize("offset, nbytes", [(0, 0), (0, 1), (5, 3 * PAGE), (4 * PAGE, 0)])
def test_read_is_a_copy(file: int, offset: int, nbytes: int) -> None:
    """A read returns the caller's own bytes."""
    data = read_exact(file, offset, nbytes)
    assert isinstance(data, bytearray)
    assert bytes(data) == os.pread(file, nbytes, offset)
    data[:] = bytes(nbytes)
    assert os.pread(file, 1, 5) == b"\x05"


def test_read_past_the_end(file: int) -> None:
    """A file that is shorter than it should be is an error that says by how much."""
    with pytest.raises(OSError, match="The store's memory ends 10 bytes early"):
        read_exact(file, 4 * PAGE - 5, 15)


def test_read_in_pieces(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that the kernel cuts short goes on where it stopped."""
    monkeypatch.setattr(mapping, "_MAX_BYTES", 1000)
    assert bytes(read_exact(file, 7, 2 * PAGE)) == os.pread(file, 2 * PAGE, 7)


# ---- write_all


def written(chunks: Sequence[object], offset: int = 3) -> bytes:
    """Write chunks into a fresh file and return what is in it from the offset on."""
    fd = memory(size=0)
    try:
        total = write_all(fd, offset, chunks)  # type: ignore[arg-type]
        assert os.fstat(fd).st_size == (offset + total if total else 0)
        return os.pread(fd, total + 1, offset)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [b""],
        [b"", b"", b""],
        [b"abc"],
        [b"a", b"", b"bc", bytearray(b"d"), memoryview(b"efgh")[1:3]],
        [bytes([i % 256]) for i in range(5000)],
        [bytes([i % 256]) * (i % 3) for i in range(5000)],
        [bytes(range(256)) * 8] * 1025,
    ],
    ids=["none", "empty", "empties", "one", "kinds", "5000", "5000 with empty ones", "1025"],
)
def test_write(chunks: List[bytes]) -> None:
    """Chunks land one behind the other, however many there are; 1,024 is what the kernel takes at once."""
    assert written(chunks) == b"".join(bytes(chunk) for chunk in chunks)


@pytest.mark.parametrize(
    "chunk",
    [
        memoryview(array.array("d", [1.5, -2.5])),
        memoryview(b"abcdef").cast("B", (2, 3)),
        memoryview(b"abcdefgh").cast("I", (2, 1)),
        memoryview(b"abcd").cast("i", ()),
        memoryview((ctypes.c_uint16 * 3)(1, 2, 3)),
        memoryview(array.array("d")),
        memoryview(b"abc").cast("c"),
    ],
    ids=["double", "2-d bytes", "2-d", "0-d", "ctypes", "empty", "char"],
)
def test_write_odd_formats(chunk: memoryview) -> None:
    """A buffer of any format and shape is written as the bytes it consists of."""
    assert written([b"<", chunk, b">"]) == b"<" + chunk.tobytes() + b">"


@pytest.mark.parametrize("most", [1, 2, 3, 7, 50])
def test_short_writes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that the kernel cuts short, in whatever chunk, goes on with the byte that comes next."""
    real = os.pwritev

    def short(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return real(fd, [memoryview(b"".join(buffers))[:most]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    chunks = [b"ab", memoryview(b"cdefgh").cast("B", (2, 3)), b"", memoryview(array.array("H", [1, 2, 3])), b"x"]
    assert written(chunks) == b"".join(bytes(chunk) for chunk in chunks)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=30), max_size=40), st.integers(1, 40), st.integers(1, 5))
def test_batches(chunks: List[bytes], most_bytes: int, most_pieces: int) -> None:
    """However chunks are batched and split to fit the kernel's limits, the same bytes are written."""
    saved = mapping._MAX_BYTES, mapping._MAX_PIECES
    mapping._MAX_BYTES, mapping._MAX_PIECES = most_bytes, most_pieces
    try:
        assert written(chunks) == b"".join(chunks)
    finally:
        mapping._MAX_BYTES, mapping._MAX_PIECES = saved


def test_nothing_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that takes no bytes at all is an error, not an endless loop."""
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, offset: 0)
    with pytest.raises(OSError, match="The store's memory took no more bytes"):
        written([b"abc"])


def test_write_errors_pass() -> None:
    """The kernel's own errors are the caller's to explain."""
    with pytest.raises(OSError) as caught:
        write_all(10_000_000, 0, [b"abc"])
    assert caught.value.errno == errno.EBADF
