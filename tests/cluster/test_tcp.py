"""The TCP stream by itself: endpoints, deadlines, blobs into files, with splice and without."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import Callable, Iterator, List

import pytest
from vineyard_testing.processes import in_child

import vineyard_client as vc
from vineyard_client._io import tcp
from vineyard_client._io.deadline import Deadline
from vineyard_client._io.tcp import TcpStream, split_endpoint

DATA = os.urandom(3_500_001)


@contextmanager
def peer(handle: Callable[[socket.socket], object]) -> Iterator[TcpStream]:
    """A stream to a listener that treats its one connection with ``handle``, and closes it when the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: List[socket.socket] = []

        def serve() -> None:
            connection, _ = listener.accept()
            accepted.append(connection)
            with suppress(ConnectionError):  # the stream may hang up while we talk
                handle(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        stream = TcpStream.connect(f"127.0.0.1:{listener.getsockname()[1]}", Deadline(5))
        try:
            yield stream
        finally:
            stream.close()
            thread.join()
            for connection in accepted:
                connection.close()


@pytest.fixture
def file() -> Iterator[int]:
    """A file in memory, as the store is one."""
    fd = os.memfd_create("store")
    yield fd
    os.close(fd)


@pytest.fixture(params=["splice", "copy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways into a file; what Python 3.8 and 3.9 have is the second only."""
    if request.param == "copy":
        monkeypatch.delattr(os, "splice", raising=False)
    elif not hasattr(os, "splice"):
        pytest.skip("this Python has no os.splice")
    return str(request.param)


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [
        ("a:1", ("a", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:9600", ("::1", 9600)),
        ("::1:9600", ("::1", 9600)),
    ],
)
def test_an_endpoint_has_a_host_and_a_port(endpoint: str, parts: tuple) -> None:
    assert split_endpoint(endpoint) == parts


@pytest.mark.parametrize(
    "endpoint", ["", "a", ":1", "a:", "a:0", "a:65536", "a:-1", "a:²", "a:1_0", "a:9600 ", "[]:1", "a:٣"]
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(vc.InvalidReference, match="no endpoint"):
        split_endpoint(endpoint)


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "a\0b", "no-such-host.invalid"])
def test_a_name_that_does_not_resolve(host: str) -> None:
    """Whatever it looks like, the error tells what to advertise."""
    with pytest.raises(vc.ConnectionFailed, match="does not resolve") as caught:
        TcpStream.connect(f"{host}:9600", Deadline(1))
    assert "connect(endpoint=" in caught.value.hint


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(vc.ConnectionFailed, match=f"127.0.0.1:{port}.*refused") as caught:
        TcpStream.connect(f"127.0.0.1:{port}", Deadline(None))
    assert "RPC" in caught.value.hint


def test_all_addresses_of_a_name_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the first that answers is taken."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        # The queue of connections that nobody accepts is full: the next one gets no answer.
        waiting = [socket.create_connection(("127.0.0.1", port), timeout=5)]
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address] * 5)
        started = time.monotonic()
        with pytest.raises(vc.DeadlineExceeded, match=r"within 0.3 s"):
            TcpStream.connect(f"127.0.0.1:{port}", Deadline(0.3))
        assert time.monotonic() - started < 1
        with socket.create_server(("127.0.0.1", 0)) as other:
            answering = (*address[:4], other.getsockname())
            refused = (*address[:4], ("127.0.0.1", 1))
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [refused, answering, address])
            TcpStream.connect("name:9600", Deadline(1)).close()
        for connection in waiting:
            connection.close()


@pytest.mark.parametrize("offset", [0, 1, 4096, 100_003])
def test_a_blob_lands_where_it_should(way: str, file: int, offset: int) -> None:
    """To the byte, and nothing before or after; what follows in the stream is left in it."""
    os.pwrite(file, b"x" * (offset + len(DATA) + 10), 0)
    with peer(lambda connection: connection.sendall(DATA + b"next")) as stream:
        stream.receive_into_file(file, offset, len(DATA), 5.0)
        assert stream.receive(4, Deadline(5)) == b"next"
    assert os.pread(file, len(DATA) + 20, offset) == DATA + b"x" * 10
    assert os.pread(file, offset, 0) == b"x" * offset


def test_a_blob_lands_in_memory() -> None:
    target = bytearray(len(DATA))
    with peer(lambda connection: connection.sendall(DATA + b"next")) as stream:
        stream.receive_into(memoryview(target), 5.0)
        assert stream.receive(4, Deadline(5)) == b"next"
    assert target == DATA


