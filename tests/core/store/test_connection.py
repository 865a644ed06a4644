"""One conversation over a scripted stream: registering, calls in order, what a failure leaves, forks."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any, Callable, List, Optional

import pytest
from vineyard_testing import UNIT
from vineyard_testing.conversations import (
    BLOB,
    CONTENT,
    EXISTS,
    OTHER,
    REFUSED,
    SEALED,
    connected,
    found,
    mapped,
    script,
    told,
    types,
)
from vineyard_testing.processes import fork, in_child, run_python, wait
from vineyard_testing.streams import REGISTERED, Descriptor, ScriptedStream, frame

from vineyard_client._io.pinfile import PinFile
from vineyard_client._store.connection import Connection, Exchange
from vineyard_client._wire.messages import CreateBuffer, Exists, GetBuffers, GetData, Register, Seal
from vineyard_client.exceptions import (
    ConnectionFailed,
    DeadlineExceeded,
    ProtocolError,
    ServerError,
    StoreFull,
    UnsupportedVersion,
)


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
            {**REGISTERED, "version": "0.13.0"},
            UnsupportedVersion,
            "vineyardd at scripted is 0.13.0; this client needs 0.13.1 or newer. "
            "Upgrade the server (pip install --upgrade vineyard-bdist).",
        ),
        ({**REGISTERED, "version": "0.13"}, UnsupportedVersion, "vineyardd at scripted is 0.13; this client needs"),
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


@pytest.mark.parametrize("version", ["0.13.1", "0.24.2", "1.0.0", "0.14.6.1"])
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


def test_a_server_that_answers_out_of_turn() -> None:
    """Early releases are asked one thing at a time, also what is behind an exception."""
    steps = (EXISTS, SEALED, KeyboardInterrupt(), {**EXISTS, "exists": False}, EXISTS)
    connection = Connection(ScriptedStream({**REGISTERED, "version": "0.14.5"}, *steps, registered=None), timeout=UNIT)
    sent: List[int] = []
    receive = script(connection).receive
    script(connection).receive = lambda *a: (sent.append(len(types(connection))), receive(*a))[1]  # type: ignore
    with pytest.raises(KeyboardInterrupt):
        connection.call_all(Exists(1), Seal(2), Exists(3))
    assert connection.call(Exists(4))
    assert sorted(set(sent)) == [1, 2, 3, 4] and not script(connection).steps


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
