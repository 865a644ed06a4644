"""One conversation over a scripted stream: calls in order, fds, memory, pins, and what a failure leaves."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
from vineyard_testing import UNIT
from vineyard_testing.processes import fork, in_child, run_python, wait
from vineyard_testing.streams import REGISTERED, Descriptor, ScriptedStream, frame, got_buffers, memory, payload

from vineyard_client._io.pinfile import PinFile
from vineyard_client._store.connection import Connection, Exchange, Pin
from vineyard_client._wire.messages import (
    CreateBuffer,
    Exists,
    GetBuffers,
    GetData,
    Payload,
    Register,
    Release,
    Seal,
)
from vineyard_client.exceptions import (
    ConnectionFailed,
    DeadlineExceeded,
    ObjectCorrupted,
    ProtocolError,
    ServerError,
    StoreFull,
    UnsupportedVersion,
)

EXISTS = {"type": "exists_reply", "exists": True}
SEALED = {"type": "seal_reply"}
RELEASED = {"type": "release_reply"}
NOTHING = {"type": "get_data_reply", "content": None}
REFUSED = {"code": 14, "message": "not sealed"}

BLOB, OTHER = (1 << 63) | 5, (1 << 63) | 6
CONTENT = bytes(i % 251 for i in range(20_000))


def connected(*steps: Any, rpc: bool = False) -> Connection:
    registered = {**REGISTERED, "rpc_endpoint": "scripted:9600"} if rpc else REGISTERED
    return Connection(ScriptedStream(*steps, registered=registered), timeout=UNIT)


def script(connection: Connection) -> ScriptedStream:
    stream = connection.conversation.stream
    assert isinstance(stream, ScriptedStream)
    return stream


def types(connection: Connection) -> List[str]:
    """Return what was sent after registering."""
    return [message["type"] for message in script(connection).sent[1:]]


@pytest.fixture
def store() -> Iterator[int]:
    """The store's memory: CONTENT from offset 64 on."""
    fd = memory((64, CONTENT))
    yield fd
    os.close(fd)


def places(blob: int = BLOB, size: int = len(CONTENT)) -> Dict[str, Any]:
    return payload(blob, 64, size)


def found(store: Optional[int] = None, blob: int = BLOB) -> List[Any]:
    """Return the steps that answer ``pin``; with the store's fd the first time."""
    if store is None:
        return [got_buffers([places(blob)]), NOTHING]
    return [got_buffers([places(blob)], fds=[7]), Descriptor(store), NOTHING]


def pinned(connection: Connection, blob: int = BLOB) -> Tuple[Pin, Payload]:
    pin = connection.pin(blob)
    place, _ = pin.take(GetData([1]))
    assert place is not None
    return pin, place


def placed(connection: Connection, blob: int = BLOB) -> Payload:
    """Pin a blob for as long as the connection is there."""
    pin, place = pinned(connection, blob)
    connection.__dict__.setdefault("kept", []).append(pin)
    return place


def mapped(connection: Connection, blob: int = BLOB) -> memoryview:
    """Return a view, which has what it needs: its pin is given back at once."""
    pin, place = pinned(connection, blob)
    try:
        return connection.map(place, pin)
    finally:
        pin.release()


def told(connection: Connection) -> None:
    """Have the server told of what was dropped, as a finalizer does where there is a real socket."""
    gc.collect()
    connection.conversation.release_dropped()


# ---- registering


def test_registering() -> None:
    """A connection registers first and knows its instance."""
    connection = Connection(ScriptedStream(), timeout=UNIT, username="me", password="secret")
    assert script(connection).sent == [Register("me", "secret").message()]
    assert connection.instance.version == "0.24.2"
    assert (connection.peer, connection.usable, connection.pid) == ("scripted", True, os.getpid())
    assert repr(connection) == "<Connection to scripted, usable, 0 pinned>"
    connection.close()
    assert repr(connection) == "<Connection to scripted, retired, 0 pinned>"


