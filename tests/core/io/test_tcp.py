"""The RPC stream, against real sockets on this host: bytes, whole blobs into files and memory, and how it fails."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import Callable, Iterator, List, Optional, Tuple

import pytest
from vineyard_testing import UNIT
from vineyard_testing.streams import memory

from vineyard_client._io.deadline import Deadline
from vineyard_client._io.stream import Stream
from vineyard_client._io.tcp import TcpStream, split_endpoint
from vineyard_client.exceptions import ConnectionFailed, DeadlineExceeded, InvalidReference, ProtocolError

NOW = Deadline(0)


def soon() -> Deadline:
    """Return a deadline that is only up when something is broken."""
    return Deadline(UNIT)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found


def endpoint(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def pair(listener: socket.socket) -> Iterator[Tuple[TcpStream, socket.socket]]:
    """A stream and the peer's end of it."""
    stream = TcpStream.connect(endpoint(listener), soon())
    theirs, _ = listener.accept()
    yield stream, theirs
    stream.close()
    theirs.close()


Pair = Tuple[TcpStream, socket.socket]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("h:1", ("h", 1)),
        ("10.0.0.1:65535", ("10.0.0.1", 65535)),
        ("[::1]:9600", ("::1", 9600)),
        ("::1:9600", ("::1", 9600)),
    ],
)
def test_endpoints(text: str, expected: Tuple[str, int]) -> None:
    """An endpoint is a host, which may be an address of either kind, and a port."""
    assert split_endpoint(text) == expected


@pytest.mark.parametrize(
    "text", ["", "h", "h:", ":1", "h:0", "h:65536", "h:-1", "h:x", "h: 1", "h:٣", "[]:1", "h:" + "9" * 5000]
)
def test_no_endpoints(text: str) -> None:
    """Anything else is refused, cut short."""
    with pytest.raises(InvalidReference) as caught:
        split_endpoint(text)
    assert "is no endpoint. An endpoint is host:port." in str(caught.value) and len(str(caught.value)) < 300


# ---- connecting


def test_connect(listener: socket.socket) -> None:
    """A connected stream knows its endpoint; closing it is idempotent."""
    stream: Stream = TcpStream.connect(endpoint(listener), soon())
    theirs, _ = listener.accept()
    assert stream.peer == endpoint(listener)
    theirs.sendall(b"hello")
    assert stream.receive(5, soon()) == b"hello"
    stream.close()
    stream.close()
    theirs.close()


def test_nobody_listens(listener: socket.socket) -> None:
    """A port without a listener says what to look at on that host."""
    gone = endpoint(listener)
    listener.close()
    with pytest.raises(ConnectionFailed) as caught:
        TcpStream.connect(gone, soon())
    assert str(caught.value) == (
        f"Cannot connect to vineyardd at {gone}: Connection refused. "
        "See whether its host is up and its RPC is on (vineyardd --rpc=true)."
    )


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 300, "a..b", "\udcff"])
def test_unknown_host(host: str) -> None:
    """A name that does not resolve, or cannot be one, says how to give another."""
    with pytest.raises(ConnectionFailed) as caught:
        TcpStream.connect(f"{host}:9600", soon())
    assert "does not resolve here: " in caught.value.what
    assert 'connect(endpoint="host:port")' in caught.value.hint


def test_not_an_endpoint() -> None:
    """What is no endpoint is not even tried."""
    with pytest.raises(InvalidReference):
        TcpStream.connect("nowhere", soon())


# ---- bytes


def test_receive_takes_no_byte_more(pair: Pair) -> None:
    """What was not asked for stays in the stream."""
    stream, peer = pair
    peer.sendall(b"abcdef")
    assert stream.receive(2, soon()) == b"ab"
    assert stream.receive(0, soon()) == b""
    assert stream.receive(4, soon()) == b"cdef"


def test_send_and_receive_in_pieces(pair: Pair) -> None:
    """Megabytes go through, both ways."""
    stream, peer = pair
    data = os.urandom(5_000_000)
    received = bytearray()

    def echo() -> None:
        while len(received) < len(data):
            received.extend(peer.recv(65536))
        peer.sendall(received)

    thread = threading.Thread(target=echo)
    thread.start()
    stream.send(data, soon())
    assert stream.receive(len(data), soon()) == data
    thread.join()


@pytest.mark.parametrize(
    "ask",
    [
        lambda stream, deadline: stream.receive(1, deadline),
        lambda stream, deadline: stream.send(bytes(50_000_000), deadline),
        lambda stream, deadline: stream.receive_into(memoryview(bytearray(1)), deadline.timeout or 0.0),
    ],
    ids=["receive", "send", "receive_into"],
)
@pytest.mark.parametrize("seconds", [0, 0.05])
def test_a_silent_peer(pair: Pair, ask: Callable[[TcpStream, Deadline], object], seconds: float) -> None:
    """A peer that neither sends nor takes anything is given up on."""
    with pytest.raises(DeadlineExceeded, match=r"sent or took nothing for 0(\.0|\.05)? s\."):
        ask(pair[0], Deadline(seconds))


