"""Many values through a store that holds few of them: every one is compared, and nothing is left in the end.

Writers put values of many sizes, one of them larger than the store; readers read whatever there is, hold some of it and
compare that again later; a deleter deletes every fifth value at some moment, also while it is being saved, read or
about to leave. All are processes of their own.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import numpy as np
import pytest
from vineyard_testing import UNIT, buckets, until
from vineyard_testing.processes import fork, wait
from vineyard_testing.tiers import Host, array, same

import vineyard_client as vc

pytestmark = pytest.mark.integration

MiB = 1 << 20


class Board:
    """What the processes know of each other's values: a file for each, which appears whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("refs", "gone", "done"):
            (folder / name).mkdir(parents=True)

    def add(self, seed: int, size: float, ref: vc.ObjectRef) -> None:
        path = self.folder / "refs" / str(seed)
        path.with_suffix(".new").write_text(json.dumps([size, ref.to_json()]))
        path.with_suffix(".new").rename(path)

    def read(self) -> Dict[int, Tuple[float, vc.ObjectRef]]:
        found = {}
        for path in (self.folder / "refs").iterdir():
            if path.name.isdigit():
                size, data = json.loads(path.read_text())
                found[int(path.name)] = (size, vc.ObjectRef.from_json(data))
        return found

    def mark(self, kind: str, name: object) -> None:
        (self.folder / kind / str(name)).touch()

    def marked(self, kind: str, name: object) -> bool:
        return (self.folder / kind / str(name)).exists()


def write(host: Host, board: Board, seeds: range, sizes: List[float]) -> None:
    with host.connect() as client:
        for seed, size in zip(seeds, sizes):
            board.add(seed, size, client.put(array(size, seed), path=("proof", str(seed % 7))))
    board.mark("done", seeds.start)


def read(host: Host, board: Board, seed: int, writers: List[int]) -> None:
    choice = random.Random(seed)
    held: List[Tuple[int, float, np.ndarray]] = []
    with host.connect() as client:
        while not all(board.marked("done", writer) for writer in writers):
            found = sorted(board.read().items())
            if not found:
                continue
            number, (size, ref) = choice.choice(found)
            try:
                value = client.get(ref)
            except vc.ObjectNotFound:
                assert board.marked("gone", number), f"{number} is gone, and nobody deleted it"
                continue
            assert same(value, array(size, number)), f"{number} is another value"
            if size < 8:
                held.append((number, size, value))  # type: ignore[arg-type]
            if len(held) > 3:
                number, size, value = held.pop(0)
                assert same(value, array(size, number)), f"{number} changed while it was held"
            del value
        for number, size, value in held:
            assert same(value, array(size, number)), f"{number} changed while it was held"


def delete(host: Host, board: Board, writers: List[int]) -> None:
    choice = random.Random(5)
    with host.connect() as client:
        while not all(board.marked("done", writer) for writer in writers):
            for number, (_, ref) in board.read().items():
                if number % 5 == 0 and not board.marked("gone", number) and choice.random() < 0.3:
                    board.mark("gone", number)
                    assert client.delete(ref)
            time.sleep(0.01)


@pytest.fixture(params=["folder", *(["bucket"] if buckets.installed() else [])])
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def prove(host: Host, folder: Path, sizes: List[float]) -> None:
    """Have two writers, two readers and a deleter at work, and see what there is afterwards."""
    board = Board(folder / "board")
    host.start_agent()
    half = len(sizes) // 2
    ranges = [range(half), range(half, len(sizes))]
    writers = [seeds.start for seeds in ranges]
    children = [fork(lambda seeds=seeds: write(host, board, seeds, sizes[seeds.start :])) for seeds in ranges]  # type: ignore[misc]
    children += [fork(lambda seed=seed: read(host, board, seed, writers)) for seed in (1, 2)]  # type: ignore[misc]
    children.append(fork(lambda: delete(host, board, writers)))
    ends = [wait(child, timeout=60 * UNIT) for child in children]
    assert ends == [0] * len(children), host.log.read_text()[-2000:]
    with host.connect() as client:
        found = board.read()
        assert len(found) == len(sizes)
        for number, (size, ref) in found.items():
            if board.marked("gone", number):
                with suppress(vc.ObjectNotFound):
                    client.get(ref)
                    raise AssertionError(f"{number} was deleted, and is there")
            else:
                assert same(client.get(ref), array(size, number)), number
        until(lambda: not host.notes("unsaved"), "all is saved", 30 * UNIT)
        assert host.notes("lost") == []
        known = sorted(str(ref.copy) for number, (_, ref) in found.items() if not board.marked("gone", number))
        until(lambda: host.keys() == known, "the tier has what was not deleted, and nothing else", 3 * UNIT)
        for _, ref in found.values():
            client.delete(ref)
        until(lambda: not client.collect() and not client.status().memory_used, "the store is empty")
        assert list(client.list()) == list(client.list(deleted=True)) == []
    until(lambda: host.keys() == [], "the tier is empty", 3 * UNIT)
    left = {kind: host.notes(kind) for kind in ("unsaved", "saved", "loaded", "overflow", "deleted", "kept")}
    until(lambda: not any(map(host.notes, left)), f"no note is left of {left}")
    files = [path for path in Path(host.socket + ".tier").rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {"lock", "journal"}, files
    assert host.end_agent() == 0, host.log.read_text()[-2000:]


def sizes_of(total: float, largest: float, giant: float) -> List[float]:
    """Return sizes in MiB that are ``total`` together: many small ones, some large, and one that is larger than all."""
    choice, sizes = random.Random(7), [giant]
    while sum(sizes) < total:
        sizes.append(max(0.1, largest * choice.random() ** 3))
    choice.shuffle(sizes)
    return sizes


def test_a_little_through_less(tmp_path: Path) -> None:
    """160 MiB through a store of 16 MiB."""
    made = Host(tmp_path, str(tmp_path / "values"), size="16Mi")
    try:
        prove(made, tmp_path, sizes_of(160, 6, 20))
    finally:
        made.close()


@pytest.mark.long
def test_much_through_little(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """1 GiB through a store of 128 MiB, into a folder and into a bucket."""
    if kind == "folder":
        made = Host(tmp_path, str(tmp_path / "values"), size="128Mi")
    else:
        bucket: buckets.Bucket = request.getfixturevalue("bucket")
        made = Host(tmp_path, f"{bucket.url}/{os.urandom(4).hex()}", bucket.options, size="128Mi", timeout=12 * UNIT)
    try:
        prove(made, tmp_path, sizes_of(1100, 40, 150))
    finally:
        made.close()
