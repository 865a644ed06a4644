"""One conversation over a scripted stream: pins, and who can see them."""

from __future__ import annotations

import gc
import os
import threading
from typing import Any, Callable, Dict, List

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
    mapped,
    pinned,
    places,
    script,
    told,
    types,
)
from vineyard_testing.streams import Descriptor, got_buffers

from vineyard_client._io.pinfile import PinFile
from vineyard_client._wire.messages import Exists, GetBuffers, GetData, Payload, Release
from vineyard_client.exceptions import ConnectionFailed, DeadlineExceeded, ServerError


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
