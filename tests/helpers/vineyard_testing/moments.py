"""A store at every moment of a call: the calls, what happens at one point of each, and what must hold afterwards.

By default a tenth of the points is tried, another one each day, and fewer of calls that are rarer;
``VINEYARD_EVERY_MOMENT=1`` tries all of them (``nox -s load`` does).
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Type

import pytest

import vineyard_client as vc

from .injector import Injector, points_of, sample

EVERY = bool(os.environ.get("VINEYARD_EVERY_MOMENT"))
SEED = int(os.environ.get("VINEYARD_SEED", time.time() // 86_400))

# By default one point in so many is tried, and of what is done less often.
PART = 10
PART_OF_RARER = 150
# So many are looked at together.
TOGETHER = 10

LARGE = memoryview(bytes([5]) * 300_000)
MIDDLE = memoryview(bytes([6]) * 5_000)
VIEW = memoryview(bytes([7]) * 200_000)
GIANT = memoryview(bytes(33 << 20))  # more than the store


class Own:
    """A class that no reader accepts, unless it is told to."""


OWN = f"{__name__}.Own"


def create(client: vc.Client, ref: vc.ObjectRef) -> object:
    with client.create(100_000) as draft:
        draft.value[:3] = b"abc"
    return draft.ref


class Ended(Exception):
    """What ends a block."""


def end_block(client: vc.Client, ref: vc.ObjectRef) -> None:
    with client.create(100_000) as draft:
        draft.value[:3] = b"abc"
        raise Ended


def fill(client: vc.Client, size: int) -> None:
    with client.create(size):
        pass


Action = Callable[[vc.Client], object]
Call = Callable[[vc.Client, vc.ObjectRef], object]


def failing(kind: Type[Exception], call: Call) -> Call:
    """Return a call that must end with an error, and then is over."""

    def attempt(client: vc.Client, ref: vc.ObjectRef) -> None:
        try:
            call(client, ref)
        except kind:
            return
        raise AssertionError("it did not fail")

    return attempt


CALLS: Dict[str, Call] = {
    "put": lambda client, ref: client.put(LARGE),
    "put-middle": lambda client, ref: client.put(MIDDLE, persist=True),
    "put-shown": lambda client, ref: client.put(LARGE, preview="head"),
    "put-same": lambda client, ref: client.put(LARGE, same_as=ref),
    "put-sharing": lambda client, ref: client.put([client.get(ref), MIDDLE]),
    "put-small": lambda client, ref: client.put([1, "two"]),
    "get": lambda client, ref: client.get(ref),
    "delete": lambda client, ref: client.delete(ref),
    "create": create,
    "collect": lambda client, ref: client.collect(),
}

# What is done less often, above all what fails.
RARER: Dict[str, Call] = {
    "put-native": lambda client, ref: client.put((bytes(LARGE), 5, bytes(MIDDLE)), native=True),
    "put-too-large": failing(vc.StoreFull, lambda client, ref: client.put(GIANT)),
    "put-refused": failing(vc.UnsafeType, lambda client, ref: client.put([LARGE, Own()])),
    "put-native-refused": failing(vc.UnsafeType, lambda client, ref: client.put((bytes(LARGE), Own()), native=True)),
    "put-native-too-large": failing(
        vc.StoreFull, lambda client, ref: client.put((bytes(LARGE), bytes(GIANT)), native=True)
    ),
    "create-too-large": failing(vc.StoreFull, lambda client, ref: fill(client, GIANT.nbytes)),
    "create-ended": failing(Ended, end_block),
    "get-gone": failing(vc.ObjectNotFound, lambda client, ref: client.get(replace(ref, token="0" * 32))),
    "get-refused": failing(vc.UnsafeType, lambda client, ref: client.get(ref)),
    "get-out-of-reach": failing(
        vc.MigrationFailed, lambda client, ref: client.get(replace(ref, token="0" * 32, endpoint="127.0.0.1:1"))
    ),
    "delete-out-of-reach": failing(
        vc.MigrationFailed, lambda client, ref: client.delete(replace(ref, token="0" * 32, endpoint="127.0.0.1:1"))
    ),
}


def call_of(name: str) -> Call:
    return CALLS[name] if name in CALLS else RARER[name]


def prepare(name: str, client: vc.Client) -> vc.ObjectRef:
    """Put what the call is about."""
    if name == "get-refused":
        return client.put([LARGE, Own()], allowed_classes=[OWN])
    return client.put(LARGE)


def also_rarer() -> List[Any]:
    """Return the names of all calls; the rarer ones are for ``nox -s load``."""
    return [*CALLS, *(pytest.param(name, marks=pytest.mark.long) for name in RARER)]


class Stage:
    """A store with views of it that must live through everything.

    Points are tried several at a time, each with a client of its own, and looked at together: what one of them leaves
    is found then as well. Only where something is found are they tried one by one, to tell which it was.

    Attributes:
        other: a client that only looks and cleans up.
    """

    def __init__(self, socket: str) -> None:
        self.socket = socket
        self.other = vc.connect(socket)
        ref = self.other.put(VIEW)
        self.held_by_views = self.other.status().memory_used
        self.other.delete(ref)

    def play(
        self, name: str, numbers: Sequence[int], action: Callable[[vc.Client], object], *allowed: Type[BaseException]
    ) -> List[str]:
        """Make a call with something happening at one point of it, for each of these points; return what is wrong."""
        problems: List[str] = []
        files = open_files()
        witness = self.other.put(VIEW)
        clients: List[vc.Client] = []
        views: List[Any] = []
        for number in numbers:
            client = vc.connect(self.socket, timeout=10)
            clients.append(client)
            views.append(client.get(witness))
            problems += self._strike(client, name, number, action, *allowed)
        self.other.delete(witness)
        where = f"{name} {numbers[0]} to {numbers[-1]}"
        problems += [f"{where}: {problem}" for problem in self._look(clients, views)]
        for client in clients:
            client.close()
        del client, clients, views
        gc.collect()
        self.clean()
        left = self.other.status().memory_used
        if left:
            problems.append(f"{where}: {left} bytes are left")
        if open_files() > files:
            problems.append(f"{where}: {open_files() - files} descriptors are open")
        if problems and len(numbers) > 1:
            return sum((self.play(name, [number], action, *allowed) for number in numbers), problems)
        return problems

    def _strike(
        self,
        client: vc.Client,
        name: str,
        number: int,
        action: Callable[[vc.Client], object],
        *allowed: Type[BaseException],
    ) -> List[str]:
        """Make one call with something happening at one point of it, and return what came out that should not."""
        ref = prepare(name, client)
        result: object = None
        error: Optional[BaseException] = None
        injector = Injector(number, partial(action, client))
        try:
            with injector:
                result = call_of(name)(client, ref)
        except BaseException as raised:  # noqa: BLE001
            error = raised
        self.other.delete(ref)
        if isinstance(result, vc.ObjectRef):
            self.other.delete(result)
        if error is not None and not isinstance(error, allowed):
            return [f"{name} {number} ({injector.where}): {type(error).__name__}: {error}"]
        return []

    def _look(self, clients: Sequence[vc.Client], views: Sequence[object]) -> Iterator[str]:
        """See what there is now, and yield what is wrong."""
        answered: List[object] = []

        def ask() -> None:
            for client in clients:
                with contextlib.suppress(vc.ConnectionFailed):  # the call that finds it broken
                    client.status()
                answered.append(client.status())

        gc.collect()  # a draft that nobody refers to any more is undone by the next call
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(3 + len(clients))
        if len(answered) < len(clients):
            yield "a lock is held"
        gc.collect()
        self.clean()
        held = self.other.status().memory_used
        if held != self.held_by_views:
            yield f"{held - self.held_by_views} bytes are left with the clients alive"
        fill = [self.other.put(memoryview(bytes([170]) * 200_000)) for _ in range(3)]
        if any(view != VIEW for view in views):
            yield "a view changed"
        for ref in fill:
            self.other.delete(ref)
        for client in clients:
            try:
                if client.get(client.put([1, LARGE])) != [1, LARGE]:
                    yield "a client returns something else"
            except vc.VineyardError as error:
                yield f"a client cannot be used on: {error}"

    def clean(self) -> None:
        """Delete and free all that anybody could."""
        for info in list(self.other.list()):
            self.other.delete(info.ref)
        self.other.collect()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def rehearse(stage: Stage, name: str) -> int:
    """Make a call with nothing happening, keep nothing of it, and return how many points it has."""
    with vc.connect(stage.socket) as client:
        ref = prepare(name, client)
        made: List[object] = []
        points = points_of(lambda: made.append(call_of(name)(client, ref)))
        if isinstance(made[0], vc.ObjectRef):  # also what no list shows
            client.delete(made[0])
    return points


def everywhere(
    stage: Stage,
    unraisable: List[str],
    name: str,
    action: Callable[[vc.Client], object],
    *allowed: Type[BaseException],
) -> None:
    """Let something happen at the points of a call, or at one in ``PART`` of them."""
    for _ in range(2):  # once so that everything is imported
        points = rehearse(stage, name)
    stage.clean()
    gc.collect()
    gc.freeze()  # what there is already need not be looked at each time
    part = PART if name in CALLS else min(PART_OF_RARER, points)
    tried = sample(points, SEED, 1 if EVERY else part)
    problems: List[str] = []
    for first in range(0, len(tried), TOGETHER):
        problems += stage.play(name, tried[first : first + TOGETHER], action, *allowed)
        assert len(problems) < 12, "\n".join(problems)
    assert not problems, "\n".join(problems)
    assert not unraisable, "\n".join(unraisable)
    assert tried
