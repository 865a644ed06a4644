"""Records behind a store's memory: appended by many at once, rewritten meanwhile, and none lost or read twice."""

from __future__ import annotations

import os
import struct
from typing import Iterator, List, Set
from zlib import crc32

import pytest
from vineyard_testing.processes import fork, wait

from vineyard_client._io.deadline import Deadline
from vineyard_client._io.fds import OwnedFD
from vineyard_client._io.ledger import _HEAD, RECORD, Ledger

SIZE = 100_000  # no whole number of pages

NOW = Deadline(0)


@pytest.fixture
def memory() -> Iterator[OwnedFD]:
    """What a server would send: a file in memory that has the store in it."""
    file = OwnedFD().take(os.memfd_create, "store")
    os.pwrite(file.fd, b"s" * SIZE, 0)
    yield file
    assert os.pread(file.fd, SIZE, 0) == b"s" * SIZE  # whatever happened, the store was not touched
    file.close()


def ledger(memory: OwnedFD) -> Ledger:
    made = Ledger.of(memory, SIZE)
    assert made is not None
    return made


def record(number: int) -> bytes:
    return struct.pack(f"<Q{RECORD - 8}s", number, b"r")


def numbers(data: bytes) -> List[int]:
    return [struct.unpack_from("<Q", data, start)[0] for start in range(0, len(data), RECORD)]


def read(made: Ledger) -> Set[int]:
    found = made.read()
    assert found is not None
    return {*numbers(found[0]), *numbers(found[1])}


def begun(memory: OwnedFD, *base: int) -> Ledger:
    made = ledger(memory)
    with made.alone(NOW) as mine:
        assert mine
        made.begin(b"".join(map(record, base)), 7)
    return made


def test_it_is_begun_once(memory: OwnedFD) -> None:
    """Until then there is nothing to be read; afterwards everybody sees the same."""
    first, second = ledger(memory), ledger(memory)
    assert not first.begun and first.read() is None and first.recent() is None and first.bounds() == (0, 0, False)
    made = begun(memory, 1, 2)
    assert first.begun and second.begun
    made.append(record(3))
    assert read(second) == {1, 2, 3} and second.recent() == (7, record(3)) and second.bounds() == (7, 1, False)
    for each in (first, second, made):
        each.close()


def test_only_one_is_alone(memory: OwnedFD) -> None:
    """Also among threads and clients of one process."""
    first, second = begun(memory), ledger(memory)
    with first.alone(NOW) as mine, second.alone(NOW) as too:
        assert (mine, too) == (True, False)
    with second.alone(NOW) as mine:
        assert mine
    first.close()
    second.close()


def test_rewriting_keeps_what_comes_meanwhile(memory: OwnedFD) -> None:
    """What is appended between reading and rewriting counts, and what was before is given back."""
    first, second = begun(memory), ledger(memory)
    for number in range(1000):
        first.append(record(number))
    found = first.read()
    assert found is not None
    second.append(record(5000))
    blocks = os.fstat(memory.fd).st_blocks
    with first.alone(NOW) as mine:
        assert mine
        first.rewrite(record(1) + record(2), found[2], 9)
    second.append(record(5001))
    assert read(second) >= {1, 2, 5000, 5001} and not read(second) & {3, 999}
    assert second.bounds()[0] == 9
    assert os.fstat(memory.fd).st_blocks <= blocks - 1000 * RECORD // 512 + 24
    assert second.bounds()[1] == 2
    first.close()
    second.close()


def test_who_is_killed_while_rewriting(memory: OwnedFD) -> None:
    """The base that no head points to changes nothing for who goes by the head, and the lock falls."""
    made = begun(memory, 1)
    made.append(record(2))
    found = made.read()
    assert found is not None

    def die() -> None:
        mine = ledger(memory)
        with mine.alone(NOW):
            mine.append(record(77))  # a base
            os._exit(0)

    wait(fork(die))
    with made.alone(NOW) as mine:
        assert mine
        made.rewrite(record(1), found[2], 0)
    assert read(made) == {1, 77}
    made.close()