@pytest.mark.parametrize("sent", [b"", b"ab"])
def test_the_peer_hangs_up(pair: Pair, sent: bytes) -> None:
    """The end of the stream, also in the middle of what was asked for, says that the server is gone."""
    stream, peer = pair
    peer.sendall(sent)
    peer.close()
    with pytest.raises(ConnectionFailed, match="closed the connection"):
        stream.receive(5, soon())


def test_a_closed_stream(pair: Pair) -> None:
    """A closed stream fails as a broken one does."""
    stream, _ = pair
    stream.close()
    for ask in (lambda: stream.receive(1, soon()), lambda: stream.send(b"x", soon())):
        with pytest.raises(ConnectionFailed, match=r"The connection to vineyardd at .* broke: Bad file descriptor"):
            ask()


def test_no_file_descriptors(pair: Pair) -> None:
    """TCP carries no descriptors: a peer that announces one is no vineyardd."""
    with pytest.raises(ProtocolError, match="announced a file descriptor over TCP"):
        pair[0].receive_fd(soon())


# ---- blobs

WAYS = [pytest.param(True, id="splice", marks=pytest.mark.skipif(not hasattr(os, "splice"), reason="no splice")), False]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Optional[bool]:
    """With splice, and as where there is none."""
    if not request.param:
        monkeypatch.delattr(os, "splice", raising=False)
    return bool(request.param)


def sending(peer: socket.socket, data: bytes) -> threading.Thread:
    thread = threading.Thread(target=peer.sendall, args=(data,))
    thread.start()
    return thread


@pytest.mark.parametrize("nbytes", [0, 1, 70_000, 3_000_001])
def test_into_a_file(pair: Pair, way: bool, nbytes: int) -> None:
    """The next bytes land in the file where they should, and what follows stays in the stream."""
    stream, peer = pair
    data = os.urandom(nbytes)
    fd = memory((100, b"before"), size=nbytes + 300)
    thread = sending(peer, data + b"next")
    stream.receive_into_file(fd, 106, nbytes, UNIT)
    assert os.pread(fd, nbytes + 300, 0) == bytes(100) + b"before" + data + bytes(194)
    assert stream.receive(4, soon()) == b"next"
    thread.join()
    os.close(fd)


def test_into_memory(pair: Pair) -> None:
    """The next bytes fill a buffer, and what follows stays in the stream."""
    stream, peer = pair
    data = os.urandom(3_000_001)
    target = bytearray(len(data))
    thread = sending(peer, data + b"next")
    stream.receive_into(memoryview(target), UNIT)
    assert target == data
    assert stream.receive(4, soon()) == b"next"
    thread.join()


@pytest.mark.parametrize("sent", [0, 5, 100_000])
def test_a_transfer_that_stalls(pair: Pair, way: bool, sent: int) -> None:
    """A transfer in which nothing comes for too long is given up."""
    stream, peer = pair
    fd = memory(size=300_000)
    thread = sending(peer, bytes(sent))
    with pytest.raises(DeadlineExceeded, match=r"sent or took nothing for 0\.1 s"):
        stream.receive_into_file(fd, 0, 200_000, 0.1)
    thread.join()
    os.close(fd)


@pytest.mark.parametrize("sent", [0, 5, 100_000])
def test_a_transfer_that_ends_early(pair: Pair, way: bool, sent: int) -> None:
    """A peer that goes away in the middle of a blob is an error; so it is into memory."""
    stream, peer = pair
    fd = memory(size=300_000)
    peer.sendall(bytes(sent))
    peer.close()
    with pytest.raises(ConnectionFailed, match="closed the connection"):
        stream.receive_into_file(fd, 0, 200_000, UNIT)
    with pytest.raises(ConnectionFailed, match="closed the connection"):
        stream.receive_into(memoryview(bytearray(5)), UNIT)
    os.close(fd)


def test_a_file_that_takes_nothing(pair: Pair, way: bool, tmp_path: object) -> None:
    """When it is the file that fails, the message blames the store's memory here, not the other host."""
    stream, peer = pair
    read_only = os.open(__file__, os.O_RDONLY)
    thread = sending(peer, bytes(70_000))
    with pytest.raises(ConnectionFailed) as caught:
        stream.receive_into_file(read_only, 0, 70_000, UNIT)
    assert "70000 bytes" in str(caught.value) and "memory" in str(caught.value)
    os.close(read_only)
    stream.close()
    thread.join()


def test_where_splice_does_not_work(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that has splice but not for these files is served by copying."""
    if not hasattr(os, "splice"):
        pytest.skip("no splice")
    calls: List[int] = []

    def refused(*arguments: object, **options: object) -> int:
        calls.append(1)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "splice", refused)
    stream, peer = pair
    fd = memory(size=200)
    peer.sendall(b"x" * 100)
    stream.receive_into_file(fd, 50, 100, UNIT)
    assert os.pread(fd, 200, 0) == bytes(50) + b"x" * 100 + bytes(50) and calls == [1]
    os.close(fd)
