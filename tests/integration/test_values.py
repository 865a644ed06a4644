"""Values through a real server: in, out, listed, described and deleted."""

from __future__ import annotations

import gc
import json
import os
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List

import pytest
from vineyard_testing import until
from vineyard_testing.processes import run_python

import vineyard_client as vc
from vineyard_client._store.meta import INLINE_LIMIT

pytestmark = pytest.mark.integration

VALUES: Dict[str, Any] = {
    "none": None,
    "a number": 2**70,
    "a text": "é" * 1000,
    "a small dict": {"a": [1, 2.5, True, None], "b": ("x", b"y")},
    "a few kilobytes": list(range(5000)),
    "bytes": os.urandom(200_000),
    "a buffer": memoryview(bytearray(os.urandom(300_000))),
    "nested buffers": [memoryview(bytearray(100_000)), {"k": memoryview(b"z" * 70_000)}, bytearray(10)],
}


def used(client: vc.Client) -> int:
    return client.status().memory_used


@pytest.mark.parametrize("name", VALUES)
def test_round_trip(client: vc.Client, name: str) -> None:
    """What comes out has the same type and is equal, as often as it is asked for."""
    value = VALUES[name]
    ref = client.put(value)
    for _ in range(3):
        again = client.get(ref)
        assert type(again) is type(value)
        assert again == value


@pytest.mark.parametrize("name", VALUES)
def test_memory_is_given_back(client: vc.Client, name: str) -> None:
    """A deleted value leaves no memory behind: neither its blob nor its guard."""
    before = used(client)
    ref = client.put(VALUES[name])
    assert (used(client) > before) is (ref.size > INLINE_LIMIT)
    client.get(ref)
    assert client.delete(ref) is True
    assert used(client) == before
    assert list(client.list()) == list(client.list(deleted=True)) == []


def test_small_values_take_no_blob(client: vc.Client) -> None:
    """An envelope of up to INLINE_LIMIT bytes lies in the metadata, a larger one in the store's memory."""
    before = used(client)
    sizes = set()
    for nbytes in range(INLINE_LIMIT - 120, INLINE_LIMIT + 20):
        ref = client.put(b"x" * nbytes)
        sizes.add(ref.size)
        taken = used(client) - before
        assert taken == (0 if ref.size <= INLINE_LIMIT else ref.size + 1), ref.size
        assert client.get(ref) == b"x" * nbytes
        client.delete(ref)
    assert {INLINE_LIMIT, INLINE_LIMIT + 1} <= sizes


def test_what_is_put_is_a_snapshot(client: vc.Client) -> None:
    """What the caller does to the value after ``put`` does not reach the store."""
    value = memoryview(bytearray(b"a" * 200_000))
    ref = client.put(value)
    value[:] = b"b" * 200_000
    assert client.get(ref) == b"a" * 200_000


def test_what_is_got_is_the_callers(client: vc.Client) -> None:
    """What a caller does to a value it got reaches neither the store nor another reader, early or late."""
    ref = client.put(memoryview(bytearray(b"a" * 200_000)))
    early: Any = client.get(ref)
    mine: Any = client.get(ref)
    mine[:] = b"b" * 200_000
    late: Any = client.get(ref)
    assert early == late == b"a" * 200_000
    assert mine == b"b" * 200_000


def test_read_only_stays_read_only(client: vc.Client) -> None:
    """A value that could not be changed cannot be changed afterwards."""
    writable: Any = client.get(client.put(memoryview(bytearray(100_000))))
    read_only: Any = client.get(client.put(memoryview(bytes(100_000))))
    assert (writable.readonly, read_only.readonly) == (False, True)


def test_large_values_are_not_copied(client: vc.Client) -> None:
    """A large value is a mapping of the store's memory; memory of this process is not taken for it."""
    ref = client.put(memoryview(bytearray(64 << 20)))

    def own() -> int:
        with open("/proc/self/smaps_rollup") as smaps:
            return sum(int(line.split()[1]) for line in smaps if line.startswith("Anonymous:")) << 10

    if not os.path.exists("/proc/self/smaps_rollup"):
        pytest.skip("this system does not tell what is shared")
    before = own()
    value: Any = client.get(ref)
    assert value[:: 1 << 12] == bytes(16384)  # a byte of every page
    assert own() - before < 8 << 20


def test_a_refused_value_leaves_nothing(client: vc.Client) -> None:
    """A value that readers would not accept is refused by ``put``, and nothing is stored."""
    before = used(client)
    with pytest.raises(vc.UnsafeType):
        client.put([b"x" * 100_000, lambda: None])
    assert used(client) == before and list(client.list()) == []


