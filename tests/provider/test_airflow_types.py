"""What Airflow itself can serialise arrives: paths in object storage, connections, parameters, assets."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from airflow_provider_vineyard import airflow_types, version_compat
from airflow_provider_vineyard.reference import Origin
from airflow_provider_vineyard.settings import get_settings
from airflow_provider_vineyard.xcom import store as subject
from vineyard_client import ObjectCorrupted, _codec, dumps, loads

pytestmark = pytest.mark.airflow

ORIGIN = Origin("etl", "r1", "extract", -1, "return_value")
AIRFLOW_3 = version_compat.is_airflow_3()
HAS_PATHS = version_compat.airflow_version() >= (2, 8)
with_paths = pytest.mark.skipif(not HAS_PATHS, reason="Airflow has paths in object storage from 2.8 on")
in_airflow_3 = pytest.mark.skipif(not AIRFLOW_3, reason="classes of Airflow 3's SDK")


def _io(name: str) -> Any:
    return import_module(f"airflow.{'sdk.' if AIRFLOW_3 else ''}io.{name}")


def _back(value: Any) -> Any:
    """Put a value into a row, as a task does, and read it."""
    row = subject.put(value, ORIGIN)
    assert row["vineyard"]["v"] == 2
    return subject.get(row)


@with_paths
@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("file:///x", {}),
        ("file:///data/a b/c.parquet", {"auto_mkdir": True}),
        ("memory://bucket/key", {}),
        ("memory://bucket/key", {"conn_id": "elsewhere"}),
        ("file://keeper@/x/y", {}),
        ("file:///x", {"skip_instance_cache": True, "nested": {"a": [1, "b", None]}}),
    ],
)
def test_paths(url: str, options: Any) -> None:
    """The same path arrives, with its connection's name and its options, and goes on to work."""
    path = _io("path").ObjectStoragePath(url, **options)
    read = _back({"path": path})["path"]
    assert type(read) is type(path)
    assert str(read) == str(path) and read.protocol == path.protocol
    assert read.serialize() == path.serialize()
    assert str(read / "z") == str(path / "z") and read.parent.serialize() == path.parent.serialize()
    if not options and "@" not in url:
        assert read == path and hash(read) == hash(path)


@with_paths
def test_a_path_that_is_used(tmp_path: Any) -> None:
    """What arrives opens the same file."""
    (tmp_path / "rows.csv").write_text("a,b\n")
    read = _back(_io("path").ObjectStoragePath(f"file://{tmp_path}") / "rows.csv")
    with read.open() as file:
        assert file.read() == "a,b\n"


@with_paths
def test_stores() -> None:
    """A store arrives by its names; nothing of it is left in the process for others to find."""
    module = _io("store")
    known = dict(module._STORE_CACHE)
    written = module.ObjectStore("file", None, storage_options={"a": 1})
    read = _back(written)
    assert (read.protocol, read.conn_id, read.storage_options) == ("file", None, {"a": 1})
    assert read == written
    assert known == module._STORE_CACHE


@with_paths
def test_forged_parts() -> None:
    """What a path is made of is checked: text, a name, plain options."""
    airflow_types.declare()
    path = _io("path").ObjectStoragePath("memory://bucket/key")
    data = dumps(path)
    assert b"airflow.path" in data
    assert str(loads(data)) == str(path)
    make = _codec.table.makers["airflow.path"]
    for parts in ((b"memory://a", None, {}), ("memory://a", 1, {}), ("memory://a", None, {1: 2})):
        with pytest.raises(TypeError):
            make(None, *parts)
    with pytest.raises(ObjectCorrupted):
        make(None, "memory://a", None, {"fs": path})


@in_airflow_3
def test_connections_params_and_assets() -> None:
    """Airflow's own classes of data need no permission."""
    import airflow.sdk as sdk

    window = import_module("airflow.sdk.definitions.partition_mappers.window") if hasattr(sdk, "DayWindow") else None
    values = [
        sdk.Connection(conn_id="a", conn_type="http", host="h", port=80, extra='{"a": 1}'),
        sdk.Param(3, type="integer", minimum=0),
        sdk.Asset(uri="s3://b/k", name="n", extra={"a": 1}),
        sdk.AssetAlias("n"),
        sdk.Asset(uri="s3://b/k") & sdk.Asset(uri="s3://b/j"),
        sdk.Asset(uri="s3://b/k") | sdk.AssetAlias("j"),
        sdk.Metadata(sdk.Asset(uri="s3://b/k"), {"a": 1}),
        import_module("airflow.sdk.definitions.asset").Model(uri="s3://b/k", name="m"),
        *([window.DayWindow(), window.SegmentWindow(["a"])] if window else []),
    ]
    for value in values:
        read = _back(value)
        assert type(read) is type(value)
        held = vars(read) if hasattr(read, "__dict__") else {n: getattr(read, n) for n in value.__slots__}
        expected = vars(value) if hasattr(value, "__dict__") else {n: getattr(value, n) for n in value.__slots__}
        assert repr(held) == repr(expected)


def test_params_of_airflow_2() -> None:
    """The parameters of a DAG arrive, with their schemas."""
    if AIRFLOW_3 or version_compat.airflow_version() < (2, 2):
        pytest.skip("airflow.models.param is of 2.2 - 2.11")
    param = import_module("airflow.models.param").Param(3, type="integer")
    read = _back(param)
    assert type(read) is type(param) and vars(read) == vars(param)
    assert "airflow.models.param.Param" in get_settings().allowed_classes
