"""Whatever is raised at whatever moment of a call on a store with a tier, it is as if it was made, or was not.

At each point of a call at which a signal handler may run, one raises. Afterwards a value whose reference nobody has is
nowhere: not in the store, not in the tier, not in a note; and all others are what they were. As in
``integration/test_every_moment`` some of the points are tried, others each day.
"""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional

import pytest
from vineyard_testing import until
from vineyard_testing.injector import Boom, Injector, points_of, raise_boom, sample
from vineyard_testing.tiers import Host

import vineyard_client as vc

pytestmark = pytest.mark.integration

EVERY = bool(os.environ.get("VINEYARD_EVERY_MOMENT"))
SEED = int(os.environ.get("VINEYARD_SEED", time.time() // 86_400))

LARGE = bytes([5]) * 300_000
GIANT = bytes([6]) * 9_000_000  # more than the store
HALF = bytes([7]) * 3_000_000


def create(client: vc.Client) -> Optional[vc.ObjectRef]:
    with client.create(100_000) as draft:
        draft.value[:] = LARGE[:100_000]
    return draft.ref


def full(client: vc.Client) -> vc.ObjectRef:
    """Put into a store that is full of what may leave."""
    return client.put(HALF)


class Case:
    """What is done, and before it; ``put`` says whether a new value comes of it."""

    def __init__(self, act: Callable[[vc.Client, vc.ObjectRef], object], durability: str = "through") -> None:
        self.act = act
        self.durability = durability


CASES: Dict[str, Case] = {
    "put": Case(lambda client, ref: client.put(LARGE)),
    "put-small": Case(lambda client, ref: client.put("small")),
    "put-giant": Case(lambda client, ref: client.put(GIANT)),
    "put-full": Case(lambda client, ref: client.put(HALF)),
    "put-same": Case(lambda client, ref: client.put(LARGE, same_as=ref)),
    "put-behind": Case(lambda client, ref: client.put(LARGE), "behind"),
    "create": Case(lambda client, ref: create(client)),
    "get": Case(lambda client, ref: client.get(ref)),
    "get-saved": Case(lambda client, ref: client.get(ref)),
    "delete": Case(lambda client, ref: client.delete(ref)),
    "list-saved": Case(lambda client, ref: list(client.saved.list())),  # type: ignore[union-attr]
}


class Stage:
    """A small store with a tier; ``problems`` is what was found."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.case = CASES[name]
        self.problems: List[str] = []
        self.client = host.connect(self.case.durability)

    def prepare(self) -> vc.ObjectRef:
        ref = self.client.put(LARGE)
        if self.name == "put-full":
            self.filler = [self.client.put(HALF) for _ in range(2)]
        if self.case.durability == "behind":
            self.host.all_saved()
        if self.name == "get-saved":
            with vc.connect(self.host.socket) as plain:
                plain.delete(ref)  # out of the store alone
        return ref

    def play(self, number: int) -> None:
        """Make the call with an exception at one point, and see what there is afterwards."""
        self.filler: List[vc.ObjectRef] = []
        ref = self.prepare()
        gc.collect()
        files = len(os.listdir("/proc/self/fd"))
        result: object = None
        done = False
        injector = Injector(number, raise_boom)
        try:
            with injector:
                result = self.case.act(self.client, ref)
            done = True
        except Boom:
            pass
        where = f"{self.name} {number} ({injector.where})"
        gc.collect()
        if len(os.listdir("/proc/self/fd")) > files:
            self.problems.append(f"{where}: descriptors are open")
        self._look(where, ref, result if done and isinstance(result, vc.ObjectRef) else None, number)

    def _look(self, where: str, ref: vc.ObjectRef, made: Optional[vc.ObjectRef], number: int) -> None:
        self.client.status()  # what could not be freed at once is freed by the next call
        client = self.host.connect("through")
        known = [known for known in (ref, *self.filler, made) if known is not None]
        if self.name == "delete":
            client.delete(ref)
            known = []
        for one in known:
            value = client.get(one)
            if len(value) not in (len(LARGE), len(HALF), len(GIANT), 5, 100_000):  # type: ignore[arg-type]
                self.problems.append(f"{where}: {one} is another value")
            del value
        self.host.all_saved()
        copies = {str(one.copy) for one in known}
        if self.case.durability == "behind":
            until(lambda: set(self.host.keys()) == copies, f"{where}: {self.host.keys()} are there, not {copies}")
        if set(self.host.keys()) != copies:
            self.problems.append(f"{where}: {self.host.keys()} are in the tier, {copies} are known")
        for one in known:
            client.delete(one)
        client.collect()
        gc.collect()
        left = [*client.list(), *self.host.keys(), *(n for kind in KINDS for n in self.host.notes(kind))]
        if left:
            self.problems.append(f"{where}: left are {left}")
            for info in list(client.list()):
                client.delete(info.ref)
            for kind in KINDS:
                for name in self.host.notes(kind):
                    Path(self.host.socket + ".tier", kind, name).unlink()
        client.collect()
        if client.status().memory_used:
            self.problems.append(f"{where}: {client.status().memory_used} bytes are left")
        client.close()


KINDS = ("unsaved", "saved", "loaded", "overflow", "kept", "deleted", "lost")


@pytest.fixture
def small_host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path, str(tmp_path / "values"), size="8Mi")
    yield made
    made.close()


# In every run; the others are for session ``tiers``.
SHORT = ("put", "get-saved")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name not in SHORT)) for name in CASES])
def test_raised_at_every_moment(small_host: Host, name: str) -> None:
    """An exception at any point leaves nothing of a value that nobody has, and all of the others."""
    if CASES[name].durability == "behind":
        small_host.start_agent()
    stage = Stage(small_host, name)
    stage.play(0)
    ref = stage.prepare()
    made: List[object] = []
    points = points_of(lambda: made.append(stage.case.act(stage.client, ref)))
    for one in (ref, *getattr(stage, "filler", ()), *made):
        if isinstance(one, vc.ObjectRef):
            stage.client.delete(one)
    stage.client.collect()
    for number in sample(points, SEED, 1 if EVERY else max(1, points // 15)):
        stage.play(number)
    assert not stage.problems, "\n".join(stage.problems)