def test_info(client: vc.Client) -> None:
    """What the store knows of a value: from a reference or from its id."""
    before = datetime.now(timezone.utc) - timedelta(seconds=1)
    ref = client.put([1, 2, 3], labels={"dag_id": "etl", "é\0\ud800": ""})
    info = client.info(ref)
    assert info == client.info(ref.id)
    assert info.ref == ref
    assert (info.type, info.size, info.deleted) == ("builtins.list", ref.size, False)
    assert info.summary.startswith("list of 3")
    assert info.labels == {"dag_id": "etl", "é\0\ud800": ""}
    assert before < info.created < datetime.now(timezone.utc) + timedelta(seconds=1)
    assert (info.host, info.socket) == (os.uname().nodename, client.socket)


def test_the_name_of_the_host(client: vc.Client) -> None:
    """Whoever puts a value may say what its host is called; also where it shares memory, or turns out not to."""
    value = bytes(range(256)) * 1000
    ref = client.put(value, host="node-1")
    same, another = client.put(value, same_as=ref, host="node-2"), client.put(value[1:], same_as=ref, host="node-3")
    assert [client.info(found).host for found in (ref, same, another)] == ["node-1", "node-2", "node-3"]
    assert client.get(ref) == value


@pytest.mark.parametrize("host", ["", "n" * 256, "a\nb", "\ud800"])
def test_what_is_no_name_of_a_host(client: vc.Client, host: str) -> None:
    """It is refused, and nothing is stored."""
    with pytest.raises(ValueError, match="is no host's name: write 1 to 255 printable characters"):
        client.put(1, host=host)
    with pytest.raises(ValueError, match="native"):
        client.put(1, host="node-1", native=True)
    assert list(client.list()) == []


def test_list(client: vc.Client) -> None:
    """Objects are listed oldest first, all or by labels, without their values."""
    refs = [client.put(i, labels={"n": str(i % 2), "all": "yes"}) for i in range(6)]
    refs.append(client.put(bytes(100_000)))
    assert [info.ref for info in client.list()] == refs
    assert [info.ref for info in client.list(labels={"all": "yes"})] == refs[:6]
    assert [info.ref for info in client.list(labels={"all": "yes", "n": "1"})] == refs[1:6:2]
    assert list(client.list(labels={"n": "7"})) == list(client.list(deleted=True)) == []
    assert all(info == client.info(info.ref) for info in client.list())


def test_list_leaves_out_what_it_cannot_read(client: vc.Client, caplog: pytest.LogCaptureFixture) -> None:
    """Damaged metadata are left out of a list and logged; objects of other programs are no business of ours."""
    from vineyard_client._wire.messages import CreateData, DeleteData

    connection = client._connection()
    base = {"instance_id": 0, "nbytes": 0, "transient": True}
    damaged = connection.call(CreateData({**base, "typename": "vineyard_client::Value", "version": 1}))
    foreign = connection.call(CreateData({**base, "typename": "vineyard::Tensor<double>"}))
    ref = client.put("fine")
    try:
        assert [info.ref for info in client.list()] == [ref]
        assert f"o{damaged:016x}" in caplog.text and f"o{foreign:016x}" not in caplog.text
        with pytest.raises(vc.ObjectCorrupted, match="cannot be read"):
            client.info(f"o{damaged:016x}")
    finally:
        connection.call(DeleteData([damaged, foreign]))


def test_exists_and_delete(client: vc.Client) -> None:
    """A value exists until it is deleted; deleting again is no error, and says that nothing was there."""
    for value in (1, bytes(100_000)):
        ref = client.put(value)
        assert client.exists(ref) is True
        assert client.delete(ref) is True
        assert client.exists(ref) is False
        assert client.delete(ref) is False


@pytest.mark.parametrize("labels", [{"a": 1}, {1: "a"}, {"a": None}])
def test_labels_are_texts(client: vc.Client, labels: Any) -> None:
    """Labels of another kind are the caller's mistake, and nothing is stored."""
    with pytest.raises(TypeError, match="Labels are texts"):
        client.put(1, labels=labels)
    with pytest.raises(TypeError, match="Labels are texts"):
        list(client.list(labels=labels))
    assert list(client.list()) == []


@pytest.mark.parametrize("id_", ["", "5", "o5", "x" * 17])
def test_ids_are_checked(client: vc.Client, id_: str) -> None:
    """What is no id is refused before the server is asked."""
    with pytest.raises(vc.InvalidReference, match="is not an object id"):
        client.info(id_)


def test_persist(client: vc.Client) -> None:
    """Values can be made visible to a cluster, also where there is none."""
    for value in (1, bytes(100_000)):
        ref = client.put(value, persist=True)
        assert client.get(ref) == value
        assert client.delete(ref)


