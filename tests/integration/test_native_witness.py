"""The official package as a witness: it reads what we write as native objects, and we what it writes.

Runs where ``vineyard`` is installed (``nox -s native``).
"""

from __future__ import annotations

import importlib
import warnings
from importlib import metadata
from typing import Any, Dict, Iterator

import pytest

import vineyard_client as vc

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore"),  # it is older than some of the libraries that it uses
]

try:
    metadata.distribution("vineyard")
except metadata.PackageNotFoundError:
    pytest.skip("the official package is not installed", allow_module_level=True)

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")
pa = pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def vineyard() -> Any:
    """The official package. Importing it takes seconds and changes pandas, so it happens no sooner than needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("vineyard")


@pytest.fixture(scope="module")
def official(server: vc.EmbeddedServer, vineyard: Any) -> Iterator[Any]:
    """An official client of the same server. It never closes the store's memory, so it takes hold of it at once."""
    connected = vineyard.connect(server.socket)
    connected.delete(connected.put(np.arange(3)))
    yield connected
    connected.close()


# What the official package reads as it was written. (It cannot read frames or series with times in them, nor tables
# without rows or arrays of bytes, and takes Arrow's float for double.)
BOTH_WAYS: Dict[str, Any] = {
    "whole number": -5,
    "number": 1.5,
    "text": "héllo",
    "sequence": (1, "a", (2.5,)),
    "array": np.arange(24).reshape(2, 3, 4),
    "Fortran array": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "small floats": np.arange(3, dtype="f4"),
    "truth": np.array([True, False]),
    "times": np.array(["2020-01-01", "2021-01-01"], "M8[ns]"),
    "texts": np.array(["a", None, ""], dtype=object),
    "no elements": np.zeros((0, 3)),
    "frame": pd.DataFrame({"b": [1, 2], "a": [0.5, 1.5]}),
    "frame with an index": pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 6], name="key")),
    "series": pd.Series([0.5, 2], name="n"),
    "index": pd.Index([3, 1], name="n"),
    "Arrow numbers": pa.array([1, None, 3]),
    "Arrow truth": pa.array([True, None]),
    "Arrow text": pa.array(["a", None], pa.large_string()),
    "Arrow nulls": pa.nulls(2),
    "table": pa.table({"n": [1, None], "s": pa.array(["a", None], pa.large_string())}),
    "batch": pa.record_batch([pa.array([1, 2])], names=["n"]),
    "schema": pa.schema([("n", pa.int32())]),
}

# What it writes in a way that it cannot read back itself, but we can.
READ_HERE: Dict[str, Any] = {
    "array of the other byte order": np.arange(3).astype(np.dtype("i4").newbyteorder()),
    "bytes": np.array([b"a", b"bc"]),
    "Arrow floats": pa.array([0.5, None], pa.float32()),
    "Arrow times": pa.array([1, 2], pa.timestamp("us")),
    "Arrow bytes": pa.array([b"a"], pa.large_binary()),
    "table without rows": pa.table({"n": pa.array([], pa.int64())}),
}


def same(value: Any, other: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype == other.dtype and value.shape == other.shape and value.tolist() == other.tolist()
    if isinstance(value, pd.DataFrame):
        return (
            value.equals(other) and list(value.columns) == list(other.columns) and value.index.name == other.index.name
        )
    if isinstance(value, (pd.Series, pd.Index)):
        return bool(value.equals(other)) and value.name == other.name
    if hasattr(value, "equals"):
        return bool(value.equals(other))
    return type(value) is type(other) and bool(value == other)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_both_ways(client: vc.Client, vineyard: Any, official: Any, name: str) -> None:
    """Either reads what the other wrote."""
    value = BOTH_WAYS[name]
    ref = client.put(value, native=True)
    assert same(value, official.get(vineyard.ObjectID(ref.id)))
    assert same(value, client.get(ref))
    theirs = client.reference(repr(official.put(value)).strip('"'))
    assert theirs.type == ref.type
    assert same(value, client.get(theirs))
    for one in (ref, theirs):
        client.delete(one)


@pytest.mark.parametrize("name", READ_HERE)
def test_read_here(client: vc.Client, official: Any, name: str) -> None:
    """What the official package writes and misreads is read here as it was."""
    ref = client.reference(repr(official.put(READ_HERE[name])).strip('"'))
    assert same(READ_HERE[name], client.get(ref))
    client.delete(ref)


def test_pickles(client: vc.Client, official: Any) -> None:
    """What the official package pickles is refused, unless that is allowed."""
    for value in ({"a": 1}, np.array([1, "a"], dtype=object), pa.array(["a"]).dictionary_encode()):
        ref = client.reference(repr(official.put(value)).strip('"'))
        with pytest.raises(vc.UnsafeType, match="holds a pickle"):
            client.get(ref)
        assert same(value, client.get(ref, allowed_classes=["pickle.loads"]))
        client.delete(ref)


def test_what_it_loses_is_not_made_up(client: vc.Client, official: Any) -> None:
    """A value that the official package wrote wrongly, where that can be seen, is an error and not another value."""
    for value in (2**70, float("nan")):
        ref = client.reference(repr(official.put(value)).strip('"'))
        with pytest.raises(vc.ObjectCorrupted):
            client.get(ref)
        client.delete(ref)
    flag = client.reference(repr(official.put(True)).strip('"'))
    assert client.get(flag) is True
    client.delete(flag)


def test_deleted_by_the_other(client: vc.Client, vineyard: Any, official: Any) -> None:
    """An object that the official client deletes is gone, and what was read before stays."""
    array = np.arange(100_000)
    ref = client.put(array, native=True)
    value: Any = client.get(ref)
    official.delete(vineyard.ObjectID(ref.id))
    assert client.exists(ref) is False
    others = [official.put(np.zeros(100_000)) for _ in range(3)]
    assert (value == array).all()
    official.delete(others)
