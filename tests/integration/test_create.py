"""Values that are made in the store's memory: in place, whole or not at all, and never changing afterwards."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any, List, Sequence

import pytest
from vineyard_testing.processes import fork, wait

import vineyard_client as vc
from vineyard_client._store.collect import DEAD_WRITER, DELETED

pytestmark = pytest.mark.integration

SIZE = 500_000


def used(client: vc.Client) -> int:
    return client.status().memory_used


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> List[int]:
    """How many bytes each write into the store had."""
    sizes: List[int] = []
    real = os.pwritev

    def counting(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        sizes.append(sum(len(buffer) for buffer in buffers))
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", counting)
    return sizes


def test_in_place(client: vc.Client, written: List[int]) -> None:
    """What is written to the draft is in the store when the block ends; nothing is copied there."""
    with client.create(SIZE, labels={"a": "b"}, persist=True) as draft:
        assert draft.ref is None
        value: Any = draft.value
        assert isinstance(value, memoryview) and value.nbytes == SIZE and not value.readonly
        value[:] = b"x" * SIZE
    assert draft.ref is not None
    assert client.get(draft.ref) == b"x" * SIZE
    assert client.info(draft.ref).labels == {"a": "b"}
    assert sum(written) < 1000


def test_parts_in_place(client: vc.Client, written: List[int]) -> None:
    """A draft may be any value: its large buffers are filled in place, whatever holds them."""
    like = {"one": memoryview(bytearray(SIZE)), "two": [memoryview(bytearray(SIZE)), "note"]}
    with client.create(like) as draft:
        value: Any = draft.value
        value["one"][:] = b"1" * SIZE
        value["two"][0][:] = b"2" * SIZE
    assert draft.ref is not None
    assert client.get(draft.ref) == {"one": b"1" * SIZE, "two": [b"2" * SIZE, "note"]}
    assert sum(written) < 1000


def test_afterwards_it_is_private(client: vc.Client) -> None:
    """The draft's value stays valid and changeable after the block, and reaches nobody."""
    with client.create(SIZE) as draft:
        draft.value[:] = b"x" * SIZE  # type: ignore[index]
    assert draft.ref is not None
    draft.value[:] = b"y" * SIZE  # type: ignore[index]
    assert client.get(draft.ref) == b"x" * SIZE
    assert draft.value == b"y" * SIZE


def test_the_draft_pins(client: vc.Client) -> None:
    """Who made the value reads it like anybody else: a delete does not take its memory."""
    before = used(client)
    with client.create(SIZE) as draft:
        draft.value[:] = b"x" * SIZE  # type: ignore[index]
    assert draft.ref is not None and client.delete(draft.ref)
    assert len(list(client.list(deleted=True))) == 1 and client.collect() == []
    assert draft.value == b"x" * SIZE
    del draft
    gc.collect()
    assert len(client.collect()) == 1 and used(client) == before