def test_status(client: vc.Client, server: vc.EmbeddedServer, release: str) -> None:
    """A status tells how full the store is and who serves it."""
    status = client.status()
    assert (status.socket, status.version, status.instance_id, status.metadata, status.endpoint) == (
        server.socket,
        release,
        0,
        "local",
        None,
    )
    assert status.memory_limit == 512 << 20
    assert status.connections >= 1
    ref = client.put(bytes(100_000))
    assert client.status().memory_used == status.memory_used + ref.size + 1


def test_a_closed_client(server: vc.EmbeddedServer) -> None:
    """A closed client says so, whatever it is asked; closing again is no error."""
    client = vc.connect(server.socket)
    ref = client.put(1)
    assert repr(client) == f"<Client of {server.socket}>"
    client.delete(ref)
    client.close()
    client.close()
    assert repr(client) == f"<Client of {server.socket}, closed>"
    calls: List[Any] = [
        lambda: client.put(1),
        lambda: client.get(ref),
        lambda: client.info(ref),
        lambda: client.exists(ref),
        lambda: client.delete(ref),
        lambda: list(client.list()),
        client.status,
        client.collect,
    ]
    for call in calls:
        with pytest.raises(vc.ConnectionFailed) as caught:
            call()
        assert str(caught.value) == f"This client of {server.socket} is closed. Make another one with connect()."


def test_another_process(client: vc.Client) -> None:
    """A reference as JSON is all that another process needs, in either direction."""
    ours = memoryview(bytearray(b"ours" * 50_000))
    refs = [client.put(ours), client.put({"small": 1})]
    result = run_python(
        """
import json, sys
import vineyard_client as vc
with vc.connect(sys.argv[1]) as client:
    large, small = [client.get(vc.ObjectRef.from_json(ref)) for ref in json.loads(sys.argv[2])]
    assert large == b"ours" * 50_000 and small == {"small": 1}
    large[:] = bytes(200_000)
    print(json.dumps(client.put([small, b"theirs" * 50_000]).to_json()))
""",
        client.socket,
        json.dumps([ref.to_json() for ref in refs]),
    )
    assert result.returncode == 0, result.stderr
    assert client.get(vc.ObjectRef.from_json(json.loads(result.stdout))) == [{"small": 1}, b"theirs" * 50_000]
    assert client.get(refs[0]) == ours


def test_importing_is_cheap() -> None:
    """Importing the package, and exchanging small values, loads no data library, no ctypes and nothing of tiers."""
    result = run_python(
        """
import sys
import vineyard_client as vc
heavy = {"numpy", "pandas", "pyarrow", "polars", "scipy", "torch", "xarray", "pydantic", "vineyard", "ctypes"}
heavy |= {"vineyard_client._tiers", "vineyard_client._agent"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
with vc.EmbeddedServer("16Mi") as server, vc.connect(server.socket) as client:
    assert client.get(client.put({"a": [1, "b"]})) == {"a": [1, "b"]}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    )
    assert result.returncode == 0, result.stderr


def test_a_client_that_is_forgotten(server: vc.EmbeddedServer, client: vc.Client) -> None:
    """A client that nobody closed is closed when it is collected; the server sees it go."""
    gc.collect()
    before = client.status().connections
    forgotten = vc.connect(server.socket)
    assert client.status().connections == before + 1
    del forgotten
    gc.collect()
    until(lambda: client.status().connections == before, "the end of the connection")


def test_user_classes(client: vc.Client) -> None:
    """Classes of the caller's own that may run code are stored and read only with a pattern: of call or client."""
    result = run_python(
        """
import sys, types
import vineyard_client as vc
module = types.ModuleType("shop")
exec("class Item:\\n    def __eq__(self, other):\\n        return self.price == other.price", module.__dict__)
module.Item.__module__ = "shop"
sys.modules["shop"] = module
item = module.Item()
item.price = 5
with vc.connect(sys.argv[1]) as plain, vc.connect(sys.argv[1], allowed_classes=["shop.*"]) as trusting:
    try:
        plain.put(item)
        raise SystemExit("put without a pattern")
    except vc.UnsafeType as error:
        assert "shop.Item" in str(error) and "allowed_classes" in str(error), error
    ref = plain.put(item, allowed_classes=["shop.Item"])
    assert trusting.get(ref) == plain.get(ref, allowed_classes=["shop.Item"]) == item
    try:
        plain.get(ref)
        raise SystemExit("get without a pattern")
    except vc.UnsafeType as error:
        assert "shop.Item" in str(error), error
    assert trusting.delete(trusting.put(item)) and plain.delete(ref)
""",
        client.socket,
    )
    assert result.returncode == 0, result.stderr
