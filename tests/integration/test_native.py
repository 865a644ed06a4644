"""Native objects on a real server: found by their ids, read, written and deleted, and never taken for each other."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, Dict, List

import pytest
from vineyard_testing.processes import run_python

import vineyard_client as vc
from vineyard_client import _native
from vineyard_client._native.objects import NativeObject
from vineyard_client._store.meta import TOMBSTONE
from vineyard_client._wire.messages import CreateBuffer, CreateData, DeleteData, GetData, IsInUse, Seal
from vineyard_client.ids import BLOB_BIT, format_id, parse_id

pytestmark = pytest.mark.integration

BYTES = os.urandom(200_000)
VALUE = ("text", 5, (0.1, BYTES, b""))


@pytest.fixture(autouse=True)
def empty(client: vc.Client) -> Any:
    """Let each test see that the memory it took is free again; native objects are not among what ``client`` lists."""
    before = client.status().memory_used
    yield
    with vc.connect(client.socket) as other:
        assert other.status().memory_used == before


def trees(client: vc.Client, *numbers: int) -> Dict[int, Any]:
    return client._connection().call(GetData(numbers))


def blobs(client: vc.Client, ref: vc.ObjectRef) -> List[int]:
    found = NativeObject.find(client._connection(), parse_id(ref.id), ref.token)
    assert found is not None
    return list(_native.blob_ids(found.tree))


def test_round_trip(client: vc.Client) -> None:
    """A native object is written and read, described, and deleted with all its parts."""
    before = client.status().memory_used
    ref = client.put(VALUE, native=True)
    assert ref.type == "vineyard::Sequence" and ref.size == len(BYTES)
    assert client.status().memory_used - before == len(BYTES)
    for _ in range(2):
        assert client.get(ref) == VALUE
    info = client.info(ref)
    assert info.ref == ref and info.type == ref.type and info.size == ref.size and info.summary == "3 elements"
    assert abs(info.created - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert info.socket == client.socket and info.labels == {} and not info.deleted
    assert client.exists(ref) is True
    assert client.delete(ref) is True
    assert client.delete(ref) is False and client.exists(ref) is False
    for call in (client.get, client.info):
        with pytest.raises(vc.ObjectNotFound):
            call(ref)


def test_the_reference_is_one_like_any_other(client: vc.Client) -> None:
    """A reference to a native object travels as JSON and works in another process."""
    ref = client.put(VALUE[:2], native=True)
    done = run_python(
        "import sys, json, vineyard_client as vc\n"
        "with vc.connect(sys.argv[1]) as client:\n"
        "    print(client.get(vc.ObjectRef.from_json(json.loads(sys.argv[2]))))",
        client.socket,
        str(ref.to_json()).replace("'", '"').replace("None", "null"),
    )
    assert done.stdout.strip() == repr(VALUE[:2]), done.stderr
    client.delete(ref)


def test_reference(client: vc.Client) -> None:
    """An id alone is enough to make a reference, to a native object or to a value of this package."""
    for ref in (client.put(VALUE, native=True), client.put(VALUE), client.put(1)):
        assert client.reference(ref.id) == ref
        assert client.info(ref.id) == client.info(ref)
        client.delete(ref)
        with pytest.raises(vc.ObjectNotFound):
            client.reference(ref.id)


def test_what_cannot_be_referenced(client: vc.Client) -> None:
    """Blobs, and texts that are no ids, are refused with a reason."""
    ref = client.put((BYTES,), native=True)
    with pytest.raises(vc.InvalidReference, match="is a blob") as caught:
        client.reference(format_id(blobs(client, ref)[0]))
    assert "object's id" in caught.value.hint
    with pytest.raises(vc.InvalidReference, match="not an object id"):
        client.reference("o123")
    client.delete(ref)


def test_a_deleted_value_cannot_be_referenced(client: vc.Client) -> None:
    """The tombstone that keeps a value's memory for its readers is no way back to the value."""
    ref = client.put(memoryview(bytearray(BYTES)))
    value = client.get(ref)
    client.delete(ref)
    tombstones = [info.ref.id for info in client.list(deleted=True)]
    assert len(tombstones) == 1
    with pytest.raises(vc.ObjectNotFound):
        client.reference(tombstones[0])
    assert client.info(tombstones[0]).deleted is True
    del value
    gc.collect()
    client.collect()


def test_a_native_object_is_not_listed_or_collected(client: vc.Client) -> None:
    """Other engines' objects are nobody's to tidy up."""
    ref = client.put(VALUE, native=True)
    assert list(client.list()) == [] == list(client.list(deleted=True))
    assert client.collect(older_than=timedelta(0)) == []
    assert client.get(ref) == VALUE
    client.delete(ref)


