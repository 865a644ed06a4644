"""What an interruption, a fork and a deadline do: real signals, real children, a server that stands still."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import random
import resource
import signal
import struct
import threading
import time
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any, Callable, Iterator, List, Optional

import pytest
from vineyard_testing import UNIT, until
from vineyard_testing.processes import fork, in_child, paused, run_python, wait

import vineyard_client as vc
from vineyard_client._store.meta import ValueMeta

pytestmark = pytest.mark.integration

LARGE = memoryview(bytes([5]) * 300_000)


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.fixture
def store() -> Iterator[vc.Client]:
    """A client of a store of its own."""
    with vc.EmbeddedServer("64Mi") as server, vc.connect(server.socket) as client:
        yield client


def used(client: vc.Client) -> int:
    return client.status().memory_used


def server_of(client: vc.Client) -> int:
    """Return the process id of its server."""
    stream: Any = client._connection().conversation.stream
    return int(stream.peer_pid)


def clean(client: vc.Client) -> None:
    gc.collect()
    for info in list(client.list()):
        client.delete(info.ref)
    client.collect()


@pytest.fixture
def handler() -> Iterator[None]:
    """SIGALRM raises, as it does for Airflow's execution_timeout."""

    def interrupt(number: int, frame: Optional[FrameType]) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# ---- signals


def test_hundreds_of_interrupted_calls(store: vc.Client, handler: None, unraisable: List[str]) -> None:
    """Real signals at random moments: they come out unchanged, nothing is left, and the client works on."""
    chance = random.Random(7)
    ref, kept = store.put(LARGE), store.put(LARGE)
    view = store.get(kept)
    calls: List[Callable[[], object]] = [
        lambda: store.put(LARGE),
        lambda: store.get(ref),
        lambda: store.get(kept),
        lambda: store.delete(store.put(LARGE)),
        lambda: store.collect(),
    ]
    interrupted = 0
    for number in range(900):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 1.5e-3))
            calls[number % len(calls)]()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            interrupted += 1
    assert interrupted > 50
    answered: List[object] = []
    thread = threading.Thread(target=lambda: answered.append(store.status()))
    thread.start()
    thread.join(UNIT)
    assert answered
    assert view == LARGE
    assert store.get(store.put([1, LARGE])) == [1, LARGE]
    del view
    with vc.connect(store.socket) as other:
        clean(other)
        assert used(other) == 0 and list(other.list(deleted=True)) == []


def test_a_view_that_another_get_of_it_was_interrupted_beside(store: vc.Client, handler: None) -> None:
    """Its pin is its own: its memory is not used again, however many gets beside it came to nothing."""
    chance = random.Random(3)
    ref = store.put(LARGE)
    view = store.get(ref)
    for _ in range(300):
        try:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 8e-4))
            store.get(ref)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            pass
    with vc.connect(store.socket) as other:
        clean(other)
        for _ in range(20):
            other.put(memoryview(bytes([170]) * 300_000))
        assert view == LARGE


def test_dropping_a_value_waits_for_nobody(store: vc.Client, unraisable: List[str]) -> None:
    """A server that stands still does not hold up who drops a value; when it goes on, the memory can be freed."""
    ref = store.put(LARGE)
    view: Any = store.get(ref)
    pid = server_of(store)
    with paused(pid):
        for _ in range(3):
            view = None
            gc.collect()
    assert view is None
    with vc.connect(store.socket) as other:
        assert other.delete(ref)
        other.collect()
        assert used(other) == 0


# ---- descriptors


def test_puts_without_a_descriptor(store: vc.Client) -> None:
    """A process at its limit gets an error, and leaves nothing; when it has descriptors again, it works.

    A client that is connected has what it needs.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    done = []
    for left in range(7):
        client = vc.Client(store.socket)
        client._session._connections.close()  # as when it is connected anew
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, limits[1]))
        try:
            for _ in range(3):
                try:
                    ref = client.put(LARGE)
                except vc.VineyardError as error:
                    assert "open" in str(error)
                else:
                    done.append(left)
                    client.delete(ref)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert used(store) == 0
        assert client.get(client.put(LARGE)) == LARGE
        store.collect(older_than=timedelta(0))
        client.close()
    assert 0 not in done and 1 not in done and 6 in done
    with vc.connect(store.socket) as client:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            client.put(LARGE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)


# ---- marks


@contextlib.contextmanager
def locked_against_all(client: vc.Client) -> Iterator[None]:
    """Hold a write lock where the marks of all blobs are, as somebody may who was sent the store's memory."""
    file = os.open(f"/proc/self/fd/{client._connection().memory}", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.fcntl(file, 37, struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1 << 62, 0))  # F_OFD_SETLK
        yield
    finally:
        os.close(file)


def fill(client: vc.Client) -> None:
    with client.create(300_000) as draft:
        draft.value[:] = LARGE


@pytest.mark.parametrize(
    "call", [lambda client, ref: client.put(LARGE), vc.Client.get, lambda client, ref: fill(client)]
)
def test_a_mark_that_somebody_prevents(store: vc.Client, call: Callable[[vc.Client, vc.ObjectRef], object]) -> None:
    """The call fails with an error of ours, as often as it is made, and leaves nothing; then the client works on."""
    ref = store.put(LARGE)
    before = used(store)
    with locked_against_all(store):
        for _ in range(3):
            with pytest.raises(vc.ConnectionFailed, match="refused a mark"):
                call(store, ref)
    with vc.connect(store.socket) as other:
        other.collect()
        assert used(other) == before
        assert [info.ref for info in other.list()] == [ref]
    assert store.get(ref) == LARGE and store.get(store.put([1, LARGE])) == [1, LARGE]