@pytest.mark.parametrize(
    "reply, kind, text",
    [
        (
            {**REGISTERED, "version": "0.13.9"},
            UnsupportedVersion,
            "vineyardd at scripted is 0.13.9; this client needs 0.14.6 or newer. "
            "Upgrade the server (pip install --upgrade vineyard-bdist).",
        ),
        ({**REGISTERED, "version": "0.14"}, UnsupportedVersion, "vineyardd at scripted is 0.14; this client needs"),
        ({"type": "register_reply", "instance_id": 0}, UnsupportedVersion, "vineyardd at scripted is 0.0.0"),
        ({**REGISTERED, "version": "newest"}, ProtocolError, "scripted calls its version 'newest'."),
        ({"type": "hello"}, ProtocolError, "scripted: The server answered register_request with 'hello'. Check that"),
        ({"code": 33, "message": "no"}, ConnectionFailed, "vineyardd refused register_request with code 33: no."),
        (b"HTTP/1.1 400 Bad Request", ProtocolError, "scripted: The peer announced a message of"),
        (ConnectionFailed("gone"), ConnectionFailed, "gone"),
    ],
)
def test_registering_fails(reply: Any, kind: type, text: str) -> None:
    """What is not a vineyardd that we know raises its own error, and the stream is closed."""
    stream = ScriptedStream(reply, registered=None)
    with pytest.raises(kind) as caught:
        Connection(stream, timeout=UNIT)
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text)
    assert stream.closed


@pytest.mark.parametrize("version", ["0.14.6", "0.24.2", "1.0.0", "0.14.6.1"])
def test_versions_that_will_do(version: str) -> None:
    """The oldest tested server, and every newer one."""
    stream = ScriptedStream({**REGISTERED, "version": version}, registered=None)
    assert Connection(stream, timeout=UNIT).instance.version == version


# ---- calls


def test_pipeline() -> None:
    """Requests go out together, and each reply belongs to its request."""
    connection = connected(EXISTS, SEALED, {**EXISTS, "exists": False})
    assert connection.call_all(Exists(1), Seal(2), Exists(3)) == [True, None, False]
    assert types(connection) == ["exists_request", "seal_request", "exists_request"]
    assert connection.call_all() == []