@pytest.mark.parametrize("change", ["replaced", "resized", "extended"])
def test_not_in_place_any_more(client: vc.Client, change: str) -> None:
    """A value that does not lie in the store when the block ends is put as it is."""
    before = used(client)
    with client.create([memoryview(bytearray(SIZE))]) as draft:
        value: Any = draft.value
        value[0][:] = b"x" * SIZE
        if change == "replaced":
            value[0] = memoryview(bytearray(b"y" * SIZE))
        elif change == "resized":
            value[0] = value[0][: SIZE // 2]
        else:
            value.append("more")
    assert draft.ref is not None
    expected = {"replaced": [b"y" * SIZE], "resized": [b"x" * (SIZE // 2)], "extended": [b"x" * SIZE, "more"]}[change]
    assert client.get(draft.ref) == expected
    assert [info.ref for info in client.list()] == [draft.ref]
    size = draft.ref.size
    del draft, value
    gc.collect()
    client.collect()
    assert used(client) == before + size + 1


def test_a_small_draft(client: vc.Client) -> None:
    """What is small enough for the metadata works the same."""
    with client.create({"a": 1}) as draft:
        draft.value["b"] = 2  # type: ignore[index]
    assert draft.ref is not None
    assert client.get(draft.ref) == {"a": 1, "b": 2}


def test_the_block_fails(client: vc.Client) -> None:
    """When the block raises there is no object, and the draft's value stays what it was for as long as it lives."""
    before = used(client)
    with pytest.raises(ZeroDivisionError):
        with client.create(SIZE) as draft:
            draft.value[:] = b"x" * SIZE  # type: ignore[index]
            raise ZeroDivisionError
    assert draft.ref is None
    assert list(client.list()) == [] == client.collect()
    refs = [client.put(memoryview(bytearray(SIZE))) for _ in range(3)]  # would take the place
    assert draft.value == b"x" * SIZE
    del draft
    gc.collect()
    assert [action.reason for action in client.collect()] == [DELETED]
    assert all(client.delete(ref) for ref in refs) and used(client) == before


def test_refused(client: vc.Client) -> None:
    """A value that readers would not accept is refused, before or after the block; nothing is left."""
    before = used(client)
    with pytest.raises(vc.UnsafeType):
        with client.create([memoryview(bytearray(SIZE)), lambda: None]):
            pytest.fail("the block ran")
    with pytest.raises(vc.UnsafeType):
        with client.create([memoryview(bytearray(SIZE))]) as draft:
            draft.value.append(lambda: None)  # type: ignore[attr-defined]
    del draft
    gc.collect()
    client.collect()
    assert list(client.list()) == [] and used(client) == before


def test_full() -> None:
    """A draft that does not fit is refused before the block."""
    with vc.EmbeddedServer("1Mi") as server, vc.connect(server.socket) as client:
        with pytest.raises(vc.StoreFull):
            with client.create(2 << 20):
                pytest.fail("the block ran")
        assert used(client) == 0


def test_full_of_what_nobody_needs() -> None:
    """As for ``put``, room is made first."""
    with vc.EmbeddedServer("4Mi") as server, vc.connect(server.socket) as client:
        first = client.put(bytearray(2 << 20))
        view = client.get(first)
        client.delete(first)
        del view
        with client.create(3 << 20) as draft:
            pass
        assert draft.ref is not None
        assert client.info(draft.ref).size > 3 << 20


def test_while_it_is_made(client: vc.Client) -> None:
    """Others see that a draft is not complete, and do not collect it."""
    with client.create(SIZE):
        (info,) = client.list()
        with pytest.raises(vc.ObjectNotFound, match=r"is not complete\. Its writer is still at work"):
            client.get(info.ref)
        assert client.collect() == []


def test_killed_while_it_is_made(client: vc.Client) -> None:
    """A draft whose maker was killed is collected."""
    before = used(client)

    def make_and_die() -> None:
        with vc.connect(client.socket) as mine, mine.create(SIZE):
            os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(wait(fork(make_and_die)))
    assert [action.reason for action in client.collect()] == [DEAD_WRITER]
    assert used(client) == before


def structured():
    """Values with more than numbers in their buffers, each with what is left of it when the numbers are taken away."""
    np = pytest.importorskip("numpy")
    pd = pytest.importorskip("pandas")
    count = 50_000
    dates = pd.date_range("2020", periods=count, freq="min")
    texts = [f"text {number}" for number in range(count)]
    yield pd.DataFrame({"a": np.arange(float(count))}, index=dates), lambda frame: frame.index
    yield pd.DataFrame({"a": np.arange(float(count)), "t": texts}), lambda frame: frame["t"]
    yield pd.DataFrame({"a": np.arange(count), "c": pd.Categorical(texts)}), lambda frame: frame["c"]
    yield pd.DataFrame({"a": pd.array(range(count), dtype="Int64")}), lambda frame: frame
    yield pd.Series(np.arange(count) % 2 == 0), lambda series: series
    index = pd.MultiIndex.from_arrays([np.arange(count) % 7, dates])
    yield pd.Series(np.arange(float(count)), index=index), lambda series: series.index


@pytest.mark.parametrize("number", range(6))
def test_what_nobody_fills_is_what_it_was(client, number):
    """In memory that held something else, an index, texts, codes, masks and truth values are those of the template."""
    import pandas as pd

    template, rest = list(structured())[number]
    for _ in range(2):  # so that the memory is not new
        client.delete(client.put(b"\x7f" * 4_000_000))
    with client.create(template) as draft:
        frame = draft.value.copy()
    read = client.get(draft.ref)
    for value in (frame, read):
        expected, found = rest(template), rest(value)
        assert expected.equals(found) if isinstance(expected, pd.Index) else repr(expected) == repr(found)
        assert expected.equals(found)
    client.delete(draft.ref)


@pytest.mark.parametrize("library", ["polars", "pyarrow", "scipy"])
def test_what_other_libraries_trust_is_what_it_was(client, library):
    pytest.importorskip(library)
    texts = [f"text {number}" for number in range(50_000)]
    if library == "polars":
        import polars

        template = polars.DataFrame({"t": texts})
    elif library == "pyarrow":
        import pyarrow

        template = pyarrow.table({"t": texts})
    else:
        import scipy.sparse

        template = scipy.sparse.eye(50_000, format="csr")
    client.delete(client.put(b"\x7f" * 4_000_000))
    with client.create(template) as draft:
        pass
    read = client.get(draft.ref)
    assert (abs(read - template).nnz == 0) if library == "scipy" else read.equals(template)
    client.delete(draft.ref)


def test_arrays_of_numbers_are_still_filled_in_place(client):
    np = pytest.importorskip("numpy")
    template = {"a": np.empty(100_000), "b": [np.empty(100_000, "i4"), np.empty(100_000, "M8[s]")]}
    client.delete(client.put(b"\x7f" * 4_000_000))
    with client.create(template) as draft:
        draft.value["a"][:] = 1.5
        draft.value["b"][0][:] = 2
        draft.value["b"][1][:] = 3
    read = client.get(draft.ref)
    assert (read["a"] == 1.5).all() and (read["b"][0] == 2).all() and (read["b"][1].view("i8") == 3).all()
    client.delete(draft.ref)
