"""The IPC socket, against real sockets: what goes through, and every way in which it can fail."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import pytest
from vineyard_testing import UNIT
from vineyard_testing.peers import Peer, dripping, silent
from vineyard_testing.processes import in_child

from vineyard_client._io.deadline import Deadline
from vineyard_client._io.stream import Stream
from vineyard_client._io.unix import MAX_PATH, UnixStream
from vineyard_client.exceptions import ConnectionFailed, DeadlineExceeded, ProtocolError

NOW = Deadline(0)


def soon() -> Deadline:
    """Return a deadline that is only up when something is broken."""
    return Deadline(UNIT)


def short() -> Deadline:
    """Return a deadline that is up soon, for peers that never answer."""
    return Deadline(0.05)


@pytest.fixture
def pair() -> Iterator[Tuple[UnixStream, socket.socket]]:
    """A stream and the peer's end of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    stream = UnixStream(ours, "/peer")
    yield stream, theirs
    stream.close()
    theirs.close()


Pair = Tuple[UnixStream, socket.socket]


def send_fds(peer: socket.socket, *fds: int) -> None:
    """Send one byte with some descriptors, as the server does with one."""
    peer.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else [])


# ---- connecting


def test_connect(tmp_path: Path) -> None:
    """A connected stream knows its peer's path and process; closing it is idempotent."""
    path = str(tmp_path / "s")
    with Peer(path, lambda connection: connection.sendall(b"hello")):
        stream: Stream = UnixStream.connect(path, soon())
        assert stream.peer == path
        assert isinstance(stream, UnixStream) and stream.peer_pid in (os.getpid(), 0)
        assert stream.receive(5, soon()) == b"hello"
        stream.close()
        stream.close()


def connecting(path: str) -> ConnectionFailed:
    with pytest.raises(ConnectionFailed) as caught:
        UnixStream.connect(path, soon())
    return caught.value


def test_no_such_file(tmp_path: Path) -> None:
    """A path without a file says how to start a server there."""
    path = str(tmp_path / "s")
    assert str(connecting(path)) == (
        f"Cannot connect to vineyardd at {path}: No such file or directory. "
        "There is no such file: start vineyardd there (vineyard-client serve), or correct the path."
    )


def test_nobody_listens(tmp_path: Path) -> None:
    """The socket of a server that died says that the server is gone."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    assert str(connecting(path)) == (
        f"Cannot connect to vineyardd at {path}: Connection refused. "
        "Nobody listens there any more: start vineyardd again."
    )


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_not_a_socket(tmp_path: Path, kind: str) -> None:
    """A path of something else says so, and what to give instead."""
    path = tmp_path / "s"
    {"file": path.touch, "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    assert connecting(str(path)).hint == "It is not a socket: give the path of vineyardd's IPC socket."


def test_another_kind_of_socket(tmp_path: Path) -> None:
    """A datagram socket is a socket, but not vineyardd's."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        assert connecting(path).hint == "It is another kind of socket: give the path of vineyardd's IPC socket."


def test_no_permission(tmp_path: Path) -> None:
    """A socket that this user may not use says so."""
    path = tmp_path / "s"
    with Peer(str(path), silent):
        path.chmod(0)

        def as_nobody() -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            error = connecting(str(path))
            assert error.hint == "Its permissions do not let this user in."

        assert in_child(as_nobody) == 0


@pytest.mark.parametrize("name", ["x" * 200, "é" * 100])
def test_path_too_long(tmp_path: Path, name: str) -> None:
    """A path that no socket can have is refused with its length in bytes and the system's limit."""
    path = str(tmp_path / name)
    error = connecting(path)
    assert error.what == f"The socket path {path!r} has {len(os.fsencode(path))} bytes; the system takes {MAX_PATH}."
    assert error.hint == "Choose a shorter one."


def test_longest_path(tmp_path: Path) -> None:
    """The limit is the system's own: one byte less than too much works."""
    folder = tmp_path
    name = "x" * (MAX_PATH - len(os.fsencode(str(folder))) - 1)
    if not name:
        pytest.skip("the temporary folder's own path is too long")
    path = str(folder / name)
    assert len(os.fsencode(path)) == MAX_PATH
    with Peer(path, silent):
        UnixStream.connect(path, soon()).close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others wait")
