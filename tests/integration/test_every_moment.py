"""Whatever happens at whatever moment of a call, it is as if the call had been made, or had not.

At each point of put, get, delete, create and collect at which a signal handler may run, one of these happens: it
raises; the process forks; the connection breaks; there is no file descriptor left. By default some of the points are
tried, others each day; ``VINEYARD_EVERY_MOMENT=1`` tries all of them (``nox -s load`` does).
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import socket
import sys
import threading
import time
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

import pytest
from vineyard_testing.injector import Boom, Injector, points_of, raise_boom, sample
from vineyard_testing.processes import fork, wait

import vineyard_client as vc

pytestmark = pytest.mark.integration

EVERY = bool(os.environ.get("VINEYARD_EVERY_MOMENT"))
SEED = int(os.environ.get("VINEYARD_SEED", time.time() // 86_400))

LARGE = memoryview(bytes([5]) * 300_000)
MIDDLE = memoryview(bytes([6]) * 5_000)
VIEW = memoryview(bytes([7]) * 200_000)


def create(client: vc.Client, ref: vc.ObjectRef) -> object:
    with client.create(100_000) as draft:
        draft.value[:3] = b"abc"
    return draft.ref


Action = Callable[[vc.Client], object]

CALLS: Dict[str, Callable[[vc.Client, vc.ObjectRef], object]] = {
    "put": lambda client, ref: client.put(LARGE),
    "put-middle": lambda client, ref: client.put(MIDDLE, persist=True),
    "put-same": lambda client, ref: client.put(LARGE, same_as=ref),
    "put-small": lambda client, ref: client.put([1, "two"]),
    "get": lambda client, ref: client.get(ref),
    "delete": lambda client, ref: client.delete(ref),
    "create": create,
    "collect": lambda client, ref: client.collect(),
}


class Stage:
    """A store with a view of it that must live through everything.

    Attributes:
        other: a client that only looks and cleans up.
        problems: what was found.
    """

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.other = vc.connect(socket)
        self.problems: List[str] = []
        ref = self.other.put(VIEW)
        self.held_by_view = self.other.status().memory_used
        self.other.delete(ref)

    def play(
        self, name: str, number: int, action: Callable[[vc.Client], object], *allowed: Type[BaseException]
    ) -> None:
        """Make one call with something happening at one point of it, and see what is there afterwards."""
        call = CALLS[name]
        files = open_files()
        client = vc.connect(self.socket, timeout=10)
        witness = client.put(VIEW)
        view = client.get(witness)
        ref = client.put(LARGE)
        result: object = None
        error: Optional[BaseException] = None
        injector = Injector(number, partial(action, client))
        try:
            with injector:
                result = call(client, ref)
        except BaseException as raised:  # noqa: BLE001
            error = raised
        where = f"{name} {number} ({injector.where})"
        if error is not None and not isinstance(error, allowed):
            self.problems.append(f"{where}: {type(error).__name__}: {error}")
        del result, error
        self._look(where, client, view)
        client.close()
        del view, client, injector
        gc.collect()
        self.clean()
        left = self.other.status().memory_used
        if left:
            self.problems.append(f"{where}: {left} bytes are left")
        if open_files() > files:
            self.problems.append(f"{where}: {open_files() - files} descriptors are open")

    def _look(self, where: str, client: vc.Client, view: Any) -> None:
        """See what there is now."""
        answered: List[object] = []

        def ask() -> None:
            with contextlib.suppress(vc.ConnectionFailed):  # the call that finds it broken
                client.status()
            answered.append(client.status())

        gc.collect()  # a draft that nobody refers to any more is undone by the next call
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(3)
        if not answered:
            self.problems.append(f"{where}: a lock is held")
        gc.collect()
        self.clean()
        held = self.other.status().memory_used
        if held != self.held_by_view:
            self.problems.append(f"{where}: {held - self.held_by_view} bytes are left with the client alive")
        fill = [self.other.put(memoryview(bytes([170]) * 200_000)) for _ in range(3)]
        if view != VIEW:
            self.problems.append(f"{where}: a view changed")
        for ref in fill:
            self.other.delete(ref)
        try:
            if client.get(client.put([1, LARGE])) != [1, LARGE]:
                self.problems.append(f"{where}: the client returns something else")
        except vc.VineyardError as error:
            self.problems.append(f"{where}: the client cannot be used on: {error}")

    def clean(self) -> None:
        """Delete and free all that anybody could."""
        for info in list(self.other.list()):
            self.other.delete(info.ref)
        self.other.collect()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[str]]:
    """What was thrown away because nobody could be told."""
    seen: List[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append(f"{found.exc_value!r} in {found.object!r}"))
    yield seen


@pytest.fixture
def stage() -> Iterator[Stage]:
    with vc.EmbeddedServer(size="64Mi") as server:
        made = Stage(server.socket)
        yield made
        made.other.close()
        gc.unfreeze()


def everywhere(
    stage: Stage,
    unraisable: List[str],
    name: str,
    part: int,
    action: Callable[[vc.Client], object],
    *allowed: Type[BaseException],
) -> None:
    """Let something happen at the points of a call, or at one in ``part`` of them."""
    with vc.connect(stage.socket) as client:  # once without, so that everything is imported
        for _ in range(2):
            ref = client.put(LARGE)
            points = points_of(lambda: CALLS[name](client, ref))  # noqa: B023
    stage.clean()
    gc.collect()
    gc.freeze()  # what there is already need not be looked at each time
    tried = sample(points, SEED, 1 if EVERY else part)
    for number in tried:
        stage.play(name, number, action, *allowed)
        assert len(stage.problems) < 12, "\n".join(stage.problems)
    assert not stage.problems, "\n".join(stage.problems)
    assert not unraisable, "\n".join(unraisable)
    assert tried


@pytest.mark.parametrize("name", CALLS)
def test_an_exception_at_every_moment(stage: Stage, unraisable: List[str], name: str) -> None:
    """It comes out unchanged; nothing stays locked, allocated, open or unsaid, and what others read is intact."""
    everywhere(stage, unraisable, name, 40, lambda client: raise_boom(), Boom)


@pytest.mark.parametrize("name", CALLS)
def test_a_broken_connection_at_every_moment(stage: Stage, unraisable: List[str], name: str) -> None:
    """The call fails or does not; all else is as it was."""

    def cut(client: vc.Client) -> None:
        connection = client._session._connections._connection
        if connection is not None:
            cutter = socket.socket(fileno=os.dup(connection.conversation.stream.fileno()))
            cutter.shutdown(socket.SHUT_RDWR)
            cutter.close()

    everywhere(stage, unraisable, name, 120, cut, vc.ConnectionFailed)


@pytest.mark.parametrize("child_works", [False, True], ids=["ends", "works"])
@pytest.mark.parametrize("name", CALLS)
def test_a_fork_at_every_moment(stage: Stage, unraisable: List[str], name: str, child_works: bool) -> None:
    """The parent's call goes on; the child can use the client, and takes nothing away."""
    failed: List[int] = []

    def child(client: vc.Client) -> Callable[[], None]:
        def run() -> None:
            if child_works:
                assert client.get(client.put(LARGE)) == LARGE

        return run

    def split(client: vc.Client) -> None:
        if wait(fork(child(client))):
            failed.append(1)

    everywhere(stage, unraisable, name, 300, split)
    assert not failed


@pytest.mark.parametrize("name", CALLS)
def test_no_descriptor_left_at_every_moment(stage: Stage, unraisable: List[str], name: str) -> None:
    """The call fails or does not; when there are descriptors again, all is as it was."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def exhaust(client: vc.Client) -> None:
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))

    call = CALLS[name]

    def limited(client: vc.Client, ref: vc.ObjectRef) -> object:
        try:
            return call(client, ref)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)

    CALLS[name] = limited
    try:
        everywhere(stage, unraisable, name, 150, exhaust, vc.VineyardError)
    finally:
        CALLS[name] = call
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