def test_labels_and_persist(client: vc.Client) -> None:
    """Labels and persisting reach a native object, and leave its reference as it was."""
    plain = client.put(1, native=True)
    ref = client.put(2, native=True, labels={"dag_id": "etl"}, persist=True)
    assert client.info(ref).labels == {"dag_id": "etl"}
    assert trees(client, parse_id(ref.id))[parse_id(ref.id)]["transient"] is False
    assert client.reference(ref.id) == ref and client.get(ref) == 2
    for one in (plain, ref):
        client.delete(one)


def test_another_object_in_its_place(client: vc.Client) -> None:
    """A reference with the id of an object and the token of another resolves to neither."""
    first, second = (client.put(VALUE, native=True) for _ in range(2))
    assert first.token != second.token
    mixed = replace(first, id=second.id)
    assert client.exists(mixed) is False and client.delete(mixed) is False
    with pytest.raises(vc.ObjectNotFound):
        client.get(mixed)
    for ref in (first, second):
        assert client.delete(ref) is True


def test_after_a_restart() -> None:
    """What a new server has under an old id is another object."""
    with vc.EmbeddedServer(size="16Mi") as server:
        with vc.connect(server.socket) as client:
            ref = client.put(7, native=True)
        tree = {"typename": ref.type, "value_": 7, "type_": "int", "nbytes": 0, "instance_id": 0, "transient": True}
        server.stop()
        server.start()
        with vc.connect(server.socket) as client:
            number = client._connection().call(CreateData({**tree, "id": ref.id}))
            assert client.exists(replace(ref, id=format_id(number))) is False


def test_what_was_read_stays(client: vc.Client) -> None:
    """Other engines delete without asking who reads; what was read is a copy and does not change."""
    np = pytest.importorskip("numpy")
    array = np.arange(100_000)
    ref = client.put(array, native=True)
    value: Any = client.get(ref)
    client._connection().call(DeleteData([parse_id(ref.id)]))
    junk = [client.put(np.zeros(100_000), native=True) for _ in range(5)]
    assert (value == array).all()
    value[0] = 5
    for one in junk:
        client.delete(one)


def test_nothing_stays_pinned(client: vc.Client) -> None:
    """Reading and writing leave no mark on the blobs."""
    ref = client.put(VALUE, native=True)
    value = client.get(ref)
    connection = client._connection()
    assert value == VALUE and "0 pinned" in repr(connection)
    assert connection.call_all(*map(IsInUse, blobs(client, ref))) == [False]
    client.delete(ref)


class Meddling:
    """A connection on which something happens right after the first blob was read."""

    def __init__(self, connection: Any, then: Any) -> None:
        self._connection, self._then = connection, then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def read(self, payload: Any) -> Any:
        content = self._connection.read(payload)
        self._then()
        return content


def test_deleted_while_it_is_read(client: vc.Client) -> None:
    """An object that goes while its bytes are copied is gone: they may have been another's."""
    ref = client.put((BYTES, BYTES[1:]), native=True)
    connection = client._connection()
    found = NativeObject.find(connection, parse_id(ref.id), ref.token)
    assert found is not None
    meddling: Any = Meddling(connection, lambda: client.delete(ref))
    with pytest.raises(vc.ObjectNotFound, match=f"{ref.id} .* is not in"):
        replace(found, connection=meddling).read()
    assert "0 pinned" in repr(connection)


def test_a_blob_is_missing(client: vc.Client) -> None:
    """An object whose blob somebody freed is reported as broken, not shortened."""
    ref = client.put((BYTES, BYTES[1:]), native=True)
    connection = client._connection()
    found = NativeObject.find(connection, parse_id(ref.id), ref.token)
    assert found is not None
    lost = {
        **found.tree,
        "__elements_-2": {"typename": "vineyard::Blob", "id": format_id(BLOB_BIT | 1), "instance_id": 0},
    }
    with pytest.raises(vc.ObjectCorrupted, match="lacks 1 of its 3 blobs"):
        replace(found, tree=lost).read()
    client.delete(ref)


def test_a_part_on_another_instance(client: vc.Client) -> None:
    """A partitioned object is not read in part."""
    ref = client.put((BYTES,), native=True)
    found = NativeObject.find(client._connection(), parse_id(ref.id), ref.token)
    assert found is not None
    elsewhere = {**found.tree["__elements_-0"], "id": format_id(BLOB_BIT | 1), "instance_id": 7}
    with pytest.raises(vc.ObjectNotFound, match="parts in instance 7") as caught:
        replace(found, tree={**found.tree, "__elements_-1": elsewhere}).read()
    assert "migrate" in caught.value.hint
    client.delete(ref)