@pytest.mark.parametrize("sent", [0, 1, 1_000_000])
def test_a_stream_that_ends_early(way: str, file: int, sent: int) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(DATA[:sent])
        connection.shutdown(socket.SHUT_WR)

    with peer(handle) as stream, pytest.raises(vc.ConnectionFailed, match="closed the connection"):
        stream.receive_into_file(file, 0, len(DATA), 5.0)
    with peer(handle) as stream, pytest.raises(vc.ConnectionFailed, match="closed the connection"):
        stream.receive_into(memoryview(bytearray(len(DATA))), 5.0)


@pytest.mark.parametrize("sent", [0, 1_000_000])
def test_a_stream_that_stands_still(way: str, file: int, sent: int) -> None:
    started = time.monotonic()
    with peer(lambda connection: connection.sendall(DATA[:sent])) as stream:
        with pytest.raises(vc.DeadlineExceeded, match=f"{stream.peer} sent or took nothing for 0.2 s"):
            stream.receive_into_file(file, 0, len(DATA), 0.2)
    with peer(lambda connection: connection.sendall(DATA[:sent])) as stream:
        with pytest.raises(vc.DeadlineExceeded, match=r"0.2 s"):
            stream.receive_into(memoryview(bytearray(len(DATA))), 0.2)
    assert time.monotonic() - started < 2


def test_a_stream_that_is_reset(way: str, file: int) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    with peer(reset) as stream, pytest.raises(vc.ConnectionFailed, match="broke: Connection reset by peer"):
        stream.send(b"x", Deadline(5))
        stream.receive_into_file(file, 0, len(DATA), 5.0)


def test_a_stream_that_drips(way: str, file: int) -> None:
    """As long as something comes, the whole may take longer than the timeout."""

    def drip(connection: socket.socket) -> None:
        for i in range(10):
            time.sleep(0.05)
            connection.sendall(DATA[i : i + 1])

    with peer(drip) as stream:
        stream.receive_into_file(file, 0, 10, 0.3)
    assert os.pread(file, 10, 0) == DATA[:10]


def test_a_file_that_takes_no_more(way: str, tmp_path: object) -> None:
    """That is no fault of the peer, and the error does not say so."""

    def child() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        fd = os.open(f"{tmp_path}/file", os.O_RDWR | os.O_CREAT)
        with peer(lambda connection: connection.sendall(DATA)) as stream:
            with pytest.raises(vc.ConnectionFailed, match=r"memory here: File too large\.") as caught:
                stream.receive_into_file(fd, 0, len(DATA), 5.0)
        assert "memory left" in caught.value.hint

    assert in_child(child) == 0


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.EPERM])
def test_where_splice_does_not_work_bytes_are_copied(monkeypatch: pytest.MonkeyPatch, file: int, number: int) -> None:
    """A sandbox may refuse the system call."""

    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "splice", refuse, raising=False)
    with peer(lambda connection: connection.sendall(DATA)) as stream:
        stream.receive_into_file(file, 0, len(DATA), 5.0)
    assert os.pread(file, len(DATA), 0) == DATA


@pytest.mark.skipif(not hasattr(os, "splice"), reason="this Python has no os.splice")
def test_with_splice_nothing_is_copied_here(monkeypatch: pytest.MonkeyPatch, file: int) -> None:
    """The way that is meant to be taken is taken."""
    monkeypatch.delattr(tcp.TcpStream, "_copy")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with peer(lambda connection: connection.sendall(DATA)) as stream:
        stream.receive_into_file(file, 0, len(DATA), None)
    assert os.pread(file, 10, 0) == DATA[:10]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1000


def test_replies_have_one_deadline_for_all_their_bytes() -> None:
    """Unlike a blob, a reply that drips is late."""

    def drip(connection: socket.socket) -> None:
        for _ in range(10):
            connection.sendall(b"x")
            time.sleep(0.05)

    with peer(drip) as stream, pytest.raises(vc.DeadlineExceeded, match=r"0.2 s"):
        stream.receive(10, Deadline(0.2))


def test_no_descriptors_come_over_tcp() -> None:
    with peer(lambda connection: None) as stream, pytest.raises(vc.ProtocolError, match="over TCP"):
        stream.receive_fd(Deadline(1))


def test_sending_has_a_deadline() -> None:
    """A peer that takes nothing ends it."""
    with peer(lambda connection: None) as stream, pytest.raises(vc.DeadlineExceeded, match=r"0.2 s"):
        stream.send(bytes(64 << 20), Deadline(0.2))
