"""Values that are saved in a folder as they are put: they outlive the store, a full one and a wrong one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Iterator, List

import numpy as np
import pytest
from vineyard_testing.processes import in_child, run_python

import vineyard_client as vc


def same(value: object, expected: np.ndarray) -> bool:
    """Whether an array is another one; numpy's own comparison takes seconds for large ones."""
    return isinstance(value, np.ndarray) and value.shape == expected.shape and value.tobytes() == expected.tobytes()


class Store:
    """A server of a test's own, and its tier."""

    def __init__(self, folder: Path, size: str = "64Mi") -> None:
        self.socket = str(folder / "s")
        self.values = folder / "values"
        self.size = size
        self.server = vc.EmbeddedServer(size, socket=self.socket).start()

    def restart(self) -> None:
        self.server.stop()
        self.server = vc.EmbeddedServer(self.size, socket=self.socket).start()

    def connect(self, **options: object) -> vc.Client:
        return vc.Client(self.socket, tier=vc.TierOptions(str(self.values), reserve=0.0, **options))  # type: ignore[arg-type]

    def files(self) -> List[Path]:
        return [path for path in self.values.rglob("*") if path.is_file()]

    def notes(self) -> List[Path]:
        return [path for path in Path(self.socket + ".tier").rglob("*") if path.is_file() and path.name != "lock"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.server.stop()


def array(megabytes: float = 1, seed: int = 0) -> np.ndarray:
    return np.resize(np.random.default_rng(seed).integers(0, 255, 100_003, dtype=np.uint8), int(megabytes * (1 << 20)))


VALUES = ["text", array(0.001), array(0.05), array(3), {"a": array(1), "b": [array(0.2), "x"]}]


@pytest.mark.parametrize("value", VALUES, ids=["in metadata", "small", "copied", "mapped", "nested"])
def test_outlives_the_store(store: Store, value: object) -> None:
    """A value that was put is there after the server ended, for this client and for new ones; then it is deleted."""
    with store.connect() as client:
        ref = client.put(value, path=("production", "a dag"))
        assert ref.copy is not None and ref.copy.startswith("production/a%20dag/")
        np.testing.assert_equal(client.get(ref), value)
        store.restart()
        np.testing.assert_equal(client.get(ref), value)
    with store.connect() as client:
        np.testing.assert_equal(client.get(ref), value)
        assert client.exists(ref)
        assert client.info(ref).size == ref.size
        assert client.delete(ref)
        assert not client.delete(ref)
        assert not client.exists(ref)
        with pytest.raises(vc.ObjectNotFound, match="gone, and so is its copy"):
            client.get(ref)
    assert store.files() == store.notes() == []


def test_the_reference_travels(store: Store) -> None:
    """A reference has its copy in its JSON form, in a version that older releases refuse; one without is as before."""
    with store.connect() as client, vc.connect(store.socket) as plain:
        ref = client.put(array())
        data = ref.to_json()
        assert data["v"] == 3 and data["copy"] == ref.copy
        assert vc.ObjectRef.from_json(data) == ref
        assert plain.put(1).to_json()["v"] == 1
        np.testing.assert_equal(plain.get(ref), array())  # in the store it needs no tier
    store.restart()
    with vc.connect(store.socket) as plain, pytest.raises(vc.ObjectNotFound, match="give this client the tier"):
        plain.get(ref)


def test_what_is_read_is_the_callers(store: Store) -> None:
    """A value that is mapped from the folder can be changed, and outlives the file; the file never changes."""
    with store.connect() as client:
        ref = client.put(array(2))
        store.restart()
        value = client.get(ref)
        before = store.files()[0].read_bytes()
        value[:] = 7
        assert store.files()[0].read_bytes() == before
        other = client.get(ref)
        client.delete(ref)
        np.testing.assert_equal(other, array(2))


def test_modes(store: Store) -> None:
    """What is saved is for its owner alone, whatever the umask."""
    old = os.umask(0)
    try:
        with store.connect() as client:
            client.put(array())
    finally:
        os.umask(old)
    for path in (*store.values.rglob("*"), *Path(store.socket + ".tier").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


def test_more_than_the_store(store: Store) -> None:
    """Values of three times the store's size go in, and all of them come out again, some from the store."""
    with store.connect() as client:
        refs = [client.put(array(10, seed)) for seed in range(20)]
        assert len(store.files()) == 20
        for seed, ref in enumerate(refs):
            assert same(client.get(ref), array(10, seed))
        assert client.status().memory_used <= client.status().memory_limit
        held = len(list(client.list()))
        assert 0 < held < 20
        for ref in refs:
            assert client.delete(ref)
        client.collect()
        assert client.status().memory_used == 0
    assert store.files() == store.notes() == []


def test_larger_than_the_store(store: Store) -> None:
    """A value that is larger than the whole store works from end to end."""
    with store.connect() as client:
        small = client.put(array(10))
        ref = client.put(array(100), host="worker-1")
        assert ref.id == "o" + "0" * 16
        assert client.info(ref).host == "worker-1"
        assert same(client.get(ref), array(100))
        assert client.info(ref).summary
        assert client.exists(ref)
        assert same(client.get(small), array(10))
        assert small.id in {info.ref.id for info in client.list()}, "nothing leaves for a giant"
        assert client.delete(ref)
        assert not client.exists(ref)


def test_least_recently_read_leaves(store: Store) -> None:
    """What was read last stays; what was not read leaves first."""
    with store.connect() as client:
        refs = [client.put(array(10, seed)) for seed in range(5)]
        time.sleep(0.02)
        client.get(refs[0])
        for seed in range(5, 8):
            client.put(array(10, seed))
        there = {info.ref.token for info in client.list()}
        assert refs[0].token in there
        assert refs[1].token not in there


def test_readers_keep_what_they_hold(store: Store) -> None:
    """What somebody holds never leaves under them; a put goes to the disk then, and does not wait."""
    with store.connect() as client:
        refs = [client.put(array(12, seed)) for seed in range(5)]
        held = [client.get(ref) for ref in refs]
        more = [client.put(array(12, seed)) for seed in range(5, 10)]
        for seed, value in enumerate(held):
            assert same(value, array(12, seed))
        assert {info.ref.token for info in client.list()} >= {ref.token for ref in refs}
        for seed, ref in enumerate(more, 5):
            assert same(client.get(ref), array(12, seed))
        del held


def test_copy_gone(store: Store) -> None:
    """A value whose copy somebody removed does not leave the store before it is saved again."""
    with store.connect() as client:
        ref = client.put(array(20))
        store.files()[0].unlink()
        for seed in range(1, 8):
            client.put(array(12, seed))
        assert same(client.get(ref), array(20))
        assert (store.values / str(ref.copy)).stat().st_size == ref.size


@pytest.mark.parametrize("damage", ["cut", "header", "other"])
def test_damaged(store: Store, damage: str) -> None:
    """A file that is not what was saved is an error, never a wrong value."""
    with store.connect() as client:
        ref, other = client.put(array(1)), client.put(array(1, 1))
        store.restart()
        path, foreign = store.values / str(ref.copy), store.values / str(other.copy)
        data = bytearray(path.read_bytes())
        if damage == "cut":
            data = data[:-1]
        elif damage == "header":
            data[20] ^= 1
        else:
            data = bytearray(foreign.read_bytes())
        path.unlink()
        path.write_bytes(data)
        with pytest.raises((vc.ObjectCorrupted, vc.ObjectNotFound)):
            client.get(ref)


@pytest.mark.parametrize("copy", ["../../etc/passwd", "a/../" + "0" * 32, "/etc/passwd", "x", ""])
def test_forged(store: Store, copy: str) -> None:
    """A key that leads elsewhere is refused before anything is opened."""
    with store.connect() as client:
        data = {**client.put(array()).to_json(), "v": 3, "copy": copy}
        store.restart()
        with pytest.raises(vc.InvalidReference, match="The reference was edited"):
            client.get(vc.ObjectRef.from_json(data))


def test_same_as(store: Store) -> None:
    """Two values that share memory have a copy each; either is deleted without the other."""
    with store.connect() as client:
        first = client.put(array(2))
        second = client.put(array(2), same_as=first)
        assert first.token == second.token and first.copy != second.copy
        assert client.delete(first)
        np.testing.assert_equal(client.get(second), array(2))
        store.restart()
        np.testing.assert_equal(client.get(second), array(2))
        assert client.delete(second)
    assert store.files() == store.notes() == []


def test_in_place(store: Store) -> None:
    """A value that was made in place is saved when the block ends."""
    with store.connect() as client:
        with client.create(np.empty(1 << 20, dtype=np.uint8)) as draft:
            draft.value[:] = array(1)
        assert draft.ref is not None and draft.ref.copy is not None
        store.restart()
        np.testing.assert_equal(client.get(draft.ref), array(1))


def test_cannot_be_saved(store: Store) -> None:
    """A value that cannot be saved is not put: nothing of it is left, and the error says why."""
    store.values.write_text("no folder")
    with store.connect() as client:
        with pytest.raises(vc.TierRefused, match="cannot be saved"):
            client.put(array())
        assert list(client.list()) == []
        with pytest.raises(vc.StoreFull, match=r"no room for .* Nor can it be saved outside"):
            client.put(array(100))
    assert store.notes() == []


def test_reserve(store: Store) -> None:
    """A disk with less than its reserve free is full."""
    options = vc.TierOptions(str(store.values), reserve=0.999999)
    with vc.Client(store.socket, tier=options) as client, pytest.raises(vc.TierFull, match="stay free"):
        client.put(array())


def test_off_and_on_again(store: Store, tmp_path: Path) -> None:
    """With durability none nothing more is saved, and what was is read; likewise from a tier that is not the first."""
    with store.connect() as client:
        ref = client.put(array())
    store.restart()
    moved = vc.TierOptions([str(tmp_path / "new"), str(store.values)], reserve=0.0)
    with store.connect(durability="none") as client, vc.Client(store.socket, tier=moved) as mover:
        for reader in (client, mover):
            np.testing.assert_equal(reader.get(ref), array())
        assert client.put(array()).copy is None
        new = mover.put(array(1, 1))
        assert (tmp_path / "new" / str(new.copy)).exists()
        assert mover.delete(ref)
    assert store.files() == []


def test_forked(store: Store) -> None:
    """A child reads and writes as its parent does."""
    with store.connect() as client:
        ref = client.put(array())
        store.restart()

        def child() -> None:
            np.testing.assert_equal(client.get(ref), array())
            client.put(array(1, 1))

        assert in_child(child) == 0
        assert len(store.files()) == 2


def test_nothing_is_imported(store: Store) -> None:
    """A task imports no library for storage; and who has no tier imports nothing of them."""
    code = """
import sys
import vineyard_client as vc
assert not any(name.startswith("vineyard_client._tiers.") and not name.endswith(".options") for name in sys.modules)
client = vc.connect(sys.argv[1], tier=sys.argv[2])
ref = client.put(b"x" * 100_000)
assert client.get(ref) == b"x" * 100_000
assert client.delete(ref)
assert not {"obstore", "boto3", "fsspec"} & set(sys.modules)
"""
    done = run_python(code, store.socket, str(store.values))
    assert done.returncode == 0, done.stderr


def test_from_the_environment(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """VINEYARD_TIER names the tier."""
    monkeypatch.setenv("VINEYARD_TIER", str(store.values))
    with vc.connect(store.socket) as client:
        assert client.put(array()).copy is not None
    assert len(store.files()) == 1


def test_expired(store: Store) -> None:
    """What gc deletes for its age goes from the folder, too."""
    from datetime import timedelta

    with store.connect() as client:
        client.put(array())
        client.put("tiny")
        assert len(client.collect(older_than=timedelta(0))) == 2
    assert store.files() == store.notes() == []
