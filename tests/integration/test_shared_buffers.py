"""What lies in the store already is not written again, and whatever was changed is; each value is what was put."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest
from vineyard_testing.processes import in_child, run_python

import vineyard_client as vc
from vineyard_client._io import mapping, pages
from vineyard_client._store import sharing

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.integration

ROWS = 20_000
COLUMN = 8 * ROWS

# What a frame's object takes beside its columns.
REST = 64 * 1024


def used(client: vc.Client) -> int:
    return client.status().memory_used


def taken(client: vc.Client, value: object) -> Tuple[int, vc.ObjectRef]:
    """Put a value, read it again and compare it; return the bytes that it took, and its reference."""
    before = used(client)
    ref = client.put(value)
    took = used(client) - before
    assert_same(client.get(ref), value)
    return took, ref


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, pd.DataFrame):
        pd.testing.assert_frame_equal(left, right)
    elif isinstance(left, pd.Series):
        pd.testing.assert_series_equal(left, right)
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for one, other in zip(left, right):
            assert_same(one, other)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        assert_same(list(left.values()), list(right.values()))
    else:
        assert left == right


def frame(columns: int = 10) -> Any:
    """Return a frame each of whose columns has memory of its own."""
    made = pd.DataFrame(index=pd.RangeIndex(ROWS))
    for number in range(columns):
        made[f"c{number}"] = np.arange(ROWS, dtype=float) * (number + 1)
    return made


def received(client: vc.Client, value: object) -> Any:
    """Return a value as a task receives it."""
    return client.get(client.put(value))


@pytest.fixture(autouse=True)
def left_as_it_was(client: vc.Client) -> Iterator[None]:
    """Free what a test has put: the store is that of others, too."""
    yield
    gc.collect()
    for info in list(client.list()):
        client.delete(info.ref)
    client.collect()


@pytest.fixture(params=["pages", "bytes"])
def told(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Once with what the kernel tells of pages, once where it tells nothing."""
    if request.param == "bytes":
        monkeypatch.setattr(sharing, "written", lambda stretches: None)
    return str(request.param)


# ---- what is shared


def test_a_frame_with_one_more_column_takes_that_column(client: vc.Client, told: str) -> None:
    value = received(client, frame())
    value["new"] = np.arange(ROWS, dtype=float)
    took, ref = taken(client, value)
    assert COLUMN <= took < COLUMN + REST
    info = client.info(ref)
    assert info.size > 11 * COLUMN
    assert info.memory is not None
    assert COLUMN <= info.memory <= took


def test_what_is_read_only_stays_so(client: vc.Client) -> None:
    array = np.arange(ROWS)
    array.flags.writeable = False
    took, ref = taken(client, received(client, array))
    assert took < REST
    got: Any = client.get(ref)
    assert not got.flags.writeable


