"""What earlier releases put is read, listed and freed by this one; ``recorded`` has it, and says how it came there."""

from __future__ import annotations

import base64
import gc
import json
import runpy
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

import vineyard_client as vc
from vineyard_client._wire.messages import CreateBuffer, CreateData, Seal
from vineyard_client.ids import format_id

pytestmark = pytest.mark.integration

RECORDED = Path(__file__).parent / "recorded"
RELEASES = sorted(RECORDED.glob("*.json"))
VALUES: Dict[str, Callable[[], Any]] = runpy.run_path(str(RECORDED / "record.py"))["VALUES"]

# What the server adds to metadata.
OF_THE_SERVER = {"__timestamp", "id", "signature"}


@pytest.fixture
def store() -> Iterator[vc.Client]:
    """A client of a store of its own."""
    with vc.EmbeddedServer("16Mi") as server, vc.connect(server.socket) as client:
        yield client


def put(client: vc.Client, record: Dict[str, Any]) -> vc.ObjectRef:
    """Put into a store what was recorded, as it was there, and return the reference, as it was written."""
    connection = client._connection()
    instance = connection.instance.instance_id
    tree = {key: value for key, value in record["tree"].items() if key not in OF_THE_SERVER}
    tree["instance_id"] = instance
    for name, data in (("guard", b"\0"), ("blob", base64.b64decode(record.get("bytes", "")))):
        if name in tree:
            made = connection.call(CreateBuffer(len(data)))
            connection.write(made.payload, [data])
            connection.call(Seal(made.id))
            size = {"length": len(data), "nbytes": len(data)}
            tree[name] = {**tree[name], **size, "id": format_id(made.id), "instance_id": instance}
    number = connection.call(CreateData(tree))
    return vc.ObjectRef.from_json({**record["reference"], "id": format_id(number)})


def plain(value: Any) -> Any:
    """Return a value in a form in which arrays and frames can be compared, types and all."""
    if hasattr(value, "to_numpy") or type(value).__module__.partition(".")[0] == "numpy":
        return value.__reduce_ex__(4)[0], repr(value), repr(getattr(value, "dtypes", getattr(value, "dtype", None)))
    return value


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.stem)
def test_values_of_an_earlier_release(store: vc.Client, release: Path) -> None:
    """Each is what it was, and goes with its memory when it is deleted."""
    pytest.importorskip("numpy")
    pytest.importorskip("pandas", "3", "earlier ones have other types for the texts and times of a frame, and say so")
    records = json.loads(release.read_text(encoding="utf-8"))["values"]
    assert records.keys() == VALUES.keys()
    for name, record in records.items():
        ref = put(store, record)
        value = store.get(ref)
        assert type(value) is type(VALUES[name]()) and plain(value) == plain(VALUES[name]()), name
        assert ref.to_json() == {**record["reference"], "id": ref.id}
        (info,) = store.list(labels={"dag_id": "etl"})
        assert info.ref == ref and info.summary == record["tree"]["summary"]
        assert store.collect() == []
        del value
        gc.collect()
        assert store.delete(ref) and store.status().memory_used == 0, name
