"""One conversation over a scripted stream: file descriptors, and what is written and mapped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterator, List

import pytest
from vineyard_testing.conversations import (
    BLOB,
    CONTENT,
    EXISTS,
    NOTHING,
    OTHER,
    REFUSED,
    RELEASED,
    connected,
    found,
    pinned,
    placed,
    script,
    types,
)
from vineyard_testing.streams import Descriptor, got_buffers, memory, payload

from vineyard_client._store.connection import Connection
from vineyard_client._wire.messages import Exists, Seal
from vineyard_client.exceptions import ConnectionFailed, ObjectCorrupted, ProtocolError, ServerError


def test_the_store_fd_comes_once(store: int) -> None:
    """The first reply brings the fd, and later ones use it."""
    connection = connected(*found(store), RELEASED, *found(), RELEASED)
    for _ in range(2):
        pin, place = pinned(connection)
        assert bytes(connection.read(place)) == CONTENT
        pin.release()


def test_fds_behind_an_error(store: int) -> None:
    """An fd behind a refusal is taken from the stream, too: the next reply is read rightly."""
    connection = connected({**REFUSED, "fd": 7}, Descriptor(store), *found())
    with pytest.raises(ServerError):
        connection.call(Seal(1))
    assert bytes(connection.read(placed(connection))) == CONTENT


def test_a_store_fd_that_comes_again(store: int) -> None:
    """A number that the server uses anew means the new file, and the old one is closed."""
    other = memory((64, b"other"))
    again = got_buffers([payload(OTHER, 64, 5)], fds=[7])
    connection = connected(*found(store), again, Descriptor(other), NOTHING)
    placed(connection)
    assert bytes(connection.read(placed(connection, OTHER))) == b"other"
    os.close(other)


def test_a_blob_in_unknown_memory() -> None:
    """A blob in memory whose fd never came is the server's mistake: nothing is guessed, the connection is retired."""
    connection = connected(*found())
    pin, place = pinned(connection)
    for use in (
        connection.read,
        lambda place: connection.map(place, pin),
        lambda place: connection.write(place, [CONTENT]),
    ):
        with pytest.raises(ProtocolError) as caught:
            use(place)
        assert str(caught.value).startswith("scripted placed a blob in memory 7, whose file descriptor it never sent.")
    assert not connection.usable


def test_a_blob_that_is_short(store: int) -> None:
    """Memory that ends before the blob does is a corrupted object; the connection stays usable."""
    os.truncate(store, 1000)
    connection = connected(*found(store), EXISTS)
    with pytest.raises(ObjectCorrupted, match=r"The blob at 64\+20000 of scripted is short\."):
        connection.read(placed(connection))
    assert connection.call(Exists(1))


def test_write(store: int) -> None:
    """Chunks are written to where the blob lies, and nowhere else."""
    connection = connected(*found(store))
    place = placed(connection)
    connection.write(place, [b"a" * 5000, memoryview(b"b" * 15_000)])
    assert os.pread(store, 1 << 16, 0) == bytes(64) + b"a" * 5000 + b"b" * 15_000 + bytes((1 << 16) - 20_064)


def test_writing_too_little_is_our_bug(store: int) -> None:
    """Chunks that do not fill the blob are a mistake of this package, and say so."""
    connection = connected(*found(store))
    with pytest.raises(RuntimeError, match="3 bytes were written into a blob of 20000"):
        connection.write(placed(connection), [b"abc"])


def test_write_refused_by_the_system(tmp_path: Path) -> None:
    """A write that the system refuses says what to look at; the connection stays in step."""
    (tmp_path / "file").write_bytes(bytes(1 << 16))
    with open(tmp_path / "file", "rb") as read_only:
        connection = connected(*found(read_only.fileno()), EXISTS)
        with pytest.raises(ConnectionFailed) as caught:
            connection.write(placed(connection), [CONTENT])
    assert str(caught.value) == (
        "Writing 20000 bytes into the memory of scripted failed: Bad file descriptor. "
        "See whether the host has memory left for the store."
    )
    assert connection.call(Exists(1))


def test_map_refused_by_the_system(store: int) -> None:
    """A mapping that the system refuses says what to do, and the pin stays the caller's to give back."""
    huge = payload(BLOB, 64, 1 << 60, map_size=1 << 61)
    connection = connected(got_buffers([huge], fds=[7]), Descriptor(store), NOTHING, RELEASED)
    pin, place = pinned(connection)
    with pytest.raises(ConnectionFailed) as caught:
        connection.map(place, pin)
    hint = str(caught.value)
    del caught  # whose frames refer to what is held
    assert hint == (
        f"The system refused to map {1 << 60} bytes of scripted: Cannot allocate memory. "
        "Drop values that are no longer needed, close files, or raise vm.max_map_count."
    )
    pin.release()
    pin.release()
    assert types(connection).count("release_request") == 1


class ClosingChunks:
    """Chunks that, while they are being written, see the connection fail in another thread, and a file opened."""

    def __init__(self, connection: Connection, victim: str) -> None:
        self.connection = connection
        self.victim = victim
        self.files: List[Any] = []

    def __iter__(self) -> Iterator[bytes]:
        yield CONTENT[:10_000]
        self.connection.close()
        self.files = [open(self.victim, "r+b") for _ in range(10)]  # noqa: SIM115
        yield CONTENT[10_000:]


def test_a_pinned_write_never_lands_elsewhere(store: int, tmp_path: Path) -> None:
    """While a writer holds a pin its fds stay open, so that their numbers cannot become another file's."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    connection = connected(*found(store))
    pin, place = pinned(connection)
    os.pwrite(store, bytes(len(CONTENT)), 64)
    chunks = ClosingChunks(connection, str(victim))
    connection.write(place, chunks)
    for file in chunks.files:
        file.close()
    assert victim.read_bytes() == b"precious"
    assert os.pread(store, len(CONTENT), 64) == CONTENT
    assert not script(connection).closed
    pin.release()
    assert script(connection).closed