# ---- forks


def test_a_parent_releases_what_it_had_read(store: vc.Client) -> None:
    """Whatever was read when it forked is released when it is dropped, also while another value is kept."""
    keep = store.get(store.put(LARGE))
    before = used(store)
    for _ in range(4):
        ref = store.put(LARGE)
        value: Any = store.get(ref)
        assert in_child(lambda: None) == 0
        store.status()
        value = None
        gc.collect()
        store.delete(ref)
        with vc.connect(store.socket) as other:
            other.collect()
            assert used(other) == before
    assert keep == LARGE and value is None


def test_a_child_keeps_what_its_parent_had_read(store: vc.Client) -> None:
    """Though the parent drops it, and others delete it and fill the store."""
    ref = store.put(LARGE)
    value: Any = store.get(ref)
    go, say = os.pipe()

    def child() -> None:
        os.read(go, 1)
        assert value == LARGE

    pid = fork(child)
    value = None
    gc.collect()
    with vc.connect(store.socket) as other:
        other.delete(ref)
        other.collect()
        for _ in range(20):
            other.put(memoryview(bytes([170]) * 300_000))
        os.write(say, b"!")
        assert wait(pid) == 0
        clean(other)
        assert used(other) == 0
    os.close(go)
    os.close(say)


def test_a_child_that_goes_on_writing_to_a_draft(store: vc.Client) -> None:
    """It may fill a part of the value in the block; what it writes later reaches nobody, nor the memory of others."""
    go, say = os.pipe()
    done, tell = os.pipe()

    def child(view: Any) -> None:
        view[:3] = b"abc"
        os.write(tell, b"!")
        os.read(go, 1)
        view[:] = bytes([66]) * 300_000
        os.write(tell, b"!")
        os.read(go, 1)

    with store.create(300_000) as draft:
        draft.value[:] = bytes(300_000)
        pid = fork(partial(child, draft.value))
        os.read(done, 1)
        draft.value[3:6] = b"def"
    expected = b"abcdef" + bytes(300_000 - 6)
    held = store.get(draft.ref)
    others = [store.put(memoryview(bytes([170]) * 300_000)) for _ in range(5)]
    os.write(say, b"!")
    os.read(done, 1)
    assert held == expected and store.get(draft.ref) == expected and draft.value == expected
    assert all(store.get(ref) == bytes([170]) * 300_000 for ref in others)
    os.write(say, b"!")
    assert wait(pid) == 0
    del held, draft
    with vc.connect(store.socket) as other:
        clean(other)
        assert used(other) == 0
    for end in (go, say, done, tell):
        os.close(end)


FORK_WHILE_LOADING = """
import datetime, os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads is what this is about
import vineyard_client as vc

with vc.EmbeddedServer("64Mi") as server, vc.connect(server.socket) as client:
    import importlib
    inside, original = threading.Event(), importlib.import_module

    def slow(name, *rest):
        inside.set()
        import time
        time.sleep(0.3)
        return original(name, *rest)

    importlib.import_module = slow
    thread = threading.Thread(target=lambda: client.put(__import__("decimal").Decimal(1)))
    thread.start()
    inside.wait()
    pid = os.fork()
    if not pid:
        client.put([datetime.date(2020, 1, 1)])
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    thread.join()
"""


def test_forking_while_a_thread_loads_what_values_need() -> None:
    """The child does not wait for a lock of a thread that it has not."""
    result = run_python(FORK_WHILE_LOADING)
    assert result.returncode == 0, result.stderr


def test_a_child_with_the_process_id_of_its_parent(store: vc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in process namespaces inside of each other: it has a conversation of its own all the same."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    ref = store.put(LARGE)
    parents = store._connection().conversation

    def child() -> None:
        assert store._connection().conversation is not parents
        assert store.get(ref) == LARGE

    assert in_child(child) == 0
    assert store._connection().conversation is parents and store.get(ref) == LARGE


# ---- deadlines


def test_threads_do_not_wait_one_after_the_other(store: vc.Client) -> None:
    """Each call has one deadline, also for its turn to connect: all that wait for a dead server give up together."""
    pid = server_of(store)
    waiting = vc.connect(store.socket, timeout=1)
    waiting._session._connections.close()
    errors: List[BaseException] = []

    def ask() -> None:
        try:
            waiting.status()
        except vc.DeadlineExceeded as error:
            errors.append(error)

    with paused(pid):
        threads = [threading.Thread(target=ask, daemon=True) for _ in range(30)]
        for thread in threads:
            thread.start()
        until(lambda: len(errors) == 30, "the end of thirty calls that wait a second each", timeout=UNIT)
    waiting.close()


def test_only_waiting_counts(store: vc.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is at work for longer than its timeout, as on the list of very many objects, comes to its end."""
    read = ValueMeta.read

    def slowly(tree: Any) -> ValueMeta:
        time.sleep(0.4)
        return read(tree)

    refs = [store.put(LARGE) for _ in range(3)]
    with vc.connect(store.socket, timeout=1) as client:
        monkeypatch.setattr(ValueMeta, "read", slowly)
        assert client.collect(older_than=timedelta(days=1)) == []
        assert [info.ref for info in client.list()] == refs
