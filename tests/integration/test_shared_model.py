"""A store under random puts, gets, changes, deletes, kills, evictions and restarts, against a model of it.

``VINEYARD_STRESS`` is for how many seconds each of the two runs (``nox -s load``); ``VINEYARD_SEED`` repeats one.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
from vineyard_testing.processes import fork

import vineyard_client as vc
from vineyard_client._io import mapping

np = pytest.importorskip("numpy")

pytestmark = pytest.mark.integration

SECONDS = float(os.environ.get("VINEYARD_STRESS", "10"))
SEED = int(os.environ.get("VINEYARD_SEED", time.time() // 86_400))

Value = Dict[str, Any]


def fresh(chance: random.Random) -> Value:
    sizes = [chance.choice([10, 5000, 40_000, 66_000, 200_000, 700_000]) for _ in range(chance.randint(1, 4))]
    return {f"a{chance.random()}": np.full(size, chance.randrange(256), np.uint8) for size in sizes}


def changed(value: Value, chance: random.Random) -> Value:
    """Return a value made of another, with some of its arrays written to; the same for the same chance."""
    names = list(value)
    made = {name: value[name] for name in names if chance.random() < 0.8}
    for name in names:
        array = value[name]
        if chance.random() < 0.15 and len(array):
            array[chance.randrange(len(array))] ^= 1 << chance.randrange(8)
        if chance.random() < 0.1:
            array[: len(array) // 3] = chance.randrange(256)
        if chance.random() < 0.15:
            made[f"s{chance.random()}"] = array[chance.randrange(max(1, len(array) // 2)) :]
        if chance.random() < 0.05:
            made[f"t{chance.random()}"] = array[::2]
    if chance.random() < 0.7 or not made:
        made.update(fresh(chance))
    keys = sorted(made, key=lambda name: (len(name), name))[:12]
    return {name: made[name] for name in keys}


def copied(value: Value) -> Value:
    return {name: array.copy() for name, array in value.items()}


def same(left: Any, right: Value) -> bool:
    return list(left) == list(right) and all(np.array_equal(left[name], right[name]) for name in right)


class World:
    """A store, clients of it, and what must be in it.

    Attributes:
        live: references that were returned and not deleted, and what each leads to.
        held: values that were got, and what they must show.
    """

    def __init__(self, folder: Path, tier: bool, chance: random.Random) -> None:
        self.socket = str(folder / "s")
        self.tier = vc.TierOptions(str(folder / "tier"), reserve=0.0) if tier else None
        self.chance = chance
        self.live: Dict[vc.ObjectRef, Value] = {}
        self.held: List[Tuple[Value, Value]] = []
        self.done: Dict[str, int] = {}
        self.shared = 0
        self.start()

    def start(self) -> None:
        self.server = vc.EmbeddedServer("24Mi", socket=self.socket).start()
        self.clients = [vc.Client(self.socket, tier=self.tier, timeout=60) for _ in range(2)]

    @property
    def client(self) -> vc.Client:
        return self.chance.choice(self.clients)

    def step(self) -> None:
        names = ["put", "derive", "derive", "derive", "get", "get", "change", "drop", "delete", "collect", "child"]
        name = self.chance.choice(names + (["restart"] if self.chance.random() < 0.02 else []))
        self.done[name] = self.done.get(name, 0) + 1
        getattr(self, name)()

    def store(self, value: Value) -> None:
        expected = copied(value)
        try:
            ref = self.client.put(value)
        except vc.StoreFull:
            assert self.tier is None
            self.delete()
            return
        self.live[ref] = expected
        if parse(ref) and self.clients[0].info(ref).memory != ref.size:
            self.shared += 1

    def put(self) -> None:
        self.store(fresh(self.chance))

    def derive(self) -> None:
        if self.held:
            position = self.chance.randrange(len(self.held))
            value, expected = self.held[position]
            seed = self.chance.random()
            made = changed(value, random.Random(seed))
            assert same(made, changed(expected, random.Random(seed)))
            self.store(made)

    def get(self) -> None:
        if self.live:
            ref = self.chance.choice(list(self.live))
            value: Any = self.client.get(ref)
            assert same(value, self.live[ref]), ref
            self.held.append((value, copied(self.live[ref])))
            if len(self.held) > 6:
                self.drop()

    def change(self) -> None:
        if self.held:
            value, expected = self.chance.choice(self.held)
            seed = self.chance.random()
            for each in (value, expected):
                changed(each, random.Random(seed))

    def drop(self) -> None:
        if self.held:
            self.held.pop(self.chance.randrange(len(self.held)))

    def delete(self) -> None:
        if self.live:
            ref = self.chance.choice(list(self.live))
            del self.live[ref]
            assert self.client.delete(ref)

    def collect(self) -> None:
        self.client.collect()

    def child(self) -> None:
        """Have a forked child read, change and put, and kill it at some moment; what it told of is whole."""
        if not self.live or self.chance.random() < 0.5:
            return
        ref, seed, client = self.chance.choice(list(self.live)), self.chance.random(), self.client
        reader, writer = os.pipe()

        def run() -> None:
            value: Any = client.get(ref)
            while True:
                told = client.put(changed(value, random.Random(seed)))
                os.write(writer, json.dumps(told.to_json()).encode() + b"\n")
                time.sleep(60)

        pid = fork(run)
        os.close(writer)
        time.sleep(self.chance.choice([0.0, 0.002, 0.01, 0.03, 0.1]))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with open(reader, "rb") as file:
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if line.endswith(b"\n"):
                told = vc.ObjectRef.from_json(json.loads(line))
                self.live[told] = copied(changed(copied(self.live[ref]), random.Random(seed)))

    def restart(self) -> None:
        """End the server: what is in a tier stays, ids begin anew, and what is held is as it was."""
        for client in self.clients:
            client.close()
        self.server.stop()
        if self.tier is None:
            self.live.clear()
        self.start()

    def look(self, all_of_it: bool) -> None:
        for value, expected in self.held:
            assert same(value, expected)
        for ref in list(self.live) if all_of_it else self.chance.sample(list(self.live), min(3, len(self.live))):
            assert same(self.client.get(ref), self.live[ref]), ref

    def end(self) -> None:
        self.look(all_of_it=True)
        refs = list(self.live)
        self.chance.shuffle(refs)
        for ref in refs:
            self.clients[0].delete(ref)
        for value, expected in self.held:
            assert same(value, expected)
        value = expected = None  # type: ignore[assignment]
        self.held.clear()
        gc.collect()
        for info in list(self.clients[0].list()):  # of children that were killed before they could tell
            self.clients[0].delete(info.ref)
        self.clients[0].collect()
        left = [*self.clients[0].list(), *self.clients[0].list(deleted=True)]
        assert left == []


def parse(ref: vc.ObjectRef) -> Optional[int]:
    return int(ref.id[1:], 16) or None


@pytest.mark.parametrize("tier", [False, True], ids=["memory", "tier"])
def test_every_value_is_what_was_put(tmp_path: Path, tier: bool) -> None:
    chance = random.Random(f"{SEED} {tier}")
    before = len(mapping.mapped())
    world = World(tmp_path, tier, chance)
    until = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            for _ in range(10):
                world.step()
            world.look(all_of_it=chance.random() < 0.1)
        world.end()
        print(f"seed {SEED}: {world.done}, {world.shared} shared")
        assert world.shared, "nothing was shared"
        # One killed between allocating and storing the metadata leaves a blob that nothing lists.
        assert world.clients[0].status().memory_used <= 1_500_000 * world.done.get("child", 0)
        assert len(mapping.mapped()) == before
    finally:
        world.server.stop()
