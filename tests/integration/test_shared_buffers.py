"""What lies in the store already is not written again, for values of all libraries; each value is what was put."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any, Callable, Dict, List

import pytest
from vineyard_testing.processes import in_child, run_python
from vineyard_testing.shared import COLUMN, REST, ROWS, assert_same, frame, received, taken, used

import vineyard_client as vc
from vineyard_client._io import mapping

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("left_as_it_was")]


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