def test_many_append_while_others_rewrite(memory: OwnedFD) -> None:
    """No record is lost, whoever rewrites how often."""
    begun(memory).close()
    each, writers = 1000, 3

    def write(first: int) -> None:
        mine = ledger(memory)
        for number in range(each):
            mine.append(record(first + number))

    def rewrite() -> None:
        mine = ledger(memory)
        for _ in range(30):
            with mine.alone(Deadline(10)) as alone:
                found = mine.read()
                assert alone and found is not None
                seen = sorted({*numbers(found[0]), *(n for n in numbers(found[1]) if n < 1 << 40)})
                mine.rewrite(b"".join(map(record, seen)), found[2], 0)

    pids = [fork(lambda first=first: write(first)) for first in range(0, each * writers, each)]  # type: ignore[misc]
    pids += [fork(rewrite) for _ in range(2)]
    assert [wait(pid) for pid in pids] == [0] * len(pids)
    made = ledger(memory)
    assert read(made) == set(range(each * writers))
    made.close()


def test_a_damaged_head(memory: OwnedFD) -> None:
    """It is as if there were no ledger."""
    made = begun(memory, 1)
    start = -(-SIZE // 4096) * 4096
    os.pwrite(memory.fd, b"\xff", start + 20)
    assert made.read() is None and not made.begun
    made.close()


def test_marks(memory: OwnedFD) -> None:
    """Everybody sees them, also who set them before it was begun."""
    first, second = ledger(memory), ledger(memory)
    assert [second.mark(name) for name in ("missing", "foreign", "looked")] == [False, 0, 0.0]
    first.set_mark("missing", True)
    begun(memory, 1).close()
    assert second.mark("missing") is True and read(second) == {1}
    second.set_mark("missing", False)
    second.set_mark("foreign", 1 << 40)
    second.set_mark("looked", 1.5)
    assert [first.mark(name) for name in ("missing", "foreign", "looked")] == [False, 1 << 40, 1.5]
    assert read(first) == {1}
    first.close()
    second.close()


def test_a_file_that_takes_no_more(memory: OwnedFD) -> None:
    """A record that cannot be written is an error, and none is cut off."""
    import resource

    made = begun(memory)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, before[1]))
        with pytest.raises(OSError):
            made.append(record(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    made.append(record(2))
    assert read(made) == {2}
    made.close()


def test_who_cannot_append(memory: OwnedFD, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who may not open the file anew reads all the same, and can say that something is missing."""
    begun(memory, 1).close()

    def refused(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refused)
        made = ledger(memory)
    assert read(made) == {1}
    with pytest.raises(ValueError, match="closed"):
        made.append(record(2))
    made.set_mark("missing", True)
    assert read(made) == {1} and made.mark("missing")
    made.close()


def test_memory_that_is_closed(memory: OwnedFD) -> None:
    """What has the descriptor's number since then is left alone."""
    other = OwnedFD().take(os.dup, memory.fd)
    made = begun(other, 1)
    other.close()
    for call in (
        made.read,
        made.recent,
        made.bounds,
        lambda: made.mark("missing"),
        lambda: made.set_mark("missing", 1),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    made.close()


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_head_that_says_too_much(memory: OwnedFD, field: int) -> None:
    """Nobody reads gigabytes because of it, or goes on for ever."""
    made = begun(memory, 1, 2)
    start = -(-SIZE // 4096) * 4096
    head = list(_HEAD.unpack(os.pread(memory.fd, _HEAD.size, start)))
    head[1 + field] += 1 << 40
    packed = _HEAD.pack(*head)
    os.pwrite(memory.fd, packed + struct.pack("<I", crc32(packed)), start)
    with pytest.raises(OSError, match="too large"):
        made.read()
    os.ftruncate(memory.fd, 1 << 30)
    with pytest.raises(OSError, match="too large"):
        made.recent()
    os.ftruncate(memory.fd, start + 4096)
    made.close()