UNCHANGED: Dict[str, Callable[[Any], Any]] = {
    "rename": lambda value: value.rename(columns={"c0": "a"}),
    "drop": lambda value: value.drop(columns=["c3"]),
    "half of the columns": lambda value: value[[f"c{number}" for number in range(5)]],
    "a list of them": lambda value: [value, [value.rename(columns=str.upper)]][:1],
    "a dict": lambda value: {"frame": value, "n": 5, "more": (1, "two")},
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_is_not_changed_is_not_written(client: vc.Client, told: str, name: str) -> None:
    took, _ = taken(client, UNCHANGED[name](received(client, frame())))
    # pandas before 3, without its option, copies for some of these; it is the same value in any case.
    assert took < REST or int(pd.__version__.split(".")[0]) < 3


def test_arrays_and_tables(client: vc.Client, told: str) -> None:
    array = received(client, np.arange(10 * ROWS))
    for value in (array, array[:-7], array[3:], array.reshape(10, ROWS), array.reshape(10, ROWS).T, [array, 1]):
        took, _ = taken(client, value)
        assert took < REST
    table = received(client, pa.table({"a": np.arange(ROWS), "b": pa.array(map(str, range(ROWS)))}))
    for value in (table, table.append_column("c", [[1.0] * ROWS]), table.select(["b"]), table.slice(0, ROWS - 100)):
        took, _ = taken(client, value)
        assert took < value.nbytes / 2 + REST


POLARS = """
import sys, polars as pl, vineyard_client as vc
with vc.connect(sys.argv[1]) as client:
    table = client.get(client.put(pl.DataFrame({"a": range(50_000), "b": [float(row) for row in range(50_000)]})))
    before = client.status().memory_used
    value = table.with_columns(c=pl.col("a") + 1)
    assert client.get(client.put(value)).equals(value)
    assert client.status().memory_used - before < 800_000
    # Its columns are immutable; what it does in place, it does to memory of its own.
    changed = table.with_columns(pl.col("a") * 2)
    table[3, "b"] = -1.0
    for each in (table, changed, table.slice(5, 40_000), table["a"], [table, value]):
        got = client.get(client.put(each))
        assert got.equals(each) if hasattr(got, "equals") else all(map(lambda g, e: g.equals(e), got, each))
"""


def test_polars(server: vc.EmbeddedServer) -> None:
    pytest.importorskip("polars")
    done = run_python(POLARS, server.socket)
    assert not done.returncode, done.stderr


def test_a_pipeline_takes_what_is_new(client: vc.Client) -> None:
    """Chains stay flat: each step refers to the memory that has the bytes, and all but the last can go."""
    empty = used(client)
    value = received(client, frame())
    first = used(client)
    for step in range(10):
        value = value.copy(deep=False)
        value[f"new{step}"] = np.full(ROWS, float(step))
        ref = client.put(value)
        expected, value = value, client.get(ref)
        assert_same(value, expected)
    del expected
    assert used(client) - first < 10 * (COLUMN + REST)
    for info in list(client.list()):
        if info.ref != ref:
            client.delete(info.ref)
    kept = value.copy()
    del value
    gc.collect()
    client.collect()
    assert used(client) - empty < 20 * (COLUMN + REST)
    assert_same(client.get(ref), kept)
    client.delete(ref)
    gc.collect()
    client.collect()
    assert used(client) == empty


def test_little_of_much_is_written(client: vc.Client) -> None:
    """A slice does not keep alive what it was cut from."""
    array = received(client, np.arange(100 * ROWS))
    took, ref = taken(client, array[: 40 * ROWS])
    assert took >= 40 * COLUMN
    assert client.info(ref).memory == client.info(ref).size
    took, _ = taken(client, array[: 60 * ROWS])
    assert took < REST


def test_what_overlaps_stays_apart(client: vc.Client) -> None:
    """Who reads the value changes one of two arrays, and not the other, as with any value."""
    array = received(client, np.arange(10 * ROWS))
    for value in ([array, array[:]], [array[: 6 * ROWS], array[ROWS:]], [array[5:], array[5:-1], array]):
        _, ref = taken(client, value)
        got: Any = client.get(ref)
        for position, one in enumerate(got):
            others = [other.copy() for other in got]
            one[...] = -1 - position
            for number, other in enumerate(got):
                if number != position:
                    assert_same(other, others[number])


def test_changes_of_one_reader_reach_nobody(client: vc.Client) -> None:
    first = client.put(frame(3))
    value: Any = client.get(first)
    second = client.put(value.assign(new=1.0))
    one: Any = client.get(second)
    expected = one.copy()
    one.iloc[:, :] = -1.0
    value.iloc[:, :] = -2.0
    assert_same(client.get(second), expected)
    assert_same(client.get(first), frame(3))


def test_small_values_and_small_buffers_are_put_as_always(client: vc.Client) -> None:
    for value in (5, "text", np.arange(10), [np.arange(8000), np.arange(8000)]):
        ref = client.put(received(client, value))
        assert client.info(ref).memory == client.info(ref).size


def test_another_store_gets_all_of_it(client: vc.Client) -> None:
    value = received(client, frame())
    with vc.EmbeddedServer(size="64Mi") as second, vc.connect(second.socket) as there:
        received(there, frame())  # ids are alike in both
        took, ref = taken(there, value)
        assert took > 10 * COLUMN
        assert there.info(ref).memory == there.info(ref).size


def test_a_store_that_began_anew_gets_all_of_it() -> None:
    with vc.EmbeddedServer(size="64Mi") as first:
        client = vc.connect(first.socket)
        value = received(client, frame())
        socket = first.socket
    with vc.EmbeddedServer(socket=socket, size="64Mi"):
        with pytest.raises(vc.ConnectionFailed):
            client.status()
        other = client.put(frame(3))
        took, ref = taken(client, value)
        assert took > 10 * COLUMN
        client.delete(other)
        assert_same(client.get(ref), value)
        client.close()


def test_a_child_shares_what_its_parent_read(client: vc.Client) -> None:
    value = received(client, frame())
    array = received(client, np.arange(10 * ROWS))
    array[0] = 7  # before the fork, as after it, is a change

    def child() -> None:
        took, _ = taken(client, value.assign(new=1.0))
        assert took < COLUMN + REST
        took, _ = taken(client, array)
        assert took > 10 * COLUMN
        value.iloc[3, 3] = -1.0
        taken(client, value)

    assert in_child(child) == 0
    took, _ = taken(client, value)
    assert took < REST


def test_several_readings_of_one_value(client: vc.Client) -> None:
    ref = client.put(np.arange(10 * ROWS))
    one, two = client.get(ref), client.get(ref)
    two[5] = -1  # type: ignore[index]
    took, _ = taken(client, one)
    assert took < REST
    took, _ = taken(client, two)
    assert took > 10 * COLUMN


def test_what_another_client_of_the_process_read(client: vc.Client, other: vc.Client) -> None:
    took, _ = taken(other, received(client, frame()))
    assert took < REST


def test_encoded_values_share_too(client: vc.Client) -> None:
    before = used(client)
    with vc.encode(received(client, frame()).assign(new=1.0)) as encoded:
        size = encoded.size
        ref = client.put(encoded)
    assert used(client) - before < size + COLUMN + REST
    assert client.info(ref).memory < 2 * COLUMN  # type: ignore[operator]
    assert vc.loads(vc.dumps(client.get(ref))).equals(client.get(ref))  # type: ignore[attr-defined]


# ---- what is written


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
    "the base": lambda array: _base(array).__setitem__(array.ctypes.data % 4096 + 100_000, 0x5A),
}


