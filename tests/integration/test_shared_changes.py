"""Whatever was changed is written, by whatever means it was changed; each value is what was put."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import Any, Callable, Dict, Iterator, List

import pytest
from vineyard_testing.processes import run_python
from vineyard_testing.shared import COLUMN, REST, ROWS, assert_same, base_of, frame, received, taken

import vineyard_client as vc
from vineyard_client._codec import proof

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("left_as_it_was")]


def _ctypes(array: Any) -> None:
    ctypes.c_char.from_address(array.ctypes.data + array.nbytes - 1).value = b"\x7f"


def _memset(array: Any) -> None:
    ctypes.memset(array.ctypes.data + array.nbytes // 2, 0x55, 1)


def _system_call(array: Any) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\x7f" * 9)
    with open(reader, "rb", buffering=0) as file:
        file.readinto(memoryview(array).cast("B")[777:786])
    os.close(writer)


def _thread(array: Any) -> None:
    thread = threading.Thread(target=array.__setitem__, args=(5, -1))
    thread.start()
    thread.join()


def _arrow(array: Any) -> None:
    """Arrow's buffers are immutable, but who has the memory can write to it."""
    buffer = pa.py_buffer(memoryview(array).cast("B"))
    np.frombuffer(pa.Array.from_buffers(pa.int64(), len(array), [None, buffer]).buffers()[1], np.uint8)
    view = np.asarray(memoryview(buffer))
    assert view.base is not None
    ctypes.c_char.from_address(buffer.address).value = b"\x7f"


WRITES: Dict[str, Callable[[Any], object]] = {
    "an element": lambda array: array.__setitem__(4, -1),
    "the first byte": lambda array: array.view(np.uint8).__setitem__(0, 99),
    "the last byte": lambda array: array.view(np.uint8).__setitem__(-1, 99),
    "one bit": lambda array: array.view(np.uint8).__setitem__(100_003, array.view(np.uint8)[100_003] ^ 1),
    "a strided view": lambda array: array.reshape(-1, 10)[::7].T.__setitem__((3, 5), -1),
    "in place": lambda array: np.add(array, 1, out=array),
    "sorting": lambda array: array[::-1].sort(),
    "put": lambda array: np.put(array, [9], [-9]),
    "as_strided": lambda array: np.lib.stride_tricks.as_strided(array, (5,), (80_000,)).__setitem__(3, -1),
    "a memoryview": lambda array: memoryview(array).cast("B").__setitem__(70_001, 255),
    "ctypes": _ctypes,
    "memset": _memset,
    "a system call": _system_call,
    "another thread": _thread,
    "arrow": _arrow,
    "frombuffer": lambda array: np.frombuffer(memoryview(array), np.uint8).__setitem__(1, 3),
    "the base": lambda array: base_of(array).__setitem__(array.ctypes.data % 4096 + 100_000, 0x5A),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_was_written_to_is_put_as_it_is(client: vc.Client, told: str, name: str) -> None:
    array = received(client, np.arange(10 * ROWS))
    before = array.copy()
    WRITES[name](array)
    changed = array.copy()
    assert not np.array_equal(before, changed)
    took, ref = taken(client, array)
    np.testing.assert_array_equal(client.get(ref), changed)
    assert took > 10 * COLUMN


def test_what_was_changed_back_is_the_same(client: vc.Client, told: str) -> None:
    array = received(client, np.arange(10 * ROWS))
    array += 1
    array -= 1
    took, _ = taken(client, array)
    assert took < REST


def test_a_neighbour_on_the_same_page_changes_nothing(client: vc.Client, told: str) -> None:
    """Of two columns whose ends share a page one is written, and the other is not."""
    value = received(client, frame(4))
    columns = [value[f"c{number}"].to_numpy() for number in range(4)]
    view = _writable(columns[1])
    view[0] = view[-1] = -1.0
    expected = [column.copy() for column in columns]
    took, ref = taken(client, columns)
    assert_same(client.get(ref), expected)
    assert COLUMN <= took < COLUMN + REST


PANDAS: Dict[str, Callable[[Any], object]] = {
    "iloc": lambda value: value.iloc.__setitem__((3, 3), -1.0),
    "loc": lambda value: value.loc.__setitem__((slice(5, 9), "c1"), -1.0),
    "at": lambda value: value.at.__setitem__((7, "c2"), -1.0),
    "iat": lambda value: value.iat.__setitem__((7, 2), -1.0),
    "a column": lambda value: value.__setitem__("c5", value["c5"] + 1),
    "fillna": lambda value: value.fillna(0, inplace=True),
    "replace": lambda value: value.replace(3.0, -3.0, inplace=True),
    "clip": lambda value: value.clip(upper=100.0, inplace=True),
    "where": lambda value: value.where(value < 1000, -1.0, inplace=True),
    "mask": lambda value: value.mask(value > 1000, -1.0, inplace=True),
    "update": lambda value: value.update(pd.DataFrame({"c1": [-1.0, -2.0]})),
    "sort_values": lambda value: value.sort_values("c1", ascending=False, inplace=True),
    "drop": lambda value: value.drop(index=range(100), inplace=True),
    "insert": lambda value: value.insert(0, "first", 1.0),
    "pop": lambda value: value.pop("c0"),
    "values": lambda value: _writable(value["c4"].to_numpy()).__setitem__(2, -1.0),
    "eval": lambda value: value.eval("c1 = c1 + c2", inplace=True),
    "interpolate": lambda value: value.interpolate(inplace=True),
    "iadd": lambda value: value.__iadd__(1),
    "reset_index": lambda value: value.reset_index(inplace=True),
    "set_index": lambda value: value.set_index("c1", inplace=True),
}


def _writable(array: Any) -> Any:
    """Return a view of an array that lets itself be written to, whatever pandas says."""
    return np.frombuffer((ctypes.c_char * array.nbytes).from_address(array.ctypes.data), array.dtype)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PANDAS)
