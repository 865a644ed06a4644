"""The metadata fit what every Airflow asks of them."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest

from airflow_provider_vineyard.get_provider_info import CONFIG_SECTION, get_provider_info, option_default

OPTIONS = {
    "ipc_socket",
    "persist",
    "tier",
    "durability",
    "spill",
    "disk_reserve",
    "tier_timeout",
    "tier_sync",
    "tier_options",
    "tier_conn_id",
    "rpc_endpoint",
    "peers",
    "inline_threshold",
    "allowed_classes",
    "passive_classes",
    "autostart",
    "size",
    "reserve_memory",
    "preload",
    "preview",
    "preview_exclude",
    "deployment",
    "host",
    "ui",
    "other_interpreters",
    "placement",
    "placement_min_size",
    "placement_bandwidth",
    "placement_wait",
}


def test_entry_point_gives_the_metadata() -> None:
    """Airflow finds the provider by its entry point."""
    entries = {entry.group: entry for entry in metadata.distribution("airflow-provider-vineyard").entry_points}
    assert entries["apache_airflow_provider"].load()() == get_provider_info()


def test_commands_are_named_for_airflow() -> None:
    """The key ``cli`` is for Airflow 3.2 and later; the program is for all."""
    from airflow_provider_vineyard import cli

    assert get_provider_info()["cli"] == [f"{cli.__name__}.{cli.airflow_commands.__name__}"]
    entries = {entry.name: entry for entry in metadata.distribution("airflow-provider-vineyard").entry_points}
    assert entries["airflow-vineyard"].load() is cli.main


def test_package_name_is_the_distributions() -> None:
    """Another spelling makes Airflow 3.3 refuse to start."""
    assert get_provider_info()["package-name"] == metadata.metadata("airflow-provider-vineyard")["Name"]


def test_fits_the_installed_schema() -> None:
    """The schema of the Airflow that is installed accepts the metadata."""
    airflow = pytest.importorskip("airflow")
    import jsonschema

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_all_options_are_documented() -> None:
    """Each option has the five fields that the schema asks for, with something in them."""
    section = get_provider_info()["config"][CONFIG_SECTION]
    assert set(section) == {"description", "options"}
    assert set(section["options"]) == OPTIONS
    for name, option in section["options"].items():
        assert set(option) == {"description", "version_added", "type", "example", "default"}, name
        assert option["type"] in ("string", "boolean", "integer", "float"), name
        assert option["version_added"] == "1.0.0", name
        assert option["description"].endswith(".") and option["example"], name


def test_defaults_are_texts() -> None:
    """A boolean default is refused by every schema; a percent sign or a brace ends Airflow 3 when it starts."""
    options = get_provider_info()["config"][CONFIG_SECTION]["options"]
    assert not [name for name, option in options.items() if set(option["default"]) & set("%{}")]
    assert all(type(option["default"]) is str for option in options.values())
    assert option_default("persist") == "False"


def test_hook_is_named_for_old_and_new_airflow() -> None:
    """Airflow 2.1 reads hook-class-names, later ones connection-types."""
    info = get_provider_info()
    (connection,) = info["connection-types"]
    assert info["hook-class-names"] == [connection["hook-class-name"]]
    assert connection["connection-type"] == "vineyard"


def test_each_call_gives_a_dict_of_its_own() -> None:
    """Airflow changes what it was given."""
    get_provider_info()["config"][CONFIG_SECTION]["options"]["persist"]["default"] = "True"
    assert option_default("persist") == "False"
