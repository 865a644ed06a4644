"""Large writes by several threads into memory that was used before, with small sizes standing in for large ones."""

from __future__ import annotations

import _thread
import errno
import fcntl
import mmap
import os
import random
import resource
import sys
import threading
from typing import Any, Iterator, List, Sequence, Tuple

import pytest
from vineyard_testing.processes import in_child, wait

from vineyard_client import ConnectionFailed
from vineyard_client._io import copying
from vineyard_client._io.copying import Copying

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells which pages are new")

PAGE = mmap.PAGESIZE
PAGES = 64


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what is done with megabytes done with pages, by three threads."""
    monkeypatch.setattr(copying, "LEAST", 4 * PAGE)
    monkeypatch.setattr(copying, "_LEAST_PIECE", 2 * PAGE)
    monkeypatch.setattr(copying, "_PIECE", 3 * PAGE)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})


@pytest.fixture
def used() -> Iterator[int]:
    """A file all pages of which were used before."""
    fd = os.memfd_create("vineyard-testing")
    os.pwrite(fd, b"\xff" * PAGES * PAGE, 0)
    yield fd
    os.close(fd)


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> List[Tuple[int, int]]:
    """What was copied: where to, and how many bytes."""
    seen: List[Tuple[int, int]] = []
    real = copying._copy

    def copy(fd: int, piece: Any) -> None:
        seen.append((piece.stretch.offset, len(piece.stretch.source)))
        real(fd, piece)

    monkeypatch.setattr(copying, "_copy", copy)
    return seen


def content(nbytes: int) -> bytes:
    return bytes(i % 251 for i in range(nbytes))


def test_what_was_used_is_copied(used: int, copied: List[Tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Into pages that were used before threads copy, each piece once, and nothing is written."""
    monkeypatch.setattr(os, "pwritev", None)
    data = content(20 * PAGE + 77)
    assert Copying().write(used, PAGE + 64, [data]) == len(data)
    assert os.pread(used, len(data), PAGE + 64) == data
    assert os.pread(used, PAGE + 64, 0) == b"\xff" * (PAGE + 64)
    assert os.pread(used, PAGE, PAGE + 64 + len(data)) == b"\xff" * PAGE
    assert sum(nbytes for _, nbytes in copied) == len(data)
    assert len(set(copied)) > 6


