"""Marks on the store's memory: who sees them, and when they fall."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import struct
import sys
from typing import Iterator, List

import pytest
from vineyard_testing.processes import fork, in_child, wait
from vineyard_testing.streams import memory

from vineyard_client._io.pinfile import PinFile
from vineyard_client.exceptions import ConnectionFailed

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="such locks are a thing of Linux")

BLOB = (1 << 63) | 0x1234


class Files:
    """Open files on one memory, as several clients have them, and close them at the end."""

    def __init__(self) -> None:
        self.memory = memory((0, b"value"))
        self.opened: List[PinFile] = []

    def open(self) -> PinFile:
        file = PinFile.of(self.memory)
        assert file is not None
        self.opened.append(file)
        return file


@pytest.fixture
def files() -> Iterator[Files]:
    found = Files()
    yield found
    for file in found.opened:
        file.close()
    os.close(found.memory)


def test_others_see_a_mark(files: Files) -> None:
    """A mark is seen through every other open file, for its blob alone, and not through its own."""
    one, two = files.open(), files.open()
    assert not two.held_by_others(BLOB)
    one.hold(BLOB)
    assert two.held_by_others(BLOB)
    assert not one.held_by_others(BLOB)
    assert not two.held_by_others(BLOB + 1) and not two.held_by_others(BLOB - 1)
    one.drop(BLOB)
    assert not two.held_by_others(BLOB)


def test_marks_do_not_exclude_each_other(files: Files) -> None:
    """Any number of files may mark the same blob, and each takes away its own mark only."""
    one, two, three = files.open(), files.open(), files.open()
    one.hold(BLOB)
    two.hold(BLOB)
    assert three.held_by_others(BLOB) and one.held_by_others(BLOB)
    two.drop(BLOB)
    assert three.held_by_others(BLOB) and two.held_by_others(BLOB)
    assert not one.held_by_others(BLOB)


@pytest.mark.parametrize("blob", [1 << 63, (1 << 63) | ((1 << 62) - 1), (1 << 64) - 1, 0])
def test_every_id_can_be_marked(files: Files, blob: int) -> None:
    """Ids use all 64 bits, file offsets do not: the largest and the smallest work as well."""
    one, two = files.open(), files.open()
    one.hold(blob)
    assert two.held_by_others(blob)


def test_close_takes_the_marks_away(files: Files) -> None:
    """A closed file holds nothing; closing it again is no error."""
    one, two = files.open(), files.open()
    one.hold(BLOB)
    one.close()
    one.close()
    assert not two.held_by_others(BLOB)


def test_a_killed_process_holds_nothing(files: Files) -> None:
    """The kernel takes the marks of a process away when it ends, however it ends."""
    mine = files.open()
    reader, writer = os.pipe()

    def hold_until_killed() -> None:
        theirs = PinFile.of(files.memory)
        assert theirs is not None
        theirs.hold(BLOB)
        os.write(writer, b"!")
        signal.pause()

    pid = fork(hold_until_killed)
    assert os.read(reader, 1) == b"!"
    assert mine.held_by_others(BLOB)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    assert not mine.held_by_others(BLOB)
    os.close(reader)
    os.close(writer)


def test_a_forked_child_keeps_the_marks(files: Files) -> None:
    """Marks belong to the open file: they last until the last process that inherited it closes it."""
    theirs, mine = files.open(), files.open()
    reader, writer = os.pipe()

    theirs.hold(BLOB)
    pid = fork(lambda: os.read(reader, 1))
    theirs.close()
    assert mine.held_by_others(BLOB)
    os.write(writer, b"!")
    wait(pid)
    assert not mine.held_by_others(BLOB)
    os.close(reader)
    os.close(writer)


def test_the_memory_stays_as_it_is(files: Files) -> None:
    """A lock takes no room and changes nothing."""
    before = os.fstat(files.memory)
    files.open().hold(BLOB)
    after = os.fstat(files.memory)
    assert os.pread(files.memory, 5, 0) == b"value"
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)


def test_no_proc(monkeypatch: pytest.MonkeyPatch, files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Where the memory cannot be opened anew there are no locks, and the log says why."""
    caplog.set_level(logging.DEBUG, "vineyard_client")
    assert PinFile.of(1 << 30) is None
    assert "No such file or directory" in caplog.text


def test_another_user(files: Files) -> None:
    """Whoever was sent the memory may lock it, whoever made it."""
    watcher = files.open()

    def as_nobody() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        theirs = PinFile.of(files.memory)
        assert theirs is not None
        theirs.hold(BLOB)
        assert watcher.held_by_others(BLOB)

    assert in_child(as_nobody) == 0


def test_a_lock_against_all_others(files: Files) -> None:
    """A mark that somebody prevents is an error of ours, which says what to do."""
    writer = os.open(f"/proc/self/fd/{files.memory}", os.O_RDWR)
    lock = struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, BLOB & ((1 << 62) - 1), 1, 0)
    fcntl.fcntl(writer, 37, lock)
    try:
        with pytest.raises(ConnectionFailed, match="refused a mark") as caught:
            files.open().hold(BLOB)
    finally:
        os.close(writer)
    assert "lslocks" in caught.value.hint