def test_a_long_pipeline() -> None:
    """Many requests go out in portions, so that neither end waits for the other to read."""
    connection = connected(*[{**EXISTS, "exists": bool(i % 2)} for i in range(200)])
    sent_before_reply: List[int] = []
    receive = script(connection).receive
    script(connection).receive = lambda *a: (sent_before_reply.append(len(script(connection).sent)), receive(*a))[1]  # type: ignore
    assert connection.call_all(*[Exists(i) for i in range(200)]) == [bool(i % 2) for i in range(200)]
    replies_read = [i // 2 for i in range(len(sent_before_reply))]  # each reply is a length and a body
    assert max(sent - 1 - read for sent, read in zip(sent_before_reply, replies_read)) <= 64


def test_refusals_in_a_pipeline() -> None:
    """A refusal is raised when all replies are in; the connection stays in step and usable."""
    full = {"code": 41, "message": "full"}
    connection = connected(SEALED, REFUSED, full, SEALED, EXISTS)
    with pytest.raises(ServerError, match="code 14: not sealed"):
        connection.call_all(Seal(1), Seal(2), CreateBuffer(3), Seal(4))
    assert connection.usable
    assert connection.call(Exists(1)) is True


def test_outcomes() -> None:
    """``outcomes`` returns refusals in their places instead."""
    connection = connected(SEALED, REFUSED, {"code": 41, "message": "full"})
    one, two, three = connection.outcomes(Seal(1), Seal(2), CreateBuffer(3))
    assert one is None
    assert type(two) is ServerError and two.code == 14
    assert type(three) is StoreFull


RETIRED = [
    ("replies out of order", [SEALED, EXISTS], ProtocolError),
    ("a reply of another type", [{"type": "other"}], ProtocolError),
    ("no JSON", [b"\x05\0\0\0\0\0\0\0hello"], ProtocolError),
    ("a hostile size", [b"\xff" * 8], ProtocolError),
    ("an fd announced and not sent", [{**EXISTS, "fd": 7}, SEALED], ProtocolError),
    ("an fd announced oddly", [{**EXISTS, "fd": "x"}], ProtocolError),
    ("an error with an fd that does not come", [{**REFUSED, "fd": 7}], ConnectionFailed),
    ("the peer hangs up", [], ConnectionFailed),
    ("the peer hangs up in a reply", [b"\x05\0\0\0\0"], ConnectionFailed),
    ("a second reply is missing", [EXISTS], ConnectionFailed),
    ("time is up", [DeadlineExceeded("too slow")], DeadlineExceeded),
]


@pytest.mark.parametrize("steps, kind", [case[1:] for case in RETIRED], ids=[case[0] for case in RETIRED])
def test_half_a_step_retires_the_connection(steps: List[Any], kind: type) -> None:
    """When nobody can say where the stream stands, it is closed, and no call goes through the connection again."""
    connection = connected(*steps)
    with pytest.raises(kind) as caught:
        connection.call_all(Exists(1), Seal(2))
    assert type(caught.value) is kind
    if kind is ProtocolError:
        assert str(caught.value).startswith("scripted: ")
        assert str(caught.value).endswith("Check that the socket belongs to vineyardd and not to another program.")
    assert not connection.usable and script(connection).closed
    sent = len(script(connection).sent)
    with pytest.raises(ConnectionFailed) as again:
        connection.call(Exists(1))
    assert str(again.value) == "The connection to scripted is closed. Connect anew."
    assert len(script(connection).sent) == sent


def test_sending_fails() -> None:
    """Part of a request may be out: the connection is retired just the same."""
    connection = connected()
    stream = script(connection)

    def broken(data: bytes, deadline: object, sent: object) -> None:
        raise ConnectionFailed("broken")

    stream.send = broken  # type: ignore[assignment]
    with pytest.raises(ConnectionFailed, match="broken"):
        connection.call(Exists(1))
    assert stream.closed


def test_close_is_idempotent() -> None:
    """A closed connection is retired, however often it is closed."""
    connection = connected()
    connection.close()
    connection.close()
    assert script(connection).closed and not connection.usable


def test_a_dropped_connection_closes() -> None:
    """Who forgets a connection leaks nothing."""
    connection = connected()
    stream = script(connection)
    del connection
    gc.collect()
    assert stream.closed


def test_calls_from_threads_do_not_mix() -> None:
    """A request, its reply and the fds behind it are one step, whoever else calls."""
    inside = threading.Semaphore(1)

    def alone() -> None:
        assert inside.acquire(blocking=False), "two calls at once"
        inside.release()

    connection = connected(*[step for i in range(400) for step in (alone, {**EXISTS, "exists": True})])
    errors: List[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                assert connection.call(Exists(1)) is True
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_call_in_the_middle_of_a_call() -> None:
    """A signal handler, or a ``__del__``, that calls in the middle of a call of its thread does not wait for ever.

    It is refused, and the call that it interrupted goes on, in step.
    """
    refused: List[str] = []

    def handler() -> None:
        for use in (lambda: connection.call(Exists(2)), lambda: connection.pin(BLOB).take(GetData([1]))):
            with pytest.raises(ConnectionFailed) as caught:
                use()
            refused.append(str(caught.value))

    connection = connected(handler, EXISTS, EXISTS)
    assert connection.call(Exists(1)) is True
    assert (
        refused
        == [
            "A client was called in the middle of another call of the same thread. "
            "Do not use it in a signal handler or a __del__ method, or use another client there."
        ]
        * 2
    )
    assert connection.usable and connection.call(Exists(3)) is True
    assert types(connection) == ["exists_request", "exists_request"]


def test_a_close_in_the_middle_of_a_call() -> None:
    """Closing is possible even there; the call that was interrupted fails."""
    connection = connected(lambda: connection.close(), ConnectionFailed("closed"))
    with pytest.raises(ConnectionFailed, match="closed"):
        connection.call(Exists(1))
    assert not connection.usable and script(connection).closed
    connection.close()


INTERRUPTED = [
    ("before anything is sent", "send", []),
    ("before the first reply", None, [KeyboardInterrupt(), EXISTS, SEALED]),
    ("in a reply", None, [frame(EXISTS)[:5], KeyboardInterrupt(), frame(EXISTS)[5:], SEALED]),
    ("between two replies", None, [EXISTS, KeyboardInterrupt(), SEALED]),
    ("in front of a descriptor", None, [{**EXISTS, "fd": 7}, KeyboardInterrupt(), Descriptor(0), SEALED]),
]


@pytest.mark.parametrize("where, steps", [case[1:] for case in INTERRUPTED], ids=[case[0] for case in INTERRUPTED])
def test_an_interrupted_call(where: Optional[str], steps: List[Any]) -> None:
    """An exception from outside passes through; what is on its way is finished, and the connection stays in step."""
    connection = connected(*steps, {**EXISTS, "exists": False})
    stream = script(connection)
    if where == "send":
        stream.ask = stream.send = _interrupted  # type: ignore[method-assign,assignment]
    asked = Exchange(Exists(1), Seal(2))
    with pytest.raises(KeyboardInterrupt):
        connection.run(asked)
    assert asked.outcomes == ([] if where == "send" else [True, None])
    stream.__dict__.pop("ask", None), stream.__dict__.pop("send", None)
    assert connection.usable and connection.call(Exists(3)) is False
    connection.close()


def _interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


# ---- memory


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


# ---- pins


def test_pin_and_unpin(store: int) -> None:
    """A pin is one mark, given back once."""
    connection = connected(*found(store), RELEASED)
    pin, place = pinned(connection)
    assert place == Payload(BLOB, 7, 64, len(CONTENT), 1 << 16)
    assert repr(connection) == "<Connection to scripted, usable, 1 pinned>"
    pin.release()
    assert repr(connection) == "<Connection to scripted, usable, 0 pinned>"
    assert script(connection).sent[1:] == [
        GetBuffers([BLOB]).message(),
        GetData([1]).message(),
        Release(BLOB).message(),
    ]


def test_pins_are_counted(store: int) -> None:
    """The server knows one mark per blob and connection: it falls with the last pin, not with the first."""
    connection = connected(*found(store), *found(), *found(), RELEASED)
    pins = [pinned(connection)[0] for _ in range(3)]
    for pin in (pins[0], pins[0], pins[1]):
        pin.release()
    assert "release_request" not in types(connection)
    pins[2].release()
    assert types(connection).count("release_request") == 1


def test_a_pin_on_nothing(store: int) -> None:
    """A blob that is gone is no error, and leaves no pin."""
    connection = connected(got_buffers([]), NOTHING, {"code": 12, "message": "no mark"}, EXISTS)
    pin = connection.pin(BLOB)
    assert pin.take(GetData([1])) == (None, {})
    pin.release()
    assert repr(connection) == "<Connection to scripted, usable, 0 pinned>"
    assert connection.call(Exists(1))


@pytest.mark.parametrize("first_refused", [True, False])
def test_a_refused_pin(store: int, first_refused: bool) -> None:
    """A refusal, of the blob or of the question behind it, leaves no pin and no mark."""
    if first_refused:
        steps: List[Any] = [REFUSED, RELEASED]  # what comes second is not asked before the memory is there
    else:
        steps = [got_buffers([places()], fds=[7]), Descriptor(store), REFUSED, RELEASED]
    connection = connected(*steps, EXISTS)
    pin = connection.pin(BLOB)
    with pytest.raises(ServerError, match="code 14"):
        pin.take(GetData([1]))
    pin.release()
    assert repr(connection) == "<Connection to scripted, usable, 0 pinned>"
    assert connection.call(Exists(1))


def test_a_pin_that_breaks(store: int) -> None:
    """A connection that breaks while it pins keeps nothing open."""
    connection = connected(got_buffers([places()], fds=[7]), Descriptor(store), DeadlineExceeded("slow"))
    pin = connection.pin(BLOB)
    with pytest.raises(DeadlineExceeded):
        pin.take(GetData([1]))
    pin.release()
    assert script(connection).closed


def test_map_takes_the_pin_over(store: int) -> None:
    """A mapped view is the blob, is the caller's to change, and gives the pin back when nothing refers to it."""
    connection = connected(*found(store), RELEASED)
    view = mapped(connection)
    assert bytes(view) == CONTENT
    view[:] = bytes(len(CONTENT))
    assert os.pread(store, len(CONTENT), 64) == CONTENT
    part = view[5:10]
    del view
    told(connection)
    assert "release_request" not in types(connection)
    del part
    told(connection)
    assert types(connection)[-1] == "release_request"


def test_several_views_of_a_blob(store: int) -> None:
    """Each get has a mapping of its own; the mark stays until the last is gone."""
    connection = connected(*found(store), *found(), RELEASED)
    one, two = mapped(connection), mapped(connection)
    one[0] = 255
    assert two[0] == 0
    del one
    told(connection)
    assert "release_request" not in types(connection)
    del two
    told(connection)
    assert types(connection).count("release_request") == 1


def test_a_view_dropped_in_the_middle_of_a_call(store: int) -> None:
    """The garbage collector may drop a view while this thread waits for a reply: the release follows the call."""
    views: List[memoryview] = []

    def collector() -> None:
        views.clear()
        gc.collect()

    connection = connected(*found(store), collector, EXISTS, RELEASED)
    views.append(mapped(connection))
    assert connection.call(Exists(1))
    assert types(connection)[-2:] == ["exists_request", "release_request"]
    assert repr(connection) == "<Connection to scripted, usable, 0 pinned>"


def test_a_view_dropped_while_others_are_released(store: int) -> None:
    """What dies while another's mark is being dropped follows with the next call."""
    views: List[memoryview] = []
    connection = connected(*found(store), *found(blob=OTHER), views.clear, RELEASED, EXISTS, RELEASED)
    first = mapped(connection)
    views.append(mapped(connection, OTHER))
    del first
    told(connection)
    assert connection.call(Exists(1))
    assert types(connection)[-3:] == ["release_request", "exists_request", "release_request"]
    assert {m["object_id"] for m in script(connection).sent if m["type"] == "release_request"} == {BLOB, OTHER}


def test_a_view_dropped_by_another_thread_during_a_call(store: int) -> None:
    """Whoever holds the conversation releases what others dropped meanwhile; they do not wait."""
    views: List[memoryview] = []

    def other_thread() -> None:
        thread = threading.Thread(target=views.clear)
        thread.start()
        thread.join()  # it did not wait for the call to end

    connection = connected(*found(store), other_thread, EXISTS, RELEASED)
    views.append(mapped(connection))
    assert connection.call(Exists(1))
    assert types(connection)[-1] == "release_request"


def test_a_release_that_is_refused(store: int, caplog: pytest.LogCaptureFixture) -> None:
    """A mark that is gone already, with the blob, is no error for whoever drops a view."""
    caplog.set_level("DEBUG", "vineyard_client")
    connection = connected(*found(store), {"code": 12, "message": "no such object"}, EXISTS)
    view = mapped(connection)
    del view
    told(connection)
    assert connection.call(Exists(1))
    assert "releasing a pin on scripted: vineyardd refused release_request with code 12" in caplog.text
    connection.close()  # the log record keeps the error, and that the connection


def test_a_release_that_breaks(store: int) -> None:
    """Whoever drops a view hears nothing of a connection that broke; the next call does."""
    connection = connected(*found(store))
    view = mapped(connection)
    del view
    told(connection)
    with pytest.raises(ConnectionFailed):
        connection.call(Exists(1))
    assert not connection.usable and script(connection).closed


@pytest.mark.parametrize("how", ["closed", "broken", "dropped"])
def test_views_outlive_the_connection(store: int, how: str) -> None:
    """Live views keep the socket, and so the server's marks, of a retired connection; the last one closes it."""
    connection = connected(*found(store), *found(blob=OTHER))
    stream = script(connection)
    one, two = mapped(connection), mapped(connection, OTHER)
    if how == "closed":
        connection.close()
    elif how == "broken":
        with pytest.raises(ConnectionFailed):
            connection.call(Exists(1))
    del connection
    gc.collect()
    assert not stream.closed
    assert bytes(one) == bytes(two) == CONTENT
    del one
    gc.collect()
    assert not stream.closed
    sent = [message["type"] for message in stream.sent]
    del two
    gc.collect()
    assert stream.closed or how == "dropped"
    if how == "dropped":
        # Nothing retired it: it says goodbye to each mark and goes when it is collected.
        gc.collect()
        assert stream.closed
    else:
        assert [message["type"] for message in stream.sent] == sent


# ---- locks on the store's memory


@pytest.fixture
def pin_files(store: int) -> Iterator[Callable[[], PinFile]]:
    """Open files of others on the store's memory, any number of them."""
    opened: List[PinFile] = []

    def open_one() -> PinFile:
        file = PinFile.of(store)
        if file is None:
            pytest.skip("no such locks on this system")
        opened.append(file)
        return file

    yield open_one
    for file in opened:
        file.close()


def test_pins_are_locks_on_the_memory(store: int, pin_files: Callable[[], PinFile]) -> None:
    """A pin is locked before the object is looked up again, the first one, too, and falls with the last view."""
    watcher, seen = pin_files(), []

    def look() -> None:
        seen.append(watcher.held_by_others(BLOB))

    first = found(store)
    connection = connected(*first[:-1], look, first[-1], look, *found(), RELEASED)
    one = mapped(connection)
    two = mapped(connection)
    assert seen == [True, True]
    del one
    told(connection)
    assert watcher.held_by_others(BLOB)
    del two
    told(connection)
    assert not watcher.held_by_others(BLOB)


def in_use(answer: bool) -> Dict[str, Any]:
    return {"type": "is_in_use_reply", "is_in_use": answer}


def test_in_use(store: int, pin_files: Callable[[], PinFile]) -> None:
    """A blob is in use if the server says so, if somebody else holds it, or if this connection does."""
    pin_files().hold(OTHER)
    connection = connected(*found(store), *[in_use(number == 1) for number in range(4)], RELEASED)
    pin, _ = pinned(connection)
    assert connection.in_use([0, 1, OTHER, BLOB]) == [False, True, True, True]
    pin.release()
    script(connection).expect(in_use(False))
    assert connection.in_use([BLOB]) == [False]
    assert connection.in_use([]) == []


def test_in_use_without_the_memory(store: int, pin_files: Callable[[], PinFile]) -> None:
    """Who never read anything has the memory sent first, where the server's RPC is on and its marks can be lost."""
    pin_files().hold(BLOB)
    connection = connected(got_buffers([places()], fds=[7]), Descriptor(store), RELEASED, in_use(False), rpc=True)
    assert connection.in_use([BLOB]) == [True]
    script(connection).expect(in_use(False))
    assert connection.in_use([OTHER]) == [False]
    connection.close()


@pytest.mark.parametrize("others, expected", [(1, False), (2, True)])
def test_in_use_without_locks(
    store: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, others: int, expected: bool
) -> None:
    """Where the memory cannot be locked, it is in use while anybody else is connected, and the log says so."""
    monkeypatch.setattr(PinFile, "of", lambda memory, owner: None)
    meta = {"instance_id": 0, "deployment": "local", "memory_usage": 0, "memory_limit": 0, "ipc_connections": others}
    status = {"type": "instance_status_reply", "meta": meta}
    buffers = [got_buffers([places()], fds=[7]), Descriptor(store), RELEASED]
    connection = connected(*buffers, in_use(False), status, rpc=True)
    assert connection.in_use([BLOB]) == [expected]
    assert "the store's memory cannot be locked here" in caplog.text
    connection.close()


def test_a_retired_connection_lets_go_of_the_file(store: int, pin_files: Callable[[], PinFile]) -> None:
    """The file is closed with the socket: at once, or with the last view."""
    watcher = pin_files()
    connection = connected(*found(store))
    view = mapped(connection)
    connection.close()
    assert watcher.held_by_others(BLOB)
    del view, connection
    gc.collect()
    assert not watcher.held_by_others(BLOB)


# ---- fork


def test_a_child_does_not_talk(store: int) -> None:
    """An inherited connection takes no call: parent and child would read each other's replies."""
    connection = connected(*found(store), EXISTS)

    def child() -> None:
        assert not connection.usable
        assert repr(connection) == f"<Connection to scripted, inherited from {os.getppid()}, 0 pinned>"
        with pytest.raises(ConnectionFailed):
            connection.call(Exists(1))
        assert len(script(connection).sent) == 1

    assert in_child(child) == 0
    assert connection.usable


def test_a_child_lets_go(store: int) -> None:
    """A child closes its copy at once, but not while inherited views need the marks."""
    connection = connected(*found(store), EXISTS)

    def child() -> None:
        assert script(connection).closed

    assert in_child(child) == 0
    assert connection.usable
    view = mapped(connection)

    def child_with_view() -> None:
        nonlocal view, connection
        stream = script(connection)
        assert not connection.usable and not stream.closed
        assert bytes(view) == CONTENT
        del view, connection
        gc.collect()
        assert stream.closed
        assert [message["type"] for message in stream.sent[1:]] == ["get_buffers_request", "get_data_request"]

    assert in_child(child_with_view) == 0
    assert bytes(view) == CONTENT


def test_a_parent_leaves_the_marks_to_a_child(store: int) -> None:
    """Parent and child share the marks, so the parent drops none: they fall with the last of both.

    Calls that are under way go on; others belong to a new conversation.
    """
    connection = connected(*found(store), *found(blob=OTHER), EXISTS)
    stream = script(connection)
    inherited = mapped(connection)
    assert not connection.conversation.leaving
    assert in_child(lambda: None) == 0
    assert connection.conversation.leaving and connection.call_all(GetBuffers([OTHER]), GetData([1]), Exists(1))
    del inherited
    told(connection)
    assert "release_request" not in types(connection) and not stream.closed
    del connection
    gc.collect()
    assert stream.closed


def test_views_pinned_before_the_fork_are_the_childs_too(store: int, pin_files: Callable[[], PinFile]) -> None:
    """The child's view stays valid and marked when the parent closes and drops everything."""
    watcher = pin_files()
    connection = connected(*found(store))
    view: Optional[memoryview] = mapped(connection)
    go, say = os.pipe()

    def child() -> None:
        os.read(go, 1)
        assert view is not None and bytes(view) == CONTENT

    pid = fork(child)
    connection.close()
    view = connection = None  # type: ignore[assignment]
    gc.collect()
    assert watcher.held_by_others(BLOB)
    os.write(say, b"!")
    assert wait(pid) == 0
    assert not watcher.held_by_others(BLOB)
    os.close(go)
    os.close(say)


FORK_WHILE_CONNECTING = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what this is about
from vineyard_client._store.connection import Connection
from vineyard_testing.streams import ScriptedStream

sys.setswitchinterval(1e-6)
stop = threading.Event()
failed = []
sys.unraisablehook = lambda unraisable: failed.append(unraisable.exc_value)

def connect():
    kept = []
    while not stop.is_set():
        kept.append(Connection(ScriptedStream(), timeout=None))
        del kept[:-50]

kept = [Connection(ScriptedStream(), timeout=None) for _ in range(200)]
threads = [threading.Thread(target=connect) for _ in range(2)]
[thread.start() for thread in threads]
for _ in range(60):
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
stop.set()
[thread.join() for thread in threads]
assert not failed, failed
"""


def test_forking_while_others_connect() -> None:
    """Remembering the pins at a fork is safe while other threads make and drop connections."""
    result = run_python(FORK_WHILE_CONNECTING)
    assert result.returncode == 0, result.stderr