def test_a_server_that_does_not_accept(tmp_path: Path) -> None:
    """A listener whose queue is full hangs, and the message says so."""
    path = str(tmp_path / "s")
    waiting: List[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        try:
            for _ in range(8):
                client = socket.socket(socket.AF_UNIX)
                waiting.append(client)
                client.setblocking(False)
                if client.connect_ex(path) == errno.EAGAIN:
                    break
            with pytest.raises(DeadlineExceeded) as caught:
                UnixStream.connect(path, short())
            assert caught.value.hint == "The server does not take connections at present: see whether it hangs."
        finally:
            for client in waiting:
                client.close()


def test_a_server_that_accepts_late(tmp_path: Path) -> None:
    """Who finds the queue full waits for its turn."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        streams = [UnixStream.connect(path, soon())]
        threads = [threading.Thread(target=lambda: streams.append(UnixStream.connect(path, soon()))) for _ in range(5)]
        for thread in threads:
            thread.start()
        accepted = [listener.accept()[0] for _ in range(6)]
        for thread in threads:
            thread.join()
    assert len(streams) == 6
    for end in (*streams, *accepted):
        end.close()


def test_no_descriptor_left(tmp_path: Path) -> None:
    """Running out of files is an error of ours, and says so."""
    path = str(tmp_path / "s")

    def connect() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1,) * 2)
        held = []
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        with pytest.raises(ConnectionFailed, match=r"Too many open files.*ulimit"):
            UnixStream.connect(path, soon())

    with Peer(path, silent):
        assert in_child(connect) == 0


# ---- bytes


def test_receive_takes_no_byte_more(pair: Pair) -> None:
    """What was not asked for stays in the stream."""
    stream, peer = pair
    peer.sendall(b"abcdef")
    assert stream.receive(2, soon()) == b"ab"
    assert stream.receive(4, soon()) == b"cdef"
    with pytest.raises(DeadlineExceeded):
        stream.receive(1, NOW)


def test_send_and_receive_in_pieces(pair: Pair) -> None:
    """Megabytes go through although the socket takes them in pieces, both ways."""
    stream, peer = pair
    data = os.urandom(3_000_000)
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


def test_a_slow_peer(tmp_path: Path) -> None:
    """The deadline is for the whole of a call: bytes that trickle in do not extend it."""
    path, stop = str(tmp_path / "s"), threading.Event()
    with Peer(path, dripping(b"x" * 10_000, stop)):
        stream = UnixStream.connect(path, soon())
        stream.send(b"?", soon())
        with pytest.raises(DeadlineExceeded) as caught:
            stream.receive(10_000, Deadline(0.1))
        stop.set()
        stream.close()
    assert str(caught.value) == (
        f"vineyardd at {path} did not answer within 0.1 s. "
        "See whether it hangs or the machine is overloaded; a larger timeout can be given to connect()."
    )


def test_a_silent_peer(pair: Pair) -> None:
    """A peer that says nothing is given up on, whatever was asked of it."""
    stream, _ = pair
    for ask in (lambda: stream.receive(1, short()), lambda: stream.receive_fd(short())):
        with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.05 s"):
            ask()


def test_a_peer_that_does_not_read(pair: Pair) -> None:
    """Sending has a deadline, too."""
    stream, _ = pair
    with pytest.raises(DeadlineExceeded):
        stream.send(bytes(50_000_000), short())


def asks(stream: UnixStream) -> List[Callable[[], object]]:
    return [
        lambda: stream.receive(1, NOW),
        lambda: stream.receive_fd(NOW),
        lambda: stream.send(bytes(50_000_000), NOW),
    ]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_time_left(pair: Pair, number: int) -> None:
    """A deadline that is up already is DeadlineExceeded too, not the system's "temporarily unavailable"."""
    with pytest.raises(DeadlineExceeded, match="did not answer within 0 s"):
        asks(pair[0])[number]()


def test_no_time_left_but_the_answer_is_there(pair: Pair) -> None:
    """What has arrived is taken even at the last moment."""
    stream, peer = pair
    peer.sendall(b"abc")
    assert stream.receive(3, NOW) == b"abc"


@pytest.mark.parametrize("sent", [b"", b"ab"])
def test_the_peer_hangs_up(pair: Pair, sent: bytes) -> None:
    """The end of the stream, also in the middle of what was asked for, says that the server is gone."""
    stream, peer = pair
    peer.sendall(sent)
    peer.close()
    with pytest.raises(ConnectionFailed) as caught:
        stream.receive(5, soon())
    assert str(caught.value) == (
        "vineyardd at /peer closed the connection. "
        "It stopped or crashed, or is not vineyardd: see its log. The next call connects anew."
    )


def test_a_reset(pair: Pair) -> None:
    """A peer that goes away with our bytes unread resets the connection; sending to it fails as well."""
    stream, peer = pair
    stream.send(b"unread", soon())
    peer.close()
    with pytest.raises(ConnectionFailed) as caught:
        stream.receive(5, soon())
    assert str(caught.value) == (
        "The connection to vineyardd at /peer broke: Connection reset by peer. "
        "See the server's log; the next call connects anew."
    )
    with pytest.raises(ConnectionFailed, match="Broken pipe"):
        stream.send(b"more", soon())


def test_a_closed_stream(pair: Pair) -> None:
    """A closed stream fails as a broken one does."""
    stream, _ = pair
    stream.close()
    with pytest.raises(ConnectionFailed, match="broke: Bad file descriptor"):
        stream.receive(1, soon())


def test_close_does_not_shut_down(pair: Pair) -> None:
    """After a fork the parent's conversation goes on when the child closes its copy."""
    stream, peer = pair
    assert in_child(stream.close) == 0
    peer.sendall(b"x")
    assert stream.receive(1, soon()) == b"x"


# ---- file descriptors


def test_receive_fd(pair: Pair) -> None:
    """A descriptor rides on one byte; ours is a new one for the same file, and no child process inherits it."""
    stream, peer = pair
    peer.sendall(b"{}")
    with open(__file__, "rb") as file:
        send_fds(peer, file.fileno())
        peer.sendall(b"next")
        assert stream.receive(2, soon()) == b"{}"
        owned = stream.receive_fd(soon())
        assert owned.fd != file.fileno()
        assert os.path.sameopenfile(owned.fd, file.fileno())
        assert not os.get_inheritable(owned.fd)
        owned.close()
    assert stream.receive(4, soon()) == b"next"


def test_missing_fd(pair: Pair) -> None:
    """A byte without a descriptor is an error that names the usual reason."""
    stream, peer = pair
    peer.sendall(b"\0")
    with pytest.raises(ProtocolError) as caught:
        stream.receive_fd(soon())
    assert str(caught.value) == (
        "vineyardd at /peer announced a file descriptor and sent 0. "
        "Check the limit of open files (ulimit -n) of this process."
    )


@pytest.mark.parametrize("count", [2, 3, 30])
def test_too_many_fds(pair: Pair, count: int) -> None:
    """More descriptors than one, whether the kernel cuts them off or not, are an error and none of them leaks."""
    stream, peer = pair
    send_fds(peer, *[0] * count)
    with pytest.raises(ProtocolError, match=r"announced a file descriptor and sent [012]\."):
        stream.receive_fd(soon())


def test_truncated_ancillary_data(pair: Pair) -> None:
    """A descriptor that this process has no room for is an error, not a hole in the stream."""
    import resource

    stream, peer = pair
    send_fds(peer, 0)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(ProtocolError, match="Check the limit of open files"):
            stream.receive_fd(soon())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_other_ancillary_data(pair: Pair) -> None:
    """Control messages of another kind are no descriptors."""
    if not hasattr(socket, "SO_PASSCRED"):
        pytest.skip("this system has no credentials to pass")
    stream, peer = pair
    stream._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    peer.sendmsg([b"\0"], [(socket.SOL_SOCKET, 2, struct.pack("3i", os.getpid(), os.getuid(), os.getgid()))])
    with pytest.raises(ProtocolError, match=r"sent 0\."):
        stream.receive_fd(soon())


def test_the_peer_hangs_up_instead_of_an_fd(pair: Pair) -> None:
    """The end of the stream where a descriptor should come says that the server is gone."""
    stream, peer = pair
    peer.close()
    with pytest.raises(ConnectionFailed, match="closed the connection"):
        stream.receive_fd(soon())