def _base(array: Any) -> Any:
    """Return the whole mapping that an array lies in, as bytes."""
    view = memoryview(array)
    while isinstance(view.obj, np.ndarray) and view.obj.base is not None:
        view = memoryview(view.obj.base)
    return np.frombuffer(view.obj if view.obj is not None else view, np.uint8)


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


def test_written_while_it_is_put(server: vc.EmbeddedServer, client: vc.Client) -> None:
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


# ---- what the kernel tells, and where it does not

NOT_DUMPABLE = """
import ctypes, os, sys, numpy as np, vineyard_client as vc
from vineyard_client._io import mapping, pages
if os.getuid() == 0:
    os.setgid(65534), os.setuid(65534)
assert ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) == 0
with vc.connect(sys.argv[1]) as client:
    array = client.get(client.put(np.arange(500_000)))
    assert pages.written([]) is None
    before = client.status().memory_used
    ref = client.put(array)
    assert client.status().memory_used - before < 65536
    array[-1] = -1
    changed = client.put(array)
    assert client.status().memory_used - before > 4_000_000
    assert (client.get(changed) == array).all() and client.get(ref)[-1] == 499_999
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is Linux's")
def test_a_process_that_is_not_dumpable_compares(server: vc.EmbeddedServer) -> None:
    """That is what tasks are under a supervisor that turned it off; they do not turn it on again."""
    os.chmod(os.path.dirname(server.socket), 0o755)
    done = run_python(NOT_DUMPABLE, server.socket)
    assert not done.returncode, done.stderr


@pytest.fixture
def tells() -> Iterator[None]:
    if pages.written([]) is None:
        pytest.skip("this kernel does not tell, or not the truth")
    yield


def stretch(array: Any) -> pages.Stretch:
    """Return what is known of an array that get returned."""
    (found,) = [each for each in mapping.mapped() if 0 <= array.ctypes.data - each.address < each.nbytes]
    hold: Any = found.owner
    return pages.Stretch(
        array.ctypes.data, array.nbytes, hold.memory, hold.payload.offset + array.ctypes.data - found.address
    )


def test_what_is_told_of_pages(client: vc.Client, tells: None) -> None:
    """Pages that were written to, and no others: not by reading, also what a fork or a thread wrote."""
    array = received(client, np.zeros(100 * 4096, np.uint8))
    first = -array.ctypes.data % 4096

    def told() -> Any:
        found = pages.written([stretch(array)])
        return None if found is None else found[0]

    assert told() == []
    assert not array.any()
    assert told() == []
    array[first + 3 * 4096] = 0  # with what is there
    assert told() == [(first + 3 * 4096, 4096)]
    array[0] = array[-1] = 1
    array[first + 4 * 4096 + 5] = 1
    assert told()[0] == (0, first or 4096)
    assert (first + 3 * 4096, 2 * 4096) in told()
    assert sum(told()[-1]) == len(array)

    def child() -> None:
        assert (first + 3 * 4096, 2 * 4096) in told()  # the copies are still copies
        array[first + 50 * 4096] = 1
        assert (first + 50 * 4096, 4096) in told()

    assert in_child(child) == 0
    assert (first + 50 * 4096, 4096) not in told()


PAGE = mmap.PAGESIZE
ANONYMOUS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
FIXED = 0x10


def _lay_over(address: int, nbytes: int, flags: int, file: int, offset: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    assert libc.mmap(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags | FIXED, file, offset) == address


def _zeros_instead(address: int, client: vc.Client) -> None:
    _lay_over(address, PAGE, ANONYMOUS, -1, 0)


def _another_file(address: int, client: vc.Client) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes([0xAB]) * PAGE)
        file.flush()
        _lay_over(address, PAGE, mmap.MAP_PRIVATE, file.fileno(), 0)


def _another_place(address: int, client: vc.Client) -> None:
    """Lay over the page what the same file has elsewhere, as another value."""
    other = received(client, np.full(10 * ROWS, 7, np.int64))
    known, memory = stretch(other), client._connection().memory
    assert memory is not None
    offset = known.offset + -known.offset % PAGE
    _lay_over(address, PAGE, mmap.MAP_PRIVATE, memory, offset)


def _moved_here(address: int, client: vc.Client) -> None:
    """Move memory of the process over the page, as a library does that exchanges pages instead of copying them."""
    source = mmap.mmap(-1, 4 * PAGE)
    source[:] = bytes([0xCD]) * 4 * PAGE
    begin = ctypes.addressof(ctypes.c_char.from_buffer(source))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mremap.restype = ctypes.c_void_p
    libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    assert libc.mremap(begin + PAGE, PAGE, PAGE, 3, address) == address
    _lay_over(begin + PAGE, PAGE, ANONYMOUS, -1, 0)  # what source unmaps in the end


TRICKS = {"zeros": _zeros_instead, "another file": _another_file, "another place": _another_place, "moved": _moved_here}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mremap and MAP_FIXED")
@pytest.mark.parametrize("name", TRICKS)
def test_another_mapping_lies_over_a_part(client: vc.Client, told: str, name: str) -> None:
    """No page was written to, and yet it is another one: what is there is put."""
    array = received(client, np.arange(1, 10 * ROWS + 1))
    page = array.ctypes.data + -array.ctypes.data % PAGE + 5 * PAGE
    TRICKS[name](page, client)
    changed = array.copy()
    assert (changed != np.arange(1, 10 * ROWS + 1)).sum() == PAGE // 8
    took, ref = taken(client, array)
    np.testing.assert_array_equal(client.get(ref), changed)
    assert took > 10 * COLUMN


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="MAP_FIXED and madvise")
def test_the_kernel_takes_changes_back(client: vc.Client, told: str) -> None:
    """Pages that a program gives back are the store's again, and what lies in them is shared again."""
    array = received(client, np.arange(10 * ROWS))
    array[...] = -1
    memory = _base(array)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert libc.madvise(memory.ctypes.data, memory.nbytes, 4) == 0  # MADV_DONTNEED
    np.testing.assert_array_equal(array, np.arange(10 * ROWS))
    took, _ = taken(client, array)
    assert took < REST


def test_the_mappings_are_forgotten_with_their_memory(client: vc.Client) -> None:
    gc.collect()
    before = len(mapping._mappings)
    values = [received(client, np.arange(ROWS)) for _ in range(5)]
    assert len(mapping._mappings) == before + 5
    part = values[0][100:200]
    del values
    gc.collect()
    assert len(mapping._mappings) == before + 1
    cycle: List[Any] = [part]
    cycle.append(cycle)
    del part, cycle
    gc.collect()
    assert len(mapping._mappings) == before
    assert all(found.mapping is not None for found in mapping.mapped())


def test_nothing_is_loaded_for_values_that_share_nothing(server: vc.EmbeddedServer) -> None:
    code = (
        "import sys, vineyard_client as vc; client = vc.connect(sys.argv[1]); client.put(b'x' * 200_000); "
        "client.put([1]); assert 'ctypes' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, server.socket], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