def test_an_unfinished_part(client: vc.Client) -> None:
    """An object with a blob that is not sealed is not complete."""
    connection = client._connection()
    blob = connection.call(CreateBuffer(100))
    head = {"nbytes": 0, "instance_id": 0, "transient": True}
    member = {**head, "typename": "vineyard::Blob", "id": format_id(blob.id), "length": 100}
    tree = {**head, "typename": "vineyard::Sequence", "__elements_-size": 1, "__elements_-0": member}
    number = connection.call(CreateData(tree))
    ref = client.reference(format_id(number))
    with pytest.raises(vc.ObjectNotFound, match="not complete"):
        client.get(ref)
    connection.call(Seal(blob.id))
    client.delete(ref)


def test_a_full_store(client: vc.Client) -> None:
    """When there is no room, nothing is left, and the client goes on working."""
    status = client.status()
    before = status.memory_used
    share = bytes(status.memory_limit // 4)
    with pytest.raises(vc.StoreFull) as caught:
        client.put(tuple([share] * 5), native=True)
    assert caught.value.requested == 5 * len(share) and caught.value.limit == status.memory_limit
    assert client.status().memory_used == before
    ref = client.put(VALUE, native=True)
    assert client.get(ref) == VALUE
    client.delete(ref)


def test_room_is_made(client: vc.Client) -> None:
    """What nobody needs any more is collected before a native object is refused."""
    half = bytes(client.status().memory_limit // 2)
    first = client.put(memoryview(bytearray(half)))
    value = client.get(first)
    client.delete(first)
    assert len(list(client.list(deleted=True))) == 1
    del value
    gc.collect()
    ref = client.put((half,), native=True)
    assert list(client.list(deleted=True)) == []
    client.delete(ref)


def test_a_value_without_a_native_form(client: vc.Client) -> None:
    """Nothing is stored of a value that vineyard's own types cannot hold."""
    before = client.status().memory_used
    with pytest.raises(vc.UnsafeType, match="no native form for a builtins"):
        client.put((BYTES, {"a": 1}), native=True)
    assert client.status().memory_used == before


def test_a_wide_frame(client: vc.Client) -> None:
    """A frame of a thousand columns, each an object of its own, goes in and comes out."""
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(np.arange(3000).reshape(3, 1000), columns=[f"c{i}" for i in range(1000)])
    ref = client.put(frame, native=True)
    assert ref.size == frame.to_numpy().nbytes
    pd.testing.assert_frame_equal(client.get(ref), frame)
    client.delete(ref)


def test_pickles(client: vc.Client) -> None:
    """A pickle in an object is loaded when the call, or the client, allows ``pickle.loads``."""
    import pickle

    content = pickle.dumps({"a": 1})
    carrier = client.put((content,), native=True)
    found = NativeObject.find(client._connection(), parse_id(carrier.id), carrier.token)
    assert found is not None
    buffer = {**found.tree["__elements_-0"], "nbytes": len(content), "length": len(content)}
    head = {"nbytes": len(content), "instance_id": 0, "transient": True, "size_": len(content)}
    tree = {**head, "typename": "vineyard::PickleBuffer", "buffer_": buffer}
    ref = client.reference(format_id(client._connection().call(CreateData(tree))))
    with pytest.raises(vc.UnsafeType, match="holds a pickle"):
        client.get(ref)
    assert client.get(ref, allowed_classes=["pickle.loads"]) == {"a": 1}
    with vc.connect(client.socket, allowed_classes=["pickle.loads"]) as trusting:
        assert trusting.get(ref) == {"a": 1}
        with pytest.raises(vc.UnsafeType):
            trusting.put(Meddling)
    for one in (ref, carrier):
        client.delete(one)


def test_ours_are_not_native(client: vc.Client) -> None:
    """Values of this package, and their tombstones, are never read as native objects."""
    ref = client.put(memoryview(bytearray(BYTES)))
    assert NativeObject.find(client._connection(), parse_id(ref.id), None) is None
    value = client.get(ref)
    client.delete(ref)
    (tombstone,) = client.list(deleted=True)
    number = parse_id(tombstone.ref.id)
    assert trees(client, number)[number]["typename"] == TOMBSTONE
    assert NativeObject.find(client._connection(), number, None) is None
    del value
    gc.collect()
    client.collect()