@pytest.mark.parametrize("seed", range(20))
def test_new_and_used_pages(seed: int, copied: List[Tuple[int, int]]) -> None:
    """Whichever pages are new, and in whatever chunks, the bytes arrive; only used pages are copied into."""
    some = random.Random(seed)
    fd = os.memfd_create("vineyard-testing")
    os.ftruncate(fd, PAGES * PAGE)
    filled, page = set(), 0
    while page < PAGES:
        run = some.randint(1, 12)
        if some.random() < 0.6:
            os.pwrite(fd, b"\xff" * PAGE * min(run, PAGES - page), page * PAGE)
            filled.update(range(page, page + run))
        page += run
    lengths = [some.choice([0, 1, 100, PAGE, 5 * PAGE + 1, 9 * PAGE]) for _ in range(8)]
    chunks = [memoryview(some.getrandbits(8 * n or 1).to_bytes(n or 1, "little"))[:n] for n in lengths]
    data, offset = b"".join(chunks), some.choice([0, 64, PAGE, PAGE + 192])
    assert Copying().write(fd, offset, chunks) == len(data)
    assert os.pread(fd, len(data), offset) == data
    assert all(set(range(at // PAGE, (at + n - 1) // PAGE + 1)) <= filled for at, n in copied)
    os.close(fd)


def test_many_holes(copied: List[Tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in a thousand pieces is not asked about each of them."""
    monkeypatch.setattr(copying, "_MOST_RUNS", 3)
    fd = os.memfd_create("vineyard-testing")
    for page in range(0, PAGES, 4):
        os.pwrite(fd, b"\xff" * 3 * PAGE, page * PAGE)
    data = content((PAGES - 4) * PAGE)
    Copying().write(fd, 0, [data])
    assert os.pread(fd, len(data), 0) == data
    assert 0 < max(at for at, _ in copied) < 12 * PAGE
    os.close(fd)


def test_small_values(used: int, copied: List[Tuple[int, int]]) -> None:
    """A small value, and one of many small buffers, is written."""
    Copying().write(used, 0, [content(4 * PAGE - 1)])
    Copying().write(used, 8 * PAGE, [content(100)] * 400)
    assert os.pread(used, 4 * PAGE - 1, 0) == content(4 * PAGE - 1)
    assert os.pread(used, 40_000, 8 * PAGE) == content(100) * 400
    assert not copied


def test_one_processor(used: int, copied: List[Tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """With one processor there is nothing to gain."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5})
    Copying().write(used, 0, [content(20 * PAGE)])
    assert os.pread(used, 20 * PAGE, 0) == content(20 * PAGE)
    assert not copied


def test_no_threads(used: int, copied: List[Tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, one copies everything."""

    def refuse(*arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    assert Copying().write(used, 0, [content(20 * PAGE)]) == 20 * PAGE
    assert os.pread(used, 20 * PAGE, 0) == content(20 * PAGE)
    assert copied


@pytest.mark.parametrize("missing", [OSError(errno.ENOMEM, "Cannot allocate memory"), ImportError("no _ctypes")])
def test_no_mapping(used: int, missing: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be mapped, everything is written."""

    def refuse(*arguments: object) -> None:
        raise missing

    monkeypatch.setattr(copying, "map_for_filling", refuse)
    assert Copying().write(used, 5, [content(20 * PAGE)]) == 20 * PAGE
    assert os.pread(used, 20 * PAGE, 5) == content(20 * PAGE)


def test_an_old_kernel(used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel cannot populate, everything is written."""
    monkeypatch.setattr(copying, "_POPULATE_READ", 12345)
    assert Copying().write(used, 5, [content(20 * PAGE)]) == 20 * PAGE
    assert os.pread(used, 20 * PAGE, 5) == content(20 * PAGE)


# ---- errors instead of signals


def test_a_source_that_is_gone(used: int) -> None:
    """Memory of a file that was cut short is an error, as it is for the kernel's own copying, and not a signal."""

    def write() -> None:
        file = os.memfd_create("source")
        os.ftruncate(file, 20 * PAGE)
        source = mmap.mmap(file, 20 * PAGE)
        os.ftruncate(file, PAGE)  # what is behind that is a signal for who touches it
        with pytest.raises(OSError) as caught:
            Copying().write(used, 0, [memoryview(source)])
        assert caught.value.errno == errno.EFAULT

    assert in_child(write) == 0


def test_memory_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory of the store that cannot be had when it is needed is the error that writing gives, and not a signal."""

    def write() -> None:
        fd = os.memfd_create("store", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 2 * PAGE)
        fcntl.fcntl(fd, 1033, 4)  # F_ADD_SEALS, F_SEAL_GROW (man 2 fcntl): it takes no more, like a full file system
        with pytest.raises(PermissionError):
            Copying().write(fd, 0, [content(20 * PAGE)])

    monkeypatch.setattr(copying, "_used", lambda fd, start, end: [(start, end)])
    assert in_child(write) == 0


def test_no_address_space(used: int) -> None:
    """A process that may not map any more writes."""

    def write() -> None:
        data = content(20 * PAGE)
        Copying().write(used, 0, [data])  # with everything imported
        with open("/proc/self/statm") as statm:
            size = int(statm.read().split()[0]) * PAGE
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        Copying().write(used, 20 * PAGE, [data])
        assert os.pread(used, len(data), 20 * PAGE) == data

    assert in_child(write) == 0


# ---- exceptions, threads, forks


class Boom(BaseException):
    """What a signal handler raises."""


class Held:
    """Keep the threads that help in the middle of a piece."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there, self.free = threading.Event(), threading.Event()
        self.strike: Any = None
        main, real = threading.get_ident(), copying._copy

        def copy(fd: int, piece: Any) -> None:
            if threading.get_ident() != main:
                self.there.set()
                self.free.wait(30)
            elif self.strike is not None:
                self.there.wait(30)
                self.strike()
            real(fd, piece)

        monkeypatch.setattr(copying, "_copy", copy)


def boom() -> None:
    raise Boom


def test_an_exception_while_threads_copy(used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out at once; the threads end with the pieces that they are at, and whoever frees the blob waits."""
    held = Held(monkeypatch)
    held.strike = boom
    write = Copying()
    with pytest.raises(Boom):
        write.write(used, 0, [memoryview(bytearray(content(60 * PAGE)))])
    assert not write.stop(0)
    held.free.set()
    assert write.stop(30)
    after = os.pread(used, 60 * PAGE, 0)
    assert after.count(b"\xff" * PAGE) >= 50
    assert write.stop(0)
    assert os.pread(used, 60 * PAGE, 0) == after


def test_what_a_thread_raises(used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happens in a thread that helps is raised by the call."""
    main, there = threading.get_ident(), threading.Event()

    def copy(fd: int, piece: Any) -> None:
        if threading.get_ident() != main:
            there.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        there.wait(30)

    monkeypatch.setattr(copying, "_copy", copy)
    with pytest.raises(OSError, match="No space left"):
        Copying().write(used, 0, [content(60 * PAGE)])


def test_a_fork_while_threads_copy(used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parent goes on; the child has no such threads, waits for none, and writes nothing."""
    held = Held(monkeypatch)
    children: List[int] = []
    write = Copying()

    def split() -> None:
        held.strike = None
        pid = os.fork()
        if not pid:
            raise Boom
        children.append(pid)
        held.free.set()

    held.strike = split
    data = content(60 * PAGE)
    try:
        assert write.write(used, 0, [data]) == len(data)
    except Boom:
        os._exit(0 if write.stop(0) else 1)
    assert wait(children[0]) == 0
    assert os.pread(used, len(data), 0) == data


def test_a_child_that_goes_on(used: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that returns from where it was forked into the call is told that the value is not its own."""
    parent = os.getpid()
    children: List[int] = []
    real = copying._divided

    def divided(fd: int, offset: int, views: Sequence[memoryview]) -> Any:
        pid = os.fork()
        if pid:
            children.append(pid)
        return real(fd, offset, views)

    monkeypatch.setattr(copying, "_divided", divided)
    try:
        done = Copying().write(used, 0, [content(100), content(60 * PAGE)])
    except ConnectionFailed:
        os._exit(0 if os.getpid() != parent else 2)
    if os.getpid() != parent:
        os._exit(1)
    assert wait(children[0]) == 0
    assert done == 60 * PAGE + 100