def test_whatever_pandas_does_in_place(client: vc.Client, told: str, name: str) -> None:
    """In this pandas with its own way of copying; of what it leaves alone the memory is shared, and all is the same."""
    ref = client.put(frame())
    value: Any = client.get(ref)
    PANDAS[name](value)
    expected = value.copy()
    _, second = taken(client, value)
    assert_same(client.get(second), expected)
    assert_same(client.get(ref), frame())


WITHOUT_COPY_ON_WRITE = """
import sys, numpy as np, pandas as pd, vineyard_client as vc
if pd.__version__ < "3":
    pd.options.mode.copy_on_write = False
with vc.connect(sys.argv[1]) as client:
    made = pd.DataFrame({f"c{n}": np.arange(50_000.0) * (n + 1) for n in range(10)})
    value = client.get(client.put(made))
    column, view = value["c3"], value.iloc[:, 2:5]
    copy = value.copy(deep=False)
    if pd.__version__ < "3":
        column.iloc[5] = -1.0
        view.iloc[6, 0] = -2.0
        copy.iloc[7, 1] = -3.0
    value.iloc[8, 8] = -4.0
    for each in (value, copy, view, column):
        got = client.get(client.put(each))
        assert got.equals(each) and got.equals(each.copy())
"""


def test_without_copy_on_write(server: vc.EmbeddedServer) -> None:
    """A frame's views write through to it, where pandas has no copy on write."""
    done = run_python(WITHOUT_COPY_ON_WRITE, server.socket)
    assert not done.returncode, done.stderr


@pytest.fixture
def unproved() -> Iterator[None]:
    """What changes while it is put cannot be read again and be the same."""
    before = proof.demand(False)
    yield
    proof.demand(before)


def test_written_while_it_is_put(server: vc.EmbeddedServer, client: vc.Client, unproved: None) -> None:
    """A thread counts an array up; whatever moment a put takes, each element has a value that it had meanwhile."""
    array = received(client, np.zeros(10 * ROWS, np.int64))
    stop = threading.Event()
    state: List[int] = [0]

    def count() -> None:
        while not stop.is_set():
            state[0] += 1
            array[state[0] % len(array)] = state[0]

    thread = threading.Thread(target=count)
    with vc.connect(server.socket) as mine:
        mine.put(array)
        thread.start()
        try:
            for _ in range(5):
                low = state[0]
                before = array.copy()
                ref = mine.put(array)
                after = array.copy()
                high = state[0]
                got: Any = mine.get(ref)
                settled = before == after
                np.testing.assert_array_equal(got[settled], before[settled])
                assert ((got >= 0) & (got <= high)).all()
                assert low <= high
                mine.delete(ref)
        finally:
            stop.set()
            thread.join()
