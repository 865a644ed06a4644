"""Marks in the file beside the socket: who sees them, and when they fall."""

from __future__ import annotations

import logging
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Iterator, List

import pytest
from vineyard_testing.processes import fork, in_child, wait

from vineyard_client._io.pinfile import PinFile

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pin files are a thing of Linux")

BLOB = (1 << 63) | 0x1234


class Files:
    """Open pin files at one path, and close them at the end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.opened: List[PinFile] = []

    def open(self) -> PinFile:
        file = PinFile.open(self.path)
        assert file is not None
        self.opened.append(file)
        return file


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    found = Files(str(tmp_path / "s.pins"))
    yield found
    for file in found.opened:
        file.close()


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
        theirs = PinFile.open(files.path)
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


def test_the_file_stays_empty_and_open_to_all(files: Files) -> None:
    """Whoever may use the socket may pin, whatever the umask of whoever came first; marks take no room."""
    before = os.umask(0o077)
    try:
        files.open().hold(BLOB)
    finally:
        os.umask(before)
    status = os.stat(files.path)
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (0o666, 0)


def test_no_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where there can be no file there is none, and the log says why."""
    caplog.set_level(logging.DEBUG, "vineyard_client")
    assert PinFile.open(str(tmp_path / "missing" / "s.pins")) is None
    assert "No such file or directory" in caplog.text


def test_no_permission(tmp_path: Path) -> None:
    """A user who may not open the file does without."""
    path = tmp_path / "s.pins"
    path.touch()
    path.chmod(0o600)
    tmp_path.chmod(0o755)

    def as_nobody() -> None:
        if os.getuid() == 0:
            os.setuid(65534)
        else:
            path.chmod(0)
        assert PinFile.open(str(path)) is None

    assert in_child(as_nobody) == 0


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "folder", "pipe"])
def test_somebody_elses_file(tmp_path: Path, kind: str) -> None:
    """What is not a plain file of its own is left alone: its permissions are not touched."""
    target, path = tmp_path / "target", tmp_path / "s.pins"
    target.touch()
    target.chmod(0o600)
    if kind == "symbolic link":
        path.symlink_to(target)
    elif kind == "hard link":
        os.link(target, path)
    elif kind == "folder":
        path.mkdir(0o700)
    else:
        os.mkfifo(path, 0o600)
    mode = path.lstat().st_mode
    assert PinFile.open(str(path)) is None
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert path.lstat().st_mode == mode
